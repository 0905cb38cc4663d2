//! Jobs, as they were scheduled, and the fold of their events.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::schedule::{Misfire, Plan};
use crate::broker::journal::{Event, NewEvent};
use crate::broker::ledger::{State, Unfit};

/// What the topics of their events begin with.
const TOPIC_PREFIX: &str = "sys.op.cron.";
const SCHEDULED: &str = "cron.scheduled";
const PAUSED: &str = "cron.paused";
const RESUMED: &str = "cron.resumed";
const ENDED: &str = "cron.ended";

/// What is published when.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Job {
    /// Never another's, not even when this one has ended.
    pub(super) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    /// Subject of the token that scheduled it.
    pub(super) owner: String,
    /// The reality it publishes in.
    pub(super) reality: String,
    pub(super) topic: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) room: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) channel: Option<String>,
    /// What it says.
    pub(super) payload: serde_json::Map<String, serde_json::Value>,
    pub(super) plan: Plan,
    /// How often it runs; for ever if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) count: Option<u64>,
    pub(super) misfire: Misfire,
    pub(super) created_ms: u64,
    /// What was planned up to here is not made up for: it was scheduled, or resumed, then.
    pub(super) from_ms: u64,
    pub(super) paused: bool,
}

/// Why a job ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// It has run as often as it should, or there is no further time.
    Done,
    /// Somebody has cancelled it.
    Cancelled,
    /// The reality that it publishes in is gone.
    Nowhere,
}

/// What changes a job.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Scheduled(Box<Job>),
    Paused { id: String, by: String },
    Resumed { id: String, by: String, at_ms: u64 },
    Ended { id: String, by: String, end: End },
}

#[derive(Serialize, Deserialize)]
struct Resumed {
    by: String,
    at_ms: u64,
}

impl Change {
    /// As an event.
    pub(super) fn event(&self) -> NewEvent<'static> {
        let json = |value: serde_json::Value| Bytes::from(value.to_string());
        let (id, kind, data) = match self {
            Self::Scheduled(job) => {
                // Maps with texts as keys, numbers and texts alone: nothing that JSON cannot say.
                let job_json = serde_json::to_value(job).unwrap_or_default();
                (&job.id, SCHEDULED, json(job_json))
            }
            Self::Paused { id, by } => (id, PAUSED, json(serde_json::json!({ "by": by }))),
            Self::Resumed { id, by, at_ms } => {
                let data = serde_json::json!({ "by": by, "at_ms": at_ms });
                (id, RESUMED, json(data))
            }
            Self::Ended { id, by, end } => {
                let reason = match end {
                    End::Done => "done",
                    End::Cancelled => "cancelled",
                    End::Nowhere => "its reality is gone",
                };
                let data = serde_json::json!({ "by": by, "reason": reason });
                (id, ENDED, json(data))
            }
        };
        NewEvent {
            topic: format!("{TOPIC_PREFIX}{id}"),
            kind,
            schema: "",
            data,
        }
    }
}

/// The jobs of a tenant that have not ended.
#[derive(Clone, Default, Debug)]
pub(super) struct Jobs {
    by_id: BTreeMap<String, Arc<Job>>,
    by_name: HashMap<String, String>,
}

impl Jobs {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.by_id.values()
    }

    /// The one with this id, or this name.
    pub(super) fn get(&self, job: &str) -> Option<&Arc<Job>> {
        let id = self.by_name.get(job).map_or(job, String::as_str);
        self.by_id.get(id)
    }

    pub(super) fn is_named(&self, name: &str) -> bool {
        self.by_name.contains_key(name) || self.by_id.contains_key(name)
    }

    fn insert(&mut self, job: Job) {
        if let Some(name) = &job.name {
            self.by_name.insert(name.clone(), job.id.clone());
        }
        self.by_id.insert(job.id.clone(), Arc::new(job));
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut Job)) {
        // One that has ended may be paused by an event that was on its way: that changes nothing.
        if let Some(job) = self.by_id.get_mut(id) {
            change(Arc::make_mut(job));
        }
    }
}

impl State for Jobs {
    const NAME: &'static str = "cron";
    const VERSION: u32 = 1;
    const TOPICS: &'static [&'static str] = &["sys.op.cron.*"];

    fn apply(&mut self, event: &Event<'_>) -> Result<(), Unfit> {
        let id = event.topic.strip_prefix(TOPIC_PREFIX).unwrap_or_default();
        match event.kind {
            SCHEDULED => self.insert(serde_json::from_slice(event.data).map_err(Unfit::new)?),
            PAUSED => self.change(id, |job| job.paused = true),
            RESUMED => {
                let resumed: Resumed = serde_json::from_slice(event.data).map_err(Unfit::new)?;
                self.change(id, |job| {
                    job.paused = false;
                    job.from_ms = resumed.at_ms;
                });
            }
            ENDED => {
                if let Some(name) = self.by_id.remove(id).and_then(|job| job.name.clone()) {
                    self.by_name.remove(&name);
                }
            }
            kind => return Err(Unfit::new(format!("there is no event {kind:?} of jobs"))),
        }
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        let jobs: Vec<&Job> = self.by_id.values().map(|job| &**job).collect();
        serde_json::to_vec(&jobs).unwrap_or_default()
    }

    fn load(bytes: &[u8]) -> Option<Self> {
        let all: Vec<Job> = serde_json::from_slice(bytes).ok()?;
        let mut jobs = Self::default();
        all.into_iter().for_each(|job| jobs.insert(job));
        Some(jobs)
    }
}
