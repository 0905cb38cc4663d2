//! `arqon consumers`: named cursors.

use clap::{Args, Subcommand};

use crate::connection::{Connection, Patience, Target};
use crate::{Output, table};

/// Look at named consumers, set them elsewhere, pause them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon consumers list
  arqon consumers reset billing --to 2026-01-31T12:00:00Z --dry-run
  arqon consumers pause billing")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the tenant's consumers, and where they are
    #[command(after_help = "Example:\n  arqon consumers list --output json")]
    List,
    /// Set a consumer that nobody reads with to another place; needs a token of the role operator
    ///
    /// Says how many records that is: `again` that they are delivered once more, otherwise they are
    /// passed over.
    #[command(after_help = "\
Examples:
  arqon consumers reset billing --to earliest --dry-run
  arqon consumers reset billing --to 1200")]
    Reset {
        /// Its name
        consumer: String,
        #[command(flatten)]
        place: Place,
    },
    /// Deliver nothing to a consumer until it is resumed; needs a token of the role operator
    #[command(after_help = "Example:\n  arqon consumers pause billing")]
    Pause {
        /// Its name
        consumer: String,
    },
    /// Deliver to a paused consumer again; needs a token of the role operator
    #[command(after_help = "Example:\n  arqon consumers resume billing")]
    Resume {
        /// Its name
        consumer: String,
    },
    /// Forget a consumer that nobody reads with; needs a token of the role operator
    #[command(after_help = "Example:\n  arqon consumers delete billing")]
    Delete {
        /// Its name
        consumer: String,
    },
}

/// Where something is set to.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Where it goes on: earliest, latest, a sequence, or a time like 2026-01-31T12:00:00Z
    #[arg(long, value_name = "PLACE")]
    pub(crate) to: String,
    /// Only say how many records that would be
    #[arg(long)]
    pub(crate) dry_run: bool,
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let Connection { client, reality } = target.connect(Patience::None).await?;
    let about = |consumer: String| [("consumer", consumer.into()), ("reality", reality.into())];
    let result = match arguments.action {
        Action::List => client.command("consumer.list", []).await?,
        Action::Reset { consumer, place } => {
            let place = [("to", place.to.into()), ("dry_run", place.dry_run.into())];
            let arguments = about(consumer).into_iter().chain(place);
            client.command("consumer.reset", arguments).await?
        }
        Action::Pause { consumer } => client.command("consumer.pause", about(consumer)).await?,
        Action::Resume { consumer } => client.command("consumer.resume", about(consumer)).await?,
        Action::Delete { consumer } => client.command("consumer.delete", about(consumer)).await?,
    };
    table::print(&result.to_json(), output)
}
