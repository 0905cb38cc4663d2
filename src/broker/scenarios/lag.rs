//! Subscriptions that fall too far behind, and what they have asked for then (EDGE-11).

use super::super::subscription::{DROPPED, LagRule, OnLag};
use super::*;
use crate::proto::ErrorCode;

/// Takes so many records at most, and is behind with more than ten.
fn start(node: &Node, on_lag: OnLag, filter: &str, from: Start, credit: u64) -> Subscription {
    start_within(10, node, on_lag, filter, from, credit)
}

fn start_within(
    records_max: u64,
    node: &Node,
    on_lag: OnLag,
    filter: &str,
    from: Start,
    credit: u64,
) -> Subscription {
    let request = Request {
        credit: Credit {
            records: Some(credit),
            bytes: None,
        },
        lag: LagRule {
            on_lag,
            records_max,
        },
        ..node.request(filter, from)
    };
    let (mut subscription, _) = Subscription::start(&node.main(), request).unwrap();
    if from == Start::Latest {
        take_all(&mut subscription);
    }
    subscription
}

/// One fill: the sequences, and how it ended.
fn fill(subscription: &mut Subscription) -> (Vec<u64>, Filled) {
    let mut out = BytesMut::new();
    let filled = subscription.fill(&mut out, 64 << 10);
    let found = records(&out).iter().map(|record| record.sequence).collect();
    (found, filled)
}

// EDGE-11: n records behind is near, n + 1 is not.
#[test]
fn the_oldest_are_dropped_and_the_range_is_named_once() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), log::Options::default());
    let mut slow = start(&node, OnLag::DropOldest, ">", Start::Latest, 3);
    node.append_on("a", 10, 10);
    let (found, last) = fill(&mut slow);
    assert_eq!((found, last.lost), (vec![1, 2, 3], None));
    node.append_on("a", 4, 10);
    // It takes nothing, so there is nothing to tell it yet, however much comes.
    for _ in 0..5 {
        let (found, last) = fill(&mut slow);
        assert_eq!((found.len(), last.lost), (0, None));
        assert!(matches!(last.then, Then::Credit));
        node.append_on("a", 20, 10);
    }
    slow.add_credit(1_000, 0, u64::MAX);
    let (found, last) = fill(&mut slow);
    assert!(found.is_empty());
    let lost = last.lost.unwrap();
    assert_eq!((lost.first.get(), lost.last.get()), (4, 109));
    assert_eq!(lost.reason, DROPPED);
    assert_eq!(last.next.get(), 110);
    let (found, last) = fill(&mut slow);
    assert_eq!(found, (110..=114).collect::<Vec<_>>());
    assert!(last.end_of_log && last.lost.is_none());
}

// EDGE-11
#[test]
fn a_subscription_that_wants_to_end_when_behind_ends_and_names_the_code() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), log::Options::default());
    let mut slow = start(&node, OnLag::End, ">", Start::Latest, 1);
    node.append_on("a", 10, 10);
    assert_eq!(fill(&mut slow).0, [1]);
    node.append_on("a", 1, 10);
    // Ten are left: near enough.
    assert!(matches!(fill(&mut slow).1.then, Then::Credit));
    while node.heard.ready.try_recv().is_ok() {}
    node.append_on("a", 1, 10);
    // Told although it has no credit.
    assert_eq!(node.heard.ready.recv_timeout(WAIT), Ok(1));
    let Then::Failed(error) = fill(&mut slow).1.then else {
        panic!("it goes on");
    };
    assert_eq!(error.code(), ErrorCode::SlowConsumer);
    assert_eq!(error.field(), "on_lag");
    assert!(error.to_string().contains("11 records behind"), "{error}");
}

// EDGE-11
#[test]
fn whoever_begins_far_behind_or_is_passed_by_is_not_behind() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    node.append_on("a", 500, 100);
    for on_lag in [OnLag::DropOldest, OnLag::End] {
        let mut early = start(&node, on_lag, "a", Start::Earliest, 1_000);
        let (found, last, _) = take_all(&mut early);
        assert_eq!(found, (1..=500).collect::<Vec<_>>());
        assert!(last.lost.is_none());
    }
    for on_lag in [OnLag::DropOldest, OnLag::End] {
        let mut other = start(&node, on_lag, "b", Start::Latest, 1_000);
        node.append_on("a", 500, 10);
        assert!(matches!(fill(&mut other).1.then, Then::Wait));
        node.append_on("b", 1, 10);
        let (found, last, _) = take_all(&mut other);
        assert_eq!(found.len(), 1);
        assert!(last.lost.is_none() && matches!(last.then, Then::Wait));
    }
}

// EDGE-11: what is read from history meanwhile does not come after what was dropped.
#[test]
fn nothing_is_dropped_under_a_read_of_history() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    let mut slow = start_within(1_000, &node, OnLag::DropOldest, ">", Start::Latest, 9_999);
    for _ in 0..40 {
        node.append_on("a", 10, 500);
    }
    let Then::Read(read) = fill(&mut slow).1.then else {
        panic!("it has not fallen behind the tail");
    };
    node.append_on("a", 700, 10);
    assert!(matches!(fill(&mut slow).1.then, Then::Reading));
    slow.supply(read.run());
    let (_, last) = fill(&mut slow);
    let lost = last.lost.unwrap();
    assert_eq!((lost.first.get(), lost.last.get()), (1, 600));
    assert_eq!(take_all(&mut slow).0, (601..=1_100).collect::<Vec<_>>());
}

// EDGE-11: a reader who takes nothing costs commit threads nothing.
#[test]
fn a_subscription_without_credit_is_told_once_and_hears_of_deletion() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), log::Options::default());
    let mut stalled = start(&node, OnLag::CatchUp, ">", Start::Latest, 2);
    node.append_on("a", 3, 10);
    assert_eq!(node.heard.ready.recv_timeout(WAIT), Ok(1));
    assert_eq!(fill(&mut stalled).0, [1, 2]);
    node.append_on("a", 1, 10);
    while node
        .heard
        .ready
        .recv_timeout(Duration::from_millis(20))
        .is_ok()
    {
        fill(&mut stalled);
    }
    for _ in 0..20 {
        node.append_on("a", 1, 10);
        assert!(node.heard.ready.try_recv().is_err(), "told again");
    }
    stalled.add_credit(1, 0, u64::MAX);
    assert_eq!(fill(&mut stalled).0, [3]);
    stalled.add_credit(1_000, 0, u64::MAX);
    assert_eq!(take_all(&mut stalled).0, (4..=24).collect::<Vec<_>>());
    node.append_on("a", 1, 10);
    assert_eq!(take_all(&mut stalled).0, [25]);
}
