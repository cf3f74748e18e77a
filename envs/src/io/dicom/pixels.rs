//! Frames to HU.

use super::image::{Frame, Image, Layout};
use crate::{Error, Result};

/// HU of voxels that were not measured: outside of the scanner's field of view (pixel padding) and beside tilted slices.
pub const AIR_HU: f32 = -1024.0;

/// The stored numbers of a frame, decompressed, in the file's bit layout, little-endian.
pub fn stored(image: &Image, frame: &Frame) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for piece in &frame.bytes {
        image.store.read(&image.path, piece, &mut bytes)?;
    }
    image.syntax.decode(bytes, &image.layout).map_err(|found| {
        let action = "the file is damaged: copy or export it again";
        Error::file(&image.path, found, "the pixels that the header announces", action)
    })
}

/// HU of a frame, row by row. Padding becomes air before anything else is done with it.
pub fn hu(image: &Image, frame: &Frame) -> Result<Vec<f32>> {
    Ok(rescaled(&stored(image, frame)?, &image.layout, frame.slope, frame.intercept))
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

fn rescaled(raw: &[u8], layout: &Layout, slope: f64, intercept: f64) -> Vec<f32> {
    let bits = Bits::of(layout.bits_stored, layout.high_bit, layout.signed);
    let whole = Bits::of(layout.bits_allocated, layout.bits_allocated - 1, layout.signed);
    // f64 holds every product of a stored number exactly enough that whole HU come out whole; i16 would wrap.
    let to_hu = |value: i32| (value as f64 * slope + intercept) as f32;
    let to_hu_unsigned = |value: u32| (value as f64 * slope + intercept) as f32;
    match (layout.bits_allocated, layout.padding) {
        (8, None) => each(raw, |[a]: [u8; 1]| to_hu(bits.value(a as u32))),
        (16, None) => each(raw, |b| to_hu(bits.value(u16::from_le_bytes(b) as u32))),
        (32, None) if bits.signed => each(raw, |b| to_hu(bits.value(u32::from_le_bytes(b)))),
        (32, None) => each(raw, |b| to_hu_unsigned(bits.value(u32::from_le_bytes(b)) as u32)),
        (allocated, Some([from, to])) => {
            // Some writers pad the whole word, some only the bits that are stored.
            let padded = |word: u32| {
                let (a, b) = (bits.value(word), whole.value(word));
                (from..=to).contains(&a) || (from..=to).contains(&b)
            };
            let kept = |word: u32| if bits.signed { to_hu(bits.value(word)) } else { to_hu_unsigned(bits.value(word) as u32) };
            let masked = |word: u32| if padded(word) { AIR_HU } else { kept(word) };
            match allocated {
                8 => each(raw, |[a]: [u8; 1]| masked(a as u32)),
                16 => each(raw, |b| masked(u16::from_le_bytes(b) as u32)),
                _ => each(raw, |b| masked(u32::from_le_bytes(b))),
            }
        }
        _ => Vec::new(),
    }
}

fn each<const N: usize>(raw: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    raw.as_chunks::<N>().0.iter().map(|&word| convert(word)).collect()
}
