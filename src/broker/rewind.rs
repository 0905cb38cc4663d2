//! Where a consumer or a group is set to, and how many records that is (BRK-03).

use super::command::{Call, fields, flag, number};
use super::error::Error;
use super::filter::Filter;
use super::reality::Reality;
use super::subscription::{Start, first_of};
use super::verb::{Argument, Kind};
use crate::log::{Micros, Sequence};
use crate::proto::json::read_micros;
use crate::proto::v1::Value;

pub(super) const TO: Argument = Argument {
    name: "to",
    kind: Kind::Text,
    required: true,
    doc: "where it goes on: earliest, latest, a sequence, or a time (RFC 3339)",
};
pub(super) const DRY_RUN: Argument = Argument {
    name: "dry_run",
    kind: Kind::Boolean,
    required: false,
    doc: "only says what would be done",
};

/// Whether nothing is to be done.
pub(super) fn is_dry(call: &Call<'_>) -> bool {
    call.arguments.boolean("dry_run").unwrap_or_default()
}

/// The sequence that the argument `to` means. Blocks on the disk.
pub(super) fn target(call: &Call<'_>, reality: &Reality) -> Result<Sequence, Error> {
    let text = call.arguments.text(TO.name).unwrap_or_default();
    let time = || {
        let micros = read_micros(text, true)?;
        Some(Start::Time(Micros(u64::try_from(micros).ok()?)))
    };
    let sequence = || {
        text.parse()
            .ok()
            .and_then(Sequence::new)
            .map(Start::Sequence)
    };
    let start = match text {
        "earliest" => Some(Start::Earliest),
        "latest" => Some(Start::Latest),
        _ => sequence().or_else(time),
    };
    let wanted = "earliest, latest, a sequence in digits, or a time like 2026-01-31T12:00:00Z";
    let start = start.ok_or_else(|| call.wrong(TO.name, wanted))?;
    let end = reality.bounds().durable_end;
    if let Start::Sequence(asked) = start
        && asked > end
    {
        return Err(Error::BeyondEnd {
            asked: asked.get(),
            last: end.get() - 1,
        });
    }
    first_of(reality, start)
}

/// Records from `at` on that a reader of `filter` wants. Blocks on the disk.
pub(super) fn behind(reality: &Reality, filter: &str, at: Sequence) -> Result<u64, Error> {
    let topics = reality.log().topics_from(at)?;
    // What a consumer reads that has never been used is not settled: all of it, then.
    let filter = Filter::new(filter).ok();
    let wanted = |topic: &str| filter.as_ref().is_none_or(|filter| filter.matches(topic));
    let wanted = topics.iter().filter(|topic| wanted(&topic.topic));
    Ok(wanted.map(|topic| topic.records).sum())
}

/// What setting a reader of `filter` from one place to another comes to. Blocks on the disk.
pub(super) fn account(
    reality: &Reality,
    filter: &str,
    from: Sequence,
    to: Sequence,
    dry_run: bool,
) -> Result<Value, Error> {
    let before = behind(reality, filter, from)?;
    let after = behind(reality, filter, to)?;
    Ok(fields([
        ("from", number(from.get())),
        ("to", number(to.get())),
        ("records", number(before.abs_diff(after))),
        ("again", flag(to < from)),
        ("left", number(after)),
        ("dry_run", flag(dry_run)),
    ]))
}
