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
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::tls::{self, Tls, Wire};
use super::{Error, TlsProblem};
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
const FORM: &str = "ws://HOST:PORT/v1/ws, or wss:// with TLS";

pub(super) type Socket = WebSocketStream<Box<dyn Wire>>;

/// Where and how to connect.
#[derive(Clone)]
pub struct ConnectOptions {
    /// `ws://HOST:PORT/v1/ws`, or `wss://` with TLS.
    pub url: String,
    /// JWT; empty: none is sent.
    pub token: String,
    /// Whom to believe and what to show where the URL is `wss://`.
    pub tls: Tls,
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
            tls: Tls::default(),
            timeout: Duration::from_secs(10),
            reconnect: Reconnect::Within(Duration::from_secs(60)),
            in_flight_max: 4096,
        }
    }

    /// Checks URL, token and the files of TLS without connecting.
    ///
    /// # Errors
    /// [`Error::Address`]: what is wrong with them.
    pub fn check(&self) -> Result<(), Error> {
        request(self)?;
        self.tls.check().map_err(|reason| Error::Address {
            url: self.url.clone(),
            reason,
        })
    }
}

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is a secret.
        f.debug_struct("ConnectOptions")
            .field("url", &self.url)
            .field("tls", &self.tls)
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
    let request = request(options)?;
    let host = host(&request);
    let wire = wire(options, &request, &host).await?;
    // On the heap: the handshake's state is large, and lives for a moment.
    let connecting = client_async_with_config(request, wire, Some(config));
    let connecting: Pin<Box<dyn Future<Output = _> + Send + '_>> = Box::pin(connecting);
    let (mut socket, _response) = connecting
        .await
        .map_err(|error| refusal(&options.url, &host, error))?;
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
            Some(Err(error)) => return Err(broken(&options.url, &host, &error)),
            None => return Err(unreachable(&options.url, "it hung up".to_owned())),
        }
    }
}

/// The host of a URL, as a name or an address.
fn host(request: &Request) -> String {
    let host = request.uri().host().unwrap_or_default();
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    address.unwrap_or(host).to_owned()
}

/// A connection to the node, encrypted if the URL says so.
async fn wire(
    options: &ConnectOptions,
    request: &Request,
    host: &str,
) -> Result<Box<dyn Wire>, Error> {
    let encrypted = request.uri().scheme_str() == Some("wss");
    let port = request.uri().port_u16();
    let port = port.unwrap_or(if encrypted { 443 } else { 80 });
    let connected = TcpStream::connect((host, port)).await;
    let stream = connected
        .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
        .map_err(|error| unreachable(&options.url, error.to_string()))?;
    if !encrypted {
        return Ok(Box::new(stream));
    }
    tls::encrypt(&options.tls, host, stream)
        .await
        .map_err(|failure| match failure {
            tls::Failure::Given(reason) => Error::Address {
                url: options.url.clone(),
                reason,
            },
            tls::Failure::Met(problem) => without_tls(&options.url, problem),
        })
}

fn without_tls(url: &str, problem: TlsProblem) -> Error {
    Error::Tls {
        url: url.to_owned(),
        problem,
    }
}

fn request(options: &ConnectOptions) -> Result<Request, Error> {
    let wrong = |reason: String| Error::Address {
        url: options.url.clone(),
        reason,
    };
    match options.url.split_once("://").map(|(scheme, _)| scheme) {
        Some(scheme) if scheme.eq_ignore_ascii_case("ws") || scheme.eq_ignore_ascii_case("wss") => {
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

/// A connection that broke off, as the node's refusal of a certificate also shows itself.
fn broken(url: &str, host: &str, error: &tungstenite::Error) -> Error {
    let of_tls = match error {
        tungstenite::Error::Io(error) => tls::problem(host, error),
        _ => None,
    };
    match of_tls {
        Some(problem) => without_tls(url, problem),
        None => unreachable(url, error.to_string()),
    }
}

fn refusal(url: &str, host: &str, error: tungstenite::Error) -> Error {
    let tungstenite::Error::Http(response) = error else {
        return match error {
            tungstenite::Error::Url(_) => Error::Address {
                url: url.to_owned(),
                reason: error.to_string(),
            },
            error => broken(url, host, &error),
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
