//! The log must equal a map of records, whatever upkeep is done to it, and in whatever order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arqonbus::log::{
    Clock, Committer, Durability, Environment, Found, Holder, Limits, Log, RealStorage, Sequence,
    Storage, Unthrottled,
};
use proptest::prelude::*;

use crate::session::{Scribe, SimClock, record, small_options, writer};
use crate::upkept::{Rules, TOPICS, Upkept, Wish};

#[derive(Clone, Debug)]
enum Operation {
    Append(Vec<Wish>, bool),
    Fill(u64, Wish),
    Chores,
    Clock(i64),
    /// Exactly, or as far as it is worth it.
    Compact(bool),
    Retain(Rules),
    Compress(usize),
    Check(usize),
    Reopen,
    Kill,
}

fn wish() -> impl Strategy<Value = Wish> {
    let expiry = prop_oneof![3 => Just(None), 1 => (0_u64..60_000_000).prop_map(Some)];
    let key = prop::option::weighted(0.8, 0_u8..8);
    (
        0..TOPICS.len(),
        key,
        prop::bool::weighted(0.2),
        expiry,
        30_usize..1200,
    )
        .prop_map(|(topic, key, tombstone, expires_at, len)| Wish {
            topic: TOPICS[topic],
            key,
            tombstone,
            expires_at: expires_at.map(|after| crate::session::START + after),
            len,
        })
}

fn rules() -> impl Strategy<Value = Rules> {
    let limits = (
        prop::option::of(0_u64..60_000_000),
        prop::option::of(0_u64..60_000),
        prop::option::of(0_u64..200),
    );
    let limits = limits.prop_map(|(age_micros, bytes, records)| Limits {
        age_micros,
        bytes,
        records,
    });
    let holders = prop::collection::vec(1_u64..500, 0..3);
    let percent = prop_oneof![Just(0_u8), Just(50)];
    (
        limits,
        holders,
        prop_oneof![Just(u64::MAX), 0_u64..50_000],
        percent,
    )
        .prop_map(|(limits, holders, hold_bytes_max, dead_percent)| Rules {
            limits,
            holders: holders
                .into_iter()
                .map(|at| Holder {
                    name: format!("at {at}"),
                    needs_from: Sequence::new(at).expect("a position"),
                })
                .collect(),
            hold_bytes_max,
            dead_percent,
            overdue_micros: 5_000_000,
        })
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => (prop::collection::vec(wish(), 1..6), any::<bool>())
            .prop_map(|(wishes, sync)| Operation::Append(wishes, sync)),
        6 => (5_u64..60, wish()).prop_map(|(count, wish)| Operation::Fill(count, wish)),
        2 => Just(Operation::Chores),
        3 => prop_oneof![0_i64..10_000_000, -5_000_000_i64..5_000_000].prop_map(Operation::Clock),
        3 => any::<bool>().prop_map(Operation::Compact),
        3 => rules().prop_map(Operation::Retain),
        2 => (0_usize..3).prop_map(Operation::Compress),
        2 => (1_usize..10_000).prop_map(Operation::Check),
        1 => Just(Operation::Reopen),
        1 => Just(Operation::Kill),
    ]
}

fn apply(log: &mut Upkept, operation: Operation) {
    match operation {
        Operation::Append(wishes, sync) => {
            let durability = if sync {
                Durability::Synced
            } else {
                Durability::Written
            };
            log.append(&wishes, durability);
        }
        Operation::Fill(count, wish) => log.fill(count, |at| Wish {
            key: wish
                .key
                .map(|key| u8::try_from((u64::from(key) + at) % 8).expect("few keys")),
            ..wish.clone()
        }),
        Operation::Chores => log.chores(),
        Operation::Clock(micros) => log.clock.shift(micros),
        Operation::Compact(true) => {
            log.compact();
        }
        Operation::Compact(false) => {
            let may_go = log.superseded_or_expired();
            let compaction = Upkept::compaction(50, 5_000_000);
            log.log().compact(&compaction, &Unthrottled).expect("sound");
            log.adopt(&may_go);
        }
        Operation::Retain(rules) if rules.dead_percent == 0 && rules.holders.is_empty() => {
            log.retain(&rules);
        }
        Operation::Retain(rules) => {
            let past = log.past_limits(&rules);
            let report = log.try_retain(&rules).expect("a sound disk");
            let needs_from = rules.holders.iter().map(|h| h.needs_from).min();
            let held = report.held.iter().map(|held| held.from).min();
            // A holder that holds nothing at all is not in the report.
            let held_from = held.or(needs_from).map_or(u64::MAX, Sequence::get);
            let may_go = past.into_iter().filter(|at| *at < held_from);
            log.adopt(&may_go.collect());
        }
        Operation::Compress(newest_left) => {
            log.try_compress(newest_left).expect("a sound disk");
            log.check(4096);
        }
        Operation::Check(bytes_max) => log.check(bytes_max),
        Operation::Reopen => {
            log.close_and_open();
            log.check(4096);
        }
        Operation::Kill => {
            log.kill_and_open();
            log.check(4096);
        }
    }
}

proptest! {
    // PROPTEST_CASES=2000 is the long run.
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(96),
        failure_persistence: None,
        max_shrink_iters: 1000,
        ..ProptestConfig::default()
    })]

    // REL-06, LOG-09, LOG-10, LOG-11, LOG-15, REL-12
    #[test]
    fn an_upkept_log_equals_a_map(operations in prop::collection::vec(operation(), 1..50)) {
        let mut log = Upkept::new(1);
        for operation in operations {
            apply(&mut log, operation);
        }
        log.check(900);
    }
}

// LOG-10, LOG-11, LOG-15: whoever reads while segments are replaced misses nothing that stays and
// sees nothing twice, and appends go on.
#[test]
fn readers_and_writers_go_on_meanwhile() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let clock: Arc<dyn Clock> = SimClock::new();
    let storage: Arc<dyn Storage> = Arc::new(RealStorage);
    let environment = Environment {
        storage,
        clock,
        committer: Committer::start(1),
    };
    let scribe = Arc::new(Scribe::default());
    let (log, _) = Log::open(
        &environment,
        &dir.path().join("main"),
        &writer(),
        &small_options(),
        Arc::<Scribe>::clone(&scribe),
    )
    .expect("a sound disk");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..3_000_u64 {
                let wish = match number % 5 {
                    0 => Wish::plain("plain", 200),
                    _ => Wish::keyed("k.one", number % 7, 200),
                };
                append(&log, &scribe, number, &wish);
            }
            over.store(true, Ordering::Release);
        });
        for topic_only in [false, true] {
            let (log, over) = (&log, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Acquire) {
                    assert_plain_is_whole(log, topic_only);
                }
            });
        }
        let mut rewritten = 0;
        while !over.load(Ordering::Acquire) {
            let compaction = Upkept::compaction(0, 0);
            let report = log.compact(&compaction, &Unthrottled).expect("sound");
            rewritten += report.rewrites.segments;
            let compression = arqonbus::log::Compression {
                level: 1,
                newest_left: 0,
                before: arqonbus::log::Micros(u64::MAX),
            };
            let report = log.compress(&compression, &Unthrottled).expect("sound");
            rewritten += report.rewrites.segments;
        }
        assert!(rewritten > 10, "{rewritten} segments were replaced");
    });
    assert_plain_is_whole(&log, false);
    log.close().expect("closed");
}

fn append(log: &Log, scribe: &Arc<Scribe>, number: u64, wish: &Wish) {
    log.append(arqonbus::log::Append {
        records: vec![record(wish.topic, &wish.envelope(number))],
        durability: Durability::Written,
        then: None,
        sink: Arc::<Scribe>::clone(scribe),
        token: number,
    })
    .expect("queued");
    scribe.take();
}

/// Every fifth sequence from the first is in the topic `plain`, and stays.
fn assert_plain_is_whole(log: &Log, topic_only: bool) {
    let end = log.bounds().durable_end;
    let mut reader = log.topic_reader(Box::new(|topic| topic == "plain"));
    let mut at = Sequence::FIRST;
    let mut found = Vec::new();
    loop {
        let read = if topic_only {
            reader.read(at, end, 3_000)
        } else {
            log.read(at, end, 3_000)
        };
        match read.expect("readable") {
            Found::Records(chunk) => {
                let plain = chunk.iter().filter(|record| record.topic == "plain");
                found.extend(plain.map(|record| record.sequence.get()));
                at = chunk.last.next();
            }
            Found::Damaged { damage, .. } => panic!("{damage}"),
            Found::End => break,
        }
    }
    let expected: Vec<u64> = (1..end.get()).step_by(5).collect();
    assert_eq!(found, expected);
    let distinct: BTreeSet<_> = found.iter().collect();
    assert_eq!(distinct.len(), found.len());
}
