//! The sink in PostgreSQL, against a real server.

use arqonbus::projections::postgres::{Options, Postgres};
use arqonbus::projections::sink::Sink as _;

use crate::episodes::Episodes;
use crate::servers::postgres::{Database, Server};

mod cut;
mod faults;
mod migrations;
mod preflight;
mod runbook;
mod tables;
mod tenants;
mod tls;

/// A sink with short limits, so that what hangs is found out soon.
fn sink(url: &str) -> Postgres {
    let options = Options {
        connect_timeout: std::time::Duration::from_secs(2),
        lock_timeout: std::time::Duration::from_millis(300),
        ..Options::of(url)
    };
    Postgres::new(&options).expect("a sink")
}

/// A database that is migrated and has the tables of [`Episodes`], on the server of all tests.
async fn ready() -> (&'static Server, Database, Postgres) {
    let server = Server::of_all();
    let database = server.database();
    let sink = prepared(&database.url).await;
    (server, database, sink)
}

async fn prepared(url: &str) -> Postgres {
    let sink = sink(url);
    sink.migrate().await.expect("migrated");
    sink.prepare(&Episodes::new()).await.expect("prepared");
    sink
}
