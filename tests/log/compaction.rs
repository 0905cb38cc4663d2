//! The newest record of each key stays, the others go; what has expired goes.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arqonbus::log::{Compaction, Durability, Ended, Found, Sequence, Throttle, Unthrottled};

use crate::session::{DIR, START};
use crate::upkept::{GRACE, Kept, Upkept, Wish, facts, rule};

fn values(log: &Upkept, topic: &str) -> Vec<(Vec<u8>, bool)> {
    let of = |kept: &Kept| (kept.topic == topic).then(|| (kept.key.clone(), kept.tombstone));
    log.read_all(4096).values().filter_map(of).collect()
}

// LOG-11: the newest record per key stays; sequences do not change; what is newer than the sealed
// segments counts, and stays.
#[test]
fn the_newest_record_of_each_key_stays() {
    let mut log = Upkept::new(1);
    log.fill(400, |at| Wish::keyed("k.one", at % 7, 500));
    assert!(log.log().status().segments > 4, "several segments");
    let end = log.log().bounds().written_end;
    let report = log.compact();
    assert_eq!(report.keys, 7);
    assert!(report.rewrites.bytes_reclaimed() > 100 << 10, "{report:?}");
    assert_eq!(log.log().bounds().written_end, end);
    // Positions at the front can still be asked for.
    assert_eq!(log.log().bounds().first, Sequence::FIRST);
    log.close_and_open();
    log.check(900);
    assert_eq!(log.log().bounds().written_end, end);

    // Nothing has changed: nothing is looked at.
    assert!(!log.compact().skipped, "the log was opened again");
    assert!(log.compact().skipped);
    log.fill(1, |_| Wish::keyed("k.one", 0, 500));
    assert!(!log.compact().skipped);
}

// LOG-11: a topic is its own key where records have none, as cursors in `_system` do.
#[test]
fn records_without_a_key_have_the_topic_as_their_key() {
    let mut log = Upkept::new(2);
    log.fill(300, |at| match at % 3 {
        0 => Wish::plain("k.one", 400),
        1 => Wish::plain("k.two", 400),
        _ => Wish::plain("plain", 400),
    });
    let before = log
        .model
        .values()
        .filter(|kept| kept.topic == "plain")
        .count();
    log.compact();
    let count = |topic| values(&log, topic).len();
    assert!(count("k.one") < 40 && count("k.two") < 40);
    assert_eq!(count("plain"), before, "not a compacted topic");
}

// LOG-11: a tombstone stays for its grace, and goes with all that it stands for.
#[test]
fn a_tombstone_goes_after_its_grace() {
    let mut log = Upkept::new(3);
    log.fill(100, |at| Wish::keyed("k.one", at % 4, 400));
    for key in [0, 1] {
        let tombstone = Wish {
            tombstone: true,
            ..Wish::keyed("k.one", key, 40)
        };
        log.append(&[tombstone], Durability::Synced);
    }
    // So that all this is sealed.
    log.fill(100, |_| Wish::plain("plain", 400));
    log.compact();
    let tombstones = |log: &Upkept| {
        let values = values(log, "k.one");
        values.iter().filter(|(_, tombstone)| *tombstone).count()
    };
    assert_eq!(tombstones(&log), 2, "in their grace");
    log.clock.shift(i64::try_from(GRACE).expect("small") - 1);
    assert!(log.compact().skipped, "nothing is due yet");
    log.clock.shift(1);
    assert!(!log.compact().skipped);
    assert_eq!(tombstones(&log), 0);
    assert_eq!(values(&log, "k.one").len(), 2);
}

// LOG-11: a tombstone whose older records cannot be removed yet stays, whatever its age.
#[test]
fn no_tombstone_goes_before_what_it_stands_for() {
    let mut log = Upkept::new(4);
    // An old value among much that stays ...
    log.append(&[Wish::keyed("k.one", 1, 40)], Durability::Synced);
    log.fill(80, |_| Wish::plain("plain", 400));
    // ... and the tombstone among much that goes.
    let tombstone = Wish {
        tombstone: true,
        ..Wish::keyed("k.one", 1, 40)
    };
    log.append(&[tombstone], Durability::Synced);
    log.fill(200, |_| Wish::keyed("k.two", 1, 400));
    log.clock.shift(2 * i64::try_from(GRACE).expect("small"));
    let may_go = log.superseded_or_expired();

    // Worth it only for what is behind: then what is before goes as well, or neither does.
    for percent in [90, 60, 30] {
        let compaction = Upkept::compaction(percent, u64::MAX);
        let report = log.log().compact(&compaction, &Unthrottled).expect("sound");
        assert_eq!(report.rewrites.ended, Ended::Complete);
        log.adopt(&may_go);
        let left = values(&log, "k.one");
        assert!(
            left.is_empty() || left.iter().any(|(_, tombstone)| *tombstone),
            "an old value is back at {percent} %: {left:?}"
        );
    }
    // Overdue, it goes however little there is to win.
    log.close_and_open();
    let compaction = Upkept::compaction(100, GRACE);
    log.log().compact(&compaction, &Unthrottled).expect("sound");
    log.adopt(&may_go);
    assert_eq!(values(&log, "k.one"), []);
}

// LOG-11: `expires_at` holds in every topic; a value that expires does not bring back the one
// before it.
#[test]
fn what_has_expired_vanishes() {
    let mut log = Upkept::new(5);
    let wish = |at: u64| {
        let wish = match at % 3 {
            0 => Wish::keyed("k.one", at % 5, 400),
            _ => Wish::plain("plain", 400),
        };
        Wish {
            expires_at: at.is_multiple_of(2).then_some(START + 1_000_000 * at),
            ..wish
        }
    };
    log.fill(300, wish);
    for _ in 0..6 {
        log.clock.shift(61_000_000);
        log.compact();
    }
    let expired = |kept: &Kept| kept.expires_at.is_some_and(|at| at <= log.now());
    let active = log.active_base();
    assert!(!log.model.range(..active).any(|(_, kept)| expired(kept)));
    assert!(log.model.range(..active).next().is_some(), "some stay");
}

// LOG-11: what has expired waits until removing it is worth it, but not for ever.
#[test]
fn few_expired_records_wait_until_they_are_overdue() {
    let mut log = Upkept::new(6);
    log.fill(200, |at| Wish {
        expires_at: (at == 3).then_some(START + 1),
        ..Wish::plain("plain", 400)
    });
    log.clock.shift(10);
    let may_go = log.superseded_or_expired();
    assert_eq!(may_go.len(), 1);
    let compaction = Upkept::compaction(50, 1_000);
    let report = log.log().compact(&compaction, &Unthrottled).expect("sound");
    assert_eq!(report.rewrites.segments, 0);
    assert!(report.dead_bytes_left > 0);
    log.clock.shift(1_000);
    let report = log.log().compact(&compaction, &Unthrottled).expect("sound");
    assert_eq!(report.rewrites.records_removed, 1, "{report:?}");
    log.adopt(&may_go);
    assert!(!log.model.contains_key(&4));
}

// LOG-11, LOG-19: more keys than there is memory for: the newest seen are compacted, the others
// kept whole, and the report says so.
#[test]
fn keys_beyond_the_bound_are_kept() {
    let mut log = Upkept::new(7);
    log.fill(400, |at| Wish::keyed("k.one", at % 100, 400));
    let may_go = log.superseded_or_expired();
    let compaction = Compaction {
        keys_max: 60,
        ..Upkept::compaction(0, 0)
    };
    let report = log.log().compact(&compaction, &Unthrottled).expect("sound");
    assert_eq!(report.keys, 60);
    assert!(report.records_beyond_keys >= 40, "{report:?}");
    let removed = report.rewrites.records_removed;
    assert!(removed > 100 && removed < may_go.len() as u64);
    log.adopt(&may_go);
}

// LOG-11, LOG-08: a damaged segment is left alone and named, and nothing that may hide in it can
// come back.
#[test]
fn a_damaged_segment_is_left_alone() {
    let mut log = Upkept::new(8);
    log.fill(150, |at| Wish::keyed("k.one", at % 10, 400));
    for key in 0..10 {
        let tombstone = Wish {
            tombstone: true,
            ..Wish::keyed("k.one", key, 40)
        };
        log.append(&[tombstone], Durability::Synced);
    }
    log.fill(100, |_| Wish::plain("plain", 400));
    log.clock.shift(2 * i64::try_from(GRACE).expect("small"));
    let first = Path::new(DIR).join("00000000000000000001.seg");
    let mut bytes = log.storage.files()[&first].clone();
    bytes[6000] ^= 1;
    log.storage.plant(&first, bytes.clone());
    let report = log.try_compact().expect("a sound disk");
    assert_eq!(report.rewrites.damaged.len(), 1, "{report:?}");
    assert_eq!(report.rewrites.damaged[0].path, first);
    assert!(report.rewrites.segments > 0, "the others were compacted");
    assert_eq!(log.storage.files()[&first], bytes, "not touched");
    let tombstones = {
        let end = log.log().bounds().written_end;
        let from = Sequence::new(151).expect("a position");
        let Ok(Found::Records(chunk)) = log.log().read(from, end, 1 << 20) else {
            panic!("readable behind the damage")
        };
        let tombstones = chunk.iter().filter(|record| facts(record).tombstone);
        tombstones.count()
    };
    assert!(tombstones > 0, "they still stand for what may be in there");
}

/// Allows so many bytes, and says whether it was asked.
struct Budget(AtomicU64, AtomicBool);

impl Throttle for Budget {
    fn take(&self, bytes: u64) -> bool {
        self.1.store(true, Ordering::Relaxed);
        let enough = |left: u64| left.checked_sub(bytes);
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough);
        taken.is_ok()
    }
}

// LOG-11: a pass that is ended anywhere leaves a log that the next one goes on with.
#[test]
fn a_pass_can_be_ended_anywhere() {
    for budget in (0..600_000).step_by(20_000) {
        let mut log = Upkept::new(9);
        log.fill(200, |at| Wish::keyed("k.one", at % 7, 500));
        let may_go = log.superseded_or_expired();
        let budget = Budget(AtomicU64::new(budget), AtomicBool::new(false));
        let report = log.log().compact(&Upkept::compaction(0, 0), &budget);
        let report = report.expect("a sound disk");
        assert!(budget.1.into_inner(), "it was asked");
        log.adopt(&may_go);
        assert!(!log.segment_names().contains(&"rewriting.tmp".to_owned()));
        if report.rewrites.ended == Ended::Complete {
            assert_eq!(report.rewrites.records_removed, may_go.len() as u64);
        }
        log.compact();
    }
}

// LOG-11: rules that change are applied, although the log has not changed.
#[test]
fn a_new_edition_of_the_rules_is_applied() {
    let mut log = Upkept::new(10);
    log.fill(100, |at| Wish::keyed("k.one", at % 7, 500));
    let none = Compaction {
        rule: &|_| None,
        ..Upkept::compaction(0, 0)
    };
    let report = log.log().compact(&none, &Unthrottled).expect("sound");
    assert_eq!(report.rewrites.records_removed, 0);
    let some = Compaction {
        rule: &rule,
        edition: 7,
        ..none
    };
    let may_go = log.superseded_or_expired();
    let report = log.log().compact(&some, &Unthrottled).expect("sound");
    assert_eq!(report.rewrites.records_removed, may_go.len() as u64);
    log.adopt(&may_go);
}

// LOG-07, LOG-11: a log that is closed is not touched any more, whoever still holds it.
#[test]
fn upkeep_of_a_closed_log_does_nothing() {
    let mut log = Upkept::new(11);
    log.fill(200, |at| Wish::keyed("k.one", at % 7, 500));
    let old = log.log().clone();
    log.close_and_open();
    let files = log.storage.files();
    let report = old.compact(&Upkept::compaction(0, 0), &Unthrottled);
    let ended = report.expect("no error").rewrites.ended;
    assert!(matches!(ended, Ended::Refused { .. }), "{ended:?}");
    let first = old.trim(Sequence::MAX).expect("no error");
    assert_eq!(first, Sequence::FIRST);
    assert!(log.storage.files() == files);
    log.compact();
}
