//! The toy problem of `losses.json` (8 masks over 12 sub-volumes of one scan), and finite differences, for the tests of objectives.

use burn::backend::{Autodiff, Flex};
use burn::tensor::{DType, Tensor, TensorData, backend::Backend};
use panscreen_envs::screening::Labels;
use serde_json::Value;

use super::{Objective, Rollout, Samples, Terms};
use crate::losses::golden::{check_close, losses, numbers, singles};

type B = Autodiff<Flex>;

/// Logits (0, z) in f64.
pub fn logits<B: Backend>(z: &[f64]) -> Tensor<B, 2> {
    let both: Vec<f64> = z.iter().flat_map(|&z| [0.0, z]).collect();
    Tensor::from_data(TensorData::new(both, [z.len(), 2]), (&Default::default(), DType::F64))
}

fn problem() -> Value {
    losses()["rl_variants"].clone()
}

pub fn golden(name: &str) -> Value {
    problem()["objectives"][name].clone()
}

pub fn golden_rollout() -> Rollout {
    let all = problem();
    let (r1, r0) = (singles(&all["objectives"]["exact_bernoulli"]["R1"]), singles(&all["objectives"]["exact_bernoulli"]["R0"]));
    let lesion: Vec<f32> = (0..12).map(|i| f32::from(u8::from(i % 4 == 1))).collect();
    Rollout {
        old_log_odds: singles(&all["old"]),
        reference_log_odds: singles(&all["ref"]),
        samples: Samples {
            width: 12,
            windows: (0..8).flat_map(|_| 0..12).collect(),
            selected: numbers(&all["a"]).into_iter().map(|a| a == 1.0).collect(),
            rewards: singles(&all["R"]),
            groups: vec![5; 8],
        },
        values: singles(&all["objectives"]["ppo_value"]["V"]),
        both: r0.into_iter().zip(r1).map(|(r0, r1)| [r0, r1]).collect(),
        labels: Labels { volume: lesion.iter().map(|y| y * 0.7).collect(), best: lesion.clone(), lesion },
    }
}

pub fn golden_z() -> Vec<f64> {
    numbers(&problem()["z"])
}

/// Loss with penalty, and its gradient on the log-odds.
pub fn value_and_gradient(objective: &impl Objective, z: &[f64], rollout: &Rollout) -> (f64, Vec<f64>) {
    let logits = logits::<B>(z).require_grad();
    let Terms { policy_loss, kl_loss, .. } = objective.loss(logits.clone(), rollout).unwrap();
    let loss = match kl_loss {
        Some(kl) => policy_loss + kl,
        None => policy_loss,
    };
    let value = loss.clone().into_data().iter::<f64>().sum();
    let gradient: Vec<f64> = logits.grad(&loss.backward()).unwrap().into_data().iter::<f64>().collect();
    for row in gradient.chunks(2) {
        check_close("the two logits pull against each other", &[row[0]], &[-row[1]], 1e-12);
    }
    (value, gradient.chunks(2).map(|row| row[1]).collect())
}

/// Loss and gradient on the toy problem are those of `losses.json`.
pub fn check_golden(objective: &impl Objective, name: &str) {
    let golden = golden(name);
    let (loss, gradient) = value_and_gradient(objective, &golden_z(), &golden_rollout());
    check_close(name, &[loss], &numbers(&golden["loss"]), 1e-6);
    check_close(&format!("gradient of {name}"), &gradient, &numbers(&golden["grad"]), 1e-6);
}

/// The gradient is that of the loss.
pub fn check_gradient(objective: &impl Objective, z: &[f64], rollout: &Rollout) {
    let (_, gradient) = value_and_gradient(objective, z, rollout);
    let difference: Vec<f64> = (0..z.len())
        .map(|i| {
            let at = |step: f64| {
                let mut moved = z.to_vec();
                moved[i] += step;
                value_and_gradient(objective, &moved, rollout).0
            };
            (at(1e-5) - at(-1e-5)) / 2e-5
        })
        .collect();
    check_close("finite differences", &difference, &gradient, 1e-8);
}

/// Sub-volumes with log-odds `z` and labels `y`: the loss of a supervised objective, by hand.
pub fn check_supervised(objective: &impl Objective, z: &[f64], y: &[f32], expected: f64) {
    let labels = Labels { lesion: y.to_vec(), volume: y.to_vec(), best: y.to_vec() };
    let rollout = Rollout { labels, ..Rollout::default() };
    check_close("by hand", &[value_and_gradient(objective, z, &rollout).0], &[expected], 1e-6);
    check_gradient(objective, z, &rollout);
}
