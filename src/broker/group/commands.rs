//! Commands that deal with groups.

use super::Summary;
use super::options::millis;
use crate::broker::access::Role;
use crate::broker::command::{Call, Handler, REALITY, fields, flag, list, number, text};
use crate::broker::error::Error;
use crate::broker::letter;
use crate::broker::name::{self, RealityName};
use crate::broker::rewind::{self, DRY_RUN, TO};
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::proto::v1::{GroupOptions, Value};

const GROUP: Argument = Argument {
    name: "group",
    kind: Kind::Text,
    required: true,
    doc: "the group",
};

const fn option(name: &'static str, doc: &'static str) -> Argument {
    Argument {
        name,
        kind: Kind::Integer,
        required: false,
        doc,
    }
}

/// The commands of this part, by name.
pub(in crate::broker) const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "group.configure",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[
            GROUP,
            REALITY,
            option("ack_deadline_ms", "how long a member has for a record"),
            option(
                "max_deliveries",
                "failures after which a record becomes a dead letter",
            ),
            option(
                "backoff_min_ms",
                "how long a failed record waits the first time",
            ),
            option(
                "backoff_max_ms",
                "how long at most; each wait is twice the last",
            ),
            option(
                "in_flight_max",
                "most records that all members together have",
            ),
        ],
        doc: "Lets a group work in another way; what is left out stays as it is.",
        handler: configure,
    },
    Command {
        name: "group.delete",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[GROUP, REALITY],
        doc: "Forgets a group that has no members, and what it has done; its dead letters stay.",
        handler: delete,
    },
    Command {
        name: "group.list",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Lists the groups of the tenant and how far each has got.",
        handler: show_all,
    },
    Command {
        name: "group.pause",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[GROUP, REALITY],
        doc: "Gives no records of a group out until it is resumed; members keep what they have.",
        handler: pause,
    },
    Command {
        name: "group.reset",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[GROUP, TO, REALITY, DRY_RUN],
        doc: "Sets a group to another place, and says how many records that is; what members have is not theirs any more.",
        handler: reset,
    },
    Command {
        name: "group.resume",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[GROUP, REALITY],
        doc: "Gives the records of a paused group out again.",
        handler: resume,
    },
    Command {
        name: "group.show",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[GROUP, REALITY],
        doc: "Shows a group: its members and what they have, how far it is, how it works, its dead letters.",
        handler: show,
    },
];

/// The group that is meant.
fn named<'a>(call: &'a Call<'_>) -> Result<&'a str, Error> {
    let group = call.arguments.text(GROUP.name).unwrap_or_default();
    let field = "arguments.group";
    name::check_consumer(group).map_err(|fault| Error::Name { field, fault })?;
    Ok(group)
}

fn about(one: &Summary) -> Vec<(&'static str, Value)> {
    vec![
        ("reality", text(one.reality.as_str())),
        ("group", text(&one.group)),
        ("filter", text(&one.filter)),
        ("floor", number(one.floor.get())),
        ("open", number(one.open as u64)),
        ("in_flight", number(one.in_flight as u64)),
        ("members", number(one.members.len() as u64)),
        ("paused", flag(one.paused)),
    ]
}

fn show_all(call: &Call<'_>) -> Result<Value, Error> {
    let items = call.tenancy.groups().list();
    let seen = items.iter().filter(|one| call.may_read(&one.filter));
    Ok(list(seen.map(|one| fields(about(one)))))
}

fn show(call: &Call<'_>) -> Result<Value, Error> {
    let (group, reality) = (named(call)?, call.reality()?);
    let found = call.tenancy.groups().show(reality.name(), group);
    let Some(one) = found.filter(|one| call.may_read(&one.filter)) else {
        return Err(super::no_such(reality.name(), group));
    };
    let mut shown = about(&one);
    shown.retain(|(name, _)| *name != "members");
    let members = one.members.iter().map(|member| {
        fields([
            ("name", text(&member.name)),
            ("in_flight", number(member.in_flight)),
        ])
    });
    shown.push(("members", list(members)));
    let lag = rewind::behind(&reality, &one.filter, one.floor)?;
    shown.push(("lag", number(lag)));
    let letters = letter::open(&reality, group)?;
    shown.push(("dead_letters", number(letters)));
    shown.push(("lost", number(one.lost)));
    let options = &one.options;
    shown.push(("ack_deadline_ms", number(millis(options.ack_deadline))));
    shown.push(("max_deliveries", number(options.max_deliveries.into())));
    shown.push(("backoff_min_ms", number(millis(options.backoff_min))));
    shown.push(("backoff_max_ms", number(millis(options.backoff_max))));
    shown.push(("in_flight_max", number(options.in_flight_max.into())));
    Ok(fields(shown))
}

/// The group that is meant, if the caller may read all that it reads.
fn owned<'a>(call: &'a Call<'_>, reality: &RealityName) -> Result<&'a str, Error> {
    let group = named(call)?;
    match call.tenancy.groups().show(reality, group) {
        Some(one) => call.check_reads(&one.filter).map(|()| group),
        None => Ok(group),
    }
}

fn configure(call: &Call<'_>) -> Result<Value, Error> {
    let reality = call.of_reality()?;
    let group = owned(call, &reality)?;
    let given = |name| call.arguments.integer(name).unwrap_or_default();
    let small = |name| {
        let fits = u32::try_from(given(name));
        fits.map_err(|_too_large| call.wrong(name, "a number below 2^32"))
    };
    let asked = GroupOptions {
        ack_deadline_ms: given("ack_deadline_ms"),
        max_deliveries: small("max_deliveries")?,
        backoff_min_ms: given("backoff_min_ms"),
        backoff_max_ms: given("backoff_max_ms"),
        in_flight_max: small("in_flight_max")?,
    };
    call.tenancy.groups().configure(&reality, group, &asked)?;
    tracing::info!(tenant = %call.tenancy.tenant(), %reality, group, by = %call.caller.subject, "group configured");
    show(call)
}

fn pause(call: &Call<'_>) -> Result<Value, Error> {
    set_paused(call, true)
}

fn resume(call: &Call<'_>) -> Result<Value, Error> {
    set_paused(call, false)
}

fn set_paused(call: &Call<'_>, paused: bool) -> Result<Value, Error> {
    let reality = call.of_reality()?;
    let group = owned(call, &reality)?;
    call.tenancy.groups().pause(&reality, group, paused)?;
    Ok(fields([
        ("reality", text(reality.as_str())),
        ("group", text(group)),
        ("paused", flag(paused)),
    ]))
}

fn reset(call: &Call<'_>) -> Result<Value, Error> {
    let (group, reality) = (named(call)?, call.reality()?);
    let groups = call.tenancy.groups();
    let Some(known) = groups.show(reality.name(), group) else {
        return Err(super::no_such(reality.name(), group));
    };
    call.check_reads(&known.filter)?;
    let (to, dry) = (rewind::target(call, &reality)?, rewind::is_dry(call));
    let account = rewind::account(&reality, &known.filter, known.floor, to, dry)?;
    if !dry {
        groups.reset(&reality, group, to)?;
        tracing::info!(tenant = %call.tenancy.tenant(), reality = %reality.name(), group, %to, by = %call.caller.subject, "group reset");
    }
    Ok(account)
}

fn delete(call: &Call<'_>) -> Result<Value, Error> {
    let reality = call.of_reality()?;
    let group = owned(call, &reality)?;
    call.tenancy.groups().delete(&reality, group)?;
    tracing::info!(tenant = %call.tenancy.tenant(), %reality, group, by = %call.caller.subject, "group deleted");
    Ok(fields([
        ("reality", text(reality.as_str())),
        ("deleted", text(group)),
    ]))
}
