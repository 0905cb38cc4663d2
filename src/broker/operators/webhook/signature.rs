//! Signatures of webhooks: Standard Webhooks 1.0 (OPS-05).
//!
//! Owns secrets in their text form, and the header that is made with them. What is signed is
//! `{id}.{timestamp}.{body}`. Two schemes: `v1`, HMAC-SHA-256 with a secret that both sides have
//! (`whsec_`), and `v1a`, Ed25519 with a key (`whsk_`) whose public half (`whpk_`) verifies.
//! Secrets are never shown by `Debug`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

const SHARED: &str = "whsec_";
const PRIVATE: &str = "whsk_";
const PUBLIC: &str = "whpk_";
const SHARED_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
const SHARED_BYTES_MADE: usize = 32;
const SEED_BYTES: usize = 32;

/// How events are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// `v1`: HMAC-SHA-256.
    Hmac,
    /// `v1a`: Ed25519.
    Ed25519,
}

impl Scheme {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "hmac" => Some(Self::Hmac),
            "ed25519" => Some(Self::Ed25519),
            _ => None,
        }
    }
}

/// Why a text is no secret. Quotes nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoSecret {
    /// It begins otherwise.
    #[error(
        "it must begin with whsec_, or with whsk_ for an Ed25519 key; leave it out to have one made"
    )]
    Prefix,
    /// What follows is no base64.
    #[error("what follows its prefix must be base64")]
    Base64,
    /// Too short or too long.
    #[error("a whsec_ secret holds 24 to 64 bytes, a whsk_ key 32, or 64 with its public half")]
    Length,
    /// Private and public half belong to different keys.
    #[error("its public half belongs to another key")]
    Halves,
    /// The system's source of chance failed.
    #[error("none could be made: the system gives no random bytes")]
    Chance,
}

/// A secret that signs.
pub(super) struct Secret {
    text: String,
    key: Key,
}

enum Key {
    Shared(hmac::Key),
    Pair(Box<Ed25519KeyPair>),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// A new one.
    pub(super) fn generate(scheme: Scheme) -> Result<Self, NoSecret> {
        let (prefix, mut bytes) = match scheme {
            Scheme::Hmac => (SHARED, vec![0; SHARED_BYTES_MADE]),
            Scheme::Ed25519 => (PRIVATE, vec![0; SEED_BYTES]),
        };
        let filled = SystemRandom::new().fill(&mut bytes);
        filled.map_err(|ring::error::Unspecified| NoSecret::Chance)?;
        Self::parse(&format!("{prefix}{}", BASE64.encode(&bytes)))
    }

    pub(super) fn parse(text: &str) -> Result<Self, NoSecret> {
        let decode = |rest: &str| BASE64.decode(rest).map_err(|_not_base64| NoSecret::Base64);
        let key = if let Some(rest) = text.strip_prefix(SHARED) {
            let bytes = decode(rest)?;
            if !SHARED_BYTES.contains(&bytes.len()) {
                return Err(NoSecret::Length);
            }
            Key::Shared(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
        } else if let Some(rest) = text.strip_prefix(PRIVATE) {
            let bytes = decode(rest)?;
            let (seed, public) = bytes.split_at_checked(SEED_BYTES).ok_or(NoSecret::Length)?;
            let pair = Ed25519KeyPair::from_seed_unchecked(seed);
            let pair = pair.map_err(|_rejected: ring::error::KeyRejected| NoSecret::Length)?;
            match public.len() {
                0 => {}
                SEED_BYTES if public == pair.public_key().as_ref() => {}
                SEED_BYTES => return Err(NoSecret::Halves),
                _ => return Err(NoSecret::Length),
            }
            Key::Pair(Box::new(pair))
        } else {
            return Err(NoSecret::Prefix);
        };
        let text = text.to_owned();
        Ok(Self { text, key })
    }

    /// All of it, for its owner's eyes once and for the log.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) const fn scheme(&self) -> Scheme {
        match self.key {
            Key::Shared(_) => Scheme::Hmac,
            Key::Pair(_) => Scheme::Ed25519,
        }
    }

    /// What verifies, where it is no secret.
    pub(super) fn public(&self) -> Option<String> {
        match &self.key {
            Key::Shared(_) => None,
            Key::Pair(pair) => Some(format!(
                "{PUBLIC}{}",
                BASE64.encode(pair.public_key().as_ref())
            )),
        }
    }

    fn sign(&self, signed: &[u8]) -> String {
        match &self.key {
            Key::Shared(key) => format!("v1,{}", BASE64.encode(hmac::sign(key, signed).as_ref())),
            Key::Pair(pair) => format!("v1a,{}", BASE64.encode(pair.sign(signed).as_ref())),
        }
    }
}

/// The header `webhook-signature`: one signature of each secret, so that while one replaces another
/// either verifies.
pub(super) fn header<'a>(
    secrets: impl Iterator<Item = &'a Secret>,
    id: &str,
    timestamp_s: u64,
    body: &[u8],
) -> String {
    let mut signed = format!("{id}.{timestamp_s}.").into_bytes();
    signed.extend_from_slice(body);
    let signatures: Vec<_> = secrets.map(|secret| secret.sign(&signed)).collect();
    signatures.join(" ")
}

#[cfg(test)]
mod tests {
    use ring::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    /// The example of the specification.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIME: u64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;

    // OPS-05
    #[test]
    fn the_specifications_example_comes_out() {
        let secret = Secret::parse(SECRET).unwrap();
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(header([&secret].into_iter(), ID, TIME, BODY), expected);
        let other = Secret::generate(Scheme::Hmac).unwrap();
        let both = header([&secret, &other].into_iter(), ID, TIME, BODY);
        assert_eq!(both.split(' ').count(), 2);
        assert!(both.starts_with(expected));
        assert_ne!(header([&secret].into_iter(), ID, TIME + 1, BODY), expected);
        assert_ne!(header([&secret].into_iter(), "msg_", TIME, BODY), expected);
    }

    // OPS-05
    #[test]
    fn the_public_half_verifies() {
        let secret = Secret::generate(Scheme::Ed25519).unwrap();
        let public = secret.public().unwrap();
        let public = BASE64.decode(public.strip_prefix(PUBLIC).unwrap()).unwrap();
        let made = header([&secret].into_iter(), ID, TIME, BODY);
        let made = BASE64.decode(made.strip_prefix("v1a,").unwrap()).unwrap();
        let signed = [format!("{ID}.{TIME}.").as_bytes(), BODY].concat();
        let key = UnparsedPublicKey::new(&ED25519, &public);
        assert!(key.verify(&signed, &made).is_ok());
        assert!(key.verify(b"else", &made).is_err());
        // With its public half behind it, it is the same key.
        let seed = secret.text().strip_prefix(PRIVATE).unwrap();
        let mut both = BASE64.decode(seed).unwrap();
        both.extend_from_slice(&public);
        let long = Secret::parse(&format!("{PRIVATE}{}", BASE64.encode(&both))).unwrap();
        assert_eq!(long.public(), secret.public());
        both[40] ^= 1;
        let wrong = Secret::parse(&format!("{PRIVATE}{}", BASE64.encode(&both)));
        assert_eq!(wrong.unwrap_err(), NoSecret::Halves);
    }

    // OPS-05
    #[test]
    fn secrets_are_checked_and_never_shown() {
        let short = format!("{SHARED}{}", BASE64.encode([1; 23]));
        let long = format!("{SHARED}{}", BASE64.encode([1; 65]));
        for (text, fault) in [
            ("", NoSecret::Prefix),
            ("secret", NoSecret::Prefix),
            ("whpk_AAAA", NoSecret::Prefix),
            ("whsec_*", NoSecret::Base64),
            (&short, NoSecret::Length),
            (&long, NoSecret::Length),
            ("whsk_AAAA", NoSecret::Length),
        ] {
            assert_eq!(Secret::parse(text).unwrap_err(), fault, "{text}");
        }
        let made = Secret::generate(Scheme::Hmac).unwrap();
        assert_eq!(made.scheme(), Scheme::Hmac);
        assert_ne!(made.text(), Secret::generate(Scheme::Hmac).unwrap().text());
        assert_eq!(format!("{made:?}"), "Secret(..)");
    }
}
