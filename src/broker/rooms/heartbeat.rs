//! Heartbeats of channels that have members, on `op.alive.<room>.<channel>`: for whoever keeps
//! presence where it is forgotten after a while, and has no clock to know who is still there.

use std::time::Duration;

use prost::Message as _;

use super::Rooms;
use crate::broker::error::Error;
use crate::broker::reality::Reality;
use crate::broker::{OwnRecord, room, system};
use crate::proto::v1::{Presence, PresenceHeartbeat};

/// Members that one record names.
const MEMBERS: usize = 500;
/// A heartbeat is of no use after so many of its intervals.
pub const KEPT: u32 = 3;

/// Says who is where, and how many that are; each record is as true as its place in the log. Blocks.
pub(super) fn beat(rooms: &Rooms, main: &Reality, every: Duration) -> Result<usize, Error> {
    let mut said = 0;
    let mut last = None;
    for (place, _) in rooms.occupied(None) {
        // Under the lock, so that nobody leaves between what is said and its place in the log.
        let members = rooms.lock();
        let named: Vec<Presence> = members
            .of(&place)
            .map(|member| Presence {
                room: place.room.to_string(),
                channel: place.channel.to_string(),
                member: member.id.to_string(),
                subject: member.subject.to_string(),
                since: member.since.0,
                ..Presence::default()
            })
            .collect();
        said += named.len();
        let expires = main.now().as_millis() + millis(every * KEPT);
        let records: Vec<_> = named
            .chunks(MEMBERS)
            .map(|members| {
                let beat = PresenceHeartbeat {
                    members: members.to_vec(),
                };
                let record = OwnRecord {
                    topic: room::alive(&place.room, &place.channel),
                    kind: "presence.heartbeat".into(),
                    schema: "arqon.v1.PresenceHeartbeat".into(),
                    data: beat.encode_to_vec().into(),
                    expires_at: i64::try_from(expires).unwrap_or(i64::MAX),
                    ..OwnRecord::default()
                };
                record.encode(main)
            })
            .collect();
        if !records.is_empty() {
            last = Some(system::append_all(main, records)?);
        }
    }
    // The log keeps their order: when the last is on disk, so are the others.
    if let Some(last) = last {
        system::awaited(main, &last)?;
    }
    Ok(said)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
