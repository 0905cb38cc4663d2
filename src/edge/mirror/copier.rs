//! Appends copies, in the order in which their originals were handed to the log.
//!
//! One worker of a tenant at a time, on a thread that may block, for as long as there is something
//! to copy. What cannot be copied is counted and left out: the original never waits and never
//! fails for a copy's sake. What waits is bounded by bytes and by number.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::Copy;
use crate::broker::accept::Batch;
use crate::broker::{Identity, RealityName, Tenancy, name};
use crate::edge::metrics::Metrics;
use crate::log::{AppendError, AppendSink, Appended, Durability};
use crate::proto::view::EnvelopeView;

/// Copies of one tenant that may wait.
const WAITING_MAX: usize = 16_384;
/// Their envelopes.
const WAITING_BYTES_MAX: usize = 16 << 20;

/// The copies of one tenant.
#[derive(Debug)]
pub struct Copier {
    metrics: Arc<Metrics>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    copies: usize,
    bytes: usize,
    /// Whether somebody works them off.
    worked: bool,
}

/// The copies of one batch.
#[derive(Debug)]
struct Job {
    tenancy: Arc<Tenancy>,
    sender: Arc<Identity>,
    copies: Vec<Copy>,
    bytes: usize,
}

impl Copier {
    /// With nothing to do.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            waiting: Mutex::default(),
        }
    }

    /// Has copies appended; does not wait for it. To be called where tokio runs.
    pub fn submit(
        self: &Arc<Self>,
        tenancy: &Arc<Tenancy>,
        sender: &Arc<Identity>,
        copies: Vec<Copy>,
    ) {
        let bytes = copies.iter().map(|copy| copy.envelope.len()).sum();
        let mut waiting = self.lock();
        let full = waiting.copies + copies.len() > WAITING_MAX
            || waiting.bytes.saturating_add(bytes) > WAITING_BYTES_MAX;
        // What is alone is taken, however large: one batch is bounded already.
        if full && waiting.copies > 0 {
            drop(waiting);
            self.missed("mirror.full", copies.len());
            return;
        }
        waiting.copies += copies.len();
        waiting.bytes += bytes;
        waiting.jobs.push_back(Job {
            tenancy: Arc::clone(tenancy),
            sender: Arc::clone(sender),
            copies,
            bytes,
        });
        if !waiting.worked {
            waiting.worked = true;
            let copier = Arc::clone(self);
            drop(tokio::task::spawn_blocking(move || copier.work()));
        }
    }

    fn work(&self) {
        let _lost = Lost(self);
        while let Some(job) = self.next() {
            self.append(&job);
        }
    }

    /// The next job; with `None` the worker has handed in its place.
    fn next(&self) -> Option<Job> {
        let mut waiting = self.lock();
        let job = waiting.jobs.pop_front();
        match &job {
            Some(job) => {
                waiting.copies -= job.copies.len();
                waiting.bytes -= job.bytes;
            }
            None => {
                waiting.worked = false;
                waiting.jobs.shrink_to_fit();
            }
        }
        job
    }

    fn append(&self, job: &Job) {
        let mut by_reality: BTreeMap<&str, Vec<&Copy>> = BTreeMap::new();
        for copy in &job.copies {
            let copies = by_reality.entry(copy.reality.as_str()).or_default();
            copies.push(copy);
        }
        for copies in by_reality.into_values() {
            if let Some(first) = copies.first() {
                self.append_to(job, &first.reality, &copies);
            }
        }
    }

    fn append_to(&self, job: &Job, name: &RealityName, copies: &[&Copy]) {
        let reality = match job.tenancy.reality(name) {
            Ok(reality) => reality,
            Err(error) => {
                tracing::debug!(tenant = %job.tenancy.tenant(), reality = %name, %error, "not mirrored");
                self.missed("mirror.reality", copies.len());
                return;
            }
        };
        let mut batch = Batch::new(&reality, &job.sender, copies.len());
        for copy in copies {
            let view = EnvelopeView::parse(&copy.envelope);
            // A template can make a topic too long, and of the oddest one the system's own.
            let fits =
                name::check_topic(&copy.topic).is_ok() && !name::is_reserved_topic(&copy.topic);
            match view {
                Ok(view) if fits => {
                    let topic = Bytes::from(copy.topic.clone());
                    batch.mirror(topic, copy.id, &view, copy.envelope.clone(), &copy.verdict);
                }
                Ok(_) | Err(_) => self.missed("mirror.topic", 1),
            }
        }
        let count = batch.len();
        if count == 0 {
            return;
        }
        let sink = Arc::new(Counted(Arc::clone(&self.metrics)));
        let appended = reality.append(batch, Durability::Synced, None, sink, count as u64);
        reality.start();
        if let Err(error) = appended {
            tracing::debug!(tenant = %job.tenancy.tenant(), reality = %name, %error, "not mirrored");
            self.missed("mirror.log", count);
        }
    }

    fn missed(&self, reason: &'static str, copies: usize) {
        for _ in 0..copies {
            self.metrics.decided("not_copied", reason);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives a worker's place free that panicked, so that the next copies find another.
struct Lost<'a>(&'a Copier);

impl Drop for Lost<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().worked = false;
        }
    }
}

/// Counts what became of copies; the token is their number.
#[derive(Debug)]
struct Counted(Arc<Metrics>);

impl AppendSink for Counted {
    fn appended(&self, token: u64, outcome: Result<Appended, AppendError>) {
        let (decision, reason) = match outcome {
            Ok(_) => ("copied", "mirror"),
            Err(error) => {
                tracing::debug!(%error, "not mirrored");
                ("not_copied", "mirror.log")
            }
        };
        for _ in 0..token {
            self.0.decided(decision, reason);
        }
    }
}
