//! Who can do what: the operators of a tenant, a fold of the events `sys.op.sam.<group>` (OPS-01,
//! OPS-14).
//!
//! What the fold says of an operator is what was true when its last event was written. Whether it
//! is connected is known by the floor alone, so that after a crash nobody counts as ready who is
//! not there.

use std::collections::BTreeMap;

use semver::Version;
use serde::{Deserialize, Serialize};

use super::manifest::Manifest;
use super::refused::Refused;
use crate::broker::journal::{self, NewEvent};
use crate::broker::ledger::{self, Unfit};
use crate::log::Micros;
use crate::proto::ErrorCode;

/// What the topics of the registry begin with.
pub const PREFIX: &str = "sys.op.sam.";
/// Most operators of a group that are remembered after they have gone.
const GONE_MAX: usize = 256;

/// How an operator stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has been let in.
    Announced,
    /// It gets tasks.
    Ready,
    /// It finishes those that it has.
    Draining,
    /// It has broken its contract, and gets none until somebody releases it.
    Quarantined,
    /// It is not connected.
    Gone,
}

impl State {
    /// As it is shown, and as an event's type after `operator.`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Quarantined => "quarantined",
            Self::Gone => "gone",
        }
    }
}

/// What has happened to an operator or a group.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum Event {
    /// One was let in.
    Announced {
        /// What it says of itself.
        manifest: Box<Manifest>,
        /// The subject of its token.
        by: String,
    },
    /// One stands otherwise from now on.
    Stands {
        /// Its instance.
        instance: String,
        /// How.
        state: State,
        /// Why.
        why: String,
    },
    /// All tasks before this have ended.
    Settled {
        /// The first that may be open.
        first_open: u64,
    },
}

impl Event {
    /// The event of a group, to be recorded.
    #[must_use]
    pub fn record(&self, group: &str) -> NewEvent<'static> {
        let kind = match self {
            Self::Announced { .. } => "operator.announced",
            Self::Stands { state, .. } => match state {
                State::Announced => "operator.announced",
                State::Ready => "operator.ready",
                State::Draining => "operator.draining",
                State::Quarantined => "operator.quarantined",
                State::Gone => "operator.gone",
            },
            Self::Settled { .. } => "tasks.settled",
        };
        NewEvent {
            topic: format!("{PREFIX}{group}"),
            kind,
            schema: "",
            // Nothing in it can fail to be written: keys are texts, numbers are whole.
            data: serde_json::to_vec(self).unwrap_or_default().into(),
        }
    }
}

impl ledger::State for Registry {
    const NAME: &'static str = "sam";
    const VERSION: u32 = 1;
    const TOPICS: &'static [&'static str] = &["sys.op.sam.*"];

    fn apply(&mut self, event: &journal::Event<'_>) -> Result<(), Unfit> {
        let group = event.topic.strip_prefix(PREFIX);
        let group = group.ok_or_else(|| Unfit::new("not a topic of operators"))?;
        let read = serde_json::from_slice(event.data).map_err(Unfit::new)?;
        self.take(group, read, event.at);
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn load(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// An operator that has been there.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Known {
    /// What it said of itself last.
    pub manifest: Manifest,
    /// The subject of its token.
    pub by: String,
    /// How it stands.
    pub state: State,
    /// Since when.
    pub since: u64,
    /// Why.
    pub why: String,
}

/// A group that has had operators or tasks.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Group {
    /// Its operators, by instance.
    pub operators: BTreeMap<String, Known>,
    /// The highest version that has joined.
    pub highest: Option<Version>,
    /// Nobody joins with a lower one.
    pub no_regress: bool,
    /// All tasks before this have ended.
    pub first_open: u64,
}

/// All groups of a tenant.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Registry {
    /// By name.
    pub groups: BTreeMap<String, Group>,
}

impl Registry {
    /// Applies an event of a group.
    pub fn take(&mut self, group: &str, event: Event, at: Micros) {
        let group = self.groups.entry(group.to_owned()).or_default();
        match event {
            Event::Announced { manifest, by } => group.announce(*manifest, by, at),
            Event::Stands {
                instance,
                state,
                why,
            } => {
                if let Some(known) = group.operators.get_mut(&instance) {
                    known.state = state;
                    known.since = at.0;
                    known.why = why;
                }
                group.forget();
            }
            Event::Settled { first_open } => group.first_open = group.first_open.max(first_open),
        }
    }

    /// Whether an operator may join, as far as its group's past goes.
    ///
    /// # Errors
    /// It is in quarantine, or its version is lower than it may be.
    pub fn admit(&self, manifest: &Manifest) -> Result<(), Refused> {
        let Some(group) = self.groups.get(&manifest.group) else {
            return Ok(());
        };
        if let Some(known) = group.operators.get(&manifest.instance)
            && known.state == State::Quarantined
        {
            let text = format!(
                "instance {} is in quarantine: {}; an operator can let it out with operators.release",
                manifest.instance, known.why
            );
            return Err(Refused::new(ErrorCode::Forbidden, "instance", text));
        }
        let highest = group.highest.as_ref();
        if let Some(highest) = highest.filter(|highest| **highest > manifest.version)
            && (group.no_regress || manifest.no_regress)
        {
            let text = format!(
                "version is {}, and group {} takes none below {highest}",
                manifest.version, manifest.group
            );
            return Err(Refused::invalid("version", text));
        }
        Ok(())
    }
}

impl Group {
    fn announce(&mut self, manifest: Manifest, by: String, at: Micros) {
        self.no_regress |= manifest.no_regress;
        if self
            .highest
            .as_ref()
            .is_none_or(|highest| *highest < manifest.version)
        {
            self.highest = Some(manifest.version.clone());
        }
        let known = Known {
            by,
            state: State::Announced,
            since: at.0,
            why: String::new(),
            manifest,
        };
        self.operators
            .insert(known.manifest.instance.clone(), known);
        self.forget();
    }

    /// Bounds what is remembered of those that have gone: names come from outside.
    fn forget(&mut self) {
        let gone = |known: &&Known| known.state == State::Gone;
        while self.operators.values().filter(gone).count() > GONE_MAX {
            let gone = self.operators.values().filter(gone);
            let Some(oldest) = gone.min_by_key(|known| known.since) else {
                return;
            };
            let oldest = oldest.manifest.instance.clone();
            self.operators.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::join;
    use super::*;

    fn manifest(instance: &str, version: &str, no_regress: bool) -> Manifest {
        let mut asked = join(instance);
        asked.version = version.into();
        asked.no_regress = no_regress;
        Manifest::read(asked).unwrap()
    }

    fn announced(registry: &mut Registry, manifest: &Manifest, at: u64) {
        let event = Event::Announced {
            manifest: Box::new(manifest.clone()),
            by: "bob".into(),
        };
        registry.take("g", event, Micros(at));
    }

    fn stands(registry: &mut Registry, instance: &str, state: State, at: u64) {
        let event = Event::Stands {
            instance: instance.into(),
            state,
            why: "why".into(),
        };
        registry.take("g", event, Micros(at));
    }

    // OPS-01
    #[test]
    fn a_group_that_says_so_takes_no_older_version() {
        let mut registry = Registry::default();
        announced(&mut registry, &manifest("a", "2.0.0", false), 1);
        let older = manifest("b", "1.9.9", false);
        registry.admit(&older).unwrap();
        announced(&mut registry, &manifest("c", "1.0.0", true), 2);
        let refused = registry.admit(&older).unwrap_err();
        assert_eq!(refused.field, "version");
        assert!(refused.message.contains("2.0.0"), "{refused}");
        // A release goes before its own candidates.
        assert!(registry.admit(&manifest("b", "2.0.0-rc.1", false)).is_err());
        registry.admit(&manifest("b", "2.0.0", false)).unwrap();
    }

    // OPS-01
    #[test]
    fn quarantine_outlasts_the_connection() {
        let mut registry = Registry::default();
        let one = manifest("a", "1.0.0", false);
        announced(&mut registry, &one, 1);
        stands(&mut registry, "a", State::Quarantined, 2);
        let refused = registry.admit(&one).unwrap_err();
        assert_eq!(
            (refused.code, refused.field.as_str()),
            (ErrorCode::Forbidden, "instance")
        );
        stands(&mut registry, "a", State::Gone, 3);
        registry.admit(&one).unwrap();
    }

    // OPS-01, BRK-18
    #[test]
    fn those_that_have_gone_are_remembered_up_to_a_bound() {
        let mut registry = Registry::default();
        for at in 0..GONE_MAX as u64 + 10 {
            let instance = format!("i{at}");
            announced(&mut registry, &manifest(&instance, "1.0.0", false), at);
            stands(&mut registry, &instance, State::Gone, at);
        }
        let group = &registry.groups["g"];
        assert_eq!(group.operators.len(), GONE_MAX);
        assert!(!group.operators.contains_key("i9") && group.operators.contains_key("i10"));
    }

    // OPS-14
    #[test]
    fn events_are_read_as_they_were_written() {
        let events = [
            Event::Announced {
                manifest: Box::new(manifest("a", "1.0.0-rc.1+x", true)),
                by: "bob".into(),
            },
            Event::Stands {
                instance: "a".into(),
                state: State::Draining,
                why: "why".into(),
            },
            Event::Settled { first_open: 7 },
        ];
        for event in events {
            let text = serde_json::to_vec(&event).unwrap();
            let read: Event = serde_json::from_slice(&text).unwrap();
            assert_eq!(read, event);
        }
    }
}
