//! Dealing with dead letters: looking at them, sending their originals again, throwing them away
//! (BRK-06).
//!
//! An original that is sent again and the word that its letter is settled by that go into one batch,
//! so that a crash leaves both or neither, and nothing is sent twice that was to be sent once.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::{
    DeadLetter, DeadLetterSettled, Entry, REASON_BYTES_MAX, SETTLED_KIND, SETTLED_SCHEMA, each,
    shortened, topic,
};
use crate::broker::error::Error;
use crate::broker::name::is_reserved_topic;
use crate::broker::operators::sam::task::TASK_PREFIX;
use crate::broker::reality::Reality;
use crate::broker::tenancy::Tenancy;
use crate::broker::{stamp, system};
use crate::log::{Found, Micros, NewRecord, Sequence};
use crate::proto::view::{EnvelopeView, RecordView};

/// Header of an original that was sent again: the letter's id and where that stands.
pub const REPLAY_OF: &str = "arqon-replay-of";
/// Header of an original that was sent again: its reality and where it stands there.
pub const ORIGINAL: &str = "arqon-original";

/// Most letters that are dealt with together.
pub(super) const LETTERS_MAX: usize = 1_000;

const REPLAYED: &str = "replayed";
const DISCARDED: &str = "discarded";

/// Which letters are meant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Which {
    /// The one with this id, dealt with or not.
    pub(super) id: Option<String>,
    /// Those whose reason or error holds this.
    pub(super) reason: Option<String>,
    /// Those whose original stood on this topic.
    pub(super) topic: Option<String>,
    /// Those that were tried last from this time on,
    pub(super) from: Option<Micros>,
    /// and up to this one, included.
    pub(super) to: Option<Micros>,
    /// Those that stand after this.
    pub(super) after: Option<Sequence>,
    /// No more than so many.
    pub(super) limit: usize,
}

/// A letter as it stands.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Standing {
    pub(super) at: Sequence,
    pub(super) letter: DeadLetter,
    /// What became of it, who did that, and where its original stands again.
    pub(super) settled: Option<(DeadLetterSettled, Option<Sequence>)>,
}

impl Which {
    fn holds(&self, at: Sequence, letter: &DeadLetter) -> bool {
        let within = |text: &str| letter.reason.contains(text) || letter.error.contains(text);
        self.id.as_ref().is_none_or(|id| *id == letter.id)
            && self.reason.as_deref().is_none_or(within)
            && self
                .topic
                .as_ref()
                .is_none_or(|topic| *topic == letter.topic)
            && self.from.is_none_or(|from| from.0 <= letter.last_at)
            && self.to.is_none_or(|to| letter.last_at <= to.0)
            && self.after.is_none_or(|after| at > after)
    }
}

/// How many letters of a consumer nobody has dealt with. Blocks on the disk.
pub(in crate::broker) fn open(reality: &Reality, consumer: &str) -> Result<u64, Error> {
    let mut letters = HashMap::new();
    each(reality, consumer, Sequence::FIRST, |_, entry| match entry {
        Entry::Letter(letter) => drop(letters.insert(letter.id, ())),
        Entry::Settled(settled) => drop(letters.remove(&settled.id)),
    })?;
    Ok(letters.len() as u64)
}

/// The letters that are meant, in the order in which they were written; but for one that is meant
/// by its id, only those that nobody has dealt with. Blocks on the disk.
pub(super) fn find(
    reality: &Reality,
    consumer: &str,
    which: &Which,
) -> Result<Vec<Standing>, Error> {
    // Twice over the topic, so that no more is in memory than what is meant: first who is settled.
    let mut settled = HashMap::new();
    each(reality, consumer, Sequence::FIRST, |at, entry| {
        if let Entry::Settled(one) = entry {
            settled.insert(one.id.clone(), (at, one));
        }
    })?;
    let mut found: Vec<Standing> = Vec::new();
    each(reality, consumer, Sequence::FIRST, |at, entry| {
        let Entry::Letter(letter) = entry else {
            return;
        };
        if !which.holds(at, &letter) {
            return;
        }
        // A letter that was written after that counts anew: its group was set back.
        let settled = settled.get(&letter.id).filter(|(when, _)| *when > at);
        let settled = settled.map(|(when, one)| {
            let replayed = (one.outcome == REPLAYED).then(|| when.previous()).flatten();
            (one.clone(), replayed)
        });
        if which.id.is_some() {
            // The last one of this id holds.
            found.clear();
        } else if settled.is_some() || found.len() >= which.limit {
            return;
        }
        found.push(Standing {
            at,
            letter,
            settled,
        });
    })?;
    for one in &mut found {
        if one.letter.envelope.is_empty() {
            one.letter.envelope = envelope_of(reality, &one.letter)?;
        }
    }
    Ok(found)
}

/// The original of a letter that does not hold it, because it is private; empty if it is gone.
fn envelope_of(reality: &Reality, letter: &DeadLetter) -> Result<Bytes, Error> {
    let log = reality.log();
    let at = Sequence::at_least_first(letter.sequence);
    if at < log.bounds().first {
        return Ok(Bytes::new());
    }
    let Found::Records(chunk) = log.read(at, at.next(), 1)? else {
        return Ok(Bytes::new());
    };
    let views = chunk
        .iter()
        .filter_map(|record| RecordView::parse(record.record).ok());
    let mut same =
        views.filter(|view| view.topic == letter.topic && view.id().as_ref() == letter.record_id);
    let envelope = same.next().map(|view| view.envelope.encoded);
    Ok(envelope.map_or_else(Bytes::new, Bytes::copy_from_slice))
}

/// Sends an original again and settles its letter by that. Where the original stands now. Blocks.
pub(super) fn replay(reality: &Reality, one: &Standing, by: &str) -> Result<Sequence, Error> {
    let again = original(reality, one)?;
    let settled = settlement(reality, &one.letter, REPLAYED, by, "");
    let appended = system::append_all_and_wait(reality, vec![again, settled])?;
    Ok(appended.first)
}

/// Settles a letter without doing anything else. Blocks.
pub(super) fn discard(
    reality: &Reality,
    one: &Standing,
    by: &str,
    reason: &str,
) -> Result<(), Error> {
    let settled = settlement(reality, &one.letter, DISCARDED, by, reason);
    system::append_all_and_wait(reality, vec![settled]).map(drop)
}

/// Why an original cannot be sent again, if it cannot.
pub(super) fn obstacle(one: &Standing) -> Option<&'static str> {
    // A task that is put back is taken up like one that was dispatched; what else stands there are
    // the node's own statements, which are not made twice.
    let topic = one.letter.topic.as_str();
    if is_reserved_topic(topic) && !topic.starts_with(TASK_PREFIX) {
        return Some("its topic is one that only the node appends to");
    }
    if one.letter.envelope.is_empty() {
        return Some("its original is private, and the log does not hold it any more");
    }
    let readable = EnvelopeView::parse(&one.letter.envelope).is_ok();
    (!readable).then_some("its envelope cannot be read")
}

fn original(reality: &Reality, one: &Standing) -> Result<NewRecord, Error> {
    let letter = &one.letter;
    let Ok(view) = EnvelopeView::parse(&letter.envelope) else {
        return Err(Error::RecordDamaged { sequence: one.at });
    };
    let links = [
        (REPLAY_OF, format!("{}/{}", letter.id, one.at)),
        (ORIGINAL, format!("{}/{}", letter.reality, letter.sequence)),
    ];
    let kept = view.headers.iter();
    let kept = kept.filter(|(name, _)| links.iter().all(|(link, _)| link != name));
    let mut headers: Vec<(String, String)> = kept
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    headers.extend(links.map(|(name, value)| (name.to_owned(), value)));
    let id = view.id.is_empty().then(|| reality.next_id(reality.now()));
    let producer = view
        .producer_id
        .is_empty()
        .then_some(letter.producer_id.as_str());
    let mut stamped = BytesMut::new();
    stamp::encode(id, producer, &[], &mut stamped);
    Ok(NewRecord {
        topic: Bytes::copy_from_slice(letter.topic.as_bytes()),
        clock_entries: Bytes::new(),
        stamp: stamped.freeze(),
        envelope: view.rewritten(None, Some(&headers)).into(),
    })
}

fn settlement(
    reality: &Reality,
    letter: &DeadLetter,
    outcome: &str,
    by: &str,
    reason: &str,
) -> NewRecord {
    let settled = DeadLetterSettled {
        id: letter.id.clone(),
        outcome: outcome.to_owned(),
        by: by.to_owned(),
        reason: shortened(reason, REASON_BYTES_MAX).to_owned(),
    };
    let (topic, data) = (topic(&letter.consumer), settled.encode_to_vec().into());
    system::keyed_event(
        reality,
        topic,
        SETTLED_KIND,
        SETTLED_SCHEMA,
        &letter.id,
        data,
    )
}

/// Lets one at a time deal with the letters of a tenant, so that nobody settles what another has
/// settled meanwhile.
pub(super) fn alone<T>(tenancy: &Tenancy, deal: impl FnOnce() -> T) -> T {
    let _alone = tenancy.dealing();
    deal()
}
