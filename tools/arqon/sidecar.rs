//! `arqon sidecar`: an HTTP service as an operator (OPS-12).
//!
//! A task becomes a request, its response the result. What the service says decides whether another
//! attempt is worth while: a refusal (4xx) is not, a failure (5xx, no connection, no answer in time)
//! is, after a pause that doubles.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use arqonbus::client::{Job, Refusal, Yield};
use axum::Json;
use axum::http::StatusCode as Status;
use axum::routing::get;
use clap::Args;
use reqwest::{Client as Http, Response, StatusCode, Url, redirect};
use serde_json::json;

use crate::bounds;
use crate::connection::{Patience, Target, interrupt};
use crate::failure::Failure;
use crate::operators::join::Join;

/// Pause before the second attempt at a service that fails; it doubles from one to the next.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LONGEST: Duration = Duration::from_secs(60);
/// How much of a refusal goes into an error's text.
const ERROR_CHARS_MAX: usize = 256;

/// Bridge an HTTP service onto the bus: each task of a group becomes a request to it
///
/// A POST with the payload as body, and the headers content-type, traceparent, arqon-task-id,
/// arqon-task-attempt, arqon-task-group and arqon-task-key. A response with 2xx is the result, one
/// with 4xx a refusal for good; after 408, 425, 429, 5xx, no connection or no answer in time the
/// task is tried again. The response header arqon-score says how good a result is.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon sidecar --group resize --to http://127.0.0.1:8080/run
  arqon sidecar --group quotes --to http://127.0.0.1:8080/quote --concurrency 8 \\
      --input-schema quote-request --output-schema quote --health 127.0.0.1:9300")]
pub(crate) struct Arguments {
    #[command(flatten)]
    join: Join,

    /// Where requests go
    #[arg(long, value_name = "URL")]
    to: Url,

    /// How long a response may take
    #[arg(long, default_value = "30s", value_parser = bounds::span, value_name = "SPAN")]
    timeout: Duration,

    /// Longest response
    #[arg(long, default_value_t = 1 << 20, value_name = "BYTES")]
    response_bytes_max: usize,

    /// Tell at http://ADDRESS/healthz how the sidecar is: 200, or 503 when it takes no tasks
    #[arg(long, value_name = "ADDRESS")]
    health: Option<SocketAddr>,
}

/// How the sidecar is.
#[derive(Debug, Default)]
struct Health {
    ready: AtomicBool,
    in_hand: AtomicUsize,
    done: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

pub(crate) async fn run(target: &Target, arguments: Arguments) -> anyhow::Result<()> {
    if !matches!(arguments.to.scheme(), "http" | "https") {
        return Err(Failure::usage("--to must begin with http:// or https://").into());
    }
    // Where a service sends us on to, nobody has decided to send tasks.
    // Somebody may have chosen one already.
    drop(tokio_rustls::rustls::crypto::ring::default_provider().install_default());
    let mut builder = Http::builder()
        .redirect(redirect::Policy::none())
        .timeout(arguments.timeout)
        .no_proxy();
    if arguments.to.scheme() == "http" {
        // Without certificates of the system a client could not be made.
        builder = builder.tls_certs_only([]);
    }
    let http = builder.build().context("cannot make requests")?;
    let health = Arc::new(Health::default());
    if let Some(address) = arguments.health {
        tell_health(address, Arc::clone(&health)).await?;
    }
    let bridge = Arc::new(Bridge {
        http,
        to: arguments.to,
        response_bytes_max: arguments.response_bytes_max,
        health: Arc::clone(&health),
    });
    let client = target.connect(Patience::Reconnect).await?.client;
    let carry_out = move |job: Job| {
        let bridge = Arc::clone(&bridge);
        async move { bridge.carry_out(job).await }
    };
    let options = arguments.join.options("sidecar");
    let mut operator = client.work(options, carry_out).await?;
    health.ready.store(true, Ordering::SeqCst);
    let ended = tokio::select! {
        error = operator.ended() => Some(error),
        () = interrupt() => None,
    };
    health.ready.store(false, Ordering::SeqCst);
    if let Some(error) = ended {
        return Err(error.into());
    }
    let left = operator.drain(arguments.join.grace).await;
    client.close().await;
    if left > 0 {
        let text = format!("{left} tasks were not done in time; the node gives them to others");
        return Err(Failure::failed(text).into());
    }
    Ok(())
}

/// Serves `/healthz`, as long as the process runs.
async fn tell_health(address: SocketAddr, health: Arc<Health>) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let tell = move || {
        let ready = health.ready.load(Ordering::SeqCst);
        let told = json!({
            "ready": ready,
            "in_hand": health.in_hand.load(Ordering::SeqCst),
            "done": health.done.load(Ordering::SeqCst),
            "refused": health.refused.load(Ordering::SeqCst),
            "failed": health.failed.load(Ordering::SeqCst),
        });
        let status = if ready {
            Status::OK
        } else {
            Status::SERVICE_UNAVAILABLE
        };
        std::future::ready((status, Json(told)))
    };
    let routes = axum::Router::new().route("/healthz", get(tell));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "nobody is told any more how the sidecar is");
        }
    });
    Ok(())
}

#[derive(Debug)]
struct Bridge {
    http: Http,
    to: Url,
    response_bytes_max: usize,
    health: Arc<Health>,
}

/// A task in hand, counted.
struct InHand<'a>(&'a AtomicUsize);

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Bridge {
    async fn carry_out(&self, job: Job) -> Result<Yield, Refusal> {
        self.health.in_hand.fetch_add(1, Ordering::SeqCst);
        let _counted = InHand(&self.health.in_hand);
        let outcome = self.request(job).await;
        let count = match &outcome {
            Ok(_) => &self.health.done,
            Err(refusal) if refusal.retryable => &self.health.failed,
            Err(_) => &self.health.refused,
        };
        count.fetch_add(1, Ordering::SeqCst);
        outcome
    }

    async fn request(&self, job: Job) -> Result<Yield, Refusal> {
        let mut request = self
            .http
            .post(self.to.clone())
            .header("content-type", &job.content_type)
            .header("arqon-task-id", &job.id)
            .header("arqon-task-attempt", job.attempt)
            .header("arqon-task-group", &job.group);
        if !job.key.is_empty() {
            request = request.header("arqon-task-key", &job.key);
        }
        if let Some(trace) = job.headers.get("traceparent") {
            request = request.header("traceparent", trace);
        }
        let response = match request.body(job.payload.clone()).send().await {
            Ok(response) => response,
            // A header that cannot be one is the task's fault, and will be again.
            Err(error) if error.is_builder() => {
                return Err(refusal("REQUEST", text(&error), None));
            }
            Err(error) => return Err(refusal("UNREACHABLE", text(&error), Some(pause(&job)))),
        };
        let status = response.status();
        if !status.is_success() {
            return Err(self.refused(&job, response).await);
        }
        let header = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let content_type = header("content-type").unwrap_or_default();
        let score = header("arqon-score").and_then(|score| score.parse().ok());
        let data = self.body(&job, response).await?;
        Ok(Yield {
            data: data.into(),
            content_type,
            score,
        })
    }

    async fn body(&self, job: &Job, mut response: Response) -> Result<Vec<u8>, Refusal> {
        let mut body = Vec::new();
        loop {
            let piece = response.chunk().await;
            let piece =
                piece.map_err(|error| refusal("UNREACHABLE", text(&error), Some(pause(job))))?;
            let Some(piece) = piece else {
                return Ok(body);
            };
            if body.len() + piece.len() > self.response_bytes_max {
                let limit = self.response_bytes_max;
                let text = format!("the response has more bytes than the limit of {limit}");
                return Err(refusal("TOO_LARGE", text, None));
            }
            body.extend_from_slice(&piece);
        }
    }

    async fn refused(&self, job: &Job, response: Response) -> Refusal {
        let status = response.status();
        let may_go_better = status.is_server_error()
            || matches!(
                status,
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
            );
        let asked = response.headers().get("retry-after");
        let asked = asked.and_then(|value| value.to_str().ok()?.parse().ok());
        let wait = may_go_better.then(|| asked.map_or_else(|| pause(job), Duration::from_secs));
        let said = self.body(job, response).await.unwrap_or_default();
        let said: String = String::from_utf8_lossy(&said)
            .chars()
            .filter(|symbol| !symbol.is_control())
            .take(ERROR_CHARS_MAX)
            .collect();
        let code = format!("HTTP_{}", status.as_u16());
        refusal(
            &code,
            format!("the service answered {status}: {said}"),
            wait,
        )
    }
}

fn pause(job: &Job) -> Duration {
    let doubled = 2_u32.saturating_pow(job.attempt.saturating_sub(1));
    PAUSE_FIRST.saturating_mul(doubled).min(PAUSE_LONGEST)
}

/// With a pause, another attempt may go better.
fn refusal(code: &str, message: String, wait: Option<Duration>) -> Refusal {
    Refusal {
        code: code.to_owned(),
        message,
        retryable: wait.is_some(),
        retry_after: wait.unwrap_or_default(),
    }
}

/// What went wrong, without the address: it may hold what only the sidecar is to know.
fn text(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the exchange broke off"
    };
    format!("the service gave no response: {what}")
}
