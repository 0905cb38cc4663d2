//! The commands of the older system, for the projection of the Continuum contract. Their names,
//! arguments and results are its own.

use std::time::{Duration, Instant};

use serde_json::{Map, Value as Json};

use super::entry;
use super::general::{limit, listed};
use super::shown;
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::broker::{RealityName, Role};
use crate::edge::shield::Fault;
use crate::edge::shield::command::{Call, Handler};
use crate::log::Sequence;
use crate::projections::continuum::event::{Event, Type};
use crate::projections::continuum::{EPISODES, EVENTS, LETTERS, NAME, TOPIC, episode_key};
use crate::projections::fold::Outcome;
use crate::projections::letter::letter_id;
use crate::projections::sink::Query;
use crate::projections::table::{Cell, Key, Row, Table};
use crate::proto::ErrorCode;
use crate::proto::topic::CONTINUUM_DEAD_LETTERS;
use crate::proto::v1::envelope::Payload;
use crate::proto::v1::{self, Value};

/// How long is waited for what becomes of an event.
const PROJECTED_WITHIN: Duration = Duration::from_secs(10);
/// And for its dead letter to be found in the table.
const LETTER_WITHIN: Duration = Duration::from_secs(1);
const LETTER_EVERY: Duration = Duration::from_millis(20);
/// What comes before the reason of a dead letter.
const REASON_PREFIX: &str = "projection_failed:";
/// The column of episodes that the newest is known by, and that of dead letters.
const UPDATED_AT: &str = "updated_at";
const QUEUED_AT: &str = "queued_at";

const TENANT: Argument = Argument {
    name: "tenant_id",
    kind: Kind::Text,
    required: false,
    doc: "the caller's tenant; no other can be asked for",
};
const LIMIT: Argument = Argument {
    name: "limit",
    kind: Kind::Integer,
    required: false,
    doc: "items at most, 1 to 1,000; 100 if left out",
};
const AGENT: Argument = Argument {
    name: "agent_id",
    kind: Kind::Text,
    required: false,
    doc: "only this agent's",
};

const DLQ_LIST: Command<Handler> = Command {
    name: "op.continuum.projector.dlq.list",
    role: Role::Admin,
    effect: Effect::Shows,
    arguments: &[LIMIT],
    doc: "Lists the tenant's events that could not be projected, the newest first.",
    handler: dead_letters,
};

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[
    DLQ_LIST,
    Command {
        name: "op.continuum.projector.dlq_list",
        doc: "The same as op.continuum.projector.dlq.list.",
        ..DLQ_LIST
    },
    Command {
        name: "op.continuum.projector.get",
        role: Role::Admin,
        effect: Effect::Shows,
        arguments: &[
            TENANT,
            Argument {
                required: true,
                doc: "whose episode it is",
                ..AGENT
            },
            Argument {
                name: "episode_id",
                kind: Kind::Text,
                required: true,
                doc: "the episode",
            },
        ],
        doc: "Shows what is known of an episode.",
        handler: get,
    },
    Command {
        name: "op.continuum.projector.list",
        role: Role::Admin,
        effect: Effect::Shows,
        arguments: &[LIMIT, TENANT, AGENT],
        doc: "Lists what is known of the tenant's episodes, deleted ones too, the newest first.",
        handler: list,
    },
    Command {
        name: "op.continuum.projector.project_event",
        role: Role::Admin,
        effect: Effect::Writes,
        arguments: &[Argument {
            name: "event",
            kind: Kind::Object,
            required: true,
            doc: "the event, as the contract has it in JSON",
        }],
        doc: "Appends an event of the Continuum contract, and says what the projector did with it.",
        handler: project_event,
    },
    Command {
        name: "op.continuum.projector.status",
        role: Role::Admin,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Counts the episodes, events and dead letters of the tenant, and shows how their projection stands in each sink.",
        handler: status,
    },
];

fn tenant<'a>(call: &'a Call<'_>) -> &'a str {
    call.tenancy.tenant().as_str()
}

/// Nobody asks for another tenant's.
fn check_tenant(call: &Call<'_>, named: Option<&str>, field: &str) -> Result<(), Fault> {
    match named {
        None => Ok(()),
        Some(named) if named == tenant(call) => Ok(()),
        Some(_) => {
            let text = "tenant_id must be the tenant of your token, or be left out";
            Err(Fault::new(ErrorCode::TenantMismatch, field, text))
        }
    }
}

fn table<'a>(call: &'a Call<'_>, place: usize) -> Result<&'a Table, Fault> {
    let kept = call.projections.find(NAME)?;
    let table = kept.projection.tables().get(place);
    table.ok_or_else(|| crate::broker::Error::Internal.into())
}

fn status(call: &Call<'_>) -> Result<Value, Fault> {
    let count = |table| Ok::<_, Fault>(call.projections.count(tenant(call), NAME, None, table)?);
    let (episodes, events, letters) = (count(EPISODES)?, count(EVENTS)?, count(LETTERS)?);
    let now = call.broker.now();
    let lanes = call.projections.status(Some(tenant(call)));
    let sinks = lanes.iter().filter(|lane| lane.projection == NAME);
    Ok(Value::object([
        ("projection_count", Value::from(episodes)),
        ("seen_event_count", events.into()),
        ("dlq_count", letters.into()),
        ("event_log_count", events.into()),
        (
            "sinks",
            sinks.map(|lane| shown::standing(lane, now, true)).collect(),
        ),
    ]))
}

/// The columns that the older system has.
fn episode(table: &Table, row: Row) -> Value {
    const OWN: &str = "last_sequence";
    let columns = table.columns.iter().zip(row.0);
    let columns = columns.filter(|(column, _)| column.name != OWN);
    Value::object(columns.map(|(column, cell)| (column.name.as_str(), shown::cell(cell))))
}

fn get(call: &Call<'_>) -> Result<Value, Fault> {
    check_tenant(
        call,
        call.arguments.text("tenant_id"),
        "arguments.tenant_id",
    )?;
    let text = |name| call.arguments.text(name).unwrap_or_default();
    let (agent, id) = (text("agent_id"), text("episode_id"));
    let key = episode_key(tenant(call), agent, id);
    let row = call
        .projections
        .row(tenant(call), NAME, None, EPISODES, &key)?;
    let table = table(call, EPISODES)?;
    Ok(match row {
        Some(row) => Value::object([
            ("found", Value::from(true)),
            ("projection", episode(table, row)),
        ]),
        None => Value::object([
            ("found", Value::from(false)),
            ("tenant_id", tenant(call).into()),
            ("agent_id", agent.into()),
            ("episode_id", id.into()),
        ]),
    })
}

fn list(call: &Call<'_>) -> Result<Value, Fault> {
    check_tenant(
        call,
        call.arguments.text("tenant_id"),
        "arguments.tenant_id",
    )?;
    let table = table(call, EPISODES)?;
    let agent = call.arguments.text("agent_id");
    let agent = agent.and_then(|agent| Some((table.column("agent_id")?, Cell::from(agent))));
    let query = Query {
        equal: agent.into_iter().collect(),
        newest_by: table.column(UPDATED_AT),
        after: None,
        limit: limit(call)?,
    };
    let rows = call
        .projections
        .rows(tenant(call), NAME, None, EPISODES, &query)?;
    Ok(listed(rows, query.limit, |row| (episode(table, row), None)))
}

fn dead_letters(call: &Call<'_>) -> Result<Value, Fault> {
    let table = table(call, LETTERS)?;
    let query = Query {
        newest_by: table.column(QUEUED_AT),
        limit: limit(call)?,
        ..Query::default()
    };
    let rows = call
        .projections
        .rows(tenant(call), NAME, None, LETTERS, &query)?;
    Ok(listed(rows, query.limit, |row| (letter(table, row), None)))
}

/// A dead letter: `topic` is where letters are, as in the older system; where the event came from
/// is beside it.
fn letter(table: &Table, row: Row) -> Value {
    let columns = table.columns.iter().zip(row.0);
    let columns = columns.filter_map(|(column, cell)| {
        let name = match column.name.as_str() {
            "tenant_id" => return None,
            "topic" => "original_topic",
            name => name,
        };
        Some((name, shown::cell(cell)))
    });
    Value::object(
        [("topic", CONTINUUM_DEAD_LETTERS.into())]
            .into_iter()
            .chain(columns),
    )
}

fn project_event(call: &Call<'_>) -> Result<Value, Fault> {
    let fields = call.arguments.object("event");
    let fields = fields.ok_or_else(|| Fault::invalid("arguments.event", "event is missing"))?;
    let named = fields.get("tenant_id").and_then(Json::as_str);
    check_tenant(call, named, "arguments.event.tenant_id")?;
    let kept = call.projections.find(NAME)?;
    let reality = RealityName::new(kept.projection.reality())
        .map_err(|_no_name| Fault::from(crate::broker::Error::Internal))?;
    let envelope = envelope(fields);
    let (sequence, outcome) = call.projections.project(
        tenant(call),
        NAME,
        PROJECTED_WITHIN.min(call.wait_max),
        || entry::append(call, &reality, &envelope, "arguments.event"),
    )?;
    result(call, fields, sequence, outcome)
}

fn envelope(fields: &Map<String, Json>) -> v1::Envelope {
    let kind = fields.get("event_type").and_then(Json::as_str);
    let kind: String = kind.unwrap_or(TOPIC).chars().take(64).collect();
    v1::Envelope {
        topic: TOPIC.to_owned(),
        headers: [("content-type".to_owned(), "application/json".to_owned())].into(),
        payload: Some(Payload::Event(v1::Event {
            r#type: kind,
            data: Json::Object(fields.clone()).to_string().into(),
        })),
        ..v1::Envelope::default()
    }
}

/// What the projector did, as the older system says it.
fn result(
    call: &Call<'_>,
    fields: &Map<String, Json>,
    sequence: Sequence,
    outcome: Option<Outcome>,
) -> Result<Value, Fault> {
    let event = Event::from_json(fields.clone(), tenant(call));
    let status = match outcome {
        None => "pending",
        Some(outcome) => outcome.as_str(),
    };
    let mut said = vec![
        ("status", Value::from(status)),
        ("sequence", sequence.get().into()),
    ];
    if outcome == Some(Outcome::Dead) {
        let kept = call.projections.find(NAME)?;
        let dlq_id = letter_id(NAME, tenant(call), kept.projection.reality(), sequence);
        let error = match event {
            Err(poison) => poison.reason,
            Ok(_) => reason(call, &dlq_id)?,
        };
        said.push(("error", error.into()));
        said.push(("dlq_id", dlq_id.into()));
        return Ok(Value::object(said));
    }
    let Ok(event) = event else {
        return Ok(Value::object(said));
    };
    let key = [&event.tenant_id, &event.agent_id, &event.episode_id];
    said.push(("event_id", event.event_id.as_str().into()));
    said.push((
        "projection_key",
        key.into_iter().map(String::as_str).collect(),
    ));
    match outcome {
        Some(Outcome::Projected) => {
            said.push(("deleted", (event.event_type == Type::Deleted).into()));
        }
        Some(Outcome::Stale) => {
            let key = episode_key(&event.tenant_id, &event.agent_id, &event.episode_id);
            let row = call
                .projections
                .row(tenant(call), NAME, None, EPISODES, &key)?;
            let at = table(call, EPISODES)?.column("last_event_ts");
            let time = row.zip(at).and_then(|(row, at)| row.0.get(at).cloned());
            said.push((
                "existing_last_event_ts",
                shown::cell(time.unwrap_or(Cell::Null)),
            ));
        }
        _ => {}
    }
    Ok(Value::object(said))
}

/// Why a dead letter is one, where the sink alone knows: from its row, which comes a moment after
/// the letter itself.
fn reason(call: &Call<'_>, dlq_id: &str) -> Result<String, Fault> {
    let table = table(call, LETTERS)?;
    let key = Key([tenant(call), dlq_id].map(Cell::from).to_vec());
    let started = Instant::now();
    loop {
        let row = call
            .projections
            .row(tenant(call), NAME, None, LETTERS, &key)?;
        let at = table.column("reason");
        let found = row
            .as_ref()
            .zip(at)
            .and_then(|(row, at)| row.0.get(at)?.text());
        if let Some(reason) = found {
            let reason = reason.strip_prefix(REASON_PREFIX).unwrap_or(reason);
            return Ok(reason.to_owned());
        }
        if started.elapsed() > LETTER_WITHIN {
            return Ok("the sink refused it; its dead letter says why".to_owned());
        }
        std::thread::sleep(LETTER_EVERY);
    }
}
