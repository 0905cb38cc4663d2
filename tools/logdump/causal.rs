//! `logdump causal`: what happened before a record, beside it, and on the way to another, from the
//! files alone.

use std::convert::Infallible;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

use arqonbus::broker::causality::{Error, History, Inquiry, Limits, Seen};
use arqonbus::log::offline::{self, Directory, SegmentFile};
use arqonbus::log::scan::Scanned;
use arqonbus::log::{ByteOffset, RealStorage, Sequence};
use arqonbus::proto::causal::CausalAnswer;
use clap::Subcommand;

use crate::failure::{Outcome, Usage};
use crate::locked::Locked;
use crate::table::{self, printable};
use crate::walk::warn;
use crate::{Common, Form, cat, source};

/// Distance in bytes between two places where reading can begin.
const POINT_BYTES: u64 = 64 << 10;

/// Show what happened before a record, beside it, or on the way to another
///
/// By the vector clocks in the records. `--output dot` draws the answer for Graphviz. Exits 1 if
/// the record is not there, or damage may hide a part of the answer.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  logdump causal past 1705 data/dev/main
  logdump causal concurrent 1705 data/dev/main --limit 20 --output json
  logdump causal path 1000 1705 data/dev/main --output dot | dot -Tsvg > path.svg")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// What happened before a record, nearest first
    #[command(after_help = "Example:\n  logdump causal past 1705 data/dev/main")]
    Past(One),
    /// What happened neither before a record nor after it, nearest first
    #[command(after_help = "Example:\n  logdump causal concurrent 1705 data/dev/main")]
    Concurrent(One),
    /// The chain of direct causes from one record to another
    #[command(after_help = "Example:\n  logdump causal path 1000 1705 data/dev/main")]
    Path(Two),
}

#[derive(Debug, clap::Args)]
struct One {
    /// The record that is asked about
    #[arg(value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    sequence: u64,

    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
struct Two {
    /// The record where the path begins
    #[arg(value_name = "FROM", value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,

    /// The record where the path ends
    #[arg(value_name = "TO", value_parser = clap::value_parser!(u64).range(1..))]
    to: u64,

    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
struct Place {
    /// A log's directory, or a segment file
    #[arg(value_name = "PATH")]
    path: PathBuf,

    /// Most records in the answer; finding the causes among them takes the square of it
    #[arg(long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(1..=10_000))]
    limit: u64,

    /// Most records to look at [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    window: Option<u64>,
}

pub(crate) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Outcome> {
    cat::no_records(common, "causal")?;
    let (Question::Past(One { place, .. })
    | Question::Concurrent(One { place, .. })
    | Question::Path(Two { place, .. })) = &arguments.question;
    let sources = source::open(std::slice::from_ref(&place.path), common)?;
    let [source] = sources.as_slice() else {
        let path = place.path.display();
        let count = sources.len();
        let wrong = format!("{path} holds {count} logs; give the directory of one");
        return Err(Usage(wrong).into());
    };
    let mut locked = Locked::default();
    for segment in source.log.segments.iter().filter(|one| one.is_locked()) {
        locked.add(segment, segment.index().end().since(segment.base));
    }
    if let Some(notice) = locked.notice(source) {
        warn(&notice);
        return Ok(Outcome::Locked);
    }
    let mut history = Files::of(&source.log);
    let limits = Limits {
        answers: usize::try_from(place.limit).unwrap_or(usize::MAX),
        records: place.window.unwrap_or(u64::MAX),
        bytes: u64::MAX,
    };
    let inquiry = Inquiry::new(&mut history, &|_topic| true, limits);
    let at = Sequence::at_least_first;
    let answered = match &arguments.question {
        Question::Past(one) => inquiry.past(at(one.sequence)),
        Question::Concurrent(one) => inquiry.concurrent(at(one.sequence)),
        Question::Path(two) => inquiry.path(at(two.from), at(two.to)),
    };
    match answered {
        Ok(answer) => {
            print(&answer, common.form)?;
            Ok(if answer.damaged > 0 {
                Outcome::Damaged
            } else {
                Outcome::Well
            })
        }
        Err(Error::History(never)) => match never {},
        Err(error @ Error::Missing { .. }) => {
            warn(&error.to_string());
            Ok(Outcome::Nothing)
        }
        Err(error @ (Error::Damaged { .. } | Error::Clock { .. } | Error::Hidden { .. })) => {
            warn(&error.to_string());
            Ok(Outcome::Damaged)
        }
    }
}

fn print(answer: &CausalAnswer, form: Form) -> anyhow::Result<()> {
    match form {
        Form::Json => table::json(&answer.to_value().to_json()),
        Form::Dot => table::text(&answer.to_dot()),
        Form::Text | Form::Hex | Form::Proto => {
            let heads = [
                "#SEQUENCE",
                "APPENDED_AT",
                "TOPIC",
                "PRODUCER",
                "ID",
                "DIRECT_CAUSES",
            ];
            let rows = answer.rows();
            let rows: Vec<Vec<String>> = rows
                .iter()
                .map(|row| row.iter().map(|cell| printable(cell)).collect())
                .collect();
            let shown = if rows.is_empty() {
                String::new()
            } else {
                table::table(&heads, &rows) + "\n"
            };
            table::text(&format!("{shown}{}\n", answer.summary()))
        }
    }
}

/// The files of a log as a history.
#[derive(Debug)]
struct Files<'a> {
    log: &'a Directory,
    /// Of each segment, once it has been gone over.
    surveys: Vec<Option<Survey>>,
    bounds: Range<Sequence>,
}

/// What a first pass over a segment tells.
#[derive(Clone, Debug)]
struct Survey {
    /// Where batches begin, and with which sequence.
    points: Vec<(Sequence, ByteOffset)>,
    /// Exclusive end of its records.
    end: Sequence,
    /// What the next segment's header must name as the end of this one; `None` after damage.
    root: Option<u32>,
}

impl Survey {
    fn of(segment: &SegmentFile) -> Self {
        let header = segment.header.as_ref();
        let mut survey = Self {
            points: Vec::new(),
            end: segment.base,
            root: header.map(arqonbus::log::segment::SegmentHeader::chain),
        };
        let mut next_point = 0;
        for scanned in segment.scan() {
            match scanned {
                Scanned::Batch(batch) => {
                    survey.root = Some(batch.next_chain);
                    if batch.header.is_mark() {
                        continue;
                    }
                    if batch.offset.0 >= next_point {
                        survey.points.push((batch.header.base, batch.offset));
                        next_point = batch.offset.0 + POINT_BYTES;
                    }
                    survey.end = batch.header.end();
                }
                Scanned::Damaged(region) => {
                    survey.root = None;
                    let last = region.salvaged().last();
                    survey.end = last.map_or(survey.end, |(_, record)| record.sequence.next());
                }
                Scanned::End(_) => {}
            }
        }
        if let Some(header) = header.filter(|header| header.is_rewritten()) {
            survey.root = Some(header.sealed_root);
            survey.end = survey.end.max(Sequence::at_least_first(header.end));
        }
        survey
    }
}

impl<'a> Files<'a> {
    fn of(log: &'a Directory) -> Self {
        let mut files = Self {
            log,
            surveys: vec![None; log.segments.len()],
            bounds: Sequence::FIRST..Sequence::FIRST,
        };
        let first = log.segments.first().map_or(Sequence::FIRST, |one| one.base);
        let last = log.segments.len().checked_sub(1);
        let mut end = last.map_or(first, |at| files.survey(at).end);
        // What a crash leaves at the end was never acknowledged. Damage there has cost records.
        let forecast = offline::forecast(&RealStorage, log);
        if let Some(forecast) = forecast.filter(|forecast| forecast.read_only.is_some()) {
            end = end.max(forecast.next);
        }
        files.bounds = first..end;
        files
    }

    fn survey(&mut self, at: usize) -> &Survey {
        let segment = &self.log.segments[at];
        self.surveys[at].get_or_insert_with(|| Survey::of(segment))
    }

    /// Sequences behind the records of a segment that a segment which is gone has held; a crash
    /// leaves a gap too, but then the headers agree.
    fn gone_after(&mut self, at: usize) -> Option<Range<Sequence>> {
        let next = self.log.segments.get(at + 1)?;
        let survey = self.survey(at);
        let agrees = match (survey.root, &next.header) {
            (Some(root), Some(header)) => root == header.previous_root,
            _ => false,
        };
        (survey.end < next.base && !agrees).then_some(survey.end..next.base)
    }

    fn read_segment(
        &mut self,
        at: usize,
        range: &Range<Sequence>,
        each: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut scan = self.log.segments[at].scan();
        let points = &self.survey(at).points;
        let after = points.partition_point(|(sequence, _)| *sequence <= range.start);
        let point = after.checked_sub(1).and_then(|at| points.get(at));
        if let Some(&(sequence, offset)) = point {
            scan = scan.from(offset, sequence);
        }
        for scanned in scan {
            match scanned {
                Scanned::Batch(batch) => {
                    if batch.header.is_mark() || batch.header.end() <= range.start {
                        continue;
                    }
                    if batch.header.base >= range.end {
                        break;
                    }
                    if batch.lost().is_some() {
                        lost(batch.header.base..batch.header.end(), range, each)?;
                    }
                    for record in batch.records() {
                        if range.contains(&record.sequence) {
                            each(Seen::Record(record))?;
                        }
                    }
                }
                Scanned::Damaged(region) => {
                    if region.expected >= range.end {
                        break;
                    }
                    let mut next = region.expected;
                    for (_, record) in region.salvaged() {
                        lost(next..record.sequence, range, each)?;
                        if range.contains(&record.sequence) {
                            each(Seen::Record(record))?;
                        }
                        next = record.sequence.next();
                    }
                    // What is missing up to the next segment is shown below.
                    let is_last = self.log.next_base(at).is_none();
                    if is_last || region.end != Sequence::MAX {
                        lost(next..region.end, range, each)?;
                    }
                }
                Scanned::End(_) => {}
            }
        }
        match self.gone_after(at) {
            Some(gone) => lost(gone, range, each),
            None => ControlFlow::Continue(()),
        }
    }
}

/// Shows the part of `gone` that lies in `range`, if there is one.
fn lost(
    gone: Range<Sequence>,
    range: &Range<Sequence>,
    each: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let gone = gone.start.max(range.start)..gone.end.min(range.end);
    if gone.is_empty() {
        return ControlFlow::Continue(());
    }
    each(Seen::Lost(gone))
}

impl History for Files<'_> {
    type Error = Infallible;

    fn bounds(&self) -> Range<Sequence> {
        self.bounds.clone()
    }

    fn read(
        &mut self,
        range: Range<Sequence>,
        each: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>,
    ) -> Result<(), Infallible> {
        for at in 0..self.log.segments.len() {
            let ends_before = self
                .log
                .next_base(at)
                .is_some_and(|next| next <= range.start);
            if ends_before {
                continue;
            }
            let starts_after = self.log.segments[at].base >= range.end;
            if starts_after || self.read_segment(at, &range, each).is_break() {
                break;
            }
        }
        Ok(())
    }
}
