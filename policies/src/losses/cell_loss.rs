//! Supervision of Glance's cells.

use burn::tensor::activation::{log_sigmoid, sigmoid};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

/// A cell is wholly "lesion" when this share of its voxels is: one eighth of an 8x8x8 cell is a lesion of half the cell's side.
const FULL: f32 = 0.125;

/// How much each cell of a `cells`-shaped map over a sub-volume of `window` voxels holds of a lesion, 0 to 1, `[G][cells]`.
///
/// `lesion`: not 0 on lesion voxels, `[G][window]`; each axis of `window` must be a multiple of the cells along it.
pub fn cell_targets(lesion: &[u8], window: [usize; 3], cells: [usize; 3]) -> Vec<f32> {
    let side: [usize; 3] = std::array::from_fn(|a| window[a].div_ceil(cells[a]));
    let (voxels, count) = (window.iter().product::<usize>(), cells.iter().product::<usize>());
    let mut targets = vec![0.0; lesion.len() / voxels * count];
    for (targets, lesion) in targets.chunks_exact_mut(count).zip(lesion.chunks_exact(voxels)) {
        for (i, _) in lesion.iter().enumerate().filter(|(_, v)| **v > 0) {
            let at = [i / (window[1] * window[2]), i / window[2] % window[1], i % window[2]];
            let [x, y, z] = std::array::from_fn(|a| at[a] / side[a]);
            targets[(x * cells[1] + y) * cells[2] + z] += 1.0;
        }
        let full = FULL * side.iter().product::<usize>() as f32;
        targets.iter_mut().for_each(|t| *t = (*t / full).min(1.0));
    }
    targets
}

/// Mean binary cross-entropy of the cells' log-odds `[G, D, H, W]` against their targets, where lesion weighs `lesion_weight` times, plus the
/// soft Dice loss of all cells together: few cells hold a lesion, and Dice does not mind how many do not.
pub fn cell_loss<B: Backend>(cells: Tensor<B, 4>, targets: &[f32], lesion_weight: f64) -> Tensor<B, 1> {
    let dims = cells.dims();
    let t = Tensor::from_data(TensorData::new(targets.to_vec(), dims), &cells.device());
    let hit = log_sigmoid(cells.clone()) * t.clone() * lesion_weight;
    let clear = log_sigmoid(cells.clone().neg()) * (t.clone().neg() + 1.0);
    let p = sigmoid(cells);
    let dice = ((p.clone() * t.clone()).sum() * 2.0 + 1.0) / (p.sum() + t.sum() + 1.0);
    (hit + clear).mean().neg() - dice + 1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;

    #[test]
    fn a_cell_is_full_at_an_eighth() {
        let mut lesion = vec![0; 2 * 64];
        lesion[0] = 1;
        lesion[64 + 63] = 7;
        let t = cell_targets(&lesion, [4, 4, 4], [2, 2, 1]);
        assert_eq!(t, [0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5]);
    }

    #[test]
    fn the_loss_is_weighted_cross_entropy_plus_dice() {
        let cells = Tensor::<Flex, 1>::from_floats([0.0, 2.0], &Default::default()).reshape([1, 1, 1, 2]);
        let loss: f32 = cell_loss(cells, &[1.0, 0.0], 3.0).into_scalar();
        let p = 1.0 / (1.0 + (-2f32).exp());
        let expected = (3.0 * 2f32.ln() + (1.0 + 2f32.exp()).ln()) / 2.0 + 1.0 - (2.0 * 0.5 + 1.0) / (0.5 + p + 1.0 + 1.0);
        assert!((loss - expected).abs() < 1e-6, "{loss} {expected}");
    }
}
