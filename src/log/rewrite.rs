//! Writes a sealed segment again: without some of its records, compressed, or both.
//!
//! Sequences do not change. The new file is complete and flushed before it takes the old one's
//! name, so that at any moment one of the two is there; readers that look at the old one go on
//! with it. Damage is never written away: a segment with damage stays as it is, unless a repair
//! says where the damaged bytes have gone.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::batch::{
    self, BatchHeader, FLAG_CLOSED, FLAG_COMPRESSED, FLAG_ENCRYPTED, FLAG_HOLES, FLAG_LOST,
    FLAG_MARK, HEADER_BYTES, Mark,
};
use super::body::{self, BodyCodec};
use super::chunk::RecordRef;
use super::error::{Error, KeyProblem};
use super::index::Index;
use super::keyring::Keyring;
use super::position::{ByteOffset, Micros, Sequence};
use super::prepare::remove_if_there;
use super::reader::Segment;
use super::scan::{Batch, DamagedRegion, Scanned};
use super::segment::{self, FLAG_REWRITTEN, HEADER_BLOCK_BYTES, REWRITING, SegmentHeader, VERSION};
use super::state::State;
use super::storage::{Storage, StorageFile};

/// Compressed bodies are made of about so many bytes of records: enough for a good ratio, little
/// enough to be decoded for one record.
const BLOCK_BYTES: usize = 128 << 10;
/// Written to the file at a time.
const WRITE_BYTES: usize = 1 << 20;
/// Sequences that one batch can stand for.
const COUNT_MAX: u64 = u32::MAX as u64;

/// Slows background work down, and ends it.
pub trait Throttle: Send + Sync {
    /// Called before about `bytes` more are read or written; may sleep. `false`: give up.
    fn take(&self, bytes: u64) -> bool;
}

/// Does not slow anything down.
#[derive(Clone, Copy, Default, Debug)]
pub struct Unthrottled;

impl Throttle for Unthrottled {
    fn take(&self, _bytes: u64) -> bool {
        true
    }
}

/// What the new file is to be.
pub(super) struct Plan<'a> {
    /// Which records stay.
    pub(super) keep: &'a mut dyn FnMut(&RecordRef<'_>) -> bool,
    /// Exclusive end of the sequences that it stands for; records from here on are left out.
    pub(super) end: Sequence,
    /// Level of zstd; `None` = not compressed.
    pub(super) compression: Option<i32>,
    /// What is done about damage; without it, damage is an error.
    pub(super) quarantine: Option<Mending<'a>>,
}

/// How a damaged segment is mended.
pub(super) struct Mending<'a> {
    /// Says where the bytes of a damaged region are now.
    pub(super) aside: &'a dyn Fn(&DamagedRegion) -> String,
    /// The header that the segment should have had.
    pub(super) header: SegmentHeader,
    /// What the segment behind it says that it ended with, where that is known.
    pub(super) root: Option<u32>,
    /// Why records at its end are lost, if all damage that can be seen does not explain it.
    pub(super) missing: Option<String>,
    /// It is the last segment: the sequence to go on with.
    pub(super) closed_at: Option<Sequence>,
}

/// A new file that has no name of its own yet.
pub(super) struct Rewritten {
    pub(super) header: SegmentHeader,
    pub(super) file: Box<dyn StorageFile>,
    pub(super) index: Index,
    pub(super) codec: BodyCodec,
    /// Records that were left out.
    pub(super) removed: u64,
    /// Records that are still there.
    pub(super) kept: u64,
}

/// Writes batches into a new segment file, one after the other.
pub(super) struct SegmentWriter<'a> {
    file: Box<dyn StorageFile>,
    header: SegmentHeader,
    codec: BodyCodec,
    keyring: &'a Keyring,
    compression: Option<i32>,
    index: Index,
    chain: u32,
    /// Of the last batch: epochs and times never decrease.
    epoch: u32,
    appended_at: Micros,
    /// Bytes that are not in the file yet, and where they go.
    buffer: Vec<u8>,
    written: u64,
    block: Option<Block>,
}

/// Records that will be one batch.
struct Block {
    header: BatchHeader,
    /// Exclusive end of its sequences.
    end: Sequence,
    records: Vec<u8>,
    count: u64,
}

impl<'a> SegmentWriter<'a> {
    /// Begins the file at `path`, which must not exist, with `header`; its key and salt are taken
    /// from `keyring`.
    pub(super) fn create(
        storage: &dyn Storage,
        path: &Path,
        mut header: SegmentHeader,
        keyring: &'a Keyring,
        compression: Option<i32>,
        index_interval_bytes: u32,
    ) -> io::Result<Self> {
        let file = storage.create(path)?;
        (header.key_id, header.salt) = keyring.for_new_segment();
        header.flags = FLAG_REWRITTEN;
        if compression.is_some() {
            header.flags |= segment::FLAG_COMPRESSED;
        }
        let chain = header.chain();
        let start = ByteOffset(HEADER_BLOCK_BYTES);
        Ok(Self {
            file,
            index: Index::new(header.base, start, chain, index_interval_bytes),
            codec: keyring.codec(&header),
            keyring,
            epoch: header.epoch,
            appended_at: header.created_at,
            header,
            compression,
            chain,
            buffer: Vec::with_capacity(WRITE_BYTES),
            written: HEADER_BLOCK_BYTES,
            block: None,
        })
    }

    /// Adds records that stood in a batch with `source` as its header: those of its sequences that
    /// are still there.
    pub(super) fn put(&mut self, source: &BatchHeader, record: &RecordRef<'_>) -> io::Result<()> {
        let fits = self.block.as_ref().is_some_and(|block| {
            let same_batch = block.header.base == source.base;
            let mergeable = self.compression.is_some()
                && block.header.epoch == source.epoch
                && block.header.node == source.node
                && block.records.len() < BLOCK_BYTES
                && source.end().since(block.header.base) <= COUNT_MAX;
            same_batch || mergeable
        });
        if !fits {
            self.end_block()?;
            self.block = Some(Block {
                header: source.clone(),
                end: source.base,
                records: Vec::new(),
                count: 0,
            });
        }
        let Some(block) = &mut self.block else {
            unreachable!("a block was just begun")
        };
        // A batch that the end divides stands for its first part.
        block.end =
            Sequence::new(self.header.end).map_or(source.end(), |end| end.min(source.end()));
        self.epoch = self.epoch.max(source.epoch);
        block.records.extend_from_slice(record.field);
        block.count += 1;
        Ok(())
    }

    fn end_block(&mut self) -> io::Result<()> {
        let Some(block) = self.block.take() else {
            return Ok(());
        };
        let Block {
            mut header,
            end,
            records,
            count,
        } = block;
        let covered = end.since(header.base);
        header.count = u32::try_from(covered).map_err(io::Error::other)?;
        header.flags = 0;
        if covered != count {
            header.flags |= FLAG_HOLES;
        }
        let compressed = match self.compression {
            Some(level) => {
                header.flags |= FLAG_COMPRESSED;
                Some(body::compress(&records, level)?)
            }
            None => None,
        };
        self.write_batch(header, compressed.as_deref(), Bytes::from(records))
    }

    /// A batch that stands for the sequences from `first` to `last`, whose records are lost.
    pub(super) fn put_lost(
        &mut self,
        first: Sequence,
        end: Sequence,
        reason: &str,
        appended_at: Micros,
    ) -> io::Result<()> {
        self.end_block()?;
        let mut from = first;
        while from < end {
            let count = end.since(from).min(COUNT_MAX);
            let header = BatchHeader {
                body_len: 0,
                body_crc: 0,
                base: from,
                count: u32::try_from(count).map_err(io::Error::other)?,
                flags: FLAG_LOST,
                appended_at,
                epoch: self.epoch,
                node: self.header.node,
                durable_through: end.get() - 1,
                chain: 0,
                log_tag: 0,
            };
            self.write_batch(header, None, Bytes::copy_from_slice(reason.as_bytes()))?;
            from = from.advance(count);
        }
        Ok(())
    }

    /// What a clean close leaves behind, for the last segment of a log.
    pub(super) fn put_close(&mut self, next: Sequence, appended_at: Micros) -> io::Result<()> {
        self.end_block()?;
        let mark = Mark {
            reserved_end: next.get(),
        };
        let header = BatchHeader {
            body_len: 0,
            body_crc: 0,
            base: next,
            count: 0,
            flags: FLAG_MARK | FLAG_CLOSED,
            appended_at,
            epoch: self.epoch,
            node: self.header.node,
            durable_through: next.get() - 1,
            chain: 0,
            log_tag: 0,
        };
        self.write_batch(header, None, Bytes::copy_from_slice(&mark.encode()))
    }

    fn write_batch(
        &mut self,
        mut header: BatchHeader,
        compressed: Option<&[u8]>,
        plain: Bytes,
    ) -> io::Result<()> {
        header.chain = self.chain;
        header.log_tag = self.header.log_tag();
        header.durable_through = header.durable_through.min(header.base.get() - 1);
        self.appended_at = self.appended_at.max(header.appended_at);
        header.appended_at = self.appended_at;
        let holds_records = !header.is_lost() && !header.is_mark();
        if holds_records && self.codec.key.is_some() {
            header.flags |= FLAG_ENCRYPTED;
        }
        let start = self.buffer.len();
        let offset = ByteOffset(self.written + start as u64);
        self.buffer.extend_from_slice(&[0; HEADER_BYTES]);
        let body = compressed.unwrap_or(&plain);
        if holds_records {
            let nonce = self.keyring.nonce();
            self.codec
                .encode_into(&mut self.buffer, &header, nonce, body);
        } else {
            self.buffer.extend_from_slice(body);
        }
        let stored = &self.buffer[start + HEADER_BYTES..];
        header.body_len = u32::try_from(stored.len()).map_err(io::Error::other)?;
        header.body_crc = crc32fast::hash(stored);
        let header_bytes = header.encode();
        self.buffer[start..start + HEADER_BYTES].copy_from_slice(&header_bytes);
        self.chain = batch::chain_of(&header_bytes);
        self.index.add(&Batch {
            offset,
            header,
            next_chain: self.chain,
            body: plain,
            locked: false,
        });
        if self.buffer.len() >= WRITE_BYTES {
            self.write_out()?;
        }
        Ok(())
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.file.write_at(self.written, &self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Ends the file; it is on the disk, under the name that it was created with, on `Ok`.
    pub(super) fn finish(
        mut self,
    ) -> io::Result<(SegmentHeader, Box<dyn StorageFile>, Index, BodyCodec)> {
        self.end_block()?;
        self.write_out()?;
        self.header.capacity = self.written;
        self.file.write_at(0, &self.header.block())?;
        self.file.sync_data()?;
        Ok((self.header, self.file, self.index, self.codec))
    }
}

/// Writes what `plan` leaves of `segment` to [`REWRITING`] in `dir`; flushed on `Ok`. `None` if
/// `throttle` has ended it.
pub(super) fn rewrite(
    storage: &dyn Storage,
    dir: &Path,
    segment: &Segment,
    keyring: &Keyring,
    index_interval_bytes: u32,
    throttle: &dyn Throttle,
    plan: Plan<'_>,
) -> Result<Option<Rewritten>, Error> {
    let scan = segment.scan()?;
    write_again(
        storage,
        dir,
        segment,
        scan,
        keyring,
        index_interval_bytes,
        throttle,
        plan,
    )
}

/// The same of what stands below the end of `plan` alone: what follows is not looked at, because
/// somebody may be writing there.
pub(super) fn copy_prefix(
    storage: &dyn Storage,
    dir: &Path,
    segment: &Segment,
    keyring: &Keyring,
    index_interval_bytes: u32,
    plan: Plan<'_>,
) -> Result<Option<Rewritten>, Error> {
    let end = plan.end;
    let below = move |scanned: &Scanned| match scanned {
        Scanned::Batch(batch) => batch.header.base < end,
        Scanned::Damaged(region) => region.expected < end,
        Scanned::End(_) => false,
    };
    let scan = segment.scan()?.take_while(below);
    write_again(
        storage,
        dir,
        segment,
        scan,
        keyring,
        index_interval_bytes,
        &Unthrottled,
        plan,
    )
}

#[expect(
    clippy::too_many_arguments,
    reason = "all that both forms of it are given, and one loop over it"
)]
fn write_again(
    storage: &dyn Storage,
    dir: &Path,
    segment: &Segment,
    scan: impl Iterator<Item = Scanned>,
    keyring: &Keyring,
    index_interval_bytes: u32,
    throttle: &dyn Throttle,
    plan: Plan<'_>,
) -> Result<Option<Rewritten>, Error> {
    let Plan {
        keep,
        end,
        compression,
        quarantine,
    } = plan;
    let path = dir.join(REWRITING);
    let io = |operation| segment_error(&path, operation);
    let mending = quarantine.as_ref().map(|mending| &mending.header);
    let Some(header) = mending.or(segment.header.as_ref()).cloned() else {
        return Err(Error::Io {
            operation: "write again",
            path: segment.path.clone(),
            source: io::Error::new(io::ErrorKind::InvalidData, "its header is damaged"),
        });
    };
    remove_if_there(storage, &path).map_err(io("clean up"))?;
    let root = match quarantine.as_ref().and_then(|mending| mending.root) {
        Some(root) => root,
        None if header.is_rewritten() => header.sealed_root,
        None => segment.with_index(storage, |index| index.root)?,
    };
    let header = SegmentHeader {
        version: VERSION,
        generation: header.generation.saturating_add(1),
        sealed_root: root,
        end: end.get(),
        ..header
    };
    let mut appended_at = header.created_at;
    let writer = SegmentWriter::create(
        storage,
        &path,
        header,
        keyring,
        compression,
        index_interval_bytes,
    );
    let mut writer = writer.map_err(io("create"))?;
    let (mut kept, mut removed) = (0, 0);
    let mut next = segment.base;
    for scanned in scan {
        match scanned {
            Scanned::Batch(batch) => {
                if !throttle.take(2 * batch.header.file_len()) {
                    return Ok(None);
                }
                appended_at = batch.header.appended_at;
                next = batch.header.end();
                if batch.locked {
                    return Err(locked(segment));
                }
                if let Some(reason) = batch.lost() {
                    let (first, last) = (batch.header.base, batch.header.end().min(end));
                    writer
                        .put_lost(first, last, &reason, appended_at)
                        .map_err(io("write"))?;
                    continue;
                }
                for record in batch.records() {
                    // Only a forger makes every checksum fit.
                    let here = (batch.header.base..batch.header.end()).contains(&record.sequence);
                    if !here && quarantine.is_none() {
                        return Err(segment.misplaced(record.sequence).into());
                    }
                    if here && record.sequence < end && keep(&record) {
                        writer.put(&batch.header, &record).map_err(io("write"))?;
                        kept += 1;
                    } else {
                        removed += 1;
                    }
                }
            }
            Scanned::Damaged(region) => {
                let Some(mending) = &quarantine else {
                    return Err(region.damage.into());
                };
                let reason = (mending.aside)(&region);
                kept += put_salvaged(&mut writer, &region, &reason, appended_at, end)
                    .map_err(io("write"))?;
                next = region.end.min(end);
            }
            Scanned::End(_) => break,
        }
    }
    if let Some(mending) = quarantine {
        put_end(&mut writer, mending, next, end, appended_at).map_err(io("write"))?;
    }
    let (header, file, index, codec) = writer.finish().map_err(io("finish"))?;
    Ok(Some(Rewritten {
        header,
        file,
        index,
        codec,
        removed,
        kept,
    }))
}

/// What a mended segment ends with.
fn put_end(
    writer: &mut SegmentWriter<'_>,
    mending: Mending<'_>,
    next: Sequence,
    end: Sequence,
    appended_at: Micros,
) -> io::Result<()> {
    if let Some(reason) = mending.missing.filter(|_| next < end) {
        writer.put_lost(next, end, &reason, appended_at)?;
    }
    match mending.closed_at {
        Some(next) => writer.put_close(next, appended_at),
        None => Ok(()),
    }
}

/// What cannot be read cannot be written again.
fn locked(segment: &Segment) -> Error {
    Error::Key {
        path: segment.path.clone(),
        key_id: segment.header.as_ref().map_or([0; 16], |h| h.key_id),
        problem: KeyProblem::Unlisted,
    }
}

/// The good records of a damaged region, and what stands for the others. Returns how many are
/// good.
fn put_salvaged(
    writer: &mut SegmentWriter<'_>,
    region: &DamagedRegion,
    reason: &str,
    mut appended_at: Micros,
    end: Sequence,
) -> io::Result<u64> {
    let mut next = region.expected;
    let mut good = 0;
    for chunk in region.chunks() {
        if next < chunk.base {
            writer.put_lost(next, chunk.base, reason, appended_at)?;
        }
        let source = BatchHeader {
            body_len: 0,
            body_crc: 0,
            base: chunk.base,
            count: u32::try_from(chunk.last.next().since(chunk.base)).map_err(io::Error::other)?,
            flags: 0,
            appended_at: chunk.iter().next().map_or(appended_at, |r| r.appended_at),
            epoch: writer.epoch,
            node: writer.header.node,
            durable_through: chunk.last.get(),
            chain: 0,
            log_tag: 0,
        };
        for record in chunk.iter().filter(|record| record.sequence < end) {
            writer.put(&source, &record)?;
            // Times never decrease, those of what is lost behind it neither.
            appended_at = appended_at.max(record.appended_at);
            good += 1;
        }
        next = chunk.last.next();
    }
    let lost_end = region.end.min(end);
    if next < lost_end {
        writer.put_lost(next, lost_end, reason, appended_at)?;
    }
    Ok(good)
}

impl State {
    /// Puts a rewritten segment in the place of `old`. The caller holds [`State::rewriting`].
    pub(super) fn replace(
        &self,
        old: &Arc<Segment>,
        new: Rewritten,
    ) -> Result<Arc<Segment>, Error> {
        let path = old.path.clone();
        let io = |operation| segment_error(&path, operation);
        let Rewritten {
            header,
            file,
            index,
            codec,
            removed,
            ..
        } = new;
        let end = Sequence::at_least_first(header.end);
        self.storage
            .rename(&self.dir.join(REWRITING), &path)
            .map_err(io("replace"))?;
        self.sync_dir()?;
        let segment = Segment::sealed(old.base, Some(header), path.clone(), file, codec);
        segment.remember_index(index);
        if let Err(error) = self.write_index(&segment, &path.with_extension("idx")) {
            // The one of the old file is not believed, and built again when it is needed.
            tracing::warn!(path = %path.display(), %error, "cannot write the index");
        }
        let segment = Arc::new(segment);
        {
            let mut segments = self
                .segments
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(slot) = segments.iter_mut().find(|kept| Arc::ptr_eq(kept, old)) {
                *slot = Arc::clone(&segment);
            }
        }
        if removed > 0 {
            self.lock_lasts().replaced();
            // What is gone from the file is not read from memory either.
            let mut tail = self.tail.write().unwrap_or_else(PoisonError::into_inner);
            tail.forget_before(end);
        }
        self.keep_index(&segment);
        Ok(segment)
    }
}

pub(super) fn segment_error(
    path: &Path,
    operation: &'static str,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        operation,
        path,
        source,
    }
}
