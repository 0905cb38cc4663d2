//! A directory tree in memory, without faults.
//!
//! Fails loudly when it is asked for what only a log that believes damaged numbers would ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arqonbus::log::{Access, Storage, StorageFile, StorageLock};
use bytes::Bytes;

/// Longest file that a log with the options of the targets has a reason to make.
const FILE_BYTES_MAX: usize = 1 << 20;

type Content = Arc<Mutex<Vec<u8>>>;

/// Clones share the tree.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: Arc<Mutex<BTreeMap<PathBuf, Content>>>,
    locks: Arc<Mutex<BTreeSet<PathBuf>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    /// Puts a file there, in place of any of that name.
    pub fn place(&self, path: &Path, bytes: Vec<u8>) {
        locked(&self.files).insert(path.to_owned(), Arc::new(Mutex::new(bytes)));
    }

    /// Another tree with the same contents.
    #[must_use]
    pub fn copy(&self) -> Self {
        let copy = Self::default();
        for (path, bytes) in self.files() {
            copy.place(&path, bytes);
        }
        copy
    }

    /// All files with their contents.
    #[must_use]
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        locked(&self.files)
            .iter()
            .map(|(path, content)| (path.clone(), locked(content).clone()))
            .collect()
    }

    fn look_up(&self, path: &Path) -> io::Result<Content> {
        let files = locked(&self.files);
        files.get(path).cloned().ok_or_else(|| not_found(path))
    }
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, path.display().to_string())
}

impl Storage for Disk {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let files = locked(&self.files);
        let names = files
            .keys()
            .filter(|path| path.parent() == Some(dir))
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
        Ok(names.collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        let content = Content::default();
        let mut files = locked(&self.files);
        if files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        files.insert(path.to_owned(), Arc::clone(&content));
        Ok(Box::new(Opened {
            path: path.to_owned(),
            content,
        }))
    }

    fn open(&self, path: &Path, _access: Access) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(Opened {
            path: path.to_owned(),
            content: self.look_up(path)?,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = locked(&self.files);
        let content = files.remove(from).ok_or_else(|| not_found(from))?;
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let content = self.look_up(from)?;
        locked(&self.files).insert(to.to_owned(), content);
        Ok(())
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        locked(&self.files).retain(|path, _| !path.starts_with(dir));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = locked(&self.files).remove(path);
        removed.map(drop).ok_or_else(|| not_found(path))
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path, owner: &str) -> io::Result<Box<dyn StorageLock>> {
        if !locked(&self.locks).insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.place(path, owner.as_bytes().to_vec());
        Ok(Box::new(Held {
            path: path.to_owned(),
            locks: Arc::clone(&self.locks),
        }))
    }

    fn boot_id(&self) -> io::Result<String> {
        Ok("boot".to_owned())
    }
}

#[derive(Debug)]
struct Held {
    path: PathBuf,
    locks: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl StorageLock for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        locked(&self.locks).remove(&self.path);
    }
}

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    content: Content,
}

impl Opened {
    fn grow(&self, len: u64) -> MutexGuard<'_, Vec<u8>> {
        let asked = usize::try_from(len).unwrap_or(usize::MAX);
        assert!(
            asked <= FILE_BYTES_MAX,
            "{} is to be {len} bytes long",
            self.path.display()
        );
        let mut content = locked(&self.content);
        if content.len() < asked {
            content.resize(asked, 0);
        }
        content
    }
}

impl StorageFile for Opened {
    fn len(&self) -> io::Result<u64> {
        Ok(locked(&self.content).len() as u64)
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let content = locked(&self.content);
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let range = start..start.checked_add(len).ok_or(io::ErrorKind::UnexpectedEof)?;
        let bytes = content.get(range).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Bytes::copy_from_slice(bytes))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset.saturating_add(bytes.len() as u64);
        let mut content = self.grow(end);
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        content[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        drop(self.grow(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn links(&self) -> io::Result<u64> {
        Ok(Arc::strong_count(&self.content) as u64)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
