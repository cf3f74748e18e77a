//! One step of learning to select, on cached results of Focus.
//!
//! Shapes: G windows, of one or several scans.

// Shape suffixes.
#![allow(non_snake_case)]

use std::ops::Range;

use burn::tensor::{ElementConversion, Tensor};
use panscreen_envs::rng::stream;
use panscreen_envs::screening::cached::{Dual, Price, SetOutcome, WindowSets, WindowTable};
use panscreen_envs::screening::{Grouping, Labels, SetReward};
use panscreen_policies::losses::{balanced_ce, cell_loss};
use panscreen_policies::nets::Mode;
use panscreen_policies::objectives::{Needs, OldPolicy, Rollout, Samples, log_odds};

use super::lab::{Draw, Lab, View};
use crate::backend::TrainBackend;
use crate::config::{Config, SetScore};
use crate::error::{Error, Result};
use crate::run::{check_finite, health::check_all_finite};
use crate::stages::gf_screen::learner::{Learner, Settings};
use crate::stages::gf_screen::step::StepLog;

/// Millilitres that `env.false_alarm_cost` is the price of.
const FALSE_ALARM_ML: f32 = 10.0;

/// Teach Glance once. `dual`: the prices of a constraint, which move with what was sampled.
pub fn selection_step<B: TrainBackend>(
    learner: &mut Learner<B>,
    settings: &Settings,
    config: &Config,
    lab: &Lab,
    dual: &mut Option<Dual>,
) -> Result<StepLog> {
    let step = learner.step;
    let draws = lab.draw(step - settings.from)?;
    let views: Vec<View> = draws.iter().map(|d| lab.view(d, learner.glance.whole_scan().map(|net| net.grid(d.scan.shape)))).collect();

    // 1. Glance looks: the logits of each window's two actions, and of its cells.
    let mut z_parts = vec![];
    let (mut cell_losses, mut second_losses) = (vec![], vec![]);
    for (view, draw) in views.iter().zip(&draws) {
        let (z_G2, cells) = view.look(&learner.glance, &learner.focus, Mode::Train, (&learner.device, learner.dtype));
        z_parts.push(z_G2);
        let Some((cells, targets)) = cells.filter(|_| settings.cell_weight > 0.0) else { continue };
        // The second look of a whole-scan Glance: the same weights, at a finer grid.
        let second = learner.glance.whole_scan().filter(|net| net.second_grid(draw.scan.shape).is_some()).and_then(|net| {
            let heat: Vec<f32> = cells.clone().into_data().iter::<f32>().collect();
            Some(lab.second_view(draw, net, &heat)?.look(net, Mode::Train, (&learner.device, learner.dtype)))
        });
        second_losses.extend(second.map(|(cells, targets)| cell_loss(cells, &targets, settings.cell_lesion_weight)));
        cell_losses.push(cell_loss(cells, &targets, settings.cell_lesion_weight));
    }
    let ranges = ranges(&draws);
    let z_G2 = Tensor::cat(z_parts, 0);
    let log_odds_G = log_odds(z_G2.clone().inner());

    // 2. The old policy's view of the same windows.
    let (mode, device, dtype) = (settings.old_policy_mode, learner.device.clone(), learner.dtype);
    let old_log_odds_G = match learner.old_policy(settings) {
        None => log_odds_G.clone(),
        Some((glance, focus)) => views.iter().flat_map(|v| log_odds(v.look(glance, focus, mode, (&device, dtype)).0)).collect(),
    };
    let objective = settings.objective.info();
    let acting_G = if objective.old_policy == OldPolicy::Sampled { &old_log_odds_G } else { &log_odds_G };

    // The windows themselves, one tensor a rollout, where the value head or further updates look again.
    let again = objective.needs == Needs::ValueHead || settings.objective.num_iterations() > 1;
    let mut x_GCDHW: Vec<Tensor<B, 5>> =
        views.iter().filter(|_| again).filter_map(|v| v.tensor((&learner.device, learner.dtype))).collect();
    if lab.grouping() != Grouping::Masks && x_GCDHW.len() > 1 {
        x_GCDHW = vec![Tensor::cat(x_GCDHW, 0)];
    }

    // 3. Actions and what they earn. Sets of windows are a group a scan; else every window is a sample of "select", as published.
    let mut sampled: Vec<(usize, SetOutcome)> = vec![];
    let mut rollouts: Vec<(Range<usize>, Rollout)> = if lab.grouping() == Grouping::Masks {
        let of_scan = |(slot, range): (usize, &Range<usize>)| {
            let p: Vec<f32> = acting_G[range.clone()].iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect();
            let mut rng = stream(settings.seed, "selections", step, slot as u64);
            let (table, sets) = (lab.table(&draws[slot]), WindowSets::sample(&p, settings.masks, &mut rng));
            let price = price(table, config, dual.as_ref());
            let outcomes = table.outcomes.outcomes(&sets);
            let rewards = rewards(table, &sets, &outcomes, &price, config)?;
            sampled.extend(outcomes.into_iter().map(|o| (slot, o)));
            let both = if objective.needs == Needs::BothActions { table.outcomes.both(&p, &price) } else { vec![] };
            let samples = samples_of_sets(&sets, p.len(), rewards);
            Ok((range.clone(), rollout(samples, both, table.labels.clone(), &old_log_odds_G[range.clone()])))
        };
        ranges.iter().enumerate().map(of_scan).collect::<Result<_>>()?
    } else {
        let all = 0..z_G2.dims()[0];
        let samples = samples_of_windows(lab, &draws, config.glance.group_size);
        vec![(all, rollout(samples, vec![], labels(lab, &draws), &old_log_odds_G))]
    };
    for ((_, rollout), x) in rollouts.iter_mut().zip(&x_GCDHW).filter(|_| objective.needs == Needs::ValueHead) {
        rollout.values = learner.values(x);
    }
    for (_, rollout) in &rollouts {
        check_all_finite("reward", &rollout.samples.rewards, step)?;
    }

    // 4. The objective, a scan at a time where scans are groups; Glance's supervised losses beside it.
    let target_G = labels(lab, &draws).lesion;
    let glance_ce = balanced_ce(z_G2.clone(), &target_G);
    let share = 1.0 / rollouts.len() as f64;
    let mut total = glance_ce.clone() * settings.alpha;
    let mut policy_loss = 0.0;
    let mut policy_log: Vec<(&'static str, f32)> = vec![];
    for (range, rollout) in &rollouts {
        let z = z_G2.clone().slice([range.clone(), 0..2]);
        let terms = settings.objective.loss(z, rollout).map_err(Error::Usage)?;
        policy_loss += number(&terms.policy_loss) * share as f32;
        total = total + terms.policy_loss * (settings.policy_weight * share);
        if let Some(kl) = terms.kl_loss {
            total = total + kl * share;
        }
        add_means(&mut policy_log, terms.log, share as f32);
    }
    let mean = |losses: Vec<Tensor<B, 1>>| losses.into_iter().reduce(|a, b| a + b).map(|sum| sum / draws.len() as f64);
    let (cells, second) = (mean(cell_losses), mean(second_losses));
    for loss in cells.iter().chain(&second) {
        total = total + loss.clone() * settings.cell_weight;
    }
    let mut log: StepLog =
        vec![("loss", number(&total).into()), ("losses/glance_ce", number(&glance_ce).into()), ("losses/policy_loss", policy_loss.into())];
    log.extend(cells.iter().map(|c| ("losses/glance_cells", number(c).into())));
    log.extend(second.iter().map(|c| ("losses/glance_second_look", number(c).into())));
    for (name, value) in &log {
        check_finite(name, value.as_f64(), step)?;
    }

    // 5. One step of Glance's optimiser, and more from the same actions where the objective has them. Focus stays.
    let updates = learner.update_glance(total, settings)?;
    for (x, (_, rollout)) in x_GCDHW.iter().zip(&rollouts) {
        log.extend(learner.iterate(x, rollout, settings)?);
    }

    // 6. The constraint's prices move by what the selections made of it.
    if let Some(dual) = dual {
        dual.update(sampled.iter().map(|&(slot, outcome)| (&lab.table(&draws[slot]).outcomes, outcome)));
        log.push(("selection/price", dual.multipliers.iter().fold(0.0f32, |a, m| a.max(*m)).into()));
    }
    log.extend(policy_log.into_iter().map(|(n, v)| (n, v.into())));
    log.extend(of_selections(lab, &draws, &sampled));
    let count = log_odds_G.len().max(1) as f32;
    log.push(("selected_share", (log_odds_G.iter().filter(|&&z| z > 0.0).count() as f32 / count).into()));
    log.push(("positive_share", (target_G.iter().sum::<f32>() / count).into()));
    log.extend(updates);
    learner.step += 1;
    Ok(log)
}

fn number<B: TrainBackend>(t: &Tensor<B, 1>) -> f32 {
    t.clone().into_scalar().elem()
}

/// The windows of each draw among those of the step.
fn ranges(draws: &[Draw]) -> Vec<Range<usize>> {
    let ends = draws.iter().scan(0, |end, d| {
        *end += d.windows.len();
        Some(*end - d.windows.len()..*end)
    });
    ends.collect()
}

fn rollout(samples: Samples, both: Vec<[f32; 2]>, labels: Labels, old_log_odds: &[f32]) -> Rollout {
    let values = vec![0.0; old_log_odds.len()];
    Rollout { samples, both, labels, values, old_log_odds: old_log_odds.to_vec(), reference_log_odds: old_log_odds.to_vec() }
}

/// What lesions, windows and false alarms count.
fn price(table: &WindowTable, config: &Config, dual: Option<&Dual>) -> Price {
    let env = &config.env;
    let set = SetReward { window_cost: env.window_cost as f32, false_alarm_cost: env.false_alarm_cost as f32 / FALSE_ALARM_ML };
    match dual {
        None => table.outcomes.price(set),
        Some(dual) => Price { of_false_alarm: set.false_alarm_cost, ..dual.price(&table.outcomes) },
    }
}

fn rewards(table: &WindowTable, sets: &WindowSets, outcomes: &[SetOutcome], price: &Price, config: &Config) -> Result<Vec<f32>> {
    let scores: Vec<f64> = match (config.selection.reward, &table.volume) {
        (SetScore::Dice, Some(volume)) => volume.dice(sets),
        (SetScore::Flare, Some(volume)) => volume.flare(sets)?.iter().map(|s| (s.dsc + s.nsd) / 2.0).collect(),
        _ => return Ok(outcomes.iter().map(|o| price.worth(o)).collect()),
    };
    Ok(scores.iter().zip(outcomes).map(|(&s, o)| s as f32 - price.of_window * o.windows_used as f32).collect())
}

fn samples_of_sets(sets: &WindowSets, windows: usize, rewards: Vec<f32>) -> Samples {
    let mut selected = vec![false; sets.len() * windows];
    for (s, selected) in selected.chunks_exact_mut(windows.max(1)).enumerate() {
        sets.windows(s).for_each(|w| selected[w] = true);
    }
    Samples {
        width: windows,
        windows: (0..sets.len()).flat_map(|_| 0..windows).collect(),
        selected,
        groups: vec![0; rewards.len()],
        rewards,
    }
}

fn samples_of_windows(lab: &Lab, draws: &[Draw], group_size: Option<usize>) -> Samples {
    let (mut rewards, mut groups) = (vec![], vec![]);
    for (slot, draw) in draws.iter().enumerate() {
        for &w in &draw.windows {
            let whole = if lab.grouping() == Grouping::Volume { slot } else { 0 };
            groups.push(group_size.map_or(whole, |size| rewards.len() / size) as u32);
            rewards.push(lab.table(draw).rewards[w]);
        }
    }
    let g = rewards.len();
    Samples { width: 1, windows: (0..g).collect(), selected: vec![true; g], rewards, groups }
}

fn labels(lab: &Lab, draws: &[Draw]) -> Labels {
    let of = |pick: fn(&Labels) -> &Vec<f32>| -> Vec<f32> {
        draws.iter().flat_map(|d| d.windows.iter().map(move |&w| pick(&lab.table(d).labels)[w])).collect()
    };
    Labels { lesion: of(|l| &l.lesion), volume: of(|l| &l.volume), best: of(|l| &l.best) }
}

/// Add `share` of each value to the value of its name.
fn add_means(means: &mut Vec<(&'static str, f32)>, values: Vec<(&'static str, f32)>, share: f32) {
    for (name, value) in values {
        match means.iter_mut().find(|(n, _)| *n == name) {
            Some((_, mean)) => *mean += share * value,
            None => means.push((name, share * value)),
        }
    }
}

/// Mean share of the windows, recall and false alarm of the selections sampled.
fn of_selections(lab: &Lab, draws: &[Draw], sampled: &[(usize, SetOutcome)]) -> StepLog {
    if sampled.is_empty() {
        return vec![];
    }
    let n = sampled.len() as f64;
    let mean =
        |f: &dyn Fn(&WindowTable, &SetOutcome) -> f64| sampled.iter().map(|(slot, o)| f(lab.table(&draws[*slot]), o)).sum::<f64>() / n;
    let diseased = sampled.iter().filter(|(slot, _)| lab.table(&draws[*slot]).outcomes.lesions() != [0; 3]).count().max(1) as f64;
    let recall = |t: &WindowTable, o: &SetOutcome| {
        let all = t.outcomes.lesions().iter().sum::<u32>();
        if all == 0 { 0.0 } else { f64::from(o.found.iter().sum::<u32>()) / f64::from(all) }
    };
    vec![
        ("selection/windows", mean(&|t, o| f64::from(o.windows_used) / t.starts.len().max(1) as f64).into()),
        ("selection/recall", (mean(&recall) * n / diseased).into()),
        ("selection/false_alarm_ml", mean(&|_, o| f64::from(o.false_alarm)).into()),
    ]
}
