//! `arqon.v1` by hand: one session over a raw socket, one frame at a time.
#![expect(
    clippy::big_endian_bytes,
    reason = "RFC 6455 writes lengths and codes in network order"
)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use arqonbus::proto::claims::Claims;
use arqonbus::proto::v1::client_frame::Body as Ask;
use arqonbus::proto::v1::{ClientFrame, ServerFrame};
use prost::Message as _;

use crate::raw::{Request, read_frame};
use crate::support::{Node, signed};

/// A session whose Welcome has been read.
pub(crate) struct Wire(TcpStream);

impl Wire {
    /// With a token that the node's development secret signs.
    pub(crate) fn of(node: &Node, who: &Claims) -> Self {
        Self::with(node, &signed(who, &node.dev_secret()))
    }

    pub(crate) fn with(node: &Node, token: &str) -> Self {
        let (answer, mut stream) = Request::upgrade().bearer(token).open(node.edge);
        assert_eq!(answer.status, 101, "{}", answer.head);
        let (first, _welcome) = read_frame(&mut stream);
        assert_eq!(first, 0x82, "the Welcome is one binary message");
        Self(stream)
    }

    /// Sends a request, with the number 9.
    pub(crate) fn send(&mut self, body: Ask) {
        let frame = ClientFrame {
            request_id: 9,
            body: Some(body),
        };
        self.send_bytes(&frame.encode_to_vec());
    }

    /// Sends a binary message of any content.
    pub(crate) fn send_bytes(&mut self, payload: &[u8]) {
        let mut bytes = vec![0x82, 0xff];
        bytes.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        // A mask of zeros.
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(payload);
        self.0.write_all(&bytes).expect("the node takes it");
    }

    /// The next frame, or how the session ended: `close CODE reason`.
    pub(crate) fn next(&mut self) -> Result<ServerFrame, String> {
        loop {
            let mut head = [0; 2];
            self.read(&mut head)?;
            let length = match head[1] {
                126 => {
                    let mut length = [0; 2];
                    self.read(&mut length)?;
                    usize::from(u16::from_be_bytes(length))
                }
                127 => {
                    let mut length = [0; 8];
                    self.read(&mut length)?;
                    usize::try_from(u64::from_be_bytes(length)).expect("a length of this machine")
                }
                short => usize::from(short),
            };
            let mut payload = vec![0; length];
            self.read(&mut payload)?;
            match head[0] {
                0x82 => return Ok(ServerFrame::decode(payload.as_slice()).expect("a frame")),
                0x88 => {
                    let (code, reason) = payload.split_at(2);
                    let code = u16::from_be_bytes([code[0], code[1]]);
                    let reason = String::from_utf8_lossy(reason);
                    return Err(format!("close {code} {reason}"));
                }
                _ => {}
            }
        }
    }

    /// Sends a request and waits for what comes next.
    pub(crate) fn ask(&mut self, body: Ask) -> Result<ServerFrame, String> {
        self.send(body);
        self.next()
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        self.0
            .read_exact(bytes)
            .map_err(|error| error.kind().to_string())
    }
}
