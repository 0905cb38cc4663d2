//! Encrypted logs: what is in them is not on the disk, and can be had with the right keys alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arqonbus::log::batch::{self, BatchHeader};
use arqonbus::log::offline::Directory;
use arqonbus::log::segment::SegmentHeader;
use arqonbus::log::{
    Durability, Encryption, Environment, Error, Found, KeyProblem, Log, Micros, NewSegments,
    Options, Sequence, Storage as _, Unthrottled,
};

use crate::secrets::{
    NEW, OLD, encrypted_options, encryption, masters, nonces, options_without_randomness,
};
use crate::session::{DIR, START, Session, SimClock, record, small_options, writer};
use crate::sim_storage::{Fault, SimStorage};

const CANARY: &str = "canary.Quetzalcoatl.sings";
const SONG: &[u8] = b"a plain song that nobody but its owner shall hear";
const BATCHES_AT: usize = 4096;

/// A machine with an encrypted log on it.
struct Machine {
    storage: SimStorage,
    clock: Arc<SimClock>,
    options: Options,
}

impl Machine {
    fn new(options: Options) -> Self {
        let storage = SimStorage::new(1);
        storage.note_writes();
        Self {
            storage,
            clock: SimClock::new(),
            options,
        }
    }

    fn open(&self) -> Session {
        self.try_open(&self.options)
            .unwrap_or_else(|error| panic!("cannot be opened: {error}"))
    }

    fn try_open(&self, options: &Options) -> Result<Session, Error> {
        Session::open(&self.storage, &self.clock, options)
    }

    fn with(&self, change: impl FnOnce(&mut Encryption)) -> Options {
        let mut options = self.options.clone();
        change(options.encryption.as_mut().expect("encrypted"));
        options
    }

    fn with_masters(&self, lines: &str) -> Options {
        self.with(|encryption| encryption.masters = masters(lines))
    }

    fn environment(&self, session: &Session) -> Environment {
        Environment {
            storage: Arc::new(self.storage.clone()),
            clock: Arc::<SimClock>::clone(&self.clock),
            committer: Arc::clone(&session.committer),
        }
    }

    /// One batch with a record of each topic, a millisecond later.
    fn sing(&self, session: &Session, times: u64) {
        for _ in 0..times {
            self.clock.shift(1000);
            let verse = SONG.repeat(8);
            let records = vec![record(CANARY, &verse), record("other", b"short")];
            session
                .append(0, records, Durability::Synced, None)
                .expect("queued");
            session.committer.run_until_idle();
            session.committer.run_chores();
        }
    }

    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = self.storage.files();
        // The one file that a refused opening may touch.
        files.remove(&Path::new(DIR).join("LOCK"));
        files
    }

    fn headers(&self) -> Vec<SegmentHeader> {
        let files = self.storage.files().into_iter();
        let segments = files.filter(|(path, bytes)| {
            path.extension().is_some_and(|kind| kind == "seg") && bytes.starts_with(b"ARQONSEG")
        });
        segments
            .map(|(_, bytes)| {
                let header = bytes.first_chunk().expect("a header");
                SegmentHeader::decode(header).expect("a good header")
            })
            .collect()
    }

    fn keys_path() -> PathBuf {
        Path::new(DIR).join("keys")
    }

    /// Which data keys the segments are encrypted with; zeros: none.
    fn key_ids(&self) -> Vec<[u8; 16]> {
        let mut ids: Vec<_> = self.headers().iter().map(|header| header.key_id).collect();
        ids.dedup();
        ids
    }
}

/// Sequences and topics of all that can be read.
fn read_all(log: &Log) -> Vec<(u64, String)> {
    let end = log.bounds().durable_end;
    let mut at = log.bounds().first;
    let mut found = Vec::new();
    loop {
        match log.read(at, end, 3000).expect("a sound disk") {
            Found::Records(chunk) => {
                for record in chunk.iter() {
                    assert!(record.topic != CANARY || holds(record.record, SONG));
                    found.push((record.sequence.get(), record.topic.to_owned()));
                }
                at = chunk.last.next();
            }
            Found::Damaged { damage, .. } => panic!("no damage was planted: {damage}"),
            Found::End => return found,
        }
    }
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Everything that reads gives what was written: by position, by topic, by time, in sum.
fn assert_sings(log: &Log, times: u64) {
    let all: Vec<_> = (1..=2 * times)
        .map(|n| (n, [CANARY, "other"][usize::from(n % 2 == 0)].to_owned()))
        .collect();
    assert_eq!(read_all(log), all);

    let mut reader = log.topic_reader(Box::new(|topic| topic == CANARY));
    let (mut at, mut verses) = (Sequence::FIRST, Vec::new());
    let end = log.bounds().durable_end;
    while let Found::Records(chunk) = reader.read(at, end, 2000).expect("a sound disk") {
        verses.extend(chunk.iter().map(|record| record.sequence.get()));
        at = chunk.last.next();
    }
    assert_eq!(verses, (1..=2 * times).step_by(2).collect::<Vec<_>>());

    for batch in [1, times / 2, times] {
        let time = Micros(START + 1000 * batch);
        let found = log.seek_time(time).expect("a sound disk");
        assert_eq!(found.get(), 2 * batch - 1, "by time {batch}");
    }
    let topics = log.topics().expect("a sound disk");
    let topics: Vec<_> = topics
        .iter()
        .map(|topic| (topic.topic.as_str(), topic.records))
        .collect();
    assert_eq!(topics, [(CANARY, times), ("other", times)]);
}

// LOG-14: a round trip through every way to read, in the session that wrote, after a clean close,
// a kill and a power cut, with the index files and without them.
#[test]
fn whatever_is_written_is_read_back() {
    let mut machine = Machine::new(encrypted_options(1));
    let session = machine.open();
    machine.sing(&session, 120);
    assert!(session.log.status().segments > 2);
    assert!(machine.headers().iter().all(SegmentHeader::is_encrypted));
    assert_sings(&session.log, 120);
    session.log.close().expect("a sound disk");
    drop(session);

    let session = machine.open();
    assert_eq!(session.statement, None);
    assert_sings(&session.log, 120);
    machine.sing(&session, 30);
    machine.storage = machine.storage.process_kill();
    let session = machine.open();
    assert_sings(&session.log, 150);
    machine.sing(&session, 30);
    machine.storage = machine.storage.power_cut(7);
    for (path, _) in machine.files() {
        if path.extension().is_some_and(|kind| kind == "idx") {
            machine.storage.remove(&path).expect("a sound disk");
        }
    }
    assert_sings(&machine.open().log, 180);
}

/// Everything that was ever handed to the disk, and everything on it now.
fn ever_written(machine: &Machine) -> Vec<Vec<u8>> {
    let written = machine.storage.written().into_iter().map(|one| one.bytes);
    written.chain(machine.files().into_values()).collect()
}

// LOG-14: neither topics nor payloads nor keys are on the disk, in no file and at no time.
#[test]
fn no_plain_text_ever_reaches_the_disk() {
    let sung = |options: Options| {
        let machine = Machine::new(options);
        let session = machine.open();
        machine.sing(&session, 100);
        // Retired segments are recycled.
        let before = Sequence::new(100).expect("not 0");
        session.log.trim(before).expect("a sound disk");
        machine.sing(&session, 100);
        session.log.close().expect("a sound disk");
        let kinds: BTreeSet<_> = machine
            .files()
            .into_keys()
            .filter_map(|path| Some(path.extension()?.to_str()?.to_owned()))
            .collect();
        assert!(kinds.contains("idx") && kinds.contains("seg"), "{kinds:?}");
        ever_written(&machine)
    };
    let leaked = |written: &[Vec<u8>]| {
        let secret = |bytes: &Vec<u8>| holds(bytes, SONG) || holds(bytes, b"Quetzalcoatl");
        written.iter().filter(|bytes| secret(bytes)).count()
    };
    assert_eq!(leaked(&sung(encrypted_options(2))), 0);
    // This would have found it.
    assert!(leaked(&sung(small_options())) > 100);
}

// LOG-14: encryption is turned on for a log that is there, and off again, from the next append on;
// what is there stays readable as it is.
#[test]
fn encryption_is_turned_on_and_off_with_the_next_append() {
    let mut machine = Machine::new(small_options());
    let session = machine.open();
    machine.sing(&session, 5);
    session.log.close().expect("a sound disk");
    drop(session);

    machine.options.encryption = Some(encryption(3));
    let session = machine.open();
    let id = session.log.current_key().expect("a key was made");
    assert_eq!(
        machine.key_ids(),
        [[0; 16]],
        "not before there is an append"
    );
    machine.sing(&session, 5);
    assert_eq!(machine.key_ids(), [[0; 16], id]);
    session.log.close().expect("a sound disk");
    drop(session);

    machine.options = machine.with(|encryption| encryption.new_segments = NewSegments::Plain);
    let session = machine.open();
    assert_eq!(session.log.current_key(), None);
    machine.sing(&session, 5);
    assert_eq!(machine.key_ids(), [[0; 16], id, [0; 16]]);
    assert_sings(&session.log, 15);
    assert!(matches!(
        session.log.rotate_key(),
        Err(Error::NotEncrypted { .. })
    ));
    session.log.close().expect("a sound disk");
    drop(session);

    machine.options = machine.with(|encryption| encryption.new_segments = NewSegments::Encrypted);
    let session = machine.open();
    assert_eq!(session.log.current_key(), Some(id), "the key is there");
    machine.sing(&session, 5);
    assert_sings(&session.log, 20);
}

// LOG-14: a new data key is used from the next append on, without rewriting what is there.
#[test]
fn a_data_key_is_rotated_without_rewriting() {
    let machine = Machine::new(encrypted_options(4));
    let session = machine.open();
    machine.sing(&session, 10);
    let first = session.log.current_key().expect("a key");
    let before = machine.storage.files();
    let second = session.log.rotate_key().expect("a sound disk");
    assert_ne!(first, second);
    let changed: Vec<_> = machine
        .storage
        .files()
        .into_iter()
        .filter(|(path, bytes)| before.get(path) != Some(bytes))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(changed, [Machine::keys_path()]);
    machine.sing(&session, 10);
    assert_eq!(machine.key_ids(), [first, second]);
    // Twice without an append between is as good as once.
    session.log.rotate_key().expect("a sound disk");
    let last = session.log.rotate_key().expect("a sound disk");
    machine.sing(&session, 10);
    assert_eq!(machine.key_ids(), [first, second, last]);
    assert_sings(&session.log, 30);
    session.log.close().expect("a sound disk");
    let closed = session.log.rotate_key().expect_err("closed").to_string();
    assert!(closed.contains("rotate the key"), "{closed}");
    drop(session);
    let session = machine.open();
    assert_eq!(session.log.current_key(), Some(last));
    assert_sings(&session.log, 30);
}

// LOG-14: the current master key takes over at the next opening; no segment is touched, and the old
// one is not needed any more.
#[test]
fn a_master_key_is_rotated_by_opening() {
    let machine = Machine::new(encrypted_options(5));
    let session = machine.open();
    machine.sing(&session, 10);
    session.log.rotate_key().expect("a sound disk");
    machine.sing(&session, 10);
    session.log.close().expect("a sound disk");
    drop(session);

    let before = machine.headers();
    let both = machine.with_masters(&format!("{NEW}\n{OLD}"));
    let session = machine.try_open(&both).expect("both are given");
    assert_sings(&session.log, 20);
    session.log.close().expect("a sound disk");
    drop(session);
    assert_eq!(machine.headers(), before);

    let refused = machine.try_open(&machine.with_masters(OLD));
    let Err(Error::Key { problem, .. }) = refused else {
        panic!("the old master key still opens it: {refused:?}");
    };
    assert!(matches!(problem, KeyProblem::NoMaster { .. }), "{problem}");
    let session = machine
        .try_open(&machine.with_masters(NEW))
        .expect("the new one is enough");
    assert_sings(&session.log, 20);
}

/// Opening with `options` is refused in these words, and nothing is written.
fn assert_refused(machine: &Machine, options: &Options, words: &[&str]) {
    let before = machine.files();
    let refused = machine.try_open(options);
    let error = refused.expect_err("to be refused").to_string();
    for word in words {
        assert!(error.contains(word), "no {word:?} in: {error}");
    }
    for secret in [OLD, NEW] {
        let (_, key) = secret.split_once(':').expect("NAME:KEY");
        assert!(!error.contains(key), "a key is in {error}");
    }
    assert!(machine.files() == before, "the refused opener has written");
}

// LOG-14: with a wrong key or none the log is refused; the error names the file, the key that is
// wanted, what was given and what to try. Nothing is written.
#[test]
fn a_wrong_key_is_refused_with_what_to_try() {
    let machine = Machine::new(encrypted_options(6));
    let session = machine.open();
    machine.sing(&session, 60);
    drop(session);
    let segment = format!("{DIR}/00000000000000000001.seg");
    assert_refused(
        &machine,
        &small_options(),
        &[
            &segment,
            "master key old (id",
            "given: none",
            "log.master_key_file",
        ],
    );
    assert_refused(
        &machine,
        &machine.with_masters(NEW),
        &[&segment, "master key old (id", "given: new (id"],
    );
    // The same name does not make it the same key.
    let impostor = NEW.replace("new:", "old:");
    assert_refused(
        &machine,
        &machine.with_masters(&impostor),
        &["master key old (id", "given: old (id"],
    );
    assert_sings(&machine.open().log, 60);
}

// LOG-14: every encrypted byte depends on the file of keys: without it, or with a damaged one, the
// log is refused; no new key is made in its place.
#[test]
fn a_missing_or_damaged_file_of_keys_is_refused() {
    let machine = Machine::new(encrypted_options(7));
    let session = machine.open();
    machine.sing(&session, 10);
    let first = session.log.current_key().expect("a key");
    drop(session);
    let path = Machine::keys_path();
    let good = machine.storage.files()[&path].clone();

    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        machine.storage.plant(&path, bad);
        assert_refused(&machine, &machine.options, &["damage in", "/keys at byte"]);
        assert_refused(&machine, &small_options(), &["damage in", "/keys at byte"]);
    }
    for len in [0, 1, 64, good.len() - 1] {
        machine.storage.plant(&path, good[..len].to_vec());
        assert_refused(&machine, &machine.options, &["length of the key file"]);
    }
    // A forged entry with a good checksum.
    let mut forged = good.clone();
    forged[64 + 70] ^= 1;
    let crc_at = forged.len() - 4;
    let crc = crc32fast::hash(&forged[..crc_at]);
    forged[crc_at..].copy_from_slice(&crc.to_le_bytes());
    machine.storage.plant(&path, forged);
    assert_refused(&machine, &machine.options, &["not what master key old"]);

    // An older copy, which does not hold the key that came later.
    machine.storage.plant(&path, good.clone());
    let session = machine.open();
    session.log.rotate_key().expect("a sound disk");
    machine.sing(&session, 1);
    drop(session);
    let younger = machine.storage.files()[&path].clone();
    machine.storage.plant(&path, good);
    assert_refused(&machine, &machine.options, &["does not hold", "backup"]);

    machine.storage.plant(&path, younger);
    machine
        .storage
        .rename(&path, &path.with_extension("away"))
        .expect("a sound disk");
    assert_refused(&machine, &machine.options, &["is missing", "backup"]);
    assert_refused(&machine, &small_options(), &["is missing", "backup"]);
    machine
        .storage
        .rename(&path.with_extension("away"), &path)
        .expect("a sound disk");
    let session = machine.open();
    assert_sings(&session.log, 11);
    assert_eq!(machine.key_ids()[0], first);
}

/// What somebody finds who reads all of the log, damage and all.
fn damages(log: &Log) -> Vec<&'static str> {
    let end = log.bounds().written_end;
    let mut at = log.bounds().first;
    let mut damages = Vec::new();
    loop {
        match log.read(at, end, 100_000).expect("a sound disk") {
            Found::Records(chunk) => at = chunk.last.next(),
            Found::Damaged { damage, next } => {
                damages.push(damage.what);
                at = next;
            }
            Found::End => return damages,
        }
    }
}

// LOG-14: a bit that flips is noticed by a checksum; whoever knows checksums and flips one with
// them is noticed by the tag. Either way it is damage, and no other record is lost with it.
#[test]
fn every_flipped_bit_is_damage_also_with_a_good_checksum() {
    let machine = Machine::new(encrypted_options(8));
    let session = machine.open();
    machine.sing(&session, 60);
    session.log.close().expect("a sound disk");
    drop(session);
    let path = Path::new(DIR).join("00000000000000000001.seg");
    let good = machine.storage.files()[&path].clone();
    let header = BatchHeader::decode(good[BATCHES_AT..].first_chunk().expect("64 bytes"));
    let header = header.expect("a good batch");
    let body_at = BATCHES_AT + batch::HEADER_BYTES;
    let len = usize::try_from(header.body_len).expect("small");
    let with_checksums = |bytes: &mut Vec<u8>| {
        let forged = BatchHeader {
            body_crc: crc32fast::hash(&bytes[body_at..body_at + len]),
            ..header.clone()
        };
        bytes[BATCHES_AT..body_at].copy_from_slice(&forged.encode());
    };
    // Nonce, first and last byte of the text, tag.
    for at in [0, 12, len - 17, len - 1] {
        for forged in [false, true] {
            let mut bad = good.clone();
            bad[body_at + at] ^= 4;
            if forged {
                with_checksums(&mut bad);
            }
            machine.storage.plant(&path, bad);
            let session = machine.open();
            let found = damages(&session.log);
            let expected = ["body checksum", "body encryption"][usize::from(forged)];
            assert!(found.contains(&expected), "byte {at}: {found:?}");
            let sequences = read_around(&session.log);
            assert!(
                sequences.contains(&3) && sequences.contains(&120),
                "{sequences:?}"
            );
            assert!(!sequences.contains(&1) && !sequences.contains(&2));
        }
    }
    // A good body at another place: bound to its own header.
    let mut moved = good.clone();
    let forged = BatchHeader {
        base: header.base.next(),
        ..header.clone()
    };
    moved[BATCHES_AT..body_at].copy_from_slice(&forged.encode());
    machine.storage.plant(&path, moved);
    let found = damages(&machine.open().log);
    assert!(found.contains(&"body encryption"), "{found:?}");

    // The index is not believed, and nothing is missing.
    machine.storage.plant(&path, good);
    let index = path.with_extension("idx");
    let mut bad = machine.storage.files()[&index].clone();
    bad[40] ^= 1;
    let crc_at = bad.len() - 4;
    let crc = crc32fast::hash(&bad[..crc_at]);
    bad[crc_at..].copy_from_slice(&crc.to_le_bytes());
    machine.storage.plant(&index, bad);
    assert_sings(&machine.open().log, 60);
}

fn read_around(log: &Log) -> BTreeSet<u64> {
    let end = log.bounds().written_end;
    let (mut at, mut found) = (Sequence::FIRST, BTreeSet::new());
    loop {
        match log.read(at, end, 100_000).expect("a sound disk") {
            Found::Records(chunk) => {
                found.extend(chunk.iter().map(|record| record.sequence.get()));
                at = chunk.last.next();
            }
            Found::Damaged { next, .. } => at = next,
            Found::End => return found,
        }
    }
}

// LOG-14: after shredding nobody reads an encrypted record: not who has the log open, not with the
// master key, not offline; the wrapped keys are in no file, and the file they were in is zeros.
#[test]
fn shredded_keys_are_gone_for_everybody() {
    let machine = Machine::new(encrypted_options(9));
    let session = machine.open();
    machine.sing(&session, 60);
    session.log.rotate_key().expect("a sound disk");
    machine.sing(&session, 20);
    let mut reader = session.log.topic_reader(Box::new(|topic| topic == CANARY));
    let end = session.log.bounds().durable_end;
    reader.read(Sequence::FIRST, end, 10).expect("a sound disk");
    let keys = machine.storage.files()[&Machine::keys_path()].clone();
    let wrapped: Vec<_> = keys[64..keys.len() - 4]
        .chunks(128)
        .map(|entry| entry[64..124].to_vec())
        .collect();
    assert_eq!(wrapped.len(), 2);
    let environment = machine.environment(&session);
    session.log.shred(&environment).expect("a sound disk");

    assert_eq!(read_around(&session.log), BTreeSet::new());
    assert!(
        damages(&session.log)
            .iter()
            .all(|what| *what == "body encryption")
    );
    assert!(!damages(&session.log).is_empty());
    let found = reader
        .read(Sequence::FIRST, end, 1000)
        .expect("a sound disk");
    assert!(matches!(found, Found::Damaged { .. }), "{found:?}");
    for (path, bytes) in machine.storage.files() {
        let left = wrapped.iter().any(|key| holds(&bytes, key));
        assert!(!left, "a wrapped key is left in {}", path.display());
    }
    // Also where it stood: the last thing written to each file that held it.
    let written = machine.storage.written();
    let with_keys = written
        .iter()
        .filter(|one| wrapped.iter().any(|key| holds(&one.bytes, key)));
    let inodes: BTreeSet<u64> = with_keys.map(|one| one.inode).collect();
    assert_eq!(inodes.len(), 2, "the file of each key");
    for inode in inodes {
        let last = written.iter().rfind(|one| one.inode == inode);
        let bytes = &last.expect("written").bytes;
        assert!(bytes.len() > 128 && bytes.iter().all(|&byte| byte == 0));
    }
    drop(reader);
    drop(session);

    for options in [&machine.options, &small_options()] {
        assert_refused(&machine, options, &["destroyed on purpose", "2023-11-14T"]);
    }
    // Again is no error, and changes nothing.
    let before = machine.files();
    arqonbus::log::shred(&environment, Path::new(DIR), &writer()).expect("done already");
    assert!(machine.files() == before);
    let mut log = Directory::open(&machine.storage, Path::new(DIR)).expect("a sound disk");
    let masters = masters(OLD);
    let why = log
        .unlock_with(&machine.storage, Some(&masters))
        .expect("readable");
    assert!(why.expect("locked").to_string().contains("destroyed"));
    assert!(log.segments.iter().all(|segment| segment.is_locked()));
}

// LOG-14: a log whose keys are not at hand can be shredded too.
#[test]
fn keys_are_destroyed_without_a_master_key() {
    let machine = Machine::new(encrypted_options(12));
    let session = machine.open();
    machine.sing(&session, 5);
    let environment = machine.environment(&session);
    let open = arqonbus::log::shred(&environment, Path::new(DIR), &writer());
    assert!(matches!(open, Err(Error::Locked { .. })), "{open:?}");
    drop(session);
    machine
        .storage
        .plant(&Machine::keys_path(), b"not even a file of keys".to_vec());
    arqonbus::log::shred(&environment, Path::new(DIR), &writer()).expect("a sound disk");
    assert_refused(&machine, &machine.options, &["destroyed on purpose"]);
}

// LOG-14, LOG-03: what a repair writes again is encrypted with a new salt and new nonces, and every
// good record of it can still be read.
#[test]
fn a_repaired_segment_is_encrypted_anew() {
    let machine = Machine::new(encrypted_options(13));
    let session = machine.open();
    machine.sing(&session, 60);
    session.log.close().expect("a sound disk");
    let environment = machine.environment(&session);
    drop(session);
    let path = Path::new(DIR).join("00000000000000000001.seg");
    let mut bad = machine.storage.files()[&path].clone();
    bad[BATCHES_AT + batch::HEADER_BYTES + 50] ^= 1;
    machine.storage.plant(&path, bad);
    let before = machine.headers()[0].clone();
    Log::repair(
        &environment,
        Path::new(DIR),
        &writer(),
        &machine.options,
        &Unthrottled,
    )
    .expect("a sound disk")
    .expect("there is damage");
    let after = machine.headers()[0].clone();
    assert!(after.is_encrypted() && after.salt != before.salt);
    let session = machine.open();
    assert_eq!(read_around(&session.log), (3..=120).collect());
    assert!(
        ever_written(&machine)
            .iter()
            .all(|bytes| !holds(bytes, SONG))
    );
    let before = 60;
    let count = nonces(&machine.storage.written()).unwrap_or_else(|twice| panic!("{twice}"));
    assert!(count > before + 10, "nothing was encrypted anew: {count}");
}

// LOG-14: a log without keys has none to destroy, and is closed and whole.
#[test]
fn a_plain_log_cannot_be_shredded() {
    let machine = Machine::new(small_options());
    let session = machine.open();
    machine.sing(&session, 3);
    let environment = machine.environment(&session);
    let error = session.log.shred(&environment).expect_err("nothing to do");
    assert!(matches!(error, Error::NotEncrypted { .. }), "{error}");
    drop(session);
    assert_sings(&machine.open().log, 3);
}

// LOG-14, LOG-12: who takes over segments takes over their wrapped keys, and makes a key of its
// own; destroying the keys of one log harms the other not.
#[test]
fn a_log_that_takes_over_segments_has_a_key_of_its_own() {
    let machine = Machine::new(encrypted_options(10));
    let session = machine.open();
    machine.sing(&session, 60);
    let child = Path::new("/data/dev/child");
    machine.storage.create_dir_all(child).expect("a sound disk");
    session.log.carry_keys_to(child).expect("a sound disk");
    let parent_key = session.log.current_key();
    for (path, bytes) in machine.files() {
        if path.extension().is_some_and(|kind| kind == "seg") && !path.ends_with("prepared.seg") {
            let name = path.file_name().expect("a name");
            machine.storage.place(&child.join(name), bytes);
        }
    }
    let environment = machine.environment(&session);
    session.log.shred(&environment).expect("a sound disk");
    let observer = Arc::<crate::session::Scribe>::clone(&session.scribe);
    let (log, _) = Log::open(&environment, child, &writer(), &machine.options, observer)
        .expect("the keys were carried over");
    assert_ne!(log.current_key(), parent_key);
    assert!(log.current_key().is_some());
    assert_sings(&log, 60);
    assert_eq!(
        nonces(&machine.storage.written()).map(|count| count > 60),
        Ok(true)
    );
}

/// What makes keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Making {
    /// The first opening.
    First,
    /// A rotation.
    Further,
}

/// What goes wrong meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Failing {
    Call,
    Power,
}

/// Fails the `n`-th call, then looks what is left; whether there are so many.
fn fails_at(n: u64, making: Making, failing: Failing) -> bool {
    let mut machine = Machine::new(encrypted_options(n));
    let session = (making == Making::Further).then(|| machine.open());
    let mut sung = 0;
    if let Some(session) = &session {
        machine.sing(session, 5);
        sung += 5;
    }
    match failing {
        Failing::Call => machine.storage.fail_call(n, Fault::Io),
        Failing::Power => machine.storage.cut_after(n - 1),
    }
    let calls = machine.storage.calls();
    match &session {
        Some(session) => drop(session.log.rotate_key()),
        None => drop(machine.try_open(&machine.options)),
    }
    let reached = machine.storage.calls() - calls >= n;
    if failing == Failing::Call
        && let Some(session) = &session
    {
        // A refused rotation leaves the log as it was.
        machine.storage.heal();
        machine.sing(session, 2);
        sung += 2;
    }
    drop(session);
    machine.storage = match failing {
        Failing::Call => machine.storage.process_kill(),
        Failing::Power => machine.storage.power_cut(n),
    };
    machine.storage.heal();
    let session = machine.open();
    if sung > 0 {
        assert_sings(&session.log, sung);
    }
    machine.sing(&session, 3);
    drop(session);
    // What the second process has found, it must not lose.
    machine.storage = machine.storage.power_cut_losing_all();
    assert_sings(&machine.open().log, sung + 3);
    assert!(nonces(&machine.storage.written()).is_ok());
    reached
}

// LOG-14: any single call that fails while keys are made or rotated, and any power cut there,
// leaves a log that opens with all that was acknowledged, and no segment without its key.
#[test]
fn a_failure_at_any_call_of_a_rotation_loses_no_key() {
    for making in [Making::First, Making::Further] {
        for failing in [Failing::Call, Failing::Power] {
            let calls = (1..500).take_while(|&n| fails_at(n, making, failing));
            let calls = calls.count();
            assert!((10..499).contains(&calls), "{calls} calls");
        }
    }
}

// LOG-14: what looks for repeated nonces finds them.
#[test]
fn a_repeated_nonce_would_be_found() {
    let machine = Machine::new(options_without_randomness());
    let session = machine.open();
    machine.sing(&session, 2);
    let found = nonces(&machine.storage.written());
    assert!(found.is_err_and(|error| error.contains("was used twice")));

    let machine = Machine::new(encrypted_options(11));
    let session = machine.open();
    machine.sing(&session, 2);
    assert!(nonces(&machine.storage.written()).is_ok_and(|count| count >= 3));
}
