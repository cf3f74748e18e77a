//! Between Burn's layout, channels first, and the layout of the convolution's inner loops, channels last with zeros around.

use super::simd::{Isa, Kernel, LANES, Lanes, dispatch};
use std::mem::MaybeUninit;

/// Writes one plane of an image channels last: value `p` of channel `c` goes to `to[place[p] + c]`.
///
/// `from[c * channel_stride + p]` for `p < place.len()`, and `place` ascends; the rest of `to` becomes 0.
pub fn pack_plane(isa: Isa, from: &[f32], channels: usize, channel_stride: usize, place: &[usize], to: &mut [f32]) {
    assert!(from.len() >= (channels - 1) * channel_stride + place.len(), "pack_plane reads past its source");
    assert!(place.iter().all(|p| p + channels <= to.len()), "pack_plane writes past its target");
    // Zeros between the values; `place` ascends.
    let mut end = 0;
    for &place in place {
        if end < place {
            to[end..place].fill(0.0);
        }
        end = place + channels;
    }
    to[end..].fill(0.0);
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
        // A cache line at a time: the lines of all channels may share one set of the cache, and then don't stay.
        for line in (0..whole_places).step_by(2 * LANES) {
            for c in (0..whole_channels).step_by(LANES) {
                for p in (line..whole_places.min(line + 2 * LANES)).step_by(LANES) {
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

/// What a convolution does to a sum before it is stored: `act(sum * scale[channel] + shift[channel] + residual)`.
#[derive(Clone, Copy, Default)]
pub struct Epilogue<'a> {
    pub scale: Option<&'a [f32]>,
    pub shift: Option<&'a [f32]>,
    /// As long as the whole output.
    pub residual: Option<&'a [f32]>,
    /// Of leaky ReLU.
    pub negative_slope: Option<f32>,
}

impl<'a> Epilogue<'a> {
    /// Of output channels `first..` at values `at..` of the output.
    pub fn part(self, first: usize, at: usize) -> Self {
        let from = |values: Option<&'a [f32]>, at: usize| values.map(|values| &values[at..]);
        Epilogue { scale: from(self.scale, first), shift: from(self.shift, first), residual: from(self.residual, at), ..self }
    }

    fn is_identity(&self) -> bool {
        self.scale.is_none() && self.shift.is_none() && self.residual.is_none() && self.negative_slope.is_none()
    }

    /// On a row of sums of channel 0, to where `to` points.
    ///
    /// # Safety
    /// `to` is valid for as many writes, and nobody else accesses these.
    pub unsafe fn finish_row(&self, isa: Isa, sums: &[f32], to: *mut f32) {
        assert!(self.residual.is_none_or(|residual| residual.len() >= sums.len()), "finish_row reads past its residual");
        // SAFETY: handed on to the caller; `isa` was detected.
        unsafe { dispatch(isa, FinishRow { epilogue: self, sums, to }) }
    }

    /// On one value, `at` values after the start of the residual.
    fn apply(&self, sum: f32, channel: usize, at: usize) -> f32 {
        let scaled = self.scale.map_or(sum, |scale| sum * scale[channel]);
        let value = scaled + self.shift.map_or(0.0, |shift| shift[channel]) + self.residual.map_or(0.0, |residual| residual[at]);
        self.negative_slope.map_or(value, |slope| if value > 0.0 { value } else { slope * value })
    }
}

struct FinishRow<'a> {
    epilogue: &'a Epilogue<'a>,
    sums: &'a [f32],
    to: *mut f32,
}

impl Kernel for FinishRow<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let FinishRow { epilogue: &Epilogue { scale, shift, residual, negative_slope }, sums, to } = self;
        let (scale, shift) = (scale.map_or(1.0, |scale| scale[0]), shift.map_or(0.0, |shift| shift[0]));
        let act = |v: f32| if v > 0.0 { v } else { negative_slope.unwrap_or(1.0) * v };
        // SAFETY: the caller's target is as long as the row.
        let to = unsafe { std::slice::from_raw_parts_mut(to.cast::<MaybeUninit<f32>>(), sums.len()) };
        match residual {
            Some(residual) => {
                for ((to, sum), residual) in to.iter_mut().zip(sums).zip(residual) {
                    to.write(act(L::fused(*sum, scale, shift) + residual));
                }
            }
            None => {
                for (to, sum) in to.iter_mut().zip(sums) {
                    to.write(act(L::fused(*sum, scale, shift)));
                }
            }
        }
    }
}

/// Writes `count` rows of channels-last values to channel `c` at `to + c * channel_stride`, each channel contiguous. `epilogue` starts where
/// `to` does.
///
/// # Safety
/// `to` is valid for writes at `c * channel_stride + p` for all `c < channels`, `p < count`, and nobody else accesses these.
#[expect(clippy::too_many_arguments, reason = "source and target")]
pub unsafe fn unpack(
    isa: Isa,
    from: &[f32],
    row: usize,
    count: usize,
    channels: usize,
    to: *mut f32,
    channel_stride: usize,
    epilogue: Epilogue,
) {
    assert!(row >= channels.next_multiple_of(LANES) && from.len() >= count * row, "unpack reads past its source");
    let per_channel = |values: Option<&[f32]>| values.is_none_or(|values| values.len() >= channels);
    assert!(per_channel(epilogue.scale) && per_channel(epilogue.shift), "unpack reads past its scale or shift");
    let residual_end = (channels - 1) * channel_stride + count;
    assert!(epilogue.residual.is_none_or(|residual| residual.len() >= residual_end), "unpack reads past its residual");
    // SAFETY: the source is checked above, the target by the caller; the instruction set was detected.
    unsafe { dispatch(isa, Unpack { from, row, count, channels, to, channel_stride, epilogue }) }
}

struct Unpack<'a> {
    from: &'a [f32],
    row: usize,
    count: usize,
    channels: usize,
    to: *mut f32,
    channel_stride: usize,
    epilogue: Epilogue<'a>,
}

impl Unpack<'_> {
    /// The epilogue on the values of a channel at 8 positions.
    ///
    /// # Safety
    /// The channel exists, and `at` lies 8 values before the end of the residual or earlier.
    #[inline(always)]
    unsafe fn finish<L: Lanes>(&self, mut v: L::V, channel: usize, at: usize) -> L::V {
        let Epilogue { scale, shift, residual, negative_slope } = &self.epilogue;
        // SAFETY: `unpack` checked the lengths for all channels and positions.
        unsafe {
            if let Some(scale) = scale {
                v = L::mul_add(v, L::splat(scale.as_ptr().add(channel)), L::zero());
            }
            if let Some(shift) = shift {
                v = L::add(v, L::splat(shift.as_ptr().add(channel)));
            }
            if let Some(residual) = residual {
                v = L::add(v, L::load(residual.as_ptr().add(at)));
            }
            if let Some(slope) = negative_slope {
                v = L::mul_add(L::min(L::zero(), v), L::splat(slope), L::max(L::zero(), v));
            }
        }
        v
    }
}

impl Kernel for Unpack<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Unpack { from, row, count, channels, to, channel_stride, epilogue } = self;
        let plain = epilogue.is_identity();
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
                            let at = (c + i) * channel_stride + p;
                            let column = if plain { column } else { self.finish::<L>(column, c + i, at) };
                            L::store(to.add(at), column);
                        }
                    }
                }
            }
        }
        for p in whole..count {
            for (c, value) in from[p * row..][..channels].iter().enumerate() {
                // SAFETY: the caller's target holds every channel and position.
                let at = c * channel_stride + p;
                unsafe { to.add(at).write(epilogue.apply(*value, c, at)) };
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
