//! What the machine does without us: flushes, and WebSocket with the same library.
//!
//! Claim: none of ours. These are the limits that docs/performance.md sets its figures against,
//! taken in the same run by `tools/bench`. Prints one JSON object.
//!
//! `cargo bench --bench limits`; `ARQONBUS_BENCH_DIR` chooses the disk.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run must stop")]

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

fn main() {
    let dir = std::env::var_os("ARQONBUS_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::tempdir_in(dir).unwrap();
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(dir.path().join("limit"))
        .unwrap();
    file.write_all_at(&vec![0; 256 * MIB], 0).unwrap();
    file.sync_data().unwrap();

    let small = flushes(&file, 4 * KIB, 2000);
    let large = flushes(&file, MIB, 256);
    let seconds: Duration = large.iter().sum();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let echo = runtime.block_on(echo(10_000));
    let delivery = runtime.block_on(delivery(1_000_000));
    let limits = serde_json::json!({
        "flush_4k_p50_us": micros(&small, 50),
        "flush_4k_p99_us": micros(&small, 99),
        "flush_1m_mb_per_s": (large.len() * MIB) as f64 / seconds.as_secs_f64() / 1e6,
        "websocket_echo_p50_us": micros(&echo, 50),
        "websocket_echo_p99_us": micros(&echo, 99),
        "websocket_messages_per_s": delivery,
    });
    writeln!(std::io::stdout().lock(), "{limits}").unwrap();
}

/// Each write of `len` bytes into a zeroed file, flushed; sorted.
fn flushes(file: &File, len: usize, count: usize) -> Vec<Duration> {
    let bytes = vec![b'x'; len];
    let mut took = Vec::with_capacity(count);
    let mut at = 0;
    for _ in 0..count {
        let started = Instant::now();
        file.write_all_at(&bytes, at).unwrap();
        file.sync_data().unwrap();
        took.push(started.elapsed());
        at = (at + len as u64) % (256 * MIB) as u64;
    }
    took.sort_unstable();
    took
}

fn micros(sorted: &[Duration], percentile: usize) -> f64 {
    sorted[(sorted.len() - 1) * percentile / 100].as_secs_f64() * 1e6
}

async fn pair() -> (WebSocketStream<TcpStream>, WebSocketStream<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        accept_async(stream).await.unwrap()
    });
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (client, _) = client_async("ws://localhost/", stream).await.unwrap();
    (client, server.await.unwrap())
}

/// Round trips of 1 KiB, one at a time; sorted.
async fn echo(count: usize) -> Vec<Duration> {
    let (mut client, mut server) = pair().await;
    let echo = tokio::spawn(async move {
        while let Some(Ok(message)) = server.next().await {
            if server.send(message).await.is_err() {
                break;
            }
        }
    });
    let payload = Bytes::from(vec![b'x'; KIB]);
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        client.send(Message::Binary(payload.clone())).await.unwrap();
        client.next().await.unwrap().unwrap();
        took.push(started.elapsed());
    }
    drop(client);
    echo.await.unwrap();
    took.sort_unstable();
    took
}

/// Messages of 1 KiB a second from one end to the other, fed and flushed together.
async fn delivery(count: usize) -> f64 {
    let (mut client, mut server) = pair().await;
    let payload = Bytes::from(vec![b'x'; KIB]);
    let started = Instant::now();
    let sender = tokio::spawn(async move {
        for number in 1..=count {
            server.feed(Message::Binary(payload.clone())).await.unwrap();
            if number % 256 == 0 {
                server.flush().await.unwrap();
            }
        }
        server.flush().await.unwrap();
        server
    });
    for _ in 0..count {
        client.next().await.unwrap().unwrap();
    }
    let rate = count as f64 / started.elapsed().as_secs_f64();
    drop(sender.await.unwrap());
    rate
}
