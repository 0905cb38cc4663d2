//! Power is lost, the process killed, or a call refused, at every step of retention, compaction
//! and compression. What should stay is there with its content, nothing that a complete pass has
//! removed is back, and no old value of a key is the newest again.
//!
//! Each step is met with one of many possible images of the disk; `ARQONBUS_SEEDS` (500 if unset)
//! is how many images are tried at random steps besides. The long run:
//!
//! ```text
//! ARQONBUS_SEEDS=10000 cargo test --release --test log power_cut_rewriting
//! ```

use std::collections::{BTreeMap, BTreeSet};

use arqonbus::log::{Durability, Ended, Limits};

use crate::dice::Dice;
use crate::sim_storage::Fault;
use crate::upkept::{GRACE, Kept, Model, Rules, Upkept, Wish, rule};

/// One thing to be done to a log that is filled.
#[derive(Clone, Copy, Debug)]
enum Step {
    Compact,
    Retain,
    Compress,
    /// Tombstones lose their grace.
    Wait,
    /// More of the same, so that there is something to do again.
    Append,
}

const SCRIPT: [Step; 9] = [
    Step::Compact,
    Step::Compress,
    Step::Wait,
    Step::Compact,
    Step::Append,
    Step::Retain,
    Step::Compact,
    Step::Compress,
    Step::Retain,
];

fn rules() -> Rules {
    Rules::of(Limits {
        bytes: Some(12_000),
        ..Limits::default()
    })
}

struct Run {
    log: Upkept,
    /// Removed by passes that have said that they are complete.
    gone: BTreeSet<u64>,
    /// Removable by passes that have begun.
    may_go: BTreeSet<u64>,
}

fn wish(at: u64) -> Wish {
    let wish = match at % 6 {
        0 => Wish::plain("rare", 150),
        1 => Wish::plain("plain", 400),
        2 => Wish::keyed("k.two", at % 4, 500),
        _ => Wish::keyed("k.one", at % 9, 500),
    };
    Wish {
        tombstone: at % 17 == 3,
        expires_at: (at % 13 == 5).then_some(crate::session::START + 1_000_000),
        ..wish
    }
}

impl Run {
    fn filled(seed: u64) -> Self {
        let mut log = Upkept::new(seed);
        log.fill(220, wish);
        assert!(log.log().status().segments > 2);
        Self {
            log,
            gone: BTreeSet::new(),
            may_go: BTreeSet::new(),
        }
    }

    /// `false`: it failed, or the power is off.
    fn step(&mut self, step: Step) -> bool {
        let log = &mut self.log;
        let complete = match step {
            Step::Wait => {
                log.clock.shift(i64::try_from(GRACE).expect("small"));
                return true;
            }
            Step::Append => {
                for at in 0..60 {
                    log.append(&[wish(at)], Durability::Synced);
                    log.chores();
                    if log.storage.power_is_off() || log.log().status().read_only.is_some() {
                        return false;
                    }
                }
                return true;
            }
            Step::Compress => log.try_compress(0).map(|report| report.rewrites.ended),
            Step::Compact => {
                self.may_go.extend(log.superseded_or_expired());
                log.try_compact().map(|report| report.rewrites.ended)
            }
            Step::Retain => {
                self.may_go.extend(log.past_limits(&rules()));
                log.try_retain(&rules()).map(|report| report.rewrites.ended)
            }
        };
        if !matches!(complete, Ok(Ended::Complete)) {
            return false;
        }
        let Ok(present) = log.try_read_all(1 << 20) else {
            return false;
        };
        let removed = log.model.keys().filter(|at| !present.contains_key(at));
        self.gone.extend(removed.copied());
        log.model.retain(|at, _| present.contains_key(at));
        true
    }

    fn run(&mut self, script: &[Step]) -> bool {
        script.iter().all(|step| self.step(*step))
    }

    /// Holds what the log shows against all that was done, and takes it over.
    fn check(&mut self, context: &str) {
        let found = self.log.read_all(4096);
        // What was being appended when the power went may be there without anybody having heard.
        let last = self.log.written.keys().next_back().copied();
        let unheard = found.range(last.map_or(0, |at| at + 1)..);
        let unheard: Model = unheard.map(|(at, kept)| (*at, kept.clone())).collect();
        assert!(unheard.len() <= 1, "{context}: {:?}", unheard.keys());
        self.log.written.extend(unheard);
        for (at, kept) in &found {
            let written = self.log.written.get(at);
            assert_eq!(Some(kept), written, "{context}: sequence {at}");
            assert!(!self.gone.contains(at), "{context}: {at} is back");
        }
        for at in self.log.model.keys() {
            assert!(
                found.contains_key(at) || self.may_go.contains(at),
                "{context}: {at} is lost"
            );
        }
        assert_no_old_value(&self.log.written, &found, context);
        self.log.model = found;
        self.log.check(4096);
    }

    /// Everything once more, on a sound disk.
    fn finish(&mut self, context: &str) {
        self.log.compact();
        self.log.retain(&rules());
        self.log.try_compress(0).expect("a sound disk");
        self.check(context);
        self.log.close_and_open();
        self.check(context);
    }
}

/// The newest value of each key is what it was, or there is none.
fn assert_no_old_value(written: &Model, found: &Model, context: &str) {
    let newest = |all: &Model| {
        let compacted = |kept: &Kept| rule(&kept.topic).is_some();
        let mut newest = BTreeMap::new();
        for (at, kept) in all.iter().filter(|(_, kept)| compacted(kept)) {
            newest.insert((kept.topic.clone(), kept.key.clone()), *at);
        }
        newest
    };
    let should = newest(written);
    for (key, at) in newest(found) {
        assert_eq!(
            at, should[&key],
            "{context}: an old value of {key:?} is back"
        );
    }
}

/// Where in the calls of the machine the script begins and ends.
fn calls_of_the_script() -> (u64, u64) {
    let mut run = Run::filled(1);
    let start = run.log.storage.calls();
    assert!(run.run(&SCRIPT), "a sound disk");
    assert!(
        run.gone.len() > 100,
        "{} records were removed",
        run.gone.len()
    );
    let end = run.log.storage.calls();
    run.check("without a cut");
    run.finish("without a cut");
    (start, end)
}

fn cut_after(calls: u64, seed: u64) {
    let context = format!("power off after {calls} calls, seed {seed}");
    let mut run = Run::filled(1);
    run.log.storage.cut_after(calls);
    assert!(!run.run(&SCRIPT) || run.log.storage.power_is_off() || calls > 0);
    run.log.note();
    run.log.storage = run.log.storage.power_cut(seed);
    run.log.open();
    run.check(&context);
    run.finish(&context);
}

fn seeds() -> u64 {
    let text = std::env::var("ARQONBUS_SEEDS");
    text.map_or(500, |text| {
        text.parse().expect("ARQONBUS_SEEDS is a number")
    })
}

// LOG-04, LOG-10, LOG-11, LOG-15, REL-01
#[test]
fn no_cut_at_any_step_loses_or_brings_back_anything() {
    let (start, end) = calls_of_the_script();
    // Reads cannot be cut; every few calls is one that can.
    let steps = seeds().clamp(1, end - start);
    let stride = usize::try_from(((end - start) / steps).max(1)).expect("small");
    for calls in (0..end - start).step_by(stride) {
        cut_after(calls, calls);
    }
}

// LOG-04, LOG-10, LOG-11, LOG-15, REL-01
#[test]
fn no_cut_at_any_random_step_loses_or_brings_back_anything() {
    let (start, end) = calls_of_the_script();
    let mut dice = Dice::new(5);
    for _ in 0..seeds() / 5 {
        cut_after(dice.below(end - start), dice.roll());
    }
}

// REL-07, LOG-06: any call may fail; the log goes on, and so does the next pass.
#[test]
fn any_call_of_a_pass_may_fail() {
    const PASSES: [Step; 5] = [
        Step::Compact,
        Step::Compress,
        Step::Wait,
        Step::Compact,
        Step::Retain,
    ];
    let mut sound = Run::filled(1);
    let start = sound.log.storage.calls();
    assert!(sound.run(&PASSES));
    let calls = sound.log.storage.calls() - start;
    let stride = (calls / (seeds() / 2).max(1)).max(1);
    for call in (1..=calls).step_by(usize::try_from(stride).expect("small")) {
        let fault = Fault::ALL[usize::try_from(call % 4).expect("small")];
        let context = format!("call {call} fails with {fault:?}");
        let mut run = Run::filled(1);
        run.log.storage.fail_call(call, fault);
        for step in PASSES {
            run.step(step);
        }
        run.log.storage.heal();
        assert_eq!(run.log.log().status().read_only, None, "{context}");
        run.check(&context);
        run.log.append(&[wish(0)], Durability::Synced);
        run.log.storage = match call % 3 {
            0 => run.log.storage.process_kill(),
            1 => run.log.storage.power_cut(call),
            _ => run.log.storage.power_cut_losing_all(),
        };
        run.log.open();
        run.check(&context);
        run.finish(&context);
    }
}
