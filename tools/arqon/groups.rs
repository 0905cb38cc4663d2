//! `arqon groups`: competing consumers.

use arqonbus::proto::v1::Value;
use clap::{Args, Subcommand};

use crate::connection::{Connection, Patience, Target};
use crate::consumers::Place;
use crate::{Output, table};

/// Look at groups of competing consumers, set them elsewhere, pause them
#[derive(Debug, Args)]
#[command(after_help = "\
A group begins to exist with its first member: `arqon consume 'orders.>' --group billing`.

Examples:
  arqon groups list
  arqon groups show billing
  arqon groups configure billing --ack-deadline-ms 60000 --max-deliveries 3")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the tenant's groups, and how far they are
    #[command(after_help = "Example:\n  arqon groups list --output json")]
    List,
    /// Show one: its members and what they have, its lag, how it works, its dead letters
    #[command(after_help = "Example:\n  arqon groups show billing")]
    Show {
        /// Its name
        group: String,
    },
    /// Let a group work in another way; needs a token of the role operator
    #[command(after_help = "Example:\n  arqon groups configure billing --max-deliveries 3")]
    Configure {
        /// Its name
        group: String,
        #[command(flatten)]
        options: Options,
    },
    /// Set a group to another place; needs a token of the role operator
    ///
    /// Says how many records that is. What members have is not theirs any more.
    #[command(after_help = "\
Examples:
  arqon groups reset billing --to earliest --dry-run
  arqon groups reset billing --to 2026-01-31T12:00:00Z")]
    Reset {
        /// Its name
        group: String,
        #[command(flatten)]
        place: Place,
    },
    /// Give nothing out until the group is resumed; needs a token of the role operator
    #[command(after_help = "Example:\n  arqon groups pause billing")]
    Pause {
        /// Its name
        group: String,
    },
    /// Give the records of a paused group out again; needs a token of the role operator
    #[command(after_help = "Example:\n  arqon groups resume billing")]
    Resume {
        /// Its name
        group: String,
    },
    /// Forget a group that has no members; needs a token of the role operator
    #[command(after_help = "Example:\n  arqon groups delete billing")]
    Delete {
        /// Its name
        group: String,
    },
}

/// How a group works; what is left out stays.
#[derive(Debug, Args)]
struct Options {
    /// How long a member has for a record
    #[arg(long, value_name = "MS")]
    ack_deadline_ms: Option<u64>,
    /// Failures after which a record becomes a dead letter
    #[arg(long, value_name = "N")]
    max_deliveries: Option<u64>,
    /// How long a failed record waits the first time
    #[arg(long, value_name = "MS")]
    backoff_min_ms: Option<u64>,
    /// How long at most; each wait is twice the last
    #[arg(long, value_name = "MS")]
    backoff_max_ms: Option<u64>,
    /// Most records that all members together have
    #[arg(long, value_name = "N")]
    in_flight_max: Option<u64>,
}

impl Options {
    fn arguments(&self) -> impl Iterator<Item = (&'static str, Value)> {
        let all = [
            ("ack_deadline_ms", self.ack_deadline_ms),
            ("max_deliveries", self.max_deliveries),
            ("backoff_min_ms", self.backoff_min_ms),
            ("backoff_max_ms", self.backoff_max_ms),
            ("in_flight_max", self.in_flight_max),
        ];
        all.into_iter()
            .filter_map(|(name, value)| Some((name, value?.into())))
    }
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let Connection { client, reality } = target.connect(Patience::None).await?;
    let about = |group: String| [("group", group.into()), ("reality", reality.into())];
    let result = match arguments.action {
        Action::List => client.command("group.list", []).await?,
        Action::Show { group } => client.command("group.show", about(group)).await?,
        Action::Configure { group, options } => {
            let arguments = about(group).into_iter().chain(options.arguments());
            client.command("group.configure", arguments).await?
        }
        Action::Reset { group, place } => {
            let place = [("to", place.to.into()), ("dry_run", place.dry_run.into())];
            let arguments = about(group).into_iter().chain(place);
            client.command("group.reset", arguments).await?
        }
        Action::Pause { group } => client.command("group.pause", about(group)).await?,
        Action::Resume { group } => client.command("group.resume", about(group)).await?,
        Action::Delete { group } => client.command("group.delete", about(group)).await?,
    };
    table::print(&result.to_json(), output)
}
