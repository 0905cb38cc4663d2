//! Commands that deal with dead letters, whichever consumer wrote them.

use std::sync::Arc;

use super::SCHEMA;
use super::dealing::{self, LETTERS_MAX, Standing, Which};
use crate::broker::access::Role;
use crate::broker::command::{Call, Handler, REALITY, fields, flag, list, number, text};
use crate::broker::error::{ArgumentFault, Error};
use crate::broker::name::{self, is_hidden_topic};
use crate::broker::reality::Reality;
use crate::broker::rewind::{self, DRY_RUN};
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::log::{Micros, Sequence};
use crate::proto::json::read_micros;
use crate::proto::topic::DEAD_LETTER_TOKEN;
use crate::proto::v1::{Value, value};

/// Letters that are dealt with when no number is given.
const LIMIT_DEFAULT: u64 = 100;

const CONSUMER: Argument = Argument {
    name: "consumer",
    kind: Kind::Text,
    required: true,
    doc: "the group, named consumer, webhook or operator that wrote it",
};
const ID: Argument = Argument::optional("id", Kind::Text, "the letter with this id");
const REASON_HOLDS: Argument = Argument::optional(
    "reason_contains",
    Kind::Text,
    "letters whose reason or error holds this text",
);
const TOPIC: Argument = Argument::optional(
    "topic",
    Kind::Text,
    "letters whose original stood on this topic",
);
const NEWER: Argument = Argument::optional(
    "newer_than",
    Kind::Text,
    "letters tried last from this time on, RFC 3339",
);
const OLDER: Argument = Argument::optional(
    "older_than",
    Kind::Text,
    "letters tried last up to this time",
);
const LIMIT: Argument = Argument::optional(
    "limit",
    Kind::Integer,
    "letters at most, 1 to 1,000; 100 if left out",
);
const ALL: Argument = Argument::optional("all", Kind::Boolean, "all letters, up to the limit");

/// The commands of this part, by name.
pub(in crate::broker) const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "dlq.discard",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[
            CONSUMER,
            Argument {
                name: "reason",
                kind: Kind::Text,
                required: true,
                doc: "why, for whoever asks later",
            },
            REALITY,
            ID,
            REASON_HOLDS,
            TOPIC,
            NEWER,
            OLDER,
            ALL,
            LIMIT,
            DRY_RUN,
        ],
        doc: "Settles dead letters without doing anything else: one by its id, or those that a filter holds.",
        handler: discard,
    },
    Command {
        name: "dlq.list",
        role: Role::Operator,
        effect: Effect::Shows,
        arguments: &[
            Argument {
                required: false,
                doc: "the group, named consumer, webhook or operator; if left out, those that have letters are listed",
                ..CONSUMER
            },
            REALITY,
            REASON_HOLDS,
            TOPIC,
            NEWER,
            OLDER,
            Argument::optional(
                "after",
                Kind::Text,
                "letters that stand after this sequence",
            ),
            LIMIT,
        ],
        doc: "Lists the dead letters of a consumer that nobody has dealt with, or who has letters.",
        handler: show_all,
    },
    Command {
        name: "dlq.replay",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[
            CONSUMER,
            REALITY,
            ID,
            REASON_HOLDS,
            TOPIC,
            NEWER,
            OLDER,
            ALL,
            LIMIT,
            Argument::optional(
                "force",
                Kind::Boolean,
                "also a letter that was dealt with already",
            ),
            DRY_RUN,
        ],
        doc: "Appends the originals of dead letters to their topics again, each once: one by its id, or those that a filter holds.",
        handler: replay,
    },
    Command {
        name: "dlq.show",
        role: Role::Operator,
        effect: Effect::Shows,
        arguments: &[
            CONSUMER,
            Argument {
                required: true,
                ..ID
            },
            REALITY,
        ],
        doc: "Shows a dead letter with its original, and what became of it.",
        handler: show,
    },
];

fn consumer<'a>(call: &'a Call<'_>) -> Result<&'a str, Error> {
    let consumer = call.arguments.text(CONSUMER.name).unwrap_or_default();
    let field = "arguments.consumer";
    // Those of webhooks and operators are several tokens: `webhook.wh_1`.
    name::check_topic(consumer).map_err(|fault| Error::Name { field, fault })?;
    Ok(consumer)
}

/// An argument that says something.
fn said(call: &Call<'_>, name: &str) -> Option<String> {
    let text = call.arguments.text(name).filter(|text| !text.is_empty());
    text.map(str::to_owned)
}

fn time(call: &Call<'_>, name: &str) -> Result<Option<Micros>, Error> {
    let Some(text) = said(call, name) else {
        return Ok(None);
    };
    let time = read_micros(&text, true).and_then(|micros| u64::try_from(micros).ok());
    let wanted = "a time of RFC 3339, like 2026-01-31T12:00:00Z";
    let time = time.ok_or_else(|| call.wrong(name, wanted))?;
    Ok(Some(Micros(time)))
}

fn which(call: &Call<'_>) -> Result<Which, Error> {
    let asked = call.arguments.integer(LIMIT.name).unwrap_or(LIMIT_DEFAULT);
    let limit = usize::try_from(asked).ok();
    let limit = limit.filter(|limit| (1..=LETTERS_MAX).contains(limit));
    let limit = limit.ok_or_else(|| Error::Argument {
        command: call.command,
        argument: LIMIT.name.to_owned(),
        fault: ArgumentFault::Number {
            found: asked.to_string(),
            max: LETTERS_MAX as u64,
        },
    })?;
    let after = match said(call, "after") {
        Some(text) => {
            let sequence = text.parse().ok().and_then(Sequence::new);
            Some(sequence.ok_or_else(|| call.wrong("after", "a sequence, in digits"))?)
        }
        None => None,
    };
    Ok(Which {
        id: said(call, ID.name),
        reason: said(call, REASON_HOLDS.name),
        topic: said(call, TOPIC.name),
        from: time(call, NEWER.name)?,
        to: time(call, OLDER.name)?,
        after,
        limit,
    })
}

/// The letters that are to be dealt with; all of them only if that was said.
fn meant(call: &Call<'_>, reality: &Reality, consumer: &str) -> Result<Vec<Standing>, Error> {
    let which = which(call)?;
    let open = Which {
        limit: which.limit,
        ..Which::default()
    };
    let all = call.arguments.boolean(ALL.name).unwrap_or_default();
    if which == open && !all {
        return Err(call.wrong(
            ID.name,
            "given, or another word about which letters are meant, or all",
        ));
    }
    let mut found = dealing::find(reality, consumer, &which)?;
    found.retain(|one| call.caller.may_see(&one.letter.topic));
    if found.is_empty()
        && let Some(id) = which.id
    {
        return Err(no_such(consumer, &id));
    }
    Ok(found)
}

fn no_such(consumer: &str, id: &str) -> Error {
    Error::NoSuchLetter {
        consumer: consumer.to_owned(),
        id: id.chars().take(64).collect(),
    }
}

fn about(one: &Standing) -> Vec<(&'static str, Value)> {
    let letter = &one.letter;
    vec![
        ("id", text(&letter.id)),
        ("consumer", text(&letter.consumer)),
        ("reality", text(&letter.reality)),
        ("sequence", number(letter.sequence)),
        ("topic", text(&letter.topic)),
        ("reason", text(&letter.reason)),
        ("error", text(&letter.error)),
        ("attempts", number(letter.attempts.into())),
        ("first_at_ms", number(Micros(letter.first_at).as_millis())),
        ("last_at_ms", number(Micros(letter.last_at).as_millis())),
        ("by", text(&letter.by)),
        ("letter_sequence", number(one.at.get())),
    ]
}

fn show_all(call: &Call<'_>) -> Result<Value, Error> {
    let reality = call.reality()?;
    if call.arguments.text(CONSUMER.name).is_none() {
        return show_consumers(call, &reality);
    }
    let consumer = consumer(call)?;
    let found = dealing::find(&reality, consumer, &which(call)?)?;
    let visible = found
        .iter()
        .filter(|one| call.caller.may_see(&one.letter.topic));
    Ok(list(visible.map(|one| fields(about(one)))))
}

/// Who has letters.
fn show_consumers(call: &Call<'_>, reality: &Reality) -> Result<Value, Error> {
    let prefix = format!("{DEAD_LETTER_TOKEN}.");
    let mut shown = Vec::new();
    for summary in reality.log().topics()? {
        let Some(consumer) = summary.topic.strip_prefix(&prefix) else {
            continue;
        };
        if !call.caller.may_see(&summary.topic) {
            continue;
        }
        let open = dealing::open(reality, consumer)?;
        // A projection's letters are dealt with by its own commands.
        let schema = if open > 0 { SCHEMA } else { "" };
        shown.push(fields([
            ("consumer", text(consumer)),
            ("open", number(open)),
            ("records", number(summary.records)),
            ("schema", text(schema)),
        ]));
    }
    Ok(list(shown.into_iter()))
}

fn show(call: &Call<'_>) -> Result<Value, Error> {
    let (reality, consumer) = (call.reality()?, consumer(call)?);
    let id = call.arguments.text(ID.name).unwrap_or_default();
    let which = Which {
        id: Some(id.to_owned()),
        limit: 1,
        ..Which::default()
    };
    let found = dealing::find(&reality, consumer, &which)?;
    let visible = |one: &&Standing| call.caller.may_see(&one.letter.topic);
    let Some(one) = found.first().filter(visible) else {
        return Err(no_such(consumer, id));
    };
    let mut shown = about(one);
    shown.push(("record_id", text(&one.letter.record_id)));
    shown.push(("producer", text(&one.letter.producer_id)));
    let envelope = one.letter.envelope.clone();
    shown.push(("envelope", value::Kind::Bytes(envelope).into()));
    let state = one.settled.as_ref();
    let outcome = state.map_or("open", |(settled, _)| settled.outcome.as_str());
    shown.push(("state", text(outcome)));
    if let Some((settled, replayed)) = state {
        shown.push(("settled_by", text(&settled.by)));
        shown.push(("settled_reason", text(&settled.reason)));
        if let Some(replayed) = replayed {
            shown.push(("replayed_as", number(replayed.get())));
        }
    }
    Ok(fields(shown))
}

/// What became of a letter.
fn became(one: &Standing, outcome: &str, more: Option<(&'static str, Value)>) -> Value {
    let about = [
        ("id", text(&one.letter.id)),
        ("original", number(one.letter.sequence)),
        ("topic", text(&one.letter.topic)),
        ("outcome", text(outcome)),
    ];
    fields(about.into_iter().chain(more))
}

fn summed(items: Vec<Value>, done: u64, dry_run: bool) -> Value {
    fields([
        ("count", number(items.len() as u64)),
        ("settled", number(done)),
        ("dry_run", flag(dry_run)),
        ("items", list(items.into_iter())),
    ])
}

/// Tasks stand where the node alone appends, for whoever may have it do so; a private message is
/// nobody's to send again but its sender's.
fn may_send_again(call: &Call<'_>, topic: &str) -> bool {
    if is_hidden_topic(topic) {
        call.caller.may_publish(topic)
    } else {
        call.caller.may_have_written(topic)
    }
}

fn replay(call: &Call<'_>) -> Result<Value, Error> {
    let (reality, consumer) = (call.reality()?, consumer(call)?);
    let (dry, by) = (rewind::is_dry(call), &call.caller.subject);
    let force = call.arguments.boolean("force").unwrap_or_default();
    dealing::alone(call.tenancy, || {
        let mut items = Vec::new();
        let mut done = 0;
        for one in meant(call, &reality, consumer)? {
            let item = if let Some((settled, _)) = one.settled.as_ref().filter(|_| !force) {
                let outcome = format!("already {}", settled.outcome);
                became(&one, &outcome, None)
            } else if let Some(error) = dealing::obstacle(&one) {
                became(&one, "refused", Some(("error", text(error))))
            } else if !may_send_again(call, &one.letter.topic) {
                let error = "this token may not publish on its topic";
                became(&one, "refused", Some(("error", text(error))))
            } else if dry {
                became(&one, "would be replayed", None)
            } else {
                let sequence = dealing::replay(&reality, &one, by)?;
                done += 1;
                became(&one, "replayed", Some(("sequence", number(sequence.get()))))
            };
            items.push(item);
        }
        log(call, &reality, consumer, "replayed", done);
        Ok(summed(items, done, dry))
    })
}

fn discard(call: &Call<'_>) -> Result<Value, Error> {
    let (reality, consumer) = (call.reality()?, consumer(call)?);
    let (dry, by) = (rewind::is_dry(call), &call.caller.subject);
    let reason = call.arguments.text("reason").unwrap_or_default();
    dealing::alone(call.tenancy, || {
        let mut items = Vec::new();
        let mut done = 0;
        for one in meant(call, &reality, consumer)? {
            let item = if let Some((settled, _)) = &one.settled {
                let outcome = format!("already {}", settled.outcome);
                became(&one, &outcome, None)
            } else if dry {
                became(&one, "would be discarded", None)
            } else {
                dealing::discard(&reality, &one, by, reason)?;
                done += 1;
                became(&one, "discarded", None)
            };
            items.push(item);
        }
        log(call, &reality, consumer, "discarded", done);
        Ok(summed(items, done, dry))
    })
}

fn log(call: &Call<'_>, reality: &Arc<Reality>, consumer: &str, what: &str, letters: u64) {
    if letters > 0 {
        tracing::info!(tenant = %call.tenancy.tenant(), reality = %reality.name(), consumer, letters, by = %call.caller.subject, "dead letters {what}");
    }
}
