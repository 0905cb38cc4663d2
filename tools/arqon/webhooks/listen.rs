//! `arqon webhooks listen`: a receiver on this machine that verifies signatures and prints.
//!
//! Verifies by the specification alone: it shares no code with the one who signs.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use ring::hmac;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::Output;
use crate::failure::Failure;

const BODY_BYTES_MAX: usize = 32 << 20;
/// Events that wait to be printed.
const WAITING_MAX: usize = 64;
/// The last answers are given within this.
const LAST_ANSWERS: std::time::Duration = std::time::Duration::from_secs(2);
/// A signature is refused when its time is further off than this.
const TOLERANCE_S: i64 = 300;

/// Receive webhooks on this machine: verify their signatures and print them
#[derive(Debug, Args)]
#[command(after_help = "\
Prints one event a line. One whose signature is wrong is answered with 401, and printed with
`verified: false`; without a secret nothing is verified. The address is said on standard error.

Example:
  arqon webhooks listen --listen 127.0.0.1:8077 --secret whsec_...")]
pub(crate) struct Arguments {
    /// Address; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8077")]
    listen: SocketAddr,
    /// What verifies: the whsec_ secret, or the whpk_ public key
    #[arg(
        long,
        value_name = "SECRET",
        env = "ARQON_WEBHOOK_SECRET",
        hide_env_values = true
    )]
    secret: Option<String>,
    /// What events are answered with
    #[arg(long, value_name = "CODE", default_value_t = 200,
          value_parser = clap::value_parser!(u16).range(200..=599))]
    answer: u16,
    /// End after so many events
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

/// What verifies.
enum Verifier {
    Shared(hmac::Key),
    Public(Vec<u8>),
}

impl Verifier {
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || Failure::usage("a secret is whsec_ or whpk_ with base64 behind it");
        let decode = |rest: &str| BASE64.decode(rest).map_err(|_not_base64| wrong());
        if let Some(rest) = text.strip_prefix("whsec_") {
            return Ok(Self::Shared(hmac::Key::new(
                hmac::HMAC_SHA256,
                &decode(rest)?,
            )));
        }
        let public = text.strip_prefix("whpk_").ok_or_else(wrong)?;
        Ok(Self::Public(decode(public)?))
    }

    /// Whether one of the signatures in `header` is of `signed`.
    fn verifies(&self, signed: &[u8], header: &str) -> bool {
        header.split(' ').any(|one| {
            let Some((scheme, signature)) = one.split_once(',') else {
                return false;
            };
            let Ok(signature) = BASE64.decode(signature) else {
                return false;
            };
            match self {
                Self::Shared(key) => {
                    scheme == "v1" && hmac::verify(key, signed, &signature).is_ok()
                }
                Self::Public(key) => {
                    let key = UnparsedPublicKey::new(&ED25519, key);
                    scheme == "v1a" && key.verify(signed, &signature).is_ok()
                }
            }
        })
    }
}

/// Why an event is not believed; `None` if it is.
fn doubt(verifier: &Verifier, headers: &HeaderMap, body: &[u8], now_s: i64) -> Option<String> {
    let header = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.ok_or_else(|| format!("the header {name} is missing"))
    };
    let judge = || {
        let (id, time) = (header("webhook-id")?, header("webhook-timestamp")?);
        let seconds = time.parse::<i64>();
        let seconds = seconds.map_err(|_no_number| "webhook-timestamp is no number".to_owned())?;
        if seconds.abs_diff(now_s) > TOLERANCE_S.unsigned_abs() {
            return Err("webhook-timestamp is more than five minutes off".to_owned());
        }
        let mut signed = format!("{id}.{time}.").into_bytes();
        signed.extend_from_slice(body);
        if verifier.verifies(&signed, header("webhook-signature")?) {
            Ok(())
        } else {
            Err("no signature fits".to_owned())
        }
    };
    judge().err()
}

struct Receiver {
    verifier: Option<Verifier>,
    answer: StatusCode,
    received: mpsc::Sender<Json>,
}

impl Receiver {
    async fn receive(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
            return answer(StatusCode::PAYLOAD_TOO_LARGE);
        };
        let body = body.to_bytes();
        let now_s = Timestamp::now().as_second();
        let verifier = self.verifier.as_ref();
        let doubt = verifier.map(|verifier| doubt(verifier, &head.headers, &body, now_s));
        let text = |name: &str| {
            let value = head.headers.get(name).and_then(|value| value.to_str().ok());
            Json::from(value)
        };
        let shown = serde_json::from_slice::<Json>(&body);
        let event = json!({
            "id": text("webhook-id"),
            "timestamp": text("webhook-timestamp"),
            "verified": doubt.as_ref().map(Option::is_none),
            "doubt": doubt.as_ref().and_then(Clone::clone),
            "traceparent": text("traceparent"),
            "content_type": text("content-type"),
            "body": shown.unwrap_or_else(|_| BASE64.encode(&body).into()),
        });
        let refused = matches!(doubt, Some(Some(_)));
        if self.received.send(event).await.is_err() {
            // Enough was printed.
            return answer(StatusCode::SERVICE_UNAVAILABLE);
        }
        answer(if refused {
            StatusCode::UNAUTHORIZED
        } else {
            self.answer
        })
    }
}

fn answer(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

pub(super) async fn run(output: Output, arguments: Arguments) -> anyhow::Result<()> {
    let verifier = arguments
        .secret
        .as_deref()
        .map(Verifier::parse)
        .transpose()?;
    let answer = StatusCode::from_u16(arguments.answer)?;
    let listener = TcpListener::bind(arguments.listen).await;
    let listener = listener.with_context(|| format!("listening on {}", arguments.listen))?;
    let address = listener.local_addr()?;
    let (received, mut events) = mpsc::channel(WAITING_MAX);
    let receiver = Arc::new(Receiver {
        verifier,
        answer,
        received,
    });
    writeln!(std::io::stderr(), "listening on http://{address}/")?;
    let (end, ending) = watch::channel(false);
    let (alive, mut all_ended) = mpsc::channel::<()>(1);
    let serving = tokio::spawn(serve(listener, receiver, ending, alive));
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(event) = events.recv().await else {
            break;
        };
        print(&event, output)?;
        left -= 1;
    }
    // Whoever sent the last one is still to be answered.
    end.send_replace(true);
    serving.abort();
    match tokio::time::timeout(LAST_ANSWERS, all_ended.recv()).await {
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Takes connections; each lets go of `alive` when it has ended.
async fn serve(
    listener: TcpListener,
    receiver: Arc<Receiver>,
    ending: watch::Receiver<bool>,
    alive: mpsc::Sender<()>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let (receiver, mut ending) = (Arc::clone(&receiver), ending.clone());
        let alive = alive.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let receiver = Arc::clone(&receiver);
                async move { Ok::<_, Infallible>(receiver.receive(request).await) }
            });
            let mut served = std::pin::pin!(
                http1::Builder::new().serve_connection(TokioIo::new(stream), service)
            );
            let ended = tokio::select! {
                ended = served.as_mut() => ended,
                () = async { drop(ending.wait_for(|ending| *ending).await) } => {
                    served.as_mut().graceful_shutdown();
                    served.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection broke off");
            }
            drop(alive);
        });
    }
}

fn print(event: &Json, output: Output) -> anyhow::Result<()> {
    let line = match output {
        Output::Json => event.to_string(),
        Output::Text => {
            let verified = match &event["verified"] {
                Json::Bool(true) => "verified",
                Json::Bool(false) => "NOT VERIFIED",
                _ => "not checked",
            };
            let id = event["id"].as_str().unwrap_or("no id");
            format!("{verified}  {id}  {}", event["body"])
        }
    };
    crate::table::print_text(&line)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    // OPS-05
    #[test]
    fn the_specifications_example_is_believed_and_nothing_else() {
        let verifier = Verifier::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let verifier = verifier.unwrap_or_else(|error| panic!("{error:#}"));
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            (
                "webhook-signature",
                "v1,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let body = br#"{"test": 2432232314}"#;
        let now = 1_614_265_330;
        assert_eq!(doubt(&verifier, &headers, body, now), None);
        assert!(doubt(&verifier, &headers, b"{}", now).is_some());
        assert!(doubt(&verifier, &headers, body, now + 301).is_some());
        headers.remove("webhook-signature");
        assert!(doubt(&verifier, &headers, body, now).is_some());
    }
}
