//! Messages, and what becomes of each.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use prost_types::value::Kind as StructKind;

use super::redaction::TOKEN;
use super::*;
use crate::broker::{Identity, Role, Tenant, Topics};
use crate::proto::pybus::BusPayload;
use crate::proto::v1::{Command as CommandMessage, Envelope, Event as EventMessage, envelope};
use crate::proto::view::EnvelopeView;

const AWS: &str = "AKIAQ7R5T2V4X6Z3B5N7";
const CARD: &str = "4111111111111111";

fn policy(change: impl FnOnce(&mut CasilPolicy)) -> Casil {
    let mut policy = configuration::of_node(&crate::config::Casil::default());
    policy.enabled = true;
    policy.mode = "enforce".into();
    change(&mut policy);
    Casil::new(policy).expect("it can be put in force")
}

fn blocking() -> Casil {
    policy(|policy| policy.block_on_probable_secret = true)
}

fn event(data: impl Into<Bytes>) -> Envelope {
    Envelope {
        topic: "a.b".into(),
        payload: Some(envelope::Payload::Event(EventMessage {
            r#type: "message".into(),
            data: data.into(),
        })),
        ..Envelope::default()
    }
}

fn with_header(name: &str, value: &str) -> Envelope {
    let mut envelope = event("{}");
    envelope.headers.insert(name.into(), value.into());
    envelope
}

/// The envelope as it would be stored, and what was found.
fn passed(casil: &Casil, envelope: &Envelope) -> Result<(Envelope, Findings), Blocked> {
    let encoded = envelope.encode_to_vec();
    let view = EnvelopeView::parse(&encoded).expect("an envelope");
    let sender = Identity {
        tenant: Tenant::new("t").expect("a name"),
        subject: "tester".into(),
        role: Role::User,
        publish: Topics::All,
        subscribe: Topics::All,
        expires_at: None,
        issued_at: None,
        token_id: None,
        ends_by: None,
    };
    let message = Message {
        sender: &sender,
        topic: &envelope.topic,
        view: &view,
        now_ms: 0,
    };
    let mut findings = Findings::default();
    casil.inspect(&message, &mut findings)?;
    let stored = if findings.is_changed() {
        view.rewritten(findings.data.as_deref(), findings.headers.as_deref())
    } else {
        encoded.clone()
    };
    Ok((
        Envelope::decode(stored.as_slice()).expect("an envelope"),
        findings,
    ))
}

fn data(envelope: &Envelope) -> &str {
    match &envelope.payload {
        Some(envelope::Payload::Event(EventMessage { data, .. })) => {
            std::str::from_utf8(data).expect("text")
        }
        other => panic!("{other:?}"),
    }
}

fn redacted(casil: &Casil, json: &str) -> String {
    let (stored, _) = passed(casil, &event(json.to_owned())).expect("it passes");
    data(&stored).to_owned()
}

fn struct_of(fields: &[(&str, &str)]) -> prost_types::Struct {
    let text = |text: &str| prost_types::Value {
        kind: Some(StructKind::StringValue(text.to_owned())),
    };
    prost_types::Struct {
        fields: fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), text(value)))
            .collect(),
    }
}

// EDGE-17
#[test]
fn secrets_of_every_kind_are_found() {
    let casil = blocking();
    for secret in [
        AWS,
        "AIzaSyD4x8Q2mPq7Rt1Uv5Wx9Yz3Ab6Cd0Ef2GhI",
        "ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
        "github_pat_11ABCDEFG0a1B2c3D4e5F6",
        "xoxb-123456789012-abcdefABCDEF",
        "https://hooks.slack.com/services/T00000000/B00000000/a1B2c3D4e5F6",
        "sk_live_a1B2c3D4e5F6g7H8",
        "sk-proj-a1B2c3D4e5F6g7H8i9J0k1L2",
        "glpat-a1B2c3D4e5F6g7H8i9J0",
        "npm_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
        "Bearer a1b2c3d4e5f6a7b8",
        "Authorization: Basic dXNlcjpodW50ZXIyLi4h",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
        "postgres://app:s3cr3tPa55@db.example.com:5432/app",
        "DB_PASSWORD=Tr0ub4dor&3",
        "api_key: 9f8e7d6c5b4a",
        "wJalrXUtnFEMIK7MDENGbPxRfiCYq8Zt2Lh0sV5u",
    ] {
        let json = serde_json::json!({ "note": format!("see {secret} there") }).to_string();
        for payload in [format!("see {secret} there"), json] {
            let blocked = passed(&casil, &event(payload.clone())).expect_err(&payload);
            assert_eq!(
                blocked.code,
                ErrorCode::CasilPolicyBlockedSecret,
                "{payload}"
            );
            assert_eq!(
                (blocked.reason, &*blocked.field),
                (classification::BLOCKED_SECRET, "payload")
            );
            assert!(!blocked.message.contains(secret), "{}", blocked.message);
        }
    }
}

// EDGE-17
#[test]
fn clean_messages_are_marked_as_clean() {
    let casil = policy(|policy| {
        policy.block_on_probable_secret = true;
        policy.redaction_paths.clear();
    });
    for clean in [
        "please send me a token for the cloakroom, the password is on the board",
        r#"{"max_tokens":1024,"token":"please","secret":"santa","password":null}"#,
        r#"{"title":"M 4.5 - 10 km SW of Here","url":"https://example.org/a/us2000abcd","time":1517363399650}"#,
        r#"{"token_expires_at":"2026-11-22T04:00:11Z","keyboard":"qwertz12"}"#,
        "basic information about risk-management-of-large-enterprise-projects",
        r#"{"password":"${DB_PASSWORD_1}","token":"***REDACTED***"}"#,
        "0191f3a2-7c44-7e8e-9a1b-2f6f3d0c1a55",
        "",
    ] {
        let (stored, findings) = passed(&casil, &event(clean)).expect(clean);
        let said = findings.classification.expect("it is classified");
        assert_eq!(
            [said.kind, said.risk, said.reason, said.decision],
            ["data", "low", "CASIL_POLICY_ALLOWED", "allow"].map(str::to_owned),
            "{clean}"
        );
        assert_eq!(
            (said.flags, findings.noticed),
            (Vec::new(), None),
            "{clean}"
        );
        assert_eq!(data(&stored), clean);
    }
}

// EDGE-17
#[test]
fn no_part_of_an_envelope_is_a_way_around() {
    let casil = blocking();
    let bus = |payload: BusPayload| event(payload.encode_to_vec());
    let secret = || Some(struct_of(&[("note", AWS)]));
    let mut named = event("{}");
    named.trace_id = AWS.into();
    let mut keyed = event("{}");
    keyed.key = format!("user/{AWS}");
    let mut topic = event("{}");
    topic.topic = format!("a.{AWS}");
    let mut clocked = event("{}");
    let entries = BTreeMap::from([(AWS.to_owned(), 1)]);
    clocked.clock = Some(crate::proto::v1::VectorClock { entries });
    let mut command = event("");
    command.payload = Some(envelope::Payload::Cmd(CommandMessage {
        r#type: "op.store.set".into(),
        data: format!(r#"{{"value":"{AWS}"}}"#).into(),
    }));
    let mut signal = event("");
    signal.payload = Some(envelope::Payload::Signal(crate::proto::v1::SystemSignal {
        r#type: 1,
        reason: format!("use {AWS}"),
    }));
    for (place, envelope) in [
        (
            "payload",
            bus(BusPayload {
                payload: secret(),
                ..BusPayload::default()
            }),
        ),
        (
            "args",
            bus(BusPayload {
                args: secret(),
                ..BusPayload::default()
            }),
        ),
        (
            "metadata",
            bus(BusPayload {
                metadata: secret(),
                ..BusPayload::default()
            }),
        ),
        (
            "error",
            bus(BusPayload {
                error: AWS.into(),
                ..BusPayload::default()
            }),
        ),
        ("header", with_header("x-note", AWS)),
        ("header's name", with_header(AWS, "x")),
        ("keyed header", with_header("x-api-key", "9f8e7d6c5b4a")),
        ("trace_id", named),
        ("key", keyed),
        ("topic", topic),
        ("clock", clocked),
        ("command", command),
        ("signal", signal),
        ("name in JSON", event(format!(r#"{{"{AWS}":1}}"#))),
        ("escaped", event(r#"{"a":"AK\u0049AQ7R5T2V4X6Z3B5N7"}"#)),
        (
            "JSON in JSON",
            event(r#"{"a":"{\"api_key\":\"9f8e7d6c5b4a\"}"}"#),
        ),
        (
            "escaped slashes",
            event(r#"{"a":"redis:\/\/x:s3cr3tPa55@h"}"#),
        ),
        (
            "binary",
            event([&b"\x0a\x14\xff"[..], AWS.as_bytes()].concat()),
        ),
        (
            "binary, after a length like a letter",
            event([&b"\xff\x41"[..], AWS.as_bytes()].concat()),
        ),
    ] {
        let outcome = passed(&casil, &envelope);
        let blocked = outcome.err().unwrap_or_else(|| panic!("{place} passes"));
        assert_eq!(blocked.reason, classification::BLOCKED_SECRET, "{place}");
        assert!(
            !blocked.message.contains(AWS) && !blocked.field.contains(AWS),
            "{place}"
        );
    }
}

// EDGE-17
#[test]
fn redaction_keeps_json_numbers_order_and_spaces() {
    let casil = policy(|policy| policy.personal_data = "redact".into());
    for (json, expected) in [
        (
            r#"{ "z": 1.0, "a": 18446744073709551615, "big": 1e400, "password": "x", "m": [ 1, 2.50 ] }"#,
            r#"{ "z": 1.0, "a": 18446744073709551615, "big": 1e400, "password": "***REDACTED***", "m": [ 1, 2.50 ] }"#,
        ),
        (
            r#"{"a":{"token":{"deep":[1,"}"]},"n":5},"token":7}"#,
            r#"{"a":{"token":"***REDACTED***","n":5},"token":"***REDACTED***"}"#,
        ),
        (
            r#"{"note":"key AKIAQ7R5T2V4X6Z3B5N7, \"ok\"","n":5}"#,
            r#"{"note":"key ***REDACTED***, \"ok\"","n":5}"#,
        ),
        (
            r#"{"card":4111111111111111,"n":-0.0}"#,
            r#"{"card":"***REDACTED***","n":-0.0}"#,
        ),
        (
            r#"{"db":"postgres://app:s3cr3tPa55@db/app"}"#,
            r#"{"db":"postgres://app:***REDACTED***@db/app"}"#,
        ),
        (
            r#"{"pass\u0077ord":"x","password":"y","password":null}"#,
            r#"{"pass\u0077ord":"***REDACTED***","password":"***REDACTED***","password":null}"#,
        ),
        (
            r#"{"body":"{\"api_key\":\"9f8e7d6c5b4a\"}"}"#,
            r#"{"body":"{\"api_key\":\"***REDACTED***\"}"}"#,
        ),
        (
            r#"["ann@example.org",{"to":"x"}]"#,
            r#"["***REDACTED***",{"to":"x"}]"#,
        ),
        (r#"{"AKIAQ7R5T2V4X6Z3B5N7":1}"#, r#"{"***REDACTED***":1}"#),
        ("use sk_live_a1B2c3D4e5F6g7H8 now", "use ***REDACTED*** now"),
    ] {
        let (stored, findings) = passed(&casil, &event(json)).expect(json);
        assert_eq!(data(&stored), expected);
        assert_eq!(findings.changes, [classification::REDACTED]);
        let said = findings.classification.expect("it is classified");
        assert_eq!(
            (said.reason.as_str(), said.decision.as_str()),
            (classification::REDACTED, "redact")
        );
        assert_eq!(redacted(&casil, expected), expected, "once is enough");
    }
}

// EDGE-17
#[test]
fn paths_with_dots_are_meant_from_the_top() {
    let casil = policy(|policy| policy.redaction_paths = vec!["user.pin".into()]);
    assert_eq!(
        redacted(
            &casil,
            r#"{"user":[{"pin":1,"n":2}],"a":{"user":{"pin":1}},"pin":1}"#
        ),
        r#"{"user":[{"pin":"***REDACTED***","n":2}],"a":{"user":{"pin":1}},"pin":1}"#
    );
}

// EDGE-17
#[test]
fn payloads_of_older_clients_and_headers_are_redacted_in_place() {
    let casil = policy(|_| {});
    let payload = BusPayload {
        envelope_type: "message".into(),
        payload: Some(struct_of(&[("password", "x"), ("n", "5")])),
        args: Some(struct_of(&[("note", AWS)])),
        ..BusPayload::default()
    };
    let mut envelope = event(payload.encode_to_vec());
    envelope
        .headers
        .insert("x-note".into(), format!("for {AWS}"));
    envelope.headers.insert("token".into(), "plain".into());
    envelope.headers.insert("other".into(), "stays".into());
    envelope.signature = vec![1; 64].into();
    let (stored, findings) = passed(&casil, &envelope).expect("it passes");
    let Some(envelope::Payload::Event(event)) = &stored.payload else {
        panic!("{stored:?}");
    };
    let payload = BusPayload::decode(event.data.clone()).expect("still one");
    assert_eq!(
        payload.payload,
        Some(struct_of(&[("password", TOKEN), ("n", "5")]))
    );
    assert_eq!(payload.args, Some(struct_of(&[("note", TOKEN)])));
    let headers: Vec<(&str, &str)> = stored
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let note = format!("for {TOKEN}");
    assert_eq!(
        headers,
        [
            ("other", "stays"),
            ("token", TOKEN),
            ("x-note", note.as_str())
        ]
    );
    assert!(stored.signature.is_empty());
    assert_eq!(findings.flags, ["redacted"]);
    // Only headers: the payload and what signs it stay.
    let mut envelope = with_header("token", "x");
    envelope.signature = vec![1; 64].into();
    let (stored, _) = passed(&casil, &envelope).expect("it passes");
    assert_eq!((data(&stored), stored.signature.len()), ("{}", 64));
}

// EDGE-17
#[test]
fn what_cannot_be_redacted_is_blocked() {
    let casil = policy(|_| {});
    let mut protobuf = event(format!("\x0a\x14{AWS}"));
    protobuf.schema = "shop.Order".into();
    let mut named = event("{}");
    named.key = AWS.into();
    for (what, envelope) in [
        ("protobuf", protobuf),
        ("binary", event([&b"\xff\x00"[..], AWS.as_bytes()].concat())),
        ("key", named),
        (
            "lines of JSON",
            event("{\"password\":\"a\"}\n{\"password\":\"b\"}"),
        ),
        (
            "too deep",
            event(format!(
                "{}{{\"password\":1}}{}",
                "[".repeat(200),
                "]".repeat(200)
            )),
        ),
    ] {
        let blocked = passed(&casil, &envelope)
            .err()
            .unwrap_or_else(|| panic!("{what} passes"));
        assert_eq!(blocked.reason, classification::BLOCKED_SECRET, "{what}");
    }
    let text = "[info] the token and the password are gone";
    assert_eq!(redacted(&casil, text), text);
}

// EDGE-17
#[test]
fn monitor_says_what_it_finds_and_changes_nothing() {
    let casil = policy(|policy| {
        policy.mode = "monitor".into();
        policy.block_on_probable_secret = true;
        policy.max_payload_bytes = 100;
    });
    let long = "x ".repeat(60);
    for (payload, reason, flag) in [
        (
            format!(r#"{{"password":"x","a":"{AWS}"}}"#),
            "CASIL_POLICY_BLOCKED_SECRET",
            "contains_probable_secret",
        ),
        (long, "CASIL_POLICY_OVERSIZE", "oversize_payload"),
        (
            CARD.to_owned(),
            "CASIL_POLICY_ALLOWED",
            "contains_probable_personal_data",
        ),
    ] {
        let (stored, findings) = passed(&casil, &event(payload.clone())).expect(&payload);
        assert_eq!(data(&stored), payload);
        assert_eq!(findings.noticed, Some(flag));
        let said = findings.classification.expect("it is classified");
        assert_eq!(
            (said.reason.as_str(), said.decision.as_str()),
            (reason, "allow")
        );
        assert!(
            said.flags.iter().any(|found| found == flag),
            "{:?}",
            said.flags
        );
    }
}

// EDGE-17
#[test]
fn what_cannot_be_inspected_to_its_end_is_blocked_unless_allowed() {
    let mut long = "word ".repeat(50);
    long.push_str(AWS);
    let limited = |decision: &str| {
        policy(|policy| {
            policy.max_inspect_bytes = 100;
            policy.default_decision = decision.to_owned();
        })
    };
    let blocked = passed(&limited("block"), &event(long.clone())).expect_err("it is too long");
    assert_eq!(blocked.code, ErrorCode::CasilPolicyOversize);
    let (_, findings) =
        passed(&limited("allow"), &event(long.clone())).expect("the admin's choice");
    let flags = findings.classification.expect("it is classified").flags;
    assert_eq!(flags, ["inspected_in_part"]);
    // What was found in the part that is inspected cannot be taken out alone.
    let early = format!("{AWS} {long}");
    assert!(passed(&limited("allow"), &event(early)).is_err());
    let sized = policy(|policy| policy.max_payload_bytes = 10);
    assert!(passed(&sized, &event("0123456789")).is_ok());
    let blocked = passed(&sized, &event("01234567890")).expect_err("one too many");
    assert_eq!(
        (blocked.code, blocked.reason),
        (ErrorCode::CasilPolicyOversize, classification::OVERSIZE)
    );
}

// EDGE-17
#[test]
fn scope_patterns_and_personal_data_follow_the_configuration() {
    let excluded = policy(|policy| {
        policy.block_on_probable_secret = true;
        policy.scope_exclude = vec!["a.*".into()];
    });
    let (_, findings) = passed(&excluded, &event(AWS)).expect("it is out of scope");
    let said = findings.classification.expect("it is classified");
    assert_eq!(said.reason, classification::OUT_OF_SCOPE);

    let patterns = policy(|policy| policy.redaction_patterns = vec![r"EMP-\d{3,}".into()]);
    assert_eq!(
        redacted(&patterns, r#"{"who":"EMP-1234 and EMP-12"}"#),
        r#"{"who":"***REDACTED*** and EMP-12"}"#
    );

    let personal = policy(|policy| policy.personal_data = "block".into());
    let blocked = passed(&personal, &event(CARD)).expect_err("a card");
    assert_eq!(
        (blocked.code, blocked.reason),
        (ErrorCode::PolicyBlocked, classification::BLOCKED_PERSONAL)
    );
    let off = policy(|policy| policy.personal_data = "off".into());
    let (_, findings) = passed(&off, &event(CARD)).expect("nobody looks");
    assert_eq!(findings.noticed, None);
}

// EDGE-17
#[test]
fn a_bad_configuration_is_refused_as_a_whole() {
    let mut policy = configuration::of_node(&crate::config::Casil::default());
    policy.mode = "strict".into();
    policy.max_inspect_bytes = 0;
    policy.scope_include = vec!["a[".into()];
    policy.redaction_paths = vec!["a..b".into()];
    policy.redaction_patterns = vec![
        "(".into(),
        "a*".into(),
        r"\w{1000}{1000}".into(),
        "x".repeat(1025),
        "fine".into(),
    ];
    let faults = Casil::new(policy.clone()).expect_err("nearly all is wrong");
    let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "mode",
            "max_inspect_bytes",
            "scope_include[0]",
            "redaction_paths[0]",
            "redaction_patterns[0]",
            "redaction_patterns[1]",
            "redaction_patterns[2]",
            "redaction_patterns[3]",
        ]
    );
    let mut in_force = blocking();
    let data = policy.encode_to_vec();
    let event = Event {
        sequence: crate::log::Sequence::FIRST,
        at: crate::log::Micros(0),
        topic: TOPIC,
        kind: KIND,
        data: &data,
    };
    assert!(in_force.apply(&event).is_err());
    assert!(
        passed(&in_force, &self::event(AWS)).is_err(),
        "what was in force still is"
    );
}

/// Texts made to be slow for whoever looks back or starts over.
fn adversarial() -> Vec<String> {
    let size = 1 << 16;
    [
        "eyJ",
        "eyJ.",
        "://",
        "://a:",
        "token=",
        "sk-",
        "-----BEGIN ",
        "AKIA",
        "Bearer ",
        "a@",
        "+1",
        "1 ",
        "4111 ",
        "\\",
        "\\u00",
        "\"",
        "[",
        "{\"a\":",
        "password",
        "A",
        "a1B",
        "asic ",
        "xox",
        "DE89",
        "://x:y",
    ]
    .iter()
    .map(|part| part.repeat(size / part.len()))
    .collect()
}

// EDGE-17
#[test]
fn no_text_is_catastrophic() {
    let casil = policy(|policy| {
        policy.personal_data = "redact".into();
        policy.redaction_patterns = vec![r"(a+)+b".into(), r"(\w+\s?)*x!".into()];
    });
    for text in adversarial() {
        let started = std::time::Instant::now();
        // Whether it passes does not matter.
        drop(passed(&casil, &event(text.clone())));
        let took = started.elapsed();
        let head: String = text.chars().take(12).collect();
        assert!(took.as_secs() < 5, "{head}: {took:?} without optimization");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    // EDGE-17
    #[test]
    fn any_bytes_are_judged_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), insert in 0_usize..300) {
        let casil = policy(|policy| policy.personal_data = "redact".into());
        let at = insert.min(bytes.len());
        let parts = [&bytes[..at], b"{\"token\": \"", AWS.as_bytes(), b"\\u", &bytes[at..]];
        drop(passed(&casil, &event(parts.concat())));
        drop(passed(&casil, &event(bytes)));
    }

    // EDGE-17
    #[test]
    fn no_secret_survives_redaction_in_any_json(
        keys in prop::collection::vec("[a-z\"\\\\ é]{0,6}", 1..6),
        texts in prop::collection::vec("[ -~é\\n]{0,20}", 1..6),
        number in any::<f64>().prop_filter("JSON has no others", |n| n.is_finite()),
    ) {
        let casil = policy(|_| {});
        let mut value = serde_json::json!({ "n": number });
        for (key, text) in keys.iter().zip(&texts) {
            value = serde_json::json!({ key.as_str(): [format!("{text} {AWS} {text}"), value], "u": u64::MAX });
        }
        let json = value.to_string();
        // Names that end with a backslash or hold a secret by chance are blocked instead.
        if let Ok((stored, _)) = passed(&casil, &event(json.clone())) {
            let stored = data(&stored);
            prop_assert!(!stored.contains(AWS), "{}", stored);
            let parsed: serde_json::Value = serde_json::from_str(stored).expect("still JSON");
            let expected: serde_json::Value =
                serde_json::from_str(&json.replace(AWS, TOKEN)).expect("JSON");
            prop_assert_eq!(parsed.to_string().len(), expected.to_string().len());
        } else {
            prop_assert!(false, "blocked: {}", json);
        }
    }
}

/// What is measured: one inspection of an event with this payload, by `casil`.
#[test]
#[ignore = "a measurement: cargo test --release --lib casil -- --ignored --nocapture"]
#[expect(clippy::print_stderr, reason = "it is what the measurement is for")]
fn cost_of_clean_and_of_other_payloads() {
    let quake = std::fs::read_to_string("tests/fixtures/earthquakes.ndjson").expect("the fixture");
    let quake = quake.lines().next().expect("a line");
    let list = |bytes: usize| {
        let mut list = String::from("[");
        while list.len() + quake.len() < bytes {
            list.push_str(quake);
            list.push(',');
        }
        list.push_str("0]");
        list
    };
    let off = policy(|policy| policy.enabled = false);
    let monitor = policy(|policy| policy.mode = "monitor".into());
    let without_persons = policy(|policy| {
        policy.mode = "monitor".into();
        policy.personal_data = "off".into();
    });
    let enforce = policy(|_| {});
    let measure = |name: &str, casil: &Casil, text: &str| {
        let encoded = event(text.to_owned()).encode_to_vec();
        let view = EnvelopeView::parse(&encoded).expect("an envelope");
        let sender = Identity {
            tenant: Tenant::new("t").expect("a name"),
            subject: "tester".into(),
            role: Role::User,
            publish: Topics::All,
            subscribe: Topics::All,
            expires_at: None,
            issued_at: None,
            token_id: None,
            ends_by: None,
        };
        let message = Message {
            sender: &sender,
            topic: "a.b",
            view: &view,
            now_ms: 0,
        };
        let rounds = (20_000_000 / text.len().max(200)).max(20);
        let mut best = f64::MAX;
        for _ in 0..7 {
            let started = std::time::Instant::now();
            for _ in 0..rounds {
                let mut findings = Findings::default();
                drop(std::hint::black_box(
                    casil.inspect(std::hint::black_box(&message), &mut findings),
                ));
            }
            best = best.min(started.elapsed().as_secs_f64() * 1e9 / rounds as f64);
        }
        eprintln!(
            "{name:24} {:6} bytes {best:10.0} ns {:8.3} ns/byte",
            text.len(),
            best / text.len() as f64
        );
    };
    for size in [quake.len() + 10, 1024 + quake.len() / 2, 64 << 10] {
        let text = list(size);
        for (name, casil) in [
            ("off", &off),
            ("monitor", &monitor),
            ("monitor, no persons", &without_persons),
            ("enforce", &enforce),
        ] {
            measure(name, casil, &text);
        }
    }
    let words = "the quick brown fox jumps over the lazy dog, again and again; ".repeat(17);
    measure("enforce, words", &enforce, &words);
    for text in adversarial() {
        let head: String = text.chars().take(12).collect();
        measure(&format!("adversarial {head:?}"), &enforce, &text);
    }
}
