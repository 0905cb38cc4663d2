//! What tests of projections stand on: real logs in a temporary directory without a broker, events
//! of the Continuum contract, and a sink that fails when it is told to.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use super::continuum::{Continuum, EPISODES, EVENTS, History, LETTERS, NAME, TOPIC};
use super::fold::{self, Entry, Known, Repeats};
use super::logs::{Feed, Listening, Logs, LogsError, NewEvent, Note, Wake};
use super::options::Options;
use super::projection::{Payloads, Projection, Source};
use super::sink::{
    Answer, Commit, Place, Position, Query, Question, Sink, SinkError, SinkKind, Write,
};
use super::sled::Sled;
use super::table::{Key, Row};
use super::{Kept, Projections};
use crate::log::{
    Append, AppendError, AppendSink, Appended, Chunk, Clock, Committer, Durability, Environment,
    Found, Log, Micros, NewRecord, Observer, RealStorage, Sequence, Writer,
};
use crate::proto::v1::{Envelope, Event, envelope};
use crate::proto::view::{EnvelopeView, RecordView};

pub(super) const TENANT: &str = "acme";

/// A millisecond later whenever it is asked.
#[derive(Debug)]
pub(super) struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Micros {
        Micros(self.0.fetch_add(1_000, Ordering::Relaxed))
    }
}

#[derive(Debug)]
struct Plain;

impl Payloads for Plain {
    fn to_json(&self, _tenant: &str, record: &RecordView<'_>) -> Option<Value> {
        serde_json::from_slice(record.envelope.payload.data()).ok()
    }
}

#[derive(Default)]
struct Wakers(RwLock<BTreeMap<u64, Wake>>);

impl std::fmt::Debug for Wakers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wakers")
    }
}

impl Observer for Wakers {
    fn written(&self, _group: &Chunk) {}

    fn durable(&self, _durable_end: Sequence) {
        self.0.read().unwrap().values().for_each(|wake| wake());
    }

    fn poisoned(&self, reason: &str) {
        panic!("{reason}");
    }
}

#[derive(Debug)]
struct Waking(Arc<Wakers>, u64);

impl Listening for Waking {
    fn look(&self) {}
}

impl Drop for Waking {
    fn drop(&mut self) {
        self.0.0.write().unwrap().remove(&self.1);
    }
}

#[derive(Debug)]
struct Acknowledged(std::sync::mpsc::SyncSender<Result<Appended, AppendError>>);

impl AppendSink for Acknowledged {
    fn appended(&self, _token: u64, outcome: Result<Appended, AppendError>) {
        self.0.send(outcome).unwrap();
    }
}

/// One log, with the tenant's `_system` beside it.
#[derive(Debug)]
pub(super) struct TestFeed {
    log: Log,
    system: Log,
    wakers: Arc<Wakers>,
}

fn append(log: &Log, topic: &str, envelope: Bytes) -> Sequence {
    let (sender, receiver) = sync_channel(1);
    let record = NewRecord {
        topic: Bytes::copy_from_slice(topic.as_bytes()),
        clock_entries: Bytes::new(),
        stamp: Bytes::new(),
        envelope,
    };
    let append = Append {
        records: vec![record],
        durability: Durability::Synced,
        then: None,
        sink: Arc::new(Acknowledged(sender)),
        token: 0,
    };
    log.append(append).unwrap();
    receiver.recv().unwrap().unwrap().first
}

fn enveloped(event: &NewEvent) -> Bytes {
    let envelope = Envelope {
        topic: event.topic.clone(),
        schema: event.schema.to_owned(),
        key: event.key.clone(),
        payload: Some(envelope::Payload::Event(Event {
            r#type: event.kind.to_owned(),
            data: event.data.clone(),
        })),
        ..Envelope::default()
    };
    envelope.encode_to_vec().into()
}

impl TestFeed {
    /// Appends an event, whatever it is.
    pub(super) fn publish(&self, topic: &str, data: &[u8]) -> Sequence {
        let envelope = Envelope {
            topic: topic.to_owned(),
            payload: Some(envelope::Payload::Event(Event {
                r#type: "test".to_owned(),
                data: Bytes::copy_from_slice(data),
            })),
            ..Envelope::default()
        };
        append(&self.log, topic, envelope.encode_to_vec().into())
    }

    pub(super) fn event(&self, event: &Value) -> Sequence {
        self.publish(TOPIC, event.to_string().as_bytes())
    }
}

impl Feed for TestFeed {
    fn log(&self) -> Log {
        self.log.clone()
    }

    fn listen(&self, _patterns: &[String], wake: Wake) -> Result<Box<dyn Listening>, LogsError> {
        let mut wakers = self.wakers.0.write().unwrap();
        let id = wakers.last_key_value().map_or(0, |(id, _)| id + 1);
        wakers.insert(id, wake);
        Ok(Box::new(Waking(Arc::clone(&self.wakers), id)))
    }

    fn append(&self, event: NewEvent) -> Result<Sequence, LogsError> {
        Ok(append(&self.log, &event.topic, enveloped(&event)))
    }

    fn append_again(
        &self,
        topic: &str,
        envelope: &[u8],
        header: (&str, &str),
    ) -> Result<Sequence, LogsError> {
        let view = EnvelopeView::parse(envelope).unwrap();
        let headers: Vec<(String, String)> = view
            .headers
            .iter()
            .filter(|(name, _)| *name != header.0)
            .chain([header])
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let envelope = view.rewritten(None, Some(&headers));
        Ok(append(&self.log, topic, envelope.into()))
    }

    fn note(&self, event: NewEvent) {
        append(&self.system, &event.topic, enveloped(&event));
    }

    fn record(&self, event: NewEvent) -> Result<(), LogsError> {
        self.note(event);
        Ok(())
    }

    fn notes(&self, topic: &str) -> Result<Vec<Note>, LogsError> {
        let mut notes = Vec::new();
        let bounds = self.system.bounds();
        let mut next = bounds.first;
        while let Found::Records(chunk) = self.system.read(next, bounds.durable_end, 1 << 20)? {
            for record in chunk.iter().filter(|record| record.topic == topic) {
                let view = RecordView::parse(record.record).unwrap();
                notes.push(Note {
                    kind: view.envelope.payload.kind().to_owned(),
                    data: Bytes::copy_from_slice(view.envelope.payload.data()),
                    at: record.appended_at,
                });
            }
            next = chunk.last.next();
        }
        Ok(notes)
    }
}

/// Logs below a directory.
#[derive(Debug)]
pub(super) struct TestLogs {
    directory: std::path::PathBuf,
    environment: Environment,
    options: crate::log::Options,
    open: Mutex<HashMap<(String, String), Arc<TestFeed>>>,
    opened: Mutex<Vec<(String, String)>>,
    told: Notify,
}

impl TestLogs {
    fn log(&self, tenant: &str, reality: &str, wakers: &Arc<Wakers>) -> Log {
        let directory = self.directory.join(tenant).join(reality);
        std::fs::create_dir_all(&directory).unwrap();
        let writer = Writer {
            node: 1,
            clock_key: format!("n1/{reality}"),
        };
        let observer = Arc::clone(wakers) as Arc<dyn Observer>;
        let (environment, options) = (&self.environment, &self.options);
        Log::open(environment, &directory, &writer, options, observer)
            .unwrap()
            .0
    }

    fn feed(&self, tenant: &str, reality: &str) -> Arc<TestFeed> {
        let mut open = self.open.lock().unwrap();
        let key = (tenant.to_owned(), reality.to_owned());
        let feed = open.entry(key.clone()).or_insert_with(|| {
            let wakers = Arc::default();
            let feed = TestFeed {
                log: self.log(tenant, reality, &wakers),
                system: self.log(tenant, "_system", &Arc::default()),
                wakers,
            };
            self.opened.lock().unwrap().push(key);
            self.told.notify_one();
            Arc::new(feed)
        });
        Arc::clone(feed)
    }

    fn close(&self) {
        for (_, feed) in self.open.lock().unwrap().drain() {
            feed.log.close().unwrap();
            feed.system.close().unwrap();
        }
    }
}

impl Logs for TestLogs {
    fn node(&self) -> &str {
        "n1"
    }

    fn tenants(&self, _reality: &str) -> Vec<String> {
        let entries = std::fs::read_dir(&self.directory).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    fn open(&self, tenant: &str, reality: &str) -> Result<Arc<dyn Feed>, LogsError> {
        Ok(self.feed(tenant, reality))
    }

    fn opened(&self) -> BoxFuture<'_, Vec<(String, String)>> {
        Box::pin(async {
            loop {
                let opened = std::mem::take(&mut *self.opened.lock().unwrap());
                if !opened.is_empty() {
                    return opened;
                }
                self.told.notified().await;
            }
        })
    }

    fn payloads(&self) -> &dyn Payloads {
        &Plain
    }
}

/// What the sink does with the next commits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// It is away, and nothing was taken.
    Away,
    /// It took everything, and its answer was lost.
    AnswerLost,
    /// Somebody else has the place.
    Fenced,
}

/// The embedded sink, with faults.
#[derive(Debug)]
pub(super) struct FaultySink {
    pub(super) sled: Sled,
    /// Of the next commits, the first last.
    pub(super) faults: Mutex<Vec<Fault>>,
    /// Rows with this text are refused for ever.
    pub(super) refuses: Mutex<Option<String>>,
    pub(super) commits: AtomicU64,
}

fn unavailable() -> SinkError {
    SinkError::Unavailable {
        sink: SinkKind::Sled,
        reason: "told so by a test".to_owned(),
    }
}

impl FaultySink {
    fn refuses(&self, commit: &Commit) -> bool {
        let refuses = self.refuses.lock().unwrap();
        let Some(text) = &*refuses else {
            return false;
        };
        commit.writes.iter().any(|write| match write {
            Write::Put { table, row } if *table != LETTERS => {
                let mut cells = row.0.iter().filter_map(|cell| cell.text());
                cells.any(|cell| cell.contains(text))
            }
            Write::Put { .. } | Write::Remove { .. } => false,
        })
    }
}

impl Sink for FaultySink {
    fn kind(&self) -> SinkKind {
        SinkKind::Sled
    }

    fn prepare<'a>(&'a self, p: &'a dyn Projection) -> BoxFuture<'a, Result<(), SinkError>> {
        self.sled.prepare(p)
    }

    fn take<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<Position, SinkError>> {
        self.sled.take(place)
    }

    fn position<'a>(
        &'a self,
        place: &'a Place,
    ) -> BoxFuture<'a, Result<Option<Position>, SinkError>> {
        self.sled.position(place)
    }

    fn look_up<'a>(
        &'a self,
        p: &'a dyn Projection,
        place: &'a Place,
        question: &'a Question,
    ) -> BoxFuture<'a, Result<Answer, SinkError>> {
        self.sled.look_up(p, place, question)
    }

    fn commit<'a>(
        &'a self,
        p: &'a dyn Projection,
        place: &'a Place,
        commit: &'a Commit,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            self.commits.fetch_add(1, Ordering::Relaxed);
            let sink = SinkKind::Sled;
            if self.refuses(commit) {
                let reason = "it does not like a row".to_owned();
                return Err(SinkError::Rejected { sink, reason });
            }
            let fault = self.faults.lock().unwrap().pop();
            match fault {
                Some(Fault::Away) => Err(unavailable()),
                Some(Fault::Fenced) => Err(SinkError::Fenced { sink }),
                Some(Fault::AnswerLost) => {
                    self.sled.commit(p, place, commit).await?;
                    Err(unavailable())
                }
                None => self.sled.commit(p, place, commit).await,
            }
        })
    }

    fn row<'a>(
        &'a self,
        p: &'a dyn Projection,
        place: &'a Place,
        table: usize,
        key: &'a Key,
    ) -> BoxFuture<'a, Result<Option<Row>, SinkError>> {
        self.sled.row(p, place, table, key)
    }

    fn rows<'a>(
        &'a self,
        p: &'a dyn Projection,
        place: &'a Place,
        table: usize,
        query: &'a Query,
    ) -> BoxFuture<'a, Result<Vec<Row>, SinkError>> {
        self.sled.rows(p, place, table, query)
    }

    fn count<'a>(
        &'a self,
        p: &'a dyn Projection,
        place: &'a Place,
        table: usize,
    ) -> BoxFuture<'a, Result<u64, SinkError>> {
        self.sled.count(p, place, table)
    }

    fn clear_next<'a>(
        &'a self,
        p: &'a dyn Projection,
        place: &'a Place,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        self.sled.clear_next(p, place)
    }

    fn switch<'a>(
        &'a self,
        p: &'a dyn Projection,
        place: &'a Place,
        epoch: u64,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        self.sled.switch(p, place, epoch)
    }
}

/// A node without anything but projections.
pub(super) struct Machine {
    pub(super) directory: tempfile::TempDir,
    pub(super) runtime: Runtime,
    pub(super) options: Options,
    pub(super) projection: Arc<dyn Projection>,
    segment_bytes: u64,
    running: Option<Running>,
}

struct Running {
    logs: Arc<TestLogs>,
    sink: Arc<FaultySink>,
    projections: Arc<Projections>,
}

impl Machine {
    pub(super) fn new() -> Self {
        Self::with(Arc::new(Continuum::new(History::Kept)), |_| {})
    }

    /// With logs whose segments are full soon.
    pub(super) fn with_small_segments() -> Self {
        let projection = Arc::new(Continuum::new(History::Kept));
        Self::made(projection, 32 << 10, |_| {})
    }

    pub(super) fn with(projection: Arc<dyn Projection>, change: impl FnOnce(&mut Options)) -> Self {
        let segment_bytes = crate::log::Options::default().segment_bytes_first;
        Self::made(projection, segment_bytes, change)
    }

    fn made(
        projection: Arc<dyn Projection>,
        segment_bytes: u64,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut options = Options {
            retry_min: Duration::from_millis(1),
            retry_max: Duration::from_millis(4),
            scratch: directory.path().join("scratch"),
            ..Options::default()
        };
        change(&mut options);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let mut machine = Self {
            directory,
            runtime,
            options,
            projection,
            segment_bytes,
            running: None,
        };
        machine.start();
        machine
    }

    fn start(&mut self) {
        let path = |name: &str| self.directory.path().join(name);
        std::fs::create_dir_all(path("logs")).unwrap();
        let clock = Arc::new(TestClock(AtomicU64::new(1_700_000_000_000_000)));
        let logs = Arc::new(TestLogs {
            directory: path("logs"),
            environment: Environment {
                storage: Arc::new(RealStorage),
                clock: Arc::clone(&clock) as Arc<dyn Clock>,
                committer: Committer::start(1),
            },
            options: crate::log::Options {
                segment_bytes: self.segment_bytes,
                segment_bytes_first: self.segment_bytes,
                ..crate::log::Options::default()
            },
            open: Mutex::default(),
            opened: Mutex::default(),
            told: Notify::new(),
        });
        let sink = Arc::new(FaultySink {
            sled: Sled::open(&path("sled"), 1 << 20).unwrap(),
            faults: Mutex::default(),
            refuses: Mutex::default(),
            commits: AtomicU64::new(0),
        });
        let kept = Kept {
            projection: Arc::clone(&self.projection),
            sinks: vec![Arc::clone(&sink) as Arc<dyn Sink>],
        };
        let handle = self.runtime.handle();
        let options = self.options.clone();
        let shared = Arc::clone(&logs) as Arc<dyn Logs>;
        let projections = Projections::start(vec![kept], shared, clock, options, handle).unwrap();
        self.running = Some(Running {
            logs,
            sink,
            projections,
        });
        // There, and known to the projections.
        self.projections().attend(TENANT, "main").unwrap();
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub(super) fn projections(&self) -> &Arc<Projections> {
        &self.running().projections
    }

    pub(super) fn sink(&self) -> &Arc<FaultySink> {
        &self.running().sink
    }

    pub(super) fn feed(&self) -> Arc<TestFeed> {
        self.running().logs.feed(TENANT, "main")
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Ends whatever it does.
    pub(super) fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.projections.close();
            running.logs.close();
            drop(running.projections);
            // The task that hears of logs may be about to let go of them.
            let until = Instant::now() + Duration::from_secs(2);
            while Arc::strong_count(&running.sink) > 1 && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Drops everything and begins anew from what is on disk.
    pub(super) fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// Waits until everything that is in the log was projected, and what came of that too.
    pub(super) fn settle(&self) {
        loop {
            let end = self.feed().log().bounds().durable_end;
            let Some(last) = end.previous() else { return };
            let within = Duration::from_secs(5);
            let waited = self.projections().wait(TENANT, NAME, None, last, within);
            self.runtime.block_on(waited).unwrap();
            if self.feed().log().bounds().durable_end == end {
                return;
            }
        }
    }

    pub(super) fn rows(&self, table: usize) -> Vec<Row> {
        let query = Query {
            limit: 100_000,
            ..Query::default()
        };
        let rows = self.projections().rows(TENANT, NAME, None, table, &query);
        rows.unwrap()
    }

    pub(super) fn tables(&self) -> Vec<Vec<Row>> {
        [EPISODES, EVENTS, LETTERS]
            .map(|table| self.rows(table))
            .to_vec()
    }

    /// The tables as a fold of the whole log gives them, record by record and without any sink.
    pub(super) fn folded(&self) -> Vec<Vec<Row>> {
        let log = self.feed().log();
        let bounds = log.bounds();
        let tables = self.projection.tables();
        let mut rows: Vec<BTreeMap<Vec<u8>, Row>> = vec![BTreeMap::new(); tables.len()];
        let mut next = bounds.first;
        while next < bounds.durable_end {
            let chunk = match log.read(next, bounds.durable_end, 1 << 20).unwrap() {
                Found::Records(chunk) => chunk,
                Found::Damaged { next: after, .. } => {
                    next = after;
                    continue;
                }
                Found::End => break,
            };
            for record in chunk.iter() {
                let view = RecordView::parse(record.record).unwrap();
                let topics = self.projection.topics();
                if !topics.iter().any(|topic| topic == record.topic) {
                    continue;
                }
                let source = Source {
                    tenant: TENANT,
                    reality: "main",
                    sequence: record.sequence,
                    appended_at: record.appended_at,
                    record: &view,
                    payloads: &Plain,
                };
                let Ok(changes) = self.projection.read(&source) else {
                    continue;
                };
                let entries = vec![Entry {
                    sequence: record.sequence,
                    changes,
                }];
                let question = fold::question(tables, &entries);
                let answer = question.keys.iter().map(|(table, key)| {
                    let row = rows[*table].get(&key.encoded())?;
                    Some(tables[*table].version_of(row))
                });
                let answer = answer.collect();
                let mut known = Known::default();
                known.learn(question, answer);
                for write in known.fold(tables, entries, Repeats::AreDone).writes {
                    match write {
                        Write::Put { table, row } => {
                            let key = tables[table].key_of(&row).encoded();
                            rows[table].insert(key, row);
                        }
                        Write::Remove { table, key } => {
                            rows[table].remove(&key.encoded());
                        }
                    }
                }
            }
            next = chunk.last.next();
        }
        let tables = rows.into_iter().map(|rows| rows.into_values().collect());
        tables.collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A ULID.
pub(super) fn id(number: u64) -> String {
    format!("01{number:024}")
}

/// An event of the contract: `number` says which, `at` when it happened, in seconds.
pub(super) fn event(number: u64, agent: &str, episode: u64, at: u64) -> Value {
    json!({
        "event_id": id(number),
        "event_type": "episode.updated",
        "tenant_id": TENANT,
        "agent_id": agent,
        "episode_id": id(episode),
        "source_ts": crate::proto::json::micros((1_600_000_000 + at) * 1_000_000),
        "schema_version": 1,
        "payload": {
            "content_ref": format!("test://{number}"),
            "summary": format!("event {number}"),
            "tags": [],
            "metadata": {},
        },
    })
}

/// The time `at` of [`event`].
pub(super) const fn at(seconds: u64) -> Micros {
    Micros((1_600_000_000 + seconds) * 1_000_000)
}

/// Waits until `holds`.
pub(super) fn until(holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < end, "it never came to that");
        std::thread::sleep(Duration::from_millis(2));
    }
}
