//! Which row stays, and who may write it.

use std::time::Duration;

use arqonbus::log::{Micros, Sequence};
use arqonbus::projections::fold::Outcome;
use arqonbus::projections::projection::Projection as _;
use arqonbus::projections::sink::{
    Commit, Copy, Place, Position, Query, Question, Sink as _, SinkError, Write,
};
use arqonbus::projections::table::{Cell, Key};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::follower::{
    EPISODES, Event, Follower, cached, check_keys, events, newest, place, sink_at,
};
use crate::servers::redis::Redis;

/// Versions that differ where comparing is easy to get wrong: in length, past 2^53, in the case of
/// letters, by one that begins the other, beyond ASCII.
fn versions() -> Vec<Event> {
    let times = [
        0,
        9,
        10,
        1_700_000_000_000_000,
        9_007_199_254_740_992,
        9_007_199_254_740_993,
        u64::MAX,
    ];
    let ids = ["", "0", "B", "a", "aa", "a b", "b", "\u{e9}", "\u{10ffff}"];
    let all = times.iter().flat_map(|ts| ids.map(|id| (*ts, id)));
    all.map(|(ts, id)| Event::new("a", "e", id, ts)).collect()
}

// PRJ-03, PRJ-11: the newest wins in any order of arrival, also with equal times; the server alone
// decides here, without a look before.
#[test]
fn the_newest_wins_in_any_order() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let server = Redis::start();
    let follower = Follower::new(sink_at(&server.url()));
    let epoch = runtime.block_on(follower.take()).epoch;
    let order = proptest::sample::subsequence(versions(), 2..8).prop_shuffle();
    let config = Config {
        cases: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let run = TestRunner::new(config).run(&order, |events| {
        server.ask::<()>(&["DEL", "tenant:acme:episode:e:cache:a"]);
        for event in &events {
            let commit = Commit {
                writes: vec![event.put("acme")],
                moves: None,
                epoch,
            };
            let done = follower
                .sink
                .commit(&follower.test, &follower.place, &commit);
            runtime.block_on(done).expect("it is taken");
        }
        prop_assert_eq!(cached(&server), newest(&events));
        // All of the newest is there, and nothing of those before it.
        let best = events
            .iter()
            .max_by_key(|event| (event.ts, &event.id))
            .expect("some");
        let fields: Vec<String> = server.ask(&["HKEYS", "tenant:acme:episode:e:cache:a"]);
        let with = fields.contains(&"embedding_ref".to_owned());
        prop_assert_eq!(with, best.ts.is_multiple_of(2));
        // And it is what a reader and the next batch learn of it.
        let tables = follower.test.tables();
        let wanted = best.row("acme");
        let key = tables[EPISODES].key_of(&wanted);
        let question = Question {
            keys: vec![(EPISODES, key)],
        };
        let answer = follower
            .sink
            .look_up(&follower.test, &follower.place, &question);
        let answer = runtime.block_on(answer).expect("it answers");
        prop_assert_eq!(&answer, &[Some(tables[EPISODES].version_of(&wanted))]);
        Ok(())
    });
    run.unwrap_or_else(|error| panic!("{error}"));
    check_keys(&server);
}

// PRJ-02: the same batch again changes nothing and is no fault; one that is behind is refused.
#[tokio::test]
async fn repeats_are_harmless() {
    let server = Redis::start();
    let follower = Follower::new(sink_at(&server.url()));
    let first = follower.take().await;
    assert_eq!(first.next, Sequence::FIRST);
    let (second, outcomes) = follower.step(first, &events(20)).await.expect("taken");
    assert_eq!(outcomes, [Outcome::Projected; 20]);
    let after = cached(&server);
    let (again, outcomes) = follower.step(first, &events(20)).await.expect("taken");
    assert_eq!(again, second);
    assert!(!outcomes.contains(&Outcome::Projected), "{outcomes:?}");
    assert_eq!(cached(&server), after);

    let all = events(60);
    let (third, _) = follower.step(second, &all[20..40]).await.expect("taken");
    let behind = follower.step(first, &all[40..]).await;
    assert!(
        matches!(behind, Err(SinkError::Fenced { .. })),
        "{behind:?}"
    );
    assert_eq!(cached(&server), newest(&all[..40]));
    let position = follower.sink.position(&follower.place).await;
    assert_eq!(position.expect("it answers"), Some(third));
}

// PRJ-01: a hash of what was projected goes with the place; both are known to whoever comes next.
#[tokio::test]
async fn a_place_is_kept_with_its_hash() {
    let server = Redis::start();
    let follower = Follower::new(sink_at(&server.url()));
    let sink = &follower.sink;
    assert_eq!(
        sink.position(&follower.place).await.expect("it answers"),
        None
    );
    let from = follower.take().await;
    assert_eq!(
        sink.position(&follower.place).await.expect("it answers"),
        None
    );
    // A new place begins where its horizon is.
    let begin = Position {
        next: Sequence::new(1000).expect("a sequence"),
        ..from
    };
    let to = Position {
        next: Sequence::new(1001).expect("a sequence"),
        hash: [0xAB; 32],
        ..from
    };
    let commit = Commit {
        writes: Vec::new(),
        moves: Some((begin, to)),
        epoch: from.epoch,
    };
    sink.commit(&follower.test, &follower.place, &commit)
        .await
        .expect("taken");
    assert_eq!(
        sink.position(&follower.place).await.expect("it answers"),
        Some(to)
    );
    let taken = follower.take().await;
    assert!(taken.epoch > to.epoch);
    assert_eq!((taken.next, taken.hash), (to.next, to.hash));
    check_keys(&server);
}

// PRJ-13: whoever takes the place keeps the one before from writing, also after the server lost it.
#[tokio::test]
async fn a_second_taker_fences_the_first() {
    let mut server = Redis::start();
    let follower = Follower::new(sink_at(&server.url()));
    let first = follower.take().await;
    let second = follower.take().await;
    assert!(second.epoch > first.epoch);
    let fenced = follower.step(first, &events(1)).await;
    assert!(
        matches!(fenced, Err(SinkError::Fenced { .. })),
        "{fenced:?}"
    );
    let backfill = Commit {
        writes: vec![events(1)[0].put("acme")],
        moves: None,
        epoch: first.epoch,
    };
    let fenced = follower
        .sink
        .commit(&follower.test, &follower.place, &backfill)
        .await;
    assert!(
        matches!(fenced, Err(SinkError::Fenced { .. })),
        "{fenced:?}"
    );
    assert_eq!(cached(&server), newest(&[]));
    follower.step(second, &events(20)).await.expect("taken");

    server.restart();
    let first = take_at_last(&follower).await;
    server.restart();
    let second = take_at_last(&follower).await;
    assert!(second.epoch > first.epoch);
    let fenced = follower.step(first, &events(1)).await;
    assert!(
        matches!(fenced, Err(SinkError::Fenced { .. })),
        "{fenced:?}"
    );
    assert_eq!(cached(&server), newest(&[]));
}

/// Takes the place of a server that came back; its old connection fails first.
async fn take_at_last(follower: &Follower) -> Position {
    for _ in 0..100 {
        if let Ok(position) = follower.sink.take(&follower.place).await {
            return position;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the server does not come back");
}

// PRJ-11: a key that a stranger made something else of is made a row again.
#[tokio::test]
async fn a_key_of_another_type_is_replaced() {
    let server = Redis::start();
    let mut follower = Follower::new(sink_at(&server.url()));
    let all = events(40);
    let cursor = "tenant:acme:episode:_:cache:cursor:test:main";
    for name in newest(&all).keys() {
        server.ask::<()>(&["SET", name, "a stranger's", "EX", "100"]);
    }
    server.ask::<()>(&["SET", cursor, "a stranger's", "EX", "100"]);
    follower.follow(&all).await;
    assert_eq!(cached(&server), newest(&all));
    check_keys(&server);
}

#[tokio::test]
async fn a_row_is_read_as_far_as_it_is_kept() {
    let server = Redis::start();
    let follower = Follower::new(sink_at(&server.url()));
    let event = Event::new("a", "e", "id", 6);
    let key = follower.test.tables()[EPISODES].key_of(&event.row("acme"));
    let read = || {
        follower
            .sink
            .row(&follower.test, &follower.place, EPISODES, &key)
    };
    assert_eq!(read().await.expect("it answers"), None);
    let from = follower.take().await;
    follower.step(from, &[event]).await.expect("taken");
    let row = read().await.expect("it answers").expect("it is kept");
    assert_eq!(row.0[7], Cell::from("ram://vector"));
    assert_eq!(row.0[10], Cell::Timestamp(Micros(6)));
    assert_eq!(row.0[11], Cell::Boolean(true));
    assert_eq!(row.0[12], Cell::Integer(41));
    assert_eq!((&row.0[5], &row.0[8]), (&Cell::Null, &Cell::Null));

    let commit = Commit {
        writes: vec![Write::Remove {
            table: EPISODES,
            key: key.clone(),
        }],
        moves: None,
        epoch: from.epoch,
    };
    follower
        .sink
        .commit(&follower.test, &follower.place, &commit)
        .await
        .expect("taken");
    assert_eq!(read().await.expect("it answers"), None);
    let stranger = Key(vec![Cell::from("other"), Cell::from("a"), Cell::from("e")]);
    let read = follower
        .sink
        .row(&follower.test, &follower.place, EPISODES, &stranger);
    assert!(matches!(read.await, Err(SinkError::Unfit { .. })));
}

// A cache is not rebuilt, listed or counted, and says who is.
#[tokio::test]
async fn what_a_cache_cannot_do_it_says() {
    let follower = Follower::new(sink_at("redis://127.0.0.1:1"));
    let (sink, test, place) = (&follower.sink, &follower.test, place());
    let next = Place {
        copy: Copy::Next,
        ..place.clone()
    };
    let query = Query {
        limit: 1,
        ..Query::default()
    };
    let faults = [
        sink.rows(test, &place, EPISODES, &query).await.map(drop),
        sink.count(test, &place, EPISODES).await.map(drop),
        sink.clear_next(test, &place).await,
        sink.switch(test, &place, 1).await,
        sink.take(&next).await.map(drop),
    ];
    for fault in faults {
        let text = fault.expect_err("a cache").to_string();
        assert!(text.contains("sled or the postgres"), "{text}");
    }
}
