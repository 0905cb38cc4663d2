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
    /// Go on without events that are lost in a damaged system log
    ///
    /// While they are missing, everything is refused: they may have held a ban or a policy. Look at
    /// `arqon edge status` first, and put in force again what is missed afterwards. Needs a token of
    /// the role admin.
    #[command(after_help = "Example:\n  arqon edge accept-loss")]
    AcceptLoss,
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let command = match arguments.action {
        Action::Status => "edge.status",
        Action::AcceptLoss => "edge.accept_loss",
    };
    let client = target.connect(Patience::None).await?.client;
    let result = client.command(command, []).await?;
    table::print(&result.to_json(), output)
}
