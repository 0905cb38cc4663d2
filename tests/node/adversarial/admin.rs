//! The admin API (EDGE-23).

use arqonbus::proto::claims::Role;

use super::{Case, Group, Stage, case};
use crate::raw::Request;
use crate::support::{claims, signed};

fn post(path: &str, body: &str) -> Request {
    Request::get(path)
        .line(&format!("POST {path} HTTP/1.1"))
        .and("Content-Type", "application/json")
        .and("Content-Length", &body.len().to_string())
        .body(body.as_bytes())
}

fn create() -> Request {
    post("/v1/commands/reality.create", r#"{"name":"stolen"}"#)
}

/// Status, code and field of the answer.
fn answered(stage: &Stage, request: &Request) -> String {
    let answer = request.send(stage.guarded.ops);
    let error = &answer.json()["error"];
    let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    let words = [answer.status.to_string(), text("code"), text("field")];
    words.join(" ").trim_end().to_owned()
}

fn sends(
    attack: &'static str,
    outcome: &'static str,
    request: impl Fn() -> Request + 'static,
) -> Case {
    case(attack, outcome, move |stage| answered(stage, &request()))
}

/// With a token of somebody, by a name that is not this machine's.
fn bears(
    attack: &'static str,
    outcome: &'static str,
    role: Role,
    request: impl Fn() -> Request + 'static,
) -> Case {
    case(attack, outcome, move |stage| {
        let token = signed(&claims("acme", role), &stage.guarded.dev_secret());
        answered(stage, &request().bearer(&token))
    })
}

pub(super) fn group() -> Group {
    Group {
        letter: 'A',
        title: "Admin API",
        cases: [callers(), bodies(), paths()]
            .into_iter()
            .flatten()
            .collect(),
    }
}

fn callers() -> Vec<Case> {
    const NOBODY: &str = "401 UNAUTHENTICATED";
    const FOREIGN: &str = "403 FORBIDDEN Origin";
    vec![
        sends("no token, from elsewhere", NOBODY, || {
            create().with("Host", "node.example")
        }),
        sends("a name that leads here (DNS rebinding)", NOBODY, || {
            create().with("Host", "evil.example:8080")
        }),
        sends("a name that begins as this machine's", NOBODY, || {
            create().with("Host", "127.0.0.1.evil.example")
        }),
        sends("that name with its own Origin", NOBODY, || {
            create()
                .with("Host", "evil.example")
                .and("Origin", "http://evil.example")
        }),
        sends("no Host", "400 INFRA_PROTOCOL_ERROR Host", || {
            create().without("Host")
        }),
        sends("two Hosts", "400 VALIDATION_ERROR host", || {
            create().and("Host", "localhost")
        }),
        sends("a page of another origin", FOREIGN, || {
            create().and("Origin", "http://evil.example")
        }),
        sends("the Origin `null`", FOREIGN, || {
            create().and("Origin", "null")
        }),
        bears(
            "a page of another origin with a token",
            FOREIGN,
            Role::Admin,
            || create().and("Origin", "http://evil.example"),
        ),
        sends(
            "a browser's question before a POST",
            "405 INFRA_PROTOCOL_ERROR method",
            || {
                create()
                    .line("OPTIONS /v1/commands/reality.create HTTP/1.1")
                    .and("Access-Control-Request-Method", "POST")
            },
        ),
        sends("a token that is none", NOBODY, || {
            create().bearer("garbage")
        }),
        sends("two tokens", "400 VALIDATION_ERROR authorization", || {
            create().bearer("a").bearer("b")
        }),
        sends("another scheme", NOBODY, || {
            create().and("Authorization", "Basic YTpi")
        }),
        bears("a user's token", "403 FORBIDDEN", Role::User, create),
        bears(
            "a user's look at /status",
            "403 FORBIDDEN",
            Role::User,
            || Request::get("/status"),
        ),
        bears(
            "an operator that gives an admin's command",
            "403 FORBIDDEN",
            Role::Operator,
            || post("/v1/commands/edge.revoke", "{}"),
        ),
    ]
}

fn bodies() -> Vec<Case> {
    const BODY: &str = "400 VALIDATION_ERROR body";
    const TYPE: &str = "400 VALIDATION_ERROR Content-Type";
    let given = |attack, outcome, body: &'static str| {
        sends(attack, outcome, move || {
            post("/v1/commands/reality.create", body)
        })
    };
    vec![
        sends("a form", TYPE, || {
            create().with("Content-Type", "application/x-www-form-urlencoded")
        }),
        sends("plain text", TYPE, || {
            create().with("Content-Type", "text/plain")
        }),
        sends("no Content-Type", TYPE, || create().without("Content-Type")),
        sends("a body of 1 GB, announced", "413 TOO_LARGE body", || {
            create().with("Content-Length", "1000000000").body(b"")
        }),
        given("half an object", BODY, "{"),
        given("a list", BODY, "[]"),
        given("a name given twice", BODY, r#"{"name":"x","name":"y"}"#),
        sends("100,000 lists in each other", BODY, || {
            let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
            let body = format!("{{\"name\":{open}{close}}}");
            post("/v1/commands/reality.create", &body)
        }),
        given(
            "an unknown argument",
            "400 VALIDATION_ERROR arguments.tenant",
            r#"{"name":"x","tenant":"rival"}"#,
        ),
        given(
            "an argument of another type",
            "400 VALIDATION_ERROR arguments.name",
            r#"{"name":{"$ne":1}}"#,
        ),
        given("no argument", "400 VALIDATION_ERROR arguments.name", "{}"),
    ]
}

fn paths() -> Vec<Case> {
    let path =
        |attack, outcome, path: &'static str| sends(attack, outcome, move || Request::get(path));
    vec![
        sends("an unknown command", "404 UNKNOWN_COMMAND name", || {
            post("/v1/commands/drop.table", "{}")
        }),
        sends("a command with a path in it", "404 NOT_FOUND path", || {
            post("/v1/commands/../../etc/passwd", "{}")
        }),
        sends(
            "a command with an encoded path in it",
            "404 UNKNOWN_COMMAND name",
            || post("/v1/commands/..%2f..%2fetc%2fpasswd", "{}"),
        ),
        path(
            "a command by GET",
            "405 INFRA_PROTOCOL_ERROR method",
            "/v1/commands/reality.create",
        ),
        path(
            "a path with dots",
            "404 NOT_FOUND path",
            "/../../etc/passwd",
        ),
        path(
            "an encoded path",
            "404 NOT_FOUND path",
            "/%2e%2e/%2e%2e/etc/passwd",
        ),
        path(
            "a path of two slashes",
            "404 NOT_FOUND path",
            "//v1/realities",
        ),
        path(
            "an unknown parameter",
            "400 VALIDATION_ERROR arguments.tenant",
            "/v1/realities?tenant=rival",
        ),
        path(
            "a reality that climbs directories",
            "400 VALIDATION_ERROR arguments.reality",
            "/v1/topics?reality=..%2Frival%2Fmain",
        ),
    ]
}
