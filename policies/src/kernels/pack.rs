//! Between Burn's layout, channels first, and the layout of the convolution's inner loops, channels last with zeros around.

use super::simd::{Isa, Kernel, LANES, Lanes, dispatch};
use std::mem::MaybeUninit;

/// Writes one plane of an image channels last: value `p` of channel `c` goes to `to[place[p] + c]`.
///
/// `from[c * channel_stride + p]` for `p < place.len()`; the rest of `to` becomes 0.
pub fn pack_plane(isa: Isa, from: &[f32], channels: usize, channel_stride: usize, place: &[usize], to: &mut [f32]) {
    assert!(from.len() >= (channels - 1) * channel_stride + place.len(), "pack_plane reads past its source");
    assert!(place.iter().all(|p| p + channels <= to.len()), "pack_plane writes past its target");
    if to.len() > place.len() * channels {
        to.fill(0.0);
    }
    // SAFETY: checked above; the instruction set was detected.
    unsafe { dispatch(isa, Pack { from, channels, channel_stride, place, to }) }
}

struct Pack<'a> {
    from: &'a [f32],
    channels: usize,
    channel_stride: usize,
    place: &'a [usize],
    to: &'a mut [f32],
}

impl Kernel for Pack<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Pack { from, channels, channel_stride, place, to } = self;
        let (whole_channels, whole_places) = (channels / LANES * LANES, place.len() / LANES * LANES);
        for p in (0..whole_places).step_by(LANES) {
            for c in (0..whole_channels).step_by(LANES) {
                // SAFETY: `pack_plane` checked that all channels and places lie inside both slices.
                unsafe {
                    let rows = std::array::from_fn(|i| L::load(from.as_ptr().add((c + i) * channel_stride + p)));
                    let columns = L::transpose(rows);
                    for (i, column) in columns.into_iter().enumerate() {
                        L::store(to.as_mut_ptr().add(place[p + i] + c), column);
                    }
                }
            }
        }
        for c in 0..channels {
            let first = if c < whole_channels { whole_places } else { 0 };
            let row = &from[c * channel_stride..][..place.len()];
            for (value, at) in row[first..].iter().zip(&place[first..]) {
                to[at + c] = *value;
            }
        }
    }
}

/// Writes `count` rows of channels-last values to channel `c` at `to + c * channel_stride`, each channel contiguous.
///
/// # Safety
/// `to` is valid for writes at `c * channel_stride + p` for all `c < channels`, `p < count`, and nobody else accesses these.
pub unsafe fn unpack(isa: Isa, from: &[f32], row: usize, count: usize, channels: usize, to: *mut f32, channel_stride: usize) {
    assert!(row >= channels.next_multiple_of(LANES) && from.len() >= count * row, "unpack reads past its source");
    // SAFETY: the source is checked above, the target by the caller; the instruction set was detected.
    unsafe { dispatch(isa, Unpack { from, row, count, channels, to, channel_stride }) }
}

struct Unpack<'a> {
    from: &'a [f32],
    row: usize,
    count: usize,
    channels: usize,
    to: *mut f32,
    channel_stride: usize,
}

impl Kernel for Unpack<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Unpack { from, row, count, channels, to, channel_stride } = self;
        let whole = count / LANES * LANES;
        for c in (0..channels).step_by(LANES) {
            let width = LANES.min(channels - c);
            for p in (0..whole).step_by(LANES) {
                // SAFETY: rows are padded to whole vectors; only existing channels are written.
                unsafe {
                    let rows = std::array::from_fn(|i| L::load(from.as_ptr().add((p + i) * row + c)));
                    let columns = L::transpose(rows);
                    for (i, column) in columns.into_iter().enumerate() {
                        if i < width {
                            L::store(to.add((c + i) * channel_stride + p), column);
                        }
                    }
                }
            }
        }
        for p in whole..count {
            for (c, value) in from[p * row..][..channels].iter().enumerate() {
                // SAFETY: the caller's target holds every channel and position.
                unsafe { to.add(c * channel_stride + p).write(*value) };
            }
        }
    }
}

/// Writes the transposed of rows of `columns` values that start at `from[sources[..]]`: `to[column * rows + row]`.
pub fn transpose(isa: Isa, from: &[f32], sources: &[usize], columns: usize, to: &mut [MaybeUninit<f32>]) {
    assert!(sources.iter().all(|source| source + columns <= from.len()), "transpose reads past its source");
    assert!(to.len() >= sources.len() * columns, "transpose writes past its target");
    if sources.len() >= LANES && columns >= LANES {
        // SAFETY: checked above; the instruction set was detected.
        unsafe { dispatch(isa, Transpose { from, sources, columns, to }) }
    } else {
        for (row, source) in sources.iter().enumerate() {
            for column in 0..columns {
                to[column * sources.len() + row].write(from[source + column]);
            }
        }
    }
}

struct Transpose<'a> {
    from: &'a [f32],
    sources: &'a [usize],
    columns: usize,
    to: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Transpose<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Transpose { from, sources, columns, to } = self;
        let rows = sources.len();
        // The last eight overlap those before.
        for column in (0..columns).step_by(LANES).map(|column| column.min(columns - LANES)) {
            for row in (0..rows).step_by(LANES).map(|row| row.min(rows - LANES)) {
                // SAFETY: `transpose` checked every row and the target.
                unsafe {
                    let block = L::transpose(std::array::from_fn(|i| L::load(from.as_ptr().add(sources[row + i] + column))));
                    for (i, values) in block.into_iter().enumerate() {
                        L::store(to.as_mut_ptr().cast::<f32>().add((column + i) * rows + row), values);
                    }
                }
            }
        }
    }
}
