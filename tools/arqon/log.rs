//! `arqon log`: the log behind a reality.

use clap::{Args, Subcommand};

use crate::connection::{Patience, Target};
use crate::{Output, table};

/// Look at the log of a reality
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon log status
  arqon log status --reality what-if --output json")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// How far it reaches, how large it is, whether it takes writes
    #[command(after_help = "Example:\n  arqon log status --output json")]
    Status,
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let connection = target.connect(Patience::None).await?;
    let reality = [("reality", connection.reality.as_str().into())];
    let result = match arguments.action {
        Action::Status => connection.client.command("log.status", reality).await?,
    };
    table::print(&result.to_json(), output)
}
