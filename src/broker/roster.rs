//! What is open by name, and since when nobody uses it (LOG-18).
//!
//! Whoever uses something holds an `Arc` of it, so that what only the roster holds can be taken
//! out without anybody noticing: the next use finds it missing, waits for its turn, and opens it
//! again. Knows nothing of what it holds.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::turns::{Turn, Turns};

/// Open things by name.
#[derive(Debug)]
pub(super) struct Roster<K, V> {
    open: RwLock<HashMap<K, Entry<V>>>,
    turns: Turns<K>,
}

#[derive(Debug)]
struct Entry<V> {
    held: Arc<V>,
    /// Asked for since the last look.
    used: AtomicBool,
    /// The first look at which nobody used it any more.
    idle_since: Option<Instant>,
}

/// What may be taken out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Idle {
    /// Now.
    pub(super) now: Instant,
    /// Unused for so long.
    pub(super) longer_than: Duration,
    /// Not more than so many, those unused for longest.
    pub(super) at_most: usize,
}

impl<K, V> Default for Roster<K, V> {
    fn default() -> Self {
        Self {
            open: RwLock::default(),
            turns: Turns::default(),
        }
    }
}

impl<K: Clone + Eq + Hash, V> Roster<K, V> {
    /// What is open under `name`, for somebody who uses it.
    pub(super) fn get(&self, name: &K) -> Option<Arc<V>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let entry = open.get(name)?;
        if !entry.used.load(Ordering::Relaxed) {
            entry.used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(&entry.held))
    }

    /// Whether `name` is open, for somebody who does not use it.
    pub(super) fn holds(&self, name: &K) -> bool {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.contains_key(name)
    }

    /// What is open under `name`, for somebody who looks at it and lets go.
    pub(super) fn peek(&self, name: &K) -> Option<Arc<V>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(name).map(|entry| Arc::clone(&entry.held))
    }

    /// All that is open, in no order, for somebody who looks at it and lets go.
    pub(super) fn all(&self) -> Vec<Arc<V>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.values().map(|entry| Arc::clone(&entry.held)).collect()
    }

    /// Waits until nobody else opens or closes `name`; `None` once shut.
    pub(super) fn turn(&self, name: &K) -> Option<Turn<'_, K>> {
        self.turns.take(name)
    }

    /// Lets everybody have what has been opened under `name` by whoever has its turn.
    pub(super) fn insert(&self, name: K, held: Arc<V>) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let entry = Entry {
            held,
            used: AtomicBool::new(true),
            idle_since: None,
        };
        open.insert(name, entry);
    }

    /// Takes `name` out, whoever still holds it; for whoever has its turn and has closed it.
    pub(super) fn remove(&self, name: &K) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.remove(name);
    }

    /// Takes out what has been idle long enough and is `at_rest`, and has `close` close it while
    /// nobody else can open it. Blocks as long as that takes.
    pub(super) fn close_idle(
        &self,
        idle: Idle,
        at_rest: impl Fn(&mut V) -> bool,
        mut close: impl FnMut(V),
    ) {
        let mut ripe: Vec<(Instant, K)> = {
            let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
            let look = |(name, entry): (&K, &mut Entry<V>)| {
                let since = entry.idle_since(idle.now)?;
                let long = idle.now.saturating_duration_since(since) >= idle.longer_than;
                long.then(|| (since, name.clone()))
            };
            open.iter_mut().filter_map(look).collect()
        };
        ripe.sort_by_key(|(since, _)| *since);
        let mut closed = 0;
        for (_, name) in ripe {
            if closed == idle.at_most {
                return;
            }
            // Whoever has the turn is about to use it.
            let Some(_turn) = self.turns.try_take(&name) else {
                continue;
            };
            if let Some(held) = self.take_out(&name, idle.now, &at_rest) {
                close(held);
                closed += 1;
            }
        }
    }

    /// Takes `name` out if nobody has used it since the last look.
    fn take_out(&self, name: &K, now: Instant, at_rest: impl Fn(&mut V) -> bool) -> Option<V> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let entry = open.get_mut(name)?;
        if *entry.used.get_mut() || entry.idle_since(now).is_none() {
            return None;
        }
        if !Arc::get_mut(&mut entry.held).is_some_and(at_rest) {
            return None;
        }
        // With the roster locked nobody can have got hold of it since.
        open.remove(name)
            .and_then(|entry| Arc::into_inner(entry.held))
    }

    /// Whether nobody holds anything of it, and all is `at_rest`.
    pub(super) fn is_at_rest(&mut self, at_rest: impl Fn(&mut V) -> bool) -> bool {
        let open = self.open.get_mut().unwrap_or_else(PoisonError::into_inner);
        open.values_mut()
            .all(|entry| Arc::get_mut(&mut entry.held).is_some_and(&at_rest))
    }

    /// Lets nothing be opened any more, and waits until nothing is being opened or closed.
    pub(super) fn shut(&self) {
        self.turns.shut();
    }
}

impl<V> Entry<V> {
    /// Since when nobody has used it, as far as looks tell; never earlier than the last use.
    fn idle_since(&mut self, now: Instant) -> Option<Instant> {
        if Arc::get_mut(&mut self.held).is_none() {
            self.idle_since = None;
        } else if std::mem::take(self.used.get_mut()) {
            self.idle_since = Some(now);
        } else {
            self.idle_since.get_or_insert(now);
        }
        self.idle_since
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn look(roster: &Roster<u8, u8>, now: Instant, longer_than: Duration) -> Vec<u8> {
        let mut closed = Vec::new();
        let idle = Idle {
            now,
            longer_than,
            at_most: usize::MAX,
        };
        roster.close_idle(idle, |_| true, |held| closed.push(held));
        closed.sort_unstable();
        closed
    }

    // LOG-18: only what nobody has used for long enough goes, counted from the last use.
    #[test]
    fn what_is_held_or_was_used_lately_stays() {
        let roster = Roster::default();
        let start = Instant::now();
        for name in 0..3 {
            roster.insert(name, Arc::new(name));
        }
        let held = roster.get(&0);
        assert!(look(&roster, start, HOUR).is_empty());
        assert!(roster.get(&1).is_some());
        assert_eq!(look(&roster, start + HOUR, HOUR), [2]);
        assert!(!roster.holds(&2) && roster.get(&2).is_none());
        assert_eq!(look(&roster, start + 2 * HOUR, HOUR), [1]);
        drop(held);
        assert!(look(&roster, start + 9 * HOUR, HOUR).is_empty());
        assert_eq!(look(&roster, start + 10 * HOUR, HOUR), [0]);
    }

    // LOG-18: those idle for longest make room first.
    #[test]
    fn the_longest_idle_goes_first() {
        let roster = Roster::default();
        let start = Instant::now();
        for name in 0..3_u8 {
            roster.insert(name, Arc::new(name));
            assert!(look(&roster, start + HOUR * name.into(), 9 * HOUR).is_empty());
        }
        let idle = Idle {
            now: start + 3 * HOUR,
            longer_than: Duration::ZERO,
            at_most: 2,
        };
        let mut closed = Vec::new();
        roster.close_idle(idle, |_| true, |held| closed.push(held));
        assert_eq!(closed, [0, 1]);
    }

    // LOG-18: users and the closing of what they use, all at once: nobody ever holds what has been
    // closed, and nothing is open twice.
    #[test]
    fn nobody_is_given_what_is_being_closed() {
        let roster = Roster::<u8, AtomicBool>::default();
        let open = AtomicUsize::new(0);
        let reopened = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let user = || {
                for _ in 0..2_000 {
                    let held = roster.get(&0).unwrap_or_else(|| {
                        let _turn = roster.turn(&0).unwrap();
                        roster.get(&0).unwrap_or_else(|| {
                            assert_eq!(open.fetch_add(1, Ordering::SeqCst), 0, "open twice");
                            reopened.fetch_add(1, Ordering::SeqCst);
                            let held = Arc::new(AtomicBool::new(true));
                            roster.insert(0, Arc::clone(&held));
                            held
                        })
                    });
                    assert!(held.load(Ordering::SeqCst), "closed in use");
                    drop(held);
                    std::thread::sleep(Duration::from_micros(20));
                }
            };
            let users = [scope.spawn(user), scope.spawn(user)];
            let closer = scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let idle = Idle {
                        now: Instant::now(),
                        longer_than: Duration::ZERO,
                        at_most: 1,
                    };
                    roster.close_idle(
                        idle,
                        |_| true,
                        |held| {
                            held.store(false, Ordering::SeqCst);
                            open.fetch_sub(1, Ordering::SeqCst);
                        },
                    );
                }
            });
            for user in users {
                user.join().unwrap();
            }
            stop.store(true, Ordering::SeqCst);
            closer.join().unwrap();
        });
        assert!(reopened.load(Ordering::SeqCst) > 10, "hardly ever closed");
    }
}
