//! What one tenant has on this node: its realities and its named consumers.
//!
//! Opens logs on demand, one directory each below the tenant's. Which realities there are is a fold
//! of the topics `sys.reality.<name>` in `_system`, and whatever logs are there besides, so that
//! damage in `_system` hides no intact log; `main` and `_system` come into being when they
//! are first used. A reality that nobody uses is closed after a while, and opened again when it is
//! next used.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::audit::Audit;
use super::consumer::Consumers;
use super::delta::Declarations;
use super::error::Error;
use super::group::{self, Groups};
use super::ledger::{Cache, Ledgers};
use super::name::{RealityName, Tenant};
use super::operators::sam::Sam;
use super::reality::{Ground, Reality};
use super::register::{self, Birth, Register};
use super::rooms::{self, Rooms};
use super::roster::{Idle, Roster};
use super::stored::{self, RealityBytes, TenantBytes};
use super::system;
use super::turns::Turn;
use crate::log::removal;
use crate::log::{self, Sequence, Writer};

/// A tenant's realities and consumers.
#[derive(Debug)]
pub struct Tenancy {
    ground: Arc<Ground>,
    tenant: Tenant,
    directory: PathBuf,
    system: Arc<Reality>,
    consumers: Arc<Consumers>,
    groups: Arc<Groups>,
    audit: Audit,
    ledgers: Ledgers,
    declarations: Arc<Declarations>,
    rooms: Arc<Rooms>,
    sam: Sam,
    there: Mutex<BTreeMap<RealityName, Birth>>,
    /// Those that are open, the system's own excepted.
    open: Roster<RealityName, Reality>,
    /// Held while a reality is created or deleted, so that there are never too many.
    creating: Mutex<()>,
    /// Held while dead letters are dealt with, so that each is settled once.
    dealing: Mutex<()>,
    bytes: Arc<TenantBytes>,
    bytes_of: Mutex<HashMap<RealityName, Arc<RealityBytes>>>,
    realities_max: usize,
}

/// Holders of the system reality when nobody uses the tenancy: itself, its consumers and its groups.
const SYSTEM_HOLDERS: usize = 3;

/// What a tenant may use up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    pub(super) realities_max: usize,
    pub(super) rooms: rooms::Limits,
    pub(super) consumers_max: usize,
    pub(super) groups: group::Bounds,
    pub(super) bytes_max: Option<u64>,
    pub(super) topics_max: Option<u64>,
}

impl Tenancy {
    /// Opens the tenant's system reality and folds it. Blocks.
    pub(super) fn open(
        ground: &Arc<Ground>,
        tenant: &Tenant,
        directory: PathBuf,
        allowance: Allowance,
    ) -> Result<Arc<Self>, Error> {
        if removal::unfinished(&*ground.environment.storage, &directory)?.is_some() {
            return Err(log::Error::Unfinished { path: directory }.into());
        }
        let name = RealityName::system();
        let bytes = TenantBytes::new(allowance.bytes_max, allowance.topics_max);
        let of_system = RealityBytes::new(&bytes);
        let system_directory = directory.join(name.as_str());
        let (system, loss) = Reality::open(
            ground,
            tenant,
            &name,
            system_directory,
            of_system,
            Arc::default(),
        )?;
        let consumers = Consumers::fold(&system, allowance.consumers_max)?;
        let (feeder, limit) = (&ground.feeder, allowance.consumers_max);
        let groups = Groups::fold(&system, feeder, allowance.groups, limit)?;
        let mut there = Register::fold(&system).there;
        let stored = stored_in(ground, &directory);
        let bytes_of = bytes_of(ground, &directory, &stored, &bytes);
        for name in stored {
            there.entry(name).or_insert(Birth::Created);
        }
        if let Some(loss) = loss {
            system::state_loss(&system, &system, &loss);
        }
        let tenancy = Arc::new(Self {
            ground: Arc::clone(ground),
            tenant: tenant.clone(),
            directory,
            open: Roster::default(),
            system,
            consumers,
            groups,
            audit: Audit::default(),
            ledgers: Ledgers::default(),
            declarations: Arc::default(),
            rooms: Rooms::new(allowance.rooms),
            sam: Sam::new(ground.environment.clock.now()),
            there: Mutex::new(there),
            creating: Mutex::new(()),
            dealing: Mutex::new(()),
            bytes,
            bytes_of: Mutex::new(bytes_of),
            realities_max: allowance.realities_max,
        });
        if let Err(error) = tenancy.finish_unfinished() {
            // What is unfinished is not served; the next opening tries again.
            tracing::error!(%tenant, %error, "forks or deletions not cleared up");
        }
        Ok(tenancy)
    }

    /// Whose it is.
    #[must_use]
    pub const fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Its delta topics.
    pub(super) const fn declarations(&self) -> &Arc<Declarations> {
        &self.declarations
    }

    /// Its named consumers.
    #[must_use]
    pub const fn consumers(&self) -> &Arc<Consumers> {
        &self.consumers
    }

    /// Its groups of competing consumers.
    #[must_use]
    pub const fn groups(&self) -> &Arc<Groups> {
        &self.groups
    }

    /// Its rooms, and who is in them.
    #[must_use]
    pub const fn rooms(&self) -> &Arc<Rooms> {
        &self.rooms
    }

    /// A reality that is open already, for whoever uses it.
    #[must_use]
    pub fn opened(&self, name: &RealityName) -> Option<Arc<Reality>> {
        if name.is_system() {
            return Some(Arc::clone(&self.system));
        }
        self.open.get(name)
    }

    /// The wall clock.
    #[must_use]
    pub fn now(&self) -> log::Micros {
        self.ground.environment.clock.now()
    }

    /// Those that are open already.
    /// A reality that is open already, for whoever looks at it and lets go.
    #[must_use]
    pub fn peek(&self, name: &RealityName) -> Option<Arc<Reality>> {
        self.open.peek(name)
    }

    /// Whether a reality is open, for whoever does not use it.
    #[must_use]
    pub fn is_open(&self, name: &RealityName) -> bool {
        name.is_system() || self.open.holds(name)
    }

    /// Those that are open already, by name, for whoever looks at them and lets go.
    #[must_use]
    pub fn all_opened(&self) -> Vec<Arc<Reality>> {
        let mut all = self.open.all();
        all.push(Arc::clone(&self.system));
        all.sort_by(|a, b| a.name().cmp(b.name()));
        all
    }

    /// Bytes that its realities store, and most that they may; `None` if there is no limit, and
    /// nothing is counted.
    #[must_use]
    pub fn stored_bytes(&self) -> Option<(u64, u64)> {
        Some((self.bytes.stored(), self.bytes.limit()?))
    }

    /// Topics of its realities that have been opened, and most that there may be; `None` if there is
    /// no limit, and nothing is counted.
    #[must_use]
    pub fn topics_held(&self) -> Option<(u64, u64)> {
        let topics = self.bytes.topics();
        Some((topics.held(), topics.limit()?))
    }

    /// Most realities that it may have.
    #[must_use]
    pub const fn realities_max(&self) -> usize {
        self.realities_max
    }

    /// Names of all realities, open or not, the system's own excepted.
    #[must_use]
    pub fn names(&self) -> Vec<RealityName> {
        let mut names: Vec<_> = self.lock().keys().cloned().collect();
        let main = RealityName::main();
        if let Err(at) = names.binary_search(&main) {
            names.insert(at, main);
        }
        names
    }

    /// How a reality came into being; `None` if there is none, or it has not been used yet.
    #[must_use]
    pub fn birth(&self, name: &RealityName) -> Option<Birth> {
        self.lock().get(name).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RealityName, Birth>> {
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reality, opened if it is not. Blocks.
    ///
    /// # Errors
    /// There is none of that name; its log cannot be opened.
    pub fn reality(&self, name: &RealityName) -> Result<Arc<Reality>, Error> {
        if let Some(reality) = self.opened(name) {
            return Ok(reality);
        }
        let _turn = self.open.turn(name).ok_or(Error::ShuttingDown)?;
        if let Some(reality) = self.opened(name) {
            return Ok(reality);
        }
        let exists = name.created_on_use() || self.lock().contains_key(name);
        if !exists {
            return Err(Error::NoSuchReality {
                reality: name.clone(),
            });
        }
        self.open_log(name)
    }

    /// Creates a reality. Blocks.
    ///
    /// # Errors
    /// It exists; there are too many; it cannot be stored.
    pub fn create(&self, name: &RealityName, by: &str) -> Result<Arc<Reality>, Error> {
        let _creating = self.creating();
        self.check_free(name)?;
        let _turn = self.turn(name)?;
        // The log first: a name without one would be taken, and of no use.
        self.admit(name, Birth::Created, by)
    }

    /// Makes the reality `name`, which has all records of `from` up to and including `at` (if
    /// `None`, all that are on disk), and goes on from there. Blocks; `from` goes on meanwhile.
    ///
    /// # Errors
    /// It exists; there are too many; there is no `from`, or not so many records in it; it cannot
    /// be stored.
    pub fn fork(
        &self,
        from: &RealityName,
        at: Option<Sequence>,
        name: &RealityName,
        by: &str,
    ) -> Result<Arc<Reality>, Error> {
        if name.is_lab() {
            let reality = name.clone();
            return Err(Error::RealityClosed { reality });
        }
        let _creating = self.creating();
        self.check_free(name)?;
        if from.is_system() {
            let reality = from.clone();
            return Err(Error::RealityClosed { reality });
        }
        let parent = self.reality(from)?;
        let _turn = self.turn(name)?;
        let writer = Writer {
            node: self.ground.node,
            clock_key: self.ground.clock_key(name),
        };
        let point = parent.log().fork(&self.directory_of(name), at, &writer)?;
        let birth = Birth::Forked {
            from: from.clone(),
            at: point.end.get() - 1,
        };
        let admitted = self.admit(name, birth, by);
        if admitted.is_err() {
            let storage = &self.ground.environment.storage;
            if let Err(error) = removal::remove(&**storage, &self.directory_of(name), "") {
                tracing::error!(reality = %name, %error, "a fork that was not recorded is still there");
            }
        }
        admitted
    }

    /// Whether there can be another reality with this name.
    fn check_free(&self, name: &RealityName) -> Result<(), Error> {
        let known = self.names();
        if name.is_system() || known.contains(name) {
            return Err(Error::RealityExists {
                reality: name.clone(),
            });
        }
        if known.len() >= self.realities_max {
            return Err(Error::RealitiesFull {
                limit: self.realities_max,
            });
        }
        Ok(())
    }

    /// Opens the log of a new reality, records how it came into being, and lets everybody have it.
    fn admit(&self, name: &RealityName, birth: Birth, by: &str) -> Result<Arc<Reality>, Error> {
        let reality = self.open_apart(name)?;
        if let Err(error) = register::note_birth(&self.system, name, &birth, by) {
            reality.close();
            return Err(error);
        }
        self.lock().insert(name.clone(), birth);
        self.list(&reality);
        Ok(reality)
    }

    pub(super) fn dealing(&self) -> MutexGuard<'_, ()> {
        self.dealing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn creating(&self) -> MutexGuard<'_, ()> {
        self.creating.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else opens or closes `name`.
    pub(super) fn turn(&self, name: &RealityName) -> Result<Turn<'_, RealityName>, Error> {
        self.open.turn(name).ok_or(Error::ShuttingDown)
    }

    /// Lets nobody have it any more. The caller has its turn.
    pub(super) fn take_out(&self, name: &RealityName) -> Option<Arc<Reality>> {
        self.open.remove(name)
    }

    /// It is not there any more.
    pub(super) fn unlist(&self, name: &RealityName) {
        self.lock().remove(name);
        let mut bytes_of = self.bytes_of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = bytes_of.remove(name) {
            bytes.gone();
        }
    }

    /// Name of the node in vector clocks.
    pub(super) fn node_name(&self) -> &str {
        &self.ground.node_name
    }

    pub(super) const fn chain(&self) -> &Audit {
        &self.audit
    }

    /// What its operators have to do.
    pub(super) const fn sam(&self) -> &Sam {
        &self.sam
    }

    pub(super) const fn ledgers(&self) -> &Ledgers {
        &self.ledgers
    }

    /// Where folds are kept between two openings, if they are.
    pub(super) fn cache(&self) -> Option<&Cache> {
        self.ground.cache.as_ref()
    }

    pub(super) const fn ground(&self) -> &Arc<Ground> {
        &self.ground
    }

    pub(super) const fn system(&self) -> &Arc<Reality> {
        &self.system
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn directory_of(&self, name: &RealityName) -> PathBuf {
        self.directory.join(name.as_str())
    }

    fn open_log(&self, name: &RealityName) -> Result<Arc<Reality>, Error> {
        let reality = self.open_apart(name)?;
        self.list(&reality);
        Ok(reality)
    }

    /// Lets everybody have it.
    fn list(&self, reality: &Arc<Reality>) {
        self.open
            .insert(reality.name().clone(), Arc::clone(reality));
        self.ground.openings.note(&self.tenant, reality.name());
    }

    /// Opens a log that nobody else can reach yet.
    fn open_apart(&self, name: &RealityName) -> Result<Arc<Reality>, Error> {
        if self.ground.repairs.closed() {
            return Err(Error::ShuttingDown);
        }
        let directory = self.directory_of(name);
        let bytes = {
            let mut bytes_of = self.bytes_of.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = bytes_of
                .entry(name.clone())
                .or_insert_with(|| RealityBytes::new(&self.bytes));
            Arc::clone(bytes)
        };
        let declarations = Arc::clone(&self.declarations);
        declarations.know(self)?;
        let (reality, loss) = Reality::open(
            &self.ground,
            &self.tenant,
            name,
            directory,
            bytes,
            declarations,
        )?;
        if let Some(loss) = loss {
            system::state_loss(&self.system, &reality, &loss);
        }
        Ok(reality)
    }

    /// Reopens the poisoned log of a reality. Blocks.
    pub(super) fn repair(&self, name: &RealityName) -> Result<(), Error> {
        let Some(_turn) = self.open.turn(name) else {
            return Ok(());
        };
        let Some(reality) = self.opened(name) else {
            return Ok(());
        };
        if let Some(loss) = reality.reopen()? {
            system::state_loss(&self.system, &reality, &loss);
        }
        Ok(())
    }

    /// Destroys the keys of a reality for good, whether they are at hand or not. Who has it open
    /// is told by errors from now on. Blocks.
    ///
    /// # Errors
    /// There is no such reality; it is not encrypted; I/O errors.
    pub fn shred_keys(&self, name: &RealityName, by: &str) -> Result<(), Error> {
        let _turn = self.open.turn(name).ok_or(Error::ShuttingDown)?;
        if !self.names().contains(name) {
            return Err(Error::NoSuchReality {
                reality: name.clone(),
            });
        }
        let opened = self.opened(name);
        if let Some(reality) = &opened {
            reality.check_keys()?;
        }
        // Said first, so that it is known even if power fails in between.
        let statement = serde_json::json!({ "reality": name.as_str(), "by": by });
        let data = Bytes::from(statement.to_string());
        let topic = system::LOG_TOPIC.to_owned();
        let record = system::event(&self.system, topic, "log.keys_shredding", "", data);
        system::append_and_wait(&self.system, record)?;
        match opened {
            Some(reality) => {
                let shredded = reality.shred_keys();
                // Whatever came of it, the log is closed.
                self.open.remove(name);
                shredded?;
            }
            None => Reality::shred_closed(&self.ground, name, &self.directory.join(name.as_str()))?,
        }
        tracing::warn!(tenant = %self.tenant, reality = %name, by, "the keys of a log were destroyed");
        Ok(())
    }

    /// Repairs the damaged log of a reality; `None` if nothing was damaged. Blocks.
    ///
    /// # Errors
    /// There is no such reality; the repair failed, and the log is as good or bad as it was.
    pub(super) fn mend(&self, name: &RealityName) -> Result<Option<log::LossStatement>, Error> {
        let reality = self.reality(name)?;
        let Some(_turn) = self.open.turn(name) else {
            return Err(Error::ShuttingDown);
        };
        let statement = reality.mend()?;
        if let Some(statement) = &statement {
            system::state_loss(&self.system, &reality, statement);
        }
        Ok(statement)
    }

    /// Closes the realities that have been idle long enough. Blocks.
    pub(super) fn close_idle(&self, idle: Idle) {
        self.open.close_idle(
            idle,
            |reality| reality.is_healthy(),
            |reality| {
                tracing::debug!(tenant = %self.tenant, reality = %reality.name(), "idle log closed");
                reality.close();
            },
        );
    }

    /// Replaces what was counted of the open realities' bytes by what their logs say. Blocks.
    pub(super) fn measure(&self) {
        if self.bytes.limit().is_some() || self.bytes.topics().limit().is_some() {
            for reality in self.all_opened() {
                reality.measure();
            }
        }
    }

    /// Whether nobody uses any of it, and its closing keeps nothing from the node's operators.
    ///
    /// That nobody else holds the tenancy is known; sessions that end let go of it before their
    /// subscriptions and leases, which hold realities and consumers.
    pub(super) fn is_at_rest(&mut self) -> bool {
        let unused = Arc::get_mut(&mut self.consumers).is_some()
            && Arc::get_mut(&mut self.groups).is_some()
            && Arc::strong_count(&self.system) == SYSTEM_HOLDERS
            && self.open.is_at_rest(|reality| reality.is_healthy());
        // The count alone orders nothing: whatever the last holder did comes before what follows.
        fence(Ordering::Acquire);
        unused && self.system.is_healthy()
    }

    /// Flushes and closes all logs, the system's own last. Nothing is opened afterwards. Blocks.
    pub(super) fn close(&self) {
        self.open.shut();
        for reality in self.open.all() {
            reality.close();
        }
        if let Some(cache) = self.cache() {
            self.ledgers.keep(cache, self.tenant.as_str());
        }
        self.system.close();
    }
}

/// Counts what the logs of `names` hold, if it is to be known. One that cannot be read counts for
/// nothing until it is opened.
fn bytes_of(
    ground: &Ground,
    directory: &Path,
    names: &[RealityName],
    tenant: &Arc<TenantBytes>,
) -> HashMap<RealityName, Arc<RealityBytes>> {
    let mut all = HashMap::new();
    if tenant.limit().is_none() {
        return all;
    }
    for name in names {
        let bytes = RealityBytes::new(tenant);
        let path = directory.join(name.as_str());
        match stored::measure(&*ground.environment.storage, &path) {
            Ok(found) => bytes.set(found),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "size of a log not known");
            }
        }
        all.insert(name.clone(), bytes);
    }
    all
}

/// Names of the realities that have a log below a tenant's directory.
fn stored_in(ground: &Ground, directory: &Path) -> Vec<RealityName> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(%error, "the realities' directories cannot be listed");
            return Vec::new();
        }
    };
    let storage = &ground.environment.storage;
    entries
        .flatten()
        .filter_map(|entry| RealityName::new(entry.file_name().to_str()?).ok())
        .filter(|name| !name.is_system())
        .filter(|name| {
            let files = storage.list(&directory.join(name.as_str()));
            let unfinished = removal::unfinished(&**storage, &directory.join(name.as_str()));
            files.is_ok_and(|files| files.iter().any(|file| file.ends_with(".seg")))
                && matches!(unfinished, Ok(None))
        })
        .collect()
}
