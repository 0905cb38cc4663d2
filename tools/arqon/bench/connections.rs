//! How fast the node takes connections, and whether it holds many.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arqonbus::client::{Client, Reconnect};
use clap::Args;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Latencies;
use crate::bounds::span;
use crate::connection::Target;
use crate::progress::Progress;

/// Open many connections, hold them, and see that each still answers
#[derive(Debug, Args)]
#[command(after_help = "\
Percentiles are of the time from connecting to the node's Welcome.

Examples:
  arqon bench connections --count 10000 --hold 30s --output json")]
pub(crate) struct Arguments {
    /// Connections to open
    #[arg(long, default_value = "1000", value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Connections being opened at a time
    #[arg(long, default_value = "64", value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// How long to hold them
    #[arg(long, default_value = "1s", value_parser = span)]
    hold: Duration,
}

pub(crate) async fn run(target: &Target, arguments: Arguments) -> anyhow::Result<Value> {
    let (mut options, _reality) = target.options()?;
    options.reconnect = Reconnect::Never;
    let places = Arc::new(Semaphore::new(usize::from(arguments.concurrency)));
    let start = Instant::now();
    let mut opening = JoinSet::new();
    for _ in 0..arguments.count {
        let place = Arc::clone(&places).acquire_owned().await?;
        let options = options.clone();
        opening.spawn(async move {
            let since = Instant::now();
            let client = Client::connect(options).await;
            drop(place);
            (client, since.elapsed())
        });
    }
    let mut latencies = Latencies::new()?;
    let mut progress = Progress::new(Some(arguments.count), "connections open");
    let mut clients = Vec::new();
    let mut first_failure = None;
    while let Some(opened) = opening.join_next().await {
        match opened? {
            (Ok(client), took) => {
                latencies.add(took);
                progress.add(1);
                clients.push(client);
            }
            (Err(error), _) => {
                first_failure.get_or_insert(error.to_string());
            }
        }
    }
    let took = start.elapsed();
    tokio::time::sleep(arguments.hold).await;
    let mut alive = 0_u64;
    for client in &clients {
        alive += u64::from(client.ping().await.is_ok());
    }
    let opened = clients.len() as u64;
    let mut result = Map::new();
    result.insert("count".to_owned(), arguments.count.into());
    result.insert("opened".to_owned(), opened.into());
    result.insert("alive_after_hold".to_owned(), alive.into());
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate has no more than three digits"
    )]
    let rate = opened as f64 / took.as_secs_f64().max(1e-9);
    result.insert("connections_per_s".to_owned(), json!(super::whole(rate)));
    latencies.put(&mut result);
    result.insert("first_failure".to_owned(), first_failure.into());
    Ok(result.into())
}
