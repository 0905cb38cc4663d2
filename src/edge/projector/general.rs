//! The commands of every projection: what there is, how it stands, what its tables hold, pausing it
//! and waiting for it.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::key::{self, cell};
use super::shown;
use crate::broker::Role;
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::edge::shield::Fault;
use crate::edge::shield::command::{Call, Handler};
use crate::log::Sequence;
use crate::projections::Kept;
use crate::projections::sink::Query;
use crate::projections::table::{Key, Row, Table};
use crate::proto::ErrorCode;
use crate::proto::v1::Value;

/// Rows of an answer when no number is given.
pub(super) const ROWS_DEFAULT: u64 = 100;
/// Most that may be asked for.
pub(super) const ROWS_MAX: u64 = 1_000;
/// How long is waited when no time is given.
const WAIT_DEFAULT_MS: u64 = 5_000;
/// Stands for the table of dead letters of any projection.
const DEAD_LETTERS: &str = "dead_letters";
/// Commands that wait at a time: each keeps a thread.
static WAITING: Semaphore = Semaphore::const_new(64);

const NAME: Argument = Argument {
    name: "name",
    kind: Kind::Text,
    required: true,
    doc: "the projection",
};
const SINK: Argument = Argument {
    name: "sink",
    kind: Kind::Text,
    required: false,
    doc: "where it is kept: sled, postgres or valkey; its first sink if left out",
};
const TABLE: Argument = Argument {
    name: "table",
    kind: Kind::Text,
    required: false,
    doc: "name of the table, or dead_letters; the first one if left out",
};
const TIMEOUT: Argument = Argument {
    name: "timeout_ms",
    kind: Kind::Integer,
    required: false,
    doc: "how long to wait, in milliseconds; 5,000 if left out, 20,000 at most, over HTTP less than ops.timeout_ms allows; ask again to wait longer",
};

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "projection.list",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Lists the projections, their tables and sinks, and how each stands for the tenant.",
        handler: list,
    },
    Command {
        name: "projection.pause",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[NAME, SINK],
        doc: "Stops a projection of the tenant until it is resumed, over restarts too.",
        handler: |call| pause(call, true),
    },
    Command {
        name: "projection.resume",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            NAME,
            SINK,
            Argument {
                name: "skip",
                kind: Kind::Boolean,
                required: false,
                doc: "goes on although records were removed from the log before they were projected",
            },
        ],
        doc: "Lets a projection of the tenant go on.",
        handler: |call| pause(call, false),
    },
    Command {
        name: "projection.row",
        role: Role::Admin,
        effect: Effect::Shows,
        arguments: &[
            NAME,
            Argument {
                name: "key",
                kind: Kind::Texts,
                required: true,
                doc: "values of the key's columns, in order and without the tenant",
            },
            TABLE,
            SINK,
        ],
        doc: "Shows one row of a projection of the tenant.",
        handler: row,
    },
    Command {
        name: "projection.rows",
        role: Role::Admin,
        effect: Effect::Shows,
        arguments: &[
            NAME,
            TABLE,
            Argument {
                name: "limit",
                kind: Kind::Integer,
                required: false,
                doc: "rows at most, 1 to 1,000; 100 if left out",
            },
            Argument {
                name: "where",
                kind: Kind::Texts,
                required: false,
                doc: "values that columns must have, each as column=value",
            },
            Argument {
                name: "outcome",
                kind: Kind::Text,
                required: false,
                doc: "only records of which this became, in a table that keeps it: projected, stale_rejected",
            },
            Argument {
                name: "newest_by",
                kind: Kind::Text,
                required: false,
                doc: "a column to sort by, the greatest first; in the order of the keys if left out",
            },
            Argument {
                name: "after",
                kind: Kind::Texts,
                required: false,
                doc: "a key as projection.row takes it: only rows after it, in the order of the keys",
            },
            SINK,
        ],
        doc: "Lists rows of a projection of the tenant.",
        handler: rows,
    },
    Command {
        name: "projection.status",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[
            NAME,
            Argument {
                name: "wait_for",
                kind: Kind::Integer,
                required: false,
                doc: "waits first until it has passed this sequence",
            },
            TIMEOUT,
            SINK,
        ],
        doc: "Shows how a projection of the tenant stands in its sinks.",
        handler: status,
    },
    Command {
        name: "projection.wait",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[
            NAME,
            Argument {
                name: "sequence",
                kind: Kind::Integer,
                required: true,
                doc: "the record that it must have passed",
            },
            TIMEOUT,
            SINK,
        ],
        doc: "Waits until a projection of the tenant has passed a record.",
        handler: |call| wait(call, "sequence"),
    },
];

fn name<'a>(call: &'a Call<'_>) -> &'a str {
    call.arguments.text("name").unwrap_or_default()
}

fn tenant<'a>(call: &'a Call<'_>) -> &'a str {
    call.tenancy.tenant().as_str()
}

/// Each sink's state; what went wrong is for those who can do something about it.
fn sinks(call: &Call<'_>, kept: &Kept) -> Value {
    let now = call.broker.now();
    let all = call.projections.status(Some(tenant(call)));
    let ours = all
        .iter()
        .filter(|lane| lane.projection == kept.projection.name());
    let reasons = call.caller.role.includes(Role::Operator);
    ours.map(|lane| shown::standing(lane, now, reasons))
        .collect()
}

fn described(call: &Call<'_>, kept: &Kept) -> Value {
    let projection = &kept.projection;
    let texts = |texts: &[String]| -> Value { texts.iter().map(String::as_str).collect() };
    let tables = projection.tables().iter();
    let kinds = kept.sinks.iter().map(|sink| sink.kind().as_str());
    Value::object([
        ("projection", projection.name().into()),
        ("reality", projection.reality().into()),
        ("topics", texts(projection.topics())),
        (
            "dead_letters",
            projection.dead_letters().topic.as_str().into(),
        ),
        (
            "tables",
            tables.map(|table| table.name.as_str()).collect::<Value>(),
        ),
        ("kept_in", kinds.collect()),
        ("sinks", sinks(call, kept)),
    ])
}

fn list(call: &Call<'_>) -> Result<Value, Fault> {
    let kept = call.projections.kept().iter();
    Ok(kept.map(|kept| described(call, kept)).collect())
}

fn status(call: &Call<'_>) -> Result<Value, Fault> {
    let kept = call.projections.find(name(call))?;
    if call.arguments.integer("wait_for").is_some() {
        wait(call, "wait_for")?;
    }
    Ok(described(call, kept))
}

fn wait(call: &Call<'_>, argument: &str) -> Result<Value, Fault> {
    let sequence = call.arguments.integer(argument).unwrap_or_default();
    let sequence = Sequence::new(sequence).ok_or_else(|| {
        let text = format!("{argument} must be a sequence, from 1 on");
        Fault::invalid(&format!("arguments.{argument}"), text)
    })?;
    let asked = call.arguments.integer("timeout_ms");
    let within = Duration::from_millis(asked.unwrap_or(WAIT_DEFAULT_MS)).min(call.wait_max);
    // Held until the end of the wait.
    let _permit = WAITING.try_acquire().map_err(|_full| {
        let text = "too many commands wait for projections at once; try again, or ask for then_projected when producing";
        Fault {
            retry_after_ms: 1_000,
            ..Fault::new(ErrorCode::RateLimited, "", text)
        }
    })?;
    let sink = call.arguments.text("sink");
    let waited = call
        .projections
        .wait(tenant(call), name(call), sink, sequence, within);
    let next = Handle::current().block_on(waited).map_err(|error| Fault {
        field: match error {
            crate::projections::node::Error::NotYet { .. } => format!("arguments.{argument}"),
            ref other => super::field(other).to_owned(),
        },
        ..Fault::from(error)
    })?;
    Ok(Value::object([
        ("projection", Value::from(name(call))),
        ("next", next.get().into()),
    ]))
}

fn pause(call: &Call<'_>, paused: bool) -> Result<Value, Fault> {
    let sink = call.arguments.text("sink");
    let kept = call.projections.find(name(call))?;
    let kind = kept.sink(sink)?.kind();
    let skip = call.arguments.boolean("skip").unwrap_or_default();
    let by = &call.caller.subject;
    call.projections
        .pause(tenant(call), name(call), sink, paused, skip, by)?;
    Ok(Value::object([
        ("projection", Value::from(name(call))),
        ("sink", kind.as_str().into()),
        ("paused", paused.into()),
    ]))
}

/// The table that is asked for, and its place.
fn table<'a>(call: &Call<'_>, kept: &'a Kept) -> Result<(usize, &'a Table), Fault> {
    let tables = kept.projection.tables();
    let place = match call.arguments.text("table") {
        None => Some(0),
        Some(DEAD_LETTERS) => Some(kept.projection.dead_letters().table),
        Some(name) => tables.iter().position(|table| table.name == name),
    };
    let found = place.and_then(|place| Some((place, tables.get(place)?)));
    found.ok_or_else(|| {
        let known: Vec<_> = tables.iter().map(|table| table.name.as_str()).collect();
        let text = format!(
            "table is none of this projection; it has: {}, and {DEAD_LETTERS} for its dead letters",
            known.join(", ")
        );
        Fault::new(ErrorCode::NotFound, "arguments.table", text)
    })
}

/// How many rows are asked for.
///
/// # Errors
/// None, or too many.
pub(super) fn limit(call: &Call<'_>) -> Result<usize, Fault> {
    let limit = call.arguments.integer("limit").unwrap_or(ROWS_DEFAULT);
    let fits = usize::try_from(limit).ok();
    fits.filter(|_| (1..=ROWS_MAX).contains(&limit))
        .ok_or_else(|| {
            let text = format!("limit must be 1 to {ROWS_MAX}");
            Fault::invalid("arguments.limit", text)
        })
}

/// The answer of a list: as many rows as fit it, each as `shown` shows it, with its key where one
/// can go on behind it.
pub(super) fn listed(
    rows: Vec<Row>,
    limit: usize,
    mut shown: impl FnMut(Row) -> (Value, Option<Key>),
) -> Value {
    let found = rows.len();
    let mut bytes = 0;
    let mut items = Vec::with_capacity(found);
    let mut last = None;
    for row in rows {
        bytes += shown::weight(&row);
        if bytes > shown::ANSWER_BYTES_MAX && !items.is_empty() {
            break;
        }
        let (item, key) = shown(row);
        items.push(item);
        last = key;
    }
    let cut = items.len() < found;
    let next = last.filter(|_| cut || found == limit);
    let next = next.map(|key| key::texts(&key).into_iter().collect());
    Value::object([
        ("count", Value::from(items.len() as u64)),
        ("items", items.into_iter().collect()),
        ("limit", (limit as u64).into()),
        ("truncated", cut.into()),
        ("next", next.unwrap_or_default()),
    ])
}

fn rows(call: &Call<'_>) -> Result<Value, Fault> {
    let kept = call.projections.find(name(call))?;
    let (place, table) = table(call, kept)?;
    let mut query = Query {
        limit: limit(call)?,
        ..Query::default()
    };
    for text in call.arguments.texts("where").unwrap_or_default() {
        let field = "arguments.where";
        let (column, value) = text
            .split_once('=')
            .ok_or_else(|| Fault::invalid(field, "where must be a list of column=value"))?;
        let at = column_of(table, column, field)?;
        query
            .equal
            .push((at, cell(&table.columns[at], value, field)?));
    }
    if let Some(outcome) = call.arguments.text("outcome") {
        let at = table.outcome.ok_or_else(|| {
            let text = "the table does not keep what became of records; name another one";
            Fault::invalid("arguments.outcome", text)
        })?;
        query.equal.push((at, outcome.into()));
    }
    if let Some(column) = call.arguments.text("newest_by") {
        query.newest_by = Some(column_of(table, column, "arguments.newest_by")?);
    }
    if let Some(after) = call.arguments.texts("after") {
        if query.newest_by.is_some() {
            let text = "after is for the order of the keys: leave newest_by out";
            return Err(Fault::invalid("arguments.after", text));
        }
        query.after = Some(key::of(table, tenant(call), after, "arguments.after")?);
    }
    let sink = call.arguments.text("sink");
    let rows = call
        .projections
        .rows(tenant(call), name(call), sink, place, &query)?;
    let by_key = query.newest_by.is_none();
    Ok(listed(rows, query.limit, |row| {
        let key = by_key.then(|| table.key_of(&row));
        (shown::row(table, row), key)
    }))
}

fn column_of(table: &Table, name: &str, field: &str) -> Result<usize, Fault> {
    table.column(name).ok_or_else(|| {
        let known: Vec<_> = table.columns.iter().map(|one| one.name.as_str()).collect();
        let text = format!("the table has no such column; it has: {}", known.join(", "));
        Fault::invalid(field, text)
    })
}

fn row(call: &Call<'_>) -> Result<Value, Fault> {
    let kept = call.projections.find(name(call))?;
    let (place, table) = table(call, kept)?;
    let texts = call.arguments.texts("key").unwrap_or_default();
    let key = key::of(table, tenant(call), texts, "arguments.key")?;
    let sink = call.arguments.text("sink");
    let row = call
        .projections
        .row(tenant(call), name(call), sink, place, &key)?;
    Ok(Value::object([
        ("found", Value::from(row.is_some())),
        (
            "row",
            row.map_or_else(Value::default, |row| shown::row(table, row)),
        ),
    ]))
}
