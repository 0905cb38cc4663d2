//! Databases that are empty, of the time before, of another version: what becomes of them.

use arqonbus::projections::postgres::migrate::MigrateError;
use arqonbus::projections::sink::{Query, Sink as _};
use arqonbus::projections::table::Cell;

use super::{prepared, sink};
use crate::episodes::{DEAD, EPISODES, Episodes, drive, event, expected, held, place, trouble};
use crate::servers::postgres::{Database, Server};

/// The tables as they were made before there were migrations, by their owner.
const BEFORE: &str = include_str!("../../fixtures/postgres/before_migrations.sql");

/// What the database looks like: columns, indexes, policies.
fn looks(server: &Server, database: &Database) -> String {
    server.sql(
        &database.name,
        "SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
           SELECT format('%s.%s %s %s %s', attrelid::regclass, attname,
                         format_type(atttypid, atttypmod), attnotnull, attcollation::regcollation)
             FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid
            WHERE relname LIKE 'arqonbus%' AND relkind = 'r' AND attnum > 0
            UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
            UNION ALL SELECT format('%s %s %s %s', tablename, policyname, permissive, roles)
              FROM pg_policies) AS all_of_it(line)",
    )
}

// PRJ-12: an empty database has everything afterwards, and a second time changes nothing.
#[tokio::test]
async fn an_empty_database_is_migrated_once() {
    let server = Server::of_all();
    let database = server.database();
    let sink = sink(&database.url);
    let before = sink.status().await.expect("a status");
    assert_eq!(before.pending().count(), before.migrations.len());
    assert_eq!(
        server.sql(
            &database.name,
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        ),
        "0"
    );

    let first = sink.migrate().await.expect("migrated");
    assert_eq!(first.pending().count(), 0);
    assert!(first.has_reader);
    let looks_first = looks(server, &database);
    let second = sink.migrate().await.expect("nothing to do");
    assert_eq!(first, second, "applied at the same time, once");
    assert_eq!(sink.status().await.expect("a status"), first);
    assert_eq!(looks(server, &database), looks_first);
}

// PRJ-12: a database of the time before keeps its rows, and goes on.
#[tokio::test]
async fn an_older_database_keeps_its_rows_and_goes_on() {
    let server = Server::of_all();
    let (database, empty) = (server.database(), server.database());
    let made = server.try_sql_as(&database.name, &database.owner, "first", BEFORE);
    made.expect("the tables of before");
    let sink = prepared(&database.url).await;
    prepared(&empty.url).await;
    let difference: Vec<_> = looks(server, &empty).lines().map(str::to_owned).collect();
    let there: Vec<_> = looks(server, &database)
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(there, difference, "as if it had been empty");

    let (episodes, place) = (Episodes::new(), place("acme"));
    let query = Query {
        limit: 9,
        ..Query::default()
    };
    let rows = sink
        .rows(&episodes, &place, EPISODES, &query)
        .await
        .expect("rows");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].0[4], Cell::from("ram://old"));
    assert_eq!(rows[0].0[13], Cell::Null);
    let dead = sink
        .rows(&episodes, &place, DEAD, &query)
        .await
        .expect("rows");
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].0[1], Cell::from("d1"));
    let tenants = "SELECT string_agg(tenant_id || ':' || message_id, ' ' ORDER BY message_id) FROM arqonbus_message_history";
    assert_eq!(server.sql(&database.name, tenants), ":m1 acme:m2");
    let all = "SELECT count(*) FROM arqonbus_continuum_projection_dlq";
    assert_eq!(server.sql(&database.name, all), "2", "one without a tenant");

    // The old row is older than one event and newer than the other.
    let entries = [
        event("acme", 1, "a", 1, 49),
        event("acme", 2, "old", 1, 99),
        event("acme", 3, "c", 1, 51),
    ];
    drive(&sink, &episodes, &place, &entries[..2], |_| {}).await;
    let rows = sink
        .rows(&episodes, &place, EPISODES, &query)
        .await
        .expect("rows");
    assert_eq!(rows[0].0[4], Cell::from("ram://old"));
    drive(&sink, &episodes, &place, &entries, |_| {}).await;
    let rows = sink
        .rows(&episodes, &place, EPISODES, &query)
        .await
        .expect("rows");
    assert_eq!(rows[0].0[4], Cell::from("ram://3"));
}

// PRJ-12: any number of nodes that start at once apply each step once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_migrate_at_once() {
    let server = Server::of_all();
    let database = server.database();
    let all = (0..4).map(|_| {
        let url = database.url.clone();
        tokio::spawn(async move { prepared(&url).await.status().await })
    });
    let all: Vec<_> = all.collect();
    for one in all {
        let status = one.await.expect("it ends").expect("migrated");
        assert_eq!(status.pending().count(), 0);
    }
    let sink = sink(&database.url);
    let (episodes, place) = (Episodes::new(), place("acme"));
    let entries = trouble("acme", 50);
    drive(&sink, &episodes, &place, &entries, |_| {}).await;
    assert_eq!(
        held(&sink, &episodes, &place).await,
        expected(&episodes, &entries)
    );
}

// PRJ-12: what a newer version or another build has migrated is left alone.
#[tokio::test]
async fn a_newer_or_changed_database_is_refused() {
    let server = Server::of_all();
    for (change, is_newer) in [
        (
            "INSERT INTO arqonbus_schema_migrations VALUES (99, 'later', 'x')",
            true,
        ),
        (
            "UPDATE arqonbus_schema_migrations SET checksum = 'x' WHERE version = 2",
            false,
        ),
    ] {
        let database = server.database();
        let sink = sink(&database.url);
        sink.migrate().await.expect("migrated");
        server.sql(&database.name, change);
        let before = looks(server, &database);
        for refused in [sink.status().await, sink.migrate().await] {
            match refused {
                Err(MigrateError::Newer { found: 99, .. }) if is_newer => {}
                Err(MigrateError::Changed { version: 2, .. }) if !is_newer => {}
                other => panic!("{change}: {other:?}"),
            }
        }
        sink.prepare(&Episodes::new())
            .await
            .expect_err("not prepared either");
        assert_eq!(looks(server, &database), before);
    }
}

// PRJ-10 PRJ-12: where the role that migrates may make no roles and there is none that reads, it is
// said; once there is one, the next migration lets it read.
#[tokio::test]
async fn a_reader_can_come_later() {
    let server = Server::start(&[]);
    let database = server.database();
    let sink = prepared(&database.url).await;
    assert!(!sink.status().await.expect("a status").has_reader);
    let (episodes, place) = (Episodes::new(), place("acme"));
    drive(&sink, &episodes, &place, &trouble("acme", 20), |_| {}).await;
    let name = &database.name;
    server.sql(
        name,
        "CREATE ROLE arqonbus_reader NOLOGIN; \
         CREATE ROLE late LOGIN PASSWORD 'second' IN ROLE arqonbus_reader; \
         INSERT INTO arqonbus_reader_tenant VALUES ('late', 'acme')",
    );
    let ask = "SET app.tenants = 'acme,other'; SELECT count(*) > 0 FROM arqonbus_continuum_projection, of_all_kinds AS k WHERE k.tenant_id <> 'other' OR true";
    server
        .try_sql_as(name, "late", "second", ask)
        .expect_err("not allowed yet");
    assert!(sink.migrate().await.expect("migrated").has_reader);
    server
        .try_sql_as(name, "late", "second", ask)
        .expect("allowed");
    let policies = "SELECT count(*) FROM pg_policies WHERE policyname = 'arqonbus_bound'";
    assert_eq!(server.sql(name, policies), "6", "declared tables too");
}
