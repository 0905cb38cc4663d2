//! How many deliveries a second the node makes of one stream to many subscribers.

use std::time::{Duration, Instant};

use arqonbus::client::{ProduceOptions, SubscribeOptions, Subscription, Visibility};
use clap::Args;
use serde_json::Value;
use tokio::task::JoinSet;

use super::{Latencies, Payloads, age, rates};
use crate::connection::{Connection, Patience, Target};
use crate::failure::Failure;
use crate::produce::Durability;

/// A subscriber that hears nothing for so long will hear nothing more.
const PATIENCE: Duration = Duration::from_secs(20);

/// Send every event to many subscribers, each on its own connection
#[derive(Debug, Args)]
#[command(after_help = "\
`messages_per_s` counts deliveries: events times subscribers. Percentiles are from the sending of
an event to the end of its arrival, one sample a delivery and subscriber.

Examples:
  arqon bench fanout --subscribers 100 --count 10000 --output json
  arqon bench fanout --subscribers 1000 --batch 10")]
pub(crate) struct Arguments {
    /// Subscribers
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    subscribers: u32,
    /// Events to send
    #[arg(long, default_value = "10000", value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Bytes of a payload
    #[arg(long, default_value = "1024")]
    size: usize,
    /// Events sent together
    #[arg(long, default_value = "50", value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    /// Batches under way at a time
    #[arg(long, default_value = "4", value_parser = clap::value_parser!(u16).range(1..=4096))]
    inflight: u16,
    /// What is waited for: `written` shows events to subscribers before they are on disk
    #[arg(long, value_enum, default_value = "synced")]
    durability: Durability,
    /// Where to
    #[arg(long, default_value = "bench.fanout")]
    topic: String,
}

pub(crate) async fn run(target: &Target, arguments: Arguments) -> anyhow::Result<Value> {
    let epoch = Instant::now();
    let mut subscribers = JoinSet::new();
    for _ in 0..arguments.subscribers {
        let Connection { client, reality } = target.connect(Patience::None).await?;
        let options = SubscribeOptions {
            reality,
            visibility: match arguments.durability {
                Durability::Synced => Visibility::Durable,
                Durability::Written => Visibility::WrittenToo,
            },
            ..SubscribeOptions::new(&arguments.topic)
        };
        let subscription = client.subscribe(options).await?;
        subscribers.spawn(receive(subscription, epoch, arguments.count));
    }
    let start = Instant::now();
    send(target, &arguments, epoch).await?;
    let mut latencies = Latencies::new()?;
    while let Some(received) = subscribers.join_next().await {
        latencies.merge(&received??)?;
    }
    let deliveries = arguments.count * u64::from(arguments.subscribers);
    let mut result = rates(
        deliveries,
        deliveries * arguments.size as u64,
        start.elapsed(),
    );
    latencies.put(&mut result);
    result.insert("subscribers".to_owned(), arguments.subscribers.into());
    result.insert("events".to_owned(), arguments.count.into());
    result.insert("size".to_owned(), arguments.size.into());
    result.insert("batch".to_owned(), arguments.batch.into());
    result.insert("durability".to_owned(), arguments.durability.name().into());
    Ok(result.into())
}

async fn send(target: &Target, arguments: &Arguments, epoch: Instant) -> anyhow::Result<()> {
    let Connection { client, reality } = target.connect(Patience::None).await?;
    let options = ProduceOptions {
        reality,
        durability: arguments.durability.wanted(),
    };
    let mut payloads = Payloads::new(arguments.size, epoch);
    let mut under_way = std::collections::VecDeque::new();
    let mut left = arguments.count;
    while left > 0 {
        if under_way.len() >= usize::from(arguments.inflight)
            && let Some(ticket) = under_way.pop_front()
        {
            arqonbus::client::Ticket::produced(ticket).await?;
        }
        let count = left.min(arguments.batch);
        let mut batch = client.batch();
        let now = Instant::now();
        for _ in 0..count {
            payloads.push(&mut batch, &arguments.topic, now);
        }
        under_way.push_back(client.send(&batch, &options).await?);
        left -= count;
    }
    for ticket in under_way {
        ticket.produced().await?;
    }
    client.close().await;
    Ok(())
}

async fn receive(
    mut subscription: Subscription,
    epoch: Instant,
    count: u64,
) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::new()?;
    let mut seen = 0;
    while seen < count {
        let delivery = tokio::time::timeout(PATIENCE, subscription.next())
            .await
            .map_err(|_elapsed| {
                let patience = PATIENCE.as_secs();
                Failure::failed(format!(
                    "a subscriber had {seen} of {count} events, then none for {patience} s"
                ))
            })??
            .unwrap_or_default();
        seen += delivery.records.len() as u64;
        if let Some(last) = delivery.views().last()
            && let Some(latency) = age(last?.envelope.payload.data(), epoch)
        {
            latencies.add(latency);
        }
    }
    Ok(latencies)
}
