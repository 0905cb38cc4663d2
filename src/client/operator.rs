//! Working for a group: tasks come, and what a closure makes of them goes back (OPS-01, OPS-04).
//!
//! The node gives a task for a lease, which is extended here as long as the closure is at work. When
//! the node says that a task is no longer ours, the closure is dropped where it waits. After a lost
//! connection the operator joins again; what it had in hand then is another's.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use super::driver::{Request, Work};
use super::{Client, Error, jitter};
use crate::proto::ErrorCode;
use crate::proto::v1::client_frame::Body as Ask;
use crate::proto::v1::server_frame::Body as Answer;
use crate::proto::v1::{self, OperatorDrain, OperatorJoin, TaskExtend, TaskResult, task_result};
use crate::proto::view::RecordView;

/// Between two attempts to join again.
const JOIN_AGAIN: Duration = Duration::from_millis(500);
/// How often an answer is sent that could not be stored.
const ANSWERS_MAX: u32 = 5;

/// What an operator says of itself.
#[derive(Clone, Debug)]
pub struct OperatorOptions {
    /// Name of the program.
    pub operator: String,
    /// Whose tasks it takes.
    pub group: String,
    /// Unique in the group; empty: the operator's name.
    pub instance: String,
    /// Semantic version.
    pub version: String,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// Schema of tasks; empty: anything.
    pub input_schema: String,
    /// Schema of outputs; empty: anything.
    pub output_schema: String,
    /// Tasks at a time.
    pub concurrency: u32,
    /// How long a task is its own without a word from it; zero: the node's default.
    pub lease: Duration,
    /// What may happen when a task is carried out twice.
    pub effects: v1::EffectClass,
    /// For people.
    pub metadata: BTreeMap<String, String>,
    /// Refuse older versions in the group from now on.
    pub no_regress: bool,
}

impl OperatorOptions {
    /// One task at a time for `group`, version 0.0.0.
    #[must_use]
    pub fn new(operator: impl Into<String>, group: impl Into<String>) -> Self {
        Self {
            operator: operator.into(),
            group: group.into(),
            instance: String::new(),
            version: "0.0.0".to_owned(),
            capabilities: Vec::new(),
            input_schema: String::new(),
            output_schema: String::new(),
            concurrency: 1,
            lease: Duration::ZERO,
            effects: v1::EffectClass::Idempotent,
            metadata: BTreeMap::new(),
            no_regress: false,
        }
    }

    fn name(&self) -> (String, String) {
        let instance = match self.instance.as_str() {
            "" => &self.operator,
            given => given,
        };
        (self.group.clone(), instance.to_owned())
    }

    fn message(&self) -> OperatorJoin {
        OperatorJoin {
            operator: self.operator.clone(),
            group: self.group.clone(),
            capabilities: self.capabilities.clone(),
            input_schema: self.input_schema.clone(),
            output_schema: self.output_schema.clone(),
            concurrency: self.concurrency.max(1),
            version: self.version.clone(),
            instance: self.instance.clone(),
            metadata: self.metadata.clone(),
            effects: self.effects.into(),
            lease_ms: u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX),
            no_regress: self.no_regress,
        }
    }
}

/// Something to do.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// The task's id.
    pub id: String,
    /// Its group.
    pub group: String,
    /// What is to be worked on.
    pub payload: Bytes,
    /// Its form.
    pub content_type: String,
    /// Name of its schema; empty: none.
    pub schema: String,
    /// The task's headers, `traceparent` among them if it belongs to a trace.
    pub headers: BTreeMap<String, String>,
    /// Ordering key; may be empty.
    pub key: String,
    /// From 1.
    pub attempt: u32,
    /// Milliseconds since the Unix epoch; 0: none.
    pub deadline_ms: u64,
}

/// What has come of a task.
#[derive(Clone, Debug, Default)]
pub struct Yield {
    /// The output.
    pub data: Bytes,
    /// Its form; empty: bytes.
    pub content_type: String,
    /// How good it is, where several answer.
    pub score: Option<f64>,
}

/// Why nothing has come of a task.
#[derive(Clone, Debug, Default)]
pub struct Refusal {
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
    /// Whether another attempt may succeed.
    pub retryable: bool,
    /// After how long; zero: as the node sees fit.
    pub retry_after: Duration,
}

/// An operator at work; it ends when this is dropped.
#[derive(Debug)]
pub struct Operator {
    client: Client,
    name: (String, String),
    joined: v1::Joined,
    in_hand: watch::Receiver<usize>,
    ended: watch::Receiver<Option<Error>>,
    _stop: watch::Sender<()>,
}

impl Client {
    /// Joins a group and has `handle` carry out its tasks, as many at a time as it says.
    ///
    /// # Errors
    /// The node refuses it, and says which field is at fault; the connection is lost.
    ///
    /// ```no_run
    /// # async fn example(client: arqonbus::client::Client) -> Result<(), arqonbus::client::Error> {
    /// use arqonbus::client::{OperatorOptions, Yield};
    ///
    /// let options = OperatorOptions::new("upper", "texts");
    /// let operator = client
    ///     .work(options, async |job| {
    ///         let data = job.payload.to_ascii_uppercase().into();
    ///         Ok(Yield { data, ..Yield::default() })
    ///     })
    ///     .await?;
    /// tokio::signal::ctrl_c().await.ok();
    /// operator.drain(std::time::Duration::from_secs(10)).await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn work<F, R>(&self, options: OperatorOptions, handle: F) -> Result<Operator, Error>
    where
        F: Fn(Job) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Yield, Refusal>> + Send + 'static,
    {
        let concurrency = usize::try_from(options.concurrency.max(1)).unwrap_or(1);
        // The node gives no more than it was told; the rest is for words about connections.
        let (tasks, works) = mpsc::channel(2 * concurrency + 16);
        let name = options.name();
        self.tell(Request::Operator {
            name: name.clone(),
            tasks,
        })
        .await?;
        let joined = join(self, &options).await?;
        let (count, in_hand) = watch::channel(0);
        let (end, ended) = watch::channel(None);
        let (stop, stopped) = watch::channel(());
        let shift = Shift {
            client: self.clone(),
            options,
            lease: Duration::from_millis(joined.lease_ms.max(1)),
            handle: Arc::new(handle),
            room: Arc::new(Semaphore::new(concurrency)),
            count,
        };
        tokio::spawn(async move {
            let error = shift.run(works, stopped).await;
            end.send_replace(Some(error));
        });
        Ok(Operator {
            client: self.clone(),
            name,
            joined,
            in_hand,
            ended,
            _stop: stop,
        })
    }
}

impl Operator {
    /// What the node said when it was let in.
    #[must_use]
    pub const fn joined(&self) -> &v1::Joined {
        &self.joined
    }

    /// Tasks that are being carried out.
    #[must_use]
    pub fn in_hand(&self) -> usize {
        *self.in_hand.borrow()
    }

    /// Waits until it ends by itself, and says why.
    pub async fn ended(&mut self) -> Error {
        match self.ended.wait_for(Option::is_some).await {
            Ok(error) => error.clone().unwrap_or(Error::Closed),
            Err(_gone) => Error::Closed,
        }
    }

    /// Takes no more tasks, and waits at most `within` for those in hand; says how many are left,
    /// which the node gives to others.
    pub async fn drain(mut self, within: Duration) -> usize {
        let (group, instance) = self.name.clone();
        let drain = OperatorDrain { group, instance };
        if let Err(error) = self.client.ask(Ask::OperatorDrain(drain)).await {
            tracing::warn!(%error, "the node does not know that no more tasks are taken");
        }
        let done = self.in_hand.wait_for(|count| *count == 0);
        // Whether they were done or the time was up, what is left is counted.
        let _done = tokio::time::timeout(within, done).await.is_ok();
        self.in_hand()
    }
}

async fn join(client: &Client, options: &OperatorOptions) -> Result<v1::Joined, Error> {
    match client.ask(Ask::OperatorJoin(options.message())).await? {
        Answer::Joined(joined) => Ok(joined),
        _ => Err(Error::unexpected("a Joined")),
    }
}

struct Shift<F> {
    client: Client,
    options: OperatorOptions,
    lease: Duration,
    handle: Arc<F>,
    room: Arc<Semaphore>,
    count: watch::Sender<usize>,
}

impl<F, R> Shift<F>
where
    F: Fn(Job) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Yield, Refusal>> + Send + 'static,
{
    async fn run(self, mut works: mpsc::Receiver<Work>, mut stopped: watch::Receiver<()>) -> Error {
        let mut tasks: JoinSet<()> = JoinSet::new();
        loop {
            let work = tokio::select! {
                work = works.recv() => work,
                // The other end is only ever dropped.
                _ = stopped.changed() => return Error::Closed,
                Some(_) = tasks.join_next() => {
                    self.count.send_replace(tasks.len());
                    continue;
                }
            };
            match work {
                None => return Error::Closed,
                Some(Work::Task(task)) => {
                    let (client, handle) = (self.client.clone(), Arc::clone(&self.handle));
                    let (room, lease) = (Arc::clone(&self.room), self.lease);
                    tasks.spawn(async move {
                        // The semaphore is never closed.
                        let _room = room.acquire_owned().await;
                        carry_out(&client, &*handle, task, lease).await;
                    });
                    self.count.send_replace(tasks.len());
                }
                Some(Work::Reconnected) => {
                    // What was in hand is another's by now.
                    tasks.abort_all();
                    if let Err(error) = self.join_again().await {
                        return error;
                    }
                }
            }
        }
    }

    /// The node may not have noticed yet that the old connection is gone.
    async fn join_again(&self) -> Result<(), Error> {
        loop {
            let error = match join(&self.client, &self.options).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            match &error {
                // There will be another word about the next connection.
                Error::ConnectionLost { .. } => return Ok(()),
                Error::Answered {
                    retryable: true,
                    retry_after,
                    ..
                } => tokio::time::sleep(jitter((*retry_after).max(JOIN_AGAIN))).await,
                _ => return Err(error),
            }
        }
    }
}

async fn carry_out<F, R>(client: &Client, handle: &F, task: v1::Task, lease: Duration)
where
    F: Fn(Job) -> R,
    R: Future<Output = Result<Yield, Refusal>>,
{
    let (id, token) = (task.id.clone(), task.lease);
    let outcome = match job(task) {
        Ok(job) => {
            let work = handle(job);
            tokio::pin!(work);
            let every = (lease / 3).max(Duration::from_millis(100));
            let mut extending = interval_at(Instant::now() + every, every);
            extending.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    outcome = &mut work => break outcome,
                    _ = extending.tick() => {
                        let extend = TaskExtend { id: id.clone(), lease: token };
                        let extended = client.ask(Ask::TaskExtend(extend)).await;
                        if extended.is_err_and(|error| error.code() == Some(ErrorCode::Stale)) {
                            tracing::info!(task = id, "the task is another's by now");
                            // Said all the same, so that the node knows that there is room.
                            answer(client, &id, token, Err(lost())).await;
                            return;
                        }
                    }
                }
            }
        }
        Err(refusal) => Err(refusal),
    };
    answer(client, &id, token, outcome).await;
}

fn lost() -> Refusal {
    Refusal {
        code: ErrorCode::Stale.as_str().to_owned(),
        message: "the task was lost before it was done".to_owned(),
        retryable: true,
        retry_after: Duration::ZERO,
    }
}

fn job(task: v1::Task) -> Result<Job, Refusal> {
    let view = RecordView::parse(&task.record).map_err(|error| Refusal {
        code: ErrorCode::InfraProtocolError.as_str().to_owned(),
        message: format!("the task's record cannot be read: {error}"),
        ..Refusal::default()
    })?;
    let envelope = &view.envelope;
    let headers: BTreeMap<String, String> = envelope
        .headers
        .iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Ok(Job {
        payload: task.record.slice_ref(envelope.payload.data()),
        content_type: headers.get("content-type").cloned().unwrap_or_default(),
        schema: envelope.schema.to_owned(),
        key: envelope.key.to_owned(),
        headers,
        id: task.id,
        group: task.group,
        attempt: task.attempt,
        deadline_ms: task.deadline_ms,
    })
}

/// Sends what has come of a task, again if it could not be stored.
async fn answer(client: &Client, id: &str, lease: u64, outcome: Result<Yield, Refusal>) {
    let (score, content_type) = match &outcome {
        Ok(one) => (one.score, one.content_type.clone()),
        Err(_) => (None, String::new()),
    };
    let outcome = match outcome {
        Ok(one) => task_result::Outcome::Output(one.data),
        Err(refusal) => task_result::Outcome::Error(v1::Error {
            code: refusal.code,
            message: refusal.message,
            retryable: refusal.retryable,
            retry_after_ms: u64::try_from(refusal.retry_after.as_millis()).unwrap_or(u64::MAX),
            ..v1::Error::default()
        }),
    };
    let result = TaskResult {
        id: id.to_owned(),
        outcome: Some(outcome),
        lease,
        score,
        content_type,
    };
    let mut pause = interval(Duration::from_millis(200));
    for _ in 0..ANSWERS_MAX {
        pause.tick().await;
        match client.ask(Ask::TaskResult(result.clone())).await {
            Err(Error::Answered {
                retryable: true, ..
            }) => {}
            Err(error) => {
                tracing::info!(task = id, %error, "the answer to a task was not taken");
                return;
            }
            Ok(_) => return,
        }
    }
    tracing::warn!(task = id, "the answer to a task could not be stored");
}
