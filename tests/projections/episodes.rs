//! A projection for tests, records for it, and what a table must hold after them: computed by the
//! fold alone, in memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arqonbus::log::{Micros, Sequence};
use arqonbus::projections::fold::{Chain, Entry, Known, Outcome, Repeats, question};
use arqonbus::projections::projection::{Change, DeadLetters, Poison, Projection, Source};
use arqonbus::projections::sink::{Commit, Copy, Place, Position, Query, Sink, SinkError, Write};
use arqonbus::projections::table::{Cell, Column, Kind, Row, Rule, Table};

/// Long enough for a server to be killed, to recover, and for everything to go on.
const PATIENCE: Duration = Duration::from_secs(60);

/// Episodes as rows, events as history, letters that are dead; and a table of all types that no
/// migration makes.
#[derive(Debug)]
pub(crate) struct Episodes {
    tables: Vec<Table>,
    topics: Vec<String>,
    dead: DeadLetters,
}

pub(crate) const EPISODES: usize = 0;
pub(crate) const EVENTS: usize = 1;
pub(crate) const DEAD: usize = 2;
pub(crate) const KINDS: usize = 3;

impl Episodes {
    pub(crate) fn new() -> Self {
        Self {
            tables: vec![episodes(), events(), dead(), kinds()],
            topics: vec!["continuum.episode.v1".to_owned()],
            dead: DeadLetters {
                topic: "continuum.episode.dlq.v1".to_owned(),
                table: DEAD,
            },
        }
    }

    /// One that keeps other tables.
    pub(crate) fn with(tables: Vec<Table>) -> Self {
        Self {
            tables,
            ..Self::new()
        }
    }
}

impl Projection for Episodes {
    fn name(&self) -> &str {
        "episodes"
    }

    fn reality(&self) -> &str {
        "main"
    }

    fn topics(&self) -> &[String] {
        &self.topics
    }

    fn tables(&self) -> &[Table] {
        &self.tables
    }

    fn dead_letters(&self) -> &DeadLetters {
        &self.dead
    }

    /// The records of these tests are read already: a sink never asks.
    fn read(&self, _source: &Source<'_>) -> Result<Vec<Change>, Poison> {
        Err(Poison::of("", "no records here"))
    }
}

fn episodes() -> Table {
    Table {
        name: "arqonbus_continuum_projection".to_owned(),
        columns: vec![
            Column::new("tenant_id", Kind::Text),
            Column::new("agent_id", Kind::Text),
            Column::new("episode_id", Kind::Text),
            Column::new("event_type", Kind::Text),
            Column::new("content_ref", Kind::Text),
            Column::nullable("summary", Kind::Text),
            Column::new("tags", Kind::Json),
            Column::nullable("embedding_ref", Kind::Text),
            Column::new("metadata", Kind::Json),
            Column::new("last_event_id", Kind::Text),
            Column::new("last_event_ts", Kind::Timestamp),
            Column::new("updated_at", Kind::Timestamp),
            Column::new("deleted", Kind::Boolean),
            Column::nullable("last_sequence", Kind::Integer),
        ],
        key: vec![0, 1, 2],
        rule: Rule::Newest(vec![10, 9]),
        outcome: None,
    }
}

fn events() -> Table {
    Table {
        name: "arqonbus_continuum_projection_events".to_owned(),
        columns: vec![
            Column::new("tenant_id", Kind::Text),
            Column::new("agent_id", Kind::Text),
            Column::new("event_id", Kind::Text),
            Column::new("episode_id", Kind::Text),
            Column::new("event_type", Kind::Text),
            Column::new("source_ts", Kind::Timestamp),
            Column::new("event", Kind::Json),
            Column::new("projected_at", Kind::Timestamp),
            Column::nullable("outcome", Kind::Text),
            Column::nullable("sequence", Kind::Integer),
        ],
        key: vec![0, 1, 2],
        rule: Rule::First,
        outcome: Some(8),
    }
}

fn dead() -> Table {
    Table {
        name: "arqonbus_continuum_projection_dlq".to_owned(),
        columns: vec![
            Column::new("tenant_id", Kind::Text),
            Column::new("dlq_id", Kind::Text),
            Column::new("reason", Kind::Text),
            Column::new("event", Kind::Json),
            Column::new("queued_at", Kind::Timestamp),
            Column::nullable("topic", Kind::Text),
            Column::nullable("sequence", Kind::Integer),
            Column::new("attempts", Kind::Integer),
            Column::nullable("letter_sequence", Kind::Integer),
        ],
        key: vec![0, 1],
        rule: Rule::First,
        outcome: None,
    }
}

fn kinds() -> Table {
    Table {
        name: "of_all_kinds".to_owned(),
        columns: vec![
            Column::new("tenant_id", Kind::Text),
            Column::new("text", Kind::Text),
            Column::new("number", Kind::Integer),
            Column::nullable("share", Kind::Float),
            Column::nullable("flag", Kind::Boolean),
            Column::nullable("at", Kind::Timestamp),
            Column::nullable("body", Kind::Json),
            Column::nullable("raw", Kind::Bytes),
        ],
        key: vec![0, 1],
        rule: Rule::Newest(vec![2]),
        outcome: None,
    }
}

/// The live tables of a tenant.
pub(crate) fn place(tenant: &str) -> Place {
    Place {
        projection: "episodes".to_owned(),
        tenant: tenant.to_owned(),
        reality: "main".to_owned(),
        log: "n1/main".to_owned(),
        copy: Copy::Live,
    }
}

/// The copy beside them.
pub(crate) fn next_of(place: &Place) -> Place {
    Place {
        copy: Copy::Next,
        ..place.clone()
    }
}

/// An event about an episode.
pub(crate) fn event(tenant: &str, sequence: u64, id: &str, episode: u64, at: u64) -> Entry {
    let number = Cell::Integer(i64::try_from(sequence).expect("small"));
    let time = |micros| Cell::Timestamp(Micros(1_700_000_000_000_000 + micros));
    let text = |text: String| Cell::Text(text);
    let body = Cell::Json(format!("{{\"event_id\":\"{id}\",\"n\":{sequence}}}"));
    let episode = format!("episode-{episode}");
    let row = Row(vec![
        tenant.into(),
        "agent".into(),
        text(episode.clone()),
        "episode.updated".into(),
        text(format!("ram://{sequence}")),
        Cell::Null,
        Cell::Json("[\"a\",\"b\"]".to_owned()),
        Cell::Null,
        Cell::Json("{\"a\":1,\"b\":{\"x\":null}}".to_owned()),
        text(id.to_owned()),
        time(at),
        time(sequence),
        Cell::Boolean(at.is_multiple_of(7)),
        number.clone(),
    ]);
    let history = Row(vec![
        tenant.into(),
        "agent".into(),
        text(id.to_owned()),
        text(episode),
        "episode.updated".into(),
        time(at),
        body,
        time(sequence),
        Cell::Null,
        number,
    ]);
    let put = |table, row| Change::Put { table, row };
    Entry {
        sequence: Sequence::at_least_first(sequence),
        changes: vec![put(EVENTS, history), put(EPISODES, row)],
    }
}

/// Events with everything that makes trouble: repeated ones, old ones, equal times, and dead letters
/// that are taken away again.
pub(crate) fn trouble(tenant: &str, count: u64) -> Vec<Entry> {
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let mut roll = |sides: u64| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        dice % sides
    };
    (1..=count)
        .map(|sequence| match roll(12) {
            0 => event(
                tenant,
                sequence,
                &format!("e{}", roll(sequence)),
                roll(20),
                roll(99),
            ),
            1 => letter(tenant, sequence, roll(9)),
            2 => without_letter(tenant, sequence, roll(9)),
            _ => event(
                tenant,
                sequence,
                &format!("e{sequence}"),
                roll(20),
                roll(99),
            ),
        })
        .collect()
}

/// A record that takes a dead letter away.
pub(crate) fn without_letter(tenant: &str, sequence: u64, id: u64) -> Entry {
    let key = dead().key_of(&letter_row(tenant, sequence, id));
    Entry {
        sequence: Sequence::at_least_first(sequence),
        changes: vec![Change::Remove { table: DEAD, key }],
    }
}

/// A dead letter.
pub(crate) fn letter(tenant: &str, sequence: u64, id: u64) -> Entry {
    let row = letter_row(tenant, sequence, id);
    Entry {
        sequence: Sequence::at_least_first(sequence),
        changes: vec![Change::Put { table: DEAD, row }],
    }
}

fn letter_row(tenant: &str, sequence: u64, id: u64) -> Row {
    Row(vec![
        tenant.into(),
        Cell::Text(format!("letter-{id}")),
        Cell::Text(format!("reason {sequence}")),
        Cell::Json("{}".to_owned()),
        Cell::Timestamp(Micros(1_700_000_000_000_000 + sequence)),
        Cell::Null,
        Cell::Integer(3),
        Cell::Integer(1),
        Cell::Null,
    ])
}

/// What tables hold after some records.
#[derive(Debug, PartialEq)]
pub(crate) struct Held {
    rows: Vec<BTreeMap<Vec<u8>, Row>>,
    chain: Chain,
    next: Sequence,
}

/// Computed record by record, without a sink.
pub(crate) fn expected(episodes: &Episodes, entries: &[Entry]) -> Held {
    let tables = episodes.tables();
    let (mut known, mut chain) = (Known::default(), Chain::default());
    let mut rows = vec![BTreeMap::new(); tables.len()];
    for entry in entries {
        let folded = known.fold(tables, vec![entry.clone()], Repeats::AreDone);
        chain.take(entry.sequence, &entry.changes, folded.outcomes[0]);
        for write in folded.writes {
            match write {
                Write::Put { table, row } => {
                    rows[table].insert(tables[table].key_of(&row).encoded(), row);
                }
                Write::Remove { table, key } => {
                    rows[table].remove(&key.encoded());
                }
            }
        }
    }
    let next = Sequence::at_least_first(entries.len() as u64 + 1);
    Held { rows, chain, next }
}

/// Read from a sink.
pub(crate) async fn held(sink: &dyn Sink, episodes: &Episodes, place: &Place) -> Held {
    let mut rows = Vec::new();
    for (table, rules) in episodes.tables().iter().enumerate() {
        let query = Query {
            limit: 1_000_000,
            ..Query::default()
        };
        let read = sink
            .rows(episodes, place, table, &query)
            .await
            .expect("rows");
        let count = sink.count(episodes, place, table).await.expect("a count");
        assert_eq!(count, read.len() as u64);
        let keyed: Vec<_> = read
            .into_iter()
            .map(|row| (rules.key_of(&row).encoded(), row))
            .collect();
        assert!(
            keyed.is_sorted_by(|a, b| a.0 < b.0),
            "in the order of keys, each once"
        );
        rows.push(keyed.into_iter().collect());
    }
    let position = sink
        .position(place)
        .await
        .expect("a position")
        .expect("taken");
    Held {
        rows,
        chain: Chain(position.hash),
        next: position.next,
    }
}

/// One batch from where `at` stands: as a runner does it.
pub(crate) async fn batch(
    sink: &dyn Sink,
    episodes: &Episodes,
    place: &Place,
    entries: &[Entry],
    at: Position,
) -> Result<Position, SinkError> {
    let asked = question(episodes.tables(), entries);
    let answer = sink.look_up(episodes, place, &asked).await?;
    let mut known = Known::default();
    known.learn(asked, answer);
    let folded = known.fold(episodes.tables(), entries.to_vec(), Repeats::AreDone);
    let mut chain = Chain(at.hash);
    for (entry, outcome) in entries.iter().zip(&folded.outcomes) {
        chain.take(entry.sequence, &entry.changes, *outcome);
    }
    let last = entries.last().expect("no empty batch").sequence;
    let to = Position {
        next: Sequence::at_least_first(last.get() + 1),
        epoch: at.epoch,
        hash: chain.0,
    };
    let commit = Commit {
        writes: folded.writes,
        moves: Some((at, to)),
        epoch: at.epoch,
    };
    sink.commit(episodes, place, &commit).await?;
    Ok(to)
}

/// Takes the place and projects `entries` to the end, through any number of outages, with
/// `before` called before each batch. Answers what went wrong meanwhile.
pub(crate) async fn drive(
    sink: &dyn Sink,
    episodes: &Episodes,
    place: &Place,
    entries: &[Entry],
    mut before: impl FnMut(u64),
) -> Vec<SinkError> {
    let mut errors = Vec::new();
    let until = Instant::now() + PATIENCE;
    let mut batches = 0;
    let mut held: Option<Position> = None;
    loop {
        assert!(Instant::now() < until, "never done; {:?}", errors.last());
        let done = match held {
            None => sink.take(place).await,
            Some(at) => {
                let from = usize::try_from(at.next.get() - 1).expect("small");
                let Some(rest) = entries.get(from..).filter(|rest| !rest.is_empty()) else {
                    return errors;
                };
                before(batches);
                batches += 1;
                let entries = &rest[..rest.len().min(25)];
                batch(sink, episodes, place, entries, at).await
            }
        };
        match done {
            Ok(at) => held = Some(at),
            Err(error) => {
                assert!(
                    matches!(
                        error,
                        SinkError::Unavailable { .. } | SinkError::Fenced { .. }
                    ),
                    "an outage is no poison: {error}"
                );
                errors.push(error);
                held = None;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// How many outcomes of a kind the records have.
pub(crate) fn outcomes(episodes: &Episodes, entries: &[Entry], wanted: Outcome) -> usize {
    let mut known = Known::default();
    let folded = known.fold(episodes.tables(), entries.to_vec(), Repeats::AreDone);
    folded
        .outcomes
        .iter()
        .filter(|outcome| **outcome == wanted)
        .count()
}
