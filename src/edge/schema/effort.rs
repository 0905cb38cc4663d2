//! How much work a JSON Schema document can make of a payload, before it is put in force.
//!
//! A document that refers to itself twice at each step doubles the work with each level of the
//! payload: a hundred brackets would keep a core busy for ever. Here it is counted how often each
//! schema of the document can be applied to one place of a payload. It is an upper bound: what is
//! refused need not be slow.

use std::collections::HashMap;

use serde_json::Value;

/// As deep as JSON is read.
const DEPTH_MAX: usize = 128;
/// How often one schema may be applied to one place.
const VISITS_MAX: u32 = 256;
/// Counting itself ends here, with a refusal.
const WORK_MAX: usize = 1 << 24;

/// Why a document is too much work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endless {
    /// It comes back to itself without going further into the payload.
    Circle,
    /// It can apply one schema to one place too often.
    Growth,
}

/// What a schema applies: to the same place, and to the places below, of a property or of any.
#[derive(Default)]
struct Step<'a> {
    here: Vec<usize>,
    below: Vec<(Place<'a>, usize)>,
}

/// Which places below: none is of two kinds.
#[derive(Clone, Copy)]
enum Place<'a> {
    Element,
    Name,
    Member(&'a str),
    AnyMember,
}

/// The schemas of a document that are reached from its root, numbered as they are found.
struct Reached<'a> {
    /// Whatever a reference can be relative to.
    roots: Vec<&'a Value>,
    anchors: HashMap<&'a str, Vec<&'a Value>>,
    /// By address: two places of a document can look the same.
    numbers: HashMap<*const Value, usize>,
    found: Vec<&'a Value>,
}

/// Checks that the work on a payload is bounded.
pub(super) fn check(document: &Value) -> Result<(), Endless> {
    let mut reached = Reached::of(document);
    let mut steps: Vec<Step<'_>> = Vec::new();
    while let Some(&schema) = reached.found.get(steps.len()) {
        let step = reached.step(schema);
        steps.push(step);
    }
    let order = order(&steps)?;
    let mut visits = vec![0_u32; steps.len()];
    visits[0] = 1;
    spread(&steps, &order, &mut visits);
    let mut work = 0;
    for _ in 0..DEPTH_MAX {
        if visits.iter().any(|&visits| visits > VISITS_MAX) {
            return Err(Endless::Growth);
        }
        let places = below(&steps, &visits).ok_or(Endless::Growth)?;
        work += places.len() * steps.len();
        if work > WORK_MAX {
            return Err(Endless::Growth);
        }
        let mut next = vec![0; steps.len()];
        for mut place in places {
            spread(&steps, &order, &mut place);
            for (most, visits) in next.iter_mut().zip(place) {
                *most = visits.max(*most);
            }
        }
        if next == visits {
            break;
        }
        visits = next;
    }
    Ok(())
}

/// Adds what schemas apply to the place that they are applied to themselves.
fn spread(steps: &[Step<'_>], order: &[usize], visits: &mut [u32]) {
    for &at in order {
        for &to in &steps[at].here {
            visits[to] = visits[to].saturating_add(visits[at]);
        }
    }
}

/// How often each is applied first to the places one level deeper: an element, the name of a
/// member, a member by each name, and one by any other. `None` if these are too many to count.
fn below(steps: &[Step<'_>], visits: &[u32]) -> Option<Vec<Vec<u32>>> {
    let [mut elements, mut names, mut members] = [(); 3].map(|()| vec![0_u32; steps.len()]);
    let mut named: HashMap<&str, Vec<(usize, u32)>> = HashMap::new();
    for (step, &visits) in steps.iter().zip(visits).filter(|(_, visits)| **visits > 0) {
        for &(place, to) in &step.below {
            let count = match place {
                Place::Element => &mut elements[to],
                Place::Name => &mut names[to],
                Place::AnyMember => &mut members[to],
                Place::Member(name) => {
                    named.entry(name).or_default().push((to, visits));
                    continue;
                }
            };
            *count = count.saturating_add(visits);
        }
    }
    if named.len().saturating_mul(steps.len()) > WORK_MAX {
        return None;
    }
    let by_name = named.into_values().map(|applied| {
        let mut member = members.clone();
        for (to, visits) in applied {
            member[to] = member[to].saturating_add(visits);
        }
        member
    });
    let mut places: Vec<Vec<u32>> = by_name.collect();
    places.extend([elements, names, members]);
    Some(places)
}

/// The schemas, each before those that it applies to the same place.
fn order(steps: &[Step<'_>]) -> Result<Vec<usize>, Endless> {
    let mut waits = vec![0_usize; steps.len()];
    for &to in steps.iter().flat_map(|step| &step.here) {
        waits[to] += 1;
    }
    let mut order: Vec<usize> = (0..steps.len()).filter(|&at| waits[at] == 0).collect();
    let mut done = 0;
    while let Some(&at) = order.get(done) {
        done += 1;
        for &to in &steps[at].here {
            waits[to] -= 1;
            if waits[to] == 0 {
                order.push(to);
            }
        }
    }
    if order.len() < steps.len() {
        return Err(Endless::Circle);
    }
    Ok(order)
}

impl<'a> Reached<'a> {
    fn of(document: &'a Value) -> Self {
        let mut reached = Self {
            roots: vec![document],
            anchors: HashMap::new(),
            numbers: HashMap::new(),
            found: Vec::new(),
        };
        reached.number(document);
        let mut left = vec![document];
        while let Some(value) = left.pop() {
            match value {
                Value::Object(map) => {
                    for (name, inner) in map {
                        match (name.as_str(), inner) {
                            ("$id" | "id", Value::String(id)) => {
                                reached.roots.push(value);
                                let anchor = id.rsplit_once('#').map_or("", |(_, anchor)| anchor);
                                reached.anchors.entry(anchor).or_default().push(value);
                            }
                            ("$anchor" | "$dynamicAnchor", Value::String(anchor)) => {
                                reached.anchors.entry(anchor).or_default().push(value);
                            }
                            _ => left.push(inner),
                        }
                    }
                }
                Value::Array(items) => left.extend(items),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        reached
    }

    fn number(&mut self, schema: &'a Value) -> usize {
        let next = self.found.len();
        let number = *self.numbers.entry(schema).or_insert(next);
        if number == next {
            self.found.push(schema);
        }
        number
    }

    fn step(&mut self, schema: &'a Value) -> Step<'a> {
        let mut step = Step::default();
        let Value::Object(map) = schema else {
            return step;
        };
        for (name, inner) in map {
            match name.as_str() {
                "$ref" | "$dynamicRef" | "$recursiveRef" => {
                    for target in self.targets(inner.as_str().unwrap_or_default()) {
                        step.here.push(self.number(target));
                    }
                }
                "allOf" | "anyOf" | "oneOf" | "dependentSchemas" | "dependencies" => {
                    for one in inside(inner) {
                        step.here.push(self.number(one));
                    }
                }
                "not" | "if" | "then" | "else" => step.here.push(self.number(inner)),
                "properties" => {
                    for (name, one) in inner.as_object().into_iter().flatten() {
                        step.below.push((Place::Member(name), self.number(one)));
                    }
                }
                "patternProperties" => {
                    for one in inside(inner) {
                        step.below.push((Place::AnyMember, self.number(one)));
                    }
                }
                "additionalProperties" | "unevaluatedProperties" => {
                    step.below.push((Place::AnyMember, self.number(inner)));
                }
                "propertyNames" => step.below.push((Place::Name, self.number(inner))),
                "items" | "prefixItems" | "additionalItems" | "contains" | "unevaluatedItems" => {
                    let all: &[Value] = match inner {
                        Value::Array(all) => all,
                        one => std::slice::from_ref(one),
                    };
                    for one in all {
                        step.below.push((Place::Element, self.number(one)));
                    }
                }
                _ => {}
            }
        }
        step
    }

    /// All that a reference within the document can lead to.
    fn targets(&self, reference: &str) -> Vec<&'a Value> {
        let place = reference.trim_start_matches('#');
        if place.is_empty() {
            return self.roots.clone();
        }
        if !place.starts_with('/') {
            return self.anchors.get(place).cloned().unwrap_or_default();
        }
        let decoded = decoded(place);
        let roots = self.roots.iter();
        roots.filter_map(|root| root.pointer(&decoded)).collect()
    }
}

/// The schemas in a list, or under the names of an object.
fn inside(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(all) => all.iter().collect(),
        Value::Object(all) => all.values().collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

/// `%24` as `$`; what is no such code stays as it is.
fn decoded(place: &str) -> String {
    let mut bytes = Vec::with_capacity(place.len());
    let mut left = place.as_bytes();
    while let Some((&byte, rest)) = left.split_first() {
        let code = rest
            .get(..2)
            .filter(|code| byte == b'%' && code.iter().all(u8::is_ascii_hexdigit))
            .and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        bytes.push(code.unwrap_or(byte));
        left = rest
            .get(if code.is_some() { 2 } else { 0 }..)
            .unwrap_or_default();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
