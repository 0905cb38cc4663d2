//! What judging a message costs (PERF-06): the claims are in docs/performance.md.
//!
//! `policy/empty`: a policy that allows everything, with its context, so the price of the host.
//! `policy/scan`: one that looks at every byte of 1 KiB, beside the same search in plain Rust.

use std::hint::black_box;
use std::sync::Arc;

use arqonbus::edge::policy::{
    Engine, Isolation, Limits, Metering, Policy, Question, Ruling, Tallies,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const ALLOW: &str = include_str!("../tests/fixtures/policy/allow.wat");
const MALWARE: &str = include_str!("../tests/fixtures/policy/malware.wat");

fn policy(engine: &Engine, text: &str, metering: Metering, isolation: Isolation) -> Arc<Policy> {
    let wasm = wat::parse_str(text).expect("a module");
    let module = engine.compile(&wasm, metering).expect("a policy");
    Policy::new(engine, module, Default::default(), isolation).expect("a good configuration")
}

fn question() -> Question<'static> {
    Question {
        topic: "payment.card.used",
        tenant: "tenant-1",
        subject: "alice",
        role: "user",
        producer: "alice",
        kind: "card.used",
        now_ms: 1_700_000_000_000,
        ..Question::default()
    }
}

/// 1 KiB of text in which every letter of the word occurs, and the word does not.
fn body() -> Vec<u8> {
    let text = b"the quick brown fox jumps over a lazy dog, warm and well; ";
    text.iter().copied().cycle().take(1024).collect()
}

/// What the module does, as plain Rust.
fn scan(body: &[u8]) -> bool {
    body.windows(7)
        .any(|window| window[0] == b'm' && window == b"malware")
}

fn policies(c: &mut Criterion) {
    let engine = Engine::open(Limits::default(), Tallies::default()).expect("an engine");
    let (question, body) = (question(), body());
    let mut measure = |name: &str, policy: &Policy| {
        let mut group = c.benchmark_group("policy");
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let judged = policy.judge(black_box(&question), black_box(&body));
                assert_eq!(judged.outcome, Ok(Ruling::Allow));
            });
        });
        group.finish();
    };
    let reused = Isolation::Reused;
    measure("empty", &policy(&engine, ALLOW, Metering::Time, reused));
    measure("scan", &policy(&engine, MALWARE, Metering::Time, reused));
    measure(
        "scan_metered",
        &policy(&engine, MALWARE, Metering::Fuel, reused),
    );
    measure(
        "scan_isolated",
        &policy(&engine, MALWARE, Metering::Time, Isolation::Message),
    );
    let mut group = c.benchmark_group("policy");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("scan_in_rust", |b| {
        b.iter(|| assert!(!scan(black_box(&body))));
    });
    group.finish();
}

criterion_group!(benches, policies);
criterion_main!(benches);
