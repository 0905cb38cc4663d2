//! The keys that verify tokens, and where they come from (EDGE-03).
//!
//! - [`material`]: one key, from a file or an environment variable.
//! - [`set`]: what a JWK set says, key by key; which of them can be used.
//! - [`source`]: a set that changes: what it held last, and how old that is.
//! - [`fetch`]: a set over HTTP.
//! - [`upkeep`]: the tasks that keep sets fresh.
//!
//! A key is found by issuer and `kid`, serves one algorithm, and is public wherever it can be. Looking
//! one up never waits: for a key that is unknown somebody else asks. Must not know what a token says
//! beyond these two names.

mod fetch;
mod material;
mod set;
mod source;
mod upkeep;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use tokio::sync::watch;

pub use self::material::{SECRET_BYTES_MIN, secret_of};
use self::source::Source;
use crate::config::{self, KeyAlgorithm};

/// Longest `kid` that is looked up.
const KEY_ID_BYTES_MAX: usize = 128;

/// Why a key, or a set of keys, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file or variable cannot be read.
    #[error("auth key {id}: cannot read {place}: {reason}")]
    Unreadable {
        /// The key.
        id: String,
        /// Where it should be.
        place: String,
        /// Why not.
        reason: String,
    },
    /// The secret can be guessed.
    #[error(
        "auth key {id}: {place} holds {found} bytes; HS256 needs a secret of at least {SECRET_BYTES_MIN} random bytes (`openssl rand -hex 32`)"
    )]
    ShortSecret {
        /// The key.
        id: String,
        /// Where it is.
        place: String,
        /// Its length.
        found: usize,
    },
    /// Not a public key for this algorithm.
    #[error("auth key {id}: {place} must hold {wanted} in PEM form")]
    NotAPublicKey {
        /// The key.
        id: String,
        /// Where it is.
        place: String,
        /// What it should hold.
        wanted: &'static str,
    },
    /// Two keys of one name.
    #[error("auth key {id} is there twice; ids must be unique")]
    Twice {
        /// The name.
        id: String,
    },
    /// No place, or two.
    #[error("auth key {id}: say either file or env")]
    Place {
        /// The key.
        id: String,
    },
    /// A set that cannot be used.
    #[error("{name}: {reason}")]
    Set {
        /// The setting.
        name: String,
        /// Why.
        reason: String,
    },
}

/// A key, ready to verify.
pub(super) struct Key {
    pub(super) issuer: Arc<str>,
    pub(super) id: String,
    pub(super) algorithm: KeyAlgorithm,
    pub(super) decoding: DecodingKey,
    pub(super) validation: Validation,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {:?}", self.issuer, self.id, self.algorithm)
    }
}

/// Whose tokens a key is for.
#[derive(Clone, Debug)]
struct Parties {
    issuer: Arc<str>,
    audience: Arc<str>,
}

impl Key {
    /// Times are checked by the verifier, against the clock that is passed in; everything else by
    /// the library.
    fn new(parties: &Parties, id: String, algorithm: KeyAlgorithm, decoding: DecodingKey) -> Self {
        let mut validation = Validation::new(algorithm.library());
        validation.set_issuer(&[&*parties.issuer]);
        validation.set_audience(&[&*parties.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Self {
            issuer: Arc::clone(&parties.issuer),
            id,
            algorithm,
            decoding,
            validation,
        }
    }
}

/// Why there is no key for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// No key is of this issuer.
    Issuer,
    /// The issuer has none of this id, or several and none is named.
    Id,
    /// The issuer's set has not been fetched yet.
    NotYet,
    /// The issuer's set could not be fetched for too long.
    Stale,
}

/// All keys.
#[derive(Debug)]
pub(super) struct Keys {
    /// Those of the settings.
    listed: Vec<Arc<Key>>,
    /// Those that come and go.
    sources: Vec<Arc<Source>>,
}

impl Keys {
    /// Reads all that does not come over a network.
    pub(super) fn new(auth: &config::Auth) -> Result<Self, Vec<KeyError>> {
        let mut errors = Vec::new();
        let mut listed: Vec<Arc<Key>> = Vec::new();
        let parties = Parties {
            issuer: auth.issuer.as_str().into(),
            audience: auth.audience.as_str().into(),
        };
        let mut ids = HashSet::new();
        for entry in &auth.keys {
            let id = entry.id.clone();
            if !ids.insert(id.clone()) {
                errors.push(KeyError::Twice { id });
                continue;
            }
            match material::decoding_key(entry) {
                Ok(decoding) => {
                    let key = Key::new(&parties, id, entry.algorithm, decoding);
                    listed.push(Arc::new(key));
                }
                Err(error) => errors.push(error),
            }
        }
        let mut sources = Vec::new();
        for (index, entry) in auth.jwks.iter().enumerate() {
            match Source::open(index, entry, auth, &parties) {
                Ok(source) => sources.push(Arc::new(source)),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(Self { listed, sources })
        } else {
            Err(errors)
        }
    }

    /// The key of `issuer` that is called `id`. Where several places have one, the first in the
    /// order of the settings, the listed ones before the sets: a token is never tried with two.
    pub(super) fn find(
        &self,
        issuer: &str,
        id: Option<&str>,
        now: Instant,
    ) -> Result<Arc<Key>, Absent> {
        let listed = || self.listed.iter().filter(|key| *key.issuer == *issuer);
        let sources = || self.sources.iter().filter(|set| set.issuer() == issuer);
        if listed().next().is_none() && sources().next().is_none() {
            return Err(Absent::Issuer);
        }
        let Some(id) = id else {
            // One key needs no name, but a set may grow.
            let mut listed = listed();
            return match (listed.next(), listed.next(), sources().next()) {
                (Some(only), None, None) => Ok(Arc::clone(only)),
                _ => Err(Absent::Id),
            };
        };
        if id.len() > KEY_ID_BYTES_MAX {
            return Err(Absent::Id);
        }
        if let Some(key) = listed().find(|key| key.id == id) {
            return Ok(Arc::clone(key));
        }
        let mut absent = Absent::Id;
        for source in sources() {
            match source.find(id, now) {
                Ok(key) => return Ok(key),
                Err(Absent::Id) => {}
                Err(other) => absent = other,
            }
        }
        if absent == Absent::Id {
            sources().for_each(|source| source.want());
        }
        Err(absent)
    }

    /// Starts the tasks that keep the sets fresh, until `draining` turns true.
    pub(super) fn keep_fresh(&self, draining: &watch::Receiver<bool>) {
        for source in &self.sources {
            tokio::spawn(upkeep::run(Arc::clone(source), draining.clone()));
        }
    }

    /// The sets without a usable key, by the names of their settings.
    pub(super) fn missing(&self, now: Instant) -> Vec<&str> {
        let without = self.sources.iter().filter(|source| !source.is_good(now));
        without.map(|source| source.name()).collect()
    }

    /// The sets whose last good state is used because no newer one can be had.
    pub(super) fn failing(&self, now: Instant) -> Vec<&str> {
        let failing = self.sources.iter().filter(|source| source.is_failing());
        let used = failing.filter(|source| source.is_good(now));
        used.map(|source| source.name()).collect()
    }
}

impl KeyAlgorithm {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::RS256 => "RS256",
            Self::ES256 => "ES256",
            Self::EdDSA => "EdDSA",
        }
    }

    const fn library(self) -> Algorithm {
        match self {
            Self::HS256 => Algorithm::HS256,
            Self::RS256 => Algorithm::RS256,
            Self::ES256 => Algorithm::ES256,
            Self::EdDSA => Algorithm::EdDSA,
        }
    }
}

/// A path for an operator's eyes.
fn shown(path: &std::path::Path) -> String {
    path.display().to_string()
}
