//! Backups of a tenant while it goes on: pictures of its logs that are held for whoever copies
//! them (LOG-16).
//!
//! A picture pins the files it is made of, so there are few of them, and one that nobody reads from
//! is dropped. Copying, checking and keeping the copies is the client's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::error::Error;
use super::name::{RealityName, Tenant};
use super::tenancy::Tenancy;
use crate::log::{self, KeyProblem, Snapshot};
use crate::proto::v1::{BackupFile, BackupManifest, BackupReality};

/// Pictures of one tenant that a node holds at a time.
const HELD_MAX: usize = 4;
/// A picture that nobody has read from for this long gives way to another of its tenant: whoever
/// took it is likely to be gone.
const GIVES_WAY_AFTER: Duration = Duration::from_secs(5);
/// A picture that nobody reads from is dropped after this long.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// Bytes of a file given out at a time.
pub(super) const PIECE_BYTES_MAX: usize = 4 << 20;

/// The pictures that are held.
#[derive(Debug, Default)]
pub(super) struct Backups {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    last_id: u64,
    pictures: BTreeMap<u64, Picture>,
}

#[derive(Debug)]
struct Picture {
    tenant: Tenant,
    realities: Arc<BTreeMap<RealityName, Snapshot>>,
    used_at: Instant,
}

impl Backups {
    /// Takes a picture of all logs of a tenant and holds it. Blocks.
    pub(super) fn begin(
        &self,
        tenancy: &Tenancy,
        node: (&str, u32),
    ) -> Result<(u64, BackupManifest), Error> {
        let taken_at = tenancy.now();
        // The system's log first: its cursors then point to nothing that the others lack.
        let names = [RealityName::system()].into_iter().chain(tenancy.names());
        let mut realities = BTreeMap::new();
        let mut described = Vec::new();
        for name in names {
            let reality = match tenancy.reality(&name) {
                // There is nothing left of it to keep.
                Err(Error::Log(log::Error::Key {
                    problem: KeyProblem::Destroyed { .. },
                    ..
                })) => continue,
                reality => reality?,
            };
            let snapshot = reality
                .log()
                .snapshot()
                .map_err(|error| reality.refusal(error))?;
            described.push(describe(&name, &snapshot));
            realities.insert(name, snapshot);
        }
        let manifest = BackupManifest {
            node: node.0.to_owned(),
            node_number: node.1,
            tenant: tenancy.tenant().to_string(),
            taken_at: taken_at.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            realities: described,
        };
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.pictures
            .retain(|_, picture| picture.used_at.elapsed() < IDLE_MAX);
        let of_tenant = |(_, picture): &(&u64, &Picture)| picture.tenant == *tenancy.tenant();
        if held.pictures.iter().filter(of_tenant).count() >= HELD_MAX {
            let oldest = held.pictures.iter().filter(of_tenant);
            let oldest = oldest
                .filter(|(_, picture)| picture.used_at.elapsed() > GIVES_WAY_AFTER)
                .min_by_key(|(_, picture)| picture.used_at)
                .map(|(id, _)| *id);
            let Some(oldest) = oldest else {
                return Err(Error::BackupsFull { limit: HELD_MAX });
            };
            held.pictures.remove(&oldest);
        }
        held.last_id += 1;
        let id = held.last_id;
        held.pictures.insert(
            id,
            Picture {
                tenant: tenancy.tenant().clone(),
                realities: Arc::new(realities),
                used_at: Instant::now(),
            },
        );
        Ok((id, manifest))
    }

    /// Up to [`PIECE_BYTES_MAX`] bytes of a file of a picture; empty at its end. Blocks.
    pub(super) fn read(
        &self,
        tenant: &Tenant,
        id: u64,
        reality: &RealityName,
        file: &str,
        offset: u64,
    ) -> Result<Bytes, Error> {
        let realities = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            let picture = held.pictures.get_mut(&id);
            let Some(picture) = picture.filter(|picture| picture.tenant == *tenant) else {
                return Err(Error::NoSuchBackup { id });
            };
            picture.used_at = Instant::now();
            Arc::clone(&picture.realities)
        };
        let snapshot = realities.get(reality).ok_or_else(|| Error::NoSuchReality {
            reality: reality.clone(),
        })?;
        let read = snapshot.read(file, offset, PIECE_BYTES_MAX);
        let read = read.map_err(|source| {
            Error::Log(log::Error::Io {
                operation: "read",
                path: file.into(),
                source,
            })
        })?;
        read.ok_or(Error::NoSuchBackup { id })
    }

    /// Lets go of a picture.
    pub(super) fn end(&self, tenant: &Tenant, id: u64) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held
            .pictures
            .get(&id)
            .is_some_and(|picture| picture.tenant == *tenant)
        {
            held.pictures.remove(&id);
        }
    }
}

fn describe(name: &RealityName, snapshot: &Snapshot) -> BackupReality {
    let file = |file: &log::SnapshotFile| BackupFile {
        name: file.name.clone(),
        bytes: file.bytes,
        identity: file.identity,
        sealed: file.sealed,
        capacity: file.capacity,
        stored_as: String::new(),
        sha256: Bytes::new(),
    };
    BackupReality {
        kept_from: 0,
        name: name.to_string(),
        first: snapshot.first().get(),
        end: snapshot.end().get(),
        files: snapshot.files().map(file).collect(),
    }
}
