//! A learned gate after Focus: is a finding a lesion? Logistic regression on what a finding looks like.

use serde::{Deserialize, Serialize};

use crate::volume::components::{Component, Components, Connectivity};
use crate::volume::runs::Runs;

/// What a finding is judged by.
pub const FEATURES: [&str; 8] =
    ["log_volume", "compactness", "contrast", "highest_confidence", "mean_confidence", "right_left", "back_front", "foot_head"];

/// Voxels around a finding's box that its contrast is taken against.
const SURROUND: usize = 2;

/// Weight of the squares of the coefficients, for standardised features: a few findings teach little.
const RIDGE: f64 = 1.0;

/// Deviation from which a feature differs between findings by more than rounding.
const LEAST_DEVIATION: f64 = 1e-6;

/// A finding: a 26-connected component of what Focus marks, on the prepared grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub component: Component,
    pub features: [f64; FEATURES.len()],
}

/// Findings of `probability > threshold` with their runs' component numbers, in the order of [`Components::parts`].
///
/// `image`: the prepared intensities of one channel, `[X][Y][Z]` as the probability. `voxel_ml`: volume of a voxel.
pub fn findings(probability: &[f32], image: &[f32], shape: [usize; 3], threshold: f32, voxel_ml: f64) -> (Runs, Components, Vec<Finding>) {
    let mask: Vec<u8> = probability.iter().map(|&p| u8::from(p > threshold)).collect();
    let runs = Runs::of(&mask, shape);
    let components = Components::of(&runs, Connectivity::Corner);
    let mut of_component = vec![Sums::default(); components.count()];
    let mut number = 0;
    runs.for_each(|x, y, _, run| {
        let sums = &mut of_component[components.of_run[number] as usize - 1];
        number += 1;
        let row = (x * shape[1] + y) * shape[2];
        for v in row + run.start as usize..row + run.end as usize {
            sums.highest = sums.highest.max(probability[v]);
            sums.confidence += f64::from(probability[v]);
            sums.intensity += f64::from(image[v]);
        }
    });
    let found = components.parts.iter().zip(&of_component);
    let found = found.map(|(c, s)| Finding { component: c.clone(), features: features(c, s, &mask, image, shape, voxel_ml) }).collect();
    (runs, components, found)
}

#[derive(Clone, Default)]
struct Sums {
    highest: f32,
    confidence: f64,
    intensity: f64,
}

fn features(c: &Component, s: &Sums, mask: &[u8], image: &[f32], shape: [usize; 3], voxel_ml: f64) -> [f64; FEATURES.len()] {
    let n = c.voxels.max(1) as f64;
    let side: [f64; 3] = std::array::from_fn(|a| (c.box_end[a] - c.box_start[a]).max(1) as f64);
    // What surrounds it: unmarked voxels of its box and a little more.
    let low: [usize; 3] = std::array::from_fn(|a| c.box_start[a].saturating_sub(SURROUND));
    let high: [usize; 3] = std::array::from_fn(|a| (c.box_end[a] + SURROUND).min(shape[a]));
    let (mut around, mut count) = (0.0, 0_u64);
    for x in low[0]..high[0] {
        for y in low[1]..high[1] {
            let row = (x * shape[1] + y) * shape[2];
            for v in row + low[2]..row + high[2] {
                if mask[v] == 0 {
                    around += f64::from(image[v]);
                    count += 1;
                }
            }
        }
    }
    let inside = s.intensity / n;
    let place = |a: usize| (c.centroid[a] + 0.5) / shape[a].max(1) as f64;
    [
        (n * voxel_ml).max(1e-6).ln(),
        n / side.iter().product::<f64>(),
        if count > 0 { inside - around / count as f64 } else { 0.0 },
        f64::from(s.highest),
        s.confidence / n,
        place(0),
        place(1),
        place(2),
    ]
}

/// The probability that a finding is a lesion: a logistic function of its standardised features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    mean: Vec<f64>,
    deviation: Vec<f64>,
    coefficients: Vec<f64>,
    intercept: f64,
    /// Findings below it are dropped.
    pub threshold: f64,
}

impl Gate {
    /// From findings of which it is known whether they are lesions; `None` where all are alike. The threshold is 0: it drops nothing yet.
    pub fn fit(examples: &[([f64; FEATURES.len()], bool)]) -> Option<Self> {
        if examples.iter().all(|e| e.1) || !examples.iter().any(|e| e.1) {
            return None;
        }
        let n = examples.len() as f64;
        let mean: Vec<f64> = (0..FEATURES.len()).map(|f| examples.iter().map(|e| e.0[f]).sum::<f64>() / n).collect();
        let deviation = |f: usize| (examples.iter().map(|e| (e.0[f] - mean[f]).powi(2)).sum::<f64>() / n).sqrt();
        // A feature that was the same everywhere teaches nothing: divided by its rounding error it would decide about every finding to come.
        let deviation: Vec<f64> = (0..FEATURES.len()).map(deviation).map(|d| if d > LEAST_DEVIATION { d } else { 1.0 }).collect();
        let mut gate = Gate { mean, deviation, coefficients: vec![0.0; FEATURES.len()], intercept: 0.0, threshold: 0.0 };
        let rows: Vec<(Vec<f64>, f64)> =
            examples.iter().map(|(x, y)| (gate.standardised(x).chain([1.0]).collect(), f64::from(u8::from(*y)))).collect();
        let mut weights = vec![0.0; FEATURES.len() + 1];
        // Newton's method on a strictly convex loss: a handful of steps.
        for _ in 0..50 {
            let step = newton_step(&rows, &weights)?;
            weights.iter_mut().zip(&step).for_each(|(w, s)| *w -= s);
            if step.iter().all(|s| s.abs() < 1e-10) {
                break;
            }
        }
        gate.intercept = weights.pop()?;
        gate.coefficients = weights;
        Some(gate)
    }

    fn standardised<'a>(&'a self, features: &'a [f64; FEATURES.len()]) -> impl Iterator<Item = f64> + 'a {
        features.iter().zip(&self.mean).zip(&self.deviation).map(|((x, m), d)| (x - m) / d)
    }

    /// Probability that a finding with these features is a lesion.
    pub fn probability(&self, features: &[f64; FEATURES.len()]) -> f64 {
        let z: f64 = self.standardised(features).zip(&self.coefficients).map(|(x, w)| x * w).sum();
        1.0 / (1.0 + (-(z + self.intercept)).exp())
    }

    /// Take the findings that the gate drops out of `probability`; how many those are. Arguments as in [`findings`].
    pub fn apply(&self, probability: &mut [f32], image: &[f32], shape: [usize; 3], threshold: f32, voxel_ml: f64) -> usize {
        let (runs, components, found) = findings(probability, image, shape, threshold, voxel_ml);
        let dropped: Vec<bool> = found.iter().map(|f| self.probability(&f.features) < self.threshold).collect();
        let mut number = 0;
        runs.for_each(|x, y, _, run| {
            if dropped[components.of_run[number] as usize - 1] {
                let row = (x * shape[1] + y) * shape[2];
                probability[row + run.start as usize..row + run.end as usize].fill(0.0);
            }
            number += 1;
        });
        dropped.into_iter().filter(|d| *d).count()
    }
}

/// Gradient over Hessian of the penalised log loss at `weights`; the last weight, the intercept, is not penalised.
fn newton_step(rows: &[(Vec<f64>, f64)], weights: &[f64]) -> Option<Vec<f64>> {
    let k = weights.len();
    let (mut gradient, mut hessian) = (vec![0.0; k], vec![vec![0.0; k]; k]);
    for i in 0..k - 1 {
        gradient[i] = RIDGE * weights[i];
        hessian[i][i] = RIDGE;
    }
    for (x, y) in rows {
        let z: f64 = x.iter().zip(weights).map(|(x, w)| x * w).sum();
        let p = 1.0 / (1.0 + (-z).exp());
        for i in 0..k {
            gradient[i] += (p - y) * x[i];
            for j in 0..k {
                hessian[i][j] += (p * (1.0 - p)).max(1e-9) * x[i] * x[j];
            }
        }
    }
    solve(hessian, gradient)
}

/// Gaussian elimination with the largest pivot; `None` where there is none.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let n = b.len();
    for i in 0..n {
        let pivot = (i..n).max_by(|&p, &q| a[p][i].abs().total_cmp(&a[q][i].abs()))?;
        a.swap(i, pivot);
        b.swap(i, pivot);
        if a[i][i].abs() < 1e-12 {
            return None;
        }
        for r in i + 1..n {
            let factor = a[r][i] / a[i][i];
            let pivot_row = a[i].clone();
            a[r].iter_mut().zip(&pivot_row).skip(i).for_each(|(v, p)| *v -= factor * p);
            b[r] -= factor * b[i];
        }
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|c| a[i][c] * b[c]).sum();
        b[i] = (b[i] - known) / a[i][i];
    }
    b.iter().all(|v| v.is_finite()).then_some(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{RngExt, stream};

    #[test]
    fn features_by_hand() {
        // A bar of three voxels along z, brighter than what surrounds it by 0.5, and a voxel far off.
        let shape = [5, 5, 12];
        let (mut probability, mut image) = (vec![0.0; 300], vec![0.25; 300]);
        let bar = (2 * 5 + 2) * 12;
        for (z, p) in [(2, 0.6), (3, 0.9), (4, 0.6)] {
            probability[bar + z] = p;
            image[bar + z] = 0.75;
        }
        probability[11] = 0.8;
        let (_, _, found) = findings(&probability, &image, shape, 0.5, 2.0);
        assert_eq!(found.len(), 2);
        let f = found.iter().find(|f| f.component.voxels == 3).unwrap().features;
        let expected = [6f64.ln(), 1.0, 0.5, 0.9, 0.7, 0.5, 0.5, 3.5 / 12.0];
        for (got, want) in f.iter().zip(expected) {
            assert!((got - want).abs() < 1e-6, "{f:?}");
        }
    }

    #[test]
    fn the_gate_learns_which_features_tell_and_drops_below_its_threshold() {
        let mut rng = stream(1, "gate", 0, 0);
        let example = |lesion: bool, rng: &mut crate::rng::Stream| {
            let mut x: [f64; FEATURES.len()] = std::array::from_fn(|_| rng.random());
            x[0] += if lesion { 1.5 } else { 0.0 };
            (x, lesion)
        };
        let examples: Vec<_> = (0..200).map(|i| example(i % 3 == 0, &mut rng)).collect();
        let gate = Gate::fit(&examples).unwrap();
        let right = examples.iter().filter(|(x, y)| (gate.probability(x) > 0.5) == *y).count();
        assert!(right > 190, "{right} of 200");
        let largest = (0..FEATURES.len()).max_by(|&a, &b| gate.coefficients[a].abs().total_cmp(&gate.coefficients[b].abs()));
        assert_eq!(largest, Some(0));
        assert!(Gate::fit(&examples[..1]).is_none() && Gate::fit(&[]).is_none());
        let again: Gate = serde_json::from_str(&serde_json::to_string(&gate).unwrap()).unwrap();
        assert!((again.probability(&examples[0].0) - gate.probability(&examples[0].0)).abs() < 1e-12);
    }

    #[test]
    fn a_feature_that_never_differed_decides_nothing() {
        let mut rng = stream(1, "gate", 1, 0);
        let example = |lesion: bool, rng: &mut crate::rng::Stream| {
            let mut x: [f64; FEATURES.len()] = std::array::from_fn(|_| rng.random());
            x[0] += if lesion { 1.5 } else { 0.0 };
            x[1] = 0.1;
            (x, lesion)
        };
        let examples: Vec<_> = (0..150).map(|i| example(i % 3 == 0, &mut rng)).collect();
        let gate = Gate::fit(&examples).unwrap();
        for (x, _) in &examples[..20] {
            let mut other = *x;
            other[1] = 0.9;
            assert!((gate.probability(x) - gate.probability(&other)).abs() < 1e-6);
        }
    }

    #[test]
    fn dropped_findings_leave_the_probability_and_others_stay() {
        let large = |n: f64, lesion| {
            let mut x = [0.0; FEATURES.len()];
            x[0] = n;
            (x, lesion)
        };
        let examples: Vec<_> = (0..20).map(|i| large(f64::from(i % 2) * 2.0 + f64::from(i) * 0.01, i % 2 == 1)).collect();
        let gate = Gate { threshold: 0.5, ..Gate::fit(&examples).unwrap() };
        let mut probability = vec![0.0; 30];
        probability[2] = 0.9;
        probability[10..20].fill(0.8);
        let dropped = gate.apply(&mut probability, &[0.0; 30], [1, 1, 30], 0.5, 1.0);
        assert_eq!((dropped, probability[2], probability[15]), (1, 0.0, 0.8));
    }
}
