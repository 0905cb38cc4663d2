//! The free part of an event: bounded in size and depth, the same in every form, and without the
//! bodies that the contract keeps out.

use prost_types::value::Kind;
use prost_types::{Struct, Value as Any};
use serde_json::{Map, Number, Value};

use super::event::FORBIDDEN_KEYS;
use crate::projections::json::canonical_object;
use crate::projections::projection::Poison;

/// Most bytes of the canonical text of `metadata`.
pub(super) const BYTES_MAX: usize = 64 << 10;
/// Most objects and lists around a value of `metadata`, itself included.
pub(super) const DEPTH_MAX: usize = 16;
/// Largest whole number, either side of zero: up to it, double precision tells all of them apart,
/// and the typed form has no other numbers.
const WHOLE_MAX: f64 = 9_007_199_254_740_991.0;
const FIELD: &str = "payload.metadata";

/// A Struct as an object.
///
/// # Errors
/// It holds a number that is none.
pub(super) fn object(fields: Struct) -> Result<Map<String, Value>, Poison> {
    let fields = fields.fields.into_iter();
    fields
        .map(|(name, value)| json(value).map(|value| (name, value)))
        .collect()
}

fn json(value: Any) -> Result<Value, Poison> {
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => flag.into(),
        Some(Kind::NumberValue(number)) => {
            let number = Number::from_f64(number);
            let number = number.ok_or_else(|| {
                let reason = format!("{FIELD} holds a number that is infinite or none at all");
                Poison::of(FIELD, reason)
            })?;
            // Whole numbers are written as such, wherever they come from.
            whole(&number).map_or(Value::Number(number), Value::from)
        }
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::ListValue(list)) => {
            let items = list.values.into_iter().map(json);
            items.collect::<Result<Vec<_>, _>>()?.into()
        }
        Some(Kind::StructValue(fields)) => object(fields)?.into(),
    })
}

fn whole(number: &Number) -> Option<i64> {
    let number = number.as_f64()?;
    #[expect(clippy::cast_possible_truncation, reason = "whole, and small enough")]
    (number.fract() == 0.0 && number.abs() <= WHOLE_MAX).then_some(number as i64)
}

pub(super) fn check(metadata: &Map<String, Value>) -> Result<(), Poison> {
    refuse_bodies(metadata, FIELD)?;
    for (name, value) in metadata {
        storable(name)?;
        look(value, &format!("{FIELD}.{name}"), 1)?;
    }
    let found = canonical_object(metadata).len();
    if found > BYTES_MAX {
        let reason = format!("{FIELD} has {found} bytes, more than the limit of {BYTES_MAX}");
        return Err(Poison::of(FIELD, reason));
    }
    Ok(())
}

/// # Errors
/// An object holds what must be kept elsewhere.
pub(super) fn refuse_bodies(fields: &Map<String, Value>, place: &str) -> Result<(), Poison> {
    let found = FORBIDDEN_KEYS
        .iter()
        .find(|name| fields.contains_key(**name));
    match found {
        None => Ok(()),
        Some(name) => {
            let field = format!("{place}.{name}");
            let reason = format!(
                "{field} is a body, which events do not carry; keep it elsewhere and point to it \
                 with content_ref or embedding_ref"
            );
            Err(Poison::of(&field, reason))
        }
    }
}

fn look(value: &Value, path: &str, depth: usize) -> Result<(), Poison> {
    if depth >= DEPTH_MAX && (value.is_object() || value.is_array()) {
        let reason = format!("{FIELD} is nested deeper than {DEPTH_MAX} levels");
        return Err(Poison::of(FIELD, reason));
    }
    match value {
        Value::Null | Value::Bool(_) => Ok(()),
        Value::String(text) => storable(text),
        Value::Number(number) => {
            let double = number.as_f64().unwrap_or(f64::INFINITY);
            if double.fract() == 0.0 && double.abs() > WHOLE_MAX {
                let reason = format!(
                    "{path} is a whole number beyond 2^53, which not every form of an event can \
                     hold; send it as a text"
                );
                return Err(Poison::of(path, reason));
            }
            Ok(())
        }
        Value::Array(items) => {
            let mut items = items.iter().enumerate();
            items.try_for_each(|(at, item)| look(item, &format!("{path}[{at}]"), depth + 1))
        }
        Value::Object(fields) => {
            refuse_bodies(fields, path)?;
            fields.iter().try_for_each(|(name, value)| {
                storable(name)?;
                look(value, &format!("{path}.{name}"), depth + 1)
            })
        }
    }
}

fn storable(text: &str) -> Result<(), Poison> {
    if text.contains('\0') {
        return Err(Poison::of(FIELD, format!("{FIELD} holds a NUL character")));
    }
    Ok(())
}
