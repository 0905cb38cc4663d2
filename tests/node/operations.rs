//! TOOL-05, TOOL-18, EDGE-23: the operations listener.

use std::io::Read as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use arqonbus::proto::claims::Role;

use crate::raw::{self, Request};
use crate::support::{Node, PATIENCE, claims, signed, write};
use crate::verbs::damage;

#[test]
fn a_development_node_shows_its_health() {
    let node = Node::dev();
    assert_eq!(Request::upgrade().send(node.edge).status, 401);
    let get = |path: &str| Request::get(path).send(node.ops);
    assert_eq!(get("/healthz").text(), "ok\n");
    let ready = get("/readyz");
    assert_eq!(
        (ready.status, ready.json()["ready"].as_bool()),
        (200, Some(true))
    );
    assert_eq!(get("/version").json()["version"], env!("CARGO_PKG_VERSION"));
    let status = get("/status").json();
    assert_eq!(
        (status["profile"].as_str(), status["sessions"].as_u64()),
        (Some("development"), Some(0))
    );
    let id = std::fs::read_to_string(node.data.join("node.id")).expect("node.id");
    assert_eq!(status["node"].as_str(), Some(id.trim()));
    assert_eq!(get("/nothing").status, 404);

    let metrics = get("/metrics");
    let text = metrics.text();
    assert!(
        metrics
            .header("content-type")
            .is_some_and(|kind| kind.starts_with("application/openmetrics-text"))
    );
    for line in [
        "# HELP arqon_build",
        "arqon_edge_sessions 0",
        "arqon_log_damaged_reads_total 0",
        "arqon_edge_handshakes_refused_total{code=\"auth_missing\"} 1",
        "arqon_http_requests_total{route=\"ws\",status=\"401\"} 1",
        "arqon_http_requests_total{route=\"/healthz\",status=\"200\"} 1",
        "arqon_http_requests_total{route=\"other\",status=\"404\"} 1",
        "arqon_http_request_duration_seconds_count{route=\"/status\"} 1",
        "# UNIT arqon_edge_append_duration_seconds seconds",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    assert!(text.ends_with("# EOF\n"));
    assert!(!text.contains("tenant"), "{text}");
}

#[test]
fn in_production_the_status_is_for_admins() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let secret = b"0123456789abcdef0123456789abcdef0123456789abcdef";
    write(&dir.path().join("secret"), secret);
    let settings = "[node]\ndata_dir = 'data'\n[auth]\nkeys = [{ id = 'a', algorithm = 'HS256', file = 'secret' }]\n";
    let node = Node::production(dir, settings);
    let status = |role| {
        let token = signed(&claims("acme", role), secret);
        Request::get("/status").bearer(&token).send(node.ops).status
    };
    let anonymous = Request::get("/status").send(node.ops);
    assert_eq!(anonymous.status, 401);
    assert!(anonymous.header("www-authenticate").is_some());
    assert_eq!(
        Request::get("/status")
            .bearer("garbage")
            .send(node.ops)
            .status,
        401
    );
    assert_eq!(status(Role::User), 403);
    assert_eq!(status(Role::Operator), 403);
    assert_eq!(status(Role::Admin), 200);
    assert_eq!(Request::get("/readyz").send(node.ops).status, 200);
}

// EDGE-23, REL-14
#[test]
fn silent_connections_to_the_operations_listener_are_closed() {
    let node = Node::dev_with(&[("ARQONBUS_OPS_TIMEOUT_MS", "1000")]);
    let silent: Vec<TcpStream> = (0..40).map(|_| raw::connect(node.ops)).collect();
    assert_eq!(Request::get("/healthz").send(node.ops).text(), "ok\n");
    for mut stream in silent {
        let limit = Some(Duration::from_secs(10));
        stream.set_read_timeout(limit).expect("a time limit");
        // Told so or not: the connection ends.
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(ended.is_ok(), "the node keeps it open: {ended:?}");
    }
    let answer = Request::get("/healthz").send(node.ops);
    assert_eq!(answer.header("connection"), Some("close"));
}

// EDGE-23, REL-14
#[test]
fn too_many_connections_to_the_operations_listener_are_told_to_come_back() {
    let node = Node::dev_with(&[
        ("ARQONBUS_OPS_TIMEOUT_MS", "4000"),
        ("ARQONBUS_OPS_CONNECTIONS_MAX", "4"),
    ]);
    let silent: Vec<TcpStream> = (0..4).map(|_| raw::connect(node.ops)).collect();
    let mut refused = raw::connect(node.ops);
    let answer = raw::read_head(&mut refused);
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (503, Some("1"))
    );
    drop(silent);
}

// TOOL-18, LOG-09, REL-14
#[test]
fn damaged_log_makes_the_node_not_ready_before_anybody_opens_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = Node::dev_on(dir.path());
    // A reality that the node has no reason to open unasked, as it has for `main`.
    node.ok(&["reality", "create", "aside"]);
    let produce = ["produce", "a", "--reality", "aside"];
    for line in ["\"first\"\n", "\"to-be-damaged\"\n", "\"third\"\n"] {
        assert_eq!(node.run_with_input(&produce, line).code, 0);
    }
    node.signal("TERM");
    drop(node.ended());
    let node = Node::dev_on(dir.path());
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(Request::get("/readyz").send(node.ops).status, 200);
    node.signal("TERM");
    drop(node.ended());

    damage(&dir.path().join("dev/aside"), b"to-be-damaged");
    let node = Node::dev_on(dir.path());
    let patience = Instant::now();
    let ready = loop {
        let ready = Request::get("/readyz").send(node.ops);
        if ready.status != 200 {
            break ready;
        }
        assert!(patience.elapsed() < PATIENCE, "the node stays ready");
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = ready.text();
    assert_eq!(ready.status, 503);
    assert!(text.contains("a log is damaged"), "{text}");
    assert!(!text.contains("dev"), "no tenant's name: {text}");

    // From now on the reality speaks for itself, and is not counted twice.
    let consume = ["consume", ">", "--from", "earliest", "--stop-at-end"];
    let ran = node.run(&[&consume[..], &["--reality", "aside"]].concat());
    assert_eq!(ran.code, 65, "{}", ran.stderr);
    let reasons = Request::get("/readyz").send(node.ops).json()["reasons"].clone();
    assert_eq!(reasons.as_array().map(Vec::len), Some(1), "{reasons}");
    assert!(
        reasons[0]
            .as_str()
            .is_some_and(|reason| reason.starts_with("read_only"))
    );

    node.signal("TERM");
    let (_, stderr) = node.ended();
    let warned = |line: &&str| line.contains("WARN") && line.contains("a log is damaged");
    let line = stderr.lines().find(warned).expect("a line that warns");
    assert!(line.contains("file=") && line.contains("offset="), "{line}");
}
