//! Looks from outside at the logs that nobody has opened since the node started.
//!
//! Realities are opened when they are first used, so a log that was left damaged would be unknown
//! until somebody needs it. Owns one pass over the data directory, read-only and one log at a
//! time, and what it found. Judges nothing itself: recovery forecasts. Once the node has a reality
//! open, the reality speaks for itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::broker::{Broker, RealityName, Tenant};
use crate::log::offline::{self, Directory};
use crate::log::{Error, KeyProblem, MasterKeys, Storage};

/// Until the logs that were bad are looked at again: somebody may have repaired them.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What is wrong with a log that is not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ailment {
    Damaged,
    Unreadable,
}

/// A log where the data directory has one.
#[derive(Clone, Debug)]
struct Place {
    tenant: Tenant,
    reality: RealityName,
    directory: PathBuf,
}

/// Logs found bad that are not open, by what is wrong with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ill {
    /// Those that would open read-only because they are damaged.
    pub damaged: usize,
    /// Those that would not open because their files, or their keys, cannot be read.
    pub unreadable: usize,
}

/// What was found so far.
#[derive(Debug, Default)]
pub struct Checkup {
    masters: Option<Arc<MasterKeys>>,
    found: Mutex<Vec<(Place, Ailment)>>,
}

impl Checkup {
    /// Nothing is known yet; encrypted logs can be opened with `masters`.
    #[must_use]
    pub fn new(masters: Option<Arc<MasterKeys>>) -> Self {
        Self {
            masters,
            found: Mutex::default(),
        }
    }

    /// How many of the logs found bad nobody has opened since.
    #[must_use]
    pub fn ill(&self, broker: &Broker) -> Ill {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ill = Ill::default();
        for (_, ailment) in found.iter().filter(|(place, _)| !place.is_open(broker)) {
            match ailment {
                Ailment::Damaged => ill.damaged += 1,
                Ailment::Unreadable => ill.unreadable += 1,
            }
        }
        ill
    }

    /// Looks at every log below `data`, then now and again at those that were bad, until none is
    /// or the node drains.
    pub async fn run(
        self: Arc<Self>,
        storage: Arc<dyn Storage>,
        data: PathBuf,
        broker: Arc<Broker>,
        mut draining: watch::Receiver<bool>,
    ) {
        let mut places = None;
        loop {
            let (checkup, storage, data) = (Arc::clone(&self), Arc::clone(&storage), data.clone());
            let (broker, drained) = (Arc::clone(&broker), draining.clone());
            let pass = tokio::task::spawn_blocking(move || {
                let places = places.unwrap_or_else(|| places_below(&data));
                checkup.pass(&*storage, places, &broker, &drained)
            });
            let bad = match pass.await {
                Ok(bad) => bad,
                Err(error) => {
                    tracing::error!(%error, "looking at the logs that are not open failed");
                    return;
                }
            };
            if bad.is_empty() {
                return;
            }
            places = Some(bad);
            let wait = draining.wait_for(|draining| *draining);
            // An error means that the sender is gone, which ends the node too.
            if tokio::time::timeout(LOOK_AGAIN_AFTER, wait).await.is_ok() {
                return;
            }
        }
    }

    /// Looks at `places`, one after the other; returns those that are bad. Blocks.
    fn pass(
        &self,
        storage: &dyn Storage,
        places: Vec<Place>,
        broker: &Broker,
        draining: &watch::Receiver<bool>,
    ) -> Vec<Place> {
        let mut bad = Vec::new();
        for place in places {
            if *draining.borrow() {
                break;
            }
            let open = place.is_open(broker);
            let ailment = if open {
                None
            } else {
                place.look(storage, self.masters.as_deref())
            };
            // If it was opened meanwhile, what was read may have been half written.
            let ailment = ailment.filter(|_| !place.is_open(broker));
            if self.note(&place, ailment) {
                bad.push(place);
            }
        }
        bad
    }

    /// Replaces what is known of `place`; whether it is bad. Logs what is new.
    fn note(&self, place: &Place, now: Option<Finding>) -> bool {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let at = found
            .iter()
            .position(|(known, _)| known.directory == place.directory);
        let before = at.map(|at| found.swap_remove(at).1);
        let Some(finding) = now else {
            return false;
        };
        let ailment = finding.ailment();
        found.push((place.clone(), ailment));
        drop(found);
        if before != Some(ailment) {
            finding.warn(place);
        }
        true
    }
}

/// Why a log would take no writes.
enum Finding {
    Damaged {
        file: PathBuf,
        offset: Option<u64>,
        reason: String,
    },
    Unreadable(Error),
}

impl Finding {
    const fn ailment(&self) -> Ailment {
        match self {
            Self::Damaged { .. } => Ailment::Damaged,
            Self::Unreadable(_) => Ailment::Unreadable,
        }
    }

    fn warn(&self, place: &Place) {
        let (tenant, reality) = (&place.tenant, &place.reality);
        match self {
            Self::Damaged {
                file,
                offset,
                reason,
            } => tracing::warn!(
                %tenant,
                %reality,
                file = %file.display(),
                offset,
                reason,
                "a log is damaged and will take no writes; `logdump recover` says what a node makes of it"
            ),
            Self::Unreadable(error) => {
                let source = std::error::Error::source(error).map(ToString::to_string);
                tracing::warn!(%tenant, %reality, %error, source, "a log cannot be read");
            }
        }
    }
}

impl Place {
    fn is_open(&self, broker: &Broker) -> bool {
        broker.is_open(&self.tenant, &self.reality)
    }

    fn look(&self, storage: &dyn Storage, masters: Option<&MasterKeys>) -> Option<Finding> {
        let mut log = match Directory::open(storage, &self.directory) {
            Ok(log) => log,
            Err(error) => return Some(Finding::Unreadable(error)),
        };
        match log.unlock_with(storage, masters) {
            Ok(None) => {}
            // Somebody wanted it so.
            Ok(Some(Error::Key {
                problem: KeyProblem::Destroyed { .. },
                ..
            })) => return None,
            Ok(Some(error)) | Err(error) => return Some(Finding::Unreadable(error)),
        }
        let forecast = offline::forecast(storage, &log)?;
        let reason = forecast.read_only?;
        let first = forecast
            .statement
            .and_then(|statement| statement.damages.into_iter().next());
        let (file, offset) = first.map_or_else(
            || (self.directory.clone(), None),
            |damage| (damage.path, Some(damage.offset.0)),
        );
        Some(Finding::Damaged {
            file,
            offset,
            reason,
        })
    }
}

/// The logs there are: `data/<tenant>/<reality>`. What cannot be listed cannot be opened either,
/// and is logged.
fn places_below(data: &Path) -> Vec<Place> {
    let mut places = Vec::new();
    for (name, directory) in directories(data) {
        let Ok(tenant) = Tenant::new(&name) else {
            continue;
        };
        for (name, directory) in directories(&directory) {
            let system = RealityName::system();
            let reality = if name == system.as_str() {
                system
            } else if let Ok(reality) = RealityName::new(&name) {
                reality
            } else {
                continue;
            };
            places.push(Place {
                tenant: tenant.clone(),
                reality,
                directory,
            });
        }
    }
    places
}

fn directories(path: &Path) -> Vec<(String, PathBuf)> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot list a directory of logs");
            return Vec::new();
        }
    };
    let mut found: Vec<(String, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .collect();
    found.sort_unstable();
    found
}
