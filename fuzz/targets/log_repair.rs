//! Target: a log's directory made of any bytes, repaired.
//!
//! What must hold:
//! - a repair ends, and says what it has done or why it cannot;
//! - a log that it calls sound is not changed, but for a header that its copy has mended;
//! - afterwards nothing is damaged: a second repair finds nothing to do;
//! - the log opens, and takes writes;
//! - where its segments hold only what a writer makes, every record that could be read before can
//!   be read after, in order, and scrubbing finds nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arqonbus::log::offline::Directory;
use arqonbus::log::segment::HEADER_BLOCK_BYTES;
use arqonbus::log::{Error, Log, LossStatement, Unthrottled};

use super::archive::{self, DIR};
use super::disk::Disk;
use super::log_directory::{is_plausible, scrub};
use super::opened::{Opened, environment, options, writer};

/// See the module.
///
/// # Panics
/// Something does not hold.
pub fn log_repair(data: &[u8]) {
    let disk = archive::unpack(data);
    let directory = Directory::open(&disk, Path::new(DIR)).expect("a sound disk");
    let plausible = is_plausible(&directory, &disk);
    let before = match Opened::new(&disk.copy()) {
        Ok(opened) => opened.read_all(2000, plausible),
        Err(Error::Version { .. } | Error::Key { .. }) => {
            assert!(repair(&disk).is_err(), "a log that cannot be opened");
            return;
        }
        Err(error) => panic!("a sound disk, but {error:?}"),
    };

    let files = disk.files();
    let repaired = match repair(&disk) {
        // A number from which nothing can be told.
        Err(Error::Damaged(damage)) => {
            assert_unchanged(&files, &disk.files());
            assert_eq!(damage.what, "sequences of a segment to be repaired");
            return;
        }
        repaired => repaired.expect("a sound disk"),
    };
    match &repaired {
        None => assert_unchanged(&files, &disk.files()),
        Some(statement) => {
            let files = disk.files();
            assert!(files.contains_key(&statement.path), "{statement:?}");
            assert!(!statement.damages.is_empty(), "{statement:?}");
            for aside in &statement.quarantined {
                let len = files[&aside.copy].len() as u64;
                assert_eq!(len, aside.range.end - aside.range.start, "{aside:?}");
            }
        }
    }
    let again = repair(&disk).expect("a sound disk");
    assert_eq!(again, None, "after {repaired:?}");

    let opened = Opened::new(&disk).expect("a log that was repaired");
    assert_eq!(opened.log.status().read_only, None, "after {repaired:?}");
    opened.ask();
    let after = opened.read_all(2000, plausible);
    if plausible {
        let is_kept = |(at, record)| after.get(at) == Some(record);
        assert!(
            before.iter().all(is_kept),
            "lost by the repair: {:?}",
            before
                .iter()
                .find(|&(at, record)| after.get(at) != Some(record))
        );
        assert_eq!(scrub(&opened.log), 0, "after {repaired:?}");
    }
    let appended = opened.try_append("fuzz.appended", b"kept");
    opened.close();
    let Some(appended) = appended else { return };
    let last = before.keys().next_back();
    assert!(
        last < Some(&appended) || !plausible,
        "{appended} is used again"
    );
    let again = Opened::new(&disk).expect("a log that was closed");
    assert!(
        again.statement.is_none() || !plausible,
        "after a clean close: {:?}",
        again.statement
    );
    assert!(!again.read_at(appended).is_empty(), "{appended}");
    again.close();
}

fn repair(disk: &Disk) -> Result<Option<LossStatement>, Error> {
    Log::repair(
        &environment(disk),
        Path::new(DIR),
        &writer(),
        &options(),
        &Unthrottled,
    )
}

/// The lock is made, and a first header may be put back from its copy.
fn assert_unchanged(before: &BTreeMap<PathBuf, Vec<u8>>, after: &BTreeMap<PathBuf, Vec<u8>>) {
    let block = usize::try_from(HEADER_BLOCK_BYTES).expect("small");
    let same = |path: &PathBuf, bytes: &Vec<u8>| {
        before.get(path).is_some_and(|old| {
            let behind = |bytes: &Vec<u8>| bytes.get(block..).map(<[u8]>::to_vec);
            old == bytes
                || path.extension().is_some_and(|end| end == "seg")
                    && old.len() == bytes.len()
                    && behind(old) == behind(bytes)
        })
    };
    for (path, bytes) in after.iter().filter(|(path, _)| !path.ends_with("LOCK")) {
        assert!(same(path, bytes), "{} was changed", path.display());
    }
    assert!(before.keys().all(|path| after.contains_key(path)));
}
