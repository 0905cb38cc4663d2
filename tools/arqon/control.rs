//! `arqon control`: parameters that every subscriber of a reality hears of.

use clap::{Args, Subcommand};

use crate::connection::{Patience, Target};
use crate::{Output, table};

/// Set parameters that every subscriber of a reality gets
#[derive(Debug, Args)]
#[command(after_help = "\
Subscribers hear of them on `sys.control.>`. Setting and clearing needs a token of the role
controller.

Examples:
  arqon control set speed 0.5
  arqon control list
  arqon consume 'sys.control.>' --from earliest")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the parameters that are set
    #[command(after_help = "Example:\n  arqon control list --output json")]
    List,
    /// Set one; the value is JSON, or a text
    #[command(after_help = "Example:\n  arqon control set mode '{\"strict\":true}'")]
    Set {
        /// Name of the parameter
        name: String,
        /// Its value
        value: String,
    },
    /// Take one back
    #[command(after_help = "Example:\n  arqon control clear speed")]
    Clear {
        /// Name of the parameter
        name: String,
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
        Action::List => client.command("control.list", [reality]).await?,
        Action::Set { name, value } => {
            let given = [("name", name.into()), ("value", value.into()), reality];
            client.command("control.set", given).await?
        }
        Action::Clear { name } => {
            let given = [("name", name.into()), reality];
            client.command("control.clear", given).await?
        }
    };
    table::print(&result.to_json(), output)
}
