//! Before the 101 (EDGE-02, EDGE-12).
#![expect(
    clippy::big_endian_bytes,
    reason = "RFC 6455 writes lengths and codes in network order"
)]

use std::io::Write as _;
use std::time::{Duration, Instant};

use super::{Case, Group, Stage, case};
use crate::raw::{Request, connect, frame, read_frame, read_head, read_rest};

/// `STATUS reason` of the answer.
pub(super) fn answered(stage: &Stage, request: &Request) -> String {
    let answer = request.send(stage.node.edge);
    let body = answer.json();
    let reason = body["error"]["reason"].as_str().unwrap_or_default();
    format!("{} {reason}", answer.status).trim_end().to_owned()
}

/// A handshake of which one thing is wrong.
fn refused(
    attack: &'static str,
    outcome: &'static str,
    change: impl Fn(Request) -> Request + 'static,
) -> Case {
    case(attack, outcome, move |stage| {
        let good = Request::upgrade().bearer(&stage.token);
        answered(stage, &change(good))
    })
}

pub(super) fn group() -> Group {
    Group {
        letter: 'H',
        title: "Handshake",
        cases: [heads(), places_of_tokens(), sizes(), order()]
            .into_iter()
            .flatten()
            .collect(),
    }
}

fn heads() -> Vec<Case> {
    vec![
        refused("a POST", "405 method_not_allowed", |good| {
            good.line("POST /v1/ws HTTP/1.1")
        }),
        refused("HTTP/1.0", "400 bad_request", |good| {
            good.line("GET /v1/ws HTTP/1.0")
        }),
        refused("HTTP/2 prior knowledge", "400", |good| {
            good.line("PRI * HTTP/2.0")
        }),
        refused("no Host", "400 bad_request", |good| good.without("Host")),
        refused("two Hosts", "400 bad_request", |good| {
            good.and("Host", "elsewhere")
        }),
        refused("another path", "404 not_found", |good| {
            good.line("GET /admin HTTP/1.1")
        }),
        refused("a path with dots", "404 not_found", |good| {
            good.line("GET /x/../v1/ws HTTP/1.1")
        }),
        refused("a percent-encoded path", "404 not_found", |good| {
            good.line("GET /%76%31/ws HTTP/1.1")
        }),
        refused("no Upgrade", "426 upgrade_required", |good| {
            good.without("Upgrade")
        }),
        refused("`Connection: close`", "426 upgrade_required", |good| {
            good.with("Connection", "close")
        }),
        refused("WebSocket version 8", "426 ws_version", |good| {
            good.with("Sec-WebSocket-Version", "8")
        }),
        refused("no key", "400 ws_key", |good| {
            good.without("Sec-WebSocket-Key")
        }),
        refused("a key of 15 bytes", "400 ws_key", |good| {
            good.with("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAA")
        }),
        refused("a body", "400 early_data", |good| {
            good.and("Content-Length", "4").body(b"body")
        }),
        refused("a browser's foreign Origin", "403 origin", |good| {
            good.and("Origin", "https://evil.example")
        }),
        refused("the Origin `null`", "403 origin", |good| {
            good.and("Origin", "null")
        }),
        refused("an unknown subprotocol", "400 subprotocol", |good| {
            good.with("Sec-WebSocket-Protocol", "mqtt")
        }),
        refused("the same subprotocol twice", "400 subprotocol", |good| {
            good.with("Sec-WebSocket-Protocol", "arqon.v1, arqon.v1")
        }),
        case(
            "an offer of permessage-deflate",
            "101 without it",
            |stage| {
                let request = Request::upgrade().bearer(&stage.token);
                let request = request.and("Sec-WebSocket-Extensions", "permessage-deflate");
                let answer = request.send(stage.node.edge);
                match answer.header("sec-websocket-extensions") {
                    None => format!("{} without it", answer.status),
                    Some(extensions) => extensions.to_owned(),
                }
            },
        ),
    ]
}

fn places_of_tokens() -> Vec<Case> {
    vec![
        refused("no token", "401 auth_missing", |good| {
            good.without("Authorization")
        }),
        refused("a cookie instead of a token", "401 auth_missing", |good| {
            good.without("Authorization").and("Cookie", "token=x")
        }),
        refused("another scheme", "401 auth_missing", |good| {
            good.with("Authorization", "Basic YTpi")
        }),
        refused("two Authorization headers", "400 auth_ambiguous", |good| {
            good.and("Authorization", "Bearer x")
        }),
        refused(
            "a token in the header and one as a subprotocol",
            "400 auth_ambiguous",
            |good| good.with("Sec-WebSocket-Protocol", "arqon.v1, bearer.x.y.z"),
        ),
    ]
}

fn sizes() -> Vec<Case> {
    vec![
        refused("a header of 20 KiB", "431", |good| {
            good.and("X-Large", &"x".repeat(20 << 10))
        }),
        refused("65 headers", "431", |good| {
            (0..65).fold(good, |request, at| request.and(&format!("X-{at}"), "x"))
        }),
        refused("a URI of 5 KiB", "414 headers_too_large", |good| {
            good.line(&format!("GET /v1/ws?{} HTTP/1.1", "x".repeat(5 << 10)))
        }),
        case("bytes that are no HTTP", "400", |stage| {
            let mut stream = connect(stage.node.edge);
            stream
                .write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n")
                .expect("sent");
            read_head(&mut stream).status.to_string()
        }),
    ]
}

fn order() -> Vec<Case> {
    vec![
        case(
            "a frame before the 101",
            "101, then close 1002 early_data",
            |stage| {
                let request = Request::upgrade().bearer(&stage.token);
                let mut bytes = request.bytes();
                bytes.extend(frame(0x82, b"x"));
                let mut stream = connect(stage.node.edge);
                stream.write_all(&bytes).expect("sent");
                let answer = read_head(&mut stream);
                let (_, payload) = read_frame(&mut stream);
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                let reason = String::from_utf8_lossy(&payload[2..]).into_owned();
                format!("{}, then close {code} {reason}", answer.status)
            },
        ),
        case(
            "one byte of a head a second",
            "408 in half the time",
            |stage| {
                let started = Instant::now();
                let mut stream = connect(stage.node.edge);
                let bytes = Request::upgrade().bytes();
                for byte in bytes.chunks(1).take(20) {
                    if stream.write_all(byte).is_err() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                    if started.elapsed() > Duration::from_millis(1_200) {
                        break;
                    }
                }
                let answer = String::from_utf8_lossy(&read_rest(&mut stream)).into_owned();
                let in_time = started.elapsed() < Duration::from_secs(4);
                match answer.split(' ').nth(1) {
                    Some(status) if in_time => format!("{status} in half the time"),
                    other => format!("{other:?} after {:?}", started.elapsed()),
                }
            },
        ),
    ]
}
