//! EDGE-21: how a node goes down.

use std::time::{Duration, Instant};

use arqonbus::proto::v1::{ServerFrame, server_frame::Body};
use prost::Message as _;

use crate::raw::{Request, read_frame, read_rest};
use crate::support::Node;

fn session(node: &Node) -> std::net::TcpStream {
    let (answer, mut stream) = Request::upgrade().bearer(&node.dev_token()).open(node.edge);
    assert_eq!(answer.status, 101);
    let (first, payload) = read_frame(&mut stream);
    assert_eq!(first, 0x82);
    let welcome = ServerFrame::decode(payload.as_slice()).expect("a frame");
    assert!(
        matches!(welcome.body, Some(Body::Welcome(_))),
        "{welcome:?}"
    );
    stream
}

#[test]
fn sessions_are_told_to_come_back_and_the_node_exits_in_order() {
    for signal in ["TERM", "INT"] {
        let node = Node::dev();
        let mut stream = session(&node);
        let started = Instant::now();
        node.signal(signal);
        let (first, payload) = read_frame(&mut stream);
        assert_eq!(first, 0x82, "{signal}");
        let drain = ServerFrame::decode(payload.as_slice()).expect("a frame");
        let Some(Body::Drain(drain)) = drain.body else {
            panic!("{signal}: no Drain but {drain:?}");
        };
        assert!(drain.reconnect_after_ms > 0, "{drain:?}");
        drop(stream);
        let (status, text) = node.ended();
        assert_eq!(status.code(), Some(0), "{signal}: {text}");
        assert!(started.elapsed() < Duration::from_secs(15), "{signal}");
    }
}

#[test]
fn a_client_that_ignores_the_drain_does_not_keep_the_node() {
    let node = Node::dev_with(&[("ARQONBUS_DRAIN_DEADLINE_MS", "1500")]);
    let mut stream = session(&node);
    let started = Instant::now();
    node.signal("TERM");
    let (status, text) = node.ended();
    assert_eq!(status.code(), Some(0), "{text}");
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    drop(read_rest(&mut stream));
}

#[test]
fn an_idle_node_stops_at_once_and_comes_back_with_its_name_and_secret() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let identity = |node: &Node| {
        let id = std::fs::read_to_string(node.data.join("node.id")).expect("node.id");
        (id, node.dev_secret())
    };
    let node = Node::dev_on(dir.path());
    let (before, old_token) = (identity(&node), node.dev_token());
    let started = Instant::now();
    node.signal("TERM");
    assert_eq!(node.ended().0.code(), Some(0));
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    let node = Node::dev_on(dir.path());
    assert_eq!(identity(&node), before);
    assert_eq!(
        Request::upgrade().bearer(&old_token).send(node.edge).status,
        101
    );
}

#[test]
fn a_second_signal_ends_the_node_at_once() {
    let node = Node::dev_with(&[("ARQONBUS_DRAIN_DEADLINE_MS", "60000")]);
    // It never answers the node's Close, so the node would wait for it.
    let stream = session(&node);
    node.signal("TERM");
    let started = Instant::now();
    while Request::get("/readyz").send(node.ops).status != 503 {
        assert!(started.elapsed() < Duration::from_secs(10), "still ready");
    }
    node.signal("TERM");
    let (status, text) = node.ended();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("second signal"), "{text}");
    drop(stream);
}
