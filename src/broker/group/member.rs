//! What a member of a group can do: the same for a client's session and for an operator of the
//! node's own.
//!
//! A member joins by [`Groups::join`](super::Groups::join), is told by its [`Worker`] that there is
//! work, takes some with [`Member::lease`], and answers for each record. Dropping it is leaving
//! without an answer for what it has.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::coordinator::Group;
use super::work::{Failed, Leaving, MemberId, Window};
use crate::broker::error::Error;
use crate::broker::filter::Filter;
use crate::broker::reality::Reality;
use crate::log::{AppendError, Micros, Sequence};

/// Whoever works for a group: told by other threads, so must be quick and must not block.
pub trait Worker: Send + Sync + Debug {
    /// The member that it calls `key` should ask for work. Not repeated until it has, unless it
    /// takes its time.
    fn ready(&self, key: u64);

    /// What the member has answered is on disk up to a version, or was not stored. Only while it
    /// waits for that.
    fn stored(&self, key: u64, outcome: Result<u64, AppendError>);

    /// The group has been ended: what the member has is not its any more.
    fn ended(&self, key: u64);
}

/// A record in the hands of a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leased {
    /// Where it stands.
    pub sequence: Sequence,
    /// From 1, one more each time that it has failed.
    pub attempt: u32,
    /// Then another member gets it.
    pub deadline: Micros,
    pub(super) record: super::work::Record,
}

impl Leased {
    /// The encoded record.
    #[must_use]
    pub fn record(&self) -> &[u8] {
        self.record.encoded()
    }

    /// The same as a field `Deliver.records`.
    #[must_use]
    pub const fn field(&self) -> &Bytes {
        &self.record.field
    }
}

/// How far an answer has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answered {
    /// It is on disk.
    Stored,
    /// It is when [`Worker::stored`] tells this version, or a later one.
    InVersion(u64),
}

/// A member of a group.
#[derive(Debug)]
pub struct Member {
    pub(super) group: Arc<Group>,
    pub(super) id: MemberId,
    pub(super) left: bool,
}

impl Member {
    /// The group's name.
    #[must_use]
    pub fn group(&self) -> &str {
        self.group.name()
    }

    /// Where it reads.
    #[must_use]
    pub fn reality(&self) -> &Arc<Reality> {
        self.group.reality()
    }

    /// What it reads.
    #[must_use]
    pub fn filter(&self) -> &Filter {
        self.group.filter()
    }

    /// Everything below is done, by whichever member.
    #[must_use]
    pub fn floor(&self) -> Sequence {
        self.group.floor()
    }

    /// Takes what there is for it now, at most about `bytes_max` bytes, but one record at least;
    /// nothing if it has as much as its window holds, or there is nothing: then its worker is told
    /// when there is.
    ///
    /// # Errors
    /// The group has been ended.
    pub fn lease(&self, bytes_max: usize) -> Result<Vec<Leased>, Error> {
        self.group.lease(self.id, bytes_max)
    }

    /// It may have more at a time.
    pub fn widen(&self, more: Window) {
        self.group.widen(self.id, more);
    }

    /// A record is done. `attempt` is the delivery that is meant, 0 whichever it has.
    ///
    /// # Errors
    /// It is not, or no longer, this member's: nothing is changed. The group has been ended.
    pub fn ack(&self, sequence: Sequence, attempt: u32) -> Result<Answered, Error> {
        self.group.ack(self.id, sequence, attempt)
    }

    /// The member has failed on a record.
    ///
    /// # Errors
    /// As [`Member::ack`].
    pub fn nack(
        &self,
        sequence: Sequence,
        attempt: u32,
        failed: &Failed<'_>,
    ) -> Result<Answered, Error> {
        self.group.nack(self.id, sequence, attempt, failed)
    }

    /// The member needs longer: its deadline is `by` from now, or the group's own if that is `None`.
    /// Answers with the deadline.
    ///
    /// # Errors
    /// As [`Member::ack`].
    pub fn extend(
        &self,
        sequence: Sequence,
        attempt: u32,
        by: Option<Duration>,
    ) -> Result<Micros, Error> {
        self.group.extend(self.id, sequence, attempt, by)
    }

    /// Goes in order: what it has is for others at once, and has not failed.
    pub fn leave(mut self) {
        self.left = true;
        self.group.leave(self.id, Leaving::InOrder);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if !self.left {
            self.group.leave(self.id, Leaving::Lost);
        }
    }
}
