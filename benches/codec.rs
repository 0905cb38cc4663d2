//! What an envelope and a record cost to look at.
//!
//! Claim: the edge's pass over an envelope of 1 KiB costs less than a full decode of it by a
//! factor (docs/performance.md, "codec"). The limit beside it is copying the same bytes.
//!
//! Claim: to find the causal past of a record among a million others costs no more than to parse
//! them, since only their clocks are read, up to the entry that decides (`src/broker/causality.rs`).

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run must stop")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::{ControlFlow, Range};

use arqonbus::broker::causality::{History, Inquiry, Limits, Seen};
use arqonbus::log::{Chunk, RecordRef, Sequence};
use arqonbus::proto::v1;
use arqonbus::proto::view::{EnvelopeView, RecordView};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message as _;

fn envelope() -> v1::Envelope {
    payload_of(1024)
}

fn payload_of(bytes: usize) -> v1::Envelope {
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
            data: Bytes::from(vec![b'x'; bytes]),
        })),
        ..v1::Envelope::default()
    }
}

/// Sequences of the records that are asked about, all of them in memory.
const RECORDS: u64 = 1_000_000;
/// Records of a chunk, as a log gives them.
const CHUNK_RECORDS: u64 = 1_024;
const PRODUCERS: u64 = 8;

/// Records in chunks, framed as in a log, whose producers have all seen each other; and behind
/// them two more, which have seen nobody, and everybody but the producer whose name comes last.
struct Chunks(Vec<Chunk>);

impl Chunks {
    fn new() -> Self {
        let mut chunks = Vec::new();
        let mut records = Vec::new();
        let mut base = 1;
        for sequence in 1..=RECORDS + 2 {
            let round = |producer: u64| (sequence + PRODUCERS - producer) / PRODUCERS;
            let mut clock = BTreeMap::from([("n1/main".to_owned(), sequence)]);
            if sequence != RECORDS + 1 {
                let all = if sequence <= RECORDS {
                    PRODUCERS
                } else {
                    PRODUCERS - 1
                };
                clock.extend((0..all).map(|one| (format!("producer-{one}"), round(one))));
            } else {
                clock.insert("stranger".to_owned(), 1);
            }
            let record = v1::Record {
                sequence,
                appended_at: 1_770_000_000_000_000 + sequence,
                clock: Some(v1::VectorClock { entries: clock }),
                topic: "quake.usgs.event".to_owned(),
                envelope: payload_of(64).encode_to_vec().into(),
                crc: 1,
                ..v1::Record::default()
            };
            prost::encoding::encode_key(
                1,
                prost::encoding::WireType::LengthDelimited,
                &mut records,
            );
            record.encode_length_delimited(&mut records).unwrap();
            if sequence % CHUNK_RECORDS == 0 || sequence == RECORDS + 2 {
                chunks.push(Chunk {
                    base: Sequence::new(base).unwrap(),
                    last: Sequence::new(sequence).unwrap(),
                    records: std::mem::take(&mut records).into(),
                });
                base = sequence + 1;
            }
        }
        Self(chunks)
    }

    fn records(&self) -> impl Iterator<Item = RecordRef<'_>> {
        self.0.iter().flat_map(Chunk::iter)
    }
}

impl History for Chunks {
    type Error = Infallible;

    fn bounds(&self) -> Range<Sequence> {
        Sequence::FIRST
            ..self
                .0
                .last()
                .map_or(Sequence::FIRST, |chunk| chunk.last.next())
    }

    fn read(
        &mut self,
        range: Range<Sequence>,
        each: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>,
    ) -> Result<(), Infallible> {
        let after = self.0.partition_point(|chunk| chunk.last < range.start);
        let records = self.0[after..].iter().flat_map(Chunk::iter);
        for record in records.skip_while(|record| record.sequence < range.start) {
            if record.sequence >= range.end || each(Seen::Record(record)).is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn causality(criterion: &mut Criterion) {
    let mut chunks = Chunks::new();
    let mut group = criterion.benchmark_group("causal_past_of_a_million");
    group.sample_size(10);
    group.throughput(Throughput::Elements(RECORDS));
    group.bench_function("frames", |bencher| {
        bencher.iter(|| {
            chunks
                .records()
                .map(|record| record.topic.len())
                .sum::<usize>()
        });
    });
    group.bench_function("parse", |bencher| {
        let parse = |record: RecordRef<'_>| RecordView::parse(record.record).unwrap().sequence;
        bencher.iter(|| chunks.records().map(parse).max());
    });
    let limits = Limits {
        answers: 100,
        records: u64::MAX,
        bytes: u64::MAX,
    };
    for (name, of) in [
        ("decided_early", RECORDS + 1),
        ("decided_late", RECORDS + 2),
    ] {
        let of = Sequence::new(of).unwrap();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let inquiry = Inquiry::new(&mut chunks, &|_topic| true, limits);
                let answer = inquiry.past(of).unwrap();
                assert!(answer.complete && answer.scanned >= RECORDS, "{answer:?}");
            });
        });
    }
    group.finish();
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

criterion_group!(benches, codec, causality);
criterion_main!(benches);
