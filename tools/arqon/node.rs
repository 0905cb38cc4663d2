//! `arqon node`: what concerns a node as a whole.

use clap::{Args, Subcommand};

use crate::connection::{Patience, Target};
use crate::{Output, table};

/// Do what concerns the whole node
#[derive(Debug, Args)]
#[command(after_help = "\
Needs a token of the role admin of the tenant that the node's setting ops.tenant names.

Example:
  arqon node reload")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Have the node read its settings again, and say which need a restart
    #[command(after_help = "Example:\n  arqon node reload --output json")]
    Reload,
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let client = target.connect(Patience::None).await?.client;
    let result = match arguments.action {
        Action::Reload => client.command("node.reload", []).await?,
    };
    table::print(&result.to_json(), output)
}
