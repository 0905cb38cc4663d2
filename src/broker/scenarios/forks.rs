//! Forks, comparisons and deletions of realities, without a node around them.

use super::*;
use crate::broker::compare;

fn name(text: &str) -> RealityName {
    RealityName::new(text).unwrap()
}

impl Node {
    fn fork(&self, at: u64, to: &str) -> Arc<Reality> {
        let tenancy = self.tenancy();
        let forked = tenancy.fork(&RealityName::main(), Sequence::new(at), &name(to), "me");
        forked.unwrap()
    }
}

// BRK-14: the comparison says so when it stops at its bound, and the bound is exact.
#[test]
fn a_comparison_stops_at_its_bound() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    node.append_on("a", 20, 100);
    let main = node.main();
    let compared = compare::compare_up_to(&main, &main, 1000).unwrap();
    assert!(compared.identical() && compared.related, "{compared:?}");
    let fork = node.fork(20, "same");
    let compared = compare::compare_up_to(&main, &fork, 1000).unwrap();
    assert!(compared.identical(), "{compared:?}");
    assert_eq!((compared.common_through, compared.equal), (20, 0));

    let tenancy = node.tenancy();
    let other = tenancy.create(&name("other"), "me").unwrap();
    let compared = compare::compare_up_to(&main, &other, 1000).unwrap();
    let difference = compared.difference.unwrap();
    assert_eq!(difference.sequence.get(), 1);
    assert_eq!((difference.a.as_deref(), difference.b), (Some("a"), None));
    assert_eq!(compared.a.topics[0].records, 20);
    assert_eq!(compared.b.topics.len(), 0);
    let same: Vec<_> = (0..20).map(|_| on("a", 100)).collect();
    node.try_append_to(&other, &same).unwrap();
    node.heard.appended.recv_timeout(WAIT).unwrap().unwrap();
    for (bound, identical) in [(19, false), (20, true), (21, true)] {
        let compared = compare::compare_up_to(&main, &other, bound).unwrap();
        assert!(!compared.related && compared.difference.is_none());
        assert_eq!(
            (compared.identical(), compared.unfinished),
            (identical, !identical)
        );
        assert_eq!(compared.equal, bound.min(20));
    }
}

// LOG-12, MSG-06: a producer's own clock goes on in a fork where it stood at the fork point.
#[test]
fn a_fork_remembers_its_producers() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    let stamped = |counter| {
        let mut one = on("a", 10);
        one.producer_id = "p".into();
        one.clock = Some(VectorClock {
            entries: [("p".to_owned(), counter)].into(),
        });
        one
    };
    node.append(&[stamped(3)]);
    node.append(&[stamped(7)]);
    let fork = node.fork(1, "what-if");
    assert_eq!(fork.clock_key(), "n1/what-if");
    let try_append =
        |reality: &Arc<Reality>, counter| node.try_append_to(reality, &[stamped(counter)]);
    assert!(matches!(try_append(&fork, 2), Err(Error::Rejected(_))));
    try_append(&fork, 5).unwrap();
    let stored = node.heard.appended.recv_timeout(WAIT).unwrap().unwrap();
    assert_eq!(stored.first.get(), 2);
    assert!(matches!(
        try_append(&node.main(), 5),
        Err(Error::Rejected(_))
    ));
}

// LOG-13, BRK-03: whoever still holds a deleted reality is told, and cannot move a cursor of its
// successor.
#[test]
fn a_deleted_reality_is_over_for_those_who_hold_it() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    node.append_on("a", 5, 100);
    let mut subscription = node.subscribe(">", Start::Latest);
    let lease = node.lease("c").unwrap();
    lease.ack(Sequence::new(3).unwrap()).unwrap();
    node.heard.moved.recv_timeout(WAIT).unwrap().unwrap();
    let old = node.main();
    node.tenancy().delete(&RealityName::main(), "me").unwrap();

    assert!(old.is_gone());
    let filled = subscription.fill(&mut BytesMut::new(), 1000);
    assert!(
        matches!(filled.then, Then::Failed(Error::RealityDeleted { .. })),
        "{filled:?}"
    );
    let acked = lease.ack(Sequence::new(4).unwrap());
    assert!(
        matches!(acked, Err(Error::RealityDeleted { .. })),
        "{acked:?}"
    );

    // The next one of its name.
    node.append_on("a", 2, 100);
    assert_eq!(node.main().bounds().durable_end.get(), 3);
    let again = node.lease("c").unwrap();
    assert_eq!(again.cursor(), None);
    drop(lease);
    again.ack(Sequence::new(1).unwrap()).unwrap();
    node.heard.moved.recv_timeout(WAIT).unwrap().unwrap();
    assert_eq!(again.cursor(), Sequence::new(1));
    node.tenancy().delete(&RealityName::main(), "me").unwrap();
    assert!(node.tenancy().consumers().list().is_empty());
    let none = node.tenancy().delete(&RealityName::main(), "me");
    assert!(matches!(none, Err(Error::NoSuchReality { .. })), "{none:?}");
    let system = node.tenancy().delete(&RealityName::system(), "me");
    assert!(
        matches!(system, Err(Error::RealityClosed { .. })),
        "{system:?}"
    );
}
