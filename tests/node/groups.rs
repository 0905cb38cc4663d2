//! Work that is shared: groups of competing consumers, their dead letters, and the administration of
//! consumers, counted under kills and reconnects.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arqonbus::client::{
    Client, ConnectOptions, Delivery, Ledger, Outgoing, ProduceOptions, Reconnect, Start,
    SubscribeOptions, Subscription,
};
use arqonbus::proto::ErrorCode;
use arqonbus::proto::v1::client_frame::Body as Ask;
use arqonbus::proto::v1::server_frame::Body as Answer;
use arqonbus::proto::v1::{self, GroupOptions};
use serde_json::{Value, json};

use crate::support::{Node, PATIENCE};
use crate::wire::Wire;

/// Long enough for whatever does not happen.
const SOON: Duration = Duration::from_millis(300);

async fn connect(node: &Node) -> Client {
    let options = ConnectOptions::new(node.url(), node.dev_token());
    Client::connect(options).await.expect("a connection")
}

/// One that outlives its node.
async fn patient(edge: SocketAddr, token: &str) -> Client {
    let mut options = ConnectOptions::new(format!("ws://{edge}/v1/ws"), token);
    options.reconnect = Reconnect::Within(PATIENCE);
    Client::connect(options).await.expect("a connection")
}

async fn produce(client: &Client, topic: &str, keys: &[&str]) {
    let mut batch = client.batch();
    for key in keys {
        batch.push(&Outgoing {
            topic,
            key,
            data: b"{}",
            ..Outgoing::default()
        });
    }
    let stored = client.produce(&batch, &ProduceOptions::default()).await;
    stored.expect("stored");
}

fn quick() -> GroupOptions {
    GroupOptions {
        ack_deadline_ms: 300,
        max_deliveries: 3,
        backoff_min_ms: 10,
        backoff_max_ms: 20,
        in_flight_max: 0,
    }
}

async fn join(client: &Client, filter: &str, options: GroupOptions) -> Subscription {
    let options = SubscribeOptions {
        group_options: options,
        ..SubscribeOptions::group(filter, "workers")
    };
    client.subscribe(options).await.expect("a member")
}

async fn next(subscription: &mut Subscription) -> Delivery {
    let delivery = tokio::time::timeout(PATIENCE, subscription.next()).await;
    delivery
        .expect("in time")
        .expect("a delivery")
        .expect("more")
}

async fn nothing(subscription: &mut Subscription) {
    let delivery = tokio::time::timeout(SOON, subscription.next()).await;
    assert!(delivery.is_err(), "{delivery:?}");
}

fn leased(delivery: &Delivery) -> Vec<(u64, u32)> {
    let leased = delivery.deliveries.iter();
    leased.map(|one| (one.sequence, one.attempt)).collect()
}

fn code<T: std::fmt::Debug>(result: Result<T, arqonbus::client::Error>) -> Option<ErrorCode> {
    result.expect_err("refused").code()
}

async fn command(client: &Client, name: &str, arguments: Value) -> Value {
    let arguments = arguments.as_object().cloned().unwrap_or_default();
    let arguments = arguments
        .into_iter()
        .map(|(name, value)| (name, v1::Value::from(value)));
    let arguments: Vec<(String, v1::Value)> = arguments.collect();
    let arguments = arguments
        .iter()
        .map(|(name, value)| (name.as_str(), value.clone()));
    let result = client.command(name, arguments).await;
    result
        .unwrap_or_else(|error| panic!("{name}: {error}"))
        .to_json()
}

/// What workers have done, in the order in which they have.
#[derive(Debug, Default)]
struct Done {
    /// Every time, by sequence.
    times: BTreeMap<u64, u32>,
    /// The first time, by key.
    first: HashMap<String, Vec<u64>>,
}

impl Done {
    fn note(&mut self, sequence: u64, key: &str) {
        let times = self.times.entry(sequence).or_default();
        *times += 1;
        if *times == 1 {
            self.first.entry(key.to_owned()).or_default().push(sequence);
        }
    }

    fn assert_in_order(&self) {
        for (key, sequences) in &self.first {
            assert!(sequences.is_sorted(), "{key}: {sequences:?}");
        }
    }
}

/// Works until told to stop: does each record, then says so.
async fn work(client: Client, done: Arc<Mutex<Done>>, pause: Duration) {
    let mut member = join(&client, "tasks.>", quick()).await;
    loop {
        let delivery = match member.next().await {
            Ok(Some(delivery)) => delivery,
            Ok(None) | Err(_) => return,
        };
        for (record, lease) in delivery.views().zip(&delivery.deliveries) {
            let record = record.expect("a record");
            assert_eq!(record.sequence, lease.sequence);
            tokio::time::sleep(pause).await;
            let key = record.envelope.key.to_owned();
            done.lock().expect("no panic").note(record.sequence, &key);
            // Lost with a connection, or too late: somebody does it once more.
            let _outcome = member.done_confirmed(lease).await;
        }
    }
}

async fn until(done: &Mutex<Done>, count: usize) {
    let started = tokio::time::Instant::now();
    while done.lock().expect("no panic").times.len() < count {
        let so_far = done.lock().expect("no panic").times.len();
        assert!(started.elapsed() < PATIENCE * 2, "{so_far} of {count}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

// BRK-04: members share the records; each goes to one of them, and those of a key in their order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_share_the_records() {
    let node = Node::dev();
    let client = connect(&node).await;
    let done = Arc::new(Mutex::new(Done::default()));
    let names: Vec<String> = (0..7).map(|key| format!("k{key}")).collect();
    let keys: Vec<&str> = (0..300).map(|number| names[number % 7].as_str()).collect();
    produce(&client, "tasks.a", &keys).await;
    produce(&client, "other", &["k0"]).await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        let worker = work(
            connect(&node).await,
            Arc::clone(&done),
            Duration::from_micros(200),
        );
        workers.push(tokio::spawn(worker));
    }
    until(&done, 300).await;
    let shown = command(&client, "group.show", json!({"group": "workers"})).await;
    assert_eq!(
        shown["members"].as_array().map(Vec::len),
        Some(3),
        "{shown}"
    );
    for worker in workers {
        worker.abort();
    }
    let done = done.lock().expect("no panic");
    assert!(done.times.values().all(|times| *times == 1), "{done:?}");
    done.assert_in_order();
}

// BRK-04, BRK-05: the node is killed twice under three workers. Every task is done, in the order of
// its key; what is done twice was in somebody's hands, or not yet confirmed, when the node died.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_loses_no_task() {
    const TASKS: usize = 600;
    const WORKERS: usize = 3;
    const KILLS: usize = 2;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let mut node = Node::dev_on(&data);
    let (edge, token) = (node.edge, node.dev_token());
    let names: Vec<String> = (0..20).map(|key| format!("k{key}")).collect();
    let keys: Vec<&str> = (0..TASKS).map(|task| names[task % 20].as_str()).collect();
    produce(&connect(&node).await, "tasks.a", &keys).await;
    let done = Arc::new(Mutex::new(Done::default()));
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        let client = patient(edge, &token).await;
        let worker = work(client, Arc::clone(&done), Duration::from_millis(1));
        workers.push(tokio::spawn(worker));
    }
    for kill in 1..=KILLS {
        until(&done, TASKS * kill / (KILLS + 1)).await;
        node.signal("KILL");
        drop(node.ended());
        node = Node::dev_at(&data, edge);
    }
    until(&done, TASKS).await;
    let client = connect(&node).await;
    settled(&client, TASKS as u64 + 1).await;
    for worker in workers {
        worker.abort();
    }
    let done = done.lock().expect("no panic");
    let twice: u32 = done.times.values().map(|times| times - 1).sum();
    let window = 16;
    assert!(
        twice as usize <= KILLS * WORKERS * window,
        "{twice} done twice"
    );
    done.assert_in_order();
    assert_eq!(letters(&node), Vec::<Value>::new());
}

/// Waits until everything below `floor` is done.
async fn settled(client: &Client, floor: u64) {
    let started = tokio::time::Instant::now();
    loop {
        let shown = command(client, "group.show", json!({"group": "workers"})).await;
        if shown["floor"].as_u64() >= Some(floor) && shown["open"] == 0 {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{shown}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn letters(node: &Node) -> Vec<Value> {
    let listed = node.ok(&["dlq", "list", "workers", "--output", "json"]);
    let line = |line: &str| serde_json::from_str(line).expect("one object");
    listed.lines().map(line).collect()
}

/// A worker over a raw socket, and what it was given: it ends without a word when it is dropped.
fn raw_worker(node: &Node, records: usize) -> (Wire, Vec<(u64, u32)>) {
    let mut wire = Wire::with(node, &node.dev_token());
    let subscribe = v1::Subscribe {
        subscription: 1,
        filter: "tasks.>".into(),
        group: "workers".into(),
        start: Some(v1::subscribe::Start::Earliest(true)),
        group_options: Some(GroupOptions {
            ack_deadline_ms: 60_000,
            ..quick()
        }),
        ..v1::Subscribe::default()
    };
    let joined = wire.ask(Ask::Subscribe(subscribe)).expect("a frame");
    assert!(
        matches!(joined.body, Some(Answer::Subscribed(_))),
        "{joined:?}"
    );
    let mut had = Vec::new();
    while had.len() < records {
        match wire.next().expect("a frame").body {
            Some(Answer::Deliver(deliver)) => {
                had.extend(
                    deliver
                        .deliveries
                        .iter()
                        .map(|one| (one.sequence, one.attempt)),
                );
            }
            other => panic!("a Deliver, not {other:?}"),
        }
    }
    (wire, had)
}

// BRK-04: what a worker had that is gone is another's at once, long before its deadline; what
// another has is not a stranger's to answer for.
#[tokio::test]
async fn a_lost_worker_is_replaced() {
    let node = Node::dev();
    let (one, two) = (connect(&node).await, connect(&node).await);
    produce(&one, "tasks.a", &["a", "a", "b"]).await;
    let (wire, had) = raw_worker(&node, 2);
    assert_eq!(had, [(1, 1), (3, 1)]);
    let mut second = join(&two, "tasks.>", GroupOptions::default()).await;
    nothing(&mut second).await;
    drop(wire);
    let mut again = next(&mut second).await;
    while again.deliveries.len() < 2 {
        again.deliveries.extend(next(&mut second).await.deliveries);
    }
    assert_eq!(leased(&again), [(1, 2), (3, 2)]);

    let third = join(&one, "tasks.>", GroupOptions::default()).await;
    let stranger = third.done_confirmed(&again.deliveries[0]).await;
    assert_eq!(code(stranger), Some(ErrorCode::Stale));
    let stranger = third.extend(&again.deliveries[0], Duration::ZERO).await;
    assert_eq!(code(stranger), Some(ErrorCode::Stale));
    drop(third);
    second
        .done_confirmed(&again.deliveries[0])
        .await
        .expect("done");
    assert_eq!(leased(&next(&mut second).await), [(2, 1)]);
}

// BRK-04: a deadline that passes, one that is extended, a delay, and a late answer.
#[tokio::test]
async fn deadlines_hold() {
    let node = Node::dev();
    let (one, two) = (connect(&node).await, connect(&node).await);
    produce(&one, "tasks.a", &[""]).await;
    let mut first = join(&one, "tasks.>", quick()).await;
    let had = next(&mut first).await;
    let lease = had.deliveries[0];
    let longer = first
        .extend(&lease, Duration::from_secs(2))
        .await
        .expect("longer");
    assert!(longer > lease.deadline_ms + 1_000, "{longer} {lease:?}");
    let mut second = join(&two, "tasks.>", GroupOptions::default()).await;
    // Longer than the group's own deadline.
    tokio::time::sleep(Duration::from_millis(200)).await;
    nothing(&mut second).await;
    first
        .extend(&lease, Duration::from_millis(1))
        .await
        .expect("shorter");
    // Either of the two may get it.
    let again = tokio::select! {
        again = next(&mut second) => again,
        again = next(&mut first) => {
            std::mem::swap(&mut first, &mut second);
            again
        }
    };
    assert_eq!(leased(&again), [(1, 2)]);
    drop(first);
    second
        .failed(&again.deliveries[0], "busy", Duration::from_millis(500))
        .await
        .expect("noted");
    let late = second.done_confirmed(&again.deliveries[0]).await;
    assert_eq!(code(late), Some(ErrorCode::Stale));
    nothing(&mut second).await;
    let last = next(&mut second).await;
    assert_eq!(leased(&last), [(1, 3)]);
    second
        .done_confirmed(&last.deliveries[0])
        .await
        .expect("done");
    settled(&one, 2).await;
}

// BRK-06: what fails too often, or is rejected, becomes a letter; it is listed, shown, replayed
// once, and discarded, and a restart writes no second one.
#[tokio::test]
async fn dead_letters_are_dealt_with() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let node = Node::dev_on(&data);
    let client = connect(&node).await;
    produce(&client, "tasks.a", &["a", "a", "b"]).await;
    let mut member = join(&client, "tasks.>", quick()).await;
    let mut tries = Vec::new();
    while tries.len() < 4 {
        for lease in next(&mut member).await.deliveries {
            tries.push((lease.sequence, lease.attempt));
            if lease.sequence == 3 {
                member
                    .rejected(&lease, "no such thing")
                    .await
                    .expect("noted");
            } else {
                let delay = Duration::from_millis(1);
                member.failed(&lease, "boom", delay).await.expect("noted");
            }
        }
    }
    tries.sort_unstable();
    assert_eq!(tries, [(1, 1), (1, 2), (1, 3), (3, 1)]);
    // Behind the dead one of its key.
    let second = next(&mut member).await;
    assert_eq!(leased(&second), [(2, 1)]);
    member
        .done_confirmed(&second.deliveries[0])
        .await
        .expect("done");
    settled(&client, 4).await;
    node.signal("KILL");
    drop(node.ended());

    let node = Node::dev_on(&data);
    let client = connect(&node).await;
    let mut member = join(&client, "tasks.>", GroupOptions::default()).await;
    nothing(&mut member).await;
    let mut found = letters(&node);
    found.sort_by_key(|letter| letter["sequence"].as_u64());
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0]["reason"], "max_deliveries");
    assert_eq!(
        (&found[0]["error"], &found[0]["attempts"]),
        (&json!("boom"), &json!(3))
    );
    assert_eq!(found[1]["reason"], "rejected");
    assert_eq!(
        (&found[1]["topic"], &found[1]["sequence"]),
        (&json!("tasks.a"), &json!(3))
    );
    let id = found[0]["id"].as_str().expect("an id").to_owned();

    let dry = node.ok(&["dlq", "replay", "workers", "--all", "--dry-run"]);
    assert!(dry.contains("would be replayed"), "{dry}");
    nothing(&mut member).await;
    let replayed = node.ok(&["dlq", "replay", "workers", &id]);
    assert!(replayed.contains("replayed"), "{replayed}");
    let again = next(&mut member).await;
    let record = again.views().next().expect("one").expect("a record");
    assert_eq!((record.topic, record.envelope.key), ("tasks.a", "a"));
    assert_eq!(
        record.envelope.headers.get("arqon-original"),
        Some("main/1")
    );
    let link = record
        .envelope
        .headers
        .get("arqon-replay-of")
        .expect("a link");
    assert!(link.starts_with(&id), "{link}");
    let replayed_as = record.sequence;
    member
        .done_confirmed(&again.deliveries[0])
        .await
        .expect("done");

    let twice = node.run(&["dlq", "replay", "workers", &id]);
    assert_eq!(twice.code, 1, "{}", twice.stdout);
    assert!(
        twice.stdout.contains("already replayed"),
        "{}",
        twice.stdout
    );
    nothing(&mut member).await;
    let shown = node.ok(&["dlq", "show", "workers", &id, "--output", "json"]);
    let shown: Value = serde_json::from_str(&shown).expect("one object");
    assert_eq!(
        (&shown["state"], &shown["replayed_as"]),
        (&json!("replayed"), &json!(replayed_as))
    );
    node.ok(&[
        "dlq", "discard", "workers", "--topic", "tasks.a", "--reason", "a test",
    ]);
    assert_eq!(letters(&node), Vec::<Value>::new());
    let unknown = node.run(&["dlq", "show", "workers", "nope"]);
    assert!(unknown.stderr.contains("NOT_FOUND"), "{}", unknown.stderr);
    let nobody = node.run(&["dlq", "replay", "workers"]);
    assert_eq!(nobody.code, 2, "{}", nobody.stderr);
}

// BRK-04, BRK-15: a group is paused, configured, set back and deleted; members that disagree are
// refused.
#[tokio::test]
async fn groups_are_administered() {
    let node = Node::dev();
    let client = connect(&node).await;
    produce(&client, "tasks.a", &["", ""]).await;
    let slow = GroupOptions {
        ack_deadline_ms: 60_000,
        ..quick()
    };
    let mut member = join(&client, "tasks.>", slow).await;
    let had = next(&mut member).await;
    for lease in &had.deliveries {
        member.done_confirmed(lease).await.expect("done");
    }
    settled(&client, 3).await;

    let other = SubscribeOptions::group("tasks.*", "workers");
    assert_eq!(
        code(client.subscribe(other).await),
        Some(ErrorCode::ValidationError)
    );
    let other = SubscribeOptions {
        group_options: quick(),
        ..SubscribeOptions::group("tasks.>", "workers")
    };
    assert_eq!(
        code(client.subscribe(other).await),
        Some(ErrorCode::ValidationError)
    );
    let never = SubscribeOptions {
        group_options: GroupOptions {
            max_deliveries: 1_000_000,
            ..GroupOptions::default()
        },
        ..SubscribeOptions::group("tasks.>", "others")
    };
    assert_eq!(
        code(client.subscribe(never).await),
        Some(ErrorCode::ValidationError)
    );

    node.ok(&["groups", "pause", "workers"]);
    produce(&client, "tasks.a", &[""]).await;
    nothing(&mut member).await;
    node.ok(&["groups", "resume", "workers"]);
    let third = next(&mut member).await;
    assert_eq!(leased(&third), [(3, 1)]);

    let dry = node.ok(&[
        "groups",
        "reset",
        "workers",
        "--to",
        "2",
        "--dry-run",
        "--output",
        "json",
    ]);
    let dry: Value = serde_json::from_str(&dry).expect("one object");
    assert_eq!(
        dry,
        json!({"from": 3, "to": 2, "records": 1, "again": true, "left": 2, "dry_run": true})
    );
    nothing(&mut member).await;
    node.ok(&["groups", "reset", "workers", "--to", "2"]);
    let again = next(&mut member).await;
    assert_eq!(again.deliveries[0].sequence, 2);

    let configured = node.ok(&[
        "groups",
        "configure",
        "workers",
        "--max-deliveries",
        "9",
        "--output",
        "json",
    ]);
    let configured: Value = serde_json::from_str(&configured).expect("one object");
    assert_eq!(configured["max_deliveries"], 9, "{configured}");
    assert_eq!(configured["ack_deadline_ms"], 60_000, "{configured}");
    let used = node.run(&["groups", "delete", "workers"]);
    assert!(used.stderr.contains("has members"), "{}", used.stderr);
    drop(member);
    let started = std::time::Instant::now();
    while node.run(&["groups", "delete", "workers"]).code != 0 {
        assert!(started.elapsed() < PATIENCE, "still in use");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(node.ok(&["groups", "list"]).trim(), "none");
    let mut anew = join(&client, "tasks.>", GroupOptions::default()).await;
    assert_eq!(next(&mut anew).await.deliveries[0].sequence, 1);
}

/// Reads with a named consumer what there is now, and says that it is done.
async fn read_named(node: &Node) -> Vec<u64> {
    let client = connect(node).await;
    let started = tokio::time::Instant::now();
    let mut subscription = loop {
        let options = SubscribeOptions {
            consumer: "billing".to_owned(),
            start: Start::Earliest,
            stop_at_end: true,
            ..SubscribeOptions::new("a.>")
        };
        match client.subscribe(options).await {
            Ok(subscription) => break subscription,
            // The session before has it until the node has seen its end.
            Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let mut sequences = Vec::new();
    while let Some(delivery) = subscription.next().await.expect("a delivery") {
        let read = delivery
            .views()
            .map(|record| record.expect("a record").sequence);
        sequences.extend(read);
    }
    if let Some(last) = sequences.last() {
        subscription.ack_confirmed(*last).await.expect("on disk");
    }
    drop(subscription);
    client.close().await;
    sequences
}

// BRK-03, BRK-15: a named consumer is set back and forth, paused and deleted, also over a restart.
#[tokio::test]
async fn consumers_are_administered() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let node = Node::dev_on(&data);
    let client = connect(&node).await;
    produce(&client, "a.b", &["", "", ""]).await;
    produce(&client, "z", &["", ""]).await;
    produce(&client, "a.b", &[""]).await;
    assert_eq!(read_named(&node).await, [1, 2, 3, 6]);
    assert_eq!(read_named(&node).await, [0; 0]);
    let reset = |to: &str, dry: bool| {
        let mut arguments = vec![
            "consumers",
            "reset",
            "billing",
            "--to",
            to,
            "--output",
            "json",
        ];
        arguments.extend(dry.then_some("--dry-run"));
        let told = node.ok(&arguments);
        serde_json::from_str::<Value>(&told).expect("one object")
    };
    let told = reset("3", true);
    assert_eq!(
        told,
        json!({"from": 7, "to": 3, "records": 2, "again": true, "left": 2, "dry_run": true})
    );
    assert_eq!(read_named(&node).await, [0; 0], "nothing was done");
    assert_eq!(reset("earliest", false)["records"], 4);
    assert_eq!(read_named(&node).await, [1, 2, 3, 6]);
    assert_eq!(reset("2000-01-01T00:00:00Z", false)["to"], 1);
    assert_eq!(reset("latest", false)["again"], false);
    assert_eq!(read_named(&node).await, [0; 0]);
    let beyond = node.run(&["consumers", "reset", "billing", "--to", "99"]);
    assert!(
        beyond.stderr.contains("not on disk yet"),
        "{}",
        beyond.stderr
    );
    let nonsense = node.run(&["consumers", "reset", "billing", "--to", "soon"]);
    assert!(
        nonsense.stderr.contains("earliest, latest"),
        "{}",
        nonsense.stderr
    );

    let options = SubscribeOptions {
        consumer: "billing".to_owned(),
        ..SubscribeOptions::new("a.>")
    };
    let mut following = client.subscribe(options).await.expect("a subscription");
    let used = node.run(&["consumers", "reset", "billing", "--to", "1"]);
    assert!(used.stderr.contains("in use"), "{}", used.stderr);
    node.ok(&["consumers", "pause", "billing"]);
    produce(&client, "a.b", &[""]).await;
    while let Ok(delivery) = tokio::time::timeout(SOON, following.next()).await {
        let delivery = delivery.expect("a delivery").expect("more");
        assert!(delivery.records.is_empty(), "paused");
    }
    node.ok(&["consumers", "resume", "billing"]);
    while next(&mut following).await.records.is_empty() {}
    drop(following);
    client.close().await;
    let started = std::time::Instant::now();
    while node
        .run(&["consumers", "reset", "billing", "--to", "1"])
        .code
        != 0
    {
        assert!(started.elapsed() < PATIENCE, "still in use");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    node.ok(&["consumers", "pause", "billing"]);
    node.signal("KILL");
    drop(node.ended());

    let node = Node::dev_on(&data);
    let listed = node.ok(&["consumers", "list", "--output", "json"]);
    let listed: Value = serde_json::from_str(&listed).expect("one object");
    assert_eq!(
        (&listed["paused"], &listed["sequence"]),
        (&json!(true), &json!(0))
    );
    node.ok(&["consumers", "resume", "billing"]);
    assert_eq!(read_named(&node).await, [1, 2, 3, 6, 7]);
    node.ok(&["consumers", "delete", "billing"]);
    assert_eq!(node.ok(&["consumers", "list"]).trim(), "none");
    let gone = node.run(&["consumers", "delete", "billing"]);
    assert!(gone.stderr.contains("NOT_FOUND"), "{}", gone.stderr);
}

// BRK-06: a named consumer gives up on a record, which becomes its letter, and goes on behind it.
#[tokio::test]
async fn a_consumer_gives_up_on_a_record() {
    let node = Node::dev();
    let client = connect(&node).await;
    produce(&client, "a.b", &["", ""]).await;
    let options = SubscribeOptions {
        consumer: "billing".to_owned(),
        start: Start::Earliest,
        ..SubscribeOptions::new("a.>")
    };
    let mut subscription = client.subscribe(options).await.expect("a subscription");
    next(&mut subscription).await;
    for _ in 0..2 {
        subscription
            .give_up(1, "not a bill")
            .await
            .expect("a letter");
    }
    assert_eq!(
        code(subscription.give_up(9, "").await),
        Some(ErrorCode::ValidationError)
    );
    drop(subscription);
    let listed = node.ok(&["dlq", "list", "billing", "--output", "json"]);
    let letter: Value = serde_json::from_str(&listed).expect("one letter");
    assert_eq!(
        (&letter["sequence"], &letter["error"]),
        (&json!(1), &json!("not a bill"))
    );
    let owners = node.ok(&["dlq", "list", "--output", "json"]);
    assert!(owners.contains("billing"), "{owners}");
    assert_eq!(read_named(&node).await, [2]);
}

/// What a consumer keeps: a sum and where it is, together, unless something fails in between.
#[derive(Debug, Default)]
struct Sums {
    seen: BTreeSet<u64>,
    count: u64,
    next: Option<u64>,
    kept: u32,
}

impl Ledger for Sums {
    type Error = &'static str;

    async fn next(&mut self) -> Result<Option<u64>, Self::Error> {
        Ok(self.next)
    }

    async fn keep(&mut self, delivery: &Delivery) -> Result<(), Self::Error> {
        self.kept += 1;
        if self.kept.is_multiple_of(3) {
            return Err("the database is gone");
        }
        for record in delivery.views() {
            let sequence = record.map_err(|_unreadable| "unreadable")?.sequence;
            assert!(self.seen.insert(sequence), "{sequence} counted twice");
            self.count += 1;
        }
        self.next = Some(delivery.next);
        Ok(())
    }
}

// BRK-05: a consumer that keeps its position with its result counts each record once, however often
// it, or the node, begins again.
#[tokio::test]
async fn results_are_effectively_once() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let mut sums = Sums::default();
    let mut stops = 0;
    for round in 0..3 {
        let node = Node::dev_on(&data);
        let client = connect(&node).await;
        for _ in 0..20 {
            produce(&client, "a", &["", "", "", "", ""]).await;
        }
        loop {
            let options = SubscribeOptions {
                start: Start::Earliest,
                stop_at_end: true,
                window_records: 7,
                ..SubscribeOptions::new("a")
            };
            match client.effectively_once(options, &mut sums).await {
                Ok(()) => break,
                Err(_) => stops += 1,
            }
        }
        assert_eq!(sums.count, 100 * (round + 1));
        node.signal("KILL");
        drop(node.ended());
    }
    assert!(stops > 3, "{stops}");
    assert!(Path::new(&data).is_dir());
}
