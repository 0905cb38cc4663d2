//! What could not be projected.

use clap::{Args, Subcommand};

use super::{Which, rows};
use crate::Output;
use crate::connection::Target;

/// Stands for the table of dead letters of any projection.
const TABLE: &str = "dead_letters";

/// Look at what could not be projected
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon projector dlq list
  arqon projector dlq show 4f7a1e0c-5d2b-8c3e-9a41-0b6d7c8e9f10 --output json")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List dead letters, the newest first; needs a token of the role admin
    #[command(after_help = "Example:\n  arqon projector dlq list --limit 20")]
    List {
        /// Letters at most, 1 to 1,000
        #[arg(long, value_name = "LETTERS", default_value_t = 100)]
        limit: u64,
    },
    /// Show one dead letter with its event; needs a token of the role admin
    #[command(after_help = "\
Example:
  arqon projector dlq show 4f7a1e0c-5d2b-8c3e-9a41-0b6d7c8e9f10")]
    Show {
        /// Its id
        #[arg(value_name = "DLQ_ID")]
        dlq_id: String,
    },
}

impl Arguments {
    pub(super) async fn run(
        self,
        target: &Target,
        output: Output,
        which: &Which,
    ) -> anyhow::Result<()> {
        match self.action {
            Action::List { limit } => {
                let newest = rows::Rows::newest(TABLE, "queued_at", limit);
                newest.run(target, output, which).await
            }
            Action::Show { dlq_id } => {
                let key = vec![dlq_id];
                rows::show(target, output, which, Some(TABLE.to_owned()), key).await
            }
        }
    }
}
