//! EDGE-03: sets of keys: which of their keys are used, where they come from, and how long they last.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use jsonwebtoken::jwk::Jwk;
use serde_json::{Value, json};

use super::set::{Broken, Publicity, SET_BYTES_MAX, read};
use super::*;
use crate::config::{Auth, JwksEntry, KeyEntry};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/keys");

fn parties() -> Parties {
    Parties {
        issuer: "issuer".into(),
        audience: "audience".into(),
    }
}

fn jwk(name: &str, algorithm: Algorithm) -> Value {
    let pem = std::fs::read(format!("{FIXTURES}/{name}.private.pem")).expect("a fixture");
    let key = match algorithm {
        Algorithm::RS256 => EncodingKey::from_rsa_pem(&pem),
        Algorithm::ES256 => EncodingKey::from_ec_pem(&pem),
        _ => EncodingKey::from_ed_pem(&pem),
    };
    let jwk = Jwk::from_encoding_key(&key.expect("a key"), algorithm).expect("its public half");
    let mut jwk = serde_json::to_value(jwk).expect("JSON");
    jwk["kid"] = name.into();
    jwk
}

fn es() -> Value {
    jwk("es256", Algorithm::ES256)
}

fn with(mut jwk: Value, name: &str, value: Value) -> Value {
    jwk[name] = value;
    jwk
}

fn without(mut jwk: Value, name: &str) -> Value {
    jwk.as_object_mut().expect("an object").remove(name);
    jwk
}

fn set(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

/// The key's id and algorithm, or why it is passed over.
fn judged(jwk: Value, publicity: Publicity) -> Result<(String, KeyAlgorithm), String> {
    let mut contents = read(&set(&[jwk]), publicity, &parties()).expect("a set");
    match contents.keys.pop() {
        Some(key) => Ok((key.id.clone(), key.algorithm)),
        None => Err(contents.passed_over.concat()),
    }
}

#[test]
fn each_kind_of_key_serves_its_one_algorithm() {
    let published = |jwk| judged(jwk, Publicity::Published);
    let good = |id: &str, algorithm| Ok((id.to_owned(), algorithm));
    let rs = jwk("rs256", Algorithm::RS256);
    let ed = jwk("eddsa", Algorithm::EdDSA);
    assert_eq!(published(rs.clone()), good("rs256", KeyAlgorithm::RS256));
    assert_eq!(
        published(without(rs, "alg")),
        good("rs256", KeyAlgorithm::RS256)
    );
    assert_eq!(published(es()), good("es256", KeyAlgorithm::ES256));
    assert_eq!(published(ed), good("eddsa", KeyAlgorithm::EdDSA));
    let more = with(
        with(es(), "use", json!("sig")),
        "key_ops",
        json!(["verify"]),
    );
    assert!(published(with(more, "x5t", json!("?"))).is_ok());
}

#[test]
fn keys_that_must_not_verify_are_passed_over_by_their_reason() {
    let rs = || jwk("rs256", Algorithm::RS256);
    let oct =
        json!({ "kty": "oct", "kid": "s", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode([7; 32]) });
    let short = URL_SAFE_NO_PAD.encode([0xff; 255]);
    let padded = URL_SAFE_NO_PAD.encode([&[0][..], &[0xff; 255]].concat());
    let cases = [
        (with(es(), "use", json!("enc")), "use"),
        (with(es(), "key_ops", json!(["sign"])), "key_ops"),
        (with(es(), "d", json!("AAAA")), "private half"),
        (with(rs(), "p", json!("AAAA")), "private half"),
        (with(rs(), "alg", json!("RS512")), "alg"),
        (with(rs(), "alg", json!("HS256")), "alg"),
        (with(es(), "alg", json!("none")), "alg"),
        (with(rs(), "n", json!(short)), "2048"),
        (with(rs(), "n", json!(padded)), "2048"),
        (
            with(rs(), "n", json!(URL_SAFE_NO_PAD.encode([0xff; 513]))),
            "4096",
        ),
        (with(rs(), "e", json!("AQ")), "exponent"),
        (with(rs(), "e", json!("AA")), "exponent"),
        (without(rs(), "e"), "missing"),
        (with(rs(), "n", json!("!")), "base64url"),
        (with(es(), "crv", json!("P-384")), "crv"),
        (with(es(), "x", json!("AAAA")), "32 bytes"),
        (with(es(), "kty", json!("PQ")), "kty"),
        (with(es(), "kty", json!(5)), "no JSON Web Key"),
        (without(es(), "kid"), "no kid"),
        (with(es(), "kid", json!("")), "no kid"),
        (with(es(), "kid", json!("x".repeat(129))), "too long"),
        (oct.clone(), "secret"),
        (json!("text"), "no JSON Web Key"),
    ];
    for (jwk, expected) in cases {
        let found = judged(jwk.clone(), Publicity::Published).expect_err("passed over");
        assert!(found.contains(expected), "{expected:?}: {found} of {jwk}");
    }
    // What only the operator reads may hold a secret, if it is one and says for what.
    let kept = |jwk| judged(jwk, Publicity::Kept);
    assert!(kept(oct.clone()).is_ok());
    assert!(kept(without(oct.clone(), "alg")).is_err());
    assert!(kept(with(oct, "k", json!(URL_SAFE_NO_PAD.encode([7; 31])))).is_err());
}

#[test]
fn a_point_that_is_not_on_the_curve_verifies_nothing() {
    let pem = std::fs::read(format!("{FIXTURES}/es256.private.pem")).expect("a fixture");
    let private = EncodingKey::from_ec_pem(&pem).expect("a key");
    let claims =
        json!({ "iss": "issuer", "aud": "audience", "sub": "s", "exp": 9_999_999_999_u64 });
    let header = jsonwebtoken::Header::new(Algorithm::ES256);
    let token = jsonwebtoken::encode(&header, &claims, &private).expect("a token");
    let verified = |jwk: Value| {
        let contents = read(&set(&[jwk]), Publicity::Published, &parties()).expect("a set");
        let key = contents.keys.first().expect("a key");
        jsonwebtoken::decode::<Value>(&token, &key.decoding, &key.validation).is_ok()
    };
    assert!(verified(es()));
    let text = |name: &str| es()[name].as_str().map(str::to_owned).expect("a text");
    let mut y = URL_SAFE_NO_PAD.decode(text("y")).expect("base64url");
    y[31] ^= 1;
    assert!(!verified(with(
        es(),
        "y",
        json!(URL_SAFE_NO_PAD.encode(&y))
    )));
    assert!(!verified(with(es(), "y", json!(text("x")))));
    assert!(!verified(with(
        with(es(), "x", json!("A".repeat(43))),
        "y",
        json!("A".repeat(43))
    )));
}

#[test]
fn a_set_that_nobody_can_rely_on_is_broken_as_a_whole() {
    let broken = |bytes: &[u8]| read(bytes, Publicity::Published, &parties()).err();
    for text in ["", "[]", "{}", "{\"keys\":{}}", "<html>", "{\"keys\":["] {
        assert_eq!(broken(text.as_bytes()), Some(Broken::NoSet), "{text}");
    }
    assert_eq!(broken(&set(&[es(), es()])), Some(Broken::Twice));
    let many = Broken::TooMany { found: 101 };
    assert_eq!(broken(&set(&vec![es(); 101])), Some(many));
    // One bad key does not take the others with it, and an empty set is a set.
    let mixed = set(&[
        with(es(), "use", json!("enc")),
        jwk("rs256", Algorithm::RS256),
    ]);
    let contents = read(&mixed, Publicity::Published, &parties()).expect("a set");
    assert_eq!((contents.keys.len(), contents.passed_over.len()), (1, 1));
    let empty = read(&set(&[]), Publicity::Published, &parties()).expect("a set");
    assert!(matches!(empty.some(), Err(Broken::NoKey { .. })));
}

fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::io::Write::write_all(&mut file, bytes).expect("written");
    file
}

fn of_file(file: &tempfile::NamedTempFile, issuer: &str) -> JwksEntry {
    JwksEntry {
        file: Some(file.path().to_owned()),
        issuer: Some(issuer.to_owned()),
        ..JwksEntry::default()
    }
}

fn keys(jwks: Vec<JwksEntry>) -> Result<Keys, Vec<KeyError>> {
    let listed = KeyEntry {
        id: "listed".into(),
        algorithm: KeyAlgorithm::ES256,
        file: Some(format!("{FIXTURES}/es256.public.pem").into()),
        env: None,
    };
    Keys::new(&Auth {
        keys: vec![listed],
        jwks,
        ..Auth::default()
    })
}

#[test]
fn a_key_is_found_by_issuer_and_id() {
    let one = written(&set(&[es()]));
    let other = written(&set(&[
        jwk("rs256", Algorithm::RS256),
        with(es(), "kid", json!("listed")),
    ]));
    let keys = keys(vec![of_file(&one, "one"), of_file(&other, "other")]).expect("keys");
    let now = Instant::now();
    let find = |issuer: &str, id: Option<&str>| {
        let found = keys.find(issuer, id, now);
        found.map(|key| (key.issuer.to_string(), key.algorithm))
    };
    let own = Auth::default().issuer;
    assert_eq!(
        find(&own, Some("listed")),
        Ok((own.clone(), KeyAlgorithm::ES256))
    );
    assert_eq!(find(&own, None), Ok((own.clone(), KeyAlgorithm::ES256)));
    assert_eq!(
        find("one", Some("es256")),
        Ok(("one".into(), KeyAlgorithm::ES256))
    );
    assert_eq!(
        find("other", Some("listed")),
        Ok(("other".into(), KeyAlgorithm::ES256))
    );
    // Another issuer's key is no key, and a set may grow, so that it always wants a name.
    assert_eq!(find("one", Some("rs256")), Err(Absent::Id));
    assert_eq!(find("one", Some("listed")), Err(Absent::Id));
    assert_eq!(find(&own, Some("es256")), Err(Absent::Id));
    assert_eq!(find("one", None), Err(Absent::Id));
    assert_eq!(find("nobody", Some("es256")), Err(Absent::Issuer));
    assert_eq!(find("one", Some(&"x".repeat(129))), Err(Absent::Id));
}

#[test]
fn a_set_that_cannot_be_brought_up_to_date_ends_after_its_time() {
    let file = written(&set(&[es()]));
    let keys = keys(vec![of_file(&file, "one")]).expect("keys");
    let now = Instant::now();
    let stale = Duration::from_secs(Auth::default().jwks_stale_s);
    assert!(keys.find("one", Some("es256"), now).is_ok());
    assert!(keys.missing(now).is_empty());
    let later = now + stale + Duration::from_secs(1);
    assert_eq!(
        keys.find("one", Some("es256"), later).err(),
        Some(Absent::Stale)
    );
    assert_eq!(keys.missing(later), ["auth.jwks[0]"]);
    assert!(keys.find("arqonbus", Some("listed"), later).is_ok());
}

#[test]
fn what_is_not_fetched_yet_is_told_apart_from_what_is_unknown() {
    let remote = JwksEntry {
        url: Some("http://127.0.0.1:9/jwks".into()),
        issuer: Some("far".into()),
        ..JwksEntry::default()
    };
    let keys = keys(vec![remote]).expect("keys");
    let now = Instant::now();
    assert_eq!(keys.find("far", Some("a"), now).err(), Some(Absent::NotYet));
    assert_eq!(keys.missing(now), ["auth.jwks[0]"]);
}

#[test]
fn settings_of_sets_that_cannot_be_used_are_all_named() {
    let private = written(&set(&[with(es(), "d", json!("AAAA"))]));
    let large = written(&vec![b' '; SET_BYTES_MAX + 1]);
    let no_pem = written(b"nothing");
    let url = |url: &str| JwksEntry {
        url: Some(url.to_owned()),
        ..JwksEntry::default()
    };
    let file = |path: &str| JwksEntry {
        file: Some(path.into()),
        ..JwksEntry::default()
    };
    let cases = [
        (JwksEntry::default(), "either file or url"),
        (
            JwksEntry {
                file: Some("a".into()),
                ..url("https://a.example/jwks")
            },
            "either file or url",
        ),
        (
            JwksEntry {
                ca: Some("a".into()),
                ..file("b")
            },
            "ca is for a url",
        ),
        (url("nonsense"), "its url is none"),
        (url("http://issuer.example/jwks"), "https://"),
        (url("http://10.0.0.1/jwks"), "https://"),
        (url("file:///etc/passwd"), "https://"),
        (
            url("https://user:secret@a.example/"),
            "no user and no password",
        ),
        (
            JwksEntry {
                ca: Some("/nonexistent".into()),
                ..url("https://a.example/")
            },
            "ca cannot be read",
        ),
        (
            JwksEntry {
                ca: Some(no_pem.path().to_owned()),
                ..url("https://a.example/")
            },
            "no certificates",
        ),
        (
            JwksEntry {
                issuer: Some(String::new()),
                ..file("a")
            },
            "issuer",
        ),
        (file("/nonexistent"), "cannot be read"),
        (of_file(&private, "a"), "private half"),
        (of_file(&large, "a"), "more than"),
    ];
    let (entries, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let errors = keys(entries).expect_err("all of them are wrong");
    assert_eq!(errors.len(), expected.len());
    for (index, (error, expected)) in errors.iter().zip(expected).enumerate() {
        let text = error.to_string();
        assert!(text.starts_with(&format!("auth.jwks[{index}]: ")), "{text}");
        assert!(text.contains(expected), "{expected:?}: {text}");
        assert!(!text.contains("secret@"), "{text}");
    }
}

#[test]
fn a_key_has_one_place() {
    let entry = |file: Option<&str>, env: Option<&str>| {
        material::decoding_key(&KeyEntry {
            id: "k".into(),
            algorithm: KeyAlgorithm::HS256,
            file: file.map(Into::into),
            env: env.map(str::to_owned),
        })
        .err()
    };
    for error in [entry(None, None), entry(Some("a"), Some("B"))] {
        assert!(matches!(error, Some(KeyError::Place { .. })), "{error:?}");
    }
    let missing = entry(None, Some("NO_SUCH_VARIABLE_HERE")).expect("an error");
    assert!(
        missing
            .to_string()
            .contains("NO_SUCH_VARIABLE_HERE: it is not set"),
        "{missing}"
    );
}
