//! Layout of one record: `arqon.v1.Record`, framed as an element of `Deliver.records`.
//!
//! Owns the constants of that layout; `docs/log-format.md` explains them. Knows no file and no
//! batch.
//!
//! A record is a valid protobuf message, with its fields in ascending order and its checksum last.
//! Framed with tag and length it is also an element of the `records` of a `Deliver`, so a run of
//! records goes from the disk to the socket as it is.

use super::append::NewRecord;
use super::chunk::RecordRef;
use super::position::{Micros, Sequence};
use super::wire::{
    BYTES, FIXED32, FIXED64, VARINT, length_prefixed, put_varint, tag, varint, varint_len,
};

/// Tag of `Deliver.records`.
pub(super) const FIELD: u8 = tag(1, BYTES);
const SEQUENCE: u8 = tag(1, VARINT);
const APPENDED_AT: u8 = tag(2, FIXED64);
const CLOCK: u8 = tag(3, BYTES);
const TOPIC: u8 = tag(4, BYTES);
const ENVELOPE: u8 = tag(8, BYTES);
const CRC: u8 = tag(15, FIXED32);
/// Tags inside `VectorClock` and its map entries.
const CLOCK_ENTRY: u8 = tag(1, BYTES);
const ENTRY_KEY: u8 = tag(1, BYTES);
const ENTRY_VALUE: u8 = tag(2, VARINT);

/// Bytes of the checksum field at the end of every record.
pub(super) const CRC_FIELD_BYTES: usize = 5;
const APPENDED_AT_BYTES: usize = 9;

const _: () = assert!(CRC == 0x7d, "docs/log-format.md names this byte");
const _: () = assert!(FIELD == 0x0a, "docs/log-format.md names this byte");

/// Bytes that `new` takes in a batch at `sequence`, framing included.
pub(super) fn encoded_len(new: &NewRecord, clock_key: &str, sequence: Sequence) -> usize {
    let record = record_len(new, clock_len(new, clock_key, sequence), sequence);
    1 + varint_len(record as u64) + record
}

/// Appends `new` to a batch. Exactly [`encoded_len`] bytes are added.
pub(super) fn encode(
    out: &mut Vec<u8>,
    new: &NewRecord,
    clock_key: &str,
    sequence: Sequence,
    appended_at: Micros,
) {
    let clock = clock_len(new, clock_key, sequence);
    let record = record_len(new, clock, sequence);
    out.push(FIELD);
    put_varint(out, record as u64);
    let start = out.len();

    out.push(SEQUENCE);
    put_varint(out, sequence.get());
    out.push(APPENDED_AT);
    out.extend_from_slice(&appended_at.0.to_le_bytes());
    out.push(CLOCK);
    put_varint(out, clock as u64);
    put_clock_entry(out, clock_key, sequence);
    out.extend_from_slice(&new.clock_entries);
    out.push(TOPIC);
    put_bytes(out, &new.topic);
    out.extend_from_slice(&new.stamp);
    out.push(ENVELOPE);
    put_bytes(out, &new.envelope);
    let crc = crc32fast::hash(&out[start..]);
    out.push(CRC);
    out.extend_from_slice(&crc.to_le_bytes());
    assert_eq!(out.len() - start, record, "length of record {sequence}");
}

fn record_len(new: &NewRecord, clock: usize, sequence: Sequence) -> usize {
    1 + varint_len(sequence.get())
        + APPENDED_AT_BYTES
        + bytes_len(clock)
        + bytes_len(new.topic.len())
        + new.stamp.len()
        + bytes_len(new.envelope.len())
        + CRC_FIELD_BYTES
}

fn clock_len(new: &NewRecord, clock_key: &str, sequence: Sequence) -> usize {
    bytes_len(entry_len(clock_key, sequence)) + new.clock_entries.len()
}

fn entry_len(clock_key: &str, sequence: Sequence) -> usize {
    bytes_len(clock_key.len()) + 1 + varint_len(sequence.get())
}

fn put_clock_entry(out: &mut Vec<u8>, clock_key: &str, sequence: Sequence) {
    out.push(CLOCK_ENTRY);
    put_varint(out, entry_len(clock_key, sequence) as u64);
    out.push(ENTRY_KEY);
    put_bytes(out, clock_key.as_bytes());
    out.push(ENTRY_VALUE);
    put_varint(out, sequence.get());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

const fn bytes_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// The record framed at the start of `bytes`, and how many bytes it takes with its frame. Checks
/// the structure, not the checksum; `None` if there is no record here.
pub(super) fn parse(bytes: &[u8]) -> Option<(RecordRef<'_>, usize)> {
    if *bytes.first()? != FIELD {
        return None;
    }
    let (record, taken) = length_prefixed(&bytes[1..])?;
    let field = &bytes[..=taken];

    let mut rest = expect(record, SEQUENCE)?;
    let (sequence, len) = varint(rest)?;
    let sequence = Sequence::new(sequence)?;
    rest = expect(&rest[len..], APPENDED_AT)?;
    let appended_at = u64::from_le_bytes(*rest.first_chunk()?);
    rest = expect(&rest[8..], CLOCK)?;
    let (_, len) = length_prefixed(rest)?;
    rest = expect(&rest[len..], TOPIC)?;
    let (topic, _) = length_prefixed(rest)?;
    if record.get(record.len().checked_sub(CRC_FIELD_BYTES)?) != Some(&CRC) {
        return None;
    }
    let parsed = RecordRef {
        sequence,
        appended_at: Micros(appended_at),
        topic: std::str::from_utf8(topic).ok()?,
        record,
        field,
    };
    Some((parsed, field.len()))
}

fn expect(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let (first, rest) = bytes.split_first()?;
    (*first == tag).then_some(rest)
}

impl RecordRef<'_> {
    /// The checksum that the record carries and the one that its bytes have.
    #[must_use]
    pub fn checksums(&self) -> (u32, u32) {
        let (body, crc) = self.record.split_at(self.record.len() - CRC_FIELD_BYTES);
        let stored = crc[1..]
            .first_chunk()
            .copied()
            .map_or(0, u32::from_le_bytes);
        (stored, crc32fast::hash(body))
    }

    /// Whether the bytes are what was appended.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        let (stored, computed) = self.checksums();
        stored == computed
    }
}

/// Walks over framed records that are known to be good.
#[derive(Clone, Debug)]
pub(super) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = RecordRef<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (record, len) = parse(self.rest)?;
        self.rest = &self.rest[len..];
        Some(record)
    }
}

/// Every intact record anywhere in `region`, which is known to hold damage: the byte range of its
/// frame and its sequence. Finds records again behind a damaged length.
pub(super) fn salvage(region: &[u8]) -> Vec<(std::ops::Range<usize>, Sequence)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < region.len() {
        match parse(&region[at..]) {
            Some((record, len)) if record.is_intact() => {
                found.push((at..at + len, record.sequence));
                at += len;
            }
            _ => at += 1,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn new_record(topic: &str, envelope: &[u8]) -> NewRecord {
        NewRecord {
            topic: Bytes::copy_from_slice(topic.as_bytes()),
            clock_entries: Bytes::new(),
            stamp: Bytes::new(),
            envelope: Bytes::copy_from_slice(envelope),
        }
    }

    fn encoded(sequence: u64, envelope: &[u8]) -> Vec<u8> {
        let new = new_record("quake.ak", envelope);
        let sequence = Sequence::new(sequence).unwrap();
        let mut out = Vec::new();
        encode(&mut out, &new, "n1/main", sequence, Micros(7));
        assert_eq!(out.len(), encoded_len(&new, "n1/main", sequence));
        out
    }

    #[test]
    fn what_is_encoded_is_parsed() {
        for sequence in [1, 127, 128, 1 << 40] {
            let bytes = encoded(sequence, b"payload");
            let (record, len) = parse(&bytes).unwrap();
            assert_eq!(len, bytes.len());
            assert_eq!(record.sequence.get(), sequence);
            assert_eq!(record.appended_at, Micros(7));
            assert_eq!(record.topic, "quake.ak");
            assert!(record.is_intact());
        }
    }

    // LOG-20: no input panics, and no changed byte goes unnoticed.
    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = encoded(5, b"some payload bytes");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Some((record, len)) = parse(&bad) {
                assert!(!record.is_intact() || len != good.len(), "bit {bit}");
            }
        }
    }

    #[test]
    fn salvage_finds_records_around_damage() {
        let mut region = Vec::new();
        let mut starts = Vec::new();
        for sequence in 1..=5 {
            starts.push(region.len());
            region.extend_from_slice(&encoded(sequence, b"abcdefgh"));
        }
        region[starts[2] + 1] = 0xff; // the length of the third
        let found: Vec<u64> = salvage(&region).iter().map(|(_, s)| s.get()).collect();
        assert_eq!(found, [1, 2, 4, 5]);
    }
}
