//! `arqon version`: this program's, and the node's if one is given.

use clap::Args;
use serde_json::json;

use crate::connection::{Patience, Target};
use crate::{Output, table};

/// Show the versions of this program and of the node
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon version
  arqon version --url ws://127.0.0.1:9100/v1/ws --output json")]
pub(crate) struct Arguments {
    /// Do not ask the node
    #[arg(long)]
    client_only: bool,
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let mut versions = json!({ "client": env!("CARGO_PKG_VERSION") });
    if !arguments.client_only && target.names_a_node()? {
        let connection = target.connect(Patience::None).await?;
        let welcome = connection.client.welcome();
        if let Some(versions) = versions.as_object_mut() {
            versions.insert("node".to_owned(), welcome.version.clone().into());
            versions.insert("node_id".to_owned(), welcome.node.clone().into());
        }
        connection.client.close().await;
    }
    table::print(&versions, output)
}
