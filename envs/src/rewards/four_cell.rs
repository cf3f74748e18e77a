use serde::{Deserialize, Serialize};

use super::{Reward, count};

/// One reward for each cell of the table of lesion against Focus:
///
/// | sub-volume | Focus | reward | default |
/// |---|---|---|---|
/// | has a lesion voxel | marks at least one of them | `tp` | 1 |
/// | has a lesion voxel | marks none of them, whatever it marks elsewhere | `fn` | 0.5 |
/// | has no lesion voxel | marks at least one voxel | `fp` | -0.5 |
/// | has no lesion voxel | marks nothing | `tn` | 0 |
///
/// With `1, 0, 0, 0` this is [`super::AnyOverlap`], which pays the same for a lesion that Focus misses as for nothing at all, and so
/// teaches Glance to pass over what Focus can't do yet, and the same for a false alarm as for silence. The defaults put looking at a
/// missed lesion between a hit and nothing, and a false alarm below nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FourCell {
    /// Reward of a sub-volume whose lesion Focus marks. Default 1.
    pub tp: f32,
    /// Reward of a sub-volume whose lesion Focus misses. Default 0.5.
    #[serde(rename = "fn")]
    pub fn_: f32,
    /// Reward of a lesion-free sub-volume in which Focus marks something. Default -0.5.
    pub fp: f32,
    /// Reward of a lesion-free sub-volume that Focus leaves alone. Default 0.
    pub tn: f32,
}

impl Default for FourCell {
    fn default() -> Self {
        FourCell { tp: 1.0, fn_: 0.5, fp: -0.5, tn: 0.0 }
    }
}

impl Reward for FourCell {
    fn name(&self) -> &'static str {
        "four_cell"
    }

    fn summary(&self) -> &'static str {
        "a reward each for hit, miss, false alarm and silence"
    }

    fn score(&self, predicted: &[u8], lesion: &[u8]) -> f32 {
        let [marked, lesion, both] = count(predicted, lesion);
        if lesion > 0 {
            if both > 0 { self.tp } else { self.fn_ }
        } else if marked > 0 {
            self.fp
        } else {
            self.tn
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AnyOverlap, check_reward};
    use super::*;

    #[test]
    fn each_cell_has_its_reward() {
        let costs = FourCell { tp: 4.0, fn_: 3.0, fp: 2.0, tn: 1.0 };
        check_reward(costs, "##.|...", ".##|...", 4.0);
        check_reward(costs, "...|...", ".##|...", 3.0);
        check_reward(costs, "#..|...", ".##|...", 3.0);
        check_reward(costs, "#..|...", "...|...", 2.0);
        check_reward(costs, "...|...", "...|...", 1.0);
    }

    #[test]
    fn the_published_reward_is_one_of_them() {
        let published = FourCell { tp: 1.0, fn_: 0.0, fp: 0.0, tn: 0.0 };
        for (p, l) in [([1, 0], [1, 1]), ([1, 0], [0, 1]), ([1, 0], [0, 0]), ([0, 0], [0, 1]), ([0, 0], [0, 0])] {
            assert_eq!(published.score(&p, &l), AnyOverlap.score(&p, &l));
        }
    }

    #[test]
    fn unnamed_cells_keep_their_default() {
        let read: FourCell = serde_json::from_str(r#"{"fn": -1.0}"#).unwrap();
        assert_eq!(read, FourCell { fn_: -1.0, ..FourCell::default() });
        assert!(serde_json::from_str::<FourCell>(r#"{"fnn": -1.0}"#).is_err());
    }
}
