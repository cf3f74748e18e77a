//! Where results and talk go. A reader that went away (`| head`) is no failure and no panic.

use std::io::{self, Write};

use serde::Serialize;

use super::error::{FAILED_CASES, Failure};

/// Standard output, in the form that was asked for.
pub struct Output {
    pub json: bool,
}

impl Output {
    /// Print a result: as JSON, or the text that `text` makes of it.
    pub fn result<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        let text = if self.json { serde_json::to_string_pretty(value).map_err(|e| Failure::new(FAILED_CASES, &e))? } else { text(value) };
        let mut out = io::stdout().lock();
        match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure::says(FAILED_CASES, format!("cannot write the result: {e}"))),
            _ => Ok(()),
        }
    }
}

/// One line on standard error, if anybody reads it.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Columns under a heading: the first one to the left, the others to the right.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).chain([heading[c].chars().count()]).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let padded = (0..N).map(|c| if c == 0 { format!("{:1$}", cells[c], widths[c]) } else { format!("{:>1$}", cells[c], widths[c]) });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    line(heading) + &rows.iter().map(|r| line(std::array::from_fn(|c| r[c].as_str()))).collect::<String>()
}

#[test]
fn columns_stand_under_each_other() {
    let rows = [["a".into(), "12.0".into()], ["liver_7".into(), "3".into()]];
    assert_eq!(table(["case", "mL"], &rows), "case       mL\na        12.0\nliver_7     3\n");
}
