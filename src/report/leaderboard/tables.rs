//! The tables of a leaderboard's page.

use panscreen_envs::metrics::Outcome;

use super::several;
use crate::evaluate::summary::{FactorAnalysis, Note, STRUCTURES, Summary};
use crate::evaluate::touchstone::published;
use crate::leaderboard::{ALPHA, Leaderboard};
use crate::report::html::{Cell, Table};

pub fn standings(board: &Leaderboard) -> Table<'static> {
    // A row a method and main metric: columns stay the same for every protocol, and sorting by any of them is possible.
    let mut rows = Vec::new();
    for o in &board.overall {
        let Some(m) = board.methods.iter().position(|name| *name == o.method) else { continue };
        for c in &board.columns {
            let s = &c.standings[m];
            rows.push(vec![
                Cell::Number(o.rank as f64, 0),
                Cell::text(&o.method),
                Cell::text(&c.metric),
                Cell::text(&c.structure),
                Cell::number(s.mean.mean.value(), 4),
                Cell::number(s.interval.map(|i| i.low), 4),
                Cell::number(s.interval.map(|i| i.high), 4),
                Cell::number(s.median, 4),
                Cell::number(s.common_mean, 4),
                Cell::Number(c.common as f64, 0),
                Cell::Number(s.mean.values as f64, 0),
                Cell::Number(s.mean.missing as f64, 0),
                Cell::Number(s.mean.failed as f64, 0),
                Cell::Number(c.not_asked as f64, 0),
            ]);
        }
    }
    const ALL: [&str; 14] = [
        "rank",
        "method",
        "metric",
        "structure",
        "mean",
        "low",
        "high",
        "median",
        "common mean",
        "common",
        "values",
        "missing",
        "failed",
        "not asked",
    ];
    const ONE: [&str; 13] =
        ["rank", "method", "metric", "mean", "low", "high", "median", "common mean", "common", "values", "missing", "failed", "not asked"];
    let several = several(board);
    Table {
        caption: "Means over the cases that the metric is asked of, lost ones as the worst value. No number: a case is lost and the metric has no worst value. Common: cases that no method lost, and the mean over them. Rank: over all main metrics",
        columns: if several { &ALL } else { &ONE },
        rows: without_structure(rows, several, 3),
    }
}

/// Rows without the column that says the same in all of them.
fn without_structure(mut rows: Vec<Vec<Cell>>, several: bool, column: usize) -> Vec<Vec<Cell>> {
    if !several {
        rows.iter_mut().for_each(|row| {
            row.remove(column);
        });
    }
    rows
}

pub fn counts(board: &Leaderboard) -> Table<'static> {
    let row = |(method, s): (&String, &Summary)| {
        let n = |n: usize| Cell::Number(n as f64, 0);
        let mut row = vec![Cell::text(method), n(s.cases), n(s.scored), n(s.missing), n(s.failed), n(s.unjudged), n(s.empty_predictions)];
        if several(board) {
            row.extend([s.structures.cases_in_part, s.structures.scored, s.structures.missing, s.structures.failed].map(n));
        }
        row
    };
    const ONE: [&str; 7] = ["method", "cases", "scored", "missing", "failed", "unjudged", "empty masks"];
    const ALL: [&str; 11] = [
        "method",
        "cases",
        "scored",
        "missing",
        "failed",
        "unjudged",
        "empty masks",
        "scored in part",
        "structures scored",
        "structures missing",
        "structures failed",
    ];
    Table {
        caption: "What became of the cases; one that lacks some structures is scored in part. Unjudged: the reference can't be used; left out for all methods",
        columns: if several(board) { &ALL } else { &ONE },
        rows: board.methods.iter().zip(&board.summaries).map(row).collect(),
    }
}

pub fn ranks(board: &Leaderboard) -> Table<'static> {
    let mut rows = Vec::new();
    for c in board.columns.iter() {
        for s in &c.standings {
            let rank = |r: Option<usize>| Cell::number(r.map(|r| r as f64), 0);
            rows.push(vec![
                Cell::text(&s.method),
                Cell::text(&c.metric),
                Cell::text(&c.structure),
                rank(s.rank_by_mean),
                rank(s.rank_by_median),
                rank(Some(s.rank_by_case_ranks)),
                Cell::Number(s.mean_case_rank, 2),
                Cell::Number(s.wins as f64, 0),
                Cell::Percent(s.first, 1),
                Cell::Number(s.rank_interval[0], 0),
                Cell::Number(s.rank_interval[1], 0),
            ]);
        }
    }
    const ALL: [&str; 11] =
        ["method", "metric", "structure", "mean", "median", "case ranks", "mean case rank", "wins", "first", "low", "high"];
    const ONE: [&str; 10] = ["method", "metric", "mean", "median", "case ranks", "mean case rank", "wins", "first", "low", "high"];
    let several = several(board);
    Table {
        caption: "Ranks by mean, median and the mean of the ranks on every case. Wins: methods it beats in the significance map, which takes every case as independent. First: share of bootstrap draws. Low and high: ranks in 95 % of them",
        columns: if several { &ALL } else { &ONE },
        rows: without_structure(rows, several, 2),
    }
}

pub fn tests(board: &Leaderboard) -> Table<'static> {
    let mut rows = Vec::new();
    for (c, p) in board.columns.iter().flat_map(|c| c.pairs.iter().map(move |p| (c, p))) {
        rows.push(vec![
            Cell::text(&c.metric),
            Cell::text(&p.a),
            Cell::text(&p.b),
            Cell::Number(p.cases as f64, 0),
            Cell::Number(p.units as f64, 0),
            Cell::Number(p.mean_difference, 4),
            Cell::number(p.interval.map(|i| i.low), 4),
            Cell::number(p.interval.map(|i| i.high), 4),
            Cell::number(p.hodges_lehmann, 4),
            Cell::Number(p.wilcoxon_p, 5),
            Cell::Number(p.holm_p, 5),
            Cell::Number(p.sign_flip_p, 5),
        ]);
    }
    Table {
        caption: "First less second, paired by case. Units: patients where they are known, else cases; Wilcoxon and HL shift (Hodges and Lehmann) take the units' mean differences. Wilcoxon two-sided; Holm over the pairs of a metric; sign-flip on the mean, units as a whole",
        columns: &[
            "metric",
            "first",
            "second",
            "cases",
            "units",
            "difference",
            "low",
            "high",
            "HL shift",
            "Wilcoxon p",
            "Holm p",
            "sign-flip p",
        ],
        rows,
    }
}

pub fn detection_table(board: &Leaderboard) -> Table<'static> {
    let row = |(method, s): (&String, &Summary)| {
        let s = s.screening.as_ref()?;
        Some(vec![
            Cell::text(method),
            Cell::number(s.sensitivity.value.value(), 3),
            Cell::number(s.specificity.value.value(), 3),
            Cell::number(s.recall.value.value(), 3),
            Cell::number(s.lesions.precision.value(), 3),
            Cell::number(s.f1.value(), 3),
            Cell::Number(s.one_to_one.counts.tp as f64, 0),
            Cell::Number(s.one_to_one.counts.fp as f64, 0),
            Cell::Number(s.one_to_one.counts.fn_ as f64, 0),
            Cell::number(s.one_to_one.f1.value(), 3),
            Cell::Number(s.lesions.false_positives as f64, 0),
            Cell::number(s.lesions.false_positives_per_healthy_scan.value(), 2),
            Cell::number(s.lesions.false_positive_ml_per_healthy_scan.value(), 2),
            Cell::number(s.auc.map(|a| a.area), 3),
            Cell::number(s.camelyon_score, 3),
            Cell::number(s.luna_score, 3),
            Cell::number(s.calibration.as_ref().and_then(|c| c.ece), 3),
        ])
    };
    Table {
        caption: "Scans and lesions by any overlap; FP: findings on no lesion. 1:1: lesions and findings in pairs of an IoU of at least 0.1",
        columns: &[
            "method",
            "sensitivity",
            "specificity",
            "lesion recall",
            "precision",
            "F1",
            "1:1 TP",
            "1:1 FP",
            "1:1 FN",
            "1:1 F1",
            "FP",
            "FP / healthy",
            "FP mL / healthy",
            "AUROC",
            "CAMELYON",
            "LUNA",
            "ECE",
        ],
        rows: board.methods.iter().zip(&board.summaries).filter_map(row).collect(),
    }
}

pub fn group_tests(board: &Leaderboard) -> Table<'static> {
    let row = |method: &String, g: &FactorAnalysis| {
        let groups = g.analysis.groups.iter().map(|q| format!("{} ({}): {:.3}", q.name, q.n, q.mean)).collect::<Vec<_>>().join(", ");
        let pairs =
            g.analysis.pairs.iter().filter(|p| p.p_adjusted < ALPHA).map(|p| format!("{} and {}", p.a, p.b)).collect::<Vec<_>>().join(", ");
        vec![
            Cell::text(&g.factor),
            Cell::text(&g.metric),
            Cell::text(method),
            Cell::text(groups),
            Cell::number(g.analysis.kruskal_wallis.map(|t| t.statistic), 3),
            Cell::number(g.analysis.kruskal_wallis.map(|t| t.p), 5),
            Cell::text(pairs),
        ]
    };
    Table {
        caption: "Means of the groups that are large enough; Kruskal and Wallis's H over them; pairs that differ by Mann and Whitney's test, corrected",
        columns: &["factor", "metric", "method", "groups (cases): mean", "H", "p", "differ"],
        rows: board.methods.iter().zip(&board.summaries).flat_map(|(m, s)| s.groups.iter().map(move |g| row(m, g))).collect(),
    }
}

pub fn hospital() -> Table<'static> {
    let row = |(model, values): &(&str, [f64; 10])| [Cell::text(*model)].into_iter().chain(values.map(|v| Cell::Number(v, 1))).collect();
    Table {
        caption: "Published: mean DSC x 100 on the hidden hospital set",
        columns: &published::HOSPITAL_COLUMNS,
        rows: published::HOSPITAL.iter().map(row).collect(),
    }
}

pub fn public() -> Table<'static> {
    let row =
        |(model, values): &(&str, [Option<f64>; 6])| [Cell::text(*model)].into_iter().chain(values.map(|v| Cell::number(v, 1))).collect();
    Table {
        caption: "Published: TotalSegmentator (TS) and DAP Atlas (DAP), x 100, means of the organs' means; case sets differ between methods",
        columns: &published::PUBLIC_COLUMNS,
        rows: published::PUBLIC.iter().map(row).collect(),
    }
}

/// The methods of this leaderboard as the published tables have theirs, by `metric` (dsc or nsd).
pub fn beside_published(board: &Leaderboard, metric: &str) -> Table<'static> {
    let row = |(method, s): (&String, &Summary)| {
        let mean = |structure: &str| s.table.iter().find(|r| r.structure == structure && r.metric == metric).map(|r| &r.mean.mean);
        let [_, _, organs @ ..] = &published::HOSPITAL_COLUMNS;
        let values = std::iter::once(STRUCTURES).chain(organs.iter().copied()).map(|name| mean(name).and_then(Outcome::value));
        std::iter::once(Cell::text(method)).chain(values.map(|v| Cell::number(v.map(|v| 100.0 * v), 1))).collect()
    };
    Table {
        caption: match metric {
            "nsd" => "These methods: NSD x 100; mean: of the organs' means, lost organs as 0",
            _ => "These methods: DSC x 100; mean: of the organs' means, lost organs as 0",
        },
        columns: &published::HOSPITAL_COLUMNS,
        rows: board.methods.iter().zip(&board.summaries).map(row).collect(),
    }
}

/// Names with what they mean.
pub fn notes<'a>(caption: &'a str, columns: &'a [&'a str; 2], notes: &[Note]) -> Table<'a> {
    Table { caption, columns, rows: notes.iter().map(|n| vec![Cell::text(&n.name), Cell::text(&n.text)]).collect() }
}
