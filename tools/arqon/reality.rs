//! `arqon reality`: the independent logs of a tenant.

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use crate::connection::{Patience, Target};
use crate::failure::Failure;
use crate::table::printable;
use crate::{Output, table};

/// List, create, fork, compare, hash and delete realities
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon reality list
  arqon reality create empty
  arqon reality fork main --at 1200 --to what-if
  arqon reality compare main what-if
  arqon reality hash what-if --topic 'out.>'
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
    /// Hash what a reality holds, without the node's own stamps: equal histories, equal hashes
    ///
    /// `logdump stats --hash` finds the same hash in the files. It ends with 65 if records are
    /// damaged, so that the hash says nothing of them.
    #[command(after_help = "\
Examples:
  arqon reality hash main
  arqon reality hash what-if --topic 'out.>' --from 1 --to 5000 --output json")]
    Hash {
        /// The reality
        name: String,
        /// Topics: `*` stands for one token, a last `>` for one or more
        #[arg(long, value_name = "FILTER")]
        topic: Option<String>,
        /// The first sequence
        #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
        from: Option<u64>,
        /// The last sequence
        #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
        to: Option<u64>,
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
            let compared = client.command("reality.compare", names).await?;
            if output == Output::Text {
                return table::print_text(&comparison(&compared.to_json()));
            }
            compared
        }
        Action::Hash {
            name,
            topic,
            from,
            to,
        } => {
            let sequence = |sequence: u64| sequence.to_string();
            let given = [
                ("topic", topic),
                ("from", from.map(sequence)),
                ("to", to.map(sequence)),
            ];
            let given = given
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?.into())));
            let arguments = [("reality", name.into())].into_iter().chain(given);
            let hashed = client.command("reality.hash", arguments).await?.to_json();
            table::print(&hashed, output)?;
            if hashed["complete"] == true {
                return Ok(());
            }
            let message = "records are damaged on the node's disk; the hash says nothing of them";
            return Err(Failure::data(message).into());
        }
        Action::Delete { name, yes_destroy } => {
            let arguments = [("name", name.into()), ("confirm", yes_destroy.into())];
            client.command("reality.delete", arguments).await?
        }
    };
    table::print(&result.to_json(), output)
}

/// One sentence, and what each side has of each topic in the part that was compared.
fn comparison(compared: &Value) -> String {
    let number = |field: &str| compared[field].as_u64().unwrap_or_default();
    let word = |field: &str| printable(compared[field].as_str().unwrap_or_default());
    let name = |side: &str| printable(compared[side]["reality"].as_str().unwrap_or_default());
    let (a, b) = (name("a"), name("b"));
    let verdict = if compared["identical"] == true {
        let last = compared["a"]["last"].as_u64().unwrap_or_default();
        format!("{a} and {b} are identical through {last}")
    } else if let Some(at) = compared["first_difference"].as_u64() {
        let (in_a, in_b) = (word("difference_a"), word("difference_b"));
        format!("they part at {at}: {a} has {in_a}, {b} has {in_b}")
    } else if compared["unfinished"] == true {
        let (equal, limit) = (number("equal"), number("scan_limit"));
        format!(
            "no difference in the first {equal} records from {}; the comparison looks at {limit} \
             at most",
            number("compared_from")
        )
    } else {
        let equal = number("equal");
        format!("no difference in the {equal} records that both still have")
    };
    let mut topics: Vec<(&str, [u64; 2])> = Vec::new();
    for (side, field) in ["topics_a", "topics_b"].into_iter().enumerate() {
        for one in compared[field].as_array().into_iter().flatten() {
            let topic = one["topic"].as_str().unwrap_or_default();
            let records = one["records"].as_u64().unwrap_or_default();
            match topics.iter_mut().find(|(known, _)| *known == topic) {
                Some((_, counts)) => counts[side] = records,
                None => {
                    let mut counts = [0; 2];
                    counts[side] = records;
                    topics.push((topic, counts));
                }
            }
        }
    }
    if topics.is_empty() {
        return verdict;
    }
    let rows = topics.into_iter().map(|(topic, [in_a, in_b])| {
        let row = [
            ("topic".to_owned(), topic.into()),
            (format!("in {a}"), in_a.into()),
            (format!("in {b}"), in_b.into()),
        ];
        Value::Object(Map::from_iter(row))
    });
    let from = number("compared_from");
    let table = table::text(&Value::Array(rows.collect()));
    format!("{verdict}\n\nrecords from {from} on:\n{table}")
}
