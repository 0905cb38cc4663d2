//! Substrates, machines and what was cleared: the fold of their events.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::broker::journal::{Event, NewEvent};
use crate::broker::ledger::{State, Unfit};

/// What the topics of their events begin with.
const TOPIC_PREFIX: &str = "sys.op.omega.";
/// What is cleared is no substrate's alone.
const SIGNALS: &str = "signals";
const REGISTERED: &str = "omega.substrate.registered";
const UNREGISTERED: &str = "omega.substrate.unregistered";
const CLEARED: &str = "omega.events.cleared";
const ASKED: &str = "omega.vm.asked";
const LAUNCHED: &str = "omega.vm.launched";
const RUNNING: &str = "omega.vm.running";
const ENDED: &str = "omega.vm.ended";
/// Machines that are gone and still shown, the newest.
const ENDED_KEPT: usize = 32;

/// What signals come from.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Substrate {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) metadata: Map<String, Json>,
    /// Subject of the token that registered it.
    pub(super) owner: String,
    pub(super) created_ms: u64,
}

/// The process of a machine: no other has both, on one start of the host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// When it began, in the kernel's ticks.
    pub(super) ticks: u64,
    /// Which start of the host that counts from.
    pub(super) boot: String,
}

/// A machine that is not known to be gone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Vm {
    pub(super) id: String,
    pub(super) substrate: String,
    pub(super) by: String,
    pub(super) asked_ms: u64,
    pub(super) vcpus: u64,
    pub(super) memory_mib: u64,
    pub(super) lifetime_s: u64,
    pub(super) jailed: bool,
    /// `None` before it was launched.
    #[serde(default)]
    pub(super) process: Option<Process>,
    #[serde(default)]
    pub(super) running: bool,
}

impl Vm {
    pub(super) const fn status(&self) -> &'static str {
        if self.running { "running" } else { "starting" }
    }
}

/// A machine that is gone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) id: String,
    pub(super) substrate: String,
    /// How it came to that.
    pub(super) how: String,
    pub(super) at_ms: u64,
}

/// Signals that are not listed any more; what names neither means all.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Cleared {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) substrate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) signal: Option<String>,
    /// The last one that was there.
    pub(super) through: u64,
    /// What stood before this was not listed anyway, and never will be.
    pub(super) floor: u64,
    pub(super) by: String,
}

impl Cleared {
    fn covers(&self, sequence: u64, substrate: &str, signal: &str) -> bool {
        sequence <= self.through
            && self.substrate.as_deref().is_none_or(|one| one == substrate)
            && self.signal.as_deref().is_none_or(|one| one == signal)
    }
}

/// What changes the laboratory.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Registered(Substrate),
    Unregistered { id: String, by: String },
    Cleared(Cleared),
    Asked(Vm),
    Launched { id: String, process: Process },
    Running { id: String },
    Ended(Ended),
}

#[derive(Deserialize)]
struct Launched {
    process: Process,
}

impl Change {
    /// As an event.
    pub(super) fn event(&self) -> NewEvent<'static> {
        // Texts as keys, numbers and texts alone: nothing that JSON cannot say.
        fn json(value: impl Serialize) -> Json {
            serde_json::to_value(value).unwrap_or_default()
        }
        let (id, kind, data) = match self {
            Self::Registered(substrate) => (&*substrate.id, REGISTERED, json(substrate)),
            Self::Unregistered { id, by } => (&**id, UNREGISTERED, serde_json::json!({ "by": by })),
            Self::Cleared(cleared) => (SIGNALS, CLEARED, json(cleared)),
            Self::Asked(vm) => (&*vm.id, ASKED, json(vm)),
            Self::Launched { id, process } => {
                (&**id, LAUNCHED, serde_json::json!({ "process": process }))
            }
            Self::Running { id } => (&**id, RUNNING, serde_json::json!({})),
            Self::Ended(ended) => (&*ended.id, ENDED, json(ended)),
        };
        NewEvent {
            topic: format!("{TOPIC_PREFIX}{id}"),
            kind,
            schema: "",
            data: Bytes::from(data.to_string()),
        }
    }
}

/// What there is.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Lane {
    pub(super) substrates: BTreeMap<String, Substrate>,
    pub(super) vms: BTreeMap<String, Vm>,
    pub(super) ended: VecDeque<Ended>,
    cleared: Vec<Cleared>,
}

impl Lane {
    /// Whether a signal is not listed any more.
    pub(super) fn is_cleared(&self, sequence: u64, substrate: &str, signal: &str) -> bool {
        let covers = |cleared: &Cleared| cleared.covers(sequence, substrate, signal);
        self.cleared.iter().any(covers)
    }

    fn clear(&mut self, cleared: Cleared) {
        // Each that stays has taken a signal off the list that would still be on it: there are never
        // more than signals on the list.
        self.cleared.retain(|old| {
            old.through >= cleared.floor
                && (&old.substrate, &old.signal) != (&cleared.substrate, &cleared.signal)
        });
        self.cleared.push(cleared);
    }
}

impl State for Lane {
    const NAME: &'static str = "omega";
    const VERSION: u32 = 1;
    const TOPICS: &'static [&'static str] = &["sys.op.omega.*"];

    fn apply(&mut self, event: &Event<'_>) -> Result<(), Unfit> {
        fn read<'e, T: Deserialize<'e>>(event: &Event<'e>) -> Result<T, Unfit> {
            serde_json::from_slice(event.data).map_err(Unfit::new)
        }
        let id = event.topic.strip_prefix(TOPIC_PREFIX).unwrap_or_default();
        match event.kind {
            REGISTERED => {
                let substrate: Substrate = read(event)?;
                self.substrates.insert(substrate.id.clone(), substrate);
            }
            UNREGISTERED => drop(self.substrates.remove(id)),
            CLEARED => self.clear(read(event)?),
            ASKED => {
                let vm: Vm = read(event)?;
                self.vms.insert(vm.id.clone(), vm);
            }
            LAUNCHED => {
                let launched: Launched = read(event)?;
                if let Some(vm) = self.vms.get_mut(id) {
                    vm.process = Some(launched.process);
                }
            }
            RUNNING => {
                if let Some(vm) = self.vms.get_mut(id) {
                    vm.running = true;
                }
            }
            ENDED => {
                let ended: Ended = read(event)?;
                if self.vms.remove(id).is_some() {
                    if self.ended.len() == ENDED_KEPT {
                        self.ended.pop_front();
                    }
                    self.ended.push_back(ended);
                }
            }
            kind => {
                let what = format!("there is no event {kind:?} of the laboratory");
                return Err(Unfit::new(what));
            }
        }
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn load(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
