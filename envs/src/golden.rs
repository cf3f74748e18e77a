//! Reading golden files in tests: the fill rule and the comparison of samples.

use std::path::PathBuf;

use serde_json::Value;

pub fn load(name: &str) -> Value {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden")).join(name);
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

pub fn usize3(v: &Value) -> [usize; 3] {
    serde_json::from_value(v.clone()).unwrap()
}

pub fn fnv1a64(text: &str) -> u64 {
    text.bytes().fold(0xcbf29ce484222325, |h, b| (h ^ b as u64).wrapping_mul(0x100000001b3))
}

pub fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E3779B97F4A7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58476D1CE4E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D049BB133111EB);
    z ^ (z >> 31)
}

pub fn u01(seed: u64, i: u64) -> f64 {
    (splitmix64(seed.wrapping_add(i)) >> 11) as f64 / (1u64 << 53) as f64
}

/// `n` values of the golden files' fill rule.
pub fn fill(name: &str, n: usize, off: f64, scale: f64) -> Vec<f64> {
    let seed = fnv1a64(name);
    (0..n as u64).map(|i| off + scale * (2.0 * u01(seed, i) - 1.0)).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[track_caller]
pub fn close(found: f64, expected: f64, relative: f64, what: &str) {
    assert!((found - expected).abs() <= relative * expected.abs().max(1.0), "{what}: {found}, expected {expected}");
}

/// Compare `ours(index)` with `expected(value)` for the sample lists `case[index]`, `case[value]`.
#[track_caller]
pub fn check_samples(case: &Value, index: &str, value: &str, ours: impl Fn(usize) -> f64, expected: impl Fn(f64) -> f64, tolerance: f64) {
    let (indices, values) = (case[index].as_array().unwrap(), case[value].as_array().unwrap());
    assert!(!indices.is_empty() && indices.len() == values.len());
    for (i, v) in indices.iter().zip(values) {
        let i = i.as_u64().unwrap() as usize;
        close(ours(i), expected(v.as_f64().unwrap()), tolerance, &format!("sample {i}"));
    }
}
