//! `arqon audit`: what was done to the tenant, and whether the record of it is whole.

use clap::{Args, Subcommand};

use crate::connection::{Patience, Target};
use crate::failure::Failure;
use crate::{Output, table};

/// Show who did what to the tenant, and check that nothing of it was altered
#[derive(Debug, Args)]
#[command(after_help = "\
Needs a token of the role admin. Entries are a chain: keep what `arqon audit head` shows elsewhere,
and `arqon audit verify --head HASH` or `logdump verify --audit-head HASH` shows later whether its
end was cut off.

Examples:
  arqon audit list --action edge.policy --since 2026-11-01T00:00:00Z
  arqon audit list --outcome refused --output json
  arqon audit verify")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show number and hash of the last entry
    #[command(after_help = "Example:\n  arqon audit head --output json")]
    Head,
    /// List what was done or tried, the oldest first
    #[command(after_help = "Example:\n  arqon audit list --outcome failed --limit 20")]
    List(List),
    /// Follow the chain from end to end; exits 1 where it breaks
    #[command(after_help = "Example:\n  arqon audit verify --head 9f86d081884c7d65...")]
    Verify {
        /// The entry with this hash must be there
        #[arg(long, value_name = "HASH")]
        head: Option<String>,
    },
}

#[derive(Debug, Args)]
struct List {
    /// Only what this subject did
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// Only this command, or those below this name
    #[arg(long, value_name = "NAME")]
    action: Option<String>,
    /// Only since this time, RFC 3339
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only what came out so
    #[arg(long, value_name = "OUTCOME", value_parser = ["done", "failed", "refused", "unknown", "noted"])]
    outcome: Option<String>,
    /// The newest, so many at most
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// What concerns the whole node instead
    #[arg(long)]
    node: bool,
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let client = target.connect(Patience::None).await?.client;
    match arguments.action {
        Action::Head => {
            let head = client.command("audit.head", []).await?;
            table::print(&head.to_json(), output)
        }
        Action::List(list) => {
            let texts = [
                ("subject", list.subject),
                ("action", list.action),
                ("since", list.since),
                ("outcome", list.outcome),
            ];
            let texts = texts.into_iter();
            let texts = texts.filter_map(|(name, text)| Some((name, text?.into())));
            let limit = list.limit.map(|limit| ("limit", limit.into()));
            let node = list.node.then(|| ("node", true.into()));
            let given = texts.chain(limit).chain(node);
            let found = client.command("audit.list", given).await?;
            table::print(&found.to_json(), output)
        }
        Action::Verify { head } => {
            let head = head.map(|head| ("head", head.into()));
            let found = client.command("audit.verify", head).await?.to_json();
            table::print(&found, output)?;
            if found["ok"] != true {
                let what = found["break"]["what"].as_str().unwrap_or("it is broken");
                return Err(Failure::failed(format!("the audit is not whole: {what}")).into());
            }
            Ok(())
        }
    }
}
