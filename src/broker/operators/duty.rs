//! Who has something to do: told by commands and by tenants that are opened; and the tasks that do
//! it, each begun again when it fails.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::office::{Bell, Office};
use super::{OPERATORS, called};
use crate::broker::error::Error;
use crate::broker::{Broker, RealityName, Tenancy, Tenant};

/// What an operator does unasked.
#[derive(Clone, Copy, Debug)]
pub struct Duty {
    /// Whether there is, or may come to be, something to do for a tenant without anybody asking.
    /// Blocks on the disk.
    pub is_due: fn(&Arc<Tenancy>) -> Result<bool, Error>,
    /// Does it, until there is nothing to do or the node goes down. Called again after an error, a
    /// panic, and a [`Duties::wake`].
    pub run: fn(Office) -> BoxFuture<'static, Result<(), Error>>,
}

/// A task that failed begins again after this, doubled each time,
const AGAIN_AFTER_MIN: Duration = Duration::from_millis(200);
/// up to this.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(30);

/// Tenants and operators that are to be looked at. As many as there are of both at most.
#[derive(Debug, Default)]
pub struct Duties {
    wanted: Mutex<BTreeSet<(Tenant, &'static str)>>,
    changed: Notify,
    failures: std::sync::atomic::AtomicU64,
}

impl Duties {
    /// What `operator` has to do for the tenant has changed.
    pub fn wake(&self, tenant: &Tenant, operator: &'static str) {
        self.want([(tenant.clone(), operator)]);
    }

    /// The tenant has been opened: all operators are to look.
    pub(in crate::broker) fn look(&self, tenant: &Tenant) {
        let all = OPERATORS.iter().filter(|one| one.duty.is_some());
        self.want(all.map(|one| (tenant.clone(), one.name)));
    }

    /// How often a task has failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn want(&self, more: impl IntoIterator<Item = (Tenant, &'static str)>) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.extend(more);
        drop(wanted);
        self.changed.notify_one();
    }

    fn take(&self) -> BTreeSet<(Tenant, &'static str)> {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *wanted)
    }
}

type Place = (Tenant, &'static str);

/// How a task ended: where, how often in a row it has failed, and whether there may be more to do.
struct Ended {
    place: Place,
    failed: u32,
}

/// The tasks that there are.
struct Tasks {
    broker: Arc<Broker>,
    closing: watch::Receiver<bool>,
    running: JoinSet<Ended>,
    /// Of each task that runs; and whether it was woken since.
    bells: HashMap<Place, (Arc<Bell>, bool)>,
}

/// Keeps one task for each tenant and operator with something to do, until `closing` turns true and
/// the tasks have ended.
pub async fn supervise(broker: Arc<Broker>, mut closing: watch::Receiver<bool>) {
    let looking = tokio::task::spawn_blocking({
        let (broker, closing) = (Arc::clone(&broker), closing.clone());
        move || look_at_all(&broker, &closing)
    });
    let mut tasks = Tasks {
        broker: Arc::clone(&broker),
        closing: closing.clone(),
        running: JoinSet::new(),
        bells: HashMap::new(),
    };
    loop {
        for place in broker.duties().take() {
            tasks.wake(place, 0);
        }
        tokio::select! {
            () = broker.duties().changed.notified() => {}
            Some(ended) = tasks.running.join_next() => tasks.ended(ended),
            // An error means that the sender is gone, which ends the node too.
            _ = closing.wait_for(|closing| *closing) => break,
        }
    }
    while let Some(ended) = tasks.running.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a task of an operator panicked");
        }
    }
    if let Err(error) = looking.await {
        tracing::error!(%error, "not all tenants were looked at");
    }
}

/// Opens every tenant that has a log once, so that what waits there is done. Blocks.
fn look_at_all(broker: &Broker, closing: &watch::Receiver<bool>) {
    if OPERATORS.iter().all(|one| one.duty.is_none()) {
        return;
    }
    for tenant in broker.tenants_with(&RealityName::system()) {
        if *closing.borrow() {
            return;
        }
        if let Err(error) = broker.tenancy(&tenant) {
            tracing::warn!(%tenant, %error, "operators do not work for this tenant until it is used");
        }
    }
}

impl Tasks {
    fn wake(&mut self, place: Place, failed: u32) {
        if let Some((bell, again)) = self.bells.get_mut(&place) {
            *again = true;
            bell.ring();
            return;
        }
        let Some(duty) = called(place.1).and_then(|operator| operator.duty) else {
            return;
        };
        let bell = Arc::new(Bell::default());
        self.bells.insert(place.clone(), (Arc::clone(&bell), false));
        let (broker, closing) = (Arc::clone(&self.broker), self.closing.clone());
        self.running.spawn(async move {
            let done = tokio::spawn(run(duty, place.0.clone(), bell, broker, closing, failed));
            let failed = match done.await {
                Ok(Ok(())) => 0,
                Ok(Err(error)) => {
                    tracing::warn!(tenant = %place.0, operator = place.1, %error, "an operator failed; it begins again");
                    failed + 1
                }
                Err(error) => {
                    tracing::error!(tenant = %place.0, operator = place.1, %error, "an operator panicked; it begins again");
                    failed + 1
                }
            };
            Ended { place, failed }
        });
    }

    fn ended(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        let Ok(Ended { place, failed }) = ended else {
            return;
        };
        let woken = self.bells.remove(&place).is_some_and(|(_, again)| again);
        if failed > 0 {
            let failures = &self.broker.duties().failures;
            failures.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        if failed > 0 || woken {
            self.wake(place, failed);
        }
    }
}

async fn run(
    duty: Duty,
    tenant: Tenant,
    bell: Arc<Bell>,
    broker: Arc<Broker>,
    mut closing: watch::Receiver<bool>,
    failed: u32,
) -> Result<(), Error> {
    if failed > 0 {
        let pause = AGAIN_AFTER_MIN * 2_u32.saturating_pow(failed - 1);
        tokio::select! {
            () = tokio::time::sleep(pause.min(AGAIN_AFTER_MAX)) => {}
            _ = closing.wait_for(|closing| *closing) => {}
        }
    }
    if *closing.borrow() {
        return Ok(());
    }
    let opening = Arc::clone(&broker);
    let opened = tokio::task::spawn_blocking(move || {
        let tenancy = opening.tenancy(&tenant)?;
        let is_due = (duty.is_due)(&tenancy)?;
        Ok(is_due.then_some(tenancy))
    });
    let Some(tenancy) = opened.await.unwrap_or(Err(Error::Internal))? else {
        return Ok(());
    };
    let office = Office {
        broker,
        tenancy,
        bell,
        closing,
    };
    (duty.run)(office).await
}
