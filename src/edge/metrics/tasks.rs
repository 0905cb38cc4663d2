//! What has become of operators' tasks, for Prometheus.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Counters of tasks, taken over from the broker when somebody looks.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    dispatched: Counter,
    given: Counter,
    redelivered: Counter,
    done: Counter,
    failed: Counter,
    breaches: Counter,
    dead: Counter,
    expired: Counter,
    done_ms: Counter,
}

impl Tasks {
    pub(super) fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in self.all() {
            registry.register(name, help, counter.clone());
        }
    }

    fn all(&self) -> [(&'static str, &'static str, &Counter); 9] {
        [
            (
                "tasks_dispatched",
                "Tasks that were dispatched to operators",
                &self.dispatched,
            ),
            (
                "tasks_given",
                "Times that a task was given to an operator",
                &self.given,
            ),
            (
                "tasks_redelivered",
                "Of those, not for the first time",
                &self.redelivered,
            ),
            ("tasks_done", "Tasks that are done", &self.done),
            (
                "tasks_failed",
                "Attempts at tasks that came to nothing",
                &self.failed,
            ),
            (
                "tasks_outputs_refused",
                "Outputs that did not fit their schema",
                &self.breaches,
            ),
            ("tasks_dead", "Tasks that failed for good", &self.dead),
            (
                "tasks_expired",
                "Tasks whose deadline passed",
                &self.expired,
            ),
            (
                "tasks_done_milliseconds",
                "From dispatch to result, of tasks that one operator did",
                &self.done_ms,
            ),
        ]
    }

    /// Takes over what has been counted, in the order of the metrics.
    pub fn set(&self, counts: [u64; 9]) {
        for ((_, _, counter), count) in self.all().into_iter().zip(counts) {
            let inner: &AtomicU64 = counter.inner();
            inner.fetch_max(count, Ordering::Relaxed);
        }
    }
}
