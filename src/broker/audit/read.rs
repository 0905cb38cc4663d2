//! The audit read back: what was done, and whether the chain holds.

use std::collections::{BTreeMap, VecDeque};

use super::{READ_BYTES, last_of};
use crate::broker::error::Error;
use crate::broker::tenancy::Tenancy;
use crate::log::{Found, Micros, Sequence};
use crate::proto::audit::{Chain, Link, TOPIC};
use crate::proto::v1::AuditEntry;
use crate::proto::v1::audit_entry::Phase;
use crate::proto::view::RecordView;

/// Most actions whose end is still to come that are remembered while reading.
const OPEN_MAX: usize = 10_000;

/// What became of an action.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was begun and failed.
    Failed,
    /// It was refused before anything was done.
    Refused,
    /// It was begun; the node has not said what came of it, and may have ended in between.
    Unknown,
    /// Something that the node did or met with.
    Noted,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Done,
        Self::Failed,
        Self::Refused,
        Self::Unknown,
        Self::Noted,
    ];

    /// As it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::Noted => "noted",
        }
    }
}

/// One action, put together from its entries.
#[derive(Clone, Debug)]
pub struct Action {
    /// Its first entry.
    pub entry: AuditEntry,
    /// Its last one, where that is another.
    pub end: Option<AuditEntry>,
}

impl Action {
    /// What became of it.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match (self.entry.phase(), &self.end) {
            (Phase::Refused, _) => Outcome::Refused,
            (Phase::Note, _) => Outcome::Noted,
            (_, None) => Outcome::Unknown,
            (_, Some(end)) if end.code.is_empty() => Outcome::Done,
            (_, Some(_)) => Outcome::Failed,
        }
    }

    /// Where it says what came of it.
    #[must_use]
    pub fn last(&self) -> &AuditEntry {
        self.end.as_ref().unwrap_or(&self.entry)
    }
}

/// Which actions are wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// By this subject; empty = anybody.
    pub subject: String,
    /// This action, or those whose name begins with it and a dot; empty = any.
    pub action: String,
    /// Begun at or after this.
    pub since: Micros,
    /// With this outcome.
    pub outcome: Option<Outcome>,
    /// The newest ones, so many at most.
    pub limit: usize,
}

impl Wanted {
    fn begins(&self, entry: &AuditEntry) -> bool {
        let below = entry.action.strip_prefix(&self.action);
        let named = self.action.is_empty()
            || below.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let subject = self.subject.is_empty() || self.subject == entry.subject;
        named && subject && entry.at >= self.since.0
    }
}

/// What a check of the chain has found.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The chain as far as it was followed.
    pub chain: Chain,
    /// The first break: sequence of the record, and what is wrong there.
    pub broken: Option<(Sequence, String)>,
    /// Whether the entry asked for is in the chain.
    pub met: bool,
}

impl Tenancy {
    /// The newest actions that are wanted, oldest first. Blocks on the disk.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn audited(&self, wanted: &Wanted) -> Result<Vec<Action>, Error> {
        let mut open = BTreeMap::<u64, Action>::new();
        let mut ended = VecDeque::<Action>::new();
        let keep = |ended: &mut VecDeque<Action>, action: Action| {
            if wanted.outcome.is_none_or(|one| one == action.outcome()) {
                ended.push_back(action);
                if ended.len() > wanted.limit {
                    ended.pop_front();
                }
            }
        };
        let from = self.system().log().seek_time(wanted.since)?;
        self.entries(from, |_, data| {
            let Ok((entry, _)) = crate::proto::audit::open(data) else {
                return true;
            };
            match entry.phase() {
                Phase::Outcome => {
                    if let Some(mut action) = open.remove(&entry.of) {
                        action.end = Some(entry);
                        keep(&mut ended, action);
                    }
                }
                _ if !wanted.begins(&entry) => {}
                Phase::Intent => {
                    let number = entry.number;
                    open.insert(number, Action { entry, end: None });
                    if open.len() > OPEN_MAX
                        && let Some((_, oldest)) = open.pop_first()
                    {
                        keep(&mut ended, oldest);
                    }
                }
                Phase::Refused | Phase::Note | Phase::Unspecified => {
                    keep(&mut ended, Action { entry, end: None });
                }
            }
            true
        })?;
        let mut all: Vec<Action> = ended.into();
        let unknown = open.into_values();
        all.extend(unknown.filter(|one| wanted.outcome.is_none_or(|w| w == one.outcome())));
        all.sort_by_key(|action| action.entry.number);
        let surplus = all.len().saturating_sub(wanted.limit);
        all.drain(..surplus);
        Ok(all)
    }

    /// Follows the chain from its first entry that is there to the end, or to the first break, and
    /// looks for the entry with the hash `head`. Blocks on the disk.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn verify_audit(&self, head: Option<&str>) -> Result<Verified, Error> {
        let mut verified = Verified {
            chain: Chain::of(self.tenant().as_str()),
            broken: None,
            met: head.is_none(),
        };
        let first = self.system().bounds().first;
        self.entries(first, |sequence, data| {
            match verified.chain.follow(data) {
                Ok(_) => {
                    let hash = verified.chain.last().map(Link::hex);
                    verified.met |= hash.as_deref() == head;
                }
                Err(found) => verified.broken = Some((sequence, found.to_string())),
            }
            verified.broken.is_none()
        })?;
        Ok(verified)
    }

    /// The last entry that is on disk. Blocks on the disk.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn audit_head(&self) -> Result<Option<Link>, Error> {
        last_of(&self.system().log())
    }

    /// Shows the entries on disk from `from` on, as stored, as long as `visit` says so.
    fn entries(
        &self,
        from: Sequence,
        mut visit: impl FnMut(Sequence, &[u8]) -> bool,
    ) -> Result<(), Error> {
        let log = self.system().log();
        let mut reader = log.topic_reader(Box::new(|topic| topic == TOPIC));
        let (mut next, end) = (from, log.bounds().durable_end);
        while next < end {
            match reader.read(next, end, READ_BYTES)? {
                Found::Records(chunk) => {
                    for record in chunk.iter().filter(|record| record.topic == TOPIC) {
                        // What is no record is no entry, which is for `visit` to find.
                        let view = RecordView::parse(record.record);
                        let data = view.as_ref().map(|view| view.envelope.payload.data());
                        if !visit(record.sequence, data.unwrap_or_default()) {
                            return Ok(());
                        }
                    }
                    next = chunk.last.next();
                }
                // Entries that stood there are missed by their numbers.
                Found::Damaged { next: after, .. } => next = after.max(next.next()),
                Found::End => break,
            }
        }
        Ok(())
    }
}
