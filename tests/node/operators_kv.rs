//! Keys, jobs and messages that wait, over a real node that is killed.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::shell::follower;
use crate::support::Node;

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("one object")
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(json).collect()
}

/// Asks again until the answer holds.
fn soon<T: std::fmt::Debug>(ask: impl Fn() -> T, holds: impl Fn(&T) -> bool) -> T {
    let began = Instant::now();
    loop {
        let answer = ask();
        if holds(&answer) {
            return answer;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{answer:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

// OPS-07, OPS-14, TOOL-02: what was set is there after a kill, and without what is kept beside the
// log.
#[test]
fn keys_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let node = Node::dev_on(&data);
    let set = json(&node.ok(&["store", "set", "limits/orders", "500", "-o", "json"]));
    let revision = set["revision"].to_string();
    node.ok(&["store", "set", "limits/users", "{\"max\":[1,2]}"]);
    node.ok(&["store", "set", "gone", "text, not JSON"]);
    node.ok(&["store", "delete", "gone"]);
    let stale = [
        "store",
        "set",
        "limits/orders",
        "600",
        "--if-revision",
        "1000",
    ];
    assert!(node.run(&stale).stderr.contains("SEQUENCE_CONFLICT"));
    let right = [
        "store",
        "set",
        "limits/orders",
        "600",
        "--if-revision",
        &revision,
    ];
    node.ok(&right);
    let taken = node.run(&["store", "set", "limits/orders", "1", "--if-absent"]);
    assert!(
        taken.stderr.contains("SEQUENCE_CONFLICT"),
        "{}",
        taken.stderr
    );
    node.signal("KILL");
    drop(node);
    std::fs::remove_dir_all(data.join("_state")).unwrap_or_default();
    let node = Node::dev_on(&data);
    let found = json(&node.ok(&["store", "get", "limits/orders", "-o", "json"]));
    assert_eq!(
        (&found["value"], &found["found"]),
        (&600.into(), &true.into())
    );
    let before = [
        "store",
        "get",
        "limits/orders",
        "--at",
        &revision,
        "-o",
        "json",
    ];
    assert_eq!(json(&node.ok(&before))["value"], 500);
    let listed = lines(&node.ok(&["store", "list", "limits/", "-o", "json"]));
    let keys: Vec<_> = listed
        .iter()
        .map(|one| one["key"].as_str().unwrap())
        .collect();
    assert_eq!(keys, ["limits/orders", "limits/users"]);
    assert_eq!(node.run(&["store", "get", "gone"]).code, 1);
    let history = lines(&node.ok(&["store", "history", "gone", "-o", "json"]));
    assert_eq!(
        (&history[0]["operation"], &history[1]["value"]),
        (&"delete".into(), &"text, not JSON".into())
    );
    // Who watches from a revision on is told of each change once, and only of those.
    let watch = [
        "store", "watch", "limits/", "--from", &revision, "--limit", "3", "-o", "json",
    ];
    let seen = lines(&node.ok(&watch));
    let values: Vec<_> = seen.iter().map(|one| one["value"].to_string()).collect();
    assert_eq!(values, ["500", "{\"max\":[1,2]}", "600"]);
    // Clients may not write where the node keeps keys.
    let forged = node.run_with_input(&["produce", "op.store.x.y"], "{}\n");
    assert!(forged.stderr.contains("FORBIDDEN"), "{}", forged.stderr);
}

// OPS-06, OPS-14: a job goes on after a kill, and no iteration is missing or there twice.
#[test]
fn a_job_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut node = Node::dev_on(&data);
    node.ok(&[
        "cron",
        "add",
        "beat",
        "{\"n\":1}",
        "--cron",
        "* * * * * *",
        "--name",
        "beat",
        "--misfire",
        "all",
    ]);
    node.ok(&[
        "cron",
        "add",
        "room.ops.main",
        "{\"text\":\"hi\"}",
        "--in",
        "1s",
    ]);
    let consume = ["consume", "beat", "--from", "earliest", "--stop-at-end"];
    for kills in 1..=2 {
        soon(|| node.records(&consume).len(), |count| *count >= 2 * kills);
        node.signal("KILL");
        drop(node);
        std::fs::remove_dir_all(data.join("_state")).unwrap_or_default();
        node = Node::dev_on(&data);
    }
    let fired = soon(|| node.records(&consume), |fired| fired.len() >= 7);
    let numbers: Vec<u64> = fired
        .iter()
        .map(|one| {
            one.rest["headers"]["cron_iteration"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    assert_eq!(numbers, (1..=fired.len() as u64).collect::<Vec<_>>());
    let mut planned: Vec<_> = fired
        .iter()
        .map(|one| {
            one.rest["headers"]["cron_planned_at"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let all = planned.len();
    planned.sort();
    planned.dedup();
    assert_eq!(planned.len(), all, "a time is there twice");
    let once = [
        "consume",
        "room.ops.main",
        "--from",
        "earliest",
        "--stop-at-end",
    ];
    assert_eq!(node.records(&once).len(), 1);
    let shown = json(&node.ok(&["cron", "show", "beat", "-o", "json"]));
    assert!(shown["iterations"].as_u64().unwrap() >= 7, "{shown}");
    node.ok(&["cron", "pause", "beat"]);
    let listed = lines(&node.ok(&["cron", "list", "-o", "json"]));
    assert_eq!((listed.len(), &listed[0]["paused"]), (1, &true.into()));
    node.ok(&["cron", "cancel", "beat"]);
    assert_eq!(node.ok(&["cron", "list", "-o", "json"]), "");
}

// BRK-08: a message that waits is delivered once, after a kill too; one that is cancelled is not.
#[test]
fn a_message_that_waits_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let node = Node::dev_on(&data);
    let later = |text: &str, delay: &str| {
        let produce = ["produce", "reminders.ada", "--delay", delay, "-o", "json"];
        let ran = node.run_with_input(&produce, &format!("{{\"text\":\"{text}\"}}\n"));
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        json(&ran.stdout)["first"].as_u64().unwrap()
    };
    let second = later("second", "3s");
    let first = later("first", "2s");
    let never = later("never", "2s");
    later("tomorrow", "1d");
    let listed = lines(&node.ok(&["delayed", "list", "-o", "json"]));
    assert_eq!(listed.len(), 4, "{listed:?}");
    node.ok(&["delayed", "cancel", &never.to_string()]);
    let consume = [
        "consume",
        "reminders.>",
        "--from",
        "earliest",
        "--stop-at-end",
    ];
    assert_eq!(node.records(&consume).len(), 0);
    node.signal("KILL");
    drop(node);
    let node = Node::dev_on(&data);
    let found = soon(|| node.records(&consume), |found| found.len() >= 2);
    let said: Vec<_> = found
        .iter()
        .map(|one| one.payload.get().to_owned())
        .collect();
    assert_eq!(said, ["{\"text\":\"first\"}", "{\"text\":\"second\"}"]);
    let from = |at: usize| found[at].rest["headers"]["arqon-delayed"].clone();
    assert_eq!(
        (from(0), from(1)),
        (first.to_string().into(), second.to_string().into())
    );
    assert_eq!(found[0].topic, "reminders.ada");
    assert!(
        found[0].rest["deliver_at"].is_string(),
        "{:?}",
        found[0].rest
    );
    node.signal("KILL");
    drop(node);
    let node = Node::dev_on(&data);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(node.records(&consume).len(), 2);
    assert_eq!(lines(&node.ok(&["delayed", "list", "-o", "json"])).len(), 1);
}

// BRK-08: what has expired is given to nobody, neither live nor by whoever reads it later.
#[test]
fn what_has_expired_is_not_delivered() {
    let node = Node::dev();
    let (mut child, _stdout) = follower(&node, &["tail", "news.>", "--limit", "2"]);
    std::thread::sleep(Duration::from_millis(300));
    let produce = ["produce", "news.a", "--ttl", "1s"];
    node.run_with_input(&produce, "{\"n\":1}\n");
    node.run_with_input(&["produce", "news.b"], "{\"n\":2}\n");
    assert!(child.wait().unwrap().success(), "both are news at first");
    let consume = ["consume", "news.>", "--from", "earliest", "--stop-at-end"];
    let left = soon(|| node.records(&consume), |left| left.len() < 2);
    assert_eq!(left[0].topic, "news.b");
}

// BRK-08: what waits goes along with a fork, and is delivered in both.
#[test]
fn what_waits_is_delivered_in_a_fork_too() {
    let node = Node::dev();
    node.ok(&["reality", "create", "src"]);
    let sent = node.run_with_input(
        &["produce", "later.x", "--reality", "src", "--delay", "2s"],
        "{\"n\":1}\n",
    );
    assert_eq!(sent.code, 0, "{}", sent.stderr);
    node.ok(&["reality", "fork", "src", "--to", "what-if"]);
    for reality in ["src", "what-if"] {
        let got = node.records(&[
            "consume",
            "later.x",
            "--reality",
            reality,
            "--from",
            "earliest",
            "--limit",
            "1",
        ]);
        assert_eq!(got.len(), 1, "{reality}");
    }
}

// MSG-13, OPS-07: what is written and not flushed yet is waited for, and never taken for damage.
#[test]
fn several_who_change_the_same_are_told_of_no_damage() {
    let node = Node::dev();
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let node = &node;
            scope.spawn(move || {
                for round in 0..10 {
                    let name = format!("level-{worker}");
                    let set = node.run(&["control", "set", &name, &round.to_string()]);
                    assert_eq!(set.code, 0, "{}", set.stderr);
                    let key = format!("key-{worker}");
                    let put = node.run(&["store", "set", &key, "1"]);
                    assert_eq!(put.code, 0, "{}", put.stderr);
                    let cleared = node.run(&["control", "clear", &name]);
                    assert_eq!(cleared.code, 0, "{}", cleared.stderr);
                }
            });
        }
    });
}
