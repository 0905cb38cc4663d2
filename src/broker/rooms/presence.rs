//! Who comes and goes, as records on `op.presence.<room>.<channel>` of the reality `main`.
//!
//! The node alone writes them, so that anybody who reads them from the beginning knows who is
//! where. A node that was killed has not said who went with it: its successor says so, once,
//! before it lets anybody in.

use std::collections::HashMap;

use prost::Message as _;

use super::{Member, Place};
use crate::broker::error::Error;
use crate::broker::reality::Reality;
use crate::broker::{OwnRecord, room, system};
use crate::log::{Found, NewRecord};
use crate::proto::v1::Presence;
use crate::proto::v1::presence::Change;
use crate::proto::view::RecordView;

/// Says that all before it is settled.
const SETTLED: &str = "op.presence";
/// How much is read at a time.
const READ_BYTES: usize = 256 << 10;
/// Records that are written together.
const BATCH: usize = 1_000;
/// So many records are worth a note that they need not be read again.
const WORTH_A_NOTE: usize = 10_000;

/// Why a member of a dead node is one no more.
pub const NODE_WENT: &str = "node_went";

impl Change {
    /// Name of the event.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Joined => "presence.joined",
            Self::Left => "presence.left",
            Self::Expired => "presence.expired",
            Self::Unspecified => "presence",
        }
    }

    /// The same in a word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Left => "left",
            Self::Expired => "expired",
            Self::Unspecified => "",
        }
    }
}

/// The record of a change.
pub(super) fn record(
    reality: &Reality,
    place: &Place,
    member: &Member,
    change: Change,
    reason: &str,
) -> NewRecord {
    let said = Presence {
        room: place.room.to_string(),
        channel: place.channel.to_string(),
        member: member.id.to_string(),
        subject: member.subject.to_string(),
        change: change.into(),
        reason: reason.to_owned(),
        since: member.since.0,
        sequence: 0,
    };
    written(reality, &said, change)
}

fn written(reality: &Reality, said: &Presence, change: Change) -> NewRecord {
    let record = OwnRecord {
        topic: room::presence(&said.room, &said.channel),
        kind: change.kind().into(),
        schema: "arqon.v1.Presence".into(),
        data: said.encode_to_vec().into(),
        // Of each member its last word stays where the topic is compacted.
        key: said.member.clone(),
        headers: [("channel".to_owned(), said.channel.clone())].into(),
        room: said.room.clone(),
        ..OwnRecord::default()
    };
    record.encode(reality)
}

/// Whoever is there by the records and cannot be, because nobody has been let in yet.
#[derive(Debug, Default)]
pub(super) struct LeftOver {
    pub(super) members: Vec<Presence>,
    /// How many records that took.
    read: usize,
}

/// What a record says, if it is one of presence.
#[must_use]
pub fn said(record: &RecordView<'_>) -> Option<Presence> {
    room::of_presence(record.topic)?;
    Presence::decode(record.envelope.payload.data()).ok()
}

/// Reads who is there by the records. What is lost of them is passed over: whoever came in a part
/// that cannot be read is known to nobody else either. Blocks on the disk.
pub(super) fn left_over(reality: &Reality) -> Result<LeftOver, Error> {
    let log = reality.log();
    let wanted = |topic: &str| topic == SETTLED || topic.starts_with(room::PRESENCE);
    let settled = log.last_of(SETTLED)?;
    let mut next = settled.unwrap_or(log.bounds().first);
    let end = log.bounds().durable_end;
    let mut reader = log.topic_reader(Box::new(wanted));
    let mut there: HashMap<(String, String, String), Presence> = HashMap::new();
    let mut read = 0;
    while next < end {
        match reader.read(next, end, READ_BYTES)? {
            Found::Records(chunk) => {
                for record in chunk.iter() {
                    let view = RecordView::parse(record.record).ok();
                    let Some(said) = view.as_ref().and_then(said) else {
                        continue;
                    };
                    read += 1;
                    let who = (said.room.clone(), said.channel.clone(), said.member.clone());
                    if said.change() == Change::Joined {
                        there.insert(who, said);
                    } else {
                        there.remove(&who);
                    }
                }
                next = chunk.last.next();
            }
            Found::Damaged { next: after, .. } => next = after.max(next.next()),
            Found::End => break,
        }
    }
    let mut members: Vec<Presence> = there.into_values().collect();
    members.sort_by(|a, b| {
        let key = |one: &Presence| (one.room.clone(), one.channel.clone(), one.member.clone());
        key(a).cmp(&key(b))
    });
    Ok(LeftOver { members, read })
}

/// Says of all who are left over that they are gone. A crash in between leaves the rest to the
/// next attempt. Blocks.
pub(super) fn settle(reality: &Reality, left: &LeftOver) -> Result<usize, Error> {
    let gone = left.members.len();
    if gone == 0 && left.read < WORTH_A_NOTE {
        return Ok(0);
    }
    let mut batches = left.members.chunks(BATCH).peekable();
    while let Some(batch) = batches.next() {
        let expired = batch.iter().map(|one| {
            let said = Presence {
                change: Change::Expired.into(),
                reason: NODE_WENT.into(),
                ..one.clone()
            };
            written(reality, &said, Change::Expired)
        });
        let mut records: Vec<NewRecord> = expired.collect();
        if batches.peek().is_none() {
            records.push(note(reality));
        }
        system::append_all_and_wait(reality, records)?;
    }
    if gone == 0 {
        system::append_all_and_wait(reality, vec![note(reality)])?;
    }
    Ok(gone)
}

/// Nobody is anywhere, and nothing before this needs to be read to know it.
fn note(reality: &Reality) -> NewRecord {
    let record = OwnRecord {
        topic: SETTLED.into(),
        kind: "presence.settled".into(),
        ..OwnRecord::default()
    };
    record.encode(reality)
}
