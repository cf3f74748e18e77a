//! Curves as inline SVG. Colours are the page's variables, so that a chart follows its light or dark theme; the fallbacks serve it elsewhere.

use std::fmt::Write;

use super::html::escape;

/// A line chart with any number of series.
#[derive(Clone, Debug)]
pub struct Chart {
    title: String,
    x: Axis,
    y: Axis,
    series: Vec<Series>,
    smoothing: f64,
}

/// One axis: what it measures, and how far it goes.
#[derive(Clone, Debug, Default)]
pub struct Axis {
    pub label: String,
    /// Fixed ends; by default they follow the values.
    pub range: Option<[f64; 2]>,
    /// Show 0.25 as 25 %.
    pub percent: bool,
    /// Ticks at whole numbers only.
    pub whole: bool,
}

#[derive(Clone, Debug)]
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
    mark: Mark,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mark {
    Line,
    Dots,
    /// A horizontal dashed line to compare with, at the first point's y.
    Level,
}

/// Size of the drawing in its own units; the page scales it.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 300.0;
/// Room around the plot for labels: left, right, top, bottom.
const MARGIN: [f64; 4] = [62.0, 16.0, 58.0, 46.0];

/// Distinct for colour-blind eyes (after Okabe and Ito, toned to the page).
const COLOURS: [&str; 6] = ["#2563eb", "#ea7317", "#0f9d76", "#c026d3", "#b8860b", "#64748b"];

/// The colour of series `i`.
pub(super) fn colour(i: usize) -> String {
    format!("var(--s{}, {})", i % COLOURS.len() + 1, COLOURS[i % COLOURS.len()])
}

impl Axis {
    pub fn new(label: &str) -> Self {
        Axis { label: label.to_owned(), ..Axis::default() }
    }

    /// From 0 to 100 %.
    pub fn percent(label: &str) -> Self {
        Axis { label: label.to_owned(), range: Some([0.0, 1.0]), percent: true, whole: false }
    }

    /// From 0 to 1.
    pub fn share(label: &str) -> Self {
        Axis { label: label.to_owned(), range: Some([0.0, 1.0]), ..Axis::default() }
    }

    /// The ends and the places of the ticks between them, for values from `low` to `high`.
    pub(super) fn ticks(&self, low: f64, high: f64) -> ([f64; 2], Vec<f64>) {
        let [low, high] = self.range.unwrap_or([low, high]);
        // A single value, or none, still gets an axis around it.
        let (low, high) = if low < high { (low, high) } else { (low - 0.5 * low.abs().max(1.0), high + 0.5 * high.abs().max(1.0)) };
        let rough = (high - low) / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = power * [1.0, 2.0, 5.0, 10.0].into_iter().find(|m| rough <= m * power * 1.0001).unwrap_or(10.0);
        let ends =
            if self.range.is_some() { [low, high] } else { [(low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step] };
        let first = (ends[0] / step - 1e-9).ceil() as i64;
        let all = (first..).map(|k| k as f64 * step).take_while(|t| *t <= ends[1] + 1e-9 * step);
        let ticks = all.filter(|t| !self.whole || t.fract() == 0.0).collect();
        (ends, ticks)
    }

    pub(super) fn text(&self, v: f64) -> String {
        if self.percent {
            return format!("{}%", short(v * 100.0));
        }
        short(v)
    }
}

/// `0.25`, `1500`, `2e-5`, without the noise of binary fractions.
fn short(v: f64) -> String {
    let a = v.abs();
    if a != 0.0 && !(1e-3..1e6).contains(&a) {
        // Three digits, then the shortest text of what is left.
        return format!("{:e}", format!("{v:.2e}").parse().unwrap_or(v));
    }
    let text = format!("{v:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Chart {
    pub fn new(title: &str, x: Axis, y: Axis) -> Self {
        Chart { title: title.to_owned(), x, y, series: Vec::new(), smoothing: 0.0 }
    }

    /// Add a curve. Points that are not finite are left out.
    pub fn line(self, name: &str, points: Vec<(f64, f64)>) -> Self {
        self.add(name, points, Mark::Line)
    }

    /// Add points without a curve.
    pub fn dots(self, name: &str, points: Vec<(f64, f64)>) -> Self {
        self.add(name, points, Mark::Dots)
    }

    /// Add a dashed level to compare with.
    pub fn level(self, name: &str, y: f64) -> Self {
        self.add(name, vec![(f64::NAN, y)], Mark::Level)
    }

    /// Draw every curve smoothed over a pale raw one: the exponential mean of TensorBoard, `weight` from 0 (none) to below 1.
    pub fn smoothed(mut self, weight: f64) -> Self {
        self.smoothing = weight.clamp(0.0, 0.999);
        self
    }

    fn add(mut self, name: &str, mut points: Vec<(f64, f64)>, mark: Mark) -> Self {
        points.retain(|(x, y)| y.is_finite() && (x.is_finite() || mark == Mark::Level));
        self.series.push(Series { name: name.to_owned(), points, mark });
        self
    }

    /// The chart as one `<svg>` element.
    pub fn svg(&self) -> String {
        let all = || self.series.iter().flat_map(|s| &s.points);
        let span = |values: &mut dyn Iterator<Item = f64>| {
            values.filter(|v| v.is_finite()).fold([f64::INFINITY, f64::NEG_INFINITY], |[lo, hi], v| [lo.min(v), hi.max(v)])
        };
        let ends = |[lo, hi]: [f64; 2]| if lo <= hi { [lo, hi] } else { [0.0, 1.0] };
        let [x_low, x_high] = ends(span(&mut all().map(|p| p.0)));
        let [y_low, y_high] = ends(span(&mut all().map(|p| p.1)));
        let (x_ends, x_ticks) =
            Axis { range: self.x.range.or((x_low < x_high).then_some([x_low, x_high])), ..self.x.clone() }.ticks(x_low, x_high);
        let (y_ends, y_ticks) = self.y.ticks(y_low, y_high);
        let [left, right, top, bottom] = [MARGIN[0], WIDTH - MARGIN[1], MARGIN[2], HEIGHT - MARGIN[3]];
        let to_x = |v: f64| left + (v - x_ends[0]) / (x_ends[1] - x_ends[0]) * (right - left);
        let to_y = |v: f64| bottom - (v - y_ends[0]) / (y_ends[1] - y_ends[0]) * (bottom - top);

        let mut s = String::new();
        let title = escape(&self.title);
        // Writing to a String does not fail.
        let _ = write!(
            s,
            r#"<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}" font-family="system-ui, sans-serif" font-size="11.5" fill="var(--muted, #64748b)">
<text x="{x}" y="20" font-size="14" font-weight="600" fill="var(--ink, #0f172a)">{title}</text>
"#,
            x = 10
        );
        for &t in &y_ticks {
            let y = to_y(t);
            let _ = writeln!(
                s,
                r#"<line x1="{left}" x2="{right}" y1="{y:.1}" y2="{y:.1}" stroke="var(--line, #e2e8f0)"/><text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
                left - 8.0,
                y + 4.0,
                self.y.text(t)
            );
        }
        for &t in &x_ticks {
            let x = to_x(t);
            let _ = writeln!(
                s,
                r#"<line x1="{x:.1}" x2="{x:.1}" y1="{bottom}" y2="{:.1}" stroke="var(--line, #e2e8f0)"/><text x="{x:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
                bottom + 4.0,
                bottom + 17.0,
                self.x.text(t)
            );
        }
        let (middle_x, middle_y) = ((left + right) / 2.0, (top + bottom) / 2.0);
        let _ = writeln!(
            s,
            r#"<text x="{middle_x}" y="{}" text-anchor="middle">{}</text><text transform="translate(14 {middle_y}) rotate(-90)" text-anchor="middle">{}</text>"#,
            HEIGHT - 8.0,
            escape(&self.x.label),
            escape(&self.y.label)
        );
        let mut legend_x = 10.0;
        for (i, series) in self.series.iter().enumerate() {
            let colour = colour(i);
            series.draw(&mut s, &colour, self.smoothing, [left, right], to_x, to_y);
            series.draw_key(&mut s, &colour, legend_x);
            legend_x += 34.0 + 6.4 * series.name.chars().count() as f64;
        }
        if all().next().is_none() {
            let _ = writeln!(s, r#"<text x="{middle_x}" y="{middle_y}" text-anchor="middle">no values yet</text>"#);
        }
        s.push_str("</svg>\n");
        s
    }
}

impl Series {
    fn draw(
        &self,
        s: &mut String,
        colour: &str,
        smoothing: f64,
        [left, right]: [f64; 2],
        to_x: impl Fn(f64) -> f64,
        to_y: impl Fn(f64) -> f64,
    ) {
        let path = |points: &[(f64, f64)]| {
            let thin = thin_out(points, (right - left) as usize);
            thin.iter()
                .enumerate()
                .map(|(i, &(x, y))| format!("{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, to_x(x), to_y(y)))
                .collect::<String>()
        };
        let mut curve = |d: String, width: f64, opacity: f64| {
            let _ = writeln!(
                s,
                r#"<path d="{d}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-opacity="{opacity}" stroke-linejoin="round" stroke-linecap="round"/>"#
            );
        };
        match (self.mark, self.points.as_slice()) {
            (_, []) => {}
            (Mark::Level, [(_, y), ..]) => {
                let _ = writeln!(
                    s,
                    r#"<line x1="{left}" x2="{right}" y1="{0:.1}" y2="{0:.1}" stroke="{colour}" stroke-width="1.5" stroke-dasharray="5 4"/>"#,
                    to_y(*y)
                );
            }
            // A curve of one point would not be seen.
            (Mark::Dots, points) | (Mark::Line, points @ [_]) => {
                for (x, y) in points {
                    let _ = writeln!(
                        s,
                        r#"<circle cx="{:.1}" cy="{:.1}" r="4" fill="{colour}" stroke="var(--card, #fff)" stroke-width="1.5"/>"#,
                        to_x(*x),
                        to_y(*y)
                    );
                }
            }
            (Mark::Line, points) if smoothing > 0.0 => {
                curve(path(points), 1.0, 0.25);
                curve(path(&smooth(points, smoothing)), 2.0, 1.0);
            }
            (Mark::Line, points) => curve(path(points), 2.0, 1.0),
        }
    }

    fn draw_key(&self, s: &mut String, colour: &str, x: f64) {
        let sign = match self.mark {
            Mark::Line => format!(r#"<rect x="{x}" y="36" width="16" height="3" rx="1.5" fill="{colour}"/>"#),
            Mark::Dots => format!(r#"<circle cx="{}" cy="37.5" r="4" fill="{colour}"/>"#, x + 8.0),
            Mark::Level => format!(
                r#"<line x1="{x}" x2="{}" y1="37.5" y2="37.5" stroke="{colour}" stroke-width="2" stroke-dasharray="5 3"/>"#,
                x + 16.0
            ),
        };
        let _ = writeln!(s, r#"{sign}<text x="{}" y="41.5">{}</text>"#, x + 21.0, escape(&self.name));
    }
}

/// TensorBoard's smoothing: an exponential mean, corrected for its start.
fn smooth(points: &[(f64, f64)], weight: f64) -> Vec<(f64, f64)> {
    let (mut mean, mut total) = (0.0, 0.0);
    let step = |&(x, y): &(f64, f64)| {
        mean = mean * weight + (1.0 - weight) * y;
        total = total * weight + (1.0 - weight);
        (x, mean / total)
    };
    points.iter().map(step).collect()
}

/// At most two points a bucket, its lowest and its highest, so that a long run keeps its spikes and the page its size.
fn thin_out(points: &[(f64, f64)], buckets: usize) -> Vec<(f64, f64)> {
    if points.len() <= 2 * buckets {
        return points.to_vec();
    }
    let extremes = |chunk: &[(f64, f64)]| {
        let by_y = |a: &(f64, f64), b: &(f64, f64)| a.1.total_cmp(&b.1);
        let (low, high) = (chunk.iter().copied().min_by(by_y), chunk.iter().copied().max_by(by_y));
        let mut pair: Vec<_> = low.into_iter().chain(high).collect();
        pair.sort_by(|a, b| a.0.total_cmp(&b.0));
        pair
    };
    points.chunks(points.len().div_ceil(buckets)).flat_map(extremes).collect()
}

/// Lesion recall over the fraction of windows kept: the whole curve, the point that the run has chosen, and the recall of Focus everywhere.
pub fn kept_vs_recall(curve: Vec<(f64, f64)>, chosen: Option<(f64, f64)>, everywhere: Option<f64>) -> Chart {
    let mut chart = Chart::new("Lesion recall by windows kept", Axis::percent("windows kept"), Axis::percent("lesion recall"))
        .line("Glance and Focus", curve);
    if let Some(point) = chosen {
        chart = chart.dots("its own choice", vec![point]);
    }
    if let Some(recall) = everywhere {
        chart = chart.level("Focus everywhere", recall);
    }
    chart
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_ticks(axis: Axis, low: f64, high: f64, expected: &str) {
        let (_, ticks) = axis.ticks(low, high);
        assert_eq!(ticks.iter().map(|t| axis.text(*t)).collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn ticks_are_round_numbers() {
        check_ticks(Axis::new(""), 0.03, 0.97, "0 0.2 0.4 0.6 0.8 1");
        check_ticks(Axis::new(""), -3.0, 12.0, "-5 0 5 10 15");
        check_ticks(Axis::new(""), 0.0, 2e-5, "0 5e-6 1e-5 1.5e-5 2e-5");
        check_ticks(Axis::new(""), 4.0, 4.0, "2 3 4 5 6");
        check_ticks(Axis { range: Some([0.0, 430.0]), ..Axis::new("") }, 9.0, 9.0, "0 100 200 300 400");
        check_ticks(Axis::percent(""), 0.4, 0.5, "0% 20% 40% 60% 80% 100%");
    }

    #[test]
    fn smoothing_starts_at_the_first_value_and_keeps_a_constant() {
        assert_eq!(smooth(&[(0.0, 3.0)], 0.9)[0].1, 3.0);
        assert!(smooth(&[(0.0, 2.0); 50], 0.9).iter().all(|p| (p.1 - 2.0).abs() < 1e-12));
        // Weight 0.5: (0.25 * 0 + 0.5 * 1) / 0.75.
        assert!((smooth(&[(0.0, 0.0), (1.0, 1.0)], 0.5)[1].1 - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn a_long_curve_is_thinned_but_keeps_its_spike() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|i| (f64::from(i), 0.0)).collect();
        points[54_321].1 = 9.0;
        let thin = thin_out(&points, 400);
        assert!(thin.len() <= 800 && thin.contains(&(54_321.0, 9.0)));
        assert!(thin.is_sorted_by(|a, b| a.0 <= b.0));
    }

    #[test]
    fn every_kind_of_series_is_drawn_and_named() {
        let svg = kept_vs_recall(vec![(0.0, 0.0), (0.2, 0.9), (1.0, 1.0)], Some((0.2, 0.9)), Some(0.95)).svg();
        for part in
            ["Glance and Focus", "its own choice", "Focus everywhere", "stroke-dasharray", "<circle", "M62.0 254.0L158.4 77.6L544.0 58.0"]
        {
            assert!(svg.contains(part), "{part} in {svg}");
        }
        let bare = Chart::new("a < b", Axis::new("step"), Axis::new("loss")).line("x", vec![(1.0, f64::NAN)]).svg();
        assert!(bare.contains("no values yet") && bare.contains("a &lt; b") && !bare.contains("NaN"));
        let one = Chart::new("", Axis::new(""), Axis::new("")).line("x", vec![(3.0, 1.0)]).svg();
        assert!(!one.contains("NaN") && !one.contains("inf") && one.contains("<circle"));
    }
}
