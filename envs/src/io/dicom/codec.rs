//! Compressed pixels to plain ones.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::content::ALLOWANCE;
use super::image::Layout;
use crate::{Error, Result};

/// How pixels are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    Native,
    Rle,
    Jpeg,
    Jpeg2000,
}

/// Bytes that the decoders take for a pixel, all their buffers together.
const BYTES_A_PIXEL: u64 = 16;

impl Syntax {
    pub fn of(path: &Path, uid: &str) -> Result<Self> {
        let Some(last) = uid.strip_prefix("1.2.840.10008.1.2") else {
            return if uid.is_empty() { Ok(Syntax::Native) } else { Err(unknown(path, "an unknown transfer syntax", uid)) };
        };
        Ok(match last {
            "" | ".1" | ".2" | ".1.99" => Syntax::Native,
            ".5" => Syntax::Rle,
            ".4.50" | ".4.51" | ".4.57" | ".4.70" => Syntax::Jpeg,
            ".4.90" | ".4.91" => Syntax::Jpeg2000,
            ".4.80" | ".4.81" => return Err(unknown(path, "JPEG-LS pixels", uid)),
            ".4.201" | ".4.202" | ".4.203" => return Err(unknown(path, "high-throughput JPEG 2000 pixels", uid)),
            _ => return Err(unknown(path, "compressed pixels", uid)),
        })
    }

    /// Whether the numbers may differ from those that were measured.
    pub fn is_lossy(uid: &str) -> bool {
        matches!(uid.strip_prefix("1.2.840.10008.1.2.4."), Some("50" | "51" | "91"))
    }

    /// Refuses a frame that a file of `len` bytes can't hold, before a decoder makes its buffers.
    pub fn check_memory(self, path: &Path, pixels: usize, len: u64) -> Result<()> {
        if pixels as u64 * BYTES_A_PIXEL <= len.saturating_mul(4).saturating_add(ALLOWANCE) {
            return Ok(());
        }
        let found = format!("{pixels} compressed pixels a frame in a file of {len} bytes");
        Err(Error::file(path, found, "slices of at most 2048x2048", "the header is damaged: export the series again"))
    }

    /// The numbers of one frame, as bytes in the file's bit layout, little-endian.
    pub fn decode(self, bytes: Vec<u8>, layout: &Layout) -> Result<Vec<u8>, String> {
        let decoded = match self {
            Syntax::Native => {
                let mut bytes = bytes;
                if layout.big_endian && layout.bits_allocated > 8 {
                    bytes.chunks_exact_mut(layout.bits_allocated as usize / 8).for_each(<[u8]>::reverse);
                }
                return Ok(bytes);
            }
            Syntax::Rle => rle(&bytes, layout),
            // Both decoders index into tables with numbers from the stream, and neither promises never to panic; a damaged slice must not end a run.
            Syntax::Jpeg => catch_unwind(AssertUnwindSafe(|| jpeg(&bytes, layout))).unwrap_or_else(|_| Err("a damaged JPEG".into())),
            Syntax::Jpeg2000 => {
                catch_unwind(AssertUnwindSafe(|| jpeg_2000(&bytes, layout))).unwrap_or_else(|_| Err("a damaged JPEG 2000 stream".into()))
            }
        }?;
        if decoded.len() as u64 != layout.frame_bytes() {
            return Err(format!("{} bytes decompressed where {} should be", decoded.len(), layout.frame_bytes()));
        }
        Ok(decoded)
    }
}

fn unknown(path: &Path, what: &str, uid: &str) -> Error {
    let expected = "uncompressed, RLE, JPEG lossless or JPEG 2000";
    Error::file(path, format!("{what} ({uid})"), expected, "decompress the series first (gdcmconv --raw)")
}

/// PS3.5, annex G: one run of PackBits a byte of the pixel, the most significant first.
fn rle(bytes: &[u8], layout: &Layout) -> Result<Vec<u8>, String> {
    let word = |i: usize| bytes.get(i * 4..).and_then(|b| b.first_chunk()).map(|&b| u32::from_le_bytes(b) as usize);
    let size = layout.bits_allocated as usize / 8;
    if size == 0 || word(0) != Some(size) {
        return Err(format!("RLE of {:?} parts where {size} should be", word(0)));
    }
    let pixels = layout.pixels();
    let mut out = vec![0; pixels * size];
    for part in 0..size {
        let (from, to) = (word(part + 1), if part + 1 < size { word(part + 2) } else { Some(bytes.len()) });
        let packed = from.zip(to).and_then(|(from, to)| bytes.get(from..to)).ok_or("RLE parts outside the frame")?;
        let (mut at, mut pixel) = (0, 0);
        while pixel < pixels {
            let control = *packed.get(at).ok_or_else(|| format!("RLE that stops after {pixel} of {pixels} pixels"))? as i8;
            at += 1;
            if control == i8::MIN {
                continue;
            }
            let count = control.unsigned_abs() as usize + 1;
            let run = if control < 0 { packed.get(at..at + 1) } else { packed.get(at..at + count) };
            let run = run.ok_or_else(|| format!("RLE that stops after {pixel} of {pixels} pixels"))?;
            at += run.len();
            for i in 0..count.min(pixels - pixel) {
                out[(pixel + i) * size + size - 1 - part] = run[if run.len() == 1 { 0 } else { i }];
            }
            pixel += count;
        }
    }
    Ok(out)
}

fn jpeg(bytes: &[u8], layout: &Layout) -> Result<Vec<u8>, String> {
    use jpeg_decoder::PixelFormat;
    let mut decoder = jpeg_decoder::Decoder::new(bytes);
    decoder.read_info().map_err(|e| format!("a JPEG that can't be read ({e})"))?;
    let info = decoder.info().ok_or("a JPEG without a header")?;
    if (info.width as usize, info.height as usize) != (layout.columns, layout.rows) {
        return Err(differs("JPEG", [info.width as usize, info.height as usize], layout));
    }
    let size = match info.pixel_format {
        PixelFormat::L8 => 1,
        PixelFormat::L16 => 2,
        _ => return Err("a JPEG in colour".into()),
    };
    let decoded = decoder.decode().map_err(|e| format!("a JPEG that can't be decompressed ({e})"))?;
    let numbers = decoded.chunks_exact(size).map(|b| if size == 1 { b[0] as i32 } else { u16::from_ne_bytes([b[0], b[1]]) as i32 });
    Ok(words(numbers, layout))
}

fn jpeg_2000(bytes: &[u8], layout: &Layout) -> Result<Vec<u8>, String> {
    // The SIZ segment comes first: size and origin of the image, and how the first component is stored (ISO 15444-1, A.5.1).
    let word = |at: usize| bytes.get(at..).and_then(|b| b.first_chunk()).map(|&b| u32::from_be_bytes(b)).unwrap_or_default();
    let size = [word(8).saturating_sub(word(16)) as usize, word(12).saturating_sub(word(20)) as usize];
    let (components, signed) = (bytes.get(40..42), bytes.get(42).is_some_and(|b| b & 0x80 != 0));
    if !bytes.starts_with(&[0xFF, 0x4F, 0xFF, 0x51]) || components != Some(&[0, 1]) {
        return Err("no JPEG 2000 stream of one component".into());
    }
    if size != [layout.columns, layout.rows] {
        return Err(differs("JPEG 2000 stream", size, layout));
    }
    // A tile a pixel would need a table larger than the image; scanners write one tile.
    let tiles = [(0, 24), (1, 28)].map(|(a, at)| (size[a] as u64).div_ceil((word(at) as u64).max(1)));
    if tiles[0] * tiles[1] > 4096 {
        return Err(format!("a JPEG 2000 stream of {} x {} tiles", tiles[0], tiles[1]));
    }
    let settings = hayro_jpeg2000::DecodeSettings { strict: true, ..Default::default() };
    let cant = |e| format!("a JPEG 2000 stream that can't be decompressed ({e})");
    let image = hayro_jpeg2000::Image::new(bytes, &settings).map_err(cant)?;
    let mut context = hayro_jpeg2000::DecoderContext::default();
    let decoded = image.decode(&mut context).map_err(cant)?;
    let [component] = decoded.components() else { return Err("a JPEG 2000 stream of several components".into()) };
    // The decoder shifts signed numbers as if they were unsigned.
    let shift = if signed { 1i32.checked_shl(component.bit_depth() as u32 - 1).unwrap_or(0) } else { 0 };
    Ok(words(component.samples().iter().map(|&v| (v.round_ties_even() as i32).wrapping_sub(shift)), layout))
}

fn differs(what: &str, size: [usize; 2], layout: &Layout) -> String {
    format!("a {what} of {}x{} pixels in an image of {}x{}", size[0], size[1], layout.columns, layout.rows)
}

/// Whole numbers as uncompressed pixels would hold them: their lowest bits, up to the high bit.
fn words(numbers: impl Iterator<Item = i32>, layout: &Layout) -> Vec<u8> {
    let shift = (layout.high_bit + 1).saturating_sub(layout.bits_stored) as u32;
    let size = layout.bits_allocated as usize / 8;
    let mut out = Vec::with_capacity(layout.pixels() * size);
    for number in numbers {
        out.extend_from_slice(&(number as u32).wrapping_shl(shift).to_le_bytes()[..size]);
    }
    out
}
