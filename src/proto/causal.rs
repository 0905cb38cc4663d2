//! The answer to a causal question (MSG-07): the same object in a command's result, in `arqon` and
//! in `logdump`, and its picture for Graphviz.
//!
//! Knows how an answer is written. How it is found is the broker's.

use std::collections::HashSet;
use std::fmt::Write as _;

use serde::Deserialize;

use super::clock::Causality;
use super::v1::Value;

/// Most causes that a row for people names.
const CAUSES_SHOWN_MAX: usize = 8;

/// What was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Question {
    /// What happened before a record, nearest first.
    Past,
    /// What neither happened before a record nor after it, nearest first.
    Concurrent,
    /// How one record led to another, cause first.
    Path,
}

/// Why an answer may be only a part of the whole one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stop {
    /// It has as many records as were asked for.
    Limit,
    /// As many records, or bytes of them, were looked at as were allowed.
    Window,
}

/// A record as an answer shows it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct CausalRecord {
    /// Its place in the log.
    pub sequence: u64,
    /// When the log took it: RFC 3339 with microseconds.
    pub appended_at: String,
    /// Its topic.
    pub topic: String,
    /// Its id; empty if its envelope cannot be decoded.
    pub id: String,
    /// Who produced it; empty if its envelope cannot be decoded.
    pub producer: String,
    /// Its direct causes among the records of the answer, nearest first.
    pub causes: Vec<u64>,
}

/// An answer, and how far it holds.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct CausalAnswer {
    /// What was asked.
    pub question: Question,
    /// Of a path: how its first end stands to its second. There is a path where that is before.
    pub relation: Option<Causality>,
    /// What it was asked about: one record, or the two ends of the path.
    pub asked: Vec<CausalRecord>,
    /// The answer. A path has its ends in it.
    pub records: Vec<CausalRecord>,
    /// Whether that is all there is in the log.
    pub complete: bool,
    /// Why the search ended before that; none if it did not.
    pub stopped: Option<Stop>,
    /// First sequence of the range for which the answer holds.
    pub first: u64,
    /// Last sequence of it.
    pub last: u64,
    /// How many records were looked at.
    pub scanned: u64,
    /// Records that would belong to the answer, on topics that the caller may not see.
    pub hidden: u64,
    /// Sequences in the range that cannot be read.
    pub damaged: u64,
}

impl Question {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Past => "past",
            Self::Concurrent => "concurrent",
            Self::Path => "path",
        }
    }
}

impl Stop {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Window => "window",
        }
    }
}

impl CausalRecord {
    fn to_value(&self) -> Value {
        Value::object([
            ("sequence", self.sequence.into()),
            ("appended_at", self.appended_at.as_str().into()),
            ("topic", self.topic.as_str().into()),
            ("id", self.id.as_str().into()),
            ("producer", self.producer.as_str().into()),
            ("causes", self.causes.iter().copied().collect()),
        ])
    }
}

impl CausalAnswer {
    /// Heads of [`CausalAnswer::rows`].
    pub const HEADS: [&'static str; 6] = [
        "sequence",
        "appended_at",
        "topic",
        "producer",
        "id",
        "direct_causes",
    ];

    /// The answer as the result of a command.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let text = |text: Option<&'static str>| text.map_or_else(Value::default, Value::from);
        let list = |records: &[CausalRecord]| records.iter().map(CausalRecord::to_value).collect();
        Value::object([
            ("question", self.question.as_str().into()),
            ("relation", text(self.relation.map(Causality::as_str))),
            ("asked", list(&self.asked)),
            ("records", list(&self.records)),
            ("complete", self.complete.into()),
            ("stopped", text(self.stopped.map(Stop::as_str))),
            ("first", self.first.into()),
            ("last", self.last.into()),
            ("scanned", self.scanned.into()),
            ("hidden", self.hidden.into()),
            ("damaged", self.damaged.into()),
        ])
    }

    /// One row for each record of the answer. The texts may hold control characters.
    #[must_use]
    pub fn rows(&self) -> Vec<[String; 6]> {
        let row = |record: &CausalRecord| {
            let shown = record.causes.iter().take(CAUSES_SHOWN_MAX);
            let mut causes: Vec<String> = shown.map(u64::to_string).collect();
            let more = record.causes.len().saturating_sub(CAUSES_SHOWN_MAX);
            if more > 0 {
                causes.push(format!("and {more} more"));
            }
            [
                record.sequence.to_string(),
                record.appended_at.clone(),
                record.topic.clone(),
                record.producer.clone(),
                record.id.clone(),
                causes.join(", "),
            ]
        };
        self.records.iter().map(row).collect()
    }

    /// What the answer says and how far it holds, in a few sentences.
    #[must_use]
    pub fn summary(&self) -> String {
        let asked: Vec<u64> = self.asked.iter().map(|record| record.sequence).collect();
        let (of, to) = (
            asked.first().copied().unwrap_or_default(),
            asked.last().copied().unwrap_or_default(),
        );
        let count = match self.records.len() {
            1 => "1 record".to_owned(),
            count => format!("{count} records"),
        };
        let mut text = match (self.question, self.relation) {
            (Question::Past, _) => format!("{count} happened before {of}."),
            (Question::Concurrent, _) => format!("{count} concurrent with {of}."),
            (Question::Path, Some(Causality::Before)) => {
                format!("{count} on the path from {of} to {to}.")
            }
            (Question::Path, Some(Causality::After)) => {
                format!("{of} happened after {to}: ask for the path from {to} to {of}.")
            }
            (Question::Path, Some(Causality::Equal)) => format!("Both ends are record {of}."),
            (Question::Path, Some(Causality::Concurrent) | None) => {
                format!("No path: {of} and {to} are concurrent.")
            }
        };
        match self.stopped {
            Some(Stop::Limit) => text.push_str(" There may be more: the limit is reached."),
            Some(Stop::Window) => text.push_str(" There may be more: the window is used up."),
            None => {}
        }
        // Writing to a string cannot fail.
        let _ok = write!(
            text,
            " This holds for sequences {} to {}; {} looked at.",
            self.first, self.last, self.scanned
        );
        if self.hidden > 0 {
            let _ok = write!(
                text,
                " {} more on topics that this token may not subscribe to.",
                self.hidden
            );
        }
        if self.damaged > 0 {
            let _ok = write!(
                text,
                " {} sequences in that range cannot be read.",
                self.damaged
            );
        }
        text
    }

    /// The answer as a directed graph in the language of Graphviz, an edge from each direct cause
    /// to its effect.
    #[must_use]
    pub fn to_dot(&self) -> String {
        let mut dot = String::from(
            "digraph causality {\n  rankdir=LR;\n  node [shape=box, style=rounded, fontname=\"sans-serif\"];\n",
        );
        let mut drawn = HashSet::new();
        let mut edges = String::new();
        // Of a record that is asked about and answered, the answer knows the causes.
        let answered = self.records.iter().map(|record| (record, false));
        let asked = self.asked.iter().map(|record| (record, true));
        let about: HashSet<u64> = self.asked.iter().map(|record| record.sequence).collect();
        for (record, is_asked) in answered.chain(asked) {
            if !drawn.insert(record.sequence) {
                continue;
            }
            let bold = if is_asked || about.contains(&record.sequence) {
                ", style=\"rounded,bold\""
            } else {
                ""
            };
            let (topic, producer) = (escaped(&record.topic), escaped(&record.producer));
            let sequence = record.sequence;
            // Writing to a string cannot fail.
            let _ok = writeln!(
                dot,
                "  {sequence} [label=\"{sequence}\\n{topic}\\n{producer}\"{bold}];"
            );
            for cause in &record.causes {
                let _ok = writeln!(edges, "  {cause} -> {sequence};");
            }
        }
        dot.push_str(&edges);
        dot.push_str("}\n");
        dot
    }
}

/// Text inside of quotes in a graph: producers choose their names.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for symbol in text.chars() {
        match symbol {
            '"' | '\\' => out.extend(['\\', symbol]),
            symbol if symbol.is_control() => out.push(char::REPLACEMENT_CHARACTER),
            symbol => out.push(symbol),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sequence: u64, producer: &str, causes: &[u64]) -> CausalRecord {
        CausalRecord {
            sequence,
            appended_at: "2018-01-31T01:49:59.650000Z".to_owned(),
            topic: "a.b".to_owned(),
            id: format!("id-{sequence}"),
            producer: producer.to_owned(),
            causes: causes.to_vec(),
        }
    }

    fn answer() -> CausalAnswer {
        CausalAnswer {
            question: Question::Past,
            relation: None,
            asked: vec![record(9, "q\"\\\n", &[7, 3])],
            records: vec![record(7, "p", &[]), record(3, "r", &[])],
            complete: false,
            stopped: Some(Stop::Limit),
            first: 3,
            last: 9,
            scanned: 6,
            hidden: 2,
            damaged: 1,
        }
    }

    // MSG-07
    #[test]
    fn an_answer_survives_the_way_through_a_command() {
        let path = CausalAnswer {
            question: Question::Path,
            relation: Some(Causality::Before),
            stopped: None,
            ..answer()
        };
        for answer in [answer(), path] {
            let json = answer.to_value().to_json();
            let read: CausalAnswer = serde_json::from_value(json).unwrap();
            assert_eq!(read, answer);
        }
    }

    // MSG-07
    #[test]
    fn the_picture_has_every_record_once_and_every_cause() {
        let dot = answer().to_dot();
        assert!(dot.starts_with("digraph causality {\n") && dot.ends_with("}\n"));
        assert_eq!(dot.matches("label=").count(), 3, "{dot}");
        assert!(
            dot.contains("  7 -> 9;\n") && dot.contains("  3 -> 9;\n"),
            "{dot}"
        );
        assert!(
            dot.contains("[label=\"9\\na.b\\nq\\\"\\\\\u{fffd}\", style"),
            "{dot}"
        );
        let mut path = answer();
        path.question = Question::Path;
        path.asked = vec![record(3, "r", &[]), record(7, "p", &[])];
        path.records = vec![record(3, "r", &[]), record(7, "p", &[3])];
        let dot = path.to_dot();
        assert_eq!(dot.matches("label=").count(), 2, "{dot}");
        assert_eq!(dot.matches("bold").count(), 2, "{dot}");
        assert!(dot.contains("  3 -> 7;\n"), "{dot}");
    }

    #[test]
    fn people_are_told_how_far_an_answer_holds() {
        assert_eq!(
            answer().summary(),
            "2 records happened before 9. There may be more: the limit is reached. This holds for \
             sequences 3 to 9; 6 looked at. 2 more on topics that this token may not subscribe \
             to. 1 sequences in that range cannot be read."
        );
        let mut many = answer();
        many.records[0].causes = (1..=10).rev().collect();
        assert_eq!(many.rows()[0][5], "10, 9, 8, 7, 6, 5, 4, 3, and 2 more");
    }
}
