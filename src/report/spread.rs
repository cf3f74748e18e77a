//! Box plots and intervals: a row a method (or a group), the value along x. Colours as in [`super::chart`].

use std::fmt::Write;

use panscreen_envs::metrics::statistics::describe::{quantile_of_sorted, sorted};

use super::chart::{Axis, colour};
use super::html::escape;

/// A row of a chart.
#[derive(Clone, Debug)]
pub enum Spread {
    /// All values: box of the quartiles, whiskers to the last value within one and a half box lengths, dots beyond.
    Values(Vec<f64>),
    /// A middle with an interval around it.
    Interval { low: f64, middle: f64, high: f64 },
}

const WIDTH: f64 = 560.0;
const ROW: f64 = 30.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 46.0;
const RIGHT: f64 = 16.0;
/// Letters of a name that fit beside the plot, and the room that one takes.
const LETTERS: usize = 26;
const LETTER: f64 = 6.4;

/// The rows as one `<svg>` element; colours come again after `cycle` rows. Rows without a finite value are empty.
pub fn spreads(title: &str, axis: &Axis, rows: &[(String, Spread)], cycle: usize) -> String {
    let names: Vec<String> = rows.iter().map(|(name, _)| shortened(name)).collect();
    let left = 20.0 + LETTER * names.iter().map(|n| n.chars().count()).max().unwrap_or(0) as f64;
    let height = TOP + ROW * rows.len().max(1) as f64 + BOTTOM;
    let ends = |s: &Spread| match s {
        Spread::Values(v) => v.iter().copied().filter(|v| v.is_finite()).collect::<Vec<_>>(),
        Spread::Interval { low, middle, high } => [*low, *middle, *high].into_iter().filter(|v| v.is_finite()).collect(),
    };
    let all: Vec<f64> = rows.iter().flat_map(|(_, s)| ends(s)).collect();
    let (low, high) = (all.iter().copied().fold(f64::INFINITY, f64::min), all.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    let (x_ends, ticks) = if low <= high { axis.ticks(low, high) } else { axis.ticks(0.0, 1.0) };
    let to_x = |v: f64| left + (v.clamp(x_ends[0], x_ends[1]) - x_ends[0]) / (x_ends[1] - x_ends[0]) * (WIDTH - RIGHT - left);
    let bottom = height - BOTTOM;
    let mut s = String::new();
    let title = escape(title);
    // Writing to a String does not fail.
    let _ = write!(
        s,
        r#"<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}" font-family="system-ui, sans-serif" font-size="11.5" fill="var(--muted, #64748b)">
<text x="10" y="20" font-size="14" font-weight="600" fill="var(--ink, #0f172a)">{title}</text>
"#
    );
    for &t in &ticks {
        let x = to_x(t);
        let _ = writeln!(
            s,
            r#"<line x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{bottom}" stroke="var(--line, #e2e8f0)"/><text x="{x:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            bottom + 17.0,
            axis.text(t)
        );
    }
    let _ = writeln!(
        s,
        r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
        (left + WIDTH - RIGHT) / 2.0,
        height - 8.0,
        escape(&axis.label)
    );
    for (i, ((_, spread), name)) in rows.iter().zip(&names).enumerate() {
        let y = TOP + ROW * (i as f64 + 0.5);
        let colour = colour(i % cycle.max(1));
        let _ = writeln!(
            s,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="end" fill="var(--ink, #0f172a)">{}</text>"#,
            left - 10.0,
            y + 4.0,
            escape(name)
        );
        match spread {
            Spread::Values(_) => draw_box(&mut s, &sorted(&ends(spread)), y, &colour, to_x),
            Spread::Interval { low, middle, high } if middle.is_finite() => {
                if low.is_finite() && high.is_finite() {
                    line(&mut s, [to_x(*low), to_x(*high)], [y, y], &colour, 2.5);
                }
                let _ = writeln!(
                    s,
                    r#"<circle cx="{:.1}" cy="{y:.1}" r="5" fill="{colour}" stroke="var(--card, #fff)" stroke-width="1.5"/>"#,
                    to_x(*middle)
                );
            }
            Spread::Interval { .. } => {}
        }
    }
    s.push_str("</svg>\n");
    s
}

fn draw_box(s: &mut String, ascending: &[f64], y: f64, colour: &str, to_x: impl Fn(f64) -> f64) {
    let quartile = |q| quantile_of_sorted(ascending, q);
    let (Some(q1), Some(median), Some(q3)) = (quartile(0.25), quartile(0.5), quartile(0.75)) else { return };
    let reach = 1.5 * (q3 - q1);
    let inside = |v: &&f64| (q1 - reach..=q3 + reach).contains(*v);
    let whisker = |ends: Option<&f64>, or: f64| ends.copied().unwrap_or(or);
    let (low, high) = (whisker(ascending.iter().find(inside), q1), whisker(ascending.iter().rev().find(inside), q3));
    for (from, to) in [(low, q1), (q3, high)] {
        line(s, [to_x(from), to_x(to)], [y, y], colour, 1.5);
    }
    for end in [low, high] {
        line(s, [to_x(end); 2], [y - 5.0, y + 5.0], colour, 1.5);
    }
    let (x1, x3) = (to_x(q1), to_x(q3));
    let _ = writeln!(
        s,
        r#"<rect x="{x1:.1}" y="{:.1}" width="{:.1}" height="18" rx="2" fill="{colour}" fill-opacity="0.18" stroke="{colour}" stroke-width="1.5"/>"#,
        y - 9.0,
        (x3 - x1).max(1.0)
    );
    line(s, [to_x(median); 2], [y - 9.0, y + 9.0], colour, 3.0);
    // Many equal outliers are one dot.
    let mut last = f64::NAN;
    for &v in ascending.iter().filter(|v| !inside(v)) {
        if (to_x(v) - last).abs() < 0.5 {
            continue;
        }
        last = to_x(v);
        let _ = writeln!(s, r#"<circle cx="{last:.1}" cy="{y:.1}" r="2.5" fill="none" stroke="{colour}"/>"#);
    }
}

fn line(s: &mut String, [x1, x2]: [f64; 2], [y1, y2]: [f64; 2], colour: &str, width: f64) {
    let _ = writeln!(
        s,
        r#"<line x1="{x1:.1}" x2="{x2:.1}" y1="{y1:.1}" y2="{y2:.1}" stroke="{colour}" stroke-width="{width}" stroke-linecap="round"/>"#
    );
}

/// A name that fits beside a plot.
pub fn shortened(name: &str) -> String {
    if name.chars().count() <= LETTERS { name.to_owned() } else { name.chars().take(LETTERS - 1).chain(['…']).collect() }
}

#[test]
fn a_box_of_known_quartiles() {
    let values: Vec<f64> = (0..=10).map(|i| f64::from(i) / 10.0).chain([5.0]).collect();
    let axis = Axis { range: Some([0.0, 5.0]), ..Axis::new("Dice") };
    let rows = [("a<b".to_owned(), Spread::Values(values)), ("none".to_owned(), Spread::Values(vec![f64::NAN]))];
    let svg = spreads("t", &axis, &rows, 2);
    // Five letters at most: the plot begins at 20 + 4 x 6.4. Quartiles 0.275 and 0.825, median 0.55, one outlier at 5.
    let x = |v: f64| format!("{:.1}", 45.6 + v / 5.0 * (544.0 - 45.6));
    assert!(svg.contains(&format!(r#"<rect x="{}""#, x(0.275))) && svg.contains(&format!(r#"<circle cx="{}""#, x(5.0))), "{svg}");
    assert!(svg.contains("a&lt;b") && !svg.contains("NaN") && svg.matches("<circle").count() == 1);
    let interval = spreads("t", &Axis::new("rank"), &[("m".into(), Spread::Interval { low: 1.0, middle: 2.0, high: 3.0 })], 1);
    assert!(interval.contains("<circle") && !interval.contains("<rect"));
    assert_eq!(shortened("a method with a very long name").chars().count(), LETTERS);
}
