//! The client against a node that the test plays, so that every turn of a session can be forced.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use super::*;
use crate::proto::ErrorCode;
use crate::proto::v1::{ClientFrame, Record, ServerFrame, subscribe};

struct Peer(WebSocketStream<TcpStream>);

struct Stage {
    listener: TcpListener,
    options: ConnectOptions,
}

impl Stage {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/v1/ws", listener.local_addr().unwrap());
        Self {
            listener,
            options: ConnectOptions::new(url, "secret"),
        }
    }

    async fn accept(&self) -> Peer {
        let (stream, _) = self.listener.accept().await.unwrap();
        #[expect(clippy::result_large_err, reason = "the library's signature")]
        let check = |request: &Request, mut response: Response| {
            assert_eq!(request.headers()["authorization"], "Bearer secret");
            let protocol = request.headers()["sec-websocket-protocol"].clone();
            response
                .headers_mut()
                .insert("sec-websocket-protocol", protocol);
            Ok(response)
        };
        let mut peer = Peer(
            tokio_tungstenite::accept_hdr_async(stream, check)
                .await
                .unwrap(),
        );
        let welcome = v1::Welcome {
            subject: "me".into(),
            limits: Some(v1::Limits {
                batch_records_max: 10,
                ..v1::Limits::default()
            }),
            ..v1::Welcome::default()
        };
        peer.say(0, Answer::Welcome(welcome)).await;
        peer
    }

    async fn connected(&self) -> (Client, Peer) {
        let (client, peer) = tokio::join!(Client::connect(self.options.clone()), self.accept());
        (client.unwrap(), peer)
    }
}

impl Peer {
    async fn say(&mut self, request_id: u64, body: Answer) {
        let frame = ServerFrame {
            request_id,
            body: Some(body),
        };
        self.0
            .send(Message::Binary(frame.encode_to_vec().into()))
            .await
            .unwrap();
    }

    async fn hear(&mut self) -> (u64, Ask) {
        let message = self.0.next().await.unwrap().unwrap();
        let frame = ClientFrame::decode(message.into_data()).unwrap();
        (frame.request_id, frame.body.unwrap())
    }

    async fn hear_subscribe(&mut self) -> (u64, v1::Subscribe) {
        match self.hear().await {
            (id, Ask::Subscribe(subscribe)) => (id, subscribe),
            other => panic!("{other:?}"),
        }
    }
}

fn record(sequence: u64) -> Bytes {
    Record {
        sequence,
        topic: "a".into(),
        ..Record::default()
    }
    .encode_to_vec()
    .into()
}

fn deliver(sequences: std::ops::RangeInclusive<u64>, finished: bool) -> Answer {
    Answer::Deliver(v1::Deliver {
        next: sequences.end() + 1,
        records: sequences.map(record).collect(),
        subscription: 1,
        finished,
        ..v1::Deliver::default()
    })
}

fn subscribed(next: u64, last: u64) -> Answer {
    Answer::Subscribed(v1::Subscribed {
        subscription: 1,
        next,
        last,
        ..Default::default()
    })
}

async fn sequences(subscription: &mut Subscription) -> Vec<u64> {
    let mut seen = Vec::new();
    while let Some(delivery) = subscription.next().await.unwrap() {
        seen.extend(delivery.views().map(|view| view.unwrap().sequence));
    }
    seen
}

fn one(client: &Client) -> Batch {
    let mut batch = client.batch();
    batch.push(&Outgoing {
        topic: "a",
        data: b"1",
        ..Outgoing::default()
    });
    batch
}

#[tokio::test]
async fn many_batches_are_under_way_and_each_gets_its_own_answer() {
    let stage = Stage::new().await;
    let (client, mut peer) = stage.connected().await;
    let (batch, options) = (one(&client), ProduceOptions::default());
    let mut tickets = Vec::new();
    for _ in 0..500 {
        tickets.push(client.send(&batch, &options).await.unwrap());
    }
    let node = tokio::spawn(async move {
        let mut ids = Vec::new();
        for _ in 0..500 {
            ids.push(peer.hear().await.0);
        }
        for id in ids.into_iter().rev() {
            let produced = v1::Produced {
                first: id,
                last: id,
                ..v1::Produced::default()
            };
            peer.say(id, Answer::Produced(produced)).await;
        }
        peer
    });
    for (index, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(ticket.produced().await.unwrap().first, index as u64 + 1);
    }
    drop(node.await.unwrap());
}

#[tokio::test]
async fn batch_over_the_nodes_limit_is_not_sent() {
    let stage = Stage::new().await;
    let (client, _peer) = stage.connected().await;
    let mut batch = client.batch();
    for _ in 0..11 {
        batch.push(&Outgoing {
            topic: "a",
            ..Outgoing::default()
        });
    }
    let error = client
        .produce(&batch, &ProduceOptions::default())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLarge {
                found: 11,
                limit: 10,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn error_of_the_node_reaches_the_request_that_caused_it() {
    let stage = Stage::new().await;
    let (client, mut peer) = stage.connected().await;
    let node = async {
        let (id, _) = peer.hear().await;
        let error = v1::Error {
            code: "VALIDATION_ERROR".into(),
            message: "an empty token".into(),
            field: "envelopes[0].topic".into(),
            ..v1::Error::default()
        };
        peer.say(id, Answer::Error(error)).await;
    };
    let batch = one(&client);
    let options = ProduceOptions::default();
    let (stored, ()) = tokio::join!(client.produce(&batch, &options), node);
    let error = stored.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::ValidationError));
    assert_eq!(
        (error.field(), error.outcome()),
        (Some("envelopes[0].topic"), Outcome::Rejected)
    );
}

// BRK-03
#[tokio::test]
async fn subscription_goes_on_where_it_was_after_a_lost_connection() {
    let stage = Stage::new().await;
    let (client, mut peer) = stage.connected().await;
    let node = async {
        let (id, first) = peer.hear_subscribe().await;
        assert_eq!(first.start, Some(subscribe::Start::Earliest(true)));
        peer.say(id, subscribed(1, 5)).await;
        peer.say(0, deliver(1..=3, false)).await;
        drop(peer);
        let mut peer = stage.accept().await;
        let (_, again) = peer.hear_subscribe().await;
        assert_eq!(again.start, Some(subscribe::Start::Sequence(4)));
        // The end of the log when it began, not of the log now.
        assert_eq!(again.stop_sequence, 5);
        peer.say(0, subscribed(4, 9)).await;
        // A named consumer's cursor may lie before what was delivered.
        peer.say(0, deliver(2..=5, true)).await;
        peer
    };
    let consumer = async {
        let options = SubscribeOptions {
            start: Start::Earliest,
            stop_at_end: true,
            ..SubscribeOptions::new(">")
        };
        let mut subscription = client.subscribe(options).await.unwrap();
        sequences(&mut subscription).await
    };
    let (_peer, seen) = tokio::join!(node, consumer);
    assert_eq!(seen, [1, 2, 3, 4, 5]);
}

// BRK-02
#[tokio::test]
async fn credit_follows_what_the_application_has_taken() {
    let stage = Stage::new().await;
    let (client, mut peer) = stage.connected().await;
    let options = SubscribeOptions {
        window_records: 4,
        ..SubscribeOptions::new(">")
    };
    let (subscription, ()) = tokio::join!(client.subscribe(options), async {
        let (id, subscribe) = peer.hear_subscribe().await;
        assert_eq!(subscribe.credit_records, 4);
        peer.say(id, subscribed(1, 0)).await;
    });
    let mut subscription = subscription.unwrap();
    peer.say(0, deliver(1..=3, false)).await;
    peer.say(0, deliver(4..=4, false)).await;
    subscription.next().await.unwrap();
    // The records are in the application's hands: nothing is granted yet.
    let early = tokio::time::timeout(Duration::from_millis(50), peer.hear()).await;
    assert!(early.is_err(), "{early:?}");
    subscription.next().await.unwrap();
    let (_, body) = peer.hear().await;
    let Ask::Credit(credit) = body else {
        panic!("{body:?}")
    };
    let cost = (1..=3)
        .map(|sequence| record(sequence).len() as u64 + 2)
        .sum::<u64>();
    assert_eq!((credit.records, credit.bytes), (3, cost));
}

#[tokio::test]
async fn request_on_a_lost_connection_has_an_unknown_outcome() {
    let mut stage = Stage::new().await;
    stage.options.reconnect = Reconnect::Never;
    let (client, mut peer) = stage.connected().await;
    let batch = one(&client);
    let ticket = client
        .send(&batch, &ProduceOptions::default())
        .await
        .unwrap();
    peer.hear().await;
    drop(peer);
    let error = ticket.produced().await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    // The task has ended, so that nothing more can be sent.
    client.requests.closed().await;
    let error = client
        .produce(&batch, &ProduceOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Closed), "{error}");
}

// EDGE-21
#[tokio::test]
async fn drain_is_followed_by_another_connection_when_all_is_answered() {
    let stage = Stage::new().await;
    let (client, mut peer) = stage.connected().await;
    let (batch, options) = (one(&client), ProduceOptions::default());
    let under_way = client.send(&batch, &options).await.unwrap();
    let (id, _) = peer.hear().await;
    peer.say(
        0,
        Answer::Drain(v1::Drain {
            reconnect_after_ms: 1,
            ..Default::default()
        }),
    )
    .await;
    let produced = v1::Produced {
        first: 7,
        last: 7,
        ..v1::Produced::default()
    };
    peer.say(id, Answer::Produced(produced.clone())).await;
    assert_eq!(under_way.produced().await.unwrap().first, 7);
    let node = async {
        let mut next = stage.accept().await;
        let (id, _) = next.hear().await;
        next.say(id, Answer::Produced(produced)).await;
    };
    let (stored, ()) = tokio::join!(client.produce(&batch, &options), node);
    assert_eq!(stored.unwrap().first, 7);
}

// EDGE-02
#[tokio::test]
async fn refusal_before_the_upgrade_is_told_with_its_code() {
    let stage = Stage::new().await;
    let node = async {
        let (mut stream, _) = stage.listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        let body = r#"{"error":{"code":"UNAUTHENTICATED","message":"the token has expired"}}"#;
        let head = "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json";
        let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream
    };
    let (refused, _stream) = tokio::join!(Client::connect(stage.options.clone()), node);
    let error = refused.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::Unauthenticated));
    assert!(
        error
            .to_string()
            .ends_with("status 401: the token has expired"),
        "{error}"
    );
}

#[tokio::test]
async fn nobody_there_is_told_at_once_and_a_bad_url_too() {
    let stage = Stage::new().await;
    let options = stage.options.clone();
    drop(stage);
    let error = Client::connect(options).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let error = Client::connect(ConnectOptions::new("nonsense", ""))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Address { .. }), "{error}");
}
