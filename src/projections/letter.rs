//! Dead letters: what is written of a record that cannot be projected, what is written when
//! somebody deals with it, and the table that both of them come to (PRJ-04, PRJ-05).
//!
//! The same for every projection. The node alone writes on topics of dead letters, so that a letter
//! found there can be relied on; a record is a letter or the end of one, or it is nothing, and never
//! poison itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::json::canonical;
use super::logs::NewEvent;
use super::projection::{Change, Poison, Projection, Source};
use super::sink::SinkKind;
use super::table::{Cell, Column, Key, Kind, Row, Rule, Table};
use crate::log::Sequence;
use crate::proto::continuum::{DeadLetter, DeadLetterSettled};
use crate::proto::json::message_of;
use crate::proto::view::{EnvelopeView, RecordView};

/// Name of the event by which a record became a dead letter.
pub const KIND: &str = "projection.dead_letter";
/// Its message.
pub const SCHEMA: &str = "arqon.continuum.v1.DeadLetter";
/// Name of the event by which a dead letter was dealt with.
pub const SETTLED_KIND: &str = "projection.dead_letter_settled";
/// Its message.
pub const SETTLED_SCHEMA: &str = "arqon.continuum.v1.DeadLetterSettled";
/// Header of a record that is a dead letter's event again: see [`Replay`].
pub const REPLAY_OF: &str = "arqon-replay-of";

/// What the reason in a table begins with, as it did in the older system.
const REASON_PREFIX: &str = "projection_failed:";
/// Most bytes of a reason, and of a field's name.
const REASON_BYTES_MAX: usize = 1_024;
const FIELD_BYTES_MAX: usize = 256;

/// What became of a dead letter that somebody dealt with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Settlement {
    /// Its event was projected after all.
    Projected,
    /// Its event had been taken in before.
    Duplicate,
    /// A newer event decides the row.
    Stale,
    /// Its event cannot be projected, still. The letter stays.
    StillFailing,
    /// Somebody threw it away.
    Discarded,
}

impl Settlement {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Projected,
        Self::Duplicate,
        Self::Stale,
        Self::StillFailing,
        Self::Discarded,
    ];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Projected => "projected",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale_rejected",
            Self::StillFailing => "still_failing",
            Self::Discarded => "discarded",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == name)
    }

    const fn ends_the_letter(self) -> bool {
        match self {
            Self::Projected | Self::Duplicate | Self::Stale | Self::Discarded => true,
            Self::StillFailing => false,
        }
    }
}

/// The table of dead letters called `name`, the same for every projection.
#[must_use]
pub fn table(name: &str) -> Table {
    use Kind::{Integer, Json, Text, Timestamp};
    let columns = vec![
        Column::new("tenant_id", Text),
        Column::new("dlq_id", Text),
        Column::new("reason", Text),
        Column::new("event", Json),
        Column::new("queued_at", Timestamp),
        Column::nullable("topic", Text),
        Column::nullable("sequence", Integer),
        Column::new("attempts", Integer),
        Column::nullable("letter_sequence", Integer),
    ];
    Table {
        name: name.to_owned(),
        columns,
        key: vec![0, 1],
        rule: Rule::Newest(vec![8]),
        outcome: None,
    }
}

/// The id of the dead letter of the record at `sequence`: the same however often it is written,
/// and for every sink.
#[must_use]
pub fn letter_id(projection: &str, tenant: &str, reality: &str, sequence: Sequence) -> String {
    let mut hash = Sha256::new();
    for name in [projection, tenant, reality] {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
    }
    hash.update(sequence.get().to_le_bytes());
    let hash: [u8; 32] = hash.finalize().into();
    let id = hash.first_chunk().copied().map(Uuid::from_bytes);
    id.unwrap_or_default().hyphenated().to_string()
}

/// What a record says of itself that was appended again from a dead letter: whose event it is, and
/// where that letter stands.
///
/// Anybody can write such a header. It counts only where that letter is there, has that id, and
/// holds the same payload ([`Replay::is_of`]): whoever forges it says that an event is what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replay {
    /// Id of the letter.
    pub dlq_id: String,
    /// Where the letter stands that the event was taken from.
    pub letter: Sequence,
}

impl Replay {
    /// What the header of a record says, if it has a good one.
    #[must_use]
    pub fn of(record: &RecordView<'_>) -> Option<Self> {
        let (dlq_id, letter) = record.envelope.headers.get(REPLAY_OF)?.split_once('/')?;
        let dlq_id = Uuid::try_parse(dlq_id).ok()?.hyphenated().to_string();
        let letter = Sequence::new(letter.parse().ok()?)?;
        Some(Self { dlq_id, letter })
    }

    /// The header's value.
    #[must_use]
    pub fn header(&self) -> String {
        format!("{}/{}", self.dlq_id, self.letter.get())
    }

    /// Whether `record` is the event of `letter` again.
    #[must_use]
    pub fn is_of(&self, record: &RecordView<'_>, letter: &DeadLetter) -> bool {
        EnvelopeView::parse(&letter.envelope).is_ok_and(|envelope| {
            self.dlq_id == letter.dlq_id && envelope.payload == record.envelope.payload
        })
    }
}

/// The dead letter in a record, if it is one. Whether it stands on a topic where only the node
/// writes is for the caller to know.
#[must_use]
pub fn read(record: &RecordView<'_>) -> Option<DeadLetter> {
    (message_of(record) == SCHEMA)
        .then(|| DeadLetter::decode(record.envelope.payload.data()).ok())
        .flatten()
}

/// The dead letter of the record in `source`, which is `poison`. `before` is the letter that the
/// record says to come from, if there is one at that place; where it is really that letter's event,
/// the letter is the same one, and has been tried once more.
#[must_use]
pub fn write(
    projection: &dyn Projection,
    source: &Source<'_>,
    poison: &Poison,
    before: Option<DeadLetter>,
) -> NewEvent {
    let replay = Replay::of(source.record);
    let before = before.filter(|letter| {
        replay
            .as_ref()
            .is_some_and(|replay| replay.is_of(source.record, letter))
    });
    let letter = match before {
        Some(letter) => DeadLetter {
            event_id: shortened(&poison.event_id, FIELD_BYTES_MAX),
            field: shortened(&poison.field, FIELD_BYTES_MAX),
            reason: shortened(&poison.reason, REASON_BYTES_MAX),
            attempt: letter.attempt.saturating_add(1),
            tried_as: source.sequence.get(),
            refused_by: refused_by(poison),
            ..letter
        },
        None => {
            let name = projection.name();
            DeadLetter {
                dlq_id: letter_id(name, source.tenant, source.reality, source.sequence),
                topic: source.record.topic.to_owned(),
                sequence: source.sequence.get(),
                event_id: shortened(&poison.event_id, FIELD_BYTES_MAX),
                field: shortened(&poison.field, FIELD_BYTES_MAX),
                reason: shortened(&poison.reason, REASON_BYTES_MAX),
                envelope: source.record.envelope.encoded.to_vec().into(),
                attempt: 1,
                tried_as: source.sequence.get(),
                refused_by: refused_by(poison),
            }
        }
    };
    NewEvent {
        topic: projection.dead_letters().topic.clone(),
        kind: KIND,
        schema: SCHEMA,
        key: letter.dlq_id.clone(),
        data: letter.encode_to_vec().into(),
    }
}

/// A dead letter whose event was tried once more, and is `poison` still, without being appended.
#[must_use]
pub fn again(projection: &dyn Projection, letter: DeadLetter, poison: &Poison) -> NewEvent {
    let letter = DeadLetter {
        field: shortened(&poison.field, FIELD_BYTES_MAX),
        reason: shortened(&poison.reason, REASON_BYTES_MAX),
        attempt: letter.attempt.saturating_add(1),
        ..letter
    };
    NewEvent {
        topic: projection.dead_letters().topic.clone(),
        kind: KIND,
        schema: SCHEMA,
        key: letter.dlq_id.clone(),
        data: letter.encode_to_vec().into(),
    }
}

fn refused_by(poison: &Poison) -> String {
    let sink = poison.refused_by.map(SinkKind::as_str);
    sink.unwrap_or_default().to_owned()
}

/// That a dead letter was dealt with, by whom and why, and where its event stands again, if it does.
#[must_use]
pub fn settle(
    projection: &dyn Projection,
    dlq_id: &str,
    settlement: Settlement,
    by: &str,
    reason: &str,
    replayed_as: Option<Sequence>,
) -> NewEvent {
    let settled = DeadLetterSettled {
        dlq_id: dlq_id.to_owned(),
        outcome: settlement.as_str().to_owned(),
        by: by.to_owned(),
        reason: shortened(reason, REASON_BYTES_MAX),
        replayed_as: replayed_as.map_or(0, Sequence::get),
    };
    NewEvent {
        topic: projection.dead_letters().topic.clone(),
        kind: SETTLED_KIND,
        schema: SETTLED_SCHEMA,
        key: settled.dlq_id.clone(),
        data: settled.encode_to_vec().into(),
    }
}

/// What a record on the topic of dead letters changes. `shown` says how the projection shows a
/// payload as JSON; one that it cannot show is shown as its bytes.
#[must_use]
pub fn changes(
    projection: &dyn Projection,
    source: &Source<'_>,
    shown: &dyn Fn(&RecordView<'_>) -> Option<Value>,
) -> Vec<Change> {
    let place = projection.dead_letters().table;
    let Some(table) = projection.tables().get(place) else {
        return Vec::new();
    };
    let change = match message_of(source.record) {
        SCHEMA => read(source.record).map(|letter| Change::Put {
            table: place,
            row: row(letter, source, shown),
        }),
        SETTLED_SCHEMA => settled(source).map(|key| Change::Remove { table: place, key }),
        _ => None,
    };
    let fits = |change: &Change| match change {
        Change::Put { row, .. } => row.check(table).is_ok(),
        Change::Remove { .. } => true,
    };
    change.into_iter().filter(fits).collect()
}

fn settled(source: &Source<'_>) -> Option<Key> {
    let settled = DeadLetterSettled::decode(source.record.envelope.payload.data()).ok()?;
    let ends = Settlement::of(&settled.outcome).is_some_and(Settlement::ends_the_letter);
    ends.then(|| Key([source.tenant, &settled.dlq_id].map(Cell::from).to_vec()))
}

fn row(
    letter: DeadLetter,
    source: &Source<'_>,
    shown: &dyn Fn(&RecordView<'_>) -> Option<Value>,
) -> Row {
    let number = |number: u64| i64::try_from(number).map_or(Cell::Null, Cell::Integer);
    let event = event(&letter, shown);
    Row(vec![
        Cell::from(source.tenant),
        Cell::Text(letter.dlq_id),
        Cell::Text(format!("{REASON_PREFIX}{}", letter.reason)),
        Cell::Json(event),
        Cell::Timestamp(source.appended_at),
        Cell::Text(letter.topic),
        number(letter.sequence),
        Cell::Integer(letter.attempt.into()),
        number(source.sequence.get()),
    ])
}

/// The payload's JSON where it has one that every sink can store; else its bytes in an object.
fn event(letter: &DeadLetter, shown: &dyn Fn(&RecordView<'_>) -> Option<Value>) -> String {
    let Ok(envelope) = EnvelopeView::parse(&letter.envelope) else {
        let bytes = json!({"type": "", "base64": BASE64.encode(&letter.envelope)});
        return canonical(&bytes);
    };
    let record = RecordView {
        sequence: letter.sequence,
        topic: &letter.topic,
        envelope,
        ..RecordView::default()
    };
    let event = shown(&record).filter(|event| !holds_nul(event));
    let event = event.unwrap_or_else(|| {
        let kind = match envelope.schema {
            "" => envelope.payload.kind().replace('\0', ""),
            schema => schema.replace('\0', ""),
        };
        json!({"type": kind, "base64": BASE64.encode(envelope.payload.data())})
    });
    canonical(&event)
}

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| name.contains('\0') || holds_nul(value)),
    }
}

/// At most `limit` bytes of what somebody else may have had a hand in, without NUL.
fn shortened(text: &str, limit: usize) -> String {
    let end = text.floor_char_boundary(limit);
    let start = text.get(..end).unwrap_or_default();
    start.replace('\0', "?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Micros;
    use crate::projections::continuum::{Continuum, History, LETTERS, TOPIC};
    use crate::projections::projection::Payloads;
    use crate::proto::topic::CONTINUUM_DEAD_LETTERS;
    use crate::proto::v1::{Envelope, Event, Record, envelope};

    #[derive(Debug)]
    struct NoSchemas;

    impl Payloads for NoSchemas {
        fn to_json(&self, _: &str, _: &RecordView<'_>) -> Option<Value> {
            None
        }
    }

    fn record(sequence: u64, topic: &str, envelope: &Envelope) -> Vec<u8> {
        Record {
            sequence,
            appended_at: 5,
            topic: topic.into(),
            envelope: envelope.encode_to_vec().into(),
            ..Record::default()
        }
        .encode_to_vec()
    }

    fn with<T>(record: &[u8], see: impl FnOnce(&Source<'_>) -> T) -> T {
        let record = RecordView::parse(record).unwrap();
        see(&Source {
            tenant: "acme",
            reality: "main",
            sequence: Sequence::new(record.sequence).unwrap(),
            appended_at: Micros(record.appended_at),
            record: &record,
            payloads: &NoSchemas,
        })
    }

    fn event(data: &str, headers: &[(&str, &str)]) -> Envelope {
        let headers = headers.iter();
        Envelope {
            headers: headers
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
            payload: Some(envelope::Payload::Event(Event {
                r#type: "t".into(),
                data: data.to_owned().into(),
            })),
            ..Envelope::default()
        }
    }

    fn continuum() -> Continuum {
        Continuum::new(History::Kept)
    }

    /// The letter that the node writes of a record, and the record that it is in.
    fn letter_of(poisoned: &[u8], before: Option<DeadLetter>) -> (DeadLetter, NewEvent) {
        let poison = Poison::of("payload", "wrong\0");
        let new = with(poisoned, |source| {
            write(&continuum(), source, &poison, before)
        });
        (DeadLetter::decode(new.data.clone()).unwrap(), new)
    }

    fn appended(sequence: u64, new: &NewEvent) -> Vec<u8> {
        let envelope = Envelope {
            schema: new.schema.into(),
            payload: Some(envelope::Payload::Event(Event {
                r#type: new.kind.into(),
                data: new.data.clone(),
            })),
            ..Envelope::default()
        };
        record(sequence, &new.topic, &envelope)
    }

    fn changes_of(bytes: &[u8]) -> Vec<Change> {
        with(bytes, |source| {
            changes(&continuum(), source, &|record| {
                serde_json::from_slice(record.envelope.payload.data()).ok()
            })
        })
    }

    #[test]
    fn an_id_is_of_one_place_in_one_log() {
        let at = |sequence| Sequence::new(sequence).unwrap();
        let id = letter_id("continuum", "acme", "main", at(7));
        assert_eq!(id, "35aa64f5-b68b-34f3-615c-652cdd91b9f7");
        for other in [
            letter_id("continuum", "acme", "main", at(8)),
            letter_id("continuum", "acme", "other", at(7)),
            letter_id("continuum", "acm", "emain", at(7)),
            letter_id("other", "acme", "main", at(7)),
        ] {
            assert_ne!(id, other);
        }
    }

    // PRJ-04: with reason and the original, which is kept byte by byte.
    #[test]
    fn a_letter_has_the_reason_and_the_original_and_becomes_a_row() {
        let original = event(r#"{"a":1}"#, &[]);
        let (letter, new) = letter_of(&record(7, TOPIC, &original), None);
        assert_eq!(new.topic, CONTINUUM_DEAD_LETTERS);
        assert_eq!((&*new.key, &*letter.reason), (&*letter.dlq_id, "wrong?"));
        assert_eq!(&*letter.envelope, &*original.encode_to_vec());
        assert_eq!((letter.attempt, letter.sequence), (1, 7));
        let changes = changes_of(&appended(8, &new));
        let [Change::Put { table, row }] = changes.as_slice() else {
            panic!("{changes:?}")
        };
        assert_eq!(*table, LETTERS);
        assert_eq!(row.0[1], Cell::Text(letter.dlq_id));
        assert_eq!(row.0[2], Cell::from("projection_failed:wrong?"));
        assert_eq!(row.0[3], Cell::Json(r#"{"a":1}"#.into()));
    }

    // PRJ-04, PRJ-05
    #[test]
    fn an_event_that_fails_again_is_the_same_letter_tried_once_more() {
        let original = event("bad", &[]);
        let (first, _) = letter_of(&record(7, TOPIC, &original), None);
        let replay = Replay {
            dlq_id: first.dlq_id.clone(),
            letter: Sequence::new(8).unwrap(),
        };
        let again = event("bad", &[(REPLAY_OF, &replay.header())]);
        let again = record(9, TOPIC, &again);
        assert_eq!(
            with(&again, |source| Replay::of(source.record)),
            Some(replay)
        );
        let (second, _) = letter_of(&again, Some(first.clone()));
        assert_eq!(second.dlq_id, first.dlq_id);
        assert_eq!((second.attempt, second.sequence), (2, 7));
        assert_eq!(second.envelope, first.envelope, "without the header");
    }

    // PRJ-04: a header is anybody's word, and must not put one event's letter in another's place.
    #[test]
    fn a_forged_header_changes_no_letter_of_another_event() {
        let (victim, _) = letter_of(&record(7, TOPIC, &event("victim", &[])), None);
        let claim = format!("{}/8", victim.dlq_id);
        let forged = record(9, TOPIC, &event("forged", &[(REPLAY_OF, &claim)]));
        let (letter, _) = letter_of(&forged, Some(victim.clone()));
        assert_ne!(letter.dlq_id, victim.dlq_id);
        assert_eq!((letter.attempt, letter.sequence), (1, 9));
        let (letter, _) = letter_of(&forged, None);
        assert_ne!(letter.dlq_id, victim.dlq_id);
        for bad in ["", "/", "x/1", "01900000-0000-7000-8000-000000000001/0"] {
            let bad = record(9, TOPIC, &event("x", &[(REPLAY_OF, bad)]));
            assert_eq!(with(&bad, |source| Replay::of(source.record)), None);
        }
    }

    // PRJ-05: what is dealt with leaves the table; what still fails stays.
    #[test]
    fn a_letter_that_is_dealt_with_leaves_the_table() {
        for settlement in Settlement::ALL {
            let at = Sequence::new(9);
            let new = settle(&continuum(), "id-1", settlement, "admin", "", at);
            let changes = changes_of(&appended(10, &new));
            if settlement == Settlement::StillFailing {
                assert_eq!(changes, []);
                continue;
            }
            let key = Key(["acme", "id-1"].map(Cell::from).to_vec());
            let gone = Change::Remove {
                table: LETTERS,
                key,
            };
            assert_eq!(changes, [gone]);
        }
    }

    // PRJ-04: no letters about letters.
    #[test]
    fn what_is_no_letter_is_nothing() {
        let unknown = DeadLetterSettled {
            dlq_id: "id-1".into(),
            outcome: "later".into(),
            ..DeadLetterSettled::default()
        };
        let long = DeadLetter {
            dlq_id: "x".repeat(600),
            ..DeadLetter::default()
        };
        for (schema, data) in [
            ("", b"{}".to_vec()),
            (SCHEMA, vec![0xff]),
            (SETTLED_SCHEMA, vec![0xff]),
            (SETTLED_SCHEMA, unknown.encode_to_vec()),
            (SCHEMA, long.encode_to_vec()),
        ] {
            let mut envelope = event("", &[]);
            envelope.schema = schema.into();
            envelope.payload = Some(envelope::Payload::Event(Event {
                r#type: String::new(),
                data: data.into(),
            }));
            let found = changes_of(&record(3, CONTINUUM_DEAD_LETTERS, &envelope));
            assert_eq!(found, [], "{schema}");
        }
    }

    // PRJ-04: of what not every sink can store, the bytes are shown.
    #[test]
    fn an_original_with_a_nul_is_shown_as_bytes() {
        let original = event(r#"{"a\u0000":1}"#, &[]);
        let (_, new) = letter_of(&record(7, TOPIC, &original), None);
        let changes = changes_of(&appended(8, &new));
        let [Change::Put { row, .. }] = changes.as_slice() else {
            panic!("{changes:?}")
        };
        let shown = r#"{"base64":"eyJhXHUwMDAwIjoxfQ==","type":"t"}"#;
        assert_eq!(row.0[3], Cell::Json(shown.into()));
    }
}
