//! Events that the edge and others keep in a tenant's reality `_system`, and read back from there.
//!
//! What is written here is written by the node alone: no client appends to `_system`. Whoever folds
//! these events learns of every range that is lost, and decides what that means.

use std::sync::Arc;

use bytes::Bytes;

use super::error::Error;
use super::filter::Filter;
use super::reality::Reality;
use super::system;
use super::tenancy::Tenancy;
use crate::log::{Found, Micros, Sequence};
use crate::proto::view::{EnvelopeView, RecordView};

/// Number of the envelope's field `key`.
const KEY: u32 = 36;
/// How much is read at a time.
const READ_BYTES: usize = 256 << 10;

/// An event on its way into the journal.
#[derive(Clone, Debug)]
pub struct NewEvent<'a> {
    /// Where it goes; one of the `sys.` topics.
    pub topic: String,
    /// Its name.
    pub kind: &'a str,
    /// Full message name of `data`; empty if that is JSON.
    pub schema: &'a str,
    /// What it says.
    pub data: Bytes,
}

/// An event that was read back.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// Where it stands.
    pub sequence: Sequence,
    /// When it was written.
    pub at: Micros,
    /// Its topic.
    pub topic: &'a str,
    /// Its name.
    pub kind: &'a str,
    /// What it says.
    pub data: &'a [u8],
}

/// What reading a journal to its end has found besides the events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Through {
    /// Where to go on.
    pub next: Sequence,
    /// Ranges of which nothing can be said: first and last sequence of each.
    pub lost: Vec<(u64, u64)>,
}

/// Why a journal could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// An event is no record of this protocol.
    #[error("event {sequence} of the tenant's system log cannot be decoded")]
    Undecodable {
        /// Which.
        sequence: u64,
    },
    /// The log cannot be read.
    #[error("the tenant's system log cannot be read")]
    Log(#[from] crate::log::Error),
}

impl Reality {
    /// Appends an event of the node to this log, about what `key` names, and waits until it is on
    /// disk. Blocks.
    ///
    /// # Errors
    /// It could not be stored.
    pub fn record(&self, event: NewEvent<'_>, key: &str) -> Result<Sequence, Error> {
        let mut record = system::event(self, event.topic, event.kind, event.schema, event.data);
        if !key.is_empty() {
            let mut envelope = record.envelope.to_vec();
            prost::encoding::string::encode(KEY, &key.to_owned(), &mut envelope);
            record.envelope = envelope.into();
        }
        Ok(system::append_and_wait(self, record)?.first)
    }

    /// Appends an envelope again on `topic`, as its producer encoded it but for one more header,
    /// and waits until it is on disk. Blocks.
    ///
    /// # Errors
    /// It is no envelope; it could not be stored.
    pub fn record_again(
        &self,
        topic: &str,
        envelope: &[u8],
        header: (&str, &str),
    ) -> Result<Sequence, Error> {
        let view = EnvelopeView::parse(envelope).or(Err(Error::Internal))?;
        let others = view.headers.iter().filter(|(name, _)| *name != header.0);
        let headers: Vec<(String, String)> = others
            .chain([header])
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let record = system::again(self, topic, &view, &headers);
        Ok(system::append_and_wait(self, record)?.first)
    }
}

impl Tenancy {
    /// Appends an event and waits until it is on disk. Blocks.
    ///
    /// # Errors
    /// It could not be stored.
    pub fn record(&self, event: NewEvent<'_>) -> Result<Sequence, Error> {
        let record = system::event(
            self.system(),
            event.topic,
            event.kind,
            event.schema,
            event.data,
        );
        let appended = system::append_and_wait(self.system(), record)?;
        Ok(appended.first)
    }

    /// The first event that is there.
    #[must_use]
    pub fn first_event(&self) -> Sequence {
        self.system().bounds().first
    }

    /// What is wrong with the log of the events, if it takes no writes and will not by itself.
    #[must_use]
    pub fn damage_of_events(&self) -> Option<String> {
        let state = self.system().read_only()?;
        (!state.repairing).then_some(state.reason)
    }

    /// Appends an event without waiting; if it cannot be stored, the node's own log says so.
    pub fn note(&self, event: NewEvent<'_>) {
        let record = system::event(
            self.system(),
            event.topic,
            event.kind,
            event.schema,
            event.data,
        );
        if let Err(error) = self
            .system()
            .append_own(record, Arc::new(system::Logged), 0)
        {
            tracing::error!(tenant = %self.tenant(), %error, "an event of the node was not stored");
        }
    }

    /// Shows every event on disk from `from` on whose topic `filter` matches, in order, and says
    /// where to go on, and what is lost between. Blocks on the disk.
    ///
    /// # Errors
    /// Events cannot be read, or `visit` fails.
    pub fn events<E: From<Unreadable>>(
        &self,
        filter: &Filter,
        from: Sequence,
        visit: impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<Through, E> {
        self.events_of(std::slice::from_ref(filter), from, visit)
    }

    /// The same for every event whose topic one of `filters` matches.
    ///
    /// # Errors
    /// Events cannot be read, or `visit` fails.
    pub fn events_of<E: From<Unreadable>>(
        &self,
        filters: &[Filter],
        from: Sequence,
        mut visit: impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<Through, E> {
        let log = self.system().log();
        let matching = filters.to_vec();
        let wanted = move |topic: &str| matching.iter().any(|filter| filter.matches(topic));
        let mut reader = log.topic_reader(Box::new(wanted.clone()));
        let end = log.bounds().durable_end;
        let (mut next, mut lost) = (from, Vec::new());
        while next < end {
            let found = reader.read(next, end, READ_BYTES);
            match found.map_err(|error| E::from(Unreadable::Log(error)))? {
                Found::Records(chunk) => {
                    for record in chunk.iter().filter(|one| wanted(one.topic)) {
                        let sequence = record.sequence;
                        let view =
                            RecordView::parse(record.record).or(Err(Unreadable::Undecodable {
                                sequence: sequence.get(),
                            }))?;
                        visit(Event {
                            sequence,
                            at: record.appended_at,
                            topic: record.topic,
                            kind: view.envelope.payload.kind(),
                            data: view.envelope.payload.data(),
                        })?;
                    }
                    next = chunk.last.next();
                }
                Found::Damaged { next: after, .. } => {
                    let after = after.max(next.next());
                    lost.push((next.get(), after.get() - 1));
                    next = after;
                }
                Found::End => next = end,
            }
        }
        Ok(Through { next, lost })
    }
}
