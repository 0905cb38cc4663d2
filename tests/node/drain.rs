//! EDGE-21: how a node goes down.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use arqonbus::proto::v1::server_frame::Body;
use arqonbus::proto::v1::{
    Ack, ClientFrame, Envelope, Fetch, Ping, Produce, ServerFrame, Subscribe, client_frame,
};
use prost::Message as _;

use crate::limits::{Session, envelope, produce};
use crate::raw::{Request, frame, read_frame, read_rest};
use crate::support::Node;

fn session(node: &Node) -> TcpStream {
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

fn request(request_id: u64, body: client_frame::Body) -> Vec<u8> {
    let message = ClientFrame {
        request_id,
        body: Some(body),
    };
    frame(0x82, &message.encode_to_vec())
}

/// Reads frames until the node closes; what each request was answered with.
fn answers(stream: &mut TcpStream) -> BTreeMap<u64, Body> {
    let mut answers = BTreeMap::new();
    loop {
        let (first, payload) = read_frame(stream);
        if first == 0x88 {
            return answers;
        }
        let message = ServerFrame::decode(payload.as_slice()).expect("a frame");
        if let (id @ 1.., Some(body)) = (message.request_id, message.body) {
            assert!(answers.insert(id, body).is_none(), "{id} is answered twice");
        }
    }
}

#[test]
fn appends_under_way_are_answered_and_are_there_afterwards() {
    const REQUESTS: u64 = 200;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = Node::dev_on(dir.path());
    let mut stream = session(&node);
    let envelope = Envelope {
        topic: "a.b".into(),
        ..Envelope::default()
    };
    let produce = Produce {
        envelopes: vec![envelope.encode_to_vec().into()],
        ..Produce::default()
    };
    for id in 1..=REQUESTS {
        let bytes = request(id, client_frame::Body::Produce(produce.clone()));
        stream.write_all(&bytes).expect("sent");
    }
    // So that the node has begun with them.
    let (_, payload) = read_frame(&mut stream);
    let first = ServerFrame::decode(payload.as_slice()).expect("a frame");
    node.signal("TERM");
    let mut answers = answers(&mut stream);
    answers.insert(first.request_id, first.body.expect("a body"));
    assert_eq!(node.ended().0.code(), Some(0));
    let mut stored = 0;
    for id in 1..=REQUESTS {
        match answers.get(&id) {
            Some(Body::Produced(_)) => stored += 1,
            Some(Body::Error(error)) => assert_eq!(error.code, "SHUTTING_DOWN", "{error:?}"),
            other => panic!("{id} is answered with {other:?}"),
        }
    }
    assert!(stored > 0);

    let node = Node::dev_on(dir.path());
    let mut stream = session(&node);
    let fetch = Fetch {
        filter: "a.b".into(),
        from: 1,
        ..Fetch::default()
    };
    stream
        .write_all(&request(1, client_frame::Body::Fetch(fetch)))
        .expect("sent");
    let (_, payload) = read_frame(&mut stream);
    let found = ServerFrame::decode(payload.as_slice())
        .expect("a frame")
        .body;
    let Some(Body::Deliver(found)) = found else {
        panic!("no Deliver but {found:?}");
    };
    assert_eq!(found.records.len(), stored);
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

#[test]
fn what_a_consumer_has_acknowledged_is_saved() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let subscribe = || {
        client_frame::Body::Subscribe(Subscribe {
            subscription: 1,
            filter: "a".into(),
            consumer: "c".into(),
            ..Subscribe::default()
        })
    };
    let node = Node::dev_on(dir.path());
    let mut session = Session::with(&node, &node.dev_token()).expect("a session");
    let batch = vec![envelope("a", 1); 9];
    assert!(matches!(
        session.answer(1, produce(&batch)),
        Body::Produced(_)
    ));
    assert!(matches!(
        session.answer(2, subscribe()),
        Body::Subscribed(_)
    ));
    // Nobody waits for the answer to this.
    let ack = Ack {
        subscription: 1,
        sequence: 5,
        attempt: 0,
    };
    session.send(0, client_frame::Body::Ack(ack));
    let ping = client_frame::Body::Ping(Ping::default());
    assert!(matches!(session.answer(3, ping), Body::Pong(_)));
    node.signal("TERM");
    assert_eq!(node.ended().0.code(), Some(0));

    let node = Node::dev_on(dir.path());
    let mut session = Session::with(&node, &node.dev_token()).expect("a session");
    match session.answer(1, subscribe()) {
        Body::Subscribed(subscribed) => {
            assert_eq!((subscribed.resumed, subscribed.next), (true, 6));
        }
        other => panic!("{other:?}"),
    }
}
