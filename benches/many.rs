//! Many realities, many topics: what they add to an append.
//!
//! Claim: 1,000 realities, and 100,000 topics, slow an append by at most 20 % (PERF-10). Written
//! down in docs/performance.md. One and many alternate in the same run, round by round; each line
//! is the median of the rounds, the spread behind it. An append that waits for its flush is made
//! one at a time, since groups of appends to different logs cannot share a flush.
//!
//! `cargo bench --bench many`; `ARQONBUS_BENCH_DIR` chooses the disk (default: the target folder),
//! `ARQONBUS_BENCH_ROUNDS` the rounds (default: 5).

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run must stop")]
#![expect(clippy::print_stdout, reason = "its results")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arqonbus::broker::accept::Batch;
use arqonbus::broker::{Broker, Identity, Options, Reality, RealityName, Role, Tenant, Topics};
use arqonbus::log::{
    AppendError, AppendSink, Appended, Committer, Durability, Environment, RealStorage,
};
use arqonbus::proto::v1::{Envelope, Event, envelope};
use arqonbus::proto::view::EnvelopeView;
use arqonbus::wall_clock::WallClock;
use bytes::Bytes;
use prost::Message as _;

const PAYLOAD_BYTES: usize = 1024;
const REALITIES: usize = 1_000;
const TOPICS: usize = 100_000;
/// Appends of a round.
const SYNCED: usize = 2_000;
const WRITTEN: usize = 50_000;
/// Batches of a round that go to many topics, and records of each.
const BATCHES: usize = 2_000;
const BATCH: usize = 100;

/// Counts what is acknowledged, and lets the producer wait for it.
#[derive(Debug, Default)]
struct Acknowledged {
    records: Mutex<u64>,
    changed: Condvar,
    failed: AtomicU64,
}

impl AppendSink for Acknowledged {
    fn appended(&self, _token: u64, outcome: Result<Appended, AppendError>) {
        match outcome {
            Ok(appended) => {
                let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
                *records += appended.last.next().since(appended.first);
                self.changed.notify_one();
            }
            Err(_) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Acknowledged {
    fn wait_for(&self, count: u64) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        while *records < count {
            records = self
                .changed
                .wait(records)
                .unwrap_or_else(PoisonError::into_inner);
        }
        assert_eq!(self.failed.load(Ordering::Relaxed), 0, "appends failed");
    }
}

/// Who appends.
struct Producer {
    identity: Identity,
    sink: Arc<Acknowledged>,
    sent: u64,
}

impl Producer {
    fn append(&mut self, reality: &Reality, envelopes: &[Bytes], durability: Durability) {
        let mut batch = Batch::new(reality, &self.identity, envelopes.len());
        for encoded in envelopes {
            let view = EnvelopeView::parse(encoded).unwrap();
            let admitted = batch.admit(encoded, &view, None).unwrap();
            batch.take(admitted, &view, encoded.clone(), &[]);
        }
        let sink = Arc::clone(&self.sink) as Arc<dyn AppendSink>;
        reality.append(batch, durability, None, sink, 0).unwrap();
        reality.start();
        self.sent += envelopes.len() as u64;
    }

    fn settle(&self) {
        self.sink.wait_for(self.sent);
    }

    /// Time of `count` appends of one envelope, to each of `realities` in turn.
    fn rotate(
        &mut self,
        realities: &[Arc<Reality>],
        count: usize,
        durability: Durability,
    ) -> Duration {
        let envelopes = [encoded("bench.topic")];
        let started = Instant::now();
        for reality in realities.iter().cycle().take(count) {
            self.append(reality, &envelopes, durability);
            if durability == Durability::Synced {
                self.settle();
            }
        }
        self.settle();
        started.elapsed()
    }

    /// Time of `BATCHES` appends to topics that come in turn.
    fn spread(&mut self, reality: &Reality, topics: &[Bytes]) -> Duration {
        let mut topics = topics.iter().cycle();
        let started = Instant::now();
        for _ in 0..BATCHES {
            let envelopes: Vec<Bytes> = topics.by_ref().take(BATCH).cloned().collect();
            self.append(reality, &envelopes, Durability::Written);
        }
        self.settle();
        started.elapsed()
    }
}

fn encoded(topic: &str) -> Bytes {
    let envelope = Envelope {
        topic: topic.to_owned(),
        payload: Some(envelope::Payload::Event(Event {
            r#type: "bench".to_owned(),
            data: vec![7; PAYLOAD_BYTES].into(),
        })),
        ..Envelope::default()
    };
    envelope.encode_to_vec().into()
}

/// Median and spread of the rounds.
struct Rounds(Vec<Duration>);

impl Rounds {
    fn show(&mut self, what: &str, count: usize) -> f64 {
        self.0.sort_unstable();
        let each = |took: Duration| took.as_secs_f64() * 1e6 / count as f64;
        let median = each(self.0[self.0.len() / 2]);
        println!(
            "{what:<44} {median:>9.2} µs each [{:.2}..{:.2}]",
            each(self.0[0]),
            each(self.0[self.0.len() - 1])
        );
        median
    }
}

/// Measures one and many in turn, and prints both and their ratio.
fn compare(
    rounds: usize,
    what: [&str; 2],
    count: usize,
    mut measure: impl FnMut(usize) -> Duration,
) {
    let mut times = [Rounds(Vec::new()), Rounds(Vec::new())];
    // Not counted: files and memory of the first use.
    measure(0);
    measure(1);
    for _ in 0..rounds {
        for (which, times) in times.iter_mut().enumerate() {
            times.0.push(measure(which));
        }
    }
    let [one, many] = [0, 1].map(|which| times[which].show(what[which], count));
    println!("{:<44} {:>9.3}\n", "many / one", many / one);
}

fn main() {
    let rounds = std::env::var("ARQONBUS_BENCH_ROUNDS").ok();
    let rounds = rounds.and_then(|text| text.parse().ok()).unwrap_or(5);
    let parent = std::env::var_os("ARQONBUS_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::tempdir_in(parent).unwrap();
    let environment = Environment {
        storage: Arc::new(RealStorage),
        clock: Arc::new(WallClock),
        committer: Committer::start(2),
    };
    environment.committer.bound_tails(256 << 20);
    let mut options = Options::new(dir.path().to_owned(), 1, "bench1".to_owned());
    options.realities_max = REALITIES + 10;
    let broker = Broker::start(environment, options).unwrap();
    let tenant = Tenant::new("bench").unwrap();
    let tenancy = broker.tenancy(&tenant).unwrap();
    let started = Instant::now();
    let many: Vec<_> = (0..REALITIES)
        .map(|number| {
            let name = RealityName::new(&format!("r{number}")).unwrap();
            tenancy.create(&name, "bench").unwrap()
        })
        .collect();
    println!(
        "{REALITIES} realities created, {:.2} ms each\n",
        started.elapsed().as_secs_f64() * 1e3 / REALITIES as f64
    );
    let one = [tenancy.reality(&RealityName::main()).unwrap()];
    let mut producer = Producer {
        identity: Identity {
            tenant,
            subject: "bench".to_owned(),
            role: Role::Admin,
            publish: Topics::All,
            subscribe: Topics::All,
            expires_at: None,
            issued_at: None,
            token_id: None,
            ends_by: None,
        },
        sink: Arc::default(),
        sent: 0,
    };
    let of = |which| if which == 0 { &one[..] } else { &many[..] };
    compare(
        rounds,
        ["synced, one reality", "synced, 1,000 realities in turn"],
        SYNCED,
        |which| producer.rotate(of(which), SYNCED, Durability::Synced),
    );
    compare(
        rounds,
        ["written, one reality", "written, 1,000 realities in turn"],
        WRITTEN,
        |which| producer.rotate(of(which), WRITTEN, Durability::Written),
    );
    drop(many);

    // As many envelopes of one topic, so that both read as much memory.
    let single: Vec<_> = (0..TOPICS).map(|_| encoded("bench.topic.00000")).collect();
    let topics: Vec<_> = (0..TOPICS)
        .map(|number| encoded(&format!("bench.topic.{number:05}")))
        .collect();
    let of_topics = |name: &str| {
        tenancy
            .create(&RealityName::new(name).unwrap(), "bench")
            .unwrap()
    };
    let realities = [of_topics("one-topic"), of_topics("many-topics")];
    compare(
        rounds,
        [
            "record of a batch, one topic",
            "record of a batch, 100,000 topics in turn",
        ],
        BATCHES * BATCH,
        |which| {
            let topics = if which == 0 { &single[..] } else { &topics[..] };
            producer.spread(&realities[which], topics)
        },
    );
    drop((one, realities, tenancy));
    broker.close();
}
