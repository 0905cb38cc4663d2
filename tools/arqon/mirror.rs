//! `arqon mirror`: what is copied to another topic or reality.

use clap::{Args, Subcommand};

use crate::connection::{Patience, Target};
use crate::{Output, table};

/// Have messages copied to another topic or reality
#[derive(Debug, Args)]
#[command(after_help = "\
Copies are made of messages that are stored, in the form in which they are; a copy is never copied
again. Of a trace all messages are copied or none. Needs a token of the role admin.

Examples:
  arqon mirror set shadow --topics 'pay.>' --percent 10 --to-reality what-if
  arqon mirror set audit --topics 'pay.>' --to-topic 'audit.{topic}'
  arqon mirror list
  arqon mirror remove shadow")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the rules
    #[command(after_help = "Example:\n  arqon mirror list --output json")]
    List,
    /// Put a rule in force, in place of the one of the same name
    #[command(
        after_help = "Example:\n  arqon mirror set audit --topics 'pay.>' --to-topic 'audit.{topic}'"
    )]
    Set {
        /// Name of the rule
        name: String,
        /// Which messages: `*` stands for one token, a last `>` for one or more
        #[arg(long, value_name = "PATTERN")]
        topics: String,
        /// How many of a hundred traces
        #[arg(long, value_name = "N", default_value = "100",
              value_parser = clap::value_parser!(u64).range(1..=100))]
        percent: u64,
        /// Where the copies go; `{topic}` stands for the original's topic
        #[arg(long, value_name = "TOPIC", default_value = "{topic}")]
        to_topic: String,
        /// The reality they go to; the original's if left out
        #[arg(long, value_name = "REALITY")]
        to_reality: Option<String>,
    },
    /// Take a rule back
    #[command(after_help = "Example:\n  arqon mirror remove audit")]
    Remove {
        /// Name of the rule
        name: String,
    },
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let client = target.connect(Patience::None).await?.client;
    let result = match arguments.action {
        Action::List => client.command("edge.mirror.list", []).await?,
        Action::Set {
            name,
            topics,
            percent,
            to_topic,
            to_reality,
        } => {
            let given = [
                ("name", name.into()),
                ("topics", topics.into()),
                ("percent", percent.into()),
                ("target_topic", to_topic.into()),
            ];
            let reality = to_reality.map(|name| ("target_reality", name.into()));
            client
                .command("edge.mirror.set", given.into_iter().chain(reality))
                .await?
        }
        Action::Remove { name } => {
            client
                .command("edge.mirror.remove", [("name", name.into())])
                .await?
        }
    };
    table::print(&result.to_json(), output)
}
