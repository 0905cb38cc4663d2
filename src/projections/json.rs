//! The canonical form of JSON in cells: sorted keys, no spaces, one form for each number. What a
//! sink gives back in a form of its own (Postgres keeps `jsonb`) is the same again afterwards.

use serde_json::{Map, Number, Value};

/// The least whole number of double precision that no 64 bits hold, with a sign and without.
const SIGNED_END: f64 = 9_223_372_036_854_775_808.0;
const UNSIGNED_END: f64 = 18_446_744_073_709_551_616.0;

/// The canonical text of a value.
#[must_use]
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    put(&mut text, value);
    text
}

/// The canonical text of an object.
#[must_use]
pub fn canonical_object(fields: &Map<String, Value>) -> String {
    let mut text = String::new();
    put_object(&mut text, fields);
    text
}

/// The canonical text of a JSON text.
///
/// # Errors
/// It is no JSON.
pub fn canonical_text(text: &str) -> Result<String, serde_json::Error> {
    Ok(canonical(&serde_json::from_str(text)?))
}

fn put(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&one_form(number).to_string()),
        Value::String(text) => put_text(out, text),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                put(out, item);
            }
            out.push(']');
        }
        Value::Object(fields) => put_object(out, fields),
    }
}

fn put_object(out: &mut String, fields: &Map<String, Value>) {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_unstable_by_key(|(name, _)| *name);
    out.push('{');
    for (at, (name, value)) in fields.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        put_text(out, name);
        out.push(':');
        put(out, value);
    }
    out.push('}');
}

/// Most texts are written as they are.
fn put_text(out: &mut String, text: &str) {
    let plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if text.bytes().all(plain) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&Value::from(text).to_string());
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
            (
                r#"{"b\u0022\u000a\u007f": ["\\", "\u00e9\u2028/"], "a": {}, "": null}"#,
                "{\"\":null,\"a\":{},\"b\\\"\\n\u{7f}\":[\"\\\\\",\"\u{e9}\u{2028}/\"]}",
            ),
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
