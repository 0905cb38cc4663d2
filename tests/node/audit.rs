//! The governance audit from outside: who did what, however it was asked for, and what became of it.

use arqonbus::proto::claims::{Claims, Role};
use arqonbus::proto::v1::server_frame::Body as Answer;
use arqonbus::proto::v1::value::Kind;
use serde_json::{Value, json};

use crate::admin::command as over_http;
use crate::adversarial::requests::{ask, command};
use crate::json_adapter::{self, Client};
use crate::support::{Node, claims, signed, write};
use crate::wire::Wire;

fn text(text: &str) -> Kind {
    Kind::Text(text.to_owned())
}

fn who(role: Role, name: &str) -> Claims {
    Claims {
        sub: name.to_owned(),
        jti: Some(format!("token-of-{name}")),
        ..claims("dev", role)
    }
}

/// What `arqon audit list` shows.
fn audited(node: &Node, more: &[&str]) -> Vec<Value> {
    let arguments = [&["audit", "list", "--output", "json"], more].concat();
    let lines = node.ok(&arguments);
    lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// The answer to a request, whatever is delivered meanwhile.
fn told(session: &mut Wire, body: arqonbus::proto::v1::client_frame::Body) -> bool {
    session.send(body);
    loop {
        match session.next().expect("a frame").body {
            Some(Answer::Deliver(_)) => {}
            other => return matches!(other, Some(Answer::Subscribed(_))),
        }
    }
}

fn logdump(arguments: &[&str]) -> (i32, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_logdump"))
        .args(arguments)
        .output()
        .expect("logdump runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap_or(-1), text)
}

// BRK-13, BRK-11
#[test]
fn every_change_is_written_down_however_it_is_asked_for() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let node = Node::dev_on(&data);
    let mut ada = Wire::of(&node, &who(Role::Operator, "ada"));
    let create = |name: &str| command("reality.create", &[("name", text(name))]);
    assert_eq!(ask(&mut ada, create("by-frame")), "done");
    assert!(ask(&mut ada, create("by-frame")).starts_with("VALIDATION_ERROR"));
    let (mut client, _) = Client::json(&node);
    let made = json_adapter::command("reality.create", &json!({"name": "by-json"}));
    assert_eq!(client.ask(&made)["type"], "response");
    let made = over_http("reality.create", r#"{"name":"by-http"}"#).send(node.ops);
    assert_eq!(made.status, 200);
    // Who may not, and who asks badly.
    let mut eve = Wire::of(&node, &who(Role::User, "eve"));
    assert!(ask(&mut eve, create("stolen")).starts_with("FORBIDDEN"));
    let status = command("edge.status", &[]);
    assert!(ask(&mut eve, status).starts_with("FORBIDDEN"));
    assert!(ask(&mut ada, command("reality.create", &[])).starts_with("VALIDATION_ERROR"));
    // Nothing is changed by looking.
    assert_eq!(ask(&mut ada, command("reality.list", &[])), "done");

    let all = audited(&node, &["--action", "reality"]);
    let said: Vec<_> = all
        .iter()
        .map(|one| {
            let text = |name: &str| one[name].as_str().unwrap_or_default();
            let asked = one["arguments"]["name"].as_str().unwrap_or_default();
            [text("subject"), text("outcome"), text("code"), asked].map(str::to_owned)
        })
        .collect();
    let said: Vec<[&str; 4]> = said
        .iter()
        .map(|one| one.each_ref().map(|s| s.as_str()))
        .collect();
    let admin = all[2]["subject"].as_str().expect("a subject").to_owned();
    assert_eq!(
        said,
        [
            ["ada", "done", "", "by-frame"],
            ["ada", "failed", "VALIDATION_ERROR", "by-frame"],
            [&admin, "done", "", "by-json"],
            ["local", "done", "", "by-http"],
            ["eve", "refused", "FORBIDDEN", "stolen"],
            ["ada", "refused", "VALIDATION_ERROR", ""],
        ]
    );
    let first = &all[0];
    assert_eq!(
        (&first["role"], &first["token_id"], &first["action"]),
        (
            &"operator".into(),
            &"token-of-ada".into(),
            &"reality.create".into()
        )
    );
    assert!(
        first["from"]
            .as_str()
            .expect("from")
            .starts_with("127.0.0.1:"),
        "{first}"
    );
    assert_eq!(first["after"][0]["reality"], "by-frame", "{first}");
    assert_eq!(first["before"], json!([]), "{first}");
    let refused = audited(&node, &["--outcome", "refused", "--subject", "eve"]);
    let names: Vec<_> = refused.iter().map(|one| one["action"].as_str()).collect();
    assert_eq!(names, [Some("reality.create"), Some("edge.status")]);

    // Only an admin sees it, and nobody writes it.
    assert!(ask(&mut eve, command("audit.list", &[])).starts_with("FORBIDDEN"));
    assert!(ask(&mut ada, command("audit.verify", &[])).starts_with("FORBIDDEN"));

    let head: Value =
        serde_json::from_str(&node.ok(&["audit", "head", "--output", "json"])).expect("JSON");
    let hash = head["hash"].as_str().expect("a hash").to_owned();
    node.signal("KILL");
    node.ended();
    let node = Node::dev_on(&data);
    assert_eq!(
        over_http("reality.create", r#"{"name":"after"}"#)
            .send(node.ops)
            .status,
        200
    );
    let verified = node.ok(&["audit", "verify", "--head", &hash, "--output", "json"]);
    let verified: Value = serde_json::from_str(&verified).expect("JSON");
    assert_eq!(
        (&verified["ok"], &verified["first"]),
        (&true.into(), &1.into())
    );
    let missing = node.run(&["audit", "verify", "--head", &"0".repeat(64)]);
    assert_eq!(missing.code, 1, "{}", missing.stderr);
    node.signal("TERM");
    node.ended();
    let system = data.join("dev/_system");
    let system = system.to_str().expect("a path of text");
    let (code, shown) = logdump(&["verify", system, "--audit-head", &hash]);
    assert_eq!(code, 0, "{shown}");
    // What the node itself did stands with it: two starts, one stop in order.
    let node_log = data.join("_node/_system");
    let (code, shown) = logdump(&["verify", node_log.to_str().expect("a path of text")]);
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("audit: 3 entries"), "{shown}");
}

// BRK-13, OPS-01: data of one's own is no control action; trying to write others' is one.
#[test]
fn what_one_may_write_is_not_audited_and_what_one_may_not_is() {
    let node = Node::dev();
    let eve = Claims {
        publish: Some(vec!["op.store.mine.>".to_owned()]),
        ..who(Role::User, "eve")
    };
    let mut eve = Wire::of(&node, &eve);
    let set = |namespace: &str| {
        command(
            "op.store.set",
            &[
                ("namespace", text(namespace)),
                ("key", text("colour")),
                ("value", text("a value that nobody else is to read")),
            ],
        )
    };
    assert_eq!(ask(&mut eve, set("mine")), "done");
    assert!(ask(&mut eve, command("op.store.set", &[])).starts_with("VALIDATION_ERROR"));
    assert_eq!(audited(&node, &["--subject", "eve"]), [] as [Value; 0]);
    assert!(ask(&mut eve, set("yours")).starts_with("FORBIDDEN"));
    let purge = command(
        "op.store.purge",
        &[("namespace", text("mine")), ("confirm", text(""))],
    );
    assert!(ask(&mut eve, purge).starts_with("FORBIDDEN"));
    let refused = audited(&node, &["--subject", "eve", "--outcome", "refused"]);
    let said: Vec<_> = refused
        .iter()
        .map(|one| {
            (
                one["action"].as_str(),
                one["arguments"]["namespace"].as_str(),
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            (Some("op.store.set"), Some("yours")),
            (Some("op.store.purge"), Some("mine")),
        ]
    );
    assert_eq!(audited(&node, &["--subject", "eve"]).len(), 2);
    let shown = format!("{refused:?}");
    assert!(!shown.contains("nobody else"), "{shown}");
}

// BRK-13: what is in force before and after, and no secret.
#[test]
fn before_and_after_are_shown_and_secrets_are_not() {
    let node = Node::dev();
    let set = |messages: u32| {
        let body = json!({"name": "chat", "pattern": "chat.>", "messages_per_second": messages});
        over_http("edge.rate.set", &body.to_string()).send(node.ops)
    };
    assert_eq!((set(5).status, set(7).status), (200, 200));
    let all = audited(&node, &["--action", "edge.rate.set"]);
    let rate = |value: &Value| value["topics"][0]["messages_per_second"].clone();
    assert_eq!(rate(&all[0]["after"]), 5, "{all:?}");
    assert_eq!(
        (rate(&all[1]["before"]), rate(&all[1]["after"])),
        (5.into(), 7.into())
    );
    let secret = "AKIAIOSFODNN7EXAMPLE";
    let body = json!({"subject": "x", "reason": secret}).to_string();
    assert_eq!(over_http("edge.revoke", &body).send(node.ops).status, 200);
    let url = json!({"name": "https://user:hunter2@example.org/"}).to_string();
    assert_ne!(over_http("reality.create", &url).send(node.ops).status, 200);
    let listed = audited(&node, &[]);
    let listed = serde_json::to_string(&listed).expect("JSON");
    assert!(!listed.contains("hunter2"), "{listed}");

    let hook = json!({
        "name": "orders",
        "url": "https://orders.invalid/",
        "topic": "orders.>",
        "secret": "whsec_bm9ib2R5IGlzIHRvIHJlYWQgdGhpcyBzZWNyZXQh",
        "headers": {"authorization": "Bearer hunter3"},
    });
    let registered = over_http("op.webhook.register", &hook.to_string()).send(node.ops);
    assert_eq!(registered.status, 200, "{}", registered.text());
    let all = audited(&node, &["--action", "op.webhook"]);
    assert_eq!(all.len(), 1, "{all:?}");
    let after = &all[0]["after"]["rules"][0];
    assert_eq!(after["url"], "https://orders.invalid/", "{all:?}");
    let listed = serde_json::to_string(&all).expect("JSON");
    let is_told = listed.contains("bm9ib2R5") || listed.contains("hunter3");
    assert!(!is_told, "{listed}");
}

// BRK-16, BRK-13
#[test]
fn settings_are_read_again_and_the_answer_says_what_became_of_them() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("arqonbus.toml");
    write(&file, b"[limits]\nsubscriptions_max = 3\n");
    let node = Node::configured(&dir.path().join("data"), &file, &[]);
    let reload = || node.run(&["node", "reload", "--output", "json"]);
    let subscriptions = || {
        let mut session = Wire::of(&node, &claims("dev", Role::User));
        let subscribe = |number| {
            arqonbus::proto::v1::client_frame::Body::Subscribe(arqonbus::proto::v1::Subscribe {
                subscription: number,
                filter: format!("a.{number}"),
                ..Default::default()
            })
        };
        (1..=5)
            .filter(|number| told(&mut session, subscribe(*number)))
            .count()
    };
    assert_eq!(subscriptions(), 3);
    write(
        &file,
        b"[limits]\nsubscriptions_max = 4\nmessage_bytes_max = 7000000\n[trace]\nfilter = 'debug'\n",
    );
    let reloaded = reload();
    assert_eq!(reloaded.code, 0, "{}", reloaded.stderr);
    let reloaded: Value = serde_json::from_str(&reloaded.stdout).expect("JSON");
    assert_eq!(
        reloaded["applied"],
        json!(["limits.subscriptions_max", "trace.filter"])
    );
    assert_eq!(
        reloaded["needs_restart"],
        json!(["limits.message_bytes_max"])
    );
    assert_eq!(subscriptions(), 4);

    // What is wrong anywhere changes nothing, and is named.
    for (wrong, named) in [
        (
            "[limits]\nsubscriptions_max = 5\nsessions_max = 0\n",
            "sessions_max",
        ),
        (
            "[limits]\nsubscriptions_max = 5\nsubscription_max = 5\n",
            "subscription_max",
        ),
        (
            "[limits]\nsubscriptions_max = 5\n[trace]\nfilter = 'a=b=c=d'\n",
            "trace.filter",
        ),
        (
            "[limits]\nsubscriptions_max = 5\n[[retention.topics]]\npattern = 'a.>.b'\n",
            "retention.topics",
        ),
    ] {
        write(&file, wrong.as_bytes());
        let refused = reload();
        assert_eq!(refused.code, 1, "{wrong}");
        assert!(
            refused.stderr.contains(named),
            "{named}: {}",
            refused.stderr
        );
        assert_eq!(subscriptions(), 4, "{wrong}");
    }
    // By a signal, too.
    write(&file, b"[limits]\nsubscriptions_max = 2\n");
    node.signal("HUP");
    let started = std::time::Instant::now();
    while subscriptions() != 2 {
        assert!(started.elapsed() < crate::support::PATIENCE, "not reloaded");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let of_node = audited(&node, &["--node"]);
    let actions: Vec<_> = of_node
        .iter()
        .filter_map(|one| one["action"].as_str())
        .collect();
    assert!(actions.starts_with(&["node.started"]), "{actions:?}");
    // Another tenant's admin has no say in it.
    let rival = signed(&claims("rival", Role::Admin), &node.dev_secret());
    let mut rival = Wire::with(&node, &rival);
    assert_eq!(ask(&mut rival, command("node.reload", &[])), "FORBIDDEN");
    let of_node = command("audit.list", &[("node", Kind::Boolean(true))]);
    assert!(ask(&mut rival, of_node).starts_with("FORBIDDEN"));
}

// MSG-13
#[test]
fn control_parameters_reach_every_subscriber_in_order_and_those_who_come_late() {
    let node = Node::dev();
    let mut controller = Wire::of(&node, &who(Role::Controller, "pilot"));
    let mut user = Wire::of(&node, &claims("dev", Role::User));
    let listen = || {
        arqonbus::proto::v1::client_frame::Body::Subscribe(arqonbus::proto::v1::Subscribe {
            subscription: 1,
            filter: "sys.control.>".into(),
            start: Some(arqonbus::proto::v1::subscribe::Start::Earliest(true)),
            ..Default::default()
        })
    };
    assert_eq!(ask(&mut user, listen()), "subscribed");
    let set = |name: &str, value: &str| {
        command(
            "control.set",
            &[("name", text(name)), ("value", text(value))],
        )
    };
    let mut another = Wire::of(&node, &claims("dev", Role::User));
    assert!(ask(&mut another, set("speed", "9")).starts_with("FORBIDDEN"));
    for speed in 1..=3 {
        assert_eq!(
            ask(&mut controller, set("speed", &speed.to_string())),
            "done"
        );
    }
    assert_eq!(ask(&mut controller, set("mode", "careful")), "done");
    let clear = command("control.clear", &[("name", text("mode"))]);
    assert_eq!(ask(&mut controller, clear), "done");
    let bad = ask(&mut controller, set("a.b", "1"));
    assert_eq!(bad, "VALIDATION_ERROR arguments.name");

    let heard = |session: &mut Wire| -> Vec<(String, String)> {
        let mut all = Vec::new();
        while all.len() < 5 {
            let Some(Answer::Deliver(deliver)) = session.next().expect("a frame").body else {
                continue;
            };
            for record in &deliver.records {
                let view = arqonbus::proto::view::RecordView::parse(record).expect("a record");
                let data = String::from_utf8_lossy(view.envelope.payload.data());
                let value = serde_json::from_str::<Value>(&data).unwrap_or_default();
                all.push((view.topic.to_owned(), value["value"].to_string()));
            }
        }
        all
    };
    let expected = [
        ("sys.control.set.speed", "1"),
        ("sys.control.set.speed", "2"),
        ("sys.control.set.speed", "3"),
        ("sys.control.set.mode", "\"careful\""),
        ("sys.control.set.mode", "null"),
    ]
    .map(|(topic, value)| (topic.to_owned(), value.to_owned()));
    assert_eq!(heard(&mut user), expected);
    let mut late = Wire::of(&node, &claims("dev", Role::User));
    assert_eq!(ask(&mut late, listen()), "subscribed");
    assert_eq!(heard(&mut late), expected);
    let listed = node.ok(&["control", "list", "--output", "json"]);
    let listed: Value = serde_json::from_str(&listed).expect("one object");
    assert_eq!(
        (&listed["name"], &listed["value"], &listed["by"]),
        (&"speed".into(), &3.into(), &"pilot".into())
    );
    let audited = audited(&node, &["--action", "control", "--subject", "pilot"]);
    let outcomes: Vec<_> = audited
        .iter()
        .filter_map(|one| one["outcome"].as_str())
        .collect();
    assert_eq!(outcomes, ["done", "done", "done", "done", "done", "failed"]);
    // Everything else of the system's stays closed.
    for closed in ["sys.>", "sys.audit", "sys.*.set.speed"] {
        let mut session = Wire::of(&node, &claims("dev", Role::User));
        let subscribe =
            arqonbus::proto::v1::client_frame::Body::Subscribe(arqonbus::proto::v1::Subscribe {
                subscription: 1,
                filter: closed.into(),
                ..Default::default()
            });
        assert!(
            ask(&mut session, subscribe).starts_with("FORBIDDEN"),
            "{closed}"
        );
    }
}

// BRK-14
#[test]
fn a_topic_is_described() {
    let node = Node::dev_with(&[(
        "ARQONBUS_RETENTION_TOPICS",
        "[{pattern = \"usgs.>\", retain_age_s = 86400, retain_records = 5000}]",
    )])
    .with_earthquakes();
    node.ok(&["consume", "usgs.>", "--consumer", "billing", "--limit", "5"]);
    let described = node.ok(&["topics", "describe", "usgs.quake", "--output", "json"]);
    let described: Value = serde_json::from_str(&described).expect("JSON");
    assert_eq!(described["records"], crate::shell::EVENTS, "{described}");
    assert!(described["bytes"].as_u64() > Some(100_000), "{described}");
    let rate = described["records_per_second"].as_f64().expect("a rate");
    assert!(
        (28.0..29.0).contains(&rate),
        "1,707 in the last minute: {rate}"
    );
    let expected = json!({"compacted": false, "age_s": 86400, "records": 5000});
    assert_eq!(described["retention"], expected);
    let consumers = described["consumers"].as_array().expect("a list");
    assert_eq!(consumers[0]["consumer"], "billing", "{described}");
    let missing = node.run(&["topics", "describe", "no.such"]);
    assert_eq!(missing.code, 1);
    assert!(missing.stderr.contains("NOT_FOUND"), "{}", missing.stderr);
}
