//! A disk in memory that loses what was not flushed.
//!
//! Owns the difference between what a process sees (the page cache) and what the disk holds, and
//! the faults that a run is to meet. Knows nothing of the log's format.
//!
//! The model, deliberately harsher than any one file system:
//! - a write is certain only after `sync_data` of its file; before that each 512-byte sector of it
//!   reaches the disk or not, on its own, whatever the order of the writes;
//! - a new length may arrive without the bytes, and the bytes without the length;
//! - names are certain only after `sync_dir`, whatever was synced in the file; without it any
//!   prefix of the changes to a directory arrives;
//! - after a failed `sync_data` the unsynced bytes have randomly arrived or not, the page cache
//!   still shows them, and later syncs succeed without writing them (Linux since ever; Rebello et
//!   al., ATC'20);
//! - the process sees its own changes at once, and so does the next process until the machine
//!   reboots, except that bytes a failed sync has lost may be evicted in between.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arqonbus::log::{Access, Storage, StorageFile, StorageLock};
use bytes::Bytes;

use crate::dice::Dice;

const SECTOR: usize = 512;

/// Errors of the operating system that the disk can be told to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    Io,
    NoSpace,
    TooManyFiles,
    ReadOnlyMount,
}

impl Fault {
    pub(crate) const ALL: [Self; 4] = [
        Self::Io,
        Self::NoSpace,
        Self::TooManyFiles,
        Self::ReadOnlyMount,
    ];

    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::Io => 5,
            Self::NoSpace => 28,
            Self::TooManyFiles => 24,
            Self::ReadOnlyMount => 30,
        })
    }
}

/// A handle on one simulated machine. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct SimStorage {
    disk: Arc<Mutex<Disk>>,
    /// Every call takes a while, so that threads get in each other's way.
    is_slow: bool,
}

#[derive(Debug)]
struct Disk {
    boot: u64,
    directories: BTreeSet<PathBuf>,
    inodes: BTreeMap<u64, Inode>,
    inodes_made: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    name_changes: BTreeMap<PathBuf, Vec<NameChange>>,
    locks: BTreeMap<PathBuf, String>,
    dice: Dice,
    plan: Plan,
    /// Calls so far, failed ones included.
    calls: u64,
    /// Numbers of the calls that were syncs of a file or a directory.
    sync_calls: Vec<u64>,
    trace: crc32fast::Hasher,
    power_is_off: bool,
    /// Everything that was ever handed over for writing, if somebody wants to know.
    written: Option<Arc<Mutex<Vec<Written>>>>,
}

/// A write, whether it succeeded or not.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    /// Which file, whatever its name was.
    pub(crate) inode: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

/// What is to go wrong, by number of the call.
#[derive(Clone, Debug, Default)]
struct Plan {
    cut_after: Option<u64>,
    fail_call: Option<(u64, Fault)>,
    fail_from: Option<(u64, Fault)>,
    fail_sync: Option<(usize, Fault)>,
    bytes_max: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What is certainly on the disk.
    durable: Vec<u8>,
    /// Changes since the last sync, oldest first.
    unsynced: Vec<Change>,
    /// What the process sees.
    cached: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(PathBuf, u64),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

/// How much of what was not flushed arrives.
#[derive(Clone, Copy, Debug)]
enum Arrival {
    Nothing,
    Everything,
    /// Each change arrives whole with this chance, the others are torn or lost.
    Some {
        percent: u64,
    },
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write {
                offset,
                bytes: written,
            } => overwrite(bytes, *offset, written),
            Self::Length(len) => bytes.resize(*len, 0),
        }
    }

    fn arrive(&self, on_disk: &mut Vec<u8>, arrival: Arrival, dice: &mut Dice) {
        let percent = match arrival {
            Arrival::Nothing => return,
            Arrival::Everything => return self.apply(on_disk),
            Arrival::Some { percent } => percent,
        };
        if dice.chance(percent) {
            return self.apply(on_disk);
        }
        let Self::Write { offset, bytes } = self else {
            return;
        };
        if dice.chance(50) {
            for (at, sector) in sectors(*offset, bytes) {
                if dice.chance(50) {
                    overwrite(on_disk, at, sector);
                }
            }
        }
        if dice.chance(20) && on_disk.len() < offset + bytes.len() {
            on_disk.resize(offset + bytes.len(), 0);
        }
    }
}

fn overwrite(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    let end = offset + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(written);
}

/// Cuts a write at the sector boundaries of its file.
fn sectors(offset: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut start = 0;
    std::iter::from_fn(move || {
        if start == bytes.len() {
            return None;
        }
        let at = offset + start;
        let len = (SECTOR - at % SECTOR).min(bytes.len() - start);
        start += len;
        Some((at, &bytes[start - len..start]))
    })
}

impl Inode {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.cached);
        self.unsynced.push(change);
    }

    fn settle(&mut self, arrival: Arrival, dice: &mut Dice) {
        for change in std::mem::take(&mut self.unsynced) {
            change.arrive(&mut self.durable, arrival, dice);
        }
    }

    /// Clean pages whose bytes a failed sync has lost may be read anew from the disk.
    fn evict_lost(&mut self, dice: &mut Dice) {
        let mut known = self.durable.clone();
        for change in &self.unsynced {
            change.apply(&mut known);
        }
        let len = self.cached.len();
        known.resize(len, 0);
        for start in (0..len).step_by(SECTOR) {
            let sector = start..(start + SECTOR).min(len);
            if self.cached[sector.clone()] != known[sector.clone()] && dice.chance(50) {
                self.cached[sector.clone()].copy_from_slice(&known[sector]);
            }
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Link(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Unlink(path) => {
                names.remove(path);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }
}

/// What a call that was let in must still do.
#[derive(Clone, Copy)]
enum Entry {
    /// Do it and answer.
    Go,
    /// Power fails while it is under way: do it, without any promise, and fail.
    Last,
    /// Fail, having done nothing (or, if it is a write, some of it).
    Fail(Fault),
}

impl Disk {
    fn enter(&mut self, operation: &str, path: &Path, detail: u64) -> io::Result<Entry> {
        if self.power_is_off {
            return Err(power_is_off());
        }
        self.calls += 1;
        self.trace.update(operation.as_bytes());
        self.trace.update(path.as_os_str().as_encoded_bytes());
        self.trace.update(&detail.to_le_bytes());
        let is_sync = operation.starts_with("sync");
        if is_sync {
            self.sync_calls.push(self.calls);
        }
        let call = self.calls;
        if self.plan.cut_after.is_some_and(|last| call > last) {
            self.power_is_off = true;
            return Ok(Entry::Last);
        }
        if let Some((_, fault)) = self.plan.fail_call.filter(|(n, _)| *n == call) {
            return Ok(Entry::Fail(fault));
        }
        if let Some((_, fault)) = self.plan.fail_from.filter(|(n, _)| call >= *n) {
            return Ok(Entry::Fail(fault));
        }
        if let Some((_, fault)) = self
            .plan
            .fail_sync
            .filter(|(n, _)| is_sync && *n == self.sync_calls.len())
        {
            return Ok(Entry::Fail(fault));
        }
        Ok(Entry::Go)
    }

    fn look_up(&self, path: &Path) -> io::Result<u64> {
        self.names
            .get(path)
            .copied()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{}", path.display())))
    }

    fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes
            .get_mut(&inode)
            .expect("an inode outlives its names")
    }

    fn change_name(&mut self, change: NameChange, path: &Path) {
        change.apply(&mut self.names);
        let directory = path
            .parent()
            .expect("a file lies in a directory")
            .to_owned();
        self.name_changes.entry(directory).or_default().push(change);
    }

    fn link(&mut self, path: &Path) -> io::Result<u64> {
        let directory = path.parent().expect("a file lies in a directory");
        if !self.directories.contains(directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if self.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.inodes_made += 1;
        let inode = self.inodes_made;
        self.inodes.insert(inode, Inode::default());
        self.change_name(NameChange::Link(path.to_owned(), inode), path);
        Ok(inode)
    }

    fn used(&self) -> u64 {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        named
            .iter()
            .map(|inode| self.inodes[inode].cached.len() as u64)
            .sum()
    }

    /// How many more bytes a file of `inode` may hold.
    fn room(&self, inode: u64) -> usize {
        let Some(bytes_max) = self.plan.bytes_max else {
            return usize::MAX;
        };
        let free = bytes_max.saturating_sub(self.used());
        self.inodes[&inode].cached.len() + usize::try_from(free).expect("fits")
    }

    fn image(&self, boot: u64) -> Self {
        Self {
            boot,
            directories: self.directories.clone(),
            inodes: self.inodes.clone(),
            inodes_made: self.inodes_made,
            names: self.names.clone(),
            durable_names: self.durable_names.clone(),
            name_changes: self.name_changes.clone(),
            locks: BTreeMap::new(),
            dice: self.dice.clone(),
            plan: self.plan.clone(),
            calls: self.calls,
            sync_calls: self.sync_calls.clone(),
            trace: self.trace.clone(),
            power_is_off: false,
            written: self.written.clone(),
        }
    }

    fn reboot(&mut self, arrival: impl Fn(&mut Dice) -> Arrival) {
        let mut dice = self.dice.fork();
        self.plan = Plan {
            bytes_max: self.plan.bytes_max,
            ..Plan::default()
        };
        for changes in std::mem::take(&mut self.name_changes).into_values() {
            let arrived = match arrival(&mut dice) {
                Arrival::Nothing => 0,
                Arrival::Everything => changes.len(),
                Arrival::Some { .. } => dice.index(changes.len() + 1),
            };
            for change in &changes[..arrived] {
                change.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|inode, _| named.contains(inode));
        for inode in self.inodes.values_mut() {
            let arrival = arrival(&mut dice);
            inode.settle(arrival, &mut dice);
            inode.cached.clone_from(&inode.durable);
        }
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("the simulated power is off")
}

impl SimStorage {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            disk: Arc::new(Mutex::new(Disk {
                boot: 1,
                directories: BTreeSet::new(),
                inodes: BTreeMap::new(),
                inodes_made: 0,
                names: BTreeMap::new(),
                durable_names: BTreeMap::new(),
                name_changes: BTreeMap::new(),
                locks: BTreeMap::new(),
                dice: Dice::new(seed),
                plan: Plan::default(),
                calls: 0,
                sync_calls: Vec::new(),
                trace: crc32fast::Hasher::new(),
                power_is_off: false,
                written: None,
            })),
            is_slow: false,
        }
    }

    /// A disk with a latency, for tests with threads.
    pub(crate) fn slow(seed: u64) -> Self {
        Self {
            is_slow: true,
            ..Self::new(seed)
        }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        if self.is_slow {
            std::thread::sleep(Duration::from_micros(50));
        }
        self.disk
            .lock()
            .expect("no call panics while it holds the disk")
    }

    fn successor(&self, boots: u64) -> (Self, Disk) {
        let mut old = self.disk();
        old.power_is_off = true;
        let image = old.image(old.boot + boots);
        let shell = Self {
            disk: Arc::new(Mutex::new(old.image(old.boot + boots))),
            is_slow: false,
        };
        (shell, image)
    }

    fn after_reboot(&self, arrival: impl Fn(&mut Dice) -> Arrival, seed: Option<u64>) -> Self {
        let (next, mut image) = self.successor(1);
        if let Some(seed) = seed {
            image.dice = Dice::new(seed);
        }
        image.reboot(arrival);
        *next.disk() = image;
        next
    }

    /// The machine after power was lost now, one of the many ways it can look. This one is dead
    /// from here on: every call fails.
    pub(crate) fn power_cut(&self, seed: u64) -> Self {
        let percent = *Dice::new(seed).pick(&[0, 20, 50, 80, 100]);
        let some = Arrival::Some { percent };
        self.after_reboot(
            |dice| *dice.pick(&[some, some, some, Arrival::Nothing, Arrival::Everything]),
            Some(seed),
        )
    }

    /// The machine after power was lost now and nothing had arrived that was not flushed.
    pub(crate) fn power_cut_losing_all(&self) -> Self {
        self.after_reboot(|_| Arrival::Nothing, None)
    }

    /// The machine after the process was killed now: the page cache survives, and so does what is
    /// planned to go wrong.
    pub(crate) fn process_kill(&self) -> Self {
        let (next, mut image) = self.successor(0);
        let mut dice = image.dice.fork();
        for inode in image.inodes.values_mut() {
            inode.evict_lost(&mut dice);
        }
        *next.disk() = image;
        next
    }

    /// A second machine with the same bytes, certain and uncertain; this one goes on.
    pub(crate) fn copy(&self) -> Self {
        let old = self.disk();
        Self {
            disk: Arc::new(Mutex::new(old.image(old.boot))),
            is_slow: false,
        }
    }

    /// Power fails with the call after `calls` more of them.
    pub(crate) fn cut_after(&self, calls: u64) {
        let mut disk = self.disk();
        disk.plan.cut_after = Some(disk.calls + calls);
    }

    /// The `n`-th call from now (1 is the next one) fails, once.
    pub(crate) fn fail_call(&self, n: u64, fault: Fault) {
        let mut disk = self.disk();
        disk.plan.fail_call = Some((disk.calls + n, fault));
    }

    /// The `n`-th call from now and all after it fail, until [`SimStorage::heal`].
    pub(crate) fn fail_from(&self, n: u64, fault: Fault) {
        let mut disk = self.disk();
        disk.plan.fail_from = Some((disk.calls + n, fault));
    }

    /// The `n`-th sync from now fails, once; what it should have flushed is randomly lost.
    pub(crate) fn fail_sync(&self, n: usize) {
        let mut disk = self.disk();
        disk.plan.fail_sync = Some((disk.sync_calls.len() + n, Fault::Io));
    }

    /// Files may take this much room together from now on.
    pub(crate) fn limit_bytes(&self, bytes_max: u64) {
        self.disk().plan.bytes_max = Some(bytes_max);
    }

    /// Nothing goes wrong any more, except that lost power stays lost.
    pub(crate) fn heal(&self) {
        self.disk().plan = Plan::default();
    }

    /// From now on all writes are noted, of this machine and of what becomes of it.
    pub(crate) fn note_writes(&self) {
        self.disk().written = Some(Arc::default());
    }

    /// What was noted.
    pub(crate) fn written(&self) -> Vec<Written> {
        let disk = self.disk();
        let written = disk.written.as_ref().expect("writes are being noted");
        written
            .lock()
            .expect("notes are taken without panic")
            .clone()
    }

    pub(crate) fn power_is_off(&self) -> bool {
        self.disk().power_is_off
    }

    pub(crate) fn calls(&self) -> u64 {
        self.disk().calls
    }

    /// Which calls were syncs, counted from 1.
    pub(crate) fn sync_calls(&self) -> Vec<u64> {
        self.disk().sync_calls.clone()
    }

    pub(crate) fn used(&self) -> u64 {
        self.disk().used()
    }

    /// Names, places, lengths and order of all calls so far, as one number.
    pub(crate) fn trace(&self) -> u32 {
        self.disk().trace.clone().finalize()
    }

    /// Whether `bytes` would still be found in some file if nothing more arrived.
    pub(crate) fn is_durable(&self, bytes: &[u8]) -> bool {
        let disk = self.disk();
        disk.durable_names.values().any(|inode| {
            disk.inodes[inode]
                .durable
                .windows(bytes.len())
                .any(|window| window == bytes)
        })
    }

    /// Contents of all files as the process sees them.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let disk = self.disk();
        disk.names
            .iter()
            .map(|(path, inode)| (path.clone(), disk.inodes[inode].cached.clone()))
            .collect()
    }

    /// Replaces the bytes of a file behind the log's back, on the disk and in the cache.
    pub(crate) fn plant(&self, path: &Path, bytes: Vec<u8>) {
        let mut disk = self.disk();
        let inode = disk.look_up(path).expect("the file to plant in exists");
        let inode = disk.inode(inode);
        inode.unsynced.clear();
        inode.durable.clone_from(&bytes);
        inode.cached = bytes;
    }

    /// Removes a file behind the log's back.
    pub(crate) fn lose(&self, path: &Path) {
        let mut disk = self.disk();
        disk.names.remove(path);
        disk.durable_names.remove(path);
    }

    /// Puts a file on the disk, with its directory.
    pub(crate) fn place(&self, path: &Path, bytes: Vec<u8>) {
        let mut disk = self.disk();
        let directory = path.parent().expect("a file lies in a directory");
        disk.directories
            .extend(directory.ancestors().map(Path::to_path_buf));
        let inode = disk.link(path).expect("the name is free");
        disk.name_changes.clear();
        disk.durable_names.insert(path.to_owned(), inode);
        drop(disk);
        self.plant(path, bytes);
    }
}

impl Storage for SimStorage {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let entry = disk.enter("sync create_dir_all", dir, 0)?;
        let done = finish(entry)?;
        disk.directories
            .extend(dir.ancestors().map(Path::to_path_buf));
        done
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut disk = self.disk();
        let entry = disk.enter("list", dir, 0)?;
        let done = finish(entry)?;
        if !disk.directories.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        done?;
        Ok(disk
            .names
            .keys()
            .filter(|path| path.parent() == Some(dir))
            .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        let mut disk = self.disk();
        let entry = disk.enter("create", path, 0)?;
        let done = finish(entry)?;
        let inode = disk.link(path)?;
        done?;
        Ok(self.handle(path, inode, Access::Write))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn StorageFile>> {
        let mut disk = self.disk();
        let entry = disk.enter("open", path, 0)?;
        finish(entry)??;
        let inode = disk.look_up(path)?;
        Ok(self.handle(path, inode, access))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        assert_eq!(from.parent(), to.parent(), "renames stay in one directory");
        let mut disk = self.disk();
        let entry = disk.enter("rename", to, 0)?;
        let done = finish(entry)?;
        disk.look_up(from)?;
        disk.change_name(NameChange::Rename(from.to_owned(), to.to_owned()), to);
        done
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let entry = disk.enter("remove", path, 0)?;
        let done = finish(entry)?;
        disk.look_up(path)?;
        disk.change_name(NameChange::Unlink(path.to_owned()), path);
        done
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let entry = disk.enter("hard_link", to, 0)?;
        let done = finish(entry)?;
        let inode = disk.look_up(from)?;
        let directory = to.parent().expect("a file lies in a directory");
        if !disk.directories.contains(directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if disk.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.change_name(NameChange::Link(to.to_owned(), inode), to);
        done
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        for name in self.list(dir)? {
            self.remove(&dir.join(name))?;
        }
        let mut disk = self.disk();
        let entry = disk.enter("remove_dir_all", dir, 0)?;
        let done = finish(entry)?;
        disk.directories.remove(dir);
        done
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let entry = disk.enter("sync_dir", dir, 0)?;
        match entry {
            // What did not arrive stays in the journal of the file system.
            Entry::Fail(_) | Entry::Last => finish(entry)?,
            Entry::Go => {
                for change in disk.name_changes.remove(dir).unwrap_or_default() {
                    change.apply(&mut disk.durable_names);
                }
                Ok(())
            }
        }
    }

    fn lock(&self, path: &Path, owner: &str) -> io::Result<Box<dyn StorageLock>> {
        let mut disk = self.disk();
        let entry = disk.enter("lock", path, 0)?;
        let done = finish(entry)?;
        if let Some(holder) = disk.locks.get(path) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, holder.clone()));
        }
        let inode = match disk.look_up(path) {
            Ok(inode) => inode,
            Err(_) => disk.link(path)?,
        };
        done?;
        let text = owner.as_bytes().to_vec();
        disk.inode(inode).change(Change::Length(0));
        disk.inode(inode).change(Change::Write {
            offset: 0,
            bytes: text,
        });
        disk.locks.insert(path.to_owned(), owner.to_owned());
        Ok(Box::new(SimLock {
            disk: Arc::clone(&self.disk),
            path: path.to_owned(),
        }))
    }

    fn boot_id(&self) -> io::Result<String> {
        let mut disk = self.disk();
        let entry = disk.enter("boot_id", Path::new(""), 0)?;
        finish(entry)??;
        Ok(format!("boot-{}", disk.boot))
    }
}

/// `Err` if nothing is to be done; else what to answer after doing it.
fn finish(entry: Entry) -> io::Result<io::Result<()>> {
    match entry {
        Entry::Go => Ok(Ok(())),
        Entry::Last => Ok(Err(power_is_off())),
        Entry::Fail(fault) => Err(fault.error()),
    }
}

impl SimStorage {
    fn handle(&self, path: &Path, inode: u64, access: Access) -> Box<dyn StorageFile> {
        Box::new(SimFile {
            storage: self.clone(),
            path: path.to_owned(),
            inode,
            access,
        })
    }
}

#[derive(Debug)]
struct SimLock {
    disk: Arc<Mutex<Disk>>,
    path: PathBuf,
}

impl StorageLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        if let Ok(mut disk) = self.disk.lock() {
            disk.locks.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct SimFile {
    storage: SimStorage,
    path: PathBuf,
    inode: u64,
    access: Access,
}

impl SimFile {
    fn assert_writable(&self) {
        assert_eq!(
            self.access,
            Access::Write,
            "{:?} was opened for reading",
            self.path
        );
    }
}

impl StorageFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let mut disk = self.storage.disk();
        let entry = disk.enter("len", &self.path, 0)?;
        finish(entry)??;
        Ok(disk.inode(self.inode).cached.len() as u64)
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut disk = self.storage.disk();
        let entry = disk.enter("read", &self.path, offset)?;
        finish(entry)??;
        let start = usize::try_from(offset).expect("simulated files are small");
        disk.inode(self.inode)
            .cached
            .get(start..start + len)
            .map(Bytes::copy_from_slice)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.assert_writable();
        let mut disk = self.storage.disk();
        let entry = disk.enter(
            "write_at",
            &self.path,
            offset ^ (bytes.len() as u64).rotate_left(32),
        )?;
        if let Some(written) = &disk.written {
            let mut written = written.lock().expect("notes are taken without panic");
            written.push(Written {
                inode: self.inode,
                offset,
                bytes: bytes.to_vec(),
            });
        }
        let offset = usize::try_from(offset).expect("simulated files are small");
        let room = disk.room(self.inode).saturating_sub(offset);
        let (len, answer) = match entry {
            Entry::Go if room < bytes.len() => (room, Err(Fault::NoSpace.error())),
            Entry::Go => (bytes.len(), Ok(())),
            Entry::Last => (bytes.len().min(room), Err(power_is_off())),
            Entry::Fail(fault) => {
                let len = disk.dice.index(bytes.len() + 1).min(room);
                (len, Err(fault.error()))
            }
        };
        if len > 0 {
            disk.inode(self.inode).change(Change::Write {
                offset,
                bytes: bytes[..len].to_vec(),
            });
        }
        answer
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.assert_writable();
        let mut disk = self.storage.disk();
        let entry = disk.enter("allocate", &self.path, len)?;
        let done = finish(entry)?;
        let len = usize::try_from(len).expect("simulated files are small");
        if len > disk.room(self.inode) {
            return Err(Fault::NoSpace.error());
        }
        disk.inode(self.inode).change(Change::Length(len));
        done
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.storage.disk();
        let entry = disk.enter("sync_data", &self.path, 0)?;
        let mut dice = disk.dice.fork();
        match entry {
            Entry::Go => {
                disk.inode(self.inode)
                    .settle(Arrival::Everything, &mut dice);
                Ok(())
            }
            Entry::Fail(_) => {
                let percent = dice.below(101);
                disk.inode(self.inode)
                    .settle(Arrival::Some { percent }, &mut dice);
                finish(entry)?
            }
            Entry::Last => finish(entry)?,
        }
    }

    fn is_shared(&self) -> bool {
        // Reads are copies here.
        false
    }

    fn links(&self) -> io::Result<u64> {
        let mut disk = self.storage.disk();
        let entry = disk.enter("links", &self.path, 0)?;
        finish(entry)??;
        let named = disk.names.values().filter(|inode| **inode == self.inode);
        Ok(named.count() as u64)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
