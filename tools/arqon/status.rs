//! `arqon status`: what the node says of itself.

use clap::Args;

use crate::connection::{Patience, Target};
use crate::{Output, table};

/// Show how the node is doing
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon status
  arqon status --output json")]
pub(crate) struct Arguments {}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    Arguments {}: Arguments,
) -> anyhow::Result<()> {
    let connection = target.connect(Patience::None).await?;
    let result = connection.client.command("status", []).await?;
    table::print(&result.to_json(), output)
}
