//! Whether one tenant feels the flood of another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arqonbus::client::{Client, ConnectOptions, ProduceOptions, Reconnect, Ticket};
use clap::Args;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::{Latencies, Payloads};
use crate::bounds::span;
use crate::connection::Target;

/// Measure one tenant's appends while another floods the node, and while it does not
#[derive(Debug, Args)]
#[command(after_help = "\
Windows with and without the flood take turns, so that whatever else the machine does meets both.
Percentiles are from the time at which an append was meant to be sent to its acknowledgement; the
flood takes no notice of refusals and sends on.

Examples:
  arqon bench bulkhead --flood-token \"$(cat other.token)\" --rounds 5 --output json")]
pub(crate) struct Arguments {
    /// A token of the tenant that floods
    #[arg(long, env = "ARQON_FLOOD_TOKEN", hide_env_values = true)]
    flood_token: String,
    /// Connections that flood
    #[arg(long, default_value = "2", value_parser = clap::value_parser!(u16).range(1..=1000))]
    flooders: u16,
    /// Events of 1 KiB in a batch of the flood
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(u16).range(1..))]
    flood_batch: u16,
    /// Appends a second of the tenant that is measured
    #[arg(long, default_value = "200", value_parser = clap::value_parser!(u16).range(1..))]
    rate: u16,
    /// Length of a window
    #[arg(long, default_value = "5s", value_parser = span)]
    window: Duration,
    /// Windows of each kind
    #[arg(long, default_value = "4", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

/// Batches that one flooding connection has under way.
const FLOOD_IN_FLIGHT: usize = 16;

/// Between the end of a flood and the next window without one.
const SETTLE: Duration = Duration::from_millis(500);

/// What a flood came to.
#[derive(Default)]
struct Flood {
    on: AtomicBool,
    over: AtomicBool,
    stored: AtomicU64,
    refused: AtomicU64,
}

pub(crate) async fn run(target: &Target, arguments: Arguments) -> anyhow::Result<Value> {
    let (mut options, reality) = target.options()?;
    options.reconnect = Reconnect::Never;
    let client = Client::connect(options.clone()).await?;
    options.token.clone_from(&arguments.flood_token);
    let flood = Arc::new(Flood::default());
    let mut flooders = JoinSet::new();
    for _ in 0..arguments.flooders {
        let (options, reality) = (options.clone(), reality.clone());
        let (flood, batch) = (Arc::clone(&flood), arguments.flood_batch);
        flooders.spawn(pour(options, reality, batch, flood));
    }
    let mut quiet = Latencies::new()?;
    let mut flooded = Latencies::new()?;
    let mut ratios = Vec::new();
    // Opens the logs, and is not counted.
    measure(&client, &reality, &arguments).await?;
    for _ in 0..arguments.rounds {
        let before = measure(&client, &reality, &arguments).await?;
        flood.on.store(true, Ordering::Relaxed);
        let during = measure(&client, &reality, &arguments).await?;
        flood.on.store(false, Ordering::Relaxed);
        // What is still under way belongs to neither window.
        tokio::time::sleep(SETTLE).await;
        let p99 = |latencies: &Latencies| latencies.0.value_at_quantile(0.99);
        ratios.push(ratio(p99(&during), p99(&before)));
        quiet.merge(&before)?;
        flooded.merge(&during)?;
    }
    flood.over.store(true, Ordering::Relaxed);
    while let Some(ended) = flooders.join_next().await {
        ended??;
    }
    ratios.sort_by(f64::total_cmp);
    let mut result = Map::new();
    for (name, latencies) in [("quiet", &quiet), ("flooded", &flooded)] {
        let mut part = Map::new();
        latencies.put(&mut part);
        result.insert(name.to_owned(), part.into());
    }
    let (stored, refused) = (&flood.stored, &flood.refused);
    result.insert(
        "p99_ratio_median".to_owned(),
        json!(ratios[ratios.len() / 2]),
    );
    result.insert("p99_ratios".to_owned(), json!(ratios));
    result.insert(
        "flood_stored".to_owned(),
        stored.load(Ordering::Relaxed).into(),
    );
    result.insert(
        "flood_refused".to_owned(),
        refused.load(Ordering::Relaxed).into(),
    );
    client.close().await;
    Ok(result.into())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a ratio has no more than three digits"
)]
fn ratio(during: u64, before: u64) -> f64 {
    (during as f64 / before.max(1) as f64 * 100.0).round() / 100.0
}

/// Appends at a fixed rate for one window.
async fn measure(
    client: &Client,
    reality: &str,
    arguments: &Arguments,
) -> anyhow::Result<Latencies> {
    let options = ProduceOptions {
        reality: reality.to_owned(),
        ..ProduceOptions::default()
    };
    let (sent, acknowledged) = mpsc::channel(4_096);
    let collector = tokio::spawn(collect(acknowledged));
    let mut payloads = Payloads::new(256, Instant::now());
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::from(arguments.rate));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let since = Instant::now();
    while since.elapsed() < arguments.window {
        let intended = ticks.tick().await.into_std();
        let mut batch = client.batch();
        payloads.push(&mut batch, "bench.quiet", intended);
        let ticket = client.send(&batch, &options).await?;
        sent.send((intended, ticket)).await?;
    }
    drop(sent);
    collector.await?
}

async fn collect(mut acknowledged: mpsc::Receiver<(Instant, Ticket)>) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::new()?;
    while let Some((intended, ticket)) = acknowledged.recv().await {
        ticket.produced().await?;
        latencies.add(intended.elapsed());
    }
    Ok(latencies)
}

/// Sends as fast as the node takes or refuses it, while the flood is on.
async fn pour(
    options: ConnectOptions,
    reality: String,
    batch: u16,
    flood: Arc<Flood>,
) -> anyhow::Result<()> {
    let client = Client::connect(options).await?;
    let options = ProduceOptions {
        reality,
        ..ProduceOptions::default()
    };
    let (sent, mut answered) = mpsc::channel::<Ticket>(FLOOD_IN_FLIGHT);
    let counted = Arc::clone(&flood);
    let counting = tokio::spawn(async move {
        while let Some(ticket) = answered.recv().await {
            let outcome = ticket.produced().await;
            let counter = if outcome.is_ok() {
                &counted.stored
            } else {
                &counted.refused
            };
            counter.fetch_add(u64::from(batch), Ordering::Relaxed);
        }
    });
    let mut payloads = Payloads::new(1 << 10, Instant::now());
    while !flood.over.load(Ordering::Relaxed) {
        if !flood.on.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        let place = sent.reserve().await?;
        let mut events = client.batch();
        for _ in 0..batch {
            payloads.push(&mut events, "bench.flood", Instant::now());
        }
        place.send(client.send(&events, &options).await?);
    }
    drop(sent);
    counting.await?;
    client.close().await;
    Ok(())
}
