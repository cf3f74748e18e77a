//! What a key of the config may be, and draws of it.

use std::collections::BTreeMap;

use panscreen_envs::rng::{RngExt, Stream};
use toml::Value;

/// One dimension of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub enum Param {
    /// Unordered choices.
    Choices(Vec<Value>),
    Range(Range),
}

/// A range of numbers, both ends included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    pub low: f64,
    pub high: f64,
    /// Even on a logarithmic scale.
    pub log: bool,
    /// Distance between neighbours; none: every number.
    pub step: Option<f64>,
    /// Whole numbers only.
    pub integer: bool,
}

/// The values of one trial, by key.
pub type Params = BTreeMap<String, Value>;

/// The dimensions of a `[params]` table, sorted by key; tables without `low` are parts of dotted keys.
pub fn params_of(table: &toml::Table) -> Result<Vec<(String, Param)>, String> {
    let mut found = Vec::new();
    flatten("", table, &mut found)?;
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

fn flatten(at: &str, table: &toml::Table, out: &mut Vec<(String, Param)>) -> Result<(), String> {
    for (key, value) in table {
        let key = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        match value {
            Value::Array(choices) if choices.is_empty() => return Err(format!("`params.{key}` has no choice; list its values")),
            Value::Array(choices) => out.push((key, Param::Choices(choices.clone()))),
            Value::Table(range) if range.contains_key("low") || range.contains_key("high") => {
                let range = Range::of(range).map_err(|sentence| format!("`params.{key}` {sentence}"))?;
                out.push((key, Param::Range(range)));
            }
            Value::Table(inner) => flatten(&key, inner, out)?,
            _ => return Err(format!("`params.{key}` is one value, expected a list or a range; put it into `overrides`")),
        }
    }
    Ok(())
}

impl Range {
    fn of(table: &toml::Table) -> Result<Self, String> {
        if let Some(key) = table.keys().find(|k| !["low", "high", "log", "step"].contains(&k.as_str())) {
            return Err(format!("has the key `{key}`, expected `low`, `high`, `log` and `step`"));
        }
        let number = |key: &str| match table.get(key) {
            Some(Value::Integer(n)) => Ok(Some((*n as f64, true))),
            Some(Value::Float(x)) if x.is_finite() => Ok(Some((*x, false))),
            None => Ok(None),
            Some(other) => Err(format!("has `{key} = {other}`, expected a number")),
        };
        let (Some((low, low_whole)), Some((high, high_whole))) = (number("low")?, number("high")?) else {
            return Err("needs both `low` and `high`".into());
        };
        let step = number("step")?;
        let log = match table.get("log") {
            None => false,
            Some(Value::Boolean(log)) => *log,
            Some(other) => return Err(format!("has `log = {other}`, expected true or false")),
        };
        let integer = low_whole && high_whole && step.is_none_or(|(_, whole)| whole);
        if low >= high {
            return Err(format!("has low {low} and high {high}; `low` must be below `high`"));
        }
        if log && low <= 0.0 {
            return Err(format!("has `log = true` and low {low}; `low` must be above 0"));
        }
        if log && step.is_some() {
            return Err("has both `log` and `step`; a logarithmic range has none".into());
        }
        let step = step.map(|(step, _)| step);
        if step.is_some_and(|s| s <= 0.0 || s > high - low || (high - low) / s > 1e6) {
            return Err("has a `step` that does not fit between `low` and `high`".into());
        }
        Ok(Range { low, high, log, step: if integer && !log { step.or(Some(1.0)) } else { step }, integer })
    }

    /// The value nearest to `x` that the range has.
    pub fn nearest(&self, x: f64) -> f64 {
        let x = match self.step {
            Some(step) => {
                let most = ((self.high - self.low) / step + 1e-9).floor();
                self.low + ((x - self.low) / step).round().clamp(0.0, most) * step
            }
            None if self.integer => x.round(),
            None => x,
        };
        x.clamp(self.low, self.high)
    }

    /// `x` on the scale on which draws are even.
    pub fn inner(&self, x: f64) -> f64 {
        if self.log { x.ln() } else { x }
    }

    /// The ends on that scale; half a step beyond them, so that the outermost values are as likely as the others.
    pub fn inner_ends(&self) -> (f64, f64) {
        let half = if self.log && self.integer { 0.5 } else { self.step.unwrap_or(0.0) / 2.0 };
        (self.inner(self.low - half), self.inner(self.high + half))
    }

    /// From that scale to a value of the range.
    pub fn outer(&self, inner: f64) -> f64 {
        self.nearest(if self.log { inner.exp() } else { inner })
    }

    /// As it is written in a config.
    pub fn value(&self, x: f64) -> Value {
        // Steps of 0.1 leave a tail in the last digits that nobody wrote.
        if self.integer { Value::Integer(x.round() as i64) } else { Value::Float(format!("{x:.12e}").parse().unwrap_or(x)) }
    }
}

impl Param {
    /// Every value, or `None` for a range without steps.
    pub fn grid(&self) -> Option<Vec<Value>> {
        match self {
            Param::Choices(choices) => Some(choices.clone()),
            Param::Range(range) => {
                let step = range.step?;
                let last = ((range.high - range.low) / step + 1e-9).floor() as usize;
                Some((0..=last).map(|i| range.value(range.low + i as f64 * step)).collect())
            }
        }
    }

    /// A draw in which every value is as likely as any other.
    pub fn draw(&self, rng: &mut Stream) -> Value {
        match self {
            Param::Choices(choices) => choices[rng.random_range(0..choices.len())].clone(),
            Param::Range(range) => {
                let (low, high) = range.inner_ends();
                range.value(range.outer(low + (high - low) * rng.random::<f64>()))
            }
        }
    }
}

/// Every combination, the last key running fastest. One empty combination where there is no dimension.
pub fn grid(space: &[(String, Param)]) -> Vec<Params> {
    let mut all = vec![Params::new()];
    for (key, param) in space {
        let values = param.grid().unwrap_or_default();
        let with = |params: &Params, value: &Value| {
            let mut params = params.clone();
            params.insert(key.clone(), value.clone());
            params
        };
        all = all.iter().flat_map(|params| values.iter().map(move |value| with(params, value))).collect();
    }
    all
}

#[cfg(test)]
mod tests {
    use panscreen_envs::rng::stream;

    use super::*;

    fn space(text: &str) -> Vec<(String, Param)> {
        params_of(&text.parse().unwrap()).unwrap()
    }

    #[test]
    fn grids() {
        for (text, expected) in [
            ("a = [1, 2]\nb = [\"x\", \"y\"]", "1x 1y 2x 2y"),
            ("a = { low = 1, high = 7, step = 3 }", "1 4 7"),
            ("a = { low = 2, high = 4 }", "2 3 4"),
            ("a = { low = 0.1, high = 0.3, step = 0.1 }", "0.1 0.2 0.3"),
            ("", ""),
        ] {
            let words: Vec<String> =
                grid(&space(text)).iter().map(|p| p.values().map(|v| v.to_string().replace('"', "")).collect::<String>()).collect();
            assert_eq!(words.join(" "), expected, "{text}");
        }
    }

    #[test]
    fn draws_stay_inside_and_reach_everything() {
        for (text, low, high, whole) in [
            ("a = { low = 1, high = 3 }", 1.0, 3.0, true),
            ("a = { low = 1, high = 1000, log = true }", 1.0, 1000.0, true),
            ("a = { low = 1e-4, high = 1e-1, log = true }", 1e-4, 1e-1, false),
            ("a = { low = 0.0, high = 1.0, step = 0.25 }", 0.0, 1.0, false),
        ] {
            let (_, param) = space(text).remove(0);
            let drawn: Vec<f64> = (0..2000)
                .map(|i| match param.draw(&mut stream(1, "draws", 0, i)) {
                    Value::Integer(n) if whole => n as f64,
                    Value::Float(x) if !whole => x,
                    other => panic!("{text}: {other}"),
                })
                .collect();
            assert!(drawn.iter().all(|x| (low..=high).contains(x)), "{text}");
            let middle = if text.contains("log") { (low * high).sqrt() } else { (low + high) / 2.0 };
            let below = drawn.iter().filter(|x| **x < middle).count() as f64 + drawn.iter().filter(|x| **x == middle).count() as f64 / 2.0;
            assert!((below / 2000.0 - 0.5).abs() < 0.06, "{text}: {below}");
        }
        let (_, param) = space("a = { low = 1, high = 3 }").remove(0);
        let ones = (0..3000).filter(|&i| param.draw(&mut stream(1, "ends", 0, i)) == Value::Integer(1)).count();
        assert!((900..1100).contains(&ones), "the end is as likely as the middle: {ones}");
    }
}
