//! The figures of a leaderboard.

use panscreen_envs::metrics::statistics::groups::GroupAnalysis;

use super::{Material, leader, several};
use crate::evaluate::summary::{FactorAnalysis, LEAST_GROUP, Summary};
use crate::leaderboard::{ALPHA, Column, Leaderboard};
use crate::report::chart::{Axis, Chart};
use crate::report::significance;
use crate::report::spread::{Spread, spreads};

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
    let ranks = main().filter(|_| methods.len() > 1).map(|c| {
        let rows: Vec<(String, Spread)> = c
            .standings
            .iter()
            .map(|s| {
                let middle = s.rank_by_mean.unwrap_or(s.rank_by_case_ranks) as f64;
                (s.method.clone(), Spread::Interval { low: s.rank_interval[0], middle, high: s.rank_interval[1] })
            })
            .collect();
        let by = if c.standings.iter().all(|s| s.rank_by_mean.is_some()) { "rank by mean" } else { "rank by case ranks" };
        let axis = Axis { range: Some([1.0, methods.len().max(2) as f64]), whole: true, ..Axis::new(by) };
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
    let mut rows = Vec::new();
    // References are the same for all methods, and so are the lesions of a class.
    let classes = screenings().next().map_or(&[][..], |(_, s)| &s.by_diameter_mm);
    for (i, class) in classes.iter().enumerate().filter(|(_, c)| c.lesions > 0) {
        for (name, s) in screenings() {
            let Some(c) = s.by_diameter_mm.get(i) else { continue };
            let interval = c.interval.map_or([f64::NAN; 2], |i| [i.low, i.high]);
            let middle = c.sensitivity.value().unwrap_or(f64::NAN);
            rows.push((format!("{} mm: {name}", class.label()), Spread::Interval { low: interval[0], middle, high: interval[1] }));
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
        caption: format!("Median and quartiles.{test} Groups of fewer than {LEAST_GROUP} cases are left out."),
    }
}

fn p_text(p: f64) -> String {
    if p < 0.0001 { "below 0.0001".into() } else { format!("{p:.4}") }
}
