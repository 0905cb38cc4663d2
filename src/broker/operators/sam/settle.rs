//! What becomes of tasks, written down: results, failed attempts, dead letters; and what is given
//! out next.
//!
//! A task that ends is closed on the floor first, then its end is written, then it is gone from the
//! floor: two ends of one task never stand in the log. An end and its dead letter are one batch.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use serde_json::json;

use super::counts::one_more;
use super::floor::{Closing, End, Failed, Finished, Next, Offer, Place, Standing, Taken};
use super::manifest::Manifest;
use super::registry::{Event, Registry, State};
use super::task::{self, Answer, By, Cause, Failure, Order, Said, Selection};
use super::{Given, Membership, Refused, lock, pickup, rebuild, stands};
use crate::broker::error::Error;
use crate::broker::letter;
use crate::broker::operators::contracts::{Breach, Contracts as _};
use crate::broker::{Broker, OwnRecord, Reality, RealityName, Tenancy};
use crate::log::{Found, Micros, Sequence};
use crate::proto::ErrorCode;
use crate::proto::v1::{TaskResult, TaskTaken, task_result};
use crate::proto::view::RecordView;

/// Ends that are written in one batch.
const BATCH_MAX: usize = 128;
/// Before another attempt to write what could not be written.
const AGAIN_MS: u64 = 1_000;
/// Longest text of an error that is kept.
const ERROR_BYTES_MAX: usize = 1_024;
/// Tasks of a group after whose end is noted that all up to there have ended.
const SETTLED_EVERY: u64 = 256;

/// Writes events of the registry.
pub(super) fn record(tenancy: &Tenancy, group: &str, events: &[Event]) -> Result<(), Error> {
    let events = events.iter().map(|event| event.record(group)).collect();
    tenancy.ledger::<Registry>().change(|_| Ok(((), events)))
}

/// Says that an operator has gone, unless it is back by now. Quarantine outlasts the connection.
fn record_gone(tenancy: &Tenancy, group: &str, instance: &str) -> Result<(), Error> {
    tenancy.ledger::<Registry>().change(|registry| {
        let known = registry.groups.get(group);
        let known = known.and_then(|group| group.operators.get(instance));
        let is_over = known.is_none_or(|one| matches!(one.state, State::Quarantined | State::Gone));
        let is_back = tenancy.sam().floor().present(group, instance).is_some();
        let gone = stands(instance, State::Gone, "its session has ended");
        let events = if is_over || is_back {
            Vec::new()
        } else {
            vec![gone.record(group)]
        };
        Ok(((), events))
    })
}

/// Does all that is due, and gives out what there is.
pub(super) fn round(broker: &Arc<Broker>, tenancy: &Arc<Tenancy>) -> Result<(), Error> {
    rebuild::ensure(tenancy)?;
    let sam = tenancy.sam();
    let later = std::mem::take(&mut *lock(&sam.later));
    settle(broker, tenancy, later.next);
    let due = sam.floor().tick(tenancy.now());
    settle(broker, tenancy, due);
    pickup::pick_up(tenancy)?;
    pump(broker, tenancy);
    for (group, instance) in later.gone {
        // What cannot be written now is true all the same: the floor knows who is there.
        if let Err(error) = record_gone(tenancy, &group, &instance) {
            tracing::warn!(tenant = %tenancy.tenant(), group, %error, "an operator's leaving is not recorded");
        }
    }
    note_settled(tenancy)
}

/// Writes down, now and then, up to where all tasks of a group have ended, so that nobody needs to
/// read them again.
fn note_settled(tenancy: &Tenancy) -> Result<(), Error> {
    let Some(main) = tenancy.peek(&RealityName::main()) else {
        return Ok(());
    };
    let end = main.bounds().durable_end.get();
    let settled = tenancy.sam().floor().settled(SETTLED_EVERY, end);
    for (group, first_open) in settled {
        record(tenancy, &group, &[Event::Settled { first_open }])?;
    }
    Ok(())
}

/// Writes down what has become of tasks.
pub(super) fn settle(broker: &Arc<Broker>, tenancy: &Arc<Tenancy>, next: Vec<Next>) {
    let mut closings = Vec::new();
    for one in next {
        match one {
            Next::Again(failed) => note_failed(broker, tenancy, &failed),
            Next::Close(closing) => closings.push(closing),
        }
    }
    for batch in closings.chunks(BATCH_MAX) {
        if let Err(error) = close(broker, tenancy, batch) {
            tracing::error!(tenant = %tenancy.tenant(), %error, "the end of tasks cannot be written; trying again");
            let now = tenancy.now();
            let not_before = Micros(now.0.saturating_add(AGAIN_MS * 1_000));
            let sam = tenancy.sam();
            for closing in batch {
                sam.floor().close_later(closing, not_before);
            }
        }
    }
}

fn main_of(tenancy: &Tenancy) -> Result<Arc<Reality>, Error> {
    tenancy.reality(&RealityName::main())
}

/// Says in the log that an attempt has failed. Nobody waits for it: it is worth one attempt more
/// after a crash.
fn note_failed(broker: &Broker, tenancy: &Tenancy, failed: &Failed) {
    let counts = broker.sam_counts();
    one_more(&counts.failed);
    let by = by(&failed.by, "", failed.attempt);
    let said = Said {
        error: Some((failed.why.code.clone(), failed.why.message.clone())),
        ..Said::default()
    };
    let (order, sequence) = (&failed.order, failed.place.1);
    let record = task::result((order, sequence), task::State::Failed, Some(&by), said);
    let written = main_of(tenancy).and_then(|reality| reality.leave(vec![record]));
    if let Err(error) = written {
        tracing::warn!(tenant = %tenancy.tenant(), %error, "a failed attempt is not recorded");
    }
}

fn by(manifest: &Manifest, subject: &str, attempt: u32) -> By {
    By {
        subject: subject.to_owned(),
        operator: manifest.operator.clone(),
        instance: manifest.instance.clone(),
        attempt,
    }
}

/// Writes the ends of tasks, all or none.
fn close(broker: &Broker, tenancy: &Tenancy, closings: &[Closing]) -> Result<(), Error> {
    let reality = main_of(tenancy)?;
    let mut records = Vec::new();
    // Where in the batch the end of each is.
    let mut ends = Vec::new();
    for closing in closings {
        ends.push(records.len() as u64);
        records.extend(end_of(&reality, closing)?);
    }
    let appended = reality.store(records, None)?;
    let (sam, counts) = (tenancy.sam(), broker.sam_counts());
    for (closing, offset) in closings.iter().zip(ends) {
        let (state, answers) = match &closing.end {
            End::Done(answers) => (task::State::Done, answers.clone()),
            End::Dead(_) => (task::State::Dead, Vec::new()),
            End::Expired => (task::State::Expired, Vec::new()),
        };
        one_more(match state {
            task::State::Dead => &counts.dead,
            task::State::Expired => &counts.expired,
            task::State::Done | task::State::Answered | task::State::Failed => &counts.done,
        });
        let finished = Finished {
            state,
            sequence: appended.first.get() + offset,
            answers,
        };
        sam.floor().finish(&closing.place, &finished);
    }
    Ok(())
}

/// The records of a task's end.
fn end_of(reality: &Reality, closing: &Closing) -> Result<Vec<OwnRecord>, Error> {
    let (order, sequence) = (&closing.order, closing.place.1);
    let write = |state, said| task::result((order, sequence), state, None, said);
    match &closing.end {
        End::Expired => {
            let text = "the task's deadline has passed";
            let said = Said {
                error: Some(("DEADLINE".to_owned(), text.to_owned())),
                ..Said::default()
            };
            Ok(vec![write(task::State::Expired, said)])
        }
        End::Dead(why) => {
            let said = Said {
                error: Some((why.code.clone(), why.message.clone())),
                ..Said::default()
            };
            let mut records = vec![write(task::State::Dead, said)];
            records.extend(letter_of(reality, closing, why)?);
            Ok(records)
        }
        End::Done(answers) => Ok(vec![summary(reality, order, sequence, answers)?]),
    }
}

/// The end of a task that several have answered: the best answer once more, or a list of all.
fn summary(
    reality: &Reality,
    order: &Order,
    sequence: u64,
    answers: &[Answer],
) -> Result<OwnRecord, Error> {
    let best = answers
        .first()
        .filter(|_| order.selection != Selection::All && order.mode == task::Mode::Competing);
    let Some(best) = best else {
        let each = answers.iter().map(|one| {
            json!({
                "operator": one.operator,
                "instance": one.instance,
                "sequence": one.sequence,
                "score": one.score,
            })
        });
        let list = json!({ "answers": each.collect::<Vec<_>>() });
        let said = Said {
            data: Bytes::from(list.to_string()),
            content_type: "application/json".to_owned(),
            answers: Some(answers.len()),
            ..Said::default()
        };
        return Ok(task::result(
            (order, sequence),
            task::State::Done,
            None,
            said,
        ));
    };
    let (bytes, _) = read(reality, best.sequence)?;
    let view = RecordView::parse(&bytes).or(Err(Error::Internal))?;
    let said = Said {
        data: Bytes::copy_from_slice(view.envelope.payload.data()),
        content_type: text_of(&view, "content-type"),
        schema: view.envelope.schema.to_owned(),
        score: best.score,
        answers: Some(answers.len()),
        error: None,
    };
    let by = By {
        subject: view.producer().to_owned(),
        operator: best.operator.clone(),
        instance: best.instance.clone(),
        attempt: text_of(&view, "arqon-attempt").parse().unwrap_or(1),
    };
    let state = task::State::Done;
    Ok(task::result((order, sequence), state, Some(&by), said))
}

fn text_of(view: &RecordView<'_>, header: &str) -> String {
    let found = view.envelope.headers.get(header);
    found.unwrap_or_default().to_owned()
}

/// The dead letter of a task; `None` if the task itself is not in the log any more.
fn letter_of(
    reality: &Reality,
    closing: &Closing,
    why: &Failure,
) -> Result<Option<OwnRecord>, Error> {
    let bytes = match read(reality, closing.place.1) {
        Ok((bytes, _)) => bytes,
        Err(
            Error::NoSuchRecord { .. } | Error::OutOfRange { .. } | Error::RecordDamaged { .. },
        ) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let view = RecordView::parse(&bytes).or(Err(Error::Internal))?;
    let reason = match why.cause {
        Cause::Final => letter::REJECTED,
        Cause::Lost | Cause::Contract | Cause::Retryable(_) => letter::MAX_DELIVERIES,
    };
    let failure = letter::Failure {
        reason,
        error: &why.message,
        attempts: closing.failures,
        first_at: Micros(view.appended_at),
        last_at: reality.now(),
        by: "",
    };
    let written = letter::of(reality, &closing.order.group, &view, &failure);
    Ok(Some(OwnRecord {
        topic: letter::topic(&written.consumer),
        kind: letter::KIND.to_owned(),
        schema: letter::SCHEMA.to_owned(),
        key: written.id.clone(),
        data: written.encode_to_vec().into(),
        ..OwnRecord::default()
    }))
}

/// One record, encoded, and when it was written.
pub(super) fn read(reality: &Reality, at: u64) -> Result<(Bytes, Micros), Error> {
    let sequence = Sequence::new(at).ok_or(Error::Internal)?;
    match reality.log().read(sequence, sequence.next(), 1)? {
        Found::Records(chunk) => {
            let record = chunk.iter().find(|record| record.sequence == sequence);
            let record = record.ok_or(Error::NoSuchRecord { sequence })?;
            Ok((Bytes::copy_from_slice(record.record), record.appended_at))
        }
        Found::Damaged { .. } => Err(Error::RecordDamaged { sequence }),
        Found::End => Err(Error::NoSuchRecord { sequence }),
    }
}

/// Gives out what can be given out.
pub(super) fn pump(broker: &Arc<Broker>, tenancy: &Arc<Tenancy>) {
    let sam = tenancy.sam();
    loop {
        let offers = sam.floor().offers(tenancy.now());
        if offers.is_empty() {
            return;
        }
        for offer in offers {
            if let Err(why) = give(broker, tenancy, &offer) {
                let place = (offer.group.clone(), offer.sequence);
                let next = sam.floor().fail(&place, offer.member, why, tenancy.now());
                settle(broker, tenancy, next.into_iter().collect());
            }
        }
    }
}

/// Gives a task to an operator.
fn give(broker: &Broker, tenancy: &Tenancy, offer: &Offer) -> Result<(), Failure> {
    let sam = tenancy.sam();
    let unreadable = |error: &Error| Failure {
        code: error.code().as_str().to_owned(),
        message: shortened(&format!("the task cannot be read: {error}")),
        cause: Cause::Final,
    };
    let read = main_of(tenancy).and_then(|reality| read(&reality, offer.sequence));
    let (record, _) = read.map_err(|error| unreadable(&error))?;
    let present = sam.floor().member(offer.member);
    if let Some(present) = present {
        check_input(broker, tenancy, &present.manifest, &record)?;
    }
    let hands = lock(&sam.hands).get(&offer.member).cloned();
    let Some(hands) = hands else {
        // It has left meanwhile, which is dealt with as that.
        return Ok(());
    };
    let counts = broker.sam_counts();
    one_more(&counts.given);
    if offer.attempt > 1 {
        one_more(&counts.redelivered);
    }
    hands.give(Given {
        id: offer.id.clone(),
        record,
        deadline_ms: offer.deadline.map_or(0, |at| at.as_millis()),
        attempt: offer.attempt,
        group: offer.group.clone(),
        instance: offer.instance.clone(),
        lease: offer.lease,
        lease_ms: offer.lease_ms,
    });
    Ok(())
}

/// Holds a task against the input schema of the one who is to have it, unless it was held against
/// that one at its dispatch.
fn check_input(
    broker: &Broker,
    tenancy: &Tenancy,
    manifest: &Manifest,
    record: &[u8],
) -> Result<(), Failure> {
    let schema = &manifest.input_schema;
    let Ok(view) = RecordView::parse(record) else {
        return Err(Failure {
            code: ErrorCode::Internal.as_str().to_owned(),
            message: "the task cannot be read".to_owned(),
            cause: Cause::Final,
        });
    };
    if schema.is_empty() || view.envelope.schema == schema {
        return Ok(());
    }
    let data = Bytes::copy_from_slice(view.envelope.payload.data());
    let checked = broker.contracts().check(tenancy.tenant(), schema, &data);
    checked.map_err(|breach| Failure {
        code: ErrorCode::SchemaViolation.as_str().to_owned(),
        message: shortened(&format!(
            "the task does not fit the operator's input schema {schema}: {}",
            told("payload", &breach)
        )),
        cause: Cause::Contract,
    })
}

/// A breach as a sentence.
pub(super) fn told(root: &str, breach: &Breach) -> String {
    if breach.field.is_empty() {
        format!("{root}: {}", breach.problem)
    } else {
        format!("{root}.{}: {}", breach.field, breach.problem)
    }
}

fn shortened(text: &str) -> String {
    let end = text.floor_char_boundary(ERROR_BYTES_MAX);
    text.get(..end).unwrap_or_default().to_owned()
}

impl Membership {
    /// Takes an operator's answer; on disk on `Ok`. Blocks.
    ///
    /// # Errors
    /// The task is not in its hands any more; its output does not fit; the answer could not be
    /// written, and may be sent again.
    pub fn answer(&self, answer: TaskResult) -> Result<TaskTaken, Error> {
        let (broker, tenancy) = (&self.broker, &self.tenancy);
        let now = tenancy.now();
        let taken = tenancy
            .sam()
            .floor()
            .take(self.key, &answer.id, answer.lease);
        let answered = match taken {
            Ok(taken) => self.judge(&taken, answer, now),
            Err(refused) => Err(refused.into()),
        };
        pump(broker, tenancy);
        // Others may have become due, and new times are.
        self.wake();
        answered
    }

    fn judge(&self, taken: &Taken, answer: TaskResult, now: Micros) -> Result<TaskTaken, Error> {
        let id = answer.id.clone();
        let output = match answer.outcome {
            Some(task_result::Outcome::Output(output)) => output,
            Some(task_result::Outcome::Error(error)) => {
                let cause = if error.retryable {
                    Cause::Retryable(error.retry_after_ms)
                } else {
                    Cause::Final
                };
                let code = match error.code.as_str() {
                    "" => "OPERATOR_ERROR",
                    given => given,
                };
                let why = Failure {
                    code: code.chars().take(64).collect(),
                    message: shortened(&error.message),
                    cause,
                };
                return Ok(self.failed(taken, id, why, now));
            }
            None => {
                self.undo(&taken.place, now);
                let text = "outcome is missing: an output or an error";
                return Err(Refused::invalid("outcome", text).into());
            }
        };
        let schema = &taken.by.output_schema;
        if !schema.is_empty() {
            let contracts = self.broker.contracts();
            let checked = contracts.check(self.tenancy.tenant(), schema, &output);
            if let Err(breach) = checked {
                return Err(self.breached(taken, id, &breach, now));
            }
        }
        if answer.score.is_some_and(|score| !score.is_finite()) {
            self.undo(&taken.place, now);
            return Err(Refused::invalid("score", "score is not a finite number").into());
        }
        let said = Said {
            data: output,
            content_type: match answer.content_type.as_str() {
                "" => "application/octet-stream".to_owned(),
                given => given.chars().take(128).collect(),
            },
            schema: schema.clone(),
            score: answer.score,
            ..Said::default()
        };
        if taken.is_last {
            self.finish(taken, id, said, now)
        } else {
            self.note(taken, id, said, now)
        }
    }

    fn by(&self, taken: &Taken) -> By {
        by(&taken.by, &self.subject, taken.attempt)
    }

    /// The answer could not be taken: the task is still in its hands, if it is there.
    fn undo(&self, place: &Place, now: Micros) {
        let next = self.tenancy.sam().floor().undo(place, self.key, now);
        settle(&self.broker, &self.tenancy, next.into_iter().collect());
    }

    fn failed(&self, taken: &Taken, id: String, why: Failure, now: Micros) -> TaskTaken {
        let sam = self.tenancy.sam();
        let next = sam.floor().fail(&taken.place, self.key, why, now);
        let state = match &next {
            Some(Next::Close(Closing {
                end: End::Dead(_), ..
            })) => "dead",
            Some(Next::Close(_)) => "done",
            Some(Next::Again(_)) | None => "again",
        };
        settle(&self.broker, &self.tenancy, next.into_iter().collect());
        TaskTaken {
            id,
            sequence: 0,
            state: state.to_owned(),
        }
    }

    fn breached(&self, taken: &Taken, id: String, breach: &Breach, now: Micros) -> Error {
        let counts = self.broker.sam_counts();
        one_more(&counts.breaches);
        let text = format!(
            "the output does not fit {}: {}",
            taken.by.output_schema,
            told("output", breach)
        );
        let why = Failure {
            code: ErrorCode::SchemaViolation.as_str().to_owned(),
            message: shortened(&text),
            cause: Cause::Contract,
        };
        self.failed(taken, id, why, now);
        if self.tenancy.sam().floor().breached(self.key) {
            self.quarantine(&taken.by);
        }
        let field = match breach.field.as_str() {
            "" => "output".to_owned(),
            field => format!("output.{field}"),
        };
        Refused::new(ErrorCode::SchemaViolation, &field, text).into()
    }

    fn quarantine(&self, manifest: &Manifest) {
        let why = "too many outputs that do not fit its schema";
        let Manifest {
            group, instance, ..
        } = manifest;
        tracing::warn!(tenant = %self.tenancy.tenant(), group, instance, "operator in quarantine");
        let event = stands(instance, State::Quarantined, why);
        if let Err(error) = record(&self.tenancy, group, &[event]) {
            tracing::error!(tenant = %self.tenancy.tenant(), group, %error, "a quarantine is not recorded");
        }
    }

    fn finish(
        &self,
        taken: &Taken,
        id: String,
        said: Said,
        now: Micros,
    ) -> Result<TaskTaken, Error> {
        let (sam, place) = (self.tenancy.sam(), &taken.place);
        // Not in the condition: there the lock would be held throughout.
        let closed = sam.floor().close(place);
        if let Err(refused) = closed {
            sam.floor().give_up(place, self.key);
            return Err(refused.into());
        }
        let score = said.score;
        let by = self.by(taken);
        let state = task::State::Done;
        let record = task::result((&taken.order, place.1), state, Some(&by), said);
        let stored = main_of(&self.tenancy).and_then(|main| {
            let (_, dispatched) = read(&main, place.1).unwrap_or((Bytes::new(), now));
            Ok((main.store(vec![record], None)?, dispatched))
        });
        let (appended, dispatched) = match stored {
            Ok(stored) => stored,
            Err(error) => {
                self.undo(place, now);
                return Err(error);
            }
        };
        let counts = self.broker.sam_counts();
        one_more(&counts.done);
        let took_ms = self.tenancy.now().0.saturating_sub(dispatched.0) / 1_000;
        counts
            .done_ms
            .fetch_add(took_ms, std::sync::atomic::Ordering::Relaxed);
        let sequence = appended.first.get();
        let finished = Finished {
            state,
            sequence,
            answers: vec![Answer {
                instance: by.instance,
                operator: by.operator,
                score,
                sequence,
            }],
        };
        sam.floor().finish(place, &finished);
        Ok(TaskTaken {
            id,
            sequence,
            state: "done".to_owned(),
        })
    }

    fn note(&self, taken: &Taken, id: String, said: Said, now: Micros) -> Result<TaskTaken, Error> {
        let (sam, place) = (self.tenancy.sam(), &taken.place);
        let score = said.score;
        let by = self.by(taken);
        let state = task::State::Answered;
        let record = task::result((&taken.order, place.1), state, Some(&by), said);
        let stored = main_of(&self.tenancy).and_then(|main| main.store(vec![record], None));
        let appended = match stored {
            Ok(appended) => appended,
            Err(error) => {
                self.undo(place, now);
                return Err(error);
            }
        };
        let answer = Answer {
            instance: by.instance,
            operator: by.operator,
            score,
            sequence: appended.first.get(),
        };
        let closing = sam.floor().note(place, self.key, answer);
        let closing = closing.map(Next::Close);
        settle(&self.broker, &self.tenancy, closing.into_iter().collect());
        Ok(TaskTaken {
            id,
            sequence: appended.first.get(),
            state: "answered".to_owned(),
        })
    }
}

/// Lets an operator out of quarantine, or puts it there.
pub(super) fn set_quarantine(
    tenancy: &Tenancy,
    group: &str,
    instance: &str,
    (state, why): (State, &str),
) -> Result<(), Error> {
    let sam = tenancy.sam();
    let mut floor = sam.floor();
    let present = floor.present(group, instance);
    let standing = match state {
        State::Quarantined => Standing::Quarantined,
        State::Announced | State::Ready | State::Draining | State::Gone => Standing::Ready,
    };
    let state = match (&present, state) {
        (None, State::Ready) => State::Gone,
        _ => state,
    };
    if let Some((key, _)) = present {
        floor.stand(key, standing);
    }
    drop(floor);
    record(tenancy, group, &[stands(instance, state, why)])
}
