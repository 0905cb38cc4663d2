//! Realities and tenants that nobody uses are closed, and nobody notices; and what a tenant may
//! store has an end.

use std::time::Instant;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

impl Node {
    /// Closes what is not used at this moment.
    fn close_idle(&self) {
        let now = Instant::now();
        self.broker.close_idle(now);
        // Later than what the broker's own thread has noted meanwhile.
        self.broker.close_idle(now + HOUR);
    }

    fn open(&self) -> usize {
        self.broker.totals().realities
    }

    fn limited(dir: &Path, bytes: u64) -> Self {
        let mut options = Options::new(dir.to_owned(), 1, "n1".into());
        options.log = small();
        options.tenant_bytes_max = Some(bytes);
        Self::start_with(options)
    }
}

// LOG-18, BRK-03, BRK-04: what is not used is closed cleanly, with its tenant, and comes back with
// all that it had: records, sequences, cursors, realities.
#[test]
fn what_nobody_uses_is_closed_and_comes_back_whole() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    let other = RealityName::new("other").unwrap();
    node.tenancy().create(&other, "me").unwrap();
    let done = Sequence::new(2).unwrap();
    for round in 1..=3 {
        node.append_on("a", 3, 100);
        let lease = node.lease("c1").unwrap();
        if !lease.ack(done).unwrap() {
            assert_eq!(round, 1, "a cursor was forgotten");
            let moved = node.heard.moved.recv_timeout(WAIT).unwrap();
            assert_eq!(moved.unwrap(), done);
        }
        drop(lease);
        let (flushes, open) = (node.broker.totals().flushes, node.open());
        assert!(open >= 2, "main and _system");
        node.close_idle();
        let totals = node.broker.totals();
        assert_eq!((node.open(), node.broker.tenancies().len()), (0, 0));
        assert_eq!((totals.tail_bytes, totals.file_handles), (0, 0));
        assert!(totals.flushes >= flushes, "counters do not go back");

        let lease = node.lease("c1").unwrap();
        assert_eq!(lease.cursor(), Some(done));
        drop(lease);
        let (found, _, _) = take_all(&mut node.subscribe(">", Start::Earliest));
        assert_eq!(found, (1..=round * 3).collect::<Vec<_>>());
        assert!(node.tenancy().names().contains(&other));
    }
    let statements = std::fs::read_dir(dir.path().join("t/main")).unwrap();
    let mut names = statements.map(|entry| entry.unwrap().file_name());
    assert!(
        names.all(|name| !name.to_string_lossy().contains("loss")),
        "not closed cleanly"
    );
}

// LOG-18: whoever holds a subscription, a lease or the reality itself keeps it open.
#[test]
fn what_somebody_uses_stays_open() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    node.append_on("a", 1, 10);
    let subscription = node.subscribe(">", Start::Earliest);
    node.close_idle();
    assert_eq!(node.open(), 2, "main, and _system of a tenant in use");
    drop(subscription);
    let lease = node.lease("c1").unwrap();
    node.close_idle();
    assert_eq!(node.open(), 2);
    drop(lease);
    let tenancy = node.tenancy();
    node.close_idle();
    assert_eq!(node.open(), 1, "_system, which the session's tenancy needs");
    drop(tenancy);
    node.close_idle();
    assert_eq!(node.open(), 0);
}

// LOG-18, LOG-01: appends that are still queued when everybody has let go are stored and answered.
#[test]
fn appends_under_way_are_answered_before_the_close() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    for round in 0..20_u64 {
        for _ in 0..5 {
            node.try_append(&[on("a", 1_000)], Durability::Synced)
                .unwrap();
        }
        node.close_idle();
        assert_eq!(node.open(), 0);
        let answers: Vec<u64> = (0..5)
            .map(|_| node.heard.appended.recv_timeout(WAIT).unwrap())
            .map(|answer| answer.unwrap().first.get())
            .collect();
        let first = round * 5 + 1;
        assert_eq!(answers, (first..first + 5).collect::<Vec<_>>());
    }
}

// LOG-18: writers and readers of several realities while all that rests for a moment is closed:
// nobody meets a closed log, nothing is lost or there twice.
#[test]
fn idle_close_is_never_noticed() {
    const EACH: usize = 150;
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    let names = ["main", "b", "c"].map(|name| RealityName::new(name).unwrap());
    for name in &names[1..] {
        node.tenancy().create(name, "me").unwrap();
    }
    let stop = AtomicBool::new(false);
    let reopened = AtomicU64::new(0);
    let broker = &node.broker;
    std::thread::scope(|scope| {
        let writers: Vec<_> = names
            .iter()
            .map(|name| {
                let (identity, reopened) = (&node.identity, &reopened);
                scope.spawn(move || {
                    let (appended, heard) = channel();
                    let ear = Arc::new(Ear {
                        ready: Mutex::new(channel().0),
                        appended: Mutex::new(appended),
                        moved: Mutex::new(channel().0),
                    });
                    for number in 0..EACH {
                        let tenancy = broker.tenancy(&identity.tenant).unwrap();
                        if !tenancy.is_open(name) {
                            reopened.fetch_add(1, Ordering::SeqCst);
                        }
                        let reality = tenancy.reality(name).unwrap();
                        let mut batch = Batch::new(&reality, identity, 1);
                        let bytes = Bytes::from(on("a", 100).encode_to_vec());
                        let view = EnvelopeView::parse(&bytes).unwrap();
                        let admitted = batch.admit(&bytes, &view, None).unwrap();
                        batch.take(admitted, &view, bytes.clone(), &[]);
                        let sink = Arc::clone(&ear) as _;
                        reality
                            .append(batch, Durability::Synced, None, sink, 0)
                            .unwrap();
                        reality.start();
                        // Half of the answers come when nobody holds the reality any more.
                        drop(tenancy);
                        let held = number.is_multiple_of(2).then_some(reality);
                        let answer = heard.recv_timeout(WAIT).unwrap().unwrap();
                        assert_eq!(answer.first.get(), number as u64 + 1);
                        drop(held);
                        let found = broker.tenancy(&identity.tenant).unwrap();
                        let found = found.reality(name).unwrap().bounds().durable_end;
                        assert_eq!(found.get(), number as u64 + 2);
                        std::thread::sleep(Duration::from_millis(1));
                    }
                })
            })
            .collect();
        let closer = scope.spawn(|| {
            let mut now = Instant::now();
            while !stop.load(Ordering::SeqCst) {
                now += HOUR;
                broker.close_idle(now);
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        stop.store(true, Ordering::SeqCst);
        closer.join().unwrap();
    });
    let reopened = reopened.load(Ordering::SeqCst);
    assert!(reopened > 10, "only {reopened} uses met a closed log");
}

// LOG-18: a tenant that comes when all seats are taken gets that of one whom nobody uses.
#[test]
fn tenants_beyond_the_limit_take_the_place_of_idle_ones() {
    let dir = TempDir::new().unwrap();
    let mut options = Options::new(dir.path().to_owned(), 1, "n1".into());
    options.tenants_max = 2;
    let node = Node::start_with(options);
    let tenant = |name: &str| node.broker.tenancy(&Tenant::new(name).unwrap());
    let a = tenant("a").unwrap();
    drop(tenant("b").unwrap());
    let c = tenant("c").expect("b makes room");
    assert_eq!(node.broker.tenancies().len(), 2);
    let refused = tenant("b").unwrap_err();
    assert!(
        matches!(refused, Error::TenantsFull { limit: 2 }),
        "{refused}"
    );
    drop((a, c));
    for name in ["b", "d", "a", "e"] {
        drop(tenant(name).expect("nobody uses the others"));
    }
    assert_eq!(node.broker.tenancies().len(), 2);
}

// LOG-18, LOG-03: a damaged log stays open, so that readiness and status go on naming it.
#[test]
fn a_damaged_log_is_not_closed() {
    let dir = TempDir::new().unwrap();
    {
        let node = Node::start(dir.path(), small());
        node.append_on("a", 10, 1_000);
        node.append_on("a", 10, 1_000);
        node.broker.close();
    }
    damage(&segments(dir.path())[0], 8_000);
    let node = Node::start(dir.path(), small());
    node.main();
    node.close_idle();
    assert_eq!(node.broker.read_only().len(), 1);
}

// LOG-18, BRK-12: what a tenant may store has an end, which it is told; nothing that was
// acknowledged is lost, no other tenant is concerned, and room that is made can be used.
#[test]
fn a_tenant_stores_what_it_may_and_no_more() {
    const LIMIT: u64 = 200_000;
    let dir = TempDir::new().unwrap();
    let mut stored = 0;
    let fill = |node: &Node, stored: &mut u64| loop {
        match node.try_append(&[on("a", 5_000)], Durability::Synced) {
            Ok(()) => {
                node.heard.appended.recv_timeout(WAIT).unwrap().unwrap();
                *stored += 1;
            }
            Err(refused) => break refused,
        }
    };
    {
        let node = Node::limited(dir.path(), LIMIT);
        let refused = fill(&node, &mut stored);
        assert!((36..40).contains(&stored), "{stored} of 5,000 bytes fit");
        assert_eq!(refused.code().as_str(), "TOO_LARGE");
        assert!(!refused.retryable());
        let text = refused.to_string();
        assert!(
            text.contains("may store 200000") && text.contains("nothing was stored"),
            "{text}"
        );
        let shown = node.command("status");
        assert!(shown.contains("stored_bytes_max"), "{shown}");
        let sink = Arc::clone(&node.ear) as Arc<dyn AppendSink>;
        let other = Tenant::new("u").unwrap();
        let reality = node.broker.tenancy(&other).unwrap();
        let reality = reality.reality(&RealityName::main()).unwrap();
        let identity = Identity {
            tenant: other,
            ..node.identity.clone()
        };
        let mut batch = Batch::new(&reality, &identity, 1);
        let bytes = Bytes::from(on("a", 5_000).encode_to_vec());
        let view = EnvelopeView::parse(&bytes).unwrap();
        let admitted = batch.admit(&bytes, &view, None).unwrap();
        batch.take(admitted, &view, bytes.clone(), &[]);
        reality
            .append(batch, Durability::Synced, None, sink, 0)
            .unwrap();
        reality.start();
        node.heard.appended.recv_timeout(WAIT).unwrap().unwrap();
        node.tenancy().measure();
        let (counted, _) = node.tenancy().stored_bytes().unwrap();
        assert!((180_000..LIMIT + 20_000).contains(&counted), "{counted}");
        node.broker.close();
    }
    // As before, now from the files, before the reality has been opened; and again when it is.
    let node = Node::limited(dir.path(), LIMIT);
    let (found, _) = node.tenancy().stored_bytes().unwrap();
    assert!((180_000..LIMIT + 20_000).contains(&found), "{found}");
    let refused = fill(&node, &mut stored);
    assert!(
        matches!(refused, Error::TenantBytesFull { .. }),
        "{refused}"
    );
    let (sequences, _, _) = take_all(&mut node.subscribe(">", Start::Earliest));
    assert_eq!(sequences, (1..=stored).collect::<Vec<_>>());
    node.close_idle();
    let (reopened, _) = node.tenancy().stored_bytes().unwrap();
    assert!(
        reopened.abs_diff(found) < 10_000,
        "{found}, then {reopened}"
    );
}

// LOG-18, BRK-12, LOG-10: what retention removes can be stored again.
#[test]
fn room_that_is_made_can_be_used() {
    let dir = TempDir::new().unwrap();
    let mut options = Options::new(dir.path().to_owned(), 1, "n1".into());
    options.log = log::Options {
        segment_bytes: 64 << 10,
        segment_bytes_first: 64 << 10,
        ..small()
    };
    options.tenant_bytes_max = Some(400_000);
    let node = Node::start_with(options);
    while node
        .try_append(&[on("a", 5_000)], Durability::Synced)
        .is_ok()
    {
        node.heard.appended.recv_timeout(WAIT).unwrap().unwrap();
    }
    let log = node.main().log();
    log.trim(log.bounds().durable_end).unwrap();
    node.tenancy().measure();
    node.append_on("a", 10, 5_000);
}
