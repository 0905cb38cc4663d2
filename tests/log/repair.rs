//! A damaged log is repaired: it takes writes again, all that could be read before can be read
//! after, what cannot is named for ever, and no byte is thrown away.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arqonbus::log::{
    Committer, Durability, Environment, Error, Found, Log, LossStatement, Sequence, Unthrottled,
};

use crate::damage::{BATCHES_AT, HEADER_BYTES, Harvest, Sound, data_end, flip, last_batch};
use crate::session::{DIR, Session, record, small_options, writer};
use crate::sim_storage::{Fault, SimStorage};

fn repair(sound: &Sound, storage: &SimStorage) -> Result<Option<LossStatement>, Error> {
    let environment = Environment {
        storage: Arc::new(storage.clone()),
        clock: Arc::<crate::session::SimClock>::clone(&sound.clock),
        committer: Committer::manual(),
    };
    Log::repair(
        &environment,
        Path::new(DIR),
        &writer(),
        &small_options(),
        &Unthrottled,
    )
}

/// Something that happens to a file.
struct Blow {
    how: &'static str,
    path: PathBuf,
    /// `None`: it is gone.
    bytes: Option<Vec<u8>>,
}

/// More than ten ways to damage a log of at least three segments.
fn blows(sound: &Sound) -> Vec<Blow> {
    let files: Vec<_> = sound.segments.iter().collect();
    let (first, last) = (files[0], files[files.len() - 1]);
    let middle = files[files.len() / 2];
    assert!(files.len() >= 3, "first, middle and last differ");
    let mut blows = Vec::new();
    let mut blow = |how, (path, bytes): (&PathBuf, &Vec<u8>), change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        blows.push(Blow {
            how,
            path: path.clone(),
            bytes: Some(bytes),
        });
    };
    blow("a flipped bit in a record", first, &|bytes| {
        bytes[BATCHES_AT + 300] ^= 1;
    });
    blow("a flipped bit in a batch header", middle, &|bytes| {
        bytes[BATCHES_AT + 9] ^= 1;
    });
    blow("a zeroed sector", last, &|bytes| {
        bytes[BATCHES_AT..BATCHES_AT + 512].fill(0);
    });
    blow("garbage over several batches", middle, &|bytes| {
        bytes[BATCHES_AT + 100..BATCHES_AT + 3000].fill(0xa5);
    });
    blow("both headers of a sealed segment", middle, &|bytes| {
        bytes[..BATCHES_AT].fill(0);
    });
    blow("both headers of the last segment", last, &|bytes| {
        bytes[..BATCHES_AT].fill(0x11);
    });
    blow(BEHIND_THE_RECORDS, first, &|bytes| {
        let from = data_end(bytes) + 40;
        assert!(from < bytes.len(), "a segment has free space");
        bytes[from..].fill(0xa5);
    });
    blow("a shortened sealed segment", first, &|bytes| {
        bytes.truncate(BATCHES_AT + 2000);
    });
    blow("a shortened last segment", last, &|bytes| {
        bytes.truncate(BATCHES_AT + (last_batch(last.1) - BATCHES_AT) / 2);
    });
    blow(ENDS_EARLY, last, &|bytes| {
        let from = BATCHES_AT + (data_end(last.1) - BATCHES_AT) / 2;
        bytes[from..].fill(0);
    });
    blows.push(Blow {
        how: "a missing segment",
        path: middle.0.clone(),
        bytes: None,
    });
    blows.push(Blow {
        how: GONE,
        path: last.0.clone(),
        bytes: None,
    });
    blows.push(Blow {
        how: "a segment of another log in the place of one",
        path: middle.0.clone(),
        bytes: Some(foreign(middle.1)),
    });
    blows
}

fn strike(sound: &Sound, blow: &Blow) -> SimStorage {
    let storage = sound.storage.copy();
    match &blow.bytes {
        Some(bytes) => storage.plant(&blow.path, bytes.clone()),
        None => storage.lose(&blow.path),
    }
    storage
}

/// Free space is zeros; what is there instead has cost no record.
const BEHIND_THE_RECORDS: &str = "garbage in the free space of a sealed segment";

/// Nothing but the session's file, which does not survive a power cut for certain, can tell that
/// zeros at the end of a log were records.
const ENDS_EARLY: &str = "a last segment without its end";

const GONE: &str = "a missing last segment";

/// The same segment as another log would have written it.
fn foreign(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[16..32].fill(0x77);
    let crc = crc32fast::hash(&bytes[..252]).to_le_bytes();
    bytes[252..256].copy_from_slice(&crc);
    let header = bytes[..HEADER_BYTES].to_vec();
    bytes[2048..2048 + HEADER_BYTES].copy_from_slice(&header);
    let tag = crc32fast::hash(&[0x77; 16]).to_le_bytes();
    let magic = bytes[BATCHES_AT..BATCHES_AT + 4].to_vec();
    for at in BATCHES_AT..data_end(&bytes).saturating_sub(64) {
        if bytes[at..at + 4] == magic {
            bytes[at + 60..at + 64].copy_from_slice(&tag);
            let crc = crc32fast::hash(&bytes[at + 8..at + 64]).to_le_bytes();
            bytes[at + 4..at + 8].copy_from_slice(&crc);
        }
    }
    bytes
}

fn only_a_close_tells(how: &str) -> bool {
    how == ENDS_EARLY || how == GONE
}

/// What can be read before the repair.
fn readable(sound: &Sound, storage: &SimStorage, context: &str) -> BTreeSet<u64> {
    let session = Session::open(&storage.copy(), &sound.clock, &small_options())
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    let mut harvest = Harvest::default();
    sound.reap(&session, &mut harvest, context);
    harvest.records
}

/// The one that the records of a [`Sound`] log are of.
const TOPIC: &str = "topic.of.some.length";

/// Of which sequences a reader of one topic is told that they are lost.
fn told_by_topic(session: &Session, wanted: &'static str) -> BTreeSet<u64> {
    let bounds = session.log.bounds();
    let mut reader = session
        .log
        .topic_reader(Box::new(move |topic| topic == wanted));
    let mut at = bounds.first;
    let mut told = BTreeSet::new();
    loop {
        match reader.read(at, bounds.written_end, 2000).expect("readable") {
            Found::Records(chunk) => at = chunk.last.next(),
            Found::Damaged { next, .. } => {
                // What is told may begin before the range itself, where nothing was of this topic.
                told.extend(at.get()..next.get());
                at = next;
            }
            Found::End => return told,
        }
    }
}

/// The log as it should be after a repair.
fn check_repaired(sound: &Sound, storage: &SimStorage, readable: &BTreeSet<u64>, context: &str) {
    let options = small_options();
    let session = Session::open(storage, &sound.clock, &options)
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(session.log.status().read_only, None, "{context}");
    let mut harvest = Harvest::default();
    sound.reap(&session, &mut harvest, context);
    assert!(
        harvest.records.is_superset(readable),
        "{context}: lost by the repair: {:?}",
        readable.difference(&harvest.records).collect::<Vec<_>>()
    );
    let by_topic = told_by_topic(&session, TOPIC);
    assert!(
        by_topic.is_superset(&harvest.told) && by_topic.is_subset(&harvest.told),
        "{context}: a reader of one topic was told of {by_topic:?}, not of {:?}",
        harvest.told
    );
    let missing = sound.missing(&harvest);
    let told = |sequence: &u64| harvest.told.contains(sequence);
    assert!(
        missing.iter().all(told),
        "{context}: {missing:?} are missing, the reader was told of {:?}",
        harvest.told
    );
    for damage in &harvest.damages {
        assert_eq!(damage.what, "records put aside by a repair", "{context}");
    }
    // Goes on behind everything that was ever there.
    let latest = *sound.envelopes.keys().next_back().expect("records");
    session
        .append(7, vec![record("t", b"after")], Durability::Synced, None)
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    session.committer.run_until_idle();
    let end = session.log.bounds().durable_end;
    assert!(end.get() > latest + 1, "{context}: {end} after {latest}");
    let before = end.previous().expect("a record was appended");
    let Found::Records(chunk) = session.log.read(before, end, 1 << 20).expect("readable") else {
        panic!("{context}: the new record cannot be read")
    };
    assert_eq!(chunk.base, before, "{context}");
    session.committer.run_chores();
    let scrubbed = session.log.scrub(&Unthrottled).expect("readable");
    let found = scrubbed.expect("not ended").damages;
    assert!(found.is_empty(), "{context}: {found:?}");
    session.log.close().expect("a sound disk");
    drop(session);
    assert!(
        matches!(repair(sound, storage), Ok(None)),
        "{context}: nothing is left to repair"
    );
    let reopened = Session::open(storage, &sound.clock, &options).expect("a sound log");
    assert!(
        reopened.statement.is_none(),
        "{context}: {:?}",
        reopened.statement
    );
}

// LOG-03: ten kinds of damage are repaired; good records stay, lost ones are named, damaged bytes
// are kept.
#[test]
fn ten_kinds_of_damage_are_repaired() {
    for closed in [true, false] {
        let sound = Sound::of(70, closed);
        for blow in blows(&sound) {
            if only_a_close_tells(blow.how) && !closed {
                continue;
            }
            let context = format!("{}, closed {closed}", blow.how);
            let storage = strike(&sound, &blow);
            let readable = readable(&sound, &storage, &context);
            let statement = repair(&sound, &storage)
                .unwrap_or_else(|error| panic!("{context}: {error}"))
                .unwrap_or_else(|| panic!("{context}: not noticed"));
            assert!(!statement.damages.is_empty(), "{context}");
            let text = statement.to_json().to_string();
            for aside in &statement.quarantined {
                let kept = storage.files().remove(&aside.copy).expect("the copy");
                let damaged = blow.bytes.as_ref().expect("bytes are there");
                let start = usize::try_from(aside.range.start).expect("small");
                assert_eq!(kept, damaged[start..start + kept.len()], "{context}");
                assert!(text.contains(&*aside.copy.to_string_lossy()), "{text}");
            }
            assert!(storage.files().contains_key(&statement.path), "{context}");
            check_repaired(&sound, &storage, &readable, &context);
        }
    }
}

/// Nobody is told of a loss, and nothing is missing.
fn check_whole(sound: &Sound, storage: &SimStorage, context: &str) {
    let session = Session::open(storage, &sound.clock, &small_options())
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    let mut harvest = Harvest::default();
    sound.reap(&session, &mut harvest, context);
    assert_eq!(sound.missing(&harvest), [] as [u64; 0], "{context}");
    assert!(harvest.told.is_empty(), "{context}: {:?}", harvest.told);
    for topic in [TOPIC, "topic.of.no.record"] {
        let by_topic = told_by_topic(&session, topic);
        assert!(by_topic.is_empty(), "{context}, {topic}: {by_topic:?}");
    }
}

// LOG-03, LOG-08: damage where no record is costs none and is told to no reader, before a repair
// and after; the bytes are kept all the same.
#[test]
fn damage_in_free_space_loses_nothing() {
    let sound = Sound::of(70, true);
    let blows = blows(&sound);
    let found = blows.iter().find(|blow| blow.how == BEHIND_THE_RECORDS);
    let blow = found.expect("it is one of them");
    for index in ["with its index", "without its index"] {
        let storage = strike(&sound, blow);
        if index.starts_with("without") {
            storage.lose(&blow.path.with_extension("idx"));
        }
        check_whole(&sound, &storage.copy(), &format!("{index}, damaged"));
        let statement = repair(&sound, &storage).expect("a sound disk");
        let statement = statement.expect("it is damage");
        assert_eq!(statement.damages.len(), 1, "{statement:?}");
        let aside = &statement.quarantined[0];
        let kept = &storage.files()[&aside.copy];
        assert!(kept.contains(&0xa5), "{statement:?}");
        check_whole(&sound, &storage, &format!("{index}, repaired"));
    }
}

// LOG-03: what is not damaged is left alone, also when its end is torn, which opening mends.
#[test]
fn a_sound_log_is_not_repaired() {
    for closed in [true, false] {
        let sound = Sound::of(70, closed);
        let before = sound.storage.files();
        assert!(matches!(repair(&sound, &sound.storage), Ok(None)));
        for (path, bytes) in before {
            if path.extension().is_some_and(|extension| extension == "seg") {
                assert_eq!(sound.storage.files()[&path], bytes);
            }
        }
    }
}

// LOG-03, LOG-04: power may fail at every step of a repair, which is then done again.
#[test]
fn a_repair_can_be_cut_off_anywhere() {
    let sound = Sound::of(70, true);
    let seen = blows(&sound);
    for blow in seen.iter().filter(|blow| !only_a_close_tells(blow.how)) {
        let whole = strike(&sound, blow);
        let readable = readable(&sound, &whole, blow.how);
        let before = whole.calls();
        repair(&sound, &whole).expect("a sound disk");
        let calls = whole.calls() - before;
        for cut in 0..calls {
            let context = format!("{}, power cut after {cut} calls", blow.how);
            let storage = strike(&sound, blow);
            storage.cut_after(cut);
            assert!(repair(&sound, &storage).is_err(), "{context}");
            let storage = storage.power_cut(cut);
            repair(&sound, &storage).unwrap_or_else(|error| panic!("{context}: {error}"));
            check_repaired(&sound, &storage, &readable, &context);
        }
    }
}

// LOG-03, REL-07: any call of a repair may fail; trying again mends the log.
#[test]
fn any_call_of_a_repair_may_fail() {
    let sound = Sound::of(70, true);
    for blow in blows(&sound) {
        let whole = strike(&sound, &blow);
        let readable = readable(&sound, &whole, blow.how);
        let before = whole.calls();
        repair(&sound, &whole).expect("a sound disk");
        let calls = whole.calls() - before;
        for call in 1..=calls {
            let context = format!("{}, call {call} fails", blow.how);
            let storage = strike(&sound, &blow);
            storage.fail_call(call, Fault::Io);
            // A missing session file or boot id is no reason to give up.
            if repair(&sound, &storage).is_err() {
                storage.heal();
                repair(&sound, &storage).unwrap_or_else(|error| panic!("{context}: {error}"));
            }
            storage.heal();
            check_repaired(&sound, &storage, &readable, &context);
        }
    }
}

// LOG-03, MSG-03, REL-14: a log that was opened read-only still knows where it was closed, so that
// its repair gives out no sequence again.
#[test]
fn a_look_at_a_damaged_log_does_not_forget_where_it_was_closed() {
    let sound = Sound::of(70, true);
    let blow = blows(&sound).into_iter().find(|blow| blow.how == GONE);
    let storage = strike(&sound, &blow.expect("it is one of them"));
    let readable = readable(&sound, &storage, GONE);
    for _ in 0..2 {
        let session = Session::open(&storage, &sound.clock, &small_options()).expect("opens");
        assert!(session.log.status().read_only.is_some());
        drop(session.log.close());
    }
    assert!(repair(&sound, &storage).expect("a sound disk").is_some());
    check_repaired(&sound, &storage, &readable, GONE);
}

// LOG-03, MSG-03, REL-14: a closed log without any segment is no new log.
#[test]
fn a_log_all_of_whose_segments_are_gone_does_not_begin_anew() {
    let sound = Sound::new(true);
    let storage = sound.storage.copy();
    for path in sound.segments.keys() {
        storage.lose(path);
    }
    let opened = Session::open(&storage, &sound.clock, &small_options());
    assert!(matches!(&opened, Err(Error::Damaged(damage)) if damage.what == "segments"));
    assert!(repair(&sound, &storage).expect("a sound disk").is_some());
    let session = Session::open(&storage, &sound.clock, &small_options()).expect("repaired");
    let latest = *sound.envelopes.keys().next_back().expect("records");
    assert!(session.log.bounds().written_end.get() > latest);
}

// LOG-03, LOG-12, REL-14: what another log has written is not shown as one's own.
#[test]
fn a_segment_of_another_log_is_damage() {
    let sound = Sound::of(70, true);
    let (path, bytes) = sound.segments.iter().nth(1).expect("a middle one");
    let harvest = sound.harvest(path, &foreign(bytes), "foreign");
    assert!(harvest.read_only);
    let missing = sound.missing(&harvest);
    assert!(!missing.is_empty() && missing.iter().all(|at| harvest.told.contains(at)));
}

// LOG-03, REL-14: readers are told of a segment that is missing, before anybody repairs the log.
#[test]
fn readers_are_told_of_a_missing_segment() {
    let sound = Sound::of(70, true);
    let storage = sound.storage.copy();
    storage.lose(sound.segments.keys().nth(1).expect("a middle one"));
    let session = Session::open(&storage, &sound.clock, &small_options()).expect("opens");
    let mut harvest = Harvest::default();
    sound.reap(&session, &mut harvest, "missing");
    let missing = sound.missing(&harvest);
    assert!(!missing.is_empty(), "nothing is missing");
    assert_eq!(harvest.told.iter().copied().collect::<Vec<_>>(), missing);
    assert_eq!(told_by_topic(&session, TOPIC), harvest.told);
}

// LOG-07: nobody repairs under the feet of a writer.
#[test]
fn an_open_log_is_not_repaired() {
    let sound = Sound::of(70, true);
    let session = Session::open(&sound.storage, &sound.clock, &small_options()).expect("sound");
    assert!(matches!(
        repair(&sound, &sound.storage),
        Err(Error::Locked { .. })
    ));
    drop(session);
}

// LOG-03, LOG-14: the header of a segment stands twice; one of them is enough, and is put back.
#[test]
fn one_damaged_header_heals_when_the_log_is_opened() {
    let sound = Sound::new(true);
    for (path, bytes) in &sound.segments {
        for bit in (0..HEADER_BYTES * 8).step_by(97) {
            let storage = sound.storage.copy();
            storage.plant(path, flip(bytes, bit));
            let opened = Session::open(&storage, &sound.clock, &small_options());
            let Ok(session) = opened else {
                // A later version is refused as such.
                assert!((64..80).contains(&bit), "bit {bit}: {opened:?}");
                continue;
            };
            assert_eq!(session.log.status().read_only, None, "bit {bit}");
            assert_eq!(
                storage.files()[path][..BATCHES_AT],
                bytes[..BATCHES_AT],
                "bit {bit}"
            );
            assert_eq!(session.log.bounds().first, Sequence::FIRST);
        }
    }
}
