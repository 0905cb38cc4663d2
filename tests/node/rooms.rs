//! Rooms against the built node: who is where, by frames and by JSON, when clients and nodes are
//! killed; what is created and deleted; and messages that two alone may see.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use arqonbus::proto::claims::Role;
use arqonbus::proto::v1::client_frame::Body as Ask;
use arqonbus::proto::v1::presence::Change;
use arqonbus::proto::v1::server_frame::Body as Told;
use arqonbus::proto::v1::subscribe::Start;
use arqonbus::proto::v1::{
    CommandRequest, Envelope, Event, Fetch, Nack, Presence, Produce, Subscribe, envelope,
};
use prost::Message as _;
use serde_json::{Value, json};

use crate::interpreter::{python, run};
use crate::json_adapter::{Client, JSON, command, message};
use crate::servers::redis::Redis;
use crate::shell::Printed;
use crate::support::{Node, claims, signed};
use crate::wire::Wire;

fn token(node: &Node, subject: &str, role: Role) -> String {
    let mut who = claims("dev", role);
    subject.clone_into(&mut who.sub);
    signed(&who, &node.dev_secret())
}

fn order(name: &str, given: &[(&str, &str)]) -> Ask {
    let arguments = given
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).into()));
    Ask::Command(CommandRequest {
        name: name.into(),
        arguments: arguments.collect(),
    })
}

fn answer(wire: &mut Wire, name: &str, given: &[(&str, &str)]) -> Result<Value, String> {
    match wire.ask(order(name, given))?.body {
        Some(Told::CommandResult(result)) => Ok(result.result.expect("a result").to_json()),
        Some(Told::Error(error)) => Err(error.code),
        other => panic!("no answer but {other:?}"),
    }
}

fn told(wire: &mut Wire) -> (Change, Presence) {
    match wire.next().expect("a frame").body {
        Some(Told::Presence(said)) => (said.change(), said),
        other => panic!("no presence but {other:?}"),
    }
}

/// What is in the log about who comes to a channel and goes: change, subject, reason.
fn log_of(node: &Node, topic: &str) -> Vec<(String, String, String)> {
    let all = node.records(&["consume", topic, "--from", "earliest", "--stop-at-end"]);
    let said = |record: &Printed| {
        let said: Value = serde_json::from_str(record.payload.get()).expect("JSON");
        let word = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        (word("change"), word("subject"), word("reason"))
    };
    all.iter().map(said).collect()
}

fn words(of: &[(&str, &str, &str)]) -> Vec<(String, String, String)> {
    let owned = of.iter();
    owned
        .map(|(a, b, c)| ((*a).to_owned(), (*b).to_owned(), (*c).to_owned()))
        .collect()
}

const LAB: &[(&str, &str)] = &[("room", "lab"), ("channel", "exp 1")];
const LAB_PRESENCE: &str = "op.presence.lab.exp~201";

// BRK-09
#[test]
fn members_hear_who_comes_leaves_and_dies() {
    let node = Node::dev();
    let mut ann = Wire::with(&node, &token(&node, "ann", Role::User));
    let joined = answer(&mut ann, "room.join", LAB).expect("she is in");
    assert_eq!(joined["topic"], "room.lab.exp~201");
    assert_eq!(joined["presence_topic"], LAB_PRESENCE);
    assert_eq!(
        (&joined["total_members"], &joined["room_joined"]),
        (&1.into(), &true.into())
    );
    let again = answer(&mut ann, "room.join", LAB).expect("she is in already");
    assert_eq!(
        (&again["room_joined"], &again["joined_at"]),
        (&false.into(), &joined["joined_at"])
    );

    let mut bob = Wire::with(&node, &token(&node, "bob", Role::User));
    let second = answer(&mut bob, "room.join", LAB).expect("he is in");
    assert_eq!(second["total_members"], 2);
    let (change, said) = told(&mut ann);
    assert_eq!((change, &*said.subject), (Change::Joined, "bob"));
    assert_eq!((&*said.room, &*said.channel), ("lab", "exp 1"));
    assert_eq!(second["member"], Value::from(said.member));
    assert_eq!(second["sequence"], said.sequence);
    let left = answer(&mut bob, "room.leave", LAB).expect("he has left");
    assert_eq!(left["room_left"], true);
    let (change, said) = told(&mut ann);
    assert_eq!((change, &*said.reason), (Change::Left, "left"));
    let twice = answer(&mut bob, "room.leave", LAB);
    assert_eq!(twice, Err("NOT_MEMBER".into()));

    // A process that is killed says nothing, and its members hear of it.
    let arguments = [
        "rooms", "join", "lab", "exp 1", "--follow", "--output", "json",
    ];
    let mut eve = node.arqon(&arguments).spawn().expect("arqon starts");
    let mut note = String::new();
    let stderr = eve.stderr.take().expect("a pipe");
    BufReader::new(stderr).read_line(&mut note).expect("a line");
    assert!(
        note.starts_with("joined lab/exp 1 as ") && note.ends_with("; 2 there\n"),
        "{note}"
    );
    assert_eq!(told(&mut ann).0, Change::Joined);
    eve.kill().expect("it is killed");
    eve.wait().expect("it ends");
    let (change, said) = told(&mut ann);
    assert_eq!((change, &*said.reason), (Change::Expired, "gone"));

    let members = answer(&mut ann, "room.members", LAB).expect("a list");
    assert_eq!(members["total_members"], 1);
    assert_eq!(members["members"][0]["subject"], "ann");
    drop(ann);
    let table = node.ok(&["rooms", "join", "lab", "exp 1"]);
    assert!(
        table.contains("SUBJECT") || table.contains("subject"),
        "{table}"
    );
    let log = log_of(&node, LAB_PRESENCE);
    let dev = log.last().expect("records").1.clone();
    let expected = words(&[
        ("JOINED", "ann", ""),
        ("JOINED", "bob", ""),
        ("LEFT", "bob", "left"),
        ("JOINED", &dev, ""),
        ("EXPIRED", &dev, "gone"),
    ]);
    assert_eq!(log[..5], expected);
    // Nobody but the node says who is where.
    let forged = node.run_with_input(&["produce", LAB_PRESENCE], "{}\n");
    assert!(
        forged.code != 0 && forged.stderr.contains("FORBIDDEN")
            || forged.stderr.contains("may publish"),
        "{}",
        forged.stderr
    );
}

// BRK-09, REL-02
#[test]
fn nobody_stays_a_ghost_after_the_node_was_killed() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let node = Node::dev_on(&data);
    let mut ann = Wire::with(&node, &token(&node, "ann", Role::User));
    let mut bob = Wire::with(&node, &token(&node, "bob", Role::User));
    answer(&mut ann, "room.join", LAB).expect("she is in");
    answer(&mut ann, "room.join", &[("room", "b")]).expect("there too");
    answer(&mut bob, "room.join", LAB).expect("he is in");
    answer(&mut bob, "room.leave", LAB).expect("he has left");
    drop(node);

    let expected = words(&[
        ("JOINED", "ann", ""),
        ("JOINED", "bob", ""),
        ("LEFT", "bob", "left"),
        ("EXPIRED", "ann", "node_went"),
    ]);
    for _ in 0..2 {
        let node = Node::dev_on(&data);
        // Without anybody joining.
        let started = std::time::Instant::now();
        while log_of(&node, LAB_PRESENCE).len() < expected.len() {
            assert!(started.elapsed() < crate::support::PATIENCE);
        }
        assert_eq!(log_of(&node, LAB_PRESENCE), expected);
        let b = log_of(&node, "op.presence.b.main");
        assert_eq!(
            b,
            words(&[("JOINED", "ann", ""), ("EXPIRED", "ann", "node_went")])
        );
        let mut ann = Wire::with(&node, &token(&node, "ann", Role::User));
        let members = answer(&mut ann, "room.members", LAB).expect("a list");
        assert_eq!(members["total_members"], 0);
        drop(node);
    }
}

// BRK-09, OPS-14
#[test]
fn what_is_created_and_deleted_survives_without_its_cache() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let node = Node::dev_on(&data);
    let mut user = Wire::with(&node, &token(&node, "ann", Role::User));
    let mut owner = Wire::with(&node, &token(&node, "olga", Role::Operator));
    let mut other = Wire::with(&node, &token(&node, "otto", Role::Operator));
    let lab = [("room", "lab"), ("description", "where we measure")];
    assert_eq!(
        answer(&mut user, "room.create", &lab),
        Err("FORBIDDEN".into())
    );
    let created = answer(&mut owner, "room.create", &lab).expect("it is there");
    assert_eq!(created["created_by"], "olga");
    assert_eq!(created["description"], "where we measure");
    assert_eq!(
        answer(&mut owner, "room.create", &lab),
        Err("VALIDATION_ERROR".into())
    );
    let channel = answer(
        &mut other,
        "create_channel",
        &[("room", "lab"), ("name", "x")],
    );
    assert_eq!(channel.expect("it is there")["channel_name"], "x");
    answer(
        &mut owner,
        "channel.create",
        &[("room", "old"), ("channel", "c")],
    )
    .expect("both");
    assert_eq!(
        node.run_with_input(&["produce", "room.free.a"], "1\n").code,
        0
    );
    answer(&mut user, "room.join", &[("room", "old"), ("channel", "c")]).expect("she is in");

    let list = node.ok(&["rooms", "list", "--output", "json"]);
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let row = |room: &str| {
        let rooms = list["rooms"].as_array().expect("a list").iter();
        let row = rooms.clone().find(|row| row["room"] == room);
        row.unwrap_or_else(|| panic!("{list}")).clone()
    };
    assert_eq!(row("lab")["created"], true);
    assert_eq!(row("lab")["channels"], 2, "main and x");
    assert_eq!(
        (&row("free")["created"], &row("free")["records"]),
        (&false.into(), &1.into())
    );
    assert_eq!(row("old")["members"], 1);

    // Somebody else's is not deleted; one's own is, and its members are put out.
    assert_eq!(
        answer(&mut other, "room.delete", &[("room", "old")]),
        Err("FORBIDDEN".into())
    );
    assert_eq!(
        answer(&mut other, "room.delete", &[("room", "free")]),
        Err("NOT_FOUND".into())
    );
    let deleted = answer(&mut owner, "room.delete", &[("room", "old")]).expect("it is closed");
    assert_eq!(deleted["members_put_out"], 1);
    let (change, said) = told(&mut user);
    assert_eq!((change, &*said.reason), (Change::Left, "deleted"));
    refusals(&node, &mut user);
    let mut before = info(&node);
    drop((user, owner, other));
    drop(node);
    for lose_cache in [false, true] {
        node_gone(&data, lose_cache);
        let node = Node::dev_on(&data);
        let mut user = Wire::with(&node, &token(&node, "ann", Role::User));
        let mut after = info(&node);
        for shown in [&mut before, &mut after] {
            // What was said meanwhile is not of interest.
            for field in [
                "records",
                "bytes",
                "last_sequence",
                "first_sequence",
                "members",
            ] {
                shown[3][field] = Value::Null;
            }
        }
        assert_eq!(after, before);
        refusals(&node, &mut user);
    }
    let node = Node::dev_on(&data);
    node.ok(&["rooms", "create", "old"]);
    let mut user = Wire::with(&node, &token(&node, "ann", Role::User));
    answer(&mut user, "room.join", &[("room", "old")]).expect("it is open again");
}

/// What is refused of the room `old`, and of no other.
fn refusals(node: &Node, user: &mut Wire) {
    assert_eq!(
        answer(user, "room.join", &[("room", "old")]),
        Err("NOT_FOUND".into())
    );
    let ran = node.run_with_input(&["produce", "room.old.c"], "1\n");
    assert!(
        ran.code != 0 && ran.stderr.contains("was deleted"),
        "{}",
        ran.stderr
    );
    let (mut json, _) = Client::json(node);
    let refused = json.ask(&message("old", "d", &json!({})));
    assert_eq!(refused["error_code"], "NOT_FOUND", "{refused}");
    let kept = json.ask(&message("lab", "x", &json!({})));
    assert_eq!(kept["type"], "message_response", "{kept}");
}

/// What was said of the room `lab` when it was created, and its channels.
fn info(node: &Node) -> Value {
    let text = node.ok(&["rooms", "info", "lab", "--output", "json"]);
    let info: Value = serde_json::from_str(&text).expect("JSON");
    json!([
        info["created_at"],
        info["created_by"],
        info["channels"][0]["created"],
        info["channels"][1]
    ])
}

/// What a node that is gone leaves, without its cache if so wanted.
fn node_gone(data: &std::path::Path, lose_cache: bool) {
    if lose_cache {
        std::fs::remove_dir_all(data.join("_state")).expect("it was there");
    }
}

// BRK-18
#[test]
fn crowds_are_bounded() {
    let node = Node::dev_with(&[
        ("ARQONBUS_ROOMS_MEMBERS_MAX", "2"),
        ("ARQONBUS_ROOMS_JOINED_MAX", "2"),
        ("ARQONBUS_ROOMS_FREE", "false"),
    ]);
    let admin = node.dev_token();
    let mut wires: Vec<Wire> = (0..3).map(|_| Wire::with(&node, &admin)).collect();
    let refused = answer(&mut wires[0], "room.join", &[("room", "a")]);
    assert_eq!(refused, Err("NOT_FOUND".into()), "nobody has created it");
    let said = node.run_with_input(&["produce", "room.a.main"], "1\n");
    assert!(
        said.stderr.contains("has not been created"),
        "{}",
        said.stderr
    );
    for room in ["a", "b", "c"] {
        answer(&mut wires[0], "room.create", &[("room", room)]).expect("it is there");
    }
    let quiet = |room| [("room", room)];
    for wire in &mut wires[..2] {
        answer(wire, "room.join", &quiet("a")).expect("there is room");
    }
    let full = answer(&mut wires[2], "room.join", &quiet("a"));
    assert_eq!(full, Err("TOO_LARGE".into()));
    assert_eq!(told(&mut wires[0]).0, Change::Joined);
    answer(&mut wires[0], "room.join", &quiet("b")).expect("a second");
    let full = answer(&mut wires[0], "room.join", &quiet("c"));
    assert_eq!(full, Err("TOO_LARGE".into()));
    answer(&mut wires[1], "room.leave", &quiet("a")).expect("one less");
    answer(&mut wires[2], "room.join", &quiet("a")).expect("there is room again");
    let long = "x".repeat(129);
    let refused = answer(&mut wires[2], "room.join", &quiet(&long));
    assert_eq!(refused, Err("VALIDATION_ERROR".into()));
}

fn heard(client: &mut Client) -> Value {
    let frame = client.next();
    assert_eq!(frame["type"], "message", "{frame}");
    frame["payload"].clone()
}

// BRK-09, EDGE-07
#[test]
fn private_messages_are_seen_by_two_alone() {
    let node = Node::dev();
    let client = |subject: &str| {
        let token = token(&node, subject, Role::User);
        let mut client = Client::open(&node, &token, Some(JSON));
        let id = client.next()["payload"]["client_id"].clone();
        let joined = client.ask(&command(
            "join_channel",
            &json!({"room": "r", "channel": "c"}),
        ));
        assert_eq!(joined["payload"]["data"]["member"], id, "{joined}");
        (client, id.as_str().expect("a text").to_owned())
    };
    let (mut ann, _) = client("ann");
    let (mut bob, bob_id) = client("bob");
    let (mut bob_too, _) = client("bob");
    let (mut eve, eve_id) = client("eve");
    let private = |to: &str, payload: &str| json!({"type": "message", "room": "r", "channel": "c", "to_client": to, "payload": payload});
    // To one of his sessions, then to him.
    let stored = ann.ask(&private(&bob_id, "to the one"));
    assert_eq!(stored["type"], "message_response", "{stored}");
    ann.ask(&private("bob", "to all of him"));
    assert_eq!(heard(&mut bob), "to the one");
    assert_eq!(heard(&mut bob), "to all of him");
    assert_eq!(heard(&mut bob_too), "to all of him");
    bob.ask(&private("ann", "back"));
    assert_eq!(heard(&mut ann), "back");
    // Nobody else hears any of it, and the room goes on.
    ann.ask(&message("r", "c", &json!("aloud")));
    assert_eq!(heard(&mut eve), "aloud");
    assert_eq!(heard(&mut bob_too), "aloud");
    assert_eq!(heard(&mut bob), "aloud");

    let history = |client: &mut Client, with: &str| {
        let answer = client.ask(&command("history", &json!({"with": with})));
        let entries = answer["payload"]["data"]["history"].clone();
        let said = entries.as_array().expect("a list").iter();
        said.map(|entry| entry["payload"].as_str().expect("a text").to_owned())
            .collect::<Vec<_>>()
    };
    let all = ["to the one", "to all of him", "back"];
    assert_eq!(history(&mut ann, "bob"), all);
    assert_eq!(history(&mut bob, "ann"), all);
    assert!(history(&mut eve, "bob").is_empty() && history(&mut eve, "ann").is_empty());

    // By frames: one's own, and nothing else; in nobody else's name.
    let subscribe = |filter: &str| {
        Ask::Subscribe(Subscribe {
            subscription: 1,
            filter: filter.into(),
            ..Subscribe::default()
        })
    };
    let mut wire = Wire::with(&node, &token(&node, "eve", Role::User));
    for filter in [
        "direct.>",
        "direct.*.*",
        "direct.bob.*",
        "direct.bob.ann",
        "direct.*.ann",
    ] {
        let Some(Told::Error(error)) = wire.ask(subscribe(filter)).expect("a frame").body else {
            panic!("{filter} is open")
        };
        assert_eq!(error.code, "FORBIDDEN", "{filter}");
    }
    let own = wire.ask(subscribe("direct.eve.*")).expect("a frame").body;
    assert!(matches!(own, Some(Told::Subscribed(_))), "{own:?}");
    let everything = node.records(&["consume", ">", "--from", "earliest", "--stop-at-end"]);
    assert!(
        everything
            .iter()
            .all(|record| !record.topic.starts_with("direct."))
    );
    let admin = node.records(&["consume", "direct.>", "--from", "earliest", "--stop-at-end"]);
    let topics: Vec<&str> = admin.iter().map(|record| &*record.topic).collect();
    assert_eq!(
        topics,
        ["direct.bob.ann", "direct.bob.ann", "direct.ann.bob"]
    );
    let forged = node.run_with_input(&["produce", "direct.bob.ann"], "1\n");
    assert!(forged.code != 0, "{}", forged.stdout);
    // Who has gone has no name any more.
    drop(eve);
    let started = std::time::Instant::now();
    loop {
        let answer = ann.ask(&private(&eve_id, "anybody there?"));
        if answer["error_code"] == "NOT_FOUND" {
            break;
        }
        assert!(started.elapsed() < crate::support::PATIENCE, "{answer}");
    }
}

// BRK-06, BRK-08, BRK-09, EDGE-07
#[test]
fn a_private_message_stays_private_while_it_waits_and_when_it_is_given_up() {
    const SECRET: &str = "nobody-else";
    let node = Node::dev();
    let wire = |subject: &str| Wire::with(&node, &token(&node, subject, Role::User));
    let (mut ann, mut bob, mut eve) = (wire("ann"), wire("bob"), wire("eve"));
    let send = |wire: &mut Wire, deliver_at: i64| {
        let envelope = Envelope {
            topic: "direct.ann.bob".into(),
            deliver_at,
            payload: Some(envelope::Payload::Event(Event {
                r#type: "said".into(),
                data: SECRET.into(),
            })),
            ..Envelope::default()
        };
        let produce = Produce {
            envelopes: vec![envelope.encode_to_vec().into()],
            ..Produce::default()
        };
        match wire.ask(Ask::Produce(produce)).expect("a frame").body {
            Some(Told::Produced(produced)) => produced.first,
            other => panic!("{other:?}"),
        }
    };
    let hour = i64::try_from(crate::support::now_s() * 1_000 + 3_600_000).expect("a time");
    let sent = send(&mut bob, 0);
    send(&mut bob, hour);
    let join = Subscribe {
        subscription: 1,
        filter: "direct.ann.*".into(),
        group: "ann-reads".into(),
        start: Some(Start::Earliest(true)),
        ..Subscribe::default()
    };
    ann.send(Ask::Subscribe(join));
    loop {
        let frame = ann.next().expect("a frame");
        if let Some(Told::Deliver(deliver)) = frame.body
            && !deliver.deliveries.is_empty()
        {
            assert_eq!(deliver.deliveries[0].sequence, sent);
            break;
        }
    }
    ann.send(Ask::Nack(Nack {
        subscription: 1,
        sequence: sent,
        reason: format!("cannot read {SECRET}"),
        dead_letter: true,
        ..Nack::default()
    }));
    let started = std::time::Instant::now();
    let letters = || node.ok(&["dlq", "list", "ann-reads", "--output", "json"]);
    while !letters().contains("direct.ann.bob") {
        assert!(
            started.elapsed() < crate::support::PATIENCE,
            "{}",
            letters()
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    for filter in [">", "*.>", "*.*.*.*.*", "op.>", "dlq.>", "dlq.ann-reads"] {
        let fetch = Fetch {
            filter: filter.into(),
            from: 1,
            ..Fetch::default()
        };
        match eve.ask(Ask::Fetch(fetch)).expect("a frame").body {
            Some(Told::Deliver(deliver)) => {
                let bytes = deliver.encode_to_vec();
                let found = bytes
                    .windows(SECRET.len())
                    .any(|at| at == SECRET.as_bytes());
                assert!(!found, "{filter} shows it");
            }
            other => panic!("{filter}: {other:?}"),
        }
    }
    for hidden in ["sys.later.>", "sys.later.direct.ann.bob"] {
        let fetch = Fetch {
            filter: hidden.into(),
            from: 1,
            ..Fetch::default()
        };
        let refused = eve.ask(Ask::Fetch(fetch)).expect("a frame").body;
        let Some(Told::Error(error)) = refused else {
            panic!("{hidden}: {refused:?}")
        };
        assert_eq!(error.code, "FORBIDDEN", "{hidden}");
    }
    assert_eq!(
        answer(&mut eve, "group.list", &[]),
        Ok(json!([])),
        "who reads what is private is private"
    );
    // The original is read from where it stands by whoever may.
    let shown = node.ok(&["dlq", "list", "ann-reads", "--output", "json"]);
    let letter: Value = serde_json::from_str(shown.lines().next().expect("a line")).expect("one");
    let id = letter["id"].as_str().expect("an id");
    let shown = node.ok(&["dlq", "show", "ann-reads", id, "--output", "json"]);
    assert!(shown.contains("direct.ann.bob"), "{shown}");
}

// BRK-09
#[test]
fn json_clients_are_told_who_comes_and_goes_if_so_set() {
    let node = Node::dev_with(&[("ARQONBUS_JSON_ADAPTER_PRESENCE", "true")]);
    let (mut ann, _) = Client::json(&node);
    let (mut bob, bob_id) = Client::json(&node);
    let join = command("join_channel", &json!({"room": "r", "channel": "c"}));
    ann.ask(&join);
    bob.ask(&join);
    let event = |client: &mut Client| {
        let told = client.next();
        assert_eq!(
            (&told["type"], &told["room"]),
            (&"telemetry".into(), &"r".into()),
            "{told}"
        );
        told["payload"]["presence_event"].clone()
    };
    let joined = event(&mut ann);
    assert_eq!(
        (&joined["change"], &joined["member"]),
        (&"joined".into(), &bob_id.into())
    );
    drop(bob);
    let gone = event(&mut ann);
    assert_eq!(
        (&gone["change"], &gone["reason"]),
        (&"expired".into(), &"gone".into())
    );
    let info = ann.ask(&command(
        "channel_info",
        &json!({"room": "r", "channel": "c"}),
    ));
    assert_eq!(info["payload"]["data"]["total_members"], 1, "{info}");
    assert_eq!(info["payload"]["data"]["joined"], true);
    // Whoever is put out is told, and hears nothing more.
    let deleted = ann.ask(&command(
        "delete_channel",
        &json!({"room": "r", "channel": "c"}),
    ));
    let (answer, told) = if deleted["type"] == "response" {
        (deleted, ann.next())
    } else {
        (ann.next(), deleted)
    };
    assert_eq!(answer["status"], "success", "{answer}");
    assert_eq!(told["error_code"], "NOT_MEMBER", "{told}");
}

// BRK-09: whatever the older clients do, word for word, in their own language.
#[test]
fn the_older_systems_clients_do_all_that_they_know() {
    let node = Node::dev();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/older_client.py");
    let scene = |url: &str, token: &str, name: &str| -> Value {
        let output = run(Command::new(python())
            .args([script, url, token, name])
            .stderr(Stdio::inherit()));
        serde_json::from_str(&output).expect("one line of JSON")
    };
    let plain = format!("ws://{}/", node.edge);
    let in_query = format!("{plain}?token={}", node.dev_token());
    for (url, token) in [
        (plain.as_str(), node.dev_token()),
        (&in_query, String::new()),
    ] {
        let seen = scene(url, &token, "builtins");
        for (name, answer) in seen.as_object().expect("an object") {
            assert_eq!(answer["type"], "response", "{name}: {answer}");
            assert_eq!(answer["status"], "success", "{name}: {answer}");
            assert!(answer["payload"]["message"].is_string(), "{name}: {answer}");
        }
        let data = |name: &str| seen[name]["payload"]["data"].clone();
        for field in [
            "room_id",
            "channel_id",
            "channel_name",
            "description",
            "created_by",
            "created_at",
        ] {
            assert!(data("create_channel")[field].is_string(), "{field}: {seen}");
        }
        for (name, fields) in [
            (
                "join_channel",
                ["room_id", "channel_id", "joined_by", "joined_at"],
            ),
            (
                "leave_channel",
                ["room_id", "channel_id", "left_by", "left_at"],
            ),
            (
                "delete_channel",
                ["room_id", "channel_id", "deleted_by", "deleted_at"],
            ),
            (
                "list_channels",
                ["room_id", "room_name", "queried_by", "queried_at"],
            ),
        ] {
            for field in fields {
                assert!(data(name)[field].is_string(), "{name} {field}: {seen}");
            }
        }
        assert_eq!(data("history")["history"][0]["payload"]["content"], "one");
        let bot = scene(url, &token, "bot");
        assert_eq!(bot["received"]["type"], "message_response", "{bot}");
        let tail = scene(url, &token, "tail");
        assert_eq!(tail["lines"].as_array().expect("a list").len(), 3, "{tail}");
        let errors = scene(url, &token, "errors");
        for (name, code) in [
            ("create_twice", "VALIDATION_ERROR"),
            ("delete_unknown", "NOT_FOUND"),
            ("info_unknown", "NOT_FOUND"),
            ("leave_unknown", "NOT_MEMBER"),
            ("bad_since", "VALIDATION_ERROR"),
            ("help_unknown", "UNKNOWN_COMMAND"),
        ] {
            assert_eq!(errors[name]["error_code"], code, "{errors}");
        }
    }
}

// BRK-10: by heartbeats in the log, and nothing else; what nobody hears of any more is forgotten.
#[test]
fn who_is_where_is_kept_in_valkey_for_a_while() {
    let valkey = Redis::start();
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let url = valkey.url();
    let settings = [
        ("ARQONBUS_VALKEY_URL", url.as_str()),
        ("ARQONBUS_ROOMS_HEARTBEAT_S", "1"),
    ];
    let node = Node::dev_on_with(&data, &settings);
    let of = |wanted: &str| -> Vec<String> {
        let mut keys = valkey.keys();
        keys.retain(|key| key.contains(":agent:") && key.contains(wanted));
        keys
    };
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        let started = std::time::Instant::now();
        while !holds() {
            assert!(
                started.elapsed() < crate::support::PATIENCE,
                "{what}: {:?}",
                valkey.keys()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    let mut ann = Wire::with(&node, &token(&node, "ann", Role::User));
    let mut bob = Wire::with(&node, &token(&node, "bob", Role::User));
    let joined = answer(&mut ann, "room.join", LAB).expect("she is in");
    let member = joined["member"].as_str().expect("a text");
    answer(&mut bob, "room.join", LAB).expect("he is in");
    until("both are there", &|| of("").len() == 2);
    let key = format!("tenant:dev:agent:ann:presence:lab%2Fexp%201%2F{member}");
    assert_eq!(of(":ann:"), [key.as_str()]);
    answer(&mut bob, "room.leave", LAB).expect("he has left");
    until("one is there", &|| of(":bob:").is_empty());
    // Longer than a member is kept without a heartbeat.
    std::thread::sleep(std::time::Duration::from_millis(3_500));
    assert_eq!(of(":ann:"), [key.as_str()], "heartbeats keep her");
    // With its node gone nobody speaks of her, and she is forgotten.
    drop(node);
    until("nobody is there", &|| of("").is_empty());
    // A place that was lost begins from where members can still be, and its successor has settled.
    let node = Node::dev_on_with(&data, &settings);
    let mut ann = Wire::with(&node, &token(&node, "ann", Role::User));
    answer(&mut ann, "room.join", LAB).expect("she is in again");
    until("she is there", &|| {
        of(":ann:").len() == 1 && of("").len() == 1
    });
}
