//! Old records go by age, bytes and count of their topic; who still needs them may hold them.

use arqonbus::log::{Durability, Error, Holder, Limits, Sequence};

use crate::upkept::{Rules, Upkept, Wish};

fn mixed(at: u64) -> Wish {
    match at % 10 {
        0 => Wish::plain("rare", 300),
        1..5 => Wish::plain("k.one", 300),
        _ => Wish::plain("plain", 300),
    }
}

fn records(max: u64) -> Limits {
    Limits {
        records: Some(max),
        ..Limits::default()
    }
}

// LOG-10: where all of a segment is past its limits, the file goes.
#[test]
fn whole_segments_go_from_the_front() {
    let mut log = Upkept::new(1);
    log.fill(400, |_| Wish::plain("plain", 300));
    let report = log.retain(&Rules::of(records(100)));
    assert!(report.removed_segments > 1, "{report:?}");
    assert!(report.rewrites.segments <= 1, "{report:?}");
    let first = log.log().bounds().first;
    assert!(first > Sequence::FIRST);
    let asked = log.log().read(Sequence::FIRST, Sequence::MAX, 1);
    assert!(matches!(asked, Err(Error::OutOfRange { first: f, .. }) if f == first));
    log.close_and_open();
    assert_eq!(log.log().bounds().first, first);
    log.check(900);
}

// LOG-10: by count, by bytes and by age, exactly, where topics with limits lie between others.
#[test]
fn each_limit_holds_for_each_topic() {
    let by_age = Limits {
        age_micros: Some(50_000_000),
        ..Limits::default()
    };
    let by_bytes = Limits {
        bytes: Some(20_000),
        ..Limits::default()
    };
    let by_all = Limits {
        records: Some(60),
        ..Limits {
            bytes: Some(15_000),
            ..by_age
        }
    };
    for limits in [records(50), records(0), by_age, by_bytes, by_all] {
        let mut log = Upkept::new(2);
        for at in 0..300 {
            log.clock.shift(1_000_000);
            log.append(&[mixed(at)], Durability::Synced);
            log.chores();
        }
        let rare = |log: &Upkept| log.model.values().filter(|k| k.topic == "rare").count();
        let before = rare(&log);
        let report = log.retain(&Rules::of(limits));
        assert!(
            report.rewrites.records_removed > 100,
            "{limits:?}: {report:?}"
        );
        assert_eq!(rare(&log), before, "a topic without limits");
        let again = log.retain(&Rules::of(limits));
        assert_eq!(again.bytes_reclaimed(), 0, "nothing is left to do");
        log.kill_and_open();
        log.check(4096);
        log.fill(100, mixed);
        log.retain(&Rules::of(limits));
    }
}

// LOG-10: rewriting waits until half of what would be written again is to go, except for what is
// past its age for long.
#[test]
fn little_is_not_worth_a_rewrite_until_it_is_overdue() {
    let mut log = Upkept::new(3);
    log.fill(200, |at| match at % 4 {
        0 => Wish::plain("plain", 300),
        _ => Wish::plain("rare", 300),
    });
    let rules = Rules {
        dead_percent: 50,
        overdue_micros: 1_000,
        ..Rules::of(Limits {
            age_micros: Some(1_000),
            ..Limits::default()
        })
    };
    log.clock.shift(1_500);
    let may_go = log.past_limits(&rules);
    let report = log.try_retain(&rules).expect("a sound disk");
    assert_eq!(report.bytes_reclaimed(), 0, "{report:?}");
    assert!(report.dead_bytes_left > 0);
    log.adopt(&std::collections::BTreeSet::new());
    log.clock.shift(1_000);
    let report = log.try_retain(&rules).expect("a sound disk");
    assert_eq!(report.dead_bytes_left, 0);
    assert_eq!(report.rewrites.records_removed, may_go.len() as u64);
    log.adopt(&may_go);
}

// LOG-10: cursors hold records back, as far as they may, and it is visible who does.
#[test]
fn holders_keep_what_they_need_within_their_bound() {
    let mut log = Upkept::new(4);
    log.fill(400, mixed);
    let holder = |name: &str, at| Holder {
        name: name.to_owned(),
        needs_from: Sequence::new(at).expect("a position"),
    };
    let mut rules = Rules {
        holders: vec![
            holder("late", 100),
            holder("later", 50),
            holder("done", 399),
        ],
        hold_bytes_max: u64::MAX,
        ..Rules::of(records(0))
    };
    let past = log.past_limits(&rules);
    let may_go = past.iter().copied().filter(|at| *at < 50).collect();
    let report = log.try_retain(&rules).expect("a sound disk");
    log.adopt(&may_go);
    assert!(!log.model.keys().any(|at| may_go.contains(at)));
    let held = |name: &str| {
        let mut all = report.held.iter();
        all.find(|held| held.name == name).expect("holds something")
    };
    let bytes_from = |from| -> u64 {
        let kept = past.range(from..).map(|at| &log.model[at]);
        kept.map(|kept| kept.field.len() as u64).sum()
    };
    assert_eq!(held("late").bytes, bytes_from(100));
    assert_eq!(held("later").bytes, bytes_from(50));
    assert!(!held("later").is_cut_short());
    assert_eq!(held("late").from.get(), 100);
    let done = report.held.iter().find(|held| held.name == "done");
    assert_eq!(done.map_or(0, |held| held.bytes), bytes_from(399));

    // Too much is held: the oldest goes nevertheless.
    rules.hold_bytes_max = 40_000;
    let report = log.try_retain(&rules).expect("a sound disk");
    let later = report.held.iter().find(|held| held.name == "later");
    let later = later.expect("it still holds something");
    assert!(later.is_cut_short() && later.bytes <= 40_000, "{later:?}");
    let may_go = past.iter().copied().filter(|at| *at < later.from.get());
    let may_go = may_go.collect();
    log.adopt(&may_go);
    assert!(!log.model.keys().any(|at| may_go.contains(at)));
    rules.holders.clear();
    log.retain(&rules);
}

// LOG-10, REL-12: a clock that jumps back removes nothing, one that jumps forward removes what is
// old by then; records appended meanwhile are as old as the log's own time says.
#[test]
fn clock_jumps_do_what_is_documented() {
    let mut log = Upkept::new(5);
    let rules = Rules::of(Limits {
        age_micros: Some(3_600_000_000),
        ..Limits::default()
    });
    log.fill(200, |_| Wish::plain("plain", 300));
    log.clock.shift(-7_200_000_000);
    log.fill(100, |_| Wish::plain("plain", 300));
    let report = log.retain(&rules);
    assert_eq!(report.bytes_reclaimed(), 0, "{report:?}");
    log.clock.shift(2 * 7_200_000_000);
    let report = log.retain(&rules);
    assert!(report.removed_segments > 0, "{report:?}");
    assert!(log.model.keys().all(|at| *at >= log.active_base()));
}

// LOG-10: what a power cut may still take does not count as kept.
#[test]
fn only_what_is_on_the_disk_counts() {
    let mut log = Upkept::new(6);
    log.fill(200, |_| Wish::plain("plain", 300));
    // The first of its kind is flushed with the reservation that it needs.
    log.append(&[Wish::plain("plain", 20)], Durability::Written);
    log.append(
        &[Wish::plain("plain", 20), Wish::plain("plain", 20)],
        Durability::Written,
    );
    let bounds = log.log().bounds();
    assert!(bounds.durable_end < bounds.written_end, "not flushed yet");
    let durable = bounds.durable_end.get() - 1;
    let kept = durable - log.active_base() + 5;
    log.retain(&Rules::of(records(kept)));
    let left = log.model.range(..=durable).count() as u64;
    assert_eq!(left, kept);
}
