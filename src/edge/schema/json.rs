//! JSON Schema documents, and the payloads that are held against them.
//!
//! References lead to places in the document itself and nowhere else; patterns are matched in
//! linear time. A name that stands twice in an object is a violation, because two parsers can take
//! different ones of them.

use std::collections::BTreeSet;
use std::fmt;

use jsonschema::{PatternOptions, Validator};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::violation::{TOLD_MAX, Violation};
use super::work;

/// What a pattern may become in memory.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Why a document is no schema.
#[derive(Debug, thiserror::Error)]
pub enum BadDocument {
    /// Not JSON, or a name twice in one object.
    #[error("document: not JSON")]
    Syntax(#[source] serde_json::Error),
    /// Leads outside.
    #[error("document: {reference:?} leads outside the document; move what it names into $defs")]
    Remote {
        /// Where to.
        reference: String,
    },
    /// References make more of it than can be held against a payload.
    #[error(
        "document: its references look too often at one value, or cannot be followed; have each part of a payload described once, by plain references within the document"
    )]
    Work,
    /// Not a schema.
    #[error("document: not a JSON Schema: {reason}")]
    Schema {
        /// What is wrong with it.
        reason: String,
    },
}

/// A schema made ready.
pub struct Document(Validator);

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").finish_non_exhaustive()
    }
}

impl Document {
    /// Reads a document.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn new(text: &[u8]) -> Result<Self, BadDocument> {
        let Plain(document) = serde_json::from_slice(text).map_err(BadDocument::Syntax)?;
        if let Some(reference) = remote(&document) {
            return Err(BadDocument::Remote { reference });
        }
        work::check(&document).map_err(|work::TooMuch| BadDocument::Work)?;
        let patterns = PatternOptions::regex()
            .size_limit(PATTERN_BYTES_MAX)
            .dfa_size_limit(PATTERN_BYTES_MAX);
        jsonschema::options()
            .with_pattern_options(patterns)
            .build(&document)
            .map(Self)
            .map_err(|error| BadDocument::Schema {
                reason: error.to_string().chars().take(300).collect(),
            })
    }

    /// What is wrong with the JSON text `data`, up to [`TOLD_MAX`]; empty if it fits.
    #[must_use]
    pub fn violations(&self, data: &[u8]) -> Vec<Violation> {
        match serde_json::from_slice::<Plain>(data) {
            Ok(Plain(value)) => self.violations_of(&value),
            Err(error) => {
                // The text of an error of syntax names a place and no value.
                let place = format!("line {}, column {}", error.line(), error.column());
                let (rule, what) = if error.is_data() {
                    ("json.name", "a name that stands twice in one object")
                } else {
                    ("json.syntax", "not JSON")
                };
                vec![Violation::new("", rule, format!("{what}, at {place}"))]
            }
        }
    }

    /// What is wrong with a value.
    #[must_use]
    pub fn violations_of(&self, value: &Value) -> Vec<Violation> {
        if self.0.is_valid(value) {
            return Vec::new();
        }
        let told = self.0.iter_errors(value).take(TOLD_MAX).map(|error| {
            let rule = format!("json.{}", error.kind().keyword());
            let detail = error.masked_with("the value").to_string();
            Violation::new(&dotted(error.instance_path().as_str()), rule, detail)
        });
        told.collect()
    }
}

/// `/lines/2/sku` as `lines[2].sku`.
fn dotted(pointer: &str) -> String {
    let mut path = String::new();
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            path.push_str(&format!("[{part}]"));
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&part);
        }
    }
    path
}

/// A reference that leads outside the document, if there is one.
fn remote(document: &Value) -> Option<String> {
    let mut left = vec![document];
    while let Some(value) = left.pop() {
        match value {
            Value::Object(map) => {
                for (name, inner) in map {
                    let is_reference = matches!(
                        name.as_str(),
                        "$ref" | "$dynamicRef" | "$recursiveRef" | "$id" | "id"
                    );
                    if let (true, Value::String(target)) = (is_reference, inner) {
                        let inside = match name.as_str() {
                            // A name for the document is no way out of it: nothing is fetched.
                            "$id" | "id" => true,
                            _ => target.starts_with('#'),
                        };
                        if !inside {
                            return Some(target.chars().take(200).collect());
                        }
                    }
                    left.push(inner);
                }
            }
            Value::Array(items) => left.extend(items),
            _ => {}
        }
    }
    None
}

/// A JSON value in which no object has a name twice.
struct Plain(Value);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlainVisitor).map(Self)
    }
}

struct PlainVisitor;

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Plain(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let mut names = BTreeSet::new();
        while let Some((name, Plain(value))) = entries.next_entry::<String, Plain>()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom("a name stands twice"));
            }
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

/// What older clients send as a `Struct`, as JSON. Whole numbers are integers again.
#[must_use]
pub fn of_struct(fields: Struct) -> Value {
    let fields = fields.fields.into_iter();
    Value::Object(
        fields
            .map(|(name, value)| (name, of_value(value)))
            .collect(),
    )
}

fn of_value(value: prost_types::Value) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::StringValue(value)) => value.into(),
        Some(Kind::NumberValue(value)) => number(value),
        Some(Kind::StructValue(fields)) => of_struct(fields),
        Some(Kind::ListValue(ListValue { values })) => {
            Value::Array(values.into_iter().map(of_value).collect())
        }
    }
}

fn number(value: f64) -> Value {
    // Whole numbers up to here are exact in both.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0
        && value.abs() <= EXACT
        && let Ok(whole) = format!("{value:.0}").parse::<i64>()
    {
        return whole.into();
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        Document::new(text.as_bytes()).expect("a schema")
    }

    // EDGE-13
    #[test]
    fn a_json_payload_is_held_against_its_document() {
        let order = document(
            r##"{"type":"object","required":["id"],"additionalProperties":false,"properties":
            {"id":{"type":"integer"},"lines":{"type":"array","items":{"$ref":"#/$defs/line"}}},
            "$defs":{"line":{"type":"object","properties":{"sku":{"type":"string","maxLength":4}}}}}"##,
        );
        assert_eq!(order.violations(br#"{"id":1,"lines":[{"sku":"ab"}]}"#), []);
        let rules = |data: &str| -> Vec<(String, String)> {
            let found = order.violations(data.as_bytes());
            assert!(
                !format!("{found:?}").contains("secret"),
                "a value is told: {found:?}"
            );
            found.into_iter().map(|one| (one.path, one.rule)).collect()
        };
        let pair = |path: &str, rule: &str| vec![(path.to_owned(), rule.to_owned())];
        assert_eq!(rules(r#"{"id":"secret"}"#), pair("id", "json.type"));
        assert_eq!(rules("{}"), pair("", "json.required"));
        assert_eq!(
            rules(r#"{"id":1,"lines":[{},{"sku":"secret"}]}"#),
            pair("lines[1].sku", "json.maxLength")
        );
        assert_eq!(rules("{"), pair("", "json.syntax"));
        assert_eq!(rules(r#"{"id":1,"id":2}"#), pair("", "json.name"));
    }

    // EDGE-13
    #[test]
    fn a_document_that_leads_outside_or_is_none_is_refused() {
        for (text, said) in [
            (
                r#"{"$ref":"https://example.invalid/a.json"}"#,
                "leads outside",
            ),
            (r#"{"$ref":"file:///etc/passwd"}"#, "leads outside"),
            (
                r#"{"properties":{"a":{"$ref":"other.json#/a"}}}"#,
                "leads outside",
            ),
            (r#"{"type":"nothing"}"#, "not a JSON Schema"),
            (r#"{"pattern":"("}"#, "not a JSON Schema"),
            (r#"{"pattern":"(a{1000}){1000}"}"#, "not a JSON Schema"),
            ("{", "not JSON"),
            (r##"{"$ref":"#/$defs/none"}"##, "not a JSON Schema"),
        ] {
            let error = Document::new(text.as_bytes()).expect_err(text).to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
        let deep = "[".repeat(100_000);
        assert!(Document::new(deep.as_bytes()).is_err());
    }

    // EDGE-13
    #[test]
    fn a_pattern_takes_linear_time() {
        let schema = document(r#"{"type":"string","pattern":"^(a+)+$"}"#);
        let payload = format!("\"{}!\"", "a".repeat(100_000));
        let started = std::time::Instant::now();
        assert_eq!(schema.violations(payload.as_bytes()).len(), 1);
        assert!(started.elapsed().as_secs() < 5);
    }

    /// A stack that is as small as a worker's: what runs over it ends the whole process.
    fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
        let thread = std::thread::Builder::new().stack_size(2 << 20);
        let thread = thread.spawn(work).expect("a thread");
        thread.join().expect("it ends well");
    }

    // EDGE-13
    #[test]
    fn a_document_that_leads_in_circles_is_refused_or_ends() {
        on_a_small_stack(|| {
            for text in [
                r##"{"$ref":"#"}"##,
                r##"{"allOf":[{"$ref":"#"}]}"##,
                r##"{"not":{"$ref":"#"}}"##,
                r##"{"anyOf":[{"$ref":"#"},{"$ref":"#"}]}"##,
                r##"{"oneOf":[{"$ref":"#"},{"type":"array"}]}"##,
                r##"{"if":{"$ref":"#"},"then":{"$ref":"#"},"else":{"$ref":"#"}}"##,
                r##"{"dependentSchemas":{"a":{"$ref":"#"}}}"##,
                r##"{"$dynamicRef":"#"}"##,
                r##"{"$dynamicAnchor":"x","allOf":[{"$dynamicRef":"#x"}]}"##,
                r##"{"$schema":"https://json-schema.org/draft/2019-09/schema","$recursiveAnchor":true,"allOf":[{"$recursiveRef":"#"}]}"##,
                r##"{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"allOf":[{"$ref":"#/$defs/a"}]}}}"##,
                r##"{"unevaluatedProperties":false,"allOf":[{"$ref":"#"}]}"##,
                r##"{"unevaluatedItems":{"$ref":"#"},"anyOf":[{"$ref":"#"}]}"##,
                r##"{"propertyNames":{"$ref":"#"},"contains":{"$ref":"#"}}"##,
            ] {
                let Ok(circle) = Document::new(text.as_bytes()) else {
                    continue;
                };
                for data in [&b"1"[..], br#"{"a":{"a":1}}"#, b"[[1],[]]"] {
                    // Whatever the verdict is, there is one.
                    let _verdict = circle.violations(data);
                }
            }
        });
    }

    // EDGE-13
    #[test]
    fn deep_documents_and_payloads_stay_on_the_stack() {
        on_a_small_stack(|| {
            // As deep as JSON is read.
            let nested = |open: &str, inner: &str, close: &str, times: usize| {
                [&open.repeat(times), inner, &close.repeat(times)].concat()
            };
            for (open, close) in [
                (r#"{"allOf":["#, "]}"),
                (r#"{"not":"#, "}"),
                (r#"{"items":"#, "}"),
                (r#"{"properties":{"a":"#, "}}"),
            ] {
                for times in [60, 120, 10_000] {
                    if let Ok(document) =
                        Document::new(nested(open, "{\"type\":\"null\"}", close, times).as_bytes())
                    {
                        let _verdict = document.violations(nested("[", "", "]", 120).as_bytes());
                    }
                }
            }
            let pair =
                document(r##"{"type":"object","properties":{"l":{"$ref":"#"},"r":{"$ref":"#"}}}"##);
            assert_eq!(pair.violations(br#"{"l":{"r":{}},"r":{}}"#), []);
            let tree = document(
                r##"{"anyOf":[{"type":"array","items":{"$ref":"#"}},
                {"type":"object","properties":{"a":{"$ref":"#"}}},{"type":"null"}]}"##,
            );
            assert_eq!(
                tree.violations(nested("[", "null", "]", 120).as_bytes()),
                []
            );
            let wrong = tree.violations(nested("{\"a\":", "1", "}", 120).as_bytes());
            assert_eq!(wrong.len(), 1);
            let deeper = tree.violations(nested("[", "", "]", 100_000).as_bytes());
            assert_eq!(deeper[0].rule, "json.syntax");
        });
    }

    // EDGE-13
    #[test]
    fn a_document_that_doubles_its_work_at_each_step_is_refused() {
        // Forty references, each to two of the next.
        let doubled: Vec<String> = (0..40)
            .map(|at| {
                let next = format!("{{\"$ref\":\"#/$defs/d{}\"}}", at + 1);
                format!("\"d{at}\":{{\"allOf\":[{next},{next}]}}")
            })
            .collect();
        let flat = format!(
            "{{\"$ref\":\"#/$defs/d0\",\"$defs\":{{{},\"d40\":{{\"type\":\"object\"}}}}}}",
            doubled.join(",")
        );
        let started = std::time::Instant::now();
        let refused = Document::new(flat.as_bytes());
        assert!(matches!(refused, Err(BadDocument::Work)));
        // Two ways into each element, all the way down.
        let twice = Document::new(
            br##"{"allOf":[{"items":{"$ref":"#"}},{"items":{"$ref":"#"}}],"type":"array"}"##,
        );
        assert!(matches!(twice, Err(BadDocument::Work)));
        assert!(started.elapsed().as_secs() < 10);
    }
}
