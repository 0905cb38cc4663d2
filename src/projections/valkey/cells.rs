//! Cells as the texts that Valkey keeps: for people and tools that read there, and for the script
//! that compares versions.

use std::borrow::Cow;

use bytes::Bytes;

use crate::log::Micros;
use crate::projections::table::{Cell, Kind};

/// How the script compares values of a column: `n` as whole numbers of any size, `t` byte by byte;
/// `None`: it cannot.
pub(super) const fn order(kind: Kind) -> Option<char> {
    match kind {
        Kind::Integer | Kind::Timestamp => Some('n'),
        Kind::Text => Some('t'),
        Kind::Float | Kind::Boolean | Kind::Json | Kind::Bytes => None,
    }
}

/// What is kept of a cell; nothing of an empty one.
pub(super) fn kept(cell: &Cell) -> Option<Cow<'_, [u8]>> {
    let text = match cell {
        Cell::Null => return None,
        Cell::Text(text) | Cell::Json(text) => return Some(Cow::Borrowed(text.as_bytes())),
        Cell::Bytes(bytes) => return Some(Cow::Borrowed(bytes)),
        Cell::Integer(number) => number.to_string(),
        Cell::Float(number) => number.to_string(),
        Cell::Boolean(flag) => flag.to_string(),
        Cell::Timestamp(time) => time.0.to_string(),
    };
    Some(Cow::Owned(text.into_bytes()))
}

/// The cell of a column of type `kind` that `bytes` were kept of, if they were.
pub(super) fn read(kind: Kind, bytes: Vec<u8>) -> Option<Cell> {
    if kind == Kind::Bytes {
        return Some(Cell::Bytes(Bytes::from(bytes)));
    }
    let text = String::from_utf8(bytes).ok()?;
    Some(match kind {
        Kind::Text => Cell::Text(text),
        Kind::Integer => Cell::Integer(text.parse().ok()?),
        Kind::Float => Cell::Float(text.parse().ok().filter(|number: &f64| !number.is_nan())?),
        Kind::Boolean => Cell::Boolean(text.parse().ok()?),
        Kind::Timestamp => Cell::Timestamp(Micros(text.parse().ok()?)),
        Kind::Json => Cell::Json(text),
        Kind::Bytes => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_cell_is_read_again() {
        let cells = [
            Cell::from("a\n:\u{e9}"),
            Cell::Integer(i64::MIN),
            Cell::Float(-0.1),
            Cell::Float(f64::INFINITY),
            Cell::Boolean(true),
            Cell::Timestamp(Micros(u64::MAX)),
            Cell::Json("{}".to_owned()),
            Cell::Bytes(Bytes::from_static(b"\0\xFF")),
        ];
        for cell in cells {
            let kind = cell.kind().expect("a value");
            let bytes = kept(&cell).expect("something is kept").into_owned();
            assert_eq!(read(kind, bytes), Some(cell));
        }
        assert_eq!(kept(&Cell::Null), None);
    }

    #[test]
    fn what_somebody_else_wrote_is_no_cell() {
        for kind in [Kind::Integer, Kind::Float, Kind::Boolean, Kind::Timestamp] {
            assert_eq!(read(kind, b"NaN".to_vec()), None);
        }
        assert_eq!(read(Kind::Text, vec![0xFF]), None);
    }
}
