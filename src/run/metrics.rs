//! `metrics.jsonl`: one JSON object a line, in the order the training step names its values.
//!
//! Numbers are written in the shortest form that reads back to the same bits, so two runs are bit-equal exactly if their logs are equal as text,
//! wall-clock values (names under `time/`) aside.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use panscreen_envs::io::write_atomic;

use super::tensorboard::TensorBoard;
use super::{Error, Observer, Result, check_finite};

/// Names of values that depend on the clock begin so; they differ between two equal runs.
pub const CLOCK_PREFIX: &str = "time/";

/// Appends to the metrics log of a run, and to its TensorBoard folder.
pub struct MetricsLog {
    path: PathBuf,
    file: File,
    board: Option<TensorBoard>,
}

/// One logged number in the type it was computed in, so that its shortest text is short.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    Single(f32),
    Double(f64),
    Count(u64),
}

/// One line read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub step: u64,
    /// Names and values in the order of the line, without `step`.
    pub fields: Vec<(String, f64)>,
}

impl From<f32> for Scalar {
    fn from(v: f32) -> Self {
        Scalar::Single(v)
    }
}

impl From<f64> for Scalar {
    fn from(v: f64) -> Self {
        Scalar::Double(v)
    }
}

impl From<u64> for Scalar {
    fn from(v: u64) -> Self {
        Scalar::Count(v)
    }
}

impl From<usize> for Scalar {
    fn from(v: usize) -> Self {
        Scalar::Count(v as u64)
    }
}

impl Scalar {
    pub fn as_f64(self) -> f64 {
        match self {
            Scalar::Single(v) => v.into(),
            Scalar::Double(v) => v,
            Scalar::Count(v) => v as f64,
        }
    }
}

impl MetricsLog {
    /// Open the log at `path` for a run that continues from the checkpoint of step `resumed_at`; `None` for a run that starts from nothing.
    ///
    /// Lines of later steps are dropped, they will be written again; so is a last line that a kill has torn. TensorBoard gets the same scalars
    /// in `tensorboard`, if that is given.
    pub fn open(path: &Path, tensorboard: Option<&Path>, resumed_at: Option<u64>, observer: Arc<dyn Observer>) -> Result<Self> {
        let cut = cut_back(path, resumed_at)?;
        let file = File::options().create(true).append(true).open(path).map_err(|e| Error::io(path, e))?;
        let purge_from = resumed_at.map(|s| s + 1).or(cut.then_some(0));
        let board = tensorboard.map(|dir| TensorBoard::start(dir, purge_from, observer));
        Ok(MetricsLog { path: path.to_owned(), file, board })
    }

    /// Append one line. A value that is not finite is refused, JSON has no text for it.
    pub fn append(&mut self, step: u64, fields: &[(&str, Scalar)]) -> Result<()> {
        for (name, value) in fields {
            check_finite(name, value.as_f64(), step)?;
        }
        // One write a line: a kill tears at most the last one.
        self.file.write_all(line(step, fields).as_bytes()).map_err(|e| Error::io(&self.path, e))?;
        if let Some(board) = &mut self.board {
            board.scalars(step, fields.iter().map(|(n, v)| ((*n).to_owned(), v.as_f64() as f32)).collect());
        }
        Ok(())
    }

    /// Make every line so far survive a power cut. Call it before a checkpoint is saved.
    pub fn sync(&mut self) -> Result<()> {
        if let Some(board) = &self.board {
            board.flush();
        }
        self.file.sync_data().map_err(|e| Error::io(&self.path, e))
    }
}

/// Read a log. A torn last line is left out, any other line that can't be read is an error; a file that is not there is an empty log.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let text = read_text(path)?;
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(i, line): (usize, &str)| {
        parse(line).ok_or_else(|| {
            Error::file(
                path,
                format!("line {}: `{}`", i + 1, line.chars().take(60).collect::<String>()),
                "an object with `step` and numbers",
                "remove the line",
            )
        })
    };
    complete.lines().enumerate().map(parse).collect()
}

/// The values of one name over the steps, as `(step, value)`; lines without it are skipped.
pub fn series(records: &[Record], name: &str) -> Vec<(f64, f64)> {
    records.iter().flat_map(|r| r.fields.iter().filter(|(n, _)| n == name).map(|(_, v)| (r.step as f64, *v))).collect()
}

/// Drop the lines after `step` (all lines for `None`) and a torn last one. True if something was dropped.
fn cut_back(path: &Path, step: Option<u64>) -> Result<bool> {
    let text = read_text(path)?;
    let keep: String = text.split_inclusive('\n').filter(|l| l.ends_with('\n') && parse(l).is_some_and(|r| Some(r.step) <= step)).collect();
    if keep.len() == text.len() {
        return Ok(false);
    }
    write_atomic(path, keep.as_bytes())?;
    Ok(true)
}

/// The log as text; bytes that are not UTF-8 can only be a torn or damaged line, which then does not parse.
fn read_text(path: &Path) -> Result<String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(Error::io(path, e)),
    }
}

fn line(step: u64, fields: &[(&str, Scalar)]) -> String {
    let mut line = format!("{{\"step\":{step}");
    for (name, value) in fields {
        let name = serde_json::to_string(name).expect("text is JSON");
        // `{:?}` of a float is its shortest text, with `.0` or an exponent where it needs one: valid JSON for finite values.
        let _ = match value {
            Scalar::Single(v) => write!(line, ",{name}:{v:?}"),
            Scalar::Double(v) => write!(line, ",{name}:{v:?}"),
            Scalar::Count(v) => write!(line, ",{name}:{v}"),
        };
    }
    line.push_str("}\n");
    line
}

/// An object whose keys stay in the order of the line.
struct Ordered(Vec<(String, f64)>);

impl<'de> serde::Deserialize<'de> for Ordered {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Pairs;
        impl<'de> serde::de::Visitor<'de> for Pairs {
            type Value = Ordered;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object of numbers")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> std::result::Result<Ordered, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Ordered(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

fn parse(line: &str) -> Option<Record> {
    let Ordered(mut fields) = serde_json::from_str(line).ok()?;
    let at = fields.iter().position(|(name, _)| name == "step")?;
    let step = fields.remove(at).1;
    (step >= 0.0 && step.fract() == 0.0).then_some(Record { step: step as u64, fields })
}

#[cfg(test)]
mod tests {
    use super::super::Silent;
    use super::*;

    fn open(path: &Path, resumed_at: Option<u64>) -> MetricsLog {
        MetricsLog::open(path, None, resumed_at, Arc::new(Silent)).unwrap()
    }

    #[test]
    fn lines_are_short_ordered_and_exact() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("metrics.jsonl");
        let mut log = open(&path, None);
        let fields: [(&str, Scalar); 6] = [
            ("loss/focus", 0.1f32.into()),
            ("a", 0.1f64.into()),
            ("sum", (0.1 + 0.2).into()),
            ("n", 3usize.into()),
            ("big", 1e22f32.into()),
            ("zero", (-0.0f32).into()),
        ];
        log.append(4, &fields).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"step\":4,\"loss/focus\":0.1,\"a\":0.1,\"sum\":0.30000000000000004,\"n\":3,\"big\":1e22,\"zero\":-0.0}\n");
        let back = read(&path).unwrap();
        assert_eq!(back[0].fields.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), ["loss/focus", "a", "sum", "n", "big", "zero"]);
        assert_eq!(series(&back, "sum"), [(4.0, 0.1 + 0.2)]);
    }

    #[test]
    fn a_value_that_is_not_finite_writes_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("metrics.jsonl");
        let error = open(&path, None).append(9, &[("loss", 1.0.into()), ("kl", f64::NAN.into())]).unwrap_err();
        assert!(matches!(&error, Error::NonFinite(n) if n.name == "kl" && n.step == 9), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }

    /// A log cut at every byte, then cut back to step 2 and continued, is the whole log again.
    #[test]
    fn a_log_torn_anywhere_and_continued_equals_the_whole_one() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("metrics.jsonl");
        let write = |log: &mut MetricsLog, steps: std::ops::RangeInclusive<u64>| {
            for step in steps {
                log.append(step, &[("loss", (1.0 / step as f64).into())]).unwrap();
                log.append(step, &[("val/dice", (0.5 + step as f32).into())]).unwrap();
            }
        };
        write(&mut open(&path, None), 1..=5);
        let whole = std::fs::read_to_string(&path).unwrap();
        let checkpoint = whole.match_indices('\n').nth(3).unwrap().0 + 1;
        for cut in checkpoint..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            write(&mut open(&path, Some(2)), 3..=5);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), whole, "cut at {cut}");
        }
        // A run that was killed before its first checkpoint starts from nothing.
        write(&mut open(&path, None), 1..=5);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
    }

    #[test]
    fn a_broken_line_is_named_and_a_torn_one_left_out() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("metrics.jsonl");
        assert!(read(&path).unwrap().is_empty());
        std::fs::write(&path, "{\"step\":1,\"a\":2}\n{\"step\":2,\"a\"").unwrap();
        assert_eq!(read(&path).unwrap(), [Record { step: 1, fields: vec![("a".into(), 2.0)] }]);
        std::fs::write(&path, "{\"step\":1}\n{\"a\":2}\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("line 2: `{\"a\":2}`"));
    }
}
