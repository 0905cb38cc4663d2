//! The wall clock jumps, as clocks do when somebody sets them, when a machine wakes up, and when a
//! virtual one is moved: the log's own time never goes back, and a search by it stays right.

use std::sync::Arc;

use arqonbus::log::{Durability, Found, Micros, Options, Sequence};

use crate::dice::Dice;
use crate::session::{START, Session, SimClock, record, small_options};
use crate::sim_storage::SimStorage;

const SECOND: u64 = 1_000_000;
const HOUR: u64 = 3_600 * SECOND;
const YEAR: u64 = 365 * 24 * HOUR;

/// What a log of one record a batch should hold: the time of each sequence from 1 on.
struct Told {
    storage: SimStorage,
    clock: Arc<SimClock>,
    options: Options,
    session: Session,
    times: Vec<u64>,
}

impl Told {
    fn new() -> Self {
        let (storage, clock) = (SimStorage::new(1), SimClock::new());
        let options = small_options();
        let session = Session::open(&storage, &clock, &options).expect("a sound disk");
        Self {
            storage,
            clock,
            options,
            session,
            times: Vec::new(),
        }
    }

    /// The clock shows `now`, and `count` batches are appended without it moving on.
    fn append_at(&mut self, now: u64, count: u64) {
        self.clock.set(Micros(now));
        for token in 0..count {
            let records = vec![record("t", &[7; 900])];
            self.session
                .append(token, records, Durability::Synced, None)
                .expect("queued");
            self.session.committer.run_until_idle();
            let before = self.times.last().copied().unwrap_or(START);
            self.times.push(before.max(now));
        }
        self.session.committer.run_chores();
    }

    fn reopen(&mut self) {
        self.session.log.close().expect("a sound disk");
        self.open();
        assert_eq!(self.session.statement, None, "after a clean close");
    }

    /// The process dies and another one opens the log.
    fn crash(&mut self) {
        self.storage = self.storage.process_kill();
        self.open();
    }

    fn open(&mut self) {
        self.session =
            Session::open(&self.storage, &self.clock, &self.options).expect("a sound disk");
    }

    /// Holds the log against what it should be: sequences, times, and a search for every time.
    fn check(&self) {
        let log = &self.session.log;
        let end = log.bounds().written_end;
        let mut found = Vec::new();
        let mut at = Sequence::FIRST;
        while let Found::Records(chunk) = log.read(at, end, 5_000).expect("readable") {
            for record in chunk.iter() {
                assert_eq!(record.sequence, at, "sequences follow each other");
                found.push(record.appended_at.0);
                at = at.next();
            }
        }
        assert_eq!(found, self.times);
        assert!(found.is_sorted(), "time goes back");

        let around = |&time: &u64| [time.saturating_sub(1), time, time + 1];
        let edges = [0, START, START + HOUR, u64::MAX];
        for time in self.times.iter().flat_map(around).chain(edges) {
            let expected = self.times.partition_point(|&appended| appended < time);
            let sought = log.seek_time(Micros(time)).expect("readable");
            assert_eq!(sought.get(), expected as u64 + 1, "time {time}");
        }
    }
}

// REL-12, LOG-09
#[test]
fn a_clock_that_jumps_forward_takes_the_log_along() {
    let mut told = Told::new();
    told.append_at(START, 30);
    for (jump, now) in [
        ("hours", START + 5 * HOUR),
        ("years", START + 10 * YEAR),
        ("to its end", u64::MAX - SECOND),
    ] {
        told.append_at(now, 30);
        assert_eq!(told.times.last(), Some(&now), "{jump}");
        told.check();
        told.reopen();
        told.check();
    }
}

// REL-12, LOG-09
#[test]
fn a_clock_that_jumps_back_stops_the_logs_time_until_it_has_caught_up() {
    for back in [SECOND, 5 * HOUR, 20 * YEAR, START + HOUR] {
        let mut told = Told::new();
        let highest = START + HOUR;
        told.append_at(highest, 30);
        told.append_at(highest - back, 30);
        assert_eq!(told.times.last(), Some(&highest), "back by {back}");
        told.check();
        told.append_at(highest - back / 2, 5);
        told.append_at(highest + 1, 5);
        assert_eq!(told.times.last(), Some(&(highest + 1)), "caught up");
        told.check();
        told.reopen();
        told.check();
    }
}

// REL-12: also over many segments, each of which says when it was made.
#[test]
fn a_clock_that_stands_still_is_no_obstacle() {
    let mut told = Told::new();
    told.append_at(START, 150);
    assert!(told.session.log.status().segments > 3);
    told.check();
    told.reopen();
    told.append_at(START, 50);
    told.check();
}

// REL-12: what the clock shows when a log is opened does not matter, after a clean end or a crash.
#[test]
fn a_log_opened_after_a_jump_goes_on_where_its_time_was() {
    for now in [0, START - 20 * YEAR, START - HOUR, START + 10 * YEAR] {
        for crashes in [false, true] {
            let mut told = Told::new();
            told.append_at(START + SECOND, 40);
            told.clock.set(Micros(now));
            if crashes {
                told.crash();
            } else {
                told.reopen();
            }
            told.check();
            told.append_at(now, 40);
            assert_eq!(told.times.last(), Some(&now.max(START + SECOND)));
            told.check();
        }
    }
}

// REL-12: a log made while the clock was not yet set.
#[test]
fn a_log_begun_in_1970_goes_on_today() {
    let clock = SimClock::new();
    clock.set(Micros(0));
    let storage = SimStorage::new(1);
    let session = Session::open(&storage, &clock, &small_options()).expect("a sound disk");
    let append = |token| {
        session
            .append(token, vec![record("t", b"x")], Durability::Synced, None)
            .expect("queued");
        session.committer.run_until_idle();
    };
    append(0);
    clock.set(Micros(START));
    append(1);
    let log = &session.log;
    let at = |time| log.seek_time(Micros(time)).expect("readable").get();
    assert_eq!((at(0), at(1), at(START), at(START + 1)), (1, 2, 2, 3));
}

// REL-12, REL-06: any jumps, any openings.
#[test]
fn random_jumps_never_turn_the_logs_time_back() {
    for seed in 0..20 {
        let mut dice = Dice::new(seed);
        let mut told = Told::new();
        let mut now = START;
        for _ in 0..25 {
            let step = *dice.pick(&[0, 1, SECOND, HOUR, YEAR]);
            now = if dice.chance(50) {
                now.saturating_add(step)
            } else {
                now.saturating_sub(step)
            };
            told.append_at(now, 1 + dice.below(6));
            match dice.below(6) {
                0 => told.reopen(),
                1 => told.crash(),
                _ => {}
            }
        }
        told.check();
        // Printed only if it fails.
        assert!(told.times.is_sorted(), "seed {seed}");
    }
}
