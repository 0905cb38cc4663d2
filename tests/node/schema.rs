//! Payloads are held against the schemas of a tenant's registry, and of the node.

use std::path::Path;

use arqonbus::client::{Client, ConnectOptions, Error, Outgoing, ProduceOptions};
use arqonbus::proto::ErrorCode;
use arqonbus::proto::claims::Role;
use serde_json::Value;
use tempfile::TempDir;

use crate::shell::{arqon, finished};
use crate::support::{Node, claims, command, signed, write};

const FIRST: &str =
    "syntax = \"proto3\"; package shop; message Order { string sku = 1; int32 n = 2; }";
const SECOND: &str = "syntax = \"proto3\"; package shop; message Order { string sku = 1; int32 n = 2; bool gift = 3; }";
const BREAKING: &str =
    "syntax = \"proto3\"; package shop; message Order { bytes sku = 1; bool gift = 3; }";

struct Workshop(TempDir);

impl Workshop {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.0.path().join(name);
        write(&path, content);
        path.to_str().expect("a path of text").to_owned()
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("one object")
}

/// Code and text of a refusal.
type Refused = (Option<ErrorCode>, String);

async fn publish(node: &Node, event: Outgoing<'_>) -> Result<u64, Refused> {
    let url = format!("ws://{}/v1/ws", node.edge);
    let options = ConnectOptions::new(&url, node.dev_token());
    let client = Client::connect(options).await.expect("a connection");
    let mut batch = client.batch();
    batch.push(&event);
    let produced = client.produce(&batch, &ProduceOptions::default()).await;
    client.close().await;
    produced
        .map(|produced| produced.last)
        .map_err(|error: Error| (error.code(), error.to_string()))
}

fn order(topic: &'static str, data: &'static [u8]) -> Outgoing<'static> {
    Outgoing {
        topic,
        data,
        ..Outgoing::default()
    }
}

/// `sku` and `n`.
const FITS: &[u8] = b"\x0a\x02ab\x10\x07";
/// With `gift` as well.
const NEWER: &[u8] = b"\x0a\x02ab\x10\x07\x18\x01";

fn push(node: &Node, file: &str, more: &[&str]) -> crate::shell::Ran {
    let push = [
        "schema",
        "push",
        file,
        "--subject",
        "orders.v1",
        "--output",
        "json",
    ];
    node.run(&[&push[..], more].concat())
}

fn violation(refused: Result<u64, Refused>) -> String {
    let (code, text) = refused.expect_err("it is refused");
    assert_eq!(code, Some(ErrorCode::SchemaViolation), "{text}");
    text
}

// EDGE-13
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one story")]
async fn registered_schemas_are_enforced_versioned_and_outlive_the_node() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let files = Workshop::new();
    let (first, second, breaking) = (
        files.file("first.proto", FIRST.as_bytes()),
        files.file("second.proto", SECOND.as_bytes()),
        files.file("breaking.proto", BREAKING.as_bytes()),
    );
    let node = Node::dev_on(&data);
    let ran = push(&node, &first, &["--pattern", "orders.>"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(json(&ran.stdout)["version"], 1);
    // The same again changes nothing.
    let again = push(&node, &first, &[]);
    assert_eq!(json(&again.stdout)["registered"], false, "{}", again.stderr);

    publish(&node, order("orders.new", FITS))
        .await
        .expect("it fits");
    publish(&node, order("other", b"\xff"))
        .await
        .expect("nothing is bound");
    let text = violation(publish(&node, order("orders.new", NEWER)).await);
    for said in [
        "orders.v1 expects shop.Order (version 1)",
        "field 3",
        "field.unknown",
        "arqon schema push",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let text =
        violation(publish(&node, order("orders.new", b"\x0a\x06secret\x0a\x06secret")).await);
    assert!(
        text.contains("sku") && text.contains("field.once") && !text.contains("secret"),
        "{text}"
    );
    let text = violation(publish(&node, order("orders.new", b"")).await);
    assert!(text.contains("payload.empty"), "{text}");
    let named = Outgoing {
        schema: "shop.Other",
        ..order("orders.new", FITS)
    };
    assert!(violation(publish(&node, named).await).contains("schema.name"));

    // What breaks readers is refused, with the reason; nothing is stored of it.
    let ran = push(&node, &breaking, &[]);
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    for said in [
        "SCHEMA_VIOLATION",
        "version 1",
        "FULL_TRANSITIVE",
        "field.removed",
        "field.type",
        "reserved 2;",
    ] {
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
    let checked = node.run(&[
        "schema",
        "check",
        "orders.v1",
        &breaking,
        "--output",
        "json",
    ]);
    assert_eq!(
        (checked.code, &json(&checked.stdout)["compatible"]),
        (65, &false.into())
    );

    let ran = push(&node, &second, &[]);
    assert_eq!(json(&ran.stdout)["version"], 2, "{}", ran.stderr);
    publish(&node, order("orders.new", NEWER))
        .await
        .expect("it fits version 2");
    let older = Outgoing {
        headers: &[("schema-version", "1")],
        ..order("orders.new", NEWER)
    };
    assert!(violation(publish(&node, older).await).contains("(version 1)"));
    let none = Outgoing {
        headers: &[("schema-version", "9")],
        ..order("orders.new", FITS)
    };
    assert!(violation(publish(&node, none).await).contains("1 to 2"));

    // A kill leaves it all as it was.
    node.signal("KILL");
    drop(node.ended());
    let node = Node::dev_on(&data);
    publish(&node, order("orders.new", NEWER))
        .await
        .expect("it fits version 2");
    violation(publish(&node, order("orders.new", b"\x20\x01")).await);
    let listed = json(&node.ok(&["schema", "list", "--output", "json"]));
    assert_eq!(listed["subjects"][0]["versions"], 2, "{listed}");
    assert_eq!(listed["bindings"][0]["pattern"], "orders.>", "{listed}");
    let diff = json(&node.ok(&["schema", "diff", "orders.v1", "1", "2", "--output", "json"]));
    assert_eq!(diff["differences"], Value::Array(Vec::new()));

    // A retired version takes nothing more, and the last one of a bound subject stays.
    node.ok(&["schema", "retire", "orders.v1@2"]);
    violation(publish(&node, order("orders.new", NEWER)).await);
    let last = node.run(&["schema", "retire", "orders.v1@1"]);
    assert!(
        last.code == 1 && last.stderr.contains("unbind"),
        "{}",
        last.stderr
    );
    node.ok(&["schema", "retire", "orders.v1@2", "--restore"]);
    publish(&node, order("orders.new", NEWER))
        .await
        .expect("it fits version 2");

    node.ok(&["schema", "unbind", "orders.>"]);
    publish(&node, order("orders.new", b"\xff"))
        .await
        .expect("nothing is bound");
}

// EDGE-13
#[tokio::test(flavor = "multi_thread")]
async fn monitored_topics_let_through_and_count() {
    let files = Workshop::new();
    let first = files.file("first.proto", FIRST.as_bytes());
    let node = Node::dev();
    let ran = push(
        &node,
        &first,
        &["--pattern", "orders.>", "--level", "monitor"],
    );
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    publish(&node, order("orders.new", NEWER))
        .await
        .expect("it is only watched");
    let metrics = ureq(&node, "/metrics");
    let counted = metrics
        .lines()
        .find(|line| line.contains("watched") && line.contains("schema.violation"));
    assert!(
        counted.is_some_and(|line| line.ends_with(" 1")),
        "{metrics}"
    );
    // Where schemas are required, to watch is not enough.
    node.ok(&["schema", "strict", "on"]);
    violation(publish(&node, order("orders.new", NEWER)).await);
    let text = violation(publish(&node, order("other", FITS)).await);
    assert!(text.contains("no schema is bound"), "{text}");
    node.ok(&["schema", "strict", "off"]);
    publish(&node, order("other", FITS))
        .await
        .expect("no schema is needed");
}

fn ureq(node: &Node, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut socket = std::net::TcpStream::connect(node.ops).expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("text");
    answer
}

// EDGE-13
#[tokio::test(flavor = "multi_thread")]
async fn strict_node_refuses_topics_without_a_schema_and_no_tenant_loosens_it() {
    let files = Workshop::new();
    let document = files.file("order.json", br#"{"type":"object","required":["id"]}"#);
    let settings = format!("[{{pattern=\"web.>\",file={document:?}}}]");
    let node = Node::dev_with(&[
        ("ARQONBUS_SCHEMA_STRICT", "true"),
        ("ARQONBUS_SCHEMA_FILES", &settings),
    ]);
    publish(&node, order("web.order", b"{\"id\":1}"))
        .await
        .expect("it fits");
    let text = violation(publish(&node, order("web.order", b"{}")).await);
    assert!(text.contains("json.required"), "{text}");
    violation(publish(&node, order("orders.new", FITS)).await);
    let ran = node.run(&["schema", "strict", "off"]);
    assert!(
        ran.code != 0 && ran.stderr.contains("schema.strict"),
        "{}",
        ran.stderr
    );
    let first = files.file("first.proto", FIRST.as_bytes());
    push(&node, &first, &["--pattern", "orders.>"]);
    publish(&node, order("orders.new", FITS))
        .await
        .expect("it has a schema now");
    // A tenant's own schema comes beside the node's, not instead of it.
    push(&node, &first, &["--pattern", "web.>"]);
    violation(publish(&node, order("web.order", FITS)).await);
}

fn start_with(files: &Workshop, schema: &str) -> (Option<i32>, String) {
    let settings = format!("[schema]\n{schema}\n");
    let config = files.file("arqonbus.toml", settings.as_bytes());
    let data = files.0.path().join("data");
    let mut node = command(&[
        "serve",
        "--dev",
        "--listen",
        "127.0.0.1:0",
        "--ops",
        "127.0.0.1:0",
    ]);
    node.arg("--config").arg(config).arg("--data").arg(data);
    let output = node.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

// EDGE-13
#[test]
fn broken_schema_file_stops_the_start() {
    let files = Workshop::new();
    files.file("broken.fds", b"\xff\xff");
    files.file("broken.json", b"{\"type\":\"nothing\"}");
    for strict in ["strict = true", ""] {
        let (code, text) = start_with(
            &files,
            &format!(
                "{strict}\nfiles = [
                  {{ pattern = 'a', file = 'missing.fds', message = 'a.B' }},
                  {{ pattern = 'b', file = 'broken.fds', message = 'a.B' }},
                  {{ pattern = 'c', file = 'broken.json' }},
                  {{ pattern = 'd..', file = 'broken.json' }},
                ]"
            ),
        );
        assert_eq!(code, Some(78), "{text}");
        for said in [
            "schema.files[0].file",
            "missing.fds",
            "schema.files[1].file",
            "schema.files[2].file",
            "schema.files[3].pattern",
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
    }
}

// EDGE-13
#[test]
fn bad_definitions_are_refused_with_their_reason() {
    let files = Workshop::new();
    let node = Node::dev_with(&[("ARQONBUS_SCHEMA_VERSIONS_MAX", "1")]);
    let huge = vec![b'\n'; 10 << 20];
    let large = vec![b'\n'; 300 << 10];
    // A file with a message, and so many messages inside each other.
    let mut deep = Vec::new();
    for key in std::iter::repeat_n(0x1a, 5_000).chain([0x22, 0x0a]) {
        let mut outer = vec![key];
        prost::encoding::encode_varint(deep.len() as u64, &mut outer);
        outer.append(&mut deep);
        deep = outer;
    }
    for (name, content, said) in [
        ("large", &large[..], "document_bytes_max"),
        ("cycle", &cyclic_set(), "imports itself"),
        ("import", &set(&[file("a", &["b"])]), "imports \"b\""),
        (
            "syntax",
            &set(&[prost_types::FileDescriptorProto {
                syntax: Some("editions".into()),
                ..file("a", &[])
            }]),
            "syntax",
        ),
        ("empty", b"", "has 0 files"),
        ("deep", &deep, "FileDescriptorSet"),
        ("no message", &set(&[file("a", &[])]), "is not in the set"),
    ] {
        let path = files.file("bad.fds", content);
        let push = [
            "schema",
            "push",
            "--descriptor",
            &path,
            "--message",
            "a.B",
            "--subject",
            "s",
        ];
        let ran = node.run(&push);
        assert_eq!(ran.code, 1, "{name}: {}", ran.stderr);
        assert!(ran.stderr.contains(said), "{name}: {said}: {}", ran.stderr);
    }
    let path = files.file("bad.fds", &huge);
    let ran = node.run(&[
        "schema",
        "push",
        "--descriptor",
        &path,
        "--message",
        "a.B",
        "--subject",
        "s",
    ]);
    assert_ne!(ran.code, 0, "ten megabytes are no schema");
    let path = files.file("bad.proto", b"syntax = \"proto3\"; message M { int32 a = 1");
    let ran = node.run(&["schema", "push", &path, "--subject", "s"]);
    assert_eq!(ran.code, 65, "{}", ran.stderr);

    let (first, second) = (
        files.file("a.proto", FIRST.as_bytes()),
        files.file("b.proto", SECOND.as_bytes()),
    );
    assert_eq!(push(&node, &first, &[]).code, 0);
    let ran = push(&node, &second, &[]);
    assert!(ran.stderr.contains("schema.versions_max"), "{}", ran.stderr);
    for subject in ["", "a..b", "a b", "*", "a@1"] {
        let ran = node.run(&["schema", "push", &first, "--subject", subject]);
        assert!(
            ran.code != 0 && ran.stderr.contains("subject"),
            "{}",
            ran.stderr
        );
    }
    assert_eq!(
        ureq(&node, "/readyz").lines().next(),
        Some("HTTP/1.1 200 OK")
    );
}

fn file(name: &str, imports: &[&str]) -> prost_types::FileDescriptorProto {
    prost_types::FileDescriptorProto {
        name: Some(name.into()),
        dependency: imports.iter().map(|&import| import.into()).collect(),
        syntax: Some("proto3".into()),
        ..prost_types::FileDescriptorProto::default()
    }
}

fn set(files: &[prost_types::FileDescriptorProto]) -> Vec<u8> {
    use prost::Message as _;
    let set = prost_types::FileDescriptorSet {
        file: files.to_vec(),
    };
    set.encode_to_vec()
}

fn cyclic_set() -> Vec<u8> {
    set(&[file("a", &["b"]), file("b", &["a"])])
}

// EDGE-13
#[test]
fn only_admins_change_the_registry_and_tenants_see_their_own() {
    let files = Workshop::new();
    let first = files.file("a.proto", FIRST.as_bytes());
    let node = Node::dev();
    assert_eq!(push(&node, &first, &["--pattern", "orders.>"]).code, 0);
    let secret = node.dev_secret();
    let run = |tenant: &str, role: Role, arguments: &[&str]| {
        let token = signed(&claims(tenant, role), secret.trim_ascii_end());
        finished(
            arqon(&node.url(), &token, arguments)
                .spawn()
                .expect("starts"),
        )
    };
    let push = ["schema", "push", &first, "--subject", "orders.v1"];
    let list = ["schema", "list", "--output", "json"];
    assert_eq!(run("dev", Role::User, &push).code, 77);
    let seen = json(&run("dev", Role::User, &list).stdout);
    assert_eq!(seen["subjects"][0]["subject"], "orders.v1");
    let other = json(&run("other", Role::Admin, &list).stdout);
    assert_eq!(other["subjects"], Value::Array(Vec::new()));
    let out = files.0.path().join("out.fds");
    let out = out.to_str().expect("a path of text");
    node.ok(&["schema", "show", "orders.v1", "--descriptor-out", out]);
    let ran = run(
        "other",
        Role::Admin,
        &[
            "schema",
            "push",
            "--descriptor",
            out,
            "--message",
            "shop.Order",
            "--subject",
            "copy",
        ],
    );
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(Path::new(out).exists());
}

/// What was thought up to keep a node busy or to end it.
// EDGE-13, REL-05
#[tokio::test(flavor = "multi_thread")]
async fn hostile_documents_leave_the_node_alive() {
    let files = Workshop::new();
    let node = Node::dev();
    let deep = |open: &str, inner: &str, close: &str, times: usize| {
        [&open.repeat(times), inner, &close.repeat(times)].concat()
    };
    let push = |content: &str, subject: &str| {
        let path = files.file("hostile.json", content.as_bytes());
        let pattern = format!("{subject}.>");
        let push = [
            "schema",
            "push",
            "--json-schema",
            &path,
            "--subject",
            subject,
        ];
        node.run(&[&push[..], &["--pattern", &pattern]].concat())
    };
    for (content, said) in [
        (
            r##"{"$ref":"#"}"##.to_owned(),
            "look too often at one value",
        ),
        (
            r##"{"$ref":"#/$defs/a","$defs":{"a":{"allOf":[{"$ref":"#/%24defs/a"}]}}}"##.to_owned(),
            "look too often at one value",
        ),
        (
            r##"{"allOf":[{"items":{"$ref":"#"}},{"items":{"$ref":"#"}}]}"##.to_owned(),
            "look too often at one value",
        ),
        (r#"{"pattern":"("}"#.to_owned(), "not a JSON Schema"),
        (
            r#"{"pattern":"(a{1000}){1000}"}"#.to_owned(),
            "not a JSON Schema",
        ),
        (deep("{\"not\":", "{}", "}", 20_000), "not JSON"),
    ] {
        let ran = push(&content, "bad");
        assert_eq!(ran.code, 1, "{}", ran.stdout);
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
    let tree = r##"{"anyOf":[{"type":"array","items":{"$ref":"#"}},{"type":"null"}]}"##;
    let ran = push(tree, "tree");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let payloads = [
        (deep("[", "null", "]", 120), true),
        (deep("[", "1", "]", 120), false),
        (deep("[", "null", "]", 20_000), false),
    ];
    for (payload, fits) in payloads {
        let event = Outgoing {
            topic: "tree.new",
            data: payload.as_bytes(),
            ..Outgoing::default()
        };
        let published = publish(&node, event).await;
        assert_eq!(published.is_ok(), fits, "{published:?}");
    }
    let ready = ureq(&node, "/readyz");
    assert_eq!(ready.lines().next(), Some("HTTP/1.1 200 OK"));
}
