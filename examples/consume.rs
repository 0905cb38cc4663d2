//! Prints what it has not seen yet, and remembers how far it came: started again, it goes on where
//! it stopped.
//!
//! ```bash
//! export ARQON_URL=ws://127.0.0.1:9100/v1/ws ARQON_TOKEN="$(cat DIR/dev-token)"
//! cargo run --example consume
//! ```

use std::io::Write as _;

use anyhow::Context as _;
use arqonbus::client::{Client, ConnectOptions, Start, SubscribeOptions};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("ARQON_URL").context("ARQON_URL is not set")?;
    let token = std::env::var("ARQON_TOKEN").context("ARQON_TOKEN is not set")?;
    let client = Client::connect(ConnectOptions::new(url, token)).await?;

    let mut subscription = client
        .subscribe(SubscribeOptions {
            // Only until the named consumer has a cursor; then the cursor decides.
            start: Start::Earliest,
            consumer: "example".to_owned(),
            stop_at_end: true,
            ..SubscribeOptions::new("sensor.>")
        })
        .await?;
    while let Some(delivery) = subscription.next().await? {
        let mut last = None;
        for record in delivery.views() {
            let record = record?;
            let data = String::from_utf8_lossy(record.envelope.payload.data());
            let key = record.envelope.key;
            writeln!(
                std::io::stdout().lock(),
                "{} {} {key} {data}",
                record.sequence,
                record.topic
            )?;
            last = Some(record.sequence);
        }
        // After the work, not before: a crash in between delivers again instead of losing.
        if let Some(last) = last {
            subscription.ack_confirmed(last).await?;
        }
    }
    client.close().await;
    Ok(())
}
