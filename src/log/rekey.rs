//! New data keys for an open log, and the end of all of them.
//!
//! Neither touches a record: a new key begins with the next segment, and without its keys a log
//! is unreadable as it is.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use super::cipher::KeyId;
use super::error::Error;
use super::keyfile;
use super::keyring::{self, Keyring};
use super::open;
use super::options::{Environment, NewSegments, Writer};
use super::reader::Segment;
use super::segment::SegmentHeader;
use super::state::State;
use super::storage::Access;
use super::tail::Tail;

impl State {
    /// See [`super::Log::rotate_key`].
    pub(super) fn rotate_key(&self) -> Result<KeyId, Error> {
        let encryption = self.options.encryption.as_ref();
        let encryption = encryption.filter(|e| e.new_segments == NewSegments::Encrypted);
        let encryption = encryption.ok_or_else(|| Error::NotEncrypted {
            path: self.dir.clone(),
        })?;
        // Held for as long as the file is written, so that a close waits, and after it nobody
        // writes to a directory that may be another process's.
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_none() {
            return Err(Error::Io {
                operation: "rotate the key of",
                path: self.dir.clone(),
                source: io::Error::other("the log is closed"),
            });
        }
        // Appends wait meanwhile, so that no two rotations lose each other's key.
        let mut slot = self.keyring.write().unwrap_or_else(PoisonError::into_inner);
        let (keyring, id) =
            keyring::rotated(&*self.storage, &self.dir, encryption, self.clock.now())?;
        *slot = Arc::new(keyring);
        Ok(id)
    }

    /// See [`super::Log::shred`]. The log has been closed.
    pub(super) fn forget_keys(&self) -> Result<(), Error> {
        let mut core = self.lock_core();
        *self.keyring.write().unwrap_or_else(PoisonError::into_inner) = Arc::default();
        let mut segments = self
            .segments
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let without_keys = Keyring::default();
        for slot in segments.iter_mut() {
            let header = slot.header.clone();
            let Some(header) = header.filter(SegmentHeader::is_encrypted) else {
                continue;
            };
            let path = slot.path.clone();
            let file = self.storage.open(&path, Access::Read);
            let file = file.map_err(|source| slot.io_error("open", source))?;
            let codec = without_keys.codec(&header);
            let locked = Segment::sealed(slot.base, Some(header), path, file, codec);
            *slot = Arc::new(locked);
        }
        if let Some(active) = segments.last() {
            core.segment = Arc::clone(active);
        }
        drop(segments);
        drop(core);
        *self.tail.write().unwrap_or_else(PoisonError::into_inner) = Tail::new(0);
        let mut indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        indexes.clear();
        Ok(())
    }
}

/// Destroys the keys of the log in `dir`, which must not be open: nobody can read its encrypted
/// segments any more, whatever master keys there are. On `Ok` the keys are gone from the directory
/// for good; [`super::Log::open`] says so from now on. Needs no key itself.
///
/// # Errors
/// It is open; it has no keys; I/O errors.
pub fn shred(environment: &Environment, dir: &Path, writer: &Writer) -> Result<(), Error> {
    let _lock = open::lock(&*environment.storage, dir, writer)?;
    keyring::destroy(&*environment.storage, dir, environment.clock.now())
}

impl super::Log {
    /// Encrypts with a new data key from the next segment on, which begins with the next append;
    /// returns its name. On `Ok` the key is on the disk, wrapped by the current master key, as are
    /// all older ones. No segment is written again.
    ///
    /// # Errors
    /// New segments are not to be encrypted; the log is closed; I/O errors, and then the log goes
    /// on with the key that it had.
    pub fn rotate_key(&self) -> Result<KeyId, Error> {
        self.state().rotate_key()
    }

    /// Closes the log and destroys its keys ([`shred`]), also those in memory: whoever still reads
    /// it finds its encrypted records damaged.
    ///
    /// # Errors
    /// It has no keys, and is closed nevertheless; I/O errors.
    pub fn shred(&self, environment: &Environment) -> Result<(), Error> {
        let state = self.state();
        if let Err(error) = self.close() {
            tracing::warn!(dir = %state.dir.display(), %error, "closing a log whose keys are to be destroyed");
        }
        shred(environment, &state.dir, &state.writer)?;
        state.forget_keys()
    }

    /// Name of the data key that new segments are encrypted with; `None` if they are not.
    #[must_use]
    pub fn current_key(&self) -> Option<KeyId> {
        self.state().keyring().current()
    }

    /// Whether it has keys, whatever is done with new segments.
    ///
    /// # Errors
    /// I/O errors.
    pub fn has_keys(&self) -> Result<bool, Error> {
        let state = self.state();
        let found = keyfile::bytes(&*state.storage, &state.dir);
        found
            .map(|bytes| bytes.is_some())
            .map_err(|source| Error::Io {
                operation: "read the keys in",
                path: state.dir.clone(),
                source,
            })
    }

    /// Gives the log that is being made in `to` the wrapped keys of this one, which the segments
    /// that it takes over from here need. It makes a data key of its own when it is first opened.
    /// Does nothing if there are none. On `Ok` they are on the disk.
    ///
    /// # Errors
    /// I/O errors; the file of keys is damaged.
    pub fn carry_keys_to(&self, to: &Path) -> Result<(), Error> {
        let state = self.state();
        keyring::carry_over(&*state.storage, &state.dir, to)
    }
}
