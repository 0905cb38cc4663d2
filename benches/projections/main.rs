//! Projections: events a second into each sink, how late they are, and what they cost publishers.
//!
//! Claim: the projection of episodes takes in at least 65 % of the events a second that the plain
//! technique of the same sink does in the same run, live and when it catches up; at 10,000 events a
//! second it is at most 250 ms behind at p99 (PERF-09), and a publisher waits less than 20 ms at p99
//! beside it (PRJ-08, PRJ-16). Written down in docs/performance.md.
//!
//! Plain are: for PostgreSQL a guarded `INSERT … SELECT unnest(…) ON CONFLICT DO UPDATE` of 1,000
//! events in a transaction into the same tables without row-level security, and a binary `COPY` of
//! the same rows into tables without indexes; for sled a batch of as many rows; for Redis a pipeline
//! of as many `HSET` with `EXPIRE`. They are given rows that are made already. The projection reads
//! the log, checks the events, asks the sink and keeps a hash.
//!
//! `cargo bench --bench projections`; `ARQONBUS_BENCH_DIR` chooses the disk of the logs (default:
//! the target folder), `ARQONBUS_BENCH_ROUNDS` the rounds (default: 3), `ARQONBUS_BENCH_EVENTS` the
//! events of each (default: 50,000), `ARQONBUS_BENCH_ONLY` the lines, by a part of their names.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run must stop")]
#![expect(clippy::print_stdout, reason = "its results")]

mod events;
#[path = "../../src/feed.rs"]
mod feed;
mod pace;
mod plain;
#[expect(dead_code, reason = "servers can more than this needs")]
#[path = "../../tests/servers/mod.rs"]
mod servers;
mod station;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arqonbus::projections::continuum::History;
use arqonbus::projections::sink::Sink;
use station::Station;

/// One thing that is measured, in events a second.
struct Line {
    name: String,
    /// What it is compared with.
    plain: Option<&'static str>,
    rounds: Vec<f64>,
}

fn median(rounds: &[f64]) -> (f64, f64, f64) {
    let mut rounds = rounds.to_vec();
    rounds.sort_by(f64::total_cmp);
    (
        rounds[rounds.len() / 2],
        rounds[0],
        rounds[rounds.len() - 1],
    )
}

/// All lines, in the order in which they came first.
struct Lines {
    only: Option<String>,
    lines: Vec<Line>,
}

impl Lines {
    fn measure(
        &mut self,
        name: &str,
        plain: Option<&'static str>,
        events: usize,
        measured: impl FnOnce() -> Duration,
    ) {
        // What a line is compared with is measured with it.
        let wanted = |only: &String| name.contains(only.as_str()) || plain.is_none();
        if !self.only.as_ref().is_none_or(wanted) {
            return;
        }
        let rate = events as f64 / measured().as_secs_f64();
        match self.lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.rounds.push(rate),
            None => self.lines.push(Line {
                name: name.to_owned(),
                plain,
                rounds: vec![rate],
            }),
        }
    }

    fn show(&self) {
        for line in &self.lines {
            let (middle, low, high) = median(&line.rounds);
            print!("{:<44} {middle:>9.0}/s [{low:.0}..{high:.0}]", line.name);
            let plain = line.plain.and_then(|plain| {
                let plain = self.lines.iter().find(|line| line.name == plain)?;
                // Round by round, since the machine is another in each.
                let rounds = line.rounds.iter().zip(&plain.rounds);
                Some(rounds.map(|(ours, plain)| ours / plain).collect::<Vec<_>>())
            });
            match (plain, line.plain) {
                (Some(ratios), Some(name)) => {
                    let (middle, low, high) = median(&ratios);
                    println!("  {middle:.2} [{low:.2}..{high:.2}] of {name}");
                }
                _ => println!(),
            }
        }
    }
}

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() {
    let rounds = setting("ARQONBUS_BENCH_ROUNDS", 3);
    let count: usize = setting("ARQONBUS_BENCH_EVENTS", 50_000);
    let parent = std::env::var_os("ARQONBUS_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::tempdir_in(parent).unwrap();
    let mut station = Station::open(dir.path());
    let mut lines = Lines {
        only: std::env::var("ARQONBUS_BENCH_ONLY").ok(),
        lines: Vec::new(),
    };
    let batch = station.publish("catching-up", count);
    for _ in 0..rounds {
        throughput(&mut station, &mut lines, batch, count);
    }
    lines.show();
    println!();
    pace::beside_publishers(&mut station, rounds, lines.only.as_deref());
    station.close();
}

/// One round of everything that has no pace of its own.
fn throughput(station: &mut Station, lines: &mut Lines, last: station::Last, count: usize) {
    let histories = [
        (
            History::LeftOut,
            "",
            "postgres unnest",
            "postgres copy",
            "sled plain",
        ),
        (
            History::Kept,
            " with history",
            "postgres unnest with history",
            "postgres copy with history",
            "sled plain with history",
        ),
    ];
    for (history, suffix, unnest, copy, batches) in histories {
        let rows = events::rows("catching-up", count, history);
        lines.measure(copy, None, count, || plain::copy(station, &rows));
        lines.measure(unnest, None, count, || plain::unnest(station, &rows));
        lines.measure(batches, None, count, || plain::sled(station, &rows));
        drop(rows);
        for (kind, plain) in [("postgres", unnest), ("sled", batches)] {
            let name = format!("{kind} catching up{suffix}");
            lines.measure(&name, Some(plain), count, || {
                let sink = station.sink(kind);
                station.catch_up("catching-up", history, sink, last)
            });
            let name = format!("{kind} live{suffix}");
            lines.measure(&name, Some(plain), count, || {
                let sink = station.sink(kind);
                station.live(history, sink, count)
            });
        }
    }
    let rows = events::rows("catching-up", count, History::LeftOut);
    lines.measure("redis plain", None, count, || plain::redis(station, &rows));
    drop(rows);
    lines.measure("valkey catching up", Some("redis plain"), count, || {
        let sink: Arc<dyn Sink> = station.sink("valkey");
        station.catch_up("catching-up", History::LeftOut, sink, last)
    });
    lines.measure("valkey live", Some("redis plain"), count, || {
        let sink = station.sink("valkey");
        station.live(History::LeftOut, sink, count)
    });
    lines.measure("publishing alone", None, count, || {
        station.publishing_alone(count)
    });
}
