//! A node with a PostgreSQL and a Redis of its own, all of which can be taken away and brought back,
//! and what their tables hold.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use arqonbus::client::{Client, ConnectOptions, Reconnect, Start, SubscribeOptions};
use arqonbus::projections::continuum::{Continuum, History, NAME};
use arqonbus::projections::projection::Projection as _;
use arqonbus::projections::sink::{Copy, Place, Query, Sink as _};
use arqonbus::projections::sled::Sled;
use arqonbus::projections::table::{Cell, Kind};
use arqonbus::proto::claims::Role;
use serde_json::Value;

use crate::servers::postgres::{Database, Server};
use crate::servers::redis::{Redis, free_port};
use crate::support::{Node, claims, signed};

pub(super) const TENANTS: [&str; 2] = ["dev", "acme"];

pub(super) struct Stage {
    pub(super) postgres: Server,
    pub(super) database: Database,
    pub(super) redis: Redis,
    node: Option<Node>,
    edge: SocketAddr,
    dir: tempfile::TempDir,
}

/// A record of a log, as a client gets it.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) sequence: u64,
    pub(super) appended_at: u64,
    pub(super) topic: String,
    /// Its header `item`.
    pub(super) item: Option<usize>,
    pub(super) envelope: Vec<u8>,
    pub(super) data: Vec<u8>,
}

/// The rows of the three tables, without the tenant.
pub(super) type Tables = [Vec<Vec<Value>>; 3];

impl Stage {
    pub(super) fn open() -> Self {
        let postgres = Server::start(&["max_connections=60"]);
        postgres.sql("postgres", "CREATE ROLE arqonbus_reader NOLOGIN");
        let mut stage = Self {
            database: postgres.database(),
            postgres,
            redis: Redis::start(),
            node: None,
            edge: SocketAddr::from(([127, 0, 0, 1], free_port())),
            dir: tempfile::tempdir().expect("a directory"),
        };
        stage.start_node();
        stage
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(super) fn start_node(&mut self) {
        let settings = [
            ("ARQONBUS_POSTGRES_URL", self.database.url.as_str()),
            ("ARQONBUS_VALKEY_URL", &self.redis.url()),
            ("ARQONBUS_VALKEY_TTL_S", "86400"),
            ("ARQONBUS_POSTGRES_LOCK_TIMEOUT_MS", "300"),
            ("ARQONBUS_PROJECTIONS_RETRY_MAX_MS", "300"),
        ];
        let node = Node::dev_at_with(&self.data(), self.edge, &settings);
        self.node = Some(node);
    }

    pub(super) fn kill_node(&mut self) {
        let node = self.node.take().expect("a node that runs");
        node.signal("KILL");
        drop(node.ended());
    }

    /// Stops it as its keepers do, and gives what it said.
    pub(super) fn stop_node(&mut self) -> String {
        let node = self.node.take().expect("a node that runs");
        node.signal("TERM");
        let (status, log) = node.ended();
        assert!(status.success(), "{log}");
        log
    }

    /// Starts what was killed.
    pub(super) fn start_redis(&mut self) {
        self.redis.restart();
    }

    pub(super) fn token(&self, tenant: &str) -> String {
        let secret = std::fs::read(self.data().join("dev-secret")).expect("dev-secret");
        signed(&claims(tenant, Role::Admin), secret.trim_ascii_end())
    }

    pub(super) fn url(&self) -> String {
        format!("ws://{}/v1/ws", self.edge)
    }

    /// What superusers see.
    pub(super) fn sql(&self, statement: &str) -> String {
        self.postgres.sql(&self.database.name, statement)
    }

    /// All that a log holds.
    pub(super) async fn log_of(&self, tenant: &str) -> Vec<Stored> {
        let client = connect(&self.url(), &self.token(tenant)).await;
        let client = client.expect("a connection");
        let mut options = SubscribeOptions::new(">");
        options.start = Start::Earliest;
        options.stop_at_end = true;
        let mut subscription = client.subscribe(options).await.expect("a subscription");
        let mut stored = Vec::new();
        while let Some(delivery) = subscription.next().await.expect("a delivery") {
            for record in delivery.views() {
                let record = record.expect("a record");
                let item = record.envelope.headers.get("item");
                stored.push(Stored {
                    sequence: record.sequence,
                    appended_at: record.appended_at,
                    topic: record.topic.to_owned(),
                    item: item.map(|item| item.parse().expect("a number")),
                    envelope: record.envelope.encoded.to_vec(),
                    data: record.envelope.payload.data().to_vec(),
                });
            }
        }
        client.close().await;
        stored
    }

    /// Waits until both servers have passed everything that the logs hold, and gives the logs.
    pub(super) async fn caught_up(
        &self,
        patience: Duration,
    ) -> BTreeMap<&'static str, Vec<Stored>> {
        let until = Instant::now() + patience;
        let mut ends = BTreeMap::new();
        loop {
            let mut logs = BTreeMap::new();
            for tenant in TENANTS {
                logs.insert(tenant, self.log_of(tenant).await);
            }
            // A letter that is written while others are projected is part of the log too.
            let found: BTreeMap<_, u64> = logs
                .iter()
                .map(|(tenant, log)| (*tenant, log.last().map_or(0, |last| last.sequence)))
                .collect();
            if ends == found {
                return logs;
            }
            for (tenant, end) in found.iter().filter(|(_, end)| **end > 0) {
                while !self.has_passed(tenant, *end) {
                    assert!(
                        Instant::now() < until,
                        "{tenant} is not at {end}: {}",
                        self.places()
                    );
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            ends = found;
        }
    }

    fn has_passed(&self, tenant: &str, sequence: u64) -> bool {
        // By the name of the log, which begins with that of the node.
        let place = format!("tenant:{tenant}:episode:_:cache:cursor:{NAME}:*");
        let places: Vec<String> = self.redis.ask(&["KEYS", &place]);
        let place = places.first();
        let next = place.and_then(|place| self.redis.ask::<Option<u64>>(&["HGET", place, "next"]));
        let cursor = format!(
            "SELECT next_sequence FROM arqonbus_projection_cursor
              WHERE projection = '{NAME}' AND tenant_id = '{tenant}' AND copy = 'live'"
        );
        // There may be no tables yet.
        let cursor = self.postgres.try_sql(&self.database.name, &cursor);
        let stored = cursor.map_or(0, |next| next.parse().unwrap_or(0));
        next.is_some_and(|next| next > sequence) && stored > sequence
    }

    fn places(&self) -> String {
        let places = "SELECT tenant_id, next_sequence, updated_at FROM arqonbus_projection_cursor";
        let (Ok(said) | Err(said)) = self.postgres.try_sql(&self.database.name, places);
        said
    }

    /// What PostgreSQL has of a tenant.
    pub(super) fn in_postgres(&self, tenant: &str) -> Tables {
        let tables = Continuum::new(History::Kept).tables().to_vec();
        let mut found = tables.iter().map(|table| {
            let columns: Vec<_> = table.columns[1..]
                .iter()
                .map(|column| match column.kind {
                    Kind::Timestamp => {
                        format!("(extract(epoch from {}) * 1000000)::bigint", column.name)
                    }
                    _ => column.name.clone(),
                })
                .collect();
            let rows = self.sql(&format!(
                "SELECT json_build_array({}) FROM {} WHERE tenant_id = '{tenant}'",
                columns.join(", "),
                table.name
            ));
            let rows = rows
                .lines()
                .map(|row| serde_json::from_str(row).expect("an array"));
            rows.collect()
        });
        std::array::from_fn(|_| found.next().expect("three tables"))
    }

    /// What the embedded tables have of a tenant, and the first record that they have not passed. The
    /// node must not run.
    pub(super) async fn in_sled(&self, tenant: &str) -> (u64, Tables) {
        assert!(self.node.is_none(), "the node has them open");
        let sink = Sled::open(&self.data().join("_projections"), 32 << 20).expect("the tables");
        let projection = Continuum::new(History::Kept);
        let place = Place {
            projection: NAME.to_owned(),
            tenant: tenant.to_owned(),
            reality: "main".to_owned(),
            log: "main".to_owned(),
            copy: Copy::Live,
        };
        let position = sink.position(&place).await.expect("a position");
        let everything = Query {
            limit: usize::MAX,
            ..Query::default()
        };
        let mut tables = Tables::default();
        for (at, found) in tables.iter_mut().enumerate() {
            let rows = sink
                .rows(&projection, &place, at, &everything)
                .await
                .expect("rows");
            *found = rows
                .into_iter()
                .map(|row| row.0.iter().skip(1).map(value).collect())
                .collect();
        }
        (position.map_or(0, |position| position.next.get()), tables)
    }
}

fn value(cell: &Cell) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Text(text) => text.as_str().into(),
        Cell::Integer(number) => (*number).into(),
        Cell::Float(number) => (*number).into(),
        Cell::Boolean(flag) => (*flag).into(),
        Cell::Timestamp(time) => time.0.into(),
        Cell::Json(text) => serde_json::from_str(text).expect("JSON"),
        Cell::Bytes(bytes) => format!("{bytes:?}").into(),
    }
}

pub(super) async fn connect(url: &str, token: &str) -> Result<Client, arqonbus::client::Error> {
    let mut options = ConnectOptions::new(url, token);
    options.reconnect = Reconnect::Never;
    Client::connect(options).await
}
