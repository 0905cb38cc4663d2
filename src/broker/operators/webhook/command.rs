//! The commands `op.webhook.*`.
//!
//! A rule is its owner's: others do not learn that it is there, but for admins. A secret is shown
//! once, to whoever made or changed it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hyper::header::{HeaderName, HeaderValue};
use jiff::Timestamp;
use prost::Message as _;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Map, Value as Json, json};

use super::desk::{Attempt, lock};
use super::lane::{consumer, headers};
use super::post::header_allowed;
use super::rule::{Format, Hooks, OnExhausted, Position, Rule, Signing, reached, removed, set};
use super::signature::{Scheme, Secret};
use super::target::Target;
use super::{NAME, Refused, body};
use crate::broker::access::Role;
use crate::broker::command::{Call, Handler};
use crate::broker::error::Error;
use crate::broker::letter::{self, Entry};
use crate::broker::name::NameError;
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::broker::{Filter, Reality, RealityName, room};
use crate::log::{Micros, Sequence};
use crate::proto::code::ErrorCode;
use crate::proto::json::Origin;
use crate::proto::v1::{Envelope, Event, Record, Value, envelope};
use crate::proto::view::RecordView;

const NAME_BYTES_MAX: usize = 64;
const HEADERS_MAX: usize = 16;
const HEADER_BYTES_MAX: usize = 1_024;
const TIMEOUT_MAX: Duration = Duration::from_secs(120);
const ATTEMPTS_MAX: u64 = 1_000;
const OVERLAP_S: u64 = 24 * 60 * 60;
const OVERLAP_S_MAX: u64 = 30 * OVERLAP_S;
const AGAIN_MAX: usize = 256;
/// Everything that is said in rooms.
const ROOMS: &str = "room.>";

const RULE: Argument = Argument {
    name: "rule_id",
    kind: Kind::Text,
    required: true,
    doc: "id of the rule, or its name",
};

const SECRET: Argument = Argument::optional(
    "secret",
    Kind::Text,
    "what signs: whsec_ and base64 of 24 to 64 bytes, or whsk_ and that of an Ed25519 key; made if left out",
);

/// All of them, by name.
pub(super) const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "op.webhook.deliveries",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[RULE],
        doc: "Shows the last attempts of a webhook since the node started, the newest first.",
        handler: deliveries,
    },
    Command {
        name: "op.webhook.disable",
        role: Role::User,
        effect: Effect::Changes,
        arguments: &[RULE],
        doc: "Sends nothing by a webhook until it is enabled, and forgets nothing.",
        handler: disable,
    },
    Command {
        name: "op.webhook.enable",
        role: Role::User,
        effect: Effect::Changes,
        arguments: &[RULE],
        doc: "Has a webhook go on where it was.",
        handler: enable,
    },
    Command {
        name: "op.webhook.list",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Lists the caller's webhooks, or all of the tenant for an admin; never their secrets.",
        handler: list,
    },
    Command {
        name: "op.webhook.redeliver",
        role: Role::User,
        effect: Effect::Changes,
        arguments: &[
            RULE,
            Argument::optional(
                "from",
                Kind::Text,
                "sequence, in digits, from which on everything is sent again",
            ),
            Argument::optional(
                "letter",
                Kind::Text,
                "id of a dead letter of the webhook, whose record is sent once more",
            ),
        ],
        doc: "Sends events of a webhook once more: from a sequence on, or that of a dead letter.",
        handler: redeliver,
    },
    Command {
        name: "op.webhook.register",
        role: Role::User,
        effect: Effect::Changes,
        arguments: &[
            Argument {
                name: "url",
                kind: Kind::Text,
                required: true,
                doc: "where events are sent",
            },
            Argument::optional(
                "topic",
                Kind::Text,
                "which topics, as a filter; instead of room and channel",
            ),
            Argument::optional("room", Kind::Text, "which room; all of them if left out"),
            Argument::optional(
                "channel",
                Kind::Text,
                "which channel of it; all if left out",
            ),
            Argument::optional("reality", Kind::Text, "the reality; main if left out"),
            Argument::optional(
                "headers",
                Kind::Object,
                "headers sent along, such as authorization or x-...",
            ),
            Argument::optional(
                "timeout_seconds",
                Kind::Number,
                "how long an answer may take",
            ),
            SECRET,
            Argument::optional(
                "signature",
                Kind::Text,
                "hmac (if left out) or ed25519, where a secret is made",
            ),
            Argument::optional("name", Kind::Text, "what it is called"),
            Argument::optional(
                "ordered_by_key",
                Kind::Boolean,
                "order is kept for each key of events and not for all, so that one that is not taken holds up its key alone",
            ),
            Argument::optional(
                "max_attempts",
                Kind::Integer,
                "how often an event is sent at most",
            ),
            Argument::optional(
                "from",
                Kind::Text,
                "now (if left out), earliest, or a sequence in digits",
            ),
            Argument::optional(
                "format",
                Kind::Text,
                "json, legacy or protobuf; json if left out, legacy where no topic is given",
            ),
            Argument::optional(
                "on_exhausted",
                Kind::Text,
                "dead_letter (if left out): an event that is not taken becomes one; or pause: the webhook is disabled",
            ),
        ],
        doc: "Has events sent to a URL; answers with the secret, which is not shown again.",
        handler: register,
    },
    Command {
        name: "op.webhook.rotate",
        role: Role::User,
        effect: Effect::Changes,
        arguments: &[
            RULE,
            SECRET,
            Argument::optional(
                "overlap_seconds",
                Kind::Integer,
                "how long the old secret signs beside the new one; a day if left out",
            ),
        ],
        doc: "Gives a webhook another secret; for a time both sign. Answers with the new one, which is not shown again.",
        handler: rotate,
    },
    Command {
        name: "op.webhook.show",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[RULE],
        doc: "Shows a webhook: where it stands, what came of its last attempt, its circuit breaker.",
        handler: show,
    },
    Command {
        name: "op.webhook.test",
        role: Role::User,
        effect: Effect::Changes,
        arguments: &[RULE],
        doc: "Sends a signed event of the type webhook.test now, once, and says what came of it.",
        handler: test,
    },
    Command {
        name: "op.webhook.unregister",
        role: Role::User,
        effect: Effect::Changes,
        arguments: &[RULE],
        doc: "Removes a webhook.",
        handler: unregister,
    },
];

fn name_of(error: NameError, name: &str) -> Error {
    Refused::invalid(name, error)
}

fn time(ms: u64) -> String {
    let at = i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.unwrap_or_default().to_string()
}

/// Seconds, with a fraction only where there is one.
fn seconds(ms: u64) -> Json {
    match (ms % 1_000, u32::try_from(ms)) {
        (1.., Ok(ms)) => (f64::from(ms) / 1_000.0).into(),
        _ => (ms / 1_000).into(),
    }
}

fn time_of(at: Micros) -> String {
    time(at.as_millis())
}

/// Bytes of chance in hexadecimal digits.
fn digits(bytes: usize) -> Result<String, Error> {
    let mut made = vec![0; bytes];
    let filled = SystemRandom::new().fill(&mut made);
    filled.map_err(|ring::error::Unspecified| Error::Internal)?;
    Ok(made.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The rule that is meant, if it is the caller's.
fn find<'h>(call: &Call<'_>, hooks: &'h Hooks) -> Result<&'h Rule, Error> {
    let asked = call.arguments.text("rule_id").unwrap_or_default();
    let mine = |rule: &&Rule| call.caller.role == Role::Admin || rule.owner == call.caller.subject;
    let by_name = || {
        hooks
            .rules
            .values()
            .filter(mine)
            .find(|rule| rule.name == asked)
    };
    let found = hooks.rules.get(asked).filter(mine).or_else(by_name);
    found.ok_or_else(|| {
        let asked: String = asked.chars().take(64).collect();
        let text = format!(
            "you have no webhook {asked:?}; `arqon webhooks list` shows those that you have"
        );
        Refused::because(ErrorCode::NotFound, "arguments.rule_id", text)
    })
}

fn look(call: &Call<'_>) -> Result<(Rule, Position), Error> {
    let ledger = call.tenancy.ledger::<Hooks>();
    ledger.read(|hooks| {
        let rule = find(call, hooks)?;
        Ok((rule.clone(), hooks.position(rule)))
    })?
}

/// Changes a rule and has it at work as it is now.
fn alter(
    call: &Call<'_>,
    change: impl FnOnce(&mut Rule) -> Result<(), Error>,
) -> Result<Rule, Error> {
    let rule = call.tenancy.ledger::<Hooks>().change(|hooks| {
        let before = find(call, hooks)?;
        let mut rule = before.clone();
        change(&mut rule)?;
        let changed = (rule != *before).then(|| set(&rule));
        Ok((rule, changed.into_iter().collect()))
    })?;
    wake(call);
    Ok(rule)
}

fn wake(call: &Call<'_>) {
    call.broker.duties().wake(call.tenancy.tenant(), NAME);
}

fn answer(json: Json) -> Result<Value, Error> {
    Ok(json.into())
}

fn described(rule: &Rule) -> Map<String, Json> {
    let names: Vec<&String> = rule.headers.keys().collect();
    let first = rule.secrets.first();
    let secret = first.and_then(|signing| Secret::parse(&signing.secret).ok());
    let about = json!({
        "rule_id": rule.id,
        "name": rule.name,
        "url": rule.url,
        "topic": rule.topic,
        "reality": rule.reality,
        "room": rule.room,
        "channel": rule.channel,
        "owner": rule.owner,
        "format": rule.format.as_str(),
        "headers": names,
        "timeout_seconds": seconds(rule.timeout_ms),
        "ordered_by_key": rule.ordered_by_key,
        "max_attempts": rule.attempts_max,
        "on_exhausted": rule.on_exhausted.as_str(),
        "secrets": rule.secrets.len(),
        "public_key": secret.and_then(|secret| secret.public()),
        "dead_letters": letter::topic(&consumer(&rule.id)),
        "enabled": rule.enabled,
        "disabled_because": rule.disabled_because,
        "created_at": time(rule.created_at_ms),
    });
    match about {
        Json::Object(about) => about,
        _ => Map::new(),
    }
}

fn standing(call: &Call<'_>, rule: &Rule, position: &Position) -> Map<String, Json> {
    let desk = call.broker.webhooks();
    let account = lock(&desk.account(call.tenancy.tenant(), &rule.id)).clone();
    let reality = RealityName::new(&rule.reality).ok();
    let reality = reality.and_then(|name| call.tenancy.peek(&name));
    let end = reality.map(|reality| reality.bounds().durable_end.get());
    let next = account.next.unwrap_or(position.next).max(position.next);
    let last = account.attempts.back();
    let about = json!({
        "position": next.saturating_sub(1),
        "stored_position": position.next.saturating_sub(1),
        "lag_records": end.map(|end| end.saturating_sub(next)),
        "breaker": account.breaker.as_str(),
        "delivered": account.delivered,
        "failed": account.failed,
        "waiting": position.troubles.len(),
        "again": position.again.len(),
        "next_attempt_at": account.next_at.map(time_of),
        "last_status": last.and_then(|attempt| attempt.status),
        "last_error": last.map(|attempt| attempt.error.clone()).filter(|error| !error.is_empty()),
        "last_attempt_at": last.map(|attempt| time_of(attempt.at)),
        "halted": account.halted,
    });
    match about {
        Json::Object(about) => about,
        _ => Map::new(),
    }
}

fn list(call: &Call<'_>) -> Result<Value, Error> {
    let ledger = call.tenancy.ledger::<Hooks>();
    let rules = ledger.read(|hooks| {
        let all = hooks.rules.values();
        let mine =
            all.filter(|rule| call.caller.role == Role::Admin || rule.owner == call.caller.subject);
        let with_position = mine.map(|rule| (rule.clone(), hooks.position(rule)));
        with_position.collect::<Vec<_>>()
    })?;
    let shown: Vec<Json> = rules
        .iter()
        .map(|(rule, position)| {
            let mut about = described(rule);
            about.extend(standing(call, rule, position));
            about.into()
        })
        .collect();
    answer(json!({ "count": shown.len(), "rules": shown }))
}

fn show(call: &Call<'_>) -> Result<Value, Error> {
    let (rule, position) = look(call)?;
    let mut about = described(&rule);
    about.extend(standing(call, &rule, &position));
    let troubles: Vec<Json> = position
        .troubles
        .iter()
        .map(|trouble| {
            json!({
                "sequence": trouble.sequence,
                "attempts": trouble.attempts,
                "first_at": time_of(Micros(trouble.first_at)),
                "last_at": time_of(Micros(trouble.last_at)),
                "next_at": time_of(Micros(trouble.next_at)),
                "error": trouble.said,
            })
        })
        .collect();
    about.insert("troubles".to_owned(), troubles.into());
    answer(about.into())
}

fn deliveries(call: &Call<'_>) -> Result<Value, Error> {
    let (rule, _) = look(call)?;
    let account = call
        .broker
        .webhooks()
        .account(call.tenancy.tenant(), &rule.id);
    let attempts = lock(&account).attempts.clone();
    let shown: Vec<Json> = attempts.iter().rev().map(shown).collect();
    answer(json!({ "rule_id": rule.id, "count": shown.len(), "deliveries": shown }))
}

fn shown(attempt: &Attempt) -> Json {
    json!({
        "at": time_of(attempt.at),
        "sequence": attempt.sequence,
        "id": attempt.id,
        "attempt": attempt.number,
        "status": attempt.status,
        "took_ms": attempt.took_ms,
        "error": attempt.error,
        "answer": attempt.excerpt,
        "next_at": attempt.next_at.map(time_of),
    })
}

fn register(call: &Call<'_>) -> Result<Value, Error> {
    let settings = call.broker.webhooks().settings();
    let text = |name: &str| call.arguments.text(name).filter(|text| !text.is_empty());
    let url = text("url").unwrap_or_default();
    Target::parse(url, &settings.rules).map_err(|unfit| Refused::invalid("url", unfit))?;
    let filter = filter(call)?;
    if !call.caller.may_subscribe(&filter) {
        let text = format!("this token may not subscribe to all that {filter} matches; name less");
        return Err(Refused::because(
            ErrorCode::Forbidden,
            "arguments.topic",
            text,
        ));
    }
    let reality = call.reality()?;
    let secret = secret(call)?;
    let format = match (text("format"), text("topic")) {
        (None, None) => Format::Legacy,
        (None, Some(_)) => Format::Json,
        (Some(format), _) => Format::parse(format)
            .ok_or_else(|| Refused::invalid("format", "must be json, legacy or protobuf"))?,
    };
    let on_exhausted =
        text("on_exhausted").map_or(Some(OnExhausted::DeadLetter), OnExhausted::parse);
    let on_exhausted = on_exhausted
        .ok_or_else(|| Refused::invalid("on_exhausted", "must be dead_letter or pause"))?;
    let id = format!("wh_{}", digits(6)?);
    let name = text("name").unwrap_or(&id).to_owned();
    if name.len() > NAME_BYTES_MAX {
        let text = format!("has more than {NAME_BYTES_MAX} bytes");
        return Err(Refused::invalid("name", text));
    }
    let created_at_ms = call.tenancy.now().as_millis();
    let rule = Rule {
        id,
        name,
        owner: call.caller.subject.clone(),
        url: url.to_owned(),
        reality: reality.name().to_string(),
        topic: filter.to_string(),
        room: text("room").map(str::to_owned),
        channel: text("channel").map(str::to_owned),
        headers: own_headers(call)?,
        timeout_ms: timeout_ms(call, settings.timeout)?,
        format,
        ordered_by_key: call.arguments.boolean("ordered_by_key").unwrap_or(false),
        attempts_max: whole(call, "max_attempts", ATTEMPTS_MAX)?
            .unwrap_or_else(|| settings.schedule.attempts()),
        on_exhausted,
        secrets: vec![Signing {
            secret: secret.text().to_owned(),
            until_ms: None,
        }],
        created_at_ms,
        enabled: true,
        disabled_because: None,
        generation: 1,
        from: start(call, &reality)?.get(),
    };
    call.tenancy.ledger::<Hooks>().change(|hooks| {
        let most = settings.rules_max;
        if hooks.rules.len() >= most {
            let text =
                format!("the tenant has {most} webhooks, which is the limit; remove one first");
            return Err(Refused::because(ErrorCode::TooLarge, "", text));
        }
        let mut owned = hooks
            .rules
            .values()
            .filter(|other| other.owner == rule.owner);
        if owned.any(|other| other.name == rule.name) {
            return Err(Refused::invalid(
                "name",
                "you have a webhook of that name already",
            ));
        }
        Ok(((), vec![set(&rule)]))
    })?;
    wake(call);
    let mut about = described(&rule);
    about.insert("secret".to_owned(), secret.text().into());
    answer(about.into())
}

/// The topics that are asked for, by a filter or as a room.
fn filter(call: &Call<'_>) -> Result<Filter, Error> {
    let text = |name: &str| call.arguments.text(name).filter(|text| !text.is_empty());
    let channel = |room: &str, channel: &str| {
        let topic = room::topic("any", channel);
        let token = topic.rsplit('.').next().unwrap_or_default();
        format!("{room}{token}")
    };
    let pattern = match (text("topic"), text("room"), text("channel")) {
        (Some(topic), None, None) => topic.to_owned(),
        (Some(_), _, _) => {
            return Err(Refused::invalid(
                "topic",
                "stands instead of room and channel; give one of both",
            ));
        }
        (None, Some(room), Some(channel)) => room::topic(room, channel),
        (None, Some(room), None) => format!("{}>", room::prefix(room)),
        (None, None, Some(of_all)) => channel("room.*.", of_all),
        (None, None, None) => ROOMS.to_owned(),
    };
    Filter::new(&pattern).map_err(|error| name_of(error, "topic"))
}

fn secret(call: &Call<'_>) -> Result<Secret, Error> {
    let scheme = match call.arguments.text("signature") {
        None | Some("") => Scheme::Hmac,
        Some(named) => Scheme::parse(named)
            .ok_or_else(|| Refused::invalid("signature", "must be hmac or ed25519"))?,
    };
    let secret = match call.arguments.text("secret") {
        None | Some("") => Secret::generate(scheme),
        Some(given) => Secret::parse(given),
    };
    secret.map_err(|fault| Refused::invalid("secret", fault))
}

/// How long an answer may take; `usual` if nothing is said.
fn timeout_ms(call: &Call<'_>, usual: Duration) -> Result<u64, Error> {
    let given = call.arguments.number("timeout_seconds");
    let timeout = given.map_or(Ok(usual), Duration::try_from_secs_f64);
    let timeout = timeout.ok().filter(|timeout| {
        *timeout <= TIMEOUT_MAX.max(usual) && *timeout >= Duration::from_millis(1)
    });
    let timeout = timeout.and_then(|timeout| u64::try_from(timeout.as_millis()).ok());
    timeout.ok_or_else(|| {
        let most = TIMEOUT_MAX.as_secs();
        let text = format!("must be a number of seconds above 0 and up to {most}");
        Refused::invalid("timeout_seconds", text)
    })
}

/// A whole number from 1 to `most`, if it was given.
fn whole(call: &Call<'_>, name: &str, most: u64) -> Result<Option<u64>, Error> {
    match call.arguments.integer(name) {
        None => Ok(None),
        Some(number) if (1..=most).contains(&number) => Ok(Some(number)),
        Some(_) => Err(Refused::invalid(
            name,
            format!("must be a whole number from 1 to {most}"),
        )),
    }
}

fn own_headers(call: &Call<'_>) -> Result<BTreeMap<String, String>, Error> {
    let mut headers = BTreeMap::new();
    let Some(given) = call.arguments.object("headers") else {
        return Ok(headers);
    };
    if given.len() > HEADERS_MAX {
        let text = format!("there may be {HEADERS_MAX} at most");
        return Err(Refused::invalid("headers", text));
    }
    for (name, value) in given {
        let short = (name.len() <= NAME_BYTES_MAX).then_some(name);
        let parsed = short.and_then(|name| name.parse::<HeaderName>().ok());
        let parsed = parsed.filter(header_allowed);
        let Some(parsed) = parsed else {
            let name: String = name.chars().take(64).collect();
            let text = format!(
                "{name:?} cannot be sent; allowed are authorization, accept, accept-language, prefer, and names that begin with x-"
            );
            return Err(Refused::invalid("headers", text));
        };
        let value = value.as_str().filter(|value| {
            value.len() <= HEADER_BYTES_MAX && HeaderValue::from_str(value).is_ok()
        });
        let Some(value) = value else {
            let text =
                format!("{parsed} must be a text of at most {HEADER_BYTES_MAX} printable bytes");
            return Err(Refused::invalid("headers", text));
        };
        headers.insert(parsed.to_string(), value.to_owned());
    }
    Ok(headers)
}

fn start(call: &Call<'_>, reality: &Reality) -> Result<Sequence, Error> {
    let bounds = reality.bounds();
    match call.arguments.text("from") {
        None | Some("" | "now") => Ok(bounds.durable_end),
        Some("earliest") => Ok(bounds.first),
        Some(digits) => sequence(digits).ok_or_else(|| {
            Refused::invalid("from", "must be now, earliest, or a sequence in digits")
        }),
    }
}

fn sequence(digits: &str) -> Option<Sequence> {
    digits.parse().ok().and_then(Sequence::new)
}

fn unregister(call: &Call<'_>) -> Result<Value, Error> {
    let id = call.tenancy.ledger::<Hooks>().change(|hooks| {
        let id = find(call, hooks)?.id.clone();
        let event = removed(&id);
        Ok((id, vec![event]))
    })?;
    call.broker.webhooks().forget(call.tenancy.tenant(), &id);
    wake(call);
    answer(json!({ "rule_id": id }))
}

fn enable(call: &Call<'_>) -> Result<Value, Error> {
    let rule = alter(call, |rule| {
        rule.enabled = true;
        rule.disabled_because = None;
        Ok(())
    })?;
    answer(described(&rule).into())
}

fn disable(call: &Call<'_>) -> Result<Value, Error> {
    let rule = alter(call, |rule| {
        rule.enabled = false;
        Ok(())
    })?;
    answer(described(&rule).into())
}

fn rotate(call: &Call<'_>) -> Result<Value, Error> {
    let overlap_s = match call.arguments.integer("overlap_seconds") {
        None => OVERLAP_S,
        Some(seconds) if seconds <= OVERLAP_S_MAX => seconds,
        Some(_) => {
            let text = format!("must be a whole number from 0 to {OVERLAP_S_MAX}");
            return Err(Refused::invalid("overlap_seconds", text));
        }
    };
    let given = match call.arguments.text("secret") {
        None | Some("") => None,
        Some(given) => {
            Some(Secret::parse(given).map_err(|fault| Refused::invalid("secret", fault))?)
        }
    };
    let until_ms = call.tenancy.now().as_millis() + overlap_s * 1_000;
    let mut made = None;
    let rule = alter(call, |rule| {
        let before = rule.secrets.first().map(|signing| signing.secret.clone());
        let secret = match given {
            Some(secret) => secret,
            None => {
                let known = before.as_deref().and_then(|text| Secret::parse(text).ok());
                let scheme = known.map_or(Scheme::Hmac, |secret| secret.scheme());
                Secret::generate(scheme).map_err(|fault| Refused::invalid("secret", fault))?
            }
        };
        let text = secret.text().to_owned();
        made = Some(text.clone());
        let old = before.filter(|old| overlap_s > 0 && *old != text);
        let old = old.map(|secret| Signing {
            secret,
            until_ms: Some(until_ms),
        });
        let new = Signing {
            secret: text,
            until_ms: None,
        };
        rule.secrets = [new].into_iter().chain(old).collect();
        Ok(())
    })?;
    let mut about = described(&rule);
    about.insert("secret".to_owned(), made.into());
    if rule.secrets.len() > 1 {
        about.insert("old_secret_until".to_owned(), time(until_ms).into());
    }
    answer(about.into())
}

fn redeliver(call: &Call<'_>) -> Result<Value, Error> {
    let text = |name: &str| call.arguments.text(name).filter(|text| !text.is_empty());
    match (text("from"), text("letter")) {
        (Some(from), None) => {
            let from = sequence(from)
                .ok_or_else(|| Refused::invalid("from", "must be a sequence in digits"))?;
            let rule = alter(call, |rule| {
                rule.generation += 1;
                rule.from = from.get();
                Ok(())
            })?;
            answer(json!({ "rule_id": rule.id, "from": from.get() }))
        }
        (None, Some(letter)) => redeliver_letter(call, letter),
        (None, None) | (Some(_), Some(_)) => {
            let text = "give either a sequence to begin from, or the id of a dead letter as letter";
            Err(Refused::invalid("from", text))
        }
    }
}

fn redeliver_letter(call: &Call<'_>, id: &str) -> Result<Value, Error> {
    let (rule, _) = look(call)?;
    let name = RealityName::new(&rule.reality).map_err(|error| name_of(error, "reality"))?;
    let reality = call.tenancy.reality(&name)?;
    let mut found = None;
    letter::each(
        &reality,
        &consumer(&rule.id),
        reality.bounds().first,
        |_, entry| {
            if let Entry::Letter(letter) = entry
                && letter.id == id
            {
                found = Some(letter.sequence);
            }
        },
    )?;
    let sequence = found.ok_or_else(|| {
        let topic = letter::topic(&consumer(&rule.id));
        let text = format!("there is no such dead letter on {topic}");
        Refused::because(ErrorCode::NotFound, "arguments.letter", text)
    })?;
    call.tenancy.ledger::<Hooks>().change(|hooks| {
        let rule = find(call, hooks)?;
        let mut position = hooks.position(rule);
        if position.again.contains(&sequence) {
            return Ok(((), Vec::new()));
        }
        if position.again.len() >= AGAIN_MAX {
            let text =
                format!("{AGAIN_MAX} records are to be sent once more already; wait for them");
            return Err(Refused::because(ErrorCode::RateLimited, "", text));
        }
        position.again.push(sequence);
        Ok(((), vec![reached(&rule.id, &position)]))
    })?;
    wake(call);
    answer(json!({ "rule_id": rule.id, "letter": id, "sequence": sequence }))
}

/// The record of a test, which stands in no log.
fn test_record(rule: &Rule, now: Micros) -> Result<Vec<u8>, Error> {
    let data = json!({ "test": true, "rule_id": rule.id }).to_string();
    let envelope = Envelope {
        id: format!("msg_test_{}", digits(8)?),
        topic: "webhook.test".into(),
        timestamp: i64::try_from(now.as_millis()).unwrap_or_default(),
        headers: [("content-type".to_owned(), "application/json".to_owned())].into(),
        payload: Some(envelope::Payload::Event(Event {
            r#type: "webhook.test".into(),
            data: data.into(),
        })),
        ..Envelope::default()
    };
    let record = Record {
        appended_at: now.0,
        topic: envelope.topic.clone(),
        envelope: envelope.encode_to_vec().into(),
        ..Record::default()
    };
    Ok(record.encode_to_vec())
}

fn test(call: &Call<'_>) -> Result<Value, Error> {
    let (rule, _) = look(call)?;
    let desk = call.broker.webhooks();
    let settings = desk.settings();
    let poster = desk
        .poster()
        .map_err(|error| Refused::conflict("", error))?;
    let target = Target::parse(&rule.url, &settings.rules);
    let target = target.map_err(|unfit| Refused::conflict("", format!("its url: {unfit}")))?;
    let now = call.tenancy.now();
    let bytes = test_record(&rule, now)?;
    let record = RecordView::parse(&bytes).or(Err(Error::Internal))?;
    let tenant = call.tenancy.tenant();
    let origin = Origin {
        tenant: tenant.as_str(),
        reality: &rule.reality,
    };
    let valid = |signing: &&Signing| signing.until_ms.is_none_or(|until| now.as_millis() < until);
    let secrets: Vec<_> = rule
        .secrets
        .iter()
        .filter(valid)
        .filter_map(|signing| Secret::parse(&signing.secret).ok())
        .collect();
    let (text, content_type) = body::body(&record, origin, rule.format, settings.older);
    let id = record.id();
    let own = headers(&rule.headers);
    let letter = body::letter((&id, content_type, text), &own, secrets.iter(), now);
    let timeout = Duration::from_millis(rule.timeout_ms).min(call.wait_max);
    let [of_endpoint, of_tenant] = desk.permits(tenant, target.endpoint());
    let started = Instant::now();
    // Commands run where blocking is allowed, and within a runtime.
    let runtime = tokio::runtime::Handle::try_current().or(Err(Error::Internal))?;
    let posted = runtime.block_on(async {
        let asking = async {
            let _permits = (of_endpoint.acquire().await, of_tenant.acquire().await);
            let mut kept = None;
            poster.post(&target, &letter, timeout, &mut kept).await
        };
        let whole = tokio::time::timeout(call.wait_max.max(timeout), asking).await;
        whole.unwrap_or(Err(super::post::Failed::Timeout))
    });
    let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (status, error, excerpt) = match posted {
        Ok(answer) if answer.status.is_success() => (Some(answer.status), None, answer.excerpt),
        Ok(answer) => {
            let error = format!("it was answered with {}", answer.status);
            (Some(answer.status), Some(error), answer.excerpt)
        }
        Err(failed) => (None, Some(failed.to_string()), String::new()),
    };
    answer(json!({
        "rule_id": rule.id,
        "id": id,
        "taken": error.is_none(),
        "status": status.map(|status| status.as_u16()),
        "took_ms": took_ms,
        "error": error,
        "answer": excerpt,
    }))
}
