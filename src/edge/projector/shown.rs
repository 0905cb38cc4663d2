//! Rows and standings as values of commands.

use crate::log::Micros;
use crate::projections::fold::Outcome;
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
