//! The optimiser's step and the sum of squares against compositions of Burn's operations.

use super::super::backend::AdamStep;
use super::super::step::{adamw, adamw_composed, squares};
use super::*;

const STEP: AdamStep = AdamStep { betas: [0.9, 0.999], eps: 1e-8, decay: 0.99, size: 0.01, root: 0.3 };

#[test]
fn a_step_equals_burns_on_every_instruction_set() {
    for len in [1, 7, 16, 1000, (1 << 14) + 5, 3 << 14] {
        let mut inputs = [1, 2, 3, 4].map(|seed| values(len, seed));
        inputs[3].iter_mut().for_each(|v| *v = v.abs());
        let tensors =
            inputs.clone().map(|values| primitive(Tensor::<Flex, 1>::from_data(TensorData::new(values, [len]), &Default::default())));
        let expected = adamw_composed::<Flex>(tensors, &STEP).map(|t| t.into_data().to_vec::<f32>().expect("f32"));
        for &isa in Isa::all() {
            for (found, expected) in adamw(isa, inputs.each_ref().map(Vec::as_slice), &STEP).iter().zip(&expected) {
                check_close(&format!("{isa:?}, {len} values"), found, expected, 1e-6);
            }
        }
    }
}

#[test]
fn squares_are_summed_alike_everywhere() {
    for len in [0, 1, 15, 16, 1000, (1 << 14) + 5, 3 << 14] {
        let x = values(len, 8);
        let expected: f64 = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        let one = squares(Isa::Portable, &x);
        assert!((one - expected).abs() <= 1e-12 * expected, "{len} values: {one}, expected {expected}");
        for &isa in Isa::all() {
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
                assert_eq!(pool.install(|| squares(isa, &x)).to_bits(), one.to_bits(), "{isa:?}, {len} values, {threads} threads");
            }
        }
    }
    assert_eq!(squares(Isa::detect(), &[1e30, 1e30]), 2.0 * f64::from(1e30f32) * f64::from(1e30f32));
    assert!(squares(Isa::detect(), &[1.0, f32::NAN]).is_nan());
}
