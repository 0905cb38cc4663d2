//! One attempt: an HTTP request to an address that was judged, and what came of it (OPS-05).
//!
//! Owns connections, TLS and bounds of time and size. No redirect is followed, no proxy is asked,
//! nothing of the environment matters. A connection is kept for the next attempt of the same rule
//! as long as its address is among those that the name leads to then. Knows no rule and no event.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{
    CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use rustls_platform_verifier::Verifier;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::target::{Resolver, Rules, Target, Unreachable};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What is read of an answer; more breaks the connection off.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// What is kept of it, for the rule's owner.
const EXCERPT_BYTES_MAX: usize = 1 << 10;
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 100;
const AGENT: &str = concat!("arqonbus/", env!("CARGO_PKG_VERSION"));

/// Sends what it is given.
#[derive(Clone)]
pub(super) struct Poster {
    rules: Rules,
    resolver: Arc<dyn Resolver>,
    tls: TlsConnector,
}

impl fmt::Debug for Poster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poster").finish_non_exhaustive()
    }
}

/// Why nothing can be sent over TLS.
#[derive(Debug, thiserror::Error)]
pub enum NoTls {
    /// The file cannot be read.
    #[error("webhook.ca: cannot read {path}: {source}", path = path.display())]
    Unreadable {
        /// It.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("webhook.ca: {path} must hold certificates in PEM form", path = path.display())]
    NoCertificates {
        /// It.
        path: PathBuf,
    },
    /// They, or those of the system, cannot be used.
    #[error("webhook.ca: the authorities cannot be used: {0}")]
    Unusable(String),
}

/// What is sent.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) headers: HeaderMap,
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<String>,
    /// The beginning of its body.
    pub(super) excerpt: String,
}

/// Why nothing came back. Names no address: what a name leads to inside is nobody's business.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error("no connection: {0}")]
    Connect(io::ErrorKind),
    #[error("no TLS: {0}")]
    Tls(String),
    #[error("it did not answer in time")]
    Timeout,
    #[error("it broke off: {0}")]
    Broken(String),
}

/// A connection that can be used again.
#[derive(Debug)]
pub(super) struct Kept {
    address: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Wire for S {}

impl Poster {
    /// One that trusts the authorities in the file `ca`, or else the system's.
    pub(super) fn new(
        rules: Rules,
        resolver: Arc<dyn Resolver>,
        ca: Option<&Path>,
    ) -> Result<Self, NoTls> {
        let provider = Arc::new(ring::default_provider());
        let verifier = match ca {
            Some(ca) => of_file(ca, &provider)?,
            None => match Verifier::new(Arc::clone(&provider)) {
                Ok(verifier) => Arc::new(verifier) as Arc<dyn ServerCertVerifier>,
                Err(error) => return Err(NoTls::Unusable(error.to_string())),
            },
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| NoTls::Unusable(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tls = TlsConnector::from(Arc::new(config));
        Ok(Self {
            rules,
            resolver,
            tls,
        })
    }

    /// Sends `letter` and waits for its answer, `timeout` in all. Takes the connection in `kept`
    /// if it still leads where it should, and leaves one there that can be used again.
    pub(super) async fn post(
        &self,
        target: &Target,
        letter: &Letter,
        timeout: Duration,
        kept: &mut Option<Kept>,
    ) -> Result<Answer, Failed> {
        let attempt = self.attempt(target, letter, kept.take());
        let (answer, connection) = match tokio::time::timeout(timeout, attempt).await {
            Ok(ended) => ended?,
            Err(_elapsed) => return Err(Failed::Timeout),
        };
        *kept = connection;
        Ok(answer)
    }

    async fn attempt(
        &self,
        target: &Target,
        letter: &Letter,
        kept: Option<Kept>,
    ) -> Result<(Answer, Option<Kept>), Failed> {
        let addresses = target.addresses(&*self.resolver, &self.rules.guard).await?;
        if let Some(kept) = kept.filter(|kept| addresses.contains(&kept.address))
            && let Ok(ended) = exchange(kept, target, letter).await
        {
            return Ok(ended);
        }
        // There was none, or it had been closed at the other end.
        let fresh = self.connect(target, &addresses).await?;
        exchange(fresh, target, letter).await
    }

    async fn connect(&self, target: &Target, addresses: &[SocketAddr]) -> Result<Kept, Failed> {
        let mut last = io::ErrorKind::AddrNotAvailable;
        for address in addresses {
            let connected =
                tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
            let stream = match connected {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    last = error.kind();
                    continue;
                }
                Err(_elapsed) => {
                    last = io::ErrorKind::TimedOut;
                    continue;
                }
            };
            if let Err(error) = stream.set_nodelay(true) {
                last = error.kind();
                continue;
            }
            let wire: Box<dyn Wire> = if target.tls() {
                let name = ServerName::try_from(target.server_name());
                let name = name.map_err(|error| Failed::Tls(error.to_string()))?;
                let encrypted = self.tls.connect(name, stream).await;
                Box::new(encrypted.map_err(|error| Failed::Tls(error.to_string()))?)
            } else {
                Box::new(stream)
            };
            let handshake = http1::Builder::new()
                .max_buf_size(HEAD_BYTES_MAX)
                .max_headers(HEADERS_MAX)
                .handshake(TokioIo::new(wire))
                .await;
            let (sender, connection) = handshake.map_err(|error| broken(&error))?;
            // Ends with the sender, or when the other side closes.
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection of a webhook");
                }
            });
            let address = *address;
            return Ok(Kept { address, sender });
        }
        Err(Failed::Connect(last))
    }
}

fn of_file(
    path: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, NoTls> {
    let path_of = || path.to_owned();
    let pem = std::fs::read(path).map_err(|source| {
        let path = path_of();
        NoTls::Unreadable { path, source }
    })?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| NoTls::Unusable(error.to_string()))?;
        let added = roots.add(certificate);
        added.map_err(|error| NoTls::Unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(NoTls::NoCertificates { path: path_of() });
    }
    let builder =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let verifier = builder.build();
    let verifier = verifier.map_err(|error| NoTls::Unusable(error.to_string()))?;
    Ok(verifier)
}

fn broken(error: &hyper::Error) -> Failed {
    Failed::Broken(error.to_string())
}

fn request(target: &Target, letter: &Letter) -> Result<Request<Full<Bytes>>, Failed> {
    let mut request = Request::new(Full::new(letter.body.clone()));
    *request.method_mut() = Method::POST;
    let path = target.path().parse();
    *request.uri_mut() =
        path.map_err(|_no_path| Failed::Broken("its path cannot be sent".to_owned()))?;
    let headers = request.headers_mut();
    headers.extend(letter.headers.clone());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(letter.content_type));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    let host = HeaderValue::from_str(target.authority());
    let host = host.map_err(|_no_value| Failed::Broken("its name cannot be sent".to_owned()))?;
    headers.insert(HOST, host);
    Ok(request)
}

async fn exchange(
    mut connection: Kept,
    target: &Target,
    letter: &Letter,
) -> Result<(Answer, Option<Kept>), Failed> {
    let ready = connection.sender.ready().await;
    ready.map_err(|error| broken(&error))?;
    let answered = connection
        .sender
        .send_request(request(target, letter)?)
        .await;
    let (answer, whole) = read(answered.map_err(|error| broken(&error))?).await;
    Ok((answer, whole.then_some(connection)))
}

/// The answer, and whether it was read to its end. Its status is what counts: a body that breaks
/// off or is too long changes nothing.
async fn read(mut response: Response<Incoming>) -> (Answer, bool) {
    let retry_after = response.headers().get(RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok());
    let retry_after = retry_after.map(str::to_owned);
    let (mut read, mut excerpt) = (0, Vec::new());
    let whole = loop {
        match response.body_mut().frame().await {
            None => break true,
            Some(Err(_broken)) => break false,
            Some(Ok(frame)) => {
                let Some(data) = frame.data_ref() else {
                    continue;
                };
                let room = EXCERPT_BYTES_MAX - excerpt.len();
                excerpt.extend_from_slice(&data[..data.len().min(room)]);
                read += data.len();
                if read > ANSWER_BYTES_MAX {
                    break false;
                }
            }
        }
    };
    let answer = Answer {
        status: response.status(),
        retry_after,
        excerpt: String::from_utf8_lossy(&excerpt).into_owned(),
    };
    (answer, whole)
}

/// Headers of a rule's own that it may have sent along: none that say who sends, how it is framed,
/// or that it is signed.
pub(super) fn header_allowed(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "authorization" | "accept" | "accept-language" | "prefer"
    ) || (name.starts_with("x-")
        && !name.starts_with("x-forwarded")
        && !matches!(
            name,
            "x-real-ip" | "x-original-url" | "x-rewrite-url" | "x-http-method-override"
        ))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::BoxFuture;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::address::Guard;
    use super::*;

    /// Leads to loopback at first, then to where nothing may be sent.
    #[derive(Debug, Default)]
    struct Rebinding(AtomicUsize);

    impl Resolver for Rebinding {
        fn resolve<'a>(&'a self, _host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
            let first = self.0.fetch_add(1, Ordering::SeqCst) == 0;
            let address = if first { "127.0.0.1" } else { "127.0.0.2" };
            Box::pin(async move { Ok(vec![address.parse().unwrap()]) })
        }
    }

    fn poster() -> Poster {
        let rules = Rules {
            guard: Guard::new(["127.0.0.1"].into_iter()).unwrap(),
            ports: None,
            plain: true,
        };
        Poster::new(rules, Arc::new(Rebinding::default()), None).unwrap()
    }

    fn letter() -> Letter {
        Letter {
            headers: HeaderMap::new(),
            content_type: "application/json",
            body: Bytes::from_static(b"{}"),
        }
    }

    /// Answers every request on a connection with `answer`, and counts connections.
    async fn serve(answer: String) -> (u16, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut request = [0; 4_096];
                    while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        (port, connections)
    }

    const LONG: Duration = Duration::from_secs(10);

    async fn post(poster: &Poster, url: &str, kept: &mut Option<Kept>) -> Result<Answer, Failed> {
        let target = Target::parse(url, &poster.rules).unwrap();
        poster.post(&target, &letter(), LONG, kept).await
    }

    // OPS-05
    #[tokio::test]
    async fn a_name_that_leads_elsewhere_a_moment_later_is_not_followed() {
        let (port, connections) =
            serve("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".into()).await;
        let (poster, mut kept) = (poster(), None);
        let url = format!("http://rebinding.example:{port}/");
        assert_eq!(post(&poster, &url, &mut kept).await.unwrap().status, 200);
        assert!(kept.is_some());
        let refused = post(&poster, &url, &mut kept).await.unwrap_err();
        assert!(
            matches!(refused, Failed::Unreachable(Unreachable::Closed)),
            "{refused}"
        );
        assert!(!refused.to_string().contains("127."), "{refused}");
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    }

    // OPS-05
    #[tokio::test]
    async fn a_redirect_is_an_answer_and_not_followed() {
        let (port, _) = serve(
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.2/\r\nretry-after: 7\r\ncontent-length: 4\r\n\r\nback"
                .into(),
        )
        .await;
        let (poster, mut kept) = (poster(), None);
        let url = format!("http://127.0.0.1:{port}/");
        let answer = post(&poster, &url, &mut kept).await.unwrap();
        assert_eq!((answer.status.as_u16(), &*answer.excerpt), (302, "back"));
        assert_eq!(answer.retry_after.as_deref(), Some("7"));
    }

    // OPS-05
    #[tokio::test]
    async fn a_connection_is_used_again_and_replaced_when_it_has_ended() {
        let (port, connections) = serve("HTTP/1.1 204 No Content\r\n\r\n".into()).await;
        let (poster, mut kept) = (poster(), None);
        let url = format!("http://127.0.0.1:{port}/");
        for _ in 0..3 {
            assert_eq!(post(&poster, &url, &mut kept).await.unwrap().status, 204);
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1);
        // Its other end is gone without a word.
        let closing = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let (port, connections) = serve(closing.into()).await;
        let url = format!("http://127.0.0.1:{port}/");
        for _ in 0..3 {
            assert_eq!(post(&poster, &url, &mut kept).await.unwrap().status, 200);
        }
        assert_eq!(connections.load(Ordering::SeqCst), 3);
    }

    // OPS-05, BRK-18
    #[tokio::test]
    async fn an_answer_is_read_up_to_its_bound() {
        let long = "a".repeat(ANSWER_BYTES_MAX * 2);
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{long}",
            long.len()
        );
        let (port, _) = serve(answer).await;
        let (poster, mut kept) = (poster(), None);
        let url = format!("http://127.0.0.1:{port}/");
        let answer = post(&poster, &url, &mut kept).await.unwrap();
        assert_eq!(answer.excerpt.len(), EXCERPT_BYTES_MAX);
        assert!(kept.is_none());
        let head = format!(
            "HTTP/1.1 200 OK\r\nx: {}\r\n\r\n",
            "a".repeat(HEAD_BYTES_MAX * 2)
        );
        let (port, _) = serve(head).await;
        let url = format!("http://127.0.0.1:{port}/");
        let failed = post(&poster, &url, &mut kept).await.unwrap_err();
        assert!(matches!(failed, Failed::Broken(_)), "{failed}");
    }

    // OPS-05
    #[tokio::test]
    async fn silence_ends_in_time_and_nobody_there_is_said() {
        let (port, _) = serve(String::new()).await;
        let (poster, mut kept) = (poster(), None);
        let target = format!("http://127.0.0.1:{port}/");
        let target = Target::parse(&target, &poster.rules).unwrap();
        let short = Duration::from_millis(100);
        let failed = poster.post(&target, &letter(), short, &mut kept).await;
        assert!(matches!(failed, Err(Failed::Timeout)), "{failed:?}");
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let url = format!("http://127.0.0.1:{port}/");
        let failed = post(&poster, &url, &mut kept).await.unwrap_err();
        assert_eq!(failed.to_string(), "no connection: connection refused");
    }

    // OPS-05
    #[test]
    fn a_rule_cannot_send_what_the_node_says() {
        let allowed = |name: &str| header_allowed(&name.parse().unwrap());
        for yes in ["Authorization", "X-Api-Key", "accept", "prefer"] {
            assert!(allowed(yes), "{yes}");
        }
        for no in [
            "host",
            "content-length",
            "transfer-encoding",
            "connection",
            "content-type",
            "cookie",
            "webhook-id",
            "webhook-signature",
            "traceparent",
            "proxy-authorization",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-real-ip",
            "metadata-flavor",
            "upgrade",
        ] {
            assert!(!allowed(no), "{no}");
        }
    }
}
