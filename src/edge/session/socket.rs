//! The session's socket: messages in, frames out, timers, and how it is closed.
//!
//! Knows WebSocket and nothing of what the frames mean.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Sink, SinkExt as _, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use super::SessionContext;
use super::frame;
use super::json;
use super::metered::Metered;
use super::outbox::Outgoing;
use super::refusal::Refusal;
use super::state::{Close, Session};
use crate::broker::rooms::Going;
use crate::edge::handshake::Subprotocol;
use crate::edge::json::text::Asked;
use crate::edge::websocket::{self, Farewell};
use crate::proto::v1::server_frame::Body;

/// After so many rounds a turn gives others theirs.
const ROUNDS_MAX: usize = 8;
/// Messages taken in a round.
const MESSAGES_MAX: usize = 64;
/// Time that a turn gives to schemas, inspection and policies, and the one message that is being
/// judged then.
const JUDGING_MAX: Duration = Duration::from_millis(2);
/// Bytes sent in a round.
const SEND_BYTES_MAX: usize = 1 << 20;
/// Between the Drain frame and the close, so that the client can acknowledge what it has.
const DRAIN_GRACE: Duration = Duration::from_millis(250);
/// A session whose socket takes nothing for this long gives back what it needs only to go on.
const BLOCKED_GRACE: Duration = Duration::from_secs(1);
/// How often the wall clock is compared with the end of the token.
const TOKEN_CHECK: Duration = Duration::from_secs(30);
/// How long the peer's answer to a close is waited for.
const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// A client that has offered no subprotocol and says nothing for so long is greeted in JSON, as the
/// older system did; whoever speaks protobuf at once never sees it.
const SILENCE_BEFORE_GREETING: Duration = Duration::from_millis(250);
/// How a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// By a close from both sides.
    Closed,
    /// Without one: the peer is gone, or does not read.
    Gone,
    /// By our close after the peer broke the protocol; what it still sends is not looked at.
    Broken,
}

/// How far the close has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Closing {
    No,
    /// Our close frame is on its way or sent.
    Sent {
        until: Instant,
    },
}

/// A session and its socket.
#[derive(Debug)]
pub(super) struct Pump<S> {
    websocket: WebSocketStream<Metered<S>>,
    session: Session,
    /// Fed and not flushed.
    dirty: bool,
    /// Since when the socket takes nothing.
    blocked_since: Option<Instant>,
    /// Memory has been given back because it does not.
    trimmed: bool,
    /// When the peer was last heard.
    heard: Instant,
    pinged: bool,
    drain_since: Option<Instant>,
    /// When a client that has said nothing is greeted.
    greeting: Option<Instant>,
    closing: Closing,
    /// The socket gives no more messages.
    deaf: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Pump<S> {
    pub(super) fn new(websocket: WebSocketStream<Metered<S>>, session: Session) -> Self {
        let greeting = session.may_become_json();
        Self {
            websocket,
            session,
            greeting: greeting.then(|| Instant::now() + SILENCE_BEFORE_GREETING),
            dirty: false,
            blocked_since: None,
            trimmed: false,
            heard: Instant::now(),
            pinged: false,
            drain_since: None,
            closing: Closing::No,
            deaf: false,
        }
    }

    pub(super) const fn is_draining(&self) -> bool {
        self.drain_since.is_some()
    }

    /// Says that the node is going down; the session ends when all is answered.
    pub(super) fn drain(&mut self) {
        self.drain_since = Some(Instant::now());
        self.session.drain();
    }

    /// Does all that can be done without waiting.
    pub(super) fn turn(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.session.judged = Duration::ZERO;
        for _ in 0..ROUNDS_MAX {
            self.session.signals.register(cx.waker());
            let mut moved = self.session.take_news();
            moved |= self.session.poll_job(cx);
            self.session.end_if_due();
            self.close_when_drained();
            match (self.write(cx), self.read(cx)) {
                (Ok(written), Ok(read)) => {
                    self.session.held.release();
                    moved |= written | read;
                }
                (Err(end), _) | (_, Err(end)) => return Poll::Ready(end),
            }
            // Checks that take their time must not take that of others.
            if self.session.judged >= JUDGING_MAX {
                break;
            }
            if !moved {
                return self.flush(cx);
            }
        }
        let flushed = self.flush(cx);
        cx.waker().wake_by_ref();
        flushed
    }

    fn close_when_drained(&mut self) {
        let settled = self.session.is_settled() && !self.dirty;
        let waited = self.drain_since.is_some_and(|since| {
            since.elapsed() >= self.drain_limit() || (settled && since.elapsed() >= DRAIN_GRACE)
        });
        if waited && self.session.close.is_none() {
            self.session.close = Some(Close {
                code: CloseCode::Away.into(),
                reason: "draining",
            });
        }
    }

    /// What is under way may take this long when the node goes down: half of what the node has.
    fn drain_limit(&self) -> Duration {
        Duration::from_millis(self.session.context.drain.deadline_ms / 2)
    }

    /// Feeds what there is to say; `false` if that was nothing.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut sent = 0;
        while sent < SEND_BYTES_MAX && self.closing == Closing::No {
            match Pin::new(&mut self.websocket).poll_ready(cx) {
                Poll::Ready(Ok(())) => self.unblocked(),
                Poll::Ready(Err(error)) => return Err(gone(&error)),
                Poll::Pending => {
                    self.blocked_since.get_or_insert_with(Instant::now);
                    break;
                }
            }
            let Some(message) = self.next_message() else {
                break;
            };
            sent += message.len().max(1);
            self.dirty = true;
            let fed = Pin::new(&mut self.websocket).start_send(message);
            fed.map_err(|error| gone(&error))?;
        }
        Ok(sent > 0)
    }

    const fn unblocked(&mut self) {
        self.blocked_since = None;
        self.trimmed = false;
    }

    fn next_message(&mut self) -> Option<Message> {
        let session = &mut self.session;
        if let Some(frame) = session.outbox.pop() {
            return Some(message(frame));
        }
        if let Some(close) = session.close {
            let until = Instant::now() + CLOSE_WAIT;
            self.closing = Closing::Sent { until };
            return Some(Message::Close(Some(CloseFrame {
                code: close.code.into(),
                reason: close.reason.into(),
            })));
        }
        // Nothing more of the log for a session that is to end.
        if session.ends_at().is_some() {
            return None;
        }
        if session.subprotocol == Subprotocol::Json {
            return session.next_json().map(message);
        }
        // What is left to do goes before what is only read; a node that is going down gives out no
        // more work.
        if !session.draining
            && let Some(frame) = session.memberships.next_frame(
                session.context.limits.deliver_bytes_max,
                &mut session.outbox,
                &session.context.metrics,
            )
        {
            return Some(message(frame));
        }
        let frame = session.subscriptions.next_frame(
            session.context.limits.deliver_bytes_max,
            &mut session.outbox,
            &session.context.metrics,
            &session.signals,
        );
        frame.map(message)
    }

    /// Takes in what the peer has sent; `false` if that was nothing.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut any = false;
        for _ in 0..MESSAGES_MAX {
            // Once we have said goodbye, only the peer's is of interest.
            if self.deaf || !(self.session.may_read() || self.closing != Closing::No) {
                break;
            }
            if self.session.judged >= JUDGING_MAX {
                break;
            }
            match Pin::new(&mut self.websocket).poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => self.receive(message),
                Poll::Ready(Some(Err(error))) => self.broken(&error)?,
                Poll::Ready(None) => return Err(End::Closed),
                Poll::Pending => break,
            }
            any = true;
        }
        if any {
            self.heard = Instant::now();
            self.pinged = false;
        }
        Ok(any)
    }

    fn receive(&mut self, message: Message) {
        // tungstenite queues its answers to control frames; they leave with the next flush.
        self.dirty = true;
        if self.session.close.is_some() {
            return;
        }
        match message {
            Message::Binary(bytes) => match self.session.subprotocol {
                Subprotocol::Frames => self.session.receive_frame(bytes),
                Subprotocol::Envelopes | Subprotocol::Unnamed => {
                    self.session.receive_envelope(bytes);
                }
                Subprotocol::Json => self.session.wrong_form("json"),
            },
            Message::Text(text) => self.session.receive_text(&text),
            // A session that only says that it is there keeps no log open.
            Message::Ping(_) => self.session.last_reality = None,
            Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {}
        }
    }

    /// The socket gave an error: closes with the code that RFC 6455 has for it.
    fn broken(&mut self, error: &SocketError) -> Result<(), End> {
        let flooded = self.websocket.get_ref().is_flooded();
        let (code, reason) = websocket::close_after(error, flooded).ok_or_else(|| gone(error))?;
        if let SocketError::Capacity(CapacityError::MessageTooLong { size, max_size }) = error {
            let refusal = Refusal::too_large("message", *size, "bytes", *max_size);
            match self.session.subprotocol {
                Subprotocol::Frames => self.session.outbox.refuse(0, refusal),
                Subprotocol::Envelopes | Subprotocol::Unnamed => {
                    self.session.envelope_refused("", &refusal);
                }
                Subprotocol::Json => self.session.json_refused(&Asked::default(), &refusal),
            }
        }
        tracing::debug!(%error, "the peer broke the protocol");
        self.deaf = true;
        if self.closing == Closing::No {
            let code = code.into();
            self.session.close = Some(Close { code, reason });
        }
        Ok(())
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.dirty {
            match Pin::new(&mut self.websocket).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.dirty = false;
                    self.unblocked();
                }
                Poll::Ready(Err(error)) => return Poll::Ready(gone(&error)),
                Poll::Pending => {
                    self.blocked_since.get_or_insert_with(Instant::now);
                }
            }
        }
        if self.deaf && self.closing != Closing::No && !self.dirty {
            return Poll::Ready(End::Broken);
        }
        Poll::Pending
    }

    /// When [`Pump::tick`] is due.
    pub(super) fn alarm(&self) -> Instant {
        let limits = &self.session.context.limits;
        let ms = Duration::from_millis;
        let silence = ms(limits.ping_after_ms)
            + if self.pinged {
                ms(limits.pong_timeout_ms)
            } else {
                Duration::ZERO
            };
        let mut at = self.heard + silence;
        if let Some(since) = self.blocked_since {
            at = at.min(since + ms(limits.write_timeout_ms));
            if !self.trimmed {
                at = at.min(since + BLOCKED_GRACE);
            }
        }
        if let Closing::Sent { until } = self.closing {
            return until;
        }
        if let Some(until) = self.session.paused_until.map(Instant::from_std)
            && until > Instant::now()
        {
            at = at.min(until);
        }
        // What leads to a close is of no interest once there is to be one.
        if self.session.close.is_some() {
            return at;
        }
        if let Some(until) = self.session.ends_at() {
            at = at.min(until.into());
        }
        if let Some(mut left) = self.token_left() {
            if !self.session.warned {
                left = left.saturating_sub(self.warning_lead());
            }
            // The wall clock may jump, so it is looked at again now and then.
            at = at.min(Instant::now() + left.min(TOKEN_CHECK));
        }
        if let Some(greeting) = self.greeting {
            at = at.min(greeting);
        }
        if let Some(since) = self.drain_since {
            let grace = since + DRAIN_GRACE;
            let limit = since + self.drain_limit();
            at = at.min(if Instant::now() < grace { grace } else { limit });
        }
        at
    }

    fn warning_lead(&self) -> Duration {
        self.session.context.verifier.expiring_lead()
    }

    fn token_left(&self) -> Option<Duration> {
        let session = &self.session;
        let expires_at = session.identity.expires_at?;
        let now = session.context.broker.now();
        Some(Duration::from_micros(expires_at.0.saturating_sub(now.0)))
    }

    /// Looks at what is due; the session's end if it is that.
    pub(super) fn tick(&mut self) -> Option<End> {
        let now = Instant::now();
        if self.greeting.is_some_and(|at| now >= at) {
            self.greeting = None;
            if self.session.may_become_json() && self.session.client.is_none() {
                self.session.greet();
            }
        }
        let limits = Arc::clone(&self.session.context.limits);
        let ms = Duration::from_millis;
        if let Closing::Sent { until } = self.closing
            && now >= until
        {
            return Some(End::Gone);
        }
        if let Some(since) = self.blocked_since
            && now >= since + ms(limits.write_timeout_ms)
        {
            tracing::info!(tenant = %self.session.identity.tenant, "session closed: its peer does not read");
            return Some(End::Gone);
        }
        if !self.trimmed
            && let Some(since) = self.blocked_since
            && now >= since + BLOCKED_GRACE
        {
            self.trimmed = true;
            self.session.subscriptions.shrink();
        }
        self.session.end_if_due();
        if let Some(left) = self.token_left() {
            if left.is_zero() {
                self.session.expire();
            } else if !self.session.warned && left <= self.warning_lead() {
                self.session.warn();
            }
        }
        let silent = now.duration_since(self.heard);
        if self.pinged && silent >= ms(limits.ping_after_ms) + ms(limits.pong_timeout_ms) {
            return Some(End::Gone);
        }
        if !self.pinged && silent >= ms(limits.ping_after_ms) {
            self.pinged = true;
            self.session.shrink();
            return self.ping();
        }
        None
    }

    fn ping(&mut self) -> Option<End> {
        if self.blocked_since.is_some() || self.closing != Closing::No {
            return None;
        }
        self.dirty = true;
        let ping = Message::Ping(Bytes::new());
        let fed = Pin::new(&mut self.websocket).start_send(ping);
        fed.err().map(|error| gone(&error))
    }

    /// Lets go of the socket.
    pub(super) async fn leave(self: Box<Self>, end: End) {
        let Self {
            mut websocket,
            session,
            ..
        } = *self;
        let by_node = session.close.is_some();
        session.goes(match end {
            End::Closed if !by_node => Going::CLOSED,
            End::Closed | End::Broken => Going::ENDED,
            End::Gone if by_node => Going::ENDED,
            End::Gone => Going::GONE,
        });
        // Leases and places in the index first: the peer may be slow to go.
        drop(session);
        match end {
            End::Closed | End::Gone => {}
            End::Broken => {
                let stream = websocket.get_mut().inner();
                // Boxed: not part of every session's task from its beginning.
                Box::pin(Farewell::TO_A_SESSION.say(stream, &[])).await;
            }
        }
    }
}

fn message(outgoing: Outgoing) -> Message {
    match outgoing {
        Outgoing::Binary(bytes) => Message::Binary(bytes),
        Outgoing::Text(text) => Message::Text(text.into()),
    }
}

fn gone(error: &SocketError) -> End {
    tracing::debug!(%error, "the connection ended");
    End::Gone
}

/// Ends a session that cannot begin.
pub(super) async fn turn_away<S>(
    mut websocket: WebSocketStream<Metered<S>>,
    context: &SessionContext,
    subprotocol: Subprotocol,
    refusal: Refusal,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    context.metrics.error(refusal.code.as_str());
    let code = refusal.code.close_code();
    let last = if subprotocol == Subprotocol::Json {
        Message::Text(json::farewell(&refusal, context.broker.now()).into())
    } else {
        let error = Body::Error(refusal.into_error(0));
        Message::Binary(frame::encode(0, error, &mut BytesMut::new()))
    };
    let words = async {
        websocket.feed(last).await?;
        let close = CloseFrame {
            code: code.into(),
            reason: "not_served".into(),
        };
        websocket.send(Message::Close(Some(close))).await
    };
    if let Ok(Err(error)) = timeout(CLOSE_WAIT, words).await {
        tracing::debug!(%error, "the peer left first");
    }
    let stream = websocket.get_mut().inner();
    Farewell::TO_A_SESSION.say(stream, &[]).await;
}
