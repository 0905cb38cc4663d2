//! Deletion of realities and of tenants: complete, audited, and finished after a crash (LOG-13).
//!
//! Order: the log is closed and its users told, then the directory is marked, which is the point
//! of no return; then cursors end and the deletion is recorded; then the files go. Whoever finds a
//! marked directory goes on from there. A deletion is recorded where it survives: that of a
//! reality in the tenant's `_system`, that of a tenant in the `_system` of the tenant `_node`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use super::error::Error;
use super::name::{RealityName, Tenant};
use super::reality::{Ground, Reality};
use super::register;
use super::stored::{RealityBytes, TenantBytes};
use super::system;
use super::tenancy::Tenancy;
use crate::log::Storage;
use crate::log::removal::{self, Unfinished};

impl Tenancy {
    /// Deletes a reality: no byte of its records is left in its directory, whoever uses it is told,
    /// its consumers forget where they were. Forks of it keep what they share with it. Blocks.
    ///
    /// # Errors
    /// There is none; it is the system's own; it cannot be removed or the removal not recorded. In
    /// the last case nothing of it is served any more, and another attempt, or the next start of the
    /// node, goes on.
    pub fn delete(&self, name: &RealityName, by: &str) -> Result<(), Error> {
        let _creating = self.creating();
        if name.is_system() || name.is_lab() {
            return Err(Error::RealityClosed {
                reality: name.clone(),
            });
        }
        let storage = Arc::clone(&self.ground().environment.storage);
        let directory = self.directory_of(name);
        if !self.names().contains(name) || storage.list(&directory).is_err() {
            return Err(Error::NoSuchReality {
                reality: name.clone(),
            });
        }
        let _turn = self.turn(name)?;
        if let Some(reality) = self.take_out(name) {
            reality.end();
        }
        let at = self.ground().environment.clock.now();
        let note = json!({ "by": by, "at": at.0 }).to_string();
        let note = marked(&*storage, &directory, &note)?;
        self.finish_deletion(name, &note)
    }

    /// Goes on with a deletion that has begun.
    pub(super) fn finish_deletion(&self, name: &RealityName, note: &str) -> Result<(), Error> {
        self.consumers().forget(name)?;
        self.groups().forget(name)?;
        register::note_death(self.system(), name, note)?;
        let storage = &self.ground().environment.storage;
        removal::finish(&**storage, &self.directory_of(name))?;
        self.unlist(name);
        tracing::info!(tenant = %self.tenant(), reality = %name, note, "reality deleted");
        Ok(())
    }

    /// Clears up what a crash has left of deletions and forks.
    pub(super) fn finish_unfinished(&self) -> Result<(), Error> {
        let storage = Arc::clone(&self.ground().environment.storage);
        for (name, unfinished) in unfinished_in(&*storage, self.directory())? {
            match unfinished {
                Unfinished::Fork => removal::finish(&*storage, &self.directory_of(&name))?,
                Unfinished::Removal(note) => self.finish_deletion(&name, &note)?,
            }
        }
        Ok(())
    }
}

/// The directories of realities below that of a tenant that are not logs yet, or no longer.
fn unfinished_in(
    storage: &dyn Storage,
    tenant: &Path,
) -> Result<Vec<(RealityName, Unfinished)>, Error> {
    let mut found = Vec::new();
    for path in directories_in(tenant) {
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(Ok(name)) = name.map(RealityName::new)
            && let Some(unfinished) = removal::unfinished(storage, &path)?
        {
            found.push((name, unfinished));
        }
    }
    Ok(found)
}

/// The directories in `path`; none if it cannot be listed.
pub(super) fn directories_in(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}

/// Tenants that have a directory.
pub(super) fn tenants_in(data: &Path) -> Vec<Tenant> {
    directories_in(data)
        .into_iter()
        .filter_map(|path| Tenant::new(path.file_name()?.to_str()?).ok())
        .collect()
}

/// The tenants below `data` that have something unfinished; those that are being deleted
/// themselves with their notes.
pub(super) fn unfinished_tenants(
    storage: &dyn Storage,
    data: &Path,
) -> Vec<(Tenant, Option<String>)> {
    let mut found = Vec::new();
    for path in directories_in(data) {
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(Ok(tenant)) = name.map(Tenant::new) else {
            continue;
        };
        match removal::unfinished(storage, &path) {
            Ok(Some(Unfinished::Removal(note))) => found.push((tenant, Some(note))),
            Ok(Some(Unfinished::Fork) | None) => {
                let within = unfinished_in(storage, &path);
                if within.is_ok_and(|within| !within.is_empty()) {
                    found.push((tenant, None));
                }
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "not looked at for what is unfinished");
            }
        }
    }
    found
}

/// Deletes a tenant that is not open: all its realities, its cursors, everything. Blocks.
pub(super) fn delete_tenant(
    ground: &Arc<Ground>,
    data: &Path,
    tenant: &Tenant,
    by: &str,
) -> Result<(), Error> {
    let directory = data.join(tenant.as_str());
    let storage = &ground.environment.storage;
    if storage.list(&directory).is_err() {
        return Err(Error::NoSuchTenant {
            tenant: tenant.clone(),
        });
    }
    let at = ground.environment.clock.now();
    let note = json!({ "by": by, "at": at.0 }).to_string();
    let note = marked(&**storage, &directory, &note)?;
    finish_tenant(ground, data, tenant, &note)
}

/// Marks a directory; the note of the first attempt counts, which is returned.
fn marked(storage: &dyn Storage, directory: &Path, note: &str) -> Result<String, Error> {
    removal::begin(storage, directory, note)?;
    Ok(match removal::unfinished(storage, directory)? {
        Some(Unfinished::Removal(found)) => found,
        Some(Unfinished::Fork) | None => note.to_owned(),
    })
}

/// Goes on with the deletion of a tenant that has begun.
pub(super) fn finish_tenant(
    ground: &Arc<Ground>,
    data: &Path,
    tenant: &Tenant,
    note: &str,
) -> Result<(), Error> {
    let directory = data.join(tenant.as_str());
    let storage = &ground.environment.storage;
    // First recorded: what is gone without a trace cannot be recorded after a crash.
    let (node, system) = (Tenant::node(), RealityName::system());
    let at = data.join(node.as_str()).join(system.as_str());
    let bytes = RealityBytes::new(&TenantBytes::new(None, None));
    let (log, _loss) = Reality::open(ground, &node, &system, at, bytes, Arc::default())?;
    let topic = format!("sys.tenant.{tenant}");
    let recorded = if register::is_last(&log, &topic, note) {
        Ok(())
    } else {
        let data = Bytes::copy_from_slice(note.as_bytes());
        let record = system::event(&log, topic, "tenant.deleted", "", data);
        system::append_and_wait(&log, record).map(drop)
    };
    log.close();
    recorded?;
    for reality in directories_in(&directory) {
        removal::finish(&**storage, &reality)?;
    }
    removal::finish(&**storage, &directory)?;
    tracing::info!(%tenant, note, "tenant deleted");
    Ok(())
}
