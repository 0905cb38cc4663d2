//! Sends three events and waits until they are on disk.
//!
//! ```bash
//! export ARQON_URL=ws://127.0.0.1:9100/v1/ws ARQON_TOKEN="$(cat DIR/dev-token)"
//! cargo run --example produce
//! ```

use std::io::Write as _;

use anyhow::Context as _;
use arqonbus::client::{Client, ConnectOptions, Outgoing, ProduceOptions};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("ARQON_URL").context("ARQON_URL is not set")?;
    let token = std::env::var("ARQON_TOKEN").context("ARQON_TOKEN is not set")?;
    let client = Client::connect(ConnectOptions::new(url, token)).await?;

    // One batch: stored all or none, with consecutive sequences.
    let mut batch = client.batch();
    for (sensor, celsius) in [("attic", 31.5), ("cellar", 12.0), ("porch", 19.25)] {
        let data = format!("{{\"celsius\":{celsius}}}");
        batch.push(&Outgoing {
            topic: "sensor.temperature.read",
            key: sensor,
            data: data.as_bytes(),
            ..Outgoing::default()
        });
    }
    let stored = client.produce(&batch, &ProduceOptions::default()).await?;
    writeln!(
        std::io::stdout().lock(),
        "on disk: sequences {} to {}",
        stored.first,
        stored.last
    )?;
    client.close().await;
    Ok(())
}
