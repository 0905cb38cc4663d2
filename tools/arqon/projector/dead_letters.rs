//! What could not be projected: looked at, replayed, thrown away.

use arqonbus::proto::v1::Value;
use clap::{ArgGroup, Args, Subcommand};
use serde_json::Value as Json;

use super::{Which, rows};
use crate::connection::{Patience, Target};
use crate::failure::Failure;
use crate::{Output, table};

/// Stands for the table of dead letters of any projection.
const TABLE: &str = "dead_letters";

/// Look at what could not be projected, and deal with it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon projector dlq list
  arqon projector dlq show 4f7a1e0c-5d2b-8c3e-9a41-0b6d7c8e9f10 --output json
  arqon projector dlq replay --reason-contains content_ref")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List dead letters, the newest first; needs a token of the role admin
    #[command(after_help = "Example:\n  arqon projector dlq list --limit 20")]
    List {
        /// Letters at most, 1 to 1,000
        #[arg(long, value_name = "LETTERS", default_value_t = 100)]
        limit: u64,
    },
    /// Show one dead letter with its event; needs a token of the role admin
    #[command(after_help = "\
Example:
  arqon projector dlq show 4f7a1e0c-5d2b-8c3e-9a41-0b6d7c8e9f10")]
    Show {
        /// Its id
        #[arg(value_name = "DLQ_ID")]
        dlq_id: String,
    },
    /// Append the events of dead letters again; needs a token of the role admin
    ///
    /// Says of each what became of it. Exit code 1 if one of them fails still.
    #[command(after_help = "\
Examples:
  arqon projector dlq replay 4f7a1e0c-5d2b-8c3e-9a41-0b6d7c8e9f10
  arqon projector dlq replay --newer-than 2026-01-31T12:00:00Z --limit 1000")]
    Replay {
        #[command(flatten)]
        which: Letters,

        /// What is appended in place of the event of the letter that is named, in JSON
        #[arg(long, value_name = "JSON", requires = "dlq_id")]
        event: Option<String>,
    },
    /// Throw dead letters away; needs a token of the role admin
    #[command(after_help = "\
Example:
  arqon projector dlq discard 4f7a1e0c-5d2b-8c3e-9a41-0b6d7c8e9f10 --reason 'a test event'")]
    Discard {
        #[command(flatten)]
        which: Letters,

        /// Why, for whoever asks later
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

/// Which letters are dealt with.
#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("letters").required(true).multiple(true).args([
    "dlq_id", "reason_contains", "topic", "newer_than", "older_than",
])))]
struct Letters {
    /// The one with this id
    #[arg(value_name = "DLQ_ID")]
    dlq_id: Option<String>,

    /// Those whose reason holds this text
    #[arg(long, value_name = "TEXT")]
    reason_contains: Option<String>,

    /// Those whose event stood on this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,

    /// Those from this time on, as in 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    newer_than: Option<String>,

    /// Those up to this time
    #[arg(long, value_name = "TIME")]
    older_than: Option<String>,

    /// Letters at most, 1 to 1,000
    #[arg(long, value_name = "LETTERS", default_value_t = 100)]
    limit: u64,
}

impl Letters {
    fn arguments(self) -> [(&'static str, Option<Value>); 6] {
        [
            ("dlq_id", self.dlq_id.map(Value::from)),
            ("reason_contains", self.reason_contains.map(Value::from)),
            ("topic", self.topic.map(Value::from)),
            ("newer_than", self.newer_than.map(Value::from)),
            ("older_than", self.older_than.map(Value::from)),
            ("limit", Some(self.limit.into())),
        ]
    }
}

/// Deals with letters, and lists what became of them.
async fn settle(
    target: &Target,
    output: Output,
    command: &str,
    arguments: Vec<(&str, Value)>,
) -> anyhow::Result<()> {
    let client = target.connect(Patience::None).await?.client;
    let result = client.command(command, arguments).await?.to_json();
    table::print(&result["items"], output)?;
    let (count, settled) = (result["count"].as_u64(), result["settled"].as_u64());
    if count == settled {
        return Ok(());
    }
    let left =
        count.unwrap_or_default() - settled.unwrap_or_default().min(count.unwrap_or_default());
    Err(Failure::failed(format!("{left} dead letters are left")).into())
}

impl Arguments {
    pub(super) async fn run(
        self,
        target: &Target,
        output: Output,
        which: &Which,
    ) -> anyhow::Result<()> {
        match self.action {
            Action::List { limit } => {
                let newest = rows::Rows::newest(TABLE, "queued_at", limit);
                newest.run(target, output, which).await
            }
            Action::Replay {
                which: letters,
                event,
            } => {
                let event = event
                    .map(|text| serde_json::from_str::<Json>(&text))
                    .transpose();
                let event = event
                    .map_err(|error| Failure::data(format!("the event is not JSON: {error}")))?;
                let event = [("event", event.map(Value::from))];
                let arguments = which.with(letters.arguments().into_iter().chain(event));
                settle(target, output, "projection.dlq.replay", arguments).await
            }
            Action::Discard {
                which: letters,
                reason,
            } => {
                let reason = [("reason", Some(reason.into()))];
                let arguments = which.with(letters.arguments().into_iter().chain(reason));
                settle(target, output, "projection.dlq.discard", arguments).await
            }
            Action::Show { dlq_id } => {
                let key = vec![dlq_id];
                rows::show(target, output, which, Some(TABLE.to_owned()), key).await
            }
        }
    }
}
