//! What is counted about policies: for the node's metrics, and for each policy.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::verdict::{Failure, Judged, Ruling};

/// Calls are timed once in so many: a histogram costs as much as an empty policy.
const TIMED_ONE_IN: u64 = 16;
/// So many failures within so long are worth a line in the node's log.
const ALARM_FAILURES: u32 = 10;
const ALARM_WINDOW: Duration = Duration::from_secs(60);

/// What the calls of all policies have come to. Clones count together.
#[derive(Clone, Debug)]
pub struct Tallies {
    /// How long calls took; one in sixteen is timed.
    pub duration: Histogram,
    /// How calls ended.
    pub outcomes: Family<Outcome, Counter>,
    /// Those of `outcomes` that ended with `allow`, which most do: at hand, not to be looked for.
    allowed: Counter,
    /// How shadows ended, beside the policy that judged.
    pub shadows: Family<Outcome, Counter>,
    /// Changes of what is in force that were refused.
    pub refused: Counter,
    /// Lines that policies have logged.
    pub log_lines: Counter,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `allow`, `deny`, `redact`, `replace`, or why it failed; of a shadow, `same` or `different`.
    pub outcome: &'static str,
}

impl Default for Tallies {
    fn default() -> Self {
        let outcomes = Family::<Outcome, Counter>::default();
        let outcome = "allow";
        let allowed = outcomes.get_or_create(&Outcome { outcome }).clone();
        Self {
            duration: Histogram::new(exponential_buckets(0.000_000_25, 2.0, 16)),
            outcomes,
            allowed,
            shadows: Family::default(),
            refused: Counter::default(),
            log_lines: Counter::default(),
        }
    }
}

impl Tallies {
    /// Counts how a call ended.
    pub(super) fn call(&self, judged: &Judged) {
        let outcome = match &judged.outcome {
            Ok(Ruling::Allow) => {
                self.allowed.inc();
                return;
            }
            Ok(ruling) => ruling.as_str(),
            Err(failure) => failure.reason(),
        };
        self.outcomes.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts how a shadow ended.
    pub(super) fn shadow(&self, outcome: &'static str) {
        self.shadows.get_or_create(&Outcome { outcome }).inc();
    }
}

/// What the calls of one policy have come to, since it was put in force or the node started.
#[derive(Debug, Default)]
pub struct Tally {
    /// All of them.
    pub calls: AtomicU64,
    /// Those that refused the message.
    pub denied: AtomicU64,
    /// Those that changed the payload.
    pub changed: AtomicU64,
    /// Those that came to no decision.
    pub failed: AtomicU64,
    /// Those whose answer broke the ABI: such a version is faulty.
    pub faulty: AtomicU64,
    /// Where it runs in the shadow: those that agree with the one in force.
    pub same: AtomicU64,
    /// And those that do not.
    pub different: AtomicU64,
    recent: Mutex<Option<(Instant, u32)>>,
}

impl Tally {
    /// Notes that a call came to no decision; whether that has happened so often that somebody
    /// should hear of it, once a minute.
    pub(super) fn alarms(&self) -> bool {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (since, failures) = match *recent {
            Some((since, failures)) if now.duration_since(since) < ALARM_WINDOW => {
                (since, failures)
            }
            _ => (now, 0),
        };
        let failures = failures.saturating_add(1);
        *recent = Some((since, failures));
        failures == ALARM_FAILURES
    }

    /// Counts a call; whether it is one to be timed.
    pub(super) fn begin(&self) -> bool {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        calls.is_multiple_of(TIMED_ONE_IN)
    }

    /// Counts how it ended.
    pub(super) fn end(&self, judged: &Judged) {
        let counters: &[&AtomicU64] = match &judged.outcome {
            Ok(Ruling::Allow) => &[],
            Ok(Ruling::Deny(_)) => &[&self.denied],
            Ok(Ruling::Redact(_) | Ruling::Replace(_)) => &[&self.changed],
            Err(Failure::Abi(_)) => &[&self.failed, &self.faulty],
            Err(_) => &[&self.failed],
        };
        for counter in counters {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}
