//! How often a JSON Schema looks at the same place of a payload.
//!
//! References let a short document ask for more than any machine can do: forty definitions of which
//! each asks the next one twice look 2^40 times at one value, and a definition that leads twice
//! into the same field does so again with every level of a payload. A document that can come near
//! that is refused when it is registered, because nothing stops a validation that has begun.
//!
//! Counts the worst case, whatever the payload; knows where keywords lead and not what they mean.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

/// Levels that the reader of payloads lets in.
const DEPTH_MAX: usize = 128;
/// Most schemas that may be asked about one value.
const VISITS_MAX: u64 = 4_096;
/// Most that counting itself may take.
const STEPS_MAX: u64 = 2_000_000;

/// The document asks too much, or leads where it cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMuch;

/// Refuses a document that can look too often at one place.
pub(super) fn check(document: &Value) -> Result<(), TooMuch> {
    if !has_references(document) {
        // It is a tree, and no longer than it is.
        return Ok(());
    }
    if has_documents_within(document) {
        // A reference within it would lead elsewhere than it is read here.
        return Err(TooMuch);
    }
    let mut count = Count {
        document,
        known: HashMap::new(),
        steps: 0,
    };
    count.visits(document, DEPTH_MAX).map(drop)
}

const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];

/// Every object in a document.
fn objects(document: &Value) -> Vec<&Map<String, Value>> {
    let (mut left, mut found) = (vec![document], Vec::new());
    while let Some(value) = left.pop() {
        match value {
            Value::Object(map) => {
                found.push(map);
                left.extend(map.values());
            }
            Value::Array(items) => left.extend(items),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    found
}

fn has_references(document: &Value) -> bool {
    let named = |map: &Map<String, Value>| REFERENCES.iter().any(|name| map.contains_key(*name));
    objects(document).into_iter().any(named)
}

/// Whether a part of it is a document with places of its own.
fn has_documents_within(document: &Value) -> bool {
    let objects = objects(document);
    let text = |map: &Map<String, Value>, name: &str, is: &dyn Fn(&str) -> bool| {
        map.get(name).and_then(Value::as_str).is_some_and(is)
    };
    let is_old = objects
        .iter()
        .any(|map| text(map, "$schema", &|named| named.contains("draft-04")));
    let begins = |map: &&Map<String, Value>| {
        let is_name = |named: &str| !named.starts_with('#');
        text(map, "$id", &is_name) || (is_old && text(map, "id", &is_name))
    };
    let root = document.as_object();
    objects
        .iter()
        .any(|map| !root.is_some_and(|root| std::ptr::eq(root, *map)) && begins(map))
}

struct Count<'a> {
    document: &'a Value,
    known: HashMap<(*const Value, usize), u64>,
    steps: u64,
}

impl<'a> Count<'a> {
    fn step(&mut self) -> Result<(), TooMuch> {
        self.steps(1)
    }

    fn steps(&mut self, more: usize) -> Result<(), TooMuch> {
        self.steps = self.steps.saturating_add(more as u64);
        (self.steps <= STEPS_MAX).then_some(()).ok_or(TooMuch)
    }

    /// Most schemas that are asked about one value, be it the one that this schema is asked about
    /// or one of `depth` levels within.
    fn visits(&mut self, schema: &'a Value, depth: usize) -> Result<u64, TooMuch> {
        if let Some(known) = self.known.get(&(std::ptr::from_ref(schema), depth)) {
            return Ok(*known);
        }
        let here = self.asked_together(&[schema])?;
        let mut most = here.len() as u64;
        let names = here
            .iter()
            .filter_map(|schema| schema.get("properties")?.as_object());
        let names: usize = names.map(Map::len).sum();
        self.steps(names.saturating_mul(here.len()))?;
        if depth > 0 {
            for within in parts(&here) {
                let mut sum = 0_u64;
                for schema in within {
                    self.step()?;
                    sum = sum.saturating_add(self.visits(schema, depth - 1)?);
                }
                most = most.max(sum);
            }
        }
        if most > VISITS_MAX {
            return Err(TooMuch);
        }
        self.known.insert((std::ptr::from_ref(schema), depth), most);
        Ok(most)
    }

    /// The schemas that are asked about a value once one of these is, each as often as it is.
    fn asked_together(
        &mut self,
        schemas: &[&'a Value],
    ) -> Result<Vec<&'a Map<String, Value>>, TooMuch> {
        let (mut left, mut found) = (schemas.to_vec(), Vec::new());
        while let Some(schema) = left.pop() {
            self.step()?;
            let Value::Object(map) = schema else { continue };
            found.push(map);
            // One that leads back to itself ends here too.
            if found.len() as u64 > VISITS_MAX {
                return Err(TooMuch);
            }
            for (name, value) in map {
                match (name.as_str(), value) {
                    ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(to)) => {
                        left.extend(self.targets(to)?);
                    }
                    ("allOf" | "anyOf" | "oneOf", Value::Array(all)) => left.extend(all),
                    ("not" | "if" | "then" | "else", one) => left.push(one),
                    ("dependentSchemas" | "dependencies", Value::Object(all)) => {
                        left.extend(all.values());
                    }
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    /// Where a reference leads: to a place, or to an anchor of which there may be several.
    fn targets(&mut self, reference: &str) -> Result<Vec<&'a Value>, TooMuch> {
        let name = reference.strip_prefix('#').ok_or(TooMuch)?;
        if name.is_empty() || name.starts_with('/') {
            // With escapes it could lead elsewhere than it is read here; what leads nowhere is
            // refused when the document is made ready.
            return match (name.contains('%'), self.document.pointer(name)) {
                (true, _) => Err(TooMuch),
                (false, place) => Ok(place.into_iter().collect()),
            };
        }
        let anchors = ["$anchor", "$dynamicAnchor", "$id", "id"];
        let is_named = |value: &&Value| {
            anchors.iter().any(|key| {
                let found = value.get(*key).and_then(Value::as_str);
                found.is_some_and(|found| found.trim_start_matches('#') == name)
            })
        };
        let (mut left, mut found) = (vec![self.document], Vec::new());
        while let Some(value) = left.pop() {
            self.step()?;
            if is_named(&value) {
                found.push(value);
            }
            match value {
                Value::Object(map) => left.extend(map.values()),
                Value::Array(items) => left.extend(items),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        Ok(found)
    }
}

/// For each part that a value can have, the schemas that are asked about it.
fn parts<'a>(asked: &[&'a Map<String, Value>]) -> Vec<Vec<&'a Value>> {
    let map =
        |schema: &'a Map<String, Value>, name: &str| schema.get(name).and_then(Value::as_object);
    let mut parts = Vec::new();
    let names: BTreeSet<&String> = asked
        .iter()
        .filter_map(|schema| map(schema, "properties"))
        .flat_map(Map::keys)
        .collect();
    for name in names.into_iter().map(Some).chain([None]) {
        let mut part = Vec::new();
        for schema in asked {
            let own = name.and_then(|name| map(schema, "properties")?.get(name));
            let others = ["additionalProperties", "unevaluatedProperties"];
            match own {
                Some(own) => part.push(own),
                None => part.extend(others.iter().filter_map(|other| schema.get(*other))),
            }
            part.extend(
                map(schema, "patternProperties")
                    .into_iter()
                    .flat_map(Map::values),
            );
            part.extend(schema.get("propertyNames"));
        }
        parts.push(part);
    }
    let firsts = |schema: &'a Map<String, Value>| {
        let lists = [schema.get("prefixItems"), schema.get("items")];
        lists.into_iter().flatten().find_map(Value::as_array)
    };
    let longest = asked
        .iter()
        .filter_map(|schema| firsts(schema))
        .map(Vec::len)
        .max();
    for index in 0..=longest.unwrap_or(0) {
        let mut part = Vec::new();
        for schema in asked {
            let others = ["items", "additionalItems", "unevaluatedItems"];
            match firsts(schema).and_then(|firsts| firsts.get(index)) {
                Some(own) => part.push(own),
                None => part.extend(others.iter().filter_map(|other| schema.get(*other))),
            }
            part.extend(schema.get("contains"));
        }
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // EDGE-13, EDGE-09
    #[test]
    fn documents_that_double_their_work_are_refused() {
        let asks_twice = |next: &str| json!({ "allOf": [{ "$ref": next }, { "$ref": next }] });
        let mut parts = Map::new();
        for part in 0..40 {
            parts.insert(
                format!("p{part}"),
                asks_twice(&format!("#/$defs/p{}", part + 1)),
            );
        }
        parts.insert("p40".into(), json!(true));
        for document in [
            json!({ "$ref": "#/$defs/p0", "$defs": parts }),
            json!({ "$ref": "#" }),
            json!({ "anyOf": [{ "type": "string" }, { "not": { "$ref": "#" } }] }),
            json!({ "properties": { "a": asks_twice("#") } }),
            json!({ "items": asks_twice("#") }),
            json!({ "$anchor": "x", "additionalProperties": asks_twice("#x") }),
            json!({ "oneOf": [
                { "properties": { "a": { "$ref": "#" } } },
                { "properties": { "a": { "$ref": "#" }, "b": {} } },
            ] }),
            json!({ "properties": { "a": { "$id": "b", "$ref": "#" } } }),
            json!({ "$ref": "#/%24defs/a", "$defs": { "a": {} } }),
        ] {
            assert_eq!(check(&document), Err(TooMuch), "{document}");
        }
    }

    // EDGE-13
    #[test]
    fn documents_that_go_on_with_the_payload_are_taken() {
        for document in [
            json!(true),
            json!({ "properties": { "left": { "$ref": "#" }, "right": { "$ref": "#" } } }),
            json!({ "items": { "$ref": "#" }, "additionalProperties": { "$ref": "#" } }),
            json!({ "prefixItems": [{ "$ref": "#" }, { "$ref": "#" }], "items": { "$ref": "#" } }),
            json!({ "properties": { "id": { "type": "string" }, "next": { "$ref": "#/$defs/n" } },
                "$defs": { "n": { "anyOf": [{ "type": "null" }, { "$ref": "#" }] } } }),
            json!({ "properties": { "a": { "$ref": "#m" }, "b": { "$ref": "#m" } },
                "$defs": { "money": { "$anchor": "m", "type": "integer" } } }),
        ] {
            assert_eq!(check(&document), Ok(()), "{document}");
        }
    }
}
