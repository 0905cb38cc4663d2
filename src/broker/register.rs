//! Which realities a tenant has, and where each comes from.
//!
//! A fold of the topics `sys.reality.<name>` in `_system`: the last record of each says whether it
//! was created, forked or deleted, when, and by whom. Opens no log but that one.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};

use super::error::Error;
use super::name::RealityName;
use super::reality::Reality;
use super::system;
use crate::log::Found;
use crate::proto::view::RecordView;

/// First tokens of the topics that say which realities there are.
pub(super) const TOPIC_PREFIX: &str = "sys.reality.";
const CREATED: &str = "reality.created";
const FORKED: &str = "reality.forked";
const DELETED: &str = "reality.deleted";

/// How a reality came into being.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Birth {
    /// Empty.
    Created,
    /// As a fork.
    Forked {
        /// The reality that it was forked from, which may be gone.
        from: RealityName,
        /// The last sequence that both have; 0 = none.
        at: u64,
    },
}

/// What the system reality says.
#[derive(Debug, Default)]
pub(super) struct Register {
    pub(super) there: BTreeMap<RealityName, Birth>,
}

impl Register {
    /// Reads the last record of each topic. Where it cannot be read, the reality's own directory
    /// has to tell. Blocks on the disk.
    pub(super) fn fold(system: &Reality) -> Self {
        let mut register = Self::default();
        let log = system.log();
        let topics = log.topics().unwrap_or_else(|error| {
            let tenant = system.tenant();
            tracing::error!(%tenant, %error, "realities not folded; taken from the directories");
            Vec::new()
        });
        for topic in topics {
            let Some(name) = name_in(&topic.topic) else {
                continue;
            };
            if let Some(birth) = birth_in(&log.read(topic.last, topic.last.next(), 1)) {
                register.there.insert(name, birth);
            }
        }
        register
    }
}

fn name_in(topic: &str) -> Option<RealityName> {
    RealityName::new(topic.strip_prefix(TOPIC_PREFIX)?).ok()
}

/// What a record says; `None` if it says that the reality is gone, or nothing that is understood.
fn birth_in<E>(found: &Result<Found, E>) -> Option<Birth> {
    let Ok(Found::Records(chunk)) = found else {
        return None;
    };
    let record = chunk.iter().next()?;
    let view = RecordView::parse(record.record).ok()?;
    match view.envelope.payload.kind() {
        CREATED => Some(Birth::Created),
        FORKED => {
            let data: Value = serde_json::from_slice(view.envelope.payload.data()).ok()?;
            let from = RealityName::new(data.get("from")?.as_str()?).ok()?;
            let at = data.get("at")?.as_u64()?;
            Some(Birth::Forked { from, at })
        }
        _ => None,
    }
}

/// Whether the last record on `topic` is an event with `data`.
pub(super) fn is_last(system: &Reality, topic: &str, data: &str) -> bool {
    let log = system.log();
    let topics = log.topics().unwrap_or_default();
    let Some(last) = topics.iter().find(|one| one.topic == topic) else {
        return false;
    };
    let Ok(Found::Records(chunk)) = log.read(last.last, last.last.next(), 1) else {
        return false;
    };
    let is_it = |record: &[u8]| {
        let view = RecordView::parse(record);
        view.is_ok_and(|view| view.envelope.payload.data() == data.as_bytes())
    };
    chunk
        .iter()
        .next()
        .is_some_and(|record| is_it(record.record))
}

/// Notes how a reality came into being. On disk on `Ok`. Blocks.
pub(super) fn note_birth(
    system: &Reality,
    name: &RealityName,
    birth: &Birth,
    by: &str,
) -> Result<(), Error> {
    let (kind, data) = match birth {
        Birth::Created => (CREATED, json!({ "by": by })),
        Birth::Forked { from, at } => {
            let data = json!({ "by": by, "from": from.as_str(), "at": at });
            (FORKED, data)
        }
    };
    note(system, name, kind, &data.to_string())
}

/// Notes that a reality is gone, once; `data` says by whom and since when. On disk on `Ok`. Blocks.
pub(super) fn note_death(system: &Reality, name: &RealityName, data: &str) -> Result<(), Error> {
    if is_last(system, &format!("{TOPIC_PREFIX}{name}"), data) {
        return Ok(());
    }
    note(system, name, DELETED, data)
}

fn note(system: &Reality, name: &RealityName, kind: &str, data: &str) -> Result<(), Error> {
    let topic = format!("{TOPIC_PREFIX}{name}");
    let data = Bytes::copy_from_slice(data.as_bytes());
    let record = system::event(system, topic, kind, "", data);
    system::append_and_wait(system, record).map(drop)
}
