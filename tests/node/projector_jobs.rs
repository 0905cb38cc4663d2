//! Backfills, rebuilds, verifications and dead letters dealt with, from outside: by `arqon`, and by
//! the commands of the older system.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::raw::Request;
use crate::support::Node;

const TOPIC: &str = "continuum.episode.v1";

fn id(letter: char, number: u32) -> String {
    format!("01J9ZQ6T2N8W4V5X6Y7Z8{letter}{number:04}")
}

/// The event of that number about an episode, that many seconds after noon.
fn event(number: u32, episode: u32, seconds: u32) -> Value {
    let agent = if episode.is_multiple_of(2) {
        "even"
    } else {
        "odd"
    };
    let (minute, second) = (seconds / 60, seconds % 60);
    json!({
        "event_id": id('A', number),
        "event_type": "episode.updated",
        "tenant_id": "dev",
        "agent_id": agent,
        "episode_id": id('B', episode),
        "source_ts": format!("2026-01-31T12:{minute:02}:{second:02}Z"),
        "schema_version": 1,
        "payload": { "content_ref": format!("sqlite://episodes/{episode}") },
    })
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("one object")
}

/// Runs; the exit code and the JSON lines that it prints.
fn ran(node: &Node, arguments: &[&str]) -> (i32, Vec<Value>, String) {
    let arguments = [&["projector"], arguments, &["--output", "json"]].concat();
    let ran = node.run(&arguments);
    let lines = ran.stdout.lines().map(json).collect();
    (ran.code, lines, ran.stderr)
}

fn one(node: &Node, arguments: &[&str]) -> Value {
    let (code, mut lines, errors) = ran(node, arguments);
    assert_eq!((code, lines.len()), (0, 1), "{lines:?} {errors}");
    lines.remove(0)
}

fn produce(node: &Node, events: &[Value]) {
    let input: String = events.iter().map(|event| format!("{event}\n")).collect();
    let ran = node.run_with_input(&["produce", TOPIC, "--output", "json"], &input);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let last = json(&ran.stdout)["last"].to_string();
    one(node, &["wait", &last, "--timeout-ms", "20000"]);
}

fn letters(node: &Node) -> Vec<String> {
    let (_, lines, _) = ran(node, &["dlq", "list"]);
    let ids = lines
        .iter()
        .map(|line| line["dlq_id"].as_str().expect("an id"));
    ids.map(str::to_owned).collect()
}

fn filled() -> Node {
    let node = Node::dev();
    let mut events: Vec<Value> = (0..60)
        .map(|number| event(number, number % 6, number))
        .collect();
    let mut poison = event(90, 1, 90);
    poison["payload"] = json!({});
    events.push(poison);
    produce(&node, &events);
    let until = Instant::now() + Duration::from_secs(10);
    while letters(&node).len() != 1 {
        assert!(Instant::now() < until, "the dead letter never came");
    }
    node
}

fn command(node: &Node, name: &str, body: &Value) -> Value {
    let (path, body) = (format!("/v1/commands/{name}"), body.to_string());
    let request = Request::get(&path)
        .line(&format!("POST {path} HTTP/1.1"))
        .and("Content-Type", "application/json")
        .and("Content-Length", &body.len().to_string())
        .body(body.as_bytes());
    request.send(node.ops).json()
}

// PRJ-06
#[test]
fn a_backfill_counts_and_a_dry_run_counts_the_same() {
    let node = filled();
    let range = [
        "backfill",
        "--from-ts",
        "2026-01-31T12:00:10Z",
        "--to-ts",
        "2026-01-31T12:00:19Z",
    ];
    let job = one(&node, &[&range[..], &["--dry-run"]].concat());
    assert_eq!(
        (&job["state"], &job["result"]["selected"]),
        (&json!("done"), &json!(10)),
        "{job}"
    );
    assert_eq!(job["result"]["dry_run"], true);
    assert_eq!(job["records"]["projected"], 0);
    let odd = one(&node, &[&range[..], &["--agent", "odd"]].concat());
    assert_eq!(odd["result"]["selected"], 5, "{odd}");
    let jobs = ran(&node, &["jobs"]).1;
    assert_eq!(jobs.len(), 2);
    let (code, _, errors) = ran(&node, &[&range[..], &["--tenant", "another"]].concat());
    assert_ne!(code, 0);
    assert!(errors.contains("tenant_id"), "{errors}");
    let backwards = [
        "backfill",
        "--from-ts",
        "2026-02-01T00:00:00Z",
        "--to-ts",
        "2026-01-01T00:00:00Z",
    ];
    let (code, _, errors) = ran(&node, &backwards);
    assert_ne!(code, 0);
    assert!(errors.contains("from_ts"), "{errors}");
    let (code, _, errors) = ran(&node, &["job", "pause", "none"]);
    assert_ne!(code, 0);
    assert!(errors.contains("there is no job"), "{errors}");
}

// PRJ-07 PRJ-18 MSG-10
#[test]
fn a_rebuild_and_a_verification_find_the_rows_to_be_those_of_the_log() {
    let node = filled();
    let verified = one(&node, &["verify"]);
    let result = &verified["result"];
    assert_eq!(
        (&result["right"], &result["chain"]),
        (&json!(true), &json!("same")),
        "{verified}"
    );
    assert_eq!(result["tables"][0]["rows_found"], 6);
    let compared = one(&node, &["rebuild", "--compare-only"]);
    assert_eq!(compared["result"]["switched"], false);
    let rebuilt = one(&node, &["rebuild"]);
    let result = &rebuilt["result"];
    assert_eq!(
        (&result["switched"], &result["same"]),
        (&json!(true), &json!(true)),
        "{rebuilt}"
    );
    for table in result["tables"].as_array().expect("tables") {
        assert_eq!(table["hash_expected"], table["hash_found"], "{table}");
    }
    produce(&node, &[event(100, 7, 100)]);
    let verified = one(&node, &["verify"]);
    assert_eq!(verified["result"]["right"], true, "{verified}");
    assert_eq!(verified["result"]["tables"][0]["rows_found"], 7);
}

// PRJ-05
#[test]
fn dead_letters_are_mended_or_thrown_away() {
    let node = filled();
    let letter = letters(&node).remove(0);
    let (code, lines, errors) = ran(&node, &["dlq", "replay", &letter]);
    assert_eq!(code, 1, "{errors}");
    assert_eq!(lines[0]["outcome"], "still_failing", "{lines:?}");
    assert!(
        lines[0]["error"]
            .as_str()
            .expect("why")
            .contains("content_ref"),
        "{lines:?}"
    );
    let mended = event(90, 1, 90).to_string();
    let done = one(&node, &["dlq", "replay", &letter, "--event", &mended]);
    assert_eq!(
        (&done["outcome"], &done["dlq_id"]),
        (&json!("projected"), &json!(letter))
    );
    assert_eq!(letters(&node), Vec::<String>::new());
    let mut poison = event(91, 1, 91);
    poison["payload"] = json!({});
    produce(&node, &[poison]);
    let until = Instant::now() + Duration::from_secs(10);
    while letters(&node).is_empty() {
        assert!(Instant::now() < until, "the dead letter never came");
    }
    let filter = [
        "dlq",
        "discard",
        "--reason-contains",
        "content_ref",
        "--reason",
        "a test",
    ];
    assert_eq!(one(&node, &filter)["outcome"], "discarded");
    assert_eq!(letters(&node), Vec::<String>::new());
    // A number alone says nothing of which.
    let (code, _, errors) = ran(&node, &["dlq", "replay", "--limit", "5"]);
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("--older-than"), "{errors}");
    let (code, _, errors) = ran(&node, &["dlq", "discard", "--reason", "everything"]);
    assert_eq!(code, 2, "{errors}");
    assert_eq!(one(&node, &["verify"])["result"]["right"], true);
}

// PRJ-05 PRJ-06
#[test]
fn the_older_names_answer_as_they_did() {
    let node = filled();
    let range = json!({"from_ts": "2026-01-31T12:00:00Z", "to_ts": "2026-01-31T12:00:29Z", "dry_run": true});
    let said = command(&node, "op.continuum.projector.backfill", &range);
    let result = &said["result"];
    assert_eq!(result["selected_count"], 30, "{said}");
    assert_eq!(result["dry_run"], true);
    assert_eq!(result["projected"], 0);
    let untrue = json!({"from_ts": "2026-01-31T12:00:00Z", "to_ts": "2026-01-31T12:00:29Z", "dry_run": "no"});
    let said = command(&node, "op.continuum.projector.backfill", &untrue);
    assert!(
        said.to_string().contains("dry_run"),
        "a text is neither true nor false: {said}"
    );
    for name in ["dlq.replay", "dlq_replay"] {
        let name = format!("op.continuum.projector.{name}");
        let unknown = json!({"dlq_id": "00000000-0000-0000-0000-000000000000"});
        let said = command(&node, &name, &unknown);
        assert_eq!(said["result"]["replayed"], false, "{said}");
        assert_eq!(said["result"]["reason"], "not_found");
        let letter = letters(&node).remove(0);
        let said = command(&node, &name, &json!({"dlq_id": letter}));
        assert_eq!(said["result"]["replayed"], false);
        assert_eq!(
            said["result"]["result"]["status"], "still_failing",
            "{said}"
        );
    }
}
