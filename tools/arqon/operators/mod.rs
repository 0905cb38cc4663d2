//! `arqon operators`: who does work for the tenant, and doing some.

pub(crate) mod join;
mod work;

use clap::{Args, Subcommand};

use crate::connection::{Patience, Target};
use crate::{Output, table};

/// Look at the operators of the tenant, steer them, or be one
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon operators list
  arqon operators show resize worker-1
  arqon operators drain resize worker-1
  arqon operators work --group upper --exec 'tr a-z A-Z'")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Args)]
struct One {
    /// The operator's group
    group: String,

    /// The operator's instance
    instance: String,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List operators: what they can do and how they stand
    #[command(after_help = "Example:\n  arqon operators list --group resize --output json")]
    List {
        /// Only those of this group
        #[arg(long)]
        group: Option<String>,

        /// Only those that can do this
        #[arg(long)]
        capability: Option<String>,
    },
    /// Show what an operator says of itself and how it stands
    #[command(after_help = "Example:\n  arqon operators show resize worker-1")]
    Show(One),
    /// Give an operator no more tasks; what it has, it finishes
    #[command(after_help = "Example:\n  arqon operators drain resize worker-1")]
    Drain(One),
    /// Give an operator no more tasks until it is released, also if it connects again
    #[command(
        after_help = "Example:\n  arqon operators quarantine resize worker-1 --why 'wrong colours'"
    )]
    Quarantine {
        #[command(flatten)]
        one: One,

        /// For whoever lists operators
        #[arg(long)]
        why: Option<String>,
    },
    /// Let an operator out of quarantine, or out of draining
    #[command(after_help = "Example:\n  arqon operators release resize worker-1")]
    Release(One),
    /// Take tasks of a group and have a command carry them out
    ///
    /// The payload is the command's standard input, what it writes to standard output is the result.
    /// Exit code 0 means done, 65 that no other attempt would succeed, any other that another may.
    /// ARQON_TASK_ID, ARQON_TASK_ATTEMPT, ARQON_TASK_GROUP, ARQON_TASK_KEY and TRACEPARENT are in its
    /// environment.
    #[command(
        after_help = "Example:\n  arqon operators work --group upper --exec 'tr a-z A-Z' --concurrency 4"
    )]
    Work(work::Arguments),
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let one = |one: One| vec![("group", one.group), ("instance", one.instance)];
    let (command, given) = match arguments.action {
        Action::Work(arguments) => return work::run(target, arguments).await,
        Action::List { group, capability } => {
            let given = [("group", group), ("capability", capability)];
            let given = given
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?)));
            ("operators.list", given.collect())
        }
        Action::Show(which) => ("operators.show", one(which)),
        Action::Drain(which) => ("operators.drain", one(which)),
        Action::Quarantine { one: which, why } => {
            let mut given = one(which);
            given.extend(why.map(|why| ("why", why)));
            ("operators.quarantine", given)
        }
        Action::Release(which) => ("operators.release", one(which)),
    };
    let client = target.connect(Patience::None).await?.client;
    let given = given.into_iter().map(|(name, text)| (name, text.into()));
    let result = client.command(command, given).await?;
    table::print(&result.to_json(), output)
}
