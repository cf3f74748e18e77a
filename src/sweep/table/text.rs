//! What a table looks like: numbers with three digits, shares in percent, what compares beside them.

use std::fmt::Write as _;

use super::{Cell, Row, Table};

impl Cell {
    /// `0.834 ± 0.011`; of a share in percent: `8.34 ± 1.10`.
    pub fn value(&self, percent: bool) -> String {
        let mut numbers = vec![self.mean];
        numbers.extend(self.sd);
        let decisive = if self.mean == 0.0 { self.sd.unwrap_or(0.0) } else { self.mean };
        digits(&numbers, decisive, percent, false).join(" ± ")
    }

    /// `+0.012 [-0.003, +0.027]`; of a share in percentage points.
    pub fn compared(&self, percent: bool) -> Option<String> {
        let mut numbers = vec![self.difference?];
        numbers.extend(self.low.zip(self.high).into_iter().flat_map(|(low, high)| [low, high]));
        let largest = numbers.iter().fold(0.0_f64, |most, v| most.max(v.abs()));
        let words = digits(&numbers, largest, percent, true);
        Some(if let [difference, low, high] = &words[..] { format!("{difference} [{low}, {high}]") } else { words[0].clone() })
    }
}

/// Is the figure a share of something, which people read in percent?
fn is_share(column: &str) -> bool {
    ["windows_kept", "recall", "_share"].iter().any(|end| column.ends_with(end))
}

/// All numbers with the decimals that give `decisive` three digits.
fn digits(numbers: &[f64], decisive: f64, percent: bool, signed: bool) -> Vec<String> {
    let scale = if percent { 100.0 } else { 1.0 };
    let size = (decisive * scale).abs();
    // Of what three digits are, so that 0.09999 counts as 0.100.
    let exponent: i32 = format!("{size:.2e}").split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    let decimals = if size == 0.0 { 0 } else { (2 - exponent).clamp(0, 6) as usize };
    let text = |v: &f64| {
        let v = v * scale;
        if size != 0.0 && !(1e-4..1e6).contains(&size) {
            return if signed { format!("{v:+.2e}") } else { format!("{v:.2e}") };
        }
        // No minus before a zero.
        let v = if (v * 10_f64.powi(decimals as i32)).round() == 0.0 { 0.0 } else { v };
        if signed { format!("{v:+.decimals$}") } else { format!("{v:.decimals$}") }
    };
    numbers.iter().map(text).collect()
}

impl Row {
    /// The seeds behind it: `3`, or `2, 1 failed`.
    pub fn count(&self) -> String {
        let mut text = self.seeds.len().to_string();
        for (n, what) in [(self.failed, "failed"), (self.pruned, "pruned")] {
            if n > 0 {
                let _ = write!(text, ", {n} {what}");
            }
        }
        text
    }
}

impl Table {
    /// One line a row and column.
    pub(super) fn csv(&self) -> String {
        let mut text = String::from("row,column,seeds,mean,sd,difference,low,high\n");
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let number = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
        for row in &self.rows {
            for (column, c) in &row.cells {
                let numbers = [c.mean.to_string(), number(c.sd), number(c.difference), number(c.low), number(c.high)].join(",");
                let _ = writeln!(text, "{},{},{},{numbers}", quoted(&row.name), quoted(column), row.seeds.len());
            }
        }
        text
    }

    /// The column's name without its operating point, and its unit.
    pub fn heading(column: &str) -> String {
        let name = column.split_once('/').map_or(column, |(_, figure)| figure);
        if is_share(column) { format!("{name} %") } else { name.to_owned() }
    }

    /// A cell's text and how it compares with the baseline, both empty where there is none.
    pub fn texts(row: &Row, column: &str) -> (String, String) {
        let Some(cell) = row.cells.get(column) else { return Default::default() };
        let percent = is_share(column);
        (cell.value(percent), cell.compared(percent).unwrap_or_default())
    }

    /// `120 test scans of 118 patients with 312 lesions`; empty where points were not judged.
    pub fn counts(&self) -> String {
        if self.scans == 0 {
            return String::new();
        }
        format!("{} test scans of {} patients with {} lesions", self.scans, self.patients, self.lesions)
    }

    /// What the numbers are.
    pub fn legend(&self) -> String {
        let baseline = self.baseline.as_ref().map_or(String::new(), |b| format!("; against {b}: {}", self.intervals));
        format!("mean ± standard deviation over seeds{baseline}")
    }

    pub(super) fn markdown(&self) -> String {
        let headings: Vec<String> = self.columns.iter().map(|c| if is_share(c) { format!("{c} %") } else { c.clone() }).collect();
        let mut text = format!("| | seeds | {} |\n|---|---|{}\n", headings.join(" | "), "---|".repeat(self.columns.len()));
        for row in &self.rows {
            let cell = |column: &String| match Table::texts(row, column) {
                (value, _) if value.is_empty() => "–".to_owned(),
                (value, compared) if compared.is_empty() => value,
                (value, compared) => format!("{value} ({compared})"),
            };
            let cells: Vec<String> = self.columns.iter().map(cell).collect();
            let _ = writeln!(text, "| {} | {} | {} |", row.name.replace('|', "\\|"), row.count(), cells.join(" | "));
        }
        let (counts, legend) = (self.counts(), self.legend());
        let _ = writeln!(text, "\n{counts}{}{legend}.", if counts.is_empty() { "" } else { "; " });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let cell = |mean, sd, difference: Option<[f64; 3]>| Cell {
            mean,
            sd,
            difference: difference.map(|d| d[0]),
            low: difference.map(|d| d[1]),
            high: difference.map(|d| d[2]),
        };
        for (mean, sd, percent, text) in [
            (0.083_12, Some(0.011_2), true, "8.31 ± 1.12"),
            (1.0, Some(0.0), true, "100 ± 0"),
            (0.99996, None, true, "100"),
            (0.1 - 1e-9, None, false, "0.100"),
            (0.5, None, true, "50.0"),
            (0.8341, Some(0.05), false, "0.834 ± 0.050"),
            (0.0, None, false, "0"),
            (0.0, Some(0.02), false, "0.0000 ± 0.0200"),
            (-12.345, Some(1.0), false, "-12.3 ± 1.0"),
            (3.2e-7, Some(1e-8), false, "3.20e-7 ± 1.00e-8"),
        ] {
            assert_eq!(cell(mean, sd, None).value(percent), text);
        }
        assert_eq!(cell(0.0, None, Some([0.0164, -0.003, 0.029])).compared(true).unwrap(), "+1.64 [-0.30, +2.90]");
        assert_eq!(cell(0.0, None, Some([-1e-9, -0.05, 0.04])).compared(false).unwrap(), "+0.0000 [-0.0500, +0.0400]");
        assert_eq!(cell(0.0, None, None).compared(false), None);
        assert_eq!(Table::heading("threshold_95/relative_recall"), "relative_recall %");
        assert_eq!((Table::heading("worth"), Table::heading("at_0.9/lesion_dice")), ("worth".into(), "lesion_dice".into()));
    }
}
