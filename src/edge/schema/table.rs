//! A message type as the walk over payloads reads it: numbers, kinds and places in a few arrays.
//!
//! Compiled once from descriptors, when a schema comes into force. Knows no payload.

use std::collections::HashMap;

use prost_reflect::{Cardinality, EnumDescriptor, Kind as Described, MessageDescriptor};

/// Fields up to this number are found by one look.
const DENSE_MAX: u32 = 255;
/// Singular fields and oneofs of one message: as many bits as the walk keeps on its stack.
pub const SLOTS_MAX: usize = 2048;
/// Message types that one schema reaches.
const SHAPES_MAX: usize = 4096;
/// No field at this place.
const NONE: u16 = u16::MAX;

/// Why a message type cannot be walked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwalkable {
    /// Groups are not accepted on the wire.
    #[error("{field} is a group; make it a message field")]
    Group {
        /// Full name of the field.
        field: String,
    },
    /// One message is too large.
    #[error("{message} has {found} fields, more than the limit of {limit}; split it")]
    Wide {
        /// Full name of the message.
        message: String,
        /// How many.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// All messages together are too many.
    #[error(
        "{message} reaches more than {SHAPES_MAX} message types; bind a smaller message, or split it"
    )]
    Deep {
        /// Full name of the message.
        message: String,
    },
}

/// A message type and all that it reaches.
#[derive(Debug)]
pub struct Table {
    pub(super) shapes: Box<[Shape]>,
    pub(super) numbers: Box<[Numbers]>,
}

/// One message.
#[derive(Debug)]
pub(super) struct Shape {
    dense: Box<[u16]>,
    /// By number.
    fields: Box<[Field]>,
    pub(super) required: Box<[(u16, Box<str>)]>,
    pub(super) slots: usize,
}

/// One field.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) name: Box<str>,
    pub(super) kind: Kind,
    pub(super) place: Place,
}

/// How often a field may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Once; the bit that notes it.
    Single(u16),
    /// Once, and no other of its oneof; the bit that notes one of them.
    Oneof(u16),
    /// As often as there is room.
    Repeated,
}

/// What a field holds, as far as the bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int32,
    /// `uint32`, and `sint32`, whose zigzag form is one.
    Uint32,
    Varint64,
    Enum(u32),
    Fixed32,
    Fixed64,
    Text,
    Bytes,
    Message(u32),
}

impl Kind {
    pub(super) const fn wire_type(self) -> u8 {
        match self {
            Self::Bool | Self::Int32 | Self::Uint32 | Self::Varint64 | Self::Enum(_) => 0,
            Self::Fixed64 => 1,
            Self::Text | Self::Bytes | Self::Message(_) => 2,
            Self::Fixed32 => 5,
        }
    }
}

/// The numbers of an enum.
#[derive(Debug)]
pub(super) struct Numbers {
    first: i32,
    last: i32,
    gapless: bool,
    all: Box<[i32]>,
}

impl Numbers {
    fn of(described: &EnumDescriptor) -> Self {
        let mut all: Vec<i32> = described.values().map(|value| value.number()).collect();
        all.sort_unstable();
        all.dedup();
        let (first, last) = (
            all.first().copied().unwrap_or(0),
            all.last().copied().unwrap_or(-1),
        );
        let span = i64::from(last) - i64::from(first) + 1;
        Self {
            first,
            last,
            gapless: usize::try_from(span) == Ok(all.len()),
            all: all.into(),
        }
    }

    pub(super) fn contain(&self, number: i32) -> bool {
        if self.gapless {
            return number >= self.first && number <= self.last;
        }
        self.all.binary_search(&number).is_ok()
    }
}

impl Shape {
    pub(super) fn field(&self, number: u32) -> Option<(usize, &Field)> {
        let at = if number <= DENSE_MAX {
            let at = *self.dense.get(usize::try_from(number).ok()?)?;
            if at == NONE {
                return None;
            }
            usize::from(at)
        } else {
            self.fields
                .binary_search_by_key(&number, |field| field.number)
                .ok()?
        };
        Some((at, self.fields.get(at)?))
    }
}

/// What is given numbers while a table is made.
#[derive(Default)]
struct Plan {
    messages: Vec<MessageDescriptor>,
    message_numbers: HashMap<String, u32>,
    enums: Vec<EnumDescriptor>,
    enum_numbers: HashMap<String, u32>,
}

impl Plan {
    fn message(&mut self, described: &MessageDescriptor) -> u32 {
        let next = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        let name = described.full_name().to_owned();
        let number = *self.message_numbers.entry(name).or_insert(next);
        if number == next {
            self.messages.push(described.clone());
        }
        number
    }

    fn numbers(&mut self, described: &EnumDescriptor) -> u32 {
        let next = u32::try_from(self.enums.len()).unwrap_or(u32::MAX);
        let name = described.full_name().to_owned();
        let number = *self.enum_numbers.entry(name).or_insert(next);
        if number == next {
            self.enums.push(described.clone());
        }
        number
    }

    fn kind(&mut self, described: &Described) -> Kind {
        match described {
            Described::Bool => Kind::Bool,
            Described::Int32 => Kind::Int32,
            Described::Uint32 | Described::Sint32 => Kind::Uint32,
            Described::Int64 | Described::Uint64 | Described::Sint64 => Kind::Varint64,
            Described::Float | Described::Fixed32 | Described::Sfixed32 => Kind::Fixed32,
            Described::Double | Described::Fixed64 | Described::Sfixed64 => Kind::Fixed64,
            Described::String => Kind::Text,
            Described::Bytes => Kind::Bytes,
            Described::Message(inner) => Kind::Message(self.message(inner)),
            Described::Enum(inner) => Kind::Enum(self.numbers(inner)),
        }
    }

    fn shape(&mut self, message: &MessageDescriptor) -> Result<Shape, Unwalkable> {
        let found = message.fields().len();
        if found > SLOTS_MAX {
            return Err(Unwalkable::Wide {
                message: message.full_name().to_owned(),
                found,
                limit: SLOTS_MAX,
            });
        }
        let mut slots: u16 = 0;
        let mut oneofs: HashMap<String, u16> = HashMap::new();
        let mut take = || {
            slots += 1;
            slots - 1
        };
        let (mut fields, mut required) = (Vec::with_capacity(found), Vec::new());
        for described in message.fields() {
            if described.is_group() {
                let field = described.full_name().to_owned();
                return Err(Unwalkable::Group { field });
            }
            let oneof = described
                .containing_oneof()
                .filter(|one| !one.is_synthetic());
            let place = match oneof {
                _ if described.cardinality() == Cardinality::Repeated => Place::Repeated,
                None => Place::Single(take()),
                Some(one) => Place::Oneof(
                    *oneofs
                        .entry(one.name().to_owned())
                        .or_insert_with(&mut take),
                ),
            };
            if let (true, Place::Single(slot)) = (described.is_required(), place) {
                required.push((slot, described.name().into()));
            }
            fields.push(Field {
                number: described.number(),
                name: described.name().into(),
                kind: self.kind(&described.kind()),
                place,
            });
        }
        fields.sort_unstable_by_key(|field: &Field| field.number);
        let mut dense = Vec::new();
        for (at, field) in fields.iter().enumerate() {
            if field.number > DENSE_MAX {
                break;
            }
            dense.resize(usize::try_from(field.number).unwrap_or_default(), NONE);
            dense.push(u16::try_from(at).unwrap_or(NONE));
        }
        Ok(Shape {
            dense: dense.into(),
            fields: fields.into(),
            required: required.into(),
            slots: usize::from(slots),
        })
    }
}

impl Table {
    /// Compiles a message type.
    ///
    /// # Errors
    /// It has what the walk does not accept, or too much of it.
    pub fn new(message: &MessageDescriptor) -> Result<Self, Unwalkable> {
        let mut plan = Plan::default();
        plan.message(message);
        let mut shapes = Vec::new();
        while let Some(next) = plan.messages.get(shapes.len()).cloned() {
            if shapes.len() >= SHAPES_MAX {
                let message = message.full_name().to_owned();
                return Err(Unwalkable::Deep { message });
            }
            shapes.push(plan.shape(&next)?);
        }
        Ok(Self {
            shapes: shapes.into(),
            numbers: plan.enums.iter().map(Numbers::of).collect(),
        })
    }
}
