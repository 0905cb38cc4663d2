//! Values of a payload, found by their path and taken for the type of a column.
//!
//! What is no such value is said, and never bent to fit: a text is no number, unless it is written
//! as one, as the JSON form of protobuf writes those of 64 bits.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use crate::config::projections::ColumnType;
use crate::log::Micros;
use crate::projections::json;
use crate::projections::table::{Cell, Kind};

/// The last moment of the year 9999, which every sink can store and RFC 3339 can write.
const LAST: u64 = 253_402_300_799_999_999;

/// The type that sinks keep for a column.
pub(super) const fn kind(column: ColumnType) -> Kind {
    match column {
        ColumnType::Text => Kind::Text,
        ColumnType::Integer => Kind::Integer,
        ColumnType::Float => Kind::Float,
        ColumnType::Boolean => Kind::Boolean,
        ColumnType::Timestamp | ColumnType::TimestampMs | ColumnType::TimestampS => Kind::Timestamp,
        ColumnType::Json => Kind::Json,
        ColumnType::Bytes => Kind::Bytes,
    }
}

/// What stands at a path: names of fields, and numbers of the places in lists. What is null is not
/// there.
pub(super) fn find<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    let found = path.iter().try_fold(value, |value, part| match value {
        Value::Object(fields) => fields.get(part),
        Value::Array(items) => items.get(place(part)?),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    });
    found.filter(|value| !value.is_null())
}

/// Digits without a sign or leading zeros, so that each place has one name.
fn place(part: &str) -> Option<usize> {
    let plain = part.bytes().all(|byte| byte.is_ascii_digit());
    let one_form = part == "0" || !part.starts_with('0');
    part.parse().ok().filter(|_| plain && one_form)
}

/// A value as a column of this type keeps it.
///
/// # Errors
/// What it must be.
pub(super) fn cell(value: &Value, column: ColumnType) -> Result<Cell, &'static str> {
    match column {
        ColumnType::Text => text(value).map(Cell::from).ok_or("must be a text"),
        ColumnType::Integer => integer(value)
            .map(Cell::Integer)
            .ok_or("must be a whole number of 64 bits"),
        ColumnType::Float => float(value).map(Cell::Float).ok_or("must be a number"),
        ColumnType::Boolean => value
            .as_bool()
            .map(Cell::Boolean)
            .ok_or("must be true or false"),
        ColumnType::Timestamp => text(value)
            .and_then(rfc3339)
            .map(Cell::Timestamp)
            .ok_or("must be a time such as 2018-01-31T01:49:59.65Z, from 1970 to 9999"),
        ColumnType::TimestampMs => epoch(value, 1_000)
            .map(Cell::Timestamp)
            .ok_or("must be a time in milliseconds since 1970, up to the year 9999"),
        ColumnType::TimestampS => epoch(value, 1_000_000)
            .map(Cell::Timestamp)
            .ok_or("must be a time in seconds since 1970, up to the year 9999"),
        ColumnType::Json => Ok(Cell::Json(json::canonical(value))),
        ColumnType::Bytes => text(value)
            .and_then(|text| BASE64.decode(text).ok())
            .map(|bytes| Cell::Bytes(bytes.into()))
            .ok_or("must be bytes in base64, with its padding"),
    }
}

fn text(value: &Value) -> Option<&str> {
    value.as_str()
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(digits) if is_written_as_number(digits) => digits.parse().ok(),
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    }
}

fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) if is_written_as_number(text) => text.parse().ok(),
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    }
    .filter(|number: &f64| number.is_finite())
}

fn is_written_as_number(text: &str) -> bool {
    text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte))
}

/// `2018-01-31T01:49:59.65Z`, or with an offset; nothing less, and nothing after it.
pub(super) fn rfc3339(text: &str) -> Option<Micros> {
    let bytes = text.as_bytes();
    let is_at = |at: usize, wanted: &[u8]| bytes.get(at).is_some_and(|byte| wanted.contains(byte));
    let formed = [
        (4, b"-".as_slice()),
        (7, b"-"),
        (10, b"Tt "),
        (13, b":"),
        (16, b":"),
    ];
    let plain = bytes
        .iter()
        .all(|byte| byte.is_ascii_digit() || b"-:.+TtZz ".contains(byte));
    if !plain || !formed.into_iter().all(|(at, wanted)| is_at(at, wanted)) {
        return None;
    }
    let time: jiff::Timestamp = text.parse().ok()?;
    within(u64::try_from(time.as_microsecond()).ok()?)
}

/// A number of units of so many microseconds.
fn epoch(value: &Value, micros: u64) -> Option<Micros> {
    if let Some(whole) = integer(value) {
        return within(u64::try_from(whole).ok()?.checked_mul(micros)?);
    }
    #[expect(clippy::cast_precision_loss, reason = "one thousand or one million")]
    let time = (float(value)? * micros as f64).round();
    #[expect(
        clippy::cast_precision_loss,
        reason = "a bound; it is checked again as a whole number"
    )]
    let fits = (0.0..=LAST as f64).contains(&time);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within 0 and the year 9999"
    )]
    let time = fits.then_some(time as u64)?;
    within(time)
}

pub(super) fn within(micros: u64) -> Option<Micros> {
    (micros <= LAST).then_some(Micros(micros))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // PRJ-14
    #[test]
    fn a_value_is_found_by_its_path() {
        let value = json!({"a": {"b": [1, {"c": "x"}]}, "0": "zero", "n": null});
        let at = |path: &str| {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            find(&value, &path)
        };
        assert_eq!(at("a.b.0"), Some(&json!(1)));
        assert_eq!(at("a.b.1.c"), Some(&json!("x")));
        assert_eq!(at("0"), Some(&json!("zero")));
        for nothing in [
            "n", "a.x", "a.b.2", "a.b.00", "a.b.+1", "a.b.c", "a.b.0.c", "",
        ] {
            assert_eq!(at(nothing), None, "{nothing}");
        }
    }

    // PRJ-14: a value is what its column says, or it is refused.
    #[test]
    fn a_value_is_taken_for_the_type_of_its_column() {
        use ColumnType::{
            Boolean, Bytes, Float, Integer, Json, Text, Timestamp, TimestampMs, TimestampS,
        };
        let micros = |micros| Some(Cell::Timestamp(Micros(micros)));
        for (value, column, wanted) in [
            (json!("x"), Text, Some(Cell::from("x"))),
            (json!(1), Text, None),
            (json!(-3), Integer, Some(Cell::Integer(-3))),
            (
                json!("9223372036854775807"),
                Integer,
                Some(Cell::Integer(i64::MAX)),
            ),
            (json!(9_223_372_036_854_775_808_u64), Integer, None),
            (json!(1.5), Integer, None),
            (json!("1x"), Integer, None),
            (json!(""), Integer, None),
            (json!(4), Float, Some(Cell::Float(4.0))),
            (json!("-1.5e3"), Float, Some(Cell::Float(-1500.0))),
            (json!("NaN"), Float, None),
            (json!("1e999"), Float, None),
            (json!(true), Boolean, Some(Cell::Boolean(true))),
            (json!("true"), Boolean, None),
            (
                json!("2018-01-31T01:49:59.650001Z"),
                Timestamp,
                micros(1_517_363_399_650_001),
            ),
            (
                json!("2018-01-31T02:49:59+01:00"),
                Timestamp,
                micros(1_517_363_399_000_000),
            ),
            (json!("2018-01-31T01:49:59"), Timestamp, None),
            (json!("2018-01-31"), Timestamp, None),
            (json!("20180131T014959Z"), Timestamp, None),
            (json!("2018-01-31T01:49:59Z[UTC]"), Timestamp, None),
            (json!("1969-12-31T23:59:59Z"), Timestamp, None),
            (json!(1_517_363_399), Timestamp, None),
            (
                json!(1_517_363_399_650_i64),
                TimestampMs,
                micros(1_517_363_399_650_000),
            ),
            (
                json!("1517363399650"),
                TimestampMs,
                micros(1_517_363_399_650_000),
            ),
            (json!(-1), TimestampMs, None),
            (json!(i64::MAX), TimestampMs, None),
            (
                json!(1_517_363_399.25),
                TimestampS,
                micros(1_517_363_399_250_000),
            ),
            (json!(1e300), TimestampS, None),
            (json!("2018-01-31T01:49:59Z"), TimestampS, None),
            (
                json!({"b": 1.0, "a": []}),
                Json,
                Some(Cell::Json(r#"{"a":[],"b":1}"#.into())),
            ),
            (json!("AP8="), Bytes, Some(Cell::Bytes(vec![0, 255].into()))),
            (json!("AP8"), Bytes, None),
        ] {
            assert_eq!(cell(&value, column).ok(), wanted, "{value} as {column:?}");
        }
    }
}
