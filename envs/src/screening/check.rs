//! `panscreen env check`: proof that an environment keeps its promises.

use serde::Serialize;

use super::{CropEnv, EnvState, Environment, Grouping, Observation, Selection};
use crate::{Error, Result};

/// One promise and what was seen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckReport {
    pub promise: &'static str,
    pub kept: bool,
    pub seen: String,
}

/// Walk one episode with a perfect Focus (its masks are the labels) and test each promise.
pub fn check(env: &CropEnv, seed: u64) -> Result<Vec<CheckReport>> {
    let mut reports = Vec::new();
    let mut report = |promise, kept, seen: String| reports.push(CheckReport { promise, kept, seen });

    let mut one = env.clone();
    let first = one.reset(seed)?;
    let same = one.reset(seed)? == first;
    report("same seed, same bytes", same, format!("{} intensities compared", first.x.len()));
    let other = one.reset(seed.wrapping_add(1))? != first;
    report("another seed, other bytes", other, format!("seeds {seed} and {}", seed.wrapping_add(1)));
    let alone = single_thread(|| env.observe(seed, 0))?;
    report("one thread, same bytes", alone == first, "one thread against all".into());

    let expected = env.config().group_size()?;
    let sizes: Vec<usize> = first.members().iter().map(|(_, m)| m.len()).collect();
    report("group sizes as configured", sizes.iter().all(|&s| s == expected), format!("{sizes:?}, configured {expected}"));

    let mut now = one.reset(seed)?;
    let (mut steps, mut finite, mut rewards, middle) = (0u64, true, 0usize, env.config().episode / 2);
    let mut resumed = None;
    let terminated = loop {
        if steps == middle {
            let text = serde_json::to_string(&one.state()).map_err(|e| Error::Setting(e.to_string()))?;
            let state: EnvState = serde_json::from_str(&text).map_err(|e| Error::Setting(e.to_string()))?;
            resumed = Some(env.clone().restore(state)? == now);
        }
        let step = one.step(&selection(env, &now), &oracle(&now))?;
        finite &= step.outcome.rewards.iter().all(|r| r.is_finite());
        rewards += step.outcome.rewards.len();
        steps += 1;
        match step.next {
            Some(next) => now = next,
            None => break true,
        }
        if steps > env.config().episode {
            break false;
        }
    };
    report("rewards are finite", finite, format!("{rewards} rewards"));
    report("the episode ends", terminated, format!("after {steps} steps, configured {}", env.config().episode));
    report("state survives a round trip", resumed == Some(true), format!("saved and restored at step {middle}"));
    Ok(reports)
}

/// Masks of a Focus that is always right.
fn oracle(observation: &Observation) -> Vec<u8> {
    observation.lesion.iter().map(|&n| (n > 0) as u8).collect()
}

fn selection(env: &CropEnv, observation: &Observation) -> Selection {
    let mut selection = Selection::all(observation.len());
    if env.config().grouping == Grouping::Masks {
        selection.masks.push(vec![false; observation.len()]);
    }
    selection
}

fn single_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(|e| Error::Setting(format!("no thread pool: {e}")))?;
    pool.install(work)
}

#[cfg(test)]
mod tests {
    use super::super::environment::tests::env;
    use super::*;

    #[test]
    fn every_promise_is_kept_for_every_meaning_of_group() {
        for grouping in [Grouping::Batch, Grouping::Volume, Grouping::Masks] {
            for r in check(&env(grouping, 1.5), 11).unwrap() {
                assert!(r.kept, "{grouping:?}: {} ({})", r.promise, r.seen);
            }
        }
    }
}
