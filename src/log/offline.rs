//! A log as it lies on the disk, for tools: read-only and without its lock, so that a copy, a
//! damaged log and one that a node is writing can all be looked at.
//!
//! Owns finding the files and opening them whatever is wrong with them. Judges nothing that
//! recovery judges: [`forecast`] asks recovery itself. Knows no output.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::body::BodyCodec;
use super::error::{Damage, Error};
use super::index::Index;
use super::keyring::{Keyring, Loaded, OsEntropy};
use super::loss;
use super::master::MasterKeys;
use super::open::{self, LastSession, Verdict};
use super::position::{ByteOffset, Micros, Sequence};
use super::reader::index_scanned;
use super::recovery;
use super::scan::{Scan, Scanned};
use super::segment::{self, HEADER_BLOCK_BYTES, HEADER_BYTES, SegmentHeader};
use super::status::{LossStatement, TopicSummary};
use super::storage::{Access, Storage};

pub use super::open::Interruption;
pub use super::recovery::Ending;

/// Distance between two entries of an index that is built here.
const INDEX_INTERVAL_BYTES: u32 = 16 << 10;

/// The files of one log, oldest segment first.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Where they are.
    pub path: PathBuf,
    /// Its segments; the last one is the one that a node would go on with.
    pub segments: Vec<SegmentFile>,
    /// Length of the segment made ahead, if there is one.
    pub prepared: Option<u64>,
    /// Loss statements, oldest first.
    pub losses: Vec<PathBuf>,
    /// Damaged bytes that a repair has put aside.
    pub quarantined: Vec<PathBuf>,
}

/// A segment file, good or not.
#[derive(Clone, Debug)]
pub struct SegmentFile {
    /// Where it is.
    pub path: PathBuf,
    /// The lowest sequence that may stand in it: by its header, else by its name.
    pub base: Sequence,
    /// Its header, if that can be read.
    pub header: Option<SegmentHeader>,
    /// What is wrong with the header or with the name.
    pub header_damage: Option<Damage>,
    /// The header is damaged, but its copy is good: a node would put it back.
    pub header_from_copy: bool,
    /// The whole file.
    pub bytes: Bytes,
    /// What its batches say about the log they belong to; `None` if only they can tell.
    log_tag: Option<u32>,
    codec: BodyCodec,
}

impl Directory {
    /// Opens the log in `dir`.
    ///
    /// The last segment is read into memory, since a node may be writing to it; the others are
    /// mapped.
    ///
    /// # Errors
    /// I/O errors. Damage is none: it is described in what is returned.
    pub fn open(storage: &dyn Storage, dir: &Path) -> Result<Self, Error> {
        let io = |operation| io_error(dir, operation);
        let names = storage.list(dir).map_err(io("list"))?;
        let mut bases: Vec<(Sequence, &String)> = names
            .iter()
            .filter_map(|name| segment::base_of(name).map(|base| (base, name)))
            .collect();
        bases.sort_unstable_by_key(|&(base, _)| base);
        let mut segments = Vec::with_capacity(bases.len());
        for (at, (_, name)) in bases.iter().enumerate() {
            let path = dir.join(name);
            match SegmentFile::open(storage, &path, at + 1 == bases.len()) {
                Ok(segment) => segments.push(segment),
                // Removed by a node meanwhile: then it was the oldest.
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        // A fork holds segments of several logs: there each has to say for itself.
        let mut known: Vec<u32> = segments.iter().filter_map(|one| one.log_tag).collect();
        known.dedup();
        if let [tag] = known[..] {
            for segment in segments
                .iter_mut()
                .filter(|segment| segment.header.is_none())
            {
                segment.log_tag = Some(tag);
            }
        }
        let prepared = storage
            .open(&dir.join(segment::PREPARED), Access::Read)
            .and_then(|file| file.len())
            .ok();
        let named = |start: &str, end: &str| -> Vec<PathBuf> {
            let names = names
                .iter()
                .filter(|name| name.starts_with(start) && name.ends_with(end));
            names.map(|name| dir.join(name)).collect()
        };
        Ok(Self {
            path: dir.to_owned(),
            segments,
            prepared,
            losses: named("loss-", ".json"),
            quarantined: named("quarantine-", ".bin"),
        })
    }

    /// A single segment file, under whatever name.
    ///
    /// # Errors
    /// I/O errors.
    pub fn of_file(storage: &dyn Storage, path: &Path) -> Result<Self, Error> {
        let segment = SegmentFile::open(storage, path, true)?;
        let parent = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Self {
            path: parent,
            segments: vec![segment],
            prepared: None,
            losses: Vec::new(),
            quarantined: Vec::new(),
        })
    }

    /// Decrypts with the keys of `keyring` what can be decrypted with them.
    pub fn unlock(&mut self, keyring: &Keyring) {
        for segment in &mut self.segments {
            if let Some(header) = &segment.header {
                segment.codec = keyring.codec(header);
            }
        }
    }

    /// Decrypts with the data keys of the log's own file of keys that `masters` open. Segments
    /// whose keys cannot be had stay [`SegmentFile::is_locked`]; the first error says why.
    ///
    /// # Errors
    /// I/O errors; the file of keys is damaged.
    pub fn unlock_with(
        &mut self,
        storage: &dyn Storage,
        masters: Option<&MasterKeys>,
    ) -> Result<Option<Error>, Error> {
        let keys = Loaded::load(storage, &self.path, masters, Arc::new(OsEntropy))?;
        self.unlock(&keys.keyring);
        let headers = self.segments.iter().filter_map(|segment| {
            let header = segment.header.as_ref()?;
            keys.check(&segment.path, header).err()
        });
        Ok(headers.into_iter().next())
    }

    /// Where the segment after the one at `at` starts.
    #[must_use]
    pub fn next_base(&self, at: usize) -> Option<Sequence> {
        self.segments.get(at + 1).map(|next| next.base)
    }
}

impl SegmentFile {
    fn open(storage: &dyn Storage, path: &Path, may_be_written: bool) -> Result<Self, Error> {
        let io = |operation| io_error(path, operation);
        let file = storage.open(path, Access::Read).map_err(io("open"))?;
        let len = file.len().map_err(io("measure"))?;
        let len = usize::try_from(len)
            .map_err(io::Error::other)
            .map_err(io("map"))?;
        let mut bytes = file.read(0, len).map_err(io("read"))?;
        if may_be_written {
            // What is checked must be what is then looked at.
            bytes = Bytes::copy_from_slice(&bytes);
        }
        let named = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(segment::base_of);
        let (header, header_damage, header_from_copy) = look_at_header(path, named, &bytes);
        let base = header
            .as_ref()
            .map(|header| header.base)
            .or(named)
            .unwrap_or(Sequence::FIRST);
        let log_tag = header.as_ref().map(SegmentHeader::log_tag);
        Ok(Self {
            path: path.to_owned(),
            base,
            header,
            header_damage,
            header_from_copy,
            bytes,
            log_tag,
            codec: BodyCodec::default(),
        })
    }

    /// Walks over its batches, also if its header is damaged.
    #[must_use]
    pub fn scan(&self) -> Scan {
        match &self.header {
            Some(header) => Scan::new(&self.path, self.bytes.clone(), header).decoding(&self.codec),
            None => Scan::headless(&self.path, self.bytes.clone(), self.base, self.log_tag),
        }
    }

    /// Its header, if a node would believe it: it is good, and the file has the right name.
    fn header_to_go_by(&self) -> Option<&SegmentHeader> {
        let is_believed = self.header_damage.is_none() || self.header_from_copy;
        self.header.as_ref().filter(|_| is_believed)
    }

    /// Exclusive end of the sequences that a node would find in it without believing its header.
    fn end_without_header(&self) -> Sequence {
        let name = self.path.file_name().and_then(|name| name.to_str());
        let base = name.and_then(segment::base_of).unwrap_or(self.base);
        let start = ByteOffset(HEADER_BLOCK_BYTES);
        let mut index = Index::new(base, start, 0, INDEX_INTERVAL_BYTES);
        for scanned in Scan::headless(&self.path, self.bytes.clone(), base, None) {
            index_scanned(&mut index, &scanned);
        }
        index.end
    }

    /// Where the first byte of the header block stands that is not what the header says it should
    /// be: zero, or the copy of the header.
    #[must_use]
    pub fn stray_header_byte(&self) -> Option<(ByteOffset, u8)> {
        let expected = self.header.as_ref()?.block();
        let found = self.bytes.get(..self.bytes.len().min(expected.len()))?;
        let start = if self.header_from_copy {
            HEADER_BYTES
        } else {
            0
        };
        let pairs = expected.iter().zip(found).enumerate().skip(start);
        pairs
            .filter(|(_, (expected, found))| expected != found)
            .map(|(at, (_, found))| (ByteOffset(at as u64), *found))
            .next()
    }

    /// Whether it is encrypted with a key that is not at hand.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        let encrypted = self
            .header
            .as_ref()
            .is_some_and(SegmentHeader::is_encrypted);
        encrypted && self.codec.key.is_none()
    }

    /// The index that the segment itself implies.
    #[must_use]
    pub fn index(&self) -> SegmentIndex {
        SegmentIndex(self.build_index(INDEX_INTERVAL_BYTES))
    }

    fn build_index(&self, interval_bytes: u32) -> Index {
        let mut index = SegmentIndex(self.empty_index(interval_bytes));
        for scanned in self.scan() {
            index.add(&scanned);
        }
        index.0
    }

    fn empty_index(&self, interval_bytes: u32) -> Index {
        let start = ByteOffset(HEADER_BLOCK_BYTES);
        let root = self.header.as_ref().map_or(0, SegmentHeader::chain);
        Index::new(self.base, start, root, interval_bytes)
    }

    /// Where its index file is, or would be.
    #[must_use]
    pub fn index_path(&self) -> PathBuf {
        self.path.with_extension("idx")
    }

    /// Reads the index file, to be held against what a scan of the segment finds.
    ///
    /// # Errors
    /// I/O errors.
    pub fn stored_index(&self, storage: &dyn Storage) -> Result<StoredIndex, Error> {
        let path = self.index_path();
        let io = |operation| io_error(&path, operation);
        let file = match storage.open(&path, Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(StoredIndex {
                    path,
                    bytes: None,
                    header: None,
                    codec: BodyCodec::default(),
                });
            }
            file => file.map_err(io("open"))?,
        };
        let len = file.len().map_err(io("measure"))?;
        let len = usize::try_from(len)
            .map_err(io::Error::other)
            .map_err(io("map"))?;
        let bytes = Some(file.read(0, len).map_err(io("read"))?);
        Ok(StoredIndex {
            path,
            bytes,
            header: self.header.clone(),
            codec: self.codec.clone(),
        })
    }

    /// Compares the index file with the segment, which is scanned for it. Tells something about
    /// the index only where the segment itself is good.
    ///
    /// # Errors
    /// I/O errors.
    pub fn check_index(&self, storage: &dyn Storage) -> Result<IndexCheck, Error> {
        let stored = self.stored_index(storage)?;
        let interval_bytes = stored.interval_bytes();
        Ok(stored.check(&SegmentIndex(self.build_index(interval_bytes))))
    }
}

/// An index file, believed or not.
#[derive(Clone, Debug)]
pub struct StoredIndex {
    path: PathBuf,
    /// `None` if there is no file.
    bytes: Option<Bytes>,
    /// Of the segment.
    header: Option<SegmentHeader>,
    codec: BodyCodec,
}

impl StoredIndex {
    /// An index of `segment` without contents yet, made as the one in the file was made.
    #[must_use]
    pub fn begin(&self, segment: &SegmentFile) -> SegmentIndex {
        SegmentIndex(segment.empty_index(self.interval_bytes()))
    }

    fn interval_bytes(&self) -> u32 {
        let index = self.index();
        index.map_or(INDEX_INTERVAL_BYTES, |index| index.interval_bytes())
    }

    fn index(&self) -> Option<Index> {
        Index::decode(self.bytes.as_deref()?, self.header.as_ref()?, &self.codec)
    }

    fn damage(&self, offset: usize, what: &'static str, expected: String, found: String) -> Damage {
        let path = self.path.clone();
        Damage {
            path,
            offset: ByteOffset(offset as u64),
            what,
            expected,
            found,
        }
    }

    fn is_locked(&self) -> bool {
        let header = self.header.as_ref();
        header.is_some_and(SegmentHeader::is_encrypted) && self.codec.key.is_none()
    }

    /// Compares the file with `built`, which a scan of the segment has filled.
    #[must_use]
    pub fn check(&self, built: &SegmentIndex) -> IndexCheck {
        let Some(stored) = &self.bytes else {
            return IndexCheck::Missing;
        };
        let Some(index) = self.index() else {
            let (expected, found) = Index::checksums(stored);
            let at = stored.len().saturating_sub(4);
            if expected == found {
                let header = self.header.as_ref();
                if self.is_locked() {
                    return IndexCheck::Locked;
                }
                let named = Index::segment_named_in(stored);
                if header.is_some_and(|header| {
                    header.is_rewritten() && named.is_some_and(|named| named != header.identity())
                }) {
                    return IndexCheck::Outdated;
                }
            }
            return IndexCheck::Damaged(if expected == found {
                let expected = "an index of this segment, of a known version".to_owned();
                self.damage(0, "index layout", expected, "another".to_owned())
            } else {
                let (expected, found) = (format!("{expected:#010x}"), format!("{found:#010x}"));
                self.damage(at, "index checksum", expected, found)
            });
        };
        let (wanted, stored) = (built.0.content(), index.content());
        if wanted == stored {
            return IndexCheck::Agrees(SegmentIndex(index));
        }
        let differs = wanted
            .iter()
            .zip(&stored)
            .position(|(wanted, found)| wanted != found);
        let at = differs.unwrap_or_else(|| wanted.len().min(stored.len()));
        let byte = |bytes: &[u8]| {
            bytes
                .get(at)
                .map_or_else(|| "the end".to_owned(), |byte| format!("{byte:#04x}"))
        };
        let (expected, found) = (byte(&wanted), byte(&stored));
        IndexCheck::Differs(self.damage(at, "index of the segment", expected, found))
    }
}

fn look_at_header(
    path: &Path,
    named: Option<Sequence>,
    bytes: &Bytes,
) -> (Option<SegmentHeader>, Option<Damage>, bool) {
    let block = usize::try_from(HEADER_BLOCK_BYTES).unwrap_or(usize::MAX);
    let front = bytes.get(..bytes.len().min(block)).unwrap_or_default();
    let decoded = front
        .first_chunk()
        .and_then(|bytes| SegmentHeader::decode(bytes).ok());
    let base = named
        .or(decoded.as_ref().map(|header| header.base))
        .unwrap_or(Sequence::FIRST);
    match open::header(path, base, front) {
        Ok((header, damage)) => {
            let from_copy = damage.is_some();
            (Some(header), damage, from_copy)
        }
        Err(Error::Damaged(damage)) => (decoded, Some(damage), false),
        Err(Error::Version {
            path,
            found,
            supported,
        }) => {
            let damage = Damage {
                path,
                offset: ByteOffset(8),
                what: "format version",
                expected: format!("at most {supported}"),
                found: found.to_string(),
            };
            (None, Some(damage), false)
        }
        Err(
            Error::Io { .. }
            | Error::Locked { .. }
            | Error::Key { .. }
            | Error::NotEncrypted { .. }
            | Error::OutOfRange { .. }
            | Error::BeyondEnd { .. }
            | Error::Occupied { .. }
            | Error::Unfinished { .. },
        ) => (None, None, false),
    }
}

fn io_error(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        operation,
        path,
        source,
    }
}

/// What an index file is worth.
#[derive(Clone, Debug)]
pub enum IndexCheck {
    /// There is none; it is built again when it is needed.
    Missing,
    /// It is encrypted with a key that is not at hand; its checksum is good.
    Locked,
    /// It is that of the file which was there before the segment was written again.
    Outdated,
    /// Its bytes are not what was written.
    Damaged(Damage),
    /// Its bytes are good, but it belongs to another segment.
    Differs(Damage),
    /// It says what the segment says.
    Agrees(SegmentIndex),
}

/// Index of one segment.
#[derive(Clone, Debug)]
pub struct SegmentIndex(Index);

impl SegmentIndex {
    /// Adds what a scan has found next.
    pub fn add(&mut self, scanned: &Scanned) {
        index_scanned(&mut self.0, scanned);
    }

    /// Exclusive end of the segment's sequences.
    #[must_use]
    pub fn end(&self) -> Sequence {
        self.0.end
    }

    /// Exclusive end of its batches.
    #[must_use]
    pub fn data_end(&self) -> ByteOffset {
        self.0.data_end
    }

    /// Distance in bytes between two points.
    #[must_use]
    pub fn interval_bytes(&self) -> u32 {
        self.0.interval_bytes()
    }

    /// The batches that can be found without scanning: first sequence, time, offset.
    pub fn points(&self) -> impl ExactSizeIterator<Item = (Sequence, Micros, ByteOffset)> {
        self.0
            .points
            .iter()
            .map(|point| (point.sequence, point.appended_at, point.offset))
    }

    /// The topics by name.
    #[must_use]
    pub fn topics(&self) -> Vec<TopicSummary> {
        let sorted: BTreeMap<&str, _> = self
            .0
            .topics
            .iter()
            .map(|(name, topic)| (&**name, topic))
            .collect();
        let summary = |(name, topic): (&str, &super::index::Topic)| TopicSummary {
            topic: name.to_owned(),
            records: topic.records,
            bytes: topic.bytes,
            first: topic.first,
            last: topic.last,
        };
        sorted.into_iter().map(summary).collect()
    }
}

/// What a node would do if it opened a log now.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// How the last session ended, by the contents of the last segment; `None` if its header is
    /// damaged.
    pub ending: Option<Ending>,
    /// How it ended, as far as the operating system of this machine tells.
    pub interruption: Interruption,
    /// The sequence that the next record would get.
    pub next: Sequence,
    /// The epoch that would begin.
    pub epoch: u32,
    /// Every sequence up to this one is marked as flushed; 0 = none.
    pub durable_through: u64,
    /// Exclusive end of the good batches.
    pub data_end: ByteOffset,
    /// Bytes of the last segment that would be set to zero.
    pub cut: Option<Range<u64>>,
    /// Bytes of the last segment that would be written again, because nothing says that they
    /// had been flushed.
    pub rewritten: Option<Range<u64>>,
    /// The statement that would be written.
    pub statement: Option<LossStatement>,
    /// Why the log would take no writes.
    pub read_only: Option<String>,
}

impl Forecast {
    /// Whether the bad end of the last segment is what a crash leaves: nothing in it was ever
    /// acknowledged as synced, and it would be cut off.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        let torn = matches!(self.ending, Some(Ending::Torn | Ending::LostWrite));
        torn && self.read_only.is_none()
    }
}

/// What a node would make of the log, decided by recovery itself. `None` for a log without a
/// segment: one would be made.
#[must_use]
pub fn forecast(storage: &dyn Storage, log: &Directory) -> Option<Forecast> {
    let active = log.segments.last()?;
    let LastSession {
        interruption,
        closed_at,
    } = open::last_session(storage, &log.path, "");
    let mut damages: Vec<Damage> = log
        .segments
        .iter()
        .filter_map(|segment| match segment.header_to_go_by() {
            Some(header) => {
                let len = segment.bytes.len() as u64;
                open::shortened(&segment.path, header, len)
            }
            None => segment.header_damage.clone(),
        })
        .collect();
    let Some(header) = active.header_to_go_by() else {
        let next = active.end_without_header();
        return Some(Forecast {
            ending: None,
            interruption,
            next,
            epoch: 0,
            durable_through: active.base.get() - 1,
            data_end: ByteOffset(HEADER_BLOCK_BYTES),
            cut: None,
            rewritten: None,
            statement: Some(open::headless_statement(&log.path, next, damages.clone())),
            read_only: damages.first().map(ToString::to_string),
        });
    };
    let survey = recovery::survey(
        &active.path,
        active.bytes.clone(),
        header,
        &active.codec,
        INDEX_INTERVAL_BYTES,
    );
    damages.extend(survey.damages.iter().cloned());
    damages.extend(closed_at.and_then(|end| open::cut_since_close(&active.path, &survey, end)));
    let names: Vec<String> = log
        .losses
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .collect();
    let stated = loss::last_epoch(&names);
    let Verdict {
        mends,
        next,
        epoch,
        statement,
        read_only,
    } = open::judge(&log.path, &survey, interruption, damages, stated);
    let data_end = survey.index.data_end;
    let rewritten = survey.unflushed_at.0..data_end.0;
    Some(Forecast {
        ending: Some(survey.ending),
        interruption,
        next,
        epoch,
        durable_through: survey.durable_through,
        data_end,
        cut: survey.cut.map(|cut| cut.start.0..cut.end.0),
        rewritten: Some(rewritten).filter(|range| mends && !range.is_empty()),
        statement,
        read_only,
    })
}
