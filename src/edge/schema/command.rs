//! The commands of the registry: who changes it, within which bounds, and what it shows.

use bytes::Bytes;

use super::binding::Bound;
use super::compatibility::{Difference, Mode, compare};
use super::definition::{Definition, Form};
use super::journal::{Change, check_subject};
use super::subject::{Incompatible, Subject, Version};
use super::violation::Violation;
use super::{Schemas, moved_on, no_subject, no_version};
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::broker::{Filter, Role};
use crate::config::{SchemaLevel, UnknownFields};
use crate::edge::shield::Fault;
use crate::edge::shield::command::{Call, Handler};
use crate::proto::ErrorCode;
use crate::proto::json::micros;
use crate::proto::v1::{
    SchemaBound, SchemaMessage, SchemaModeSet, SchemaRegistered, SchemaRetired, SchemaStrictness,
    Value, schema_bound, schema_registered,
};

const fn argument(name: &'static str, kind: Kind, required: bool, doc: &'static str) -> Argument {
    Argument {
        name,
        kind,
        required,
        doc,
    }
}

const SUBJECT: Argument = argument("subject", Kind::Text, true, "Its name, like orders.v1.");
const DESCRIPTORS: Argument = argument(
    "descriptors",
    Kind::Bytes,
    false,
    "An encoded FileDescriptorSet with all imports.",
);
const MESSAGE: Argument = argument("message", Kind::Text, false, "Full name of its message.");
const DOCUMENT: Argument = argument(
    "document",
    Kind::Bytes,
    false,
    "A JSON Schema document, instead of descriptors.",
);
const PATTERN: Argument = argument("pattern", Kind::Text, true, "Which topics.");

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "edge.schema.register",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            SUBJECT,
            DESCRIPTORS,
            MESSAGE,
            DOCUMENT,
            argument(
                "mode",
                Kind::Text,
                false,
                "Of a new subject: NONE, BACKWARD, FORWARD or FULL, each but NONE also as _TRANSITIVE.",
            ),
        ],
        doc: "Registers a version of a subject, if it is compatible with those before it.",
        handler: register,
    },
    Command {
        name: "edge.schema.mode",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            SUBJECT,
            argument("mode", Kind::Text, true, "As in edge.schema.register."),
        ],
        doc: "Sets what new versions of a subject are held against.",
        handler: set_mode,
    },
    Command {
        name: "edge.schema.retire",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            SUBJECT,
            argument("version", Kind::Integer, true, "Which."),
            argument(
                "restore",
                Kind::Boolean,
                false,
                "Take payloads by it again.",
            ),
        ],
        doc: "Stops taking payloads by a version of a subject.",
        handler: retire,
    },
    Command {
        name: "edge.schema.bind",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            PATTERN,
            SUBJECT,
            argument("level", Kind::Text, false, "reject (as it is) or monitor."),
            argument(
                "unknown",
                Kind::Text,
                false,
                "Fields that the version does not know: reject (as it is) or keep.",
            ),
            argument(
                "empty",
                Kind::Boolean,
                false,
                "Whether a payload may have no bytes.",
            ),
        ],
        doc: "Holds payloads on the topics of a pattern against a subject.",
        handler: bind,
    },
    Command {
        name: "edge.schema.unbind",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[PATTERN],
        doc: "Lets go of a pattern.",
        handler: unbind,
    },
    Command {
        name: "edge.schema.strict",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[argument("strict", Kind::Boolean, true, "Whether it is.")],
        doc: "Refuses what is published on topics without a schema, or no longer does.",
        handler: strict,
    },
    Command {
        name: "edge.schema.list",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Lists the tenant's subjects and bindings, and those of the node.",
        handler: list,
    },
    Command {
        name: "edge.schema.show",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[
            SUBJECT,
            argument(
                "version",
                Kind::Integer,
                false,
                "Whose definition; the newest that takes payloads if it is left out.",
            ),
        ],
        doc: "Shows a subject, and the definition of a version.",
        handler: show,
    },
    Command {
        name: "edge.schema.diff",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[
            SUBJECT,
            argument("from", Kind::Integer, true, "The older version."),
            argument("to", Kind::Integer, true, "The newer version."),
        ],
        doc: "Shows what changed between two versions, and what that breaks.",
        handler: diff,
    },
    Command {
        name: "edge.schema.check",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[
            SUBJECT,
            DESCRIPTORS,
            MESSAGE,
            DOCUMENT,
            argument(
                "payload",
                Kind::Bytes,
                false,
                "A payload to hold against it.",
            ),
            argument(
                "version",
                Kind::Integer,
                false,
                "The version for the payload, if no definition is given.",
            ),
        ],
        doc: "Tells whether a definition could be registered, and a payload be published.",
        handler: check,
    },
];

fn register(call: &Call<'_>) -> Result<Value, Fault> {
    let rules = call.guard.rules();
    let schemas = &rules.schemas;
    let name = call.arguments.text("subject").unwrap_or_default();
    check_subject(name)?;
    let definition = definition(call, schemas)?.ok_or_else(|| {
        let text = "neither descriptors nor a document is given; give one of them";
        Fault::invalid("descriptors", text)
    })?;
    let asked = call.arguments.text("mode").map(mode_named).transpose()?;
    let known = schemas.subjects.get(name);
    let mut surprises = Vec::new();
    let (mode, newest) = match known {
        None => {
            let (found, limit) = (schemas.subjects.len(), schemas.settings.subjects_max);
            within("schema.subjects_max", "subjects", found + 1, limit)?;
            (asked.unwrap_or_default(), 0)
        }
        Some(subject) => {
            if let Some(asked) = asked.filter(|asked| *asked != subject.mode) {
                let text = format!(
                    "the subject's mode is {}, not {asked}; `arqon schema mode` sets it",
                    subject.mode
                );
                return Err(Fault::invalid("mode", text));
            }
            if let Some(same) = subject.same(&definition) {
                return Ok(registered(name, same, false, &[]));
            }
            let (found, limit) = (subject.versions.len(), schemas.settings.versions_max);
            within("schema.versions_max", "versions", found + 1, limit)?;
            surprises = subject.admit(&definition).map_err(|error| {
                let text = format!(
                    "{name}: {error}; `arqon schema check` tries without changing anything"
                );
                Fault::new(ErrorCode::SchemaViolation, "descriptors", text)
            })?;
            (subject.mode, subject.newest())
        }
    };
    let versions = schemas.subjects.values().flat_map(|one| &one.versions);
    let stored: usize = versions.map(|one| one.definition.bytes().len()).sum();
    let total = stored + definition.bytes().len();
    let limit = schemas.settings.tenant_bytes_max;
    within("schema.tenant_bytes_max", "bytes of schemas", total, limit)?;
    let form = match &definition.form {
        Form::Protobuf {
            descriptors,
            message,
            ..
        } => schema_registered::Form::Protobuf(SchemaMessage {
            descriptors: descriptors.clone(),
            message: message.clone(),
        }),
        Form::Json { text, .. } => schema_registered::Form::Json(text.clone()),
    };
    let event = SchemaRegistered {
        version: newest + 1,
        form: Some(form),
        mode: mode.stored().into(),
    };
    change(call, &Change::Registered(name.to_owned(), event))?;
    let rules = call.guard.rules();
    let subject = rules.schemas.subjects.get(name);
    let version = subject.and_then(|subject| subject.version(newest + 1));
    let version = version.ok_or_else(|| moved_on(name))?;
    Ok(registered(name, version, true, &surprises))
}

fn registered(name: &str, version: &Version, new: bool, surprises: &[Difference]) -> Value {
    Value::object([
        ("subject", name.into()),
        ("version", version.number.into()),
        ("digest", hex(&version.definition.digest).into()),
        ("registered", new.into()),
        ("surprises", surprises.iter().map(difference).collect()),
    ])
}

fn set_mode(call: &Call<'_>) -> Result<Value, Fault> {
    let rules = call.guard.rules();
    let (name, subject) = subject(call, &rules.schemas)?;
    let mode = mode_named(call.arguments.text("mode").unwrap_or_default())?;
    let event = SchemaModeSet {
        mode: mode.stored().into(),
        newest: subject.newest(),
    };
    change(call, &Change::ModeSet(name.to_owned(), event))?;
    Ok(Value::object([
        ("subject", name.into()),
        ("mode", mode.as_str().into()),
    ]))
}

fn retire(call: &Call<'_>) -> Result<Value, Fault> {
    let rules = call.guard.rules();
    let (name, subject) = subject(call, &rules.schemas)?;
    let number = call.arguments.integer("version").unwrap_or_default();
    let version = subject.version(number).ok_or_else(|| no_version(number))?;
    let restored = call.arguments.boolean("restore").unwrap_or_default();
    let takes = |one: &&Version| !one.retired && one.number != number;
    let is_last =
        !restored && !version.retired && subject.versions.iter().filter(takes).count() == 0;
    let bound = rules.schemas.bindings.all();
    if let (true, Some(bound)) = (is_last, bound.iter().find(|one| *one.subject == *name)) {
        let text = format!(
            "version {number} is the last that takes payloads, and {} is bound to {name}; unbind it first, or register another version",
            bound.pattern
        );
        return Err(Fault::invalid("version", text));
    }
    let event = SchemaRetired {
        version: number,
        restored,
        newest: subject.newest(),
    };
    change(call, &Change::Retired(name.to_owned(), event))?;
    Ok(Value::object([
        ("subject", name.into()),
        ("version", number.into()),
        ("active", restored.into()),
    ]))
}

fn bind(call: &Call<'_>) -> Result<Value, Fault> {
    let rules = call.guard.rules();
    let schemas = &rules.schemas;
    let (name, subject) = subject(call, schemas)?;
    let pattern = pattern(call)?;
    if pattern.names_system() {
        let text = "the topics of sys. are the node's own; bind others";
        return Err(Fault::invalid("pattern", text));
    }
    if subject.active().is_none() {
        let text = format!("all versions of {name} are retired; restore one first");
        return Err(Fault::invalid("subject", text));
    }
    let mut all = schemas.bindings.all().into_iter();
    if !all.any(|one| one.pattern == pattern) {
        let (found, limit) = (schemas.bindings.len(), schemas.settings.bindings_max);
        within("schema.bindings_max", "bindings", found + 1, limit)?;
    }
    let level = match call.arguments.text("level").unwrap_or("reject") {
        "reject" => schema_bound::Level::Reject,
        "monitor" => schema_bound::Level::Monitor,
        "dlq" => {
            let text = "dlq is not served yet; use reject or monitor";
            return Err(Fault::new(ErrorCode::FeatureDisabled, "level", text));
        }
        _ => return Err(Fault::invalid("level", "level is reject or monitor")),
    };
    let unknown = match call.arguments.text("unknown").unwrap_or("reject") {
        "reject" => schema_bound::Unknown::Reject,
        "keep" => schema_bound::Unknown::Keep,
        _ => return Err(Fault::invalid("unknown", "unknown is reject or keep")),
    };
    let event = SchemaBound {
        pattern: pattern.as_str().to_owned(),
        subject: name.to_owned(),
        level: level.into(),
        unknown: unknown.into(),
        empty_allowed: call.arguments.boolean("empty").unwrap_or_default(),
    };
    change(call, &Change::Bound(event))?;
    Ok(Value::object([
        ("pattern", pattern.as_str().into()),
        ("subject", name.into()),
    ]))
}

fn unbind(call: &Call<'_>) -> Result<Value, Fault> {
    let pattern = pattern(call)?;
    let rules = call.guard.rules();
    let all = rules.schemas.bindings.all();
    if !all.iter().any(|one| one.pattern == pattern) {
        let text = format!("nothing is bound to {pattern}; `arqon schema list` names all patterns");
        return Err(Fault::new(ErrorCode::NotFound, "pattern", text));
    }
    let event = SchemaBound {
        pattern: pattern.as_str().to_owned(),
        ..SchemaBound::default()
    };
    change(call, &Change::Bound(event))?;
    Ok(Value::object([
        ("pattern", pattern.as_str().into()),
        ("bound", false.into()),
    ]))
}

fn strict(call: &Call<'_>) -> Result<Value, Fault> {
    let strict = call.arguments.boolean("strict").unwrap_or(true);
    if !strict && call.guard.rules().schemas.settings.strict {
        let text = "the node's own setting schema.strict holds for every tenant";
        return Err(Fault::new(ErrorCode::Forbidden, "strict", text));
    }
    change(call, &Change::Strictness(SchemaStrictness { strict }))?;
    Ok(Value::object([("strict", strict.into())]))
}

fn list(call: &Call<'_>) -> Result<Value, Fault> {
    let rules = call.guard.rules();
    let schemas = &rules.schemas;
    let mut subjects: Vec<_> = schemas.subjects.iter().collect();
    subjects.sort_by_key(|(name, _)| (*name).clone());
    let subject = |(name, subject): (&std::sync::Arc<str>, &std::sync::Arc<Subject>)| {
        let active = subject.active();
        let language = active.map_or("", |version| version.definition.language());
        let message = active.map_or("", |version| version.definition.message());
        Value::object([
            ("subject", (**name).into()),
            ("language", language.into()),
            ("message", message.into()),
            ("versions", subject.newest().into()),
            ("active", active.map_or(0, |version| version.number).into()),
            ("mode", subject.mode.as_str().into()),
        ])
    };
    let mut bindings = schemas.bindings.all();
    bindings.sort_by(|a, b| a.pattern.as_str().cmp(b.pattern.as_str()));
    let mut files = schemas.files.all();
    files.sort_by(|(a, _), (b, _)| a.pattern.as_str().cmp(b.pattern.as_str()));
    let own = bindings.into_iter().map(|bound| binding(bound, "tenant"));
    let of_node = files.iter().map(|(bound, _)| binding(bound, "node"));
    Ok(Value::object([
        ("strict", schemas.is_strict().into()),
        ("subjects", subjects.into_iter().map(subject).collect()),
        ("bindings", of_node.chain(own).collect()),
    ]))
}

fn binding(bound: &Bound, of: &'static str) -> Value {
    let level = match bound.level {
        SchemaLevel::Reject => "reject",
        SchemaLevel::Monitor => "monitor",
    };
    let unknown = match bound.unknown {
        UnknownFields::Reject => "reject",
        UnknownFields::Keep => "keep",
    };
    Value::object([
        ("pattern", bound.pattern.as_str().into()),
        ("subject", (*bound.subject).into()),
        ("level", level.into()),
        ("unknown", unknown.into()),
        ("empty", bound.empty_allowed.into()),
        ("of", of.into()),
    ])
}

fn show(call: &Call<'_>) -> Result<Value, Fault> {
    let rules = call.guard.rules();
    let (name, subject) = subject(call, &rules.schemas)?;
    let chosen = match call.arguments.integer("version") {
        Some(number) => subject.version(number).ok_or_else(|| no_version(number))?,
        None => {
            let newest = subject.active().or_else(|| subject.versions.last());
            newest.ok_or_else(|| no_version(1))?
        }
    };
    let version = |version: &Version| {
        Value::object([
            ("version", version.number.into()),
            ("active", (!version.retired).into()),
            ("message", version.definition.message().into()),
            ("digest", hex(&version.definition.digest).into()),
            ("bytes", (version.definition.bytes().len() as u64).into()),
            ("registered_at", micros(version.at.0).into()),
        ])
    };
    let bindings = rules.schemas.bindings.all();
    let bound = bindings.iter().filter(|one| *one.subject == *name);
    let patterns: Value = bound.map(|one| one.pattern.as_str()).collect();
    let (descriptors, document) = match &chosen.definition.form {
        Form::Protobuf { descriptors, .. } => (bytes(descriptors), Value::default()),
        Form::Json { text, .. } => {
            let text = String::from_utf8_lossy(text).into_owned();
            (Value::default(), text.into())
        }
    };
    Ok(Value::object([
        ("subject", name.into()),
        ("mode", subject.mode.as_str().into()),
        ("language", chosen.definition.language().into()),
        ("patterns", patterns),
        ("versions", subject.versions.iter().map(version).collect()),
        ("version", chosen.number.into()),
        ("message", chosen.definition.message().into()),
        ("descriptors", descriptors),
        ("document", document),
    ]))
}

fn diff(call: &Call<'_>) -> Result<Value, Fault> {
    let rules = call.guard.rules();
    let (name, subject) = subject(call, &rules.schemas)?;
    let version = |argument: &str| {
        let number = call.arguments.integer(argument).unwrap_or_default();
        subject.version(number).ok_or_else(|| no_version(number))
    };
    let (from, to) = (version("from")?, version("to")?);
    let (old, new) = (from.definition.descriptor(), to.definition.descriptor());
    let (Some(old), Some(new)) = (old, new) else {
        let text =
            "two JSON Schema documents cannot be compared; look at both with `arqon schema show`";
        return Err(Fault::new(ErrorCode::FeatureDisabled, "subject", text));
    };
    let differences = compare(&old, &new);
    Ok(Value::object([
        ("subject", name.into()),
        ("from", from.number.into()),
        ("to", to.number.into()),
        ("differences", differences.iter().map(difference).collect()),
    ]))
}

fn check(call: &Call<'_>) -> Result<Value, Fault> {
    let rules = call.guard.rules();
    let schemas = &rules.schemas;
    let name = call.arguments.text("subject").unwrap_or_default();
    check_subject(name)?;
    let candidate = definition(call, schemas)?;
    let known = schemas.subjects.get(name);
    let mut answer = vec![("subject", Value::from(name))];
    if let Some(candidate) = &candidate {
        let judged = known.map_or(Ok(Vec::new()), |subject| subject.admit(candidate));
        let (reason, differences) = match judged {
            Ok(surprises) => (String::new(), surprises),
            Err(error) => {
                let reason = error.to_string();
                match error {
                    Incompatible::Breaks { differences, .. } => (reason, differences),
                    Incompatible::Unproven { .. } | Incompatible::Language { .. } => {
                        (reason, Vec::new())
                    }
                }
            }
        };
        answer.push(("compatible", reason.is_empty().into()));
        answer.push(("reason", reason.into()));
        answer.push(("differences", differences.iter().map(difference).collect()));
    }
    if let Some(payload) = call.arguments.bytes("payload") {
        let held: &Definition = match (&candidate, known) {
            (Some(candidate), _) => candidate,
            (None, None) => return Err(no_subject(name)),
            (None, Some(subject)) => {
                let version = match call.arguments.integer("version") {
                    Some(number) => subject.version(number).ok_or_else(|| no_version(number))?,
                    None => subject.active().ok_or_else(|| no_version(0))?,
                };
                answer.push(("version", version.number.into()));
                &version.definition
            }
        };
        let violations = match &held.form {
            Form::Protobuf { table, .. } => table.violations(payload, UnknownFields::Reject),
            Form::Json { document, .. } => document.violations(payload),
        };
        answer.push(("fits", violations.is_empty().into()));
        answer.push(("violations", violations.iter().map(violation).collect()));
    }
    if answer.len() == 1 {
        let text = "there is nothing to check; give descriptors, a document or a payload";
        return Err(Fault::invalid("payload", text));
    }
    Ok(Value::object(answer))
}

fn violation(one: &Violation) -> Value {
    Value::object([
        ("path", one.path.as_str().into()),
        ("rule", one.rule.as_str().into()),
        ("detail", one.detail.as_str().into()),
    ])
}

fn difference(one: &Difference) -> Value {
    Value::object([
        ("path", one.path.as_str().into()),
        ("rule", one.rule.into()),
        (
            "breaks",
            one.breaks.map_or("", |breaks| breaks.as_str()).into(),
        ),
        ("text", one.text.as_str().into()),
    ])
}

/// What was given to be registered or tried, if anything was.
fn definition(call: &Call<'_>, schemas: &Schemas) -> Result<Option<Definition>, Fault> {
    let (descriptors, document) = (
        call.arguments.bytes("descriptors"),
        call.arguments.bytes("document"),
    );
    let limit = schemas.settings.document_bytes_max;
    let sized = |name: &str, given: &Bytes| {
        if given.len() <= limit {
            return Ok(());
        }
        let text = format!(
            "{name} has {} bytes, more than the limit of {limit} (schema.document_bytes_max)",
            given.len()
        );
        Err(Fault::new(ErrorCode::TooLarge, name, text))
    };
    let made = match (descriptors, document) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            let text = "descriptors and a document are given; give one of them";
            return Err(Fault::invalid("document", text));
        }
        (Some(descriptors), None) => {
            sized("descriptors", descriptors)?;
            let message = call.arguments.text("message").unwrap_or_default();
            Definition::protobuf(descriptors, message)
        }
        (None, Some(document)) => {
            sized("document", document)?;
            Definition::json(document)
        }
    };
    made.map(Some)
        .map_err(|unusable| Fault::invalid(unusable.field(), unusable.to_string()))
}

fn subject<'a>(call: &'a Call<'_>, schemas: &'a Schemas) -> Result<(&'a str, &'a Subject), Fault> {
    let name = call.arguments.text("subject").unwrap_or_default();
    let found = schemas.subjects.get(name);
    found
        .map(|subject| (name, subject.as_ref()))
        .ok_or_else(|| no_subject(name))
}

fn pattern(call: &Call<'_>) -> Result<Filter, Fault> {
    let text = call.arguments.text("pattern").unwrap_or_default();
    Filter::new(text).map_err(|fault| Fault::invalid("pattern", format!("pattern: {fault}")))
}

fn mode_named(text: &str) -> Result<Mode, Fault> {
    Mode::parse(text).ok_or_else(|| {
        let known: Vec<_> = Mode::ALL.iter().map(|mode| mode.as_str()).collect();
        let text = format!("mode is one of {}", known.join(", "));
        Fault::invalid("mode", text)
    })
}

fn within(setting: &str, what: &str, found: usize, limit: usize) -> Result<(), Fault> {
    if found <= limit {
        return Ok(());
    }
    let text = format!("that would be {found} {what}, more than the limit of {limit} ({setting})");
    Err(Fault::new(ErrorCode::TooLarge, "subject", text))
}

fn change(call: &Call<'_>, change: &Change) -> Result<(), Fault> {
    call.guard.change(call.tenancy, change.event()).map(drop)
}

fn bytes(bytes: &Bytes) -> Value {
    crate::proto::v1::value::Kind::Bytes(bytes.clone()).into()
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
