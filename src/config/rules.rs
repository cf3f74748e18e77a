//! Checks that see several keys, or the same key in several layers.

use panscreen_policies::glance::GlanceConfig as GlanceNetwork;
use panscreen_policies::objectives::Needs;
use serde_json::{Map, Value};

use super::layers::Layers;
use super::schema::{join, kinds, properties, schema, tag};
use super::{Config, ConfigError, Device, GroupKind, Loaded, Precision, SetScore};

/// For each table with several kinds (`glance.kind`, `objective.name`): only the keys of the chosen kind stay. One that a base set for another
/// kind is dropped; one that was set together with the kind, or after it, is a mistake.
pub(super) fn resolve_kinds(layers: &Layers) -> Result<Map<String, Value>, ConfigError> {
    let mut values = layers.values.clone();
    for (name, table) in properties(schema()).into_iter().flatten() {
        let kinds = kinds(table);
        let Some(Value::Object(given)) = values.get_mut(name) else { continue };
        let Some(tag) = tag(table) else { continue };
        let Some(default) = table["default"][tag].as_str() else { continue };
        let kind = given.entry(tag).or_insert_with(|| default.into()).as_str().unwrap_or(default).to_owned();
        let every_kind = table["properties"].as_object();
        let own = |key: &str| {
            kinds.iter().any(|(word, branch)| *word == kind && branch["properties"].get(key).is_some())
                || every_kind.is_some_and(|keys| keys.contains_key(key))
        };
        for key in given.keys().filter(|key| !own(key)).cloned().collect::<Vec<_>>() {
            let full = join(name, &key);
            if layers.rank(&full) >= layers.rank(&join(name, tag)) {
                let owners = kinds.iter().filter(|(_, branch)| branch["properties"].get(&key).is_some());
                let owners = owners.map(|(word, _)| format!("`{tag} = {word:?}`")).collect::<Vec<_>>().join(" or ");
                let message = format!("`{full}` does not belong to `{tag} = {kind:?}` of [{name}]");
                return Err(layers.error(
                    &full,
                    message,
                    &format!("not a key of this kind of [{name}]"),
                    &format!("it is a key of {owners}"),
                ));
            }
            given.remove(&key);
        }
    }
    Ok(values)
}

pub(super) fn check(loaded: &Loaded) -> Result<(), ConfigError> {
    let Config { env, glance, focus, backbone, loss, objective, optim, data, .. } = &loaded.config;
    name(loaded)?;
    if loaded.config.stages.is_empty() {
        return Err(loaded.error("stages", "`stages` is empty, expected at least one", "no stage", "write `stages = [\"gf_screen\"]`"));
    }
    for [low, high] in &data.windows_hu {
        if low >= high {
            let message = format!("`data.windows_hu` has the window [{low}, {high}], expected the lower HU first");
            return Err(loaded.error(
                "data.windows_hu",
                message,
                "low must be below high",
                "write for example `windows_hu = [[-175, 250]]`",
            ));
        }
    }
    precision(loaded)?;
    frozen(loaded)?;
    group(loaded)?;
    constrained(loaded)?;
    part(loaded, "glance", glance.network.check(backbone.shared))?;
    looks(loaded)?;
    part(loaded, "focus", focus.check(env.window))?;
    part(loaded, "loss", loss.dice_ce.check(2))?;
    part(loaded, "objective", objective.kind.check())?;
    sampled(loaded)?;
    for (name, optimizer) in [("optim.glance", &optim.glance), ("optim.focus", &optim.focus)] {
        part(loaded, name, optimizer.adamw.check())?;
        part(loaded, &join(name, "schedule"), optimizer.schedule.check())?;
    }
    Ok(())
}

/// The name is a folder of its own below `runs`.
fn name(loaded: &Loaded) -> Result<(), ConfigError> {
    let name = &loaded.config.name;
    let plain = |c: char| c.is_alphanumeric() || "._-+=".contains(c);
    if name.chars().all(plain) && !name.starts_with('.') && !name.is_empty() {
        return Ok(());
    }
    let message = format!("`name` is {name:?}, expected letters, digits and . _ - + = (no leading dot)");
    Err(loaded.error("name", message, "not the name of a folder", "choose a name such as `name = \"abdomen-1\"`"))
}

/// Half precision is for GPUs.
fn precision(loaded: &Loaded) -> Result<(), ConfigError> {
    if loaded.config.precision == Precision::F32 || loaded.config.device == Device::Cuda {
        return Ok(());
    }
    let message = "`precision` is \"bf16\" with `device = \"cpu\"`, expected \"f32\": the kernels for the CPU are f32";
    Err(loaded.error("precision", message, "needs a GPU", "set `precision = \"f32\"`, or `device = \"cuda\"`"))
}

/// A Focus that learns nothing must have learnt before.
fn frozen(loaded: &Loaded) -> Result<(), ConfigError> {
    let Config { train, init_from, init_focus_from, .. } = &loaded.config;
    if !train.freeze_focus || init_from.is_some() || init_focus_from.is_some() {
        return Ok(());
    }
    let message = "`train.freeze_focus` is true, but no trained Focus is named: random weights would stay random";
    Err(loaded.error("train.freeze_focus", message, "freezes random weights", "set `init_focus_from=RUN`"))
}

/// A second look is taught where cells of whole scans are; findings are looked at through windows of size 1 first.
fn looks(loaded: &Loaded) -> Result<(), ConfigError> {
    let Config { glance, screen, loss, stages, .. } = &loaded.config;
    if !screen.scales.contains(&1) {
        let message =
            format!("`screen.scales` is {:?}, expected 1 among them: wider windows look at what was found through those", screen.scales);
        return Err(loaded.error("screen.scales", message, "lacks 1", "write for example `scales = [1, 2]`"));
    }
    let twice = matches!(&glance.network, GlanceNetwork::WholeScan(net) if net.second_spacing_mm > 0.0);
    if twice && !(stages.iter().any(|s| s == "selection") && loss.cell_weight > 0.0) {
        let message =
            "`glance.second_spacing_mm` needs the stage `selection` and `loss.cell_weight` above 0: nothing else teaches the second look";
        let hint = "set `stages = [\"gf_screen\", \"selection\"]` and `loss.cell_weight = 1`, or `glance.second_spacing_mm = 0`";
        return Err(loaded.error("glance.second_spacing_mm", message, "nothing teaches it", hint));
    }
    Ok(())
}

/// A group has two rewards or more, and groups share out what the environment puts together.
fn group(loaded: &Loaded) -> Result<(), ConfigError> {
    let (config, whole) = (&loaded.config, loaded.config.whole_group());
    let hint = "`panscreen config explain glance.group_size` says how groups are made";
    match config.glance.group_size {
        None if whole >= 2 => Ok(()),
        None => {
            let message = format!("`env.crops_per_volume` makes groups of {whole}, expected 2 or more rewards to compare");
            Err(loaded.error("env.crops_per_volume", message, "too few", hint))
        }
        Some(_) if config.env.group == GroupKind::Masks => {
            let message = "`glance.group_size` does not belong to `env.group = \"masks\"`, whose groups are the selections of a scan";
            Err(loaded.error("glance.group_size", message, "has no effect", "set `objective.masks`"))
        }
        Some(size) if whole.is_multiple_of(size) => Ok(()),
        Some(size) => {
            let message =
                format!("`glance.group_size` is {size}, expected a divisor of the {whole} sub-volumes that `env.group` puts together");
            Err(loaded.error("glance.group_size", message, &format!("does not divide {whole}"), hint))
        }
    }
}

/// Objectives that need sampled actions, or the worth of both, need an environment that scores sets.
fn sampled(loaded: &Loaded) -> Result<(), ConfigError> {
    let info = loaded.config.objective.kind.info();
    if !matches!(info.needs, Needs::SampledMasks | Needs::BothActions) || loaded.config.env.group == GroupKind::Masks {
        return Ok(());
    }
    let message = format!("`objective.name = {:?}` needs selections that are scored as sets, which `env.group` does not give", info.name);
    Err(loaded.error("objective.name", message, "needs `env.group = \"masks\"`", "set `env.group = \"masks\"`"))
}

/// At most one constraint, sets to keep it with, and an objective that can.
fn constrained(loaded: &Loaded) -> Result<(), ConfigError> {
    let Config { selection, objective, env, .. } = &loaded.config;
    let hint = "`panscreen config explain selection` says what each does";
    if selection.most_windows.is_some() && selection.least_recall.is_some() {
        let message = "`selection.most_windows` and `selection.least_recall` are both set, expected one of them";
        return Err(loaded.error("selection.least_recall", message, "one too many", "set one of them to \"none\""));
    }
    let key = [("most_windows", selection.most_windows), ("least_recall", selection.least_recall)].into_iter().find(|k| k.1.is_some());
    let key = key.map(|k| k.0).or((selection.reward != SetScore::Recall).then_some("reward"));
    if let Some(key) = key.filter(|_| env.group != GroupKind::Masks) {
        let message = format!("`selection.{key}` needs selections that are scored as sets, which `env.group` does not give");
        return Err(loaded.error(&format!("selection.{key}"), message, "has no effect", "set `env.group = \"masks\"`"));
    }
    if selection.reward != SetScore::Recall && (key != Some("reward") || objective.kind.info().needs == Needs::BothActions) {
        let message = "`selection.reward` of blended masks is no sum over lesions, which this objective or constraint needs";
        return Err(loaded.error("selection.reward", message, "expected \"recall\" with it", hint));
    }
    Ok(())
}

/// What a part says about its own table, at the first key of it that the sentence names.
fn part(loaded: &Loaded, table: &str, result: Result<(), impl std::fmt::Display>) -> Result<(), ConfigError> {
    let Err(sentence) = result else { return Ok(()) };
    let sentence = sentence.to_string();
    let words = sentence.split(|c: char| !(c.is_alphanumeric() || "_.".contains(c))).filter(|word| !word.is_empty());
    let named = words.flat_map(|word| [join(table, word), word.to_owned()]).find(|key| loaded.layers.sets(key));
    let hint = format!("`panscreen config explain {table}` lists the keys");
    Err(loaded.error(named.as_deref().unwrap_or(table), format!("[{table}] {sentence}"), "here", &hint))
}
