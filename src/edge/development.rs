//! What the development profile makes for itself: a secret and a token (EDGE-01).
//!
//! Owns `dev-secret` and `dev-token` in the data directory. Must not be reached in production.

use std::io;
use std::path::{Path, PathBuf};

use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::token::secret_of;
use crate::config::{Auth, KeyAlgorithm, KeyEntry};
use crate::data_dir;
use crate::log::{Micros, fsync};
use crate::proto::claims::{Claims, Role};

/// Tenant of the development token.
pub const TENANT: &str = "dev";
const KEY_ID: &str = "dev";
const SECRET_FILE: &str = "dev-secret";
const TOKEN_FILE: &str = "dev-token";
const TOKEN_LIFETIME_S: u64 = 365 * 24 * 60 * 60;

/// Why the development profile cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("cannot use {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The secret cannot sign.
    #[error("cannot sign the development token")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// The files made.
#[derive(Debug)]
pub struct Credentials {
    /// File with the HS256 secret; `arqon token mint --secret-file` makes more tokens from it.
    pub secret: PathBuf,
    /// File with an admin's token for tenant [`TENANT`].
    pub token: PathBuf,
}

/// Lets tokens live for any time.
pub const fn relax(auth: &mut Auth) {
    auth.lifetime_max_s = u64::MAX;
}

/// Makes the secret, unless it is there, and a fresh token; adds the secret to `auth.keys`.
///
/// # Errors
/// The files cannot be read or written.
pub fn prepare(dir: &Path, auth: &mut Auth, now: Micros) -> Result<Credentials, Error> {
    let secret = dir.join(SECRET_FILE);
    let token = dir.join(TOKEN_FILE);
    let bytes = secret_bytes(&secret).map_err(|source| Error::Io {
        path: secret.clone(),
        source,
    })?;
    let text = mint(&bytes, auth, now)?;
    fsync::replace(&token, text.as_bytes()).map_err(|source| Error::Io {
        path: token.clone(),
        source,
    })?;
    auth.keys.insert(
        0,
        KeyEntry {
            id: KEY_ID.into(),
            algorithm: KeyAlgorithm::HS256,
            file: Some(secret.clone()),
            env: None,
        },
    );
    Ok(Credentials { secret, token })
}

fn secret_bytes(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(secret_of(&bytes).to_vec()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let random: [u8; 32] = data_dir::random()?;
            let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
            fsync::replace(path, hex.as_bytes())?;
            Ok(hex.into_bytes())
        }
        Err(error) => Err(error),
    }
}

fn mint(secret: &[u8], auth: &Auth, now: Micros) -> Result<String, jsonwebtoken::errors::Error> {
    let now_s = now.as_millis() / 1000;
    let claims = Claims {
        iss: auth.issuer.clone(),
        aud: vec![auth.audience.clone()],
        sub: "admin".into(),
        tenant: TENANT.into(),
        role: Role::Admin,
        exp: now_s + TOKEN_LIFETIME_S,
        iat: Some(now_s),
        nbf: None,
        jti: None,
        publish: None,
        subscribe: None,
    };
    let header = Header {
        kid: Some(KEY_ID.into()),
        ..Header::new(Algorithm::HS256)
    };
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret))
}
