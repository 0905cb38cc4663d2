//! Directories that are no log yet, or no longer: a fork that is being built, a log that is being
//! deleted.
//!
//! A marker file in the directory says so. It is on the disk before anything else is done, and
//! goes last, so that whoever comes after a crash knows what to do: remove the rest.

use std::io;
use std::path::Path;

use super::error::Error;
use super::storage::{Access, Storage};

/// In a directory that is not a fork yet.
const FORKING: &str = "forking";
/// In a directory that is going away. Holds what the one who removes it wants to be reminded of.
const DELETING: &str = "deleting";
/// Of a note; whatever is there may be anything.
const NOTE_BYTES_MAX: u64 = 64 << 10;

/// Why a directory with files in it is no log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unfinished {
    /// A fork that was never acknowledged.
    Fork,
    /// A log whose removal has begun, with the note that [`begin`] was given.
    Removal(String),
}

/// Whether `dir` is something unfinished.
///
/// # Errors
/// I/O errors; that there is no such directory is none.
pub fn unfinished(storage: &dyn Storage, dir: &Path) -> Result<Option<Unfinished>, Error> {
    let names = match storage.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        names => names.map_err(io_error("list", dir))?,
    };
    let has = |name: &str| names.iter().any(|found| found == name);
    if has(DELETING) {
        let path = dir.join(DELETING);
        let note = read_note(storage, &path).map_err(io_error("read", &path))?;
        return Ok(Some(Unfinished::Removal(note)));
    }
    Ok(has(FORKING).then_some(Unfinished::Fork))
}

fn read_note(storage: &dyn Storage, path: &Path) -> io::Result<String> {
    let file = storage.open(path, Access::Read)?;
    let len = usize::try_from(file.len()?.min(NOTE_BYTES_MAX)).map_err(io::Error::other)?;
    Ok(String::from_utf8_lossy(&file.read(0, len)?).into_owned())
}

/// Says that `dir` is going away. From `Ok` on it is no log any more, whatever happens.
///
/// # Errors
/// I/O errors.
pub fn begin(storage: &dyn Storage, dir: &Path, note: &str) -> Result<(), Error> {
    mark(storage, dir, DELETING, note)
}

/// Removes `dir` with all that is in it; what is marked first stays marked until it is gone.
/// Durable on `Ok`. That there is none is no error.
///
/// # Errors
/// I/O errors; call it again then.
pub fn finish(storage: &dyn Storage, dir: &Path) -> Result<(), Error> {
    let names = match storage.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        names => names.map_err(io_error("list", dir))?,
    };
    let is_marker = |name: &str| name == DELETING || name == FORKING;
    for name in names.iter().filter(|name| !is_marker(name)) {
        let path = dir.join(name);
        storage.remove(&path).map_err(io_error("remove", &path))?;
    }
    storage
        .sync_dir(dir)
        .map_err(io_error("flush directory", dir))?;
    storage
        .remove_dir_all(dir)
        .map_err(io_error("remove", dir))?;
    let parent = dir.parent().unwrap_or(Path::new("."));
    storage
        .sync_dir(parent)
        .map_err(io_error("flush directory", parent))
}

/// [`begin`] and [`finish`].
///
/// # Errors
/// I/O errors.
pub fn remove(storage: &dyn Storage, dir: &Path, note: &str) -> Result<(), Error> {
    begin(storage, dir, note)?;
    finish(storage, dir)
}

/// Makes `dir` for a fork, and clears away what an earlier attempt has left there.
pub(super) fn begin_fork(storage: &dyn Storage, dir: &Path) -> Result<(), Error> {
    if unfinished(storage, dir)?.is_some() {
        finish(storage, dir)?;
    }
    storage
        .create_dir_all(dir)
        .map_err(io_error("create directory", dir))?;
    let names = storage.list(dir).map_err(io_error("list", dir))?;
    if !names.is_empty() {
        return Err(Error::Occupied {
            path: dir.to_owned(),
        });
    }
    mark(storage, dir, FORKING, "")
}

/// The fork is complete, and on the disk on `Ok`. The names of its files are there already.
pub(super) fn end_fork(storage: &dyn Storage, dir: &Path) -> Result<(), Error> {
    let path = dir.join(FORKING);
    storage.remove(&path).map_err(io_error("remove", &path))?;
    storage
        .sync_dir(dir)
        .map_err(io_error("flush directory", dir))
}

fn mark(storage: &dyn Storage, dir: &Path, marker: &str, note: &str) -> Result<(), Error> {
    let path = dir.join(marker);
    let write = || {
        let file = match storage.create(&path) {
            // An earlier attempt got as far; what it noted counts.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            file => file?,
        };
        if note.is_empty() {
            // Its name says it all, and is flushed below.
            return Ok(());
        }
        file.write_at(0, note.as_bytes())?;
        file.sync_data()
    };
    write().map_err(io_error("write", &path))?;
    storage
        .sync_dir(dir)
        .map_err(io_error("flush directory", dir))
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        operation,
        path,
        source,
    }
}
