//! The commands about WebAssembly operators.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::NAME;
use super::host::{Host, Unfit};
use super::manifest::{Manifest, Wrong};
use super::register::{self, Named, Register, TOPIC_PREFIX, Version};
use super::run::{self, Run, Step};
use crate::broker::command::{Call, Handler};
use crate::broker::error::{ArgumentFault, Error};
use crate::broker::journal::NewEvent;
use crate::broker::name::check_token;
use crate::broker::sandbox::{digest, hex};
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::broker::{Reality, RealityName, Role};
use crate::log::Sequence;
use crate::proto::v1::wasm_operator_event::Change;
use crate::proto::v1::{
    OperatorHeader, OperatorInput, Value, WasmOperatorActivated, WasmOperatorManifest,
    WasmOperatorPaused, WasmOperatorPushed, WasmOperatorRemoved, WasmOperatorResumed,
};

const SCHEMA: &str = "arqon.v1.WasmOperatorEvent";
/// Operators of a tenant.
const OPERATORS_MAX: usize = 32;
/// Modules of a tenant, of all versions that are kept, together.
const TENANT_BYTES_MAX: usize = 16 << 20;
/// Length of an operator's name: it is a token of topics, and so is what is put before it.
const NAME_BYTES_MAX: usize = 48;

const OPERATOR: Argument = Argument::required("name", Kind::Text, "what the operator is called");
const VERSION: Argument = Argument::optional(
    "version",
    Kind::Integer,
    "which version; the newest if left out",
);

/// The commands of this part.
pub(super) const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "op.wasm.activate",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[OPERATOR, VERSION],
        doc: "Has a version of an operator work from where the operator stands on.",
        handler: activate,
    },
    Command {
        name: "op.wasm.list",
        role: Role::Operator,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Lists the WebAssembly operators, what each reads and writes, and how far it has got.",
        handler: list,
    },
    Command {
        name: "op.wasm.pause",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[OPERATOR],
        doc: "Has an operator stand still.",
        handler: pause,
    },
    Command {
        name: "op.wasm.push",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            OPERATOR,
            Argument::required("module", Kind::Bytes, "the WebAssembly module"),
            Argument::required("topics", Kind::Texts, "filters of the topics that it reads"),
            Argument::required(
                "emits",
                Kind::Texts,
                "filters of the topics that it may write to",
            ),
            Argument::optional(
                "input",
                Kind::Text,
                "reality that it reads; main if left out",
            ),
            Argument::optional(
                "output",
                Kind::Text,
                "reality that it writes to; main if left out",
            ),
            Argument::optional("config", Kind::Bytes, "what it is configured with"),
            Argument::optional(
                "tries",
                Kind::Integer,
                "how often a record is tried, 1 to 10; 3 if left out",
            ),
            Argument::optional(
                "from",
                Kind::Text,
                "where it begins: `earliest`, `latest`, or a sequence; earliest if left out",
            ),
            Argument::optional("activate", Kind::Boolean, "whether it works at once"),
        ],
        doc: "Checks and compiles a module, and stores it as the next version of an operator.",
        handler: push,
    },
    Command {
        name: "op.wasm.remove",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[OPERATOR],
        doc: "Takes an operator out of work and forgets its versions; what it wrote stays.",
        handler: remove,
    },
    Command {
        name: "op.wasm.replay",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            OPERATOR,
            Argument::required(
                "into",
                Kind::Text,
                "reality that the same is made in once more",
            ),
        ],
        doc: "Does once more in another reality what an operator has done; call it until finished.",
        handler: replay,
    },
    Command {
        name: "op.wasm.resume",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[OPERATOR],
        doc: "Has an operator go on that stood still.",
        handler: resume,
    },
    Command {
        name: "op.wasm.rollback",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[OPERATOR],
        doc: "Has the version work that did so before.",
        handler: rollback,
    },
    Command {
        name: "op.wasm.show",
        role: Role::Operator,
        effect: Effect::Shows,
        arguments: &[
            OPERATOR,
            VERSION,
            Argument::optional("module", Kind::Boolean, "whether to answer the module too"),
        ],
        doc: "Shows a version of an operator, and how far the operator has got.",
        handler: show,
    },
    Command {
        name: "op.wasm.test",
        role: Role::Operator,
        effect: Effect::Shows,
        arguments: &[
            Argument::required("module", Kind::Bytes, "the WebAssembly module"),
            Argument::optional("topic", Kind::Text, "topic of the record; test if left out"),
            Argument::optional("payload", Kind::Bytes, "payload of the record"),
            Argument::optional("key", Kind::Text, "key of the record"),
            Argument::optional("headers", Kind::Object, "headers of the record"),
            Argument::optional("state", Kind::Bytes, "what the module answered last"),
            Argument::optional("config", Kind::Bytes, "what it is configured with"),
            Argument::optional(
                "time_ms",
                Kind::Integer,
                "when it happened, milliseconds since 1970; 0 if left out",
            ),
        ],
        doc: "Shows what a module makes of one record, without effect.",
        handler: test,
    },
];

fn wrong(call: &Call<'_>, argument: &str, what: impl Into<String>) -> Error {
    Error::Argument {
        command: call.command,
        argument: argument.to_owned(),
        fault: ArgumentFault::Wrong { what: what.into() },
    }
}

fn name<'a>(call: &'a Call<'_>) -> Result<&'a str, Error> {
    let name = call.arguments.text("name").unwrap_or_default();
    let field = "arguments.name";
    check_token(name).map_err(|fault| Error::Name { field, fault })?;
    if name.len() > NAME_BYTES_MAX {
        let what = format!(
            "has {} bytes, over the limit of {NAME_BYTES_MAX}",
            name.len()
        );
        return Err(wrong(call, "name", what));
    }
    Ok(name)
}

fn named(register: &Register, name: &str) -> Result<Named, Error> {
    let named = register.get(name).cloned();
    named.ok_or_else(|| Error::NoSuchOperator {
        name: name.to_owned(),
    })
}

fn version(call: &Call<'_>, named: &Named, number: u64) -> Result<Arc<Version>, Error> {
    let version = named.version(number).cloned();
    version.ok_or_else(|| {
        let kept: Vec<String> = named
            .versions
            .iter()
            .map(|one| one.number.to_string())
            .collect();
        wrong(
            call,
            "version",
            format!("{number} is not kept; there are {}", kept.join(", ")),
        )
    })
}

/// Decides by what holds, records it, and has the work begin.
fn change<R>(
    call: &Call<'_>,
    name: &str,
    decide: impl FnOnce(&Register) -> Result<(R, Change), Error>,
) -> Result<R, Error> {
    let ledger = call.tenancy.ledger::<Register>();
    let changed = ledger.change(|register| {
        let (answer, change) = decide(register)?;
        let (kind, data) = register::encoded(change);
        let event = NewEvent {
            topic: format!("{TOPIC_PREFIX}{name}"),
            kind,
            schema: SCHEMA,
            data,
        };
        Ok((answer, vec![event]))
    })?;
    call.broker.duties().wake(call.tenancy.tenant(), NAME);
    Ok(changed)
}

fn push(call: &Call<'_>) -> Result<Value, Error> {
    let name = name(call)?;
    let arguments = &call.arguments;
    let texts = |name| arguments.texts(name).unwrap_or_default().to_vec();
    let text = |name| arguments.text(name).unwrap_or_default().to_owned();
    let tries = arguments.integer("tries").unwrap_or(0);
    let mut given = WasmOperatorManifest {
        input: text("input"),
        topics: texts("topics"),
        output: text("output"),
        emits: texts("emits"),
        config: arguments.bytes("config").cloned().unwrap_or_default(),
        tries: u32::try_from(tries).unwrap_or(u32::MAX),
        from: 0,
    };
    let broken = |Wrong { field, what }: Wrong| wrong(call, field, what);
    let manifest = Manifest::new(&given).map_err(broken)?;
    let input = call.tenancy.reality(&manifest.input)?;
    let output = call.tenancy.reality(&manifest.output)?;
    let (standing, _) = run::progress(&output, name)?;
    run::check_input(&standing, &manifest.input)?;
    given.from = from(call, &input)?;
    let module = arguments.bytes("module").cloned().unwrap_or_default();
    compiled(&module)?;
    let activate = arguments.boolean("activate").unwrap_or(false);
    let digest = digest(&module);
    let number = change(call, name, |register| {
        let known = register.get(name);
        if known.is_none() && register.len() >= OPERATORS_MAX {
            let what = format!("would be one more than the {OPERATORS_MAX} that a tenant may have");
            return Err(wrong(call, "name", what));
        }
        let bytes = register.bytes().saturating_add(module.len());
        if bytes > TENANT_BYTES_MAX {
            let what = format!(
                "the tenant's modules would have {bytes} bytes, over the limit of {TENANT_BYTES_MAX}; remove an operator"
            );
            return Err(wrong(call, "module", what));
        }
        no_circle(call, register, name, &manifest)?;
        let number = known.map_or(0, |named| named.last) + 1;
        let pushed = WasmOperatorPushed {
            version: number,
            module: module.clone(),
            digest: Bytes::copy_from_slice(&digest),
            manifest: Some(given),
            activate,
        };
        Ok((number, Change::Pushed(pushed)))
    })?;
    Ok(Value::object([
        ("name", name.into()),
        ("version", number.into()),
        ("digest", hex(&digest).into()),
        ("active", activate.into()),
    ]))
}

/// The first sequence that an operator reads that has read nothing yet.
fn from(call: &Call<'_>, input: &Reality) -> Result<u64, Error> {
    match call.arguments.text("from") {
        None | Some("earliest") => Ok(0),
        Some("latest") => Ok(input.bounds().durable_end.get()),
        Some(digits) => {
            let sequence = digits.parse().ok().and_then(Sequence::new);
            let what = "must be `earliest`, `latest`, or a sequence in digits";
            let sequence = sequence.ok_or_else(|| wrong(call, "from", what))?;
            Ok(sequence.get())
        }
    }
}

fn compiled(module: &[u8]) -> Result<super::host::Module, Error> {
    let compiled = Host::open().and_then(|host| host.compile(module));
    compiled.map_err(|unfit: Unfit| Error::NoOperator {
        reason: unfit.to_string(),
    })
}

fn no_circle(
    call: &Call<'_>,
    register: &Register,
    name: &str,
    manifest: &Manifest,
) -> Result<(), Error> {
    register.circle(name, manifest).map_or(Ok(()), |path| {
        let what = format!(
            "would feed itself for ever, by way of the operators {}",
            path.join(", ")
        );
        Err(wrong(call, "emits", what))
    })
}

fn activate(call: &Call<'_>) -> Result<Value, Error> {
    let name = name(call)?;
    put_to_work(call, name, |named| {
        Ok(call.arguments.integer("version").unwrap_or(named.last))
    })
}

fn rollback(call: &Call<'_>) -> Result<Value, Error> {
    let name = name(call)?;
    put_to_work(call, name, |named| match named.previous {
        0 => Err(wrong(
            call,
            "name",
            "has no version that worked before this one",
        )),
        previous => Ok(previous),
    })
}

fn put_to_work(
    call: &Call<'_>,
    name: &str,
    which: impl FnOnce(&Named) -> Result<u64, Error>,
) -> Result<Value, Error> {
    let version = change(call, name, |register| {
        let named = named(register, name)?;
        let version = version(call, &named, which(&named)?)?;
        no_circle(call, register, name, &version.manifest)?;
        let activated = WasmOperatorActivated {
            version: version.number,
        };
        Ok((version, Change::Activated(activated)))
    })?;
    Ok(Value::object([
        ("name", name.into()),
        ("version", version.number.into()),
        ("digest", hex(&version.digest).into()),
    ]))
}

fn pause(call: &Call<'_>) -> Result<Value, Error> {
    simply(call, "paused", Change::Paused(WasmOperatorPaused {}))
}

fn resume(call: &Call<'_>) -> Result<Value, Error> {
    simply(call, "resumed", Change::Resumed(WasmOperatorResumed {}))
}

fn remove(call: &Call<'_>) -> Result<Value, Error> {
    simply(call, "removed", Change::Removed(WasmOperatorRemoved {}))
}

fn simply(call: &Call<'_>, done: &'static str, what: Change) -> Result<Value, Error> {
    let name = name(call)?;
    change(call, name, |register| {
        named(register, name)?;
        Ok(((), what))
    })?;
    Ok(Value::object([(done, name.into())]))
}

fn list(call: &Call<'_>) -> Result<Value, Error> {
    let register = call.tenancy.ledger::<Register>().read(Register::clone)?;
    let rows = register.iter().map(|(name, named)| {
        let newest = named.versions.last();
        let version = named.version(named.active).or(newest);
        Value::object(about(call, name, named, version))
    });
    Ok(rows.collect())
}

fn show(call: &Call<'_>) -> Result<Value, Error> {
    let name = name(call)?;
    let register = call.tenancy.ledger::<Register>().read(Register::clone)?;
    let named = named(&register, name)?;
    let number = call.arguments.integer("version").unwrap_or(named.last);
    let version = version(call, &named, number)?;
    let mut about = about(call, name, &named, Some(&version));
    let kept = named.versions.iter().map(|one| one.number);
    about.extend([
        ("shown_version", number.into()),
        ("digest", hex(&version.digest).into()),
        ("module_bytes", (version.module.len() as u64).into()),
        ("config", version.given.config.clone().into()),
        ("tries", u64::from(version.manifest.tries).into()),
        ("versions", kept.collect()),
    ]);
    if call.arguments.boolean("module").unwrap_or(false) {
        about.push(("module", version.module.clone().into()));
    }
    Ok(Value::object(about))
}

/// What a row says of an operator.
fn about(
    call: &Call<'_>,
    name: &str,
    named: &Named,
    version: Option<&Arc<Version>>,
) -> Vec<(&'static str, Value)> {
    let state = match (named.working(), named.active) {
        (Some(_), _) => "working",
        (None, 0) => "never activated",
        (None, _) => "paused",
    };
    let mut about: Vec<(&'static str, Value)> = vec![
        ("name", name.into()),
        ("state", state.into()),
        ("version", named.active.into()),
        ("last_version", named.last.into()),
    ];
    let Some(version) = version else {
        return about;
    };
    let manifest = &version.manifest;
    let texts = |filters: &[crate::broker::Filter]| -> Value {
        filters
            .iter()
            .map(|filter| filter.as_str().to_owned())
            .collect()
    };
    about.extend([
        ("input", manifest.input.as_str().into()),
        ("topics", texts(&manifest.topics)),
        ("output", manifest.output.as_str().into()),
        ("emits", texts(&manifest.emits)),
    ]);
    let standing = standing(call, name, manifest);
    match standing {
        Ok(standing) => about.extend(standing),
        Err(error) => about.push(("problem", error.to_string().into())),
    }
    about
}

fn standing(
    call: &Call<'_>,
    name: &str,
    manifest: &Manifest,
) -> Result<Vec<(&'static str, Value)>, Error> {
    let input = call.tenancy.reality(&manifest.input)?;
    let output = call.tenancy.reality(&manifest.output)?;
    let (progress, _) = run::progress(&output, name)?;
    Ok(vec![
        ("sequence", progress.sequence.into()),
        ("input_last", (input.bounds().durable_end.get() - 1).into()),
        ("records", progress.records.into()),
        ("emitted", progress.emitted.into()),
        ("dead_letters", progress.dead_letters.into()),
        ("lost", progress.lost.into()),
    ])
}

fn replay(call: &Call<'_>) -> Result<Value, Error> {
    let name = name(call)?;
    let field = "arguments.into";
    let into = call.arguments.text("into").unwrap_or_default();
    let into = RealityName::new(into).map_err(|fault| Error::Name { field, fault })?;
    let register = call.tenancy.ledger::<Register>().read(Register::clone)?;
    let named = named(&register, name)?;
    let active = version(call, &named, named.active)?;
    let manifest = &active.manifest;
    if into == manifest.output || into == manifest.input || into.is_system() || into.is_lab() {
        let what = "must be a reality that the operator neither reads nor writes, best a fresh one";
        return Err(wrong(call, "into", what));
    }
    let target = call.tenancy.reality(&into)?;
    let mut run = Run::repeat(call.tenancy, name, &named.versions, &active, &target)?;
    let began = Instant::now();
    let finished = loop {
        match run.step()? {
            Step::Done => break true,
            Step::Further if began.elapsed() >= call.wait_max / 4 => break false,
            Step::Further => {}
        }
    };
    let progress = run.progress();
    Ok(Value::object([
        ("name", name.into()),
        ("into", into.as_str().into()),
        ("finished", finished.into()),
        ("sequence", (run.at().get() - 1).into()),
        ("records", progress.records.into()),
        ("emitted", progress.emitted.into()),
        ("dead_letters", progress.dead_letters.into()),
        ("lost", progress.lost.into()),
    ]))
}

fn test(call: &Call<'_>) -> Result<Value, Error> {
    let arguments = &call.arguments;
    let bytes = |name| arguments.bytes(name).cloned().unwrap_or_default();
    let module = compiled(&bytes("module"))?;
    let headers = arguments.object("headers").into_iter().flatten();
    let header = |(name, value): (&String, &serde_json::Value)| OperatorHeader {
        name: name.clone(),
        value: value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned),
    };
    let time_ms = arguments.integer("time_ms").unwrap_or(0);
    let input = OperatorInput {
        topic: arguments.text("topic").unwrap_or("test").to_owned(),
        id: "00000000-0000-8000-8000-000000000000".to_owned(),
        key: arguments.text("key").unwrap_or_default().to_owned(),
        payload: bytes("payload"),
        headers: headers.map(header).collect(),
        time_ms: i64::try_from(time_ms).unwrap_or(i64::MAX),
        state: bytes("state"),
        config: bytes("config"),
        ..OperatorInput::default()
    };
    let began = Instant::now();
    let answer = module.apply(&input).map_err(|failure| Error::NoOperator {
        reason: format!("the module has no answer: {failure}"),
    })?;
    let took = began.elapsed().as_secs_f64() * 1e6;
    let emissions = answer.emissions.into_iter().map(|emission| {
        let headers = emission.headers.into_iter();
        Value::object([
            ("topic", Value::from(emission.topic)),
            ("key", emission.key.into()),
            ("type", emission.r#type.into()),
            ("schema", emission.schema.into()),
            ("payload", emission.payload.into()),
            (
                "headers",
                Value::object(headers.map(|header| (header.name, Value::from(header.value)))),
            ),
        ])
    });
    Ok(Value::object([
        ("digest", hex(module.digest()).into()),
        ("emissions", emissions.collect()),
        (
            "state",
            answer.state.map_or_else(Value::default, Value::from),
        ),
        ("took_us", took.into()),
    ]))
}
