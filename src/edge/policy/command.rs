//! The commands that change and show which policies are in force.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::chain::Policies;
use super::module::Metering;
use super::pool::{Isolation, Policy};
use super::register::{self, Named, TOPIC_PREFIX, Version};
use super::rehearse::REHEARSE;
use super::tally::Tally;
use super::vectors;
use crate::broker::journal::NewEvent;
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::broker::{Filter, Role};
use crate::edge::shield::Fault;
use crate::edge::shield::command::{Call, Handler};
use crate::proto::ErrorCode;
use crate::proto::v1::policy_event::Change;
use crate::proto::v1::{
    PolicyActivated, PolicyDisabled, PolicyManifest, PolicyRemoved, PolicyShadowed, Value, value,
};

const SCHEMA: &str = "arqon.v1.PolicyEvent";

const NAME: Argument = Argument::required("name", Kind::Text, "what the policy is called");
const VERSION: Argument = Argument::optional(
    "version",
    Kind::Integer,
    "which version; the newest if left out",
);

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "edge.policy.activate",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[NAME, VERSION],
        doc: "Puts a version of a policy in force, from the next message on.",
        handler: activate,
    },
    Command {
        name: "edge.policy.disable",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[NAME],
        doc: "Takes a policy out of force; its topics are refused if it is required for them.",
        handler: disable,
    },
    Command {
        name: "edge.policy.list",
        role: Role::Admin,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Lists the policies in force, the node's own included, in the order in which they judge.",
        handler: list,
    },
    Command {
        name: "edge.policy.push",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            NAME,
            Argument::required("module", Kind::Bytes, "the WebAssembly module"),
            Argument::required(
                "topics",
                Kind::Texts,
                "filters of the topics that it judges",
            ),
            Argument::optional(
                "priority",
                Kind::Integer,
                "lower ones judge first; 0 if left out",
            ),
            Argument::optional("config", Kind::Bytes, "what arqon_init is given"),
            Argument::optional(
                "metered",
                Kind::Boolean,
                "whether fuel limits it, besides time",
            ),
            Argument::optional(
                "isolated",
                Kind::Boolean,
                "whether each message gets an instance of its own",
            ),
            Argument::optional(
                "required",
                Kind::Boolean,
                "whether its topics are closed while it is disabled",
            ),
            Argument::optional(
                "vectors",
                Kind::Bytes,
                "test vectors, a JSON list, that it must pass",
            ),
            Argument::optional("activate", Kind::Boolean, "whether it is in force at once"),
        ],
        doc: "Checks, compiles and tests a module, and stores it as the next version of a policy.",
        handler: push,
    },
    REHEARSE,
    Command {
        name: "edge.policy.remove",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[NAME],
        doc: "Takes a policy out of force and forgets all its versions.",
        handler: remove,
    },
    Command {
        name: "edge.policy.rollback",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[NAME],
        doc: "Puts the version in force that was so before.",
        handler: rollback,
    },
    Command {
        name: "edge.policy.shadow",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            NAME,
            Argument::required(
                "percent",
                Kind::Integer,
                "of how many of a hundred messages; 0 ends it",
            ),
            VERSION,
        ],
        doc: "Has a version judge beside the one in force without effect, and counts where they differ.",
        handler: shadow,
    },
    Command {
        name: "edge.policy.show",
        role: Role::Admin,
        effect: Effect::Shows,
        arguments: &[
            NAME,
            VERSION,
            Argument::optional("module", Kind::Boolean, "whether to answer the module too"),
        ],
        doc: "Shows a version of a policy, and what its calls have come to.",
        handler: show,
    },
];

fn name<'a>(call: &'a Call<'_>) -> Result<&'a str, Fault> {
    let name = call.arguments.text("name").unwrap_or_default();
    register::check_name(name)?;
    Ok(name)
}

fn change(call: &Call<'_>, name: &str, kind: &'static str, change: Change) -> Result<u64, Fault> {
    let event = NewEvent {
        topic: format!("{TOPIC_PREFIX}{name}"),
        kind,
        schema: SCHEMA,
        data: register::encoded(change),
    };
    let changed = call.guard.change(call.tenancy, event);
    if changed.is_err() {
        call.shield.metrics().policies.refused.inc();
    }
    changed.map(crate::log::Sequence::get)
}

/// The version that is named, or the newest.
fn version(call: &Call<'_>, named: &Named) -> Result<Arc<Version>, Fault> {
    let number = call.arguments.integer("version").unwrap_or(named.last);
    named.version(number).cloned()
}

fn push(call: &Call<'_>) -> Result<Value, Fault> {
    let name = name(call)?;
    let arguments = &call.arguments;
    let flag = |name| arguments.boolean(name).unwrap_or(false);
    let priority = arguments.integer("priority").unwrap_or(0);
    let manifest = PolicyManifest {
        topics: arguments.texts("topics").unwrap_or_default().to_vec(),
        priority: u32::try_from(priority).or(Err(Fault::invalid(
            "priority",
            "priority is over 4294967295",
        )))?,
        config: arguments.bytes("config").cloned().unwrap_or_default(),
        metered: flag("metered"),
        isolated: flag("isolated"),
        required: flag("required"),
    };
    let module = arguments.bytes("module").cloned().unwrap_or_default();
    let rules = call.guard.rules();
    let room = has_room(call, &rules.policies, name, &module);
    let tried = room.and_then(|()| try_out(call, &module, &manifest));
    if tried.is_err() {
        call.shield.metrics().policies.refused.inc();
    }
    let digest = tried?;
    let number = rules
        .policies
        .register
        .get(name)
        .map_or(0, |named| named.last)
        + 1;
    let pushed = register::pushed(number, module, manifest, flag("activate"));
    let sequence = change(call, name, "edge.policy.pushed", Change::Pushed(pushed))?;
    Ok(Value::object([
        ("name", name.to_owned().into()),
        ("version", number.into()),
        ("digest", digest.into()),
        ("active", flag("activate").into()),
        ("sequence", sequence.into()),
    ]))
}

fn has_room(call: &Call<'_>, policies: &Policies, name: &str, module: &Bytes) -> Result<(), Fault> {
    let limits = call.shield.workshop().engine.limits();
    let register = &policies.register;
    if register.get(name).is_none() && register.len() >= limits.policies_max {
        let text = format!(
            "the tenant has {} policies, as many as it may (policy.policies_max); remove one",
            limits.policies_max
        );
        return Err(Fault::new(ErrorCode::TooLarge, "name", text));
    }
    let stored: usize = register.iter().map(|(_, named)| named.bytes()).sum();
    if stored.saturating_add(module.len()) > limits.tenant_bytes_max {
        let text = format!(
            "the tenant's modules would have {} bytes, over policy.tenant_bytes_max = {}; remove a policy",
            stored.saturating_add(module.len()),
            limits.tenant_bytes_max
        );
        return Err(Fault::new(ErrorCode::TooLarge, "module", text));
    }
    Ok(())
}

/// Everything that a push must pass before it is stored. Answers the module's digest.
fn try_out(call: &Call<'_>, module: &Bytes, manifest: &PolicyManifest) -> Result<String, Fault> {
    let version = Version::new(register::pushed(1, module.clone(), manifest.clone(), false))?;
    let engine = &call.shield.workshop().engine;
    let unfit = |unfit: super::Unfit| Fault::invalid("module", unfit.to_string());
    let compiled = engine.compile(module, Metering::of(manifest.metered));
    let compiled = compiled.map_err(unfit)?;
    let isolation = Isolation::of(manifest.isolated);
    let vectors = match call.arguments.bytes("vectors") {
        Some(json) => {
            let read = vectors::parse(json);
            read.map_err(|miss| Fault::invalid("vectors", miss.to_string()))?
        }
        None => Vec::new(),
    };
    let missed = vectors::run(engine, &compiled, &manifest.config, isolation, &vectors);
    let missed = missed.map_err(unfit)?;
    if !missed.is_empty() {
        let told: Vec<_> = missed.iter().map(ToString::to_string).collect();
        return Err(Fault::invalid("vectors", told.join("; ")));
    }
    Ok(version.hex())
}

fn activate(call: &Call<'_>) -> Result<Value, Fault> {
    let name = name(call)?;
    let rules = call.guard.rules();
    let version = version(call, rules.policies.register.named(name)?)?;
    put_in_force(call, name, &version)
}

fn rollback(call: &Call<'_>) -> Result<Value, Fault> {
    let name = name(call)?;
    let rules = call.guard.rules();
    let named = rules.policies.register.named(name)?;
    let Some(previous) = named.previous else {
        let text = "no other version was in force before; `edge.policy.disable` takes this one out";
        return Err(Fault::new(ErrorCode::NotFound, "name", text));
    };
    put_in_force(call, name, named.version(previous)?)
}

fn put_in_force(call: &Call<'_>, name: &str, version: &Version) -> Result<Value, Fault> {
    let activated = PolicyActivated {
        version: version.number,
    };
    let kind = "edge.policy.activated";
    let sequence = change(call, name, kind, Change::Activated(activated))?;
    Ok(Value::object([
        ("name", name.to_owned().into()),
        ("version", version.number.into()),
        ("digest", version.hex().into()),
        ("sequence", sequence.into()),
    ]))
}

fn shadow(call: &Call<'_>) -> Result<Value, Fault> {
    let name = name(call)?;
    let percent = call.arguments.integer("percent").unwrap_or(0);
    let percent = u32::try_from(percent)
        .ok()
        .filter(|percent| *percent <= 100);
    let percent = percent.ok_or_else(|| Fault::invalid("percent", "percent must be 0 to 100"))?;
    let rules = call.guard.rules();
    let version = version(call, rules.policies.register.named(name)?)?.number;
    let shadowed = PolicyShadowed { version, percent };
    let kind = "edge.policy.shadowed";
    let sequence = change(call, name, kind, Change::Shadowed(shadowed))?;
    Ok(Value::object([
        ("name", name.to_owned().into()),
        ("version", version.into()),
        ("percent", u64::from(percent).into()),
        ("sequence", sequence.into()),
    ]))
}

fn disable(call: &Call<'_>) -> Result<Value, Fault> {
    let name = name(call)?;
    let disabled = Change::Disabled(PolicyDisabled {});
    let sequence = change(call, name, "edge.policy.disabled", disabled)?;
    Ok(Value::object([
        ("name", name.to_owned().into()),
        ("sequence", sequence.into()),
    ]))
}

fn remove(call: &Call<'_>) -> Result<Value, Fault> {
    let name = name(call)?;
    let removed = Change::Removed(PolicyRemoved {});
    let sequence = change(call, name, "edge.policy.removed", removed)?;
    Ok(Value::object([
        ("name", name.to_owned().into()),
        ("sequence", sequence.into()),
    ]))
}

fn list(call: &Call<'_>) -> Result<Value, Fault> {
    let rules = call.guard.rules();
    let mut own: Vec<(u32, Value)> = rules.policies.register.iter().map(listed).collect();
    own.sort_by_key(|(priority, _)| *priority);
    let of_node = rules.policies.of_the_node().map(|(policy, ready)| {
        let digest = ready.map(|ready| super::module::hex(&ready.module().digest));
        Value::object([
            ("name", policy.name.clone().into()),
            ("of", "node".into()),
            (
                "state",
                if ready.is_some() { "active" } else { "broken" }.into(),
            ),
            ("version", 0_u64.into()),
            ("digest", digest.unwrap_or_default().into()),
            ("priority", u64::from(policy.priority).into()),
            ("topics", topics(&policy.topics)),
        ])
    });
    Ok(own.into_iter().map(|(_, one)| one).chain(of_node).collect())
}

fn listed((name, named): (&str, &Named)) -> (u32, Value) {
    let (state, version) = match (&named.active, &named.disabled) {
        (Some(active), _) => ("active", Some(active)),
        (None, Some(disabled)) => ("disabled", Some(disabled)),
        (None, None) => ("pushed", named.versions.values().next_back()),
    };
    let shadow = named.shadow.as_ref();
    let priority = version.map_or(0, |version| version.manifest.priority);
    let value = Value::object([
        ("name", name.to_owned().into()),
        ("of", "tenant".into()),
        ("state", state.into()),
        (
            "version",
            version.map_or(0, |version| version.number).into(),
        ),
        (
            "digest",
            version
                .map(|version| version.hex())
                .unwrap_or_default()
                .into(),
        ),
        ("priority", u64::from(priority).into()),
        (
            "topics",
            version
                .map(|version| topics(&version.topics))
                .unwrap_or_default(),
        ),
        ("newest", named.last.into()),
        (
            "shadow",
            shadow.map_or(0, |shadow| shadow.version.number).into(),
        ),
        (
            "shadow_percent",
            u64::from(shadow.map_or(0, |shadow| shadow.percent)).into(),
        ),
    ]);
    (priority, value)
}

fn topics(filters: &[Filter]) -> Value {
    filters
        .iter()
        .map(|filter| Value::from(filter.as_str().to_owned()))
        .collect()
}

fn show(call: &Call<'_>) -> Result<Value, Fault> {
    let name = name(call)?;
    let rules = call.guard.rules();
    let named = rules.policies.register.named(name)?;
    let version = version(call, named)?;
    let manifest = &version.manifest;
    let is =
        |other: Option<&Arc<Version>>| other.is_some_and(|other| other.number == version.number);
    let kept = named.versions.keys().map(|number| Value::from(*number));
    let mut fields = vec![
        ("name", name.to_owned().into()),
        ("version", version.number.into()),
        ("versions", kept.collect()),
        ("active", is(named.active.as_ref()).into()),
        ("disabled", is(named.disabled.as_ref()).into()),
        ("digest", version.hex().into()),
        ("bytes", (version.module.len() as u64).into()),
        ("topics", topics(&version.topics)),
        ("priority", u64::from(manifest.priority).into()),
        ("config", value::Kind::Bytes(manifest.config.clone()).into()),
        ("metered", manifest.metered.into()),
        ("isolated", manifest.isolated.into()),
        ("required", manifest.required.into()),
        ("calls", version.policy().map(calls).unwrap_or_default()),
    ];
    if call.arguments.boolean("module") == Some(true) {
        fields.push(("module", value::Kind::Bytes(version.module.clone()).into()));
    }
    Ok(Value::object(fields))
}

/// What calls have come to since the version was made ready.
fn calls(policy: &Arc<Policy>) -> Value {
    let Tally {
        calls,
        denied,
        changed,
        failed,
        faulty,
        same,
        different,
        ..
    } = &policy.tally;
    let counts = [
        ("all", calls),
        ("denied", denied),
        ("changed", changed),
        ("failed", failed),
        ("faulty", faulty),
        ("shadow_same", same),
        ("shadow_different", different),
    ];
    let value =
        |(name, count): (&'static str, &AtomicU64)| (name, count.load(Ordering::Relaxed).into());
    Value::object(counts.map(value))
}
