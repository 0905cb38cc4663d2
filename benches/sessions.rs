//! Many idle sessions: the memory of each.
//!
//! Claim: an idle authenticated session takes at most 10 KiB of the node's memory, also when there
//! are 50,000 (PERF-05). Written down in docs/performance.md. The sessions are whole, Shield
//! included, on streams in memory; the streams, and the clients' ends of them, are measured alone
//! first, and taken off. What real sockets add is the kernel's.
//!
//! `cargo bench --bench sessions`; `ARQONBUS_BENCH_SESSIONS` sets how many (default: 50,000).

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run must stop")]
#![expect(clippy::print_stdout, reason = "its results")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use arqonbus::broker::{Broker, Identity, Options, Role, Tenant, Topics};
use arqonbus::config::{Auth, Config, Drain, Profile};
use arqonbus::edge::handshake::Subprotocol;
use arqonbus::edge::json::Adapter;
use arqonbus::edge::metrics::Metrics;
use arqonbus::edge::session::{Metered, SessionContext, run};
use arqonbus::edge::shield::Shield;
use arqonbus::edge::token::Verifier;
use arqonbus::log::{Committer, Environment, RealStorage};
use arqonbus::projections::Projections;
use arqonbus::wall_clock::WallClock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role as End, WebSocketConfig};

/// As the listener has them.
const READ_BUFFER_BYTES: usize = 2 << 10;
const TENANTS: usize = 10;

fn rss_kib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

fn identity(number: usize) -> Identity {
    Identity {
        tenant: Tenant::new(&format!("t{}", number % TENANTS)).unwrap(),
        subject: format!("device-{number}"),
        role: Role::User,
        publish: Topics::All,
        subscribe: Topics::All,
        expires_at: None,
        issued_at: None,
        token_id: None,
        ends_by: None,
    }
}

fn context(dir: &std::path::Path, draining: watch::Receiver<bool>) -> SessionContext {
    let environment = Environment {
        storage: Arc::new(RealStorage),
        clock: Arc::new(WallClock),
        committer: Committer::start(1),
    };
    let config = Config::default();
    let metrics = Arc::new(Metrics::new());
    SessionContext {
        json: Adapter::of(&config, Profile::Development),
        broker: Broker::start(environment, Options::new(dir.to_owned(), 1, "n1".into())).unwrap(),
        projections: Projections::none(Arc::new(WallClock), &tokio::runtime::Handle::current())
            .unwrap(),
        shield: Shield::new(&config, Arc::clone(&metrics)).unwrap(),
        verifier: Arc::new(Verifier::new(&Auth::default(), Profile::Development).unwrap()),
        metrics,
        limits: Arc::new(config.limits),
        drain: Drain::default(),
        draining,
        peer: Arc::from(""),
    }
}

/// Takes the Welcome, answers nothing, and has the session go once through its loop for a ping.
async fn settle(client: &mut DuplexStream) {
    let mut head = [0; 2];
    client.read_exact(&mut head).await.unwrap();
    assert!(
        head[0] == 0x82 && head[1] < 126,
        "no short Welcome but {head:?}"
    );
    let mut rest = vec![0; usize::from(head[1])];
    client.read_exact(&mut rest).await.unwrap();
    client.write_all(&[0x89, 0x80, 0, 0, 0, 0]).await.unwrap();
    let mut pong = [0; 2];
    client.read_exact(&mut pong).await.unwrap();
    assert_eq!(pong, [0x8a, 0]);
}

/// The same bytes over a stream without a session.
async fn alone(client: &mut DuplexStream, server: &mut DuplexStream) {
    let mut bytes = vec![0; 300];
    server.write_all(&bytes).await.unwrap();
    client.read_exact(&mut bytes).await.unwrap();
    client.write_all(&bytes[..6]).await.unwrap();
    server.read_exact(&mut bytes[..6]).await.unwrap();
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let asked = std::env::var("ARQONBUS_BENCH_SESSIONS").ok();
    let count = asked.map_or(50_000, |text| text.parse::<usize>().unwrap());
    let before = rss_kib();
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let (mut client, mut server) = tokio::io::duplex(4 << 10);
        alone(&mut client, &mut server).await;
        streams.push((client, server));
    }
    let streams_kib = rss_kib() - before;

    let dir = tempfile::tempdir().unwrap();
    let (_drain, draining) = watch::channel(false);
    let context = context(dir.path(), draining);
    let websocket = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(64 << 10)
        .max_write_buffer_size(16 << 20);
    let before = rss_kib();
    let since = Instant::now();
    let mut clients = Vec::with_capacity(count);
    for (number, (mut client, server)) in streams.into_iter().enumerate() {
        let server = Metered::new(server, context.limits.small_frames_per_second);
        let server = WebSocketStream::from_raw_socket(server, End::Server, Some(websocket)).await;
        tokio::spawn(run(
            server,
            identity(number),
            Subprotocol::Frames,
            context.clone(),
        ));
        settle(&mut client).await;
        clients.push(client);
    }
    let took = since.elapsed();
    let open = (rss_kib() - before) / count as f64;
    // The node pings them now, and takes back what it does not need.
    tokio::time::sleep(Duration::from_millis(context.limits.ping_after_ms + 2_000)).await;
    let idle = (rss_kib() - before) / count as f64;
    println!(
        "{count} sessions of {TENANTS} tenants in {took:?}: {open:.2} KiB each when open, {idle:.2} KiB when idle; the streams alone {:.2} KiB each",
        streams_kib / count as f64
    );
}
