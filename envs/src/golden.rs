//! Tests only: the rule by which the golden files make numbers, and reading them.

use serde_json::Value;

/// The generator of the golden files is that of our resampling.
pub use crate::metrics::statistics::resample::{splitmix64, uniform as u01};

pub fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ b as u64).wrapping_mul(0x0000_0100_0000_01b3))
}

/// `n` numbers around `offset`, at most `scale` away from it.
pub fn fill(name: &str, n: usize, offset: f64, scale: f64) -> Vec<f64> {
    let seed = fnv1a64(name.as_bytes());
    (0..n as u64).map(|i| offset + scale * (2.0 * u01(seed, i) - 1.0)).collect()
}

/// A JSON file of `tests/golden`, in the repository.
pub fn load(name: &str) -> Value {
    let path = format!("{}/../tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Path of a file in `../shared`, outside of the repository; says so and returns `None` where it is not there.
pub fn shared(name: &str) -> Option<std::path::PathBuf> {
    let path = std::path::PathBuf::from(format!("{}/../../shared/{name}", env!("CARGO_MANIFEST_DIR")));
    if !path.exists() {
        eprintln!("SKIPPED: ../shared/{name} not present");
        return None;
    }
    Some(path)
}

/// Numbers of a JSON list.
pub fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

/// Equal to within `tolerance`, relative where the value is above 1.
pub fn assert_close(got: f64, want: f64, tolerance: f64, what: &str) {
    assert!((got - want).abs() <= tolerance * want.abs().max(1.0), "{what}: got {got}, want {want}");
}

pub fn usize3(v: &Value) -> [usize; 3] {
    serde_json::from_value(v.clone()).expect("three whole numbers")
}

pub fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Compare `ours(index)` with `want(value)` for the sample lists `case[index]` and `case[value]`.
#[track_caller]
pub fn check_samples(case: &Value, index: &str, value: &str, ours: impl Fn(usize) -> f64, want: impl Fn(f64) -> f64, tolerance: f64) {
    let (indices, values) = (numbers(&case[index]), numbers(&case[value]));
    assert!(!indices.is_empty() && indices.len() == values.len());
    for (i, v) in indices.into_iter().zip(values) {
        assert_close(ours(i as usize), want(v), tolerance, &format!("sample {i}"));
    }
}

#[test]
fn the_rule_gives_the_stored_numbers() {
    let g = &load("golden_metrics.json")["splitmix64"];
    for (i, want) in g["first"].as_array().unwrap().iter().enumerate() {
        assert_eq!(Some(splitmix64(i as u64).to_string().as_str()), want.as_str());
    }
    for (i, want) in numbers(&g["u01_seed12345"]).into_iter().enumerate() {
        assert_eq!(u01(12345, i as u64), want);
    }
    assert_eq!(fnv1a64(b"a"), 0xaf63_dc4c_8601_ec8c);
    assert_eq!(fill("x", 3, 1.0, 0.5).len(), 3);
}
