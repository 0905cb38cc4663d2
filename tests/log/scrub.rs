//! Bit rot in segments that nobody reads is found, told once, and harms nobody.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use arqonbus::log::{Durability, Throttle, Unthrottled};

use crate::damage::{BATCHES_AT, Sound, data_end, flip};
use crate::dice::Dice;
use crate::session::{Session, record, small_options};

// LOG-08: a hundred damages in sealed segments, one after the other, are all found.
#[test]
fn every_planted_damage_is_found_in_one_cycle() {
    let sound = Sound::new(true);
    let sealed = sound.segments.len() - 1;
    let mut dice = Dice::new(8);
    for _ in 0..100 {
        let (path, bytes) = sound
            .segments
            .iter()
            .nth(dice.index(sealed))
            .expect("sealed");
        let bits = BATCHES_AT * 8..data_end(bytes) * 8;
        let bit = bits.start + dice.index(bits.len());
        let storage = sound.storage.copy();
        storage.plant(path, flip(bytes, bit));
        let session = Session::open(&storage, &sound.clock, &small_options()).expect("opens");
        assert_eq!(session.log.status().scrub.finished_at, None);
        let found = session.log.scrub(&Unthrottled).expect("readable");
        let found = found.expect("not ended");
        let paths: BTreeSet<_> = found.damages.iter().map(|damage| &damage.path).collect();
        assert_eq!(paths, BTreeSet::from([path]), "bit {bit}");
        assert_eq!(session.log.status().scrub, found);
        assert!(found.finished_at.is_some());
        // What is damaged long ago does not keep anybody from writing.
        session
            .append(1, vec![record("t", b"x")], Durability::Synced, None)
            .expect("the log takes writes");
        session.committer.run_until_idle();
    }
}

// LOG-08: the segment that is written to is read too, as far as it is written.
#[test]
fn damage_in_the_active_segment_is_found() {
    let sound = Sound::new(true);
    let (path, bytes) = sound.last();
    let storage = sound.storage.copy();
    let session = Session::open(&storage, &sound.clock, &small_options()).expect("sound");
    let scrub = || session.log.scrub(&Unthrottled).expect("readable");
    assert_eq!(scrub().expect("not ended").damages, []);
    storage.plant(path, flip(bytes, (BATCHES_AT + 100) * 8));
    let found = scrub().expect("not ended").damages;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(&found[0].path, path);
}

// LOG-08: a sound log is found sound, whole, and at the speed allowed.
#[test]
fn a_sound_log_is_scrubbed_whole_and_slowly() {
    #[derive(Default)]
    struct Counted(AtomicU64, u64);
    impl Throttle for Counted {
        fn take(&self, bytes: u64) -> bool {
            self.0.fetch_add(bytes, Ordering::SeqCst) + bytes <= self.1
        }
    }
    let sound = Sound::new(true);
    let session = Session::open(&sound.storage, &sound.clock, &small_options()).expect("sound");
    let all = Counted(AtomicU64::default(), u64::MAX);
    let found = session.log.scrub(&all).expect("readable").expect("whole");
    assert!(found.damages.is_empty(), "{found:?}");
    assert_eq!(found.segments, sound.segments.len() as u64);
    assert_eq!(all.0.load(Ordering::SeqCst), found.bytes);
    let half = Counted(AtomicU64::default(), found.bytes / 2);
    assert_eq!(session.log.scrub(&half).expect("readable"), None);
    assert_eq!(
        session.log.status().scrub,
        found,
        "an unfinished one says nothing"
    );
}
