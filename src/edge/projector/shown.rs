//! Rows and standings as values of commands.

use crate::log::Micros;
use crate::projections::backfill::Effect;
use crate::projections::comparing::Compared;
use crate::projections::fold::Outcome;
use crate::projections::jobs::{Findings, Job};
use crate::projections::node::LaneStatus;
use crate::projections::table::{Cell, Row, Table};
use crate::proto::json::micros;
use crate::proto::v1::Value;

/// Bytes of rows in an answer, about.
pub(super) const ANSWER_BYTES_MAX: usize = 4 << 20;

/// About how many bytes a row takes in an answer.
pub(super) fn weight(row: &Row) -> usize {
    let cells = row.0.iter().map(|cell| match cell {
        Cell::Text(text) | Cell::Json(text) => text.len(),
        Cell::Bytes(bytes) => bytes.len(),
        Cell::Null | Cell::Integer(_) | Cell::Float(_) | Cell::Boolean(_) | Cell::Timestamp(_) => 8,
    });
    cells.sum::<usize>() + 1
}

/// A row, its columns by name.
pub(super) fn row(table: &Table, row: Row) -> Value {
    let columns = table.columns.iter().zip(row.0);
    Value::object(columns.map(|(column, value)| (column.name.as_str(), cell(value))))
}

/// A value of a row. Times are RFC 3339; JSON is what it says.
pub(super) fn cell(cell: Cell) -> Value {
    match cell {
        Cell::Null => Value::default(),
        Cell::Text(text) => text.into(),
        Cell::Integer(number) => number.into(),
        Cell::Float(number) => number.into(),
        Cell::Boolean(flag) => flag.into(),
        Cell::Timestamp(time) => micros(time.0).into(),
        // Canonical, and so always readable; as it is should it ever be not.
        Cell::Json(text) => match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(json) => json.into(),
            Err(_no_json) => text.into(),
        },
        Cell::Bytes(bytes) => bytes.into(),
    }
}

/// How a projection of a tenant stands in one sink; `reasons`: with what went wrong last.
pub(super) fn standing(status: &LaneStatus, now: Micros, reasons: bool) -> Value {
    let standing = &status.standing;
    let outcomes = Outcome::ALL.map(|one| (one.as_str(), Value::from(standing.count(one))));
    let quantile = |share| {
        standing
            .lag_quantile(share)
            .map_or_else(Value::default, Value::from)
    };
    let error = standing.last_error.as_ref().filter(|_| reasons);
    Value::object([
        ("projection", Value::from(status.projection.as_str())),
        ("sink", status.sink.as_str().into()),
        ("state", standing.state.as_str().into()),
        ("next", status.next.get().into()),
        ("lag_records", standing.lag_records.into()),
        ("lag_seconds", standing.lag_seconds(now).into()),
        ("lag_seconds_p50", quantile(0.5)),
        ("lag_seconds_p95", quantile(0.95)),
        ("records_per_second", standing.rate().into()),
        ("records", Value::object(outcomes)),
        ("batches", standing.batches.into()),
        ("lost", standing.lost.into()),
        ("errors", standing.errors.into()),
        (
            "last_error",
            error.map_or_else(Value::default, |(text, _)| text.as_str().into()),
        ),
        (
            "last_error_at",
            error.map_or_else(Value::default, |(_, at)| micros(at.0).into()),
        ),
    ])
}

/// A job, and what came of it.
pub(super) fn job(job: &Job) -> Value {
    let outcomes = Outcome::ALL.map(|one| (one.as_str(), Value::from(job.count(one))));
    let optional = |text: Option<&str>| text.map_or_else(Value::default, Value::from);
    let ended = job.ended_at.map(|at| micros(at.0));
    Value::object([
        ("job", Value::from(job.id.as_str())),
        ("kind", job.kind.as_str().into()),
        ("projection", job.projection.as_str().into()),
        ("sink", job.sink.as_str().into()),
        ("state", job.state.as_str().into()),
        ("records_read", job.read.into()),
        ("records_total", job.total.into()),
        ("records", Value::object(outcomes)),
        ("by", job.by.as_str().into()),
        ("started_at", micros(job.started_at.0).into()),
        ("ended_at", optional(ended.as_deref())),
        ("error", optional(job.error.as_deref())),
        (
            "result",
            job.findings.as_ref().map_or_else(Value::default, findings),
        ),
    ])
}

fn findings(findings: &Findings) -> Value {
    match findings {
        Findings::Backfill(done) => Value::object([
            ("dry_run", Value::from(done.effect == Effect::DryRun)),
            ("selected", done.selected.into()),
            ("before", done.before.get().into()),
            ("lost", done.lost.into()),
        ]),
        Findings::Rebuild(rebuilt) => {
            let incomparable = rebuilt.incomparable.as_deref();
            Value::object([
                ("switched", Value::from(rebuilt.switched)),
                ("same", rebuilt.is_same().into()),
                ("at", rebuilt.at.get().into()),
                ("same_position", rebuilt.same_position.into()),
                ("tables", rebuilt.tables.iter().map(compared).collect()),
                (
                    "incomparable",
                    incomparable.map_or_else(Value::default, Value::from),
                ),
                ("lost", rebuilt.lost.into()),
            ])
        }
        Findings::Verify(found) => {
            let differing = found.differing.iter().map(|one| {
                let columns = one.columns.iter().map(String::as_str);
                Value::object([
                    ("table", Value::from(one.table.as_str())),
                    ("key", one.key.as_str().into()),
                    ("difference", one.difference.as_str().into()),
                    ("columns", columns.collect()),
                ])
            });
            let wrong = found.checkpoints_wrong.iter().map(|at| at.get());
            Value::object([
                ("right", Value::from(found.is_right())),
                ("at", found.at.get().into()),
                ("tables", found.tables.iter().map(compared).collect()),
                ("differing", differing.collect()),
                ("not_from_this_log", found.not_from_this_log.into()),
                ("chain", found.chain.as_str().into()),
                ("checkpoints_right", (found.checkpoints_right as u64).into()),
                ("checkpoints_wrong", wrong.collect()),
                ("lost", found.lost.into()),
            ])
        }
    }
}

fn compared(table: &Compared) -> Value {
    Value::object([
        ("table", Value::from(table.table.as_str())),
        ("rows_expected", table.rows_expected.into()),
        ("rows_found", table.rows_found.into()),
        ("differing", table.differing.into()),
        ("hash_expected", table.hash_expected.as_str().into()),
        ("hash_found", table.hash_found.as_str().into()),
    ])
}
