//! Named connections in `$XDG_CONFIG_HOME/arqon/contexts.toml`, readable by their owner alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use anyhow::Context as _;
use arqonbus::client::{ConnectOptions, Tls};
use clap::{Args, Subcommand};
use figment::Figment;
use figment::providers::{Format as _, Toml};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::failure::Failure;
use crate::{Output, table};

/// Keep URLs and tokens under names, and choose between them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon context add dev --url ws://127.0.0.1:9100/v1/ws --token \"$(cat data/dev-token)\"
  arqon context add plant --url wss://broker.example/v1/ws --ca ca.pem --cert me.pem --cert-key me.key
  arqon context use dev
  arqon --context staging tail '>'")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a context, or change one; it becomes the active one if there is none
    #[command(after_help = "\
Example:
  arqon context add dev --url ws://127.0.0.1:9100/v1/ws --token \"$(cat data/dev-token)\"")]
    Add(Addition),
    /// Make a context the active one
    #[command(after_help = "Example:\n  arqon context use dev")]
    Use {
        /// Its name
        name: String,
    },
    /// Show all contexts, without their tokens
    #[command(after_help = "Example:\n  arqon context list --output json")]
    List,
    /// Forget a context
    #[command(after_help = "Example:\n  arqon context remove dev")]
    Remove {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Args)]
struct Addition {
    /// Its name
    name: String,
}

/// The file's content.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profiles {
    #[serde(default)]
    active: Option<String>,
    #[serde(default)]
    context: BTreeMap<String, Profile>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    pub(crate) url: String,
    #[serde(default)]
    pub(crate) token: Option<String>,
    #[serde(default)]
    pub(crate) reality: Option<String>,
    #[serde(default)]
    pub(crate) ca: Option<PathBuf>,
    #[serde(default)]
    pub(crate) cert: Option<PathBuf>,
    #[serde(default)]
    pub(crate) cert_key: Option<PathBuf>,
}

impl Profiles {
    pub(crate) fn load() -> anyhow::Result<Self> {
        let Some(path) = path().filter(|path| path.exists()) else {
            return Ok(Self::default());
        };
        Figment::from(Toml::file_exact(&path))
            .extract()
            .map_err(|error| {
                Failure::configuration(format!("{} cannot be read: {error}", path.display())).into()
            })
    }

    /// The context named, else the active one, else none.
    pub(crate) fn chosen(&self, name: Option<&str>) -> anyhow::Result<Option<&Profile>> {
        let Some(name) = name.or(self.active.as_deref()) else {
            return Ok(None);
        };
        let found = self.context.get(name).ok_or_else(|| self.missing(name))?;
        Ok(Some(found))
    }

    /// Says what was done to a context.
    fn tell(&self, done: &str, name: &str, output: Output) -> anyhow::Result<()> {
        let active = self.active.as_deref();
        let text = match (output, active) {
            (Output::Json, _) => json!({ "name": name, "done": done, "active": active }),
            (Output::Text, Some(active)) => {
                format!("context `{name}` {done}; the active one is `{active}`").into()
            }
            (Output::Text, None) => format!("context `{name}` {done}; none is active").into(),
        };
        table::print(&text, output)
    }

    fn missing(&self, name: &str) -> Failure {
        let names: Vec<&str> = self.context.keys().map(String::as_str).collect();
        Failure::usage(format!(
            "there is no context `{name}`; there is: {}",
            names.join(", ")
        ))
    }

    fn to_toml(&self) -> Result<String, serde_json::Error> {
        let mut text = String::new();
        // A JSON string is a TOML basic string.
        let quoted = |value: &str| serde_json::to_string(value);
        let mut line = |name: &str, value: &str| writeln!(text, "{name} = {value}").is_ok();
        if let Some(active) = &self.active {
            line("active", &quoted(active)?);
        }
        for (name, profile) in &self.context {
            let table = format!("context.{}.", quoted(name)?);
            line(&format!("{table}url"), &quoted(&profile.url)?);
            for (key, value) in [("token", &profile.token), ("reality", &profile.reality)] {
                if let Some(value) = value {
                    line(&format!("{table}{key}"), &quoted(value)?);
                }
            }
            let files = [
                ("ca", &profile.ca),
                ("cert", &profile.cert),
                ("cert_key", &profile.cert_key),
            ];
            for (key, path) in files {
                // A path that is no text is taken for what it is nearest to, and then not found.
                if let Some(path) = path {
                    line(&format!("{table}{key}"), &quoted(&path.to_string_lossy())?);
                }
            }
        }
        Ok(text)
    }

    fn save(&self) -> anyhow::Result<()> {
        let path = path().ok_or_else(|| {
            Failure::configuration("neither XDG_CONFIG_HOME nor HOME says where contexts are kept")
        })?;
        let writing = || format!("writing {}", path.display());
        let dir = path.parent().with_context(writing)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(writing)?;
        let draft = path.with_extension("toml.new");
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&draft).with_context(writing)?;
        file.write_all(self.to_toml()?.as_bytes())
            .with_context(writing)?;
        file.sync_all().with_context(writing)?;
        arqonbus::log::fsync::rename(&draft, &path).with_context(writing)?;
        Ok(())
    }
}

fn path() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = set("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".config")))?;
    Some(base.join("arqon/contexts.toml"))
}

pub(crate) fn run(
    target: &crate::connection::Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let mut profiles = Profiles::load()?;
    match arguments.action {
        Action::Add(Addition { name }) => {
            let profile = target.given()?.ok_or_else(|| {
                Failure::usage("a context needs --url, like wss://HOST:9100/v1/ws")
            })?;
            let token = profile.token.clone().unwrap_or_default();
            let mut options = ConnectOptions::new(&profile.url, token);
            options.tls = Tls {
                ca: profile.ca.clone(),
                certificate: profile.cert.clone(),
                key: profile.cert_key.clone(),
            };
            options
                .check()
                .map_err(|error| Failure::usage(error.to_string()))?;
            profiles.context.insert(name.clone(), profile);
            profiles.active.get_or_insert(name.clone());
            profiles.save()?;
            profiles.tell("kept", &name, output)
        }
        Action::Use { name } => {
            if !profiles.context.contains_key(&name) {
                return Err(profiles.missing(&name).into());
            }
            profiles.active = Some(name.clone());
            profiles.save()?;
            profiles.tell("in use", &name, output)
        }
        Action::Remove { name } => {
            if profiles.context.remove(&name).is_none() {
                return Err(profiles.missing(&name).into());
            }
            if profiles.active.as_deref() == Some(&name) {
                profiles.active = None;
            }
            profiles.save()?;
            profiles.tell("removed", &name, output)
        }
        Action::List => {
            let active = profiles.active.as_deref();
            let rows = profiles.context.iter().map(|(name, profile)| {
                json!({
                    "name": name,
                    "active": active == Some(name.as_str()),
                    "url": profile.url,
                    "reality": profile.reality.as_deref().unwrap_or("main"),
                    "token": if profile.token.is_some() { "set" } else { "none" },
                    "certificate": if profile.cert.is_some() { "set" } else { "none" },
                })
            });
            table::print(&rows.collect::<serde_json::Value>(), output)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_read_as_they_are_written() {
        let profile = Profile {
            url: "ws://h/\"x\"".into(),
            token: Some("a.b\\c".into()),
            reality: None,
            ca: Some("/etc/my ca.pem".into()),
            cert: None,
            cert_key: None,
        };
        let profiles = Profiles {
            active: Some("my dev".into()),
            context: [("my dev".to_owned(), profile)].into(),
        };
        let text = profiles.to_toml().unwrap();
        let read: Profiles = Figment::from(Toml::string(&text)).extract().unwrap();
        assert_eq!(read.active.as_deref(), Some("my dev"));
        let found = read.chosen(None).unwrap().unwrap();
        assert_eq!(
            (found.url.as_str(), found.token.as_deref()),
            ("ws://h/\"x\"", Some("a.b\\c"))
        );
        assert_eq!(
            found.ca.as_deref(),
            Some(std::path::Path::new("/etc/my ca.pem"))
        );
        assert!(read.chosen(Some("other")).is_err());
    }
}
