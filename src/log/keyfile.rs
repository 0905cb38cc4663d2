//! The file `keys` of a log: its data keys, wrapped by master keys.
//!
//! Owns the bytes of that file and how it is replaced; `docs/log-format.md` explains them. Every
//! encrypted byte of the log depends on it, so damage is never mended and never taken for absence.
//! Knows no key but wrapped ones.

use std::io;
use std::path::Path;

use bytes::Bytes;

use super::cipher::KeyId;
use super::error::{Damage, Error};
use super::master::{MasterName, NAME_BYTES_MAX, WRAPPED_BYTES, Wrapped, check_name};
use super::position::{ByteOffset, Micros};
use super::prepare::remove_if_there;
use super::storage::{Access, Storage, StorageFile};
use super::wire::{u32_at, u64_at};

/// Name of the file.
pub(super) const KEYS: &str = "keys";
/// The file on its way to its name.
pub(super) const KEYS_COMING: &str = "keys.tmp";

const MAGIC: [u8; 8] = *b"ARQONKEY";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 128;
const CRC_BYTES: usize = 4;

const CURRENT: usize = 16;
const DESTROYED_AT: usize = 32;

const ENTRY_CREATED_AT: usize = 16;
const ENTRY_MASTER_ID: usize = 24;
const ENTRY_MASTER_NAME: usize = 32;
const ENTRY_WRAPPED: usize = ENTRY_MASTER_NAME + NAME_BYTES_MAX;

const _: () = assert!(DESTROYED_AT + 8 <= HEADER_BYTES);
const _: () = assert!(ENTRY_WRAPPED + WRAPPED_BYTES <= ENTRY_BYTES);

/// What the file says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct KeyFile {
    /// Data key of new segments; none yet in a log that was taken over from elsewhere.
    pub(super) current: Option<KeyId>,
    /// When all keys were destroyed on purpose.
    pub(super) destroyed_at: Option<Micros>,
    pub(super) entries: Vec<Entry>,
}

/// A data key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) id: KeyId,
    pub(super) created_at: Micros,
    pub(super) wrapped: Wrapped,
}

/// Which check failed, where, what it wanted, what is there.
type Bad = (usize, &'static str, String, String);

/// The bytes of the file in `dir`, whatever they are; `None` if there is none.
pub(super) fn bytes(storage: &dyn Storage, dir: &Path) -> io::Result<Option<Bytes>> {
    let file = match storage.open(&dir.join(KEYS), Access::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let bytes = file.read(0, usize::try_from(file.len()?).map_err(io::Error::other)?)?;
    // Copied: the file may be overwritten when another takes its place.
    Ok(Some(Bytes::copy_from_slice(&bytes)))
}

impl KeyFile {
    /// Reads the file in `dir`; `None` if there is none.
    pub(super) fn load(storage: &dyn Storage, dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(KEYS);
        let read = bytes(storage, dir).map_err(io_error(&path, "read"))?;
        let Some(bytes) = read else {
            return Ok(None);
        };
        match Self::decode(&bytes) {
            Ok(keys) => Ok(Some(keys)),
            Err((offset, what, expected, found)) => Err(Error::Damaged(Damage {
                path,
                offset: ByteOffset(offset as u64),
                what,
                expected,
                found,
            })),
        }
    }

    /// Puts this in the place of what is in `dir`. On `Ok` it is on the disk, whole, and the file
    /// that it replaces is overwritten with zeros, unless a backup or a fork still has that under
    /// another name. After a crash the old one or the new one is there.
    pub(super) fn store(&self, storage: &dyn Storage, dir: &Path) -> Result<(), Error> {
        let path = dir.join(KEYS);
        let coming = dir.join(KEYS_COMING);
        let io = |operation| io_error(&path, operation);
        let replaced = match storage.open(&path, Access::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            file => Some(file.map_err(io("open"))?),
        };
        remove_if_there(storage, &coming).map_err(io("prepare"))?;
        let write = || {
            let file = storage.create(&coming)?;
            file.write_at(0, &self.encode())?;
            file.sync_data()?;
            storage.rename(&coming, &path)?;
            storage.sync_dir(dir)
        };
        write().map_err(io("write"))?;
        // Not before: a crash must find one of them.
        match replaced {
            Some(file) => erase(&*file).map_err(io("overwrite what was replaced by")),
            None => Ok(()),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        let count = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        out[12..16].copy_from_slice(&count.to_le_bytes());
        out[CURRENT..DESTROYED_AT].copy_from_slice(&self.current.unwrap_or_default());
        let destroyed_at = self.destroyed_at.map_or(0, |at| at.0.max(1));
        out[DESTROYED_AT..DESTROYED_AT + 8].copy_from_slice(&destroyed_at.to_le_bytes());
        for entry in &self.entries {
            out.extend_from_slice(&entry.encode());
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        assert_eq!(
            out.len(),
            HEADER_BYTES + self.entries.len() * ENTRY_BYTES + CRC_BYTES
        );
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, Bad> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            let expected = format!("at least {HEADER_BYTES} bytes");
            let found = format!("{} bytes", bytes.len());
            return Err((0, "length of the key file", expected, found));
        };
        if header[..8] != MAGIC {
            let found = format!("{:02x?}", &header[..8]);
            return Err((0, "magic of the key file", "ARQONKEY".to_owned(), found));
        }
        let version = u16::from_le_bytes([header[8], header[9]]);
        if version != VERSION {
            let expected = format!("version {VERSION}");
            let found = format!("version {version}");
            return Err((8, "version of the key file", expected, found));
        }
        let entries = usize::try_from(u32_at(header, 12)).unwrap_or(usize::MAX);
        let len = entries
            .saturating_mul(ENTRY_BYTES)
            .saturating_add(HEADER_BYTES + CRC_BYTES);
        if bytes.len() != len {
            let expected = format!("{len} bytes for {entries} keys");
            let found = format!("{} bytes", bytes.len());
            return Err((12, "length of the key file", expected, found));
        }
        let crc_at = len - CRC_BYTES;
        let (stored, computed) = (u32_at(bytes, crc_at), crc32fast::hash(&bytes[..crc_at]));
        if stored != computed {
            let (expected, found) = (format!("{stored:#010x}"), format!("{computed:#010x}"));
            return Err((crc_at, "checksum of the key file", expected, found));
        }
        let entries = bytes[HEADER_BYTES..crc_at].chunks_exact(ENTRY_BYTES);
        let entries = entries.enumerate().map(|(at, bytes)| {
            Entry::decode(bytes).ok_or_else(|| {
                let expected = "a name of letters, digits, '-', '_', '.'".to_owned();
                let offset = HEADER_BYTES + at * ENTRY_BYTES + ENTRY_MASTER_NAME;
                (
                    offset,
                    "name of a master key",
                    expected,
                    "another".to_owned(),
                )
            })
        });
        let current: KeyId = chunk(header, CURRENT);
        let destroyed_at = u64_at(header, DESTROYED_AT);
        Ok(Self {
            current: (current != KeyId::default()).then_some(current),
            destroyed_at: (destroyed_at != 0).then_some(Micros(destroyed_at)),
            entries: entries.collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn entry(&self, id: &KeyId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == *id)
    }
}

impl Entry {
    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        out[..16].copy_from_slice(&self.id);
        out[ENTRY_CREATED_AT..ENTRY_CREATED_AT + 8]
            .copy_from_slice(&self.created_at.0.to_le_bytes());
        out[ENTRY_MASTER_ID..ENTRY_MASTER_NAME].copy_from_slice(&self.wrapped.by.id);
        let name = self.wrapped.by.name.as_bytes();
        out[ENTRY_MASTER_NAME..ENTRY_MASTER_NAME + name.len()].copy_from_slice(name);
        out[ENTRY_WRAPPED..ENTRY_WRAPPED + WRAPPED_BYTES].copy_from_slice(&self.wrapped.bytes);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let name = &bytes[ENTRY_MASTER_NAME..ENTRY_WRAPPED];
        let len = name.iter().position(|&byte| byte == 0);
        let name = str::from_utf8(&name[..len.unwrap_or(name.len())]).ok()?;
        check_name(name).ok()?;
        Some(Self {
            id: chunk(bytes, 0),
            created_at: Micros(u64_at(bytes, ENTRY_CREATED_AT)),
            wrapped: Wrapped {
                by: MasterName {
                    name: name.to_owned(),
                    id: chunk(bytes, ENTRY_MASTER_ID),
                },
                bytes: chunk(bytes, ENTRY_WRAPPED),
            },
        })
    }
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let Some(chunk) = bytes[at..].first_chunk() else {
        unreachable!("{N} bytes at {at} lie within {} bytes", bytes.len())
    };
    *chunk
}

/// Overwrites a file that has no name any more. What a disk keeps of it besides is beyond us.
fn erase(file: &dyn StorageFile) -> io::Result<()> {
    if file.links()? > 0 {
        return Ok(());
    }
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    file.write_at(0, &vec![0; len])?;
    file.sync_data()
}

fn io_error(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        operation,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> KeyFile {
        let entry = |fill: u8, name: &str| Entry {
            id: [fill; 16],
            created_at: Micros(u64::from(fill)),
            wrapped: Wrapped {
                by: MasterName {
                    name: name.to_owned(),
                    id: [fill + 1; 8],
                },
                bytes: [fill + 2; WRAPPED_BYTES],
            },
        };
        KeyFile {
            current: Some([7; 16]),
            destroyed_at: None,
            entries: vec![entry(3, "old"), entry(7, &"n".repeat(NAME_BYTES_MAX))],
        }
    }

    // LOG-14: the bytes on disk stay what they are; docs/log-format.md says the same.
    #[test]
    fn the_layout_is_the_one_that_is_documented() {
        let keys = example();
        let bytes = keys.encode();
        assert_eq!(bytes.len(), 64 + 2 * 128 + 4);
        assert_eq!(bytes[..16], *b"ARQONKEY\x01\0\0\0\x02\0\0\0");
        assert_eq!(bytes[16..32], [7; 16]);
        assert_eq!(bytes[64..80], [3; 16]);
        assert_eq!(bytes[80..88], 3_u64.to_le_bytes());
        assert_eq!(bytes[88..96], [4; 8]);
        assert_eq!(bytes[96..100], *b"old\0");
        assert_eq!(bytes[128..188], [5; 60]);
        assert_eq!(KeyFile::decode(&bytes), Ok(keys));
        let destroyed = KeyFile {
            destroyed_at: Some(Micros(5)),
            ..KeyFile::default()
        };
        assert_eq!(KeyFile::decode(&destroyed.encode()), Ok(destroyed));
    }

    // LOG-14: no damage of the file is taken for other keys, and none makes the reader panic.
    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let good = example().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(KeyFile::decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(KeyFile::decode(&good[..len]).is_err(), "{len} bytes");
        }
    }
}
