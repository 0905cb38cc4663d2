//! Names that come from outside: tenants, realities, topics, consumers.
//!
//! Owns their rules. A name is never rewritten to fit: it is refused. Tenant and reality names are
//! directory names too, which their alphabet makes safe.

use std::fmt;

pub(super) use crate::proto::topic::is_token_byte;
pub use crate::proto::topic::{
    SYSTEM_TOKEN, is_control as is_control_topic, is_direct as is_direct_topic,
    is_hidden as is_hidden_topic, is_hidden_token, is_reserved as is_reserved_topic,
    is_system as is_system_topic,
};

/// Longest tenant or reality name in bytes.
pub const NAME_BYTES_MAX: usize = 63;
/// Longest topic or filter in bytes.
pub const TOPIC_BYTES_MAX: usize = 255;
/// Most tokens in a topic or filter.
pub const TOPIC_DEPTH_MAX: usize = 32;
/// Longest consumer name in bytes.
pub const CONSUMER_BYTES_MAX: usize = 64;

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// More bytes than allowed.
    #[error("has {found} bytes, more than the limit of {limit}")]
    TooLong {
        /// Bytes found.
        found: usize,
        /// Most that are allowed.
        limit: usize,
    },
    /// More tokens than allowed.
    #[error("has {found} tokens, more than the limit of {limit}")]
    TooDeep {
        /// Tokens found.
        found: usize,
        /// Most that are allowed.
        limit: usize,
    },
    /// Two dots in a row, or one at an end.
    #[error("has an empty token at byte {at}")]
    EmptyToken {
        /// Where.
        at: usize,
    },
    /// A character outside of the alphabet.
    #[error("has {found:?} at byte {at}; allowed are {allowed}")]
    Character {
        /// The character.
        found: char,
        /// Where.
        at: usize,
        /// The alphabet.
        allowed: &'static str,
    },
    /// `>` that is not the last token.
    #[error("has `>` before its end, at byte {at}")]
    RestNotLast {
        /// Where.
        at: usize,
    },
    /// Kept by the node for itself.
    #[error("is reserved")]
    Reserved,
}

const NAME_ALPHABET: &str = "a-z 0-9 _ -, the first a letter or digit";
const TOPIC_ALPHABET: &str = "A-Z a-z 0-9 _ ~ : @ + = - and . between tokens";
const CONSUMER_ALPHABET: &str = "A-Z a-z 0-9 _ ~ : @ + = -";

fn character_at(text: &str, at: usize, allowed: &'static str) -> NameError {
    let found = text
        .char_indices()
        .find(|(index, _)| *index >= at)
        .map_or(char::REPLACEMENT_CHARACTER, |(_, found)| found);
    NameError::Character { found, at, allowed }
}

fn check_name(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong {
            found: text.len(),
            limit: NAME_BYTES_MAX,
        });
    }
    let wrong = text.bytes().enumerate().find(|&(at, byte)| {
        let plain = byte.is_ascii_lowercase() || byte.is_ascii_digit();
        !(plain || (at > 0 && matches!(byte, b'_' | b'-')))
    });
    match wrong {
        Some((at, _)) => Err(character_at(text, at, NAME_ALPHABET)),
        None => Ok(()),
    }
}

/// Checks a topic without keeping it.
///
/// # Errors
/// What is wrong, and where.
pub fn check_topic(text: &str) -> Result<(), NameError> {
    check_tokens(text, TOPIC_ALPHABET, |token| {
        token.bytes().position(|byte| !is_token_byte(byte))
    })
}

/// A single token of a topic.
///
/// # Errors
/// What is wrong, and where.
pub fn check_token(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    match text.bytes().position(|byte| !is_token_byte(byte)) {
        Some(at) => Err(character_at(text, at, CONSUMER_ALPHABET)),
        None => Ok(()),
    }
}

/// The rules that topics and filters share; `wrong_byte` finds what does not belong in a token.
pub(super) fn check_tokens(
    text: &str,
    allowed: &'static str,
    wrong_byte: impl Fn(&str) -> Option<usize>,
) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > TOPIC_BYTES_MAX {
        return Err(NameError::TooLong {
            found: text.len(),
            limit: TOPIC_BYTES_MAX,
        });
    }
    let mut start = 0;
    let mut depth = 0;
    for token in text.split('.') {
        depth += 1;
        if token.is_empty() {
            return Err(NameError::EmptyToken { at: start });
        }
        if let Some(at) = wrong_byte(token) {
            return Err(character_at(text, start + at, allowed));
        }
        start += token.len() + 1;
    }
    if depth > TOPIC_DEPTH_MAX {
        return Err(NameError::TooDeep {
            found: depth,
            limit: TOPIC_DEPTH_MAX,
        });
    }
    Ok(())
}

/// Checks the name of a durable cursor: one topic token, so that it can be one.
///
/// # Errors
/// What is wrong, and where.
pub fn check_consumer(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > CONSUMER_BYTES_MAX {
        return Err(NameError::TooLong {
            found: text.len(),
            limit: CONSUMER_BYTES_MAX,
        });
    }
    match text.bytes().position(|byte| !is_token_byte(byte)) {
        Some(at) => Err(character_at(text, at, CONSUMER_ALPHABET)),
        None => Ok(()),
    }
}

/// Who owns data. One directory each.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(std::sync::Arc<str>);

impl Tenant {
    /// Accepts `^[a-z0-9][a-z0-9_-]{0,62}$`.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn new(name: &str) -> Result<Self, NameError> {
        check_name(name).map(|()| Self(name.into()))
    }

    /// The node itself, which keeps here what outlives every tenant. No token can name it.
    #[must_use]
    pub fn node() -> Self {
        Self("_node".into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tenant({})", self.0)
    }
}

/// One ordered history of a tenant. One log each.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealityName(std::sync::Arc<str>);

impl RealityName {
    /// Name of the reality that an empty name means.
    pub const MAIN: &'static str = "main";
    /// Name of the reality in which the broker keeps its own state.
    pub const SYSTEM: &'static str = "_system";
    /// Name of the reality in which `op.omega` keeps its signals.
    pub const LAB: &'static str = "omega";

    /// Accepts the rule of tenants and [`RealityName::SYSTEM`]; empty means [`RealityName::MAIN`].
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn new(name: &str) -> Result<Self, NameError> {
        match name {
            "" => Ok(Self::main()),
            Self::SYSTEM => Ok(Self::system()),
            _ => check_name(name).map(|()| Self(name.into())),
        }
    }

    /// The reality that an empty name means.
    #[must_use]
    pub fn main() -> Self {
        Self(Self::MAIN.into())
    }

    /// Where the broker keeps the tenant's cursors and statements.
    #[must_use]
    pub fn system() -> Self {
        Self(Self::SYSTEM.into())
    }

    /// Whether it is the broker's own.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.as_str() == Self::SYSTEM
    }

    /// Where signals of the laboratory stand, apart from everything else.
    #[must_use]
    pub fn lab() -> Self {
        Self(Self::LAB.into())
    }

    /// Whether it is the laboratory, which nobody but its operator writes into.
    #[must_use]
    pub fn is_lab(&self) -> bool {
        self.as_str() == Self::LAB
    }

    /// Whether it comes into being when it is first used.
    #[must_use]
    pub fn created_on_use(&self) -> bool {
        self.is_system() || self.as_str() == Self::MAIN
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RealityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RealityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RealityName({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_are_refused_and_never_rewritten() {
        for good in ["a", "0", "dev", "a-b_c", &"x".repeat(63)] {
            assert_eq!(Tenant::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "_node",
            "-a",
            "A",
            "a.b",
            "a/b",
            "..",
            "ä",
            &"x".repeat(64),
        ] {
            assert!(Tenant::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_empty_reality_is_main_and_system_is_its_own() {
        assert_eq!(RealityName::new("").unwrap(), RealityName::main());
        assert!(RealityName::new("_system").unwrap().is_system());
        assert!(RealityName::new("_other").is_err());
        assert!(!RealityName::new("fork-1").unwrap().created_on_use());
    }

    // EDGE-09: topic length and depth at n and n + 1.
    #[test]
    fn topics_have_bounded_length_and_depth() {
        assert_eq!(check_topic(&"a".repeat(255)), Ok(()));
        assert!(matches!(
            check_topic(&"a".repeat(256)),
            Err(NameError::TooLong {
                found: 256,
                limit: 255
            })
        ));
        assert_eq!(check_topic(&["a"; 32].join(".")), Ok(()));
        assert!(matches!(
            check_topic(&["a"; 33].join(".")),
            Err(NameError::TooDeep {
                found: 33,
                limit: 32
            })
        ));
    }

    #[test]
    fn topic_errors_say_where() {
        assert_eq!(check_topic(""), Err(NameError::Empty));
        assert_eq!(check_topic("a..b"), Err(NameError::EmptyToken { at: 2 }));
        assert_eq!(check_topic("a."), Err(NameError::EmptyToken { at: 2 }));
        assert_eq!(
            check_topic("ab.c ").unwrap_err().to_string(),
            "has ' ' at byte 4; allowed are A-Z a-z 0-9 _ ~ : @ + = - and . between tokens"
        );
        assert!(check_topic("a.*").is_err());
        assert!(check_topic("a.ü").is_err());
    }
}
