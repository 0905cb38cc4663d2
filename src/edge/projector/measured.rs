//! What is counted of projections, for `/metrics`: sums over tenants, by projection and sink, of
//! which a node has as many as its configuration says (PRJ-09).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::log::Micros;
use crate::projections::Projections;
use crate::projections::fold::Outcome;
use crate::projections::standing::State;

/// Dead letters are counted anew when they are asked for after this.
const DEPTH_EVERY: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
struct Of {
    projection: String,
    sink: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Became {
    projection: String,
    sink: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Doing {
    projection: String,
    sink: &'static str,
    state: &'static str,
}

type Seconds = Counter<f64, AtomicU64>;

/// What is counted of projections. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    lag_records: Family<Of, Gauge>,
    lag_seconds: Family<Of, Gauge<f64, AtomicU64>>,
    records: Family<Became, Counter>,
    batches: Family<Of, Counter>,
    batch_seconds: Family<Of, Seconds>,
    dead_letters: Family<Of, Gauge>,
    errors: Family<Of, Counter>,
    states: Family<Doing, Gauge>,
    /// Counters are only ever raised by one at a time.
    turn: Arc<Mutex<()>>,
    counting: Arc<AtomicBool>,
    counted_at: Arc<Mutex<Option<Instant>>>,
}

/// Of the lanes of all tenants together.
#[derive(Debug, Default)]
struct Sum {
    lag_records: u64,
    lag_seconds: f64,
    outcomes: [u64; Outcome::ALL.len()],
    batches: u64,
    busy: Duration,
    errors: u64,
    states: [i64; State::ALL.len()],
}

impl Measured {
    /// Makes them part of the exposition.
    pub fn register(&self, r: &mut Registry) {
        r.register(
            "projection_lag_records",
            "Records that projections have not looked at",
            self.lag_records.clone(),
        );
        r.register(
            "projection_lag_seconds",
            "How long the record has waited that waits longest",
            self.lag_seconds.clone(),
        );
        r.register(
            "projection_records",
            "Records by what became of them",
            self.records.clone(),
        );
        r.register(
            "projection_batches",
            "Batches that sinks have taken",
            self.batches.clone(),
        );
        r.register(
            "projection_batch_seconds",
            "Time that batches took in all",
            self.batch_seconds.clone(),
        );
        r.register(
            "projection_dlq_depth",
            "Dead letters that nobody has dealt with, some seconds ago",
            self.dead_letters.clone(),
        );
        r.register(
            "projection_errors",
            "Times that a projection could not go on",
            self.errors.clone(),
        );
        r.register(
            "projection_state",
            "Logs whose projection is in this state",
            self.states.clone(),
        );
    }

    /// Takes over how projections stand at `now`. Quick; to be called where tokio runs.
    pub fn measure(&self, projections: &Arc<Projections>, now: Micros) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sums: BTreeMap<Of, Sum> = BTreeMap::new();
        for kept in projections.kept() {
            for sink in &kept.sinks {
                let projection = kept.projection.name().to_owned();
                let sink = sink.kind().as_str();
                sums.insert(Of { projection, sink }, Sum::default());
            }
        }
        for lane in projections.status(None) {
            let of = Of {
                projection: lane.projection,
                sink: lane.sink.as_str(),
            };
            let (sum, standing) = (sums.entry(of).or_default(), &lane.standing);
            sum.lag_records += standing.lag_records;
            sum.lag_seconds = sum.lag_seconds.max(standing.lag_seconds(now));
            for (sum, count) in sum.outcomes.iter_mut().zip(standing.outcomes) {
                *sum += count;
            }
            sum.batches += standing.batches;
            sum.busy += standing.busy;
            sum.errors += standing.errors;
            for (count, state) in sum.states.iter_mut().zip(State::ALL) {
                *count += i64::from(state == standing.state);
            }
        }
        for (of, sum) in sums {
            self.show(&of, &sum);
        }
        self.count_dead_letters(projections);
    }

    fn show(&self, of: &Of, sum: &Sum) {
        let lag = i64::try_from(sum.lag_records).unwrap_or(i64::MAX);
        self.lag_records.get_or_create(of).set(lag);
        self.lag_seconds.get_or_create(of).set(sum.lag_seconds);
        raise(&self.batches.get_or_create(of), sum.batches);
        raise(&self.errors.get_or_create(of), sum.errors);
        let spent = self.batch_seconds.get_or_create(of).clone();
        spent.inc_by((sum.busy.as_secs_f64() - spent.get()).max(0.0));
        for (outcome, count) in Outcome::ALL.into_iter().zip(sum.outcomes) {
            let became = Became {
                projection: of.projection.clone(),
                sink: of.sink,
                outcome: outcome.as_str(),
            };
            raise(&self.records.get_or_create(&became), count);
        }
        for (state, count) in State::ALL.into_iter().zip(sum.states) {
            let doing = Doing {
                projection: of.projection.clone(),
                sink: of.sink,
                state: state.as_str(),
            };
            self.states.get_or_create(&doing).set(count);
        }
    }

    /// Has them counted by another thread, unless that was done a moment ago; until it is done the
    /// last count stands.
    fn count_dead_letters(&self, projections: &Arc<Projections>) {
        let counted_at = *self
            .counted_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if counted_at.is_some_and(|at| at.elapsed() < DEPTH_EVERY)
            || self.counting.swap(true, Ordering::SeqCst)
        {
            return;
        }
        let (measured, projections) = (self.clone(), Arc::clone(projections));
        drop(tokio::task::spawn_blocking(move || {
            let _done = Done(&measured.counting);
            measured.recount(&projections);
            let mut at = measured
                .counted_at
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *at = Some(Instant::now());
        }));
    }

    fn recount(&self, projections: &Projections) {
        let lanes = projections.status(None);
        for kept in projections.kept() {
            let (name, table) = (kept.projection.name(), kept.projection.dead_letters().table);
            for sink in &kept.sinks {
                let sink = sink.kind();
                let ours = lanes
                    .iter()
                    .filter(|lane| lane.projection == name && lane.sink == sink);
                // A sink that is away says nothing new.
                let counts = ours
                    .map(|lane| projections.count(&lane.tenant, name, Some(sink.as_str()), table));
                let Ok(depth) = counts.sum::<Result<u64, _>>() else {
                    continue;
                };
                let of = Of {
                    projection: name.to_owned(),
                    sink: sink.as_str(),
                };
                let depth = i64::try_from(depth).unwrap_or(i64::MAX);
                self.dead_letters.get_or_create(&of).set(depth);
            }
        }
    }
}

/// Says that a count has ended, also one that panicked.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

fn raise(counter: &Counter, count: u64) {
    let inner: &AtomicU64 = counter.inner();
    inner.fetch_max(count, Ordering::Relaxed);
}
