//! The demo's page.

use panscreen_envs::metrics::Outcome;

use super::chart::{Axis, Chart};
use super::curves;
use super::html::{Card, Case, Cell, Figure, Page, Table, Tone};
use super::preview::{PreviewInput, middle_of_largest, png, preview};
use crate::demo::DemoSummary;
use crate::evaluate::{CaseScore, Scores};
use crate::run::Record;
use crate::run::metrics::series;
use crate::screen::Screened;
use crate::stages::gf_screen::Operating;

/// A screened case with its reference.
pub struct Pictured<'a> {
    pub name: &'a str,
    pub screened: &'a Screened,
    pub score: &'a CaseScore,
    pub reference: &'a [u8],
}

/// What the page is made of.
pub struct Material<'a> {
    pub summary: &'a DemoSummary,
    pub glance_focus: &'a Scores,
    pub everywhere: &'a Scores,
    pub threshold: f32,
    pub records: &'a [Record],
    pub operating: &'a Operating,
    pub cases: &'a [Pictured<'a>],
    /// How many cases are shown as pictures.
    pub pictures: usize,
}

/// The page as one HTML text.
pub fn page(m: &Material) -> String {
    let (g, e) = (&m.summary.glance_focus, &m.summary.focus_everywhere);
    let mut page = Page::new(
        "panscreen demo",
        &format!("{} held-out phantom scans with {} lesions, seed {}", m.summary.cases, m.summary.lesions, m.summary.seed),
    );
    let tone = |good: bool| if good { Tone::Good } else { Tone::Bad };
    let relative = if e.lesion_recall > 0.0 { g.lesion_recall / e.lesion_recall } else { 0.0 };
    let speed = e.seconds_per_scan / g.seconds_per_scan.max(1e-9);
    let healthy = [g, e].map(|w| w.false_positives_per_healthy_scan);
    page.section("Summary").cards(&[
        Card {
            label: "windows that Focus saw",
            value: format!("{:.1} %", g.windows_kept * 100.0),
            note: "of all; wanted: at most 30 %".into(),
            tone: tone(g.windows_kept <= 0.3),
        },
        Card {
            label: "recall against Focus everywhere",
            value: format!("{:.1} %", relative * 100.0),
            note: format!("{:.3} against {:.3}; wanted: at least 95 %", g.lesion_recall, e.lesion_recall),
            tone: tone(relative >= 0.95),
        },
        Card {
            label: "false positives per healthy scan",
            value: format!("{:.2}", healthy[0]),
            note: format!("everywhere {:.2}", healthy[1]),
            tone: tone(healthy[0] <= healthy[1]),
        },
        Card {
            label: "faster than Focus everywhere",
            value: format!("{speed:.1} x"),
            note: format!("{:.3} s against {:.3} s a scan", g.seconds_per_scan, e.seconds_per_scan),
            tone: tone(speed >= 2.0),
        },
    ]);
    page.prose(
        "Glance looks at every sub-volume of a scan and picks those that deserve a look; Focus segments lesions there. Both were trained together: \
         what Focus found was the reward that taught Glance. The scans below were seen by neither.\n\n\
         Generated scans are far easier than patients. These figures show that the machinery works, nothing about patients.",
    );
    let rows = [("Glance and Focus", g, m.glance_focus), ("Focus everywhere", e, m.everywhere)].map(|(name, way, s)| {
        vec![
            Cell::text(name),
            Cell::Number(way.lesion_dice, 3),
            number(&s.lesion_nsd_2mm.mean, 3),
            Cell::Number(way.lesion_recall, 3),
            number(&s.lesions.precision, 3),
            number(&s.scan_sensitivity, 3),
            number(&s.scan_specificity, 3),
            Cell::Number(way.false_positives_per_healthy_scan, 2),
            Cell::Percent(way.windows_kept, 1),
            Cell::Number(way.seconds_per_scan, 3),
        ]
    });
    page.section("Two ways to screen").table(&Table {
        caption: "Held-out scans. Dice and NSD over scans with lesions, recall and precision over lesions, sensitivity and specificity over scans",
        columns: &[
            "way",
            "Dice",
            "NSD 2 mm",
            "recall",
            "precision",
            "sensitivity",
            "specificity",
            "FP / healthy scan",
            "windows",
            "s / scan",
        ],
        rows: rows.into(),
    });

    page.section("Training").figures(&[
        Figure::Svg { svg: curves::focus(m.records), caption: "Focus learns to segment." },
        Figure::Svg {
            svg: curves::reward(m.records),
            caption: "The reward is 1 where Focus touches a lesion: it climbs towards the share of sub-volumes that hold one.",
        },
        Figure::Svg {
            svg: curves::curve(m.records, "Glance", "", &[("losses/glance_ce", "class-balanced cross-entropy"), ("entropy", "entropy")]),
            caption: "Glance gets surer.",
        },
        Figure::Svg { svg: curves::policy_update(m.records), caption: "How far each update goes." },
        Figure::Svg {
            svg: Chart::new("Validation", Axis::new("step"), Axis::percent("share"))
                .line("Dice", series(m.records, "validation/lesion_dice"))
                .line("recall", series(m.records, "validation/lesion_recall"))
                .line("Dice everywhere", series(m.records, "validation/everywhere/lesion_dice"))
                .line("recall everywhere", series(m.records, "validation/everywhere/lesion_recall"))
                .svg(),
            caption: "Whole validation scans, both ways.",
        },
        Figure::Svg {
            svg: curves::operating(m.operating, Some(m.threshold)),
            caption: "Every operating point of Glance on the validation scans; recall relative to Focus everywhere.",
        },
    ]);

    page.prose(&operating(m.operating));

    page.section("Cases").prose("Cyan: what Focus marked. Pink: the label. Amber: Glance's probability.");
    let shown: Vec<&Pictured> = pick(m.cases, m.pictures);
    let pictures: Vec<Vec<u8>> = shown.iter().map(|c| picture(c)).collect();
    let cases: Vec<Case> = shown.iter().zip(&pictures).map(|(c, p)| case(c, p)).collect();
    page.cases(&cases);
    page.section("All held-out scans").table(&Table {
        caption: "Glance and Focus",
        columns: &["case", "Dice", "lesions", "found", "false positives", "label mL", "marked mL", "windows"],
        rows: m.cases.iter().map(row).collect(),
    });
    page.render()
}

/// How far Glance's probabilities and estimates can be trusted, and what the gate would do.
fn operating(o: &Operating) -> String {
    let number = |v: Option<f64>| v.map_or("unknown".into(), |v| format!("{v:.3}"));
    let mut text = format!(
        "On the validation scans Glance's expected calibration error is {}; temperature scaling ({:.2}) makes {} of it, with an intercept it is {}. \
         Outside what Focus saw it estimates {:.1} % of the lesions; {:.1} % of the lesion voxels lay there.",
        number(o.calibration.ece),
        o.calibration.temperature,
        number(o.calibration.ece_temperature),
        number(o.calibration.ece_scaled),
        o.left.estimated * 100.0,
        o.left.measured * 100.0,
    );
    let gate = o.gate.as_ref().map(|g| (g.gate.threshold, &g.curve));
    let at = |t: f64| move |p: &&crate::stages::gf_screen::operating::GatePoint| p.threshold >= t;
    if let Some((off, on)) = gate.and_then(|(t, curve)| Some((curve.first()?, curve.iter().find(at(t))?))) {
        text += &format!(
            " A gate on what findings look like (off here, `--gate`) would drop {:.2} of {:.2} false findings a scan and keep {:.0} % of the true ones.",
            off.false_findings_per_scan - on.false_findings_per_scan,
            off.false_findings_per_scan,
            on.true_findings * 100.0,
        );
    }
    text
}

fn number(outcome: &Outcome, digits: usize) -> Cell {
    Cell::number(outcome.value(), digits)
}

fn row(c: &Pictured) -> Vec<Cell> {
    let w = &c.screened.result.windows;
    vec![
        Cell::text(c.name),
        number(&c.score.dice, 3),
        Cell::Number(c.score.lesions as f64, 0),
        Cell::Number(c.score.lesions_hit as f64, 0),
        Cell::Number(c.score.false_positives as f64, 0),
        Cell::Number(c.score.reference_ml, 1),
        Cell::Number(c.score.predicted_ml, 1),
        Cell::Percent(w.kept as f64 / w.total.max(1) as f64, 1),
    ]
}

/// Cases worth a look: what was missed, what was wrongly marked, what went well, in turn.
fn pick<'a>(cases: &'a [Pictured<'a>], most: usize) -> Vec<&'a Pictured<'a>> {
    let missed = cases.iter().filter(|c| c.score.lesions_hit < c.score.lesions);
    let alarmed = cases.iter().filter(|c| c.score.lesions == 0 && c.score.false_positives > 0);
    let mut good: Vec<&Pictured> = cases.iter().filter(|c| c.score.lesions > 0 && c.score.lesions_hit == c.score.lesions).collect();
    good.sort_by(|a, b| b.score.dice.value().unwrap_or(0.0).total_cmp(&a.score.dice.value().unwrap_or(0.0)));
    let clear = cases.iter().filter(|c| c.score.lesions == 0 && c.score.false_positives == 0);
    let mut groups: [Vec<&Pictured>; 4] = [good, missed.collect(), alarmed.collect(), clear.collect()];
    groups.iter_mut().for_each(|g| g.reverse());
    let mut shown = Vec::new();
    while shown.len() < most && groups.iter().any(|g| !g.is_empty()) {
        for group in &mut groups {
            shown.extend(group.pop().filter(|_| shown.len() < most));
        }
    }
    shown
}

/// Three planes through the largest finding, else through the label, else through the middle.
fn picture(c: &Pictured) -> Vec<u8> {
    let shape = c.screened.volume.shape();
    let at = middle_of_largest(&c.screened.mask, shape).or_else(|| middle_of_largest(c.reference, shape)).unwrap_or(shape.map(|n| n / 2));
    let input = PreviewInput {
        at,
        prediction: Some(&c.screened.mask),
        reference: Some(c.reference),
        heat: Some(&c.screened.heat),
        caption: c.name,
        ..PreviewInput::of(&c.screened.volume)
    };
    png(&preview(&input))
}

fn case<'a>(c: &Pictured<'a>, picture: &'a [u8]) -> Case<'a> {
    let s = c.score;
    let (verdict, tone) = match (s.lesions, s.lesions_hit, s.false_positives) {
        (0, _, 0) => ("clear, and called so".to_owned(), Tone::Good),
        (0, _, n) => (format!("healthy, {n} false alarms"), Tone::Bad),
        (n, hit, _) if n == hit => (format!("all {n} lesions found"), Tone::Good),
        (n, hit, _) => (format!("{hit} of {n} lesions found"), Tone::Bad),
    };
    let w = &c.screened.result.windows;
    let facts = vec![
        ("Dice", s.dice.value().map_or("none".to_owned(), |d| format!("{d:.2}"))),
        ("windows", format!("{} of {}", w.kept, w.total)),
        ("label", format!("{:.1} mL", s.reference_ml)),
        ("marked", format!("{:.1} mL", s.predicted_ml)),
        ("false positives", s.false_positives.to_string()),
    ];
    Case { name: c.name, verdict, tone, facts, preview: Some(picture), open: true }
}
