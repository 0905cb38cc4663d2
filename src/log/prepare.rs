//! Segments ahead of need: made, zeroed and flushed before the writer arrives.
//!
//! Writing into blocks that are already allocated and zeroed costs one flush of data; writing
//! beyond the end of a file costs a journal commit of the file system as well, twice the time.
//! A segment that retention has removed is zeroed and used again.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use std::{io, path::Path};

use super::body::BodyCodec;
use super::commit::Core;
use super::committer::Chore;
use super::error::{AppendError, Error};
use super::index::Index;
use super::options::Options;
use super::position::{ByteOffset, Micros, Sequence};
use super::reader::Segment;
use super::segment::{
    self, HEADER_BLOCK_BYTES, PREPARED, PREPARING, RETIRED, SegmentHeader, VERSION,
};
use super::state::State;
use super::storage::{Access, Storage, StorageFile};

/// After a failure, the next attempt is made no sooner than this.
const RETRY_AFTER: Micros = Micros(250_000);
/// The index of a sealed segment is written so much later if something else is under way.
const INDEX_RETRY_AFTER: Duration = Duration::from_secs(1);
const ZEROS_AT_ONCE: usize = 1 << 20;
/// Flushed in steps, so that a flush of records never waits for a whole segment of zeros.
const FLUSH_EVERY_BYTES: u64 = 4 << 20;

/// How fast segments are being filled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pace {
    /// There is time to write zeros ahead of the records, which makes each small flush cheaper.
    Calm,
    /// Writing everything twice would take more of the disk than the cheaper flushes give back:
    /// blocks are reserved and not written.
    Rapid,
}

/// Filling segments faster than this is rapid.
const RAPID_BYTES_PER_SECOND: u64 = 128 << 20;

/// What becomes of the blocks of a segment that is removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Blocks {
    /// Used by the next segment if nobody needs them any more.
    Reused,
    Freed,
}

/// A file that only waits for its header and its name.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) file: Box<dyn StorageFile>,
    pub(super) capacity: u64,
}

/// Size of the segment that follows one of `capacity` bytes.
fn capacity_after(capacity: u64, options: &Options) -> u64 {
    capacity
        .saturating_mul(4)
        .clamp(options.segment_bytes_first, options.segment_bytes)
}

/// Makes a zeroed file of `capacity` bytes; durable under its name on `Ok`, gone on `Err`.
fn prepare(storage: &dyn Storage, dir: &Path, capacity: u64, pace: Pace) -> io::Result<Prepared> {
    let path = dir.join(PREPARING);
    remove_if_there(storage, &path)?;
    let (file, pace) = match retired(storage, dir, &path, capacity)? {
        // Its old contents must go; its blocks need no reserving.
        Some(file) => (file, Pace::Calm),
        None => (storage.create(&path)?, pace),
    };
    let filled = match pace {
        Pace::Calm => zero(&*file, capacity),
        Pace::Rapid => file.allocate(capacity).and_then(|()| file.sync_data()),
    };
    let named = filled
        .and_then(|()| storage.rename(&path, &dir.join(PREPARED)))
        .and_then(|()| storage.sync_dir(dir));
    if let Err(error) = named {
        drop(file);
        remove_if_there(storage, &path)?;
        remove_if_there(storage, &dir.join(PREPARED))?;
        return Err(error);
    }
    Ok(Prepared { file, capacity })
}

/// The retired file under its new name, if there is one of that size.
fn retired(
    storage: &dyn Storage,
    dir: &Path,
    path: &Path,
    capacity: u64,
) -> io::Result<Option<Box<dyn StorageFile>>> {
    let retired = dir.join(RETIRED);
    let file = match storage.open(&retired, Access::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    if file.len()? != capacity {
        drop(file);
        storage.remove(&retired)?;
        return Ok(None);
    }
    storage.rename(&retired, path)?;
    Ok(Some(file))
}

fn zero(file: &dyn StorageFile, capacity: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_AT_ONCE];
    let mut at = 0;
    while at < capacity {
        let len = (capacity - at).min(ZEROS_AT_ONCE as u64);
        file.write_at(
            at,
            &zeros[..usize::try_from(len).map_err(io::Error::other)?],
        )?;
        at += len;
        if at.is_multiple_of(FLUSH_EVERY_BYTES) {
            file.sync_data()?;
        }
    }
    file.sync_data()
}

pub(super) fn remove_if_there(storage: &dyn Storage, path: &Path) -> io::Result<()> {
    match storage.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Takes over a file that an earlier session had got ready.
pub(super) fn reuse(storage: &dyn Storage, dir: &Path, options: &Options) -> Option<Prepared> {
    let file = storage.open(&dir.join(PREPARED), Access::Write).ok()?;
    let capacity = file.len().ok()?;
    let usable = (options.segment_bytes_first..=options.segment_bytes).contains(&capacity);
    usable.then_some(Prepared { file, capacity })
}

/// Gives `prepared` its header and its name. Durable on `Ok`.
pub(super) fn activate(
    storage: &dyn Storage,
    dir: &Path,
    prepared: Prepared,
    mut header: SegmentHeader,
    codec: BodyCodec,
    options: &Options,
) -> Result<Segment, Error> {
    header.capacity = prepared.capacity;
    let path = segment::path(dir, header.base);
    let io = |operation| {
        let path = path.clone();
        move |source| Error::Io {
            operation,
            path,
            source,
        }
    };
    prepared
        .file
        .write_at(0, &header.block())
        .map_err(io("write header of"))?;
    prepared.file.sync_data().map_err(io("flush header of"))?;
    storage
        .rename(&dir.join(PREPARED), &path)
        .map_err(io("rename prepared segment to"))?;
    storage.sync_dir(dir).map_err(io("flush directory of"))?;
    let start = ByteOffset(HEADER_BLOCK_BYTES);
    let index = Index::new(
        header.base,
        start,
        header.chain(),
        options.index_interval_bytes,
    );
    Ok(Segment::growing(header, path, prepared.file, codec, index))
}

/// The first segment of a new log.
pub(super) fn first_segment(
    storage: &dyn Storage,
    dir: &Path,
    header: SegmentHeader,
    codec: BodyCodec,
    options: &Options,
) -> Result<Segment, Error> {
    let capacity = options.segment_bytes_first.min(options.segment_bytes);
    let prepared = prepare(storage, dir, capacity, Pace::Calm).map_err(|source| Error::Io {
        operation: "prepare first segment in",
        path: dir.to_owned(),
        source,
    })?;
    activate(storage, dir, prepared, header, codec, options)
}

impl State {
    /// Begins the next segment, with room for `needed` bytes after its header block.
    ///
    /// If there is no room on the disk nothing has happened; any other failure poisons the log.
    pub(super) fn rotate(
        self: &Arc<Self>,
        core: &mut Core,
        needed: u64,
    ) -> Result<(), AppendError> {
        // Held until the file has its own name, so that nobody prepares another one meanwhile under
        // the name that this one still has.
        let mut slot = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        let prepared = self.take_prepared(&mut slot, core, needed + HEADER_BLOCK_BYTES)?;
        // Everything before a segment is on disk before the segment is: recovery relies on it.
        self.flush_segment(&core.segment, core.next)?;
        // A segment without records has the same base: its successor takes its name and place, and
        // follows whatever it followed.
        let empty = core
            .segment
            .header
            .as_ref()
            .filter(|header| header.base == core.next);
        let keyring = self.keyring();
        let (key_id, salt) = keyring.for_new_segment();
        let header = SegmentHeader {
            version: VERSION,
            node: self.writer.node,
            log_id: core.log_id,
            base: core.next,
            epoch: core.epoch,
            previous_root: match (empty, &core.segment.header) {
                (Some(empty), _) => empty.previous_root,
                (None, Some(header)) if header.is_rewritten() => header.sealed_root,
                (None, _) => core.chain,
            },
            created_at: core.last_appended_at.max(self.clock.now()),
            reserved_end: core.reserved_end,
            key_id,
            capacity: prepared.capacity,
            flags: 0,
            generation: 0,
            sealed_root: 0,
            end: 0,
            salt,
            // Of every own segment, so that the oldest may go without a fork forgetting its parent.
            origin: core
                .segment
                .header
                .as_ref()
                .and_then(|header| header.origin),
        };
        let codec = keyring.codec(&header);
        let capacity = prepared.capacity;
        let chain = header.chain();
        core.last_appended_at = header.created_at;
        let activated = activate(
            &*self.storage,
            &self.dir,
            prepared,
            header,
            codec,
            &self.options,
        );
        let segment = match activated {
            Ok(segment) => Arc::new(segment),
            Err(error) => {
                let reason = with_source(&error);
                self.poison(&reason);
                return Err(AppendError::ReadOnly { reason });
            }
        };
        let replaces = core.segment.base == segment.base;
        let sealed = core.segment.seal();
        self.lock_lasts().sealed(&sealed);
        core.segment = Arc::clone(&segment);
        core.at = ByteOffset(HEADER_BLOCK_BYTES);
        core.capacity = capacity;
        core.chain = chain;
        core.marked_durable = core.next.get() - 1;
        {
            let mut segments = self
                .segments
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            if replaces {
                segments.pop();
            }
            segments.push(segment);
        }
        self.queue_chore(Chore::Seal, Duration::ZERO);
        Ok(())
    }

    fn take_prepared(
        &self,
        slot: &mut Option<Prepared>,
        core: &mut Core,
        needed: u64,
    ) -> Result<Prepared, AppendError> {
        if let Some(prepared) = slot.take().filter(|prepared| prepared.capacity >= needed) {
            return Ok(prepared);
        }
        let now = self.clock.now();
        if let Some(failed_at) = core.prepare_failed_at
            && now >= failed_at
            && now.0 - failed_at.0 < RETRY_AFTER.0
        {
            let reason = "the last attempt has just failed".to_owned();
            return Err(AppendError::NoSpace { reason });
        }
        // A smaller segment may still fit where a full-grown one does not.
        let mut capacity = capacity_after(core.capacity, &self.options).max(needed);
        loop {
            // The writer is waiting.
            match prepare(&*self.storage, &self.dir, capacity, Pace::Rapid) {
                Ok(prepared) => {
                    core.prepare_failed_at = None;
                    return Ok(prepared);
                }
                Err(error) => {
                    let smaller = (capacity / 4)
                        .max(needed)
                        .max(self.options.segment_bytes_first);
                    if error.kind() != io::ErrorKind::StorageFull || smaller >= capacity {
                        core.prepare_failed_at = Some(now);
                        tracing::error!(dir = %self.dir.display(), %error, "cannot make a segment");
                        return Err(AppendError::NoSpace {
                            reason: error.to_string(),
                        });
                    }
                    capacity = smaller;
                }
            }
        }
    }

    /// Gets the next segment ready before it is needed.
    pub(super) fn prepare_ahead(&self) {
        let (capacity, pace) = {
            let core = self.lock_core();
            (
                capacity_after(core.capacity, &self.options),
                self.pace(&core),
            )
        };
        let mut slot = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if slot
            .as_ref()
            .is_some_and(|prepared| prepared.capacity >= capacity)
        {
            return;
        }
        match prepare(&*self.storage, &self.dir, capacity, pace) {
            Ok(prepared) => *slot = Some(prepared),
            Err(error) => {
                // Not yet anybody's problem: the writer tries again when it gets there.
                tracing::warn!(dir = %self.dir.display(), %error, "cannot prepare a segment ahead");
            }
        }
    }

    fn pace(&self, core: &Core) -> Pace {
        let Some(header) = &core.segment.header else {
            return Pace::Calm;
        };
        let took = self.clock.now().0.saturating_sub(header.created_at.0);
        let rapid = took.saturating_mul(RAPID_BYTES_PER_SECOND) / 1_000_000 < core.at.0;
        if rapid { Pace::Rapid } else { Pace::Calm }
    }

    /// As [`State::write_indexes`], unless a segment is just being replaced: then a little later,
    /// because nobody waits for it, and other logs wait for this thread.
    pub(super) fn write_new_indexes(self: &Arc<Self>) {
        match self.rewriting.try_lock() {
            Ok(_sealed_stay) => self.write_indexes(),
            Err(_held) => self.queue_chore(Chore::Seal, INDEX_RETRY_AFTER),
        }
    }

    /// Writes the index files that are missing, and drops those indexes from memory. The caller
    /// holds [`State::rewriting`].
    pub(super) fn write_indexes(&self) {
        let segments = self.segments();
        let sealed = segments.split_last().map_or(&[][..], |(_, sealed)| sealed);
        for segment in sealed.iter().filter(|segment| segment.holds_sealed_index()) {
            let path = segment.path.with_extension("idx");
            let bad = segment.index_file_bad.swap(false, Ordering::AcqRel);
            if !bad && let Ok(file) = self.storage.open(&path, Access::Read) {
                drop(file);
                continue;
            }
            match self.write_index(segment, &path) {
                Ok(()) => self.keep_index(segment),
                Err(error) => {
                    // The index can be built again at any time; reading goes on from memory.
                    tracing::warn!(path = %path.display(), %error, "cannot write the index");
                }
            }
        }
    }

    pub(super) fn write_index(&self, segment: &Segment, path: &Path) -> io::Result<()> {
        let Some(header) = &segment.header else {
            return Ok(());
        };
        let nonce = self.keyring().nonce();
        let encoded = segment.seal().encode(header, &segment.codec, nonce);
        let temporary = path.with_extension("idx.tmp");
        remove_if_there(&*self.storage, &temporary)?;
        let file = self.storage.create(&temporary)?;
        file.write_at(0, &encoded)?;
        file.sync_data()?;
        self.storage.rename(&temporary, path)?;
        self.storage.sync_dir(&self.dir)
    }

    /// Removes every sealed segment all of whose records lie before `before`. One of them is kept
    /// aside for reuse.
    pub(super) fn trim(self: &Arc<Self>, before: Sequence) -> Result<Sequence, Error> {
        let _sealed_stay = self.lock_rewriting();
        if self.upkeep.is_closing() {
            return Ok(self.first());
        }
        let mut removed: Vec<Arc<Segment>> = {
            let mut segments = self
                .segments
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            let keep = segments
                .windows(2)
                .take_while(|pair| pair[1].base <= before.min(self.durable_end()))
                .count();
            let removed = segments.drain(..keep).collect();
            if let Some(first) = segments.first() {
                self.first.store(first.base.get(), Ordering::Release);
            }
            removed
        };
        self.lock_lasts().trimmed(self.first());
        self.indexes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        // Segments grow, so the last of them has the size of those to come.
        let last = removed.pop();
        // The oldest first, and each durably: a log has no gap where a segment was, and no old
        // value of a key is there when the newer one is gone.
        for segment in removed {
            self.retire(segment, Blocks::Freed)?;
            self.sync_dir()?;
        }
        if let Some(segment) = last {
            self.retire(segment, Blocks::Reused)?;
            self.sync_dir()?;
        }
        Ok(self.first())
    }

    fn retire(&self, segment: Arc<Segment>, blocks: Blocks) -> Result<(), Error> {
        let path = segment.path.clone();
        let io = |operation| {
            let path = path.clone();
            move |source| Error::Io {
                operation,
                path,
                source,
            }
        };
        remove_if_there(&*self.storage, &path.with_extension("idx"))
            .map_err(io("remove index of"))?;
        // Reusable only if nobody can still look at its bytes: neither through the segment, nor
        // through a mapping of it, nor as a file of a fork, nor through a fork's mapping, which can
        // outlast the fork's file. A rewritten one is of no use.
        let unused = Arc::into_inner(segment).is_some_and(|segment| {
            let shared = segment.shared.load(Ordering::Acquire);
            let rewritten = segment
                .header
                .as_ref()
                .is_none_or(SegmentHeader::is_rewritten);
            !shared
                && !rewritten
                && !segment.file.is_shared()
                && matches!(segment.file.links(), Ok(1))
        });
        let retired = self.dir.join(RETIRED);
        let free = self.storage.open(&retired, Access::Read).is_err();
        if blocks == Blocks::Reused && unused && free {
            self.storage.rename(&path, &retired).map_err(io("retire"))
        } else {
            self.storage.remove(&path).map_err(io("remove"))
        }
    }
}

/// The error's text with its cause, for a reason that is kept as text.
pub(super) fn with_source(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
