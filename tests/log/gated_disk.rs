//! A simulated disk on which the next segment is got ready only when the test lets it, and whose
//! flushes take a while.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use arqonbus::log::{Access, Storage, StorageFile, StorageLock};
use bytes::Bytes;

use crate::sim_storage::SimStorage;

/// Name of a segment that is being got ready.
pub(crate) const PREPARING: &str = "preparing.tmp";
/// How long a flush takes.
const FLUSH: Duration = Duration::from_millis(1);

/// Holds up whoever gets a segment ready.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    closed: bool,
    waiting: bool,
}

impl Gate {
    pub(crate) fn close(&self) {
        self.state.lock().expect("no panic").closed = true;
    }

    pub(crate) fn open(&self) {
        self.state.lock().expect("no panic").closed = false;
        self.changed.notify_all();
    }

    /// Until somebody stands before the closed gate.
    pub(crate) fn wait_for_somebody(&self) {
        let state = self.state.lock().expect("no panic");
        let patience = Duration::from_secs(20);
        let waited = self
            .changed
            .wait_timeout_while(state, patience, |state| !state.waiting);
        let (state, _) = waited.expect("no panic");
        assert!(state.waiting, "nobody gets a segment ready");
    }

    fn pass(&self) {
        let mut state = self.state.lock().expect("no panic");
        while state.closed {
            state.waiting = true;
            self.changed.notify_all();
            state = self.changed.wait(state).expect("no panic");
        }
        state.waiting = false;
    }
}

/// The disk.
#[derive(Clone, Debug)]
pub(crate) struct GatedDisk {
    pub(crate) disk: SimStorage,
    pub(crate) gate: Arc<Gate>,
}

#[derive(Debug)]
struct GatedFile {
    file: Box<dyn StorageFile>,
    gate: Option<Arc<Gate>>,
}

impl GatedDisk {
    pub(crate) fn new() -> Self {
        Self {
            disk: SimStorage::new(1),
            gate: Arc::default(),
        }
    }
}

impl Storage for GatedDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        let gate = path.ends_with(PREPARING).then(|| Arc::clone(&self.gate));
        let file = self.disk.create(path)?;
        Ok(Box::new(GatedFile { file, gate }))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn StorageFile>> {
        let file = self.disk.open(path, access)?;
        Ok(Box::new(GatedFile { file, gate: None }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.hard_link(from, to)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path, owner: &str) -> io::Result<Box<dyn StorageLock>> {
        self.disk.lock(path, owner)
    }

    fn boot_id(&self) -> io::Result<String> {
        self.disk.boot_id()
    }
}

impl StorageFile for GatedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.file.read(offset, len)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // Later, under its own name, the file takes records.
        let zeros = bytes.iter().all(|byte| *byte == 0);
        if let Some(gate) = self.gate.as_ref().filter(|_| zeros) {
            gate.pass();
        }
        self.file.write_at(offset, bytes)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if let Some(gate) = &self.gate {
            gate.pass();
        }
        self.file.allocate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        std::thread::sleep(FLUSH);
        self.file.sync_data()
    }

    fn is_shared(&self) -> bool {
        self.file.is_shared()
    }

    fn links(&self) -> io::Result<u64> {
        self.file.links()
    }

    fn path(&self) -> &Path {
        self.file.path()
    }
}
