//! What the node counts, for `/metrics`.
//!
//! Owns the registry: name, unit and help of every metric, once. No label carries a tenant, topic
//! or subject, so that the number of series is bounded by this file. Must not know sockets or the
//! broker; whoever counts holds an `Arc<Metrics>`.

mod tasks;

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use tasks::Tasks;

use super::ops::webhooks::Sent;
use super::policy::Tallies;
use super::projector::measured::Measured;

/// Every metric of the node. Counting is a single atomic addition.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Sessions that are open now.
    pub sessions: Gauge,
    /// Sessions opened since the start.
    pub sessions_opened: Counter,
    /// Connections that a bug has ended.
    pub panics: Counter,
    /// Records appended on behalf of clients.
    pub produced_records: Counter,
    /// Bytes of the envelopes in them.
    pub produced_bytes: Counter,
    /// Records sent to clients.
    pub delivered_records: Counter,
    /// Bytes of them.
    pub delivered_bytes: Counter,
    append: Histogram,
    errors: Family<Code, Counter>,
    refused: Family<Code, Counter>,
    tls_reloads: Family<Taken, Counter>,
    /// Nothing for a node without TLS.
    tls_days_left: Family<Ends, Gauge>,
    decisions: Family<Decision, Counter>,
    /// What the calls of policies have come to.
    pub policies: Tallies,
    /// What is counted of projections; measured when it is asked for.
    pub projections: Measured,
    /// What is counted of webhooks; measured when it is asked for.
    pub webhooks: Sent,
    /// What has become of operators' tasks; taken over when it is asked for.
    pub tasks: Tasks,
    requests: Family<Request, Counter>,
    request: Family<Route, Histogram, fn() -> Histogram>,
    /// Realities that are open.
    pub realities: Gauge,
    /// Realities that take no more writes until they are reopened.
    pub realities_read_only: Gauge,
    /// Subscriptions that are open now.
    pub subscriptions: Gauge,
    /// Members of groups.
    pub group_members: Gauge,
    /// Records that members of groups have.
    pub group_in_flight: Gauge,
    /// Records that groups have read ahead and that are not done.
    pub group_open: Gauge,
    /// Sessions that are members of rooms.
    pub room_members: Gauge,
    /// Channels that have members.
    pub room_channels: Gauge,
    /// Flushes of all logs since the start; set when it is asked for, never lowered.
    flushes: Counter,
    /// Reads that met damage since the start; set when it is asked for, never lowered.
    damaged_reads: Counter,
    /// What upkeep has done; set when it is asked for, never lowered.
    upkeep_runs: Counter,
    upkeep_failures: Counter,
    scrubs: Counter,
    reclaimed_bytes: Counter,
    removed_records: Counter,
    /// Bytes of records that consumers hold back from retention.
    pub log_held_bytes: Gauge,
    /// Damaged places that scrubbing has found.
    pub log_scrub_damages: Gauge,
    /// Bytes of records in all logs.
    pub log_used_bytes: Gauge,
    /// Bytes of records kept in memory by all logs.
    pub log_tail_bytes: Gauge,
    /// About how many bytes of memory the indexes of all logs take.
    pub log_index_bytes: Gauge,
    /// Files that all logs hold open.
    pub log_file_handles: Gauge,
    /// Bytes waiting to be written by all logs.
    pub log_waiting_bytes: Gauge,
}

/// What upkeep of all logs has done since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Upkeep {
    /// Rounds over single logs.
    pub runs: u64,
    /// Those that failed.
    pub failures: u64,
    /// Bytes of files that are no longer needed.
    pub reclaimed_bytes: u64,
    /// Records that were removed.
    pub removed_records: u64,
    /// Times that all of a log was read to find what has rotted.
    pub scrubs: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

/// What came of new TLS files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Reload {
    /// They are in force.
    Taken,
    /// They cannot be used.
    Refused,
}

/// What is asked how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Certificate {
    /// The node's own.
    Server,
    /// The first to end of the authorities of clients.
    ClientCa,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Taken {
    outcome: Reload,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ends {
    certificate: Certificate,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decision {
    decision: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: &'static str,
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("arqon"),
            sessions: Gauge::default(),
            sessions_opened: Counter::default(),
            panics: Counter::default(),
            produced_records: Counter::default(),
            produced_bytes: Counter::default(),
            delivered_records: Counter::default(),
            delivered_bytes: Counter::default(),
            append: Histogram::new(exponential_buckets(0.000_05, 2.0, 18)),
            errors: Family::default(),
            refused: Family::default(),
            tls_reloads: Family::default(),
            tls_days_left: Family::default(),
            decisions: Family::default(),
            policies: Tallies::default(),
            projections: Measured::default(),
            webhooks: Sent::default(),
            tasks: Tasks::default(),
            requests: Family::default(),
            request: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.000_1, 4.0, 9))
            }),
            realities: Gauge::default(),
            realities_read_only: Gauge::default(),
            subscriptions: Gauge::default(),
            group_members: Gauge::default(),
            group_in_flight: Gauge::default(),
            group_open: Gauge::default(),
            room_members: Gauge::default(),
            room_channels: Gauge::default(),
            flushes: Counter::default(),
            damaged_reads: Counter::default(),
            upkeep_runs: Counter::default(),
            upkeep_failures: Counter::default(),
            scrubs: Counter::default(),
            reclaimed_bytes: Counter::default(),
            removed_records: Counter::default(),
            log_held_bytes: Gauge::default(),
            log_scrub_damages: Gauge::default(),
            log_used_bytes: Gauge::default(),
            log_tail_bytes: Gauge::default(),
            log_index_bytes: Gauge::default(),
            log_file_handles: Gauge::default(),
            log_waiting_bytes: Gauge::default(),
        };
        metrics.register();
        metrics.register_rooms();
        metrics.register_policies();
        metrics.register_logs();
        metrics.projections.register(&mut metrics.registry);
        metrics.webhooks.register(&mut metrics.registry);
        metrics.tasks.register(&mut metrics.registry);
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register(
            "build",
            "The running program",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        r.register("edge_sessions", "Open sessions", self.sessions.clone());
        r.register(
            "edge_sessions_opened",
            "Sessions opened",
            self.sessions_opened.clone(),
        );
        r.register(
            "edge_panics",
            "Connections and requests ended by a bug",
            self.panics.clone(),
        );
        r.register(
            "edge_produced_records",
            "Records appended for clients",
            self.produced_records.clone(),
        );
        r.register_with_unit(
            "edge_produced",
            "Envelopes appended for clients",
            Unit::Bytes,
            self.produced_bytes.clone(),
        );
        r.register(
            "edge_delivered_records",
            "Records sent to clients",
            self.delivered_records.clone(),
        );
        r.register_with_unit(
            "edge_delivered",
            "Records sent to clients",
            Unit::Bytes,
            self.delivered_bytes.clone(),
        );
        r.register_with_unit(
            "edge_append_duration",
            "From a Produce frame to the acknowledgement it asked for",
            Unit::Seconds,
            self.append.clone(),
        );
        r.register(
            "edge_errors",
            "Error frames sent to clients, by code",
            self.errors.clone(),
        );
        r.register(
            "edge_handshakes_refused",
            "Handshakes refused, by code",
            self.refused.clone(),
        );
        r.register(
            "edge_tls_reloads",
            "New TLS files, by what came of them",
            self.tls_reloads.clone(),
        );
        r.register(
            "edge_tls_days_left",
            "Whole days until a certificate in force ends",
            self.tls_days_left.clone(),
        );
        r.register(
            "edge_decisions",
            "Messages that the edge blocked, changed, copied or found something in, by reason",
            self.decisions.clone(),
        );
        r.register(
            "http_requests",
            "Requests on both listeners, by route and status",
            self.requests.clone(),
        );
        r.register_with_unit(
            "http_request_duration",
            "From a request's head to its response's, by route",
            Unit::Seconds,
            self.request.clone(),
        );
        r.register("broker_realities", "Open realities", self.realities.clone());
        r.register(
            "broker_realities_read_only",
            "Realities that take no writes until they are reopened",
            self.realities_read_only.clone(),
        );
        r.register(
            "broker_subscriptions",
            "Open subscriptions",
            self.subscriptions.clone(),
        );
    }

    fn register_rooms(&mut self) {
        let r = &mut self.registry;
        r.register(
            "broker_group_members",
            "Members of groups of competing consumers",
            self.group_members.clone(),
        );
        r.register(
            "broker_group_in_flight",
            "Records that members of groups have and have not answered for",
            self.group_in_flight.clone(),
        );
        r.register(
            "broker_group_open",
            "Records that groups have read and that are not done",
            self.group_open.clone(),
        );
        r.register(
            "room_members",
            "Sessions that are members of rooms",
            self.room_members.clone(),
        );
        r.register(
            "room_channels",
            "Channels of rooms that have members",
            self.room_channels.clone(),
        );
    }

    fn register_policies(&mut self) {
        let (r, policies) = (&mut self.registry, &self.policies);
        r.register_with_unit(
            "policy_duration",
            "Calls of policies, of which one in sixteen is timed",
            Unit::Seconds,
            policies.duration.clone(),
        );
        r.register(
            "policy_calls",
            "Calls of policies, by how they ended",
            policies.outcomes.clone(),
        );
        r.register(
            "policy_shadows",
            "Calls of policies in the shadow, by whether they agreed",
            policies.shadows.clone(),
        );
        r.register(
            "policy_changes_refused",
            "Policies that were not put in force because they are unfit",
            policies.refused.clone(),
        );
        r.register(
            "policy_log_lines",
            "Lines that policies have logged",
            policies.log_lines.clone(),
        );
    }

    fn register_logs(&mut self) {
        let r = &mut self.registry;
        r.register("log_flushes", "Flushes to disk", self.flushes.clone());
        r.register(
            "log_damaged_reads",
            "Reads that met damaged records, which they skipped",
            self.damaged_reads.clone(),
        );
        r.register(
            "log_upkeep_runs",
            "Rounds of retention, compaction, compression and scrubbing over single logs",
            self.upkeep_runs.clone(),
        );
        r.register(
            "log_upkeep_failures",
            "Rounds that failed",
            self.upkeep_failures.clone(),
        );
        r.register_with_unit(
            "log_reclaimed",
            "Files that upkeep has made needless",
            Unit::Bytes,
            self.reclaimed_bytes.clone(),
        );
        r.register(
            "log_removed_records",
            "Records that were too old, too many, superseded or expired",
            self.removed_records.clone(),
        );
        r.register(
            "log_scrubs",
            "Times that all of a log was read to find what has rotted",
            self.scrubs.clone(),
        );
        r.register(
            "log_scrub_damages",
            "Damaged places that the last scrub of each log has found",
            self.log_scrub_damages.clone(),
        );
        r.register_with_unit(
            "log_held",
            "Records that consumers hold back from retention",
            Unit::Bytes,
            self.log_held_bytes.clone(),
        );
        r.register_with_unit(
            "log_used",
            "Records and their framing on disk",
            Unit::Bytes,
            self.log_used_bytes.clone(),
        );
        r.register_with_unit(
            "log_tail",
            "Records kept in memory",
            Unit::Bytes,
            self.log_tail_bytes.clone(),
        );
        r.register_with_unit(
            "log_index",
            "Indexes kept in memory",
            Unit::Bytes,
            self.log_index_bytes.clone(),
        );
        r.register(
            "log_file_handles",
            "Files that logs hold open",
            self.log_file_handles.clone(),
        );
        r.register_with_unit(
            "log_waiting",
            "Appends waiting to be written",
            Unit::Bytes,
            self.log_waiting_bytes.clone(),
        );
    }

    /// Counts an acknowledged batch.
    pub fn produced(&self, records: u64, bytes: u64, took: Duration) {
        self.produced_records.inc_by(records);
        self.produced_bytes.inc_by(bytes);
        self.append.observe(took.as_secs_f64());
    }

    /// Counts records sent to a client.
    pub fn delivered(&self, records: u64, bytes: u64) {
        self.delivered_records.inc_by(records);
        self.delivered_bytes.inc_by(bytes);
    }

    /// Counts an Error frame. `code` is one of the list of error codes.
    pub fn error(&self, code: &'static str) {
        self.errors.get_or_create(&Code { code }).inc();
    }

    /// Counts a message that the edge blocked, changed, copied or found something in.
    pub fn decided(&self, decision: &'static str, reason: &'static str) {
        let label = Decision { decision, reason };
        self.decisions.get_or_create(&label).inc();
    }

    /// Counts a refused handshake.
    pub fn handshake_refused(&self, code: &'static str) {
        self.refused.get_or_create(&Code { code }).inc();
    }

    /// Counts new TLS files.
    pub fn tls_reloaded(&self, outcome: Reload) {
        self.tls_reloads.get_or_create(&Taken { outcome }).inc();
    }

    /// Notes how long a certificate still lasts.
    pub fn tls_days_left(&self, certificate: Certificate, days: i64) {
        self.tls_days_left
            .get_or_create(&Ends { certificate })
            .set(days);
    }

    /// Counts an HTTP request. `route` is a fixed text, never the path that was asked for.
    pub fn request(&self, route: &'static str, status: u16, took: Duration) {
        self.requests
            .get_or_create(&Request { route, status })
            .inc();
        self.request
            .get_or_create(&Route { route })
            .observe(took.as_secs_f64());
    }

    /// Takes over the flush count that the logs keep.
    pub fn set_flushes(&self, flushes: u64) {
        let inner: &AtomicU64 = self.flushes.inner();
        inner.fetch_max(flushes, std::sync::atomic::Ordering::Relaxed);
    }

    /// Takes over the count of reads that met damage.
    pub fn set_damaged_reads(&self, reads: u64) {
        let inner: &AtomicU64 = self.damaged_reads.inner();
        inner.fetch_max(reads, std::sync::atomic::Ordering::Relaxed);
    }

    /// Takes over what upkeep has counted.
    pub fn set_upkeep(&self, sums: &Upkeep) {
        let counts = [
            (&self.upkeep_runs, sums.runs),
            (&self.upkeep_failures, sums.failures),
            (&self.reclaimed_bytes, sums.reclaimed_bytes),
            (&self.removed_records, sums.removed_records),
            (&self.scrubs, sums.scrubs),
        ];
        for (counter, count) in counts {
            let inner: &AtomicU64 = counter.inner();
            inner.fetch_max(count, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// The exposition (OpenMetrics text).
    ///
    /// # Errors
    /// Never in practice: writing to a `String` does not fail.
    pub fn exposition(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
