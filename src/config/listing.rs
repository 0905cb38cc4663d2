//! Shows settings: as a table, as JSON, and as the reference in docs/configuration.md.
//!
//! Owns the forms; the table of settings is the only source. Must not load anything.

use std::fmt::Write as _;

use comfy_table::{ContentArrangement, Table, presets};
use figment::value::Value;
use serde_json::json;

use super::layers::Loaded;
use super::{Config, Reload, SECTIONS, SETTINGS, Setting};

/// A value as a person writes it.
#[must_use]
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(_, text) => text.clone(),
        other => serde_json::to_string(other).unwrap_or_default(),
    }
}

fn value_in(config: &serde_json::Value, setting: &Setting) -> serde_json::Value {
    config
        .get(setting.section)
        .and_then(|section| section.get(setting.name))
        .cloned()
        .unwrap_or_default()
}

fn as_text(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "(unset)".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Every setting with its value and origin, for people.
///
/// # Errors
/// A value that JSON cannot express, such as a path that is not UTF-8.
pub fn table(loaded: &Loaded) -> Result<String, serde_json::Error> {
    let config = serde_json::to_value(&loaded.config)?;
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["SETTING", "VALUE", "ORIGIN"]);
    for (setting, origin) in SETTINGS.iter().zip(&loaded.origins) {
        table.add_row([
            setting.key(),
            as_text(&value_in(&config, setting)),
            origin.to_string(),
        ]);
    }
    Ok(table.trim_fmt())
}

/// The same for machines: `{"settings":[{"key","value","origin"}]}`.
///
/// # Errors
/// As [`table`].
pub fn json(loaded: &Loaded) -> Result<serde_json::Value, serde_json::Error> {
    let config = serde_json::to_value(&loaded.config)?;
    let settings: Vec<_> = SETTINGS
        .iter()
        .zip(&loaded.origins)
        .map(|(setting, origin)| {
            json!({
                "key": setting.key(),
                "value": value_in(&config, setting),
                "origin": origin.to_string(),
            })
        })
        .collect();
    Ok(json!({ "settings": settings }))
}

/// docs/configuration.md.
///
/// # Errors
/// Never in practice: all defaults can be expressed in JSON.
pub fn markdown() -> Result<String, serde_json::Error> {
    let defaults = serde_json::to_value(Config::default())?;
    let mut text = PREAMBLE.to_owned();
    for (section, doc) in SECTIONS {
        let doc = doc.trim();
        write!(text, "\n## [{section}]\n\n{doc}\n\n| setting | default | allowed | changes | what it does |\n| --- | --- | --- | --- | --- |\n")
            .map_err(serde::ser::Error::custom)?;
        for setting in SETTINGS
            .iter()
            .filter(|setting| setting.section == *section)
        {
            let default = as_text(&value_in(&defaults, setting));
            let changes = match setting.reload {
                Reload::Live => "live",
                Reload::Restart => "restart",
            };
            let (name, bound, doc) = (setting.name, setting.bound, setting.doc.trim());
            writeln!(
                text,
                "| `{name}` | `{default}` | {bound} | {changes} | {doc} |"
            )
            .map_err(serde::ser::Error::custom)?;
        }
    }
    Ok(text)
}

const PREAMBLE: &str = "\
# Configuration

Written by `arqonbus config --markdown`; edit `src/config.rs` instead.

A setting comes from, the later winning: its default; the file `arqonbus.toml` in the working
directory, or the one given with `--config FILE`; an environment variable
`ARQONBUS_<SECTION>_<NAME>` (or with `__` between the two), for example
`ARQONBUS_EDGE_LISTEN=127.0.0.1:9100`; a flag. An unknown name is an error, also in the
environment, except for variables that container platforms make from a service's name
(`ARQONBUS_SERVICE_HOST` and the like) and those of this project's own scripts and tests
(`ARQONBUS_PYTHON`, `ARQONBUS_TARGET_DIR`, `ARQONBUS_PROFILE`, `ARQONBUS_BENCH_DIR`,
`ARQONBUS_KILL_ROUNDS`, `ARQONBUS_SEED`, `ARQONBUS_SEEDS`, `ARQONBUS_WRITE_GOLDEN`).
`ARQONBUS_MASTER_KEYS` holds master keys themselves and is no setting, so it is never shown.
`arqonbus config` shows every value with its origin.

Settings are read when the node starts, and again on SIGHUP and on the command `node.reload`
(`arqon node reload`): those that change `live` are in force then, sessions that are open keep
theirs, and the answer names those that need a `restart`. One that is wrong changes nothing. Times are in the unit that ends the name, sizes in
bytes. A relative path in a file starts from the file's directory. Keys are never settings: a
setting names the file that holds them. A URL that may hold a password is shown as `(hidden)`
wherever settings are shown.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers;

    #[test]
    fn the_reference_is_up_to_date() {
        let committed =
            std::fs::read_to_string("docs/configuration.md").expect("docs/configuration.md");
        assert!(
            committed == markdown().expect("the reference"),
            "run `cargo run -- config --markdown > docs/configuration.md`"
        );
    }

    #[test]
    fn every_default_is_within_its_bound() {
        let loaded = layers::load(None, [], &[]).expect("defaults are valid");
        let json = json(&loaded).expect("JSON");
        assert_eq!(
            json["settings"].as_array().map(Vec::len),
            Some(SETTINGS.len())
        );
        let table = table(&loaded).expect("a table");
        assert!(
            table.contains("edge.listen") && table.contains("default"),
            "{table}"
        );
    }
}
