//! A session by hand, so that a test sees how it ends.

use std::io::Write as _;
use std::net::TcpStream;

use arqonbus::proto::v1::client_frame::Body as Ask;
use arqonbus::proto::v1::server_frame::Body;
use arqonbus::proto::v1::{ClientFrame, Deliver, Envelope, Ping, ServerFrame};
use prost::Message as _;

use crate::raw::{Request, read_frame};
use crate::support::Node;

/// A connection of `arqon.v1` or `arqon.envelope.v1`.
pub(crate) struct Session {
    stream: TcpStream,
    /// What was delivered while something else was waited for.
    pub(crate) delivered: Vec<Deliver>,
}

/// What a node has said.
#[derive(Debug)]
pub(crate) enum Heard {
    Message(Vec<u8>),
    Closed(u16, String),
}

impl Session {
    /// One that has been welcomed.
    pub(crate) fn open(node: &Node, token: &str) -> Self {
        let (answer, stream) = Request::upgrade().bearer(token).open(node.edge);
        assert_eq!(answer.status, 101, "{}", answer.head);
        let mut session = Self::of(stream);
        let welcome = session.next();
        assert!(matches!(welcome, Body::Welcome(_)), "{welcome:?}");
        session
    }

    /// One of the older protocol.
    pub(crate) fn of_envelopes(node: &Node, token: &str) -> Self {
        let request = Request::upgrade().with("Sec-WebSocket-Protocol", "arqon.envelope.v1");
        let (answer, stream) = request.bearer(token).open(node.edge);
        assert_eq!(answer.status, 101, "{}", answer.head);
        Self::of(stream)
    }

    const fn of(stream: TcpStream) -> Self {
        let delivered = Vec::new();
        Self { stream, delivered }
    }

    pub(crate) fn heard(&mut self) -> Heard {
        let (first, payload) = read_frame(&mut self.stream);
        match first {
            0x82 => Heard::Message(payload),
            0x88 => {
                let code = u16::from(payload[0]) << 8 | u16::from(payload[1]);
                let reason = String::from_utf8_lossy(&payload[2..]).into_owned();
                Heard::Closed(code, reason)
            }
            other => panic!("a frame {other:#x}"),
        }
    }

    pub(crate) fn next(&mut self) -> Body {
        match self.heard() {
            Heard::Message(bytes) => {
                let frame = ServerFrame::decode(bytes.as_slice()).expect("a frame");
                frame.body.expect("a body")
            }
            Heard::Closed(code, reason) => panic!("closed: {code} {reason}"),
        }
    }

    pub(crate) fn next_envelope(&mut self) -> Envelope {
        match self.heard() {
            Heard::Message(bytes) => Envelope::decode(bytes.as_slice()).expect("an envelope"),
            Heard::Closed(code, reason) => panic!("closed: {code} {reason}"),
        }
    }

    /// Waits for the end; frames that come first are passed over.
    pub(crate) fn closed(&mut self) -> (u16, String) {
        loop {
            if let Heard::Closed(code, reason) = self.heard() {
                return (code, reason);
            }
        }
    }

    pub(crate) fn ask(&mut self, body: Ask) -> Body {
        let frame = ClientFrame {
            request_id: 1,
            body: Some(body),
        };
        let payload = frame.encode_to_vec();
        let len = u16::try_from(payload.len()).expect("a short frame");
        // The network's order.
        let [low, high] = len.to_le_bytes();
        let mut bytes = vec![0x82, 0x80 | 126, high, low, 0, 0, 0, 0];
        bytes.extend_from_slice(&payload);
        self.stream.write_all(&bytes).expect("it is sent");
        loop {
            match self.next() {
                Body::Deliver(deliver) => self.delivered.push(deliver),
                other => return other,
            }
        }
    }

    /// Whether the node still answers.
    pub(crate) fn lives(&mut self) -> bool {
        let ping = Ask::Ping(Ping::default());
        matches!(self.ask(ping), Body::Pong(_))
    }
}

/// The status that a handshake with `token` is answered with.
pub(crate) fn status(node: &Node, token: &str) -> u16 {
    Request::upgrade().bearer(token).open(node.edge).0.status
}
