//! Decides whether a token is good (EDGE-02, RFC 8725).
//!
//! Owns the keys and every check between a token's text and its claims. The key decides the
//! algorithm; the token's header only names the key. Why a token is refused is for the node's log
//! alone: the peer learns that it is refused. Must not know sockets, and never shows a token.

use std::io;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

use crate::config::{self, KeyAlgorithm, KeyEntry};
use crate::log::Micros;
use crate::proto::claims::Claims;

/// Longest token that is looked at. Above any real one; below a request's header block.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;
/// Shortest HS256 secret: as long as the hash, as RFC 7518 section 3.2 wants.
pub const SECRET_BYTES_MIN: usize = 32;
/// An RSA public key of 2048 bits is never shorter than its modulus.
const RSA_BYTES_MIN: usize = 2048 / 8;
/// An uncompressed point of P-256.
const P256_BYTES: usize = 65;
const ED25519_BYTES: usize = 32;
const KEY_ID_BYTES_MAX: usize = 128;
const PATTERNS_MAX: usize = 64;
/// Kinds of token that may open a session (RFC 8725 section 3.11), in lower case.
const TYPES: [&str; 3] = ["jwt", "at+jwt", "arqon+jwt"];

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("auth key {id}: cannot read {path}: {source}", path = path.display())]
    Unreadable {
        /// The key.
        id: String,
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The secret can be guessed.
    #[error(
        "auth key {id}: {path} holds {found} bytes; HS256 needs a secret of at least {SECRET_BYTES_MIN} random bytes (`openssl rand -hex 32`)",
        path = path.display()
    )]
    ShortSecret {
        /// The key.
        id: String,
        /// Its file.
        path: PathBuf,
        /// Its length.
        found: usize,
    },
    /// Not a public key for this algorithm.
    #[error("auth key {id}: {path} must hold {wanted} in PEM form", path = path.display())]
    NotAPublicKey {
        /// The key.
        id: String,
        /// Its file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// Two keys of one name.
    #[error("auth key {id} is there twice; ids must be unique")]
    Twice {
        /// The name.
        id: String,
    },
}

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
    /// No key of that id, or none given where there are several.
    #[error("no key of this kid")]
    UnknownKey,
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
    #[serde(default)]
    crit: Option<serde::de::IgnoredAny>,
}

struct Key {
    id: String,
    algorithm: KeyAlgorithm,
    decoding: DecodingKey,
    validation: Validation,
}

/// The keys, ready to verify.
pub struct Verifier {
    keys: Vec<Key>,
    leeway_s: u64,
    lifetime_max_s: Option<u64>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys = self.keys.iter().map(|key| (&key.id, key.algorithm));
        f.debug_list().entries(keys).finish()
    }
}

impl Verifier {
    /// Reads the key files. In the development profile a token may live for any time.
    ///
    /// # Errors
    /// Every key that cannot be used.
    pub fn new(auth: &config::Auth, profile: config::Profile) -> Result<Self, Vec<KeyError>> {
        let mut keys: Vec<Key> = Vec::new();
        let mut errors = Vec::new();
        for entry in &auth.keys {
            if keys.iter().any(|key| key.id == entry.id) {
                errors.push(KeyError::Twice {
                    id: entry.id.clone(),
                });
                continue;
            }
            match decoding_key(entry) {
                Ok(decoding) => keys.push(Key {
                    id: entry.id.clone(),
                    algorithm: entry.algorithm,
                    decoding,
                    validation: validation(auth, entry.algorithm),
                }),
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let lifetime_max_s = match profile {
            config::Profile::Development => None,
            config::Profile::Production => Some(auth.lifetime_max_s),
        };
        Ok(Self {
            keys,
            leeway_s: auth.leeway_s,
            lifetime_max_s,
        })
    }

    /// The claims of a good token.
    ///
    /// # Errors
    /// Why it is none.
    pub fn verify(&self, token: &str, now: Micros) -> Result<Claims, Refused> {
        let header = header(token)?;
        let key = self.key(header.kid.as_deref())?;
        if header.alg != key.algorithm.name() {
            return Err(Refused::Algorithm {
                algorithm: key.algorithm,
            });
        }
        let decoded = jsonwebtoken::decode::<Claims>(token, &key.decoding, &key.validation)
            .map_err(|error| refused(error.kind()))?;
        self.check_times(&decoded.claims, now.as_millis() / 1000)?;
        check_texts(&decoded.claims)?;
        Ok(decoded.claims)
    }

    fn key(&self, id: Option<&str>) -> Result<&Key, Refused> {
        match (id, self.keys.as_slice()) {
            (None, [only]) => Ok(only),
            (None, _) => Err(Refused::UnknownKey),
            (Some(id), keys) => {
                let known = keys.iter().find(|key| key.id == id);
                known
                    .filter(|_| id.len() <= KEY_ID_BYTES_MAX)
                    .ok_or(Refused::UnknownKey)
            }
        }
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

impl KeyAlgorithm {
    const fn name(self) -> &'static str {
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

/// Times are checked by [`Verifier::check_times`], against the clock that is passed in; everything
/// else by the library.
fn validation(auth: &config::Auth, algorithm: KeyAlgorithm) -> Validation {
    let mut validation = Validation::new(algorithm.library());
    validation.set_issuer(&[&auth.issuer]);
    validation.set_audience(&[&auth.audience]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation
}

/// The checks that come before any cryptography.
fn header(token: &str) -> Result<Header, Refused> {
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
    if header.crit.is_some() {
        return Err(Refused::Critical);
    }
    if let Some(typ) = &header.typ
        && !TYPES.contains(&typ.to_ascii_lowercase().as_str())
    {
        return Err(Refused::Type);
    }
    Ok(header)
}

fn check_texts(claims: &Claims) -> Result<(), Refused> {
    if claims.sub.is_empty() || claims.sub.len() > 255 || claims.sub.contains(char::is_control) {
        return Err(Refused::Unusable { claim: "sub" });
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

fn decoding_key(entry: &KeyEntry) -> Result<DecodingKey, KeyError> {
    let (id, path) = (entry.id.clone(), entry.file.clone());
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(source) => return Err(KeyError::Unreadable { id, path, source }),
    };
    let (key, bytes_fit, wanted): (_, fn(usize) -> bool, _) = match entry.algorithm {
        KeyAlgorithm::HS256 => {
            let secret = secret_of(&bytes);
            if secret.len() < SECRET_BYTES_MIN {
                return Err(KeyError::ShortSecret {
                    id,
                    path,
                    found: secret.len(),
                });
            }
            return Ok(DecodingKey::from_secret(secret));
        }
        KeyAlgorithm::RS256 => (
            DecodingKey::from_rsa_pem(&bytes),
            |found| found >= RSA_BYTES_MIN,
            "an RSA public key of at least 2048 bits",
        ),
        KeyAlgorithm::ES256 => (
            DecodingKey::from_ec_pem(&bytes),
            |found| found == P256_BYTES,
            "a public key on the curve P-256",
        ),
        KeyAlgorithm::EdDSA => (
            DecodingKey::from_ed_pem(&bytes),
            |found| found == ED25519_BYTES,
            "an Ed25519 public key",
        ),
    };
    let private = String::from_utf8_lossy(&bytes).contains("PRIVATE KEY");
    key.ok()
        .filter(|key| !private && key.try_get_as_bytes().is_ok_and(|key| bytes_fit(key.len())))
        .ok_or(KeyError::NotAPublicKey { id, path, wanted })
}

/// The secret in a secret file: its bytes, without the line end that an editor or `openssl rand`
/// puts there.
#[must_use]
pub fn secret_of(file: &[u8]) -> &[u8] {
    file.trim_ascii_end()
}

#[cfg(test)]
mod tests;
