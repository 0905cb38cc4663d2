//! Commands that deal with named consumers.

use crate::broker::access::Role;
use crate::broker::command::{Call, Handler, REALITY, fields, flag, list, number, text};
use crate::broker::error::Error;
use crate::broker::name::{self, RealityName};
use crate::broker::rewind::{self, DRY_RUN, TO};
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::proto::v1::Value;

const CONSUMER: Argument = Argument {
    name: "consumer",
    kind: Kind::Text,
    required: true,
    doc: "the named consumer",
};

/// The commands of this part, by name.
pub(in crate::broker) const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "consumer.delete",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[CONSUMER, REALITY],
        doc: "Forgets a named consumer that no subscription has.",
        handler: delete,
    },
    Command {
        name: "consumer.list",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Lists the named consumers of the tenant and where each has got to.",
        handler: show_all,
    },
    Command {
        name: "consumer.pause",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[CONSUMER, REALITY],
        doc: "Delivers nothing to a named consumer until it is resumed.",
        handler: pause,
    },
    Command {
        name: "consumer.reset",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[CONSUMER, TO, REALITY, DRY_RUN],
        doc: "Sets a named consumer that no subscription has to another place, and says how many records that is.",
        handler: reset,
    },
    Command {
        name: "consumer.resume",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[CONSUMER, REALITY],
        doc: "Delivers to a paused consumer again.",
        handler: resume,
    },
];

fn show_all(call: &Call<'_>) -> Result<Value, Error> {
    let mut items = call.tenancy.consumers().list();
    items.retain(|one| {
        one.filter
            .as_deref()
            .is_none_or(|filter| call.may_read(filter))
    });
    Ok(list(items.into_iter().map(|one| {
        fields([
            ("reality", text(one.reality.as_str())),
            ("consumer", text(&one.consumer)),
            ("sequence", number(one.sequence.map_or(0, |at| at.get()))),
            ("active", flag(one.active)),
            ("filter", text(one.filter.as_deref().unwrap_or_default())),
            ("paused", flag(one.paused)),
        ])
    })))
}

/// The consumer that is meant, if the caller may read all that it reads.
fn owned<'a>(call: &'a Call<'_>, reality: &RealityName) -> Result<&'a str, Error> {
    let consumer = named(call)?;
    let known = call.tenancy.consumers().list();
    let known = known
        .iter()
        .find(|one| one.reality == *reality && one.consumer == consumer);
    let filter = known.and_then(|one| one.filter.as_deref());
    call.check_reads(filter.unwrap_or_default())?;
    Ok(consumer)
}

/// The consumer that is meant.
fn named<'a>(call: &'a Call<'_>) -> Result<&'a str, Error> {
    let consumer = call.arguments.text(CONSUMER.name).unwrap_or_default();
    let field = "arguments.consumer";
    name::check_consumer(consumer).map_err(|fault| Error::Name { field, fault })?;
    Ok(consumer)
}

fn reset(call: &Call<'_>) -> Result<Value, Error> {
    let (consumer, reality) = (named(call)?, call.reality()?);
    let consumers = call.tenancy.consumers();
    let known = consumers.list().into_iter();
    let mut known = known.filter(|one| one.reality == *reality.name() && one.consumer == consumer);
    let Some(known) = known.next() else {
        return Err(Error::NoSuchConsumer {
            reality: reality.name().clone(),
            consumer: consumer.to_owned(),
        });
    };
    call.check_reads(known.filter.as_deref().unwrap_or_default())?;
    let (to, dry) = (rewind::target(call, &reality)?, rewind::is_dry(call));
    let account = rewind::account(
        &reality,
        known.filter.as_deref().unwrap_or_default(),
        known.next(),
        to,
        dry,
    )?;
    if !dry {
        consumers.reset(reality.name(), consumer, to)?;
        tracing::info!(tenant = %call.tenancy.tenant(), reality = %reality.name(), consumer, %to, by = %call.caller.subject, "consumer reset");
    }
    Ok(account)
}

fn pause(call: &Call<'_>) -> Result<Value, Error> {
    set_paused(call, true)
}

fn resume(call: &Call<'_>) -> Result<Value, Error> {
    set_paused(call, false)
}

fn set_paused(call: &Call<'_>, paused: bool) -> Result<Value, Error> {
    let reality = call.of_reality()?;
    let consumer = owned(call, &reality)?;
    let consumers = call.tenancy.consumers();
    consumers.pause(&reality, consumer, paused)?;
    Ok(fields([
        ("reality", text(reality.as_str())),
        ("consumer", text(consumer)),
        ("paused", flag(paused)),
    ]))
}

fn delete(call: &Call<'_>) -> Result<Value, Error> {
    let reality = call.of_reality()?;
    let consumer = owned(call, &reality)?;
    call.tenancy.consumers().delete(&reality, consumer)?;
    tracing::info!(tenant = %call.tenancy.tenant(), %reality, consumer, by = %call.caller.subject, "consumer deleted");
    Ok(fields([
        ("reality", text(reality.as_str())),
        ("deleted", text(consumer)),
    ]))
}
