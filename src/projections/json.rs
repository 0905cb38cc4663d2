//! The canonical form of JSON in cells: sorted keys, no spaces, one form for each number. What a
//! sink gives back in a form of its own (Postgres keeps `jsonb`) is the same again afterwards.

use serde_json::{Map, Number, Value};

/// Below this, every whole number of double precision is a whole number of its own.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// The canonical text of a value.
#[must_use]
pub fn canonical(value: &Value) -> String {
    sorted(value).to_string()
}

/// The canonical text of a JSON text.
///
/// # Errors
/// It is no JSON.
pub fn canonical_text(text: &str) -> Result<String, serde_json::Error> {
    Ok(canonical(&serde_json::from_str(text)?))
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => value.clone(),
        Value::Number(number) => Value::Number(one_form(number)),
        Value::Array(items) => items.iter().map(sorted).collect(),
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            let fields = fields.into_iter();
            let fields: Map<_, _> = fields
                .map(|(name, value)| (name.clone(), sorted(value)))
                .collect();
            Value::Object(fields)
        }
    }
}

/// Whole numbers without a fraction, as far as double precision tells them apart.
fn one_form(number: &Number) -> Number {
    let whole = number
        .as_f64()
        .filter(|number| number.fract() == 0.0 && number.abs() < WHOLE_MAX);
    match whole {
        #[expect(clippy::cast_possible_truncation, reason = "whole, and small enough")]
        Some(whole) if number.is_f64() => Number::from(whole as i64),
        _ => number.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::canonical_text;

    // PRJ-07: the same value has one text, whoever wrote it.
    #[test]
    fn the_same_value_has_one_text() {
        for (given, wanted) in [
            (
                r#"{ "b": 1, "a": [1.0, 2e2, -0.0, 0.5] }"#,
                r#"{"a":[1,200,0,0.5],"b":1}"#,
            ),
            (r#""A""#, r#""A""#),
            ("18446744073709551615", "18446744073709551615"),
            ("1e300", "1e+300"),
        ] {
            let first = canonical_text(given).expect("JSON");
            assert_eq!(first, wanted);
            assert_eq!(canonical_text(&first).expect("JSON"), first);
        }
    }
}
