//! How long an event takes from its producer to its consumer, or to its acknowledgement.

use std::time::{Duration, Instant};

use arqonbus::client::{
    Client, ProduceOptions, SubscribeOptions, Subscription, Ticket, Visibility,
};
use clap::Args;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::{Latencies, Payloads, age, rates};
use crate::connection::{Connection, Patience, Target};
use crate::failure::Failure;
use crate::produce::Durability;
use crate::progress::Progress;

/// A consumer that hears nothing for so long will hear nothing more.
const PATIENCE: Duration = Duration::from_secs(10);

/// Send events at a fixed rate and measure how long each takes
#[derive(Debug, Args)]
#[command(after_help = "\
Measured from the moment an event was meant to be sent, so that a node that falls behind cannot
hide it. Rate 0 keeps one event under way.

Examples:
  arqon bench latency --rate 1000 --count 30000 --output json
  arqon bench latency --rate 0 --durability written
  arqon bench latency --rate 5000 --ack")]
pub(crate) struct Arguments {
    /// Events a second; 0 = one at a time
    #[arg(long, default_value = "1000")]
    rate: u32,
    /// Events to send
    #[arg(long, default_value = "10000", value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Bytes of a payload
    #[arg(long, default_value = "1024")]
    size: usize,
    /// Events sent together
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    /// What is waited for: `written` shows events to the consumer before they are on disk
    #[arg(long, value_enum, default_value = "synced")]
    durability: Durability,
    /// Measure to the acknowledgement instead of to a consumer
    #[arg(long)]
    ack: bool,
    /// Where to
    #[arg(long, default_value = "bench.latency")]
    topic: String,
}

pub(crate) async fn run(target: &Target, arguments: Arguments) -> anyhow::Result<Value> {
    let producer = target.connect(Patience::None).await?;
    let consumer = target.connect(Patience::None).await?;
    let epoch = Instant::now();
    let bench = Bench {
        options: ProduceOptions {
            reality: producer.reality,
            durability: arguments.durability.wanted(),
        },
        client: producer.client,
        payloads: Payloads::new(arguments.size, epoch),
        topic: arguments.topic.clone(),
        count: arguments.count,
        batch: arguments.batch,
    };
    let latencies = match (arguments.rate, arguments.ack) {
        (0, true) => bench.one_by_one().await?,
        (0, false) => {
            let subscription = subscribe(&consumer, &arguments).await?;
            bench.ping_pong(subscription, epoch).await?
        }
        (rate, true) => {
            let (give, take) = mpsc::channel(65_536);
            let collector = tokio::spawn(acknowledged(take));
            bench.at_rate(rate, Some(give)).await?;
            collector.await??
        }
        (rate, false) => {
            let subscription = subscribe(&consumer, &arguments).await?;
            let collector = tokio::spawn(delivered(subscription, epoch, arguments.count));
            bench.at_rate(rate, None).await?;
            collector.await??
        }
    };
    let bytes = arguments.count * arguments.size as u64;
    let mut result = rates(arguments.count, bytes, epoch.elapsed());
    latencies.put(&mut result);
    result.insert("rate".to_owned(), arguments.rate.into());
    result.insert("size".to_owned(), arguments.size.into());
    result.insert("batch".to_owned(), arguments.batch.into());
    result.insert("durability".to_owned(), arguments.durability.name().into());
    result.insert(
        "measured".to_owned(),
        if arguments.ack { "ack" } else { "delivery" }.into(),
    );
    Ok(result.into())
}

async fn subscribe(consumer: &Connection, arguments: &Arguments) -> anyhow::Result<Subscription> {
    let visibility = match arguments.durability {
        Durability::Synced => Visibility::Durable,
        Durability::Written => Visibility::WrittenToo,
    };
    let options = SubscribeOptions {
        reality: consumer.reality.clone(),
        visibility,
        ..SubscribeOptions::new(&arguments.topic)
    };
    Ok(consumer.client.subscribe(options).await?)
}

struct Bench {
    client: Client,
    options: ProduceOptions,
    payloads: Payloads,
    topic: String,
    count: u64,
    batch: u64,
}

impl Bench {
    async fn send(&mut self, count: u64, intended: Instant) -> anyhow::Result<Ticket> {
        let mut batch = self.client.batch();
        for _ in 0..count {
            self.payloads.push(&mut batch, &self.topic, intended);
        }
        Ok(self.client.send(&batch, &self.options).await?)
    }

    async fn one_by_one(mut self) -> anyhow::Result<Latencies> {
        let mut latencies = Latencies::new()?;
        let mut progress = Progress::new(Some(self.count), "events acknowledged");
        for _ in 0..self.count {
            let sent = Instant::now();
            self.send(1, sent).await?.produced().await?;
            latencies.add(sent.elapsed());
            progress.add(1);
        }
        Ok(latencies)
    }

    async fn ping_pong(
        mut self,
        mut subscription: Subscription,
        epoch: Instant,
    ) -> anyhow::Result<Latencies> {
        let mut latencies = Latencies::new()?;
        let mut progress = Progress::new(Some(self.count), "events delivered");
        for _ in 0..self.count {
            let ticket = self.send(1, Instant::now()).await?;
            while take(&mut subscription, epoch, &mut latencies).await? == 0 {}
            ticket.produced().await?;
            progress.add(1);
        }
        Ok(latencies)
    }

    /// From a thread of its own: its sleep is finer than the runtime's timers, which are no finer
    /// than the latencies to be measured.
    async fn at_rate(
        mut self,
        rate: u32,
        tickets: Option<mpsc::Sender<(Instant, Ticket)>>,
    ) -> anyhow::Result<()> {
        let runtime = Handle::current();
        let batches = self.count.div_ceil(self.batch);
        let interval = Duration::from_secs(1).mul_f64(self.batch as f64 / f64::from(rate));
        let sender = move || -> anyhow::Result<()> {
            let start = Instant::now();
            let mut left = self.count;
            for index in 0..batches {
                let intended = start + interval.mul_f64(index as f64);
                std::thread::sleep(intended.saturating_duration_since(Instant::now()));
                let count = left.min(self.batch);
                left -= count;
                let ticket = runtime.block_on(self.send(count, intended))?;
                if let Some(tickets) = &tickets {
                    runtime.block_on(tickets.send((intended, ticket)))?;
                }
            }
            Ok(())
        };
        tokio::task::spawn_blocking(sender).await?
    }
}

async fn acknowledged(mut tickets: mpsc::Receiver<(Instant, Ticket)>) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::new()?;
    let mut progress = Progress::new(None, "events acknowledged");
    while let Some((intended, ticket)) = tickets.recv().await {
        ticket.produced().await?;
        latencies.add(intended.elapsed());
        progress.add(1);
    }
    Ok(latencies)
}

async fn delivered(
    mut subscription: Subscription,
    epoch: Instant,
    count: u64,
) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::new()?;
    let mut progress = Progress::new(Some(count), "events delivered");
    let mut seen = 0;
    while seen < count {
        let more = take(&mut subscription, epoch, &mut latencies).await?;
        seen += more;
        progress.add(more);
    }
    Ok(latencies)
}

/// Measures one delivery; says how many records it had.
async fn take(
    subscription: &mut Subscription,
    epoch: Instant,
    latencies: &mut Latencies,
) -> anyhow::Result<u64> {
    let silence = |_elapsed| {
        Failure::failed(format!(
            "no event came for {} s; some were lost",
            PATIENCE.as_secs()
        ))
    };
    let delivery = tokio::time::timeout(PATIENCE, subscription.next())
        .await
        .map_err(silence)??;
    let delivery = delivery.unwrap_or_default();
    let mut count = 0;
    for record in delivery.views() {
        if let Some(latency) = age(record?.envelope.payload.data(), epoch) {
            latencies.add(latency);
            count += 1;
        }
    }
    Ok(count)
}
