//! A consistent picture of a log that goes on being written, for backups (LOG-16).
//!
//! Costs no copy: sealed segments do not change, and the one that is being written changes only
//! behind the place that the picture ends at. What is removed or replaced meanwhile stays readable
//! as long as the picture is held.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::error::AppendError;
use super::keyfile;
use super::position::Sequence;
use super::reader::Segment;
use super::segment::{self, SegmentHeader};
use super::state::State;

/// A picture of a log: everything that was written when it was taken, and flushed by now.
#[derive(Debug)]
pub struct Snapshot {
    files: Vec<(SnapshotFile, Content)>,
    first: Sequence,
    end: Sequence,
}

/// Where the bytes of a file are.
#[derive(Debug)]
enum Content {
    /// In a segment.
    Segment(Arc<Segment>),
    /// Here: the keys, which are replaced at any time.
    Copy(Bytes),
}

/// A file of a picture.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotFile {
    /// Its name in the log's directory.
    pub name: String,
    /// Bytes of it that belong to the picture.
    pub bytes: u64,
    /// Tells this file from every other of the same name, except that one which is not sealed has
    /// grown since.
    pub identity: u32,
    /// Nothing of it will change any more.
    pub sealed: bool,
    /// Its length; what is not in the picture are zeros, as far as the picture is concerned.
    pub capacity: u64,
}

impl Snapshot {
    /// The files, oldest first.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &SnapshotFile> {
        self.files.iter().map(|(file, _)| file)
    }

    /// The first record still there.
    #[must_use]
    pub const fn first(&self) -> Sequence {
        self.first
    }

    /// Exclusive end of the records in it.
    #[must_use]
    pub const fn end(&self) -> Sequence {
        self.end
    }

    /// Up to `len` bytes of the file called `name`, from `offset` on; empty at its end, `None` if
    /// there is no such file.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn read(&self, name: &str, offset: u64, len: usize) -> io::Result<Option<Bytes>> {
        let Some((file, content)) = self.files.iter().find(|(file, _)| file.name == name) else {
            return Ok(None);
        };
        let left = file.bytes.saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(len);
        if len == 0 {
            return Ok(Some(Bytes::new()));
        }
        match content {
            Content::Segment(segment) => segment.file.read(offset, len).map(Some),
            Content::Copy(bytes) => {
                let start = usize::try_from(offset).map_err(io::Error::other)?;
                Ok(Some(bytes.slice(start..start + len)))
            }
        }
    }
}

impl State {
    /// See [`super::Log::snapshot`].
    pub(super) fn snapshot(&self) -> Result<Snapshot, AppendError> {
        // Nobody removes or replaces a segment between the look at the list and at the writer.
        let _rewriting = self
            .rewriting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let core = self.lock_core();
        let (active, at, end) = (Arc::clone(&core.segment), core.at, core.next);
        let segments = self.segments();
        drop(core);
        self.flush_segment(&active, end)?;
        let mut files: Vec<_> = segments
            .into_iter()
            .map(|segment| {
                let sealed = !Arc::ptr_eq(&segment, &active);
                let header = segment.header.as_ref();
                let bytes = match header {
                    Some(header) if sealed => header.capacity,
                    _ => at.0.max(segment::HEADER_BLOCK_BYTES),
                };
                let file = SnapshotFile {
                    name: segment::file_name(segment.base),
                    bytes,
                    identity: header.map_or(0, SegmentHeader::identity),
                    sealed,
                    capacity: header.map_or(bytes, |header| header.capacity),
                };
                (file, Content::Segment(segment))
            })
            .collect();
        // After the segments, so that it holds the keys of all of them.
        files.extend(self.snapshot_of_keys()?);
        Ok(Snapshot {
            files,
            first: self.first(),
            end,
        })
    }

    fn snapshot_of_keys(&self) -> Result<Option<(SnapshotFile, Content)>, AppendError> {
        let read = keyfile::bytes(&*self.storage, &self.dir);
        let bytes = read.map_err(|error| AppendError::Indeterminate {
            reason: format!("read {} in {}: {error}", keyfile::KEYS, self.dir.display()),
        })?;
        Ok(bytes.map(|bytes| {
            let file = SnapshotFile {
                name: keyfile::KEYS.to_owned(),
                bytes: bytes.len() as u64,
                identity: crc32fast::hash(&bytes),
                sealed: true,
                capacity: bytes.len() as u64,
            };
            (file, Content::Copy(bytes))
        }))
    }

    /// See [`super::Log::skip_to`].
    pub(super) fn skip_to(self: &Arc<Self>, next: Sequence) -> Result<(), AppendError> {
        let mut core = self.lock_core();
        if let Some(reason) = self.read_only() {
            return Err(AppendError::ReadOnly { reason });
        }
        if core.next >= next {
            return Ok(());
        }
        let segment = Arc::clone(&core.segment);
        self.flush_segment(&segment, core.next)?;
        core.next = next;
        core.reserved_end = core.reserved_end.max(next.get());
        self.durable_end
            .fetch_max(next.get(), std::sync::atomic::Ordering::AcqRel);
        self.written_end
            .fetch_max(next.get(), std::sync::atomic::Ordering::AcqRel);
        // The first file whose name says so makes it durable.
        self.rotate(&mut core, 0)
    }
}
