//! From a URL and a token to an open session: WebSocket handshake, then the node's Welcome.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use prost::Message as _;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::Error;
use crate::proto::ErrorCode;
use crate::proto::v1::{self, ServerFrame, server_frame::Body};

/// Name of the subprotocol.
const SUBPROTOCOL: &str = "arqon.v1";
/// Largest frame taken from a node. A node sends far smaller ones; this bounds what a broken one
/// can make us hold.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Enough to read many small frames by one system call.
const READ_BYTES: usize = 256 << 10;
/// Output gathered before it is written; what is left is written when there is nothing to add.
const WRITE_BYTES: usize = 256 << 10;

/// What a URL looks like.
const FORM: &str = "ws://HOST:PORT/v1/ws";
const WITHOUT_TLS: &str = "this build speaks ws:// only; put the plain side of a proxy or tunnel \
    that speaks TLS in between, like `ssh -L 9100:127.0.0.1:9100 HOST`, and use \
    ws://127.0.0.1:9100/v1/ws";

pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Where and how to connect.
#[derive(Clone)]
pub struct ConnectOptions {
    /// `ws://HOST:PORT/v1/ws`; `wss://` is refused, there is no TLS yet.
    pub url: String,
    /// JWT; empty: none is sent.
    pub token: String,
    /// How long connecting may take, Welcome included.
    pub timeout: Duration,
    /// What to do when the connection is lost.
    pub reconnect: Reconnect,
    /// Requests that may wait for their answers; more wait in the caller.
    pub in_flight_max: usize,
}

/// What to do when an established connection is lost. A first connection is tried once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reconnect {
    /// Everything fails.
    Never,
    /// Connect again, waiting longer each time and never exactly as long as others, and resume
    /// subscriptions at what was not yet delivered. Requests under way fail with
    /// [`Error::ConnectionLost`].
    Within(Duration),
}

impl ConnectOptions {
    /// Options with a time-out of ten seconds, reconnecting for up to a minute.
    #[must_use]
    pub fn new(url: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token: token.into(),
            timeout: Duration::from_secs(10),
            reconnect: Reconnect::Within(Duration::from_secs(60)),
            in_flight_max: 4096,
        }
    }

    /// Checks URL and token without connecting.
    ///
    /// # Errors
    /// [`Error::Address`]: what is wrong with them.
    pub fn check(&self) -> Result<(), Error> {
        request(self).map(|_request| ())
    }
}

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is a secret.
        f.debug_struct("ConnectOptions")
            .field("url", &self.url)
            .field("timeout", &self.timeout)
            .field("reconnect", &self.reconnect)
            .finish_non_exhaustive()
    }
}

pub(super) async fn open(options: &ConnectOptions) -> Result<(Socket, v1::Welcome), Error> {
    tokio::time::timeout(options.timeout, greet(options))
        .await
        .unwrap_or_else(|_elapsed| {
            Err(unreachable(
                &options.url,
                format!("no answer within {:?}", options.timeout),
            ))
        })
}

async fn greet(options: &ConnectOptions) -> Result<(Socket, v1::Welcome), Error> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(WRITE_BYTES)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    // On the heap: the handshake's state is large, and lives for a moment.
    let connecting = connect_async_with_config(request(options)?, Some(config), true);
    let connecting: Pin<Box<dyn Future<Output = _> + Send + '_>> = Box::pin(connecting);
    let (mut socket, _response) = connecting
        .await
        .map_err(|error| refusal(&options.url, error))?;
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) => return welcome(bytes).map(|hello| (socket, hello)),
            Some(Ok(Message::Close(frame))) => {
                let reason = frame.map_or_else(
                    || "it closed the connection".to_owned(),
                    |frame| format!("it closed the connection: {} {}", frame.code, frame.reason),
                );
                return Err(unreachable(&options.url, reason));
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                return Err(Error::unexpected("a Welcome"));
            }
            Some(Err(error)) => return Err(unreachable(&options.url, error.to_string())),
            None => return Err(unreachable(&options.url, "it hung up".to_owned())),
        }
    }
}

fn request(options: &ConnectOptions) -> Result<Request, Error> {
    let wrong = |reason: String| Error::Address {
        url: options.url.clone(),
        reason,
    };
    match options.url.split_once("://").map(|(scheme, _)| scheme) {
        Some(scheme) if scheme.eq_ignore_ascii_case("ws") => {}
        Some(scheme) if scheme.eq_ignore_ascii_case("wss") => {
            return Err(wrong(WITHOUT_TLS.to_owned()));
        }
        _ => return Err(wrong(format!("it is not of the form {FORM}"))),
    }
    let mut request = options
        .url
        .as_str()
        .into_client_request()
        .map_err(|error| wrong(format!("{error}; needed is a URL of the form {FORM}")))?;
    let headers = request.headers_mut();
    let protocol = HeaderName::from_static("sec-websocket-protocol");
    headers.insert(protocol, HeaderValue::from_static(SUBPROTOCOL));
    if !options.token.is_empty() {
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", options.token.trim()))
            .map_err(|error| wrong(format!("the token cannot stand in a header: {error}")))?;
        bearer.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, bearer);
    }
    Ok(request)
}

fn welcome(bytes: Bytes) -> Result<v1::Welcome, Error> {
    let frame = ServerFrame::decode(bytes).map_err(|error| Error::Protocol {
        reason: format!("first frame: {error}"),
    })?;
    match frame.body {
        Some(Body::Welcome(welcome)) => Ok(welcome),
        Some(Body::Error(error)) => Err(error.into()),
        _ => Err(Error::unexpected("a Welcome")),
    }
}

fn unreachable(url: &str, reason: String) -> Error {
    Error::Unreachable {
        url: url.to_owned(),
        reason,
    }
}

fn refusal(url: &str, error: tungstenite::Error) -> Error {
    let tungstenite::Error::Http(response) = error else {
        return match error {
            tungstenite::Error::Url(_) => Error::Address {
                url: url.to_owned(),
                reason: error.to_string(),
            },
            error => unreachable(url, error.to_string()),
        };
    };
    let status = response.status().as_u16();
    let body = response.into_body().unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    // Either the error itself or `{"error": {...}}`.
    let error = json
        .get("error")
        .filter(|inner| inner.is_object())
        .unwrap_or(&json);
    let text = |name: &str| error.get(name).and_then(serde_json::Value::as_str);
    let code = text("code")
        .or_else(|| text("error_code"))
        .and_then(ErrorCode::parse);
    let message = text("message").or_else(|| text("detail")).map_or_else(
        || match status {
            401 => "the token is missing, wrong or expired".to_owned(),
            _ => String::from_utf8_lossy(&body)
                .trim()
                .chars()
                .take(200)
                .collect(),
        },
        str::to_owned,
    );
    Error::Refused {
        url: url.to_owned(),
        status,
        code,
        message,
    }
}
