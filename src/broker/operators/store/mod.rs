//! `op.store`: keys and values in a reality (OPS-07).
//!
//! A key is a topic, its value the data of that topic's newest record, its revision the sequence of
//! that record: there is no second truth. Who watches a key subscribes to its topic. What was set is
//! on disk when it is answered, and read back by everybody from then on.

mod key;
mod limits;
mod names;
#[cfg(test)]
mod tests;
mod value;

use std::time::{Duration, Instant};

use crate::broker::command::{Call, Handler, REALITY};
use crate::broker::error::{ArgumentFault, Error};
use crate::broker::expiry::is_over;
use crate::broker::operators::BuiltIn;
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::broker::{Expected, OwnRecord, Reality, Role};
use crate::log::{Found, Micros, Sequence};
use crate::proto::ErrorCode;
use crate::proto::json::{micros, read_micros};
use crate::proto::v1::Value;
use crate::proto::view::RecordView;

pub use key::BadKey;
use key::Namespace;
pub(in crate::broker) use key::TOPIC_PREFIX;
pub use limits::Limits;
pub(in crate::broker) use names::Names;
use value::Encoded;

/// Its line in the registry.
pub const STORE: BuiltIn = BuiltIn {
    name: "store",
    doc: "Keeps values under keys.",
    commands: COMMANDS,
    duty: None,
};

/// Entries of an answer, unless the caller says otherwise,
const LISTED: u64 = 1_000;
/// and at most.
const LISTED_MAX: u64 = 10_000;
/// Bytes of values in one answer, beyond which it ends early.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Keys that are taken away at a time.
const PURGED_TOGETHER: usize = 1_000;
/// Read at a time.
const READ_BYTES: usize = 256 << 10;
/// Type of the events of keys that have a value,
const SET: &str = "op.store.set";
/// and of those that have none any more.
const DELETED: &str = "op.store.deleted";
/// What is written and not on disk yet is waited for; the log needs milliseconds.
const FLUSH_WAIT: Duration = Duration::from_secs(5);

const KEY: Argument = Argument {
    name: "key",
    kind: Kind::Text,
    required: true,
    doc: "the key",
};

const NAMESPACE: Argument = Argument {
    name: "namespace",
    kind: Kind::Text,
    required: false,
    doc: "part of the tenant's store; tenant:<tenant> if left out",
};

const PREFIX: Argument = Argument {
    name: "prefix",
    kind: Kind::Text,
    required: false,
    doc: "what the keys begin with; all of them if left out",
};

const IF_REVISION: Argument = Argument {
    name: "if_revision",
    kind: Kind::Integer,
    required: false,
    doc: "only if the newest record of the key has this sequence; 0 if it has no value",
};

const LIMIT: Argument = Argument {
    name: "limit",
    kind: Kind::Integer,
    required: false,
    doc: "so many at most; 1000 if left out, 10000 at most",
};

const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "op.store.delete",
        role: Role::User,
        effect: Effect::Writes,
        arguments: &[KEY, NAMESPACE, REALITY, IF_REVISION],
        doc: "Takes the value of a key away.",
        handler: delete,
    },
    Command {
        name: "op.store.get",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[
            KEY,
            NAMESPACE,
            REALITY,
            Argument {
                name: "at",
                kind: Kind::Text,
                required: false,
                doc: "a sequence, in digits, or a time in RFC 3339: the value as it was then",
            },
        ],
        doc: "Shows the value of a key, with its revision.",
        handler: get,
    },
    Command {
        name: "op.store.history",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[
            KEY,
            NAMESPACE,
            REALITY,
            LIMIT,
            Argument {
                name: "before",
                kind: Kind::Integer,
                required: false,
                doc: "only revisions below this sequence, as an earlier answer says in `next`",
            },
        ],
        doc: "Shows what a key was, the newest first, as far as the log still has it.",
        handler: history,
    },
    Command {
        name: "op.store.list",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[
            NAMESPACE,
            REALITY,
            PREFIX,
            LIMIT,
            Argument {
                name: "after",
                kind: Kind::Text,
                required: false,
                doc: "only keys behind this one, as an earlier answer says in `next`",
            },
        ],
        doc: "Lists keys that have a value, without the values.",
        handler: list,
    },
    Command {
        name: "op.store.purge",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[
            NAMESPACE,
            REALITY,
            PREFIX,
            Argument {
                name: "confirm",
                kind: Kind::Text,
                required: true,
                doc: "the prefix once more; empty for all keys of the namespace",
            },
        ],
        doc: "Takes away the values of all keys of a namespace that begin with a prefix.",
        handler: purge,
    },
    Command {
        name: "op.store.set",
        role: Role::User,
        effect: Effect::Writes,
        arguments: &[
            KEY,
            Argument {
                name: "value",
                kind: Kind::Any,
                required: true,
                doc: "the value: bytes, or anything that JSON can say but null",
            },
            NAMESPACE,
            REALITY,
            Argument {
                name: "ttl_ms",
                kind: Kind::Integer,
                required: false,
                doc: "milliseconds after which the key has no value any more",
            },
            IF_REVISION,
            Argument {
                name: "if_absent",
                kind: Kind::Boolean,
                required: false,
                doc: "only if the key has no value",
            },
        ],
        doc: "Sets the value of a key.",
        handler: set,
    },
];

/// What a caller may do with a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// A key, and the newest that the log says of it.
struct Place {
    topic: String,
    /// Sequence of its newest record; 0 for none.
    revision: u64,
    /// Whether it has a value now.
    is_live: bool,
}

fn fault(call: &Call<'_>, argument: &'static str, fault: ArgumentFault) -> Error {
    Error::Argument {
        command: call.command,
        argument: argument.to_owned(),
        fault,
    }
}

fn namespace(call: &Call<'_>) -> Result<Namespace, Error> {
    let name = call.arguments.text("namespace");
    Namespace::new(call.tenancy.tenant(), name)
        .map_err(|bad| fault(call, "namespace", ArgumentFault::Key(bad)))
}

/// The topic of the key that is asked about, if the caller may do this with it.
fn topic(call: &Call<'_>, namespace: &Namespace, access: Access) -> Result<String, Error> {
    let key = call.arguments.text("key").unwrap_or_default();
    let topic = namespace.topic(key);
    let topic = topic.map_err(|bad| fault(call, "key", ArgumentFault::Key(bad)))?;
    let (allowed, action) = match access {
        Access::Read => (call.caller.may_see(&topic), "subscribe to"),
        Access::Write => (call.caller.may_have_written(&topic), "publish on"),
    };
    if allowed {
        return Ok(topic);
    }
    Err(Error::TopicForbidden {
        field: "arguments.key",
        action,
        topic,
    })
}

/// The last record of a topic, when it is on disk; `None` if there is none. Shows it to `look`.
fn newest<R>(
    reality: &Reality,
    topic: &str,
    look: impl FnOnce(&RecordView<'_>) -> R,
) -> Result<Option<R>, Error> {
    let log = reality.log();
    let Some(last) = log.last_of(topic)? else {
        return Ok(None);
    };
    let began = Instant::now();
    loop {
        match log.read(last, log.bounds().durable_end, 1)? {
            Found::Records(chunk) => {
                let record = chunk.iter().next();
                let view = record.and_then(|one| RecordView::parse(one.record).ok());
                let view = view.filter(|view| view.sequence == last.get());
                let damaged = Error::RecordDamaged { sequence: last };
                return view.map(|view| Some(look(&view))).ok_or(damaged);
            }
            Found::Damaged { .. } => return Err(Error::RecordDamaged { sequence: last }),
            // What others have not been promised yet is not shown.
            Found::End if began.elapsed() < FLUSH_WAIT => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Found::End => return Err(Error::ShuttingDown),
        }
    }
}

fn has_value(view: &RecordView<'_>, now: Micros) -> bool {
    !view.envelope.payload.data().is_empty() && !has_expired(view, now)
}

fn has_expired(view: &RecordView<'_>, now: Micros) -> bool {
    let end = u64::try_from(view.envelope.expires_at).unwrap_or_default();
    end > 0 && is_over(end, now)
}

fn place(reality: &Reality, topic: String) -> Result<Place, Error> {
    let now = reality.now();
    let found = newest(reality, &topic, |view| {
        (view.sequence, has_value(view, now))
    })?;
    let (revision, is_live) = found.unwrap_or_default();
    Ok(Place {
        topic,
        revision,
        is_live,
    })
}

/// What must hold of a key for it to be changed; checked again when its record gets its place.
fn condition(call: &Call<'_>, place: &Place) -> Result<Option<Expected>, Error> {
    let absent = call.arguments.boolean("if_absent").unwrap_or_default();
    let wanted = match (call.arguments.integer("if_revision"), absent) {
        (None, false) => return Ok(None),
        (None | Some(0), _) => {
            if place.is_live {
                return Err(conflict(0, place.revision));
            }
            place.revision
        }
        (Some(revision), _) => revision,
    };
    if wanted != place.revision {
        return Err(conflict(wanted, place.revision));
    }
    Ok(Some(Expected {
        topic: place.topic.clone(),
        last: wanted,
    }))
}

const fn conflict(wanted: u64, found: u64) -> Error {
    Error::RevisionConflict { wanted, found }
}

/// Stores one record of a key.
fn put(
    reality: &Reality,
    record: OwnRecord,
    expected: Option<&Expected>,
) -> Result<Sequence, Error> {
    let stored = reality.store(vec![record], expected);
    match (stored, expected) {
        (Ok(appended), _) => Ok(appended.last),
        (Err(error), Some(expected)) if error.code() == ErrorCode::SequenceConflict => {
            let found = reality.log().last_of(&expected.topic)?;
            Err(conflict(expected.last, found.map_or(0, Sequence::get)))
        }
        (Err(error), _) => Err(error),
    }
}

fn set(call: &Call<'_>) -> Result<Value, Error> {
    let namespace = namespace(call)?;
    let topic = topic(call, &namespace, Access::Write)?;
    let key = call.arguments.text("key").unwrap_or_default().to_owned();
    let limits = call.broker.settings().store;
    let given = call.arguments.value("value").cloned().unwrap_or_default();
    let encoded = Encoded::of(&given).map_err(|bad| fault(call, "value", bad))?;
    limits.check_key(&key)?;
    limits.check_value(encoded.len_bytes())?;
    let reality = call.reality()?;
    let expires_at = match call.arguments.integer("ttl_ms") {
        None => 0,
        Some(ttl) => Limits::end_of(call, reality.now(), ttl)?,
    };
    let place = place(&reality, topic)?;
    let expected = condition(call, &place)?;
    if !place.is_live {
        let mut names = reality.keys();
        names.follow(&reality.log())?;
        limits.check_room(&mut names, namespace.prefix(), reality.now())?;
    }
    let record = OwnRecord {
        topic: place.topic,
        kind: SET.to_owned(),
        data: encoded.data,
        key: key.clone(),
        headers: [("content-type".to_owned(), encoded.content_type.to_owned())].into(),
        expires_at: i64::try_from(expires_at).unwrap_or(i64::MAX),
        producer: call.caller.subject.clone(),
        ..OwnRecord::default()
    };
    let revision = put(&reality, record, expected.as_ref())?;
    let mut answer = about(&namespace, &key);
    answer.push(("updated", true.into()));
    answer.push(("revision", revision.get().into()));
    if expires_at > 0 {
        answer.push(("expires_at", time(expires_at)));
    }
    Ok(Value::object(answer))
}

fn delete(call: &Call<'_>) -> Result<Value, Error> {
    let namespace = namespace(call)?;
    let topic = topic(call, &namespace, Access::Write)?;
    let key = call.arguments.text("key").unwrap_or_default().to_owned();
    let reality = call.reality()?;
    let place = place(&reality, topic)?;
    let expected = condition(call, &place)?;
    let mut answer = about(&namespace, &key);
    answer.push(("deleted", place.is_live.into()));
    if place.is_live {
        let record = tombstone(place.topic, key, &call.caller.subject);
        let revision = put(&reality, record, expected.as_ref())?;
        answer.push(("revision", revision.get().into()));
    }
    Ok(Value::object(answer))
}

fn tombstone(topic: String, key: String, by: &str) -> OwnRecord {
    OwnRecord {
        topic,
        kind: DELETED.to_owned(),
        key,
        producer: by.to_owned(),
        ..OwnRecord::default()
    }
}

fn get(call: &Call<'_>) -> Result<Value, Error> {
    let namespace = namespace(call)?;
    let topic = topic(call, &namespace, Access::Read)?;
    let key = call.arguments.text("key").unwrap_or_default();
    let reality = call.reality()?;
    let now = reality.now();
    let found = match call.arguments.text("at") {
        None => newest(&reality, &topic, |view| {
            has_value(view, now).then(|| entry(view))
        })?
        .flatten(),
        Some(at) => as_of(call, &reality, &topic, at)?,
    };
    let mut answer = about(&namespace, key);
    answer.push(("found", found.is_some().into()));
    match found {
        Some(found) => answer.extend(found),
        // Older clients look for it.
        None => answer.push(("value", Value::default())),
    }
    Ok(Value::object(answer))
}

/// The value of a key at a sequence or a time.
fn as_of(
    call: &Call<'_>,
    reality: &Reality,
    topic: &str,
    at: &str,
) -> Result<Option<Vec<(&'static str, Value)>>, Error> {
    let wanted = "a sequence, from 1 on, in digits, or a time like 2026-02-20T00:00:00Z";
    let bad = || fault(call, "at", ArgumentFault::Kind { wanted });
    let (end, now) = if let Some(sequence) = at.parse().ok().and_then(Sequence::new) {
        (sequence.next(), None)
    } else {
        let time = read_micros(at, false).and_then(|time| u64::try_from(time).ok());
        let time = Micros(time.ok_or_else(bad)?);
        (
            reality.log().seek_time(Micros(time.0.saturating_add(1)))?,
            Some(time),
        )
    };
    let mut found = None;
    each(reality, topic, end, |view| {
        let holds = !view.envelope.payload.data().is_empty()
            && !now.is_some_and(|now| has_expired(view, now));
        found = holds.then(|| entry(view));
    })?;
    Ok(found)
}

/// Shows every record on `topic` below `end` that is on disk, in order.
fn each(
    reality: &Reality,
    topic: &str,
    end: Sequence,
    mut look: impl FnMut(&RecordView<'_>),
) -> Result<(), Error> {
    let log = reality.log();
    let bounds = log.bounds();
    let end = end.min(bounds.durable_end);
    let wanted = topic.to_owned();
    let mut reader = log.topic_reader(Box::new(move |topic| topic == wanted));
    let mut next = bounds.first;
    while next < end {
        match reader.read(next, end, READ_BYTES)? {
            Found::Records(chunk) => {
                for record in chunk.iter().filter(|record| record.topic == topic) {
                    let damaged = Error::RecordDamaged {
                        sequence: record.sequence,
                    };
                    look(&RecordView::parse(record.record).or(Err(damaged))?);
                }
                next = chunk.last.next();
            }
            Found::Damaged { .. } => return Err(Error::RecordDamaged { sequence: next }),
            Found::End => break,
        }
    }
    Ok(())
}

fn history(call: &Call<'_>) -> Result<Value, Error> {
    let namespace = namespace(call)?;
    let topic = topic(call, &namespace, Access::Read)?;
    let key = call.arguments.text("key").unwrap_or_default();
    let reality = call.reality()?;
    let limit = usize::try_from(limit(call)?).unwrap_or(usize::MAX);
    let before = call.arguments.integer("before").and_then(Sequence::new);
    // Only the newest are kept while all go by.
    let mut kept = std::collections::VecDeque::new();
    let (mut bytes, mut more) = (0, false);
    each(&reality, &topic, before.unwrap_or(Sequence::MAX), |view| {
        let size = view.envelope.payload.data().len();
        kept.push_back((size, view.sequence, revision(view)));
        bytes += size;
        while kept.len() > limit || (bytes > ANSWER_BYTES_MAX && kept.len() > 1) {
            bytes -= kept.pop_front().map_or(0, |(size, ..)| size);
            more = true;
        }
    })?;
    let next = kept.front().map(|(_, sequence, _)| *sequence);
    let entries: Vec<Value> = kept.into_iter().rev().map(|(.., entry)| entry).collect();
    let mut answer = about(&namespace, key);
    answer.push(("count", (entries.len() as u64).into()));
    answer.push(("entries", entries.into_iter().collect()));
    if let Some(next) = next.filter(|_| more) {
        answer.push(("next", next.into()));
    }
    Ok(Value::object(answer))
}

fn limit(call: &Call<'_>) -> Result<u64, Error> {
    let limit = call.arguments.integer("limit").unwrap_or(LISTED);
    if (1..=LISTED_MAX).contains(&limit) {
        return Ok(limit);
    }
    let (found, max) = (limit.to_string(), LISTED_MAX);
    Err(fault(call, "limit", ArgumentFault::Number { found, max }))
}

/// The topics of what begins with the prefix that is asked for begin with this.
fn prefix_topic(call: &Call<'_>, namespace: &Namespace) -> Result<String, Error> {
    match call.arguments.text("prefix").unwrap_or_default() {
        "" => Ok(namespace.prefix().to_owned()),
        prefix => namespace
            .topic(prefix)
            .map_err(|bad| fault(call, "prefix", ArgumentFault::Key(bad))),
    }
}

fn list(call: &Call<'_>) -> Result<Value, Error> {
    let namespace = namespace(call)?;
    let prefix = prefix_topic(call, &namespace)?;
    let after = match call.arguments.text("after") {
        None | Some("") => None,
        Some(after) => Some(
            namespace
                .topic(after)
                .map_err(|bad| fault(call, "after", ArgumentFault::Key(bad)))?,
        ),
    };
    let limit = usize::try_from(limit(call)?).unwrap_or(usize::MAX);
    let reality = call.reality()?;
    let mut names = reality.keys();
    names.follow(&reality.log())?;
    let mut found = names
        .below(&prefix, after.as_deref(), reality.now())
        .filter(|(topic, _)| call.caller.may_see(topic))
        .filter_map(|(topic, entry)| Some((namespace.key(topic)?, entry)));
    let page: Vec<_> = found.by_ref().take(limit).collect();
    let more = found.next().is_some();
    drop(found);
    drop(names);
    let next = page.last().map(|(key, _)| key.clone()).filter(|_| more);
    let keys: Value = page
        .iter()
        .map(|(key, _)| Value::from(key.as_str()))
        .collect();
    let entries: Value = page
        .iter()
        .map(|(key, entry)| {
            let mut fields = vec![
                ("key", Value::from(key.as_str())),
                ("revision", entry.revision.get().into()),
            ];
            if entry.expires_at > 0 {
                fields.push(("expires_at", time(entry.expires_at)));
            }
            Value::object(fields)
        })
        .collect();
    let mut answer = vec![
        ("namespace", Value::from(namespace.name())),
        ("count", (page.len() as u64).into()),
        ("keys", keys),
        ("entries", entries),
    ];
    if let Some(next) = next {
        answer.push(("next", next.into()));
    }
    Ok(Value::object(answer))
}

fn purge(call: &Call<'_>) -> Result<Value, Error> {
    let namespace = namespace(call)?;
    let given = call.arguments.text("prefix").unwrap_or_default();
    if call.arguments.text("confirm") != Some(given) {
        let wanted = "the prefix";
        return Err(fault(call, "confirm", ArgumentFault::Kind { wanted }));
    }
    let prefix = prefix_topic(call, &namespace)?;
    let reality = call.reality()?;
    let mut purged = 0;
    loop {
        let topics: Vec<String> = {
            let mut names = reality.keys();
            names.follow(&reality.log())?;
            let all = names.below(&prefix, None, Micros(0));
            let may = all.filter(|(topic, _)| call.caller.may_have_written(topic));
            may.take(PURGED_TOGETHER)
                .map(|(topic, _)| topic.to_owned())
                .collect()
        };
        if topics.is_empty() {
            break;
        }
        purged += topics.len() as u64;
        let gone = topics.into_iter().filter_map(|topic| {
            let key = namespace.key(&topic)?;
            Some(tombstone(topic, key, &call.caller.subject))
        });
        reality.store(gone.collect(), None)?;
    }
    Ok(Value::object([
        ("namespace", Value::from(namespace.name())),
        ("purged", purged.into()),
    ]))
}

fn about(namespace: &Namespace, key: &str) -> Vec<(&'static str, Value)> {
    vec![("namespace", namespace.name().into()), ("key", key.into())]
}

/// A value and what else there is to say of it.
fn entry(view: &RecordView<'_>) -> Vec<(&'static str, Value)> {
    let envelope = &view.envelope;
    let mut fields = Vec::new();
    fields.extend(value::value_in(envelope).map(|value| ("value", value)));
    fields.push(("revision", view.sequence.into()));
    fields.push(("updated_at", micros(view.appended_at).into()));
    fields.push(("updated_by", view.producer().into()));
    let end = u64::try_from(envelope.expires_at)
        .ok()
        .filter(|end| *end > 0);
    fields.extend(end.map(|end| ("expires_at", time(end))));
    fields
}

fn revision(view: &RecordView<'_>) -> Value {
    let is_set = !view.envelope.payload.data().is_empty();
    let operation = if is_set { "set" } else { "delete" };
    let fields = [("operation", operation.into())];
    Value::object(fields.into_iter().chain(entry(view)))
}

fn time(ms: u64) -> Value {
    micros(ms.saturating_mul(1_000)).into()
}
