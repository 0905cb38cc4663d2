//! Webhooks from outside: a receiver that fails, is silent, goes away and comes back; a node that is
//! killed in between; signatures checked by Python.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arqonbus::proto::claims::Role;
use serde_json::{Value, json};

use crate::interpreter::python;
use crate::shell::arqon;
use crate::support::{Node, PATIENCE, claims, signed};

/// A request that came.
#[derive(Clone, Debug)]
struct Received {
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    /// What it was answered with; 0: not at all.
    answer: u16,
}

impl Received {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    /// The number in the event that was produced.
    fn number(&self) -> u64 {
        self.json()["data"]["payload"]["n"].as_u64().expect("n")
    }
}

/// Says what the request is answered with, by how many came before; 0: nothing, for long.
type Answers = dyn Fn(usize, &Received) -> u16 + Send + Sync;

/// A server that remembers.
struct Receiver {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    fn start(answers: impl Fn(usize, &Received) -> u16 + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let (kept, answers) = (Arc::clone(&received), Arc::new(answers));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, answers) = (Arc::clone(&kept), Arc::clone(&answers));
                std::thread::spawn(move || serve(stream, &kept, &*answers));
            }
        });
        Self { address, received }
    }

    fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    fn all(&self) -> Vec<Received> {
        self.received.lock().expect("no panic").clone()
    }

    /// Waits until `enough` of what came.
    fn until(&self, what: &str, enough: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let started = Instant::now();
        loop {
            let all = self.all();
            if enough(&all) {
                return all;
            }
            assert!(started.elapsed() < PATIENCE, "{what}: {} came", all.len());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn serve(stream: TcpStream, kept: &Mutex<Vec<Received>>, answers: &Answers) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let mut headers = BTreeMap::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            let Some((name, value)) = header.trim_end().split_once(": ") else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let mut body = vec![0; headers["content-length"].parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        let mut received = Received {
            headers,
            body,
            answer: 0,
        };
        let answer = {
            let mut kept = kept.lock().ok()?;
            received.answer = answers(kept.len(), &received);
            kept.push(received.clone());
            received.answer
        };
        if answer == 0 {
            std::thread::sleep(Duration::from_secs(30));
            return None;
        }
        let text = format!("HTTP/1.1 {answer} Said\r\ncontent-length: 4\r\n\r\nsaid");
        stream.write_all(text.as_bytes()).ok()?;
    }
}

const QUICK: [(&str, &str); 3] = [
    ("ARQONBUS_WEBHOOK__RETRY_MS", "[20, 40, 80]"),
    ("ARQONBUS_WEBHOOK__BREAKER_OPEN_MS", "100"),
    ("ARQONBUS_WEBHOOK__TIMEOUT_MS", "400"),
];

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("one object")
}

/// Runs `arqon webhooks`; its JSON.
fn hooks(node: &Node, arguments: &[&str]) -> Value {
    let arguments = [&["webhooks"], arguments, &["--output", "json"]].concat();
    json(&node.ok(&arguments))
}

fn produce(node: &Node, topic: &str, numbers: std::ops::Range<u64>) {
    let lines: String = numbers
        .map(|n| format!("{}\n", json!({"n": n, "key": format!("k{}", n % 3)})))
        .collect();
    let ran = node.run_with_input(&["produce", topic, "--key-field", "key"], &lines);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

/// Whether the signatures of all that came are as the specification says, as Python computes them.
fn assert_signed(received: &[Received], secret: &str) {
    const SCRIPT: &str = r#"
import base64, hashlib, hmac, json, sys
lines = sys.stdin.read().splitlines()
key = base64.b64decode(lines[0].removeprefix("whsec_"))
for line in lines[1:]:
    one = json.loads(line)
    signed = f"{one['id']}.{one['time']}.".encode() + base64.b64decode(one["body"])
    made = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert made in one["signature"].split(" "), one
print(len(lines) - 1)
"#;
    use base64::Engine as _;
    let mut input = format!("{secret}\n");
    for one in received {
        let body = base64::engine::general_purpose::STANDARD.encode(&one.body);
        let line = json!({
            "id": one.id(), "time": one.headers["webhook-timestamp"],
            "signature": one.headers["webhook-signature"], "body": body,
        });
        input.push_str(&format!("{line}\n"));
    }
    let mut child = std::process::Command::new(python())
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("its output");
    let errors = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), received.len().to_string(), "{errors}");
}

/// Those that were taken, each at its first time, and that they came in order.
fn taken_in_order(received: &[Received]) -> Vec<u64> {
    let mut numbers: Vec<u64> = Vec::new();
    for one in received.iter().filter(|one| one.answer == 200) {
        let number = one.number();
        if numbers.last().is_none_or(|last| number > *last) {
            numbers.push(number);
        } else {
            // Again, after a crash: it must have been taken before.
            assert!(numbers.contains(&number), "{number} came after {numbers:?}");
        }
    }
    numbers
}

// OPS-05, OPS-14
#[test]
fn every_event_comes_in_order_through_failures_silence_and_a_killed_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    // Fails, is silent, redirects, is overwhelmed; each some time.
    let receiver = Receiver::start(|before, _| match before {
        3..=5 => 500,
        9 => 0,
        12 => 302,
        15 => 429,
        20..=22 => 503,
        _ => 200,
    });
    let node = Node::dev_on_with(&data, &QUICK);
    let url = receiver.url();
    let added = hooks(
        &node,
        &[
            "add",
            &url,
            "--topic",
            "orders.>",
            "--name",
            "orders",
            "--max-attempts",
            "1000",
            "--header",
            "authorization: Bearer x",
        ],
    );
    let secret = added["secret"].as_str().expect("a secret").to_owned();
    assert!(secret.starts_with("whsec_"), "{added}");
    produce(&node, "orders.new", 0..20);
    produce(&node, "other.new", 500..510);
    receiver.until("before the node is killed", |all| all.len() >= 14);
    node.signal("KILL");
    drop(node.ended());
    let node = Node::dev_on_with(&data, &QUICK);
    produce(&node, "orders.new", 20..40);
    let is_last = |one: &Received| one.answer == 200 && one.number() == 39;
    let all = receiver.until("the last", |all| all.iter().any(is_last));
    assert_eq!(taken_in_order(&all), (0..40).collect::<Vec<_>>());
    assert_signed(&all, &secret);
    let mut ids: BTreeMap<u64, &str> = BTreeMap::new();
    for one in &all {
        let known = *ids.entry(one.number()).or_insert(one.id());
        assert_eq!(known, one.id(), "an event keeps its id");
        let shown = one.json();
        assert_eq!(shown["data"]["id"], one.id());
        assert_eq!(shown["type"], "orders.new");
        assert_eq!(one.headers["content-type"], "application/json");
        assert_eq!(one.headers["authorization"], "Bearer x");
        assert!(one.headers["traceparent"].starts_with("00-"), "{one:?}");
    }
    assert_eq!(ids.len(), 40);

    // What is known is what the log says: without its cache it is the same, and nothing comes again.
    let settled = |node: &Node| {
        let started = Instant::now();
        loop {
            let shown = hooks(node, &["show", "orders"]);
            if shown["lag_records"] == 0 && shown["position"] == shown["stored_position"] {
                return shown;
            }
            assert!(started.elapsed() < PATIENCE, "{shown}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let before = settled(&node);
    let came = receiver.all().len();
    node.signal("KILL");
    drop(node.ended());
    std::fs::remove_dir_all(data.join("_state")).expect("the cache was there");
    let node = Node::dev_on_with(&data, &QUICK);
    let after = settled(&node);
    for same in [
        "rule_id",
        "url",
        "topic",
        "position",
        "owner",
        "created_at",
        "enabled",
        "secrets",
    ] {
        assert_eq!(before[same], after[same], "{same}");
    }
    produce(&node, "orders.new", 40..41);
    let all = receiver.until("one more", |all| all.len() > came);
    assert_eq!((all.len(), all[came].number()), (came + 1, 40));
}

// OPS-05, BRK-06
#[test]
fn what_is_not_taken_becomes_a_dead_letter_and_can_be_sent_again() {
    let refuse = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let refusing = Arc::clone(&refuse);
    let receiver = Receiver::start(move |_, one| {
        let poison = one.number() == 1 && refusing.load(std::sync::atomic::Ordering::SeqCst);
        if poison { 500 } else { 200 }
    });
    let node = Node::dev_with(&QUICK);
    let url = receiver.url();
    let added = hooks(
        &node,
        &[
            "add",
            &url,
            "--topic",
            "a.>",
            "--name",
            "a",
            "--max-attempts",
            "3",
        ],
    );
    produce(&node, "a.b", 0..4);
    let all = receiver.until("the last", |all| all.iter().any(|one| one.number() == 3));
    let numbers: Vec<_> = all.iter().map(Received::number).collect();
    assert_eq!(numbers, [0, 1, 1, 1, 2, 3]);
    let topic = added["dead_letters"].as_str().expect("a topic");
    let letters = node.records(&["consume", topic, "--stop-at-end"]);
    assert_eq!(letters.len(), 1);
    let letter = json(letters[0].payload.get());
    assert_eq!(letter["attempts"], 3, "{letter}");
    assert_eq!(letter["topic"], "a.b");
    assert_eq!(letter["recordId"], all[1].id());
    assert!(
        letter["error"].as_str().expect("why").contains("500"),
        "{letter}"
    );
    refuse.store(false, std::sync::atomic::Ordering::SeqCst);
    let id = letter["id"].as_str().expect("an id");
    hooks(&node, &["redeliver", "a", "--letter", id]);
    let all = receiver.until("the letter's record", |all| all.len() > 6);
    assert_eq!((all[6].number(), all[6].id()), (1, all[1].id()));
    // From a sequence on, everything comes again, in order; nothing has a second letter.
    let from = all[1].json()["data"]["sequence"].to_string();
    hooks(&node, &["redeliver", "a", "--from", &from]);
    let all = receiver.until("three more", |all| all.len() >= 10);
    let numbers: Vec<_> = all[7..].iter().map(Received::number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(node.records(&["consume", topic, "--stop-at-end"]).len(), 1);
}

fn shown_until(node: &Node, rule: &str, enough: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let shown = hooks(node, &["show", rule]);
        if enough(&shown) {
            return shown;
        }
        assert!(started.elapsed() < PATIENCE, "{shown}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

// OPS-05, BRK-15
#[test]
fn a_receiver_that_is_gone_or_down_is_left_alone_and_holds_up_nobody() {
    let gone = Receiver::start(|before, _| if before < 2 { 200 } else { 410 });
    let silent = Receiver::start(|_, _| 0);
    let well = Receiver::start(|_, _| 200);
    let node = Node::dev_with(&QUICK);
    for (name, of) in [("gone", &gone), ("silent", &silent), ("well", &well)] {
        hooks(
            &node,
            &[
                "add",
                &of.url(),
                "--topic",
                "a",
                "--name",
                name,
                "--max-attempts",
                "99",
            ],
        );
    }
    produce(&node, "a", 0..10);
    let all = well.until("all of them", |all| all.len() >= 10);
    assert_eq!(taken_in_order(&all), (0..10).collect::<Vec<_>>());
    let shown = shown_until(&node, "gone", |shown| shown["enabled"] == false);
    assert!(
        shown["disabled_because"].to_string().contains("410"),
        "{shown}"
    );
    assert_eq!(gone.all().len(), 3);
    let shown = shown_until(&node, "silent", |shown| shown["breaker"] != "closed");
    assert!(
        shown["last_error"].to_string().contains("in time"),
        "{shown}"
    );
    assert_eq!(shown["position"], 0, "{shown}");
    assert_eq!(
        shown["troubles"].as_array().map(Vec::len),
        Some(1),
        "{shown}"
    );
    // Disabled and enabled by hand, it goes on where it was.
    hooks(&node, &["disable", "well"]);
    produce(&node, "a", 10..12);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(well.all().len(), 10);
    hooks(&node, &["enable", "well"]);
    let all = well.until("what came meanwhile", |all| all.len() >= 12);
    assert_eq!(taken_in_order(&all), (0..12).collect::<Vec<_>>());
    let deliveries = node.ok(&["webhooks", "deliveries", "silent", "--output", "json"]);
    let newest = json(deliveries.lines().next().expect("one"));
    assert_eq!(newest["status"], Value::Null, "{newest}");
    let metrics = crate::raw::Request::get("/metrics").send(node.ops).text();
    assert!(
        metrics.contains("arqon_webhook_events_total{outcome=\"delivered\"}"),
        "{metrics}"
    );
}

// OPS-05
#[test]
fn by_key_only_the_key_waits() {
    let receiver = Receiver::start(|before, one| {
        if one.number() % 3 == 0 && before < 8 {
            500
        } else {
            200
        }
    });
    let node = Node::dev_with(&QUICK);
    let url = receiver.url();
    hooks(
        &node,
        &[
            "add",
            &url,
            "--topic",
            "a",
            "--ordered-by-key",
            "--max-attempts",
            "99",
        ],
    );
    produce(&node, "a", 0..9);
    let enough = |all: &[Received]| all.iter().filter(|one| one.answer == 200).count() >= 9;
    let all = receiver.until("all", enough);
    for key in 0..3 {
        let of_key = all
            .iter()
            .filter(|one| one.answer == 200 && one.number() % 3 == key);
        let numbers: Vec<_> = of_key.map(Received::number).collect();
        assert_eq!(numbers, [key, key + 3, key + 6]);
    }
    let first_of_others = all
        .iter()
        .position(|one| one.answer == 200 && one.number() % 3 != 0);
    let first_of_key = all
        .iter()
        .position(|one| one.answer == 200 && one.number() % 3 == 0);
    assert!(first_of_others < first_of_key, "{all:?}");
}

// OPS-05, EDGE-07, EDGE-11
#[test]
fn what_may_not_be_is_refused_and_others_see_nothing() {
    let node = Node::dev();
    for (url, said) in [
        ("http://10.0.0.1/", "not on the public internet"),
        (
            "http://169.254.169.254/latest/meta-data",
            "not on the public internet",
        ),
        ("http://[::ffff:10.0.0.1]/", "not on the public internet"),
        ("http://user:pass@127.0.0.1/", "no user"),
        ("ftp://127.0.0.1/", "http"),
        ("nonsense", "no URL"),
    ] {
        let ran = node.run(&["webhooks", "add", url, "--topic", "a"]);
        assert_eq!(ran.code, 1, "{url} {}", ran.stdout);
        assert!(ran.stderr.contains(said), "{url}: {}", ran.stderr);
        assert!(ran.stderr.contains("VALIDATION_ERROR"), "{}", ran.stderr);
    }
    let header = ["--header", "host: example.com"];
    let add = ["webhooks", "add", "http://127.0.0.1:9/", "--topic", "a.>"];
    let ran = node.run(&[&add[..], &header].concat());
    assert!(ran.stderr.contains("host"), "{}", ran.stderr);
    let as_user = |subject: &str, subscribe: Option<&str>, arguments: &[&str]| {
        let mut user = claims("dev", Role::User);
        user.sub = subject.into();
        user.subscribe = subscribe.map(|topic| vec![topic.to_owned()]);
        let token = signed(&user, &node.dev_secret());
        let child = arqon(&node.url(), &token, arguments)
            .spawn()
            .expect("arqon");
        crate::shell::finished(child)
    };
    let ran = as_user("bob", Some("b.>"), &add);
    assert!(ran.stderr.contains("FORBIDDEN"), "{}", ran.stderr);
    let json_of = ["--output", "json"];
    let ran = as_user(
        "bob",
        Some("a.>"),
        &[&add[..], &["--name", "bobs"], &json_of].concat(),
    );
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let rule = json(&ran.stdout)["rule_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    for verb in [
        "show",
        "remove",
        "test",
        "deliveries",
        "enable",
        "disable",
        "rotate",
    ] {
        let ran = as_user("eve", None, &["webhooks", verb, &rule]);
        assert!(ran.stderr.contains("NOT_FOUND"), "{verb}: {}", ran.stderr);
    }
    let ran = as_user("eve", None, &[&["webhooks", "list"][..], &json_of].concat());
    assert_eq!(ran.stdout, "");
    let listed = node.ok(&["webhooks", "list", "--output", "json"]);
    assert!(
        listed.contains(&rule) && !listed.contains("whsec_"),
        "{listed}"
    );
    let ran = as_user("bob", None, &["webhooks", "remove", "bobs"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(node.ok(&["webhooks", "list", "--output", "json"]), "");
}

/// A child of `arqon webhooks listen`, and where it listens.
fn listener(secret: &str, limit: &str) -> (std::process::Child, String) {
    let arguments = [
        "webhooks",
        "listen",
        "--listen",
        "127.0.0.1:0",
        "--secret",
        secret,
        "--limit",
        limit,
        "--output",
        "json",
    ];
    let mut child = arqon("ws://127.0.0.1:1/", "none", &arguments)
        .spawn()
        .expect("arqon");
    let mut line = String::new();
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    stderr.read_line(&mut line).expect("a line");
    let url = line
        .trim()
        .strip_prefix("listening on ")
        .expect(&line)
        .to_owned();
    (child, url)
}

// OPS-05, TOOL-02
#[test]
fn a_receiver_at_hand_verifies_what_is_sent_and_secrets_are_exchanged() {
    const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let node = Node::dev_with(&QUICK);
    let (child, url) = listener(OLD, "3");
    hooks(
        &node,
        &["add", &url, "--topic", "a", "--name", "a", "--secret", OLD],
    );
    let tested = hooks(&node, &["test", "a"]);
    assert_eq!(
        (&tested["taken"], &tested["status"]),
        (&true.into(), &200.into()),
        "{tested}"
    );
    // Both sign for a time; then the new one alone.
    let rotated = hooks(&node, &["rotate", "a"]);
    assert_eq!(rotated["secrets"], 2, "{rotated}");
    assert_eq!(hooks(&node, &["test", "a"])["taken"], true);
    hooks(&node, &["rotate", "a", "--overlap-seconds", "0"]);
    let ran = node.run(&["webhooks", "test", "a"]);
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    assert!(ran.stderr.contains("401"), "{}", ran.stderr);
    let output = child.wait_with_output().expect("its output");
    let lines: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(json)
        .collect();
    let verified: Vec<_> = lines.iter().map(|line| line["verified"].clone()).collect();
    assert_eq!(verified, [true, true, false]);
    assert_eq!(lines[0]["body"]["type"], "webhook.test");

    // By a key whose public half is no secret.
    let made = hooks(
        &node,
        &[
            "add",
            &url,
            "--topic",
            "a",
            "--name",
            "b",
            "--ed25519",
            "--format",
            "protobuf",
        ],
    );
    let public = made["public_key"].as_str().expect("a key").to_owned();
    assert!(
        made["secret"]
            .as_str()
            .expect("a secret")
            .starts_with("whsk_"),
        "{made}"
    );
    let (child, url) = listener(&public, "1");
    hooks(&node, &["remove", "b"]);
    let secret = made["secret"].as_str().expect("a secret");
    hooks(
        &node,
        &[
            "add", &url, "--topic", "a", "--name", "b", "--secret", secret,
        ],
    );
    assert_eq!(hooks(&node, &["test", "b"])["taken"], true);
    let output = child.wait_with_output().expect("its output");
    assert_eq!(
        json(&String::from_utf8_lossy(&output.stdout))["verified"],
        true
    );
}

// OPS-05, MSG-09
#[test]
fn rules_of_the_older_form_send_what_the_older_system_sent() {
    let receiver = Receiver::start(|_, _| 200);
    let node = Node::dev_with(&QUICK);
    hooks(&node, &["add", &receiver.url(), "--room", "lab"]);
    let lines = "{\"n\":1}\n";
    let ran = node.run_with_input(&["produce", "room.lab.main"], lines);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let all = receiver.until("the event", |all| !all.is_empty());
    let body = all[0].json();
    assert_eq!(body["rule_version"], "v1", "{body}");
    assert_eq!(body["envelope"]["room"], "lab", "{body}");
    assert_eq!(body["envelope"]["payload"]["n"], 1, "{body}");
    assert!(body["sender_client_id"].is_string(), "{body}");
}
