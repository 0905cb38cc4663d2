//! What a hostile policy does, and what gets past schemas, inspection and ranks (EDGE-07, EDGE-13,
//! EDGE-14, EDGE-15, EDGE-17).

use arqonbus::proto::claims::{Claims, Role};
use arqonbus::proto::v1::client_frame::Body as Ask;
use arqonbus::proto::v1::{Envelope, Event, Value, envelope, value};

use super::requests::{ask, command, produce, user};
use super::{Case, Group, case};
use crate::support::{Node, claims};
use crate::wire::Wire;

const MOODS: &str = include_str!("../../fixtures/policy/moods.wat");
const MALWARE: &str = include_str!("../../fixtures/policy/malware.wat");
/// What looks like a key of a cloud, and is none.
const SECRET: &str = "AKIAQ7R5T2V4X6Z3B5N7";
const ORDER: &str = r#"{"type":"object","required":["id"],"additionalProperties":false,
    "properties":{"id":{"type":"integer"}}}"#;

pub(super) fn admin() -> Claims {
    claims("acme", Role::Admin)
}

pub(super) fn text(text: &str) -> value::Kind {
    value::Kind::Text(text.into())
}

fn texts(text: &str) -> value::Kind {
    let list: Value = [text].into_iter().collect();
    list.kind.expect("a list")
}

fn bytes(bytes: &[u8]) -> value::Kind {
    value::Kind::Bytes(bytes.to_vec().into())
}

fn wasm(text: &str) -> value::Kind {
    bytes(&wat::parse_str(text).expect("a module"))
}

const ON: value::Kind = value::Kind::Boolean(true);

fn push(name: &str, module: value::Kind, topics: &str) -> Ask {
    let arguments = [
        ("name", text(name)),
        ("module", module),
        ("topics", texts(topics)),
        ("activate", ON),
    ];
    command("edge.policy.push", &arguments)
}

/// Puts something of everything in force for the tenant `acme`.
pub(super) fn furnish(node: &Node) {
    let mut session = Wire::of(node, &admin());
    for body in [
        push("moods", wasm(MOODS), "moods.>"),
        push("no-malware", wasm(MALWARE), "upload.>"),
        command(
            "edge.schema.register",
            &[
                ("subject", text("orders")),
                ("document", bytes(ORDER.as_bytes())),
            ],
        ),
        command(
            "edge.schema.bind",
            &[("pattern", text("orders.>")), ("subject", text("orders"))],
        ),
        command("edge.signature.require", &[("topics", text("signed.>"))]),
        command(
            "op.casil.reload",
            &[
                ("enabled", ON),
                ("mode", text("enforce")),
                ("block_on_probable_secret", ON),
            ],
        ),
    ] {
        assert_eq!(ask(&mut session, body), "done");
    }
}

pub(super) fn event(topic: &str, data: &[u8]) -> Envelope {
    Envelope {
        topic: topic.into(),
        payload: Some(envelope::Payload::Event(Event {
            r#type: "t".into(),
            data: data.to_vec().into(),
        })),
        ..Envelope::default()
    }
}

/// Somebody asks the guarded node.
fn asks(
    attack: &'static str,
    outcome: &'static str,
    who: fn() -> Claims,
    body: impl Fn() -> Ask + 'static,
) -> Case {
    case(attack, outcome, move |stage| {
        ask(&mut Wire::of(&stage.guarded, &who()), body())
    })
}

fn pushes(attack: &'static str, outcome: &'static str, module: fn() -> value::Kind) -> Case {
    asks(attack, outcome, admin, move || {
        push("evil", module(), "evil.>")
    })
}

fn says(
    attack: &'static str,
    outcome: &'static str,
    topic: &'static str,
    data: &'static str,
) -> Case {
    asks(attack, outcome, user, move || {
        produce(vec![event(topic, data.as_bytes())])
    })
}

pub(super) fn group() -> Group {
    Group {
        letter: 'P',
        title: "Policies, schemas, content inspection",
        cases: [modules(), moods(), schemas(), secrets(), ranks()]
            .into_iter()
            .flatten()
            .collect(),
    }
}

/// A module that is in order but for what is said when it starts, is made ready, or is asked.
fn module(start: &str, init: &str, pages: u32) -> value::Kind {
    wasm(&format!(
        "(module (memory (export \"memory\") {pages})
           (func $start {start}) (start $start)
           (func (export \"arqon_abi\") (result i32) i32.const 1)
           (func (export \"arqon_alloc\") (param i32) (result i32) i32.const 1024)
           (func (export \"arqon_init\") (param i32 i32) (result i32) {init} i32.const 0)
           (func (export \"arqon_check\") (param i32 i32 i32 i32) (result i64) i64.const 0))"
    ))
}

fn modules() -> Vec<Case> {
    const MODULE: &str = "VALIDATION_ERROR module";
    vec![
        pushes("a policy that is no WebAssembly", MODULE, || bytes(b"MZ")),
        pushes("half a policy", MODULE, || {
            let whole = wat::parse_str(MOODS).expect("a module");
            bytes(whole.split_at(whole.len() / 2).0)
        }),
        pushes("a policy that calls WASI", MODULE, || {
            wasm("(module (import \"wasi_snapshot_preview1\" \"fd_write\" (func)))")
        }),
        pushes("a policy without the functions it needs", MODULE, || {
            wasm("(module (memory (export \"memory\") 1))")
        }),
        pushes("a policy of 3 MB", MODULE, || bytes(&vec![0; 3 << 20])),
        pushes("a policy that begins with 4 GiB of memory", MODULE, || {
            module("", "", 65_536)
        }),
        pushes("a policy that never ends its start", MODULE, || {
            module("(loop $ever (br $ever))", "", 1)
        }),
        pushes("a policy that never is ready", MODULE, || {
            module("", "(loop $ever (br $ever))", 1)
        }),
        pushes("a policy that traps as it starts", MODULE, || {
            module("(unreachable)", "", 1)
        }),
        asks(
            "a policy whose name climbs directories",
            "VALIDATION_ERROR name",
            admin,
            || push("../../evil", wasm(MALWARE), "evil.>"),
        ),
        asks(
            "a policy for no topic that there can be",
            "VALIDATION_ERROR topics",
            admin,
            || push("evil", wasm(MALWARE), "a..b"),
        ),
    ]
}

fn moods() -> Vec<Case> {
    const UNDECIDED: &str = "POLICY_FAILURE envelopes[0].payload";
    let mood = |attack, data| says(attack, UNDECIDED, "moods.a", data);
    vec![
        mood("what makes a policy trap", "trap"),
        mood("what makes a policy overflow its stack", "stack"),
        mood("what makes a policy loop for ever", "loop"),
        mood("what makes a policy take all memory", "memory"),
        mood("what makes a policy flood the log", "flood"),
        mood("what makes a policy point out of its memory", "outside"),
        mood("what makes a policy answer nonsense", "bad"),
        mood("what makes a policy redact beyond the end", "wide"),
        says(
            "what a policy forbids",
            "POLICY_BLOCKED envelopes[0].payload",
            "upload.a",
            "here is malware",
        ),
        asks(
            "what a policy forbids, behind what it allows",
            "POLICY_BLOCKED envelopes[1].payload",
            user,
            || {
                let good = event("upload.a", b"good");
                produce(vec![good.clone(), event("upload.a", b"malware"), good])
            },
        ),
        says(
            "what has to be signed, without a signature",
            "POLICY_BLOCKED envelopes[0].signature",
            "signed.a",
            "x",
        ),
        asks(
            "a signature of 64 zeros",
            "POLICY_BLOCKED envelopes[0].signature",
            user,
            || {
                produce(vec![Envelope {
                    signature: vec![0; 64].into(),
                    ..event("signed.a", b"x")
                }])
            },
        ),
    ]
}

/// A document of which each part asks the next one twice.
fn doubling() -> String {
    let part = |at: usize| {
        let next = format!(r##"{{"$ref":"#/$defs/p{}"}}"##, at + 1);
        format!(r#""p{at}":{{"allOf":[{next},{next}]}}"#)
    };
    let parts: Vec<_> = (0..40).map(part).collect();
    let parts = parts.join(",");
    format!(r##"{{"$ref":"#/$defs/p0","$defs":{{{parts},"p40":true}}}}"##)
}

/// A user has a definition tried with a payload.
fn checks(attack: &'static str, outcome: &'static str, document: fn() -> String) -> Case {
    asks(attack, outcome, user, move || {
        let arguments = [
            ("subject", text("tried")),
            ("document", bytes(document().as_bytes())),
            ("payload", bytes(b"{}")),
        ];
        command("edge.schema.check", &arguments)
    })
}

fn schemas() -> Vec<Case> {
    const VIOLATION: &str = "SCHEMA_VIOLATION envelopes[0].event.data";
    let register = |attack, outcome, document: &'static str| {
        asks(attack, outcome, admin, move || {
            let document = bytes(document.as_bytes());
            let arguments = [("subject", text("evil")), ("document", document)];
            command("edge.schema.register", &arguments)
        })
    };
    vec![
        says("a payload without a field", VIOLATION, "orders.a", "{}"),
        says(
            "a payload with an unknown field",
            VIOLATION,
            "orders.a",
            r#"{"id":1,"more":1}"#,
        ),
        says(
            "a payload with a field of another type",
            VIOLATION,
            "orders.a",
            r#"{"id":"1"}"#,
        ),
        says("a payload that is no JSON", VIOLATION, "orders.a", "\u{1}"),
        says("no payload at all", VIOLATION, "orders.a", ""),
        asks(
            "a version that there is not",
            "SCHEMA_VIOLATION envelopes[0].headers.schema-version",
            user,
            || {
                let mut envelope = event("orders.a", br#"{"id":1}"#);
                let version = ("schema-version".to_owned(), "99".to_owned());
                envelope.headers.extend([version]);
                produce(vec![envelope])
            },
        ),
        register(
            "a schema that is none",
            "VALIDATION_ERROR document",
            r#"{"type":"nothing"}"#,
        ),
        register(
            "a schema that has the node fetch another",
            "VALIDATION_ERROR document",
            r#"{"$ref":"http://127.0.0.1:9/secret"}"#,
        ),
        register(
            "a schema that has the node read a file",
            "VALIDATION_ERROR document",
            r#"{"$ref":"file:///etc/passwd"}"#,
        ),
        checks(
            "a schema that is itself",
            "VALIDATION_ERROR document",
            || r##"{"$ref":"#"}"##.to_owned(),
        ),
        checks(
            "a schema that holds if it holds",
            "VALIDATION_ERROR document",
            || r##"{"allOf":[{"$ref":"#"}]}"##.to_owned(),
        ),
        checks(
            "a schema that asks the same 2^40 times",
            "VALIDATION_ERROR document",
            doubling,
        ),
        asks(
            "descriptors that are none",
            "VALIDATION_ERROR descriptors",
            admin,
            || {
                let arguments = [
                    ("subject", text("evil")),
                    ("descriptors", bytes(b"\xff\xff")),
                    ("message", text("a.B")),
                ];
                command("edge.schema.register", &arguments)
            },
        ),
        asks(
            "a binding to a schema that is not there",
            "NOT_FOUND subject",
            admin,
            || {
                let arguments = [("pattern", text("lost.>")), ("subject", text("lost"))];
                command("edge.schema.bind", &arguments)
            },
        ),
    ]
}

fn secrets() -> Vec<Case> {
    const SECRET_IN_PAYLOAD: &str = "CASIL_POLICY_BLOCKED_SECRET envelopes[0].payload";
    const SECRET_ELSEWHERE: &str = "CASIL_POLICY_BLOCKED_SECRET envelopes[0]";
    let hidden = |attack, change: fn(&mut Envelope)| {
        asks(attack, SECRET_ELSEWHERE, user, move || {
            let mut envelope = event("a", b"{}");
            change(&mut envelope);
            produce(vec![envelope])
        })
    };
    let reload = |attack, outcome, name: &'static str, kind: fn() -> value::Kind| {
        asks(attack, outcome, admin, move || {
            command("op.casil.reload", &[("enabled", ON), (name, kind())])
        })
    };
    vec![
        asks("a secret in a payload", SECRET_IN_PAYLOAD, user, || {
            produce(vec![event("a", format!("use {SECRET}").as_bytes())])
        }),
        says(
            "a secret in escaped JSON",
            SECRET_IN_PAYLOAD,
            "a",
            r#"{"n":"AK\u0049AQ7R5T2V4X6Z3B5N7"}"#,
        ),
        hidden("a secret in a header", |envelope| {
            let header = ("x-note".to_owned(), SECRET.to_owned());
            envelope.headers.extend([header]);
        }),
        hidden("a secret as a header's name", |envelope| {
            envelope
                .headers
                .extend([(SECRET.to_owned(), String::new())]);
        }),
        hidden("a secret as the key", |envelope| {
            envelope.key = SECRET.into()
        }),
        hidden("a secret as the topic", |envelope| {
            envelope.topic = format!("a.{SECRET}");
        }),
        reload(
            "a pattern that is none",
            "VALIDATION_ERROR redaction_patterns[0]",
            "redaction_patterns",
            || texts("(unclosed"),
        ),
        reload(
            "a pattern that takes all memory",
            "VALIDATION_ERROR redaction_patterns[0]",
            "redaction_patterns",
            || texts("((a{1000}){1000}){1000}"),
        ),
        reload(
            "a mode that there is not",
            "VALIDATION_ERROR mode",
            "mode",
            || text("off"),
        ),
        says(
            "a secret after reloads that failed",
            SECRET_IN_PAYLOAD,
            "a",
            SECRET,
        ),
    ]
}

/// Commands of every part that only an admin may give, given by a user.
fn ranks() -> Vec<Case> {
    let as_user =
        |attack, name: &'static str| asks(attack, "FORBIDDEN", user, move || command(name, &[]));
    vec![
        as_user("a user's policy", "edge.policy.push"),
        as_user("a user's end of a policy", "edge.policy.disable"),
        as_user("a user's look at the policies", "edge.policy.list"),
        as_user("a user's schema", "edge.schema.register"),
        as_user("a user's end of a binding", "edge.schema.unbind"),
        as_user("a user's reload of the inspection", "op.casil.reload"),
        as_user("a user's mirror", "edge.mirror.set"),
        as_user("a user's rate", "edge.rate.set"),
        as_user("a user's key", "edge.signature.key.set"),
        as_user("a user's end of signatures", "edge.signature.unrequire"),
        as_user("a user's revocation", "edge.revoke"),
        as_user("a user's end of others' sessions", "edge.disconnect"),
        as_user("a user's pardon", "edge.restore"),
        as_user("a user's look at revocations", "edge.revocations"),
        as_user("a user's look at what is in force", "edge.status"),
    ]
}
