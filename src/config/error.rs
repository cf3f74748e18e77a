//! What is wrong with a config, shown at its place.

use std::fmt;
use std::ops::Range;

/// A config that can't be used. `Display` gives the whole text for a person, all but the leading `error: `:
///
/// ```text
/// unknown key `gruop_size` in table `glance`
///   --> configs/abdomen.toml:14:1
///    |
/// 14 | gruop_size = 16
///    | ^^^^^^^^^^ not a key of [glance]
/// hint: did you mean `group_size`?
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    message: String,
    place: Option<String>,
    hint: Option<String>,
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        ConfigError { message: message.into(), place: None, hint: None }
    }

    pub(super) fn at(mut self, place: String) -> Self {
        self.place = Some(place);
        self
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(place) = &self.place {
            write!(f, "\n{place}")?;
        }
        match &self.hint {
            Some(hint) if self.place.is_some() => write!(f, "\nhint: {hint}"),
            Some(hint) => write!(f, "\n\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

/// A text that settings came from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub origin: Origin,
    pub text: String,
}

#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// The path as it was written.
    File(String),
    /// One override.
    CommandLine,
}

impl Source {
    pub fn is_file(&self) -> bool {
        matches!(self.origin, Origin::File(_))
    }

    /// The bytes `span` with line, column and carets, in the look of rustc.
    pub fn show(&self, span: Range<usize>, label: &str) -> String {
        let text = self.text.as_str();
        let start = floor(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line = text[line_start..].lines().next().unwrap_or("");
        // A value may go on over the next lines: the carets end with the first.
        let end = floor(text, span.end).clamp(start, (line_start + line.len()).max(start));
        let before = &text[line_start..start];
        let carets = "^".repeat(text[start..end].chars().count().max(1));
        match &self.origin {
            Origin::File(path) => {
                let row = text[..line_start].matches('\n').count() + 1;
                let (number, margin) = (row.to_string(), " ".repeat(row.to_string().len()));
                let (column, indent) = (before.chars().count() + 1, blank(before));
                format!("{margin}--> {path}:{row}:{column}\n{margin} |\n{number} | {line}\n{margin} | {indent}{carets} {label}")
            }
            Origin::CommandLine => {
                let head = "  --> command line: ";
                format!("{head}{line}\n{}{}{carets} {label}", " ".repeat(head.len()), blank(before))
            }
        }
    }
}

/// Blanks as wide as `text`: tabs stay, so that the carets stand under their word.
fn blank(text: &str) -> String {
    text.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect()
}

fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// The candidate that `word` was probably meant to be.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(&word.to_lowercase(), candidate);
    let best = candidates.into_iter().min_by_key(|candidate| distance(candidate))?;
    // One slip in three letters is a typing error; more is another word.
    (distance(best) <= (word.chars().count().max(3)) / 3).then_some(best)
}

#[test]
fn nearest_forgives_slips_and_no_more() {
    let keys = ["group_size", "widths", "blocks", "norm"];
    for (word, meant) in
        [("gruop_size", Some("group_size")), ("Norm", Some("norm")), ("width", Some("widths")), ("lr", None), ("learning_rate", None)]
    {
        assert_eq!(nearest(word, keys), meant, "{word}");
    }
}

#[test]
fn carets_stand_under_their_word() {
    let file = |text: &str| Source { origin: Origin::File("a.toml".into()), text: text.into() };
    for (source, span, shown) in [
        (file("a = 1\n\tb = 2\n"), 7..8, " --> a.toml:2:2\n  |\n2 | \tb = 2\n  | \t^ here"),
        (file("a = [\n 1,\n]"), 4..11, " --> a.toml:1:5\n  |\n1 | a = [\n  |     ^ here"),
        (file("ä = ü"), 5..7, " --> a.toml:1:5\n  |\n1 | ä = ü\n  |     ^ here"),
        (file("a = "), 4..4, " --> a.toml:1:5\n  |\n1 | a = \n  |     ^ here"),
        (file(""), 0..9, " --> a.toml:1:1\n  |\n1 | \n  | ^ here"),
        (file("a\r\nb = 1\r\n"), 3..4, " --> a.toml:2:1\n  |\n2 | b = 1\n  | ^ here"),
    ] {
        assert_eq!(source.show(span, "here"), shown);
    }
}
