//! From files and overrides to one tree of values: `base` files first, then the file, then the command line.
//!
//! Tables merge key by key, everything else is replaced. Each text is checked against the schema by itself, so that a mistake is shown
//! where it was written. Where each value came from is remembered, for checks that see several keys.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use toml_edit::{Document, Item, TableLike};

use super::check;
use super::error::{ConfigError, Origin, Source, nearest};
use super::schema::join;

#[derive(Debug, Clone, Default)]
pub(super) struct Layers {
    sources: Vec<Source>,
    places: BTreeMap<String, (usize, Range<usize>)>,
    pub values: Map<String, Value>,
}

impl Layers {
    /// Adds a file and, before it, its `base`. `trail`: the files that led here.
    pub fn file(&mut self, path: &Path, trail: &mut Vec<PathBuf>) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|cause| unreadable(path, &cause))?;
        self.text(path, text, trail)
    }

    /// Adds the text of a file, as [`Layers::file`].
    pub fn text(&mut self, path: &Path, text: String, trail: &mut Vec<PathBuf>) -> Result<(), ConfigError> {
        let source = Source { origin: Origin::File(path.display().to_string()), text };
        let document = parse(&source, &source.text)?;
        trail.push(path.canonicalize().unwrap_or_else(|_| path.to_owned()));
        if let Some(item) = document.get("base") {
            let span = item.span().unwrap_or_default();
            let refuse = |message: String, label: &str| ConfigError::new(message).at(source.show(span.clone(), label));
            let Some(name) = item.as_str() else {
                return Err(refuse("`base` names another config file".into(), "expected a text").hint("write `base = \"other.toml\"`"));
            };
            let base = path.parent().unwrap_or(Path::new("")).join(name);
            let known = base.canonicalize().map_err(|cause| {
                refuse(format!("cannot read the base {}: {cause}", base.display()), "not readable")
                    .hint("the path counts from the folder of this file")
            })?;
            if let Some(from) = trail.iter().position(|seen| *seen == known) {
                let names = trail[from..].iter().chain([&known]).map(|file| file.file_name().unwrap_or_default().to_string_lossy());
                let circle = names.collect::<Vec<_>>().join(" -> ");
                return Err(refuse(format!("base files go in a circle: {circle}"), "leads back").hint("take one `base` out"));
            }
            self.file(&base, trail)?;
        }
        trail.pop();
        self.add(source.clone(), document.as_table(), None)
    }

    /// Adds an override `a.b.c=value`: the value is TOML, or a text without quotes.
    pub fn override_with(&mut self, text: &str) -> Result<(), ConfigError> {
        let source = Source { origin: Origin::CommandLine, text: text.to_owned() };
        let all = 0..text.len();
        let Some((key, value)) = text.split_once('=') else {
            let hint = "write KEY=VALUE, such as `train.steps=500`";
            return Err(ConfigError::new("an override without `=`").at(source.show(all, "no value")).hint(hint));
        };
        // A date is no setting of ours: 2024-01-31 is meant as a text.
        let toml = value.trim().parse::<toml_edit::Value>().ok().filter(|value| !value.is_datetime());
        if toml.is_some() {
            let document = parse(&source, text)?;
            self.add(source.clone(), document.as_table(), None)
        } else {
            let quoted = format!("{key}={}", toml_edit::Value::from(value.trim()));
            let document = parse(&source, &quoted)?;
            self.add(source.clone(), document.as_table(), Some(key.len() + 1..text.len()))
        }
    }

    /// `bare`: where the value stands, for a text without quotes.
    fn add(&mut self, source: Source, table: &dyn TableLike, bare: Option<Range<usize>>) -> Result<(), ConfigError> {
        let checked = check::tree(&source, table, bare)?;
        let index = self.sources.len();
        self.sources.push(source);
        self.places.extend(checked.places.into_iter().map(|(key, span)| (key, (index, span))));
        merge(&mut self.values, checked.values);
        Ok(())
    }

    /// Whether a file or the command line has `key`.
    pub fn sets(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }

    /// Which layer set `key` last: 0 for none, then the files from the first base on, then the command line, whose order does not matter.
    pub fn rank(&self, key: &str) -> usize {
        match self.places.get(key) {
            Some((index, _)) => index.min(&self.sources.iter().filter(|source| source.is_file()).count()) + 1,
            None => 0,
        }
    }

    /// An error at the place that set `key`, or else one that names the file.
    pub fn error(&self, key: &str, message: String, label: &str, hint: &str) -> ConfigError {
        let error = ConfigError::new(message).hint(hint);
        match (self.places.get(key), self.sources.iter().rev().find(|source| source.is_file())) {
            (Some((index, span)), _) => error.at(self.sources[*index].show(span.clone(), label)),
            (None, Some(Source { origin: Origin::File(path), .. })) => error.at(format!("  --> {path} (`{key}` has its default)")),
            (None, _) => error,
        }
    }
}

fn parse<'a>(source: &Source, text: &'a str) -> Result<Document<&'a str>, ConfigError> {
    Document::parse(text).map_err(|error| {
        let place = source.show(error.span().unwrap_or_default(), "here");
        let hint = match source.origin {
            Origin::File(_) => "a config is TOML: `key = value` lines below `[table]` lines, texts in quotes",
            Origin::CommandLine => "write KEY=VALUE, such as `train.steps=500`",
        };
        ConfigError::new(format!("not valid TOML: {}", error.message().replace('\n', ", "))).at(place).hint(hint)
    })
}

fn unreadable(path: &Path, cause: &std::io::Error) -> ConfigError {
    let error = ConfigError::new(format!("cannot read the config {}: {cause}", path.display()));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    let wanted = path.file_name().unwrap_or_default().to_string_lossy();
    match nearest(&wanted, names.iter().map(String::as_str)) {
        Some(name) => error.hint(format!("did you mean {}?", path.with_file_name(name).display())),
        None => error.hint("give the path of a .toml file, or of a run folder"),
    }
}

/// Tables merge, everything else is replaced.
fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

/// A checked text.
#[derive(Default)]
pub(super) struct Checked {
    pub values: Map<String, Value>,
    pub places: Vec<(String, Range<usize>)>,
}

/// All keys of a table with their places and values.
pub(super) fn entries<'a>(table: &'a dyn TableLike, at: &'a str) -> impl Iterator<Item = (String, &'a str, Range<usize>, &'a Item)> {
    table.iter().map(move |(name, item)| {
        let span = table.get_key_value(name).and_then(|(key, _)| key.span()).unwrap_or_default();
        (join(at, name), name, span, item)
    })
}
