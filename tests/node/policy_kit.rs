//! What somebody does who writes a policy, by `arqon policy`: from a template over history into
//! force.

use std::path::Path;
use std::process::{Command, Stdio};

use arqonbus::client::FetchOptions;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::policy::{blocked, connect, send, stored};
use crate::shell::{Ran, finished};
use crate::support::{Node, write};

/// Traps whatever it is asked.
const TRAPS: &str = "(module (memory (export \"memory\") 1)
    (func (export \"arqon_abi\") (result i32) i32.const 1)
    (func (export \"arqon_alloc\") (param i32) (result i32) i32.const 1024)
    (func (export \"arqon_reset\"))
    (func (export \"arqon_check\") (param i32 i32 i32 i32) (result i64) unreachable))";

/// A directory in which policies are written, and a node for them.
struct Kit {
    node: Node,
    dir: TempDir,
}

impl Kit {
    fn new() -> Self {
        Self::beside(Node::dev())
    }

    fn beside(node: Node) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self { node, dir }
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = self.node.arqon(arguments);
        finished(
            command
                .current_dir(self.dir.path())
                .spawn()
                .expect("arqon starts"),
        )
    }

    fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        let file = self.dir.path().join("input");
        write(&file, input.as_bytes());
        let input = std::fs::File::open(&file).expect("it was written");
        let mut command = self.node.arqon(arguments);
        command.current_dir(self.dir.path()).stdin(input);
        finished(command.spawn().expect("arqon starts"))
    }

    /// Runs `arqon policy` to success; the one object that it prints.
    fn policy(&self, arguments: &[&str]) -> Value {
        let arguments = [&["policy"], arguments, &["--output", "json"]].concat();
        let ran = self.run(&arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
        serde_json::from_str(&ran.stdout).expect("one object")
    }

    /// What `arqon policy rehearse` says, without the times.
    fn rehearse(&self, arguments: &[&str]) -> Value {
        let mut said = self.policy(&[&["rehearse"], arguments].concat());
        let times = ["p50_us", "p99_us", "max_us"].map(|time| {
            let took = said.as_object_mut().and_then(|said| said.remove(time));
            took.and_then(|took| took.as_f64()).expect(time)
        });
        assert!(times.is_sorted(), "{times:?}");
        // No call into a module is as short as this.
        assert_eq!(times[0] > 0.05, said["judged"] != 0, "{times:?}");
        said
    }

    /// Runs `arqon policy`, which fails so and says all of this.
    fn fails(&self, arguments: &[&str], code: i32, said: &[&str]) {
        let ran = self.run(&[&["policy"], arguments].concat());
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.stderr);
        for said in said {
            assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
        }
    }

    fn produce(&self, more: &[&str], lines: &[(&str, &str)]) {
        let lines: String = lines
            .iter()
            .map(|(topic, text)| format!("{}\n", json!({ "topic": topic, "text": text })))
            .collect();
        let arguments = [&["produce", "--topic-field", "topic"], more].concat();
        let ran = self.run_with_input(&arguments, &lines);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    }

    fn file(&self, name: &str, text: &str) {
        write(&self.dir.path().join(name), text.as_bytes());
    }
}

/// Ten records: the word is in 2, 5 and 9.
const HISTORY: &[(&str, &str)] = &[
    ("chat.lobby", "hello"),
    ("chat.lobby", "buy malware now"),
    ("chat.games", "a word"),
    ("mail.in", "dear all"),
    ("mail.in", "cheap malware"),
    ("chat.lobby", "malwar"),
    ("other", "x"),
    ("mail.in", "bye"),
    ("chat.games", "malware"),
    ("chat.lobby", "good night"),
];

fn sample(sequence: u64, topic: &str) -> Value {
    json!({ "sequence": sequence, "topic": topic, "decision": "deny",
        "code": "malware", "message": "not here" })
}

/// What a rehearsal says if it refuses these.
fn refused(records: u64, judged: u64, samples: &[Value]) -> Value {
    let refused = samples.len() as u64;
    let reasons = match refused {
        0 => json!([]),
        _ => json!([{ "reason": "malware", "records": refused }]),
    };
    json!({ "records": records, "judged": judged, "allowed": judged - refused,
        "refused": refused, "changed": 0, "failed": 0, "lost": 0,
        "reasons": reasons, "labels": [], "samples": samples })
}

// EDGE-16
#[test]
fn template_in_wat_goes_from_new_to_judging() {
    let place = Kit::new();
    place.produce(&[], HISTORY);
    let new = place.run(&["policy", "new", "no-malware", "--lang", "wat"]);
    assert_eq!(new.code, 0, "{}", new.stderr);
    assert!(
        new.stdout
            .contains("arqon policy test no-malware/policy.wat"),
        "{}",
        new.stdout
    );
    let text = std::fs::read_to_string(place.dir.path().join("no-malware/policy.wat"));
    assert!(text.expect("it was written").starts_with(";; no-malware: "));

    let (file, vectors) = ("no-malware/policy.wat", "no-malware/vectors.json");
    let checked = place.policy(&["check", file]);
    assert_eq!(
        (&checked["abi_level"], &checked["instances_reused"]),
        (&1.into(), &true.into()),
        "{checked}"
    );
    assert_eq!(
        place.policy(&["test", file, "--vectors", vectors]),
        json!({ "vectors": 4, "passed": true, "misses": [] })
    );
    for (input, outcome) in [
        ("buy malware now", "deny"),
        ("good", "allow"),
        ("", "allow"),
    ] {
        let arguments = ["policy", "run", file, "--output", "json"];
        let ran = place.run_with_input(&arguments, input);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let judged: Value = serde_json::from_str(&ran.stdout).expect("one object");
        assert_eq!(judged["outcome"], outcome, "{judged}");
        if outcome == "deny" {
            assert_eq!(
                (&judged["code"], &judged["message"]),
                (&"malware".into(), &"not here".into())
            );
        }
    }

    let pushed = place.policy(&[
        "push",
        "no-malware",
        file,
        "--topics",
        "chat.>,mail.>",
        "--vectors",
        vectors,
    ]);
    assert_eq!(
        (&pushed["version"], &pushed["active"]),
        (&1.into(), &true.into())
    );
    assert_eq!(
        pushed["digest"].as_str(),
        checked["digest"].as_str(),
        "{pushed}"
    );
    let evil = r#"{"topic":"chat.lobby","text":"more malware"}"#;
    let ran = place.run_with_input(&["produce", "--topic-field", "topic"], evil);
    assert_eq!(ran.code, 1);
    for said in ["POLICY_BLOCKED", "no-malware", "malware: not here"] {
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
    place.produce(&[], &[("chat.lobby", "harmless"), ("other", "malware")]);
    assert_eq!(
        place.node.records(&["consume", ">", "--stop-at-end"]).len(),
        12
    );
}

// EDGE-16
#[test]
fn rehearsal_tells_exactly_what_would_have_become_of_history() {
    let place = Kit::new();
    place.produce(&[], HISTORY);
    let ran = place.run(&["policy", "new", "p", "--lang", "wat"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let all = [
        sample(2, "chat.lobby"),
        sample(5, "mail.in"),
        sample(9, "chat.games"),
    ];
    let chats = [all[0].clone(), all[2].clone()];
    assert_eq!(place.rehearse(&["p/policy.wat"]), refused(10, 10, &all));
    assert_eq!(
        place.rehearse(&["p/policy.wat", "--since", "24h"]),
        refused(10, 10, &all)
    );
    assert_eq!(
        place.rehearse(&["p/policy.wat", "--until", "2020-01-01T00:00:00Z"])["judged"],
        0
    );
    assert_eq!(
        place.rehearse(&["p/policy.wat", "--filter", "chat.>"]),
        refused(10, 6, &chats)
    );
    let few = place.rehearse(&["p/policy.wat", "--samples", "1"]);
    assert_eq!(
        (&few["refused"], &few["samples"]),
        (&3.into(), &json!([all[0]]))
    );

    // By name, on its own topics; a version is what it is named.
    place.policy(&["push", "p", "p/policy.wat", "--topics", "chat.>"]);
    assert_eq!(place.rehearse(&["p"]), refused(10, 6, &chats));
    let shown = place.policy(&["show", "p"]);
    assert_eq!(
        shown["calls"]["all"], 0,
        "a rehearsal is no call in earnest: {shown}"
    );
    place.file("allow.wat", include_str!("../fixtures/policy/allow.wat"));
    place.policy(&[
        "push",
        "p",
        "allow.wat",
        "--topics",
        "mail.>",
        "--no-activate",
    ]);
    assert_eq!(place.rehearse(&["p@1"]), refused(10, 6, &chats));
    assert_eq!(place.rehearse(&["p@2"]), refused(10, 3, &[]));
    assert_eq!(place.rehearse(&["p"]), refused(10, 3, &[]));
    assert_eq!(
        place.rehearse(&["p@1", "--filter", "mail.in"]),
        refused(10, 3, &all[1..2])
    );

    // Another reality has another history; nothing was written to either.
    place.node.ok(&["reality", "create", "what-if"]);
    assert_eq!(
        place.rehearse(&["p/policy.wat", "--reality", "what-if"]),
        refused(0, 0, &[])
    );
    place.produce(&["--reality", "what-if"], &HISTORY[4..6]);
    assert_eq!(
        place.rehearse(&["p/policy.wat", "--reality", "what-if"]),
        refused(2, 2, &[sample(1, "mail.in")])
    );
    assert_eq!(place.rehearse(&["p/policy.wat"]), refused(10, 10, &all));
}

// EDGE-16
#[tokio::test]
async fn rehearsal_begins_and_ends_where_it_is_told() {
    let place = Kit::new();
    let client = connect(&place.node).await;
    for data in ["malware 1", "good", "malware 3", "malware 4"] {
        send(&client, "a", data.as_bytes()).await.expect(data);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let options = FetchOptions {
        reality: "main".into(),
        filter: ">".into(),
        from: 1,
        records: 0,
        bytes: 0,
    };
    let delivery = client.fetch(options).await.expect("a delivery");
    let times: Vec<u64> = delivery
        .views()
        .map(|view| view.expect("a record").appended_at)
        .collect();
    let module = wat::parse_str(include_str!("../fixtures/policy/malware.wat"));
    let module = module.expect("a module");
    let rehearse = async |bounds: &[(&'static str, u64)]| {
        let module: arqonbus::proto::v1::Value =
            arqonbus::proto::v1::value::Kind::Bytes(module.clone().into()).into();
        let mut arguments = vec![("module", module)];
        arguments.extend(bounds.iter().map(|(name, at)| (*name, (*at).into())));
        let said = client.command("edge.policy.rehearse", arguments).await;
        let said = said.expect("it can be read").to_json();
        let sequences: Vec<_> = said["samples"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|sample| sample["sequence"].as_u64().expect("a number"))
            .collect();
        assert_eq!(said["finished"], true, "{said}");
        (said["judged"].as_u64().expect("a number"), sequences)
    };
    assert_eq!(rehearse(&[]).await, (4, vec![1, 3, 4]));
    assert_eq!(rehearse(&[("since_us", times[2])]).await, (2, vec![3, 4]));
    assert_eq!(rehearse(&[("since_us", times[2] + 1)]).await, (1, vec![4]));
    assert_eq!(rehearse(&[("until_us", times[2])]).await, (3, vec![1, 3]));
    assert_eq!(
        rehearse(&[("since_us", times[1]), ("until_us", times[2])]).await,
        (2, vec![3])
    );
    assert_eq!(rehearse(&[("from", 4)]).await, (1, vec![4]));
    assert_eq!(rehearse(&[("from", 99)]).await, (0, vec![]));
}

// EDGE-16, LOG-08
#[test]
fn rehearsal_passes_over_what_is_damaged_and_counts_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let place = Kit::beside(Node::dev_on(&data));
    let lines = [("chat", "malware"), ("chat", "harmless")].repeat(500);
    place.produce(&["--batch", "10"], &lines);
    let Kit { node, dir: own } = place;
    node.signal("TERM");
    assert!(node.ended().0.success());
    let segment = data.join("dev/main/00000000000000000001.seg");
    let mut bytes = std::fs::read(&segment).expect("the first segment");
    let middle = bytes.len().min(100_000) / 2;
    for byte in &mut bytes[middle..middle + 700] {
        *byte ^= 0x55;
    }
    write(&segment, &bytes);
    let place = Kit {
        node: Node::dev_on(&data),
        dir: own,
    };
    let ran = place.run(&["policy", "new", "p", "--lang", "wat"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let said = place.rehearse(&["p/policy.wat"]);
    let number = |name: &str| said[name].as_u64().expect("a number");
    assert_eq!(number("records"), 1000, "{said}");
    assert!((1..300).contains(&number("lost")), "{said}");
    assert_eq!(number("judged") + number("lost"), 1000, "{said}");
    assert_eq!(number("refused") + number("allowed"), number("judged"));
    assert!(number("refused").abs_diff(number("allowed")) <= 2, "{said}");
}

// EDGE-16, EDGE-15
#[tokio::test]
async fn policy_that_traps_fails_in_a_rehearsal_and_harms_nothing() {
    let place = Kit::new();
    place.produce(&[], HISTORY);
    place.file("traps.wat", TRAPS);
    let said = place.rehearse(&["traps.wat", "--samples", "1"]);
    let number = |name: &str| said[name].as_u64();
    assert_eq!(
        ["judged", "failed", "allowed", "refused", "lost"].map(number),
        [10, 10, 0, 0, 0].map(Some),
        "{said}"
    );
    assert_eq!(
        said["reasons"],
        json!([{ "reason": "policy.trap", "records": 10 }])
    );
    let sample = &said["samples"][0];
    assert_eq!(
        (&sample["decision"], &sample["code"]),
        (&"fail".into(), &"policy.trap".into())
    );
    assert_eq!(
        blocked(&place.node, "policy.trap"),
        0,
        "nothing was refused"
    );
    let client = connect(&place.node).await;
    send(&client, "upload.file", b"x").await.expect("it passes");
    assert_eq!(stored(&client).await.len(), 1);
    // One that does not end is stopped each time, and so is the rehearsal between two calls.
    place.file(
        "loops.wat",
        &TRAPS.replace("unreachable", "(loop (br 0)) unreachable"),
    );
    let said = place.policy(&["rehearse", "loops.wat", "--filter", "chat.games"]);
    assert!(said["p50_us"].as_f64() > Some(500.0), "{said}");
    assert_eq!(
        said["reasons"],
        json!([{ "reason": "policy.timeout", "records": 2 }]),
        "{said}"
    );
}

// EDGE-16
#[tokio::test]
async fn versions_are_shadowed_activated_and_rolled_back_from_the_shell() {
    let place = Kit::new();
    place.file("allow.wat", include_str!("../fixtures/policy/allow.wat"));
    let ran = place.run(&["policy", "new", "p", "--lang", "wat"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    place.policy(&["push", "p", "allow.wat", "--topics", "upload.>"]);
    place.policy(&[
        "push",
        "p",
        "p/policy.wat",
        "--topics",
        "upload.>",
        "--no-activate",
    ]);
    let client = connect(&place.node).await;
    let passes = async || send(&client, "upload.file", b"malware").await.is_ok();
    assert!(passes().await, "it was only stored");
    place.policy(&["shadow", "p", "--percent", "100"]);
    for _ in 0..10 {
        assert!(passes().await, "a shadow has no say");
    }
    let shown = place.policy(&["show", "p"]);
    assert_eq!(
        (
            &shown["calls"]["shadow_same"],
            &shown["calls"]["shadow_different"]
        ),
        (&0.into(), &10.into()),
        "{shown}"
    );
    place.policy(&["activate", "p", "2"]);
    assert!(!passes().await);
    let listed = place.policy(&["list"]);
    assert_eq!(listed["version"], 2, "{listed}");
    place.policy(&["rollback", "p"]);
    assert!(passes().await);
    place.policy(&["activate", "p"]);
    assert!(!passes().await, "the newest");
    place.policy(&["disable", "p"]);
    assert!(passes().await);
    place.policy(&["remove", "p"]);
    place.fails(&["show", "p"], 1, &["NOT_FOUND"]);
}

// EDGE-16
#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn what_is_wrong_is_named_with_its_exit_code() {
    let place = Kit::new();
    let ran = place.run(&["policy", "new", "p", "--lang", "wat"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    place.file("text.wasm", "no module");
    place.file("wrong.wat", "(module (func (result i32)))(");
    place.file("empty.wat", "(module)");
    place.file(
        "wasi.wat",
        "(module (import \"wasi_snapshot_preview1\" \"clock_time_get\" (func)))",
    );
    place.file("list.json", "{}");
    place.file(
        "misses.json",
        r#"[{"name": "it is evil", "payload": "malware", "expect": {"outcome": "allow"}}]"#,
    );

    place.fails(
        &["new", "p"],
        2,
        &["p is there already", "choose another name"],
    );
    for name in ["No", "7p", "a/b", "..", ""] {
        place.fails(
            &["new", name],
            2,
            &["cannot be a policy's name", "a-z 0-9 and -"],
        );
    }
    place.fails(&["new", "q", "--lang", "cobol"], 2, &["rust", "wat"]);
    place.fails(&["check", "gone.wasm"], 66, &["cannot read gone.wasm"]);
    for (file, said) in [
        (
            "text.wasm",
            "text.wasm: the module is no policy: is no WebAssembly binary",
        ),
        ("wrong.wat", "wrong.wat"),
        ("empty.wat", "does not export arqon_check"),
        ("wasi.wat", "without WASI"),
    ] {
        place.fails(&["check", file], 65, &[said]);
        place.fails(&["test", file, "--vectors", "p/vectors.json"], 65, &[said]);
    }
    let file = "p/policy.wat";
    place.fails(
        &["check", file, "--config", "p/vectors.json"],
        65,
        &["exports no arqon_init"],
    );
    place.fails(&["test", file], 2, &["--vectors"]);
    place.fails(
        &["test", file, "--vectors", "gone.json"],
        66,
        &["gone.json"],
    );
    place.fails(
        &["test", file, "--vectors", "list.json"],
        65,
        &["list.json", "not a list of test vectors"],
    );
    let arguments = ["policy", "test", file, "--vectors", "misses.json"];
    let ran = place.run(&arguments);
    assert_eq!(ran.code, 65, "{}", ran.stderr);
    assert!(
        ran.stdout
            .contains("(it is evil): expected allow, found deny"),
        "{}",
        ran.stdout
    );

    place.fails(
        &["push", "p", "wasi.wat", "--topics", "a"],
        1,
        &["VALIDATION_ERROR", "without WASI"],
    );
    place.fails(
        &["push", "p", file, "--topics", "a..b"],
        1,
        &["topics", "a..b"],
    );
    place.fails(&["push", "p", file], 2, &["--topics"]);
    place.fails(
        &["push", "p", "gone.wat", "--topics", "a"],
        66,
        &["gone.wat"],
    );
    for verb in ["activate", "rollback", "disable", "remove", "show"] {
        place.fails(&[verb, "nobody"], 1, &["NOT_FOUND", "edge.policy.list"]);
    }
    place.fails(&["shadow", "nobody", "--percent", "5"], 1, &["NOT_FOUND"]);

    place.policy(&["push", "p", file, "--topics", "a"]);
    place.fails(
        &["activate", "p", "9"],
        1,
        &["NOT_FOUND", "there is no version 9; kept are: 1"],
    );
    place.fails(&["activate", "p", "x"], 2, &["invalid value 'x'"]);
    place.fails(&["shadow", "p", "--percent", "101"], 1, &["percent"]);
    place.fails(
        &["rehearse", "nobody"],
        1,
        &["NOT_FOUND", "edge.policy.list"],
    );
    place.fails(
        &["rehearse", "p@9"],
        1,
        &["NOT_FOUND", "there is no version 9; kept are: 1"],
    );
    place.fails(&["rehearse", "p@x"], 2, &["\"x\" is no version"]);
    place.fails(
        &["rehearse", "p", "--config", "p/vectors.json"],
        2,
        &["--config goes with a file"],
    );
    place.fails(&["rehearse", "gone.wat"], 66, &["cannot read gone.wat"]);
    place.fails(&["rehearse", "wrong.wat"], 65, &["wrong.wat"]);
    place.fails(
        &["rehearse", "wasi.wat"],
        1,
        &["VALIDATION_ERROR", "without WASI"],
    );
    place.fails(
        &["rehearse", file, "--since", "soon"],
        2,
        &["no span of time"],
    );
    place.fails(&["rehearse", file, "--filter", "a..b"], 1, &["filter"]);
    place.fails(
        &["rehearse", file, "--reality", "nowhere"],
        1,
        &["NOT_FOUND"],
    );
    place.fails(
        &["rehearse", file, "--reality", "_system"],
        1,
        &["is not judged"],
    );
}

// EDGE-16
#[test]
#[ignore = "needs a rustc that builds for wasm32-unknown-unknown: tools/test wasm finds or installs one"]
fn template_in_rust_passes_its_vectors_and_judges() {
    let rustc = std::env::var("ARQONBUS_WASM_RUSTC").unwrap_or_else(|_unset| "rustc".to_owned());
    let place = Kit::new();
    place.produce(&[], HISTORY);
    let ran = place.run(&["policy", "new", "no-malware"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stdout.contains("cargo build --release"),
        "{}",
        ran.stdout
    );
    compile(&rustc, place.dir.path());
    let vectors = "no-malware/vectors.json";
    assert_eq!(
        place.policy(&["test", "policy.wasm", "--vectors", vectors]),
        json!({ "vectors": 4, "passed": true, "misses": [] })
    );
    let all = [
        sample(2, "chat.lobby"),
        sample(5, "mail.in"),
        sample(9, "chat.games"),
    ];
    assert_eq!(place.rehearse(&["policy.wasm"]), refused(10, 10, &all));
    place.policy(&[
        "push",
        "no-malware",
        "policy.wasm",
        "--topics",
        "chat.>",
        "--vectors",
        vectors,
    ]);
    let evil = r#"{"topic":"chat.lobby","text":"more malware"}"#;
    let ran = place.run_with_input(&["produce", "--topic-field", "topic"], evil);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("malware: not here"), "{}", ran.stderr);
}

/// What `cargo build` would do, where there is a compiler and no cargo that knows it.
fn compile(rustc: &str, dir: &Path) {
    let built = Command::new(rustc)
        .args(["--edition", "2021", "--target", "wasm32-unknown-unknown"])
        .args(["--crate-type", "cdylib", "--crate-name", "policy"])
        .args([
            "-C",
            "panic=abort",
            "-C",
            "opt-level=3",
            "-C",
            "strip=symbols",
        ])
        .args(["-o", "policy.wasm", "no-malware/src/lib.rs"])
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{rustc}: {error}"));
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{rustc}: {said}");
    assert!(!said.contains("warning"), "{said}");
}
