//! Against SciPy, statsmodels and the recipes of `tests/golden/golden_metrics.json`, and the inline values of Touchstone's dossier.

use serde_json::Value;

use super::adjust::Adjustment;
use super::bootstrap::{Bootstrap, IntervalKind, singles, units_of};
use super::describe::{mean, median};
use super::groups::{GroupAnalysis, kruskal_wallis, mann_whitney, mann_whitney_exact};
use super::paired::{cliffs_delta, hodges_lehmann, permutation, sign_flip};
use super::ranking::{RankBy, ScoreTable};
use super::resample::Draws;
use super::significance::SignificanceMap;
use super::wilcoxon::{Method, Zeros, signed_rank};
use super::*;
use crate::golden::{assert_close, load, numbers, u01};

/// Relative to the value itself, however small.
fn check(got: f64, want: &Value, what: &str) {
    let want = want.as_f64().unwrap_or_else(|| panic!("{what}: {want} is no number"));
    assert!((got - want).abs() <= 1e-9 * want.abs().max(1e-300), "{what}: got {got}, want {want}");
}

fn check_test(got: Option<Test>, want: &Value, statistic: &str, what: &str) {
    let got = got.unwrap_or_else(|| panic!("{what}: no result"));
    check(got.statistic, &want[statistic], what);
    check(got.p, &want["p"], what);
}

fn check_interval(got: Option<Interval>, want: &Value, what: &str) {
    let (got, want) = (got.unwrap(), numbers(want));
    assert_close(got.low, want[0], 1e-9, what);
    assert_close(got.high, want[1], 1e-9, what);
}

fn minus(a: &Value, b: &Value) -> Vec<f64> {
    numbers(a).iter().zip(numbers(b)).map(|(x, y)| x - y).collect()
}

const ALTERNATIVES: [(&str, Alternative); 3] =
    [("greater", Alternative::Greater), ("less", Alternative::Less), ("two-sided", Alternative::TwoSided)];

#[test]
fn signed_ranks_of_scipy() {
    let golden = &load("golden_metrics.json")["wilcoxon"];
    let d: Vec<f64> = minus(&golden["a"], &golden["b"]);
    for (name, alternative) in ALTERNATIVES {
        for (key, method) in [("exact", Method::Exact), ("approx", Method::Normal)] {
            let key = format!("{key}_{name}");
            check_test(signed_rank(&d, Zeros::Discard, method, alternative), &golden["small"][&key], "stat", &key);
        }
        for (key, zeros) in [("wilcox", Zeros::Discard), ("pratt", Zeros::Pratt)] {
            let key = format!("approx_{key}_{name}");
            // The reference ranked differences of two decimals; as differences of doubles not all of them tie.
            let d: Vec<f64> = minus(&golden["ties"]["x"], &golden["ties"]["z"]).iter().map(|d| (d * 100.0).round() / 100.0).collect();
            assert_eq!(golden["ties"]["n_zero"], d.iter().filter(|d| **d == 0.0).count());
            check_test(signed_rank(&d, zeros, Method::Normal, alternative), &golden["ties"][&key], "stat", &key);
            assert_eq!(signed_rank(&d, zeros, Method::Auto, alternative), signed_rank(&d, zeros, Method::Normal, alternative));
        }
    }
    let one = |d: &[f64]| signed_rank(d, Zeros::Discard, Method::Auto, Alternative::Greater);
    assert_eq!([one(&[]), one(&[0.0, 0.0]), one(&[1.0, f64::NAN])], [None; 3]);
    assert_eq!(one(&[1.0, 2.0, 3.0]), Some(Test { statistic: 6.0, p: 0.125 }));
    assert_eq!(signed_rank(&vec![1.0; 1001], Zeros::Discard, Method::Exact, Alternative::Greater), None);
}

#[test]
fn many_tests_are_corrected() {
    let golden = &load("golden_metrics.json")["multiple_testing"];
    let p = numbers(&golden["p"]);
    for (key, adjustment) in [
        ("holm", Adjustment::Holm),
        ("hochberg", Adjustment::Hochberg),
        ("bonferroni", Adjustment::Bonferroni),
        ("bh", Adjustment::BenjaminiHochberg),
    ] {
        let adjusted = adjustment.adjust(&p);
        for (got, want) in adjusted.iter().zip(golden[key].as_array().unwrap()) {
            check(*got, want, key);
        }
        assert!(adjusted.iter().zip(&p).all(|(a, p)| a >= p), "{key} never helps");
        // In any order of the tests each keeps its value.
        let (reversed, mut back) = (p.iter().rev().copied().collect::<Vec<_>>(), adjusted);
        back.reverse();
        assert_eq!(adjustment.adjust(&reversed), back);
        assert_eq!(adjustment.adjust(&[]), Vec::<f64>::new());
    }
}

#[test]
fn groups_of_scipy() {
    let golden = &load("golden_metrics.json")["group_tests"];
    let g: Vec<Vec<f64>> = ["g1", "g2", "g3"].map(|k| numbers(&golden[k])).into();
    let all: Vec<&[f64]> = g.iter().map(Vec::as_slice).collect();
    check_test(kruskal_wallis(&all), &golden["kruskal"], "H", "kruskal");
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        let key = format!("g{}_g{}", a + 1, b + 1);
        check_test(mann_whitney(&g[a], &g[b], Alternative::TwoSided), &golden["mwu_asymptotic"][&key], "U", &key);
    }
    assert_close(cliffs_delta(&g[0], &g[1]).unwrap(), 0.714_285_7, 5e-8, "Cliff's delta");
    assert_eq!([kruskal_wallis(&all[..1]), kruskal_wallis(&[&[1.0], &[]]), kruskal_wallis(&[&[1.0], &[1.0]])], [None; 3]);
    assert_eq!(mann_whitney(&[1.0], &[1.0], Alternative::Less), None);
    // The exact distribution against every division of the numbers 0..9 into 5 and 4.
    assert_eq!(mann_whitney_exact(&g[0], &g[0], Alternative::Less), None);
    let sides = |code: u32| (0..9).partition::<Vec<u32>, _>(|i| code >> i & 1 == 1);
    let numbers = |v: Vec<u32>| v.into_iter().map(f64::from).collect::<Vec<_>>();
    let codes: Vec<u32> = (0..512).filter(|c: &u32| c.count_ones() == 5).collect();
    let u = |code| {
        let (a, b) = sides(code);
        a.iter().map(|x| b.iter().filter(|y| x > y).count()).sum::<usize>()
    };
    for code in [0b1_1111u32, 0b1_0101_1100, 0b1_0110_1010] {
        let (a, b) = sides(code);
        let test = mann_whitney_exact(&numbers(a), &numbers(b), Alternative::Greater).unwrap();
        let want = codes.iter().filter(|&&c| u(c) >= u(code)).count() as f64 / codes.len() as f64;
        assert_close(test.p, want, 1e-12, "exact");
        assert_eq!(test.statistic, u(code) as f64);
    }
    let exact = &golden["mwu_exact_g1_g2_noties_only"];
    // U 19 of 5 and 4 numbers, the case of the golden file.
    let test = mann_whitney_exact(&numbers(vec![3, 5, 6, 7, 8]), &numbers(vec![0, 1, 2, 4]), Alternative::TwoSided).unwrap();
    assert_eq!(exact["U"], test.statistic);
    check(test.p, &exact["p"], "exact two-sided");
}

#[test]
fn groups_in_a_table() {
    let groups: Vec<(String, Vec<f64>)> =
        [("a", vec![1.0, 2.0, 3.0]), ("b", vec![9.0, 8.0, 7.0]), ("c", vec![1.0, f64::NAN])].map(|(n, v)| (n.to_owned(), v)).into();
    let table = GroupAnalysis::of(&groups, 2, Adjustment::Bonferroni);
    assert_eq!(
        table.groups.iter().map(|g| (g.n, g.mean, g.quartiles)).collect::<Vec<_>>(),
        [(3, 2.0, [1.5, 2.0, 2.5]), (3, 8.0, [7.5, 8.0, 8.5])]
    );
    assert_eq!(table.too_small, [("c".to_owned(), 1)]);
    assert_eq!((table.pairs.len(), table.pairs[0].cliffs_delta, table.pairs[0].p_adjusted), (1, -1.0, table.pairs[0].p));
    assert!(table.kruskal_wallis.is_some());
}

#[test]
fn bootstrap_intervals_of_the_recipe() {
    let golden = load("golden_metrics.json");
    let (want, a) = (&golden["bootstrap"], numbers(&golden["wilcoxon"]["a"]));
    let (key, b) = (&want["mean_seed20240601"], Bootstrap::of_mean(&a, 2000, Draws { seed: 20240601 }).unwrap());
    for (got, want) in b.values.iter().zip(key["first5"].as_array().unwrap()) {
        check(*got, want, "draw");
    }
    check(mean(&b.values).unwrap(), &key["mean_of_boot"], "mean");
    check(b.standard_error().unwrap(), &key["se"], "se");
    check(b.bias(), &key["bca_z0"], "bias");
    check(b.acceleration(), &key["bca_acc"], "acceleration");
    for (kind, name) in [(IntervalKind::Percentile, "pct95"), (IntervalKind::Basic, "basic95"), (IntervalKind::Bca, "bca95")] {
        check_interval(b.interval(kind, 0.95), &key[name], name);
    }
    let of_median = |cases: &[usize]| median(&cases.iter().map(|&i| a[i]).collect::<Vec<_>>()).unwrap();
    let b = Bootstrap::of(&singles(a.len()), 2000, Draws { seed: 99 }, of_median).unwrap();
    check_interval(b.interval(IntervalKind::Percentile, 0.95), &want["median_seed99"]["pct95"], "median");
    let d = minus(&golden["wilcoxon"]["a"], &golden["wilcoxon"]["b"]);
    let (key, b) = (&want["paired_diff_mean_seed7"], Bootstrap::of_mean(&d, 2000, Draws { seed: 7 }).unwrap());
    check(b.estimate, &key["mean"], "difference");
    check_interval(b.interval(IntervalKind::Percentile, 0.95), &key["pct95"], "difference");
    assert!(Bootstrap::of_mean(&[], 10, Draws { seed: 1 }).is_none() && Bootstrap::of_mean(&[f64::NAN], 10, Draws { seed: 1 }).is_none());
    // All equal: there is no bias to correct by, and no interval is made up.
    let same = Bootstrap::of_mean(&[1.0; 4], 10, Draws { seed: 1 }).unwrap();
    assert_eq!(same.interval(IntervalKind::Bca, 0.95), None);
    assert_eq!(same.interval(IntervalKind::Basic, 0.95), Some(Interval { low: 1.0, high: 1.0 }));
}

#[test]
fn patients_are_drawn_with_all_of_their_cases() {
    let units = units_of(&["p", "q", "p", "r"]);
    assert_eq!(units, [vec![0, 2], vec![1], vec![3]]);
    let together = |cases: &[usize]| cases.iter().filter(|&&c| c == 0).count() == cases.iter().filter(|&&c| c == 2).count();
    let b = Bootstrap::of(&units, 200, Draws { seed: 3 }, |cases| together(cases) as u8 as f64).unwrap();
    assert!(b.values.iter().all(|&v| v == 1.0));
    // Copies of one case in one patient add no certainty.
    let values: Vec<f64> = (0..8).map(|i| u01(1, i)).collect();
    let (copies, patients): (Vec<f64>, Vec<usize>) = (0..8).flat_map(|i| [(values[i], i); 5]).unzip();
    let of_mean = |cases: &[usize]| cases.iter().map(|&i| copies[i]).sum::<f64>() / cases.len() as f64;
    let clustered = Bootstrap::of(&units_of(&patients), 500, Draws { seed: 9 }, of_mean).unwrap();
    let plain = Bootstrap::of_mean(&values, 500, Draws { seed: 9 }).unwrap();
    assert_close(clustered.standard_error().unwrap(), plain.standard_error().unwrap(), 1e-12, "standard error");
}

#[test]
fn rearrangements() {
    let golden = &load("golden_metrics.json")["wilcoxon"];
    let d = minus(&golden["a"], &golden["b"]);
    assert_close(hodges_lehmann(&d).unwrap(), 0.01075, 1e-12, "Hodges-Lehmann");
    let draws = Draws { seed: 11 };
    let flip = |d: &[f64], alternative, resamples| sign_flip(d, &singles(d.len()), alternative, resamples, draws);
    let p = |alternative| flip(&d, alternative, 0).unwrap().p;
    for (alternative, want) in [(Alternative::Greater, 0.028_076), (Alternative::TwoSided, 0.056_152)] {
        assert!((p(alternative) - want).abs() < 5e-7, "{alternative:?}: {}", p(alternative));
    }
    // Of more than 20 differences a sample is drawn; it comes near the exact value, and never to 0.
    let many: Vec<f64> = (0..24).map(|i| u01(4, i) - 0.4).collect();
    let test = flip(&many, Alternative::Greater, 4000).unwrap();
    let z = test.statistic * 24.0 / many.iter().map(|d| d * d).sum::<f64>().sqrt();
    assert!((test.p - special::normal_above(z)).abs() < 0.02, "{test:?} {z}");
    assert!(flip(&[1.0; 30], Alternative::Greater, 99).unwrap().p >= 0.01);
    let (low, high) = (&many[..12], many[..12].iter().map(|v| v + 2.0).collect::<Vec<_>>());
    assert_eq!(permutation(&high, low, Alternative::Greater, 99, draws).unwrap().p, 0.01);
    assert_eq!(permutation(&high, low, Alternative::Less, 99, draws).unwrap().p, 1.0);
    assert!(permutation(low, low, Alternative::TwoSided, 99, draws).unwrap().p == 1.0);
    assert!(permutation(&[], low, Alternative::Less, 9, draws).is_none() && flip(&[], Alternative::Less, 9).is_none());
    assert_eq!((hodges_lehmann(&[]), cliffs_delta(&[], &[1.0])), (None, None));
}

#[test]
fn copies_of_a_case_in_one_patient_prove_and_settle_nothing() {
    // Two patients, ten scans each; the method is better on all scans of both. Of two patients' four sign patterns one is as extreme.
    let units: Vec<Vec<usize>> = units_of(&(0..20).map(|i| i / 10).collect::<Vec<_>>());
    let flip = |units: &[Vec<usize>]| sign_flip(&[0.1; 20], units, Alternative::Greater, 0, Draws { seed: 1 }).unwrap();
    assert_eq!((flip(&units).p, flip(&units).statistic), (0.25, flip(&singles(20)).statistic));
    assert!(flip(&singles(20)).p < 1e-5);
    // A patient's scans of unequal number weigh by their number, as in the mean.
    let uneven = sign_flip(&[3.0, 3.0, -1.0], &[vec![0, 1], vec![2]], Alternative::Greater, 0, Draws { seed: 1 }).unwrap();
    assert_eq!((uneven.statistic, uneven.p), (5.0 / 3.0, 0.5));
    // The second method is better on the second patient only, and a quarter of the draws holds no other.
    let scores = [[0.9, 0.0], [0.5, 0.1]].map(|[a, b]| (0..20).map(|i| if i < 10 { a } else { b }).collect::<Vec<_>>());
    let table = ScoreTable::new(scores.to_vec()).unwrap();
    let first = |units: &[Vec<usize>]| table.stability(RankBy::Mean, units, 1000, Draws { seed: 3 }).unwrap().methods[1].first;
    assert!(first(&singles(20)) < 0.02 && (0.2..0.3).contains(&first(&units)), "{} {}", first(&singles(20)), first(&units));
}

/// The five methods on twelve cases of Touchstone's dossier, G.3.
#[test]
fn ranks_and_how_stable_they_are() {
    let scores =
        (0..5).map(|a| (0..12).map(|c| 0.7 + 0.01 * a as f64 + 0.2 * u01(1000 + 100 * a, c)).collect::<Vec<_>>()).collect::<Vec<_>>();
    let table = ScoreTable::new(scores.clone()).unwrap();
    let means = [0.8246477914, 0.8011181558, 0.7786700547, 0.8286907426, 0.8478097513];
    scores.iter().zip(means).for_each(|(s, want)| assert_close(mean(s).unwrap(), want, 1e-10, "mean"));
    assert_eq!(table.ranks(RankBy::Mean), [3, 4, 5, 2, 1]);
    assert_eq!(table.ranks(RankBy::CaseRanks), [3, 4, 5, 2, 1]);
    let case_ranks = table.mean_case_ranks();
    case_ranks.iter().zip([2.75, 3.416667, 3.916667, 2.666667, 2.25]).for_each(|(r, want)| assert_close(*r, want, 1e-6, "rank"));
    let s = table.stability(RankBy::Mean, &singles(12), 1000, Draws { seed: 77 }).unwrap();
    let first: Vec<f64> = s.methods.iter().map(|m| m.first).collect();
    assert_eq!(first, [0.086, 0.004, 0.0, 0.216, 0.694]);
    let mean_rank: Vec<f64> = s.methods.iter().map(|m| (m.mean_rank * 1000.0).round() / 1000.0).collect();
    assert_eq!(mean_rank, [2.618, 3.928, 4.804, 2.265, 1.385]);
    let intervals: Vec<[f64; 2]> = s.methods.iter().map(|m| m.rank_interval).collect();
    assert_eq!(intervals, [[1.0, 4.0], [2.0, 5.0], [4.0, 5.0], [1.0, 4.0], [1.0, 3.0]]);
    assert_close(s.mean_tau, 0.7518, 5e-5, "tau");
    assert_close(s.tau_5_percent, 0.4, 1e-12, "tau");
    // A method that is best everywhere is first, by every rule.
    let with_perfect = ScoreTable::new([scores, vec![vec![1.0; 12]]].concat()).unwrap();
    for by in [RankBy::Mean, RankBy::Median, RankBy::CaseRanks] {
        assert_eq!(with_perfect.ranks(by)[5], 1);
    }
    assert!(ScoreTable::new(vec![]).is_none() && ScoreTable::new(vec![vec![1.0], vec![]]).is_none());
    assert!(ScoreTable::new(vec![vec![f64::NAN]]).is_none() && table.stability(RankBy::Mean, &singles(12), 0, Draws { seed: 1 }).is_none());
    assert!(table.stability(RankBy::Mean, &[], 9, Draws { seed: 1 }).is_none());
}

#[test]
fn significance_maps() {
    let method = |shift: f64, missing: u64| -> Vec<Option<f64>> {
        (0..40)
            .map(|c| if c < missing { None } else { Some(0.5 + shift + 0.1 * u01(5, c) + 0.01 * u01((shift * 1e6) as u64, c)) })
            .collect()
    };
    // The last two are equal everywhere: neither beats the other.
    let scores = [method(0.1, 0), method(0.3, 7), method(0.2, 0), method(0.2, 0)];
    let map = SignificanceMap::of(&scores, Adjustment::Holm, 0.05);
    assert_eq!(map.order, [1, 2, 3, 0]);
    assert_eq!((map.wins.as_slice(), map.significant_cells(), map.least_pairs()), ([0, 3, 1, 1].as_slice(), 5, Some(33)));
    assert_eq!((map.cases[1], map.p[2][3], map.p[0][0]), (33, Some(1.0), None));
    let raw = SignificanceMap::of(&scores, Adjustment::BenjaminiHochberg, 0.05);
    assert!(map.p.iter().flatten().zip(raw.p.iter().flatten()).all(|(holm, bh)| holm >= bh));
    let empty = SignificanceMap::of(&[vec![None, None], vec![Some(1.0), None]], Adjustment::Holm, 0.05);
    assert_eq!((empty.p[0][1], empty.least_pairs(), empty.median[0]), (None, Some(0), None));
}
