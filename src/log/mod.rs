//! A segmented local log.
//!
//! Synchronous; imports no other module of ours, and knows no tenant, topic rule, socket or
//! runtime. Time and file system are passed in.
//!
//! ```text
//!        sealed segments                     active segment        prepared ahead
//!  ┌──────────────┬──────────────┐   ┌─────────────────────────┐   ┌───────────┐
//!  │              │              │   │ batches ...... │0000000000   │00000000000│
//!  └──────────────┴──────────────┘   └────────┬───────┬────────┘   └───────────┘
//!  ▲                                          ▲       ▲
//!  first                             durable_end   written_end
//! ```
//!
//! - `first`: the oldest record still there (inclusive).
//! - `durable_end`: every record below it has been flushed to the disk (exclusive).
//! - `written_end`: every record below it has been handed to the operating system (exclusive).
//!
//! `first <= durable_end <= written_end`. An append is acknowledged `Synced` only when
//! `durable_end` has passed it.

mod append;
pub mod batch;
mod body;
mod chunk;
mod cipher;
mod commit;
mod committer;
mod compaction;
mod compression;
mod condition;
mod disk;
pub mod error;
pub mod extract;
mod fork;
pub mod fsync;
mod index;
mod keyfile;
mod keyring;
mod lasts;
mod lineage;
mod loss;
mod master;
pub mod offline;
mod open;
mod options;
mod pass;
pub mod position;
mod prepare;
mod reader;
mod record;
mod recovery;
mod rekey;
pub mod removal;
mod repair;
mod retention;
mod rewrite;
pub mod scan;
pub mod scrub;
pub mod segment;
mod snapshot;
mod state;
mod status;
pub mod storage;
mod tail;
mod topic_reader;
mod wire;

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

pub use append::{Append, AppendSink, Appended, Durability, NewRecord, Observer};
pub use chunk::{Chunk, Found, RecordRef};
pub use cipher::{DataKey, KeyId};
pub use committer::Committer;
pub use compaction::{Compaction, CompactionReport, Facts, KeyRule};
pub use compression::{Compression, CompressionReport};
pub use condition::{Condition, Judgement, Standing};
pub use error::{AppendError, Damage, Error, KeyProblem};
pub use fork::ForkPoint;
pub use keyring::{Entropy, Keyring, OsEntropy};
pub use master::{LineFault, MasterId, MasterKeyError, MasterKeys, MasterName};
pub use options::{Encryption, Environment, NewSegments, Options, Writer};
pub use pass::{Ended, Rewrites};
pub use position::{ByteOffset, Clock, Micros, Sequence};
pub use rekey::shred;
pub use retention::{Held, Holder, Limits, Retention, RetentionReport};
pub use rewrite::{Throttle, Unthrottled};
pub use snapshot::{Snapshot, SnapshotFile};
pub use status::{Bounds, LossStatement, Quarantined, ScrubStatus, Status, TopicSummary};
pub use storage::{Access, RealStorage, Storage, StorageFile, StorageLock};
pub use topic_reader::TopicReader;

use index::Index;
use state::State;

/// The error's text with its cause.
#[must_use]
pub fn with_source(error: &Error) -> String {
    prepare::with_source(error)
}

/// One open log. Cheap to clone; closed by [`Log::close`].
#[derive(Clone, Debug)]
pub struct Log {
    state: Arc<State>,
}

impl Log {
    /// Opens the log in `dir`, creating it if there is none, and recovers it. The statement says
    /// what the last session's unclean end has cost; `None` if it ended cleanly.
    ///
    /// On `Ok` everything that was ever acknowledged [`Durability::Synced`] can be read. A log
    /// with damage below its durable mark opens read-only.
    ///
    /// # Errors
    /// Locked by another process, of another format version, or not readable at all.
    pub fn open(
        environment: &Environment,
        dir: &std::path::Path,
        writer: &Writer,
        options: &Options,
        observer: Arc<dyn Observer>,
    ) -> Result<(Self, Option<LossStatement>), Error> {
        let (state, statement) = open::open(environment, dir, writer, options, observer)?;
        environment.committer.tails().admit(&state);
        Ok((Self { state }, statement))
    }

    /// Mends a damaged log that nobody has open: what is damaged is copied aside, and what is
    /// good goes on without it. Readers are told of the lost records for ever. `None` if nothing
    /// is damaged; then nothing is changed.
    ///
    /// Every segment is read whole.
    ///
    /// # Errors
    /// Locked by another process, encrypted without a key at hand, a number so wrong that no repair
    /// can go by it, or I/O errors; nothing of what can be read is lost, and the repair may be tried
    /// again.
    pub fn repair(
        environment: &Environment,
        dir: &std::path::Path,
        writer: &Writer,
        options: &Options,
        throttle: &dyn Throttle,
    ) -> Result<Option<LossStatement>, Error> {
        repair::repair(environment, dir, writer, options, throttle)
    }

    /// Queues a batch; `append.sink` hears of it. The order of calls is the order of sequences.
    ///
    /// An append that waits for [`Durability::Written`] only may be written, and acknowledged, on
    /// the caller's thread.
    ///
    /// # Errors
    /// At once, and then without a call of the sink: read-only, busy, too large.
    pub fn append(&self, append: Append) -> Result<(), AppendError> {
        self.state.queue(append, None)?;
        self.state.start();
        Ok(())
    }

    /// Queues a batch like [`Log::append`], but leaves it there until [`Log::start`] (or somebody
    /// else's append): whoever has many batches at hand gets them into one group.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn queue(&self, append: Append) -> Result<(), AppendError> {
        self.state.queue(append, None)
    }

    /// Queues a batch like [`Log::queue`], which is stored only if `condition` says so when its
    /// sequences are given.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn queue_if(
        &self,
        append: Append,
        condition: Box<dyn Condition>,
    ) -> Result<(), AppendError> {
        self.state.queue(append, Some(condition))
    }

    /// Gets the last sequences of all topics into memory, at about 40 bytes a topic, so that a
    /// [`Condition`] that asks for one does not hold up the commit threads. Quick if they are there
    /// already; otherwise the indexes of all segments are read, which blocks.
    ///
    /// # Errors
    /// I/O errors.
    pub fn know_lasts(&self) -> Result<(), Error> {
        self.state.know_lasts()
    }

    /// Whether [`Log::know_lasts`] would read nothing.
    #[must_use]
    pub fn knows_lasts(&self) -> bool {
        self.state.knows_lasts()
    }

    /// The last sequence on `topic`; `None` if no record of it is in the log. From memory if the
    /// topic was written to lately, or after [`Log::know_lasts`]; otherwise indexes are read. Waits
    /// until that record [can be read](Log::await_readable), so not for commit threads.
    ///
    /// # Errors
    /// I/O errors.
    pub fn last_of(&self, topic: &str) -> Result<Option<Sequence>, Error> {
        let last = self.state.last_of(topic)?;
        if let Some(last) = last {
            self.await_readable(last);
        }
        Ok(last)
    }

    /// Waits until the record at `sequence`, which an index names already, can be read: what is
    /// written is indexed before it is flushed, and read after. Not longer than a flush may take, nor
    /// where none will come any more.
    pub fn await_readable(&self, sequence: Sequence) {
        const LOOK_EVERY: Duration = Duration::from_micros(200);
        const WAIT_MAX: Duration = Duration::from_secs(10);
        let until = Instant::now() + WAIT_MAX;
        while self.bounds().written_end <= sequence
            && self.state.read_only().is_none()
            && Instant::now() < until
        {
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// How often records were removed since the log was opened: what was read before the last time
    /// may not be there any more.
    #[must_use]
    pub fn removals(&self) -> u64 {
        self.state.removals()
    }

    /// Gets written what is queued.
    pub fn start(&self) {
        self.state.start();
    }

    /// From now on `written_end` runs ahead of `durable_end`, for readers who prefer seeing
    /// records early to seeing only what survives a power cut. Without this, and without appends
    /// that ask for [`Durability::Written`], both ends move together.
    pub fn show_written(&self) {
        self.state.shows_written.store(true, Ordering::Release);
    }

    /// How far the log reaches now.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        // In this order, so that the ends are never seen to cross.
        let durable_end = self.state.durable_end();
        let first = self.state.first();
        let written_end = self.state.written_end().max(durable_end);
        Bounds {
            first,
            durable_end,
            written_end,
        }
    }

    /// Records from `from` on, all below `end` (use [`Bounds::durable_end`] or
    /// [`Bounds::written_end`]), about `bytes_max` bytes of them but at least one. From memory if
    /// they are in the tail, else from the files, with checksums verified. Where sequences are
    /// missing, the next existing ones follow.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] before the first record; I/O errors.
    pub fn read(&self, from: Sequence, end: Sequence, bytes_max: usize) -> Result<Found, Error> {
        let Bounds {
            first, written_end, ..
        } = self.bounds();
        if from < first {
            return Err(Error::OutOfRange { asked: from, first });
        }
        let end = end.min(written_end);
        if from >= end {
            return Ok(Found::End);
        }
        {
            let tail = self
                .state
                .tail
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(chunk) = tail.at(from) {
                let found = chunk.between(from, end, bytes_max);
                return Ok(found.map_or(Found::End, Found::Records));
            }
        }
        self.read_files(from, end, bytes_max)
    }

    fn read_files(&self, from: Sequence, end: Sequence, bytes_max: usize) -> Result<Found, Error> {
        let mut at = from;
        while let Some((segment, next_base)) = self.state.segment_of(at) {
            let read = segment.read(&*self.state.storage, at, end, bytes_max)?;
            self.state.keep_index(&segment);
            match read {
                reader::SegmentRead::Found(Found::Damaged { damage, next }) => {
                    let next = next.min(next_base.unwrap_or(Sequence::MAX)).min(end);
                    return Ok(Found::Damaged { damage, next });
                }
                reader::SegmentRead::Found(Found::Records(chunk))
                    if chunk.base < at || chunk.last < chunk.base =>
                {
                    // Only a forger makes every checksum fit; readers must get on nevertheless.
                    let next = next_base.unwrap_or(Sequence::MAX).min(end);
                    let damage = segment.out_of_order(&chunk);
                    return Ok(Found::Damaged { damage, next });
                }
                reader::SegmentRead::Found(found) => return Ok(found),
                reader::SegmentRead::Exhausted => match next_base {
                    Some(base) if base < end => {
                        if let Some(damage) = self.state.missing_between(&segment, at, base)? {
                            return Ok(Found::Damaged { damage, next: base });
                        }
                        at = base.max(at);
                    }
                    _ => break,
                },
            }
        }
        // It may have been removed since it was looked for.
        let first = self.state.first();
        if from < first {
            return Err(Error::OutOfRange { asked: from, first });
        }
        Ok(Found::End)
    }

    /// Whether a read from `from` would be served from memory.
    #[must_use]
    pub fn in_tail(&self, from: Sequence) -> bool {
        self.state
            .tail
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .holds(from)
    }

    /// A reader of the topics that `wanted` accepts.
    #[must_use]
    pub fn topic_reader(&self, wanted: Box<dyn Fn(&str) -> bool + Send + Sync>) -> TopicReader {
        TopicReader::new(self.clone(), wanted)
    }

    /// The first record appended at or after `time`; the end of the log if there is none. Right
    /// also when producers' clocks are not, because the log's own time never decreases.
    ///
    /// # Errors
    /// I/O errors.
    pub fn seek_time(&self, time: Micros) -> Result<Sequence, Error> {
        let segments = self.state.segments();
        let created_before = |segment: &&Arc<reader::Segment>| {
            segment
                .header
                .as_ref()
                .is_none_or(|header| header.created_at < time)
        };
        let after = segments.iter().take_while(created_before).count();
        for segment in &segments[after.saturating_sub(1)..] {
            let found = segment.seek_time(&*self.state.storage, time)?;
            self.state.keep_index(segment);
            if let Some(sequence) = found {
                return Ok(sequence.max(self.state.first()));
            }
        }
        Ok(self.bounds().written_end)
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// I/O errors.
    pub fn topics(&self) -> Result<Vec<TopicSummary>, Error> {
        self.topics_from(Sequence::FIRST)
    }

    /// The topics of the records from `from` on, by name, from the indexes but for the segment that
    /// `from` divides, which is read.
    ///
    /// # Errors
    /// I/O errors.
    pub fn topics_from(&self, from: Sequence) -> Result<Vec<TopicSummary>, Error> {
        let mut all = std::collections::BTreeMap::<String, TopicSummary>::new();
        let mut add = |summary: TopicSummary| match all.get_mut(&summary.topic) {
            Some(known) => {
                known.records += summary.records;
                known.bytes += summary.bytes;
                known.last = summary.last;
            }
            None => drop(all.insert(summary.topic.clone(), summary)),
        };
        let segments = self.state.segments();
        for (at, segment) in segments.iter().enumerate() {
            let end = segments.get(at + 1).map_or(Sequence::MAX, |next| next.base);
            if end <= from {
                continue;
            }
            if segment.base < from {
                self.read_topics(from, end, &mut add)?;
                continue;
            }
            let topics = segment.with_index(&*self.state.storage, summaries)?;
            topics.into_iter().for_each(&mut add);
            self.state.keep_index(segment);
        }
        Ok(all.into_values().collect())
    }

    fn read_topics(
        &self,
        from: Sequence,
        end: Sequence,
        add: &mut impl FnMut(TopicSummary),
    ) -> Result<(), Error> {
        const READ_BYTES: usize = 1 << 20;
        let mut at = from.max(self.state.first());
        loop {
            match self.read(at, end, READ_BYTES)? {
                Found::Records(chunk) => {
                    for record in chunk.iter() {
                        add(TopicSummary {
                            topic: record.topic.to_owned(),
                            records: 1,
                            bytes: record.field.len() as u64,
                            first: record.sequence,
                            last: record.sequence,
                        });
                    }
                    at = chunk.last.next();
                }
                Found::Damaged { next, .. } => at = next,
                Found::End => return Ok(()),
            }
        }
    }

    /// Removes whole segments from the front as long as every record in them lies before
    /// `before`, and returns the first sequence that is left. The active segment stays.
    ///
    /// # Errors
    /// I/O errors; some segments may be gone already.
    pub fn trim(&self, before: Sequence) -> Result<Sequence, Error> {
        self.state.trim(before)
    }

    /// Makes a fork in `dir`, which must be empty or not there: a log that has every record up to
    /// and including `at` (if `None`, all that is on disk) in common with this one, at the price of
    /// a link for each segment, and goes on with the next sequence as `writer`. Open it with
    /// [`Log::open`]. From then on neither can do the other any harm.
    ///
    /// On `Ok` the fork is on the disk; after a crash before that there is none, though its
    /// directory may have to be cleared away ([`removal`]), which a second attempt does too.
    ///
    /// # Errors
    /// `at` is before the first record or beyond the last on disk; `dir` is in use; the segment
    /// that the fork point divides is damaged; I/O errors.
    pub fn fork(
        &self,
        dir: &std::path::Path,
        at: Option<Sequence>,
        writer: &Writer,
    ) -> Result<ForkPoint, Error> {
        self.state.fork(dir, at, writer)
    }

    /// State, for people and metrics.
    #[must_use]
    pub fn status(&self) -> Status {
        let segments = self.state.segments();
        let epoch = self.state.lock_core().epoch;
        Status {
            bounds: self.bounds(),
            segments: segments.len(),
            used_bytes: self.used_bytes(),
            tail_bytes: self
                .state
                .tail
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .bytes(),
            index_bytes: self.state.index_bytes(),
            file_handles: segments.len() + self.state.handles_beside_segments(),
            waiting_bytes: self.waiting_bytes(),
            read_only: self.state.read_only(),
            flushes: self.flushes(),
            epoch,
            scrub: self.state.scrub_status(),
        }
    }

    /// A picture of all that is written by now, which stays readable while the log goes on.
    ///
    /// # Errors
    /// What is written cannot be flushed.
    pub fn snapshot(&self) -> Result<Snapshot, AppendError> {
        self.state.snapshot()
    }

    /// Leaves out all sequences below `next`: the next record gets `next`, if that is not lower
    /// than what it would get anyhow. Durable on `Ok`.
    ///
    /// For a log that was restored from a backup: what was given out after the backup was taken
    /// must not be given out again.
    ///
    /// # Errors
    /// The log takes no writes; no room for a segment.
    pub fn skip_to(&self, next: Sequence) -> Result<(), AppendError> {
        self.state.skip_to(next)
    }

    /// What the last scrub has found.
    #[must_use]
    pub fn scrub_status(&self) -> ScrubStatus {
        self.state.scrub_status()
    }

    /// Reads every segment, the active one as far as it is written, and checks all of it, as fast as `throttle` allows. What is
    /// damaged is told by [`Log::status`] from then on; the log still takes writes. `None` if
    /// `throttle` has ended it.
    ///
    /// # Errors
    /// I/O errors.
    pub fn scrub(&self, throttle: &dyn Throttle) -> Result<Option<ScrubStatus>, Error> {
        self.state.scrub(throttle)
    }

    /// Bytes waiting to be written.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.state.lock_queue().bytes
    }

    /// Flushes done since it was opened.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.state.flushes.load(Ordering::Relaxed)
    }

    /// Bytes of records and their framing in all segments. Waits for a flush under way.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let core = self.state.lock_core();
        let segments = self.state.segments();
        let sealed = segments
            .iter()
            .rev()
            .skip(1)
            .filter_map(|segment| segment.header.as_ref());
        sealed.map(|header| header.capacity).sum::<u64>() + core.at.0
    }

    /// Writes what is queued, flushes, marks the log as cleanly closed and releases its lock.
    /// Later appends are refused; reading goes on. A log that takes no writes any more only
    /// releases its lock.
    ///
    /// # Errors
    /// I/O errors; what was acknowledged is safe nevertheless.
    pub fn close(&self) -> Result<(), AppendError> {
        self.state.close()
    }

    fn state(&self) -> &Arc<State> {
        &self.state
    }
}

/// The topics of one segment, in no order.
fn summaries(index: &Index) -> Vec<TopicSummary> {
    let topics = index.topics.iter();
    let summaries = topics.map(|(name, topic)| TopicSummary {
        topic: name.to_string(),
        records: topic.records,
        bytes: topic.bytes,
        first: topic.first,
        last: topic.last,
    });
    summaries.collect()
}
