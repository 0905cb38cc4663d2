//! Identities that have been revoked, and what is another tenant's (EDGE-05, EDGE-06).

use arqonbus::proto::claims::{Claims, Role};
use arqonbus::proto::v1::client_frame::Body as Ask;
use arqonbus::proto::v1::{self, value};

use super::requests::{answer, ask, command, produce};
use super::shield::{admin, event, text};
use super::{Case, Group, Stage, case};
use crate::raw::Request;
use crate::support::{claims, signed};
use crate::wire::Wire;

/// JSON that is nested deeper than anybody reads.
static DEEP: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// Somebody of the tenant `acme`, with one token.
fn somebody(name: &str) -> Claims {
    Claims {
        sub: name.into(),
        jti: Some(format!("token-of-{name}")),
        ..claims("acme", Role::User)
    }
}

fn rival() -> Claims {
    claims("rival", Role::Admin)
}

fn by_admin(stage: &Stage, name: &str, arguments: &[(&str, value::Kind)]) {
    let mut session = Wire::of(&stage.guarded, &admin());
    assert_eq!(ask(&mut session, command(name, arguments)), "done");
}

fn revoke_token(stage: &Stage, who: &Claims) {
    let id = who.jti.as_deref().expect("an id");
    by_admin(stage, "edge.revoke", &[("token", text(id))]);
}

/// How the guarded node answers a handshake with a token.
fn handshake(stage: &Stage, who: &Claims) -> String {
    let token = signed(who, &stage.guarded.dev_secret());
    let answer = Request::upgrade().bearer(&token).send(stage.guarded.edge);
    let reason = answer.json()["error"]["reason"].clone();
    format!("{} {}", answer.status, reason.as_str().unwrap_or_default())
}

/// How a session is told to go: the close after whatever else it is told.
fn parting(session: &mut Wire) -> String {
    loop {
        if let Err(end) = session.next() {
            return end;
        }
    }
}

/// An admin of another tenant asks.
fn asks(attack: &'static str, outcome: &'static str, body: impl Fn() -> Ask + 'static) -> Case {
    case(attack, outcome, move |stage| {
        ask(&mut Wire::of(&stage.guarded, &rival()), body())
    })
}

pub(super) fn group() -> Group {
    let cases = [revoked(), foreign()];
    Group {
        letter: 'N',
        title: "Identities and tenants",
        cases: cases.into_iter().flatten().collect(),
    }
}

fn revoked() -> Vec<Case> {
    vec![
        case("a revoked token", "401 auth_invalid", |stage| {
            let who = somebody("n1");
            revoke_token(stage, &who);
            handshake(stage, &who)
        }),
        case(
            "a session whose token is revoked",
            "close 1008 auth.revoked",
            |stage| {
                let who = somebody("n2");
                let mut session = Wire::of(&stage.guarded, &who);
                revoke_token(stage, &who);
                parting(&mut session)
            },
        ),
        case(
            "a new token of somebody who is banned",
            "401 auth_invalid",
            |stage| {
                let ban = [("subject", text("n3")), ("ban", value::Kind::Boolean(true))];
                by_admin(stage, "edge.revoke", &ban);
                let new = Claims {
                    iat: Some(somebody("n3").exp - 3_590),
                    ..somebody("n3")
                };
                handshake(stage, &new)
            },
        ),
        case(
            "a revoked token as the new one of a session",
            "UNAUTHENTICATED token",
            |stage| {
                let (old, new) = (somebody("n4"), somebody("n4"));
                let new = Claims {
                    jti: Some("another".into()),
                    ..new
                };
                let mut session = Wire::of(&stage.guarded, &old);
                revoke_token(stage, &new);
                let token = signed(&new, &stage.guarded.dev_secret());
                ask(&mut session, Ask::Refresh(v1::Refresh { token }))
            },
        ),
        case("a revoked token on the admin API", "401", |stage| {
            let who = somebody("n5");
            revoke_token(stage, &who);
            let token = signed(&who, &stage.guarded.dev_secret());
            let request = Request::get("/v1/realities").bearer(&token);
            request.send(stage.guarded.ops).status.to_string()
        }),
        case(
            "an admin that bans itself",
            "VALIDATION_ERROR arguments.ban",
            |stage| {
                let ban = [
                    ("subject", text(&admin().sub)),
                    ("ban", value::Kind::Boolean(true)),
                ];
                let mut session = Wire::of(&stage.guarded, &admin());
                ask(&mut session, command("edge.revoke", &ban))
            },
        ),
        case(
            "a revocation of everybody, by another tenant",
            "served",
            |stage| {
                let mut session = Wire::of(&stage.guarded, &somebody("n7"));
                let other = claims("raider", Role::Admin);
                let all = [("all", value::Kind::Boolean(true))];
                let mut raider = Wire::of(&stage.guarded, &other);
                let done = ask(&mut raider, command("edge.revoke", &all));
                assert_eq!(done, "done");
                session.send(Ask::Ping(v1::Ping::default()));
                match answer(&mut session) {
                    pong if pong.contains("Pong") => "served".into(),
                    other => other,
                }
            },
        ),
    ]
}

fn foreign() -> Vec<Case> {
    let named = |attack, outcome, name: &'static str, argument: &'static str, of: &'static str| {
        asks(attack, outcome, move || {
            command(name, &[(argument, text(of))])
        })
    };
    vec![
        named(
            "another tenant's policy, shown",
            "NOT_FOUND name",
            "edge.policy.show",
            "name",
            "no-malware",
        ),
        named(
            "another tenant's policy, disabled",
            "NOT_FOUND name",
            "edge.policy.disable",
            "name",
            "no-malware",
        ),
        named(
            "another tenant's policy by a path",
            "VALIDATION_ERROR name",
            "edge.policy.show",
            "name",
            "../acme/no-malware",
        ),
        named(
            "another tenant's schema, shown",
            "NOT_FOUND subject",
            "edge.schema.show",
            "subject",
            "orders",
        ),
        named(
            "another tenant's binding, taken away",
            "NOT_FOUND pattern",
            "edge.schema.unbind",
            "pattern",
            "orders.>",
        ),
        named(
            "another tenant's demand for signatures, taken back",
            "NOT_FOUND arguments.topics",
            "edge.signature.unrequire",
            "topics",
            "signed.>",
        ),
        named(
            "another tenant's revocation, lifted",
            "NOT_FOUND arguments",
            "edge.restore",
            "subject",
            "n3",
        ),
        named(
            "another tenant's episodes, listed",
            "TENANT_MISMATCH arguments.tenant_id",
            "op.continuum.projector.list",
            "tenant_id",
            "acme",
        ),
        named(
            "an episode event in another tenant's name, by a command",
            "TENANT_MISMATCH arguments.event.tenant_id",
            "op.continuum.projector.project_event",
            "event",
            r#"{"tenant_id": "acme"}"#,
        ),
        named(
            "an event nested without end, by a command",
            "VALIDATION_ERROR arguments.event",
            "op.continuum.projector.project_event",
            "event",
            DEEP.get_or_init(|| format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000))),
        ),
        asks(
            "an envelope in another tenant's name",
            "TENANT_MISMATCH envelopes[0].tenant_id",
            || {
                produce(vec![v1::Envelope {
                    tenant_id: "acme".into(),
                    ..event("a", b"x")
                }])
            },
        ),
        case(
            "another tenant's rules, after all that",
            "POLICY_BLOCKED envelopes[0].payload",
            |stage| {
                let mut session = Wire::of(&stage.guarded, &somebody("n20"));
                ask(&mut session, produce(vec![event("upload.a", b"malware")]))
            },
        ),
    ]
}
