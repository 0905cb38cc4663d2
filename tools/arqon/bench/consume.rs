//! How many records a second the node replays.

use std::time::Instant;

use arqonbus::client::{Start, SubscribeOptions};
use clap::Args;
use serde_json::Value;

use super::rates;
use crate::connection::{Connection, Patience, Target};
use crate::progress::Progress;

/// Read records from the beginning, as fast as they come
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon bench consume --count 1000000 --output json
  arqon bench consume '>' --from 5000")]
pub(crate) struct Arguments {
    /// Topics to read
    #[arg(default_value = "bench.produce")]
    filter: String,
    /// Records to read; fewer if there are fewer [default: all]
    #[arg(long)]
    count: Option<u64>,
    /// First sequence
    #[arg(long, default_value = "1")]
    from: u64,
    /// Bytes that may be under way
    #[arg(long, default_value = "8388608")]
    window: u64,
    /// Accepted so that all benches take it; what was stored decides
    #[arg(long, hide = true)]
    size: Option<usize>,
    #[arg(long, hide = true)]
    batch: Option<u64>,
    #[arg(long, hide = true)]
    durability: Option<crate::produce::Durability>,
}

pub(crate) async fn run(target: &Target, arguments: Arguments) -> anyhow::Result<Value> {
    let Connection { client, reality } = target.connect(Patience::None).await?;
    let wanted = arguments.count.unwrap_or(u64::MAX);
    let start = if arguments.from <= 1 {
        Start::Earliest
    } else {
        Start::Sequence(arguments.from)
    };
    let since = Instant::now();
    let mut subscription = client
        .subscribe(SubscribeOptions {
            reality,
            start,
            stop_at_end: true,
            window_bytes: arguments.window,
            ..SubscribeOptions::new(arguments.filter)
        })
        .await?;
    let mut progress = Progress::new(arguments.count, "records read");
    let (mut count, mut bytes, mut deliveries) = (0_u64, 0_u64, 0_u64);
    while count < wanted
        && let Some(delivery) = subscription.next().await?
    {
        let records = delivery.records.len() as u64;
        count += records;
        bytes += delivery
            .records
            .iter()
            .map(|record| record.len() as u64)
            .sum::<u64>();
        deliveries += 1;
        progress.add(records);
    }
    let mut result = rates(count, bytes, since.elapsed());
    result.insert("deliveries".to_owned(), deliveries.into());
    result.insert("size".to_owned(), (bytes / count.max(1)).into());
    drop(subscription);
    client.close().await;
    Ok(result.into())
}
