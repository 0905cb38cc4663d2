//! The events of the registry: where they stand, what they are called, and back from there.

use bytes::Bytes;
use prost::Message;
use sha2::{Digest as _, Sha256};

use crate::broker::journal::{Event, NewEvent};
use crate::broker::name;
use crate::edge::shield::Fault;
use crate::proto::ErrorCode;
use crate::proto::v1::{
    SchemaBound, SchemaModeSet, SchemaRegistered, SchemaRetired, SchemaStrictness,
};

const SUBJECTS: &str = "sys.edge.schema.subject.";
const BINDINGS: &str = "sys.edge.schema.binding.";
const STRICTNESS: &str = "sys.edge.schema.strict";

const REGISTERED: &str = "schema.registered";
const MODE_SET: &str = "schema.mode";
const RETIRED: &str = "schema.retired";
const BOUND: &str = "schema.bound";
const STRICT: &str = "schema.strict";

/// What happened to the registry.
#[derive(Debug)]
pub(super) enum Change {
    /// A version came.
    Registered(String, SchemaRegistered),
    /// A mode changed.
    ModeSet(String, SchemaModeSet),
    /// A version went, or came back.
    Retired(String, SchemaRetired),
    /// A pattern was bound, or let go of.
    Bound(SchemaBound),
    /// The tenant became strict, or no longer is.
    Strictness(SchemaStrictness),
}

impl Change {
    /// As it goes into the log.
    pub(super) fn event(&self) -> NewEvent<'static> {
        let (topic, kind, schema, data) = match self {
            Self::Registered(subject, event) => (
                topic_of(subject),
                REGISTERED,
                "arqon.v1.SchemaRegistered",
                event.encode_to_vec(),
            ),
            Self::ModeSet(subject, event) => (
                topic_of(subject),
                MODE_SET,
                "arqon.v1.SchemaModeSet",
                event.encode_to_vec(),
            ),
            Self::Retired(subject, event) => (
                topic_of(subject),
                RETIRED,
                "arqon.v1.SchemaRetired",
                event.encode_to_vec(),
            ),
            Self::Bound(event) => (
                topic_of_binding(&event.pattern),
                BOUND,
                "arqon.v1.SchemaBound",
                event.encode_to_vec(),
            ),
            Self::Strictness(event) => (
                STRICTNESS.to_owned(),
                STRICT,
                "arqon.v1.SchemaStrictness",
                event.encode_to_vec(),
            ),
        };
        NewEvent {
            topic,
            kind,
            schema,
            data: Bytes::from(data),
        }
    }

    /// Back from the log.
    pub(super) fn of(event: &Event<'_>) -> Result<Self, Fault> {
        if event.topic == STRICTNESS && event.kind == STRICT {
            return Ok(Self::Strictness(decoded(event)?));
        }
        if event.topic.starts_with(BINDINGS) && event.kind == BOUND {
            return Ok(Self::Bound(decoded(event)?));
        }
        let subject = event.topic.strip_prefix(SUBJECTS).map(str::to_owned);
        match (subject, event.kind) {
            (Some(subject), REGISTERED) => Ok(Self::Registered(subject, decoded(event)?)),
            (Some(subject), MODE_SET) => Ok(Self::ModeSet(subject, decoded(event)?)),
            (Some(subject), RETIRED) => Ok(Self::Retired(subject, decoded(event)?)),
            _ => {
                let text = format!(
                    "an event {:?} on {} is nothing that this version of the node knows; it was \
                     written by a newer one",
                    event.kind, event.topic
                );
                Err(Fault::new(ErrorCode::FeatureDisabled, "", text))
            }
        }
    }
}

fn decoded<M: Message + Default>(event: &Event<'_>) -> Result<M, Fault> {
    M::decode(event.data).map_err(|error| {
        let text = format!("the event {} on {}: {error}", event.kind, event.topic);
        Fault::new(ErrorCode::StorageFailure, "", text)
    })
}

fn topic_of(subject: &str) -> String {
    format!("{SUBJECTS}{subject}")
}

/// A pattern can hold what a topic cannot; each pattern has a topic of its own all the same, so
/// that the last event on a topic is all that there is to know of it.
fn topic_of_binding(pattern: &str) -> String {
    let digest = Sha256::digest(pattern.as_bytes());
    let hex: String = digest
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{BINDINGS}{hex}")
}

/// Checks the name of a subject: dot-separated tokens, as in a topic, and no `@`.
pub(super) fn check_subject(subject: &str) -> Result<(), Fault> {
    if subject.contains('@') {
        let text =
            "subject: it has an @, which stands before the number of a version; leave it out";
        return Err(Fault::invalid("subject", text));
    }
    let checked = if subject.is_empty() {
        name::check_topic(subject)
    } else {
        name::check_topic(&topic_of(subject))
    };
    checked.map_err(|fault| {
        let text = format!("subject: {fault}; it is written like a topic, for example orders.v1");
        Fault::invalid("subject", text)
    })
}
