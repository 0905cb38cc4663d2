//! Batches that are stored only under a condition, or once however often they come.

use super::*;
use crate::broker::{Duplicate, Expected, OwnRecord, Receipt, Unmet};
use crate::proto::ErrorCode;

fn with_id(topic: &str, id: &str) -> Envelope {
    Envelope {
        id: id.into(),
        ..on(topic, 8)
    }
}

fn numbered(producer: &str, number: u64) -> Envelope {
    Envelope {
        producer_id: producer.into(),
        producer_sequence: number,
        ..on("a", 8)
    }
}

/// What the log said, and what the broker has to say beside it.
pub(super) type Told = (Result<Appended, AppendError>, Option<Arc<Receipt>>);

impl Node {
    pub(super) fn produce(&self, envelopes: &[Envelope], expected: Option<(&str, u64)>) -> Told {
        self.produce_as(&self.identity, envelopes, expected)
    }

    fn produce_as(
        &self,
        identity: &Identity,
        envelopes: &[Envelope],
        expected: Option<(&str, u64)>,
    ) -> Told {
        let reality = self.main();
        let mut batch = Batch::new(&reality, identity, envelopes.len());
        for envelope in envelopes {
            let bytes = Bytes::from(envelope.encode_to_vec());
            let view = EnvelopeView::parse(&bytes).unwrap();
            let admitted = batch.admit(&bytes, &view, None).unwrap();
            batch.take(admitted, &view, bytes.clone(), &[]);
        }
        if let Some((topic, last)) = expected {
            let topic = topic.to_owned();
            batch.expect(Expected { topic, last });
        }
        let receipt = batch.receipt();
        let sink = Arc::clone(&self.ear) as _;
        let appended = reality.append(batch, Durability::Synced, None, sink, 0);
        appended.unwrap();
        reality.start();
        let outcome = self.heard.appended.recv_timeout(WAIT).unwrap();
        (outcome, receipt)
    }

    /// First and last sequence, and what was there already.
    fn stored(&self, envelopes: &[Envelope]) -> (u64, u64, Vec<Duplicate>) {
        let (outcome, receipt) = self.produce(envelopes, None);
        let appended = outcome.unwrap();
        let duplicates = receipt.map_or_else(Vec::new, |receipt| receipt.duplicates().to_vec());
        (appended.first.get(), appended.last.get(), duplicates)
    }

    pub(super) fn unmet(&self, envelopes: &[Envelope], expected: Option<(&str, u64)>) -> Unmet {
        let (outcome, receipt) = self.produce(envelopes, expected);
        let unmet = receipt.and_then(|receipt| receipt.unmet().cloned());
        assert!(
            matches!(outcome, Err(AppendError::ConditionNotMet { .. })),
            "{outcome:?}"
        );
        unmet.expect("a reason")
    }
}

fn duplicate(index: usize, sequence: u64) -> Duplicate {
    Duplicate { index, sequence }
}

// BRK-07: of many who have seen the same state one gets through, each time.
#[test]
fn of_many_who_expect_the_same_sequence_one_is_stored() {
    const WRITERS: u64 = 8;
    const TIMES: u64 = 25;
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    let reality = node.main();
    let write = || {
        let (mut seen, mut stored) = (0, Vec::new());
        while (stored.len() as u64) < TIMES {
            let record = OwnRecord {
                topic: "op.counter".into(),
                data: seen.to_string().into(),
                ..OwnRecord::default()
            };
            let expected = Expected {
                topic: "op.counter".into(),
                last: seen,
            };
            match reality.store(vec![record], Some(&expected)) {
                Ok(appended) => {
                    stored.push((seen, appended.first.get()));
                    seen = appended.last.get();
                }
                Err(error @ Error::Unmet(Unmet::Last { .. })) => {
                    assert_eq!(
                        (error.code(), error.retryable()),
                        (ErrorCode::SequenceConflict, false)
                    );
                    assert!(error.actual() > seen, "{error}");
                    seen = error.actual();
                }
                Err(error) => panic!("{error}"),
            }
        }
        stored
    };
    let mut stored: Vec<_> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(write)).collect();
        let all = writers
            .into_iter()
            .flat_map(|writer| writer.join().unwrap());
        all.collect()
    });
    stored.sort_unstable();
    let expected: Vec<_> = (0..WRITERS * TIMES).map(|seen| (seen, seen + 1)).collect();
    assert_eq!(stored, expected, "each follows the one that it has seen");
}

// BRK-07, BRK-08: what is stored under a condition expires like everything else.
#[test]
fn what_is_stored_under_a_condition_expires() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    let reality = node.main();
    let record = OwnRecord {
        topic: "op.a".into(),
        expires_at: 1,
        ..OwnRecord::default()
    };
    let expected = Expected {
        topic: "op.a".into(),
        last: 0,
    };
    let stored = reality.store(vec![record], Some(&expected)).unwrap();
    let (log, first) = (reality.log(), stored.first);
    let Found::Records(chunk) = log.read(first, first.next(), 1).unwrap() else {
        panic!("no record")
    };
    assert!(reality.expiry().has_passed(&chunk.iter().next().unwrap()));
}

// BRK-07, MSG-04
#[test]
fn an_expectation_is_of_one_topic_and_refuses_the_whole_batch() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    node.append_on("a", 1, 8);
    node.append_on("b", 1, 8);
    let batch = [with_id("b", "x"), on("c", 8)];
    let found = node.unmet(&batch, Some(("a", 2)));
    let topic = "a".to_owned();
    let (expected, found_last) = (2, 1);
    assert_eq!(
        found,
        Unmet::Last {
            topic,
            expected,
            found: found_last
        }
    );
    assert_eq!(found.field(), "expected.last");
    assert_eq!(node.main().last_written(), 2, "nothing of it is stored");
    // What was refused is not known by its id.
    let (outcome, _) = node.produce(&batch, Some(("a", 1)));
    assert_eq!(outcome.unwrap().first.get(), 3);
    // Sent again it is acknowledged, although somebody has written since.
    node.append_on("a", 1, 8);
    let again = [with_id("b", "x")];
    let (outcome, receipt) = node.produce(&again, Some(("a", 1)));
    assert_eq!(outcome.unwrap().first.get(), 3);
    let receipt = receipt.unwrap();
    assert_eq!(receipt.duplicates(), [duplicate(0, 3)]);
    assert!(receipt.is_repetition());
    node.unmet(&[on("n", 8)], Some(("never", 1)));
    assert!(node.produce(&[on("n", 8)], Some(("never", 0))).0.is_ok());
}

// MSG-04
#[test]
fn an_id_is_stored_once_also_after_the_log_was_opened_again() {
    let dir = TempDir::new().unwrap();
    {
        let node = Node::start(dir.path(), small());
        assert_eq!(
            node.stored(&[with_id("a", "1"), with_id("a", "2")]),
            (1, 2, vec![])
        );
        assert_eq!(
            node.stored(&[with_id("a", "2")]),
            (2, 2, vec![duplicate(0, 2)])
        );
        // What is new is stored, also where it repeats itself.
        let mixed = [
            with_id("a", "3"),
            with_id("a", "1"),
            on("a", 8),
            with_id("a", "3"),
            with_id("b", "1"),
        ];
        let duplicates = vec![duplicate(1, 1), duplicate(3, 3)];
        assert_eq!(node.stored(&mixed), (3, 5, duplicates));
        let all: Vec<_> = mixed.into_iter().filter(|one| !one.id.is_empty()).collect();
        let (first, last, duplicates) = node.stored(&all);
        assert_eq!((first, last), (1, 5), "the lowest and the highest");
        assert_eq!(duplicates.len(), 4);
        node.broker.close();
    }
    let node = Node::start(dir.path(), small());
    let (first, last, duplicates) = node.stored(&[with_id("b", "1"), with_id("a", "3")]);
    assert_eq!((first, last), (3, 5));
    assert_eq!(duplicates, [duplicate(0, 5), duplicate(1, 3)]);
    assert_eq!(node.stored(&[with_id("a", "4")]), (6, 6, vec![]));
}

// MSG-04: where it is not known whether a batch is stored, sending it again finds out.
#[test]
fn what_failed_under_way_can_be_sent_again() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    node.stored(&[with_id("a", "1")]);
    node.failing.store(true, Ordering::SeqCst);
    let (outcome, _) = node.produce(&[with_id("a", "2")], None);
    assert!(matches!(outcome, Err(AppendError::Indeterminate { .. })));
    node.failing.store(false, Ordering::SeqCst);
    let started = Instant::now();
    // It says that it takes no writes only after who waited was told.
    while node.main().opened_log().0 == 0 || !node.broker.read_only().is_empty() {
        assert!(started.elapsed() < WAIT, "the log is not reopened");
        std::thread::sleep(Duration::from_millis(5));
    }
    let (first, _, duplicates) = node.stored(&[with_id("a", "2")]);
    // Whichever it was, it is there once.
    let mut subscription = node.subscribe("a", Start::Earliest);
    let (sequences, _, _) = take_all(&mut subscription);
    assert_eq!(sequences.len(), 2, "{sequences:?} {duplicates:?}");
    assert_eq!(sequences[1], first);
    assert_eq!(node.stored(&[with_id("a", "1")]).0, 1);
}

// MSG-04: the window is that of the settings.
#[test]
fn no_more_ids_are_known_than_the_settings_say() {
    let dir = TempDir::new().unwrap();
    let mut options = Options::new(dir.path().to_owned(), 1, "n1".into());
    options.dedup_ids_max = 10;
    let node = Node::start_with(options);
    for id in 0..20 {
        node.stored(&[with_id("a", &id.to_string())]);
    }
    assert_eq!(node.stored(&[with_id("a", "19")]).0, 20);
    assert_eq!(node.stored(&[with_id("a", "0")]), (21, 21, vec![]));
    node.broker.close();

    let dir = TempDir::new().unwrap();
    let mut options = Options::new(dir.path().to_owned(), 1, "n1".into());
    options.dedup_ids_max = 0;
    let node = Node::start_with(options);
    assert_eq!(node.stored(&[with_id("a", "1")]).0, 1);
    assert_eq!(node.stored(&[with_id("a", "1")]), (2, 2, vec![]));
}

// MSG-05
#[test]
fn numbers_of_a_producer_go_on_without_gaps_and_never_back() {
    let dir = TempDir::new().unwrap();
    {
        let node = Node::start(dir.path(), small());
        // Nothing is known of it: it may begin anywhere.
        node.stored(&[numbered("p", 7), numbered("q", 1), numbered("p", 8)]);
        let back = node.unmet(&[numbered("p", 8)], None);
        assert_eq!(back.code(), ErrorCode::Stale);
        assert!(back.to_string().contains("had reached 8"), "{back}");
        let gap = node.unmet(&[numbered("p", 9), numbered("p", 11)], None);
        let (code, actual) = (gap.code(), gap.actual());
        assert_eq!((code, actual), (ErrorCode::SequenceConflict, 10));
        assert_eq!(gap.field(), "envelopes[1].producer_sequence");
        // Nothing of what was refused counts.
        node.stored(&[numbered("p", 9)]);
        // Another sender counts for itself, whatever it calls itself.
        let other = Identity {
            subject: "another".into(),
            ..node.identity.clone()
        };
        assert!(node.produce_as(&other, &[numbered("p", 1)], None).0.is_ok());
        node.stored(&[numbered("p", 10)]);
        // An exact repetition is none of these.
        let named = Envelope {
            id: "id".into(),
            ..numbered("p", 11)
        };
        let first = node.stored(std::slice::from_ref(&named)).0;
        assert_eq!(
            node.stored(&[named.clone(), numbered("p", 12)]).2,
            [duplicate(0, first)]
        );
        node.broker.close();
    }
    let node = Node::start(dir.path(), small());
    let back = node.unmet(&[numbered("p", 12)], None);
    assert_eq!(back.code(), ErrorCode::Stale, "known from the log");
    node.stored(&[numbered("p", 13)]);
}
