//! How many sessions there are, on the node and of each tenant.
//!
//! Owns the counts and their limits. A session holds a [`Seat`]; dropping it, also by a panic,
//! gives it back. Must not know sockets or what a session does.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::handshake::Refusal;
use super::metrics::Metrics;
use crate::broker::Tenant;
use crate::config::Limits;

/// The sessions of this node.
#[derive(Debug)]
pub struct Seats {
    node_max: AtomicUsize,
    tenant_max: AtomicUsize,
    /// No entry holds 0, so that the map is as small as what is open.
    by_tenant: Mutex<HashMap<Tenant, usize>>,
    total: watch::Sender<usize>,
    metrics: Arc<Metrics>,
}

/// The right to one session.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    tenant: Tenant,
}

impl Seats {
    /// None taken.
    #[must_use]
    pub fn new(limits: &Limits, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            node_max: AtomicUsize::new(limits.sessions_max),
            tenant_max: AtomicUsize::new(limits.tenant_sessions_max),
            by_tenant: Mutex::default(),
            total: watch::Sender::new(0),
            metrics,
        })
    }

    /// Changes how many there may be; those that are open stay.
    pub fn limit(&self, limits: &Limits) {
        self.node_max.store(limits.sessions_max, Ordering::Relaxed);
        self.tenant_max
            .store(limits.tenant_sessions_max, Ordering::Relaxed);
    }

    /// Takes a seat.
    ///
    /// # Errors
    /// The node or the tenant has all it may have.
    pub fn take(self: &Arc<Self>, tenant: &Tenant) -> Result<Seat, Refusal> {
        let mut by_tenant = self
            .by_tenant
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *self.total.borrow() >= self.node_max.load(Ordering::Relaxed) {
            return Err(Refusal::NodeFull);
        }
        let count = by_tenant.get(tenant).copied().unwrap_or(0);
        if count >= self.tenant_max.load(Ordering::Relaxed) {
            return Err(Refusal::TenantFull);
        }
        by_tenant.insert(tenant.clone(), count + 1);
        self.total.send_modify(|total| *total += 1);
        self.metrics.sessions.inc();
        self.metrics.sessions_opened.inc();
        Ok(Seat {
            seats: Arc::clone(self),
            tenant: tenant.clone(),
        })
    }

    /// Sessions that are open.
    #[must_use]
    pub fn total(&self) -> usize {
        *self.total.borrow()
    }

    /// Returns when no session is open.
    pub async fn empty(&self) {
        let mut total = self.total.subscribe();
        // The sender lives in `self`, so it cannot be gone.
        drop(total.wait_for(|total| *total == 0).await);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut by_tenant = self
            .seats
            .by_tenant
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = by_tenant.entry(self.tenant.clone()) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.seats.total.send_modify(|total| *total -= 1);
        self.seats.metrics.sessions.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Tenant {
        Tenant::new(name).expect("a tenant")
    }

    // EDGE-09
    #[test]
    fn seats_are_limited_by_tenant_and_node_and_given_back() {
        let limits = Limits {
            sessions_max: 3,
            tenant_sessions_max: 2,
            ..Limits::default()
        };
        let seats = Seats::new(&limits, Arc::default());
        let first = seats.take(&tenant("a")).expect("a seat");
        let _second = seats.take(&tenant("a")).expect("a seat");
        assert_eq!(seats.take(&tenant("a")).err(), Some(Refusal::TenantFull));
        let third = seats.take(&tenant("b")).expect("a seat");
        assert_eq!(seats.take(&tenant("c")).err(), Some(Refusal::NodeFull));
        drop(third);
        assert_eq!(seats.take(&tenant("a")).err(), Some(Refusal::TenantFull));
        drop(first);
        assert!(seats.take(&tenant("a")).is_ok());
        assert_eq!(seats.total(), 1);
        assert_eq!(seats.by_tenant.lock().expect("no panic").len(), 1);
    }
}
