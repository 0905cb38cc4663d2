//! Whether one version of a message reads what another has written, in bytes and in JSON.
//!
//! - [`Mode`]: which versions a new one is held against, and in which direction.
//! - `rules`: the rules themselves, over two descriptors.
//!
//! Knows no registry and no payload.

mod rules;
#[cfg(test)]
mod tests;

use std::fmt;

pub use self::rules::compare;
use crate::proto::v1::SchemaMode;

/// What a new version of a subject is held against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    None,
    /// It reads what the version before it has written.
    Backward,
    /// It reads what any version before it has written.
    BackwardTransitive,
    /// What it writes is read by the version before it.
    Forward,
    /// What it writes is read by every version before it.
    ForwardTransitive,
    /// Both, with the version before it.
    Full,
    /// Both, with every version before it: a log is replayed from its beginning.
    #[default]
    FullTransitive,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Backward,
        Self::BackwardTransitive,
        Self::Forward,
        Self::ForwardTransitive,
        Self::Full,
        Self::FullTransitive,
    ];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Backward => "BACKWARD",
            Self::BackwardTransitive => "BACKWARD_TRANSITIVE",
            Self::Forward => "FORWARD",
            Self::ForwardTransitive => "FORWARD_TRANSITIVE",
            Self::Full => "FULL",
            Self::FullTransitive => "FULL_TRANSITIVE",
        }
    }

    /// The one that is written so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let same = |mode: &Self| mode.as_str().eq_ignore_ascii_case(text);
        Self::ALL.into_iter().find(same)
    }

    /// As it is stored.
    #[must_use]
    pub const fn stored(self) -> SchemaMode {
        match self {
            Self::None => SchemaMode::None,
            Self::Backward => SchemaMode::Backward,
            Self::BackwardTransitive => SchemaMode::BackwardTransitive,
            Self::Forward => SchemaMode::Forward,
            Self::ForwardTransitive => SchemaMode::ForwardTransitive,
            Self::Full => SchemaMode::Full,
            Self::FullTransitive => SchemaMode::FullTransitive,
        }
    }

    /// The one that is stored so; `None` for one of a newer node.
    #[must_use]
    pub fn of_stored(stored: i32) -> Option<Self> {
        let stored = SchemaMode::try_from(stored).ok()?;
        Self::ALL.into_iter().find(|mode| mode.stored() == stored)
    }

    /// Whether every version before the new one counts, and not the last alone.
    #[must_use]
    pub const fn is_transitive(self) -> bool {
        matches!(
            self,
            Self::BackwardTransitive | Self::ForwardTransitive | Self::FullTransitive
        )
    }

    /// Whether a change that breaks in `direction` is refused.
    #[must_use]
    pub const fn forbids(self, direction: Direction) -> bool {
        match self {
            Self::None => false,
            Self::Backward | Self::BackwardTransitive => {
                matches!(direction, Direction::Backward | Direction::Both)
            }
            Self::Forward | Self::ForwardTransitive => {
                matches!(direction, Direction::Forward | Direction::Both)
            }
            Self::Full | Self::FullTransitive => true,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who no longer understands whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The new version does not read what the old one has written.
    Backward,
    /// The old version does not read what the new one writes.
    Forward,
    /// Neither reads the other.
    Both,
}

impl Direction {
    /// As it is told.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backward => "backward",
            Self::Forward => "forward",
            Self::Both => "both",
        }
    }
}

/// A change that breaks something, or may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Stable name of the rule: `field.type`.
    pub rule: &'static str,
    /// From the message's root: `lines.sku`; of an enum, with the value.
    pub path: String,
    /// What it breaks; `None` if it only may surprise.
    pub breaks: Option<Direction>,
    /// What has changed, and what to do instead.
    pub text: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self.path.as_str() {
            "" => "the message",
            path => path,
        };
        write!(f, "{path}: {} ({})", self.text, self.rule)
    }
}
