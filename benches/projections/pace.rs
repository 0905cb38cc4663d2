//! Publishers with a pace of 10,000 events a second: how long they wait, and how late their events
//! are in the tables.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arqonbus::log::{AppendError, AppendSink, Appended, Sequence};
use arqonbus::projections::continuum::{History, NAME};
use bytes::Bytes;

use crate::events;
use crate::station::{Station, append, identity};

/// A group of 10 each millisecond.
const GROUP: usize = 10;
const EACH: Duration = Duration::from_millis(1);
const SECONDS: usize = 4;
const GROUPS: usize = SECONDS * 1_000;
/// Every so many groups one is followed into the tables.
const FOLLOWED: u64 = 10;
/// Groups that are not counted: connections, plans and caches of the first use.
const WARM: u64 = 500;

/// Tells when and where appends were acknowledged.
#[derive(Debug)]
struct Told(Mutex<Sender<(u64, Instant, Sequence)>>);

impl AppendSink for Told {
    fn appended(&self, token: u64, outcome: Result<Appended, AppendError>) {
        let last = outcome.expect("the log takes it").last;
        let told = self.0.lock().expect("nobody panics here");
        told.send((token, Instant::now(), last))
            .expect("it is heard");
    }
}

/// What publishers waited, and how late the tables were, in milliseconds.
struct Paced {
    acknowledged: Vec<f64>,
    projected: Vec<f64>,
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index"
)]
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * share) as usize;
    values
        .get(at.min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

fn run(station: &mut Station, kinds: &[&str]) -> Paced {
    let tenant = station.tenant();
    let count = GROUPS * GROUP;
    let encoded: Vec<Bytes> = (0..count)
        .map(|number| events::encoded(&tenant, number, count))
        .collect();
    let (reality, identity) = (station.reality(&tenant), identity(&tenant));
    let sinks: Vec<_> = kinds.iter().map(|kind| station.sink(kind)).collect();
    let projections = (!sinks.is_empty()).then(|| station.start(History::Kept, sinks));
    let (sender, receiver) = channel();
    let told = Arc::new(Told(Mutex::new(sender)));
    let begin = Instant::now();
    let due = move |number: usize| begin + EACH * u32::try_from(number).unwrap();
    let (late, lateness) = channel();
    let follow = {
        let runtime = station.runtime.handle().clone();
        let (projections, tenant) = (projections.clone(), tenant.clone());
        move || {
            let mut acknowledged = Vec::new();
            for (token, at, last) in receiver.iter().take(GROUPS) {
                let due = due(usize::try_from(token).unwrap());
                if token < WARM {
                    continue;
                }
                acknowledged.push(millis(at.saturating_duration_since(due)));
                let Some(projections) = projections.clone().filter(|_| token % FOLLOWED == 0)
                else {
                    continue;
                };
                let (late, tenant) = (late.clone(), tenant.clone());
                runtime.spawn(async move {
                    let patience = Duration::from_mins(1);
                    let waited = projections.wait(&tenant, NAME, None, last, patience);
                    waited.await.expect("it is projected");
                    late.send(millis(due.elapsed())).expect("it is heard");
                });
            }
            acknowledged
        }
    };
    let follow = std::thread::spawn(follow);
    for (number, envelopes) in encoded.chunks(GROUP).enumerate() {
        std::thread::sleep(due(number).saturating_duration_since(Instant::now()));
        append(&reality, &identity, envelopes, &told, number as u64);
    }
    let acknowledged = follow.join().unwrap();
    // Ends when the last of those that are followed is there.
    let projected = lateness.iter().collect();
    if let Some(projections) = projections {
        projections.close();
    }
    Paced {
        acknowledged,
        projected,
    }
}

/// Runs each in turn, and prints the medians of the rounds with their spreads.
pub(crate) fn beside_publishers(station: &mut Station, rounds: usize, only: Option<&str>) {
    let ways: [(&str, &[&str]); 5] = [
        ("paced, not projected", &[]),
        ("paced, sled", &["sled"]),
        ("paced, postgres", &["postgres"]),
        ("paced, valkey", &["valkey"]),
        ("paced, all three", &["postgres", "sled", "valkey"]),
    ];
    let wanted = |name: &str| only.is_none_or(|only| name.contains(only));
    let mut found: Vec<Vec<[f64; 4]>> = vec![Vec::new(); ways.len()];
    for _ in 0..rounds {
        for ((name, kinds), found) in ways.iter().zip(&mut found) {
            if wanted(name) {
                let mut paced = run(station, kinds);
                let (acknowledged, projected) = (&mut paced.acknowledged, &mut paced.projected);
                let ack = [0.5, 0.99].map(|share| quantile(acknowledged, share));
                let lag = [0.5, 0.99].map(|share| quantile(projected, share));
                found.push([ack[0], ack[1], lag[0], lag[1]]);
            }
        }
    }
    let alone: Vec<f64> = found[0].iter().map(|round| round[1]).collect();
    for ((name, _), rounds) in ways.iter().zip(&found) {
        if rounds.is_empty() {
            continue;
        }
        let shown = [0, 1, 2, 3].map(|at| {
            let values: Vec<_> = rounds.iter().map(|round| round[at]).collect();
            let (middle, low, high) = crate::median(&values);
            format!("{middle:.2} [{low:.2}..{high:.2}]")
        });
        let [ack50, ack99, lag50, lag99] = shown;
        print!(
            "{name:<24} publish p50 {ack50} p99 {ack99} ms; in the table p50 {lag50} p99 {lag99} ms"
        );
        let ratios: Vec<_> = rounds
            .iter()
            .zip(&alone)
            .map(|(round, alone)| round[1] / alone)
            .collect();
        if ratios.is_empty() {
            println!();
        } else {
            let (middle, low, high) = crate::median(&ratios);
            println!("; publish p99 {middle:.2} [{low:.2}..{high:.2}] of not projected");
        }
    }
}
