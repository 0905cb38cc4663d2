//! Connections to the server: a bounded pool, TLS as the URL asks for it, limits of time on
//! everything.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime,
};
use rustls_platform_verifier::Verifier;
use tokio_postgres::NoTls;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::fault;
use super::unverified::Anybody;
use crate::projections::sink::SinkError;

/// How the database is reached, and how long anything may take.
#[derive(Clone)]
pub struct Options {
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=…`. `sslmode` is `disable`, `prefer`
    /// (the default: TLS where the server has it) or `require`. With `require` the server's
    /// certificate is always verified; `verify-full` and `verify-ca` therefore mean the same. With
    /// `prefer` it is where `ca` is given: without, the node would speak to anybody in the clear.
    pub url: String,
    /// Authorities that the server's certificate may come from, in PEM form; `None`: those that
    /// the system trusts.
    pub ca: Option<PathBuf>,
    /// Most connections at a time.
    pub connections_max: usize,
    /// How long a connection may take to be made, or to become free.
    pub connect_timeout: Duration,
    /// How long a statement may take.
    pub statement_timeout: Duration,
    /// How long a lock is waited for.
    pub lock_timeout: Duration,
    /// Who brings the database up to date.
    pub migrating: Migrating,
}

/// Who brings a database up to date.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Migrating {
    /// Somebody, with `arqonbus migrate up`; until then the sink cannot be used.
    ByHand,
    /// The sink, when it is first used.
    ByItself,
}

impl Options {
    /// For `url`, with limits that suit most databases.
    #[must_use]
    pub fn of(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ca: None,
            connections_max: 8,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(5),
            migrating: Migrating::ByHand,
        }
    }
}

impl fmt::Debug for Options {
    /// Without the URL, which holds the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("ca", &self.ca)
            .field("connections_max", &self.connections_max)
            .finish_non_exhaustive()
    }
}

/// The pool of connections.
#[derive(Clone)]
pub(super) struct Connections {
    pool: Pool,
    statement_timeout: Duration,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connections")
            .field(&self.pool.status())
            .finish()
    }
}

impl Connections {
    /// Makes none yet.
    ///
    /// # Errors
    /// The URL cannot be read, or the authorities cannot.
    pub(super) fn new(options: &Options) -> Result<Self, SinkError> {
        let config = configure(options)?;
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            mode => Some(trust(mode, options.ca.as_deref())?),
        };
        let recycling = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = match tls {
            None => Manager::from_config(config, NoTls, recycling),
            Some(tls) => Manager::from_config(config, MakeRustlsConnect::new(tls), recycling),
        };
        let opening = Arc::new(opening(options));
        let pool = Pool::builder(manager)
            .max_size(options.connections_max.max(1))
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(options.connect_timeout))
            .create_timeout(Some(options.connect_timeout))
            .recycle_timeout(Some(options.connect_timeout))
            .post_create(Hook::async_fn(move |client, _| {
                let opening = Arc::clone(&opening);
                Box::pin(async move {
                    client
                        .batch_execute(&opening)
                        .await
                        .map_err(HookError::Backend)
                })
            }))
            .build()
            .map_err(|error| fault::unfit(format!("no pool of connections: {error}")))?;
        Ok(Self {
            pool,
            statement_timeout: options.statement_timeout,
        })
    }

    /// A connection: one that is free, or a new one.
    pub(super) async fn get(&self) -> Result<Object, SinkError> {
        self.pool
            .get()
            .await
            .map_err(|error| fault::of_pool(&error))
    }

    /// How long any request may take as a whole. A server that is cut off says nothing, not even
    /// that a statement took too long.
    pub(super) fn patience(&self) -> Duration {
        self.statement_timeout * 4
    }
}

/// The first thing that every connection is told.
///
/// Keys that come as arrays are found along the index of the key, one by one: where the server has
/// no statistics yet, it would rather read all rows of the tenant for each batch, and go on doing so
/// with the plan of a statement that it has made when the table was empty. Whoever runs the server
/// may demand more of a commit than to be on the disk of one, but not less.
fn opening(options: &Options) -> String {
    format!(
        "SET statement_timeout = {}; SET lock_timeout = {}; \
         SET idle_in_transaction_session_timeout = {}; \
         SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off; \
         SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan; \
         SET plan_cache_mode = force_custom_plan; \
         SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off; \
         SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan; \
         SELECT set_config('synchronous_commit', 'on', false) \
          WHERE current_setting('synchronous_commit') = 'off'",
        options.statement_timeout.as_millis(),
        options.lock_timeout.as_millis(),
        options.statement_timeout.as_millis() * 2,
    )
}

fn configure(options: &Options) -> Result<tokio_postgres::Config, SinkError> {
    let url = options
        .url
        .replace("sslmode=verify-full", "sslmode=require")
        .replace("sslmode=verify-ca", "sslmode=require");
    // The parser may quote what it could not read, and that can be the password.
    let mut config: tokio_postgres::Config = url.parse().or(Err(fault::unfit(
        "its URL cannot be read; it is postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=require",
    )))?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(fault::unfit("its URL names no host"));
    }
    config
        .application_name("arqonbus")
        .connect_timeout(options.connect_timeout)
        .keepalives_idle(Duration::from_secs(30))
        .tcp_user_timeout(options.statement_timeout);
    Ok(config)
}

fn trust(mode: SslMode, ca: Option<&Path>) -> Result<ClientConfig, SinkError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = match (mode, ca) {
        (SslMode::Prefer, None) => Arc::new(Anybody(Arc::clone(&provider))),
        _ => verifier(ca, &provider).map_err(fault::unfit)?,
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| fault::unfit(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(config)
}

fn verifier(
    ca: Option<&Path>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let Some(ca) = ca else {
        let system = Verifier::new(Arc::clone(provider)).map_err(|error| {
            format!("the authorities that this system trusts cannot be used: {error}; name the server's in a file")
        })?;
        return Ok(Arc::new(system));
    };
    let unusable =
        |reason: &dyn fmt::Display| format!("the file of authorities cannot be used: {reason}");
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(ca)
        .map_err(|error| unusable(&error))?
        .collect();
    let mut roots = RootCertStore::empty();
    for certificate in certificates.map_err(|error| unusable(&error))? {
        roots.add(certificate).map_err(|error| unusable(&error))?;
    }
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(|error| unusable(&error))?;
    Ok(verifier)
}

#[cfg(test)]
mod tests {
    use super::*;

    // PRJ-15: what is wrong with a URL is said without it.
    #[test]
    fn a_password_is_in_no_error_and_no_debug_text() {
        for url in [
            "postgres://me:hidden-word@host:notaport/db",
            "postgres://me:hidden-word@host/db?sslmode=perhaps",
            "hidden-word",
            "postgres://me:hidden-word@/db",
        ] {
            let options = Options::of(url);
            let error = Connections::new(&options).expect_err(url);
            assert!(!format!("{error}{error:?}{options:?}").contains("hidden-word"));
        }
    }

    #[test]
    fn verification_is_part_of_every_mode_with_tls() {
        for (mode, wanted) in [
            ("disable", SslMode::Disable),
            ("prefer", SslMode::Prefer),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::Require),
            ("verify-full", SslMode::Require),
        ] {
            let options = Options::of(format!("postgres://me@host/db?sslmode={mode}"));
            let config = configure(&options).expect("a configuration");
            assert_eq!(config.get_ssl_mode(), wanted, "{mode}");
        }
    }
}
