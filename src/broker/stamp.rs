//! What the broker writes beside an envelope: an id and a producer where it leaves them out
//! (MSG-02), and the edge's verdict.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::{Builder, Uuid};

use crate::log::Micros;

/// `Record.id`, of 16 bytes.
const ID_TAG: [u8; 2] = [5 << 3 | 2, 16];
/// `Record.producer_id`.
const PRODUCER_TAG: u8 = 6 << 3 | 2;
/// `Record.verdict`.
const VERDICT_TAG: u8 = 7 << 3 | 2;

/// Makes UUIDv7s without asking the operating system for each.
#[derive(Debug)]
pub struct IdSource {
    seed: [u64; 2],
    count: AtomicU64,
}

impl IdSource {
    /// Starts from random numbers of this process.
    #[must_use]
    pub fn new() -> Self {
        // RandomState takes its keys from the operating system, and a v7 has 74 random bits more.
        let hash = |salt: u64| RandomState::new().hash_one((salt, Uuid::now_v7()));
        Self {
            seed: [hash(1), hash(2)],
            count: AtomicU64::new(0),
        }
    }

    /// An id for something that happens at `now`, greater than those made before it in the same
    /// millisecond (up to 4,096 of them).
    pub fn next(&self, now: Micros) -> Uuid {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let random = mix(self.seed[0] ^ mix(self.seed[1].wrapping_add(count)));
        let mut bytes = [0; 10];
        // The low 12 bits of the first two bytes are what follows the version in a v7.
        let [low, high, ..] = count.to_le_bytes();
        bytes[0] = high & 0x0f;
        bytes[1] = low;
        bytes[2..].copy_from_slice(&random.to_le_bytes());
        Builder::from_unix_timestamp_millis(now.as_millis(), &bytes).into_uuid()
    }
}

impl Default for IdSource {
    fn default() -> Self {
        Self::new()
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection, so that two counts never
/// give the same bits.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Appends the encoded stamp of one record: each part only if given. `verdict` is an encoded
/// `arqon.v1.Verdict`, or empty.
pub fn encode(id: Option<Uuid>, producer: Option<&str>, verdict: &[u8], out: &mut bytes::BytesMut) {
    if let Some(id) = id {
        out.extend_from_slice(&ID_TAG);
        out.extend_from_slice(id.as_bytes());
    }
    if let Some(producer) = producer {
        out.extend_from_slice(&[PRODUCER_TAG]);
        prost::encoding::encode_varint(producer.len() as u64, out);
        out.extend_from_slice(producer.as_bytes());
    }
    if !verdict.is_empty() {
        out.extend_from_slice(&[VERDICT_TAG]);
        prost::encoding::encode_varint(verdict.len() as u64, out);
        out.extend_from_slice(verdict);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use prost::Message as _;

    use super::*;
    use crate::proto::v1::{Record, Verdict};

    // MSG-02
    #[test]
    fn ids_are_version_7_distinct_and_ordered() {
        let source = IdSource::new();
        let now = Micros(1_700_000_000_123_456);
        let ids: Vec<_> = (0..4_000).map(|_| source.next(now)).collect();
        assert!(ids.is_sorted());
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        for id in &ids {
            assert_eq!(id.get_version_num(), 7);
            let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
            assert_eq!((seconds, nanos), (1_700_000_000, 123_000_000));
        }
    }

    // MSG-02
    #[test]
    fn the_stamp_is_part_of_an_encoded_record() {
        let id = IdSource::new().next(Micros(1));
        let mut out = bytes::BytesMut::new();
        let verdict = Verdict {
            policy_version: 7,
            ..Verdict::default()
        };
        encode(Some(id), Some("svc"), &verdict.encode_to_vec(), &mut out);
        let record = Record::decode(out.as_ref()).unwrap();
        assert_eq!(record.id, id.as_bytes().as_slice());
        assert_eq!(record.producer_id, "svc");
        assert_eq!(record.verdict, Some(verdict));
    }
}
