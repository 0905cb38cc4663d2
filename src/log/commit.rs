//! Group commit: one write and one flush for all appends that are waiting.
//!
//! The order within [`State::commit`] is the promise: written, then shown and acknowledged as
//! written; flushed, then shown and acknowledged as synced. Nothing is acknowledged from memory.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::append::{Append, Appended, Durability};
use super::batch::{
    self, BatchHeader, FLAG_CLOSED, FLAG_ENCRYPTED, FLAG_MARK, HEADER_BYTES, MARK_BYTES, Mark,
};
use super::chunk::Chunk;
use super::cipher::CIPHER_BYTES;
use super::committer::Chore;
use super::condition::{Place, Waiting};
use super::error::AppendError;
use super::position::{ByteOffset, Micros, Sequence};
use super::reader::Segment;
use super::record;
use super::scan::Batch;
use super::segment::HEADER_BLOCK_BYTES;
use super::state::{State, Unflushed};

/// How many sequences are reserved at a time for records that are shown before they are flushed.
const RESERVED_AT_ONCE: u64 = 1 << 20;
/// After so much idleness the durable mark is brought up to date on disk.
const IDLE_BEFORE_MARK: Duration = Duration::from_millis(200);
/// Room kept at the end of a segment for a reservation, an idle mark and the mark of a clean close.
const ROOM_FOR_MARKS: u64 = 3 * MARK_BYTES as u64;

/// Where the writer stands. Changed only by whoever holds the turn.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) segment: Arc<Segment>,
    /// Where the next batch goes.
    pub(super) at: ByteOffset,
    /// Length of the segment file.
    pub(super) capacity: u64,
    pub(super) next: Sequence,
    pub(super) chain: u32,
    pub(super) epoch: u32,
    pub(super) last_appended_at: Micros,
    /// Sequences below may be shown before they are flushed; flushed itself.
    pub(super) reserved_end: u64,
    /// What the last header on disk says about durability.
    pub(super) marked_durable: u64,
    pub(super) log_id: [u8; 16],
    pub(super) log_tag: u32,
    /// When making a segment failed last.
    pub(super) prepare_failed_at: Option<Micros>,
}

/// A batch in the making: the bytes to be written and what the last header in them says.
struct Encoded {
    /// What goes to the disk.
    stored: Bytes,
    /// The records in the group, as readers get them.
    records: Bytes,
    /// Where the header of the group starts (a reservation may come before it).
    group_at: usize,
    header: BatchHeader,
    chain: u32,
}

/// What is left to do for a group.
#[derive(Default)]
struct Answered {
    /// Below this all is to be on disk before it is done, if anything.
    end: Option<Sequence>,
    /// Somebody waits for that.
    flush_now: bool,
    owed: Vec<Unflushed>,
}

impl Answered {
    /// Tells who asked for no more than what holds already, and notes who did.
    fn add(&mut self, append: Append, first: Sequence, last: Sequence, durable_end: Sequence) {
        let appended = |durability| Appended {
            first,
            last,
            durability,
        };
        let durable = last < durable_end;
        if append.durability == Durability::Written {
            let answer = Ok(appended(Durability::Written));
            append.sink.appended(append.token, answer);
            if append.then != Some(Durability::Synced) {
                return;
            }
        } else {
            self.flush_now |= !durable;
        }
        if durable {
            let answer = Ok(appended(Durability::Synced));
            append.sink.appended(append.token, answer);
            return;
        }
        self.end = self.end.max(Some(last.next()));
        self.owed.push(Unflushed {
            sink: append.sink,
            token: append.token,
            appended: appended(Durability::Synced),
        });
    }
}

impl Core {
    pub(super) fn room(&self) -> u64 {
        self.capacity.saturating_sub(self.at.0)
    }

    /// The time for a new batch: the clock's, but never before that of the last batch.
    fn tick(&mut self, now: Micros) -> Micros {
        self.last_appended_at = self.last_appended_at.max(now);
        self.last_appended_at
    }
}

impl State {
    /// Most bytes that `append` can take in a batch, whatever its sequences will be.
    pub(super) fn bytes_at_most(&self, append: &Append) -> usize {
        let size = |new| record::encoded_len(new, &self.writer.clock_key, Sequence::MAX);
        append.records.iter().map(size).sum()
    }

    /// The largest batch that fits into a segment of its own.
    pub(super) fn batch_bytes_max(&self) -> usize {
        let room = self.options.segment_bytes.saturating_sub(
            HEADER_BLOCK_BYTES + (HEADER_BYTES + CIPHER_BYTES) as u64 + ROOM_FOR_MARKS,
        );
        usize::try_from(room)
            .unwrap_or(usize::MAX)
            .min(u32::MAX as usize)
    }

    /// Writes what of `group` is to be stored as one batch, and answers all of it.
    pub(super) fn commit(self: &Arc<Self>, mut group: Vec<Waiting>) {
        let shows_written = self.shows_written.load(Ordering::Acquire)
            || group
                .iter()
                .any(|waiting| waiting.append.durability == Durability::Written);
        let written = self.write_group(&mut group, shows_written);
        // The latest first: each takes back what it has changed.
        for waiting in group.iter_mut().rev() {
            waiting.settle(written.is_ok());
        }
        let (chunk, failure) = match written {
            Ok(chunk) => (chunk, None),
            Err(error) => (None, Some(error)),
        };
        if let (true, Some(chunk)) = (shows_written, &chunk) {
            self.show(chunk);
        }
        let Answered {
            end,
            flush_now,
            owed,
        } = self.answer_written(group, failure.as_ref());
        let end = chunk.as_ref().map_or(end, |chunk| Some(chunk.last.next()));
        let Some(end) = end else {
            // Nothing was written, and nothing that somebody waits for is not on disk.
            return;
        };
        if !flush_now {
            self.unflushed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(owed);
            if self.durable_end() >= end {
                // A reservation was due, and its flush was one of the records as well.
                self.announce_durable();
            } else {
                self.queue_chore(Chore::Flush, self.options.flush_after);
            }
            return;
        }
        if let Err(error) = self.flush_through(end) {
            for owed in owed {
                owed.sink.appended(owed.token, Err(error.clone()));
            }
            return;
        }
        if let (false, Some(chunk)) = (shows_written, &chunk) {
            self.show(chunk);
        }
        self.announce_durable();
        for owed in owed {
            owed.sink.appended(owed.token, Ok(owed.appended));
        }
        self.queue_chore(Chore::Mark, IDLE_BEFORE_MARK);
    }

    /// Lets readers have what is in `chunk`.
    fn show(&self, chunk: &Chunk) {
        let end = chunk.last.next();
        self.written_end.fetch_max(end.get(), Ordering::AcqRel);
        self.observer.written(chunk);
    }

    /// Answers those who need not wait for a flush, and says who does. `failure` is why nothing of
    /// the group was written.
    fn answer_written(&self, group: Vec<Waiting>, failure: Option<&AppendError>) -> Answered {
        let mut answered = Answered::default();
        for Waiting { append, place, .. } in group {
            let (first, last) = match (place, failure) {
                (Place::Refused(expected, found), _) => {
                    let error = AppendError::ConditionNotMet { expected, found };
                    append.sink.appended(append.token, Err(error));
                    continue;
                }
                // What it repeats was stored whatever became of this group.
                (Place::Already(first, last), _) if last < self.durable_end() => (first, last),
                (_, Some(error)) => {
                    append.sink.appended(append.token, Err(error.clone()));
                    continue;
                }
                (Place::Already(first, last), None) => (first, last),
                (Place::Stored(first), None) => {
                    let end = first.advance(append.records.len() as u64);
                    (first, end.previous().unwrap_or(first))
                }
                (Place::Open, None) => unreachable!("a batch was written without being judged"),
            };
            answered.add(append, first, last, self.durable_end());
        }
        answered
    }

    fn write_group(
        self: &Arc<Self>,
        group: &mut [Waiting],
        shows_written: bool,
    ) -> Result<Option<Chunk>, AppendError> {
        let mut core = self.lock_core();
        if let Some(reason) = self.read_only() {
            return Err(AppendError::ReadOnly { reason });
        }
        let group_end = self.judge(group, core.next, core.last_appended_at)?.get();
        if group_end == core.next.get() {
            return Ok(None);
        }
        let stored = || group.iter().filter(|waiting| waiting.is_stored());
        let bytes_max: usize = stored()
            .map(|waiting| self.bytes_at_most(&waiting.append))
            .sum();
        let needed = (HEADER_BYTES + CIPHER_BYTES + bytes_max) as u64 + ROOM_FOR_MARKS;
        if needed > core.room() || !self.keyring().is_current(&core.segment) {
            self.rotate(&mut core, needed)?;
        }
        let reserved_end = (shows_written && group_end > core.reserved_end)
            .then(|| group_end.saturating_add(RESERVED_AT_ONCE));
        let encoded = self.encode(&mut core, group, bytes_max, reserved_end);
        let chunk = self.write(&mut core, encoded)?;
        if core.at.0 > core.capacity / 2 {
            self.queue_chore(Chore::Prepare, Duration::ZERO);
        }
        if reserved_end.is_some() {
            // The reservation must be on disk before any of its sequences is shown.
            let segment = Arc::clone(&core.segment);
            drop(core);
            self.flush_segment(&segment, chunk.last.next())?;
        }
        Ok(Some(chunk))
    }

    /// Lays out a batch for `group`, preceded by a reservation up to `reserved_end` if one is due.
    fn encode(
        &self,
        core: &mut Core,
        group: &[Waiting],
        bytes_max: usize,
        reserved_end: Option<u64>,
    ) -> Encoded {
        let appended_at = core.tick(self.clock.now());
        let mut buffer = Vec::with_capacity(MARK_BYTES + HEADER_BYTES + bytes_max);
        let mut chain = core.chain;
        if let Some(reserved_end) = reserved_end {
            let mark = self.mark(core, FLAG_MARK, reserved_end);
            chain = batch::chain_of(mark.first_chunk().unwrap_or(&[0; HEADER_BYTES]));
            buffer.extend_from_slice(&mark);
            core.reserved_end = reserved_end;
        }
        let group_at = buffer.len();
        buffer.extend_from_slice(&[0; HEADER_BYTES]);
        let mut sequence = core.next;
        let stored = group.iter().filter(|waiting| waiting.is_stored());
        for new in stored.flat_map(|waiting| &waiting.append.records) {
            record::encode(
                &mut buffer,
                new,
                &self.writer.clock_key,
                sequence,
                appended_at,
            );
            sequence = sequence.next();
        }
        let codec = &core.segment.codec;
        let mut header = BatchHeader {
            body_len: 0,
            body_crc: 0,
            base: core.next,
            count: u32::try_from(sequence.since(core.next)).unwrap_or(u32::MAX),
            flags: if codec.key.is_some() {
                FLAG_ENCRYPTED
            } else {
                0
            },
            appended_at,
            epoch: core.epoch,
            node: self.writer.node,
            durable_through: self.durable_end().get() - 1,
            chain,
            log_tag: core.log_tag,
        };
        let body_at = group_at + HEADER_BYTES;
        let encrypted = codec.key.is_some().then(|| {
            let mut encrypted = Vec::with_capacity(buffer.len() + codec.overhead_bytes());
            encrypted.extend_from_slice(&buffer[..body_at]);
            let nonce = self.keyring().nonce();
            codec.encode_into(&mut encrypted, &header, nonce, &buffer[body_at..]);
            encrypted
        });
        let (mut stored, plain) = match encrypted {
            Some(encrypted) => (encrypted, Some(buffer)),
            None => (buffer, None),
        };
        let body = &stored[body_at..];
        header.body_len = u32::try_from(body.len()).unwrap_or(u32::MAX);
        header.body_crc = crc32fast::hash(body);
        let header_bytes = header.encode();
        stored[group_at..body_at].copy_from_slice(&header_bytes);
        let stored = Bytes::from(stored);
        let records = plain
            .map_or_else(|| stored.clone(), Bytes::from)
            .slice(body_at..);
        Encoded {
            stored,
            records,
            group_at,
            header,
            chain: batch::chain_of(&header_bytes),
        }
    }

    /// Hands the bytes to the operating system, then makes them known to readers.
    fn write(&self, core: &mut Core, encoded: Encoded) -> Result<Chunk, AppendError> {
        let Encoded {
            stored,
            records,
            group_at,
            header,
            chain,
        } = encoded;
        let offset = core.at.advance(group_at as u64);
        self.put(core, &stored)?;
        core.next = header.end();
        core.chain = chain;
        core.marked_durable = header.durable_through;
        let chunk = Chunk {
            base: header.base,
            last: header.end().previous().unwrap_or(header.base),
            records: records.clone(),
        };
        let batch = Batch {
            offset,
            header,
            next_chain: chain,
            body: records,
            locked: false,
        };
        core.segment.grow(|index| index.add(&batch));
        self.tail
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(chunk.clone());
        Ok(chunk)
    }

    /// Flushes until `end` is durable. One flush serves all that was written before it began.
    fn flush_through(&self, end: Sequence) -> Result<(), AppendError> {
        let (segment, written) = {
            let core = self.lock_core();
            (Arc::clone(&core.segment), core.next)
        };
        debug_assert!(written >= end, "{end} is not written yet, only {written}");
        self.flush_segment(&segment, written)
    }

    /// Flushes `segment`, which is the active one and holds everything from the durable end to
    /// `written`.
    pub(super) fn flush_segment(
        &self,
        segment: &Segment,
        written: Sequence,
    ) -> Result<(), AppendError> {
        let _one_at_a_time = self.flush.lock().unwrap_or_else(PoisonError::into_inner);
        if self.durable_end() >= written {
            return Ok(());
        }
        if let Some(reason) = self.read_only() {
            // An earlier flush failed: a later success would say nothing about those bytes.
            return Err(AppendError::Indeterminate { reason });
        }
        if let Err(error) = segment.file.sync_data() {
            let reason = format!("flush {}: {error}", segment.path.display());
            self.poison(&reason);
            return Err(AppendError::Indeterminate { reason });
        }
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.durable_end.fetch_max(written.get(), Ordering::AcqRel);
        Ok(())
    }

    /// Tells the observer and those who are owed a second acknowledgement.
    pub(super) fn announce_durable(&self) {
        let end = self.durable_end();
        self.observer.durable(end);
        loop {
            let owed = {
                let mut unflushed = self
                    .unflushed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                match unflushed.front() {
                    Some(owed) if owed.appended.last < end => unflushed.pop_front(),
                    _ => None,
                }
            };
            let Some(owed) = owed else { break };
            owed.sink.appended(owed.token, Ok(owed.appended));
        }
    }

    /// The late flush of what was acknowledged as written.
    pub(super) fn flush_written(self: &Arc<Self>) {
        let (segment, written) = {
            let core = self.lock_core();
            (Arc::clone(&core.segment), core.next)
        };
        if self.durable_end() < written && self.flush_segment(&segment, written).is_ok() {
            self.announce_durable();
            self.queue_chore(Chore::Mark, IDLE_BEFORE_MARK);
        }
    }

    /// Notes on disk how far the log is flushed, so that after a crash damage there is told from
    /// a torn write. Only when nothing is waiting.
    pub(super) fn write_idle_mark(self: &Arc<Self>) {
        let busy = {
            let queue = self.lock_queue();
            queue.scheduled || !queue.appends.is_empty()
        };
        if busy {
            self.queue_chore(Chore::Mark, IDLE_BEFORE_MARK);
            return;
        }
        let mut core = self.lock_core();
        let durable = self.durable_end();
        let up_to_date = core.marked_durable >= durable.get() - 1 || durable < core.next;
        if up_to_date || core.room() < ROOM_FOR_MARKS {
            return;
        }
        if self.write_mark(&mut core, FLAG_MARK).is_ok() {
            let segment = Arc::clone(&core.segment);
            drop(core);
            // If it fails the log is poisoned, and says so itself.
            self.flush_mark(&segment).unwrap_or_default();
        }
    }

    /// The last thing written by a clean close, when everything else is flushed.
    pub(super) fn write_close_mark(&self, core: &mut Core) -> Result<(), AppendError> {
        if core.room() < MARK_BYTES as u64 {
            return Ok(());
        }
        self.write_mark(core, FLAG_MARK | FLAG_CLOSED)?;
        self.flush_mark(&core.segment)
    }

    /// Writes `bytes` where the writer stands and moves it behind them. A failure poisons the log.
    fn put(&self, core: &mut Core, bytes: &[u8]) -> Result<(), AppendError> {
        if let Err(error) = core.segment.file.write_at(core.at.0, bytes) {
            let reason = format!(
                "write {} at byte {}: {error}",
                core.segment.path.display(),
                core.at
            );
            self.poison(&reason);
            return Err(AppendError::Indeterminate { reason });
        }
        core.at = core.at.advance(bytes.len() as u64);
        Ok(())
    }

    pub(super) fn write_mark(&self, core: &mut Core, flags: u16) -> Result<(), AppendError> {
        core.tick(self.clock.now());
        let mark = self.mark(core, flags, core.reserved_end);
        self.put(core, &mark)?;
        core.chain = batch::chain_of(mark.first_chunk().unwrap_or(&[0; HEADER_BYTES]));
        core.marked_durable = self.durable_end().get() - 1;
        let (at, chain) = (core.at, core.chain);
        core.segment.grow(|index| {
            index.data_end = at;
            index.root = chain;
        });
        Ok(())
    }

    fn flush_mark(&self, segment: &Segment) -> Result<(), AppendError> {
        let _one_at_a_time = self.flush.lock().unwrap_or_else(PoisonError::into_inner);
        segment.file.sync_data().map_err(|error| {
            let reason = format!("flush {}: {error}", segment.path.display());
            self.poison(&reason);
            AppendError::Indeterminate { reason }
        })
    }

    fn mark(&self, core: &Core, flags: u16, reserved_end: u64) -> Vec<u8> {
        let body = Mark { reserved_end }.encode();
        let header = BatchHeader {
            body_len: 8,
            body_crc: crc32fast::hash(&body),
            base: core.next,
            count: 0,
            flags,
            appended_at: core.last_appended_at,
            epoch: core.epoch,
            node: self.writer.node,
            durable_through: self.durable_end().get() - 1,
            chain: core.chain,
            log_tag: core.log_tag,
        };
        let mut mark = header.encode().to_vec();
        mark.extend_from_slice(&body);
        mark
    }
}
