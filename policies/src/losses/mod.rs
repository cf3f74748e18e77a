//! Supervised losses: Dice + cross-entropy for Focus, class-balanced cross-entropy for Glance.

mod balanced_ce;
mod cell_loss;
mod dice_ce;
mod dice_ce_fused;

pub use balanced_ce::balanced_ce;
pub use cell_loss::{cell_loss, cell_targets};
pub use dice_ce::{DiceCe, DiceCeConfig, EmptyCrops, argmax_masks, dice_ce, dice_terms};
pub use dice_ce_fused::DiceCeBackend;

/// The reference numbers of `tests/golden/losses.json`, for the tests of this crate.
#[cfg(test)]
pub(crate) mod golden {
    use serde_json::Value;

    pub fn losses() -> Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/losses.json");
        serde_json::from_str(&std::fs::read_to_string(path).expect(path)).expect(path)
    }

    /// All numbers of a nested list, in order.
    pub fn numbers(value: &Value) -> Vec<f64> {
        match value {
            Value::Array(items) => items.iter().flat_map(numbers).collect(),
            number => vec![number.as_f64().expect("a number")],
        }
    }

    pub fn singles(value: &Value) -> Vec<f32> {
        numbers(value).into_iter().map(|v| v as f32).collect()
    }

    /// Asserts |found - expected| <= tolerance * max(1, |expected|) for every element.
    pub fn check_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len(), "{what}: length");
        for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
            assert!((f - e).abs() <= tolerance * e.abs().max(1.0), "{what}[{i}]: found {f:e}, expected {e:e}");
        }
    }
}
