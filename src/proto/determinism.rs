//! The hash of a history (MSG-10): equal where nothing differs but when and where records were
//! stored. The node, `arqon` and `logdump` compute the same one.
//!
//! What it covers, and in which bytes, stands in `docs/determinism.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::topic;
use super::view::{Payload, RecordView};

/// A hash under way over records in their order.
#[derive(Clone, Debug, Default)]
pub struct HistoryHash {
    records: u64,
    state: Sha256,
}

impl HistoryHash {
    /// Whether records of `topic` are covered: not those that the node alone writes, which tell of
    /// positions and times.
    #[must_use]
    pub fn covers(topic: &str) -> bool {
        !topic::is_reserved(topic)
    }

    /// Takes the next record, if it is [covered](Self::covers): everything that holds for it but
    /// its sequence, append time, clock and verdict, and where it was replayed from.
    pub fn add(&mut self, record: &RecordView<'_>) {
        if !Self::covers(record.topic) {
            return;
        }
        self.records += 1;
        let envelope = &record.envelope;
        let (form, kind, data) = match envelope.payload {
            Payload::Empty => (0_i64, "", [].as_slice()),
            Payload::Command { kind, data } => (1, kind, data),
            Payload::Event { kind, data } => (2, kind, data),
            Payload::Signal { kind, reason } => (3 + (i64::from(kind) << 8), "", reason.as_bytes()),
        };
        let (id, trace_id) = (record.id(), record.trace_id());
        let texts = [
            record.topic,
            &id,
            &trace_id,
            record.producer(),
            envelope.room_id,
            envelope.key,
            envelope.schema,
            kind,
        ];
        for text in texts {
            self.part(text.as_bytes());
        }
        self.part(data);
        self.part(envelope.signature);
        self.part(envelope.spectral.unwrap_or_default());
        let sequence = envelope.producer_sequence.cast_signed();
        let (expires_at, deliver_at) = (envelope.expires_at, envelope.deliver_at);
        for number in [form, record.timestamp(), expires_at, deliver_at, sequence] {
            self.state.update(number.to_le_bytes());
        }
        // Of two with one name the later counts, and their order says nothing.
        let headers: BTreeMap<&str, &str> = envelope.headers.iter().collect();
        self.state.update((headers.len() as u64).to_le_bytes());
        for (name, value) in headers {
            self.part(name.as_bytes());
            self.part(value.as_bytes());
        }
    }

    /// With its length, so that no two ways of cutting the bytes look the same.
    fn part(&mut self, bytes: &[u8]) {
        self.state.update((bytes.len() as u64).to_le_bytes());
        self.state.update(bytes);
    }

    /// How many records it has taken.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// The hash of what was taken so far, in hexadecimal digits.
    #[must_use]
    pub fn text(&self) -> String {
        let digest = self.state.clone().finalize();
        digest.iter().fold(String::new(), |mut text, byte| {
            // A String takes any text.
            let written = write!(text, "{byte:02x}");
            debug_assert!(written.is_ok(), "a string takes any text");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::v1::{Envelope, Event, Record, VectorClock, envelope};

    fn envelope() -> Envelope {
        Envelope {
            id: "x".into(),
            timestamp: 1,
            headers: [("a".into(), "1".into()), ("b".into(), "2".into())].into(),
            payload: Some(envelope::Payload::Event(Event {
                r#type: "t".into(),
                data: b"1".as_slice().into(),
            })),
            ..Envelope::default()
        }
    }

    fn record(envelope: &Envelope) -> Record {
        Record {
            sequence: 1,
            appended_at: 7,
            topic: "a".into(),
            producer_id: "p".into(),
            envelope: envelope.encode_to_vec().into(),
            ..Record::default()
        }
    }

    fn hash(records: &[Record]) -> String {
        let mut hash = HistoryHash::default();
        for record in records {
            let bytes = record.encode_to_vec();
            hash.add(&RecordView::parse(&bytes).unwrap());
        }
        hash.text()
    }

    // MSG-10
    #[test]
    fn the_nodes_stamps_are_left_out_and_all_else_counts() {
        let base = record(&envelope());
        let same = Record {
            sequence: 9,
            appended_at: 99,
            clock: Some(VectorClock {
                entries: [("n/main".into(), 9)].into(),
            }),
            ..base.clone()
        };
        let twisted = Envelope {
            twist_id: "main".into(),
            reality_id: "fresh".into(),
            tenant_id: "t".into(),
            ..envelope()
        };
        for same in [same, record(&twisted)] {
            assert_eq!(hash(std::slice::from_ref(&base)), hash(&[same]));
        }
        let changes: [fn(&mut Envelope); 13] = [
            |e| e.id = "y".into(),
            |e| e.trace_id = "t".into(),
            |e| e.timestamp = 2,
            |e| e.producer_id = "q".into(),
            |e| e.room_id = "r".into(),
            |e| e.key = "k".into(),
            |e| e.schema = "s".into(),
            |e| e.expires_at = 5,
            |e| e.producer_sequence = 3,
            |e| e.deliver_at = 4,
            |e| e.signature = b"s".as_slice().into(),
            |e| drop(e.headers.insert("a".into(), "2".into())),
            |e| e.payload = None,
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut other = envelope();
            change(&mut other);
            let other = record(&other);
            assert_ne!(
                hash(std::slice::from_ref(&base)),
                hash(&[other]),
                "change {at}"
            );
        }
        let elsewhere = Record {
            topic: "b".into(),
            ..base.clone()
        };
        assert_ne!(
            hash(&[base.clone(), elsewhere.clone()]),
            hash(&[elsewhere, base])
        );
    }

    // MSG-10
    #[test]
    fn topics_of_the_node_are_not_covered() {
        let mut hash = HistoryHash::default();
        let empty = hash.text();
        for topic in ["sys.log", "dlq.orders", topic::CONTINUUM_DEAD_LETTERS] {
            let own = Record {
                topic: topic.into(),
                ..record(&envelope())
            };
            hash.add(&RecordView::parse(&own.encode_to_vec()).unwrap());
        }
        assert_eq!((hash.records(), hash.text()), (0, empty));
    }
}
