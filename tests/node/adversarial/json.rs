//! Texts of JSON clients (EDGE-09, MSG-09).
#![expect(
    clippy::big_endian_bytes,
    reason = "RFC 6455 writes lengths and codes in network order"
)]

use std::io::Write as _;
use std::net::TcpStream;

use arqonbus::proto::claims::Role;
use serde_json::Value;

use super::{Case, Group, Stage, case};
use crate::limits::masked;
use crate::raw::{Request, read_frame};
use crate::support::{claims, signed};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;

/// A JSON session of a user, greeted.
fn session(stage: &Stage) -> TcpStream {
    let token = signed(&claims("acme", Role::User), &stage.node.dev_secret());
    let request = Request::upgrade()
        .bearer(&token)
        .with("Sec-WebSocket-Protocol", "arqon.json.v1");
    let (answer, mut stream) = request.open(stage.node.edge);
    assert_eq!(answer.status, 101, "{}", answer.head);
    assert_eq!(read_frame(&mut stream).0, TEXT);
    stream
}

/// The type or error, with the field, of what is said next; or how it is closed.
fn heard(stream: &mut TcpStream) -> String {
    let (first, payload) = read_frame(stream);
    if first == 0x88 {
        let (code, reason) = payload.split_at(2);
        let code = u16::from_be_bytes([code[0], code[1]]);
        return format!("close {code} {}", String::from_utf8_lossy(reason));
    }
    let said: Value = serde_json::from_slice(&payload).expect("JSON");
    let kind = said["error_code"].as_str().or(said["type"].as_str());
    let field = said["metadata"]["field"].as_str().unwrap_or_default();
    let kind = kind.unwrap_or_default();
    format!("{kind} {field}").trim_end().to_owned()
}

fn sends(
    attack: &'static str,
    outcome: &'static str,
    first: u8,
    payload: impl Fn() -> Vec<u8> + 'static,
) -> Case {
    case(attack, outcome, move |stage| {
        let mut stream = session(stage);
        stream.write_all(&masked(first, &payload())).expect("sent");
        heard(&mut stream)
    })
}

fn says(attack: &'static str, outcome: &'static str, text: &'static str) -> Case {
    sends(attack, outcome, TEXT, || text.as_bytes().to_vec())
}

/// A JSON client where JSON is off.
fn off(attack: &'static str, outcome: &'static str, subprotocols: &'static str) -> Case {
    case(attack, outcome, move |stage| {
        let node = &stage.narrow;
        let token = signed(&claims("json", Role::User), &node.dev_secret());
        let request = Request::upgrade().bearer(&token);
        let request = request.with("Sec-WebSocket-Protocol", subprotocols);
        let (mut answer, mut stream) = request.open(node.edge);
        if answer.status != 101 {
            answer.body = crate::raw::read_rest(&mut stream);
            let error = answer.json()["error"].clone();
            let reason = error["reason"].as_str().unwrap_or_default();
            return format!("{} {reason}", answer.status);
        }
        let agreed = answer.header("sec-websocket-protocol").unwrap_or_default();
        format!("101 {agreed}")
    })
}

pub(super) fn group() -> Group {
    Group {
        letter: 'J',
        title: "JSON",
        cases: [texts(), whole()].into_iter().flatten().collect(),
    }
}

fn texts() -> Vec<Case> {
    const UNDECODABLE: &str = "INTERNAL_ERROR";
    vec![
        says("a text that is no JSON", UNDECODABLE, "{"),
        says("a list", UNDECODABLE, "[]"),
        says("NaN", UNDECODABLE, r#"{"type":"message","payload":NaN}"#),
        says(
            "half of a surrogate pair",
            UNDECODABLE,
            r#"{"type":"message","room":"\ud800"}"#,
        ),
        says(
            "a type given twice, of which the last holds",
            "response",
            r#"{"type":"message","type":"command","command":"status"}"#,
        ),
        sends("a text 2,000 lists deep", "TOO_LARGE message", TEXT, || {
            let (open, close) = ("[".repeat(2_000), "]".repeat(2_000));
            format!(r#"{{"type":"message","payload":{open}{close}}}"#).into_bytes()
        }),
        sends(
            "a text over the limit of an envelope",
            "TOO_LARGE message",
            TEXT,
            || {
                let filler = "x".repeat(40_000);
                format!(r#"{{"type":"message","payload":"{filler}"}}"#).into_bytes()
            },
        ),
        says("no type", "VALIDATION_ERROR type", r#"{"payload":{}}"#),
        says(
            "a type of another type",
            "VALIDATION_ERROR type",
            r#"{"type":7}"#,
        ),
        says(
            "a room that is a number",
            "VALIDATION_ERROR room",
            r#"{"type":"message","room":7,"channel":"c"}"#,
        ),
        says(
            "an id that is an object",
            "VALIDATION_ERROR id",
            r#"{"type":"message","id":{}}"#,
        ),
        says(
            "metadata that are a list",
            "VALIDATION_ERROR metadata",
            r#"{"type":"message","metadata":[]}"#,
        ),
        says(
            "another tenant in the metadata",
            "TENANT_MISMATCH tenant_id",
            r#"{"type":"message","metadata":{"tenant_id":"rival"}}"#,
        ),
        says(
            "a whole number that a double cannot hold",
            "VALIDATION_ERROR payload.n",
            r#"{"type":"message","payload":{"n":9007199254740993}}"#,
        ),
        says(
            "an admin's command",
            "AUTHORIZATION_ERROR",
            r#"{"type":"command","id":"arq_1_2_00ffaa","command":"edge.revoke","args":{}}"#,
        ),
        says(
            "an unknown command",
            "UNKNOWN_COMMAND command",
            r#"{"type":"command","id":"arq_1_2_00ffaa","command":"drop.table","args":{}}"#,
        ),
    ]
}

fn whole() -> Vec<Case> {
    vec![
        sends("a binary frame", "INFRA_PROTOCOL_ERROR", BINARY, || {
            b"\x0a\x01a".to_vec()
        }),
        sends(
            "a text that is not UTF-8",
            "close 1007 invalid_utf8",
            TEXT,
            || b"{\"\xff\"}".to_vec(),
        ),
        case(
            "three texts that are no JSON",
            "close 1007 undecodable_messages",
            |stage| {
                let mut stream = session(stage);
                for _ in 0..3 {
                    stream.write_all(&masked(TEXT, b"{")).expect("sent");
                }
                loop {
                    let said = heard(&mut stream);
                    if said != "INTERNAL_ERROR" {
                        return said;
                    }
                }
            },
        ),
        off("JSON where it is off", "400 subprotocol", "arqon.json.v1"),
        off(
            "JSON where it is off, and something else",
            "101 arqon.v1",
            "arqon.json.v1, arqon.v1",
        ),
    ]
}
