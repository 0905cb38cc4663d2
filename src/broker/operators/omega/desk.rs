//! What the laboratories of all tenants share: how many machines there may be, and the machines that
//! this process has been asked for.
//!
//! Nothing here is needed after a restart: what must last is in the log (`lane.rs`).

use std::collections::HashMap;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::firecracker::Failed;
use super::settings::Settings;
use crate::broker::Tenant;

type Place = (Tenant, String);

/// Somebody waits for a machine to start.
#[derive(Debug)]
pub(super) struct Order {
    /// One of those that there may be; given back when the machine is gone.
    #[expect(dead_code, reason = "given back by being dropped")]
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) answer: SyncSender<Result<(), Failed>>,
}

/// A machine that this process has been asked for.
#[derive(Debug)]
pub(super) struct Live {
    order: Mutex<Option<Order>>,
    /// Set to who stops it.
    pub(super) stop: watch::Sender<Option<String>>,
    gone: Mutex<bool>,
    told: Condvar,
}

impl Live {
    /// What whoever starts it needs; once.
    pub(super) fn take(&self) -> Option<Order> {
        lock(&self.order).take()
    }

    fn end(&self) {
        *lock(&self.gone) = true;
        self.told.notify_all();
    }

    /// Waits until the machine is gone and that is recorded, up to `wait`. Blocks.
    pub(super) fn wait_gone(&self, wait: Duration) -> bool {
        let gone = lock(&self.gone);
        let waited = self.told.wait_timeout_while(gone, wait, |gone| !*gone);
        let (gone, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *gone
    }
}

/// What they share.
#[derive(Debug)]
pub struct Desk {
    settings: Settings,
    slots: Arc<Semaphore>,
    live: Mutex<HashMap<Place, Arc<Live>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    pub(in crate::broker) fn new(settings: Settings) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(settings.vms_max)),
            settings,
            live: Mutex::default(),
        }
    }

    pub(super) const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Room for one more machine, if there is.
    pub(super) fn slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).try_acquire_owned().ok()
    }

    /// Has the machine started as soon as the log knows of it.
    pub(super) fn ask(&self, tenant: &Tenant, id: &str, order: Order) {
        let live = Arc::new(Live {
            order: Mutex::new(Some(order)),
            stop: watch::Sender::new(None),
            gone: Mutex::new(false),
            told: Condvar::new(),
        });
        lock(&self.live).insert((tenant.clone(), id.to_owned()), live);
    }

    pub(super) fn live(&self, tenant: &Tenant, id: &str) -> Option<Arc<Live>> {
        let place = (tenant.clone(), id.to_owned());
        lock(&self.live).get(&place).cloned()
    }

    /// The machine is gone.
    pub(super) fn forget(&self, tenant: &Tenant, id: &str) {
        let place = (tenant.clone(), id.to_owned());
        let live = lock(&self.live).remove(&place);
        if let Some(live) = live {
            live.end();
        }
    }
}
