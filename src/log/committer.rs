//! Threads that write and flush for many logs.
//!
//! Each log is served by one thread at a time, one group per turn, and goes to the back of the
//! queue after its turn, so that a busy log does not starve the others. Two more threads do what
//! nobody waits for: one the late flushes and marks, which have a time by which they are due, the
//! other what may take long, the next segment and the index of a sealed one, so that the zeros of
//! one log's segment do not hold up the late flushes of all the others.
//!
//! The threads end when the last handle to the [`Committer`] is dropped, of which every open log has
//! one; what was queued until then is still written.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use super::state::State;
use super::tail::TailBudget;

/// Marks are at least so far apart, those of all logs taken together: where many logs get a record
/// now and then, each would be followed by a mark and its flush, as costly as the record's own.
const BETWEEN_MARKS: Duration = Duration::from_millis(5);

/// What the housekeeping threads do for a log.
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

/// Which thread does a chore.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Desk {
    /// What is quick and has a time by which it is due.
    Prompt,
    /// What may take long and is in nobody's way.
    Lengthy,
}

impl Chore {
    const fn desk(self) -> Desk {
        match self {
            Self::Flush | Self::Mark => Desk::Prompt,
            Self::Prepare | Self::Seal => Desk::Lengthy,
        }
    }
}

/// Handle to the threads, and to the memory that the logs share; give it to all logs of the
/// process.
#[derive(Debug)]
pub struct Committer {
    queues: Arc<Queues>,
    tails: Arc<TailBudget>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What is to be done, by whom.
#[derive(Debug)]
pub(super) struct Queues {
    work: Mutex<Work>,
    ready: Condvar,
    prompt_due: Condvar,
    lengthy_due: Condvar,
    /// Signalled when a chore is done.
    done: Condvar,
    /// Distinguishes this process (and every other committer in it) from all others.
    pub(super) instance: u64,
    threaded: bool,
}

#[derive(Debug, Default)]
struct Work {
    commits: VecDeque<Arc<State>>,
    prompt: Chores,
    lengthy: Chores,
    /// Chores queued so far.
    queued: u64,
    /// No mark is due before this.
    next_mark: Option<Instant>,
    stopping: bool,
}

/// The chores of one thread.
#[derive(Debug, Default)]
struct Chores {
    /// By when they are due, then in the order in which they were queued.
    waiting: BTreeMap<(Instant, u64), (Chore, Arc<State>)>,
    /// Whose chore is under way, on which thread.
    doing: Option<(Weak<State>, ThreadId)>,
}

impl Chores {
    fn is_busy_with(&self, log: &Arc<State>) -> bool {
        let here = std::thread::current().id();
        self.doing
            .as_ref()
            .is_some_and(|(doing, thread)| doing.as_ptr() == Arc::as_ptr(log) && *thread != here)
    }
}

impl Work {
    const fn chores(&mut self, desk: Desk) -> &mut Chores {
        match desk {
            Desk::Prompt => &mut self.prompt,
            Desk::Lengthy => &mut self.lengthy,
        }
    }
}

impl Committer {
    /// Starts `threads` commit threads (at least one) and the two housekeeping threads.
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
        for (name, desk) in [("log-chores", Desk::Prompt), ("log-ahead", Desk::Lengthy)] {
            let queues = Arc::clone(&committer.queues);
            handles.push(spawn(name, move || queues.do_chores_forever(desk)));
        }
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
            prompt_due: Condvar::new(),
            lengthy_due: Condvar::new(),
            done: Condvar::new(),
            instance: std::collections::hash_map::RandomState::new()
                .build_hasher()
                .finish(),
            threaded,
        };
        Arc::new(Self {
            queues: Arc::new(queues),
            tails: Arc::default(),
            threads: Mutex::default(),
        })
    }

    /// Bounds the memory that the tails of all logs take together, in bytes; without a call only
    /// each log's own bound holds. The tail of the log used longest ago shrinks first.
    pub fn bound_tails(&self, bytes: usize) {
        self.tails.bound(bytes);
    }

    pub(super) const fn tails(&self) -> &Arc<TailBudget> {
        &self.tails
    }

    /// Commits everything that is queued, on the caller's thread.
    pub fn run_until_idle(&self) {
        self.queues.run_until_idle();
    }

    /// Does every chore that is queued by now, due or not, on the caller's thread, in the order in
    /// which they were queued. What they queue in turn is left for the next call.
    pub fn run_chores(&self) {
        let mut chores: Vec<_> = {
            let mut work = self.queues.lock();
            let prompt = std::mem::take(&mut work.prompt.waiting);
            let lengthy = std::mem::take(&mut work.lengthy.waiting);
            prompt.into_iter().chain(lengthy).collect()
        };
        chores.sort_unstable_by_key(|((_, number), _)| *number);
        for (_, (chore, log)) in chores {
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
        self.queues.prompt_due.notify_all();
        self.queues.lengthy_due.notify_all();
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

    /// Queues `chore` for `log`, to be done after `delay`, or later if it is a mark and there are
    /// many.
    pub(super) fn later(&self, log: Arc<State>, chore: Chore, delay: Duration) {
        let mut work = self.lock();
        work.queued += 1;
        let mut due = Instant::now() + delay;
        if chore == Chore::Mark {
            due = work.next_mark.map_or(due, |next| next.max(due));
            work.next_mark = Some(due + BETWEEN_MARKS);
        }
        let key = (due, work.queued);
        let desk = chore.desk();
        work.chores(desk).waiting.insert(key, (chore, log));
        drop(work);
        self.due(desk).notify_one();
    }

    /// Takes the chores of `log` out of the queue and waits until none is under way: whoever
    /// opens its directory next meets no file in the making.
    pub(super) fn forget(&self, log: &Arc<State>) {
        let mut work = self.lock();
        for desk in [Desk::Prompt, Desk::Lengthy] {
            let waiting = &mut work.chores(desk).waiting;
            waiting.retain(|_, (_, owner)| !Arc::ptr_eq(owner, log));
        }
        while work.prompt.is_busy_with(log) || work.lengthy.is_busy_with(log) {
            work = self.done.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }

    const fn due(&self, desk: Desk) -> &Condvar {
        match desk {
            Desk::Prompt => &self.prompt_due,
            Desk::Lengthy => &self.lengthy_due,
        }
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

    fn do_chores_forever(&self, desk: Desk) {
        let here = std::thread::current().id();
        let mut work = self.lock();
        loop {
            let now = Instant::now();
            let stopping = work.stopping;
            let chores = work.chores(desk);
            let next = chores.waiting.first_entry();
            let due = next.as_ref().map(|next| next.key().0);
            match next {
                Some(next) if next.key().0 <= now || stopping => {
                    let (chore, log) = next.remove();
                    chores.doing = Some((Arc::downgrade(&log), here));
                    drop(work);
                    log.do_chore(chore);
                    work = self.lock();
                    work.chores(desk).doing = None;
                    drop(work);
                    self.done.notify_all();
                    // With no lock held: this may be the last handle to the log and, with it, to
                    // the committer.
                    drop(log);
                    work = self.lock();
                }
                _ if stopping => return,
                _ => {
                    let signal = self.due(desk);
                    work = match due {
                        Some(due) => {
                            let waited = signal.wait_timeout(work, due - now);
                            waited.unwrap_or_else(PoisonError::into_inner).0
                        }
                        None => signal.wait(work).unwrap_or_else(PoisonError::into_inner),
                    };
                }
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
