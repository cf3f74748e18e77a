//! Weights of a block of output channels in the order in which the gathered product reads them.

use super::simd::{Isa, Kernel, LANES, Lanes, dispatch};
use std::ops::Range;

/// Strides of a weight array: from one output channel of the product to the next, and from one input channel to the next.
/// The kernel taps are contiguous.
#[derive(Clone, Copy)]
pub struct WeightStrides {
    pub out: usize,
    pub input: usize,
}

/// A block of output channels, of input channels, and of taps.
pub struct WeightBlock<'a> {
    pub weight: &'a [f32],
    pub strides: WeightStrides,
    pub outputs: Range<usize>,
    /// Packed output channels, a multiple of 8; what they hold beyond `outputs` has no meaning.
    pub width: usize,
    pub inputs: Range<usize>,
    /// Packed input channels, 0 beyond `inputs`.
    pub depth: usize,
    /// Kernel index of each packed tap: all of the kernel, in some order.
    pub taps: &'a [usize],
}

impl WeightBlock<'_> {
    /// Writes `[tap][input channel][output channel]`.
    pub fn pack(&self, isa: Isa, to: &mut [f32]) {
        let last = |range: &Range<usize>| range.end - 1;
        let end = last(&self.outputs) * self.strides.out + last(&self.inputs) * self.strides.input + self.taps.len();
        assert!(self.inputs.len() <= self.depth && self.outputs.len() <= self.width && self.width.is_multiple_of(LANES), "a block's size");
        assert!(end <= self.weight.len(), "WeightBlock reads past the weight");
        assert!(to.len() >= self.taps.len() * self.depth * self.width, "WeightBlock writes past its target");
        if self.taps.len() >= LANES {
            let mut place = vec![0; self.taps.len()];
            for (packed, &tap) in self.taps.iter().enumerate() {
                place[tap] = packed;
            }
            // SAFETY: checked above; the instruction set was detected.
            unsafe { dispatch(isa, Transposed { block: self, place: &place, to }) }
        } else {
            self.pack_each(to);
        }
        for row in to.chunks_exact_mut(self.depth * self.width).take(self.taps.len()) {
            row[self.inputs.len() * self.width..].fill(0.0);
        }
    }

    /// The `o`-th row of output channels; the last is repeated.
    fn output(&self, o: usize) -> usize {
        (self.outputs.start + o).min(self.outputs.end - 1) * self.strides.out
    }

    fn pack_each(&self, to: &mut [f32]) {
        for c in 0..self.inputs.len() {
            let input = (self.inputs.start + c) * self.strides.input;
            for (packed, tap) in self.taps.iter().enumerate() {
                let row = &mut to[(packed * self.depth + c) * self.width..][..self.width];
                if self.strides.out == 1 {
                    let outputs = &self.weight[input + tap..][self.outputs.clone()];
                    row[..outputs.len()].copy_from_slice(outputs);
                    row[outputs.len()..].fill(0.0);
                    continue;
                }
                for (o, value) in row.iter_mut().enumerate() {
                    *value = self.weight[self.output(o) + input + tap];
                }
            }
        }
    }
}

/// A kernel of at least 8 taps, eight output channels by eight taps at a time.
struct Transposed<'a> {
    block: &'a WeightBlock<'a>,
    /// Where each kernel index goes.
    place: &'a [usize],
    to: &'a mut [f32],
}

impl Kernel for Transposed<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Transposed { block, place, to } = self;
        for c in 0..block.inputs.len() {
            let input = (block.inputs.start + c) * block.strides.input;
            for o in (0..block.width).step_by(LANES) {
                let rows: [usize; LANES] = std::array::from_fn(|i| block.output(o + i) + input);
                for tap in (0..place.len()).step_by(LANES) {
                    // The last eight overlap those before.
                    let tap = tap.min(place.len() - LANES);
                    // SAFETY: `WeightBlock::pack` checked the last output and input channel, all taps, and the target.
                    unsafe {
                        let columns = L::transpose(std::array::from_fn(|i| L::load(block.weight.as_ptr().add(rows[i] + tap))));
                        for (i, column) in columns.into_iter().enumerate() {
                            L::store(to.as_mut_ptr().add((place[tap + i] * block.depth + c) * block.width + o), column);
                        }
                    }
                }
            }
        }
    }
}
