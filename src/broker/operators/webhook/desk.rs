//! What all webhooks of a node share: who sends, how many requests there may be at a time, and what
//! is known of each rule for people: its last attempts, its breaker.
//!
//! Nothing here is needed after a restart: what must last is in the log (`rule.rs`).

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::Semaphore;

use super::breaker::State;
use super::post::Poster;
use super::settings::Settings;
use crate::broker::Tenant;
use crate::log::Micros;

/// Attempts of a rule that are remembered.
const ATTEMPTS_KEPT: usize = 50;

/// One attempt, as it is shown.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) at: Micros,
    pub(super) sequence: u64,
    pub(super) id: String,
    /// The how many-th of this event.
    pub(super) number: u64,
    /// `None`: there was no answer.
    pub(super) status: Option<u16>,
    pub(super) took_ms: u64,
    /// What came of it, where it was not taken.
    pub(super) error: String,
    /// The beginning of the answer.
    pub(super) excerpt: String,
    pub(super) next_at: Option<Micros>,
}

/// What is known of one rule since the node started.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) attempts: VecDeque<Attempt>,
    pub(super) breaker: State,
    pub(super) delivered: u64,
    pub(super) failed: u64,
    pub(super) next_at: Option<Micros>,
    /// Everything below is done with; on its way to the disk.
    pub(super) next: Option<u64>,
    /// Why nothing is sent, if so.
    pub(super) halted: Option<String>,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            attempts: VecDeque::new(),
            breaker: State::Closed,
            delivered: 0,
            failed: 0,
            next_at: None,
            next: None,
            halted: None,
        }
    }
}

impl Account {
    pub(super) fn note(&mut self, attempt: Attempt) {
        if self.attempts.len() == ATTEMPTS_KEPT {
            self.attempts.pop_front();
        }
        self.attempts.push_back(attempt);
    }
}

/// What has become of all events since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events that were taken.
    pub delivered: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Events that became dead letters.
    pub dead_letters: u64,
    /// Rules that are at work.
    pub rules: u64,
    /// Of these, those whose breaker is not closed.
    pub open_breakers: u64,
}

type Place = (Tenant, String);

/// What webhooks share.
#[derive(Debug, Default)]
pub struct Desk {
    settings: Settings,
    poster: OnceLock<Result<Poster, String>>,
    endpoints: Mutex<HashMap<Place, Weak<Semaphore>>>,
    tenants: Mutex<HashMap<Tenant, Weak<Semaphore>>>,
    accounts: Mutex<HashMap<Place, Arc<Mutex<Account>>>>,
    delivered: AtomicU64,
    failed: AtomicU64,
    dead_letters: AtomicU64,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The semaphore of `place`, as long as somebody has it.
fn permits<K: std::hash::Hash + Eq>(
    all: &Mutex<HashMap<K, Weak<Semaphore>>>,
    place: K,
    most: usize,
) -> Arc<Semaphore> {
    let mut all = lock(all);
    if let Some(known) = all.get(&place).and_then(Weak::upgrade) {
        return known;
    }
    all.retain(|_, known| known.strong_count() > 0);
    let made = Arc::new(Semaphore::new(most));
    all.insert(place, Arc::downgrade(&made));
    made
}

impl Desk {
    pub(in crate::broker) fn new(settings: Settings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    pub(super) const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Who sends; made when first asked for, because it reads the authorities of the system.
    pub(super) fn poster(&self) -> Result<Poster, String> {
        let made = || self.settings.poster().map_err(|error| error.to_string());
        self.poster.get_or_init(made).clone()
    }

    /// What a request to `endpoint` must have.
    pub(super) fn permits(&self, tenant: &Tenant, endpoint: String) -> [Arc<Semaphore>; 2] {
        let place = (tenant.clone(), endpoint);
        let most = self.settings.endpoint_requests_max;
        let of_endpoint = permits(&self.endpoints, place, most);
        let most = self.settings.tenant_requests_max;
        [of_endpoint, permits(&self.tenants, tenant.clone(), most)]
    }

    /// What is known of a rule.
    pub(super) fn account(&self, tenant: &Tenant, rule: &str) -> Arc<Mutex<Account>> {
        let mut accounts = lock(&self.accounts);
        let place = (tenant.clone(), rule.to_owned());
        Arc::clone(accounts.entry(place).or_default())
    }

    /// The rule is gone.
    pub(super) fn forget(&self, tenant: &Tenant, rule: &str) {
        lock(&self.accounts).remove(&(tenant.clone(), rule.to_owned()));
    }

    pub(super) fn count(&self, delivered: bool) {
        let counter = if delivered {
            &self.delivered
        } else {
            &self.failed
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_dead_letter(&self) {
        self.dead_letters.fetch_add(1, Ordering::Relaxed);
    }

    /// For metrics.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let accounts: Vec<_> = lock(&self.accounts).values().cloned().collect();
        let breakers = accounts.iter().map(|account| lock(account).breaker);
        let open = breakers.filter(|breaker| *breaker != State::Closed).count();
        Totals {
            delivered: self.delivered.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            dead_letters: self.dead_letters.load(Ordering::Relaxed),
            rules: accounts.len() as u64,
            open_breakers: open as u64,
        }
    }
}
