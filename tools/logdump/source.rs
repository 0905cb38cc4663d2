//! Finds the logs that the arguments mean.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use arqonbus::log::offline::{Directory, SegmentFile};
use arqonbus::log::scan::Scanned;
use arqonbus::log::{MasterKeys, RealStorage};

use crate::Common;
use crate::failure::Usage;
use crate::locked::Lock;

/// A data directory holds tenants, these hold realities, these hold segments.
const DEPTH_MAX: usize = 2;
/// The one that the node reads.
const KEYS_VARIABLE: &str = "ARQONBUS_MASTER_KEYS";

/// One log and the names that its directory gives it.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) tenant: String,
    pub(crate) reality: String,
    pub(crate) log: Directory,
    /// Why some of its segments cannot be decrypted, if so.
    pub(crate) lock: Option<Lock>,
    /// All of a directory was looked at, not a single file.
    pub(crate) is_whole: bool,
}

impl Source {
    pub(crate) fn bytes(&self) -> u64 {
        self.log
            .segments
            .iter()
            .map(|segment| segment.bytes.len() as u64)
            .sum()
    }
}

/// Opens every log that `paths` name, in order.
pub(crate) fn open(paths: &[PathBuf], common: &Common) -> anyhow::Result<Vec<Source>> {
    let masters = masters(common)?;
    let masters = masters.as_ref();
    let mut sources = Vec::new();
    for path in paths {
        let before = sources.len();
        if path.is_file() {
            if is_index(path) {
                let segment = path.with_extension("seg");
                return Err(Usage(format!(
                    "{} is an index file; the records are in {}",
                    path.display(),
                    segment.display()
                ))
                .into());
            }
            let log = Directory::of_file(&RealStorage, path)?;
            if log.segments.iter().any(is_no_segment) {
                bail!(
                    "{} is not a segment: it has no segment's name, does not begin with ARQONSEG, and holds no record",
                    path.display()
                );
            }
            let dir = path.parent().unwrap_or(Path::new(""));
            sources.push(Source {
                is_whole: false,
                ..named(dir, log, common, masters)?
            });
        } else if path.is_dir() {
            find(path, DEPTH_MAX, common, masters, &mut sources)?;
        } else {
            return Err(Usage(format!("{}: no such file or directory", path.display())).into());
        }
        if sources.len() == before {
            let wanted =
                "a log's directory (DIR/<tenant>/<reality>), a data directory, or a .seg file";
            return Err(Usage(format!(
                "{}: no segment here; give {wanted}",
                path.display()
            ))
            .into());
        }
    }
    Ok(sources)
}

/// Whether `path` is named as index files are.
pub(crate) fn is_index(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "idx")
}

/// A damaged segment still has a name, its first bytes, or some good record.
fn is_no_segment(segment: &SegmentFile) -> bool {
    const MAGIC: &[u8] = b"ARQONSEG";
    let named = segment.path.extension().is_some_and(|kind| kind == "seg");
    let holds_something = || {
        segment.scan().any(|scanned| match scanned {
            Scanned::Batch(_) => true,
            Scanned::Damaged(region) => region.salvaged().next().is_some(),
            Scanned::End(_) => false,
        })
    };
    !named && !segment.bytes.starts_with(MAGIC) && !holds_something()
}

fn find(
    dir: &Path,
    depth: usize,
    common: &Common,
    masters: Option<&MasterKeys>,
    sources: &mut Vec<Source>,
) -> anyhow::Result<()> {
    let log = Directory::open(&RealStorage, dir)?;
    if !log.segments.is_empty() {
        sources.push(named(dir, log, common, masters)?);
        return Ok(());
    }
    if depth == 0 {
        return Ok(());
    }
    let entries = std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    let mut below = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            below.push(entry.path());
        }
    }
    below.sort_unstable();
    for dir in below {
        find(&dir, depth - 1, common, masters, sources)?;
    }
    Ok(())
}

/// The keys that were given, in a file or in the environment.
fn masters(common: &Common) -> anyhow::Result<Option<MasterKeys>> {
    if let Some(file) = &common.key_file {
        return Ok(Some(MasterKeys::read(file)?));
    }
    let Ok(text) = std::env::var(KEYS_VARIABLE) else {
        return Ok(None);
    };
    let keys = MasterKeys::parse(KEYS_VARIABLE, &text.replace(',', "\n"))?;
    Ok(Some(keys))
}

fn named(
    dir: &Path,
    mut log: Directory,
    common: &Common,
    masters: Option<&MasterKeys>,
) -> anyhow::Result<Source> {
    let lock = match log.unlock_with(&RealStorage, masters) {
        Ok(None) => None,
        Ok(Some(error)) | Err(error) => Some(Lock::of(error)?),
    };
    let whole = std::path::absolute(dir).unwrap_or_else(|_unknown| dir.to_owned());
    let mut names = whole.components().rev().filter_map(|part| match part {
        std::path::Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    });
    let (reality, tenant) = (
        names.next().unwrap_or_default(),
        names.next().unwrap_or_default(),
    );
    Ok(Source {
        tenant: common.tenant.clone().unwrap_or(tenant),
        reality: common.reality.clone().unwrap_or(reality),
        log,
        lock,
        is_whole: true,
    })
}
