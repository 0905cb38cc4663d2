//! Backfills, rebuilds, verifications and dead letters dealt with, on real logs and the embedded
//! sink.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::log::Sequence;
use crate::projections::backfill::{Effect, Selection};
use crate::projections::continuum::{EPISODES, EVENTS, LETTERS, NAME, TOPIC};
use crate::projections::letter::Settlement;
use crate::projections::node::{Asked, Error};
use crate::projections::rebuild::{Partial, Switch};
use crate::projections::settle::Filter;
use crate::projections::sink::{Commit, Copy, Place, Sink as _, Write};
use crate::projections::table::{Cell, Row};
use crate::projections::testing::{Machine, TENANT, at, event, id, until};
use crate::projections::verify::{ChainState, Difference};

const WITHIN: Duration = Duration::from_secs(5);

fn asked(records_per_second: Option<u64>) -> Asked<'static> {
    Asked {
        tenant: TENANT,
        projection: NAME,
        sink: None,
        by: "a test",
        records_per_second,
    }
}

fn ended(machine: &Machine, job: &Job) -> Job {
    let ended = machine.projections().job_ended(&job.id, WITHIN);
    let job = machine.runtime.block_on(ended).unwrap();
    assert!(job.state.has_ended(), "{job:?}");
    job
}

fn verified(machine: &Machine) -> Verified {
    let job = machine.projections().verify(&asked(None)).unwrap();
    match ended(machine, &job).findings {
        Some(Findings::Verify(verified)) => verified,
        other => panic!("{other:?} of {:?}", machine.projections().job(&job.id)),
    }
}

fn rebuilt(machine: &Machine, switch: Switch, partial: Partial) -> Result<Rebuilt, String> {
    let job = machine
        .projections()
        .rebuild(&asked(None), switch, partial)
        .unwrap();
    let job = ended(machine, &job);
    match job.findings {
        Some(Findings::Rebuild(rebuilt)) => Ok(rebuilt),
        _ => Err(job.error.unwrap_or_default()),
    }
}

fn everything() -> Selection {
    Selection {
        from: at(0),
        to: Micros(u64::MAX),
        agent_id: None,
    }
}

fn backfilled(machine: &Machine, selection: Selection, effect: Effect) -> Backfilled {
    let job = machine
        .projections()
        .backfill(&asked(None), selection, effect)
        .unwrap();
    match ended(machine, &job).findings {
        Some(Findings::Backfill(done)) => done,
        other => panic!("{other:?}"),
    }
}

fn place() -> Place {
    Place {
        projection: NAME.to_owned(),
        tenant: TENANT.to_owned(),
        reality: "main".to_owned(),
        log: "n1/main".to_owned(),
        copy: Copy::Live,
    }
}

/// Changes rows behind the back of the projection.
fn tamper(machine: &Machine, writes: Vec<Write>) {
    let (sink, projection) = (machine.sink(), &*machine.projection);
    let stands = machine.runtime.block_on(sink.position(&place())).unwrap();
    let commit = Commit {
        writes,
        moves: None,
        epoch: stands.unwrap().epoch,
    };
    let place = place();
    let committed = sink.sled.commit(projection, &place, &commit);
    machine.runtime.block_on(committed).unwrap();
}

fn remove(machine: &Machine, table: usize, row: &Row) -> Write {
    let key = machine.projection.tables()[table].key_of(row);
    Write::Remove { table, key }
}

fn filled() -> Machine {
    let machine = Machine::new();
    for number in 0..40 {
        let agent = if u64::is_multiple_of(number, 2) {
            "even"
        } else {
            "odd"
        };
        machine
            .feed()
            .event(&event(number, agent, number % 9, (number * 17) % 31));
    }
    machine.feed().publish(TOPIC, b"no event");
    machine.feed().event(&event(3, "odd", 3, 51 % 31));
    machine.settle();
    machine
}

// PRJ-07 PRJ-18 MSG-10
#[test]
fn a_rebuild_gives_the_same_bytes_and_mends_what_was_damaged() {
    let mut machine = filled();
    machine.restart();
    let before = machine.tables();
    let first = rebuilt(&machine, Switch::Over, Partial::Refused).unwrap();
    assert!(
        first.switched && first.same_position && first.is_same(),
        "{first:?}"
    );
    for table in &first.tables {
        assert_eq!(table.hash_expected, table.hash_found);
    }
    assert_eq!(first.tables[0].rows_expected, before[0].len() as u64);
    assert_eq!(machine.tables(), before);

    let episodes = machine.rows(EPISODES);
    let mut changed = episodes[1].clone();
    changed.0[4] = Cell::from("test://another");
    let (table, row) = (EPISODES, changed);
    let writes = vec![
        remove(&machine, EPISODES, &episodes[0]),
        Write::Put { table, row },
    ];
    tamper(&machine, writes);
    let compared = rebuilt(&machine, Switch::Never, Partial::Refused).unwrap();
    assert!(!compared.switched);
    assert_eq!(compared.tables[0].differing, 2);
    assert_ne!(
        compared.tables[0].hash_expected,
        compared.tables[0].hash_found
    );
    assert_ne!(machine.tables(), before, "only compared");
    let mended = rebuilt(&machine, Switch::Over, Partial::Refused).unwrap();
    assert_eq!(mended.tables[0].differing, 2);
    assert_eq!(machine.tables(), before);
    // The lane goes on behind it.
    machine.feed().event(&event(100, "even", 1, 100));
    machine.settle();
    assert_eq!(machine.tables(), machine.folded());
    assert!(verified(&machine).is_right());
}

// PRJ-02 PRJ-06
#[test]
fn a_backfill_takes_in_no_event_whose_id_another_one_had_first() {
    let machine = Machine::new();
    // The same id for another episode, and for the same one with something newer.
    for (episode, time) in [(1, 1), (2, 5), (1, 9)] {
        machine.feed().event(&event(7, "a", episode, time));
    }
    machine.settle();
    let before = machine.tables();
    assert_eq!(before[EPISODES].len(), 1);
    let done = backfilled(&machine, everything(), Effect::Real);
    assert_eq!(
        (
            done.count(Outcome::Projected),
            done.count(Outcome::Duplicate)
        ),
        (0, 3),
        "{done:?}"
    );
    assert_eq!(machine.tables(), before);
    // What is missing comes back, and nothing else.
    let row = machine.rows(EPISODES).remove(0);
    tamper(&machine, vec![remove(&machine, EPISODES, &row)]);
    let done = backfilled(&machine, everything(), Effect::Real);
    assert_eq!(
        (
            done.count(Outcome::Projected),
            done.count(Outcome::Duplicate)
        ),
        (1, 2),
        "{done:?}"
    );
    assert_eq!(machine.tables(), before);
}

// PRJ-18
#[test]
fn a_verification_lists_what_differs() {
    let machine = filled();
    let right = verified(&machine);
    assert!(right.is_right(), "{right:?}");
    assert_eq!(right.chain, ChainState::Same);
    let episodes = machine.rows(EPISODES);
    let mut changed = episodes[1].clone();
    changed.0[4] = Cell::from("test://another");
    let mut extra = episodes[2].clone();
    extra.0[2] = Cell::Text(id(999));
    // Of an older system.
    let mut older = episodes[2].clone();
    (older.0[2], older.0[13]) = (Cell::Text(id(998)), Cell::Null);
    let put = |row| Write::Put {
        table: EPISODES,
        row,
    };
    let gone = remove(&machine, EPISODES, &episodes[0]);
    tamper(&machine, vec![gone, put(changed), put(extra), put(older)]);
    let found = verified(&machine);
    assert!(!found.is_right());
    let listed: Vec<_> = found
        .differing
        .iter()
        .map(|one| (one.difference, &one.columns))
        .collect();
    assert_eq!(listed.len(), 3, "{found:?}");
    for wanted in [
        Difference::Missing,
        Difference::Extra,
        Difference::Different,
    ] {
        assert_eq!(
            listed.iter().filter(|(found, _)| *found == wanted).count(),
            1
        );
    }
    assert!(listed.contains(&(Difference::Different, &vec!["content_ref".to_owned()])));
    // The row of the older system is no damage, and a rebuild does not throw it away unasked.
    assert_eq!(found.tables[0].differing, 3);
    let refused = rebuilt(&machine, Switch::Over, Partial::Refused).unwrap_err();
    assert!(
        refused.contains("1 rows of arqonbus_continuum_projection"),
        "{refused}"
    );
    // Nothing is left behind.
    let scratch = std::fs::read_dir(machine.path().join("scratch")).unwrap();
    assert_eq!(scratch.count(), 0);
}

// PRJ-18
#[test]
fn checkpoints_in_the_log_are_compared() {
    let mut machine = filled();
    machine.options.checkpoint_records = 5;
    machine.restart();
    for number in 100..120 {
        machine.feed().event(&event(number, "even", number, 1));
        machine.settle();
    }
    let right = verified(&machine);
    assert!(right.checkpoints_right >= 3, "{right:?}");
    assert!(right.is_right());
    let wrong = crate::projections::sink::Position {
        next: Sequence::at_least_first(7),
        epoch: 1,
        hash: [7; 32],
    };
    let note = notes::checkpoint(NAME, SinkKind::Sled, wrong);
    Feed::note(&*machine.feed(), note);
    let found = verified(&machine);
    assert_eq!(found.checkpoints_wrong, [Sequence::at_least_first(7)]);
    assert!(!found.is_right());
}

// PRJ-06
#[test]
fn a_backfill_mends_what_it_selects_and_a_dry_run_says_the_same() {
    let machine = filled();
    let whole = machine.tables();
    let none = backfilled(&machine, everything(), Effect::Real);
    assert_eq!(none.selected, 42, "one of them is poison");
    assert_eq!(none.count(Outcome::Projected), 0, "{none:?}");
    assert_eq!(none.count(Outcome::Dead), 1);
    machine.settle();
    assert_eq!(machine.tables(), whole, "no second letter either");

    let episodes = machine.rows(EPISODES);
    let gone = episodes.iter().map(|row| remove(&machine, EPISODES, row));
    tamper(&machine, gone.collect());
    let odd = Selection {
        agent_id: Some("odd".to_owned()),
        ..everything()
    };
    let dry = backfilled(&machine, odd.clone(), Effect::DryRun);
    assert_eq!(machine.rows(EPISODES), [], "a dry run changes nothing");
    let real = backfilled(&machine, odd, Effect::Real);
    assert_eq!(dry.outcomes, real.outcomes);
    assert_eq!((dry.selected, real.selected), (21, 21));
    assert!(real.count(Outcome::Projected) >= 9);
    let mended = machine.rows(EPISODES);
    let is_odd = |row: &&Row| row.0[1] == Cell::from("odd");
    assert_eq!(
        mended,
        episodes.iter().filter(is_odd).cloned().collect::<Vec<_>>()
    );
    // The time is the one of the event, both ends included.
    let moment = Selection {
        from: at(17),
        to: at(17),
        agent_id: None,
    };
    let selected = backfilled(&machine, moment, Effect::DryRun).selected;
    let wanted = (0..40).filter(|number| (number * 17) % 31 == 17).count();
    assert_eq!(selected, wanted as u64);
    assert_eq!(
        backfilled(&machine, everything(), Effect::Real).count(Outcome::Dead),
        1
    );
    machine.settle();
    assert_eq!(machine.tables(), whole);
}

// PRJ-06 PRJ-07
#[test]
fn a_job_waits_goes_on_and_ends_when_it_is_told_to_and_the_lane_does_not_wait_for_it() {
    let mut machine = filled();
    machine.options.job_batch_records_max = 1;
    machine.restart();
    let slow = asked(Some(1));
    let projections = machine.projections();
    let job = projections
        .backfill(&slow, everything(), Effect::Real)
        .unwrap();
    until(|| projections.job(&job.id).unwrap().read > 0);
    let second = projections.rebuild(&slow, Switch::Over, Partial::Refused);
    assert!(
        matches!(second, Err(Error::Job(Refusal::Runs { .. }))),
        "{second:?}"
    );
    projections.pause_job(&job.id).unwrap();
    until(|| projections.job(&job.id).unwrap().state == JobState::Paused);
    let read = projections.job(&job.id).unwrap().read;
    machine.feed().event(&event(100, "even", 1, 100));
    machine.settle();
    assert_eq!(projections.job(&job.id).unwrap().read, read);
    projections.resume_job(&job.id).unwrap();
    until(|| projections.job(&job.id).unwrap().read > read);
    projections.cancel_job(&job.id).unwrap();
    let job = ended(&machine, &job);
    assert_eq!(job.state, JobState::Cancelled);
    let again = projections.resume_job(&job.id);
    assert!(
        matches!(again, Err(Error::Job(Refusal::Ended { .. }))),
        "{again:?}"
    );
    let unknown = projections.job("none");
    assert!(
        matches!(unknown, Err(Error::Job(Refusal::Unknown { .. }))),
        "{unknown:?}"
    );
    let noted = || {
        let noted = machine.feed().notes(&notes::control_topic(NAME)).unwrap();
        noted.into_iter().map(|note| note.kind).collect::<Vec<_>>()
    };
    until(|| noted() == [notes::JOB_STARTED, notes::JOB_ENDED]);
}

// PRJ-07
#[test]
fn a_rebuild_that_was_cut_short_leaves_the_rows_and_can_be_begun_again() {
    let mut machine = Machine::new();
    for number in 0..1_100 {
        // Without waiting for each: only the last is waited for.
        machine
            .feed()
            .event(&event(number % 50, "a", number % 9, 1));
    }
    machine.settle();
    let whole = machine.tables();
    let slow = asked(Some(1));
    let projections = machine.projections();
    let job = projections
        .rebuild(&slow, Switch::Over, Partial::Refused)
        .unwrap();
    until(|| projections.job(&job.id).unwrap().read > 0);
    machine.restart();
    assert_eq!(machine.tables(), whole);
    let rebuilt = rebuilt(&machine, Switch::Over, Partial::Refused).unwrap();
    assert!(rebuilt.is_same());
    assert_eq!(machine.tables(), whole);
}

// PRJ-07 PRJ-18
#[test]
fn what_the_log_has_no_more_is_not_thrown_away_unasked() {
    let machine = Machine::with_small_segments();
    for number in 0..200 {
        machine.feed().event(&event(number, "a", number, 1));
    }
    machine.settle();
    let first = machine
        .feed()
        .log()
        .trim(Sequence::at_least_first(150))
        .unwrap();
    assert!(first > Sequence::FIRST);
    let lost = first.get() - 1;
    let found = verified(&machine);
    assert!(found.is_right(), "{found:?}");
    assert_eq!(
        found.not_from_this_log,
        2 * lost,
        "of episodes and of events"
    );
    assert_eq!(found.chain, ChainState::CannotBeComputed);
    let refused = rebuilt(&machine, Switch::Over, Partial::Refused).unwrap_err();
    assert!(
        refused.contains(&format!("begins at record {first}")),
        "{refused}"
    );
    assert_eq!(machine.rows(EPISODES).len(), 200);
    let partial = rebuilt(&machine, Switch::Over, Partial::Allowed).unwrap();
    assert_eq!(partial.tables[0].differing, lost);
    assert_eq!(machine.rows(EPISODES).len() as u64, 200 - lost);
}

fn letters(machine: &Machine) -> Vec<String> {
    let rows = machine.rows(LETTERS).into_iter();
    rows.map(|row| row.0[1].text().unwrap().to_owned())
        .collect()
}

fn all() -> Filter {
    Filter {
        limit: 100,
        ..Filter::default()
    }
}

// PRJ-05
#[test]
fn dead_letters_are_replayed_one_by_one_and_by_filter() {
    let machine = Machine::new();
    *machine.sink().refuses.lock().unwrap() = Some("test://".to_owned());
    for number in 0..3 {
        machine.feed().event(&event(number, "a", number, 1));
    }
    machine.feed().publish(TOPIC, b"no event");
    machine.settle();
    assert_eq!(letters(&machine).len(), 4);
    let projections = machine.projections();
    let replay = |filter: &Filter| {
        let settled = projections.replay(TENANT, NAME, filter, None, "a test", WITHIN);
        settled.unwrap()
    };
    // The sink refuses them still; the text is none either.
    let failing = replay(&all());
    assert_eq!(failing.len(), 4);
    let still = Some(Settlement::StillFailing);
    assert!(
        failing
            .iter()
            .all(|one| one.outcome == still && one.error.is_some()),
        "{failing:?}"
    );
    machine.settle();
    let attempts = machine
        .rows(LETTERS)
        .into_iter()
        .map(|row| row.0[7].clone());
    assert_eq!(attempts.collect::<Vec<_>>(), vec![Cell::Integer(2); 4]);

    *machine.sink().refuses.lock().unwrap() = None;
    let refused = Filter {
        reason: Some("does not like".to_owned()),
        limit: 2,
        ..Filter::default()
    };
    let done = replay(&refused);
    assert_eq!(done.len(), 2);
    assert!(
        done.iter()
            .all(|one| one.outcome == Some(Settlement::Projected)),
        "{done:?}"
    );
    assert_eq!(letters(&machine).len(), 2, "seen at once");
    assert_eq!(machine.rows(EPISODES).len(), 2);
    // One by its id: somebody mends it.
    let broken = machine
        .rows(LETTERS)
        .into_iter()
        .find(|row| row.0[2].text().unwrap().contains("not JSON"));
    let broken = Filter {
        dlq_id: broken.unwrap().0[1].text().map(str::to_owned),
        ..all()
    };
    let edited = event(77, "a", 77, 1);
    let mended = projections.replay(TENANT, NAME, &broken, Some(&edited), "a test", WITHIN);
    assert_eq!(mended.unwrap()[0].outcome, Some(Settlement::Projected));
    let gone = projections.discard(TENANT, NAME, &all(), "a test", "not needed", WITHIN);
    assert_eq!(gone.unwrap()[0].outcome, Some(Settlement::Discarded));
    assert_eq!(letters(&machine), Vec::<String>::new());
    assert_eq!(machine.rows(EPISODES).len(), 3);
    assert_eq!(replay(&all()), []);
    machine.settle();
    // The sink's refusals are in no record: a rebuild takes them in, and then nothing is refused.
    assert_eq!(machine.rows(EVENTS).len(), 3);
}

// PRJ-05
#[test]
fn a_letter_whose_replay_was_cut_short_is_settled_by_the_next() {
    let machine = Machine::new();
    *machine.sink().refuses.lock().unwrap() = Some("test://".to_owned());
    machine.feed().event(&event(1, "a", 1, 1));
    machine.settle();
    *machine.sink().refuses.lock().unwrap() = None;
    // As if the node had died behind the append.
    machine.feed().event(&event(1, "a", 1, 1));
    machine.settle();
    assert_eq!(letters(&machine).len(), 1);
    let settled = machine
        .projections()
        .replay(TENANT, NAME, &all(), None, "a test", WITHIN);
    assert_eq!(settled.unwrap()[0].outcome, Some(Settlement::Duplicate));
    assert_eq!(letters(&machine), Vec::<String>::new());
    assert_eq!(machine.rows(EPISODES).len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20, ..ProptestConfig::with_cases(6) })]

    // PRJ-06: whatever the tables have lost, a dry run counts exactly what the real run then does,
    // and changes nothing.
    #[test]
    fn a_dry_run_counts_what_the_real_run_does(
        events in proptest::collection::vec((0_u64..15, 0_u64..5, 0_u64..9), 1..40),
        lost in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..12),
        from in 0_u64..9,
        to in 0_u64..9,
    ) {
        let machine = Machine::new();
        for (number, episode, seconds) in events {
            machine.feed().event(&event(number, "a", episode, seconds));
        }
        machine.settle();
        for (of_episodes, index) in lost {
            let table = if of_episodes { EPISODES } else { EVENTS };
            let rows = machine.rows(table);
            if !rows.is_empty() {
                let gone = remove(&machine, table, index.get(&rows));
                tamper(&machine, vec![gone]);
            }
        }
        let selection = Selection { from: at(from), to: at(to), agent_id: None };
        let before = machine.tables();
        let dry = backfilled(&machine, selection.clone(), Effect::DryRun);
        prop_assert_eq!(machine.tables(), before);
        let real = backfilled(&machine, selection, Effect::Real);
        prop_assert_eq!(dry.outcomes, real.outcomes);
        prop_assert_eq!(dry.selected, real.selected);
    }
}
