//! `arqon rate`: how much may come in on which topics.

use clap::{Args, Subcommand};

use crate::connection::{Patience, Target};
use crate::{Output, table};

/// Limit how much comes in on topics
#[derive(Debug, Args)]
#[command(after_help = "\
A rate holds for all sessions of the tenant together, on top of what the node allows: it can only
tighten. Whoever is over it gets RATE_LIMITED, with when to come back. Needs a token of the role
admin.

Examples:
  arqon rate set chat --topics 'chat.>' --messages 500
  arqon rate list
  arqon rate remove chat")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the rates, those of the node included
    #[command(after_help = "Example:\n  arqon rate list --output json")]
    List,
    /// Put a rate in force, in place of the one of the same name
    #[command(after_help = "Example:\n  arqon rate set chat --topics 'chat.>' --messages 500")]
    Set(Set),
    /// Take a rate back
    #[command(after_help = "Example:\n  arqon rate remove chat")]
    Remove {
        /// Name of the rate
        name: String,
    },
}

#[derive(Debug, Args)]
#[group(id = "measure", multiple = true)]
struct Set {
    /// Name of the rate
    name: String,

    /// Which messages: `*` stands for one token, a last `>` for one or more
    #[arg(long, value_name = "PATTERN")]
    topics: String,

    /// Messages a second
    #[arg(long, value_name = "N", required_unless_present = "bytes")]
    messages: Option<u64>,

    /// Bytes of envelopes a second
    #[arg(long, value_name = "N")]
    bytes: Option<u64>,

    /// For how long of its rate may come at once, in milliseconds
    #[arg(long, value_name = "MS")]
    burst_ms: Option<u64>,
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let client = target.connect(Patience::None).await?.client;
    let result = match arguments.action {
        Action::List => client.command("edge.rate.list", []).await?,
        Action::Set(set) => {
            let names = [("name", set.name.into()), ("pattern", set.topics.into())];
            let numbers = [
                ("messages_per_second", set.messages),
                ("bytes_per_second", set.bytes),
                ("burst_ms", set.burst_ms),
            ];
            let numbers = numbers.into_iter();
            let numbers = numbers.filter_map(|(name, number)| Some((name, number?.into())));
            let given = names.into_iter().chain(numbers);
            client.command("edge.rate.set", given).await?
        }
        Action::Remove { name } => {
            let name = [("name", name.into())];
            client.command("edge.rate.remove", name).await?
        }
    };
    table::print(&result.to_json(), output)
}
