//! Jobs: long work on one projection of one log, beside the lane that keeps it. Each has a thread
//! of its own, is seen as a [`Job`] from its start on, and can be paused, resumed and cancelled
//! between its batches.
//!
//! A job changes rows only while it holds the lane (`Lane::hold`), a small batch at a time, and
//! rests in between, so that the lane always gets on. A job ends with the node; none is resumed at
//! the next start, because every one of them can be asked for again.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use uuid::Uuid;

use super::backfill::Backfilled;
use super::fold::Outcome;
use super::lane::{Lane, Shared};
use super::logs::{Feed, LogsError};
use super::notes;
use super::rebuild::Rebuilt;
use super::schedule::Schedule;
use super::sink::{SinkError, SinkKind};
use super::standing::State as LaneState;
use super::verify::Verified;
use crate::log::Micros;

/// Jobs that have ended and are remembered.
const ENDED_MAX: usize = 64;
/// A lane that is behind is left alone for so many times as long as a batch of the job took.
const REST_BEHIND: u32 = 4;
/// Shortest rest between two batches, and the longest.
const REST_MIN: Duration = Duration::from_millis(1);
const REST_MAX: Duration = Duration::from_secs(2);

/// What a job does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobKind {
    /// Projects records of a range of time again (PRJ-06).
    Backfill,
    /// Builds the tables anew, and puts them in the place of the old ones (PRJ-07).
    Rebuild,
    /// Computes the tables anew, and compares them (PRJ-18).
    Verify,
}

impl JobKind {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backfill => "backfill",
            Self::Rebuild => "rebuild",
            Self::Verify => "verify",
        }
    }
}

/// Whether a job is still at work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobState {
    /// It is.
    Running,
    /// Somebody paused it.
    Paused,
    /// It did what it was asked.
    Done,
    /// It could not.
    Failed,
    /// Somebody cancelled it, or the node ended.
    Cancelled,
}

impl JobState {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more comes of it.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        match self {
            Self::Running | Self::Paused => false,
            Self::Done | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// What came of a job.
#[derive(Clone, PartialEq, Debug)]
pub enum Findings {
    /// Of a backfill.
    Backfill(Backfilled),
    /// Of a rebuild.
    Rebuild(Rebuilt),
    /// Of a verification.
    Verify(Verified),
}

/// A job as it stands.
#[derive(Clone, PartialEq, Debug)]
pub struct Job {
    /// A UUIDv7.
    pub id: String,
    /// What it does.
    pub kind: JobKind,
    /// Of which projection.
    pub projection: String,
    /// Where.
    pub sink: SinkKind,
    /// Whose.
    pub tenant: String,
    /// Who asked for it.
    pub by: String,
    /// Whether it is at work.
    pub state: JobState,
    /// Records of the log that it has looked at, of other topics too.
    pub read: u64,
    /// Records that it has to look at.
    pub total: u64,
    /// Records by what became of them, in the order of [`Outcome::ALL`].
    pub outcomes: [u64; 5],
    /// When it began.
    pub started_at: Micros,
    /// When it ended.
    pub ended_at: Option<Micros>,
    /// Why it failed; while it runs, what it waits for.
    pub error: Option<String>,
    /// What came of it.
    pub findings: Option<Findings>,
}

impl Job {
    /// How many records became `outcome`.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u64 {
        counted(&self.outcomes, outcome)
    }
}

/// How many of `outcomes`, in the order of [`Outcome::ALL`], are `outcome`.
pub(super) fn counted(outcomes: &[u64; 5], outcome: Outcome) -> u64 {
    let at = Outcome::ALL.iter().position(|one| *one == outcome);
    at.map_or(0, |at| outcomes[at])
}

/// Adds what became of records.
pub(super) fn count(outcomes: &mut [u64; 5], more: &[Outcome]) {
    for outcome in more {
        if let Some(at) = Outcome::ALL.iter().position(|one| one == outcome) {
            outcomes[at] += 1;
        }
    }
}

/// Why a job is not begun, or not changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Too many run.
    #[error("{limit} jobs run already, as many as may; wait for one, or cancel it")]
    TooMany {
        /// How many may.
        limit: usize,
    },
    /// One runs there.
    #[error("a {kind} of {projection} in {sink} runs already, as job {id}; wait for it, or cancel it", kind = kind.as_str())]
    Runs {
        /// Which.
        id: String,
        /// What it does.
        kind: JobKind,
        /// Of which projection.
        projection: String,
        /// Where.
        sink: SinkKind,
    },
    /// There is none.
    #[error(
        "there is no job {id:?}; the last {ENDED_MAX} that ended are remembered, until the node ends"
    )]
    Unknown {
        /// What was asked for.
        id: String,
    },
    /// It has ended.
    #[error("job {id} has ended: {state}", state = state.as_str())]
    Ended {
        /// Which.
        id: String,
        /// How.
        state: JobState,
    },
    /// It cannot be begun.
    #[error("a thread for the job cannot be started: {reason}")]
    NoThread {
        /// What the system said.
        reason: String,
    },
    /// The node ends.
    #[error("the node is ending")]
    Closing,
}

/// Why a job could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("cancelled")]
    Cancelled,
    #[error("{reason}")]
    Refused { reason: String },
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("the log cannot be read or written: {0}")]
    Log(#[from] LogsError),
}

impl Trouble {
    pub(super) fn refused(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::Refused { reason }
    }

    /// Whether the same can succeed later, by itself.
    pub(super) const fn passes(&self) -> bool {
        match self {
            Self::Sink(SinkError::Unavailable { .. } | SinkError::Fenced { .. }) => true,
            Self::Log(error) => error.passing,
            Self::Sink(SinkError::Rejected { .. } | SinkError::Unfit { .. })
            | Self::Cancelled
            | Self::Refused { .. } => false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    Run,
    Pause,
    Cancel,
}

/// A job from the inside.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) shared: Arc<Shared>,
    pub(super) lane: Arc<Lane>,
    schedule: Arc<Schedule>,
    job: watch::Sender<Job>,
    wish: watch::Sender<Wish>,
    records_per_second: u64,
}

impl Course {
    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.shared.runtime.block_on(future)
    }

    pub(super) fn open(&self) -> Result<Arc<dyn Feed>, LogsError> {
        let place = self.lane.place();
        self.shared.logs.open(&place.tenant, &place.reality)
    }

    /// Between two batches, while nothing is held: waits while the job is paused.
    pub(super) fn step(&self) -> Result<(), Trouble> {
        let mut wish = self.wish.subscribe();
        loop {
            match *wish.borrow_and_update() {
                Wish::Cancel => return Err(Trouble::Cancelled),
                Wish::Run => {
                    self.mark(JobState::Running);
                    return Ok(());
                }
                Wish::Pause => self.mark(JobState::Paused),
            }
            if self.block_on(wish.changed()).is_err() {
                return Err(Trouble::Cancelled);
            }
        }
    }

    fn mark(&self, state: JobState) {
        self.job
            .send_if_modified(|job| std::mem::replace(&mut job.state, state) != state);
    }

    /// How much there is to read.
    pub(super) fn total(&self, total: u64) {
        self.job.send_modify(|job| job.total = total.max(job.read));
    }

    /// It looked at so many records more, and this became of those that it projects.
    pub(super) fn took(&self, records: u64, outcomes: &[Outcome]) {
        self.job.send_modify(|job| {
            job.read += records;
            job.total = job.total.max(job.read);
            job.error = None;
            count(&mut job.outcomes, outcomes);
        });
    }

    pub(super) fn id(&self) -> String {
        self.job.borrow().id.clone()
    }

    /// Leaves the lane its time, after a batch of `records` that began at `since`.
    pub(super) fn rest(&self, since: Instant, records: u64) {
        let took = since.elapsed();
        let standing = self.lane.standing();
        let is_behind = standing.state == LaneState::Running && standing.lag_records > 0;
        let mut rest = took * if is_behind { REST_BEHIND } else { 1 };
        if self.records_per_second > 0 {
            let wanted = Duration::from_secs(records)
                / u32::try_from(self.records_per_second).unwrap_or(u32::MAX);
            rest = rest.max(wanted.saturating_sub(took));
        }
        self.wait(rest.clamp(REST_MIN, REST_MAX));
    }

    /// Waits before the same is tried again, and says why.
    pub(super) fn wait_for(&self, trouble: &Trouble, failures: u32) {
        self.job
            .send_modify(|job| job.error = Some(trouble.to_string()));
        self.wait(self.shared.options.retry_after(failures));
    }

    /// Waits; not any longer once it is cancelled.
    fn wait(&self, time: Duration) {
        let mut wish = self.wish.subscribe();
        let cancelled = wish.wait_for(|wish| *wish == Wish::Cancel);
        // Either of the two ends it.
        if self.block_on(async { tokio::time::timeout(time, cancelled).await.is_ok() }) {
            tracing::debug!(job = self.id(), "does not wait");
        }
    }

    /// Does `work` until it succeeds, or fails for good.
    pub(super) fn persist<T>(
        &self,
        mut work: impl FnMut() -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let mut failures = 0;
        loop {
            self.step()?;
            match work() {
                Err(trouble) if trouble.passes() => {
                    failures += 1;
                    self.wait_for(&trouble, failures);
                }
                other => return other,
            }
        }
    }

    /// The lane looks again at where it stands.
    pub(super) fn wake_lane(&self) {
        self.schedule.at_once(&self.lane);
    }

    fn ended(&self, outcome: std::thread::Result<Result<Findings, Trouble>>) {
        let now = self.shared.clock.now();
        self.job.send_modify(|job| {
            job.ended_at = Some(now);
            (job.state, job.error) = match outcome {
                Ok(Ok(findings)) => {
                    job.findings = Some(findings);
                    (JobState::Done, None)
                }
                Ok(Err(Trouble::Cancelled)) => (JobState::Cancelled, None),
                Ok(Err(trouble)) => (JobState::Failed, Some(trouble.to_string())),
                Err(_panic) => {
                    let error = "a defect of the node; its log says more".to_owned();
                    (JobState::Failed, Some(error))
                }
            };
        });
    }

    fn note(&self, happened: &'static str) {
        match self.open() {
            Ok(feed) => feed.note(notes::job(&self.job.borrow(), happened)),
            Err(error) => tracing::warn!(%error, "a job is not noted in the log"),
        }
    }
}

/// All jobs of a node.
#[derive(Debug, Default)]
pub(super) struct Jobs(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    courses: VecDeque<Arc<Course>>,
    threads: Vec<JoinHandle<()>>,
    closed: bool,
}

/// What is asked for.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) kind: JobKind,
    pub(super) by: String,
    pub(super) records_per_second: Option<u64>,
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a job.
    pub(super) fn begin(
        &self,
        shared: &Arc<Shared>,
        lane: &Arc<Lane>,
        schedule: &Arc<Schedule>,
        order: Order,
        work: impl FnOnce(&Course) -> Result<Findings, Trouble> + Send + 'static,
    ) -> Result<Job, Refusal> {
        let mut known = self.lock();
        if known.closed {
            return Err(Refusal::Closing);
        }
        known.threads.retain(|thread| !thread.is_finished());
        known.admits(lane, shared.options.jobs_max)?;
        let place = lane.place();
        let job = Job {
            id: Uuid::now_v7().to_string(),
            kind: order.kind,
            projection: place.projection.clone(),
            sink: lane.kind(),
            tenant: place.tenant.clone(),
            by: order.by,
            state: JobState::Running,
            read: 0,
            total: 0,
            outcomes: [0; 5],
            started_at: shared.clock.now(),
            ended_at: None,
            error: None,
            findings: None,
        };
        let course = Arc::new(Course {
            shared: Arc::clone(shared),
            lane: Arc::clone(lane),
            schedule: Arc::clone(schedule),
            job: watch::channel(job.clone()).0,
            wish: watch::channel(Wish::Run).0,
            records_per_second: order
                .records_per_second
                .unwrap_or(shared.options.job_records_per_second),
        });
        let inside = Arc::clone(&course);
        let thread = std::thread::Builder::new()
            .name("arqon-job".to_owned())
            .spawn(move || {
                inside.note(notes::JOB_STARTED);
                let outcome = catch_unwind(AssertUnwindSafe(|| work(&inside)));
                inside.ended(outcome);
                inside.note(notes::JOB_ENDED);
            });
        let thread = thread.map_err(|error| Refusal::NoThread {
            reason: error.to_string(),
        })?;
        known.threads.push(thread);
        known.courses.push_back(course);
        known.forget();
        Ok(job)
    }

    fn find(&self, id: &str) -> Result<Arc<Course>, Refusal> {
        let known = self.lock();
        let found = known.courses.iter().find(|one| one.job.borrow().id == id);
        found
            .cloned()
            .ok_or_else(|| Refusal::Unknown { id: id.to_owned() })
    }

    /// All that are known; of one tenant, or of all. The newest last.
    pub(super) fn list(&self, tenant: Option<&str>) -> Vec<Job> {
        let known = self.lock();
        let jobs = known.courses.iter().map(|one| one.job.borrow().clone());
        jobs.filter(|job| tenant.is_none_or(|tenant| job.tenant == tenant))
            .collect()
    }

    pub(super) fn job(&self, id: &str) -> Result<Job, Refusal> {
        Ok(self.find(id)?.job.borrow().clone())
    }

    /// The job as it is when it has ended, or after `within`.
    pub(super) async fn ended(&self, id: &str, within: Duration) -> Result<Job, Refusal> {
        let course = self.find(id)?;
        let mut job = course.job.subscribe();
        let ended = job.wait_for(|job| job.state.has_ended());
        if let Ok(Ok(job)) = tokio::time::timeout(within, ended).await {
            return Ok(job.clone());
        }
        Ok(course.job.borrow().clone())
    }

    fn wish(&self, id: &str, wish: Wish) -> Result<Job, Refusal> {
        let course = self.find(id)?;
        let job = course.job.borrow().clone();
        if job.state.has_ended() {
            let state = job.state;
            return Err(Refusal::Ended { id: job.id, state });
        }
        // Whoever cancelled a job means it.
        course
            .wish
            .send_if_modified(|now| *now != Wish::Cancel && std::mem::replace(now, wish) != wish);
        Ok(job)
    }

    pub(super) fn pause(&self, id: &str) -> Result<Job, Refusal> {
        self.wish(id, Wish::Pause)
    }

    pub(super) fn resume(&self, id: &str) -> Result<Job, Refusal> {
        self.wish(id, Wish::Run)
    }

    pub(super) fn cancel(&self, id: &str) -> Result<Job, Refusal> {
        self.wish(id, Wish::Cancel)
    }

    /// Cancels all, and waits until they have ended. Blocks.
    pub(super) fn close(&self) {
        let threads = {
            let mut known = self.lock();
            known.closed = true;
            for course in &known.courses {
                course.wish.send_replace(Wish::Cancel);
            }
            std::mem::take(&mut known.threads)
        };
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a job of the projections panicked");
            }
        }
    }
}

impl Known {
    fn admits(&self, lane: &Arc<Lane>, limit: usize) -> Result<(), Refusal> {
        let running = || {
            let courses = self.courses.iter();
            courses.filter(|one| !one.job.borrow().state.has_ended())
        };
        if let Some(same) = running().find(|one| Arc::ptr_eq(&one.lane, lane)) {
            let job = same.job.borrow();
            return Err(Refusal::Runs {
                id: job.id.clone(),
                kind: job.kind,
                projection: job.projection.clone(),
                sink: job.sink,
            });
        }
        if running().count() >= limit {
            return Err(Refusal::TooMany { limit });
        }
        Ok(())
    }

    fn forget(&mut self) {
        let ended = |one: &Arc<Course>| one.job.borrow().state.has_ended();
        let mut too_many = self
            .courses
            .iter()
            .filter(|one| ended(one))
            .count()
            .saturating_sub(ENDED_MAX);
        self.courses.retain(|one| {
            let forgotten = too_many > 0 && ended(one);
            too_many -= usize::from(forgotten);
            !forgotten
        });
    }
}

#[cfg(test)]
mod tests;
