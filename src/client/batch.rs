//! Envelopes to be produced together, encoded as they are added.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use uuid::Uuid;

use super::{Durability, Error};
use crate::proto::v1;

/// What a producer says about one envelope; the rest is filled in when it is added to a batch: a
/// UUIDv7 as id, the time in it as timestamp, the batch's producer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outgoing<'a> {
    /// Dot-separated name. Needed.
    pub topic: &'a str,
    /// `type` of the event; empty: the topic.
    pub kind: &'a str,
    /// `data` of the event.
    pub data: &'a [u8],
    /// Ordering and compaction key.
    pub key: &'a str,
    /// Extension headers.
    pub headers: &'a [(&'a str, &'a str)],
    /// Full message name of the data.
    pub schema: &'a str,
    /// Own id, a UUIDv7 in text form; empty: a new one.
    pub id: &'a str,
    /// Reality that a replayed envelope came from.
    pub twist_id: &'a str,
    /// Ed25519 over `data`; empty: not signed.
    pub signature: &'a [u8],
    /// When it is of no use any more, in milliseconds since the Unix epoch; 0: never.
    pub expires_at: u64,
    /// Before this it is not delivered, in milliseconds since the Unix epoch; 0: at once.
    pub deliver_at: u64,
}

/// Envelopes of one `Produce`: stored all or none, in order.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// `Produce.envelopes` fields.
    encoded: Vec<u8>,
    count: usize,
    producer: String,
    /// `Produce.expected`.
    expected: Option<v1::ExpectedSequence>,
}

impl Batch {
    /// Field number of `Produce.envelopes`.
    const FIELD: u32 = 3;

    /// An empty batch of `producer`; with an empty one the node takes the token's subject.
    #[must_use]
    pub fn new(producer: &str) -> Self {
        Self {
            encoded: Vec::new(),
            count: 0,
            producer: producer.to_owned(),
            expected: None,
        }
    }

    /// Has the batch stored only if `last` is the last sequence on `topic` when it is (0: no record
    /// of it is in the reality). Otherwise the node answers `SEQUENCE_CONFLICT`, and
    /// [`Error::actual`] is what it has found.
    ///
    /// A batch that was stored and is sent again with the same ids is acknowledged whatever the
    /// topic's last sequence is by then.
    pub fn expect(&mut self, topic: &str, last: u64) {
        let topic = topic.to_owned();
        self.expected = Some(v1::ExpectedSequence { topic, last });
    }

    /// How many envelopes it holds.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether it holds none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the envelopes with their framing.
    #[must_use]
    pub const fn encoded_bytes(&self) -> usize {
        self.encoded.len()
    }

    /// Adds an event.
    pub fn push(&mut self, event: &Outgoing<'_>) {
        let id = Uuid::now_v7();
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let id_text: &str = if event.id.is_empty() {
            id.hyphenated().encode_lower(&mut text)
        } else {
            event.id
        };
        let kind = if event.kind.is_empty() {
            event.topic
        } else {
            event.kind
        };
        let timestamp = milliseconds_of(id);
        let payload = text_len(1, kind) + text_len_of(2, event.data.len());
        let headers: usize = event
            .headers
            .iter()
            .map(|(name, value)| delimited_len(6, text_len(1, name) + text_len(2, value)))
            .sum();
        let length = key_len(4)
            + encoded_len_varint(timestamp)
            + text_len(5, event.twist_id)
            + headers
            + text_len_of(10, event.signature.len())
            + delimited_len(21, payload)
            + text_len(30, id_text)
            + text_len(31, event.topic)
            + text_len(32, &self.producer)
            + text_len(36, event.key)
            + text_len(37, event.schema)
            + number_len(38, event.expires_at)
            + number_len(40, event.deliver_at);
        self.open(length);
        let out = &mut self.encoded;
        let end = out.len() + length;
        encode_key(4, WireType::Varint, out);
        encode_varint(timestamp, out);
        put(out, 5, event.twist_id.as_bytes());
        for (name, value) in event.headers {
            open(out, 6, text_len(1, name) + text_len(2, value));
            put(out, 1, name.as_bytes());
            put(out, 2, value.as_bytes());
        }
        put(out, 10, event.signature);
        open(out, 21, payload);
        put(out, 1, kind.as_bytes());
        put(out, 2, event.data);
        put(out, 30, id_text.as_bytes());
        put(out, 31, event.topic.as_bytes());
        put(out, 32, self.producer.as_bytes());
        put(out, 36, event.key.as_bytes());
        put(out, 37, event.schema.as_bytes());
        put_number(out, 38, event.expires_at);
        put_number(out, 40, event.deliver_at);
        assert_eq!(
            out.len(),
            end,
            "the envelope has another length than was announced"
        );
    }

    /// Adds an envelope exactly as it is encoded.
    pub fn push_encoded(&mut self, envelope: &[u8]) {
        self.open(envelope.len());
        self.encoded.extend_from_slice(envelope);
    }

    /// Adds an envelope exactly as it is.
    pub fn push_message(&mut self, envelope: &v1::Envelope) {
        self.open(envelope.encoded_len());
        envelope.encode_raw(&mut self.encoded);
    }

    fn open(&mut self, length: usize) {
        open(&mut self.encoded, Self::FIELD, length);
        self.count += 1;
    }

    /// The whole `ClientFrame`.
    pub(super) fn frame(&self, request: u64, reality: &str, durability: Durability) -> Vec<u8> {
        let durability = match durability {
            Durability::Written => v1::Durability::Written,
            Durability::Synced => v1::Durability::Synced,
        } as u64;
        let expected = self
            .expected
            .as_ref()
            .map(v1::ExpectedSequence::encode_to_vec);
        let produce = text_len(1, reality)
            + key_len(2)
            + encoded_len_varint(durability)
            + self.encoded.len()
            + expected
                .as_ref()
                .map_or(0, |expected| delimited_len(6, expected.len()));
        let length = key_len(1) + encoded_len_varint(request) + delimited_len(2, produce);
        let mut frame = Vec::with_capacity(length);
        encode_key(1, WireType::Varint, &mut frame);
        encode_varint(request, &mut frame);
        open(&mut frame, 2, produce);
        put(&mut frame, 1, reality.as_bytes());
        encode_key(2, WireType::Varint, &mut frame);
        encode_varint(durability, &mut frame);
        frame.extend_from_slice(&self.encoded);
        if let Some(expected) = expected {
            open(&mut frame, 6, expected.len());
            frame.extend_from_slice(&expected);
        }
        assert_eq!(
            frame.len(),
            length,
            "the frame has another length than was announced"
        );
        frame
    }

    pub(super) fn check(&self, limits: &v1::Limits) -> Result<(), Error> {
        let within = |what, found: usize, limit: u64| {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            if limit == 0 || found <= limit {
                Ok(())
            } else {
                Err(Error::TooLarge { what, found, limit })
            }
        };
        within(
            "the number of envelopes in the batch",
            self.count,
            limits.batch_records_max,
        )?;
        within(
            "the size of the batch in bytes",
            self.encoded.len(),
            limits.message_bytes_max,
        )
    }
}

/// The time that a UUIDv7 begins with.
fn milliseconds_of(id: Uuid) -> u64 {
    id.as_u64_pair().0 >> 16
}

/// Now, in microseconds since the Unix epoch: what measurements put into payloads.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the client is where real time enters"
)]
pub fn now_micros() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn delimited_len(field: u32, length: usize) -> usize {
    key_len(field) + encoded_len_varint(length as u64) + length
}

fn text_len_of(field: u32, length: usize) -> usize {
    if length == 0 {
        0
    } else {
        delimited_len(field, length)
    }
}

fn text_len(field: u32, text: &str) -> usize {
    text_len_of(field, text.len())
}

fn number_len(field: u32, number: u64) -> usize {
    if number == 0 {
        0
    } else {
        key_len(field) + encoded_len_varint(number)
    }
}

fn open(out: &mut Vec<u8>, field: u32, length: usize) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

/// Leaves out what is empty, as protobuf does.
fn put(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        open(out, field, bytes.len());
        out.extend_from_slice(bytes);
    }
}

/// The same for a number.
fn put_number(out: &mut Vec<u8>, field: u32, number: u64) {
    if number != 0 {
        encode_key(field, WireType::Varint, out);
        encode_varint(number, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::client_frame::Body;
    use crate::proto::v1::{ClientFrame, Envelope, envelope};

    // MSG-01
    #[test]
    fn frame_by_hand_is_what_prost_decodes() {
        let mut batch = Batch::new("me");
        batch.push(&Outgoing {
            topic: "a.b",
            data: b"{}",
            key: "k",
            headers: &[("content-type", "application/json"), ("empty", "")],
            schema: "s",
            twist_id: "t",
            ..Outgoing::default()
        });
        batch.push(&Outgoing {
            topic: "c",
            id: "own",
            ..Outgoing::default()
        });
        let message = Envelope {
            topic: "d".into(),
            ..Envelope::default()
        };
        batch.push_message(&message);
        batch.push_encoded(&message.encode_to_vec());

        batch.expect("a.b", 7);
        let frame = batch.frame(300, "main", Durability::Written);
        let frame = ClientFrame::decode(frame.as_slice()).unwrap();
        assert_eq!(frame.request_id, 300);
        let Some(Body::Produce(produce)) = frame.body else {
            panic!("{frame:?}")
        };
        assert_eq!((produce.reality.as_str(), produce.durability), ("main", 1));
        let expected = produce.expected.unwrap();
        assert_eq!((expected.topic.as_str(), expected.last), ("a.b", 7));
        let envelopes: Vec<Envelope> = produce
            .envelopes
            .into_iter()
            .map(|bytes| Envelope::decode(bytes).unwrap())
            .collect();
        assert_eq!(envelopes.len(), batch.len());
        let Some(envelope::Payload::Event(event)) = &envelopes[0].payload else {
            panic!()
        };
        assert_eq!(
            (event.r#type.as_str(), &*event.data),
            ("a.b", b"{}".as_slice())
        );
        assert_eq!(envelopes[0].headers["content-type"], "application/json");
        assert_eq!(envelopes[0].producer_id, "me");
        let id = Uuid::parse_str(&envelopes[0].id).unwrap();
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(envelopes[0].timestamp.cast_unsigned(), milliseconds_of(id));
        let (key, schema, twist) = (
            &envelopes[0].key,
            &envelopes[0].schema,
            &envelopes[0].twist_id,
        );
        assert_eq!(
            (key.as_str(), schema.as_str(), twist.as_str()),
            ("k", "s", "t")
        );
        assert_eq!(
            (envelopes[1].id.as_str(), envelopes[1].topic.as_str()),
            ("own", "c")
        );
        assert_eq!((&envelopes[2], &envelopes[3]), (&message, &message));
    }
}
