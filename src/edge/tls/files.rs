//! The files that TLS is made of: certificate, key, and the authorities of clients.
//!
//! Owns which settings belong together, the reading of the files, and every check between their
//! bytes and a configuration that can be put in force. Errors name settings and files, and quote
//! nothing of what is in them.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{RootCertStore, ServerConfig, version};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::bearer::Admins;
use crate::config;
use crate::log::Micros;

/// Far more than any chain or bundle; so much is read of a file at most.
const FILE_BYTES_MAX: u64 = 1 << 20;
const HTTP: &[u8] = b"http/1.1";
const CERTIFICATE: &str = "edge.tls_certificate";
const KEY: &str = "edge.tls_key";
const CLIENT_CA: &str = "edge.client_ca";

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// One setting without what it needs.
    #[error("{setting}: it needs {needs} too")]
    Alone {
        /// The setting.
        setting: &'static str,
        /// The other one.
        needs: &'static str,
    },
    /// Authorities of certificates that nobody is asked for.
    #[error(
        "{CLIENT_CA}: edge.client_certificates = \"off\" asks no client for a certificate; set it to \"optional\" or \"required\", or leave {CLIENT_CA} out"
    )]
    NobodyAsked,
    /// A file cannot be read.
    #[error("{setting}: cannot read {path}: {source}", path = path.display())]
    Unreadable {
        /// The setting.
        setting: &'static str,
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{setting}: {path} must hold {wanted} in PEM form", path = path.display())]
    Not {
        /// The setting.
        setting: &'static str,
        /// Its file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// The certificate has ended.
    #[error("{setting}: the certificate in {path} has ended; get a new one", path = path.display())]
    Ended {
        /// The setting.
        setting: &'static str,
        /// Its file.
        path: PathBuf,
    },
    /// The certificate has not begun.
    #[error(
        "{CERTIFICATE}: the certificate in {path} has not begun; look at the node's clock",
        path = path.display()
    )]
    NotBegun {
        /// Its file.
        path: PathBuf,
    },
    /// Certificate and key do not make a pair, or TLS cannot use them.
    #[error("{CERTIFICATE} and {KEY} cannot be used together: {reason}")]
    Pair {
        /// Why.
        reason: tokio_rustls::rustls::Error,
    },
    /// TLS cannot use the authorities.
    #[error("{CLIENT_CA}: its certificates cannot be used: {reason}")]
    Authorities {
        /// Why.
        reason: tokio_rustls::rustls::server::VerifierBuilderError,
    },
}

/// What clients are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Clients {
    NotAsked,
    May { ca: PathBuf },
    Must { ca: PathBuf },
}

/// The files in the settings, complete.
#[derive(Clone, Debug)]
pub struct Files {
    certificate: PathBuf,
    key: PathBuf,
    clients: Clients,
    admins: Admins,
}

/// The bytes of all files at one time.
pub struct Read {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// What can be put in force.
#[derive(Debug)]
pub struct InForce {
    pub(super) edge: Arc<ServerConfig>,
    pub(super) ops: Arc<ServerConfig>,
    /// Of the files' bytes.
    pub(super) digest: [u8; 32],
    /// When the node's certificate ends.
    pub(super) ends_at: Micros,
    /// When the first of the authorities of clients ends.
    pub(super) clients_end_at: Option<Micros>,
}

impl Files {
    /// What the settings name; `None` if TLS is not wanted.
    ///
    /// # Errors
    /// Each setting that lacks another.
    pub fn of(edge: &config::Edge, ops: &config::Ops) -> Result<Option<Self>, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut alone = |setting, needs| faults.push(Fault::Alone { setting, needs });
        let pair = match (&edge.tls_certificate, &edge.tls_key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (Some(_), None) => {
                alone(CERTIFICATE, KEY);
                None
            }
            (None, Some(_)) => {
                alone(KEY, CERTIFICATE);
                None
            }
            (None, None) => None,
        };
        let untold = edge.tls_certificate.is_none() && edge.tls_key.is_none();
        if ops.tls && untold {
            alone("ops.tls", CERTIFICATE);
        }
        let asked = edge.client_certificates.as_str();
        let clients = match (asked, &edge.client_ca) {
            ("off", None) => Clients::NotAsked,
            ("off", Some(_)) => {
                faults.push(Fault::NobodyAsked);
                Clients::NotAsked
            }
            (_, None) => {
                alone("edge.client_certificates", CLIENT_CA);
                Clients::NotAsked
            }
            ("optional", Some(ca)) => Clients::May { ca: ca.clone() },
            (_, Some(ca)) => Clients::Must { ca: ca.clone() },
        };
        if asked != "off" && untold {
            faults.push(Fault::Alone {
                setting: "edge.client_certificates",
                needs: CERTIFICATE,
            });
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(pair.map(|(certificate, key)| Self {
            certificate,
            key,
            clients,
            admins: if edge.client_certificate_admins {
                Admins::Allowed
            } else {
                Admins::Refused
            },
        }))
    }

    pub(super) const fn admins(&self) -> Admins {
        self.admins
    }

    fn client_ca(&self) -> Option<&Path> {
        match &self.clients {
            Clients::NotAsked => None,
            Clients::May { ca } | Clients::Must { ca } => Some(ca),
        }
    }

    /// Reads all of them.
    ///
    /// # Errors
    /// One cannot be read, or is larger than such a file can be.
    pub fn read(&self) -> Result<Read, Fault> {
        let client_ca = self.client_ca().map(|path| read(CLIENT_CA, path));
        Ok(Read {
            certificate: read(CERTIFICATE, &self.certificate)?,
            key: read(KEY, &self.key)?,
            client_ca: client_ca.transpose()?,
        })
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, Fault> {
    let bytes = || {
        let mut bytes = Vec::new();
        let file = File::open(path)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        Ok(bytes)
    };
    bytes().map_err(|source| Fault::Unreadable {
        setting,
        path: path.to_owned(),
        source,
    })
}

impl std::fmt::Debug for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key is a secret.
        f.debug_struct("Read").finish_non_exhaustive()
    }
}

impl Read {
    /// Tells contents apart, not the times at which they were written.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let none = Vec::new();
        for bytes in [
            &self.certificate,
            &self.key,
            self.client_ca.as_ref().unwrap_or(&none),
        ] {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
        hash.finalize().into()
    }

    /// Makes what can be put in force of it.
    ///
    /// # Errors
    /// Whatever a handshake would fail with, as far as it can be known before.
    pub fn usable(&self, files: &Files, now: Micros) -> Result<InForce, Fault> {
        let chain = self.chain(files)?;
        let ends_at = own_end(files, &chain, now)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).or(Err(Fault::Not {
            setting: KEY,
            path: files.key.clone(),
            wanted: "a private key that is not encrypted",
        }))?;
        let provider = Arc::new(ring::default_provider());
        let authorities = self.authorities(files, now)?;
        let verifier = authorities
            .as_ref()
            .map(|(roots, _)| verifier(&files.clients, roots, &provider))
            .transpose()?;
        Ok(InForce {
            edge: configure(&provider, verifier, &chain, &key)?,
            ops: configure(&provider, None, &chain, &key)?,
            digest: self.digest(),
            ends_at,
            clients_end_at: authorities.map(|(_, end)| end),
        })
    }

    fn chain(&self, files: &Files) -> Result<Vec<CertificateDer<'static>>, Fault> {
        certificates(&self.certificate).ok_or_else(|| Fault::Not {
            setting: CERTIFICATE,
            path: files.certificate.clone(),
            wanted: "the node's certificate, followed by those between it and its authority,",
        })
    }

    /// The authorities of clients, and when the first of them ends. Those that have ended stay in a
    /// bundle for a while after a change, and are passed over.
    fn authorities(
        &self,
        files: &Files,
        now: Micros,
    ) -> Result<Option<(Arc<RootCertStore>, Micros)>, Fault> {
        let (Some(bytes), Some(path)) = (&self.client_ca, files.client_ca()) else {
            return Ok(None);
        };
        let wrong = || Fault::Not {
            setting: CLIENT_CA,
            path: path.to_owned(),
            wanted: "certificates of authorities",
        };
        let mut roots = RootCertStore::empty();
        let mut first_end: Option<Micros> = None;
        for certificate in certificates(bytes).ok_or_else(wrong)? {
            let (_, end) = lifetime(&certificate).ok_or_else(wrong)?;
            if end <= now {
                tracing::warn!("{CLIENT_CA} holds a certificate that has ended; passed over");
                continue;
            }
            first_end = Some(first_end.map_or(end, |first| first.min(end)));
            roots.add(certificate).map_err(|error| {
                tracing::debug!(%error, "an authority of clients cannot be used");
                wrong()
            })?;
        }
        let first_end = first_end.ok_or_else(|| Fault::Ended {
            setting: CLIENT_CA,
            path: path.to_owned(),
        })?;
        Ok(Some((Arc::new(roots), first_end)))
    }
}

/// All of a file, or nothing if it holds none or one that is broken.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.ok().filter(|all| !all.is_empty())
}

fn lifetime(certificate: &CertificateDer<'_>) -> Option<(Micros, Micros)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(super::lifetime(&parsed))
}

fn own_end(files: &Files, chain: &[CertificateDer<'_>], now: Micros) -> Result<Micros, Fault> {
    let path = files.certificate.clone();
    let own = chain.first().and_then(lifetime);
    let Some((begins, ends)) = own else {
        return Err(Fault::Not {
            setting: CERTIFICATE,
            path,
            wanted: "an X.509 certificate",
        });
    };
    if ends <= now {
        let setting = CERTIFICATE;
        return Err(Fault::Ended { setting, path });
    }
    if begins > now {
        return Err(Fault::NotBegun { path });
    }
    Ok(ends)
}

fn verifier(
    clients: &Clients,
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Fault> {
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider));
    let builder = match clients {
        Clients::May { .. } => builder.allow_unauthenticated(),
        Clients::NotAsked | Clients::Must { .. } => builder,
    };
    builder
        .build()
        .map_err(|reason| Fault::Authorities { reason })
}

fn configure(
    provider: &Arc<CryptoProvider>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, Fault> {
    let pair = |reason| Fault::Pair { reason };
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(pair)?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(chain.to_vec(), key.clone_key())
        .map_err(pair)?;
    config.alpn_protocols = vec![HTTP.to_vec()];
    // A resumed session would bring a client's certificate from a handshake of the past, which
    // nobody checks again; and tickets hold memory.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
