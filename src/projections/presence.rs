//! Who is in which room now, for readers of Valkey (BRK-10): a hash for each member of a channel,
//! gone when it leaves, and after a while when nothing is heard of it.
//!
//! A fold of `op.presence.>` and of the heartbeats beside it, `op.alive.>`, which the node writes
//! for as long as a channel has members. Knows no clock: that a row is still there is what the
//! last heartbeat says.

use prost::Message as _;

use super::letter;
use super::projection::{Change, DeadLetters, Poison, Projection, Source};
use super::table::{Cell, Column, Key, Kind, Row, Rule, Table};
use crate::log::Micros;
use crate::proto::v1::presence::Change as Said;
use crate::proto::v1::{Presence, PresenceHeartbeat};
use crate::proto::view::RecordView;

const TOPIC: &str = "op.presence.";
const ALIVE: &str = "op.alive.";
const DEAD_LETTERS: &str = "dlq.presence";
/// Column that names who it is.
pub const SUBJECT: &str = "subject";
/// Column that names where, and as which session.
pub const PLACE: &str = "place";

/// The projection of presence.
#[derive(Debug)]
pub struct Members {
    topics: Vec<String>,
    tables: Vec<Table>,
    dead_letters: DeadLetters,
}

impl Default for Members {
    fn default() -> Self {
        let table = Table {
            name: "presence".to_owned(),
            columns: vec![
                Column::new("tenant_id", Kind::Text),
                Column::new(SUBJECT, Kind::Text),
                Column::new(PLACE, Kind::Text),
                Column::new("room", Kind::Text),
                Column::new("channel", Kind::Text),
                Column::new("member", Kind::Text),
                Column::new("since", Kind::Timestamp),
                Column::new("sequence", Kind::Integer),
            ],
            key: vec![0, 1, 2],
            rule: Rule::Newest(vec![7]),
            outcome: None,
        };
        let dead = letter::table("presence_dead_letters");
        Self {
            topics: [TOPIC, ALIVE]
                .map(|first| format!("{first}>"))
                .into_iter()
                .chain([DEAD_LETTERS.to_owned()])
                .collect(),
            tables: vec![table, dead],
            dead_letters: DeadLetters {
                topic: DEAD_LETTERS.to_owned(),
                table: 1,
            },
        }
    }
}

impl Members {
    fn put(&self, source: &Source<'_>, said: &Presence) -> Result<Change, Poison> {
        let sequence = i64::try_from(source.sequence.get());
        let sequence =
            sequence.map_err(|_beyond| Poison::of("sequence", "sequence is beyond 63 bits"))?;
        let row = Row(vec![
            Cell::from(source.tenant),
            Cell::from(said.subject.as_str()),
            Cell::Text(place(said)),
            Cell::from(said.room.as_str()),
            Cell::from(said.channel.as_str()),
            Cell::from(said.member.as_str()),
            Cell::Timestamp(Micros(said.since)),
            Cell::Integer(sequence),
        ]);
        row.check(&self.tables[0])?;
        Ok(Change::Put { table: 0, row })
    }
}

/// Where a member is, and as which session: one subject may be there twice.
fn place(said: &Presence) -> String {
    format!("{}/{}/{}", said.room, said.channel, said.member)
}

impl Projection for Members {
    fn name(&self) -> &'static str {
        "presence"
    }

    fn reality(&self) -> &'static str {
        "main"
    }

    fn topics(&self) -> &[String] {
        &self.topics
    }

    fn tables(&self) -> &[Table] {
        &self.tables
    }

    fn dead_letters(&self) -> &DeadLetters {
        &self.dead_letters
    }

    fn read(&self, source: &Source<'_>) -> Result<Vec<Change>, Poison> {
        let topic = source.record.topic;
        if topic == self.dead_letters.topic {
            let shown = |record: &RecordView<'_>| source.payloads.to_json(source.tenant, record);
            return Ok(letter::changes(self, source, &shown));
        }
        let data = source.record.envelope.payload.data();
        let poison = |error: prost::DecodeError| Poison::of("data", format!("data: {error}"));
        if topic.starts_with(ALIVE) {
            let beat = PresenceHeartbeat::decode(data).map_err(poison)?;
            return beat
                .members
                .iter()
                .map(|said| self.put(source, said))
                .collect();
        }
        let said = Presence::decode(data).map_err(poison)?;
        let change = match said.change() {
            Said::Joined => self.put(source, &said)?,
            Said::Left | Said::Expired => Change::Remove {
                table: 0,
                key: Key(vec![
                    Cell::from(source.tenant),
                    Cell::from(said.subject.as_str()),
                    Cell::Text(place(&said)),
                ]),
            },
            // Of a newer node.
            Said::Unspecified => return Ok(Vec::new()),
        };
        Ok(vec![change])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Sequence;
    use crate::projections::projection::Payloads;
    use crate::proto::v1::{Envelope, Event, Record, envelope};

    #[derive(Debug)]
    struct Nothing;

    impl Payloads for Nothing {
        fn to_json(&self, _: &str, _: &RecordView<'_>) -> Option<serde_json::Value> {
            None
        }
    }

    fn read(topic: &str, data: Vec<u8>) -> Result<Vec<Change>, Poison> {
        let event = Event {
            r#type: "presence".into(),
            data: data.into(),
        };
        let envelope = Envelope {
            payload: Some(envelope::Payload::Event(event)),
            ..Envelope::default()
        };
        let encoded = Record {
            sequence: 7,
            topic: topic.into(),
            envelope: envelope.encode_to_vec().into(),
            ..Record::default()
        }
        .encode_to_vec();
        let record = RecordView::parse(&encoded).unwrap();
        Members::default().read(&Source {
            tenant: "acme",
            reality: "main",
            sequence: Sequence::at_least_first(7),
            appended_at: Micros(1),
            record: &record,
            payloads: &Nothing,
        })
    }

    fn said(member: &str, change: Said) -> Presence {
        Presence {
            room: "lab".into(),
            channel: "exp".into(),
            member: member.into(),
            subject: "ann".into(),
            change: change.into(),
            since: 5,
            ..Presence::default()
        }
    }

    // BRK-10
    #[test]
    fn a_member_is_there_from_its_join_and_each_heartbeat_on_until_it_goes() {
        let topic = "op.presence.lab.exp";
        let joined = read(topic, said("m", Said::Joined).encode_to_vec()).unwrap();
        let [Change::Put { table: 0, row }] = joined.as_slice() else {
            panic!("{joined:?}")
        };
        assert_eq!(row.0[1..3], [Cell::from("ann"), Cell::from("lab/exp/m")]);
        for change in [Said::Left, Said::Expired] {
            let gone = read(topic, said("m", change).encode_to_vec()).unwrap();
            let [Change::Remove { table: 0, key }] = gone.as_slice() else {
                panic!("{gone:?}")
            };
            assert_eq!(key.0[..], row.0[..3]);
        }
        let beat = PresenceHeartbeat {
            members: vec![said("m", Said::Unspecified), said("n", Said::Unspecified)],
        };
        let beat = read("op.alive.lab.exp", beat.encode_to_vec()).unwrap();
        assert_eq!(beat.len(), 2);
        assert_eq!(beat[0], joined[0], "it refreshes the same row");
        assert!(read(topic, vec![0xff]).is_err());
        let later = read(topic, said("m", Said::Unspecified).encode_to_vec());
        assert_eq!(later, Ok(Vec::new()));
    }
}
