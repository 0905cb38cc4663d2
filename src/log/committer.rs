//! Threads that write and flush for many logs.
//!
//! Each log is served by one thread at a time, one group per turn, and goes to the back of the
//! queue after its turn, so that a busy log does not starve the others. One more thread does what
//! nobody waits for: late flushes, marks, the next segment, the index of a sealed one.
//!
//! The threads end when the last handle to the [`Committer`] is dropped, of which every open log has
//! one; what was queued until then is still written.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::state::State;

/// What the housekeeping thread does for a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Chore {
    /// Flush what nobody waits to see flushed.
    Flush,
    /// Note on disk how far the log is flushed.
    Mark,
    /// Get the next segment ready.
    Prepare,
    /// Write the index files of sealed segments.
    Seal,
}

/// Handle to the threads; share it among all logs of the process.
#[derive(Debug)]
pub struct Committer {
    queues: Arc<Queues>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What is to be done, by whom.
#[derive(Debug)]
pub(super) struct Queues {
    work: Mutex<Work>,
    ready: Condvar,
    due: Condvar,
    /// Distinguishes this process (and every other committer in it) from all others.
    pub(super) instance: u64,
    threaded: bool,
}

#[derive(Debug, Default)]
struct Work {
    commits: VecDeque<Arc<State>>,
    chores: VecDeque<(Instant, Chore, Arc<State>)>,
    stopping: bool,
}

impl Committer {
    /// Starts `threads` commit threads (at least one) and the housekeeping thread.
    ///
    /// # Panics
    /// If the operating system refuses a thread.
    #[must_use]
    pub fn start(threads: usize) -> Arc<Self> {
        let committer = Self::new(true);
        let mut handles = committer
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for number in 0..threads.max(1) {
            let queues = Arc::clone(&committer.queues);
            handles.push(spawn(&format!("log-commit-{number}"), move || {
                queues.commit_forever()
            }));
        }
        let queues = Arc::clone(&committer.queues);
        handles.push(spawn("log-chores", move || queues.do_chores_forever()));
        drop(handles);
        committer
    }

    /// A committer without threads: nothing happens until [`Committer::run_until_idle`]. For tests
    /// that decide every step themselves.
    #[must_use]
    pub fn manual() -> Arc<Self> {
        Self::new(false)
    }

    fn new(threaded: bool) -> Arc<Self> {
        let queues = Queues {
            work: Mutex::default(),
            ready: Condvar::new(),
            due: Condvar::new(),
            instance: std::collections::hash_map::RandomState::new()
                .build_hasher()
                .finish(),
            threaded,
        };
        Arc::new(Self {
            queues: Arc::new(queues),
            threads: Mutex::default(),
        })
    }

    /// Commits everything that is queued, on the caller's thread.
    pub fn run_until_idle(&self) {
        self.queues.run_until_idle();
    }

    /// Does every chore that is queued by now, due or not, on the caller's thread. What they queue
    /// in turn is left for the next call.
    pub fn run_chores(&self) {
        let chores = std::mem::take(&mut self.queues.lock().chores);
        for (_, chore, log) in chores {
            log.do_chore(chore);
        }
    }

    pub(super) fn queues(&self) -> &Arc<Queues> {
        &self.queues
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.queues.lock().stopping = true;
        self.queues.ready.notify_all();
        self.queues.due.notify_all();
        let threads = self
            .threads
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // The last handle may be dropped by one of the threads themselves.
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("a log thread has panicked");
            }
        }
    }
}

impl Queues {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether threads do the work; otherwise the caller has to.
    pub(super) fn is_threaded(&self) -> bool {
        self.threaded
    }

    /// Queues a turn for `log`, which must not be queued already.
    pub(super) fn commit(&self, log: Arc<State>) {
        self.lock().commits.push_back(log);
        self.ready.notify_one();
    }

    /// Queues `chore` for `log`, to be done after `delay`.
    pub(super) fn later(&self, log: Arc<State>, chore: Chore, delay: Duration) {
        self.lock()
            .chores
            .push_back((Instant::now() + delay, chore, log));
        self.due.notify_one();
    }

    pub(super) fn run_until_idle(&self) {
        loop {
            let log = self.lock().commits.pop_front();
            let Some(log) = log else { break };
            log.take_turn();
        }
    }

    fn commit_forever(&self) {
        let mut work = self.lock();
        loop {
            if let Some(log) = work.commits.pop_front() {
                drop(work);
                log.take_turn();
                // Before the lock is taken again: this may be the last handle to the log and, with
                // it, to the committer.
                drop(log);
                work = self.lock();
            } else if work.stopping {
                return;
            } else {
                work = self
                    .ready
                    .wait(work)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn do_chores_forever(&self) {
        let mut work = self.lock();
        loop {
            let now = Instant::now();
            let next = (0..work.chores.len()).min_by_key(|&at| work.chores[at].0);
            match next {
                Some(at) if work.chores[at].0 <= now || work.stopping => {
                    let Some((_, chore, log)) = work.chores.remove(at) else {
                        continue;
                    };
                    drop(work);
                    log.do_chore(chore);
                    drop(log);
                    work = self.lock();
                }
                _ if work.stopping => return,
                Some(at) => {
                    let delay = work.chores[at].0 - now;
                    let waited = self.due.wait_timeout(work, delay);
                    work = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                None => work = self.due.wait(work).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .unwrap_or_else(|error| panic!("cannot start thread {name}: {error}"))
}
