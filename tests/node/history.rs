//! Parts of a history from outside: the newest, again in order, and their hashes.

use std::process::Command;

use arqonbus::client::{Client, ConnectOptions, Error};
use arqonbus::proto::claims::Role;
use arqonbus::proto::v1::Value;
use serde_json::{Value as Json, json};

use crate::policy::{connect, send};
use crate::shell::{EVENTS, finished};
use crate::support::{Node, claims, signed};

async fn ask(client: &Client, command: &str, asked: &Json) -> Result<Json, (String, String)> {
    let asked = asked.as_object().expect("an object");
    let asked = asked
        .iter()
        .map(|(name, value)| (name.as_str(), Value::from(value.clone())));
    match client.command(command, asked).await {
        Ok(answer) => Ok(answer.to_json()),
        Err(Error::Answered { code, message, .. }) => Err((code, message)),
        Err(other) => panic!("{other}"),
    }
}

fn sequences(answer: &Json) -> Vec<u64> {
    let entries = answer["entries"].as_array().expect("entries");
    let sequence = |entry: &Json| entry["storage_metadata"]["sequence"].as_u64();
    entries.iter().filter_map(sequence).collect()
}

// MSG-08, OPS-08
#[tokio::test]
async fn the_newest_are_answered_first_and_all_of_them_page_by_page() {
    let node = Node::dev();
    let client = connect(&node).await;
    for number in 1..=30_u64 {
        let topic = if number % 3 == 0 {
            "a.third"
        } else {
            "a.other"
        };
        let text = format!("{{\"n\":{number}}}");
        send(&client, topic, text.as_bytes()).await.expect("stored");
    }
    let asked = json!({"topic": "a.>", "limit": 4});
    let newest = ask(&client, "history.get", &asked)
        .await
        .expect("an answer");
    assert_eq!(sequences(&newest), [30, 29, 28, 27]);
    assert_eq!(
        (&newest["count"], &newest["limit"], &newest["truncated"]),
        (&json!(4), &json!(4), &json!(true))
    );
    let entry = &newest["entries"][0];
    assert_eq!(entry["envelope"]["payload"], json!({"n": 30}), "{entry}");
    assert!(
        entry["stored_at"]
            .as_str()
            .is_some_and(|at| at.ends_with('Z')),
        "{entry}"
    );

    let mut all = Vec::new();
    let mut asked = json!({"topic": "a.third", "limit": 3});
    loop {
        let page = ask(&client, "op.history.get", &asked)
            .await
            .expect("a page");
        all.extend(sequences(&page));
        if page["cursor"].is_null() {
            break;
        }
        asked["cursor"] = page["cursor"].clone();
    }
    assert_eq!(
        all,
        (1..=10).rev().map(|third| third * 3).collect::<Vec<_>>()
    );

    let part = json!({"topic": "a.>", "since": "5", "until": "8"});
    let part = ask(&client, "history.get", &part).await.expect("a part");
    assert_eq!(
        (sequences(&part), &part["truncated"]),
        (vec![8, 7, 6, 5], &json!(false))
    );
    let at = newest["entries"][2]["stored_at"].clone();
    let since = json!({"topic": "a.>", "since": at});
    let since = ask(&client, "history.get", &since)
        .await
        .expect("since a time");
    assert!(sequences(&since).contains(&28) && sequences(&since).len() < 30);
    for (wrong, said) in [
        (json!({"since": "yesterday"}), "since must be a time"),
        (
            json!({"since": "9", "until": "8"}),
            "until lies before since",
        ),
        (json!({"limit": 1001}), "from 1 to 1000"),
        (json!({"channel": "x"}), "a channel needs its room"),
        (json!({"room": "x", "topic": "y"}), "not both"),
        (json!({"form": "poem"}), "form must be"),
        (json!({"cursor": "0"}), "cursor is not one"),
    ] {
        let (code, message) = ask(&client, "history.get", &wrong)
            .await
            .expect_err("refused");
        assert_eq!(code, "VALIDATION_ERROR", "{message}");
        assert!(message.contains(said), "{message}");
    }
}

// MSG-08, EDGE-07
#[tokio::test]
async fn who_is_no_admin_names_what_it_may_read() {
    let node = Node::dev();
    let admin = connect(&node).await;
    send(&admin, "room.science.explore", b"{}")
        .await
        .expect("stored");
    send(&admin, "room.secret.main", b"{}")
        .await
        .expect("stored");
    let mut user = claims("dev", Role::User);
    user.subscribe = Some(vec!["room.science.>".into()]);
    let token = signed(&user, &node.dev_secret());
    let options = ConnectOptions::new(format!("ws://{}/v1/ws", node.edge), &token);
    let user = Client::connect(options).await.expect("a connection");
    for command in [
        "history.get",
        "history.replay",
        "op.history.get",
        "op.history.replay",
    ] {
        let (code, message) = ask(&user, command, &json!({})).await.expect_err("refused");
        assert_eq!(code, "VALIDATION_ERROR");
        assert!(message.contains("name a room"), "{message}");
        let all = json!({"topic": ">"});
        let secret = json!({"room": "secret"});
        for asked in [all, secret, json!({"topic": "sys.>"})] {
            let (code, _) = ask(&user, command, &asked).await.expect_err("refused");
            assert_eq!(code, "FORBIDDEN", "{command} {asked}");
        }
        let asked = json!({"room": "science", "channel": "explore"});
        let answer = ask(&user, command, &asked).await.expect("an answer");
        assert_eq!(
            (sequences(&answer), &answer["room"]),
            (vec![1], &json!("science"))
        );
        let asked = json!({"room": "science"});
        assert_eq!(
            sequences(&ask(&user, command, &asked).await.expect("all of it")),
            [1]
        );
        let system = json!({"room": "science", "reality": "_system"});
        let (code, _) = ask(&user, command, &system).await.expect_err("refused");
        assert_eq!(code, "FORBIDDEN");
        assert_eq!(
            sequences(&ask(&admin, command, &json!({})).await.expect("all")).len(),
            2
        );
    }
    let (code, _) = ask(&user, "reality.hash", &json!({}))
        .await
        .expect_err("refused");
    assert_eq!(code, "FORBIDDEN");
}

// MSG-08
#[tokio::test]
async fn a_replay_is_in_order_and_goes_on_where_it_was_cut() {
    let node = Node::dev().with_earthquakes();
    let client = connect(&node).await;
    let (mut all, mut asked) = (
        Vec::new(),
        json!({"topic": "usgs.*", "limit": 1000, "from_ts": "7"}),
    );
    loop {
        let page = ask(&client, "history.replay", &asked)
            .await
            .expect("a page");
        assert_eq!(page["strict_sequence"], true);
        assert_eq!(page["truncated"], !page["cursor"].is_null());
        all.extend(sequences(&page));
        if page["cursor"].is_null() {
            break;
        }
        asked["cursor"] = page["cursor"].clone();
    }
    let events = EVENTS as u64;
    assert_eq!(all, (7..=events).collect::<Vec<_>>());
    let shown = node.records(&["history", "usgs.*", "--limit", "5"]);
    let newest: Vec<u64> = shown.iter().map(|record| record.sequence).collect();
    assert_eq!(newest, (events - 4..=events).rev().collect::<Vec<_>>());
    let before = node.run(&[
        "history", ">", "--limit", "2", "--before", "4", "--output", "json",
    ]);
    assert_eq!((before.code, before.stdout.lines().count()), (0, 2));
    assert!(before.stderr.contains("--before 2"), "{}", before.stderr);
}

// MSG-08, MSG-12
#[tokio::test]
async fn a_replay_into_another_reality_is_gone_on_with_and_counts_each_record_once() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = Node::dev_on(data.path()).with_earthquakes();
    let client = connect(&node).await;
    let asked = json!({"into": "copy", "limit": 700});
    let (code, _) = ask(&client, "history.replay_into", &asked)
        .await
        .expect_err("refused");
    assert_eq!(code, "NOT_FOUND");
    node.ok(&["reality", "create", "copy"]);
    let first = ask(&client, "history.replay_into", &asked)
        .await
        .expect("begun");
    assert_eq!(
        (&first["records"], &first["finished"]),
        (&json!(700), &json!(false))
    );
    node.signal("KILL");
    drop(node.ended());
    let node = Node::dev_on(data.path());
    let client = connect(&node).await;
    let mut calls = 0;
    let done = loop {
        let done = ask(&client, "op.history.replay_into", &asked)
            .await
            .expect("gone on");
        calls += 1;
        if done["finished"] == true {
            break done;
        }
    };
    assert!(calls >= 2);
    assert_eq!(done["records"], EVENTS);
    let again = ask(&client, "history.replay_into", &asked)
        .await
        .expect("nothing to do");
    assert_eq!(
        (&again["records"], &again["count"]),
        (&json!(EVENTS), &json!(0))
    );
    let hash = async |reality: &str| {
        let hash = ask(&client, "reality.hash", &json!({"reality": reality})).await;
        hash.expect("a hash")["sha256"].clone()
    };
    assert_eq!(hash("main").await, hash("copy").await);
    let same = json!({"into": "main"});
    let (code, _) = ask(&client, "history.replay_into", &same)
        .await
        .expect_err("refused");
    assert_eq!(code, "VALIDATION_ERROR");
}

// MSG-10
#[tokio::test]
async fn hashes_are_equal_for_equal_histories_on_the_node_and_in_its_files() {
    let node = Node::dev().with_earthquakes();
    let client = connect(&node).await;
    node.ok(&["reality", "create", "copy"]);
    node.ok(&[
        "replay", ">", "--from", "earliest", "--into", "copy", "--verify",
    ]);
    let hash = async |asked: Json| ask(&client, "reality.hash", &asked).await.expect("a hash");
    let main = hash(json!({})).await;
    let copy = hash(json!({"reality": "copy"})).await;
    assert_eq!(main["records"], EVENTS);
    assert_eq!(
        (&main["complete"], &main["lost"]),
        (&json!(true), &json!([]))
    );
    assert_eq!(main["sha256"], copy["sha256"]);
    let part = hash(json!({"from": "10", "to": "20", "reality": "copy"})).await;
    assert_eq!((&part["records"], &part["last"]), (&json!(11), &json!(20)));
    assert_ne!(part["sha256"], main["sha256"]);
    assert_eq!(
        part["sha256"],
        hash(json!({"from": "10", "to": "20"})).await["sha256"]
    );
    let shown: Json =
        serde_json::from_str(&node.ok(&["reality", "hash", "copy", "--output", "json"]))
            .expect("one object");
    assert_eq!(shown["sha256"], main["sha256"]);

    let mut offline = Command::new(env!("CARGO_BIN_EXE_logdump"));
    offline.args(["stats", "--hash", "--output", "json"]);
    offline.arg(node.data.join("dev/copy"));
    offline
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let ran = finished(offline.spawn().expect("logdump starts"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let stats: Json = serde_json::from_str(&ran.stdout).expect("one object");
    assert_eq!(stats["logs"][0]["sha256"], main["sha256"], "{stats}");
}
