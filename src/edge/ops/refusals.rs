//! Whoever was turned away at the operations listener, in the audit of the node (BRK-13): a sample,
//! so that nobody without a token fills the disk.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::broker::Broker;
use crate::edge::shield::Fault;
use crate::proto::ErrorCode;
use crate::proto::v1::Value;

/// Samples a second, and at once.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(10).unwrap();
const AT_ONCE: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// Those who were turned away.
#[derive(Debug)]
pub struct Refusals {
    samples: DefaultDirectRateLimiter,
    /// Since the last sample.
    left_out: AtomicU64,
}

impl Default for Refusals {
    fn default() -> Self {
        let quota = Quota::per_second(PER_SECOND).allow_burst(AT_ONCE);
        Self {
            samples: RateLimiter::direct(quota),
            left_out: AtomicU64::new(0),
        }
    }
}

impl Refusals {
    /// Writes down that somebody was turned away for the token, without waiting for it.
    pub(super) fn note(&self, broker: &Arc<Broker>, from: &Arc<str>, fault: &Fault) {
        if fault.code != ErrorCode::Unauthenticated && fault.code != ErrorCode::Forbidden {
            return;
        }
        if self.samples.check().is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let about = Value::object([
            ("code", Value::from(fault.code.as_str())),
            ("field", fault.field.as_str().into()),
            (
                "left_out_before",
                self.left_out.swap(0, Ordering::Relaxed).into(),
            ),
        ]);
        let (broker, from) = (Arc::clone(broker), Arc::clone(from));
        drop(tokio::task::spawn_blocking(move || {
            broker.audit_of_node(&from, "token.refused", about);
        }));
    }
}
