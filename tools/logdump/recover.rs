//! `logdump recover`: what a node would do if it opened the log now. Does none of it.

use std::fs::{File, TryLockError};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use arqonbus::log::RealStorage;
use arqonbus::log::offline::{self, Ending, Forecast, Interruption};
use serde_json::{Value, json};

use crate::cat::no_records;
use crate::failure::Outcome;
use crate::source::{self, Source};
use crate::table::{counted, printable, span};
use crate::{Common, Output, table};

/// Say what a node would do at its next start (changes nothing)
///
/// The decision is the node's own. Exits 1 if the log would take no writes. While a node has the
/// log open, this is what a crash now would give.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  logdump recover data/dev/main
  logdump recover /backup/main --output json")]
pub(crate) struct Arguments {
    /// Log directories, data directories, segment files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

pub(crate) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Outcome> {
    no_records(common, "recover")?;
    let sources = source::open(&arguments.paths, common)?;
    let mut outcome = Outcome::Well;
    let mut logs = Vec::new();
    let mut text = String::new();
    for source in &sources {
        let Some(forecast) = offline::forecast(&RealStorage, &source.log) else {
            continue;
        };
        if forecast.read_only.is_some() {
            outcome = Outcome::Damaged;
        }
        match common.output {
            Output::Json => logs.push(to_json(source, &forecast)),
            _ => text.push_str(&to_text(source, &forecast)),
        }
    }
    match common.output {
        Output::Json => table::json(&json!({ "logs": logs }))?,
        _ => table::text(&text)?,
    }
    Ok(outcome)
}

/// Who has the log in `dir` open, in the words of its lock file.
///
/// The lock is tried shared and given back at once, so that two who look do not see each other.
fn holder(dir: &Path) -> Option<String> {
    const WORDS_BYTES_MAX: u64 = 256;
    // Without a lock file, or a right to read it, nobody can be named.
    let file = File::open(dir.join("LOCK")).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {
            let mut words = Vec::new();
            let read = file.take(WORDS_BYTES_MAX).read_to_end(&mut words);
            let words = String::from_utf8_lossy(&words);
            let words = printable(words.trim());
            Some(match read {
                Ok(_) if !words.is_empty() => words,
                Ok(_) | Err(_) => "another process".to_owned(),
            })
        }
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

fn ending(forecast: &Forecast) -> &'static str {
    match forecast.ending {
        Some(Ending::Clean) => "clean",
        Some(Ending::Unclean) => "unclean",
        Some(Ending::Torn) => "torn",
        Some(Ending::LostWrite) => "lost-write",
        Some(Ending::Corrupt) => "corrupt",
        None => "headless",
    }
}

fn explained(forecast: &Forecast) -> &'static str {
    match forecast.ending {
        Some(Ending::Clean) => "closed cleanly",
        Some(Ending::Unclean) => "not closed, but all that was written is good",
        Some(Ending::Torn) => "the last write is incomplete; it was never flushed",
        Some(Ending::LostWrite) => {
            "an unflushed write is missing although a later one is there; neither was flushed"
        }
        Some(Ending::Corrupt) => "what had been flushed is damaged",
        None => "the header of the last segment is damaged",
    }
}

fn interruption(forecast: &Forecast) -> &'static str {
    match forecast.interruption {
        Interruption::Process => "process",
        Interruption::Machine => "machine",
    }
}

fn to_text(source: &Source, forecast: &Forecast) -> String {
    let mut lines = vec![
        format!(
            "{}/{} in {}",
            source.tenant,
            source.reality,
            source.log.path.display()
        ),
        format!(
            "  last session       {} ({})",
            ending(forecast),
            explained(forecast)
        ),
        format!("  durable through    {}", forecast.durable_through),
        format!("  next sequence      {}", forecast.next),
        format!("  next epoch         {}", forecast.epoch),
    ];
    if let Some(holder) = holder(&source.log.path) {
        lines.insert(
            1,
            format!("  open in            {holder}; what follows is what a crash now would give"),
        );
    } else if forecast.ending != Some(Ending::Clean) {
        let said = match forecast.interruption {
            Interruption::Process => "the process died; what it had written is all there",
            Interruption::Machine => "the machine went down, or these files come from another",
        };
        lines.push(format!("  seen from here     {said}"));
    }
    if let Some(cut) = &forecast.cut {
        lines.push(format!(
            "  would cut off      bytes {} of the last segment ({})",
            span(cut.start, cut.end.saturating_sub(1)),
            counted(cut.end.saturating_sub(cut.start), "byte", "bytes"),
        ));
    }
    if let Some(rewritten) = &forecast.rewritten {
        lines.push(format!(
            "  would write again  bytes {}, not known to be flushed",
            span(rewritten.start, rewritten.end.saturating_sub(1)),
        ));
    }
    match &forecast.read_only {
        Some(reason) => lines.push(format!("  would be read-only {reason}")),
        None => lines.push("  would take writes".to_owned()),
    }
    if let Some(statement) = &forecast.statement {
        let shown = serde_json::to_string_pretty(&statement.to_json()).unwrap_or_default();
        lines.push(format!("  would state in {}:", statement.path.display()));
        lines.extend(shown.lines().map(|line| format!("    {line}")));
    }
    lines.join("\n") + "\n\n"
}

fn to_json(source: &Source, forecast: &Forecast) -> Value {
    let range = |range: &Option<std::ops::Range<u64>>| {
        range
            .as_ref()
            .map(|range| json!({ "start": range.start, "end": range.end }))
    };
    json!({
        "path": source.log.path.display().to_string(),
        "tenant": source.tenant,
        "reality": source.reality,
        "open_in": holder(&source.log.path),
        "ending": ending(forecast),
        "interruption": interruption(forecast),
        "durable_through": forecast.durable_through,
        "next": forecast.next.get(),
        "epoch": forecast.epoch,
        "data_end": forecast.data_end.0,
        "cut": range(&forecast.cut),
        "rewritten": range(&forecast.rewritten),
        "read_only": forecast.read_only,
        "statement": forecast.statement.as_ref().map(arqonbus::log::LossStatement::to_json),
    })
}
