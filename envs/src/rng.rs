//! Counter-based random streams.
//!
//! A draw depends on `(seed, stream, epoch, index)` and on nothing else: not on the thread, not on what was drawn before.
//! A run can therefore be cut anywhere and continued with the same bytes by storing counters only.

use rand::SeedableRng;
pub use rand::seq::SliceRandom;
pub use rand::{Rng, RngExt};

/// The generator behind every stream: ChaCha with eight rounds, the same bytes on every platform.
pub type Stream = rand::rngs::ChaCha8Rng;

/// The stream named `name` of a run with `seed`, at `epoch` and `index`.
pub fn stream(seed: u64, name: &str, epoch: u64, index: u64) -> Stream {
    let mut h = blake3::Hasher::new_derive_key("panscreen random stream v1");
    h.update(&seed.to_le_bytes());
    h.update(&epoch.to_le_bytes());
    h.update(&index.to_le_bytes());
    h.update(name.as_bytes());
    Stream::from_seed(*h.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_the_key_changes_the_stream() {
        let first = |s, n, e, i| stream(s, n, e, i).next_u64();
        let base = first(1, "crops", 2, 3);
        assert_eq!(base, first(1, "crops", 2, 3));
        for other in [first(2, "crops", 2, 3), first(1, "flips", 2, 3), first(1, "crops", 3, 3), first(1, "crops", 2, 4)] {
            assert_ne!(base, other);
        }
    }
}
