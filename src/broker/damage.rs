//! Damage that reading has met in one reality's log, for the node's operators.
//!
//! Subscribers are told of lost records in their frames; this remembers the places for whoever
//! runs the node. Knows no session, and does not look for damage itself.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::name::{RealityName, Tenant};
use crate::log::{Damage, Sequence};

/// Most places that are remembered: enough to act on; `logdump verify` names all.
const PLACES_MAX: usize = 64;

/// What reads have met since the node started.
#[derive(Debug)]
pub struct Encounters {
    tenant: Tenant,
    reality: RealityName,
    reads: AtomicU64,
    places: Mutex<BTreeMap<(PathBuf, u64), Damage>>,
}

impl Encounters {
    pub(super) fn new(tenant: Tenant, reality: RealityName) -> Self {
        Self {
            tenant,
            reality,
            reads: AtomicU64::new(0),
            places: Mutex::default(),
        }
    }

    /// A read met `damage` where `from` should have been; it goes on at `next`. Logged once a place.
    /// What a repair has put aside is known.
    pub(super) fn note(&self, damage: &Damage, from: Sequence, next: Sequence) {
        if damage.is_put_aside() {
            return;
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        let place = (damage.path.clone(), damage.offset.0);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= PLACES_MAX || places.contains_key(&place) {
            return;
        }
        places.insert(place, damage.clone());
        let full = places.len() == PLACES_MAX;
        drop(places);
        tracing::warn!(
            tenant = %self.tenant,
            reality = %self.reality,
            file = %damage.path.display(),
            offset = damage.offset.0,
            %damage,
            %from,
            %next,
            "damage met while reading; records skipped"
        );
        if full {
            tracing::warn!(
                tenant = %self.tenant,
                reality = %self.reality,
                "further damage is counted, not named; `logdump verify` names all"
            );
        }
    }

    /// The log has been repaired.
    pub(super) fn forget(&self) {
        self.reads.store(0, Ordering::Relaxed);
        self.places
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// How often a read has met damage, the same place again included.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// The places, by file and offset; at most 64 of them.
    #[must_use]
    pub fn places(&self) -> Vec<Damage> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.values().cloned().collect()
    }
}

/// The damage for whoever is not at this machine: the file's name without its directories.
#[must_use]
pub fn without_directories(damage: &Damage) -> String {
    let file = damage.path.file_name().map(PathBuf::from);
    let path = file.unwrap_or_default();
    Damage {
        path,
        ..damage.clone()
    }
    .to_string()
}
