//! Every refusal, change and finding of the edge: counted by reason, and sampled into the tenant's
//! audit (EDGE-18).
//!
//! What is written here never holds anything of a payload: reasons, topics and names only, and of
//! these, which senders choose, none that looks like a secret.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde_json::json;

use super::judge::{Blocked, Findings, Message};
use super::rules::Rules;
use crate::broker::Tenancy;
use crate::broker::journal::NewEvent;
use crate::edge::casil::redaction::TOKEN;
use crate::edge::metrics::Metrics;

/// Where samples go, in the tenant's reality `_system`.
pub const TOPIC: &str = "sys.audit.edge";
/// Of a name that a sender chooses.
const NAME_CHARS_MAX: usize = 255;
/// Samples a second, and at once, of one tenant.
const SAMPLES_PER_SECOND: std::num::NonZeroU32 = std::num::NonZeroU32::new(10).unwrap();
const SAMPLES_AT_ONCE: std::num::NonZeroU32 = std::num::NonZeroU32::new(100).unwrap();

/// The decisions about one tenant's messages.
#[derive(Debug)]
pub struct Decisions {
    metrics: Arc<Metrics>,
    samples: DefaultDirectRateLimiter,
    /// Since the last sample.
    unsampled: AtomicU64,
}

impl Decisions {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let quota = Quota::per_second(SAMPLES_PER_SECOND).allow_burst(SAMPLES_AT_ONCE);
        Self {
            metrics,
            samples: RateLimiter::direct(quota),
            unsampled: AtomicU64::new(0),
        }
    }

    /// Notes that a message was refused.
    pub fn blocked(
        &self,
        tenancy: &Tenancy,
        rules: &Rules,
        message: &Message<'_>,
        blocked: &Blocked,
    ) {
        let (reason, code) = (blocked.reason, blocked.code.as_str());
        self.metrics.decided("blocked", reason);
        let why = blocked.told.as_ref().unwrap_or(&blocked.message);
        let said = [("code", code), ("field", &blocked.field), ("why", why)];
        self.sample(tenancy, rules, message, ["blocked", reason], &said);
    }

    /// Notes what there is to say of a message that was let through: that it was changed, or that
    /// something was found in it.
    pub fn passed(
        &self,
        tenancy: &Tenancy,
        rules: &Rules,
        message: &Message<'_>,
        findings: &Findings,
    ) {
        if findings.is_changed() {
            let reason = findings.changed_by();
            self.metrics.decided("changed", reason);
            let found = found(findings);
            self.sample(
                tenancy,
                rules,
                message,
                ["changed", reason],
                &[("found", &found)],
            );
        }
        if let Some(reason) = findings.noticed {
            self.metrics.decided("noticed", reason);
            if findings.notice_sampled {
                let found = found(findings);
                self.sample(
                    tenancy,
                    rules,
                    message,
                    ["noticed", reason],
                    &[("found", &found)],
                );
            }
        }
        for reason in &findings.watched {
            self.metrics.decided("watched", reason);
            self.sample(tenancy, rules, message, ["watched", reason], &[]);
        }
    }

    fn sample(
        &self,
        tenancy: &Tenancy,
        rules: &Rules,
        message: &Message<'_>,
        [decision, reason]: [&str; 2],
        said: &[(&str, &str)],
    ) {
        if self.samples.check().is_err() {
            self.unsampled.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let shown = |name: &str| {
            let short = name.char_indices().nth(NAME_CHARS_MAX);
            let short = short.and_then(|(end, _)| name.get(..end)).unwrap_or(name);
            // A name is looked at as a whole, so that a cut hides nothing.
            let clean = rules.casil.shown(name).is_some();
            if clean {
                short.to_owned()
            } else {
                TOKEN.to_owned()
            }
        };
        let mut data = json!({
            "decision": decision,
            "reason": reason,
            "topic": shown(message.topic),
            "subject": shown(&message.sender.subject),
            "trace_id": shown(message.view.trace_id),
            "payload_bytes": message.view.payload.data().len(),
            "unsampled_before": self.unsampled.swap(0, Ordering::Relaxed),
        });
        for (name, text) in said.iter().filter(|(_, text)| !text.is_empty()) {
            data[*name] = shown(text).into();
        }
        tenancy.note(NewEvent {
            topic: TOPIC.to_owned(),
            kind: "edge.decision",
            schema: "",
            data: Bytes::from(data.to_string()),
        });
    }
}

/// What has been found out about a message that was let through, in words of the node.
fn found(findings: &Findings) -> String {
    let classified = findings.classification.iter();
    let classified = classified.flat_map(|one| one.flags.iter().map(String::as_str));
    let flags = findings.flags.iter().map(AsRef::as_ref).chain(classified);
    flags.collect::<Vec<_>>().join(", ")
}
