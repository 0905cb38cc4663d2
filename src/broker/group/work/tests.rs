//! The rules of a group, under a clock of the test's own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::broker::group::options::{Bounds, Options};

const WIDE: Window = Window {
    records: 100,
    bytes: 1 << 20,
};

fn options() -> Options {
    Options {
        ack_deadline: Duration::from_secs(10),
        max_deliveries: 3,
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(3),
        in_flight_max: 100,
    }
}

fn at(seconds: u64) -> Micros {
    Micros(1_000_000 * (1_000 + seconds))
}

fn sequence(number: u64) -> Sequence {
    Sequence::new(number).unwrap()
}

/// A group that has taken in records 1, 2, ... with these keys.
fn work_with(keys: &[&str]) -> Work {
    let mut work = Work::new(options(), Bounds::default(), false, Sequence::FIRST, []);
    for (index, key) in keys.iter().enumerate() {
        take(&mut work, index as u64 + 1, key);
    }
    work
}

fn take(work: &mut Work, number: u64, key: &str) {
    let record = Record {
        field: Bytes::from(vec![0; 10]),
        start: 2,
        expires_at: None,
    };
    work.take_in(sequence(number), Some(key), record, at(0));
}

fn lease(work: &mut Work, member: MemberId, now: Micros) -> Vec<(u64, u32)> {
    let leases = work.lease(member, 1 << 20, now);
    let shown = leases.iter();
    shown.map(|one| (one.sequence.get(), one.attempt)).collect()
}

fn open(work: &Work) -> (u64, Vec<u64>) {
    let (next, open) = work.snapshot();
    (next.get(), open.iter().map(|one| one.sequence).collect())
}

// BRK-04: the same key is never out twice, and a failed record holds back those behind it, of its
// key alone.
#[test]
fn a_key_is_with_one_member_at_a_time() {
    let mut work = work_with(&["a", "a", "b", "", ""]);
    let one = work.join("one", WIDE);
    assert_eq!(
        lease(&mut work, one, at(0)),
        [(1, 1), (3, 1), (4, 1), (5, 1)]
    );
    let two = work.join("two", WIDE);
    assert_eq!(lease(&mut work, two, at(0)), []);
    let failed = Failed::default();
    work.nack(one, sequence(1), 0, &failed, at(0)).unwrap();
    assert_eq!(
        lease(&mut work, two, at(0)),
        [],
        "2 waits for 1, which backs off"
    );
    work.expire(at(1));
    assert_eq!(lease(&mut work, two, at(1)), [(1, 2)]);
    work.ack(two, sequence(1), 2).unwrap();
    assert_eq!(lease(&mut work, two, at(1)), [(2, 1)]);
}

// BRK-04: whoever answers too late, or for somebody else, is refused and changes nothing.
#[test]
fn a_lease_is_fenced() {
    let mut work = work_with(&["a", "a"]);
    let (one, two) = (work.join("one", WIDE), work.join("two", WIDE));
    assert_eq!(lease(&mut work, one, at(0)), [(1, 1)]);
    assert_eq!(work.ack(two, sequence(1), 0), Err(Stale));
    work.expire(at(10));
    work.expire(at(11));
    assert_eq!(lease(&mut work, two, at(11)), [(1, 2)]);
    assert_eq!(work.ack(one, sequence(1), 0), Err(Stale));
    assert_eq!(work.extend(one, sequence(1), 0, None, at(11)), Err(Stale));
    assert_eq!(
        work.nack(one, sequence(1), 0, &Failed::default(), at(11)),
        Err(Stale)
    );
    assert_eq!(
        work.ack(two, sequence(1), 1),
        Err(Stale),
        "not that delivery"
    );
    let version = work.ack(two, sequence(1), 2).unwrap();
    assert_eq!(work.ack(two, sequence(1), 2), Ok(version), "said twice");
    work.stored(version);
    assert_eq!(
        work.ack(two, sequence(1), 2),
        Err(Stale),
        "nobody remembers"
    );
    assert_eq!(open(&work), (2, vec![]));
}

// BRK-04: back-off doubles up to its bound, then the record is dead; its letter comes before it is
// done.
#[test]
fn failures_back_off_and_end_with_a_letter() {
    let mut work = work_with(&["a", "a"]);
    let one = work.join("one", WIDE);
    let failed = Failed {
        error: "no",
        ..Failed::default()
    };
    for (now, due) in [(0, 1), (1, 3)] {
        assert_eq!(lease(&mut work, one, at(now)).len(), 1);
        work.nack(one, sequence(1), 0, &failed, at(now)).unwrap();
        assert_eq!(work.next_due(), Some(at(due)));
        work.expire(at(due));
    }
    assert_eq!(lease(&mut work, one, at(3)), [(1, 3)]);
    work.nack(one, sequence(1), 3, &failed, at(3)).unwrap();
    let dead = work.bury().unwrap();
    assert_eq!((dead.sequence.get(), dead.reason), (1, MAX_DELIVERIES));
    assert_eq!((dead.failures.count, &*dead.failures.error), (3, "no"));
    assert_eq!(
        (dead.failures.first_at, dead.failures.last_at),
        (at(0), at(3))
    );
    assert_eq!(lease(&mut work, one, at(3)), [], "2 waits for the letter");
    assert_eq!(open(&work), (2, vec![1]));
    work.lettered(sequence(1), false);
    assert!(work.bury().is_some(), "written again");
    work.lettered(sequence(1), true);
    assert_eq!(lease(&mut work, one, at(3)), [(2, 1)]);
    assert_eq!(open(&work), (2, vec![]));
}

// BRK-04: a longer deadline holds; a rejected record is dead at once.
#[test]
fn a_deadline_can_be_extended() {
    let mut work = work_with(&[""]);
    let one = work.join("one", WIDE);
    lease(&mut work, one, at(0));
    let longer = Some(Duration::from_secs(60));
    assert_eq!(work.extend(one, sequence(1), 1, longer, at(5)), Ok(at(65)));
    work.expire(at(64));
    assert_eq!(work.in_flight(), 1);
    let rejected = Failed {
        for_good: true,
        ..Failed::default()
    };
    work.nack(one, sequence(1), 0, &rejected, at(64)).unwrap();
    assert_eq!(work.bury().unwrap().reason, REJECTED);
}

// BRK-04: what a lost member had is for others at once; one that goes in order has not failed.
#[test]
fn members_come_and_go() {
    let mut work = work_with(&["", ""]);
    let one = work.join("one", WIDE);
    assert_eq!(lease(&mut work, one, at(0)), [(1, 1), (2, 1)]);
    let two = work.join("two", WIDE);
    work.leave(one, Leaving::Lost, at(0));
    assert_eq!(lease(&mut work, two, at(0)), [(1, 2), (2, 2)]);
    work.leave(two, Leaving::InOrder, at(0));
    let three = work.join("three", WIDE);
    assert_eq!(lease(&mut work, three, at(0)), [(1, 2), (2, 2)]);
    assert_eq!(work.ack(one, sequence(1), 0), Err(Stale));
    // Nothing grows with those who have gone.
    for _ in 0..10_000 {
        let guest = work.join("guest", WIDE);
        work.leave(guest, Leaving::Lost, at(0));
    }
    assert_eq!(
        (work.members.len(), work.hungry.len(), work.called.len()),
        (1, 1, 0)
    );
}

// BRK-04: work is shared, and whoever is called and does not come is passed over.
#[test]
fn those_who_wait_are_called_in_turn() {
    let mut work = work_with(&["", "", "", ""]);
    let (one, two) = (work.join("one", WIDE), work.join("two", WIDE));
    assert_eq!(work.call(at(0)), [one, two]);
    assert_eq!(lease(&mut work, one, at(0)), [(1, 1), (2, 1)], "its share");
    assert_eq!(work.call(at(0)), [one], "two is on its way");
    assert!(work.call(at(0)).is_empty());
    work.expire(at(1));
    assert_eq!(work.call(at(1)).len(), 2, "they have not come");
    let narrow = Window {
        records: 1,
        bytes: 1,
    };
    let three = work.join("three", narrow);
    assert_eq!(lease(&mut work, three, at(1)).len(), 1);
    assert_eq!(
        lease(&mut work, three, at(1)).len(),
        0,
        "its window is full"
    );
}

// BRK-04: a paused group gives nothing out, and only so much is out or read ahead at a time.
#[test]
fn bounds_hold() {
    let bounds = Bounds {
        ahead_max: 2,
        ..Bounds::default()
    };
    let few = Options {
        in_flight_max: 1,
        ..options()
    };
    let mut work = Work::new(few, bounds, true, Sequence::FIRST, []);
    for number in 1..=3 {
        assert!(work.has_room());
        take(&mut work, number, "");
    }
    assert!(!work.has_room() && !work.is_low());
    let one = work.join("one", WIDE);
    assert_eq!(lease(&mut work, one, at(0)), [], "paused");
    work.paused = false;
    assert_eq!(lease(&mut work, one, at(0)), [(1, 1)]);
    assert_eq!(lease(&mut work, one, at(0)), [], "one at a time");
}

// BRK-08: what has expired before anybody had it is of no use, and holds nobody up.
#[test]
fn what_has_expired_is_not_given_out() {
    let mut work = work_with(&[]);
    for (number, expires_at) in [(1, Some(at(5))), (2, None)] {
        let record = Record {
            field: Bytes::from_static(b"0123456789"),
            start: 2,
            expires_at,
        };
        work.take_in(sequence(number), Some("a"), record, at(0));
    }
    let one = work.join("one", WIDE);
    assert_eq!(lease(&mut work, one, at(5)), [(2, 1)]);
    assert_eq!(open(&work), (2, vec![]));
}

// BRK-04: what was open is open after a restart, with how it has failed, and the rest is not.
#[test]
fn a_group_goes_on_where_it_was() {
    let mut work = work_with(&["a", "b", "a", "", ""]);
    let one = work.join("one", WIDE);
    lease(&mut work, one, at(0));
    let failed = Failed {
        error: "no",
        ..Failed::default()
    };
    work.nack(one, sequence(2), 0, &failed, at(0)).unwrap();
    work.ack(one, sequence(4), 0).unwrap();
    let (next, left) = work.snapshot();
    assert_eq!(open(&work), (5, vec![1, 2, 3]));

    let mut again = Work::new(options(), Bounds::default(), false, next, left);
    assert_eq!(
        (again.floor(), again.owed()),
        (sequence(1), Some(sequence(1)))
    );
    for (number, key) in [(1, "a"), (2, "b"), (3, "a"), (4, ""), (5, "")] {
        take(&mut again, number, key);
    }
    let two = again.join("two", WIDE);
    assert_eq!(lease(&mut again, two, at(0)), [(1, 1), (5, 1)]);
    again.expire(at(1));
    assert_eq!(lease(&mut again, two, at(1)), [(2, 2)]);
    again.reset(sequence(2));
    assert_eq!(open(&again), (2, vec![]));
    assert_eq!(again.ack(two, sequence(2), 0), Err(Stale));
}

/// What happens to a group.
#[derive(Clone, Debug)]
enum Step {
    Record(u8),
    Join,
    Leave(usize, bool),
    Lease(usize),
    Ack(usize),
    Nack(usize, bool),
    Pass(u8),
    Letter(bool),
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u8..4).prop_map(Step::Record),
        1 => Just(Step::Join),
        1 => (0_usize..4, any::<bool>()).prop_map(|(who, lost)| Step::Leave(who, lost)),
        4 => (0_usize..4).prop_map(Step::Lease),
        4 => (0_usize..8).prop_map(Step::Ack),
        2 => (0_usize..8, any::<bool>()).prop_map(|(which, dead)| Step::Nack(which, dead)),
        2 => (0_u8..12).prop_map(Step::Pass),
        2 => any::<bool>().prop_map(Step::Letter),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..120)
}

/// A group together with what is true of it.
#[derive(Debug)]
struct Model {
    work: Work,
    now: u64,
    log: Vec<String>,
    members: Vec<MemberId>,
    /// As members believe.
    out: BTreeMap<u64, MemberId>,
    acked: BTreeSet<u64>,
    letters: BTreeMap<u64, u32>,
    deadline: HashMap<u64, u64>,
}

impl Model {
    fn step(&mut self, step: &Step) {
        let now = at(self.now);
        match *step {
            Step::Record(key) => {
                self.log.push(if key == 0 {
                    String::new()
                } else {
                    format!("k{key}")
                });
                self.read();
            }
            Step::Join => {
                let id = self.work.join(
                    "m",
                    Window {
                        records: 3,
                        bytes: 1 << 20,
                    },
                );
                self.members.push(id);
            }
            Step::Leave(who, lost) if !self.members.is_empty() => {
                let id = self.members.remove(who % self.members.len());
                let leaving = if lost {
                    Leaving::Lost
                } else {
                    Leaving::InOrder
                };
                self.work.leave(id, leaving, now);
                self.out.retain(|_, with| *with != id);
            }
            Step::Lease(who) if !self.members.is_empty() => {
                let id = self.members[who % self.members.len()];
                self.expire();
                for lease in self.work.lease(id, 1 << 20, now) {
                    let number = lease.sequence.get();
                    assert!(!self.acked.contains(&number), "{number} is done");
                    assert_eq!(self.out.get(&number), None, "{number} is out");
                    let key = self.key(number).to_owned();
                    if !key.is_empty() {
                        let before = (1..number).filter(|other| self.key(*other) == key);
                        let mut before = before.filter(|other| !self.is_over(*other));
                        assert_eq!(before.next(), None, "{number} overtakes one of its key");
                    }
                    self.out.insert(number, id);
                    self.deadline.insert(number, self.now + 10);
                }
            }
            Step::Ack(which) if !self.out.is_empty() => {
                let (number, id) = self.which(which);
                self.expire();
                if self.out.contains_key(&number) {
                    self.work.ack(id, sequence(number), 0).unwrap();
                    self.out.remove(&number);
                    self.acked.insert(number);
                }
            }
            Step::Nack(which, dead) if !self.out.is_empty() => {
                let (number, id) = self.which(which);
                self.expire();
                if self.out.remove(&number).is_some() {
                    let failed = Failed {
                        for_good: dead,
                        ..Failed::default()
                    };
                    self.work
                        .nack(id, sequence(number), 0, &failed, now)
                        .unwrap();
                }
            }
            Step::Pass(seconds) => {
                self.now += u64::from(seconds);
                self.expire();
            }
            Step::Letter(stored) => {
                if let Some(dead) = self.work.bury() {
                    if stored {
                        *self.letters.entry(dead.sequence.get()).or_default() += 1;
                    }
                    self.work.lettered(dead.sequence, stored);
                }
            }
            Step::Crash => {
                let (next, open) = self.work.snapshot();
                self.work = Work::new(options(), Bounds::default(), false, next, open);
                self.members.clear();
                self.out.clear();
                self.read();
            }
            Step::Leave(..) | Step::Lease(_) | Step::Ack(_) | Step::Nack(..) => {}
        }
    }

    /// Takes in what is to be read, as a coordinator does.
    fn read(&mut self) {
        while let Some(owed) = self.work.owed() {
            let key = self.key(owed.get()).to_owned();
            take(&mut self.work, owed.get(), &key);
        }
        while self.work.read_from().get() <= self.log.len() as u64 {
            let number = self.work.read_from().get();
            let key = self.key(number).to_owned();
            take(&mut self.work, number, &key);
        }
    }

    fn expire(&mut self) {
        self.work.expire(at(self.now));
        let (now, deadline) = (self.now, &self.deadline);
        self.out
            .retain(|number, _| deadline.get(number).is_some_and(|due| *due > now));
    }

    fn which(&self, which: usize) -> (u64, MemberId) {
        let (number, id) = self.out.iter().nth(which % self.out.len()).unwrap();
        (*number, *id)
    }

    fn key(&self, number: u64) -> &str {
        &self.log[usize::try_from(number).unwrap() - 1]
    }

    fn is_over(&self, number: u64) -> bool {
        self.acked.contains(&number) || self.letters.contains_key(&number)
    }
}

proptest! {
    // BRK-04, BRK-05: whatever happens, a record is never with two members, never overtakes one of
    // its key, never comes back once it is done, and is never lost.
    #[test]
    fn nothing_is_lost_and_nothing_is_out_twice(steps in steps()) {
        let mut model = Model {
            work: work_with(&[]),
            now: 0,
            log: Vec::new(),
            members: Vec::new(),
            out: BTreeMap::new(),
            acked: BTreeSet::new(),
            letters: BTreeMap::new(),
            deadline: HashMap::new(),
        };
        for step in &steps {
            model.step(step);
            prop_assert_eq!(model.work.in_flight(), model.out.len());
        }
        // In the end everybody works.
        model.step(&Step::Join);
        for _ in 0..=3 * model.log.len() {
            model.step(&Step::Pass(12));
            model.step(&Step::Lease(0));
            for (number, id) in model.out.clone() {
                model.work.ack(id, sequence(number), 0).unwrap();
                model.acked.insert(number);
            }
            model.out.clear();
            model.step(&Step::Letter(true));
        }
        for number in 1..=model.log.len() as u64 {
            prop_assert!(model.is_over(number), "{} is lost", number);
            prop_assert!(model.letters.get(&number).is_none_or(|count| *count == 1));
        }
        prop_assert_eq!(open(&model.work), (model.log.len() as u64 + 1, vec![]));
    }
}
