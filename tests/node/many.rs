//! One node, many realities: what they cost while nobody uses them.
//!
//! Some in the test run; `ARQONBUS_MANY_REALITIES=1000 cargo test --test node many` for the long
//! form. What was found is printed; descriptors and memory are read from `/proc`.

use std::path::Path;
use std::time::{Duration, Instant};

use arqonbus::client::{
    Client, ConnectOptions, FetchOptions, Outgoing, ProduceOptions, SubscribeOptions,
};
use arqonbus::proto::v1::Value;

use crate::raw::Request;
use crate::support::Node;

const PATIENCE: Duration = Duration::from_secs(120);

fn realities() -> u64 {
    let set = std::env::var("ARQONBUS_MANY_REALITIES").ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(200)
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Holds {
    descriptors: usize,
    memory_kib: u64,
}

impl Holds {
    fn of(node: &Node) -> Self {
        let proc = Path::new("/proc").join(node.pid().to_string());
        let status = std::fs::read_to_string(proc.join("status")).expect("it runs");
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let memory = memory.and_then(|text| text.split_whitespace().next());
        Self {
            descriptors: std::fs::read_dir(proc.join("fd")).expect("it runs").count(),
            memory_kib: memory.and_then(|kib| kib.parse().ok()).expect("a number"),
        }
    }
}

fn gauge(node: &Node, name: &str) -> u64 {
    let metrics = Request::get("/metrics").send(node.ops);
    let text = metrics.text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// Waits until no log is open, no connection, and not more than so many descriptors.
async fn at_rest(node: &Node, descriptors: usize) -> Holds {
    let started = Instant::now();
    while gauge(node, "arqon_broker_realities") > 0
        || gauge(node, "arqon_edge_sessions") > 0
        || Holds::of(node).descriptors > descriptors
    {
        assert!(
            started.elapsed() < PATIENCE,
            "logs stay open: {:?}",
            Holds::of(node)
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(gauge(node, "arqon_log_file_handles"), 0);
    assert_eq!(gauge(node, "arqon_log_tail_bytes"), 0);
    Holds::of(node)
}

async fn connect(node: &Node) -> Client {
    let url = format!("ws://{}/v1/ws", node.edge);
    let options = ConnectOptions::new(&url, node.dev_token());
    Client::connect(options).await.expect("a connection")
}

async fn append(client: &Client, reality: &str) -> u64 {
    let mut batch = client.batch();
    batch.push(&Outgoing {
        topic: "many",
        data: b"1",
        ..Outgoing::default()
    });
    let options = ProduceOptions {
        reality: reality.to_owned(),
        ..ProduceOptions::default()
    };
    let produced = client.produce(&batch, &options).await;
    produced.expect("stored").first
}

fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("a directory");
    let sizes = entries.map(|entry| {
        let entry = entry.expect("an entry");
        let about = entry.metadata().expect("about it");
        if about.is_dir() {
            bytes_below(&entry.path())
        } else {
            about.len()
        }
    });
    sizes.sum()
}

// LOG-18, LOG-19, REL-08: descriptors and memory are spent on realities in use, not on those there
// are; each comes back when it is used, with what it had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn realities_cost_handles_and_memory_only_while_in_use() {
    let count = realities();
    let node = Node::dev_with(&[
        ("ARQONBUS_LOG_IDLE_CLOSE_MS", "400"),
        ("ARQONBUS_LIMITS_REALITIES_MAX", "10000"),
    ]);
    let client = connect(&node).await;
    append(&client, "main").await;
    client.close().await;
    let before = at_rest(&node, usize::MAX).await;
    // A few of the runtime's and the listeners' own may come.
    let few = before.descriptors + 4;

    let names: Vec<String> = (0..count).map(|number| format!("r{number:05}")).collect();
    let client = connect(&node).await;
    let started = Instant::now();
    for name in &names {
        let arguments = [("name", Value::from(name.as_str()))];
        let created = client.command("reality.create", arguments).await;
        created.expect("created");
    }
    let created_in = started.elapsed();
    let disk_bytes = bytes_below(&node.data);
    for name in &names {
        assert_eq!(append(&client, name).await, 1, "{name}");
    }
    // All in use for a moment, so that there is something to give back.
    let mut subscriptions = Vec::new();
    for name in names.iter().take(200) {
        let options = SubscribeOptions {
            reality: name.clone(),
            ..SubscribeOptions::new(">")
        };
        subscriptions.push(client.subscribe(options).await.expect("subscribed"));
    }
    let busy = Holds::of(&node);
    assert!(busy.descriptors >= before.descriptors + subscriptions.len());
    // Those in use stay open for as long as that takes, and hear of what comes.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert!(gauge(&node, "arqon_broker_realities") >= subscriptions.len() as u64);
    drop(subscriptions);
    client.close().await;
    let after = at_rest(&node, few).await;

    let client = connect(&node).await;
    for name in names.iter().step_by(7) {
        assert_eq!(append(&client, name).await, 2, "{name}");
        let fetched = client
            .fetch(FetchOptions {
                reality: name.clone(),
                filter: ">".to_owned(),
                from: 1,
                records: 0,
                bytes: 0,
            })
            .await;
        assert_eq!(fetched.expect("readable").records.len(), 2, "{name}");
    }
    client.close().await;
    let again = at_rest(&node, few).await;
    #[expect(clippy::print_stderr, reason = "figures that no assertion can hold")]
    {
        eprintln!(
            "{count} realities created in {created_in:?}, {} KiB each; before {before:?}, \
             200 in use {busy:?}, at rest {after:?}, used again {again:?}",
            disk_bytes / 1024 / count
        );
    }
    for idle in [after, again] {
        // The allocator keeps some of what it was given back.
        assert!(
            idle.memory_kib <= before.memory_kib + 48 * 1024,
            "{idle:?} after {before:?}"
        );
    }
    assert!(
        node.data.join("dev").is_dir(),
        "the tenant's logs are below"
    );
    let loss = names.iter().any(|name| {
        let dir = node.data.join("dev").join(name);
        let files = std::fs::read_dir(dir).expect("its log");
        files.into_iter().any(|file| {
            let name = file.expect("an entry").file_name();
            name.to_string_lossy().contains("loss")
        })
    });
    assert!(!loss, "a log was not closed cleanly");
}
