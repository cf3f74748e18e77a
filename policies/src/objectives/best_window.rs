use burn::tensor::{Tensor, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rollout::odds;
use super::{Needs, Objective, ObjectiveInfo, OldPolicy, Rollout, Terms};
use crate::losses::balanced_ce;

/// Balanced cross-entropy with the label "Focus shows a lesion best here".
///
/// Of the sub-volumes of a scan in the step, one a lesion has the label 1: that in which Focus marks most of it, or, where Focus marks none of it
/// anywhere, that which holds most of it. One look a lesion is all that screening needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BestWindowConfig {}

impl Objective for BestWindowConfig {
    const INFO: ObjectiveInfo = ObjectiveInfo {
        name: "best_window",
        summary: "balanced cross-entropy with the best sub-volume of each lesion",
        needs: Needs::Labels,
        old_policy: OldPolicy::Unused,
    };

    fn loss<B: Backend>(&self, logits_g2: Tensor<B, 2>, rollout: &Rollout) -> Result<Terms<B>, String> {
        Ok(Terms::supervised(balanced_ce(logits_g2.clone(), &rollout.labels.best), odds(logits_g2), rollout))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::value_and_gradient;
    use super::*;
    use crate::losses::golden::check_close;
    use panscreen_envs::screening::Labels;

    #[test]
    fn best_window_learns_from_its_own_label() {
        // p = 0.8, 0.5; labels 1, 0: -ln 0.8 - ln 0.5.
        let labels = Labels { lesion: vec![1.0, 1.0], volume: vec![0.5, 0.0], best: vec![1.0, 0.0] };
        let rollout = Rollout { labels, ..Rollout::default() };
        let (loss, _) = value_and_gradient(&BestWindowConfig {}, &[4f64.ln(), 0.0], &rollout);
        check_close("loss", &[loss], &[0.916291], 1e-5);
    }
}
