//! What folds came to, in sled, with the place in the log that each stands at.
//!
//! A cache: an entry that is missing, old, damaged or of another log costs time and nothing else.
//! Knows no fold.

use std::path::Path;

use sled::Db;

use crate::log::{Micros, Sequence};

/// Memory for it; entries are read once.
const CACHE_BYTES: u64 = 1 << 20;
const FLUSH_EVERY_MS: u64 = 1_000;
/// Version, place, last event and its time, checksum.
const HEAD_BYTES: usize = 4 + 8 + 8 + 8 + 4;

/// Where a fold stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stand {
    pub(super) version: u32,
    /// Everything below is folded.
    pub(super) next: Sequence,
    /// The last event that was folded,
    pub(super) last: Sequence,
    /// and when it was appended.
    pub(super) at: Micros,
}

/// The cache of one node.
#[derive(Debug)]
pub struct Cache(Db);

impl Cache {
    /// Opens the cache in `directory`. One that cannot be read is begun anew. Blocks.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(directory: &Path) -> std::io::Result<Self> {
        let open = || {
            sled::Config::new()
                .path(directory)
                .cache_capacity(CACHE_BYTES)
                .flush_every_ms(Some(FLUSH_EVERY_MS))
                .open()
        };
        let db = open().or_else(|error| {
            tracing::warn!(%error, "kept states cannot be read; beginning anew");
            std::fs::remove_dir_all(directory)?;
            open().map_err(std::io::Error::other)
        })?;
        Ok(Self(db))
    }

    pub(super) fn get(&self, tenant: &str, name: &str, version: u32) -> Option<(Stand, Vec<u8>)> {
        let found = self.0.get(key(tenant, name));
        let entry = found.unwrap_or_else(|error| {
            tracing::warn!(%error, tenant, name, "a kept state cannot be read");
            None
        })?;
        let (stand, state) = decode(&entry)?;
        (stand.version == version).then(|| (stand, state.to_vec()))
    }

    pub(super) fn put(&self, tenant: &str, name: &str, stand: Stand, state: &[u8]) {
        if let Err(error) = self.0.insert(key(tenant, name), encode(stand, state)) {
            tracing::warn!(%error, tenant, name, "a state is not kept");
        }
    }

    /// Forgets all that is kept of a tenant.
    pub fn forget(&self, tenant: &str) {
        for entry in self.0.scan_prefix(key(tenant, "")).keys() {
            let removed = entry.and_then(|key| self.0.remove(key));
            if let Err(error) = removed {
                tracing::warn!(%error, tenant, "a kept state is not forgotten");
            }
        }
    }

    /// Writes everything to the disk. Blocks.
    pub fn flush(&self) {
        if let Err(error) = self.0.flush() {
            tracing::warn!(%error, "kept states are not flushed");
        }
    }
}

/// No tenant has a NUL in its name.
fn key(tenant: &str, name: &str) -> Vec<u8> {
    [tenant.as_bytes(), &[0], name.as_bytes()].concat()
}

fn encode(stand: Stand, state: &[u8]) -> Vec<u8> {
    let mut entry = Vec::with_capacity(HEAD_BYTES + state.len());
    entry.extend_from_slice(&stand.version.to_le_bytes());
    entry.extend_from_slice(&stand.next.get().to_le_bytes());
    entry.extend_from_slice(&stand.last.get().to_le_bytes());
    entry.extend_from_slice(&stand.at.0.to_le_bytes());
    entry.extend_from_slice(&crc32fast::hash(state).to_le_bytes());
    entry.extend_from_slice(state);
    entry
}

fn decode(entry: &[u8]) -> Option<(Stand, &[u8])> {
    let (version, rest) = entry.split_first_chunk()?;
    let (next, rest) = rest.split_first_chunk()?;
    let (last, rest) = rest.split_first_chunk()?;
    let (at, rest) = rest.split_first_chunk()?;
    let (crc, state) = rest.split_first_chunk()?;
    let stand = Stand {
        version: u32::from_le_bytes(*version),
        next: Sequence::new(u64::from_le_bytes(*next))?,
        last: Sequence::new(u64::from_le_bytes(*last))?,
        at: Micros(u64::from_le_bytes(*at)),
    };
    (crc32fast::hash(state) == u32::from_le_bytes(*crc)).then_some((stand, state))
}
