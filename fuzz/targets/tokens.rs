//! Target: tokens. None gets in that is not signed by a key of the node, and none that is signed
//! gets in with claims outside of the rules.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use arqonbus::config::{Auth, KeyAlgorithm, KeyEntry, Profile};
use arqonbus::edge::token::{TOKEN_BYTES_MAX, Verifier, secret_of};
use arqonbus::log::Micros;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};

const NOW_S: u64 = 1_800_000_000;
const SECRET: &[u8] = include_bytes!("../../tests/fixtures/keys/hs256.secret");
/// A public key, which a careless verifier takes for a secret (RFC 8725 section 2.1).
const PUBLIC: &[u8] = include_bytes!("../../tests/fixtures/keys/rs256.public.pem");

/// The first byte says what the others are: a token's text, or header and claims (with a NUL
/// between them) to be signed by the node's secret or by another.
///
/// # Panics
/// Something does not hold.
pub fn token(data: &[u8]) {
    let Some((&form, rest)) = data.split_first() else {
        return;
    };
    let (text, signed) = match form % 4 {
        0 => (String::from_utf8_lossy(rest).into_owned(), false),
        1 => (made(rest, secret_of(SECRET)), true),
        2 => (made(rest, PUBLIC), false),
        _ => (made(rest, b""), false),
    };
    match verifier().verify(&text, Micros(NOW_S * 1_000_000)) {
        Ok(claims) => {
            // The corpus holds no token text with a signature by the node's keys.
            assert!(signed, "admitted without a good signature: {text}");
            let auth = Auth::default();
            assert!(text.len() <= TOKEN_BYTES_MAX);
            assert_eq!(claims.iss, auth.issuer);
            assert!(claims.aud.contains(&auth.audience), "{:?}", claims.aud);
            assert!(!claims.sub.is_empty());
            assert!(claims.exp + auth.leeway_s > NOW_S, "{claims:?}");
            let begins = claims.nbf.max(claims.iat).unwrap_or(0);
            assert!(begins <= NOW_S + auth.leeway_s, "{claims:?}");
            let lives_s = claims.exp - claims.iat.unwrap_or(NOW_S).min(claims.exp);
            assert!(lives_s <= auth.lifetime_max_s, "{claims:?}");
        }
        Err(refused) => {
            let why = refused.to_string();
            assert!(why.len() < 100, "a refusal that quotes the token: {why}");
        }
    }
}

fn made(header_and_claims: &[u8], secret: &[u8]) -> String {
    let mut parts = header_and_claims.splitn(2, |&byte| byte == 0);
    let mut segment = || URL_SAFE_NO_PAD.encode(parts.next().unwrap_or_default());
    let message = format!("{}.{}", segment(), segment());
    let key = EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256);
    format!("{message}.{}", signature.expect("a signature"))
}

fn verifier() -> &'static Verifier {
    static VERIFIER: OnceLock<Verifier> = OnceLock::new();
    VERIFIER.get_or_init(|| {
        let entry = |id: &str, algorithm, file: &str| KeyEntry {
            id: id.to_owned(),
            algorithm,
            file: Some(keys().join(file)),
            env: None,
        };
        let auth = Auth {
            keys: vec![
                entry("hs", KeyAlgorithm::HS256, "hs256.secret"),
                entry("rs", KeyAlgorithm::RS256, "rs256.public.pem"),
                entry("es", KeyAlgorithm::ES256, "es256.public.pem"),
                entry("ed", KeyAlgorithm::EdDSA, "eddsa.public.pem"),
            ],
            ..Auth::default()
        };
        Verifier::new(&auth, Profile::Production).expect("keys of the fixtures")
    })
}

/// This file belongs to two crates, of which one lies a folder deeper.
fn keys() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = if env!("CARGO_PKG_NAME") == "arqonbus-fuzz" {
        here.parent().unwrap_or(here)
    } else {
        here
    };
    root.join("tests/fixtures/keys")
}
