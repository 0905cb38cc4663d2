//! `arqon dispatch`: having something done by operators.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use arqonbus::proto::v1::Value;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::{Args, ValueEnum};

use crate::connection::{Patience, Target};
use crate::failure::Failure;
use crate::{Output, bounds, table};

/// Have something done by the operators of a group
///
/// The answer says which task it became; with --wait, what came of it. Results stand on the topic
/// op.result.GROUP, with the task's id as key. It ends with 1 if the task has failed for good, and
/// with 75 if --wait is over before there is a result.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon dispatch --group upper 'hello' --wait 10s
  arqon dispatch --group resize --file photo.json --json --key user-7
  arqon dispatch --group quotes --mode competing --selection best --deadline 5s --wait 6s '{}' --json")]
pub(crate) struct Arguments {
    /// What is to be worked on; `-` reads standard input
    payload: Option<String>,

    /// A file with what is to be worked on
    #[arg(long, conflicts_with = "payload", value_name = "FILE")]
    file: Option<PathBuf>,

    /// The payload is JSON
    #[arg(long)]
    json: bool,

    /// Whose operators do it
    #[arg(long, required_unless_present = "capability")]
    group: Option<String>,

    /// What the operator must be able to do
    #[arg(long)]
    capability: Option<String>,

    /// Who gets it
    #[arg(long, value_enum, default_value = "balanced")]
    mode: Mode,

    /// With --mode direct: the instance, or the program's name
    #[arg(long)]
    operator: Option<String>,

    /// Of several answers, which counts
    #[arg(long, value_enum)]
    selection: Option<Selection>,

    /// Schema of the payload
    #[arg(long)]
    schema: Option<String>,

    /// Tasks with one key are done one after the other
    #[arg(long)]
    key: Option<String>,

    /// After this it is not worth doing
    #[arg(long, value_parser = bounds::span, value_name = "SPAN")]
    deadline: Option<Duration>,

    /// Wait for the result at most this long; the node waits 20s at most
    #[arg(long, value_parser = bounds::span, value_name = "SPAN")]
    wait: Option<Duration>,

    /// The W3C trace that it belongs to
    #[arg(long, env = "TRACEPARENT")]
    traceparent: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    Direct,
    Balanced,
    Broadcast,
    Competing,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Selection {
    First,
    Best,
    All,
}

fn name(value: &impl ValueEnum) -> String {
    let possible = value.to_possible_value();
    possible.map_or_else(String::new, |value| value.get_name().to_owned())
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let payload = payload(&arguments)?;
    let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let texts = [
        ("group", arguments.group),
        ("capability", arguments.capability),
        ("mode", Some(name(&arguments.mode))),
        ("operator", arguments.operator),
        ("selection", arguments.selection.as_ref().map(name)),
        ("schema", arguments.schema),
        ("key", arguments.key),
        ("traceparent", arguments.traceparent),
        (
            "content_type",
            arguments.json.then(|| "application/json".to_owned()),
        ),
    ];
    let mut given: Vec<(&str, Value)> = texts
        .into_iter()
        .filter_map(|(name, text)| Some((name, text?.into())))
        .collect();
    given.push(("data", payload.into()));
    let spans = [
        ("deadline_ms", arguments.deadline),
        ("wait_ms", arguments.wait),
    ];
    given.extend(
        spans
            .into_iter()
            .filter_map(|(name, span)| Some((name, ms(span?).into()))),
    );
    let client = target.connect(Patience::None).await?.client;
    let mut result = client.command("op.dispatch", given).await?.to_json();
    if output == Output::Text {
        spell_out(&mut result);
    }
    table::print(&result, output)?;
    let state = result["state"].as_str().unwrap_or_default();
    match state {
        "dead" | "expired" => Err(Failure::failed(format!("the task is {state}")).into()),
        "open" if arguments.wait.is_some() => Err(Failure::for_now(format!(
            "there is no result yet; it will stand on op.result.{}",
            result["group"].as_str().unwrap_or_default()
        ))
        .into()),
        _ => Ok(()),
    }
}

/// Bytes are base64 in JSON; an output that is a text, people read as it is.
fn spell_out(result: &mut serde_json::Value) {
    let is_json = result["content_type"]
        .as_str()
        .is_some_and(|name| name.contains("json"));
    let Some(output) = result.get_mut("output").filter(|_| !is_json) else {
        return;
    };
    let text = output
        .as_str()
        .and_then(|base64| STANDARD.decode(base64).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some(text) = text {
        *output = text.trim_end().into();
    }
}

fn payload(arguments: &Arguments) -> anyhow::Result<Bytes> {
    let bytes = match (&arguments.payload, &arguments.file) {
        (Some(text), _) if text == "-" => {
            let mut bytes = Vec::new();
            let mut stdin = std::io::stdin().lock();
            stdin
                .read_to_end(&mut bytes)
                .context("reading standard input")?;
            bytes
        }
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(file)) => std::fs::read(file)
            .map_err(|error| Failure::no_input(format!("reading {}: {error}", file.display())))?,
        (None, None) => Vec::new(),
    };
    if arguments.json {
        serde_json::from_slice::<serde::de::IgnoredAny>(&bytes)
            .map_err(|error| Failure::data(format!("the payload is not JSON: {error}")))?;
    }
    Ok(bytes.into())
}
