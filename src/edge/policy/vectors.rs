//! Examples of messages and what a policy must make of them, which an author gives along.
//!
//! Owns their form (JSON, see docs/policy-abi.md) and their run: each is judged twice, by a new
//! instance and by a used one, and must come out the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use serde::Deserialize;

use super::engine::Engine;
use super::module::Module;
use super::pool::{Isolation, Policy};
use super::question::Question;
use super::verdict::{Judged, Ruling};
use crate::proto::v1::{Envelope, Event, envelope};
use crate::proto::view::EnvelopeView;

/// Examples of one policy.
const VECTORS_MAX: usize = 256;
/// Length of all of them.
pub const BYTES_MAX: usize = 1 << 20;
/// Examples that failed that are told of.
const FAILURES_MAX: usize = 10;

/// An example.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vector {
    /// What it shows.
    pub name: String,
    /// Where the message goes.
    pub topic: String,
    /// Whose it is.
    pub tenant: String,
    /// Who sends it.
    pub subject: String,
    /// What the sender may do.
    pub role: String,
    /// Who produced it.
    pub producer: String,
    /// The event's type.
    pub kind: String,
    /// The payload's schema.
    pub schema: String,
    /// When, milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Headers of the message.
    pub headers: BTreeMap<String, String>,
    /// The payload, as a text.
    pub payload: Option<String>,
    /// The payload, in base64.
    pub payload_base64: Option<String>,
    /// What must come of it.
    pub expect: Expected,
}

/// What must come of an example. What is left out may be anything.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expected {
    /// `allow`, `deny`, `redact`, `replace`, or a failure such as `policy.timeout`.
    pub outcome: String,
    /// The code of a refusal.
    pub code: Option<String>,
    /// The payload that goes on, as a text.
    pub payload: Option<String>,
    /// The labels, in any order.
    pub tags: Option<Vec<String>>,
}

/// An example that came out otherwise, or no example at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{vector}: {what}")]
pub struct Miss {
    /// Which.
    pub vector: String,
    /// How.
    pub what: String,
}

/// Reads examples: a JSON list of objects.
///
/// # Errors
/// They are none, or too many.
pub fn parse(json: &[u8]) -> Result<Vec<Vector>, Miss> {
    let fail = |what: String| Miss {
        vector: "vectors".to_owned(),
        what,
    };
    if json.len() > BYTES_MAX {
        return Err(fail(format!("longer than {BYTES_MAX} bytes")));
    }
    let vectors: Vec<Vector> = serde_json::from_slice(json)
        .map_err(|error| fail(format!("not a list of test vectors: {error}")))?;
    if vectors.len() > VECTORS_MAX {
        return Err(fail(format!("more than {VECTORS_MAX} of them")));
    }
    Ok(vectors)
}

/// Judges every example; returns the first of those that came out otherwise than expected.
///
/// # Errors
/// The module cannot be made ready with this configuration.
pub fn run(
    engine: &Engine,
    module: &Arc<Module>,
    config: &bytes::Bytes,
    isolation: Isolation,
    vectors: &[Vector],
) -> Result<Vec<Miss>, super::Unfit> {
    let policy = |isolation| Policy::new(engine, Arc::clone(module), config.clone(), isolation);
    let (used, fresh) = (policy(isolation)?, policy(Isolation::Message)?);
    let misses = vectors.iter().enumerate().filter_map(|(index, vector)| {
        let what = vector.miss(&used, &fresh)?;
        let vector = match vector.name.as_str() {
            "" => format!("vectors[{index}]"),
            name => format!(
                "vectors[{index}] ({})",
                name.chars().take(64).collect::<String>()
            ),
        };
        Some(Miss { vector, what })
    });
    Ok(misses.take(FAILURES_MAX).collect())
}

impl Vector {
    /// What comes of the example.
    ///
    /// # Errors
    /// It is no message.
    pub fn judge(&self, policy: &Policy) -> Result<Judged, String> {
        let body = self.body()?;
        let envelope = Envelope {
            topic: self.topic.clone(),
            headers: self.headers.clone().into_iter().collect(),
            payload: Some(envelope::Payload::Event(Event::default())),
            ..Envelope::default()
        };
        let envelope = envelope.encode_to_vec();
        let view = EnvelopeView::parse(&envelope).map_err(|error| error.to_string())?;
        let question = Question {
            topic: &self.topic,
            tenant: &self.tenant,
            subject: &self.subject,
            role: &self.role,
            token_id: "",
            producer: &self.producer,
            kind: &self.kind,
            schema: &self.schema,
            now_ms: self.now_ms,
            headers: view.headers,
        };
        Ok(policy.judge(&question, &body))
    }

    fn body(&self) -> Result<Vec<u8>, String> {
        match (&self.payload, &self.payload_base64) {
            (Some(_), Some(_)) => Err("has both payload and payload_base64".to_owned()),
            (Some(text), None) => Ok(text.clone().into_bytes()),
            (None, Some(encoded)) => BASE64
                .decode(encoded)
                .map_err(|error| format!("payload_base64: {error}")),
            (None, None) => Ok(Vec::new()),
        }
    }

    /// How it comes out otherwise than expected, if it does.
    fn miss(&self, used: &Policy, fresh: &Policy) -> Option<String> {
        let judged = match (self.judge(used), self.judge(fresh)) {
            (Ok(first), Ok(second)) => {
                if (&first.outcome, &first.tags) != (&second.outcome, &second.tags) {
                    return Some(
                        "non-deterministic: a used instance judges otherwise than a new one"
                            .to_owned(),
                    );
                }
                first
            }
            (Err(what), _) | (_, Err(what)) => return Some(what),
        };
        self.expect.miss(&judged)
    }
}

impl Expected {
    /// How `judged` differs from what is expected, if it does.
    #[must_use]
    pub fn miss(&self, judged: &Judged) -> Option<String> {
        let found = match &judged.outcome {
            Ok(ruling) => ruling.as_str(),
            Err(failure) => failure.reason(),
        };
        if self.outcome != found {
            let why = judged.outcome.as_ref().err();
            let why = why
                .map(|failure| format!(": {failure}"))
                .unwrap_or_default();
            return Some(format!("expected {}, found {found}{why}", self.outcome));
        }
        if let (Some(code), Ok(Ruling::Deny(denial))) = (&self.code, &judged.outcome)
            && *code != denial.code
        {
            return Some(format!("expected the code {code}, found {}", denial.code));
        }
        if let Some(payload) = &self.payload {
            let changed = judged.outcome.as_ref().ok().and_then(Ruling::changed);
            if changed.is_none_or(|changed| changed != payload.as_bytes()) {
                return Some("the payload that goes on is another one than expected".to_owned());
            }
        }
        let sorted = |tags: &[String]| {
            let mut tags = tags.to_vec();
            tags.sort();
            tags
        };
        if let Some(tags) = &self.tags
            && sorted(tags) != sorted(&judged.tags)
        {
            let found = judged.tags.join(", ");
            return Some(format!(
                "expected the tags {}, found {found}",
                tags.join(", ")
            ));
        }
        None
    }
}
