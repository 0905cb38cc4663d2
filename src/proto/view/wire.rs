//! Reads protobuf's wire format field by field, without copying.
//!
//! Stricter than prost in two things, and in nothing looser: groups are rejected, and a message
//! field that occurs twice is rejected instead of merged (no encoder writes either).

/// Why bytes are not the message they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}: {fault}", Place(field, *number))]
pub struct Error {
    /// Path of the field at fault (`headers.key`), or the message while a key is being read.
    pub field: &'static str,
    /// Number of the field where it is one that this version does not know, else 0.
    pub number: u32,
    /// What is wrong with it.
    pub fault: Fault,
}

struct Place<'a>(&'a str, u32);

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self(field, 0) => f.write_str(field),
            Self(field, number) => write!(f, "{field} {number}"),
        }
    }
}

/// What can be wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The message ends inside the field.
    #[error("the message ends inside this field")]
    Truncated,
    /// A varint of more than 64 bits.
    #[error("a number of more than 64 bits")]
    Overlong,
    /// Field number 0 or above 2^29, or a wire type that does not exist.
    #[error("not a valid field key")]
    Key,
    /// The field has another type than the contract gives it.
    #[error("wire type {found} where {expected} belongs")]
    WireType {
        /// Type by the contract.
        expected: u8,
        /// Type in the bytes.
        found: u8,
    },
    /// Protobuf groups, unused since 2008.
    #[error("a group, which this protocol does not use")]
    Group,
    /// A string with invalid UTF-8.
    #[error("not valid UTF-8")]
    Utf8,
    /// A field that may stand once only.
    #[error("occurs twice")]
    Repeated,
    /// Packed numbers whose bytes do not divide evenly.
    #[error("packed numbers of a broken length")]
    Packed,
}

/// How a field is encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wire {
    Varint,
    Fixed64,
    Delimited,
    Group,
    Fixed32,
}

impl Wire {
    const fn code(self) -> u8 {
        match self {
            Self::Varint => 0,
            Self::Fixed64 => 1,
            Self::Delimited => 2,
            Self::Group => 3,
            Self::Fixed32 => 5,
        }
    }
}

#[cold]
pub(super) fn fail(field: &'static str, fault: Fault) -> Error {
    Error {
        field,
        number: 0,
        fault,
    }
}

/// What is left of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Bytes that have not been read.
    pub(super) const fn remaining(&self) -> usize {
        self.0.len()
    }

    /// Number and type of the next field, `None` at the end of `message`.
    #[inline]
    pub(super) fn key(&mut self, message: &'static str) -> Result<Option<(u32, Wire)>, Error> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = u32::try_from(self.number(message)?)
            .ok()
            .filter(|key| key >> 3 != 0)
            .ok_or_else(|| fail(message, Fault::Key))?;
        let wire = match key & 7 {
            0 => Wire::Varint,
            1 => Wire::Fixed64,
            2 => Wire::Delimited,
            3 | 4 => Wire::Group,
            5 => Wire::Fixed32,
            _ => return Err(fail(message, Fault::Key)),
        };
        Ok(Some((key >> 3, wire)))
    }

    /// One and two bytes, which is nearly all keys and lengths, without a call.
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "the heart of the one pass over each envelope"
    )]
    fn number(&mut self, field: &'static str) -> Result<u64, Error> {
        match *self.0 {
            [low, ref rest @ ..] if low < 0x80 => {
                self.0 = rest;
                Ok(u64::from(low))
            }
            [low, high, ref rest @ ..] if high < 0x80 => {
                self.0 = rest;
                Ok(u64::from(low & 0x7f) | u64::from(high) << 7)
            }
            _ => self.long_number(field),
        }
    }

    #[cold]
    fn long_number(&mut self, field: &'static str) -> Result<u64, Error> {
        let mut value = 0_u64;
        for (index, byte) in self.0.iter().take(10).enumerate() {
            // The tenth byte holds bit 63 alone.
            if index == 9 && *byte > 1 {
                return Err(fail(field, Fault::Overlong));
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                self.0 = self.0.get(index + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        Err(fail(field, Fault::Truncated))
    }

    #[inline]
    fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], Error> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| fail(field, Fault::Truncated))?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    fn expect(wire: Wire, expected: Wire, field: &'static str) -> Result<(), Error> {
        if wire == expected {
            return Ok(());
        }
        Err(fail(
            field,
            Fault::WireType {
                expected: expected.code(),
                found: wire.code(),
            },
        ))
    }

    #[inline]
    pub(super) fn varint(&mut self, wire: Wire, field: &'static str) -> Result<u64, Error> {
        Self::expect(wire, Wire::Varint, field)?;
        self.number(field)
    }

    #[inline]
    pub(super) fn bytes(&mut self, wire: Wire, field: &'static str) -> Result<&'a [u8], Error> {
        Self::expect(wire, Wire::Delimited, field)?;
        let length = self.number(field)?;
        // A length that does not fit in memory is longer than the message too.
        self.take(usize::try_from(length).unwrap_or(usize::MAX), field)
    }

    #[inline]
    pub(super) fn text(&mut self, wire: Wire, field: &'static str) -> Result<&'a str, Error> {
        let bytes = self.bytes(wire, field)?;
        std::str::from_utf8(bytes).map_err(|_invalid| fail(field, Fault::Utf8))
    }

    #[inline]
    pub(super) fn fixed64(&mut self, wire: Wire, field: &'static str) -> Result<u64, Error> {
        Self::expect(wire, Wire::Fixed64, field)?;
        let bytes = self.take(8, field)?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    #[inline]
    pub(super) fn fixed32(&mut self, wire: Wire, field: &'static str) -> Result<u32, Error> {
        Self::expect(wire, Wire::Fixed32, field)?;
        let bytes = self.take(4, field)?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    /// Passes over a field that this version does not know (MSG-16).
    pub(super) fn skip(&mut self, number: u32, wire: Wire) -> Result<(), Error> {
        const FIELD: &str = "unknown field";
        match wire {
            Wire::Varint => self.number(FIELD).map(drop),
            Wire::Fixed64 => self.take(8, FIELD).map(drop),
            Wire::Delimited => self.bytes(wire, FIELD).map(drop),
            Wire::Fixed32 => self.take(4, FIELD).map(drop),
            Wire::Group => Err(fail(FIELD, Fault::Group)),
        }
        .map_err(|error| Error { number, ..error })
    }
}

/// Remembers a message field, which may occur once.
#[inline]
pub(super) fn once<T>(slot: &mut Option<T>, value: T, field: &'static str) -> Result<(), Error> {
    if slot.replace(value).is_some() {
        return Err(fail(field, Fault::Repeated));
    }
    Ok(())
}
