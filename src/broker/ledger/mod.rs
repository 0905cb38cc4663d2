//! What a tenant's events come to: state that is a fold of the reality `_system`, and nothing else.
//!
//! - [`State`]: one such fold: which events, what each changes.
//! - [`Ledger`]: looking at it, and changing it by recording events.
//! - `cache`: what a fold came to, and where it stands, in sled. Without it the log is read from
//!   its beginning, with the same outcome.
//!
//! A change is decided under a lock, recorded, on disk, and applied as it is read back: what holds
//! after a crash is what held before.

mod cache;
#[cfg(test)]
mod tests;

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::cache::Cache;
use super::error::Error;
use super::filter::Filter;
use super::journal::{Event, NewEvent, Unreadable};
use super::system;
use super::tenancy::Tenancy;
use crate::log::{Found, Micros, Sequence};

/// Events after which what a fold came to is put into the cache again.
const KEEP_EVERY: u64 = 4_096;

/// An event that a fold cannot take: of a newer version, or damaged in a way that no checksum shows.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Unfit {
    /// What is wrong with it.
    pub what: String,
}

impl Unfit {
    /// An event that is wrong in this way.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "as `map_err` hands it over")]
    pub fn new(what: impl ToString) -> Self {
        Self {
            what: what.to_string(),
        }
    }
}

/// A fold of events of `_system`.
pub trait State: Default + Debug + Send + 'static {
    /// Its name, unique among the folds.
    const NAME: &'static str;
    /// Changed with every change of what [`State::save`] writes.
    const VERSION: u32;
    /// The topics of its events, as filters.
    const TOPICS: &'static [&'static str];

    /// Takes in the next event. Must depend on nothing but itself and the event.
    ///
    /// # Errors
    /// The event cannot be understood; nothing is folded from there on.
    fn apply(&mut self, event: &Event<'_>) -> Result<(), Unfit>;

    /// All of it as bytes.
    fn save(&self) -> Vec<u8>;

    /// What [`State::save`] gave; `None` if these bytes are not that.
    fn load(bytes: &[u8]) -> Option<Self>;
}

/// A fold as far as it has come.
#[derive(Debug)]
struct Page<S> {
    state: S,
    /// Everything below is folded.
    next: Sequence,
    /// The last event that is folded.
    last: Option<(Sequence, Micros)>,
    /// Events folded since it was last put into the cache.
    since_kept: u64,
    /// It has been looked for in the cache.
    looked_up: bool,
}

/// A page of any kind, for whoever keeps them all.
trait Kept: Any + Debug + Send + Sync {
    fn keep(&self, cache: &Cache, tenant: &str);
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<S: State> Kept for Mutex<Page<S>> {
    fn keep(&self, cache: &Cache, tenant: &str) {
        lock(self).keep(cache, tenant);
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

fn lock<S>(page: &Mutex<Page<S>>) -> MutexGuard<'_, Page<S>> {
    page.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: State> Page<S> {
    fn keep(&mut self, cache: &Cache, tenant: &str) {
        let Some((last, at)) = self.last.filter(|_| self.since_kept > 0) else {
            return;
        };
        let stand = cache::Stand {
            version: S::VERSION,
            next: self.next,
            last,
            at,
        };
        cache.put(tenant, S::NAME, stand, &self.state.save());
        self.since_kept = 0;
    }
}

/// All folds of one tenant that have been used.
#[derive(Debug, Default)]
pub(super) struct Ledgers(Mutex<HashMap<TypeId, Arc<dyn Kept>>>);

impl Ledgers {
    fn page<S: State>(&self, first: Sequence) -> Arc<Mutex<Page<S>>> {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let page = pages.entry(TypeId::of::<S>()).or_insert_with(|| {
            Arc::new(Mutex::new(Page {
                state: S::default(),
                next: first,
                last: None,
                since_kept: 0,
                looked_up: false,
            }))
        });
        let page = Arc::clone(page).as_any().downcast();
        page.unwrap_or_else(|_| unreachable!("pages are kept by their type"))
    }

    /// Puts all of them into the cache.
    pub(super) fn keep(&self, cache: &Cache, tenant: &str) {
        let pages: Vec<_> = {
            let pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            pages.values().cloned().collect()
        };
        for page in pages {
            page.keep(cache, tenant);
        }
    }
}

/// One fold of one tenant.
#[derive(Debug)]
pub struct Ledger<'t, S> {
    tenancy: &'t Tenancy,
    page: Arc<Mutex<Page<S>>>,
}

impl Tenancy {
    /// The fold `S` of this tenant.
    #[must_use]
    pub fn ledger<S: State>(&self) -> Ledger<'_, S> {
        Ledger {
            tenancy: self,
            page: self.ledgers().page(self.first_event()),
        }
    }
}

impl<S: State> Ledger<'_, S> {
    /// Looks at what everything comes to that is on disk by now. Blocks on the disk.
    ///
    /// # Errors
    /// The system log is damaged, or holds an event that cannot be understood.
    pub fn read<R>(&self, look: impl FnOnce(&S) -> R) -> Result<R, Error> {
        let mut page = lock(&self.page);
        self.catch_up(&mut page)?;
        Ok(look(&page.state))
    }

    /// Has `decide` say, by what holds now, what is to be recorded, and records it, all or none. On
    /// `Ok` it is on disk and part of the state. Blocks; one change at a time.
    ///
    /// # Errors
    /// What `decide` fails with, and then nothing is recorded; as [`Ledger::read`]; the events could
    /// not be stored.
    pub fn change<R>(
        &self,
        decide: impl FnOnce(&S) -> Result<(R, Vec<NewEvent<'static>>), Error>,
    ) -> Result<R, Error> {
        let mut page = lock(&self.page);
        self.catch_up(&mut page)?;
        let (answer, events) = decide(&page.state)?;
        if !events.is_empty() {
            let system = self.tenancy.system();
            let records = events.into_iter().map(|event| {
                system::event(system, event.topic, event.kind, event.schema, event.data)
            });
            system::append_all_and_wait(system, records.collect())?;
            self.catch_up(&mut page)?;
        }
        Ok(answer)
    }

    fn catch_up(&self, page: &mut Page<S>) -> Result<(), Error> {
        if let Some(reason) = self.tenancy.damage_of_events() {
            return Err(self.unusable(reason));
        }
        if !page.looked_up {
            self.look_up(page);
            page.looked_up = true;
        }
        let end = self.tenancy.system().bounds().durable_end;
        if page.next >= end {
            return Ok(());
        }
        let filters: Vec<Filter> = S::TOPICS
            .iter()
            .filter_map(|topic| Filter::new(topic).ok())
            .collect();
        assert_eq!(filters.len(), S::TOPICS.len(), "topics of {}", S::NAME);
        let from = page.next;
        let through = self.tenancy.events_of(&filters, from, |event| {
            page.state.apply(&event).map_err(|unfit| Stopped {
                reason: format!("event {} on {}: {unfit}", event.sequence, event.topic),
            })?;
            page.next = event.sequence.next();
            page.last = Some((event.sequence, event.at));
            page.since_kept += 1;
            Ok::<_, Stopped>(())
        });
        let through = through.map_err(|stopped| self.unusable(stopped.reason))?;
        for (first, last) in through.lost {
            // It was damaged, and repaired on somebody's word: what it held is not known any more.
            tracing::warn!(tenant = %self.tenancy.tenant(), state = S::NAME, first, last, "events are lost; going on without them");
        }
        page.next = through.next;
        if page.since_kept >= KEEP_EVERY
            && let Some(cache) = self.tenancy.cache()
        {
            page.keep(cache, self.tenancy.tenant().as_str());
        }
        Ok(())
    }

    /// Takes over what the cache has, if that is of this log.
    fn look_up(&self, page: &mut Page<S>) {
        let Some(cache) = self.tenancy.cache() else {
            return;
        };
        let tenant = self.tenancy.tenant().as_str();
        let Some((stand, bytes)) = cache.get(tenant, S::NAME, S::VERSION) else {
            return;
        };
        if !self.is_of_this_log(&stand) {
            tracing::info!(
                tenant,
                state = S::NAME,
                "what was kept is of another log; reading all of this one"
            );
            return;
        }
        if let Some(state) = S::load(&bytes) {
            page.state = state;
            page.next = stand.next.max(page.next);
            page.last = Some((stand.last, stand.at));
        }
    }

    /// The last event that was folded must stand in the log where it stood. One that retention has
    /// removed since says nothing; then all that is left is read again, which must be all there is.
    fn is_of_this_log(&self, stand: &cache::Stand) -> bool {
        let log = self.tenancy.system().log();
        if stand.next > log.bounds().durable_end {
            return false;
        }
        match log.read(stand.last, stand.last.next(), 1) {
            Ok(Found::Records(chunk)) => chunk
                .iter()
                .any(|record| record.sequence == stand.last && record.appended_at == stand.at),
            Ok(Found::Damaged { .. } | Found::End) | Err(_) => false,
        }
    }

    fn unusable(&self, reason: String) -> Error {
        tracing::error!(tenant = %self.tenancy.tenant(), state = S::NAME, reason, "state cannot be folded");
        Error::StateDamaged {
            state: S::NAME,
            reason,
        }
    }
}

/// Why folding has stopped.
#[derive(Debug)]
struct Stopped {
    reason: String,
}

impl From<Unreadable> for Stopped {
    fn from(unreadable: Unreadable) -> Self {
        let reason = unreadable.to_string();
        Self { reason }
    }
}
