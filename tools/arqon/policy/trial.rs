//! `arqon policy check`, `run` and `test`: a policy on this machine, without any node.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::Context as _;
use arqonbus::edge::policy::{Isolation, Judged, Level, Question, Ruling, vectors};
use clap::Args;
use serde_json::{Value, json};

use super::module::{Source, contents};
use crate::failure::Failure;
use crate::{Output, table};

/// Say whether a module is a policy, and what a node would make of it
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  arqon policy check no-malware/policy.wat")]
pub(super) struct Check {
    #[command(flatten)]
    source: Source,
}

/// Have a policy judge one payload, from a file or standard input
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  echo 'buy malware now' | arqon policy run no-malware/policy.wat --topic chat.lobby")]
pub(super) struct Run {
    #[command(flatten)]
    source: Source,

    /// Where the message would go
    #[arg(long, default_value = "test")]
    topic: String,

    /// The event's type
    #[arg(long, default_value = "")]
    kind: String,

    /// Who would send it
    #[arg(long, default_value = "tester")]
    subject: String,

    /// The payload's file instead of standard input
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
}

/// Have a policy judge its test vectors
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  arqon policy test no-malware/policy.wat --vectors no-malware/vectors.json

Each vector is judged by a used and by a new instance, and must come out as it says both times.
The form of the file is in docs/policy-abi.md.")]
pub(super) struct Test {
    #[command(flatten)]
    source: Source,

    /// The vectors, a JSON list
    #[arg(long, value_name = "FILE")]
    vectors: PathBuf,
}

pub(super) fn check(output: Output, check: &Check) -> anyhow::Result<()> {
    let ready = check.source.open()?;
    // Making one instance shows whether its configuration is good.
    ready.policy()?;
    let module = &ready.module;
    let level = match module.level {
        Level::Zero => 0,
        Level::One => 1,
    };
    let digest: String = module
        .digest
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let result = json!({
        "policy": true,
        "abi_level": level,
        "bytes": module.len,
        "instances_reused": module.resets,
        "digest": digest,
    });
    table::print(&result, output)
}

pub(super) fn run(output: Output, run: &Run) -> anyhow::Result<()> {
    let ready = run.source.open()?;
    let body = match &run.body {
        Some(path) => contents(path)?.to_vec(),
        None => {
            let mut body = Vec::new();
            let mut input = std::io::stdin().lock();
            input
                .read_to_end(&mut body)
                .context("reading standard input")?;
            body
        }
    };
    let question = Question {
        topic: &run.topic,
        kind: &run.kind,
        subject: &run.subject,
        producer: &run.subject,
        role: "user",
        ..Question::default()
    };
    let judged = ready.policy()?.judge(&question, &body);
    table::print(&shown(&judged), output)
}

fn shown(judged: &Judged) -> Value {
    let mut shown = match &judged.outcome {
        Ok(Ruling::Deny(denial)) => {
            json!({ "outcome": "deny", "code": denial.code, "message": denial.message })
        }
        Ok(ruling) => {
            let mut shown = json!({ "outcome": ruling.as_str() });
            if let Some(data) = ruling.changed() {
                shown["payload"] = String::from_utf8_lossy(data).into();
            }
            shown
        }
        Err(failure) => json!({ "outcome": failure.reason(), "message": failure.to_string() }),
    };
    shown["tags"] = json!(judged.tags);
    shown["log"] = json!(judged.log);
    shown["took_us"] = json!(judged.took.as_nanos() / 1_000);
    if let Some(fuel) = judged.fuel {
        shown["fuel"] = fuel.into();
    }
    shown
}

pub(super) fn test(output: Output, test: &Test) -> anyhow::Result<()> {
    let ready = test.source.open()?;
    let vectors = vectors::parse(&contents(&test.vectors)?)
        .map_err(|miss| Failure::data(format!("{}: {miss}", test.vectors.display())))?;
    let (engine, module, config) = (&ready.engine, &ready.module, &ready.config);
    let misses = vectors::run(engine, module, config, Isolation::Reused, &vectors)
        .map_err(|unfit| Failure::data(unfit.to_string()))?;
    let result = json!({
        "vectors": vectors.len(),
        "passed": misses.is_empty(),
        "misses": misses.iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    table::print(&result, output)?;
    if misses.is_empty() {
        return Ok(());
    }
    Err(Failure::data("a vector came out otherwise than it says").into())
}
