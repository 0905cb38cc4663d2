//! What a fork costs, beside as many hard links made by hand (PERF-13).
//!
//! A few small segments in the test run. The long form makes 160 segments of 64 MiB, about half
//! full, in `ARQONBUS_BENCH_DIR` (default: the target folder), and holds the fork to the goal:
//!
//! ```text
//! ARQONBUS_FORK_SEGMENTS=160 cargo test --release --test log fork_cost -- --nocapture
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arqonbus::log::{
    Append, Committer, Durability, Environment, Log, Observer, Options, RealStorage, Storage as _,
    Writer, removal,
};

use crate::session::{Scribe, SimClock, record};

const ROUNDS: usize = 9;
const GOAL: Duration = Duration::from_millis(50);

fn writer(name: &str) -> Writer {
    Writer {
        node: 1,
        clock_key: format!("n1/{name}"),
    }
}

/// A log with so many sealed segments, each of about half its size in one record.
fn filled(dir: &Path, segments: usize, segment_bytes: u64) -> Log {
    let committer = Committer::manual();
    let environment = Environment {
        storage: Arc::new(RealStorage),
        clock: SimClock::new(),
        committer: Arc::clone(&committer),
    };
    let options = Options {
        segment_bytes,
        segment_bytes_first: Options::default().segment_bytes_first.min(segment_bytes),
        ..Options::default()
    };
    let observer: Arc<dyn Observer> = Arc::new(Scribe::default());
    let (log, _) =
        Log::open(&environment, dir, &writer("main"), &options, observer).expect("opened");
    let len = usize::try_from(segment_bytes / 2 + 4096).expect("small");
    for _ in 0..=segments {
        let append = Append {
            records: vec![record("t", &vec![7; len])],
            durability: Durability::Synced,
            then: None,
            sink: Arc::new(Scribe::default()),
            token: 0,
        };
        log.append(append).expect("queued");
        committer.run_until_idle();
        committer.run_chores();
    }
    assert!(log.status().segments > segments);
    log
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// As many names as a fork makes, in one directory, and that flushed.
fn links(from: &Path, to: &Path) -> Duration {
    let names = RealStorage.list(from).expect("listed");
    let shared = |name: &&String| {
        let digits = name.bytes().take_while(u8::is_ascii_digit).count() == 20;
        digits && (name.ends_with(".seg") || name.ends_with(".idx"))
    };
    let began = Instant::now();
    RealStorage.create_dir_all(to).expect("made");
    for name in names.iter().filter(shared) {
        RealStorage
            .hard_link(&from.join(name), &to.join(name))
            .expect("linked");
    }
    RealStorage.sync_dir(to).expect("flushed");
    began.elapsed()
}

// PERF-13, LOG-12: a fork costs a link for each segment and a few flushes, whatever is in them.
#[test]
#[expect(clippy::print_stdout, reason = "what was measured")]
fn a_fork_costs_links_and_not_bytes() {
    let long = std::env::var("ARQONBUS_FORK_SEGMENTS").ok();
    let segments = long
        .as_ref()
        .map_or(12, |text| text.parse().expect("a number"));
    let segment_bytes = if long.is_some() { 64 << 20 } else { 256 << 10 };
    let disk = std::env::var("ARQONBUS_BENCH_DIR").map_or_else(
        |_| PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
        PathBuf::from,
    );
    let dir = tempfile::tempdir_in(disk).expect("a directory");
    let parent = dir.path().join("main");
    let log = filled(&parent, segments, segment_bytes);
    let (mut forks, mut by_hand) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let child = dir.path().join(format!("child{round}"));
        let began = Instant::now();
        // The first seals the last segment; for the others there is nothing left to seal.
        let point = log.fork(&child, None, &writer("child")).expect("forked");
        forks.push(began.elapsed());
        assert!(point.shared > segments && point.copied == 0, "{point:?}");
        by_hand.push(links(&parent, &dir.path().join(format!("links{round}"))));
        removal::remove(&RealStorage, &child, "").expect("removed");
    }
    let bytes = segments as u64 * segment_bytes;
    let (first, fork, by_hand) = (forks[0], median(forks), median(by_hand));
    println!(
        "fork of {segments} segments, {} MiB: first {first:?}, median {fork:?}; as many links by hand {by_hand:?}, {:.1} times",
        bytes >> 20,
        fork.as_secs_f64() / by_hand.as_secs_f64(),
    );
    if long.is_some() {
        assert!(fork < GOAL, "{fork:?}, the goal is {GOAL:?}");
    }
}
