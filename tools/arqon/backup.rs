//! `arqon backup`: a checked copy of a tenant's logs, taken while the node goes on.
//!
//! In the directory, one folder for each tenant and in it one for each reality, with the files of
//! its log, and `manifest.binpb` (`arqon.v1.BackupManifest`), which is written last: until then the
//! backup that was there before is whole. Files carry their identity in their names, so that one
//! which is there already need not be copied again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use arqonbus::client::Client;
use arqonbus::log::fsync;
use arqonbus::proto::json::micros;
use arqonbus::proto::v1::{BackupFile, BackupManifest, BackupReality, Value, value};
use bytes::Bytes;
use clap::Args;
use prost::Message as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::connection::{Patience, Target};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::{Output, table};

/// Name of the file that says what a backup holds.
pub(crate) const MANIFEST: &str = "manifest.binpb";

/// Copy the tenant's logs to a directory while the node goes on
///
/// Only what has changed since the last backup to the same directory is copied; what is there
/// already is checked, and copied again if it has rotted. Realities that the
/// node no longer has stay in it as they were, until --prune. Needs a token of the role admin.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon backup /backups/arqon
  arqon backup /backups/arqon --output json
  arqon backup /backups/arqon --prune

`arqon restore` makes a data directory of it; what the node no longer has is restored only when it
is named with --only. A reality that was made anew under an old name takes the old one's place.")]
pub(crate) struct Arguments {
    /// Where the copy is kept; made if it is not there
    directory: PathBuf,

    /// Remove the realities that the node no longer has from the backup
    #[arg(long)]
    prune: bool,
}

/// What was done.
#[derive(Default)]
struct Tally {
    copied_files: u64,
    copied_bytes: u64,
    kept_files: u64,
    kept_bytes: u64,
    /// Names of the realities that went because the node no longer has them.
    pruned: Vec<String>,
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let client = target.connect(Patience::None).await?.client;
    let begun = client.command("backup.begin", []).await?;
    let (id, manifest) = picture(&begun).context("the node's answer to backup.begin")?;
    let copied = copy(&client, &id, manifest, &arguments).await;
    // The node lets go of it by itself as well.
    let ended = client.command("backup.end", [("backup", id.as_str().into())]);
    if let Err(error) = ended.await {
        tracing::warn!(%error, "the node was not told that the backup is done");
    }
    let (manifest, tally) = copied?;
    let realities: Vec<_> = manifest
        .realities
        .iter()
        .filter(|reality| reality.kept_from == 0)
        .map(|reality| {
            let bytes: u64 = reality.files.iter().map(|file| file.bytes).sum();
            json!({
                "tenant": manifest.tenant,
                "reality": reality.name,
                "first": reality.first,
                "last": reality.end.saturating_sub(1),
                "files": reality.files.len(),
                "bytes": bytes,
            })
        })
        .collect();
    table::print(&json!(realities), output)?;
    let Tally {
        copied_files,
        copied_bytes,
        kept_files,
        kept_bytes,
        pruned,
    } = tally;
    let mut told = format!(
        "copied {copied_files} files ({copied_bytes} bytes), kept {kept_files} ({kept_bytes} bytes)\n"
    );
    for BackupReality {
        name, kept_from, ..
    } in &manifest.realities
    {
        if *kept_from > 0 {
            let at = micros(*kept_from);
            told.push_str(&format!(
                "kept reality {name} of {at}, which the node no longer has; --prune removes it\n"
            ));
        }
    }
    for name in pruned {
        told.push_str(&format!(
            "removed reality {name}, which the node no longer has\n"
        ));
    }
    // The backup is whole, whether or not anybody reads this.
    let _unseen = std::io::stderr().write_all(told.as_bytes());
    Ok(())
}

fn picture(answer: &Value) -> anyhow::Result<(String, BackupManifest)> {
    let Some(value::Kind::Fields(fields)) = &answer.kind else {
        anyhow::bail!("it is no table");
    };
    let field = |name: &str| {
        let found = fields.items.iter().find(|field| field.name == name);
        found.and_then(|field| field.value.as_ref()?.kind.as_ref())
    };
    match (field("backup"), field("manifest")) {
        (Some(value::Kind::Unsigned(id)), Some(value::Kind::Bytes(manifest))) => {
            Ok((id.to_string(), BackupManifest::decode(manifest.clone())?))
        }
        _ => anyhow::bail!("it has no backup or no manifest"),
    }
}

async fn copy(
    client: &Client,
    id: &str,
    mut manifest: BackupManifest,
    arguments: &Arguments,
) -> anyhow::Result<(BackupManifest, Tally)> {
    let folder = arguments.directory.join(safe_name(&manifest.tenant)?);
    fsync::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let former = read_manifest(&folder)?.unwrap_or_default();
    let before = known_files(&former);
    let files = manifest.realities.iter().flat_map(|reality| &reality.files);
    let total = files.map(|file| file.bytes).sum();
    let mut progress = Progress::of_bytes(total, "files");
    let mut tally = Tally::default();
    for reality in &mut manifest.realities {
        let place = folder.join(safe_name(&reality.name)?);
        fsync::create_dir_all(&place).with_context(|| format!("making {}", place.display()))?;
        for file in &mut reality.files {
            safe_name(&file.name)?;
            file.stored_as = stored_name(file);
            let path = place.join(&file.stored_as);
            let known = before.get(&(reality.name.clone(), file.stored_as.clone()));
            match known {
                Some(sha256) if is_whole(&path, file.bytes, sha256) => {
                    file.sha256 = sha256.clone();
                    tally.kept_files += 1;
                    tally.kept_bytes += file.bytes;
                }
                _ => {
                    let fetched = fetch(client, id, &reality.name, file, &path).await;
                    file.sha256 = fetched.with_context(|| format!("copying {}", path.display()))?;
                    tally.copied_files += 1;
                    tally.copied_bytes += file.bytes;
                }
            }
            progress.add_sized(1, file.bytes);
        }
        fsync::dir(&place).with_context(|| format!("flushing {}", place.display()))?;
    }
    for reality in no_longer_there(former, &manifest) {
        if arguments.prune {
            tally.pruned.push(reality.name);
        } else {
            manifest.realities.push(reality);
        }
    }
    let path = folder.join(MANIFEST);
    fsync::replace(&path, &manifest.encode_to_vec())
        .with_context(|| format!("writing {}", path.display()))?;
    forget_others(&folder, &manifest)?;
    Ok((manifest, tally))
}

/// Checksums of the files that the last backup had.
fn known_files(former: &BackupManifest) -> BTreeMap<(String, String), Bytes> {
    let mut known = BTreeMap::new();
    for BackupReality { name, files, .. } in &former.realities {
        for file in files {
            let place = (name.clone(), file.stored_as.clone());
            known.insert(place, file.sha256.clone());
        }
    }
    known
}

/// The realities that the last backup had and the node has not, with the time of the picture that
/// they are of.
fn no_longer_there(former: BackupManifest, now: &BackupManifest) -> Vec<BackupReality> {
    let taken_at = former.taken_at;
    let mut gone = former.realities;
    gone.retain(|reality| now.realities.iter().all(|one| one.name != reality.name));
    for reality in &mut gone {
        if reality.kept_from == 0 {
            reality.kept_from = taken_at;
        }
    }
    gone
}

/// The manifest in the folder of a tenant, if there is one.
pub(crate) fn read_manifest(folder: &Path) -> anyhow::Result<Option<BackupManifest>> {
    let path = folder.join(MANIFEST);
    match fs::read(&path) {
        Ok(bytes) => BackupManifest::decode(Bytes::from(bytes))
            .map(Some)
            .with_context(|| format!("{} is no manifest of a backup", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// A name from elsewhere that is about to become one in a file system.
pub(crate) fn safe_name(name: &str) -> anyhow::Result<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(Failure::data(format!("{name:?} cannot be the name of a file")).into());
    }
    Ok(name)
}

fn stored_name(file: &BackupFile) -> String {
    let BackupFile {
        name,
        bytes,
        identity,
        sealed,
        ..
    } = file;
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name.as_str(), "file"));
    if *sealed {
        format!("{stem}-{identity:08x}.{extension}")
    } else {
        format!("{stem}-{identity:08x}-{bytes}.{extension}")
    }
}

/// Whether the copy is still what it was: a backup that has rotted is none.
fn is_whole(path: &Path, bytes: u64, sha256: &Bytes) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.len() == bytes)
        && sha256_of(path, |_| {}).is_ok_and(|sum| sum == *sha256)
}

/// Copies one file; on the disk under its name on `Ok`.
async fn fetch(
    client: &Client,
    id: &str,
    reality: &str,
    file: &BackupFile,
    path: &Path,
) -> anyhow::Result<Bytes> {
    let temporary = path.with_extension("part");
    let mut out = File::create(&temporary)?;
    let mut sum = Sha256::new();
    let mut offset = 0_u64;
    while offset < file.bytes {
        let answer = client
            .command(
                "backup.read",
                [
                    ("backup", id.into()),
                    ("reality", reality.into()),
                    ("file", file.name.as_str().into()),
                    ("offset", offset.to_string().as_str().into()),
                ],
            )
            .await?;
        let Some(value::Kind::Bytes(piece)) = answer.kind else {
            anyhow::bail!("the node answered backup.read with something else than bytes");
        };
        anyhow::ensure!(!piece.is_empty(), "it ends at byte {offset}, too early");
        sum.update(&piece);
        out.write_all(&piece)?;
        offset += piece.len() as u64;
    }
    out.sync_all()?;
    fsync::rename(&temporary, path)?;
    Ok(Bytes::copy_from_slice(&sum.finalize()))
}

/// Removes what no manifest names any more.
fn forget_others(folder: &Path, manifest: &BackupManifest) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let place = entry?.path();
        if !place.is_dir() {
            continue;
        }
        let name = place.file_name().and_then(|name| name.to_str());
        let reality = manifest
            .realities
            .iter()
            .find(|reality| Some(reality.name.as_str()) == name);
        let wanted: BTreeSet<&str> = reality
            .map(|reality| reality.files.iter().map(|file| file.stored_as.as_str()))
            .into_iter()
            .flatten()
            .collect();
        for entry in fs::read_dir(&place).with_context(|| format!("listing {}", place.display()))? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let ours = path
                .extension()
                .is_some_and(|kind| kind == "seg" || kind == "file" || kind == "part");
            if ours && name.is_none_or(|name| !wanted.contains(name)) {
                fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            }
        }
        if reality.is_none() && fs::read_dir(&place)?.next().is_none() {
            fs::remove_dir(&place).with_context(|| format!("removing {}", place.display()))?;
        }
    }
    Ok(())
}

/// The checksum of the file at `path`.
pub(crate) fn sha256_of(path: &Path, mut read: impl FnMut(u64)) -> std::io::Result<Bytes> {
    let mut file = File::open(path)?;
    let mut sum = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        let len = file.read(&mut piece)?;
        if len == 0 {
            return Ok(Bytes::copy_from_slice(&sum.finalize()));
        }
        sum.update(&piece[..len]);
        read(len as u64);
    }
}
