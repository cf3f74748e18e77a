use burn::tensor::{Tensor, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rollout::odds;
use super::{Needs, Objective, ObjectiveInfo, OldPolicy, Rollout, Terms};
use crate::losses::balanced_ce;

/// Balanced cross-entropy with a soft label: how much of a lesion the sub-volume holds.
///
/// Of the lesion it holds most of, the share of the most that any sub-volume of the same scan in the step holds. A sub-volume that cuts a rim is
/// thus no full member of its class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SoftVolumeConfig {}

impl Objective for SoftVolumeConfig {
    const INFO: ObjectiveInfo = ObjectiveInfo {
        name: "soft_volume",
        summary: "balanced cross-entropy with the share of the lesion",
        needs: Needs::Labels,
        old_policy: OldPolicy::Unused,
    };

    fn loss<B: Backend>(&self, logits_g2: Tensor<B, 2>, rollout: &Rollout) -> Result<Terms<B>, String> {
        Ok(Terms::supervised(balanced_ce(logits_g2.clone(), &rollout.labels.volume), odds(logits_g2), rollout))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::value_and_gradient;
    use super::*;
    use crate::losses::golden::check_close;
    use panscreen_envs::screening::Labels;

    #[test]
    fn soft_volume_learns_from_its_own_label() {
        // p = 0.8, 0.5; labels 0.5, 0: -0.5 ln 0.8 / 0.5 - (0.5 ln 0.2 + ln 0.5) / 1.5.
        let labels = Labels { lesion: vec![1.0, 1.0], volume: vec![0.5, 0.0], best: vec![1.0, 0.0] };
        let rollout = Rollout { labels, ..Rollout::default() };
        let (loss, _) = value_and_gradient(&SoftVolumeConfig {}, &[4f64.ln(), 0.0], &rollout);
        check_close("loss", &[loss], &[1.221721], 1e-5);
    }
}
