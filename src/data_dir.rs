//! The node's data directory: who holds it, and the name it gives the node.
//!
//! Owns `LOCK` and `node.id`; the logs beside them belong to the log module. Must not know tokens
//! or sockets.

use std::io;
use std::path::{Path, PathBuf};

use crate::log::{Storage, StorageLock, fsync};

const LOCK: &str = "LOCK";
const ID_FILE: &str = "node.id";
/// What `arqon restore` builds in, and a node must not start beside.
pub const UNFINISHED_RESTORE: &str = ".restoring";
const ID_CHARS: u32 = 6;
const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

const _: () = assert!(
    36_u64.pow(ID_CHARS) <= 1 << 32,
    "an id must fit into its number"
);

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {operation} {path}", path = path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// The refusal.
        #[source]
        source: io::Error,
    },
    /// Another node runs on it.
    #[error("{path} is in use by {owner}; stop that node or choose another --data", path = path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// What the owner wrote into the lock.
        owner: String,
    },
    /// `node.id` holds something else.
    #[error("{path} must hold {ID_CHARS} characters of a-z and 0-9; restore it from a backup, since the node's clock entries carry it", path = path.display())]
    BadId {
        /// The file.
        path: PathBuf,
    },
}

/// A node's name, made once for a data directory and kept for ever: vector clocks carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeId {
    name: String,
    number: u32,
}

impl NodeId {
    /// Six characters of a-z and 0-9.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name as a number in base 36, for the headers of batches.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    fn of_number(mut number: u32) -> Self {
        number %= 36_u32.pow(ID_CHARS);
        let mut rest = number;
        let mut name = vec![b'0'; ID_CHARS as usize];
        for place in name.iter_mut().rev() {
            *place = ALPHABET[(rest % 36) as usize];
            rest /= 36;
        }
        Self {
            name: String::from_utf8_lossy(&name).into_owned(),
            number,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let name = text.trim_end();
        let lower = name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let number = u32::from_str_radix(name, 36).ok()?;
        (lower && name.len() == ID_CHARS as usize).then(|| Self {
            name: name.to_owned(),
            number,
        })
    }
}

/// A data directory held by this process until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    id: NodeId,
    _lock: Box<dyn StorageLock>,
}

impl DataDir {
    /// Takes the directory, creating it and the node's id if they are not there.
    ///
    /// # Errors
    /// In use by another node, or not usable.
    pub fn take(storage: &dyn Storage, path: &Path) -> Result<Self, Error> {
        let failed = |operation, at: &Path| {
            let path = at.to_owned();
            move |source| Error::Io {
                operation,
                path,
                source,
            }
        };
        storage
            .create_dir_all(path)
            .map_err(failed("create", path))?;
        let owner = format!("arqonbus process {}", std::process::id());
        let lock = storage.lock(&path.join(LOCK), &owner).map_err(|source| {
            if source.kind() == io::ErrorKind::WouldBlock {
                Error::InUse {
                    path: path.to_owned(),
                    owner: source.to_string(),
                }
            } else {
                failed("lock", &path.join(LOCK))(source)
            }
        })?;
        let file = path.join(ID_FILE);
        let id = match std::fs::read(&file) {
            Ok(bytes) => str::from_utf8(&bytes)
                .ok()
                .and_then(NodeId::parse)
                .ok_or(Error::BadId { path: file })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let number = random().map_err(failed("read", Path::new(RANDOM)))?;
                let id = NodeId::of_number(u32::from_le_bytes(number));
                let text = format!("{}\n", id.name);
                fsync::replace(&file, text.as_bytes()).map_err(failed("write", &file))?;
                id
            }
            Err(error) => return Err(failed("read", &file)(error)),
        };
        Ok(Self {
            path: path.to_owned(),
            id,
            _lock: lock,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.id
    }
}

const RANDOM: &str = "/dev/urandom";

/// Random bytes from the operating system.
///
/// # Errors
/// There is no `/dev/urandom`.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    io::Read::read_exact(&mut std::fs::File::open(RANDOM)?, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_and_its_number_say_the_same() {
        for number in [0, 1, 35, 36, 123_456_789, 36_u32.pow(6) - 1] {
            let id = NodeId::of_number(number);
            assert_eq!((id.name().len(), id.number()), (6, number));
            assert_eq!(NodeId::parse(&format!("{}\n", id.name())), Some(id));
        }
        for bad in ["", "abc", "abcdefg", "ABCDEF", "ab-def", "+bcdef"] {
            assert_eq!(NodeId::parse(bad), None, "{bad}");
        }
    }
}
