//! What is counted of webhooks. Taken over from the broker when it is asked for; no tenant's name
//! and no URL is in it.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::broker::operators::webhook::Totals;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// The counts.
#[derive(Debug, Default)]
pub struct Sent {
    events: Family<Outcome, Counter>,
    rules: Gauge,
    open_breakers: Gauge,
}

impl Sent {
    /// Adds them to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "webhook_events",
            "Attempts to send events to URLs that were taken or failed, and events that became dead letters",
            self.events.clone(),
        );
        registry.register(
            "webhook_rules",
            "Webhooks that were at work",
            self.rules.clone(),
        );
        registry.register(
            "webhook_open_breakers",
            "Webhooks whose circuit breaker is not closed",
            self.open_breakers.clone(),
        );
    }

    /// Takes over what the broker has counted; never lowered.
    pub fn measure(&self, totals: &Totals) {
        for (outcome, count) in [
            ("delivered", totals.delivered),
            ("failed", totals.failed),
            ("dead_letter", totals.dead_letters),
        ] {
            let counter = self.events.get_or_create(&Outcome { outcome });
            let inner: &AtomicU64 = counter.inner();
            inner.fetch_max(count, Ordering::Relaxed);
        }
        for (gauge, value) in [
            (&self.rules, totals.rules),
            (&self.open_breakers, totals.open_breakers),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}
