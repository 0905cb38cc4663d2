//! Decides whether a token is good (EDGE-02, RFC 8725).
//!
//! Owns every check between a token's text and its claims. The key decides the algorithm; the token
//! only names the key, by issuer and `kid`. Why a token is refused is for the node's log alone: the
//! peer learns that it is refused. Never waits for a key. Must not know sockets, and never shows a
//! token. The table in docs/security.md goes through RFC 8725 point by point.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use serde::Deserialize;
use tokio::sync::watch;

use super::keys::{Absent, Keys};
pub use super::keys::{KeyError, SECRET_BYTES_MIN, secret_of};
use crate::config::{self, KeyAlgorithm};
use crate::log::Micros;
use crate::proto::claims::Claims;

/// Longest token that is looked at. Above any real one; below a request's header block.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;
const TOKEN_ID_BYTES_MAX: usize = 255;
const PATTERNS_MAX: usize = 64;
/// Kinds of token that may open a session (RFC 8725 section 3.11), in lower case.
const TYPES: [&str; 3] = ["jwt", "at+jwt", "arqon+jwt"];

/// Why a token is refused. For the node's log, never for the peer; quotes nothing of the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too long to be looked at.
    #[error("{bytes} bytes long, limit {TOKEN_BYTES_MAX}")]
    Oversized {
        /// Its length.
        bytes: usize,
    },
    /// Not three segments, or an empty one.
    #[error("not three non-empty segments")]
    Shape,
    /// The header is no JSON object with an algorithm.
    #[error("unreadable header")]
    Header,
    /// The header demands an extension.
    #[error("header has crit")]
    Critical,
    /// The header says that this is another kind of token.
    #[error("typ is not one that opens a session")]
    Type,
    /// The header says that the token is compressed.
    #[error("header has zip")]
    Compressed,
    /// No key of that id, or none given where there are several.
    #[error("no key of this kid")]
    UnknownKey,
    /// The issuer's keys have not been fetched yet: a token like this may be good.
    #[error("the keys of this iss are not there yet")]
    KeysNotYet,
    /// The issuer's keys could not be brought up to date for too long.
    #[error("the keys of this iss are too old to be relied on")]
    KeysStale,
    /// The header's algorithm is not that of the key.
    #[error("alg is not {algorithm:?}, which is the key's")]
    Algorithm {
        /// The key's.
        algorithm: KeyAlgorithm,
    },
    /// Signed by somebody else.
    #[error("bad signature")]
    Signature,
    /// A claim is missing or of the wrong type.
    #[error("a claim is missing or of the wrong type")]
    Claims,
    /// From another issuer.
    #[error("wrong iss")]
    Issuer,
    /// For another audience.
    #[error("wrong aud")]
    Audience,
    /// Over.
    #[error("expired {ago_s} s ago")]
    Expired {
        /// Since when.
        ago_s: u64,
    },
    /// Not begun.
    #[error("nbf or iat is {ahead_s} s ahead")]
    NotYet {
        /// By how much.
        ahead_s: u64,
    },
    /// Lives longer than allowed.
    #[error("lives {lives_s} s, limit {limit_s} s")]
    LongLived {
        /// From issue (or now) to expiry.
        lives_s: u64,
        /// The limit.
        limit_s: u64,
    },
    /// A claim that parses but cannot be used.
    #[error("claim {claim} cannot be used")]
    Unusable {
        /// Which.
        claim: &'static str,
    },
}

/// What the header of a token is looked at for; `jku`, `x5u`, `jwk` and `x5c` are not read at all.
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
    #[serde(default, deserialize_with = "present")]
    zip: bool,
}

/// Also if it is null.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(value).map(|_| true)
}

/// What the claims are looked at for before they are verified: whose key to take. Nothing else is
/// done with it, and the key then insists on its own issuer.
#[derive(Deserialize)]
struct Peek {
    iss: String,
}

/// The keys, ready to verify.
#[derive(Debug)]
pub struct Verifier {
    keys: Keys,
    leeway_s: u64,
    lifetime_max_s: Option<u64>,
    require_iat: bool,
    expiring_lead_s: u64,
}

impl Verifier {
    /// Reads the keys that are at hand. In the development profile a token may live for any time.
    ///
    /// # Errors
    /// Every key that cannot be used.
    pub fn new(auth: &config::Auth, profile: config::Profile) -> Result<Self, Vec<KeyError>> {
        let lifetime_max_s = match profile {
            config::Profile::Development => None,
            config::Profile::Production => Some(auth.lifetime_max_s),
        };
        Ok(Self {
            keys: Keys::new(auth)?,
            leeway_s: auth.leeway_s,
            lifetime_max_s,
            require_iat: auth.require_iat,
            expiring_lead_s: auth.expiring_lead_s,
        })
    }

    /// Fetches the keys that are not at hand, and keeps them up to date until `draining` turns true.
    pub fn keep_fresh(&self, draining: &watch::Receiver<bool>) {
        self.keys.keep_fresh(draining);
    }

    /// The settings of key sets that verify nothing now.
    #[must_use]
    pub fn missing_sets(&self) -> Vec<&str> {
        self.keys.missing(Instant::now())
    }

    /// The settings of key sets that cannot be brought up to date and still verify.
    #[must_use]
    pub fn failing_sets(&self) -> Vec<&str> {
        self.keys.failing(Instant::now())
    }

    /// How long before its end a session's token is to be replaced.
    #[must_use]
    pub const fn expiring_lead(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.expiring_lead_s)
    }

    /// When a session of these claims ends: with the token, or, where the clocks differ so that it
    /// has ended already, with the leeway that let it in.
    #[must_use]
    pub fn ends_at(&self, claims: &Claims, now: Micros) -> Micros {
        let second = |s: u64| Micros(s.saturating_mul(1_000_000));
        let end = second(claims.exp);
        if end > now {
            end
        } else {
            second(claims.exp.saturating_add(self.leeway_s))
        }
    }

    /// The claims of a good token.
    ///
    /// # Errors
    /// Why it is none.
    pub fn verify(&self, token: &str, now: Micros) -> Result<Claims, Refused> {
        let (header, issuer) = examine(token)?;
        let key = self
            .keys
            .find(&issuer, header.kid.as_deref(), Instant::now())
            .map_err(|absent| match absent {
                Absent::Issuer => Refused::Issuer,
                Absent::Id => Refused::UnknownKey,
                Absent::NotYet => Refused::KeysNotYet,
                Absent::Stale => Refused::KeysStale,
            })?;
        if header.alg != key.algorithm.name() {
            return Err(Refused::Algorithm {
                algorithm: key.algorithm,
            });
        }
        let decoded = jsonwebtoken::decode::<Claims>(token, &key.decoding, &key.validation)
            .map_err(|error| refused(error.kind()))?;
        let claims = decoded.claims;
        if self.require_iat && claims.iat.is_none() {
            return Err(Refused::Claims);
        }
        self.check_times(&claims, now.as_millis() / 1000)?;
        check_texts(&claims)?;
        Ok(claims)
    }

    fn check_times(&self, claims: &Claims, now_s: u64) -> Result<(), Refused> {
        if claims.exp.saturating_add(self.leeway_s) <= now_s {
            return Err(Refused::Expired {
                ago_s: now_s - claims.exp,
            });
        }
        for begins in [claims.nbf, claims.iat].into_iter().flatten() {
            if begins > now_s.saturating_add(self.leeway_s) {
                return Err(Refused::NotYet {
                    ahead_s: begins - now_s,
                });
            }
        }
        let lives_s = claims.exp.saturating_sub(claims.iat.unwrap_or(now_s));
        match self.lifetime_max_s {
            Some(limit_s) if lives_s > limit_s => Err(Refused::LongLived { lives_s, limit_s }),
            Some(_) | None => Ok(()),
        }
    }
}

/// The checks that come before any cryptography: the header, and the issuer whose key to take.
fn examine(token: &str) -> Result<(Header, String), Refused> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Refused::Oversized { bytes: token.len() });
    }
    let mut segments = token.split('.');
    let (Some(first), Some(second), Some(third), None) = (
        segments.next(),
        segments.next(),
        segments.next(),
        segments.next(),
    ) else {
        return Err(Refused::Shape);
    };
    if first.is_empty() || second.is_empty() || third.is_empty() {
        return Err(Refused::Shape);
    }
    let json = URL_SAFE_NO_PAD.decode(first).or(Err(Refused::Header))?;
    let header: Header = serde_json::from_slice(&json).or(Err(Refused::Header))?;
    if header.crit {
        return Err(Refused::Critical);
    }
    if header.zip {
        return Err(Refused::Compressed);
    }
    if let Some(typ) = &header.typ
        && !TYPES.contains(&typ.to_ascii_lowercase().as_str())
    {
        return Err(Refused::Type);
    }
    let json = URL_SAFE_NO_PAD.decode(second).or(Err(Refused::Claims))?;
    let peek: Peek = serde_json::from_slice(&json).or(Err(Refused::Claims))?;
    Ok((header, peek.iss))
}

fn check_texts(claims: &Claims) -> Result<(), Refused> {
    if claims.sub.is_empty() || claims.sub.len() > 255 || claims.sub.contains(char::is_control) {
        return Err(Refused::Unusable { claim: "sub" });
    }
    // Nobody could revoke it by its id.
    let unusable = |id: &String| id.is_empty() || id.len() > TOKEN_ID_BYTES_MAX;
    if claims.jti.as_ref().is_some_and(unusable) {
        return Err(Refused::Unusable { claim: "jti" });
    }
    for (claim, patterns) in [("pub", &claims.publish), ("sub_to", &claims.subscribe)] {
        if patterns
            .as_ref()
            .is_some_and(|patterns| patterns.len() > PATTERNS_MAX)
        {
            return Err(Refused::Unusable { claim });
        }
    }
    Ok(())
}

fn refused(kind: &ErrorKind) -> Refused {
    match kind {
        ErrorKind::InvalidSignature => Refused::Signature,
        ErrorKind::InvalidIssuer => Refused::Issuer,
        ErrorKind::InvalidAudience => Refused::Audience,
        // The library's list is open, and includes encodings broken in many ways: all of them say
        // that there is no usable set of claims.
        _ => Refused::Claims,
    }
}

#[cfg(test)]
mod tests;
