//! Operators: joining, tasks, results, losses, quarantine; workers and sidecars as processes of
//! their own.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Child;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arqonbus::client::{
    Client, ConnectOptions, Error, Job, OperatorOptions, Reconnect, Refusal, Yield,
};
use arqonbus::proto::ErrorCode;
use arqonbus::proto::claims::Role;
use arqonbus::proto::v1;
use serde_json::{Value, json};

use crate::support::{Node, PATIENCE, claims, signed, write};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("one object")
}

/// A process that is killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Running {
    fn signal(&self, name: &str) {
        let status = std::process::Command::new("kill")
            .args([&format!("-{name}"), &self.0.id().to_string()])
            .status();
        assert!(status.expect("kill runs").success());
    }

    fn ended(mut self) -> (i32, String) {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.0.try_wait().expect("a status") {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut said = String::new();
        let stderr = self.0.stderr.as_mut().expect("a pipe");
        stderr.read_to_string(&mut said).expect("text");
        (status.code().unwrap_or(-1), said)
    }
}

impl Node {
    fn spawned(&self, arguments: &[&str]) -> Running {
        Running(self.arqon(arguments).spawn().expect("arqon starts"))
    }

    fn operators(&self) -> Vec<Value> {
        let listed = parsed(&self.ok(&["operators", "list", "-o", "json"]));
        listed["operators"].as_array().expect("a list").clone()
    }

    /// Waits until so many are ready.
    fn ready(&self, count: usize) {
        let ready = || {
            let all = self.operators();
            all.iter().filter(|one| one["state"] == "ready").count()
        };
        until("operators are ready", || ready() == count);
    }

    /// Results of a group that are the end of their tasks, by task.
    fn ends(&self, group: &str) -> Vec<(String, String)> {
        let topic = format!("op.result.{group}");
        let records = self.records(&["consume", &topic, "--from", "earliest", "--stop-at-end"]);
        let last = ["task.done", "task.dead", "task.expired"];
        records
            .iter()
            .filter_map(|record| {
                let kind = record.rest["type"].as_str()?;
                let key = record.key.clone()?;
                last.contains(&kind).then(|| (key, kind.to_owned()))
            })
            .collect()
    }

    async fn client(&self) -> Client {
        let mut options = ConnectOptions::new(self.url(), self.dev_token());
        options.reconnect = Reconnect::Never;
        Client::connect(options).await.expect("a connection")
    }

    async fn client_as(&self, role: Role, may: Option<&[&str]>) -> Client {
        let mut claims = claims("dev", role);
        let listed = may.map(|topics| topics.iter().map(|&topic| topic.to_owned()).collect());
        claims.publish.clone_from(&listed);
        claims.subscribe = listed;
        let token = signed(&claims, &self.dev_secret());
        let options = ConnectOptions::new(self.url(), token);
        Client::connect(options).await.expect("a connection")
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

async fn echo(job: Job) -> Result<Yield, Refusal> {
    Ok(Yield {
        data: job.payload,
        content_type: job.content_type,
        score: None,
    })
}

async fn dispatch(client: &Client, given: Value) -> Result<Value, Error> {
    let Value::Object(given) = given else {
        panic!("an object")
    };
    let given: Vec<(String, v1::Value)> = given
        .into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect();
    let given = given
        .iter()
        .map(|(name, value)| (name.as_str(), value.clone()));
    Ok(client.command("op.dispatch", given).await?.to_json())
}

fn field(error: &Error) -> (Option<ErrorCode>, String) {
    match error {
        Error::Answered { field, .. } => (error.code(), field.clone()),
        other => panic!("{other}"),
    }
}

// OPS-01
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_is_refused_with_the_reason_and_the_field() {
    let node = Node::dev();
    let client = node.client().await;
    let good = || OperatorOptions {
        version: "1.2.3".into(),
        ..OperatorOptions::new("checker", "g")
    };
    let bad = [
        (
            "version",
            OperatorOptions {
                version: "1".into(),
                ..good()
            },
        ),
        (
            "group",
            OperatorOptions {
                group: "a.b".into(),
                ..good()
            },
        ),
        (
            "concurrency",
            OperatorOptions {
                concurrency: 1_000,
                ..good()
            },
        ),
        (
            "input_schema",
            OperatorOptions {
                input_schema: "nobody.knows".into(),
                ..good()
            },
        ),
        (
            "output_schema",
            OperatorOptions {
                output_schema: "nobody.knows".into(),
                ..good()
            },
        ),
    ];
    for (expected, options) in bad {
        let refused = client.work(options, echo).await.expect_err("it is wrong");
        assert_eq!(
            field(&refused),
            (Some(ErrorCode::ValidationError), expected.into())
        );
    }
    let operator = client.work(good(), echo).await.expect("it is let in");
    assert_eq!(operator.joined().instance, "checker");
    assert!(operator.joined().lease_ms > 0 && operator.joined().heartbeat_ms > 0);
    // The same instance from elsewhere, and an older version where that is not wanted.
    let other = node.client().await;
    let twice = other.work(good(), echo).await.expect_err("it is there");
    assert_eq!(field(&twice).1, "instance");
    let newer = OperatorOptions {
        instance: "second".into(),
        no_regress: true,
        ..good()
    };
    let _second = other.work(newer, echo).await.expect("it is let in");
    let older = OperatorOptions {
        instance: "third".into(),
        version: "1.2.2".into(),
        ..good()
    };
    let regress = client.work(older, echo).await.expect_err("it is older");
    assert_eq!(field(&regress).1, "version");
    assert!(regress.to_string().contains("1.2.3"), "{regress}");

    let listed = node.operators();
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert!(
        listed.iter().all(|one| one["state"] == "ready"),
        "{listed:?}"
    );
    drop(operator);
    client.close().await;
    until("it is gone", || {
        node.operators()
            .iter()
            .any(|one| one["instance"] == "checker" && one["state"] == "gone")
    });
}

// OPS-01: whose token may not read tasks or publish results does not work, nor dispatch.
#[tokio::test(flavor = "multi_thread")]
async fn rights_come_from_the_token() {
    let node = Node::dev();
    let join = || OperatorOptions::new("w", "g");
    for may in [
        &["a.>"][..],
        &["op.task.g"],
        &["op.result.g"],
        &["op.task.other", "op.result.g"],
    ] {
        let client = node.client_as(Role::User, Some(may)).await;
        let refused = client.work(join(), echo).await.expect_err("it may not");
        assert_eq!(
            field(&refused),
            (Some(ErrorCode::Forbidden), "group".into()),
            "{may:?}"
        );
    }
    let may = ["op.task.g", "op.result.g"];
    let client = node.client_as(Role::User, Some(&may)).await;
    let worker = node.client_as(Role::User, Some(&may)).await;
    let _operator = worker.work(join(), echo).await.expect("it may");
    let done = dispatch(
        &client,
        json!({"group": "g", "payload": {"n": 1}, "wait_ms": 5_000}),
    )
    .await;
    assert_eq!(done.expect("it is done")["output"], json!({"n": 1}));
    let other = node.client_as(Role::User, Some(&["a.>"])).await;
    let refused = dispatch(&other, json!({"group": "g"}))
        .await
        .expect_err("it may not");
    assert_eq!(field(&refused).0, Some(ErrorCode::Forbidden));
    // Tasks and results are the node's to write, whatever a token says.
    let mut batch = client.batch();
    batch.push(&arqonbus::client::Outgoing {
        topic: "op.result.g",
        data: b"{}",
        ..Default::default()
    });
    let refused = client.produce(&batch, &Default::default()).await;
    assert_eq!(
        field(&refused.expect_err("reserved")).0,
        Some(ErrorCode::Forbidden)
    );
    let refused = client
        .command(
            "operators.quarantine",
            [("group", "g".into()), ("instance", "w".into())],
        )
        .await;
    assert_eq!(
        refused.expect_err("a user").code(),
        Some(ErrorCode::Forbidden)
    );
}

// OPS-02, MSG-11: the trace goes on into the task, and the result says what it came from.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_done_and_its_result_is_linked_to_it() {
    let node = Node::dev();
    let client = node.client().await;
    let seen: Arc<Mutex<Vec<Job>>> = Arc::default();
    let jobs = Arc::clone(&seen);
    let upper = move |job: Job| {
        jobs.lock().expect("the lock").push(job.clone());
        std::future::ready(Ok(Yield {
            data: job.payload.to_ascii_uppercase().into(),
            content_type: "text/plain".into(),
            score: None,
        }))
    };
    let options = OperatorOptions {
        capabilities: vec!["upper".into()],
        ..OperatorOptions::new("up", "texts")
    };
    let worker = node.client().await;
    let _operator = worker.work(options, upper).await.expect("it is let in");
    let given = json!({"capability": "upper", "payload": {"a": "b"}, "wait_ms": 10_000,
        "traceparent": TRACE, "causal_parent": "cause-1"});
    let done = dispatch(&client, given).await.expect("it is done");
    assert_eq!(
        (&done["state"], &done["group"]),
        (&json!("done"), &json!("texts"))
    );
    let job = seen.lock().expect("the lock")[0].clone();
    assert_eq!(job.headers["traceparent"], TRACE);
    assert_eq!(job.headers["arqon-causal-parent"], "cause-1");
    assert_eq!((job.attempt, &*job.payload), (1, &br#"{"a":"b"}"#[..]));
    assert_eq!(json!(job.id), done["task"]);
    let results = node.records(&[
        "consume",
        "op.result.texts",
        "--from",
        "earliest",
        "--stop-at-end",
    ]);
    assert_eq!(results.len(), 1);
    let headers = &results[0].rest["headers"];
    assert_eq!(results[0].key.as_deref(), done["task"].as_str());
    assert_eq!(headers["arqon-causal-parent"], done["task"]);
    assert_eq!(
        headers["arqon-task-sequence"],
        json!(done["sequence"].to_string())
    );
    assert_eq!(headers["traceparent"], TRACE);
    assert_eq!(headers["arqon-instance"], "up");
    let past = node.ok(&[
        "causal",
        "path",
        &done["sequence"].to_string(),
        &done["result"].to_string(),
        "-o",
        "json",
    ]);
    assert!(
        !parsed(&past)["records"]
            .as_array()
            .is_none_or(Vec::is_empty),
        "{past}"
    );
}

// OPS-02
#[tokio::test(flavor = "multi_thread")]
async fn one_all_or_the_best_of_a_group_answer() {
    let node = Node::dev();
    let client = node.client().await;
    let mut operators = Vec::new();
    for (name, score) in [("a", 0.2), ("b", 0.9), ("c", 0.5)] {
        let worker = node.client().await;
        let answer = move |_job: Job| {
            std::future::ready(Ok(Yield {
                data: format!("\"{name}\"").into_bytes().into(),
                content_type: "application/json".into(),
                score: Some(score),
            }))
        };
        let options = OperatorOptions::new(name, "g");
        operators.push((worker.work(options, answer).await.expect("let in"), worker));
    }
    let ask = |given: Value| {
        let mut all = json!({"group": "g", "payload": {}, "wait_ms": 10_000});
        all.as_object_mut()
            .expect("an object")
            .extend(given.as_object().expect("an object").clone());
        dispatch(&client, all)
    };
    let best = ask(json!({"mode": "competing", "selection": "best"}))
        .await
        .expect("done");
    assert_eq!(
        (&best["output"], best["answers"].as_array().map(Vec::len)),
        (&json!("b"), Some(3)),
        "{best}"
    );
    let first = ask(json!({"mode": "competing"})).await.expect("done");
    assert!(
        ["a", "b", "c"].contains(&first["output"].as_str().expect("text")),
        "{first}"
    );
    let all = ask(json!({"mode": "broadcast"})).await.expect("done");
    let said: BTreeSet<&str> = all["answers"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["output"].as_str().expect("text"))
        .collect();
    assert_eq!(said, ["a", "b", "c"].into());
    let direct = ask(json!({"mode": "direct", "operator": "c"}))
        .await
        .expect("done");
    assert_eq!(direct["output"], "c");
    for (given, at) in [
        (json!({"mode": "direct"}), "arguments.operator"),
        (json!({"mode": "lottery"}), "arguments.mode"),
        (json!({"selection": "best"}), "arguments.selection"),
        (json!({"group": "a.b"}), "arguments.group"),
        (json!({"traceparent": "x"}), "arguments.traceparent"),
    ] {
        let refused = ask(given).await.expect_err("it is wrong");
        assert_eq!(
            field(&refused),
            (Some(ErrorCode::ValidationError), at.into())
        );
    }
    let nobody = dispatch(&client, json!({"group": "empty", "mode": "broadcast"})).await;
    assert_eq!(
        nobody.expect_err("nobody").code(),
        Some(ErrorCode::NotFound)
    );
}

// OPS-04, OPS-02: three workers share a queue, one is killed in mid-task; every task is done once.
#[test]
fn a_killed_workers_tasks_are_done_by_the_others() {
    const TASKS: usize = 30;
    let node = Node::dev();
    let work = [
        "operators",
        "work",
        "--group",
        "g",
        "--exec",
        "sleep 0.1; tr a-z A-Z",
    ];
    let mut workers: Vec<Running> = (0..3).map(|_| node.spawned(&work)).collect();
    node.ready(3);
    let sent: BTreeSet<String> = (0..TASKS)
        .map(|n| {
            let payload = format!("task {n}");
            let told = node.ok(&["dispatch", "--group", "g", &payload, "-o", "json"]);
            parsed(&told)["task"].as_str().expect("an id").to_owned()
        })
        .take(TASKS)
        .collect();
    let has_task = |node: &Node| {
        node.operators()
            .iter()
            .any(|one| one["in_hand"] != 0 && one["state"] == "ready")
    };
    assert!(
        has_task(&node),
        "all was done before anybody could be killed"
    );
    workers[0].signal("KILL");
    drop(workers.remove(0));
    until("all is done", || node.ends("g").len() >= TASKS);
    let ends = node.ends("g");
    let done: BTreeSet<String> = ends.iter().map(|(task, _)| task.clone()).collect();
    assert_eq!(ends.len(), TASKS, "one end each");
    assert_eq!(done, sent);
    assert!(ends.iter().all(|(_, kind)| kind == "task.done"), "{ends:?}");
    // What is told to stop, finishes what it has, and ends well.
    let one = workers.remove(0);
    one.signal("TERM");
    let (code, said) = one.ended();
    assert_eq!(code, 0, "{said}");
}

// OPS-04: one that hangs loses its task with the lease, and what it says later does not count.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_one_that_hangs_goes_to_another_after_its_lease() {
    let node = Node::dev();
    let client = node.client().await;
    let hung = node.client().await;
    let stopped = node.spawned(&[
        "operators",
        "work",
        "--group",
        "g",
        "--exec",
        "cat",
        "--lease",
        "1s",
        "--instance",
        "a",
    ]);
    node.ready(1);
    stopped.signal("STOP");
    let waiting = tokio::spawn(async move {
        dispatch(
            &client,
            json!({"group": "g", "payload": {"n": 1}, "wait_ms": 15_000}),
        )
        .await
    });
    until("it has the task", || {
        node.operators().iter().any(|one| one["in_hand"] == 1)
    });
    let _other = hung
        .work(OperatorOptions::new("b", "g"), echo)
        .await
        .expect("let in");
    let done = waiting.await.expect("no panic").expect("done");
    assert_eq!(
        (&done["state"], &done["instance"]),
        (&json!("done"), &json!("b")),
        "{done}"
    );
    stopped.signal("CONT");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(node.ends("g").len(), 1, "the late answer does not count");
}

// OPS-03, OPS-01: outputs are held against their schema at the node; who keeps breaking it is given
// nothing more, and stays so until somebody lets it out.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_its_schema_is_not_let_through() {
    let node = Node::dev();
    let dir = tempfile::tempdir().expect("a directory");
    let schema = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}, "additionalProperties": false});
    let file = dir.path().join("n.json");
    write(&file, schema.to_string().as_bytes());
    let file = file.to_str().expect("text");
    node.ok(&[
        "schema",
        "push",
        "--json-schema",
        file,
        "--subject",
        "number",
    ]);
    let client = node.client().await;
    let worker = node.client().await;
    let options = OperatorOptions {
        input_schema: "number".into(),
        output_schema: "number".into(),
        ..OperatorOptions::new("w", "g")
    };
    let wrong = |_job: Job| {
        std::future::ready(Ok(Yield {
            data: r#"{"n":"text"}"#.into(),
            content_type: "application/json".into(),
            score: None,
        }))
    };
    let operator = worker.work(options.clone(), wrong).await.expect("let in");
    let refused = dispatch(&client, json!({"group": "g", "payload": {"n": "x"}})).await;
    let (code, at) = field(&refused.expect_err("it does not fit"));
    assert_eq!(code, Some(ErrorCode::SchemaViolation));
    assert!(at.starts_with("arguments.payload"), "{at}");
    let open = dispatch(&client, json!({"group": "g", "payload": {"n": 1}}))
        .await
        .expect("open");
    until("it is in quarantine", || {
        node.operators()
            .iter()
            .any(|one| one["state"] == "quarantined")
    });
    let results = node.records(&[
        "consume",
        "op.result.g",
        "--from",
        "earliest",
        "--stop-at-end",
    ]);
    assert!(
        results.iter().all(|one| one.rest["type"] == "task.failed"),
        "nothing bad is a result"
    );
    assert_eq!(
        results[0].rest["headers"]["arqon-error-code"],
        "SCHEMA_VIOLATION"
    );
    // Connecting again does not help.
    drop(operator);
    worker.close().await;
    let worker = node.client().await;
    until("its old session has ended", || {
        let shown = parsed(&node.ok(&["operators", "show", "g", "w", "-o", "json"]));
        shown["in_hand"] == 0
    });
    let refused = worker
        .work(options.clone(), echo)
        .await
        .expect_err("in quarantine");
    assert_eq!(
        field(&refused),
        (Some(ErrorCode::Forbidden), "instance".into())
    );
    node.ok(&["operators", "release", "g", "w"]);
    let _good = worker.work(options, echo).await.expect("let out");
    let task = open["task"].as_str().expect("an id").to_owned();
    until("it is done by a good one", || {
        node.ends("g") == [(task.clone(), "task.done".to_owned())]
    });
}

// OPS-02: enough failures, or one that says so itself, put a task among the dead letters.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_for_good_is_a_dead_letter() {
    let node = Node::dev();
    let client = node.client().await;
    let attempts = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&attempts);
    let fail = move |job: Job| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Err(Refusal {
            code: "NO".into(),
            message: "not today".into(),
            retryable: job.payload.is_empty(),
            retry_after: Duration::from_millis(10),
        }))
    };
    let _operator = client
        .work(OperatorOptions::new("w", "g"), fail)
        .await
        .expect("let in");
    let other = node.client().await;
    let dead = dispatch(&other, json!({"group": "g", "wait_ms": 10_000}))
        .await
        .expect("told");
    assert_eq!(
        (&dead["state"], &dead["error_code"]),
        (&json!("dead"), &json!("NO")),
        "{dead}"
    );
    assert_eq!(attempts.swap(0, Ordering::SeqCst), 5);
    let dead = dispatch(
        &other,
        json!({"group": "g", "payload": {}, "wait_ms": 10_000}),
    )
    .await
    .expect("told");
    assert_eq!(
        (&dead["state"], attempts.load(Ordering::SeqCst)),
        (&json!("dead"), 1),
        "{dead}"
    );
    let letters = node.records(&["consume", "dlq.g", "--from", "earliest", "--stop-at-end"]);
    assert_eq!(letters.len(), 2);
    let late = dispatch(
        &other,
        json!({"group": "empty", "payload": {}, "deadline_ms": 100, "wait_ms": 10_000}),
    );
    assert_eq!(late.await.expect("told")["state"], "expired");
}

// OPS-14, OPS-01, OPS-04: after a crash the open tasks are there, and nobody who is not.
#[test]
fn a_node_that_was_killed_knows_its_tasks_and_that_nobody_is_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::dev_on(dir.path());
    let worker = node.spawned(&[
        "operators",
        "work",
        "--group",
        "g",
        "--exec",
        "sleep 60",
        "--instance",
        "slow",
    ]);
    node.ready(1);
    let sent: BTreeSet<String> = (0..3)
        .map(|n| {
            let told = node.ok(&["dispatch", "--group", "g", &n.to_string(), "-o", "json"]);
            parsed(&told)["task"].as_str().expect("an id").to_owned()
        })
        .collect();
    node.signal("KILL");
    drop(node.ended());
    drop(worker);
    std::fs::remove_dir_all(dir.path().join("_state")).expect("states are kept there");

    let node = Node::dev_on(dir.path());
    let listed = node.operators();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0]["instance"], &listed[0]["state"]),
        (&json!("slow"), &json!("gone"))
    );
    let groups = parsed(&node.ok(&["operators", "list", "-o", "json"]))["groups"].clone();
    assert_eq!(groups[0]["open_tasks"], 3, "{groups}");
    let _worker = node.spawned(&["operators", "work", "--group", "g", "--exec", "cat"]);
    until("all is done", || node.ends("g").len() == 3);
    let done: BTreeSet<String> = node.ends("g").into_iter().map(|(task, _)| task).collect();
    assert_eq!(done, sent);
}

/// A request that a service got, and what it is to be answered with.
type Answer = fn(usize) -> (&'static str, &'static str);

/// A small HTTP service; the requests that it got.
fn service(answer: Answer) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let requests: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&requests);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || drop(serve(stream.expect("a connection"), &seen, answer)));
        }
    });
    (address, requests)
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<String>>, answer: Answer) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut head = String::new();
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let number = {
            let mut seen = seen.lock().expect("the lock");
            seen.push(format!("{head}\n{}", String::from_utf8_lossy(&body)));
            seen.len()
        };
        let (status, body) = answer(number);
        let length = body.len();
        write!(
            writer,
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nretry-after: 0\r\ncontent-length: {length}\r\n\r\n{body}"
        )?;
    }
}

// OPS-12, MSG-11
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_takes_tasks_to_an_http_service() {
    let node = Node::dev();
    let client = node.client().await;
    let (address, requests) = service(|number| match number {
        1 => ("500 Internal Server Error", "broken"),
        3 => ("422 Unprocessable Content", "not that"),
        _ => ("200 OK", r#"{"ok":true}"#),
    });
    let to = format!("http://{address}/run");
    let health = TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address");
    let sidecar = node.spawned(&[
        "sidecar",
        "--group",
        "web",
        "--to",
        &to,
        "--health",
        &health.to_string(),
    ]);
    node.ready(1);
    let given = json!({"group": "web", "payload": {"n": 1}, "key": "k", "traceparent": TRACE, "wait_ms": 15_000});
    let done = dispatch(&client, given.clone()).await.expect("done");
    assert_eq!(
        (&done["state"], &done["output"]),
        (&json!("done"), &json!({"ok": true})),
        "{done}"
    );
    let seen = requests.lock().expect("the lock").clone();
    assert_eq!(seen.len(), 2, "the first attempt failed");
    for (request, attempt) in seen.iter().zip(["1", "2"]) {
        let task = done["task"].as_str().expect("an id");
        for header in [
            "POST /run HTTP/1.1".to_owned(),
            "content-type: application/json".to_owned(),
            format!("arqon-task-id: {task}"),
            format!("arqon-task-attempt: {attempt}"),
            format!("traceparent: {TRACE}"),
            "arqon-task-key: k".to_owned(),
        ] {
            assert!(request.contains(&header), "{header}: {request}");
        }
        assert!(request.ends_with(r#"{"n":1}"#), "{request}");
    }
    let refused = dispatch(&client, given).await.expect("told");
    assert_eq!(
        (&refused["state"], &refused["error_code"]),
        (&json!("dead"), &json!("HTTP_422")),
        "{refused}"
    );
    let mut stream = TcpStream::connect(health).expect("it tells how it is");
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .expect("sent");
    let mut told = String::new();
    stream.read_to_string(&mut told).expect("text");
    assert!(
        told.starts_with("HTTP/1.1 200") && told.contains(r#""done":1"#),
        "{told}"
    );
    sidecar.signal("TERM");
    let (code, said) = sidecar.ended();
    assert_eq!(code, 0, "{said}");
    until("it is gone", || {
        node.operators().iter().all(|one| one["state"] == "gone")
    });
}
