//! Settings read again while the node runs (BRK-16).
//!
//! Which settings can change without a restart stands with each of them in [`crate::config`]. What
//! is wrong anywhere changes nothing. What needs a restart stays as it was, and is named each time
//! until the node has been restarted with it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;

use super::seats::Seats;
use super::shield::command::{Call, Handler};
use super::shield::{Fault, Shield};
use crate::broker::verb::{Command, Effect};
use crate::broker::{Broker, Role, maintenance};
use crate::config::{Config, Drain, Limits, Reload, SETTINGS, Setting};
use crate::proto::ErrorCode;
use crate::proto::v1::Value;

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[Command {
    name: "node.reload",
    role: Role::Admin,
    effect: Effect::Changes,
    arguments: &[],
    doc: "Reads the node's settings again, and says which were applied and which need a restart; for admins of the tenant that ops.tenant names.",
    handler: reload,
}];

/// What new sessions are made with, as it is now.
#[derive(Debug)]
pub struct Terms {
    /// What a client may use up.
    pub limits: ArcSwap<Limits>,
    /// What it is told when the node goes down.
    pub drain: ArcSwap<Drain>,
}

impl Terms {
    /// As the settings say.
    #[must_use]
    pub fn of(config: &Config) -> Arc<Self> {
        Arc::new(Self {
            limits: ArcSwap::from_pointee(config.limits.clone()),
            drain: ArcSwap::from_pointee(config.drain.clone()),
        })
    }
}

/// Reads the settings as at the start of the node; says what is wrong with them.
pub type Source = Box<dyn Fn() -> Result<Config, String> + Send + Sync>;
/// Takes another filter for the node's own log; says what is wrong with it.
pub type Filtered = Box<dyn Fn(&str, Doing) -> Result<(), String> + Send + Sync>;

/// Whether something is to be done, or only looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doing {
    /// Nothing changes.
    Try,
    /// It is put in force.
    Apply,
}

/// What settings are applied to.
pub struct Targets {
    /// Its upkeep of logs.
    pub broker: Arc<Broker>,
    /// The rates of its sessions; which holds whoever reads settings.
    pub shield: Weak<Shield>,
    /// How many sessions there may be.
    pub seats: Arc<Seats>,
    /// What new sessions get.
    pub terms: Arc<Terms>,
    /// The filter of the node's own log.
    pub filter: Filtered,
}

impl std::fmt::Debug for Targets {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Targets").finish_non_exhaustive()
    }
}

/// What reading the settings again has come to: names of settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Those that are in force now and were not before.
    pub applied: Vec<String>,
    /// Those that differ and need a restart.
    pub restart: Vec<String>,
    /// How many are as they were.
    pub unchanged: usize,
}

/// Reads settings again, and puts in force what can be.
pub struct Reloader {
    source: Source,
    targets: Targets,
    in_force: Mutex<Config>,
}

impl std::fmt::Debug for Reloader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Reloader").finish_non_exhaustive()
    }
}

impl Reloader {
    /// With what the node was started with.
    #[must_use]
    pub fn new(source: Source, targets: Targets, started_with: Config) -> Arc<Self> {
        Arc::new(Self {
            source,
            targets,
            in_force: Mutex::new(started_with),
        })
    }

    /// Reads the settings, and applies those that can be applied. Blocks on the disk.
    ///
    /// # Errors
    /// What is wrong with them; nothing has changed then.
    pub fn reload(&self) -> Result<Reloaded, String> {
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let read = (self.source)()?;
        let (merged, reloaded) = merge(&in_force, &read)?;
        // All that can fail first.
        let upkeep = maintenance::Options::of(&merged).map_err(|error| error.to_string())?;
        (self.targets.filter)(&merged.trace.filter, Doing::Try)?;
        let Targets {
            broker,
            shield,
            seats,
            terms,
            filter,
        } = &self.targets;
        (filter)(&merged.trace.filter, Doing::Apply)?;
        broker.keep_up(upkeep);
        if let Some(shield) = shield.upgrade() {
            shield.pace(&merged.limits);
        }
        seats.limit(&merged.limits);
        terms.limits.store(Arc::new(merged.limits.clone()));
        terms.drain.store(Arc::new(merged.drain.clone()));
        *in_force = merged;
        Ok(reloaded)
    }
}

/// `now` with what of `read` can be applied, and what that is.
fn merge(now: &Config, read: &Config) -> Result<(Config, Reloaded), String> {
    let values = |config: &Config| {
        serde_json::to_value(config)
            .map_err(|error| format!("the settings cannot be told: {error}"))
    };
    let (mut old, new) = (values(now)?, values(read)?);
    let mut reloaded = Reloaded::default();
    for setting in SETTINGS {
        let path = format!("/{}/{}", setting.section, setting.name);
        let value = new.pointer(&path).cloned().unwrap_or_default();
        let Some(before) = old.pointer_mut(&path) else {
            return Err(format!("{} is not among the settings", setting.key()));
        };
        let same = *before == value && !hidden_differ(setting, now, read);
        match (same, setting.reload) {
            (true, _) => reloaded.unchanged += 1,
            (false, Reload::Live) => {
                *before = value;
                reloaded.applied.push(setting.key());
            }
            (false, Reload::Restart) => reloaded.restart.push(setting.key()),
        }
    }
    let mut merged = now.clone();
    let live = |section: &str| -> Result<serde_json::Value, String> {
        old.get(section)
            .cloned()
            .ok_or_else(|| format!("there is no section {section}"))
    };
    let bad = |error: serde_json::Error| format!("the settings cannot be taken over: {error}");
    // Only sections with settings that can change are read back: others may hide what they hold.
    merged.limits = serde_json::from_value(live("limits")?).map_err(bad)?;
    merged.drain = serde_json::from_value(live("drain")?).map_err(bad)?;
    merged.trace = serde_json::from_value(live("trace")?).map_err(bad)?;
    merged.retention = serde_json::from_value(live("retention")?).map_err(bad)?;
    merged.maintenance = serde_json::from_value(live("maintenance")?).map_err(bad)?;
    merged.audit = serde_json::from_value(live("audit")?).map_err(bad)?;
    merged.log = serde_json::from_value(live("log")?).map_err(bad)?;
    Ok((merged, reloaded))
}

/// Whether a setting differs that is never shown.
fn hidden_differ(setting: &Setting, now: &Config, read: &Config) -> bool {
    match (setting.section, setting.name) {
        ("postgres", "url") => now.postgres.url != read.postgres.url,
        ("valkey", "url") => now.valkey.url != read.valkey.url,
        _ => false,
    }
}

fn reload(call: &Call<'_>) -> Result<Value, Fault> {
    if !call.shield.keeps_the_node(call.caller) {
        let text = "this concerns the whole node, so it is for admins of the tenant that the setting ops.tenant names; without one, send the process SIGHUP";
        return Err(Fault::new(ErrorCode::Forbidden, "", text));
    }
    let reloader = call.shield.reloader().ok_or_else(|| {
        let text = "this node cannot read its settings again";
        Fault::new(ErrorCode::FeatureDisabled, "", text)
    })?;
    let reloaded = reloader
        .reload()
        .map_err(|why| Fault::invalid("settings", format!("nothing was changed: {why}")))?;
    Ok(shown(&reloaded))
}

/// As it is answered and written down.
#[must_use]
pub fn shown(reloaded: &Reloaded) -> Value {
    Value::object([
        (
            "applied",
            reloaded.applied.iter().map(String::as_str).collect(),
        ),
        (
            "needs_restart",
            reloaded.restart.iter().map(String::as_str).collect(),
        ),
        ("unchanged", Value::from(reloaded.unchanged as u64)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    // BRK-16: every setting that is said to change without a restart does in what is put in force.
    #[test]
    fn what_can_change_is_taken_over_and_the_rest_is_named() {
        let now = Config::default();
        let mut read = now.clone();
        read.limits.sessions_max = 7;
        read.limits.message_bytes_max = 4096;
        read.log.compression_level = 9;
        read.log.segment_bytes = 1 << 20;
        read.retention.hold_bytes_max = 5;
        read.trace.filter = "debug".into();
        read.drain.deadline_ms = 500;
        read.audit.retain_s = 100_000;
        let (merged, reloaded) = merge(&now, &read).unwrap();
        assert_eq!(
            reloaded.restart,
            ["log.segment_bytes", "limits.message_bytes_max"]
        );
        assert_eq!(reloaded.applied.len(), 6, "{reloaded:?}");
        assert_eq!(reloaded.unchanged, SETTINGS.len() - 8);
        assert_eq!(merged.limits.sessions_max, 7);
        assert_eq!(
            merged.limits.message_bytes_max,
            now.limits.message_bytes_max
        );
        assert_eq!(merged.log.compression_level, 9);
        assert_eq!(merged.log.segment_bytes, now.log.segment_bytes);
        let (again, reloaded) = merge(&merged, &read).unwrap();
        assert_eq!((again, reloaded.applied.len()), (merged, 0));
        assert_eq!(reloaded.restart.len(), 2, "until it is restarted");

        read.postgres.url = Some(crate::config::Secret::new("postgres://a:b@c/d"));
        let (_, reloaded) = merge(&now, &read).unwrap();
        assert!(reloaded.restart.contains(&"postgres.url".to_owned()));
    }

    // BRK-16: a section that is not read back would be said to be applied, and not be.
    #[test]
    fn live_settings_stand_only_in_sections_that_are_taken_over() {
        let taken = [
            "limits",
            "drain",
            "trace",
            "retention",
            "maintenance",
            "audit",
            "log",
        ];
        for setting in SETTINGS {
            if setting.reload == Reload::Live {
                assert!(taken.contains(&setting.section), "{}", setting.key());
            }
        }
    }
}
