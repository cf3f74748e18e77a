//! Floating-point numbers as files hold them, little-endian, to f32.

use half::{bf16, f16};
use safetensors::Dtype;

/// How wide, and how split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    F64,
    F32,
    F16,
    Bf16,
}

impl Kind {
    /// By the name of PyTorch's storage class; `None` for integers and truth values.
    pub fn of_storage(class: &str) -> Option<Self> {
        match class.rsplit('.').next()? {
            "DoubleStorage" => Some(Kind::F64),
            "FloatStorage" => Some(Kind::F32),
            "HalfStorage" => Some(Kind::F16),
            "BFloat16Storage" => Some(Kind::Bf16),
            _ => None,
        }
    }

    /// By safetensors' type; `None` for others.
    pub fn of_dtype(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F64 => Some(Kind::F64),
            Dtype::F32 => Some(Kind::F32),
            Dtype::F16 => Some(Kind::F16),
            Dtype::BF16 => Some(Kind::Bf16),
            _ => None,
        }
    }

    /// The whole numbers among the bytes.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Kind::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            Kind::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Kind::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Kind::Bf16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_and_minus_a_half() {
        for (kind, bytes) in [
            (Kind::F64, &[0, 0, 0, 0, 0, 0, 0xF0, 0x3F, 0, 0, 0, 0, 0, 0, 0xE0, 0xBF][..]),
            (Kind::F32, &[0, 0, 0x80, 0x3F, 0, 0, 0, 0xBF]),
            (Kind::F16, &[0, 0x3C, 0, 0xB8]),
            (Kind::Bf16, &[0x80, 0x3F, 0, 0xBF]),
        ] {
            assert_eq!(kind.decode(bytes), [1.0, -0.5], "{kind:?}");
            assert_eq!(kind.decode(&bytes[..bytes.len() - 1]), [1.0], "a number that is cut");
        }
    }
}
