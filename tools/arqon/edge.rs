//! `arqon edge`: what stands between messages and the log.

use clap::{Args, Subcommand};

use crate::connection::{Patience, Target};
use crate::{Output, table};

/// Show what the edge has in force
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon edge status
  arqon edge status --output json | jq .unfit")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show what is in force for the tenant, and why everything is refused if it is
    ///
    /// Needs a token of the role operator.
    #[command(after_help = "Example:\n  arqon edge status --output json")]
    Status,
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let Arguments {
        action: Action::Status,
    } = arguments;
    let client = target.connect(Patience::None).await?.client;
    let result = client.command("edge.status", []).await?;
    table::print(&result.to_json(), output)
}
