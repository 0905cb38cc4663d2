//! Holds a protobuf payload against its table, byte by byte, without decoding it.
//!
//! Stricter than a decoder: a field that the schema does not know, a singular field that stands
//! twice, a second member of a oneof, a number outside its type, an enum value without a name and
//! a group are violations, because two parsers can read them differently. A payload that fits costs
//! no allocation; one that does not is walked a second time to say where.

use std::collections::BTreeMap;

use super::table::{Field, Kind, Place, SLOTS_MAX, Table};
use super::violation::{TOLD_MAX, Violation};
use crate::config::UnknownFields as Unknown;

/// Messages inside messages, the payload itself included.
pub const DEPTH_MAX: usize = 32;
const WORDS_MAX: usize = SLOTS_MAX / 64;
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;
const FIXED32: u8 = 5;

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    UnknownField(u32),
    WireType { wanted: u8, found: u8 },
    Truncated,
    Overlong,
    Key,
    Group,
    Utf8,
    Twice,
    Oneof,
    EnumValue(i32),
    Range(&'static str),
    Packed,
    Depth,
    Required,
}

impl Wrong {
    const fn rule(self) -> &'static str {
        match self {
            Self::UnknownField(_) => "field.unknown",
            Self::WireType { .. } => "wire.type",
            Self::Truncated => "wire.truncated",
            Self::Overlong => "wire.varint",
            Self::Key => "wire.key",
            Self::Group => "wire.group",
            Self::Utf8 => "string.utf8",
            Self::Twice => "field.once",
            Self::Oneof => "oneof.once",
            Self::EnumValue(_) => "enum.unknown",
            Self::Range(_) => "number.range",
            Self::Packed => "packed.length",
            Self::Depth => "message.depth",
            Self::Required => "field.required",
        }
    }

    fn detail(self) -> String {
        match self {
            Self::UnknownField(number) => format!("field {number} is not in this version"),
            Self::WireType { wanted, found } => {
                format!("wire type {found} where {wanted} belongs")
            }
            Self::Truncated => "the bytes end inside it".to_owned(),
            Self::Overlong => "a number of more than 64 bits".to_owned(),
            Self::Key => "bytes that are no key of a field".to_owned(),
            Self::Group => "a group, which is not accepted".to_owned(),
            Self::Utf8 => "not valid UTF-8".to_owned(),
            Self::Twice => "stands twice, and may stand once".to_owned(),
            Self::Oneof => "a second member of its oneof".to_owned(),
            Self::EnumValue(_) => "a number that its enum does not name".to_owned(),
            Self::Range(of) => format!("a number outside {of}"),
            Self::Packed => "packed numbers whose bytes do not divide evenly".to_owned(),
            Self::Depth => format!("deeper than {DEPTH_MAX} messages"),
            Self::Required => "is required and missing".to_owned(),
        }
    }
}

/// The walk is over before the end of the payload.
struct Stop;

/// Where the walk is.
struct At<'a> {
    parent: Option<&'a At<'a>>,
    field: &'a Field,
    index: Option<u32>,
}

/// Who is told of what is wrong.
trait Witness {
    /// Counts the elements of the repeated fields of one message.
    type Counts: Default;
    fn next(counts: &mut Self::Counts, field: usize) -> u32;
    fn note(&mut self, at: Option<&At<'_>>, inside: &str, wrong: Wrong) -> Result<(), Stop>;
}

/// Needs to know no more than that there is something.
struct Doorman;

impl Witness for Doorman {
    type Counts = ();

    fn next((): &mut (), _field: usize) -> u32 {
        0
    }

    #[cold]
    fn note(&mut self, _at: Option<&At<'_>>, _inside: &str, _wrong: Wrong) -> Result<(), Stop> {
        Err(Stop)
    }
}

/// Writes down what, and where.
struct Clerk(Vec<Violation>);

impl Witness for Clerk {
    type Counts = BTreeMap<usize, u32>;

    fn next(counts: &mut Self::Counts, field: usize) -> u32 {
        let count = counts.entry(field).or_default();
        *count += 1;
        *count - 1
    }

    fn note(&mut self, at: Option<&At<'_>>, inside: &str, wrong: Wrong) -> Result<(), Stop> {
        let mut parts = Vec::new();
        let mut next = at;
        while let Some(at) = next {
            let name = &at.field.name;
            parts.push(match at.index {
                Some(index) => format!("{name}[{index}]"),
                None => name.to_string(),
            });
            next = at.parent;
        }
        parts.reverse();
        if !inside.is_empty() {
            parts.push(inside.to_owned());
        }
        let path = parts.join(".");
        self.0
            .push(Violation::new(&path, wrong.rule(), wrong.detail()));
        if self.0.len() < TOLD_MAX {
            Ok(())
        } else {
            Err(Stop)
        }
    }
}

/// What is left of a message.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn varint(&mut self) -> Result<u64, Wrong> {
        let (&first, rest) = self.0.split_first().ok_or(Wrong::Truncated)?;
        if first < 0x80 {
            self.0 = rest;
            return Ok(u64::from(first));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, Wrong> {
        let mut value = 0;
        for (at, byte) in self.0.iter().take(10).enumerate() {
            // The tenth byte has room for the last bit alone.
            if at == 9 && *byte > 1 {
                return Err(Wrong::Overlong);
            }
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Ok(value);
            }
        }
        Err(Wrong::Truncated)
    }

    fn take(&mut self, bytes: u64) -> Result<&'a [u8], Wrong> {
        let bytes = usize::try_from(bytes).or(Err(Wrong::Truncated))?;
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(Wrong::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn delimited(&mut self) -> Result<&'a [u8], Wrong> {
        let bytes = self.varint()?;
        self.take(bytes)
    }

    fn skip(&mut self, wire: u8) -> Result<(), Wrong> {
        match wire {
            VARINT => self.varint().map(drop),
            FIXED64 => self.take(8).map(drop),
            LENGTH => self.delimited().map(drop),
            FIXED32 => self.take(4).map(drop),
            3 | 4 => Err(Wrong::Group),
            _ => Err(Wrong::Key),
        }
    }
}

struct Walk<'a, W> {
    table: &'a Table,
    unknown: Unknown,
    witness: W,
}

impl<W: Witness> Walk<'_, W> {
    fn message(
        &mut self,
        shape: u32,
        data: &[u8],
        depth: usize,
        at: Option<&At<'_>>,
    ) -> Result<(), Stop> {
        let table = self.table;
        // Numbers of shapes are given out by the table itself.
        let Some(shape) = usize::try_from(shape)
            .ok()
            .and_then(|shape| table.shapes.get(shape))
        else {
            return Err(Stop);
        };
        if shape.slots <= 64 {
            self.fields::<1>(shape, data, depth, at)
        } else {
            self.fields::<WORDS_MAX>(shape, data, depth, at)
        }
    }

    fn fields<const WORDS: usize>(
        &mut self,
        shape: &super::table::Shape,
        data: &[u8],
        depth: usize,
        at: Option<&At<'_>>,
    ) -> Result<(), Stop> {
        let mut seen = [0_u64; WORDS];
        let mut counts = W::Counts::default();
        let mut cursor = Cursor(data);
        while !cursor.0.is_empty() {
            let key = match cursor.varint() {
                Ok(key) => key,
                Err(wrong) => return self.broken(at, "", wrong),
            };
            let Ok(key) = u32::try_from(key) else {
                return self.broken(at, "", Wrong::Key);
            };
            // Three bits.
            let (number, wire) = (key >> 3, (key & 7) as u8);
            if number == 0 {
                return self.broken(at, "", Wrong::Key);
            }
            let Some((index, field)) = shape.field(number) else {
                if self.unknown == Unknown::Reject {
                    let wrong = Wrong::UnknownField(number);
                    self.witness.note(at, &format!("field {number}"), wrong)?;
                }
                if let Err(wrong) = cursor.skip(wire) {
                    return self.broken(at, "", wrong);
                }
                continue;
            };
            let mut here = At {
                parent: at,
                field,
                index: None,
            };
            match field.place {
                Place::Repeated => {}
                Place::Single(slot) | Place::Oneof(slot) => {
                    let (word, bit) = (usize::from(slot) / 64, 1_u64 << (slot % 64));
                    let known = seen.get_mut(word).ok_or(Stop)?;
                    if *known & bit != 0 {
                        let wrong = match field.place {
                            Place::Oneof(_) => Wrong::Oneof,
                            Place::Single(_) | Place::Repeated => Wrong::Twice,
                        };
                        self.witness.note(Some(&here), "", wrong)?;
                    }
                    *known |= bit;
                }
            }
            let wanted = field.kind.wire_type();
            if wire == wanted {
                if field.place == Place::Repeated {
                    here.index = Some(W::next(&mut counts, index));
                }
                self.value(&mut cursor, field.kind, depth, &here)?;
            } else if wire == LENGTH && field.place == Place::Repeated {
                self.packed(&mut cursor, field.kind, &mut here, &mut counts, index)?;
            } else {
                let found = wire;
                let wrong = Wrong::WireType { wanted, found };
                self.witness.note(Some(&here), "", wrong)?;
                if let Err(wrong) = cursor.skip(wire) {
                    return self.broken(Some(&here), "", wrong);
                }
            }
        }
        for (slot, name) in &shape.required {
            let word = seen.get(usize::from(*slot) / 64).ok_or(Stop)?;
            if word & 1_u64 << (slot % 64) == 0 {
                self.witness.note(at, name, Wrong::Required)?;
            }
        }
        Ok(())
    }

    /// Nothing after it can be told apart.
    #[cold]
    fn broken(&mut self, at: Option<&At<'_>>, inside: &str, wrong: Wrong) -> Result<(), Stop> {
        self.witness.note(at, inside, wrong)?;
        Err(Stop)
    }

    fn value(
        &mut self,
        cursor: &mut Cursor<'_>,
        kind: Kind,
        depth: usize,
        here: &At<'_>,
    ) -> Result<(), Stop> {
        let read = match kind {
            Kind::Fixed32 => cursor.take(4).map(drop),
            Kind::Fixed64 => cursor.take(8).map(drop),
            Kind::Bool | Kind::Int32 | Kind::Uint32 | Kind::Varint64 | Kind::Enum(_) => {
                match cursor.varint() {
                    Ok(number) => return self.number(number, kind, here),
                    Err(wrong) => Err(wrong),
                }
            }
            Kind::Bytes => cursor.delimited().map(drop),
            Kind::Text => match cursor.delimited() {
                Ok(text) if std::str::from_utf8(text).is_err() => {
                    return self.witness.note(Some(here), "", Wrong::Utf8);
                }
                read => read.map(drop),
            },
            Kind::Message(inner) => match cursor.delimited() {
                Ok(_) if depth >= DEPTH_MAX => {
                    return self.witness.note(Some(here), "", Wrong::Depth);
                }
                Ok(data) => return self.message(inner, data, depth + 1, Some(here)),
                Err(wrong) => Err(wrong),
            },
        };
        match read {
            Ok(()) => Ok(()),
            Err(wrong) => self.broken(Some(here), "", wrong),
        }
    }

    fn number(&mut self, number: u64, kind: Kind, here: &At<'_>) -> Result<(), Stop> {
        // Negative numbers of 32 bits travel with their sign extended to 64.
        let int32 = || i32::try_from(number.cast_signed());
        let wrong = match kind {
            Kind::Bool if number > 1 => Wrong::Range("bool, which is 0 or 1"),
            Kind::Int32 if int32().is_err() => Wrong::Range("int32"),
            Kind::Uint32 if u32::try_from(number).is_err() => Wrong::Range("32 bits"),
            Kind::Enum(of) => match int32() {
                Err(_) => Wrong::Range("int32"),
                Ok(_) if self.unknown == Unknown::Keep => return Ok(()),
                Ok(value) => {
                    let numbers = usize::try_from(of)
                        .ok()
                        .and_then(|of| self.table.numbers.get(of));
                    if numbers.is_some_and(|numbers| numbers.contain(value)) {
                        return Ok(());
                    }
                    Wrong::EnumValue(value)
                }
            },
            _ => return Ok(()),
        };
        self.witness.note(Some(here), "", wrong)
    }

    fn packed(
        &mut self,
        cursor: &mut Cursor<'_>,
        kind: Kind,
        here: &mut At<'_>,
        counts: &mut W::Counts,
        field: usize,
    ) -> Result<(), Stop> {
        let data = match cursor.delimited() {
            Ok(data) => data,
            Err(wrong) => return self.broken(Some(here), "", wrong),
        };
        let width = match kind.wire_type() {
            FIXED32 => 4,
            FIXED64 => 8,
            _ => 1,
        };
        if width > 1 {
            if data.len() % width != 0 {
                return self.witness.note(Some(here), "", Wrong::Packed);
            }
            return Ok(());
        }
        let mut packed = Cursor(data);
        while !packed.0.is_empty() {
            here.index = Some(W::next(counts, field));
            match packed.varint() {
                Ok(number) => self.number(number, kind, here)?,
                Err(wrong) => return self.witness.note(Some(here), "", wrong),
            }
        }
        Ok(())
    }
}

impl Table {
    /// Whether `data` is a message of this type.
    #[must_use]
    pub fn fits(&self, data: &[u8], unknown: Unknown) -> bool {
        let mut walk = Walk {
            table: self,
            unknown,
            witness: Doorman,
        };
        walk.message(0, data, 1, None).is_ok()
    }

    /// What is wrong with `data`, up to [`TOLD_MAX`]; empty if it fits.
    #[must_use]
    pub fn violations(&self, data: &[u8], unknown: Unknown) -> Vec<Violation> {
        let mut walk = Walk {
            table: self,
            unknown,
            witness: Clerk(Vec::new()),
        };
        let walked = walk.message(0, data, 1, None);
        debug_assert!(walked.is_ok() || !walk.witness.0.is_empty());
        walk.witness.0
    }
}
