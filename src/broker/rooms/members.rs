//! Who is where now, in memory, within bounds.
//!
//! Knows no log: whoever changes it says so in one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use super::{Limits, Refused};
use crate::log::Micros;

/// A channel of a room.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// Name of the room.
    pub room: Box<str>,
    /// Name of the channel.
    pub channel: Box<str>,
}

impl Place {
    /// The channel called so; `main` where `channel` is empty.
    #[must_use]
    pub fn new(room: &str, channel: &str) -> Self {
        let channel = if channel.is_empty() {
            crate::broker::room::CHANNEL
        } else {
            channel
        };
        Self {
            room: room.into(),
            channel: channel.into(),
        }
    }
}

/// Whoever has joined a channel and can be put out of it.
pub trait Occupant: Send + Sync + std::fmt::Debug {
    /// It is a member no more, without having asked for that.
    fn put_out(&self, place: &Place, reason: &'static str);
}

/// A member of a channel, as others see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its session's name.
    pub id: Arc<str>,
    /// Who that is.
    pub subject: Arc<str>,
    /// Since when.
    pub since: Micros,
}

#[derive(Debug)]
struct Present {
    member: Member,
    occupant: Weak<dyn Occupant>,
}

/// All members of all channels of a tenant.
#[derive(Debug, Default)]
pub(super) struct Members {
    places: HashMap<Arc<Place>, BTreeMap<Arc<str>, Present>>,
    /// How many channels of a room have members.
    rooms: HashMap<Box<str>, usize>,
    /// Subject of each member, and how many channels it has joined.
    who: HashMap<Arc<str>, (Arc<str>, usize)>,
}

impl Members {
    /// Lets a member in; `false` if it is there already.
    ///
    /// # Errors
    /// There is no room for it.
    pub(super) fn enter(
        &mut self,
        place: &Arc<Place>,
        member: Member,
        occupant: Weak<dyn Occupant>,
        limits: &Limits,
    ) -> Result<bool, Refused> {
        let found = self.places.get(place);
        if found.is_some_and(|here| here.contains_key(&member.id)) {
            return Ok(false);
        }
        let joined = self.who.get(&member.id).map_or(0, |(_, joined)| *joined);
        if joined >= limits.joined_max {
            let limit = limits.joined_max;
            return Err(Refused::JoinedFull { limit });
        }
        match found {
            Some(here) if here.len() >= limits.members_max => {
                let limit = limits.members_max;
                return Err(Refused::MembersFull { limit });
            }
            Some(_) => {}
            None => self.check_new(&place.room, limits)?,
        }
        if found.is_none() {
            *self.rooms.entry(place.room.clone()).or_default() += 1;
        }
        let who = self.who.entry(Arc::clone(&member.id));
        who.or_insert_with(|| (Arc::clone(&member.subject), 0)).1 += 1;
        let here = self.places.entry(Arc::clone(place)).or_default();
        here.insert(Arc::clone(&member.id), Present { member, occupant });
        Ok(true)
    }

    fn check_new(&self, room: &str, limits: &Limits) -> Result<(), Refused> {
        match self.rooms.get(room) {
            Some(channels) if *channels >= limits.channels_max => Err(Refused::ChannelsFull {
                limit: limits.channels_max,
            }),
            None if self.rooms.len() >= limits.rooms_max => Err(Refused::RoomsFull {
                limit: limits.rooms_max,
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// Takes a member out; `false` if it is not there.
    pub(super) fn leave(&mut self, place: &Place, id: &str) -> bool {
        let Some(here) = self.places.get_mut(place) else {
            return false;
        };
        if here.remove(id).is_none() {
            return false;
        }
        if here.is_empty() {
            self.places.remove(place);
            shrink(&mut self.places);
            if let Some(channels) = self.rooms.get_mut(&place.room) {
                *channels -= 1;
                if *channels == 0 {
                    self.rooms.remove(&place.room);
                    shrink(&mut self.rooms);
                }
            }
        }
        if let Some((_, joined)) = self.who.get_mut(id) {
            *joined -= 1;
            if *joined == 0 {
                self.who.remove(id);
                shrink(&mut self.who);
            }
        }
        true
    }

    /// Members of a channel, by name.
    pub(super) fn of(&self, place: &Place) -> impl Iterator<Item = &Member> {
        let here = self.places.get(place).into_iter();
        here.flat_map(|here| here.values().map(|present| &present.member))
    }

    pub(super) fn count(&self, place: &Place) -> usize {
        self.places.get(place).map_or(0, BTreeMap::len)
    }

    /// Channels that have members, of one room or of all, and how many.
    pub(super) fn places(&self, room: Option<&str>) -> Vec<(Arc<Place>, usize)> {
        if room.is_some_and(|room| !self.rooms.contains_key(room)) {
            return Vec::new();
        }
        let places = self.places.iter();
        let wanted = places.filter(|(place, _)| room.is_none_or(|room| *place.room == *room));
        wanted
            .map(|(place, here)| (Arc::clone(place), here.len()))
            .collect()
    }

    /// Whether a session is a member of a channel.
    pub(super) fn holds(&self, place: &Place, id: &str) -> bool {
        self.places
            .get(place)
            .is_some_and(|here| here.contains_key(id))
    }

    /// Who can be told that it is a member of a channel no more.
    pub(super) fn occupants(&self, place: &Place) -> Vec<(Arc<str>, Weak<dyn Occupant>)> {
        let here = self.places.get(place).into_iter().flatten();
        here.map(|(id, present)| (Arc::clone(id), Weak::clone(&present.occupant)))
            .collect()
    }

    /// The subject of a member.
    pub(super) fn subject_of(&self, id: &str) -> Option<Arc<str>> {
        self.who.get(id).map(|(subject, _)| Arc::clone(subject))
    }

    /// Members, and channels that have some.
    pub(super) fn totals(&self) -> (usize, usize) {
        (self.who.len(), self.places.len())
    }
}

/// Gives back what a crowd that has gone needs no more.
fn shrink<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > 64 && map.len() * 4 < map.capacity() {
        map.shrink_to(map.len() * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Nobody;

    impl Occupant for Nobody {
        fn put_out(&self, _place: &Place, _reason: &'static str) {}
    }

    fn member(id: &str) -> Member {
        Member {
            id: id.into(),
            subject: "s".into(),
            since: Micros(1),
        }
    }

    fn enter(members: &mut Members, place: (&str, &str), id: &str) -> Result<bool, Refused> {
        let limits = Limits {
            rooms_max: 2,
            channels_max: 2,
            members_max: 2,
            joined_max: 3,
            ..Limits::default()
        };
        let place = Arc::new(Place::new(place.0, place.1));
        members.enter(&place, member(id), Weak::<Nobody>::new(), &limits)
    }

    // BRK-09, BRK-18
    #[test]
    fn every_crowd_is_bounded_and_leaves_nothing_behind() {
        let mut members = Members::default();
        assert_eq!(enter(&mut members, ("a", "1"), "x"), Ok(true));
        assert_eq!(enter(&mut members, ("a", "1"), "x"), Ok(false));
        assert_eq!(enter(&mut members, ("a", "1"), "y"), Ok(true));
        let full = enter(&mut members, ("a", "1"), "z");
        assert_eq!(full, Err(Refused::MembersFull { limit: 2 }));
        assert_eq!(enter(&mut members, ("a", "2"), "x"), Ok(true));
        let full = enter(&mut members, ("a", "3"), "z");
        assert_eq!(full, Err(Refused::ChannelsFull { limit: 2 }));
        assert_eq!(enter(&mut members, ("b", "1"), "x"), Ok(true));
        let full = enter(&mut members, ("b", "2"), "x");
        assert_eq!(full, Err(Refused::JoinedFull { limit: 3 }));
        let full = enter(&mut members, ("c", "1"), "z");
        assert_eq!(full, Err(Refused::RoomsFull { limit: 2 }));
        assert_eq!(members.totals(), (2, 3));
        for (place, id) in [
            (("a", "1"), "x"),
            (("a", "1"), "y"),
            (("a", "2"), "x"),
            (("b", "1"), "x"),
        ] {
            let place = Place::new(place.0, place.1);
            assert!(members.leave(&place, id));
            assert!(!members.leave(&place, id));
        }
        assert!(members.places.is_empty() && members.rooms.is_empty() && members.who.is_empty());
    }
}
