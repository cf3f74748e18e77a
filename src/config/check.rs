//! One text against the schema: unknown keys, types, ranges. And the checks that see several keys.

use std::ops::Range;

use serde_json::{Map, Value};
use toml_edit::{Item, TableLike};

use super::error::{ConfigError, Source, nearest};
use super::layers::{Checked, entries};
use super::schema::{alternatives, choices, describe, has_type, keys, nullable, properties, schema};

/// Checks a whole text. `bare`: see `Layers::add`.
pub(super) fn tree(source: &Source, table: &dyn TableLike, bare: Option<Range<usize>>) -> Result<Checked, ConfigError> {
    let mut checked = Checked::default();
    let mut walk = Walk { source, bare, places: &mut checked.places };
    checked.values = walk.table("", table, schema())?;
    Ok(checked)
}

struct Walk<'a> {
    source: &'a Source,
    bare: Option<Range<usize>>,
    places: &'a mut Vec<(String, Range<usize>)>,
}

impl Walk<'_> {
    fn table(&mut self, at: &str, table: &dyn TableLike, schema: &Value) -> Result<Map<String, Value>, ConfigError> {
        let mut values = Map::new();
        for (key, name, key_span, item) in entries(table, at) {
            if key == "base" && self.source.is_file() {
                continue; // not a setting: it names the file that was read before this one
            }
            let Some(inner) = properties(schema).and_then(|keys| keys.get(name).copied()) else {
                return Err(self.unknown(at, name, key_span, schema));
            };
            let span = match (&self.bare, item.is_table_like()) {
                (Some(bare), false) => bare.clone(),
                // A table's own span is its header: the key shows better which one is meant.
                (_, true) => key_span,
                (None, false) => item.span().unwrap_or(key_span),
            };
            self.places.push((key.clone(), span.clone()));
            let value = match (item.as_table_like(), properties(inner)) {
                (Some(table), Some(_)) => Value::Object(self.table(&key, table, inner)?),
                _ => self.item(&key, item, span, inner)?,
            };
            values.insert(name.to_owned(), value);
        }
        Ok(values)
    }

    fn item(&self, key: &str, item: &Item, span: Range<usize>, schema: &Value) -> Result<Value, ConfigError> {
        match item {
            Item::Value(value) => self.value(key, value, span, schema),
            Item::ArrayOfTables(_) => Err(self.refuse(key, "is a list of tables", span, schema)),
            _ => Err(self.refuse(key, "is a table", span, schema)),
        }
    }

    fn value(&self, key: &str, value: &toml_edit::Value, span: Range<usize>, schema: &Value) -> Result<Value, ConfigError> {
        use toml_edit::Value as Toml;
        let branch = |names: &[&str]| alternatives(schema).into_iter().find(|branch| names.iter().any(|name| has_type(branch, name)));
        let free_text = |branch: &Value| has_type(branch, "string") && choices(branch).is_empty();
        match value {
            Toml::String(word) => {
                let word = word.value().as_str();
                if choices(schema).iter().any(|(choice, _)| *choice == word) {
                    Ok(word.into())
                } else if nullable(schema) && word == "none" {
                    Ok(Value::Null)
                } else if alternatives(schema).into_iter().any(free_text) {
                    Ok(word.into())
                } else {
                    let error = self.refuse(key, &format!("is {word:?}"), span, schema);
                    Err(match nearest(word, choices(schema).into_iter().map(|(choice, _)| choice)) {
                        Some(meant) => error.hint(format!("did you mean {meant:?}?")),
                        None => error,
                    })
                }
            }
            Toml::Integer(number) => match branch(&["integer", "number"]) {
                Some(_) => self.number(key, *number.value() as f64, (*number.value()).into(), span, schema),
                None => Err(self.refuse(key, &format!("is {}", number.value()), span, schema)),
            },
            Toml::Float(number) => match branch(&["number"]) {
                Some(_) => self.number(key, *number.value(), (*number.value()).into(), span, schema),
                None => Err(self.refuse(key, &format!("is {}", number.value()), span, schema)),
            },
            Toml::Boolean(truth) => match branch(&["boolean"]) {
                Some(_) => Ok((*truth.value()).into()),
                None => Err(self.refuse(key, &format!("is {}", truth.value()), span, schema)),
            },
            Toml::Array(list) => {
                let Some(branch) = branch(&["array"]) else { return Err(self.refuse(key, "is a list", span, schema)) };
                let (least, most) = (branch["minItems"].as_u64().unwrap_or(0), branch["maxItems"].as_u64().unwrap_or(u64::MAX));
                if !(least..=most).contains(&(list.len() as u64)) {
                    let bound = if least == most {
                        String::new()
                    } else if (list.len() as u64) < least {
                        format!(", at least {least}")
                    } else {
                        format!(", at most {most}")
                    };
                    let found = format!("has {} value{}", list.len(), if list.len() == 1 { "" } else { "s" });
                    return Err(self.wrong(key, &found, &(describe(schema) + &bound), span));
                }
                let items = list.iter().enumerate().map(|(index, item)| {
                    self.value(&format!("{key}[{index}]"), item, item.span().unwrap_or(span.clone()), &branch["items"])
                });
                items.collect()
            }
            Toml::Datetime(_) => Err(self.refuse(key, "is a date", span, schema)),
            Toml::InlineTable(_) => Err(self.refuse(key, "is a table", span, schema)),
        }
    }

    fn number(&self, key: &str, number: f64, value: Value, span: Range<usize>, schema: &Value) -> Result<Value, ConfigError> {
        let bounds = alternatives(schema).into_iter().find(|branch| has_type(branch, "integer") || has_type(branch, "number"));
        let bound = |name: &str, none: f64| bounds.and_then(|branch| branch[name].as_f64()).unwrap_or(none);
        if number.is_finite() && number >= bound("minimum", f64::NEG_INFINITY) && number <= bound("maximum", f64::INFINITY) {
            Ok(value)
        } else {
            Err(self.refuse(key, &format!("is {number}"), span, schema))
        }
    }

    fn refuse(&self, key: &str, found: &str, span: Range<usize>, schema: &Value) -> ConfigError {
        self.wrong(key, found, &describe(schema), span)
    }

    fn wrong(&self, key: &str, found: &str, expected: &str, span: Range<usize>) -> ConfigError {
        let name = key.split('[').next().unwrap_or(key);
        ConfigError::new(format!("`{key}` {found}, expected {expected}"))
            .at(self.source.show(span, &format!("expected {expected}")))
            .hint(format!("`panscreen config explain {name}` says what it does"))
    }

    fn unknown(&self, table: &str, name: &str, span: Range<usize>, schema: &Value) -> ConfigError {
        let (place, label) = match table {
            "" => ("at the top level".to_owned(), "not a key of the top level".to_owned()),
            table => (format!("in table `{table}`"), format!("not a key of [{table}]")),
        };
        let here = properties(schema).into_iter().flatten().map(|(key, _)| key);
        let all = keys();
        let elsewhere = all.iter().filter_map(|key| key.rsplit_once('.')).find(|(_, last)| *last == name);
        let hint = match (nearest(name, here), elsewhere) {
            (Some(meant), _) => format!("did you mean `{meant}`?"),
            (None, Some((owner, _))) => format!("`{name}` is a key of [{owner}]"),
            (None, None) => format!("`{}` lists the keys", format!("panscreen config explain {table}").trim_end()),
        };
        ConfigError::new(format!("unknown key `{name}` {place}")).at(self.source.show(span, &label)).hint(hint)
    }
}
