//! REL-09, EDGE-10, EDGE-11, EDGE-22: a node under pressure goes on for everybody else, within its
//! memory.
//!
//! Short in the test run; the long forms are `ARQONBUS_STORM=9000` and `ARQONBUS_STALLED=1000`
//! before `cargo test --test node pressure`. What was found is printed; memory and processor time
//! are read from `/proc`.
#![expect(
    clippy::big_endian_bytes,
    reason = "RFC 6455 writes lengths in network order"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arqonbus::proto::claims::Role;
use arqonbus::proto::v1::client_frame::Body as Ask;
use arqonbus::proto::v1::server_frame::Body;
use arqonbus::proto::v1::{Ack, Credit, Deliver, LostRange, Ping, Record, Subscribe, subscribe};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::limits::{Session, envelope, flooded, masked, produce};
use crate::raw::{Request, connect, frame, read_frame, read_head, read_rest};
use crate::support::{Node, claims, signed};

const WAIT: Duration = Duration::from_secs(60);

fn asked_for(variable: &str, default: usize) -> usize {
    let set = std::env::var(variable).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn rss_kib(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid()));
    let status = status.expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|text| text.split_whitespace().next()?.parse().ok());
    kib.expect("a number")
}

/// Processor time that a node has used, in milliseconds.
fn cpu_ms(node: &Node) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.pid())).expect("it runs");
    let (_, rest) = stat.rsplit_once(')').expect("a name");
    let ticks = rest.split_whitespace().skip(11).take(2);
    // Of a hundredth of a second each, on every Linux.
    10 * ticks
        .map(|ticks| ticks.parse::<u64>().expect("a number"))
        .sum::<u64>()
}

fn metric(node: &Node, name: &str) -> u64 {
    let text = Request::get("/metrics").send(node.ops).text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[expect(clippy::print_stderr, reason = "figures that no assertion can hold")]
fn tell(text: &str) {
    eprintln!("{text}");
}

// EDGE-10: a million pings, and a million fragments of nothing, are cut off early.
#[test]
fn frames_that_carry_nothing_are_cut_off() {
    let node = Node::dev();
    let mut beside = Session::of(&node, "other");
    let pings = frame(0x89, b"").repeat(1_000);
    let fragments = frame(0x00, b"").repeat(1_000);
    for (name, opening, frames) in [
        ("pings", None, pings),
        ("fragments", Some(frame(0x02, b"x")), fragments),
    ] {
        let mut session = Session::of(&node, "t");
        if let Some(opening) = opening {
            session.0.write_all(&opening).expect("sent");
        }
        let (since, before) = (Instant::now(), cpu_ms(&node));
        let code = flooded(&mut session, &frames, 1_000);
        let used = cpu_ms(&node) - before;
        tell(&format!(
            "a million {name}: closed after {:?}, {used} ms of the node's time",
            since.elapsed()
        ));
        assert_eq!(code, 1008, "{name}");
        assert!(used < 5_000, "{name}: {used} ms");
        assert!(matches!(
            beside.answer(1, Ask::Ping(Ping::default())),
            Body::Pong(_)
        ));
    }
}

// REL-09: each of these is given up on, and none costs memory.
#[test]
fn giants_and_those_who_never_finish_are_given_up_on() {
    let node = Node::dev_with(&[
        ("ARQONBUS_LIMITS_HANDSHAKE_TIMEOUT_MS", "600"),
        ("ARQONBUS_LIMITS_PING_AFTER_MS", "200"),
        ("ARQONBUS_LIMITS_PONG_TIMEOUT_MS", "200"),
    ]);
    // So that what the node needs for a session is there already.
    drop(Session::of(&node, "t"));
    let before = rss_kib(&node);

    // One who claims more than a message may have, before any of it is there.
    let mut giant = [0; 14];
    giant[..10].copy_from_slice(&[0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0]);
    for _ in 0..100 {
        let mut session = Session::of(&node, "t");
        session.0.write_all(&giant).expect("sent");
        match session.next().expect("an error").body {
            Some(Body::Error(error)) => assert_eq!(error.code, "TOO_LARGE"),
            other => panic!("{other:?}"),
        }
        assert_eq!(session.next(), Err(1009));
    }

    // One who claims what a message may have, and never sends it.
    let mut claims = masked(0x82, &[]);
    claims.splice(
        1..,
        [0xff, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0, 0, 0, 0, 1, 2, 3],
    );
    let mut unfinished: Vec<_> = (0..100).map(|_| Session::of(&node, "t")).collect();
    for session in &mut unfinished {
        session.0.write_all(&claims).expect("sent");
    }
    for session in &mut unfinished {
        assert_eq!(read_frame(&mut session.0).0, 0x89);
        assert!(read_rest(&mut session.0).is_empty());
    }

    // One who sends a byte now and then.
    let mut slow: Vec<_> = (0..20).map(|_| connect(node.edge)).collect();
    let since = Instant::now();
    let request = Request::upgrade().bearer(&node.dev_token()).bytes();
    'bytes: for byte in &request {
        for stream in &mut slow {
            if stream.write_all(&[*byte]).is_err() || since.elapsed() > Duration::from_secs(2) {
                break 'bytes;
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for stream in &mut slow {
        assert_eq!(read_head(stream).status, 408);
    }
    let grown = rss_kib(&node).saturating_sub(before);
    tell(&format!("giants and unfinished: {grown} KiB more"));
    assert!(grown < 64 << 10, "{grown} KiB");
    drop(Session::of(&node, "t"));
}

// REL-09: a peer whose socket takes nothing is closed, and its reader ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_does_not_read_is_closed() {
    let node = Node::dev_with(&[("ARQONBUS_LIMITS_WRITE_TIMEOUT_MS", "300")]);
    let mut stalled = narrow(&node, "t").await;
    stalled.send(1, Ask::Subscribe(wanting("a", 0)));
    let mut producer = Session::of(&node, "t");
    let since = Instant::now();
    while metric(&node, "arqon_edge_sessions") > 1 {
        let batch = vec![envelope("a", 10_000); 100];
        assert!(matches!(
            producer.answer(1, produce(&batch)),
            Body::Produced(_)
        ));
        assert!(since.elapsed() < WAIT, "it is still there");
    }
    assert_eq!(metric(&node, "arqon_broker_subscriptions"), 0);
}

/// A session whose socket takes little.
async fn narrow(node: &Node, tenant: &str) -> Session {
    let token = signed(&claims(tenant, Role::Operator), &node.dev_secret());
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4 << 10).expect("set");
    let stream = socket.connect(node.edge).await.expect("a connection");
    let mut stream: TcpStream = stream.into_std().expect("a stream");
    stream.set_nonblocking(false).expect("set");
    stream.set_read_timeout(Some(WAIT)).expect("set");
    let request = Request::upgrade().bearer(&token).bytes();
    stream.write_all(&request).expect("sent");
    assert_eq!(read_head(&mut stream).status, 101);
    let mut session = Session(stream);
    session.next().expect("a Welcome");
    session
}

/// From now on, with so much credit; 0: all there may be.
fn wanting(filter: &str, records: u64) -> Subscribe {
    Subscribe {
        subscription: 1,
        filter: filter.into(),
        credit_records: if records == 0 { u64::MAX } else { records },
        ..Subscribe::default()
    }
}

fn subscribed(session: &mut Session, subscribe: Subscribe) {
    let answer = session.answer(1, Ask::Subscribe(subscribe));
    assert!(matches!(answer, Body::Subscribed(_)), "{answer:?}");
}

fn sequences(deliver: &Deliver) -> impl Iterator<Item = u64> {
    deliver
        .records
        .iter()
        .map(|record| Record::decode(record.clone()).expect("a record").sequence)
}

/// A frame of the node, of any length.
fn next_frame(stream: &mut TcpStream) -> Body {
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head).expect("a frame");
        let more = match head[1] {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mut long = [0; 8];
        stream.read_exact(&mut long[8 - more..]).expect("a length");
        let len = if more == 0 {
            u64::from(head[1])
        } else {
            u64::from_be_bytes(long)
        };
        let mut payload = vec![0; usize::try_from(len).expect("a length")];
        stream.read_exact(&mut payload).expect("a payload");
        match head[0] {
            0x89 => stream.write_all(&masked(0x8a, &payload)).expect("sent"),
            0x82 => {
                let frame = arqonbus::proto::v1::ServerFrame::decode(payload.as_slice());
                return frame.expect("a frame").body.expect("a body");
            }
            other => panic!("a frame that begins with {other:x}"),
        }
    }
}

/// Reads until a sequence has come: what came, and what is said to be lost.
fn read_until(session: &mut Session, last: u64) -> (Vec<u64>, Vec<LostRange>) {
    let (mut found, mut lost) = (Vec::new(), Vec::new());
    while found.last().is_none_or(|at| *at < last) {
        match next_frame(&mut session.0) {
            Body::Deliver(deliver) => {
                found.extend(sequences(&deliver));
                lost.extend(deliver.lost);
            }
            other => panic!("{other:?}"),
        }
    }
    (found, lost)
}

// EDGE-11, REL-09: those who take nothing cost little, and nobody else anything; each gets what it
// has asked for when it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "one story")]
async fn stalled_consumers_cost_a_bounded_sum_and_get_what_they_asked_for() {
    const BATCHES: u64 = 60;
    const BATCH: u64 = 100;
    let stalled = asked_for("ARQONBUS_STALLED", 300);
    let node = Node::dev_with(&[
        ("ARQONBUS_LIMITS_LAG_RECORDS_MAX", "1000"),
        ("ARQONBUS_LIMITS_WRITE_TIMEOUT_MS", "600000"),
        ("ARQONBUS_LIMITS_PING_AFTER_MS", "600000"),
        ("ARQONBUS_LOG_TAIL_BYTES", "1048576"),
    ]);
    // Half of them take no more credit, half do not read their sockets.
    let mut without_credit = Vec::new();
    let mut without_reading = Vec::new();
    for number in 0..stalled {
        let mut session = narrow(&node, "t").await;
        let credit = if number % 2 == 0 { 1 } else { 0 };
        subscribed(&mut session, wanting("a", credit));
        if credit == 1 {
            &mut without_credit
        } else {
            &mut without_reading
        }
        .push(session);
    }
    let mut live = Session::of(&node, "t");
    subscribed(&mut live, wanting("a", 0));
    let mut named = Session::of(&node, "t");
    let durable = |credit| Subscribe {
        consumer: "c1".into(),
        ..wanting("a", credit)
    };
    subscribed(&mut named, durable(5));
    let mut dropping = Session::of(&node, "t");
    let on_lag = |on_lag: subscribe::OnLag| Subscribe {
        on_lag: on_lag.into(),
        ..wanting("a", 3)
    };
    subscribed(&mut dropping, on_lag(subscribe::OnLag::DropOldest));
    let mut ending = Session::of(&node, "t");
    subscribed(&mut ending, on_lag(subscribe::OnLag::End));

    let before = rss_kib(&node);
    let reader = std::thread::spawn(move || read_until(&mut live, BATCHES * BATCH));
    let mut producer = Session::of(&node, "t");
    let (since, cpu) = (Instant::now(), cpu_ms(&node));
    let mut slowest = Duration::ZERO;
    for _ in 0..BATCHES {
        let began = Instant::now();
        let batch = vec![envelope("a", 1_000); usize::try_from(BATCH).expect("few")];
        let answer = producer.answer(1, produce(&batch));
        assert!(matches!(answer, Body::Produced(_)), "{answer:?}");
        slowest = slowest.max(began.elapsed());
    }
    let everything: Vec<u64> = (1..=BATCHES * BATCH).collect();
    let (found, lost) = reader.join().expect("it reads");
    assert_eq!(
        (found, lost),
        (everything.clone(), vec![]),
        "one who reads gets everything"
    );
    let grown = rss_kib(&node).saturating_sub(before);
    tell(&format!(
        "{stalled} stalled: {grown} KiB more, {:?} for {} records, slowest batch {slowest:?}, {} ms of the node's time",
        since.elapsed(),
        BATCHES * BATCH,
        cpu_ms(&node) - cpu
    ));
    // docs/protocol.md, "Backpressure": what one that does not read can hold, and the log's tail.
    let each_kib = 2 * (256 + 64);
    let budget = without_reading.len() as u64 * each_kib + (32 << 10);
    assert!(grown < budget, "{grown} KiB, more than {budget}");

    // Who comes back without a cursor, and without having asked for anything else.
    for session in [&mut without_credit[0], &mut without_reading[0]] {
        session.send(0, more());
        let (found, lost) = read_until(session, BATCHES * BATCH);
        assert_eq!((found, lost), (everything.clone(), vec![]));
    }
    // One with a cursor, which is where it acknowledged, also in another session.
    assert_eq!(read_until(&mut named, 5).0, [1, 2, 3, 4, 5]);
    let ack = Ack {
        subscription: 1,
        sequence: 5,
        attempt: 0,
    };
    assert!(matches!(named.answer(2, Ask::Ack(ack)), Body::Acked(_)));
    drop(named);
    let mut named = Session::of(&node, "t");
    let (found, lost) = loop {
        match named.answer(1, Ask::Subscribe(durable(0))) {
            Body::Subscribed(subscribed) => {
                assert!(subscribed.resumed);
                break read_until(&mut named, BATCHES * BATCH);
            }
            // The session that is gone may still hold it.
            Body::Error(error) if error.retryable => std::thread::sleep(Duration::from_millis(10)),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((found.as_slice(), lost), (&everything[5..], vec![]));
    // One that wants the newest.
    let (found, lost) = read_until(&mut dropping, 3);
    assert_eq!((found, lost), (vec![1, 2, 3], vec![]));
    dropping.send(0, more());
    let (found, lost) = read_until(&mut dropping, BATCHES * BATCH);
    let [range] = lost.as_slice() else {
        panic!("{lost:?}");
    };
    assert_eq!((range.first, range.last), (4, BATCHES * BATCH - 500));
    assert_eq!(range.reason, "dropped: the reader was too far behind");
    assert_eq!(
        found,
        (range.last + 1..=BATCHES * BATCH).collect::<Vec<_>>()
    );
    // One that wants to be told.
    loop {
        match next_frame(&mut ending.0) {
            Body::Deliver(_) => {}
            Body::Error(error) => {
                assert_eq!(
                    (error.code.as_str(), error.subscription),
                    ("SLOW_CONSUMER", 1)
                );
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    let refused = ending.answer(
        3,
        Ask::Subscribe(Subscribe {
            consumer: "c2".into(),
            ..on_lag(subscribe::OnLag::DropOldest)
        }),
    );
    assert!(matches!(refused, Body::Error(error) if error.field == "on_lag"));
}

fn more() -> Ask {
    Ask::Credit(Credit {
        subscription: 1,
        records: 1 << 40,
        bytes: 1 << 40,
    })
}

/// How a client in a storm fared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Served,
    Told,
}

/// Connects as a client does that wants to come back; keeps the connection if it is served.
async fn come(edge: SocketAddr, request: Arc<Vec<u8>>) -> (Fate, tokio::net::TcpStream) {
    let mut stream = tokio::net::TcpStream::connect(edge)
        .await
        .expect("a connection");
    stream.write_all(&request).await.expect("sent");
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read_buf(&mut head).await.expect("an answer");
        assert!(
            read > 0,
            "closed after {:?}",
            String::from_utf8_lossy(&head)
        );
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let fate = match head.split(' ').nth(1) {
        Some("101") => Fate::Served,
        Some("429" | "503") => {
            assert!(head.contains("\r\nretry-after: "), "{head}");
            Fate::Told
        }
        _ => panic!("{head}"),
    };
    (fate, stream)
}

async fn storm(
    edge: SocketAddr,
    request: &Arc<Vec<u8>>,
    clients: usize,
) -> Vec<(Fate, tokio::net::TcpStream)> {
    let mut coming = tokio::task::JoinSet::new();
    for _ in 0..clients {
        coming.spawn(come(edge, Arc::clone(request)));
    }
    coming.join_all().await
}

// EDGE-22, REL-09
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_who_reconnect_at_once_are_served_or_told_and_those_connected_go_on() {
    let clients = asked_for("ARQONBUS_STORM", 500);
    let node = Node::dev();
    let request = Arc::new(Request::upgrade().bearer(&node.dev_token()).bytes());
    let mut connected = Session::of(&node, "other");
    let over = Arc::new(AtomicBool::new(false));
    let slowest_ms = Arc::new(AtomicU64::new(0));
    let beside = std::thread::spawn({
        let (over, slowest_ms) = (Arc::clone(&over), Arc::clone(&slowest_ms));
        move || {
            let mut done = 0_u64;
            while !over.load(Ordering::Relaxed) || done < 10 {
                let began = Instant::now();
                let answer = connected.answer(1, produce(&[envelope("a", 100)]));
                assert!(matches!(answer, Body::Produced(_)), "{answer:?}");
                let took = u64::try_from(began.elapsed().as_millis()).expect("short");
                slowest_ms.fetch_max(took, Ordering::Relaxed);
                done += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            done
        }
    });
    let held = storm(node.edge, &request, clients).await;
    let before = rss_kib(&node);
    drop(held);
    let since = Instant::now();
    let back = storm(node.edge, &request, clients).await;
    let took = since.elapsed();
    over.store(true, Ordering::Relaxed);
    let produced = beside.join().expect("those connected go on");
    let served = back
        .iter()
        .filter(|(fate, _)| *fate == Fate::Served)
        .count();
    let slowest = slowest_ms.load(Ordering::Relaxed);
    let grown = rss_kib(&node).saturating_sub(before);
    tell(&format!(
        "{clients} reconnect at once: {served} served, {} told, in {took:?}; beside them {produced} appends, the slowest {slowest} ms; {grown} KiB more",
        clients - served
    ));
    assert!(served > 0);
    assert!(slowest < 10_000, "{slowest} ms");
    assert_eq!(metric(&node, "arqon_edge_panics_total"), 0);
}
