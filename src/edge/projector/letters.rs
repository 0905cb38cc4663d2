//! Commands that deal with dead letters: replaying them and throwing them away.

use std::time::Duration;

use serde_json::Value as Json;

use crate::broker::Role;
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::edge::shield::Fault;
use crate::edge::shield::command::{Call, Handler};
use crate::log::Micros;
use crate::projections::continuum::NAME as CONTINUUM;
use crate::projections::settle::{Filter, LETTERS_MAX, Settled};
use crate::proto::json::read_micros;
use crate::proto::v1::Value;

/// How long is waited for what becomes of one event.
const WITHIN: Duration = Duration::from_secs(10);
/// Letters that are dealt with when no number is given.
const LIMIT_DEFAULT: u64 = 100;

const NAME: Argument = Argument {
    name: "name",
    kind: Kind::Text,
    required: true,
    doc: "the projection",
};
const DLQ_ID: Argument = Argument {
    name: "dlq_id",
    kind: Kind::Text,
    required: false,
    doc: "the letter with this id",
};
const REASON_HOLDS: Argument = Argument {
    name: "reason_contains",
    kind: Kind::Text,
    required: false,
    doc: "letters whose reason holds this text",
};
const TOPIC: Argument = Argument {
    name: "topic",
    kind: Kind::Text,
    required: false,
    doc: "letters whose event stood on this topic",
};
const NEWER: Argument = Argument {
    name: "newer_than",
    kind: Kind::Text,
    required: false,
    doc: "letters from this time on, RFC 3339",
};
const OLDER: Argument = Argument {
    name: "older_than",
    kind: Kind::Text,
    required: false,
    doc: "letters up to this time",
};
const LIMIT: Argument = Argument {
    name: "limit",
    kind: Kind::Integer,
    required: false,
    doc: "letters at most, 1 to 1,000; 100 if left out",
};

const OLDER_REPLAY: Command<Handler> = Command {
    name: "op.continuum.projector.dlq.replay",
    role: Role::Admin,
    effect: Effect::Changes,
    arguments: &[Argument {
        required: true,
        ..DLQ_ID
    }],
    doc: "Appends the event of a dead letter of the tenant again, and says what the projector did with it.",
    handler: older_replay,
};

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[
    OLDER_REPLAY,
    Command {
        name: "op.continuum.projector.dlq_replay",
        doc: "The same as op.continuum.projector.dlq.replay.",
        ..OLDER_REPLAY
    },
    Command {
        name: "projection.dlq.discard",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            NAME,
            Argument {
                name: "reason",
                kind: Kind::Text,
                required: true,
                doc: "why, for whoever asks later",
            },
            DLQ_ID,
            REASON_HOLDS,
            TOPIC,
            NEWER,
            OLDER,
            LIMIT,
        ],
        doc: "Throws dead letters of the tenant away: one by its id, or those that a filter holds.",
        handler: discard,
    },
    Command {
        name: "projection.dlq.replay",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            NAME,
            DLQ_ID,
            REASON_HOLDS,
            TOPIC,
            NEWER,
            OLDER,
            LIMIT,
            Argument {
                name: "event",
                kind: Kind::Object,
                required: false,
                doc: "what is appended in place of the event of the one letter that dlq_id names",
            },
        ],
        doc: "Appends the events of dead letters of the tenant again, and says of each what became of it.",
        handler: replay,
    },
];

fn tenant<'a>(call: &'a Call<'_>) -> &'a str {
    call.tenancy.tenant().as_str()
}

fn name<'a>(call: &'a Call<'_>) -> &'a str {
    call.arguments.text("name").unwrap_or_default()
}

fn time(call: &Call<'_>, name: &str) -> Result<Option<Micros>, Fault> {
    let Some(text) = call.arguments.text(name) else {
        return Ok(None);
    };
    let time = read_micros(text, true).and_then(|micros| u64::try_from(micros).ok());
    let time = time.ok_or_else(|| {
        let text = format!("{name} must be a time of RFC 3339, like 2026-01-31T12:00:00Z");
        Fault::invalid(&format!("arguments.{name}"), text)
    })?;
    Ok(Some(Micros(time)))
}

/// Which letters. Without any word about it, none: all of them are asked for by a time.
fn filter(call: &Call<'_>) -> Result<Filter, Fault> {
    // An empty text says nothing.
    let text = |name| {
        let text = call.arguments.text(name).filter(|text| !text.is_empty());
        text.map(str::to_owned)
    };
    let limit = call.arguments.integer("limit").unwrap_or(LIMIT_DEFAULT);
    let fits = usize::try_from(limit).ok();
    let limit = fits.filter(|limit| (1..=LETTERS_MAX).contains(limit));
    let limit = limit.ok_or_else(|| {
        let text = format!("limit must be 1 to {LETTERS_MAX}");
        Fault::invalid("arguments.limit", text)
    })?;
    let filter = Filter {
        dlq_id: text("dlq_id"),
        reason: text("reason_contains"),
        topic: text("topic"),
        from: time(call, "newer_than")?,
        to: time(call, "older_than")?,
        limit,
    };
    let open = Filter {
        limit,
        ..Filter::default()
    };
    if filter == open {
        let text = "dlq_id, reason_contains, topic, newer_than or older_than must say which letters are meant";
        return Err(Fault::invalid("arguments.dlq_id", text));
    }
    Ok(filter)
}

fn shown(settled: &Settled) -> Value {
    let optional = |text: Option<&str>| text.map_or_else(Value::default, Value::from);
    let sequence = settled.sequence.map(|sequence| Value::from(sequence.get()));
    Value::object([
        ("dlq_id", Value::from(settled.dlq_id.as_str())),
        (
            "outcome",
            optional(settled.outcome.map(|outcome| outcome.as_str())),
        ),
        ("sequence", sequence.unwrap_or_default()),
        ("error", optional(settled.error.as_deref())),
    ])
}

fn all(settled: &[Settled]) -> Value {
    let gone = settled.iter().filter(|one| one.is_gone()).count();
    Value::object([
        ("count", Value::from(settled.len() as u64)),
        ("settled", (gone as u64).into()),
        ("items", settled.iter().map(shown).collect()),
    ])
}

fn replay(call: &Call<'_>) -> Result<Value, Fault> {
    let filter = filter(call)?;
    let edited = call.arguments.object("event").cloned().map(Json::Object);
    if edited.is_some() && filter.dlq_id.is_none() {
        let text = "event replaces that of one letter: name it with dlq_id";
        return Err(Fault::invalid("arguments.event", text));
    }
    let (by, within) = (&call.caller.subject, WITHIN.min(call.wait_max));
    let settled = call.projections.replay(
        tenant(call),
        name(call),
        &filter,
        edited.as_ref(),
        by,
        within,
    )?;
    Ok(all(&settled))
}

fn discard(call: &Call<'_>) -> Result<Value, Fault> {
    let filter = filter(call)?;
    let reason = call.arguments.text("reason").unwrap_or_default();
    let (by, within) = (&call.caller.subject, WITHIN.min(call.wait_max));
    let settled =
        call.projections
            .discard(tenant(call), name(call), &filter, by, reason, within)?;
    Ok(all(&settled))
}

/// The names of the older system.
fn older_replay(call: &Call<'_>) -> Result<Value, Fault> {
    let dlq_id = call.arguments.text("dlq_id").unwrap_or_default();
    let filter = Filter {
        dlq_id: Some(dlq_id.to_owned()),
        limit: 1,
        ..Filter::default()
    };
    let (by, within) = (&call.caller.subject, WITHIN.min(call.wait_max));
    let settled = call
        .projections
        .replay(tenant(call), CONTINUUM, &filter, None, by, within)?;
    let Some(one) = settled.first() else {
        return Ok(Value::object([
            ("replayed", Value::from(false)),
            ("dlq_id", dlq_id.into()),
            ("reason", "not_found".into()),
        ]));
    };
    let status = one.outcome.map_or("pending", |outcome| outcome.as_str());
    let sequence = one.sequence.map(|sequence| Value::from(sequence.get()));
    let error = one.error.as_deref().map(Value::from);
    let result = Value::object([
        ("status", Value::from(status)),
        ("sequence", sequence.unwrap_or_default()),
        ("error", error.unwrap_or_default()),
    ]);
    Ok(Value::object([
        ("replayed", Value::from(one.is_gone())),
        ("dlq_id", dlq_id.into()),
        ("result", result),
    ]))
}
