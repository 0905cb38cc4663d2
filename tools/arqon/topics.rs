//! `arqon topics`: what is in a reality.

use arqonbus::client::Client;
use arqonbus::proto::v1::Value;
use arqonbus::proto::v1::value::{Kind, List};
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
        None => all(&client, &reality).await?,
        Some(Action::Describe { topic }) => {
            let given = [("topic", topic.into()), reality];
            client.command("topics.describe", given).await?
        }
    };
    table::print(&result.to_json(), output)
}

/// All topics, asked for in parts.
async fn all(client: &Client, reality: &(&'static str, Value)) -> anyhow::Result<Value> {
    const PART: u64 = 10_000;
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let given = [
            reality.clone(),
            ("after", after.as_str().into()),
            ("limit", PART.into()),
        ];
        let part = client.command("topics.list", given).await?;
        let Some(Kind::List(List { items })) = part.kind else {
            anyhow::bail!("the node's answer is no list");
        };
        let count = items.len() as u64;
        let last = items.last().map(Value::to_json);
        all.extend(items);
        match last.as_ref().and_then(|last| last["topic"].as_str()) {
            Some(topic) if count == PART => topic.clone_into(&mut after),
            _ => break,
        }
    }
    Ok(Value {
        kind: Some(Kind::List(List { items: all })),
    })
}
