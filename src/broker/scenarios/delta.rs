//! Delta topics: who goes on with what, and what a new subscriber gets.

use std::collections::BTreeMap;

use super::*;
use crate::broker::{OwnRecord, Unmet, command};

fn said(key: &str, mark: &str) -> Envelope {
    Envelope {
        key: key.into(),
        headers: [("arqon-delta".to_owned(), mark.to_owned())].into(),
        ..on("state.a", 8)
    }
}

impl Node {
    fn give(&self, name: &str, pattern: &str) -> Result<serde_json::Value, Error> {
        let identity = Identity {
            role: Role::Operator,
            ..self.identity.clone()
        };
        let arguments = BTreeMap::from([("pattern".to_owned(), pattern.into())]);
        let tenancy = self.tenancy();
        let answer = command::run(&self.broker, &tenancy, WAIT, &identity, name, &arguments);
        answer.map(|answer| answer.to_json())
    }

    fn last(&self, envelope: Envelope) -> u64 {
        let (outcome, _) = self.produce(&[envelope], None);
        outcome.unwrap().last.get()
    }

    /// Against what, and what there is.
    fn conflict(&self, envelope: Envelope) -> (u64, u64) {
        match self.unmet(&[envelope], None) {
            Unmet::Delta { on, found, .. } => (on, found),
            other => panic!("{other}"),
        }
    }

    fn current(&self, filter: &str) -> Vec<u64> {
        take_all(&mut self.subscribe(filter, Start::Current)).0
    }
}

// MSG-14: a delta is refused that does not follow the last record of its key, also within a batch,
// and by whoever opens the log next.
#[test]
fn a_delta_follows_the_last_record_of_its_key() {
    let dir = TempDir::new().unwrap();
    {
        let node = Node::start(dir.path(), small());
        node.append_on("state.a", 1, 8);
        assert_eq!(
            node.give("topic.declare", "state.>").unwrap()["changed"],
            true
        );
        assert_eq!(
            node.give("topic.declare", "state.>").unwrap()["changed"],
            false
        );
        assert_eq!(node.conflict(said("k", "on=1")), (1, 0), "no base");
        assert_eq!(node.last(said("k", "base")), 2);
        assert_eq!(node.last(said("other", "base")), 3);
        assert_eq!(node.last(said("k", "on=2")), 4);
        assert_eq!(node.conflict(said("k", "on=2")), (2, 4), "it has moved on");
        // All or none, and what is refused counts for nothing.
        let twice = [said("k", "base"), said("k", "on=4")];
        let unmet = node.unmet(&twice, None);
        assert_eq!(
            (unmet.actual(), unmet.field().as_str()),
            (5, "envelopes[1].headers.arqon-delta")
        );
        assert_eq!(node.last(said("k", "on=4")), 5);
        node.broker.close();
    }
    let node = Node::start(dir.path(), small());
    assert_eq!(node.conflict(said("k", "on=4")), (4, 5));
    assert_eq!(node.last(said("k", "on=5")), 6);
    // Sent again by its id it is acknowledged, although it is not the last any more.
    let named = Envelope {
        id: "x".into(),
        ..said("k", "on=6")
    };
    assert_eq!(node.last(named.clone()), 7);
    assert_eq!(node.last(said("k", "on=7")), 8);
    assert_eq!(node.last(named), 7);
    // What the node says itself counts, and ends what it does not follow.
    let own = OwnRecord {
        topic: "state.a".into(),
        key: "k".into(),
        data: "x".into(),
        ..OwnRecord::default()
    };
    node.main().store(vec![own], None).unwrap();
    assert_eq!(node.conflict(said("k", "on=8")), (8, 0));
    // A key that is gone has no base.
    let gone = Envelope {
        payload: None,
        ..said("other", "on=3")
    };
    node.last(gone);
    assert_eq!(node.conflict(said("other", "on=3")), (3, 0));
    assert_eq!(
        node.give("topic.undeclare", "state.>").unwrap()["changed"],
        true
    );
    node.append_on("state.a", 1, 8);
}

// MSG-14: of those who have seen the same record one goes on.
#[test]
fn of_many_deltas_against_the_same_record_one_is_stored() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    node.give("topic.declare", "state.*").unwrap();
    let main = node.main();
    let mut last = node.last(said("k", "base"));
    for _ in 0..20 {
        // Queued together, so that they are judged in one group.
        let mark = format!("on={last}");
        for _ in 0..4 {
            node.try_append(&[said("k", &mark)], Durability::Synced)
                .unwrap();
        }
        main.start();
        let outcomes: Vec<_> = (0..4)
            .map(|_| node.heard.appended.recv_timeout(WAIT).unwrap())
            .collect();
        let stored: Vec<_> = outcomes.into_iter().flatten().collect();
        assert_eq!(stored.len(), 1);
        last = stored[0].last.get();
    }
    assert_eq!(last, 21);
}

// MSG-14: what cannot be a base or a delta is refused by name.
#[test]
fn what_does_not_fit_a_delta_topic_is_refused() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    node.give("topic.declare", "state.>").unwrap();
    let refused = |envelope: Envelope| match node
        .try_append(&[envelope], Durability::Synced)
        .unwrap_err()
    {
        Error::Rejected(rejection) => rejection.field,
        error => panic!("{error}"),
    };
    assert_eq!(refused(said("", "base")), "key");
    assert_eq!(refused(said("k", "first")), "headers.arqon-delta");
    assert_eq!(refused(on("state.a", 8)), "key");
    let later = 4_000_000_000_000;
    let expires = Envelope {
        expires_at: later,
        ..said("k", "base")
    };
    assert_eq!(refused(expires), "expires_at");
    let waits = Envelope {
        deliver_at: later,
        ..said("k", "base")
    };
    assert_eq!(refused(waits), "deliver_at");
}

// MSG-14: a new subscriber gets the last base of each key and what follows it, then what comes.
#[test]
fn a_new_subscriber_gets_bases_and_their_deltas() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    node.give("topic.declare", "state.>").unwrap();
    assert_eq!(node.current(">"), [0; 0]);
    node.last(said("a", "base"));
    node.last(said("b", "base"));
    node.last(said("a", "on=1"));
    node.last(said("b", "base"));
    node.last(said("c", "base"));
    node.last(said("b", "on=4"));
    node.last(Envelope {
        payload: None,
        ..said("c", "base")
    });
    node.append_on("plain", 3, 8);
    assert_eq!(node.current("state.>"), [1, 3, 4, 6]);
    assert_eq!(node.current(">"), [1, 3, 4, 6, 10]);
    assert_eq!(node.current("none"), [0; 0]);
    let mut subscription = node.subscribe("state.>", Start::Current);
    assert_eq!(take_all(&mut subscription).0, [1, 3, 4, 6]);
    node.last(said("a", "base"));
    node.last(said("b", "on=6"));
    assert_eq!(take_all(&mut subscription).0, [11, 12]);
    assert_eq!(node.current("state.>"), [4, 6, 11, 12]);
}
