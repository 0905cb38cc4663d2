//! Causal questions as commands: their arguments, what the caller may see, and an open log as the
//! history that is asked.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::causality::{self, History, Inquiry, Limits, Seen};
use super::command::{Call, REALITY};
use super::error::{ArgumentFault, Error};
use super::reality::Reality;
use super::verb::{Argument, Kind};
use crate::log::{self, Found, Log, Sequence};
use crate::proto::causal::CausalAnswer;
use crate::proto::v1::Value;

/// Records in an answer, unless the caller says otherwise.
const LIMIT: u64 = 100;
/// Most that the caller may ask for: the cost of linking them grows with the square.
const LIMIT_MAX: u64 = 1_000;
/// Records to look at, unless the caller says otherwise.
const WINDOW: u64 = 100_000;
/// Most that the caller may ask for.
const WINDOW_MAX: u64 = 10_000_000;
/// Most bytes of records that a question reads.
const WINDOW_BYTES_MAX: u64 = 1 << 30;
/// Bytes to read from the log at a time.
const READ_BYTES: usize = 4 << 20;

const SEQUENCE: Argument = required("sequence", "the record that is asked about");
const FROM: Argument = required("from", "the record where the path begins");
const TO: Argument = required("to", "the record where the path ends");
const LIMIT_ARGUMENT: Argument = Argument {
    name: "limit",
    kind: Kind::Text,
    required: false,
    doc: "most records in the answer, 1 to 1000; 100 if left out",
};
const WINDOW_ARGUMENT: Argument = Argument {
    name: "window",
    kind: Kind::Text,
    required: false,
    doc: "most records to look at, 1 to 10000000; 100000 if left out",
};

/// Arguments of questions about one record.
pub(super) const ABOUT_ONE: &[Argument] = &[SEQUENCE, REALITY, LIMIT_ARGUMENT, WINDOW_ARGUMENT];
/// Arguments of questions about two.
pub(super) const ABOUT_TWO: &[Argument] = &[FROM, TO, REALITY, LIMIT_ARGUMENT, WINDOW_ARGUMENT];

const fn required(name: &'static str, doc: &'static str) -> Argument {
    Argument {
        name,
        kind: Kind::Text,
        required: true,
        doc,
    }
}

pub(super) fn past(call: &Call<'_>) -> Result<Value, Error> {
    let of = sequence(call, SEQUENCE.name)?;
    ask(call, |inquiry| inquiry.past(of))
}

pub(super) fn concurrent(call: &Call<'_>) -> Result<Value, Error> {
    let of = sequence(call, SEQUENCE.name)?;
    ask(call, |inquiry| inquiry.concurrent(of))
}

pub(super) fn path(call: &Call<'_>) -> Result<Value, Error> {
    let (from, to) = (sequence(call, FROM.name)?, sequence(call, TO.name)?);
    ask(call, |inquiry| inquiry.path(from, to))
}

type Answered = Result<CausalAnswer, causality::Error<log::Error>>;

fn ask(
    call: &Call<'_>,
    question: impl FnOnce(Inquiry<'_, Durable>) -> Answered,
) -> Result<Value, Error> {
    let answers = number(call, LIMIT_ARGUMENT.name, LIMIT, LIMIT_MAX)?;
    let records = number(call, WINDOW_ARGUMENT.name, WINDOW, WINDOW_MAX)?;
    let reality = call.reality()?;
    let log = reality.log();
    let bounds = log.bounds();
    let mut history = Durable {
        bounds: bounds.first..bounds.durable_end,
        log,
        reality,
    };
    let limits = Limits {
        answers: usize::try_from(answers).unwrap_or(usize::MAX),
        records,
        bytes: WINDOW_BYTES_MAX,
    };
    let bounds = history.bounds();
    let visible = |topic: &str| call.caller.may_see(topic);
    question(Inquiry::new(&mut history, &visible, limits))
        .map(|answer| answer.to_value())
        .map_err(|error| refusal(error, &bounds))
}

fn refusal(error: causality::Error<log::Error>, bounds: &Range<Sequence>) -> Error {
    match error {
        causality::Error::History(error) => error.into(),
        causality::Error::Missing { sequence } if sequence >= bounds.end => Error::BeyondEnd {
            asked: sequence.get(),
            last: bounds.end.get() - 1,
        },
        causality::Error::Missing { sequence } if sequence < bounds.start => Error::OutOfRange {
            asked: sequence,
            first: bounds.start,
        },
        causality::Error::Missing { sequence } => Error::NoSuchRecord { sequence },
        causality::Error::Damaged { sequence } | causality::Error::Clock { sequence, .. } => {
            Error::RecordDamaged { sequence }
        }
        causality::Error::Hidden { sequence } => Error::RecordHidden { sequence },
    }
}

fn sequence(call: &Call<'_>, name: &'static str) -> Result<Sequence, Error> {
    let value = number(call, name, 0, u64::MAX)?;
    Ok(Sequence::at_least_first(value))
}

/// A number from 1 to `max`.
fn number(call: &Call<'_>, name: &'static str, otherwise: u64, max: u64) -> Result<u64, Error> {
    let Some(text) = call.arguments.text(name) else {
        return Ok(otherwise);
    };
    let number = text
        .parse()
        .ok()
        .filter(|number| (1..=max).contains(number));
    number.ok_or_else(|| Error::Argument {
        command: call.command,
        argument: name.to_owned(),
        fault: ArgumentFault::Number {
            found: text.chars().take(64).collect(),
            max,
        },
    })
}

/// The records of a reality that are on disk.
#[derive(Debug)]
struct Durable {
    reality: Arc<Reality>,
    log: Log,
    bounds: Range<Sequence>,
}

impl History for Durable {
    type Error = log::Error;

    fn bounds(&self) -> Range<Sequence> {
        self.bounds.clone()
    }

    fn read(
        &mut self,
        range: Range<Sequence>,
        each: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>,
    ) -> Result<(), log::Error> {
        let mut at = range.start;
        while at < range.end {
            match self.log.read(at, range.end, READ_BYTES)? {
                Found::Records(chunk) => {
                    for record in chunk.iter() {
                        if each(Seen::Record(record)).is_break() {
                            return Ok(());
                        }
                    }
                    at = chunk.last.next();
                }
                Found::Damaged { damage, next } => {
                    self.reality.encounters().note(&damage, at, next);
                    let next = next.max(at.next()).min(range.end);
                    if each(Seen::Lost(at..next)).is_break() {
                        return Ok(());
                    }
                    at = next;
                }
                Found::End => break,
            }
        }
        Ok(())
    }
}
