//! The queue of realities whose logs are to be reopened after a failure (LOG-02, LOG-06).
//!
//! Commit threads put names in; the broker's repair thread takes them out, each when its back-off
//! has passed. Bounded by the number of realities: a name is in it once.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::name::{RealityName, Tenant};

/// First pause before a log is reopened; doubled after each failure.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Realities waiting to be reopened.
#[derive(Debug, Default)]
pub struct Repairs {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<(Tenant, RealityName), Turn>,
    closed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    at: Instant,
    pause: Duration,
}

/// A reality whose turn has come.
#[derive(Debug)]
pub struct Due {
    /// Whose it is.
    pub tenant: Tenant,
    /// Which one.
    pub reality: RealityName,
    pause: Duration,
}

impl Repairs {
    /// Puts a reality in.
    pub fn wanted(&self, tenant: &Tenant, reality: &RealityName) {
        self.put(tenant.clone(), reality.clone(), PAUSE_FIRST);
    }

    /// Puts a reality back whose reopening failed, with a longer pause.
    pub fn failed(&self, due: Due) {
        let pause = (due.pause * 2).min(PAUSE_MAX);
        self.put(due.tenant, due.reality, pause);
    }

    fn put(&self, tenant: Tenant, reality: RealityName, pause: Duration) {
        let at = Instant::now() + pause;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state
            .waiting
            .entry((tenant, reality))
            .or_insert(Turn { at, pause });
        self.changed.notify_all();
    }

    /// Waits for the next turn; `None` once closed.
    pub fn next(&self) -> Option<Due> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.closed {
                return None;
            }
            let first = state
                .waiting
                .iter()
                .min_by_key(|(_, turn)| turn.at)
                .map(|(name, turn)| (name.clone(), *turn));
            let Some((name, turn)) = first else {
                let changed = self.changed.wait(state);
                state = changed.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = turn.at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.waiting.remove(&name);
                let (tenant, reality) = name;
                return Some(Due {
                    tenant,
                    reality,
                    pause: turn.pause,
                });
            }
            let changed = self.changed.wait_timeout(state, left);
            state = changed.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether the broker is going down.
    #[must_use]
    pub fn closed(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed
    }

    /// Waits for `pause`, or until the broker goes down; whether it does.
    pub fn closes_within(&self, pause: Duration) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(state, pause, |state| !state.closed);
        waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }

    /// Ends the waits of [`Repairs::next`] and [`Repairs::closes_within`] for ever.
    pub fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        self.changed.notify_all();
    }
}
