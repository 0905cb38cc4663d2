//! EDGE-09: every limit that a client meets, at n and at n + 1, on a node with small ones.
//! EDGE-10: rates, likewise.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use arqonbus::proto::claims::Role;
use arqonbus::proto::v1::client_frame::Body as Ask;
use arqonbus::proto::v1::server_frame::Body;
use arqonbus::proto::v1::{
    ClientFrame, CommandRequest, Envelope, Event, Ping, Produce, ServerFrame, Subscribe, Value,
    envelope,
};
use prost::Message as _;

use crate::raw::{Request, frame, read_frame, read_rest};
use crate::support::{Node, claims, signed};

/// A session that says what it likes.
pub(crate) struct Session(pub(crate) TcpStream);

impl Session {
    /// As an operator of a tenant.
    pub(crate) fn of(node: &Node, tenant: &str) -> Self {
        let token = signed(&claims(tenant, Role::Operator), &node.dev_secret());
        Self::with(node, &token).expect("a session")
    }

    /// With a token; the status if that is refused.
    pub(crate) fn with(node: &Node, token: &str) -> Result<Self, u16> {
        let (answer, stream) = Request::upgrade().bearer(token).open(node.edge);
        if answer.status != 101 {
            return Err(answer.status);
        }
        let mut session = Self(stream);
        let welcome = session.next().expect("a frame").body;
        assert!(matches!(welcome, Some(Body::Welcome(_))), "{welcome:?}");
        Ok(session)
    }

    pub(crate) fn send(&mut self, request_id: u64, body: Ask) {
        let message = ClientFrame {
            request_id,
            body: Some(body),
        };
        let message = masked(0x82, &message.encode_to_vec());
        self.0.write_all(&message).expect("sent");
    }

    /// The next frame of the protocol, or the code of the close.
    pub(crate) fn next(&mut self) -> Result<ServerFrame, u16> {
        loop {
            let (first, payload) = read_frame(&mut self.0);
            match first {
                0x82 => return Ok(ServerFrame::decode(payload.as_slice()).expect("a frame")),
                0x88 => return Err(u16::from(payload[0]) << 8 | u16::from(payload[1])),
                0x89 => self.0.write_all(&masked(0x8a, &payload)).expect("sent"),
                other => panic!("a frame that begins with {other:x}"),
            }
        }
    }

    pub(crate) fn answer(&mut self, request_id: u64, body: Ask) -> Body {
        self.send(request_id, body);
        loop {
            let frame = self.next().expect("no close");
            if frame.request_id == request_id {
                return frame.body.expect("a body");
            }
        }
    }
}

/// A frame of any length, with a mask of zeros.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    if payload.len() < 126 {
        return frame(first, payload);
    }
    let mut bytes = vec![first, 0x80 | 127];
    let len = payload.len() as u64;
    bytes.extend((0..8).rev().map(|byte| (len >> (8 * byte) & 0xff) as u8));
    bytes.extend([0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

pub(crate) fn envelope(topic: &str, bytes: usize) -> Envelope {
    Envelope {
        topic: topic.into(),
        payload: Some(envelope::Payload::Event(Event {
            r#type: "t".into(),
            data: vec![1; bytes].into(),
        })),
        ..Envelope::default()
    }
}

pub(crate) fn produce(envelopes: &[Envelope]) -> Ask {
    Ask::Produce(Produce {
        envelopes: envelopes
            .iter()
            .map(|one| one.encode_to_vec().into())
            .collect(),
        ..Produce::default()
    })
}

/// What an answer says: "ok", or a code and a field.
fn said(body: &Body) -> String {
    match body {
        Body::Error(error) => {
            assert!(!error.message.is_empty());
            format!("{} {}", error.code, error.field)
        }
        _ => "ok".into(),
    }
}

fn asked(node: &Node, body: Ask) -> String {
    said(&Session::of(node, "t").answer(7, body))
}

/// An envelope of exactly so many bytes.
fn envelope_of(bytes: usize) -> Envelope {
    let about = envelope("a", bytes - 20).encoded_len();
    let exact = envelope("a", bytes - 20 + (bytes - about));
    assert_eq!(exact.encoded_len(), bytes);
    exact
}

fn with_headers(headers: &[(String, String)]) -> Ask {
    produce(&[Envelope {
        headers: headers.iter().cloned().collect(),
        ..envelope("a", 1)
    }])
}

/// A Ping whose whole message has so many bytes, and what comes of it.
fn message_of(node: &Node, bytes: usize) -> String {
    let ping = |data: usize| ClientFrame {
        request_id: 7,
        body: Some(Ask::Ping(Ping {
            data: vec![1; data].into(),
        })),
    };
    let about = ping(bytes - 20).encoded_len();
    let message = ping(bytes - 20 + (bytes - about)).encode_to_vec();
    assert_eq!(message.len(), bytes);
    let mut session = Session::of(node, "t");
    session.0.write_all(&masked(0x82, &message)).expect("sent");
    let answer = session.next().expect("an answer").body.expect("a body");
    match said(&answer).as_str() {
        "ok" => "ok".into(),
        refused => format!(
            "{refused}, closed {}",
            session.next().expect_err("it closes")
        ),
    }
}

/// What the last of so many subscriptions of one session is answered with.
fn subscribed(node: &Node, count: usize) -> String {
    let mut session = Session::of(node, "t");
    let ask = |subscription: usize| {
        Ask::Subscribe(Subscribe {
            subscription: subscription as u64,
            filter: "a".into(),
            ..Subscribe::default()
        })
    };
    let answers = (1..=count).map(|number| said(&session.answer(number as u64, ask(number))));
    answers.last().expect("an answer")
}

/// What the last of so many sessions is answered with.
fn opened(node: &Node, tenants: &[&str], count: usize) -> String {
    let mut held = Vec::new();
    let mut last = String::new();
    // A session that ended a moment ago may still be counted.
    let deadline = Instant::now() + Duration::from_secs(10);
    for number in 0..count {
        let tenant = tenants[number % tenants.len()];
        let token = signed(&claims(tenant, Role::User), &node.dev_secret());
        loop {
            match Session::with(node, &token) {
                Ok(session) => {
                    held.push(session);
                    last = "ok".into();
                }
                Err(_) if number + 1 < count && Instant::now() < deadline => continue,
                Err(status) => last = format!("status {status}"),
            }
            break;
        }
    }
    assert_eq!(
        held.len(),
        count.min(held.len() + 1) - usize::from(last != "ok")
    );
    last
}

type Probe = fn(&Node, usize) -> String;

/// What limits, how much, what is tried, and how one more is refused.
const TABLE: [(&str, usize, Probe, &str); 11] = [
    (
        "MESSAGE_BYTES_MAX",
        4_096,
        message_of,
        "TOO_LARGE message, closed 1009",
    ),
    (
        "ENVELOPE_BYTES_MAX",
        1_024,
        |node, n| asked(node, produce(&[envelope_of(n)])),
        "TOO_LARGE envelopes[0]",
    ),
    (
        "BATCH_RECORDS_MAX",
        3,
        |node, n| asked(node, produce(&vec![envelope("a", 1); n])),
        "TOO_LARGE envelopes",
    ),
    (
        "TOPIC_BYTES_MAX",
        16,
        |node, n| asked(node, produce(&[envelope(&"t".repeat(n), 1)])),
        "VALIDATION_ERROR envelopes[0].topic",
    ),
    (
        "TOPIC_DEPTH_MAX",
        3,
        |node, n| asked(node, produce(&[envelope(&vec!["t"; n].join("."), 1)])),
        "VALIDATION_ERROR envelopes[0].topic",
    ),
    (
        "HEADERS_MAX",
        2,
        |node, n| {
            let headers: Vec<_> = (0..n).map(|one| (one.to_string(), "v".into())).collect();
            asked(node, with_headers(&headers))
        },
        "TOO_LARGE envelopes[0].headers",
    ),
    (
        "HEADER_BYTES_MAX",
        20,
        |node, n| asked(node, with_headers(&[("name".into(), "v".repeat(n - 4))])),
        "TOO_LARGE envelopes[0].headers",
    ),
    ("SUBSCRIPTIONS_MAX", 2, subscribed, "TOO_LARGE subscription"),
    (
        "CREDIT_BYTES_MAX",
        5_000,
        |node, n| {
            let subscribe = Subscribe {
                subscription: 1,
                filter: "a".into(),
                credit_bytes: n as u64,
                ..Subscribe::default()
            };
            asked(node, Ask::Subscribe(subscribe))
        },
        "VALIDATION_ERROR credit_bytes",
    ),
    (
        "SESSIONS_MAX",
        4,
        |node, n| opened(node, &["a", "b"], n),
        "status 503",
    ),
    (
        "TENANT_SESSIONS_MAX",
        3,
        |node, n| opened(node, &["c"], n),
        "status 429",
    ),
];

// EDGE-09
#[test]
fn each_limit_lets_n_through_and_not_one_more() {
    let settings: Vec<_> = TABLE
        .iter()
        .map(|(name, limit, _, _)| (format!("ARQONBUS_LIMITS_{name}"), limit.to_string()))
        .collect();
    let settings: Vec<_> = settings
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .chain([("ARQONBUS_LIMITS_CREDIT_BYTES", "2048")])
        .collect();
    let node = Node::dev_with(&settings);
    for (name, limit, probe, refused) in TABLE {
        // Sessions of the probe before may still be counted.
        let started = Instant::now();
        while Request::get("/metrics")
            .send(node.ops)
            .text()
            .lines()
            .any(|line| {
                line.strip_prefix("arqon_edge_sessions ")
                    .is_some_and(|open| open != "0")
            })
        {
            assert!(started.elapsed() < Duration::from_secs(10), "{name}");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(probe(&node, limit), "ok", "{name} at {limit}");
        assert_eq!(probe(&node, limit + 1), refused, "{name} at {}", limit + 1);
    }
}

// EDGE-09: what is silent is asked, and closed if it does not answer.
#[test]
fn a_session_that_answers_pings_stays_and_one_that_does_not_is_closed() {
    let node = Node::dev_with(&[
        ("ARQONBUS_LIMITS_PING_AFTER_MS", "150"),
        ("ARQONBUS_LIMITS_PONG_TIMEOUT_MS", "150"),
    ]);
    let mut silent = Session::of(&node, "t");
    let mut answering = Session::of(&node, "t");
    let since = Instant::now();
    for _ in 0..4 {
        let (first, payload) = read_frame(&mut answering.0);
        assert_eq!(first, 0x89);
        let pong = masked(0x8a, &payload);
        answering.0.write_all(&pong).expect("sent");
    }
    assert!(
        since.elapsed() >= Duration::from_millis(450),
        "a ping in each silence"
    );
    assert!(matches!(
        answering.answer(1, Ask::Ping(Ping::default())),
        Body::Pong(_)
    ));
    assert_eq!(read_frame(&mut silent.0).0, 0x89);
    assert!(
        read_rest(&mut silent.0).is_empty(),
        "closed without another word"
    );
}

// EDGE-09: compression is never agreed on, so there is nothing to decompress.
#[test]
fn compression_is_not_agreed_on_and_a_compressed_frame_is_an_error() {
    let node = Node::dev();
    for offer in [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame",
    ] {
        let request = Request::upgrade()
            .bearer(&node.dev_token())
            .and("Sec-WebSocket-Extensions", offer);
        let (answer, stream) = request.open(node.edge);
        assert_eq!(answer.status, 101, "{offer}");
        assert_eq!(answer.header("sec-websocket-extensions"), None, "{offer}");
        let mut session = Session(stream);
        session.next().expect("a Welcome");
        session
            .0
            .write_all(&frame(0xc2, b"\x2a\x00"))
            .expect("sent");
        assert_eq!(session.next(), Err(1002), "{offer}");
    }
}

/// How a batch fares: `None` if it is stored, else the code, the field and the time to wait.
fn paid(session: &mut Session, envelopes: &[Envelope]) -> Option<(String, String, u64)> {
    match session.answer(9, produce(envelopes)) {
        Body::Produced(_) => None,
        Body::Error(error) => Some((error.code, error.field, error.retry_after_ms)),
        other => panic!("{other:?}"),
    }
}

// EDGE-10: at n and n + 1, by session and by tenant, in messages and in bytes.
#[test]
fn rates_let_the_burst_through_and_name_the_time_to_wait() {
    let one = envelope("a", 10);
    let bytes = one.encoded_len() * 5;
    let table = [
        ("SESSION_MESSAGES_PER_SECOND", 5, true),
        ("SESSION_BYTES_PER_SECOND", bytes, true),
        ("TENANT_MESSAGES_PER_SECOND", 5, false),
        ("TENANT_BYTES_PER_SECOND", bytes, false),
    ];
    for (name, limit, per_session) in table {
        let setting = format!("ARQONBUS_LIMITS_{name}");
        let node = Node::dev_with(&[(&setting, &limit.to_string())]);
        let (mut first, mut second) = (Session::of(&node, "t"), Session::of(&node, "t"));
        let mut foreign = Session::of(&node, "u");
        let batch = |count| vec![one.clone(); count];
        let never = paid(&mut first, &batch(6));
        assert_eq!(
            never,
            Some(("TOO_LARGE".into(), "envelopes".into(), 0)),
            "{name}"
        );
        assert_eq!(paid(&mut first, &batch(5)), None, "{name}");
        let since = Instant::now();
        let refused = paid(
            if per_session { &mut first } else { &mut second },
            &batch(4),
        );
        let (code, field, wait) = refused.expect("refused");
        assert_eq!(
            (code.as_str(), field.as_str()),
            ("RATE_LIMITED", "envelopes"),
            "{name}"
        );
        assert!((1..=800).contains(&wait), "{name}: {wait}");
        // Of another tenant nothing has been taken, nor of another session where that counts.
        assert_eq!(paid(&mut foreign, &batch(5)), None, "{name}");
        if per_session {
            assert_eq!(paid(&mut second, &batch(5)), None, "{name}");
        }
        std::thread::sleep(Duration::from_millis(wait).saturating_sub(since.elapsed()));
        assert_eq!(
            paid(&mut first, &batch(4)),
            None,
            "{name}: what was said is true"
        );
    }
}

// EDGE-10: a tenant's own rates are events, and so in force after a restart.
#[test]
fn a_tenants_own_rates_outlive_the_node_and_cannot_loosen() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = [("ARQONBUS_LIMITS_TENANT_MESSAGES_PER_SECOND", "100")];
    let set = |per_second: u64| {
        let arguments = [
            ("name", Value::from("noise")),
            ("pattern", Value::from("noise.>")),
            ("messages_per_second", Value::from(per_second)),
        ];
        Ask::Command(CommandRequest {
            name: "edge.rate.set".into(),
            arguments: arguments
                .map(|(name, value)| (name.to_owned(), value))
                .into(),
        })
    };
    let node = Node::dev_on_with(dir.path(), &settings);
    let mut admin = Session::with(&node, &node.dev_token()).expect("a session");
    assert_eq!(
        said(&admin.answer(1, set(101))),
        "VALIDATION_ERROR arguments.messages_per_second"
    );
    assert_eq!(said(&admin.answer(2, set(1))), "ok");
    drop((admin, node));

    let node = Node::dev_on_with(dir.path(), &settings);
    let mut session = Session::with(&node, &node.dev_token()).expect("a session");
    assert_eq!(paid(&mut session, &[envelope("noise.a", 1)]), None);
    let batch = [envelope("calm", 1), envelope("noise.b", 1)];
    let (code, field, wait) = paid(&mut session, &batch).expect("refused");
    assert_eq!(
        (code.as_str(), field.as_str()),
        ("RATE_LIMITED", "envelopes[1].topic")
    );
    assert!((1..=1_000).contains(&wait), "{wait}");
    assert_eq!(paid(&mut session, &[envelope("calm", 1)]), None);
}

// EDGE-10, EDGE-22
#[test]
fn an_address_that_connects_too_often_is_told_when_to_come_back() {
    let node = Node::dev_with(&[("ARQONBUS_LIMITS_ADDRESS_CONNECTIONS_PER_SECOND", "1")]);
    let request = Request::upgrade().bearer(&node.dev_token());
    let held: Vec<_> = (0..10).map(|_| request.open(node.edge)).collect();
    assert!(held.iter().all(|(answer, _)| answer.status == 101));
    let refused = (0..10)
        .map(|_| request.send(node.edge))
        .find(|answer| answer.status != 101);
    let refused = refused.expect("one is refused");
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (429, Some("5"))
    );
    assert_eq!(refused.json()["error"]["reason"], "too_often");
}

/// Writes the same frames over and over until the node has had enough; the code of its close.
pub(crate) fn flooded(session: &mut Session, frames: &[u8], rounds: usize) -> u16 {
    session.0.set_nonblocking(false).expect("blocking");
    for _ in 0..rounds {
        if session.0.write_all(frames).is_err() {
            break;
        }
    }
    let mut seen = Vec::new();
    match session.0.read_to_end(&mut seen) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    // Pongs may stand before it.
    let close = seen
        .windows(2)
        .position(|head| head[0] == 0x88 && head[1] >= 2);
    close.map_or(0, |at| {
        u16::from(seen[at + 2]) << 8 | u16::from(seen[at + 3])
    })
}
