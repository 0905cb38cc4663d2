//! Dead letters: records that a consumer could not deal with, on `dlq.<consumer>` in their own
//! reality (BRK-06).
//!
//! Owns what a letter says, what it is called, and which records have one already. Knows nothing of
//! why a consumer gives a record up: groups, webhooks and operators write the same letters.
//!
//! The node alone appends to these topics, so that what stands there can be relied on. A letter's id
//! is made of the consumer and the record, so that a consumer which finds out after a crash which
//! records [have one](known) never writes a second.

pub(super) mod commands;
mod dealing;

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::error::Error;
use super::filter::Filter;
use super::name::{RealityName, Tenant, is_hidden_topic};
use super::reality::Reality;
use super::system;
use crate::log::{Found, Micros, NewRecord, RecordRef, Sequence};
use crate::proto::topic::DEAD_LETTER_TOKEN;
pub use crate::proto::v1::{DeadLetter, DeadLetterSettled};
use crate::proto::view::RecordView;
pub(super) use dealing::open;
pub use dealing::{ORIGINAL, REPLAY_OF};

/// Name of the event by which a record became a dead letter.
pub const KIND: &str = "dead_letter";
/// Its message.
pub const SCHEMA: &str = "arqon.v1.DeadLetter";
/// Name of the event by which a letter was dealt with.
pub const SETTLED_KIND: &str = "dead_letter_settled";
/// Its message.
pub const SETTLED_SCHEMA: &str = "arqon.v1.DeadLetterSettled";

/// The reason of a letter that was tried as often as its consumer wanted.
pub const MAX_DELIVERIES: &str = "max_deliveries";
/// The reason of a letter whose consumer said that trying again is of no use.
pub const REJECTED: &str = "rejected";

/// Most bytes of a reason, and of an error's text.
const REASON_BYTES_MAX: usize = 64;
const ERROR_BYTES_MAX: usize = 1_024;
/// How much is read at a time.
const READ_BYTES: usize = 256 << 10;

/// How a consumer failed on a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure<'a> {
    /// For programs, a word: [`MAX_DELIVERIES`], [`REJECTED`], or the consumer's own.
    pub reason: &'a str,
    /// For people.
    pub error: &'a str,
    /// How often it was tried.
    pub attempts: u32,
    /// When first.
    pub first_at: Micros,
    /// When last.
    pub last_at: Micros,
    /// Who tried it last.
    pub by: &'a str,
}

/// Where the letters of a consumer stand.
#[must_use]
pub fn topic(consumer: &str) -> String {
    format!("{DEAD_LETTER_TOKEN}.{consumer}")
}

/// The id of the letter that `consumer` writes of the record at `sequence`.
#[must_use]
pub fn id(consumer: &str, tenant: &Tenant, reality: &RealityName, sequence: Sequence) -> String {
    let mut hash = Sha256::new();
    for name in [consumer, tenant.as_str(), reality.as_str()] {
        // With their lengths, so that no two lists of names are the same bytes.
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
    }
    hash.update(sequence.get().to_le_bytes());
    let hash: [u8; 32] = hash.finalize().into();
    let id = hash.first_chunk().copied().map(Uuid::from_bytes);
    id.unwrap_or_default().hyphenated().to_string()
}

/// The letter that `consumer` writes of `record`, which stands in `reality`.
#[must_use]
pub fn of(
    reality: &Reality,
    consumer: &str,
    record: &RecordView<'_>,
    failure: &Failure<'_>,
) -> DeadLetter {
    let sequence = Sequence::at_least_first(record.sequence);
    // What a private message says stays where only its parties read it.
    let private = is_hidden_topic(record.topic);
    let shown = |text| if private { "" } else { text };
    DeadLetter {
        id: id(consumer, reality.tenant(), reality.name(), sequence),
        consumer: consumer.to_owned(),
        reality: reality.name().as_str().to_owned(),
        sequence: sequence.get(),
        topic: record.topic.to_owned(),
        record_id: record.id().into_owned(),
        producer_id: record.producer().to_owned(),
        envelope: if private {
            Bytes::new()
        } else {
            Bytes::copy_from_slice(record.envelope.encoded)
        },
        reason: shortened(failure.reason, REASON_BYTES_MAX).to_owned(),
        error: shortened(shown(failure.error), ERROR_BYTES_MAX).to_owned(),
        attempts: failure.attempts,
        first_at: failure.first_at.0,
        last_at: failure.last_at.0,
        by: failure.by.to_owned(),
    }
}

/// The letter as a record for `reality`, in which its original stands: for a batch of the
/// consumer's own, which says in the same batch that the original is done.
#[must_use]
pub fn record(reality: &Reality, letter: &DeadLetter) -> NewRecord {
    let data = letter.encode_to_vec().into();
    let topic = topic(&letter.consumer);
    system::keyed_event(reality, topic, KIND, SCHEMA, &letter.id, data)
}

/// Which records have a letter by `consumer` that stands at `from` or after, dealt with or not: with
/// everything below `from` done, all that are still asked for. Blocks on the disk.
///
/// # Errors
/// The log cannot be read.
pub fn known(
    reality: &Reality,
    consumer: &str,
    from: Sequence,
) -> Result<BTreeSet<Sequence>, Error> {
    let mut known = BTreeSet::new();
    each(reality, consumer, from, |_, entry| {
        if let Entry::Letter(letter) = entry {
            known.extend(Sequence::new(letter.sequence));
        }
    })?;
    Ok(known)
}

/// Appends a letter, unless there is one of its id already; where the one that counts stands. On
/// disk on `Ok`. Blocks. Whoever may write the same letter at the same time must see to it that
/// only one does.
///
/// # Errors
/// The log cannot be read, or does not take it.
pub fn ensure(reality: &Reality, letter: &DeadLetter) -> Result<Sequence, Error> {
    let from = Sequence::at_least_first(letter.sequence);
    let mut found = None;
    each(reality, &letter.consumer, from, |sequence, entry| {
        if let Entry::Letter(other) = entry
            && other.id == letter.id
        {
            found = Some(sequence);
        }
    })?;
    match found {
        Some(sequence) => Ok(sequence),
        None => {
            let appended = system::append_and_wait(reality, record(reality, letter))?;
            Ok(appended.first)
        }
    }
}

/// Writes the letter of the record at `sequence`, of which `consumer`, that reads `filter`, says that
/// it will never deal with it. On disk on `Ok`. Blocks.
///
/// # Errors
/// There is no such record on disk, or the consumer does not read it; the log cannot be read, or
/// does not take the letter.
pub fn give_up(
    reality: &Reality,
    consumer: &str,
    filter: &Filter,
    sequence: Sequence,
    error: &str,
    by: &str,
) -> Result<(), Error> {
    let bounds = reality.bounds();
    if sequence >= bounds.durable_end {
        return Err(Error::BeyondEnd {
            asked: sequence.get(),
            last: bounds.durable_end.get() - 1,
        });
    }
    let found = reality.log().read(sequence, sequence.next(), 1)?;
    let none = || Error::NoSuchRecord { sequence };
    let Found::Records(chunk) = found else {
        return Err(none());
    };
    let mut records = chunk.iter();
    let record = records.find(|record| record.sequence == sequence);
    let wanted = |record: &RecordRef<'_>| filter.matches(record.topic);
    let record = record.filter(wanted).ok_or_else(none)?;
    let unreadable = |_malformed| Error::RecordDamaged { sequence };
    let view = RecordView::parse(record.record).map_err(unreadable)?;
    let now = reality.now();
    let failure = Failure {
        reason: REJECTED,
        error,
        attempts: 1,
        first_at: now,
        last_at: now,
        by,
    };
    ensure(reality, &of(reality, consumer, &view, &failure)).map(drop)
}

/// What stands on a topic of dead letters.
#[derive(Debug)]
pub enum Entry {
    /// A letter.
    Letter(DeadLetter),
    /// That one was dealt with.
    Settled(DeadLetterSettled),
}

impl Entry {
    /// `None` for a projection's letter, which is none of ours.
    fn of(record: &RecordView<'_>) -> Option<Self> {
        let data = record.envelope.payload.data();
        match record.envelope.schema {
            SCHEMA => DeadLetter::decode(data).ok().map(Self::Letter),
            SETTLED_SCHEMA => DeadLetterSettled::decode(data).ok().map(Self::Settled),
            _ => None,
        }
    }
}

/// Tells what stands on the topic of `consumer` from `from` on, in order, with where it stands.
/// Blocks on the disk.
///
/// # Errors
/// The log cannot be read.
pub fn each(
    reality: &Reality,
    consumer: &str,
    from: Sequence,
    mut tell: impl FnMut(Sequence, Entry),
) -> Result<(), Error> {
    let log = reality.log();
    let topic = topic(consumer);
    let wanted = topic.clone();
    let mut reader = log.topic_reader(Box::new(move |topic| topic == wanted));
    let bounds = log.bounds();
    let (mut next, end) = (from.max(bounds.first), bounds.durable_end);
    while next < end {
        match reader.read(next, end, READ_BYTES)? {
            Found::Records(chunk) => {
                for record in chunk.iter().filter(|record| record.topic == topic) {
                    let view = RecordView::parse(record.record).ok();
                    if let Some(entry) = view.and_then(|view| Entry::of(&view)) {
                        tell(record.sequence, entry);
                    }
                }
                next = chunk.last.next();
            }
            Found::Damaged { next: after, .. } => next = after.max(next.next()),
            Found::End => break,
        }
    }
    Ok(())
}

/// At most `bytes_max` bytes of a text, whole characters.
fn shortened(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    // BRK-06: a letter's id is that of its record and consumer alone.
    #[test]
    fn ids_tell_consumers_places_and_records_apart() {
        let of = |consumer: &str, tenant: &str, reality: &str, sequence: u64| {
            let tenant = Tenant::new(tenant).unwrap();
            let reality = RealityName::new(reality).unwrap();
            id(
                consumer,
                &tenant,
                &reality,
                Sequence::new(sequence).unwrap(),
            )
        };
        let one = of("a", "t", "main", 7);
        assert_eq!(one, of("a", "t", "main", 7));
        assert_eq!(Uuid::parse_str(&one).unwrap().to_string(), one);
        let others = [
            of("b", "t", "main", 7),
            of("a", "u", "main", 7),
            of("a", "t", "other", 7),
            of("a", "t", "main", 8),
            of("at", "m", "ain", 7),
        ];
        assert!(!others.contains(&one));
    }

    #[test]
    fn texts_are_shortened_between_characters() {
        assert_eq!(shortened("abc", 5), "abc");
        assert_eq!(shortened("aé", 2), "a");
    }
}
