//! All projections of a node: their lanes, and what can be asked of them and done to them.
//!
//! A lane comes into being when a log is opened, by whomever; at the start every tenant's logs are
//! opened once, so that what was not projected when the node ended is. Ends with
//! [`Projections::close`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::backfill::{self, Effect, Selection};
use super::fold::Outcome;
use super::jobs::{Course, Findings, Job, JobKind, Jobs, Order, Refusal, Trouble};
use super::lane::{Lane, Shared};
use super::letters::Letters;
use super::logs::{Logs, LogsError};
use super::notes;
use super::options::Options;
use super::projection::Projection;
use super::rebuild::{self, Partial, Switch};
use super::schedule::Schedule;
use super::sink::{Copy, Place, Position, Query, Sink, SinkError, SinkKind};
use super::standing::Standing;
use super::table::{Key, Row};
use super::verify;
use crate::log::{Clock, Sequence};

/// A projection and where it is kept. The first sink is the one that questions are answered from.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The projection.
    pub projection: Arc<dyn Projection>,
    /// Its sinks; not empty, each kind once.
    pub sinks: Vec<Arc<dyn Sink>>,
}

impl Kept {
    /// The sink called `name` of the projection; its first if none is named.
    ///
    /// # Errors
    /// It is not kept there.
    pub fn sink(&self, name: Option<&str>) -> Result<&Arc<dyn Sink>, Error> {
        let found = match name {
            None => self.sinks.first(),
            Some(name) => self.sinks.iter().find(|sink| sink.kind().as_str() == name),
        };
        found.ok_or_else(|| {
            let known: Vec<_> = self.sinks.iter().map(|sink| sink.kind().as_str()).collect();
            Error::NoSuchSink {
                projection: self.projection.name().to_owned(),
                sink: name.unwrap_or_default().to_owned(),
                known: known.join(", "),
            }
        })
    }
}

/// All projections of a node.
#[derive(Debug)]
pub struct Projections {
    shared: Arc<Shared>,
    kept: Vec<Kept>,
    schedules: HashMap<SinkKind, Arc<Schedule>>,
    lanes: Mutex<HashMap<LaneKey, Arc<Lane>>>,
    letters: Mutex<HashMap<(String, String), Arc<Letters>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    jobs: Jobs,
    closing: watch::Sender<bool>,
}

/// Of what a job is asked for, and by whom.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Whose.
    pub tenant: &'a str,
    /// Which projection.
    pub projection: &'a str,
    /// Where; `None`: in its first sink.
    pub sink: Option<&'a str>,
    /// Who asks.
    pub by: &'a str,
    /// How fast it may read; `None`: as the settings say.
    pub records_per_second: Option<u64>,
}

/// How often one who waits has a lane look at the end of the log.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Projection, sink, tenant.
type LaneKey = (String, SinkKind, String);

/// Why something cannot be asked of a projection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none of that name.
    #[error("there is no projection called {name:?}; there are: {known}")]
    NoSuchProjection {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// It is not kept there.
    #[error("{projection} is not kept in {sink:?}; it is in: {known}")]
    NoSuchSink {
        /// Which.
        projection: String,
        /// What was asked for.
        sink: String,
        /// Where it is.
        known: String,
    },
    /// It did not come so far in time.
    #[error(
        "{projection} in {sink} has not passed {sequence} within {waited_ms} ms; it stands before {next}"
    )]
    NotYet {
        /// Which.
        projection: String,
        /// Where.
        sink: SinkKind,
        /// What was waited for.
        sequence: Sequence,
        /// Where it stands.
        next: Sequence,
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// The node goes down.
    #[error("the node is shutting down")]
    Closing,
    /// The sink.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogsError),
    /// A job is not begun, or not changed.
    #[error(transparent)]
    Job(#[from] Refusal),
}

/// How a projection of a tenant stands in one sink.
#[derive(Clone, Debug)]
pub struct LaneStatus {
    /// Name of the projection.
    pub projection: String,
    /// Whose.
    pub tenant: String,
    /// Where.
    pub sink: SinkKind,
    /// The first record that it has not passed.
    pub next: Sequence,
    /// The rest.
    pub standing: Standing,
}

impl Projections {
    /// Starts them: threads for each sink, and a task that hears of logs.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        kept: Vec<Kept>,
        logs: Arc<dyn Logs>,
        clock: Arc<dyn Clock>,
        options: Options,
        runtime: &Handle,
    ) -> std::io::Result<Arc<Self>> {
        let mut schedules: HashMap<SinkKind, Arc<Schedule>> = HashMap::new();
        for sink in kept.iter().flat_map(|kept| &kept.sinks) {
            schedules.entry(sink.kind()).or_default();
        }
        let mut threads = Vec::new();
        for (kind, schedule) in &schedules {
            for _ in 0..options.threads_per_sink.max(1) {
                let schedule = Arc::clone(schedule);
                let thread = std::thread::Builder::new()
                    .name(format!("arqon-{kind}"))
                    .spawn(move || schedule.work())?;
                threads.push(thread);
            }
        }
        let shared = Arc::new(Shared {
            logs,
            clock,
            options,
            runtime: runtime.clone(),
            closed: watch::channel(false).0,
        });
        let projections = Arc::new(Self {
            shared,
            kept,
            schedules,
            lanes: Mutex::default(),
            letters: Mutex::default(),
            threads: Mutex::new(threads),
            jobs: Jobs::default(),
            closing: watch::channel(false).0,
        });
        if !projections.kept.is_empty() {
            runtime.spawn(Self::attend_all(
                Arc::downgrade(&projections),
                Arc::clone(&projections.shared),
                projections.closing.subscribe(),
            ));
            runtime.spawn(prepare(projections.kept.clone()));
            runtime.spawn(Self::look_after(
                Arc::downgrade(&projections),
                projections.closing.subscribe(),
            ));
        }
        Ok(projections)
    }

    async fn attend_all(weak: Weak<Self>, shared: Arc<Shared>, mut closing: watch::Receiver<bool>) {
        let attend = async |whose: Vec<(String, String)>| {
            let Some(projections) = weak.upgrade() else {
                return;
            };
            let work = move || {
                for (tenant, reality) in whose {
                    if *projections.closing.borrow() {
                        return;
                    }
                    if let Err(error) = projections.attend(&tenant, &reality) {
                        tracing::warn!(tenant, reality, %error, "a log is not projected");
                    }
                }
            };
            if let Err(error) = tokio::task::spawn_blocking(work).await {
                tracing::error!(%error, "projections did not attend to a log");
            }
        };
        let logs = Arc::clone(&shared.logs);
        let realities: Vec<String> = weak.upgrade().map_or_else(Vec::new, |one| one.realities());
        let stored = tokio::task::spawn_blocking(move || {
            let mut stored = Vec::new();
            for reality in realities {
                let tenants = logs.tenants(&reality).into_iter();
                stored.extend(tenants.map(|tenant| (tenant, reality.clone())));
            }
            stored
        });
        attend(stored.await.unwrap_or_default()).await;
        loop {
            let opened = tokio::select! {
                opened = shared.logs.opened() => opened,
                // An error means that nobody is left to close them.
                closed = closing.wait_for(|closing| *closing) => {
                    drop(closed);
                    return;
                }
            };
            attend(opened).await;
        }
    }

    /// Looks every now and then whether sinks still stand where they were left.
    async fn look_after(weak: Weak<Self>, mut closing: watch::Receiver<bool>) {
        loop {
            let Some(interval) = weak.upgrade().map(|one| one.shared.options.look_interval) else {
                return;
            };
            let closed = closing.wait_for(|closing| *closing);
            if tokio::time::timeout(interval, closed).await.is_ok() {
                return;
            }
            let Some(projections) = weak.upgrade() else {
                return;
            };
            let lanes: Vec<_> = lock(&projections.lanes).values().cloned().collect();
            let mut away = Vec::new();
            for lane in lanes {
                // Nobody but the node writes its own tables.
                if lane.kind() == SinkKind::Sled || away.contains(&lane.kind()) {
                    continue;
                }
                match lane.is_where_it_was_left().await {
                    Ok(true) => {}
                    Ok(false) => {
                        let Place {
                            projection, tenant, ..
                        } = lane.place();
                        tracing::warn!(projection, tenant, sink = %lane.kind(), "stands elsewhere than it was left; goes on from there");
                        projections.wake(&lane);
                    }
                    Err(_of_the_sink) => away.push(lane.kind()),
                }
            }
        }
    }

    /// The realities that any of them reads.
    fn realities(&self) -> Vec<String> {
        let mut realities: Vec<String> = self
            .kept
            .iter()
            .map(|kept| kept.projection.reality().to_owned())
            .collect();
        realities.sort();
        realities.dedup();
        realities
    }

    /// Projects a log from now on. Blocks.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn attend(&self, tenant: &str, reality: &str) -> Result<(), LogsError> {
        let reads = |kept: &&Kept| kept.projection.reality() == reality;
        if !self.kept.iter().any(|kept| reads(&kept)) || tenant.is_empty() {
            return Ok(());
        }
        let feed = self.shared.logs.open(tenant, reality)?;
        for kept in self.kept.iter().filter(reads) {
            for sink in &kept.sinks {
                let (lane, is_new) = self.lane(kept, sink, tenant);
                if is_new && notes::is_paused(&*feed, kept.projection.name(), sink.kind())? {
                    lane.pause(true);
                }
                let Some(schedule) = self.schedules.get(&sink.kind()) else {
                    continue;
                };
                let (weak, due) = (Arc::downgrade(&lane), Arc::clone(schedule));
                let wake = move || {
                    if let Some(lane) = weak.upgrade() {
                        due.due(&lane);
                    }
                };
                lane.listen(feed.listen(kept.projection.topics(), Arc::new(wake))?);
                schedule.due(&lane);
            }
        }
        Ok(())
    }

    /// The live copy of a tenant's tables.
    fn place(&self, kept: &Kept, tenant: &str) -> Place {
        let reality = kept.projection.reality();
        Place {
            projection: kept.projection.name().to_owned(),
            tenant: tenant.to_owned(),
            reality: reality.to_owned(),
            log: format!("{}/{reality}", self.shared.logs.node()),
            copy: Copy::Live,
        }
    }

    fn lane(&self, kept: &Kept, sink: &Arc<dyn Sink>, tenant: &str) -> (Arc<Lane>, bool) {
        let name = kept.projection.name().to_owned();
        let key = (name.clone(), sink.kind(), tenant.to_owned());
        let letters = {
            let mut letters = lock(&self.letters);
            Arc::clone(
                letters
                    .entry((name.clone(), tenant.to_owned()))
                    .or_default(),
            )
        };
        let mut lanes = lock(&self.lanes);
        if let Some(lane) = lanes.get(&key) {
            return (Arc::clone(lane), false);
        }
        let lane = Arc::new(Lane::new(
            Arc::clone(&self.shared),
            Arc::clone(&kept.projection),
            Arc::clone(sink),
            self.place(kept, tenant),
            letters,
        ));
        lanes.insert(key, Arc::clone(&lane));
        (lane, true)
    }

    /// Nobody waits for anything any more; what is under way goes on.
    pub fn drain(&self) {
        self.closing.send_replace(true);
    }

    /// Stops after what is being committed. Blocks.
    pub fn close(&self) {
        self.closing.send_replace(true);
        self.shared.closed.send_replace(true);
        self.jobs.close();
        self.schedules
            .values()
            .for_each(|schedule| schedule.close());
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the projections panicked");
            }
        }
        self.schedules
            .values()
            .for_each(|schedule| schedule.clear());
        lock(&self.lanes).clear();
    }

    /// What is projected, and where.
    #[must_use]
    pub fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// What all of them share.
    pub(super) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The projection called `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, name: &str) -> Result<&Kept, Error> {
        let found = self.kept.iter().find(|kept| kept.projection.name() == name);
        found.ok_or_else(|| {
            let known: Vec<_> = self
                .kept
                .iter()
                .map(|kept| kept.projection.name())
                .collect();
            Error::NoSuchProjection {
                name: name.to_owned(),
                known: known.join(", "),
            }
        })
    }

    /// The lane of a tenant's projection, made if there is none. Blocks.
    ///
    /// # Errors
    /// There is no such projection, sink or log.
    pub(super) fn lane_of(
        &self,
        tenant: &str,
        name: &str,
        sink: Option<&str>,
    ) -> Result<Arc<Lane>, Error> {
        let kept = self.find(name)?;
        let sink = kept.sink(sink)?;
        let key = (name.to_owned(), sink.kind(), tenant.to_owned());
        let found = lock(&self.lanes).get(&key).cloned();
        if let Some(lane) = found {
            return Ok(lane);
        }
        self.attend(tenant, kept.projection.reality())?;
        Ok(self.lane(kept, sink, tenant).0)
    }

    /// How everything stands; of one tenant, or of all.
    #[must_use]
    pub fn status(&self, tenant: Option<&str>) -> Vec<LaneStatus> {
        let lanes: Vec<_> = lock(&self.lanes).values().cloned().collect();
        let mut status: Vec<_> = lanes
            .iter()
            .filter(|lane| tenant.is_none_or(|tenant| lane.place().tenant == tenant))
            .map(|lane| LaneStatus {
                projection: lane.place().projection.clone(),
                tenant: lane.place().tenant.clone(),
                sink: lane.kind(),
                next: *lane.watch().borrow(),
                standing: lane.standing(),
            })
            .collect();
        status.sort_by(|a, b| {
            let key = |one: &LaneStatus| (one.projection.clone(), one.tenant.clone(), one.sink);
            key(a).cmp(&key(b))
        });
        status
    }

    /// Shows how every lane stands, without copying it: which, in which sink, and how.
    pub fn each_standing(&self, mut see: impl FnMut(&Place, SinkKind, &Standing)) {
        let lanes: Vec<_> = lock(&self.lanes).values().cloned().collect();
        for lane in lanes {
            lane.with_standing(|standing| see(lane.place(), lane.kind(), standing));
        }
    }

    /// Pauses a lane, or lets it go on; kept in the log, and so over a restart (BRK-15). Blocks.
    /// `skip`: it goes on although records were removed before they were projected.
    ///
    /// # Errors
    /// There is no such projection or sink; the log does not take it.
    pub fn pause(
        &self,
        tenant: &str,
        name: &str,
        sink: Option<&str>,
        paused: bool,
        skip: bool,
        by: &str,
    ) -> Result<(), Error> {
        let lane = self.lane_of(tenant, name, sink)?;
        let feed = self.shared.logs.open(tenant, &lane.place().reality)?;
        feed.record(notes::control(name, lane.kind(), paused, by))?;
        if skip {
            lane.skip_removed();
        }
        lane.pause(paused);
        if let Some(schedule) = self.schedules.get(&lane.kind()).filter(|_| !paused) {
            schedule.at_once(&lane);
        }
        Ok(())
    }

    /// Waits until a projection has passed a record (PRJ-17), and says where it stands then.
    ///
    /// # Errors
    /// There is no such projection or sink; it did not come so far in time.
    pub async fn wait(
        self: &Arc<Self>,
        tenant: &str,
        name: &str,
        sink: Option<&str>,
        sequence: Sequence,
        within: Duration,
    ) -> Result<Sequence, Error> {
        let lane = self.lane_apart(tenant, name, sink).await?;
        let mut next = lane.watch();
        let closing = self.closing.subscribe();
        let until = tokio::time::Instant::now() + within;
        while tokio::time::Instant::now() < until {
            // Nobody tells it of records on topics that it does not read.
            if let Some(schedule) = self.schedules.get(&lane.kind()) {
                schedule.due(&lane);
            }
            let look = until.min(tokio::time::Instant::now() + LOOK_EVERY);
            let passed = tokio::time::timeout_at(look, next.wait_for(|next| *next > sequence));
            if let Ok(Ok(next)) = passed.await {
                return Ok(*next);
            }
            if *closing.borrow() {
                return Err(Error::Closing);
            }
        }
        if *next.borrow() > sequence {
            return Ok(*next.borrow());
        }
        Err(Error::NotYet {
            projection: name.to_owned(),
            sink: lane.kind(),
            sequence,
            next: *lane.watch().borrow(),
            waited_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
        })
    }

    async fn lane_apart(
        self: &Arc<Self>,
        tenant: &str,
        name: &str,
        sink: Option<&str>,
    ) -> Result<Arc<Lane>, Error> {
        let projections = Arc::clone(self);
        let (tenant, name) = (tenant.to_owned(), name.to_owned());
        let sink = sink.map(str::to_owned);
        let opened = tokio::task::spawn_blocking(move || {
            projections.lane_of(&tenant, &name, sink.as_deref())
        });
        opened.await.unwrap_or_else(|error| {
            let reason = error.to_string();
            let passing = false;
            Err(LogsError { reason, passing }.into())
        })
    }

    /// Has `append` append a record that `name` projects, and says where it stands and what became
    /// of it in the sink that questions are answered from; `None` if that is not known within the
    /// time. Blocks.
    ///
    /// # Errors
    /// There is no such projection; the record was not appended.
    pub fn project<E: From<Error>>(
        &self,
        tenant: &str,
        name: &str,
        within: Duration,
        append: impl FnOnce() -> Result<Sequence, E>,
    ) -> Result<(Sequence, Option<Outcome>), E> {
        let lane = self.lane_of(tenant, name, None).map_err(E::from)?;
        // Held until it is asked, so that the lane cannot have passed the record.
        let holding = lane.hold();
        let sequence = append()?;
        let asked = lane.ask(sequence);
        drop(holding);
        if let Some(schedule) = self.schedules.get(&lane.kind()) {
            schedule.due(&lane);
        }
        let mut closing = self.closing.subscribe();
        let told = self.shared.runtime.block_on(async {
            tokio::select! {
                told = tokio::time::timeout(within, asked) => told.ok().and_then(Result::ok),
                closed = closing.wait_for(|closing| *closing) => {
                    drop(closed);
                    None
                }
            }
        });
        Ok((sequence, told))
    }

    /// A lane has something to look at.
    pub(super) fn wake(&self, lane: &Arc<Lane>) {
        if let Some(schedule) = self.schedules.get(&lane.kind()) {
            schedule.due(lane);
        }
    }

    fn begin(
        &self,
        what: &Asked<'_>,
        kind: JobKind,
        work: impl FnOnce(&Course) -> Result<Findings, Trouble> + Send + 'static,
    ) -> Result<Job, Error> {
        let lane = self.lane_of(what.tenant, what.projection, what.sink)?;
        let schedule = self.schedules.get(&lane.kind()).ok_or(Refusal::Closing)?;
        let order = Order {
            kind,
            by: what.by.to_owned(),
            records_per_second: what.records_per_second,
        };
        Ok(self
            .jobs
            .begin(&self.shared, &lane, schedule, order, work)?)
    }

    /// Begins to project records of a range of time again (PRJ-06). Blocks until it has begun.
    ///
    /// # Errors
    /// There is no such projection or sink; too many jobs run, or one of the same place.
    pub fn backfill(
        &self,
        what: &Asked<'_>,
        selection: Selection,
        effect: Effect,
    ) -> Result<Job, Error> {
        self.begin(what, JobKind::Backfill, move |course| {
            backfill::work(course, &selection, effect)
        })
    }

    /// Begins to build a projection's tables anew (PRJ-07). Blocks until it has begun.
    ///
    /// # Errors
    /// As [`Projections::backfill`].
    pub fn rebuild(
        &self,
        what: &Asked<'_>,
        switch: Switch,
        partial: Partial,
    ) -> Result<Job, Error> {
        self.begin(what, JobKind::Rebuild, move |course| {
            rebuild::work(course, switch, partial)
        })
    }

    /// Begins to compare a projection's tables with the log (PRJ-18). Blocks until it has begun.
    ///
    /// # Errors
    /// As [`Projections::backfill`].
    pub fn verify(&self, what: &Asked<'_>) -> Result<Job, Error> {
        self.begin(what, JobKind::Verify, verify::work)
    }

    /// The jobs that run, and the last that have ended; of one tenant, or of all. The newest last.
    #[must_use]
    pub fn jobs(&self, tenant: Option<&str>) -> Vec<Job> {
        self.jobs.list(tenant)
    }

    /// A job.
    ///
    /// # Errors
    /// There is none of that id.
    pub fn job(&self, id: &str) -> Result<Job, Error> {
        Ok(self.jobs.job(id)?)
    }

    /// A job once it has ended, or as it is after `within`.
    ///
    /// # Errors
    /// There is none of that id.
    pub async fn job_ended(&self, id: &str, within: Duration) -> Result<Job, Error> {
        Ok(self.jobs.ended(id, within).await?)
    }

    /// Lets a job wait before its next batch.
    ///
    /// # Errors
    /// There is none of that id; it has ended.
    pub fn pause_job(&self, id: &str) -> Result<Job, Error> {
        Ok(self.jobs.pause(id)?)
    }

    /// Lets a job go on.
    ///
    /// # Errors
    /// As [`Projections::pause_job`].
    pub fn resume_job(&self, id: &str) -> Result<Job, Error> {
        Ok(self.jobs.resume(id)?)
    }

    /// Ends a job before its next batch. What it did stays done.
    ///
    /// # Errors
    /// As [`Projections::pause_job`].
    pub fn cancel_job(&self, id: &str) -> Result<Job, Error> {
        Ok(self.jobs.cancel(id)?)
    }

    /// The row of a key, from the sink that questions are answered from. Blocks.
    ///
    /// # Errors
    /// There is no such projection; the sink does not answer.
    pub fn row(
        &self,
        tenant: &str,
        name: &str,
        sink: Option<&str>,
        table: usize,
        key: &Key,
    ) -> Result<Option<Row>, Error> {
        let kept = self.find(name)?;
        let sink = kept.sink(sink)?;
        let place = self.place(kept, tenant);
        let row = sink.row(&*kept.projection, &place, table, key);
        Ok(self.shared.runtime.block_on(row)?)
    }

    /// Rows of a tenant, from the sink that questions are answered from. Blocks.
    ///
    /// # Errors
    /// There is no such projection; the sink does not answer.
    pub fn rows(
        &self,
        tenant: &str,
        name: &str,
        sink: Option<&str>,
        table: usize,
        query: &Query,
    ) -> Result<Vec<Row>, Error> {
        let kept = self.find(name)?;
        let sink = kept.sink(sink)?;
        let place = self.place(kept, tenant);
        let rows = sink.rows(&*kept.projection, &place, table, query);
        Ok(self.shared.runtime.block_on(rows)?)
    }

    /// How many rows a tenant has. Blocks.
    ///
    /// # Errors
    /// There is no such projection; the sink does not answer.
    pub fn count(
        &self,
        tenant: &str,
        name: &str,
        sink: Option<&str>,
        table: usize,
    ) -> Result<u64, Error> {
        let kept = self.find(name)?;
        let sink = kept.sink(sink)?;
        let place = self.place(kept, tenant);
        let count = sink.count(&*kept.projection, &place, table);
        Ok(self.shared.runtime.block_on(count)?)
    }

    /// Where a projection of a tenant stands in a sink, as that stored it. Blocks.
    ///
    /// # Errors
    /// There is no such projection; the sink does not answer.
    pub fn position(
        &self,
        tenant: &str,
        name: &str,
        sink: Option<&str>,
    ) -> Result<Option<Position>, Error> {
        let kept = self.find(name)?;
        let sink = kept.sink(sink)?;
        let place = self.place(kept, tenant);
        Ok(self.shared.runtime.block_on(sink.position(&place))?)
    }
}

/// Gets tables ready before anything comes, so that empty ones can be asked too. What fails here is
/// tried again, and told, by whoever has something to write.
async fn prepare(kept: Vec<Kept>) {
    for kept in kept {
        for sink in &kept.sinks {
            if let Err(error) = sink.prepare(&*kept.projection).await {
                tracing::debug!(projection = kept.projection.name(), %error, "not ready yet");
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
