//! EDGE-02: every way in which a token can be bad, and the few in which it is good.

use std::io;
use std::path::PathBuf;

use jsonwebtoken::{Algorithm, EncodingKey, encode};
use serde_json::{Value, json};

use super::*;
use crate::config::KeyEntry;

const NOW_S: u64 = 1_800_000_000;
const NOW: Micros = Micros(NOW_S * 1_000_000);
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef0123456789abcdef";
const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/keys");

fn private(name: &str) -> Vec<u8> {
    std::fs::read(format!("{KEYS}/{name}.private.pem")).expect("a fixture")
}

fn entry(id: &str, algorithm: KeyAlgorithm, file: impl Into<PathBuf>) -> KeyEntry {
    KeyEntry {
        id: id.into(),
        algorithm,
        file: Some(file.into()),
        env: None,
    }
}

fn secret_file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    io::Write::write_all(&mut file, bytes).expect("written");
    file
}

fn verifier_of(keys: Vec<KeyEntry>) -> Result<Verifier, Vec<KeyError>> {
    let auth = config::Auth {
        keys,
        ..config::Auth::default()
    };
    Verifier::new(&auth, config::Profile::Production)
}

/// One key of each kind.
fn verifier() -> Verifier {
    let secret = secret_file(SECRET);
    verifier_of(vec![
        entry("hs", KeyAlgorithm::HS256, secret.path()),
        entry(
            "rs",
            KeyAlgorithm::RS256,
            format!("{KEYS}/rs256.public.pem"),
        ),
        entry(
            "es",
            KeyAlgorithm::ES256,
            format!("{KEYS}/es256.public.pem"),
        ),
        entry(
            "ed",
            KeyAlgorithm::EdDSA,
            format!("{KEYS}/eddsa.public.pem"),
        ),
    ])
    .expect("keys")
}

fn claims() -> Value {
    json!({
        "iss": "arqonbus", "aud": "arqonbus", "sub": "alice", "tenant": "acme", "role": "user",
        "iat": NOW_S - 10, "exp": NOW_S + 3600,
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().expect("an object").remove(name);
    claims
}

fn hs_header() -> Value {
    json!({ "alg": "HS256", "kid": "hs", "typ": "JWT" })
}

fn segment(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

/// Signed by `secret` with HMAC, whatever the header claims.
fn hmac(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = format!("{}.{}", segment(header), segment(claims));
    let key = EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256);
    format!("{message}.{}", signature.expect("a signature"))
}

fn signed(claims: &Value) -> String {
    hmac(&hs_header(), claims, SECRET)
}

#[test]
fn every_algorithm_of_the_list_is_verified() {
    let verifier = verifier();
    let signers = [
        (
            "rs",
            Algorithm::RS256,
            EncodingKey::from_rsa_pem(&private("rs256")),
        ),
        (
            "es",
            Algorithm::ES256,
            EncodingKey::from_ec_pem(&private("es256")),
        ),
        (
            "ed",
            Algorithm::EdDSA,
            EncodingKey::from_ed_pem(&private("eddsa")),
        ),
    ];
    for (kid, algorithm, key) in signers {
        let mut header = jsonwebtoken::Header::new(algorithm);
        header.kid = Some(kid.into());
        let token = encode(&header, &claims(), &key.expect("a private key")).expect("a token");
        let found = verifier.verify(&token, NOW).expect("a good token");
        assert_eq!(
            (found.sub.as_str(), found.tenant.as_str()),
            ("alice", "acme")
        );
    }
    assert!(verifier.verify(&signed(&claims()), NOW).is_ok());
}

#[test]
fn claims_that_are_missing_wrong_or_of_another_type_are_refused() {
    let verifier = verifier();
    let cases = [
        ("no exp", without("exp"), Refused::Claims),
        ("no iss", without("iss"), Refused::Claims),
        ("no aud", without("aud"), Refused::Claims),
        ("no sub", without("sub"), Refused::Claims),
        ("no tenant", without("tenant"), Refused::Claims),
        (
            "exp as text",
            with("exp", json!("1900000000")),
            Refused::Claims,
        ),
        ("exp as null", with("exp", Value::Null), Refused::Claims),
        ("exp negative", with("exp", json!(-1)), Refused::Claims),
        ("nbf as text", with("nbf", json!("0")), Refused::Claims),
        (
            "tenant as number",
            with("tenant", json!(1)),
            Refused::Claims,
        ),
        ("unknown role", with("role", json!("root")), Refused::Claims),
        (
            "empty sub",
            with("sub", json!("")),
            Refused::Unusable { claim: "sub" },
        ),
        ("other iss", with("iss", json!("evil")), Refused::Issuer),
        ("other aud", with("aud", json!("other")), Refused::Audience),
        (
            "aud list without us",
            with("aud", json!(["a", "b"])),
            Refused::Audience,
        ),
        ("aud empty list", with("aud", json!([])), Refused::Audience),
        (
            "expired by leeway",
            with("exp", json!(NOW_S - 30)),
            Refused::Expired { ago_s: 30 },
        ),
        (
            "expired long ago",
            with("exp", json!(1)),
            Refused::Expired { ago_s: NOW_S - 1 },
        ),
        (
            "nbf ahead",
            with("nbf", json!(NOW_S + 31)),
            Refused::NotYet { ahead_s: 31 },
        ),
        (
            "iat ahead",
            with("iat", json!(NOW_S + 31)),
            Refused::NotYet { ahead_s: 31 },
        ),
        (
            "lives too long",
            with("exp", json!(NOW_S + 86_391)),
            Refused::LongLived {
                lives_s: 86_401,
                limit_s: 86_400,
            },
        ),
        (
            "expiry as a fraction of the wrong type",
            with("exp", json!([NOW_S + 60])),
            Refused::Claims,
        ),
        ("iat as text", with("iat", json!("1")), Refused::Claims),
        ("iat negative", with("iat", json!(-1)), Refused::Claims),
        ("nbf as list", with("nbf", json!([1])), Refused::Claims),
        ("jti as number", with("jti", json!(7)), Refused::Claims),
        (
            "jti too long",
            with("jti", json!("x".repeat(256))),
            Refused::Unusable { claim: "jti" },
        ),
        (
            "too many patterns",
            with("pub", json!(vec!["a"; PATTERNS_MAX + 1])),
            Refused::Unusable { claim: "pub" },
        ),
    ];
    for (name, claims, expected) in cases {
        assert_eq!(
            verifier.verify(&signed(&claims), NOW),
            Err(expected),
            "{name}"
        );
    }
}

#[test]
fn claims_at_the_edge_of_what_is_allowed_pass() {
    let verifier = verifier();
    let cases = [
        ("expired within the leeway", with("exp", json!(NOW_S - 29))),
        ("nbf within the leeway", with("nbf", json!(NOW_S + 30))),
        ("longest life", with("exp", json!(NOW_S + 86_390))),
        (
            "aud list with us",
            with("aud", json!(["other", "arqonbus"])),
        ),
        ("unknown claims", with("extra", json!({ "a": 1 }))),
    ];
    for (name, claims) in cases {
        assert!(verifier.verify(&signed(&claims), NOW).is_ok(), "{name}");
    }
}

#[test]
fn a_token_without_iat_counts_its_life_from_now() {
    let mut long = without("iat");
    long["exp"] = json!(NOW_S + 86_401);
    let found = verifier().verify(&signed(&long), NOW);
    assert_eq!(
        found,
        Err(Refused::LongLived {
            lives_s: 86_401,
            limit_s: 86_400
        })
    );
}

#[test]
fn headers_that_try_to_choose_their_own_verification_are_refused() {
    let verifier = verifier();
    let rs_public = std::fs::read(format!("{KEYS}/rs256.public.pem")).expect("a fixture");
    let algorithm = |algorithm| Refused::Algorithm { algorithm };
    let header = |change: Value| {
        let mut header = hs_header();
        for (name, value) in change.as_object().expect("an object") {
            header[name] = value.clone();
        }
        header
    };
    let cases = [
        (
            json!({ "alg": "none" }),
            SECRET,
            algorithm(KeyAlgorithm::HS256),
        ),
        (
            json!({ "alg": "None" }),
            SECRET,
            algorithm(KeyAlgorithm::HS256),
        ),
        (
            json!({ "alg": "nOnE" }),
            SECRET,
            algorithm(KeyAlgorithm::HS256),
        ),
        (
            json!({ "alg": "hs256" }),
            SECRET,
            algorithm(KeyAlgorithm::HS256),
        ),
        (
            json!({ "alg": "HS512" }),
            SECRET,
            algorithm(KeyAlgorithm::HS256),
        ),
        (json!({ "alg": 5 }), SECRET, Refused::Header),
        // The public key of another algorithm as an HMAC secret (RFC 8725 section 2.1).
        (
            json!({ "kid": "rs" }),
            &rs_public,
            algorithm(KeyAlgorithm::RS256),
        ),
        (
            json!({ "kid": "rs", "alg": "RS256" }),
            &rs_public,
            Refused::Signature,
        ),
        (
            json!({ "kid": "ed", "alg": "EdDSA" }),
            SECRET,
            Refused::Signature,
        ),
        (json!({}), b"", Refused::Signature),
        (json!({ "kid": "unknown" }), SECRET, Refused::UnknownKey),
        (
            json!({ "kid": "x".repeat(4000) }),
            SECRET,
            Refused::UnknownKey,
        ),
        (json!({ "kid": null }), SECRET, Refused::UnknownKey),
        (json!({ "crit": ["x"] }), SECRET, Refused::Critical),
        (json!({ "crit": null }), SECRET, Refused::Critical),
        (json!({ "zip": "DEF" }), SECRET, Refused::Compressed),
        (json!({ "typ": "operator+jwt" }), SECRET, Refused::Type),
    ];
    for (change, secret, expected) in cases {
        let token = hmac(&header(change.clone()), &claims(), secret);
        assert_eq!(verifier.verify(&token, NOW), Err(expected), "{change}");
    }
}

#[test]
fn a_key_that_the_header_brings_along_is_not_looked_at() {
    let header = json!({
        "alg": "HS256", "kid": "hs",
        "jku": "http://127.0.0.1:9/keys", "x5u": "http://127.0.0.1:9/x",
        "jwk": { "kty": "oct", "k": URL_SAFE_NO_PAD.encode("attacker") },
    });
    let verifier = verifier();
    assert_eq!(
        verifier.verify(&hmac(&header, &claims(), b"attacker"), NOW),
        Err(Refused::Signature)
    );
}

#[test]
fn texts_that_are_no_token_are_refused_before_they_are_decoded() {
    let verifier = verifier();
    let good = signed(&claims());
    let (message, signature) = good.rsplit_once('.').expect("segments");
    let (first, second) = message.split_once('.').expect("segments");
    let cases = [
        (String::new(), Refused::Shape),
        ("garbage".into(), Refused::Shape),
        ("..".into(), Refused::Shape),
        (format!("{message}."), Refused::Shape),
        (message.to_owned(), Refused::Shape),
        (format!("{good}.x"), Refused::Shape),
        (format!("!!!.{second}.{signature}"), Refused::Header),
        (format!("{first}=.{second}.{signature}"), Refused::Header),
        (
            format!("{}.{second}.{signature}", segment(&json!([1]))),
            Refused::Header,
        ),
        (format!("{first}.{second}.{signature}="), Refused::Claims),
        (format!("{first}.{second}.AAAA"), Refused::Signature),
        (
            format!(
                "{first}.{}.{signature}",
                segment(&with("role", json!("admin")))
            ),
            Refused::Signature,
        ),
        ("x".repeat(1 << 20), Refused::Oversized { bytes: 1 << 20 }),
        (
            format!("{}.{second}.{signature}", "A".repeat(TOKEN_BYTES_MAX)),
            Refused::Oversized {
                bytes: TOKEN_BYTES_MAX + second.len() + signature.len() + 2,
            },
        ),
    ];
    for (token, expected) in cases {
        let shown: String = token.chars().take(40).collect();
        assert_eq!(verifier.verify(&token, NOW), Err(expected), "{shown}");
    }
}

#[test]
fn a_claim_that_is_there_twice_is_refused() {
    let header = segment(&hs_header());
    let claims = claims().to_string();
    let twice = claims.replacen('{', r#"{"iss":"evil","#, 1);
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(twice));
    let key = EncodingKey::from_secret(SECRET);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256);
    let token = format!("{message}.{}", signature.expect("a signature"));
    assert_eq!(verifier().verify(&token, NOW), Err(Refused::Claims));
}

// EDGE-05
#[test]
fn a_token_must_say_when_it_was_issued_where_that_is_wanted() {
    let secret = secret_file(SECRET);
    let auth = config::Auth {
        keys: vec![entry("hs", KeyAlgorithm::HS256, secret.path())],
        require_iat: true,
        ..config::Auth::default()
    };
    let verifier = Verifier::new(&auth, config::Profile::Production).expect("a key");
    assert!(verifier.verify(&signed(&claims()), NOW).is_ok());
    let found = verifier.verify(&signed(&without("iat")), NOW);
    assert_eq!(found, Err(Refused::Claims));
}

// EDGE-04
#[test]
fn a_session_ends_with_its_token_or_with_the_leeway_that_let_it_in() {
    let verifier = verifier();
    let ends_s = |exp: u64| {
        let claims = verifier.verify(&signed(&with("exp", json!(exp))), NOW);
        verifier
            .ends_at(&claims.expect("a good token"), NOW)
            .as_millis()
            / 1000
    };
    assert_eq!(ends_s(NOW_S + 5), NOW_S + 5);
    assert_eq!(ends_s(NOW_S - 10), NOW_S + 20);
}

#[test]
fn a_single_key_needs_no_kid() {
    let secret = secret_file(SECRET);
    let verifier =
        verifier_of(vec![entry("only", KeyAlgorithm::HS256, secret.path())]).expect("a key");
    let token = hmac(&json!({ "alg": "HS256" }), &claims(), SECRET);
    assert!(verifier.verify(&token, NOW).is_ok());
    let token = hmac(&hs_header(), &claims(), SECRET);
    assert_eq!(verifier.verify(&token, NOW), Err(Refused::UnknownKey));
}

#[test]
fn a_token_in_development_may_live_for_any_time() {
    let secret = secret_file(SECRET);
    let keys = vec![entry("dev", KeyAlgorithm::HS256, secret.path())];
    let auth = config::Auth {
        keys,
        ..config::Auth::default()
    };
    let verifier = Verifier::new(&auth, config::Profile::Development).expect("a key");
    let token = hmac(
        &json!({ "alg": "HS256" }),
        &with("exp", json!(NOW_S * 2)),
        SECRET,
    );
    assert!(verifier.verify(&token, NOW).is_ok());
}

#[test]
fn keys_that_cannot_be_used_are_all_named() {
    let short = secret_file(b"0123456789abcdef0123456789abcde\n\n");
    let not_pem = secret_file(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
    let errors = verifier_of(vec![
        entry("short", KeyAlgorithm::HS256, short.path()),
        entry("gone", KeyAlgorithm::HS256, "/nonexistent/secret"),
        entry("broken", KeyAlgorithm::RS256, not_pem.path()),
        entry(
            "weak",
            KeyAlgorithm::RS256,
            format!("{KEYS}/rs256-short.public.pem"),
        ),
        entry(
            "private",
            KeyAlgorithm::EdDSA,
            format!("{KEYS}/eddsa.private.pem"),
        ),
        entry(
            "mixed",
            KeyAlgorithm::ES256,
            format!("{KEYS}/eddsa.public.pem"),
        ),
        entry(
            "good",
            KeyAlgorithm::EdDSA,
            format!("{KEYS}/eddsa.public.pem"),
        ),
        entry(
            "good",
            KeyAlgorithm::EdDSA,
            format!("{KEYS}/eddsa.public.pem"),
        ),
    ])
    .expect_err("unusable keys");
    let text = errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n");
    for id in [
        "short", "gone", "broken", "weak", "private", "mixed", "good",
    ] {
        assert!(
            text.contains(&format!("auth key {id}")),
            "{id} is missing in {text}"
        );
    }
    assert_eq!(errors.len(), 7, "{text}");
    assert!(text.contains("31 bytes"), "{text}");
}

// REL-12: a token is judged by the clock of the moment, and nothing of an earlier one is kept.
#[test]
fn a_token_follows_the_clock_wherever_it_jumps() {
    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;
    let verifier = verifier();
    // From ten seconds ago to an hour from now.
    let token = signed(&with("nbf", json!(NOW_S - 10)));
    let at = |now_s: u64| {
        let found = verifier.verify(&token, Micros(now_s * 1_000_000));
        found.map(|claims| claims.sub)
    };
    let good = || Ok("alice".to_owned());
    let expired = |ago_s| Err(Refused::Expired { ago_s });
    let not_yet = |ahead_s| Err(Refused::NotYet { ahead_s });
    let jumps = [
        ("as it was issued", NOW_S, good()),
        ("hours forward", NOW_S + 5 * HOUR, expired(4 * HOUR)),
        ("and back again", NOW_S, good()),
        ("to the last second", NOW_S + HOUR + 29, good()),
        ("beyond the leeway", NOW_S + HOUR + 30, expired(30)),
        (
            "years forward",
            NOW_S + 4000 * DAY,
            expired(4000 * DAY - HOUR),
        ),
        ("back to before its issue", NOW_S - 40, good()),
        ("a second further", NOW_S - 41, not_yet(31)),
        ("hours back", NOW_S - 5 * HOUR, not_yet(5 * HOUR - 10)),
        ("to a clock that is not set", 0, not_yet(NOW_S - 10)),
        ("and to the right time", NOW_S, good()),
    ];
    for (jump, now_s, expected) in jumps {
        assert_eq!(at(now_s), expected, "{jump}");
    }
    let end_of_time = verifier.verify(&token, Micros(u64::MAX));
    assert!(matches!(end_of_time, Err(Refused::Expired { .. })));
}

// REL-12: a clock that is behind makes a token without `iat` live longer, up to the limit and no
// further.
#[test]
fn a_clock_behind_does_not_stretch_a_token_beyond_the_longest_life() {
    let verifier = verifier();
    let token = signed(&without("iat"));
    let at = |now_s: u64| verifier.verify(&token, Micros(now_s * 1_000_000));
    let ends_s = NOW_S + 3600;
    assert!(at(ends_s - 86_400).is_ok());
    for behind_s in [86_401, 20 * 365 * 86_400, ends_s] {
        let long = Refused::LongLived {
            lives_s: behind_s,
            limit_s: 86_400,
        };
        assert_eq!(at(ends_s - behind_s), Err(long));
    }
}
