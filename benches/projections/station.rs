//! A broker with its logs, the servers of the sinks, and projections from the one into the others.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arqonbus::broker::accept::Batch;
use arqonbus::broker::{Broker, Identity, Options, Reality, RealityName, Role, Tenant, Topics};
use arqonbus::log::{
    AppendError, AppendSink, Appended, Clock, Committer, Durability, Environment, RealStorage,
    Sequence,
};
use arqonbus::projections::continuum::{Continuum, EPISODES, History, NAME};
use arqonbus::projections::options::Options as Running;
use arqonbus::projections::postgres::{Options as Database, Postgres};
use arqonbus::projections::projection::Projection;
use arqonbus::projections::sink::Sink;
use arqonbus::projections::sled::Sled;
use arqonbus::projections::valkey::mapping::Mapping;
use arqonbus::projections::valkey::{self, Address, ValkeySink};
use arqonbus::projections::{Kept, Projections};
use arqonbus::proto::view::EnvelopeView;
use arqonbus::wall_clock::WallClock;
use bytes::Bytes;
use tokio::runtime::Runtime;

use crate::events::{self, NoSchemas};
use crate::feed::BrokerLogs;
use crate::servers::postgres::Server;
use crate::servers::redis::Redis;

const PATIENCE: Duration = Duration::from_mins(10);
/// Envelopes of an append, and appends under way, of a publisher that is in a hurry.
const GROUP: usize = 100;
const UNDER_WAY: u64 = 20;

/// The last record of a log.
pub(crate) type Last = Sequence;

pub(crate) struct Station {
    pub(crate) runtime: Runtime,
    pub(crate) directory: PathBuf,
    pub(crate) broker: Arc<Broker>,
    postgres: Server,
    redis: Redis,
    /// Of the sinks in sled.
    directories: Vec<tempfile::TempDir>,
    tenants: usize,
}

impl Station {
    pub(crate) fn open(directory: &Path) -> Self {
        let environment = Environment {
            storage: Arc::new(RealStorage),
            clock: Arc::new(WallClock),
            committer: Committer::start(2),
        };
        environment.committer.bound_tails(256 << 20);
        let options = Options::new(directory.join("logs"), 1, "bench1".to_owned());
        Self {
            runtime: Runtime::new().unwrap(),
            directory: directory.to_owned(),
            broker: Broker::start(environment, options).unwrap(),
            // As it comes: every commit is on disk.
            postgres: Server::start(&["max_connections=50"]),
            redis: Redis::start(),
            directories: Vec::new(),
            tenants: 0,
        }
    }

    pub(crate) fn close(self) {
        self.broker.close();
    }

    pub(crate) fn redis_connection(&self) -> redis::Connection {
        self.redis.connection()
    }

    /// The URL of a new database with the tables of the projection.
    pub(crate) async fn migrated(&self) -> String {
        let url = self.postgres.database().url;
        let sink = Postgres::new(&Database::of(&url)).unwrap();
        sink.migrate().await.unwrap();
        sink.prepare(&Continuum::new(History::Kept)).await.unwrap();
        url
    }

    /// A new and empty sink.
    pub(crate) fn sink(&mut self, kind: &str) -> Arc<dyn Sink> {
        match kind {
            "postgres" => {
                let url = self.runtime.block_on(self.migrated());
                Arc::new(Postgres::new(&Database::of(url)).unwrap())
            }
            "sled" => {
                let dir = tempfile::tempdir_in(&self.directory).unwrap();
                let sink = Sled::open(dir.path(), 32 << 20).unwrap();
                self.directories.push(dir);
                Arc::new(sink)
            }
            _ => {
                self.redis.ask::<()>(&["FLUSHALL"]);
                let table = Continuum::new(History::LeftOut).tables()[EPISODES]
                    .name
                    .clone();
                let mapping = Mapping::episodes(&table, Duration::from_hours(24));
                let mappings = HashMap::from([(NAME.to_owned(), vec![mapping])]);
                let address = Address::new(&self.redis.url());
                Arc::new(ValkeySink::new(valkey::Options { address, mappings }).unwrap())
            }
        }
    }

    /// A tenant that nothing was published for.
    pub(crate) fn tenant(&mut self) -> String {
        self.tenants += 1;
        format!("tenant-{}", self.tenants)
    }

    pub(crate) fn reality(&self, tenant: &str) -> Arc<Reality> {
        let tenancy = self.broker.tenancy(&Tenant::new(tenant).unwrap()).unwrap();
        tenancy.reality(&RealityName::main()).unwrap()
    }

    /// Projections into `sinks`; none at all if there are none.
    pub(crate) fn start(&self, history: History, sinks: Vec<Arc<dyn Sink>>) -> Arc<Projections> {
        let logs = BrokerLogs {
            broker: Arc::clone(&self.broker),
            payloads: Arc::new(NoSchemas),
        };
        let clock: Arc<dyn Clock> = Arc::new(WallClock);
        let kept = Kept {
            projection: Arc::new(Continuum::new(history)),
            sinks,
        };
        let handle = self.runtime.handle();
        Projections::start(
            vec![kept],
            Arc::new(logs),
            clock,
            Running::default(),
            handle,
        )
        .unwrap()
    }

    /// Publishes `count` events, each on disk, and says where the last one stands.
    pub(crate) fn publish(&self, tenant: &str, count: usize) -> Last {
        let encoded: Vec<_> = (0..count)
            .map(|number| events::encoded(tenant, number, count))
            .collect();
        self.append_all(tenant, &encoded)
    }

    fn append_all(&self, tenant: &str, encoded: &[Bytes]) -> Last {
        let reality = self.reality(tenant);
        let identity = identity(tenant);
        let acknowledged = Arc::new(Acknowledged::default());
        for (number, envelopes) in (0..).zip(encoded.chunks(GROUP)) {
            acknowledged.wait_for(number, UNDER_WAY);
            append(&reality, &identity, envelopes, &acknowledged, number);
        }
        acknowledged.wait_for(encoded.len().div_ceil(GROUP) as u64, 1)
    }

    /// Time in which a new sink takes in what was published before.
    pub(crate) fn catch_up(
        &self,
        tenant: &str,
        history: History,
        sink: Arc<dyn Sink>,
        last: Last,
    ) -> Duration {
        let started = Instant::now();
        let projections = self.start(history, vec![sink]);
        self.wait(&projections, tenant, last);
        let took = started.elapsed();
        projections.close();
        took
    }

    /// Time in which events are published and projected at once.
    pub(crate) fn live(&mut self, history: History, sink: Arc<dyn Sink>, count: usize) -> Duration {
        let tenant = self.tenant();
        let encoded: Vec<_> = (0..count)
            .map(|number| events::encoded(&tenant, number, count))
            .collect();
        // The first one opens the log and takes the place.
        let first = self.append_all(&tenant, &encoded[..1]);
        let projections = self.start(history, vec![sink]);
        self.wait(&projections, &tenant, first);
        let started = Instant::now();
        let last = self.append_all(&tenant, &encoded[1..]);
        self.wait(&projections, &tenant, last);
        let took = started.elapsed();
        projections.close();
        took
    }

    /// Time in which events are published without being projected.
    pub(crate) fn publishing_alone(&mut self, count: usize) -> Duration {
        let tenant = self.tenant();
        let encoded: Vec<_> = (0..count)
            .map(|number| events::encoded(&tenant, number, count))
            .collect();
        let started = Instant::now();
        self.append_all(&tenant, &encoded);
        started.elapsed()
    }

    pub(crate) fn wait(&self, projections: &Arc<Projections>, tenant: &str, last: Last) {
        let waited = projections.wait(tenant, NAME, None, last, PATIENCE);
        self.runtime.block_on(waited).unwrap();
    }
}

pub(crate) fn identity(tenant: &str) -> Identity {
    Identity {
        tenant: Tenant::new(tenant).unwrap(),
        subject: "bench".to_owned(),
        role: Role::Admin,
        publish: Topics::All,
        subscribe: Topics::All,
        expires_at: None,
        issued_at: None,
        token_id: None,
        ends_by: None,
    }
}

pub(crate) fn append(
    reality: &Reality,
    identity: &Identity,
    envelopes: &[Bytes],
    sink: &Arc<impl AppendSink + 'static>,
    token: u64,
) {
    let mut batch = Batch::new(reality, identity, envelopes.len());
    for encoded in envelopes {
        let view = EnvelopeView::parse(encoded).unwrap();
        let admitted = batch.admit(encoded, &view, None).unwrap();
        batch.take(admitted, &view, encoded.clone(), &[]);
    }
    let sink = Arc::clone(sink) as Arc<dyn AppendSink>;
    reality
        .append(batch, Durability::Synced, None, sink, token)
        .unwrap();
    reality.start();
}

/// Counts appends that are acknowledged.
#[derive(Debug, Default)]
struct Acknowledged {
    appends: Mutex<(u64, Option<Sequence>)>,
    changed: Condvar,
}

impl AppendSink for Acknowledged {
    fn appended(&self, _token: u64, outcome: Result<Appended, AppendError>) {
        let appended = outcome.expect("the log takes it");
        let mut appends = self.appends.lock().unwrap_or_else(PoisonError::into_inner);
        appends.0 += 1;
        appends.1 = appends.1.max(Some(appended.last));
        self.changed.notify_one();
    }
}

impl Acknowledged {
    /// Waits until less than `under_way` of `sent` appends are, and says where the last record of
    /// the others stands.
    fn wait_for(&self, sent: u64, under_way: u64) -> Sequence {
        let mut appends = self.appends.lock().unwrap_or_else(PoisonError::into_inner);
        while sent - appends.0 >= under_way {
            let waited = self.changed.wait(appends);
            appends = waited.unwrap_or_else(PoisonError::into_inner);
        }
        appends.1.unwrap_or(Sequence::FIRST)
    }
}
