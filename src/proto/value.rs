//! Values of commands, to and from what Rust and JSON call them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::v1::Value;
use super::v1::value::{Field, Fields, Kind, List};

impl Value {
    /// The value under `name`, if this is an object that has it.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Self> {
        let Some(Kind::Fields(fields)) = &self.kind else {
            return None;
        };
        fields
            .items
            .iter()
            .find(|field| field.name == name)?
            .value
            .as_ref()
    }

    /// An object with its fields in the order given.
    pub fn object<N: Into<String>>(fields: impl IntoIterator<Item = (N, Self)>) -> Self {
        let items = fields
            .into_iter()
            .map(|(name, value)| Field {
                name: name.into(),
                value: Some(value),
            })
            .collect();
        Kind::Fields(Fields { items }).into()
    }

    /// The value as JSON: integers exact, bytes as base64, the order of fields kept.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match &self.kind {
            None | Some(Kind::Null(_)) => serde_json::Value::Null,
            Some(Kind::Boolean(value)) => (*value).into(),
            Some(Kind::Integer(value)) => (*value).into(),
            Some(Kind::Unsigned(value)) => (*value).into(),
            Some(Kind::Number(value)) => (*value).into(),
            Some(Kind::Text(value)) => value.as_str().into(),
            Some(Kind::Bytes(value)) => BASE64.encode(value).into(),
            Some(Kind::List(list)) => list.items.iter().map(Self::to_json).collect(),
            Some(Kind::Fields(fields)) => fields
                .items
                .iter()
                .map(|field| {
                    let value = field
                        .value
                        .as_ref()
                        .map_or(serde_json::Value::Null, Self::to_json);
                    (field.name.clone(), value)
                })
                .collect(),
        }
    }
}

impl From<serde_json::Value> for Value {
    /// Integers exact, the order of fields kept.
    fn from(json: serde_json::Value) -> Self {
        use serde_json::Value as Json;
        match json {
            Json::Null => Self { kind: None },
            Json::Bool(flag) => flag.into(),
            Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(whole), _, _) => whole.into(),
                (None, Some(whole), _) => whole.into(),
                (None, None, float) => float.unwrap_or_default().into(),
            },
            Json::String(string) => string.into(),
            Json::Array(items) => items.into_iter().collect(),
            Json::Object(map) => {
                Self::object(map.into_iter().map(|(name, json)| (name, json.into())))
            }
        }
    }
}

impl From<Kind> for Value {
    fn from(kind: Kind) -> Self {
        Self { kind: Some(kind) }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Kind::Boolean(value).into()
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Kind::Unsigned(value).into()
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Kind::Integer(value).into()
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Kind::Number(value).into()
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Kind::Text(value.to_owned()).into()
    }
}

impl From<bytes::Bytes> for Value {
    fn from(value: bytes::Bytes) -> Self {
        Kind::Bytes(value).into()
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Kind::Text(value).into()
    }
}

impl<V: Into<Self>> FromIterator<V> for Value {
    fn from_iter<I: IntoIterator<Item = V>>(items: I) -> Self {
        Kind::List(List {
            items: items.into_iter().map(Into::into).collect(),
        })
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_json_with_integers_exact() {
        let value = Value::object([
            ("z", u64::MAX.into()),
            ("a", ["x", "y"].into_iter().collect::<Value>()),
            ("none", Value::default()),
        ]);
        let expected = r#"{"z":18446744073709551615,"a":["x","y"],"none":null}"#;
        assert_eq!(value.to_json().to_string(), expected);
        assert_eq!(value.field("z"), Some(&u64::MAX.into()));
    }
}
