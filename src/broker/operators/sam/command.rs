//! What people and programs ask of operators: who is there, and what is to be done.

use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value as Json;

use super::counts::one_more;
use super::floor::{Finished, Standing};
use super::manifest::{Manifest, check_group};
use super::registry::{Known, Registry, State};
use super::task::{self, Mode, Order, Parcel, Selection, TASK_PREFIX};
use super::{Refused, rebuild, settle};
use crate::broker::access::{Identity, Role};
use crate::broker::command::{Call, Handler};
use crate::broker::error::Error;
use crate::broker::operators::contracts::Contracts as _;
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::broker::{RealityName, Tenancy};
use crate::log::Micros;
use crate::proto::ErrorCode;
use crate::proto::v1::Value;
use crate::proto::view::RecordView;

/// The group that `truth.verify` of the older system is done by.
const TRUTH_GROUP: &str = "truth_workers";
/// Most commands of a tenant that wait for a result at once: each takes a thread.
const WAITING_MAX: usize = 32;
/// How long a task that asks many takes at most, unless its requester says otherwise.
const COMPETING_MS: u64 = 5_000;
const BROADCAST_MS: u64 = 30_000;
/// Longest deadline: 30 days.
const DEADLINE_MS_MAX: u64 = 30 * 24 * 3_600_000;
/// Longest ordering key in bytes.
const KEY_BYTES_MAX: usize = 255;
/// Bytes of outputs in an answer; what is beyond is read from the topic.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

const fn required(name: &'static str, doc: &'static str) -> Argument {
    Argument {
        name,
        kind: Kind::Text,
        required: true,
        doc,
    }
}

const GROUP: Argument = required("group", "the operator's group");
const INSTANCE: Argument = required("instance", "the operator's instance");
const WAIT_MS: Argument = Argument::optional(
    "wait_ms",
    Kind::Integer,
    "how long to wait for the result; not at all if left out",
);

/// Commands about operators and tasks, by name.
pub const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "op.dispatch",
        role: Role::User,
        effect: Effect::Writes,
        arguments: &[
            Argument::optional(
                "group",
                Kind::Text,
                "whose operators do it; else capability decides",
            ),
            Argument::optional(
                "capability",
                Kind::Text,
                "what the operator must be able to do",
            ),
            Argument::optional(
                "mode",
                Kind::Text,
                "direct, balanced (the default), broadcast or competing",
            ),
            Argument::optional(
                "operator",
                Kind::Text,
                "for direct: the instance, or the program's name",
            ),
            Argument::optional("payload", Kind::Object, "what is to be worked on, as JSON"),
            Argument::optional("data", Kind::Bytes, "what is to be worked on, as bytes"),
            Argument::optional(
                "content_type",
                Kind::Text,
                "form of data; application/octet-stream if left out",
            ),
            Argument::optional("schema", Kind::Text, "schema of the payload"),
            Argument::optional(
                "deadline_ms",
                Kind::Integer,
                "after so many milliseconds it is not worth doing",
            ),
            Argument::optional(
                "key",
                Kind::Text,
                "two with one key are done one after the other",
            ),
            Argument::optional(
                "selection",
                Kind::Text,
                "of several answers: first, best or all",
            ),
            Argument::optional(
                "traceparent",
                Kind::Text,
                "the W3C trace that it belongs to",
            ),
            Argument::optional(
                "causal_parent",
                Kind::Text,
                "id of the record that caused it",
            ),
            WAIT_MS,
        ],
        doc: "Has something done by the operators of a group.",
        handler: dispatch,
    },
    Command {
        name: "operators.drain",
        role: Role::User,
        effect: Effect::Changes,
        arguments: &[GROUP, INSTANCE],
        doc: "Gives an operator no more tasks; what it has, it finishes.",
        handler: drain,
    },
    Command {
        name: "operators.list",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[
            Argument::optional("group", Kind::Text, "only those of this group"),
            Argument::optional("capability", Kind::Text, "only those that can do this"),
        ],
        doc: "Lists the operators of the tenant, what they can do and how they stand.",
        handler: list,
    },
    Command {
        name: "operators.quarantine",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[
            GROUP,
            INSTANCE,
            Argument::optional("why", Kind::Text, "for whoever lists operators"),
        ],
        doc: "Gives an operator no more tasks until it is released, also if it connects again.",
        handler: quarantine,
    },
    Command {
        name: "operators.release",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[GROUP, INSTANCE],
        doc: "Lets an operator out of quarantine, or out of draining.",
        handler: release,
    },
    Command {
        name: "operators.show",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[GROUP, INSTANCE],
        doc: "Shows what an operator says of itself and how it stands.",
        handler: show,
    },
    Command {
        name: "truth.verify",
        role: Role::User,
        effect: Effect::Writes,
        arguments: &[
            Argument::optional("payload", Kind::Object, "what is to be verified"),
            WAIT_MS,
        ],
        doc: "Has something verified by the group truth_workers.",
        handler: verify,
    },
];

/// Whether a caller sees a group: whoever may read its tasks.
fn sees(caller: &Identity, group: &str) -> bool {
    caller.may_see(&format!("{TASK_PREFIX}{group}"))
}

/// A waiting command, counted.
struct Seat<'a>(&'a Tenancy);

impl<'a> Seat<'a> {
    fn take(tenancy: &'a Tenancy) -> Option<Self> {
        let waiting = &tenancy.sam().waiting;
        let one_more = |count| (count < WAITING_MAX).then_some(count + 1);
        let taken = waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
        taken.ok().map(|_| Self(tenancy))
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.sam().waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

fn dispatch(call: &Call<'_>) -> Result<Value, Error> {
    rebuild::ensure(call.tenancy)?;
    let (order, parcel) = asked(call)?;
    send(call, order, parcel)
}

fn verify(call: &Call<'_>) -> Result<Value, Error> {
    rebuild::ensure(call.tenancy)?;
    let order = Order {
        group: TRUTH_GROUP.to_owned(),
        ..Order::default()
    };
    let claim = call
        .arguments
        .object("payload")
        .cloned()
        .unwrap_or_default();
    let parcel = Parcel {
        payload: Bytes::from(Json::Object(claim).to_string()),
        content_type: "application/json".to_owned(),
        ..Parcel::default()
    };
    send(call, order, parcel)
}

fn text(call: &Call<'_>, name: &str) -> Option<String> {
    let found = call.arguments.text(name).filter(|text| !text.is_empty());
    found.map(ToOwned::to_owned)
}

fn wrong(name: &str, text: impl Into<String>) -> Error {
    Refused::invalid(&format!("arguments.{name}"), text).into()
}

fn asked(call: &Call<'_>) -> Result<(Order, Parcel), Error> {
    let mode = match text(call, "mode") {
        None => Mode::default(),
        Some(mode) => Mode::parse(&mode).ok_or_else(|| {
            wrong(
                "mode",
                "mode must be direct, balanced, broadcast or competing",
            )
        })?,
    };
    let selection = match (text(call, "selection"), mode) {
        (None, Mode::Broadcast) => Selection::All,
        (None, _) => Selection::First,
        (Some(selection), Mode::Broadcast | Mode::Competing) => Selection::parse(&selection)
            .ok_or_else(|| wrong("selection", "selection must be first, best or all"))?,
        (Some(_), Mode::Direct | Mode::Balanced) => {
            let text = "selection is for broadcast and competing; leave it out";
            return Err(wrong("selection", text));
        }
    };
    let (operator, capability) = (text(call, "operator"), text(call, "capability"));
    if (mode == Mode::Direct) != operator.is_some() {
        let text = "operator names the one that is meant with mode direct, and only then";
        return Err(wrong("operator", text));
    }
    let group = match (text(call, "group"), &capability) {
        (Some(group), _) => {
            check_group("arguments.group", &group)?;
            group
        }
        (None, Some(capability)) => {
            let found = call.tenancy.sam().floor().group_for(capability);
            found.ok_or_else(|| {
                let text = "nobody is ready who can do that; name a group to have the task wait";
                let code = ErrorCode::NotFound;
                Refused::new(code, "arguments.capability", text).retry(1_000)
            })?
        }
        (None, None) => return Err(wrong("group", "name a group or a capability")),
    };
    let key = text(call, "key");
    if let Some(key) = &key
        && key.len() > KEY_BYTES_MAX
    {
        let found = key.len();
        let text = format!("key has {found} bytes, more than the limit of {KEY_BYTES_MAX}");
        return Err(wrong("key", text));
    }
    let traceparent = text(call, "traceparent");
    if let Some(traceparent) = &traceparent {
        task::check_traceparent(traceparent)?;
    }
    let order = Order {
        group,
        mode,
        selection,
        operator,
        capability,
        key,
        deadline: deadline(call, mode)?,
        traceparent,
        ..Order::default()
    };
    Ok((order, parcel(call)?))
}

fn deadline(call: &Call<'_>, mode: Mode) -> Result<Option<Micros>, Error> {
    let asked = call.arguments.integer("deadline_ms").filter(|ms| *ms > 0);
    let ms = match (asked, mode) {
        (Some(ms), _) if ms > DEADLINE_MS_MAX => {
            let text = format!("deadline_ms is {ms}, more than the limit of {DEADLINE_MS_MAX}");
            return Err(wrong("deadline_ms", text));
        }
        (Some(ms), _) => ms,
        (None, Mode::Broadcast) => BROADCAST_MS,
        (None, Mode::Competing) => COMPETING_MS,
        (None, Mode::Direct | Mode::Balanced) => return Ok(None),
    };
    let now = call.tenancy.now().0;
    Ok(Some(Micros(now.saturating_add(ms.saturating_mul(1_000)))))
}

fn parcel(call: &Call<'_>) -> Result<Parcel, Error> {
    let arguments = &call.arguments;
    let (payload, content_type) = match (arguments.object("payload"), arguments.bytes("data")) {
        (Some(_), Some(_)) => return Err(wrong("data", "give payload or data, not both")),
        (Some(payload), None) => {
            let payload = Bytes::from(Json::Object(payload.clone()).to_string());
            (payload, "application/json".to_owned())
        }
        (None, data) => {
            let content_type = text(call, "content_type");
            (
                data.cloned().unwrap_or_default(),
                content_type.unwrap_or_else(|| "application/octet-stream".to_owned()),
            )
        }
    };
    for (name, text) in [
        ("content_type", content_type.as_str()),
        (
            "causal_parent",
            arguments.text("causal_parent").unwrap_or_default(),
        ),
    ] {
        if text.len() > KEY_BYTES_MAX || text.chars().any(char::is_control) {
            let text =
                format!("{name} is longer than {KEY_BYTES_MAX} bytes, or has control characters");
            return Err(wrong(name, text));
        }
    }
    Ok(Parcel {
        payload,
        content_type,
        schema: text(call, "schema").unwrap_or_default(),
        causal_parent: text(call, "causal_parent"),
    })
}

/// Whether the caller may have something done, and whether the payload is what it must be.
fn check(call: &Call<'_>, order: &Order, parcel: &mut Parcel) -> Result<(), Error> {
    let topic = format!("{TASK_PREFIX}{}", order.group);
    if !call.caller.is_granted(&topic) {
        let group = &order.group;
        let text = format!(
            "this token may not have anything done by group {group}: it may not publish on {topic}"
        );
        return Err(Refused::new(ErrorCode::Forbidden, "arguments.group", text).into());
    }
    let (contracts, tenant) = (call.broker.contracts(), call.tenancy.tenant());
    let mut schemas = call.tenancy.sam().floor().input_schemas(order);
    if parcel.schema.is_empty() {
        // What was held against the only schema there is, need not be held against it again.
        if let Some(schema) = schemas.first().filter(|_| schemas.len() == 1) {
            parcel.schema.clone_from(schema);
        }
    } else {
        if !contracts.knows(tenant, &parcel.schema) {
            return Err(wrong("schema", "schema is not in the tenant's registry"));
        }
        schemas.insert(parcel.schema.clone());
    }
    for schema in schemas {
        let checked = contracts.check(tenant, &schema, &parcel.payload);
        checked.map_err(|breach| {
            let told = settle::told("payload", &breach);
            let text = format!("the payload does not fit {schema}: {told}");
            let field = match breach.field.as_str() {
                "" => "arguments.payload".to_owned(),
                field => format!("arguments.payload.{field}"),
            };
            Refused::new(ErrorCode::SchemaViolation, &field, text)
        })?;
    }
    Ok(())
}

fn send(call: &Call<'_>, mut order: Order, mut parcel: Parcel) -> Result<Value, Error> {
    let sam = call.tenancy.sam();
    check(call, &order, &mut parcel)?;
    let able = sam.floor().able(&order);
    if order.mode == Mode::Broadcast && able == 0 {
        let text = format!(
            "nobody is ready in group {}, so that nobody would get it",
            order.group
        );
        let code = ErrorCode::NotFound;
        return Err(Refused::new(code, "arguments.group", text)
            .retry(1_000)
            .into());
    }
    let main = call.tenancy.reality(&RealityName::main())?;
    order.id = main.new_id().to_string();
    order.requester.clone_from(&call.caller.subject);
    let wait = call.arguments.integer("wait_ms").unwrap_or(0);
    let wait = Duration::from_millis(wait).min(call.wait_max);
    let seat = if wait.is_zero() {
        None
    } else {
        let busy = || {
            let text = format!(
                "{WAITING_MAX} commands of the tenant wait for results, which is the limit; leave wait_ms out and subscribe to the results"
            );
            Refused::new(ErrorCode::RateLimited, "arguments.wait_ms", text).retry(1_000)
        };
        Some(Seat::take(call.tenancy).ok_or_else(busy)?)
    };
    sam.floor().arriving()?;
    let stored = main.store(vec![order.record(parcel)], None);
    let (tell, told) = sync_channel::<Finished>(1);
    let mut floor = sam.floor();
    if let Ok(appended) = &stored {
        floor.add(appended.first.get(), order.clone(), 0, Vec::new());
        if seat.is_some() {
            let tell = move |finished: &Finished| drop(tell.try_send(finished.clone()));
            floor.listen(&order.id, Box::new(tell));
        }
    }
    floor.arrived();
    drop(floor);
    let sequence = stored?.first.get();
    one_more(&call.broker.sam_counts().dispatched);
    settle::pump(call.broker, call.tenancy);
    call.broker
        .duties()
        .wake(call.tenancy.tenant(), super::NAME);
    let mut answer = vec![
        ("task", Value::from(order.id.as_str())),
        ("group", order.group.as_str().into()),
        ("sequence", sequence.into()),
        ("able", (able as u64).into()),
    ];
    let finished = seat.and_then(|seat| {
        let finished = told.recv_timeout(wait);
        drop(seat);
        // Without one the task is open still, whatever became of the waiting.
        finished.ok()
    });
    match finished {
        Some(finished) => answer.extend(outcome(call, &finished)?),
        None => answer.push(("state", "open".into())),
    }
    Ok(Value::object(answer))
}

/// How a task has ended, with what it came to.
fn outcome(call: &Call<'_>, finished: &Finished) -> Result<Vec<(&'static str, Value)>, Error> {
    let main = call.tenancy.reality(&RealityName::main())?;
    let mut fields = vec![
        ("state", Value::from(finished.state.as_str())),
        ("result", finished.sequence.into()),
    ];
    let (bytes, _) = settle::read(&main, finished.sequence)?;
    let view = RecordView::parse(&bytes).or(Err(Error::Internal))?;
    if let Some((code, error)) = task::error_of(&view) {
        fields.push(("error_code", code.into()));
        fields.push(("error", error.into()));
    }
    if finished.state != task::State::Done {
        return Ok(fields);
    }
    fields.extend(output_of(&view));
    if finished.answers.len() > 1 {
        let mut room = OUTPUT_BYTES_MAX.saturating_sub(bytes.len());
        let mut answers = Vec::new();
        for answer in &finished.answers {
            let mut one = vec![
                ("operator", Value::from(answer.operator.as_str())),
                ("instance", answer.instance.as_str().into()),
                ("sequence", answer.sequence.into()),
            ];
            one.extend(answer.score.map(|score| ("score", score.into())));
            let (bytes, _) = settle::read(&main, answer.sequence)?;
            if bytes.len() <= room {
                room -= bytes.len();
                let view = RecordView::parse(&bytes).or(Err(Error::Internal))?;
                one.extend(output_of(&view));
            }
            answers.push(Value::object(one));
        }
        fields.push(("answers", answers.into_iter().collect()));
    }
    Ok(fields)
}

/// An output: as it is, and as JSON where it says that it is that.
fn output_of(view: &RecordView<'_>) -> Vec<(&'static str, Value)> {
    let data = view.envelope.payload.data();
    let header = |name: &str| view.envelope.headers.get(name).unwrap_or_default();
    let content_type = header("content-type");
    let json = content_type
        .starts_with("application/json")
        .then(|| serde_json::from_slice::<Json>(data).ok())
        .flatten();
    vec![
        ("instance", header("arqon-instance").into()),
        ("content_type", content_type.into()),
        match json {
            Some(json) => ("output", json.into()),
            None => ("output", Bytes::copy_from_slice(data).into()),
        },
    ]
}

fn list(call: &Call<'_>) -> Result<Value, Error> {
    rebuild::ensure(call.tenancy)?;
    let (group, capability) = (text(call, "group"), text(call, "capability"));
    let sam = call.tenancy.sam();
    let known = call.tenancy.ledger::<Registry>().read(Clone::clone)?;
    let mut operators = Vec::new();
    let mut groups = Vec::new();
    for (name, one) in &known.groups {
        if group.as_ref().is_some_and(|group| group != name) || !sees(call.caller, name) {
            continue;
        }
        let shown = one
            .operators
            .values()
            .filter(|known| known.manifest.can(capability.as_deref()));
        operators.extend(shown.map(|known| brief(call.tenancy, known)));
        groups.push(Value::object([
            ("group", Value::from(name.as_str())),
            ("open_tasks", (sam.floor().open(Some(name)) as u64).into()),
            ("highest_version", highest(one.highest.as_ref())),
            ("no_regress", one.no_regress.into()),
        ]));
    }
    Ok(Value::object([
        ("operators", operators.into_iter().collect::<Value>()),
        ("groups", groups.into_iter().collect()),
    ]))
}

fn highest(version: Option<&semver::Version>) -> Value {
    let text = version.map_or_else(String::new, ToString::to_string);
    text.into()
}

/// How an operator stands: what is connected, the floor knows; the others have gone, whatever was
/// written last.
fn standing(tenancy: &Tenancy, known: &Known) -> (State, u32) {
    let Manifest {
        group, instance, ..
    } = &known.manifest;
    match tenancy.sam().floor().present(group, instance) {
        Some((_, present)) => {
            let state = match present.standing {
                Standing::Announced => State::Announced,
                Standing::Ready => State::Ready,
                Standing::Draining => State::Draining,
                Standing::Quarantined => State::Quarantined,
            };
            (state, present.in_hand)
        }
        None if known.state == State::Quarantined => (State::Quarantined, 0),
        None => (State::Gone, 0),
    }
}

fn brief(tenancy: &Tenancy, known: &Known) -> Value {
    let (state, in_hand) = standing(tenancy, known);
    let manifest = &known.manifest;
    Value::object([
        ("group", Value::from(manifest.group.as_str())),
        ("instance", manifest.instance.as_str().into()),
        ("operator", manifest.operator.as_str().into()),
        ("version", manifest.version.to_string().into()),
        ("state", state.as_str().into()),
        ("in_hand", u64::from(in_hand).into()),
        ("concurrency", u64::from(manifest.concurrency).into()),
        (
            "capabilities",
            manifest.capabilities.iter().map(String::as_str).collect(),
        ),
        ("input_schema", manifest.input_schema.as_str().into()),
        ("output_schema", manifest.output_schema.as_str().into()),
        ("effects", manifest.effects.as_str().into()),
    ])
}

fn show(call: &Call<'_>) -> Result<Value, Error> {
    rebuild::ensure(call.tenancy)?;
    let known = known(call)?;
    let Value { kind } = brief(call.tenancy, &known);
    let mut shown = Value { kind }.to_json();
    let manifest = &known.manifest;
    if let Some(fields) = shown.as_object_mut() {
        let metadata: serde_json::Map<String, Json> = manifest
            .metadata
            .iter()
            .map(|(name, value)| (name.clone(), Json::from(value.as_str())))
            .collect();
        fields.insert("metadata".to_owned(), Json::Object(metadata));
        fields.insert("lease_ms".to_owned(), manifest.lease_ms.into());
        fields.insert("by".to_owned(), known.by.as_str().into());
        fields.insert(
            "since".to_owned(),
            crate::proto::json::micros(known.since).into(),
        );
        fields.insert("why".to_owned(), known.why.as_str().into());
    }
    Ok(shown.into())
}

/// The operator that a command is about, if the caller may see it.
fn known(call: &Call<'_>) -> Result<Known, Error> {
    let group = text(call, "group").unwrap_or_default();
    let instance = text(call, "instance").unwrap_or_default();
    let found = call.tenancy.ledger::<Registry>().read(|registry| {
        let group = registry.groups.get(&group)?;
        group.operators.get(&instance).cloned()
    })?;
    found.filter(|_| sees(call.caller, &group)).ok_or_else(|| {
        let text = "there is no such operator; operators.list shows those that are there";
        Refused::new(ErrorCode::NotFound, "arguments.instance", text).into()
    })
}

fn drain(call: &Call<'_>) -> Result<Value, Error> {
    rebuild::ensure(call.tenancy)?;
    let known = known(call)?;
    if known.by != call.caller.subject && !call.caller.role.includes(Role::Operator) {
        let text = "an operator is drained by whose it is, or by the role operator or admin";
        return Err(Refused::new(ErrorCode::Forbidden, "arguments.instance", text).into());
    }
    let Manifest {
        group, instance, ..
    } = &known.manifest;
    let drained = super::drain(call.tenancy, group, instance, &call.caller.subject)?;
    let (state, _) = standing(call.tenancy, &known);
    Ok(Value::object([
        ("group", Value::from(group.as_str())),
        ("instance", instance.as_str().into()),
        ("state", state.as_str().into()),
        (
            "in_hand",
            drained.map_or(0, |one| u64::from(one.in_hand)).into(),
        ),
    ]))
}

fn quarantine(call: &Call<'_>) -> Result<Value, Error> {
    let by = &call.caller.subject;
    let why = match text(call, "why") {
        Some(why) => format!("by {by}: {}", why.chars().take(256).collect::<String>()),
        None => format!("by {by}"),
    };
    set(call, State::Quarantined, &why)
}

fn release(call: &Call<'_>) -> Result<Value, Error> {
    set(
        call,
        State::Ready,
        &format!("released by {}", call.caller.subject),
    )
}

fn set(call: &Call<'_>, state: State, why: &str) -> Result<Value, Error> {
    rebuild::ensure(call.tenancy)?;
    let one = known(call)?;
    let Manifest {
        group, instance, ..
    } = &one.manifest;
    settle::set_quarantine(call.tenancy, group, instance, (state, why))?;
    call.broker
        .duties()
        .wake(call.tenancy.tenant(), super::NAME);
    let now = known(call)?;
    Ok(brief(call.tenancy, &now))
}
