//! `arqon reality`: the independent logs of a tenant.

use clap::{Args, Subcommand};

use crate::connection::{Patience, Target};
use crate::{Output, table};

/// List, create, fork, compare and delete realities
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon reality list
  arqon reality create empty
  arqon reality fork main --at 1200 --to what-if
  arqon reality compare main what-if
  arqon reality delete what-if --yes-destroy what-if")]
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
    /// Make a reality that shares the records of another up to a sequence, and goes on from there
    ///
    /// It takes no time that depends on how much there is, and no room: the files are shared. From
    /// then on neither changes the other.
    #[command(after_help = "\
Examples:
  arqon reality fork main --to what-if
      with everything that is on disk now
  arqon reality fork main --at 1200 --to what-if
      the next record of what-if gets sequence 1201")]
    Fork {
        /// The reality to be forked
        from: String,
        /// The last sequence that both have; the last one on disk if left out
        #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
        at: Option<u64>,
        /// Name of the fork
        #[arg(long, value_name = "NAME")]
        to: String,
    },
    /// Show what two realities have in common, where they differ first, and what each has since
    ///
    /// Forks are compared from where they part, others record by record from the first sequence that
    /// both have, by topic and by what the producer sent.
    #[command(after_help = "\
Examples:
  arqon reality compare main what-if
  arqon reality compare main what-if --output json | jq .first_difference")]
    Compare {
        /// One reality
        a: String,
        /// The other
        b: String,
    },
    /// Delete a reality: all its records, and where its consumers were; forks of it keep theirs
    ///
    /// There is no way back. Whoever reads or writes it is told. Needs a token of the role admin.
    #[command(after_help = "Example:\n  arqon reality delete what-if --yes-destroy what-if")]
    Delete {
        /// The reality
        name: String,
        /// Its name once more
        #[arg(long, value_name = "REALITY")]
        yes_destroy: String,
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
        Action::Fork { from, at, to } => {
            let at = at.map(|at| ("at", at.to_string().into()));
            let names = [("from", from.into()), ("to", to.into())];
            client
                .command("reality.fork", names.into_iter().chain(at))
                .await?
        }
        Action::Compare { a, b } => {
            let names = [("a", a.into()), ("b", b.into())];
            client.command("reality.compare", names).await?
        }
        Action::Delete { name, yes_destroy } => {
            let arguments = [("name", name.into()), ("confirm", yes_destroy.into())];
            client.command("reality.delete", arguments).await?
        }
    };
    table::print(&result.to_json(), output)
}
