//! Tells one listener which realities were opened, so that it need not ask.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::name::{RealityName, Tenant};

/// Realities that were opened and not told of yet. As many as there are realities at most.
#[derive(Debug, Default)]
pub struct Openings {
    opened: Mutex<BTreeSet<(Tenant, RealityName)>>,
    changed: Notify,
}

impl Openings {
    pub(super) fn note(&self, tenant: &Tenant, reality: &RealityName) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.insert((tenant.clone(), reality.clone()));
        drop(opened);
        self.changed.notify_one();
    }

    /// Waits until some were opened, and takes them.
    pub async fn take(&self) -> BTreeSet<(Tenant, RealityName)> {
        loop {
            let taken = {
                let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *opened)
            };
            if !taken.is_empty() {
                return taken;
            }
            self.changed.notified().await;
        }
    }
}
