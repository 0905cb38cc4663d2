//! The connection to a Valkey server, and all that is ever asked of it: every request that writes
//! is made here, and takes its keys as [`ValkeyKey`]s.
//!
//! One connection, made when it is needed and thrown away at the first failure, so that a server
//! that moved behind its name is found where it is now. Every request ends in bounded time. Knows
//! no table.

use std::fmt;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo as _, RedisError,
    RedisResult, Script, ScriptInvocation, ServerErrorKind, TlsCertificates, Value, pipe,
};
use tokio::sync::Mutex;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use super::key::ValkeyKey;
use crate::projections::sink::{SinkError, SinkKind};

/// Where a server is, and how long it is waited for. Shows no password.
#[derive(Clone)]
pub struct Address {
    /// `redis://`, `valkey://`, with a trailing `s` for TLS, or `redis+unix://` for a socket; with
    /// user, password and number of the database, if there are any.
    pub url: String,
    /// Authorities that the server's certificate may come from, in PEM form; `None`: those that
    /// the system trusts.
    pub ca: Option<Vec<u8>>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long an answer may take.
    pub response_timeout: Duration,
}

impl Address {
    /// A server at `url`, with the usual patience.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            ca: None,
            connect_timeout: Duration::from_secs(3),
            response_timeout: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address")
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .finish_non_exhaustive()
    }
}

/// Why an address is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressFault {
    /// It cannot be read.
    #[error("the URL of Valkey is none ({reason}); try redis://host:6379 or rediss://host:6379")]
    Url {
        /// What is wrong, without the URL, which may hold a password.
        reason: String,
    },
    /// It asks to believe everybody.
    #[error(
        "the URL of Valkey asks not to check the server's certificate; leave #insecure out, and name its authority instead"
    )]
    Insecure,
    /// There is no authority in what is given as one.
    #[error("the authority of Valkey's certificate cannot be read; give a certificate in PEM form")]
    Authority,
}

/// A server.
pub(super) struct Server {
    client: Client,
    config: AsyncConnectionConfig,
    patience: Duration,
    connection: Mutex<Option<MultiplexedConnection>>,
    commit: Script,
    take: Script,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// What a server said to a request that changes a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Committed {
    Done,
    Fenced,
}

/// Arguments of `commit.lua`, in its order.
pub(super) struct Batch<'a>(ScriptInvocation<'a>);

impl Batch<'_> {
    pub(super) fn key(&mut self, key: &ValkeyKey<'_>) {
        self.0.key(key);
    }

    pub(super) fn argument(&mut self, bytes: &[u8]) {
        self.0.arg(bytes);
    }

    pub(super) fn number(&mut self, number: u64) {
        self.0.arg(number);
    }
}

impl Server {
    pub(super) fn new(address: &Address) -> Result<Self, AddressFault> {
        let url = |error: RedisError| AddressFault::Url {
            reason: error.to_string(),
        };
        let info = address.url.as_str().into_connection_info().map_err(url)?;
        let redis = info.redis_settings().clone();
        let redis = redis.set_lib_name("arqonbus", env!("CARGO_PKG_VERSION"));
        let info = info.set_redis_settings(redis);
        let client = match info.addr() {
            ConnectionAddr::TcpTls { insecure: true, .. } => return Err(AddressFault::Insecure),
            ConnectionAddr::TcpTls { .. } => {
                if address.ca.as_deref().is_some_and(|ca| !is_authority(ca)) {
                    return Err(AddressFault::Authority);
                }
                // Somebody may have chosen one already.
                drop(tokio_rustls::rustls::crypto::ring::default_provider().install_default());
                let tls = TlsCertificates {
                    client_tls: None,
                    root_cert: address.ca.clone(),
                };
                Client::build_with_tls(info, tls)
            }
            _ => Client::open(info),
        };
        Ok(Self {
            client: client.map_err(url)?,
            config: AsyncConnectionConfig::new()
                .set_connection_timeout(Some(address.connect_timeout))
                .set_response_timeout(Some(address.response_timeout)),
            // A script that is not known is sent and called again.
            patience: address.connect_timeout + 3 * address.response_timeout,
            connection: Mutex::new(None),
            commit: Script::new(include_str!("commit.lua")),
            take: Script::new(include_str!("take.lua")),
        })
    }

    /// Arguments of a commit, to be filled in.
    pub(super) fn batch(&self) -> Batch<'_> {
        Batch(self.commit.prepare_invoke())
    }

    /// Takes a batch, all or nothing.
    pub(super) async fn commit(&self, batch: &Batch<'_>) -> Result<Committed, SinkError> {
        let call = async |mut on| batch.0.invoke_async::<String>(&mut on).await;
        let answer = self.ask(call).await?;
        match answer.as_str() {
            "done" => Ok(Committed::Done),
            "fenced" => Ok(Committed::Fenced),
            _ => Err(unfit("it answers what no script of this node says")),
        }
    }

    /// Takes a place: epoch, next and hash.
    pub(super) async fn take(
        &self,
        place: &ValkeyKey<'_>,
        ttl: Duration,
    ) -> Result<(u64, Option<u64>, Option<Vec<u8>>), SinkError> {
        let mut call = self.take.key(place);
        call.arg(millis(ttl));
        self.ask(async |mut on| call.invoke_async(&mut on).await)
            .await
    }

    /// Values of some fields of hashes, in the order of the keys. A key of another type has none.
    pub(super) async fn fields(
        &self,
        keys: &[(ValkeyKey<'_>, Vec<&str>)],
    ) -> Result<Vec<Vec<Option<Vec<u8>>>>, SinkError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = pipe();
        pipe.ignore_errors();
        for (key, fields) in keys {
            pipe.cmd("HMGET").arg(key).arg(fields);
        }
        let call = async |mut on| {
            let answers: Vec<RedisResult<Vec<Option<Vec<u8>>>>> = pipe.query_async(&mut on).await?;
            let mut values = Vec::with_capacity(answers.len());
            for (answer, (_, fields)) in answers.into_iter().zip(keys) {
                values.push(match answer {
                    Err(error) if error.code() == Some("WRONGTYPE") => vec![None; fields.len()],
                    other => other?,
                });
            }
            Ok(values)
        };
        self.ask(call).await
    }

    /// The greatest sequence in each of some streams; `None` for one without entries.
    pub(super) async fn last_entries(
        &self,
        streams: &[ValkeyKey<'_>],
    ) -> Result<Vec<Option<u64>>, SinkError> {
        if streams.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = pipe();
        for stream in streams {
            let pipe = pipe.cmd("XREVRANGE").arg(stream);
            pipe.arg("+").arg("-").arg("COUNT").arg(1);
        }
        let call = async |mut on| pipe.query_async::<Vec<Value>>(&mut on).await;
        let answers = self.ask(call).await?;
        Ok(answers.iter().map(last_sequence).collect())
    }

    /// What `INFO` says of a section, as names and values.
    pub(super) async fn info(&self, section: &str) -> Result<Vec<(String, String)>, SinkError> {
        let mut command = redis::cmd("INFO");
        command.arg(section);
        let call = async |mut on| command.query_async::<String>(&mut on).await;
        let text = self.ask(call).await?;
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        Ok(lines
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect())
    }

    /// Whether it answers.
    pub(super) async fn ping(&self) -> Result<(), SinkError> {
        let call = async |mut on| redis::cmd("PING").query_async::<()>(&mut on).await;
        self.ask(call).await
    }

    /// Writes and removes a key, and sends the scripts, as a commit would have to.
    pub(super) async fn probe(&self) -> Result<(), SinkError> {
        let mut pipe = pipe();
        let key = ValkeyKey::Probe;
        pipe.cmd("HSET").arg(key).arg("probe").arg(1);
        pipe.cmd("PEXPIRE").arg(key).arg(1000);
        pipe.cmd("DEL").arg(key);
        let call = async |mut on: MultiplexedConnection| {
            pipe.atomic().exec_async(&mut on).await?;
            self.take.prepare_invoke().load_async(&mut on).await?;
            self.commit.prepare_invoke().load_async(&mut on).await
        };
        self.ask(call).await.map(drop)
    }

    async fn ask<T>(
        &self,
        call: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T, SinkError> {
        let asked = async {
            let connection = self.connected().await?;
            call(connection).await
        };
        let answer = tokio::time::timeout(self.patience, asked).await;
        let error = match answer {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => fault(&error),
            Err(_) => unavailable("it does not answer in time"),
        };
        if matches!(error, SinkError::Unavailable { .. }) {
            *self.connection.lock().await = None;
        }
        Err(error)
    }

    async fn connected(&self) -> RedisResult<MultiplexedConnection> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = &*slot {
            return Ok(connection.clone());
        }
        let connect = self
            .client
            .get_multiplexed_async_connection_with_config(&self.config);
        Ok(slot.insert(connect.await?).clone())
    }
}

/// Whether a text holds certificates in PEM form, and none that is broken.
fn is_authority(pem: &[u8]) -> bool {
    let mut certificates = CertificateDer::pem_slice_iter(pem).peekable();
    certificates.peek().is_some() && certificates.all(|certificate| certificate.is_ok())
}

/// `[[id, fields]]` of one entry.
fn last_sequence(answer: &Value) -> Option<u64> {
    let Value::Array(entries) = answer else {
        return None;
    };
    let Some(Value::Array(entry)) = entries.first() else {
        return None;
    };
    let id: String = redis::from_redis_value_ref(entry.first()?).ok()?;
    id.split('-').next()?.parse().ok()
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn unfit(reason: impl Into<String>) -> SinkError {
    SinkError::Unfit {
        sink: SinkKind::Valkey,
        reason: reason.into(),
    }
}

pub(super) fn unavailable(reason: impl Into<String>) -> SinkError {
    SinkError::Unavailable {
        sink: SinkKind::Valkey,
        reason: reason.into(),
    }
}

/// Whether asking again can help. What is not known to be for ever is not: full, read-only,
/// loading, busy, away, or without the right password, all of it passes once somebody has seen to
/// it, and until then the batch waits.
fn fault(error: &RedisError) -> SinkError {
    match error.kind() {
        ErrorKind::Server(
            ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::CrossSlot,
        ) => unfit("it is a cluster, and a batch is taken by one server; use one that is none"),
        ErrorKind::UnexpectedReturnType | ErrorKind::InvalidClientConfig | ErrorKind::Client => {
            unfit(said(error))
        }
        _ if error.code() == Some("WRONGTYPE") => {
            unfit("one of its streams is of another type; remove what is there, or name another")
        }
        _ => unavailable(said(error)),
    }
}

/// What a server or a connection said: the code by which it is found in its manual, and the words,
/// without the place in a script that comes after them.
fn said(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => {
            let words = detail.split(" script: ").next().unwrap_or(detail);
            format!("{code} {words}")
        }
        (Some(code), None) => code.to_owned(),
        (None, _) => error.to_string(),
    }
}
