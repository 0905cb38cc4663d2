//! Makes the projections of a node, and their sinks, from its settings.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arqonbus::broker::rooms::heartbeat::KEPT;
use arqonbus::broker::{Broker, room};
use arqonbus::config::{self, Config, Profile};
use arqonbus::edge::schema::payloads::Registered;
use arqonbus::edge::shield::Shield;
use arqonbus::log::Clock;
use arqonbus::projections::continuum::{self, Continuum, History};
use arqonbus::projections::declared::Declared;
use arqonbus::projections::messages::Messages;
use arqonbus::projections::options::Options;
use arqonbus::projections::postgres::{self, Migrating, Postgres};
use arqonbus::projections::presence::Members;
use arqonbus::projections::projection::Projection;
use arqonbus::projections::sink::{Sink, SinkKind};
use arqonbus::projections::sled::Sled;
use arqonbus::projections::valkey::mapping::Mapping;
use arqonbus::projections::valkey::{self, Address, ValkeySink};
use arqonbus::projections::{Kept, Projections};

use crate::feed::BrokerLogs;

/// Where the embedded tables are, below the data directory. No tenant can have this name.
pub(crate) const DIRECTORY: &str = "_projections";
/// Where verifications compute rows, below the data directory. Nothing in it outlives one.
const SCRATCH: &str = "_projections.scratch";
/// Memory for rows of the embedded tables.
pub(crate) const CACHE_BYTES: u64 = 32 << 20;

/// A projection, and where it may be kept; nowhere in particular: wherever it can.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) projection: Arc<dyn Projection>,
    sinks: Vec<SinkKind>,
    /// What of it is kept in Valkey.
    cached: Vec<Mapping>,
}

impl Wanted {
    fn belongs(&self, sink: SinkKind) -> bool {
        let named = self.sinks.is_empty() || self.sinks.contains(&sink);
        named && (sink != SinkKind::Valkey || !self.cached.is_empty())
    }
}

/// The projections that the settings ask for.
pub(crate) fn wanted(config: &Config) -> anyhow::Result<Vec<Wanted>> {
    let settings = &config.projections;
    let mut wanted = Vec::new();
    if !settings.enabled {
        return Ok(wanted);
    }
    if settings.continuum {
        let history = if settings.history {
            History::Kept
        } else {
            History::LeftOut
        };
        let projection = Continuum::new(history);
        let table = projection.tables()[continuum::EPISODES].name.clone();
        let ttl = Duration::from_secs(config.valkey.ttl_s);
        wanted.push(Wanted {
            projection: Arc::new(projection),
            sinks: Vec::new(),
            cached: vec![Mapping::episodes(&table, ttl)],
        });
    }
    if let Some(every) = heartbeat(config) {
        let projection = Members::default();
        let table = &projection.tables()[0].name;
        wanted.push(Wanted {
            cached: vec![Mapping::presence(table, every * KEPT)],
            sinks: vec![SinkKind::Valkey],
            projection: Arc::new(projection),
        });
    }
    for entry in &settings.own {
        let projection = Declared::new(entry)?;
        wanted.push(Wanted {
            sinks: projection.sinks().to_vec(),
            projection: Arc::new(projection),
            cached: Vec::new(),
        });
    }
    for entry in &settings.messages {
        let projection = Messages::new(entry, room::of_topic);
        let table = &projection.tables()[0].name;
        let stream = Mapping::messages(table, &entry.name, config.valkey.stream_entries_max);
        wanted.push(Wanted {
            sinks: projection.sinks().to_vec(),
            projection: Arc::new(projection),
            cached: vec![stream],
        });
    }
    Ok(wanted)
}

/// How often rooms say who is there: as often as somebody keeps it who forgets.
pub(crate) fn heartbeat(config: &Config) -> Option<Duration> {
    let is_kept = config.projections.enabled && config.valkey.url.is_some();
    let every = config.rooms.heartbeat_s;
    (is_kept && every > 0).then(|| Duration::from_secs(every))
}

/// The database, if the settings name one.
pub(crate) fn postgres(
    settings: &config::Postgres,
    migrating: Migrating,
) -> anyhow::Result<Option<Postgres>> {
    let Some(url) = &settings.url else {
        return Ok(None);
    };
    let options = postgres::Options {
        ca: settings.ca.clone(),
        connections_max: settings.pool_max,
        connect_timeout: Duration::from_millis(settings.connect_timeout_ms),
        statement_timeout: Duration::from_millis(settings.statement_timeout_ms),
        lock_timeout: Duration::from_millis(settings.lock_timeout_ms),
        migrating,
        ..postgres::Options::of(url.reveal())
    };
    let database = Postgres::new(&options).context("postgres.url")?;
    Ok(Some(database))
}

/// Where Valkey is, if the settings say so.
pub(crate) fn valkey(settings: &config::Valkey) -> anyhow::Result<Option<Address>> {
    let Some(url) = &settings.url else {
        return Ok(None);
    };
    let ca = settings
        .ca
        .as_ref()
        .map(|file| std::fs::read(file).with_context(|| format!("valkey.ca = {}", file.display())));
    Ok(Some(Address {
        ca: ca.transpose()?,
        connect_timeout: Duration::from_millis(settings.connect_timeout_ms),
        response_timeout: Duration::from_millis(settings.timeout_ms),
        ..Address::new(url.reveal())
    }))
}

/// Starts them.
pub(crate) fn start(
    config: &Config,
    profile: Profile,
    data: &Path,
    broker: Arc<Broker>,
    shield: Arc<Shield>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Arc<Projections>> {
    let settings = &config.projections;
    let wanted = wanted(config)?;
    let scratch = data.join(SCRATCH);
    match std::fs::remove_dir_all(&scratch) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, "what a verification left behind is still there");
        }
        Ok(()) | Err(_) => {}
    }
    // The first one is asked; a database may hold rows that no log of this node does.
    let mut sinks: Vec<Arc<dyn Sink>> = Vec::new();
    if !wanted.is_empty() {
        let migrating = match profile {
            Profile::Development => Migrating::ByItself,
            Profile::Production => Migrating::ByHand,
        };
        if let Some(database) = postgres(&config.postgres, migrating)? {
            sinks.push(Arc::new(database));
        }
        let embedded = Sled::open(&data.join(DIRECTORY), CACHE_BYTES);
        sinks.push(Arc::new(embedded.context("the embedded projections")?));
        if let Some(address) = valkey(&config.valkey)? {
            let cached = |one: &Wanted| {
                let name = one.projection.name().to_owned();
                one.belongs(SinkKind::Valkey)
                    .then(|| (name, one.cached.clone()))
            };
            let mappings: HashMap<_, _> = wanted.iter().filter_map(cached).collect();
            let sink = ValkeySink::new(valkey::Options { address, mappings });
            sinks.push(Arc::new(sink.context("valkey")?));
        }
    }
    let kept = wanted.into_iter().map(|one| {
        let of_it = sinks.iter().filter(|sink| one.belongs(sink.kind()));
        Kept {
            sinks: of_it.cloned().collect(),
            projection: one.projection,
        }
    });
    let kept: Vec<Kept> = kept.collect();
    if let Some(homeless) = kept.iter().find(|kept| kept.sinks.is_empty()) {
        let name = homeless.projection.name();
        anyhow::bail!(
            "projection {name} is kept nowhere: set postgres.url or valkey.url, or name another of its sinks"
        );
    }
    let payloads = Arc::new(Registered::new(Arc::clone(&broker), shield));
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
