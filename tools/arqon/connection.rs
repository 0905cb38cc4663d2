//! Which node, as whom, in which reality: flags over environment over the active context.

use std::time::Duration;

use anyhow::Context as _;
use arqonbus::client::{Client, ConnectOptions, Reconnect};
use clap::Args;

use crate::context::Profiles;
use crate::failure::Failure;

/// How long a consumer looks for its node again after the connection is lost.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Target {
    /// The node, like ws://127.0.0.1:9100/v1/ws
    #[arg(long, global = true, env = "ARQON_URL")]
    url: Option<String>,

    /// The token; better kept in ARQON_TOKEN or in a context, where others cannot see it
    #[arg(long, global = true, env = "ARQON_TOKEN", hide_env_values = true)]
    token: Option<String>,

    /// A context instead of the active one (`arqon context list`)
    #[arg(long, global = true, env = "ARQON_CONTEXT")]
    context: Option<String>,

    /// The reality to work in [default: main]
    #[arg(long, global = true, env = "ARQON_REALITY")]
    reality: Option<String>,
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
        let client = Client::connect(options).await?;
        Ok(Connection { client, reality })
    }

    /// Options of a connection, and the reality.
    pub(crate) fn options(&self) -> anyhow::Result<(ConnectOptions, String)> {
        let profiles = Profiles::load().context("reading the contexts")?;
        let profile = profiles.chosen(self.context.as_deref())?;
        let url = self
            .url
            .as_ref()
            .or(profile.map(|profile| &profile.url))
            .ok_or_else(|| {
                Failure::usage(
                    "no node is given: set ARQON_URL, use --url, or make a context \
                 (`arqon context add --help`)",
                )
            })?;
        let token = self
            .token
            .clone()
            .or_else(|| profile.and_then(|profile| profile.token.clone()));
        let reality = self
            .reality
            .clone()
            .or_else(|| profile.and_then(|profile| profile.reality.clone()))
            .unwrap_or_else(|| "main".to_owned());
        let mut options = ConnectOptions::new(url, token.unwrap_or_default());
        options.reconnect = Reconnect::Within(PATIENCE);
        Ok((options, reality))
    }

    /// For `token inspect`.
    pub(crate) fn token(&self) -> anyhow::Result<Option<String>> {
        if self.token.is_some() {
            return Ok(self.token.clone());
        }
        let profiles = Profiles::load().context("reading the contexts")?;
        let profile = profiles.chosen(self.context.as_deref())?;
        Ok(profile.and_then(|profile| profile.token.clone()))
    }

    /// Whether a node is given at all.
    pub(crate) fn names_a_node(&self) -> bool {
        self.options().is_ok()
    }

    /// For `context add`.
    pub(crate) fn given(&self) -> (Option<&str>, Option<&str>, Option<&str>) {
        (
            self.url.as_deref(),
            self.token.as_deref(),
            self.reality.as_deref(),
        )
    }
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
