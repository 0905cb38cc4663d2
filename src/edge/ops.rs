//! Health, status and metrics over HTTP (TOOL-18, EDGE-23).
//!
//! Owns the operations listener: its routes, who may see which, and the counting of its requests.
//! What anybody who reaches it may see names no tenant; `/status` does, and wants an admin's token
//! outside of development. Must not know frames.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::metrics::gauge::Gauge;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::checkup::Checkup;
use super::handshake;
use super::listener;
use super::metrics::{Metrics, Upkeep};
use super::revocation::Standing;
use super::seats::Seats;
use super::shield::Shield;
use super::tls::Tls;
use super::tls::accept::{self, Denied};
use super::token::Verifier;
use crate::broker::damage::without_directories;
use crate::broker::{Broker, Reality};
use crate::config::{self, Profile};
use crate::log::Clock;
use crate::proto::ErrorCode;
use crate::proto::claims::Role;

const ROUTES: [&str; 5] = ["/healthz", "/readyz", "/version", "/status", "/metrics"];
const OTHER_ROUTE: &str = "other";
const EXPOSITION: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
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
    /// What both listeners encrypt with, if they do.
    pub tls: Option<Arc<Tls>>,
    /// Who may see `/status`.
    pub verifier: Arc<Verifier>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// True when the node goes down.
    pub draining: watch::Receiver<bool>,
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
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/version", get(version))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
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
                None => answer(stream, service, timeout).await,
                Some(tls) => answer_encrypted(&tls, stream, service, timeout).await,
            }
            drop(permit);
        });
    }
    drop(listener);
    // Whoever waits for this bounds it.
    drop(connections.acquire_many(most).await);
}

async fn answer_encrypted(
    tls: &Tls,
    stream: TcpStream,
    service: TowerToHyperService<Router>,
    timeout: Duration,
) {
    match accept::accept(tls.for_ops(), stream, timeout / 2).await {
        Ok(stream) => answer(stream, service, timeout / 2).await,
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
    service: TowerToHyperService<Router>,
    timeout: Duration,
) {
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
    let path = request.uri().path();
    let route = ROUTES
        .into_iter()
        .find(|route| *route == path)
        .unwrap_or(OTHER_ROUTE);
    let response = next.run(request).await;
    ops.metrics
        .request(route, response.status().as_u16(), started.elapsed());
    response
}

async fn ready(State(ops): State<Arc<Ops>>) -> Response {
    let mut reasons = Vec::new();
    if *ops.draining.borrow() {
        reasons.push("draining: the node is going down".to_owned());
    }
    let read_only = ops.broker.read_only().len();
    if read_only > 0 {
        reasons.push(format!(
            "read_only: {read_only} realities take no writes; /status names them"
        ));
    }
    reasons.extend(short_of_room(&ops).await);
    let ill = ops.checkup.ill(&ops.broker);
    if ill.damaged > 0 {
        reasons.push(format!(
            "damaged_log: a log is damaged and will take no writes when it is opened ({} in all); the node's log names the file",
            ill.damaged
        ));
    }
    if ill.unreadable > 0 {
        reasons.push(format!(
            "unreadable_log: a log cannot be opened ({} in all); the node's log names it",
            ill.unreadable
        ));
    }
    let unfit = ops.shield.unfit().len();
    if unfit > 0 {
        reasons.push(format!(
            "edge_unfit: what the edge has in force cannot be established for {unfit} tenants, whose messages are refused; the node's log says why"
        ));
    }
    reasons.extend(ops.tls.as_ref().and_then(|tls| tls.unfit()));
    let missing = ops.verifier.missing_sets();
    if !missing.is_empty() {
        reasons.push(format!(
            "keys_missing: {} cannot be had, so that its tokens are refused; the node's log says why",
            missing.join(", ")
        ));
    }
    // Not a reason to be taken out of service: what is good is served, and writes are taken.
    let mut notices = ops.tls.as_ref().map_or_else(Vec::new, |tls| tls.notices());
    let damaged = ops.broker.damaged();
    if damaged > 0 {
        notices.push(format!(
            "damaged: reading has met damaged records in {damaged} realities; /status names them"
        ));
    }
    let failing = ops.verifier.failing_sets();
    if !failing.is_empty() {
        notices.push(format!(
            "keys_old: {} cannot be brought up to date; its last good keys are used, for a while",
            failing.join(", ")
        ));
    }
    let status = if reasons.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(json!({ "ready": reasons.is_empty(), "reasons": reasons, "notices": notices })),
    )
        .into_response()
}

/// Without room for a segment no log can be created and none can go on when its last one is full.
async fn short_of_room(ops: &Ops) -> Option<String> {
    let data = ops.data.clone();
    // Not here: a disk that hangs must not hold up those who ask for something else.
    let asked = tokio::task::spawn_blocking(move || room_bytes(&data)).await;
    match asked {
        Ok(Ok(free)) if free >= ops.room_bytes_min => None,
        Ok(Ok(free)) => Some(format!(
            "disk_full: {free} bytes are free, a log needs {} to go on; make room",
            ops.room_bytes_min
        )),
        Ok(Err(error)) => Some(format!(
            "disk_failure: the data directory's file system does not say how much room it has: {error}"
        )),
        Err(error) => {
            tracing::error!(%error, "asking for the room on the disk failed");
            None
        }
    }
}

fn room_bytes(data: &Path) -> rustix::io::Result<u64> {
    let found = rustix::fs::statvfs(data)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

async fn version(State(ops): State<Arc<Ops>>) -> Json<Value> {
    Json(json!({ "name": "arqonbus", "version": env!("CARGO_PKG_VERSION"), "node": ops.node }))
}

async fn status(State(ops): State<Arc<Ops>>, headers: HeaderMap) -> Response {
    let seen = match ops.admit(&headers).await {
        Ok(seen) => seen,
        Err(refused) => return refused,
    };
    let mut tenancies = ops.broker.tenancies();
    tenancies.retain(|tenancy| seen.includes(tenancy.tenant().as_str()));
    let limited: Vec<Value> = tenancies
        .iter()
        .filter_map(|tenancy| {
            let (stored, limit) = tenancy.stored_bytes()?;
            let tenant = tenancy.tenant().as_str();
            Some(json!({ "tenant": tenant, "stored_bytes": stored, "stored_bytes_max": limit }))
        })
        .collect();
    let realities: Vec<Value> = tenancies
        .iter()
        .flat_map(|tenancy| tenancy.all_opened())
        .map(|reality| reality_status(&reality))
        .collect();
    let profile = match ops.profile {
        Profile::Development => "development",
        Profile::Production => "production",
    };
    Json(json!({
        "node": ops.node,
        "version": env!("CARGO_PKG_VERSION"),
        "profile": profile,
        "uptime_s": ops.started.elapsed().as_secs(),
        "draining": *ops.draining.borrow(),
        "sessions": ops.seats.total(),
        "realities": realities,
        "limited_tenants": limited,
    }))
    .into_response()
}

fn reality_status(reality: &Reality) -> Value {
    let log = reality.log().status();
    json!({
        "tenant": reality.tenant().as_str(),
        "reality": reality.name().as_str(),
        "first": log.bounds.first.get(),
        "durable_end": log.bounds.durable_end.get(),
        "written_end": log.bounds.written_end.get(),
        "segments": log.segments,
        "used_bytes": log.used_bytes,
        "tail_bytes": log.tail_bytes,
        "index_bytes": log.index_bytes,
        "file_handles": log.file_handles,
        "waiting_bytes": log.waiting_bytes,
        "flushes": log.flushes,
        "epoch": log.epoch,
        "subscriptions": reality.subscriptions(),
        "read_only": reality.read_only().map(|state| json!({
            "reason": state.reason,
            "repairing": state.repairing,
        })),
        "damaged_reads": reality.encounters().reads(),
        "damages": reality.encounters().places().iter().map(without_directories).collect::<Vec<_>>(),
    })
}

async fn metrics(State(ops): State<Arc<Ops>>) -> Response {
    let totals = ops.broker.totals();
    let metrics = &ops.metrics;
    let gauge = |gauge: &Gauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    gauge(&metrics.realities, totals.realities as u64);
    gauge(&metrics.realities_read_only, totals.read_only as u64);
    gauge(&metrics.subscriptions, totals.subscriptions as u64);
    gauge(&metrics.log_used_bytes, totals.used_bytes);
    gauge(&metrics.log_tail_bytes, totals.tail_bytes as u64);
    gauge(&metrics.log_index_bytes, totals.index_bytes);
    gauge(&metrics.log_file_handles, totals.file_handles as u64);
    gauge(&metrics.log_waiting_bytes, totals.waiting_bytes as u64);
    metrics.set_flushes(totals.flushes);
    metrics.set_damaged_reads(totals.damaged_reads);
    let upkeep = ops.broker.maintained_in_all();
    metrics.set_upkeep(&Upkeep {
        runs: upkeep.runs,
        failures: upkeep.failures,
        reclaimed_bytes: upkeep.reclaimed_bytes,
        removed_records: upkeep.removed_records,
        scrubs: upkeep.scrubs,
    });
    gauge(&metrics.log_held_bytes, upkeep.held_bytes);
    gauge(&metrics.log_scrub_damages, upkeep.scrub_damages);
    if let Some(tls) = &ops.tls {
        tls.measure();
    }
    match metrics.exposition() {
        Ok(text) => ([(header::CONTENT_TYPE, EXPOSITION)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot write the metrics");
            error_response(
                ErrorCode::Internal,
                "the metrics could not be written; see the node's log",
            )
        }
    }
}

/// Whose realities `/status` shows.
enum Seen {
    All,
    Of(String),
}

impl Seen {
    fn includes(&self, tenant: &str) -> bool {
        match self {
            Self::All => true,
            Self::Of(own) => own == tenant,
        }
    }
}

impl Ops {
    /// In development the listener is a loopback one, and whoever reaches it may look. Elsewhere an
    /// admin sees its own tenant (EDGE-06).
    async fn admit(&self, headers: &HeaderMap) -> Result<Seen, Response> {
        if self.profile == Profile::Development {
            return Ok(Seen::All);
        }
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(handshake::bearer);
        let Some(token) = token else {
            return Err(error_response(
                ErrorCode::Unauthenticated,
                "send an admin's token: `Authorization: Bearer <token>`",
            ));
        };
        let now = self.clock.now();
        let invalid = |reason: &dyn std::fmt::Display| {
            tracing::info!(%reason, "token refused on the operations listener");
            let text = "the token is not valid; get a new one";
            error_response(ErrorCode::Unauthenticated, text)
        };
        let claims = self.verifier.verify(token, now);
        let claims = claims.map_err(|reason| invalid(&reason))?;
        let ends_at = self.verifier.ends_at(&claims, now);
        let identity = listener::identity(&claims, ends_at).map_err(|reason| invalid(&reason))?;
        match self.shield.standing(&self.broker, &identity).await {
            Standing::Good if identity.role == Role::Admin => Ok(Seen::Of(claims.tenant)),
            Standing::Good => Err(error_response(
                ErrorCode::Forbidden,
                "this needs a token with the role admin",
            )),
            Standing::Revoked => Err(invalid(&"it is revoked")),
            Standing::Unknown => Err(invalid(&"it cannot be told whether it is revoked")),
        }
    }
}

fn error_response(code: ErrorCode, message: &str) -> Response {
    let status =
        StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = Json(json!({ "error": { "code": code.as_str(), "message": message } }));
    let mut response = (status, body).into_response();
    if status == StatusCode::UNAUTHORIZED {
        let challenge = header::HeaderValue::from_static(handshake::REALM);
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}
