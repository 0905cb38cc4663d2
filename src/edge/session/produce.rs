//! From a Produce, or a single envelope, to an append under way (EDGE-09: its limits).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::in_flight::{Pending, Reply};
use super::refusal::Refusal;
use super::state::Session;
use crate::broker::accept::{Admitted, Batch, Fault, Rejection};
use crate::broker::name::check_topic;
use crate::broker::{self, Duplicate, Expected, NameError, Reality, RealityName, operators};
use crate::config::Limits;
use crate::edge::json::frame::Frame;
use crate::edge::mirror::{Copy, Original};
use crate::edge::rate::Payers;
use crate::edge::shield::{Blocked, Message, Rules};
use crate::log::{AppendError, AppendSink, Appended, Durability};
use crate::proto::ErrorCode;
use crate::proto::v1::{self, Produced, server_frame::Body};
use crate::proto::view::EnvelopeView;

/// After a batch over its rate, nothing is read from the session for up to this long.
const RATE_PAUSE: Duration = Duration::from_millis(100);

/// Batches beyond these are judged where they hold nobody up.
const LARGE_RECORDS: usize = 64;
const LARGE_BYTES: usize = 64 << 10;
/// The checks of one batch may take so long.
const BATCH_JUDGING_MAX: Duration = Duration::from_secs(5);

/// Under what a batch is stored, and when it is acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    pub(super) durability: Durability,
    pub(super) then: Option<Durability>,
    /// And then when these projections have passed it.
    pub(super) projected: Vec<String>,
    /// What must hold when it is stored.
    pub(super) expected: Option<Expected>,
}

impl Promise {
    /// What is promised to whoever asks for nothing.
    pub(super) const DEFAULT: Self = Self {
        durability: Durability::Synced,
        then: None,
        projected: Vec::new(),
        expected: None,
    };

    /// What a Produce asks for.
    pub(super) fn of(produce: &v1::Produce) -> Result<Self, Refusal> {
        let durability = durability(produce.durability, "durability")?;
        let mut then = None;
        for (index, &wanted) in produce.then.iter().enumerate() {
            let field = format!("then[{index}]");
            let later = self::durability(wanted, &field)?;
            if later <= durability || then.is_some() {
                let text = format!("{field} must promise more than what is acknowledged before it");
                return Err(Refusal::invalid(&field, text));
            }
            then = Some(later);
        }
        let expected = produce
            .expected
            .as_ref()
            .map(|expected| self::expected(&expected.topic, expected.last))
            .transpose()?;
        Ok(Self {
            durability,
            then,
            projected: produce.then_projected.clone(),
            expected,
        })
    }
}

/// What a producer says of a topic.
pub(super) fn expected(topic: &str, last: u64) -> Result<Expected, Refusal> {
    check_topic(topic)
        .map_err(|fault| Refusal::invalid("expected.topic", format!("expected.topic {fault}")))?;
    let topic = topic.to_owned();
    Ok(Expected { topic, last })
}

fn durability(wanted: i32, field: &str) -> Result<Durability, Refusal> {
    match v1::Durability::try_from(wanted) {
        Ok(v1::Durability::Unspecified | v1::Durability::Synced) => Ok(Durability::Synced),
        Ok(v1::Durability::Written) => Ok(Durability::Written),
        Ok(v1::Durability::Replicated) => Err(Refusal::not_served(field)),
        Err(error) => Err(Refusal::invalid(field, format!("{field}: {error}"))),
    }
}

/// Realities with batches that wait for the end of the turn, so that all that a turn has read is
/// written together. Nothing stays behind: also a session that panics releases them.
#[derive(Debug, Default)]
pub(super) struct Held(Vec<Arc<Reality>>);

impl Held {
    fn hold(&mut self, reality: &Arc<Reality>) {
        if !self.0.iter().any(|held| Arc::ptr_eq(held, reality)) {
            self.0.push(Arc::clone(reality));
        }
    }

    /// Gets the batches written.
    pub(super) fn release(&mut self) {
        for reality in self.0.drain(..) {
            reality.start();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

/// A request whose reality is being opened.
#[derive(Debug)]
pub(super) enum Parked {
    /// `arqon.v1`.
    Frame {
        request_id: u64,
        envelopes: Vec<Bytes>,
        promise: Promise,
    },
    /// `arqon.envelope.v1`.
    Envelope(Bytes),
    /// `arqon.json.v1`.
    Json(Box<Frame>),
}

impl Session {
    /// Takes a Produce.
    pub(super) fn produce(&mut self, request_id: u64, produce: v1::Produce) -> Result<(), Refusal> {
        if self.draining {
            return Err(Refusal::shutting_down());
        }
        let promise = Promise::of(&produce)?;
        let found = produce.envelopes.len();
        let limit = self.context.limits.batch_records_max;
        if found == 0 {
            return Err(Refusal::invalid("envelopes", "envelopes is empty"));
        }
        if found > limit {
            return Err(Refusal::too_large("envelopes", found, "envelopes", limit));
        }
        let name = self.reality_name(&produce.reality)?;
        if name.is_system() || name.is_lab() {
            return Err(broker::Error::RealityClosed { reality: name }.into());
        }
        self.check_projected(&name, &promise.projected)?;
        if let Some(expected) = &promise.expected {
            self.check_expected(expected)?;
        }
        let envelopes = produce.envelopes;
        match self.opened(&name) {
            Some(reality) => self.append(&reality, request_id, &envelopes, promise),
            None => {
                let parked = Parked::Frame {
                    request_id,
                    envelopes,
                    promise,
                };
                self.open_reality(request_id, name, parked);
                Ok(())
            }
        }
    }

    /// Where a topic ends is not for everybody to know.
    pub(super) fn check_expected(&self, expected: &Expected) -> Result<(), Refusal> {
        let topic = &expected.topic;
        if self.identity.may_publish(topic) || self.identity.may_see(topic) {
            return Ok(());
        }
        let text = "expected.topic is not a topic that this token may publish on or see";
        Err(Refusal::new(ErrorCode::Forbidden, "expected.topic", text))
    }

    /// Appends the envelopes of a Produce.
    pub(super) fn append(
        &mut self,
        reality: &Arc<Reality>,
        request_id: u64,
        envelopes: &[Bytes],
        promise: Promise,
    ) -> Result<(), Refusal> {
        let identity = Arc::clone(&self.identity);
        let rules = self.guard.rules();
        let mut batch = Batch::new(reality, &identity, envelopes.len());
        let bytes = envelopes.iter().map(Bytes::len).sum();
        if !rules.is_idle() && (envelopes.len() > LARGE_RECORDS || bytes > LARGE_BYTES) {
            aside(|| self.fill(&rules, &mut batch, envelopes))?;
        } else {
            self.fill(&rules, &mut batch, envelopes)?;
        }
        self.hand_over(reality, batch, bytes, promise, Reply::Frame(request_id))
    }

    /// Puts all envelopes of a Produce into its batch.
    fn fill(
        &mut self,
        rules: &Rules,
        batch: &mut Batch<'_>,
        envelopes: &[Bytes],
    ) -> Result<(), Refusal> {
        let started = Instant::now();
        for (index, encoded) in envelopes.iter().enumerate() {
            let view = self.read_envelope(Some(index), encoded)?;
            let admitted = batch.admit(encoded, &view, None);
            let admitted =
                admitted.map_err(|rejection| self.not_admitted(rules, batch, &view, rejection))?;
            self.check_room(admitted.topic()).map_err(|mut refusal| {
                refusal.field = format!("envelopes[{index}].topic");
                refusal
            })?;
            if index == 0 {
                self.pay(rules, batch, &admitted, &view, envelopes)?;
            }
            self.judge(rules, Some(index), batch, admitted, encoded, &view)?;
            if !rules.is_idle() && started.elapsed() >= BATCH_JUDGING_MAX {
                let text = "schemas, inspection and policies took too long over this batch; send fewer envelopes at a time";
                return Err(Refusal::new(ErrorCode::PolicyFailure, "envelopes", text));
            }
        }
        Ok(())
    }

    /// An envelope is not let in. Where it went for what is not its sender's, that is noted.
    pub(super) fn not_admitted(
        &self,
        rules: &Rules,
        batch: &Batch<'_>,
        view: &EnvelopeView<'_>,
        rejection: Rejection,
    ) -> Refusal {
        let reason = match rejection.fault.code() {
            ErrorCode::TenantMismatch => Some("access.tenant"),
            ErrorCode::Forbidden => Some("access.topic"),
            _ => None,
        };
        if let Some(reason) = reason {
            let message = Message {
                sender: batch.sender(),
                topic: view.topic,
                view,
                now_ms: batch.now().as_millis(),
            };
            let blocked = Blocked::new(rejection.fault.code(), reason, "");
            let decisions = self.guard.decisions();
            decisions.blocked(&self.tenancy, rules, &message, &blocked);
        }
        Refusal::from(broker::Error::from(rejection))
    }

    /// Counts a batch, whose first envelope has been admitted, against all rates.
    pub(super) fn pay(
        &mut self,
        rules: &Rules,
        batch: &Batch<'_>,
        first: &Admitted,
        view: &EnvelopeView<'_>,
        envelopes: &[Bytes],
    ) -> Result<(), Refusal> {
        let payers = Payers {
            session: self.allowance.as_deref(),
            tenant: self.guard.allowance(),
            topics: &rules.rates,
        };
        let paid = payers.pay(first.topic(), envelopes);
        paid.map_err(|blocked| {
            // Refusing is cheap for the peer too; others must not pay for its haste.
            let pause = Duration::from_millis(blocked.retry_after_ms).min(RATE_PAUSE);
            self.paused_until = Some(Instant::now() + pause);
            let message = message(batch, first, view);
            let decisions = self.guard.decisions();
            decisions.blocked(&self.tenancy, rules, &message, &blocked);
            // Its field is a path from the request already.
            Refusal::blocked(blocked, None)
        })
    }

    /// Has the edge judge an envelope, and puts it into the batch if it passes.
    pub(super) fn judge(
        &mut self,
        rules: &Rules,
        index: Option<usize>,
        batch: &mut Batch<'_>,
        admitted: Admitted,
        encoded: &Bytes,
        view: &EnvelopeView<'_>,
    ) -> Result<(), Refusal> {
        if batch.is_empty() {
            // Copies of a batch that was refused.
            self.copies.clear();
        }
        let message = message(batch, &admitted, view);
        let decisions = self.guard.decisions();
        let started = (!rules.is_idle()).then(Instant::now);
        let passed = self.judgement.pass(rules, &message);
        self.judged += started.map_or(Duration::ZERO, |since| since.elapsed());
        if let Err(blocked) = passed {
            decisions.blocked(&self.tenancy, rules, &message, &blocked);
            return Err(Refusal::blocked(blocked, index));
        }
        let judgement = &self.judgement;
        decisions.passed(&self.tenancy, rules, &message, &judgement.findings);
        let stored = judgement.envelope(encoded, view);
        let verdict = judgement.verdict();
        if rules.mirrors.is_empty() {
            batch.take(admitted, view, stored, verdict);
            return Ok(());
        }
        let topic = admitted.topic().to_owned();
        let reality = batch.reality().name().clone();
        let id = batch.take(admitted, view, stored.clone(), verdict);
        let original = Original {
            topic: &topic,
            reality: &reality,
            id,
            view,
            stored: &stored,
            verdict,
            revision: rules.revision,
        };
        rules.mirrors.copy(&original, &mut self.copies);
        Ok(())
    }

    /// Decodes an envelope and holds it against the limits.
    pub(super) fn read_envelope<'e>(
        &self,
        index: Option<usize>,
        encoded: &'e Bytes,
    ) -> Result<EnvelopeView<'e>, Refusal> {
        let reject = |(field, fault)| {
            let rejection = Rejection {
                index,
                field,
                fault,
            };
            Refusal::from(broker::Error::from(rejection))
        };
        let limits = &self.context.limits;
        let (found, limit) = (encoded.len(), limits.envelope_bytes_max);
        if found > limit {
            let unit = "bytes";
            return Err(reject(("", Fault::TooLarge { found, limit, unit })));
        }
        let view = EnvelopeView::parse(encoded).map_err(|e| reject(("", Fault::Encoding(e))))?;
        within(&view, limits).map_err(reject)?;
        Ok(view)
    }

    /// Gives a batch to the log.
    pub(super) fn hand_over(
        &mut self,
        reality: &Arc<Reality>,
        mut batch: Batch<'_>,
        bytes: usize,
        promise: Promise,
        reply: Reply,
    ) -> Result<(), Refusal> {
        let delayed = batch.delayed();
        if delayed > 0 {
            let announce = || {
                let broker = &self.context.broker;
                operators::delayed::announce(broker, &self.tenancy, reality, delayed)
            };
            if operators::delayed::is_announced(reality) {
                announce()?;
            } else {
                aside(announce)?;
            }
        }
        if let Some(expected) = promise.expected {
            batch.expect(expected);
        }
        let receipt = batch.receipt();
        let copies = std::mem::take(&mut self.copies);
        // What may be refused when its sequences are given, or be there already, is not copied yet.
        let (copies, later) = match &receipt {
            Some(_) => (Vec::new(), copies),
            None => (copies, Vec::new()),
        };
        // First remembered: the log may answer before it returns.
        let token = self.in_flight.insert(Pending {
            reply,
            bytes,
            answers: 1 + u8::from(promise.then.is_some()),
            projected: promise.projected,
            receipt,
            copies: later,
            started: Instant::now(),
        });
        let sink = Arc::clone(&self.signals) as Arc<dyn AppendSink>;
        let reads = reality.must_read_for(&batch);
        let append = || reality.append(batch, promise.durability, promise.then, sink, token);
        let appended = if reads { aside(append) } else { append() };
        self.held.hold(reality);
        match appended {
            Ok(()) => {
                self.copy(copies);
                Ok(())
            }
            Err(error) => {
                if delayed > 0 {
                    operators::delayed::retract(reality, delayed);
                }
                self.in_flight.remove(token);
                Err(error.into())
            }
        }
    }

    fn copy(&self, copies: Vec<Copy>) {
        if !copies.is_empty() {
            let copier = self.guard.copier();
            copier.submit(&self.tenancy, &self.identity, copies);
        }
    }

    /// Answers an append.
    pub(super) fn appended(&mut self, token: u64, outcome: Result<Appended, AppendError>) {
        let Some(pending) = self.in_flight.get(token) else {
            return;
        };
        let first_answer = pending.answers > 0 && outcome.is_ok();
        let last = pending.answers <= 1 || outcome.is_err();
        if !last {
            pending.answers -= 1;
        }
        let (bytes, started) = (pending.bytes, pending.started);
        let receipt = pending.receipt.clone();
        let receipt = receipt.as_deref();
        let copies = std::mem::take(&mut pending.copies);
        let duplicates = receipt.map_or(&[][..], broker::Receipt::duplicates);
        let mut projected = Vec::new();
        let reply = match (last, &pending.reply) {
            (false, Reply::Frame(request_id)) => Some(Reply::Frame(*request_id)),
            (false, Reply::Envelope(_) | Reply::Json(_)) => None,
            (true, _) => self.in_flight.remove(token).map(|pending| {
                projected = pending.projected;
                pending.reply
            }),
        };
        match outcome {
            Ok(appended) => {
                if !receipt.is_some_and(broker::Receipt::is_repetition) {
                    self.copy(copies);
                }
                if first_answer && (last || appended.durability == Durability::Written) {
                    let records = match receipt {
                        Some(receipt) if receipt.is_repetition() => 0,
                        _ => appended.last.next().since(appended.first),
                    };
                    let took = started.elapsed();
                    self.context.metrics.produced(records, bytes as u64, took);
                }
                match reply {
                    Some(Reply::Frame(0)) | None => {}
                    Some(Reply::Frame(request_id)) => {
                        self.outbox
                            .answer(request_id, produced(appended, duplicates));
                        self.await_projected(request_id, appended, projected);
                    }
                    Some(Reply::Envelope(id)) => self.envelope_stored(&id, appended),
                    Some(Reply::Json(receipt)) => self.json_stored(*receipt, appended),
                }
            }
            Err(error) => {
                let unmet = receipt.and_then(broker::Receipt::unmet);
                let error = match unmet {
                    Some(unmet) => broker::Error::from(unmet.clone()),
                    None => broker::Error::from(error),
                };
                let refusal = Refusal::from(error);
                match reply {
                    Some(Reply::Frame(request_id)) => self.outbox.refuse(request_id, refusal),
                    Some(Reply::Envelope(id)) => self.envelope_refused(&id, &refusal),
                    Some(Reply::Json(receipt)) => self.json_not_stored(&receipt, &refusal),
                    None => {}
                }
            }
        }
    }

    /// The reality named in a request.
    pub(super) fn reality_name(&self, name: &str) -> Result<RealityName, Refusal> {
        // The reality used last is the likeliest, and its name needs no check.
        if let Some(last) = &self.last_reality
            && last.name().as_str() == name
        {
            return Ok(last.name().clone());
        }
        let field = "reality";
        RealityName::new(name).map_err(|fault| broker::Error::Name { field, fault }.into())
    }

    /// A reality, if it is open.
    pub(super) fn opened(&mut self, name: &RealityName) -> Option<Arc<Reality>> {
        if let Some(last) = &self.last_reality
            && last.name() == name
            && !last.is_gone()
        {
            return Some(Arc::clone(last));
        }
        let reality = self.tenancy.opened(name)?;
        self.last_reality = Some(Arc::clone(&reality));
        Some(reality)
    }
}

/// Does what may take long without holding up the other tasks of this thread.
#[expect(
    clippy::disallowed_methods,
    reason = "computing of a length that clients choose, and reads once after a log is opened"
)]
fn aside<T>(work: impl FnOnce() -> T) -> T {
    let runtime = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    match runtime {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        // There is no other thread that could go on.
        _ => work(),
    }
}

fn produced(appended: Appended, duplicates: &[Duplicate]) -> Body {
    let durability = match appended.durability {
        Durability::Written => v1::Durability::Written,
        Durability::Synced => v1::Durability::Synced,
    };
    Body::Produced(Produced {
        first: appended.first.get(),
        last: appended.last.get(),
        durability: durability.into(),
        projected: String::new(),
        duplicates: duplicates.iter().map(duplicate).collect(),
    })
}

fn duplicate(duplicate: &Duplicate) -> v1::Duplicate {
    v1::Duplicate {
        index: u32::try_from(duplicate.index).unwrap_or(u32::MAX),
        sequence: duplicate.sequence,
    }
}

fn message<'a>(
    batch: &'a Batch<'_>,
    admitted: &'a Admitted,
    view: &'a EnvelopeView<'a>,
) -> Message<'a> {
    Message {
        sender: batch.sender(),
        topic: admitted.topic(),
        view,
        now_ms: batch.now().as_millis(),
    }
}

/// The configured limits on parts of an envelope.
fn within(view: &EnvelopeView<'_>, limits: &Limits) -> Result<(), (&'static str, Fault)> {
    let (found, limit) = (view.topic.len(), limits.topic_bytes_max);
    if found > limit {
        return Err(("topic", Fault::Name(NameError::TooLong { found, limit })));
    }
    let limit = limits.topic_depth_max;
    // n tokens take at least 2 n - 1 bytes.
    if found > 2 * limit {
        let found = view.topic.split('.').count();
        if found > limit {
            return Err(("topic", Fault::Name(NameError::TooDeep { found, limit })));
        }
    }
    if view.headers.is_empty() {
        return Ok(());
    }
    let (found, limit, unit) = (view.headers.len(), limits.headers_max, "headers");
    if found > limit {
        return Err(("headers", Fault::TooLarge { found, limit, unit }));
    }
    let size = |(name, value): (&str, &str)| name.len() + value.len();
    let found = view.headers.iter().map(size).sum();
    let (limit, unit) = (limits.header_bytes_max, "bytes");
    if found > limit {
        return Err(("headers", Fault::TooLarge { found, limit, unit }));
    }
    Ok(())
}
