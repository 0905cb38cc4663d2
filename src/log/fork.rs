//! Forks: a new log that shares what it has in common with its parent by hard links.
//!
//! A sealed segment is never changed again, only replaced or removed under its name, so one file
//! can belong to many logs. At most one segment is copied, the one that the fork point divides.
//! The parent goes on meanwhile; it is stopped for as long as beginning a segment takes, and only
//! if the fork point is its end.
//!
//! The new directory is built under a marker ([`super::removal`]), so that after a crash it is
//! either the whole fork or nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::commit::Core;
use super::error::{AppendError, Error};
use super::keyring::{self, Keyring};
use super::open::new_log_id;
use super::options::Writer;
use super::position::{Micros, Sequence};
use super::prepare;
use super::reader::Segment;
use super::removal;
use super::rewrite::{Plan, Rewritten, copy_prefix};
use super::segment::{self, Origin, REWRITING, SegmentHeader, VERSION};
use super::state::State;

/// A prefix of the active segment of up to this share of its capacity is copied, which stops
/// nobody; of a fuller one the segment is sealed instead, and shared.
const COPIED_SHARE: u64 = 16;
/// Level of zstd for the copy of a compressed segment.
const COPY_COMPRESSION: i32 = 3;

/// Where a fork leaves its parent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForkPoint {
    /// Exclusive end of what both have; the next record of the fork gets this sequence.
    pub end: Sequence,
    /// Segments that both share.
    pub shared: usize,
    /// Records that were copied.
    pub copied: u64,
}

/// What the fork's own first segment must say, read off the parent at one moment.
struct Cut {
    end: Sequence,
    epoch: u32,
    log_id: [u8; 16],
    last_appended_at: Micros,
}

/// What stands before the fork's own first segment.
struct Before {
    log_id: [u8; 16],
    root: u32,
    shared: usize,
    copied: u64,
}

impl State {
    /// See [`super::Log::fork`].
    pub(super) fn fork(
        self: &Arc<Self>,
        dir: &Path,
        at: Option<Sequence>,
        writer: &Writer,
    ) -> Result<ForkPoint, Error> {
        let _sharing = self
            .rewriting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_open = {
            let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            lock.is_some()
        };
        if !is_open {
            let source = io::Error::other("it is closed");
            return Err(self.error("fork the log in")(source));
        }
        let cut = self.cut(at);
        // With the lock of the writer given back: they may append in their turn.
        self.announce_durable();
        self.announce_poison();
        let cut = cut?;
        removal::begin_fork(&*self.storage, dir)?;
        let forked = self.build(dir, &cut, writer);
        if forked.is_err()
            && let Err(error) = removal::remove(&*self.storage, dir, "")
        {
            // The marker is still there, or nothing is.
            tracing::warn!(dir = %dir.display(), %error, "cannot clean up an unfinished fork");
        }
        forked
    }

    fn error(&self, operation: &'static str) -> impl FnOnce(io::Error) -> Error {
        let path = self.dir.clone();
        move |source| Error::Io {
            operation,
            path,
            source,
        }
    }

    /// Decides on the fork point, and seals the active segment if that is worth it.
    fn cut(self: &Arc<Self>, at: Option<Sequence>) -> Result<Cut, Error> {
        let mut core = self.lock_core();
        if let Some(at) = at {
            let (first, end) = (self.first(), self.durable_end());
            if at < first {
                return Err(Error::OutOfRange { asked: at, first });
            }
            if at >= end {
                let last = end.get() - 1;
                return Err(Error::BeyondEnd { asked: at, last });
            }
        }
        let wanted = at.map_or(core.next, Sequence::next);
        let holds_records = core.segment.base < core.next;
        if wanted == core.next && holds_records && !is_little(&core) && self.read_only().is_none() {
            self.rotate(&mut core, 0)
                .map_err(|error| self.not_sealed(error))?;
        }
        Ok(Cut {
            end: wanted.min(self.durable_end()),
            epoch: core.epoch,
            log_id: core.log_id,
            last_appended_at: core.last_appended_at,
        })
    }

    fn not_sealed(&self, error: AppendError) -> Error {
        let source = match error {
            AppendError::NoSpace { reason } => io::Error::new(io::ErrorKind::StorageFull, reason),
            error @ (AppendError::ReadOnly { .. }
            | AppendError::Busy { .. }
            | AppendError::Indeterminate { .. }
            | AppendError::ConditionNotMet { .. }
            | AppendError::TooLarge { .. }) => io::Error::other(error),
        };
        self.error("seal the last segment in")(source)
    }

    /// Fills `dir`, and takes its marker away when everything is on the disk.
    fn build(&self, dir: &Path, cut: &Cut, writer: &Writer) -> Result<ForkPoint, Error> {
        // First taken, then carried over: a key is in the file before it is in the keyring.
        let keyring = self.keyring();
        keyring::carry_over(&*self.storage, &self.dir, dir)?;
        let before = self.share(dir, cut, &keyring)?;
        // Flushes the names of all that is there by then.
        self.begin_own(dir, cut, &before, writer, &keyring)?;
        removal::end_fork(&*self.storage, dir)?;
        Ok(ForkPoint {
            end: cut.end,
            shared: before.shared,
            copied: before.copied,
        })
    }

    /// Links or copies all that lies below the fork point.
    fn share(&self, dir: &Path, cut: &Cut, keyring: &Keyring) -> Result<Before, Error> {
        let segments = self.segments();
        let mut before = Before {
            log_id: cut.log_id,
            root: 0,
            shared: 0,
            copied: 0,
        };
        for (at, segment) in segments.iter().enumerate() {
            let next = segments.get(at + 1);
            if segment.base >= cut.end {
                // Nothing below is left but, if it is the first, its predecessor's name.
                if let Some(header) = segment.header.as_ref().filter(|_| at == 0) {
                    before.root = header.previous_root;
                }
                break;
            }
            let whole = match next {
                None => false,
                Some(next) if next.base <= cut.end => true,
                // What lies between may be holes alone.
                Some(_) => segment.with_index(&*self.storage, |index| index.end <= cut.end)?,
            };
            if let Some(header) = &segment.header {
                before.log_id = header.log_id;
            }
            if whole {
                before.root = match next.and_then(|next| next.header.as_ref()) {
                    Some(next) => next.previous_root,
                    None => self.root_of(segment)?,
                };
                self.link(dir, segment)?;
                before.shared += 1;
            } else {
                let (root, copied) = self.copy(dir, segment, cut.end, keyring)?;
                before.root = root;
                before.copied = copied;
            }
        }
        Ok(before)
    }

    fn root_of(&self, segment: &Segment) -> Result<u32, Error> {
        match &segment.header {
            Some(header) if header.is_rewritten() => Ok(header.sealed_root),
            _ => segment.with_index(&*self.storage, |index| index.root),
        }
    }

    /// Gives the files of `segment` a second name in `dir`.
    fn link(&self, dir: &Path, segment: &Segment) -> Result<(), Error> {
        segment.shared.store(true, Ordering::Release);
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io {
                operation: "share",
                path,
                source,
            }
        };
        let name = |path: &Path| -> PathBuf {
            let name = path.file_name().unwrap_or_default();
            dir.join(name)
        };
        self.storage
            .hard_link(&segment.path, &name(&segment.path))
            .map_err(io(&segment.path))?;
        let index = segment.path.with_extension("idx");
        match self.storage.hard_link(&index, &name(&index)) {
            // It is still to be written, or to be built when it is needed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            linked => linked.map_err(io(&index)),
        }
    }

    /// Copies what stands in `segment` below `end` to `dir`. Returns the root that the next segment
    /// names, and how many records that were.
    fn copy(
        &self,
        dir: &Path,
        segment: &Segment,
        end: Sequence,
        keyring: &Keyring,
    ) -> Result<(u32, u64), Error> {
        let compressed = segment
            .header
            .as_ref()
            .is_some_and(SegmentHeader::is_compressed);
        let plan = Plan {
            keep: &mut |_| true,
            end,
            compression: compressed.then_some(COPY_COMPRESSION),
            quarantine: None,
        };
        let copied = copy_prefix(
            &*self.storage,
            dir,
            segment,
            keyring,
            self.options.index_interval_bytes,
            plan,
        )?;
        let Some(Rewritten { header, kept, .. }) = copied else {
            unreachable!("nothing slows the copy down or ends it")
        };
        let path = segment::path(dir, segment.base);
        self.storage
            .rename(&dir.join(REWRITING), &path)
            .map_err(|source| Error::Io {
                operation: "name",
                path,
                source,
            })?;
        Ok((header.sealed_root, kept))
    }

    /// Makes the segment that the fork goes on with.
    fn begin_own(
        &self,
        dir: &Path,
        cut: &Cut,
        before: &Before,
        writer: &Writer,
        keyring: &Keyring,
    ) -> Result<(), Error> {
        let created_at = cut.last_appended_at.max(self.clock.now());
        let (key_id, salt) = keyring.for_new_segment();
        let header = SegmentHeader {
            version: VERSION,
            node: writer.node,
            log_id: new_log_id(writer, created_at),
            base: cut.end,
            epoch: cut.epoch,
            previous_root: before.root,
            created_at,
            // What the parent has shown beyond the fork point was never part of this log.
            reserved_end: 0,
            key_id,
            capacity: 0,
            flags: 0,
            generation: 0,
            sealed_root: 0,
            end: 0,
            salt,
            origin: Some(Origin {
                log_id: before.log_id,
                end: cut.end,
            }),
        };
        let codec = keyring.codec(&header);
        prepare::first_segment(&*self.storage, dir, header, codec, &self.options)?;
        Ok(())
    }
}

/// Whether copying what stands in the active segment costs less than sealing it.
fn is_little(core: &Core) -> bool {
    core.at.0 - segment::HEADER_BLOCK_BYTES.min(core.at.0) <= core.capacity / COPIED_SHARE
}
