//! `arqon policy rehearse`: what a policy would have done to records that are in the log.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use arqonbus::client;
use arqonbus::proto::v1::Value;
use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::module::{contents, read};
use crate::connection::{Patience, Target};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::{Output, bounds, table};

/// Have a policy judge history, without effect: what would have been refused or changed, and why
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon policy rehearse no-malware/policy.wat --since 24h
  arqon policy rehearse no-malware@3 --samples 100 --output json
  arqon policy rehearse no-malware --reality what-if --filter 'chat.>'

The node reads its log and runs the policy as it would on new messages; nothing is written. What
history does not tell is filled in: the sender is the record's producer, with the role user.")]
pub(super) struct Rehearse {
    /// A module's file (.wasm, .wat), or the name of a policy that was pushed, of its newest
    /// version unless one is named
    #[arg(value_name = "FILE|NAME[@VERSION]")]
    policy: String,

    /// File that `arqon_init` is given, where a file is rehearsed
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Records of the last 90s, 15m, 24h, 7d [default: all]
    #[arg(long, value_parser = bounds::span, value_name = "SPAN")]
    since: Option<Duration>,

    /// Records up to this time (RFC 3339) [default: up to now]
    #[arg(long, value_name = "TIME")]
    until: Option<jiff::Timestamp>,

    /// Records on these topics [default: the policy's, or all for a file]
    #[arg(long)]
    filter: Option<String>,

    /// Of how many records to tell what would have become of them
    #[arg(long, default_value = "10", value_name = "N")]
    samples: u64,
}

/// One answer of the node.
#[derive(Deserialize)]
struct Part {
    next: u64,
    end: u64,
    finished: bool,
    records: u64,
    lost: u64,
    judged: u64,
    decisions: BTreeMap<String, u64>,
    reasons: BTreeMap<String, u64>,
    labels: BTreeMap<String, u64>,
    samples: Vec<serde_json::Value>,
    times_ns: Vec<(u64, u64)>,
}

#[derive(Default)]
struct Whole {
    records: u64,
    lost: u64,
    judged: u64,
    decisions: BTreeMap<String, u64>,
    reasons: BTreeMap<String, u64>,
    labels: BTreeMap<String, u64>,
    samples: Vec<serde_json::Value>,
    /// Count by upper bound in nanoseconds.
    times: BTreeMap<u64, u64>,
}

pub(super) async fn run(target: &Target, output: Output, asked: Rehearse) -> anyhow::Result<()> {
    let mut arguments = candidate(&asked)?;
    let connection = target.connect(Patience::None).await?;
    arguments.push(("reality", connection.reality.as_str().into()));
    if let Some(filter) = &asked.filter {
        arguments.push(("filter", filter.as_str().into()));
    }
    if let Some(until) = asked.until {
        let until = u64::try_from(until.as_microsecond()).unwrap_or(0);
        arguments.push(("until_us", until.into()));
    }
    let now = client::now_micros();
    let since = asked.since.map(|span| {
        let span = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        now.saturating_sub(span)
    });
    let (mut whole, mut next) = (Whole::default(), None);
    let mut progress: Option<Progress> = None;
    loop {
        let mut arguments = arguments.clone();
        let left = asked.samples.saturating_sub(whole.samples.len() as u64);
        arguments.push(("samples", left.into()));
        match (next, since) {
            (Some(next), _) => arguments.push(("from", Value::from(next))),
            (None, Some(since)) => arguments.push(("since_us", since.into())),
            (None, None) => {}
        }
        let answer = connection.client.command("edge.policy.rehearse", arguments);
        let part: Part = serde_json::from_value(answer.await?.to_json())
            .context("the node's answer cannot be read")?;
        let bar = progress.get_or_insert_with(|| {
            let left = part.end.saturating_sub(part.next);
            Progress::new(Some(part.records + left), "records")
        });
        bar.add(part.records);
        let finished = part.finished;
        next = Some(part.next);
        whole.take(part);
        if finished {
            break;
        }
    }
    drop(progress);
    whole.print(output)
}

fn candidate(asked: &Rehearse) -> anyhow::Result<Vec<(&'static str, Value)>> {
    let path = PathBuf::from(&asked.policy);
    let is_file = path
        .extension()
        .is_some_and(|end| end == "wasm" || end == "wat");
    if !is_file {
        if asked.config.is_some() {
            let text = "--config goes with a file; a policy that was pushed has its own";
            return Err(Failure::usage(text).into());
        }
        let Some((name, version)) = asked.policy.split_once('@') else {
            return Ok(vec![("policy", asked.policy.as_str().into())]);
        };
        let version: u64 = version.parse().map_err(|_not_a_number| {
            Failure::usage(format!(
                "{version:?} is no version: they are numbers from 1 on"
            ))
        })?;
        return Ok(vec![("policy", name.into()), ("version", version.into())]);
    }
    let mut arguments = vec![("module", read(&path)?.into())];
    if let Some(config) = &asked.config {
        arguments.push(("config", contents(config)?.into()));
    }
    Ok(arguments)
}

impl Whole {
    fn take(&mut self, part: Part) {
        self.records += part.records;
        self.lost += part.lost;
        self.judged += part.judged;
        self.samples.extend(part.samples);
        for (into, from) in [
            (&mut self.decisions, part.decisions),
            (&mut self.reasons, part.reasons),
            (&mut self.labels, part.labels),
        ] {
            for (name, count) in from {
                *into.entry(name).or_default() += count;
            }
        }
        for (up_to, count) in part.times_ns {
            *self.times.entry(up_to).or_default() += count;
        }
    }

    /// The time in microseconds that so many of a hundred calls took at most.
    fn percentile(&self, percent: f64) -> f64 {
        let mut seen = 0;
        for (up_to, count) in &self.times {
            seen += count;
            #[expect(clippy::cast_precision_loss, reason = "a percentile of a report")]
            if seen as f64 >= self.judged as f64 * percent / 100.0 {
                return *up_to as f64 / 1_000.0;
            }
        }
        0.0
    }

    fn print(self, output: Output) -> anyhow::Result<()> {
        let changed = |name: &str| self.decisions.get(name).copied().unwrap_or(0);
        let result = json!({
            "records": self.records,
            "judged": self.judged,
            "allowed": changed("allow"),
            "refused": changed("deny"),
            "changed": changed("redact") + changed("replace"),
            "failed": changed("fail"),
            "lost": self.lost,
            "p50_us": self.percentile(50.0),
            "p99_us": self.percentile(99.0),
            "max_us": self.percentile(100.0),
            "reasons": counted(&self.reasons, "reason"),
            "labels": counted(&self.labels, "label"),
            "samples": self.samples,
        });
        table::print(&result, output)
    }
}

fn counted(counts: &BTreeMap<String, u64>, name: &str) -> Vec<serde_json::Value> {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let row = |(what, count): (&String, &u64)| json!({ name: what, "records": count });
    counts.into_iter().map(row).collect()
}
