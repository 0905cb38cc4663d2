//! What judging a message costs (PERF-06): the claims are in docs/performance.md.
//!
//! `policy/empty`: a policy that allows everything, with its context, so the price of the host.
//! `policy/scan`: one that looks at every byte of 1 KiB, beside the same search in plain Rust.
//! `pipeline/`: all checks of a message of 1 KiB, each alone and all together, with one policy, one
//! schema and one subscription, and with a hundred, a thousand and ten thousand of them.

use std::hint::black_box;
use std::sync::Arc;

use arqonbus::broker::access::Topics;
use arqonbus::broker::journal::Event;
use arqonbus::broker::trie::Trie;
use arqonbus::broker::{Filter, Identity, Role, Tenant};
use arqonbus::config::Config;
use arqonbus::edge::metrics::Metrics;
use arqonbus::edge::policy::{
    Engine, Isolation, Limits, Metering, Policy, Question, Ruling, Tallies,
};
use arqonbus::edge::rate::Payers;
use arqonbus::edge::rate::allowance::{Allowance, Pace};
use arqonbus::edge::shield::judge::Judgement;
use arqonbus::edge::shield::{Findings, Message, Rules, Workshop};
use arqonbus::log::{Micros, Sequence};
use arqonbus::proto::v1::{
    self as wire, CasilPolicy, Envelope, PolicyEvent, PolicyManifest, PolicyPushed, SchemaBound,
    SchemaMessage, SchemaMode, SchemaRegistered, envelope, policy_event, schema_bound,
    schema_registered,
};
use arqonbus::proto::view::EnvelopeView;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message as _;
use protox::file::{File, FileResolver};
use sha2::{Digest as _, Sha256};

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

const TOPIC: &str = "order.placed";
const ORDER: &str = r#"syntax = "proto3"; package t;
message Order { string id = 1; string customer = 2; int64 placed_at = 3; repeated Line lines = 4;
  double total = 5; }
message Line { string sku = 1; uint32 quantity = 2; double price = 3; string note = 4; }"#;

struct Text;

impl FileResolver for Text {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        File::from_source(name, ORDER)
    }
}

/// 1 KiB of protobuf.
fn order() -> Vec<u8> {
    use prost::encoding::{bytes, double, int64, string, uint32};
    let mut data = Vec::new();
    let texts = ["0197c1f0-7d2c-7c3e-9a64-0d3f6c1b2a10", "customer-4711"];
    for (tag, text) in (1..).zip(texts) {
        string::encode(tag, &text.to_owned(), &mut data);
    }
    int64::encode(3, &1_770_000_000_000, &mut data);
    for line in 0..12 {
        let mut inner = Vec::new();
        string::encode(1, &format!("sku-{line:06}"), &mut inner);
        uint32::encode(2, &3, &mut inner);
        double::encode(3, &19.95, &mut inner);
        let note = "wrapped as a present, with a card that says hello";
        string::encode(4, &note.to_owned(), &mut inner);
        bytes::encode(4, &inner, &mut data);
    }
    double::encode(5, &59.85, &mut data);
    data
}

/// The same as JSON, nearly.
fn order_as_json() -> Vec<u8> {
    let line = r#"{"sku":"sku-000001","quantity":3,"price":19.95,"note":"wrapped as a present"}"#;
    let lines = [line; 12].join(",");
    format!(r#"{{"customer":"customer-4711","lines":[{lines}],"total":59.85}}"#).into_bytes()
}

fn envelope(topic: &str, data: Vec<u8>) -> Bytes {
    let event = wire::Event {
        r#type: "order.placed".into(),
        data: data.into(),
    };
    let envelope = Envelope {
        topic: topic.into(),
        payload: Some(envelope::Payload::Event(event)),
        ..Envelope::default()
    };
    envelope.encode_to_vec().into()
}

/// What is in force.
struct Made {
    rules: Rules,
    workshop: Workshop,
    sequence: u64,
}

impl Made {
    fn new() -> Self {
        let config = Config::default();
        let workshop = Workshop::new(&config, &Metrics::new()).expect("tools");
        let rules = Rules::of_node(&config, &workshop).expect("good settings");
        Self {
            rules,
            workshop,
            sequence: 0,
        }
    }

    fn apply(&mut self, topic: &str, kind: &str, event: &impl prost::Message) {
        self.sequence += 1;
        let event = Event {
            sequence: Sequence::at_least_first(self.sequence),
            at: Micros(0),
            topic,
            kind,
            data: &event.encode_to_vec(),
        };
        self.rules.apply(&event).expect("it can be applied");
    }

    fn with_policy(mut self, name: &str, text: &str, topic: &str) -> Self {
        let module = wat::parse_str(text).expect("a module");
        let pushed = PolicyPushed {
            version: 1,
            digest: Sha256::digest(&module).to_vec().into(),
            module: module.into(),
            manifest: Some(PolicyManifest {
                topics: vec![topic.into()],
                ..PolicyManifest::default()
            }),
            activate: true,
        };
        let event = PolicyEvent {
            change: Some(policy_event::Change::Pushed(pushed)),
        };
        self.apply(&format!("sys.edge.policy.{name}"), "edge.policy", &event);
        self
    }

    fn with_schema(mut self, subject: &str, pattern: &str) -> Self {
        let mut compiler = protox::Compiler::with_file_resolver(Text);
        compiler.open_file("t.proto").expect("a schema");
        let message = SchemaMessage {
            descriptors: compiler.file_descriptor_set().encode_to_vec().into(),
            message: "t.Order".into(),
        };
        let registered = SchemaRegistered {
            version: 1,
            form: Some(schema_registered::Form::Protobuf(message)),
            mode: SchemaMode::None.into(),
        };
        let topic = format!("sys.edge.schema.subject.{subject}");
        self.apply(&topic, "schema.registered", &registered);
        let bound = SchemaBound {
            pattern: pattern.into(),
            subject: subject.into(),
            level: schema_bound::Level::Reject.into(),
            unknown: schema_bound::Unknown::Reject.into(),
            empty_allowed: false,
        };
        let topic = format!("sys.edge.schema.binding.{subject}");
        self.apply(&topic, "schema.bound", &bound);
        self
    }

    /// What CASIL does by default, in force.
    fn with_casil(mut self, personal_data: &str) -> Self {
        let policy = CasilPolicy {
            enabled: true,
            mode: "enforce".into(),
            block_on_probable_secret: true,
            personal_data: personal_data.into(),
            ..self.rules.casil.policy().clone()
        };
        self.apply("sys.edge.casil", "edge.casil", &policy);
        self
    }

    fn ready(mut self) -> Rules {
        let faults = self.rules.prepare(&self.workshop);
        assert!(faults.is_empty(), "{faults:?}");
        self.rules
    }
}

fn sender() -> Identity {
    let filter = |text| Filter::new(text).expect("a filter");
    Identity {
        tenant: Tenant::new("tenant-1").expect("a name"),
        subject: "alice".into(),
        role: Role::User,
        publish: Topics::listed(vec![filter("order.>")], vec![filter("order.secret.>")]),
        subscribe: Topics::All,
        expires_at: None,
        issued_at: None,
        token_id: None,
        ends_by: None,
    }
}

fn allowance() -> Allowance {
    let pace = Pace {
        messages_per_second: 1 << 39,
        bytes_per_second: 1 << 40,
        burst_ms: 1_000,
    };
    Allowance::new(pace).expect("a limit")
}

/// A subscription of which one wants the topic, and so many others.
fn subscriptions(count: u32) -> Trie<u32> {
    let mut trie = Trie::default();
    trie.insert(&Filter::new("order.*").expect("a filter"), 0);
    for other in 1..count {
        let filter = Filter::new(&format!("order.{other}.>")).expect("a filter");
        trie.insert(&filter, other);
    }
    trie
}

fn pipeline(c: &mut Criterion) {
    let (sender, session, tenant) = (sender(), allowance(), allowance());
    let nothing = Made::new().ready();
    let (one, many) = (subscriptions(1), subscriptions(10_000));
    let mut group = c.benchmark_group("pipeline");
    let encoded = [envelope(TOPIC, order())];
    let as_json = [envelope(TOPIC, order_as_json())];
    for encoded in [&encoded, &as_json] {
        let size = encoded[0].len();
        assert!((1000..1200).contains(&size), "{size}");
    }
    group.bench_function("envelope", |b| {
        b.iter(|| EnvelopeView::parse(black_box(&encoded[0])).is_ok());
    });
    group.bench_function("acl", |b| {
        b.iter(|| assert!(sender.may_publish(black_box(TOPIC))));
    });
    let pay = |rules: &Rules, encoded: &[Bytes]| {
        let payers = Payers {
            session: Some(&session),
            tenant: Some(&tenant),
            topics: &rules.rates,
        };
        assert!(payers.pay(TOPIC, encoded).is_ok());
    };
    group.bench_function("rate", |b| b.iter(|| pay(&nothing, black_box(&encoded))));
    for (name, subscriptions) in [("subscriptions_1", &one), ("subscriptions_10000", &many)] {
        group.bench_function(name, |b| {
            b.iter(|| subscriptions.matches(black_box(TOPIC), |_| {}));
        });
    }
    let mut judge =
        |name: &str, rules: &Rules, encoded: &[Bytes; 1], around: Option<&Trie<u32>>| {
            let view = EnvelopeView::parse(&encoded[0]).expect("an envelope");
            let message = Message {
                sender: &sender,
                topic: TOPIC,
                view: &view,
                now_ms: 1_700_000_000_000,
            };
            let mut judgement = Judgement::default();
            group.bench_function(name, |b| {
                b.iter(|| {
                    if let Some(subscriptions) = around {
                        assert!(sender.may_publish(black_box(TOPIC)));
                        pay(rules, encoded);
                        subscriptions.matches(TOPIC, |_| {});
                    }
                    judgement
                        .pass(rules, black_box(&message))
                        .expect("it passes");
                });
            });
        };
    judge("nothing_in_force", &nothing, &encoded, None);
    let schema = Made::new().with_schema("order", "order.>").ready();
    judge("schema", &schema, &encoded, None);
    let policy = || Made::new().with_policy("scan", MALWARE, "order.>");
    judge("policy", &policy().ready(), &encoded, None);
    for personal in ["off", "redact"] {
        let casil = Made::new().with_casil(personal).ready();
        judge(
            &format!("casil_personal_{personal}"),
            &casil,
            &encoded,
            None,
        );
        let name = format!("casil_json_personal_{personal}");
        judge(&name, &casil, &as_json, None);
        let all = || policy().with_casil(personal);
        let whole = all().with_schema("order", "order.>").ready();
        judge(
            &format!("whole_personal_{personal}"),
            &whole,
            &encoded,
            Some(&one),
        );
        let name = format!("whole_json_personal_{personal}");
        judge(&name, &all().ready(), &as_json, Some(&one));
        let mut crowded = all().with_schema("order", "order.>");
        for other in 1..100 {
            let topics = format!("other.{other}.>");
            crowded = crowded.with_policy(&format!("other-{other}"), ALLOW, &topics);
        }
        for other in 1..1_000 {
            crowded = crowded.with_schema(&format!("other-{other}"), &format!("other.{other}"));
        }
        let name = format!("whole_crowded_personal_{personal}");
        judge(&name, &crowded.ready(), &encoded, Some(&many));
    }
    let whole = policy().with_schema("order", "order.>").ready();
    judge("whole_casil_off", &whole, &encoded, Some(&one));
    group.finish();
}

fn casil_off(c: &mut Criterion) {
    let (sender, encoded) = (sender(), envelope(TOPIC, order()));
    let nothing = Made::new().ready();
    let view = EnvelopeView::parse(&encoded).expect("an envelope");
    let message = Message {
        sender: &sender,
        topic: TOPIC,
        view: &view,
        now_ms: 1_700_000_000_000,
    };
    let mut findings = Findings::default();
    c.bench_function("pipeline/casil_off", |b| {
        b.iter(|| {
            let inspected = nothing.casil.inspect(black_box(&message), &mut findings);
            assert!(inspected.is_ok());
        });
    });
}

criterion_group!(benches, policies, pipeline, casil_off);
criterion_main!(benches);
