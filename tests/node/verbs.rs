//! The other verbs of `arqon`, and what it says when something is wrong.

use serde_json::Value;

use crate::shell::{EVENTS, arqon, finished};
use crate::support::{Node, claims, signed};
use arqonbus::proto::claims::Role;

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("one object")
}

// TOOL-02
#[test]
fn node_tells_about_itself() {
    let node = Node::dev().with_earthquakes();
    let topics = json(&node.ok(&["topics", "--output", "json"]));
    assert_eq!(topics["topic"], "usgs.quake", "{topics}");
    assert_eq!(topics["records"], EVENTS, "{topics}");
    let log = json(&node.ok(&["log", "status", "--output", "json"]));
    assert_eq!(log["durable_end"], EVENTS + 1, "{log}");
    assert!(json(&node.ok(&["status", "--output", "json"])).is_object());
    let version = json(&node.ok(&["version", "--output", "json"]));
    assert_eq!(version["client"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["node"], env!("CARGO_PKG_VERSION"));
    let table = node.ok(&["topics"]);
    assert!(
        table.contains("TOPIC") && table.contains("usgs.quake"),
        "{table}"
    );
    let line = node.ok(&["consume", ">", "--limit", "1"]);
    assert!(
        line.contains("usgs.quake") && line.contains("uw61345682"),
        "{line}"
    );
}

// MSG-08, MSG-10, MSG-12
#[test]
fn replay_into_another_reality_gives_the_same_events() {
    let node = Node::dev().with_earthquakes();
    let missing = node.run(&["replay", ">", "--from", "1", "--into", "what-if"]);
    assert_eq!(missing.code, 1, "{}", missing.stderr);
    assert!(missing.stderr.contains("NOT_FOUND"), "{}", missing.stderr);

    node.ok(&["reality", "create", "what-if"]);
    let listed = node.ok(&["reality", "list", "--output", "json"]);
    let listed: Vec<Value> = listed.lines().map(json).collect();
    assert!(listed.len() >= 2, "{listed:?}");
    let arguments = [
        "replay", ">", "--from", "1000", "--into", "what-if", "--verify", "--output", "json",
    ];
    let result = json(&node.ok(&arguments));
    assert_eq!(
        (&result["count"], &result["first"]),
        (&708.into(), &1.into())
    );
    assert_eq!(result["input_sha256"], result["output_sha256"]);

    let source = node.records(&["consume", ">", "--from", "1000", "--stop-at-end"]);
    let copy = node.records(&["consume", ">", "--stop-at-end", "--reality", "what-if"]);
    assert_eq!(copy.len(), 708);
    for (copied, original) in copy.iter().zip(&source) {
        assert_eq!(copied.payload.get(), original.payload.get());
        for same in ["id", "producer", "headers", "timestamp", "trace_id"] {
            assert_eq!(copied.rest[same], original.rest[same], "{same}");
        }
        assert_eq!(copied.rest["twist_id"], "main");
        assert_eq!(copied.rest["reality"], "what-if");
    }
}

// TOOL-02
#[test]
fn bad_line_stops_the_producer_and_is_named() {
    let node = Node::dev();
    let ran = node.run_with_input(
        &["produce", "a"],
        "{\"n\":1}\n{\"n\":2}\nnot json\n{\"n\":4}\n",
    );
    assert_eq!(ran.code, 65);
    assert!(ran.stderr.contains("line 3 is not JSON"), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("2 events are stored, sequences 1 to 2"),
        "{}",
        ran.stderr
    );
    assert_eq!(node.records(&["consume", ">", "--stop-at-end"]).len(), 2);
}

// TOOL-02
#[test]
fn producer_names_the_first_refused_line_and_all_that_are_stored() {
    let node = Node::dev();
    let input = ["a", "b..b", "c", "d", "e..e", "f"]
        .map(|topic| format!("{{\"topic\":\"{topic}\"}}\n"))
        .concat();
    let produce = ["produce", "--topic-field", "topic", "--batch", "1"];
    let ran = node.run_with_input(&produce, &input);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{}", ran.stderr);
    for said in [
        "storing line 2: VALIDATION_ERROR",
        "4 events are stored, sequences 1 to 4 (lines 1, 3 to 4, 6)",
        "not acknowledged: lines 2, 5",
    ] {
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
    let ran = node.run_with_input(&[&produce[..], &["--output", "json"]].concat(), &input);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let result = json(&ran.stdout);
    assert_eq!(
        (&result["count"], &result["first"], &result["last"]),
        (&4.into(), &5.into(), &8.into())
    );
    assert_eq!(result["failed_lines"], serde_json::json!([[2, 2], [5, 5]]));
    assert_eq!(result["unsent_from"], Value::Null);
    assert_eq!(result["error"]["code"], "VALIDATION_ERROR");
}

// TOOL-02
#[test]
fn line_that_is_not_json_has_one_number() {
    let node = Node::dev();
    let ran = node.run_with_input(&["produce", "a"], "1\n{\"n\":}\n");
    let said = "line 2 is not JSON: expected value at column 6; nothing from this line on was sent";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
}

// EDGE-09
#[test]
fn long_lines_are_cut_into_batches_that_the_node_takes() {
    let node = Node::dev();
    let line = format!("\"{}\"\n", "x".repeat(400_000));
    let ran = node.run_with_input(&["produce", "a", "--output", "json"], &line.repeat(50));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(
        json(&ran.stdout),
        serde_json::json!({"count": 50, "first": 1, "last": 50})
    );
    assert_eq!(node.records(&["consume", ">", "--stop-at-end"]).len(), 50);
}

#[test]
fn refused_topic_names_the_field() {
    let node = Node::dev();
    let ran = node.run_with_input(&["produce", "a..b"], "1\n");
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("VALIDATION_ERROR"), "{}", ran.stderr);
    assert!(ran.stderr.contains("topic"), "{}", ran.stderr);
    assert!(ran.stderr.contains("nothing is stored"), "{}", ran.stderr);
}

// EDGE-02, EDGE-06
#[test]
fn wrong_tokens_get_nothing() {
    let node = Node::dev().with_earthquakes();
    let secret = node.dev_secret();
    let mine = claims("dev", Role::User);
    let mut late = mine.clone();
    late.exp = 1;
    let expired = signed(&late, secret.trim_ascii_end());
    let forged = signed(&mine, b"another secret of at least 32 bytes");
    let consume = ["consume", ">", "--stop-at-end", "--output", "json"];
    for token in ["", "nonsense", &expired, &forged] {
        let ran = finished(arqon(&node.url(), token, &consume).spawn().expect("starts"));
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (77, ""),
            "{token}: {}",
            ran.stderr
        );
    }
    let other = signed(&claims("other", Role::Admin), secret.trim_ascii_end());
    let ran = finished(
        arqon(&node.url(), &other, &consume)
            .spawn()
            .expect("starts"),
    );
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
}

// EDGE-06
#[test]
fn minted_token_reaches_only_its_topics() {
    let node = Node::dev().with_earthquakes();
    let secret = node.data.join("dev-secret");
    let secret = secret.to_str().expect("text");
    let token = node.ok(&[
        "token",
        "mint",
        "--secret-file",
        secret,
        "--tenant",
        "dev",
        "--sub",
        "reader",
        "--sub-to",
        "usgs.>",
        "--pub",
        "notes.*",
    ]);
    let run = |arguments: &[&str]| {
        finished(
            arqon(&node.url(), token.trim(), arguments)
                .spawn()
                .expect("starts"),
        )
    };
    assert_eq!(run(&["consume", "usgs.quake", "--limit", "1"]).code, 0);
    let ran = run(&["consume", "orders", "--stop-at-end"]);
    assert_eq!(ran.code, 77, "{}", ran.stderr);
    let ran = run(&["reality", "create", "mine"]);
    assert_eq!(ran.code, 77, "{}", ran.stderr);
}

#[test]
fn exit_code_tells_what_went_wrong() {
    let node = Node::dev();
    let (url, token) = (node.url(), node.dev_token());
    drop(node);
    let run = |url: &str, arguments: &[&str]| {
        finished(arqon(url, &token, arguments).spawn().expect("starts")).code
    };
    assert_eq!(run(&url, &["status"]), 69);
    assert_eq!(run("nonsense", &["status"]), 78);
    assert_eq!(run(&url, &["no-such-verb"]), 2);
    assert_eq!(run(&url, &["consume"]), 2);
    assert_eq!(run(&url, &["consume", ">", "--from", "yesterday"]), 2);
    assert_eq!(run(&url, &["produce", "a", "--file", "/nonexistent"]), 66);
    assert_eq!(run("", &["version", "--client-only"]), 0);
}

// PERF-01
#[test]
fn benches_measure_what_they_say() {
    let node = Node::dev();
    let bench = |arguments: &[&str]| {
        json(&node.ok(&[&["bench"], arguments, &["--output", "json"]].concat()))
    };
    let produced = bench(&["produce", "--count", "2000", "--size", "100"]);
    assert_eq!(
        (&produced["count"], &produced["size"]),
        (&2000.into(), &100.into())
    );
    for rate in ["messages_per_s", "mb_per_s", "p50_us", "p99_us", "p999_us"] {
        assert!(
            produced[rate].as_f64().is_some_and(|rate| rate > 0.0),
            "{rate}: {produced}"
        );
    }
    let consumed = bench(&["consume", "--count", "2000"]);
    assert_eq!(consumed["count"], 2000, "{consumed}");
    let paced = bench(&["latency", "--rate", "1000", "--count", "200"]);
    assert!(
        paced["p50_us"].as_f64().is_some_and(|us| us > 0.0),
        "{paced}"
    );
    for more in [
        &["--rate", "0"][..],
        &["--rate", "0", "--ack"],
        &["--rate", "500", "--ack"],
    ] {
        let found = bench(
            &[
                &["latency", "--count", "50", "--durability", "written"],
                more,
            ]
            .concat(),
        );
        assert!(
            found["p99_us"].as_f64().is_some_and(|us| us > 0.0),
            "{found}"
        );
    }
    let fanned = bench(&["fanout", "--subscribers", "5", "--count", "100"]);
    assert_eq!(fanned["count"], 500, "{fanned}");
    let opened = bench(&["connections", "--count", "20", "--hold", "0"]);
    assert_eq!(opened["alive_after_hold"], 20, "{opened}");
}

fn run(mut command: std::process::Command) -> crate::shell::Ran {
    finished(command.spawn().expect("arqon starts"))
}

// TOOL-02
#[test]
fn context_that_is_named_goes_before_the_environment() {
    let node = Node::dev();
    let home = tempfile::tempdir().expect("a directory");
    let (url, token) = (node.url(), node.dev_token());
    let with_home = |url: &str, token: &str, arguments: &[&str]| {
        let mut command = arqon(url, token, arguments);
        command.env("XDG_CONFIG_HOME", home.path());
        run(command)
    };
    // Wrong on purpose: nothing of it may be used.
    let (elsewhere, foreign) = ("ws://127.0.0.1:1/v1/ws", "not.a.token");
    let add = [
        "context",
        "add",
        "dev",
        "--url",
        &url,
        "--token",
        token.trim(),
    ];
    let ran = with_home(elsewhere, foreign, &add);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("context `dev` kept"), "{}", ran.stdout);
    let ran = with_home(elsewhere, foreign, &["--context", "dev", "status"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let ran = with_home(elsewhere, foreign, &["status", "--context", "dev"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(with_home(elsewhere, foreign, &["status"]).code, 69);

    let add = ["context", "add", "bare", "--url", &url, "--output", "json"];
    let ran = with_home(elsewhere, foreign, &add);
    assert_eq!(json(&ran.stdout)["name"], "bare", "{}", ran.stderr);
    let ran = with_home(elsewhere, foreign, &["context", "list", "--output", "json"]);
    let rows: Vec<Value> = ran.stdout.lines().map(json).collect();
    assert_eq!(
        (&rows[0]["name"], &rows[0]["token"], &rows[1]["token"]),
        (&"bare".into(), &"none".into(), &"set".into())
    );
    let ran = with_home(elsewhere, foreign, &["--context", "bare", "status"]);
    assert_eq!(ran.code, 77, "{}", ran.stderr);
    let ran = with_home("", "", &["context", "add", "x", "--url", "nonsense"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("ws://HOST:PORT/v1/ws"),
        "{}",
        ran.stderr
    );
}

// TOOL-02
#[test]
fn url_that_is_not_spoken_is_refused_with_what_to_use() {
    let status = |url| run(arqon(url, "a.b.c", &["status"]));
    for url in ["http://127.0.0.1:9100", "nonsense"] {
        let ran = status(url);
        assert_eq!(ran.code, 78);
        assert!(
            ran.stderr.contains("ws://HOST:PORT/v1/ws"),
            "{}",
            ran.stderr
        );
    }
}

// EDGE-02
#[test]
fn token_that_is_missing_or_expired_is_said_to_be() {
    let node = Node::dev();
    let secret = node.dev_secret();
    let ran = run(arqon("ws://127.0.0.1:1/v1/ws", "", &["status"]));
    assert_eq!(ran.code, 77);
    assert!(
        ran.stderr
            .contains("no token: set ARQON_TOKEN, --token or a context")
    );
    let mut late = claims("dev", Role::User);
    late.exp = 1_600_000_000;
    let late = signed(&late, secret.trim_ascii_end());
    let ran = run(arqon(&node.url(), &late, &["status"]));
    assert_eq!(ran.code, 77);
    let said = "the token expired at 2020-09-13T12:26:40Z";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    let forged = signed(
        &claims("dev", Role::User),
        b"another secret of at least 32 bytes",
    );
    let ran = run(arqon(&node.url(), &forged, &["status"]));
    assert!(
        ran.stderr.contains("the node's log says why"),
        "{}",
        ran.stderr
    );
}

// EDGE-02
#[test]
fn token_that_no_node_would_take_is_not_minted() {
    let node = Node::dev();
    let secret = node.data.join("dev-secret");
    let secret = secret.to_str().expect("a path of text");
    let mint = [
        "token",
        "mint",
        "--secret-file",
        secret,
        "--sub",
        "me",
        "--tenant",
    ];
    for wrong in [
        &["Dev"][..],
        &["dev", "--pub", "a..b"],
        &["dev", "--sub-to", ">.a"],
    ] {
        let ran = run(arqon("", "", &[&mint, wrong].concat()));
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    }
    assert_eq!(run(arqon("", "", &[&mint[..], &["dev"]].concat())).code, 0);
}

// LOG-03, TOOL-02
#[test]
fn reader_that_met_damaged_records_prints_the_good_ones_and_fails() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::dev_on(dir.path());
    for line in ["\"first\"\n", "\"to-be-damaged\"\n", "\"third\"\n"] {
        assert_eq!(node.run_with_input(&["produce", "a"], line).code, 0);
    }
    node.signal("TERM");
    drop(node.ended());
    damage(&dir.path().join("dev/main"), b"to-be-damaged");
    let node = Node::dev_on(dir.path());
    let ways: [&[&str]; 5] = [
        &["consume", ">", "--stop-at-end"],
        &["consume", ">", "--stop-at-end", "--limit", "2"],
        &["consume", ">", "--stop-at-end", "--consumer", "reader"],
        &["replay", ">", "--from", "1"],
        &["replay", ">", "--from", "1", "--verify"],
    ];
    for way in ways {
        let ran = node.run(way);
        assert_eq!(ran.code, 65, "{way:?}: {}", ran.stderr);
        assert!(
            ran.stdout.contains("first") && ran.stdout.contains("third"),
            "{way:?}: {}",
            ran.stdout
        );
        let said = "lost: records 2 to 2 are damaged on the node's disk";
        assert!(ran.stderr.contains(said), "{way:?}: {}", ran.stderr);
    }
}

/// Flips one bit of the one place that holds `text`.
pub(crate) fn damage(log: &std::path::Path, text: &[u8]) {
    for entry in std::fs::read_dir(log).expect("a directory") {
        let path = entry.expect("an entry").path();
        if !path.is_file() {
            continue;
        }
        let mut bytes = std::fs::read(&path).expect("a file");
        if let Some(at) = bytes.windows(text.len()).position(|found| found == text) {
            bytes[at] ^= 1;
            return crate::support::write(&path, &bytes);
        }
    }
    panic!("no file holds it");
}

// TOOL-02
#[test]
fn verified_replay_ends_with_both_hashes_for_machines() {
    let node = Node::dev();
    assert_eq!(node.run_with_input(&["produce", "a"], "1\n2\n").code, 0);
    let replay = ["replay", ">", "--from", "1", "--verify", "--output", "json"];
    let text = node.ok(&replay);
    let lines: Vec<Value> = text.lines().map(json).collect();
    assert_eq!((lines.len(), &lines[0]["sequence"]), (3, &1.into()));
    assert_eq!(lines[2]["count"], 2);
    assert_eq!(lines[2]["input_sha256"], lines[2]["output_sha256"]);
}

// TOOL-02
#[test]
fn range_that_ends_before_it_begins_is_wrong_usage() {
    for verb in ["consume", "replay"] {
        let backwards = [verb, ">", "--from", "100", "--to", "50"];
        let ran = run(arqon("ws://127.0.0.1:1/v1/ws", "a.b.c", &backwards));
        assert_eq!(ran.code, 2, "{}", ran.stderr);
    }
}

// TOOL-02
#[test]
fn replay_of_what_is_still_to_come_is_wrong_usage() {
    let latest = ["replay", "a.>", "--from", "latest"];
    let ran = run(arqon("ws://127.0.0.1:1/v1/ws", "a.b.c", &latest));
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    let said = "`arqon consume 'a.>' --from latest`";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
}

// TOOL-02
#[test]
fn one_event_is_told_as_one() {
    let node = Node::dev();
    let ran = node.run_with_input(&["produce", "a"], "1\n");
    assert!(
        ran.stdout.starts_with("1 event stored, sequence 1, in "),
        "{}",
        ran.stdout
    );
    let ran = node.run_with_input(&["produce", "a"], "2\nno\n");
    assert!(
        ran.stderr.contains("1 event is stored, sequence 2 (line"),
        "{}",
        ran.stderr
    );
}

// LOG-03, TOOL-02: a log that takes no writes leaves no doubt about what became of them.
#[test]
fn producer_to_a_damaged_log_is_told_one_verdict() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::dev_on(dir.path());
    for line in ["\"to-be-damaged\"\n", "\"second\"\n", "\"third\"\n"] {
        assert_eq!(node.run_with_input(&["produce", "a"], line).code, 0);
    }
    node.signal("KILL");
    drop(node.ended());
    damage(&dir.path().join("dev/main"), b"to-be-damaged");
    let node = Node::dev_on(dir.path());
    let ran = node.run_with_input(&["produce", "a"], "4\n");
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    for said in ["nothing is stored", "`arqon log repair"] {
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
    assert!(!ran.stderr.contains("not known"), "{}", ran.stderr);
}

// TOOL-02
#[test]
fn full_disk_behind_standard_output_is_named() {
    let node = Node::dev();
    assert_eq!(node.run_with_input(&["produce", "a"], "1\n").code, 0);
    for verb in [&["topics"][..], &["consume", ">", "--stop-at-end"]] {
        let full = std::fs::File::create("/dev/full").expect("the device");
        let mut command = node.arqon(verb);
        command.stdout(full);
        let ran = run(command);
        assert_eq!(ran.code, 74, "{}", ran.stderr);
        assert!(
            ran.stderr.contains("writing standard output"),
            "{}",
            ran.stderr
        );
    }
}
