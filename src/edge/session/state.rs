//! A session without its socket: what it is, what it has under way, what it has to say.
//!
//! One request at a time may wait for a blocking thread (to open a reality, to start a
//! subscription, to read history, to run a command); no other is read meanwhile, so that requests
//! take effect in the order in which they were sent.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use uuid::Uuid;

use super::SessionContext;
use super::delivery::Subscriptions;
use super::in_flight::InFlight;
use super::json::{Joined, JsonClient, Told};
use super::memberships::Memberships;
use super::operator::Admitted;
use super::outbox::Outbox;
use super::passing::Passing;
use super::produce::{Held, Parked};
use super::refusal::Refusal;
use super::rooms::{Arrived, SessionSeat};
use super::signals::{News, Signals};
use crate::broker::group::Member;
use crate::broker::operators::sam::Membership;
use crate::broker::rooms::Place;
use crate::broker::subscription::Started;
use crate::broker::{self, Identity, Reality, RealityName, Subscription, Tenancy};
use crate::edge::handshake::Subprotocol;
use crate::edge::json::text::Asked;
use crate::edge::mirror::Copy;
use crate::edge::rate::allowance::Allowance;
use crate::edge::shield::Guard;
use crate::edge::shield::judge::Judgement;
use crate::edge::shield::roll::{Cause, Ended};
use crate::proto::v1::{self, Drain, Welcome, server_frame::Body, system_signal};

/// This many undecodable messages within [`STRIKES_WITHIN`] end the session.
const STRIKES_MAX: usize = 3;
const STRIKES_WITHIN: Duration = Duration::from_secs(60);

/// How long a session that is to end waits for the answer to its last request.
const LAST_ANSWER: Duration = Duration::from_millis(300);

/// How the connection is to be closed (RFC 6455, section 7.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Close {
    pub(super) code: u16,
    pub(super) reason: &'static str,
}

/// What a blocking thread came back with.
#[derive(Debug)]
pub(super) enum Done {
    /// A reality, for the request that waits for it.
    Opened(Parked, Result<Arc<Reality>, broker::Error>),
    /// A subscription.
    Subscribed {
        request_id: u64,
        key: u64,
        id: u64,
        started: Result<Box<(Subscription, Started)>, broker::Error>,
    },
    /// A place in a group.
    JoinedGroup {
        request_id: u64,
        key: u64,
        id: u64,
        member: Result<Box<Member>, broker::Error>,
    },
    /// A dead letter of a named consumer is written; what is done by that.
    GaveUp(u64, v1::Ack, Result<(), broker::Error>),
    /// A session has joined a channel, or not.
    Arrived(Box<Arrived>),
    /// A session has left one, for whoever waits for the answer.
    Departed(u64, Place, Result<(), broker::Error>),
    /// A channel that a JSON client hears.
    Joined(Box<Joined>),
    /// An operator that was let in, or not.
    Admitted(Box<Admitted>),
    /// What a command of a JSON client has come to.
    Told(Box<Told>),
    /// An answer that is ready to be sent.
    Frame(Bytes),
    /// An answer, or why there is none.
    Answer(u64, Box<Result<Body, Refusal>>),
}

/// A request on a blocking thread.
#[derive(Debug)]
pub(super) struct Job {
    request_id: u64,
    handle: JoinHandle<Done>,
}

/// A session without its socket.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) context: SessionContext,
    pub(super) identity: Arc<Identity>,
    pub(super) tenancy: Arc<Tenancy>,
    pub(super) guard: Arc<Guard>,
    pub(super) judgement: Judgement,
    /// Time spent on it in this turn.
    pub(super) judged: Duration,
    /// Of the batch that is being judged.
    pub(super) copies: Vec<Copy>,
    /// What it may send; `None` if that is not limited.
    pub(super) allowance: Option<Box<Allowance>>,
    /// Its place on the guard's roll.
    present: u64,
    pub(super) subprotocol: Subprotocol,
    /// No subprotocol was offered, so that the first message decides.
    pub(super) unnamed: bool,
    /// What others call it among the members of a channel.
    pub(super) id: Uuid,
    /// What it has joined, if anything.
    pub(super) place: Option<Box<SessionSeat>>,
    /// What is kept for a client of JSON.
    pub(super) client: Option<Box<JsonClient>>,
    pub(super) signals: Arc<Signals>,
    pub(super) outbox: Outbox,
    pub(super) in_flight: InFlight,
    pub(super) held: Held,
    pub(super) passing: Passing,
    pub(super) subscriptions: Subscriptions,
    pub(super) memberships: Memberships,
    /// What it works as.
    pub(super) operators: Vec<Arc<Membership>>,
    pub(super) last_reality: Option<Arc<Reality>>,
    pub(super) draining: bool,
    pub(super) close: Option<Close>,
    /// Whether the client has been told that its token ends soon, or would not understand it.
    pub(super) warned: bool,
    /// It is to end once its request is answered, and then at the latest.
    ending: Option<(Cause, Instant)>,
    /// No request is read before this, because one was over its rate.
    pub(super) paused_until: Option<Instant>,
    job: Option<Job>,
    news: News,
    strikes: VecDeque<Instant>,
}

impl Session {
    pub(super) fn new(
        context: SessionContext,
        identity: Identity,
        tenancy: Arc<Tenancy>,
        guard: Arc<Guard>,
        subprotocol: Subprotocol,
    ) -> Self {
        let outbox = Outbox::new(Arc::clone(&context.metrics));
        let identity = Arc::new(identity);
        let signals: Arc<Signals> = Arc::default();
        // First on the roll, then held against what is revoked: whoever is revoked between the two
        // is met by one of them.
        let ended = Arc::clone(&signals) as Arc<dyn Ended>;
        let present = guard.roll().enter(Arc::clone(&identity), ended);
        if let Some(cause) = guard.rules().revocations.revoked(&identity) {
            signals.end(cause);
        }
        let allowance = Allowance::new(context.shield.session_pace()).map(Box::new);
        let mut session = Self {
            context,
            identity,
            tenancy,
            guard,
            judgement: Judgement::default(),
            judged: Duration::ZERO,
            copies: Vec::new(),
            allowance,
            present,
            subprotocol,
            unnamed: subprotocol == Subprotocol::Unnamed,
            id: Uuid::now_v7(),
            place: None,
            client: None,
            signals,
            outbox,
            in_flight: InFlight::default(),
            held: Held::default(),
            passing: Passing::default(),
            subscriptions: Subscriptions::default(),
            memberships: Memberships::default(),
            operators: Vec::new(),
            last_reality: None,
            draining: false,
            close: None,
            warned: subprotocol != Subprotocol::Frames,
            ending: None,
            paused_until: None,
            job: None,
            news: News::default(),
            strikes: VecDeque::new(),
        };
        if session.subprotocol == Subprotocol::Frames {
            let welcome = session.welcome();
            session.outbox.answer(0, Body::Welcome(welcome));
        }
        if session.subprotocol == Subprotocol::Json {
            session.greet();
        }
        session
    }

    fn welcome(&self) -> Welcome {
        let limits = &self.context.limits;
        Welcome {
            node: self.context.broker.node_name().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            session: self.id.simple().to_string(),
            tenant: self.identity.tenant.as_str().into(),
            subject: self.identity.subject.clone(),
            role: self.identity.role.as_str().into(),
            limits: Some(v1::Limits {
                message_bytes_max: limits.message_bytes_max as u64,
                envelope_bytes_max: limits.envelope_bytes_max as u64,
                batch_records_max: limits.batch_records_max as u64,
                topic_bytes_max: limits.topic_bytes_max as u64,
                topic_depth_max: limits.topic_depth_max as u64,
                subscriptions_max: limits.subscriptions_max as u64,
                credit_bytes_max: limits.credit_bytes_max,
            }),
            token_expires_at: self.token_expires_at(),
        }
    }

    /// Whether another request may be read.
    pub(super) fn may_read(&self) -> bool {
        let limits = &self.context.limits;
        self.job.is_none()
            && self.close.is_none()
            && self.ending.is_none()
            && self
                .paused_until
                .is_none_or(|until| Instant::now() >= until)
            && !self.outbox.is_full()
            && self.in_flight.bytes() < limits.inflight_bytes_max
            && self.in_flight.len() + self.unconfirmed() < limits.inflight_requests_max
    }

    /// Acknowledgements that are to be answered.
    fn unconfirmed(&self) -> usize {
        self.subscriptions.acks() + self.memberships.waiting()
    }

    /// Whether all that was accepted has been answered.
    pub(super) fn is_settled(&self) -> bool {
        self.job.is_none()
            && self.outbox.is_empty()
            && self.in_flight.is_empty()
            && self.unconfirmed() == 0
    }

    /// Says that the node is going down; produces are refused from now on.
    pub(super) fn drain(&mut self) {
        self.draining = true;
        for operator in &self.operators {
            operator.pause();
        }
        if self.subprotocol == Subprotocol::Frames {
            let drain = Drain {
                reason: "the node is going down".into(),
                deadline_ms: self.context.drain.deadline_ms,
                reconnect_after_ms: self.context.drain.reconnect_after_ms,
            };
            self.outbox.answer(0, Body::Drain(drain));
        }
    }

    /// Ends the session, for what others have decided about its bearer. A request that is being
    /// carried out is answered first if that does not take long: it may be the very one that has
    /// decided so.
    fn end(&mut self, cause: Cause) {
        if self.job.is_some() {
            self.ending
                .get_or_insert((cause, Instant::now() + LAST_ANSWER));
            return;
        }
        let signal = match cause {
            Cause::Banned => system_signal::Type::Ban,
            Cause::Revoked | Cause::Disconnected => system_signal::Type::Disconnect,
        };
        self.close_for(signal, cause.reason());
    }

    /// Ends the session if it is to end and need not wait any longer.
    pub(super) fn end_if_due(&mut self) {
        if let Some((cause, until)) = self.ending
            && (self.job.is_none() || Instant::now() >= until)
        {
            self.job = None;
            self.end(cause);
        }
    }

    /// When [`Session::end_if_due`] is due.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        self.ending.map(|(_, until)| until)
    }

    /// Ends the session: its token is over.
    pub(super) fn expire(&mut self) {
        self.close_for(system_signal::Type::Disconnect, "auth.expired");
    }

    fn close_for(&mut self, signal: system_signal::Type, reason: &'static str) {
        if self.close.is_some() {
            return;
        }
        match self.subprotocol {
            // JSON has no frame for it; the close says why.
            Subprotocol::Frames | Subprotocol::Json => {}
            Subprotocol::Unnamed if self.client.is_some() => {}
            Subprotocol::Envelopes | Subprotocol::Unnamed => self.signal(signal, reason),
        }
        let code = CloseCode::Policy.into();
        self.close = Some(Close { code, reason });
    }

    /// Says that the token ends soon.
    pub(super) fn warn(&mut self) {
        self.warned = true;
        // The older protocols have no word for it.
        if self.subprotocol != Subprotocol::Frames {
            return;
        }
        let token_expires_at = self.token_expires_at();
        let expiring = v1::Expiring { token_expires_at };
        self.outbox.answer(0, Body::Expiring(expiring));
    }

    /// In milliseconds since the Unix epoch; 0 = it does not.
    pub(super) fn token_expires_at(&self) -> i64 {
        let at = self.identity.expires_at;
        at.map_or(0, |at| i64::try_from(at.as_millis()).unwrap_or(i64::MAX))
    }

    /// Goes on as another bearer of the same tenant.
    pub(super) fn take_identity(&mut self, identity: Arc<Identity>) {
        // In this order for the same reason as in `new`.
        self.guard.roll().renew(self.present, Arc::clone(&identity));
        if let Some(cause) = self.guard.rules().revocations.revoked(&identity) {
            self.signals.end(cause);
        }
        self.operators.retain(|one| one.is_allowed(&identity));
        self.identity = identity;
        self.warned = false;
    }

    /// Notes a message that could not be decoded.
    pub(super) fn strike(&mut self) {
        let now = Instant::now();
        self.strikes.push_back(now);
        self.strikes
            .retain(|at| now.duration_since(*at) < STRIKES_WITHIN);
        if self.strikes.len() >= STRIKES_MAX {
            self.close = Some(Close {
                code: 1007,
                reason: "undecodable_messages",
            });
        }
    }

    /// Works off what other threads have told; `false` if it was nothing.
    pub(super) fn take_news(&mut self) -> bool {
        let mut news = std::mem::take(&mut self.news);
        let any = self.signals.take(&mut news);
        if let Some(cause) = news.ended.take() {
            self.end(cause);
        }
        for (token, outcome) in news.appended.drain(..) {
            self.appended(token, outcome);
        }
        for passed in news.passed.drain(..) {
            self.passed(passed);
        }
        for (key, outcome) in news.moved.drain(..) {
            self.subscriptions.moved(key, outcome, &mut self.outbox);
        }
        for (place, reason) in news.put_out.drain(..) {
            self.put_out(&place, reason);
        }
        for (key, history) in news.read.drain(..) {
            self.subscriptions.read(key, history, &self.signals);
        }
        for (key, outcome) in news.stored.drain(..) {
            self.memberships.stored(key, outcome, &mut self.outbox);
        }
        for key in news.dismissed.drain(..) {
            self.memberships.dismissed(key, &mut self.outbox);
        }
        for task in news.tasks.drain(..) {
            self.give_task(task);
        }
        for key in news.ready.drain(..) {
            // It is one of the two.
            self.subscriptions.ready(key);
            self.memberships.ready(key);
        }
        // Kept for its memory.
        self.news = news;
        any
    }

    /// Hands a request to a blocking thread.
    pub(super) fn start(&mut self, request_id: u64, work: impl FnOnce() -> Done + Send + 'static) {
        assert!(self.job.is_none(), "one request waits at a time");
        let handle = tokio::task::spawn_blocking(work);
        self.job = Some(Job { request_id, handle });
    }

    /// Opens a reality for a request that waits for it.
    pub(super) fn open_reality(&mut self, request_id: u64, name: RealityName, parked: Parked) {
        let tenancy = Arc::clone(&self.tenancy);
        self.start(request_id, move || {
            let opened = tenancy.reality(&name);
            Done::Opened(parked, opened)
        });
    }

    /// Takes what the blocking thread came back with; `false` if there is nothing.
    pub(super) fn poll_job(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(job) = &mut self.job else {
            return false;
        };
        let Poll::Ready(outcome) = Pin::new(&mut job.handle).poll(cx) else {
            return false;
        };
        let request_id = job.request_id;
        self.job = None;
        match outcome {
            Ok(done) => self.done(done),
            Err(error) => {
                self.context.metrics.panics.inc();
                tracing::error!(%error, "a request panicked");
                let refusal = Refusal::from(broker::Error::Internal);
                if self.subprotocol == Subprotocol::Json {
                    self.json_refused(&Asked::default(), &refusal);
                } else {
                    self.outbox.refuse(request_id, refusal);
                }
            }
        }
        true
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Opened(parked, opened) => self.unpark(parked, opened),
            Done::Subscribed {
                request_id,
                key,
                id,
                started,
            } => match started {
                Ok(started) => {
                    let (subscription, started) = *started;
                    let subscribed = subscribed(id, &subscription, started);
                    self.outbox.answer(request_id, Body::Subscribed(subscribed));
                    self.subscriptions.insert(key, id, subscription);
                }
                Err(error) => self.outbox.refuse(request_id, error.into()),
            },
            Done::JoinedGroup {
                request_id,
                key,
                id,
                member,
            } => match member {
                Ok(member) => {
                    let joined = joined_group(id, &member);
                    self.outbox.answer(request_id, Body::Subscribed(joined));
                    self.memberships.insert(key, id, *member);
                }
                Err(error) => self.outbox.refuse(request_id, error.into()),
            },
            Done::GaveUp(request_id, ack, written) => {
                let done = written.map_err(Refusal::from);
                if let Err(refusal) = done.and_then(|()| self.ack(request_id, &ack)) {
                    self.outbox.refuse(request_id, refusal);
                }
            }
            Done::Arrived(arrived) => self.arrived(*arrived),
            Done::Departed(request_id, place, outcome) => {
                self.departed(request_id, &place, outcome);
            }
            Done::Joined(joined) => self.joined(*joined),
            Done::Admitted(admitted) => self.admitted(*admitted),
            Done::Told(told) => self.respond(&told.asked, told.outcome),
            Done::Frame(frame) => self.outbox.push(frame),
            Done::Answer(request_id, answer) => match *answer {
                Ok(body) => self.outbox.answer(request_id, body),
                Err(refusal) => self.outbox.refuse(request_id, refusal),
            },
        }
    }

    fn unpark(&mut self, parked: Parked, opened: Result<Arc<Reality>, broker::Error>) {
        match (parked, opened) {
            (
                Parked::Frame {
                    request_id,
                    envelopes,
                    promise,
                },
                Ok(reality),
            ) => {
                if let Err(refusal) = self.append(&reality, request_id, &envelopes, promise) {
                    self.outbox.refuse(request_id, refusal);
                }
            }
            (Parked::Envelope(encoded), Ok(reality)) => self.append_envelope(&reality, &encoded),
            (Parked::Frame { request_id, .. }, Err(error)) => {
                self.outbox.refuse(request_id, error.into());
            }
            (Parked::Envelope(_), Err(error)) => self.envelope_refused("", &error.into()),
            (Parked::Json(frame), Ok(reality)) => self.append_json(&reality, *frame),
            (Parked::Json(frame), Err(error)) => {
                let asked = Asked {
                    id: frame.id,
                    room: frame.room,
                    channel: frame.channel,
                };
                self.json_refused(&asked, &error.into());
            }
        }
    }

    /// Gives memory back that an idle session does not need.
    pub(super) fn shrink(&mut self) {
        self.outbox.shrink();
        self.in_flight.shrink();
        self.subscriptions.shrink();
        self.memberships.shrink();
        self.news = News::default();
        self.judgement = Judgement::default();
        self.copies = Vec::new();
        if let Some(reality) = self.last_reality.take() {
            tracing::trace!(reality = %reality.name(), "session idle");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.draining {
            self.memberships.leave_all();
        }
        self.guard.roll().leave(self.present);
    }
}

fn joined_group(id: u64, member: &Member) -> v1::Subscribed {
    let (reality, next) = (member.reality(), member.floor());
    let bounds = reality.bounds();
    v1::Subscribed {
        subscription: id,
        tenant: reality.tenant().as_str().into(),
        reality: reality.name().as_str().into(),
        next: next.get(),
        last: bounds.written_end.get() - 1,
        first: bounds.first.get(),
        resumed: true,
        clock_key: reality.clock_key().into(),
    }
}

fn subscribed(id: u64, subscription: &Subscription, started: Started) -> v1::Subscribed {
    let reality = subscription.reality();
    v1::Subscribed {
        subscription: id,
        tenant: reality.tenant().as_str().into(),
        reality: reality.name().as_str().into(),
        next: started.next.get(),
        last: started.bounds.written_end.get() - 1,
        first: started.bounds.first.get(),
        resumed: started.resumed,
        clock_key: reality.clock_key().into(),
    }
}
