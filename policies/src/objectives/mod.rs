//! Policy objectives of Glance, one file each, on explicit group ids.
//!
//! An objective takes the logits of G sub-volumes (`logits_G2`: discard, select) and a [`Rollout`]: the actions that were sampled, what they
//! earned, what the old policy thought of them, and what the labels say. It answers with differentiable terms and the numbers worth logging,
//! under TRL's names. Adding one touches its own file and the list in this one.
//!
//! Shapes: G sub-volumes, S samples (actions with one reward each), W sub-volumes that a sample decides on.

mod advantage;
mod asymmetric;
mod balanced_ce;
mod best_window;
mod ce;
mod cispo;
mod dapo;
mod dr_grpo;
mod exact;
mod focal;
mod grl;
mod grpo;
mod gspo;
mod ohem;
mod ppo;
mod reinforce;
mod rloo;
mod rollout;
mod soft_volume;
mod surrogate;
#[cfg(test)]
mod testing;

pub use advantage::{AdvantageConfig, Advantages, ScaleRewards, advantages};
pub use asymmetric::AsymmetricConfig;
pub use balanced_ce::BalancedCeConfig;
pub use best_window::BestWindowConfig;
pub use ce::CeConfig;
pub use cispo::CispoConfig;
pub use dapo::DapoConfig;
pub use dr_grpo::DrGrpoConfig;
pub use exact::ExactConfig;
pub use focal::FocalConfig;
pub use grl::{Action, Grl, GrlCompat, GrlConfig, Kl, grl, log_odds};
pub use grpo::GrpoConfig;
pub use gspo::GspoConfig;
pub use ohem::OhemConfig;
pub use ppo::{PpoConfig, value_loss};
pub use reinforce::ReinforceConfig;
pub use rloo::RlooConfig;
pub use rollout::{PolicyStats, Rollout, Samples, Terms};
pub use soft_volume::SoftVolumeConfig;
pub use surrogate::ImportanceSampling;

use burn::tensor::{Tensor, backend::Backend};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an objective needs of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Needs {
    /// Rewards in groups of two or more, of whatever meaning.
    Groups,
    /// Actions that were drawn from the policy, several of each scan: `env.group = "masks"`.
    SampledMasks,
    /// The expected reward of both actions of each sub-volume: `env.group = "masks"`.
    BothActions,
    /// A value head beside the policy.
    ValueHead,
    /// Lesion labels only; rewards are logged, not used.
    Labels,
}

/// What the old policy is to an objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OldPolicy {
    /// Nothing: actions are those of the policy as it is.
    Unused,
    /// The policy that the ratio holds on to; actions are those of the policy as it is.
    Compared,
    /// The policy that actions are drawn from; the ratio corrects for it.
    Sampled,
}

/// What an objective is, known without its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ObjectiveInfo {
    /// Name in a config, snake case.
    pub name: &'static str,
    /// One line for lists.
    pub summary: &'static str,
    pub needs: Needs,
    pub old_policy: OldPolicy,
}

/// What teaches Glance in a step.
pub trait Objective {
    const INFO: ObjectiveInfo;

    /// Names the first setting out of its range.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Updates made of one rollout, at least 1, as TRL's `num_iterations`.
    fn num_iterations(&self) -> usize {
        1
    }

    /// Parts that the samples of each update are dealt into, at least 1.
    fn num_mini_batches(&self) -> usize {
        1
    }

    /// `logits_G2` and what the step saw -> loss, penalty, log.
    ///
    /// # Errors
    /// A sentence where the rollout can't teach: a group of one reward.
    fn loss<B: Backend>(&self, logits_g2: Tensor<B, 2>, rollout: &Rollout) -> Result<Terms<B>, String>;
}

macro_rules! objectives {
    ($($(#[$doc:meta])* $variant:ident($config:ty),)*) => {
        /// Every objective, by `name`.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(tag = "name", rename_all = "snake_case")]
        pub enum ObjectiveKind {
            $($(#[$doc])* $variant($config),)*
        }

        /// Every objective there is.
        pub fn all() -> Vec<ObjectiveInfo> {
            vec![$(<$config>::INFO,)*]
        }

        impl ObjectiveKind {
            pub fn info(&self) -> ObjectiveInfo {
                match self { $(ObjectiveKind::$variant(_) => <$config>::INFO,)* }
            }

            /// See [`Objective::check`].
            pub fn check(&self) -> Result<(), String> {
                match self { $(ObjectiveKind::$variant(config) => config.check(),)* }
            }

            /// See [`Objective::num_iterations`].
            pub fn num_iterations(&self) -> usize {
                match self { $(ObjectiveKind::$variant(config) => config.num_iterations(),)* }
            }

            /// See [`Objective::num_mini_batches`].
            pub fn num_mini_batches(&self) -> usize {
                match self { $(ObjectiveKind::$variant(config) => config.num_mini_batches(),)* }
            }

            /// See [`Objective::loss`].
            pub fn loss<B: Backend>(&self, logits_g2: Tensor<B, 2>, rollout: &Rollout) -> Result<Terms<B>, String> {
                match self { $(ObjectiveKind::$variant(config) => config.loss(logits_g2, rollout),)* }
            }
        }
    };
}

objectives! {
    /// Clipped group-relative objective with KL (GF-Screen).
    Grl(GrlConfig),
    /// Group-relative policy optimisation.
    Grpo(GrpoConfig),
    /// GRPO without its two biases: no division by the deviation, a constant length.
    DrGrpo(DrGrpoConfig),
    /// GRPO with a higher upper clip; groups that teach nothing are left out.
    Dapo(DapoConfig),
    /// GRPO with one ratio a selection.
    Gspo(GspoConfig),
    /// Cut importance weights that keep every gradient.
    Cispo(CispoConfig),
    /// REINFORCE against the mean of the other selections.
    Rloo(RlooConfig),
    /// REINFORCE against the mean of all selections.
    Reinforce(ReinforceConfig),
    /// Clipped ratio against a value head, several passes.
    Ppo(PpoConfig),
    /// The gradient of the expected reward itself, nothing sampled.
    Exact(ExactConfig),
    /// Cross-entropy with "holds lesion".
    Ce(CeConfig),
    /// Cross-entropy in which both classes weigh alike.
    BalancedCe(BalancedCeConfig),
    /// Cross-entropy that looks past what is easy.
    Focal(FocalConfig),
    /// Cross-entropy of the hardest sub-volumes.
    Ohem(OhemConfig),
    /// Focal loss that lets go of easy negatives.
    Asymmetric(AsymmetricConfig),
    /// Balanced cross-entropy with the share of the lesion in the sub-volume.
    SoftVolume(SoftVolumeConfig),
    /// Balanced cross-entropy with "the sub-volume that shows a lesion best".
    BestWindow(BestWindowConfig),
}

impl Default for ObjectiveKind {
    fn default() -> Self {
        ObjectiveKind::Grl(GrlConfig::default())
    }
}

/// Refuses a value outside `low..=high`, naming the key.
fn within(key: &str, value: f64, low: f64, high: f64) -> Result<(), String> {
    let (above, below) = (value >= low, value <= high);
    if above && below && value.is_finite() {
        return Ok(());
    }
    let range = if high.is_finite() { format!("a number from {low} to {high}") } else { format!("a number >= {low}") };
    Err(format!("`{key}` is {value}, expected {range}"))
}

fn at_least_one(key: &str, value: usize) -> Result<(), String> {
    if value > 0 { Ok(()) } else { Err(format!("`{key}` is 0, expected a whole number >= 1")) }
}

#[cfg(test)]
mod tests {
    use super::testing::{golden_rollout, logits};
    use super::*;
    use burn::backend::{Autodiff, Flex};
    use panscreen_envs::rng::stream;
    use panscreen_envs::screening::cached::{CachedScan, WindowSets};
    use panscreen_envs::screening::{Labels, SetReward};

    /// Every objective with its default settings.
    fn every() -> Vec<ObjectiveKind> {
        let of = |info: ObjectiveInfo| serde_json::from_value(serde_json::json!({ "name": info.name })).unwrap();
        all().into_iter().map(of).collect()
    }

    #[test]
    fn names_are_unique_and_lead_to_their_objective() {
        let mut names: Vec<_> = all().iter().map(|i| i.name).collect();
        for (objective, name) in every().iter().zip(&names) {
            assert_eq!((&objective.info().name, objective.check()), (name, Ok(())));
            assert!(objective.num_iterations() > 0 && objective.num_mini_batches() > 0);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 17);
    }

    #[test]
    fn a_group_of_one_is_refused_by_what_compares_groups() {
        let mut rollout = golden_rollout();
        rollout.samples.groups[3] = 77;
        for objective in every().into_iter().filter(|o| o.info().name != "grl") {
            let refused = objective.loss::<Flex>(logits(&[0.0; 12]), &rollout).is_err();
            assert_eq!(refused, matches!(objective.info().needs, Needs::Groups | Needs::SampledMasks), "{}", objective.info().name);
        }
    }

    /// Window 2 shows the only lesion, every look costs: each objective must come to look there and nowhere else.
    #[test]
    fn every_objective_learns_a_scan_with_one_lesion() {
        let scan = CachedScan::new(&[vec![], vec![], vec![0], vec![]], vec![0], vec![0.0; 4]);
        let cost = SetReward { window_cost: 0.8, false_alarm_cost: 0.0 };
        let lesion = vec![0.0, 0.0, 1.0, 0.0];
        for objective in every() {
            let mut z = vec![0.0_f64; 4];
            for step in 0..300 {
                let p: Vec<f32> = z.iter().map(|z| (1.0 / (1.0 + (-z).exp())) as f32).collect();
                let sets = WindowSets::sample(&p, 16, &mut stream(1, "toy", step, 0));
                let mut selected = vec![false; 64];
                (0..16).for_each(|s| sets.windows(s).for_each(|w| selected[s * 4 + w] = true));
                let samples = Samples {
                    width: 4,
                    windows: (0..16).flat_map(|_| 0..4).collect(),
                    selected,
                    rewards: scan.outcomes(&sets).iter().map(|o| scan.reward(o, cost)).collect(),
                    groups: vec![0; 16],
                };
                let log_odds: Vec<f32> = z.iter().map(|&z| z as f32).collect();
                let rollout = Rollout {
                    old_log_odds: log_odds.clone(),
                    reference_log_odds: log_odds,
                    samples,
                    values: vec![0.0; 4],
                    both: scan.both(&p, &scan.price(cost)),
                    labels: Labels { lesion: lesion.clone(), volume: lesion.clone(), best: lesion.clone() },
                };
                let leaf = logits::<Autodiff<Flex>>(&z).require_grad();
                let loss = objective.loss(leaf.clone(), &rollout).unwrap().policy_loss;
                let gradient: Vec<f64> = leaf.grad(&loss.backward()).unwrap().into_data().iter::<f64>().collect();
                // Of the gradient only the direction: losses differ in scale, and an optimiser evens that out.
                let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt().max(1e-12);
                z.iter_mut().zip(gradient.chunks(2)).for_each(|(z, g)| *z -= 0.1 * g[1] / norm);
            }
            let right = z.iter().enumerate().all(|(w, z)| (*z > 0.5) == (w == 2) && (*z < -0.5) == (w != 2));
            assert!(right, "{}: log-odds {z:?}", objective.info().name);
        }
    }

    #[test]
    fn certain_policies_stay_finite() {
        let rollout = Rollout { old_log_odds: vec![-60.0; 12], reference_log_odds: vec![60.0; 12], ..golden_rollout() };
        for objective in every() {
            for z in [-80.0, 80.0] {
                let terms = objective.loss::<Flex>(logits(&[z; 12]), &rollout).unwrap();
                let loss: f64 = terms.policy_loss.into_data().iter::<f64>().sum();
                assert!(loss.is_finite() && terms.log.iter().all(|(_, v)| v.is_finite()), "{objective:?} at {z}: {loss}, {:?}", terms.log);
            }
        }
    }
}
