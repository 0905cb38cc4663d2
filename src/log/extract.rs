//! Writes some of the records of a log into a new log, for tools.
//!
//! They keep their sequences, times, clocks and bytes; what was left out are holes. The new log
//! goes on where the old one would have gone on, so that no sequence ever means two things. It is
//! built under a name of its own and takes the one that was asked for when all of it is on the
//! disk: whatever happens before, no half of a log can be opened under that name.

use std::io;
use std::path::{Path, PathBuf};

use super::batch::{BatchHeader, HEADER_BYTES};
use super::chunk::RecordRef;
use super::error::Error;
use super::keyring::{Entropy, Keyring};
use super::offline::Directory;
use super::position::{Micros, Sequence};
use super::rewrite::{SegmentWriter, segment_error};
use super::segment::{self, SegmentHeader, VERSION};
use super::storage::Storage;

/// What the new log is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// A segment is ended when it holds about so many bytes of records. They are kept in memory
    /// until then.
    pub segment_bytes: u64,
    /// Distance between two entries of the sparse index.
    pub index_interval_bytes: u32,
    /// Level of zstd; `None`: not compressed.
    pub compression: Option<i32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            index_interval_bytes: 16 << 10,
            compression: None,
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extracted {
    /// Records in the new log.
    pub records: u64,
    /// Its segments.
    pub segments: u64,
    /// Their length together.
    pub bytes: u64,
    /// The sequence that the new log goes on with.
    pub next: Sequence,
}

/// A log that is being made of another one's records. Dropped before [`Extraction::finish`], it
/// leaves nothing under the name that was asked for.
#[derive(Debug)]
pub struct Extraction<'a> {
    storage: &'a dyn Storage,
    dir: PathBuf,
    building: PathBuf,
    settings: Settings,
    keyring: Keyring,
    log_id: [u8; 16],
    node: u32,
    /// What the next segment begins with.
    base: Sequence,
    previous_root: u32,
    created_at: Micros,
    epoch: u32,
    /// Where it stands: nothing that follows is lower or older.
    next: Sequence,
    time: Micros,
    latest_epoch: u32,
    /// What the segment at `base` will hold: its header must say where it ends.
    pieces: Vec<Piece>,
    pieces_bytes: u64,
    done: Extracted,
}

/// One batch to be.
#[derive(Debug)]
enum Piece {
    Records {
        header: BatchHeader,
        /// The header's place in the log that they come from.
        source: Sequence,
        /// Each with its frame.
        records: Vec<u8>,
    },
    Lost {
        first: Sequence,
        end: Sequence,
        reason: String,
    },
}

impl<'a> Extraction<'a> {
    /// Begins a log that will stand in `dir`, which must not exist or be empty, for records of
    /// `like`. It is encrypted with the current key of `keyring`, if that has one.
    ///
    /// # Errors
    /// Something is in `dir` or it cannot be written.
    pub fn create(
        storage: &'a dyn Storage,
        dir: &Path,
        like: &Directory,
        keyring: Keyring,
        entropy: &dyn Entropy,
        settings: Settings,
    ) -> Result<Self, Error> {
        let io = |operation| segment_error(dir, operation);
        let building = building_path(dir).map_err(io("make a log in"))?;
        match storage.list(dir) {
            Ok(names) if !names.is_empty() => {
                let text = format!("it is not empty ({} is in it)", names[0]);
                let source = io::Error::new(io::ErrorKind::DirectoryNotEmpty, text);
                return Err(io("make a log in")(source));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io("list")(error));
            }
            Ok(_) | Err(_) => {}
        }
        // What an extraction that was interrupted has left.
        match storage.remove_dir_all(&building) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(segment_error(&building, "remove")(error));
            }
            Ok(()) | Err(_) => {}
        }
        storage
            .create_dir_all(&building)
            .map_err(segment_error(&building, "create directory"))?;
        let mut log_id = [0; 16];
        entropy.fill(&mut log_id);
        let first = like.segments.first();
        let header = first.and_then(|segment| segment.header.as_ref());
        let base = first.map_or(Sequence::FIRST, |segment| segment.base);
        let created_at = header.map_or(Micros(0), |header| header.created_at);
        let epoch = header.map_or(0, |header| header.epoch);
        Ok(Self {
            storage,
            dir: dir.to_owned(),
            building,
            settings,
            keyring,
            log_id,
            node: header.map_or(0, |header| header.node),
            base,
            previous_root: 0,
            created_at,
            epoch,
            next: base,
            time: created_at,
            latest_epoch: epoch,
            pieces: Vec::new(),
            pieces_bytes: 0,
            done: Extracted {
                records: 0,
                segments: 0,
                bytes: 0,
                next: base,
            },
        })
    }

    /// Where it stands: what is put next must not be lower.
    #[must_use]
    pub const fn next(&self) -> Sequence {
        self.next
    }

    /// Adds a record that stood in a batch with `source` as its header. `false`: not added,
    /// because it is lower than one that is there, or does not belong to that batch.
    ///
    /// # Errors
    /// I/O errors.
    pub fn put(&mut self, source: &BatchHeader, record: &RecordRef<'_>) -> Result<bool, Error> {
        let sequence = record.sequence;
        if !(source.base..source.end()).contains(&sequence) {
            return Ok(false);
        }
        let is_same_batch = matches!(
            self.pieces.last(),
            Some(Piece::Records { source: base, header, .. })
                if *base == source.base && header.epoch >= source.epoch
        );
        if !is_same_batch {
            if sequence < self.next {
                return Ok(false);
            }
            self.begin_piece(source.base.max(self.next))?;
            let base = source.base.max(self.next);
            let header = BatchHeader {
                base,
                count: u32::try_from(source.end().since(base)).unwrap_or(source.count),
                // Its own time is under a checksum of its own.
                appended_at: record.appended_at.max(self.time),
                epoch: source.epoch.max(self.latest_epoch),
                durable_through: source.durable_through.min(base.get() - 1),
                ..source.clone()
            };
            self.latest_epoch = header.epoch;
            self.time = header.appended_at;
            self.next = base;
            self.pieces_bytes += HEADER_BYTES as u64;
            self.pieces.push(Piece::Records {
                header,
                source: source.base,
                records: Vec::new(),
            });
        }
        if sequence < self.next {
            return Ok(false);
        }
        if let Some(Piece::Records { records, .. }) = self.pieces.last_mut() {
            records.extend_from_slice(record.field);
        }
        self.pieces_bytes += record.field.len() as u64;
        self.next = sequence.next();
        self.time = self.time.max(record.appended_at);
        self.done.records += 1;
        Ok(true)
    }

    /// Adds a record that was found good in a damaged batch. `false` as with [`Extraction::put`].
    ///
    /// # Errors
    /// I/O errors.
    pub fn put_salvaged(&mut self, record: &RecordRef<'_>) -> Result<bool, Error> {
        let source = BatchHeader {
            body_len: 0,
            body_crc: 0,
            base: record.sequence,
            count: 1,
            flags: 0,
            appended_at: record.appended_at,
            epoch: self.latest_epoch,
            node: self.node,
            durable_through: record.sequence.get() - 1,
            chain: 0,
            log_tag: 0,
        };
        self.put(&source, record)
    }

    /// Says that the records from `first` up to before `end` are lost, and why: readers of the new
    /// log are told so. What is already there stays.
    ///
    /// # Errors
    /// I/O errors.
    pub fn put_lost(&mut self, first: Sequence, end: Sequence, reason: &str) -> Result<(), Error> {
        let first = first.max(self.piece_end());
        if first >= end {
            return Ok(());
        }
        // No file can have held more; an end beyond is a header's that nobody wrote so.
        let end = end.min(first.advance(u64::from(u32::MAX)));
        self.begin_piece(first)?;
        self.pieces_bytes += (HEADER_BYTES + reason.len()) as u64;
        self.next = end;
        self.pieces.push(Piece::Lost {
            first,
            end,
            reason: reason.to_owned(),
        });
        Ok(())
    }

    /// Exclusive end of the batch that was put last.
    fn piece_end(&self) -> Sequence {
        match self.pieces.last() {
            Some(Piece::Records { header, .. }) => header.end().max(self.next),
            Some(Piece::Lost { .. }) | None => self.next,
        }
    }

    /// A batch will begin at `base` or later: time for the next segment?
    fn begin_piece(&mut self, base: Sequence) -> Result<(), Error> {
        let base = base.max(self.piece_end());
        self.next = base;
        if self.pieces_bytes >= self.settings.segment_bytes {
            self.end_segment(base, false)?;
        }
        Ok(())
    }

    /// Ends the new log: it stands for all sequences before `end`, and goes on there. It is on the
    /// disk, under its name, on `Ok`.
    ///
    /// # Errors
    /// I/O errors; then nothing has the name, or, if the last flush fails, all of it.
    pub fn finish(mut self, end: Sequence) -> Result<Extracted, Error> {
        let end = end.max(self.piece_end());
        self.end_segment(end, true)?;
        let storage = self.storage;
        let parent = parent(&self.dir).to_owned();
        storage
            .sync_dir(&self.building)
            .and_then(|()| storage.rename(&self.building, &self.dir))
            .map_err(segment_error(&self.dir, "name"))?;
        storage
            .sync_dir(&parent)
            .map_err(segment_error(&parent, "flush directory"))?;
        self.done.next = end;
        Ok(self.done)
    }

    fn end_segment(&mut self, end: Sequence, is_last: bool) -> Result<(), Error> {
        let path = segment::path(&self.building, self.base);
        let written = self.write_segment(&path, end, is_last);
        let (header, index) = written.map_err(segment_error(&path, "write"))?;
        if !is_last {
            let path = self.building.join(segment::index_name(self.base));
            let write = || {
                let file = self.storage.create(&path)?;
                file.write_at(0, &index)?;
                file.sync_data()
            };
            write().map_err(segment_error(&path, "write"))?;
        }
        self.done.segments += 1;
        self.done.bytes += header.capacity;
        self.base = end;
        self.previous_root = header.sealed_root;
        self.created_at = self.time;
        self.epoch = self.latest_epoch;
        self.pieces_bytes = 0;
        Ok(())
    }

    /// Returns the header that it got and the bytes of its index file.
    fn write_segment(
        &mut self,
        path: &Path,
        end: Sequence,
        is_last: bool,
    ) -> io::Result<(SegmentHeader, Vec<u8>)> {
        let mut name = self.log_id.to_vec();
        name.extend_from_slice(&self.base.get().to_le_bytes());
        let header = SegmentHeader {
            version: VERSION,
            node: self.node,
            log_id: self.log_id,
            base: self.base,
            epoch: self.epoch,
            previous_root: self.previous_root,
            created_at: self.created_at,
            reserved_end: 0,
            key_id: [0; 16],
            capacity: 0,
            flags: 0,
            generation: 1,
            // It never had another root than the one that its successor is now told.
            sealed_root: crc32fast::hash(&name),
            end: end.get(),
            salt: [0; 16],
            origin: None,
        };
        let mut writer = SegmentWriter::create(
            self.storage,
            path,
            header,
            &self.keyring,
            self.settings.compression,
            self.settings.index_interval_bytes,
        )?;
        let mut time = self.created_at;
        for piece in self.pieces.drain(..) {
            match piece {
                Piece::Records {
                    header, records, ..
                } => {
                    for record in super::record::Records::new(&records) {
                        time = time.max(record.appended_at);
                        writer.put(&header, &record)?;
                    }
                }
                Piece::Lost { first, end, reason } => {
                    writer.put_lost(first, end, &reason, time)?;
                }
            }
        }
        if is_last {
            writer.put_close(end, self.time)?;
        }
        let (header, _file, index, codec) = writer.finish()?;
        let index = index.encode(&header, &codec, self.keyring.nonce());
        Ok((header, index))
    }
}

impl Drop for Extraction<'_> {
    /// Best effort: the next extraction to the same place removes it otherwise.
    fn drop(&mut self) {
        if let Err(error) = self.storage.remove_dir_all(&self.building)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %self.building.display(), %error, "cannot remove an unfinished extraction");
        }
    }
}

fn parent(dir: &Path) -> &Path {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// No name of a reality begins with a dot, so that no node takes it for a log.
fn building_path(dir: &Path) -> io::Result<PathBuf> {
    let name = dir.file_name().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path does not end in a name",
        )
    })?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".extracting");
    Ok(parent(dir).join(hidden))
}
