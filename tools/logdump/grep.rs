//! `logdump grep`: records by the bytes of their payloads.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Context as _;
use arqonbus::proto::view::RecordView;
use regex::bytes::Regex;

use crate::cat::is_wanted;
use crate::failure::{Outcome, Usage};
use crate::print::Printer;
use crate::select::Selection;
use crate::{Common, source, walk};

/// Print records whose payload matches a regular expression
///
/// Looks at the payload's bytes as they were produced; at the whole record where that cannot be
/// decoded. Exits 1 if nothing matches.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  logdump grep '\"mag\": ?[6-9]' data/dev/main
  logdump grep '(?i)alaska' data/dev/main --topic 'quake.>' --output json
  logdump grep '\\xff\\xd8\\xff' data/dev/main --limit 1")]
pub(crate) struct Arguments {
    /// Regular expression over bytes
    #[arg(value_name = "REGEX")]
    pattern: String,

    /// Log directories, data directories, segment files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    #[command(flatten)]
    selection: Selection,

    /// At most so many records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

pub(crate) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Outcome> {
    // Bytes need not be text: `(?-u)` lets `.` and `\xff` stand for any of them.
    let pattern = Regex::new(&format!("(?-u){}", arguments.pattern))
        .or_else(|_unicode| Regex::new(&arguments.pattern))
        .map_err(|error| Usage(error.to_string()))
        .context("read the regular expression")?;
    let sources = source::open(&arguments.paths, common)?;
    let mut printer = Printer::new(common)?;
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    let mut matched = 0_u64;
    let outcome = walk::records(&sources, &arguments.selection, |found| {
        if left == 0 {
            return Ok(ControlFlow::Break(()));
        }
        let view = RecordView::parse(found.record.record).ok();
        let payload = view
            .as_ref()
            .map_or(found.record.record, |view| view.envelope.payload.data());
        if pattern.is_match(payload) && is_wanted(&arguments.selection, found) {
            printer.record(found.source, &found.record)?;
            matched += 1;
            left -= 1;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    printer.flush()?;
    Ok(if matched == 0 {
        Outcome::Nothing
    } else {
        outcome
    })
}
