//! Groups over a real log: what is on disk when, what a crash leaves, and that nothing of a group
//! stays when nobody uses it.

use std::time::Instant;

use super::*;
use crate::broker::group::{Answered, Failed, Join, Leased, Member, Window, Worker};
use crate::broker::letter::{self, DeadLetter, Failure};
use crate::proto::v1::GroupOptions;

/// A member's own.
#[derive(Debug)]
struct Hands {
    ready: Mutex<Sender<u64>>,
    stored: Mutex<Sender<Result<u64, AppendError>>>,
    ended: Mutex<Sender<u64>>,
}

impl Worker for Hands {
    fn ready(&self, key: u64) {
        self.ready.lock().unwrap().send(key).unwrap_or_default();
    }
    fn stored(&self, _key: u64, outcome: Result<u64, AppendError>) {
        let stored = self.stored.lock().unwrap();
        stored.send(outcome).unwrap_or_default();
    }
    fn ended(&self, key: u64) {
        self.ended.lock().unwrap().send(key).unwrap_or_default();
    }
}

struct Working {
    member: Member,
    ready: Receiver<u64>,
    stored: Receiver<Result<u64, AppendError>>,
    ended: Receiver<u64>,
}

impl Node {
    fn try_work(&self, reality: &Arc<Reality>) -> Result<Working, Error> {
        let (ready, heard_ready) = channel();
        let (stored, heard_stored) = channel();
        let (ended, heard_ended) = channel();
        let hands = Hands {
            ready: Mutex::new(ready),
            stored: Mutex::new(stored),
            ended: Mutex::new(ended),
        };
        let join = Join {
            group: "g",
            filter: &Filter::new("a.>").unwrap(),
            start: Start::Earliest,
            options: GroupOptions {
                max_deliveries: 2,
                backoff_min_ms: 1,
                backoff_max_ms: 1,
                ..GroupOptions::default()
            },
            window: Window {
                records: 100,
                bytes: 1 << 20,
            },
            name: "tester",
            worker: Arc::new(hands),
            key: 7,
        };
        Ok(Working {
            member: self.tenancy().groups().join(reality, join)?,
            ready: heard_ready,
            stored: heard_stored,
            ended: heard_ended,
        })
    }

    fn work(&self) -> Working {
        self.try_work(&self.main()).unwrap()
    }

    /// Records of `a.b`, one by one.
    fn tasks(&self, count: usize) {
        let tasks: Vec<_> = (0..count).map(|_| on("a.b", 10)).collect();
        self.append(&tasks);
    }

    fn letters(&self) -> Vec<u64> {
        let mut letters = Vec::new();
        letter::each(&self.main(), "g", Sequence::FIRST, |_, entry| {
            if let letter::Entry::Letter(letter) = entry {
                letters.push(letter.sequence);
            }
        })
        .unwrap();
        letters
    }
}

impl Working {
    /// The next records, when there are some.
    fn next(&self) -> Vec<Leased> {
        let until = Instant::now() + WAIT;
        loop {
            let leased = self.member.lease(1 << 20).unwrap();
            if !leased.is_empty() {
                return leased;
            }
            assert!(Instant::now() < until, "nothing comes");
            let _told = self.ready.recv_timeout(Duration::from_millis(20));
        }
    }

    fn nothing(&self) {
        std::thread::sleep(Duration::from_millis(50));
        let leased = self.member.lease(1 << 20).unwrap();
        assert!(leased.is_empty(), "{leased:?}");
    }

    /// Answers, and waits until that is on disk.
    fn done(&self, sequence: Sequence) {
        if let Answered::InVersion(version) = self.member.ack(sequence, 0).unwrap() {
            while self.stored.recv_timeout(WAIT).unwrap().unwrap() < version {}
        }
    }
}

fn sequence(number: u64) -> Sequence {
    Sequence::new(number).unwrap()
}

fn numbers(leased: &[Leased]) -> Vec<u64> {
    leased.iter().map(|one| one.sequence.get()).collect()
}

// BRK-04, BRK-05: what was confirmed is done after a crash, and everything else comes again.
#[test]
fn a_group_goes_on_after_a_crash() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    node.tasks(5);
    let one = node.work();
    assert_eq!(numbers(&one.next()), [1, 2, 3, 4, 5]);
    one.done(sequence(2));
    one.done(sequence(4));
    let copy = TempDir::new().unwrap();
    copy_dir(dir.path(), copy.path());
    let again = Node::start(copy.path(), small());
    let two = again.work();
    assert_eq!(numbers(&two.next()), [1, 3, 5]);
    for left in [1, 3, 5] {
        two.done(sequence(left));
    }
    drop(two);
    let three = again.work();
    assert_eq!(three.member.floor(), sequence(6));
    three.nothing();
}

/// A picture of a node's files, as a crash would leave them.
fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

// BRK-06: a letter that is on disk is the only one of its record, also where the node died before it
// had noted that the record is done.
#[test]
fn a_crash_between_letter_and_note_writes_no_second_letter() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    node.tasks(2);
    let one = node.work();
    let leased = one.next();
    let view = RecordView::parse(leased[0].record()).unwrap();
    let failure = Failure {
        reason: letter::REJECTED,
        error: "no",
        attempts: 1,
        first_at: Micros(1),
        last_at: Micros(2),
        by: "tester",
    };
    let written: DeadLetter = letter::of(&node.main(), "g", &view, &failure);
    let at = letter::ensure(&node.main(), &written).unwrap();
    assert_eq!(letter::ensure(&node.main(), &written).unwrap(), at);
    drop(one);
    drop(leased);
    let again = {
        drop(node);
        Node::start(dir.path(), small())
    };
    let two = again.work();
    assert_eq!(numbers(&two.next()), [2]);
    two.nothing();
    assert_eq!(again.letters(), [1]);
}

// BRK-04, BRK-06: a record that fails too often, and one that is rejected, become letters; its group
// goes on.
#[test]
fn what_cannot_be_done_becomes_a_letter() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    node.tasks(2);
    let one = node.work();
    let rejected = Failed {
        error: "never",
        for_good: true,
        ..Failed::default()
    };
    let mut tried = 0;
    while tried < 3 {
        for leased in one.next() {
            let for_good = leased.sequence == sequence(2);
            let failed = Failed {
                for_good,
                ..rejected.clone()
            };
            one.member
                .nack(leased.sequence, leased.attempt, &failed)
                .unwrap();
            tried += 1;
        }
    }
    let until = Instant::now() + WAIT;
    while one.member.floor() < sequence(3) {
        assert!(Instant::now() < until, "the letters are not written");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut letters = node.letters();
    letters.sort_unstable();
    assert_eq!(letters, [1, 2]);
    one.nothing();
    node.tasks(1);
    assert_eq!(one.next().len(), 1);
}

// BRK-04, LOG-18: members come and go, and nothing of them stays; a group that nobody uses lets its
// logs be closed.
#[test]
fn idle_groups_let_go() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    node.tasks(3);
    for round in 0..=300 {
        let one = node.work();
        let leased = one.next();
        if round == 300 {
            one.done(leased[0].sequence);
        }
        if round % 2 == 0 {
            one.member.leave();
        }
        if round % 2 == 1 {
            // Else it would be a letter soon.
            let (tenancy, main) = (node.tenancy(), node.main());
            tenancy.groups().reset(&main, "g", sequence(1)).unwrap();
        }
    }
    let until = Instant::now() + WAIT;
    loop {
        let now = Instant::now();
        node.broker.close_idle(now);
        node.broker.close_idle(now + Duration::from_secs(3_600));
        if node.broker.totals().realities == 0 {
            break;
        }
        assert!(Instant::now() < until, "a group holds its logs open");
        std::thread::sleep(Duration::from_millis(5));
    }
    let listed = node.tenancy().groups().list();
    assert_eq!((listed.len(), listed[0].members.len()), (1, 0));
    assert_eq!(listed[0].floor, sequence(2));
}

// BRK-04, LOG-13: whoever works in a reality that is deleted is told, and another of its name begins
// without groups.
#[test]
fn groups_end_with_their_reality() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(dir.path(), small());
    let name = RealityName::new("other").unwrap();
    let reality = node.tenancy().create(&name, "me").unwrap();
    node.try_append_to(&reality, &[on("a.b", 1)]).unwrap();
    node.heard.appended.recv_timeout(WAIT).unwrap().unwrap();
    let one = node.try_work(&reality).unwrap();
    one.next();
    one.done(sequence(1));
    node.tenancy().delete(&name, "me").unwrap();
    assert_eq!(one.ended.recv_timeout(WAIT), Ok(7));
    assert!(one.member.lease(1).is_err() && one.member.ack(sequence(1), 0).is_err());
    drop((one, reality));
    assert!(node.tenancy().groups().list().is_empty());
    let reality = node.tenancy().create(&name, "me").unwrap();
    node.try_append_to(&reality, &[on("a.b", 1)]).unwrap();
    node.heard.appended.recv_timeout(WAIT).unwrap().unwrap();
    let anew = node.try_work(&reality).unwrap();
    assert_eq!(numbers(&anew.next()), [1]);
}
