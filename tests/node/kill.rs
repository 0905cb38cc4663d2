//! The node is killed under load, again and again, and its clients compare notes afterwards.
//!
//! A few rounds in the test run; `ARQONBUS_KILL_ROUNDS=50 cargo test --test node kill` for the long
//! form. The seed is printed; `ARQONBUS_SEED` repeats its choices.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arqonbus::client::{
    Client, ConnectOptions, Durability, Outgoing, ProduceOptions, Reconnect, Start,
    SubscribeOptions, Ticket, Visibility,
};

use crate::support::Node;

const PRODUCERS: u64 = 4;
const IN_FLIGHT: usize = 8;

/// What the clients were told, over all rounds.
#[derive(Debug, Default)]
struct Notes {
    /// Sequence that was acknowledged for a payload.
    acknowledged: BTreeMap<String, u64>,
    /// Payload that a live consumer saw at a sequence.
    seen: BTreeMap<u64, String>,
}

/// splitmix64: a few good bits from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % below
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

// LOG-05, REL-02, LOG-01, MSG-03
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_under_load_loses_nothing_that_was_acknowledged() {
    let rounds = setting("ARQONBUS_KILL_ROUNDS").unwrap_or(5);
    let seed = setting("ARQONBUS_SEED").unwrap_or_else(|| {
        std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish()
    });
    say(&format!(
        "ARQONBUS_SEED={seed} ARQONBUS_KILL_ROUNDS={rounds}"
    ));
    let mut dice = Dice(seed);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let notes = Arc::new(Mutex::new(Notes::default()));
    for round in 0..rounds {
        let node = Node::dev_on(&data);
        let url = format!("ws://{}/v1/ws", node.edge);
        let token = node.dev_token();
        let mut tasks = vec![tokio::spawn(watch(
            connect(&url, &token).await,
            Arc::clone(&notes),
        ))];
        for producer in 0..PRODUCERS {
            let client = connect(&url, &token).await;
            let dice = Dice(dice.roll(u64::MAX));
            let name = format!("{round}-{producer}");
            tasks.push(tokio::spawn(produce(
                client,
                name,
                dice,
                Arc::clone(&notes),
            )));
        }
        tokio::time::sleep(Duration::from_millis(50 + dice.roll(350))).await;
        node.signal("KILL");
        drop(node.ended());
        for task in tasks {
            task.await.expect("a client that only lost its connection");
        }
        check(&data, &notes, round).await;
    }
    let notes = notes.lock().expect("no panic");
    say(&format!(
        "{rounds} kills: {} records acknowledged, {} seen live, none lost, none moved",
        notes.acknowledged.len(),
        notes.seen.len()
    ));
    assert!(
        notes.acknowledged.len() > 100,
        "too little load to say anything: {}",
        notes.acknowledged.len()
    );
    assert!(!notes.seen.is_empty(), "the live consumer saw nothing");
}

#[expect(clippy::print_stderr, reason = "a failure must say how to repeat it")]
fn say(line: &str) {
    eprintln!("{line}");
}

async fn connect(url: &str, token: &str) -> Client {
    let mut options = ConnectOptions::new(url, token);
    options.reconnect = Reconnect::Never;
    Client::connect(options).await.expect("a connection")
}

/// Produces until the connection is lost, noting what is acknowledged.
async fn produce(client: Client, name: String, mut dice: Dice, notes: Arc<Mutex<Notes>>) {
    let mut under_way: std::collections::VecDeque<(Ticket, Vec<String>)> = Default::default();
    for number in 0_u64.. {
        let count = 1 + dice.roll(20);
        let payloads: Vec<String> = (0..count)
            .map(|index| format!("\"{name}-{number}-{index}\""))
            .collect();
        let mut batch = client.batch();
        let filler = "x".repeat(usize::try_from(dice.roll(2000)).expect("small"));
        for payload in &payloads {
            batch.push(&Outgoing {
                topic: "kill.load",
                key: &filler,
                data: payload.as_bytes(),
                ..Outgoing::default()
            });
        }
        let durability = if dice.roll(2) == 0 {
            Durability::Written
        } else {
            Durability::Synced
        };
        let options = ProduceOptions {
            durability,
            ..ProduceOptions::default()
        };
        match client.send(&batch, &options).await {
            Ok(ticket) => under_way.push_back((ticket, payloads)),
            Err(_) => break,
        }
        if under_way.len() >= IN_FLIGHT
            && let Some((ticket, payloads)) = under_way.pop_front()
            && !note(ticket, payloads, &notes).await
        {
            break;
        }
    }
    for (ticket, payloads) in under_way {
        note(ticket, payloads, &notes).await;
    }
}

async fn note(ticket: Ticket, payloads: Vec<String>, notes: &Mutex<Notes>) -> bool {
    let Ok(produced) = ticket.produced().await else {
        return false;
    };
    let mut notes = notes.lock().expect("no panic");
    for (sequence, payload) in (produced.first..=produced.last).zip(payloads) {
        assert_eq!(
            notes.acknowledged.insert(payload, sequence),
            None,
            "acknowledged twice"
        );
    }
    true
}

/// Consumes everything as early as it can be had, noting what is seen.
async fn watch(client: Client, notes: Arc<Mutex<Notes>>) {
    let mut options = SubscribeOptions::new("kill.>");
    options.start = Start::Earliest;
    options.visibility = Visibility::WrittenToo;
    let Ok(mut subscription) = client.subscribe(options).await else {
        return;
    };
    while let Ok(Some(delivery)) = subscription.next().await {
        let mut notes = notes.lock().expect("no panic");
        for record in delivery.views() {
            let record = record.expect("a record");
            let payload = payload_of(&record);
            let before = notes.seen.insert(record.sequence, payload.clone());
            assert!(
                before.as_ref().is_none_or(|before| *before == payload),
                "sequence {} was {before:?} and is {payload}",
                record.sequence
            );
        }
    }
}

fn payload_of(record: &arqonbus::proto::view::RecordView<'_>) -> String {
    let envelope = record.envelope;
    let data = match envelope.payload {
        arqonbus::proto::view::Payload::Event { data, .. } => data,
        other => panic!("an event, not {other:?}"),
    };
    String::from_utf8(data.to_vec()).expect("text")
}

/// What the log holds now must contain all that was acknowledged or seen, where it was.
async fn check(data: &std::path::Path, notes: &Mutex<Notes>, round: u64) {
    let node = Node::dev_on(data);
    let client = connect(&format!("ws://{}/v1/ws", node.edge), &node.dev_token()).await;
    let mut options = SubscribeOptions::new("kill.>");
    options.start = Start::Earliest;
    options.stop_at_end = true;
    let mut subscription = client.subscribe(options).await.expect("a subscription");
    let mut stored: HashMap<String, u64> = HashMap::new();
    let mut next = 1;
    while let Some(delivery) = subscription.next().await.expect("a delivery") {
        assert_eq!(delivery.lost, None, "round {round}");
        for record in delivery.views() {
            let record = record.expect("a record");
            assert_eq!(
                record.sequence, next,
                "round {round}: a gap or a repetition"
            );
            next += 1;
            let twice = stored.insert(payload_of(&record), record.sequence);
            assert_eq!(twice, None, "round {round}: stored twice");
        }
    }
    client.close().await;
    node.signal("TERM");
    let (status, log) = node.ended();
    assert!(status.success(), "{log}");

    let notes = notes.lock().expect("no panic");
    for (payload, sequence) in &notes.acknowledged {
        let found = stored.get(payload);
        assert_eq!(
            found,
            Some(sequence),
            "round {round}: {payload} was acknowledged"
        );
    }
    for (sequence, payload) in &notes.seen {
        let found = stored.get(payload);
        assert_eq!(found, Some(sequence), "round {round}: {payload} was seen");
    }
}
