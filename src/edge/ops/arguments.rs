//! A command's arguments as HTTP carries them: a JSON object, or the query of a GET.
//!
//! Which there must be, and of which type, is the command's own business; here each only becomes
//! the value that its type has in JSON. What has none becomes a value that no argument takes.

use std::collections::BTreeMap;
use std::fmt;

use axum::extract::RawPathParams;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value as Json;

use crate::broker::verb::{Argument, Kind};
use crate::edge::shield::Fault;
use crate::proto::v1::{Value, value};

/// Arguments by name, as commands take them.
pub(super) type Given = BTreeMap<String, Value>;

/// Nesting that a body may have: an object of lists. An argument that is an object itself is as
/// deep as the parser of JSON lets it be.
const DEPTH_MAX: usize = 2;

/// An object without two values of one name: which of them counted would be anybody's guess.
struct Object(Vec<(String, Json)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of arguments")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields: Vec<(String, Json)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Json>()? {
                    if fields.iter().any(|(known, _)| *known == name) {
                        return Err(A::Error::custom("an argument is given twice"));
                    }
                    fields.push((name, value));
                }
                Ok(Object(fields))
            }
        }
        from.deserialize_map(Fields)
    }
}

/// The arguments in a body; an empty body has none.
///
/// # Errors
/// The body is no object of values; bytes are not base64.
pub(super) fn of_body(body: &[u8], arguments: &[Argument]) -> Result<Given, Fault> {
    if body.is_empty() {
        return Ok(Given::new());
    }
    let Object(fields) = serde_json::from_slice(body).map_err(|error| {
        let text = format!(
            "the body is not an object of arguments (line {}, column {}): {}",
            error.line(),
            error.column(),
            kind_of(&error)
        );
        Fault::invalid("body", text)
    })?;
    let mut given = Given::new();
    for (name, value) in fields {
        let kind = kind(arguments, &name);
        if matches!(kind, Some(Kind::Object | Kind::Any)) {
            given.insert(name, value.into());
            continue;
        }
        if depth(&value) > DEPTH_MAX - 1 {
            let text = "an argument is a value or a list of values, and nothing deeper";
            return Err(Fault::invalid(&field(&name), text));
        }
        let value = of_json(&name, &value, kind)?;
        given.insert(name, value);
    }
    Ok(given)
}

/// The arguments in a query with those in the path.
///
/// # Errors
/// One is in both.
pub(super) fn with_path(mut given: Given, path: &RawPathParams) -> Result<Given, Fault> {
    for (name, value) in path {
        if given.insert(name.to_owned(), value.into()).is_some() {
            return Err(Fault::invalid(&field(name), "an argument is given twice"));
        }
    }
    Ok(given)
}

/// The arguments in a query.
///
/// # Errors
/// It is not encoded as queries are; a value is none of its argument's type.
pub(super) fn of_query(query: &str, arguments: &[Argument]) -> Result<Given, Fault> {
    let mut given = Given::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
        let malformed = || Fault::invalid("query", "the query is not percent-encoded UTF-8");
        let name = decoded(name).ok_or_else(malformed)?;
        let text = decoded(text).ok_or_else(malformed)?;
        let json = match kind(arguments, &name) {
            Some(Kind::Integer) => text.parse::<u64>().map_or(Json::Null, Json::from),
            Some(Kind::Number) => text.parse::<f64>().map_or(Json::Null, Json::from),
            Some(Kind::Boolean) => text.parse::<bool>().map_or(Json::Null, Json::from),
            Some(Kind::Texts) => text.split(',').collect(),
            Some(Kind::Text | Kind::Bytes | Kind::Object | Kind::Any) | None => Json::from(text),
        };
        let value = of_json(&name, &json, kind(arguments, &name))?;
        if given.insert(name.clone(), value).is_some() {
            return Err(Fault::invalid(&field(&name), "an argument is given twice"));
        }
    }
    Ok(given)
}

fn kind(arguments: &[Argument], name: &str) -> Option<Kind> {
    let argument = arguments.iter().find(|argument| argument.name == name)?;
    Some(argument.kind)
}

fn field(name: &str) -> String {
    let name: String = name.chars().take(64).collect();
    format!("arguments.{name}")
}

/// What serde_json says is wrong without quoting what it met: a body may hold secrets.
fn kind_of(error: &serde_json::Error) -> &'static str {
    match error.classify() {
        serde_json::error::Category::Syntax => "it is not JSON, or nested too deep",
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Data => "it is no object, or has an argument twice",
        serde_json::error::Category::Io => "it cannot be read",
    }
}

fn of_json(name: &str, json: &Json, kind: Option<Kind>) -> Result<Value, Fault> {
    Ok(match json {
        Json::Null => value::Kind::Null(true).into(),
        Json::Bool(flag) => (*flag).into(),
        Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(number), _, _) => number.into(),
            (None, Some(number), _) => number.into(),
            (None, None, Some(number)) => number.into(),
            (None, None, None) => Value::default(),
        },
        Json::String(text) if kind == Some(Kind::Bytes) => {
            let bytes = BASE64.decode(text).map_err(|error| {
                Fault::invalid(&field(name), format!("{name} must be base64: {error}"))
            })?;
            value::Kind::Bytes(bytes.into()).into()
        }
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => {
            let items = items.iter().map(|item| of_json(name, item, None));
            items
                .collect::<Result<Vec<Value>, Fault>>()?
                .into_iter()
                .collect()
        }
        // Where one is wanted it has been taken before.
        Json::Object(_) => Value::default(),
    })
}

fn depth(json: &Json) -> usize {
    match json {
        Json::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Json::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or_default(),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => 0,
    }
}

/// Percent-decoded, with `+` for a space.
fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARGUMENTS: &[Argument] = &[
        argument("text", Kind::Text),
        argument("bytes", Kind::Bytes),
        argument("integer", Kind::Integer),
        argument("flag", Kind::Boolean),
        argument("texts", Kind::Texts),
        argument("object", Kind::Object),
    ];

    const fn argument(name: &'static str, kind: Kind) -> Argument {
        Argument {
            name,
            kind,
            required: false,
            doc: "",
        }
    }

    fn body(text: &str) -> Result<Given, String> {
        of_body(text.as_bytes(), ARGUMENTS).map_err(|fault| fault.field)
    }

    // BRK-11
    #[test]
    fn every_type_has_its_form_in_json_and_in_a_query() {
        let text = r#"{"text":"a b","bytes":"AAE=","integer":18446744073709551615,"flag":true,"texts":["x","y"]}"#;
        let given = body(text).unwrap();
        assert_eq!(given["text"], "a b".into());
        let bytes = bytes::Bytes::from_static(&[0, 1]);
        assert_eq!(given["bytes"], value::Kind::Bytes(bytes).into());
        assert_eq!(given["integer"], u64::MAX.into());
        assert_eq!(given["flag"], true.into());
        assert_eq!(given["texts"], ["x", "y"].into_iter().collect());
        let query = "text=a%20b&bytes=AAE%3D&integer=18446744073709551615&flag=true&texts=x,y";
        assert_eq!(of_query(query, ARGUMENTS).unwrap(), given);
        assert_eq!(body("").unwrap(), Given::new());
        let deep = body(r#"{"object":{"a":[{"b":1}]}}"#).unwrap();
        let wanted = serde_json::json!({"a": [{"b": 1}]});
        assert_eq!(deep["object"].to_json(), wanted);
    }

    // EDGE-09
    #[test]
    fn what_is_no_object_of_arguments_is_refused_by_field() {
        let deep = format!("{}1{}", "[".repeat(4_000), "]".repeat(4_000));
        for (text, field) in [
            ("[]", "body"),
            ("{", "body"),
            ("nothing", "body"),
            (r#"{"a":1,"a":2}"#, "body"),
            (deep.as_str(), "body"),
            (&format!("{{\"a\":{deep}}}"), "body"),
            (r#"{"texts":[["x"]]}"#, "arguments.texts"),
            (r#"{"text":{"a":{}}}"#, "arguments.text"),
            (r#"{"bytes":"*"}"#, "arguments.bytes"),
        ] {
            assert_eq!(body(text), Err(field.to_owned()), "{text:.60}");
        }
        for query in ["text=%", "text=%f", "text=%zz", "text=%ff"] {
            let fault = of_query(query, ARGUMENTS).unwrap_err();
            assert_eq!(fault.field, "query", "{query}");
        }
        let twice = of_query("text=a&text=b", ARGUMENTS).unwrap_err();
        assert_eq!(twice.field, "arguments.text");
    }
}
