//! Ranks and tests of methods, metric by metric.

use panscreen_envs::metrics::Mean;
use panscreen_envs::metrics::protocols::Metric;
use panscreen_envs::metrics::statistics::adjust::Adjustment;
use panscreen_envs::metrics::statistics::bootstrap::{singles, units_of};
use panscreen_envs::metrics::statistics::describe::mean as mean_of;
use panscreen_envs::metrics::statistics::paired::{hodges_lehmann, sign_flip};
use panscreen_envs::metrics::statistics::ranking::{RankBy, ScoreTable};
use panscreen_envs::metrics::statistics::significance::SignificanceMap;
use panscreen_envs::metrics::statistics::wilcoxon::{self, Zeros, signed_rank};
use panscreen_envs::metrics::statistics::{Alternative, Interval};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Leaderboard, Method};
use crate::evaluate::record::Score;
use crate::evaluate::summary::{CASES, Resampling, interval};
use crate::evaluate::{Settings, Status};

/// Level of a significant difference.
pub const ALPHA: f64 = 0.05;

/// One metric of one structure, all methods on the same cases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// A structure, or the mean over a case's structures.
    pub structure: String,
    pub metric: String,
    pub higher_is_better: bool,
    /// One of the protocol's main metrics: it counts for the overall rank and is tested pair by pair.
    pub main: bool,
    /// Cases compared: those that the metric is asked of.
    pub cases: usize,
    /// Cases that the metric is not asked of.
    pub not_asked: usize,
    /// Cases, among those compared, that no method lost.
    pub common: usize,
    /// In the order of the methods.
    pub standings: Vec<Standing>,
    /// Agreement (Kendall's tau-b) of the ranking on draws of the cases with that on all: its mean, and what 95 % of the draws reach.
    pub mean_tau: Option<f64>,
    pub tau_5_percent: Option<f64>,
    pub pairs: Vec<PairTest>,
    /// Touchstone's map: one-sided Wilcoxon tests of all ordered pairs, Holm over all of them. Scores of metrics that are better when lower
    /// are negative in it.
    pub significance: SignificanceMap,
}

/// One method in a column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    pub method: String,
    pub mean: Mean,
    pub interval: Option<Interval>,
    /// Mean over the common cases alone: how good the method is where all have an answer. Nothing is ranked by it, for losing cases would pay.
    pub common_mean: Option<f64>,
    pub median: Option<f64>,
    /// `null` where the metric has no worst value and a case is lost.
    pub rank_by_mean: Option<usize>,
    pub rank_by_median: Option<usize>,
    /// By the mean of the ranks on every case; a lost case is last on it.
    pub rank_by_case_ranks: usize,
    pub mean_case_rank: f64,
    /// Methods that this one is significantly better than.
    pub wins: usize,
    /// Share of the draws (of patients where they are known, else of cases) in which it is first.
    pub first: f64,
    /// Ranks between which 95 % of the draws lie.
    pub rank_interval: [f64; 2],
}

/// Two methods on the cases of a column, `a` less `b`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairTest {
    pub a: String,
    pub b: String,
    pub cases: usize,
    /// What is taken as independent: patients where they are known, else cases.
    pub units: usize,
    pub mean_difference: f64,
    /// 95 % by bootstrap over units.
    pub interval: Option<Interval>,
    /// Of the units' mean differences, as is Wilcoxon's test.
    pub hodges_lehmann: Option<f64>,
    /// Two-sided; 1 where no unit differs.
    pub wilcoxon_p: f64,
    /// Adjusted over all pairs of the column.
    pub holm_p: f64,
    /// On the mean over cases; the cases of a unit flip together.
    pub sign_flip_p: f64,
}

/// A method over all main metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overall {
    pub method: String,
    pub rank: usize,
    /// Mean over the main metrics of the mean rank on every case (FLARE: rank, then average over cases and metrics).
    pub mean_case_rank: f64,
}

/// Compare methods whose records are of the same cases.
pub fn compare(methods: &[Method], settings: &Settings) -> Leaderboard {
    let protocol = settings.rule.protocol;
    let single = protocol.structures.len() == 1;
    // A case whose reference can't be used is judged for nobody.
    let cases: Vec<usize> =
        (0..methods[0].cases.len()).filter(|&i| methods.iter().all(|m| m.cases[i].status != Status::Unjudged)).collect();
    let names: Vec<&str> = cases.iter().map(|&i| methods[0].cases[i].case.as_str()).collect();
    let patients = settings.metadata.as_ref().and_then(|m| m.patients(&names));
    let mut wanted: Vec<(Option<&str>, &Metric, bool)> = Vec::new();
    for metric in protocol.metrics.iter().filter(|m| single || protocol.main.contains(&m.name)) {
        let main = protocol.main.contains(&metric.name);
        match protocol.structures {
            [one] => wanted.push((Some(one.name), metric, main)),
            all => {
                wanted.push((None, metric, main));
                wanted.extend(all.iter().map(|s| (Some(s.name), metric, false)));
            }
        }
    }
    let columns: Vec<Column> = wanted
        .par_iter()
        .filter_map(|(structure, metric, main)| {
            let asked: Vec<usize> = (0..cases.len())
                .filter(|&k| methods.iter().all(|m| m.cases[cases[k]].score(*structure, metric) != Score::NotAsked))
                .collect();
            let of = |m: &Method| asked.iter().map(|&k| m.cases[cases[k]].score(*structure, metric)).collect::<Vec<_>>();
            let scores: Vec<Vec<Score>> = methods.iter().map(of).collect();
            let units = patients.as_ref().map(|p| units_of(&asked.iter().map(|&k| p[k]).collect::<Vec<_>>()));
            let units = units.unwrap_or_else(|| singles(asked.len()));
            let means = methods.iter().map(|m| {
                let outcomes: Vec<_> = asked.iter().map(|&k| m.cases[cases[k]].outcome(*structure, metric)).collect();
                Mean::of(outcomes.iter().map(Option::as_ref), metric.worst)
            });
            let lost = |m: &Method, k: usize| {
                let mut of_column = m.cases[cases[k]].structures.iter().filter(|s| structure.is_none_or(|name| s.structure == name));
                of_column.any(|s| s.status != Status::Scored)
            };
            let common = (0..asked.len()).filter(|&i| !methods.iter().any(|m| lost(m, asked[i]))).collect();
            let input = Input { metric, scores, means: means.collect(), units, common, not_asked: cases.len() - asked.len(), main: *main };
            column(structure.unwrap_or(CASES), methods, input, settings.resampling)
        })
        .collect();
    Leaderboard {
        methods: methods.iter().map(|m| m.name.clone()).collect(),
        summaries: methods.iter().map(|m| m.summary.clone()).collect(),
        overall: overall(methods, &columns),
        columns,
    }
}

/// What a column is made of.
struct Input<'a> {
    metric: &'a Metric,
    /// `[method][case]`, none of them not asked.
    scores: Vec<Vec<Score>>,
    means: Vec<Mean>,
    units: Vec<Vec<usize>>,
    /// Cases that no method lost.
    common: Vec<usize>,
    not_asked: usize,
    main: bool,
}

/// `None` where no case is asked.
fn column(structure: &str, methods: &[Method], input: Input, resampling: Resampling) -> Option<Column> {
    let Input { metric, scores, means, units, common, not_asked, main } = input;
    let sign = if metric.higher { 1.0 } else { -1.0 };
    let values = |s: &Vec<Score>| s.iter().map(|s| s.value()).collect::<Vec<_>>();
    let known: Vec<Vec<Option<f64>>> = scores.iter().map(values).collect();
    // Higher is better from here on. A lost case without a worst value is below all others, which only ranks and signs of differences may see.
    let below = known.iter().flatten().flatten().map(|v| sign * v).fold(0.0, f64::min) - 1.0;
    let standing: Vec<Vec<f64>> = known.iter().map(|s| s.iter().map(|v| v.map_or(below, |v| sign * v)).collect()).collect();
    let any_lost = |m: usize| known[m].iter().any(Option::is_none);
    let table = ScoreTable::new(standing.clone())?;
    let (by_mean, by_median, by_cases) = (table.ranks(RankBy::Mean), table.ranks(RankBy::Median), table.ranks(RankBy::CaseRanks));
    let case_ranks = table.mean_case_ranks();
    let whole = !(0..methods.len()).any(any_lost);
    let by = if whole { RankBy::Mean } else { RankBy::CaseRanks };
    let stability = table.stability(by, &units, resampling.resamples, resampling.draws())?;
    let optional: Vec<Vec<Option<f64>>> = standing.iter().map(|s| s.iter().copied().map(Some).collect()).collect();
    let significance = SignificanceMap::of(&optional, Adjustment::Holm, ALPHA);
    let standings = methods.iter().zip(means).zip(&stability.methods).enumerate().map(|(m, ((method, mean), s))| Standing {
        method: method.name.clone(),
        interval: if mean.mean.value().is_some() { interval(&known[m], &units, resampling) } else { None },
        common_mean: mean_of(&common.iter().filter_map(|&i| known[m][i]).collect::<Vec<_>>()),
        median: significance.median[m].filter(|_| !any_lost(m)).map(|v| sign * v),
        rank_by_mean: whole.then_some(by_mean[m]),
        rank_by_median: whole.then_some(by_median[m]),
        rank_by_case_ranks: by_cases[m],
        mean_case_rank: case_ranks[m],
        wins: significance.wins[m],
        first: s.first,
        rank_interval: s.rank_interval,
        mean,
    });
    Some(Column {
        structure: structure.to_owned(),
        metric: metric.name.to_owned(),
        higher_is_better: metric.higher,
        main,
        cases: standing.first().map_or(0, Vec::len),
        not_asked,
        common: common.len(),
        standings: standings.collect(),
        mean_tau: (methods.len() > 1).then_some(stability.mean_tau),
        tau_5_percent: (methods.len() > 1).then_some(stability.tau_5_percent),
        // Main metrics have a worst value, so nothing is lost in them.
        pairs: if main && whole { pairs(methods, &values_of(&known), &units, resampling) } else { Vec::new() },
        significance,
    })
}

fn values_of(known: &[Vec<Option<f64>>]) -> Vec<Vec<f64>> {
    known.iter().map(|s| s.iter().flatten().copied().collect()).collect()
}

/// Tests of every pair on `scores[method][case]`.
fn pairs(methods: &[Method], scores: &[Vec<f64>], units: &[Vec<usize>], resampling: Resampling) -> Vec<PairTest> {
    let all: Vec<(usize, usize)> = (0..methods.len()).flat_map(|a| (a + 1..methods.len()).map(move |b| (a, b))).collect();
    let test = |&(a, b): &(usize, usize)| -> PairTest {
        let differences: Vec<f64> = scores[a].iter().zip(&scores[b]).map(|(x, y)| x - y).collect();
        let of_unit = |unit: &Vec<usize>| unit.iter().map(|&i| differences[i]).sum::<f64>() / unit.len() as f64;
        let of_units: Vec<f64> = units.iter().map(of_unit).collect();
        let optional: Vec<Option<f64>> = differences.iter().copied().map(Some).collect();
        let two_sided = Alternative::TwoSided;
        PairTest {
            a: methods[a].name.clone(),
            b: methods[b].name.clone(),
            cases: differences.len(),
            units: units.len(),
            mean_difference: mean_of(&differences).unwrap_or(0.0),
            interval: interval(&optional, units, resampling),
            hodges_lehmann: hodges_lehmann(&of_units),
            wilcoxon_p: signed_rank(&of_units, Zeros::Discard, wilcoxon::Method::Auto, two_sided).map_or(1.0, |t| t.p),
            holm_p: 1.0,
            sign_flip_p: sign_flip(&differences, units, two_sided, resampling.resamples, resampling.draws()).map_or(1.0, |t| t.p),
        }
    };
    let mut tests: Vec<PairTest> = all.par_iter().map(test).collect();
    let adjusted = Adjustment::Holm.adjust(&tests.iter().map(|t| t.wilcoxon_p).collect::<Vec<_>>());
    tests.iter_mut().zip(adjusted).for_each(|(t, p)| t.holm_p = p);
    tests
}

fn overall(methods: &[Method], columns: &[Column]) -> Vec<Overall> {
    let main: Vec<&Column> = columns.iter().filter(|c| c.main).collect();
    let mean = |m: usize| main.iter().map(|c| c.standings[m].mean_case_rank).sum::<f64>() / main.len().max(1) as f64;
    let means: Vec<f64> = (0..methods.len()).map(mean).collect();
    let rank = |m: usize| 1 + means.iter().filter(|other| **other < means[m] - 1e-12).count();
    let mut all: Vec<Overall> = methods
        .iter()
        .enumerate()
        .map(|(m, method)| Overall { method: method.name.clone(), rank: rank(m), mean_case_rank: means[m] })
        .collect();
    all.sort_by_key(|o| o.rank);
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use panscreen_envs::dataset::LesionClasses;
    use panscreen_envs::metrics::Outcome;
    use panscreen_envs::metrics::protocols::flare24;
    use panscreen_envs::metrics::statistics::resample::uniform;

    use super::*;
    use crate::evaluate::summary::summarise;
    use crate::evaluate::{CaseRecord, Rule, StructureRecord};

    fn settings() -> Settings {
        let rule = Rule { protocol: protocol(), lesion: LesionClasses::All };
        Settings { rule, resampling: Resampling { resamples: 200, seed: 1 }, metadata: None, efficiency: None }
    }

    fn protocol() -> &'static panscreen_envs::metrics::protocols::Protocol {
        panscreen_envs::metrics::protocols::find(flare24::PROTOCOL.name).unwrap()
    }

    /// Each case with this dsc and nsd; `None` is a missing prediction.
    fn method(name: &str, scores: &[Option<f64>]) -> Method {
        let record = |(i, score): (usize, &Option<f64>)| {
            let value = || score.map_or(Outcome::failed("there is no prediction"), Outcome::Value);
            let status = if score.is_some() { Status::Scored } else { Status::Missing };
            let values = BTreeMap::from([("dsc".to_owned(), value()), ("nsd".to_owned(), value())]);
            let structure =
                StructureRecord { structure: "lesion".into(), status, reason: None, reference_ml: 1.0, predicted_ml: None, values };
            CaseRecord { structures: vec![structure], ..CaseRecord::blank(&format!("c{i:02}"), String::new()) }.settled()
        };
        let cases: Vec<CaseRecord> = scores.iter().enumerate().map(record).collect();
        let summary = summarise(protocol(), &cases, None, None, settings().resampling);
        Method { name: name.into(), folder: PathBuf::new(), cases, summary }
    }

    #[test]
    fn a_perfect_method_is_first_and_a_missing_case_costs() {
        let noise = |seed| (0..30).map(|i| Some(0.6 + 0.3 * uniform(seed, i))).collect::<Vec<_>>();
        let (good, mut holes) = (noise(1), noise(1));
        holes[0] = None;
        let methods = [method("good", &good), method("perfect", &[Some(1.0); 30]), method("holes", &holes), method("worse", &noise(9))];
        let board = compare(&methods, &settings());
        assert_eq!(board.overall[0].method, "perfect");
        let dsc = &board.columns[0];
        assert_eq!((dsc.cases, dsc.main, dsc.standings[1].rank_by_mean), (30, true, Some(1)));
        assert!(dsc.standings[2].mean.mean.value() < dsc.standings[0].mean.mean.value());
        assert_eq!((dsc.standings[2].mean.missing, dsc.standings[2].mean.values), (1, 29));
        // Where both have an answer they are the same, and it is the lost case that ranks them.
        assert_eq!((dsc.common, dsc.standings[2].common_mean), (29, dsc.standings[0].common_mean));
        assert_eq!((dsc.standings[1].wins, dsc.standings[1].first), (3, 1.0));
        let pair = &dsc.pairs[0];
        assert!(pair.mean_difference < 0.0 && pair.holm_p < 0.001 && pair.holm_p >= pair.wilcoxon_p && pair.interval.unwrap().high < 0.0);
        // Methods in another order are the same methods.
        let [a, b, c, d] = methods;
        let turned = compare(&[d, c, b, a], &settings());
        let of = |board: &Leaderboard, name: &str| board.columns[0].standings.iter().find(|s| s.method == name).unwrap().clone();
        for name in ["good", "perfect", "holes", "worse"] {
            assert_eq!(of(&board, name), of(&turned, name));
        }
    }

    #[test]
    fn scans_of_one_patient_are_one_witness() {
        let dir = tempfile::tempdir().unwrap();
        let table = dir.path().join("meta.csv");
        let rows: String = (0..30).map(|i| format!("c{i:02},p{}\n", i / 10)).collect();
        std::fs::write(&table, format!("case,patient\n{rows}")).unwrap();
        // Better by 0.1, 0.2 and 0.3 on the three patients.
        let score = |add: f64| (0..30).map(|i| Some(0.3 + add * (1 + i / 10) as f64 + 0.1 * uniform(3, i))).collect::<Vec<_>>();
        let methods = [method("better", &score(0.1)), method("other", &score(0.0))];
        let plain = compare(&methods, &settings());
        let metadata = Some(crate::evaluate::metadata::Metadata::read(&table, &[]).unwrap());
        let by_patient = compare(&methods, &Settings { metadata, ..settings() });
        let pair = |board: &Leaderboard| board.columns[0].pairs[0].clone();
        let (one, three) = (pair(&plain), pair(&by_patient));
        assert_eq!(((one.cases, one.units), (three.cases, three.units)), ((30, 30), (30, 3)));
        assert_eq!(one.mean_difference, three.mean_difference);
        // Of three patients' eight sign patterns two are as extreme.
        assert_eq!((three.sign_flip_p, three.wilcoxon_p), (0.25, 0.25));
        assert!(one.sign_flip_p < 0.01 && one.wilcoxon_p < 1e-4);
    }
}
