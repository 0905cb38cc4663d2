//! `arqon projector`: projections, and what they keep.
//!
//! - `rows`: what tables hold; `dead_letters`: what could not be projected.
//! - `steer`: how a projection stands, pausing it, waiting for it, giving it an event.

mod dead_letters;
mod rows;
mod steer;

use arqonbus::proto::v1::Value;
use clap::{Args, Subcommand};

use crate::Output;
use crate::connection::Target;

/// Look at projections and their rows, and operate them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon projector status
  arqon projector list --limit 20
  arqon projector get planner 01J9ZQ6T2N8W4V5X6Y7Z8A9B0C
  arqon projector rows --table arqonbus_continuum_projection_events --outcome stale_rejected
  arqon projector dlq list --output json")]
pub(crate) struct Arguments {
    /// The projection
    #[arg(long, global = true, value_name = "NAME", default_value = "continuum")]
    projection: String,

    /// Where it is kept: sled, postgres or valkey; its first sink if left out
    #[arg(long, global = true, value_name = "SINK")]
    sink: Option<String>,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show how a projection stands in its sinks: state, lag, rate, errors
    #[command(after_help = "\
Examples:
  arqon projector status
  arqon projector status --all --output json")]
    Status(steer::Status),
    /// List what a projection keeps; of the Continuum one the episodes, the newest first
    ///
    /// Needs a token of the role admin.
    #[command(after_help = "Example:\n  arqon projector list --limit 20 --output json")]
    List(rows::List),
    /// Show one row by its key: of the Continuum projection an agent and an episode
    ///
    /// Needs a token of the role admin.
    #[command(after_help = "Example:\n  arqon projector get planner 01J9ZQ6T2N8W4V5X6Y7Z8A9B0C")]
    Get(rows::Get),
    /// List rows of any of its tables
    ///
    /// Needs a token of the role admin.
    #[command(after_help = "\
Examples:
  arqon projector rows --table dead_letters
  arqon projector rows --where agent_id=planner --newest-by updated_at")]
    Rows(rows::Rows),
    /// Look at what could not be projected
    Dlq(dead_letters::Arguments),
    /// Stop a projection until it is resumed, over restarts too; needs a token of the role admin
    #[command(after_help = "Example:\n  arqon projector pause --sink postgres")]
    Pause,
    /// Let a projection go on; needs a token of the role admin
    #[command(after_help = "Example:\n  arqon projector resume")]
    Resume(steer::Resume),
    /// Wait until a projection has passed a record
    #[command(after_help = "Example:\n  arqon projector wait 4711 --timeout-ms 10000")]
    Wait(steer::Wait),
    /// Append an event of the Continuum contract, and say what the projector did with it
    ///
    /// Needs a token of the role admin.
    #[command(after_help = "\
Examples:
  arqon projector event < event.json
  arqon projector event '{\"event_id\": \"01J9ZQ6T2N8W4V5X6Y7Z8A9B0C\", ...}'")]
    Event(steer::Event),
}

/// Which projection, and where: what every command of one takes.
struct Which {
    projection: String,
    sink: Option<String>,
}

impl Which {
    /// The arguments of a command, with `more` and without those that have no value.
    fn with<'a>(
        &self,
        more: impl IntoIterator<Item = (&'a str, Option<Value>)>,
    ) -> Vec<(&'a str, Value)> {
        let sink = self.sink.as_deref().map(Value::from);
        let own = [
            ("name", Some(self.projection.as_str().into())),
            ("sink", sink),
        ];
        let all = own.into_iter().chain(more);
        all.filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let Arguments {
        projection,
        sink,
        action,
    } = arguments;
    let which = Which { projection, sink };
    match action {
        Action::Status(status) => status.run(target, output, &which).await,
        Action::List(list) => list.run(target, output, &which).await,
        Action::Get(get) => get.run(target, output, &which).await,
        Action::Rows(rows) => rows.run(target, output, &which).await,
        Action::Dlq(dlq) => dlq.run(target, output, &which).await,
        Action::Pause => steer::pause(target, output, &which).await,
        Action::Resume(resume) => resume.run(target, output, &which).await,
        Action::Wait(wait) => wait.run(target, output, &which).await,
        Action::Event(event) => event.run(target, output).await,
    }
}
