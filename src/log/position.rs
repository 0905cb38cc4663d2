//! Positions in a log and in its files. Nothing here is a bare integer, so that a sequence is
//! never taken for a byte offset, nor an inclusive bound for an exclusive one.

use std::fmt;

/// Position of a record in one log: from 1, strictly increasing, never reused.
///
/// A name ending in `_end` is exclusive (the first sequence that is *not* covered); `first` and
/// `last` are inclusive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(u64);

impl Sequence {
    /// The sequence of the first record of a log.
    pub const FIRST: Self = Self(1);
    /// Beyond every record.
    pub const MAX: Self = Self(u64::MAX);

    /// `None` for 0, which is no position.
    #[must_use]
    pub const fn new(value: u64) -> Option<Self> {
        if value == 0 { None } else { Some(Self(value)) }
    }

    /// `value`, with 0 taken as the start of the log.
    #[must_use]
    pub const fn at_least_first(value: u64) -> Self {
        if value == 0 { Self::FIRST } else { Self(value) }
    }

    /// The number itself, as it is shown everywhere.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position `count` records further on; stops at [`Sequence::MAX`].
    #[must_use]
    pub const fn advance(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// The following position.
    #[must_use]
    pub const fn next(self) -> Self {
        self.advance(1)
    }

    /// The position before this one; `None` at the start of the log.
    #[must_use]
    pub const fn previous(self) -> Option<Self> {
        Self::new(self.0 - 1)
    }

    /// How many positions lie from `earlier` (inclusive) to `self` (exclusive); 0 if none.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Microseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Micros(pub u64);

impl Micros {
    /// Whole milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }
}

/// Distance in bytes from the start of a segment file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ByteOffset(pub u64);

impl ByteOffset {
    /// The offset `bytes` further on.
    #[must_use]
    pub const fn advance(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

impl fmt::Display for ByteOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where the time in records comes from. Passed in, so that tests decide what time it is.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall clock now. May jump in either direction; the log evens it out.
    fn now(&self) -> Micros;
}
