//! Makes the projections of a node from its settings.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arqonbus::broker::Broker;
use arqonbus::config::Config;
use arqonbus::log::Clock;
use arqonbus::projections::continuum::{Continuum, History};
use arqonbus::projections::options::Options;
use arqonbus::projections::projection::Payloads;
use arqonbus::projections::sink::Sink;
use arqonbus::projections::sled::Sled;
use arqonbus::projections::{Kept, Projections};
use arqonbus::proto::view::RecordView;

use crate::feed::BrokerLogs;

/// Where the embedded tables are, below the data directory. No tenant can have this name.
const DIRECTORY: &str = "_projections";
/// Where verifications compute rows, below the data directory. Nothing in it outlives one.
const SCRATCH: &str = "_projections.scratch";
/// Memory for rows of the embedded tables.
const CACHE_BYTES: u64 = 32 << 20;

#[derive(Debug)]
struct Plain;

impl Payloads for Plain {
    fn to_json(&self, _tenant: &str, record: &RecordView<'_>) -> Option<serde_json::Value> {
        serde_json::from_slice(record.envelope.payload.data()).ok()
    }
}

/// Starts them.
pub(crate) fn start(
    config: &Config,
    data: &Path,
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Arc<Projections>> {
    let settings = &config.projections;
    let mut kept = Vec::new();
    let scratch = data.join(SCRATCH);
    match std::fs::remove_dir_all(&scratch) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, "what a verification left behind is still there");
        }
        Ok(()) | Err(_) => {}
    }
    if settings.enabled {
        let embedded = Sled::open(&data.join(DIRECTORY), CACHE_BYTES);
        let embedded: Arc<dyn Sink> = Arc::new(embedded.context("the embedded projections")?);
        if settings.continuum {
            let history = if settings.history {
                History::Kept
            } else {
                History::LeftOut
            };
            kept.push(Kept {
                projection: Arc::new(Continuum::new(history)),
                sinks: vec![Arc::clone(&embedded)],
            });
        }
    }
    let payloads = Arc::new(Plain);
    let logs = Arc::new(BrokerLogs { broker, payloads });
    let options = Options {
        batch_records_max: settings.batch_records_max,
        batch_bytes_max: settings.batch_bytes_max,
        threads_per_sink: settings.concurrency,
        retry_min: Duration::from_millis(settings.retry_min_ms),
        retry_max: Duration::from_millis(settings.retry_max_ms),
        poison_per_minute_max: settings.poison_per_minute_max,
        scratch,
        ..Options::default()
    };
    let runtime = tokio::runtime::Handle::current();
    Projections::start(kept, logs, clock, options, &runtime).context("cannot start the projections")
}
