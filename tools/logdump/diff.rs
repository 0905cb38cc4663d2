//! `logdump diff`: what two logs hold, record by record.
//!
//! Reads both from front to back and keeps counts only, so that logs of any length are compared
//! in the memory of a batch each, and a name per topic.

mod change;
mod cursor;
mod report;

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use crate::cat::no_records;
use crate::failure::{Outcome, Usage};
use crate::progress::Progress;
use crate::select::Selection;
use crate::source::{self, Source};
use crate::{Common, Output, table};

use change::Part;
use cursor::Cursor;
use report::Report;

/// Compare two logs record by record
///
/// Records are held against each other by their sequences. How they lie in batches, segments and
/// indexes does not count, so a log can be compared with a copy, with one that was compacted, or
/// with the beginning of itself. Exits 0 if both hold the same, 1 if not, if one is damaged, or if
/// one is encrypted with a key that is not at hand: then only records that differ tell something.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  logdump diff data/dev/main backup/dev/main
  logdump diff node1/dev/main node2/dev/main --topic 'orders.>' --output json
  logdump diff data/dev/main data/dev/what-if --ignore time,clock,stamp")]
pub(crate) struct Arguments {
    /// A log's directory or a segment file
    #[arg(value_name = "A")]
    a: PathBuf,

    /// The log to compare it with
    #[arg(value_name = "B")]
    b: PathBuf,

    #[command(flatten)]
    selection: Selection,

    /// What may differ between two records that count as the same
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    ignore: Vec<Part>,

    /// List at most so many differing records, ranges and damages of each log; all are counted
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

pub(crate) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Outcome> {
    no_records(common, "diff")?;
    let a = only_log(&arguments.a, common)?;
    let b = only_log(&arguments.b, common)?;
    let mut progress = Progress::of_bytes(a.bytes() + b.bytes());
    let mut left = Cursor::new(&a, &arguments.selection, arguments.limit);
    let mut right = Cursor::new(&b, &arguments.selection, arguments.limit);
    let mut report = Report::new(&arguments.ignore, arguments.limit);
    loop {
        let order = match (left.peek(), right.peek()) {
            (Some(a), Some(b)) => a.sequence.cmp(&b.sequence),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => break,
        };
        match order {
            Ordering::Less => {
                if let Some(a) = left.peek() {
                    match right.hides(a.sequence) {
                        true => report.not_compared(&a),
                        false => report.only_in_a(&a),
                    }
                }
                left.advance();
            }
            Ordering::Greater => {
                if let Some(b) = right.peek() {
                    match left.hides(b.sequence) {
                        true => report.not_compared(&b),
                        false => report.only_in_b(&b),
                    }
                }
                right.advance();
            }
            Ordering::Equal => {
                if let (Some(a), Some(b)) = (left.peek(), right.peek()) {
                    report.in_both(&a, &b);
                }
                left.advance();
                right.advance();
            }
        }
        progress.add(left.take_bytes_read() + right.take_bytes_read());
    }
    drop(progress);
    report.end();
    let (left, right) = (left.finish(), right.finish());
    match common.output {
        Output::Json => table::json(&report.to_json([&left, &right]))?,
        _ => table::text(&report.to_text([&left, &right]))?,
    }
    let is_locked = left.locked() > 0 || right.locked() > 0;
    Ok(if report.is_divergent() {
        Outcome::Different
    } else if left.is_damaged() || right.is_damaged() {
        Outcome::Damaged
    } else if is_locked {
        Outcome::Locked
    } else {
        Outcome::Well
    })
}

/// The one log at `path`.
pub(crate) fn only_log(path: &Path, common: &Common) -> anyhow::Result<Source> {
    let mut sources = source::open(&[path.to_owned()], common)?;
    if sources.len() > 1 {
        let names: Vec<String> = sources
            .iter()
            .take(5)
            .map(|source| format!("{}/{}", source.tenant, source.reality))
            .collect();
        return Err(Usage(format!(
            "{} holds {} logs ({}{}): name one of them",
            path.display(),
            sources.len(),
            names.join(", "),
            if sources.len() > names.len() {
                ", …"
            } else {
                ""
            },
        ))
        .into());
    }
    sources
        .pop()
        .ok_or_else(|| Usage(format!("{}: no log", path.display())).into())
}
