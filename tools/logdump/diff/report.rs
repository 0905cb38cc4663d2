//! What a comparison has found.

use std::collections::BTreeMap;

use arqonbus::log::{RecordRef, Sequence};
use serde_json::{Map, Value, json};

use super::change::{self, Change, Part};
use super::cursor::Seen;
use crate::table::{counted, printable, span, table};

/// Records of one log between two that the other log has too, or has instead.
#[derive(Clone, Copy)]
struct Run {
    first: Sequence,
    last: Sequence,
    records: u64,
}

/// What is in one log only.
#[derive(Default)]
struct Only {
    records: u64,
    runs: u64,
    listed: Vec<Run>,
    open: Option<Run>,
    first: Option<Sequence>,
}

impl Only {
    fn add(&mut self, sequence: Sequence) {
        self.records += 1;
        self.first = self.first.or(Some(sequence));
        let run = self.open.get_or_insert(Run {
            first: sequence,
            last: sequence,
            records: 0,
        });
        run.last = sequence;
        run.records += 1;
    }

    fn end_run(&mut self, limit: usize) {
        if let Some(run) = self.open.take() {
            self.runs += 1;
            if self.listed.len() < limit {
                self.listed.push(run);
            }
        }
    }
}

struct Difference {
    sequence: Sequence,
    topic: String,
    changes: Vec<Change>,
}

#[derive(Default)]
struct Counts {
    same: u64,
    different: u64,
    only_in_a: u64,
    only_in_b: u64,
    /// In one log, and perhaps in what the other has encrypted.
    not_compared: u64,
}

struct Divergence {
    sequence: Sequence,
    topic: String,
    kind: &'static str,
}

/// How one log stands to the other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Relation {
    Same,
    /// The other goes on where this one ends.
    Beginning(&'static str),
    /// The other has more, not only at its end.
    Part(&'static str),
    Diverged,
    /// What no key is at hand for may be anything.
    Unknown,
}

pub(super) struct Report {
    ignored: Vec<Part>,
    limit: usize,
    counts: Counts,
    topics: BTreeMap<String, Counts>,
    parts: BTreeMap<Part, u64>,
    differences: Vec<Difference>,
    a: Only,
    b: Only,
    first: Option<Divergence>,
    /// Last sequences that were in both logs.
    last_common: Option<Sequence>,
}

impl Report {
    pub(super) fn new(ignored: &[Part], limit: usize) -> Self {
        Self {
            ignored: ignored.to_vec(),
            limit,
            counts: Counts::default(),
            topics: BTreeMap::new(),
            parts: BTreeMap::new(),
            differences: Vec::new(),
            a: Only::default(),
            b: Only::default(),
            first: None,
            last_common: None,
        }
    }

    /// A record of one log where the other one is encrypted.
    pub(super) fn not_compared(&mut self, record: &RecordRef<'_>) {
        self.a.end_run(self.limit);
        self.b.end_run(self.limit);
        self.count(record.topic, |counts| counts.not_compared += 1);
    }

    pub(super) fn only_in_a(&mut self, record: &RecordRef<'_>) {
        self.b.end_run(self.limit);
        self.a.add(record.sequence);
        self.diverged(record, "only in A");
        self.count(record.topic, |counts| counts.only_in_a += 1);
    }

    pub(super) fn only_in_b(&mut self, record: &RecordRef<'_>) {
        self.a.end_run(self.limit);
        self.b.add(record.sequence);
        self.diverged(record, "only in B");
        self.count(record.topic, |counts| counts.only_in_b += 1);
    }

    pub(super) fn in_both(&mut self, a: &RecordRef<'_>, b: &RecordRef<'_>) {
        self.a.end_run(self.limit);
        self.b.end_run(self.limit);
        self.last_common = Some(a.sequence);
        if a.record == b.record {
            self.same(a);
            return;
        }
        let mut changes = change::between(a, b);
        changes.retain(|change| !self.ignored.contains(&change.part));
        if changes.is_empty() {
            self.same(a);
            return;
        }
        self.count(a.topic, |counts| counts.different += 1);
        self.diverged(a, "different");
        for part in Part::ALL {
            if changes.iter().any(|change| change.part == part) {
                *self.parts.entry(part).or_default() += 1;
            }
        }
        if self.differences.len() < self.limit {
            self.differences.push(Difference {
                sequence: a.sequence,
                topic: a.topic.to_owned(),
                changes,
            });
        }
    }

    fn same(&mut self, record: &RecordRef<'_>) {
        self.count(record.topic, |counts| counts.same += 1);
    }

    fn count(&mut self, topic: &str, add: impl Fn(&mut Counts)) {
        add(&mut self.counts);
        match self.topics.get_mut(topic) {
            Some(counts) => add(counts),
            None => add(self.topics.entry(topic.to_owned()).or_default()),
        }
    }

    fn diverged(&mut self, record: &RecordRef<'_>, kind: &'static str) {
        if self.first.is_none() {
            self.first = Some(Divergence {
                sequence: record.sequence,
                topic: record.topic.to_owned(),
                kind,
            });
        }
    }

    /// Whether some record of the one is not in the other, or is another there.
    pub(super) fn is_divergent(&self) -> bool {
        self.first.is_some()
    }

    fn relation(&self, [a, b]: [&Seen; 2]) -> Relation {
        // Both stay true whatever the rest holds.
        if self.counts.different > 0 || (self.a.records > 0 && self.b.records > 0) {
            return Relation::Diverged;
        }
        if a.locked() > 0 || b.locked() > 0 {
            return Relation::Unknown;
        }
        if !self.is_divergent() {
            return Relation::Same;
        }
        let (only, shorter) = if self.a.records > 0 {
            (&self.a, "B")
        } else {
            (&self.b, "A")
        };
        if only.first > self.last_common {
            Relation::Beginning(shorter)
        } else {
            Relation::Part(shorter)
        }
    }

    /// Both logs are at their ends.
    pub(super) fn end(&mut self) {
        self.a.end_run(self.limit);
        self.b.end_run(self.limit);
    }

    pub(super) fn to_json(&self, [a, b]: [&Seen; 2]) -> Value {
        let relation = self.relation([a, b]);
        let is_same = relation == Relation::Same;
        let verdict = match relation {
            Relation::Unknown => not_comparable([a, b]).into(),
            _ => Value::Null,
        };
        let relation = match relation {
            Relation::Same => "same",
            Relation::Unknown => "not_comparable",
            Relation::Beginning("A") => "a_is_the_beginning_of_b",
            Relation::Beginning(_) => "b_is_the_beginning_of_a",
            Relation::Part("A") => "a_is_a_part_of_b",
            Relation::Part(_) => "b_is_a_part_of_a",
            Relation::Diverged => "diverged",
        };
        let first = self.first.as_ref().map(|first| {
            json!({
                "sequence": first.sequence.get(),
                "topic": first.topic,
                "kind": first.kind.to_lowercase().replace(' ', "_"),
            })
        });
        let only = |only: &Only| {
            let ranges: Vec<Value> = only
                .listed
                .iter()
                .map(|run| {
                    let (first, last) = (run.first.get(), run.last.get());
                    json!({ "first": first, "last": last, "records": run.records })
                })
                .collect();
            json!({ "records": only.records, "ranges": only.runs, "listed": ranges })
        };
        let differences: Vec<Value> = self
            .differences
            .iter()
            .map(|difference| {
                let changes: Vec<Value> = difference.changes.iter().map(Change::to_json).collect();
                json!({
                    "sequence": difference.sequence.get(),
                    "topic": difference.topic,
                    "changes": changes,
                })
            })
            .collect();
        let parts: Map<String, Value> = self
            .parts
            .iter()
            .map(|(part, count)| (part.name().to_owned(), (*count).into()))
            .collect();
        let topics: Vec<Value> = self
            .topics
            .iter()
            .map(|(topic, counts)| {
                let mut object = counts.to_json();
                object["topic"] = topic.as_str().into();
                object
            })
            .collect();
        json!({
            "same": is_same,
            "relation": relation,
            "why": verdict,
            "a": a.to_json(),
            "b": b.to_json(),
            "first_divergence": first,
            "records": self.counts.to_json(),
            "only_in_a": only(&self.a),
            "only_in_b": only(&self.b),
            "different": { "records": self.counts.different, "parts": parts, "listed": differences },
            "topics": topics,
        })
    }

    pub(super) fn to_text(&self, [a, b]: [&Seen; 2]) -> String {
        let mut text = a.to_text("A") + &b.to_text("B");
        if let Some(first) = &self.first {
            let (sequence, topic) = (first.sequence, printable(&first.topic));
            text.push_str(&format!(
                "first divergence: {sequence} ({topic}), {}\n",
                first.kind
            ));
        }
        for (name, only) in [("A", &self.a), ("B", &self.b)] {
            if only.records == 0 {
                continue;
            }
            let (records, runs) = (only.records, only.runs);
            text.push_str(&format!(
                "only in {name}: {} in {}\n",
                counted(records, "record", "records"),
                counted(runs, "range", "ranges"),
            ));
            for run in &only.listed {
                text.push_str(&format!(
                    "  {} ({})\n",
                    span(run.first.get(), run.last.get()),
                    counted(run.records, "record", "records")
                ));
            }
            more(runs, only.listed.len(), &mut text);
        }
        if self.counts.different > 0 {
            let parts: Vec<String> = self
                .parts
                .iter()
                .map(|(part, count)| format!("{} {count}", part.name()))
                .collect();
            text.push_str(&format!(
                "different: {}, in {}\n",
                counted(self.counts.different, "record", "records"),
                parts.join(", ")
            ));
            for difference in &self.differences {
                let topic = printable(&difference.topic);
                text.push_str(&format!("  {} {topic}\n", difference.sequence));
                for change in &difference.changes {
                    text.push_str(&format!("    {}\n", change.to_text()));
                }
            }
            more(self.counts.different, self.differences.len(), &mut text);
        }
        if !self.topics.is_empty() {
            text.push_str(&self.topics_text());
        }
        text.push_str(&match self.relation([a, b]) {
            Relation::Same if self.counts.same == 0 => "neither holds a record\n".to_owned(),
            Relation::Same => {
                let records = counted(self.counts.same, "record", "records");
                format!("both hold the same {records}\n")
            }
            Relation::Unknown => format!("{}\n", not_comparable([a, b])),
            Relation::Beginning(shorter) => {
                let longer = if shorter == "A" { "B" } else { "A" };
                format!("{shorter} is the beginning of {longer}\n")
            }
            Relation::Part(smaller) => {
                let larger = if smaller == "A" { "B" } else { "A" };
                format!("all of {smaller} is in {larger}, which holds more\n")
            }
            Relation::Diverged => "the logs have diverged\n".to_owned(),
        });
        text
    }

    fn topics_text(&self) -> String {
        let has_hidden = self.counts.not_compared > 0;
        let rows: Vec<Vec<String>> = self
            .topics
            .iter()
            .map(|(topic, counts)| {
                let mut row = vec![
                    printable(topic),
                    counts.same.to_string(),
                    counts.different.to_string(),
                    counts.only_in_a.to_string(),
                    counts.only_in_b.to_string(),
                ];
                row.extend(has_hidden.then(|| counts.not_compared.to_string()));
                row
            })
            .collect();
        let mut heads = vec!["TOPIC", "#SAME", "#DIFFERENT", "#ONLY_IN_A", "#ONLY_IN_B"];
        heads.extend(has_hidden.then_some("#NOT_COMPARED"));
        table(&heads, &rows)
    }
}

impl Counts {
    fn to_json(&self) -> Value {
        json!({
            "same": self.same,
            "different": self.different,
            "only_in_a": self.only_in_a,
            "only_in_b": self.only_in_b,
            "not_compared": self.not_compared,
        })
    }
}

/// Why nothing is said of how the logs stand to each other.
fn not_comparable([a, b]: [&Seen; 2]) -> String {
    let sides = match (a.locked(), b.locked()) {
        (a, 0) => format!("{} of A", counted(a, "sequence", "sequences")),
        (0, b) => format!("{} of B", counted(b, "sequence", "sequences")),
        (a, b) => format!("{} of A and {b} of B", counted(a, "sequence", "sequences")),
    };
    let are = if a.locked() + b.locked() == 1 {
        "is"
    } else {
        "are"
    };
    format!("not comparable: {sides} {are} encrypted, and the key is not at hand")
}

fn more(all: u64, listed: usize, text: &mut String) {
    let more = all - listed as u64;
    if more > 0 {
        text.push_str(&format!("  … and {more} more (--limit)\n"));
    }
}
