//! Many clients use a node while it is killed and lines are cut; what they were told is written
//! down and must be possible.
//!
//! `event` says what a history is; `checker` and `cursors` decide whether it is possible, and say in
//! a `violation` why not.
//! `bad_histories`, `model` and `mutations` test them, without a node. `clients` and `faults` make
//! histories of the real node: a history is a few lives of one data directory, and a round is one
//! life. Small segments and a small tail let logs grow over several files, and readers fall behind.
//!
//! A few rounds in the test run. The long form:
//!
//! ```text
//! ARQONBUS_HISTORY_ROUNDS=200 cargo test --test node histories -- --nocapture
//! ```
//!
//! The seed is printed; `ARQONBUS_SEED` repeats its choices (of clients and faults; the machine
//! decides how they interleave).

mod bad_histories;
mod checker;
mod clients;
mod cursors;
mod event;
mod faults;
mod model;
mod mutations;
mod violation;

use std::hash::{BuildHasher as _, Hasher as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::dice::Dice;
use crate::support::{Node, PATIENCE};
use checker::{Summary, check};
use clients::{Life, Scribe};
use event::{Ending, History, NEVER};
use faults::{End, Line, pause};
use violation::explain;

const ROUNDS: u64 = 6;
const LIVES_PER_HISTORY: u64 = 3;
const PRODUCERS: usize = 4;
const SETTINGS: &[(&str, &str)] = &[
    ("ARQONBUS_LOG_SEGMENT_BYTES", "262144"),
    ("ARQONBUS_LOG_SEGMENT_BYTES_FIRST", "65536"),
    ("ARQONBUS_LOG_TAIL_BYTES", "65536"),
];

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

fn start(data: &Path, edge: SocketAddr) -> Node {
    Node::dev_at_with(data, edge, SETTINGS)
}

/// The clients of one life, and the lines that some of them use.
fn begin(life: &Life, edge: SocketAddr, lines: &[Line], dice: &mut Dice) -> Vec<JoinHandle<()>> {
    let mut ways: Vec<SocketAddr> = lines.iter().map(|line| line.address).collect();
    ways.push(edge);
    let mut tasks = Vec::new();
    for _ in 0..PRODUCERS {
        let way = *dice.pick(&ways);
        tasks.push(tokio::spawn(clients::produce(
            life.clone(),
            way,
            dice.fork(),
        )));
    }
    for consumer in clients::CONSUMERS {
        let way = *dice.pick(&ways);
        let consumes = clients::consume(life.clone(), way, consumer, dice.fork());
        tasks.push(tokio::spawn(consumes));
    }
    for way in &ways {
        tasks.push(tokio::spawn(clients::look(life.clone(), *way, dice.fork())));
        tasks.push(tokio::spawn(clients::follow(life.clone(), *way)));
    }
    tasks
}

/// A few lives of one node and all that its clients were told.
async fn history(lives: u64, dice: &mut Dice) -> History {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let scribe = Arc::new(Scribe::default());
    let mut history = History::default();
    let mut edge = SocketAddr::from(([127, 0, 0, 1], 0));
    let (tell_end, end) = watch::channel(None);
    let mut for_ever = None;
    for number in 0..=usize::try_from(lives).expect("few") {
        let node = start(&data, edge);
        edge = node.edge;
        history.lives.push(event::Life {
            end: NEVER,
            ending: Ending::Process,
        });
        let life = Life {
            scribe: Arc::clone(&scribe),
            number,
            token: node.dev_token().into(),
            over: Arc::new(AtomicBool::new(false)),
        };
        let follows = || tokio::spawn(clients::follow_for_ever(life.clone(), edge, end.clone()));
        let follower = for_ever.get_or_insert_with(follows);
        if number as u64 == lives {
            let last = clients::look_at_everything(&life, edge).await;
            tell_end.send_replace(Some(last));
            let followed = tokio::time::timeout(PATIENCE, follower).await;
            followed
                .expect("a follower sees all there is, in time")
                .expect("it has no complaint");
            End::Drain.of(node, dice).await;
            break;
        }
        let lines = [Line::to(edge).await, Line::to(edge).await];
        let tasks = begin(&life, edge, &lines, dice);
        pause(dice, 100).await;
        for _ in 0..dice.below(4) {
            pause(dice, 200).await;
            dice.pick(&lines).cut();
        }
        pause(dice, 200).await;
        End::roll(dice).of(node, dice).await;
        life.over.store(true, Ordering::SeqCst);
        history.lives[number].end = scribe.now();
        for task in tasks {
            task.await.expect("a client that only lost its connection");
        }
    }
    history.operations = scribe.take();
    history
}

// REL-03, REL-02, LOG-05, LOG-01, MSG-03, BRK-04: what concurrent clients are told over kills,
// drains and cut lines is what one log that keeps its promises can say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_of_a_node_under_faults_are_possible() {
    let rounds = setting("ARQONBUS_HISTORY_ROUNDS").unwrap_or(ROUNDS);
    let seed = setting("ARQONBUS_SEED").unwrap_or_else(|| {
        std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish()
    });
    say(&format!(
        "ARQONBUS_SEED={seed} ARQONBUS_HISTORY_ROUNDS={rounds}"
    ));
    let mut dice = Dice::new(seed);
    let mut sum = Summary::default();
    let mut left = rounds;
    let mut checking = Duration::ZERO;
    while left > 0 {
        let lives = left.min(LIVES_PER_HISTORY);
        left -= lives;
        let history = history(lives, &mut dice).await;
        let started = Instant::now();
        let summary = check(&history).unwrap_or_else(|found| {
            panic!("ARQONBUS_SEED={seed}: {}", explain(&history, &found));
        });
        checking += started.elapsed();
        sum = sum.plus(&summary);
    }
    say(&format!(
        "{rounds} rounds, 0 violations, checked in {checking:?}: {sum:?}"
    ));
    assert!(
        sum.records_acknowledged > 100 && sum.reads > 100 && sum.commits_stored > 0,
        "too little load to say anything: {sum:?}"
    );
}

#[expect(clippy::print_stderr, reason = "a failure must say how to repeat it")]
fn say(line: &str) {
    eprintln!("{line}");
}
