//! A projection that tests feed by hand, and what follows it into a sink: takes the place, looks
//! up, folds, commits; waits out a sink that is away, and takes the place again when it is lost.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use arqonbus::log::{Micros, Sequence};
use arqonbus::projections::fold::{self, Entry, Known, Outcome, Repeats};
use arqonbus::projections::projection::{Change, DeadLetters, Poison, Projection, Source};
use arqonbus::projections::sink::{
    Commit, Copy, Place, Position, Sink as _, SinkError, SinkKind, Write,
};
use arqonbus::projections::table::{Cell, Column, Kind, Row, Rule, Table};
use arqonbus::projections::valkey::mapping::{Mapping, Stream, TTL};
use arqonbus::projections::valkey::{Address, Options, ValkeySink};

use crate::servers::redis::Redis;

pub(super) const EPISODES: usize = 0;
pub(super) const MESSAGES: usize = 2;

/// A projection with a table of episodes, one of events, which goes nowhere, and one of messages.
#[derive(Debug)]
pub(super) struct Test {
    tables: Vec<Table>,
    topics: Vec<String>,
    dead_letters: DeadLetters,
}

impl Test {
    pub(super) fn new() -> Self {
        let episodes = Table {
            name: "episodes".to_owned(),
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
                Column::new("deleted", Kind::Boolean),
                Column::nullable("last_sequence", Kind::Integer),
            ],
            key: vec![0, 1, 2],
            rule: Rule::Newest(vec![10, 9]),
            outcome: None,
        };
        let events = Table {
            name: "events".to_owned(),
            columns: vec![
                Column::new("tenant_id", Kind::Text),
                Column::new("event_id", Kind::Text),
            ],
            key: vec![0, 1],
            rule: Rule::First,
            outcome: None,
        };
        let messages = Table {
            name: "messages".to_owned(),
            columns: vec![
                Column::new("tenant_id", Kind::Text),
                Column::new("sequence", Kind::Integer),
                Column::new("topic", Kind::Text),
                Column::nullable("key", Kind::Text),
                Column::new("appended_at", Kind::Timestamp),
                Column::new("payload", Kind::Bytes),
            ],
            key: vec![0, 1],
            rule: Rule::First,
            outcome: None,
        };
        Self {
            tables: vec![episodes, events, messages],
            topics: vec!["t".to_owned()],
            dead_letters: DeadLetters {
                topic: "dead".to_owned(),
                table: 1,
            },
        }
    }
}

impl Projection for Test {
    fn name(&self) -> &'static str {
        "test"
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
    fn read(&self, _: &Source<'_>) -> Result<Vec<Change>, Poison> {
        Ok(Vec::new())
    }
}

/// An event of an episode.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) agent: String,
    pub(super) episode: String,
    pub(super) id: String,
    pub(super) ts: u64,
}

impl Event {
    pub(super) fn new(agent: &str, episode: &str, id: &str, ts: u64) -> Self {
        Self {
            agent: agent.to_owned(),
            episode: episode.to_owned(),
            id: id.to_owned(),
            ts,
        }
    }

    /// Its row, with a body that no cache may hold.
    pub(super) fn row(&self, tenant: &str) -> Row {
        Row(vec![
            Cell::from(tenant),
            Cell::from(&*self.agent),
            Cell::from(&*self.episode),
            Cell::from("episode.updated"),
            Cell::Text(format!("sled://{}", self.id)),
            Cell::from("BODY of the summary"),
            Cell::Json(r#"["BODY"]"#.to_owned()),
            // Not every event has one, so that one that follows another must take it away.
            if self.ts.is_multiple_of(2) {
                Cell::from("ram://vector")
            } else {
                Cell::Null
            },
            Cell::Json(r#"{"text":"BODY"}"#.to_owned()),
            Cell::from(&*self.id),
            Cell::Timestamp(Micros(self.ts)),
            Cell::Boolean(self.ts.is_multiple_of(3)),
            Cell::Integer(41),
        ])
    }

    pub(super) fn put(&self, tenant: &str) -> Write {
        let (table, row) = (EPISODES, self.row(tenant));
        Write::Put { table, row }
    }
}

/// Many events of few episodes, older ones after newer ones among them.
pub(super) fn events(count: u64) -> Vec<Event> {
    let event = |n: u64| {
        let (agent, episode) = (format!("a{}", n % 3), format!("e{}", n % 17));
        let ts = 1_700_000_000_000_000 + (n * 7919) % 1000;
        Event::new(&agent, &episode, &format!("id{}", n % 50), ts)
    };
    (0..count).map(event).collect()
}

/// What the cache must hold after events, in whatever order they came: for each agent and episode
/// the id and time of the newest.
pub(super) fn newest(events: &[Event]) -> BTreeMap<String, (String, String)> {
    let mut best: HashMap<String, (u64, &str)> = HashMap::new();
    for event in events {
        let name = format!(
            "tenant:acme:episode:{}:cache:{}",
            event.episode, event.agent
        );
        let version = (event.ts, &*event.id);
        let there = best.entry(name).or_insert(version);
        *there = version.max(*there);
    }
    let named = best.into_iter();
    named
        .map(|(name, (ts, id))| (name, (id.to_owned(), ts.to_string())))
        .collect()
}

/// What it holds.
pub(super) fn cached(server: &Redis) -> BTreeMap<String, (String, String)> {
    let names = server.keys().into_iter();
    let names = names.filter(|name| !name.contains(":cursor:") && !name.contains(":stream:"));
    names
        .map(|name| {
            let found = server.ask(&["HMGET", &name, "last_event_id", "last_event_ts"]);
            (name, found)
        })
        .collect()
}

pub(super) fn place() -> Place {
    Place {
        projection: "test".to_owned(),
        tenant: "acme".to_owned(),
        reality: "main".to_owned(),
        log: "main".to_owned(),
        copy: Copy::Live,
    }
}

pub(super) fn options(address: Address, mappings: Vec<Mapping>) -> Options {
    Options {
        address,
        mappings: HashMap::from([("test".to_owned(), mappings)]),
    }
}

/// A sink that waits only as long as a test can.
pub(super) fn sink_at(url: &str) -> ValkeySink {
    let mut address = Address::new(url);
    address.connect_timeout = Duration::from_millis(300);
    address.response_timeout = Duration::from_millis(300);
    let episodes = Mapping::episodes("episodes", TTL);
    ValkeySink::new(options(address, vec![episodes])).expect("a sink")
}

pub(super) fn stream(ttl: Option<Duration>) -> Mapping {
    let columns = ["sequence", "topic", "key", "appended_at", "payload"];
    Mapping::Stream(Stream {
        table: "messages".to_owned(),
        sequence: "sequence".to_owned(),
        columns: columns.map(str::to_owned).to_vec(),
        name: "history".to_owned(),
        len_max: 100,
        ttl,
    })
}

/// What follows a list of events into a sink, as a node follows its log.
pub(super) struct Follower {
    pub(super) test: Test,
    pub(super) sink: ValkeySink,
    pub(super) place: Place,
    /// How often the sink was away, and what it said last.
    pub(super) away: usize,
    pub(super) said: String,
    /// How often the place had to be taken again.
    pub(super) retaken: usize,
}

impl Follower {
    pub(super) fn new(sink: ValkeySink) -> Self {
        Self {
            test: Test::new(),
            sink,
            place: place(),
            away: 0,
            said: String::new(),
            retaken: 0,
        }
    }

    pub(super) async fn take(&self) -> Position {
        self.sink
            .take(&self.place)
            .await
            .expect("the sink is there")
    }

    /// One batch of events from `from` on.
    pub(super) async fn step(
        &self,
        from: Position,
        events: &[Event],
    ) -> Result<(Position, Vec<Outcome>), SinkError> {
        let entries = events.iter().zip(from.next.get()..);
        let entries: Vec<_> = entries
            .map(|(event, sequence)| {
                let row = event.row("acme");
                Entry {
                    sequence: Sequence::new(sequence).expect("it counts from 1"),
                    changes: vec![Change::Put {
                        table: EPISODES,
                        row,
                    }],
                }
            })
            .collect();
        let tables = self.test.tables();
        let question = fold::question(tables, &entries);
        let answer = self
            .sink
            .look_up(&self.test, &self.place, &question)
            .await?;
        let mut known = Known::default();
        known.learn(question, answer);
        let folded = known.fold(tables, entries, Repeats::AreDone);
        let to = Position {
            next: from.next.advance(events.len() as u64),
            ..from
        };
        let commit = Commit {
            writes: folded.writes,
            moves: Some((from, to)),
            epoch: from.epoch,
        };
        self.sink.commit(&self.test, &self.place, &commit).await?;
        Ok((to, folded.outcomes))
    }

    /// Follows `events` to their end, whatever happens to the sink on the way.
    pub(super) async fn follow(&mut self, events: &[Event]) -> Position {
        let begin = Instant::now();
        let mut at = None;
        loop {
            assert!(
                begin.elapsed() < Duration::from_secs(60),
                "still away: {}",
                self.said
            );
            let result = match at {
                None => self.sink.take(&self.place).await,
                Some(position) => {
                    let from = usize::try_from(Position::next(&position)).expect("few events");
                    if from == events.len() {
                        return position;
                    }
                    let end = events.len().min(from + 20);
                    let step = self.step(position, &events[from..end]).await;
                    step.map(|(position, _)| position)
                }
            };
            match result {
                Ok(position) => at = Some(position),
                Err(SinkError::Unavailable { sink, reason }) => {
                    assert_eq!(sink, SinkKind::Valkey);
                    self.away += 1;
                    self.said = reason;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(SinkError::Fenced { .. }) => {
                    self.retaken += 1;
                    at = None;
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

/// Where the next event of a place is in a list.
trait Next {
    fn next(&self) -> u64;
}

impl Next for Position {
    fn next(&self) -> u64 {
        self.next.get() - 1
    }
}

/// PRJ-11: every key is of a family that is allowed, and goes away.
pub(super) fn check_keys(server: &Redis) {
    for key in server.keys() {
        let parts: Vec<_> = key.split(':').collect();
        let allowed = matches!(
            parts[..],
            ["tenant", _, "agent", _, "presence" | "rate_limit", _, ..]
                | ["tenant", _, "episode", _, "cache", _, ..]
                | ["tenant", _, "stream", "history"]
        );
        assert!(allowed, "{key:?} is of no allowed family");
        let ttl: i64 = server.ask(&["PTTL", &key]);
        assert!(ttl > 0, "{key:?} stays for ever");
    }
}
