//! The commands of the laboratory. All but `op.omega.status` are refused where there is none.

use std::collections::VecDeque;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use serde_json::{Map, Value as Json};

use super::desk::Order;
use super::duty;
use super::firecracker::{Failed, Home};
use super::lab::{Chosen, Lab, Placed, Signal, topic};
use super::lane::{Change, Cleared, Lane, Substrate, Vm};
use super::probe::{Check, probe};
use super::refused;
use super::settings::Settings;
use crate::broker::Role;
use crate::broker::command::{Call, Handler};
use crate::broker::error::{ArgumentFault, Error};
use crate::broker::name::check_topic;
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::proto::ErrorCode;
use crate::proto::json::micros;
use crate::proto::v1::Value;

/// Longest name and kind of a substrate, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// Signals of an answer, unless the caller says otherwise.
const LISTED: u64 = 50;
/// What a command waits beyond the time that a step may take: its record.
const GRACE: Duration = Duration::from_secs(2);

const fn argument(name: &'static str, kind: Kind, required: bool, doc: &'static str) -> Argument {
    Argument {
        name,
        kind,
        required,
        doc,
    }
}

const SUBSTRATE: Argument = argument("substrate_id", Kind::Text, true, "id of the substrate");
const OF_SUBSTRATE: Argument = argument(
    "substrate_id",
    Kind::Text,
    false,
    "those of this substrate; of all if left out",
);
const OF_SIGNAL: Argument = argument(
    "signal",
    Kind::Text,
    false,
    "those called so; all if left out",
);

pub(super) const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "op.omega.clear_events",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[OF_SUBSTRATE, OF_SIGNAL],
        doc: "Takes signals off the list; the log of the reality keeps them.",
        handler: clear_events,
    },
    Command {
        name: "op.omega.emit_event",
        role: Role::Admin,
        effect: Effect::Writes,
        arguments: &[
            SUBSTRATE,
            argument(
                "signal",
                Kind::Text,
                true,
                "what it is called: one token or more, as in a topic",
            ),
            argument(
                "payload",
                Kind::Object,
                false,
                "what it says; nothing if left out",
            ),
        ],
        doc: "Has a substrate say something, in the reality omega alone.",
        handler: emit_event,
    },
    Command {
        name: "op.omega.list_events",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[
            argument(
                "limit",
                Kind::Integer,
                false,
                "so many of the newest; 50 if left out",
            ),
            OF_SUBSTRATE,
            OF_SIGNAL,
        ],
        doc: "Lists the newest signals, oldest first, whose topics the token may subscribe to.",
        handler: list_events,
    },
    Command {
        name: "op.omega.list_substrates",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Lists the substrates.",
        handler: list_substrates,
    },
    Command {
        name: "op.omega.register_substrate",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            argument("name", Kind::Text, true, "what it is called"),
            argument("kind", Kind::Text, true, "what it is"),
            argument("metadata", Kind::Object, false, "what else is known of it"),
        ],
        doc: "Registers a substrate; it launches no machine.",
        handler: register_substrate,
    },
    Command {
        name: "op.omega.status",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Shows whether there is a laboratory, its limits, and whether machines can be launched.",
        handler: status,
    },
    Command {
        name: "op.omega.unregister_substrate",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[SUBSTRATE],
        doc: "Removes a substrate: its signals leave the list, its machines are stopped.",
        handler: unregister_substrate,
    },
    Command {
        name: "op.omega.vm.launch",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            SUBSTRATE,
            argument(
                "vcpus",
                Kind::Integer,
                false,
                "virtual CPUs; omega.vcpus if left out",
            ),
            argument(
                "memory_mib",
                Kind::Integer,
                false,
                "memory in MiB; omega.memory_mib if left out",
            ),
            argument(
                "lifetime_seconds",
                Kind::Integer,
                false,
                "it is stopped after this long; omega.lifetime_s if left out",
            ),
        ],
        doc: "Launches a virtual machine for a substrate, and waits until it runs.",
        handler: launch,
    },
    Command {
        name: "op.omega.vm.list",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Lists the virtual machines, and the last ones that have ended, with how.",
        handler: list_vms,
    },
    Command {
        name: "op.omega.vm.probe",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Shows what virtual machines need of the host, what of it is missing, and what to do.",
        handler: probe_host,
    },
    Command {
        name: "op.omega.vm.stop",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[argument("vm_id", Kind::Text, true, "id of the machine")],
        doc: "Stops a virtual machine, and waits until it is gone.",
        handler: stop,
    },
];

/// The settings, if there is a laboratory.
fn enabled<'a>(call: &Call<'a>) -> Result<&'a Settings, Error> {
    let settings = call.broker.omega().settings();
    if settings.enabled {
        return Ok(settings);
    }
    let text = "Tier-Omega experimental lane is disabled; set omega.enabled = true and start the node again";
    Err(refused(ErrorCode::FeatureDisabled, "command", text))
}

fn is_admin(call: &Call<'_>) -> bool {
    call.caller.role == Role::Admin
}

fn time(ms: u64) -> Value {
    micros(ms.saturating_mul(1_000)).into()
}

fn too_many(unit: &'static str, found: usize, limit: usize) -> Error {
    Error::OverLimit {
        field: "command",
        unit,
        found,
        limit,
    }
}

/// A text that says something, and not too much.
fn name(call: &Call<'_>, argument: &'static str, field: &'static str) -> Result<String, Error> {
    let text = call.arguments.text(argument).unwrap_or_default().trim();
    if text.is_empty() {
        return Err(call.wrong(argument, "a text that is not empty"));
    }
    let (found, limit) = (text.len(), NAME_BYTES_MAX);
    if found > limit {
        return Err(Error::OverLimit {
            field,
            unit: "bytes",
            found,
            limit,
        });
    }
    Ok(text.to_owned())
}

/// An object that is not too large.
fn object(
    call: &Call<'_>,
    argument: &'static str,
    field: &'static str,
) -> Result<Map<String, Json>, Error> {
    let object = call.arguments.object(argument).cloned().unwrap_or_default();
    let found = serde_json::to_string(&object).map_or(usize::MAX, |text| text.len());
    let limit = call.broker.omega().settings().payload_bytes_max;
    if found > limit {
        return Err(Error::OverLimit {
            field,
            unit: "bytes",
            found,
            limit,
        });
    }
    Ok(object)
}

/// What a signal is called, if it can stand in a topic.
fn signal(call: &Call<'_>, substrate: &str) -> Result<Option<String>, Error> {
    let Some(text) = call
        .arguments
        .text("signal")
        .filter(|text| !text.is_empty())
    else {
        return Ok(None);
    };
    check_topic(&topic(substrate, text)).map_err(|bad| Error::Argument {
        command: call.command,
        argument: "signal".to_owned(),
        fault: ArgumentFault::Name(bad),
    })?;
    Ok(Some(text.to_owned()))
}

fn asked_substrate<'a>(call: &'a Call<'_>) -> Option<&'a str> {
    let text = call.arguments.text("substrate_id");
    text.filter(|text| !text.is_empty())
}

fn no_substrate(id: &str) -> Error {
    let id: String = id.chars().take(64).collect();
    let text = format!(
        "there is no substrate {id:?}; `arqon omega substrates` shows those that there are"
    );
    refused(ErrorCode::NotFound, "arguments.substrate_id", text)
}

/// The filters of a listing. A substrate that is not there any more has no signals on the list.
fn chosen<'a>(
    call: &'a Call<'_>,
    signal: &'a Option<String>,
    lane: &Lane,
) -> Result<Chosen<'a>, Error> {
    let substrate = asked_substrate(call);
    if let Some(id) = substrate.filter(|id| !lane.substrates.contains_key(*id)) {
        return Err(no_substrate(id));
    }
    Ok(Chosen {
        substrate,
        signal: signal.as_deref(),
    })
}

/// Any substrate's topic does to check what a signal is called.
const ANY: &str = "omega_000000000000";

fn status(call: &Call<'_>) -> Result<Value, Error> {
    let settings = call.broker.omega().settings();
    let lane = call.tenancy.ledger::<Lane>().read(Clone::clone)?;
    let mut events = 0_u64;
    if let Some(lab) = Lab::find(call.tenancy)?.filter(|_| settings.enabled) {
        let all = Chosen {
            substrate: None,
            signal: None,
        };
        lab.each(&lane, all, settings.events_max, |_| events += 1)?;
    }
    let checks = probe(settings);
    let ready = settings.enabled && checks.iter().all(|check| check.problem.is_none());
    let runtime = if ready { "firecracker" } else { "memory" };
    Ok(Value::object([
        ("enabled", Value::from(settings.enabled)),
        ("reality", crate::broker::RealityName::LAB.into()),
        ("max_events", (settings.events_max as u64).into()),
        ("max_substrates", (settings.substrates_max as u64).into()),
        ("max_vms", (settings.vms_max as u64).into()),
        ("substrate_count", (lane.substrates.len() as u64).into()),
        ("event_count", events.into()),
        ("vm_count", (lane.vms.len() as u64).into()),
        ("runtime", runtime.into()),
        ("firecracker", snapshot(call, settings, &checks)),
    ]))
}

/// What of the host is there; where, only for admins.
fn snapshot(call: &Call<'_>, settings: &Settings, checks: &[Check]) -> Value {
    let admin = is_admin(call);
    let shown = checks.iter().map(|check| {
        let mut fields = vec![
            ("name", Value::from(check.name)),
            ("ok", check.problem.is_none().into()),
        ];
        if let Some(path) = check.path.as_ref().filter(|_| admin) {
            fields.push(("path", path.to_string_lossy().into_owned().into()));
        }
        if let Some(problem) = &check.problem {
            fields.push(("problem", problem.as_str().into()));
        }
        Value::object(fields)
    });
    let mut fields = vec![
        (
            "ready",
            Value::from(checks.iter().all(|check| check.problem.is_none())),
        ),
        ("jailed", settings.setup.jailer.is_some().into()),
        ("checks", shown.collect()),
    ];
    if admin {
        let workspace = settings.setup.workspace.to_string_lossy().into_owned();
        fields.push(("workspace_dir", workspace.into()));
    }
    Value::object(fields)
}

fn probe_host(call: &Call<'_>) -> Result<Value, Error> {
    let settings = enabled(call)?;
    Ok(snapshot(call, settings, &probe(settings)))
}

fn described(substrate: &Substrate) -> Vec<(&'static str, Value)> {
    vec![
        ("substrate_id", Value::from(substrate.id.as_str())),
        ("name", substrate.name.as_str().into()),
        ("kind", substrate.kind.as_str().into()),
        ("created_at", time(substrate.created_ms)),
    ]
}

fn register_substrate(call: &Call<'_>) -> Result<Value, Error> {
    let settings = enabled(call)?;
    let mut substrate = Substrate {
        id: String::new(),
        name: name(call, "name", "arguments.name")?,
        kind: name(call, "kind", "arguments.kind")?,
        metadata: object(call, "metadata", "arguments.metadata")?,
        owner: call.caller.subject.clone(),
        created_ms: call.tenancy.now().as_millis(),
    };
    // There from now on, so that whoever listens can.
    Lab::open(call.tenancy)?;
    let answer = call.tenancy.ledger::<Lane>().change(|lane| {
        let found = lane.substrates.len() + 1;
        if found > settings.substrates_max {
            return Err(too_many("substrates", found, settings.substrates_max));
        }
        substrate.id = new_id(call, "omega_", |id| lane.substrates.contains_key(id));
        let answer = Value::object(described(&substrate));
        Ok((answer, vec![Change::Registered(substrate).event()]))
    })?;
    Ok(answer)
}

/// Twelve digits that no other has.
fn new_id(call: &Call<'_>, prefix: &str, is_taken: impl Fn(&str) -> bool) -> String {
    loop {
        let id = call.tenancy.system().new_id().simple().to_string();
        // The last ones are random.
        let random = id.get(id.len().saturating_sub(12)..).unwrap_or(&id);
        let id = format!("{prefix}{random}");
        if !is_taken(&id) {
            return id;
        }
    }
}

fn list_substrates(call: &Call<'_>) -> Result<Value, Error> {
    enabled(call)?;
    let lane = call.tenancy.ledger::<Lane>().read(Clone::clone)?;
    let all: Vec<Value> = lane
        .substrates
        .values()
        .map(|substrate| {
            let mut fields = described(substrate);
            let metadata = Json::Object(substrate.metadata.clone());
            fields.push(("metadata", metadata.into()));
            fields.push(("owner", substrate.owner.as_str().into()));
            Value::object(fields)
        })
        .collect();
    Ok(Value::object([
        ("count", Value::from(all.len() as u64)),
        ("substrates", all.into_iter().collect()),
    ]))
}

fn unregister_substrate(call: &Call<'_>) -> Result<Value, Error> {
    let settings = enabled(call)?;
    let asked = asked_substrate(call).unwrap_or_default();
    let by = &call.caller.subject;
    let (substrate, removed, vms) = call.tenancy.ledger::<Lane>().change(|lane| {
        let substrate = lane
            .substrates
            .get(asked)
            .ok_or_else(|| no_substrate(asked))?;
        let of_it = Chosen {
            substrate: Some(asked),
            signal: None,
        };
        let (cleared, removed) = cleared(call, settings, lane, of_it)?;
        let id = substrate.id.clone();
        let mut events = vec![Change::Unregistered { id, by: by.clone() }.event()];
        events.extend(cleared.map(|cleared| Change::Cleared(cleared).event()));
        let vms = lane.vms.values().filter(|vm| vm.substrate == asked);
        let vms: Vec<String> = vms.map(|vm| vm.id.clone()).collect();
        Ok(((substrate.clone(), removed, vms), events))
    })?;
    // One that starts at this moment finds its substrate gone.
    let until = Instant::now() + stop_wait(call, settings);
    let mut stopped = 0_u64;
    for vm in &vms {
        let left = until.saturating_duration_since(Instant::now());
        stopped += u64::from(stop_one(call, vm, left));
    }
    let mut answer = vec![("removed", Value::from(true))];
    answer.extend(described(&substrate));
    answer.push(("removed_events", removed.into()));
    answer.push(("stopped_vms", stopped.into()));
    Ok(Value::object(answer))
}

/// What is to be recorded for signals to leave the list, if any do, and how many do.
fn cleared(
    call: &Call<'_>,
    settings: &Settings,
    lane: &Lane,
    chosen: Chosen<'_>,
) -> Result<(Option<Cleared>, u64), Error> {
    let Some(lab) = Lab::find(call.tenancy)? else {
        return Ok((None, 0));
    };
    let (floor, through) = (lab.floor(settings.events_max), lab.last());
    let mut count = 0_u64;
    lab.each(lane, chosen, settings.events_max, |placed| {
        count += u64::from(placed.sequence <= through);
    })?;
    let cleared = Cleared {
        substrate: chosen.substrate.map(str::to_owned),
        signal: chosen.signal.map(str::to_owned),
        through,
        floor: floor.get(),
        by: call.caller.subject.clone(),
    };
    Ok(((count > 0).then_some(cleared), count))
}

fn emit_event(call: &Call<'_>) -> Result<Value, Error> {
    enabled(call)?;
    let substrate = asked_substrate(call).unwrap_or_default();
    let payload = object(call, "payload", "arguments.payload")?;
    // Nothing is said for a substrate that goes at this moment.
    call.tenancy.ledger::<Lane>().read(|lane| {
        if !lane.substrates.contains_key(substrate) {
            return Err(no_substrate(substrate));
        }
        let Some(signal) = signal(call, substrate)? else {
            return Err(call.wrong("signal", "a text that is not empty"));
        };
        let lab = Lab::open(call.tenancy)?;
        let signal = Signal {
            event_id: lab.new_id(),
            substrate_id: substrate.to_owned(),
            signal,
            payload,
            emitted_by: call.caller.subject.clone(),
            at_us: call.tenancy.now().0,
        };
        let sequence = lab.emit(&signal)?;
        Ok(shown(&Placed { sequence, signal }))
    })?
}

fn shown(placed: &Placed) -> Value {
    let Placed { sequence, signal } = placed;
    Value::object([
        ("event_id", Value::from(signal.event_id.as_str())),
        ("substrate_id", signal.substrate_id.as_str().into()),
        ("signal", signal.signal.as_str().into()),
        ("payload", Json::Object(signal.payload.clone()).into()),
        ("emitted_by", signal.emitted_by.as_str().into()),
        ("timestamp", micros(signal.at_us).into()),
        ("sequence", (*sequence).into()),
    ])
}

fn echoed(call: &Call<'_>) -> [(&'static str, Value); 2] {
    let text = |name| {
        let text = call.arguments.text(name);
        text.map_or_else(Value::default, Value::from)
    };
    [
        ("substrate_id", text("substrate_id")),
        ("signal", text("signal")),
    ]
}

fn list_events(call: &Call<'_>) -> Result<Value, Error> {
    let settings = enabled(call)?;
    let max = settings.events_max as u64;
    let limit = call.arguments.integer("limit").unwrap_or(LISTED.min(max));
    if limit == 0 || limit > max {
        let found = limit.to_string();
        return Err(Error::Argument {
            command: call.command,
            argument: "limit".to_owned(),
            fault: ArgumentFault::Number { found, max },
        });
    }
    let signal = signal(call, ANY)?;
    let lane = call.tenancy.ledger::<Lane>().read(Clone::clone)?;
    let chosen = chosen(call, &signal, &lane)?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut newest: VecDeque<Placed> = VecDeque::new();
    if let Some(lab) = Lab::find(call.tenancy)? {
        lab.each(&lane, chosen, settings.events_max, |placed| {
            let topic = topic(&placed.signal.substrate_id, &placed.signal.signal);
            if call.caller.may_see(&topic) {
                if newest.len() == most {
                    newest.pop_front();
                }
                newest.push_back(placed);
            }
        })?;
    }
    let mut answer = vec![
        ("events", newest.iter().map(shown).collect()),
        ("count", Value::from(newest.len() as u64)),
        ("limit", limit.into()),
    ];
    answer.extend(echoed(call));
    Ok(Value::object(answer))
}

fn clear_events(call: &Call<'_>) -> Result<Value, Error> {
    let settings = enabled(call)?;
    let signal = signal(call, ANY)?;
    let (removed, remaining) = call.tenancy.ledger::<Lane>().change(|lane| {
        let chosen = chosen(call, &signal, lane)?;
        let (cleared, removed) = cleared(call, settings, lane, chosen)?;
        let mut all = 0_u64;
        if let Some(lab) = Lab::find(call.tenancy)? {
            let every = Chosen {
                substrate: None,
                signal: None,
            };
            lab.each(lane, every, settings.events_max, |_| all += 1)?;
        }
        let events = cleared.map(|cleared| Change::Cleared(cleared).event());
        Ok((
            (removed, all.saturating_sub(removed)),
            events.into_iter().collect(),
        ))
    })?;
    let mut answer = vec![
        ("removed_count", Value::from(removed)),
        ("remaining_count", remaining.into()),
    ];
    answer.extend(echoed(call));
    Ok(Value::object(answer))
}

fn described_vm(call: &Call<'_>, vm: &Vm) -> Value {
    let mut fields = vec![
        ("vm_id", Value::from(vm.id.as_str())),
        ("substrate_id", vm.substrate.as_str().into()),
        ("status", vm.status().into()),
        ("vcpus", vm.vcpus.into()),
        ("memory_mib", vm.memory_mib.into()),
        ("lifetime_seconds", vm.lifetime_s.into()),
        ("launched_by", vm.by.as_str().into()),
        ("started_at", time(vm.asked_ms)),
        ("jailed", vm.jailed.into()),
    ];
    if is_admin(call) {
        let pid = vm.process.as_ref().map(|process| u64::from(process.pid));
        fields.push(("pid", pid.map_or_else(Value::default, Value::from)));
        let setup = &call.broker.omega().settings().setup;
        let socket = Home::of(setup, &vm.id, vm.jailed).api_socket();
        fields.push(("api_socket", socket.to_string_lossy().into_owned().into()));
    }
    Value::object(fields)
}

fn list_vms(call: &Call<'_>) -> Result<Value, Error> {
    enabled(call)?;
    let lane = call.tenancy.ledger::<Lane>().read(Clone::clone)?;
    let vms: Vec<Value> = lane.vms.values().map(|vm| described_vm(call, vm)).collect();
    // How a machine ended names processes' outcomes and people, no paths; a fault at its launch may.
    let ended = lane.ended.iter().rev().map(|ended| {
        let how = if is_admin(call) { &*ended.how } else { "ended" };
        Value::object([
            ("vm_id", Value::from(ended.id.as_str())),
            ("substrate_id", ended.substrate.as_str().into()),
            ("how", how.into()),
            ("ended_at", time(ended.at_ms)),
        ])
    });
    Ok(Value::object([
        ("count", Value::from(vms.len() as u64)),
        ("vms", vms.into_iter().collect()),
        ("ended", ended.collect()),
    ]))
}

/// A whole number within bounds, or what it is if left out.
fn within(call: &Call<'_>, argument: &'static str, default: u64, max: u64) -> Result<u64, Error> {
    let given = call.arguments.integer(argument).unwrap_or(default);
    if (1..=max).contains(&given) {
        return Ok(given);
    }
    let found = given.to_string();
    Err(Error::Argument {
        command: call.command,
        argument: argument.to_owned(),
        fault: ArgumentFault::Number { found, max },
    })
}

fn launch(call: &Call<'_>) -> Result<Value, Error> {
    let settings = enabled(call)?;
    let mut vm = Vm {
        id: String::new(),
        substrate: asked_substrate(call).unwrap_or_default().to_owned(),
        by: call.caller.subject.clone(),
        asked_ms: call.tenancy.now().as_millis(),
        vcpus: within(call, "vcpus", settings.vcpus, settings.vcpus_max)?,
        memory_mib: within(
            call,
            "memory_mib",
            settings.memory_mib,
            settings.memory_mib_max,
        )?,
        lifetime_s: within(
            call,
            "lifetime_seconds",
            settings.lifetime_s,
            settings.lifetime_max_s,
        )?,
        jailed: settings.setup.jailer.is_some(),
        process: None,
        running: false,
    };
    let missing: Vec<String> = probe(settings)
        .into_iter()
        .filter_map(|check| Some(format!("{}: {}", check.name, check.problem?)))
        .collect();
    if !missing.is_empty() {
        let text = format!("no machine can be launched here: {}", missing.join("; "));
        return Err(refused(ErrorCode::FeatureDisabled, "command", text));
    }
    let desk = call.broker.omega();
    let permit = desk.slot();
    let permit =
        permit.ok_or_else(|| too_many("machines", settings.vms_max + 1, settings.vms_max))?;
    let (sender, started) = sync_channel(1);
    let order = Order {
        permit,
        answer: sender,
    };
    let tenant = call.tenancy.tenant();
    let mut id = String::new();
    let asked = call.tenancy.ledger::<Lane>().change(|lane| {
        if !lane.substrates.contains_key(&vm.substrate) {
            return Err(no_substrate(&vm.substrate));
        }
        vm.id = new_id(call, "omega-vm-", |id| lane.vms.contains_key(id));
        id.clone_from(&vm.id);
        // Known here before it is in the log: what the log knows and nobody here is an orphan.
        desk.ask(tenant, &id, order);
        Ok(((), vec![Change::Asked(vm).event()]))
    });
    if asked.is_err() {
        // Nobody starts it; if it is in the log after all, it is cleared up.
        desk.forget(tenant, &id);
    }
    duty::wake(call.broker, call.tenancy);
    asked?;
    let wait = (settings.boot_timeout + GRACE).min(call.wait_max);
    match started.recv_timeout(wait) {
        Ok(Ok(())) | Err(RecvTimeoutError::Timeout) => {}
        Ok(Err(failed)) => return Err(not_started(&failed)),
        Err(RecvTimeoutError::Disconnected) => return Err(Error::ShuttingDown),
    }
    // What is not running by now is starting still; the list says what becomes of it.
    let lane = call.tenancy.ledger::<Lane>().read(Clone::clone)?;
    lane.vms.get(&id).map_or_else(
        || {
            let ended = lane.ended.iter().find(|ended| ended.id == id);
            let how = ended.map_or("it is gone", |ended| &*ended.how);
            let text = format!("the machine has ended: {how}");
            Err(refused(ErrorCode::ValidationError, "", text))
        },
        |vm| Ok(described_vm(call, vm)),
    )
}

fn not_started(failed: &Failed) -> Error {
    let code = match failed {
        Failed::Late { .. } => ErrorCode::NotYet,
        Failed::Stopped(_) | Failed::Refused { .. } | Failed::Died { .. } => {
            ErrorCode::ValidationError
        }
        Failed::Host { .. } | Failed::Unheard { .. } => ErrorCode::Internal,
    };
    refused(code, "", format!("the machine did not start: {failed}"))
}

/// How long a command waits for a machine to go: for each step of that, and the last record.
fn stop_wait(call: &Call<'_>, settings: &Settings) -> Duration {
    (settings.stop_timeout * 2 + GRACE).min(call.wait_max)
}

/// Has a machine stopped; whether it is gone within `wait`. Blocks.
fn stop_one(call: &Call<'_>, id: &str, wait: Duration) -> bool {
    let tenant = call.tenancy.tenant();
    let Some(live) = call.broker.omega().live(tenant, id) else {
        // Left by a node that crashed: it is being cleared up.
        duty::wake(call.broker, call.tenancy);
        return false;
    };
    live.stop.send_replace(Some(call.caller.subject.clone()));
    live.wait_gone(wait)
}

fn stop(call: &Call<'_>) -> Result<Value, Error> {
    let settings = enabled(call)?;
    let asked = call.arguments.text("vm_id").unwrap_or_default();
    let ledger = call.tenancy.ledger::<Lane>();
    let vm = ledger.read(|lane| lane.vms.get(asked).cloned())?;
    let shown: String = asked.chars().take(64).collect();
    let Some(vm) = vm else {
        return Ok(Value::object([
            ("stopped", Value::from(false)),
            ("vm_id", shown.into()),
            ("reason", "not_found".into()),
        ]));
    };
    let stopped = stop_one(call, &vm.id, stop_wait(call, settings));
    let mut answer = vec![
        ("stopped", Value::from(stopped)),
        ("vm_id", vm.id.as_str().into()),
        ("substrate_id", vm.substrate.as_str().into()),
    ];
    if stopped {
        let how = ledger.read(|lane| {
            let ended = lane.ended.iter().find(|ended| ended.id == vm.id);
            ended.map(|ended| ended.how.clone())
        })?;
        answer.extend(how.map(|how| ("how", how.into())));
    } else {
        answer.push(("reason", "stopping".into()));
    }
    Ok(Value::object(answer))
}
