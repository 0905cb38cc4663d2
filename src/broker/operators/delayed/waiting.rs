//! What waits in a reality for the time of its delivery: a fold of its topics `op.later.>`.
//!
//! A message that waits is the data of a record on `op.later.<topic>`: as the record that it will
//! be, with a key of its own. A record of the same key without data ends the waiting, whether the
//! message was delivered, cancelled, or has expired; so the log's compaction removes both.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use prost::Message as _;

use crate::broker::error::Error;
use crate::broker::{OwnRecord, Reality};
use crate::log::{Bounds, Found, Log, RecordRef, Sequence};
use crate::proto::v1::{Envelope, Event, Record, envelope};
use crate::proto::view::{EnvelopeView, RecordView};

/// What the topics of what waits begin with.
pub(in crate::broker) const TOPIC_PREFIX: &str = "op.later.";
const SCHEMA: &str = "arqon.v1.Record";
const WAITING: &str = "later.waiting";
/// Header with the subject of the token that a message was sent with.
const SENDER: &str = "sender";
/// Read at a time.
const READ_BYTES: usize = 1 << 20;

/// Where a message for `topic` waits.
pub(in crate::broker) fn topic_of(topic: &str) -> String {
    format!("{TOPIC_PREFIX}{topic}")
}

/// The envelope that keeps a message until it is due. `record` is what it will be, with id, producer,
/// verdict and the producer's envelope; `view` is of that.
pub(in crate::broker) fn kept(
    key: String,
    sender: &str,
    record: &Record,
    view: &EnvelopeView<'_>,
) -> Bytes {
    let headers = [("content-type", "application/x-protobuf"), (SENDER, sender)];
    let envelope = Envelope {
        topic: topic_of(&record.topic),
        key,
        schema: SCHEMA.into(),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        expires_at: view.expires_at,
        deliver_at: view.deliver_at,
        payload: Some(envelope::Payload::Event(Event {
            r#type: WAITING.into(),
            data: record.encode_to_vec().into(),
        })),
        ..Envelope::default()
    };
    envelope.encode_to_vec().into()
}

/// A message that waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    /// Where it will go.
    pub(super) topic: Box<str>,
    pub(super) key: Box<str>,
    pub(super) deliver_at: u64,
    /// 0 for never.
    pub(super) expires_at: u64,
}

/// What waits in a reality, in the order in which it is due.
#[derive(Debug)]
pub(in crate::broker) struct Waiting {
    due: BTreeSet<(u64, Sequence)>,
    entries: HashMap<Sequence, Entry>,
    by_key: HashMap<Box<str>, Sequence>,
    /// Everything below has been taken.
    next: Sequence,
    /// The log ended here when it was opened,
    since: Sequence,
    /// and has got so many messages that wait since then.
    found: u64,
}

impl Waiting {
    /// Nothing of a log yet, which ends at `end`.
    pub(super) fn new(end: Sequence) -> Self {
        Self {
            due: BTreeSet::new(),
            entries: HashMap::new(),
            by_key: HashMap::new(),
            next: Sequence::FIRST,
            since: end,
            found: 0,
        }
    }

    /// Messages found since the log was opened.
    pub(super) const fn found(&self) -> u64 {
        self.found
    }

    /// Takes what the log has got since the last time. Blocks on the disk.
    pub(super) fn follow(&mut self, log: &Log) -> Result<(), Error> {
        let Bounds {
            first, durable_end, ..
        } = log.bounds();
        self.next = self.next.max(first);
        let mut reader = log.topic_reader(Box::new(|topic| topic.starts_with(TOPIC_PREFIX)));
        while self.next < durable_end {
            // What is in memory is read whole: the index would cost as much as there is.
            let found = if log.in_tail(self.next) {
                log.read(self.next, durable_end, READ_BYTES)?
            } else {
                reader.read(self.next, durable_end, READ_BYTES)?
            };
            match found {
                Found::Records(chunk) => {
                    chunk.iter().for_each(|record| self.take(&record));
                    self.next = chunk.last.next();
                }
                Found::Damaged { next, .. } => self.next = next,
                Found::End => self.next = durable_end,
            }
        }
        Ok(())
    }

    fn take(&mut self, record: &RecordRef<'_>) {
        let Some(topic) = record.topic.strip_prefix(TOPIC_PREFIX) else {
            return;
        };
        let Ok(view) = RecordView::parse(record.record) else {
            return;
        };
        let envelope = &view.envelope;
        if envelope.payload.data().is_empty() {
            self.end(envelope.key);
            return;
        }
        let number = |number: i64| u64::try_from(number).unwrap_or_default();
        let entry = Entry {
            topic: topic.into(),
            key: envelope.key.into(),
            deliver_at: number(envelope.deliver_at),
            expires_at: number(envelope.expires_at),
        };
        self.found += u64::from(record.sequence >= self.since);
        self.due.insert((entry.deliver_at, record.sequence));
        self.by_key.insert(entry.key.clone(), record.sequence);
        self.entries.insert(record.sequence, entry);
    }

    fn end(&mut self, key: &str) {
        if let Some(sequence) = self.by_key.remove(key)
            && let Some(entry) = self.entries.remove(&sequence)
        {
            self.due.remove(&(entry.deliver_at, sequence));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Where the fold stands.
    pub(super) const fn next(&self) -> Sequence {
        self.next
    }

    pub(super) fn get(&self, sequence: Sequence) -> Option<&Entry> {
        self.entries.get(&sequence)
    }

    /// All that waits, the next due first; of what is due at the same time, what came first.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (Sequence, &Entry)> {
        let entry =
            |(_, sequence): &(u64, Sequence)| Some((*sequence, self.entries.get(sequence)?));
        self.due.iter().filter_map(entry)
    }
}

/// A message that waits, as it was kept.
#[derive(Debug)]
pub(super) struct Message {
    /// Subject of the token that it was sent with.
    pub(super) sender: String,
    pub(super) record: Record,
}

/// Reads a message that waits. Blocks on the disk.
pub(super) fn message(reality: &Reality, sequence: Sequence) -> Result<Message, Error> {
    let damaged = || Error::RecordDamaged { sequence };
    let log = reality.log();
    let Found::Records(chunk) = log.read(sequence, sequence.next(), 1)? else {
        return Err(damaged());
    };
    let record = chunk.iter().next().ok_or_else(damaged)?;
    let view = RecordView::parse(record.record).or(Err(damaged()))?;
    let envelope = &view.envelope;
    let record = Record::decode(envelope.payload.data()).or(Err(damaged()))?;
    let sender = envelope.headers.get(SENDER).unwrap_or_default().to_owned();
    Ok(Message { sender, record })
}

/// What ends the waiting of a message; `kind` says how.
pub(super) fn end(entry: &Entry, kind: &str, by: &str) -> OwnRecord {
    OwnRecord {
        topic: topic_of(&entry.topic),
        kind: kind.to_owned(),
        key: entry.key.to_string(),
        producer: by.to_owned(),
        ..OwnRecord::default()
    }
}
