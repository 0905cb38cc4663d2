//! What stands between a message with a later time and the log: how many may wait, how long, and
//! that somebody will look after it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::NAME;
use super::places::{Change, Places};
use super::waiting::Waiting;
use crate::broker::error::Error;
use crate::broker::{Broker, Reality, Tenancy};
use crate::log::{Micros, Sequence};

/// Bounds of what waits in one reality.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most messages that wait.
    pub waiting_max: usize,
    /// How far ahead a message may be sent.
    pub ahead_max_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            waiting_max: 100_000,
            ahead_max_ms: 366 * 24 * 60 * 60 * 1_000,
        }
    }
}

/// What waits in one reality, and what is on its way there.
#[derive(Debug)]
pub(in crate::broker) struct Later {
    limits: Limits,
    waiting: Mutex<Waiting>,
    counts: Mutex<Counts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// The tenant's events say that something may wait here.
    is_marked: bool,
    /// What waits, by the last look.
    waiting: usize,
    /// Let in since the log was opened,
    let_in: u64,
    /// and found in it since.
    found: u64,
}

impl Counts {
    /// On their way into the log.
    const fn under_way(self) -> u64 {
        self.let_in.saturating_sub(self.found)
    }
}

impl Later {
    /// Of a log that ends at `end`.
    pub(in crate::broker) fn new(limits: Limits, end: Sequence) -> Self {
        Self {
            limits,
            waiting: Mutex::new(Waiting::new(end)),
            counts: Mutex::default(),
        }
    }

    pub(super) fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a message may wait until `deliver_at`, in milliseconds, with `others` of its batch.
    pub(in crate::broker) fn check(
        &self,
        deliver_at: u64,
        now: Micros,
        others: usize,
    ) -> Result<(), Refusal> {
        let ahead = deliver_at.saturating_sub(now.as_millis());
        if ahead > self.limits.ahead_max_ms {
            let limit_s = self.limits.ahead_max_ms / 1_000;
            return Err(Refusal::TooFar { limit_s });
        }
        let counts = self.counts();
        let limit = self.limits.waiting_max;
        let under_way = usize::try_from(counts.under_way()).unwrap_or(usize::MAX);
        if counts
            .waiting
            .saturating_add(under_way)
            .saturating_add(others)
            >= limit
        {
            return Err(Refusal::Full { limit });
        }
        Ok(())
    }

    /// Notes what waits now.
    pub(super) fn settle(&self, waiting: &Waiting) {
        let mut counts = self.counts();
        counts.waiting = waiting.len();
        counts.found = waiting.found();
    }

    /// What was let in was not appended.
    fn retract(&self, count: usize) {
        let mut counts = self.counts();
        counts.let_in = counts.let_in.saturating_sub(count as u64);
    }

    /// Says in the tenant's events that nothing waits here any more, if that is so: `is_empty` is
    /// asked while nobody is let in. Blocks.
    pub(super) fn unmark(
        &self,
        tenancy: &Tenancy,
        reality: &Reality,
        is_empty: impl FnOnce() -> bool,
    ) -> Result<bool, Error> {
        let mut counts = self.counts();
        if counts.under_way() > 0 || !is_empty() {
            return Ok(false);
        }
        let name = reality.name().as_str();
        tenancy.ledger::<Places>().change(|places| {
            let gone = places.holds(name).then(|| Change::Empty.event(name));
            Ok(((), gone.into_iter().collect()))
        })?;
        counts.is_marked = false;
        Ok(true)
    }
}

/// Why a message may not wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::broker) enum Refusal {
    /// For so long.
    TooFar { limit_s: u64 },
    /// With so many others.
    Full { limit: usize },
}

/// Sees to it that `count` messages that are about to be appended to `reality` are looked after,
/// after a crash too. Blocks on the disk for the first of a reality.
///
/// # Errors
/// That cannot be recorded; then they must not be appended.
pub fn announce(
    broker: &Broker,
    tenancy: &Arc<Tenancy>,
    reality: &Reality,
    count: usize,
) -> Result<(), Error> {
    let mut counts = reality.later().counts();
    if !counts.is_marked {
        let name = reality.name().as_str();
        tenancy.ledger::<Places>().change(|places| {
            let new = (!places.holds(name)).then(|| Change::Used.event(name));
            Ok(((), new.into_iter().collect()))
        })?;
        counts.is_marked = true;
    }
    counts.let_in += count as u64;
    drop(counts);
    broker.duties().wake(tenancy.tenant(), NAME);
    Ok(())
}

/// Messages that were announced were not appended after all.
pub fn retract(reality: &Reality, count: usize) {
    reality.later().retract(count);
}

/// Whether [`announce`] need not go to the disk.
#[must_use]
pub fn is_announced(reality: &Reality) -> bool {
    reality.later().counts().is_marked
}
