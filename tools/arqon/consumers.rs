//! `arqon consumers`: named cursors.

use clap::{Args, Subcommand};

use crate::connection::{Patience, Target};
use crate::{Output, table};

/// Look at named consumers
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon consumers list
  arqon consumers list --reality what-if --output json")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the consumers of a reality, and where they are
    #[command(after_help = "Example:\n  arqon consumers list --output json")]
    List,
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let connection = target.connect(Patience::None).await?;
    let reality = [("reality", connection.reality.as_str().into())];
    let result = match arguments.action {
        Action::List => connection.client.command("consumer.list", reality).await?,
    };
    table::print(&result.to_json(), output)
}
