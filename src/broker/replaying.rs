//! Stores a part of one reality's history in another (MSG-08), each record once: how far a copy has
//! got stands beside what it has copied, in the same batch.
//!
//! Envelopes go as they were sent, with what the node had filled in; their `twist_id` names where
//! they come from. What only the node writes is left out. Blocks on the disk. Knows no caller.

use prost::Message as _;

use super::accept::{Fault, Rejection};
use super::error::Error;
use super::history::{Check, Part, Window};
use super::own::{Expected, OwnRecord, Piece};
use super::reality::Reality;
use crate::log::{Found, NewRecord, Sequence};
use crate::proto::topic::is_reserved;
use crate::proto::twist::twisted;
use crate::proto::v1::ReplayProgress;
use crate::proto::view::RecordView;

/// What the topics begin with on which copies say how far they have got.
pub const TOPIC_PREFIX: &str = "op.replay.";
const KIND: &str = "op.replay.progress";
const SCHEMA: &str = "arqon.v1.ReplayProgress";

/// What one call has done.
#[derive(Debug)]
pub struct Copied {
    /// How far the copy has got, from its beginning on.
    pub progress: ReplayProgress,
    /// Whether the window has no more.
    pub finished: bool,
    /// What of it could not be read in this call.
    pub part: Part,
}

/// How far the copy called `name` has got that goes into `into`, and where that stands; nothing and 0
/// if there is none yet.
///
/// # Errors
/// The log cannot be read, or what stands there is not that.
pub fn progress(into: &Reality, name: &str) -> Result<(ReplayProgress, u64), Error> {
    let log = into.log();
    let Some(last) = log.last_of(&format!("{TOPIC_PREFIX}{name}"))? else {
        return Ok((ReplayProgress::default(), 0));
    };
    let damaged = Error::RecordDamaged { sequence: last };
    match log.read(last, last.next(), 1)? {
        Found::Records(chunk) => {
            let record = chunk.iter().next().map(|record| record.record);
            let view = record.and_then(|record| RecordView::parse(record).ok());
            let data = view.map(|view| ReplayProgress::decode(view.envelope.payload.data()));
            let progress = data.and_then(Result::ok).ok_or(damaged)?;
            Ok((progress, last.get()))
        }
        Found::Damaged { .. } | Found::End => Err(damaged),
    }
}

impl Reality {
    /// Goes on with the copy called `name` of a window of this reality into another, by up to
    /// `limit` records.
    ///
    /// # Errors
    /// This log cannot be read, or the other not be written; another call has gone on with it
    /// meanwhile; `may` refuses a topic. Nothing of this call is stored then.
    pub fn copy_into(
        &self,
        into: &Reality,
        name: &str,
        window: &Window,
        limit: usize,
        check: Check,
        may: impl Fn(&str) -> bool,
    ) -> Result<Copied, Error> {
        let (mut progress, stands_at) = progress(into, name)?;
        if !progress.from.is_empty() && progress.from != self.name().as_str() {
            return Err(Error::ReplayOfAnother {
                name: name.to_owned(),
                from: progress.from,
            });
        }
        let from = Sequence::new(progress.next);
        let part = self.onwards(window, from, limit, check)?;
        let broken =
            check == Check::Sequences && !(part.lost.is_empty() && part.missing.is_empty());
        let finished = part.next.is_none();
        if broken || (part.records.is_empty() && finished && progress.finished) {
            return Ok(Copied {
                progress,
                finished,
                part,
            });
        }
        let (of, to) = (self.name().as_str(), into.name().as_str());
        let mut records = Vec::with_capacity(part.records.len() + 1);
        let mut last = None;
        for record in &part.records {
            let view = RecordView::parse(record);
            let view = view.map_err(|_undecodable| Error::Internal)?;
            last = Sequence::new(view.sequence);
            if is_reserved(view.topic) {
                progress.left_out += 1;
                continue;
            }
            if !may(view.topic) {
                return Err(Error::Rejected(Rejection {
                    index: None,
                    field: "topic",
                    fault: Fault::Forbidden,
                }));
            }
            progress.records += 1;
            records.push(Piece::Encoded(NewRecord {
                topic: view.topic.to_owned().into(),
                clock_entries: bytes::Bytes::new(),
                stamp: bytes::Bytes::new(),
                envelope: twisted(&view, of, to).into(),
            }));
        }
        let next = part.next.or(last.map(Sequence::next)).or(from);
        progress.next = next.map_or(0, Sequence::get);
        progress.from = of.to_owned();
        progress.finished = finished;
        let expected = Expected {
            topic: format!("{TOPIC_PREFIX}{name}"),
            last: stands_at,
        };
        let marker = OwnRecord {
            topic: expected.topic.clone(),
            kind: KIND.to_owned(),
            schema: SCHEMA.to_owned(),
            data: progress.encode_to_vec().into(),
            key: name.to_owned(),
            ..OwnRecord::default()
        };
        records.push(Piece::Own(marker));
        into.store_pieces(records, Some(&expected))?;
        Ok(Copied {
            progress,
            finished,
            part,
        })
    }
}
