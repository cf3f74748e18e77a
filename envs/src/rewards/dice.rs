use super::{Reward, count};

/// Keeps the ratio finite; two empty masks score 1.
const SMOOTH: f64 = 1e-6;

/// The Dice of the sub-volume: `(2 |s ∩ m| + 1e-6) / (|s| + |m| + 1e-6)`.
///
/// The ablation reward of GF-Screen. A sub-volume without a lesion that Focus leaves alone scores 1, as much as a perfect mask.
pub struct Dice;

impl Reward for Dice {
    fn name(&self) -> &'static str {
        "dice"
    }

    fn summary(&self) -> &'static str {
        "Dice of Focus's mask in the sub-volume; 1 where both masks are empty"
    }

    fn score(&self, predicted: &[u8], lesion: &[u8]) -> f32 {
        let [p, l, both] = count(predicted, lesion);
        ((2.0 * both as f64 + SMOOTH) / ((p + l) as f64 + SMOOTH)) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::super::check_reward;
    use super::*;

    #[test]
    fn dice_of_small_masks() {
        check_reward(Dice, "##.|...", "##.|...", 1.0);
        check_reward(Dice, "...|...", "...|...", 1.0);
        check_reward(Dice, "##.|...", ".##|...", (2.000001 / 4.000001) as f32);
        check_reward(Dice, "###|...", "...|...", (0.000001 / 3.000001) as f32);
    }
}
