//! What a JWK set (RFC 7517) says, key by key.
//!
//! A key that cannot be used, or must not be, is passed over and the others serve, as section 5 of
//! the RFC wants: so a key whose private half has been published stops verifying at once, instead of
//! living on in the last good set. Two usable keys of one name make the whole set unusable: nobody
//! could tell which of them a token means.

use std::collections::HashSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::material::{ED25519_BYTES, RSA_BYTES_MIN, SECRET_BYTES_MIN};
use super::{KEY_ID_BYTES_MAX, Key, Parties};
use crate::config::KeyAlgorithm;

/// Largest set that is looked at.
pub(super) const SET_BYTES_MAX: usize = 256 << 10;
const KEYS_MAX: usize = 100;
/// The library takes no larger modulus.
const RSA_BYTES_MAX: usize = 4096 / 8;
const P256_COORDINATE_BYTES: usize = 32;

/// Why a set is unusable as a whole.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("it is no JSON object with a list `keys`")]
    NoSet,
    #[error("it holds {found} keys, limit {KEYS_MAX}")]
    TooMany { found: usize },
    #[error("two of its keys have the same kid; a token could mean either")]
    Twice,
    #[error("it holds no key that can verify tokens: {}", passed_over.join("; "))]
    NoKey { passed_over: Vec<String> },
}

/// Whether secrets may be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Publicity {
    /// Only this node and its operator read it.
    Kept,
    /// Whoever asks may read it: what is secret there is no secret.
    Published,
}

/// What is in a set.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) keys: Vec<Arc<Key>>,
    /// Which keys are not used, and why.
    pub(super) passed_over: Vec<String>,
}

#[derive(Deserialize)]
struct Set<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// The members that matter. Each may be there once.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    k: Option<String>,
    d: Option<serde::de::IgnoredAny>,
    p: Option<serde::de::IgnoredAny>,
    q: Option<serde::de::IgnoredAny>,
}

/// Reads a set.
pub(super) fn read(
    bytes: &[u8],
    publicity: Publicity,
    parties: &Parties,
) -> Result<Contents, Broken> {
    let set: Set<'_> = serde_json::from_slice(bytes).or(Err(Broken::NoSet))?;
    if set.keys.len() > KEYS_MAX {
        let found = set.keys.len();
        return Err(Broken::TooMany { found });
    }
    let mut contents = Contents {
        keys: Vec::new(),
        passed_over: Vec::new(),
    };
    let mut ids = HashSet::new();
    for (index, raw) in set.keys.iter().enumerate() {
        let usable = serde_json::from_str::<Jwk>(raw.get())
            .or(Err("it is no JSON Web Key"))
            .and_then(|jwk| usable(jwk, publicity));
        match usable {
            Ok((id, algorithm, decoding)) => {
                if !ids.insert(id.clone()) {
                    return Err(Broken::Twice);
                }
                let key = Key::new(parties, id, algorithm, decoding);
                contents.keys.push(Arc::new(key));
            }
            Err(reason) => contents
                .passed_over
                .push(format!("keys[{index}]: {reason}")),
        }
    }
    Ok(contents)
}

impl Contents {
    /// What a node needs at its start.
    pub(super) fn some(self) -> Result<Self, Broken> {
        if self.keys.is_empty() {
            let passed_over = self.passed_over;
            return Err(Broken::NoKey { passed_over });
        }
        Ok(self)
    }
}

type Usable = (String, KeyAlgorithm, DecodingKey);

fn usable(jwk: Jwk, publicity: Publicity) -> Result<Usable, &'static str> {
    if jwk.d.is_some() || jwk.p.is_some() || jwk.q.is_some() {
        return Err("its private half is in the set, so that it proves nothing; replace it");
    }
    if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
        return Err("its use is not sig");
    }
    let verifies = |operations: &Vec<String>| operations.iter().any(|one| one == "verify");
    if !jwk.key_ops.as_ref().is_none_or(verifies) {
        return Err("its key_ops do not include verify");
    }
    let (algorithm, decoding) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => (KeyAlgorithm::RS256, rsa(&jwk)),
        ("EC", Some("P-256")) => (KeyAlgorithm::ES256, p256(&jwk)),
        ("OKP", Some("Ed25519")) => (KeyAlgorithm::EdDSA, ed25519(&jwk)),
        ("oct", _) if publicity == Publicity::Published => {
            return Err("it is a secret that everybody can fetch; use a key pair");
        }
        ("oct", _) => (KeyAlgorithm::HS256, secret(&jwk)),
        _ => return Err("its kty or crv is none that verifies here"),
    };
    let named = jwk.alg.as_deref();
    if named.is_some_and(|alg| alg != algorithm.name()) {
        return Err("its alg is not the one that is accepted for its kty and crv");
    }
    // A secret of no stated algorithm may be meant for anything.
    if algorithm == KeyAlgorithm::HS256 && named.is_none() {
        return Err("a secret must say its alg");
    }
    let decoding = decoding?;
    let id = jwk.kid.filter(|id| !id.is_empty()).ok_or("it has no kid")?;
    if id.len() > KEY_ID_BYTES_MAX {
        return Err("its kid is too long");
    }
    Ok((id, algorithm, decoding))
}

fn rsa(jwk: &Jwk) -> Result<DecodingKey, &'static str> {
    let (modulus, exponent) = (decoded(jwk.n.as_ref())?, decoded(jwk.e.as_ref())?);
    let significant = modulus.iter().skip_while(|byte| **byte == 0).count();
    let modulus = modulus
        .get(modulus.len() - significant..)
        .unwrap_or_default();
    // 2048 bits mean that the highest of them is set.
    let short = significant < RSA_BYTES_MIN
        || (significant == RSA_BYTES_MIN && modulus.first().is_none_or(|first| *first < 0x80));
    if short {
        return Err("its modulus has fewer than 2048 bits");
    }
    if significant > RSA_BYTES_MAX {
        return Err("its modulus has more than 4096 bits");
    }
    let exponent_fits = (1..=4).contains(&exponent.len())
        && exponent.last().is_some_and(|last| last % 2 == 1)
        && exponent != [1];
    if !exponent_fits {
        return Err("its exponent is no usual one");
    }
    Ok(DecodingKey::from_rsa_raw_components(modulus, &exponent))
}

fn p256(jwk: &Jwk) -> Result<DecodingKey, &'static str> {
    let (x, y) = (decoded(jwk.x.as_ref())?, decoded(jwk.y.as_ref())?);
    if x.len() != P256_COORDINATE_BYTES || y.len() != P256_COORDINATE_BYTES {
        return Err("its coordinates have not 32 bytes");
    }
    // Whether the point is on the curve is checked with each signature.
    Ok(DecodingKey::from_ec_der(&[&[4], &x[..], &y[..]].concat()))
}

fn ed25519(jwk: &Jwk) -> Result<DecodingKey, &'static str> {
    let x = decoded(jwk.x.as_ref())?;
    if x.len() != ED25519_BYTES {
        return Err("it has not 32 bytes");
    }
    Ok(DecodingKey::from_ed_der(&x))
}

fn secret(jwk: &Jwk) -> Result<DecodingKey, &'static str> {
    let secret = decoded(jwk.k.as_ref())?;
    if secret.len() < SECRET_BYTES_MIN {
        return Err("its secret has fewer than 32 bytes");
    }
    Ok(DecodingKey::from_secret(&secret))
}

fn decoded(text: Option<&String>) -> Result<Vec<u8>, &'static str> {
    let text = text.ok_or("a member that it needs is missing")?;
    let bytes = URL_SAFE_NO_PAD.decode(text);
    bytes.or(Err("a member of it is no base64url"))
}
