//! The commands that answer with a part of a history: the newest of it, or again in order (MSG-08).
//!
//! Owns their arguments, what a caller must name of what it may see, and the form of an answer,
//! which is that of the older system unless something else is asked for. Reading is the broker's.

use std::time::Instant;

use serde_json::{Value as Json, json};

use super::json::envelope::shown;
use super::shield::Fault;
use super::shield::command::{Call, Handler};
use crate::broker::history::{Check, Edge, Part, Window};
use crate::broker::scan::Lost;
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::broker::{Filter, Reality, RealityName, Role, check_token, room};
use crate::log::{Micros, Sequence};
use crate::proto::ErrorCode;
use crate::proto::json::{Origin, RecordJson, Schemas, micros, read_micros};
use crate::proto::v1::Value;
use crate::proto::view::RecordView;

/// Records in an answer, unless the caller says otherwise.
const NEWEST: u64 = 100;
/// Most that it may ask for.
const NEWEST_MAX: u64 = 1_000;
/// The same of a replay.
const REPLAY: u64 = 1_000;
const REPLAY_MAX: u64 = 5_000;
/// Ranges that a refusal names; an answer tells all that were found.
const NAMED_MAX: usize = 3;

const REALITY: Argument =
    Argument::optional("reality", Kind::Text, "the reality; main if left out");
const TOPIC: Argument =
    Argument::optional("topic", Kind::Text, "filter of topics; not with `room`");
const ROOM: Argument = Argument::optional("room", Kind::Text, "a room, instead of `topic`");
const CHANNEL: Argument = Argument::optional(
    "channel",
    Kind::Text,
    "a channel of the room; all if left out",
);
const FORM: Argument = Argument::optional(
    "form",
    Kind::Text,
    "of entries: `message` as JSON clients get it, which is the default, `record`, or `bytes`",
);
const CURSOR: Argument =
    Argument::optional("cursor", Kind::Text, "where the last answer said to go on");

const GET: &[Argument] = &[
    REALITY,
    TOPIC,
    ROOM,
    CHANNEL,
    Argument::optional("since", Kind::Text, "from then on: RFC 3339, or a sequence"),
    Argument::optional("until", Kind::Text, "up to then: RFC 3339, or a sequence"),
    Argument::optional(
        "limit",
        Kind::Integer,
        "most entries, 1 to 1000; 100 if left out",
    ),
    CURSOR,
    FORM,
];
const GET_DOC: &str = "Reads the newest of what was said, newest first.";

const AGAIN: &[Argument] = &[
    REALITY,
    TOPIC,
    ROOM,
    CHANNEL,
    Argument::optional(
        "from_ts",
        Kind::Text,
        "where it begins: RFC 3339, or a sequence",
    ),
    Argument::optional(
        "to_ts",
        Kind::Text,
        "where it ends: RFC 3339, or a sequence",
    ),
    Argument::optional(
        "strict_sequence",
        Kind::Boolean,
        "whether every sequence must be there; true if left out",
    ),
    Argument::optional(
        "limit",
        Kind::Integer,
        "most entries, 1 to 5000; 1000 if left out",
    ),
    CURSOR,
    FORM,
];
const AGAIN_DOC: &str = "Reads what was said again, in order, and checks that nothing is missing.";

const INTO: &[Argument] = &[
    Argument::required("into", Kind::Text, "the other reality, which must be there"),
    REALITY,
    TOPIC,
    ROOM,
    CHANNEL,
    Argument::optional(
        "from_ts",
        Kind::Text,
        "where it begins: RFC 3339, or a sequence",
    ),
    Argument::optional(
        "to_ts",
        Kind::Text,
        "where it ends: RFC 3339, or a sequence",
    ),
    Argument::optional(
        "strict_sequence",
        Kind::Boolean,
        "whether every sequence must be there; true if left out",
    ),
    Argument::optional(
        "limit",
        Kind::Integer,
        "most records of one call, 1 to 5000; 1000 if left out",
    ),
    Argument::optional(
        "name",
        Kind::Text,
        "what the replay is called, to be gone on with; the reality's name if left out",
    ),
];
const INTO_DOC: &str =
    "Replays into another reality, each record once however often it is called; until finished.";

/// The commands of this part. Each has two names, of which the older system knew both.
pub const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "history.get",
        role: Role::User,
        effect: Effect::Shows,
        arguments: GET,
        doc: GET_DOC,
        handler: get,
    },
    Command {
        name: "history.replay",
        role: Role::User,
        effect: Effect::Shows,
        arguments: AGAIN,
        doc: AGAIN_DOC,
        handler: replay,
    },
    Command {
        name: "history.replay_into",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: INTO,
        doc: INTO_DOC,
        handler: replay_into,
    },
    Command {
        name: "op.history.get",
        role: Role::User,
        effect: Effect::Shows,
        arguments: GET,
        doc: GET_DOC,
        handler: get,
    },
    Command {
        name: "op.history.replay",
        role: Role::User,
        effect: Effect::Shows,
        arguments: AGAIN,
        doc: AGAIN_DOC,
        handler: replay,
    },
    Command {
        name: "op.history.replay_into",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: INTO,
        doc: INTO_DOC,
        handler: replay_into,
    },
];

fn get(call: &Call<'_>) -> Result<Value, Fault> {
    let began = Instant::now();
    let asked = Asked::of(call, ("since", "until"), (NEWEST, NEWEST_MAX))?;
    let reality = asked.reality(call)?;
    let part = reality.newest(&asked.window, asked.cursor, asked.limit)?;
    let extra = [
        ("since", given(call, "since")),
        ("until", given(call, "until")),
    ];
    answer(call, &asked, &reality, &part, extra.into(), began)
}

fn replay(call: &Call<'_>) -> Result<Value, Fault> {
    let began = Instant::now();
    let asked = Asked::of(call, ("from_ts", "to_ts"), (REPLAY, REPLAY_MAX))?;
    let strict = call.arguments.boolean("strict_sequence").unwrap_or(true);
    let check = if strict {
        Check::Sequences
    } else {
        Check::Damage
    };
    let reality = asked.reality(call)?;
    if strict {
        within(&reality, &asked)?;
    }
    let part = reality.onwards(&asked.window, asked.cursor, asked.limit, check)?;
    if strict {
        whole(&part)?;
    }
    let extra = vec![
        ("from_ts", given(call, "from_ts")),
        ("to_ts", given(call, "to_ts")),
        ("strict_sequence", strict.into()),
    ];
    answer(call, &asked, &reality, &part, extra, began)
}

fn replay_into(call: &Call<'_>) -> Result<Value, Fault> {
    let began = Instant::now();
    let asked = Asked::of(call, ("from_ts", "to_ts"), (REPLAY, REPLAY_MAX))?;
    let strict = call.arguments.boolean("strict_sequence").unwrap_or(true);
    let check = if strict {
        Check::Sequences
    } else {
        Check::Damage
    };
    let reality = asked.reality(call)?;
    let into = RealityName::new(call.arguments.text("into").unwrap_or_default())
        .map_err(|fault| Fault::invalid("arguments.into", format!("into {fault}")))?;
    if into == asked.reality || into.is_system() || into.is_lab() {
        let message = "into must be another reality, and not the node's own";
        return Err(Fault::invalid("arguments.into", message));
    }
    let target = call.tenancy.reality(&into)?;
    let name = text(call, "name").unwrap_or(asked.reality.as_str());
    check_token(name).map_err(|fault| Fault::invalid("arguments.name", format!("name {fault}")))?;
    if strict {
        within(&reality, &asked)?;
    }
    let may = |topic: &str| call.caller.may_publish(topic);
    let copied = reality.copy_into(&target, name, &asked.window, asked.limit, check, may)?;
    if strict {
        whole(&copied.part)?;
    }
    let progress = &copied.progress;
    Ok(Value::object([
        ("name", Value::from(name)),
        ("reality", asked.reality.as_str().into()),
        ("into", into.as_str().into()),
        ("count", (copied.part.records.len() as u64).into()),
        ("records", progress.records.into()),
        ("left_out", progress.left_out.into()),
        ("finished", copied.finished.into()),
        ("next", progress.next.into()),
        ("strict_sequence", strict.into()),
        ("lost", ranges(&copied.part.lost)),
        (
            "latency_ms",
            (began.elapsed().as_secs_f64() * 1_000.0).into(),
        ),
    ]))
}

/// What the commands are asked.
struct Asked {
    reality: RealityName,
    window: Window,
    cursor: Option<Sequence>,
    limit: usize,
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As a JSON client gets it.
    Message,
    /// As the command line and `logdump` show it.
    Record,
    /// As it is stored.
    Bytes,
}

impl Asked {
    fn of(
        call: &Call<'_>,
        (from, to): (&'static str, &'static str),
        (limit, limit_max): (u64, u64),
    ) -> Result<Self, Fault> {
        let reality = text(call, "reality").unwrap_or_default();
        let reality = RealityName::new(reality)
            .map_err(|fault| Fault::invalid("arguments.reality", format!("reality {fault}")))?;
        if reality.is_system() && call.caller.role != Role::Admin {
            return Err(crate::broker::Error::RealityClosed { reality }.into());
        }
        let window = Window {
            filter: filter(call)?,
            from: edge(call, from)?,
            to: edge(call, to)?,
        };
        let backwards = match (window.from, window.to) {
            (Some(Edge::Sequence(from)), Some(Edge::Sequence(to))) => to < from,
            (Some(Edge::Time(from)), Some(Edge::Time(to))) => to < from,
            _ => false,
        };
        if backwards {
            let message = format!("{to} lies before {from}");
            return Err(Fault::invalid(&format!("arguments.{to}"), message));
        }
        let wanted = call.arguments.integer("limit").unwrap_or(limit);
        let limit = usize::try_from(wanted)
            .ok()
            .filter(|_| (1..=limit_max).contains(&wanted));
        let limit = limit.ok_or_else(|| {
            let message =
                format!("limit is {wanted}; needed is a whole number from 1 to {limit_max}");
            Fault::invalid("arguments.limit", message)
        })?;
        let cursor = text(call, "cursor").map(|cursor| {
            let sequence = cursor.parse().ok().and_then(Sequence::new);
            sequence.ok_or_else(|| {
                let message =
                    "cursor is not one that an answer has named; leave it out to begin anew";
                Fault::invalid("arguments.cursor", message)
            })
        });
        let form = match text(call, "form") {
            None | Some("message") => Form::Message,
            Some("record") => Form::Record,
            Some("bytes") => Form::Bytes,
            Some(_) => {
                let message = "form must be `message`, `record` or `bytes`";
                return Err(Fault::invalid("arguments.form", message));
            }
        };
        Ok(Self {
            reality,
            window,
            cursor: cursor.transpose()?,
            limit,
            form,
        })
    }

    fn reality(&self, call: &Call<'_>) -> Result<std::sync::Arc<Reality>, Fault> {
        call.tenancy.reality(&self.reality).map_err(|error| {
            Fault::from(match error {
                // Nobody makes a reality to look at it.
                crate::broker::Error::NoSuchReality { reality } => {
                    crate::broker::Error::NotAmongRealities { reality }
                }
                other => other,
            })
        })
    }
}

/// An argument that is a text; empty counts as left out, as clients of the older system send it.
fn text<'a>(call: &'a Call<'_>, name: &str) -> Option<&'a str> {
    call.arguments.text(name).filter(|text| !text.is_empty())
}

fn given(call: &Call<'_>, name: &str) -> Value {
    text(call, name).map_or_else(Value::default, Value::from)
}

/// Which topics, if the caller may see all of them. Who is no admin must say which.
fn filter(call: &Call<'_>) -> Result<Filter, Fault> {
    let (topic, named, channel) = (
        text(call, "topic"),
        text(call, "room"),
        text(call, "channel"),
    );
    let (field, filter) = match (topic, named, channel) {
        (Some(_), Some(_), _) | (Some(_), None, Some(_)) => {
            let message = "name either a topic or a room, not both";
            return Err(Fault::invalid("arguments.topic", message));
        }
        (None, None, Some(_)) => {
            return Err(Fault::invalid("arguments.room", "a channel needs its room"));
        }
        (Some(topic), None, None) => ("topic", topic.to_owned()),
        (None, Some(name), Some(channel)) => ("room", room::topic(name, channel)),
        (None, Some(name), None) => ("room", format!("{}*", room::prefix(name))),
        (None, None, None) if call.caller.role == Role::Admin => ("topic", ">".to_owned()),
        (None, None, None) => {
            let message = "name a room, or a topic that you may read; only an admin reads all";
            return Err(Fault::invalid("arguments.room", message));
        }
    };
    let field = format!("arguments.{field}");
    let filter = Filter::new(&filter)
        .map_err(|fault| Fault::invalid(&field, format!("the topic {fault}")))?;
    if !call.caller.may_subscribe(&filter) {
        let message = format!("this token may not see all that {filter} matches");
        return Err(Fault::new(ErrorCode::Forbidden, &field, message));
    }
    Ok(filter)
}

/// A sequence in digits, or a time.
fn edge(call: &Call<'_>, name: &'static str) -> Result<Option<Edge>, Fault> {
    let Some(text) = text(call, name) else {
        return Ok(None);
    };
    if let Ok(sequence) = text.parse() {
        return Ok(Some(Edge::Sequence(Sequence::at_least_first(sequence))));
    }
    let time = read_micros(text, false).and_then(|time| u64::try_from(time).ok());
    let edge = time.map(|time| Some(Edge::Time(Micros(time))));
    edge.ok_or_else(|| {
        let message =
            format!("{name} must be a time in RFC 3339 with Z or an offset, or a sequence");
        Fault::invalid(&format!("arguments.{name}"), message)
    })
}

/// A strict replay begins where it was told to, not where the log begins by now.
fn within(reality: &Reality, asked: &Asked) -> Result<(), Fault> {
    let first = reality.bounds().first;
    match asked.window.from {
        Some(Edge::Sequence(asked)) if asked < first => {
            Err(crate::broker::Error::OutOfRange { asked, first }.into())
        }
        _ => Ok(()),
    }
}

/// Refuses a part in which sequences are missing.
fn whole(part: &Part) -> Result<(), Fault> {
    let broken: Vec<&Lost> = part.lost.iter().chain(&part.missing).collect();
    if broken.is_empty() {
        return Ok(());
    }
    let mut named: Vec<String> = broken
        .iter()
        .take(NAMED_MAX)
        .map(|lost| named(lost))
        .collect();
    if broken.len() > NAMED_MAX {
        named.push(format!("and {} more ranges", broken.len() - NAMED_MAX));
    }
    let message = format!(
        "the sequences of the window are not whole: {}; without strict_sequence what is there is answered, and this beside it",
        named.join("; ")
    );
    let code = ErrorCode::StorageFailure;
    Err(Fault::new(code, "arguments.strict_sequence", message))
}

fn named(lost: &Lost) -> String {
    let Lost {
        first,
        last,
        reason,
    } = lost;
    format!("{first} to {last}: {reason}")
}

fn ranges(ranges: &[Lost]) -> Value {
    let range = |lost: &Lost| {
        Value::object([
            ("first", Value::from(lost.first.get())),
            ("last", lost.last.get().into()),
            ("reason", lost.reason.as_str().into()),
        ])
    };
    ranges.iter().map(range).collect()
}

fn answer(
    call: &Call<'_>,
    asked: &Asked,
    reality: &Reality,
    part: &Part,
    extra: Vec<(&'static str, Value)>,
    began: Instant,
) -> Result<Value, Fault> {
    let schemas = (asked.form == Form::Record).then(Schemas::builtin);
    let entry = |record: &bytes::Bytes| entry(record, reality, asked.form, schemas.as_ref());
    let entries: Result<Vec<Value>, Fault> = part.records.iter().map(entry).collect();
    let entries = entries?;
    let count = entries.len() as u64;
    let cursor = part
        .next
        .map_or_else(Value::default, |next| next.to_string().into());
    let mut fields = vec![
        ("entries", entries.into_iter().collect()),
        ("count", count.into()),
        ("room", given(call, "room")),
        ("channel", given(call, "channel")),
        ("topic", asked.window.filter.as_str().into()),
        ("reality", asked.reality.as_str().into()),
        ("limit", (asked.limit as u64).into()),
    ];
    fields.extend(extra);
    fields.extend([
        ("truncated", part.next.is_some().into()),
        ("cursor", cursor),
        ("lost", ranges(&part.lost)),
        (
            "latency_ms",
            (began.elapsed().as_secs_f64() * 1_000.0).into(),
        ),
    ]);
    Ok(Value::object(fields))
}

fn entry(
    record: &bytes::Bytes,
    reality: &Reality,
    form: Form,
    schemas: Option<&Schemas>,
) -> Result<Value, Fault> {
    let unreadable = || {
        let message = "a record of the window cannot be decoded; `logdump verify` shows which";
        Fault::new(ErrorCode::StorageFailure, "", message)
    };
    let view = RecordView::parse(record).map_err(|_undecodable| unreadable())?;
    let envelope = match (form, schemas) {
        (Form::Bytes, _) => Value::from(record.clone()),
        (Form::Record, Some(schemas)) => {
            let origin = Origin {
                tenant: reality.tenant().as_str(),
                reality: reality.name().as_str(),
            };
            let json = RecordJson::new(&view, origin, schemas);
            let json: Json = serde_json::to_value(&json).map_err(|_no_json| unreadable())?;
            Value::from(json)
        }
        (Form::Message | Form::Record, _) => {
            let json = serde_json::to_value(shown(&view)).map_err(|_no_json| unreadable())?;
            Value::from(json)
        }
    };
    let place = json!({
        "reality": reality.name().as_str(),
        "topic": view.topic,
        "sequence": view.sequence,
    });
    Ok(Value::object([
        ("envelope", envelope),
        ("stored_at", micros(view.appended_at).into()),
        ("storage_metadata", place.into()),
    ]))
}
