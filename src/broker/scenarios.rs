//! Whole stories of the broker over a real log in a temporary directory.

mod audit;
mod delta;
mod forks;
mod gate;
mod groups;
mod idle;
mod lag;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tempfile::TempDir;

use super::accept::{Batch, Fault};
use super::consumer::CursorSink;
use super::fanout::{Subscriber, Visibility};
use super::scan::HistoryRead;
use super::subscription::{Credit, Filled, LagRule, Request, Start, Stop, Then, fetch};
use super::*;
use crate::log::{
    Access, AppendError, AppendSink, Appended, Clock, Committer, Durability, Found, RealStorage,
    Sequence, Storage, StorageFile, StorageLock,
};
use crate::proto::v1::{Envelope, Event, Record, VectorClock, envelope};
use crate::proto::view::{EnvelopeView, RecordView};

const WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Micros {
        Micros(1_700_000_000_000_000 + self.0.fetch_add(1_000, Ordering::Relaxed))
    }
}

/// The real file system, whose flushes fail while `failing` is set.
#[derive(Debug)]
struct Faulty {
    real: RealStorage,
    failing: Arc<AtomicBool>,
}

#[derive(Debug)]
struct FaultyFile {
    real: Box<dyn StorageFile>,
    failing: Arc<AtomicBool>,
}

impl Faulty {
    fn wrap(&self, real: Box<dyn StorageFile>) -> Box<dyn StorageFile> {
        let failing = Arc::clone(&self.failing);
        Box::new(FaultyFile { real, failing })
    }
}

impl Storage for Faulty {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.real.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.real.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        self.real.create(path).map(|file| self.wrap(file))
    }
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn StorageFile>> {
        self.real.open(path, access).map(|file| self.wrap(file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.real.rename(from, to)
    }
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.real.hard_link(from, to)
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.real.remove_dir_all(dir)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.real.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.real.sync_dir(dir)
    }
    fn lock(&self, path: &Path, owner: &str) -> io::Result<Box<dyn StorageLock>> {
        self.real.lock(path, owner)
    }
    fn boot_id(&self) -> io::Result<String> {
        self.real.boot_id()
    }
}

impl StorageFile for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.real.len()
    }
    fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.real.read(offset, len)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.real.write_at(offset, bytes)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.real.allocate(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        if self.failing.load(Ordering::SeqCst) {
            return Err(io::Error::other("injected"));
        }
        self.real.sync_data()
    }
    fn is_shared(&self) -> bool {
        self.real.is_shared()
    }
    fn links(&self) -> io::Result<u64> {
        self.real.links()
    }
    fn path(&self) -> &Path {
        self.real.path()
    }
}

/// Receives whatever is told to subscribers and producers.
#[derive(Debug)]
struct Ear {
    ready: Mutex<Sender<u64>>,
    appended: Mutex<Sender<Result<Appended, AppendError>>>,
    moved: Mutex<Sender<Result<Sequence, AppendError>>>,
}

struct Heard {
    ready: Receiver<u64>,
    appended: Receiver<Result<Appended, AppendError>>,
    moved: Receiver<Result<Sequence, AppendError>>,
}

impl Subscriber for Ear {
    fn ready(&self, key: u64) {
        self.ready.lock().unwrap().send(key).unwrap_or_default();
    }
}

impl AppendSink for Ear {
    fn appended(&self, _token: u64, outcome: Result<Appended, AppendError>) {
        let sender = self.appended.lock().unwrap();
        sender.send(outcome).unwrap_or_default();
    }
}

impl CursorSink for Ear {
    fn moved(&self, _key: u64, outcome: Result<Sequence, AppendError>) {
        self.moved.lock().unwrap().send(outcome).unwrap_or_default();
    }

    fn resumed(&self, _key: u64) {}
}

struct Node {
    broker: Arc<Broker>,
    identity: Identity,
    ear: Arc<Ear>,
    heard: Heard,
    failing: Arc<AtomicBool>,
}

impl Node {
    fn start(dir: &Path, log: log::Options) -> Self {
        let mut options = Options::new(dir.to_owned(), 1, "n1".into());
        options.log = log;
        Self::start_with(options)
    }

    fn start_with(options: Options) -> Self {
        let failing = Arc::new(AtomicBool::new(false));
        let environment = Environment {
            storage: Arc::new(Faulty {
                real: RealStorage,
                failing: Arc::clone(&failing),
            }),
            clock: Arc::new(TestClock::default()),
            committer: Committer::start(1),
        };
        let (ready, heard_ready) = channel();
        let (appended, heard_appended) = channel();
        let (moved, heard_moved) = channel();
        Self {
            broker: Broker::start(environment, options).unwrap(),
            identity: Identity {
                tenant: Tenant::new("t").unwrap(),
                subject: "tester".into(),
                role: Role::Admin,
                publish: Topics::All,
                subscribe: Topics::All,
                expires_at: None,
                issued_at: None,
                token_id: None,
                ends_by: None,
            },
            ear: Arc::new(Ear {
                ready: Mutex::new(ready),
                appended: Mutex::new(appended),
                moved: Mutex::new(moved),
            }),
            heard: Heard {
                ready: heard_ready,
                appended: heard_appended,
                moved: heard_moved,
            },
            failing,
        }
    }

    fn tenancy(&self) -> Arc<Tenancy> {
        self.broker.tenancy(&self.identity.tenant).unwrap()
    }

    fn main(&self) -> Arc<Reality> {
        self.tenancy().reality(&RealityName::main()).unwrap()
    }

    fn try_append(&self, envelopes: &[Envelope], durability: Durability) -> Result<(), Error> {
        self.try_append_as(&self.main(), envelopes, durability)
    }

    fn try_append_to(&self, reality: &Arc<Reality>, envelopes: &[Envelope]) -> Result<(), Error> {
        self.try_append_as(reality, envelopes, Durability::Synced)
    }

    fn try_append_as(
        &self,
        reality: &Arc<Reality>,
        envelopes: &[Envelope],
        durability: Durability,
    ) -> Result<(), Error> {
        let mut batch = Batch::new(reality, &self.identity, envelopes.len());
        for envelope in envelopes {
            let bytes = Bytes::from(envelope.encode_to_vec());
            let view = EnvelopeView::parse(&bytes).unwrap();
            let admitted = batch.admit(&bytes, &view, None)?;
            batch.take(admitted, &view, bytes.clone(), &[]);
        }
        let appended = reality.append(batch, durability, None, Arc::clone(&self.ear) as _, 0);
        reality.start();
        appended
    }

    /// Appends and waits until it is on disk.
    fn append(&self, envelopes: &[Envelope]) -> Appended {
        self.try_append(envelopes, Durability::Synced).unwrap();
        self.heard.appended.recv_timeout(WAIT).unwrap().unwrap()
    }

    fn append_on(&self, topic: &str, count: usize, payload_bytes: usize) {
        let envelopes: Vec<_> = (0..count).map(|_| on(topic, payload_bytes)).collect();
        self.append(&envelopes);
    }

    fn request(&self, filter: &str, start: Start) -> Request {
        Request {
            filter: Filter::new(filter).unwrap(),
            traits: Traits::default(),
            start,
            stop: Stop::default(),
            visibility: Visibility::Durable,
            credit: Credit::default(),
            lag: LagRule::NONE,
            lease: None,
            subscriber: Arc::clone(&self.ear) as _,
            key: 1,
        }
    }

    fn subscribe(&self, filter: &str, start: Start) -> Subscription {
        let request = self.request(filter, start);
        Subscription::start(&self.main(), request).unwrap().0
    }

    fn lease(&self, consumer: &str) -> Result<consumer::Lease, Error> {
        let tenancy = self.tenancy();
        let sink = Arc::clone(&self.ear) as _;
        let filter = Filter::everything();
        let consumers = tenancy.consumers();
        consumers.lease(&self.main(), consumer, &filter, 1, sink)
    }
}

fn on(topic: &str, payload_bytes: usize) -> Envelope {
    Envelope {
        topic: topic.into(),
        payload: Some(envelope::Payload::Event(Event {
            r#type: "test".into(),
            data: vec![7; payload_bytes].into(),
        })),
        ..Envelope::default()
    }
}

fn records(fields: &[u8]) -> Vec<Record> {
    let deliver = crate::proto::v1::Deliver::decode(fields).unwrap();
    deliver
        .records
        .iter()
        .map(|record| Record::decode(record.clone()).unwrap())
        .collect()
}

/// Fills until there is nothing more to be had, reading history as it is asked for; returns the
/// sequences, how the last fill ended, and how many reads of history there were.
fn take_all(subscription: &mut Subscription) -> (Vec<u64>, Filled, usize) {
    let mut out = BytesMut::new();
    let mut sequences = Vec::new();
    let mut reads = 0;
    let mut run = |subscription: &mut Subscription, read: HistoryRead| {
        reads += 1;
        subscription.supply(read.run());
    };
    let last = loop {
        out.clear();
        let filled = subscription.fill(&mut out, 8 << 10);
        let found = records(&out);
        assert_eq!(found.len() as u64, filled.records);
        assert!(
            found
                .iter()
                .all(|record| record.sequence < filled.next.get())
        );
        sequences.extend(found.iter().map(|record| record.sequence));
        match filled.then {
            Then::Again => {}
            Then::Read(read) => {
                run(subscription, read);
                if let Some(ahead) = subscription.read_ahead() {
                    run(subscription, ahead);
                }
            }
            Then::Wait | Then::Credit | Then::Finished | Then::Reading | Then::Failed(_) => {
                break filled;
            }
        }
    };
    (sequences, last, reads)
}

fn small() -> log::Options {
    log::Options {
        tail_bytes: 64 << 10,
        ..log::Options::default()
    }
}

// EDGE-11, LOG-19: memory does not grow with the history of a filter.
#[test]
fn a_subscriber_that_takes_nothing_has_little_read_ahead_for_it() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    for _ in 0..20 {
        node.append_on("a.b", 8, 64 << 10);
        node.append_on("c.d", 4, 64 << 10);
    }
    for (filter, expected) in [("a.*", 160), (">", 240)] {
        let mut subscription = node.subscribe(filter, Start::Earliest);
        let mut out = BytesMut::new();
        let Then::Read(read) = subscription.fill(&mut out, 8 << 10).then else {
            panic!("the beginning is not in the tail");
        };
        subscription.supply(read.run());
        let mut ahead = 0;
        while let Some(read) = subscription.read_ahead() {
            subscription.supply(read.run());
            ahead += 1;
            assert!(ahead <= 1, "{filter}: read on although nothing was taken");
        }
        assert_eq!(ahead, 1, "one read is under way while another is sent");
        assert_eq!(take_all(&mut subscription).0.len(), expected);

        let mut request = node.request(filter, Start::Earliest);
        request.credit.records = Some(2);
        let mut little = Subscription::start(&node.main(), request).unwrap().0;
        let Then::Read(read) = little.fill(&mut out, 8 << 10).then else {
            panic!("the beginning is not in the tail");
        };
        little.supply(read.run());
        assert!(
            little.read_ahead().is_none(),
            "no credit for more than that"
        );
    }
}

// BRK-02, LOG-01: written before a subscription begins and flushed afterwards, a record is as new to
// it as what comes next.
#[test]
fn a_record_on_its_way_to_the_disk_when_a_subscription_begins_is_delivered() {
    let dir = TempDir::new().unwrap();
    let options = log::Options {
        flush_after: Duration::from_secs(3600),
        ..log::Options::default()
    };
    let node = Node::start(dir.path(), options);
    // The first one is flushed with the reservation that a log needs before it shows what is
    // only written.
    for _ in 1..=2 {
        let written = node.try_append(&[on("a.b", 8)], Durability::Written);
        written.unwrap();
        node.heard.appended.recv_timeout(WAIT).unwrap().unwrap();
    }
    let begin = |filter| node.subscribe(filter, Start::Earliest);
    let mut subscriptions = [">", "a.*", "a.b"].map(begin);
    for subscription in &mut subscriptions {
        assert_eq!(take_all(subscription).0, [1], "2 is not on disk yet");
    }
    node.append_on("a.b", 1, 8);
    for subscription in &mut subscriptions {
        assert_eq!(take_all(subscription).0, [2, 3]);
    }
}

// EDGE-11, LOG-09: no loss on the way from the tail to the files and back.
#[test]
fn a_subscription_that_falls_behind_comes_back_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    let mut all = node.subscribe(">", Start::Latest);
    let mut some = node.subscribe("a.*", Start::Latest);
    assert!(take_all(&mut all).1.end_of_log, "an empty log ends at once");
    assert!(take_all(&mut some).1.end_of_log);

    let mut expected_some = Vec::new();
    for round in 0_u64..200 {
        node.append_on(if round % 50 == 7 { "a.b" } else { "c.d" }, 4, 500);
        if round % 50 == 7 {
            expected_some.extend(round * 4 + 1..=round * 4 + 4);
        }
    }
    let (found, last, reads) = take_all(&mut all);
    assert_eq!(found, (1..=800).collect::<Vec<_>>());
    assert!(reads > 0, "it had fallen behind the tail");
    assert!(last.end_of_log && matches!(last.then, Then::Wait));
    let (found, last, reads) = take_all(&mut some);
    assert_eq!(found, expected_some);
    assert!(reads > 0);
    assert!(last.end_of_log);

    node.append_on("a.x", 3, 10);
    assert_eq!(take_all(&mut all).0, [801, 802, 803]);
    let (found, last, reads) = take_all(&mut some);
    assert_eq!(found, [801, 802, 803]);
    assert_eq!(reads, 0, "it is back at the tail");
    assert!(last.end_of_log);
}

// BRK-01: those that do not want a record are not woken, and skip it.
#[test]
fn only_subscriptions_that_match_are_told() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), log::Options::default());
    let mut wanted = node.subscribe("a.>", Start::Latest);
    take_all(&mut wanted);
    node.append_on("b.c", 10, 10);
    assert!(node.heard.ready.try_recv().is_err(), "b.c wakes nobody");
    node.append_on("a.b", 1, 10);
    assert_eq!(node.heard.ready.recv_timeout(WAIT), Ok(1));
    let (found, last, _) = take_all(&mut wanted);
    assert_eq!(found, [11]);
    assert_eq!(last.next.get(), 12);
    node.append_on("a.b", 1, 10);
    node.append_on("a.b", 1, 10);
    assert_eq!(node.heard.ready.recv_timeout(WAIT), Ok(1));
    assert!(
        node.heard.ready.try_recv().is_err(),
        "told once until it looks"
    );
    assert_eq!(take_all(&mut wanted).0, [12, 13]);
}

// BRK-02
#[test]
fn subscribers_share_the_bytes_of_the_log() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), log::Options::default());
    node.append_on("a", 5, 100);
    let log = node.main().log();
    let read = || match log
        .read(Sequence::FIRST, Sequence::MAX, usize::MAX)
        .unwrap()
    {
        Found::Records(chunk) => chunk.records,
        other => panic!("{other:?}"),
    };
    assert_eq!(read().as_ptr(), read().as_ptr());
    let mut frames = Vec::new();
    for filter in [">", "a", "*"] {
        let mut subscription = node.subscribe(filter, Start::Earliest);
        let mut out = BytesMut::new();
        subscription.fill(&mut out, 1 << 20);
        frames.push(out);
    }
    assert!(frames.iter().all(|frame| *frame == read()));
}

// 2.2 Subscribe: starts and stops.
#[test]
fn starts_and_stops_are_exact() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), log::Options::default());
    for _ in 0..10 {
        node.append_on("a", 1, 10);
    }
    let times: Vec<_> = records(&{
        let mut out = BytesMut::new();
        node.subscribe(">", Start::Earliest).fill(&mut out, 1 << 20);
        out
    })
    .iter()
    .map(|record| Micros(record.appended_at))
    .collect();
    let take = |start, stop| {
        let request = Request {
            stop,
            ..node.request(">", start)
        };
        let (mut subscription, _) = Subscription::start(&node.main(), request).unwrap();
        let (found, last, _) = take_all(&mut subscription);
        (found, matches!(last.then, Then::Finished))
    };
    let sequence = |n| Sequence::new(n).unwrap();
    let none = Stop::default();
    let at_end = Stop {
        at_end: true,
        ..none
    };
    let until = |n| Stop {
        sequence: Some(sequence(n)),
        ..none
    };
    let all: Vec<u64> = (1..=10).collect();
    assert_eq!(take(Start::Earliest, none), (all.clone(), false));
    assert_eq!(take(Start::Earliest, at_end), (all.clone(), true));
    assert_eq!(take(Start::Latest, at_end), (vec![], true));
    assert_eq!(
        take(Start::Sequence(sequence(4)), until(6)),
        (vec![4, 5, 6], true)
    );
    assert_eq!(
        take(Start::Sequence(sequence(9)), until(20)),
        (vec![9, 10], false)
    );
    assert_eq!(take(Start::Time(times[7]), at_end), (vec![8, 9, 10], true));
    let time = Stop {
        time: Some(times[2]),
        ..none
    };
    assert_eq!(take(Start::Earliest, time), (vec![1, 2, 3], true));
    assert_eq!(take(Start::Sequence(sequence(30)), none), (vec![], false));
}

#[test]
fn a_stop_sequence_without_a_match_ends_the_subscription_too() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), log::Options::default());
    let request = Request {
        stop: Stop {
            sequence: Sequence::new(3),
            ..Stop::default()
        },
        ..node.request("never", Start::Earliest)
    };
    let (mut subscription, _) = Subscription::start(&node.main(), request).unwrap();
    assert!(matches!(take_all(&mut subscription).1.then, Then::Wait));
    node.append_on("a", 3, 10);
    assert_eq!(node.heard.ready.recv_timeout(WAIT), Ok(1));
    assert!(matches!(take_all(&mut subscription).1.then, Then::Finished));
}

// EDGE-11: nothing beyond the credit, nothing lost when it comes.
#[test]
fn credit_is_kept_to_the_record() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), log::Options::default());
    node.append_on("a", 10, 100);
    let request = Request {
        credit: Credit {
            records: Some(3),
            bytes: None,
        },
        ..node.request(">", Start::Earliest)
    };
    let (mut subscription, _) = Subscription::start(&node.main(), request).unwrap();
    let (found, last, _) = take_all(&mut subscription);
    assert_eq!(found, [1, 2, 3]);
    assert!(matches!(last.then, Then::Credit) && !last.end_of_log);
    assert_eq!(last.next.get(), 4);
    subscription.add_credit(5, 0, u64::MAX);
    assert_eq!(take_all(&mut subscription).0, [4, 5, 6, 7, 8]);
    subscription.add_credit(2, 0, u64::MAX);
    let (found, last, _) = take_all(&mut subscription);
    assert_eq!(found, [9, 10]);
    assert!(last.end_of_log, "the end needs no credit");

    let request = Request {
        credit: Credit {
            records: None,
            bytes: Some(1),
        },
        ..node.request(">", Start::Earliest)
    };
    let (mut subscription, _) = Subscription::start(&node.main(), request).unwrap();
    assert_eq!(
        take_all(&mut subscription).0,
        [1],
        "a large record leaves a debt"
    );
    subscription.add_credit(0, 1, u64::MAX);
    assert!(
        take_all(&mut subscription).0.is_empty(),
        "which is paid first"
    );
}

// BRK-03
#[test]
fn a_named_consumer_resumes_after_restart() {
    let dir = TempDir::new().unwrap();
    {
        let node = Node::start(dir.path(), log::Options::default());
        node.append_on("a", 10, 10);
        let lease = node.lease("c1").unwrap();
        assert!(matches!(node.lease("c1"), Err(Error::ConsumerInUse { .. })));
        assert_eq!(lease.cursor(), None);
        assert!(matches!(
            lease.ack(Sequence::new(11).unwrap()),
            Err(Error::BeyondEnd {
                asked: 11,
                last: 10
            })
        ));
        assert!(!lease.ack(Sequence::new(4).unwrap()).unwrap());
        let moved = node.heard.moved.recv_timeout(WAIT).unwrap().unwrap();
        assert_eq!(moved.get(), 4);
        assert!(lease.ack(Sequence::new(3).unwrap()).unwrap(), "covered");
        // Neither is waited for; the last one goes when the lease is given back.
        lease.ack(Sequence::new(5).unwrap()).unwrap();
        lease.ack(Sequence::new(6).unwrap()).unwrap();
        drop(lease);
        drop(node.lease("c1").unwrap());
        node.broker.close();
    }
    let node = Node::start(dir.path(), log::Options::default());
    let listed = node.tenancy().consumers().list();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].sequence, Sequence::new(6));
    let request = Request {
        lag: LagRule::NONE,
        lease: Some(node.lease("c1").unwrap()),
        ..node.request(">", Start::Earliest)
    };
    let (mut subscription, started) = Subscription::start(&node.main(), request).unwrap();
    assert!(started.resumed);
    assert_eq!(take_all(&mut subscription).0, [7, 8, 9, 10]);
}

// BRK-03: no record is passed over in silence.
#[test]
fn a_consumer_ahead_of_its_log_is_refused() {
    let dir = TempDir::new().unwrap();
    {
        let node = Node::start(dir.path(), log::Options::default());
        node.append_on("a", 10, 10);
        let lease = node.lease("c1").unwrap();
        lease.ack(Sequence::new(10).unwrap()).unwrap();
        drop(lease);
        node.broker.close();
    }
    std::fs::remove_dir_all(dir.path().join("t").join("main")).unwrap();
    let node = Node::start(dir.path(), log::Options::default());
    node.append_on("a", 9, 10);
    let request = |consumer| Request {
        lag: LagRule::NONE,
        lease: Some(node.lease(consumer).unwrap()),
        ..node.request(">", Start::Earliest)
    };
    let refused = Subscription::start(&node.main(), request("c1")).unwrap_err();
    assert_eq!(refused.code().as_str(), "OFFSET_OUT_OF_RANGE");
    let text = refused.to_string();
    assert!(text.contains("cursor is at 10") && text.contains("last sequence is 9"));
    assert!(Subscription::start(&node.main(), request("c2")).is_ok());
}

// BRK-03
#[test]
fn a_consumer_that_changes_hands_keeps_its_place_and_answers_its_new_holder() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), log::Options::default());
    node.append_on("a", 200, 10);
    let at = |sequence| Sequence::new(sequence).unwrap();
    for round in 0..20 {
        let base = round * 10;
        let first = node.lease("c").unwrap();
        first.ack(at(base + 1)).unwrap();
        first.ack(at(base + 2)).unwrap();
        first.ack(at(base + 3)).unwrap();
        drop(first);
        let second = node.lease("c").unwrap();
        assert_eq!(
            second.cursor(),
            Some(at(base + 3)),
            "nothing is given twice"
        );
        let stored = second.ack(at(base + 2)).unwrap();
        if !stored {
            while node.heard.moved.recv_timeout(WAIT).unwrap().unwrap() < at(base + 2) {}
        }
        if !second.ack(at(base + 4)).unwrap() {
            while node.heard.moved.recv_timeout(WAIT).unwrap().unwrap() < at(base + 4) {}
        }
        assert_eq!(
            node.tenancy().consumers().list()[0].sequence,
            Some(at(base + 4))
        );
    }
}

// LOG-09
#[test]
fn a_start_beyond_the_end_is_the_end() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), log::Options::default());
    node.append_on("a", 3, 10);
    let far = Sequence::new(1_000).unwrap();
    let mut subscription = node.subscribe(">", Start::Sequence(far));
    assert_eq!(subscription.next().get(), 4);
    let mut out = BytesMut::new();
    let filled = fetch(
        &node.main(),
        Filter::everything(),
        Traits::default(),
        far,
        9,
        1 << 20,
        &mut out,
    )
    .unwrap();
    assert_eq!((filled.records, filled.next.get()), (0, 4));
    node.append_on("a", 2, 10);
    assert_eq!(take_all(&mut subscription).0, [4, 5]);
}

// LOG-02, LOG-06
#[test]
fn a_poisoned_reality_is_read_only_and_comes_back() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), log::Options::default());
    let mut subscription = node.subscribe(">", Start::Earliest);
    node.append_on("a", 3, 10);
    assert_eq!(take_all(&mut subscription).0, [1, 2, 3]);

    node.failing.store(true, Ordering::SeqCst);
    node.try_append(&[on("a", 10)], Durability::Synced).unwrap();
    let outcome = node.heard.appended.recv_timeout(WAIT).unwrap();
    assert!(matches!(outcome, Err(AppendError::Indeterminate { .. })));
    // The producer can be told before the watcher is.
    let started = Instant::now();
    while node.broker.read_only().is_empty() {
        assert!(started.elapsed() < WAIT, "the log is not poisoned");
        std::thread::yield_now();
    }
    let refused = node.try_append(&[on("a", 10)], Durability::Synced);
    assert!(matches!(refused, Err(Error::ReadOnly { .. })));
    let refused = refused.unwrap_err();
    assert!(refused.retryable(), "{refused}");
    assert!(refused.to_string().contains("the cause: "), "{refused}");
    assert!(
        !refused.to_string().contains(&*dir.path().to_string_lossy()),
        "{refused}"
    );
    assert_eq!(take_all(&mut subscription).0, [0_u64; 0], "reading goes on");

    node.failing.store(false, Ordering::SeqCst);
    let started = Instant::now();
    while !node.broker.read_only().is_empty() {
        assert!(started.elapsed() < WAIT, "the log is not reopened");
        std::thread::sleep(Duration::from_millis(5));
    }
    let appended = node.append(&[on("a", 10)]);
    assert!(appended.first.get() >= 4, "no sequence is used twice");
    let (found, last, _) = take_all(&mut subscription);
    assert_eq!(found.last(), Some(&appended.first.get()));
    assert!(last.end_of_log);

    let tenancy = node.tenancy();
    let system = tenancy.reality(&RealityName::system()).unwrap();
    let started = Instant::now();
    while !system
        .log()
        .topics()
        .unwrap()
        .iter()
        .any(|topic| topic.topic == "sys.log")
    {
        assert!(started.elapsed() < WAIT, "the loss is not stated");
        std::thread::sleep(Duration::from_millis(5));
    }
}

// MSG-06
#[test]
fn a_producers_own_clock_cannot_go_back() {
    let dir = TempDir::new().unwrap();
    let clocked = |producer: &str, entries: &[(&str, u64)]| Envelope {
        producer_id: producer.into(),
        clock: Some(VectorClock {
            entries: entries.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
        }),
        ..on("a", 1)
    };
    let back = |result: Result<(), Error>| match result {
        Err(Error::Rejected(rejection)) => (rejection.path(), rejection.fault),
        other => panic!("{other:?}"),
    };
    {
        let node = Node::start(dir.path(), log::Options::default());
        node.append(&[clocked("p", &[("p", 5), ("q", 9)])]);
        let stale = [clocked("p", &[("p", 6)]), clocked("p", &[("p", 4)])];
        let (path, fault) = back(node.try_append(&stale, Durability::Synced));
        assert_eq!(path, "envelopes[1].clock");
        assert_eq!(
            fault,
            Fault::ClockBack {
                found: 4,
                reached: 6
            }
        );
        let (path, fault) =
            back(node.try_append(&[clocked("p", &[("n1/main", 2)])], Durability::Synced));
        assert_eq!(path, "envelopes[0].clock");
        assert!(matches!(
            fault,
            Fault::ClockAhead {
                found: 2,
                last: 1,
                ..
            }
        ));
        // Nothing of the refused batch is stored, nor remembered.
        node.append(&[clocked("p", &[("p", 5), ("n1/main", 1)])]);
        assert_eq!(node.main().last_written(), 2);
        let many: Vec<_> = (0..65).map(|n| (format!("k{n}"), 1)).collect();
        let many: Vec<_> = many.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        let (_, fault) = back(node.try_append(&[clocked("p", &many)], Durability::Synced));
        assert!(matches!(
            fault,
            Fault::TooLarge {
                found: 65,
                limit: 64,
                ..
            }
        ));
        node.broker.close();
    }
    let node = Node::start(dir.path(), log::Options::default());
    let (_, fault) = back(node.try_append(&[clocked("p", &[("p", 4)])], Durability::Synced));
    assert_eq!(
        fault,
        Fault::ClockBack {
            found: 4,
            reached: 5
        }
    );
    let mut out = BytesMut::new();
    let bytes = 1 << 20;
    fetch(
        &node.main(),
        Filter::everything(),
        Traits::default(),
        Sequence::FIRST,
        9,
        bytes,
        &mut out,
    )
    .unwrap();
    let found = records(&out);
    let entries = &found[1].clock.as_ref().unwrap().entries;
    assert_eq!(entries["n1/main"], 2, "the log's own entry is its sequence");
    assert_eq!((entries["p"], entries.len()), (5, 2));
}

// MSG-02, EDGE-06, and every refusal names the field.
#[test]
fn what_is_missing_is_stamped_and_what_is_wrong_is_named() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), log::Options::default());
    let own = Envelope {
        id: "m-1".into(),
        producer_id: "p".into(),
        timestamp: 5,
        tenant_id: "t".into(),
        reality_id: "main".into(),
        ..on("a.b", 1)
    };
    node.append(&[on("a.b", 1), own]);
    let mut out = BytesMut::new();
    node.subscribe(">", Start::Earliest).fill(&mut out, 1 << 20);
    let deliver = crate::proto::v1::Deliver::decode(&*out).unwrap();
    let stamped = RecordView::parse(&deliver.records[0]).unwrap();
    assert_eq!(stamped.producer(), "tester");
    assert_eq!(
        uuid::Uuid::parse_str(&stamped.id())
            .unwrap()
            .get_version_num(),
        7
    );
    assert_eq!(
        stamped.timestamp().unsigned_abs(),
        stamped.appended_at / 1_000
    );
    let kept = RecordView::parse(&deliver.records[1]).unwrap();
    assert_eq!(
        (kept.producer(), &*kept.id(), kept.timestamp()),
        ("p", "m-1", 5)
    );
    assert!(kept.stamped_id.is_empty() && kept.stamped_producer.is_empty());

    let refused = |change: &dyn Fn(&mut Envelope)| {
        let mut wrong = on("a.b", 1);
        change(&mut wrong);
        let error = node
            .try_append(&[on("a.b", 1), wrong], Durability::Synced)
            .unwrap_err();
        (error.code().as_str(), error.field())
    };
    let named = |field: &str| format!("envelopes[1].{field}");
    assert_eq!(
        refused(&|e| e.tenant_id = "u".into()),
        ("TENANT_MISMATCH", named("tenant_id"))
    );
    assert_eq!(
        refused(&|e| e.reality_id = "x".into()),
        ("VALIDATION_ERROR", named("reality_id"))
    );
    assert_eq!(
        refused(&|e| e.topic = "a..b".into()),
        ("VALIDATION_ERROR", named("topic"))
    );
    assert_eq!(
        refused(&|e| e.topic = String::new()),
        ("VALIDATION_ERROR", named("topic"))
    );
    assert_eq!(
        refused(&|e| e.topic = "sys.log".into()),
        ("FORBIDDEN", named("topic"))
    );
    for letters in ["dlq.orders", "continuum.episode.dlq.v1"] {
        assert_eq!(
            refused(&|e| e.topic = letters.into()),
            ("FORBIDDEN", named("topic"))
        );
    }
    assert_eq!(
        refused(&|e| e.id = "i".repeat(129)),
        ("TOO_LARGE", named("id"))
    );
    assert_eq!(
        refused(&|e| e.timestamp = -1),
        ("VALIDATION_ERROR", named("timestamp"))
    );
    assert_eq!(
        refused(&|e| e.expires_at = i64::MAX),
        ("VALIDATION_ERROR", named("expires_at"))
    );
    assert_eq!(node.main().last_written(), 2, "all or none");
}

#[test]
fn a_fetch_is_bounded_and_says_where_to_go_on() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    for round in 0..100 {
        node.append_on(if round % 2 == 0 { "a" } else { "b" }, 2, 1_000);
    }
    let fetched = |filter: &str, from, records, bytes| {
        let mut out = BytesMut::new();
        let filter = Filter::new(filter).unwrap();
        let from = Sequence::new(from).unwrap();
        let filled = fetch(
            &node.main(),
            filter,
            Traits::default(),
            from,
            records,
            bytes,
            &mut out,
        )
        .unwrap();
        let found: Vec<_> = self::records(&out).iter().map(|one| one.sequence).collect();
        assert_eq!(found.len() as u64, filled.records);
        (found, filled.next.get())
    };
    assert_eq!(fetched("a", 1, 3, 1 << 20), (vec![1, 2, 5], 6));
    assert_eq!(fetched(">", 199, 10, 1 << 20), (vec![199, 200], 201));
    let (found, next) = fetched(">", 1, 1_000, 10_000);
    assert!((5..=15).contains(&found.len()), "{found:?}");
    assert_eq!(next, found.len() as u64 + 1);
}

// EDGE-06, EDGE-07: nobody moves a cursor past records that only its owner may see.
#[test]
fn a_named_consumer_is_bound_to_its_filter() {
    let dir = TempDir::new().unwrap();
    let lease = |node: &Node, filter: &str| {
        let filter = Filter::new(filter).unwrap();
        let sink = Arc::clone(&node.ear) as _;
        let tenancy = node.tenancy();
        tenancy
            .consumers()
            .lease(&node.main(), "c1", &filter, 1, sink)
    };
    {
        let node = Node::start(dir.path(), log::Options::default());
        node.append_on("a", 3, 10);
        drop(lease(&node, "b.>").unwrap());
        let held = lease(&node, "a").expect("nothing acknowledged, nothing bound");
        held.ack(Sequence::new(2).unwrap()).unwrap();
        drop(held);
        node.broker.close();
    }
    let node = Node::start(dir.path(), log::Options::default());
    let refused = lease(&node, "b.>").unwrap_err();
    assert_eq!(refused.code().as_str(), "VALIDATION_ERROR");
    let text = refused.to_string();
    assert!(text.contains("c1 reads a, not b.>"), "{text}");
    assert_eq!(lease(&node, "a").unwrap().cursor(), Sequence::new(2));
}

// BRK-03, LOG-05
#[test]
fn damage_in_the_system_log_hides_no_reality_and_restarts_no_consumer() {
    let dir = TempDir::new().unwrap();
    let other = RealityName::new("other").unwrap();
    {
        let node = Node::start(dir.path(), log::Options::default());
        node.append_on("a", 3, 10);
        node.tenancy().create(&other, "me").unwrap();
        for sequence in 1..=3 {
            let lease = node.lease("c1").unwrap();
            lease.ack(Sequence::new(sequence).unwrap()).unwrap();
        }
        node.broker.close();
    }
    damage(&segments_of(dir.path(), "_system")[0], 4_096 + 200);
    let node = Node::start(dir.path(), log::Options::default());
    let tenancy = node.tenancy();
    assert!(tenancy.names().contains(&other));
    assert!(tenancy.reality(&other).is_ok());
    let refused = node.lease("c1").unwrap_err();
    assert_eq!(refused.code().as_str(), "STORAGE_FAILURE");
    assert!(!refused.retryable());
    let text = refused.to_string();
    assert!(text.contains("named consumers are not served"), "{text}");
    assert!(!text.contains(&*dir.path().to_string_lossy()), "{text}");
    node.append_on("a", 1, 10);
}

// BRK-03
#[test]
fn a_reality_whose_creation_failed_can_be_created_again() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), log::Options::default());
    let tenancy = node.tenancy();
    let other = RealityName::new("other").unwrap();
    node.failing.store(true, Ordering::SeqCst);
    tenancy.create(&other, "me").unwrap_err();
    let missing = tenancy.reality(&other).unwrap_err();
    assert!(matches!(missing, Error::NoSuchReality { .. }), "{missing}");
    node.failing.store(false, Ordering::SeqCst);
    let started = Instant::now();
    while !node.broker.read_only().is_empty() {
        assert!(started.elapsed() < WAIT, "the log is not reopened");
        std::thread::sleep(Duration::from_millis(5));
    }
    tenancy.create(&other, "me").unwrap();
    assert!(tenancy.names().contains(&other));
}

// EDGE-11: an answer is one message, which the socket's buffer must hold.
#[test]
fn a_fetch_stops_before_a_record_that_does_not_fit() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    for _ in 0..30 {
        node.append_on("a", 1, 100);
        node.append_on("a", 1, 60 << 10);
    }
    for filter in ["a", ">"] {
        let mut from = Sequence::FIRST;
        let mut found = 0;
        while from.get() <= 60 {
            let mut out = BytesMut::new();
            let filter = Filter::new(filter).unwrap();
            let bytes = 100 << 10;
            let filled = fetch(
                &node.main(),
                filter,
                Traits::default(),
                from,
                1_000,
                bytes,
                &mut out,
            )
            .unwrap();
            assert!(out.len() <= bytes, "{} bytes", out.len());
            assert!(filled.next > from, "stuck at {from}");
            found += filled.records;
            from = filled.next;
        }
        assert_eq!(found, 60);
        let mut out = BytesMut::new();
        let at = Sequence::new(2).unwrap();
        let filter = Filter::new(filter).unwrap();
        let filled = fetch(
            &node.main(),
            filter,
            Traits::default(),
            at,
            9,
            1_000,
            &mut out,
        )
        .unwrap();
        assert_eq!(filled.records, 1, "the first is taken whatever its size");
    }
}

/// The segment files of the tenant's main reality, the oldest first.
fn segments(dir: &Path) -> Vec<PathBuf> {
    segments_of(dir, "main")
}

fn segments_of(dir: &Path, reality: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("t").join(reality)).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "seg"))
        .collect();
    files.sort();
    files
}

#[expect(
    clippy::disallowed_methods,
    reason = "damage that a test does need not survive a power cut"
)]
fn damage(file: &Path, offset: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[offset] ^= 0x55;
    std::fs::write(file, bytes).unwrap();
}

impl Node {
    fn command(&self, name: &str) -> String {
        let arguments = std::collections::BTreeMap::new();
        let tenancy = self.tenancy();
        let value = command::run(
            &self.broker,
            &tenancy,
            WAIT,
            &self.identity,
            name,
            &arguments,
        );
        format!("{:?}", value.unwrap())
    }
}

// LOG-03, TOOL-18
#[test]
fn damage_met_while_reading_is_counted_and_named() {
    let dir = TempDir::new().unwrap();
    let options = log::Options {
        segment_bytes: 1 << 20,
        segment_bytes_first: 1 << 20,
        ..small()
    };
    {
        let node = Node::start(dir.path(), options.clone());
        for _ in 0..300 {
            node.append_on("a", 10, 1_000);
        }
        node.broker.close();
    }
    let sealed = segments(dir.path());
    assert!(sealed.len() > 2, "{sealed:?}");
    damage(&sealed[0], 300_000);

    let node = Node::start(dir.path(), options);
    let mut subscription = node.subscribe(">", Start::Earliest);
    let (found, _, _) = take_all(&mut subscription);
    assert!(found.len() < 3_000);
    let totals = node.broker.totals();
    assert!(totals.damaged_reads > 0);
    assert_eq!((totals.read_only, node.broker.damaged()), (0, 1));
    let places = node.main().encounters().places();
    assert_eq!(places.len(), 1, "{places:?}");
    assert_eq!(places[0].path, sealed[0]);
    for command in ["status", "log.status"] {
        let shown = node.command(command);
        assert!(
            shown.contains("damage in 00000000000000000001.seg at byte"),
            "{shown}"
        );
        assert!(!shown.contains(&*dir.path().to_string_lossy()), "{shown}");
    }
    node.append_on("a", 1, 10);
}

// LOG-03
#[test]
fn appends_to_a_corrupt_log_are_told_of_the_damage_and_not_to_retry() {
    let dir = TempDir::new().unwrap();
    {
        let node = Node::start(dir.path(), small());
        node.append_on("a", 10, 1_000);
        node.append_on("a", 10, 1_000);
        node.broker.close();
    }
    damage(&segments(dir.path())[0], 8_000);
    let node = Node::start(dir.path(), small());
    let refused = node.try_append(&[on("a", 10)], Durability::Synced);
    let refused = refused.unwrap_err();
    assert_eq!(
        refused.code(),
        crate::proto::code::ErrorCode::StorageFailure
    );
    assert!(!refused.retryable(), "{refused}");
    let text = refused.to_string();
    assert!(
        text.contains("damage in 00000000000000000001.seg at byte"),
        "{text}"
    );
    assert!(text.contains("`logdump verify DIR/t/main`"), "{text}");
    assert!(!text.contains(&*dir.path().to_string_lossy()), "{text}");
    assert!(node.command("status").contains("damage in 0000"));
}

// Realities: created once, found again, never opened by guessing.
#[test]
fn realities_exist_when_they_were_created() {
    let dir = TempDir::new().unwrap();
    let fork = RealityName::new("fork").unwrap();
    {
        let node = Node::start(dir.path(), log::Options::default());
        let tenancy = node.tenancy();
        assert!(matches!(
            tenancy.reality(&fork),
            Err(Error::NoSuchReality { .. })
        ));
        tenancy.create(&fork, "me").unwrap();
        assert!(matches!(
            tenancy.create(&fork, "me"),
            Err(Error::RealityExists { .. })
        ));
        node.broker.close();
    }
    let node = Node::start(dir.path(), log::Options::default());
    let tenancy = node.tenancy();
    assert_eq!(tenancy.names(), [fork.clone(), RealityName::main()]);
    assert_eq!(tenancy.reality(&fork).unwrap().name(), &fork);
    node.broker.close();
    let other = Tenant::new("u").unwrap();
    assert!(matches!(
        node.broker.tenancy(&other),
        Err(Error::ShuttingDown)
    ));
}

// Many appends while subscriptions come, read and go: each sees its matches once, in order.
#[test]
fn concurrent_readers_miss_and_repeat_nothing() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    let reality = node.main();
    let readers: Vec<_> = [">", "a.0", "a.*", "b.>"]
        .into_iter()
        .enumerate()
        .map(|(index, filter)| {
            let (ready, heard) = channel();
            let ear = Arc::new(Ear {
                ready: Mutex::new(ready),
                appended: Mutex::new(channel().0),
                moved: Mutex::new(channel().0),
            });
            let visibility = if index % 2 == 0 {
                Visibility::Durable
            } else {
                Visibility::WrittenToo
            };
            // The last record is one that `>` and `b.>` match; the others end by its sequence.
            let stop = Stop {
                sequence: filter
                    .starts_with('a')
                    .then_some(Sequence::new(3_000).unwrap()),
                ..Stop::default()
            };
            let request = Request {
                visibility,
                stop,
                subscriber: ear,
                ..node.request(filter, Start::Latest)
            };
            let (mut subscription, _) = Subscription::start(&reality, request).unwrap();
            let filter = Filter::new(filter).unwrap();
            std::thread::spawn(move || {
                let mut found = Vec::new();
                loop {
                    let (more, last, _) = take_all(&mut subscription);
                    found.extend(more);
                    let finished = matches!(last.then, Then::Finished);
                    if finished || found.last() == Some(&3_000) {
                        return (filter, found);
                    }
                    heard.recv_timeout(WAIT).expect("told of what there is");
                }
            })
        })
        .collect();
    let topic = |n: u64| format!("{}.{}", if n.is_multiple_of(3) { "b" } else { "a" }, n % 5);
    for base in (1..=3_000_u64).step_by(4) {
        let batch: Vec<_> = (base..base + 4).map(|n| on(&topic(n), 200)).collect();
        let durability = if base % 8 == 1 {
            Durability::Written
        } else {
            Durability::Synced
        };
        node.try_append(&batch, durability).unwrap();
    }
    for _ in 0..750 {
        node.heard.appended.recv_timeout(WAIT).unwrap().unwrap();
    }
    for reader in readers {
        let (filter, found) = reader.join().unwrap();
        let wanted: Vec<u64> = (1..=3_000).filter(|n| filter.matches(&topic(*n))).collect();
        assert_eq!(found, wanted, "{filter}");
    }
}
