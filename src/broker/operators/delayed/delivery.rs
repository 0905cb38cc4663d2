//! The task that delivers what has waited long enough.
//!
//! A message and the end of its waiting go into one batch, with a record on `op.later` that the
//! next such batch expects to be the last there: so each is delivered once, whatever crashes
//! between, and whoever else delivers or cancels.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use prost::Message as _;

use super::places::Places;
use super::waiting::{self, Entry, Waiting};
use crate::broker::attendance::Attendance;
use crate::broker::error::Error;
use crate::broker::expiry::is_over;
use crate::broker::operators::{Duty, Office};
use crate::broker::own::Piece;
use crate::broker::{Expected, Filter, OwnRecord, Reality, RealityName, Tenancy, stamp};
use crate::log::{NewRecord, Sequence};
use crate::proto::view::EnvelopeView;

/// What it does unasked.
pub(super) const DUTY: Duty = Duty {
    is_due: |tenancy| tenancy.ledger::<Places>().read(|places| !places.is_empty()),
    run: |office| -> BoxFuture<'static, Result<(), Error>> { Box::pin(run(office)) },
};

/// Longest time between two looks at the clock.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Delivered in one batch, at most.
const BATCH_RECORDS: usize = 500;
/// Of so many bytes, about.
const BATCH_BYTES: usize = 1 << 20;
/// Header of what was delivered later: the sequence that it was stored under.
const HEADER: &str = "arqon-delayed";
/// Topic of what the batches say.
pub(in crate::broker) const MARKER: &str = "op.later";

/// A reality in which something may wait.
#[derive(Debug)]
struct Place {
    reality: Arc<Reality>,
    attendance: Attendance,
}

async fn run(office: Office) -> Result<(), Error> {
    let filter = Filter::new("op.later.>").map_err(|fault| Error::Name {
        field: "filter",
        fault,
    })?;
    let mut places: Vec<Place> = Vec::new();
    while !office.is_closing() {
        let realities = office.blocking(realities).await?;
        places.retain(|place| realities.iter().any(|one| Arc::ptr_eq(one, &place.reality)));
        for reality in realities {
            if !places
                .iter()
                .any(|place| Arc::ptr_eq(&place.reality, &reality))
            {
                let attendance = office.listen(&reality, &filter);
                places.push(Place {
                    reality,
                    attendance,
                });
            }
        }
        if places.is_empty() {
            return Ok(());
        }
        let mut wait = LOOK_EVERY;
        for place in &places {
            // First listen, then look.
            place.attendance.look();
            let reality = Arc::clone(&place.reality);
            let next = office
                .blocking(move |tenancy| deliver(tenancy, &reality))
                .await?;
            let now = place.reality.now().as_millis();
            if let Some(at) = next {
                wait = wait.min(Duration::from_millis(at.saturating_sub(now)));
            }
        }
        // Rung or not, it looks at the clock.
        let _rung = tokio::time::timeout(wait, office.rung()).await.is_ok();
    }
    Ok(())
}

/// The realities in which something may wait. Blocks.
fn realities(tenancy: &Arc<Tenancy>) -> Result<Vec<Arc<Reality>>, Error> {
    let names = tenancy.ledger::<Places>().read(|places| {
        let names = places.all().filter_map(|name| RealityName::new(name).ok());
        names.collect::<Vec<_>>()
    })?;
    let mut realities = Vec::new();
    for name in names {
        match tenancy.reality(&name) {
            Ok(reality) => realities.push(reality),
            // It has been deleted, and what waited there with it.
            Err(Error::NoSuchReality { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(realities)
}

/// Delivers what is due in a reality; returns when the next will be, in milliseconds. Blocks.
fn deliver(tenancy: &Arc<Tenancy>, reality: &Arc<Reality>) -> Result<Option<u64>, Error> {
    let later = reality.later();
    let mut waiting = later.waiting();
    loop {
        waiting.follow(&reality.log())?;
        later.settle(&waiting);
        let now = reality.now();
        let due: Vec<(Sequence, Entry)> = waiting
            .in_order()
            .take_while(|(_, entry)| is_over(entry.deliver_at, now))
            .take(BATCH_RECORDS)
            .map(|(sequence, entry)| (sequence, entry.clone()))
            .collect();
        if due.is_empty() {
            break;
        }
        deliver_batch(reality, &due)?;
    }
    let next = waiting.in_order().next().map(|(_, entry)| entry.deliver_at);
    if next.is_none() {
        let is_empty = || is_empty(reality, &waiting);
        later.unmark(tenancy, reality, is_empty)?;
    }
    Ok(next)
}

/// Whether nothing waits, in what is written too.
fn is_empty(reality: &Reality, waiting: &Waiting) -> bool {
    waiting.len() == 0 && waiting.next() >= reality.bounds().written_end
}

fn deliver_batch(reality: &Reality, due: &[(Sequence, Entry)]) -> Result<(), Error> {
    let now = reality.now();
    let (mut pieces, mut bytes, mut ended) = (Vec::new(), 0, 0_u64);
    for (sequence, entry) in due {
        if bytes > BATCH_BYTES {
            break;
        }
        let kind = if entry.expires_at > 0 && is_over(entry.expires_at, now) {
            "later.expired"
        } else {
            match message(reality, *sequence) {
                Ok(record) => {
                    bytes += record.envelope.len();
                    pieces.push(Piece::Encoded(record));
                    "later.delivered"
                }
                Err(Error::RecordDamaged { sequence }) => {
                    tracing::error!(tenant = %reality.tenant(), reality = %reality.name(), %sequence, "a message that waited cannot be read; it is lost");
                    "later.lost"
                }
                Err(error) => return Err(error),
            }
        };
        pieces.push(Piece::Own(waiting::end(entry, kind, "")));
        ended += 1;
    }
    conclude(reality, pieces, "later.delivered", ended)
}

/// Stores what ends the waiting of `ended` messages, unless somebody else has done so meanwhile:
/// the caller has followed the log to its end.
pub(super) fn conclude(
    reality: &Reality,
    mut pieces: Vec<Piece>,
    kind: &str,
    ended: u64,
) -> Result<(), Error> {
    let last = reality.log().last_of(MARKER)?;
    let expected = Expected {
        topic: MARKER.to_owned(),
        last: last.map_or(0, Sequence::get),
    };
    pieces.push(Piece::Own(OwnRecord {
        topic: MARKER.to_owned(),
        kind: kind.to_owned(),
        data: serde_json::json!({ "ended": ended }).to_string().into(),
        key: MARKER.to_owned(),
        ..OwnRecord::default()
    }));
    reality.store_pieces(pieces, Some(&expected)).map(drop)
}

/// A message that has waited, as the record that it is to be.
fn message(reality: &Reality, sequence: Sequence) -> Result<NewRecord, Error> {
    let damaged = || Error::RecordDamaged { sequence };
    let record = waiting::message(reality, sequence)?.record;
    let view = EnvelopeView::parse(&record.envelope).or(Err(damaged()))?;
    let mut headers: Vec<(String, String)> = view
        .headers
        .iter()
        .filter(|(name, _)| *name != HEADER)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    headers.push((HEADER.to_owned(), sequence.get().to_string()));
    let clock_entries = view.clock.map_or_else(Default::default, |clock| {
        let mut clock = clock.to_message();
        // The log writes its own entry.
        clock.entries.remove(reality.clock_key());
        clock.encode_to_vec().into()
    });
    let id = uuid::Uuid::from_slice(&record.id).ok();
    let producer = Some(record.producer_id.as_str()).filter(|name| !name.is_empty());
    let verdict = record.verdict.as_ref().map(prost::Message::encode_to_vec);
    let mut stamp = BytesMut::new();
    stamp::encode(
        id,
        producer,
        verdict.as_deref().unwrap_or_default(),
        &mut stamp,
    );
    Ok(NewRecord {
        topic: record.topic.into(),
        clock_entries,
        stamp: stamp.freeze(),
        envelope: view.rewritten(None, Some(&headers)).into(),
    })
}
