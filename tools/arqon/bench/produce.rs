//! How many events a second the node stores and acknowledges.

use std::time::Instant;

use arqonbus::client::{ProduceOptions, Ticket};
use clap::Args;
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Latencies, Payloads, rates};
use crate::connection::{Connection, Patience, Target};
use crate::produce::Durability;
use crate::progress::Progress;

/// Store events as fast as they are acknowledged
#[derive(Debug, Args)]
#[command(after_help = "\
Percentiles are from the sending of a batch to its acknowledgement.

Examples:
  arqon bench produce --size 1024 --count 1000000 --output json
  arqon bench produce --batch 1 --inflight 500 --durability written")]
pub(crate) struct Arguments {
    /// Bytes of a payload
    #[arg(long, default_value = "1024")]
    size: usize,
    /// Events to store
    #[arg(long, default_value = "200000", value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Events stored together, all or none
    #[arg(long, default_value = "500", value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    /// Batches under way at a time
    #[arg(long, default_value = "16", value_parser = clap::value_parser!(u16).range(1..=4096))]
    inflight: u16,
    /// What an acknowledgement promises
    #[arg(long, value_enum, default_value = "synced")]
    durability: Durability,
    /// Where to
    #[arg(long, default_value = "bench.produce")]
    topic: String,
}

pub(crate) async fn run(target: &Target, arguments: Arguments) -> anyhow::Result<Value> {
    let Connection { client, reality } = target.connect(Patience::None).await?;
    let options = ProduceOptions {
        reality,
        durability: arguments.durability.wanted(),
    };
    let (under_way, acknowledged) = mpsc::channel(usize::from(arguments.inflight));
    let epoch = Instant::now();
    let collector = tokio::spawn(collect(acknowledged));
    let mut payloads = Payloads::new(arguments.size, epoch);
    let mut left = arguments.count;
    while left > 0 {
        // Taken before the batch is made: a batch beyond the limit waits here, not in the socket.
        let place = under_way.reserve().await?;
        let count = left.min(arguments.batch);
        let mut batch = client.batch();
        let now = Instant::now();
        for _ in 0..count {
            payloads.push(&mut batch, &arguments.topic, now);
        }
        place.send((now, count, client.send(&batch, &options).await?));
        left -= count;
    }
    drop(under_way);
    let latencies = collector.await??;
    let took = epoch.elapsed();
    let bytes = arguments.count * arguments.size.max(super::STAMP_BYTES) as u64;
    let mut result = rates(arguments.count, bytes, took);
    latencies.put(&mut result);
    result.insert("size".to_owned(), arguments.size.into());
    result.insert("batch".to_owned(), arguments.batch.into());
    result.insert("inflight".to_owned(), arguments.inflight.into());
    result.insert("durability".to_owned(), arguments.durability.name().into());
    result.insert(
        "acks".to_owned(),
        arguments.count.div_ceil(arguments.batch).into(),
    );
    client.close().await;
    Ok(result.into())
}

async fn collect(
    mut acknowledged: mpsc::Receiver<(Instant, u64, Ticket)>,
) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::new()?;
    let mut progress = Progress::new(None, "events stored");
    while let Some((sent, count, ticket)) = acknowledged.recv().await {
        ticket.produced().await?;
        latencies.add(sent.elapsed());
        progress.add(count);
    }
    Ok(latencies)
}
