//! `arqon causal`: what happened before a record, beside it, and on the way to another.

use std::io::Write as _;

use anyhow::Context as _;
use arqonbus::proto::causal::CausalAnswer;
use arqonbus::proto::v1::Value;
use clap::{Args, Subcommand};

use crate::connection::{Patience, Target};
use crate::table::{self, WRITING};
use crate::{Form, Output};

/// Show what happened before a record, beside it, or on the way to another
///
/// By the vector clocks in the records, among the topics that the token may subscribe to.
/// `--output dot` draws the answer for Graphviz.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon causal past 1705
  arqon causal concurrent 1705 --limit 20 --output json
  arqon causal path 1000 1705 --output dot | dot -Tsvg > path.svg")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// What happened before a record, nearest first
    #[command(after_help = "Example:\n  arqon causal past 1705 --limit 20")]
    Past(One),
    /// What happened neither before a record nor after it, nearest first
    #[command(after_help = "Example:\n  arqon causal concurrent 1705 --window 1000000")]
    Concurrent(One),
    /// The chain of direct causes from one record to another
    #[command(after_help = "Example:\n  arqon causal path 1000 1705")]
    Path(Two),
}

#[derive(Debug, Args)]
struct One {
    /// Sequence of the record that is asked about
    #[arg(value_name = "SEQ")]
    sequence: u64,

    #[command(flatten)]
    bounds: Bounds,
}

#[derive(Debug, Args)]
struct Two {
    /// Sequence of the record where the path begins
    from: u64,

    /// Sequence of the record where the path ends
    to: u64,

    #[command(flatten)]
    bounds: Bounds,
}

#[derive(Debug, Args)]
struct Bounds {
    /// Most records in the answer, up to 1000 [default: 100]
    #[arg(long, value_name = "N")]
    limit: Option<u64>,

    /// Most records to look at, up to 10000000 [default: 100000]
    #[arg(long, value_name = "N")]
    window: Option<u64>,
}

pub(crate) async fn run(target: &Target, form: Form, arguments: Arguments) -> anyhow::Result<()> {
    let connection = target.connect(Patience::None).await?;
    let (command, ends, bounds) = match &arguments.question {
        Question::Past(one) => ("causal.past", vec![("sequence", one.sequence)], &one.bounds),
        Question::Concurrent(one) => (
            "causal.concurrent",
            vec![("sequence", one.sequence)],
            &one.bounds,
        ),
        Question::Path(two) => (
            "causal.path",
            vec![("from", two.from), ("to", two.to)],
            &two.bounds,
        ),
    };
    let bounds = [("limit", bounds.limit), ("window", bounds.window)];
    let given = bounds
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    let mut asked: Vec<(&str, Value)> = vec![("reality", connection.reality.as_str().into())];
    for (name, value) in ends.into_iter().chain(given) {
        asked.push((name, value.to_string().into()));
    }
    let result = connection.client.command(command, asked).await?.to_json();
    if form == Form::Json {
        return table::print(&result, Output::Json);
    }
    let answer: CausalAnswer =
        serde_json::from_value(result).context("the node's answer cannot be read")?;
    print(&answer, form)
}

fn print(answer: &CausalAnswer, form: Form) -> anyhow::Result<()> {
    if form != Form::Dot {
        let row = |cells: [String; 6]| {
            let cells = cells.into_iter().map(serde_json::Value::from);
            let heads = CausalAnswer::HEADS.into_iter().map(str::to_owned);
            serde_json::Value::Object(heads.zip(cells).collect())
        };
        let rows: Vec<serde_json::Value> = answer.rows().into_iter().map(row).collect();
        if !rows.is_empty() {
            table::print(&rows.into(), Output::Text)?;
        }
    }
    let mut out = std::io::stdout().lock();
    let end = match form {
        Form::Dot => answer.to_dot(),
        Form::Text | Form::Json => format!("{}\n", answer.summary()),
    };
    out.write_all(end.as_bytes())
        .and_then(|()| out.flush())
        .context(WRITING)
}
