//! Records that the node appends itself: of its operators, in any reality, several at once.
//!
//! An effect and the position that it was reached from go into one batch of one log, so that a
//! crash leaves both or neither.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use uuid::Uuid;

use super::error::Error;
use super::gate::Claims;
use super::reality::Reality;
use super::{stamp, system};
use crate::log::{Appended, NewRecord};
use crate::proto::v1::{Envelope, Event, envelope};

/// A record of the node's own.
#[derive(Clone, Debug, Default)]
pub struct OwnRecord {
    /// Where it goes.
    pub topic: String,
    /// Name of the event.
    pub kind: String,
    /// Full message name of `data`; empty if that is JSON or anything else.
    pub schema: String,
    /// What it says. Empty, with a key: the key is gone.
    pub data: Bytes,
    /// What it is about, for order and compaction; may be empty.
    pub key: String,
    /// Extension headers. `content-type` is added where it is missing.
    pub headers: BTreeMap<String, String>,
    /// Milliseconds since the Unix epoch from which on it may vanish; 0 = never.
    pub expires_at: i64,
    /// Its id; a new one if there is none. Whoever may have to repeat an append derives it from what
    /// the record is about.
    pub id: Option<Uuid>,
    /// Who produces it, where that is not the node.
    pub producer: String,
    /// The room that it is said in; may be empty.
    pub room: String,
    /// When what it says happened, milliseconds since the Unix epoch; 0 = when it is stored.
    pub timestamp: i64,
}

/// What must hold when records get their sequences, for them to be stored (BRK-07). Everything that
/// gets its own before them counts, so that of two who expect the same one is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expected {
    /// A topic of the same log.
    pub topic: String,
    /// Sequence of its last record; 0 = it has none.
    pub last: u64,
}

/// A record that the node appends, by itself or for somebody.
#[derive(Debug)]
pub(super) enum Piece {
    /// Of its own.
    Own(OwnRecord),
    /// Somebody's, as it is.
    Encoded(NewRecord),
}

impl Reality {
    /// Appends records of the node's own, all or none, in their order, and waits until they are on
    /// disk. Blocks.
    ///
    /// # Errors
    /// They could not be stored; `expected` does not hold ([`Error::Unmet`]), and then nothing is
    /// stored.
    pub fn store(
        &self,
        records: Vec<OwnRecord>,
        expected: Option<&Expected>,
    ) -> Result<Appended, Error> {
        let pieces = records.into_iter().map(Piece::Own);
        self.store_pieces(pieces.collect(), expected)
    }

    /// The same for records that may be somebody's.
    pub(super) fn store_pieces(
        &self,
        pieces: Vec<Piece>,
        expected: Option<&Expected>,
    ) -> Result<Appended, Error> {
        self.check_open()?;
        let records = pieces.into_iter().map(|piece| match piece {
            Piece::Own(record) => record.encode(self),
            Piece::Encoded(record) => record,
        });
        let records = records.collect();
        match expected {
            Some(expected) => self.store_if(records, expected),
            None => system::append_all_and_wait(self, records),
        }
    }
}

impl Reality {
    /// Appends a signal of the laboratory and waits until it is on disk: the only way into that
    /// reality, and out of it into no other. Blocks.
    ///
    /// # Errors
    /// This is another reality; it could not be stored.
    pub(super) fn store_signal(&self, record: OwnRecord) -> Result<Appended, Error> {
        if !self.name().is_lab() {
            return Err(Error::Internal);
        }
        system::append_and_wait(self, record.encode(self))
    }

    /// Appends records like [`Reality::store`], without waiting: what cannot be stored is said in the
    /// node's own log.
    ///
    /// # Errors
    /// The log takes no records now.
    pub fn leave(&self, records: Vec<OwnRecord>) -> Result<(), Error> {
        self.check_open()?;
        let records = records.into_iter().map(|record| record.encode(self));
        let sink = Arc::new(system::Logged);
        self.append_all_own(records.collect(), sink, 0)
    }

    /// An id for a record of the node's own.
    #[must_use]
    pub fn new_id(&self) -> Uuid {
        self.next_id(self.now())
    }

    fn store_if(&self, records: Vec<NewRecord>, expected: &Expected) -> Result<Appended, Error> {
        let mut claims = Claims::default();
        claims.expect(expected.clone());
        let receipt = claims.receipt();
        let appended = system::waited(self, |sink| self.append_all_if(records, claims, sink));
        appended.map_err(|error| {
            let unmet = receipt.as_ref().and_then(|receipt| receipt.unmet());
            unmet.map_or(error, |unmet| Error::Unmet(unmet.clone()))
        })
    }
}

impl OwnRecord {
    pub(super) fn encode(self, reality: &Reality) -> NewRecord {
        let id = self.id.unwrap_or_else(|| reality.next_id(reality.now()));
        let mut headers = self.headers;
        headers
            .entry("content-type".to_owned())
            .or_insert_with(|| system::content_type(&self.schema).to_owned());
        let producer = match self.producer.as_str() {
            "" => system::PRODUCER,
            named => named,
        };
        let mut stamp = BytesMut::new();
        stamp::encode(Some(id), Some(producer), &[], &mut stamp);
        let envelope = Envelope {
            topic: self.topic.clone(),
            room_id: self.room,
            headers: headers.into_iter().collect(),
            key: self.key,
            schema: self.schema,
            expires_at: self.expires_at,
            timestamp: self.timestamp,
            payload: Some(envelope::Payload::Event(Event {
                r#type: self.kind,
                data: self.data,
            })),
            ..Envelope::default()
        };
        NewRecord {
            topic: self.topic.into(),
            clock_entries: Bytes::new(),
            stamp: stamp.freeze(),
            envelope: envelope.encode_to_vec().into(),
        }
    }
}
