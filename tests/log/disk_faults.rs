//! The disk refuses: every single call of a run, every sync, for a while or for good, or because
//! it is full. Nothing is acknowledged that is not stored, reading goes on, reopening heals.

use std::sync::Arc;

use arqonbus::log::{AppendError, Durability};

use crate::dice::Dice;
use crate::history::{Ending, History};
use crate::session::{Event, Session, SimClock, small_options};
use crate::sim_storage::{Fault, SimStorage};

const APPENDS: u64 = 24;

/// A machine whose disk is about to misbehave.
struct Machine {
    storage: SimStorage,
    clock: Arc<SimClock>,
    history: History,
}

impl Machine {
    fn new(seed: u64) -> Self {
        Self {
            storage: SimStorage::new(seed),
            clock: SimClock::new(),
            history: History::default(),
        }
    }

    fn open(&mut self, ending: Ending) -> Option<Session> {
        let session = Session::open(&self.storage, &self.clock, &small_options()).ok()?;
        let statement = session.statement.clone();
        self.history
            .check_opened(&session.log, statement.as_ref(), ending)
            .ok()
            .map(|()| session)
    }

    fn open_sound(&mut self, ending: Ending) -> Session {
        self.storage.heal();
        let session = Session::open(&self.storage, &self.clock, &small_options())
            .unwrap_or_else(|error| panic!("not healed by reopening: {error:?}"));
        let statement = session.statement.clone();
        self.history
            .check_opened(&session.log, statement.as_ref(), ending)
            .unwrap_or_else(|error| panic!("not readable on a sound disk: {error:?}"));
        session
    }

    /// Appends, commits and reads on a disk that may refuse anything. Returns whether the log
    /// said that it takes no more writes.
    fn drive(&mut self, session: &Session) -> bool {
        let mut poisoned = false;
        for turn in 0..APPENDS {
            let shapes = shapes(turn);
            let durability = match turn % 3 {
                0 => Durability::Written,
                _ => Durability::Synced,
            };
            let then = (turn % 6 == 0).then_some(Durability::Synced);
            let submitted = session.submit(&mut self.history, &shapes, durability, then);
            if turn % 4 != 1 {
                self.clock.shift(10_000);
                let mut events = session.commit(&mut self.history);
                events.extend(session.do_chores(&mut self.history));
                if poisoned {
                    assert_nothing_acknowledged(&events);
                }
                poisoned |= events
                    .iter()
                    .any(|event| matches!(event, Event::Poisoned(_)));
            }
            assert!(
                !(poisoned && submitted.is_ok()) || session.log.status().read_only.is_some(),
                "poisoned, and its status does not say so"
            );
            if turn % 5 == 4 {
                let bounds = session.log.bounds();
                // A read may be what fails.
                drop(
                    self.history
                        .read(&session.log, bounds.first, bounds.durable_end, 3000),
                );
            }
        }
        if poisoned {
            self.assert_serves_reads_only(session);
        }
        poisoned
    }

    fn assert_serves_reads_only(&mut self, session: &Session) {
        self.storage.heal();
        let refused = session.submit(&mut self.history, &shapes(0), Durability::Written, None);
        assert!(
            matches!(refused, Err(AppendError::ReadOnly { .. })),
            "a poisoned log must refuse until it is reopened: {refused:?}"
        );
        let bounds = session.log.bounds();
        self.history
            .read(&session.log, bounds.first, bounds.durable_end, 3000)
            .unwrap_or_else(|error| panic!("a poisoned log must serve reads: {error:?}"));
        assert!(session.log.status().read_only.is_some());
    }
}

fn shapes(turn: u64) -> Vec<(String, usize)> {
    let mut dice = Dice::new(turn);
    (0..=turn % 3)
        .map(|index| (format!("topic.{index}"), 8 + dice.index(2500)))
        .collect()
}

fn assert_nothing_acknowledged(events: &[Event]) {
    let acknowledged = events
        .iter()
        .find(|event| matches!(event, Event::Answered(_, Ok(_))));
    assert!(
        acknowledged.is_none(),
        "acknowledged by a poisoned log: {acknowledged:?}"
    );
}

/// How many calls and syncs a run without faults makes.
fn length_of_a_run() -> (u64, usize) {
    let mut machine = Machine::new(0);
    let session = machine.open(Ending::Clean).expect("a sound disk");
    assert!(!machine.drive(&session), "poisoned without cause");
    assert!(session.log.status().segments > 2, "the run must rotate");
    (machine.storage.calls(), machine.storage.sync_calls().len())
}

/// One run with a fault planned, then reopened in each of the ways a process can come back.
fn run_and_come_back(context: &str, plan: impl Fn(&SimStorage)) {
    for way in 0..3 {
        let mut machine = Machine::new(7);
        plan(&machine.storage);
        if let Some(session) = machine.open(Ending::Interrupted) {
            machine.drive(&session);
            session.note(&mut machine.history);
            if way == 0 {
                // What was acknowledged is safe whether or not it can be closed.
                drop(session.log.close());
                session.note(&mut machine.history);
            }
        }
        machine.storage.heal();
        machine.storage = match way {
            0 => machine.storage,
            1 => machine.storage.process_kill(),
            _ => machine.storage.power_cut_losing_all(),
        };
        let session = machine.open_sound(Ending::Interrupted);
        assert_eq!(
            session.log.status().read_only,
            None,
            "{context}: still read-only"
        );
        let poisoned = machine.drive(&session);
        assert!(!poisoned, "{context}: poisoned on a sound disk");
        // What recovery found and built on must be on the disk, whatever a sync lost before.
        session.note(&mut machine.history);
        drop(session);
        machine.storage = machine.storage.power_cut_losing_all();
        machine.open_sound(Ending::PowerCut);
    }
}

// REL-07, LOG-06, LOG-02
#[test]
fn any_single_call_may_fail() {
    let (calls, _) = length_of_a_run();
    for fault in Fault::ALL {
        for call in 1..=calls {
            let context = format!("call {call} fails with {fault:?}");
            run_and_come_back(&context, |storage| storage.fail_call(call, fault));
        }
    }
}

// REL-07, LOG-06: a mount that turns read-only, or descriptors that run out, for good.
#[test]
fn all_calls_may_fail_from_any_one_on() {
    let (calls, _) = length_of_a_run();
    for (index, fault) in (0_u64..).zip(Fault::ALL) {
        for call in (1 + index..=calls).step_by(5) {
            let context = format!("calls from {call} on fail with {fault:?}");
            run_and_come_back(&context, |storage| storage.fail_from(call, fault));
        }
    }
}

// REL-07, LOG-02, LOG-01: a sync that fails and then "succeeds" has lost data for ever.
#[test]
fn any_sync_may_fail_once() {
    let (_, syncs) = length_of_a_run();
    for sync in 1..=syncs {
        run_and_come_back(&format!("sync {sync} fails"), |storage| {
            storage.fail_sync(sync)
        });
    }
}

// LOG-02, LOG-01: neither the batch of the failed sync nor a later one is acknowledged as synced.
#[test]
fn a_failed_sync_is_never_retried_into_an_acknowledgement() {
    let mut machine = Machine::new(3);
    let session = machine.open(Ending::Clean).expect("a sound disk");
    let synced = Durability::Synced;
    session
        .submit(&mut machine.history, &shapes(0), synced, None)
        .expect("queued");
    machine.storage.fail_sync(1);
    let events = session.commit(&mut machine.history);
    assert_nothing_acknowledged(&events);
    assert!(
        events.iter().any(|event| matches!(
            event,
            Event::Answered(_, Err(AppendError::Indeterminate { .. }))
        )),
        "{events:?}"
    );
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::Poisoned(_))),
        "{events:?}"
    );
    machine.assert_serves_reads_only(&session);
    assert_nothing_acknowledged(&session.commit(&mut machine.history));
    assert_nothing_acknowledged(&session.do_chores(&mut machine.history));
}

// LOG-06: a full disk refuses appends, keeps what it has, and goes on by itself.
#[test]
fn a_full_disk_refuses_until_there_is_room() {
    let mut machine = Machine::new(4);
    let session = machine.open(Ending::Clean).expect("a sound disk");
    let synced = Durability::Synced;
    machine.storage.limit_bytes(machine.storage.used() + 1000);
    let mut refused = None;
    for turn in 0..200 {
        if let Err(error) = session.submit(&mut machine.history, &shapes(turn), synced, None) {
            refused = Some(error);
        }
        for event in session.commit(&mut machine.history) {
            if let Event::Answered(_, Err(error)) = event {
                refused = Some(error);
            }
        }
        if refused.is_some() {
            break;
        }
    }
    assert!(
        matches!(refused, Some(AppendError::NoSpace { .. })),
        "{refused:?}"
    );
    assert_eq!(
        session.log.status().read_only,
        None,
        "a full disk poisons nothing"
    );
    let bounds = session.log.bounds();
    assert!(bounds.durable_end.get() > 1, "nothing fitted at all");
    machine
        .history
        .read(&session.log, bounds.first, bounds.durable_end, 3000)
        .unwrap_or_else(|error| panic!("a full disk must serve reads: {error:?}"));

    // An attempt that has just failed is not repeated for each append.
    machine.clock.shift(1_000_000);
    machine.storage.heal();
    let before = machine.history.durable_count();
    assert!(!machine.drive(&session), "poisoned by a full disk");
    session.do_chores(&mut machine.history);
    assert!(
        machine.history.durable_count() > before,
        "did not go on by itself"
    );
    drop(session);
    machine.storage = machine.storage.power_cut_losing_all();
    machine.open_sound(Ending::PowerCut);
}
