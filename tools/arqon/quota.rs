//! `arqon quota`: what the tenant uses up, and how much it may.

use clap::Args;

use crate::connection::{Patience, Target};
use crate::{Output, table};

/// Show what the tenant stores, and how much it may
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon quota
  arqon quota --output json | jq .stored_bytes

A maximum of 0 is none. Rates are shown by `arqon rate list`.")]
pub(crate) struct Arguments {}

pub(crate) async fn run(target: &Target, output: Output, _: Arguments) -> anyhow::Result<()> {
    let client = target.connect(Patience::None).await?.client;
    let shown = client.command("quota.show", []).await?;
    table::print(&shown.to_json(), output)
}
