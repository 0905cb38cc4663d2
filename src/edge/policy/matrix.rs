//! Every way in which a policy can fail, tried on the engine alone: the message is refused with the
//! right reason, and the next one is judged as if nothing had happened.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::proto::v1::{Envelope, Event, envelope};
use crate::proto::view::EnvelopeView;

const MOODS: &str = include_str!("../../../tests/fixtures/policy/moods.wat");
const ALLOW: &str = include_str!("../../../tests/fixtures/policy/allow.wat");
const MALWARE: &str = include_str!("../../../tests/fixtures/policy/malware.wat");
const BLOCK_EMPTY: &str = include_str!("../../../tests/fixtures/policy/block_empty.wat");
const OLD_HOST: &str = include_str!("../../../tests/fixtures/policy/old_host.wat");

/// What any machine manages in.
const PATIENCE: Duration = Duration::from_secs(60);

fn engine() -> Engine {
    engine_with(|_| {})
}

/// The deadline is long enough for a machine that does much else.
fn engine_with(change: impl FnOnce(&mut Limits)) -> Engine {
    let mut limits = Limits {
        deadline: Duration::from_millis(20),
        ..Limits::default()
    };
    change(&mut limits);
    Engine::open(limits, Tallies::default()).unwrap()
}

fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

fn policy_on(engine: &Engine, text: &str) -> Arc<Policy> {
    let module = engine.compile(&wasm(text), Metering::Time).unwrap();
    Policy::new(engine, module, Default::default(), Isolation::Reused).unwrap()
}

fn policy(text: &str) -> Arc<Policy> {
    policy_on(&engine(), text)
}

fn question() -> Question<'static> {
    Question {
        topic: "a.b",
        tenant: "t",
        subject: "alice",
        role: "user",
        kind: "k",
        now_ms: 1,
        ..Question::default()
    }
}

fn outcome(policy: &Policy, body: &str) -> Result<Ruling, Failure> {
    policy.judge(&question(), body.as_bytes()).outcome
}

fn reason(policy: &Policy, body: &str) -> &'static str {
    match outcome(policy, body) {
        Ok(ruling) => ruling.as_str(),
        Err(failure) => failure.reason(),
    }
}

// EDGE-15
#[test]
fn whatever_a_policy_does_refuses_its_message_and_spares_the_next() {
    let moods = policy(MOODS);
    for (mood, expected) in [
        ("trap", "policy.trap"),
        ("zero", "policy.trap"),
        ("stack", "policy.trap"),
        ("loop", "policy.timeout"),
        ("memory", "policy.memory"),
        ("elements", "policy.memory"),
        ("outside", "policy.abi"),
        ("huge", "policy.abi"),
        ("bad", "policy.abi"),
        ("no ruling", "policy.abi"),
        ("void", "policy.abi"),
        ("wide", "policy.abi"),
        ("flood", "policy.abi"),
        ("pointer", "policy.abi"),
        ("give", "policy.abi"),
    ] {
        assert_eq!(reason(&moods, mood), expected, "{mood}");
        assert_eq!(reason(&moods, "all right"), "allow", "after {mood}");
    }
}

// EDGE-15
#[test]
fn stack_overflow_says_so() {
    let failure = outcome(&policy(MOODS), "stack").unwrap_err();
    assert_eq!(failure, Failure::Trap("call stack exhausted".into()));
}

// EDGE-14
#[test]
fn policy_labels_redacts_replaces_and_denies() {
    let moods = policy(MOODS);
    let judged = moods.judge(&question(), b"redact");
    assert_eq!(judged.outcome, Ok(Ruling::Redact("re**ct".into())));
    let judged = moods.judge(&question(), b"yes");
    assert_eq!(judged.outcome, Ok(Ruling::Replace("tame".into())));
    assert_eq!(judged.tags, ["tamed"]);
    let judged = moods.judge(&question(), b"keep");
    assert_eq!(
        (judged.outcome, judged.tags),
        (Ok(Ruling::Allow), vec!["marked".to_owned()])
    );
    let judged = moods.judge(&question(), b"claim");
    assert_eq!(judged.tags, ["alice"]);
    let denied = outcome(&policy(MALWARE), "some malware");
    let (code, message) = ("malware".into(), "no malware here".into());
    assert_eq!(denied, Ok(Ruling::Deny(Denial { code, message })));
}

// EDGE-14
#[test]
fn policy_reads_the_headers_of_this_message_only() {
    let moods = policy(MOODS);
    let with = |value: &str| {
        let envelope = Envelope {
            topic: "a.b".into(),
            headers: [("x-mood".to_owned(), value.to_owned())].into(),
            payload: Some(envelope::Payload::Event(Event::default())),
            ..Envelope::default()
        };
        prost::Message::encode_to_vec(&envelope)
    };
    for value in ["calm", "wild"] {
        let encoded = with(value);
        let view = EnvelopeView::parse(&encoded).unwrap();
        let question = Question {
            headers: view.headers,
            ..question()
        };
        assert_eq!(moods.judge(&question, b"x").tags, [value]);
    }
    assert!(moods.judge(&question(), b"x").tags.is_empty());
    let long = with(&"x".repeat(65));
    let view = EnvelopeView::parse(&long).unwrap();
    let question = Question {
        headers: view.headers,
        ..question()
    };
    let judged = moods.judge(&question, b"x");
    assert_eq!(
        (judged.outcome, judged.tags.len()),
        (Ok(Ruling::Allow), 0),
        "-2 is no length"
    );
}

// EDGE-14
#[test]
fn older_policies_run_unchanged() {
    let block_empty = policy(BLOCK_EMPTY);
    assert_eq!(block_empty.module().level, Level::Zero);
    assert_eq!(reason(&block_empty, ""), "deny");
    assert_eq!(reason(&block_empty, "x"), "allow");
    assert_eq!(
        reason(&block_empty, &"x".repeat(200_000)),
        "allow",
        "its memory grows"
    );
    let old = policy(OLD_HOST);
    let (code, message) = ("42".into(), "shouting is refused".into());
    assert_eq!(
        outcome(&old, "!"),
        Ok(Ruling::Deny(Denial { code, message }))
    );
    assert_eq!(reason(&old, "."), "allow");
    assert_eq!(reason(&old, "?"), "deny", "there is no such header");
}

// EDGE-15
#[test]
fn payload_larger_than_the_memory_is_refused() {
    let engine = engine_with(|limits| limits.memory_bytes_max = 128 << 10);
    let large = "x".repeat(200_000);
    assert_eq!(
        reason(&policy_on(&engine, BLOCK_EMPTY), &large),
        "policy.memory"
    );
    assert_eq!(reason(&policy_on(&engine, MOODS), &large), "policy.memory");
    let never_grows = "(module (memory (export \"memory\") 1)
        (func (export \"arqon_abi\") (result i32) i32.const 1)
        (func (export \"arqon_alloc\") (param i32) (result i32) i32.const 8)
        (func (export \"arqon_check\") (param i32 i32 i32 i32) (result i64) i64.const 0))";
    let never_grows = policy_on(&engine, never_grows);
    assert_eq!(reason(&never_grows, &large), "policy.abi");
    assert_eq!(reason(&never_grows, "small"), "allow");
}

const HEAD: &str = "(memory (export \"memory\") 1)
    (func (export \"arqon_abi\") (result i32) i32.const 1)
    (func (export \"arqon_alloc\") (param i32) (result i32) i32.const 8)";
const CHECK: &str =
    "(func (export \"arqon_check\") (param i32 i32 i32 i32) (result i64) i64.const 0)";

// EDGE-15
#[test]
fn module_that_is_no_policy_is_refused_with_all_reasons() {
    let engine = engine();
    let broken: [(String, &[&str]); 13] = [
        ("(module)".into(), &["does not export arqon_abi() -> i32", "arqon_alloc", "arqon_check", "memory"]),
        (format!("(module {HEAD})"), &["does not export arqon_check(i32, i32, i32, i32) -> i64"]),
        (
            "(module (memory (export \"memory\") 1) (func (export \"policy_check\") (param i64) (result i32) i32.const 0))".into(),
            &["exports policy_check, which must be policy_check(i32, i32) -> i32"],
        ),
        ("(module (func (export \"policy_check\") (param i32 i32) (result i32) i32.const 0))".into(), &["does not export its memory"]),
        (format!("(module {HEAD} {CHECK} (func (export \"arqon_reset\") (param i32)))"), &["exports arqon_reset, which must be arqon_reset()"]),
        (
            format!("(module (import \"wasi_snapshot_preview1\" \"random_get\" (func (param i32 i32) (result i32))) (import \"env\" \"now\" (func (result i64))) {HEAD} {CHECK})"),
            &["wasi_snapshot_preview1.random_get", "without WASI", "env.now, which there is not"],
        ),
        (
            format!("(module (import \"arqon\" \"log\" (func (param i64))) {HEAD} {CHECK})"),
            &["imports arqon.log, which must be log(i32, i32, i32)"],
        ),
        (
            format!("(module (import \"arqon\" \"kv_get\" (func (param i32))) {HEAD} {CHECK})"),
            &["arqon.kv_get, which there is not; there is arqon.{log, tag, claim, header}"],
        ),
        (format!("(module (func $s) (start $s) {HEAD} {CHECK})"), &["start function"]),
        (
            "(module (memory (export \"memory\") 65) (func (export \"policy_check\") (param i32 i32) (result i32) i32.const 0))".into(),
            &["begins with 65 pages of memory, over the limit of 64"],
        ),
        (format!("(module (table 10001 funcref) {HEAD} {CHECK})"), &["table of 10001 elements"]),
        (format!("(module (import \"env\" \"memory\" (memory 1)) {CHECK})"), &["imports env.memory"]),
        (format!("(module (memory 1) {HEAD} {CHECK})"), &["does not compile"]),
    ];
    for (text, expected) in &broken {
        let unfit = engine.compile(&wasm(text), Metering::Time).unwrap_err();
        let said = unfit.to_string();
        for part in *expected {
            assert!(
                said.contains(part),
                "{part:?} is missing in {said:?} about {text}"
            );
        }
    }
    for (bytes, expected) in [
        (b"".to_vec(), "is no WebAssembly binary"),
        (b"(module)".to_vec(), "is no WebAssembly binary"),
        (b"\0asm\x01\0\0\0\xff".to_vec(), "does not compile"),
        (b"\0asm\x0d\0\x01\0".to_vec(), "is a component"),
        (vec![0; (2 << 20) + 1], "over the limit of 2097152"),
    ] {
        let unfit = engine.compile(&bytes, Metering::Time).unwrap_err();
        assert!(unfit.to_string().contains(expected), "{unfit}");
    }
}

// EDGE-15
#[test]
fn module_that_cannot_begin_is_refused() {
    let engine = engine();
    let try_with = |text: &str, config: &'static str| {
        let module = engine.compile(&wasm(text), Metering::Time).unwrap();
        let policy = Policy::new(&engine, module, config.into(), Isolation::Reused);
        policy.map(|_| ()).map_err(|unfit| unfit.to_string())
    };
    let other = HEAD.replace("i32.const 1)", "i32.const 2)");
    let init = "(func (export \"arqon_init\") (param i32 i32) (result i32) (i32.ne (local.get 1) (i32.const 4)))";
    let spins =
        "(func (export \"arqon_init\") (param i32 i32) (result i32) (loop $l (br $l)) i32.const 0)";
    let outside = "(data (i32.const 70000) \"x\")";
    for (text, config, expected) in [
        (
            format!("(module {other} {CHECK})"),
            "",
            "arqon_abi does not answer 1",
        ),
        (
            format!("(module {HEAD} {CHECK} {init})"),
            "four and more",
            "arqon_init refuses",
        ),
        (
            format!("(module {HEAD} {CHECK} {spins})"),
            "",
            "longer than it may",
        ),
        (format!("(module {HEAD} {CHECK} {outside})"), "", "trapped"),
        (
            format!("(module {HEAD} {CHECK})"),
            "some",
            "exports no arqon_init",
        ),
    ] {
        let said = try_with(&text, config).unwrap_err();
        assert!(said.contains(expected), "{said} about {text}");
    }
    assert_eq!(
        try_with(&format!("(module {HEAD} {CHECK} {init})"), "four"),
        Ok(())
    );
}

// EDGE-15
#[test]
fn allocation_that_fails_or_leads_nowhere_refuses() {
    for (answer, expected) in [
        (0, "no memory"),
        (-1, "out of its memory"),
        (65_530, "out of its memory"),
    ] {
        let head = HEAD.replace("i32.const 8", &format!("i32.const {answer}"));
        let failure =
            outcome(&policy(&format!("(module {head} {CHECK})")), "a payload").unwrap_err();
        assert!(
            matches!(failure, Failure::Abi(text) if text.contains(expected)),
            "{failure:?}"
        );
    }
}

// EDGE-14
#[test]
fn module_without_reset_gets_a_new_instance_for_each_message() {
    let counts = |reset: &str| {
        format!(
            "(module {HEAD} {reset} (global $n (mut i64) (i64.const 0))
              (func (export \"arqon_check\") (param i32 i32 i32 i32) (result i64)
                (global.set $n (i64.add (global.get $n) (i64.const 1)))
                (if (i64.gt_u (global.get $n) (i64.const 1)) (then (unreachable)))
                i64.const 0))"
        )
    };
    let fresh = policy(&counts(""));
    for _ in 0..3 {
        assert_eq!(reason(&fresh, "x"), "allow");
    }
    let reset = "(func (export \"arqon_reset\"))";
    let reused = policy(&counts(reset));
    assert_eq!(
        (reason(&reused, "x"), reason(&reused, "x")),
        ("allow", "policy.trap")
    );
    let engine = engine();
    let module = engine
        .compile(&wasm(&counts(reset)), Metering::Time)
        .unwrap();
    let isolated = Policy::new(&engine, module, Default::default(), Isolation::Message).unwrap();
    assert_eq!(
        (reason(&isolated, "x"), reason(&isolated, "x")),
        ("allow", "allow")
    );
}

// EDGE-14
#[test]
fn instance_is_replaced_after_ten_thousand_calls() {
    let policy = policy(&format!(
        "(module {HEAD} (func (export \"arqon_reset\")) (global $n (mut i64) (i64.const 0))
          (func (export \"arqon_check\") (param i32 i32 i32 i32) (result i64)
            (global.set $n (i64.add (global.get $n) (i64.const 1)))
            (if (i64.gt_u (global.get $n) (i64.const 10000)) (then (unreachable)))
            i64.const 0))"
    ));
    for n in 0..10_001 {
        assert_eq!(reason(&policy, "x"), "allow", "{n}");
    }
}

// EDGE-15
#[test]
fn without_a_free_instance_the_message_is_refused_as_busy() {
    let engine = engine_with(|limits| {
        limits.policy_instances_max = 1;
        limits.deadline = Duration::from_millis(50);
    });
    let moods = policy_on(&engine, MOODS);
    // Either side may find the instance with the other, so that both try until it was so once.
    let was_busy = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !was_busy.load(Ordering::Relaxed) {
                let outcome = reason(&moods, "loop");
                assert!(
                    ["policy.timeout", "policy.busy"].contains(&outcome),
                    "{outcome}"
                );
            }
        });
        let started = Instant::now();
        while reason(&moods, "all right") != "policy.busy" && started.elapsed() < PATIENCE {}
        was_busy.store(true, Ordering::Relaxed);
        assert!(started.elapsed() < PATIENCE, "it is never busy");
    });
    assert_eq!(reason(&moods, "all right"), "allow");
}

// EDGE-14
#[test]
fn idle_instance_of_one_policy_makes_room_for_another() {
    let engine = engine_with(|limits| limits.instances_max = 1);
    let (one, other) = (policy_on(&engine, ALLOW), policy_on(&engine, MOODS));
    for _ in 0..3 {
        assert_eq!(
            (reason(&one, "x"), reason(&other, "all right")),
            ("allow", "allow")
        );
    }
}

// EDGE-14
#[test]
fn fuel_grows_with_the_payload_and_is_the_same_every_time() {
    let engine = engine_with(|limits| {
        limits.fuel_base = 2_000;
        limits.fuel_per_byte = 100;
    });
    let module = engine.compile(&wasm(MALWARE), Metering::Fuel).unwrap();
    let metered = Policy::new(&engine, module, Default::default(), Isolation::Reused).unwrap();
    let used = |body: &[u8]| {
        let judged = metered.judge(&question(), body);
        assert_eq!(judged.outcome, Ok(Ruling::Allow), "{} bytes", body.len());
        judged.fuel.unwrap()
    };
    for len in [0, 7, 1_024, 65_536] {
        let body = vec![b'x'; len];
        assert_eq!(used(&body), used(&body));
    }
    let module = engine.compile(&wasm(MOODS), Metering::Fuel).unwrap();
    let moods = Policy::new(&engine, module, Default::default(), Isolation::Reused).unwrap();
    assert_eq!(reason(&moods, "loop"), "policy.timeout");
    assert_eq!(reason(&moods, "all right"), "allow");
}

// EDGE-14
#[test]
fn lines_of_a_policy_are_kept_only_where_that_is_wanted() {
    let quiet = policy(MOODS).judge(&question(), b"quote a secret");
    assert_eq!((quiet.log_lines, quiet.log.len()), (1, 0));
    let engine = engine_with(|limits| limits.log = LogLines::Kept);
    let kept = policy_on(&engine, MOODS).judge(&question(), b"quote\x1b[31m");
    assert_eq!(kept.log, ["quote [31m"]);
}

// EDGE-14
#[test]
fn same_bytes_are_compiled_once() {
    let engine = engine();
    let bytes = wasm(ALLOW);
    let first = engine.compile(&bytes, Metering::Time).unwrap();
    let second = engine.compile(&bytes, Metering::Time).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    let metered = engine.compile(&bytes, Metering::Fuel).unwrap();
    assert!(!Arc::ptr_eq(&first, &metered));
}

// EDGE-14
#[test]
fn verdict_is_the_same_at_any_time_and_on_any_thread() {
    let malware = policy(MALWARE);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..500 {
                    let clean = "x".repeat(n);
                    assert_eq!(reason(&malware, &clean), "allow");
                    assert_eq!(reason(&malware, &format!("{clean}malware")), "deny");
                }
            });
        }
    });
}
