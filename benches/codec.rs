//! What an envelope and a record cost to look at.
//!
//! Claim: the edge's pass over an envelope of 1 KiB costs less than a full decode of it by a
//! factor (docs/performance.md, "codec"). The limit beside it is copying the same bytes.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run must stop")]

use std::collections::BTreeMap;

use arqonbus::proto::v1;
use arqonbus::proto::view::EnvelopeView;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message as _;

fn envelope() -> v1::Envelope {
    v1::Envelope {
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
        timestamp: 1_770_000_000_000,
        headers: BTreeMap::from([("content-type".to_owned(), "application/json".to_owned())]),
        id: "0197c1f0-7d2c-7c3e-9a64-0d3f6c1b2a10".to_owned(),
        topic: "quake.usgs.event".to_owned(),
        producer_id: "bench".to_owned(),
        key: "uw61345682".to_owned(),
        payload: Some(v1::envelope::Payload::Event(v1::Event {
            r#type: "quake.usgs.event".to_owned(),
            data: Bytes::from(vec![b'x'; 1024]),
        })),
        ..v1::Envelope::default()
    }
}

fn codec(criterion: &mut Criterion) {
    let message = envelope();
    let encoded = Bytes::from(message.encode_to_vec());
    let mut group = criterion.benchmark_group("envelope_1_kib");
    group.throughput(Throughput::Bytes(encoded.len() as u64));
    group.bench_function("view", |bencher| {
        bencher.iter(|| {
            EnvelopeView::parse(std::hint::black_box(&encoded))
                .unwrap()
                .topic
                .len()
        });
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| v1::Envelope::decode(std::hint::black_box(encoded.clone())).unwrap());
    });
    let mut buffer = Vec::with_capacity(encoded.len());
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            buffer.clear();
            std::hint::black_box(&message).encode(&mut buffer).unwrap();
        });
    });
    group.bench_function("copy", |bencher| {
        bencher.iter(|| {
            buffer.clear();
            buffer.extend_from_slice(std::hint::black_box(&encoded));
        });
    });
    group.bench_function("crc32", |bencher| {
        bencher.iter(|| crc32fast::hash(std::hint::black_box(&encoded)));
    });
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
