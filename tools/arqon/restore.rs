//! `arqon restore`: makes logs of a backup, in the data directory of a node that does not run.
//!
//! Everything is checked before anything is written. A log gets its name when it is whole; it goes
//! on with sequences that the lost node cannot have given out, so that no reader ever takes a new
//! record for one that it has seen.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use arqonbus::data_dir::{DataDir, NodeId, UNFINISHED_RESTORE};
use arqonbus::log::{
    AppendError, Clock as _, Committer, Encryption, Environment, Log, MasterKeys, NewSegments,
    Observer, Options, OsEntropy, RealStorage, Sequence, Unthrottled, Writer, fsync,
};
use arqonbus::proto::v1::{BackupManifest, BackupReality};
use arqonbus::wall_clock::WallClock;
use clap::Args;
use serde_json::json;

use crate::backup::{read_manifest, safe_name, sha256_of};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::{Output, table};

/// No node gives out more sequences in one reality than this.
const SEQUENCES_PER_SECOND_MAX: u64 = 2_000_000;
/// Left out in any case: clocks may differ by as much as this stands for.
const SEQUENCES_LEFT_OUT_MIN: u64 = 120 * SEQUENCES_PER_SECOND_MAX;

/// Make the data directory of a node from a backup
///
/// The node must not be running. Realities that are there already are not touched: their names
/// must be free.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon restore /backups/arqon --data /var/lib/arqonbus
  arqon restore /backups/arqon --data /tmp/look --tenant dev --only main

Checks every file first. Restored logs go on with higher sequences than the lost node can have
given out since the backup; the gap shows in no reader but as a larger number. Realities that the
node no longer had at the last backup are restored only when they are named with --only.")]
pub(crate) struct Arguments {
    /// The directory that `arqon backup` has written to
    directory: PathBuf,

    /// The data directory of the node to be
    #[arg(long)]
    data: PathBuf,

    /// Only this tenant
    #[arg(long)]
    tenant: Option<String>,

    /// Only this reality; may be given several times
    #[arg(long)]
    only: Vec<String>,

    /// File with the master keys, as the node's log.master_key_file: needed for encrypted logs
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

/// One log to be restored.
struct Task {
    manifest: BackupManifest,
    reality: BackupReality,
    from: PathBuf,
    /// What it is called while it is not whole.
    building: PathBuf,
    to: PathBuf,
}

pub(crate) fn run(output: Output, arguments: &Arguments) -> anyhow::Result<()> {
    let tasks = tasks(arguments)?;
    let files = tasks.iter().flat_map(|task| &task.reality.files);
    let total: u64 = files.map(|file| file.bytes).sum();
    check(&tasks, total)?;
    let encryption = match &arguments.key_file {
        Some(file) => Some(Encryption {
            masters: Arc::new(MasterKeys::read(file)?),
            // The node decides what becomes of new ones.
            new_segments: NewSegments::Plain,
            entropy: Arc::new(OsEntropy),
        }),
        None => None,
    };
    let node = take(&arguments.data, &tasks)?;
    let unfinished = arguments.data.join(UNFINISHED_RESTORE);
    remove_if_there(&unfinished)?;
    let mut progress = Progress::of_bytes(total, "files copied,");
    let mut restored = Vec::new();
    for task in &tasks {
        let next = restore(task, node.node(), encryption.as_ref(), &mut progress)
            .with_context(|| format!("restoring {}", task.to.display()))?;
        restored.push(json!({
            "tenant": task.manifest.tenant,
            "reality": task.reality.name,
            "first": task.reality.first,
            "last": task.reality.end.saturating_sub(1),
            "goes_on_with": next.get(),
        }));
    }
    give_names(&tasks)?;
    remove_if_there(&unfinished)?;
    drop(progress);
    table::print(&json!(restored), output)
}

fn remove_if_there(directory: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| format!("removing {}", directory.display())),
    }
}

/// When all is built: a tenant that is not there yet comes at once, with all of its realities.
fn give_names(tasks: &[Task]) -> anyhow::Result<()> {
    for task in tasks.iter().filter(|task| task.building.exists()) {
        let (Some(built), Some(tenant)) = (task.building.parent(), task.to.parent()) else {
            continue;
        };
        let (from, to) = if tenant.exists() {
            (task.building.as_path(), task.to.as_path())
        } else {
            (built, tenant)
        };
        fsync::rename(from, to).with_context(|| format!("naming {}", to.display()))?;
    }
    Ok(())
}

fn tasks(arguments: &Arguments) -> anyhow::Result<Vec<Task>> {
    let directory = &arguments.directory;
    let listing = || format!("listing {}", directory.display());
    let mut tasks = Vec::new();
    let mut there = Vec::new();
    let mut folders = Vec::new();
    let entries = fs::read_dir(directory)
        .map_err(|error| Failure::no_input(format!("{}: {error}", listing())))?;
    for entry in entries {
        folders.push(entry.with_context(listing)?.path());
    }
    folders.sort();
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        let Some(manifest) = read_manifest(folder)? else {
            continue;
        };
        let names = manifest.realities.iter();
        there.extend(names.map(|one| format!("{}/{}", manifest.tenant, one.name)));
        if arguments
            .tenant
            .as_ref()
            .is_some_and(|only| *only != manifest.tenant)
        {
            continue;
        }
        let tenant = safe_name(&manifest.tenant)?.to_owned();
        for reality in &manifest.realities {
            let named = arguments.only.contains(&reality.name);
            if !named && (!arguments.only.is_empty() || reality.kept_from > 0) {
                continue;
            }
            let name = safe_name(&reality.name)?;
            let to = arguments.data.join(&tenant).join(name);
            tasks.push(Task {
                manifest: manifest.clone(),
                from: folder.join(name),
                building: arguments
                    .data
                    .join(UNFINISHED_RESTORE)
                    .join(&tenant)
                    .join(name),
                to,
                reality: reality.clone(),
            });
        }
    }
    if there.is_empty() {
        let message = format!(
            "{} holds no backup: `arqon backup DIR` writes DIR/TENANT/{}",
            directory.display(),
            crate::backup::MANIFEST
        );
        return Err(Failure::no_input(message).into());
    }
    let missing = |name: &&String| tasks.iter().all(|task: &Task| task.reality.name != **name);
    let missing = arguments.only.iter().find(missing);
    if tasks.is_empty() || missing.is_some() {
        let wanted = match (missing, &arguments.tenant) {
            (Some(name), Some(tenant)) => format!("reality {name:?} of tenant {tenant:?}"),
            (Some(name), None) => format!("reality {name:?}"),
            (None, Some(tenant)) => format!("a reality that tenant {tenant:?} still had"),
            (None, None) => "a reality that its node still had".to_owned(),
        };
        let message = format!(
            "{} holds no backup of {wanted}; it holds {}; nothing was restored",
            directory.display(),
            there.join(", ")
        );
        return Err(Failure::no_input(message).into());
    }
    Ok(tasks)
}

/// Nothing is written before all of it is known to be good.
fn check(tasks: &[Task], total: u64) -> anyhow::Result<()> {
    let mut progress = Progress::of_bytes(total, "files checked,");
    for task in tasks {
        if task.to.exists() {
            let message = format!(
                "{} is there already; choose another --data, or delete that reality first",
                task.to.display()
            );
            return Err(Failure::failed(message).into());
        }
        for file in &task.reality.files {
            let path = task.from.join(safe_name(&file.stored_as)?);
            let sum = sha256_of(&path, |read| progress.add_sized(0, read))
                .map_err(|error| Failure::no_input(format!("{}: {error}", path.display())))?;
            if sum != file.sha256 {
                let message = format!(
                    "{} is not what was backed up: its SHA-256 differs from the manifest's; \
                     nothing was restored",
                    path.display()
                );
                return Err(Failure::data(message).into());
            }
            progress.add(1);
        }
    }
    Ok(())
}

/// Takes the data directory, which gets the name of the node that was backed up if it has none.
fn take(data: &Path, tasks: &[Task]) -> anyhow::Result<DataDir> {
    fsync::create_dir_all(data).with_context(|| format!("making {}", data.display()))?;
    let id = data.join("node.id");
    if let (false, Some(task)) = (id.exists(), tasks.first()) {
        let name = safe_name(&task.manifest.node)?;
        fsync::replace(&id, format!("{name}\n").as_bytes())
            .with_context(|| format!("writing {}", id.display()))?;
    }
    Ok(DataDir::take(&RealStorage, data)?)
}

/// Returns the sequence that the log goes on with.
fn restore(
    task: &Task,
    node: &NodeId,
    encryption: Option<&Encryption>,
    progress: &mut Progress,
) -> anyhow::Result<Sequence> {
    let building = &task.building;
    fsync::create_dir_all(building)?;
    for file in &task.reality.files {
        let from = task.from.join(safe_name(&file.stored_as)?);
        let to = building.join(safe_name(&file.name)?);
        fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
        let copy = File::options().write(true).open(&to)?;
        if !file.sealed && file.capacity > file.bytes {
            copy.set_len(file.capacity)?;
        }
        copy.sync_all()?;
        progress.add_sized(1, file.bytes);
    }
    fsync::dir(building)?;
    go_on(task, node, encryption)
}

/// Opens the copy as the node will, checks all of it, and leaves out what may have been given out.
fn go_on(task: &Task, node: &NodeId, encryption: Option<&Encryption>) -> anyhow::Result<Sequence> {
    let clock = Arc::new(WallClock);
    let taken_at = match task.reality.kept_from {
        0 => task.manifest.taken_at,
        kept_from => kept_from,
    };
    let passed_s = clock.now().0.saturating_sub(taken_at) / 1_000_000;
    let left_out = passed_s
        .saturating_mul(SEQUENCES_PER_SECOND_MAX)
        .saturating_add(SEQUENCES_LEFT_OUT_MIN);
    let next = Sequence::at_least_first(task.reality.end.saturating_add(left_out));
    let environment = Environment {
        storage: Arc::new(RealStorage),
        clock,
        committer: Committer::start(1),
    };
    let writer = Writer {
        node: node.number(),
        clock_key: format!("{}/{}", node.name(), task.reality.name),
    };
    let options = Options {
        encryption: encryption.cloned(),
        ..Options::default()
    };
    let (log, _loss) = Log::open(
        &environment,
        &task.building,
        &writer,
        &options,
        Arc::new(Nobody),
    )?;
    let end = log.bounds().durable_end.get();
    if let Some(reason) = log.status().read_only {
        anyhow::bail!("the copy is damaged: {reason}");
    }
    anyhow::ensure!(
        end >= task.reality.end,
        "the copy ends before sequence {end}, the backup before {}",
        task.reality.end
    );
    let scrubbed = log.scrub(&Unthrottled)?;
    let damages = scrubbed.map_or_else(Vec::new, |found| found.damages);
    anyhow::ensure!(damages.is_empty(), "the copy is damaged: {}", damages[0]);
    let went_on: Result<(), AppendError> = log.skip_to(next).and_then(|()| log.close());
    went_on?;
    Ok(next)
}

/// Nobody reads along.
#[derive(Debug)]
struct Nobody;

impl Observer for Nobody {
    fn written(&self, _group: &arqonbus::log::Chunk) {}
    fn durable(&self, _durable_end: Sequence) {}
    fn poisoned(&self, reason: &str) {
        tracing::error!(reason, "the restored log cannot be written");
    }
}
