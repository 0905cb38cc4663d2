//! `logdump cat`: the records themselves.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::PathBuf;

use arqonbus::log::RecordRef;
use arqonbus::proto::view::RecordView;

use crate::failure::{Outcome, Usage};
use crate::print::Printer;
use crate::select::Selection;
use crate::walk::{self, Found};
use crate::{Common, Output, source};

/// Print records
///
/// Damage is named on stderr and passed over; every good record around it is still printed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  logdump cat data/dev/main --from 1000 --to 1010
  logdump cat data/dev/main --topic 'quake.*' --from 2018-02-01T00:00:00Z --output json
  logdump cat data/dev/main --tail 5 --key ak17 --header source=usgs
  logdump cat 00000000000000000001.seg --output proto | protoc --decode arqon.v1.Deliver ...")]
pub(crate) struct Arguments {
    /// Log directories, data directories, segment files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    #[command(flatten)]
    selection: Selection,

    /// At most so many records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,

    /// Only the last so many records of each log
    #[arg(long, value_name = "N", conflicts_with = "limit")]
    tail: Option<usize>,
}

impl Arguments {
    /// Whether any record at all is asked for.
    fn wants_some(&self) -> bool {
        self.limit != Some(0) && self.tail != Some(0)
    }
}

pub(crate) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Outcome> {
    let sources = source::open(&arguments.paths, common)?;
    let mut printer = Printer::new(common)?;
    let outcome = match arguments.tail {
        Some(count) => tail(&sources, arguments, count, &mut printer)?,
        None => all(&sources, arguments, &mut printer)?,
    };
    printer.flush()?;
    if printer.records == 0 && outcome == Outcome::Well && arguments.wants_some() {
        walk::warn("no record is selected");
    }
    Ok(if printer.undecodable > 0 {
        Outcome::Damaged
    } else {
        outcome
    })
}

fn all(
    sources: &[source::Source],
    arguments: &Arguments,
    printer: &mut Printer,
) -> anyhow::Result<Outcome> {
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    if left == 0 {
        return Ok(Outcome::Well);
    }
    walk::records(sources, &arguments.selection, |found| {
        if left > 0 && is_wanted(&arguments.selection, found) {
            printer.record(found.source, &found.record)?;
            left -= 1;
        }
        Ok(if left > 0 {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        })
    })
}

/// Keeps copies of the last records; more than fit in memory is refused by the argument's bound.
fn tail(
    sources: &[source::Source],
    arguments: &Arguments,
    count: usize,
    printer: &mut Printer,
) -> anyhow::Result<Outcome> {
    const TAIL_MAX: usize = 1_000_000;
    if count > TAIL_MAX {
        return Err(Usage(format!("--tail takes at most {TAIL_MAX}; use --from")).into());
    }
    let mut outcome = Outcome::Well;
    for source in sources {
        let mut last: VecDeque<Kept> = VecDeque::new();
        let one = std::slice::from_ref(source);
        let found = walk::records(one, &arguments.selection, |found| {
            if count > 0 && is_wanted(&arguments.selection, found) {
                let reused = if last.len() == count {
                    last.pop_front()
                } else {
                    None
                };
                last.push_back(Kept::of(&found.record, reused));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if outcome != Outcome::Damaged && found != Outcome::Well {
            outcome = found;
        }
        for kept in &last {
            printer.record(source, &kept.as_ref())?;
        }
    }
    Ok(outcome)
}

/// A record that outlives the look at its batch.
struct Kept {
    sequence: arqonbus::log::Sequence,
    appended_at: arqonbus::log::Micros,
    topic: String,
    field: Vec<u8>,
    framing: usize,
}

impl Kept {
    /// Into the memory of a record that is no longer kept, if there is one.
    fn of(record: &RecordRef<'_>, reused: Option<Self>) -> Self {
        let (mut topic, mut field) = reused
            .map(|kept| (kept.topic, kept.field))
            .unwrap_or_default();
        topic.clear();
        topic.push_str(record.topic);
        field.clear();
        field.extend_from_slice(record.field);
        Self {
            sequence: record.sequence,
            appended_at: record.appended_at,
            topic,
            field,
            framing: record.field.len() - record.record.len(),
        }
    }

    fn as_ref(&self) -> RecordRef<'_> {
        RecordRef {
            sequence: self.sequence,
            appended_at: self.appended_at,
            topic: &self.topic,
            record: &self.field[self.framing..],
            field: &self.field,
        }
    }
}

/// Whether the selection, which has seen the record already, also wants its envelope.
pub(crate) fn is_wanted(selection: &Selection, found: &Found<'_>) -> bool {
    if !selection.looks_into_envelopes() {
        return true;
    }
    let view = RecordView::parse(found.record.record).ok();
    selection.wants_envelope(view.as_ref())
}

/// For verbs whose output is no list of records.
pub(crate) fn no_records(common: &Common, verb: &str) -> anyhow::Result<()> {
    match common.output {
        Output::Text | Output::Json => Ok(()),
        Output::Hex | Output::Proto => Err(Usage(format!(
            "{verb} prints no records: use --output text or json"
        ))
        .into()),
    }
}
