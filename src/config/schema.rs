//! The JSON schema of the config structs, and what it says about a key. Everything that knows keys asks here.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::{Value, json};

use super::Config;
use super::error::nearest;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    // Inlined: a key's schema then stands where the key stands.
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    tidy(&mut schema);
    schema
});

/// The keys that choose between several kinds of a table.
const TAGS: [&str; 2] = ["kind", "name"];

/// Closes every table to unknown keys, and makes the key that chooses a kind one like others: documented, with a default.
fn tidy(schema: &mut Value) {
    let tag = tag(schema).unwrap_or_default();
    let words: Vec<Value> =
        kinds(schema).into_iter().map(|(word, branch)| json!({ "const": word, "description": text(branch, "description") })).collect();
    let default = schema["default"][tag].clone();
    let Some(table) = schema.as_object_mut() else { return };
    if !words.is_empty() {
        let doc = format!("Which kind it is; it decides which other keys there are. Default `{default}`.");
        let properties = table.entry("properties").or_insert_with(|| json!({}));
        properties[tag] = json!({ "description": doc, "default": default, "oneOf": words });
        for branch in table["oneOf"].as_array_mut().into_iter().flatten() {
            if branch["properties"][tag]["const"] == default {
                branch.as_object_mut().map(|branch| branch.remove("required"));
            }
        }
        table.remove("additionalProperties");
        table.insert("unevaluatedProperties".into(), false.into());
    } else if table.contains_key("properties") {
        table.insert("additionalProperties".into(), false.into());
    }
    for inner in table.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        tidy(inner.1);
    }
}

/// The JSON schema of the structs. Unset is null here; see [`file_schema`].
pub(super) fn schema() -> &'static Value {
    &SCHEMA
}

/// The JSON schema of a config file (draft 2020-12), as TOML has it: `base`, and the word `"none"` for null.
pub fn file_schema() -> Value {
    let mut schema = schema().clone();
    null_to_none(&mut schema);
    let doc = "Another config file, relative to this one, whose settings hold wherever this one sets nothing.";
    schema["properties"]["base"] = json!({ "type": "string", "description": doc });
    schema
}

fn null_to_none(schema: &mut Value) {
    let unset = json!({ "const": "none", "description": "Unset." });
    match schema {
        Value::Array(several) => several.iter_mut().for_each(null_to_none),
        Value::Object(one) => {
            one.retain(|_, value| !value.is_null());
            one.values_mut().for_each(null_to_none);
            if one.get("type") == Some(&"null".into()) {
                *schema = unset;
            } else if let Some(types) = one.get_mut("type").and_then(Value::as_array_mut) {
                types.retain(|name| name != "null");
                let mut outer = serde_json::Map::new();
                for name in ["description", "default"] {
                    outer.extend(one.remove(name).map(|value| (name.to_owned(), value)));
                }
                outer.insert("anyOf".into(), json!([one.clone(), unset]));
                *schema = Value::Object(outer);
            }
        }
        _ => {}
    }
}

/// What there is to say about a key.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeyHelp {
    /// Full name, such as `optim.glance.lr`.
    pub key: String,
    /// What kind of value it takes, with its range.
    pub takes: String,
    /// Value where nothing sets it; `null`: unset.
    pub default: Value,
    /// The doc comment of the struct's field.
    pub doc: String,
    /// The words that it takes, each with what it means.
    pub choices: Vec<(String, String)>,
    /// A table: other keys are below it.
    pub table: bool,
}

/// The key and, when it is a table, all keys below it; all keys for `""`. `None`: there is no such key.
pub fn explain(key: &str) -> Option<Vec<KeyHelp>> {
    find(key)?;
    // From the table that it is in, which knows the kinds that have it.
    let table = key.rsplit_once('.').map_or("", |(table, _)| table);
    let mut out = Vec::new();
    collect(table, find(table)?, &mut out);
    let below = |name: &str| name.strip_prefix(key).is_some_and(|rest| key.is_empty() || rest.is_empty() || rest.starts_with('.'));
    out.retain(|help| below(&help.key));
    Some(out)
}

/// Names of all keys, tables included.
pub fn keys() -> Vec<String> {
    let mut keys: Vec<String> = explain("").unwrap_or_default().into_iter().map(|help| help.key).collect();
    // A key that means several things is listed once for each.
    keys.dedup();
    keys
}

/// The key that `word` was probably meant to be: one with a slip, or one that ends with the word.
pub fn nearest_key(word: &str) -> Option<String> {
    let all = keys();
    let end = all.iter().find(|key| key.rsplit_once('.').is_some_and(|(_, last)| last == word));
    end.cloned().or_else(|| nearest(word, all.iter().map(String::as_str)).map(str::to_owned))
}

fn collect(key: &str, schema: &'static Value, out: &mut Vec<KeyHelp>) {
    let below = properties(schema);
    if !key.is_empty() {
        out.push(KeyHelp {
            key: key.to_owned(),
            takes: describe(schema),
            default: if below.is_some() { Value::Null } else { schema["default"].clone() },
            doc: text(schema, "description").replace('\n', " "),
            choices: choices(schema).into_iter().map(|(word, doc)| (word.to_owned(), doc.replace('\n', " "))).collect(),
            table: below.is_some(),
        });
    }
    for (name, inner) in below.into_iter().flatten() {
        for (inner, owners) in meanings(schema, name, inner) {
            let start = out.len();
            collect(&join(key, name), inner, out);
            if let (false, Some(tag)) = (owners.is_empty(), tag(schema)) {
                out[start..].iter_mut().for_each(|help| help.doc += &format!(" Only with `{tag} = {}`.", owners.join(" or ")));
            }
        }
    }
}

/// What the key `name` of a table is: its schema, or each schema that it has in some of the table's kinds, with those kinds.
fn meanings<'a>(table: &'a Value, name: &str, plain: &'a Value) -> Vec<(&'a Value, Vec<String>)> {
    let kinds = kinds(table);
    let mut found: Vec<(&Value, Vec<String>)> = Vec::new();
    if table["properties"][name].is_null() {
        for (word, branch) in kinds.iter().filter(|(_, branch)| !branch["properties"][name].is_null()) {
            let schema = &branch["properties"][name];
            match found.iter_mut().find(|(known, _)| *known == schema) {
                Some((_, words)) => words.push(format!("{word:?}")),
                None => found.push((schema, vec![format!("{word:?}")])),
            }
        }
    }
    match found.first() {
        None => vec![(plain, vec![])],
        Some((_, words)) if words.len() == kinds.len() => vec![(plain, vec![])],
        Some(_) => found,
    }
}

fn find(key: &str) -> Option<&'static Value> {
    key.split('.').filter(|part| !part.is_empty()).try_fold(schema(), |schema, part| properties(schema)?.get(part).copied())
}

pub(super) fn join(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

/// What a value may be: the branches of `anyOf` and `oneOf`, without null; the schema itself where it has none.
pub(super) fn alternatives(schema: &Value) -> Vec<&Value> {
    match schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        Some(branches) => branches.iter().filter(|branch| branch["type"] != "null").flat_map(alternatives).collect(),
        None => vec![schema],
    }
}

/// Whether the key may be unset.
pub(super) fn nullable(schema: &Value) -> bool {
    has_type(schema, "null") || schema["anyOf"].as_array().is_some_and(|branches| branches.iter().any(|branch| branch["type"] == "null"))
}

pub(super) fn has_type(schema: &Value, name: &str) -> bool {
    match &schema["type"] {
        Value::Array(names) => names.iter().any(|one| one == name),
        one => one == name,
    }
}

/// The keys of a table, those of every kind for a table with several; `None` where the key is no table.
pub(super) fn properties(schema: &Value) -> Option<BTreeMap<&str, &Value>> {
    let branches: Vec<_> = [schema].into_iter().chain(alternatives(schema)).filter_map(|branch| branch["properties"].as_object()).collect();
    let keys = |of: &&'_ serde_json::Map<String, Value>| of.len();
    (branches.iter().map(keys).sum::<usize>() > 0)
        .then(|| branches.into_iter().rev().flatten().map(|(key, inner)| (key.as_str(), inner)).collect())
}

/// The key that chooses between the kinds of a table, where it has several.
pub(super) fn tag(schema: &Value) -> Option<&'static str> {
    let branches = alternatives(schema);
    TAGS.into_iter().find(|tag| branches.iter().any(|branch| branch["properties"][tag]["const"].is_string()))
}

/// The kinds of a table with a key that chooses one, each with its schema.
pub(super) fn kinds(schema: &Value) -> Vec<(&str, &Value)> {
    let Some(tag) = tag(schema) else { return Vec::new() };
    alternatives(schema).into_iter().filter_map(|branch| Some((branch["properties"][tag]["const"].as_str()?, branch))).collect()
}

/// The words that a key takes, each with its doc comment.
pub(super) fn choices(schema: &Value) -> Vec<(&str, &str)> {
    fn words(branch: &Value) -> Vec<(&str, &str)> {
        let one = branch["const"].as_str().map(|word| (word, text(branch, "description")));
        let several = branch["enum"].as_array().into_iter().flatten().filter_map(|word| Some((word.as_str()?, "")));
        one.into_iter().chain(several).collect()
    }
    alternatives(schema).into_iter().flat_map(words).collect()
}

/// The range of a number, or of the numbers in a list: `0 to 1`, `1 or more`.
pub(super) fn range(schema: &Value) -> Option<String> {
    if has_type(schema, "array") {
        return range(&schema["items"]);
    }
    let number = |name: &str| schema[name].as_f64();
    match (number("minimum"), number("maximum")) {
        (Some(low), Some(high)) => Some(format!("{low} to {high}")),
        (Some(low), None) => Some(format!("{low} or more")),
        (None, Some(high)) => Some(format!("{high} or less")),
        (None, None) => None,
    }
}

/// What a key takes, for an error or for help: `a list of 3 whole numbers (4 to 512)`.
pub(super) fn describe(schema: &Value) -> String {
    let words = choices(schema).into_iter().map(|(word, _)| format!("{word:?}"));
    let kinds = alternatives(schema).into_iter().filter_map(|branch| kind(branch, true));
    let all: Vec<String> = words.chain(kinds).chain(nullable(schema).then(|| "\"none\"".to_owned())).collect();
    match all.split_last() {
        Some((last, first)) if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => all.concat(),
    }
}

/// `None` for words, which are shown as they are.
fn kind(schema: &Value, one: bool) -> Option<String> {
    if !choices(schema).is_empty() {
        return None;
    }
    let pick = |single: &str, many: &str| if one { single.to_owned() } else { many.to_owned() };
    let range = range(schema).map(|range| format!(" ({range})")).unwrap_or_default();
    if has_type(schema, "array") {
        let (least, most) = (schema["minItems"].as_u64(), schema["maxItems"].as_u64());
        let count = if least == most { least.map(|n| format!("{n} ")).unwrap_or_default() } else { String::new() };
        return Some(format!("{} of {count}{}", pick("a list", "lists"), kind(&schema["items"], false)?));
    }
    [
        ("integer", "a whole number", "whole numbers"),
        ("number", "a number", "numbers"),
        ("boolean", "true or false", "true or false"),
        ("string", "a text", "texts"),
        ("object", "a table", "tables"),
    ]
    .into_iter()
    .find(|(name, ..)| has_type(schema, name))
    .map(|(_, single, many)| pick(single, many) + &range)
}

fn text<'a>(schema: &'a Value, name: &str) -> &'a str {
    schema[name].as_str().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describe_table() {
        for (key, expected) in [
            ("train.steps", "a whole number (1 or more)"),
            ("env.window", "a list of 3 whole numbers (4 to 512)"),
            ("data.windows_hu", "a list of lists of 2 numbers"),
            ("data.spacing_mm", "a list of 3 numbers (0.05 to 50) or \"none\""),
            ("data.lesion_classes", "\"all\" or a list of whole numbers (1 to 255)"),
            ("screen.threshold", "\"validation\" or a number (0 to 1)"),
            ("backbone.shared", "\"none\", \"init\" or \"tied\""),
            ("compat.extra_schedule_step", "true or false"),
            ("glance.kind", "\"resnet3d\", \"encoder\" or \"whole_scan\""),
            ("data.phantom", "a table or \"none\""),
            ("name", "a text"),
        ] {
            assert_eq!(describe(find(key).unwrap()), expected, "{key}");
        }
    }

    #[test]
    fn explain_a_key_a_table_and_everything() {
        let names = |key: &str| explain(key).map(|all| all.into_iter().map(|help| help.key).collect::<Vec<_>>());
        assert_eq!(names("train.steps").unwrap(), ["train.steps"]);
        let hidden = explain("glance.hidden").unwrap();
        assert!(hidden.len() == 1 && hidden[0].doc.ends_with("Only with `kind = \"encoder\"`."), "{hidden:?}");
        assert!(names("objective.epsilon").unwrap().len() > 2, "it means something else in each kind");
        assert_eq!(
            names("env.four_cell").unwrap(),
            ["env.four_cell", "env.four_cell.fn", "env.four_cell.fp", "env.four_cell.tn", "env.four_cell.tp"]
        );
        assert!(names("").unwrap().contains(&"data.phantom.cases.test".to_owned()));
        assert_eq!(names("train.stepps"), None);
        assert_eq!(names("train.steps.more"), None);
    }

    /// Every key is documented with its default; where a doc gives range and default, they are those of the code.
    #[test]
    fn docs_tell_the_truth() {
        for help in explain("").unwrap() {
            let KeyHelp { key, doc, .. } = &help;
            assert!(doc.len() > 10, "`{key}` has no doc comment");
            assert!(!doc.contains("(being"), "{key}");
            if help.table {
                continue;
            }
            // A part's own default must be what the whole config gives it: a table that sets one key leaves the others as they were.
            let whole = serde_json::to_value(Config::default()).unwrap();
            let other_kind = doc.contains(" Only with `") && !doc.contains("\"grl\"") && !doc.contains("\"resnet3d\"");
            if let Some(value) = whole.pointer(&format!("/{}", key.replace('.', "/"))).filter(|_| !other_kind) {
                assert!(same(value, &help.default), "`{key}` is {value} in the whole, {} by itself", help.default);
            }
            assert!(doc.to_lowercase().contains("default"), "the doc of `{key}` names no default: {doc}");
            if let Some((_, rest)) = doc.split_once("Default `") {
                let written = rest.split('`').next().unwrap();
                let toml: Result<toml::Table, _> = format!("value = {written}").parse();
                let written = toml.map_or_else(|_| written.into(), |toml| serde_json::to_value(&toml["value"]).unwrap());
                assert!(same(&written, &help.default), "the doc of `{key}` says {written}, the code {}", help.default);
                let schema = find(key).unwrap();
                for range in alternatives(schema).into_iter().filter_map(range) {
                    assert!(doc.contains(&range), "the doc of `{key}` does not say {range}");
                }
            } else if doc.contains("Default none") {
                assert!(help.default.is_null(), "the doc of `{key}` says none, the code {}", help.default);
            }
        }
    }

    fn same(a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
            _ => a == b || (a.is_number() && a.as_f64() == b.as_f64()),
        }
    }

    /// TOML has no null: an unset key is left out, so that reading it again must give unset.
    #[test]
    fn what_can_be_unset_is_unset_by_default() {
        for help in explain("").unwrap() {
            if nullable(find(&help.key).unwrap()) {
                assert!(help.default.is_null(), "{}", help.key);
            }
        }
    }
}
