//! Which payloads are well-formed: the schema registry (EDGE-13).
//!
//! A fold of the tenant's events `sys.edge.schema.>` over the schemas in the node's settings.
//!
//! - [`definition`]: what a version says, checked and made ready; [`table`] and [`walk`] for
//!   protobuf, [`json`] for JSON Schema, whose work `work` bounds;
//!   [`violation`]: what is wrong with a payload.
//! - [`subject`]: versions of one kind of payload; [`compatibility`]: which may follow which.
//! - [`binding`]: which topics a subject is for, and the check of one payload; [`pattern`]: the
//!   binding of a topic.
//! - [`payloads`]: payloads as JSON, for whoever keeps tables of them.
//! - `journal`: the events; [`command`]: the commands; [`files`]: the schemas of the settings.
//!
//! Validation is never off by accident: what cannot be read stops the start, or blocks.

pub mod binding;
pub mod command;
pub mod compatibility;
pub mod contracts;
pub mod definition;
pub mod files;
mod journal;
pub mod json;
pub mod pattern;
pub mod payloads;
pub mod subject;
pub mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod verdict_tests;
pub mod violation;
pub mod walk;
#[cfg(test)]
mod walk_tests;
mod work;

use std::collections::HashMap;
use std::sync::Arc;

pub use self::command::COMMANDS;

use self::binding::{Bound, Misfit};
use self::compatibility::Mode;
use self::definition::Definition;
use self::files::Files;
use self::journal::Change;
use self::pattern::Patterns;
use self::subject::{Subject, Version};
use crate::broker::Filter;
use crate::broker::journal::Event;
use crate::config::{self, Config, SchemaLevel, UnknownFields};
use crate::edge::shield::{Blocked, Fault, Findings, Message};
use crate::log::Micros;
use crate::proto::ErrorCode;
use crate::proto::v1::{SchemaBound, SchemaRegistered, schema_bound, schema_registered};

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct Schemas {
    settings: Arc<config::Schema>,
    files: Arc<Files>,
    /// Whether the tenant is strict by an event of its own.
    strict: bool,
    subjects: HashMap<Arc<str>, Arc<Subject>>,
    bindings: Patterns<Bound>,
}

/// What a payload was held against.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    version: u64,
    /// Why it would have been refused, were it not only watched.
    watched: Option<&'static str>,
}

impl Schemas {
    /// What the node's settings put in force for every tenant.
    ///
    /// # Errors
    /// Everything in them that cannot be.
    pub fn of_node(config: &Config) -> Result<Self, Vec<Fault>> {
        Ok(Self {
            settings: Arc::new(config.schema.clone()),
            files: Arc::new(Files::read(&config.schema.files)?),
            ..Self::default()
        })
    }

    /// Whether there is nothing to check.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.is_strict() && self.bindings.is_empty() && self.files.is_empty()
    }

    /// Whether topics without a schema are refused.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.strict || self.settings.strict
    }

    /// Applies an event.
    ///
    /// # Errors
    /// Why it cannot be put in force.
    pub fn apply(&mut self, event: &Event<'_>) -> Result<(), Fault> {
        match Change::of(event)? {
            Change::Registered(subject, change) => self.register(&subject, &change, event.at),
            Change::ModeSet(subject, change) => {
                let mode = mode_of(change.mode)?;
                self.change(&subject, change.newest, |subject| {
                    subject.mode = mode;
                    Ok(())
                })
            }
            Change::Retired(subject, change) => self.change(&subject, change.newest, |subject| {
                let number = change.version;
                let mut versions = subject.versions.iter_mut();
                let found = versions.find(|version| version.number == number);
                let version = found.ok_or_else(|| no_version(number))?;
                version.retired = !change.restored;
                Ok(())
            }),
            Change::Bound(change) => self.bind(&change),
            Change::Strictness(change) => {
                self.strict = change.strict;
                Ok(())
            }
        }
    }

    fn register(
        &mut self,
        subject: &str,
        change: &SchemaRegistered,
        at: Micros,
    ) -> Result<(), Fault> {
        let definition = match &change.form {
            Some(schema_registered::Form::Protobuf(form)) => {
                Definition::protobuf(&form.descriptors, &form.message)
            }
            Some(schema_registered::Form::Json(text)) => Definition::json(text),
            None => return Err(newer("a form of schema")),
        };
        let definition = definition
            .map_err(|unusable| Fault::invalid(unusable.field(), unusable.to_string()))?;
        let mode = mode_of(change.mode)?;
        let known = self.subjects.get(subject);
        let mut next = known.map_or_else(|| Subject::new(mode), |known| Subject::clone(known));
        // An event that was lost or could not be applied leaves a gap, and nothing follows a gap.
        if change.version != next.newest() + 1 || mode != next.mode {
            return Err(moved_on(subject));
        }
        next.versions.push(Version {
            number: change.version,
            definition: Arc::new(definition),
            retired: false,
            at,
        });
        self.subjects.insert(subject.into(), Arc::new(next));
        Ok(())
    }

    fn change(
        &mut self,
        name: &str,
        newest: u64,
        change: impl FnOnce(&mut Subject) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let subject = self.subjects.get_mut(name);
        let subject = subject.ok_or_else(|| no_subject(name))?;
        if subject.newest() != newest {
            return Err(moved_on(name));
        }
        change(Arc::make_mut(subject))
    }

    fn bind(&mut self, change: &SchemaBound) -> Result<(), Fault> {
        let pattern = Filter::new(&change.pattern).map_err(|fault| {
            let text = format!("pattern: {fault}");
            Fault::invalid("pattern", text)
        })?;
        if change.subject.is_empty() {
            self.bindings.unbind(&pattern);
            return Ok(());
        }
        let known = self.subjects.get_key_value(change.subject.as_str());
        let (subject, _) = known.ok_or_else(|| no_subject(&change.subject))?;
        let level = match change.level() {
            schema_bound::Level::Reject => SchemaLevel::Reject,
            schema_bound::Level::Monitor => SchemaLevel::Monitor,
            schema_bound::Level::Unspecified => return Err(newer("a level")),
        };
        let unknown = match change.unknown() {
            schema_bound::Unknown::Reject => UnknownFields::Reject,
            schema_bound::Unknown::Keep => UnknownFields::Keep,
            schema_bound::Unknown::Unspecified => return Err(newer("a rule for unknown fields")),
        };
        let bound = Bound {
            pattern: pattern.clone(),
            subject: Arc::clone(subject),
            level,
            unknown,
            empty_allowed: change.empty_allowed,
            by_header: true,
        };
        self.bindings.bind(&pattern, bound);
        Ok(())
    }

    /// Holds a payload against its schema.
    ///
    /// # Errors
    /// It does not fit, or there is none and one is needed.
    pub fn check(&self, message: &Message<'_>, findings: &mut Findings) -> Result<(), Blocked> {
        match self.hold(message, message.view.payload.data())? {
            Some(held) => {
                findings.schema_version = held.version;
                if let Some(reason) = held.watched {
                    findings.flags.push("schema.violation".into());
                    findings.watched.push(reason);
                }
                Ok(())
            }
            None if self.is_strict() => {
                let text = "no schema is bound to the topic, and schemas are required here; an admin binds one with `arqon schema push --pattern` or `arqon schema bind`";
                let code = ErrorCode::SchemaViolation;
                Err(Blocked::new(code, "schema.missing", text).at("topic"))
            }
            None => Ok(()),
        }
    }

    /// Holds a payload that another check has changed against its schema.
    ///
    /// # Errors
    /// It does not fit any more.
    pub fn check_changed(&self, message: &Message<'_>, findings: &Findings) -> Result<(), Blocked> {
        match self.hold(message, findings.data(message)) {
            Ok(_held) => Ok(()),
            Err(blocked) => {
                let text = format!(
                    "the payload no longer fits its schema after it was changed ({}): {}",
                    findings.changed_by(),
                    blocked.message
                );
                let code = ErrorCode::PolicyFailure;
                Err(Blocked::new(code, "policy.redaction", text).at(blocked.field))
            }
        }
    }

    /// Holds `data` against what the node and the tenant have bound to the message's topic; `None`
    /// if that is nothing.
    fn hold(&self, message: &Message<'_>, data: &[u8]) -> Result<Option<Held>, Blocked> {
        let mut held = None;
        if let Some((bound, subject)) = self.files.of(message.topic) {
            held = Some(self.one(bound, subject, message, data)?);
        }
        if let Some(bound) = self.bindings.of(message.topic) {
            let subject = self.subjects.get(&bound.subject).ok_or_else(|| {
                let text = format!("subject {} is bound and not there", bound.subject);
                Blocked::new(ErrorCode::SchemaViolation, "schema.missing", text)
            })?;
            let own = self.one(bound, subject, message, data)?;
            held = Some(Held {
                version: own.version,
                watched: own.watched.or(held.and_then(|held| held.watched)),
            });
        }
        Ok(held)
    }

    fn one(
        &self,
        bound: &Bound,
        subject: &Subject,
        message: &Message<'_>,
        data: &[u8],
    ) -> Result<Held, Blocked> {
        match bound.hold(subject, message.view, data) {
            Ok(version) => Ok(Held {
                version,
                watched: None,
            }),
            // Where schemas are required, to watch one is not enough.
            Err(Misfit { reason, .. })
                if bound.level == SchemaLevel::Monitor && !self.is_strict() =>
            {
                Ok(Held {
                    version: 0,
                    watched: Some(reason),
                })
            }
            Err(misfit) => Err(misfit.into()),
        }
    }
}

fn mode_of(stored: i32) -> Result<Mode, Fault> {
    Mode::of_stored(stored).ok_or_else(|| newer("a mode"))
}

fn newer(what: &str) -> Fault {
    let text = format!("{what} that this version of the node does not know; a newer one wrote it");
    Fault::new(ErrorCode::FeatureDisabled, "", text)
}

fn moved_on(subject: &str) -> Fault {
    let text = format!("{subject} has been changed by somebody else meanwhile; look and try again");
    Fault {
        retry_after_ms: 1,
        ..Fault::new(ErrorCode::ValidationError, "subject", text)
    }
}

fn no_subject(name: &str) -> Fault {
    let name: String = name.chars().take(255).collect();
    let text = format!("there is no subject {name:?}; `arqon schema list` names all");
    Fault::new(ErrorCode::NotFound, "subject", text)
}

fn no_version(number: u64) -> Fault {
    let text = format!("there is no version {number}; `arqon schema show` names all");
    Fault::new(ErrorCode::NotFound, "version", text)
}
