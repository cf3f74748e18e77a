//! Frames to HU.

use super::image::{Frame, Image, Layout};
use crate::{Error, Result};

/// HU of voxels that were not measured: outside of the scanner's field of view (pixel padding) and beside tilted slices.
pub const AIR_HU: f32 = -1024.0;

/// The stored numbers of a frame, decompressed, in the file's bit layout, little-endian. What `bytes` held is gone; its memory is used again.
pub fn stored(image: &Image, frame: &Frame, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
    bytes.clear();
    for piece in &frame.bytes {
        image.store.read(&image.path, piece, &mut bytes)?;
    }
    image.syntax.decode(bytes, &image.layout).map_err(|found| {
        let action = "the file is damaged: copy or export it again";
        Error::file(&image.path, found, "the pixels that the header announces", action)
    })
}

/// HU of a frame to `out`, row by row. Padding becomes air before anything else is done with it. `scratch` is memory for the stored numbers.
pub fn hu(image: &Image, frame: &Frame, scratch: &mut Vec<u8>, out: &mut Vec<f32>) -> Result<()> {
    *scratch = stored(image, frame, std::mem::take(scratch))?;
    out.clear();
    rescaled(scratch, &image.layout, frame.slope, frame.intercept, out);
    Ok(())
}

/// What a stored word says, without the bits that are not its own (overlays, or nothing).
#[derive(Clone, Copy)]
struct Bits {
    left: u32,
    right: u32,
    signed: bool,
}

impl Bits {
    fn of(stored: u16, high: u16, signed: bool) -> Self {
        Bits { left: 31 - high as u32, right: 32 - stored as u32, signed }
    }

    /// The number; an unsigned one of 32 bits as the bits of an `i32`.
    #[inline(always)]
    fn value(self, word: u32) -> i32 {
        let top = word << self.left;
        if self.signed { top as i32 >> self.right } else { (top >> self.right) as i32 }
    }
}

fn rescaled(raw: &[u8], layout: &Layout, slope: f64, intercept: f64, out: &mut Vec<f32>) {
    let bits = Bits::of(layout.bits_stored, layout.high_bit, layout.signed);
    let whole = Bits::of(layout.bits_allocated, layout.bits_allocated - 1, layout.signed);
    // Without padding, a range that holds nothing.
    let [from, to] = layout.padding.unwrap_or([i32::MAX, i32::MIN]);
    // Closures own what they use and don't branch, so that compilers make vectors of them.
    let masked = move |word: u32, hu: f32| {
        // Some writers pad the whole word, some only the bits that are stored.
        let (a, b) = (bits.value(word), whole.value(word));
        if ((from <= a) & (a <= to)) | ((from <= b) & (b <= to)) { AIR_HU } else { hu }
    };
    // f64 holds every product of a stored number exactly enough that whole HU come out whole; i16 would wrap.
    let scaled = move |value: f64| (value * slope + intercept) as f32;
    // The usual whole slope and intercept give the same HU in i32, where 16 bits times 2^13 can't overflow.
    let is_whole = |v: f64, limit: f64| v.fract() == 0.0 && v.abs() <= limit;
    let (by, plus) = (slope as i32, intercept as i32);
    match layout.bits_allocated {
        8 => each(raw, move |[a]: [u8; 1]| masked(a as u32, scaled(bits.value(a as u32) as f64)), out),
        16 if is_whole(slope, 8192.0) && is_whole(intercept, 1e9) => {
            let word = |b| u16::from_le_bytes(b) as u32;
            each(raw, move |b| masked(word(b), (bits.value(word(b)) * by + plus) as f32), out)
        }
        16 => each(raw, move |b| masked(u16::from_le_bytes(b) as u32, scaled(bits.value(u16::from_le_bytes(b) as u32) as f64)), out),
        _ if bits.signed => each(raw, move |b| masked(u32::from_le_bytes(b), scaled(bits.value(u32::from_le_bytes(b)) as f64)), out),
        _ => each(raw, move |b| masked(u32::from_le_bytes(b), scaled(bits.value(u32::from_le_bytes(b)) as u32 as f64)), out),
    }
}

fn each<const N: usize>(raw: &[u8], convert: impl Fn([u8; N]) -> f32, out: &mut Vec<f32>) {
    out.extend(raw.as_chunks::<N>().0.iter().map(|&word| convert(word)));
}
