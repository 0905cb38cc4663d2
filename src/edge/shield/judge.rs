//! The order of the checks on one message, and what they leave in its record.
//!
//! Size, decoding, tenant, topic ([`crate::broker::accept`]) and rate ([`crate::edge::rate`], for a
//! whole batch at once) are checked before; here follow the boundary to Reflex, signature, schema, CASIL and the chain of
//! policies. A step that cannot decide blocks.

use std::borrow::Cow;

use bytes::Bytes;
use prost::Message as _;

use super::rules::Rules;
use crate::broker::Identity;
use crate::proto::ErrorCode;
use crate::proto::v1::{Classification, Verdict};
use crate::proto::view::EnvelopeView;

/// A message that its sender may publish.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Who sends it.
    pub sender: &'a Identity,
    /// Where it goes.
    pub topic: &'a str,
    /// What it says.
    pub view: &'a EnvelopeView<'a>,
    /// Wall clock, milliseconds since the Unix epoch.
    pub now_ms: u64,
}

impl Message<'_> {
    /// Who produces it: what the envelope names, else the sender.
    #[must_use]
    pub fn producer(&self) -> &str {
        match self.view.producer_id {
            "" => &self.sender.subject,
            named => named,
        }
    }
}

/// Why a message is not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// What it is called on the wire.
    pub code: ErrorCode,
    /// Stable short name of the reason, for metrics and audit: `policy.trap`.
    pub reason: &'static str,
    /// The part of the envelope at fault, as a path from the envelope.
    pub field: Cow<'static, str>,
    /// For the sender; quotes nothing of the payload.
    pub message: String,
    /// How long to wait before sending it again, in milliseconds; 0 = it will not help.
    pub retry_after_ms: u64,
    /// What the audit says instead of `message`, where that is somebody else's text.
    pub told: Option<String>,
}

impl Blocked {
    /// For good.
    pub fn new(code: ErrorCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            field: Cow::Borrowed(""),
            message: message.into(),
            retry_after_ms: 0,
            told: None,
        }
    }

    /// The same, naming the part at fault.
    #[must_use]
    pub fn at(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = field.into();
        self
    }
}

/// What the checks have found out about a message so far.
#[derive(Debug, Default)]
pub struct Findings {
    /// The payload that goes on, where a check has changed it.
    pub data: Option<Bytes>,
    /// The headers that go on, all of them, where a check has changed one.
    pub headers: Option<Vec<(String, String)>>,
    /// Reasons of the checks that have changed it, for metrics and audit.
    pub changes: Vec<&'static str>,
    /// Reasons why it would have been refused by checks that only watch, for metrics and audit.
    pub watched: Vec<&'static str>,
    /// SHA-256 of the policies that judged it.
    pub policy_digest: Option<[u8; 32]>,
    /// Version of its schema; 0 = none.
    pub schema_version: u64,
    /// What else there is to say.
    pub flags: Vec<Cow<'static, str>>,
    /// What the inspection of its content says.
    pub classification: Option<Classification>,
    /// What was found in it and left as it is.
    pub noticed: Option<&'static str>,
    /// Whether that goes into the audit, or is counted only.
    pub notice_sampled: bool,
}

impl Findings {
    /// The payload as it is now.
    #[must_use]
    pub fn data<'a>(&'a self, message: &Message<'a>) -> &'a [u8] {
        match &self.data {
            Some(changed) => changed,
            None => message.view.payload.data(),
        }
    }

    /// Whether what is stored differs from what came.
    #[must_use]
    pub const fn is_changed(&self) -> bool {
        self.data.is_some() || self.headers.is_some()
    }

    /// What changed it first.
    #[must_use]
    pub fn changed_by(&self) -> &'static str {
        self.changes.first().copied().unwrap_or("changed")
    }

    fn clear(&mut self) {
        self.data = None;
        self.headers = None;
        self.noticed = None;
        self.changes.clear();
        self.watched.clear();
        self.policy_digest = None;
        self.schema_version = 0;
        self.flags.clear();
        self.classification = None;
    }
}

/// What judging one message leaves; kept for the next one for its memory.
#[derive(Debug, Default)]
pub struct Judgement {
    /// What has been found out.
    pub findings: Findings,
    verdict: Vec<u8>,
}

impl Judgement {
    /// Judges a message by `rules`.
    ///
    /// # Errors
    /// Why it must not be stored.
    pub fn pass(&mut self, rules: &Rules, message: &Message<'_>) -> Result<(), Blocked> {
        self.findings.clear();
        self.verdict.clear();
        if let Some(reason) = rules.unfit() {
            tracing::debug!(reason, "refused: the rules are unfit");
            let text = "what the edge has in force for this tenant cannot be established; an admin sees why with `arqon edge status`";
            return Err(Blocked::new(ErrorCode::PolicyFailure, "edge.unfit", text));
        }
        rules.reflex.check(message, message.view.payload.data())?;
        if rules.is_idle() {
            return Ok(());
        }
        let findings = &mut self.findings;
        rules.signatures.check(message, findings)?;
        rules.schemas.check(message, findings)?;
        rules.casil.inspect(message, findings)?;
        rules.policies.judge(message, findings)?;
        if findings.data.is_some() {
            rules.schemas.check_changed(message, findings)?;
            rules.reflex.check(message, findings.data(message))?;
        }
        self.stamp(rules.revision);
        Ok(())
    }

    /// The encoded `arqon.v1.Verdict`; empty if nothing judged.
    #[must_use]
    pub fn verdict(&self) -> &[u8] {
        &self.verdict
    }

    /// The envelope to be stored: the producer's bytes, unless something of it was changed.
    #[must_use]
    pub fn envelope(&self, encoded: &Bytes, view: &EnvelopeView<'_>) -> Bytes {
        let Findings { data, headers, .. } = &self.findings;
        if self.findings.is_changed() {
            view.rewritten(data.as_deref(), headers.as_deref()).into()
        } else {
            encoded.clone()
        }
    }

    fn stamp(&mut self, revision: u64) {
        let findings = &mut self.findings;
        let digest = findings.policy_digest.map(|digest| digest.to_vec());
        let verdict = Verdict {
            policy_digest: digest.unwrap_or_default().into(),
            policy_version: revision,
            schema_version: findings.schema_version,
            flags: findings.flags.iter().map(|flag| flag.to_string()).collect(),
            classification: findings.classification.take(),
        };
        // A Vec takes any length.
        let encoded = verdict.encode(&mut self.verdict);
        debug_assert!(encoded.is_ok(), "a vector takes any length");
        // For those who tell what was found.
        self.findings.classification = verdict.classification;
    }
}
