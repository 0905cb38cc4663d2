//! Which rooms and channels were created, by whom, and which are closed: a fold of `sys.room.>`.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use serde::{Deserialize, Serialize};

use super::Refused;
use crate::broker::error::Error;
use crate::broker::journal::{Event, NewEvent};
use crate::broker::ledger::{State, Unfit};
use crate::broker::room::{self, CHANNEL};
use crate::broker::tenancy::Tenancy;

const TOPIC: &str = "sys.room.";
const ROOM_CREATED: &str = "room.created";
const ROOM_DELETED: &str = "room.deleted";
const CHANNEL_CREATED: &str = "channel.created";
const CHANNEL_DELETED: &str = "channel.deleted";
/// So many names stay closed after they were deleted; the oldest of more are free again.
pub const CLOSED_MAX: usize = 10_000;

/// Who has created something, when, and what for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Creation {
    /// What for.
    pub description: String,
    /// Subject of whoever it was.
    pub by: String,
    /// Microseconds since the Unix epoch.
    pub at: u64,
}

/// A room that was created.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Room {
    /// By whom.
    pub creation: Creation,
    /// Its channels that were created.
    pub channels: BTreeMap<String, Creation>,
}

/// What an event says.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    room: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    channel: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    description: String,
    by: String,
}

/// Rooms that were created, and names that are closed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Names {
    rooms: BTreeMap<String, Room>,
    /// Since which event; a room by its name alone, a channel by its room's and its own.
    closed: BTreeMap<String, u64>,
}

impl Names {
    /// Rooms that were created, by name.
    #[must_use]
    pub const fn rooms(&self) -> &BTreeMap<String, Room> {
        &self.rooms
    }

    /// Names of rooms that are closed.
    pub fn closed_rooms(&self) -> impl Iterator<Item = &str> {
        let rooms = self.closed.keys().filter(|key| !key.contains('\0'));
        rooms.map(String::as_str)
    }

    fn is_closed(&self, key: &str) -> bool {
        self.closed.contains_key(key)
    }

    /// Whether a channel may be joined and spoken in.
    fn check(&self, room: &str, channel: &str, free: bool) -> Result<(), Refused> {
        if !self.closed.is_empty()
            && (self.is_closed(room) || self.is_closed(&channel_key(room, channel)))
        {
            return Err(Refused::Closed);
        }
        let created = || {
            let room = self.rooms.get(room)?;
            (channel == CHANNEL || room.channels.contains_key(channel)).then_some(())
        };
        if free || created().is_some() {
            Ok(())
        } else {
            Err(Refused::NotCreated)
        }
    }

    fn close(&mut self, key: String, sequence: u64) {
        self.closed.insert(key, sequence);
        if self.closed.len() > CLOSED_MAX {
            let oldest = self.closed.iter().min_by_key(|(_, since)| **since);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.closed.remove(&oldest);
            }
        }
    }

    fn apply(&mut self, event: &Event<'_>) -> Result<(), Unfit> {
        let Said {
            room,
            channel,
            description,
            by,
        } = serde_json::from_slice(event.data).map_err(Unfit::new)?;
        let creation = Creation {
            description,
            by,
            at: event.at.0,
        };
        let sequence = event.sequence.get();
        match event.kind {
            ROOM_CREATED => {
                self.closed.remove(&room);
                let channels = BTreeMap::new();
                self.rooms.insert(room, Room { creation, channels });
            }
            CHANNEL_CREATED => {
                self.closed.remove(&channel_key(&room, &channel));
                self.closed.remove(&room);
                let room = self.rooms.entry(room).or_insert_with(|| Room {
                    creation: Creation {
                        description: String::new(),
                        ..creation.clone()
                    },
                    channels: BTreeMap::new(),
                });
                room.channels.insert(channel, creation);
            }
            ROOM_DELETED => {
                self.rooms.remove(&room);
                let below = format!("{room}\0");
                self.closed.retain(|key, _| !key.starts_with(&below));
                self.close(room, sequence);
            }
            CHANNEL_DELETED => {
                if let Some(room) = self.rooms.get_mut(&room) {
                    room.channels.remove(&channel);
                }
                self.close(channel_key(&room, &channel), sequence);
            }
            other => return Err(Unfit::new(format!("{other} is no event of rooms"))),
        }
        Ok(())
    }
}

/// No name of a room or channel holds a NUL: it is checked where one is created.
fn channel_key(room: &str, channel: &str) -> String {
    format!("{room}\0{channel}")
}

/// The same for whoever looks at it while it grows.
#[derive(Clone, Debug, Default)]
pub struct Register(Arc<RwLock<Names>>);

impl Register {
    /// Looks at it as it is now.
    pub fn names(&self) -> RwLockReadGuard<'_, Names> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State for Register {
    const NAME: &'static str = "rooms";
    const VERSION: u32 = 1;
    const TOPICS: &'static [&'static str] = &["sys.room.>"];

    fn apply(&mut self, event: &Event<'_>) -> Result<(), Unfit> {
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        names.apply(event)
    }

    fn save(&self) -> Vec<u8> {
        // A map of texts is always JSON.
        serde_json::to_vec(&*self.names()).unwrap_or_default()
    }

    fn load(bytes: &[u8]) -> Option<Self> {
        let names = serde_json::from_slice(bytes).ok()?;
        Some(Self(Arc::new(RwLock::new(names))))
    }
}

/// Whether a channel may be joined and spoken in.
pub(super) fn check(
    tenancy: &Tenancy,
    room: &str,
    channel: &str,
    free: bool,
) -> Result<Result<(), Refused>, Error> {
    let register = tenancy.rooms().register(tenancy)?;
    Ok(register.names().check(room, channel, free))
}

/// What is to be created or deleted, and by whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    pub(super) room: &'a str,
    /// Empty: the room itself.
    pub(super) channel: &'a str,
    pub(super) description: &'a str,
    pub(super) by: &'a str,
    /// May delete what others have created.
    pub(super) is_admin: bool,
}

impl Wish<'_> {
    fn event(&self, kind: &'static str) -> Result<NewEvent<'static>, Error> {
        let said = Said {
            room: self.room.to_owned(),
            channel: self.channel.to_owned(),
            description: self.description.to_owned(),
            by: self.by.to_owned(),
        };
        let data = serde_json::to_vec(&said).or(Err(Error::Internal))?;
        Ok(NewEvent {
            topic: format!("{TOPIC}{}", room::token(self.room)),
            kind,
            schema: "",
            data: data.into(),
        })
    }

    fn refuse<T>(&self, refused: Refused) -> Result<T, Error> {
        Err(if self.channel.is_empty() {
            refused.of_room(self.room)
        } else {
            refused.at(&super::Place::new(self.room, self.channel))
        })
    }
}

/// Creates a room or channel; the room with its first channel. Blocks.
pub(super) fn create(tenancy: &Tenancy, wish: Wish<'_>) -> Result<Creation, Error> {
    let limits = *tenancy.rooms().limits();
    let event = |state: &Register| {
        let names = state.names();
        let found = names.rooms.get(wish.room);
        if found.is_none() && names.rooms.len() >= limits.rooms_max {
            let limit = limits.rooms_max;
            return wish.refuse(Refused::RoomsFull { limit });
        }
        let exists = found.is_some_and(|room| {
            wish.channel.is_empty() || room.channels.contains_key(wish.channel)
        });
        if exists {
            return wish.refuse(Refused::Exists);
        }
        if found.is_some_and(|room| room.channels.len() >= limits.channels_max) {
            let limit = limits.channels_max;
            return wish.refuse(Refused::ChannelsFull { limit });
        }
        let kind = if wish.channel.is_empty() {
            ROOM_CREATED
        } else {
            CHANNEL_CREATED
        };
        Ok(((), vec![wish.event(kind)?]))
    };
    tenancy.ledger::<Register>().change(event)?;
    let register = tenancy.rooms().register(tenancy)?;
    let names = register.names();
    let room = names.rooms.get(wish.room);
    let created = room.and_then(|room| match wish.channel {
        "" => Some(&room.creation),
        channel => room.channels.get(channel),
    });
    // Somebody else may have deleted it again already.
    created
        .cloned()
        .map_or_else(|| wish.refuse(Refused::Closed), Ok)
}

/// Deletes a room with its channels, or a channel, whether it was created or is only used: its name
/// is closed. Blocks.
pub(super) fn delete(tenancy: &Tenancy, wish: Wish<'_>) -> Result<(), Error> {
    let event = |state: &Register| {
        let names = state.names();
        let room = names.rooms.get(wish.room);
        let created = room.and_then(|room| match wish.channel {
            "" => Some(&room.creation),
            channel => room.channels.get(channel).or(Some(&room.creation)),
        });
        let key = match wish.channel {
            "" => wish.room.to_owned(),
            channel => channel_key(wish.room, channel),
        };
        match created {
            _ if names.is_closed(wish.room) || names.is_closed(&key) => {
                return wish.refuse(Refused::Closed);
            }
            Some(created) if created.by != wish.by && !wish.is_admin => {
                let owner = created.by.clone();
                return wish.refuse(Refused::NotOwner { owner });
            }
            // What nobody has created belongs to nobody but an admin.
            None if !wish.is_admin => return wish.refuse(Refused::NothingToDelete),
            Some(_) | None => {}
        }
        let kind = if wish.channel.is_empty() {
            ROOM_DELETED
        } else {
            CHANNEL_DELETED
        };
        Ok(((), vec![wish.event(kind)?]))
    };
    tenancy.ledger::<Register>().change(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Micros, Sequence};

    fn apply(names: &mut Names, sequence: u64, kind: &str, room: &str, channel: &str) {
        let said = serde_json::json!({"room": room, "channel": channel, "by": "ann"});
        let data = said.to_string();
        let event = Event {
            sequence: Sequence::new(sequence).unwrap(),
            at: Micros(sequence),
            topic: "sys.room.x",
            kind,
            data: data.as_bytes(),
        };
        names.apply(&event).unwrap();
    }

    // BRK-09
    #[test]
    fn what_is_deleted_is_closed_until_it_is_created_again() {
        let mut names = Names::default();
        let free = |names: &Names, room: &str, channel: &str| names.check(room, channel, true);
        assert_eq!(free(&names, "a", "main"), Ok(()));
        assert_eq!(names.check("a", "main", false), Err(Refused::NotCreated));
        apply(&mut names, 1, CHANNEL_CREATED, "a", "x");
        assert_eq!(names.check("a", "main", false), Ok(()));
        assert_eq!(names.check("a", "x", false), Ok(()));
        assert_eq!(names.check("a", "y", false), Err(Refused::NotCreated));
        apply(&mut names, 2, CHANNEL_DELETED, "a", "x");
        assert_eq!(free(&names, "a", "x"), Err(Refused::Closed));
        assert_eq!(free(&names, "a", "y"), Ok(()));
        apply(&mut names, 3, ROOM_DELETED, "a", "");
        assert_eq!(free(&names, "a", "y"), Err(Refused::Closed));
        assert_eq!(names.closed.len(), 1, "the room's name covers its channels");
        apply(&mut names, 4, ROOM_CREATED, "a", "");
        assert_eq!(free(&names, "a", "x"), Ok(()));
        assert_eq!(names.rooms["a"].creation.at, 4);
        let mut register = Register::default();
        *register.0.write().unwrap() = names.clone();
        let loaded = Register::load(&register.save()).unwrap();
        assert_eq!(*loaded.names(), names);
        let unknown = Event {
            sequence: Sequence::FIRST,
            at: Micros(1),
            topic: "sys.room.x",
            kind: "room.painted",
            data: br#"{"room":"a","by":"b"}"#,
        };
        assert!(register.apply(&unknown).is_err());
    }

    // BRK-18
    #[test]
    fn only_so_many_names_stay_closed() {
        let mut names = Names::default();
        for number in 1..=CLOSED_MAX as u64 + 2 {
            names.close(format!("r{number}"), number);
        }
        assert_eq!(names.closed.len(), CLOSED_MAX);
        assert!(!names.is_closed("r1") && !names.is_closed("r2") && names.is_closed("r3"));
    }
}
