//! `arqon log`: the log behind a reality.

use clap::{Args, Subcommand};

use crate::connection::{Patience, Target};
use crate::{Output, table};

/// Look at the log of a reality, check it, mend it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon log status
  arqon log status --reality what-if --output json
  arqon log scrub
  arqon log repair")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// How far it reaches, how large it is, whether it takes writes
    #[command(after_help = "Example:\n  arqon log status --output json")]
    Status,
    /// Read all of it and name what is damaged
    #[command(after_help = "\
Example:
  arqon log scrub --reality what-if

Damage that is found is told by `arqon log status` from then on; `arqon log repair` mends it.")]
    Scrub,
    /// Mend a damaged log: put damaged bytes aside, keep all that is good
    #[command(after_help = "\
Example:
  arqon log repair

Nothing is thrown away: damaged bytes are copied to quarantine-*.bin beside the log, and
loss-*.json says what was found. Lost records are told to every reader for ever. A log without
damage is left alone.")]
    Repair,
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
        Action::Scrub => connection.client.command("log.scrub", reality).await?,
        Action::Repair => connection.client.command("log.repair", reality).await?,
    };
    table::print(&result.to_json(), output)
}
