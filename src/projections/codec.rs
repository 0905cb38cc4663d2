//! The canonical encoding of cells: injective, and ordered as the values are, byte by byte.
//!
//! A cell is a tag and its value. Numbers are big-endian with the sign turned, so that bytes
//! compare as numbers do; texts and bytes end with `00 00`, and a `00` within is `00 FF`. One cell
//! is never the beginning of another, so that a list of cells compares cell by cell.

use bytes::Bytes;

use super::table::Cell;
use crate::log::Micros;

const NULL: u8 = 1;
const TEXT: u8 = 2;
const INTEGER: u8 = 3;
const FLOAT: u8 = 4;
const FALSE: u8 = 5;
const TRUE: u8 = 6;
const TIMESTAMP: u8 = 7;
const JSON: u8 = 8;
const BYTES: u8 = 9;

const SIGN: u64 = 1 << 63;

/// The bytes are no encoded cells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("stored cells cannot be decoded (byte {at})")]
pub struct Undecodable {
    /// Where they end to make sense.
    pub at: usize,
}

/// Encodes cells, one after the other.
#[must_use]
pub fn encode(cells: &[Cell]) -> Vec<u8> {
    encode_each(cells.iter())
}

/// The same of cells that do not stand together.
pub(super) fn encode_each<'a>(cells: impl Iterator<Item = &'a Cell> + Clone) -> Vec<u8> {
    // With the tag and the end, and no more than a few bytes for what is no text.
    let size = |cell: &Cell| match cell {
        Cell::Text(text) | Cell::Json(text) => text.len() + 3,
        Cell::Bytes(bytes) => bytes.len() + 3,
        Cell::Null | Cell::Boolean(_) => 1,
        Cell::Integer(_) | Cell::Float(_) | Cell::Timestamp(_) => 9,
    };
    let mut out = Vec::with_capacity(cells.clone().map(size).sum());
    for cell in cells {
        put(&mut out, cell);
    }
    out
}

fn put(out: &mut Vec<u8>, cell: &Cell) {
    match cell {
        Cell::Null => out.push(NULL),
        Cell::Text(text) => put_bytes(out, TEXT, text.as_bytes()),
        Cell::Integer(number) => put_number(out, INTEGER, number.cast_unsigned() ^ SIGN),
        Cell::Float(number) => put_number(out, FLOAT, ordered(*number)),
        Cell::Boolean(false) => out.push(FALSE),
        Cell::Boolean(true) => out.push(TRUE),
        Cell::Timestamp(time) => put_number(out, TIMESTAMP, time.0),
        Cell::Json(text) => put_bytes(out, JSON, text.as_bytes()),
        Cell::Bytes(bytes) => put_bytes(out, BYTES, bytes),
    }
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    if bytes.contains(&0) {
        for part in bytes.split_inclusive(|byte| *byte == 0) {
            out.extend_from_slice(part);
            if part.ends_with(&[0]) {
                out.push(0xFF);
            }
        }
    } else {
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(&[0, 0]);
}

#[expect(
    clippy::big_endian_bytes,
    reason = "bytes must compare as the numbers do"
)]
fn put_number(out: &mut Vec<u8>, tag: u8, number: u64) {
    out.push(tag);
    out.extend_from_slice(&number.to_be_bytes());
}

/// Bits that compare as the numbers do; zero has one form.
fn ordered(number: f64) -> u64 {
    let bits = if number == 0.0 { 0 } else { number.to_bits() };
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

fn unordered(bits: u64) -> f64 {
    f64::from_bits(if bits & SIGN == 0 { !bits } else { bits ^ SIGN })
}

/// Decodes cells to the end of `bytes`.
///
/// # Errors
/// They are no encoded cells.
pub fn decode(bytes: &[u8]) -> Result<Vec<Cell>, Undecodable> {
    let mut cells = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let fault = Undecodable { at };
        let (tag, rest) = (bytes[at], &bytes[at + 1..]);
        let (cell, len) = match tag {
            NULL => (Cell::Null, 0),
            FALSE => (Cell::Boolean(false), 0),
            TRUE => (Cell::Boolean(true), 0),
            INTEGER => {
                let bits = number(rest).ok_or(fault)?;
                (Cell::Integer((bits ^ SIGN).cast_signed()), 8)
            }
            FLOAT => {
                let float = number(rest).map(unordered);
                let float = float.filter(|float| !float.is_nan()).ok_or(fault)?;
                (Cell::Float(float), 8)
            }
            TIMESTAMP => (Cell::Timestamp(Micros(number(rest).ok_or(fault)?)), 8),
            TEXT | JSON => {
                let (bytes, len) = unescaped(rest).ok_or(fault)?;
                let text = String::from_utf8(bytes).or(Err(fault))?;
                let cell = if tag == TEXT {
                    Cell::Text(text)
                } else {
                    Cell::Json(text)
                };
                (cell, len)
            }
            BYTES => {
                let (bytes, len) = unescaped(rest).ok_or(fault)?;
                (Cell::Bytes(Bytes::from(bytes)), len)
            }
            _ => return Err(fault),
        };
        cells.push(cell);
        at += 1 + len;
    }
    Ok(cells)
}

#[expect(
    clippy::big_endian_bytes,
    reason = "bytes must compare as the numbers do"
)]
fn number(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The value at the start, and how many bytes it takes.
fn unescaped(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut value = Vec::new();
    let mut at = 0;
    loop {
        let zero = bytes.get(at..)?.iter().position(|byte| *byte == 0)? + at;
        value.extend_from_slice(&bytes[at..zero]);
        match bytes.get(zero + 1)? {
            0 => return Some((value, zero + 2)),
            0xFF => value.push(0),
            _ => return None,
        }
        at = zero + 2;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cell() -> impl Strategy<Value = Cell> {
        prop_oneof![
            Just(Cell::Null),
            ".{0,8}".prop_map(Cell::Text),
            any::<i64>().prop_map(Cell::Integer),
            any::<f64>()
                .prop_filter("a number", |number| !number.is_nan())
                .prop_map(Cell::Float),
            any::<bool>().prop_map(Cell::Boolean),
            any::<u64>().prop_map(|micros| Cell::Timestamp(Micros(micros))),
            proptest::collection::vec(any::<u8>(), 0..8)
                .prop_map(|bytes| Cell::Bytes(Bytes::from(bytes))),
        ]
    }

    proptest! {
        // PRJ-07: equal hashes mean equal rows, whatever is in them.
        #[test]
        fn what_is_encoded_is_decoded(cells in proptest::collection::vec(cell(), 0..6)) {
            prop_assert_eq!(decode(&encode(&cells)), Ok(cells));
        }

        #[test]
        fn numbers_are_ordered_as_numbers(a: i64, b: i64, c: f64, d: f64) {
            let of = |cell| encode(&[cell]);
            prop_assert_eq!(of(Cell::Integer(a)).cmp(&of(Cell::Integer(b))), a.cmp(&b));
            if let Some(order) = c.partial_cmp(&d) {
                prop_assert_eq!(of(Cell::Float(c)).cmp(&of(Cell::Float(d))), order);
            }
        }

        #[test]
        fn damaged_cells_are_refused_without_panic(bytes in proptest::collection::vec(0_u8..12, 0..24)) {
            if let Ok(cells) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&cells)), Ok(cells));
            }
        }
    }

    #[test]
    fn a_text_is_before_the_longer_one_that_it_begins() {
        let text = |text: &str| encode(&[Cell::from(text), Cell::from("z")]);
        assert!(text("a") < text("a\u{1}"));
        assert!(text("a") < text("ab"));
    }
}
