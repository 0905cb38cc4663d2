//! Rows and positions: what is written is what the fold says, and comes back as it was.

use arqonbus::log::{Micros, Sequence};
use arqonbus::projections::fold::{Known, Outcome};
use arqonbus::projections::json;
use arqonbus::projections::projection::Projection as _;
use arqonbus::projections::sink::{Commit, Query, Question, Sink, SinkError, Write};
use arqonbus::projections::table::{Cell, Column, Kind, Row};
use bytes::Bytes;

use super::{prepared, ready, sink};
use crate::episodes::{
    EPISODES, EVENTS, Episodes, KINDS, batch, drive, event, expected, held, letter, next_of,
    outcomes, place, trouble, without_letter,
};
use crate::servers::postgres::Server;

// PRJ-01 PRJ-02 PRJ-03 PRJ-08: in batches or one by one, the tables are the fold of the log.
#[tokio::test]
async fn the_tables_are_the_fold_of_the_log() {
    let (_, _, sink) = ready().await;
    let (episodes, place) = (Episodes::new(), place("acme"));
    let entries = trouble("acme", 600);
    for outcome in [Outcome::Projected, Outcome::Duplicate, Outcome::Stale] {
        assert!(
            outcomes(&episodes, &entries, outcome) > 5,
            "{outcome:?} occurs"
        );
    }
    let errors = drive(&sink, &episodes, &place, &entries, |_| {}).await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(
        held(&sink, &episodes, &place).await,
        expected(&episodes, &entries)
    );
}

// PRJ-03: the database holds the guard by itself, whatever the one who writes believes to know;
// texts are compared byte by byte, in a database of any collation.
#[tokio::test]
async fn an_older_row_never_overwrites_and_ties_go_by_bytes() {
    let server = Server::of_all();
    let database = server.database();
    let name = format!("{}_icu", database.name);
    server.sql(
        "postgres",
        &format!(
            "CREATE DATABASE {name} OWNER {} TEMPLATE template0 \
             LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C.UTF-8'",
            database.owner
        ),
    );
    let sink = prepared(&server.url(&database.owner, "first", &name)).await;
    let (episodes, place) = (Episodes::new(), place("acme"));
    let epoch = sink.take(&place).await.expect("taken").epoch;
    // By bytes `B` is before `a`; by the language's order it is after it.
    for (at, id, wanted) in [
        (5, "a", "a"),
        (5, "B", "a"),
        (5, "a", "a"),
        (4, "z", "a"),
        (5, "b", "b"),
        (6, "A", "A"),
    ] {
        let entry = event("acme", 1, id, 1, at);
        let folded = Known::default().fold(
            episodes.tables(),
            vec![entry],
            arqonbus::projections::fold::Repeats::AreDone,
        );
        let commit = Commit {
            writes: folded.writes,
            moves: None,
            epoch,
        };
        sink.commit(&episodes, &place, &commit)
            .await
            .expect("committed");
        let query = Query {
            limit: 2,
            ..Query::default()
        };
        let rows = sink
            .rows(&episodes, &place, EPISODES, &query)
            .await
            .expect("rows");
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].0[9], Cell::from(wanted), "after {at} {id}");
    }
    let query = Query {
        limit: 9,
        ..Query::default()
    };
    let events = sink
        .rows(&episodes, &place, EVENTS, &query)
        .await
        .expect("rows");
    let ids: Vec<_> = events.iter().filter_map(|row| row.0[2].text()).collect();
    assert_eq!(ids, ["A", "B", "a", "b", "z"], "listed by bytes");
}

fn of_all_kinds(number: i64, json: &str, filled: bool) -> Row {
    let or_null = |cell| if filled { cell } else { Cell::Null };
    Row(vec![
        "acme".into(),
        "Grüße, 世界 'quoted' \\ \"\u{1}".into(),
        Cell::Integer(number),
        or_null(Cell::Float(-1.5e-300)),
        or_null(Cell::Boolean(true)),
        or_null(Cell::Timestamp(Micros(1_700_000_000_123_457))),
        or_null(Cell::Json(json::canonical_text(json).expect("JSON"))),
        or_null(Cell::Bytes(Bytes::from_static(b"\0\xff\0"))),
    ])
}

// PRJ-07: a row that went through the database has the same hash as before.
#[tokio::test]
async fn every_type_comes_back_as_it_went() {
    let (_, _, sink) = ready().await;
    let (episodes, place) = (Episodes::new(), place("acme"));
    let epoch = sink.take(&place).await.expect("taken").epoch;
    let samples = [
        "{}",
        r#"{"bb":1,"a":[1.0,0.1,-0.0,1e300,1e-7,12345678901234567890,null,true]}"#,
        "1e17",
        "[9007199254740993.0,-9e18,2e19,1.7976931348623157e308,5e-324]",
        r#""\u0001\ud83d\ude00\\u0000""#,
        r#"{"":{"é":[],"z":{}}}"#,
    ];
    for (number, sample) in (1..).zip(samples) {
        for filled in [true, false] {
            let row = of_all_kinds(number * 2 + i64::from(!filled), sample, filled);
            row.check(&episodes.tables()[KINDS]).expect("fits");
            let writes = vec![Write::Put {
                table: KINDS,
                row: row.clone(),
            }];
            let commit = Commit {
                writes,
                moves: None,
                epoch,
            };
            sink.commit(&episodes, &place, &commit)
                .await
                .expect("committed");
            let key = episodes.tables()[KINDS].key_of(&row);
            let read = sink
                .row(&episodes, &place, KINDS, &key)
                .await
                .expect("read");
            assert_eq!(read.as_ref(), Some(&row), "{sample}");
            assert_eq!(read.map(|row| row.hash()), Some(row.hash()), "{sample}");
        }
    }
}

// PRJ-03: versions are looked up for many keys of several tables at once.
#[tokio::test]
async fn keys_are_looked_up_in_any_order() {
    let (_, _, sink) = ready().await;
    let (episodes, place) = (Episodes::new(), place("acme"));
    let entries: Vec<_> = (1..=5)
        .map(|n| event("acme", n, &format!("e{n}"), n, n))
        .collect();
    drive(&sink, &episodes, &place, &entries, |_| {}).await;
    let tables = episodes.tables();
    let mut asked = Question::default();
    let mut wanted = Vec::new();
    for (n, there) in [(9, false), (3, true), (8, false), (5, true), (1, true)] {
        for change in event("acme", n, &format!("e{n}"), n, n).changes {
            let arqonbus::projections::projection::Change::Put { table, row } = change else {
                continue;
            };
            asked.keys.push((table, tables[table].key_of(&row)));
            wanted.push(there.then(|| tables[table].version_of(&row)));
        }
    }
    let answer = sink
        .look_up(&episodes, &place, &asked)
        .await
        .expect("answered");
    assert_eq!(answer, wanted);
}

// PRJ-13: who was replaced cannot write any more, not even one row.
#[tokio::test]
async fn a_second_taker_fences_the_first() {
    let (_, _, sink) = ready().await;
    let (episodes, place) = (Episodes::new(), place("acme"));
    let entries = trouble("acme", 50);
    let first = sink.take(&place).await.expect("taken");
    let first = batch(&sink, &episodes, &place, &entries[..10], first)
        .await
        .expect("done");
    let second = sink.take(&place).await.expect("taken over");
    assert!(second.epoch > first.epoch);
    assert_eq!((second.next, second.hash), (first.next, first.hash));
    let late = batch(&sink, &episodes, &place, &entries[10..20], first).await;
    assert!(matches!(late, Err(SinkError::Fenced { .. })), "{late:?}");
    let backfill = Commit {
        writes: Vec::new(),
        moves: None,
        epoch: first.epoch,
    };
    let late = sink.commit(&episodes, &place, &backfill).await;
    assert!(matches!(late, Err(SinkError::Fenced { .. })), "{late:?}");
    assert_eq!(
        held(&sink, &episodes, &place).await,
        expected(&episodes, &entries[..10])
    );
    let second = batch(&sink, &episodes, &place, &entries[10..30], second)
        .await
        .expect("done");
    // Nor does one move a position that is elsewhere by now.
    let repeated = batch(&sink, &episodes, &place, &entries[10..20], first).await;
    assert!(
        matches!(repeated, Err(SinkError::Fenced { .. })),
        "{repeated:?}"
    );
    assert_eq!(second.next, Sequence::at_least_first(31));
    assert_eq!(
        held(&sink, &episodes, &place).await,
        expected(&episodes, &entries[..30])
    );
}

// PRJ-01: a row that is removed and set again in one batch is the one that was set.
#[tokio::test]
async fn a_row_is_set_after_its_removal() {
    let (_, _, sink) = ready().await;
    let (episodes, place) = (Episodes::new(), place("acme"));
    let letters = [
        letter("acme", 1, 7),
        without_letter("acme", 2, 7),
        letter("acme", 3, 7),
    ];
    let at = sink.take(&place).await.expect("taken");
    let at = batch(&sink, &episodes, &place, &letters[..1], at)
        .await
        .expect("done");
    batch(&sink, &episodes, &place, &letters[1..], at)
        .await
        .expect("done");
    assert_eq!(
        held(&sink, &episodes, &place).await,
        expected(&episodes, &letters)
    );
}

// PRJ-04: a row that the database does not take is said to be one, and nothing of its batch stays.
#[tokio::test]
async fn a_refused_row_takes_its_batch_with_it() {
    let (server, database, sink) = ready().await;
    let (episodes, place) = (Episodes::new(), place("acme"));
    server.sql(
        &database.name,
        "ALTER TABLE arqonbus_continuum_projection ADD CHECK (episode_id <> 'episode-7')",
    );
    let entries: Vec<_> = (1..=9)
        .map(|n| event("acme", n, &format!("e{n}"), n, n))
        .collect();
    let at = sink.take(&place).await.expect("taken");
    let refused = batch(&sink, &episodes, &place, &entries, at).await;
    assert!(
        matches!(refused, Err(SinkError::Rejected { .. })),
        "{refused:?}"
    );
    assert_eq!(
        held(&sink, &episodes, &place).await,
        expected(&episodes, &[])
    );
    batch(&sink, &episodes, &place, &entries[..6], at)
        .await
        .expect("the others are taken");

    let foreign = event("other", 1, "e1", 1, 1);
    let foreign = batch(&sink, &episodes, &place, &[foreign], at).await;
    assert!(
        matches!(foreign, Err(SinkError::Rejected { .. })),
        "{foreign:?}"
    );
}

// PRJ-07: a reader sees the old rows or the new ones, at every moment; a switch can be repeated.
#[tokio::test]
async fn a_rebuilt_copy_is_switched_in_one_step() {
    let (server, database, sink) = ready().await;
    let (episodes, live) = (Episodes::new(), place("acme"));
    let next = next_of(&live);
    let entries = trouble("acme", 300);
    drive(&sink, &episodes, &live, &entries[..200], |_| {}).await;
    drive(
        &sink,
        &episodes,
        &place("other"),
        &trouble("other", 40),
        |_| {},
    )
    .await;
    server.sql(
        &database.name,
        "UPDATE arqonbus_continuum_projection SET content_ref = 'old' WHERE tenant_id = 'acme'",
    );
    // What an earlier rebuild left is gone.
    sink.clear_next(&episodes, &next).await.expect("cleared");
    drive(&sink, &episodes, &next, &trouble("acme", 30), |_| {}).await;
    sink.clear_next(&episodes, &next).await.expect("cleared");
    assert_eq!(sink.position(&next).await.expect("asked"), None);
    drive(&sink, &episodes, &next, &entries, |_| {}).await;
    assert_eq!(
        held(&sink, &episodes, &next).await,
        expected(&episodes, &entries)
    );

    let epoch = sink.take(&live).await.expect("taken").epoch;
    let late = sink.switch(&episodes, &live, epoch - 1).await;
    assert!(matches!(late, Err(SinkError::Fenced { .. })), "{late:?}");
    let watcher = tokio::spawn({
        let (sink, live) = (sink.clone(), live.clone());
        async move {
            let episodes = Episodes::new();
            let query = Query {
                limit: 1000,
                ..Query::default()
            };
            let mut seen = Vec::new();
            while seen.last() != Some(&false) {
                let rows = sink
                    .rows(&episodes, &live, EPISODES, &query)
                    .await
                    .expect("rows");
                let old = rows
                    .iter()
                    .filter(|row| row.0[4] == Cell::from("old"))
                    .count();
                assert!(
                    old == 0 || old == rows.len(),
                    "{old} of {} are old",
                    rows.len()
                );
                assert!(!rows.is_empty());
                seen.push(old > 0);
            }
            seen
        }
    });
    while server.sql(&database.name, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'arqonbus' AND query LIKE '%LIMIT%'") == "0" {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    sink.switch(&episodes, &live, epoch)
        .await
        .expect("switched");
    let seen = watcher.await.expect("watched");
    assert!(seen.contains(&true), "watched before the switch");
    assert_eq!(
        held(&sink, &episodes, &live).await,
        expected(&episodes, &entries)
    );
    assert_eq!(sink.position(&next).await.expect("asked"), None);
    sink.switch(&episodes, &live, epoch)
        .await
        .expect("nothing is left to do");
    assert_eq!(
        held(&sink, &episodes, &live).await,
        expected(&episodes, &entries)
    );
    assert_eq!(
        held(&sink, &episodes, &place("other")).await,
        expected(&episodes, &trouble("other", 40)),
        "of another tenant"
    );
    assert_eq!(
        server.sql(
            &database.name,
            "SELECT count(*) FROM arqonbus_continuum_projection__next"
        ),
        "0"
    );
}

// PRJ-07: a copy that an older version left is made anew, and who was filling it starts over.
#[tokio::test]
async fn a_copy_of_an_older_version_is_made_anew() {
    let (server, database, sink) = ready().await;
    let (episodes, next, other) = (
        Episodes::new(),
        next_of(&place("acme")),
        next_of(&place("other")),
    );
    sink.clear_next(&episodes, &other).await.expect("cleared");
    let at = sink.take(&other).await.expect("taken");
    server.sql(
        &database.name,
        "ALTER TABLE arqonbus_continuum_projection__next DROP COLUMN last_sequence",
    );
    sink.clear_next(&episodes, &next).await.expect("cleared");
    drive(&sink, &episodes, &next, &trouble("acme", 30), |_| {}).await;
    let late = batch(&sink, &episodes, &other, &trouble("other", 5), at).await;
    assert!(matches!(late, Err(SinkError::Fenced { .. })), "{late:?}");
}

// PRJ-14: a table that is there is used as it is, if it fits; else it is said what does not.
#[tokio::test]
async fn a_table_that_does_not_fit_is_refused_with_a_remedy() {
    let (server, database, sink) = ready().await;
    for (change, wanted) in [
        (
            "ALTER TABLE of_all_kinds ADD COLUMN more text DEFAULT 'x' NOT NULL",
            None,
        ),
        (
            "ALTER TABLE of_all_kinds ADD COLUMN must text NOT NULL",
            Some("\"must\""),
        ),
        (
            "ALTER TABLE of_all_kinds DROP COLUMN must, ALTER COLUMN flag SET NOT NULL",
            Some("DROP NOT NULL"),
        ),
        (
            "ALTER TABLE of_all_kinds ALTER COLUMN flag DROP NOT NULL, ALTER COLUMN number TYPE int",
            Some("bigint is needed"),
        ),
        (
            "ALTER TABLE of_all_kinds ALTER COLUMN number TYPE bigint, DROP CONSTRAINT of_all_kinds_pkey",
            Some("ADD UNIQUE (\"tenant_id\", \"text\")"),
        ),
        (
            "ALTER TABLE of_all_kinds ADD UNIQUE (text, tenant_id), DROP COLUMN raw",
            Some("ADD COLUMN \"raw\" bytea"),
        ),
        ("ALTER TABLE of_all_kinds ADD COLUMN raw bytea", None),
    ] {
        server.sql(&database.name, change);
        let done = sink.prepare(&Episodes::new()).await;
        match (done, wanted) {
            (Ok(()), None) => {}
            (Err(SinkError::Unfit { reason, .. }), Some(wanted)) => {
                assert!(reason.contains(wanted), "{change}: {reason}");
            }
            (done, _) => panic!("{change}: {done:?}"),
        }
    }
    for change in ["x".repeat(60), "short".to_owned()] {
        let mut table = Episodes::new().tables()[KINDS].clone();
        table.name = change;
        table.columns[1] = Column::new("text", Kind::Json);
        let odd = sink.prepare(&Episodes::with(vec![table])).await;
        assert!(matches!(odd, Err(SinkError::Unfit { .. })), "{odd:?}");
    }
}

// PRJ-12: without its migrations a database is not used.
#[tokio::test]
async fn a_database_that_is_not_migrated_is_refused() {
    let database = Server::of_all().database();
    let sink = sink(&database.url);
    let refused = sink.prepare(&Episodes::new()).await;
    let Err(SinkError::Unfit { reason, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert!(reason.contains("arqonbus migrate up"), "{reason}");
}

// PRJ-08: the walk over all rows of a tenant, page by page, goes along the key's index.
#[tokio::test]
async fn pages_go_along_the_index() {
    let (server, database, sink) = ready().await;
    let (episodes, place) = (Episodes::new(), place("acme"));
    let entries: Vec<_> = (1..=120)
        .map(|n| event("acme", n, &format!("e{n}"), n, n))
        .collect();
    drive(&sink, &episodes, &place, &entries, |_| {}).await;
    let mut query = Query {
        limit: 50,
        ..Query::default()
    };
    let mut seen = 0;
    loop {
        let page = sink
            .rows(&episodes, &place, EPISODES, &query)
            .await
            .expect("a page");
        let Some(last) = page.last() else { break };
        seen += page.len();
        query.after = Some(episodes.tables()[EPISODES].key_of(last));
    }
    assert_eq!(seen, 120);
    let plan = server.sql(
        &database.name,
        "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off;
         EXPLAIN SELECT * FROM arqonbus_continuum_projection AS t WHERE t.tenant_id = 'acme'::text
         AND ROW(t.tenant_id COLLATE \"C\", t.agent_id COLLATE \"C\", t.episode_id COLLATE \"C\")
           > ROW('acme', 'agent', 'x')
         ORDER BY t.tenant_id COLLATE \"C\", t.agent_id COLLATE \"C\", t.episode_id COLLATE \"C\" LIMIT 5",
    );
    assert!(
        plan.contains("Index Scan using arqonbus_continuum_projection_pkey"),
        "{plan}"
    );
    assert!(!plan.contains("Sort"), "{plan}");
    let newest = Query {
        equal: vec![(1, "agent".into()), (5, Cell::Null)],
        newest_by: Some(11),
        limit: 2,
        ..Query::default()
    };
    let rows = sink
        .rows(&episodes, &place, EPISODES, &newest)
        .await
        .expect("rows");
    let ids: Vec<_> = rows.iter().filter_map(|row| row.0[9].text()).collect();
    assert_eq!(ids, ["e120", "e119"]);
}
