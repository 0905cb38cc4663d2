//! Messages as entries of streams.

use std::collections::HashMap;
use std::time::Duration;

use arqonbus::log::{Micros, Sequence};
use arqonbus::projections::projection::Projection as _;
use arqonbus::projections::sink::{Commit, Position, Question, Sink as _, SinkError, Write};
use arqonbus::projections::table::{Cell, Row, Version};
use arqonbus::projections::valkey::mapping::Mapping;
use arqonbus::projections::valkey::{Address, OptionsFault, ValkeySink};
use bytes::Bytes;

use super::follower::{Follower, MESSAGES, check_keys, options, stream};
use crate::servers::redis::Redis;

const NAME: &str = "tenant:acme:stream:history";
const DAY: Duration = Duration::from_hours(24);

fn follower(server: &Redis, ttl: Option<Duration>) -> Follower {
    let options = options(Address::new(&server.url()), vec![stream(ttl)]);
    Follower::new(ValkeySink::new(options).expect("a sink"))
}

fn message(sequence: i64) -> Write {
    let key = if sequence % 2 == 0 {
        Cell::from("k")
    } else {
        Cell::Null
    };
    let row = Row(vec![
        Cell::from("acme"),
        Cell::Integer(sequence),
        Cell::from("orders.created"),
        key,
        Cell::Timestamp(Micros(7)),
        Cell::Bytes(Bytes::from(vec![0, 0xFF, b'\n', 3])),
    ]);
    let table = MESSAGES;
    Write::Put { table, row }
}

async fn commit(
    follower: &Follower,
    from: Position,
    sequences: impl Iterator<Item = i64>,
    next: u64,
) -> Result<Position, SinkError> {
    let to = Position {
        next: Sequence::new(next).expect("a sequence"),
        ..from
    };
    let commit = Commit {
        writes: sequences.map(message).collect(),
        moves: Some((from, to)),
        epoch: from.epoch,
    };
    let done = follower
        .sink
        .commit(&follower.test, &follower.place, &commit);
    done.await.map(|()| to)
}

fn ids(server: &Redis) -> Vec<String> {
    let entries: Vec<(String, HashMap<String, Vec<u8>>)> = server.ask(&["XRANGE", NAME, "-", "+"]);
    entries.into_iter().map(|(id, _)| id).collect()
}

// PRJ-19: an entry has the sequence of its record as its id, whatever the order in its batch, and
// what the record held.
#[tokio::test]
async fn an_entry_is_found_by_its_sequence() {
    let server = Redis::start();
    let follower = follower(&server, Some(DAY));
    follower
        .sink
        .prepare(&follower.test)
        .await
        .expect("it fits");
    let from = follower.take().await;
    commit(&follower, from, [3, 9, 4].into_iter(), 10)
        .await
        .expect("taken");
    assert_eq!(ids(&server), ["3-0", "4-0", "9-0"]);
    let entries: Vec<(String, HashMap<String, Vec<u8>>)> = server.ask(&["XRANGE", NAME, "4", "4"]);
    let fields = &entries[0].1;
    assert_eq!(fields["payload"], [0, 0xFF, b'\n', 3]);
    assert_eq!(fields["sequence"], b"4");
    assert_eq!(fields["topic"], b"orders.created");
    assert_eq!(fields["appended_at"], b"7");
    assert_eq!(fields["key"], b"k");
    let entries: Vec<(String, HashMap<String, Vec<u8>>)> = server.ask(&["XRANGE", NAME, "3", "3"]);
    assert!(!entries[0].1.contains_key("key"));
    check_keys(&server);
}

// PRJ-19, PRJ-02: what is there is not there twice, also when the place was lost and the stream
// was not; records that come after it are.
#[tokio::test]
async fn a_repeated_entry_is_there_once() {
    let server = Redis::start();
    let follower = follower(&server, Some(DAY));
    let from = follower.take().await;
    commit(&follower, from, 1..=30, 31).await.expect("taken");
    commit(&follower, from, 1..=30, 31)
        .await
        .expect("taken again");
    assert_eq!(ids(&server).len(), 30);

    server.ask::<()>(&["DEL", "tenant:acme:episode:_:cache:cursor:test:main"]);
    let lost = commit(&follower, from, 31..=40, 41).await;
    assert!(matches!(lost, Err(SinkError::Fenced { .. })), "{lost:?}");
    let from = follower.take().await;
    assert_eq!(from.next, Sequence::FIRST);
    commit(&follower, from, 1..=40, 41).await.expect("taken");
    let wanted: Vec<_> = (1..=40).map(|n| format!("{n}-0")).collect();
    assert_eq!(ids(&server), wanted);

    let tables = follower.test.tables();
    let key = |n| match message(n) {
        Write::Put { row, .. } => (MESSAGES, tables[MESSAGES].key_of(&row)),
        Write::Remove { .. } => panic!("a message is put"),
    };
    let keys = vec![key(40), key(41)];
    let question = Question { keys };
    let answer = follower
        .sink
        .look_up(&follower.test, &follower.place, &question);
    assert_eq!(
        answer.await.expect("it answers"),
        [Some(Version(Vec::new())), None]
    );
    check_keys(&server);
}

// PRJ-19: a stream is bounded, and one that was emptied by somebody goes on behind its end.
#[tokio::test]
async fn a_stream_is_trimmed() {
    let server = Redis::start();
    server.set("stream-node-max-entries", "10");
    let follower = follower(&server, None);
    assert_eq!(follower.sink.horizon(&follower.test), None);
    let mut at = follower.take().await;
    for batch in 0..10 {
        let first = 1 + batch * 100;
        let next = u64::try_from(first + 100).expect("positive");
        at = commit(&follower, at, first..first + 100, next)
            .await
            .expect("taken");
        let len = ids(&server).len();
        assert!((100..=110).contains(&len), "{len}");
    }
    let ttl: i64 = server.ask(&["PTTL", NAME]);
    assert_eq!(ttl, -1, "it stays, as it was asked for");
    server.ask::<()>(&["XTRIM", NAME, "MAXLEN", "0"]);
    commit(&follower, at, 990..=1001, 1002)
        .await
        .expect("taken");
    assert_eq!(ids(&server), ["1001-0"]);
}

// PRJ-19: what cannot be a stream is refused; what stands in its place is not overwritten, and
// keeps nothing of the batch.
#[tokio::test]
async fn a_stream_is_nothing_else() {
    let server = Redis::start();
    let follower = follower(&server, Some(DAY));
    let from = follower.take().await;
    let refused = commit(&follower, from, 0..=0, 2).await;
    assert!(
        matches!(refused, Err(SinkError::Rejected { .. })),
        "{refused:?}"
    );
    server.ask::<()>(&["SET", NAME, "somebody's"]);
    let unfit = commit(&follower, from, 1..=1, 2).await;
    assert!(matches!(unfit, Err(SinkError::Unfit { .. })), "{unfit:?}");
    let position = follower.sink.position(&follower.place).await;
    assert_eq!(position.expect("it answers"), None);
    server.ask::<()>(&["DEL", NAME]);
    commit(&follower, from, 1..=1, 2).await.expect("taken");

    let Mapping::Stream(good) = stream(None) else {
        panic!("it is a stream");
    };
    let made = |change: fn(&mut arqonbus::projections::valkey::mapping::Stream)| {
        let mut stream = good.clone();
        change(&mut stream);
        let address = Address::new(&server.url());
        ValkeySink::new(options(address, vec![Mapping::Stream(stream)]))
    };
    for len in [made(|s| s.len_max = 0), made(|s| s.len_max = u64::MAX)] {
        assert!(matches!(len, Err(OptionsFault::Length { .. })), "{len:?}");
    }
    for sink in [
        made(|s| s.table = "episodes".to_owned()),
        made(|s| s.sequence = "topic".to_owned()),
    ] {
        let fault = sink.expect("a sink").prepare(&follower.test).await;
        assert!(matches!(fault, Err(SinkError::Unfit { .. })), "{fault:?}");
    }
}
