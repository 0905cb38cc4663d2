//! A server that fails: the projection waits, loses nothing, and goes on without a hand.

use std::time::{Duration, Instant};

use arqonbus::projections::sink::{Position, Sink as _, SinkError};

use super::follower::{Event, Follower, cached, check_keys, events, newest, sink_at};
use crate::servers::redis::{Redis, free_port};

/// Asserts that a batch waits with `word` in what is said, that nothing of it is there, and that
/// after `mend` it is taken as it is.
async fn waits(server: &Redis, follower: &Follower, at: Position, word: &str, mend: impl FnOnce()) {
    let all = events(60);
    let before = cached(server);
    let begin = Instant::now();
    let error = follower.step(at, &all[20..40]).await.expect_err("it fails");
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    assert!(matches!(error, SinkError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains(word), "{error}");
    assert_eq!(cached(server), before);
    mend();
    let again = follower.step(at, &all[20..40]).await;
    let (at, _) = again.unwrap_or_else(|error| panic!("after {word}: {error}"));
    assert_eq!(cached(server), newest(&all[..40]));
    follower.step(at, &all[40..]).await.expect("taken");
    assert_eq!(cached(server), newest(&all));
    check_keys(server);
}

/// A server with one batch in it, and its follower.
async fn begun(server: &Redis, url: &str) -> (Follower, Position) {
    let follower = Follower::new(sink_at(url));
    let from = follower.take().await;
    let (at, _) = follower.step(from, &events(20)).await.expect("taken");
    assert_eq!(cached(server), newest(&events(20)));
    (follower, at)
}

// PRJ-13: memory full.
#[tokio::test]
async fn a_full_server_is_waited_for() {
    let server = Redis::start();
    let (follower, at) = begun(&server, &server.url()).await;
    server.set("maxmemory-policy", "noeviction");
    server.set("maxmemory", "1");
    waits(&server, &follower, at, "OOM", || {
        server.set("maxmemory", "0")
    })
    .await;
}

// PRJ-13: a server that was made a replica, and one that does not answer as one.
#[tokio::test]
async fn a_replica_is_waited_for() {
    let server = Redis::start();
    let (follower, at) = begun(&server, &server.url()).await;
    let nobody = free_port();
    server.follow(nobody);
    waits(&server, &follower, at, "READONLY", || server.lead()).await;

    server.ask::<()>(&["FLUSHALL"]);
    let (follower, at) = begun(&server, &server.url()).await;
    server.set("replica-serve-stale-data", "no");
    server.follow(nobody);
    let error = follower.step(at, &events(1)).await.expect_err("it fails");
    assert!(matches!(error, SinkError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("MASTERDOWN"), "{error}");
    server.lead();
    follower.step(at, &events(1)).await.expect("taken");
}

// PRJ-13: a failover to a copy that knows nothing yet: all is there again afterwards.
#[tokio::test]
async fn a_failover_to_an_empty_copy_is_made_good() {
    let empty = Redis::start();
    let server = Redis::start();
    let (mut follower, _) = begun(&server, &server.url()).await;
    server.follow(empty.port());
    let begin = Instant::now();
    while !server.keys().is_empty() {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "it does not follow"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.lead();
    follower.follow(&events(200)).await;
    assert_eq!(cached(&server), newest(&events(200)));
    check_keys(&server);
}

// PRJ-13: disk full: a server that cannot save takes no writes.
#[tokio::test]
async fn a_server_that_cannot_save_is_waited_for() {
    let server = Redis::start();
    let (follower, at) = begun(&server, &server.url()).await;
    // A directory where its file should be fails like a full disk.
    std::fs::create_dir(server.directory().join("dump.rdb")).expect("a directory");
    server.set("save", "3600 1");
    server.ask::<String>(&["BGSAVE"]);
    let begin = Instant::now();
    loop {
        assert!(begin.elapsed() < Duration::from_secs(20), "it saves");
        let about: String = server.ask(&["INFO", "persistence"]);
        if about.contains("rdb_last_bgsave_status:err") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    waits(&server, &follower, at, "MISCONF", || server.set("save", "")).await;
}

// PRJ-13: scripts are forgotten.
#[tokio::test]
async fn forgotten_scripts_are_sent_again() {
    let server = Redis::start();
    let (follower, mut at) = begun(&server, &server.url()).await;
    let all = events(80);
    for part in all[20..].chunks(20) {
        server.ask::<()>(&["SCRIPT", "FLUSH"]);
        (at, _) = follower.step(at, part).await.expect("taken");
    }
    server.ask::<()>(&["SCRIPT", "FLUSH"]);
    assert_eq!(follower.take().await.next, at.next);
    assert_eq!(cached(&server), newest(&all));
}

// PRJ-13: a slow server: the answer is given up in bounded time, and what it does later is not
// done twice.
#[tokio::test]
async fn a_slow_server_is_waited_for() {
    let server = Redis::start();
    let (follower, at) = begun(&server, &server.url()).await;
    let all = events(60);
    server.ask::<()>(&["CLIENT", "PAUSE", "1200", "WRITE"]);
    let begin = Instant::now();
    let mut away = 0;
    let next = loop {
        let asked = Instant::now();
        match follower.step(at, &all[20..40]).await {
            Ok((next, _)) => break next,
            Err(SinkError::Unavailable { .. }) => away += 1,
            Err(other) => panic!("{other}"),
        }
        assert!(
            asked.elapsed() < Duration::from_secs(2),
            "{:?}",
            asked.elapsed()
        );
        assert!(begin.elapsed() < Duration::from_secs(20), "it stays away");
    };
    assert!(away > 0, "it was not slow");
    follower.step(next, &all[40..]).await.expect("taken");
    assert_eq!(cached(&server), newest(&all));
    let position = follower.sink.position(&follower.place).await;
    assert_eq!(
        position.expect("it answers").expect("a place").next.get(),
        61
    );
}

// PRJ-13: a script of somebody else keeps the server busy.
#[tokio::test]
async fn a_busy_server_is_waited_for() {
    let server = Redis::start();
    let (follower, at) = begun(&server, &server.url()).await;
    server.set("busy-reply-threshold", "50");
    let url = server.url();
    let busy = std::thread::spawn(move || {
        let client = redis::Client::open(url).expect("a client");
        let mut connection = client.get_connection().expect("a connection");
        let mut endless = redis::cmd("EVAL");
        endless.arg("while true do end").arg(0);
        // Killed below.
        endless
            .query::<()>(&mut connection)
            .expect_err("it never ends")
    });
    let begin = Instant::now();
    let error = loop {
        assert!(begin.elapsed() < Duration::from_secs(20), "it is not busy");
        match follower.step(at, &events(60)[20..40]).await {
            Err(error) => break error,
            // It was there before the endless one.
            Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    assert!(matches!(error, SinkError::Unavailable { .. }), "{error}");
    let client = redis::Client::open(server.url()).expect("a client");
    let mut connection = client.get_connection().expect("a connection");
    while redis::cmd("SCRIPT")
        .arg("KILL")
        .exec(&mut connection)
        .is_err()
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    busy.join().expect("it was killed");
    follower.step(at, &events(60)[20..40]).await.expect("taken");
    assert_eq!(cached(&server), newest(&events(40)));
}

// PRJ-13: a password that is not right any more: known as such, never shown, and taken as soon as
// it is right again.
#[tokio::test]
async fn a_wrong_password_is_waited_for() {
    let server = Redis::start();
    server.set("requirepass", "hunter2");
    let url = format!("redis://:hunter2@127.0.0.1:{}", server.port());
    let follower = Follower::new(sink_at(&url));
    let from = follower.take().await;
    let auth = |password: &str, then: &[&str]| {
        let client =
            redis::Client::open(format!("redis://:{password}@127.0.0.1:{}", server.port()));
        let connection = client.expect("a client").get_connection();
        let mut connection = connection.expect("the password is right");
        let mut command = redis::cmd(then[0]);
        command.arg(&then[1..]).exec(&mut connection).expect("done");
    };
    auth("hunter2", &["CONFIG", "SET", "requirepass", "other1"]);
    auth("other1", &["CLIENT", "KILL", "TYPE", "normal"]);
    for _ in 0..3 {
        let error = follower
            .step(from, &events(20))
            .await
            .expect_err("it is kept out");
        assert!(matches!(error, SinkError::Unavailable { .. }), "{error}");
        let text = format!("{error} {error:?}");
        assert!(
            !text.contains("hunter2") && !text.contains("other1"),
            "{text}"
        );
    }
    auth("other1", &["CONFIG", "SET", "requirepass", "hunter2"]);
    follower.step(from, &events(20)).await.expect("taken");
    auth("hunter2", &["CONFIG", "SET", "requirepass", ""]);
    assert_eq!(cached(&server), newest(&events(20)));
}

// PRJ-13: connections are cut while batches are on their way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_lose_nothing() {
    let server = Redis::start();
    let mut follower = Follower::new(sink_at(&server.url()));
    let all = events(4000);
    let follow = tokio::spawn({
        let all = all.clone();
        async move {
            let position = follower.follow(&all).await;
            (follower, position)
        }
    });
    let mut cuts = 0;
    while !follow.is_finished() {
        server.cut();
        cuts += 1;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let (follower, position) = follow.await.expect("it ends");
    assert!(follower.away > 0, "none of {cuts} cuts was felt");
    assert_eq!(follower.retaken, 0, "{}", follower.said);
    assert_eq!(position.next.get(), 4001);
    assert_eq!(cached(&server), newest(&all));
}

// PRJ-01, PRJ-13: killed in the midst of batches, and back with nothing: the place is gone with the
// rows, and all of them come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_is_filled_again() {
    let mut server = Redis::start();
    let mut follower = Follower::new(sink_at(&server.url()));
    let all = events(3000);
    let follow = tokio::spawn({
        let all = all.clone();
        async move {
            follower.follow(&all).await;
            follower
        }
    });
    for _ in 0..3 {
        wait_for_rows(&server, 10).await;
        server.kill();
        tokio::time::sleep(Duration::from_millis(20)).await;
        server.restart();
    }
    let follower = follow.await.expect("it ends");
    assert!(follower.away > 0 && follower.retaken > 0);
    assert_eq!(cached(&server), newest(&all));
    check_keys(&server);
}

async fn wait_for_rows(server: &Redis, count: usize) {
    let begin = Instant::now();
    while server.keys().len() < count {
        assert!(begin.elapsed() < Duration::from_secs(20), "no rows come");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

// PRJ-01, PRJ-13: back with an older copy: rows and place are of the same moment, and what came
// after comes again.
#[tokio::test]
async fn an_older_copy_is_brought_up_to_date() {
    let mut server = Redis::start();
    let (mut follower, at) = begun(&server, &server.url()).await;
    server.ask::<String>(&["SAVE"]);
    let all: Vec<Event> = events(100);
    let (at, _) = follower.step(at, &all[20..60]).await.expect("taken");
    server.restart();
    assert_eq!(cached(&server), newest(&all[..20]), "it is older");
    let begin = Instant::now();
    let error = loop {
        assert!(begin.elapsed() < Duration::from_secs(20), "it stays away");
        match follower.step(at, &all[60..]).await {
            Err(SinkError::Unavailable { .. }) => {}
            Err(error) => break error,
            Ok(_) => panic!("rows are missing, and it goes on"),
        }
    };
    assert!(matches!(error, SinkError::Fenced { .. }), "{error}");
    assert_eq!(follower.take().await.next.get(), 21);
    follower.follow(&all).await;
    assert_eq!(cached(&server), newest(&all));
}

// PRJ-04: a server that is not there is waited for, and never blamed on a row.
#[tokio::test]
async fn nobody_there_is_waited_for() {
    let follower = Follower::new(sink_at(&format!("redis://127.0.0.1:{}", free_port())));
    for result in [
        follower.sink.prepare(&follower.test).await,
        follower.sink.take(&follower.place).await.map(drop),
        follower.sink.position(&follower.place).await.map(drop),
    ] {
        let error = result.expect_err("nobody is there");
        assert!(matches!(error, SinkError::Unavailable { .. }), "{error}");
    }
    // One that takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("bound").port();
    let follower = Follower::new(sink_at(&format!("redis://127.0.0.1:{port}")));
    let begin = Instant::now();
    let error = follower
        .sink
        .take(&follower.place)
        .await
        .expect_err("it is silent");
    assert!(matches!(error, SinkError::Unavailable { .. }), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(2));
}
