//! Good histories of the model are accepted; with one lie in them they are not.

use std::collections::BTreeSet;

use super::checker::check;
use super::event::{AppendOutcome, CommitOutcome, CursorSource, History, Read, Sight, Value, What};
use super::model;
use super::violation::{Rule, explain};
use crate::dice::Dice;

const SEEDS: u64 = 100;

/// Changes one thing so that no log can have done that; `false` if there is nothing to change.
type Mutation = fn(&mut History, &mut Dice) -> bool;

/// What it is called, what it does, and the rules of which one must be found broken: which one
/// depends on who else knew.
const MUTATIONS: &[(&str, Mutation, &[Rule])] = &[
    (
        "drop a record from the last read",
        drop_record,
        &[Rule::Lost, Rule::Gap, Rule::Torn],
    ),
    (
        "cut the last read short",
        cut_last_read,
        &[Rule::Lost, Rule::Stale, Rule::Order, Rule::Phantom],
    ),
    ("swap two records of a read", swap_records, &[Rule::Reused]),
    (
        "show a record twice in a read",
        repeat_record,
        &[Rule::Backwards],
    ),
    ("change the key of a record", change_key, &[Rule::Altered]),
    (
        "show a record that nobody sent",
        invent_record,
        &[Rule::Phantom],
    ),
    (
        "let a read pass over a sequence that is not there",
        read_too_far,
        &[Rule::Gap],
    ),
    (
        "repeat a part of a stream",
        repeat_stream,
        &[Rule::Backwards],
    ),
    ("leave out a part of a stream", skip_stream, &[Rule::Gap]),
    (
        "say that a stored batch was refused",
        refuse_stored,
        &[Rule::RefusedStored],
    ),
    (
        "acknowledge a batch one sequence later",
        shift_acknowledgement,
        &[Rule::Reused, Rule::Duplicated],
    ),
    (
        "acknowledge a batch as longer than it is",
        lengthen_acknowledgement,
        &[Rule::Torn],
    ),
    (
        "send a batch after it was seen",
        send_too_late,
        &[Rule::Future, Rule::Order, Rule::Expected],
    ),
    (
        "exchange the times of two batches",
        exchange_times,
        &[
            Rule::Order,
            Rule::Future,
            Rule::Stale,
            Rule::Lost,
            Rule::Expected,
        ],
    ),
    (
        "store a batch against its condition",
        break_condition,
        &[Rule::Expected],
    ),
    (
        "refuse a batch whose condition was met",
        refuse_met_condition,
        &[Rule::Expected],
    ),
    (
        "move the end back at the end",
        move_tail_back,
        &[Rule::Lost, Rule::Stale, Rule::CursorAhead, Rule::Order],
    ),
    (
        "move a cursor back at the end",
        move_cursor_back,
        &[Rule::CursorBack],
    ),
    (
        "move a cursor where nobody put it",
        move_cursor_on,
        &[Rule::CursorPhantom],
    ),
    (
        "confirm a cursor behind the end",
        confirm_behind_end,
        &[Rule::CursorAhead],
    ),
];

fn last_read(history: &mut History) -> &mut Read {
    let mut reads = history.operations.iter_mut().rev();
    let read = reads.find_map(|operation| match &mut operation.what {
        What::Read(read) => Some(read),
        _ => None,
    });
    read.expect("a history ends with a read")
}

/// Any of the operations that `wanted` names.
fn any(history: &History, dice: &mut Dice, wanted: impl Fn(usize) -> bool) -> Option<usize> {
    let all: Vec<usize> = (0..history.operations.len())
        .filter(|at| wanted(*at))
        .collect();
    (!all.is_empty()).then(|| *dice.pick(&all))
}

/// Any stored batch that is still there at the end.
fn any_stored(history: &mut History, dice: &mut Dice) -> Option<(usize, u64, u64)> {
    let kept: BTreeSet<u64> = last_read(history)
        .records
        .iter()
        .map(|(at, _)| *at)
        .collect();
    let stored = |at: usize| match &history.operations[at].what {
        What::Append(append) => match append.outcome {
            AppendOutcome::Stored { first, last } if kept.contains(&first) => Some((first, last)),
            _ => None,
        },
        _ => None,
    };
    let at = any(history, dice, |at| stored(at).is_some())?;
    stored(at).map(|(first, last)| (at, first, last))
}

fn drop_record(history: &mut History, dice: &mut Dice) -> bool {
    let records = &mut last_read(history).records;
    if records.is_empty() {
        return false;
    }
    records.remove(dice.index(records.len()));
    true
}

fn cut_last_read(history: &mut History, _: &mut Dice) -> bool {
    let read = last_read(history);
    let Some((last, _)) = read.records.pop() else {
        return false;
    };
    read.next = last;
    true
}

fn swap_records(history: &mut History, dice: &mut Dice) -> bool {
    let Some((_, first, last)) = any_stored(history, dice) else {
        return false;
    };
    let records = &mut last_read(history).records;
    let here = records
        .iter()
        .position(|(at, _)| (first..=last).contains(at));
    let here = here.expect("it is kept");
    let there = if here == 0 { 1 } else { here - 1 };
    if there >= records.len() {
        return false;
    }
    let value = records[here].1.clone();
    records[here].1 = std::mem::replace(&mut records[there].1, value);
    true
}

fn repeat_record(history: &mut History, dice: &mut Dice) -> bool {
    let records = &mut last_read(history).records;
    if records.is_empty() {
        return false;
    }
    let at = dice.index(records.len());
    records.insert(at, records[at].clone());
    true
}

fn change_key(history: &mut History, dice: &mut Dice) -> bool {
    let records = &mut last_read(history).records;
    if records.is_empty() {
        return false;
    }
    let at = dice.index(records.len());
    records[at].1.key.push('!');
    true
}

fn invent_record(history: &mut History, _: &mut Dice) -> bool {
    let read = last_read(history);
    let value = Value {
        number: u64::MAX,
        topic: "a".into(),
        key: String::new(),
    };
    read.records.push((read.next, value));
    read.next += 1;
    true
}

fn read_too_far(history: &mut History, _: &mut Dice) -> bool {
    last_read(history).next += 1;
    true
}

/// Any part of a stream that others follow and that moves on.
fn any_part(history: &History, dice: &mut Dice) -> Option<usize> {
    any(history, dice, |at| {
        let operation = &history.operations[at];
        let What::Read(read) = &operation.what else {
            return false;
        };
        let follows =
            |later: &What| matches!(later, What::Read(other) if other.stream == read.stream);
        let later = history.operations.iter();
        let mut later = later.filter(|later| later.start > operation.start && follows(&later.what));
        read.stream.is_some() && read.next > read.from && later.next().is_some()
    })
}

fn repeat_stream(history: &mut History, dice: &mut Dice) -> bool {
    let Some(at) = any_part(history, dice) else {
        return false;
    };
    let mut again = history.operations[at].clone();
    let end = history
        .operations
        .iter()
        .map(|operation| operation.end)
        .max();
    again.end = end.expect("operations") + 1;
    history.operations.push(again);
    true
}

fn skip_stream(history: &mut History, dice: &mut Dice) -> bool {
    let Some(at) = any_part(history, dice) else {
        return false;
    };
    if matches!(&history.operations[at].what, What::Read(read) if read.from == 1) {
        // A stream may begin anywhere.
        return false;
    }
    history.operations.remove(at);
    true
}

fn refuse_stored(history: &mut History, dice: &mut Dice) -> bool {
    let Some((at, ..)) = any_stored(history, dice) else {
        return false;
    };
    outcome(history, at, AppendOutcome::Refused)
}

fn outcome(history: &mut History, at: usize, outcome: AppendOutcome) -> bool {
    let What::Append(append) = &mut history.operations[at].what else {
        return false;
    };
    append.outcome = outcome;
    true
}

fn shift_acknowledgement(history: &mut History, dice: &mut Dice) -> bool {
    let Some((at, first, last)) = any_stored(history, dice) else {
        return false;
    };
    let (first, last) = (first + 1, last + 1);
    outcome(history, at, AppendOutcome::Stored { first, last })
}

fn lengthen_acknowledgement(history: &mut History, dice: &mut Dice) -> bool {
    let Some((at, first, last)) = any_stored(history, dice) else {
        return false;
    };
    let last = last + 1;
    outcome(history, at, AppendOutcome::Stored { first, last })
}

fn send_too_late(history: &mut History, dice: &mut Dice) -> bool {
    let Some((at, ..)) = any_stored(history, dice) else {
        return false;
    };
    let end = history
        .operations
        .iter()
        .map(|operation| operation.end)
        .max();
    let end = end.expect("operations");
    let operation = &mut history.operations[at];
    (operation.start, operation.end) = (end + 1, end + 2);
    operation.life = history.lives.len() - 1;
    true
}

fn exchange_times(history: &mut History, dice: &mut Dice) -> bool {
    let (Some((one, ..)), Some((other, ..))) =
        (any_stored(history, dice), any_stored(history, dice))
    else {
        return false;
    };
    let times = |at: usize| (history.operations[at].start, history.operations[at].end);
    let (first, second) = (times(one), times(other));
    if first.1 >= second.0 && second.1 >= first.0 {
        return false;
    }
    let operations = &mut history.operations;
    (operations[one].start, operations[one].end) = second;
    (operations[other].start, operations[other].end) = first;
    let life = operations[one].life;
    operations[one].life = operations[other].life;
    operations[other].life = life;
    true
}

/// Any conditional batch with an outcome that `wanted` names.
fn any_conditional(
    history: &History,
    dice: &mut Dice,
    wanted: fn(AppendOutcome) -> bool,
) -> Option<usize> {
    any(history, dice, |at| match &history.operations[at].what {
        What::Append(append) => append.expected.is_some() && wanted(append.outcome),
        _ => false,
    })
}

fn break_condition(history: &mut History, dice: &mut Dice) -> bool {
    let is_stored = |outcome| matches!(outcome, AppendOutcome::Stored { .. });
    let Some(at) = any_conditional(history, dice, is_stored) else {
        return false;
    };
    if let What::Append(append) = &mut history.operations[at].what
        && let AppendOutcome::Stored { first, .. } = append.outcome
        && let Some(expected) = &mut append.expected
    {
        expected.last = first;
    }
    true
}

fn refuse_met_condition(history: &mut History, dice: &mut Dice) -> bool {
    let is_conflict = |outcome| matches!(outcome, AppendOutcome::Conflict { .. });
    let Some(at) = any_conditional(history, dice, is_conflict) else {
        return false;
    };
    if let What::Append(append) = &mut history.operations[at].what
        && let Some(expected) = &append.expected
    {
        append.outcome = AppendOutcome::Conflict {
            last: expected.last,
        };
    }
    true
}

fn move_tail_back(history: &mut History, _: &mut Dice) -> bool {
    let last = last_read(history).records.last().map(|(last, _)| *last);
    let tails = history.operations.iter_mut().rev();
    let mut tails = tails.filter_map(|operation| match &mut operation.what {
        What::Tail {
            sight: Sight::Durable,
            end,
        } => Some(end),
        _ => None,
    });
    match (tails.next(), last) {
        (Some(end), Some(last)) => {
            *end = last;
            true
        }
        _ => false,
    }
}

/// The last look at a cursor of which `wanted` is true.
fn last_look(history: &mut History, wanted: fn(u64) -> bool) -> Option<&mut u64> {
    let looks = history.operations.iter_mut().rev();
    let mut looks = looks.filter_map(|operation| match &mut operation.what {
        What::Cursor {
            through,
            source: CursorSource::Stored,
            ..
        } if wanted(*through) => Some(through),
        _ => None,
    });
    looks.next()
}

fn move_cursor_back(history: &mut History, dice: &mut Dice) -> bool {
    let at = any(history, dice, |at| {
        let what = &history.operations[at].what;
        matches!(
            what,
            What::Commit {
                outcome: CommitOutcome::Stored,
                ..
            }
        )
    });
    let Some(What::Commit { consumer, .. }) = at.map(|at| history.operations[at].what.clone())
    else {
        return false;
    };
    let looks = history.operations.iter_mut().rev();
    let mut looks = looks.filter_map(|operation| match &mut operation.what {
        What::Cursor {
            consumer: of,
            through,
            source: CursorSource::Stored,
        } if *of == consumer => Some(through),
        _ => None,
    });
    *looks
        .next()
        .expect("a history ends with looks at the cursors") = 0;
    true
}

fn move_cursor_on(history: &mut History, _: &mut Dice) -> bool {
    // A sequence that is there and that no commit names.
    let committed: BTreeSet<u64> = history
        .operations
        .iter()
        .filter_map(|operation| match &operation.what {
            What::Commit { through, .. } => Some(*through),
            _ => None,
        })
        .collect();
    let records = &last_read(history).records;
    let mut free = records.iter().rev().map(|(at, _)| *at);
    let free = free.find(|at| !committed.contains(at));
    match (free, last_look(history, |_| true)) {
        (Some(free), Some(through)) if free > *through => {
            *through = free;
            true
        }
        _ => false,
    }
}

fn confirm_behind_end(history: &mut History, dice: &mut Dice) -> bool {
    let next = last_read(history).next;
    let at = any(history, dice, |at| {
        let what = &history.operations[at].what;
        matches!(
            what,
            What::Commit {
                outcome: CommitOutcome::Stored,
                ..
            }
        )
    });
    let Some(What::Commit { through, .. }) = at.map(|at| &mut history.operations[at].what) else {
        return false;
    };
    *through = next;
    true
}

// REL-03: whatever the clients of a log that keeps its promises do at the same time is accepted.
#[test]
fn histories_of_a_good_log_are_accepted() {
    let mut records = 0;
    let mut lost = 0;
    let mut conflicts = 0;
    for seed in 0..SEEDS {
        let history = model::history(seed);
        let summary = check(&history)
            .unwrap_or_else(|found| panic!("seed {seed}: {}", explain(&history, &found)));
        records += summary.records;
        lost += summary.appends_unknown_unseen;
        conflicts += history
            .operations
            .iter()
            .filter(|operation| {
                matches!(&operation.what, What::Append(append)
                if matches!(append.outcome, AppendOutcome::Conflict { .. }))
            })
            .count();
    }
    assert!(
        records > 4_000 && lost > 100 && conflicts > 100,
        "too tame: {records} records, {lost} appends lost, {conflicts} conflicts"
    );
}

// REL-03: one lie in a good history is enough for it to be rejected.
#[test]
fn a_history_with_one_lie_is_rejected() {
    let mut told = vec![0; MUTATIONS.len()];
    for seed in 0..SEEDS {
        let truth = model::history(seed);
        for ((name, mutate, rules), told) in MUTATIONS.iter().zip(&mut told) {
            let mut history = truth.clone();
            if !mutate(&mut history, &mut Dice::new(seed)) {
                continue;
            }
            *told += 1;
            let Err(violations) = check(&history) else {
                panic!("seed {seed}: accepted although somebody did {name}");
            };
            assert!(
                violations.iter().any(|found| rules.contains(&found.rule)),
                "seed {seed}, {name}: {}",
                explain(&history, &violations)
            );
        }
    }
    for ((name, ..), told) in MUTATIONS.iter().zip(told) {
        assert!(
            told >= SEEDS / 10,
            "{name}: tried in {told} of {SEEDS} histories"
        );
    }
}
