//! Upkeep of the logs while the node runs: retention, compaction, compression, scrubbing (LOG-08,
//! LOG-10, LOG-11, LOG-15).
//!
//! One thread walks all open realities, one after the other, at an interval, at a pace in bytes
//! per second that leaves the disk to the others; it ends within moments when the broker is
//! closed. Realities that nobody uses are visited too, a few in each round. Owns the pace and the account of what was
//! done; which topics keep what is decided by the topic rules.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Broker;
use super::delta::Declarations;
use super::filter::Filter;
use super::name::{RealityName, Tenant};
use super::reality::Reality;
use super::tenancy::Tenancy;
use super::topic_rules::{self, BadPattern, TopicRule, TopicRules, facts};
use crate::config::Config;
use crate::log::{
    self, Compaction, CompactionReport, Compression, CompressionReport, Ended, Held, Holder, Log,
    Micros, Retention, RetentionReport, Throttle,
};

/// Segments at the end of a log that are not compressed, because they are read most.
const NEWEST_UNCOMPRESSED: usize = 1;

/// How logs are kept up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which topics keep what.
    pub rules: TopicRules,
    /// Consumers, by name, whose cursors hold retention back.
    pub hold_for: Vec<Filter>,
    /// Bytes of records in one reality that they can hold back.
    pub hold_bytes_max: u64,
    /// How much of what is written again, in percent, must be to go.
    pub dead_percent: u8,
    /// What is past its age or has expired for this long goes even where it is little.
    pub overdue: Duration,
    /// Keys of compacted topics that are told apart.
    pub keys_max: usize,
    /// Segments older than this are compressed; `None`: none are.
    pub compress_after: Option<Duration>,
    /// Level of zstd.
    pub compression_level: i32,
    /// From the end of one round to the start of the next.
    pub interval: Duration,
    /// Read and written in all, at most.
    pub bytes_per_second: u64,
    /// From the end of one scrub of a reality to the start of the next.
    pub scrub_interval: Duration,
    /// From one visit to a reality that nobody uses to the next.
    pub visit_interval: Duration,
}

/// Realities that nobody uses and that are opened for a visit in one round.
const VISITS_IN_ROUND: usize = 8;

impl Default for Options {
    fn default() -> Self {
        Self {
            rules: TopicRules::default(),
            hold_for: Vec::new(),
            hold_bytes_max: 1 << 30,
            dead_percent: 50,
            overdue: Duration::from_secs(60 * 60),
            keys_max: 1_000_000,
            compress_after: None,
            compression_level: 3,
            interval: Duration::from_secs(60),
            bytes_per_second: 16 << 20,
            scrub_interval: Duration::from_secs(7 * 24 * 60 * 60),
            visit_interval: Duration::from_secs(6 * 60 * 60),
        }
    }
}

impl Options {
    /// As they stand in the settings.
    ///
    /// # Errors
    /// A pattern is none.
    pub fn of(config: &Config) -> Result<Self, BadPattern> {
        let retention = &config.retention;
        let rules = retention.topics.iter().map(TopicRule::of);
        let hold_for = retention.hold_for.iter();
        let after = config.log.compress_after_s;
        Ok(Self {
            rules: TopicRules::new(rules.collect::<Result<_, _>>()?)
                .keeping_audit_for(config.audit.retain_s.saturating_mul(1_000_000)),
            hold_for: hold_for
                .map(|text| topic_rules::pattern("retention.hold_for", text))
                .collect::<Result<_, _>>()?,
            hold_bytes_max: retention.hold_bytes_max,
            dead_percent: retention.dead_percent,
            overdue: Duration::from_secs(retention.overdue_s),
            keys_max: config.maintenance.keys_max,
            compress_after: (after > 0).then(|| Duration::from_secs(after)),
            compression_level: config.log.compression_level,
            interval: Duration::from_secs(config.maintenance.interval_s),
            bytes_per_second: config.maintenance.bytes_per_second,
            scrub_interval: Duration::from_secs(config.maintenance.scrub_interval_s),
            visit_interval: Duration::from_secs(config.maintenance.visit_interval_s),
        })
    }
}

/// What upkeep has done to one reality since the broker started.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Rounds.
    pub runs: u64,
    /// When the last one ended.
    pub at: Micros,
    /// Bytes of files that are no longer needed.
    pub reclaimed_bytes: u64,
    /// Records that were removed.
    pub removed_records: u64,
    /// Bytes that could go and share segments with too many that cannot.
    pub dead_bytes: u64,
    /// Who holds what back.
    pub held: Vec<Held>,
    /// Records of compacted topics that were kept because there are too many keys.
    pub records_beyond_keys: u64,
    /// Segments that are compressed now.
    pub compressed_segments: u64,
    /// Bytes of the records that were compressed.
    pub compressed_record_bytes: u64,
    /// What they take on the disk.
    pub compressed_stored_bytes: u64,
    /// Damaged places that upkeep has met and left alone.
    pub damaged: u64,
    /// Why the last round failed, if it did.
    pub error: Option<String>,
    /// When the last scrub ended; 0: there was none yet.
    pub scrubbed_at: Micros,
    /// Scrubs.
    pub scrubs: u64,
    /// Damaged places that the last scrub has found.
    pub scrub_damages: u64,
}

impl Account {
    /// Bytes of records per byte on the disk, of what was compressed; `None` if nothing was.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub fn compression_ratio(&self) -> Option<f64> {
        let stored = self.compressed_stored_bytes;
        (stored > 0).then(|| self.compressed_record_bytes as f64 / stored as f64)
    }

    fn retained(&mut self, report: RetentionReport) {
        self.reclaimed_bytes += report.bytes_reclaimed();
        self.removed_records += report.removed_records + report.rewrites.records_removed;
        self.dead_bytes += report.dead_bytes_left;
        self.damaged = self.damaged.max(report.rewrites.damaged.len() as u64);
        self.held = report.held;
    }

    fn compacted(&mut self, report: &CompactionReport) {
        self.reclaimed_bytes += report.rewrites.bytes_reclaimed();
        self.removed_records += report.rewrites.records_removed;
        self.dead_bytes += report.dead_bytes_left;
        self.damaged = self.damaged.max(report.rewrites.damaged.len() as u64);
        self.records_beyond_keys = report.records_beyond_keys;
    }

    fn compressed(&mut self, report: &CompressionReport) {
        self.reclaimed_bytes += report.rewrites.bytes_reclaimed();
        self.compressed_segments = report.compressed_segments as u64;
        self.compressed_record_bytes += report.record_bytes;
        self.compressed_stored_bytes += report.stored_bytes;
    }
}

/// Sums over all realities since the broker started, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sums {
    /// Rounds over single realities.
    pub runs: u64,
    /// Bytes of files that are no longer needed.
    pub reclaimed_bytes: u64,
    /// Records that were removed.
    pub removed_records: u64,
    /// Rounds that failed.
    pub failures: u64,
    /// Bytes that consumers hold back now.
    pub held_bytes: u64,
    /// Scrubs of single realities.
    pub scrubs: u64,
    /// Damaged places that their last scrubs have found.
    pub scrub_damages: u64,
}

/// The accounts, and the switch that ends the thread.
#[derive(Debug, Default)]
pub(super) struct Maintenance {
    state: Mutex<State>,
    stopped: Condvar,
}

#[derive(Debug, Default)]
struct State {
    accounts: HashMap<(Tenant, RealityName), Account>,
    failures: u64,
    stopping: bool,
}

impl Maintenance {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the thread, in the middle of whatever it does.
    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.stopped.notify_all();
    }

    /// `false`: it was stopped meanwhile.
    pub(super) fn sleep(&self, pause: Duration) -> bool {
        let waited = self
            .stopped
            .wait_timeout_while(self.lock(), pause, |state| !state.stopping);
        !waited.unwrap_or_else(PoisonError::into_inner).0.stopping
    }

    /// What was done to a reality, if anything was yet.
    pub(super) fn account(&self, tenant: &Tenant, reality: &RealityName) -> Option<Account> {
        let key = (tenant.clone(), reality.clone());
        self.lock().accounts.get(&key).cloned()
    }

    pub(super) fn sums(&self) -> Sums {
        let state = self.lock();
        let mut sums = Sums {
            failures: state.failures,
            ..Sums::default()
        };
        for account in state.accounts.values() {
            sums.runs += account.runs;
            sums.reclaimed_bytes += account.reclaimed_bytes;
            sums.removed_records += account.removed_records;
            sums.held_bytes += account.held.iter().map(|held| held.bytes).sum::<u64>();
            sums.scrubs += account.scrubs;
            sums.scrub_damages += account.scrub_damages;
        }
        sums
    }

    fn enter(&self, whose: &Whose, account: Account) {
        let key = (whose.tenant.clone(), whose.name.clone());
        let mut state = self.lock();
        state.failures += u64::from(account.error.is_some());
        state.accounts.insert(key, account);
    }
}

/// Lets so many bytes through per second, and none once the broker is closed.
struct Pace<'a> {
    maintenance: &'a Maintenance,
    bytes_per_second: u64,
    /// When all that was let through has had its time.
    free_at: Mutex<Instant>,
}

impl Throttle for Pace<'_> {
    fn take(&self, bytes: u64) -> bool {
        let now = Instant::now();
        let wait = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let wait = free_at.saturating_duration_since(now);
            let nanos =
                u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
            let took = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            *free_at = (*free_at).max(now) + took;
            wait
        };
        self.maintenance.sleep(wait)
    }
}

/// Goes over all open realities once. `false`: it was stopped.
pub(super) fn round(broker: &Broker) -> bool {
    let pace = Pace {
        maintenance: &broker.maintenance,
        bytes_per_second: broker.upkeep.load().bytes_per_second,
        free_at: Mutex::new(Instant::now()),
    };
    for reality in broker.realities().iter().map(Whose::of).collect::<Vec<_>>() {
        if !broker.maintenance.sleep(Duration::ZERO) {
            return false;
        }
        keep_up(broker, &reality, &pace);
    }
    for whose in due_for_a_visit(broker) {
        if !broker.maintenance.sleep(Duration::ZERO) {
            return false;
        }
        // It is closed again like every other that nobody uses.
        let opened = broker
            .tenancy(&whose.tenant)
            .and_then(|tenancy| tenancy.reality(&whose.name));
        match opened {
            Ok(_visited) => keep_up(broker, &whose, &pace),
            Err(error) => {
                let Whose { tenant, name } = &whose;
                tracing::warn!(%tenant, reality = %name, %error, "not opened for its upkeep");
                let account = Account {
                    at: broker.now(),
                    error: Some(error.to_string()),
                    ..Account::default()
                };
                broker.maintenance.enter(&whose, account);
            }
        }
    }
    true
}

/// Realities that are not open, and that nobody has kept up for long.
fn due_for_a_visit(broker: &Broker) -> Vec<Whose> {
    let before = broker.now().0;
    let before = before.saturating_sub(micros(broker.upkeep.load().visit_interval));
    let maintenance = &broker.maintenance;
    let mut due: Vec<(Micros, Whose)> = broker
        .stored_realities()
        .into_iter()
        .filter(|(tenant, name)| !broker.is_open(tenant, name))
        .map(|(tenant, name)| {
            let account = maintenance.account(&tenant, &name);
            let at = account.map_or(Micros(0), |account| account.at);
            (at, Whose { tenant, name })
        })
        .filter(|(at, _)| at.0 <= before)
        .collect();
    due.sort_by_key(|(at, _)| *at);
    due.truncate(VISITS_IN_ROUND);
    due.into_iter().map(|(_, whose)| whose).collect()
}

/// A reality by name: holding it would keep it open.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Whose {
    tenant: Tenant,
    name: RealityName,
}

impl Whose {
    fn of(reality: &Arc<Reality>) -> Self {
        Self {
            tenant: reality.tenant().clone(),
            name: reality.name().clone(),
        }
    }
}

fn keep_up(broker: &Broker, whose: &Whose, pace: &Pace<'_>) {
    let Whose { tenant, name } = whose;
    let maintenance = &broker.maintenance;
    let Some((log, holders, declarations)) = log_and_holders(broker, whose) else {
        return;
    };
    let mut account = maintenance.account(tenant, name).unwrap_or_default();
    let before = (account.reclaimed_bytes, account.removed_records);
    account.dead_bytes = 0;
    account.error = None;
    match passes(broker, &log, &holders, &declarations, pace, &mut account) {
        Ok(Ended::Complete) => account.runs += 1,
        Ok(Ended::Stopped) => {}
        // Whoever reopens it or mends it says so.
        Ok(Ended::Refused { .. }) => return,
        Err(error) => {
            let error = log::with_source(&error);
            tracing::error!(%tenant, reality = %name, error, "upkeep of the log failed");
            account.error = Some(error);
        }
    }
    scrub(broker, whose, &log, pace, &mut account);
    account.at = broker.now();
    if (account.reclaimed_bytes, account.removed_records) != before {
        tracing::info!(
            %tenant,
            reality = %name,
            reclaimed_bytes = account.reclaimed_bytes - before.0,
            removed_records = account.removed_records - before.1,
            "log kept up"
        );
    }
    maintenance.enter(whose, account);
}

/// Looks for bit rot, if it is time to.
fn scrub(broker: &Broker, whose: &Whose, log: &Log, pace: &Pace<'_>, account: &mut Account) {
    let due = account
        .scrubbed_at
        .0
        .saturating_add(micros(broker.upkeep.load().scrub_interval));
    if account.scrubs > 0 && broker.now().0 < due {
        return;
    }
    match log.scrub(pace) {
        Ok(Some(found)) => {
            account.scrubs += 1;
            account.scrubbed_at = broker.now();
            account.scrub_damages = found.damages.len() as u64;
        }
        Ok(None) => {}
        Err(error) => {
            let Whose { tenant, name } = whose;
            let error = log::with_source(&error);
            tracing::error!(%tenant, reality = %name, error, "the log cannot be scrubbed");
            account.error = Some(error);
        }
    }
}

/// Only the log is held during the passes: whoever closes the reality ends them.
fn log_and_holders(
    broker: &Broker,
    whose: &Whose,
) -> Option<(Log, Vec<Holder>, Arc<Declarations>)> {
    let tenancy = broker.tenants.peek(&whose.tenant)?;
    let named = |reality: &Arc<Reality>| *reality.name() == whose.name;
    let reality = tenancy
        .peek(&whose.name)
        .or_else(|| tenancy.all_opened().into_iter().find(named))?;
    let holders = holders(&tenancy, &reality, &broker.upkeep.load().hold_for);
    let declarations = Arc::clone(reality.declarations());
    Some((reality.log(), holders, declarations))
}

fn passes(
    broker: &Broker,
    log: &Log,
    holders: &[Holder],
    declarations: &Declarations,
    pace: &Pace<'_>,
    account: &mut Account,
) -> Result<Ended, log::Error> {
    let options = &**broker.upkeep.load();
    let overdue_micros = micros(options.overdue);
    if options.rules.limit_something() {
        let retention = Retention {
            limits: &|topic| options.rules.limits(topic),
            holders,
            hold_bytes_max: options.hold_bytes_max,
            dead_percent: options.dead_percent,
            overdue_micros,
            compression_level: options.compression_level,
        };
        let report = log.retain(&retention, pace)?;
        let ended = report.rewrites.ended.clone();
        account.retained(report);
        if ended != Ended::Complete {
            return Ok(ended);
        }
    }
    let declared = declarations.now();
    let compaction = Compaction {
        // What came before the last record of a key counts where that is a delta.
        rule: &|topic| {
            let rule = options.rules.compaction(topic);
            rule.filter(|_| !declarations.now().is_delta(topic))
        },
        facts: &facts,
        // Settings are read once.
        edition: declared.edition,
        keys_max: options.keys_max,
        dead_percent: options.dead_percent,
        overdue_micros,
        compression_level: options.compression_level,
    };
    let report = log.compact(&compaction, pace)?;
    if !report.skipped {
        account.compacted(&report);
    }
    if report.rewrites.ended != Ended::Complete {
        return Ok(report.rewrites.ended);
    }
    let Some(after) = options.compress_after else {
        return Ok(Ended::Complete);
    };
    let compression = Compression {
        level: options.compression_level,
        newest_left: NEWEST_UNCOMPRESSED,
        before: Micros(broker.now().0.saturating_sub(micros(after))),
    };
    let report = log.compress(&compression, pace)?;
    account.compressed(&report);
    Ok(report.rewrites.ended)
}

/// Cursors in `reality` that hold its records.
fn holders(tenancy: &Tenancy, reality: &Reality, hold_for: &[Filter]) -> Vec<Holder> {
    if hold_for.is_empty() {
        return Vec::new();
    }
    let consumers = tenancy.consumers().list().into_iter();
    let holding = consumers.filter(|consumer| {
        let named = |pattern: &Filter| pattern.matches(&consumer.consumer);
        consumer.reality == *reality.name() && hold_for.iter().any(named)
    });
    let consumers = holding.map(|consumer| Holder {
        needs_from: consumer.next(),
        name: consumer.consumer,
    });
    let groups = tenancy.groups().list().into_iter().filter(|group| {
        let named = |pattern: &Filter| pattern.matches(&group.group);
        group.reality == *reality.name() && hold_for.iter().any(named)
    });
    let groups = groups.map(|group| Holder {
        name: group.group,
        needs_from: group.floor,
    });
    consumers.chain(groups).collect()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    // LOG-11: upkeep takes no more of the disk than it is given, and ends at once when it is to.
    #[test]
    fn the_pace_is_kept_and_ends_at_once() {
        let maintenance = Maintenance::default();
        let pace = Pace {
            maintenance: &maintenance,
            bytes_per_second: 1_000_000,
            free_at: Mutex::new(Instant::now()),
        };
        let started = Instant::now();
        for _ in 0..11 {
            assert!(pace.take(10_000));
        }
        assert!(started.elapsed() >= Duration::from_millis(100));
        assert!(pace.take(1_000_000_000));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pace.take(1));
            maintenance.stop();
            assert!(!waiting.join().unwrap());
        });
        assert!(started.elapsed() < Duration::from_secs(60));
        assert!(!pace.take(0));
    }
}
