//! What holding a payload against its schema costs.
//!
//! Claim: the walk over a payload of 420 bytes to 1 KiB costs no more than 0.3 µs, a fraction of
//! decoding it by its descriptor (docs/schema.md); and it costs the same whether one subject is
//! registered or a thousand.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run must stop")]

use std::hint::black_box;

use arqonbus::broker::Filter;
use arqonbus::config::UnknownFields;
use arqonbus::edge::schema::definition::{Definition, Form};
use arqonbus::edge::schema::pattern::Patterns;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message as _;
use prost_reflect::DynamicMessage;
use protox::file::{File, FileResolver};

const ORDER: &str = r#"syntax = "proto3"; package t;
message Order { string id = 1; string customer = 2; int64 placed_at = 3; Status status = 4;
  repeated Line lines = 5; map<string, string> labels = 6; double total = 7; bool paid = 8; }
message Line { string sku = 1; uint32 quantity = 2; double price = 3; string note = 4; }
enum Status { UNKNOWN = 0; OPEN = 1; SHIPPED = 2; }"#;

struct Text;

impl FileResolver for Text {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        File::from_source(name, ORDER)
    }
}

fn definition() -> Definition {
    let mut compiler = protox::Compiler::with_file_resolver(Text);
    compiler.open_file("t.proto").unwrap();
    let set = compiler.file_descriptor_set().encode_to_vec();
    Definition::protobuf(&set, "t.Order").unwrap()
}

/// An order with so many lines.
fn order(lines: usize) -> Vec<u8> {
    use prost::encoding::{bool, bytes, double, int32, int64, string, uint32};
    let mut data = Vec::new();
    string::encode(
        1,
        &"0197c1f0-7d2c-7c3e-9a64-0d3f6c1b2a10".to_owned(),
        &mut data,
    );
    string::encode(2, &"customer-4711".to_owned(), &mut data);
    int64::encode(3, &1_770_000_000_000, &mut data);
    int32::encode(4, &1, &mut data);
    for line in 0..lines {
        let mut inner = Vec::new();
        string::encode(1, &format!("sku-{line:06}"), &mut inner);
        uint32::encode(2, &3, &mut inner);
        double::encode(3, &19.95, &mut inner);
        string::encode(
            4,
            &"wrapped as a present, with a card that says hello".to_owned(),
            &mut inner,
        );
        bytes::encode(5, &inner, &mut data);
    }
    double::encode(7, &59.85, &mut data);
    bool::encode(8, &true, &mut data);
    data
}

fn walk(c: &mut Criterion) {
    let definition = definition();
    let Form::Protobuf { table, .. } = &definition.form else {
        return;
    };
    let message = definition.descriptor().unwrap();
    let mut group = c.benchmark_group("schema");
    for lines in [4, 11] {
        let data = order(lines);
        assert!(table.fits(&data, UnknownFields::Reject));
        group.throughput(Throughput::Bytes(data.len() as u64));
        group.bench_with_input(BenchmarkId::new("walk", data.len()), &data, |b, data| {
            b.iter(|| table.fits(black_box(data), UnknownFields::Reject));
        });
        group.bench_with_input(BenchmarkId::new("decode", data.len()), &data, |b, data| {
            b.iter(|| DynamicMessage::decode(message.clone(), black_box(data.as_slice())).unwrap());
        });
    }
    for subjects in [1, 1_000] {
        let mut patterns = Patterns::default();
        for subject in 0..subjects {
            let filter = Filter::new(&format!("orders.{subject}.>")).unwrap();
            patterns.bind(&filter, subject);
        }
        group.bench_with_input(
            BenchmarkId::new("binding", subjects),
            &patterns,
            |b, patterns| {
                b.iter(|| patterns.of(black_box("orders.0.new")));
            },
        );
    }
    group.finish();
}

criterion_group!(benches, walk);
criterion_main!(benches);
