//! Episode events, encoded, and the rows that they come to.

use std::collections::HashMap;

use arqonbus::log::{Micros, Sequence};
use arqonbus::projections::continuum::{Continuum, EVENTS, History, TOPIC};
use arqonbus::projections::projection::{Change, Payloads, Projection as _, Source};
use arqonbus::projections::table::{Row, Table};
use arqonbus::proto::continuum::{EpisodeEvent, EpisodePayload};
use arqonbus::proto::v1::{Envelope, Event, Record, envelope};
use arqonbus::proto::view::RecordView;
use bytes::Bytes;
use prost::Message as _;
use prost_types::value::Kind;

/// Events of each episode: half of them make rows, half change them.
const OF_EPISODE: usize = 2;
const AGENTS: usize = 50;
/// As many events as one plain statement takes.
pub(crate) const BATCH: usize = 1_000;

/// No payload needs a schema here.
#[derive(Debug)]
pub(crate) struct NoSchemas;

impl Payloads for NoSchemas {
    fn to_json(&self, _: &str, _: &RecordView<'_>) -> Option<serde_json::Value> {
        None
    }
}

fn event(tenant: &str, number: usize, count: usize) -> EpisodeEvent {
    let episode = number % (count / OF_EPISODE).max(1);
    let seconds = 1_770_000_000 + i64::try_from(number / 1_000_000).unwrap();
    let nanos = i32::try_from(number % 1_000_000).unwrap() * 1_000;
    let number_value = prost_types::Value {
        kind: Some(Kind::NumberValue(f64::from(nanos))),
    };
    EpisodeEvent {
        event_id: format!("01900000-0000-7000-8000-{number:012x}"),
        event_type: if number < count / OF_EPISODE {
            "episode.created".to_owned()
        } else {
            "episode.updated".to_owned()
        },
        tenant_id: tenant.to_owned(),
        agent_id: format!("agent-{}", episode % AGENTS),
        // In no order: 7,919 is prime.
        episode_id: format!("01ARZ3NDEK{:016}", episode * 7_919 % 100_000_007),
        source_ts: Some(prost_types::Timestamp { seconds, nanos }),
        schema_version: 1,
        payload: Some(EpisodePayload {
            content_ref: format!("sqlite://episodes/{episode}"),
            summary: Some("Found the cause of the outage, and what to do about it".to_owned()),
            tags: vec!["outage".to_owned(), "network".to_owned()],
            embedding_ref: Some(format!("sqlite://vectors/{episode}")),
            metadata: Some(prost_types::Struct {
                fields: [("turns".to_owned(), number_value)].into(),
            }),
        }),
    }
}

/// Event `number` of `count`, as a client sends it.
pub(crate) fn encoded(tenant: &str, number: usize, count: usize) -> Bytes {
    let envelope = Envelope {
        topic: TOPIC.to_owned(),
        schema: "arqon.continuum.v1.EpisodeEvent".to_owned(),
        payload: Some(envelope::Payload::Event(Event {
            r#type: "episode".to_owned(),
            data: event(tenant, number, count).encode_to_vec().into(),
        })),
        ..Envelope::default()
    };
    envelope.encode_to_vec().into()
}

/// The rows of one batch of a plain technique; no key twice.
pub(crate) struct Rows {
    pub(crate) episodes: Vec<Row>,
    pub(crate) events: Vec<Row>,
}

impl Rows {
    /// Those of the table at a place of [`tables`].
    pub(crate) fn of(&self, table: usize) -> &[Row] {
        if table == EVENTS {
            &self.events
        } else {
            &self.episodes
        }
    }
}

/// The tables that rows go to.
pub(crate) fn tables() -> Vec<Table> {
    Continuum::new(History::Kept).tables().to_vec()
}

/// What the projection makes of `count` events, in batches.
pub(crate) fn rows(tenant: &str, count: usize, history: History) -> Vec<Rows> {
    let projection = Continuum::new(history);
    let mut batches = Vec::new();
    for first in (0..count).step_by(BATCH) {
        let mut events = Vec::new();
        let mut episodes = HashMap::new();
        for number in first..(first + BATCH).min(count) {
            for change in changes(&projection, tenant, number, count) {
                match change {
                    Change::Put { table: EVENTS, row } => events.push(row),
                    Change::Put { table, row } => {
                        let key = projection.tables()[table].key_of(&row).encoded();
                        episodes.insert(key, row);
                    }
                    Change::Remove { .. } => {}
                }
            }
        }
        batches.push(Rows {
            episodes: episodes.into_values().collect(),
            events,
        });
    }
    batches
}

fn changes(projection: &Continuum, tenant: &str, number: usize, count: usize) -> Vec<Change> {
    let sequence = Sequence::at_least_first(number as u64 + 1);
    let record = Record {
        sequence: sequence.get(),
        appended_at: 1_770_000_000_000_000,
        topic: TOPIC.to_owned(),
        envelope: encoded(tenant, number, count),
        ..Record::default()
    };
    let record = record.encode_to_vec();
    let record = RecordView::parse(&record).unwrap();
    let source = Source {
        tenant,
        reality: "main",
        sequence,
        appended_at: Micros(record.appended_at),
        record: &record,
        payloads: &NoSchemas,
    };
    projection.read(&source).unwrap()
}
