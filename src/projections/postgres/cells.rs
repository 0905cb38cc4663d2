//! Cells on their way to the server, as typed arrays, and back.
//!
//! JSON goes as a text that the statement casts, and comes back as the server writes `jsonb`, which
//! has an order and numbers of its own: what comes back is made canonical again.

use bytes::Bytes;
use jiff::Timestamp;
use tokio_postgres::Row as Answered;
use tokio_postgres::types::{FromSql, ToSql};

use super::fault;
use crate::log::Micros;
use crate::projections::json;
use crate::projections::sink::SinkError;
use crate::projections::table::{Cell, Column, Kind};

/// A parameter of a statement.
pub(super) type Parameter<'a> = Box<dyn ToSql + Sync + Send + 'a>;

/// As the driver wants parameters.
pub(super) fn borrowed<'a>(
    parameters: &'a [Parameter<'_>],
) -> impl ExactSizeIterator<Item = &'a (dyn ToSql + Sync)> + Clone {
    parameters
        .iter()
        .map(|parameter| &**parameter as &(dyn ToSql + Sync))
}

/// The cells of one column, as one parameter.
pub(super) fn array<'a>(
    column: &Column,
    cells: impl Iterator<Item = &'a Cell>,
) -> Result<Parameter<'a>, SinkError> {
    macro_rules! typed {
        ($read:expr) => {
            Box::new(
                cells
                    .map(|cell| optional(column, cell, $read))
                    .collect::<Result<Vec<_>, _>>()?,
            )
        };
    }
    Ok(match column.kind {
        Kind::Text | Kind::Json => typed!(Cell::text),
        Kind::Integer => typed!(integer),
        Kind::Float => typed!(float),
        Kind::Boolean => typed!(boolean),
        Kind::Timestamp => typed!(timestamp),
        Kind::Bytes => typed!(bytes),
    })
}

/// One cell, as one parameter.
pub(super) fn scalar<'a>(column: &Column, cell: &'a Cell) -> Result<Parameter<'a>, SinkError> {
    Ok(match column.kind {
        Kind::Text | Kind::Json => Box::new(optional(column, cell, Cell::text)?),
        Kind::Integer => Box::new(optional(column, cell, integer)?),
        Kind::Float => Box::new(optional(column, cell, float)?),
        Kind::Boolean => Box::new(optional(column, cell, boolean)?),
        Kind::Timestamp => Box::new(optional(column, cell, timestamp)?),
        Kind::Bytes => Box::new(optional(column, cell, bytes)?),
    })
}

fn optional<'a, T>(
    column: &Column,
    cell: &'a Cell,
    read: impl Fn(&'a Cell) -> Option<T>,
) -> Result<Option<T>, SinkError> {
    match (cell.kind(), read(cell)) {
        (None, _) => Ok(None),
        (Some(kind), Some(value)) if kind == column.kind => Ok(Some(value)),
        (Some(_), _) => Err(fault::rejected(format!(
            "the value for {} is no {:?} that can be stored",
            column.name, column.kind
        ))),
    }
}

fn integer(cell: &Cell) -> Option<i64> {
    match cell {
        Cell::Integer(number) => Some(*number),
        _ => None,
    }
}

fn float(cell: &Cell) -> Option<f64> {
    match cell {
        Cell::Float(number) => Some(*number),
        _ => None,
    }
}

fn boolean(cell: &Cell) -> Option<bool> {
    match cell {
        Cell::Boolean(flag) => Some(*flag),
        _ => None,
    }
}

/// `None` as well for a time after the year 9999.
fn timestamp(cell: &Cell) -> Option<Timestamp> {
    match cell {
        Cell::Timestamp(time) => Timestamp::from_microsecond(i64::try_from(time.0).ok()?).ok(),
        _ => None,
    }
}

fn bytes(cell: &Cell) -> Option<&[u8]> {
    match cell {
        Cell::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

/// The value of a column of a fixed statement.
pub(super) fn field<'a, T: FromSql<'a>>(row: &'a Answered, at: usize) -> Result<T, SinkError> {
    row.try_get(at)
        .map_err(|error| fault::unfit(format!("what its tables hold cannot be read: {error}")))
}

/// The value of `column`, at place `at` of a row that the server sent.
pub(super) fn cell(row: &Answered, at: usize, column: &Column) -> Result<Cell, SinkError> {
    let unreadable = |reason: String| {
        fault::unfit(format!(
            "a value of column {} cannot be read: {reason}",
            column.name
        ))
    };
    let read = match column.kind {
        Kind::Text => row.try_get::<_, Option<_>>(at).map(|c| c.map(Cell::Text)),
        Kind::Integer => row
            .try_get::<_, Option<_>>(at)
            .map(|c| c.map(Cell::Integer)),
        Kind::Float => row.try_get::<_, Option<_>>(at).map(|c| c.map(Cell::Float)),
        Kind::Boolean => row
            .try_get::<_, Option<_>>(at)
            .map(|c| c.map(Cell::Boolean)),
        Kind::Bytes => row
            .try_get::<_, Option<Vec<u8>>>(at)
            .map(|c| c.map(|bytes| Cell::Bytes(Bytes::from(bytes)))),
        Kind::Json => {
            let text: Option<&str> = row.try_get(at).map_err(|e| unreadable(e.to_string()))?;
            let canonical = text.map(json::canonical_text).transpose();
            Ok(canonical
                .map_err(|error| unreadable(error.to_string()))?
                .map(Cell::Json))
        }
        Kind::Timestamp => {
            let time: Option<Timestamp> = row.try_get(at).map_err(|e| unreadable(e.to_string()))?;
            let micros = time
                .map(|time| u64::try_from(time.as_microsecond()))
                .transpose();
            Ok(micros
                .map_err(|_negative| unreadable("it is before 1970".to_owned()))?
                .map(|micros| Cell::Timestamp(Micros(micros))))
        }
    };
    Ok(read
        .map_err(|error| unreadable(error.to_string()))?
        .unwrap_or(Cell::Null))
}
