//! Tables that the settings declare, and messages as the older system kept them: real events in,
//! the same rows in every sink.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::servers::postgres::Server;
use crate::servers::redis::Redis;
use crate::shell::{EVENTS, earthquake_lines};
use crate::support::{Node, command};

/// The declaration that the demonstration uses.
const SETTINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quakes.toml");
const MESSAGES: &str = r#"[{topics=["quake.>"],sinks=["postgres","valkey"]}]"#;

fn json(line: &str) -> Value {
    serde_json::from_str(line).expect("one object")
}

/// All rows of `quakes` in a sink by their ids, page by page.
fn rows(node: &Node, sink: &str) -> BTreeMap<String, Value> {
    let mut rows = BTreeMap::new();
    let mut last = None;
    loop {
        let mut arguments = vec!["projector", "rows", "--projection", "quakes"];
        arguments.extend(["--sink", sink, "--limit", "1000", "--output", "json"]);
        arguments.extend(last.as_deref().into_iter().flat_map(|id| ["--after", id]));
        let page = node.ok(&arguments);
        let page: Vec<Value> = page.lines().map(json).collect();
        let Some(end) = page.last() else { return rows };
        last = Some(end["id"].as_str().expect("an id").to_owned());
        for row in page {
            let id = row["id"].as_str().expect("an id").to_owned();
            assert!(rows.insert(id, row).is_none(), "a row comes twice");
        }
    }
}

fn wait(node: &Node, projection: &str, sink: &str, sequence: &str) {
    let wait = ["projector", "wait", sequence, "--projection", projection];
    node.ok(&[&wait[..], &["--sink", sink, "--timeout-ms", "20000"]].concat());
}

// PRJ-07, PRJ-14, PRJ-18, PRJ-19: a few lines of settings give a table with columns of their types, the same in the
// embedded sink and in a database; the newest report of an earthquake decides, however late an older
// one comes. The messages themselves become the rows of the older system's table and a stream.
#[test]
fn earthquakes_become_a_table_without_code() {
    let server = Server::of_all();
    let (database, valkey) = (server.database(), Redis::start());
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = Node::configured(
        &dir.path().join("data"),
        Path::new(SETTINGS),
        &[
            ("ARQONBUS_POSTGRES_URL", &database.url),
            ("ARQONBUS_VALKEY_URL", &valkey.url()),
            ("ARQONBUS_PROJECTIONS__MESSAGES", MESSAGES),
        ],
    );
    let lines = earthquake_lines();
    // An older report of the first one, a newer one of the second, and one that is none.
    let mut older = json(&lines[0]);
    older["updated"] = "2018-01-31T00:00:00Z".into();
    older["mag"] = 9.9.into();
    let mut newer = json(&lines[1]);
    newer["updated"] = "2018-02-08T00:00:00Z".into();
    newer["mag"] = 1.5.into();
    let mut poison = json(&lines[2]);
    poison["mag"] = "strong".into();
    let events = format!("{}\n{older}\n{newer}\n{poison}\n", lines.join("\n"));
    let ran = node.run_with_input(&["produce", "quake.usgs.event"], &events);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let end = (EVENTS + 3).to_string();
    for sink in ["sled", "postgres"] {
        wait(&node, "quakes", sink, &end);
    }
    for sink in ["postgres", "valkey"] {
        wait(&node, "messages", sink, &end);
    }

    let (embedded, external) = (rows(&node, "sled"), rows(&node, "postgres"));
    assert_eq!(embedded.len(), EVENTS);
    assert_eq!(embedded, external);
    for (sequence, line) in (1..).zip(&lines) {
        let event = json(line);
        let row = &embedded[event["id"].as_str().expect("an id")];
        let is_second = sequence == 2;
        let magnitude = if is_second {
            &newer["mag"]
        } else {
            &event["mag"]
        };
        assert_eq!(row["magnitude"].as_f64(), magnitude.as_f64(), "{row}");
        assert_eq!(row["place"], event["place"]);
        assert_eq!(row["tsunami"], event["tsunami"]);
        let wanted = if is_second { EVENTS + 2 } else { sequence };
        assert_eq!(row["sequence"], wanted, "{row}");
    }

    let ask = |statement: &str| server.sql(&database.name, statement);
    let types = "SELECT string_agg(column_name || ' ' || data_type, ', ' ORDER BY column_name)
        FROM information_schema.columns
        WHERE table_name = 'quakes' AND column_name IN ('id', 'magnitude', 'time', 'tsunami')";
    assert_eq!(
        ask(types),
        "id text, magnitude double precision, time timestamp with time zone, tsunami bigint"
    );
    let strongest =
        "SELECT tenant_id, magnitude, place FROM quakes ORDER BY magnitude DESC LIMIT 1";
    assert_eq!(ask(strongest), "dev|6.4|22km NNE of Hualian, Taiwan");
    let dead = "SELECT count(*), min(sequence), bool_and(reason LIKE '%mag%') FROM quakes_dlq";
    assert_eq!(ask(dead), format!("1|{}|t", EVENTS + 3));
    for sink in ["sled", "postgres"] {
        let verify = ["projector", "verify", "--projection", "quakes"];
        node.ok(&[&verify[..], &["--sink", sink]].concat());
        let rebuild = ["projector", "rebuild", "--projection", "quakes"];
        node.ok(&[&rebuild[..], &["--sink", sink]].concat());
        assert_eq!(rows(&node, sink), embedded, "{sink}");
    }
    let standing = node.ok(&["projector", "status", "--all"]);
    assert!(standing.contains("quakes") && standing.contains("continuum"));

    let history = "SELECT count(*), count(DISTINCT message_id), min(sequence), max(sequence)
        FROM arqonbus_message_history WHERE tenant_id = 'dev' AND topic = 'quake.usgs.event'";
    assert_eq!(ask(history), format!("{0}|{0}|1|{0}", EVENTS + 3));
    let streams: Vec<String> = valkey
        .keys()
        .into_iter()
        .filter(|key| key.starts_with("tenant:dev:stream:"))
        .collect();
    assert_eq!(streams, ["tenant:dev:stream:messages"]);
    let entries: usize = valkey.ask(&["XLEN", "tenant:dev:stream:messages"]);
    assert_eq!(entries, EVENTS + 3);
}

// PRJ-14: a table that cannot be is refused before anything is begun, also in its file.
#[test]
fn a_declaration_that_cannot_be_is_refused_with_its_file_untouched() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let text = std::fs::read_to_string(SETTINGS).expect("the settings");
    let broken = text.replace("key = [\"id\"]", "key = [\"nobody\"]");
    assert_ne!(text, broken);
    let file = dir.path().join("broken.toml");
    crate::support::write(&file, broken.as_bytes());
    let data = dir.path().join("data");
    let mut serve = command(&["serve", "--dev", "--config"]);
    let output = serve.arg(&file).arg("--data").arg(&data).output();
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(
        said.contains("projections.own[0].key[0] = nobody"),
        "{said}"
    );
    assert!(!data.exists(), "nothing was begun");
}
