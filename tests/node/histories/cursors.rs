//! Checks the cursors of named consumers: registers that only grow.
//!
//! A commit raises the cursor to its value if that is higher; a look tells the value. Values take
//! the place that sequences have in the log: in the order of the values, each value that was seen
//! needs a commit that put it there, after every look that saw less, and every look must come
//! after that. The smallest such moments are found in one pass; if a look, or a commit that was
//! confirmed, had ended before its smallest moment, there is no order that explains the history. A
//! commit whose value nobody saw may have come after a higher one, so it binds nobody else.

use std::collections::BTreeMap;

use super::event::{CommitOutcome, CursorSource, History, Operation, Tick, What};
use super::violation::{Rule, Violation};

/// What happened at one value of one cursor.
#[derive(Debug, Default)]
struct Value {
    /// Commits that may have taken effect.
    commits: Vec<usize>,
    confirmed: Vec<usize>,
    looks: Vec<usize>,
}

type Cursor = BTreeMap<u64, Value>;

pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut consumers: BTreeMap<&str, Cursor> = BTreeMap::new();
    let mut resumptions = Vec::new();
    for (at, operation) in history.operations.iter().enumerate() {
        match &operation.what {
            What::Commit {
                consumer,
                through,
                outcome,
            } => {
                let cursor = consumers.entry(consumer).or_default();
                let value = cursor.entry(*through).or_default();
                match outcome {
                    CommitOutcome::Stored => {
                        value.commits.push(at);
                        value.confirmed.push(at);
                    }
                    CommitOutcome::Unknown => value.commits.push(at),
                    CommitOutcome::Refused => {}
                }
            }
            What::Cursor {
                consumer,
                through,
                source: CursorSource::Stored,
            } => {
                let cursor = consumers.entry(consumer).or_default();
                cursor.entry(*through).or_default().looks.push(at);
            }
            What::Cursor {
                consumer,
                through,
                source: CursorSource::Resumed,
            } => resumptions.push((at, consumer.as_str(), *through)),
            What::Append(_) | What::Read(_) | What::Tail { .. } => {}
        }
    }
    let mut violations = Vec::new();
    for (consumer, cursor) in &consumers {
        violations.extend(solve(history, consumer, cursor));
    }
    let empty = Cursor::new();
    for (at, consumer, through) in resumptions {
        let cursor = consumers.get(consumer).unwrap_or(&empty);
        violations.extend(check_resumption(history, cursor, at, consumer, through));
    }
    violations
}

/// When a commit can have taken effect for the last time.
fn latest(history: &History, operation: &Operation) -> Tick {
    match &operation.what {
        What::Commit {
            outcome: CommitOutcome::Stored,
            ..
        } => operation.end,
        _ => history.lives[operation.life].end,
    }
}

fn solve(history: &History, consumer: &str, cursor: &Cursor) -> Option<Violation> {
    let operations = &history.operations;
    let mut now: Tick = 0;
    let mut by = None;
    let violation = |rule, at: usize, by: Option<usize>, what: &str, value: u64| Violation {
        rule,
        operations: by.into_iter().chain([at]).collect(),
        what: format!("consumer {consumer}: {what} {value}"),
    };
    for (&value, at) in cursor {
        for &commit in &at.confirmed {
            if now > operations[commit].end {
                let what = "a lower cursor was seen after it had been confirmed at";
                return Some(violation(Rule::CursorBack, commit, by, what, value));
            }
        }
        let Some(&seen) = at.looks.first() else {
            continue;
        };
        if value > 0 {
            if let Some(&look) = at.looks.iter().find(|look| now > operations[**look].end) {
                let what = "a lower cursor was seen after it had been seen at";
                return Some(violation(Rule::CursorBack, look, by, what, value));
            }
            let commits = at
                .commits
                .iter()
                .map(|&commit| (commit, &operations[commit]));
            let moments = commits
                .filter(|(_, commit)| now <= latest(history, commit))
                .map(|(at, commit)| (now.max(commit.start), at));
            let Some((moment, commit)) = moments.min() else {
                let what = "nobody can have put it at";
                return Some(violation(Rule::CursorPhantom, seen, by, what, value));
            };
            if moment > now {
                (now, by) = (moment, Some(commit));
            }
        }
        let mut next = (now, by);
        for &look in &at.looks {
            let operation = &operations[look];
            if now > operation.end {
                let what = "it was seen before anybody had put it at";
                return Some(violation(Rule::CursorPhantom, look, by, what, value));
            }
            if operation.start > next.0 {
                next = (operation.start, Some(look));
            }
        }
        (now, by) = next;
    }
    None
}

/// A subscription resumes at or behind all that was confirmed or seen on disk before, at a place
/// that somebody asked for.
fn check_resumption(
    history: &History,
    cursor: &Cursor,
    at: usize,
    consumer: &str,
    through: u64,
) -> Option<Violation> {
    let operations = &history.operations;
    let resumed = &operations[at];
    let behind = cursor.range(through + 1..).flat_map(|(_, value)| {
        let known = value.confirmed.iter().chain(&value.looks);
        known.filter(|known| operations[**known].end < resumed.start)
    });
    if let Some(&known) = behind.into_iter().next() {
        return Some(Violation {
            rule: Rule::CursorBack,
            operations: vec![known, at],
            what: format!("consumer {consumer}: it resumed at {through}"),
        });
    }
    let asked = cursor.get(&through).is_some_and(|value| {
        let mut commits = value.commits.iter();
        commits.any(|commit| operations[*commit].start < resumed.end)
    });
    (through > 0 && !asked).then(|| Violation {
        rule: Rule::CursorPhantom,
        operations: vec![at],
        what: format!("consumer {consumer}: it resumed at {through}, where nobody put it"),
    })
}
