//! Everything that the edge has in force for one tenant, as one value.
//!
//! Cloning it is cheap: each part is shared until an event changes it. An event that cannot be
//! applied makes the rules unfit, and unfit rules block everything, until a later event on the same
//! topic replaces it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;

use crate::broker::journal::Event;
use crate::broker::{self, Identity, Role};
use crate::config::Config;
use crate::edge::casil::Casil;
use crate::edge::metrics::Metrics;
use crate::edge::mirror::Mirrors;
use crate::edge::policy::{self, Policies};
use crate::edge::rate::TopicRates;
use crate::edge::reflex::Boundary;
use crate::edge::revocation::{self, Revocations, Standing};
use crate::edge::schema::Schemas;
use crate::edge::signature::Signatures;
use crate::proto::ErrorCode;
use crate::proto::v1::LossAccepted;

/// The topics whose events change what is in force.
pub const TOPICS: &str = "sys.edge.>";
/// What they begin with.
pub const TOPIC_PREFIX: &str = "sys.edge.";
/// What the topics begin with on which losses are accepted.
pub(super) const LOSS_PREFIX: &str = "sys.edge.loss.";
/// Stands for events that could not be read at all.
const UNREAD: &str = "";

/// Why something cannot be put in force, or a command not be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What it is called on the wire.
    pub code: ErrorCode,
    /// The part at fault, as a path; empty if it is none in particular.
    pub field: String,
    /// For a person.
    pub message: String,
    /// How long to wait before the same may be tried again, in milliseconds; 0 = it will not help.
    pub retry_after_ms: u64,
}

impl Fault {
    /// One that trying again does not cure.
    pub fn new(code: ErrorCode, field: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            field: field.to_owned(),
            message: message.into(),
            retry_after_ms: 0,
        }
    }

    /// A value that breaks a rule.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ValidationError, field, message)
    }
}

impl From<broker::Error> for Fault {
    fn from(error: broker::Error) -> Self {
        Self {
            code: error.code(),
            field: error.field(),
            retry_after_ms: error.retry_after_ms(),
            message: error.to_string(),
        }
    }
}

/// What is used to make rules, shared by all tenants: engines and caches.
#[derive(Debug)]
pub struct Workshop {
    /// Compiles policy modules, each once.
    pub engine: policy::Engine,
}

impl Workshop {
    /// Makes the tools ready.
    ///
    /// # Errors
    /// What does not work on this machine.
    pub fn new(config: &Config, metrics: &Metrics) -> Result<Self, Vec<Fault>> {
        let limits = policy::Limits::of(config);
        let engine = policy::Engine::open(limits, metrics.policies.clone());
        let unable = |error: policy::Unable| {
            let code = ErrorCode::PolicyFailure;
            vec![Fault::new(code, "policy", error.to_string())]
        };
        let engine = engine.map_err(unable)?;
        Ok(Self { engine })
    }
}

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Sequence, in the tenant's reality `_system`, of the last event in force; 0 = none.
    pub revision: u64,
    /// Which payloads are well-formed.
    pub schemas: Arc<Schemas>,
    /// What may not be in a payload.
    pub casil: Arc<Casil>,
    /// Wasm modules that judge payloads.
    pub policies: Arc<Policies>,
    /// What is copied where.
    pub mirrors: Arc<Mirrors>,
    /// Whose payloads must be signed.
    pub signatures: Arc<Signatures>,
    /// How much of it there may be.
    pub rates: Arc<TopicRates>,
    /// What may be said on the topics of Reflex.
    pub reflex: Boundary,
    /// Who may no longer come in.
    pub revocations: Arc<Revocations>,
    /// Topics whose last event could not be applied, and why.
    unfit: Arc<BTreeMap<String, String>>,
    /// What of the tenant's events is in force, by part.
    folded: Arc<BTreeMap<String, Folded>>,
    /// Ranges of the tenant's system log that are lost, any of which may have held events.
    lost: Arc<BTreeSet<(u64, u64)>>,
    /// Those that an admin goes on without.
    accepted: Arc<BTreeSet<(u64, u64)>>,
    /// Nothing of what judges messages is in force, so that there is nothing to do and to stamp.
    idle: bool,
}

/// The events of one part that are in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    /// How many there have been.
    pub events: u64,
    /// Sequence of the last.
    pub last: u64,
}

impl Rules {
    /// What the node's own settings put in force for every tenant.
    ///
    /// # Errors
    /// Everything in them that cannot be.
    pub fn of_node(config: &Config, workshop: &Workshop) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut rules = Self {
            reflex: Boundary::of_node(config),
            ..Self::default()
        };
        match Schemas::of_node(config) {
            Ok(schemas) => rules.schemas = Arc::new(schemas),
            Err(found) => faults.extend(found),
        }
        match Casil::of_node(config) {
            Ok(casil) => rules.casil = Arc::new(casil),
            Err(found) => faults.extend(found),
        }
        match Policies::of_node(config, workshop) {
            Ok(policies) => rules.policies = Arc::new(policies),
            Err(found) => faults.extend(found),
        }
        rules.revocations = Arc::new(Revocations::of_node(config));
        rules.settle();
        if faults.is_empty() {
            Ok(rules)
        } else {
            Err(faults)
        }
    }

    /// Applies an event. What it puts in force is ready after [`Self::prepare`].
    ///
    /// # Errors
    /// Why it cannot be; the rules must then be given up.
    pub fn apply(&mut self, event: &Event<'_>) -> Result<(), Fault> {
        let unknown = || {
            let text = format!(
                "{} is nothing that this version of the node knows; it was written by a newer one",
                event.topic
            );
            Fault::new(ErrorCode::FeatureDisabled, "", text)
        };
        let rest = event.topic.strip_prefix(TOPIC_PREFIX);
        let rest = rest.ok_or_else(unknown)?;
        let (part, _) = rest.split_once('.').unwrap_or((rest, ""));
        match part {
            "schema" => Arc::make_mut(&mut self.schemas).apply(event)?,
            "casil" => Arc::make_mut(&mut self.casil).apply(event)?,
            "policy" => Arc::make_mut(&mut self.policies).apply(event)?,
            "mirror" => Arc::make_mut(&mut self.mirrors).apply(event)?,
            "signature" => Arc::make_mut(&mut self.signatures).apply(event)?,
            "rate" => Arc::make_mut(&mut self.rates).apply(event)?,
            "revocation" => Arc::make_mut(&mut self.revocations).apply(event)?,
            "loss" => self.accept(event)?,
            _ => return Err(unknown()),
        }
        self.revision = event.sequence.get();
        let folded = Arc::make_mut(&mut self.folded);
        let folded = folded.entry(part.to_owned()).or_default();
        folded.events += 1;
        folded.last = self.revision;
        self.settle();
        Ok(())
    }

    /// Applies an event that is in the log, and is in force whether it can be applied or not.
    pub(super) fn fold(&mut self, event: &Event<'_>) {
        let mut changed = self.clone();
        match changed.apply(event) {
            Ok(()) => {
                *self = changed;
                if self.unfit.contains_key(event.topic) {
                    Arc::make_mut(&mut self.unfit).remove(event.topic);
                }
            }
            Err(fault) => {
                tracing::error!(topic = event.topic, sequence = event.sequence.get(), %fault, "what is in the log cannot be put in force; everything is refused");
                let reason = format!("{} cannot be put in force: {fault}", event.topic);
                Arc::make_mut(&mut self.unfit).insert(event.topic.to_owned(), reason);
            }
        }
    }

    /// Makes ready what the events so far have put in force, which compiles what is new; returns
    /// the topics of those that cannot be in force after all.
    pub fn prepare(&mut self, workshop: &Workshop) -> Vec<(String, Fault)> {
        Arc::make_mut(&mut self.policies).prepare(&workshop.engine)
    }

    /// The same for events that are in the log, and are in force whether they can be or not.
    pub(super) fn prepare_all(&mut self, workshop: &Workshop) {
        for (topic, fault) in self.prepare(workshop) {
            tracing::error!(topic, %fault, "what is in the log cannot be put in force; everything is refused");
            let reason = format!("{topic} cannot be put in force: {fault}");
            Arc::make_mut(&mut self.unfit).insert(topic, reason);
        }
    }

    fn accept(&mut self, event: &Event<'_>) -> Result<(), Fault> {
        let accepted = LossAccepted::decode(event.data);
        let accepted = accepted.map_err(|error| Fault::invalid("data", error.to_string()))?;
        let range = (accepted.first, accepted.last);
        Arc::make_mut(&mut self.accepted).insert(range);
        Ok(())
    }

    /// Notes ranges of the tenant's system log that are lost. As long as nobody has said to go on
    /// without them, everything is blocked: they may have held a ban, or a policy.
    pub(super) fn miss(&mut self, lost: Vec<(u64, u64)>) {
        if !lost.is_empty() {
            Arc::make_mut(&mut self.lost).extend(lost);
        }
        let missing = self.missing().next();
        match missing {
            None => self.found(),
            Some((first, last)) => self.lose(&format!(
                "events {first} to {last} of the tenant's system log are lost; repair the log if it takes no writes (`arqon log repair --reality _system`), then go on without them by `arqon edge accept-loss`"
            )),
        }
    }

    /// Ranges that are lost, and that nobody has said to go on without.
    pub(super) fn missing(&self) -> impl Iterator<Item = (u64, u64)> {
        let accepted = |lost: &(u64, u64)| {
            let mut accepted = self.accepted.iter();
            accepted.any(|range| range.0 <= lost.0 && lost.1 <= range.1)
        };
        self.lost
            .iter()
            .filter(move |lost| !accepted(lost))
            .copied()
    }

    /// Notes that events could not be read.
    pub(super) fn lose(&mut self, reason: &str) {
        Arc::make_mut(&mut self.unfit).insert(UNREAD.to_owned(), reason.to_owned());
    }

    /// Notes that all events could be read.
    pub(super) fn found(&mut self) {
        if self.unfit.contains_key(UNREAD) {
            Arc::make_mut(&mut self.unfit).remove(UNREAD);
        }
    }

    /// Whether events could not be read.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.unfit.contains_key(UNREAD)
    }

    /// What a verified token is worth. Where its revocation cannot be told, operators and admins
    /// come in all the same: nobody else could repair what is broken.
    #[must_use]
    pub fn standing(&self, identity: &Identity) -> Standing {
        if self.revocations.revoked(identity).is_some() {
            return Standing::Revoked;
        }
        let unsure =
            |topic: &String| topic == UNREAD || topic.starts_with(revocation::TOPIC_PREFIX);
        if !identity.role.includes(Role::Operator) && self.unfit.keys().any(unsure) {
            return Standing::Unknown;
        }
        Standing::Good
    }

    /// Why everything is blocked, if it is.
    #[must_use]
    pub fn unfit(&self) -> Option<&str> {
        self.unfit.values().next().map(String::as_str)
    }

    /// All that cannot be put in force, by topic, and why. Without a topic: what could not be read.
    pub fn unfit_topics(&self) -> impl Iterator<Item = (&str, &str)> {
        let unfit = self.unfit.iter();
        unfit.map(|(topic, reason)| (topic.as_str(), reason.as_str()))
    }

    /// What of the tenant's events is in force, by part.
    pub fn parts(&self) -> impl Iterator<Item = (&str, Folded)> {
        let folded = self.folded.iter();
        folded.map(|(part, folded)| (part.as_str(), *folded))
    }

    /// Whether there is nothing to judge by.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.idle
    }

    fn settle(&mut self) {
        self.idle = self.schemas.is_idle()
            && self.casil.is_idle()
            && self.policies.is_idle()
            && self.signatures.is_idle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Tenant, Topics};
    use crate::log::{Micros, Sequence};

    fn bearer(role: Role) -> Identity {
        Identity {
            tenant: Tenant::new("t").unwrap(),
            subject: "s".into(),
            role,
            publish: Topics::All,
            subscribe: Topics::All,
            expires_at: None,
            issued_at: Some(Micros(1)),
            token_id: None,
            ends_by: None,
        }
    }

    // EDGE-05: where a revocation may have been missed, only those come in who can repair it.
    #[test]
    fn where_revocations_cannot_be_told_only_operators_and_admins_come_in() {
        let config = Config::default();
        let metrics = Metrics::new();
        let workshop = Workshop::new(&config, &metrics).unwrap();
        let rules = || Rules::of_node(&config, &workshop).unwrap();
        let event = |topic| Event {
            sequence: Sequence::FIRST,
            at: Micros(2),
            topic,
            kind: "later",
            data: b"\xff",
        };
        let mut unread = rules();
        unread.lose("damaged");
        let mut unknown = rules();
        unknown.fold(&event("sys.edge.revocation.later.x"));
        for rules in [&unread, &unknown] {
            assert!(rules.unfit().is_some());
            for role in [Role::User, Role::Controller] {
                assert_eq!(rules.standing(&bearer(role)), Standing::Unknown);
            }
            for role in [Role::Operator, Role::Admin] {
                assert_eq!(rules.standing(&bearer(role)), Standing::Good);
            }
        }
        // What is unfit elsewhere blocks messages, and says nothing of tokens.
        let mut elsewhere = rules();
        elsewhere.fold(&event("sys.edge.nothing.x"));
        assert!(elsewhere.unfit().is_some());
        assert_eq!(elsewhere.standing(&bearer(Role::User)), Standing::Good);
        assert_eq!(rules().standing(&bearer(Role::User)), Standing::Good);
    }
}
