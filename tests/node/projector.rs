//! The Continuum projector from outside: events in, rows, standings and dead letters out, by every
//! way there is to ask.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use arqonbus::client::{Client, ConnectOptions, Outgoing, ProduceOptions};
use arqonbus::proto::claims::Role;
use arqonbus::proto::continuum::{EpisodeEvent, EpisodePayload};
use arqonbus::proto::v1::client_frame::Body as Ask;
use arqonbus::proto::v1::server_frame::Body as Answer;
use arqonbus::proto::v1::{self, envelope};
use prost::Message as _;
use serde_json::{Value, json};

use crate::json_adapter::scene;
use crate::raw::Request;
use crate::shell::{arqon, finished};
use crate::support::{self, Node, PATIENCE, claims, signed};
use crate::wire::Wire;

const TOPIC: &str = "continuum.episode.v1";
const EVENTS: &str = "arqonbus_continuum_projection_events";

fn id(letter: char, number: u32) -> String {
    format!("01J9ZQ6T2N8W4V5X6Y7Z8{letter}{number:04}")
}

/// The event of that number about an episode, that many seconds after noon.
fn event(number: u32, episode: u32, seconds: u32) -> Value {
    let (minute, second) = (seconds / 60, seconds % 60);
    json!({
        "event_id": id('A', number),
        "event_type": "episode.updated",
        "tenant_id": "dev",
        "agent_id": "planner",
        "episode_id": id('B', episode),
        "source_ts": format!("2026-01-31T12:{minute:02}:{second:02}Z"),
        "schema_version": 1,
        "payload": {
            "content_ref": format!("sqlite://episodes/{episode}"),
            "summary": format!("event {number}"),
            "tags": ["a", "b"],
            "metadata": { "number": number },
        },
    })
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("one object")
}

/// Runs to success; the JSON lines that it prints.
fn lines(node: &Node, arguments: &[&str]) -> Vec<Value> {
    let arguments = [&["projector"], arguments, &["--output", "json"]].concat();
    node.ok(&arguments).lines().map(json).collect()
}

fn one(node: &Node, arguments: &[&str]) -> Value {
    let mut lines = lines(node, arguments);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

/// Stores events as lines of JSON; the last sequence.
fn produce(node: &Node, events: &[Value]) -> u64 {
    let input: String = events.iter().map(|event| format!("{event}\n")).collect();
    let ran = node.run_with_input(&["produce", TOPIC, "--output", "json"], &input);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    json(&ran.stdout)["last"].as_u64().expect("a sequence")
}

fn wait(node: &Node, sequence: u64) {
    let sequence = sequence.to_string();
    let passed = one(node, &["wait", &sequence, "--timeout-ms", "20000"]);
    assert_eq!(passed["projection"], "continuum", "{passed}");
}

fn command(name: &str, body: &Value) -> Request {
    let (path, body) = (format!("/v1/commands/{name}"), body.to_string());
    Request::get(&path)
        .line(&format!("POST {path} HTTP/1.1"))
        .and("Content-Type", "application/json")
        .and("Content-Length", &body.len().to_string())
        .body(body.as_bytes())
}

/// 200 events in a first part of 170 and a rest: of 20 episodes, 10 repeated, 10 stale, 5 that
/// cannot be projected, one of them a tombstone.
fn events() -> Vec<Value> {
    let mut events: Vec<Value> = (0..170)
        .map(|number| event(number, number % 20, 600 + number))
        .collect();
    events.extend((0..10).map(|number| event(number, number, 600 + number)));
    events.extend((0..10).map(|number| event(200 + number, number, number)));
    events.extend((0..5).map(|number| {
        let mut poison = event(300 + number, 1, 900);
        poison["payload"] = json!({ "tags": ["no content_ref"] });
        poison
    }));
    let mut deleted = event(400, 19, 1_000);
    deleted["event_type"] = "episode.deleted".into();
    events.push(deleted);
    events.extend((0..4).map(|number| event(500 + number, 20 + number, 1_000)));
    events
}

/// The rows of all tables, as they are shown, without what only says when they were written.
fn tables(node: &Node) -> Vec<Value> {
    let names = ["arqonbus_continuum_projection", EVENTS, "dead_letters"];
    let tables = names.map(|table| lines(node, &["rows", "--table", table, "--limit", "1000"]));
    tables.concat()
}

// PRJ-03, PRJ-04, PRJ-09, PRJ-17, BRK-11
#[test]
fn events_become_rows_that_are_found_in_every_way() {
    let node = Node::dev();
    let events = events();
    assert_eq!(events.len(), 200);
    let last = produce(&node, &events);
    wait(&node, last);

    let status = one(&node, &["status"]);
    let sink = &status["sinks"][0];
    assert_eq!(
        (&sink["sink"], &sink["state"]),
        (&json!("sled"), &json!("running")),
        "{status}"
    );
    let became = |outcome: &str| one(&node, &["status"])["sinks"][0]["records"][outcome].clone();
    // The letters are read as well, and are no events.
    eventually(|| (became("ignored").as_u64() == Some(5)).then_some(()));
    for (outcome, count) in [
        ("projected", 175),
        ("duplicate", 10),
        ("stale_rejected", 10),
        ("dlq_queued", 5),
    ] {
        assert_eq!(became(outcome), count, "{outcome}");
    }

    let rows = lines(&node, &["list"]);
    assert_eq!(rows.len(), 24);
    let newest: Vec<_> = rows.iter().map(|row| &row["updated_at"]).collect();
    assert!(
        newest.is_sorted_by(|a, b| a.as_str() >= b.as_str()),
        "{newest:?}"
    );
    let row = one(&node, &["get", "planner", &id('B', 5)]);
    assert_eq!(row["last_event_id"], id('A', 165));
    assert_eq!(row["last_event_ts"], "2026-01-31T12:12:45.000000Z");
    assert_eq!(row["tags"], json!(["a", "b"]));
    assert_eq!(row["metadata"], json!({ "number": 165 }));
    assert_eq!(row["deleted"], false);
    let tombstone = one(&node, &["get", "planner", &id('B', 19)]);
    assert_eq!(
        (&tombstone["deleted"], &tombstone["event_type"]),
        (&json!(true), &json!("episode.deleted"))
    );
    let absent = node.run(&["projector", "get", "planner", "nobody"]);
    assert_eq!(absent.code, 1, "{}", absent.stderr);

    let stale = lines(
        &node,
        &["rows", "--table", EVENTS, "--outcome", "stale_rejected"],
    );
    let found: BTreeSet<_> = stale
        .iter()
        .map(|row| row["event_id"].to_string())
        .collect();
    let wanted = (200..210).map(|number| json!(id('A', number)).to_string());
    assert_eq!(found, wanted.collect());

    let letters = lines(&node, &["dlq", "list"]);
    assert_eq!(letters.len(), 5);
    for letter in &letters {
        assert_eq!(letter["topic"], TOPIC);
        let reason = letter["reason"].as_str().expect("a text");
        assert!(reason.starts_with("projection_failed:"), "{reason}");
        assert!(reason.contains("content_ref"), "{reason}");
        assert_eq!(letter["event"]["payload"]["tags"][0], "no content_ref");
    }
    let dlq_id = letters[0]["dlq_id"].as_str().expect("an id");
    assert_eq!(one(&node, &["dlq", "show", dlq_id]), letters[0]);
    let depth = "arqon_projection_dlq_depth{projection=\"continuum\",sink=\"sled\"} 5\n";
    eventually(|| metrics(&node).contains(depth).then_some(()));
}

fn metrics(node: &Node) -> String {
    Request::get("/metrics").send(node.ops).text()
}

/// Asks again until there is something.
fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "it does not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn page(node: &Node, after: &[&str]) -> Vec<Value> {
    let arguments = ["rows", "--limit", "2"].into_iter();
    let after = after.iter().flat_map(|value| ["--after", value]);
    let arguments: Vec<&str> = arguments.chain(after).collect();
    lines(node, &arguments)
}

// LOG-13, PRJ-10: who comes by the name of a deleted tenant finds nothing of it, and is projected.
#[test]
fn a_deleted_tenant_leaves_no_rows() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let node = Node::dev_on(&data);
    let events: Vec<Value> = (0..9).map(|number| event(number, number, number)).collect();
    wait(&node, produce(&node, &events));
    node.signal("TERM");
    assert!(node.ended().0.success());
    let mut delete = support::command(&["tenant", "delete", "dev", "--confirm", "dev", "--data"]);
    let deleted = delete.arg(&data).output().expect("it runs");
    assert!(deleted.status.success(), "{deleted:?}");

    let node = Node::dev_on(&data);
    assert_eq!(lines(&node, &["list"]), Vec::<Value>::new());
    wait(&node, produce(&node, &[event(20, 20, 20)]));
    let rows = lines(&node, &["list"]);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["episode_id"], id('B', 20));
}

// PRJ-03
#[test]
fn rows_are_listed_page_by_page_and_by_what_they_hold() {
    let node = Node::dev();
    let events: Vec<Value> = (0..5).map(|number| event(number, number, number)).collect();
    wait(&node, produce(&node, &events));
    let mut seen = Vec::new();
    let mut rows = page(&node, &[]);
    while let Some(last) = rows.last() {
        let (agent, episode) = (&last["agent_id"], &last["episode_id"]);
        let after = [agent, episode].map(|value| value.as_str().expect("a text").to_owned());
        seen.extend(rows.iter().map(|row| row["episode_id"].clone()));
        rows = page(&node, &after.each_ref().map(String::as_str));
    }
    let wanted: Vec<Value> = (0..5).map(|number| id('B', number).into()).collect();
    assert_eq!(seen, wanted);
    let by_value = lines(
        &node,
        &["rows", "--where", &format!("last_event_id={}", id('A', 3))],
    );
    assert_eq!(by_value.len(), 1);
    assert_eq!(by_value[0]["episode_id"], id('B', 3));
    for (wrong, field) in [
        (&["rows", "--table", "nothing"][..], "arguments.table"),
        (&["rows", "--limit", "1001"], "arguments.limit"),
        (&["rows", "--where", "colour=red"], "arguments.where"),
        (&["rows", "--where", "deleted=perhaps"], "arguments.where"),
        (&["rows", "--outcome", "projected"], "arguments.outcome"),
        (&["rows", "--after", "planner"], "arguments.after"),
        (&["status", "--projection", "nothing"], "arguments.name"),
        (&["rows", "--sink", "nowhere"], "arguments.sink"),
    ] {
        let ran = node.run(&[&["projector"], wrong].concat());
        assert_eq!(ran.code, 1, "{wrong:?}: {}", ran.stdout);
        assert!(ran.stderr.contains(field), "{wrong:?}: {}", ran.stderr);
    }
}

// BRK-11, PRJ-03, PRJ-04, EDGE-06
#[test]
fn clients_of_the_older_system_find_its_projector() {
    let node = Node::dev();
    let seen = scene(&node, "projector");
    let data = |name: &str| {
        let answer = &seen[name];
        assert_eq!(answer["status"], "success", "{name}: {answer}");
        answer["payload"]["data"].clone()
    };
    let key = json!(["dev", "planner", id('B', 1)]);
    let projected = data("projected");
    assert_eq!(projected["status"], "projected", "{projected}");
    assert_eq!(projected["event_id"], id('A', 1));
    assert_eq!(projected["projection_key"], key);
    assert_eq!(projected["deleted"], false);
    assert_eq!(data("duplicate")["status"], "duplicate");
    assert_eq!(data("text")["status"], "duplicate");
    let found = data("found");
    assert_eq!(found["found"], true);
    let row = found["projection"].as_object().expect("a row");
    assert_eq!(row.len(), 13, "{row:?}");
    assert_eq!(row["tags"], json!(["a", "b"]));
    assert_eq!(row["last_event_ts"], "2026-01-31T12:00:10.000000Z");
    assert_eq!(data("deleted")["deleted"], true);
    let stale = data("stale");
    assert_eq!(stale["status"], "stale_rejected", "{stale}");
    assert_eq!(
        stale["existing_last_event_ts"],
        "2026-01-31T12:00:30.000000Z"
    );
    let dead = data("dead");
    assert_eq!(dead["status"], "dlq_queued", "{dead}");
    let error = dead["error"].as_str().expect("a text");
    assert!(error.contains("schema_version"), "{error}");
    assert_eq!(data("tombstone")["projection"]["deleted"], true);
    assert_eq!(data("missing")["found"], false);
    assert_eq!(data("list")["count"], 1);
    assert_eq!(data("of_agent")["items"], json!([]));
    for name in ["dlq", "dlq_by_alias"] {
        let letters = data(name);
        assert_eq!(letters["count"], 1, "{letters}");
        let letter = &letters["items"][0];
        assert_eq!(letter["dlq_id"], dead["dlq_id"]);
        assert_eq!(letter["topic"], "continuum.episode.dlq.v1");
        assert_eq!(letter["event"]["schema_version"], 2);
        assert!(letter["queued_at"].is_string(), "{letter}");
    }
    let status = data("status");
    let counts = ["projection_count", "seen_event_count", "dlq_count"].map(|name| &status[name]);
    assert_eq!(counts, [&json!(1), &json!(3), &json!(1)], "{status}");
    for (name, code) in [
        ("foreign", "TENANT_MISMATCH"),
        ("not_theirs", "TENANT_MISMATCH"),
        ("no_object", "VALIDATION_ERROR"),
        ("too_many", "VALIDATION_ERROR"),
    ] {
        let answer = seen[name].to_string();
        assert!(answer.contains(code), "{name}: {answer}");
    }
}

// PRJ-17, PRJ-09, EDGE-23
#[test]
fn http_shows_projections_and_waits_for_them() {
    let node = Node::dev();
    let given = json!({ "event": event(1, 1, 1) });
    let name = "op.continuum.projector.project_event";
    let answer = command(name, &given).send(node.ops);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let result = &answer.json()["result"];
    assert_eq!(result["status"], "projected", "{result}");
    let sequence = result["sequence"].as_u64().expect("a sequence");

    let list = Request::get("/v1/projections").send(node.ops).json();
    assert_eq!(list["result"][0]["projection"], "continuum", "{list}");
    let passed = format!("/v1/projections/continuum?wait_for={sequence}&timeout_ms=4000");
    let passed = Request::get(&passed).send(node.ops);
    assert_eq!(passed.status, 200, "{}", passed.text());
    let sink = &passed.json()["result"]["sinks"][0];
    assert!(sink["next"].as_u64() > Some(sequence), "{sink}");
    let started = Instant::now();
    let not_yet = Request::get("/v1/projections/continuum?wait_for=999999&timeout_ms=300");
    let not_yet = not_yet.send(node.ops);
    let error = &not_yet.json()["error"];
    assert_eq!((not_yet.status, &error["code"]), (504, &json!("NOT_YET")));
    assert_eq!(error["field"], "arguments.wait_for", "{error}");
    assert!(started.elapsed() >= Duration::from_millis(300));
    let none = Request::get("/v1/projections/nothing").send(node.ops);
    assert_eq!(none.status, 404);
    let twice = Request::get("/v1/projections/continuum?name=other").send(node.ops);
    assert_eq!(twice.status, 400);

    let of = "{projection=\"continuum\",sink=\"sled\"";
    let text = metrics(&node);
    for wanted in [
        format!("arqon_projection_lag_records{of}}} 0\n"),
        format!("arqon_projection_lag_seconds{of}}} 0"),
        format!("arqon_projection_records_total{of},outcome=\"projected\"}} 1\n"),
        format!("arqon_projection_batches_total{of}}} "),
        format!("arqon_projection_batch_seconds_total{of}}} "),
        format!("arqon_projection_errors_total{of}}} 0\n"),
        format!("arqon_projection_state{of},state=\"running\"}} 1\n"),
    ] {
        assert!(text.contains(&wanted), "{wanted}: {text}");
    }
    assert_eq!(Request::get("/readyz").send(node.ops).status, 200);
}

async fn client(node: &Node) -> Client {
    let options = ConnectOptions::new(node.url(), node.dev_token());
    Client::connect(options).await.expect("a session")
}

// PRJ-17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_events_are_read_as_soon_as_the_client_has_waited() {
    let node = Node::dev();
    let client = client(&node).await;
    let mut batch = client.batch();
    for number in 0..50 {
        let message = EpisodeEvent {
            event_id: id('A', number),
            event_type: "episode.created".into(),
            tenant_id: "dev".into(),
            agent_id: "planner".into(),
            episode_id: id('B', number),
            source_ts: Some(prost_types::Timestamp {
                seconds: 1_769_860_800,
                nanos: 0,
            }),
            schema_version: 1,
            payload: Some(EpisodePayload {
                content_ref: "sqlite://episodes/1".into(),
                tags: vec!["typed".into()],
                ..EpisodePayload::default()
            }),
        };
        batch.push(&Outgoing {
            topic: TOPIC,
            data: &message.encode_to_vec(),
            schema: "arqon.continuum.v1.EpisodeEvent",
            ..Outgoing::default()
        });
    }
    let options = ProduceOptions::default();
    let stored = client.produce(&batch, &options).await.expect("stored");
    let within = Duration::from_secs(20);
    let next = client.projected("continuum", stored.last, within).await;
    assert!(next.expect("it has passed") > stored.last);
    let limit = [("limit", 1_000_u64.into())];
    let list = client.command("op.continuum.projector.list", limit).await;
    let list = list.expect("rows").to_json();
    assert_eq!(list["count"], 50, "{list}");
    assert_eq!(list["items"][0]["tags"], json!(["typed"]));
    let late = client.projected("continuum", 9_999, Duration::from_millis(50));
    let late = late.await.expect_err("nothing is there");
    assert!(late.to_string().contains("has not passed 9999"), "{late}");
}

fn batch(events: &[Value], projections: &[&str]) -> Ask {
    let envelopes = events.iter().map(|event| {
        let envelope = v1::Envelope {
            topic: TOPIC.into(),
            payload: Some(envelope::Payload::Event(v1::Event {
                r#type: "episode".into(),
                data: event.to_string().into(),
            })),
            ..v1::Envelope::default()
        };
        envelope.encode_to_vec().into()
    });
    Ask::Produce(v1::Produce {
        envelopes: envelopes.collect(),
        then_projected: projections.iter().map(|&name| name.to_owned()).collect(),
        ..v1::Produce::default()
    })
}

fn produced(session: &mut Wire) -> v1::Produced {
    match session.next().expect("an answer").body {
        Some(Answer::Produced(produced)) => produced,
        other => panic!("no Produced but {other:?}"),
    }
}

// PRJ-17, MSG-03
#[test]
fn a_batch_is_acknowledged_again_when_a_projection_has_passed_it() {
    let node = Node::dev();
    let mut session = Wire::with(&node, &node.dev_token());
    session.send(batch(&[event(1, 1, 1), event(2, 2, 2)], &["continuum"]));
    let stored = produced(&mut session);
    assert_eq!((stored.last, stored.projected.as_str()), (2, ""));
    let passed = produced(&mut session);
    assert_eq!(
        (passed.first, passed.last, passed.projected.as_str()),
        (1, 2, "continuum")
    );
    let row = one(&node, &["get", "planner", &id('B', 2)]);
    assert_eq!(row["last_event_id"], id('A', 2));

    // A projection that stands still keeps no producer waiting.
    one(&node, &["pause"]);
    for number in 3..6 {
        session.send(batch(&[event(number, number, number)], &["continuum"]));
        assert_eq!(produced(&mut session).projected, "");
    }
    let lag = eventually(|| {
        let sink = one(&node, &["status"])["sinks"][0].clone();
        (sink["lag_records"].as_u64() >= Some(3)).then_some(sink)
    });
    assert_eq!(lag["state"], "paused", "{lag}");
    one(&node, &["resume"]);
    let mut last: Vec<u64> = (3..6)
        .map(|_| {
            let passed = produced(&mut session);
            assert_eq!(passed.projected, "continuum");
            passed.last
        })
        .collect();
    last.sort_unstable();
    assert_eq!(last, [3, 4, 5]);

    for (names, field) in [
        (&["nothing"][..], "then_projected[0]"),
        (&["continuum"; 9], "then_projected"),
    ] {
        session.send(batch(&[event(9, 9, 9)], names));
        match session.next().expect("an answer").body {
            Some(Answer::Error(error)) => assert_eq!(error.field, field),
            other => panic!("no Error but {other:?}"),
        }
    }
}

/// Ends a node in one way, and starts it again on what it leaves.
fn restarted(node: Node, signal: &str, data: &Path) -> Node {
    node.signal(signal);
    drop(node.ended());
    Node::dev_on(data)
}

// PRJ-01, PRJ-03, BRK-15
#[test]
fn tables_and_pauses_outlive_the_node() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let node = Node::dev_on(&data);
    let events = events();
    wait(&node, produce(&node, &events[..100]));
    let before = tables(&node);
    let node = restarted(node, "TERM", &data);
    assert!(tables(&node) == before, "other rows than before");

    // Killed right after it was stored: whatever the projection had of it, nothing is missing and
    // nothing is there twice.
    let last = produce(&node, &events[100..]);
    let node = restarted(node, "KILL", &data);
    wait(&node, last);
    eventually(|| (lines(&node, &["dlq", "list"]).len() == 5).then_some(()));
    assert_eq!(lines(&node, &["list"]).len(), 24);
    let whole = tables(&node);

    // A kill may cost the embedded tables what came last, until the projection goes on.
    one(&node, &["pause"]);
    let node = restarted(node, "TERM", &data);
    let last = produce(&node, &[event(600, 50, 1)]);
    let sequence = last.to_string();
    let stays = ["projector", "wait", &sequence, "--timeout-ms", "500"];
    let stays = node.run(&stays);
    assert_eq!(stays.code, 75, "{}", stays.stdout);
    assert!(stays.stderr.contains("NOT_YET"), "{}", stays.stderr);
    assert!(tables(&node) == whole, "other rows than before");
    let sink = one(&node, &["status"])["sinks"][0].clone();
    assert_eq!(sink["state"], "paused", "{sink}");
    one(&node, &["resume"]);
    wait(&node, last);
    one(&node, &["get", "planner", &id('B', 50)]);
}

// EDGE-06, BRK-11
#[test]
fn another_tenant_and_a_user_see_and_steer_nothing() {
    let node = Node::dev();
    wait(&node, produce(&node, &[event(1, 1, 1)]));
    let as_other = |tenant: &str, role, arguments: &[&str]| {
        let token = signed(&claims(tenant, role), &node.dev_secret());
        finished(
            arqon(&node.url(), &token, arguments)
                .spawn()
                .expect("it starts"),
        )
    };
    let rival = as_other("rival", Role::Admin, &["projector", "list", "-o", "json"]);
    assert_eq!(
        (rival.code, rival.stdout.as_str()),
        (0, ""),
        "{}",
        rival.stderr
    );
    let get = ["projector", "get", "planner", &id('B', 1)];
    assert_eq!(as_other("rival", Role::Admin, &get).code, 1);
    let paused = as_other("rival", Role::Admin, &["projector", "pause"]);
    assert_eq!(paused.code, 0, "{}", paused.stderr);
    wait(&node, produce(&node, &[event(2, 2, 2)]));
    for verb in ["list", "pause", "resume"] {
        let user = as_other("dev", Role::User, &["projector", verb]);
        assert_ne!(user.code, 0, "{verb}");
        assert!(user.stderr.contains("FORBIDDEN"), "{verb}: {}", user.stderr);
    }
    let own = as_other("dev", Role::User, &["projector", "status"]);
    assert_eq!(own.code, 0, "{}", own.stderr);
    // Whoever may not publish there has no event appended by another way.
    let event = event(3, 3, 3).to_string();
    let mut narrow = claims("dev", Role::Admin);
    narrow.publish = Some(vec!["other.>".into()]);
    let token = signed(&narrow, &node.dev_secret());
    let asked = arqon(&node.url(), &token, &["projector", "event", &event]).spawn();
    let ran = finished(asked.expect("it starts"));
    assert!(
        ran.stderr.contains("FORBIDDEN"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
}
