//! The page of a leaderboard, and its figures.

use panscreen_envs::metrics::statistics::groups::GroupAnalysis;

use super::chart::{Axis, Chart};
use super::html::{Card, Case, Cell, Figure, Page, Table, Tone};
use super::significance;
use super::spread::{Spread, spreads};
use crate::evaluate::summary::{CASES, FactorAnalysis, Summary};
use crate::evaluate::touchstone::published;
use crate::leaderboard::pictures::Worst;
use crate::leaderboard::{ALPHA, Column, Leaderboard};

/// What the page is made of.
pub struct Material<'a> {
    pub board: &'a Leaderboard,
    /// For each column the scores of each method: `[column][method][case]`.
    pub values: &'a [Vec<Vec<f64>>],
    pub worst: &'a [Worst],
}

/// A figure: its file name without an ending, the drawing, and what it shows.
pub struct Drawing {
    pub name: String,
    pub svg: String,
    pub caption: String,
}

/// Figures by the section of the page that they belong to.
pub struct Drawings {
    pub scores: Vec<Drawing>,
    pub ranks: Vec<Drawing>,
    pub maps: Vec<Drawing>,
    pub detection: Vec<Drawing>,
    pub groups: Vec<Drawing>,
}

impl Drawings {
    pub fn all(&self) -> impl Iterator<Item = &Drawing> {
        [&self.scores, &self.ranks, &self.maps, &self.detection, &self.groups].into_iter().flatten()
    }
}

/// All figures of a leaderboard.
pub fn drawings(m: &Material) -> Drawings {
    let methods = &m.board.methods;
    let name = |c: &Column, what: &str| format!("{}_{}_{what}", c.metric, c.structure.replace(' ', "_"));
    let several = several(m.board);
    let title = |c: &Column| if several { format!("{}, {}", c.metric, c.structure) } else { c.metric.clone() };
    let shown = || m.board.columns.iter().zip(m.values).filter(|(c, _)| c.main || several);
    let scores = shown().map(|(c, values)| {
        let rows: Vec<(String, Spread)> = methods.iter().cloned().zip(values.iter().cloned().map(Spread::Values)).collect();
        let caption = format!(
            "{} cases. Box: quartiles and median; whiskers: last value within 1.5 boxes; lost cases at their worst value.",
            c.cases
        );
        Drawing { name: name(c, "boxes"), svg: spreads(&title(c), &Axis::share(&c.metric), &rows, rows.len()), caption }
    });
    let main = || m.board.columns.iter().filter(|c| c.main);
    let ranks = main().map(|c| {
        let rows: Vec<(String, Spread)> = c
            .standings
            .iter()
            .map(|s| {
                let middle = s.rank_by_mean.unwrap_or(s.rank_by_case_ranks) as f64;
                (s.method.clone(), Spread::Interval { low: s.rank_interval[0], middle, high: s.rank_interval[1] })
            })
            .collect();
        let axis = Axis { range: Some([1.0, methods.len().max(2) as f64]), whole: true, ..Axis::new("rank by mean") };
        let tau = c.mean_tau.map_or(String::new(), |t| format!(" Kendall's tau of a draw with the whole: {t:.2} on average."));
        let caption = format!("Dot: rank on all cases; line: ranks in 95 % of the bootstrap draws.{tau}");
        Drawing { name: name(c, "ranks"), svg: spreads(&format!("Rank stability: {}", title(c)), &axis, &rows, rows.len()), caption }
    });
    let maps = shown().filter(|_| methods.len() > 1).map(|(c, _)| {
        let caption =
            format!("One-sided Wilcoxon tests of all ordered pairs on {} cases, Holm over the map; methods by their median.", c.cases);
        Drawing { name: name(c, "significance"), svg: significance::map(&title(c), methods, &c.significance, ALPHA), caption }
    });
    Drawings {
        scores: scores.collect(),
        ranks: ranks.collect(),
        maps: maps.collect(),
        detection: detection(m.board),
        groups: leader(m.board).map_or_else(Vec::new, |(method, s)| {
            s.groups.iter().filter(|g| g.analysis.groups.len() > 1).map(|g| group(method, g)).collect()
        }),
    }
}

fn detection(board: &Leaderboard) -> Vec<Drawing> {
    let with: Vec<(&String, &Summary)> = board.methods.iter().zip(&board.summaries).filter(|(_, s)| s.screening.is_some()).collect();
    if with.is_empty() {
        return Vec::new();
    }
    let screenings = || with.iter().filter_map(|(name, s)| Some((name.as_str(), s.screening.as_ref()?)));
    let mut drawn = Vec::new();
    let axis = Axis { range: Some([0.0, 8.0]), ..Axis::new("false positives a scan") };
    let mut froc = Chart::new("FROC", axis, Axis::percent("lesions found"));
    for (name, s) in screenings() {
        let mut points: Vec<(f64, f64)> =
            s.froc.iter().flatten().map(|p| (p.false_positives_per_scan, p.sensitivity)).filter(|p| p.0 <= 8.0).collect();
        points.reverse();
        froc = froc.line(name, points);
    }
    let by = |what: &str| screenings().any(|(_, s)| s.scores == what);
    let scored = match (by("probability"), by("volume_ml")) {
        (true, true) => "findings by their probability where maps were saved beside the masks, else by their volume",
        (true, false) => "findings by their highest probability",
        _ => "findings by their volume: no probability maps lie beside the masks",
    };
    drawn.push(Drawing { name: "froc".into(), svg: froc.svg(), caption: format!("Lesions found as the threshold falls; {scored}.") });
    if screenings().any(|(_, s)| s.calibration.is_some()) {
        let mut chart = Chart::new("Calibration", Axis::percent("probability of a finding"), Axis::percent("findings that are lesions"));
        for (name, s) in screenings() {
            if let Some(c) = &s.calibration {
                chart = chart.line(name, c.bins.iter().map(|b| (b.mean_probability, b.frequency)).collect());
            }
        }
        let chart = chart.line("ideal", vec![(0.0, 0.0), (1.0, 1.0)]);
        drawn.push(Drawing {
            name: "calibration".into(),
            svg: chart.svg(),
            caption: "Ten bins of equal width; below the ideal line findings are surer than they should be.".into(),
        });
    }
    let sizes = || screenings().next().map(|(_, s)| s.by_diameter_mm.clone()).unwrap_or_default();
    let mut rows = Vec::new();
    for (i, class) in sizes().iter().enumerate().filter(|(_, c)| c.lesions > 0) {
        let size = match (class.from, class.to) {
            (None, Some(to)) => format!("< {to} mm"),
            (Some(from), Some(to)) => format!("{from}-{to} mm"),
            (Some(from), None) => format!(">= {from} mm"),
            (None, None) => "all".into(),
        };
        for (name, s) in screenings() {
            let Some(c) = s.by_diameter_mm.get(i) else { continue };
            let interval = c.interval.map_or([f64::NAN; 2], |i| [i.low, i.high]);
            let middle = c.sensitivity.value().unwrap_or(f64::NAN);
            rows.push((format!("{size}: {name}"), Spread::Interval { low: interval[0], middle, high: interval[1] }));
        }
    }
    if !rows.is_empty() {
        let svg = spreads("Lesions found by size", &Axis::percent("lesions found"), &rows, with.len());
        drawn.push(Drawing {
            name: "by_size".into(),
            svg,
            caption: "Diameter of the ball of the same volume; Wilson's 95 % intervals, lesions of a patient count as independent.".into(),
        });
    }
    drawn
}

/// The method that is first overall, with its figures.
fn leader(board: &Leaderboard) -> Option<(&str, &Summary)> {
    let first = board.overall.first()?;
    let m = board.methods.iter().position(|name| *name == first.method)?;
    Some((&first.method, board.summaries.get(m)?))
}

fn group(method: &str, g: &FactorAnalysis) -> Drawing {
    let GroupAnalysis { groups, kruskal_wallis, .. } = &g.analysis;
    let rows: Vec<(String, Spread)> = groups
        .iter()
        .map(|q| (format!("{} ({})", q.name, q.n), Spread::Interval { low: q.quartiles[0], middle: q.quartiles[1], high: q.quartiles[2] }))
        .collect();
    let test = kruskal_wallis.map_or(String::new(), |t| format!(" Kruskal-Wallis p {}.", p_text(t.p)));
    Drawing {
        name: format!("{}_{}_{method}", g.factor, g.metric),
        svg: spreads(&format!("{method}: {} by {}", g.metric, g.factor), &Axis::share(&g.metric), &rows, rows.len()),
        caption: format!("Median and quartiles.{test} Groups of fewer than five cases are left out."),
    }
}

fn p_text(p: f64) -> String {
    if p < 0.0001 { "below 0.0001".into() } else { format!("{p:.4}") }
}

/// The page as one HTML text.
pub fn page(m: &Material, drawings: &Drawings) -> String {
    let board = m.board;
    let Some(first) = board.summaries.first() else { return Page::new("panscreen leaderboard", "no method").render() };
    let mut page = Page::new(
        "panscreen leaderboard",
        &format!("{} methods on {} cases, protocol {}", board.methods.len(), first.cases, first.protocol),
    );
    page.section("Summary").cards(&cards(board));
    let flaws: Vec<Vec<Cell>> = first.known_flaws.iter().map(|f| vec![Cell::text(&f.name), Cell::text(&f.text)]).collect();
    page.prose(&format!(
        "{}.\n\nEmpty masks: {}. Lost cases: missing and failed predictions count as the worst value; nothing improves by failing.\n\nIntervals are 95 % over {} \
         bootstrap draws of {} (seed {}).",
        first.rule,
        first.empty_masks,
        first.resampling.resamples,
        first.patients.map_or("cases".to_owned(), |n| format!("{n} patients")),
        first.resampling.seed
    ));
    page.section("Standings").table(&standings(board)).table(&counts(board));
    page.section("Scores").figures(&figures(&drawings.scores));
    page.section("Ranks")
        .prose("Would another draw of the same cases rank them alike?")
        .table(&ranks(board))
        .figures(&figures(&drawings.ranks));
    if board.methods.len() > 1 {
        page.section("Tests").table(&tests(board)).figures(&figures(&drawings.maps));
    }
    if !drawings.detection.is_empty() {
        page.section("Lesions and scans").table(&detection_table(board)).figures(&figures(&drawings.detection));
    }
    if board.summaries.iter().any(|s| !s.groups.is_empty()) {
        let said = "One factor at a time: factors that go together can't be told apart here. Figures are of the method that is first.";
        page.section("Groups").prose(said).table(&group_tests(board)).figures(&figures(&drawings.groups));
    }
    if !m.worst.is_empty() {
        let leader = board.overall.first().map_or("", |o| o.method.as_str());
        page.section("Worst cases")
            .prose(&format!("The lowest scores of {leader}. Cyan: what it marked. Pink: the reference."))
            .cases(&worst(m));
    }
    if first.protocol == "touchstone" {
        page.section("Published").table(&hospital()).table(&public());
    }
    page.section("What to know about the rule").table(&Table {
        caption: "Known flaws of the protocol, followed as published",
        columns: &["flaw", "what it does"],
        rows: flaws,
    });
    page.render()
}

fn figures(drawings: &[Drawing]) -> Vec<Figure<'_>> {
    drawings.iter().map(|d| Figure::Svg { svg: d.svg.clone(), caption: &d.caption }).collect()
}

fn cards(board: &Leaderboard) -> Vec<Card<'_>> {
    let main: Vec<&Column> = board.columns.iter().filter(|c| c.main).collect();
    let mut cards = Vec::new();
    if let Some(leader) = board.overall.first() {
        let tied = board.overall.iter().filter(|o| o.rank == leader.rank).count();
        let note = if tied > 1 {
            format!("and {} others with the same mean rank", tied - 1)
        } else {
            format!("mean rank {:.2} over cases and metrics", leader.mean_case_rank)
        };
        cards.push(Card { label: "first", value: leader.method.clone(), note, tone: Tone::Plain });
        for c in main.iter().take(2) {
            let Some(s) = c.standings.iter().find(|s| s.method == leader.method) else { continue };
            let value = s.mean.mean.value().map_or("none".into(), |v| format!("{v:.3}"));
            let interval = s.interval.map_or(String::new(), |i| format!("{:.3} to {:.3}; ", i.low, i.high));
            cards.push(Card { label: "its mean", value, note: format!("{}, {interval}{} cases", c.metric, c.cases), tone: Tone::Plain });
        }
    }
    let lost: usize = board.summaries.iter().map(|s| s.missing + s.failed).sum();
    let (value, tone) = if lost == 0 { ("none".into(), Tone::Good) } else { (lost.to_string(), Tone::Bad) };
    cards.push(Card { label: "lost cases of all methods", value, note: "missing or failed; they count as the worst value".into(), tone });
    cards
}

fn standings(board: &Leaderboard) -> Table<'static> {
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
                Cell::Number(s.mean.values as f64, 0),
                Cell::Number(s.mean.missing as f64, 0),
                Cell::Number(s.mean.failed as f64, 0),
                Cell::Number(c.not_asked as f64, 0),
            ]);
        }
    }
    const ALL: [&str; 12] =
        ["rank", "method", "metric", "structure", "mean", "low", "high", "median", "values", "missing", "failed", "not asked"];
    const ONE: [&str; 11] = ["rank", "method", "metric", "mean", "low", "high", "median", "values", "missing", "failed", "not asked"];
    let several = several(board);
    Table {
        caption: "Means over the cases that the metric is asked of, lost ones as the worst value. No number: a case is lost and the metric has no worst value. Rank: over all main metrics",
        columns: if several { &ALL } else { &ONE },
        rows: without_structure(rows, several, 3),
    }
}

/// With several structures every column is of a main metric; with one, every metric has a column.
fn several(board: &Leaderboard) -> bool {
    board.columns.iter().any(|c| c.structure == CASES)
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

fn counts(board: &Leaderboard) -> Table<'static> {
    let row = |(method, s): (&String, &Summary)| {
        let n = |n: usize| Cell::Number(n as f64, 0);
        vec![Cell::text(method), n(s.cases), n(s.scored), n(s.missing), n(s.failed), n(s.unjudged), n(s.empty_predictions)]
    };
    Table {
        caption: "What became of the cases. Unjudged: the reference can't be used; left out for all methods",
        columns: &["method", "cases", "scored", "missing", "failed", "unjudged", "empty masks"],
        rows: board.methods.iter().zip(&board.summaries).map(row).collect(),
    }
}

fn ranks(board: &Leaderboard) -> Table<'static> {
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
        caption: "Ranks by mean, median and the mean of the ranks on every case. Wins: methods it is significantly better than. First: share of bootstrap draws. Low and high: ranks in 95 % of them",
        columns: if several { &ALL } else { &ONE },
        rows: without_structure(rows, several, 2),
    }
}

fn tests(board: &Leaderboard) -> Table<'static> {
    let mut rows = Vec::new();
    for (c, p) in board.columns.iter().flat_map(|c| c.pairs.iter().map(move |p| (c, p))) {
        rows.push(vec![
            Cell::text(&c.metric),
            Cell::text(&p.a),
            Cell::text(&p.b),
            Cell::Number(p.cases as f64, 0),
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
        caption: "First less second, paired by case. HL shift: Hodges and Lehmann's. Wilcoxon two-sided; Holm over the pairs of a metric; sign-flip on the mean",
        columns: &["metric", "first", "second", "cases", "difference", "low", "high", "HL shift", "Wilcoxon p", "Holm p", "sign-flip p"],
        rows,
    }
}

fn detection_table(board: &Leaderboard) -> Table<'static> {
    let row = |(method, s): (&String, &Summary)| {
        let s = s.screening.as_ref()?;
        Some(vec![
            Cell::text(method),
            Cell::number(s.sensitivity.value.value(), 3),
            Cell::number(s.specificity.value.value(), 3),
            Cell::number(s.recall.value.value(), 3),
            Cell::number(s.lesions.precision.value(), 3),
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
        caption: "Scans and lesions by any overlap; FP: findings on no lesion",
        columns: &[
            "method",
            "sensitivity",
            "specificity",
            "lesion recall",
            "precision",
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

fn group_tests(board: &Leaderboard) -> Table<'static> {
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

fn worst<'a>(m: &'a Material) -> Vec<Case<'a>> {
    let case = |(i, w): (usize, &'a Worst)| Case {
        name: &w.case,
        verdict: if w.status == "scored" { format!("{:.3}", w.score) } else { w.status.clone() },
        tone: Tone::Bad,
        facts: m.board.methods.iter().map(String::as_str).zip(w.scores.iter().cloned()).collect(),
        preview: w.picture.as_deref(),
        open: i < 3,
    };
    m.worst.iter().enumerate().map(case).collect()
}

fn hospital() -> Table<'static> {
    let row = |(model, values): &(&str, [f64; 10])| [Cell::text(*model)].into_iter().chain(values.map(|v| Cell::Number(v, 1))).collect();
    Table {
        caption: "Published: mean DSC x 100 on the hidden hospital set",
        columns: &[
            "method",
            "mean",
            "aorta",
            "gall bladder",
            "left kidney",
            "right kidney",
            "liver",
            "pancreas",
            "postcava",
            "spleen",
            "stomach",
        ],
        rows: published::HOSPITAL.iter().map(row).collect(),
    }
}

fn public() -> Table<'static> {
    let row =
        |(model, values): &(&str, [Option<f64>; 6])| [Cell::text(*model)].into_iter().chain(values.map(|v| Cell::number(v, 1))).collect();
    Table {
        caption: "Published: TotalSegmentator (TS) and DAP Atlas (DAP), x 100, means of the organs' means; case sets differ between methods",
        columns: &["method", "TS DSC", "TS NSD", "TS DSC, mean of cases", "TS test DSC", "DAP DSC", "DAP NSD"],
        rows: published::PUBLIC.iter().map(row).collect(),
    }
}
