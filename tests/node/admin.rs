//! The admin API, and its description for programs, over real sockets.

use std::collections::BTreeSet;

use arqonbus::edge::ops::routes::{self, Access, COMMAND, ROUTES};
use arqonbus::edge::shield::command;
use arqonbus::proto::claims::Role;
use serde_json::{Value, json};

use crate::raw::{Answer, Request};
use crate::shell::arqon;
use crate::support::{Node, claims, signed, write};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef0123456789abcdef";

/// A POST with a body of JSON.
fn post(path: &str, body: &str) -> Request {
    Request::get(path)
        .line(&format!("POST {path} HTTP/1.1"))
        .and("Content-Type", "application/json")
        .and("Content-Length", &body.len().to_string())
        .body(body.as_bytes())
}

pub(crate) fn command(name: &str, body: &str) -> Request {
    post(&format!("/v1/commands/{name}"), body)
}

pub(crate) fn production() -> Node {
    let dir = tempfile::tempdir().expect("a temporary directory");
    write(&dir.path().join("secret"), SECRET);
    let settings = "[node]\ndata_dir = 'data'\n[auth]\nkeys = [{ id = 'a', algorithm = 'HS256', file = 'secret' }]\n";
    Node::production(dir, settings)
}

fn error(answer: &Answer) -> (u16, String, String) {
    let error = &answer.json()["error"];
    let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    (answer.status, text("code"), text("field"))
}

fn said(status: u16, code: &str, field: &str) -> (u16, String, String) {
    (status, code.to_owned(), field.to_owned())
}

// BRK-11, EDGE-23
#[test]
fn commands_are_carried_out_over_http_with_typed_arguments() {
    let node = Node::dev();
    let made = command("reality.create", r#"{"name":"what-if"}"#).send(node.ops);
    assert_eq!(
        (made.status, made.json()),
        (200, json!({ "result": { "reality": "what-if" } })),
    );
    let rule = r#"{"name":"r","topics":"a.>","percent":50,"target_reality":"what-if"}"#;
    assert_eq!(command("edge.mirror.set", rule).send(node.ops).status, 200);
    let mirrors = Request::get("/v1/mirrors").send(node.ops).json();
    assert_eq!(mirrors["result"][0]["percent"], 50, "{mirrors}");
    // By whom is in the event, so that it can be asked later.
    assert_eq!(mirrors["result"][0]["by"], "local");

    // The views say what the commands say, and what a session is told.
    let realities = Request::get("/v1/realities").send(node.ops).json();
    assert_eq!(
        realities,
        command("reality.list", "{}").send(node.ops).json()
    );
    assert_eq!(realities, command("reality.list", "").send(node.ops).json());
    let names: Vec<&Value> = realities["result"].as_array().map_or(vec![], |all| {
        all.iter().map(|one| &one["reality"]).collect()
    });
    assert_eq!(names, ["main", "what-if"]);
    let topics = Request::get("/v1/topics?reality=what-if").send(node.ops);
    assert_eq!(
        (topics.status, topics.json()),
        (200, json!({ "result": [] }))
    );
    let nowhere = Request::get("/v1/topics?reality=no-such").send(node.ops);
    assert_eq!(error(&nowhere), said(404, "NOT_FOUND", "reality"));

    let bad = |name: &str, body: &str| error(&command(name, body).send(node.ops));
    for (body, field) in [
        ("{}", "arguments.name"),
        (r#"{"name":1}"#, "arguments.name"),
        (r#"{"name":null}"#, "arguments.name"),
        (r#"{"name":["x"]}"#, "arguments.name"),
        (r#"{"name":"x","nme":"x"}"#, "arguments.nme"),
        (r#"{"name":"x","name":"y"}"#, "body"),
        ("[]", "body"),
        ("{", "body"),
    ] {
        let found = bad("reality.create", body);
        assert_eq!(found, said(400, "VALIDATION_ERROR", field), "{body}");
    }
    assert_eq!(bad("no.such", "{}"), said(404, "UNKNOWN_COMMAND", "name"));
    let unknown = Request::get("/v1/realities?x=1").send(node.ops);
    assert_eq!(
        error(&unknown),
        said(400, "VALIDATION_ERROR", "arguments.x")
    );
    let wrong = Request::get("/v1/commands/status").send(node.ops);
    assert_eq!(wrong.status, 405);
    assert_eq!(Request::get("/v1/nothing").send(node.ops).status, 404);
}

// EDGE-09, EDGE-23
#[test]
fn bodies_are_bounded_in_size_and_depth() {
    let node = Node::dev();
    let deep = format!(
        "{{\"name\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let answer = command("reality.create", &deep).send(node.ops);
    assert_eq!(error(&answer), said(400, "VALIDATION_ERROR", "body"));
    // Announced, and never sent: it is refused for what it says of itself.
    let huge = Request::get("/v1/commands/reality.create")
        .line("POST /v1/commands/reality.create HTTP/1.1")
        .and("Content-Type", "application/json")
        .and("Content-Length", "1000000000");
    let answer = huge.send(node.ops);
    assert_eq!(error(&answer), said(413, "TOO_LARGE", "body"));
    assert_eq!(Request::get("/healthz").send(node.ops).text(), "ok\n");
}

// EDGE-23, EDGE-02
#[test]
fn web_pages_of_others_get_nothing_and_change_nothing() {
    let node = Node::dev();
    let create = || command("reality.create", r#"{"name":"stolen"}"#);
    let own_origin = format!("http://{}", node.ops);
    for (request, expected) in [
        // A name of somebody's that leads to this machine.
        (create().with("Host", "evil.example:8080"), 401),
        (create().with("Host", "127.0.0.1.evil.example"), 401),
        (
            create()
                .with("Host", "evil.example")
                .and("Origin", "http://evil.example"),
            401,
        ),
        (
            Request::get("/v1/realities").with("Host", "evil.example"),
            401,
        ),
        (Request::get("/status").with("Host", "evil.example"), 401),
        (create().without("Host"), 400),
        (create().and("Host", "localhost"), 400),
        // A page that posts to other sites.
        (create().and("Origin", "http://evil.example"), 403),
        (create().and("Origin", "null"), 403),
        (
            Request::get("/v1/realities").and("Origin", "http://evil.example"),
            403,
        ),
        (create().with("Content-Type", "text/plain"), 400),
        (
            create().with("Content-Type", "application/x-www-form-urlencoded"),
            400,
        ),
        (create().without("Content-Type"), 400),
        // What a browser asks before it posts what is not simple.
        (
            create()
                .line("OPTIONS /v1/commands/reality.create HTTP/1.1")
                .and("Origin", "http://evil.example")
                .and("Access-Control-Request-Method", "POST"),
            405,
        ),
    ] {
        let answer = request.send(node.ops);
        assert_eq!(answer.status, expected, "{request:?}: {}", answer.text());
        assert!(
            !answer.head.to_lowercase().contains("access-control"),
            "{}",
            answer.head
        );
    }
    let bearer = create().bearer(&node.dev_token());
    let foreign = bearer.clone().and("Origin", "http://evil.example");
    assert_eq!(
        foreign.send(node.ops).status,
        403,
        "a token changes nothing"
    );
    let names = Request::get("/v1/realities").send(node.ops).text();
    assert!(!names.contains("stolen"), "{names}");
    // The listener's own pages, and whoever has a token and comes by another name.
    let own = create()
        .with("Host", &node.ops.to_string())
        .and("Origin", &own_origin);
    assert_eq!(own.send(node.ops).status, 200);
    let proxied = Request::get("/v1/realities").with("Host", "ops.example");
    let proxied = proxied.bearer(&node.dev_token()).send(node.ops);
    assert_eq!(proxied.status, 200, "{}", proxied.text());
}

// EDGE-06, EDGE-07, EDGE-23
#[test]
fn in_production_the_token_decides_tenant_and_role() {
    let node = production();
    let token = |tenant, role| signed(&claims(tenant, role), SECRET);
    let ask = |request: Request, tenant, role| request.bearer(&token(tenant, role)).send(node.ops);
    let create = |name: &str| command("reality.create", &format!("{{\"name\":\"{name}\"}}"));

    let anonymous = create("x").send(node.ops);
    assert_eq!(error(&anonymous), said(401, "UNAUTHENTICATED", ""));
    assert!(anonymous.header("www-authenticate").is_some());
    for path in ["/v1/commands", "/v1/realities", "/v1/edge/status"] {
        assert_eq!(Request::get(path).send(node.ops).status, 401, "{path}");
    }
    let garbage = create("x").bearer("garbage").send(node.ops);
    assert_eq!(garbage.status, 401);
    assert_eq!(ask(create("x"), "acme", Role::User).status, 403);
    assert_eq!(ask(create("plans"), "acme", Role::Operator).status, 200);
    let status = || Request::get("/v1/edge/status");
    assert_eq!(ask(status(), "acme", Role::User).status, 403);
    let found = ask(status(), "acme", Role::Operator).json();
    assert_eq!(found["result"]["tenant"], "acme");
    assert_eq!(found["result"]["fit"], true);

    let list = || Request::get("/v1/realities");
    let own = ask(list(), "acme", Role::User).text();
    assert!(own.contains("plans"), "{own}");
    let other = ask(list(), "other", Role::Admin).text();
    assert!(!other.contains("plans"), "{other}");
}

/// What every operation of the description is asked with.
fn sample(method: &str, path: &str) -> Request {
    match method {
        "get" => Request::get(path),
        _ => post(path, "{}"),
    }
}

// TOOL-11
#[test]
fn the_description_holds_for_the_running_node() {
    let node = Node::dev();
    let document = Request::get("/v1/openapi.json").send(node.ops).json();
    assert_eq!(document["openapi"], "3.1.0");
    let schema = |mut schema: Value| {
        schema["components"] = document["components"].clone();
        jsonschema::validator_for(&schema).expect("a schema")
    };
    let mut described = BTreeSet::new();
    let mut refused = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            described.insert(format!("{method} {path}"));
            let responses = operation["responses"].as_object().expect("responses");
            let asked = sample(method, path);
            // As whoever may do everything, and as whoever may do nothing.
            for request in [asked.clone(), asked.with("Host", "elsewhere.example")] {
                let answer = request.send(node.ops);
                let described = responses.get(&answer.status.to_string());
                let described = described.unwrap_or_else(|| {
                    panic!(
                        "{method} {path} answers {}: {}",
                        answer.status,
                        answer.text()
                    )
                });
                let (kind, content) = described["content"]
                    .as_object()
                    .and_then(|content| content.iter().next())
                    .expect("content");
                let found = answer.header("content-type").unwrap_or_default();
                assert!(found.starts_with(kind.as_str()), "{method} {path}: {found}");
                if kind == "application/json" {
                    let body = answer.json();
                    let valid = schema(content["schema"].clone()).validate(&body);
                    assert!(valid.is_ok(), "{method} {path}: {body}");
                }
                refused += usize::from(answer.status == 401);
            }
        }
    }
    assert!(refused > 20, "most of it wants a token: {refused}");

    let mut routes: BTreeSet<String> = ROUTES
        .iter()
        .map(|one| format!("get {}", one.path))
        .collect();
    routes.extend(routes::views().map(|(view, _)| format!("get {}", view.path)));
    for command in command::all() {
        routes.insert(format!("post {}", COMMAND.replace("{name}", command.name)));
    }
    assert_eq!(described, routes);
    let listed = Request::get("/v1/commands").send(node.ops).json();
    let listed = listed["result"].as_array().map_or(0, Vec::len);
    assert_eq!(listed, command::all().len());
}

// TOOL-11
#[test]
fn the_arguments_of_commands_are_described_as_they_are_taken() {
    let node = Node::dev();
    let document = Request::get("/v1/openapi.json").send(node.ops).json();
    let path = &document["paths"]["/v1/commands/edge.mirror.set"]["post"];
    let schema = &path["requestBody"]["content"]["application/json"]["schema"];
    let validator = jsonschema::validator_for(schema).expect("a schema");
    for (body, good) in [
        (
            json!({ "name": "a", "topics": "a.>", "target_topic": "b" }),
            true,
        ),
        (
            json!({ "name": "a", "topics": "a.>", "target_topic": "b", "percent": 5 }),
            true,
        ),
        (
            json!({ "name": "a", "topics": "a.>", "percent": "5" }),
            false,
        ),
        (
            json!({ "name": "a", "topics": "a.>", "percent": -5 }),
            false,
        ),
        (json!({ "name": "a", "topics": 1 }), false),
        (json!({ "topics": "a.>" }), false),
        (
            json!({ "name": "a", "topics": "a.>", "target_topic": "b", "x": 1 }),
            false,
        ),
    ] {
        let answer = command("edge.mirror.set", &body.to_string()).send(node.ops);
        assert_eq!(validator.is_valid(&body), good, "{body}");
        let expected = if good { 200 } else { 400 };
        assert_eq!(answer.status, expected, "{body}: {}", answer.text());
    }
}

// TOOL-11
#[test]
fn the_protocol_is_described_where_it_is_spoken() {
    let node = Node::dev();
    let document = Request::get("/v1/asyncapi.json").send(node.ops).json();
    assert_eq!(document["asyncapi"], "3.0.0");
    let session = &document["channels"]["session"];
    let address = session["address"].as_str().expect("an address");
    let token = node.dev_token();
    let upgrade = Request::upgrade()
        .line(&format!("GET {address} HTTP/1.1"))
        .bearer(&token);
    let (answer, _stream) = upgrade.open(node.edge);
    assert_eq!(answer.status, 101);
    let messages = session["messages"]
        .as_object()
        .map_or(0, serde_json::Map::len);
    assert!(messages >= 26, "{messages}");
}

// EDGE-23
#[test]
fn nothing_that_anybody_may_ask_for_names_a_tenant_a_topic_or_a_subject() {
    let node = production();
    let mut claims = claims("canary-tenant", Role::Admin);
    claims.sub = "canary-subject".into();
    let token = signed(&claims, SECRET);
    let run = |arguments: &[&str], input: &str| {
        use std::io::Write as _;
        let mut child = arqon(&node.url(), &token, arguments)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("arqon starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(input.as_bytes()).expect("it reads");
        drop(stdin);
        crate::shell::finished(child).code
    };
    assert_eq!(run(&["reality", "create", "canary-reality"], ""), 0);
    assert_eq!(run(&["produce", "canary.topic"], "\"canary-payload\"\n"), 0);
    assert_eq!(
        run(
            &[
                "consume",
                ">",
                "--consumer",
                "canary-consumer",
                "--stop-at-end"
            ],
            ""
        ),
        0
    );
    // Refusals too: by the edge, by the broker, by the handshake.
    assert_eq!(run(&["signature", "require", "canary.signed"], ""), 0);
    assert_eq!(run(&["produce", "canary.signed"], "1\n"), 1);
    assert_eq!(run(&["consume", ">", "--reality", "canary-none"], ""), 1);
    let bad = format!("{token}x");
    assert_eq!(
        Request::get("/status").bearer(&bad).send(node.ops).status,
        401
    );
    assert_eq!(Request::upgrade().bearer(&bad).send(node.edge).status, 401);

    let mut said = Vec::new();
    for route in ROUTES
        .iter()
        .filter(|route| route.access == Access::Anybody)
    {
        let answer = Request::get(route.path).send(node.ops);
        assert_eq!(answer.status, 200, "{}", route.path);
        said.push((route.path.to_owned(), answer));
    }
    let views = routes::views().map(|(view, _)| view.path);
    for path in views.chain(["/status", "/v1/commands", "/canary", "/v1/commands/x"]) {
        said.push((path.to_owned(), Request::get(path).send(node.ops)));
    }
    for path in ["/v1/ws", "/", "/metrics", "/status", "/nothing"] {
        said.push((path.to_owned(), Request::get(path).send(node.edge)));
        said.push((
            path.to_owned(),
            Request::get(path).bearer(&bad).send(node.edge),
        ));
    }
    said.push(("upgrade".to_owned(), Request::upgrade().send(node.edge)));
    assert!(said.len() > 25);
    for (path, answer) in &said {
        let text = format!("{}{}", answer.head, answer.text());
        assert!(!text.contains("canary"), "{path}: {text}");
    }
    // The canaries are there for whoever may see them.
    let status = Request::get("/status").bearer(&token).send(node.ops).text();
    assert!(status.contains("canary-tenant"), "{status}");
}
