//! Takes connections and turns the good ones into sessions.
//!
//! Owns a connection from its first byte to the 101: time limits, size limits, the handshake's
//! answer, the token's verification, the seat. Afterwards the session owns it. One task a
//! connection until the 101, then a fresh one, so that an idle session does not hold the memory of
//! its handshake. A panic in either ends that connection alone.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{FutureExt as _, SinkExt as _};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::http::request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::handshake::{self, Refusal, Rules, Subprotocol};
use super::metrics::Metrics;
use super::rate::arrivals::Arrivals;
use super::seats::{Seat, Seats};
use super::session::{self, Metered, SessionContext};
use super::token::Verifier;
use crate::broker::{Filter, Identity, NameError, Tenant, Topics};
use crate::config::{Config, Limits, Profile};
use crate::log::{Clock, Micros};
use crate::proto::claims::{self, Claims};

const ROUTE: &str = "ws";
/// Request line and headers: an 8 KiB token and as much beside it.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;
/// After a refusal the peer may still be sending; closing at once would reset the connection and
/// take the answer with it.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_BYTES_MAX: usize = 256 << 10;
/// Pause after a failed accept: out of descriptors is not cured by asking again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// tungstenite reads at most this much at once, allocates it when a connection starts, fills it
/// with zeros before every read, and keeps it: at its default (128 KiB) an idle session holds 135
/// KiB. What comes in bulk is read from the socket in larger pieces ([`Metered`]).
const READ_BUFFER_BYTES: usize = 2 << 10;
/// Frames smaller than this are gathered and leave with one system call, at the latest on flush.
/// The buffer is not allocated before it is used, and grows by what one message needs.
const WRITE_BUFFER_BYTES: usize = 64 << 10;

/// Everything that a connection needs, shared by all.
#[derive(Debug)]
pub struct Door {
    rules: Rules,
    verifier: Arc<Verifier>,
    clock: Arc<dyn Clock>,
    seats: Arc<Seats>,
    arrivals: Arrivals,
    metrics: Arc<Metrics>,
    handshakes: Arc<Semaphore>,
    handshake_timeout: Duration,
    small_frames_per_second: u32,
    websocket: WebSocketConfig,
    draining: watch::Receiver<bool>,
    context: SessionContext,
}

/// What [`Door::new`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// Who may come in.
    pub verifier: Arc<Verifier>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where sessions are counted.
    pub seats: Arc<Seats>,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// Turns true when the node goes down.
    pub draining: watch::Receiver<bool>,
    /// What sessions are made with.
    pub context: SessionContext,
}

/// A connection that has been promised a session.
struct Admitted {
    identity: Identity,
    subprotocol: Subprotocol,
    seat: Seat,
}

impl Door {
    /// Ready for [`Door::serve`].
    #[must_use]
    pub fn new(config: &Config, profile: Profile, parts: Parts) -> Arc<Self> {
        let Parts {
            verifier,
            clock,
            seats,
            metrics,
            draining,
            context,
        } = parts;
        let limits = &config.limits;
        Arc::new(Self {
            rules: Rules {
                allowed_origins: config.edge.allowed_origins.clone(),
                profile,
            },
            verifier,
            clock,
            seats,
            arrivals: Arrivals::new(limits),
            metrics,
            handshakes: Arc::new(Semaphore::new(
                limits.handshakes_max.min(Semaphore::MAX_PERMITS),
            )),
            handshake_timeout: Duration::from_millis(limits.handshake_timeout_ms),
            small_frames_per_second: limits.small_frames_per_second,
            websocket: websocket(limits),
            draining,
            context,
        })
    }

    /// Takes connections until the node drains.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut draining = self.draining.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                // An error means that whoever could let the node drain is gone, so it is over too.
                _ = draining.wait_for(|draining| *draining) => return,
            };
            match accepted {
                Ok((stream, peer)) => self.clone().take(stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn take(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let Ok(permit) = Arc::clone(&self.handshakes).try_acquire_owned() else {
            // The kernel's buffer of a new connection takes the answer, so this does not wait.
            self.count(Refusal::NodeFull, Instant::now());
            if let Err(error) = stream.try_write(&raw_answer(Refusal::NodeFull)) {
                tracing::debug!(%error, %peer, "refused without an answer");
            }
            return;
        };
        tokio::spawn(async move {
            let metrics = Arc::clone(&self.metrics);
            contain(self.handshake(stream, peer, permit), &metrics, peer).await;
        });
    }

    async fn handshake(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, %peer, "cannot set TCP_NODELAY");
        }
        let admitted: Mutex<Option<Admitted>> = Mutex::default();
        let service = service_fn(|request: Request<Incoming>| {
            let (head, _body) = request.into_parts();
            let (door, admitted) = (&self, &admitted);
            // Boxed, because hyper wants a future that can be moved.
            Box::pin(async move { Ok::<_, Infallible>(door.answer(&head, peer, admitted).await) })
        });
        // Not `keep_alive(false)`: that adds "close" to the Connection header of the 101, which
        // clients refuse. Refusals say "close" themselves, and nothing follows a 101.
        let mut connection = http1::Builder::new()
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .timer(TokioTimer::new())
            .header_read_timeout(self.handshake_timeout / 2)
            .serve_connection(TokioIo::new(stream), service);
        let done = poll_fn(|context| connection.poll_without_shutdown(context));
        let outcome = tokio::time::timeout(self.handshake_timeout, done).await;
        let http1::Parts { io, read_buf, .. } = connection.into_parts();
        let stream = io.into_inner();
        let admitted = admitted
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        match (outcome, admitted) {
            (Ok(Ok(())), Some(admitted)) => {
                drop(permit);
                self.open(stream, peer, read_buf, admitted);
            }
            (Ok(Ok(())), None) => farewell(stream, &[]).await,
            (Ok(Err(error)), _) if !error.is_timeout() => {
                tracing::debug!(%error, %peer, "handshake failed");
                farewell(stream, &[]).await;
            }
            (Ok(Err(_)) | Err(_), _) => {
                tracing::debug!(%peer, "handshake timed out");
                farewell(stream, TIMED_OUT).await;
            }
        }
    }

    /// Decides, and leaves an [`Admitted`] where the connection finds it after the 101.
    async fn answer(
        &self,
        head: &request::Parts,
        peer: SocketAddr,
        admitted: &Mutex<Option<Admitted>>,
    ) -> Response<Full<Bytes>> {
        let started = Instant::now();
        match self.decide(head, peer).await {
            Ok((found, response)) => {
                self.metrics
                    .request(ROUTE, response.status().as_u16(), started.elapsed());
                *admitted.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
                response
            }
            Err(refusal) => {
                self.count(refusal, started);
                refusal.response()
            }
        }
    }

    async fn decide(
        &self,
        head: &request::Parts,
        peer: SocketAddr,
    ) -> Result<(Admitted, Response<Full<Bytes>>), Refusal> {
        if *self.draining.borrow() {
            return Err(Refusal::Draining);
        }
        // Before the token, which is what costs.
        if !self.arrivals.take_address(peer.ip()) {
            return Err(Refusal::TooOften);
        }
        let offer = handshake::examine(head, &self.rules)?;
        let claims = self
            .verifier
            .verify(offer.token, self.clock.now())
            .map_err(|reason| {
                tracing::info!(%reason, %peer, "token refused");
                Refusal::TokenInvalid
            })?;
        let identity = identity(&claims).map_err(|reason| {
            tracing::info!(%reason, %peer, "token with a tenant or pattern that cannot be served");
            Refusal::Forbidden
        })?;
        if let Some(reason) = self.revoked(&identity).await {
            tracing::info!(reason, %peer, "token refused: it is revoked");
            return Err(Refusal::TokenInvalid);
        }
        if !self.arrivals.take_tenant(&identity.tenant) {
            return Err(Refusal::TooOften);
        }
        let seat = self.seats.take(&identity.tenant)?;
        let response = offer.response();
        Ok((
            Admitted {
                identity,
                subprotocol: offer.subprotocol,
                seat,
            },
            response,
        ))
    }

    /// Why the bearer of a good token may not come in all the same. Where that cannot be found out
    /// the session does not begin either: it needs the same logs.
    async fn revoked(&self, identity: &Identity) -> Option<&'static str> {
        let (broker, shield) = (&self.context.broker, &self.context.shield);
        let guard = match shield.opened(&identity.tenant) {
            Some(guard) => guard,
            None => {
                let (broker, shield) = (Arc::clone(broker), Arc::clone(shield));
                let tenant = identity.tenant.clone();
                let open = move || broker.tenancy(&tenant).ok().map(|one| shield.open(&one));
                tokio::task::spawn_blocking(open).await.ok().flatten()?
            }
        };
        guard.rules().revocations.revoked(identity)
    }

    fn count(&self, refusal: Refusal, started: Instant) {
        self.metrics.handshake_refused(refusal.reason());
        self.metrics
            .request(ROUTE, refusal.status().as_u16(), started.elapsed());
    }

    fn open(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        early: Bytes,
        admitted: Admitted,
    ) {
        let Admitted {
            identity,
            subprotocol,
            seat,
        } = admitted;
        tokio::spawn(async move {
            let role = Role::Server;
            let websocket = WebSocketStream::from_partially_read(
                Metered::new(stream, self.small_frames_per_second),
                Vec::new(),
                role,
                Some(self.websocket),
            );
            let mut websocket = websocket.await;
            let is_early = !early.is_empty();
            // Even empty it may hold the buffer that the request was read into.
            drop(early);
            if is_early {
                refuse_early_data(&mut websocket).await;
                return;
            }
            let session = session::run(websocket, identity, subprotocol, self.context.clone());
            // Boxed: it lives as long as the session, and would be kept once for each hand it
            // passes through.
            contain(Box::pin(session), &self.metrics, peer).await;
            drop(seat);
        });
    }
}

/// Runs what serves one connection; a panic in it ends that connection and nothing else (REL-10).
pub(in crate::edge) async fn contain(
    connection: impl Future<Output = ()>,
    metrics: &Metrics,
    peer: SocketAddr,
) {
    let outcome = AssertUnwindSafe(connection).catch_unwind().await;
    if outcome.is_err() {
        metrics.panics.inc();
        tracing::error!(%peer, "what serves a connection panicked; it is closed, nothing else is");
    }
}

fn websocket(limits: &Limits) -> WebSocketConfig {
    // A message that is being written must fit beside what is waiting; the largest that the node
    // sends is a Deliver of one envelope of full size, or what it would itself accept.
    let largest = limits.deliver_bytes_max.max(limits.message_bytes_max);
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(2 * WRITE_BUFFER_BYTES + largest)
        .max_message_size(Some(limits.message_bytes_max))
        .max_frame_size(Some(limits.message_bytes_max))
        .accept_unmasked_frames(false)
}

/// What the broker wants to know of a token.
///
/// # Errors
/// The tenant or a pattern breaks the rules for names.
pub fn identity(claims: &Claims) -> Result<Identity, NameError> {
    Ok(Identity {
        tenant: Tenant::new(&claims.tenant)?,
        subject: claims.sub.clone(),
        role: match claims.role {
            claims::Role::User => crate::broker::Role::User,
            claims::Role::Operator => crate::broker::Role::Operator,
            claims::Role::Admin => crate::broker::Role::Admin,
            claims::Role::Controller => crate::broker::Role::Controller,
        },
        publish: topics(claims.publish.as_deref())?,
        subscribe: topics(claims.subscribe.as_deref())?,
        expires_at: Some(Micros(claims.exp.saturating_mul(1_000_000))),
        issued_at: claims.iat.map(|at| Micros(at.saturating_mul(1_000_000))),
        token_id: claims.jti.clone(),
    })
}

fn topics(patterns: Option<&[String]>) -> Result<Topics, NameError> {
    match patterns {
        None => Ok(Topics::All),
        Some(patterns) => patterns
            .iter()
            .map(|p| Filter::new(p))
            .collect::<Result<_, _>>()
            .map(Topics::Only),
    }
}

const TIMED_OUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 135\r\n\r\n{\"error\":{\"code\":\"INFRA_PROTOCOL_ERROR\",\"reason\":\"handshake_timeout\",\"message\":\"the request's head did not arrive in time; try again\"}}";

fn raw_answer(refusal: Refusal) -> Vec<u8> {
    let status = refusal.status();
    format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\nretry-after: {}\r\ncontent-length: 0\r\n\r\n",
        handshake::RETRY_AFTER_S
    )
    .into_bytes()
}

/// Lets the peer read the answer: writes what is left to say, ends our side, and drops what the
/// peer still sends, for a bounded time and size.
async fn farewell(mut stream: TcpStream, last_words: &[u8]) {
    let goodbye = async {
        stream.write_all(last_words).await?;
        stream.shutdown().await?;
        let mut rest = FAREWELL_BYTES_MAX;
        let mut sink = [0; 4096];
        while rest > 0 {
            match stream.read(&mut sink).await? {
                0 => break,
                read => rest = rest.saturating_sub(read),
            }
        }
        Ok::<_, io::Error>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(FAREWELL, goodbye).await {
        tracing::trace!(%error, "the peer left first");
    }
}

/// hyper reads no further than the head once it has it, so these bytes were sent before the 101:
/// the peer does not know what was agreed on.
async fn refuse_early_data(websocket: &mut WebSocketStream<Metered<TcpStream>>) {
    let frame = CloseFrame {
        code: CloseCode::Protocol,
        reason: "early_data".into(),
    };
    let close = websocket.send(Message::Close(Some(frame)));
    if let Ok(Err(error)) = tokio::time::timeout(FAREWELL, close).await {
        tracing::trace!(%error, "the peer left first");
    }
}
