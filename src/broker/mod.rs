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
pub mod command;
pub mod consumer;
pub mod damage;
pub mod error;
pub mod fanout;
pub mod filter;
pub mod maintenance;
pub mod name;
pub mod producers;
pub mod reality;
pub mod repair;
pub mod scan;
#[cfg(test)]
mod scenarios;
pub mod stamp;
pub mod subscription;
mod system;
pub mod tenancy;
pub mod topic_rules;
pub mod trie;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

pub use access::{Identity, Role, Topics};
pub use consumer::Consumers;
pub use error::Error;
pub use filter::Filter;
pub use name::{NameError, RealityName, Tenant};
pub use reality::{ReadOnly, Reality};
pub use subscription::Subscription;
pub use tenancy::Tenancy;
pub use topic_rules::{TopicRule, TopicRules};

use crate::log::{self, Environment, Micros};
use maintenance::Maintenance;
use reality::Ground;
use repair::Repairs;
use stamp::IdSource;

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
    /// Most tenants that are open at a time.
    pub tenants_max: usize,
    /// Most realities of a tenant.
    pub realities_max: usize,
    /// Most named consumers of a tenant.
    pub consumers_max: usize,
    /// Most producers of a reality whose own clocks are remembered.
    pub producers_max: usize,
    /// How logs are kept up.
    pub maintenance: maintenance::Options,
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
            tenants_max: 1_000,
            realities_max: 256,
            consumers_max: 10_000,
            producers_max: 65_536,
            maintenance: maintenance::Options::default(),
        }
    }
}

/// Sums over all open logs, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Realities that are open.
    pub realities: usize,
    /// Those that take no writes.
    pub read_only: usize,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Flushes since the logs were opened.
    pub flushes: u64,
    /// Bytes of records and their framing.
    pub used_bytes: u64,
    /// Bytes in memory for live readers.
    pub tail_bytes: usize,
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
    tenants: RwLock<HashMap<Tenant, Arc<Tenancy>>>,
    /// Held while a tenant is opened, so that none is opened twice.
    opening: Mutex<()>,
    repairer: Mutex<Option<JoinHandle<()>>>,
    maintenance: Arc<Maintenance>,
    maintainer: Mutex<Option<JoinHandle<()>>>,
}

impl Broker {
    /// Starts a broker with no tenant open, the thread that reopens logs after a failure, and the
    /// one that keeps logs up; they end with [`Broker::close`].
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(environment: Environment, options: Options) -> std::io::Result<Arc<Self>> {
        let ground = Arc::new(Ground {
            environment,
            options: options.log.clone(),
            node: options.node,
            node_name: options.node_name.clone(),
            producers_max: options.producers_max,
            ids: IdSource::new(),
            repairs: Repairs::default(),
        });
        let broker = Arc::new(Self {
            ground,
            options,
            tenants: RwLock::default(),
            opening: Mutex::new(()),
            repairer: Mutex::new(None),
            maintenance: Arc::default(),
            maintainer: Mutex::new(None),
        });
        let ground = Arc::clone(&broker.ground);
        let weak = Arc::downgrade(&broker);
        let repairer = std::thread::Builder::new()
            .name("arqon-repair".into())
            .spawn(move || {
                while let Some(due) = ground.repairs.next() {
                    let Some(broker) = weak.upgrade() else { return };
                    broker.repair(due);
                }
            })?;
        let slot = &broker.repairer;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(repairer);
        broker.start_maintenance()?;
        Ok(broker)
    }

    fn start_maintenance(self: &Arc<Self>) -> std::io::Result<()> {
        let weak = Arc::downgrade(self);
        let maintenance = Arc::clone(&self.maintenance);
        let interval = self.options.maintenance.interval;
        let maintainer = std::thread::Builder::new()
            .name("arqon-upkeep".into())
            .spawn(move || {
                while maintenance.sleep(interval) {
                    let Some(broker) = weak.upgrade() else { return };
                    if !maintenance::round(&broker) {
                        return;
                    }
                }
            })?;
        let slot = &self.maintainer;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(maintainer);
        Ok(())
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

    /// A tenant that is open already.
    #[must_use]
    pub fn opened(&self, tenant: &Tenant) -> Option<Arc<Tenancy>> {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        tenants.get(tenant).cloned()
    }

    /// A tenant, opened if it is not, and created if there is none. Blocks.
    ///
    /// # Errors
    /// Too many are open; its system log cannot be opened.
    pub fn tenancy(&self, tenant: &Tenant) -> Result<Arc<Tenancy>, Error> {
        if let Some(tenancy) = self.opened(tenant) {
            return Ok(tenancy);
        }
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tenancy) = self.opened(tenant) {
            return Ok(tenancy);
        }
        if self.ground.repairs.closed() {
            return Err(Error::ShuttingDown);
        }
        let limit = self.options.tenants_max;
        if self.tenancies().len() >= limit {
            return Err(Error::TenantsFull { limit });
        }
        let tenancy = Tenancy::open(
            &self.ground,
            tenant,
            self.options.directory.join(tenant.as_str()),
            self.options.realities_max,
            self.options.consumers_max,
        )?;
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        tenants.insert(tenant.clone(), Arc::clone(&tenancy));
        Ok(tenancy)
    }

    /// Tenants that are open.
    #[must_use]
    pub fn tenancies(&self) -> Vec<Arc<Tenancy>> {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        tenants.values().cloned().collect()
    }

    /// Sums over all open logs.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for reality in self.realities() {
            let status = reality.log().status();
            totals.realities += 1;
            totals.read_only += usize::from(reality.read_only().is_some());
            totals.subscriptions += reality.subscriptions();
            totals.flushes += status.flushes;
            totals.used_bytes += status.used_bytes;
            totals.tail_bytes += status.tail_bytes;
            totals.waiting_bytes += status.waiting_bytes;
            totals.damaged_reads += reality.encounters().reads();
        }
        totals
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
        self.maintenance.stop();
        for thread in [&self.repairer, &self.maintainer] {
            let thread = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            // The last handle may be dropped by one of the threads, which cannot wait for itself.
            if let Some(thread) = thread
                && thread.thread().id() != std::thread::current().id()
                && thread.join().is_err()
            {
                tracing::error!("a thread of the broker panicked");
            }
        }
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        for tenancy in self.tenancies() {
            tenancy.close();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.close();
    }
}
