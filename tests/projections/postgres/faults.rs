//! Servers that fail in all the ways that servers do. After each of them the tables are what they
//! would be without, and nobody had to do anything.

use std::fs::File;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arqonbus::projections::postgres::{Options, Postgres};
use arqonbus::projections::projection::Projection as _;
use arqonbus::projections::sink::{Sink as _, SinkError};

use super::{prepared, ready, sink};
use crate::episodes::{Episodes, batch, drive, expected, held, place, trouble};
use crate::servers::postgres::{Database, Server};

fn said(errors: &[SinkError], wanted: &str) -> bool {
    errors
        .iter()
        .any(|error| error.to_string().contains(wanted))
}

/// Ends the connections of the sink that are in a transaction.
fn terminate(server: &Server, database: &Database) -> usize {
    let ended = server.sql(
        &database.name,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE datname = current_database() AND application_name = 'arqonbus'
            AND state <> 'idle'",
    );
    ended.lines().count()
}

// PRJ-13: connections that are ended in mid-transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_are_terminated() {
    let (server, database, sink) = ready().await;
    let (episodes, place) = (Episodes::new(), place("acme"));
    let entries = trouble("acme", 1500);
    let done = Arc::new(AtomicBool::new(false));
    let terminator = std::thread::spawn({
        let (done, database) = (Arc::clone(&done), database.clone());
        move || {
            let mut ended = 0;
            while !done.load(Ordering::Relaxed) && ended < 12 {
                ended += terminate(server, &database);
                std::thread::sleep(Duration::from_millis(20));
            }
            ended
        }
    });
    // Slow enough that there is always a transaction to be found.
    server.sql(
        &database.name,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN PERFORM pg_sleep(0.01); RETURN NULL; END';
         CREATE TRIGGER slow AFTER INSERT ON arqonbus_continuum_projection_events
           FOR EACH STATEMENT EXECUTE FUNCTION slow()",
    );
    let errors = drive(&sink, &episodes, &place, &entries, |_| {}).await;
    done.store(true, Ordering::Relaxed);
    let ended = terminator.join().expect("it ends");
    assert!(
        ended > 3 && errors.len() > 3,
        "{ended} ended, {} noticed",
        errors.len()
    );
    assert_eq!(
        held(&sink, &episodes, &place).await,
        expected(&episodes, &entries)
    );
}

/// Ends the server again and again while it is written to.
async fn ended(by: fn(&Server)) {
    let server = Arc::new(Server::start(&[]));
    let database = server.database();
    let sink = prepared(&database.url).await;
    let (episodes, place) = (Episodes::new(), place("acme"));
    let entries = trouble("acme", 1200);
    let done = Arc::new(AtomicBool::new(false));
    let ender = std::thread::spawn({
        let (server, done) = (Arc::clone(&server), Arc::clone(&done));
        move || {
            let mut times = 0;
            while !done.load(Ordering::Relaxed) && times < 4 {
                std::thread::sleep(Duration::from_millis(40 + 30 * times));
                by(&server);
                server.start_again(&[]);
                times += 1;
            }
            times
        }
    });
    let mut between = 0;
    let errors = drive(&sink, &episodes, &place, &entries, |_| {
        between += 1;
        std::thread::sleep(Duration::from_millis(5));
    })
    .await;
    done.store(true, Ordering::Relaxed);
    let times = ender.join().expect("it ends");
    assert!(
        times >= 2 && !errors.is_empty(),
        "{times} times, {errors:?}"
    );
    assert_eq!(
        held(&sink, &episodes, &place).await,
        expected(&episodes, &entries)
    );
}

// PRJ-13: a server that is restarted under the projection, as a failover does it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_restarted() {
    ended(Server::stop).await;
}

// PRJ-01 PRJ-13: a server that is killed, and recovers from its own log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_killed() {
    ended(Server::kill).await;
}

// PRJ-13: somebody locks a table; the projection waits for the lock no longer than it may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_locked() {
    let (server, database, sink) = ready().await;
    let (episodes, place) = (Episodes::new(), place("acme"));
    let entries = trouble("acme", 100);
    let name = database.name.clone();
    let foreign = std::thread::spawn(move || {
        server.sql(
            &name,
            "BEGIN; LOCK TABLE arqonbus_continuum_projection; SELECT pg_sleep(1.2); COMMIT",
        );
    });
    wait_for(
        server,
        &database,
        "query LIKE '%pg_sleep(1.2)%' AND wait_event = 'PgSleep'",
    )
    .await;
    let errors = drive(&sink, &episodes, &place, &entries, |_| {}).await;
    foreign.join().expect("it ends");
    assert!(said(&errors, "55P03"), "{errors:?}");
    assert_eq!(
        held(&sink, &episodes, &place).await,
        expected(&episodes, &entries)
    );
}

async fn wait_for(server: &Server, database: &Database, condition: &str) {
    let until = Instant::now() + Duration::from_secs(20);
    let ask = format!(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = '{}' AND pid <> pg_backend_pid() AND {condition}",
        database.name
    );
    while server.sql("postgres", &ask) != "t" {
        assert!(Instant::now() < until, "never: {condition}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

// PRJ-13: a deadlock with a foreign transaction, which the server ends by failing ours; and a
// serialization failure, which it raises where everything is serializable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_collide() {
    let (server, database, _) = ready().await;
    // Who waits longest without looking is not the one that is failed.
    server.sql(
        "postgres",
        "ALTER ROLE postgres SET deadlock_timeout = '10s'",
    );
    let options = Options {
        lock_timeout: Duration::from_secs(20),
        ..Options::of(&database.url)
    };
    let sink = Postgres::new(&options).expect("a sink");
    let (episodes, place) = (Episodes::new(), place("acme"));
    let entries = trouble("acme", 60);
    let at = sink.take(&place).await.expect("taken");
    let at = batch(&sink, &episodes, &place, &entries[..30], at)
        .await
        .expect("done");

    // It holds all rows of a table, and then wants the position, which ours holds by then.
    let name = database.name.clone();
    let foreign = std::thread::spawn(move || {
        server.try_sql(
            &name,
            "BEGIN; LOCK TABLE arqonbus_continuum_projection_events IN SHARE MODE; SELECT pg_sleep(0.5); \
             UPDATE arqonbus_projection_cursor SET updated_at = now(); COMMIT",
        )
    });
    wait_for(server, &database, "wait_event = 'PgSleep'").await;
    let collided = batch(&sink, &episodes, &place, &entries[30..], at).await;
    let foreign = foreign.join().expect("it ends");
    match (&collided, &foreign) {
        (Err(error @ SinkError::Unavailable { .. }), Ok(_)) => {
            assert!(error.to_string().contains("40P01"), "{error}");
        }
        // The server chose the other one.
        (Ok(_), Err(said)) => assert!(said.contains("deadlock"), "{said}"),
        other => panic!("no deadlock: {other:?}"),
    }

    server.sql(
        "postgres",
        &format!(
            "ALTER ROLE {} SET default_transaction_isolation = serializable",
            database.owner
        ),
    );
    let sink = super::sink(&database.url);
    let name = database.name.clone();
    let foreign = std::thread::spawn(move || {
        for _ in 0..40 {
            server.sql(
                &name,
                "UPDATE arqonbus_projection_cursor SET updated_at = now()",
            );
        }
    });
    let mut errors = Vec::new();
    for _ in 0..20 {
        errors.extend(drive(&sink, &episodes, &place, &entries, |_| {}).await);
    }
    foreign.join().expect("it ends");
    assert!(said(&errors, "40001"), "{errors:?}");
    assert_eq!(
        held(&sink, &episodes, &place).await,
        expected(&episodes, &entries)
    );
}

// PRJ-13: all connections of the server are taken by others for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_has_no_connection_left() {
    let (server, database, _) = ready().await;
    server.sql(
        "postgres",
        &format!("ALTER ROLE {} CONNECTION LIMIT 1", database.owner),
    );
    let holder = sink(&database.url);
    let (episodes, place) = (Episodes::new(), place("acme"));
    holder
        .position(&place)
        .await
        .expect("it holds the only connection");
    let entries = trouble("acme", 60);
    let sink = sink(&database.url);
    let release = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(holder);
    });
    let errors = drive(&sink, &episodes, &place, &entries, |_| {}).await;
    release.join().expect("it ends");
    assert!(said(&errors, "53300"), "{errors:?}");
    assert_eq!(
        held(&sink, &episodes, &place).await,
        expected(&episodes, &entries)
    );
}

// PRJ-13: the password is changed under the projection: an outage, until it is the old one again or
// the node is told the new one. It is in no error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_is_changed() {
    let (server, database, sink) = ready().await;
    let (episodes, place) = (Episodes::new(), place("acme"));
    let entries = trouble("acme", 200);
    let owner = database.owner.clone();
    let mut rotated = None;
    let errors = drive(&sink, &episodes, &place, &entries, |number| {
        if number == 3 {
            server.sql(
                "postgres",
                &format!("ALTER ROLE {owner} PASSWORD 'another'"),
            );
            terminate_all(server, &database);
            let owner = owner.clone();
            rotated = Some(std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(300));
                server.sql("postgres", &format!("ALTER ROLE {owner} PASSWORD 'first'"));
            }));
        }
    })
    .await;
    rotated.expect("rotated").join().expect("it ends");
    assert!(said(&errors, "28P01"), "{errors:?}");
    assert!(!said(&errors, "first") && !format!("{sink:?}").contains("first"));
    assert_eq!(
        held(&sink, &episodes, &place).await,
        expected(&episodes, &entries)
    );
}

fn terminate_all(server: &Server, database: &Database) {
    server.sql(
        &database.name,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
          WHERE datname = current_database() AND application_name = 'arqonbus'",
    );
}

// PRJ-13: the server takes no writes for a while, as a standby before it is promoted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_read_only() {
    let (server, database, sink) = ready().await;
    let (episodes, place) = (Episodes::new(), place("acme"));
    let entries = trouble("acme", 200);
    let name = database.name.clone();
    let read_only = move |on: &str| {
        server.sql(
            "postgres",
            &format!("ALTER DATABASE {name} SET default_transaction_read_only = {on}"),
        );
    };
    let mut promoted = None;
    let errors = drive(&sink, &episodes, &place, &entries, |number| {
        if number == 3 {
            read_only("on");
            terminate_all(server, &database);
            let read_only = read_only.clone();
            promoted = Some(std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(300));
                read_only("off");
            }));
        }
    })
    .await;
    promoted.expect("promoted").join().expect("it ends");
    assert!(said(&errors, "25006"), "{errors:?}");
    assert_eq!(
        held(&sink, &episodes, &place).await,
        expected(&episodes, &entries)
    );
}

// PRJ-13: a table is altered under the projection; the plans that it has are made anew.
#[tokio::test]
async fn a_table_is_altered_under_it() {
    let (server, database, sink) = ready().await;
    let (episodes, place) = (Episodes::new(), place("acme"));
    let entries = trouble("acme", 400);
    drive(&sink, &episodes, &place, &entries, |number| {
        let change = match number {
            3 => "ALTER TABLE arqonbus_continuum_projection ADD COLUMN note text",
            6 => "DROP INDEX idx_arqonbus_cont_proj_updated_at",
            9 => {
                "ALTER TABLE arqonbus_continuum_projection ALTER COLUMN last_event_id TYPE varchar"
            }
            _ => return,
        };
        server.sql(&database.name, change);
    })
    .await;
    assert_eq!(
        held(&sink, &episodes, &place).await,
        expected(&episodes, &entries)
    );
}

// PRJ-04 PRJ-13: a table that is gone is nothing to wait for; somebody has to look.
#[tokio::test]
async fn a_table_is_gone() {
    let (server, database, sink) = ready().await;
    let (episodes, place) = (Episodes::new(), place("acme"));
    let at = sink.take(&place).await.expect("taken");
    server.sql(
        &database.name,
        "DROP TABLE arqonbus_continuum_projection_events",
    );
    let refused = batch(&sink, &episodes, &place, &trouble("acme", 9), at).await;
    let Err(SinkError::Unfit { reason, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert!(
        reason.contains("arqonbus_continuum_projection_events"),
        "{reason}"
    );
}

/// A server that says nothing any more, and a connection to it that stays open.
struct Stopped(u32);

impl Stopped {
    fn signal(&self, name: &str) {
        let mut kill: Child = Command::new("kill")
            .args([format!("-{name}"), self.0.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .expect("kill runs");
        assert!(kill.wait().expect("it ends").success());
    }
}

// PRJ-13: a server that hangs is given up in time, and used again when it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_hangs() {
    let (server, database, _) = ready().await;
    let options = Options {
        connections_max: 1,
        statement_timeout: Duration::from_millis(200),
        connect_timeout: Duration::from_secs(2),
        ..Options::of(&database.url)
    };
    let sink = Postgres::new(&options).expect("a sink");
    let (episodes, place) = (Episodes::new(), place("acme"));
    let entries = trouble("acme", 100);
    let at = sink.take(&place).await.expect("taken");
    let backend = server.sql(
        &database.name,
        "SELECT max(pid) FROM pg_stat_activity WHERE datname = current_database()
           AND application_name = 'arqonbus' AND query LIKE '%COMMIT%'",
    );
    let stopped = Stopped(backend.parse().expect("a pid"));
    stopped.signal("STOP");
    let started = Instant::now();
    let hung = batch(&sink, &episodes, &place, &entries[..25], at).await;
    stopped.signal("CONT");
    assert!(
        matches!(hung, Err(SinkError::Unavailable { .. })),
        "{hung:?}"
    );
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    drive(&sink, &episodes, &place, &entries, |_| {}).await;
    assert_eq!(
        held(&sink, &episodes, &place).await,
        expected(&episodes, &entries)
    );
}

// PRJ-13: a full disk is an outage; when there is room again, everything goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_is_full() {
    let server = Server::start(&[]);
    // Mounting one takes root, as in CI.
    let Some(disk) = server.small_disk() else {
        return;
    };
    let database = server.database();
    let sink = prepared(&database.url).await;
    let (episodes, place) = (Episodes::new(), place("acme"));
    server.sql(
        "postgres",
        &format!("CREATE TABLESPACE small LOCATION '{}'", disk.display()),
    );
    for table in episodes.tables() {
        let name = &table.name;
        server.sql(
            &database.name,
            &format!("ALTER TABLE {name} SET TABLESPACE small"),
        );
    }
    let entries = trouble("acme", 300);
    let mut freed = None;
    let errors = drive(&sink, &episodes, &place, &entries, |number| {
        if number == 3 {
            let ballast = disk.join("ballast");
            let mut file = File::create(&ballast).expect("ballast");
            while file.write_all(&[1; 4096]).is_ok() {}
            freed = Some(std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(500));
                std::fs::remove_file(ballast).expect("room again");
            }));
        }
    })
    .await;
    freed.expect("filled").join().expect("it ends");
    assert!(said(&errors, "53100"), "{errors:?}");
    assert_eq!(
        held(&sink, &episodes, &place).await,
        expected(&episodes, &entries)
    );
}
