//! The canonical form of JSON in cells: sorted keys, no spaces, one form for each number. What a
//! sink gives back in a form of its own (Postgres keeps `jsonb`) is the same again afterwards.

use serde_json::{Map, Number, Value};

/// The least whole number of double precision that no 64 bits hold, with a sign and without.
const SIGNED_END: f64 = 9_223_372_036_854_775_808.0;
const UNSIGNED_END: f64 = 18_446_744_073_709_551_616.0;

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

/// Whole numbers as integers, as far as 64 bits hold them: a database may keep `1e17` as the digits
/// that it stands for.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "whole, and within the bounds of the type"
)]
fn one_form(number: &Number) -> Number {
    match number
        .as_f64()
        .filter(|whole| number.is_f64() && whole.fract() == 0.0)
    {
        Some(whole) if (-SIGNED_END..SIGNED_END).contains(&whole) => Number::from(whole as i64),
        Some(whole) if (0.0..UNSIGNED_END).contains(&whole) => Number::from(whole as u64),
        Some(_) | None => number.clone(),
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
            (
                "[1e17, 1e19, 2e19]",
                "[100000000000000000,10000000000000000000,2e+19]",
            ),
            (
                "[-9223372036854775808.0, 20000000000000000000]",
                "[-9223372036854775808,2e+19]",
            ),
        ] {
            let first = canonical_text(given).expect("JSON");
            assert_eq!(first, wanted);
            assert_eq!(canonical_text(&first).expect("JSON"), first);
        }
    }
}
