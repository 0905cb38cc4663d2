//! The file system as the log sees it. Passed in, so that every fault can be injected.
//!
//! What survives what:
//! - bytes written reach the disk at the latest when [`StorageFile::sync_data`] returns `Ok`;
//! - a created, renamed or removed name is certain only after [`Storage::sync_dir`] of its
//!   directory returned `Ok`.

use std::fmt::Debug;
use std::io;
use std::path::Path;

use bytes::Bytes;

pub use super::disk::RealStorage;

/// Whether a file is opened for reading only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Never writes: offline tools.
    Read,
    /// Reads and writes.
    Write,
}

/// Held while the lock is; dropping it releases the lock.
pub trait StorageLock: Send + Sync + Debug {}

/// A directory tree.
pub trait Storage: Send + Sync + Debug {
    /// Makes `dir` and its parents durable.
    ///
    /// # Errors
    /// Any error of the file system.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Names of the files (not directories) in `dir`, sorted.
    ///
    /// # Errors
    /// `NotFound` if there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates an empty file.
    ///
    /// # Errors
    /// `AlreadyExists` if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>>;

    /// Opens an existing file.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn StorageFile>>;

    /// Renames within one directory, replacing the target.
    ///
    /// # Errors
    /// Any error of the file system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives the file at `from` the further name `to`, in whatever directory of the same file
    /// system.
    ///
    /// # Errors
    /// `AlreadyExists` if the name is taken; `CrossesDevices` to another file system.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a directory with all files in it. Durable only after [`Storage::sync_dir`] of its
    /// parent.
    ///
    /// # Errors
    /// `NotFound` if there is none; any other error of the file system, some files being gone.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in `dir` durable.
    ///
    /// # Errors
    /// Any error of the file system.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive lock file at `path`, writing `owner` into it for others to read.
    ///
    /// # Errors
    /// `WouldBlock` if another process holds it; the error's text is what that owner wrote.
    fn lock(&self, path: &Path, owner: &str) -> io::Result<Box<dyn StorageLock>>;

    /// Identifies the running operating system instance: two equal values mean that whatever was
    /// written in between is still in the page cache.
    ///
    /// # Errors
    /// Any error of the file system.
    fn boot_id(&self) -> io::Result<String>;
}

/// An open file.
#[expect(
    clippy::len_without_is_empty,
    reason = "a length of a file, which may fail"
)]
pub trait StorageFile: Send + Sync + Debug {
    /// Length in bytes.
    ///
    /// # Errors
    /// Any error of the file system.
    fn len(&self) -> io::Result<u64>;

    /// `len` bytes at `offset`, without copying where the file can be mapped. The caller must not
    /// rely on the bytes of a region that is being written meanwhile.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file is shorter.
    fn read(&self, offset: u64, len: usize) -> io::Result<Bytes>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// Any error of the file system; how much was written is then unknown.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes the file `len` bytes long and reserves its blocks, which read as zeros until they are
    /// written.
    ///
    /// # Errors
    /// `StorageFull` if there is no room for them; any other error of the file system.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Flushes the data (and the length) to the disk.
    ///
    /// # Errors
    /// Any error of the file system. The state of unsynced bytes is then unknown for ever: they
    /// must be written again before a later sync says anything about them.
    fn sync_data(&self) -> io::Result<()>;

    /// Whether bytes that [`StorageFile::read`] gave out without copying are still held by
    /// somebody, so that the file must not be used for anything else.
    fn is_shared(&self) -> bool;

    /// How many names the file has.
    ///
    /// # Errors
    /// Any error of the file system.
    fn links(&self) -> io::Result<u64>;

    /// Path it was opened with, for messages.
    fn path(&self) -> &Path;
}
