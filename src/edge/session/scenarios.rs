//! Whole sessions over in-memory streams: a WebSocket client on one side, a real log on the other.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role as End, WebSocketConfig};

use super::*;
use crate::broker::{Options, Role, Tenant, Topics};
use crate::edge::listener::contain;
use crate::log::{Clock, Committer, Environment, Micros, RealStorage};
use crate::projections::Projections;
use crate::proto::pybus::BusPayload;
use crate::proto::v1::client_frame::Body as Ask;
use crate::proto::v1::server_frame::Body;
use crate::proto::v1::{
    self, Ack, ClientFrame, CommandRequest, Credit, Durability, Envelope, Event, Extend, Fetch,
    Nack, Ping, Produce, Record, ServerFrame, Subscribe, Unsubscribe, Value, envelope, subscribe,
    value,
};

const WAIT: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Micros {
        Micros(self.0.fetch_add(10, Ordering::Relaxed))
    }
}

struct Node {
    context: SessionContext,
    drain: watch::Sender<bool>,
    clock: Arc<TestClock>,
    _dir: TempDir,
}

impl Node {
    fn start(change: impl FnOnce(&mut config::Limits)) -> Self {
        let dir = TempDir::new().unwrap();
        let clock = Arc::new(TestClock(AtomicU64::new(1_700_000_000_000_000)));
        let environment = Environment {
            storage: Arc::new(RealStorage),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            committer: Committer::start(1),
        };
        let options = Options::new(dir.path().to_owned(), 1, "n1".into());
        let (drain, draining) = watch::channel(false);
        let mut limits = config::Limits::default();
        change(&mut limits);
        let settings = config::Config {
            limits: limits.clone(),
            ..config::Config::default()
        };
        Self {
            context: SessionContext {
                broker: Broker::start(environment, options).unwrap(),
                projections: Projections::none(
                    Arc::clone(&clock) as Arc<dyn Clock>,
                    &tokio::runtime::Handle::current(),
                )
                .unwrap(),
                shield: Shield::new(&settings, Arc::default()).unwrap(),
                verifier: Arc::new(
                    Verifier::new(&config::Auth::default(), config::Profile::Development).unwrap(),
                ),
                metrics: Arc::new(Metrics::new()),
                limits: Arc::new(limits),
                json: Adapter::of(&config::Config::default(), config::Profile::Development),
                drain: config::Drain::default(),
                draining,
                peer: Arc::from("127.0.0.1:1"),
            },
            drain,
            clock,
            _dir: dir,
        }
    }

    async fn raw(&self, identity: Identity, subprotocol: Subprotocol) -> Client {
        let (ours, theirs) = tokio::io::duplex(256 << 10);
        let message = self.context.limits.message_bytes_max;
        let config = WebSocketConfig::default()
            .max_message_size(Some(message))
            .max_frame_size(Some(message));
        let server =
            WebSocketStream::from_raw_socket(metered(theirs), End::Server, Some(config)).await;
        tokio::spawn(run(server, identity, subprotocol, self.context.clone()));
        Client {
            socket: WebSocketStream::from_raw_socket(ours, End::Client, None).await,
        }
    }

    async fn connect(&self) -> Client {
        self.connect_as(Role::Operator).await
    }

    async fn connect_as(&self, role: Role) -> Client {
        let identity = Identity {
            role,
            ..identity("t")
        };
        let mut client = self.raw(identity, Subprotocol::Frames).await;
        match client.next().await.body {
            Some(Body::Welcome(welcome)) => assert_eq!(welcome.tenant, "t"),
            other => panic!("{other:?}"),
        }
        client
    }
}

fn metered<S>(stream: S) -> Metered<S> {
    Metered::new(stream, config::Limits::default().small_frames_per_second)
}

fn identity(tenant: &str) -> Identity {
    Identity {
        tenant: Tenant::new(tenant).unwrap(),
        subject: "tester".into(),
        role: Role::Operator,
        publish: Topics::All,
        subscribe: Topics::All,
        expires_at: None,
        issued_at: None,
        token_id: None,
        ends_by: None,
    }
}

struct Client {
    socket: WebSocketStream<DuplexStream>,
}

impl Client {
    async fn ask(&mut self, request_id: u64, body: Ask) {
        let frame = ClientFrame {
            request_id,
            body: Some(body),
        };
        let message = Message::Binary(frame.encode_to_vec().into());
        self.socket.send(message).await.unwrap();
    }

    async fn message(&mut self) -> Message {
        let next = timeout(WAIT, self.socket.next()).await;
        next.expect("an answer in time").unwrap().unwrap()
    }

    async fn next(&mut self) -> ServerFrame {
        match self.message().await {
            Message::Binary(bytes) => ServerFrame::decode(bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Asks, and takes the answer to that, passing over what is delivered meanwhile.
    async fn answer(&mut self, request_id: u64, body: Ask) -> Body {
        self.ask(request_id, body).await;
        loop {
            let frame = self.next().await;
            if frame.request_id == request_id {
                return frame.body.unwrap();
            }
        }
    }

    async fn refusal(&mut self, body: Ask) -> (String, String) {
        match self.answer(77, body).await {
            Body::Error(error) => {
                assert!(!error.message.is_empty());
                (error.code, error.field)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn closed(&mut self) -> u16 {
        loop {
            match self.message().await {
                Message::Close(frame) => return frame.unwrap().code.into(),
                Message::Binary(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Delivered sequences of a subscription up to the end of the log or of the subscription.
    async fn delivered(&mut self, subscription: u64) -> Vec<u64> {
        let mut found = Vec::new();
        loop {
            if let Some(Body::Deliver(deliver)) = self.next().await.body {
                assert_eq!(deliver.subscription, subscription);
                for record in &deliver.records {
                    found.push(Record::decode(record.clone()).unwrap().sequence);
                }
                if deliver.end_of_log || deliver.finished {
                    return found;
                }
            }
        }
    }
}

fn encoded(topic: &str) -> Bytes {
    let envelope = Envelope {
        topic: topic.into(),
        payload: Some(envelope::Payload::Event(Event {
            r#type: "test".into(),
            data: vec![1; 1_000].into(),
        })),
        ..Envelope::default()
    };
    envelope.encode_to_vec().into()
}

fn produce(topics: &[&str]) -> Produce {
    Produce {
        envelopes: topics.iter().map(|topic| encoded(topic)).collect(),
        ..Produce::default()
    }
}

fn from_start(subscription: u64, filter: &str) -> Subscribe {
    Subscribe {
        subscription,
        filter: filter.into(),
        start: Some(subscribe::Start::Earliest(true)),
        credit_records: u64::MAX,
        ..Subscribe::default()
    }
}

// 2.2: many in flight, each acknowledged once and in order, delivered live and replayed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn produced_records_are_acknowledged_delivered_and_replayed_in_order() {
    let node = Node::start(|_| {});
    let mut consumer = node.connect().await;
    let subscribed = consumer.answer(1, Ask::Subscribe(from_start(5, ">"))).await;
    assert!(matches!(subscribed, Body::Subscribed(s) if s.next == 1 && s.clock_key == "n1/main"));
    assert!(
        consumer.delivered(5).await.is_empty(),
        "the end of an empty log is told"
    );

    let client = node.connect().await;
    let (mut sink, mut stream) = client.socket.split();
    let sender = tokio::spawn(async move {
        for request_id in 1..=2_000_u64 {
            let frame = ClientFrame {
                request_id,
                body: Some(Ask::Produce(produce(&["a.b"]))),
            };
            let message = Message::Binary(frame.encode_to_vec().into());
            sink.send(message).await.unwrap();
        }
        sink
    });
    for expected in 1..=2_000_u64 {
        let Message::Binary(bytes) = stream.next().await.unwrap().unwrap() else {
            panic!("not a frame");
        };
        let frame = ServerFrame::decode(bytes).unwrap();
        let Some(Body::Produced(produced)) = frame.body else {
            panic!("{frame:?}");
        };
        assert_eq!(
            (frame.request_id, produced.first, produced.last),
            (expected, expected, expected)
        );
        assert_eq!(produced.durability(), Durability::Synced);
    }
    drop(sender.await.unwrap());
    let mut live = Vec::new();
    while live.len() < 2_000 {
        live.extend(consumer.delivered(5).await);
    }
    let all: Vec<_> = (1..=2_000).collect();
    assert_eq!(live, all);
    let mut replay = node.connect().await;
    replay.ask(1, Ask::Subscribe(from_start(6, "a.*"))).await;
    assert_eq!(replay.delivered(6).await, all);
}

// EDGE-12: frame by frame, the right close code.
#[tokio::test]
async fn what_is_not_a_frame_is_answered_and_then_closed() {
    let node = Node::start(|limits| limits.message_bytes_max = 4 << 10);
    let garbage = || Message::Binary(Bytes::from_static(&[0xff, 0xff, 0xff]));
    let mut client = node.connect().await;
    for _ in 0..3 {
        client.socket.send(garbage()).await.unwrap();
        let Some(Body::Error(error)) = client.next().await.body else {
            panic!("no error");
        };
        assert_eq!(error.code, "INFRA_PROTOCOL_ERROR");
    }
    assert_eq!(client.closed().await, 1007);

    let mut client = node.connect().await;
    client.socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(client.closed().await, 1003);

    let mut client = node.connect().await;
    let large = Message::Binary(vec![0; 5 << 10].into());
    client.socket.send(large).await.unwrap();
    let Some(Body::Error(error)) = client.next().await.body else {
        panic!("no error");
    };
    assert_eq!(
        (error.code.as_str(), error.field.as_str()),
        ("TOO_LARGE", "message")
    );
    assert_eq!(client.closed().await, 1009);
}

// EDGE-09, 2.6: each limit and each verb that is not served is named.
#[expect(clippy::too_many_lines, reason = "one table")]
#[tokio::test]
async fn refusals_name_code_and_field() {
    let node = Node::start(|limits| {
        limits.envelope_bytes_max = 2_000;
        limits.batch_records_max = 3;
        limits.headers_max = 2;
        limits.header_bytes_max = 10;
        limits.topic_bytes_max = 20;
        limits.topic_depth_max = 3;
        limits.subscriptions_max = 2;
    });
    let mut client = node.connect().await;
    let said = |code: &str, field: &str| (code.to_owned(), field.to_owned());
    let with = |change: &dyn Fn(&mut Envelope)| {
        let mut envelope = Envelope::decode(encoded("a.b")).unwrap();
        change(&mut envelope);
        Ask::Produce(Produce {
            envelopes: vec![encoded("a.b"), envelope.encode_to_vec().into()],
            ..Produce::default()
        })
    };
    let header = |name: &str, bytes: usize| (name.to_owned(), "v".repeat(bytes));
    let cases: Vec<(Ask, _)> = vec![
        (
            Ask::Produce(Produce::default()),
            said("VALIDATION_ERROR", "envelopes"),
        ),
        (
            Ask::Produce(produce(&["a"; 4])),
            said("TOO_LARGE", "envelopes"),
        ),
        (
            with(&|e| e.key = "k".repeat(2_000)),
            said("TOO_LARGE", "envelopes[1]"),
        ),
        (
            with(&|e| e.headers = [header("a", 1), header("b", 1), header("c", 1)].into()),
            said("TOO_LARGE", "envelopes[1].headers"),
        ),
        (
            with(&|e| e.headers = [header("a", 10)].into()),
            said("TOO_LARGE", "envelopes[1].headers"),
        ),
        (
            with(&|e| e.topic = "a".repeat(21)),
            said("VALIDATION_ERROR", "envelopes[1].topic"),
        ),
        (
            with(&|e| e.topic = "a.b.c.d".into()),
            said("VALIDATION_ERROR", "envelopes[1].topic"),
        ),
        (
            with(&|e| e.tenant_id = "u".into()),
            said("TENANT_MISMATCH", "envelopes[1].tenant_id"),
        ),
        (
            Ask::Produce(Produce {
                then: vec![Durability::Replicated.into()],
                ..produce(&["a"])
            }),
            said("FEATURE_DISABLED", "then[0]"),
        ),
        (
            Ask::Produce(Produce {
                then: vec![Durability::Written.into()],
                ..produce(&["a"])
            }),
            said("VALIDATION_ERROR", "then[0]"),
        ),
        (
            Ask::Produce(Produce {
                then_projected: vec!["p".into()],
                ..produce(&["a"])
            }),
            said("NOT_FOUND", "then_projected[0]"),
        ),
        (
            Ask::Produce(Produce {
                expected: Some(v1::ExpectedSequence::default()),
                ..produce(&["a"])
            }),
            said("VALIDATION_ERROR", "expected.topic"),
        ),
        // BRK-07
        (
            Ask::Produce(Produce {
                expected: Some(v1::ExpectedSequence {
                    topic: "a".into(),
                    last: 9,
                }),
                ..produce(&["a"])
            }),
            said("SEQUENCE_CONFLICT", "expected.last"),
        ),
        (
            Ask::Produce(Produce {
                reality: "nowhere".into(),
                ..produce(&["a"])
            }),
            said("NOT_FOUND", "reality"),
        ),
        (
            Ask::Produce(Produce {
                reality: "_system".into(),
                ..produce(&["a"])
            }),
            said("FORBIDDEN", "reality"),
        ),
        (
            Ask::Produce(produce(&["a", "sys.log"])),
            said("FORBIDDEN", "envelopes[1].topic"),
        ),
        // PRJ-04: whoever is told of a dead letter has it from the node.
        (
            Ask::Produce(produce(&["a", "dlq.a"])),
            said("FORBIDDEN", "envelopes[1].topic"),
        ),
        (
            Ask::Subscribe(from_start(0, ">")),
            said("VALIDATION_ERROR", "subscription"),
        ),
        (
            Ask::Subscribe(from_start(1, "a.>.b")),
            said("VALIDATION_ERROR", "filter"),
        ),
        (
            Ask::Subscribe(from_start(1, "sys.>")),
            said("FORBIDDEN", "filter"),
        ),
        (
            Ask::Subscribe(Subscribe {
                group: "g".into(),
                stop_at_end: true,
                ..from_start(1, ">")
            }),
            said("VALIDATION_ERROR", "stop_at_end"),
        ),
        (
            Ask::Subscribe(Subscribe {
                causal: true,
                ..from_start(1, ">")
            }),
            said("FEATURE_DISABLED", "causal"),
        ),
        (
            Ask::Unsubscribe(Unsubscribe { subscription: 9 }),
            said("NOT_FOUND", "subscription"),
        ),
        (
            Ask::Ack(Ack {
                subscription: 9,
                sequence: 1,
                attempt: 0,
            }),
            said("NOT_FOUND", "subscription"),
        ),
        (
            Ask::Nack(Nack::default()),
            said("NOT_FOUND", "subscription"),
        ),
        (
            Ask::Extend(Extend::default()),
            said("NOT_FOUND", "subscription"),
        ),
        (
            Ask::Command(CommandRequest {
                name: "nope".into(),
                ..CommandRequest::default()
            }),
            said("UNKNOWN_COMMAND", "name"),
        ),
    ];
    for (ask, expected) in cases {
        let what = format!("{ask:?}");
        assert_eq!(client.refusal(ask).await, expected, "{what}");
    }
    for id in 1..=2 {
        let subscribed = client.answer(id, Ask::Subscribe(from_start(id, "x"))).await;
        assert!(matches!(subscribed, Body::Subscribed(_)));
    }
    let third = client.refusal(Ask::Subscribe(from_start(3, "x"))).await;
    assert_eq!(third, said("TOO_LARGE", "subscription"));
    let again = client.refusal(Ask::Subscribe(from_start(1, "x"))).await;
    assert_eq!(again, said("VALIDATION_ERROR", "subscription"));
    let fetched = client
        .answer(
            9,
            Ask::Fetch(Fetch {
                filter: ">".into(),
                ..Fetch::default()
            }),
        )
        .await;
    assert!(
        matches!(fetched, Body::Deliver(d) if d.records.is_empty() && d.next == 1),
        "nothing was stored"
    );
}

// Graded acknowledgements, cursors, commands.
#[tokio::test]
async fn verbs_are_answered() {
    let node = Node::start(|_| {});
    let mut client = node.connect().await;
    let graded = Produce {
        durability: Durability::Written.into(),
        then: vec![Durability::Synced.into()],
        ..produce(&["a", "b", "a"])
    };
    client.ask(1, Ask::Produce(graded)).await;
    for expected in [Durability::Written, Durability::Synced] {
        match client.next().await.body {
            Some(Body::Produced(produced)) => {
                assert_eq!((produced.first, produced.last), (1, 3));
                assert_eq!(produced.durability(), expected);
            }
            other => panic!("{other:?}"),
        }
    }
    let pong = client
        .answer(
            2,
            Ask::Ping(Ping {
                data: Bytes::from_static(b"x"),
            }),
        )
        .await;
    assert!(matches!(pong, Body::Pong(pong) if pong.data == "x"));

    let named = Subscribe {
        consumer: "c".into(),
        stop_at_end: true,
        ..from_start(4, "a")
    };
    client.ask(3, Ask::Subscribe(named.clone())).await;
    assert_eq!(client.delivered(4).await, [1, 3]);
    let ack = |sequence| {
        Ask::Ack(Ack {
            subscription: 4,
            sequence,
            attempt: 0,
        })
    };
    let acked = client.answer(5, ack(3)).await;
    assert!(matches!(acked, Body::Acked(acked) if acked.sequence == 3));
    assert_eq!(client.refusal(ack(4)).await.1, "sequence");
    let ended = client
        .answer(6, Ask::Unsubscribe(Unsubscribe { subscription: 4 }))
        .await;
    assert!(matches!(ended, Body::Unsubscribed(_)));
    let resumed = client.answer(7, Ask::Subscribe(named)).await;
    assert!(matches!(resumed, Body::Subscribed(s) if s.resumed && s.next == 4));

    let text = |text: &str| Value {
        kind: Some(value::Kind::Text(text.into())),
    };
    for (name, arguments) in [
        ("reality.create", vec![("name", text("fork"))]),
        ("status", vec![]),
        ("topics.list", vec![]),
        ("reality.list", vec![]),
        ("consumer.list", vec![]),
        ("log.status", vec![("reality", text("fork"))]),
    ] {
        let command = CommandRequest {
            name: name.into(),
            arguments: arguments
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        };
        let result = client.answer(8, Ask::Command(command)).await;
        assert!(
            matches!(result, Body::CommandResult(_)),
            "{name}: {result:?}"
        );
    }
    let elsewhere = Produce {
        reality: "fork".into(),
        ..produce(&["z"])
    };
    let produced = client.answer(9, Ask::Produce(elsewhere)).await;
    assert!(matches!(produced, Body::Produced(p) if p.first == 1));
}

// EDGE-11: a peer that does not read stops only itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_stops_only_itself() {
    let node = Node::start(|_| {});
    let mut stalled = node.connect().await;
    stalled.ask(1, Ask::Subscribe(from_start(1, ">"))).await;
    let mut client = node.connect().await;
    for request_id in 1..=40_u64 {
        let batch = produce(&["a"; 50]);
        let produced = client.answer(request_id, Ask::Produce(batch)).await;
        assert!(matches!(produced, Body::Produced(_)));
    }
    let mut found = Vec::new();
    while found.len() < 2_000 {
        found.extend(stalled.delivered(1).await);
    }
    assert_eq!(
        found,
        (1..=2_000).collect::<Vec<_>>(),
        "and then gets everything"
    );

    // Credit the same way.
    let counted = Subscribe {
        credit_records: 7,
        ..from_start(2, ">")
    };
    client.ask(100, Ask::Subscribe(counted)).await;
    let mut got = 0;
    while got < 7 {
        if let Some(Body::Deliver(deliver)) = client.next().await.body {
            got += deliver.records.len();
        }
    }
    assert_eq!(got, 7);
    client
        .ask(
            0,
            Ask::Credit(Credit {
                subscription: 2,
                records: 3,
                bytes: 0,
            }),
        )
        .await;
    match client.next().await.body {
        Some(Body::Deliver(deliver)) => assert_eq!((deliver.records.len(), deliver.next), (3, 11)),
        other => panic!("{other:?}"),
    }
}

// EDGE-21, EDGE-04
#[tokio::test]
async fn sessions_end_when_the_node_drains_or_the_token_expires() {
    let node = Node::start(|_| {});
    let mut expiring = identity("t");
    expiring.expires_at = Some(Micros(node.clock.now().0 + 300_000));
    let mut client = node.raw(expiring, Subprotocol::Frames).await;
    client.next().await;
    node.clock.0.fetch_add(300_000, Ordering::Relaxed);
    assert_eq!(client.closed().await, 1008);

    let mut client = node.connect().await;
    node.drain.send_replace(true);
    assert!(matches!(client.next().await.body, Some(Body::Drain(_))));
    let refused = client.refusal(Ask::Produce(produce(&["a"]))).await;
    assert_eq!(refused.0, "SHUTTING_DOWN");
    assert_eq!(client.closed().await, 1001);
}

// Clients of the older system: one envelope a message, truthful answers.
#[tokio::test]
async fn envelopes_are_stored_and_answered_as_envelopes() {
    let node = Node::start(|_| {});
    let mut client = node.raw(identity("t"), Subprotocol::Envelopes).await;
    let sent = Envelope {
        trace_id: "msg-1".into(),
        room_id: "science".into(),
        payload: Some(envelope::Payload::Event(Event {
            r#type: "message".into(),
            data: Bytes::new(),
        })),
        ..Envelope::default()
    };
    let mut answer = async |envelope: &Envelope| {
        let message = Message::Binary(envelope.encode_to_vec().into());
        client.socket.send(message).await.unwrap();
        let Message::Binary(bytes) = client.message().await else {
            panic!("not an envelope");
        };
        let answer = Envelope::decode(bytes).unwrap();
        let Some(envelope::Payload::Event(event)) = answer.payload.clone() else {
            panic!("{answer:?}");
        };
        let payload = BusPayload::decode(event.data).unwrap();
        (event.r#type, answer, payload)
    };
    let (kind, stored, payload) = answer(&sent).await;
    assert_eq!(kind, "message_response");
    assert_eq!(stored.trace_id, "msg-1");
    assert_eq!(stored.headers["sequence"], "1");
    assert_eq!(
        (payload.status.as_str(), payload.request_id.as_str()),
        ("success", "msg-1")
    );
    let foreign = Envelope {
        tenant_id: "other".into(),
        ..sent
    };
    let (kind, refused, payload) = answer(&foreign).await;
    assert_eq!(
        (kind.as_str(), refused.trace_id.as_str()),
        ("error", "msg-1")
    );
    assert_eq!(refused.headers["error_code"], "TENANT_MISMATCH");
    assert_eq!(payload.error_code, "TENANT_MISMATCH");
    let mut reader = node.connect().await;
    reader
        .ask(1, Ask::Subscribe(from_start(1, "room.science.main")))
        .await;
    assert_eq!(reader.delivered(1).await, [1]);
}

fn is_rate_limited(answer: &Body, field: &str) -> Option<u64> {
    match answer {
        Body::Produced(_) => None,
        Body::Error(error) => {
            assert_eq!(error.code, "RATE_LIMITED", "{error:?}");
            assert_eq!(error.field, field);
            assert!(error.retryable && error.retry_after_ms > 0, "{error:?}");
            Some(error.retry_after_ms)
        }
        other => panic!("{other:?}"),
    }
}

// EDGE-10: refused whole, and taken when it is said to be.
#[tokio::test]
async fn a_session_that_sends_too_much_is_told_when_to_go_on() {
    let node = Node::start(|limits| {
        limits.session_messages_per_second = 20;
        limits.tenant_messages_per_second = 30;
    });
    let (mut one, mut other) = (node.connect().await, node.connect().await);
    let batch = |count| Ask::Produce(produce(&vec!["a"; count]));
    assert_eq!(
        one.refusal(batch(21)).await,
        ("TOO_LARGE".into(), "envelopes".into())
    );
    // The ACL and the topic come first, and cost nothing.
    assert_eq!(
        one.refusal(Ask::Produce(produce(&["a..b"]))).await.0,
        "VALIDATION_ERROR"
    );
    assert_eq!(
        is_rate_limited(&one.answer(1, batch(20)).await, "envelopes"),
        None
    );
    let wait = is_rate_limited(&one.answer(2, batch(10)).await, "envelopes").unwrap();
    assert!((1..=500).contains(&wait), "{wait}");
    // The tenant has ten left, and more only later.
    assert_eq!(
        is_rate_limited(&other.answer(1, batch(10)).await, "envelopes"),
        None
    );
    let wait = is_rate_limited(&other.answer(2, batch(10)).await, "envelopes").unwrap();
    tokio::time::sleep(Duration::from_millis(wait)).await;
    assert_eq!(
        is_rate_limited(&other.answer(3, batch(10)).await, "envelopes"),
        None
    );
    let fetched = one.answer(
        9,
        Ask::Fetch(Fetch {
            filter: ">".into(),
            from: 1,
            ..Fetch::default()
        }),
    );
    let Body::Deliver(found) = fetched.await else {
        panic!("nothing fetched");
    };
    assert_eq!(found.records.len(), 40, "none of what was refused");
}

// EDGE-10: a tenant's own limit on topics, changed while a session is open.
#[tokio::test]
async fn a_tenant_limits_what_comes_in_on_its_topics() {
    let node = Node::start(|_| {});
    let mut admin = node.connect_as(Role::Admin).await;
    let mut client = node.connect().await;
    let command = |name: &str, arguments: &[(&str, Value)]| {
        Ask::Command(CommandRequest {
            name: name.into(),
            arguments: arguments
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        })
    };
    let noisy = command(
        "edge.rate.set",
        &[
            ("name", "noisy".into()),
            ("pattern", "noise.>".into()),
            ("messages_per_second", 2_u64.into()),
        ],
    );
    assert_eq!(client.refusal(noisy.clone()).await.0, "FORBIDDEN");
    assert!(matches!(
        admin.answer(1, noisy).await,
        Body::CommandResult(_)
    ));
    let batch = |topics: &[&str]| Ask::Produce(produce(topics));
    let (two, field) = (["noise.a", "noise.b"], "envelopes[1].topic");
    assert_eq!(
        is_rate_limited(&client.answer(1, batch(&two)).await, ""),
        None
    );
    let refused = client.answer(2, batch(&["b", "noise.a"])).await;
    assert!(is_rate_limited(&refused, field).is_some());
    assert_eq!(
        is_rate_limited(&client.answer(3, batch(&["b"; 50])).await, ""),
        None
    );
    let removed = command("edge.rate.remove", &[("name", "noisy".into())]);
    assert!(matches!(
        admin.answer(2, removed.clone()).await,
        Body::CommandResult(_)
    ));
    assert_eq!(
        is_rate_limited(&client.answer(4, batch(&two)).await, ""),
        None
    );
    assert_eq!(admin.refusal(removed).await.0, "NOT_FOUND");
}

/// A stream that panics when it is read for the last time.
struct Bomb {
    inner: DuplexStream,
    reads: usize,
}

impl AsyncRead for Bomb {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.reads -= 1;
            assert!(self.reads > 0, "a bug, for the test");
        }
        polled
    }
}

impl AsyncWrite for Bomb {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

// REL-10: a bug in what serves one session ends that session, with all it held, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_panics_takes_nobody_along() {
    let node = Node::start(|_| {});
    let mut other = node.connect().await;
    let (ours, theirs) = tokio::io::duplex(256 << 10);
    let bomb = metered(Bomb {
        inner: theirs,
        reads: 3,
    });
    let server = WebSocketStream::from_raw_socket(bomb, End::Server, None).await;
    let session = run(
        server,
        identity("t"),
        Subprotocol::Frames,
        node.context.clone(),
    );
    let metrics = Arc::clone(&node.context.metrics);
    let task = tokio::spawn(async move {
        contain(session, &metrics, ([127, 0, 0, 1], 1).into()).await;
    });
    let mut client = Client {
        socket: WebSocketStream::from_raw_socket(ours, End::Client, None).await,
    };
    drop(client.next().await);
    client.ask(1, Ask::Subscribe(from_start(1, ">"))).await;
    assert!(matches!(
        client.next().await.body,
        Some(Body::Subscribed(_))
    ));
    let tenant = Tenant::new("t").unwrap();
    let roll = || node.context.shield.opened(&tenant).unwrap().roll().len();
    assert_eq!((roll(), node.context.metrics.panics.get()), (2, 0));
    let produced = client.answer(2, Ask::Produce(produce(&["a"]))).await;
    assert!(matches!(produced, Body::Produced(_)), "{produced:?}");
    client.ask(3, Ask::Produce(produce(&["a"]))).await;
    task.await.expect("the panic is contained");
    assert_eq!((roll(), node.context.metrics.panics.get()), (1, 1));
    let produced = other.answer(1, Ask::Produce(produce(&["b"]))).await;
    assert!(matches!(produced, Body::Produced(_)), "{produced:?}");
    let mut late = node.connect().await;
    late.ask(1, Ask::Subscribe(from_start(1, "b"))).await;
    assert_eq!(late.delivered(1).await.len(), 1);
}

// PERF-05: what a session's task takes, however it is compiled; the rest is buffers.
#[tokio::test]
async fn a_sessions_task_is_small() {
    let node = Node::start(|_| {});
    let (_ours, theirs) = tokio::io::duplex(1);
    let server = WebSocketStream::from_raw_socket(metered(theirs), End::Server, None).await;
    let task = run(
        server,
        identity("t"),
        Subprotocol::Frames,
        node.context.clone(),
    );
    let bytes = size_of_val(&task) + size_of::<Pump<DuplexStream>>();
    assert!(
        bytes < 4 << 10,
        "{bytes} bytes, of them {} the pump",
        size_of::<Pump<DuplexStream>>()
    );
}
