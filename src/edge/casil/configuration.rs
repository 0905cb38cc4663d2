//! What the inspection is told: from the node's settings, from an event, from a command; and the
//! same as a command shows it.
//!
//! Owns names, defaults and the rules that hold between values. `arqon.v1.CasilPolicy` is the one
//! form in which they travel.

use crate::broker::verb::{Argument, Arguments, Kind};
use crate::config;
use crate::edge::shield::Fault;
use crate::proto::v1::{CasilPolicy, Value};

/// Most that can be inspected of a payload: no envelope is larger.
const INSPECT_BYTES_MAX: u64 = 16 << 20;
/// Most patterns.
const PATTERNS_MAX: u64 = 256;
/// Most bits a character there can be, and a little more.
const ENTROPY_MAX: u64 = 800;

/// The words of a value that has few.
const MODES: [&str; 2] = ["monitor", "enforce"];
const DECISIONS: [&str; 2] = ["allow", "block"];
const PERSONAL: [&str; 4] = ["off", "flag", "redact", "block"];

/// What `op.casil.reload` takes: any of them.
pub(super) const ARGUMENTS: &[Argument] = &[
    Argument::optional("enabled", Kind::Boolean, "Whether anything is inspected."),
    Argument::optional(
        "mode",
        Kind::Text,
        "`monitor` says what it finds, `enforce` acts on it.",
    ),
    Argument::optional(
        "default_decision",
        Kind::Text,
        "`block` or `allow` what cannot be inspected to its end.",
    ),
    Argument::optional(
        "scope_include",
        Kind::Texts,
        "Globs over `room:channel` or topics; none is all.",
    ),
    Argument::optional(
        "scope_exclude",
        Kind::Texts,
        "Globs of what is not inspected; they win.",
    ),
    Argument::optional(
        "max_payload_bytes",
        Kind::Integer,
        "Largest payload; 0 for no limit.",
    ),
    Argument::optional(
        "max_inspect_bytes",
        Kind::Integer,
        "How far a payload is inspected.",
    ),
    Argument::optional(
        "max_patterns",
        Kind::Integer,
        "Most of `redaction_patterns`.",
    ),
    Argument::optional(
        "block_on_probable_secret",
        Kind::Boolean,
        "Block instead of redacting.",
    ),
    Argument::optional(
        "redaction_paths",
        Kind::Texts,
        "Fields whose values are taken out.",
    ),
    Argument::optional(
        "redaction_patterns",
        Kind::Texts,
        "Regular expressions of what is secret here.",
    ),
    Argument::optional(
        "transport_redaction",
        Kind::Boolean,
        "Redact what is stored and delivered.",
    ),
    Argument::optional(
        "metadata_to_logs",
        Kind::Boolean,
        "Say findings in the node's own log.",
    ),
    Argument::optional(
        "metadata_to_telemetry",
        Kind::Boolean,
        "Sample findings into `sys.audit.edge`.",
    ),
    Argument::optional(
        "metadata_to_envelope",
        Kind::Boolean,
        "Stamp the classification into records.",
    ),
    Argument::optional(
        "personal_data",
        Kind::Text,
        "`off`, `flag`, `redact` or `block`.",
    ),
    Argument::optional(
        "entropy_centibits",
        Kind::Integer,
        "Entropy from which on a string is random; 0 for never.",
    ),
];

/// What the node's settings say.
pub(super) fn of_node(settings: &config::Casil) -> CasilPolicy {
    CasilPolicy {
        enabled: settings.enabled,
        mode: settings.mode.clone(),
        default_decision: settings.default_decision.clone(),
        scope_include: settings.scope_include.0.clone(),
        scope_exclude: settings.scope_exclude.0.clone(),
        max_payload_bytes: settings.max_payload_bytes,
        max_inspect_bytes: settings.max_inspect_bytes,
        max_patterns: settings.max_patterns,
        block_on_probable_secret: settings.block_on_probable_secret,
        redaction_paths: settings.redaction_paths.0.clone(),
        redaction_patterns: settings.redaction_patterns.0.clone(),
        transport_redaction: settings.transport_redaction,
        metadata_to_logs: settings.metadata_to_logs,
        metadata_to_telemetry: settings.metadata_to_telemetry,
        metadata_to_envelope: settings.metadata_to_envelope,
        personal_data: settings.personal_data.clone(),
        entropy_centibits: settings.entropy_centibits,
    }
}

/// What is in force, with what was given in its place.
pub(super) fn amended(mut policy: CasilPolicy, given: &Arguments) -> CasilPolicy {
    let flag = |name, field: &mut bool| *field = given.boolean(name).unwrap_or(*field);
    let number = |name, field: &mut u64| *field = given.integer(name).unwrap_or(*field);
    let word = |name, field: &mut String| {
        if let Some(text) = given.text(name) {
            text.clone_into(field);
        }
    };
    let list = |name, field: &mut Vec<String>| {
        if let Some(texts) = given.texts(name) {
            *field = texts.to_vec();
        }
    };
    flag("enabled", &mut policy.enabled);
    word("mode", &mut policy.mode);
    word("default_decision", &mut policy.default_decision);
    list("scope_include", &mut policy.scope_include);
    list("scope_exclude", &mut policy.scope_exclude);
    number("max_payload_bytes", &mut policy.max_payload_bytes);
    number("max_inspect_bytes", &mut policy.max_inspect_bytes);
    number("max_patterns", &mut policy.max_patterns);
    flag(
        "block_on_probable_secret",
        &mut policy.block_on_probable_secret,
    );
    list("redaction_paths", &mut policy.redaction_paths);
    list("redaction_patterns", &mut policy.redaction_patterns);
    flag("transport_redaction", &mut policy.transport_redaction);
    flag("metadata_to_logs", &mut policy.metadata_to_logs);
    flag("metadata_to_telemetry", &mut policy.metadata_to_telemetry);
    flag("metadata_to_envelope", &mut policy.metadata_to_envelope);
    word("personal_data", &mut policy.personal_data);
    number("entropy_centibits", &mut policy.entropy_centibits);
    policy
}

/// The values as a command shows them.
pub(super) fn shown(policy: &CasilPolicy) -> Vec<(&'static str, Value)> {
    let list = |texts: &[String]| texts.iter().map(String::as_str).collect::<Value>();
    vec![
        ("enabled", policy.enabled.into()),
        ("mode", policy.mode.as_str().into()),
        ("default_decision", policy.default_decision.as_str().into()),
        ("scope_include", list(&policy.scope_include)),
        ("scope_exclude", list(&policy.scope_exclude)),
        ("max_payload_bytes", policy.max_payload_bytes.into()),
        ("max_inspect_bytes", policy.max_inspect_bytes.into()),
        ("max_patterns", policy.max_patterns.into()),
        (
            "block_on_probable_secret",
            policy.block_on_probable_secret.into(),
        ),
        ("redaction_paths", list(&policy.redaction_paths)),
        ("redaction_patterns", list(&policy.redaction_patterns)),
        ("transport_redaction", policy.transport_redaction.into()),
        ("metadata_to_logs", policy.metadata_to_logs.into()),
        ("metadata_to_telemetry", policy.metadata_to_telemetry.into()),
        ("metadata_to_envelope", policy.metadata_to_envelope.into()),
        ("personal_data", policy.personal_data.as_str().into()),
        ("entropy_centibits", policy.entropy_centibits.into()),
    ]
}

/// Everything in the values themselves that cannot be put in force; globs, paths and patterns are
/// checked by whoever uses them.
pub(super) fn faults(policy: &CasilPolicy) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (field, word, words) in [
        ("mode", &policy.mode, MODES.as_slice()),
        ("default_decision", &policy.default_decision, &DECISIONS),
        ("personal_data", &policy.personal_data, &PERSONAL),
    ] {
        if !words.contains(&word.as_str()) {
            let text = format!("{field} must be one of {}", words.join(", "));
            faults.push(Fault::invalid(field, text));
        }
    }
    for (field, number, first, last) in [
        (
            "max_inspect_bytes",
            policy.max_inspect_bytes,
            1,
            INSPECT_BYTES_MAX,
        ),
        ("max_patterns", policy.max_patterns, 1, PATTERNS_MAX),
        (
            "entropy_centibits",
            policy.entropy_centibits,
            0,
            ENTROPY_MAX,
        ),
    ] {
        if !(first..=last).contains(&number) {
            let text = format!("{field} is {number}, but must be from {first} to {last}");
            faults.push(Fault::invalid(field, text));
        }
    }
    let (found, limit) = (policy.redaction_patterns.len(), policy.max_patterns);
    if found as u64 > limit {
        let field = "redaction_patterns";
        let text = format!("{field} has {found} patterns, more than max_patterns = {limit}");
        faults.push(Fault::invalid(field, text));
    }
    faults
}
