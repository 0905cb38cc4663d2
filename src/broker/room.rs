//! Rooms and channels as topics: `room.<room>.<channel>`, who is there as `op.presence.…`, and private messages as `direct.<addressee>.<sender>`.
//!
//! Names of rooms are free texts. What may not stand in a token of a topic is written `~` and two
//! hexadecimal digits for each byte, so that no two rooms share a topic. Knows no member.

use crate::proto::topic::{DIRECT_TOKEN, read_token as read, write_token as write};

/// The channel of a room that is named alone.
pub const CHANNEL: &str = "main";
const FIRST: &str = "room.";
const ALIVE: &str = "op.alive.";
/// What topics of presence begin with.
pub const PRESENCE: &str = "op.presence.";

/// The topic of a channel; the one named `main` where `channel` is empty.
#[must_use]
pub fn topic(room: &str, channel: &str) -> String {
    let mut topic = FIRST.to_owned();
    write(room, &mut topic);
    topic.push('.');
    write(
        if channel.is_empty() { CHANNEL } else { channel },
        &mut topic,
    );
    topic
}

/// The topic of private messages from one subject to another.
#[must_use]
pub fn direct(addressee: &str, sender: &str) -> String {
    let mut topic = format!("{DIRECT_TOKEN}.");
    write(addressee, &mut topic);
    topic.push('.');
    write(sender, &mut topic);
    topic
}

/// The filter of all private messages to a subject.
#[must_use]
pub fn inbox(addressee: &str) -> String {
    let mut filter = format!("{DIRECT_TOKEN}.");
    write(addressee, &mut filter);
    filter.push_str(".*");
    filter
}

/// The topic of who comes to a channel and goes.
#[must_use]
pub fn presence(room: &str, channel: &str) -> String {
    let mut presence = PRESENCE.to_owned();
    presence.push_str(topic(room, channel).strip_prefix(FIRST).unwrap_or_default());
    presence
}

/// The topic of heartbeats of a channel.
#[must_use]
pub fn alive(room: &str, channel: &str) -> String {
    let mut alive = ALIVE.to_owned();
    alive.push_str(topic(room, channel).strip_prefix(FIRST).unwrap_or_default());
    alive
}

/// A name as a token of a topic.
#[must_use]
pub fn token(name: &str) -> String {
    let mut token = String::with_capacity(name.len());
    write(name, &mut token);
    token
}

/// What the topics of all channels of a room begin with.
#[must_use]
pub fn prefix(room: &str) -> String {
    let mut prefix = FIRST.to_owned();
    write(room, &mut prefix);
    prefix.push('.');
    prefix
}

/// The room and the channel that a topic stands for.
#[must_use]
pub fn of_topic(topic: &str) -> Option<(String, String)> {
    let (room, channel) = topic.strip_prefix(FIRST)?.split_once('.')?;
    Some((read(room)?, read(channel)?))
}

/// The room and the channel that a topic says the presence of.
#[must_use]
pub fn of_presence(topic: &str) -> Option<(String, String)> {
    let (room, channel) = topic.strip_prefix(PRESENCE)?.split_once('.')?;
    Some((read(room)?, read(channel)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::broker::name::check_topic;

    #[test]
    fn plain_names_stand_as_they_are() {
        assert_eq!(topic("science", "exp-1"), "room.science.exp-1");
        assert_eq!(topic("science", ""), "room.science.main");
        assert_eq!(topic("a.b", "c d~"), "room.a~2Eb.c~20d~7E");
        assert_eq!(prefix("a.b"), "room.a~2Eb.");
        assert_eq!(presence("a.b", ""), "op.presence.a~2Eb.main");
        assert_eq!(
            of_presence("op.presence.a~2Eb.main"),
            Some(("a.b".to_owned(), "main".to_owned()))
        );
        assert_eq!(direct("ann@x", "b.o"), "direct.ann@x.b~2Eo");
        assert_eq!(inbox("*"), "direct.~2A.*");
        assert_eq!(of_topic("room.a.b.c"), None);
        assert_eq!(of_topic("room.a"), None);
        assert_eq!(of_topic("room.a.~2"), None);
        assert_eq!(of_topic("room.a.~FF"), None);
    }

    proptest! {
        #[test]
        fn every_name_comes_back(room in ".{1,10}", channel in ".{1,10}") {
            let topic = topic(&room, &channel);
            prop_assert!(check_topic(&topic).is_ok(), "{topic}");
            prop_assert!(topic.starts_with(&prefix(&room)));
            prop_assert_eq!(of_topic(&topic), Some((room, channel)));
        }
    }
}
