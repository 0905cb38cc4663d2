//! What stands between a message and the log: what the edge has in force for each tenant.
//!
//! - [`rules`]: what is in force, as one value that never changes; a fold of the tenant's events
//!   `sys.edge.>` on top of the node's own settings.
//! - [`guard`]: the rules of one tenant, changed by events and swapped as a whole.
//! - [`judge`]: the order of the checks, and what they leave in the record.
//! - [`decisions`]: every refusal counted, and sampled into the tenant's audit.
//! - [`roll`]: the sessions that are live, so that one that is revoked ends.
//! - `audited`: the audit around each command that changes something.
//! - [`command`]: the commands by which all this is changed; [`status`]: what is in force.
//!
//! Fail-closed: what cannot be read, folded or decided blocks.

mod audited;
pub mod command;
pub mod decisions;
pub mod guard;
pub mod judge;
pub mod roll;
pub mod rules;
pub mod status;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;

pub use self::guard::Guard;
pub use self::judge::{Blocked, Findings, Message};
pub use self::rules::{Fault, Rules, Workshop};
use super::metrics::Metrics;
use super::rate::{self, allowance::Pace};
use super::reload::Reloader;
use super::revocation::Standing;
use crate::broker::{Broker, Identity, Role, Tenancy, Tenant};
use crate::config::{Config, Limits};

/// Whose admins may do what concerns the whole node.
fn keepers(config: &Config) -> Result<Option<Tenant>, Vec<Fault>> {
    match config.ops.tenant.as_str() {
        "" => Ok(None),
        name => Tenant::new(name).map(Some).map_err(|fault| {
            let text = format!("ops.tenant = {name:?} is no tenant: the name {fault}");
            vec![Fault::invalid("ops.tenant", text)]
        }),
    }
}

/// The guards of all tenants of this node.
#[derive(Debug)]
pub struct Shield {
    /// What holds for every tenant: the node's own settings.
    baseline: Rules,
    workshop: Arc<Workshop>,
    metrics: Arc<Metrics>,
    guards: Mutex<HashMap<Tenant, Arc<Guard>>>,
    /// Guards that are kept when nobody uses them.
    kept_max: usize,
    session_pace: ArcSwap<Pace>,
    /// Whose admins may do what concerns the whole node.
    keepers: Option<Tenant>,
    reloader: OnceLock<Arc<Reloader>>,
    envelope_bytes_max: usize,
    tenant_pace: Pace,
}

impl Shield {
    /// Makes ready what the node's settings put in force.
    ///
    /// # Errors
    /// Everything in the settings that cannot be put in force.
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Result<Arc<Self>, Vec<Fault>> {
        let keepers = keepers(config)?;
        let workshop = Arc::new(Workshop::new(config, &metrics)?);
        let baseline = Rules::of_node(config, &workshop)?;
        Ok(Arc::new(Self {
            baseline,
            workshop,
            metrics,
            guards: Mutex::default(),
            kept_max: config.limits.tenants_max,
            session_pace: ArcSwap::from_pointee(rate::of_session(&config.limits)),
            keepers,
            reloader: OnceLock::new(),
            envelope_bytes_max: config.limits.envelope_bytes_max,
            tenant_pace: rate::of_tenant(&config.limits),
        }))
    }

    /// The guard of a tenant, if it is at hand, with all in force.
    #[must_use]
    pub fn opened(&self, tenant: &Tenant) -> Option<Arc<Guard>> {
        let guards = self.lock();
        guards.get(tenant).filter(|guard| guard.is_ready()).cloned()
    }

    /// The guard of a tenant, with all in force that its events say. Blocks on the disk.
    ///
    /// What cannot be folded is in the guard's rules, which then block everything.
    pub fn open(&self, tenancy: &Arc<Tenancy>) -> Arc<Guard> {
        let guard = self.guard(tenancy.tenant());
        if !guard.is_ready() {
            let turn = guard.turn();
            // Whoever had the turn before has read the events, or has failed.
            if !guard.is_ready() {
                guard.catch_up(tenancy, turn);
            }
        }
        guard
    }

    /// What a verified token is worth. If the tenant's logs cannot be opened nothing speaks against
    /// it: there is nothing that its session could begin with.
    pub async fn standing(self: &Arc<Self>, broker: &Arc<Broker>, identity: &Identity) -> Standing {
        let guard = match self.opened(&identity.tenant) {
            Some(guard) => Some(guard),
            None => {
                let (broker, shield) = (Arc::clone(broker), Arc::clone(self));
                let tenant = identity.tenant.clone();
                let open = move || broker.tenancy(&tenant).ok().map(|one| shield.open(&one));
                tokio::task::spawn_blocking(open).await.ok().flatten()
            }
        };
        guard.map_or(Standing::Good, |guard| guard.rules().standing(identity))
    }

    fn guard(&self, tenant: &Tenant) -> Arc<Guard> {
        let mut guards = self.lock();
        if let Some(guard) = guards.get(tenant) {
            return Arc::clone(guard);
        }
        if guards.len() >= self.kept_max {
            guards.retain(|_, guard| Arc::strong_count(guard) > 1);
        }
        let guard = Arc::new(Guard::new(
            tenant.clone(),
            self.baseline.clone(),
            Arc::clone(&self.workshop),
            Arc::clone(&self.metrics),
            self.tenant_pace,
        ));
        guards.insert(tenant.clone(), Arc::clone(&guard));
        guard
    }

    /// What is used to make rules: engines and caches.
    #[must_use]
    pub const fn workshop(&self) -> &Arc<Workshop> {
        &self.workshop
    }

    /// What one session may send.
    #[must_use]
    pub fn session_pace(&self) -> Pace {
        **self.session_pace.load()
    }

    /// Changes what each session that is yet to come may send.
    pub fn pace(&self, limits: &Limits) {
        self.session_pace.store(Arc::new(rate::of_session(limits)));
    }

    /// Whether the caller may do what concerns the whole node.
    #[must_use]
    pub fn keeps_the_node(&self, caller: &Identity) -> bool {
        caller.role == Role::Admin && self.keepers.as_ref() == Some(&caller.tenant)
    }

    /// Who reads the settings again, if anybody can.
    #[must_use]
    pub fn reloader(&self) -> Option<&Arc<Reloader>> {
        self.reloader.get()
    }

    /// From now on this one reads the settings again; the first that is named does for good.
    pub fn reload_by(&self, reloader: Arc<Reloader>) {
        self.reloader.get_or_init(|| reloader);
    }

    /// What all sessions of one tenant together may send.
    #[must_use]
    pub const fn tenant_pace(&self) -> Pace {
        self.tenant_pace
    }

    /// Bytes that an envelope may have.
    #[must_use]
    pub const fn envelope_bytes_max(&self) -> usize {
        self.envelope_bytes_max
    }

    /// What is counted.
    #[must_use]
    pub const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Guards at hand whose rules block everything: reasons not to be ready.
    #[must_use]
    pub fn unfit(&self) -> Vec<(Tenant, String)> {
        let guards = self.lock();
        let reason = |guard: &Arc<Guard>| {
            let reason = guard.rules().unfit()?.to_owned();
            Some((guard.tenant().clone(), reason))
        };
        guards.values().filter_map(reason).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Tenant, Arc<Guard>>> {
        self.guards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
