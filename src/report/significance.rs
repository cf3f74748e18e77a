//! Touchstone's significance map: is the method of the column better than that of the row?

use std::fmt::Write;

use panscreen_envs::metrics::statistics::significance::SignificanceMap;

use super::html::escape;
use super::spread::shortened;

const CELL: f64 = 26.0;
const LETTER: f64 = 6.4;

/// The map as one `<svg>` element: methods by their median, the best first; a cell is filled where the column is better than the row with an
/// adjusted p below `alpha`.
pub fn map(title: &str, methods: &[String], of: &SignificanceMap, alpha: f64) -> String {
    let names: Vec<String> = of.order.iter().map(|&m| methods.get(m).map_or(String::new(), |n| shortened(n))).collect();
    let room = 20.0 + LETTER * names.iter().map(|n| n.chars().count()).max().unwrap_or(0) as f64;
    let n = names.len() as f64;
    // Wide enough for the title and the key.
    let width = (room + n * CELL + 20.0).max(400.0);
    let (top, height) = (34.0 + room, 34.0 + room + n * CELL + 44.0);
    let mut s = String::new();
    let title = escape(title);
    // Writing to a String does not fail.
    let _ = write!(
        s,
        r#"<svg class="chart" viewBox="0 0 {width:.0} {height:.0}" role="img" aria-label="{title}" font-family="system-ui, sans-serif" font-size="11.5" fill="var(--ink, #0f172a)">
<text x="10" y="20" font-size="14" font-weight="600">{title}</text>
"#
    );
    for (i, name) in names.iter().enumerate() {
        let (name, middle) = (escape(name), (i as f64 + 0.5) * CELL);
        let _ = writeln!(s, r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{name}</text>"#, room - 8.0, top + middle + 4.0);
        let _ = writeln!(s, r#"<text transform="translate({:.1} {:.1}) rotate(-90)">{name}</text>"#, room + middle + 4.0, top - 8.0);
    }
    for (row, &b) in of.order.iter().enumerate() {
        for (column, &a) in of.order.iter().enumerate() {
            let p = of.p.get(a).and_then(|p| p.get(b)).copied().flatten();
            let (fill, opacity) = match p {
                _ if a == b => ("var(--line, #e2e8f0)", 0.4),
                Some(p) if p < alpha => ("var(--s2, #ea7317)", 1.0),
                Some(_) => ("var(--s1, #2563eb)", 0.25),
                None => ("var(--line, #e2e8f0)", 1.0),
            };
            let (x, y, side) = (room + column as f64 * CELL + 1.0, top + row as f64 * CELL + 1.0, CELL - 2.0);
            let said = p.map(|p| format!("<title>{} over {}: p {p:.4}</title>", escape(&names[column]), escape(&names[row])));
            let _ = writeln!(
                s,
                r#"<rect x="{x:.1}" y="{y:.1}" width="{side}" height="{side}" rx="3" fill="{fill}" fill-opacity="{opacity}">{}</rect>"#,
                said.unwrap_or_default()
            );
        }
    }
    let y = height - 16.0;
    let _ = writeln!(
        s,
        r#"<rect x="10" y="{:.1}" width="12" height="12" rx="2" fill="var(--s2, #ea7317)"/><text x="28" y="{y:.1}" fill="var(--muted, #64748b)">column better than row</text><rect x="180" y="{:.1}" width="12" height="12" rx="2" fill="var(--s1, #2563eb)" fill-opacity="0.25"/><text x="198" y="{y:.1}" fill="var(--muted, #64748b)">not shown to be (Holm, {alpha})</text>"#,
        y - 10.0,
        y - 10.0
    );
    s.push_str("</svg>\n");
    s
}

#[test]
fn the_better_method_fills_the_row_of_the_worse() {
    use panscreen_envs::metrics::statistics::adjust::Adjustment;
    let scores = |add: f64| (0..30).map(|i| Some(f64::from(i % 7) / 10.0 + add)).collect::<Vec<_>>();
    let methods = ["low".to_owned(), "high".to_owned()];
    let svg = map("Dice", &methods, &SignificanceMap::of(&[scores(0.0), scores(0.2)], Adjustment::Holm, 0.05), 0.05);
    let filled: Vec<&str> = svg.lines().filter(|l| l.contains("fill-opacity=\"1\"") && l.contains("--s2")).collect();
    assert_eq!(filled.len(), 1);
    // "high" is first: its column is the left one, and the row of "low" the lower one.
    assert!(filled[0].contains("high over low: p 0.0") && filled[0].contains("<rect x=\"46.6\" y=\"106.6\""), "{filled:?}");
}
