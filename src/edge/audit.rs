//! Commands that show the audit of a tenant (BRK-13).
//!
//! Nothing here writes it: see [`super::shield`] and [`crate::broker::audit`].

use super::shield::Fault;
use super::shield::command::{Call, Handler};
use crate::broker::audit::read::{Action, Outcome, Verified, Wanted};
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::broker::{Role, Tenant};
use crate::log::{Limits, Micros};
use crate::proto::ErrorCode;
use crate::proto::audit::{Link, TOPIC};
use crate::proto::json::{micros, read_micros};
use crate::proto::v1::Value;

/// Most actions that one answer lists.
const LIMIT_MAX: u64 = 1_000;
const LIMIT_DEFAULT: u64 = 100;
/// Digits of a SHA-256.
const HASH_DIGITS: usize = 64;

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "audit.head",
        role: Role::Admin,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Shows number and hash of the last entry of the tenant's audit: kept elsewhere, they show later whether its end was cut off.",
        handler: head,
    },
    Command {
        name: "audit.list",
        role: Role::Admin,
        effect: Effect::Shows,
        arguments: &[
            Argument {
                name: "subject",
                kind: Kind::Text,
                required: false,
                doc: "only what this subject did",
            },
            Argument {
                name: "action",
                kind: Kind::Text,
                required: false,
                doc: "only this command, or those whose names begin with it and a dot",
            },
            Argument {
                name: "since",
                kind: Kind::Text,
                required: false,
                doc: "only what was begun at this time or later, RFC 3339",
            },
            Argument {
                name: "outcome",
                kind: Kind::Text,
                required: false,
                doc: "only done, failed, refused, unknown or noted",
            },
            Argument {
                name: "node",
                kind: Kind::Boolean,
                required: false,
                doc: "true: what concerns the whole node instead; for admins of the tenant that ops.tenant names",
            },
            Argument {
                name: "limit",
                kind: Kind::Integer,
                required: false,
                doc: "the newest, so many at most, 1 to 1,000; 100 if left out",
            },
        ],
        doc: "Lists what was done to the tenant, or tried: by whom, from where, with what, and what came of it.",
        handler: list,
    },
    Command {
        name: "audit.verify",
        role: Role::Admin,
        effect: Effect::Shows,
        arguments: &[Argument {
            name: "head",
            kind: Kind::Text,
            required: false,
            doc: "a hash that audit.head has shown; it must still be in the chain",
        }],
        doc: "Follows the chain of the tenant's audit from end to end, and says where it breaks first.",
        handler: verify,
    },
];

fn list(call: &Call<'_>) -> Result<Value, Fault> {
    let given = &call.arguments;
    let limit = given.integer("limit").unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        let text = format!("limit is {limit}; needed is 1 to {LIMIT_MAX}");
        return Err(Fault::invalid("arguments.limit", text));
    }
    let since = given.text("since").map_or(Ok(0), |time| {
        let time = read_micros(time, false).and_then(|time| u64::try_from(time).ok());
        time.ok_or_else(|| {
            let text = "since must be a time in RFC 3339 with Z or an offset";
            Fault::invalid("arguments.since", text)
        })
    })?;
    let outcome = given.text("outcome").map(|name| {
        let known = Outcome::ALL.into_iter().find(|one| one.as_str() == name);
        known.ok_or_else(|| {
            let names = Outcome::ALL.map(Outcome::as_str).join(", ");
            let text = format!("there is no such outcome; there are: {names}");
            Fault::invalid("arguments.outcome", text)
        })
    });
    let text = |name| given.text(name).unwrap_or_default().to_owned();
    let wanted = Wanted {
        subject: text("subject"),
        action: text("action"),
        since: Micros(since),
        outcome: outcome.transpose()?,
        limit: usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let actions = if given.boolean("node").unwrap_or(false) {
        if !call.shield.keeps_the_node(call.caller) {
            let text = "the node's own audit is for admins of the tenant that the setting ops.tenant names";
            return Err(Fault::new(ErrorCode::Forbidden, "arguments.node", text));
        }
        call.broker.tenancy(&Tenant::node())?.audited(&wanted)?
    } else {
        call.tenancy.audited(&wanted)?
    };
    Ok(actions.iter().map(shown).collect())
}

fn shown(action: &Action) -> Value {
    let (entry, last) = (&action.entry, action.last());
    let mut fields = vec![
        ("number", Value::from(entry.number)),
        ("at", micros(entry.at).into()),
        ("action", entry.action.as_str().into()),
        ("outcome", action.outcome().as_str().into()),
    ];
    let mut text = |name, value: &str| {
        if !value.is_empty() {
            fields.push((name, value.into()));
        }
    };
    text("code", &last.code);
    text("field", &last.field);
    text("subject", &entry.subject);
    text("role", &entry.role);
    text("token_id", &entry.token_id);
    text("from", &entry.from);
    text("node", &entry.node);
    let values = [
        ("arguments", &entry.arguments),
        ("before", &last.before),
        ("after", &last.after),
    ];
    for (name, value) in values {
        if let Some(value) = value {
            fields.push((name, value.clone()));
        }
    }
    Value::object(fields)
}

fn verify(call: &Call<'_>) -> Result<Value, Fault> {
    let head = call.arguments.text("head").map(str::to_ascii_lowercase);
    let is_hash =
        |text: &str| text.len() == HASH_DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit());
    if head.as_deref().is_some_and(|head| !is_hash(head)) {
        let text = format!("head must be a hash of {HASH_DIGITS} digits, as audit.head shows it");
        return Err(Fault::invalid("arguments.head", text));
    }
    let Verified { chain, broken, met } = call.tenancy.verify_audit(head.as_deref())?;
    // What no retention has taken was taken by somebody.
    let cut = chain.first() > 1 && call.broker.limits_of(TOPIC) == Limits::default();
    let mut fields = vec![
        ("ok", Value::from(broken.is_none() && met && !cut)),
        ("entries", chain.entries().into()),
        ("first", chain.first().into()),
    ];
    fields.extend(chain.last().map(link).into_iter().flatten());
    if let Some((sequence, what)) = broken {
        let broken = [("sequence", sequence.get().into()), ("what", what.into())];
        fields.push(("break", Value::object(broken)));
    } else if cut {
        let what = "the entries before the first are gone, and no retention is set that takes any";
        fields.push(("break", Value::object([("what", what.into())])));
    } else if !met {
        let what = "the entry with the hash asked for is not in the chain: its end was cut off or written again";
        fields.push(("break", Value::object([("what", what.into())])));
    }
    Ok(Value::object(fields))
}

fn link(link: &Link) -> [(&'static str, Value); 2] {
    [("number", link.number.into()), ("hash", link.hex().into())]
}

fn head(call: &Call<'_>) -> Result<Value, Fault> {
    let head = call.tenancy.audit_head()?;
    let none = [("number", Value::from(0_u64)), ("hash", "".into())];
    Ok(Value::object(head.as_ref().map_or(none, link)))
}
