//! Decides whether a request may become a WebSocket (EDGE-02, EDGE-12).
//!
//! Owns every check between a request's head and the 101 or the refusal, each refusal with its
//! status, its code and a text that says what to try. Reads heads only: must not know sockets,
//! keys or sessions.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode, Version};
use serde_json::json;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::config::Profile;
use crate::proto::ErrorCode;

/// Paths that lead to a session.
pub const PATHS: [&str; 3] = ["/v1/ws", "/ws", "/"];
/// Prefix of the subprotocol by which browsers send their token: they can set no header.
const BEARER_SUBPROTOCOL: &str = "bearer.";
const URI_BYTES_MAX: usize = 4 << 10;
pub(super) const REALM: &str = "Bearer realm=\"arqonbus\"";
const INVALID_TOKEN: &str = "Bearer realm=\"arqonbus\", error=\"invalid_token\"";
const INSUFFICIENT_SCOPE: &str = "Bearer realm=\"arqonbus\", error=\"insufficient_scope\"";

/// What a session's messages hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subprotocol {
    /// `arqon.v1`: frames.
    Frames,
    /// `arqon.envelope.v1`: one envelope a message.
    Envelopes,
    /// `arqon.json.v1`: one JSON object a message.
    Json,
    /// None was offered: the first message decides between JSON and envelopes.
    Unnamed,
}

impl Subprotocol {
    const fn name(self) -> Option<&'static str> {
        match self {
            Self::Frames => Some("arqon.v1"),
            Self::Envelopes => Some("arqon.envelope.v1"),
            Self::Json => Some("arqon.json.v1"),
            Self::Unnamed => None,
        }
    }
}

/// What the checks go by.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Origins that browsers may come from.
    pub allowed_origins: Vec<String>,
    /// In development, loopback origins and a token in the query pass too.
    pub profile: Profile,
    /// Whether JSON is served.
    pub json: bool,
}

/// A request that may become a WebSocket if its token is good, or, where it has none, the
/// certificate of its connection.
#[derive(Debug)]
pub struct Offer<'a> {
    /// The bearer token.
    pub token: Option<&'a str>,
    /// What was agreed on.
    pub subprotocol: Subprotocol,
    accept: Accept,
}

/// The proof for the client that its request has been understood.
#[derive(Debug)]
pub struct Accept(String);

/// Why a request does not become a WebSocket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Not HTTP/1.1.
    HttpVersion,
    /// No Host, or several.
    Host,
    /// A path that is none of [`PATHS`].
    Path,
    /// Not GET.
    Method,
    /// The URI is too long.
    Uri,
    /// The request has a body.
    Body,
    /// No `Upgrade: websocket` with `Connection: Upgrade`.
    Upgrade,
    /// A `Sec-WebSocket-Version` other than 13.
    WebSocketVersion,
    /// No `Sec-WebSocket-Key` of 16 bytes.
    WebSocketKey,
    /// A browser from elsewhere.
    Origin,
    /// None of the subprotocols offered is known, or one is offered twice.
    Subprotocol,
    /// The JSON subprotocol alone, where JSON is not served.
    JsonSubprotocol,
    /// No token.
    TokenMissing,
    /// Several tokens.
    TokenAmbiguous,
    /// A token in the query, outside of development.
    TokenInQuery,
    /// A token that does not pass; which check failed is for the log.
    TokenInvalid,
    /// A good token whose tenant or patterns cannot be served.
    Forbidden,
    /// A client certificate that names nobody who can be served, or not the tenant of the token.
    Certificate,
    /// It cannot be decided whether the token is good: keys or revocations are not there.
    NotReady,
    /// The tenant has all the sessions it may have.
    TenantFull,
    /// This address, or this tenant, comes too often.
    TooOften,
    /// The node has all the sessions it may have.
    NodeFull,
    /// The node is going down.
    Draining,
}

/// Seconds after which a client that met a limit should come back.
pub(super) const RETRY_AFTER_S: &str = "5";

/// What a refusal looks like from outside.
struct Face {
    status: StatusCode,
    code: ErrorCode,
    reason: &'static str,
    message: &'static str,
    header: Option<(HeaderName, &'static str)>,
}

impl Refusal {
    /// Stable short name of the reason, for bodies and metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        self.face().reason
    }

    /// The HTTP status it is answered with.
    #[must_use]
    pub fn status(self) -> StatusCode {
        self.face().status
    }

    /// The answer: `{"error":{"code","reason","message"}}`.
    #[must_use]
    pub fn response(self) -> Response<Full<Bytes>> {
        let face = self.face();
        let error = json!({
            "error": {
                "code": face.code.as_str(),
                "reason": face.reason,
                "message": face.message,
            }
        });
        let mut response = Response::new(Full::new(Bytes::from(error.to_string())));
        *response.status_mut() = face.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        if let Some((name, value)) = face.header {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }

    #[expect(
        clippy::too_many_lines,
        reason = "one exhaustive match: the table of refusals"
    )]
    fn face(self) -> Face {
        let face = |status, code, reason, message| Face {
            status,
            code,
            reason,
            message,
            header: None,
        };
        match self {
            Self::HttpVersion => face(
                StatusCode::BAD_REQUEST,
                ErrorCode::InfraProtocolError,
                "bad_request",
                "a WebSocket handshake needs HTTP/1.1",
            ),
            Self::Host => face(
                StatusCode::BAD_REQUEST,
                ErrorCode::InfraProtocolError,
                "bad_request",
                "the request needs exactly one Host header",
            ),
            Self::Path => face(
                StatusCode::NOT_FOUND,
                ErrorCode::NotFound,
                "not_found",
                "nothing here; sessions are at /v1/ws",
            ),
            Self::Method => Face {
                header: Some((header::ALLOW, "GET")),
                ..face(
                    StatusCode::METHOD_NOT_ALLOWED,
                    ErrorCode::InfraProtocolError,
                    "method_not_allowed",
                    "a WebSocket handshake is a GET",
                )
            },
            Self::Uri => face(
                StatusCode::URI_TOO_LONG,
                ErrorCode::TooLarge,
                "headers_too_large",
                "the URI is longer than 4096 bytes",
            ),
            Self::Body => face(
                StatusCode::BAD_REQUEST,
                ErrorCode::InfraProtocolError,
                "early_data",
                "a WebSocket handshake has no body; send frames after the 101",
            ),
            Self::Upgrade => Face {
                header: Some((header::UPGRADE, "websocket")),
                ..face(
                    StatusCode::UPGRADE_REQUIRED,
                    ErrorCode::InfraProtocolError,
                    "upgrade_required",
                    "this address speaks WebSocket: send `Connection: Upgrade` and `Upgrade: websocket`",
                )
            },
            Self::WebSocketVersion => Face {
                header: Some((header::SEC_WEBSOCKET_VERSION, "13")),
                ..face(
                    StatusCode::UPGRADE_REQUIRED,
                    ErrorCode::InfraProtocolError,
                    "ws_version",
                    "Sec-WebSocket-Version must be 13",
                )
            },
            Self::WebSocketKey => face(
                StatusCode::BAD_REQUEST,
                ErrorCode::InfraProtocolError,
                "ws_key",
                "Sec-WebSocket-Key must be 16 bytes in base64",
            ),
            Self::Origin => face(
                StatusCode::FORBIDDEN,
                ErrorCode::Forbidden,
                "origin",
                "this Origin may not connect; the operator allows it with edge.allowed_origins",
            ),
            Self::Subprotocol => face(
                StatusCode::BAD_REQUEST,
                ErrorCode::InfraProtocolError,
                "subprotocol",
                "offer the subprotocol arqon.v1 (or arqon.envelope.v1), once, beside bearer.<token> if that is used",
            ),
            Self::JsonSubprotocol => face(
                StatusCode::BAD_REQUEST,
                ErrorCode::InfraProtocolError,
                "subprotocol",
                "this node does not serve arqon.json.v1; offer arqon.v1, or have the operator set json_adapter.enabled",
            ),
            Self::TokenMissing => Face {
                header: Some((header::WWW_AUTHENTICATE, REALM)),
                ..face(
                    StatusCode::UNAUTHORIZED,
                    ErrorCode::Unauthenticated,
                    "auth_missing",
                    "send a token: `Authorization: Bearer <token>`, or the subprotocol bearer.<token>",
                )
            },
            Self::TokenAmbiguous => face(
                StatusCode::BAD_REQUEST,
                ErrorCode::ValidationError,
                "auth_ambiguous",
                "send one token in one place",
            ),
            Self::TokenInQuery => face(
                StatusCode::BAD_REQUEST,
                ErrorCode::ValidationError,
                "token_in_query",
                "a token in the URI ends up in logs; send it in the Authorization header",
            ),
            Self::TokenInvalid => Face {
                header: Some((header::WWW_AUTHENTICATE, INVALID_TOKEN)),
                ..face(
                    StatusCode::UNAUTHORIZED,
                    ErrorCode::Unauthenticated,
                    "auth_invalid",
                    "the token is not valid; get a new one",
                )
            },
            Self::Forbidden => Face {
                header: Some((header::WWW_AUTHENTICATE, INSUFFICIENT_SCOPE)),
                ..face(
                    StatusCode::FORBIDDEN,
                    ErrorCode::Forbidden,
                    "forbidden",
                    "the token is good, but its tenant or patterns cannot be served",
                )
            },
            Self::Certificate => face(
                StatusCode::FORBIDDEN,
                ErrorCode::Forbidden,
                "certificate",
                "the client certificate does not name a tenant and subject in the form that this node wants, is revoked, or names another tenant than the token",
            ),
            Self::NotReady => Face {
                header: Some((header::RETRY_AFTER, RETRY_AFTER_S)),
                ..face(
                    StatusCode::SERVICE_UNAVAILABLE,
                    ErrorCode::StorageFailure,
                    "not_ready",
                    "the node cannot decide on this token yet; come back",
                )
            },
            Self::TenantFull => Face {
                header: Some((header::RETRY_AFTER, RETRY_AFTER_S)),
                ..face(
                    StatusCode::TOO_MANY_REQUESTS,
                    ErrorCode::RateLimited,
                    "rate_limited",
                    "the tenant has as many sessions as it may have; close one or come back",
                )
            },
            Self::TooOften => Face {
                header: Some((header::RETRY_AFTER, RETRY_AFTER_S)),
                ..face(
                    StatusCode::TOO_MANY_REQUESTS,
                    ErrorCode::RateLimited,
                    "too_often",
                    "too many connections were opened from here lately; come back later",
                )
            },
            Self::NodeFull => Face {
                header: Some((header::RETRY_AFTER, RETRY_AFTER_S)),
                ..face(
                    StatusCode::SERVICE_UNAVAILABLE,
                    ErrorCode::RateLimited,
                    "unavailable",
                    "the node has as many connections as it may have; come back",
                )
            },
            Self::Draining => Face {
                header: Some((header::RETRY_AFTER, RETRY_AFTER_S)),
                ..face(
                    StatusCode::SERVICE_UNAVAILABLE,
                    ErrorCode::ShuttingDown,
                    "unavailable",
                    "the node is going down; come back",
                )
            },
        }
    }
}

/// Checks that a request's head asks for a WebSocket as RFC 6455 section 4.2.1 wants it, and nothing
/// else of it.
///
/// # Errors
/// The first thing that is wrong, in the order of that section.
pub fn upgradable(head: &Parts) -> Result<Accept, Refusal> {
    let headers = &head.headers;
    ensure(head.version == Version::HTTP_11, Refusal::HttpVersion)?;
    let host = single(headers, &header::HOST).ok().flatten();
    ensure(host.is_some_and(|host| !host.is_empty()), Refusal::Host)?;
    let uri_bytes = head
        .uri
        .path_and_query()
        .map_or(0, |uri| uri.as_str().len());
    ensure(uri_bytes <= URI_BYTES_MAX, Refusal::Uri)?;
    ensure(PATHS.contains(&head.uri.path()), Refusal::Path)?;
    ensure(head.method == Method::GET, Refusal::Method)?;
    let upgrade = lists(headers, &header::UPGRADE, "websocket")
        && lists(headers, &header::CONNECTION, "upgrade");
    ensure(upgrade, Refusal::Upgrade)?;
    ensure(!has_body(headers), Refusal::Body)?;
    let version = single(headers, &header::SEC_WEBSOCKET_VERSION)
        .ok()
        .flatten();
    ensure(version == Some("13"), Refusal::WebSocketVersion)?;
    let key = single(headers, &header::SEC_WEBSOCKET_KEY).ok().flatten();
    let key = key.filter(|key| STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16));
    let key = key.ok_or(Refusal::WebSocketKey)?;
    Ok(Accept(derive_accept_key(key.as_bytes())))
}

/// Checks a request's head.
///
/// # Errors
/// The first thing that is wrong: what [`upgradable`] finds, then origin, subprotocol and token.
pub fn examine<'a>(head: &'a Parts, rules: &Rules) -> Result<Offer<'a>, Refusal> {
    let accept = upgradable(head)?;
    let headers = &head.headers;
    check_origin(headers, rules)?;
    let (subprotocol, from_subprotocol) = subprotocol(headers, rules.json)?;
    let token = token(head, rules, from_subprotocol)?;
    Ok(Offer {
        token,
        subprotocol,
        accept,
    })
}

impl Offer<'_> {
    /// The 101. The token that came as a subprotocol is never echoed.
    #[must_use]
    pub fn response(&self) -> Response<Full<Bytes>> {
        self.accept.response(self.subprotocol)
    }
}

impl Accept {
    /// The 101.
    #[must_use]
    pub fn response(&self, subprotocol: Subprotocol) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        if let Ok(accept) = HeaderValue::from_str(&self.0) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(name) = subprotocol.name() {
            headers.insert(
                header::SEC_WEBSOCKET_PROTOCOL,
                HeaderValue::from_static(name),
            );
        }
        response
    }
}

fn ensure(holds: bool, refusal: Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal) }
}

/// More than one header of a name, or one that is no text.
struct NotSingle;

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, NotSingle> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value
            .to_str()
            .map(|text| Some(text.trim()))
            .or(Err(NotSingle)),
        (Some(_), Some(_)) => Err(NotSingle),
    }
}

/// The items of a comma-separated header that may come several times.
fn items<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    items(headers, name).any(|item| item.eq_ignore_ascii_case(wanted))
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING)
        || headers
            .get_all(header::CONTENT_LENGTH)
            .iter()
            .any(|length| length != "0")
}

/// A client without an Origin is no browser, and so cannot be steered by a foreign page; a browser
/// has no credentials of ours to send along without its page knowing the token.
fn check_origin(headers: &HeaderMap, rules: &Rules) -> Result<(), Refusal> {
    let Some(origin) = single(headers, &header::ORIGIN).or(Err(Refusal::Origin))? else {
        return Ok(());
    };
    let allowed = rules
        .allowed_origins
        .iter()
        .any(|allowed| allowed == origin);
    let loopback = rules.profile == Profile::Development && is_loopback_origin(origin);
    ensure(allowed || loopback, Refusal::Origin)
}

fn is_loopback_origin(origin: &str) -> bool {
    let Some(host) = origin.strip_prefix("http://") else {
        return false;
    };
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| {
        host.strip_prefix(name).is_some_and(|rest| {
            rest.is_empty()
                || rest
                    .strip_prefix(':')
                    .is_some_and(|port| port.parse::<u16>().is_ok())
        })
    })
}

/// The subprotocol agreed on, and the token among those offered.
fn subprotocol(headers: &HeaderMap, json: bool) -> Result<(Subprotocol, Option<&str>), Refusal> {
    let offered: Vec<&str> = items(headers, &header::SEC_WEBSOCKET_PROTOCOL).collect();
    if offered.is_empty() {
        return Ok((Subprotocol::Unnamed, None));
    }
    let (bearers, names): (Vec<&str>, Vec<&str>) = offered
        .into_iter()
        .partition(|item| item.starts_with(BEARER_SUBPROTOCOL));
    let token = match bearers.as_slice() {
        [] => None,
        [bearer] => bearer.strip_prefix(BEARER_SUBPROTOCOL),
        _ => return Err(Refusal::TokenAmbiguous),
    };
    let twice = names
        .iter()
        .enumerate()
        .any(|(at, name)| names.iter().skip(at + 1).any(|n| n == name));
    ensure(!twice, Refusal::Subprotocol)?;
    let known = [
        Subprotocol::Frames,
        Subprotocol::Envelopes,
        Subprotocol::Json,
    ];
    let of = |name: &&str| known.into_iter().find(|known| known.name() == Some(*name));
    let is_served = |known: &Subprotocol| json || *known != Subprotocol::Json;
    let agreed = names.iter().filter_map(of).find(is_served);
    match agreed {
        Some(agreed) => Ok((agreed, token)),
        None if names.iter().filter_map(of).next().is_some() => Err(Refusal::JsonSubprotocol),
        None => Err(Refusal::Subprotocol),
    }
}

/// The one token of a request, wherever it stands; an empty one is an attempt and no absence.
fn token<'a>(
    head: &'a Parts,
    rules: &Rules,
    from_subprotocol: Option<&'a str>,
) -> Result<Option<&'a str>, Refusal> {
    let authorization =
        single(&head.headers, &header::AUTHORIZATION).or(Err(Refusal::TokenAmbiguous))?;
    let query = head.uri.query().unwrap_or_default();
    let mut in_query = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("token="));
    let from_query = in_query.next();
    if from_query.is_some() && rules.profile != Profile::Development {
        return Err(Refusal::TokenInQuery);
    }
    ensure(in_query.next().is_none(), Refusal::TokenAmbiguous)?;
    let places = [authorization, from_subprotocol, from_query];
    ensure(
        places.iter().flatten().count() <= 1,
        Refusal::TokenAmbiguous,
    )?;
    let from_header = match authorization {
        Some(value) => Some(bearer(value).ok_or(Refusal::TokenMissing)?),
        None => None,
    };
    let token = from_header.or(from_subprotocol).or(from_query);
    ensure(token != Some(""), Refusal::TokenMissing)?;
    Ok(token)
}

/// The token of an `Authorization: Bearer` value; `None` for another scheme.
#[must_use]
pub fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_start())
}
