use super::{Reward, count};

/// Reward 1 when Focus marks at least one voxel of a labelled lesion, else 0.
///
/// The reward of GF-Screen (ICLR 2026). Sub-volumes without a lesion always get 0, whatever Focus does there; so do lesions that Focus
/// misses, see [`super::FourCell`].
pub struct AnyOverlap;

impl Reward for AnyOverlap {
    fn name(&self) -> &'static str {
        "any_overlap"
    }

    fn summary(&self) -> &'static str {
        "1 when Focus marks at least one lesion voxel, else 0 (GF-Screen)"
    }

    fn score(&self, predicted: &[u8], lesion: &[u8]) -> f32 {
        let [_, _, both] = count(predicted, lesion);
        if both > 0 { 1.0 } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check_reward;
    use super::*;

    #[test]
    fn any_overlap_needs_one_shared_voxel() {
        check_reward(AnyOverlap, "..#|.##", "#..|..#", 1.0);
        check_reward(AnyOverlap, "..#|...", "#..|...", 0.0);
        check_reward(AnyOverlap, "...|...", "#..|...", 0.0);
        check_reward(AnyOverlap, "##.|...", "...|...", 0.0);
        check_reward(AnyOverlap, "...|...", "...|...", 0.0);
    }
}
