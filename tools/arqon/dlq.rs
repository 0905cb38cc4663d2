//! `arqon dlq`: dead letters of consumers, groups, webhooks and operators.

use arqonbus::proto::v1::Value;
use clap::{ArgGroup, Args, Subcommand};

use crate::connection::{Connection, Patience, Target};
use crate::failure::Failure;
use crate::{Output, table};

/// Look at dead letters, send their originals again, throw them away
#[derive(Debug, Args)]
#[command(after_help = "\
Those of projections are dealt with by `arqon projector dlq`. All of this needs a token of the role
operator.

Examples:
  arqon dlq list
  arqon dlq list billing
  arqon dlq show billing 4f7a1e0c-5d2b-8c3e-9a41-0b6d7c8e9f10
  arqon dlq replay billing --reason-contains 'no such customer' --dry-run")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List who has dead letters, or those of one that nobody has dealt with
    #[command(after_help = "Examples:\n  arqon dlq list\n  arqon dlq list billing --limit 20")]
    List {
        /// Group, consumer, webhook or operator; all that have letters if left out
        consumer: Option<String>,
        #[command(flatten)]
        filter: Filter,
        /// Those that stand after this sequence
        #[arg(long, value_name = "SEQ", requires = "consumer")]
        after: Option<u64>,
    },
    /// Show one with its original, and what became of it
    #[command(after_help = "\
Example:
  arqon dlq show billing 4f7a1e0c-5d2b-8c3e-9a41-0b6d7c8e9f10")]
    Show {
        /// Group, consumer, webhook or operator
        consumer: String,
        /// The letter's id
        id: String,
    },
    /// Append originals to their topics again, each once
    ///
    /// Everybody who reads the topic gets the record again, with headers that name letter and
    /// original. Exit code 1 if one of them was not replayed.
    #[command(after_help = "\
Examples:
  arqon dlq replay billing 4f7a1e0c-5d2b-8c3e-9a41-0b6d7c8e9f10
  arqon dlq replay billing --all --dry-run")]
    Replay {
        /// Group, consumer, webhook or operator
        consumer: String,
        #[command(flatten)]
        letters: Letters,
        /// Also a letter that was dealt with already
        #[arg(long, requires = "id")]
        force: bool,
    },
    /// Settle letters without doing anything else
    #[command(after_help = "\
Example:
  arqon dlq discard billing --all --reason 'the test of Tuesday'")]
    Discard {
        /// Group, consumer, webhook or operator
        consumer: String,
        #[command(flatten)]
        letters: Letters,
        /// Why, for whoever asks later
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

/// Which letters are shown.
#[derive(Debug, Args)]
#[group(skip)]
struct Filter {
    /// Those whose reason or error holds this text
    #[arg(long, value_name = "TEXT")]
    reason_contains: Option<String>,
    /// Those whose original stood on this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Those tried last from this time on, as in 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    newer_than: Option<String>,
    /// Those tried last up to this time
    #[arg(long, value_name = "TIME")]
    older_than: Option<String>,
    /// Letters at most, 1 to 1,000
    #[arg(long, value_name = "LETTERS", default_value_t = 100)]
    limit: u64,
}

/// Which letters are dealt with.
#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("letters").required(true).multiple(true).args([
    "id", "reason_contains", "topic", "newer_than", "older_than", "all",
])))]
struct Letters {
    /// The one with this id
    #[arg(value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    filter: Filter,
    /// All of them, up to the limit
    #[arg(long)]
    all: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

type Given = Vec<(&'static str, Value)>;

impl Filter {
    fn give(self, given: &mut Given) {
        let texts = [
            ("reason_contains", self.reason_contains),
            ("topic", self.topic),
            ("newer_than", self.newer_than),
            ("older_than", self.older_than),
        ];
        let texts = texts
            .into_iter()
            .filter_map(|(name, text)| Some((name, text?.into())));
        given.extend(texts);
        given.push(("limit", self.limit.into()));
    }
}

impl Letters {
    fn give(self, given: &mut Given) {
        given.extend(self.id.map(|id| ("id", id.into())));
        self.filter.give(given);
        given.push(("all", self.all.into()));
        given.push(("dry_run", self.dry_run.into()));
    }
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let Connection { client, reality } = target.connect(Patience::None).await?;
    let mut given: Given = vec![("reality", reality.into())];
    let command = match arguments.action {
        Action::List {
            consumer,
            filter,
            after,
        } => {
            given.extend(consumer.map(|consumer| ("consumer", consumer.into())));
            given.extend(after.map(|after| ("after", after.to_string().into())));
            filter.give(&mut given);
            "dlq.list"
        }
        Action::Show { consumer, id } => {
            given.extend([("consumer", consumer.into()), ("id", id.into())]);
            "dlq.show"
        }
        Action::Replay {
            consumer,
            letters,
            force,
        } => {
            given.extend([("consumer", consumer.into()), ("force", force.into())]);
            letters.give(&mut given);
            "dlq.replay"
        }
        Action::Discard {
            consumer,
            letters,
            reason,
        } => {
            given.extend([("consumer", consumer.into()), ("reason", reason.into())]);
            letters.give(&mut given);
            "dlq.discard"
        }
    };
    let result = client.command(command, given).await?.to_json();
    let Some(items) = result.get("items") else {
        return table::print(&result, output);
    };
    table::print(items, output)?;
    let number = |name: &str| result[name].as_u64().unwrap_or_default();
    let left = number("count").saturating_sub(number("settled"));
    if left == 0 || result["dry_run"] == true {
        return Ok(());
    }
    Err(Failure::failed(format!("{left} dead letters are left")).into())
}
