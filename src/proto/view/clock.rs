//! A vector clock as it stands in an envelope or a record.

use super::wire::{Error, Reader};
use crate::proto::v1;

/// A checked `arqon.v1.VectorClock`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClockView<'a> {
    encoded: &'a [u8],
}

impl<'a> ClockView<'a> {
    pub(super) fn parse(encoded: &'a [u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(encoded);
        while let Some((number, wire)) = reader.key("clock")? {
            match number {
                1 => entry(reader.bytes(wire, "clock.entries")?).map(drop)?,
                _ => reader.skip(number, wire)?,
            }
        }
        Ok(Self { encoded })
    }

    /// The message's bytes: its `entries` fields, one after the other.
    #[must_use]
    pub const fn encoded(&self) -> &'a [u8] {
        self.encoded
    }

    /// The entries in the order they are encoded. Of two with one name the later counts.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, u64)> + Clone + use<'a> {
        let mut reader = Reader::new(self.encoded);
        // `parse` has been over these bytes, so that no error is left to meet here.
        std::iter::from_fn(move || {
            while let Ok(Some((number, wire))) = reader.key("clock") {
                if number == 1 {
                    return entry(reader.bytes(wire, "clock.entries").ok()?).ok();
                }
                reader.skip(number, wire).ok()?;
            }
            None
        })
    }

    /// The clock as a message of its own.
    #[must_use]
    pub fn to_message(self) -> v1::VectorClock {
        let entries = self
            .entries()
            .map(|(name, counter)| (name.to_owned(), counter))
            .collect();
        v1::VectorClock { entries }
    }
}

/// A clock that nobody has checked yet: for a look at very many of them, most of which are decided
/// by their first entries.
#[derive(Clone, Copy, Debug, Default)]
pub struct UncheckedClock<'a> {
    encoded: &'a [u8],
}

impl<'a> UncheckedClock<'a> {
    pub(super) const fn new(encoded: &'a [u8]) -> Self {
        Self { encoded }
    }

    /// The entries in the order they are encoded, up to the first that is malformed.
    pub fn entries(self) -> impl Iterator<Item = Result<(&'a str, u64), Error>> + use<'a> {
        let mut reader = Reader::new(self.encoded);
        let mut next = move || -> Result<Option<(&'a str, u64)>, Error> {
            while let Some((number, wire)) = reader.key("clock")? {
                if number == 1 {
                    return entry(reader.bytes(wire, "clock.entries")?).map(Some);
                }
                reader.skip(number, wire)?;
            }
            Ok(None)
        };
        let mut ended = false;
        std::iter::from_fn(move || {
            if ended {
                return None;
            }
            let found = next().transpose();
            ended = !matches!(found, Some(Ok(_)));
            found
        })
    }
}

#[inline]
fn entry(bytes: &[u8]) -> Result<(&str, u64), Error> {
    let (mut name, mut counter) = ("", 0);
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.key("clock.entries")? {
        match number {
            1 => name = reader.text(wire, "clock.entries.key")?,
            2 => counter = reader.varint(wire, "clock.entries.value")?,
            _ => reader.skip(number, wire)?,
        }
    }
    Ok((name, counter))
}
