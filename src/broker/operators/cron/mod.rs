//! `op.cron`: messages that the node publishes by itself, at times (OPS-06).
//!
//! A job is an event in `_system`; where it stands is the last record on its topic
//! `op.cron.<job>` in the reality that it publishes in, which is stored in one batch with the
//! message, so that each firing is recorded once whatever crashes between.

mod firing;
mod job;
mod office;
mod schedule;
#[cfg(test)]
mod tests;

use crate::broker::command::{Call, Handler, REALITY};
use crate::broker::error::{ArgumentFault, Error};
use crate::broker::name::check_topic;
use crate::broker::operators::BuiltIn;
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::broker::{Role, Tenancy, room};
use crate::proto::json::micros;
use crate::proto::v1::Value;

use job::{Change, End, Job, Jobs};
pub use schedule::BadPlan;
use schedule::{CAUGHT_UP_MAX, Gap, INTERVAL_MS_MIN, Misfire, Plan, Schedule};

pub(in crate::broker) use firing::TOPIC_PREFIX;

/// Its line in the registry.
pub const CRON: BuiltIn = BuiltIn {
    name: NAME,
    doc: "Publishes messages at times.",
    commands: COMMANDS,
    duty: Some(office::DUTY),
};

const NAME: &str = "cron";
/// A job that was asked for without any time runs after this, as in the older system.
const DELAY_S: f64 = 1.0;
/// Longest delay and interval: a hundred years.
const SECONDS_MAX: f64 = 100.0 * 365.0 * 86_400.0;
/// Longest name of a job in bytes.
const NAME_BYTES_MAX: usize = 128;
/// Missed firings that `misfire = all` makes up for, unless it says otherwise.
const CAUGHT_UP: u64 = 100;
/// Next times that are shown, unless the caller says otherwise,
const SHOWN: u64 = 5;
/// and at most.
const SHOWN_MAX: u64 = 100;

/// Bounds of the jobs of one tenant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most jobs.
    pub jobs_max: usize,
    /// A firing counts as missed when it is so late.
    pub missed_after_ms: u64,
    /// Largest payload in bytes.
    pub payload_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            jobs_max: 10_000,
            missed_after_ms: 60_000,
            payload_bytes_max: 64 << 10,
        }
    }
}

const JOB: Argument = Argument {
    name: "job_id",
    kind: Kind::Text,
    required: true,
    doc: "id or name of the job",
};

const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "op.cron.cancel",
        role: Role::User,
        effect: Effect::Changes,
        arguments: &[JOB],
        doc: "Ends a job of one's own; an admin, any.",
        handler: cancel,
    },
    Command {
        name: "op.cron.list",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Lists one's own jobs; for an admin, all of the tenant.",
        handler: list,
    },
    Command {
        name: "op.cron.pause",
        role: Role::User,
        effect: Effect::Changes,
        arguments: &[JOB],
        doc: "Has a job of one's own not run until it is resumed; an admin, any.",
        handler: pause,
    },
    Command {
        name: "op.cron.resume",
        role: Role::User,
        effect: Effect::Changes,
        arguments: &[JOB],
        doc: "Has a paused job run again; what it would have done meanwhile is not made up for.",
        handler: resume,
    },
    Command {
        name: "op.cron.schedule",
        role: Role::User,
        effect: Effect::Changes,
        arguments: &[
            Argument::optional(
                "topic",
                Kind::Text,
                "where the messages go, if not to a room",
            ),
            Argument::optional("room", Kind::Text, "the room that they go to"),
            Argument::optional("channel", Kind::Text, "and its channel; main if left out"),
            Argument {
                name: "payload",
                kind: Kind::Object,
                required: true,
                doc: "what they say",
            },
            REALITY,
            Argument::optional(
                "name",
                Kind::Text,
                "what the job is called; no other of the tenant may be",
            ),
            Argument::optional(
                "cron",
                Kind::Text,
                "a cron expression of five fields, of six with seconds, or of seven with years",
            ),
            Argument::optional(
                "time_zone",
                Kind::Text,
                "IANA name of the zone whose clock the expression goes by; UTC if left out",
            ),
            Argument::optional(
                "dst",
                Kind::Text,
                "on a day whose clock skips the time: run, right after the gap, or skip; run if left out",
            ),
            Argument::optional(
                "delay_seconds",
                Kind::Number,
                "the first time is so long from now; 1 if left out",
            ),
            Argument::optional(
                "interval_seconds",
                Kind::Number,
                "and then in steps of so long",
            ),
            Argument::optional(
                "repeat_count",
                Kind::Integer,
                "so many times; 0 for ever; if left out once, or for ever with a cron expression",
            ),
            Argument::optional(
                "misfire",
                Kind::Text,
                "what becomes of times that were missed: skip, once for the last of them, or all; once if left out",
            ),
            Argument::optional(
                "misfire_max",
                Kind::Integer,
                "with all: so many of the last; 100 if left out, 1000 at most",
            ),
        ],
        doc: "Has a message published later, again and again, or by a cron expression.",
        handler: schedule,
    },
    Command {
        name: "op.cron.show",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[
            JOB,
            Argument::optional(
                "next",
                Kind::Integer,
                "so many of the next times; 5 if left out, 100 at most",
            ),
        ],
        doc: "Shows a job of one's own, its message, and when it runs next; to an admin, any.",
        handler: show,
    },
];

fn fault(call: &Call<'_>, argument: &'static str, fault: ArgumentFault) -> Error {
    Error::Argument {
        command: call.command,
        argument: argument.to_owned(),
        fault,
    }
}

fn wrong(call: &Call<'_>, argument: &'static str, wanted: &'static str) -> Error {
    fault(call, argument, ArgumentFault::Kind { wanted })
}

/// Where the messages of a job go.
fn target(call: &Call<'_>) -> Result<String, Error> {
    let text = |name| {
        call.arguments
            .text(name)
            .filter(|text: &&str| !text.is_empty())
    };
    let (field, topic) = match (text("topic"), text("room")) {
        (Some(topic), None) if text("channel").is_none() => ("topic", topic.to_owned()),
        (None, Some(room)) => (
            "room",
            room::topic(room, text("channel").unwrap_or_default()),
        ),
        (Some(_), _) => {
            return Err(wrong(
                call,
                "topic",
                "left out where a room or a channel is named",
            ));
        }
        (None, None) => return Err(wrong(call, "topic", "given, or a room")),
    };
    check_topic(&topic).map_err(|bad| fault(call, field, ArgumentFault::Name(bad)))?;
    if call.caller.may_publish(&topic) {
        return Ok(topic);
    }
    Err(Error::TopicForbidden {
        field: if field == "topic" {
            "arguments.topic"
        } else {
            "arguments.room"
        },
        action: "publish on",
        topic,
    })
}

fn millis(call: &Call<'_>, argument: &'static str) -> Result<Option<u64>, Error> {
    let Some(seconds) = call.arguments.number(argument) else {
        return Ok(None);
    };
    if !(seconds > 0.0 && seconds <= SECONDS_MAX) {
        return Err(wrong(
            call,
            argument,
            "a number of seconds above 0, and a hundred years at most",
        ));
    }
    let span = std::time::Duration::from_secs_f64(seconds);
    Ok(Some(
        u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1),
    ))
}

/// When a job is due, and how often.
fn plan(call: &Call<'_>, now_ms: u64) -> Result<(Plan, Option<u64>), Error> {
    let given = &call.arguments;
    let count = given.integer("repeat_count");
    let for_ever = |count: u64| (count > 0).then_some(count);
    let delay = millis(call, "delay_seconds")?;
    let interval = millis(call, "interval_seconds")?;
    if let Some(expression) = given.text("cron") {
        if delay.is_some() || interval.is_some() {
            return Err(wrong(
                call,
                "cron",
                "left out where delay_seconds or interval_seconds is given",
            ));
        }
        let gap = match given.text("dst") {
            None | Some("run") => Gap::Run,
            Some("skip") => Gap::Skip,
            Some(_) => return Err(wrong(call, "dst", "run or skip")),
        };
        let plan = Plan::Cron {
            expression: expression.to_owned(),
            time_zone: given.text("time_zone").unwrap_or_default().to_owned(),
            gap,
        };
        return Ok((plan, count.and_then(for_ever)));
    }
    for argument in ["time_zone", "dst"] {
        if given.text(argument).is_some() {
            return Err(wrong(call, argument, "left out without a cron expression"));
        }
    }
    if interval.is_some_and(|interval| interval < INTERVAL_MS_MIN) {
        return Err(wrong(call, "interval_seconds", "0.1 at least"));
    }
    let count = count.unwrap_or(1);
    if interval.is_none() && count != 1 {
        return Err(wrong(call, "interval_seconds", "given where a job repeats"));
    }
    let delay = delay.unwrap_or_else(|| {
        u64::try_from(std::time::Duration::from_secs_f64(DELAY_S).as_millis()).unwrap_or(1_000)
    });
    let plan = Plan::Every {
        first_ms: now_ms.saturating_add(delay),
        interval_ms: interval,
    };
    Ok((plan, for_ever(count)))
}

fn misfire(call: &Call<'_>) -> Result<Misfire, Error> {
    let max = call.arguments.integer("misfire_max");
    if let Some(found) = max.filter(|max| !(1..=CAUGHT_UP_MAX).contains(max)) {
        let (found, max) = (found.to_string(), CAUGHT_UP_MAX);
        return Err(fault(
            call,
            "misfire_max",
            ArgumentFault::Number { found, max },
        ));
    }
    let misfire = call.arguments.text("misfire");
    if max.is_some() && misfire != Some("all") {
        return Err(wrong(call, "misfire_max", "left out unless misfire is all"));
    }
    match misfire {
        None | Some("once") => Ok(Misfire::Once),
        Some("skip") => Ok(Misfire::Skip),
        Some("all") => Ok(Misfire::All {
            max: max.unwrap_or(CAUGHT_UP),
        }),
        Some(_) => Err(wrong(call, "misfire", "skip, once or all")),
    }
}

fn name(call: &Call<'_>) -> Result<Option<String>, Error> {
    let name = call.arguments.text("name").filter(|name| !name.is_empty());
    match name {
        Some(name) if name.len() > NAME_BYTES_MAX => Err(Error::OverLimit {
            field: "arguments.name",
            unit: "bytes",
            found: name.len(),
            limit: NAME_BYTES_MAX,
        }),
        name => Ok(name.map(str::to_owned)),
    }
}

fn schedule(call: &Call<'_>) -> Result<Value, Error> {
    let limits = call.broker.settings().cron;
    let topic = target(call)?;
    let payload = call
        .arguments
        .object("payload")
        .cloned()
        .unwrap_or_default();
    let found = serde_json::to_string(&payload).map_or(0, |text| text.len());
    if found > limits.payload_bytes_max {
        let (field, unit, limit) = ("arguments.payload", "bytes", limits.payload_bytes_max);
        return Err(Error::OverLimit {
            field,
            unit,
            found,
            limit,
        });
    }
    let (name, misfire) = (name(call)?, misfire(call)?);
    let reality = call.reality()?;
    if reality.name().is_system() || reality.name().is_lab() {
        let reality = reality.name().clone();
        return Err(Error::RealityClosed { reality });
    }
    let now = reality.now();
    let (plan, count) = plan(call, now.as_millis())?;
    let bad = |bad: BadPlan| {
        let argument = match bad {
            BadPlan::Zone { .. } => "time_zone",
            BadPlan::Expression { .. } | BadPlan::Length { .. } | BadPlan::Never { .. } => "cron",
        };
        fault(call, argument, ArgumentFault::Plan(bad))
    };
    let times = Schedule::of(&plan).map_err(bad)?;
    let Some(next) = times.next(now.as_millis()) else {
        let found = call.arguments.text("cron").unwrap_or_default().to_owned();
        return Err(bad(BadPlan::Never { found }));
    };
    let text = |name| {
        call.arguments
            .text(name)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let job = Job {
        id: format!("cron_{}", reality.next_id(now).simple()),
        name,
        owner: call.caller.subject.clone(),
        reality: reality.name().as_str().to_owned(),
        topic,
        room: text("room"),
        channel: text("channel"),
        payload,
        plan,
        count,
        misfire,
        created_ms: now.as_millis(),
        from_ms: now.as_millis(),
        paused: false,
    };
    let mut answer = described(&job);
    answer.push(("next", time(next)));
    call.tenancy.ledger::<Jobs>().change(|jobs| {
        if jobs.len() >= limits.jobs_max {
            let (field, unit, limit) = ("command", "jobs", limits.jobs_max);
            let found = jobs.len() + 1;
            return Err(Error::OverLimit {
                field,
                unit,
                found,
                limit,
            });
        }
        if let Some(name) = job.name.as_deref().filter(|name| jobs.is_named(name)) {
            let name = name.to_owned();
            return Err(Error::JobExists { name });
        }
        Ok(((), vec![Change::Scheduled(Box::new(job)).event()]))
    })?;
    call.broker.duties().wake(call.tenancy.tenant(), NAME);
    Ok(Value::object(answer))
}

/// The job that is asked about, if it is the caller's.
fn own(call: &Call<'_>, jobs: &Jobs) -> Result<std::sync::Arc<Job>, Error> {
    let asked = call.arguments.text("job_id").unwrap_or_default();
    let found = jobs.get(asked).filter(|job| may(call, job));
    // Whose it is is nobody else's business.
    found.cloned().ok_or_else(|| Error::NoSuchJob {
        job: asked.chars().take(64).collect(),
    })
}

fn may(call: &Call<'_>, job: &Job) -> bool {
    call.caller.role == Role::Admin || job.owner == call.caller.subject
}

/// Has a change of a job of the caller's recorded; `None` if there is nothing to change.
fn change(
    call: &Call<'_>,
    decide: impl FnOnce(&Job) -> Option<Change>,
) -> Result<std::sync::Arc<Job>, Error> {
    let job = call.tenancy.ledger::<Jobs>().change(|jobs| {
        let job = own(call, jobs)?;
        let change = decide(&job);
        Ok((job, change.iter().map(Change::event).collect()))
    })?;
    call.broker.duties().wake(call.tenancy.tenant(), NAME);
    Ok(job)
}

fn cancel(call: &Call<'_>) -> Result<Value, Error> {
    let by = call.caller.subject.clone();
    let job = change(call, |job| {
        let (id, end) = (job.id.clone(), End::Cancelled);
        Some(Change::Ended { id, by, end })
    })?;
    Ok(Value::object([
        ("job_id", Value::from(job.id.as_str())),
        ("cancelled", true.into()),
    ]))
}

fn pause(call: &Call<'_>) -> Result<Value, Error> {
    let by = call.caller.subject.clone();
    let job = change(call, |job| {
        let id = job.id.clone();
        (!job.paused).then_some(Change::Paused { id, by })
    })?;
    Ok(Value::object([
        ("job_id", Value::from(job.id.as_str())),
        ("paused", true.into()),
    ]))
}

fn resume(call: &Call<'_>) -> Result<Value, Error> {
    let (by, at_ms) = (call.caller.subject.clone(), call.tenancy.now().as_millis());
    let job = change(call, |job| {
        let id = job.id.clone();
        job.paused.then_some(Change::Resumed { id, by, at_ms })
    })?;
    Ok(Value::object([
        ("job_id", Value::from(job.id.as_str())),
        ("paused", false.into()),
    ]))
}

fn list(call: &Call<'_>) -> Result<Value, Error> {
    let jobs: Vec<Value> = call.tenancy.ledger::<Jobs>().read(|jobs| {
        let mine = jobs.all().filter(|job| may(call, job));
        mine.map(|job| Value::object(described(job))).collect()
    })?;
    Ok(Value::object([
        ("count", Value::from(jobs.len() as u64)),
        ("jobs", jobs.into_iter().collect()),
    ]))
}

fn show(call: &Call<'_>) -> Result<Value, Error> {
    let shown = call.arguments.integer("next").unwrap_or(SHOWN);
    if shown > SHOWN_MAX {
        let (found, max) = (shown.to_string(), SHOWN_MAX);
        return Err(fault(call, "next", ArgumentFault::Number { found, max }));
    }
    let job = call
        .tenancy
        .ledger::<Jobs>()
        .read(|jobs| own(call, jobs))??;
    let mut answer = described(&job);
    let payload = serde_json::Value::Object(job.payload.clone());
    answer.push(("payload", payload.into()));
    let stand = stand(call.tenancy, &job)?;
    answer.push(("iterations", stand.iteration.into()));
    if stand.iteration > 0 {
        answer.push(("last", time(stand.planned_ms)));
    }
    let times = Schedule::of(&job.plan);
    let times = times.map_err(|bad| fault(call, "job_id", ArgumentFault::Plan(bad)))?;
    let left = job
        .count
        .map_or(u64::MAX, |count| count.saturating_sub(stand.iteration));
    let mut at = stand
        .planned_ms
        .max(job.from_ms)
        .max(call.tenancy.now().as_millis());
    let next = std::iter::from_fn(|| {
        at = times.next(at)?;
        Some(time(at))
    });
    let shown = if job.paused { 0 } else { shown.min(left) };
    let next: Value = next
        .take(usize::try_from(shown).unwrap_or(usize::MAX))
        .collect();
    answer.push(("next", next));
    Ok(Value::object(answer))
}

/// Where a job stands, by the log of the reality that it publishes in.
fn stand(tenancy: &Tenancy, job: &Job) -> Result<firing::Stand, Error> {
    match firing::reality_of(tenancy, job) {
        Ok(reality) => firing::Stand::of(&reality, &job.id),
        Err(Error::NoSuchReality { .. }) => Ok(firing::Stand::default()),
        Err(error) => Err(error),
    }
}

fn time(ms: u64) -> Value {
    micros(ms.saturating_mul(1_000)).into()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to many thousands of years"
)]
fn seconds(ms: u64) -> Value {
    (ms as f64 / 1_000.0).into()
}

fn described(job: &Job) -> Vec<(&'static str, Value)> {
    let text = |text: &Option<String>| text.as_deref().map_or_else(Value::default, Value::from);
    let mut fields = vec![
        ("job_id", Value::from(job.id.as_str())),
        ("name", text(&job.name)),
        ("reality", job.reality.as_str().into()),
        ("topic", job.topic.as_str().into()),
        ("room", text(&job.room)),
        ("channel", text(&job.channel)),
    ];
    match &job.plan {
        Plan::Every {
            first_ms,
            interval_ms,
        } => {
            fields.push((
                "delay_seconds",
                seconds(first_ms.saturating_sub(job.created_ms)),
            ));
            fields.push((
                "interval_seconds",
                interval_ms.map_or_else(Value::default, seconds),
            ));
        }
        Plan::Cron {
            expression,
            time_zone,
            gap,
        } => {
            let zone = if time_zone.is_empty() {
                "UTC"
            } else {
                time_zone
            };
            let dst = match gap {
                Gap::Run => "run",
                Gap::Skip => "skip",
            };
            fields.push(("cron", expression.as_str().into()));
            fields.push(("time_zone", zone.into()));
            fields.push(("dst", dst.into()));
        }
    }
    let misfire = match job.misfire {
        Misfire::Skip => "skip",
        Misfire::Once => "once",
        Misfire::All { .. } => "all",
    };
    fields.push(("repeat_count", job.count.unwrap_or(0).into()));
    fields.push(("misfire", misfire.into()));
    fields.push(("owner", job.owner.as_str().into()));
    fields.push(("created_at", time(job.created_ms)));
    fields.push(("paused", job.paused.into()));
    fields
}
