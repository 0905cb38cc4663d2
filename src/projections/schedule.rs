//! Which lane of a sink is worked on next, and the threads that do it. A sink that is slow or away
//! keeps only its own threads busy.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::lane::{Due, Lane};

const IDLE: u8 = 0;
const QUEUED: u8 = 1;
const WORKED_ON: u8 = 2;
/// And told of more meanwhile.
const WORKED_ON_AND_DUE: u8 = 3;

/// The lanes of one sink that have something to do.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    lanes: Mutex<Lanes>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Lanes {
    ready: VecDeque<Arc<Lane>>,
    later: Vec<(Instant, Arc<Lane>)>,
    closed: bool,
}

impl Schedule {
    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lane has something to do. Quick; never waits for work.
    pub(super) fn due(&self, lane: &Arc<Lane>) {
        let mut lanes = self.lock();
        if lanes.closed {
            return;
        }
        match lane.slot.load(Ordering::Relaxed) {
            IDLE => {
                lane.slot.store(QUEUED, Ordering::Relaxed);
                lanes.ready.push_back(Arc::clone(lane));
                self.changed.notify_one();
            }
            WORKED_ON => lane.slot.store(WORKED_ON_AND_DUE, Ordering::Relaxed),
            _ => {}
        }
    }

    /// As [`Schedule::due`], and does not wait for a time that it was put off to.
    pub(super) fn at_once(&self, lane: &Arc<Lane>) {
        let mut lanes = self.lock();
        if let Some(at) = lanes
            .later
            .iter()
            .position(|(_, one)| Arc::ptr_eq(one, lane))
        {
            let (_, lane) = lanes.later.swap_remove(at);
            lanes.ready.push_back(lane);
            self.changed.notify_one();
            return;
        }
        drop(lanes);
        self.due(lane);
    }

    /// Lets the threads end after the turn that they are in.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Lets go of the lanes that nobody will work on, which know this schedule too.
    pub(super) fn clear(&self) {
        let mut lanes = self.lock();
        lanes.ready.clear();
        lanes.later.clear();
    }

    /// Works on lanes until closed.
    pub(super) fn work(&self) {
        while let Some(lane) = self.next() {
            let turn = catch_unwind(AssertUnwindSafe(|| lane.turn()));
            // The panic itself is reported by its hook; the lane begins anew from its sink.
            let due = turn.unwrap_or_else(|_| lane.broke());
            let mut lanes = self.lock();
            let told = lane.slot.load(Ordering::Relaxed) == WORKED_ON_AND_DUE;
            match due {
                Due::OnWake if !told => lane.slot.store(IDLE, Ordering::Relaxed),
                Due::OnWake | Due::Soon => {
                    lane.slot.store(QUEUED, Ordering::Relaxed);
                    lanes.ready.push_back(lane);
                }
                Due::After(wait) => {
                    lane.slot.store(QUEUED, Ordering::Relaxed);
                    lanes.later.push((Instant::now() + wait, lane));
                }
            }
            self.changed.notify_one();
        }
    }

    fn next(&self) -> Option<Arc<Lane>> {
        let mut lanes = self.lock();
        loop {
            if lanes.closed {
                return None;
            }
            let now = Instant::now();
            while let Some(at) = lanes.later.iter().position(|(due, _)| *due <= now) {
                let (_, lane) = lanes.later.swap_remove(at);
                lanes.ready.push_back(lane);
            }
            if let Some(lane) = lanes.ready.pop_front() {
                lane.slot.store(WORKED_ON, Ordering::Relaxed);
                return Some(lane);
            }
            let earliest = lanes.later.iter().map(|(due, _)| *due).min();
            lanes = match earliest {
                Some(due) => {
                    let wait = due.saturating_duration_since(now);
                    let waited = self.changed.wait_timeout(lanes, wait);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self
                    .changed
                    .wait(lanes)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}
