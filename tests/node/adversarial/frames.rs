//! RFC 6455 frame by frame (EDGE-12).
#![expect(
    clippy::big_endian_bytes,
    reason = "RFC 6455 writes lengths and codes in network order"
)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use super::{Case, Group, Stage, case};
use crate::raw::{frame, read_frame};

const FIN: u8 = 0x80;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// An `arqon.v1` frame: Ping with request id 7 and data `x`.
const HELLO: &[u8] = &[0x08, 7, 0x62, 3, 0x0a, 1, b'x'];
/// Its Pong.
const HELLO_BACK: &[u8] = &[0x08, 7, 0x5a, 3, 0x0a, 1, b'x'];

/// A header that claims a length in eight bytes, masked with zeros.
fn long_header(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first, 0xff];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

/// Sends `bytes` and says how the session ends: `close CODE reason`, `end` of the stream without a
/// close, or what else came first.
fn ending(stage: &Stage, bytes: &[u8]) -> String {
    let mut stream = stage.session();
    stream.write_all(bytes).expect("it takes them");
    how_it_ends(&mut stream)
}

fn how_it_ends(stream: &mut TcpStream) -> String {
    loop {
        let mut first = [0];
        match stream.read(&mut first) {
            Ok(0) => return "end".into(),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return "reset".into(),
            Err(error) => return format!("{error}"),
        }
        let mut length = [0];
        stream.read_exact(&mut length).expect("a length");
        let mut payload = vec![0; usize::from(length[0])];
        if length[0] == 126 {
            let mut length = [0; 2];
            stream.read_exact(&mut length).expect("a length");
            payload.resize(usize::from(u16::from_be_bytes(length)), 0);
        }
        stream.read_exact(&mut payload).expect("a payload");
        // What was said before, such as an Error frame, is not the end.
        if first[0] != FIN | CLOSE {
            continue;
        }
        return match payload.split_at_checked(2) {
            None => "close".into(),
            Some((code, reason)) => {
                let code = u16::from_be_bytes([code[0], code[1]]);
                let reason = String::from_utf8_lossy(reason);
                format!("close {code} {reason}").trim_end().to_owned()
            }
        };
    }
}

/// A close frame with a code and a reason.
fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    let mut body = code.to_be_bytes().to_vec();
    body.extend_from_slice(reason);
    frame(FIN | CLOSE, &body)
}

fn breaks(attack: &'static str, outcome: &'static str, bytes: Vec<u8>) -> Case {
    case(attack, outcome, move |stage| ending(stage, &bytes))
}

/// Each of `all` must have the outcome; says the first that has another.
fn each(
    attack: &'static str,
    outcome: &'static str,
    all: impl Fn() -> Vec<Vec<u8>> + 'static,
) -> Case {
    case(attack, outcome, move |stage| {
        let mut endings = all().into_iter().map(|bytes| ending(stage, &bytes));
        let other = endings.find(|seen| seen != outcome);
        other.unwrap_or_else(|| outcome.to_owned())
    })
}

/// Sends `bytes`, and says whether the session answers HELLO as the next thing it says.
fn lives(stage: &Stage, bytes: &[u8]) -> String {
    let mut stream = stage.session();
    stream.write_all(bytes).expect("it takes them");
    stream
        .write_all(&frame(FIN | BINARY, HELLO))
        .expect("it takes it");
    match read_frame(&mut stream) {
        (0x82, payload) if payload == HELLO_BACK => "served".into(),
        (first, payload) => format!("{first:#x} {payload:?}"),
    }
}

pub(super) fn group() -> Group {
    Group {
        letter: 'F',
        title: "Frames (RFC 6455)",
        cases: [
            broken_frames(),
            broken_closes(),
            messages_that_are_too_large(),
            frames_in_order(),
            connections_that_break(),
        ]
        .into_iter()
        .flatten()
        .collect(),
    }
}

fn broken_frames() -> Vec<Case> {
    const PROTOCOL: &str = "close 1002 protocol_error";
    vec![
        breaks("a frame without a mask", PROTOCOL, {
            let mut bytes = vec![FIN | BINARY, 7];
            bytes.extend_from_slice(HELLO);
            bytes
        }),
        each(
            "a reserved bit (RSV1, RSV2, RSV3; RSV1 would be a compressed message)",
            PROTOCOL,
            || {
                [0x40, 0x20, 0x10]
                    .map(|bit| frame(FIN | BINARY | bit, HELLO))
                    .to_vec()
            },
        ),
        each("a reserved opcode (3 to 7, 11 to 15)", PROTOCOL, || {
            (3..=7)
                .chain(11..=15)
                .map(|opcode| frame(FIN | opcode, b""))
                .collect()
        }),
        each("a fragmented ping, pong or close", PROTOCOL, || {
            [PING, PONG, CLOSE]
                .map(|opcode| frame(opcode, b""))
                .to_vec()
        }),
        each("a ping, pong or close of 126 bytes", PROTOCOL, || {
            let long = |opcode: u8| {
                let mut bytes = vec![FIN | opcode, 0xfe, 0, 126, 0, 0, 0, 0];
                bytes.extend_from_slice(&[0x31; 126]);
                bytes
            };
            [PING, PONG, CLOSE].map(long).to_vec()
        }),
        breaks("a continuation of nothing", PROTOCOL, frame(FIN, b"x")),
        each("a new message inside a fragmented one", PROTOCOL, || {
            [TEXT, BINARY]
                .map(|opcode| [frame(BINARY, b"x"), frame(FIN | opcode, b"x")].concat())
                .to_vec()
        }),
        breaks(
            "a text message on a binary subprotocol",
            "close 1003 text_message",
            frame(FIN | TEXT, b"{}"),
        ),
        breaks(
            "a text message that is not UTF-8",
            "close 1007 invalid_utf8",
            frame(FIN | TEXT, &[0xff, 0xfe]),
        ),
        breaks(
            "text that is not UTF-8, across two fragments",
            "close 1007 invalid_utf8",
            [frame(TEXT, &[0xce]), frame(FIN, &[0x28])].concat(),
        ),
    ]
}

fn broken_closes() -> Vec<Case> {
    const PROTOCOL: &str = "close 1002 protocol_error";
    vec![
        breaks("a close with one byte", PROTOCOL, frame(FIN | CLOSE, &[3])),
        each(
            "a close with a code that may not be sent (0, 999, 1004 to 1006, 1014 to 1016, 2999, 5000, 65535)",
            "close 1002 Protocol violation",
            || {
                [
                    0, 999, 1004, 1005, 1006, 1014, 1015, 1016, 2999, 5000, 65535,
                ]
                .map(|code| close(code, b""))
                .to_vec()
            },
        ),
        breaks(
            "a close whose reason is not UTF-8",
            "close 1007 invalid_utf8",
            close(1000, &[0xff]),
        ),
        case(
            "a close that may be sent (1000 to 1003, 1007 to 1013, 3000, 4999)",
            "the same code",
            |stage| {
                for code in (1000..=1003).chain(1007..=1013).chain([3000, 4999]) {
                    let seen = ending(stage, &close(code, b"bye"));
                    if !seen.starts_with(&format!("close {code}")) {
                        return seen;
                    }
                }
                "the same code".into()
            },
        ),
        breaks("a close without a code", "close", frame(FIN | CLOSE, b"")),
        breaks(
            "frames after a close",
            "close 1000 bye",
            [
                close(1000, b"bye"),
                frame(FIN | BINARY, HELLO),
                vec![0xff; 64],
            ]
            .concat(),
        ),
    ]
}

fn messages_that_are_too_large() -> Vec<Case> {
    const SIZE: &str = "close 1009 message_too_large";
    vec![
        breaks(
            "a frame one byte over the limit of a message",
            SIZE,
            [long_header(FIN | BINARY, 65_537), vec![0; 65_537]].concat(),
        ),
        breaks(
            "only the header of a frame of 2^40 bytes",
            SIZE,
            long_header(FIN | BINARY, 1 << 40),
        ),
        each("a length with its highest bit set", SIZE, || {
            vec![
                long_header(FIN | BINARY, 1 << 63),
                long_header(FIN | BINARY, u64::MAX),
            ]
        }),
        breaks("fragments that grow over the limit together", SIZE, {
            let piece = |first| [long_header(first, 32_769), vec![0; 32_769]].concat();
            [piece(BINARY), piece(FIN)].concat()
        }),
    ]
}

fn frames_in_order() -> Vec<Case> {
    vec![
        case("a message in fragments of one byte", "served", |stage| {
            let mut bytes = Vec::new();
            for (at, byte) in HELLO.iter().enumerate() {
                let last = if at + 1 == HELLO.len() { FIN } else { 0 };
                let opcode = if at == 0 { BINARY } else { 0 };
                bytes.extend(frame(last | opcode, &[*byte]));
            }
            let mut stream = stage.session();
            stream.write_all(&bytes).expect("it takes them");
            match read_frame(&mut stream) {
                (0x82, payload) if payload == HELLO_BACK => "served".into(),
                other => format!("{other:?}"),
            }
        }),
        case(
            "a ping between the fragments of a message",
            "pong, then served",
            |stage| {
                let mut stream = stage.session();
                let bytes = [
                    frame(BINARY, &HELLO[..3]),
                    frame(FIN | PING, b"between"),
                    frame(FIN, &HELLO[3..]),
                ];
                stream.write_all(&bytes.concat()).expect("it takes them");
                let mut answers = [read_frame(&mut stream), read_frame(&mut stream)];
                answers.sort_by_key(|(first, _)| std::cmp::Reverse(*first));
                match answers {
                    [(0x8a, pong), (0x82, served)]
                        if pong == b"between" && served == HELLO_BACK =>
                    {
                        "pong, then served".into()
                    }
                    other => format!("{other:?}"),
                }
            },
        ),
        case(
            "a ping with 125 bytes, and one with none",
            "pong with the same bytes",
            |stage| {
                for payload in [&[0x61; 125][..], &[]] {
                    let mut stream = stage.session();
                    stream
                        .write_all(&frame(FIN | PING, payload))
                        .expect("it takes it");
                    if read_frame(&mut stream) != (0x8a, payload.to_vec()) {
                        return format!("another answer to {} bytes", payload.len());
                    }
                }
                "pong with the same bytes".into()
            },
        ),
        case("a pong that nobody asked for", "served", |stage| {
            lives(stage, &frame(FIN | PONG, b"unasked"))
        }),
        case("an empty binary message", "served", |stage| {
            // A ClientFrame without a body: a frame of a newer client.
            let mut stream = stage.session();
            let bytes = [frame(FIN | BINARY, b""), frame(FIN | BINARY, HELLO)];
            stream.write_all(&bytes.concat()).expect("it takes them");
            loop {
                match read_frame(&mut stream) {
                    (0x82, payload) if payload == HELLO_BACK => return "served".into(),
                    (0x82, _) => {}
                    other => return format!("{other:?}"),
                }
            }
        }),
        case("a length in more bytes than it needs", "served", |stage| {
            // RFC 6455 wants the shortest form of senders; a longer one means the same.
            let mut bytes = vec![FIN | BINARY, 0xfe, 0, 7, 0, 0, 0, 0];
            bytes.extend_from_slice(HELLO);
            let mut stream = stage.session();
            stream.write_all(&bytes).expect("it takes them");
            match read_frame(&mut stream) {
                (0x82, payload) if payload == HELLO_BACK => "served".into(),
                other => format!("{other:?}"),
            }
        }),
    ]
}

fn connections_that_break() -> Vec<Case> {
    vec![
        case("half a frame, then the end of the stream", "end", |stage| {
            let mut stream = stage.session();
            let whole = frame(FIN | BINARY, HELLO);
            stream.write_all(&whole[..8]).expect("it takes them");
            stream.shutdown(Shutdown::Write).expect("half closed");
            how_it_ends(&mut stream)
        }),
        case("the end of the stream between frames", "end", |stage| {
            let mut stream = stage.session();
            stream.shutdown(Shutdown::Write).expect("half closed");
            how_it_ends(&mut stream)
        }),
    ]
}
