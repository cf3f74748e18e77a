//! The page of a leaderboard, and its figures.

mod drawings;
mod tables;

use std::path::Path;

use panscreen_envs::Result;
use panscreen_envs::io::write_atomic;

pub use drawings::{Drawing, Drawings, drawings};

use super::html::{Card, Case, Figure, Page, Tone};
use super::raster::{png_of, standalone};
use crate::evaluate::Settings;
use crate::evaluate::summary::{CASES, Summary};
use crate::evaluate::touchstone;
use crate::leaderboard::pictures::{Worst, values, worst_cases};
use crate::leaderboard::{Column, Leaderboard, Method};

/// What the page is made of.
pub struct Material<'a> {
    pub board: &'a Leaderboard,
    /// For each column the scores of each method: `[column][method][case]`.
    pub values: &'a [Vec<Vec<f64>>],
    pub worst: &'a [Worst],
}

/// Where masks and scans lie, for the pictures of the worst cases.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sources<'a> {
    pub reference: Option<&'a Path>,
    pub images: Option<&'a Path>,
}

/// Cases shown as pictures.
const WORST: usize = 10;

/// Write the page (`index.html`) and its figures (`figures/*.svg`, `*.png`) into `dir`.
pub fn write(board: &Leaderboard, methods: &[Method], settings: &Settings, sources: Sources, dir: &Path) -> Result<()> {
    let scores: Vec<Vec<Vec<f64>>> = board.columns.iter().map(|c| values(c, methods, settings.rule.protocol)).collect();
    let worst = worst_cases(board, methods, settings, sources.reference, sources.images, WORST);
    let material = Material { board, values: &scores, worst: &worst };
    let drawn = drawings(&material);
    for d in drawn.all() {
        let (file, svg) = (file_name(&d.name), standalone(&d.svg));
        write_atomic(&dir.join("figures").join(format!("{file}.svg")), svg.as_bytes())?;
        if let Some(png) = png_of(&svg) {
            write_atomic(&dir.join("figures").join(format!("{file}.png")), &png)?;
        }
    }
    write_atomic(&dir.join("index.html"), page(&material, &drawn).as_bytes())
}

/// A name that every file system takes.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}

/// The page as one HTML text.
pub fn page(m: &Material, drawings: &Drawings) -> String {
    let board = m.board;
    let Some(first) = board.summaries.first() else { return Page::new("panscreen leaderboard", "no method").render() };
    let several_methods = board.methods.len() > 1;
    let mut page = match board.methods.as_slice() {
        [one] => Page::new("panscreen evaluation", &format!("{one} on {} cases, protocol {}", first.cases, first.protocol)),
        all => Page::new("panscreen leaderboard", &format!("{} methods on {} cases, protocol {}", all.len(), first.cases, first.protocol)),
    };
    page.section("Summary").cards(&cards(board));
    page.prose(&format!(
        "{}.\n\nEmpty masks ({}): {}. Lost cases: missing and failed predictions count as the worst value, and a metric without one has no mean then; nothing improves by failing.\n\n\
         Intervals are 95 % over {} bootstrap draws of {} (seed {}).",
        first.rule,
        first.empty_policy,
        first.empty_masks,
        first.resampling.resamples,
        first.patients.map_or("cases".to_owned(), |n| format!("{n} patients")),
        first.resampling.seed
    ));
    page.section("Standings").table(&tables::standings(board)).table(&tables::counts(board));
    for (method, cost) in board.methods.iter().zip(&board.summaries).filter_map(|(m, s)| Some((m, s.efficiency.as_ref()?))) {
        page.prose(&format!("Cost of {method}: {}.", cost.text()));
    }
    page.section("Scores").figures(&figures(&drawings.scores));
    if several_methods {
        page.section("Ranks")
            .prose("Would another draw of the same cases rank them alike?")
            .table(&tables::ranks(board))
            .figures(&figures(&drawings.ranks));
        page.section("Tests").table(&tables::tests(board));
        if first.patients.is_some() {
            page.prose("The maps below are Touchstone's, which take every case as independent, whoever's it is.");
        }
        page.figures(&figures(&drawings.maps));
    }
    if !drawings.detection.is_empty() {
        page.section("Lesions and scans").table(&tables::detection_table(board)).figures(&figures(&drawings.detection));
    }
    if board.summaries.iter().any(|s| !s.groups.is_empty()) {
        let said = "One factor at a time: factors that go together can't be told apart here. Cases count as independent, also those of one patient. \
                    Figures are of the method that is first.";
        page.section("Groups").prose(said).table(&tables::group_tests(board)).figures(&figures(&drawings.groups));
    }
    if !m.worst.is_empty() {
        let leader = board.overall.first().map_or("", |o| o.method.as_str());
        page.section("Worst cases")
            .prose(&format!("The lowest scores of {leader}. Cyan: what it marked. Pink: the reference."))
            .cases(&worst(m));
    }
    if touchstone::is_rule(&first.protocol) {
        let tables = [tables::beside_published(board, "dsc"), tables::beside_published(board, "nsd"), tables::hospital(), tables::public()];
        page.section("Published").prose("Published figures are of other cases than these, unless the references are the same.");
        tables.iter().for_each(|t| {
            page.table(t);
        });
    }
    page.section("What to know about the rule")
        .table(&tables::notes("Metrics of the protocol", &["metric", "what it is"], &first.metrics))
        .table(&tables::notes("Known flaws of the protocol, followed as published", &["flaw", "what it does"], &first.known_flaws));
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
        if board.methods.len() > 1 {
            cards.push(Card { label: "first", value: leader.method.clone(), note, tone: Tone::Plain });
        }
        for c in main.iter().take(2) {
            let Some(s) = c.standings.iter().find(|s| s.method == leader.method) else { continue };
            let value = s.mean.mean.value().map_or("none".into(), |v| format!("{v:.3}"));
            let interval = s.interval.map_or(String::new(), |i| format!("{:.3} to {:.3}; ", i.low, i.high));
            let whose = if board.methods.len() > 1 { "its mean" } else { "mean" };
            cards.push(Card { label: &c.metric, value, note: format!("{whose}, {interval}{} cases", c.cases), tone: Tone::Plain });
        }
    }
    let lost: usize = board.summaries.iter().map(|s| s.structures.missing + s.structures.failed).sum();
    let (value, tone) = if lost == 0 { ("none".into(), Tone::Good) } else { (lost.to_string(), Tone::Bad) };
    let label = match (several(board), board.methods.len()) {
        (false, 1) => "lost cases",
        (true, 1) => "lost structures",
        (false, _) => "lost cases of all methods",
        (true, _) => "lost structures of all methods",
    };
    cards.push(Card { label, value, note: "missing or failed; they count as the worst value".into(), tone });
    cards
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

/// The method that is first overall, with its figures.
fn leader(board: &Leaderboard) -> Option<(&str, &Summary)> {
    let first = board.overall.first()?;
    let m = board.methods.iter().position(|name| *name == first.method)?;
    Some((&first.method, board.summaries.get(m)?))
}

/// With several structures every column is of a main metric; with one, every metric has a column.
fn several(board: &Leaderboard) -> bool {
    board.columns.iter().any(|c| c.structure == CASES)
}

#[test]
fn figures_have_names_that_every_file_system_takes() {
    assert_eq!(file_name("dsc_mean of cases/ä:b"), "dsc_mean_of_cases_ä_b");
}
