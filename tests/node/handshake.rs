//! EDGE-02, EDGE-04, EDGE-09, EDGE-12, EDGE-24: what may become a session, and how everything else
//! is answered. Every case goes over a raw socket to the built node.

use std::io::Write as _;
use std::time::{Duration, Instant};

use arqonbus::proto::claims::Role;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::raw::{Request, connect, frame, read_frame, read_head, read_rest};
use crate::support::{Node, claims, now_s, signed};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/keys");

/// What every refusal looks like: status, reason, JSON body, closed connection.
fn assert_refused(name: &str, node: &Node, request: &Request, status: u16, reason: &str) {
    let answer = request.send(node.edge);
    assert_eq!(
        answer.status,
        status,
        "{name}: {}{}",
        answer.head,
        answer.text()
    );
    let error = &answer.json()["error"];
    assert_eq!(error["reason"], reason, "{name}: {}", answer.text());
    for part in ["code", "message"] {
        assert!(
            error[part].as_str().is_some_and(|text| !text.is_empty()),
            "{name}: {part}"
        );
    }
}

fn assert_upgraded(name: &str, node: &Node, request: &Request) {
    let answer = request.send(node.edge);
    assert_eq!(answer.status, 101, "{name}: {}", answer.head);
    assert_eq!(
        answer.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        "{name}"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn heads_that_are_no_websocket_handshake_are_refused() {
    let node = Node::dev();
    let good = Request::upgrade().bearer(&node.dev_token());
    let line = |line: &str| good.clone().line(line);
    let cases = [
        (
            "POST",
            line("POST /v1/ws HTTP/1.1"),
            405,
            "method_not_allowed",
        ),
        ("HTTP/1.0", line("GET /v1/ws HTTP/1.0"), 400, "bad_request"),
        ("no Host", good.clone().without("Host"), 400, "bad_request"),
        (
            "two Hosts",
            good.clone().and("Host", "other"),
            400,
            "bad_request",
        ),
        (
            "unknown path",
            line("GET /v2/ws HTTP/1.1"),
            404,
            "not_found",
        ),
        (
            "encoded slash",
            line("GET /v1%2Fws HTTP/1.1"),
            404,
            "not_found",
        ),
        (
            "dot segments",
            line("GET /v1/../v1/ws HTTP/1.1"),
            404,
            "not_found",
        ),
        (
            "double slash",
            line("GET //v1/ws HTTP/1.1"),
            404,
            "not_found",
        ),
        (
            "trailing slash",
            line("GET /v1/ws/ HTTP/1.1"),
            404,
            "not_found",
        ),
        ("other case", line("GET /V1/WS HTTP/1.1"), 404, "not_found"),
        (
            "no Upgrade",
            good.clone().without("Upgrade"),
            426,
            "upgrade_required",
        ),
        (
            "Upgrade: h2c",
            good.clone().with("Upgrade", "h2c"),
            426,
            "upgrade_required",
        ),
        (
            "no Connection",
            good.clone().without("Connection"),
            426,
            "upgrade_required",
        ),
        (
            "Connection: close",
            good.clone().with("Connection", "close"),
            426,
            "upgrade_required",
        ),
        (
            "version 8",
            good.clone().with("Sec-WebSocket-Version", "8"),
            426,
            "ws_version",
        ),
        (
            "version 0",
            good.clone().with("Sec-WebSocket-Version", "0"),
            426,
            "ws_version",
        ),
        (
            "no version",
            good.clone().without("Sec-WebSocket-Version"),
            426,
            "ws_version",
        ),
        (
            "no key",
            good.clone().without("Sec-WebSocket-Key"),
            400,
            "ws_key",
        ),
        (
            "key of 15 bytes",
            good.clone()
                .with("Sec-WebSocket-Key", "MDEyMzQ1Njc4OWFiY2Rl"),
            400,
            "ws_key",
        ),
        (
            "key that is no base64",
            good.clone().with("Sec-WebSocket-Key", "*"),
            400,
            "ws_key",
        ),
        (
            "two keys",
            good.clone()
                .and("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            400,
            "ws_key",
        ),
        (
            "body",
            good.clone().and("Content-Length", "5").body(b"hello"),
            400,
            "early_data",
        ),
        (
            "chunked body",
            good.clone()
                .and("Transfer-Encoding", "chunked")
                .body(b"0\r\n\r\n"),
            400,
            "early_data",
        ),
        (
            "long URI",
            line(&format!("GET /v1/ws?{} HTTP/1.1", "a".repeat(5000))),
            414,
            "headers_too_large",
        ),
    ];
    for (name, request, status, reason) in cases {
        assert_refused(name, &node, &request, status, reason);
    }
    assert_eq!(
        line("POST /v1/ws HTTP/1.1").send(node.edge).header("allow"),
        Some("GET")
    );
    let answer = good
        .clone()
        .with("Sec-WebSocket-Version", "8")
        .send(node.edge);
    assert_eq!(answer.header("sec-websocket-version"), Some("13"));
    let answer = good.clone().without("Upgrade").send(node.edge);
    assert_eq!(answer.header("upgrade"), Some("websocket"));
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let node = Node::dev();
    let good = Request::upgrade().bearer(&node.dev_token());
    let many = (0..80).fold(good.clone(), |request, n| {
        request.and(&format!("X-{n}"), "y")
    });
    let cases = [
        (
            "20 KiB header",
            good.clone().and("X-Large", &"x".repeat(20 << 10)),
        ),
        ("80 headers", many),
        (
            "1 MiB token",
            Request::upgrade().bearer(&"x".repeat(1 << 20)),
        ),
    ];
    for (name, request) in cases {
        assert_eq!(request.send(node.edge).status, 431, "{name}");
    }
    assert_eq!(good.send(node.edge).status, 101);
}

#[test]
fn handshakes_in_order_are_answered_with_what_was_agreed_on() {
    let node = Node::dev();
    let token = node.dev_token();
    let good = Request::upgrade().bearer(&token);
    let offer = |offer: &str| good.clone().with("Sec-WebSocket-Protocol", offer);
    let cases = [
        ("as it should be", good.clone(), Some("arqon.v1")),
        (
            "alias /ws",
            good.clone().line("GET /ws HTTP/1.1"),
            Some("arqon.v1"),
        ),
        (
            "alias /",
            good.clone().line("GET / HTTP/1.1"),
            Some("arqon.v1"),
        ),
        (
            "keep-alive too",
            good.clone().with("Connection", "keep-alive, Upgrade"),
            Some("arqon.v1"),
        ),
        (
            "case of values",
            good.clone().with("Upgrade", "WebSocket"),
            Some("arqon.v1"),
        ),
        (
            "unknown beside known",
            offer("soap, arqon.v1"),
            Some("arqon.v1"),
        ),
        (
            "client's order",
            offer("arqon.envelope.v1, arqon.v1"),
            Some("arqon.envelope.v1"),
        ),
        (
            "JSON beside frames",
            offer("arqon.json.v1, arqon.v1"),
            Some("arqon.json.v1"),
        ),
        ("none", good.clone().without("Sec-WebSocket-Protocol"), None),
        (
            "no body, said so",
            good.clone().and("Content-Length", "0"),
            Some("arqon.v1"),
        ),
        (
            "loopback origin",
            good.clone().and("Origin", "http://localhost:3000"),
            Some("arqon.v1"),
        ),
        (
            "token as subprotocol",
            Request::upgrade().with(
                "Sec-WebSocket-Protocol",
                &format!("arqon.v1, bearer.{token}"),
            ),
            Some("arqon.v1"),
        ),
        (
            "token in query",
            Request::upgrade().line(&format!("GET /v1/ws?token={token} HTTP/1.1")),
            Some("arqon.v1"),
        ),
        (
            "scheme in lower case",
            Request::upgrade().and("Authorization", &format!("bearer {token}")),
            Some("arqon.v1"),
        ),
    ];
    for (name, request, subprotocol) in cases {
        assert_upgraded(name, &node, &request);
        let answer = request.send(node.edge);
        assert_eq!(
            answer.header("sec-websocket-protocol"),
            subprotocol,
            "{name}"
        );
        assert!(!answer.head.contains(&token), "{name}: the token is echoed");
    }
    // Compression is never agreed on.
    let deflate = good
        .and("Sec-WebSocket-Extensions", "permessage-deflate")
        .send(node.edge);
    assert_eq!(
        (deflate.status, deflate.header("sec-websocket-extensions")),
        (101, None)
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn origins_subprotocols_and_places_of_tokens_that_are_wrong_are_refused() {
    let node = Node::dev();
    let token = node.dev_token();
    let good = Request::upgrade().bearer(&token);
    let offer = |offer: &str| good.clone().with("Sec-WebSocket-Protocol", offer);
    let cases = [
        (
            "foreign origin",
            good.clone().and("Origin", "https://evil.example"),
            403,
            "origin",
        ),
        (
            "null origin",
            good.clone().and("Origin", "null"),
            403,
            "origin",
        ),
        (
            "origin like loopback",
            good.clone().and("Origin", "http://localhost.evil.example"),
            403,
            "origin",
        ),
        (
            "origin with user",
            good.clone()
                .and("Origin", "http://localhost:1@evil.example"),
            403,
            "origin",
        ),
        (
            "two origins",
            good.clone()
                .and("Origin", "http://localhost")
                .and("Origin", "https://evil.example"),
            403,
            "origin",
        ),
        ("unknown subprotocol", offer("soap"), 400, "subprotocol"),
        (
            "subprotocol twice",
            offer("arqon.v1, arqon.v1"),
            400,
            "subprotocol",
        ),
        (
            "bearer alone",
            Request::upgrade().with("Sec-WebSocket-Protocol", &format!("bearer.{token}")),
            400,
            "subprotocol",
        ),
        ("no token", Request::upgrade(), 401, "auth_missing"),
        (
            "cookie only",
            Request::upgrade().and("Cookie", &format!("token={token}")),
            401,
            "auth_missing",
        ),
        (
            "Basic",
            Request::upgrade().and("Authorization", "Basic YTpi"),
            401,
            "auth_missing",
        ),
        (
            "empty Bearer",
            Request::upgrade().and("Authorization", "Bearer "),
            401,
            "auth_missing",
        ),
        (
            "empty query",
            Request::upgrade().line("GET /v1/ws?token= HTTP/1.1"),
            401,
            "auth_missing",
        ),
        (
            "two headers",
            good.clone().bearer(&token),
            400,
            "auth_ambiguous",
        ),
        (
            "header and query",
            good.clone()
                .line(&format!("GET /v1/ws?token={token} HTTP/1.1")),
            400,
            "auth_ambiguous",
        ),
        (
            "header and subprotocol",
            offer(&format!("arqon.v1, bearer.{token}")),
            400,
            "auth_ambiguous",
        ),
        (
            "query twice",
            Request::upgrade().line(&format!("GET /v1/ws?token={token}&token={token} HTTP/1.1")),
            400,
            "auth_ambiguous",
        ),
    ];
    for (name, request, status, reason) in cases {
        assert_refused(name, &node, &request, status, reason);
    }
    let answer = Request::upgrade().send(node.edge);
    assert_eq!(
        answer.header("www-authenticate"),
        Some("Bearer realm=\"arqonbus\"")
    );
}

fn segment(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

fn hmac(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = format!("{}.{}", segment(header), segment(claims));
    let key = EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256);
    format!("{message}.{}", signature.expect("a signature"))
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn bad_tokens_are_refused_without_saying_why_and_never_logged() {
    let node = Node::dev();
    let secret = node.dev_secret();
    let header = json!({ "alg": "HS256", "typ": "JWT" });
    let good = serde_json::to_value(claims("acme", Role::User)).expect("claims");
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        hmac(&header, &claims, &secret)
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().expect("an object").remove(name);
        hmac(&header, &claims, &secret)
    };
    let head = |change: Value| {
        let mut header = header.clone();
        for (name, value) in change.as_object().expect("an object") {
            header[name] = value.clone();
        }
        hmac(&header, &good, &secret)
    };
    let rs_public = std::fs::read(format!("{FIXTURES}/rs256.public.pem")).expect("a fixture");
    let token = hmac(&header, &good, &secret);
    let stripped = token.rsplit_once('.').expect("segments").0;
    let cases = [
        ("garbage", "garbage".to_owned()),
        ("signature stripped", format!("{stripped}.")),
        ("two segments", stripped.to_owned()),
        ("four segments", format!("{token}.x")),
        ("padding", format!("{token}=")),
        ("too long", format!("{token}{}", "A".repeat(9000))),
        ("alg none", head(json!({ "alg": "none" }))),
        ("alg None", head(json!({ "alg": "None" }))),
        ("alg nOnE", head(json!({ "alg": "nOnE" }))),
        (
            "alg none without signature",
            format!("{}.{}.", segment(&json!({ "alg": "none" })), segment(&good)),
        ),
        ("alg HS512", head(json!({ "alg": "HS512" }))),
        ("RS256 key as secret", hmac(&header, &good, &rs_public)),
        ("empty secret", hmac(&header, &good, b"")),
        (
            "other secret",
            hmac(&header, &good, b"0123456789abcdef0123456789abcdef"),
        ),
        ("unknown kid", head(json!({ "kid": "other" }))),
        ("crit", head(json!({ "crit": ["x"] }))),
        (
            "typ of another kind",
            head(json!({ "typ": "operator+jwt" })),
        ),
        ("jku", {
            let header = json!({ "alg": "HS256", "jku": "http://127.0.0.1:9/" });
            hmac(&header, &good, b"attacker")
        }),
        ("no exp", without("exp")),
        (
            "exp as text",
            with("exp", json!((now_s() + 3600).to_string())),
        ),
        ("expired", with("exp", json!(now_s() - 31))),
        ("nbf ahead", with("nbf", json!(now_s() + 60))),
        ("nbf as text", with("nbf", json!("0"))),
        ("iat ahead", with("iat", json!(now_s() + 60))),
        ("no iss", without("iss")),
        ("other iss", with("iss", json!("evil"))),
        ("no aud", without("aud")),
        ("other aud", with("aud", json!("other"))),
        ("aud list without us", with("aud", json!(["a", "b"]))),
        ("no sub", without("sub")),
        ("no tenant", without("tenant")),
        ("unknown role", with("role", json!("root"))),
        ("too many patterns", with("pub", json!(vec!["a"; 65]))),
    ];
    let mut bodies = std::collections::BTreeSet::new();
    for (name, token) in &cases {
        let request = Request::upgrade().bearer(token);
        assert_refused(name, &node, &request, 401, "auth_invalid");
        let answer = request.send(node.edge);
        let challenge = answer.header("www-authenticate");
        assert_eq!(
            challenge,
            Some("Bearer realm=\"arqonbus\", error=\"invalid_token\""),
            "{name}"
        );
        bodies.insert(answer.text());
    }
    assert_eq!(
        bodies.len(),
        1,
        "the answer must not tell the cases apart: {bodies:?}"
    );

    for (name, claim, value) in [
        ("tenant that is no name", "tenant", json!("Acme Corp")),
        ("reserved tenant", "tenant", json!("_node")),
        ("pattern that is none", "pub", json!(["a..b"])),
    ] {
        let request = Request::upgrade().bearer(&with(claim, value));
        assert_refused(name, &node, &request, 403, "forbidden");
    }
    assert_upgraded("a good one", &node, &Request::upgrade().bearer(&token));

    node.signal("TERM");
    let (status, log) = node.ended();
    assert!(status.success());
    assert!(log.contains("token refused"), "{log}");
    for (name, token) in cases.iter().filter(|(_, token)| token.len() > 20) {
        let part: String = token.chars().skip(token.len() - 20).collect();
        assert!(!log.contains(&part), "{name} is in the log");
    }
}

/// A directory with keys, and the settings that name them.
pub(crate) fn production(more: &str) -> Node {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let settings = format!(
        "[node]\ndata_dir = 'data'\n[auth]\nkeys = [\n\
         {{ id = 'rs', algorithm = 'RS256', file = '{FIXTURES}/rs256.public.pem' }},\n\
         {{ id = 'es', algorithm = 'ES256', file = '{FIXTURES}/es256.public.pem' }},\n\
         {{ id = 'ed', algorithm = 'EdDSA', file = '{FIXTURES}/eddsa.public.pem' }},\n]\n{more}"
    );
    Node::production(dir, &settings)
}

fn key(algorithm: Algorithm) -> EncodingKey {
    let pem =
        |name: &str| std::fs::read(format!("{FIXTURES}/{name}.private.pem")).expect("a fixture");
    let key = match algorithm {
        Algorithm::RS256 => EncodingKey::from_rsa_pem(&pem("rs256")),
        Algorithm::ES256 => EncodingKey::from_ec_pem(&pem("es256")),
        _ => EncodingKey::from_ed_pem(&pem("eddsa")),
    };
    key.expect("a key")
}

pub(crate) fn asymmetric(
    kid: &str,
    algorithm: Algorithm,
    claims: &impl serde::Serialize,
) -> String {
    let header = Header {
        kid: Some(kid.into()),
        ..Header::new(algorithm)
    };
    jsonwebtoken::encode(&header, claims, &key(algorithm)).expect("a token")
}

#[test]
fn production_verifies_by_the_key_and_takes_no_token_in_the_query() {
    let node = production("[edge]\nallowed_origins = ['https://app.example']\n");
    let good = claims("acme", Role::User);
    for (kid, algorithm) in [
        ("rs", Algorithm::RS256),
        ("es", Algorithm::ES256),
        ("ed", Algorithm::EdDSA),
    ] {
        let token = asymmetric(kid, algorithm, &good);
        assert_upgraded(kid, &node, &Request::upgrade().bearer(&token));
    }
    let token = asymmetric("ed", Algorithm::EdDSA, &good);
    let in_query = Request::upgrade().line(&format!("GET /v1/ws?token={token} HTTP/1.1"));
    assert_refused("token in query", &node, &in_query, 400, "token_in_query");
    let refused = [
        (
            "key of another algorithm",
            asymmetric("es", Algorithm::EdDSA, &good),
        ),
        ("no kid among several", {
            let header = Header::new(Algorithm::EdDSA);
            jsonwebtoken::encode(&header, &good, &key(Algorithm::EdDSA)).expect("a token")
        }),
        ("lives ten years", {
            let mut long = good.clone();
            long.exp = now_s() + 10 * 365 * 86_400;
            asymmetric("ed", Algorithm::EdDSA, &long)
        }),
    ];
    for (name, token) in refused {
        assert_refused(
            name,
            &node,
            &Request::upgrade().bearer(&token),
            401,
            "auth_invalid",
        );
    }
    let from = |origin: &str| Request::upgrade().bearer(&token).and("Origin", origin);
    assert_upgraded("allowed origin", &node, &from("https://app.example"));
    assert_refused(
        "origin with port",
        &node,
        &from("https://app.example:8443"),
        403,
        "origin",
    );
    assert_refused(
        "loopback origin",
        &node,
        &from("http://localhost:3000"),
        403,
        "origin",
    );
}

#[test]
fn a_frame_sent_before_the_101_is_refused() {
    let node = Node::dev();
    let request = Request::upgrade()
        .bearer(&node.dev_token())
        .body(&frame(0x82, b"early"));
    let (answer, mut stream) = request.open(node.edge);
    assert_eq!(answer.status, 101);
    let (first, payload) = read_frame(&mut stream);
    assert_eq!(
        (first, payload.as_slice()),
        (0x88, b"\x03\xeaearly_data".as_slice())
    );
    assert!(read_rest(&mut stream).is_empty());
}

#[test]
fn a_head_that_does_not_arrive_in_time_is_answered_with_408() {
    let node = Node::dev_with(&[("ARQONBUS_LIMITS_HANDSHAKE_TIMEOUT_MS", "600")]);
    let mut stream = connect(node.edge);
    let started = Instant::now();
    stream.write_all(b"GET /v1/ws HT").expect("sent");
    let answer = read_head(&mut stream);
    assert_eq!(answer.status, 408);
    assert!((Duration::from_millis(250)..Duration::from_secs(5)).contains(&started.elapsed()));
    let body = read_rest(&mut stream);
    assert_eq!(
        answer.header("content-length"),
        Some(body.len().to_string().as_str())
    );
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(body["error"]["reason"], "handshake_timeout");
}

#[test]
fn half_open_connections_do_not_keep_others_out() {
    let node = Node::dev();
    let token = node.dev_token();
    let half_open: Vec<_> = (0..300).map(|_| connect(node.edge)).collect();
    let started = Instant::now();
    assert_upgraded("beside them", &node, &Request::upgrade().bearer(&token));
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    drop(half_open);
}

// EDGE-22
#[test]
fn a_storm_of_clients_is_served_or_told_when_to_come_back() {
    let node = Node::dev_with(&[("ARQONBUS_LIMITS_HANDSHAKES_MAX", "64")]);
    let request = Request::upgrade().bearer(&node.dev_token()).bytes();
    let mut clients: Vec<_> = (0..400).map(|_| connect(node.edge)).collect();
    for client in &mut clients {
        // One that was told to come back may be closed already.
        drop(client.write_all(&request));
    }
    let answers: Vec<_> = clients.iter_mut().map(read_head).collect();
    let served = answers.iter().filter(|answer| answer.status == 101).count();
    let told = answers
        .iter()
        .filter(|answer| answer.status == 503 && answer.header("retry-after").is_some());
    assert_eq!(served + told.count(), clients.len(), "{answers:?}");
    assert!(served >= 64, "{served} served");
}

#[test]
fn sessions_are_limited_by_tenant_and_node() {
    let node = Node::dev_with(&[
        ("ARQONBUS_LIMITS_SESSIONS_MAX", "3"),
        ("ARQONBUS_LIMITS_TENANT_SESSIONS_MAX", "2"),
    ]);
    let secret = node.dev_secret();
    let of =
        |tenant: &str| Request::upgrade().bearer(&signed(&claims(tenant, Role::User), &secret));
    let mut open: Vec<_> = (0..2).map(|_| of("a").open(node.edge)).collect();
    assert!(open.iter().all(|(answer, _)| answer.status == 101));
    assert_refused("tenant full", &node, &of("a"), 429, "rate_limited");
    assert_eq!(of("a").send(node.edge).header("retry-after"), Some("5"));
    open.push(of("b").open(node.edge));
    assert_refused("node full", &node, &of("c"), 503, "unavailable");
    assert_eq!(of("c").send(node.edge).header("retry-after"), Some("5"));
    drop(open);
    let started = Instant::now();
    while of("a").send(node.edge).status != 101 {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "seats are not given back"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
