//! `arqon bench`: measures a running node over real WebSocket connections.
//!
//! Payloads begin with the time at which they were meant to be sent, so that a sender that falls
//! behind shows as latency instead of hiding it.

mod bulkhead;
mod connections;
mod consume;
mod fanout;
mod latency;
mod produce;

use std::time::{Duration, Instant};

use arqonbus::client::{Batch, Outgoing};
use clap::{Args, Subcommand};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::connection::Target;
use crate::{Output, table};

/// Measure a running node
#[derive(Debug, Args)]
#[command(after_help = "\
What is measured stays in the log, under the topics bench.>. Use a node made for it, or a reality
of its own (--reality).

Examples:
  arqon bench produce --count 1000000 --output json
  arqon bench consume --count 1000000
  arqon bench latency --rate 1000 --count 30000
  arqon bench fanout --subscribers 100")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Produce(produce::Arguments),
    Consume(consume::Arguments),
    Latency(latency::Arguments),
    Fanout(fanout::Arguments),
    Connections(connections::Arguments),
    Bulkhead(bulkhead::Arguments),
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let result = match arguments.what {
        What::Produce(arguments) => produce::run(target, arguments).await,
        What::Consume(arguments) => consume::run(target, arguments).await,
        What::Latency(arguments) => latency::run(target, arguments).await,
        What::Fanout(arguments) => fanout::run(target, arguments).await,
        What::Connections(arguments) => connections::run(target, arguments).await,
        What::Bulkhead(arguments) => bulkhead::run(target, arguments).await,
    }?;
    table::print(&result, output)
}

/// Bytes at the front of a payload that hold its intended time.
const STAMP_BYTES: usize = 8;

/// Makes payloads of one size.
struct Payloads {
    epoch: Instant,
    buffer: Vec<u8>,
}

impl Payloads {
    fn new(size: usize, epoch: Instant) -> Self {
        Self {
            epoch,
            buffer: vec![b'x'; size.max(STAMP_BYTES)],
        }
    }

    /// Adds an event that was meant to be sent at `intended`.
    fn push(&mut self, batch: &mut Batch, topic: &str, intended: Instant) {
        let nanos = intended.saturating_duration_since(self.epoch).as_nanos();
        let stamp = u64::try_from(nanos).unwrap_or(u64::MAX).to_le_bytes();
        if let Some(front) = self.buffer.first_chunk_mut::<STAMP_BYTES>() {
            *front = stamp;
        }
        batch.push(&Outgoing {
            topic,
            data: &self.buffer,
            ..Outgoing::default()
        });
    }
}

/// How long ago a payload was meant to be sent.
fn age(payload: &[u8], epoch: Instant) -> Option<Duration> {
    let nanos = u64::from_le_bytes(*payload.first_chunk::<STAMP_BYTES>()?);
    epoch.elapsed().checked_sub(Duration::from_nanos(nanos))
}

/// What takes longer counts as this long.
const LONGEST_NANOS: u64 = 600_000_000_000;

/// Latencies, in nanoseconds, with three digits.
struct Latencies(Histogram<u64>);

impl Latencies {
    fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, LONGEST_NANOS, 3)?))
    }

    fn add(&mut self, latency: Duration) {
        self.0
            .saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    fn merge(&mut self, other: &Self) -> anyhow::Result<()> {
        Ok(self.0.add(&other.0)?)
    }

    fn put(&self, result: &mut Map<String, Value>) {
        let points = [
            ("p50_us", 0.5),
            ("p90_us", 0.9),
            ("p99_us", 0.99),
            ("p999_us", 0.999),
        ];
        for (name, quantile) in points {
            result.insert(name.to_owned(), micros(self.0.value_at_quantile(quantile)));
        }
        result.insert("max_us".to_owned(), micros(self.0.max()));
    }
}

/// Tenths of a microsecond are all that can be told apart.
fn micros(nanos: u64) -> Value {
    #[expect(
        clippy::cast_precision_loss,
        reason = "durations here are far below 2^53 ns"
    )]
    let micros = (nanos as f64 / 100.0).round() / 10.0;
    json!(micros)
}

/// A rate without its fraction.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is not negative, and far below 2^53"
)]
fn whole(rate: f64) -> u64 {
    rate.round() as u64
}

/// `messages_per_s` and `mb_per_s` of `count` messages and `bytes` payload bytes.
fn rates(count: u64, bytes: u64, took: Duration) -> Map<String, Value> {
    let seconds = took.as_secs_f64().max(1e-9);
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate has no more than three digits"
    )]
    let (messages, megabytes) = (count as f64 / seconds, bytes as f64 / 1e6 / seconds);
    let mut result = Map::new();
    result.insert("count".to_owned(), count.into());
    result.insert("seconds".to_owned(), json!((seconds * 1e3).round() / 1e3));
    result.insert("messages_per_s".to_owned(), json!(whole(messages)));
    result.insert(
        "mb_per_s".to_owned(),
        json!((megabytes * 10.0).round() / 10.0),
    );
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_microseconds_and_survive_merging() {
        let mut all = Latencies::new().unwrap();
        let mut part = Latencies::new().unwrap();
        for millis in 1..=100 {
            part.add(Duration::from_millis(millis));
        }
        part.add(Duration::from_secs(100_000));
        all.merge(&part).unwrap();
        let mut result = Map::new();
        all.put(&mut result);
        let near = |name: &str, wanted: f64| {
            let found = result[name].as_f64().unwrap();
            assert!((found / wanted - 1.0).abs() < 0.01, "{name}: {found}");
        };
        near("p50_us", 51_000.0);
        near("p99_us", 100_000.0);
        near("max_us", 600e6);
    }
}
