//! `arqon history`: the newest of what was said, newest first.

use std::io::Write as _;

use anyhow::Context as _;
use arqonbus::proto::v1::{Subscribed, Value, value};
use arqonbus::proto::view::RecordView;
use clap::Args;

use crate::Output;
use crate::connection::{Connection, Patience, Target};
use crate::failure::Failure;
use crate::registered::Registered;
use crate::show::Printer;

/// Show the newest records, newest first
#[derive(Debug, Args)]
#[command(after_help = "\
The node looks back from the end of the log. What does not fit in one answer is asked for again with
--before. It ends with 65 if records were skipped because they are damaged on the node's disk.

Examples:
  arqon history 'quake.>'
  arqon history 'quake.>' --since 2026-01-01T00:00:00Z --limit 1000 --output json
  arqon history --room science --channel explore --limit 20
  arqon history '>' --before 1000")]
pub(crate) struct Arguments {
    /// Topics: `*` stands for one token, a last `>` for one or more
    #[arg(required_unless_present = "room")]
    filter: Option<String>,
    /// A room, instead of topics
    #[arg(long, conflicts_with = "filter")]
    room: Option<String>,
    /// A channel of the room; all of them if left out
    #[arg(long, requires = "room")]
    channel: Option<String>,
    /// From then on: a sequence or an RFC 3339 time
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Up to then: a sequence or an RFC 3339 time
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// Most records, up to 1000
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u64).range(1..=1000))]
    limit: u64,
    /// Only records before this sequence
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    before: Option<u64>,
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let Connection { client, reality } = target.connect(Patience::None).await?;
    let Arguments {
        filter,
        room,
        channel,
        since,
        until,
        limit,
        before,
    } = arguments;
    let given = [
        ("topic", filter),
        ("room", room),
        ("channel", channel),
        ("since", since),
        ("until", until),
        ("cursor", before.map(|sequence| sequence.to_string())),
    ];
    let given = given
        .into_iter()
        .filter_map(|(name, value)| Some((name, Value::from(value?))));
    let always = [
        ("reality", Value::from(reality.as_str())),
        ("limit", limit.into()),
        ("form", "bytes".into()),
    ];
    let asked = always.into_iter().chain(given);
    let answer = client.command("history.get", asked).await?;
    let origin = Subscribed {
        tenant: client.welcome().tenant.clone(),
        reality,
        ..Subscribed::default()
    };
    let registered = Registered::of(&client).await;
    let mut printer = Printer::new(output, &origin, registered);
    for entry in items(&answer, "entries") {
        let record = match entry
            .field("envelope")
            .and_then(|value| value.kind.as_ref())
        {
            Some(value::Kind::Bytes(record)) => record,
            _ => anyhow::bail!("the node's answer has an entry without its record"),
        };
        let view = RecordView::parse(record).context("a record of the node's answer")?;
        printer.record(&view)?;
    }
    printer.flush()?;
    drop(printer);
    client.close().await;
    told(&answer)
}

fn items<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    match answer.field(name).and_then(|value| value.kind.as_ref()) {
        Some(value::Kind::List(list)) => &list.items,
        _ => &[],
    }
}

/// On stderr that there is more; a failure if something is lost.
fn told(answer: &Value) -> anyhow::Result<()> {
    let json = answer.to_json();
    let mut err = std::io::stderr().lock();
    if let Some(cursor) = json["cursor"].as_str() {
        writeln!(err, "arqon: there is more: --before {cursor}")?;
    }
    let lost = json["lost"].as_array().cloned().unwrap_or_default();
    for range in &lost {
        let (first, last, reason) = (&range["first"], &range["last"], &range["reason"]);
        writeln!(err, "arqon: lost: records {first} to {last} ({reason})")?;
    }
    if lost.is_empty() {
        return Ok(());
    }
    Err(Failure::data("records are damaged on the node's disk and were skipped").into())
}
