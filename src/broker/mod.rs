//! Turns one log into topics, cursors and subscriptions.
//!
//! Owns what a topic, a reality and a consumer are. Knows no socket, token or frame.
//!
//! - [`Broker`]: the tenants of a node; [`Tenancy`]: the realities of one; [`Reality`]: one log.
//! - [`accept`]: from an envelope to a record; [`Subscription`]: a cursor over the records.
//! - [`fanout`]: who is told when a log grows; [`Consumers`]: cursors that survive.
//!
//! An append goes `accept` -> `Reality::append` -> log -> `fanout` -> the subscriber, who reads the
//! log. No record is queued here.

pub mod accept;
pub mod access;
mod ask;
pub mod attendance;
pub mod audit;
mod backup;
pub mod causality;
pub mod command;
pub mod compare;
pub mod consumer;
mod control;
pub mod damage;
mod delta;
pub mod error;
mod expiry;
pub mod fanout;
pub mod filter;
mod gate;
pub mod group;
pub mod history;
pub mod journal;
pub mod ledger;
pub mod letter;
pub mod maintenance;
pub mod name;
pub mod openings;
pub mod operators;
mod own;
pub mod producers;
mod quota;
pub mod reality;
mod register;
mod removal;
pub mod repair;
pub mod replaying;
mod rewind;
pub mod room;
pub mod rooms;
mod roster;
pub mod sandbox;
pub mod scan;
#[cfg(test)]
mod scenarios;
pub mod stamp;
mod stored;
pub mod subscription;
mod system;
pub mod tenancy;
pub mod topic_rules;
pub mod trie;
mod turns;
pub mod verb;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

pub use access::{Identity, Role, Topics};
pub use consumer::Consumers;
pub use error::Error;
pub use filter::{Filter, Traits};
pub use gate::{Duplicate, Receipt, Unmet};
pub use group::Groups;
pub use name::{NameError, RealityName, Tenant, check_token};
pub use own::{Expected, OwnRecord};
pub use reality::{ReadOnly, Reality};
pub use register::Birth;
pub use subscription::Subscription;
pub use tenancy::Tenancy;
pub use topic_rules::{TopicRule, TopicRules};

use crate::log::{self, Environment, Micros};
use crate::proto::v1::BackupManifest;
use backup::Backups;
use maintenance::Maintenance;
use reality::{Ground, Past};
use repair::Repairs;
use roster::{Idle, Roster};
use stamp::IdSource;
use tenancy::Allowance;

/// How often at least it is looked what nobody uses, and how much is stored.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a broker is told when it starts.
#[derive(Clone, Debug)]
pub struct Options {
    /// Holds one directory for each tenant.
    pub directory: PathBuf,
    /// Number of the node, stored in every batch of a log.
    pub node: u32,
    /// Name of the node in vector clocks.
    pub node_name: String,
    /// Sizes of each log.
    pub log: log::Options,
    /// A reality or a tenant that nobody has used for so long is closed.
    pub idle_close: Duration,
    /// Most tenants that are open at a time.
    pub tenants_max: usize,
    /// Most realities of a tenant.
    pub realities_max: usize,
    /// Most bytes that the realities of a tenant may store.
    pub tenant_bytes_max: Option<u64>,
    /// Most topics that the realities of a tenant may have.
    pub tenant_topics_max: Option<u64>,
    /// Most named consumers of a tenant.
    pub consumers_max: usize,
    /// What groups of competing consumers may do.
    pub groups: group::Bounds,
    /// Most producers of a reality whose own clocks are remembered.
    pub producers_max: usize,
    /// For how long the ids that producers give are remembered.
    pub dedup_window: Duration,
    /// Most ids of a reality that are remembered for so long; 0: none are.
    pub dedup_ids_max: usize,
    /// Where what folds come to is kept between two openings; `None`: nowhere, they are read anew.
    pub states: Option<PathBuf>,
    /// Bounds of the built-in operators.
    pub operators: operators::Settings,
    /// How large rooms may grow.
    pub rooms: rooms::Limits,
    /// How logs are kept up.
    pub maintenance: maintenance::Options,
    /// How webhooks are sent.
    pub webhooks: operators::webhook::Settings,
    /// How the laboratory works, if there is one.
    pub omega: operators::omega::Settings,
}

impl Options {
    /// The usual bounds.
    #[must_use]
    pub fn new(directory: PathBuf, node: u32, node_name: String) -> Self {
        Self {
            directory,
            node,
            node_name,
            log: log::Options::default(),
            idle_close: Duration::from_secs(300),
            tenants_max: 1_000,
            realities_max: 256,
            tenant_bytes_max: None,
            tenant_topics_max: None,
            consumers_max: 10_000,
            groups: group::Bounds::default(),
            producers_max: 65_536,
            dedup_window: Duration::from_secs(600),
            dedup_ids_max: 1_000_000,
            states: None,
            operators: operators::Settings::default(),
            rooms: rooms::Limits::default(),
            maintenance: maintenance::Options::default(),
            webhooks: operators::webhook::Settings::default(),
            omega: operators::omega::Settings::default(),
        }
    }
}

/// Sums over all open logs, for metrics; of flushes and damaged reads, over those closed since too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Realities that are open.
    pub realities: usize,
    /// Those that take no writes.
    pub read_only: usize,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Members of groups.
    pub group_members: usize,
    /// Records that they have.
    pub group_in_flight: usize,
    /// Records that groups have read and that are not done.
    pub group_open: usize,
    /// Flushes since the logs were opened.
    pub flushes: u64,
    /// Bytes of records and their framing.
    pub used_bytes: u64,
    /// Bytes in memory for live readers.
    pub tail_bytes: usize,
    /// About how many bytes of memory the indexes take.
    pub index_bytes: u64,
    /// Files held open.
    pub file_handles: usize,
    /// Bytes waiting to be written.
    pub waiting_bytes: usize,
    /// How often reads have met damage.
    pub damaged_reads: u64,
}

/// The tenants of a node.
#[derive(Debug)]
pub struct Broker {
    ground: Arc<Ground>,
    options: Options,
    tenants: Roster<Tenant, Tenancy>,
    /// Tenants that are open, or being opened or closed.
    seats: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
    backups: Backups,
    maintenance: Arc<Maintenance>,
    upkeep: ArcSwap<maintenance::Options>,
    duties: operators::Duties,
    webhooks: operators::webhook::Desk,
    omega: operators::omega::Desk,
    contracts: operators::contracts::Registry,
    sam_counts: operators::sam::Counts,
}

impl Broker {
    /// Starts a broker with no tenant open, and four threads, which end with [`Broker::close`]:
    /// one reopens logs after a failure, one closes what nobody uses, one keeps logs up, one looks
    /// after groups.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(environment: Environment, options: Options) -> std::io::Result<Arc<Self>> {
        let cache = options.states.as_deref().map(ledger::Cache::open);
        let ground = Arc::new(Ground {
            cache: cache.transpose()?,
            settings: options.operators,
            environment,
            options: options.log.clone(),
            node: options.node,
            node_name: options.node_name.clone(),
            producers_max: options.producers_max,
            reach: gate::Reach {
                window: Micros(u64::try_from(options.dedup_window.as_micros()).unwrap_or(u64::MAX)),
                ids_max: options.dedup_ids_max,
            },
            ids: IdSource::new(),
            repairs: Repairs::default(),
            past: Past::default(),
            openings: openings::Openings::default(),
            feeder: Arc::default(),
        });
        let upkeep = ArcSwap::from_pointee(options.maintenance.clone());
        let broker = Arc::new(Self {
            webhooks: operators::webhook::Desk::new(options.webhooks.clone()),
            omega: operators::omega::Desk::new(options.omega.clone()),
            ground,
            options,
            tenants: Roster::default(),
            seats: AtomicUsize::new(0),
            threads: Mutex::default(),
            backups: Backups::default(),
            maintenance: Arc::default(),
            upkeep,
            duties: operators::Duties::default(),
            contracts: operators::contracts::Registry::default(),
            sam_counts: operators::sam::Counts::default(),
        });
        broker.spawn("arqon-repair", |ground, broker| {
            while let Some(due) = ground.repairs.next() {
                let Some(broker) = broker.upgrade() else {
                    return;
                };
                broker.repair(due);
            }
        })?;
        let every = (broker.options.idle_close / 4).min(LOOK_EVERY);
        broker.spawn("arqon-idle", move |ground, broker| {
            while !ground.repairs.closes_within(every) {
                let Some(broker) = broker.upgrade() else {
                    return;
                };
                broker.close_idle(Instant::now());
                broker.tenancies().iter().for_each(|one| one.measure());
            }
        })?;
        broker.spawn("arqon-groups", |ground, _| {
            while let Some(group) = ground.feeder.next() {
                if let Some(group) = group.upgrade() {
                    group.serve();
                }
            }
        })?;
        broker.finish_unfinished();
        let maintenance = Arc::clone(&broker.maintenance);
        let mut interval = broker.upkeep.load().interval;
        broker.spawn("arqon-upkeep", move |_, broker| {
            while maintenance.sleep(interval) {
                let Some(broker) = broker.upgrade() else {
                    return;
                };
                interval = broker.upkeep.load().interval;
                if !maintenance::round(&broker) {
                    return;
                }
            }
        })?;
        Ok(broker)
    }

    /// Goes on with deletions that the last run of the node did not finish, and clears unfinished
    /// forks away.
    fn finish_unfinished(&self) {
        let (ground, data) = (&self.ground, &self.options.directory);
        for (tenant, note) in removal::unfinished_tenants(&*ground.environment.storage, data) {
            let finished = match note {
                Some(note) => removal::finish_tenant(ground, data, &tenant, &note),
                // Opening it clears up.
                None => self.tenancy(&tenant).map(drop),
            };
            if let Err(error) = finished {
                tracing::error!(%tenant, %error, "what was unfinished is unfinished still");
            }
        }
    }

    /// Deletes a tenant with all its realities; the deletion is recorded in the reality `_system` of
    /// the tenant `_node`. Blocks.
    ///
    /// # Errors
    /// There is none; it is open; it cannot be removed, or the removal not recorded: another attempt
    /// goes on then.
    pub fn delete_tenant(&self, tenant: &Tenant, by: &str) -> Result<(), Error> {
        let _turn = self.tenants.turn(tenant).ok_or(Error::ShuttingDown)?;
        if self.tenants.holds(tenant) {
            let tenant = tenant.clone();
            return Err(Error::TenantInUse { tenant });
        }
        if let Some(cache) = &self.ground.cache {
            cache.forget(tenant.as_str());
        }
        removal::delete_tenant(&self.ground, &self.options.directory, tenant, by)
    }

    fn spawn(
        self: &Arc<Self>,
        name: &str,
        body: impl FnOnce(&Ground, &Weak<Self>) + Send + 'static,
    ) -> std::io::Result<()> {
        let ground = Arc::clone(&self.ground);
        let weak = Arc::downgrade(self);
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || body(&ground, &weak))?;
        let threads = &self.threads;
        threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(thread);
        Ok(())
    }

    /// What is kept of `topic`, as the rules stand now.
    #[must_use]
    pub fn limits_of(&self, topic: &str) -> log::Limits {
        self.upkeep.load().rules.limits(topic)
    }

    /// What upkeep has done to a reality, if it was there yet.
    #[must_use]
    pub fn maintained(
        &self,
        tenant: &Tenant,
        reality: &RealityName,
    ) -> Option<maintenance::Account> {
        self.maintenance.account(tenant, reality)
    }

    /// What upkeep has done to all realities.
    #[must_use]
    pub fn maintained_in_all(&self) -> maintenance::Sums {
        self.maintenance.sums()
    }

    /// The wall clock.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.ground.environment.clock.now()
    }

    /// Keeps logs up in another way from the next round on.
    pub fn keep_up(&self, options: maintenance::Options) {
        self.upkeep.store(Arc::new(options));
    }

    /// What is kept of a topic: its limits, and how it is compacted if it is.
    #[must_use]
    pub fn kept(&self, topic: &str) -> (log::Limits, Option<log::KeyRule>) {
        let upkeep = self.upkeep.load();
        (upkeep.rules.limits(topic), upkeep.rules.compaction(topic))
    }

    fn backups(&self) -> &Backups {
        &self.backups
    }

    /// Takes a picture of all logs of a tenant. Blocks.
    fn begin_backup(&self, tenancy: &Tenancy) -> Result<(u64, BackupManifest), Error> {
        let node = (self.ground.node_name.as_str(), self.ground.node);
        self.backups.begin(tenancy, node)
    }

    /// Name of the node in vector clocks.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.ground.node_name
    }

    /// Largest batch that a log takes at a time, in encoded bytes.
    #[must_use]
    pub fn waiting_bytes_max(&self) -> usize {
        self.options.log.waiting_bytes_max
    }

    /// A tenant that is open already, for whoever uses it.
    #[must_use]
    pub fn opened(&self, tenant: &Tenant) -> Option<Arc<Tenancy>> {
        self.tenants.get(tenant)
    }

    /// A tenant, opened if it is not, and created if there is none. Blocks.
    ///
    /// # Errors
    /// Too many are open and in use; its system log cannot be opened.
    pub fn tenancy(&self, tenant: &Tenant) -> Result<Arc<Tenancy>, Error> {
        if let Some(tenancy) = self.opened(tenant) {
            return Ok(tenancy);
        }
        let _turn = self.tenants.turn(tenant).ok_or(Error::ShuttingDown)?;
        if let Some(tenancy) = self.opened(tenant) {
            return Ok(tenancy);
        }
        if self.ground.repairs.closed() {
            return Err(Error::ShuttingDown);
        }
        self.take_seat()?;
        let allowance = Allowance {
            realities_max: self.options.realities_max,
            consumers_max: self.options.consumers_max,
            groups: self.options.groups,
            rooms: self.options.rooms,
            bytes_max: self.options.tenant_bytes_max,
            topics_max: self.options.tenant_topics_max,
        };
        let directory = self.options.directory.join(tenant.as_str());
        let opened = Tenancy::open(&self.ground, tenant, directory, allowance);
        if opened.is_err() {
            self.seats.fetch_sub(1, Ordering::SeqCst);
        }
        let tenancy = opened?;
        self.tenants.insert(tenant.clone(), Arc::clone(&tenancy));
        self.duties.look(tenant);
        Ok(tenancy)
    }

    /// Makes room for one more tenant, by closing the one that nobody uses for longest if need be.
    fn take_seat(&self) -> Result<(), Error> {
        let limit = self.options.tenants_max;
        let take = || {
            let one_more = |seats| (seats < limit).then_some(seats + 1);
            let taken = self
                .seats
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
            taken.is_ok()
        };
        if take() {
            return Ok(());
        }
        self.close_idle_tenants(Idle {
            now: Instant::now(),
            longer_than: Duration::ZERO,
            at_most: 1,
        });
        if take() {
            Ok(())
        } else {
            Err(Error::TenantsFull { limit })
        }
    }

    /// Closes what nobody has used for long enough. Blocks.
    fn close_idle(&self, now: Instant) {
        let idle = Idle {
            now,
            longer_than: self.options.idle_close,
            at_most: usize::MAX,
        };
        for tenancy in self.tenancies() {
            tenancy.close_idle(idle);
        }
        self.close_idle_tenants(idle);
    }

    fn close_idle_tenants(&self, idle: Idle) {
        self.tenants
            .close_idle(idle, Tenancy::is_at_rest, |tenancy| {
                tracing::debug!(tenant = %tenancy.tenant(), "idle tenant closed");
                tenancy.close();
                drop(tenancy);
                self.seats.fetch_sub(1, Ordering::SeqCst);
            });
    }

    /// Bounds of the built-in operators.
    pub(crate) fn settings(&self) -> &operators::Settings {
        &self.ground.settings
    }

    /// What the built-in operators have to do.
    #[must_use]
    pub const fn duties(&self) -> &operators::Duties {
        &self.duties
    }

    /// What webhooks share.
    #[must_use]
    pub const fn webhooks(&self) -> &operators::webhook::Desk {
        &self.webhooks
    }

    /// What the laboratories of all tenants share.
    pub(crate) const fn omega(&self) -> &operators::omega::Desk {
        &self.omega
    }

    /// What payloads of operators must look like.
    #[must_use]
    pub const fn contracts(&self) -> &operators::contracts::Registry {
        &self.contracts
    }

    /// What has become of operators' tasks.
    #[must_use]
    pub const fn sam_counts(&self) -> &operators::sam::Counts {
        &self.sam_counts
    }

    /// Which realities were opened. For one listener.
    #[must_use]
    pub fn openings(&self) -> &openings::Openings {
        &self.ground.openings
    }

    /// Tenants that have a log called `name` on disk, open or not. Blocks.
    #[must_use]
    pub fn tenants_with(&self, name: &RealityName) -> Vec<Tenant> {
        let directory = &self.options.directory;
        let mut tenants = removal::tenants_in(directory);
        tenants.retain(|tenant| directory.join(tenant.as_str()).join(name.as_str()).is_dir());
        tenants
    }

    /// Whether a tenant has logs on disk. Blocks.
    #[must_use]
    pub fn is_stored(&self, tenant: &Tenant) -> bool {
        self.options.directory.join(tenant.as_str()).is_dir()
    }

    /// Whether a reality is open, for whoever does not use it.
    #[must_use]
    pub fn is_open(&self, tenant: &Tenant, reality: &RealityName) -> bool {
        let tenancy = self.tenants.peek(tenant);
        tenancy.is_some_and(|tenancy| tenancy.is_open(reality))
    }

    /// Tenants that are open, for whoever looks at them and lets go.
    #[must_use]
    pub fn tenancies(&self) -> Vec<Arc<Tenancy>> {
        self.tenants.all()
    }

    /// Sums over all open logs.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let past = &self.ground.past;
        let mut totals = Totals {
            flushes: past.flushes.load(Ordering::Relaxed),
            damaged_reads: past.damaged_reads.load(Ordering::Relaxed),
            ..Totals::default()
        };
        for reality in self.realities() {
            let status = reality.log().status();
            totals.realities += 1;
            totals.read_only += usize::from(reality.read_only().is_some());
            totals.subscriptions += reality.subscriptions();
            totals.flushes += status.flushes;
            totals.used_bytes += status.used_bytes;
            totals.tail_bytes += status.tail_bytes;
            totals.index_bytes += status.index_bytes;
            totals.file_handles += status.file_handles;
            totals.waiting_bytes += status.waiting_bytes;
            totals.damaged_reads += reality.encounters().reads();
        }
        for tenancy in self.tenancies() {
            tenancy.groups().add_to(&mut totals);
        }
        totals
    }

    /// Members of rooms, and channels that have some, of all tenants that are open.
    #[must_use]
    pub fn room_members(&self) -> (usize, usize) {
        let totals = self.tenancies().into_iter().map(|one| one.rooms().totals());
        totals.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Realities that take no writes, and why: reasons not to be ready.
    #[must_use]
    pub fn read_only(&self) -> Vec<(Tenant, RealityName, ReadOnly)> {
        let realities = self.realities();
        let state = |reality: Arc<Reality>| {
            let state = reality.read_only()?;
            Some((reality.tenant().clone(), reality.name().clone(), state))
        };
        realities.into_iter().filter_map(state).collect()
    }

    /// How many realities take writes although reading has met damage in them.
    #[must_use]
    pub fn damaged(&self) -> usize {
        let realities = self.realities();
        let met = |reality: &&Arc<Reality>| {
            reality.encounters().reads() > 0 && reality.read_only().is_none()
        };
        realities.iter().filter(met).count()
    }

    fn realities(&self) -> Vec<Arc<Reality>> {
        let tenancies = self.tenancies();
        tenancies
            .iter()
            .flat_map(|tenancy| tenancy.all_opened())
            .collect()
    }

    /// Names of all realities that have a directory, open or not.
    fn stored_realities(&self) -> Vec<(Tenant, RealityName)> {
        let mut stored = Vec::new();
        for directory in removal::directories_in(&self.options.directory) {
            let tenant = directory.file_name().and_then(|name| name.to_str());
            let Some(Ok(tenant)) = tenant.map(Tenant::new) else {
                continue;
            };
            for reality in removal::directories_in(&directory) {
                let name = reality.file_name().and_then(|name| name.to_str());
                if let Some(Ok(name)) = name.map(RealityName::new) {
                    stored.push((tenant.clone(), name));
                }
            }
        }
        stored
    }

    fn repair(&self, due: repair::Due) {
        let Some(tenancy) = self.opened(&due.tenant) else {
            return;
        };
        match tenancy.repair(&due.reality) {
            Ok(()) => {
                tracing::info!(tenant = %due.tenant, reality = %due.reality, "log reopened");
            }
            Err(error) => {
                tracing::error!(tenant = %due.tenant, reality = %due.reality, %error, "log not reopened");
                self.ground.repairs.failed(due);
            }
        }
    }

    /// Flushes and closes all logs and ends the threads. Nothing is opened afterwards. Blocks.
    pub fn close(&self) {
        self.ground.repairs.close();
        self.ground.feeder.close();
        self.maintenance.stop();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // The last handle may be dropped by one of them, which cannot wait for itself.
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("a thread of the broker panicked");
            }
        }
        self.tenants.shut();
        for tenancy in self.tenancies() {
            tenancy.close();
        }
        if let Some(cache) = &self.ground.cache {
            cache.flush();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.close();
    }
}
