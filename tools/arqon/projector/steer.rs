//! How a projection stands, pausing it, waiting for it, and giving it an event.

use std::io::Read as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arqonbus::proto::ErrorCode;
use arqonbus::proto::v1::Value;
use clap::Args;
use serde_json::Value as Json;

use super::Which;
use crate::connection::{Patience, Target};
use crate::failure::Failure;
use crate::{Output, table};

/// Longer than this is asked for again and again.
const ASK_MS: u64 = 10_000;
/// An event is about something that is kept elsewhere; it is not long itself.
const EVENT_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct Status {
    /// All projections, not one
    #[arg(long)]
    all: bool,
}

impl Status {
    pub(super) async fn run(
        self,
        target: &Target,
        output: Output,
        which: &Which,
    ) -> anyhow::Result<()> {
        let client = target.connect(Patience::None).await?.client;
        let result = if self.all {
            client.command("projection.list", []).await?
        } else {
            let arguments = which.with([]);
            client.command("projection.status", arguments).await?
        };
        let result = result.to_json();
        match (output, &result) {
            // One after the other: side by side, with their sinks, they are too wide.
            (Output::Text, Json::Array(all)) if !all.is_empty() => {
                let texts: Vec<String> = all.iter().map(table::text).collect();
                table::print_text(&texts.join("\n\n"))
            }
            _ => table::print(&result, output),
        }
    }
}

pub(super) async fn pause(target: &Target, output: Output, which: &Which) -> anyhow::Result<()> {
    let client = target.connect(Patience::None).await?.client;
    let arguments = which.with([]);
    let result = client.command("projection.pause", arguments).await?;
    table::print(&result.to_json(), output)
}

#[derive(Debug, Args)]
pub(super) struct Resume {
    /// Go on although records were removed from the log before they were projected
    #[arg(long)]
    skip: bool,
}

impl Resume {
    pub(super) async fn run(
        self,
        target: &Target,
        output: Output,
        which: &Which,
    ) -> anyhow::Result<()> {
        let client = target.connect(Patience::None).await?.client;
        let arguments = which.with([("skip", self.skip.then(|| true.into()))]);
        let result = client.command("projection.resume", arguments).await?;
        table::print(&result.to_json(), output)
    }
}

#[derive(Debug, Args)]
pub(super) struct Wait {
    /// The record that it must have passed
    #[arg(value_name = "SEQUENCE")]
    sequence: u64,

    /// How long to wait
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    timeout_ms: u64,
}

impl Wait {
    pub(super) async fn run(
        self,
        target: &Target,
        output: Output,
        which: &Which,
    ) -> anyhow::Result<()> {
        let client = target.connect(Patience::None).await?.client;
        let until = Instant::now() + Duration::from_millis(self.timeout_ms);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let asked_ms = u64::try_from(left.as_millis())
                .unwrap_or(u64::MAX)
                .min(ASK_MS);
            let arguments = which.with([
                ("sequence", Some(self.sequence.into())),
                ("timeout_ms", Some(asked_ms.into())),
            ]);
            match client.command("projection.wait", arguments).await {
                Err(error) if error.code() == Some(ErrorCode::NotYet) && Instant::now() < until => {
                }
                answer => return table::print(&answer?.to_json(), output),
            }
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Event {
    /// The event in JSON; from standard input if left out
    #[arg(value_name = "JSON")]
    event: Option<String>,
}

impl Event {
    pub(super) async fn run(self, target: &Target, output: Output) -> anyhow::Result<()> {
        let text = match self.event {
            Some(text) => text,
            None => {
                let mut text = String::new();
                let mut input = std::io::stdin().take(EVENT_BYTES_MAX + 1);
                input
                    .read_to_string(&mut text)
                    .context("reading standard input")?;
                if text.len() as u64 > EVENT_BYTES_MAX {
                    let text = format!("the event has more than {EVENT_BYTES_MAX} bytes");
                    return Err(Failure::data(text).into());
                }
                text
            }
        };
        let event: Json = serde_json::from_str(&text)
            .map_err(|error| Failure::data(format!("the event is not JSON: {error}")))?;
        let client = target.connect(Patience::None).await?.client;
        let arguments = [("event", Value::from(event))];
        let command = "op.continuum.projector.project_event";
        let result = client.command(command, arguments).await?;
        table::print(&result.to_json(), output)
    }
}
