//! Learning-rate schedules as closed forms of the step, so that resuming needs no state.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Learning rate over the optimiser steps of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Shape after the warm-up. Default `cosine`.
    pub kind: ScheduleKind,
    /// Optimiser steps during which the rate rises linearly from 0 to its full value. Default 0: none. Published: one epoch, for Focus.
    pub warmup_steps: u64,
    /// Exponent of `poly`, > 0. Default 0.9, as nnU-Net. Larger: falls earlier.
    pub power: f64,
}

/// Shape of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Stays at its full value, as Glance's in the published code.
    Constant,
    /// Half a cosine down to 0 at the last step.
    Cosine,
    /// `(1 - t / T)^power`, nnU-Net's.
    Poly,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self { kind: ScheduleKind::Cosine, warmup_steps: 0, power: 0.9 }
    }
}

impl ScheduleConfig {
    /// Names the first value out of its range.
    pub fn check(&self) -> Result<(), String> {
        if !(self.power.is_finite() && self.power > 0.0) {
            return Err(format!("`power` is {}, expected a number > 0", self.power));
        }
        Ok(())
    }

    /// Learning rate of optimiser step `step` (from 0) in a run of `total` steps, whose full value is `base`.
    ///
    /// With W warm-up steps: `base * t / (W - 1)` for t < W, so that the very first step has rate 0 as published; then, with
    /// x = (t - W) / (T - W), `base / 2 * (1 + cos(pi x))` or `base * (1 - x)^power`. From `total` on the rate stays at its last value.
    pub fn lr(&self, base: f64, step: u64, total: u64) -> f64 {
        let warmup = self.warmup_steps;
        if step < warmup {
            return base * step as f64 / (warmup - 1).max(1) as f64;
        }
        let x = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
        let x = x.min(1.0);
        match self.kind {
            ScheduleKind::Constant => base,
            ScheduleKind::Cosine => 0.5 * base * (1.0 + (std::f64::consts::PI * x).cos()),
            ScheduleKind::Poly => base * (1.0 - x).powf(self.power),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::golden::{check_close, losses, numbers};

    fn schedule(kind: ScheduleKind, warmup_steps: u64) -> ScheduleConfig {
        ScheduleConfig { kind, warmup_steps, ..ScheduleConfig::default() }
    }

    #[test]
    fn cosine_and_poly_equal_the_references() {
        let golden = &losses()["schedule"];
        let small: Vec<f64> = (0..100).map(|t| schedule(ScheduleKind::Cosine, 10).lr(3e-4, t, 100)).collect();
        check_close("small", &small, &numbers(&golden["small"]["all"]), 1e-16);
        let paper = schedule(ScheduleKind::Cosine, 2370);
        for sample in golden["paper"]["samples"].as_array().unwrap() {
            let (t, lr) = (sample[0].as_u64().unwrap(), sample[1].as_f64().unwrap());
            check_close(&format!("paper, step {t}"), &[paper.lr(3e-4, t, 1_185_000)], &[lr], 1e-16);
        }
        for sample in golden["poly"]["samples"].as_array().unwrap() {
            let (t, lr) = (sample[0].as_u64().unwrap(), sample[1].as_f64().unwrap());
            check_close(&format!("poly, step {t}"), &[schedule(ScheduleKind::Poly, 0).lr(0.01, t, 1000)], &[lr], 1e-16);
        }
    }

    #[test]
    fn rates_stay_finite_in_odd_runs() {
        for kind in [ScheduleKind::Constant, ScheduleKind::Cosine, ScheduleKind::Poly] {
            for (warmup, total) in [(0, 0), (1, 1), (10, 5), (0, 1), (5, 5)] {
                for step in [0, 1, 5, 100] {
                    let lr = schedule(kind, warmup).lr(1.0, step, total);
                    assert!((0.0..=1.0).contains(&lr), "{kind:?}, warm-up {warmup}, step {step} of {total}: {lr}");
                }
            }
        }
        assert_eq!(schedule(ScheduleKind::Constant, 0).lr(3e-4, 0, 10), 3e-4);
        assert!(schedule(ScheduleKind::Cosine, 0).lr(3e-4, 11, 10) < 1e-18, "no bounce after the last step");
    }
}
