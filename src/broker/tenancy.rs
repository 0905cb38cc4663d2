//! What one tenant has on this node: its realities and its named consumers.
//!
//! Opens logs on demand, one directory each below the tenant's. Which realities there are is a fold
//! of the topics `sys.reality.<name>` in `_system`, and whatever logs are there besides, so that
//! damage in `_system` hides no intact log; `main` and `_system` come into being when they
//! are first used.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;

use super::consumer::Consumers;
use super::error::Error;
use super::name::{RealityName, Tenant};
use super::reality::{Ground, Reality};
use super::system;

/// First tokens of the topics that say which realities were created.
pub(super) const TOPIC_PREFIX: &str = "sys.reality.";

/// A tenant's realities and consumers.
#[derive(Debug)]
pub struct Tenancy {
    ground: Arc<Ground>,
    tenant: Tenant,
    directory: PathBuf,
    system: Arc<Reality>,
    consumers: Arc<Consumers>,
    created: Mutex<BTreeSet<RealityName>>,
    open: RwLock<HashMap<RealityName, Arc<Reality>>>,
    /// Held while a log is opened, so that none is opened twice.
    opening: Mutex<()>,
    realities_max: usize,
}

impl Tenancy {
    /// Opens the tenant's system reality and folds it. Blocks.
    pub(super) fn open(
        ground: &Arc<Ground>,
        tenant: &Tenant,
        directory: PathBuf,
        realities_max: usize,
        consumers_max: usize,
    ) -> Result<Arc<Self>, Error> {
        let name = RealityName::system();
        let (system, loss) = Reality::open(ground, tenant, &name, directory.join(name.as_str()))?;
        let consumers = Consumers::fold(&system, consumers_max)?;
        let topics = system.log().topics().unwrap_or_else(|error| {
            tracing::error!(%tenant, %error, "realities not folded; taken from the directories");
            Vec::new()
        });
        let mut created: BTreeSet<_> = topics
            .iter()
            .filter_map(|topic| topic.topic.strip_prefix(TOPIC_PREFIX))
            .filter_map(|name| RealityName::new(name).ok())
            .collect();
        created.extend(stored_in(ground, &directory));
        if let Some(loss) = loss {
            system::state_loss(&system, &system, &loss);
        }
        Ok(Arc::new(Self {
            ground: Arc::clone(ground),
            tenant: tenant.clone(),
            directory,
            open: RwLock::new(HashMap::from([(name, Arc::clone(&system))])),
            system,
            consumers,
            created: Mutex::new(created),
            opening: Mutex::new(()),
            realities_max,
        }))
    }

    /// Whose it is.
    #[must_use]
    pub const fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Its named consumers.
    #[must_use]
    pub const fn consumers(&self) -> &Arc<Consumers> {
        &self.consumers
    }

    /// A reality that is open already.
    #[must_use]
    pub fn opened(&self, name: &RealityName) -> Option<Arc<Reality>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(name).cloned()
    }

    /// Those that are open already.
    #[must_use]
    pub fn all_opened(&self) -> Vec<Arc<Reality>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = open.values().cloned().collect();
        all.sort_by(|a, b| a.name().cmp(b.name()));
        all
    }

    /// Names of all realities, open or not, the system's own excepted.
    #[must_use]
    pub fn names(&self) -> Vec<RealityName> {
        let created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names = created.clone();
        names.insert(RealityName::main());
        names.into_iter().collect()
    }

    /// A reality, opened if it is not. Blocks.
    ///
    /// # Errors
    /// There is none of that name; its log cannot be opened.
    pub fn reality(&self, name: &RealityName) -> Result<Arc<Reality>, Error> {
        if let Some(reality) = self.opened(name) {
            return Ok(reality);
        }
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reality) = self.opened(name) {
            return Ok(reality);
        }
        let exists = name.created_on_use()
            || self
                .created
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(name);
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
    pub fn create(&self, name: &RealityName) -> Result<Arc<Reality>, Error> {
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
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
        // The log first: a name without one would be taken, and of no use.
        let reality = self.open_apart(name)?;
        let topic = format!("{TOPIC_PREFIX}{name}");
        let data = Bytes::from_static(b"{}");
        let record = system::event(&self.system, topic, "reality.created", "", data);
        if let Err(error) = system::append_and_wait(&self.system, record) {
            reality.close();
            return Err(error);
        }
        let mut created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        created.insert(name.clone());
        drop(created);
        self.list(&reality);
        Ok(reality)
    }

    fn open_log(&self, name: &RealityName) -> Result<Arc<Reality>, Error> {
        let reality = self.open_apart(name)?;
        self.list(&reality);
        Ok(reality)
    }

    /// Lets everybody have it.
    fn list(&self, reality: &Arc<Reality>) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.insert(reality.name().clone(), Arc::clone(reality));
    }

    /// Opens a log that nobody else can reach yet.
    fn open_apart(&self, name: &RealityName) -> Result<Arc<Reality>, Error> {
        if self.ground.repairs.closed() {
            return Err(Error::ShuttingDown);
        }
        let directory = self.directory.join(name.as_str());
        let (reality, loss) = Reality::open(&self.ground, &self.tenant, name, directory)?;
        if let Some(loss) = loss {
            system::state_loss(&self.system, &reality, &loss);
        }
        Ok(reality)
    }

    /// Reopens the poisoned log of a reality. Blocks.
    pub(super) fn repair(&self, name: &RealityName) -> Result<(), Error> {
        let Some(reality) = self.opened(name) else {
            return Ok(());
        };
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if self.ground.repairs.closed() {
            return Ok(());
        }
        if let Some(loss) = reality.reopen()? {
            system::state_loss(&self.system, &reality, &loss);
        }
        Ok(())
    }

    /// Flushes and closes all logs, the system's own last. Blocks.
    pub(super) fn close(&self) {
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let (system, others): (Vec<_>, Vec<_>) = self
            .all_opened()
            .into_iter()
            .partition(|reality| reality.name().is_system());
        for reality in others.iter().chain(&system) {
            reality.close();
        }
    }
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
            files.is_ok_and(|files| files.iter().any(|file| file.ends_with(".seg")))
        })
        .collect()
}
