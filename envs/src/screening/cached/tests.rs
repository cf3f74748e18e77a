use super::*;
use crate::metrics::{FlareScore, Pair};
use crate::rng::{RngExt, stream};
use crate::screening::blend::{Blend, gaussian};
use crate::screening::windows::{cut, grid};

const SHAPE: [usize; 3] = [14, 13, 12];
const WINDOW: [usize; 3] = [6, 6, 6];
const COST: SetReward = SetReward { window_cost: 0.4, false_alarm_cost: 0.2 };

/// A scan of small boxes as lesions, and a Focus of noise that often sees them.
struct World {
    lesion: Vec<u8>,
    starts: Vec<[usize; 3]>,
    probabilities: Vec<Vec<f32>>,
}

impl World {
    fn draw(seed: u64) -> Self {
        let mut rng = stream(seed, "cached worlds", 0, 0);
        let mut lesion = vec![0; SHAPE.iter().product()];
        for number in 1..=rng.random_range(0..=4) {
            let start: [usize; 3] = std::array::from_fn(|a| rng.random_range(0..SHAPE[a] - 2));
            for_each_inside(SHAPE, [2, 2, 2], start, |there, _| lesion[there] = number);
        }
        let starts = grid(SHAPE, WINDOW, 0.5);
        let probabilities = starts.iter().map(|&start| {
            let mut inside = vec![0; WINDOW.iter().product()];
            cut(&lesion, 1, SHAPE, start, WINDOW, 0, &mut inside);
            let bias = rng.random_range(0.0..0.5);
            let mut p = |&l: &u8| if l > 0 { bias + rng.random_range(0.0..0.5) } else { rng.random_range(0.0..0.52) };
            inside.iter().map(&mut p).collect()
        });
        World { lesion: lesion.clone(), probabilities: probabilities.collect(), starts }
    }

    fn masks(&self) -> Vec<Vec<u8>> {
        self.probabilities.iter().map(|p| p.iter().map(|&p| u8::from(p > 0.5)).collect()).collect()
    }

    fn cached(&self) -> CachedScan {
        CachedScan::of_masks(&self.lesion, SHAPE, 0.5, WINDOW, &self.starts, &self.masks())
    }

    fn sets(&self, seed: u64, sets: usize) -> WindowSets {
        let mut rng = stream(seed, "cached sets", 0, 0);
        let p: Vec<f32> = self.starts.iter().map(|_| rng.random_range(0.0..0.4)).collect();
        WindowSets::sample(&p, sets, &mut rng)
    }

    /// Scored voxel by voxel.
    fn naive(&self, windows: &[usize]) -> SetOutcome {
        let (mut found, mut false_alarm) = ([false; 256], 0);
        for &w in windows {
            let mut inside = vec![0; WINDOW.iter().product()];
            cut(&self.lesion, 1, SHAPE, self.starts[w], WINDOW, 0, &mut inside);
            for (l, p) in inside.iter().zip(&self.probabilities[w]).filter(|(_, p)| **p > 0.5) {
                found[*l as usize] |= p.is_finite();
                false_alarm += usize::from(*l == 0);
            }
        }
        let mut outcome = SetOutcome { windows_used: windows.len() as u32, false_alarm: false_alarm as f32 * 0.5, ..Default::default() };
        for l in (1..=255_u8).filter(|&l| found[l as usize]) {
            let voxels = self.lesion.iter().filter(|v| **v == l).count();
            outcome.found[size_class(voxels as f64 * 0.5)] += 1;
        }
        outcome
    }
}

#[test]
fn outcomes_equal_a_naive_scorer() {
    for seed in 0..40 {
        let (world, sets) = (World::draw(seed), World::draw(seed).sets(seed, 16));
        for (s, outcome) in world.cached().outcomes(&sets).into_iter().enumerate() {
            let windows: Vec<usize> = sets.windows(s).collect();
            let expected = world.naive(&windows);
            assert_eq!((outcome.found, outcome.windows_used), (expected.found, expected.windows_used), "seed {seed}, {windows:?}");
            assert!((outcome.false_alarm - expected.false_alarm).abs() < 1e-3, "seed {seed}: {outcome:?}, {expected:?}");
        }
    }
}

#[test]
fn blended_scores_equal_a_naive_blend() {
    let importance = gaussian(WINDOW, 0.125);
    for seed in 0..12 {
        let world = World::draw(seed);
        let spacing_mm = [1.0, 1.5, 2.0];
        let input = VolumeInput {
            reference: &world.lesion,
            shape: SHAPE,
            spacing_mm,
            window: WINDOW,
            starts: &world.starts,
            importance: &importance,
            probabilities: &world.probabilities,
            threshold: 0.5,
        };
        let (volume, sets) = (CachedVolume::new(input).unwrap(), world.sets(seed, 6));
        let (dice, flare) = (volume.dice(&sets), volume.flare(&sets).unwrap());
        for s in 0..sets.len() {
            let mut blend = Blend::new(SHAPE, WINDOW, importance.clone());
            sets.windows(s).for_each(|w| blend.add(world.starts[w], &world.probabilities[w], 1.0));
            let mask: Vec<u8> = blend.finish().iter().map(|&p| u8::from(p > 0.5)).collect();
            let expected = FlareScore::of_pair(&Pair::new("case", &world.lesion, &mask, SHAPE, spacing_mm).unwrap(), 2.0);
            assert_eq!(flare[s], expected, "seed {seed}");
            assert!((dice[s] - expected.dsc).abs() < 1e-12, "seed {seed}: {} and {expected:?}", dice[s]);
        }
        assert!(CachedVolume::new(VolumeInput { importance: &importance[1..], ..input }).is_err());
    }
}

#[test]
fn expectations_equal_the_sum_over_all_selections() {
    let hits = vec![vec![0, 1], vec![1], vec![], vec![2, 1], vec![2]];
    let scan = CachedScan::new(&hits, vec![0, 1, 2], vec![0.0, 0.5, 0.25, 0.0, 0.0]);
    let p = [0.3, 0.9, 0.5, 1.0, 0.0_f32];
    let mut expected = vec![[0.0_f64; 2]; 5];
    for selection in 0..32_u32 {
        let chosen = |w: usize| selection >> w & 1 == 1;
        let mask: Vec<bool> = (0..5).map(chosen).collect();
        let outcome = scan.outcomes(&WindowSets::of_masks([&mask[..]].into_iter(), 5))[0];
        let reward = f64::from(scan.reward(&outcome, COST));
        for w in 0..5 {
            let others = (0..5).filter(|&v| v != w).map(|v| if chosen(v) { f64::from(p[v]) } else { 1.0 - f64::from(p[v]) });
            expected[w][usize::from(chosen(w))] += others.product::<f64>() * reward;
        }
    }
    for (w, (found, expected)) in scan.both(&p, &scan.price(COST)).iter().zip(&expected).enumerate() {
        for a in 0..2 {
            assert!((f64::from(found[a]) - expected[a]).abs() < 1e-6, "window {w}, action {a}: {found:?} and {expected:?}");
        }
    }
}

#[test]
fn a_reward_is_recall_less_costs() {
    let scan = CachedScan::new(&[vec![0], vec![1], vec![], vec![0, 1]], vec![0, 2], vec![0.0, 0.5, 2.0, 0.0]);
    let masks = [[true, true, false, false], [false, false, true, false], [false, false, false, true], [false; 4]];
    let outcomes = scan.outcomes(&WindowSets::of_masks(masks.iter().map(|m| &m[..]), 4));
    let rewards: Vec<f32> = outcomes.iter().map(|o| scan.reward(o, COST)).collect();
    assert_eq!(rewards, [1.0 - 0.2 - 0.1, -0.1 - 0.4, 1.0 - 0.1, 0.0]);
    let healthy = CachedScan::new(&[vec![], vec![]], vec![], vec![0.0, 1.0]);
    let all = healthy.outcomes(&WindowSets::of_masks([&[true, true][..]].into_iter(), 2));
    assert_eq!(healthy.reward(&all[0], COST), -0.4 - 0.2);
}

#[test]
fn sampling_keeps_to_the_probabilities() {
    let p: Vec<f32> = (0..70).map(|w| w as f32 / 69.0).collect();
    let sets = WindowSets::sample(&p, 4000, &mut stream(3, "sets", 0, 0));
    let mut count = vec![0; 70];
    (0..sets.len()).for_each(|s| sets.windows(s).for_each(|w| count[w] += 1));
    assert_eq!((count[0], count[69]), (0, 4000));
    for (w, &n) in count.iter().enumerate() {
        assert!((f64::from(n) / 4000.0 - f64::from(p[w])).abs() < 0.04, "window {w}: {n} of 4000");
    }
}

/// A policy of one number, the share of the windows used at random, follows the price to where the constraint holds.
#[test]
fn multipliers_find_the_price() {
    let scan = CachedScan::new(&(0..40).map(|w| if w < 8 { vec![0] } else { vec![] }).collect::<Vec<_>>(), vec![0], vec![0.0; 40]);
    for constraint in [Constraint::Windows(0.1), Constraint::Recall(0.9)] {
        let (mut dual, mut z) = (Dual::new(constraint, 0.1), 0.0_f32);
        let (mut used, mut recall) = (0.0, 0.0);
        for step in 0..3000 {
            let p = 1.0 / (1.0 + (-z).exp());
            let sets = WindowSets::sample(&[p; 40], 32, &mut stream(1, "dual", step, 0));
            let outcomes = scan.outcomes(&sets);
            let rewards: Vec<f32> = outcomes.iter().map(|o| dual.reward(&scan, o)).collect();
            let mean = rewards.iter().sum::<f32>() / 32.0;
            let gradient: f32 =
                outcomes.iter().zip(&rewards).map(|(o, r)| (r - mean) * (o.windows_used as f32 - 40.0 * p)).sum::<f32>() / 32.0;
            z += 0.05 * gradient;
            dual.update(outcomes.iter().map(|&o| (&scan, o)));
            if step >= 2000 {
                used += outcomes.iter().map(|o| o.windows_used as f32).sum::<f32>() / (32.0 * 40.0 * 1000.0);
                recall += outcomes.iter().map(|o| o.found[0] as f32).sum::<f32>() / (32.0 * 1000.0);
            }
        }
        match constraint {
            Constraint::Windows(most) => assert!((used - most).abs() < 0.02, "{used} of the windows"),
            Constraint::Recall(least) => assert!((recall - least).abs() < 0.03 && used < 0.4, "recall {recall} with {used} of the windows"),
        }
    }
}

#[test]
fn a_multiplier_moves_by_what_is_missed_and_never_below_zero() {
    // Lesions of class 0 and 2; class 1 has none, so its price stays.
    let scan = CachedScan::new(&[vec![0], vec![1]], vec![0, 2], vec![0.0; 2]);
    let outcome = SetOutcome { found: [1, 0, 0], windows_used: 1, false_alarm: 0.0 };
    let mut dual = Dual { constraint: Constraint::Recall(0.75), rate: 2.0, multipliers: [0.25, 1.0, 1.0] };
    assert_eq!(dual.reward(&scan, &outcome), 0.25 - 0.5);
    dual.update([(&scan, outcome)].into_iter());
    assert_eq!(dual.multipliers, [0.0, 1.0, 2.5]);
    let mut budget = Dual { constraint: Constraint::Windows(0.25), ..dual };
    assert_eq!(budget.reward(&scan, &outcome), 0.5);
    budget.update([(&scan, outcome)].into_iter());
    assert_eq!(budget.multipliers, [0.5, 1.0, 2.5]);
}
