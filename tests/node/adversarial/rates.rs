//! More than there may be (EDGE-09, EDGE-10).

use arqonbus::proto::claims::Role;
use arqonbus::proto::v1::client_frame::Body as Ask;
use arqonbus::proto::v1::{self};

use super::requests::{answer, ask, produce};
use super::shield::event;
use super::{Case, Group, Stage, case};
use crate::limits::{Session, flooded};
use crate::raw::{Request, frame};
use crate::support::{Node, claims, signed};
use crate::wire::Wire;

/// A node that lets little through, and speaks no JSON.
pub(super) fn narrow() -> Node {
    Node::dev_with(&[
        ("ARQONBUS_JSON_ADAPTER_ENABLED", "false"),
        ("ARQONBUS_LIMITS_SESSION_MESSAGES_PER_SECOND", "5"),
        ("ARQONBUS_LIMITS_TENANT_MESSAGES_PER_SECOND", "7"),
        ("ARQONBUS_LIMITS_SUBSCRIPTIONS_MAX", "2"),
        ("ARQONBUS_LIMITS_TENANT_SESSIONS_MAX", "3"),
        ("ARQONBUS_LIMITS_BATCH_RECORDS_MAX", "16"),
    ])
}

/// A session of a tenant that no other case knows.
fn session(stage: &Stage, tenant: &str) -> Wire {
    Wire::of(&stage.narrow, &claims(tenant, Role::User))
}

fn batch(records: usize) -> Ask {
    produce(vec![event("a", b"x"); records])
}

/// Subscribes, and says how that is answered, whatever is delivered meanwhile.
fn subscribe(session: &mut Wire, number: u64) -> String {
    session.send(Ask::Subscribe(v1::Subscribe {
        subscription: number,
        filter: "a".into(),
        ..v1::Subscribe::default()
    }));
    loop {
        let said = answer(session);
        if !said.contains("Deliver") {
            return said;
        }
    }
}

/// Writes frames until the node has had enough.
fn floods(attack: &'static str, opening: Option<(u8, &'static [u8])>, first: u8) -> Case {
    case(attack, "close 1008", move |stage| {
        let mut session = Session::of(&stage.node, "flood");
        if let Some((first, payload)) = opening {
            let opening = frame(first, payload);
            std::io::Write::write_all(&mut session.0, &opening).expect("sent");
        }
        let frames = frame(first, b"").repeat(1_000);
        format!("close {}", flooded(&mut session, &frames, 100))
    })
}

pub(super) fn group() -> Group {
    Group {
        letter: 'R',
        title: "Rates and counts",
        cases: [rates(), counts()].into_iter().flatten().collect(),
    }
}

fn rates() -> Vec<Case> {
    vec![
        case(
            "a batch over the session's rate",
            "TOO_LARGE envelopes",
            |stage| ask(&mut session(stage, "r1"), batch(6)),
        ),
        case(
            "messages faster than the session's rate",
            "RATE_LIMITED envelopes",
            |stage| {
                let mut session = session(stage, "r2");
                assert_eq!(ask(&mut session, batch(5)), "stored");
                ask(&mut session, batch(5))
            },
        ),
        case(
            "messages faster than the tenant's rate, by two sessions",
            "RATE_LIMITED envelopes",
            |stage| {
                let (mut one, mut other) = (session(stage, "r3"), session(stage, "r3"));
                assert_eq!(ask(&mut one, batch(5)), "stored");
                ask(&mut other, batch(5))
            },
        ),
        case(
            "messages beside a tenant that is over its rate",
            "stored",
            |stage| {
                let mut loud = session(stage, "r4");
                ask(&mut loud, batch(5));
                ask(&mut loud, batch(5));
                ask(&mut session(stage, "r5"), batch(5))
            },
        ),
        floods("100,000 pings", None, 0x89),
        floods("100,000 pongs that nobody asked for", None, 0x8a),
        floods(
            "a message in 100,000 fragments of nothing",
            Some((0x02, b"x")),
            0x00,
        ),
    ]
}

fn counts() -> Vec<Case> {
    vec![
        case(
            "a subscription too many",
            "TOO_LARGE subscription",
            |stage| {
                let mut session = session(stage, "r8");
                for number in 1..=2 {
                    assert_eq!(subscribe(&mut session, number), "subscribed");
                }
                subscribe(&mut session, 3)
            },
        ),
        case(
            "a subscription under a number in use",
            "VALIDATION_ERROR subscription",
            |stage| {
                let mut session = session(stage, "r9");
                assert_eq!(subscribe(&mut session, 1), "subscribed");
                subscribe(&mut session, 1)
            },
        ),
        case(
            "a session too many of a tenant",
            "429 rate_limited",
            |stage| {
                let token = signed(&claims("r10", Role::User), &stage.narrow.dev_secret());
                let request = Request::upgrade().bearer(&token);
                let held: Vec<_> = (0..3).map(|_| request.open(stage.narrow.edge)).collect();
                assert!(held.iter().all(|(answer, _)| answer.status == 101));
                let answer = request.send(stage.narrow.edge);
                let reason = answer.json()["error"]["reason"].clone();
                format!("{} {}", answer.status, reason.as_str().unwrap_or_default())
            },
        ),
        case(
            "a batch of too many records",
            "TOO_LARGE envelopes",
            |stage| ask(&mut session(stage, "r11"), batch(17)),
        ),
    ]
}
