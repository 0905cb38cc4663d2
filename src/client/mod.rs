//! The Rust client: produce, subscribe, fetch and command over WebSocket.
//!
//! Knows the contract and nothing of the node. A [`Client`] is a handle to a task that owns the
//! connection; clones share it. Back-pressure is everywhere: a produce waits when too many are
//! under way, and a node sends a subscriber no more than its window.
//!
//! ```no_run
//! use arqonbus::client::{
//!     Batch, Client, ConnectOptions, Outgoing, ProduceOptions, Start, SubscribeOptions,
//! };
//!
//! # async fn example() -> Result<(), arqonbus::client::Error> {
//! let options = ConnectOptions::new("ws://127.0.0.1:9100/v1/ws", "TOKEN");
//! let client = Client::connect(options).await?;
//!
//! let mut batch = client.batch();
//! batch.push(&Outgoing { topic: "greetings.en", data: b"\"hello\"", ..Outgoing::default() });
//! let stored = client.produce(&batch, &ProduceOptions::default()).await?;
//!
//! let mut subscription = client
//!     .subscribe(SubscribeOptions {
//!         start: Start::Sequence(stored.first),
//!         stop_at_end: true,
//!         ..SubscribeOptions::new("greetings.>")
//!     })
//!     .await?;
//! while let Some(delivery) = subscription.next().await? {
//!     for record in delivery.views() {
//!         let record = record?;
//!         assert_eq!(record.envelope.payload.data(), b"\"hello\"");
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod batch;
mod connect;
mod driver;
mod error;
mod once;
mod operator;
mod subscription;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::proto::v1::client_frame::Body as Ask;
use crate::proto::v1::server_frame::Body as Answer;
use crate::proto::v1::{self, ClientFrame};

pub use batch::{Batch, Outgoing, now_micros};
pub use connect::{ConnectOptions, Reconnect};
pub use error::{Error, Outcome};
pub use once::{Ledger, Stopped};
pub use operator::{Job, Operator, OperatorOptions, Refusal, Yield};
pub use subscription::{Delivery, OnLag, Start, SubscribeOptions, Subscription, Visibility};
pub use tls::{Tls, TlsProblem};

use driver::{Driver, Entry, Request};
use subscription::{Consumed, Cost};

/// What an acknowledgement promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// In the operating system: survives the death of the node, not of the machine.
    Written,
    /// On disk.
    #[default]
    Synced,
}

/// How a batch is to be stored.
#[derive(Clone, Debug)]
pub struct ProduceOptions {
    /// Reality.
    pub reality: String,
    /// When it is acknowledged.
    pub durability: Durability,
}

impl Default for ProduceOptions {
    fn default() -> Self {
        Self {
            reality: "main".to_owned(),
            durability: Durability::Synced,
        }
    }
}

/// Where a batch is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Produced {
    /// Sequence of its first record.
    pub first: u64,
    /// Sequence of its last record.
    pub last: u64,
    /// How many of its envelopes were stored before, by their ids, and not again. If all were,
    /// `first` and `last` are what they were given then, else what the others were given now.
    pub duplicates: usize,
}

/// What to read without subscribing.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// Reality.
    pub reality: String,
    /// Topic pattern.
    pub filter: String,
    /// First sequence.
    pub from: u64,
    /// Most records; 0: the node's default.
    pub records: u64,
    /// Most bytes; 0: the node's default.
    pub bytes: u64,
}

/// A handle to a connection. Cheap to clone. The connection ends when the last clone and the last
/// [`Subscription`] are gone.
#[derive(Clone, Debug)]
pub struct Client {
    requests: mpsc::Sender<Request>,
    shared: Arc<Shared>,
    welcome: watch::Receiver<Arc<v1::Welcome>>,
    expiring: watch::Receiver<Option<u64>>,
}

#[derive(Debug)]
struct Shared {
    request_id: AtomicU64,
    subscription: AtomicU64,
    in_flight: Arc<Semaphore>,
}

/// A batch under way.
#[derive(Debug)]
#[must_use = "the acknowledgement comes from here"]
pub struct Ticket {
    answer: oneshot::Receiver<Result<Answer, Error>>,
    _permit: OwnedSemaphorePermit,
}

impl Ticket {
    /// Waits for the acknowledgement.
    ///
    /// # Errors
    /// The node refused the batch, or the connection was lost; [`Error::outcome`] tells what is
    /// known of the batch then.
    pub async fn produced(self) -> Result<Produced, Error> {
        match self.answer.await.unwrap_or(Err(Error::Closed))? {
            Answer::Produced(produced) => Ok(Produced {
                first: produced.first,
                last: produced.last,
                duplicates: produced.duplicates.len(),
            }),
            _ => Err(Error::unexpected("a Produced")),
        }
    }
}

impl Client {
    /// Connects, and waits for the node's Welcome.
    ///
    /// # Errors
    /// The URL is no URL, nobody answers there, or the token is refused.
    pub async fn connect(options: ConnectOptions) -> Result<Self, Error> {
        let (socket, welcome) = connect::open(&options).await?;
        let (requests, receiver) = mpsc::channel(1024);
        let (publish, welcome) = watch::channel(Arc::new(welcome));
        let (warn, expiring) = watch::channel(None);
        let shared = Shared {
            request_id: AtomicU64::new(1),
            subscription: AtomicU64::new(1),
            in_flight: Arc::new(Semaphore::new(options.in_flight_max.max(1))),
        };
        tokio::spawn(Driver::new(options, receiver, publish, warn).run(socket));
        Ok(Self {
            requests,
            shared: Arc::new(shared),
            welcome,
            expiring,
        })
    }

    /// What the node said last when it was connected to: tenant, subject, limits.
    #[must_use]
    pub fn welcome(&self) -> Arc<v1::Welcome> {
        Arc::clone(&self.welcome.borrow())
    }

    /// Whether the node has said that the token ends soon, and when: in milliseconds since the Unix
    /// epoch. Answer with [`Client::refresh`]; otherwise the node closes the connection then.
    ///
    /// ```no_run
    /// # async fn example(client: arqonbus::client::Client) -> Result<(), arqonbus::client::Error> {
    /// # async fn new_token() -> String { String::new() }
    /// let mut expiring = client.expiring();
    /// while expiring.wait_for(|ends_at| ends_at.is_some()).await.is_ok() {
    ///     client.refresh(new_token().await).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn expiring(&self) -> watch::Receiver<Option<u64>> {
        self.expiring.clone()
    }

    /// Goes on with a new token, of the same tenant and subject; also connections to come use it.
    /// Returns when it ends, in milliseconds since the Unix epoch. Subscriptions that it does not
    /// allow end with an error.
    ///
    /// # Errors
    /// The node refuses it; the old one is used on.
    pub async fn refresh(&self, token: impl Into<String>) -> Result<u64, Error> {
        let token = token.into();
        let refresh = v1::Refresh {
            token: token.clone(),
        };
        match self.ask(Ask::Refresh(refresh)).await? {
            Answer::Refreshed(refreshed) => {
                self.tell(Request::Token(token)).await?;
                Ok(u64::try_from(refreshed.token_expires_at).unwrap_or_default())
            }
            _ => Err(Error::unexpected("a Refreshed")),
        }
    }

    /// An empty batch whose envelopes name the token's subject as producer.
    #[must_use]
    pub fn batch(&self) -> Batch {
        Batch::new(&self.welcome().subject)
    }

    /// Stores a batch and waits for the acknowledgement.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Ticket::produced`].
    pub async fn produce(
        &self,
        batch: &Batch,
        options: &ProduceOptions,
    ) -> Result<Produced, Error> {
        self.send(batch, options).await?.produced().await
    }

    /// Sends a batch; the ticket waits for the acknowledgement. Batches are stored in the order of
    /// the calls. Waits while too many requests are under way.
    ///
    /// # Errors
    /// The batch is over a limit of the node, or the client is closed: nothing was sent.
    pub async fn send(&self, batch: &Batch, options: &ProduceOptions) -> Result<Ticket, Error> {
        if let Some(limits) = &self.welcome.borrow().limits {
            batch.check(limits)?;
        }
        let permit = self.permit().await?;
        let id = self.next_request();
        let frame = batch.frame(id, &options.reality, options.durability);
        let answer = self.submit(id, frame.into()).await?;
        Ok(Ticket {
            answer,
            _permit: permit,
        })
    }

    /// Opens a subscription.
    ///
    /// # Errors
    /// The node refuses it: the filter is malformed or not allowed, the reality does not exist,
    /// the start is no longer in the log.
    pub async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription, Error> {
        let number = self.shared.subscription.fetch_add(1, Ordering::Relaxed);
        let mut subscribe = options.message(number);
        let limits = self.welcome().limits.unwrap_or_default();
        if limits.credit_bytes_max != 0 {
            subscribe.credit_bytes = subscribe.credit_bytes.min(limits.credit_bytes_max);
        }
        subscribe.credit_records = subscribe.credit_records.max(1);
        subscribe.credit_bytes = subscribe.credit_bytes.max(1);
        let window = Cost {
            records: subscribe.credit_records,
            bytes: subscribe.credit_bytes,
        };
        let of_group = !subscribe.group.is_empty();
        let consumed = Arc::new(Consumed::default());
        let (entry, deliveries) = Entry::new(subscribe, Arc::clone(&consumed));
        let (reply, answer) = oneshot::channel();
        let id = self.next_request();
        self.tell(Request::Subscribe {
            id,
            subscription: Box::new(entry),
            reply,
        })
        .await?;
        match answer.await.unwrap_or(Err(Error::Closed))? {
            Answer::Subscribed(subscribed) => Ok(Subscription::new(
                self.clone(),
                subscribed,
                deliveries,
                consumed,
                window,
                of_group,
            )),
            _ => Err(Error::unexpected("a Subscribed")),
        }
    }

    /// Reads some records once.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub async fn fetch(&self, options: FetchOptions) -> Result<Delivery, Error> {
        let FetchOptions {
            reality,
            filter,
            from,
            records,
            bytes,
        } = options;
        let fetch = v1::Fetch {
            reality,
            filter,
            from,
            records,
            bytes,
            ..v1::Fetch::default()
        };
        match self.ask(Ask::Fetch(fetch)).await? {
            Answer::Deliver(deliver) => Ok(deliver.into()),
            _ => Err(Error::unexpected("a Deliver")),
        }
    }

    /// Runs a command of the node.
    ///
    /// # Errors
    /// It does not exist, an argument is wrong, or the token does not allow it.
    pub async fn command(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = (&str, v1::Value)>,
    ) -> Result<v1::Value, Error> {
        let arguments: BTreeMap<String, v1::Value> = arguments
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let command = v1::CommandRequest {
            name: name.to_owned(),
            arguments,
        };
        match self.ask(Ask::Command(command)).await? {
            Answer::CommandResult(result) => Ok(result.result.unwrap_or_default()),
            _ => Err(Error::unexpected("a CommandResult")),
        }
    }

    /// Waits until a projection has passed a record, so that what was produced up to there can be
    /// read from its tables, and says where it stands then. The node waits a minute at most.
    ///
    /// # Errors
    /// There is no such projection; it did not come so far in time (`NOT_YET`); the connection is
    /// lost.
    ///
    /// ```no_run
    /// # async fn example(
    /// #     client: arqonbus::client::Client,
    /// #     batch: arqonbus::client::Batch,
    /// # ) -> Result<(), arqonbus::client::Error> {
    /// let stored = client.produce(&batch, &Default::default()).await?;
    /// let within = std::time::Duration::from_secs(5);
    /// client.projected("continuum", stored.last, within).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn projected(
        &self,
        projection: &str,
        sequence: u64,
        within: Duration,
    ) -> Result<u64, Error> {
        let timeout_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let arguments = [
            ("name", v1::Value::from(projection)),
            ("sequence", sequence.into()),
            ("timeout_ms", timeout_ms.into()),
        ];
        let result = self.command("projection.wait", arguments).await?;
        match result.field("next").and_then(|next| next.kind.as_ref()) {
            Some(v1::value::Kind::Unsigned(next)) => Ok(*next),
            _ => Err(Error::unexpected("where the projection stands")),
        }
    }

    /// Asks the node for a sign of life, and says how long it took.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn ping(&self) -> Result<Duration, Error> {
        let start = tokio::time::Instant::now();
        match self.ask(Ask::Ping(v1::Ping { data: Bytes::new() })).await? {
            Answer::Pong(_) => Ok(start.elapsed()),
            _ => Err(Error::unexpected("a Pong")),
        }
    }

    /// Ends the connection after the requests under way have been answered. Subscriptions end.
    pub async fn close(self) {
        // A driver that has ended is closed already.
        let _ended = self.tell(Request::Close).await;
        self.requests.closed().await;
    }

    fn next_request(&self) -> u64 {
        self.shared.request_id.fetch_add(1, Ordering::Relaxed)
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        // The semaphore is never closed; the driver's end is met at the next step.
        Arc::clone(&self.shared.in_flight)
            .acquire_owned()
            .await
            .map_err(|_closed| Error::Closed)
    }

    async fn submit(
        &self,
        id: u64,
        frame: Bytes,
    ) -> Result<oneshot::Receiver<Result<Answer, Error>>, Error> {
        let (reply, answer) = oneshot::channel();
        self.tell(Request::Send { id, frame, reply }).await?;
        Ok(answer)
    }

    async fn ask(&self, body: Ask) -> Result<Answer, Error> {
        let _permit = self.permit().await?;
        let request_id = self.next_request();
        let frame = ClientFrame {
            request_id,
            body: Some(body),
        }
        .encode_to_vec();
        let answer = self.submit(request_id, frame.into()).await?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    async fn tell(&self, request: Request) -> Result<(), Error> {
        self.requests
            .send(request)
            .await
            .map_err(|_ended| Error::Closed)
    }

    /// Ends a subscription whose handle is being dropped, where nothing can be awaited.
    fn forget(&self, subscription: u64) {
        match self.requests.try_send(Request::Unsubscribe(subscription)) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(request)) => {
                let requests = self.requests.clone();
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(async move { requests.send(request).await.is_ok() });
                }
            }
        }
    }
}

/// Between half of `longest` and all of it, so that clients that lost the same node do not come
/// back in step.
fn jitter(longest: Duration) -> Duration {
    let random = RandomState::new().hash_one(0_u8) >> 32;
    #[expect(clippy::cast_precision_loss, reason = "32 bits fit a double exactly")]
    let share = random as f64 / f64::from(u32::MAX);
    longest.mul_f64(0.5 + share / 2.0)
}
