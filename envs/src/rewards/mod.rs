//! What a look at a sub-volume was worth: Focus's mask there against the lesions there.
//!
//! A reward is a file of its own and a line in [`all`].

mod any_overlap;
mod dice;
mod four_cell;

pub use any_overlap::AnyOverlap;
pub use dice::Dice;
pub use four_cell::FourCell;

/// Scores one sub-volume.
pub trait Reward: Send + Sync {
    /// Name in a config, snake case.
    fn name(&self) -> &'static str;

    /// One line for lists.
    fn summary(&self) -> &'static str;

    /// Finite for any two masks of one length. A voxel is in a mask where it is not 0; `predicted` is Focus's mask of the sub-volume and
    /// `lesion` the labelled lesions there.
    fn score(&self, predicted: &[u8], lesion: &[u8]) -> f32;
}

/// Every reward with its default settings.
pub fn all() -> Vec<Box<dyn Reward>> {
    vec![Box::new(AnyOverlap), Box::new(Dice), Box::new(FourCell::default())]
}

/// The reward called `name` with its default settings; `None` where there is none, see [`all`] for the names.
pub fn by_name(name: &str) -> Option<Box<dyn Reward>> {
    all().into_iter().find(|r| r.name() == name)
}

/// Numbers of voxels in the first mask, in the second and in both.
fn count(predicted: &[u8], lesion: &[u8]) -> [usize; 3] {
    assert_eq!(predicted.len(), lesion.len(), "a reward compares masks of one sub-volume");
    predicted.iter().zip(lesion).fold([0; 3], |[p, l, both], (&a, &b)| {
        let (a, b) = ((a != 0) as usize, (b != 0) as usize);
        [p + a, l + b, both + (a & b)]
    })
}

/// Masks drawn with `#` for marked; `|` separates rows for the eye.
#[cfg(test)]
fn check_reward(reward: impl Reward, predicted: &str, lesion: &str, want: f32) {
    let mask = |s: &str| -> Vec<u8> { s.bytes().filter(|&c| c != b'|').map(|c| (c == b'#') as u8).collect() };
    assert_eq!(reward.score(&mask(predicted), &mask(lesion)), want, "{} of {predicted} on {lesion}", reward.name());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    #[test]
    fn names_are_unique_and_lead_back() {
        let names: Vec<_> = all().iter().map(|r| r.name()).collect();
        assert_eq!(names, ["any_overlap", "dice", "four_cell"]);
        for r in all() {
            assert_eq!(by_name(r.name()).unwrap().summary(), r.summary());
        }
        assert!(by_name("iou").is_none());
    }

    #[test]
    fn the_reference_gives_the_same_rewards() {
        let g = &golden::load("losses.json")["rewards"];
        let masks = |key: &str| -> Vec<Vec<u8>> {
            g[key].as_array().unwrap().iter().map(|m| golden::numbers(m).into_iter().map(|v| v as u8).collect()).collect()
        };
        let (predicted, lesion) = (masks("s"), masks("m"));
        for (reward, key) in [(by_name("any_overlap").unwrap(), "binary"), (by_name("dice").unwrap(), "dice")] {
            for (i, want) in golden::numbers(&g[key]).into_iter().enumerate() {
                assert_eq!(reward.score(&predicted[i], &lesion[i]), want as f32, "{key} of mask {i}");
            }
        }
    }
}
