//! What projections write into a tenant's reality `_system`: where they stand, and who paused them.

use serde_json::json;

use super::logs::{Feed, LogsError, NewEvent};
use super::sink::{Position, SinkKind};

/// An event of a lane that stands somewhere.
pub(super) const CHECKPOINT: &str = "projection.checkpoint";
/// Somebody paused a lane.
pub(super) const PAUSED: &str = "projection.paused";
/// Somebody let it go on.
pub(super) const RESUMED: &str = "projection.resumed";

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
    let hash: String = stands
        .hash
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
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
        if data["sink"] == sink.as_str() {
            paused = note.kind == PAUSED;
        }
    }
    Ok(paused)
}
