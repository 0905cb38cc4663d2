//! `arqon topics`: what is in a reality.

use clap::Args;

use crate::connection::{Patience, Target};
use crate::{Output, table};

/// List the topics of a reality
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon topics
  arqon topics --reality what-if --output json")]
pub(crate) struct Arguments {}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    Arguments {}: Arguments,
) -> anyhow::Result<()> {
    let connection = target.connect(Patience::None).await?;
    let reality = [("reality", connection.reality.as_str().into())];
    let result = connection.client.command("topics.list", reality).await?;
    table::print(&result.to_json(), output)
}
