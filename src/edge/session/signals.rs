//! What other threads tell a session: acknowledgements, readable subscriptions, finished reads.
//!
//! Commit threads and blocking threads put it in and wake the session's task; the task takes it
//! all out at once. Bounded by what the session itself has under way: one entry for each append,
//! acknowledged cursor, read and projection that is waited for, and one for each subscription and
//! joined channel.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use futures_util::task::AtomicWaker;

use super::passing::Passed;
use crate::broker::consumer::CursorSink;
use crate::broker::fanout::Subscriber;
use crate::broker::group::Worker;
use crate::broker::operators::sam::Given;
use crate::broker::rooms::{Occupant, Place};
use crate::broker::scan::History;
use crate::edge::shield::roll::{Cause, Ended};
use crate::log::{AppendError, AppendSink, Appended, Sequence};

/// What has happened since it was last taken.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Appends acknowledged or failed, by token.
    pub(super) appended: Vec<(u64, Result<Appended, AppendError>)>,
    /// Subscriptions with something to read, by key.
    pub(super) ready: Vec<u64>,
    /// Cursors stored or not, by the key of their subscription.
    pub(super) moved: Vec<(u64, Result<Sequence, AppendError>)>,
    /// Answers for records of groups stored or not, by the key of their subscription.
    pub(super) stored: Vec<(u64, Result<u64, AppendError>)>,
    /// Groups that were ended, by the key of their subscription.
    pub(super) dismissed: Vec<u64>,
    /// Reads of history, by the key of their subscription; `None` where one panicked.
    pub(super) read: Vec<(u64, Option<History>)>,
    /// Batches that projections have passed, or not in time.
    pub(super) passed: Vec<Passed>,
    /// Channels that the session is a member of no more, and why.
    pub(super) put_out: Vec<(Place, &'static str)>,
    /// Tasks for the session's operators; as many as they take at a time.
    pub(super) tasks: Vec<Given>,
    /// The session must end.
    pub(super) ended: Option<Cause>,
}

impl News {
    const fn is_empty(&self) -> bool {
        self.appended.is_empty()
            && self.ready.is_empty()
            && self.moved.is_empty()
            && self.stored.is_empty()
            && self.dismissed.is_empty()
            && self.read.is_empty()
            && self.passed.is_empty()
            && self.put_out.is_empty()
            && self.tasks.is_empty()
            && self.ended.is_none()
    }
}

/// The place where news arrive.
#[derive(Debug, Default)]
pub(super) struct Signals {
    news: Mutex<News>,
    task: AtomicWaker,
}

impl Signals {
    /// Who is woken from now on. Must be called before [`Signals::take`].
    pub(super) fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    /// Swaps what has arrived with `into`, which must be empty; `false` if nothing has.
    pub(super) fn take(&self, into: &mut News) -> bool {
        let mut news = self.lock();
        if news.is_empty() {
            return false;
        }
        std::mem::swap(&mut *news, into);
        true
    }

    pub(super) fn read(&self, key: u64, history: Option<History>) {
        self.lock().read.push((key, history));
        self.task.wake();
    }

    pub(super) fn passed(&self, passed: Passed) {
        self.lock().passed.push(passed);
        self.task.wake();
    }

    pub(super) fn task(&self, task: Given) {
        self.lock().tasks.push(task);
        self.task.wake();
    }

    fn lock(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ended for Signals {
    fn end(&self, cause: Cause) {
        self.lock().ended.get_or_insert(cause);
        self.task.wake();
    }
}

impl Occupant for Signals {
    fn put_out(&self, place: &Place, reason: &'static str) {
        self.lock().put_out.push((place.clone(), reason));
        self.task.wake();
    }
}

impl AppendSink for Signals {
    fn appended(&self, token: u64, outcome: Result<Appended, AppendError>) {
        self.lock().appended.push((token, outcome));
        self.task.wake();
    }
}

impl Subscriber for Signals {
    fn ready(&self, key: u64) {
        self.lock().ready.push(key);
        self.task.wake();
    }
}

impl CursorSink for Signals {
    fn moved(&self, key: u64, outcome: Result<Sequence, AppendError>) {
        self.lock().moved.push((key, outcome));
        self.task.wake();
    }

    fn resumed(&self, key: u64) {
        Subscriber::ready(self, key);
    }
}

impl Worker for Signals {
    fn ready(&self, key: u64) {
        Subscriber::ready(self, key);
    }

    fn stored(&self, key: u64, outcome: Result<u64, AppendError>) {
        self.lock().stored.push((key, outcome));
        self.task.wake();
    }

    fn ended(&self, key: u64) {
        self.lock().dismissed.push(key);
        self.task.wake();
    }
}
