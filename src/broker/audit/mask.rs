//! What is written of values in the audit: nothing secret, and nothing large.
//!
//! Knows secrets by the name that they stand under; whoever knows texts that look like one says so.

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::proto::audit::hex;
use crate::proto::v1::Value;
use crate::proto::v1::value::{Field, Fields, Kind, List};

/// A text or bytes longer than this is written as its length and hash.
const WHOLE_BYTES_MAX: usize = 1_024;
/// A value that is larger than this as a whole is, too.
const VALUE_BYTES_MAX: usize = 16 << 10;
/// Of a name that a caller chooses.
const NAME_CHARS_MAX: usize = 64;
/// How deep values are looked into; what is deeper is written as its hash.
const DEPTH_MAX: usize = 16;

/// Parts of names, in lower case and without `-` and `_`, under which secrets stand.
const SECRET_NAMES: &[&str] = &[
    "secret",
    "password",
    "passphrase",
    "passwd",
    "privatekey",
    "apikey",
    "credential",
    "authorization",
    "cookie",
    "accesstoken",
    "bearer",
];

/// Whether nothing secret stands under `name`.
fn is_plain(name: &str) -> bool {
    let name: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    !SECRET_NAMES.iter().any(|secret| name.contains(secret))
}

/// What is written of `value`; a text that is not `clean` is not written either.
#[must_use]
pub fn masked(value: &Value, clean: &dyn Fn(&str) -> bool) -> Value {
    let masked = within(value, clean, 0);
    if masked.encoded_len() > VALUE_BYTES_MAX {
        return digest(&value.encode_to_vec());
    }
    masked
}

fn within(value: &Value, clean: &dyn Fn(&str) -> bool, depth: usize) -> Value {
    match &value.kind {
        Some(Kind::Text(text)) if !clean(text) || has_user_info(text) => hidden(),
        Some(Kind::Text(text)) if text.len() > WHOLE_BYTES_MAX => digest(text.as_bytes()),
        Some(Kind::Bytes(bytes)) if bytes.len() > WHOLE_BYTES_MAX => digest(bytes),
        Some(Kind::List(_) | Kind::Fields(_)) if depth >= DEPTH_MAX => {
            digest(&value.encode_to_vec())
        }
        Some(Kind::List(list)) => {
            let items = list.items.iter().map(|item| within(item, clean, depth + 1));
            let items = items.collect();
            Kind::List(List { items }).into()
        }
        Some(Kind::Fields(fields)) => {
            let items = fields.items.iter().map(|field| Field {
                name: field.name.chars().take(NAME_CHARS_MAX).collect(),
                value: field.value.as_ref().map(|value| {
                    if is_plain(&field.name) {
                        within(value, clean, depth + 1)
                    } else {
                        hidden()
                    }
                }),
            });
            let items = items.collect();
            Kind::Fields(Fields { items }).into()
        }
        _ => value.clone(),
    }
}

/// Whether it is an address with a name or password of its own.
fn has_user_info(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.contains('@')
}

fn hidden() -> Value {
    Value::object([("masked", true.into())])
}

/// What is written of data that somebody stores or sends: that it was that, and not what it is.
#[must_use]
pub fn digested(value: &Value) -> Value {
    match &value.kind {
        Some(Kind::Text(text)) => digest(text.as_bytes()),
        Some(Kind::Bytes(bytes)) => digest(bytes),
        _ => digest(&value.encode_to_vec()),
    }
}

fn digest(bytes: &[u8]) -> Value {
    let hash = hex(&Sha256::digest(bytes));
    Value::object([
        ("bytes", Value::from(bytes.len() as u64)),
        ("sha256", hash.into()),
    ])
}

/// What differs between two states: of lists the items that the other has not, of objects the
/// fields that are not the same.
#[must_use]
pub fn difference(before: &Value, after: &Value) -> (Value, Value) {
    match (&before.kind, &after.kind) {
        (Some(Kind::List(old)), Some(Kind::List(new))) => {
            (only(&old.items, &new.items), only(&new.items, &old.items))
        }
        (Some(Kind::Fields(old)), Some(Kind::Fields(new))) => {
            let (mut gone, mut come) = (Vec::new(), Vec::new());
            for field in &old.items {
                let value = field.value.clone().unwrap_or_default();
                match after.field(&field.name) {
                    Some(since) if *since == value => {}
                    Some(since) => {
                        let (old, new) = difference(&value, since);
                        gone.push((field.name.clone(), old));
                        come.push((field.name.clone(), new));
                    }
                    None => gone.push((field.name.clone(), value)),
                }
            }
            for field in &new.items {
                if before.field(&field.name).is_none() {
                    come.push((field.name.clone(), field.value.clone().unwrap_or_default()));
                }
            }
            (Value::object(gone), Value::object(come))
        }
        _ => (before.clone(), after.clone()),
    }
}

/// The items of `one` that `other` does not have as often.
fn only(one: &[Value], other: &[Value]) -> Value {
    let mut counts = std::collections::HashMap::<Vec<u8>, usize>::new();
    for item in other {
        *counts.entry(item.encode_to_vec()).or_default() += 1;
    }
    let mut items = Vec::new();
    for item in one {
        match counts.get_mut(&item.encode_to_vec()) {
            Some(left) if *left > 0 => *left -= 1,
            _ => items.push(item.clone()),
        }
    }
    Kind::List(List { items }).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(value: serde_json::Value) -> serde_json::Value {
        masked(&value.into(), &|text| !text.starts_with("AKIA")).to_json()
    }

    // BRK-13
    #[test]
    fn no_secret_is_written() {
        let hidden = json!({"masked": true});
        for name in [
            "secret",
            "signing_secret",
            "Password",
            "api-key",
            "X-Api-Key",
            "private_key",
            "Authorization",
            "client_secret",
            "set-cookie",
            "access_token",
        ] {
            let given = json!({"rule": {"headers": {name: "hunter2"}}});
            let written = shown(given);
            assert_eq!(written["rule"]["headers"][name], hidden, "{name}");
        }
        for text in [
            "AKIA0123456789",
            "https://user:hunter2@example.org/hook",
            "postgres://user@db/x",
        ] {
            assert_eq!(shown(json!({ "v": text }))["v"], hidden, "{text}");
        }
        let plain =
            json!({"token": "id-7", "url": "https://example.org/a@b", "n": 3, "l": ["x", null]});
        assert_eq!(shown(plain.clone()), plain);
    }

    // BRK-13: with its hash it can be told later which module or rule it was.
    #[test]
    fn what_is_large_is_written_as_its_length_and_hash() {
        let large = "x".repeat(WHOLE_BYTES_MAX + 1);
        let written = shown(json!({ "module": large }));
        assert_eq!(written["module"]["bytes"], large.len());
        let hash = hex(&Sha256::digest(large.as_bytes()));
        assert_eq!(written["module"]["sha256"], hash);
        let many: Vec<String> = (0..5_000).map(|n| n.to_string()).collect();
        let written = shown(json!(many));
        assert!(written["bytes"].as_u64().unwrap() > VALUE_BYTES_MAX as u64);
        let mut deep = json!(1);
        for _ in 0..40 {
            deep = json!([deep]);
        }
        assert!(shown(deep).to_string().contains("sha256"));
    }

    // BRK-13
    #[test]
    fn of_two_states_what_differs_is_kept() {
        let before = json!({"rules": [{"a": 1}, {"b": 2}], "same": [1], "gone": 1, "n": 1});
        let after = json!({"rules": [{"b": 2}, {"c": 3}], "same": [1], "new": 2, "n": 2});
        let (gone, come) = difference(&before.into(), &after.into());
        assert_eq!(
            gone.to_json(),
            json!({"rules": [{"a": 1}], "gone": 1, "n": 1})
        );
        assert_eq!(
            come.to_json(),
            json!({"rules": [{"c": 3}], "n": 2, "new": 2})
        );
    }
}
