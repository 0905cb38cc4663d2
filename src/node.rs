//! Starts the node, waits, stops it.
//!
//! Start: settings, profile, data directory, keys, logs, listeners, the ready line. Stop: no new
//! connections, Drain to the sessions, logs closed, operations listener last, so that it can be
//! asked how far the stop has come.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arqonbus::broker::{self, Broker, operators};
use arqonbus::config::layers::Loaded;
use arqonbus::config::{self, Config, Profile};
use arqonbus::data_dir::{DataDir, UNFINISHED_RESTORE};
use arqonbus::edge::checkup::Checkup;
use arqonbus::edge::development::{self, Credentials};
use arqonbus::edge::json::Adapter;
use arqonbus::edge::listener::{Door, Parts};
use arqonbus::edge::metrics::Metrics;
use arqonbus::edge::ops::{self, Ops};
use arqonbus::edge::profile::{self, Missing};
use arqonbus::edge::reload::{self, Reloader};
use arqonbus::edge::schema::contracts;
use arqonbus::edge::seats::Seats;
use arqonbus::edge::session::SessionContext;
use arqonbus::edge::shield::Shield;
use arqonbus::edge::tls::Tls;
use arqonbus::edge::token::Verifier;
use arqonbus::log::{self, Clock as _, Committer, Encryption, Environment, RealStorage};
use arqonbus::projections::Projections;
use arqonbus::proto::audit::hex;
use arqonbus::proto::v1::Value;
use arqonbus::wall_clock::WallClock;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;

use crate::arguments::ServeArguments;
use crate::{EXIT_CONFIG, fail, load, preflight, print, projecting, say};

/// Where what the tenants' events come to is kept, below the data directory. No tenant can have this
/// name.
const STATES: &str = "_state";
/// How long starting and stopping wait for the audit: a disk that hangs must not hold them up.
const NOTE_WAIT: Duration = Duration::from_secs(2);
/// Kept of the deadline for closing logs after the sessions have had their time.
const CLOSING_SHARE: u32 = 4;

/// Runs the node until a signal ends it.
pub(crate) fn serve(arguments: &ServeArguments) -> ExitCode {
    let profile = if arguments.dev {
        Profile::Development
    } else {
        Profile::Production
    };
    let mut loaded = match load(arguments.config.as_deref(), &arguments.flags()) {
        Ok(loaded) => loaded,
        Err(error) => return fail(&error.into()),
    };
    if profile == Profile::Development {
        relax(&mut loaded.config);
    }
    let config = &loaded.config;
    // The development profile makes its key later, in the data directory.
    let missing = match profile {
        Profile::Development => profile::missing(config, profile),
        Profile::Production => profile::verifier(config, profile).err().unwrap_or_default(),
    };
    let (Some(dir), true) = (config.node.data_dir.clone(), missing.is_empty()) else {
        return refuse(&missing, profile);
    };
    // Before anything is written: without its keys a log would be refused when it is first used.
    let variable = std::env::var(config::MASTER_KEYS_VARIABLE).ok();
    let encryption = match config.log.encryption(variable.as_deref()) {
        Ok(encryption) => encryption,
        Err(error) => {
            say(&format!("arqonbus: {:#}\n", anyhow::Error::from(error)));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let metrics = Arc::new(Metrics::new());
    let shield = match profile::shield(config, Arc::clone(&metrics)) {
        Ok(shield) => shield,
        Err(missing) => return refuse(&missing, profile),
    };
    let tls = match profile::tls(config, Arc::new(WallClock), metrics) {
        Ok(tls) => tls,
        Err(missing) => return refuse(&missing, profile),
    };
    let filter = match trace(&loaded.config) {
        Ok(filter) => filter,
        Err(error) => {
            say(&format!("arqonbus: {error:#}\n"));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let again = Again {
        source: source(arguments, profile),
        filter,
        started_with: loaded.config.clone(),
    };
    if profile == Profile::Production {
        match preflight::allows(&loaded.config) {
            Ok(true) => {}
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => return fail(&error),
        }
    }
    for name in &loaded.ignored_variables {
        tracing::warn!(name, "environment variable is no setting; ignored");
    }
    match run(loaded, profile, &dir, encryption, shield, tls, again) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

/// What the development profile makes of the settings.
fn relax(config: &mut Config) {
    development::relax(&mut config.auth);
    if config.ops.tenant.is_empty() {
        development::TENANT.clone_into(&mut config.ops.tenant);
    }
}

fn refuse(missing: &[Missing], profile: Profile) -> ExitCode {
    let (name, remedy) = match profile {
        Profile::Development => ("development", ""),
        Profile::Production => (
            "production",
            "For a node on this machine alone: arqonbus serve --dev --data DIR\n",
        ),
    };
    let items: String = missing.iter().map(|item| format!("  - {item}\n")).collect();
    say(&format!(
        "arqonbus: cannot start in the {name} profile; missing or not allowed:\n{items}{remedy}"
    ));
    ExitCode::from(EXIT_CONFIG)
}

/// What it takes to read the settings again.
struct Again {
    source: reload::Source,
    filter: reload::Filtered,
    started_with: Config,
}

/// Reads the settings from where they were read at the start.
fn source(arguments: &ServeArguments, profile: Profile) -> reload::Source {
    let (file, flags) = (arguments.config.clone(), arguments.flags());
    Box::new(move || {
        let loaded = load(file.as_deref(), &flags);
        let mut config = loaded
            .map_err(|error| format!("{:#}", anyhow::Error::from(error)))?
            .config;
        if profile == Profile::Development {
            relax(&mut config);
        }
        Ok(config)
    })
}

fn trace_filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(text)
        .map_err(|error| format!("trace.filter = {text:?} is no filter: {error}"))
}

fn trace(config: &Config) -> anyhow::Result<reload::Filtered> {
    let filter = trace_filter(&config.trace.filter).map_err(anyhow::Error::msg)?;
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr);
    let failed = |error| anyhow::anyhow!("cannot set up the log: {error}");
    if config.trace.format == "json" {
        let builder = builder
            .json()
            .with_env_filter(filter)
            .with_filter_reloading();
        let handle = builder.reload_handle();
        builder.try_init().map_err(failed)?;
        return Ok(refilter(move |filter| {
            handle.reload(filter).map_err(|error| error.to_string())
        }));
    }
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = builder
        .with_ansi(ansi)
        .with_env_filter(filter)
        .with_filter_reloading();
    let handle = builder.reload_handle();
    builder.try_init().map_err(failed)?;
    Ok(refilter(move |filter| {
        handle.reload(filter).map_err(|error| error.to_string())
    }))
}

fn refilter(
    set: impl Fn(EnvFilter) -> Result<(), String> + Send + Sync + 'static,
) -> reload::Filtered {
    Box::new(move |text, doing| {
        let filter = trace_filter(text)?;
        match doing {
            reload::Doing::Try => Ok(()),
            reload::Doing::Apply => set(filter),
        }
    })
}

fn run(
    loaded: Loaded,
    profile: Profile,
    dir: &Path,
    encryption: Option<Encryption>,
    shield: Arc<Shield>,
    tls: Option<Arc<Tls>>,
    again: Again,
) -> anyhow::Result<ExitCode> {
    let mut config = loaded.config;
    let clock = Arc::new(WallClock);
    let storage = Arc::new(RealStorage);
    let data_dir = DataDir::take(storage.as_ref(), dir)?;
    let unfinished = dir.join(UNFINISHED_RESTORE);
    anyhow::ensure!(
        !unfinished.exists(),
        "a restore into {} was interrupted: run `arqon restore` again, or remove {}",
        dir.display(),
        unfinished.display()
    );
    let credentials = match profile {
        Profile::Development => Some(development::prepare(dir, &mut config.auth, clock.now())?),
        Profile::Production => None,
    };
    let verifier = match profile::verifier(&config, profile) {
        Ok(verifier) => Arc::new(verifier),
        Err(missing) => return Ok(refuse(&missing, profile)),
    };
    let environment = Environment {
        storage,
        clock,
        committer: Committer::start(config.log.commit_threads),
    };
    environment
        .committer
        .bound_tails(config.log.tail_bytes_total);
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(live(
        &config,
        profile,
        &data_dir,
        verifier,
        environment,
        encryption,
        credentials,
        shield,
        tls,
        again,
    ));
    // What blocks in the runtime must not keep the process beyond the deadline.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of a node, each made by another step"
)]
#[expect(
    clippy::too_many_lines,
    reason = "the order in which the parts start and stop, to be read in one piece"
)]
async fn live(
    config: &Config,
    profile: Profile,
    data_dir: &DataDir,
    verifier: Arc<Verifier>,
    environment: Environment,
    encryption: Option<Encryption>,
    credentials: Option<Credentials>,
    shield: Arc<Shield>,
    tls: Option<Arc<Tls>>,
    again: Again,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let started = Instant::now();
    let (drain, draining) = watch::channel(false);
    let (stop_ops, ops_stopped) = watch::channel(false);
    let metrics = Arc::clone(shield.metrics());
    let seats = Seats::new(&config.limits, Arc::clone(&metrics));
    let clock = Arc::clone(&environment.clock);
    let storage = Arc::clone(&environment.storage);

    let edge = listen(config.edge.listen.0, "edge.listen")?;
    let operations = listen(config.ops.listen.0, "ops.listen")?;
    let (edge_address, ops_address) = (edge.local_addr()?, operations.local_addr()?);

    let masters = encryption.as_ref().map(|keys| Arc::clone(&keys.masters));
    let broker = start_broker(config, profile, data_dir, environment, encryption)?;
    let projections = projecting::start(
        config,
        profile,
        data_dir.path(),
        Arc::clone(&broker),
        Arc::clone(&shield),
        Arc::clone(&clock),
    )?;
    let terms = reload::Terms::of(config);
    let reloader = again.reloader(&broker, &shield, &seats, &terms);
    shield.reload_by(Arc::clone(&reloader));
    let about = about_start(config, profile);
    note(&broker, "node.started", about).await;
    let door = Door::new(
        config,
        profile,
        Parts {
            tls: tls.clone(),
            verifier: Arc::clone(&verifier),
            clock: Arc::clone(&clock),
            seats: Arc::clone(&seats),
            metrics: Arc::clone(&metrics),
            draining: draining.clone(),
            context: SessionContext {
                broker: Arc::clone(&broker),
                shield: Arc::clone(&shield),
                projections: Arc::clone(&projections),
                verifier: Arc::clone(&verifier),
                metrics: Arc::clone(&metrics),
                limits: Arc::new(config.limits.clone()),
                json: Adapter::of(config, profile),
                drain: config.drain.clone(),
                draining: draining.clone(),
                peer: Arc::from(""),
            },
            offer: terms,
        },
    );
    let contracts = contracts::Registry::new(&broker, Arc::clone(&shield));
    broker.contracts().install(Box::new(contracts));
    let (close_offices, closing) = watch::channel(false);
    let offices = tokio::spawn(operators::supervise(Arc::clone(&broker), closing));
    verifier.keep_fresh(&draining);
    let checkup = Arc::new(Checkup::new(masters));
    let data = data_dir.path().to_owned();
    let looking = Arc::clone(&checkup).run(storage, data, Arc::clone(&broker), draining.clone());
    tokio::spawn(looking);
    let ops = Arc::new(Ops {
        profile,
        node: data_dir.node().name().to_owned(),
        started,
        broker: Arc::clone(&broker),
        checkup,
        data: data_dir.path().to_owned(),
        room_bytes_min: room_bytes_min(&config.log),
        seats: Arc::clone(&seats),
        metrics,
        shield,
        projections: Arc::clone(&projections),
        tls: tls.clone(),
        verifier,
        clock,
        refusals: ops::Refusals::default(),
        wait_max: ops::wait_max(&config.ops),
        draining: draining.clone(),
    });
    // Taken even where nobody waits for it: its usual effect is to end the process.
    let hangups = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let (ws, http) = match &tls {
        None => ("ws", "http"),
        Some(_) if config.ops.tls => ("wss", "https"),
        Some(_) => ("wss", "http"),
    };
    let tls_check = Duration::from_millis(config.edge.tls_check_ms);
    tokio::spawn(reload_on_hangup(reloader, Arc::clone(&broker))?);
    tls.map(|tls| tokio::spawn(tls.keep(hangups, tls_check, draining)));
    let ops_task = tokio::spawn(ops::serve(ops, operations, config.ops.clone(), ops_stopped));
    tokio::spawn(door.serve(edge));

    if let Some(credentials) = credentials {
        say(&hints(ws, edge_address, &credentials));
    }
    print(&format!(
        "ready edge={ws}://{edge_address}/v1/ws ops={http}://{ops_address}\n"
    ))?;
    tracing::info!(node = data_dir.node().name(), %edge_address, %ops_address, "ready");

    let first = signals.next().await;
    tracing::info!(signal = first, "draining");
    let about = Value::object([("signal", Value::from(first))]);
    note(&broker, "node.stopping", about).await;
    drain.send_replace(true);
    projections.drain();
    close_offices.send_replace(true);
    let deadline = Duration::from_millis(config.drain.deadline_ms);
    tokio::select! {
        stopped = stop(&seats, projections, offices, broker, deadline) => stopped?,
        second = signals.next() => end_at_once(second),
    }
    end(&stop_ops, ops_task).await;
    Ok(ExitCode::SUCCESS)
}

impl Again {
    fn reloader(
        self,
        broker: &Arc<Broker>,
        shield: &Arc<Shield>,
        seats: &Arc<Seats>,
        terms: &Arc<reload::Terms>,
    ) -> Arc<Reloader> {
        let targets = reload::Targets {
            broker: Arc::clone(broker),
            shield: Arc::downgrade(shield),
            seats: Arc::clone(seats),
            terms: Arc::clone(terms),
            filter: self.filter,
        };
        Reloader::new(self.source, targets, self.started_with)
    }
}

/// Which program was started, with which settings: their hash, because some are nobody's business.
fn about_start(config: &Config, profile: Profile) -> Value {
    let settings = serde_json::to_vec(config).unwrap_or_default();
    let digest = hex(&Sha256::digest(settings));
    let profile = match profile {
        Profile::Development => "development",
        Profile::Production => "production",
    };
    Value::object([
        ("version", Value::from(env!("CARGO_PKG_VERSION"))),
        ("profile", profile.into()),
        ("settings_sha256", digest.into()),
    ])
}

/// Writes down what the node does.
async fn note(broker: &Arc<Broker>, action: &'static str, about: Value) {
    let broker = Arc::clone(broker);
    let writing = move || broker.audit_of_node("local", action, about);
    match tokio::time::timeout(NOTE_WAIT, tokio::task::spawn_blocking(writing)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(%error, action, "writing down what the node does panicked");
        }
        Err(_) => tracing::error!(action, "writing down what the node does takes too long"),
    }
}

/// Reads the settings again whenever the process is told to by SIGHUP.
fn reload_on_hangup(
    reloader: Arc<Reloader>,
    broker: Arc<Broker>,
) -> anyhow::Result<impl Future<Output = ()>> {
    let mut hangups = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    Ok(async move {
        while hangups.recv().await.is_some() {
            let reloader = Arc::clone(&reloader);
            let reloaded = tokio::task::spawn_blocking(move || reloader.reload()).await;
            let about = match reloaded {
                Ok(Ok(reloaded)) => {
                    let (applied, restart) = (&reloaded.applied, &reloaded.restart);
                    tracing::info!(?applied, needs_restart = ?restart, "settings read again");
                    reload::shown(&reloaded)
                }
                Ok(Err(why)) => {
                    tracing::error!(
                        why,
                        "settings read again and not taken over; nothing has changed"
                    );
                    Value::object([("refused", Value::from(true))])
                }
                Err(error) => {
                    tracing::error!(%error, "reading the settings again panicked");
                    continue;
                }
            };
            note(&broker, "node.reloaded", about).await;
        }
    })
}

/// Ends the operations listener, with a moment for its last answers.
async fn end(stop: &watch::Sender<bool>, ops: JoinHandle<()>) {
    stop.send_replace(true);
    let last_answers = tokio::time::timeout(Duration::from_millis(100), ops);
    if let Ok(Err(error)) = last_answers.await {
        tracing::warn!(%error, "the operations listener failed");
    }
    tracing::info!("stopped");
}

/// The smallest segment that takes a full group, with its headers and marks: without room for it
/// appends are refused under load, however small each of them is.
fn room_bytes_min(log: &config::Log) -> u64 {
    const FRAMING_BYTES: u64 = 64 << 10;
    let group = log.group_bytes_max as u64 + FRAMING_BYTES;
    group.max(log.segment_bytes_first).min(log.segment_bytes)
}

fn start_broker(
    config: &Config,
    profile: Profile,
    data_dir: &DataDir,
    environment: Environment,
    encryption: Option<Encryption>,
) -> anyhow::Result<Arc<Broker>> {
    let node = data_dir.node();
    let limits = &config.limits;
    let encrypted = encryption.is_some();
    let options = broker::Options {
        directory: data_dir.path().to_owned(),
        node: node.number(),
        node_name: node.name().to_owned(),
        log: log::Options {
            encryption,
            ..config.log.options()
        },
        idle_close: Duration::from_millis(config.log.idle_close_ms),
        tenants_max: limits.tenants_max,
        realities_max: limits.realities_max,
        tenant_bytes_max: (limits.tenant_bytes_max > 0).then_some(limits.tenant_bytes_max),
        tenant_topics_max: (limits.tenant_topics_max > 0).then_some(limits.tenant_topics_max),
        consumers_max: limits.consumers_max,
        groups: broker::group::Bounds {
            in_flight_max: limits.group_in_flight_max,
            ahead_max: limits.group_ahead_max,
            bytes_max: limits.group_bytes_max,
            members_max: limits.group_members_max,
            wait_max: Duration::from_millis(limits.group_wait_max_ms),
        },
        producers_max: limits.producers_max,
        dedup_window: Duration::from_millis(config.dedup.window_ms),
        dedup_ids_max: config.dedup.ids_max,
        // What is encrypted in the log must not lie beside it in the clear.
        states: (!encrypted).then(|| data_dir.path().join(STATES)),
        operators: operators::Settings::of(config),
        rooms: broker::rooms::Limits {
            rooms_max: config.rooms.rooms_max,
            channels_max: config.rooms.channels_max,
            members_max: config.rooms.members_max,
            joined_max: config.rooms.joined_max,
            free: config.rooms.free,
            heartbeat: projecting::heartbeat(config),
        },
        maintenance: broker::maintenance::Options::of(config).context("settings")?,
        webhooks: operators::webhook::Settings::of(&config.webhook, profile, |record| {
            arqonbus::edge::json::envelope::shown(record).to_line()
        })
        .context("settings")?,
        omega: operators::omega::Settings::of(&config.omega, data_dir.path())
            .context("settings")?,
    };
    Broker::start(environment, options).context("cannot start the broker")
}

/// Every session is an open file, and the usual soft limit (1,024) is far below what the node
/// serves; the hard limit is the operator's word.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, ?limit, "cannot raise the limit of open files");
    }
}

/// Lets the sessions end, then closes the logs, within `deadline`.
async fn stop(
    seats: &Seats,
    projections: Arc<Projections>,
    offices: JoinHandle<()>,
    broker: Arc<Broker>,
    deadline: Duration,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let for_sessions = deadline - deadline / CLOSING_SHARE;
    if tokio::time::timeout(for_sessions, seats.empty())
        .await
        .is_err()
    {
        tracing::warn!(
            open = seats.total(),
            "sessions did not end in time; closing without them"
        );
    }
    let for_operators = deadline.saturating_sub(started.elapsed()) / 2;
    match tokio::time::timeout(for_operators, offices).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "the operators' supervisor panicked"),
        Err(_) => tracing::warn!("operators did not end in time; closing without them"),
    }
    let closing = tokio::task::spawn_blocking(move || {
        projections.close();
        broker.close();
    });
    match tokio::time::timeout(deadline.saturating_sub(started.elapsed()), closing).await {
        Ok(closed) => closed.context("closing the logs panicked"),
        Err(_) => {
            tracing::warn!("the logs did not close in time; the next start recovers them");
            Ok(())
        }
    }
}

#[expect(
    clippy::exit,
    reason = "a second signal asks for exactly this: what is unfinished is recovered at the next start"
)]
fn end_at_once(signal: &'static str) -> ! {
    tracing::warn!(signal, "ended at once by a second signal");
    std::process::exit(1)
}

/// The signals that end the node.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Connections that wait to be accepted; a storm of clients fits (EDGE-22), as far as the system's
/// `somaxconn` allows.
const BACKLOG: u32 = 4096;

fn listen(address: SocketAddr, setting: &'static str) -> anyhow::Result<TcpListener> {
    let open = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().with_context(|| format!("cannot listen on {setting} = {address}; choose another address, or port 0 for a free one"))
}

fn hints(ws: &str, edge: SocketAddr, credentials: &Credentials) -> String {
    let (token, secret) = (credentials.token.display(), credentials.secret.display());
    format!(
        "Development profile: for this machine alone. In another terminal:\n\
         \n  export ARQON_URL={ws}://{edge}/v1/ws ARQON_TOKEN=\"$(cat {token})\"\n\
         \n  arqon consume '>' --from earliest\n\
         \nMore tokens: arqon token mint --secret-file {secret} --tenant {tenant} --sub NAME\n\n",
        tenant = development::TENANT,
    )
}
