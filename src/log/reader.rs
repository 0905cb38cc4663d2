//! Reads one segment: through a mapping, by position, with every checksum verified.
//!
//! Knows nothing of the writer but how far its data reaches, which the index says.

#![expect(
    unsafe_code,
    reason = "mapping a file is unsafe; this is the only place that does it"
)]

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::{Bytes, BytesMut};
use memmap2::Mmap;

use super::batch::{self, BatchHeader};
use super::body::BodyCodec;
use super::chunk::{Chunk, Found};
use super::error::{Damage, Error};
use super::index::{Index, Place};
use super::pass::Seen;
use super::position::{ByteOffset, Micros, Sequence};
use super::scan::{Scan, Scanned, chunk_of, locked_damage, lost_damage};
use super::segment::{HEADER_BLOCK_BYTES, SegmentHeader};
use super::storage::{Access, Storage, StorageFile};

/// Maps a whole file for reading.
///
/// A clone of `users` lives as long as any slice of the result does.
pub(super) fn map_file(file: &File, users: &Arc<()>) -> io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the bytes may only change underneath us, never the length: the log never shortens a
    // segment file, writes only where no reader looks yet (beyond `written_end`), and a retired
    // file is used again only when no mapping of it is left (`StorageFile::is_shared`). A foreign
    // process that truncates a file of the data directory could break this; the data directory
    // belongs to the node alone.
    let map = unsafe { Mmap::map(file)? };
    Ok(Bytes::from_owner(Mapping {
        map,
        _user: Arc::clone(users),
    }))
}

/// Owner of a mapping that slices share.
struct Mapping {
    map: Mmap,
    _user: Arc<()>,
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

/// An open segment file and what is known about its contents.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) base: Sequence,
    /// `None` if the header is damaged.
    pub(super) header: Option<SegmentHeader>,
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn StorageFile>,
    pub(super) codec: BodyCodec,
    /// Of a file of another log that lies in the place of one: the tag that its batches should
    /// have.
    pub(super) wanted_tag: Option<u32>,
    /// Its index file is there, and of no use.
    pub(super) index_file_bad: AtomicBool,
    /// Somebody may look at its file under another name. Taken for granted of a file that was there
    /// before: who else had it open then is not known.
    pub(super) shared: AtomicBool,
    index: RwLock<IndexState>,
    /// The encoded body that was read last, which the next read is likely to need again.
    decoded: Mutex<Option<(ByteOffset, Bytes)>>,
    /// What upkeep has found out about it.
    seen: Mutex<Seen>,
}

/// Where the index of a segment is.
#[derive(Debug)]
enum IndexState {
    /// Still written to.
    Growing(Index),
    /// Complete; in memory or not.
    Sealed(Option<Arc<Index>>),
}

/// What a read of one segment found.
pub(super) enum SegmentRead {
    Found(Found),
    /// Nothing at or after the position asked for.
    Exhausted,
}

impl Segment {
    pub(super) fn growing(
        header: SegmentHeader,
        path: PathBuf,
        file: Box<dyn StorageFile>,
        codec: BodyCodec,
        index: Index,
    ) -> Self {
        Self {
            base: header.base,
            header: Some(header),
            path,
            file,
            codec,
            wanted_tag: None,
            index_file_bad: AtomicBool::new(false),
            shared: AtomicBool::new(false),
            index: RwLock::new(IndexState::Growing(index)),
            decoded: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    pub(super) fn sealed(
        base: Sequence,
        header: Option<SegmentHeader>,
        path: PathBuf,
        file: Box<dyn StorageFile>,
        codec: BodyCodec,
    ) -> Self {
        Self {
            base,
            header,
            path,
            file,
            codec,
            wanted_tag: None,
            index_file_bad: AtomicBool::new(false),
            shared: AtomicBool::new(true),
            index: RwLock::new(IndexState::Sealed(None)),
            decoded: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    pub(super) fn lock_seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends a sealed segment the index that it is known to have.
    pub(super) fn remember_index(&self, index: Index) {
        let mut state = self.index.write().unwrap_or_else(PoisonError::into_inner);
        *state = IndexState::Sealed(Some(Arc::new(index)));
    }

    /// It is a file of another log where one of the log with `tag` should be: nothing in it is
    /// shown.
    pub(super) fn disown(&mut self, tag: u32) {
        self.header = None;
        self.codec = BodyCodec::default();
        self.wanted_tag = Some(tag);
    }

    /// Begins growth, with `index` for what is there.
    pub(super) fn grow_from(&self, index: Index) {
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = IndexState::Growing(index);
    }

    /// Changes the index of the segment that is being written.
    pub(super) fn grow(&self, change: impl FnOnce(&mut Index)) {
        let mut state = self.index.write().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            IndexState::Growing(index) => change(index),
            IndexState::Sealed(_) => unreachable!("{} is sealed", self.path.display()),
        }
    }

    /// Ends growth; the index stays in memory until [`Segment::forget_index`].
    pub(super) fn seal(&self) -> Arc<Index> {
        let mut state = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let index = match &*state {
            IndexState::Growing(index) => Arc::new(index.clone()),
            IndexState::Sealed(Some(index)) => Arc::clone(index),
            IndexState::Sealed(None) => unreachable!("{} was sealed before", self.path.display()),
        };
        *state = IndexState::Sealed(Some(Arc::clone(&index)));
        index
    }

    /// Drops a sealed index from memory.
    pub(super) fn forget_index(&self) {
        let mut state = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if let IndexState::Sealed(index) = &mut *state {
            *index = None;
        }
    }

    /// Whether the index is in memory without being written to.
    pub(super) fn holds_sealed_index(&self) -> bool {
        let state = self.index.read().unwrap_or_else(PoisonError::into_inner);
        matches!(&*state, IndexState::Sealed(Some(_)))
    }

    pub(super) fn with_index<T>(
        &self,
        storage: &dyn Storage,
        look: impl FnOnce(&Index) -> T,
    ) -> Result<T, Error> {
        {
            let state = self.index.read().unwrap_or_else(PoisonError::into_inner);
            match &*state {
                IndexState::Growing(index) => return Ok(look(index)),
                IndexState::Sealed(Some(index)) => return Ok(look(index)),
                IndexState::Sealed(None) => {}
            }
        }
        let index = Arc::new(self.load_index(storage)?);
        let mut state = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if let IndexState::Sealed(slot) = &mut *state {
            *slot = Some(Arc::clone(&index));
        }
        drop(state);
        Ok(look(&index))
    }

    fn load_index(&self, storage: &dyn Storage) -> Result<Index, Error> {
        let path = self.path.with_extension("idx");
        let stored = storage
            .open(&path, Access::Read)
            .and_then(|file| file.read(0, usize::try_from(file.len()?).map_err(io::Error::other)?));
        match stored {
            Ok(bytes) => {
                let header = self.header.as_ref();
                if let Some(index) = header.and_then(|h| Index::decode(&bytes, h, &self.codec)) {
                    return Ok(index);
                }
                self.index_file_bad.store(true, Ordering::Release);
                tracing::warn!(path = %path.display(), "index is damaged or of another segment; building it again");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(Error::Io {
                    operation: "read",
                    path,
                    source,
                });
            }
        }
        self.build_index()
    }

    /// The index as the segment itself says it should be.
    pub(super) fn build_index(&self) -> Result<Index, Error> {
        const INTERVAL_BYTES: u32 = 16 << 10;
        let start = ByteOffset(HEADER_BLOCK_BYTES);
        let root = self.header.as_ref().map_or(0, SegmentHeader::chain);
        let mut index = Index::new(self.base, start, root, INTERVAL_BYTES);
        for scanned in self.scan()? {
            index_scanned(&mut index, &scanned);
        }
        Ok(index)
    }

    /// Whether it is encrypted with a key that is not at hand: only after that was destroyed, for
    /// no log opens without its keys.
    pub(super) fn is_locked(&self) -> bool {
        let encrypted = self
            .header
            .as_ref()
            .is_some_and(SegmentHeader::is_encrypted);
        encrypted && self.codec.key.is_none()
    }

    /// A scan of the batches, with or without a good header.
    pub(super) fn scan(&self) -> Result<Scan, Error> {
        let bytes = self.bytes()?;
        Ok(match &self.header {
            Some(header) => Scan::new(&self.path, bytes, header).decoding(&self.codec),
            None => match self.wanted_tag {
                Some(tag) => {
                    Scan::headless(&self.path, bytes, self.base, Some(tag)).without_salvage()
                }
                None => Scan::headless(&self.path, bytes, self.base, None),
            },
        })
    }

    /// The whole file.
    pub(super) fn bytes(&self) -> Result<Bytes, Error> {
        let read = || {
            let len = usize::try_from(self.file.len()?).map_err(io::Error::other)?;
            self.file.read(0, len)
        };
        read().map_err(|source| self.io_error("read", source))
    }

    pub(super) fn io_error(&self, operation: &'static str, source: io::Error) -> Error {
        Error::Io {
            operation,
            path: self.path.clone(),
            source,
        }
    }

    /// Records of this segment from `from` on and below `end`.
    pub(super) fn read(
        &self,
        storage: &dyn Storage,
        from: Sequence,
        end: Sequence,
        bytes_max: usize,
    ) -> Result<SegmentRead, Error> {
        let (point, data_end) =
            self.with_index(storage, |index| (index.point_at(from), index.data_end))?;
        let start = point.map_or(ByteOffset(HEADER_BLOCK_BYTES), |point| point.offset);
        match self.read_good(start, data_end, from, end, bytes_max) {
            Some(found) => Ok(found),
            None => self.read_damaged(
                start,
                point.map_or(self.base, |p| p.sequence),
                from,
                end,
                bytes_max,
            ),
        }
    }

    /// The usual case: every batch on the way is good. `None` if one is not.
    fn read_good(
        &self,
        start: ByteOffset,
        data_end: ByteOffset,
        from: Sequence,
        end: Sequence,
        bytes_max: usize,
    ) -> Option<SegmentRead> {
        let mut gathered = Gathered::default();
        let mut at = start;
        let mut next = self.base;
        let of_segment = self.header.as_ref();
        let of_segment = of_segment.filter(|_| start.0 == HEADER_BLOCK_BYTES);
        let mut epoch = of_segment.map_or(0, |header| header.epoch);
        let mut chain = of_segment.map(SegmentHeader::chain);
        while at < data_end {
            let (header, next_chain) = self.header_at(at)?;
            // A batch that is good in itself may still stand in the wrong place.
            let follows = chain.is_none_or(|chain| chain == header.chain) && header.epoch >= epoch;
            if !follows || self.is_foreign(&header) {
                return gathered.into_good();
            }
            (epoch, chain) = (header.epoch, Some(next_chain));
            let body_at = at.advance(batch::HEADER_BYTES as u64);
            at = at.advance(header.file_len());
            if header.is_mark() {
                continue;
            }
            if header.base < next {
                return gathered.into_good();
            }
            next = header.end();
            if header.end() <= from {
                continue;
            }
            if header.base >= end {
                return Some(gathered.into_read(Found::End));
            }
            if header.is_lost() {
                return Some(gathered.into_read(self.lost(body_at, &header, from, end)?));
            }
            let body_len = usize::try_from(header.body_len).ok()?;
            if !gathered.has_room_for(body_len, bytes_max) {
                break;
            }
            let Some(chunk) = self.chunk_at(body_at, &header) else {
                return gathered.into_good();
            };
            let Some(part) = chunk.between(from, end, bytes_max) else {
                if chunk.last < from {
                    continue;
                }
                if header.has_holes() {
                    break;
                }
                // Its records are not those that it announces: good ones may follow.
                return gathered.into_good();
            };
            if part.base < from || part.last < part.base || part.last >= header.end() {
                return gathered.into_good();
            }
            let cut_short = part.last < chunk.last;
            gathered.add(part);
            if cut_short {
                break;
            }
        }
        Some(if gathered.is_empty() {
            SegmentRead::Exhausted
        } else {
            gathered.into_read(Found::End)
        })
    }

    /// Exclusive end of what is known to be in it, and the root that the next one should name.
    pub(super) fn end_and_root(
        &self,
        storage: &dyn Storage,
    ) -> Result<Option<(Sequence, u32)>, Error> {
        let Some(header) = &self.header else {
            return Ok(None);
        };
        let (end, root) = self.with_index(storage, |index| (index.end, index.root))?;
        Ok(Some(if header.is_rewritten() {
            (
                end.max(Sequence::at_least_first(header.end)),
                header.sealed_root,
            )
        } else {
            (end, root)
        }))
    }

    /// The damage that a record is which stands in a batch of others.
    pub(super) fn misplaced(&self, sequence: Sequence) -> Damage {
        Damage {
            path: self.path.clone(),
            offset: ByteOffset(HEADER_BLOCK_BYTES),
            what: "sequence of a record",
            expected: "one of its batch".to_owned(),
            found: sequence.to_string(),
        }
    }

    /// The damage that records with sequences out of order are.
    pub(super) fn out_of_order(&self, chunk: &Chunk) -> Damage {
        Damage {
            path: self.path.clone(),
            offset: ByteOffset(HEADER_BLOCK_BYTES),
            what: "order of records",
            expected: "ascending sequences".to_owned(),
            found: format!("{} to {}", chunk.base, chunk.last),
        }
    }

    fn is_foreign(&self, header: &BatchHeader) -> bool {
        let own = self.header.as_ref().map(SegmentHeader::log_tag);
        let own = own.or(self.wanted_tag);
        own.is_some_and(|own| own != header.log_tag)
    }

    /// The records of the batch whose body is at `body_at`; `None` if they cannot be had.
    fn chunk_at(&self, body_at: ByteOffset, header: &BatchHeader) -> Option<Chunk> {
        let encoded = header.is_encrypted() || header.is_compressed();
        if encoded && let Some(body) = self.decoded_before(body_at) {
            return chunk_of(header, body);
        }
        let body = self
            .file
            .read(body_at.0, usize::try_from(header.body_len).ok()?)
            .ok()?;
        if crc32fast::hash(&body) != header.body_crc {
            return None;
        }
        let body = self.codec.decode(header, body).ok()?;
        if encoded {
            let mut decoded = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
            *decoded = Some((body_at, body.clone()));
        }
        chunk_of(header, body)
    }

    fn decoded_before(&self, body_at: ByteOffset) -> Option<Bytes> {
        let decoded = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, body) = decoded.as_ref()?;
        (*at == body_at).then(|| body.clone())
    }

    /// The decoded body of the batch at `at` of an encoded segment.
    pub(super) fn decoded_body(&self, at: ByteOffset) -> Option<Bytes> {
        let (header, _) = self.header_at(at)?;
        let body_at = at.advance(batch::HEADER_BYTES as u64);
        Some(self.chunk_at(body_at, &header)?.records)
    }

    /// What a reader is told of records that a repair has put aside.
    fn lost(
        &self,
        body_at: ByteOffset,
        header: &BatchHeader,
        from: Sequence,
        end: Sequence,
    ) -> Option<Found> {
        let reason = self
            .file
            .read(body_at.0, usize::try_from(header.body_len).ok()?)
            .ok()?;
        if crc32fast::hash(&reason) != header.body_crc {
            return None;
        }
        debug_assert!(header.end() > from, "lost records before {from}");
        let damage = lost_damage(
            &self.path,
            body_at,
            header,
            &String::from_utf8_lossy(&reason),
        );
        Some(Found::Damaged {
            damage,
            next: header.end().min(end),
        })
    }

    /// The header of the batch at `at`, and the `chain` of the batch behind it.
    fn header_at(&self, at: ByteOffset) -> Option<(BatchHeader, u32)> {
        let bytes = self.file.read(at.0, batch::HEADER_BYTES).ok()?;
        let bytes = bytes.first_chunk()?;
        let header = BatchHeader::decode(bytes).ok()?;
        Some((header, batch::chain_of(bytes)))
    }

    /// The rare case: something on the way is damaged. Good records around it are still found.
    fn read_damaged(
        &self,
        start: ByteOffset,
        start_sequence: Sequence,
        from: Sequence,
        end: Sequence,
        bytes_max: usize,
    ) -> Result<SegmentRead, Error> {
        let mut damage: Option<Damage> = None;
        for scanned in self.scan()?.from(start, start_sequence) {
            // Damage before a good batch that lies before `from` is not on the way. Damage between
            // the good records of one region may be.
            let is_good = matches!(&scanned, Scanned::Batch(_));
            let chunks = match scanned {
                Scanned::Batch(batch) => {
                    if let Some(reason) = batch.lost()
                        && batch.header.end() > from
                    {
                        let lost = lost_damage(&self.path, batch.offset, &batch.header, &reason);
                        damage.get_or_insert(lost);
                    }
                    if batch.locked && batch.header.end() > from {
                        damage.get_or_insert_with(|| locked_damage(&self.path, &batch));
                    }
                    batch.chunk().into_iter().collect()
                }
                Scanned::Damaged(region) => {
                    let chunks = region.chunks();
                    damage.get_or_insert(region.damage);
                    chunks
                }
                Scanned::End(_) => break,
            };
            for chunk in chunks {
                if chunk.last < from {
                    if is_good {
                        damage = None;
                    }
                    continue;
                }
                if chunk.base >= end {
                    return Ok(SegmentRead::Found(match damage {
                        Some(damage) => Found::Damaged { damage, next: end },
                        None => Found::End,
                    }));
                }
                if chunk.base > from
                    && let Some(damage) = damage
                {
                    return Ok(SegmentRead::Found(Found::Damaged {
                        damage,
                        next: chunk.base,
                    }));
                }
                let found = chunk
                    .between(from, end, bytes_max)
                    .map_or(Found::End, Found::Records);
                return Ok(SegmentRead::Found(found));
            }
        }
        Ok(match damage {
            Some(damage) => SegmentRead::Found(Found::Damaged {
                damage,
                next: Sequence::MAX,
            }),
            None => SegmentRead::Exhausted,
        })
    }

    /// The first batch appended at or after `time`.
    pub(super) fn seek_time(
        &self,
        storage: &dyn Storage,
        time: Micros,
    ) -> Result<Option<Sequence>, Error> {
        let point = self.with_index(storage, |index| index.point_before(time))?;
        let mut scan = self.scan()?;
        if let Some(point) = point {
            scan = scan.from(point.offset, point.sequence);
        }
        for scanned in scan {
            match scanned {
                Scanned::Batch(batch) => {
                    // A rewritten batch may hold records of several times.
                    let late = batch.records().find(|record| record.appended_at >= time);
                    if let Some(record) = late {
                        return Ok(Some(record.sequence));
                    }
                }
                Scanned::Damaged(region) => {
                    let late = region
                        .salvaged()
                        .find(|(_, record)| record.appended_at >= time);
                    if let Some((_, record)) = late {
                        return Ok(Some(record.sequence));
                    }
                }
                Scanned::End(_) => break,
            }
        }
        Ok(None)
    }
}

/// Adds everything good in what a scan has found next to `index`.
pub(super) fn index_scanned(index: &mut Index, scanned: &Scanned) {
    match scanned {
        Scanned::Batch(batch) => index.add(batch),
        Scanned::Damaged(region) => {
            let mut next = region.expected;
            for (offset, record) in region.salvaged() {
                index.add_lost(next, record.sequence);
                index.add_records(Place(offset.0), record.field);
                index.end = record.sequence.next();
                next = index.end;
            }
            index.add_lost(next, region.end);
            index.data_end = ByteOffset(region.range.end);
        }
        Scanned::End(_) => {}
    }
}

/// Chunks of several small batches as one. A large batch is passed on as it is.
#[derive(Default)]
struct Gathered {
    first: Option<Chunk>,
    copied: BytesMut,
    last: Option<Sequence>,
}

impl Gathered {
    /// Above this, handing out one batch costs less than copying it.
    const COPY_BYTES_MAX: usize = 16 << 10;

    fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// What was gathered before damage, which the next read finds; `None` if there is nothing.
    fn into_good(self) -> Option<SegmentRead> {
        (!self.is_empty()).then(|| self.into_read(Found::End))
    }

    fn has_room_for(&self, body_len: usize, bytes_max: usize) -> bool {
        match &self.first {
            None => true,
            Some(first) => {
                let so_far = first.records.len().max(self.copied.len());
                body_len <= Self::COPY_BYTES_MAX
                    && first.records.len() <= Self::COPY_BYTES_MAX
                    && so_far + body_len <= bytes_max
            }
        }
    }

    fn add(&mut self, chunk: Chunk) {
        self.last = Some(chunk.last);
        match &self.first {
            None => self.first = Some(chunk),
            Some(first) => {
                if self.copied.is_empty() {
                    self.copied.extend_from_slice(&first.records);
                }
                self.copied.extend_from_slice(&chunk.records);
            }
        }
    }

    fn into_read(self, otherwise: Found) -> SegmentRead {
        SegmentRead::Found(match (self.first, self.last) {
            (Some(first), Some(last)) if !self.copied.is_empty() => Found::Records(Chunk {
                base: first.base,
                last,
                records: self.copied.freeze(),
            }),
            (Some(first), _) => Found::Records(first),
            (None, _) => otherwise,
        })
    }
}
