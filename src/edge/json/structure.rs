//! JSON to and from `google.protobuf.Struct`, whose numbers are doubles.
//!
//! A whole number that a double cannot hold is refused by name rather than rounded. What comes out
//! whole is written whole: `5` stays `5`.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::{Map, Number, Value as Json};

use super::shape::WHOLE_MAX;

#[expect(clippy::cast_precision_loss, reason = "a power of two is exact")]
const WHOLE_MAX_F64: f64 = WHOLE_MAX as f64;

/// A number that does not fit, by its path from the value that holds it: `.a[3].b`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TooLarge(pub String);

/// An object as a Struct. `rounded` says that some whole number of the text was beyond what a
/// double holds, and that what looks like one now was that.
///
/// # Errors
/// The first whole number that would not come back as it was.
pub fn structure(map: Map<String, Json>, rounded: bool) -> Result<Struct, TooLarge> {
    let fields = map.into_iter().map(|(name, json)| {
        let value = value(json, rounded);
        let value = value.map_err(|TooLarge(rest)| TooLarge(format!(".{name}{rest}")))?;
        Ok((name, value))
    });
    let fields = fields.collect::<Result<_, _>>()?;
    Ok(Struct { fields })
}

fn value(json: Json, rounded: bool) -> Result<Value, TooLarge> {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(flag) => Kind::BoolValue(flag),
        Json::Number(number) => {
            let beyond = match (number.as_u64(), number.as_i64()) {
                (Some(whole), _) => whole > WHOLE_MAX,
                (None, Some(whole)) => whole.unsigned_abs() > WHOLE_MAX,
                (None, None) => {
                    let float = number.as_f64().unwrap_or(f64::NAN);
                    !float.is_finite()
                        || (rounded && float.fract() == 0.0 && float.abs() > WHOLE_MAX_F64)
                }
            };
            match number.as_f64().filter(|_| !beyond) {
                Some(float) => Kind::NumberValue(float),
                None => return Err(TooLarge(String::new())),
            }
        }
        Json::String(text) => Kind::StringValue(text),
        Json::Array(items) => {
            let values = items.into_iter().enumerate().map(|(at, item)| {
                value(item, rounded).map_err(|TooLarge(rest)| TooLarge(format!("[{at}]{rest}")))
            });
            let values = values.collect::<Result<_, _>>()?;
            Kind::ListValue(ListValue { values })
        }
        Json::Object(map) => Kind::StructValue(structure(map, rounded)?),
    };
    Ok(Value { kind: Some(kind) })
}

/// A Struct as an object.
#[must_use]
pub fn object(structure: Struct) -> Map<String, Json> {
    let fields = structure.fields.into_iter();
    fields.map(|(name, value)| (name, json(value))).collect()
}

fn json(value: Value) -> Json {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(flag)) => flag.into(),
        Some(Kind::NumberValue(number)) => self::number(number),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(json).collect(),
        Some(Kind::StructValue(structure)) => object(structure).into(),
    }
}

/// Numbers that JSON has no form for become the words that the JSON mapping of protobuf has.
fn number(number: f64) -> Json {
    let is_whole = number.fract() == 0.0
        && number.abs() <= WHOLE_MAX_F64
        && !(number == 0.0 && number.is_sign_negative());
    if is_whole {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 53 bits")]
        return Json::from(number as i64);
    }
    match Number::from_f64(number) {
        Some(number) => Json::Number(number),
        None if number.is_nan() => "NaN".into(),
        None if number > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use serde_json::json;

    use super::*;
    use crate::edge::json::shape::Shape;

    fn map(json: Json) -> Map<String, Json> {
        match json {
            Json::Object(map) => map,
            other => panic!("{other}"),
        }
    }

    fn refused(text: &str) -> String {
        let rounded = Shape::of(text).large_whole;
        let parsed = serde_json::from_str(text).unwrap();
        structure(map(parsed), rounded).unwrap_err().0
    }

    #[test]
    fn whole_numbers_stay_whole_and_too_large_ones_are_named() {
        let text = r#"{"a":5,"b":-9007199254740992,"c":1.5,"d":-0.0,"e":1e300,"f":[0]}"#;
        let parsed: Json = serde_json::from_str(text).unwrap();
        let back = object(structure(map(parsed), false).unwrap());
        assert_eq!(
            Json::Object(back).to_string(),
            r#"{"a":5,"b":-9007199254740992,"c":1.5,"d":-0.0,"e":1e+300,"f":[0]}"#
        );
        assert_eq!(refused(r#"{"x":{"y":[1,9007199254740993]}}"#), ".x.y[1]");
        assert_eq!(refused(r#"{"x":-9007199254740993}"#), ".x");
        assert_eq!(refused(r#"{"x":1,"y":123456789012345678901234}"#), ".y");
        // A protobuf client's numbers that JSON has not.
        let odd = Struct {
            fields: [f64::NAN, f64::INFINITY, f64::NEG_INFINITY]
                .into_iter()
                .enumerate()
                .map(|(at, number)| {
                    let kind = Some(Kind::NumberValue(number));
                    (at.to_string(), Value { kind })
                })
                .collect(),
        };
        assert_eq!(
            Json::Object(object(odd)),
            json!({"0": "NaN", "1": "Infinity", "2": "-Infinity"})
        );
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let whole = i64::try_from(WHOLE_MAX).unwrap();
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            (-whole..=whole).prop_map(Json::from),
            any::<f64>()
                .prop_filter("JSON has it, and not as a whole number", |n| n.is_finite()
                    && n.fract() != 0.0)
                .prop_map(Json::from),
            ".{0,8}".prop_map(Json::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Json::from),
                prop::collection::btree_map(".{0,4}", inner, 0..6)
                    .prop_map(|map| Json::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_comes_back_through_a_struct(json in any_json()) {
            let whole: Map<_, _> = [("v".to_owned(), json)].into_iter().collect();
            let encoded = structure(whole.clone(), false).unwrap().encode_to_vec();
            let back = object(Struct::decode(&*encoded).unwrap());
            prop_assert_eq!(back, whole);
        }
    }
}
