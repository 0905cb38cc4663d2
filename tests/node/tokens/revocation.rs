//! EDGE-05: who is revoked is out within a second, and stays out.

use std::time::{Duration, Instant};

use arqonbus::proto::claims::{Claims, Role};
use arqonbus::proto::v1::client_frame::Body as Ask;
use arqonbus::proto::v1::server_frame::Body;
use arqonbus::proto::v1::{CommandRequest, Value, envelope, system_signal};
use serde_json::Value as Json;

use super::session::{Session, status};
use crate::raw::Request;
use crate::support::{Node, claims, now_s, signed};

/// A token issued some seconds from now, or before.
fn token(
    node: &Node,
    subject: &str,
    id: &str,
    issued: i64,
    change: impl FnOnce(&mut Claims),
) -> String {
    let mut claims = claims("dev", Role::User);
    claims.sub = subject.into();
    claims.jti = Some(id.into());
    claims.iat = Some(now_s().saturating_add_signed(issued));
    change(&mut claims);
    signed(&claims, node.dev_secret().trim_ascii_end())
}

fn said(node: &Node, arguments: &[&str]) -> Json {
    let text = node.ok(&[arguments, &["--output", "json"]].concat());
    serde_json::from_str(text.trim()).unwrap_or(Json::Null)
}

/// How long the session took to end from `since` on.
fn ended_within_a_second(session: &mut Session, since: Instant) {
    assert_eq!(session.closed(), (1008, "auth.revoked".into()));
    assert!(
        since.elapsed() < Duration::from_secs(1),
        "{:?}",
        since.elapsed()
    );
}

fn signal_of(session: &mut Session) -> (system_signal::Type, String) {
    match session.next_envelope().payload {
        Some(envelope::Payload::Signal(signal)) => (signal.r#type(), signal.reason),
        other => panic!("no signal but {other:?}"),
    }
}

fn command(name: &str, arguments: &[(&str, Value)]) -> Ask {
    let arguments = arguments.iter().cloned();
    Ask::Command(CommandRequest {
        name: name.into(),
        arguments: arguments
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    })
}

fn admin(node: &Node) -> Session {
    Session::open(node, &node.dev_token())
}

fn revoke(admin: &mut Session, arguments: &[(&str, Value)]) -> Instant {
    let since = Instant::now();
    let answer = admin.ask(command("edge.revoke", arguments));
    assert!(matches!(answer, Body::CommandResult(_)), "{answer:?}");
    since
}

#[test]
fn each_kind_of_revocation_ends_whom_it_means_and_nobody_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::dev_on(dir.path());
    let plain = |subject: &str, id: &str| token(&node, subject, id, -5, |_| {});
    let (first, second) = (plain("alice", "t-1"), plain("alice", "t-2"));
    let (bob, carol) = (plain("bob", "t-3"), plain("carol", "t-4"));
    let elsewhere = token(&node, "alice", "t-1", -5, |claims| {
        claims.tenant = "other".into()
    });
    let mut sessions =
        [&first, &second, &bob, &carol, &elsewhere].map(|token| Session::open(&node, token));
    let [one, two, of_bob, of_carol, other] = &mut sessions;
    let mut admin = admin(&node);

    let since = revoke(
        &mut admin,
        &[("token", "t-1".into()), ("reason", "lost".into())],
    );
    ended_within_a_second(one, since);
    assert!(two.lives() && of_bob.lives() && of_carol.lives() && other.lives());
    assert_eq!((status(&node, &first), status(&node, &second)), (401, 101));

    let since = revoke(&mut admin, &[("subject", "alice".into())]);
    ended_within_a_second(two, since);
    assert!(of_bob.lives() && of_carol.lives() && other.lives());
    assert_eq!((status(&node, &second), status(&node, &bob)), (401, 101));
    // One that is issued from now on is good; one that does not say when it was issued is not.
    assert_eq!(status(&node, &token(&node, "alice", "t-5", 2, |_| {})), 101);
    assert_eq!(
        status(
            &node,
            &token(&node, "alice", "t-5", 0, |claims| claims.iat = None)
        ),
        401
    );

    let since = revoke(
        &mut admin,
        &[("subject", "bob".into()), ("ban", true.into())],
    );
    ended_within_a_second(of_bob, since);
    assert!(of_carol.lives() && other.lives());
    assert_eq!(status(&node, &token(&node, "bob", "t-6", 25, |_| {})), 401);

    // All of the tenant, the admin's own included, who is answered first.
    let since = revoke(&mut admin, &[("all", true.into())]);
    ended_within_a_second(of_carol, since);
    assert_eq!(admin.closed(), (1008, "auth.revoked".into()));
    assert!(other.lives(), "another tenant does not notice");

    // All of it is in the log, and holds after a start from there.
    drop(sessions);
    node.signal("KILL");
    drop(node.ended());
    let node = Node::dev_on(dir.path());
    for (name, token) in [
        ("alice", &first),
        ("alice", &second),
        ("bob", &bob),
        ("carol", &carol),
    ] {
        let answer = Request::upgrade().bearer(token).send(node.edge);
        assert_eq!(answer.status, 401, "{name}");
        assert_eq!(answer.json()["error"]["reason"], "auth_invalid", "{name}");
    }
    assert_eq!(status(&node, &elsewhere), 101);
    assert_eq!(
        status(&node, &token(&node, "carol", "t-7", 20, |_| {})),
        101
    );
    assert_eq!(status(&node, &token(&node, "bob", "t-7", 20, |_| {})), 401);
}

#[test]
fn revocations_are_listed_and_lifted() {
    let node = Node::dev();
    let bob = token(&node, "bob", "t-1", -5, |_| {});
    said(
        &node,
        &[
            "token", "revoke", "--sub", "bob", "--ban", "--reason", "flooding",
        ],
    );
    said(&node, &["token", "revoke", "--id", "t-9"]);
    assert_eq!(status(&node, &bob), 401);
    let listed = node.ok(&["token", "revocations", "--output", "json"]);
    let rows: Vec<Json> = listed
        .lines()
        .map(|line| serde_json::from_str(line).expect("a row"))
        .collect();
    assert_eq!(rows.len(), 2, "{listed}");
    let ban = rows
        .iter()
        .find(|row| row["kind"] == "subject")
        .expect("the ban");
    assert_eq!(
        (&ban["name"], &ban["banned"], &ban["reason"], &ban["by"]),
        (
            &"bob".into(),
            &true.into(),
            &"flooding".into(),
            &"admin".into()
        )
    );
    assert!(
        rows.iter()
            .any(|row| row["kind"] == "token" && row["name"] == "t-9"),
        "{listed}"
    );
    let lifted = said(&node, &["token", "restore", "--sub", "bob"]);
    assert_eq!(lifted["kind"], "subject", "{lifted}");
    assert_eq!(status(&node, &bob), 101);
    let again = node.run(&["token", "restore", "--sub", "bob"]);
    assert!(again.stderr.contains("NOT_FOUND"), "{}", again.stderr);
}

#[test]
fn an_admin_can_revoke_everything_and_is_answered() {
    let node = Node::dev();
    let before = node.dev_token();
    let revoked = said(&node, &["token", "revoke", "--all"]);
    assert_eq!(revoked["kind"], "tenant", "{revoked}");
    assert_eq!(status(&node, &before), 401);
    let new = token(&node, "admin", "t-1", 5, |claims| claims.role = Role::Admin);
    let mut session = Session::open(&node, &new);
    let lifted = session.ask(command("edge.restore", &[("all", true.into())]));
    assert!(matches!(lifted, Body::CommandResult(_)), "{lifted:?}");
    assert_eq!(status(&node, &before), 101);
}

#[test]
fn older_clients_are_told_by_a_signal() {
    let node = Node::dev();
    let open =
        |subject: &str| Session::of_envelopes(&node, &token(&node, subject, "t", -5, |_| {}));
    let (mut alice, mut bob, mut carol) = (open("alice"), open("bob"), open("carol"));
    said(&node, &["token", "revoke", "--sub", "alice"]);
    said(&node, &["token", "revoke", "--sub", "bob", "--ban"]);
    said(&node, &["token", "disconnect", "--sub", "carol"]);
    use system_signal::Type::{Ban, Disconnect};
    assert_eq!(signal_of(&mut alice), (Disconnect, "auth.revoked".into()));
    assert_eq!(alice.closed(), (1008, "auth.revoked".into()));
    assert_eq!(signal_of(&mut bob), (Ban, "auth.revoked".into()));
    assert_eq!(bob.closed(), (1008, "auth.revoked".into()));
    assert_eq!(signal_of(&mut carol), (Disconnect, "disconnected".into()));
    assert_eq!(carol.closed(), (1008, "disconnected".into()));
}

#[test]
fn a_disconnected_bearer_may_come_back() {
    let node = Node::dev();
    let alice = token(&node, "alice", "t-1", -5, |_| {});
    let mut sessions: Vec<Session> = (0..3).map(|_| Session::open(&node, &alice)).collect();
    let ended = said(
        &node,
        &[
            "token",
            "disconnect",
            "--sub",
            "alice",
            "--reason",
            "upgrade",
        ],
    );
    assert_eq!(ended["sessions"], 3, "{ended}");
    for session in &mut sessions {
        assert_eq!(session.closed(), (1008, "disconnected".into()));
    }
    assert_eq!(status(&node, &alice), 101);
    let audit = node.ok(&[
        "consume",
        "sys.audit.edge",
        "--reality",
        "_system",
        "--stop-at-end",
        "--output",
        "json",
    ]);
    assert!(
        audit.contains("upgrade") && audit.contains("disconnected"),
        "{audit}"
    );
}

#[test]
fn only_admins_revoke_and_say_clearly_whom() {
    let node = Node::dev();
    for role in [Role::User, Role::Operator, Role::Controller] {
        let mut session =
            Session::open(&node, &token(&node, "eve", "t", -5, |one| one.role = role));
        for name in ["edge.revoke", "edge.restore", "edge.disconnect"] {
            let answer = session.ask(command(name, &[("subject", "alice".into())]));
            assert!(
                matches!(&answer, Body::Error(one) if one.code == "FORBIDDEN"),
                "{answer:?}"
            );
        }
        let answer = session.ask(command("edge.revocations", &[]));
        assert!(
            matches!(&answer, Body::Error(one) if one.code == "FORBIDDEN"),
            "{answer:?}"
        );
    }
    let mut admin = admin(&node);
    let text = |text: &str| Value::from(text.to_owned());
    let wrong: [&[(&str, Value)]; 9] = [
        &[],
        &[("all", false.into())],
        &[("subject", text("a")), ("token", text("b"))],
        &[("subject", text("a")), ("all", true.into())],
        &[("subject", text(""))],
        &[("subject", Value::from("x".repeat(256)))],
        &[("all", true.into()), ("ban", true.into())],
        &[("token", text("t")), ("ban", true.into())],
        &[("subject", text("admin")), ("ban", true.into())],
    ];
    for arguments in wrong {
        let answer = admin.ask(command("edge.revoke", arguments));
        assert!(
            matches!(&answer, Body::Error(one) if one.code == "VALIDATION_ERROR"),
            "{answer:?}"
        );
    }
    assert!(admin.lives());
}

// EDGE-23
#[test]
fn a_revoked_admin_does_not_see_the_status() {
    let dir = tempfile::tempdir().expect("a directory");
    let secret = b"0123456789abcdef0123456789abcdef0123";
    crate::support::write(&dir.path().join("secret"), secret);
    let settings = "[node]\ndata_dir = 'data'\n[auth]\nkeys = [{ id = 'k', algorithm = 'HS256', file = 'secret' }]\n";
    let node = Node::production(dir, settings);
    let mut claims = claims("acme", Role::Admin);
    claims.iat = Some(now_s() - 5);
    let token = signed(&claims, secret);
    let status_of = |token: &str| Request::get("/status").bearer(token).send(node.ops).status;
    assert_eq!(status_of(&token), 200);
    revoke(&mut Session::open(&node, &token), &[("all", true.into())]);
    assert_eq!(status_of(&token), 401);
    claims.iat = Some(now_s() + 5);
    assert_eq!(status_of(&signed(&claims, secret)), 200);
}

// A new token for a live session is held against the revocations too.
#[test]
fn a_session_cannot_go_on_with_a_revoked_token() {
    let node = Node::dev();
    let mut session = Session::open(&node, &token(&node, "alice", "t-1", -5, |_| {}));
    revoke(&mut admin(&node), &[("token", "t-2".into())]);
    let revoked = token(&node, "alice", "t-2", -5, |_| {});
    let refresh = Ask::Refresh(arqonbus::proto::v1::Refresh { token: revoked });
    assert!(matches!(session.ask(refresh), Body::Error(_)));
    // And once it has taken a good one, it is that which counts.
    let token = token(&node, "alice", "t-3", -5, |_| {});
    let refresh = Ask::Refresh(arqonbus::proto::v1::Refresh { token });
    assert!(matches!(session.ask(refresh), Body::Refreshed(_)));
    let mut admin = admin(&node);
    revoke(&mut admin, &[("token", "t-1".into())]);
    assert!(session.lives());
    let since = revoke(&mut admin, &[("token", "t-3".into())]);
    ended_within_a_second(&mut session, since);
}
