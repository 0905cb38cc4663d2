//! An envelope on its way from one reality into another: whatever the node had filled in, it now
//! says itself, and where it comes from.

use prost::encoding::{int64, string};

use super::view::RecordView;

/// Numbers of `Envelope.timestamp` and of the strings that the node may have filled in.
const TRACE_ID: u32 = 1;
const TIMESTAMP: u32 = 4;
const TWIST_ID: u32 = 5;
const ID: u32 = 30;
const TOPIC: u32 = 31;
const PRODUCER_ID: u32 = 32;
const REALITY_ID: u32 = 33;

/// The envelope of `record`, which stands in the reality `from`, for the reality `into`: as it was
/// sent, with what has changed behind it. Of a field that occurs twice the later counts, and nothing
/// is encoded again.
#[must_use]
pub fn twisted(record: &RecordView<'_>, from: &str, into: &str) -> Vec<u8> {
    let envelope = &record.envelope;
    let mut bytes = envelope.encoded.to_vec();
    let mut add = |field, text: &str| string::encode(field, &text.to_owned(), &mut bytes);
    add(TWIST_ID, from);
    if envelope.trace_id.is_empty() {
        add(TRACE_ID, &record.trace_id());
    }
    if envelope.id.is_empty() {
        add(ID, &record.id());
    }
    if envelope.topic != record.topic {
        add(TOPIC, record.topic);
    }
    if envelope.producer_id.is_empty() {
        add(PRODUCER_ID, record.producer());
    }
    if !envelope.reality_id.is_empty() {
        add(REALITY_ID, into);
    }
    if envelope.timestamp == 0 {
        int64::encode(TIMESTAMP, &record.timestamp(), &mut bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::determinism::HistoryHash;
    use crate::proto::v1::{Envelope, Record};

    // MSG-10, MSG-12
    #[test]
    fn a_twisted_envelope_has_the_hash_of_its_original() {
        let hash = |record: &Record| {
            let bytes = record.encode_to_vec();
            let mut hash = HistoryHash::default();
            hash.add(&RecordView::parse(&bytes).unwrap());
            hash.text()
        };
        let sent = Envelope {
            room_id: "r".into(),
            reality_id: "main".into(),
            key: "k".into(),
            ..Envelope::default()
        };
        let original = Record {
            sequence: 5,
            appended_at: 1_700_000_000_000_000,
            topic: "a.b".into(),
            id: vec![7; 16].into(),
            producer_id: "alice".into(),
            envelope: sent.encode_to_vec().into(),
            ..Record::default()
        };
        let bytes = original.encode_to_vec();
        let view = RecordView::parse(&bytes).unwrap();
        let envelope = twisted(&view, "main", "copy");
        let found = Envelope::decode(envelope.as_slice()).unwrap();
        assert_eq!(
            (found.twist_id.as_str(), found.reality_id.as_str()),
            ("main", "copy")
        );
        let copy = Record {
            sequence: 1,
            appended_at: 1_800_000_000_000_000,
            topic: "a.b".into(),
            envelope: envelope.into(),
            ..Record::default()
        };
        assert_eq!(hash(&original), hash(&copy));
    }
}
