//! Has a policy judge what is in a log already: which records would have been refused or changed,
//! and why (EDGE-16).
//!
//! Nothing comes of it: no record is written, and none is judged again in earnest. What history
//! does not tell is filled in by what it does: the sender is the record's producer, its role is
//! `user`, its token has no id, and the time is that of the append.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::pool::Policy;
use super::question::Question;
use super::verdict::Ruling;
use crate::proto::v1::Value;
use crate::proto::v1::value::{Kind, List};
use crate::proto::view::RecordView;

/// Different reasons that are counted apart; a policy chooses its codes, so that they are not
/// bounded by themselves.
const REASONS_MAX: usize = 100;
/// Counted in place of those.
const OTHER: &str = "(other)";
/// What takes longer counts as this long; no policy may.
const TIME_NS_MAX: u64 = 60_000_000_000;
/// Records of which it is told what would have become of them, at most.
pub const SAMPLES_MAX: usize = 1_000;

/// What would have become of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Which.
    pub sequence: u64,
    /// Its topic.
    pub topic: String,
    /// `deny`, `redact`, `replace` or `fail`.
    pub decision: &'static str,
    /// Code of a refusal, or the reason of a failure.
    pub code: String,
    /// What the policy says about it.
    pub message: String,
}

/// What would have become of the records looked at.
#[derive(Debug)]
pub struct Report {
    /// Records judged.
    pub judged: u64,
    /// By decision: `allow`, `deny`, `redact`, `replace`, `fail`.
    pub decisions: BTreeMap<&'static str, u64>,
    /// Refusals by their codes, failures by their reasons.
    pub reasons: BTreeMap<String, u64>,
    /// Labels given.
    pub labels: BTreeMap<String, u64>,
    /// The first records that would not have passed unchanged.
    pub samples: Vec<Sample>,
    /// Time of single calls, in nanoseconds.
    pub times: Histogram<u64>,
}

/// A rehearsal under way.
#[derive(Debug)]
pub struct Rehearsal<'a> {
    policy: &'a Policy,
    tenant: &'a str,
    samples_max: usize,
    report: Report,
}

impl<'a> Rehearsal<'a> {
    /// Of `policy`, on records of `tenant`; tells of up to `samples_max` records.
    #[must_use]
    pub fn new(policy: &'a Policy, tenant: &'a str, samples_max: usize) -> Self {
        // Its arguments are constants that it accepts.
        let times = Histogram::new_with_bounds(1, TIME_NS_MAX, 2)
            .unwrap_or_else(|_| unreachable!("the bounds are in order, two digits are allowed"));
        Self {
            policy,
            tenant,
            samples_max: samples_max.min(SAMPLES_MAX),
            report: Report {
                judged: 0,
                decisions: BTreeMap::new(),
                reasons: BTreeMap::new(),
                labels: BTreeMap::new(),
                samples: Vec::new(),
                times,
            },
        }
    }

    /// Has the policy judge a record.
    pub fn judge(&mut self, record: &RecordView<'_>) {
        let view = &record.envelope;
        let producer = match view.producer_id {
            "" => record.stamped_producer,
            named => named,
        };
        let question = Question {
            topic: record.topic,
            tenant: self.tenant,
            subject: producer,
            role: "user",
            token_id: "",
            producer,
            kind: view.payload.kind(),
            schema: view.schema,
            now_ms: record.appended_at / 1_000,
            headers: view.headers,
        };
        let judged = self.policy.judge(&question, view.payload.data());
        let report = &mut self.report;
        report.judged += 1;
        report.times.saturating_record(nanoseconds(judged.took));
        for label in judged.tags {
            count(&mut report.labels, label);
        }
        let (decision, code, message) = match judged.outcome {
            Ok(Ruling::Allow) => ("allow", String::new(), String::new()),
            Ok(Ruling::Deny(denial)) => ("deny", denial.code, denial.message),
            Ok(ruling) => (ruling.as_str(), String::new(), String::new()),
            Err(failure) => ("fail", failure.reason().to_owned(), failure.to_string()),
        };
        *report.decisions.entry(decision).or_default() += 1;
        if decision == "allow" {
            return;
        }
        if report.samples.len() < self.samples_max {
            report.samples.push(Sample {
                sequence: record.sequence,
                topic: record.topic.to_owned(),
                decision,
                code: code.clone(),
                message,
            });
        }
        if matches!(decision, "deny" | "fail") {
            count(&mut report.reasons, code);
        }
    }

    /// What came of it.
    #[must_use]
    pub fn report(self) -> Report {
        self.report
    }
}

fn nanoseconds(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

fn count(counts: &mut BTreeMap<String, u64>, name: String) {
    if counts.len() >= REASONS_MAX && !counts.contains_key(&name) {
        *counts.entry(OTHER.to_owned()).or_default() += 1;
    } else {
        *counts.entry(name).or_default() += 1;
    }
}

impl Report {
    /// As fields of a command's result. The times are counts by nanoseconds, so that several
    /// reports can be put together.
    #[must_use]
    pub fn to_fields(&self) -> Vec<(&'static str, Value)> {
        let list = |items: Vec<Value>| Value::from(Kind::List(List { items }));
        let by_decision = self.decisions.iter().map(|(name, n)| (*name, (*n).into()));
        let named = |counts: &BTreeMap<String, u64>| {
            Value::object(counts.iter().map(|(name, n)| (name.clone(), (*n).into())))
        };
        let sample = |sample: &Sample| {
            Value::object([
                ("sequence", sample.sequence.into()),
                ("topic", sample.topic.as_str().into()),
                ("decision", sample.decision.into()),
                ("code", sample.code.as_str().into()),
                ("message", sample.message.as_str().into()),
            ])
        };
        let time = |at: hdrhistogram::iterators::IterationValue<u64>| {
            let pair = [at.value_iterated_to(), at.count_since_last_iteration()];
            list(pair.map(Value::from).to_vec())
        };
        vec![
            ("judged", self.judged.into()),
            ("decisions", Value::object(by_decision)),
            ("reasons", named(&self.reasons)),
            ("labels", named(&self.labels)),
            ("samples", list(self.samples.iter().map(sample).collect())),
            (
                "times_ns",
                list(self.times.iter_recorded().map(time).collect()),
            ),
        ]
    }
}
