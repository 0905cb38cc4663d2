//! The live sessions of one tenant, so that a revocation ends those it means.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::broker::Identity;
use crate::edge::revocation::Revocations;

/// Why a session must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its token is revoked.
    Revoked,
    /// Its bearer may not come back.
    Banned,
    /// An admin has said so.
    Disconnected,
}

impl Cause {
    /// The close frame's reason.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Revoked | Self::Banned => "auth.revoked",
            Self::Disconnected => "disconnected",
        }
    }
}

/// Whoever can be told that its session is over.
pub trait Ended: Send + Sync {
    /// The session must end.
    fn end(&self, cause: Cause);
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

    /// Ends every session that `cause` has one for, and tells how many those are.
    pub fn end(&self, cause: impl Fn(&Identity) -> Option<Cause>) -> usize {
        let present = self.lock();
        let mut ended = 0;
        for one in present.1.values() {
            if let Some(cause) = cause(&one.identity) {
                one.session.end(cause);
                ended += 1;
            }
        }
        ended
    }

    /// Ends the sessions whose tokens are revoked.
    pub(super) fn enforce(&self, revocations: &Revocations) {
        if revocations.is_empty() {
            return;
        }
        let ended = self.end(|identity| revocations.revoked(identity));
        if ended > 0 {
            tracing::info!(ended, "sessions ended: their tokens are revoked");
        }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<u64, Present>)> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
