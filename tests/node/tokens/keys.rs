//! EDGE-03: keys from files, variables and URLs; how they change, and what holds when they cannot.

use std::path::Path;
use std::time::{Duration, Instant};

use arqonbus::proto::claims::{Claims, Role};
use serde_json::Value;

use super::issuer::{Issuer, Pair, set};
use super::session::{Session, status};
use crate::raw::Request;
use crate::support::{Node, PATIENCE, claims, command, signed, write};

fn user() -> Claims {
    claims("acme", Role::User)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "not {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Replaced as a whole, as whoever renews it would.
fn replace(path: &Path, bytes: &[u8]) {
    let beside = path.with_extension("new");
    write(&beside, bytes);
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's file need not survive a power cut"
    )]
    std::fs::rename(&beside, path).expect("renamed");
}

fn ready(node: &Node) -> (u16, Value) {
    let answer = Request::get("/readyz").send(node.ops);
    (answer.status, answer.json())
}

fn ready_is(node: &Node, status: u16, list: &str, part: &str) -> bool {
    let (found, body) = ready(node);
    found == status && body[list].to_string().contains(part)
}

#[test]
fn keys_of_a_file_change_under_live_sessions() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("jwks.json");
    let (old, new) = (Pair::new("old"), Pair::new("new"));
    replace(&path, set(&[&old]).as_bytes());
    let settings = format!("[{{file=\"{}\"}}]", path.display());
    let node = Node::dev_with(&[
        ("ARQONBUS_AUTH_JWKS", &settings),
        ("ARQONBUS_AUTH_JWKS_POLL_MS", "50"),
    ]);
    let (with_old, with_new) = (old.sign(&user()), new.sign(&user()));
    assert_eq!(
        (status(&node, &with_old), status(&node, &with_new)),
        (101, 401)
    );
    let mut sessions: Vec<Session> = (0..50).map(|_| Session::open(&node, &with_old)).collect();

    replace(&path, set(&[&old, &new]).as_bytes());
    until("rotated", || status(&node, &with_new) == 101);
    assert_eq!(status(&node, &with_old), 101, "both keys overlap");
    sessions.push(Session::open(&node, &with_new));
    replace(&path, set(&[&new]).as_bytes());
    until("retired", || status(&node, &with_old) == 401);

    // A file that says nothing leaves what was good in force, and the operator is told.
    for broken in [&b"{\"keys\":"[..], b""] {
        replace(&path, broken);
        until("noticed", || {
            ready_is(&node, 200, "notices", "keys_old: auth.jwks[0]")
        });
        assert_eq!(status(&node, &with_new), 101);
        replace(&path, set(&[&new]).as_bytes());
        until("good again", || {
            !ready_is(&node, 200, "notices", "keys_old")
        });
    }
    for session in &mut sessions {
        assert!(session.lives(), "no session is dropped by a change of keys");
    }
}

#[test]
fn keys_of_a_url_change_under_live_sessions() {
    let (old, new) = (Pair::new("old"), Pair::new("new"));
    let issuer = Issuer::publishing(&[&old]);
    let settings = format!("[{{url=\"{}\"}}]", issuer.url());
    let node = Node::dev_with(&[("ARQONBUS_AUTH_JWKS", &settings)]);
    let (with_old, with_new) = (old.sign(&user()), new.sign(&user()));
    until("fetched", || status(&node, &with_old) == 101);
    assert_eq!(ready(&node).0, 200);
    let mut sessions: Vec<Session> = (0..50).map(|_| Session::open(&node, &with_old)).collect();
    assert_eq!(issuer.asked(), 1);

    // The first token of a new key has the set fetched, and is good soon after.
    issuer.publish(&[&old, &new]);
    until("fetched again", || status(&node, &with_new) == 101);
    assert_eq!((issuer.asked(), status(&node, &with_old)), (2, 101));
    for session in &mut sessions {
        assert!(session.lives());
    }
}

#[test]
fn a_flood_of_unknown_keys_is_not_passed_on() {
    let pair = Pair::new("known");
    let issuer = Issuer::publishing(&[&pair]);
    let settings = format!("[{{url=\"{}\"}}]", issuer.url());
    let node = Node::dev_with(&[("ARQONBUS_AUTH_JWKS", &settings)]);
    until("fetched", || status(&node, &pair.sign(&user())) == 101);
    let claims = user();
    for number in 0..500 {
        let mut header = pair.header();
        header.kid = Some(format!("random-{number}"));
        assert_eq!(status(&node, &pair.sign_as(&header, &claims)), 401);
    }
    assert!(issuer.asked() <= 2, "{} fetches", issuer.asked());
    assert_eq!(status(&node, &pair.sign(&claims)), 101);
}

// EDGE-02
#[test]
fn a_key_that_a_token_points_to_is_never_fetched() {
    let (known, forged) = (Pair::new("known"), Pair::new("forged"));
    let issuer = Issuer::publishing(&[&known]);
    let attacker = Issuer::publishing(&[&forged]);
    let settings = format!("[{{url=\"{}\"}}]", issuer.url());
    let node = Node::dev_with(&[("ARQONBUS_AUTH_JWKS", &settings)]);
    until("fetched", || status(&node, &known.sign(&user())) == 101);
    for kid in ["forged", "known"] {
        let mut header = forged.header();
        header.kid = Some(kid.into());
        header.jku = Some(attacker.url());
        header.x5u = Some(attacker.url());
        assert_eq!(
            status(&node, &forged.sign_as(&header, &user())),
            401,
            "{kid}"
        );
    }
    // A fetch that the tokens have caused would be under way by now.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(attacker.asked(), 0);
}

#[test]
fn a_node_without_its_keys_is_not_ready_and_refuses_their_tokens() {
    let pair = Pair::new("a");
    let elsewhere = Issuer::publishing(&[&pair]);
    let answers = [
        ("500 Internal Server Error", String::new(), set(&[&pair])),
        (
            "302 Found",
            format!("location: {}\r\n", elsewhere.url()),
            set(&[&pair]),
        ),
        (
            "200 OK",
            String::new(),
            set(&[&pair]) + &" ".repeat(300 << 10),
        ),
        ("200 OK", String::new(), "<html>".into()),
        ("200 OK", String::new(), "{\"keys\":[]}".into()),
    ];
    let issuers = answers.each_ref().map(|(status, header, body)| {
        let issuer = Issuer::publishing(&[]);
        issuer.answer(status, header, body);
        issuer
    });
    let sets: Vec<String> = issuers
        .iter()
        .enumerate()
        .map(|(index, issuer)| format!("{{url=\"{}\",issuer=\"i{index}\"}}", issuer.url()))
        .collect();
    let node = Node::dev_with(&[("ARQONBUS_AUTH_JWKS", &format!("[{}]", sets.join(",")))]);
    until("asked", || issuers.iter().all(|issuer| issuer.asked() > 0));
    until("not ready", || {
        ready_is(&node, 503, "reasons", "auth.jwks[4]")
    });
    let token = |index: usize| {
        let mut claims = user();
        claims.iss = format!("i{index}");
        pair.sign(&claims)
    };
    let text = ready(&node).1["reasons"].to_string();
    for index in 0..issuers.len() {
        assert!(text.contains(&format!("auth.jwks[{index}]")), "{text}");
        // The last one has said that it has no keys: its tokens are wrong, not early.
        let expected = if index == 4 { 401 } else { 503 };
        let answer = Request::upgrade().bearer(&token(index)).send(node.edge);
        assert_eq!(answer.status, expected, "{index}: {}", answer.text());
        if expected == 503 {
            assert_eq!(answer.json()["error"]["reason"], "not_ready");
            assert!(answer.header("retry-after").is_some());
        }
    }
    assert_eq!(elsewhere.asked(), 0, "a redirect is not followed");
    // The others are not kept waiting, and each comes in as soon as its set is there.
    let secret = node.dev_secret();
    assert_eq!(status(&node, &signed_dev(&secret)), 101);
    issuers[0].publish(&[&pair]);
    until("good at last", || status(&node, &token(0)) == 101);
    assert_eq!(status(&node, &token(1)), 503);
}

fn signed_dev(secret: &[u8]) -> String {
    signed(&claims("dev", Role::User), secret.trim_ascii_end())
}

#[test]
fn the_last_good_set_is_used_for_a_while() {
    let pair = Pair::new("a");
    let issuer = Issuer::publishing(&[&pair]);
    let settings = format!("[{{url=\"{}\"}}]", issuer.url());
    let node = Node::dev_with(&[
        ("ARQONBUS_AUTH_JWKS", &settings),
        ("ARQONBUS_AUTH_JWKS_CACHE_S", "1"),
        ("ARQONBUS_AUTH_JWKS_STALE_S", "3"),
    ]);
    let token = pair.sign(&user());
    until("fetched", || status(&node, &token) == 101);
    let mut session = Session::open(&node, &token);
    issuer.answer("503 Service Unavailable", "", "");
    until("noticed", || ready_is(&node, 200, "notices", "keys_old"));
    assert_eq!(status(&node, &token), 101);
    until("too old", || status(&node, &token) == 401);
    assert!(ready_is(&node, 503, "reasons", "keys_missing"));
    assert!(session.lives(), "who is in stays in");
    issuer.publish(&[&pair]);
    until("good again", || status(&node, &token) == 101);
}

#[test]
fn a_private_key_that_is_published_stops_verifying() {
    let pair = Pair::new("a");
    let issuer = Issuer::publishing(&[&pair]);
    let settings = format!("[{{url=\"{}\"}}]", issuer.url());
    let node = Node::dev_with(&[
        ("ARQONBUS_AUTH_JWKS", &settings),
        ("ARQONBUS_AUTH_JWKS_CACHE_S", "1"),
    ]);
    let token = pair.sign(&user());
    until("fetched", || status(&node, &token) == 101);
    let leaked = set(&[&pair]).replacen("\"kid\"", "\"d\":\"AAAA\",\"kid\"", 1);
    assert!(leaked.contains("\"d\""));
    issuer.answer("200 OK", "", &leaked);
    until("refused", || status(&node, &token) == 401);
}

#[test]
fn a_set_is_fetched_over_tls_from_whom_it_is_trusted_to_be() {
    let pair = Pair::new("a");
    let (issuer, certificate) = Issuer::publishing_safely(&[&pair]);
    let (_other, foreign) = Issuer::publishing_safely(&[&pair]);
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str, pem: &str| {
        let path = dir.path().join(name);
        write(&path, pem.as_bytes());
        path.display().to_string()
    };
    let (good, bad) = (path("good.pem", &certificate), path("bad.pem", &foreign));
    let url = issuer.url();
    let settings = format!(
        "[{{url=\"{url}\",ca=\"{good}\",issuer=\"one\"}},{{url=\"{url}\",ca=\"{bad}\",issuer=\"two\"}}]"
    );
    let node = Node::dev_with(&[("ARQONBUS_AUTH_JWKS", &settings)]);
    let token = |issuer: &str| {
        let mut claims = user();
        claims.iss = issuer.into();
        pair.sign(&claims)
    };
    until("fetched", || status(&node, &token("one")) == 101);
    assert_eq!(status(&node, &token("two")), 503);
    assert!(ready_is(&node, 503, "reasons", "auth.jwks[1]"));
}

#[test]
fn a_key_comes_from_a_variable_and_is_never_shown() {
    let secret = "a-secret-of-more-than-32-bytes-that-is-nowhere-else";
    let keys = "[{id=\"env\",algorithm=\"HS256\",env=\"TOKEN_SECRET\"}]";
    let node = Node::dev_with(&[("ARQONBUS_AUTH_KEYS", keys), ("TOKEN_SECRET", secret)]);
    let header = jsonwebtoken::Header {
        kid: Some("env".into()),
        ..jsonwebtoken::Header::default()
    };
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    let token = jsonwebtoken::encode(&header, &user(), &key).expect("a token");
    assert_eq!(status(&node, &token), 101);
    node.signal("TERM");
    let (_, text) = node.ended();
    assert!(!text.contains(secret) && !text.contains(&token), "{text}");
}

// EDGE-01
#[test]
fn a_node_whose_sets_cannot_be_used_does_not_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let empty = dir.path().join("empty.json");
    write(&empty, b"{\"keys\":[]}");
    let settings = format!(
        "[{{file=\"/nonexistent\"}},{{file=\"{}\"}},{{url=\"http://issuer.example/\"}}]",
        empty.display()
    );
    let mut node = command(&["serve", "--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0"]);
    node.arg("--data").arg(dir.path().join("data"));
    node.env("ARQONBUS_AUTH_JWKS", settings);
    let output = node.output().expect("it ends");
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8_lossy(&output.stderr);
    for part in [
        "auth.jwks[0]: ",
        "auth.jwks[1]: ",
        "no key",
        "auth.jwks[2]: ",
        "https://",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
