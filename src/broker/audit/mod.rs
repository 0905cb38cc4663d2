//! The governance audit of a tenant: what was done to it, or tried, by whom (BRK-13).
//!
//! - this file: the end of the chain, and who may write behind it;
//! - [`mask`]: what is written of arguments and of states, without secrets and bounded;
//! - `node`: what concerns the whole node;
//! - [`read`]: what is read back: the actions, and whether the chain holds.
//!
//! Entries stand on `sys.audit` of the reality `_system`. The chain is linear because an entry is
//! sealed and handed to the log under one lock; where the chain stands is read from the log again
//! whenever the log is another, or an entry has not got there. Nothing here decides what is audited.

pub mod mask;
mod node;
pub mod read;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::access::Identity;
use super::error::Error;
use super::reality::Reality;
use super::system;
use super::tenancy::Tenancy;
use crate::log::{Append, AppendError, AppendSink, Appended, Found, Log, RecordRef};
use crate::proto::audit::{self, KIND, Link, SCHEMA, TOPIC};
use crate::proto::v1::AuditEntry;
use crate::proto::v1::audit_entry::Phase;
use crate::proto::view::RecordView;

/// How much is read at a time.
const READ_BYTES: usize = 256 << 10;

/// The end of a tenant's chain.
#[derive(Debug, Default)]
pub(super) struct Audit {
    end: Mutex<End>,
    flights: Arc<Flights>,
}

#[derive(Debug, Default)]
struct End {
    /// Of which log, counted as it is reopened; `None`: it is not known where the chain stands.
    of: Option<u64>,
    last: Option<Link>,
}

/// Entries that the log has, and has not said what became of.
#[derive(Debug, Default)]
struct Flights {
    count: AtomicUsize,
    /// One of them did not get there.
    failed: AtomicBool,
}

/// Hears what became of an entry; forgotten by a log that is closed, it counts as failed.
#[derive(Debug)]
struct Flight {
    flights: Arc<Flights>,
    landed: AtomicBool,
    waiting: SyncSender<Result<Appended, AppendError>>,
}

impl AppendSink for Flight {
    fn appended(&self, _token: u64, outcome: Result<Appended, AppendError>) {
        let failed = outcome.as_ref().err().map(ToString::to_string);
        match &failed {
            None => self.landed.store(true, Ordering::SeqCst),
            Some(_) => self.flights.failed.store(true, Ordering::SeqCst),
        }
        match self.waiting.try_send(outcome) {
            Ok(()) | Err(TrySendError::Full(_)) => {}
            // Nobody waits for it.
            Err(TrySendError::Disconnected(_)) => {
                if let Some(error) = failed {
                    tracing::error!(error, "an audit entry was not stored");
                }
            }
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.landed.load(Ordering::SeqCst) {
            self.flights.failed.store(true, Ordering::SeqCst);
        }
        self.flights.count.fetch_sub(1, Ordering::SeqCst);
    }
}

type Landing = Receiver<Result<Appended, AppendError>>;

impl Audit {
    /// Seals an entry and hands it to the log; says where it stands, and on what it is heard of.
    fn write(&self, system: &Reality, entry: AuditEntry) -> Result<(Link, Landing), Error> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let (which, log) = system.opened_log();
        let in_doubt = self.flights.failed.load(Ordering::SeqCst) || end.of != Some(which);
        if in_doubt {
            end.of = None;
            // What is still on its way may get there: only then it is known what comes next.
            if self.flights.count.load(Ordering::SeqCst) > 0 {
                let waiting_bytes = log.waiting_bytes();
                return Err(Error::Append(AppendError::Busy { waiting_bytes }));
            }
            self.flights.failed.store(false, Ordering::SeqCst);
            end.last = last_of(&log)?;
            end.of = Some(which);
        }
        let (data, link) = audit::seal(entry, end.last.as_ref());
        let record = system::event(system, TOPIC.to_owned(), KIND, SCHEMA, data);
        let (sender, receiver) = sync_channel(1);
        self.flights.count.fetch_add(1, Ordering::SeqCst);
        let queued = log.append(Append {
            records: vec![record],
            durability: system::DURABILITY,
            then: None,
            sink: Arc::new(Flight {
                flights: Arc::clone(&self.flights),
                landed: AtomicBool::new(false),
                waiting: sender,
            }),
            token: 0,
        });
        queued.map_err(|error| system.refusal(error))?;
        end.last = Some(link);
        Ok((link, receiver))
    }
}

/// Where the chain on disk stands. Behind what cannot be read it goes on from what can: whoever
/// checks the chain finds the break there.
fn last_of(log: &Log) -> Result<Option<Link>, Error> {
    let Some(newest) = log.last_of(TOPIC)? else {
        return Ok(None);
    };
    if let Found::Records(chunk) = log.read(newest, newest.next(), 1)?
        && let Some(last) = chunk.iter().find_map(|record| link(&record))
    {
        return Ok(Some(last));
    }
    // It is not on disk yet, or cannot be read.
    let (mut last, mut from) = (None, log.bounds().first);
    let mut reader = log.topic_reader(Box::new(|topic| topic == TOPIC));
    while from <= newest {
        match reader.read(from, newest.next(), READ_BYTES)? {
            Found::Records(chunk) => {
                last = chunk.iter().filter_map(|one| link(&one)).last().or(last);
                from = chunk.last.next();
            }
            Found::Damaged { next, .. } => from = next.max(from.next()),
            Found::End => break,
        }
    }
    Ok(last)
}

fn link(record: &RecordRef<'_>) -> Option<Link> {
    if record.topic != TOPIC {
        return None;
    }
    let view = RecordView::parse(record.record).ok()?;
    let (_, link) = audit::open(view.envelope.payload.data()).ok()?;
    Some(link)
}

/// Who does something, and from where.
#[derive(Clone, Debug)]
pub struct Actor<'a> {
    /// Who; `None` for the node itself.
    pub who: Option<&'a Identity>,
    /// An address, or `local`.
    pub from: &'a str,
}

impl Actor<'_> {
    /// An entry about what it does.
    #[must_use]
    pub fn entry(&self, phase: Phase, action: &str) -> AuditEntry {
        let who = self.who;
        AuditEntry {
            phase: phase.into(),
            subject: who.map(|who| who.subject.clone()).unwrap_or_default(),
            role: who
                .map(|who| who.role.as_str().to_owned())
                .unwrap_or_default(),
            token_id: who.and_then(|who| who.token_id.clone()).unwrap_or_default(),
            from: self.from.to_owned(),
            action: action.to_owned(),
            ..AuditEntry::default()
        }
    }
}

impl Tenancy {
    /// Writes an entry behind the last one and waits until it is on disk; its number. Blocks.
    ///
    /// # Errors
    /// It could not be stored, and whatever it announces must not be done.
    pub fn audit(&self, entry: AuditEntry) -> Result<u64, Error> {
        let (link, landing) = self.write_audit(entry)?;
        match landing.recv() {
            Ok(landed) => landed.map_err(|error| self.system().refusal(error))?,
            // The log was closed and forgot it.
            Err(_) => return Err(Error::ShuttingDown),
        };
        Ok(link.number)
    }

    /// The same without waiting; if it cannot be stored, the node's own log says so.
    pub fn audit_later(&self, entry: AuditEntry) {
        let action = entry.action.clone();
        if let Err(error) = self.write_audit(entry) {
            tracing::error!(tenant = %self.tenant(), action, %error, "an audit entry was not stored");
        }
    }

    fn write_audit(&self, mut entry: AuditEntry) -> Result<(Link, Landing), Error> {
        entry.tenant = self.tenant().as_str().to_owned();
        self.node_name().clone_into(&mut entry.node);
        entry.at = self.now().0;
        self.chain().write(self.system(), entry)
    }
}
