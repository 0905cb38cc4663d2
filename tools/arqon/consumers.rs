//! `arqon consumers`: named cursors.

use clap::{Args, Subcommand};

use crate::connection::{Patience, Target};
use crate::{Output, table};

/// Look at named consumers
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon consumers list
  arqon consumers list --output json")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the tenant's consumers, and where they are
    #[command(after_help = "Example:\n  arqon consumers list --output json")]
    List,
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let client = target.connect(Patience::None).await?.client;
    let result = match arguments.action {
        Action::List => client.command("consumer.list", []).await?,
    };
    table::print(&result.to_json(), output)
}
