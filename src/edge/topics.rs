//! What there is to say of one topic: what stands in it, what comes in, what is kept, what it must
//! be, and who reads it (BRK-14).

use std::time::Duration;

use super::shield::Fault;
use super::shield::command::{Call, Handler};
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::broker::{Filter, RealityName, Role};
use crate::log::Micros;
use crate::proto::ErrorCode;
use crate::proto::v1::Value;

/// How far back the rate is taken from.
const RATE_OVER: Duration = Duration::from_secs(60);

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[Command {
    name: "topics.describe",
    role: Role::User,
    effect: Effect::Shows,
    arguments: &[
        Argument {
            name: "topic",
            kind: Kind::Text,
            required: true,
            doc: "the topic",
        },
        Argument {
            name: "reality",
            kind: Kind::Text,
            required: false,
            doc: "the reality; main if left out",
        },
    ],
    doc: "Shows of a topic its records and bytes, the rate of the last minute, what is kept of it, its schemas and the named consumers of its reality.",
    handler: describe,
}];

fn describe(call: &Call<'_>) -> Result<Value, Fault> {
    let topic = call.arguments.text("topic").unwrap_or_default();
    let name = call.arguments.text("reality").unwrap_or_default();
    let name = RealityName::new(name)
        .map_err(|fault| Fault::invalid("arguments.reality", format!("the reality {fault}")))?;
    if name.is_system() && call.caller.role != Role::Admin {
        return Err(Fault::from(crate::broker::Error::RealityClosed {
            reality: name,
        }));
    }
    if !call.caller.may_see(topic) {
        let text = "this token may not subscribe to the topic";
        return Err(Fault::new(ErrorCode::Forbidden, "arguments.topic", text));
    }
    let reality = call.tenancy.reality(&name).map_err(|error| match error {
        crate::broker::Error::NoSuchReality { reality } => {
            Fault::from(crate::broker::Error::NotAmongRealities { reality })
        }
        other => Fault::from(other),
    })?;
    let log = reality.log();
    let unreadable = |error| Fault::from(crate::broker::Error::from(error));
    let topics = log.topics().map_err(unreadable)?;
    let Some(found) = topics.into_iter().find(|one| one.topic == topic) else {
        let text = format!(
            "nothing stands on this topic in reality {name}; `topics.list` lists those that do"
        );
        return Err(Fault::new(ErrorCode::NotFound, "arguments.topic", text));
    };
    let now = reality.now().0;
    let since = Micros(now.saturating_sub(micros(RATE_OVER)));
    let from = log.seek_time(since).map_err(unreadable)?;
    let lately = log.topics_from(from).map_err(unreadable)?;
    let lately = lately.into_iter().find(|one| one.topic == topic);
    let (records, bytes) = lately.map_or((0, 0), |one| (one.records, one.bytes));
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate for people; nobody counts records by it"
    )]
    let rate = |count: u64| Value::from(count as f64 / RATE_OVER.as_secs_f64());
    Ok(Value::object([
        ("topic", Value::from(topic)),
        ("reality", name.as_str().into()),
        ("records", found.records.into()),
        ("bytes", found.bytes.into()),
        ("first", found.first.get().into()),
        ("last", found.last.get().into()),
        ("records_per_second", rate(records)),
        ("bytes_per_second", rate(bytes)),
        ("retention", retention(call, topic)),
        ("schemas", schemas(call, topic)),
        ("consumers", consumers(call, &name, topic, found.last.get())),
    ]))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Limits that there are not are left out.
fn retention(call: &Call<'_>, topic: &str) -> Value {
    let (limits, compaction) = call.broker.kept(topic);
    let seconds = |micros: u64| micros / 1_000_000;
    let mut fields = vec![("compacted", Value::from(compaction.is_some()))];
    let numbers = [
        ("age_s", limits.age_micros.map(seconds)),
        ("bytes", limits.bytes),
        ("records", limits.records),
        (
            "tombstone_grace_s",
            compaction.map(|rule| seconds(rule.tombstone_grace_micros)),
        ),
    ];
    for (name, number) in numbers {
        fields.extend(number.map(|number| (name, Value::from(number))));
    }
    Value::object(fields)
}

/// The subjects that its payloads are held against.
fn schemas(call: &Call<'_>, topic: &str) -> Value {
    let rules = call.guard.rules();
    rules.schemas.names_for(topic).collect()
}

/// The named consumers of the reality that read the topic.
fn consumers(call: &Call<'_>, reality: &RealityName, topic: &str, last: u64) -> Value {
    let all = call.tenancy.consumers().list().into_iter();
    let reads = |filter: &str| Filter::new(filter).is_ok_and(|filter| filter.matches(topic));
    let here = all.filter(|one| {
        one.reality.as_str() == reality.as_str() && one.filter.as_deref().is_none_or(reads)
    });
    here.map(|one| {
        let at = one.sequence.map_or(0, |at| at.get());
        Value::object([
            ("consumer", Value::from(one.consumer)),
            ("sequence", at.into()),
            ("active", one.active.into()),
            ("reached_last", (at >= last).into()),
        ])
    })
    .collect()
}
