//! A set of keys over HTTP.
//!
//! HTTPS, but for loopback addresses; no redirects, a bounded time, a bounded size. What is fetched
//! is the URL of the settings and never one that a token names.

use std::error::Error as _;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Client, StatusCode, Url, redirect};

use super::set::SET_BYTES_MAX;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a URL cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("its url is none: {0}")]
    Url(String),
    #[error("its url must begin with https://; http:// is for loopback addresses")]
    Plain,
    #[error("its url must hold no user and no password: they would be logged")]
    Credentials,
    #[error("its ca cannot be read: {0}")]
    Unreadable(std::io::Error),
    #[error("its ca holds no certificates in PEM form")]
    NoCertificates,
    #[error("no HTTP client can be made: {0}")]
    Client(String),
}

/// Why nothing could be fetched. Quotes nothing of the answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("it cannot be fetched: {0}")]
    Transport(String),
    #[error("it was answered with {0}")]
    Status(StatusCode),
    #[error("the answer has more than {SET_BYTES_MAX} bytes")]
    TooLarge,
}

/// A URL, and who fetches it.
#[derive(Debug)]
pub(super) struct Remote {
    url: Url,
    client: Client,
}

impl Remote {
    pub(super) fn new(url: &str, ca: Option<&Path>) -> Result<Self, Unusable> {
        let url = Url::parse(url).map_err(|error| Unusable::Url(error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Unusable::Credentials);
        }
        let here = is_loopback(&url);
        match url.scheme() {
            "https" => {}
            "http" if here => {}
            _ => return Err(Unusable::Plain),
        }
        // Somebody may have chosen one already.
        drop(tokio_rustls::rustls::crypto::ring::default_provider().install_default());
        let mut builder = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(0)
            .https_only(url.scheme() == "https")
            .user_agent(concat!("arqonbus/", env!("CARGO_PKG_VERSION")));
        if here {
            builder = builder.no_proxy();
        }
        if let Some(ca) = ca {
            let pem = std::fs::read(ca).map_err(Unusable::Unreadable)?;
            let roots = Certificate::from_pem_bundle(&pem).unwrap_or_default();
            if roots.is_empty() {
                return Err(Unusable::NoCertificates);
            }
            builder = builder.tls_certs_only(roots);
        } else if url.scheme() == "http" {
            // Without certificates of the system a client could not be made.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build();
        let client = client.map_err(|error| Unusable::Client(causes(&error)))?;
        Ok(Self { url, client })
    }

    pub(super) async fn fetch(&self) -> Result<Vec<u8>, Failed> {
        // Without the URL, whose query may hold what is not for a log.
        let transport = |error: reqwest::Error| Failed::Transport(causes(&error.without_url()));
        let request = self.client.get(self.url.clone());
        let mut answer = request.send().await.map_err(transport)?;
        if answer.status() != StatusCode::OK {
            return Err(Failed::Status(answer.status()));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(transport)? {
            if bytes.len() + chunk.len() > SET_BYTES_MAX {
                return Err(Failed::TooLarge);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    })
}

/// The error with what is behind it: on its own it only says that there was one.
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
