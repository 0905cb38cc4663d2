//! The loss statement: what an unclean end has cost, exactly, in a file of its own.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::prepare::remove_if_there;
use super::status::LossStatement;
use super::storage::Storage;

/// Where the statement of `epoch` stands.
pub(super) fn path(dir: &Path, epoch: u32) -> PathBuf {
    dir.join(format!("loss-{epoch:010}.json"))
}

/// The epoch in the name of a statement's file.
fn epoch_of(name: &str) -> Option<u32> {
    name.strip_prefix("loss-")?
        .strip_suffix(".json")?
        .parse()
        .ok()
}

/// The last epoch that has a statement among the files called `names`; 0 if none has.
pub(super) fn last_epoch(names: &[String]) -> u32 {
    names
        .iter()
        .filter_map(|name| epoch_of(name))
        .max()
        .unwrap_or(0)
}

/// Writes `statement` to its file. Durable on `Ok`.
pub(super) fn write(
    storage: &dyn Storage,
    dir: &Path,
    statement: &LossStatement,
) -> io::Result<()> {
    let temporary = dir.join("loss.tmp");
    remove_if_there(storage, &temporary)?;
    let file = storage.create(&temporary)?;
    let mut text = serde_json::to_string_pretty(&statement.to_json()).map_err(io::Error::other)?;
    text.push('\n');
    file.write_at(0, text.as_bytes())?;
    file.sync_data()?;
    storage.rename(&temporary, &statement.path)?;
    storage.sync_dir(dir)
}

impl LossStatement {
    /// The statement for people.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let range = |range: Option<(super::Sequence, super::Sequence)>| {
            range.map(|(first, last)| json!({ "first": first.get(), "last": last.get() }))
        };
        json!({
            "epoch": self.epoch,
            "durable_through": self.durable_through,
            "discarded_bytes": self.discarded_bytes,
            "discarded": range(self.discarded),
            "possibly_acknowledged_as_written": self.possibly_acknowledged,
            "skipped": range(self.skipped),
            "damages": self.damages.iter().map(|damage| json!({
                "file": damage.path.display().to_string(),
                "offset": damage.offset.0,
                "what": damage.what,
                "expected": damage.expected,
                "found": damage.found,
            })).collect::<Vec<_>>(),
            "quarantined": self.quarantined.iter().map(|put_aside| json!({
                "file": put_aside.path.display().to_string(),
                "first_byte": put_aside.range.start,
                "end_byte": put_aside.range.end,
                "copy": put_aside.copy.display().to_string(),
            })).collect::<Vec<_>>(),
        })
    }
}
