//! The tree-structured Parzen estimator: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011.
//!
//! Each key by itself: one density of the good trials, one of the others; of draws from the first, the one with the highest ratio is tried next.
//! Defaults are those of Optuna's `TPESampler`: 10 random trials first, the best tenth (at most 25) are good, 24 candidates, a prior over the
//! whole range, and of more than 25 trials the older ones weigh less.

use panscreen_envs::rng::{RngExt, Stream};
use toml::Value;

use super::space::{Param, Params, Range};

/// Trials drawn at random before the estimator begins.
pub const STARTUP: usize = 10;
const CANDIDATES: usize = 24;
const MOST_GOOD: usize = 25;

/// The next trial after `history`: values by key, and how good they were (higher is better).
pub fn suggest(space: &[(String, Param)], history: &[(Params, f64)], rng: &mut Stream) -> Params {
    let mut order: Vec<usize> = (0..history.len()).collect();
    order.sort_by(|&a, &b| history[b].1.total_cmp(&history[a].1));
    let count = history.len().div_ceil(10).min(MOST_GOOD);
    let is_good = |i: usize| order[..count].contains(&i);
    // Both in the order in which they were tried.
    let (good, rest): (Vec<usize>, Vec<usize>) = (0..history.len()).partition(|&i| is_good(i));
    let of = |key: &str, trials: &[usize]| trials.iter().filter_map(|&i| history[i].0.get(key).cloned()).collect::<Vec<Value>>();
    space
        .iter()
        .map(|(key, param)| {
            let (good, rest) = (of(key, &good), of(key, &rest));
            let value = match param {
                _ if history.len() < STARTUP => param.draw(rng),
                Param::Choices(choices) => choices[choose(choices, &good, &rest, rng)].clone(),
                Param::Range(range) => range.value(estimate(range, &good, &rest, rng)),
            };
            (key.clone(), value)
        })
        .collect()
}

/// How much each of `count` trials weighs, the oldest first.
fn weights(count: usize) -> Vec<f64> {
    const RECENT: usize = 25;
    let ramp = count.saturating_sub(RECENT);
    let from = 1.0 / count.max(1) as f64;
    let old = |i: usize| from + (1.0 - from) * if ramp > 1 { i as f64 / (ramp - 1) as f64 } else { 0.0 };
    (0..count).map(|i| if i < ramp { old(i) } else { 1.0 }).collect()
}

/// One distribution for each value seen, mostly of itself, and an even one as a prior, so that nothing is impossible.
fn choose(choices: &[Value], good: &[Value], rest: &[Value], rng: &mut Stream) -> usize {
    let probabilities = |seen: &[Value]| -> Vec<f64> {
        let spread = 1.0 / (seen.len() + 1) as f64;
        let all = 1.0 + spread * choices.len() as f64;
        let mut sums = vec![1.0 / choices.len() as f64; choices.len()];
        for (value, weight) in seen.iter().zip(weights(seen.len())) {
            for (sum, choice) in sums.iter_mut().zip(choices) {
                *sum += weight * (spread + if choice == value { 1.0 } else { 0.0 }) / all;
            }
        }
        let total: f64 = sums.iter().sum();
        sums.into_iter().map(|s| s / total).collect()
    };
    let (good, rest) = (probabilities(good), probabilities(rest));
    let drawn = (0..CANDIDATES).map(|_| pick(&good, rng));
    best(drawn, |&i| good[i] / rest[i]).unwrap_or(0)
}

fn estimate(range: &Range, good: &[Value], rest: &[Value], rng: &mut Stream) -> f64 {
    let inner = |values: &[Value]| -> Vec<f64> { values.iter().filter_map(number).map(|x| range.inner(x)).collect() };
    let ends = range.inner_ends();
    let (good, rest) = (Parzen::new(&inner(good), ends), Parzen::new(&inner(rest), ends));
    let drawn = (0..CANDIDATES).map(|_| range.outer(good.draw(rng)));
    best(drawn, |&x| good.log_density(range.inner(x)) - rest.log_density(range.inner(x))).unwrap_or(range.low)
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(n) => Some(*n as f64),
        Value::Float(x) => Some(*x),
        _ => None,
    }
}

/// The first of the best.
fn best<T>(of: impl Iterator<Item = T>, score: impl Fn(&T) -> f64) -> Option<T> {
    let mut found: Option<(T, f64)> = None;
    for candidate in of {
        let value = score(&candidate);
        if found.as_ref().is_none_or(|f| value > f.1) {
            found = Some((candidate, value));
        }
    }
    found.map(|f| f.0)
}

/// An index by its weight; the weights sum to 1.
fn pick(weights: &[f64], rng: &mut Stream) -> usize {
    let mut left = rng.random::<f64>();
    weights
        .iter()
        .position(|w| {
            left -= w;
            left < 0.0
        })
        .unwrap_or(weights.len().saturating_sub(1))
}

/// Normal densities cut to a range: one at each value seen, and one over the whole range as a prior.
struct Parzen {
    /// Centre, width and weight; weights sum to 1.
    kernels: Vec<(f64, f64, f64)>,
    low: f64,
    high: f64,
}

impl Parzen {
    /// `seen` in the order of trials.
    fn new(seen: &[f64], (low, high): (f64, f64)) -> Self {
        let (width, n) = (high - low, seen.len());
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| seen[a].total_cmp(&seen[b]));
        let at = |i: usize| seen[order[i]];
        // As wide as the larger gap to a neighbour, within bounds ("magic clip"). The ends of the range are neighbours of one value alone.
        let least = width / (n as f64 + 2.0).min(100.0);
        let wide = |i: usize| {
            let left = if i > 0 {
                at(i) - at(i - 1)
            } else if n == 1 {
                at(i) - low
            } else {
                0.0
            };
            let right = if i + 1 < n {
                at(i + 1) - at(i)
            } else if n == 1 {
                high - at(i)
            } else {
                0.0
            };
            left.max(right).clamp(least, width)
        };
        let weights = weights(n);
        let sum = 1.0 + weights.iter().sum::<f64>();
        let mut kernels: Vec<(f64, f64, f64)> = (0..n).map(|i| (at(i), wide(i), weights[order[i]] / sum)).collect();
        kernels.push(((low + high) / 2.0, width, 1.0 / sum));
        Parzen { kernels, low, high }
    }

    fn draw(&self, rng: &mut Stream) -> f64 {
        let weights: Vec<f64> = self.kernels.iter().map(|k| k.2).collect();
        let (centre, sigma, _) = self.kernels[pick(&weights, rng)];
        // By the inverse of the distribution, cut to the range.
        let (from, to) = (below((self.low - centre) / sigma), below((self.high - centre) / sigma));
        let u = from + (to - from) * rng.random::<f64>();
        (centre + sigma * panscreen_envs::metrics::statistics::special::normal_quantile(u.clamp(1e-12, 1.0 - 1e-12)))
            .clamp(self.low, self.high)
    }

    fn log_density(&self, x: f64) -> f64 {
        let density = |(centre, sigma, weight): &(f64, f64, f64)| {
            let z = (x - centre) / sigma;
            let inside = below((self.high - centre) / sigma) - below((self.low - centre) / sigma);
            weight * (-z * z / 2.0).exp() / (sigma * inside.max(1e-12))
        };
        let sum: f64 = self.kernels.iter().map(density).sum();
        (sum / (2.0 * std::f64::consts::PI).sqrt()).max(f64::MIN_POSITIVE).ln()
    }
}

fn below(z: f64) -> f64 {
    panscreen_envs::metrics::statistics::special::normal_below(z)
}

#[cfg(test)]
mod tests {
    use panscreen_envs::rng::stream;

    use super::super::space::params_of;
    use super::*;

    /// Best at x = 0.01 (on a logarithmic scale), n = 7, word "b".
    fn worth(p: &Params) -> f64 {
        let x = number(&p["x"]).unwrap();
        let n = number(&p["n"]).unwrap();
        -(x.log10() + 2.0).powi(2) - 0.05 * (n - 7.0).powi(2) - if p["word"].as_str() == Some("b") { 0.0 } else { 1.0 }
    }

    #[test]
    fn it_finds_the_optimum_better_than_chance() {
        let space = params_of(
            &"x = { low = 1e-5, high = 10.0, log = true }\nn = { low = 0, high = 20 }\nword = [\"a\", \"b\", \"c\", \"d\"]"
                .parse()
                .unwrap(),
        )
        .unwrap();
        let (mut tpe, mut random) = (0.0, 0.0);
        for seed in 0..16 {
            let mut history: Vec<(Params, f64)> = Vec::new();
            let mut chance = f64::NEG_INFINITY;
            for k in 0..60 {
                let params = suggest(&space, &history, &mut stream(seed, "test", 0, k));
                assert!((1e-5..=10.0).contains(&number(&params["x"]).unwrap()) && (0.0..=20.0).contains(&number(&params["n"]).unwrap()));
                history.push((params.clone(), worth(&params)));
                let drawn: Params = space.iter().map(|(key, p)| (key.clone(), p.draw(&mut stream(seed, key, 1, k)))).collect();
                chance = chance.max(worth(&drawn));
            }
            tpe += history.iter().map(|h| h.1).fold(f64::NEG_INFINITY, f64::max) / 16.0;
            random += chance / 16.0;
        }
        // Optuna 4: -0.01 and -0.66.
        assert!(tpe > -0.2 && tpe > random + 0.2, "tpe {tpe}, random {random}");
    }

    #[test]
    fn densities_sum_to_one() {
        for seen in [vec![], vec![0.5], vec![0.1, 0.11, 2.9], vec![1.0; 40]] {
            let parzen = Parzen::new(&seen, (0.0, 3.0));
            let sum: f64 = (0..3000).map(|i| parzen.log_density(f64::from(i) / 1000.0 + 0.0005).exp() / 1000.0).sum();
            assert!((sum - 1.0).abs() < 1e-3, "{seen:?}: {sum}");
        }
    }
}
