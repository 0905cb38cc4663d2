//! `arqon delayed`: messages that wait for their time.

use clap::{Args, Subcommand};

use crate::connection::{Connection, Patience, Target};
use crate::{Output, table};

/// Show and cancel messages that wait for the time of their delivery
#[derive(Debug, Args)]
#[command(after_help = "\
A message waits when it was produced with a time that is still to come (`arqon produce --at`,
`--delay`).

Examples:
  arqon delayed list
  arqon delayed cancel 1042")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List what waits, the next due first
    #[command(after_help = "Example:\n  arqon delayed list --topic reminders.ada --limit 20")]
    List {
        /// Only for this topic
        #[arg(long, value_name = "TOPIC")]
        topic: Option<String>,
        /// So many at most
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
        limit: Option<u64>,
    },
    /// Have a message that waits never be delivered
    #[command(after_help = "Example:\n  arqon delayed cancel 1042")]
    Cancel {
        /// The sequence that it was stored under
        sequence: u64,
    },
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let Connection { client, reality } = target.connect(Patience::None).await?;
    let mut given = vec![("reality", reality.into())];
    let answer = match arguments.action {
        Action::List { topic, limit } => {
            given.extend(topic.map(|topic| ("topic", topic.into())));
            given.extend(limit.map(|limit| ("limit", limit.into())));
            let answer = client.command("delayed.list", given).await?.to_json();
            return table::print(&answer["waiting"], output);
        }
        Action::Cancel { sequence } => {
            given.push(("sequence", sequence.into()));
            client.command("delayed.cancel", given).await?
        }
    };
    table::print(&answer.to_json(), output)
}
