//! How much arithmetic networks ask for: counted where they ask, by the definition of each operation, however it is then carried out.

use std::cell::Cell;

thread_local! {
    static TOTAL: Cell<u64> = const { Cell::new(0) };
}

/// Floating-point operations of all convolutions, linear layers and attentions that this thread ran forward so far, a multiplication and its addition
/// counted as two. Norms, activations, pooling and backward passes are not counted, as usual in papers.
pub fn flops() -> u64 {
    TOTAL.get()
}

/// Count `outputs` sums of `terms` products each.
pub(crate) fn count(outputs: usize, terms: usize) {
    TOTAL.set(TOTAL.get() + 2 * outputs as u64 * terms as u64);
}

#[cfg(test)]
mod tests {
    use super::super::{attention, conv_transpose3d, conv3d, flops, linear};
    use burn::backend::Flex;
    use burn::tensor::Tensor;

    #[test]
    fn operations_count_as_they_are_defined() {
        let device = Default::default();
        let zeros5 = |dims: [usize; 5]| Tensor::<Flex, 5>::zeros(dims, &device);
        let zeros2 = |dims: [usize; 2]| Tensor::<Flex, 2>::zeros(dims, &device);
        let mut before = flops();
        let mut since = || flops() - std::mem::replace(&mut before, flops());
        // 2 samples, 5 outputs of 3x2x2 voxels, each a sum over 3 channels and 27 taps.
        conv3d(zeros5([2, 3, 5, 4, 4]), zeros5([5, 3, 3, 3, 3]), None, [2; 3], [1; 3]);
        assert_eq!(since(), 2 * (2 * 5 * 3 * 2 * 2) * (3 * 27));
        // Every input voxel is multiplied by 5 outputs of 8 taps.
        conv_transpose3d(zeros5([1, 3, 2, 2, 2]), zeros5([3, 5, 2, 2, 2]), None, [2; 3]);
        assert_eq!(since(), 2 * (3 * 8) * (5 * 8));
        linear(zeros2([7, 3]), zeros2([5, 3]), None);
        assert_eq!(since(), 2 * 7 * 5 * 3);
        // 2 windows of 4 tokens, 3 heads of 2 values: 4 x 4 scores of 2 terms, 4 x 2 values of 4 terms.
        attention(Tensor::<Flex, 3>::zeros([2, 4, 18], &device), None, None, 3);
        assert_eq!(since(), 2 * (2 * 3) * (4 * 4 * 2 + 4 * 2 * 4));
    }
}
