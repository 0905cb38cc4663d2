//! The rules of compatibility: what a change from one version of a message to another breaks, on
//! the wire and in the JSON form.
//!
//! Messages are compared by what the bound message reaches, not by file: a type that nothing
//! reaches may go. Each pair of types is compared once, so that types that contain themselves end.

use std::collections::BTreeSet;

use prost_reflect::{
    Cardinality, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor,
};

use super::{Difference, Direction};

/// Most differences that are looked for.
const DIFFERENCES_MAX: usize = 200;

/// What has changed from `old` to `new` that breaks something, or may.
#[must_use]
pub fn compare(old: &MessageDescriptor, new: &MessageDescriptor) -> Vec<Difference> {
    let mut comparison = Comparison::default();
    if old.full_name() != new.full_name() {
        let text = format!(
            "the message was {} and is {}; register another subject for another message",
            old.full_name(),
            new.full_name()
        );
        comparison.note("message.name", "", Some(Direction::Both), text);
    }
    comparison.messages(old, new, "");
    comparison.differences.truncate(DIFFERENCES_MAX);
    comparison.differences
}

#[derive(Default)]
struct Comparison {
    differences: Vec<Difference>,
    /// Pairs of types that have been compared.
    met: BTreeSet<(String, String)>,
}

/// Types whose bytes mean the same number as long as it fits both.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Varint,
    Zigzag,
    Fixed32,
    Fixed64,
    Delimited,
}

fn group(kind: &Kind) -> Option<Group> {
    match kind {
        Kind::Int32 | Kind::Uint32 | Kind::Int64 | Kind::Uint64 | Kind::Bool => Some(Group::Varint),
        Kind::Sint32 | Kind::Sint64 => Some(Group::Zigzag),
        Kind::Fixed32 | Kind::Sfixed32 => Some(Group::Fixed32),
        Kind::Fixed64 | Kind::Sfixed64 => Some(Group::Fixed64),
        Kind::String | Kind::Bytes => Some(Group::Delimited),
        Kind::Double | Kind::Float | Kind::Message(_) | Kind::Enum(_) => None,
    }
}

/// As it is written in a `.proto` file.
fn written(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(described) => described.full_name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

fn join(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

/// The oneof that somebody wrote, not the one behind `optional`.
fn oneof(field: &FieldDescriptor) -> Option<OneofDescriptor> {
    field.containing_oneof().filter(|one| !one.is_synthetic())
}

impl Comparison {
    fn note(
        &mut self,
        rule: &'static str,
        path: &str,
        breaks: Option<Direction>,
        text: impl Into<String>,
    ) {
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(Difference {
                rule,
                path: path.to_owned(),
                breaks,
                text: text.into(),
            });
        }
    }

    fn messages(&mut self, old: &MessageDescriptor, new: &MessageDescriptor, path: &str) {
        let pair = (old.full_name().to_owned(), new.full_name().to_owned());
        if self.differences.len() >= DIFFERENCES_MAX || !self.met.insert(pair) {
            return;
        }
        for was in old.fields() {
            match new.get_field(was.number()) {
                Some(is) => self.fields(&was, &is, &join(path, was.name())),
                None => self.removed(&was, new, &join(path, was.name())),
            }
        }
        for is in new.fields() {
            if old.get_field(is.number()).is_none() {
                self.added(&is, old, &join(path, is.name()));
            }
        }
        self.reservations(old, new, path);
    }

    fn removed(&mut self, was: &FieldDescriptor, new: &MessageDescriptor, path: &str) {
        let (number, name) = (was.number(), was.name());
        let kept = new.reserved_ranges().any(|range| range.contains(&number))
            && new.reserved_names().any(|reserved| reserved == name);
        if !kept {
            let text = format!(
                "field {number} was removed; keep it, or reserve both: `reserved {number};` and \
                 `reserved \"{name}\";`"
            );
            self.note("field.removed", path, Some(Direction::Both), text);
        }
        if was.is_required() {
            let text = "a required field was removed; older readers refuse messages without it";
            self.note("field.required", path, Some(Direction::Forward), text);
        }
    }

    fn added(&mut self, is: &FieldDescriptor, old: &MessageDescriptor, path: &str) {
        if is.is_required() {
            let text = "a required field was added; what is in the log has none: make it optional";
            self.note("field.required", path, Some(Direction::Backward), text);
        }
        if let Some(was) = old.get_field_by_name(is.name()) {
            let text = format!(
                "its number was {} and is {}; numbers are what the bytes hold: keep it",
                was.number(),
                is.number()
            );
            self.note("field.number", path, Some(Direction::Both), text);
        }
    }

    fn reservations(&mut self, old: &MessageDescriptor, new: &MessageDescriptor, path: &str) {
        for was in old.reserved_ranges() {
            let (start, end) = (was.start, was.end);
            let covered = |number: u32| new.reserved_ranges().any(|range| range.contains(&number));
            // The ends of the ranges decide; a gap between begins at the end of one of them.
            let gaps = new.reserved_ranges().map(|range| range.end);
            let gap = std::iter::once(start)
                .chain(gaps)
                .find(|number| (start..end).contains(number) && !covered(*number));
            if let Some(number) = gap {
                let text = format!(
                    "number {number} was reserved and no longer is; a field of an older version \
                     had it: reserve it again"
                );
                self.note("reserved.removed", path, Some(Direction::Both), text);
            }
        }
        for name in old.reserved_names() {
            if !new.reserved_names().any(|reserved| reserved == name) {
                let text = format!(
                    "the name {name:?} was reserved and no longer is; a field of an older version \
                     had it: reserve it again"
                );
                self.note("reserved.removed", path, Some(Direction::Both), text);
            }
        }
    }

    fn fields(&mut self, was: &FieldDescriptor, is: &FieldDescriptor, path: &str) {
        if was.name() != is.name() || was.json_name() != is.json_name() {
            let text = format!(
                "its name was {:?} (in JSON {:?}) and is {:?} ({:?}); keep the name, JSON holds it",
                was.name(),
                was.json_name(),
                is.name(),
                is.json_name()
            );
            self.note("field.name", path, Some(Direction::Both), text);
        }
        if was.is_map() != is.is_map()
            || (was.cardinality() == Cardinality::Repeated)
                != (is.cardinality() == Cardinality::Repeated)
        {
            let called = |field: &FieldDescriptor| {
                if field.is_map() {
                    "a map"
                } else if field.is_list() {
                    "repeated"
                } else {
                    "singular"
                }
            };
            let text = format!(
                "it was {} and is {}; add a field with a number of its own instead",
                called(was),
                called(is)
            );
            self.note("field.cardinality", path, Some(Direction::Both), text);
            return;
        }
        match (was.is_required(), is.is_required()) {
            (false, true) => {
                let text = "it has become required; what is in the log may lack it";
                self.note("field.required", path, Some(Direction::Backward), text);
            }
            (true, false) => {
                let text = "it is no longer required; older readers refuse messages without it";
                self.note("field.required", path, Some(Direction::Forward), text);
            }
            (true, true) | (false, false) => self.presence(was, is, path),
        }
        self.membership(was, is, path);
        if was.is_list() && was.is_packed() != is.is_packed() {
            let text = "packed has changed; every reader that keeps to the rules takes both forms";
            self.note("field.packed", path, None, text);
        }
        self.kinds(was, is, path);
    }

    fn presence(&mut self, was: &FieldDescriptor, is: &FieldDescriptor, path: &str) {
        let in_oneof = oneof(was).is_some() || oneof(is).is_some();
        if was.supports_presence() != is.supports_presence()
            && !in_oneof
            && group(&was.kind()).is_some() == group(&is.kind()).is_some()
        {
            let text = "whether its absence can be told from its zero value has changed; keep \
                        `optional` as it was";
            self.note("field.presence", path, Some(Direction::Both), text);
        }
        let default = |field: &FieldDescriptor| {
            let described = field.field_descriptor_proto();
            described.default_value.clone()
        };
        if default(was) != default(is) {
            let text = "its default value has changed; where it is absent, old and new read \
                        different values: keep it";
            self.note("field.default", path, Some(Direction::Both), text);
        }
    }

    fn membership(&mut self, was: &FieldDescriptor, is: &FieldDescriptor, path: &str) {
        let (from, to) = (oneof(was), oneof(is));
        let text = match (&from, &to) {
            (None, None) => return,
            (Some(from), Some(to)) if from.name() == to.name() => return,
            (Some(from), Some(to)) => {
                // A oneof has no name in the bytes, nor in JSON: its members are what it is.
                let members = |one: &OneofDescriptor, in_other: &MessageDescriptor| {
                    let all = one.fields().map(|field| field.number());
                    let both = all.filter(|number| in_other.get_field(*number).is_some());
                    both.collect::<BTreeSet<u32>>()
                };
                if members(from, is.parent_message()) == members(to, was.parent_message()) {
                    return;
                }
                format!("it moved from oneof {} to {}", from.name(), to.name())
            }
            (Some(from), None) => format!("it moved out of oneof {}", from.name()),
            (None, Some(to)) => {
                let others = to.fields().filter(|field| {
                    field.number() != is.number()
                        && was.parent_message().get_field(field.number()).is_some()
                });
                let alone = others.count() == 0;
                if alone && was.supports_presence() {
                    return;
                }
                format!("it moved into oneof {}", to.name())
            }
        };
        let text =
            format!("{text}; members of a oneof exclude each other, so leave it where it was");
        self.note("field.oneof", path, Some(Direction::Both), text);
    }

    fn kinds(&mut self, was: &FieldDescriptor, is: &FieldDescriptor, path: &str) {
        let (old, new) = (was.kind(), is.kind());
        match (&old, &new) {
            (Kind::Message(old_inner), Kind::Message(new_inner)) => {
                if old_inner.full_name() != new_inner.full_name() && !old_inner.is_map_entry() {
                    let text = format!(
                        "its type was {} and is {}; keep the type's name",
                        old_inner.full_name(),
                        new_inner.full_name()
                    );
                    self.note("field.type", path, Some(Direction::Both), text);
                }
                self.messages(old_inner, new_inner, path);
                return;
            }
            (Kind::Enum(old_inner), Kind::Enum(new_inner)) => {
                if old_inner.full_name() != new_inner.full_name() {
                    let text = format!(
                        "its enum was {} and is {}; keep the enum's name",
                        old_inner.full_name(),
                        new_inner.full_name()
                    );
                    self.note("field.type", path, Some(Direction::Both), text);
                }
                self.enums(old_inner, new_inner, path);
                return;
            }
            _ => {}
        }
        if old == new {
            return;
        }
        let change = format!("its type was {} and is {}", written(&old), written(&new));
        let of_key = was.parent_message().is_map_entry() && was.number() == 1;
        let together = group(&old).filter(|one| group(&new) == Some(*one) && !of_key);
        let is_bool = |kind: &Kind| matches!(kind, Kind::Bool);
        let (breaks, advice) = match together {
            None => (
                Some(Direction::Both),
                "their bytes mean different things: add a field with a number of its own instead",
            ),
            Some(Group::Varint) if is_bool(&old) || is_bool(&new) => (
                Some(Direction::Both),
                "JSON writes them differently: add a field with a number of its own instead",
            ),
            Some(Group::Delimited) if matches!(new, Kind::String) => (
                Some(Direction::Backward),
                "bytes that are no UTF-8 can be in the log, and JSON writes them as base64",
            ),
            Some(Group::Delimited) => (
                Some(Direction::Forward),
                "bytes that are no UTF-8 cannot be read as text, and JSON writes them as base64",
            ),
            Some(Group::Varint | Group::Zigzag | Group::Fixed32 | Group::Fixed64) => (
                None,
                "a number that does not fit both is refused, or read as another one",
            ),
        };
        self.note("field.type", path, breaks, format!("{change}; {advice}"));
    }

    fn enums(&mut self, old: &EnumDescriptor, new: &EnumDescriptor, path: &str) {
        let pair = (old.full_name().to_owned(), new.full_name().to_owned());
        if !self.met.insert(pair) {
            return;
        }
        for was in old.values() {
            let (name, number) = (was.name(), was.number());
            let path = join(path, name);
            match new.get_value_by_name(name) {
                Some(is) if is.number() == number => {}
                Some(is) => {
                    let text = format!("its number was {number} and is {}; keep it", is.number());
                    self.note("enum.number", &path, Some(Direction::Both), text);
                }
                None if new.values().any(|is| is.number() == number) => {
                    let text = format!("{number} has another name now; keep {name}, JSON holds it");
                    self.note("enum.name", &path, Some(Direction::Both), text);
                }
                None => {
                    let kept = new.reserved_ranges().any(|range| range.contains(&number))
                        && new.reserved_names().any(|reserved| reserved == name);
                    if !kept {
                        let text = format!(
                            "the value {number} was removed; keep it, or reserve both: `reserved \
                             {number};` and `reserved \"{name}\";`"
                        );
                        self.note("enum.removed", &path, Some(Direction::Both), text);
                    }
                }
            }
        }
        let (was, is) = (old.default_value(), new.default_value());
        if was.number() != is.number() {
            let text = format!(
                "its first value, which stands for none, was {} and is {}; keep it first",
                was.name(),
                is.name()
            );
            self.note("enum.zero", path, Some(Direction::Both), text);
        }
    }
}
