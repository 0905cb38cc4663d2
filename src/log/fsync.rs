//! Durable changes of names: a name is safe only after its directory has been flushed.

use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Flushes the names in `path`.
///
/// # Errors
/// Any error of the file system.
pub fn dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes `path` and its missing parents, each durable in its own parent and open to its owner
/// only, like the files that will be in it. What is there already keeps its mode.
///
/// # Errors
/// Any error of the file system.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    dir(parent.unwrap_or(Path::new(".")))
}

/// Renames within one directory; durable on `Ok`.
///
/// # Errors
/// Any error of the file system.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "this is the durable form")]
    std::fs::rename(from, to)?;
    dir(to.parent().unwrap_or(Path::new(".")))
}

/// Replaces the file at `path` by `bytes`, readable by its owner only; whole or not at all, and
/// durable on `Ok`.
///
/// # Errors
/// Any error of the file system.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    rename(&temporary, path)
}
