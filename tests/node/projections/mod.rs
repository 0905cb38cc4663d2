//! Projections from outside: the built node, clients over real sockets, a real PostgreSQL and a
//! real Redis, each of them killed again and again. What the tables hold in the end is what the log
//! says, worked out by [`episodes::Expected`].
//!
//! Some thousands of events in the test run; `ARQONBUS_PROJECTED_EVENTS=100000 cargo test --test
//! node projections::` for the long form. The seed is printed; `ARQONBUS_SEED` repeats its choices.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::{Duration, Instant};

use arqonbus::client::{Outgoing, ProduceOptions};
use arqonbus::proto::continuum::DeadLetter;
use prost::Message as _;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use self::episodes::{DEAD_LETTERS, Expected, Item, Meaning, TOPIC, items};
use self::stage::{Stage, Stored, TENANTS, Tables, connect};
use crate::dice::Dice;

mod episodes;
mod stage;

/// What happens while events are produced, one after the other.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Nothing,
    NodeKilled,
    PostgresAway,
    PostgresKilled,
    ConnectionsCut,
    RedisEmptied,
    TableLocked,
    AllAwayAndNodeKilled,
}

const FAULTS: [Fault; 10] = [
    Fault::Nothing,
    Fault::NodeKilled,
    Fault::PostgresAway,
    Fault::ConnectionsCut,
    Fault::RedisEmptied,
    Fault::PostgresKilled,
    Fault::NodeKilled,
    Fault::TableLocked,
    Fault::AllAwayAndNodeKilled,
    Fault::Nothing,
];

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[expect(clippy::print_stderr, reason = "a failure must say how to repeat it")]
fn say(line: &str) {
    eprintln!("{line}");
}

/// Where items were acknowledged.
type Acknowledged = Vec<(u64, usize)>;

/// Produces items in order, in batches, and repeats what was not acknowledged.
async fn produce(
    url: String,
    token: String,
    items: Vec<(usize, Item)>,
    mut dice: Dice,
) -> Acknowledged {
    let mut acknowledged = Vec::new();
    let mut rest = &items[..];
    while !rest.is_empty() {
        let Ok(client) = connect(&url, &token).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(rest.len().min(1 + dice.index(40)));
            let mut envelopes = client.batch();
            for (number, item) in batch {
                let number = number.to_string();
                let mut headers = vec![("item", number.as_str())];
                if !item.content_type.is_empty() {
                    headers.push(("content-type", item.content_type));
                }
                envelopes.push(&Outgoing {
                    topic: TOPIC,
                    data: &item.data,
                    schema: item.schema,
                    headers: &headers,
                    ..Outgoing::default()
                });
            }
            match client.produce(&envelopes, &ProduceOptions::default()).await {
                Ok(produced) => {
                    let sequences = produced.first..=produced.last;
                    acknowledged.extend(sequences.zip(batch.iter().map(|(number, _)| *number)));
                    rest = after;
                }
                // Whether it is stored is for the log to say.
                Err(_) => break,
            }
            tokio::time::sleep(Duration::from_millis(dice.below(15))).await;
        }
    }
    acknowledged
}

/// Does what `fault` says while `producing`, which must end whatever is away.
fn beset(
    stage: &mut Stage,
    fault: Fault,
    dice: &mut Dice,
    runtime: &Runtime,
    producing: Vec<JoinHandle<Acknowledged>>,
) -> Vec<Acknowledged> {
    let mut pause = |most: u64| std::thread::sleep(Duration::from_millis(50 + dice.below(most)));
    let produced = |producing: Vec<JoinHandle<Acknowledged>>| {
        let all = producing
            .into_iter()
            .map(|one| runtime.block_on(one).expect("produced"));
        all.collect()
    };
    match fault {
        Fault::Nothing => produced(producing),
        Fault::NodeKilled => {
            for _ in 0..2 {
                pause(200);
                stage.kill_node();
                stage.start_node();
            }
            produced(producing)
        }
        Fault::PostgresAway => {
            stage.postgres.stop();
            let all = produced(producing);
            stage.postgres.start_again(&[]);
            all
        }
        Fault::PostgresKilled => {
            for _ in 0..2 {
                pause(150);
                stage.postgres.kill();
                stage.postgres.start_again(&[]);
            }
            produced(producing)
        }
        Fault::ConnectionsCut => {
            for _ in 0..8 {
                pause(40);
                stage.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'arqonbus'");
                stage.redis.cut();
            }
            produced(producing)
        }
        Fault::RedisEmptied => {
            for _ in 0..2 {
                pause(150);
                stage.redis.kill();
                pause(50);
                stage.start_redis();
            }
            produced(producing)
        }
        Fault::TableLocked => {
            let locked = Locked::table(stage, "arqonbus_continuum_projection");
            let all = produced(producing);
            pause(400);
            locked.end(stage);
            all
        }
        Fault::AllAwayAndNodeKilled => {
            stage.postgres.kill();
            stage.redis.kill();
            pause(50);
            stage.kill_node();
            // It starts without them.
            stage.start_node();
            let all = produced(producing);
            stage.kill_node();
            stage.start_redis();
            stage.start_node();
            stage.postgres.start_again(&[]);
            all
        }
    }
}

/// A table that another session has locked, for as long as it takes.
struct Locked(std::thread::JoinHandle<Result<String, String>>);

impl Locked {
    fn table(stage: &Stage, table: &str) -> Self {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        let statements = format!("BEGIN; LOCK TABLE {table}; SELECT pg_sleep(600)");
        let session = stage.postgres.session(&stage.database.name, &statements);
        let locked = Self(std::thread::spawn(session));
        while stage.sql(waits) == "0" {
            assert!(!locked.0.is_finished(), "{table} is not locked");
            std::thread::sleep(Duration::from_millis(5));
        }
        locked
    }

    /// Whoever waits goes on.
    fn end(self, stage: &Stage) {
        assert!(!self.0.is_finished(), "the lock was not held to the end");
        stage.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'",
        );
        let said = self.0.join().expect("no panic").expect_err("it is cut off");
        assert!(said.contains("terminat"), "{said}");
    }
}

/// What the log of a tenant must have come to.
fn expected(tenant: &str, log: &[Stored], items: &[Item]) -> Expected {
    let mut expected = Expected::default();
    for record in log.iter().filter(|record| record.topic == TOPIC) {
        let item = &items[record.item.expect("it is one of ours")];
        assert_eq!(record.data, item.data, "{}", record.sequence);
        expected.take(&item.meaning, tenant, record.sequence, record.appended_at);
    }
    expected
}

/// Compares all three tables, and says where the first difference is.
fn check_tables(place: &str, expected: &Expected, log: &[Stored], tables: Tables) {
    let [episodes, history, dead] = tables;
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let keyed = |rows: Vec<Vec<Value>>| {
        let count = rows.len();
        let rows = rows.into_iter().map(|row| {
            let key = (text(&row[0]), text(&row[1]));
            (key, Value::from(row[2..].to_vec()))
        });
        let rows: BTreeMap<_, _> = rows.collect();
        assert_eq!(rows.len(), count, "{place}: a key twice");
        rows
    };
    same(
        &format!("{place}, episodes"),
        &keyed(episodes),
        &expected.episodes,
    );
    let mut history = keyed(history);
    for row in history.values_mut() {
        // Times are compared as such.
        let time = &mut row[3]["source_ts"];
        let read: jiff::Timestamp = time.as_str().expect("a text").parse().expect("a time");
        *time = read.as_microsecond().into();
    }
    same(&format!("{place}, history"), &history, &expected.history);
    let letters = letters(log);
    assert_eq!(dead.len(), expected.dead.len(), "{place}: dead letters");
    for row in &dead {
        let sequence = row[5].as_u64().expect("where it stood");
        let (at, letter) = &letters[&sequence];
        let reason = format!("projection_failed:{}", letter.reason);
        assert_eq!(
            (&row[0], &row[1]),
            (&letter.dlq_id.as_str().into(), &reason.into()),
            "{place}"
        );
        assert_eq!(
            (&row[4], &row[6], &row[7]),
            (&TOPIC.into(), &1.into(), &(*at).into()),
            "{place}"
        );
    }
}

fn same<K: Ord + std::fmt::Debug>(
    place: &str,
    found: &BTreeMap<K, Value>,
    wanted: &BTreeMap<K, Value>,
) {
    for (key, row) in wanted {
        assert_eq!(found.get(key), Some(row), "{place}: {key:?}");
    }
    let more: Vec<_> = found
        .keys()
        .filter(|key| !wanted.contains_key(key))
        .collect();
    assert!(more.is_empty(), "{place} has more: {more:?}");
}

/// The dead letters of a log by the record that they are about, and where they stand.
fn letters(log: &[Stored]) -> BTreeMap<u64, (u64, DeadLetter)> {
    let mut letters = BTreeMap::new();
    for record in log.iter().filter(|record| record.topic == DEAD_LETTERS) {
        let letter = DeadLetter::decode(&*record.data).expect("a letter");
        let twice = letters.insert(letter.sequence, (record.sequence, letter));
        assert_eq!(twice, None, "a second letter at {}", record.sequence);
    }
    letters
}

/// The topic of dead letters has exactly the poison, as it was, each once.
fn check_letters(expected: &Expected, log: &[Stored]) {
    let letters = letters(log);
    let fields: BTreeMap<u64, &str> = letters
        .iter()
        .map(|(at, (_, letter))| (*at, &*letter.field))
        .collect();
    assert_eq!(fields, expected.dead);
    for record in log {
        if let Some((_, letter)) = letters.get(&record.sequence) {
            assert_eq!(letter.envelope, record.envelope, "{}", record.sequence);
            assert_eq!((&*letter.topic, letter.attempt), (TOPIC, 1));
        }
    }
}

/// Every key is of a family that is allowed, and ends; every episode has its newest event.
fn check_redis(stage: &Stage, expected: &BTreeMap<&str, Expected>) {
    let (mut cached, mut compared) = (BTreeSet::new(), 0);
    for key in stage.redis.keys() {
        let parts: Vec<&str> = key.split(':').collect();
        let ["tenant", tenant, "episode", episode, "cache", rest @ ..] = &parts[..] else {
            panic!("{key} is of no family that is allowed");
        };
        let ttl: i64 = stage.redis.ask(&["TTL", &key]);
        assert!((1..=86_400).contains(&ttl), "{key} ends in {ttl} s");
        if *episode == "_" {
            assert_eq!(rest[0], "cursor", "{key}");
            continue;
        }
        let agent = rest[0].replace("%20", " ");
        let row = (agent.clone(), (*episode).to_owned());
        let fields: BTreeMap<String, String> = stage.redis.ask(&["HGETALL", &key]);
        if !expected[tenant].doubtful.contains(&row) {
            let newest = expected[tenant].episodes.get(&row);
            let newest = newest.unwrap_or_else(|| panic!("nothing is known of {key}"));
            assert_eq!(fields["last_event_id"], newest[6], "{key}: {fields:?}");
            assert_eq!(fields["last_sequence"], newest[10].to_string(), "{key}");
            compared += 1;
        }
        assert!(
            !fields.contains_key("summary") && !fields.contains_key("metadata"),
            "{key}: {fields:?}"
        );
        cached.insert(((*tenant).to_owned(), agent, (*episode).to_owned()));
    }
    for (tenant, expected) in expected {
        for (agent, episode) in expected.episodes.keys() {
            let row = ((*tenant).to_owned(), agent.clone(), episode.clone());
            assert!(cached.contains(&row), "{row:?} is not cached");
        }
    }
    assert!(compared > cached.len() / 2, "{compared} compared");
}

/// A role that reads for one tenant gets that tenant's rows, all of them and no others.
fn check_readers(stage: &Stage, expected: &BTreeMap<&str, Expected>) {
    for tenant in TENANTS {
        let role = format!("reader_of_{tenant}");
        stage.sql(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'second' IN ROLE arqonbus_reader;
             INSERT INTO arqonbus_reader_tenant VALUES ('{role}', '{tenant}')"
        ));
        let expected = &expected[tenant];
        for (table, count) in [
            ("arqonbus_continuum_projection", expected.episodes.len()),
            (
                "arqonbus_continuum_projection_events",
                expected.history.len(),
            ),
            ("arqonbus_continuum_projection_dlq", expected.dead.len()),
        ] {
            let statements = format!(
                "SET ROLE NONE; SET app.tenants = '{}';
                 SELECT tenant_id, count(*) FROM {table} GROUP BY 1 ORDER BY 1",
                TENANTS.join(",")
            );
            let database = &stage.database.name;
            let seen = stage
                .postgres
                .try_sql_as(database, &role, "second", &statements);
            assert_eq!(seen, Ok(format!("{tenant}|{count}")), "{role} in {table}");
        }
    }
}

// REL-11, PRJ-01, PRJ-02, PRJ-03, PRJ-04, PRJ-10, PRJ-11, PRJ-13, PRJ-16
#[expect(clippy::too_many_lines, reason = "one story")]
#[test]
fn tables_are_a_fold_of_the_log_whatever_was_killed() {
    let count = setting("ARQONBUS_PROJECTED_EVENTS").unwrap_or(4_000);
    let seed = setting("ARQONBUS_SEED").unwrap_or_else(|| {
        std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish()
    });
    say(&format!(
        "ARQONBUS_SEED={seed} ARQONBUS_PROJECTED_EVENTS={count}"
    ));
    let mut dice = Dice::new(seed);
    let runtime = Runtime::new().expect("a runtime");
    let mut stage = Stage::open();
    let items: BTreeMap<&str, Vec<Item>> = TENANTS
        .map(|tenant| (tenant, items(tenant, count / 2, &mut dice)))
        .into();
    let mut acknowledged = [Vec::new(), Vec::new()];
    let phase = items["dev"].len().div_ceil(FAULTS.len());
    for (round, fault) in FAULTS.into_iter().enumerate() {
        let started = Instant::now();
        let producing = TENANTS.map(|tenant| {
            let items = items[tenant].iter().cloned().enumerate();
            let items = items.skip(round * phase).take(phase).collect();
            let (url, token) = (stage.url(), stage.token(tenant));
            runtime.spawn(produce(url, token, items, dice.fork()))
        });
        let done = beset(&mut stage, fault, &mut dice, &runtime, producing.into());
        for (all, done) in acknowledged.iter_mut().zip(done) {
            assert_eq!(
                done.len(),
                phase.min(items["dev"].len() - round * phase),
                "{fault:?}"
            );
            all.extend(done);
        }
        say(&format!(
            "{fault:?}: {:.1} s",
            started.elapsed().as_secs_f64()
        ));
    }

    let patience = Duration::from_secs(60 + count / 200);
    let logs = runtime.block_on(stage.caught_up(patience));
    let mut expectations = BTreeMap::new();
    for (tenant, acknowledged) in TENANTS.into_iter().zip(&acknowledged) {
        let log = &logs[tenant];
        for (sequence, item) in acknowledged {
            let stored = &log[usize::try_from(*sequence - 1).expect("small")];
            assert_eq!(
                (stored.sequence, stored.item),
                (*sequence, Some(*item)),
                "acknowledged"
            );
        }
        let expected = expected(tenant, log, &items[tenant]);
        say(&format!("{tenant}: {:?}", expected.outcomes));
        let poison = items[tenant]
            .iter()
            .filter(|item| matches!(item.meaning, Meaning::Poison(_)));
        assert!(expected.dead.len() >= poison.count());
        for outcome in ["projected", "duplicate", "stale_rejected", "dlq_queued"] {
            assert!(
                expected
                    .outcomes
                    .get(outcome)
                    .is_some_and(|count| *count > 10),
                "too few to say anything"
            );
        }
        check_letters(&expected, log);
        check_tables(
            &format!("{tenant} in PostgreSQL"),
            &expected,
            log,
            stage.in_postgres(tenant),
        );
        expectations.insert(tenant, expected);
    }
    check_redis(&stage, &expectations);
    check_readers(&stage, &expectations);

    // The embedded tables can be read while nobody runs them.
    let begun = Instant::now();
    loop {
        stage.stop_node();
        let mut behind = 0;
        for tenant in TENANTS {
            let (next, tables) = runtime.block_on(stage.in_sled(tenant));
            let end = logs[tenant].last().map_or(1, |last| last.sequence + 1);
            behind += end.saturating_sub(next);
            if next == end {
                check_tables(
                    &format!("{tenant} in sled"),
                    &expectations[tenant],
                    &logs[tenant],
                    tables,
                );
            }
        }
        if behind == 0 {
            break;
        }
        assert!(
            begun.elapsed() < patience,
            "sled is {behind} records behind"
        );
        stage.start_node();
        std::thread::sleep(Duration::from_secs(1));
    }
}

// PRJ-16: however long a sink keeps its projection waiting, publishers do not notice.
#[test]
fn publishers_wait_for_no_sink() {
    let mut dice = Dice::new(7);
    let runtime = Runtime::new().expect("a runtime");
    let mut stage = Stage::open();
    let items = items("dev", 600, &mut dice);
    let publish = |stage: &Stage, range: std::ops::Range<usize>, dice: &mut Dice| {
        let some = items[range.clone()].iter().cloned();
        let some = range.zip(some).collect();
        let producing = produce(stage.url(), stage.token("dev"), some, dice.fork());
        runtime.block_on(producing).len()
    };
    let rows = "SELECT count(*) FROM arqonbus_continuum_projection_events";
    assert_eq!(publish(&stage, 0..200, &mut dice), 200);
    runtime.block_on(stage.caught_up(Duration::from_secs(60)));
    let before = stage.sql(rows);

    // Locked: the projection waits and is refused, again and again. Redis answers nothing.
    let locked = Locked::table(&stage, "arqonbus_continuum_projection_events");
    stage.redis.ask::<()>(&["CLIENT", "PAUSE", "600000", "ALL"]);
    assert_eq!(publish(&stage, 200..400, &mut dice), 200);
    std::thread::sleep(Duration::from_millis(700));
    locked.end(&stage);
    stage.redis.kill();
    stage.start_redis();
    runtime.block_on(stage.caught_up(Duration::from_secs(60)));
    let after = stage.sql(rows);
    assert_ne!(before, after);

    // Away, both of them.
    stage.postgres.stop();
    stage.redis.kill();
    assert_eq!(publish(&stage, 400..600, &mut dice), 200);
    stage.postgres.start_again(&[]);
    stage.start_redis();
    let logs = runtime.block_on(stage.caught_up(Duration::from_secs(60)));
    let expected = expected("dev", &logs["dev"], &items);
    check_tables(
        "PostgreSQL",
        &expected,
        &logs["dev"],
        stage.in_postgres("dev"),
    );
}
