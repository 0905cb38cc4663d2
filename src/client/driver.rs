//! The task behind a [`Client`](super::Client): one per client, the only one that touches the
//! socket.
//!
//! Requests come from all clones of the client over one bounded channel; the task ends when the
//! last clone is gone or the connection is lost for good. Frames are gathered in the socket's
//! buffer and written together when nothing is left to gather. Reading goes on while writing is
//! blocked, so that two peers that wait for each other's buffers cannot lock up.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink as _, Stream as _};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_tungstenite::tungstenite::{self, Message};

use super::connect::{self, ConnectOptions, Reconnect, Socket};
use super::subscription::{Consumed, Cost, Delivery, drop_known};
use super::{Error, jitter};
use crate::proto::v1::client_frame::Body as Ask;
use crate::proto::v1::server_frame::Body as Answer;
use crate::proto::v1::{self, ClientFrame, ServerFrame};

/// Bytes given to the socket and not yet taken by the operating system. Beyond it requests wait in
/// the channel, and then in their callers.
const UNFLUSHED_BYTES_MAX: usize = 4 << 20;
/// After this long without a word from the node it is asked for one; after twice as long the
/// connection counts as lost.
const SILENCE: Duration = Duration::from_secs(20);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// Markers without records cost no credit; a node that sends more of them than this while nobody
/// reads breaks the protocol.
const MARKERS_MAX: usize = 1024;

pub(super) type Reply = oneshot::Sender<Result<Answer, Error>>;

/// What the handles ask of the driver.
#[derive(Debug)]
pub(super) enum Request {
    /// Send a frame; its answer goes to `reply`.
    Send {
        id: u64,
        frame: Bytes,
        reply: Reply,
    },
    /// Send a `Subscribe`; deliveries follow over the channel.
    Subscribe {
        id: u64,
        subscription: Box<Entry>,
        reply: Reply,
    },
    /// The application has consumed; let the node send as much again.
    Credit(u64),
    Ack {
        subscription: u64,
        sequence: u64,
    },
    Unsubscribe(u64),
    /// Send a frame that needs no answer, on this connection or not at all.
    Tell(Box<Ask>),
    /// Hand the tasks of an operator, by group and instance, to this end of a channel.
    Operator {
        name: (String, String),
        tasks: mpsc::Sender<Work>,
    },
    /// Connect with this token from now on.
    Token(String),
    /// Finish what is under way, then end.
    Close,
}

/// What an operator hears of.
#[derive(Debug)]
pub(super) enum Work {
    /// A task.
    Task(v1::Task),
    /// There is another connection: it has to join again, and has lost what it had in hand.
    Reconnected,
}

/// A subscription as the driver keeps it, over connections.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) subscribe: v1::Subscribe,
    pub(super) deliveries: mpsc::Sender<Result<Delivery, Error>>,
    pub(super) consumed: Arc<Consumed>,
    /// Set by the first `Subscribed`.
    pub(super) opened: bool,
    /// First sequence not yet handed over.
    pub(super) next: u64,
    /// All that the node was allowed to send, from the beginning.
    pub(super) granted: Cost,
    /// All that it sent.
    pub(super) delivered: Cost,
    pub(super) acked: u64,
}

impl Entry {
    pub(super) fn new(
        subscribe: v1::Subscribe,
        consumed: Arc<Consumed>,
    ) -> (Self, mpsc::Receiver<Result<Delivery, Error>>) {
        let records = usize::try_from(subscribe.credit_records).unwrap_or(usize::MAX);
        // Credit bounds what can be in the channel; its own bound is for a node that ignores it.
        let capacity = records.min(1 << 20) + MARKERS_MAX;
        let (deliveries, receiver) = mpsc::channel(capacity);
        let granted = Cost {
            records: subscribe.credit_records,
            bytes: subscribe.credit_bytes,
        };
        let entry = Self {
            subscribe,
            deliveries,
            consumed,
            opened: false,
            next: 0,
            granted,
            delivered: Cost::default(),
            acked: 0,
        };
        (entry, receiver)
    }

    fn is_of_group(&self) -> bool {
        !self.subscribe.group.is_empty()
    }

    /// What may now be granted on top, so that the window is open as far as it can be.
    fn grant(&mut self) -> Cost {
        let consumed = self.consumed.total();
        let target = Cost {
            records: consumed.records + self.subscribe.credit_records,
            bytes: consumed.bytes + self.subscribe.credit_bytes,
        };
        let more = Cost {
            records: target.records.saturating_sub(self.granted.records),
            bytes: target.bytes.saturating_sub(self.granted.bytes),
        };
        self.granted.records += more.records;
        self.granted.bytes += more.bytes;
        more
    }

    /// The request that continues the subscription on a new connection.
    fn resume(&mut self) -> v1::Subscribe {
        if self.is_of_group() {
            // What was leased over the old connection is others' now; the group knows where it is.
            return self.subscribe.clone();
        }
        // What was granted and not sent died with the old connection.
        self.granted = self.delivered;
        let credit = self.grant();
        let mut subscribe = self.subscribe.clone();
        if self.opened {
            subscribe.start = Some(v1::subscribe::Start::Sequence(self.next));
        }
        // A credit of 0 would mean the node's default.
        subscribe.credit_records = credit.records.max(1);
        subscribe.credit_bytes = credit.bytes.max(1);
        subscribe
    }
}

/// Why a connection is no longer served.
enum End {
    /// The application is done.
    Closed,
    /// The connection is gone.
    Lost { reason: String, wait: Duration },
    /// Going on makes no sense.
    Broken(Error),
}

pub(super) struct Driver {
    options: ConnectOptions,
    requests: mpsc::Receiver<Request>,
    welcome: watch::Sender<Arc<v1::Welcome>>,
    expiring: watch::Sender<Option<u64>>,
    pending: HashMap<u64, Reply>,
    /// `Subscribe` requests whose answer is awaited, by request.
    opening: HashMap<u64, u64>,
    subscriptions: HashMap<u64, Entry>,
    operators: HashMap<(String, String), mpsc::Sender<Work>>,
    /// Set by `Drain`: how long to wait before the next connection. This one is left when all
    /// requests are answered, or when the node closes it.
    draining: Option<Duration>,
    closing: bool,
    /// Whether anything has come since the last look.
    heard: bool,
    unflushed_bytes: usize,
    dirty: bool,
}

impl Driver {
    pub(super) fn new(
        options: ConnectOptions,
        requests: mpsc::Receiver<Request>,
        welcome: watch::Sender<Arc<v1::Welcome>>,
        expiring: watch::Sender<Option<u64>>,
    ) -> Self {
        Self {
            options,
            requests,
            welcome,
            expiring,
            pending: HashMap::new(),
            opening: HashMap::new(),
            subscriptions: HashMap::new(),
            operators: HashMap::new(),
            draining: None,
            closing: false,
            heard: false,
            unflushed_bytes: 0,
            dirty: false,
        }
    }

    pub(super) async fn run(mut self, mut socket: Socket) {
        loop {
            let (reason, wait) = match self.serve(&mut socket).await {
                End::Closed => {
                    self.fail(&Error::Closed);
                    return farewell(socket).await;
                }
                End::Broken(error) => return self.fail(&error),
                End::Lost { reason, wait } => (reason, wait),
            };
            let lost = Error::ConnectionLost {
                reason: reason.clone(),
            };
            self.fail_pending(&lost);
            let Reconnect::Within(patience) = self.options.reconnect else {
                return self.fail(&lost);
            };
            // Nobody else tells whoever looks at a subscription why nothing comes.
            tracing::warn!(%reason, "connection lost, trying again");
            tokio::time::sleep(jitter(wait)).await;
            socket = match self.reconnect(patience).await {
                Ok(socket) => socket,
                Err(error) => return self.fail(&error),
            };
            // One whose channel is full has tasks enough to find out by that they are stale.
            self.operators
                .retain(|_, tasks| !tasks.is_closed() && tasks.try_send(Work::Reconnected).is_ok());
        }
    }

    async fn reconnect(&mut self, patience: Duration) -> Result<Socket, Error> {
        let end = Instant::now() + patience;
        let mut pause = RETRY_FIRST;
        loop {
            if self.requests.is_closed() {
                return Err(Error::Closed);
            }
            let error = match connect::open(&self.options).await {
                Ok((socket, welcome)) => {
                    // Nobody may be looking at it at the moment.
                    self.welcome.send_replace(Arc::new(welcome));
                    return Ok(socket);
                }
                Err(error) => error,
            };
            let hopeless = !error.retryable() || Instant::now() + pause > end;
            if hopeless {
                return Err(error);
            }
            tokio::time::sleep(jitter(pause)).await;
            pause = (pause * 2).min(RETRY_LONGEST);
        }
    }

    /// Serves one connection until it ends.
    async fn serve(&mut self, socket: &mut Socket) -> End {
        self.draining = None;
        self.unflushed_bytes = 0;
        if let Err(end) = self.resume(socket) {
            return end;
        }
        let mut tick = interval(SILENCE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        let mut silent = 0;
        loop {
            tokio::select! {
                end = poll_fn(|context| self.turn(socket, context)) => return end,
                _ = tick.tick() => {
                    silent = if std::mem::take(&mut self.heard) { 0 } else { silent + 1 };
                    if silent > 1 {
                        let reason = format!("no word from the node for {:?}", SILENCE * 2);
                        return End::Lost { reason, wait: Duration::ZERO };
                    }
                    let ping = Message::Ping(Bytes::new());
                    if let Err(end) = self.feed(socket, ping) {
                        return end;
                    }
                }
            }
        }
    }

    fn leave(&self) -> End {
        let wait = self.draining.unwrap_or_default();
        End::Lost {
            reason: "the node is going down".to_owned(),
            wait,
        }
    }

    /// Gathers requests, writes them, reads what has come, over and over until it must wait. Ready
    /// when the connection is over.
    fn turn(&mut self, socket: &mut Socket, context: &mut Context<'_>) -> Poll<End> {
        match self.exchange(socket, context) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }

    /// On `Ok` there is nothing to do, and the task will be woken when there is.
    fn exchange(&mut self, socket: &mut Socket, context: &mut Context<'_>) -> Result<(), End> {
        loop {
            self.gather(socket, context)?;
            if self.dirty
                && Pin::new(&mut *socket)
                    .poll_flush(context)
                    .map_err(lost)?
                    .is_ready()
            {
                self.dirty = false;
                let was_full = self.unflushed_bytes >= UNFLUSHED_BYTES_MAX;
                self.unflushed_bytes = 0;
                if was_full {
                    continue;
                }
            }
            if self.finished() {
                return Err(End::Closed);
            }
            if self.draining.is_some() && self.pending.is_empty() && !self.dirty {
                return Err(self.leave());
            }
            match Pin::new(&mut *socket).poll_next(context) {
                Poll::Ready(Some(Ok(message))) => self.take(socket, message)?,
                Poll::Ready(Some(Err(error))) => return Err(lost(error)),
                Poll::Ready(None) => {
                    let reason = "the node hung up".to_owned();
                    return Err(End::Lost {
                        reason,
                        wait: Duration::ZERO,
                    });
                }
                Poll::Pending => return Ok(()),
            }
        }
    }

    fn finished(&self) -> bool {
        let over = self.closing || (self.requests.is_closed() && self.requests.is_empty());
        over && self.pending.is_empty() && !self.dirty
    }

    fn gather(&mut self, socket: &mut Socket, context: &mut Context<'_>) -> Result<(), End> {
        while self.unflushed_bytes < UNFLUSHED_BYTES_MAX && self.draining.is_none() {
            match self.requests.poll_recv(context) {
                Poll::Ready(Some(request)) => self.request(socket, request)?,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn request(&mut self, socket: &mut Socket, request: Request) -> Result<(), End> {
        match request {
            Request::Send { id, frame, reply } => {
                self.pending.insert(id, reply);
                self.feed(socket, Message::Binary(frame))
            }
            Request::Subscribe {
                id,
                subscription,
                reply,
            } => {
                let number = subscription.subscribe.subscription;
                let body = Ask::Subscribe(subscription.subscribe.clone());
                self.subscriptions.insert(number, *subscription);
                self.pending.insert(id, reply);
                self.opening.insert(id, number);
                self.send(socket, id, body)
            }
            Request::Credit(number) => self.credit(socket, number),
            Request::Ack {
                subscription,
                sequence,
            } => {
                if let Some(entry) = self.subscriptions.get_mut(&subscription) {
                    entry.acked = sequence.max(entry.acked);
                }
                self.send(
                    socket,
                    0,
                    Ask::Ack(v1::Ack {
                        subscription,
                        sequence,
                        attempt: 0,
                    }),
                )
            }
            Request::Unsubscribe(subscription) => {
                if self.subscriptions.remove(&subscription).is_none() {
                    return Ok(());
                }
                self.send(
                    socket,
                    0,
                    Ask::Unsubscribe(v1::Unsubscribe { subscription }),
                )
            }
            Request::Tell(body) => self.send(socket, 0, *body),
            Request::Operator { name, tasks } => {
                // One that is at work keeps its tasks: the node will refuse a second of its name.
                self.operators.retain(|_, tasks| !tasks.is_closed());
                self.operators.entry(name).or_insert(tasks);
                Ok(())
            }
            Request::Token(token) => {
                self.options.token = token;
                Ok(())
            }
            Request::Close => {
                self.closing = true;
                Ok(())
            }
        }
    }

    fn credit(&mut self, socket: &mut Socket, number: u64) -> Result<(), End> {
        let Some(entry) = self.subscriptions.get_mut(&number) else {
            return Ok(());
        };
        let Cost { records, bytes } = entry.grant();
        if records == 0 && bytes == 0 {
            return Ok(());
        }
        self.send(
            socket,
            0,
            Ask::Credit(v1::Credit {
                subscription: number,
                records,
                bytes,
            }),
        )
    }

    fn send(&mut self, socket: &mut Socket, request_id: u64, body: Ask) -> Result<(), End> {
        let frame = ClientFrame {
            request_id,
            body: Some(body),
        };
        self.feed(socket, Message::Binary(frame.encode_to_vec().into()))
    }

    /// Puts a message into the socket's buffer, which takes it whatever the network does;
    /// [`UNFLUSHED_BYTES_MAX`] bounds it.
    fn feed(&mut self, socket: &mut Socket, message: Message) -> Result<(), End> {
        self.unflushed_bytes += message.len();
        self.dirty = true;
        Pin::new(socket).start_send(message).map_err(lost)
    }

    fn take(&mut self, socket: &mut Socket, message: Message) -> Result<(), End> {
        self.heard = true;
        match message {
            Message::Binary(bytes) => {
                let frame = ServerFrame::decode(bytes).map_err(|error| {
                    End::Broken(Error::Protocol {
                        reason: format!("a frame: {error}"),
                    })
                })?;
                self.answer(socket, frame)
            }
            // The library has queued the Pong.
            Message::Ping(_) => {
                self.dirty = true;
                Ok(())
            }
            Message::Pong(_) | Message::Frame(_) => Ok(()),
            Message::Close(frame) => {
                let reason = frame.map_or_else(
                    || "the node closed the connection".to_owned(),
                    |frame| {
                        let (code, reason) = (u16::from(frame.code), frame.reason);
                        format!("the node closed the connection: {code} {reason}")
                    },
                );
                let wait = self.draining.unwrap_or_default();
                Err(End::Lost { reason, wait })
            }
            Message::Text(_) => Err(End::Broken(Error::unexpected("a binary frame"))),
        }
    }

    fn answer(&mut self, socket: &mut Socket, frame: ServerFrame) -> Result<(), End> {
        let Some(body) = frame.body else {
            // A frame of a newer node (MSG-16); whoever waits for an answer has got one.
            self.reply(
                frame.request_id,
                Err(Error::unexpected("what this version knows")),
            );
            return Ok(());
        };
        match body {
            Answer::Deliver(deliver) if deliver.subscription != 0 => {
                return self.deliver(socket, deliver.subscription, deliver.into());
            }
            Answer::Subscribed(subscribed) => {
                self.opening.remove(&frame.request_id);
                self.opened(&subscribed);
                self.reply(frame.request_id, Ok(Answer::Subscribed(subscribed)));
            }
            Answer::Error(error) => self.failed(frame.request_id, error),
            Answer::Drain(drain) => {
                if self.options.reconnect != Reconnect::Never {
                    self.draining = Some(Duration::from_millis(drain.reconnect_after_ms));
                }
            }
            Answer::Task(task) => self.hand_over(task),
            // Unsubscribe is sent without waiting; presence has no taker in this client.
            Answer::Unsubscribed(_) | Answer::Presence(_) => {}
            Answer::Expiring(expiring) => {
                let ends_at = u64::try_from(expiring.token_expires_at).ok();
                self.expiring.send_replace(ends_at);
            }
            Answer::Welcome(welcome) => {
                self.expiring.send_replace(None);
                self.welcome.send_replace(Arc::new(welcome));
            }
            Answer::Refreshed(refreshed) => {
                self.expiring.send_replace(None);
                self.reply(frame.request_id, Ok(Answer::Refreshed(refreshed)));
            }
            body @ (Answer::Produced(_)
            | Answer::Deliver(_)
            | Answer::CommandResult(_)
            | Answer::Pong(_)
            | Answer::Extended(_)
            | Answer::Joined(_)
            | Answer::TaskTaken(_)
            | Answer::TaskExtended(_)
            | Answer::OperatorDrained(_)
            | Answer::Acked(_)) => self.reply(frame.request_id, Ok(body)),
        }
        Ok(())
    }

    /// Gives a task to its operator. One that takes none any more leaves it to the node, which gives
    /// it to another when the lease is over.
    fn hand_over(&mut self, task: v1::Task) {
        let name = (task.group.clone(), task.instance.clone());
        let Some(tasks) = self.operators.get(&name) else {
            return;
        };
        if let Err(mpsc::error::TrySendError::Closed(_)) = tasks.try_send(Work::Task(task)) {
            self.operators.remove(&name);
        }
    }

    fn opened(&mut self, subscribed: &v1::Subscribed) {
        let Some(entry) = self.subscriptions.get_mut(&subscribed.subscription) else {
            return;
        };
        if entry.opened {
            return;
        }
        entry.opened = true;
        entry.next = subscribed.next;
        // "The end of the log now" must not become a later one when it is resumed.
        let subscribe = &mut entry.subscribe;
        if subscribe.stop_at_end && subscribed.last != 0 {
            subscribe.stop_sequence = match subscribe.stop_sequence {
                0 => subscribed.last,
                stop => stop.min(subscribed.last),
            };
        }
    }

    fn failed(&mut self, request_id: u64, error: v1::Error) {
        let subscription = self
            .opening
            .remove(&request_id)
            .unwrap_or(error.subscription);
        let error = Error::from(error);
        if subscription != 0 {
            self.end_subscription(subscription, Err(error.clone()));
        }
        self.reply(request_id, Err(error));
    }

    fn end_subscription(&mut self, number: u64, last: Result<Delivery, Error>) {
        if let Some(entry) = self.subscriptions.remove(&number) {
            // A subscriber that has gone does not need to hear it.
            let _gone = entry.deliveries.try_send(last);
        }
    }

    fn reply(&mut self, request_id: u64, answer: Result<Answer, Error>) {
        if let Some(reply) = self.pending.remove(&request_id) {
            // Whoever asked may have stopped waiting.
            let _gone = reply.send(answer);
        }
    }

    fn deliver(
        &mut self,
        socket: &mut Socket,
        number: u64,
        mut delivery: Delivery,
    ) -> Result<(), End> {
        // One that has just been dropped here, and the node does not know yet.
        let Some(entry) = self.subscriptions.get_mut(&number) else {
            return Ok(());
        };
        if entry.is_of_group() {
            if entry.deliveries.try_send(Ok(delivery)).is_err() {
                // It has been given more over several connections than it takes: what it does not
                // answer for is given to others.
                tracing::warn!(number, "records of a group are not taken in time");
            }
            return Ok(());
        }
        let cost = delivery.cost();
        entry.delivered.records += cost.records;
        entry.delivered.bytes += cost.bytes;
        let dropped = drop_known(&mut delivery, entry.next);
        entry.consumed.add(dropped);
        entry.next = delivery.next.max(entry.next);
        if delivery.finished {
            self.end_subscription(number, Ok(delivery));
            return Ok(());
        }
        let empty = delivery.records.is_empty() && !delivery.end_of_log && delivery.lost.is_none();
        if !empty
            && let Err(mpsc::error::TrySendError::Full(_)) = entry.deliveries.try_send(Ok(delivery))
        {
            let reason = "it sent more than it had credit for".to_owned();
            self.end_subscription(number, Err(Error::Protocol { reason }));
            return self.send(
                socket,
                0,
                Ask::Unsubscribe(v1::Unsubscribe {
                    subscription: number,
                }),
            );
        }
        if dropped == Cost::default() {
            Ok(())
        } else {
            self.credit(socket, number)
        }
    }

    /// Puts all subscriptions on a new connection.
    fn resume(&mut self, socket: &mut Socket) -> Result<(), End> {
        let mut frames = Vec::new();
        for (number, entry) in &mut self.subscriptions {
            frames.push(Ask::Subscribe(entry.resume()));
            if entry.acked != 0 {
                frames.push(Ask::Ack(v1::Ack {
                    subscription: *number,
                    sequence: entry.acked,
                    attempt: 0,
                }));
            }
        }
        frames
            .into_iter()
            .try_for_each(|body| self.send(socket, 0, body))
    }

    fn fail_pending(&mut self, error: &Error) {
        for (_, number) in self.opening.drain() {
            self.subscriptions.remove(&number);
        }
        for (_, reply) in self.pending.drain() {
            // Whoever asked may have stopped waiting.
            let _gone = reply.send(Err(error.clone()));
        }
    }

    fn fail(&mut self, error: &Error) {
        self.fail_pending(error);
        self.operators.clear();
        for (_, entry) in self.subscriptions.drain() {
            // A subscriber that has gone does not need to hear it.
            let _gone = entry.deliveries.try_send(Err(error.clone()));
        }
    }
}

/// Says goodbye, and waits a moment for the node to say it too.
async fn farewell(mut socket: Socket) {
    let goodbye = async {
        socket.close(None).await?;
        while poll_fn(|context| Pin::new(&mut socket).poll_next(context))
            .await
            .is_some()
        {}
        Ok::<(), tungstenite::Error>(())
    };
    match tokio::time::timeout(Duration::from_secs(1), goodbye).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "while closing"),
        Err(_elapsed) => tracing::debug!("the node did not say goodbye"),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form map_err wants")]
fn lost(error: tungstenite::Error) -> End {
    End::Lost {
        reason: error.to_string(),
        wait: Duration::ZERO,
    }
}
