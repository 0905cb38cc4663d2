//! One firing of a job: its message, and the record that says so, in one batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::job::Job;
use crate::broker::error::Error;
use crate::broker::{Expected, OwnRecord, Reality, RealityName, Tenancy};
use crate::log::Found;
use crate::proto::json::micros;
use crate::proto::view::RecordView;

/// What the topics of what jobs have done begin with.
pub(in crate::broker) const TOPIC_PREFIX: &str = "op.cron.";
/// Name under which jobs publish, as in the older system.
const SENDER: &str = "op-cron";
const FIRED: &str = "cron.fired";

/// Where a job stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Stand {
    /// How often it has run.
    pub(super) iteration: u64,
    /// The time that its last run was planned for.
    pub(super) planned_ms: u64,
    /// Sequence of the record that says so; 0 for none.
    pub(super) marker: u64,
}

/// What is recorded of a firing.
#[derive(Serialize, Deserialize)]
struct Fired {
    job_id: String,
    iteration: u64,
    planned_ms: u64,
    planned_at: String,
    topic: String,
    message_id: String,
}

/// The reality that a job publishes in, opened if it is not. Blocks.
pub(super) fn reality_of(tenancy: &Tenancy, job: &Job) -> Result<Arc<Reality>, Error> {
    let name = RealityName::new(&job.reality).map_err(|fault| Error::Name {
        field: "reality",
        fault,
    })?;
    tenancy.reality(&name)
}

impl Stand {
    /// By the last record of the job's topic, whether it is on disk already or not. Blocks.
    pub(super) fn of(reality: &Reality, job: &str) -> Result<Self, Error> {
        let log = reality.log();
        let Some(last) = log.last_of(&format!("{TOPIC_PREFIX}{job}"))? else {
            return Ok(Self::default());
        };
        let damaged = || Error::RecordDamaged { sequence: last };
        let Found::Records(chunk) = log.read(last, last.next(), 1)? else {
            return Err(damaged());
        };
        let record = chunk.iter().next().ok_or_else(damaged)?;
        let view = RecordView::parse(record.record).or(Err(damaged()))?;
        let fired: Fired =
            serde_json::from_slice(view.envelope.payload.data()).or(Err(damaged()))?;
        Ok(Self {
            iteration: fired.iteration,
            planned_ms: fired.planned_ms,
            marker: last.get(),
        })
    }

    /// Publishes the message that was planned for `planned_ms`, and says where the job stands then.
    /// On `Ok` both are on disk. Blocks.
    pub(super) fn fire(self, reality: &Reality, job: &Job, planned_ms: u64) -> Result<Self, Error> {
        let iteration = self.iteration + 1;
        let id = id_of(&job.id, planned_ms);
        let marker = format!("{TOPIC_PREFIX}{}", job.id);
        let planned_at = micros(planned_ms.saturating_mul(1_000));
        let fired = Fired {
            job_id: job.id.clone(),
            iteration,
            planned_ms,
            planned_at: planned_at.clone(),
            topic: job.topic.clone(),
            message_id: id.to_string(),
        };
        let headers: BTreeMap<String, String> = [
            ("sender", SENDER.to_owned()),
            ("cron_job_id", job.id.clone()),
            ("cron_iteration", iteration.to_string()),
            ("cron_planned_at", planned_at),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let message = OwnRecord {
            topic: job.topic.clone(),
            kind: "message".to_owned(),
            data: serde_json::to_vec(&job.payload)
                .or(Err(Error::Internal))?
                .into(),
            headers,
            id: Some(id),
            producer: SENDER.to_owned(),
            room: job.room.clone().unwrap_or_default(),
            ..OwnRecord::default()
        };
        let said = OwnRecord {
            topic: marker.clone(),
            kind: FIRED.to_owned(),
            data: serde_json::to_vec(&fired).or(Err(Error::Internal))?.into(),
            key: job.id.clone(),
            ..OwnRecord::default()
        };
        let expected = Expected {
            topic: marker,
            last: self.marker,
        };
        let stored = reality.store(vec![message, said], Some(&expected))?;
        Ok(Self {
            iteration,
            planned_ms,
            marker: stored.last.get(),
        })
    }
}

/// The same for every attempt at one firing, and for no two firings.
fn id_of(job: &str, planned_ms: u64) -> Uuid {
    let digest = Sha256::digest(format!("{job}\n{planned_ms}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}
