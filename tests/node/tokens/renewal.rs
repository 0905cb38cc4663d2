//! EDGE-04: how a session's token ends, and how it is replaced before.

use std::time::{Duration, Instant, SystemTime};

use arqonbus::client::{Client, ConnectOptions, Reconnect};
use arqonbus::proto::claims::{Claims, Role};
use arqonbus::proto::v1::client_frame::Body as Ask;
use arqonbus::proto::v1::server_frame::Body;
use arqonbus::proto::v1::{Envelope, Event, Produce, Refresh, Subscribe, envelope, system_signal};
use prost::Message as _;

use super::session::{Session, status};
use crate::support::{Node, claims, now_s, signed};

fn token_of(node: &Node, change: impl FnOnce(&mut Claims)) -> String {
    let mut claims = claims("dev", Role::User);
    change(&mut claims);
    signed(&claims, node.dev_secret().trim_ascii_end())
}

fn refresh(token: &str) -> Ask {
    let token = token.to_owned();
    Ask::Refresh(Refresh { token })
}

/// By which the wall clock is beyond the second `s`.
fn late(s: u64) -> Duration {
    #[expect(
        clippy::disallowed_methods,
        reason = "the node is asked about the wall clock"
    )]
    let now = SystemTime::now();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(s);
    now.duration_since(at).expect("not early")
}

#[test]
fn a_session_is_warned_and_ends_with_its_token() {
    let node = Node::dev_with(&[("ARQONBUS_AUTH_EXPIRING_LEAD_S", "2")]);
    let exp = now_s() + 4;
    let token = token_of(&node, |claims| claims.exp = exp);
    let mut session = Session::open(&node, &token);
    let mut older = Session::of_envelopes(&node, &token);
    let started = Instant::now();
    let Body::Expiring(expiring) = session.next() else {
        panic!("not warned");
    };
    assert_eq!(
        expiring.token_expires_at,
        i64::try_from(exp * 1000).expect("a time")
    );
    let early = late(exp - 2);
    assert!(early < Duration::from_secs(1), "{early:?}");
    assert!(
        started.elapsed() > Duration::from_millis(500),
        "a warning at once is none"
    );
    assert_eq!(session.closed(), (1008, "auth.expired".into()));
    assert!(late(exp) < Duration::from_secs(1), "{:?}", late(exp));
    // Older clients are told in their way.
    let Some(envelope::Payload::Signal(signal)) = older.next_envelope().payload else {
        panic!("no signal");
    };
    assert_eq!(
        (signal.r#type(), signal.reason.as_str()),
        (system_signal::Type::Disconnect, "auth.expired")
    );
    assert_eq!(older.closed(), (1008, "auth.expired".into()));
}

#[test]
fn a_token_shorter_than_the_warning_is_warned_of_at_once() {
    let node = Node::dev();
    let token = token_of(&node, |claims| claims.exp = now_s() + 30);
    let mut session = Session::open(&node, &token);
    assert!(matches!(session.next(), Body::Expiring(_)));
    assert!(session.lives(), "and once");
}

#[test]
fn a_session_goes_on_with_a_new_token() {
    let node = Node::dev_with(&[("ARQONBUS_AUTH_EXPIRING_LEAD_S", "1")]);
    let exp = now_s() + 3;
    let mut session = Session::open(&node, &token_of(&node, |claims| claims.exp = exp));
    assert!(matches!(session.next(), Body::Expiring(_)));
    let later = exp + 3;
    let new = token_of(&node, |claims| claims.exp = later);
    let Body::Refreshed(refreshed) = session.ask(refresh(&new)) else {
        panic!("not refreshed");
    };
    let later_ms = i64::try_from(later * 1000).expect("a time");
    assert_eq!(refreshed.token_expires_at, later_ms);
    // It is warned of the new one, past the end of the old one.
    assert!(matches!(session.next(), Body::Expiring(one) if one.token_expires_at == later_ms));
    assert!(late(exp) > Duration::from_secs(1));
    assert_eq!(session.closed(), (1008, "auth.expired".into()));
    assert!(late(later) < Duration::from_secs(1));
}

#[test]
fn a_new_token_that_ends_sooner_ends_the_session_sooner() {
    let node = Node::dev_with(&[("ARQONBUS_AUTH_EXPIRING_LEAD_S", "1")]);
    let mut session = Session::open(&node, &token_of(&node, |_| {}));
    let exp = now_s() + 3;
    let short = token_of(&node, |claims| claims.exp = exp);
    assert!(matches!(session.ask(refresh(&short)), Body::Refreshed(_)));
    assert!(matches!(session.next(), Body::Expiring(_)));
    assert_eq!(session.closed(), (1008, "auth.expired".into()));
    assert!(late(exp) < Duration::from_secs(1), "{:?}", late(exp));
}

#[test]
fn a_token_that_is_not_good_leaves_the_session_as_it_was() {
    let node = Node::dev();
    let mut session = Session::open(&node, &token_of(&node, |_| {}));
    let forged = signed(
        &claims("dev", Role::Admin),
        b"another secret of at least 32 bytes",
    );
    let cases = [
        ("garbage", "garbage".to_owned()),
        ("empty", String::new()),
        ("forged", forged),
        (
            "expired",
            token_of(&node, |claims| claims.exp = now_s() - 60),
        ),
        (
            "of another tenant",
            token_of(&node, |claims| claims.tenant = "other".into()),
        ),
        (
            "of another subject",
            token_of(&node, |claims| claims.sub = "bob".into()),
        ),
        (
            "of no tenant",
            token_of(&node, |claims| claims.tenant = "No Tenant".into()),
        ),
        (
            "with a pattern that is none",
            token_of(&node, |claims| claims.publish = Some(vec!["a..b".into()])),
        ),
    ];
    for (name, token) in cases {
        let Body::Error(error) = session.ask(refresh(&token)) else {
            panic!("{name}: accepted");
        };
        assert_eq!(
            (error.code.as_str(), error.field.as_str()),
            ("UNAUTHENTICATED", "token"),
            "{name}"
        );
        assert!(
            token.is_empty() || !error.message.contains(&token),
            "{name}"
        );
        assert!(session.lives(), "{name}");
    }
    // What it could do before it can do still.
    assert!(matches!(session.ask(produce("a.b")), Body::Produced(_)));
}

fn produce(topic: &str) -> Ask {
    let envelope = Envelope {
        topic: topic.into(),
        payload: Some(envelope::Payload::Event(Event::default())),
        ..Envelope::default()
    };
    Ask::Produce(Produce {
        envelopes: vec![envelope.encode_to_vec().into()],
        ..Produce::default()
    })
}

fn subscribe(subscription: u64, filter: &str) -> Ask {
    Ask::Subscribe(Subscribe {
        subscription,
        filter: filter.into(),
        ..Subscribe::default()
    })
}

// EDGE-07
#[test]
fn what_a_new_token_allows_holds_at_once() {
    let node = Node::dev();
    let list = |patterns: &[&str]| Some(patterns.iter().map(|&one| one.to_owned()).collect());
    let mut session = Session::open(&node, &token_of(&node, |_| {}));
    for (id, filter) in [(1, "a.>"), (2, "b.>"), (3, ">")] {
        assert!(matches!(
            session.ask(subscribe(id, filter)),
            Body::Subscribed(_)
        ));
    }
    let narrow = token_of(&node, |claims| {
        claims.subscribe = list(&["a.>"]);
        claims.publish = list(&["a.>", "!a.secret"]);
    });
    assert!(matches!(session.ask(refresh(&narrow)), Body::Refreshed(_)));
    for ended in [2, 3] {
        let mut next = session.next();
        while let Body::Deliver(_) = next {
            next = session.next();
        }
        let Body::Error(error) = next else {
            panic!("subscription {ended} goes on: {next:?}");
        };
        assert_eq!(
            (error.code.as_str(), error.subscription),
            ("FORBIDDEN", ended)
        );
    }
    for forbidden in ["b.c", "a.secret"] {
        let answer = session.ask(produce(forbidden));
        assert!(
            matches!(&answer, Body::Error(error) if error.code == "FORBIDDEN"),
            "{answer:?}"
        );
    }
    assert!(matches!(session.ask(subscribe(4, "b.>")), Body::Error(_)));
    // The one that is allowed still delivers, and only it.
    session.delivered.clear();
    assert!(matches!(session.ask(produce("a.b")), Body::Produced(_)));
    let subscription = loop {
        assert!(session.lives());
        if let Some(deliver) = session.delivered.pop() {
            break deliver.subscription;
        }
    };
    assert_eq!(subscription, 1);
    // And a wider one opens again what it allows.
    let wide = token_of(&node, |_| {});
    assert!(matches!(session.ask(refresh(&wide)), Body::Refreshed(_)));
    assert!(matches!(
        session.ask(subscribe(2, "b.>")),
        Body::Subscribed(_)
    ));
}

// EDGE-07
#[test]
fn patterns_of_a_token_may_name_its_bearer_and_deny() {
    let node = Node::dev();
    let token = token_of(&node, |claims| {
        claims.publish = Some(vec!["users.{sub}.>".into(), "!users.{sub}.locked".into()]);
    });
    let mut session = Session::open(&node, &token);
    assert!(matches!(
        session.ask(produce("users.alice.mail")),
        Body::Produced(_)
    ));
    for forbidden in ["users.bob.mail", "users.alice.locked"] {
        assert!(
            matches!(session.ask(produce(forbidden)), Body::Error(_)),
            "{forbidden}"
        );
    }
    let refused = |change: fn(&mut Claims)| status(&node, &token_of(&node, change));
    assert_eq!(
        refused(|claims| claims.publish = Some(vec!["{role}".into()])),
        403
    );
    assert_eq!(
        refused(|claims| {
            claims.sub = "a.>".into();
            claims.publish = Some(vec!["users.{sub}".into()]);
        }),
        403
    );
    assert_eq!(
        refused(|claims| claims.publish = Some(vec!["a".into(); 65])),
        401
    );
    // The command line makes them too.
    let secret = node.data.join("dev-secret");
    let secret = secret.to_str().expect("text");
    let mint = [
        "token",
        "mint",
        "--secret-file",
        secret,
        "--tenant",
        "dev",
        "--sub",
        "carol",
    ];
    let patterns = ["--pub", "users.{sub}.>", "--pub", "!users.*.locked"];
    let minted = node.ok(&[&mint[..], &patterns].concat());
    let mut session = Session::open(&node, minted.trim());
    assert!(matches!(
        session.ask(produce("users.carol.mail")),
        Body::Produced(_)
    ));
    assert!(matches!(
        session.ask(produce("users.carol.locked")),
        Body::Error(_)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_is_told_and_refreshes() {
    let node = Node::dev_with(&[("ARQONBUS_AUTH_EXPIRING_LEAD_S", "60")]);
    let exp = now_s() + 3;
    let options = ConnectOptions {
        reconnect: Reconnect::Never,
        ..ConnectOptions::new(node.url(), token_of(&node, |claims| claims.exp = exp))
    };
    let client = Client::connect(options).await.expect("a session");
    let mut expiring = client.expiring();
    let told = *expiring.wait_for(Option::is_some).await.expect("a warning");
    assert_eq!(told, Some(exp * 1000));
    assert!(client.refresh("garbage").await.is_err());
    let later = now_s() + 600;
    let new = token_of(&node, |claims| claims.exp = later);
    assert_eq!(
        client.refresh(new).await.expect("a new token"),
        later * 1000
    );
    assert_eq!(*expiring.borrow_and_update(), None);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(client.ping().await.is_ok(), "it lives past its first token");
}
