//! One training step of GF-Screen, in the order of the paper (dossier A.5).
//!
//! Shapes: G sub-volumes, C intensity windows, K = 2 classes (background, lesion), D, H, W voxels of a sub-volume.

// Shape suffixes.
#![allow(non_snake_case)]

use burn::tensor::{ElementConversion, Int, Tensor, TensorData};
use panscreen_envs::screening::{CropEnv, Grouping, Observation, Selection};
use panscreen_policies::losses::{argmax_masks, balanced_ce, cell_loss, cell_targets, dice_ce};
use panscreen_policies::objectives::{advantages, grl, log_odds};

use super::learner::{Learner, Settings};
use super::shard;
use crate::backend::TrainBackend;
use crate::error::Result;
use crate::run::{Scalar, check_finite, health::check_all_finite};

/// Names and values to log, in the order they arise.
pub type StepLog = Vec<(&'static str, Scalar)>;

/// Train both networks on one observation.
///
/// A loss, reward or gradient that isn't finite is an error that names it, before any weight has changed.
pub fn training_step<B: TrainBackend>(
    learner: &mut Learner<B>,
    settings: &Settings,
    env: &CropEnv,
    group: &Observation,
) -> Result<StepLog> {
    let step = learner.step;
    let (x_GCDHW, target_GDHW) = tensors::<B>(group, &learner.device);

    // 1. Glance looks at every sub-volume: the logits of its two actions.
    // 2. Focus segments every sub-volume.
    let shards = learner.look(&x_GCDHW, settings.shards);
    let logits = shard::logits(&shards);
    let (z_G2, s_GKDHW) = (logits.z_g2.clone(), logits.s_gkdhw.clone());
    let predicted = argmax_masks(s_GKDHW.clone()).concat();

    // 3. Is there a lesion in it?
    let target_G: Vec<f32> = group.targets().iter().map(|&t| t as u8 as f32).collect();

    // 4. Focus's loss: Dice and cross-entropy.
    let focus = dice_ce(s_GKDHW, target_GDHW, &settings.dice_ce);

    // 5. Glance's supervised loss: class-balanced cross-entropy.
    let glance_ce = balanced_ce(z_G2.clone(), &target_G);
    let cells = logits.cells.clone().filter(|_| settings.cell_weight > 0.0).map(|cells| {
        let [_, d, h, w] = cells.dims();
        cell_loss(cells, &cell_targets(&group.lesion, group.window, [d, h, w]), settings.cell_lesion_weight)
    });

    // 6. Reward: what Focus found in the sub-volumes, from the very logits of this step.
    let log_odds_G = log_odds(z_G2.clone().inner());
    let selection = settings.select(env.config().grouping, &log_odds_G, step);
    let outcome = env.score(group, &selection, &predicted);
    check_all_finite("reward", &outcome.rewards, step)?;

    // 7. Advantage: each reward against its group.
    let advantage = advantages(&outcome.rewards, &outcome.groups, &settings.advantage);
    let advantage_G = credit(env.config().grouping, group, &selection, &advantage.values);

    // 8. The old policy's view of the same sub-volumes.
    let old_log_odds_G = learner.old_log_odds(&x_GCDHW, &log_odds_G, settings);

    // 9. and 10. Clipped group-relative objective and KL.
    let policy = grl(z_G2, &old_log_odds_G, &advantage_G, &settings.grl);

    // 11. Everything together.
    let mut total = focus.total.clone()
        + glance_ce.clone() * settings.alpha
        + policy.clip_loss.clone() * settings.policy_weight
        + policy.kl_loss.clone();
    if let Some(cells) = &cells {
        total = total + cells.clone() * settings.cell_weight;
    }

    let number = |t: &Tensor<B, 1>| t.clone().into_scalar().elem::<f32>();
    let mut log: StepLog = vec![
        ("loss", number(&total).into()),
        ("losses/focus", number(&focus.total).into()),
        ("losses/dice", number(&focus.dice).into()),
        ("losses/ce", number(&focus.ce).into()),
        ("losses/glance_ce", number(&glance_ce).into()),
        ("losses/policy_loss", number(&policy.clip_loss).into()),
        ("losses/kl", number(&policy.kl_loss).into()),
    ];
    log.extend(cells.iter().map(|c| ("losses/glance_cells", number(c).into())));
    for (name, value) in &log {
        check_finite(name, value.as_f64(), step)?;
    }

    // 12. One backward pass: through the losses to the logits, then through both networks. Each has an optimiser of its own.
    let gradients = shard::gradients(total, logits);
    let updates = learner.update(shards, gradients, settings)?;

    let chosen = log_odds_G.iter().filter(|&&z| z > 0.0).count() as f32 / group.len() as f32;
    let positives = target_G.iter().sum::<f32>() / group.len() as f32;
    log.extend(advantage.named().map(|(n, v)| (n, v.into())));
    log.push(("advantage/max", advantage_G.iter().copied().fold(0.0, |a: f32, v| a.max(v.abs())).into()));
    log.extend(policy.stats.named().map(|(n, v)| (n, v.into())));
    log.extend([("selected_share", chosen.into()), ("positive_share", positives.into())]);
    log.extend(updates);
    learner.step += 1;
    Ok(log)
}

/// The observation as tensors: intensities, and the class of each voxel.
pub fn tensors<B: TrainBackend>(group: &Observation, device: &B::Device) -> (Tensor<B, 5>, Tensor<B, 4, Int>) {
    let [d, h, w] = group.window;
    let x = TensorData::new(group.x.clone(), [group.len(), group.channels, d, h, w]);
    let classes: Vec<i64> = group.lesion.iter().map(|&n| (n > 0) as i64).collect();
    (Tensor::from_data(x, device), Tensor::from_data(TensorData::new(classes, [group.len(), d, h, w]), device))
}

/// One advantage a sub-volume. Where selections were scored as sets, a sub-volume gets the mean advantage of the selections that chose it
/// less that of those that did not: the score-function estimate for independent choices.
fn credit(grouping: Grouping, group: &Observation, selection: &Selection, advantages: &[f32]) -> Vec<f32> {
    if grouping != Grouping::Masks {
        return advantages.to_vec();
    }
    let masks = selection.masks.len();
    let mut order: Vec<u32> = group.groups();
    order.dedup();
    group
        .windows
        .iter()
        .enumerate()
        .map(|(i, w)| {
            let g = order.iter().position(|o| *o == w.group).unwrap_or(0);
            let own = &advantages[g * masks..(g + 1) * masks];
            let sum: f32 = own.iter().zip(&selection.masks).map(|(a, m)| if m[i] { *a } else { -*a }).sum();
            sum / masks as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use panscreen_envs::screening::SubVolume;

    #[test]
    fn a_sub_volume_is_credited_with_the_selections_that_chose_it() {
        let windows = [0, 0, 1].map(|group| SubVolume { scan: 0, start: [0; 3], lesions: vec![], group }).to_vec();
        let group = Observation { index: 0, channels: 1, window: [1; 3], x: vec![0.0; 3], lesion: vec![0; 3], windows };
        let selection = Selection { masks: vec![vec![true, false, true], vec![false, false, true]] };
        let advantages = [1.0, -1.0, 0.5, 0.7];
        assert_eq!(credit(Grouping::Masks, &group, &selection, &advantages), [1.0, 0.0, 0.6]);
        assert_eq!(credit(Grouping::Batch, &group, &Selection::all(3), &advantages[..3]), advantages[..3]);
    }
}
