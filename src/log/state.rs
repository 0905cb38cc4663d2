//! What the handles, the commit threads and the readers of one log share.
//!
//! Lock order: `upkeep` → `rewriting` → `core` → `prepared` → `flush` → `lasts` → `segments` → `tail` → `unflushed`. No lock is held
//! while a sink or the observer is called, so that they may call back into the log.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};

use super::append::{Append, AppendSink, Appended, Durability, Observer};
use super::commit::Core;
use super::committer::{Chore, Committer, Queues};
use super::condition::{Condition, Waiting};
use super::error::{AppendError, Damage, Error};
use super::index::{Index, Point, Topic};
use super::keyring::Keyring;
use super::lasts::Lasts;
use super::options::{Options, Writer};
use super::pass::Upkeep;
use super::position::{Clock, Sequence};
use super::prepare::Prepared;
use super::reader::Segment;
use super::scrub::missing_before;
use super::status::ScrubStatus;
use super::storage::{Storage, StorageLock};
use super::tail::Tail;

/// Sealed indexes that stay in memory for readers of old segments.
const INDEXES_MAX: usize = 8;

/// State of one open log.
#[derive(Debug)]
pub(super) struct State {
    pub(super) dir: PathBuf,
    pub(super) options: Options,
    pub(super) writer: Writer,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) queues: Arc<Queues>,
    /// Keeps the threads running as long as the log is open.
    pub(super) _committer: Arc<Committer>,
    pub(super) observer: Arc<dyn Observer>,

    pub(super) queue: Mutex<Queue>,
    /// Signalled when no turn is queued or under way any more.
    pub(super) idle: Condvar,
    pub(super) core: Mutex<Core>,
    pub(super) prepared: Mutex<Option<Prepared>>,
    /// Held during a flush, so that no two run at once.
    pub(super) flush: Mutex<()>,
    pub(super) segments: RwLock<Vec<Arc<Segment>>>,
    pub(super) tail: RwLock<Tail>,
    /// Written and acknowledged as such; to be acknowledged again when flushed. In order.
    pub(super) unflushed: Mutex<VecDeque<Unflushed>>,
    pub(super) indexes: Mutex<VecDeque<Arc<Segment>>>,

    pub(super) first: AtomicU64,
    pub(super) durable_end: AtomicU64,
    pub(super) written_end: AtomicU64,
    pub(super) flushes: AtomicU64,
    /// Somebody wants to see records before they are flushed.
    pub(super) shows_written: AtomicBool,
    /// Chores already queued, one bit each.
    pub(super) chores: AtomicU8,
    /// Why no append is taken any more.
    pub(super) read_only: Mutex<Option<String>>,
    /// The log has failed, and those who wait have not been told yet.
    pub(super) unannounced: AtomicBool,
    pub(super) lock: Mutex<Option<Box<dyn StorageLock>>>,
    pub(super) keyring: RwLock<Arc<Keyring>>,
    /// Held by whoever removes, replaces or shares sealed segments. Taken before every other lock.
    pub(super) rewriting: Mutex<()>,
    pub(super) upkeep: Upkeep,
    pub(super) scrub: Mutex<ScrubStatus>,
    /// What conditions ask for; held for no longer than it takes to look something up in it.
    pub(super) lasts: Mutex<Lasts>,
}

/// Appends that wait for a turn.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) appends: VecDeque<Waiting>,
    pub(super) bytes: usize,
    /// A turn is queued or under way.
    pub(super) scheduled: bool,
}

/// A second acknowledgement that is owed.
#[derive(Debug)]
pub(super) struct Unflushed {
    pub(super) sink: Arc<dyn AppendSink>,
    pub(super) token: u64,
    pub(super) appended: Appended,
}

impl State {
    pub(super) fn durable_end(&self) -> Sequence {
        Sequence::at_least_first(self.durable_end.load(Ordering::Acquire))
    }

    pub(super) fn written_end(&self) -> Sequence {
        Sequence::at_least_first(self.written_end.load(Ordering::Acquire))
    }

    pub(super) fn first(&self) -> Sequence {
        Sequence::at_least_first(self.first.load(Ordering::Acquire))
    }

    pub(super) fn lock_queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_lasts(&self) -> MutexGuard<'_, Lasts> {
        self.lasts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_rewriting(&self) -> MutexGuard<'_, ()> {
        self.rewriting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read_only(&self) -> Option<String> {
        self.read_only
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The keys as they are now.
    pub(super) fn keyring(&self) -> Arc<Keyring> {
        let keyring = self.keyring.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&keyring)
    }

    /// The segments, oldest first.
    pub(super) fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The segment that holds `sequence` if any does, and where the next one starts.
    pub(super) fn segment_of(
        &self,
        sequence: Sequence,
    ) -> Option<(Arc<Segment>, Option<Sequence>)> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let after = segments.partition_point(|segment| segment.base <= sequence);
        let segment = segments.get(after.checked_sub(1)?)?;
        Some((
            Arc::clone(segment),
            segments.get(after).map(|next| next.base),
        ))
    }

    /// What is wrong if the segment that begins at `base` does not follow `segment`, and records
    /// from `from` on are missing for it. Where sequences were skipped, nothing is.
    pub(super) fn missing_between(
        &self,
        segment: &Segment,
        from: Sequence,
        base: Sequence,
    ) -> Result<Option<Damage>, Error> {
        if from >= base {
            return Ok(None);
        }
        let Some((end, root)) = segment.end_and_root(&*self.storage)? else {
            return Ok(None);
        };
        let Some((next, _)) = self.segment_of(base) else {
            return Ok(None);
        };
        let Some(header) = &next.header else {
            return Ok(None);
        };
        let follows = end >= base || header.base != base || header.previous_root == root;
        Ok((!follows).then(|| missing_before(&next.path, root, header.previous_root)))
    }

    /// Notes that the index of `segment` is in use, and drops the one used longest ago.
    pub(super) fn keep_index(&self, segment: &Arc<Segment>) {
        if !segment.holds_sealed_index() {
            return;
        }
        let mut indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        match indexes.iter().position(|kept| Arc::ptr_eq(kept, segment)) {
            Some(at) if at + 1 == indexes.len() => {}
            Some(at) => {
                if let Some(segment) = indexes.remove(at) {
                    indexes.push_back(segment);
                }
            }
            None => {
                indexes.push_back(Arc::clone(segment));
                if indexes.len() > INDEXES_MAX
                    && let Some(oldest) = indexes.pop_front()
                {
                    oldest.forget_index();
                }
            }
        }
    }

    /// About how many bytes the indexes take that are in memory now.
    pub(super) fn index_bytes(&self) -> u64 {
        let segments = self.segments();
        let growing = segments.last().map(|last| last.base);
        segments
            .iter()
            .filter(|segment| Some(segment.base) == growing || segment.holds_sealed_index())
            .filter_map(|segment| segment.with_index(&*self.storage, index_bytes).ok())
            .sum()
    }

    /// Files held open that are no segments: the lock, and the segment that is being got ready.
    pub(super) fn handles_beside_segments(&self) -> usize {
        let prepared = match self.prepared.try_lock() {
            Ok(prepared) => prepared.is_some(),
            // Whoever holds it has the file.
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Poisoned(error)) => error.into_inner().is_some(),
        };
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        usize::from(prepared) + usize::from(lock.is_some())
    }

    /// Queues a batch; [`State::start`] gets it written.
    pub(super) fn queue(
        &self,
        append: Append,
        condition: Option<Box<dyn Condition>>,
    ) -> Result<(), AppendError> {
        assert!(!append.records.is_empty(), "an append without records");
        if let Some(reason) = self.read_only() {
            return Err(AppendError::ReadOnly { reason });
        }
        let bytes = self.bytes_at_most(&append);
        let limit = self.batch_bytes_max();
        if bytes > limit {
            return Err(AppendError::TooLarge { bytes, limit });
        }
        let mut queue = self.lock_queue();
        if queue.bytes > 0 && queue.bytes + bytes > self.options.waiting_bytes_max {
            return Err(AppendError::Busy {
                waiting_bytes: queue.bytes,
            });
        }
        queue.bytes += bytes;
        let waiting = Waiting::new(append, bytes, condition);
        queue.appends.push_back(waiting);
        Ok(())
    }

    /// Begins a turn if something is queued and none is under way.
    ///
    /// Appends that do not wait for a flush are written here: that saves waking another thread,
    /// which costs more than the write. Appends that do are left to the commit threads, so that
    /// the caller never flushes.
    pub(super) fn start(self: &Arc<Self>) {
        let mut queue = self.lock_queue();
        if queue.scheduled || queue.appends.is_empty() {
            return;
        }
        queue.scheduled = true;
        let written = |waiting: &Waiting| waiting.append.durability == Durability::Written;
        if !queue.appends.iter().all(written) {
            drop(queue);
            self.queues.commit(Arc::clone(self));
            return;
        }
        let group = take_group(&mut queue, self.options.group_bytes_max);
        drop(queue);
        self.commit(group);
        self.end_turn();
    }

    /// Writes one group, then queues the next turn if more is waiting. The caller owns the turn.
    pub(super) fn take_turn(self: &Arc<Self>) {
        let group = take_group(&mut self.lock_queue(), self.options.group_bytes_max);
        if !group.is_empty() {
            self.commit(group);
        }
        self.end_turn();
    }

    fn end_turn(self: &Arc<Self>) {
        self.announce_poison();
        let mut queue = self.lock_queue();
        if queue.appends.is_empty() {
            queue.scheduled = false;
            drop(queue);
            self.idle.notify_all();
        } else {
            drop(queue);
            self.queues.commit(Arc::clone(self));
        }
    }

    /// Queues `chore` unless it is queued already.
    pub(super) fn queue_chore(self: &Arc<Self>, chore: Chore, delay: std::time::Duration) {
        let bit = chore_bit(chore);
        if self.chores.fetch_or(bit, Ordering::AcqRel) & bit == 0 {
            self.queues.later(Arc::clone(self), chore, delay);
        }
    }

    pub(super) fn do_chore(self: &Arc<Self>, chore: Chore) {
        self.chores.fetch_and(!chore_bit(chore), Ordering::AcqRel);
        if self.read_only().is_some() {
            return;
        }
        match chore {
            Chore::Flush => self.flush_written(),
            Chore::Mark => self.write_idle_mark(),
            Chore::Prepare => self.prepare_ahead(),
            Chore::Seal => self.write_new_indexes(),
        }
        self.announce_poison();
    }

    /// Takes no appends from now on. Whoever waits is told by [`State::announce_poison`], because
    /// this may be called with locks held.
    pub(super) fn poison(&self, reason: &str) {
        {
            let mut read_only = self
                .read_only
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if read_only.is_some() {
                return;
            }
            *read_only = Some(reason.to_owned());
        }
        tracing::error!(dir = %self.dir.display(), reason, "the log takes no more writes");
        self.forget_session();
        self.unannounced.store(true, Ordering::Release);
    }

    /// After a failure, tells whoever waits. Called with no lock held, wherever a step ends that
    /// may have failed.
    pub(super) fn announce_poison(&self) {
        if !self.unannounced.swap(false, Ordering::AcqRel) {
            return;
        }
        let reason = self.read_only().unwrap_or_default();
        let waiting = {
            let mut queue = self.lock_queue();
            queue.bytes = 0;
            std::mem::take(&mut queue.appends)
        };
        for Waiting { append, .. } in waiting {
            let error = AppendError::ReadOnly {
                reason: reason.clone(),
            };
            append.sink.appended(append.token, Err(error));
        }
        let unflushed = std::mem::take(
            &mut *self
                .unflushed
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for owed in unflushed {
            let error = AppendError::Indeterminate {
                reason: reason.clone(),
            };
            owed.sink.appended(owed.token, Err(error));
        }
        self.observer.poisoned(&reason);
    }

    /// See [`super::Log::close`].
    pub(super) fn close(self: &Arc<Self>) -> Result<(), AppendError> {
        // Whoever opens the log next relies on nobody else touching its files.
        self.upkeep.end();
        let _sealed_stay = self.lock_rewriting();
        let poisoned = self.read_only();
        self.drain();
        let result = if poisoned.is_some() {
            Ok(())
        } else {
            self.finish()
        };
        let mut read_only = self
            .read_only
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        read_only.get_or_insert_with(|| "it is closed".to_owned());
        drop(read_only);
        self.announce_poison();
        // An append that slipped in between is answered as refused.
        self.drain();
        // Before the lock goes: whoever opens the log next must not meet a segment in the making.
        self.queues.forget(self);
        self.lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        result
    }

    /// Waits until no append is waiting.
    fn drain(self: &Arc<Self>) {
        self.start();
        if !self.queues.is_threaded() {
            self.queues.run_until_idle();
        }
        let mut queue = self.lock_queue();
        while queue.scheduled {
            queue = self
                .idle
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(self: &Arc<Self>) -> Result<(), AppendError> {
        let mut core = self.lock_core();
        let segment = Arc::clone(&core.segment);
        self.flush_segment(&segment, core.next)?;
        self.write_close_mark(&mut core)?;
        let end = core.next;
        drop(core);
        self.note_close(end);
        self.announce_durable();
        self.write_indexes();
        Ok(())
    }

    pub(super) fn sync_dir(&self) -> Result<(), Error> {
        self.storage
            .sync_dir(&self.dir)
            .map_err(|source| Error::Io {
                operation: "flush directory",
                path: self.dir.clone(),
                source,
            })
    }
}

/// About how many bytes `index` takes: its points, the names of its topics, and for each record
/// the distance to the one before, whose mean tells how many bytes it is written in.
fn index_bytes(index: &Index) -> u64 {
    let points = index.points.len() * size_of::<Point>();
    let topics = index.topics.iter().map(|(name, topic)| {
        let distance = index.data_end.0 / topic.records.max(1);
        let width = u64::from((64 - distance.leading_zeros()).div_ceil(7).max(1));
        (name.len() + size_of::<Topic>()) as u64 + topic.records * width
    });
    points as u64 + topics.sum::<u64>()
}

/// The appends at the front that make up one group.
fn take_group(queue: &mut Queue, group_bytes_max: usize) -> Vec<Waiting> {
    let mut group = Vec::new();
    let mut group_bytes = 0;
    while let Some(Waiting { bytes, .. }) = queue.appends.front() {
        if !group.is_empty() && group_bytes + bytes > group_bytes_max {
            break;
        }
        group_bytes += bytes;
        let Some(waiting) = queue.appends.pop_front() else {
            break;
        };
        queue.bytes -= waiting.bytes;
        group.push(waiting);
    }
    group
}

const fn chore_bit(chore: Chore) -> u8 {
    match chore {
        Chore::Flush => 1,
        Chore::Mark => 2,
        Chore::Prepare => 4,
        Chore::Seal => 8,
    }
}
