//! Every refusal and change by the edge: counted by reason, and sampled into the tenant's audit
//! (EDGE-18).
//!
//! What is written here never holds anything of a payload: reasons, topics and names only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde_json::json;

use super::judge::{Blocked, Message};
use crate::broker::Tenancy;
use crate::broker::journal::NewEvent;
use crate::edge::metrics::Metrics;

/// Where samples go, in the tenant's reality `_system`.
pub const TOPIC: &str = "sys.audit.edge";
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
    pub fn blocked(&self, tenancy: &Tenancy, message: &Message<'_>, blocked: &Blocked) {
        self.note(
            tenancy,
            message,
            "blocked",
            blocked.reason,
            blocked.code.as_str(),
        );
    }

    /// Notes that a message was let through otherwise than it came.
    pub fn changed(&self, tenancy: &Tenancy, message: &Message<'_>, reason: &'static str) {
        self.note(tenancy, message, "changed", reason, "");
    }

    /// Notes that a message was let through by a check that only watches, and would have been
    /// refused by it.
    pub fn watched(&self, tenancy: &Tenancy, message: &Message<'_>, reason: &'static str) {
        self.note(tenancy, message, "watched", reason, "");
    }

    fn note(
        &self,
        tenancy: &Tenancy,
        message: &Message<'_>,
        decision: &'static str,
        reason: &'static str,
        code: &str,
    ) {
        self.metrics.decided(decision, reason);
        if self.samples.check().is_err() {
            self.unsampled.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let data = json!({
            "decision": decision,
            "reason": reason,
            "code": code,
            "topic": message.topic,
            "subject": message.sender.subject,
            "trace_id": message.view.trace_id.chars().take(64).collect::<String>(),
            "payload_bytes": message.view.payload.data().len(),
            "unsampled_before": self.unsampled.swap(0, Ordering::Relaxed),
        });
        tenancy.note(NewEvent {
            topic: TOPIC.to_owned(),
            kind: "edge.decision",
            schema: "",
            data: Bytes::from(data.to_string()),
        });
    }
}
