//! Commands: one registry with name, role, arguments and handler of each (BRK-11).
//!
//! Handlers may block on the disk. Adding a command adds one entry to [`COMMANDS`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use super::access::{Identity, Role};
use super::ask;
use super::compare;
use super::control;
use super::damage::without_directories;
use super::delta;
use super::error::{ArgumentFault, Error};
use super::filter::Filter;
use super::history::{Edge, Window};
use super::name::RealityName;
use super::operators::{OPERATORS, delayed, webhook};
use super::reality::Reality;
use super::register::Birth;
use super::tenancy::Tenancy;
use super::verb::{Argument, Arguments, Command, Effect, Kind};
use super::{Broker, consumer, group, letter, name};
use crate::log::{KeyId, Sequence, TopicSummary};
use crate::proto::v1::{Value, value};

/// What the broker does for a command.
pub type Handler = fn(&Call<'_>) -> Result<Value, Error>;

/// Topics in one answer, where nobody says how many, and at most.
const TOPICS_DEFAULT: u64 = 1_000;
const TOPICS_MAX: u64 = 10_000;

pub(super) const REALITY: Argument = Argument {
    name: "reality",
    kind: Kind::Text,
    required: false,
    doc: "the reality; main if left out",
};

const BACKUP: Argument = Argument {
    name: "backup",
    kind: Kind::Text,
    required: true,
    doc: "number of the backup, as backup.begin has answered",
};

/// All commands that the broker carries out, its operators' included, in no order.
pub fn all() -> impl Iterator<Item = &'static Command<Handler>> {
    let of_operators = OPERATORS.iter().flat_map(|operator| operator.commands);
    let parts = PARTS.iter().copied().flatten();
    COMMANDS
        .iter()
        .chain(control::COMMANDS)
        .chain(parts)
        .chain(of_operators)
}

/// Those that stand with what they are about.
const PARTS: &[&[Command<Handler>]] = &[
    consumer::commands::COMMANDS,
    group::commands::COMMANDS,
    letter::commands::COMMANDS,
    delta::commands::COMMANDS,
];

/// The broker's own commands, by name.
pub const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "backup.begin",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[],
        doc: "Takes a picture of all logs of the tenant, and holds it as long as it is read.",
        handler: backup_begin,
    },
    Command {
        name: "backup.end",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[BACKUP],
        doc: "Lets go of a backup's picture.",
        handler: backup_end,
    },
    Command {
        name: "backup.read",
        role: Role::Admin,
        effect: Effect::Shows,
        arguments: &[
            BACKUP,
            REALITY,
            Argument {
                name: "file",
                kind: Kind::Text,
                required: true,
                doc: "name of the file",
            },
            Argument {
                name: "offset",
                kind: Kind::Text,
                required: true,
                doc: "where in the file, in bytes",
            },
        ],
        doc: "Reads a piece of a file of a backup; empty at its end.",
        handler: backup_read,
    },
    Command {
        name: "causal.concurrent",
        role: Role::User,
        effect: Effect::Shows,
        arguments: ask::ABOUT_ONE,
        doc: "Shows the records that happened neither before a record nor after it.",
        handler: ask::concurrent,
    },
    Command {
        name: "causal.past",
        role: Role::User,
        effect: Effect::Shows,
        arguments: ask::ABOUT_ONE,
        doc: "Shows the records that happened before a record.",
        handler: ask::past,
    },
    Command {
        name: "causal.path",
        role: Role::User,
        effect: Effect::Shows,
        arguments: ask::ABOUT_TWO,
        doc: "Shows the chain of direct causes from one record to another.",
        handler: ask::path,
    },
    Command {
        name: "log.repair",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[REALITY],
        doc: "Repairs a reality's damaged log: damaged bytes are put aside, the rest takes writes again.",
        handler: log_repair,
    },
    Command {
        name: "log.rotate_key",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[REALITY],
        doc: "Encrypts a reality's log with a new data key from its next segment on.",
        handler: log_rotate_key,
    },
    Command {
        name: "log.scrub",
        role: Role::Operator,
        effect: Effect::Shows,
        arguments: &[REALITY],
        doc: "Reads all of a reality's log and says what is damaged; answered when it is done.",
        handler: log_scrub,
    },
    Command {
        name: "log.shred_keys",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            Argument {
                name: "reality",
                kind: Kind::Text,
                required: true,
                doc: "the reality",
            },
            Argument {
                name: "confirm",
                kind: Kind::Text,
                required: true,
                doc: "the reality's name once more",
            },
        ],
        doc: "Destroys the keys of a reality's log for good: nobody can read it again.",
        handler: log_shred_keys,
    },
    Command {
        name: "log.status",
        role: Role::Operator,
        effect: Effect::Shows,
        arguments: &[REALITY],
        doc: "Shows the state of a reality's log.",
        handler: log_status,
    },
    Command {
        name: "quota.show",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Shows what the tenant stores and how much it may; a maximum of 0 is none.",
        handler: super::quota::show,
    },
    Command {
        name: "reality.compare",
        role: Role::Operator,
        effect: Effect::Shows,
        arguments: &[
            Argument {
                name: "a",
                kind: Kind::Text,
                required: true,
                doc: "one reality",
            },
            Argument {
                name: "b",
                kind: Kind::Text,
                required: true,
                doc: "the other",
            },
        ],
        doc: "Shows what two realities have in common, where they differ first, and what each has since.",
        handler: reality_compare,
    },
    Command {
        name: "reality.create",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[Argument {
            name: "name",
            kind: Kind::Text,
            required: true,
            doc: "name of the new reality",
        }],
        doc: "Creates a reality.",
        handler: reality_create,
    },
    Command {
        name: "reality.delete",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            Argument {
                name: "name",
                kind: Kind::Text,
                required: true,
                doc: "the reality to be deleted",
            },
            Argument {
                name: "confirm",
                kind: Kind::Text,
                required: true,
                doc: "its name again",
            },
        ],
        doc: "Deletes a reality with all its records and cursors; forks of it keep theirs.",
        handler: reality_delete,
    },
    Command {
        name: "reality.fork",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[
            Argument {
                name: "from",
                kind: Kind::Text,
                required: true,
                doc: "the reality to be forked",
            },
            Argument {
                name: "at",
                kind: Kind::Text,
                required: false,
                doc: "the last sequence that both have, in digits; the last on disk if left out",
            },
            Argument {
                name: "to",
                kind: Kind::Text,
                required: true,
                doc: "name of the fork",
            },
        ],
        doc: "Makes a reality that shares the records of another up to a sequence.",
        handler: reality_fork,
    },
    Command {
        name: "reality.hash",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[
            REALITY,
            Argument {
                name: "topic",
                kind: Kind::Text,
                required: false,
                doc: "filter of topics; all that the hash covers if left out",
            },
            Argument {
                name: "from",
                kind: Kind::Text,
                required: false,
                doc: "the first sequence, in digits; that of the log if left out",
            },
            Argument {
                name: "to",
                kind: Kind::Text,
                required: false,
                doc: "the last sequence, in digits; the last on disk if left out",
            },
        ],
        doc: "Hashes what a reality holds, without the node's own stamps: equal histories, equal hashes.",
        handler: reality_hash,
    },
    Command {
        name: "reality.list",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Lists the realities of the tenant.",
        handler: reality_list,
    },
    Command {
        name: "status",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Shows the node, the caller and the open realities of the tenant.",
        handler: status,
    },
    Command {
        name: "topics.list",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[
            REALITY,
            Argument {
                name: "prefix",
                kind: Kind::Text,
                required: false,
                doc: "only topics that begin with this",
            },
            Argument {
                name: "after",
                kind: Kind::Text,
                required: false,
                doc: "only topics that come after this one by name: the last of the answer before",
            },
            Argument {
                name: "limit",
                kind: Kind::Integer,
                required: false,
                doc: "how many topics at most; 1,000 if left out, 10,000 at most",
            },
        ],
        doc: "Lists the topics of a reality that the caller may subscribe to, by name.",
        handler: topics_list,
    },
];

/// A command that may be given, and all that it works on.
#[derive(Debug)]
pub struct Call<'a> {
    pub(super) command: &'static str,
    pub(super) broker: &'a Arc<Broker>,
    pub(super) tenancy: &'a Arc<Tenancy>,
    /// How long it may wait for something at most.
    pub(super) wait_max: Duration,
    pub(super) caller: &'a Identity,
    pub(super) arguments: Arguments,
}

/// Runs a command. Blocks on the disk.
///
/// # Errors
/// There is no such command; the caller may not give it; an argument is missing, unknown or of the
/// wrong type; the command itself failed.
pub fn run(
    broker: &Arc<Broker>,
    tenancy: &Arc<Tenancy>,
    wait_max: Duration,
    caller: &Identity,
    name: &str,
    arguments: &BTreeMap<String, Value>,
) -> Result<Value, Error> {
    let Some(command) = all().find(|command| command.name == name) else {
        let known: Vec<_> = all().map(|command| command.name).collect();
        return Err(Error::UnknownCommand {
            name: name.chars().take(64).collect(),
            known: known.join(", "),
        });
    };
    let arguments = command.admit(caller, arguments)?;
    let call = Call {
        command: command.name,
        broker,
        tenancy,
        wait_max,
        caller,
        arguments,
    };
    (command.handler)(&call).map_err(|error| match error {
        // Nobody makes a reality to look at it, or to delete it.
        Error::NoSuchReality { reality } => Error::NotAmongRealities { reality },
        other => other,
    })
}

impl Call<'_> {
    /// An argument that is a number in decimal digits.
    fn number(&self, argument: &'static str) -> Result<u64, Error> {
        let text = self.arguments.text(argument).unwrap_or_default();
        text.parse().map_err(|_not_a_number| {
            let fault = ArgumentFault::Kind {
                wanted: "a whole number, as a text",
            };
            Error::Argument {
                command: self.command,
                argument: argument.to_owned(),
                fault,
            }
        })
    }

    pub(super) fn reality(&self) -> Result<Arc<Reality>, Error> {
        self.tenancy.reality(&self.of_reality()?)
    }

    /// The name of the reality that is meant, whether there is one or not.
    pub(super) fn of_reality(&self) -> Result<RealityName, Error> {
        let text = self.arguments.text("reality").unwrap_or_default();
        let name = reality_name("arguments.reality", text)?;
        if name.is_system() && self.caller.role != Role::Admin {
            return Err(Error::RealityClosed { reality: name });
        }
        Ok(name)
    }

    /// An argument that must be otherwise.
    pub(super) fn wrong(&self, argument: &str, wanted: &'static str) -> Error {
        Error::Argument {
            command: self.command,
            argument: argument.to_owned(),
            fault: ArgumentFault::Kind { wanted },
        }
    }
}

impl Call<'_> {
    /// Whether the caller may read all that `filter` matches; of one that reads nothing yet, yes.
    pub(super) fn may_read(&self, filter: &str) -> bool {
        filter.is_empty()
            || Filter::new(filter).is_ok_and(|filter| self.caller.may_subscribe(&filter))
    }

    /// That the caller may, where something is done to whoever reads that.
    pub(super) fn check_reads(&self, filter: &str) -> Result<(), Error> {
        if self.may_read(filter) {
            return Ok(());
        }
        Err(Error::TopicForbidden {
            field: "arguments",
            action: "read all that matches",
            topic: filter.to_owned(),
        })
    }

    /// A name that must be there: empty does not mean `main` where something is made or deleted.
    pub(super) fn required_name(
        &self,
        argument: &'static str,
        field: &'static str,
    ) -> Result<RealityName, Error> {
        match self.arguments.text(argument).unwrap_or_default() {
            "" => Err(Error::Name {
                field,
                fault: name::NameError::Empty,
            }),
            given => reality_name(field, given),
        }
    }

    fn sequence(
        &self,
        command: &'static str,
        argument: &'static str,
    ) -> Result<Option<Sequence>, Error> {
        let Some(given) = self.arguments.text(argument) else {
            return Ok(None);
        };
        let parsed = given.parse().ok().and_then(Sequence::new);
        parsed.map(Some).ok_or_else(|| Error::Argument {
            command,
            argument: argument.to_owned(),
            fault: ArgumentFault::Kind {
                wanted: "a sequence, from 1 on, in digits",
            },
        })
    }
}

fn reality_name(field: &'static str, text: &str) -> Result<RealityName, Error> {
    RealityName::new(text).map_err(|fault| Error::Name { field, fault })
}

fn backup_begin(call: &Call<'_>) -> Result<Value, Error> {
    let (id, manifest) = call.broker.begin_backup(call.tenancy)?;
    let manifest = Bytes::from(manifest.encode_to_vec());
    Ok(fields([
        ("backup", number(id)),
        ("manifest", value::Kind::Bytes(manifest).into()),
    ]))
}

fn backup_read(call: &Call<'_>) -> Result<Value, Error> {
    let id = call.number("backup")?;
    let offset = call.number("offset")?;
    let text = call.arguments.text("reality").unwrap_or_default();
    let reality = reality_name("arguments.reality", text)?;
    let file = call.arguments.text("file").unwrap_or_default();
    let tenant = call.tenancy.tenant();
    let piece = call
        .broker
        .backups()
        .read(tenant, id, &reality, file, offset)?;
    Ok(value::Kind::Bytes(piece).into())
}

fn backup_end(call: &Call<'_>) -> Result<Value, Error> {
    let id = call.number("backup")?;
    call.broker.backups().end(call.tenancy.tenant(), id);
    Ok(fields([("backup", number(id))]))
}

fn log_status(call: &Call<'_>) -> Result<Value, Error> {
    let reality = call.reality()?;
    let status = reality.log().status();
    let bounds = status.bounds;
    Ok(fields(
        [
            ("reality", text(reality.name().as_str())),
            ("first", number(bounds.first.get())),
            ("durable_end", number(bounds.durable_end.get())),
            ("written_end", number(bounds.written_end.get())),
            ("segments", number(status.segments as u64)),
            ("used_bytes", number(status.used_bytes)),
            ("tail_bytes", number(status.tail_bytes as u64)),
            ("index_bytes", number(status.index_bytes)),
            ("file_handles", number(status.file_handles as u64)),
            ("waiting_bytes", number(status.waiting_bytes as u64)),
            ("flushes", number(status.flushes)),
            ("epoch", number(u64::from(status.epoch))),
        ]
        .into_iter()
        .chain(upkeep(call, &reality))
        .chain(
            reality
                .log()
                .current_key()
                .map(|key| ("key", text(&key_name(&key)))),
        )
        .chain(scrubbed(&reality))
        .chain(health(&reality)),
    ))
}

/// What upkeep has done to a reality since the node started, and who holds retention back.
fn upkeep(call: &Call<'_>, reality: &Reality) -> Vec<(&'static str, Value)> {
    let Some(account) = call.broker.maintained(reality.tenant(), reality.name()) else {
        return Vec::new();
    };
    let held = account.held.iter().map(|held| {
        fields([
            ("consumer", text(&held.name)),
            ("from", number(held.from.get())),
            ("bytes", number(held.bytes)),
            ("cut_short", flag(held.is_cut_short())),
        ])
    });
    let mut about = vec![
        ("upkeep_at_ms", number(account.at.as_millis())),
        ("upkeep_runs", number(account.runs)),
        ("reclaimed_bytes", number(account.reclaimed_bytes)),
        ("removed_records", number(account.removed_records)),
        ("dead_bytes", number(account.dead_bytes)),
        ("held", list(held)),
        ("compressed_segments", number(account.compressed_segments)),
    ];
    if let Some(ratio) = account.compression_ratio() {
        about.push(("compression_ratio", of(value::Kind::Number(ratio))));
    }
    if account.records_beyond_keys > 0 {
        let beyond = number(account.records_beyond_keys);
        about.push(("records_beyond_keys", beyond));
    }
    if account.damaged > 0 {
        about.push(("upkeep_damages", number(account.damaged)));
    }
    if account.error.is_some() {
        // Its text names directories; the node's own log has it.
        about.push(("upkeep_failed", flag(true)));
    }
    about
}

fn log_rotate_key(call: &Call<'_>) -> Result<Value, Error> {
    let reality = call.reality()?;
    let key = reality.log().rotate_key()?;
    tracing::info!(tenant = %call.tenancy.tenant(), reality = %reality.name(), by = %call.caller.subject, "data key rotated");
    Ok(fields([
        ("reality", text(reality.name().as_str())),
        ("key", text(&key_name(&key))),
    ]))
}

fn key_name(key: &KeyId) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn log_shred_keys(call: &Call<'_>) -> Result<Value, Error> {
    let given = call.arguments.text("reality").unwrap_or_default();
    let name = reality_name("arguments.reality", given)?;
    // The system's own log is what keeps the tenant running.
    if name.is_system() {
        return Err(Error::RealityClosed { reality: name });
    }
    if call.arguments.text("confirm") != Some(name.as_str()) {
        return Err(Error::Argument {
            command: "log.shred_keys",
            argument: "confirm".to_owned(),
            fault: ArgumentFault::Kind {
                wanted: "the name of the reality",
            },
        });
    }
    call.tenancy.shred_keys(&name, &call.caller.subject)?;
    Ok(fields([
        ("reality", text(name.as_str())),
        ("shredded", flag(true)),
    ]))
}

fn log_repair(call: &Call<'_>) -> Result<Value, Error> {
    let reality = call.reality()?;
    let statement = call.tenancy.mend(reality.name())?;
    let mut about = vec![
        ("reality", text(reality.name().as_str())),
        ("repaired", flag(statement.is_some())),
    ];
    if let Some(statement) = &statement {
        let named = |path: &std::path::Path| {
            let name = path.file_name().and_then(|name| name.to_str());
            text(name.unwrap_or_default())
        };
        let damages = statement.damages.iter();
        about.push((
            "damages",
            list(damages.map(|damage| text(&without_directories(damage)))),
        ));
        let aside = statement.quarantined.iter();
        about.push(("quarantined", list(aside.map(|aside| named(&aside.copy)))));
        about.push(("statement", named(&statement.path)));
    }
    about.push(("next", number(reality.bounds().written_end.get())));
    about.extend(health(&reality));
    Ok(fields(about))
}

fn log_scrub(call: &Call<'_>) -> Result<Value, Error> {
    let reality = call.reality()?;
    reality.log().scrub(&crate::log::Unthrottled)?;
    Ok(fields(
        [("reality", text(reality.name().as_str()))]
            .into_iter()
            .chain(scrubbed(&reality)),
    ))
}

/// What the last look at all of the log has found.
fn scrubbed(reality: &Reality) -> Vec<(&'static str, Value)> {
    let scrub = reality.log().status().scrub;
    let Some(at) = scrub.finished_at else {
        return vec![("scrubbed_at_ms", value::Kind::Null(true).into())];
    };
    let damages = scrub.damages.iter();
    vec![
        ("scrubbed_at_ms", number(at.as_millis())),
        ("scrubbed_segments", number(scrub.segments)),
        ("scrubbed_bytes", number(scrub.bytes)),
        (
            "scrub_damages",
            list(damages.map(|damage| text(&without_directories(damage)))),
        ),
    ]
}

/// Whether a reality takes writes, why not, and what damage reading has met in it.
fn health(reality: &Reality) -> Vec<(&'static str, Value)> {
    let read_only = reality.read_only();
    let mut about = vec![("read_only", flag(read_only.is_some()))];
    if let Some(state) = read_only {
        about.push(("reason", text(&state.reason)));
        about.push(("repairing", flag(state.repairing)));
    }
    let encounters = reality.encounters();
    if encounters.reads() > 0 {
        let places = encounters.places();
        let places = places.iter().map(|place| text(&without_directories(place)));
        about.push(("damaged_reads", number(encounters.reads())));
        about.push(("damages", list(places)));
    }
    about
}

fn reality_create(call: &Call<'_>) -> Result<Value, Error> {
    let given = call.arguments.text("name").unwrap_or_default();
    if given.is_empty() {
        let (field, fault) = ("arguments.name", name::NameError::Empty);
        return Err(Error::Name { field, fault });
    }
    let name = reality_name("arguments.name", given)?;
    if name.is_lab() {
        return Err(Error::RealityClosed { reality: name });
    }
    let reality = call.tenancy.create(&name, &call.caller.subject)?;
    Ok(fields([("reality", text(reality.name().as_str()))]))
}

fn reality_fork(call: &Call<'_>) -> Result<Value, Error> {
    let (from, to) = (
        call.required_name("from", "arguments.from")?,
        call.required_name("to", "arguments.to")?,
    );
    let at = call.sequence("reality.fork", "at")?;
    let by = &call.caller.subject;
    let reality = call.tenancy.fork(&from, at, &to, by)?;
    // What waits in the one waits in the other, too.
    delayed::announce(call.broker, call.tenancy, &reality, 0)?;
    let mut about = vec![("reality", text(to.as_str()))];
    about.extend(origin(call.tenancy, &to));
    about.push(("next", number(reality.bounds().durable_end.get())));
    Ok(fields(about))
}

/// What a fork was forked from, and where.
fn origin(tenancy: &Tenancy, name: &RealityName) -> Vec<(&'static str, Value)> {
    match tenancy.birth(name) {
        Some(Birth::Forked { from, at }) => vec![
            ("forked_from", text(from.as_str())),
            ("forked_at", number(at)),
        ],
        Some(Birth::Created) | None => Vec::new(),
    }
}

fn reality_delete(call: &Call<'_>) -> Result<Value, Error> {
    let name = call.required_name("name", "arguments.name")?;
    let found = call.arguments.text("confirm").unwrap_or_default();
    if found != name.as_str() {
        return Err(Error::NotConfirmed {
            reality: name,
            found: found.chars().take(64).collect(),
        });
    }
    call.tenancy.delete(&name, &call.caller.subject)?;
    webhook::reality_deleted(call.broker, call.tenancy, &name)?;
    Ok(fields([("deleted", text(name.as_str()))]))
}

fn reality_compare(call: &Call<'_>) -> Result<Value, Error> {
    let (a, b) = (
        call.required_name("a", "arguments.a")?,
        call.required_name("b", "arguments.b")?,
    );
    for name in [&a, &b] {
        if name.is_system() && call.caller.role != Role::Admin {
            let reality = name.clone();
            return Err(Error::RealityClosed { reality });
        }
    }
    let (one, other) = (call.tenancy.reality(&a)?, call.tenancy.reality(&b)?);
    let compared = compare::compare(&one, &other)?;
    let mut about = vec![
        ("identical", flag(compared.identical())),
        ("related", flag(compared.related)),
        ("common_through", number(compared.common_through)),
        ("compared_from", number(compared.compared_from.get())),
        ("equal", number(compared.equal)),
        ("unfinished", flag(compared.unfinished)),
        ("scan_limit", number(compare::SCANNED_MAX)),
    ];
    if let Some(difference) = &compared.difference {
        about.push(("first_difference", number(difference.sequence.get())));
        let side = |topic: &Option<String>| match topic {
            Some(topic) if call.caller.may_see(topic) => text(topic),
            Some(_) => text("(not visible to this token)"),
            None => text("(no record)"),
        };
        about.push(("difference_a", side(&difference.a)));
        about.push(("difference_b", side(&difference.b)));
    }
    for (name, side, topics) in [
        ("a", &compared.a, "topics_a"),
        ("b", &compared.b, "topics_b"),
    ] {
        let reality = if name == "a" { &a } else { &b };
        about.push((
            name,
            fields([
                ("reality", text(reality.as_str())),
                ("first", number(side.first.get())),
                ("last", number(side.last)),
                (
                    "records",
                    number(side.topics.iter().map(|one| one.records).sum()),
                ),
            ]),
        ));
        let visible = side
            .topics
            .iter()
            .filter(|topic| call.caller.may_see(&topic.topic));
        about.push((
            topics,
            list(visible.map(|topic| {
                fields([
                    ("topic", text(&topic.topic)),
                    ("records", number(topic.records)),
                    ("bytes", number(topic.bytes)),
                    ("first", number(topic.first.get())),
                    ("last", number(topic.last.get())),
                ])
            })),
        ));
    }
    Ok(fields(about))
}

fn reality_hash(call: &Call<'_>) -> Result<Value, Error> {
    let field = "arguments.topic";
    let topic = call.arguments.text("topic").unwrap_or(">");
    let filter = Filter::new(topic).map_err(|fault| Error::Name { field, fault })?;
    if !call.caller.may_subscribe(&filter) {
        return Err(Error::TopicsHidden { filter });
    }
    let edge = |sequence: Option<Sequence>| sequence.map(Edge::Sequence);
    let window = Window {
        from: edge(call.sequence("reality.hash", "from")?),
        to: edge(call.sequence("reality.hash", "to")?),
        filter,
    };
    let reality = call.reality()?;
    let hashed = reality.hash(&window)?;
    let lost = hashed.lost.iter().map(|lost| {
        fields([
            ("first", number(lost.first.get())),
            ("last", number(lost.last.get())),
            ("reason", text(&lost.reason)),
        ])
    });
    Ok(fields([
        ("reality", text(reality.name().as_str())),
        ("topic", text(window.filter.as_str())),
        ("first", number(hashed.range.start.get())),
        ("last", number(hashed.range.end.get() - 1)),
        ("records", number(hashed.hash.records())),
        ("sha256", text(&hashed.hash.text())),
        ("complete", flag(hashed.lost.is_empty())),
        ("lost", list(lost)),
    ]))
}

fn reality_list(call: &Call<'_>) -> Result<Value, Error> {
    let names = call.tenancy.names();
    Ok(list(names.iter().map(|name| describe(call, name))))
}

fn describe(call: &Call<'_>, name: &RealityName) -> Value {
    let mut about = vec![("reality", text(name.as_str()))];
    let opened = call.tenancy.peek(name);
    about.push(("open", flag(opened.is_some())));
    about.extend(origin(call.tenancy, name));
    if let Some(reality) = opened {
        let bounds = reality.bounds();
        about.push(("first", number(bounds.first.get())));
        about.push(("last", number(bounds.durable_end.get() - 1)));
        about.push(("subscriptions", number(reality.subscriptions() as u64)));
        about.extend(health(&reality));
    }
    fields(about)
}

fn status(call: &Call<'_>) -> Result<Value, Error> {
    let names = call.tenancy.names();
    let mut about = vec![
        ("node", text(call.broker.node_name())),
        ("version", text(env!("CARGO_PKG_VERSION"))),
        ("tenant", text(call.tenancy.tenant().as_str())),
        ("subject", text(&call.caller.subject)),
        ("role", text(call.caller.role.as_str())),
        (
            "realities",
            list(names.iter().map(|name| describe(call, name))),
        ),
    ];
    if let Some((stored, limit)) = call.tenancy.stored_bytes() {
        about.push(("stored_bytes", number(stored)));
        about.push(("stored_bytes_max", number(limit)));
    }
    Ok(fields(about))
}

fn topics_list(call: &Call<'_>) -> Result<Value, Error> {
    let limit = call.arguments.integer("limit").unwrap_or(TOPICS_DEFAULT);
    if !(1..=TOPICS_MAX).contains(&limit) {
        return Err(Error::Argument {
            command: call.command,
            argument: "limit".to_owned(),
            fault: ArgumentFault::Number {
                found: limit.to_string(),
                max: TOPICS_MAX,
            },
        });
    }
    let prefix = call.arguments.text("prefix").unwrap_or_default();
    let after = call.arguments.text("after").unwrap_or_default();
    let topics = call.reality()?.log().topics()?;
    let wanted = |topic: &&TopicSummary| {
        topic.topic.starts_with(prefix)
            && (after.is_empty() || topic.topic.as_str() > after)
            && call.caller.may_see(&topic.topic)
    };
    let visible = topics.iter().filter(wanted);
    let visible = visible.take(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(list(visible.map(|topic| {
        fields([
            ("topic", text(&topic.topic)),
            ("records", number(topic.records)),
            ("bytes", number(topic.bytes)),
            ("first", number(topic.first.get())),
            ("last", number(topic.last.get())),
        ])
    })))
}

pub(super) fn of(kind: value::Kind) -> Value {
    Value { kind: Some(kind) }
}

pub(super) fn text(text: &str) -> Value {
    of(value::Kind::Text(text.to_owned()))
}

pub(super) fn number(number: u64) -> Value {
    of(value::Kind::Unsigned(number))
}

pub(super) fn flag(flag: bool) -> Value {
    of(value::Kind::Boolean(flag))
}

pub(super) fn list(items: impl Iterator<Item = Value>) -> Value {
    let items = items.collect();
    of(value::Kind::List(value::List { items }))
}

pub(super) fn fields(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let items = fields
        .into_iter()
        .map(|(name, value)| value::Field {
            name: name.to_owned(),
            value: Some(value),
        })
        .collect();
    of(value::Kind::Fields(value::Fields { items }))
}

#[cfg(test)]
mod tests {
    use super::*;

    // BRK-11
    #[test]
    fn the_registry_is_sorted_and_documented() {
        assert!(COMMANDS.is_sorted_by_key(|command| command.name));
        for command in COMMANDS {
            assert!(command.doc.ends_with('.'), "{}", command.name);
        }
    }

    // BRK-11
    #[test]
    fn arguments_are_checked_by_name_and_type() {
        let create = COMMANDS
            .iter()
            .find(|command| command.name == "reality.create")
            .unwrap();
        let error = |given: &[(&str, Value)]| {
            let given = given
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect();
            let caller = Identity {
                tenant: name::Tenant::new("t").unwrap(),
                subject: "s".into(),
                role: Role::Admin,
                publish: super::super::Topics::All,
                subscribe: super::super::Topics::All,
                expires_at: None,
                issued_at: None,
                token_id: None,
                ends_by: None,
            };
            create.admit(&caller, &given).unwrap_err().to_string()
        };
        assert_eq!(
            error(&[]),
            r#"command reality.create: argument "name" is missing"#
        );
        assert_eq!(
            error(&[("name", number(1))]),
            r#"command reality.create: argument "name" must be a text"#
        );
        assert_eq!(
            error(&[("name", text("a")), ("nme", text("a"))]),
            r#"command reality.create: argument "nme" is not one of its arguments: name"#
        );
    }
}
