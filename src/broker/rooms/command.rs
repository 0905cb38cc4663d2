//! What is asked about rooms and channels, by whatever way. Joining and leaving are a session's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::register::{self, Creation, Wish};
use super::{DESCRIPTION_BYTES_MAX, Member, NAME_BYTES_MAX, Place, Refused};
use crate::broker::access::{Identity, Role};
use crate::broker::command::{Call, Handler};
use crate::broker::error::Error;
use crate::broker::name::RealityName;
use crate::broker::room;
use crate::broker::tenancy::Tenancy;
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::log::TopicSummary;
use crate::proto::json::micros;
use crate::proto::v1::Value;

/// Rooms or channels that an answer shows; of more, only how many there are.
pub const SHOWN_MAX: usize = 1_000;

const fn text(name: &'static str, required: bool, doc: &'static str) -> Argument {
    Argument {
        name,
        kind: Kind::Text,
        required,
        doc,
    }
}

/// The room that a command is about.
pub const ROOM: Argument = text("room", true, "name of the room");
/// The channel that it is about.
pub const CHANNEL: Argument = text("channel", true, "name of the channel");
/// The same, where it may be left out.
pub const CHANNEL_OR_MAIN: Argument =
    text("channel", false, "name of the channel; main if left out");
const DESCRIPTION: Argument = text("description", false, "what it is for");
const NAME: Argument = text("name", false, "the same as channel, for older clients");
const EITHER_CHANNEL: Argument = text("channel", false, "name of the channel");

/// All of them, by name.
pub const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "channel.create",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[ROOM, CHANNEL, DESCRIPTION],
        doc: "Creates a channel, and its room if nobody has yet.",
        handler: create_channel,
    },
    Command {
        name: "channel.delete",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[ROOM, CHANNEL],
        doc: "Closes a channel that the caller has created, or any for an admin; its records stay.",
        handler: delete_channel,
    },
    Command {
        name: "channel.info",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[ROOM, CHANNEL],
        doc: "Shows who has created a channel, who is in it, and what is stored of it.",
        handler: channel_info,
    },
    Command {
        name: "channel.list",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[ROOM],
        doc: "Lists the channels of a room that were created, have members or hold records.",
        handler: channel_list,
    },
    Command {
        name: "create_channel",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[ROOM, EITHER_CHANNEL, NAME, DESCRIPTION],
        doc: "The same as channel.create, as older clients know it.",
        handler: create_channel,
    },
    Command {
        name: "delete_channel",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[ROOM, CHANNEL],
        doc: "The same as channel.delete, as older clients know it.",
        handler: delete_channel,
    },
    Command {
        name: "room.create",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[ROOM, DESCRIPTION],
        doc: "Creates a room, or opens one again that was deleted.",
        handler: create_room,
    },
    Command {
        name: "room.delete",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[ROOM],
        doc: "Closes a room that the caller has created, or any for an admin, and puts its members out; its records stay.",
        handler: delete_room,
    },
    Command {
        name: "room.info",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[ROOM],
        doc: "Shows who has created a room, its channels, and who is in them.",
        handler: room_info,
    },
    Command {
        name: "room.list",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Lists the rooms that were created, have members or hold records.",
        handler: room_list,
    },
    Command {
        name: "room.members",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[ROOM, CHANNEL_OR_MAIN],
        doc: "Lists who is in a channel now.",
        handler: room_members,
    },
];

/// A member as it is shown.
#[must_use]
pub fn shown(member: &Member) -> Json {
    json!({
        "member": &*member.id,
        "subject": &*member.subject,
        "since": micros(member.since.0),
    })
}

/// A name that may be created, joined and spoken in.
fn named<'a>(call: &'a Call<'_>, argument: &'static str) -> Result<&'a str, Error> {
    let name = call.arguments.text(argument).unwrap_or_default();
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains('\0') {
        return Ok(name);
    }
    let shown: String = name.chars().take(16).collect();
    Err(Refused::Name.of_room(&format!("{shown:?} ({argument})")))
}

fn wish<'a>(call: &'a Call<'_>, channel: &'a str) -> Result<Wish<'a>, Error> {
    let description = call.arguments.text("description").unwrap_or_default();
    let room = named(call, "room")?;
    if description.len() > DESCRIPTION_BYTES_MAX {
        return Err(Refused::Description.of_room(room));
    }
    Ok(Wish {
        room,
        channel,
        description,
        by: &call.caller.subject,
        is_admin: call.caller.role == Role::Admin,
    })
}

/// Nobody creates or closes what it may not see.
fn check_sight(call: &Call<'_>, room: &str, channel: &str) -> Result<(), Error> {
    if call.caller.may_see(&room::topic(room, channel)) {
        return Ok(());
    }
    Err(Refused::Unknown.at(&Place::new(room, channel)))
}

fn create_room(call: &Call<'_>) -> Result<Value, Error> {
    let wish = wish(call, "")?;
    check_sight(call, wish.room, "")?;
    let created = register::create(call.tenancy, wish)?;
    Ok(created_as(wish.room, None, &created).into())
}

fn create_channel(call: &Call<'_>) -> Result<Value, Error> {
    let argument = match call.arguments.text("channel") {
        None => "name",
        Some(_) => "channel",
    };
    let wish = wish(call, named(call, argument)?)?;
    check_sight(call, wish.room, wish.channel)?;
    let created = register::create(call.tenancy, wish)?;
    Ok(created_as(wish.room, Some(wish.channel), &created).into())
}

fn created_as(room: &str, channel: Option<&str>, created: &Creation) -> Json {
    let mut shown = json!({
        "room": room,
        "room_id": room,
        "room_name": room,
        "description": created.description,
        "created_by": created.by,
        "created_at": micros(created.at),
    });
    if let Some(channel) = channel {
        for field in ["channel", "channel_id", "channel_name"] {
            shown[field] = channel.into();
        }
    }
    shown
}

fn delete_room(call: &Call<'_>) -> Result<Value, Error> {
    let wish = wish(call, "")?;
    check_sight(call, wish.room, "")?;
    register::delete(call.tenancy, wish)?;
    let rooms = call.tenancy.rooms();
    let occupied = rooms.occupied(Some(wish.room));
    Ok(put_out(call, wish, &occupied))
}

fn delete_channel(call: &Call<'_>) -> Result<Value, Error> {
    let wish = wish(call, named(call, "channel")?)?;
    check_sight(call, wish.room, wish.channel)?;
    register::delete(call.tenancy, wish)?;
    let rooms = call.tenancy.rooms();
    let mut occupied = rooms.occupied(Some(wish.room));
    occupied.retain(|(place, _)| *place.channel == *wish.channel);
    Ok(put_out(call, wish, &occupied))
}

fn put_out(call: &Call<'_>, wish: Wish<'_>, occupied: &[(Arc<Place>, usize)]) -> Value {
    let places: Vec<_> = occupied
        .iter()
        .map(|(place, _)| Arc::clone(place))
        .collect();
    let members: usize = occupied.iter().map(|(_, members)| members).sum();
    call.tenancy.rooms().clear(&places, "deleted");
    let mut shown = json!({
        "room": wish.room,
        "room_id": wish.room,
        "deleted_by": wish.by,
        "deleted_at": micros(call.tenancy.now().0),
        "members_put_out": members,
    });
    if !wish.channel.is_empty() {
        shown["channel"] = wish.channel.into();
        shown["channel_id"] = wish.channel.into();
    }
    shown.into()
}

/// What there is to say of a channel.
#[derive(Debug, Default)]
struct Known {
    created: Option<Creation>,
    members: usize,
    stored: Option<TopicSummary>,
}

impl Known {
    fn shown(&self, channel: &str) -> Json {
        let mut shown = json!({
            "channel": channel,
            "name": channel,
            "created": self.created.is_some(),
            "members": self.members,
            "records": self.stored.as_ref().map_or(0, |topic| topic.records),
            "bytes": self.stored.as_ref().map_or(0, |topic| topic.bytes),
        });
        if let Some(created) = &self.created {
            shown["description"] = created.description.as_str().into();
            shown["created_by"] = created.by.as_str().into();
            shown["created_at"] = micros(created.at).into();
        }
        if let Some(topic) = &self.stored {
            shown["first_sequence"] = topic.first.get().into();
            shown["last_sequence"] = topic.last.get().into();
        }
        shown
    }
}

/// By room and channel, what the caller may see. A room that was created has its `main`.
type All = BTreeMap<String, BTreeMap<String, Known>>;

fn all(tenancy: &Tenancy, caller: &Identity, only: Option<&str>) -> Result<All, Error> {
    let rooms = tenancy.rooms();
    let mut all = All::new();
    let sees = |room: &str, channel: &str| {
        only.is_none_or(|only| only == room) && caller.may_see(&room::topic(room, channel))
    };
    {
        let register = rooms.register(tenancy)?;
        let names = register.names();
        for (room, created) in names.rooms() {
            if sees(room, "") {
                let main = all.entry(room.clone()).or_default();
                main.entry(room::CHANNEL.to_owned()).or_default();
            }
            for (channel, creation) in &created.channels {
                if sees(room, channel) {
                    let of_room = all.entry(room.clone()).or_default();
                    of_room.entry(channel.clone()).or_default().created = Some(creation.clone());
                }
            }
        }
    }
    for (place, members) in rooms.occupied(only) {
        if sees(&place.room, &place.channel) {
            let of_room = all.entry(place.room.to_string()).or_default();
            let channel = of_room.entry(place.channel.to_string()).or_default();
            channel.members = members;
        }
    }
    for topic in tenancy.reality(&RealityName::main())?.log().topics()? {
        let Some((room, channel)) = room::of_topic(&topic.topic) else {
            continue;
        };
        if sees(&room, &channel) {
            let of_room = all.entry(room).or_default();
            of_room.entry(channel).or_default().stored = Some(topic);
        }
    }
    Ok(all)
}

fn room_list(call: &Call<'_>) -> Result<Value, Error> {
    let all = all(call.tenancy, call.caller, None)?;
    let register = call.tenancy.rooms().register(call.tenancy)?;
    let names = register.names();
    let closed: BTreeSet<&str> = names.closed_rooms().collect();
    let total = all.len();
    let shown: Vec<Json> = all
        .iter()
        .take(SHOWN_MAX)
        .map(|(room, channels)| {
            let created = names.rooms().get(room).map(|room| &room.creation);
            of_room(room, channels, created, closed.contains(room.as_str()))
        })
        .collect();
    Ok(json!({"total_rooms": total, "rooms": shown}).into())
}

fn of_room(
    room: &str,
    channels: &BTreeMap<String, Known>,
    created: Option<&Creation>,
    is_closed: bool,
) -> Json {
    let members: usize = channels.values().map(|channel| channel.members).sum();
    let stored = channels
        .values()
        .filter_map(|channel| channel.stored.as_ref());
    let records: u64 = stored.map(|topic| topic.records).sum();
    let mut shown = json!({
        "room": room,
        "created": created.is_some(),
        "closed": is_closed,
        "channels": channels.len(),
        "members": members,
        "records": records,
    });
    if let Some(created) = created {
        shown["description"] = created.description.as_str().into();
        shown["created_by"] = created.by.as_str().into();
        shown["created_at"] = micros(created.at).into();
    }
    shown
}

fn room_info(call: &Call<'_>) -> Result<Value, Error> {
    let room = named(call, "room")?;
    let all = all(call.tenancy, call.caller, Some(room))?;
    let register = call.tenancy.rooms().register(call.tenancy)?;
    let names = register.names();
    let is_closed = names.closed_rooms().any(|closed| closed == room);
    let Some(channels) = all.get(room) else {
        return Err(Refused::Unknown.of_room(room));
    };
    let created = names.rooms().get(room).map(|room| &room.creation);
    let mut shown = of_room(room, channels, created, is_closed);
    shown["total_channels"] = channels.len().into();
    shown["channels"] = channels_of(channels).into();
    Ok(shown.into())
}

fn channels_of(channels: &BTreeMap<String, Known>) -> Vec<Json> {
    let shown = channels.iter().take(SHOWN_MAX);
    shown.map(|(name, known)| known.shown(name)).collect()
}

fn channel_list(call: &Call<'_>) -> Result<Value, Error> {
    let room = named(call, "room")?;
    let mut all = all(call.tenancy, call.caller, Some(room))?;
    let channels = all.remove(room).unwrap_or_default();
    Ok(json!({
        "room": room,
        "room_id": room,
        "room_name": room,
        "total_channels": channels.len(),
        "channels": channels_of(&channels),
        "queried_by": call.caller.subject,
        "queried_at": micros(call.tenancy.now().0),
    })
    .into())
}

fn channel_info(call: &Call<'_>) -> Result<Value, Error> {
    let (room, channel) = (named(call, "room")?, named(call, "channel")?);
    let place = Place::new(room, channel);
    let all = all(call.tenancy, call.caller, Some(room))?;
    let known = all.get(room).and_then(|channels| channels.get(channel));
    let mut shown = known
        .ok_or_else(|| Refused::Unknown.at(&place))?
        .shown(channel);
    shown["room"] = room.into();
    let (members, count) = call.tenancy.rooms().members(&place);
    shown["members"] = members.iter().map(self::shown).collect();
    shown["total_members"] = count.into();
    Ok(shown.into())
}

fn room_members(call: &Call<'_>) -> Result<Value, Error> {
    let room = named(call, "room")?;
    let channel = call.arguments.text("channel").unwrap_or_default();
    let place = Place::new(room, channel);
    check_sight(call, room, channel)?;
    let (members, count) = call.tenancy.rooms().members(&place);
    let members: Vec<Json> = members.iter().map(shown).collect();
    Ok(json!({
        "room": room,
        "channel": &*place.channel,
        "total_members": count,
        "members": members,
    })
    .into())
}
