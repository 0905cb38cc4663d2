//! The thread that looks after groups: reads ahead for them, keeps their deadlines, writes their
//! letters.
//!
//! One for all groups of a node, each for one bounded step at a time. Groups ask for it by
//! [`Feeder::wake`] and [`Feeder::at`]; it holds none of them alive.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::coordinator::Group;

/// A deadline is by the wall clock, which may be set: it is looked at so often at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Which groups are to be looked after, and when.
#[derive(Debug, Default)]
pub(in crate::broker) struct Feeder {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    known: HashMap<u64, Known>,
    now: VecDeque<u64>,
    later: BTreeSet<(Instant, u64)>,
    next_id: u64,
    closed: bool,
}

#[derive(Debug)]
struct Known {
    group: Weak<Group>,
    queued: bool,
    at: Option<Instant>,
}

impl Feeder {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a group.
    pub(super) fn number(&self) -> u64 {
        let mut queue = self.lock();
        queue.next_id += 1;
        queue.next_id
    }

    /// Looks after a group from now on, when it asks for it.
    pub(super) fn admit(&self, id: u64, group: Weak<Group>) {
        let known = Known {
            group,
            queued: false,
            at: None,
        };
        self.lock().known.insert(id, known);
    }

    /// Does so no more.
    pub(super) fn forget(&self, id: u64) {
        let mut queue = self.lock();
        if let Some(known) = queue.known.remove(&id)
            && let Some(at) = known.at
        {
            queue.later.remove(&(at, id));
        }
    }

    /// A group is to be looked after now.
    pub(super) fn wake(&self, id: u64) {
        let mut queue = self.lock();
        let Some(known) = queue.known.get_mut(&id) else {
            return;
        };
        if !std::mem::replace(&mut known.queued, true) {
            queue.now.push_back(id);
            self.changed.notify_one();
        }
    }

    /// A group is to be looked after in `delay`, unless it is before.
    pub(super) fn at(&self, id: u64, delay: Duration) {
        let at = Instant::now() + delay.min(LOOK_EVERY);
        let mut queue = self.lock();
        let Some(known) = queue.known.get_mut(&id) else {
            return;
        };
        if known.at.is_some_and(|known| known <= at) {
            return;
        }
        if let Some(before) = known.at.replace(at) {
            queue.later.remove(&(before, id));
        }
        queue.later.insert((at, id));
        if queue.later.first() == Some(&(at, id)) {
            self.changed.notify_one();
        }
    }

    /// Waits for a group that is to be looked after; `None` once closed.
    pub(in crate::broker) fn next(&self) -> Option<Weak<Group>> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            let now = Instant::now();
            while let Some((at, id)) = queue.later.first().copied() {
                if at > now {
                    break;
                }
                queue.later.remove(&(at, id));
                if let Some(known) = queue.known.get_mut(&id) {
                    known.at = None;
                    if !std::mem::replace(&mut known.queued, true) {
                        queue.now.push_back(id);
                    }
                }
            }
            if let Some(id) = queue.now.pop_front() {
                let Some(known) = queue.known.get_mut(&id) else {
                    continue;
                };
                known.queued = false;
                return Some(Weak::clone(&known.group));
            }
            let wait = queue.later.first().map(|(at, _)| at.duration_since(now));
            queue = match wait {
                Some(wait) => {
                    let waited = self.changed.wait_timeout(queue, wait);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.changed.wait(queue);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    /// Looks after nobody any more.
    pub(in crate::broker) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}
