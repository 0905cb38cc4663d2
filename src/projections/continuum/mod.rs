//! The Continuum contract: episodes of agents as events, and the tables of what is known of them.
//!
//! - [`event`]: the event and its rules, from whichever form.
//! - [`form`]: the forms in which an event comes: typed protobuf, JSON, and what clients of the
//!   older system wrap JSON in.
//!
//! The names of the tables and of their columns are those of the older system, so that a database
//! of it goes on being used. Knows no sink.

use super::letter;
use super::projection::{Change, DeadLetters, Poison, Projection, Source};
use super::table::{Cell, Column, Key, Kind, Row, Rule, Table};
use crate::log::Micros;
use crate::proto::topic::CONTINUUM_DEAD_LETTERS;

pub mod event;
pub mod form;
mod metadata;
#[cfg(test)]
mod tests;

use event::Event;

/// What the projection is called.
pub const NAME: &str = "continuum";
/// Topic of the events.
pub const TOPIC: &str = "continuum.episode.v1";
/// Place of the table of episodes: what is known of each.
pub const EPISODES: usize = 0;
/// Place of the table of events, by which repeated ones are known.
pub const EVENTS: usize = 1;
/// Place of the table of dead letters.
pub const LETTERS: usize = 2;

/// Whether the table of events is filled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum History {
    /// One row for each event: a repeated event is known for ever, and the table says what became
    /// of each.
    Kept,
    /// The table stays as it is. An event is known again as long as its row shows it; an older one
    /// counts as stale.
    LeftOut,
}

/// The projection of the Continuum contract.
#[derive(Debug)]
pub struct Continuum {
    topics: [String; 2],
    tables: [Table; 3],
    dead_letters: DeadLetters,
    history: History,
}

impl Continuum {
    /// The projection, with a history of events or without.
    #[must_use]
    pub fn new(history: History) -> Self {
        Self {
            topics: [TOPIC, CONTINUUM_DEAD_LETTERS].map(str::to_owned),
            tables: [
                episodes(),
                events(),
                letter::table("arqonbus_continuum_projection_dlq"),
            ],
            dead_letters: DeadLetters {
                topic: CONTINUUM_DEAD_LETTERS.to_owned(),
                table: LETTERS,
            },
            history,
        }
    }
}

impl Projection for Continuum {
    fn name(&self) -> &str {
        NAME
    }

    fn reality(&self) -> &str {
        "main"
    }

    fn topics(&self) -> &[String] {
        &self.topics
    }

    fn tables(&self) -> &[Table] {
        &self.tables
    }

    fn dead_letters(&self) -> &DeadLetters {
        &self.dead_letters
    }

    fn read(&self, source: &Source<'_>) -> Result<Vec<Change>, Poison> {
        if source.record.topic == self.dead_letters.topic {
            return Ok(letter::changes(self, source, &form::shown));
        }
        let event = form::read(source.record, source.tenant)?;
        let event_id = event.event_id.clone();
        self.changes(event, source).map_err(|mut poison| {
            poison.event_id = event_id;
            poison
        })
    }
}

impl Continuum {
    fn changes(&self, event: Event, source: &Source<'_>) -> Result<Vec<Change>, Poison> {
        let sequence = i64::try_from(source.sequence.get()).map_or(Cell::Null, Cell::Integer);
        let mut changes = Vec::with_capacity(2);
        if self.history == History::Kept {
            let row = history_row(&event, source.appended_at, sequence.clone());
            row.check(&self.tables[EVENTS])?;
            let table = EVENTS;
            changes.push(Change::Put { table, row });
        }
        let row = episode_row(event, source.appended_at, sequence);
        row.check(&self.tables[EPISODES])?;
        let table = EPISODES;
        changes.push(Change::Put { table, row });
        Ok(changes)
    }
}

/// The key of an episode's row. The case of a ULID does not matter.
#[must_use]
pub fn episode_key(tenant: &str, agent_id: &str, episode_id: &str) -> Key {
    let episode_id = event::ulid(episode_id).unwrap_or_else(|| episode_id.to_owned());
    Key([tenant, agent_id, &episode_id].map(Cell::from).to_vec())
}

fn episodes() -> Table {
    use Kind::{Boolean, Integer, Json, Text, Timestamp};
    let columns = vec![
        Column::new("tenant_id", Text),
        Column::new("agent_id", Text),
        Column::new("episode_id", Text),
        Column::new("event_type", Text),
        Column::new("content_ref", Text),
        Column::nullable("summary", Text),
        Column::new("tags", Json),
        Column::nullable("embedding_ref", Text),
        Column::new("metadata", Json),
        Column::new("last_event_id", Text),
        Column::new("last_event_ts", Timestamp),
        Column::new("updated_at", Timestamp),
        Column::new("deleted", Boolean),
        Column::nullable("last_sequence", Integer),
    ];
    Table {
        name: "arqonbus_continuum_projection".to_owned(),
        columns,
        key: vec![0, 1, 2],
        // Of two events of one time the id decides, so that the order of arrival never does.
        rule: Rule::Newest(vec![10, 9]),
        outcome: None,
    }
}

fn episode_row(event: Event, appended_at: Micros, sequence: Cell) -> Row {
    let optional = |text: Option<String>| text.map_or(Cell::Null, Cell::Text);
    Row(vec![
        Cell::Text(event.tenant_id),
        Cell::Text(event.agent_id),
        Cell::Text(event.episode_id),
        Cell::from(event.event_type.as_str()),
        Cell::Text(event.payload.content_ref),
        optional(event.payload.summary),
        Cell::Json(super::json::canonical(&event.payload.tags.into())),
        optional(event.payload.embedding_ref),
        Cell::Json(super::json::canonical(&event.payload.metadata.into())),
        Cell::Text(event.event_id),
        Cell::Timestamp(event.source_ts),
        Cell::Timestamp(appended_at),
        // Its other columns are those of the event all the same: a tombstone is a row.
        Cell::Boolean(event.event_type == event::Type::Deleted),
        sequence,
    ])
}

fn events() -> Table {
    use Kind::{Integer, Json, Text, Timestamp};
    let columns = vec![
        Column::new("tenant_id", Text),
        Column::new("agent_id", Text),
        Column::new("event_id", Text),
        Column::new("episode_id", Text),
        Column::new("event_type", Text),
        Column::new("source_ts", Timestamp),
        Column::new("event", Json),
        Column::new("projected_at", Timestamp),
        Column::nullable("outcome", Text),
        Column::nullable("sequence", Integer),
    ];
    Table {
        name: "arqonbus_continuum_projection_events".to_owned(),
        columns,
        key: vec![0, 1, 2],
        rule: Rule::First,
        outcome: Some(8),
    }
}

fn history_row(event: &Event, appended_at: Micros, sequence: Cell) -> Row {
    Row(vec![
        Cell::from(&*event.tenant_id),
        Cell::from(&*event.agent_id),
        Cell::from(&*event.event_id),
        Cell::from(&*event.episode_id),
        Cell::from(event.event_type.as_str()),
        Cell::Timestamp(event.source_ts),
        Cell::Json(super::json::canonical(&event.to_json())),
        Cell::Timestamp(appended_at),
        Cell::Null,
        sequence,
    ])
}
