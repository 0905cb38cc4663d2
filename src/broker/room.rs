//! Rooms and channels as topics: `room.<room>.<channel>`.
//!
//! Names of rooms are free texts. What may not stand in a token of a topic is written `~` and two
//! hexadecimal digits for each byte, so that no two rooms share a topic. Knows no member.

use crate::proto::topic::{read_token as read, write_token as write};

/// The channel of a room that is named alone.
pub const CHANNEL: &str = "main";
const FIRST: &str = "room.";

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
