//! The runner, on real logs and the embedded sink: whatever happens, the tables come to what a fold
//! of the log gives.

use proptest::prelude::*;

use super::*;
use crate::log::Found;
use crate::projections::continuum::{Continuum, EPISODES, EVENTS, History, LETTERS, NAME, TOPIC};
use crate::projections::projection::DeadLetters;
use crate::projections::table::{Cell, Table};
use crate::projections::testing::{Fault, Machine, TENANT, event, until};
use crate::proto::topic::CONTINUUM_DEAD_LETTERS;

fn standing(machine: &Machine) -> Standing {
    let status = machine.projections().status(Some(TENANT));
    status[0].standing.clone()
}

/// Letters in the log, settled or not.
fn letters_in_log(machine: &Machine) -> usize {
    let log = machine.feed().log();
    let bounds = log.bounds();
    let mut reader = log.topic_reader(Box::new(|topic| topic == CONTINUUM_DEAD_LETTERS));
    let (mut count, mut next) = (0, bounds.first);
    while let Found::Records(chunk) = reader.read(next, bounds.durable_end, 1 << 20).unwrap() {
        count += chunk.iter().count();
        next = chunk.last.next();
    }
    count
}

// PRJ-01 MSG-10
#[test]
fn batches_of_any_size_come_to_the_same_rows() {
    for records in [1, 7, 1_000] {
        let change = |options: &mut Options| options.batch_records_max = records;
        let machine = Machine::with(Arc::new(Continuum::new(History::Kept)), change);
        let feed = machine.feed();
        for number in 0..60 {
            feed.event(&event(number % 50, "a", number % 7, (number * 37) % 41));
            feed.publish("other.topic", b"of no interest");
        }
        machine.settle();
        assert_eq!(machine.tables(), machine.folded());
        assert_eq!(machine.rows(EVENTS).len(), 50);
        assert_eq!(standing(&machine).count(Outcome::Duplicate), 10);
    }
}

// PRJ-04
#[test]
fn poison_becomes_a_letter_and_the_others_go_on() {
    let machine = Machine::new();
    let feed = machine.feed();
    feed.publish(TOPIC, b"no event");
    feed.event(&event(1, "a", 1, 1));
    feed.publish(TOPIC, b"{\"event_id\":7}");
    feed.event(&event(2, "a", 2, 2));
    machine.settle();
    assert_eq!(machine.rows(EPISODES).len(), 2);
    assert_eq!(machine.rows(LETTERS).len(), 2);
    assert_eq!(machine.tables(), machine.folded());
    assert_eq!(standing(&machine).count(Outcome::Dead), 2);
}

// PRJ-04 PRJ-01
#[test]
fn a_letter_is_written_once_although_its_batch_is_repeated() {
    let mut machine = Machine::new();
    // The letter is on disk and the commit fails, again and again.
    machine
        .sink()
        .faults
        .lock()
        .unwrap()
        .extend([Fault::Away; 5]);
    machine.feed().publish(TOPIC, b"no event");
    machine.settle();
    assert_eq!(letters_in_log(&machine), 1);
    // Now the node dies in between.
    machine
        .sink()
        .faults
        .lock()
        .unwrap()
        .extend([Fault::Away; 100_000]);
    machine.feed().publish(TOPIC, b"no event either");
    until(|| letters_in_log(&machine) == 2);
    machine.restart();
    machine.settle();
    assert_eq!(letters_in_log(&machine), 2);
    assert_eq!(machine.rows(LETTERS).len(), 2);
    assert_eq!(machine.tables(), machine.folded());
}

// PRJ-04 PRJ-13
#[test]
fn a_sink_that_is_away_loses_nothing_and_buries_nothing() {
    let machine = Machine::new();
    let faults = [Fault::Away, Fault::AnswerLost, Fault::Fenced, Fault::Away];
    machine.sink().faults.lock().unwrap().extend(faults);
    for number in 0..20 {
        machine
            .feed()
            .event(&event(number, "a", number % 3, number));
    }
    machine.settle();
    // However few batches they came in, every fault is met.
    for number in 20.. {
        if machine.sink().faults.lock().unwrap().is_empty() {
            break;
        }
        machine
            .feed()
            .event(&event(number, "a", number % 3, number));
        machine.settle();
    }
    assert_eq!(machine.tables(), machine.folded());
    assert_eq!(letters_in_log(&machine), 0);
    assert!(standing(&machine).errors >= 4);
    // The rows are there before the turn that wrote them is over.
    until(|| standing(&machine).state == State::Running);
}

// PRJ-04
#[test]
fn what_a_sink_refuses_is_found_among_many() {
    let machine = Machine::new();
    *machine.sink().refuses.lock().unwrap() = Some("test://13".to_owned());
    machine
        .projections()
        .pause(TENANT, NAME, None, true, false, "a test")
        .unwrap();
    for number in 0..30 {
        machine.feed().event(&event(number, "a", number, number));
    }
    machine
        .projections()
        .pause(TENANT, NAME, None, false, false, "a test")
        .unwrap();
    machine.settle();
    assert_eq!(machine.rows(EPISODES).len(), 29);
    let letters = machine.rows(LETTERS);
    assert_eq!(letters.len(), 1);
    let reason = letters[0].0[2].text().unwrap();
    assert!(reason.contains("it does not like a row"), "{reason}");
}

// BRK-15 PRJ-09
#[test]
fn a_paused_lane_stays_paused_over_a_restart() {
    let mut machine = Machine::new();
    machine
        .projections()
        .pause(TENANT, NAME, None, true, false, "a test")
        .unwrap();
    machine.restart();
    machine.feed().event(&event(1, "a", 1, 1));
    until(|| standing(&machine).state == State::Paused);
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(machine.rows(EPISODES), []);
    machine
        .projections()
        .pause(TENANT, NAME, None, false, false, "a test")
        .unwrap();
    machine.settle();
    assert_eq!(machine.rows(EPISODES).len(), 1);
}

#[test]
fn an_idle_lane_wakes() {
    let machine = Machine::new();
    for number in 0..5 {
        machine.feed().event(&event(number, "a", number, 1));
        machine.settle();
        until(|| standing(&machine).waiting_since.is_none());
    }
    assert_eq!(machine.rows(EPISODES).len(), 5);
}

// PRJ-04
#[test]
fn records_that_retention_removed_halt_the_lane_until_somebody_skips_them() {
    let machine = Machine::with_small_segments();
    machine.feed().event(&event(0, "a", 0, 1));
    machine.settle();
    machine
        .projections()
        .pause(TENANT, NAME, None, true, false, "a test")
        .unwrap();
    for number in 1..200 {
        machine.feed().event(&event(number, "a", number, 1));
    }
    let log = machine.feed().log();
    let first = log.trim(Sequence::at_least_first(180)).unwrap();
    assert!(first > Sequence::at_least_first(3), "{first}");
    machine
        .projections()
        .pause(TENANT, NAME, None, false, false, "a test")
        .unwrap();
    until(|| standing(&machine).state == State::Halted);
    let (error, _) = standing(&machine).last_error.unwrap();
    assert!(
        error.contains("records 2 to") && error.contains("skip"),
        "{error}"
    );
    assert_eq!(machine.rows(EPISODES).len(), 1);
    machine
        .projections()
        .pause(TENANT, NAME, None, false, true, "a test")
        .unwrap();
    machine.settle();
    let there = 200 - usize::try_from(first.get() - 1).unwrap();
    assert_eq!(machine.rows(EPISODES).len(), 1 + there);
}

// PRJ-04
#[test]
fn damaged_records_are_counted_as_lost() {
    let mut machine = Machine::new();
    machine
        .projections()
        .pause(TENANT, NAME, None, true, false, "a test")
        .unwrap();
    for number in 0..10 {
        machine.feed().event(&event(number, "a", number, 1));
    }
    machine.stop();
    let directory = machine.path().join("logs").join(TENANT).join("main");
    let segment = std::fs::read_dir(&directory).unwrap();
    let mut segments = segment.map(|entry| entry.unwrap().path());
    let segment = segments.find(|path| path.extension().is_some_and(|end| end == "seg"));
    let segment = segment.expect("a segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    let text = b"test://4";
    let hit = bytes.windows(text.len()).position(|found| found == text);
    bytes[hit.expect("the event stands there as it is")] ^= 0xFF;
    std::fs::File::create(&segment)
        .and_then(|mut file| std::io::Write::write_all(&mut file, &bytes))
        .unwrap();
    machine.restart();
    machine
        .projections()
        .pause(TENANT, NAME, None, false, false, "a test")
        .unwrap();
    machine.settle();
    assert_eq!(standing(&machine).lost, 1);
    assert_eq!(machine.rows(EPISODES).len(), 9);
}

/// Panics when it reads a certain event, so many times.
#[derive(Debug)]
struct Defective {
    sound: Continuum,
    panics: std::sync::atomic::AtomicU32,
}

impl Projection for Defective {
    fn name(&self) -> &str {
        self.sound.name()
    }

    fn reality(&self) -> &str {
        self.sound.reality()
    }

    fn topics(&self) -> &[String] {
        self.sound.topics()
    }

    fn tables(&self) -> &[Table] {
        self.sound.tables()
    }

    fn dead_letters(&self) -> &DeadLetters {
        self.sound.dead_letters()
    }

    fn read(
        &self,
        source: &crate::projections::projection::Source<'_>,
    ) -> Result<Vec<Change>, Poison> {
        let changes = self.sound.read(source)?;
        let left = self
            .panics
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        assert!(left.is_err(), "a defect");
        Ok(changes)
    }
}

#[test]
fn a_defect_in_reading_stops_nobody_else() {
    let projection = Defective {
        sound: Continuum::new(History::Kept),
        panics: 3.into(),
    };
    let machine = Machine::with(Arc::new(projection), |_| {});
    machine.feed().event(&event(1, "a", 1, 1));
    machine.settle();
    assert_eq!(machine.rows(EPISODES).len(), 1);
    assert_eq!(standing(&machine).errors, 3);
}

// PRJ-04
#[test]
fn too_much_poison_halts_the_lane() {
    let change = |options: &mut Options| options.poison_per_minute_max = 3;
    let machine = Machine::with(Arc::new(Continuum::new(History::Kept)), change);
    for _ in 0..4 {
        machine.feed().publish(TOPIC, b"no event");
    }
    until(|| standing(&machine).state == State::Halted);
    let (error, _) = standing(&machine).last_error.unwrap();
    assert!(error.contains("poison_per_minute_max"), "{error}");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Event { number: u64, episode: u64, at: u64 },
    Poison,
    Fault(Fault),
    Restart,
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_u64..12, 0_u64..4, 0_u64..6)
            .prop_map(|(number, episode, at)| Step::Event { number, episode, at }),
        1 => Just(Step::Poison),
        2 => prop_oneof![Just(Fault::Away), Just(Fault::AnswerLost), Just(Fault::Fenced)]
            .prop_map(Step::Fault),
        1 => Just(Step::Restart),
        1 => Just(Step::Settle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    // PRJ-01 PRJ-02 PRJ-03 MSG-10: whatever fails and whenever the node ends, the tables come to
    // what a fold of the log gives.
    #[test]
    fn whatever_happens_the_rows_are_those_of_a_fold(
        steps in proptest::collection::vec(step(), 1..40),
        records in 1_usize..6,
    ) {
        let change = |options: &mut Options| options.batch_records_max = records;
        let mut machine = Machine::with(Arc::new(Continuum::new(History::Kept)), change);
        for step in steps {
            match step {
                Step::Event { number, episode, at } => {
                    machine.feed().event(&event(number, "a", episode, at));
                }
                Step::Poison => {
                    machine.feed().publish(TOPIC, b"no event");
                }
                Step::Fault(fault) => machine.sink().faults.lock().unwrap().push(fault),
                Step::Restart => machine.restart(),
                Step::Settle => machine.settle(),
            }
        }
        machine.settle();
        prop_assert_eq!(machine.tables(), machine.folded());
        let letters = machine.rows(LETTERS);
        prop_assert_eq!(letters.len(), letters_in_log(&machine));
        prop_assert!(letters.iter().all(|row| row.0[7] == Cell::Integer(1)));
    }
}
