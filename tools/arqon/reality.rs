//! `arqon reality`: the independent logs of a tenant.

use clap::{Args, Subcommand};

use crate::connection::{Patience, Target};
use crate::{Output, table};

/// List and create realities
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon reality list
  arqon reality create what-if")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the tenant's realities
    #[command(after_help = "Example:\n  arqon reality list --output json")]
    List,
    /// Create an empty reality
    #[command(after_help = "Example:\n  arqon reality create what-if")]
    Create {
        /// Lower-case letters, digits, `-` and `_`
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
        Action::List => client.command("reality.list", []).await?,
        Action::Create { name } => {
            client
                .command("reality.create", [("name", name.into())])
                .await?
        }
    };
    table::print(&result.to_json(), output)
}
