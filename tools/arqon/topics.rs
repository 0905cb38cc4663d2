//! `arqon topics`: what is in a reality.

use clap::{Args, Subcommand};

use crate::connection::{Patience, Target};
use crate::{Output, table};

/// List the topics of a reality, or describe one
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon topics
  arqon topics --reality what-if --output json
  arqon topics describe quake.ak")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show rate, bytes, retention, schemas and consumers of one
    #[command(after_help = "Example:\n  arqon topics describe quake.ak --output json")]
    Describe {
        /// The topic
        topic: String,
    },
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let connection = target.connect(Patience::None).await?;
    let reality = ("reality", connection.reality.as_str().into());
    let client = connection.client;
    let result = match arguments.action {
        None => client.command("topics.list", [reality]).await?,
        Some(Action::Describe { topic }) => {
            let given = [("topic", topic.into()), reality];
            client.command("topics.describe", given).await?
        }
    };
    table::print(&result.to_json(), output)
}
