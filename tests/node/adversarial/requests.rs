//! Requests and envelopes that break a rule (EDGE-06, EDGE-07, EDGE-09).

use arqonbus::proto::claims::{Claims, Role};
use arqonbus::proto::v1::client_frame::Body as Ask;
use arqonbus::proto::v1::server_frame::Body as Answer;
use arqonbus::proto::v1::{self, Envelope, Event, Value, VectorClock, envelope, subscribe, value};
use prost::Message as _;

use super::{Case, Group, Stage, case};
use crate::support::{claims, signed};
use crate::wire::Wire;

/// A session of somebody.
pub(super) fn session_of(stage: &Stage, who: &Claims) -> Wire {
    Wire::of(&stage.node, who)
}

/// Sends a request and says how it is answered: the code of the Error with its field, or the name
/// of what came.
pub(crate) fn ask(session: &mut Wire, body: Ask) -> String {
    session.send(body);
    answer(session)
}

pub(super) fn answer(session: &mut Wire) -> String {
    let frame = match session.next() {
        Ok(frame) => frame,
        Err(end) => return end,
    };
    match frame.body {
        Some(Answer::Error(error)) => format!("{} {}", error.code, error.field)
            .trim_end()
            .to_owned(),
        Some(Answer::Produced(_)) => "stored".into(),
        Some(Answer::Subscribed(_)) => "subscribed".into(),
        Some(Answer::CommandResult(_)) => "done".into(),
        other => format!("{other:?}"),
    }
}

pub(super) fn user() -> Claims {
    claims("acme", Role::User)
}

/// A user asks.
fn asks(attack: &'static str, outcome: &'static str, body: impl Fn() -> Ask + 'static) -> Case {
    case(attack, outcome, move |stage| {
        ask(&mut session_of(stage, &user()), body())
    })
}

pub(super) fn envelope() -> Envelope {
    Envelope {
        topic: "a.b".into(),
        payload: Some(envelope::Payload::Event(Event {
            r#type: "t".into(),
            data: "x".into(),
        })),
        ..Envelope::default()
    }
}

pub(super) fn produce(envelopes: Vec<Envelope>) -> Ask {
    let encoded = |envelope: Envelope| envelope.encode_to_vec().into();
    Ask::Produce(v1::Produce {
        envelopes: envelopes.into_iter().map(encoded).collect(),
        ..v1::Produce::default()
    })
}

/// A user sends an envelope of which one thing is wrong.
fn sends(
    attack: &'static str,
    outcome: &'static str,
    change: impl Fn(&mut Envelope) + 'static,
) -> Case {
    asks(attack, outcome, move || {
        let mut envelope = envelope();
        change(&mut envelope);
        produce(vec![envelope])
    })
}

/// A user sends the bytes of a message.
fn raw(attack: &'static str, outcome: &'static str, bytes: impl Fn() -> Vec<u8> + 'static) -> Case {
    case(attack, outcome, move |stage| {
        let mut session = session_of(stage, &user());
        session.send_bytes(&bytes());
        answer(&mut session)
    })
}

pub(crate) fn command(name: &str, arguments: &[(&str, value::Kind)]) -> Ask {
    let value = |kind: &value::Kind| Value {
        kind: Some(kind.clone()),
    };
    Ask::Command(v1::CommandRequest {
        name: name.into(),
        arguments: arguments
            .iter()
            .map(|(name, kind)| ((*name).to_owned(), value(kind)))
            .collect(),
    })
}

fn subscribe_to(filter: &str, reality: &str) -> Ask {
    Ask::Subscribe(v1::Subscribe {
        subscription: 1,
        filter: filter.into(),
        reality: reality.into(),
        start: Some(subscribe::Start::Earliest(true)),
        ..v1::Subscribe::default()
    })
}

fn fetch(filter: &str, reality: &str) -> Ask {
    Ask::Fetch(v1::Fetch {
        filter: filter.into(),
        reality: reality.into(),
        ..v1::Fetch::default()
    })
}

pub(super) fn group() -> Group {
    Group {
        letter: 'E',
        title: "Messages and envelopes",
        cases: [encodings(), envelopes(), names(), rights(), requests()]
            .into_iter()
            .flatten()
            .collect(),
    }
}

fn encodings() -> Vec<Case> {
    const NOT_A_FRAME: &str = "INFRA_PROTOCOL_ERROR";
    vec![
        raw("a message that ends in a number", NOT_A_FRAME, || {
            vec![0x08, 0xff]
        }),
        raw("a number of 11 bytes", NOT_A_FRAME, || {
            [&[0x08][..], &[0xff; 10], &[1]].concat()
        }),
        raw("a length beyond the end", NOT_A_FRAME, || {
            vec![0x12, 0x7f, 1]
        }),
        raw("a wrong wire type", NOT_A_FRAME, || vec![0x10, 1]),
        raw("values nested 5,000 deep", NOT_A_FRAME, || {
            // CommandRequest.arguments: a list in a list in a list ...
            let mut value = Vec::new();
            for _ in 0..5_000 {
                let mut list = Vec::new();
                prost::encoding::bytes::encode(1, &value, &mut list);
                value.clear();
                prost::encoding::bytes::encode(8, &list, &mut value);
            }
            let (mut entry, mut request, mut frame) = (Vec::new(), Vec::new(), Vec::new());
            prost::encoding::string::encode(1, &"name".to_owned(), &mut entry);
            prost::encoding::bytes::encode(2, &value, &mut entry);
            prost::encoding::bytes::encode(2, &entry, &mut request);
            prost::encoding::bytes::encode(9, &request, &mut frame);
            frame
        }),
        case(
            "three messages in a minute that cannot be decoded",
            "close 1007 undecodable_messages",
            |stage| {
                let mut session = session_of(stage, &user());
                for _ in 0..3 {
                    session.send_bytes(&[0xff]);
                }
                loop {
                    if let Err(end) = session.next() {
                        return end;
                    }
                }
            },
        ),
        raw(
            "a request without anything asked",
            "FEATURE_DISABLED body",
            || vec![0x08, 9],
        ),
        asks(
            "an envelope that is none",
            "VALIDATION_ERROR envelopes[0].envelope",
            || {
                Ask::Produce(v1::Produce {
                    envelopes: vec![vec![0xff].into()],
                    ..v1::Produce::default()
                })
            },
        ),
        asks(
            "an envelope with two payloads",
            "VALIDATION_ERROR envelopes[0].payload",
            || {
                let mut bytes = envelope().encode_to_vec();
                let command = v1::Command {
                    r#type: "c".into(),
                    data: "y".into(),
                };
                prost::encoding::message::encode(20, &command, &mut bytes);
                Ask::Produce(v1::Produce {
                    envelopes: vec![bytes.into()],
                    ..v1::Produce::default()
                })
            },
        ),
        asks(
            "a topic that is not UTF-8",
            "VALIDATION_ERROR envelopes[0].topic",
            || {
                let mut bytes = Vec::new();
                prost::encoding::bytes::encode(31, &vec![0xff, 0xfe], &mut bytes);
                Ask::Produce(v1::Produce {
                    envelopes: vec![bytes.into()],
                    ..v1::Produce::default()
                })
            },
        ),
    ]
}

fn envelopes() -> Vec<Case> {
    vec![
        asks("a batch of nothing", "VALIDATION_ERROR envelopes", || {
            produce(Vec::new())
        }),
        asks("a batch one over its limit", "TOO_LARGE envelopes", || {
            produce(vec![Envelope::default(); 10_001])
        }),
        sends(
            "an envelope over its limit",
            "TOO_LARGE envelopes[0]",
            |envelope| {
                envelope.key = "x".repeat(32_768);
            },
        ),
        sends(
            "another tenant's name",
            "TENANT_MISMATCH envelopes[0].tenant_id",
            |envelope| {
                envelope.tenant_id = "rival".into();
            },
        ),
        sends(
            "another reality than the request's",
            "VALIDATION_ERROR envelopes[0].reality_id",
            |envelope| {
                envelope.reality_id = "other".into();
            },
        ),
        sends(
            "a time before 1970",
            "VALIDATION_ERROR envelopes[0].timestamp",
            |envelope| {
                envelope.timestamp = -1;
            },
        ),
        sends(
            "a time after the year 9999",
            "VALIDATION_ERROR envelopes[0].expires_at",
            |envelope| {
                envelope.expires_at = i64::MAX;
            },
        ),
        sends(
            "an id of 129 bytes",
            "TOO_LARGE envelopes[0].id",
            |envelope| {
                envelope.id = "x".repeat(129);
            },
        ),
        sends(
            "a producer of 256 bytes",
            "TOO_LARGE envelopes[0].producer_id",
            |envelope| {
                envelope.producer_id = "x".repeat(256);
            },
        ),
        sends(
            "65 headers in an envelope",
            "TOO_LARGE envelopes[0].headers",
            |envelope| {
                envelope.headers = (0..65).map(|at| (at.to_string(), String::new())).collect();
            },
        ),
        sends(
            "headers of 8 KiB and a byte",
            "TOO_LARGE envelopes[0].headers",
            |envelope| {
                envelope.headers = [("n".to_owned(), "x".repeat(8_192))].into();
            },
        ),
        sends(
            "a clock of 65 entries",
            "TOO_LARGE envelopes[0].clock",
            |envelope| {
                let entries = (0..65).map(|at| (format!("p{at}"), 1)).collect();
                envelope.clock = Some(VectorClock { entries });
            },
        ),
        asks(
            "one bad envelope in a batch of good ones",
            "VALIDATION_ERROR envelopes[2].topic",
            || {
                let mut bad = envelope();
                bad.topic = "a..b".into();
                produce(vec![envelope(), envelope(), bad, envelope()])
            },
        ),
    ]
}

fn names() -> Vec<Case> {
    let topic = |attack, outcome, topic: fn() -> String| {
        sends(attack, outcome, move |envelope| envelope.topic = topic())
    };
    const TOPIC: &str = "VALIDATION_ERROR envelopes[0].topic";
    vec![
        topic("no topic", TOPIC, String::new),
        topic("a topic with a wildcard", TOPIC, || "a.*".into()),
        topic("a topic that climbs directories", TOPIC, || {
            "../../etc/passwd".into()
        }),
        topic("a topic with a NUL", TOPIC, || "a\0b".into()),
        topic("a topic of 256 bytes", TOPIC, || "x".repeat(256)),
        topic("a topic of 33 tokens", TOPIC, || ["x"; 33].join(".")),
        topic("a system topic", "FORBIDDEN envelopes[0].topic", || {
            "sys.edge.policy.p".into()
        }),
        asks(
            "a reality that climbs directories",
            "VALIDATION_ERROR reality",
            || {
                Ask::Produce(v1::Produce {
                    reality: "../rival/main".into(),
                    envelopes: vec![envelope().encode_to_vec().into()],
                    ..v1::Produce::default()
                })
            },
        ),
        asks("a reality that is not there", "NOT_FOUND reality", || {
            Ask::Produce(v1::Produce {
                reality: "nowhere".into(),
                envelopes: vec![envelope().encode_to_vec().into()],
                ..v1::Produce::default()
            })
        }),
        asks(
            "a record into the tenant's system log",
            "FORBIDDEN reality",
            || {
                Ask::Produce(v1::Produce {
                    reality: "_system".into(),
                    envelopes: vec![envelope().encode_to_vec().into()],
                    ..v1::Produce::default()
                })
            },
        ),
    ]
}

fn rights() -> Vec<Case> {
    let limited = || Claims {
        publish: Some(vec!["mine.>".into()]),
        subscribe: Some(vec!["mine.>".into()]),
        ..user()
    };
    let as_limited = move |attack, outcome, body: fn() -> Ask| {
        case(attack, outcome, move |stage: &Stage| {
            ask(&mut session_of(stage, &limited()), body())
        })
    };
    vec![
        as_limited(
            "a topic that the token does not allow",
            "FORBIDDEN envelopes[0].topic",
            || produce(vec![envelope()]),
        ),
        as_limited(
            "a filter wider than the token's",
            "FORBIDDEN filter",
            || subscribe_to(">", ""),
        ),
        as_limited("a read wider than the token's", "FORBIDDEN filter", || {
            fetch("*.>", "")
        }),
        asks(
            "a user's subscription to system topics",
            "FORBIDDEN filter",
            || subscribe_to("sys.>", ""),
        ),
        asks(
            "a user's subscription to the tenant's system log",
            "FORBIDDEN reality",
            || subscribe_to(">", "_system"),
        ),
        asks(
            "a user's read of the tenant's system log",
            "FORBIDDEN reality",
            || fetch(">", "_system"),
        ),
        asks("a user that gives an admin's command", "FORBIDDEN", || {
            command("reality.delete", &[])
        }),
        case(
            "an operator that gives an admin's command",
            "FORBIDDEN",
            |stage| {
                let operator = claims("acme", Role::Operator);
                ask(
                    &mut session_of(stage, &operator),
                    command("reality.delete", &[]),
                )
            },
        ),
        asks("an unknown command", "UNKNOWN_COMMAND name", || {
            command("drop.table", &[])
        }),
        asks(
            "an unknown argument",
            "VALIDATION_ERROR arguments.tenant",
            || {
                command(
                    "topics.list",
                    &[("tenant", value::Kind::Text("rival".into()))],
                )
            },
        ),
        asks(
            "an argument of another type",
            "VALIDATION_ERROR arguments.reality",
            || command("topics.list", &[("reality", value::Kind::Unsigned(1))]),
        ),
    ]
}

fn requests() -> Vec<Case> {
    vec![
        asks("subscription 0", "VALIDATION_ERROR subscription", || {
            Ask::Subscribe(v1::Subscribe {
                filter: ">".into(),
                ..v1::Subscribe::default()
            })
        }),
        asks(
            "credit for a subscription that is not there",
            "NOT_FOUND subscription",
            || {
                Ask::Credit(v1::Credit {
                    subscription: 77,
                    records: u64::MAX,
                    bytes: u64::MAX,
                })
            },
        ),
        asks(
            "more credit than there may be",
            "VALIDATION_ERROR credit_bytes",
            || {
                Ask::Subscribe(v1::Subscribe {
                    subscription: 1,
                    filter: ">".into(),
                    credit_bytes: u64::MAX,
                    ..v1::Subscribe::default()
                })
            },
        ),
        asks(
            "a filter with `>` in its middle",
            "VALIDATION_ERROR filter",
            || subscribe_to("a.>.b", ""),
        ),
        asks(
            "an acknowledgement without a named consumer",
            "NOT_FOUND subscription",
            || {
                Ask::Ack(v1::Ack {
                    subscription: 5,
                    sequence: 1,
                    attempt: 0,
                })
            },
        ),
        asks(
            "the result of a task that nobody gave",
            "STALE lease",
            || Ask::TaskResult(v1::TaskResult::default()),
        ),
        asks("a new token that is none", "UNAUTHENTICATED token", || {
            Ask::Refresh(v1::Refresh {
                token: "garbage".into(),
            })
        }),
        case(
            "a new token of another tenant",
            "UNAUTHENTICATED token",
            |stage| {
                let mut session = session_of(stage, &user());
                let token = signed(&claims("rival", Role::Admin), &stage.node.dev_secret());
                ask(&mut session, Ask::Refresh(v1::Refresh { token }))
            },
        ),
        case(
            "a new token of another subject",
            "UNAUTHENTICATED token",
            |stage| {
                let mut session = session_of(stage, &user());
                let other = Claims {
                    sub: "mallory".into(),
                    ..user()
                };
                let token = signed(&other, &stage.node.dev_secret());
                ask(&mut session, Ask::Refresh(v1::Refresh { token }))
            },
        ),
    ]
}
