//! `arqon tail`: what happens now, and the last of what has happened.

use std::collections::VecDeque;

use arqonbus::client::{Client, Start, SubscribeOptions};
use arqonbus::proto::view::RecordView;
use bytes::Bytes;
use clap::Args;

use crate::Output;
use crate::connection::{Connection, Patience, Target};
use crate::consume::{Acks, Traits, follow};
use crate::registered::Registered;
use crate::show::Printer;

/// Print records as they are stored
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon tail '>'
  arqon tail 'quake.>' -n 20
  arqon tail 'quake.usgs.*' --output json | jq .payload")]
pub(crate) struct Arguments {
    /// Topics: `*` stands for one token, a last `>` for one or more
    #[arg(default_value = ">")]
    filter: String,
    /// Begin with the last N records that match
    #[arg(short = 'n', long = "last", value_name = "N", default_value = "0")]
    last: usize,
    /// Stop after so many new records
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    traits: Traits,
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let Connection { client, reality } = target.connect(Patience::Reconnect).await?;
    let options = arguments.traits.put(SubscribeOptions {
        reality,
        ..SubscribeOptions::new(arguments.filter)
    });
    // Opened first, so that nothing falls between the past and the present.
    let live = client.subscribe(options.clone()).await?;
    let registered = Registered::of(&client).await;
    let mut printer = Printer::new(output, live.subscribed(), registered);
    let end = live.subscribed().next;
    let first = live.subscribed().first;
    for record in last_before(&client, &options, first, end, arguments.last).await? {
        let view = RecordView::parse(&record)?;
        printer.record(&view)?;
    }
    printer.flush()?;
    follow(client, live, printer, arguments.limit, Acks::None).await
}

/// The last `wanted` matching records of `first..end`, found by looking back further each time.
async fn last_before(
    client: &Client,
    options: &SubscribeOptions,
    first: u64,
    end: u64,
    wanted: usize,
) -> anyhow::Result<VecDeque<Bytes>> {
    let mut found = VecDeque::new();
    let mut span = (wanted as u64).max(64);
    while found.len() < wanted && end > first.max(1) {
        let start = end.saturating_sub(span).max(first.max(1));
        found.clear();
        let mut past = client
            .subscribe(SubscribeOptions {
                start: Start::Sequence(start),
                stop_sequence: end - 1,
                stop_at_end: true,
                ..options.clone()
            })
            .await?;
        while let Some(delivery) = past.next().await? {
            found.extend(delivery.records);
            let surplus = found.len().saturating_sub(wanted);
            found.drain(..surplus);
        }
        if start == first.max(1) {
            break;
        }
        span = span.saturating_mul(8);
    }
    Ok(found)
}
