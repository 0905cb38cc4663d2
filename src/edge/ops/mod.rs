//! The operations listener: health, status, metrics and the admin API over HTTP (TOOL-18, EDGE-23).
//!
//! Owns the listener, its connections and the counting of its requests. What anybody who reaches it
//! may see names no tenant; all else wants a token outside of development. Must not know frames.
//!
//! - [`routes`]: every route there is, once; router, documents and metrics are made of it.
//! - `access`: who asks; `refusals`: who was turned away; `answer`: how a refusal looks.
//! - `health`, `status`, `exposition`: what machines and people watch.
//! - `admin`: the commands over HTTP; `arguments`: their arguments in JSON.
//! - [`mod@reference`]: the commands as a document.
//! - `openapi`, `asyncapi`: what there is, for programs.

mod access;
mod admin;
mod answer;
mod arguments;
mod asyncapi;
mod exposition;
mod health;
mod openapi;
pub mod reference;
mod refusals;
pub mod routes;
mod status;
pub mod webhooks;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

pub use self::refusals::Refusals;
use super::checkup::Checkup;
use super::metrics::Metrics;
use super::seats::Seats;
use super::shield::Shield;
use super::tls::Tls;
use super::tls::accept::{self, Denied};
use super::token::Verifier;
use crate::broker::Broker;
use crate::config::{self, Profile};
use crate::log::Clock;
use crate::projections::Projections;

const OTHER_ROUTE: &str = "other";
/// Request line and headers: an 8 KiB token and as much beside it.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Pause after a failed accept: out of descriptors is not cured by asking again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";

/// What the operations listener shows.
#[derive(Debug)]
pub struct Ops {
    /// How much `/status` insists on.
    pub profile: Profile,
    /// The node's name.
    pub node: String,
    /// When it started.
    pub started: Instant,
    /// Its realities.
    pub broker: Arc<Broker>,
    /// What is known of the logs that are not open.
    pub checkup: Arc<Checkup>,
    /// Where its logs are.
    pub data: PathBuf,
    /// Room that a log needs at least to go on, in bytes: the smallest segment that takes a full
    /// group.
    pub room_bytes_min: u64,
    /// Its sessions.
    pub seats: Arc<Seats>,
    /// Its counters.
    pub metrics: Arc<Metrics>,
    /// What stands between messages and the logs.
    pub shield: Arc<Shield>,
    /// What is kept of the logs elsewhere.
    pub projections: Arc<Projections>,
    /// What both listeners encrypt with, if they do.
    pub tls: Option<Arc<Tls>>,
    /// Who may see `/status`.
    pub verifier: Arc<Verifier>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// How long a command may wait for something at most, so that its answer is still in time.
    pub wait_max: Duration,
    /// Who was turned away.
    pub refusals: Refusals,
    /// True when the node goes down.
    pub draining: watch::Receiver<bool>,
}

/// How long a command may wait for something, so that its answer still is in time: half of the time
/// may have gone for TLS, and the answer takes some.
#[must_use]
pub const fn wait_max(settings: &config::Ops) -> Duration {
    Duration::from_millis(settings.timeout_ms / 10 * 4)
}

/// Answers until `stop` turns true, and what is being asked then.
///
/// A connection carries one request within a bounded time, so that silent peers, and peers that do
/// not read their answer, hold a bounded number of descriptors for a bounded time.
pub async fn serve(
    ops: Arc<Ops>,
    listener: TcpListener,
    settings: config::Ops,
    mut stop: watch::Receiver<bool>,
) {
    let tls = ops.tls.clone().filter(|_| settings.tls);
    let routes = routes::router()
        .layer(middleware::from_fn_with_state(Arc::clone(&ops), count))
        .with_state(ops);
    let service = TowerToHyperService::new(routes);
    let timeout = Duration::from_millis(settings.timeout_ms);
    let most = u32::try_from(settings.connections_max).unwrap_or(u32::MAX);
    let connections = Arc::new(Semaphore::new(most as usize));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // An error means that the sender is gone, which ends the node too.
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for operations");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            // The kernel's buffer of a new connection takes the answer, so this does not wait.
            // Whoever wants TLS understands none before it.
            let answer = if tls.is_some() { &[] } else { FULL };
            if let Err(error) = stream.try_write(answer) {
                tracing::debug!(%error, %peer, "refused without an answer");
            }
            continue;
        };
        let (service, tls) = (service.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => answer(stream, peer, service, timeout).await,
                Some(tls) => answer_encrypted(&tls, stream, peer, service, timeout).await,
            }
            drop(permit);
        });
    }
    drop(listener);
    // Whoever waits for this bounds it.
    drop(connections.acquire_many(most).await);
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
struct Peer(SocketAddr);

async fn answer_encrypted(
    tls: &Tls,
    stream: TcpStream,
    peer: SocketAddr,
    routes: TowerToHyperService<Router>,
    timeout: Duration,
) {
    match accept::accept(tls.for_ops(), stream, timeout / 2).await {
        Ok(stream) => answer(stream, peer, routes, timeout / 2).await,
        Err(Denied::Plain(mut stream)) => {
            if let Err(error) = stream.write_all(accept::PLAIN_HTTP).await {
                tracing::trace!(%error, "the peer left first");
            }
        }
        Err(Denied::Slow) => tracing::debug!("TLS for operations took too long"),
        Err(Denied::Failed { error, .. }) => {
            tracing::debug!(%error, "TLS for operations failed");
        }
    }
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    routes: TowerToHyperService<Router>,
    timeout: Duration,
) {
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        routes.call(request)
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .timer(TokioTimer::new())
        .header_read_timeout(timeout / 2)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(timeout, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection for operations failed"),
        Err(_) => tracing::debug!("a connection for operations took too long"),
    }
}

async fn count(State(ops): State<Arc<Ops>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .and_then(|matched| routes::known(matched.as_str()))
        .unwrap_or(OTHER_ROUTE);
    let response = next.run(request).await;
    ops.metrics
        .request(route, response.status().as_u16(), started.elapsed());
    response
}
