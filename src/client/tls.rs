//! TLS to a node: whom to believe, what to show, and what went wrong in words that help.
//!
//! TLS 1.3 alone. The files are read at every connection, so that one that reconnects has the
//! newest of them. Must not know WebSocket.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_platform_verifier::Verifier;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{
    self, AlertDescription, CertificateError, ClientConfig, RootCertStore, version,
};

/// Whom to believe and what to show where the URL is `wss://`. All files are in PEM form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Authorities that a node's certificate may come from, and no others; `None`: those that the
    /// system trusts.
    pub ca: Option<PathBuf>,
    /// The client's own certificate, followed by those between it and its authority, if the node
    /// asks for one.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

/// Why there is no TLS with a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsProblem {
    /// The authority that the node's certificate comes from is not trusted.
    #[error("its certificate comes from an authority that is not trusted here")]
    UnknownIssuer,
    /// The node's certificate is not in force.
    #[error("its certificate has expired or has not begun")]
    NotInForce,
    /// The node's certificate is for other names.
    #[error("its certificate is for other names than `{host}`")]
    OtherName {
        /// The name that was asked for.
        host: String,
    },
    /// The other side does not speak TLS.
    #[error("what answers there does not speak TLS")]
    NotTls,
    /// The other side speaks no version of TLS that this one does.
    #[error("it does not speak TLS 1.3")]
    Version,
    /// The node wants to see a certificate.
    #[error("it wants a client certificate, and was shown none")]
    CertificateWanted,
    /// The node does not take the certificate that it was shown.
    #[error("it does not take the client certificate")]
    CertificateRefused,
    /// Something else.
    #[error("{0}")]
    Other(String),
}

/// What a WebSocket runs over.
pub(super) trait Wire: AsyncRead + AsyncWrite + Debug + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Debug + Send + Unpin> Wire for S {}

/// Why a file or a name cannot be used.
pub(super) enum Failure {
    /// What was given.
    Given(String),
    /// What was met.
    Met(TlsProblem),
}

/// Encrypts `stream` for the node called `host`.
pub(super) async fn encrypt(
    tls: &Tls,
    host: &str,
    stream: TcpStream,
) -> Result<Box<dyn Wire>, Failure> {
    let config = configure(tls).map_err(Failure::Given)?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| Failure::Given(format!("`{host}`: {error}")))?;
    let connector = TlsConnector::from(Arc::new(config));
    match connector.connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(Failure::Met(problem(host, &error).unwrap_or_else(|| {
            TlsProblem::Other(format!("the TLS handshake broke off: {error}"))
        }))),
    }
}

impl Tls {
    /// Reads the files without connecting.
    pub(super) fn check(&self) -> Result<(), String> {
        configure(self).map(|_config| ())
    }
}

fn configure(tls: &Tls) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let verifier = verifier(tls.ca.as_deref(), &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match (&tls.certificate, &tls.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let chain = certificates("client certificate", certificate)?;
            let pem = read("key of the client certificate", key)?;
            let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
                format!(
                    "{} holds no private key that is not encrypted, in PEM form: {error}",
                    key.display()
                )
            })?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                format!("the client certificate and its key cannot be used together: {error}")
            })?
        }
        (Some(_), None) => return Err("a client certificate needs its key too".to_owned()),
        (None, Some(_)) => return Err("a key needs its client certificate too".to_owned()),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn verifier(
    ca: Option<&Path>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let Some(ca) = ca else {
        let system = Verifier::new(Arc::clone(provider)).map_err(|error| {
            format!("the authorities that this system trusts cannot be used: {error}; name the node's as `ca`")
        })?;
        return Ok(Arc::new(system));
    };
    let unusable =
        |reason: &dyn std::fmt::Display| format!("{} cannot be used: {reason}", ca.display());
    let mut roots = RootCertStore::empty();
    for certificate in certificates("file of authorities", ca)? {
        roots.add(certificate).map_err(|error| unusable(&error))?;
    }
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(|error| unusable(&error))?;
    Ok(verifier)
}

fn read(what: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path)
        .map_err(|error| format!("cannot read the {what} {}: {error}", path.display()))
}

fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(what, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    all.ok()
        .filter(|all| !all.is_empty())
        .ok_or_else(|| format!("{} holds no certificates in PEM form", path.display()))
}

/// What TLS has to do with an error; nothing if it is none of TLS. A node's refusal of a client's
/// certificate comes after the handshake, with the first bytes that are read.
pub(super) fn problem(host: &str, error: &io::Error) -> Option<TlsProblem> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(found) => of_certificate(host, found),
        rustls::Error::InvalidMessage(_) => TlsProblem::NotTls,
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => TlsProblem::Version,
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            TlsProblem::CertificateWanted
        }
        rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError,
        ) => TlsProblem::CertificateRefused,
        other => TlsProblem::Other(other.to_string()),
    })
}

fn of_certificate(host: &str, error: &CertificateError) -> TlsProblem {
    match error {
        // An authority of the same name with another key, as after one was made anew, signs what
        // the trusted one has not.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            TlsProblem::UnknownIssuer
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => TlsProblem::NotInForce,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsProblem::OtherName {
                host: host.to_owned(),
            }
        }
        other => TlsProblem::Other(format!("its certificate is refused: {other}")),
    }
}
