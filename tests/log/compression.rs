//! Compressed segments hold the same records, found in the same ways, in fewer bytes.

use arqonbus::log::{Compression, Durability, Limits, Micros, Unthrottled};

use crate::upkept::{Rules, TOPICS, Upkept, Wish};

fn small(number: u64) -> usize {
    usize::try_from(number).expect("small")
}

fn mixed(at: u64) -> Wish {
    let topic = TOPICS[small(at % 5)];
    Wish::keyed(topic, at % 11, 200 + small(at % 7) * 100)
}

// LOG-15: every way to read gives the same; the ratio is shown; nothing is compressed twice.
#[test]
fn compressed_segments_read_as_before() {
    let mut log = Upkept::new(1);
    log.fill(400, mixed);
    let segments = log.log().status().segments;
    let report = log.try_compress(1).expect("a sound disk");
    assert_eq!(report.rewrites.segments, segments - 2, "{report:?}");
    assert_eq!(report.compressed_segments, segments - 2);
    assert!(report.ratio().expect("something") > 1.3, "{report:?}");
    assert!(report.rewrites.bytes_after < report.rewrites.bytes_before);
    for bytes_max in [1, 700, 1 << 20] {
        log.check(bytes_max);
    }
    let again = log.try_compress(1).expect("a sound disk");
    assert_eq!(again.rewrites.segments, 0);
    assert_eq!(again.ratio(), None);
    log.kill_and_open();
    log.check(4096);
    // What is removed from a compressed segment leaves it compressed.
    log.compact();
    let left = log.try_compress(1).expect("a sound disk");
    assert_eq!(left.rewrites.segments, 0, "{left:?}");
    log.retain(&Rules::of(Limits {
        records: Some(20),
        ..Limits::default()
    }));
    log.close_and_open();
    log.check(1);
}

// LOG-15: what does not shrink stays as it is, and is tried once only.
#[test]
fn what_hardly_shrinks_is_left_as_it_is() {
    use crate::dice::Dice;
    use crate::session::record;
    let log = Upkept::new(2);
    let mut dice = Dice::new(1);
    for token in 0..40 {
        let noise: Vec<u8> = (0..700).flat_map(|_| dice.roll().to_le_bytes()).collect();
        log.session
            .append(
                token,
                vec![record("noise", &noise)],
                Durability::Synced,
                None,
            )
            .expect("queued");
        log.session.committer.run_until_idle();
        log.session.committer.run_chores();
    }
    log.session.scribe.take();
    let files = log.storage.files();
    let report = log.try_compress(0).expect("a sound disk");
    assert_eq!(report.rewrites.segments, 0, "{report:?}");
    assert!(report.incompressible > 2, "{report:?}");
    assert!(log.storage.files() == files, "nothing has changed");
    let again = log.try_compress(0).expect("a sound disk");
    assert_eq!(again.incompressible, 0);
}

// LOG-15: what is young is left alone.
#[test]
fn young_segments_are_left_alone() {
    let mut log = Upkept::new(3);
    log.fill(200, mixed);
    let half = log.now() + 1;
    log.clock.shift(1_000_000);
    log.fill(200, mixed);
    let compression = Compression {
        level: 1,
        newest_left: 0,
        before: Micros(half),
    };
    let segments = log.log().status().segments;
    let report = log.log().compress(&compression, &Unthrottled);
    let report = report.expect("a sound disk");
    assert!(
        (1..segments - 3).contains(&report.rewrites.segments),
        "{report:?}"
    );
    log.check(4096);
}
