//! WebSocket as the node speaks it, from a stream to its last close.
//!
//! Owns HTTP up to the 101 (sizes and times; whoever calls decides on the request), the limits of
//! frames and messages, and the code with which a peer that breaks the protocol is told to go. The
//! listener and `examples/echo.rs`, which conformance suites run against, both begin here. Must not
//! know tokens, tenants or what messages mean.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::http::request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::session::Metered;
use crate::config::Limits;

/// Request line and headers: an 8 KiB token and as much beside it.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;

/// tungstenite reads at most this much at once, allocates it when a connection starts, fills it
/// with zeros before every read, and keeps it: at its default (128 KiB) an idle session holds 135
/// KiB. What comes in bulk is read from the socket in larger pieces ([`Metered`]).
const READ_BUFFER_BYTES: usize = 2 << 10;
/// Frames smaller than this are gathered and leave with one system call, at the latest on flush.
/// The buffer is not allocated before it is used, and grows by what one message needs.
const WRITE_BUFFER_BYTES: usize = 64 << 10;

const TIMED_OUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 135\r\n\r\n{\"error\":{\"code\":\"INFRA_PROTOCOL_ERROR\",\"reason\":\"handshake_timeout\",\"message\":\"the request's head did not arrive in time; try again\"}}";

/// A stream whose peer has been promised a WebSocket.
#[derive(Debug)]
pub struct Upgraded<S, T = ()> {
    accepted: T,
    stream: S,
    early: Bytes,
}

impl<S, T> Upgraded<S, T> {
    /// Takes out what the decision has left.
    pub fn accepted(self) -> (Upgraded<S>, T) {
        let Self {
            accepted,
            stream,
            early,
        } = self;
        let rest = Upgraded {
            accepted: (),
            stream,
            early,
        };
        (rest, accepted)
    }
}

/// Reads one request from `stream` and answers it as `decide` says, all within `time`, and the head
/// within `head_time`. Where there is no WebSocket to be, the peer has read why, and the stream is
/// closed.
pub async fn upgrade<S, T, Decided>(
    stream: S,
    peer: SocketAddr,
    time: Duration,
    head_time: Duration,
    decide: impl Fn(request::Parts) -> Decided + Send + Sync,
) -> Option<Upgraded<S, T>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: Send,
    Decided: Future<Output = (Option<T>, Response<Full<Bytes>>)> + Send,
{
    // Where the connection finds it after the 101.
    let accepted: Mutex<Option<T>> = Mutex::default();
    let service = service_fn(|request: Request<Incoming>| {
        let (head, _body) = request.into_parts();
        let (decided, accepted) = (decide(head), &accepted);
        // Boxed, because hyper wants a future that can be moved.
        Box::pin(async move {
            let (found, response) = decided.await;
            *accepted.lock().unwrap_or_else(PoisonError::into_inner) = found;
            Ok::<_, Infallible>(response)
        })
    });
    // Not `keep_alive(false)`: that adds "close" to the Connection header of the 101, which
    // clients refuse. Refusals say "close" themselves, and nothing follows a 101.
    let mut connection = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .timer(TokioTimer::new())
        .header_read_timeout(time.min(head_time))
        .serve_connection(TokioIo::new(stream), service);
    let done = poll_fn(|context| connection.poll_without_shutdown(context));
    let outcome = tokio::time::timeout(time, done).await;
    let http1::Parts { io, read_buf, .. } = connection.into_parts();
    let mut stream = io.into_inner();
    let accepted = accepted
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let last_words: &[u8] = match (outcome, accepted) {
        (Ok(Ok(())), Some(accepted)) => {
            return Some(Upgraded {
                accepted,
                stream,
                early: read_buf,
            });
        }
        (Ok(Ok(())), None) => &[],
        (Ok(Err(error)), _) if !error.is_timeout() => {
            tracing::debug!(%error, %peer, "handshake failed");
            &[]
        }
        (Ok(Err(_)) | Err(_), _) => {
            tracing::debug!(%peer, "handshake timed out");
            TIMED_OUT
        }
    };
    Farewell::TO_A_STRANGER.say(&mut stream, last_words).await;
    None
}

/// What a peer may send.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    websocket: WebSocketConfig,
    small_frames_per_second: u32,
}

impl Terms {
    /// As the settings say.
    #[must_use]
    pub fn of(limits: &Limits) -> Self {
        // A message that is being written must fit beside what is waiting; the largest that the
        // node sends is a Deliver of one envelope of full size, or what it would itself accept.
        let largest = limits.deliver_bytes_max.max(limits.message_bytes_max);
        Self {
            websocket: WebSocketConfig::default()
                .read_buffer_size(READ_BUFFER_BYTES)
                .write_buffer_size(WRITE_BUFFER_BYTES)
                .max_write_buffer_size(2 * WRITE_BUFFER_BYTES + largest)
                .max_message_size(Some(limits.message_bytes_max))
                .max_frame_size(Some(limits.message_bytes_max))
                .accept_unmasked_frames(false),
            small_frames_per_second: limits.small_frames_per_second,
        }
    }

    /// The WebSocket after the 101; none for a peer that has sent before it.
    pub async fn begin<S>(&self, upgraded: Upgraded<S>) -> Option<WebSocketStream<Metered<S>>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Upgraded { stream, early, .. } = upgraded;
        let stream = Metered::new(stream, self.small_frames_per_second);
        let config = Some(self.websocket);
        let websocket =
            WebSocketStream::from_partially_read(stream, Vec::new(), Role::Server, config);
        let mut websocket = websocket.await;
        // hyper reads no further than the head once it has it, so these bytes were sent before the
        // 101: the peer does not know what was agreed on. (Even empty they may hold the buffer that
        // the request was read into; they go with this function.)
        if early.is_empty() {
            return Some(websocket);
        }
        let goodbye = say_goodbye(&mut websocket, CloseCode::Protocol, "early_data");
        if let Ok(Err(error)) = tokio::time::timeout(Farewell::TO_A_STRANGER.time, goodbye).await {
            tracing::trace!(%error, "the peer left first");
        }
        None
    }
}

/// Code and reason of the close that RFC 6455 wants after `error`; `None` if there is nobody left
/// to close with. `flooded`: the stream has met more small frames than it takes.
#[must_use]
pub fn close_after(error: &Error, flooded: bool) -> Option<(CloseCode, &'static str)> {
    match error {
        Error::Capacity(_) => Some((CloseCode::Size, "message_too_large")),
        Error::Io(_) if flooded => Some((CloseCode::Policy, "too_many_small_frames")),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some((CloseCode::Protocol, "protocol_error")),
        Error::Utf8(_) => Some((CloseCode::Invalid, "invalid_utf8")),
        _ => None,
    }
}

/// Closes after `error`, and takes nothing more in.
pub async fn break_off<S>(mut websocket: WebSocketStream<Metered<S>>, error: &Error)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some((code, reason)) = close_after(error, websocket.get_ref().is_flooded()) else {
        return;
    };
    let goodbye = say_goodbye(&mut websocket, code, reason);
    if let Ok(Err(error)) = tokio::time::timeout(Farewell::TO_A_SESSION.time, goodbye).await {
        tracing::trace!(%error, "the peer left first");
    }
    let stream = websocket.get_mut().inner();
    Farewell::TO_A_SESSION.say(stream, &[]).await;
}

async fn say_goodbye<S>(
    websocket: &mut WebSocketStream<Metered<S>>,
    code: CloseCode,
    reason: &'static str,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let reason = reason.into();
    let close = Message::Close(Some(CloseFrame { code, reason }));
    websocket.send(close).await
}

/// How long and how much is still read from a peer that is being left: it may be sending, and
/// closing at once would reset the connection and take our last words with it.
#[derive(Clone, Copy, Debug)]
pub struct Farewell {
    pub(in crate::edge) time: Duration,
    bytes_max: usize,
}

impl Farewell {
    /// To a peer that has had no session.
    pub const TO_A_STRANGER: Self = Self {
        time: Duration::from_secs(1),
        bytes_max: 256 << 10,
    };
    /// To a peer that has had one, and may be in the middle of a large message.
    pub const TO_A_SESSION: Self = Self {
        time: Duration::from_secs(2),
        bytes_max: 16 << 20,
    };

    /// Writes what is left to say, ends our side, and drops what the peer still sends.
    pub async fn say<S: AsyncRead + AsyncWrite + Unpin>(self, stream: &mut S, last_words: &[u8]) {
        let goodbye = async {
            stream.write_all(last_words).await?;
            stream.shutdown().await?;
            let mut rest = self.bytes_max;
            // Not on the stack, which would be part of every session's task from its beginning.
            let mut sink = vec![0; 4096];
            while rest > 0 {
                match stream.read(&mut sink).await? {
                    0 => break,
                    read => rest = rest.saturating_sub(read),
                }
            }
            Ok::<_, io::Error>(())
        };
        if let Ok(Err(error)) = tokio::time::timeout(self.time, goodbye).await {
            tracing::trace!(%error, "the peer left first");
        }
    }
}
