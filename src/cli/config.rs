//! `panscreen config show | explain | schema`.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::error::{Failure, USAGE};
use crate::config::{self, KeyHelp};

/// Show, explain and describe settings.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the config that a run would have: bases, file and overrides together.
    Show {
        /// Config file or run folder.
        config: PathBuf,
        /// Overrides such as `glance.group_size=8`.
        #[arg(value_name = "KEY=VALUE")]
        overrides: Vec<String>,
    },
    /// Say what a key does; for a table all its keys, without a key all there are.
    Explain {
        /// A key or table, such as `optim.glance.lr` or `screen`.
        #[arg(default_value = "")]
        key: String,
    },
    /// Print the JSON schema of config files, for editors.
    Schema,
}

/// Prints the result to `out`; `as_json` for programs.
pub fn run(args: ConfigArgs, as_json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let text = match args.action {
        Action::Show { config, overrides } => {
            let config = config::load(&config, &overrides)?;
            if as_json { pretty(&json!({ "hash": config.hash(), "config": config })) } else { config.to_toml() }
        }
        Action::Explain { key } => {
            let found = config::explain(&key).ok_or_else(|| unknown(&key))?;
            if as_json { pretty(&json!(found)) } else { found.iter().map(paragraph).collect::<Vec<_>>().join("\n") }
        }
        Action::Schema => pretty(&config::file_schema()),
    };
    // A reader that went away (`| head`) is no failure.
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::says(USAGE, format!("cannot write the result: {error}")))
        }
        _ => Ok(()),
    }
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

fn unknown(key: &str) -> Failure {
    let failure = Failure::says(USAGE, format!("there is no key `{key}`"));
    match config::nearest_key(key) {
        Some(meant) => failure.hint(format!("did you mean `{meant}`?")),
        None => failure.hint("`panscreen config explain` lists all keys"),
    }
}

fn paragraph(help: &KeyHelp) -> String {
    let KeyHelp { key, takes, default, doc, choices, table } = help;
    if *table {
        return format!("[{key}]\n{}", wrapped(doc, "  "));
    }
    // As one would write it: the schema's JSON in TOML.
    let default = toml::Value::try_from(default).map_or("unset".to_owned(), |value| value.to_string());
    let width = choices.iter().map(|(word, _)| word.len()).max().unwrap_or(0);
    let meaning = " ".repeat(width + 6);
    let choices =
        choices.iter().map(|(word, doc)| format!("    {word:width$}  {}", wrapped(doc, &meaning).trim_start())).collect::<String>();
    format!("{key} = {default}\n  {takes}\n{}{choices}", wrapped(doc, "  "))
}

/// Lines of at most 100 characters.
fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = String::new();
    let mut line = indent.to_owned();
    for word in text.split(' ') {
        if line.len() > indent.len() && line.chars().count() + word.chars().count() > 100 {
            lines += &format!("{}\n", line.trim_end());
            line = indent.to_owned();
        }
        line += word;
        line.push(' ');
    }
    lines + line.trim_end() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ConfigArgs,
    }

    fn check(line: &[&str], as_json: bool) -> Result<String, String> {
        let args = Line::try_parse_from([&["config"], line].concat()).map_err(|error| error.to_string())?.args;
        let mut out = Vec::new();
        run(args, as_json, &mut out).map_err(|failure| format!("{} {failure}", failure.code))?;
        String::from_utf8(out).map_err(|error| error.to_string())
    }

    #[test]
    fn explain_tells_type_default_doc_and_choices() {
        assert_eq!(
            check(&["explain", "screen.denominator"], false).unwrap(),
            "screen.denominator = \"covering\"\n  \"kept\" or \"covering\"\n  Which windows a voxel's sum is divided by. Default `\"covering\"`.\n    \
             kept      The kept windows over the voxel (the published code); a single window can then mark a\n              lesion.\n    \
             covering  All windows over the voxel: a rejected window votes for background.\n"
        );
        let table = check(&["explain", "backbone"], false).unwrap();
        assert!(check(&["explain", "env.window"], false).unwrap().starts_with("env.window = [96, 96, 64]\n"));
        assert!(check(&["explain", "data.root"], false).unwrap().starts_with("data.root = unset\n"));
        assert!(table.starts_with("[backbone]\n") && table.contains("\nbackbone.shared = \"none\"\n"), "{table}");
        let all: serde_json::Value = serde_json::from_str(&check(&["explain"], true).unwrap()).unwrap();
        let mut listed: Vec<&str> = all.as_array().unwrap().iter().map(|help| help["key"].as_str().unwrap()).collect();
        listed.dedup();
        assert_eq!(listed, config::keys());
    }

    #[test]
    fn explain_an_unknown_key() {
        for (key, text) in [
            ("env.windw", "2 error: there is no key `env.windw`\n\nhint: did you mean `env.window`?"),
            ("epsilon", "2 error: there is no key `epsilon`\n\nhint: did you mean `objective.epsilon`?"),
            ("zzz", "2 error: there is no key `zzz`\n\nhint: `panscreen config explain` lists all keys"),
        ] {
            assert_eq!(check(&["explain", key], false).unwrap_err(), text);
        }
    }

    #[test]
    fn show_for_people_and_programs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        std::fs::write(&path, "seed = 3\n").unwrap();
        let line = ["show", path.to_str().unwrap(), "train.steps=7"];
        let text = check(&line, false).unwrap();
        assert!(text.starts_with("name = \"mine\"\nseed = 3\n") && text.contains("\nsteps = 7\n"), "{text}");
        let shown: serde_json::Value = serde_json::from_str(&check(&line, true).unwrap()).unwrap();
        assert_eq!((&shown["config"]["train"]["steps"], shown["hash"].as_str().unwrap().len()), (&7.into(), 64));
    }

    #[test]
    fn schema_is_json() {
        let schema: serde_json::Value = serde_json::from_str(&check(&["schema"], false).unwrap()).unwrap();
        assert_eq!(schema["properties"]["train"]["properties"]["steps"]["default"], 20000);
        let root = &schema["properties"]["data"]["properties"]["root"];
        assert_eq!((&root["anyOf"][0]["type"], &root["anyOf"][1]["const"]), (&serde_json::json!(["string"]), &"none".into()));
        assert!(schema["properties"]["base"].is_object() && !schema.to_string().contains("null"));
    }
}
