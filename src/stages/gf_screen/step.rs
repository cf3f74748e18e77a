//! One training step of GF-Screen, in the order of the paper (dossier A.5).
//!
//! Shapes: G sub-volumes, C intensity windows, K = 2 classes (background, lesion), D, H, W voxels of a sub-volume.

// Shape suffixes.
#![allow(non_snake_case)]

use burn::tensor::{ElementConversion, Int, Tensor, TensorData};
use panscreen_envs::screening::{CropEnv, Labels, Observation};
use panscreen_policies::losses::{argmax_masks, balanced_ce, cell_loss, cell_targets, dice_ce};
use panscreen_policies::objectives::{Needs, OldPolicy, Rollout, Samples, log_odds};
use panscreen_policies::precision::is_half;

use super::learner::{Learner, Settings};
use super::shard;
use crate::backend::TrainBackend;
use crate::error::{Error, Result};
use crate::run::{Scalar, check_finite, health::check_all_finite};

/// Names and values to log, in the order they arise.
pub type StepLog = Vec<(&'static str, Scalar)>;

/// Train both networks on one observation.
///
/// A loss, reward or gradient that isn't finite is an error that names it, before any weight has changed (but for those of further updates, 13).
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
    let (x_GCDHW, shards, logits) = learner.look_until_finite(x_GCDHW, settings);
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

    // 6. The old policy's view of the same sub-volumes, the actions, and their reward: what Focus found, from the very logits of this step.
    let log_odds_G = log_odds(z_G2.clone().inner());
    let old_log_odds_G = learner.old_log_odds(&x_GCDHW, &log_odds_G, settings);
    let objective = settings.objective.info();
    let acting_G = if objective.old_policy == OldPolicy::Sampled { &old_log_odds_G } else { &log_odds_G };
    let grouping = env.config().grouping;
    let selection = settings.select(grouping, acting_G, step);
    let outcome = env.score(group, &selection, &predicted);
    check_all_finite("reward", &outcome.rewards, step)?;

    // 7. What else the objective goes by: the value head, the worth of both actions, or the labels.
    let p_G = || log_odds_G.iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect::<Vec<f32>>();
    let rollout = Rollout {
        samples: Samples::new(grouping, group, &selection, &outcome),
        reference_log_odds: old_log_odds_G.clone(),
        old_log_odds: old_log_odds_G,
        values: learner.values(&x_GCDHW),
        both: if objective.needs == Needs::BothActions { env.both(group, &predicted, &p_G()) } else { vec![] },
        labels: if objective.needs == Needs::Labels { Labels::new(group, &predicted) } else { Labels::default() },
    };

    // 8. to 10. The objective. With `grl`: advantages within the groups, the clipped ratio to the old policy, and the KL to it.
    let policy = settings.objective.loss(z_G2, &rollout).map_err(Error::Usage)?;

    // 11. Everything together.
    let mut total = focus.total.clone() + glance_ce.clone() * settings.alpha + policy.policy_loss.clone() * settings.policy_weight;
    if let Some(kl) = &policy.kl_loss {
        total = total + kl.clone();
    }
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
        ("losses/policy_loss", number(&policy.policy_loss).into()),
    ];
    log.extend(policy.kl_loss.iter().map(|kl| ("losses/kl", number(kl).into())));
    log.extend(cells.iter().map(|c| ("losses/glance_cells", number(c).into())));
    for (name, value) in &log {
        check_finite(name, value.as_f64(), step)?;
    }

    // 12. One backward pass: through the losses to the logits, then through both networks. Each has an optimiser of its own.
    let gradients = shard::gradients(total, logits);
    let updates = learner.update(shards, gradients, settings)?;

    // 13. More updates of Glance from the same actions, and the value head's, where the objective has them.
    let more = learner.iterate(&x_GCDHW, &rollout, settings)?;

    let chosen = log_odds_G.iter().filter(|&&z| z > 0.0).count() as f32 / group.len() as f32;
    let positives = target_G.iter().sum::<f32>() / group.len() as f32;
    log.extend(policy.log.into_iter().map(|(n, v)| (n, v.into())));
    log.extend(more);
    log.extend([("selected_share", chosen.into()), ("positive_share", positives.into())]);
    log.extend(updates);
    if is_half(learner.dtype) {
        log.push(("precision/recomputed", (learner.recomputed.len() as f32).into()));
    }
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
