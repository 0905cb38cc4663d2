//! Tokens that are not good (EDGE-02; RFC 8725).

use arqonbus::proto::claims::Role;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use super::handshake::answered;
use super::{Case, Group, Stage, case};
use crate::raw::Request;
use crate::support::{claims, now_s};

const INVALID: &str = "401 auth_invalid";

fn segment(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

fn good_claims() -> Value {
    serde_json::to_value(claims("acme", Role::User)).expect("claims")
}

fn good_header() -> Value {
    json!({ "alg": "HS256", "typ": "JWT" })
}

fn signed(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = format!("{}.{}", segment(header), segment(claims));
    let key = EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256);
    format!("{message}.{}", signature.expect("a signature"))
}

/// A token made with the node's own secret.
fn token(
    attack: &'static str,
    outcome: &'static str,
    make: impl Fn(&[u8]) -> String + 'static,
) -> Case {
    case(attack, outcome, move |stage: &Stage| {
        let token = make(&stage.node.dev_secret());
        answered(stage, &Request::upgrade().bearer(&token))
    })
}

/// A good token but for its header.
fn header(attack: &'static str, change: Value) -> Case {
    token(attack, INVALID, move |secret| {
        let mut header = good_header();
        for (name, value) in change.as_object().expect("an object") {
            header[name] = value.clone();
        }
        signed(&header, &good_claims(), secret)
    })
}

/// A good token but for one claim; null takes it out.
fn claim(
    attack: &'static str,
    outcome: &'static str,
    name: &'static str,
    value: impl Fn() -> Value + 'static,
) -> Case {
    token(attack, outcome, move |secret| {
        let mut claims = good_claims();
        match value() {
            Value::Null => drop(claims.as_object_mut().expect("an object").remove(name)),
            value => claims[name] = value,
        }
        signed(&good_header(), &claims, secret)
    })
}

pub(super) fn group() -> Group {
    Group {
        letter: 'T',
        title: "Tokens (RFC 8725)",
        cases: [shapes(), headers(), times(), parties(), rights()]
            .into_iter()
            .flatten()
            .collect(),
    }
}

fn shapes() -> Vec<Case> {
    let whole = |secret: &[u8]| signed(&good_header(), &good_claims(), secret);
    vec![
        token("text that is no token", INVALID, |_| "garbage".into()),
        token("two segments", INVALID, move |secret| {
            let token = whole(secret);
            token.rsplit_once('.').expect("segments").0.to_owned()
        }),
        token("four segments", INVALID, move |secret| {
            format!("{}.x", whole(secret))
        }),
        token("an empty signature", INVALID, move |secret| {
            let token = whole(secret);
            format!("{}.", token.rsplit_once('.').expect("segments").0)
        }),
        token("padding", INVALID, move |secret| {
            format!("{}=", whole(secret))
        }),
        token("the other alphabet of base64", INVALID, |secret| {
            let message = format!(
                "{}.{}",
                STANDARD.encode(json!({"alg": "HS256", "x": "???>>>"}).to_string()),
                segment(&good_claims())
            );
            let key = EncodingKey::from_secret(secret);
            let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256);
            format!("{message}.{}", signature.expect("a signature"))
        }),
        token("9 KB", INVALID, move |secret| {
            format!("{}{}", whole(secret), "A".repeat(9_000))
        }),
        token("another secret", INVALID, |_| {
            signed(&good_header(), &good_claims(), &[7; 32])
        }),
        token("an empty secret", INVALID, |_| {
            signed(&good_header(), &good_claims(), b"")
        }),
        token("a byte of the claims changed", INVALID, move |secret| {
            let token = whole(secret);
            let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
            let mut claims = good_claims();
            claims["role"] = json!("admin");
            parts[1] = segment(&claims);
            parts.join(".")
        }),
    ]
}

fn headers() -> Vec<Case> {
    vec![
        header("`alg: none`", json!({ "alg": "none" })),
        header("`alg: nOnE`", json!({ "alg": "nOnE" })),
        token("`alg: none` without a signature", INVALID, |_| {
            let header = segment(&json!({ "alg": "none" }));
            format!("{header}.{}.", segment(&good_claims()))
        }),
        header(
            "an algorithm that is not the key's (HS512)",
            json!({ "alg": "HS512" }),
        ),
        header(
            "an algorithm of another kind (RS256)",
            json!({ "alg": "RS256" }),
        ),
        token("a public RS256 key as the HS256 secret", INVALID, |_| {
            let path = concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/fixtures/keys/rs256.public.pem"
            );
            let key = std::fs::read(path).expect("a fixture");
            signed(&good_header(), &good_claims(), &key)
        }),
        header("an unknown `kid`", json!({ "kid": "other" })),
        header(
            "a `kid` that is a path",
            json!({ "kid": "../../dev-secret" }),
        ),
        header("`crit`", json!({ "crit": ["x"] })),
        header(
            "the `typ` of another kind of token",
            json!({ "typ": "operator+jwt" }),
        ),
        token(
            "a key of the attacker's, by `jwk` and `jku`",
            INVALID,
            |_| {
                let header = json!({
                    "alg": "HS256", "jku": "http://127.0.0.1:9/",
                    "jwk": { "kty": "oct", "k": "YXR0YWNrZXI" },
                });
                signed(&header, &good_claims(), b"attacker")
            },
        ),
    ]
}

fn times() -> Vec<Case> {
    vec![
        claim("no `exp`", INVALID, "exp", || Value::Null),
        claim("`exp` as a text", INVALID, "exp", || {
            json!((now_s() + 3_600).to_string())
        }),
        claim(
            "expired longer ago than clocks may differ",
            INVALID,
            "exp",
            || json!(now_s() - 31),
        ),
        claim("`nbf` ahead", INVALID, "nbf", || json!(now_s() + 60)),
        claim("`nbf` as a text (CVE-2026-25537)", INVALID, "nbf", || {
            json!("0")
        }),
        claim("`iat` ahead", INVALID, "iat", || json!(now_s() + 60)),
    ]
}

fn parties() -> Vec<Case> {
    vec![
        claim("no `iss`", INVALID, "iss", || Value::Null),
        claim("another `iss`", INVALID, "iss", || json!("evil")),
        claim("no `aud`", INVALID, "aud", || Value::Null),
        claim("another `aud`", INVALID, "aud", || json!("other")),
        claim("a list of `aud` without this node", INVALID, "aud", || {
            json!(["a", "b"])
        }),
        claim("no `sub`", INVALID, "sub", || Value::Null),
        claim("a `sub` with a line end", INVALID, "sub", || json!("a\nb")),
    ]
}

fn rights() -> Vec<Case> {
    const FORBIDDEN: &str = "403 forbidden";
    vec![
        claim("no `tenant`", INVALID, "tenant", || Value::Null),
        claim("a `tenant` that is no name", FORBIDDEN, "tenant", || {
            json!("../acme")
        }),
        claim("the node's own tenant", FORBIDDEN, "tenant", || {
            json!("_node")
        }),
        claim("an unknown `role`", INVALID, "role", || json!("root")),
        claim("65 patterns", INVALID, "pub", || json!(vec!["a"; 65])),
        claim("a pattern that is none", FORBIDDEN, "pub", || {
            json!(["a..b"])
        }),
    ]
}
