//! What projections write into a tenant's reality `_system`: where they stand, who paused them, and
//! which jobs ran beside them.

use serde_json::json;

use super::fold::Outcome;
use super::jobs::Job;
use super::logs::{Feed, LogsError, NewEvent};
use super::sink::{Position, SinkKind};
use crate::log::Sequence;

/// An event of a lane that stands somewhere.
pub(super) const CHECKPOINT: &str = "projection.checkpoint";
/// Somebody paused a lane.
pub(super) const PAUSED: &str = "projection.paused";
/// Somebody let it go on.
pub(super) const RESUMED: &str = "projection.resumed";

/// Work beside a lane has begun, or has ended.
pub(super) const JOB_STARTED: &str = "projection.job_started";
pub(super) const JOB_ENDED: &str = "projection.job_ended";

fn event(topic: String, kind: &'static str, data: &serde_json::Value) -> NewEvent {
    NewEvent {
        topic,
        kind,
        schema: "",
        data: data.to_string().into(),
        key: String::new(),
    }
}

/// Topic of the positions of a projection.
pub(super) fn checkpoint_topic(projection: &str) -> String {
    format!("sys.projection.checkpoint.{projection}")
}

/// Topic of what was done to a projection.
pub(super) fn control_topic(projection: &str) -> String {
    format!("sys.projection.control.{projection}")
}

pub(super) fn checkpoint(projection: &str, sink: SinkKind, stands: Position) -> NewEvent {
    let hash = hex(&stands.hash);
    let data = json!({
        "projection": projection,
        "sink": sink.as_str(),
        "next": stands.next.get(),
        "hash": hash,
    });
    event(checkpoint_topic(projection), CHECKPOINT, &data)
}

pub(super) fn control(projection: &str, sink: SinkKind, paused: bool, by: &str) -> NewEvent {
    let data = json!({ "projection": projection, "sink": sink.as_str(), "by": by });
    let kind = if paused { PAUSED } else { RESUMED };
    event(control_topic(projection), kind, &data)
}

/// Whether the lane of `sink` was paused last.
pub(super) fn is_paused(
    feed: &dyn Feed,
    projection: &str,
    sink: SinkKind,
) -> Result<bool, LogsError> {
    let mut paused = false;
    for note in feed.notes(&control_topic(projection))? {
        let Ok(data) = serde_json::from_slice::<serde_json::Value>(&note.data) else {
            continue;
        };
        let is_control = note.kind == PAUSED || note.kind == RESUMED;
        if is_control && data["sink"] == sink.as_str() {
            paused = note.kind == PAUSED;
        }
    }
    Ok(paused)
}

/// A job as it is when it begins, or when it has ended.
pub(super) fn job(job: &Job, happened: &'static str) -> NewEvent {
    let outcomes: serde_json::Map<_, _> = Outcome::ALL
        .into_iter()
        .map(|outcome| (outcome.as_str().to_owned(), job.count(outcome).into()))
        .collect();
    let data = json!({
        "job": job.id,
        "kind": job.kind.as_str(),
        "projection": job.projection,
        "sink": job.sink.as_str(),
        "by": job.by,
        "state": job.state.as_str(),
        "records_read": job.read,
        "outcomes": outcomes,
        "error": job.error,
    });
    event(control_topic(&job.projection), happened, &data)
}

/// Where the lane of `sink` said that it stood, and the hash over what it had projected.
pub(super) fn checkpoints(
    feed: &dyn Feed,
    projection: &str,
    sink: SinkKind,
) -> Result<Vec<(Sequence, String)>, LogsError> {
    let notes = feed.notes(&checkpoint_topic(projection))?;
    let read = notes
        .iter()
        .filter(|note| note.kind == CHECKPOINT)
        .filter_map(|note| {
            let data: serde_json::Value = serde_json::from_slice(&note.data).ok()?;
            let next = Sequence::new(data["next"].as_u64()?)?;
            (data["sink"] == sink.as_str())
                .then(|| Some((next, data["hash"].as_str()?.to_owned())))?
        });
    Ok(read.collect())
}

/// A hash as it is written everywhere.
pub(super) fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
