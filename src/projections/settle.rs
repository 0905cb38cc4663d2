//! Deals with dead letters: their events are appended again, changed or as they were, or thrown
//! away (PRJ-05).
//!
//! An event that can be read now is appended to its topic, the projection says what became of it,
//! and then the log is told that the letter is settled. A node that dies in between leaves a letter
//! whose event was taken in already: replaying it again finds that out, and settles it.

use std::time::Duration;

use prost::Message as _;
use serde_json::Value;

use super::fold::Outcome;
use super::lane::Lane;
use super::letter::{self, REPLAY_OF, Replay, Settlement};
use super::letters::letter_at;
use super::logs::{Feed, matches};
use super::node::{Error, Projections};
use super::projection::{Poison, Projection, Source};
use super::sink::Query;
use super::table::{Cell, Key, Row};
use crate::log::{Micros, Sequence};
use crate::proto::continuum::DeadLetter;
use crate::proto::v1::{Envelope, Event, envelope};
use crate::proto::view::{EnvelopeView, RecordView};

/// Most letters that are dealt with together.
pub const LETTERS_MAX: usize = 1_000;
/// Letters that are looked at together.
const PAGE_ROWS: usize = 500;
/// What an event is called that somebody wrote in place of a dead one.
const EDITED_KIND: &str = "projection.edited_event";

/// Which letters are dealt with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// The one with this id.
    pub dlq_id: Option<String>,
    /// Those whose reason holds this.
    pub reason: Option<String>,
    /// Those whose event stood on this topic.
    pub topic: Option<String>,
    /// Those that were written from this time on,
    pub from: Option<Micros>,
    /// and to this one, included.
    pub to: Option<Micros>,
    /// No more than so many, at most [`LETTERS_MAX`].
    pub limit: usize,
}

/// What became of one letter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settled {
    /// Which.
    pub dlq_id: String,
    /// What became of it; `None` if that is not known, or it was not tried.
    pub outcome: Option<Settlement>,
    /// Where its event stands again.
    pub sequence: Option<Sequence>,
    /// What is wrong with it, or what to do.
    pub error: Option<String>,
}

impl Settled {
    /// Whether the letter is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.outcome
            .is_some_and(|outcome| outcome != Settlement::StillFailing)
    }
}

/// A letter as its table shows it, and as it stands in the log, where it still does.
struct Found {
    dlq_id: String,
    topic: Option<String>,
    shown: Option<String>,
    letter: Option<DeadLetter>,
}

impl Filter {
    fn holds(&self, row: &Row) -> bool {
        let text = |at: usize| row.0.get(at).and_then(Cell::text);
        let reason = self
            .reason
            .as_deref()
            .is_none_or(|wanted| text(2).is_some_and(|reason| reason.contains(wanted)));
        let topic = self
            .topic
            .as_deref()
            .is_none_or(|wanted| text(5) == Some(wanted));
        let time = match row.0.get(4) {
            Some(Cell::Timestamp(time)) => {
                self.from.is_none_or(|from| from <= *time) && self.to.is_none_or(|to| *time <= to)
            }
            _ => false,
        };
        reason && topic && time
    }
}

impl Projections {
    /// The letters that `filter` holds, in the order of their ids. Blocks.
    ///
    /// # Errors
    /// There is no such projection; its sink does not answer.
    pub fn letters(&self, tenant: &str, name: &str, filter: &Filter) -> Result<Vec<Row>, Error> {
        let kept = self.find(name)?;
        let number = kept.projection.dead_letters().table;
        let Some(table) = kept.projection.tables().get(number) else {
            return Ok(Vec::new());
        };
        if let Some(dlq_id) = &filter.dlq_id {
            let key = Key([tenant, dlq_id].map(Cell::from).to_vec());
            let row = self.row(tenant, name, None, number, &key)?;
            return Ok(row.into_iter().filter(|row| filter.holds(row)).collect());
        }
        let limit = filter.limit.min(LETTERS_MAX);
        let mut query = Query {
            limit: PAGE_ROWS,
            ..Query::default()
        };
        let mut found = Vec::new();
        loop {
            let rows = self.rows(tenant, name, None, number, &query)?;
            query.after = rows.last().map(|row| table.key_of(row));
            let full = rows.len() >= PAGE_ROWS;
            found.extend(rows.into_iter().filter(|row| filter.holds(row)));
            if found.len() >= limit || !full {
                found.truncate(limit);
                return Ok(found);
            }
        }
    }

    /// Replays the letters that `filter` holds, one after the other, and says of each what became
    /// of it. `edited` is what is appended in place of an event, for a single letter. Blocks, for
    /// each letter at most `within`.
    ///
    /// # Errors
    /// There is no such projection; its sink does not answer, or the log takes nothing.
    pub fn replay(
        &self,
        tenant: &str,
        name: &str,
        filter: &Filter,
        edited: Option<&Value>,
        by: &str,
        within: Duration,
    ) -> Result<Vec<Settled>, Error> {
        let mut settled = Vec::new();
        let mut last = None;
        for row in self.letters(tenant, name, filter)? {
            let (one, at) = self.replay_one(tenant, name, &row, edited, by, within)?;
            last = at.or(last);
            settled.push(one);
        }
        self.see(tenant, name, last, within)?;
        Ok(settled)
    }

    /// Throws the letters away that `filter` holds. Blocks.
    ///
    /// # Errors
    /// There is no such projection; its sink does not answer, or the log takes nothing.
    pub fn discard(
        &self,
        tenant: &str,
        name: &str,
        filter: &Filter,
        by: &str,
        reason: &str,
        within: Duration,
    ) -> Result<Vec<Settled>, Error> {
        let projection = &*self.find(name)?.projection;
        let feed = self.shared().logs.open(tenant, projection.reality())?;
        let mut settled = Vec::new();
        let mut last = None;
        for row in self.letters(tenant, name, filter)? {
            let dlq_id = text(&row, 1).unwrap_or_default();
            let outcome = Settlement::Discarded;
            last = Some(feed.append(letter::settle(
                projection, &dlq_id, outcome, by, reason, None,
            ))?);
            settled.push(Settled {
                dlq_id,
                outcome: Some(outcome),
                sequence: None,
                error: None,
            });
        }
        self.see(tenant, name, last, within)?;
        Ok(settled)
    }

    /// Waits until the table shows what was settled, so that whoever lists it next sees it.
    fn see(
        &self,
        tenant: &str,
        name: &str,
        last: Option<Sequence>,
        within: Duration,
    ) -> Result<(), Error> {
        let Some(last) = last else {
            return Ok(());
        };
        let lane = self.lane_of(tenant, name, None)?;
        self.wake(&lane);
        let mut next = lane.watch();
        let passed = next.wait_for(|next| *next > last);
        let runtime = &self.shared().runtime;
        if runtime.block_on(async { tokio::time::timeout(within, passed).await.is_err() }) {
            tracing::debug!(tenant, name, "what was settled is not shown yet");
        }
        Ok(())
    }

    fn replay_one(
        &self,
        tenant: &str,
        name: &str,
        row: &Row,
        edited: Option<&Value>,
        by: &str,
        within: Duration,
    ) -> Result<(Settled, Option<Sequence>), Error> {
        let projection = &*self.find(name)?.projection;
        let lane = self.lane_of(tenant, name, None)?;
        let feed = self.shared().logs.open(tenant, projection.reality())?;
        let found = Found::of(&*feed, row);
        let mut settled = Settled {
            dlq_id: found.dlq_id.clone(),
            outcome: None,
            sequence: None,
            error: None,
        };
        let envelope = match found.envelope(edited) {
            Ok(envelope) => envelope,
            Err(error) => {
                settled.error = Some(error);
                return Ok((settled, None));
            }
        };
        let topic = found.topic(projection);
        if let Err(poison) = self.judge(&lane, &topic, &envelope) {
            settled.outcome = Some(Settlement::StillFailing);
            settled.error = Some(poison.reason.clone());
            // What somebody wrote in its place says nothing of the letter's own event.
            let letter = found.letter.filter(|_| edited.is_none());
            let again = letter.map(|letter| letter::again(projection, letter, &poison));
            let at = again.map(|again| feed.append(again)).transpose()?;
            return Ok((settled, at));
        }
        let header = found.header(row);
        let append =
            || Ok::<_, Error>(feed.append_again(&topic, &envelope, (REPLAY_OF, &header))?);
        let (sequence, outcome) = self.project(tenant, name, within, append)?;
        settled.sequence = Some(sequence);
        settled.outcome = match outcome {
            // It changes nothing as it is, and never will.
            Some(Outcome::Projected | Outcome::Ignored) => Some(Settlement::Projected),
            Some(Outcome::Duplicate) => Some(Settlement::Duplicate),
            Some(Outcome::Stale) => Some(Settlement::Stale),
            Some(Outcome::Dead) => {
                settled.error = Some("the sink refuses it still".to_owned());
                Some(Settlement::StillFailing)
            }
            None => {
                let waited = within.as_millis();
                settled.error = Some(format!(
                    "it was appended, and what became of it is not known after {waited} ms; replaying it again does no harm"
                ));
                None
            }
        };
        if !settled.is_gone() {
            return Ok((settled, Some(sequence)));
        }
        let outcome = settled.outcome.unwrap_or(Settlement::Projected);
        let dlq_id = &settled.dlq_id;
        let event = letter::settle(projection, dlq_id, outcome, by, "replayed", Some(sequence));
        let at = feed.append(event)?;
        Ok((settled, Some(at)))
    }

    /// Whether an event can be projected now.
    fn judge(&self, lane: &Lane, topic: &str, envelope: &[u8]) -> Result<(), Poison> {
        let view = EnvelopeView::parse(envelope)
            .map_err(|error| Poison::of("", format!("the envelope cannot be read: {error}")))?;
        let record = RecordView {
            topic,
            envelope: view,
            ..RecordView::default()
        };
        let place = lane.place();
        let source = Source {
            tenant: &place.tenant,
            reality: &place.reality,
            sequence: Sequence::FIRST,
            appended_at: self.shared().clock.now(),
            record: &record,
            payloads: self.shared().logs.payloads(),
        };
        lane.projection().read(&source).map(drop)
    }
}

fn text(row: &Row, at: usize) -> Option<String> {
    row.0.get(at).and_then(Cell::text).map(str::to_owned)
}

fn sequence(row: &Row, at: usize) -> Option<Sequence> {
    match row.0.get(at) {
        Some(Cell::Integer(number)) => u64::try_from(*number).ok().and_then(Sequence::new),
        _ => None,
    }
}

impl Found {
    fn of(feed: &dyn Feed, row: &Row) -> Self {
        let dlq_id = text(row, 1).unwrap_or_default();
        let letter = sequence(row, 8).and_then(|at| letter_at(feed, at));
        Self {
            topic: text(row, 5),
            shown: text(row, 3),
            letter: letter.filter(|letter| letter.dlq_id == dlq_id),
            dlq_id,
        }
    }

    /// Where the event belongs. A letter of an older system does not say.
    fn topic(&self, projection: &dyn Projection) -> String {
        let known = self
            .letter
            .as_ref()
            .map(|letter| &letter.topic)
            .or(self.topic.as_ref());
        let letters = &projection.dead_letters().topic;
        let plain = |topic: &&String| !topic.contains(['*', '>']) && *topic != letters;
        let fits = |topic: &&String| {
            let patterns = projection.topics();
            *topic != letters && patterns.iter().any(|pattern| matches(pattern, topic))
        };
        let topic = known.filter(fits);
        let topic = topic.or_else(|| projection.topics().iter().find(plain));
        topic.cloned().unwrap_or_default()
    }

    /// What is appended: what somebody wrote, else the event as it was.
    fn envelope(&self, edited: Option<&Value>) -> Result<Vec<u8>, String> {
        if let Some(edited) = edited {
            let before = self.letter.as_ref();
            let before = before.and_then(|letter| Envelope::decode(&*letter.envelope).ok());
            return Ok(json_event(before.unwrap_or_default(), edited));
        }
        if let Some(letter) = &self.letter {
            return Ok(letter.envelope.to_vec());
        }
        // The letter is from before this log, or its log does not reach back to it any more.
        let shown = self.shown.as_deref().unwrap_or_default();
        let event: Value = serde_json::from_str(shown)
            .map_err(|error| format!("its event cannot be read: {error}"))?;
        if event.get("base64").is_some() {
            return Err("its event is not in the log any more, and has no JSON form; give the event to replay, or discard it".to_owned());
        }
        Ok(json_event(Envelope::default(), &event))
    }

    fn header(&self, row: &Row) -> String {
        let letter = sequence(row, 8).filter(|_| self.letter.is_some());
        let dlq_id = self.dlq_id.clone();
        match letter {
            Some(letter) => Replay { dlq_id, letter }.header(),
            None => dlq_id,
        }
    }
}

/// `before` with another payload, and as an event of its own.
fn json_event(before: Envelope, event: &Value) -> Vec<u8> {
    let mut headers = before.headers;
    headers.insert("content-type".to_owned(), "application/json".to_owned());
    let envelope = Envelope {
        topic: before.topic,
        key: before.key,
        headers,
        payload: Some(envelope::Payload::Event(Event {
            r#type: EDITED_KIND.to_owned(),
            data: event.to_string().into(),
        })),
        ..Envelope::default()
    };
    envelope.encode_to_vec()
}
