//! Requests that have been handed to the log and not been answered.

use std::sync::Arc;
use std::time::Instant;

use super::json::Receipt;
use crate::broker;
use crate::edge::mirror::Copy;

/// How an append is answered.
#[derive(Debug)]
pub(super) enum Reply {
    /// By a Produced frame with this request id; 0 = only if it fails.
    Frame(u64),
    /// By an envelope that names this message.
    Envelope(String),
    /// By JSON.
    Json(Box<Receipt>),
}

/// An append under way.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) reply: Reply,
    pub(super) bytes: usize,
    /// Acknowledgements to come.
    pub(super) answers: u8,
    /// Projections whose passing is to be told after them.
    pub(super) projected: Vec<String>,
    /// What the broker has to say beside the log's answer.
    pub(super) receipt: Option<Arc<broker::Receipt>>,
    /// Copies that are made once it is known that the originals are stored.
    pub(super) copies: Vec<Copy>,
    pub(super) started: Instant,
}

/// All appends of a session that are under way, by token.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    slots: Vec<Option<Pending>>,
    free: Vec<usize>,
    bytes: usize,
}

impl InFlight {
    pub(super) const fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Remembers an append; the token leads back to it.
    pub(super) fn insert(&mut self, pending: Pending) -> u64 {
        self.bytes += pending.bytes;
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        self.slots[slot] = Some(pending);
        slot as u64
    }

    /// The append behind a token.
    pub(super) fn get(&mut self, token: u64) -> Option<&mut Pending> {
        self.slots.get_mut(usize::try_from(token).ok()?)?.as_mut()
    }

    /// Forgets an append.
    pub(super) fn remove(&mut self, token: u64) -> Option<Pending> {
        let slot = usize::try_from(token).ok()?;
        let pending = self.slots.get_mut(slot)?.take()?;
        self.bytes -= pending.bytes;
        self.free.push(slot);
        Some(pending)
    }

    /// Gives memory back that an idle session does not need.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }
}
