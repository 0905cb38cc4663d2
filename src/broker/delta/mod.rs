//! Delta topics: topics declared `delta_only`, on which each record of a key is either a base, all
//! that there is to say of it, or a delta against what was said of it last (MSG-14).
//!
//! - [`Mark`]: what a record says it is, in its header [`HEADER`].
//! - `declared`: which topics of a tenant are delta topics: a fold of its events, and what all its
//!   realities look at.
//! - `chains`: the last record of each key, held against a delta when sequences are given.
//! - `current`: what a new subscriber has to be given of what there is.
//! - `commands`: how topics are declared.
//!
//! Whatever does not follow the record before it ends its key's chain, whoever wrote it: then the
//! node holds no base, and a new one must come. Knows nothing of what deltas say.

mod chains;
pub(super) mod commands;
mod current;
mod declared;
#[cfg(test)]
mod tests;

pub(super) use self::chains::{Chains, Change, Key, Stand};
pub(super) use self::current::Current;
pub(super) use self::declared::{Declarations, Declared};
use crate::proto::view::{EnvelopeView, Payload};

/// Header that says what a record is: `base`, or `on=<sequence>`.
pub(super) const HEADER: &str = "arqon-delta";
/// The same as a part of an envelope.
pub(super) const FIELD: &str = "headers.arqon-delta";

/// What a record on a delta topic is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mark {
    /// All that there is to say of its key.
    Base,
    /// What is different since the record with this sequence.
    On(u64),
}

impl Mark {
    fn read(header: &str) -> Option<Self> {
        if header == "base" {
            return Some(Self::Base);
        }
        let digits = header.strip_prefix("on=")?;
        let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        let on = digits.parse().ok().filter(|on| *on > 0)?;
        is_plain.then_some(Self::On(on))
    }
}

/// What an envelope says of its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Said {
    /// Nothing if it has no such header, or one that means nothing.
    pub(super) mark: Option<Mark>,
    /// It has no data: the key is gone.
    pub(super) ends: bool,
}

impl Said {
    pub(super) fn of(envelope: &EnvelopeView<'_>) -> Self {
        let ends = match envelope.payload {
            Payload::Empty => true,
            Payload::Command { data, .. } | Payload::Event { data, .. } => data.is_empty(),
            Payload::Signal { .. } => false,
        };
        Self {
            mark: envelope.headers.get(HEADER).and_then(Mark::read),
            ends,
        }
    }
}

/// Why an envelope cannot go to a delta topic, whatever stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// It names no key.
    #[error("is needed: the topic is declared delta_only, and a delta is one of something")]
    Key,
    /// It does not say what it is.
    #[error(
        "is needed: the topic is declared delta_only; it is base, or on=<sequence> with the sequence of the record of the same key that the delta is against"
    )]
    Header,
    /// It would come when something else has come.
    #[error("cannot be on a topic declared delta_only: what a delta is against will have changed")]
    Later,
    /// It would be gone while what is against it is there.
    #[error(
        "cannot be on a topic declared delta_only: an envelope without data says that a key is gone"
    )]
    Expires,
}

impl Misfit {
    /// The part of the envelope at fault.
    pub(super) const fn field(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Header => FIELD,
            Self::Later => "deliver_at",
            Self::Expires => "expires_at",
        }
    }
}

/// Holds an envelope for a delta topic against what needs no look at the log.
pub(super) fn check(envelope: &EnvelopeView<'_>, waits: bool) -> Result<Said, Misfit> {
    let said = Said::of(envelope);
    if envelope.key.is_empty() {
        return Err(Misfit::Key);
    }
    if said.mark.is_none() {
        return Err(Misfit::Header);
    }
    if waits {
        return Err(Misfit::Later);
    }
    if envelope.expires_at != 0 {
        return Err(Misfit::Expires);
    }
    Ok(said)
}
