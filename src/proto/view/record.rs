//! An envelope as the log holds it.

use std::borrow::Cow;

use uuid::Uuid;

use super::clock::{ClockView, UncheckedClock};
use super::envelope::{EnvelopeView, expires_at_of_envelope};
use super::wire::{Error, Reader, once};

/// Tag and value of `crc`, always last.
const CRC_BYTES: usize = 5;
/// Field 15, wire type 5.
const CRC_TAG: u8 = 15 << 3 | 5;

/// A checked `arqon.v1.Record` with its envelope. Its methods give what holds for the record,
/// whether the producer said it or the node filled it in; the fields give what is encoded.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordView<'a> {
    /// Position in the reality.
    pub sequence: u64,
    /// When the log took it, in microseconds since the Unix epoch.
    pub appended_at: u64,
    /// The producer's clock merged with the log's own entry.
    pub clock: ClockView<'a>,
    /// What it is filtered by.
    pub topic: &'a str,
    /// 16 bytes of a UUIDv7 if the envelope has no id, else empty.
    pub stamped_id: &'a [u8],
    /// Subject of the token if the envelope names no producer, else empty.
    pub stamped_producer: &'a str,
    /// An encoded `arqon.v1.Verdict`, checked.
    pub verdict: Option<&'a [u8]>,
    /// What the producer sent.
    pub envelope: EnvelopeView<'a>,
    /// The checksum it carries, verified or not.
    pub crc: u32,
    /// All of it, as encoded.
    pub encoded: &'a [u8],
}

/// A record whose checksum does not fit its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("checksum of the record: expected {expected:08x}, found {found:08x}")]
pub struct ChecksumError {
    /// By its bytes.
    pub expected: u32,
    /// In its last field; 0 if that is missing.
    pub found: u32,
}

impl<'a> RecordView<'a> {
    /// Checks and indexes an encoded record and its envelope, the checksum not
    /// (see [`RecordView::verify`]).
    ///
    /// # Errors
    /// Whatever prost would reject in either, a group, or a message field that occurs twice.
    pub fn parse(encoded: &'a [u8]) -> Result<Self, Error> {
        let mut view = Self {
            encoded,
            ..Self::default()
        };
        let mut clock = None;
        let mut reader = Reader::new(encoded);
        while let Some((number, wire)) = reader.key("record")? {
            match number {
                1 => view.sequence = reader.varint(wire, "sequence")?,
                2 => view.appended_at = reader.fixed64(wire, "appended_at")?,
                3 => once(
                    &mut clock,
                    ClockView::parse(reader.bytes(wire, "clock")?)?,
                    "clock",
                )?,
                4 => view.topic = reader.text(wire, "topic")?,
                5 => view.stamped_id = reader.bytes(wire, "id")?,
                6 => view.stamped_producer = reader.text(wire, "producer_id")?,
                7 => {
                    let bytes = reader.bytes(wire, "verdict")?;
                    verdict(bytes)?;
                    once(&mut view.verdict, bytes, "verdict")?;
                }
                8 => view.envelope = EnvelopeView::parse(reader.bytes(wire, "envelope")?)?,
                15 => view.crc = reader.fixed32(wire, "crc")?,
                _ => reader.skip(number, wire)?,
            }
        }
        view.clock = clock.unwrap_or_default();
        Ok(view)
    }

    /// Compares the checksum at the end of the record with its bytes.
    ///
    /// # Errors
    /// They differ, or the record does not end with its checksum.
    pub fn verify(&self) -> Result<(), ChecksumError> {
        let (body, tail) = self
            .encoded
            .split_last_chunk::<CRC_BYTES>()
            .ok_or(ChecksumError {
                expected: 0,
                found: 0,
            })?;
        let expected = crc32fast::hash(body);
        let [tag, value @ ..] = *tail;
        let found = if tag == CRC_TAG {
            u32::from_le_bytes(value)
        } else {
            0
        };
        if tag == CRC_TAG && found == expected {
            Ok(())
        } else {
            Err(ChecksumError { expected, found })
        }
    }

    /// The id in text form: the envelope's, else the node's.
    #[must_use]
    pub fn id(&self) -> Cow<'a, str> {
        if !self.envelope.id.is_empty() {
            return Cow::Borrowed(self.envelope.id);
        }
        self.stamped_uuid().map_or(Cow::Borrowed(""), |id| {
            Cow::Owned(id.hyphenated().to_string())
        })
    }

    /// The trace it belongs to: what the envelope says, else the node's id without its dashes.
    #[must_use]
    pub fn trace_id(&self) -> Cow<'a, str> {
        self.envelope.trace().unwrap_or_else(|| {
            self.stamped_uuid()
                .map_or(Cow::Borrowed(""), |id| Cow::Owned(id.simple().to_string()))
        })
    }

    fn stamped_uuid(&self) -> Option<Uuid> {
        self.stamped_id.try_into().ok().map(Uuid::from_bytes)
    }

    /// Who produced it: by the envelope, else the subject of the token.
    #[must_use]
    pub const fn producer(&self) -> &'a str {
        if self.envelope.producer_id.is_empty() {
            self.stamped_producer
        } else {
            self.envelope.producer_id
        }
    }

    /// Milliseconds since the Unix epoch: the producer's clock, else when the log took it.
    #[must_use]
    pub fn timestamp(&self) -> i64 {
        match self.envelope.timestamp {
            0 => (self.appended_at / 1_000).cast_signed(),
            set => set,
        }
    }
}

/// The clock of an encoded record; nothing behind it is looked at.
///
/// # Errors
/// The record is malformed before its clock or at its end.
pub fn clock_of(encoded: &[u8]) -> Result<UncheckedClock<'_>, Error> {
    let mut reader = Reader::new(encoded);
    while let Some((number, wire)) = reader.key("record")? {
        if number == 3 {
            return Ok(UncheckedClock::new(reader.bytes(wire, "clock")?));
        }
        reader.skip(number, wire)?;
    }
    Ok(UncheckedClock::default())
}

/// `expires_at` of the envelope in an encoded record; 0 for none, and where it cannot be read.
/// Nothing but the keys of the fields before it is looked at.
#[must_use]
pub fn expires_at_of_record(encoded: &[u8]) -> i64 {
    let mut reader = Reader::new(encoded);
    while let Ok(Some((number, wire))) = reader.key("record") {
        if number == 8 {
            return reader
                .bytes(wire, "envelope")
                .map_or(0, expires_at_of_envelope);
        }
        if reader.skip(number, wire).is_err() {
            break;
        }
    }
    0
}

fn verdict(bytes: &[u8]) -> Result<(), Error> {
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.key("verdict")? {
        match number {
            1 => reader.bytes(wire, "verdict.policy_digest").map(drop)?,
            2 => reader.varint(wire, "verdict.policy_version").map(drop)?,
            3 => reader.varint(wire, "verdict.schema_version").map(drop)?,
            4 => reader.text(wire, "verdict.flags").map(drop)?,
            5 => classification(reader.bytes(wire, "verdict.classification")?)?,
            _ => reader.skip(number, wire)?,
        }
    }
    Ok(())
}

fn classification(encoded: &[u8]) -> Result<(), Error> {
    let mut reader = Reader::new(encoded);
    while let Some((number, wire)) = reader.key("verdict.classification")? {
        match number {
            1..=5 => reader.text(wire, "verdict.classification").map(drop)?,
            _ => reader.skip(number, wire)?,
        }
    }
    Ok(())
}
