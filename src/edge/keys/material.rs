//! One key, as it lies in a file or in an environment variable.

use std::path::Path;

use jsonwebtoken::DecodingKey;

use super::{KeyError, shown};
use crate::config::{KeyAlgorithm, KeyEntry};

/// Shortest HS256 secret: as long as the hash, as RFC 7518 section 3.2 wants.
pub const SECRET_BYTES_MIN: usize = 32;
/// An RSA public key of 2048 bits is never shorter than its modulus.
pub(super) const RSA_BYTES_MIN: usize = 2048 / 8;
/// An uncompressed point of P-256.
const P256_BYTES: usize = 65;
pub(super) const ED25519_BYTES: usize = 32;

/// What `entry` names, checked.
pub(super) fn decoding_key(entry: &KeyEntry) -> Result<DecodingKey, KeyError> {
    let id = entry.id.clone();
    let (bytes, place) = match (&entry.file, &entry.env) {
        (Some(file), None) => (from_file(&id, file)?, shown(file)),
        (None, Some(name)) => (from_variable(&id, name)?, variable(name)),
        (None, None) | (Some(_), Some(_)) => return Err(KeyError::Place { id }),
    };
    let (key, bytes_fit, wanted): (_, fn(usize) -> bool, _) = match entry.algorithm {
        KeyAlgorithm::HS256 => {
            let secret = secret_of(&bytes);
            let found = secret.len();
            if found < SECRET_BYTES_MIN {
                return Err(KeyError::ShortSecret { id, place, found });
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
        .ok_or(KeyError::NotAPublicKey { id, place, wanted })
}

fn from_file(id: &str, file: &Path) -> Result<Vec<u8>, KeyError> {
    std::fs::read(file).map_err(|error| KeyError::Unreadable {
        id: id.to_owned(),
        place: shown(file),
        reason: error.to_string(),
    })
}

fn from_variable(id: &str, name: &str) -> Result<Vec<u8>, KeyError> {
    std::env::var(name)
        .map(String::into_bytes)
        .map_err(|error| KeyError::Unreadable {
            id: id.to_owned(),
            place: variable(name),
            // Not the error of one that is no text: it would show what is in it.
            reason: match error {
                std::env::VarError::NotPresent => "it is not set".to_owned(),
                std::env::VarError::NotUnicode(_) => "it is no text".to_owned(),
            },
        })
}

fn variable(name: &str) -> String {
    format!("the environment variable {name}")
}

/// The secret in a secret file: its bytes, without the line end that an editor or `openssl rand`
/// puts there.
#[must_use]
pub fn secret_of(file: &[u8]) -> &[u8] {
    file.trim_ascii_end()
}
