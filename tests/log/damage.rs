//! Bytes that were flushed and are wrong now: found, named, never taken for a torn tail, and no
//! good record is lost with them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arqonbus::log::{Damage, Durability, Found, Storage as _};

use crate::dice::Dice;
use crate::session::{Session, SimClock, record, small_options};
use crate::sim_storage::SimStorage;

/// Where the batches of a segment begin; the header stands in the bytes before.
pub(crate) const BATCHES_AT: usize = 4096;
pub(crate) const HEADER_BYTES: usize = 256;
/// Where the header has the version.
const VERSION: std::ops::Range<usize> = 8..10;

/// A log of several segments, cleanly closed or not.
pub(crate) struct Sound {
    pub(crate) storage: SimStorage,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) segments: BTreeMap<PathBuf, Vec<u8>>,
    pub(crate) envelopes: BTreeMap<u64, Vec<u8>>,
}

/// What a reader gets out of a damaged log.
#[derive(Debug, Default)]
pub(crate) struct Harvest {
    pub(crate) records: BTreeSet<u64>,
    pub(crate) damages: Vec<Damage>,
    /// Sequences that the reader was told it cannot have.
    pub(crate) told: BTreeSet<u64>,
    pub(crate) read_only: bool,
}

impl Sound {
    pub(crate) fn new(closed: bool) -> Self {
        Self::of(30, closed)
    }

    /// Of so many batches.
    pub(crate) fn of(batches: u64, closed: bool) -> Self {
        let (storage, clock) = (SimStorage::new(1), SimClock::new());
        let session = Session::open(&storage, &clock, &small_options()).expect("a sound disk");
        let mut envelopes = BTreeMap::new();
        for token in 0..batches {
            clock.shift(1000);
            let mut dice = Dice::new(token);
            let records = (0..3)
                .map(|_| {
                    let filler = dice.roll();
                    let envelope = filler.to_le_bytes().repeat(8 + dice.index(50));
                    envelopes.insert(envelopes.len() as u64 + 1, envelope.clone());
                    record("topic.of.some.length", &envelope)
                })
                .collect();
            session
                .append(token, records, Durability::Synced, None)
                .expect("queued");
            session.committer.run_until_idle();
        }
        assert!(session.log.status().segments >= 2, "more than one segment");
        let storage = if closed {
            session.log.close().expect("a sound disk");
            storage
        } else {
            // The last batch is known to be flushed once a later one, or a mark, says so.
            session
                .append(
                    batches,
                    vec![record("t", b"the last one")],
                    Durability::Synced,
                    None,
                )
                .expect("queued");
            session.committer.run_until_idle();
            envelopes.insert(envelopes.len() as u64 + 1, b"the last one".to_vec());
            storage.power_cut_losing_all()
        };
        let segments = storage
            .files()
            .into_iter()
            .filter(|(path, bytes)| {
                path.extension().is_some_and(|extension| extension == "seg")
                    && bytes.iter().any(|&byte| byte != 0)
            })
            .collect();
        Self {
            storage,
            clock,
            segments,
            envelopes,
        }
    }

    pub(crate) fn last(&self) -> (&PathBuf, &Vec<u8>) {
        self.segments.last_key_value().expect("a log has a segment")
    }

    /// Opens the log with these bytes in that file and reads all of it.
    pub(crate) fn harvest(&self, path: &Path, bytes: &[u8], context: &str) -> Harvest {
        let storage = self.storage.copy();
        storage.plant(path, bytes.to_vec());
        let session = Session::open(&storage, &self.clock, &small_options())
            .unwrap_or_else(|error| panic!("{context}: {error:?}"));
        let mut harvest = Harvest::default();
        if let Some(statement) = &session.statement {
            harvest.damages.extend(statement.damages.iter().cloned());
        }
        self.reap(&session, &mut harvest, context);
        harvest.read_only = session.log.status().read_only.is_some();
        if harvest.read_only {
            assert_eq!(
                storage.files()[path],
                bytes,
                "{context}: a damaged file was written to"
            );
        }
        harvest
    }

    /// Reads all that there is.
    pub(crate) fn reap(&self, session: &Session, harvest: &mut Harvest, context: &str) {
        let end = session.log.bounds().written_end;
        let mut at = session.log.bounds().first;
        loop {
            let found = session.log.read(at, end, 2000);
            match found.unwrap_or_else(|error| panic!("{context}: {error:?}")) {
                Found::Records(chunk) => {
                    for record in chunk.iter() {
                        let envelope = &self.envelopes[&record.sequence.get()];
                        let content = &record.record[..record.record.len() - 5];
                        assert!(content.ends_with(envelope), "{context}: a wrong record");
                        harvest.records.insert(record.sequence.get());
                    }
                    at = chunk.last.next();
                }
                Found::Damaged { damage, next } => {
                    assert!(next > at, "{context}: no progress behind {damage}");
                    harvest.damages.push(damage);
                    harvest.told.extend(at.get()..next.get());
                    at = next;
                }
                Found::End => break,
            }
        }
    }

    pub(crate) fn missing(&self, harvest: &Harvest) -> Vec<u64> {
        let all = self.envelopes.keys();
        all.filter(|sequence| !harvest.records.contains(sequence))
            .copied()
            .collect()
    }
}

pub(crate) fn data_end(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1)
}

/// Where the last batch of the file starts.
pub(crate) fn last_batch(bytes: &[u8]) -> usize {
    let magic = &bytes[BATCHES_AT..BATCHES_AT + 4];
    bytes
        .windows(4)
        .rposition(|window| window == magic)
        .expect("a segment with batches")
}

/// Bits of a file that carry anything, every `step`-th of them.
pub(crate) fn bits(bytes: &[u8], end: usize, step: usize) -> impl Iterator<Item = usize> + use<> {
    let batches = BATCHES_AT * 8..end.min(data_end(bytes)) * 8;
    let header = (0..HEADER_BYTES * 8).step_by(step);
    // Another version is refused as such, whatever the checksum says: it may stand elsewhere.
    let header = header.filter(|bit| !VERSION.contains(&(bit / 8)));
    header.chain(batches.step_by(step))
}

pub(crate) fn flip(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    flipped[bit / 8] ^= 1 << (bit % 8);
    flipped
}

fn check_flip(sound: &Sound, path: &Path, bytes: &[u8], bit: usize, in_last: bool) {
    let context = format!("bit {} of byte {} in {}", bit % 8, bit / 8, path.display());
    let harvest = sound.harvest(path, &flip(bytes, bit), &context);
    let missing = sound.missing(&harvest);
    if bit / 8 < HEADER_BYTES {
        // The header stands twice.
        assert_eq!(missing, [] as [u64; 0], "{context}");
        assert!(
            harvest.damages.is_empty() && !harvest.read_only,
            "{context}"
        );
        return;
    }
    assert!(missing.len() <= 1, "{context}: one bit took {missing:?}");
    // A reader of a sealed segment is told where it cannot have a record. That all records of a
    // batch are good although its header is not, is for the scrubber to say.
    assert!(
        !harvest.damages.is_empty() || (!in_last && missing.is_empty()),
        "{context}: not noticed"
    );
    for damage in &harvest.damages {
        assert_eq!(damage.path, path, "{context}: {damage}");
        assert!(damage.offset.0 <= bit as u64 / 8, "{context}: {damage}");
        assert!(
            !damage.what.is_empty() && damage.expected != damage.found,
            "{damage}"
        );
    }
    if in_last {
        assert!(harvest.read_only, "{context}: the log takes writes");
    }
}

/// The last segment of a log with at least one batch behind the mark that covers the others.
fn flips_in_the_last_segment(closed: bool, step: usize) {
    let sound = Sound::new(closed);
    let (path, bytes) = sound.last();
    for bit in bits(bytes, last_batch(bytes), step) {
        check_flip(&sound, path, bytes, bit, true);
    }
}

// LOG-03, LOG-08
#[test]
fn a_flipped_bit_in_the_last_segment_is_damage_after_a_clean_close() {
    flips_in_the_last_segment(true, 11);
}

// LOG-03, LOG-08
#[test]
fn a_flipped_bit_in_the_last_segment_is_damage_after_a_power_cut() {
    flips_in_the_last_segment(false, 11);
}

// LOG-03, LOG-08
#[test]
fn a_flipped_bit_in_a_sealed_segment_is_damage() {
    let sound = Sound::new(true);
    let (path, bytes) = sound.segments.first_key_value().expect("a sealed segment");
    for bit in bits(bytes, bytes.len(), 23) {
        check_flip(&sound, path, bytes, bit, false);
    }
}

// LOG-03: the one batch that nothing vouches for may have torn or rotted, and no record on this
// disk can tell which; what was before it stays.
#[test]
fn a_flipped_bit_in_the_very_last_batch_spares_the_rest() {
    let sound = Sound::new(true);
    let (path, bytes) = sound.last();
    for bit in last_batch(bytes) * 8..data_end(bytes) * 8 {
        let context = format!("bit {bit} of the closing mark");
        let harvest = sound.harvest(path, &flip(bytes, bit), &context);
        assert_eq!(sound.missing(&harvest), [] as [u64; 0], "{context}");
    }
}

// LOG-03, LOG-08: sectors zeroed, stale, swapped, duplicated or written by somebody else.
#[test]
fn a_wrong_sector_takes_only_the_records_in_it() {
    const SECTOR: usize = 512;
    let sound = Sound::new(true);
    let (path, bytes) = sound.last();
    let first = sound.segments.values().next().expect("a segment");
    let end = last_batch(bytes).min(first.len());
    let sectors = BATCHES_AT / SECTOR..end / SECTOR;
    let mut dice = Dice::new(1);
    for sector in sectors.clone() {
        let range = sector * SECTOR..(sector + 1) * SECTOR;
        let other = sectors.start + dice.index(sectors.len());
        let other = other * SECTOR..(other + 1) * SECTOR;
        let images: [(&str, Vec<u8>); 4] = [
            ("zeroed", vec![0; SECTOR]),
            ("duplicated", bytes[other.clone()].to_vec()),
            ("from the first segment", first[other].to_vec()),
            (
                "garbage",
                (0..SECTOR).map(|_| dice.roll().to_le_bytes()[0]).collect(),
            ),
        ];
        for (how, image) in images {
            if image == bytes[range.clone()] {
                continue;
            }
            let mut wrong = bytes.clone();
            wrong[range.clone()].copy_from_slice(&image);
            let context = format!("sector {sector} {how}");
            let harvest = sound.harvest(path, &wrong, &context);
            assert!(!harvest.damages.is_empty(), "{context}: not noticed");
            assert!(harvest.read_only, "{context}: the log takes writes");
            // Records of 64 bytes and more: so many can touch one sector.
            let missing = sound.missing(&harvest);
            assert!(
                missing.len() <= 2 + SECTOR / 100,
                "{context}: took {missing:?}"
            );
        }
    }
}

// LOG-03: a damaged log says so to producers.
#[test]
fn a_damaged_log_refuses_appends_and_stays_as_it_is() {
    let sound = Sound::new(false);
    let (path, bytes) = sound.last();
    let storage = sound.storage.copy();
    storage.plant(path, flip(bytes, (BATCHES_AT + 100) * 8));
    for _ in 0..3 {
        let session =
            Session::open(&storage, &sound.clock, &small_options()).expect("opens for reading");
        let refused = session.append(0, vec![record("t", b"x")], Durability::Written, None);
        assert!(
            matches!(&refused, Err(arqonbus::log::AppendError::ReadOnly { reason })
                if reason.contains(".seg")),
            "{refused:?}"
        );
        let statement = session.statement.as_ref().expect("an unclean start");
        assert_eq!(statement.damages.len(), 1, "{statement:?}");
        let statements = storage.files().into_keys();
        let statements =
            statements.filter(|path| path.extension().is_some_and(|ext| ext == "json"));
        assert_eq!(statements.count(), 1, "one statement for one damage");
        // Closing does not launder it.
        drop(session.log.close());
    }
}

/// A log of some records that was closed cleanly; its files can be changed.
fn closed_log() -> (SimStorage, u64) {
    let storage = SimStorage::new(9);
    let clock = SimClock::new();
    let session = Session::open(&storage, &clock, &small_options()).expect("a sound disk");
    for token in 0..200 {
        let records = vec![record("t", &[5; 500])];
        session
            .append(token, records, Durability::Synced, None)
            .expect("queued");
        session.committer.run_until_idle();
    }
    session.committer.run_chores();
    session.log.close().expect("closed");
    let end = session.log.bounds().durable_end.get();
    (storage, end)
}

pub(crate) fn last_segment(storage: &SimStorage) -> PathBuf {
    let segments = storage.files().into_keys().filter(|path| {
        path.extension().is_some_and(|extension| extension == "seg")
            && !path.ends_with("prepared.seg")
    });
    segments.max().expect("a segment")
}

fn opens_read_only(storage: &SimStorage, expected: &str) {
    let clock = SimClock::new();
    let session = Session::open(storage, &clock, &small_options()).expect("it opens");
    let reason = session.log.status().read_only.expect("it takes no writes");
    assert!(reason.contains(expected), "{reason}");
    let statement = session.statement.as_ref().expect("a statement");
    assert!(!statement.damages.is_empty());
    assert_eq!(statement.discarded_bytes, 0, "nothing is cut off");
    let refused = session.append(0, vec![record("t", &[1])], Durability::Synced, None);
    assert!(refused.is_err());
}

// LOG-03, REL-14: a file that lost its end is not taken for a torn write.
#[test]
fn a_shortened_segment_is_damage_and_no_torn_tail() {
    let (storage, _) = closed_log();
    let path = last_segment(&storage);
    let mut bytes = storage.files().remove(&path).expect("the file");
    bytes.truncate(9000);
    storage.plant(&path, bytes);
    opens_read_only(&storage, "file length");
}

// LOG-03, MSG-03, REL-14: sequences that were acknowledged are not given out again.
#[test]
fn a_log_that_ends_before_it_was_closed_is_damaged() {
    let (storage, end) = closed_log();
    let path = last_segment(&storage);
    let mut bytes = storage.files().remove(&path).expect("the file");
    bytes[4096..].fill(0);
    storage.plant(&path, bytes);
    opens_read_only(&storage, &format!("sequence {end}, where it was closed"));

    let (storage, end) = closed_log();
    let path = last_segment(&storage);
    storage.remove(&path).expect("removed");
    opens_read_only(&storage, &format!("sequence {end}, where it was closed"));
}
