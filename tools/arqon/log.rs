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
  arqon log repair
  arqon log rotate-key --reality what-if
  arqon log shred-keys --reality what-if --yes-destroy what-if")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// How far it reaches, how large it is, whether it takes writes
    #[command(after_help = "Example:\n  arqon log status --output json")]
    Status,
    /// Encrypt with a new data key from the next segment on
    #[command(after_help = "Example:\n  arqon log rotate-key --reality what-if")]
    RotateKey,
    /// Destroy the keys of an encrypted reality: nobody can read it again
    #[command(after_help = "\
Example:
  arqon log shred-keys --reality what-if --yes-destroy what-if

Backups and forks of the log have keys of their own copies and stay readable; shred or delete them
too. Needs a token of the role admin.")]
    ShredKeys {
        /// The reality's name once more
        #[arg(long, value_name = "REALITY")]
        yes_destroy: String,
    },
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
    let (client, name) = (&connection.client, connection.reality.as_str());
    let reality = [("reality", name.into())];
    let result = match arguments.action {
        Action::Status => client.command("log.status", reality).await?,
        Action::Scrub => client.command("log.scrub", reality).await?,
        Action::Repair => client.command("log.repair", reality).await?,
        Action::RotateKey => client.command("log.rotate_key", reality).await?,
        Action::ShredKeys { yes_destroy } => {
            let confirm = ("confirm", yes_destroy.as_str().into());
            let [reality] = reality;
            client.command("log.shred_keys", [reality, confirm]).await?
        }
    };
    table::print(&result.to_json(), output)
}
