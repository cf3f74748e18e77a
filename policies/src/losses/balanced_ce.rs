//! Class-balanced cross-entropy of the Glance policy.
//!
//! Shapes: `logits_G2` are (discard, select) logits of G sub-volumes.

use burn::tensor::{Tensor, TensorData, activation::softmax, backend::Backend};

/// Keeps the logarithms and the class means finite, as in the published code.
const TINY: f64 = 1e-6;

/// Mean cross-entropy of the sub-volumes with lesion plus that of those without, so that each class weighs the same:
///
/// `-sum_i y_i log(p_i + 1e-6) / (sum_i y_i + 1e-6) - sum_i (1 - y_i) log(1 - p_i + 1e-6) / (sum_i (1 - y_i) + 1e-6)`
///
/// `p` is the softmax probability of "select". `targets` holds one `y` a row, 1 where the sub-volume holds lesion; soft labels in 0..1 are
/// fine. A class without members adds nothing. Source: the supervised Glance term of GF-Screen (ICLR 2026), weight 0.1 there.
pub fn balanced_ce<B: Backend>(logits_g2: Tensor<B, 2>, targets: &[f32]) -> Tensor<B, 1> {
    let [rows, actions] = logits_g2.dims();
    assert!(actions == 2 && targets.len() == rows, "balanced_ce: {rows}x{actions} logits for {} targets", targets.len());
    let options = (&logits_g2.device(), logits_g2.dtype());
    let positives: f64 = targets.iter().map(|&y| f64::from(y)).sum();
    let negatives = rows as f64 - positives;
    let weights = |weight: &dyn Fn(f64) -> f64| {
        let weights: Vec<f64> = targets.iter().map(|&y| weight(f64::from(y))).collect();
        Tensor::<B, 1>::from_data(TensorData::from(&weights[..]), options)
    };
    let p_g2 = softmax(logits_g2, 1);
    let discard: Tensor<B, 1> = p_g2.clone().narrow(1, 0, 1).flatten(0, 1);
    let select: Tensor<B, 1> = p_g2.narrow(1, 1, 1).flatten(0, 1);
    let hit = weights(&|y| y / (positives + TINY)) * (select + TINY).log();
    let clean = weights(&|y| (1.0 - y) / (negatives + TINY)) * (discard + TINY).log();
    (hit + clean).sum().neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::golden::{check_close, losses, numbers, singles};
    use burn::backend::{Autodiff, Flex};
    use burn::tensor::DType;

    type B = Autodiff<Flex>;

    #[test]
    fn balanced_ce_equals_the_published_code() {
        let options = (&Default::default(), DType::F64);
        for case in losses()["gf_screen"]["cases"].as_array().unwrap() {
            let id = case["id"].as_str().unwrap();
            let n = case["n"].as_u64().unwrap() as usize;
            let z = Tensor::<B, 2>::from_data(TensorData::new(numbers(&case["logits"]), [n, 2]), options).require_grad();
            let loss = balanced_ce(z.clone(), &singles(&case["target"]));
            let grad = z.grad(&loss.backward()).unwrap().into_data().iter::<f64>().collect::<Vec<_>>();
            check_close(id, &[loss.into_data().iter::<f64>().next().unwrap()], &numbers(&case["L_gl"]), 1e-12);
            check_close(id, &grad, &numbers(&case["grad_L_gl"]), 1e-12);
        }
    }
}
