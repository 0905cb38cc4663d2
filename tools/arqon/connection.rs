//! Which node, as whom, in which reality: flags over environment over the active context. A
//! context named by a flag is a whole: the environment's node and token do not mix with it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use arqonbus::client::{self, Client, ConnectOptions, Reconnect, Tls};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};

use crate::context::{Profile, Profiles};
use crate::failure::Failure;

/// How long a consumer looks for its node again after the connection is lost.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Target {
    /// The node, like wss://broker.example:9100/v1/ws, or ws:// without TLS
    #[arg(long, global = true, env = "ARQON_URL")]
    url: Option<String>,

    /// File with the authorities to believe for wss:// [default: those that the system trusts]
    #[arg(long, global = true, env = "ARQON_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// File with a client certificate to show for wss://; it may stand in for a token
    #[arg(long, global = true, env = "ARQON_CERT", value_name = "FILE")]
    cert: Option<PathBuf>,

    /// File with the private key of the client certificate
    #[arg(long, global = true, env = "ARQON_CERT_KEY", value_name = "FILE")]
    cert_key: Option<PathBuf>,

    /// The token; better kept in ARQON_TOKEN or in a context, where others cannot see it
    #[arg(long, global = true, env = "ARQON_TOKEN", hide_env_values = true)]
    token: Option<String>,

    /// A context instead of the active one (`arqon context list`)
    #[arg(long, global = true, env = "ARQON_CONTEXT")]
    context: Option<String>,

    /// The reality to work in [default: main]
    #[arg(long, global = true, env = "ARQON_REALITY")]
    reality: Option<String>,

    #[arg(skip)]
    typed: Typed,
}

/// What stands on the command line itself, and not in the environment.
#[derive(Clone, Copy, Debug, Default)]
struct Typed {
    url: bool,
    ca: bool,
    cert: bool,
    cert_key: bool,
    token: bool,
    context: bool,
    reality: bool,
}

/// Whether a verb outlives its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    None,
    Reconnect,
}

/// A connection and the reality to use on it.
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) reality: String,
}

impl Target {
    pub(crate) async fn connect(&self, patience: Patience) -> anyhow::Result<Connection> {
        let (mut options, reality) = self.options()?;
        if patience == Patience::None {
            options.reconnect = Reconnect::Never;
        }
        let end = expiry(&options.token);
        let client = Client::connect(options).await.map_err(|error| {
            let refused = matches!(error, client::Error::Refused { status: 401, .. });
            let now_s = client::now_micros() / 1_000_000;
            match end.filter(|end| refused && *end <= now_s) {
                Some(end) => anyhow::Error::new(error).context(expired(end)),
                None => error.into(),
            }
        })?;
        Ok(Connection { client, reality })
    }

    /// Notes which values were typed: they go before those of the environment.
    pub(crate) fn note_sources(&mut self, matches: &ArgMatches) {
        let typed = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
        self.typed = Typed {
            url: typed("url"),
            ca: typed("ca"),
            cert: typed("cert"),
            cert_key: typed("cert_key"),
            token: typed("token"),
            context: typed("context"),
            reality: typed("reality"),
        };
    }

    /// Options of a connection, and the reality.
    pub(crate) fn options(&self) -> anyhow::Result<(ConnectOptions, String)> {
        let profiles = Profiles::load().context("reading the contexts")?;
        let profile = profiles.chosen(self.context.as_deref())?;
        let url = self.url(profile).ok_or_else(|| {
            Failure::usage(
                "no node is given: set ARQON_URL, use --url, or make a context \
                 (`arqon context add --help`)",
            )
        })?;
        let token = self
            .token_of(profile)
            .filter(|token| !token.trim().is_empty());
        let tls = self.tls(profile);
        let token = token
            .or_else(|| tls.certificate.is_some().then(String::new))
            .ok_or_else(|| {
                Failure::not_permitted(
                    "no token: set ARQON_TOKEN, --token or a context; or show a certificate (--cert)",
                )
            })?;
        let reality = self
            .reality
            .clone()
            .filter(|_| self.typed.reality || !self.typed.context)
            .or_else(|| profile.and_then(|profile| profile.reality.clone()))
            .unwrap_or_else(|| "main".to_owned());
        let mut options = ConnectOptions::new(url, token);
        options.tls = tls;
        options.reconnect = Reconnect::Within(PATIENCE);
        Ok((options, reality))
    }

    fn url(&self, profile: Option<&Profile>) -> Option<String> {
        self.url
            .clone()
            .filter(|_| self.typed.url || !self.typed.context)
            .or_else(|| profile.map(|profile| profile.url.clone()))
    }

    fn tls(&self, profile: Option<&Profile>) -> Tls {
        let one = |given: &Option<PathBuf>, typed, of: fn(&Profile) -> &Option<PathBuf>| {
            given
                .clone()
                .filter(|_| typed || !self.typed.context)
                .or_else(|| profile.and_then(|profile| of(profile).clone()))
        };
        let typed = self.typed;
        Tls {
            ca: one(&self.ca, typed.ca, |profile| &profile.ca),
            certificate: one(&self.cert, typed.cert, |profile| &profile.cert),
            key: one(&self.cert_key, typed.cert_key, |profile| &profile.cert_key),
        }
    }

    fn token_of(&self, profile: Option<&Profile>) -> Option<String> {
        self.token
            .clone()
            .filter(|_| self.typed.token || !self.typed.context)
            .or_else(|| profile.and_then(|profile| profile.token.clone()))
    }

    /// For `token inspect`.
    pub(crate) fn token(&self) -> anyhow::Result<Option<String>> {
        let profiles = Profiles::load().context("reading the contexts")?;
        let profile = profiles.chosen(self.context.as_deref())?;
        Ok(self.token_of(profile))
    }

    /// Whether a node is given at all.
    pub(crate) fn names_a_node(&self) -> anyhow::Result<bool> {
        let profiles = Profiles::load().context("reading the contexts")?;
        let profile = profiles.chosen(self.context.as_deref())?;
        Ok(self.url(profile).is_some())
    }

    /// What `context add` keeps: what was typed. A token of the environment is for another node,
    /// and must not be written down unasked. Files are named from the root on, because a context is
    /// used from anywhere. `None` without a URL.
    pub(crate) fn given(&self) -> anyhow::Result<Option<Profile>> {
        let Some(url) = self.url.clone().filter(|_| self.typed.url) else {
            return Ok(None);
        };
        let file = |path: &Option<PathBuf>, typed| {
            let path = path.as_ref().filter(|_| typed);
            path.map(std::path::absolute).transpose()
        };
        Ok(Some(Profile {
            url,
            token: self.token.clone().filter(|_| self.typed.token),
            reality: self.reality.clone().filter(|_| self.typed.reality),
            ca: file(&self.ca, self.typed.ca)?,
            cert: file(&self.cert, self.typed.cert)?,
            cert_key: file(&self.cert_key, self.typed.cert_key)?,
        }))
    }
}

/// When a token says that it ends, in seconds since the Unix epoch; none if it cannot be read.
fn expiry(token: &str) -> Option<u64> {
    let claims = URL_SAFE_NO_PAD
        .decode(token.trim().split('.').nth(1)?)
        .ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    claims.get("exp")?.as_u64()
}

fn expired(end_s: u64) -> String {
    let time = i64::try_from(end_s)
        .ok()
        .and_then(|end| jiff::Timestamp::from_second(end).ok())
        .map_or_else(|| end_s.to_string(), |time| time.to_string());
    format!("the token expired at {time}")
}

/// Ctrl-C or SIGTERM.
pub(crate) async fn interrupt() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        pressed = tokio::signal::ctrl_c() => if pressed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
