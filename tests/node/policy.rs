//! Policies from outside: pushed into a running node, failing in every way, kept over a restart.

use std::path::Path;
use std::process::Command;

use arqonbus::client::{Client, ConnectOptions, Error, FetchOptions, Outgoing, ProduceOptions};
use arqonbus::proto::v1::{Value, Verdict, value};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use crate::raw::Request;
use crate::support::{Node, command, write};

const MALWARE: &str = include_str!("../fixtures/policy/malware.wat");
const MOODS: &str = include_str!("../fixtures/policy/moods.wat");
const ALLOW: &str = include_str!("../fixtures/policy/allow.wat");

fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("a module")
}

/// Gives every message a label.
fn labelling(label: &str) -> Vec<u8> {
    let len = label.len();
    wasm(&format!(
        "(module (import \"arqon\" \"tag\" (func $tag (param i32 i32)))
           (memory (export \"memory\") 2) (data (i32.const 8) \"{label}\")
           (func (export \"arqon_abi\") (result i32) i32.const 1)
           (func (export \"arqon_alloc\") (param i32) (result i32) i32.const 1024)
           (func (export \"arqon_reset\"))
           (func (export \"arqon_check\") (param i32 i32 i32 i32) (result i64)
             (call $tag (i32.const 8) (i32.const {len})) i64.const 0))"
    ))
}

fn bytes(bytes: Vec<u8>) -> Value {
    value::Kind::Bytes(bytes.into()).into()
}

pub(crate) async fn connect(node: &Node) -> Client {
    connect_as(node, &node.dev_token()).await
}

async fn connect_as(node: &Node, token: &str) -> Client {
    let url = format!("ws://{}/v1/ws", node.edge);
    let options = ConnectOptions::new(&url, token);
    Client::connect(options).await.expect("a connection")
}

pub(crate) async fn send(client: &Client, topic: &str, data: &[u8]) -> Result<u64, Error> {
    let mut batch = client.batch();
    batch.push(&Outgoing {
        topic,
        data,
        ..Outgoing::default()
    });
    let produced = client.produce(&batch, &ProduceOptions::default()).await?;
    Ok(produced.last)
}

async fn refusal(client: &Client, topic: &str, data: &[u8]) -> (String, String, String) {
    match send(client, topic, data).await {
        Err(Error::Answered {
            code,
            message,
            field,
            ..
        }) => (code, message, field),
        other => panic!("{other:?}"),
    }
}

/// Pushes a version and puts it in force.
async fn put(client: &Client, name: &str, module: Vec<u8>) -> Result<Value, Error> {
    let topics: Value = ["upload.>"].into_iter().collect();
    let arguments = [
        ("name", name.into()),
        ("module", bytes(module)),
        ("topics", topics),
        ("activate", true.into()),
    ];
    client.command("edge.policy.push", arguments).await
}

async fn run(client: &Client, command: &str, name: &str) -> Result<Value, Error> {
    client.command(command, [("name", name.into())]).await
}

async fn listed(client: &Client) -> serde_json::Value {
    let nothing: [(&str, Value); 0] = [];
    let list = client.command("edge.policy.list", nothing).await;
    list.expect("a list").to_json()
}

/// Payloads and verdicts of all that is stored below `upload`.
pub(crate) async fn stored(client: &Client) -> Vec<(Vec<u8>, Verdict)> {
    let mut found = Vec::new();
    let mut options = FetchOptions {
        reality: "main".into(),
        filter: "upload.>".into(),
        from: 1,
        records: 0,
        bytes: 0,
    };
    loop {
        let delivery = client.fetch(options.clone()).await.expect("a delivery");
        let mut last = 0;
        for view in delivery.views() {
            let view = view.expect("a record");
            let verdict = Verdict::decode(view.verdict.unwrap_or_default()).expect("a verdict");
            found.push((view.envelope.payload.data().to_vec(), verdict));
            last = view.sequence;
        }
        if last == 0 {
            return found;
        }
        options.from = last + 1;
    }
}

fn count(node: &Node, metric: &str) -> u64 {
    let text = Request::get("/metrics").send(node.ops).text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or(0)
}

pub(crate) fn blocked(node: &Node, reason: &str) -> u64 {
    let metric = format!("arqon_edge_decisions_total{{decision=\"blocked\",reason=\"{reason}\"}}");
    count(node, &metric)
}

// EDGE-14, EDGE-15
#[tokio::test]
async fn policy_pushed_under_traffic_blocks_the_next_message() {
    let node = Node::dev();
    let client = connect(&node).await;
    let evil = b"here is malware for you";
    send(&client, "upload.file", evil)
        .await
        .expect("nothing forbids it yet");
    let module = wasm(MALWARE);
    let digest: [u8; 32] = Sha256::digest(&module).into();
    let pushed = put(&client, "no-malware", module)
        .await
        .expect("a good policy")
        .to_json();
    assert_eq!(
        (&pushed["version"], &pushed["active"]),
        (&1.into(), &true.into())
    );

    let (code, message, field) = refusal(&client, "upload.file", evil).await;
    assert_eq!(code, "POLICY_BLOCKED");
    assert!(
        message.contains("no-malware") && message.contains("malware: no malware here"),
        "{message}"
    );
    assert_eq!(field, "envelopes[0].payload");
    send(&client, "upload.file", b"harmless")
        .await
        .expect("it passes");
    send(&client, "other.file", evil)
        .await
        .expect("another topic");
    // All or nothing.
    let mut batch = client.batch();
    for data in [&b"one"[..], evil, b"three"] {
        batch.push(&Outgoing {
            topic: "upload.file",
            data,
            ..Outgoing::default()
        });
    }
    let refused = client.produce(&batch, &ProduceOptions::default()).await;
    let refused = refused.expect_err("one of them is refused").to_string();
    assert!(refused.contains("envelopes[1].payload"), "{refused}");

    let stored = stored(&client).await;
    let payloads: Vec<_> = stored.iter().map(|(data, _)| data.as_slice()).collect();
    assert_eq!(payloads, [&evil[..], b"harmless"]);
    assert!(
        stored[0].1.policy_digest.is_empty(),
        "nothing judged the first"
    );
    assert_eq!(stored[1].1.policy_digest, digest[..]);
    assert!(stored[1].1.policy_version > 0);
    assert_eq!(blocked(&node, "policy.denied"), 2);
}

// EDGE-15
#[tokio::test]
async fn whatever_a_policy_does_the_message_is_blocked_and_the_node_lives() {
    let node = Node::dev();
    let client = connect(&node).await;
    put(&client, "moods", wasm(MOODS))
        .await
        .expect("it looks good");
    for (mood, reason) in [
        ("trap", "policy.trap"),
        ("zero", "policy.trap"),
        ("stack", "policy.trap"),
        ("loop", "policy.timeout"),
        ("memory", "policy.memory"),
        ("elements", "policy.memory"),
        ("outside", "policy.abi"),
        ("huge", "policy.abi"),
        ("bad", "policy.abi"),
        ("no ruling", "policy.abi"),
        ("wide", "policy.abi"),
        ("flood", "policy.abi"),
        ("pointer", "policy.abi"),
    ] {
        let before = blocked(&node, reason);
        let (code, message, _) = refusal(&client, "upload.file", mood.as_bytes()).await;
        assert_eq!(code, "POLICY_FAILURE", "{mood}");
        assert!(
            message.starts_with("policy moods could not decide"),
            "{mood}: {message}"
        );
        assert_eq!(blocked(&node, reason), before + 1, "{mood}");
        send(&client, "upload.file", b"all right")
            .await
            .expect(mood);
    }
    assert_eq!(
        stored(&client).await.len(),
        13,
        "what was blocked is not stored"
    );
    assert!(count(&node, "arqon_policy_calls_total{outcome=\"policy.abi\"}") >= 7);
    assert!(count(&node, "arqon_policy_duration_seconds_count") > 0);
}

// EDGE-14
#[tokio::test]
async fn payload_is_redacted_before_it_is_stored_and_the_record_says_so() {
    let node = Node::dev();
    let client = connect(&node).await;
    put(&client, "moods", wasm(MOODS)).await.expect("a policy");
    for data in ["redact", "yes", "keep"] {
        send(&client, "upload.file", data.as_bytes())
            .await
            .expect(data);
    }
    let stored = stored(&client).await;
    let told: Vec<_> = stored
        .iter()
        .map(|(data, verdict)| {
            (
                std::str::from_utf8(data).expect("text"),
                verdict.flags.join(" "),
            )
        })
        .collect();
    let expected = [
        ("re**ct", "redacted"),
        ("tame", "label:tamed rewritten"),
        ("keep", "label:marked"),
    ];
    assert_eq!(told, expected.map(|(data, flags)| (data, flags.to_owned())));
}

// EDGE-14, EDGE-15
#[tokio::test]
async fn what_is_in_force_survives_a_killed_node() {
    let node = Node::dev();
    let (data, before) = {
        let client = connect(&node).await;
        put(&client, "label", labelling("one"))
            .await
            .expect("a policy");
        put(&client, "label", labelling("two"))
            .await
            .expect("a policy");
        run(&client, "edge.policy.rollback", "label")
            .await
            .expect("there is one before");
        put(&client, "no-malware", wasm(MALWARE))
            .await
            .expect("a policy");
        (node.data.clone(), listed(&client).await)
    };
    node.signal("KILL");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let kept = dir.path().join("data");
    copy(&data, &kept);
    drop(node);
    let node = Node::dev_on(&kept);
    let client = connect(&node).await;
    assert_eq!(listed(&client).await, before);
    assert_eq!(
        (&before[0]["version"], &before[0]["newest"]),
        (&1.into(), &2.into())
    );
    let (code, ..) = refusal(&client, "upload.file", b"malware").await;
    assert_eq!(code, "POLICY_BLOCKED");
    send(&client, "upload.file", b"harmless")
        .await
        .expect("it passes");
    let stored = stored(&client).await;
    assert_eq!(stored[0].1.flags, ["label:one"]);
    let both = Sha256::digest(
        [
            Sha256::digest(labelling("one")),
            Sha256::digest(wasm(MALWARE)),
        ]
        .concat(),
    );
    assert_eq!(stored[0].1.policy_digest, both[..]);
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.expect("cp runs").success());
}

// EDGE-15
#[tokio::test]
async fn version_that_is_unfit_is_refused_and_the_old_one_stays() {
    let node = Node::dev();
    let client = connect(&node).await;
    put(&client, "no-malware", wasm(MALWARE))
        .await
        .expect("a policy");
    let wrong_type = "(module (memory (export \"memory\") 1)
        (func (export \"arqon_abi\") (result i64) i64.const 1)
        (func (export \"arqon_alloc\") (param i32) (result i32) i32.const 8))";
    let mut large = wasm(ALLOW);
    large.resize(4 << 20, 0);
    for (module, said) in [
        (b"no module".to_vec(), "is no WebAssembly binary"),
        (wasm("(module)"), "does not export arqon_check"),
        (
            wasm(wrong_type),
            "exports arqon_abi, which must be arqon_abi() -> i32; does not export arqon_check",
        ),
        (
            wasm("(module (import \"wasi_snapshot_preview1\" \"clock_time_get\" (func)))"),
            "without WASI",
        ),
        (large, "over the limit of 2097152"),
        (wasm(MALWARE).split_at(200).0.to_vec(), "does not compile"),
    ] {
        let refused = put(&client, "no-malware", module).await;
        let refused = refused.expect_err("it is unfit").to_string();
        assert!(
            refused.contains("VALIDATION_ERROR") && refused.contains(said),
            "{refused}"
        );
        let (code, ..) = refusal(&client, "upload.file", b"malware").await;
        assert_eq!(code, "POLICY_BLOCKED", "the old one judges");
    }
    assert_eq!(listed(&client).await[0]["newest"], 1);
    assert_eq!(count(&node, "arqon_policy_changes_refused_total"), 6);
}

// EDGE-15
#[tokio::test]
async fn push_runs_its_test_vectors_first() {
    let node = Node::dev();
    let client = connect(&node).await;
    let push = async |module: Vec<u8>, vectors: &str| {
        let topics: Value = ["upload.>"].into_iter().collect();
        let arguments = [
            ("name", "p".into()),
            ("module", bytes(module)),
            ("topics", topics),
            ("vectors", bytes(vectors.as_bytes().to_vec())),
        ];
        client
            .command("edge.policy.push", arguments)
            .await
            .map_err(|error| error.to_string())
    };
    let good = r#"[
        {"name": "bad", "payload": "a malware", "expect": {"outcome": "deny", "code": "malware"}},
        {"name": "good", "payload_base64": "aGk=", "expect": {"outcome": "allow", "tags": []}}]"#;
    let refused = push(wasm(ALLOW), good)
        .await
        .expect_err("it allows what it should not");
    assert!(
        refused.contains("vectors[0] (bad): expected deny, found allow"),
        "{refused}"
    );
    let counts = "(module (memory (export \"memory\") 1) (global $n (mut i32) (i32.const 0))
        (func (export \"arqon_abi\") (result i32) i32.const 1)
        (func (export \"arqon_alloc\") (param i32) (result i32) i32.const 8)
        (func (export \"arqon_reset\"))
        (func (export \"arqon_check\") (param i32 i32 i32 i32) (result i64)
          (global.set $n (i32.add (global.get $n) (i32.const 1)))
          (if (i32.gt_u (global.get $n) (i32.const 1)) (then (unreachable))) i64.const 0))";
    let twice = r#"[{"expect": {"outcome": "allow"}}, {"expect": {"outcome": "allow"}}]"#;
    let refused = push(wasm(counts), twice).await.expect_err("it remembers");
    assert!(refused.contains("non-deterministic"), "{refused}");
    let refused = push(wasm(ALLOW), "{}").await.expect_err("no list");
    assert!(refused.contains("not a list of test vectors"), "{refused}");
    push(wasm(MALWARE), good)
        .await
        .expect("it does what it should");
    send(&client, "upload.file", b"malware")
        .await
        .expect("pushed is not active");
    run(&client, "edge.policy.activate", "p")
        .await
        .expect("it is there");
    assert_eq!(
        refusal(&client, "upload.file", b"malware").await.0,
        "POLICY_BLOCKED"
    );
}

// EDGE-14
#[tokio::test]
async fn reload_with_ten_thousand_messages_in_flight_judges_each_by_one_version() {
    let node = Node::dev();
    let client = connect(&node).await;
    let admin = connect(&node).await;
    let versions = [labelling("v1"), labelling("v2"), labelling("v3")];
    put(&admin, "label", versions[0].clone())
        .await
        .expect("a policy");
    let (begin, begun) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    let reload = async {
        begun.await.expect("traffic flows");
        for version in &versions[1..] {
            put(&admin, "label", version.clone())
                .await
                .expect("a policy");
        }
        end.send(()).expect("traffic waits");
    };
    let traffic = async {
        let (mut begin, mut ended) = (Some(begin), Some(ended));
        let mut tickets = Vec::new();
        for n in 0..2_000_u32 {
            match n {
                100 => begin
                    .take()
                    .into_iter()
                    .for_each(|begin| begin.send(()).expect("it waits")),
                1_900 => ended.take().expect("once").await.expect("reloaded"),
                _ => {}
            }
            let mut batch = client.batch();
            for part in 0..5_u32 {
                let data = (n * 5 + part).to_string();
                let data = data.as_bytes();
                batch.push(&Outgoing {
                    topic: "upload.file",
                    data,
                    ..Outgoing::default()
                });
            }
            tickets.push(
                client
                    .send(&batch, &ProduceOptions::default())
                    .await
                    .expect("sent"),
            );
        }
        for ticket in tickets {
            ticket.produced().await.expect("stored");
        }
    };
    tokio::join!(traffic, reload);
    let stored = stored(&client).await;
    assert_eq!(stored.len(), 10_000);
    let digests = versions.map(|version| Sha256::digest(version).to_vec());
    let mut newest = 0;
    for (index, (data, verdict)) in stored.iter().enumerate() {
        assert_eq!(data, index.to_string().as_bytes());
        let judge = digests
            .iter()
            .position(|digest| verdict.policy_digest == digest[..]);
        let judge = judge.expect("one of the three");
        assert_eq!(verdict.flags, [format!("label:v{}", judge + 1)]);
        assert!(judge >= newest, "an old version judges after a new one");
        assert!(
            index % 5 == 0 || judge == newest,
            "a batch is judged by one version"
        );
        newest = judge;
    }
    assert_eq!(newest, 2, "the last ones are judged by the last version");
}

// EDGE-15
#[tokio::test]
async fn required_topic_without_a_policy_is_refused() {
    let node = Node::dev_with(&[("ARQONBUS_POLICY_REQUIRED", "[\"upload.>\"]")]);
    let client = connect(&node).await;
    let missing = async || {
        let (code, _, field) = refusal(&client, "upload.file", b"x").await;
        assert_eq!(
            (code.as_str(), field.as_str()),
            ("POLICY_FAILURE", "envelopes[0].topic")
        );
    };
    missing().await;
    send(&client, "other", b"x")
        .await
        .expect("not required there");
    put(&client, "a", wasm(ALLOW)).await.expect("a policy");
    put(&client, "b", wasm(ALLOW)).await.expect("a policy");
    send(&client, "upload.file", b"x")
        .await
        .expect("it has two now");
    run(&client, "edge.policy.disable", "a")
        .await
        .expect("it was in force");
    missing().await;
    run(&client, "edge.policy.activate", "a")
        .await
        .expect("it is kept");
    send(&client, "upload.file", b"x")
        .await
        .expect("both judge");
    for name in ["a", "b"] {
        run(&client, "edge.policy.remove", name)
            .await
            .expect("it is there");
    }
    missing().await;
    assert_eq!(blocked(&node, "policy.missing"), 3);
}

// EDGE-15
#[tokio::test]
async fn disabled_policy_blocks_where_it_is_required_and_else_is_passed_by() {
    let node = Node::dev();
    let client = connect(&node).await;
    for (name, required) in [("must", true), ("may", false)] {
        let topics: Value = [format!("upload.{name}")].into_iter().collect();
        let arguments = [
            ("name", name.into()),
            ("module", bytes(wasm(MALWARE))),
            ("topics", topics),
            ("required", required.into()),
            ("activate", true.into()),
        ];
        client
            .command("edge.policy.push", arguments)
            .await
            .expect("a policy");
        run(&client, "edge.policy.disable", name)
            .await
            .expect("it was in force");
    }
    send(&client, "upload.may", b"malware")
        .await
        .expect("nobody looks");
    let (code, message, _) = refusal(&client, "upload.must", b"x").await;
    assert_eq!(code, "POLICY_FAILURE");
    assert!(message.contains("policy must is disabled"), "{message}");
    assert!(
        run(&client, "edge.policy.disable", "may").await.is_err(),
        "it is already"
    );
}

// EDGE-16
#[tokio::test]
async fn shadow_counts_its_differences_and_changes_nothing() {
    let node = Node::dev();
    let client = connect(&node).await;
    put(&client, "p", wasm(ALLOW)).await.expect("a policy");
    let topics: Value = ["upload.>"].into_iter().collect();
    let arguments = [
        ("name", "p".into()),
        ("module", bytes(wasm(MALWARE))),
        ("topics", topics),
    ];
    client
        .command("edge.policy.push", arguments)
        .await
        .expect("a policy");
    let percent = 50_u64.into();
    let shadow = [("name", "p".into()), ("percent", percent)];
    client
        .command("edge.policy.shadow", shadow)
        .await
        .expect("it is there");
    for n in 0..100 {
        let data = if n % 4 < 2 { "malware" } else { "harmless" };
        send(&client, "upload.file", data.as_bytes())
            .await
            .expect("it has no say");
    }
    let shown = run(&client, "edge.policy.show", "p")
        .await
        .expect("it is there")
        .to_json();
    let calls = &shown["calls"];
    assert_eq!(
        (
            &calls["all"],
            &calls["shadow_same"],
            &calls["shadow_different"]
        ),
        (&50.into(), &25.into(), &25.into()),
        "{shown}"
    );
    assert_eq!(
        count(&node, "arqon_policy_shadows_total{outcome=\"different\"}"),
        25
    );
    run(&client, "edge.policy.activate", "p")
        .await
        .expect("the newest");
    assert_eq!(
        refusal(&client, "upload.file", b"malware").await.0,
        "POLICY_BLOCKED"
    );
    run(&client, "edge.policy.rollback", "p")
        .await
        .expect("the one before");
    send(&client, "upload.file", b"malware")
        .await
        .expect("the first allows all");
}

// EDGE-14, EDGE-15
#[tokio::test]
async fn policy_of_the_node_holds_for_every_tenant_and_cannot_be_removed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("no-malware.wasm");
    write(&file, &wasm(MALWARE));
    let entry = |more: &str| {
        let file = file.display();
        format!("[{{name=\"no-malware\",file=\"{file}\",topics=[\"upload.>\"]{more}}}]")
    };
    let node = Node::dev_with(&[("ARQONBUS_POLICY_FILES", &entry(""))]);
    let client = connect(&node).await;
    assert_eq!(
        refusal(&client, "upload.file", b"malware").await.0,
        "POLICY_BLOCKED"
    );
    let removed = run(&client, "edge.policy.remove", "no-malware").await;
    assert!(removed.is_err(), "it is none of the tenant's");
    // The tenant's own may rewrite, and cannot rewrite what the node's would refuse into the log.
    let evil = "(module (memory (export \"memory\") 1) (data (i32.const 8) \"\\22\\09\\0a\\07malware\")
        (func (export \"arqon_abi\") (result i32) i32.const 1)
        (func (export \"arqon_alloc\") (param i32) (result i32) i32.const 1024)
        (func (export \"arqon_check\") (param i32 i32 i32 i32) (result i64) i64.const 0x000000080000000b))";
    put(&client, "no-malware", wasm(evil))
        .await
        .expect("the same name is another policy");
    assert_eq!(
        refusal(&client, "upload.file", b"x").await.0,
        "POLICY_BLOCKED"
    );
    let list = listed(&client).await;
    assert_eq!(
        (&list[0]["of"], &list[1]["of"]),
        (&"tenant".into(), &"node".into())
    );
    run(&client, "edge.policy.remove", "no-malware")
        .await
        .expect("its own");
    assert_eq!(
        refusal(&client, "upload.file", b"malware").await.0,
        "POLICY_BLOCKED"
    );
    drop(node);

    let digest = format!(",digest=\"{}\"", "0".repeat(64));
    for (change, said) in [
        ("digest", "not what digest says"),
        ("broken", "is no WebAssembly binary"),
        ("gone", "cannot read"),
    ] {
        match change {
            "broken" => write(&file, b"text"),
            "gone" => std::fs::remove_file(&file).expect("it was there"),
            _ => {}
        }
        let more = if change == "digest" {
            digest.as_str()
        } else {
            ""
        };
        let data = dir.path().join("data");
        let mut serve = command(&[
            "serve",
            "--dev",
            "--listen",
            "127.0.0.1:0",
            "--ops",
            "127.0.0.1:0",
        ]);
        serve
            .arg("--data")
            .arg(&data)
            .env("ARQONBUS_POLICY_FILES", entry(more));
        let output = serve.output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{change}: {text}");
        assert!(
            text.contains("policy.files[0]") && text.contains(said),
            "{change}: {text}"
        );
    }
}

// EDGE-14
#[tokio::test]
async fn lines_that_a_policy_logs_do_not_reach_the_nodes_log() {
    let node = Node::dev_with(&[("ARQONBUS_TRACE_FILTER", "debug")]);
    let client = connect(&node).await;
    put(&client, "moods", wasm(MOODS)).await.expect("a policy");
    let canary = "q-canary-5f1c";
    send(&client, "upload.file", canary.as_bytes())
        .await
        .expect("it may log");
    assert_eq!(count(&node, "arqon_policy_log_lines_total"), 1);
    drop(client);
    node.signal("TERM");
    let (_, stderr) = node.ended();
    assert!(!stderr.contains(canary), "a payload is in the node's log");
}

// EDGE-14
#[tokio::test]
async fn large_module_is_stored_and_only_admins_may_push() {
    let node = Node::dev();
    let client = connect(&node).await;
    // As large as a module may be: data that nothing reads.
    let filler = "x".repeat(1_500_000);
    let text = ALLOW.replace(
        "(func (export \"arqon_reset\"))",
        &format!("(func (export \"arqon_reset\")) (data (i32.const 4096) \"{filler}\")"),
    );
    put(&client, "large", wasm(&text)).await.expect("it fits");
    send(&client, "upload.file", b"x")
        .await
        .expect("it allows all");
    let user = crate::support::claims("dev", arqonbus::proto::claims::Role::Operator);
    let token = crate::support::signed(&user, node.dev_secret().trim_ascii_end());
    let user = connect_as(&node, &token).await;
    let refused = put(&user, "mine", wasm(ALLOW)).await.expect_err("no admin");
    assert!(refused.to_string().contains("FORBIDDEN"), "{refused}");
}

// EDGE-15
#[test]
fn machine_that_forbids_executable_memory_is_named_at_the_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    // PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN: what MemoryDenyWriteExecute asks of the kernel.
    let hardened = "import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0): sys.exit(99)
os.execv(sys.argv[1], sys.argv[1:])";
    let data = dir.path().join("data");
    let serve = [
        "serve",
        "--dev",
        "--listen",
        "127.0.0.1:0",
        "--ops",
        "127.0.0.1:0",
    ];
    let node = command(&serve);
    let mut python = Command::new("python3");
    for (name, value) in node.get_envs() {
        if value.is_none() {
            python.env_remove(name);
        }
    }
    let output = python
        .args(["-c", hardened])
        .arg(node.get_program())
        .args(node.get_args())
        .arg("--data")
        .arg(&data)
        .output()
        .expect("python3 runs");
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(99) {
        // This kernel has no PR_SET_MDWE, which came with Linux 6.3.
        return;
    }
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("MemoryDenyWriteExecute=no"), "{text}");
}
