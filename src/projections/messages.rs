//! Messages as rows, in the table that the older system kept its history in (PRJ-19), so that what
//! reads it there goes on reading.
//!
//! The table keeps the older columns and meanings: one row a message id, the first one stays; a
//! room and a channel that nobody named are `default`. New are whose it is, its topic and its place
//! in the log, which the rows of older times do not have.

use prost::Message as _;
use serde_json::Value;

use super::json;
use super::letter;
use super::projection::{Change, DeadLetters, Poison, Projection, Source};
use super::sink::SinkKind;
use super::table::{Cell, Column, Kind, Row, Rule, Table};
use crate::config::projections::{DEAD_LETTER_TABLE, DEAD_LETTERS, MessageEntry, MessageSink};
use crate::proto::json::{Origin, PayloadForm, RecordJson, Schemas, message_of};
use crate::proto::pybus::BusPayload;
use crate::proto::view::RecordView;

/// Message that clients of the older system put into `data`.
const BUS_PAYLOAD: &str = "arqon.pybus.v1.BusPayload";
/// What a room or a channel is called that nobody named.
const DEFAULT: &str = "default";

/// The room and the channel that a topic stands for, if it stands for any.
pub type Rooms = fn(topic: &str) -> Option<(String, String)>;

/// A projection of messages.
#[derive(Debug)]
pub struct Messages {
    name: String,
    reality: String,
    topics: Vec<String>,
    tables: Vec<Table>,
    dead_letters: DeadLetters,
    rooms: Rooms,
    schemas: Schemas,
    proto: bool,
    sinks: Vec<SinkKind>,
}

impl Messages {
    /// The projection that `entry` declares.
    #[must_use]
    pub fn new(entry: &MessageEntry, rooms: Rooms) -> Self {
        let table = table(&entry.table);
        let dead = letter::table(&format!("{}{DEAD_LETTER_TABLE}", table.name));
        let topic = entry.dead_letter_topic();
        let mut topics = entry.topics.clone();
        topics.push(topic.clone());
        let kind_of = |sink: &MessageSink| match sink {
            MessageSink::Sled => SinkKind::Sled,
            MessageSink::Postgres => SinkKind::Postgres,
            MessageSink::Valkey => SinkKind::Valkey,
        };
        Self {
            name: entry.name.clone(),
            reality: entry.reality.clone(),
            topics,
            tables: vec![table, dead],
            dead_letters: DeadLetters { topic, table: 1 },
            rooms,
            schemas: Schemas::builtin(),
            proto: entry.proto,
            sinks: entry.sinks.iter().map(kind_of).collect(),
        }
    }

    /// Where its messages are kept; empty: in every sink there is.
    #[must_use]
    pub fn sinks(&self) -> &[SinkKind] {
        &self.sinks
    }

    fn row(&self, source: &Source<'_>) -> Result<Row, Poison> {
        let record = source.record;
        let said = Said::of(record, self.rooms);
        let sequence = i64::try_from(source.sequence.get());
        let sequence =
            sequence.map_err(|_beyond| Poison::of("sequence", "sequence is beyond 63 bits"))?;
        let proto = match self.proto {
            true => Cell::Bytes(bytes::Bytes::copy_from_slice(record.envelope.encoded)),
            false => Cell::Null,
        };
        let row = Row(vec![
            Cell::from(source.tenant),
            Cell::Text(said.id),
            Cell::Text(said.room),
            Cell::Text(said.channel),
            said.sender.map_or(Cell::Null, Cell::Text),
            Cell::Timestamp(source.appended_at),
            Cell::Json(self.envelope(source)?),
            proto,
            Cell::from(record.topic),
            Cell::Integer(sequence),
        ]);
        row.check(&self.tables[0])?;
        Ok(row)
    }

    /// The record as people read it, in its canonical form.
    fn envelope(&self, source: &Source<'_>) -> Result<String, Poison> {
        let origin = Origin {
            tenant: source.tenant,
            reality: source.reality,
        };
        let shown = RecordJson::new(source.record, origin, &self.schemas);
        let line = shown.to_line();
        let value = line.and_then(|line| serde_json::from_slice::<Value>(&line));
        let mut value = value.map_err(|error| {
            let reason = format!("envelope has no JSON form that a table can hold: {error}");
            Poison::of("envelope", reason)
        })?;
        // What is known here only is the contract of the node, and not that of the tenant.
        if shown.payload_form() == PayloadForm::Opaque
            && let Some(payload) = source.payloads.to_json(source.tenant, source.record)
        {
            value["payload"] = payload;
        }
        Ok(json::canonical(&value))
    }
}

impl Projection for Messages {
    fn name(&self) -> &str {
        &self.name
    }

    fn reality(&self) -> &str {
        &self.reality
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

    fn needs_schemas(&self) -> bool {
        true
    }

    fn read(&self, source: &Source<'_>) -> Result<Vec<Change>, Poison> {
        let topic = source.record.topic;
        if topic == self.dead_letters.topic {
            let shown = |record: &RecordView<'_>| source.payloads.to_json(source.tenant, record);
            return Ok(letter::changes(self, source, &shown));
        }
        // Two projections of everything would feed each other their dead letters for ever.
        if topic.starts_with(DEAD_LETTERS) {
            return Ok(Vec::new());
        }
        let row = self.row(source).map_err(|poison| Poison {
            event_id: source.record.id().into_owned(),
            ..poison
        })?;
        Ok(vec![Change::Put { table: 0, row }])
    }
}

fn table(name: &str) -> Table {
    Table {
        name: name.to_owned(),
        columns: vec![
            Column::new("tenant_id", Kind::Text),
            Column::new("message_id", Kind::Text),
            Column::new("room", Kind::Text),
            Column::new("channel", Kind::Text),
            Column::nullable("sender", Kind::Text),
            Column::new("stored_at", Kind::Timestamp),
            Column::new("envelope", Kind::Json),
            Column::nullable("envelope_proto", Kind::Bytes),
            Column::nullable("topic", Kind::Text),
            Column::nullable("sequence", Kind::Integer),
        ],
        key: vec![0, 1],
        rule: Rule::First,
        outcome: None,
    }
}

/// What a message says of itself in the terms of the older system.
struct Said {
    id: String,
    room: String,
    channel: String,
    sender: Option<String>,
}

impl Said {
    fn of(record: &RecordView<'_>, rooms: Rooms) -> Self {
        let envelope = &record.envelope;
        let there = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let header = |name| envelope.headers.get(name).and_then(there);
        let older = older(record);
        let room = there(envelope.room_id);
        let (id, room, channel, sender) = match &older {
            Some(inner) => {
                let id = there(envelope.trace_id).or_else(|| there(&inner.envelope_id));
                let channel = there(&inner.channel).or_else(|| header("channel"));
                // What such a client leaves unset has the topic of a default, which it never named.
                (id, room, channel, there(&inner.sender))
            }
            None => {
                let (of_topic, channel) = rooms(record.topic).unzip();
                (None, room.or(of_topic), header("channel").or(channel), None)
            }
        };
        let sender = sender.or_else(|| header("sender"));
        Self {
            id: id.unwrap_or_else(|| record.id().into_owned()),
            room: room.unwrap_or_else(|| DEFAULT.to_owned()),
            channel: channel.unwrap_or_else(|| DEFAULT.to_owned()),
            sender: sender.or_else(|| there(record.producer())),
        }
    }
}

/// The payload of a client of the older system.
fn older(record: &RecordView<'_>) -> Option<BusPayload> {
    let data = record.envelope.payload.data();
    (message_of(record) == BUS_PAYLOAD)
        .then(|| BusPayload::decode(data).ok())
        .flatten()
}

#[cfg(test)]
mod tests;
