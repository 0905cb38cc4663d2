//! The live sessions of one tenant, so that a revocation ends those it means.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::broker::Identity;
use crate::edge::revocation::Revocations;

/// Whoever can be told that its session is over.
pub trait Ended: Send + Sync {
    /// The session must end; `reason` is the close frame's.
    fn end(&self, reason: &'static str);
}

struct Present {
    identity: Arc<Identity>,
    session: Arc<dyn Ended>,
}

/// The sessions of one tenant.
#[derive(Default)]
pub struct Roll {
    present: Mutex<(u64, HashMap<u64, Present>)>,
}

impl fmt::Debug for Roll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roll").field("len", &self.len()).finish()
    }
}

impl Roll {
    /// Notes a session; the number takes it out again. What is revoked already must be checked by
    /// the caller afterwards.
    pub fn enter(&self, identity: Arc<Identity>, session: Arc<dyn Ended>) -> u64 {
        let mut present = self.lock();
        present.0 += 1;
        let number = present.0;
        present.1.insert(number, Present { identity, session });
        number
    }

    /// Notes that a session has a new token.
    pub fn renew(&self, number: u64, identity: Arc<Identity>) {
        if let Some(one) = self.lock().1.get_mut(&number) {
            one.identity = identity;
        }
    }

    /// Takes a session out.
    pub fn leave(&self, number: u64) {
        let mut present = self.lock();
        present.1.remove(&number);
        if present.1.is_empty() {
            present.1.shrink_to_fit();
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().1.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends every session that `meant` says, and tells how many those are.
    pub fn end(&self, reason: &'static str, meant: impl Fn(&Identity) -> bool) -> usize {
        let present = self.lock();
        let mut ended = 0;
        for one in present.1.values().filter(|one| meant(&one.identity)) {
            one.session.end(reason);
            ended += 1;
        }
        ended
    }

    /// Ends the sessions whose tokens are revoked.
    pub(super) fn enforce(&self, revocations: &Revocations) {
        if revocations.is_empty() {
            return;
        }
        let ended = self.end("auth.revoked", |identity| {
            revocations.revoked(identity).is_some()
        });
        if ended > 0 {
            tracing::info!(ended, "sessions ended: their tokens are revoked");
        }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<u64, Present>)> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
