//! The last write of a log that lost power, torn at every byte in every way: it is cut off, and
//! nothing before it is touched.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arqonbus::log::{Durability, Found, LossStatement, Sequence};

use crate::dice::Dice;
use crate::session::{DIR, Session, SimClock, record, small_options};
use crate::sim_storage::SimStorage;

const SYNCED: u64 = 5;
const UNSYNCED: u64 = 3;

/// A log whose last batches were written and never flushed, and where they stand in its file.
struct Torn {
    storage: SimStorage,
    clock: Arc<SimClock>,
    path: PathBuf,
    bytes: Vec<u8>,
    /// End of the flushed data, then the end of each unflushed batch.
    ends: Vec<usize>,
}

fn data_end(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1)
}

impl Torn {
    fn new() -> Self {
        let (storage, clock) = (SimStorage::new(1), SimClock::new());
        let session = Session::open(&storage, &clock, &small_options()).expect("a sound disk");
        let path = Path::new(DIR).join("00000000000000000001.seg");
        let append = |token, durability| {
            let records = (0..2).map(|_| record("t", &[0xEE; 200])).collect();
            session
                .append(token, records, durability, None)
                .expect("queued");
            session.committer.run_until_idle();
            data_end(&storage.files()[&path])
        };
        // The first one also reserves the sequences that the others are shown under.
        append(0, Durability::Written);
        for token in 1..SYNCED - 1 {
            append(token, Durability::Synced);
        }
        let mut ends = vec![append(SYNCED - 1, Durability::Synced)];
        ends.extend((SYNCED..SYNCED + UNSYNCED).map(|token| append(token, Durability::Written)));
        assert_eq!(session.log.bounds().durable_end.get(), 2 * SYNCED + 1);
        let bytes = storage.files()[&path].clone();
        Self {
            storage: storage.power_cut_losing_all(),
            clock,
            path,
            bytes,
            ends,
        }
    }

    /// Opens the log with these bytes in its file and checks that what can be there is there.
    fn open_with(&self, bytes: Vec<u8>, whole_batches: u64, context: &str) {
        let storage = self.storage.copy();
        storage.plant(&self.path, bytes);
        let session = Session::open(&storage, &self.clock, &small_options())
            .unwrap_or_else(|error| panic!("{context}: {error:?}"));
        let statement = session.statement.as_ref();
        let statement = statement.unwrap_or_else(|| panic!("{context}: no loss statement"));
        assert_eq!(
            session.log.status().read_only,
            None,
            "{context}: taken for damage"
        );
        assert_eq!(statement.damages, [], "{context}");
        let expected: Vec<u64> = (1..=2 * (SYNCED + whole_batches)).collect();
        assert_eq!(readable(&session), expected, "{context}");
        self.check_statement(statement, whole_batches, context);

        // It goes on, with sequences that nobody can have seen.
        session
            .append(99, vec![record("t", b"next")], Durability::Synced, None)
            .expect("queued");
        session.committer.run_until_idle();
        let next = *readable(&session).last().expect("not empty");
        assert!(
            next > 2 * (SYNCED + UNSYNCED),
            "{context}: sequence {next} is used again"
        );
    }

    fn check_statement(&self, statement: &LossStatement, whole_batches: u64, context: &str) {
        let kept = 2 * (SYNCED + whole_batches);
        assert!(
            statement.durable_through <= kept,
            "{context}: {statement:?}"
        );
        assert!(
            statement.durable_through >= 2 * SYNCED,
            "{context}: {statement:?}"
        );
        if let Some((first, last)) = statement.discarded {
            assert!(first.get() > kept, "{context}: {statement:?}");
            assert!(
                last.get() <= 2 * (SYNCED + UNSYNCED),
                "{context}: {statement:?}"
            );
            assert!(statement.possibly_acknowledged, "{context}: {statement:?}");
        }
        let free = data_end(&self.bytes) as u64;
        assert!(
            statement.discarded_bytes <= free,
            "{context}: {statement:?}"
        );
    }

    /// Batches that end at or before `at`.
    fn whole_at(&self, at: usize) -> u64 {
        self.ends[1..].iter().filter(|&&end| end <= at).count() as u64
    }

    fn region(&self) -> std::ops::Range<usize> {
        self.ends[0]..self.ends[self.ends.len() - 1]
    }
}

fn readable(session: &Session) -> Vec<u64> {
    let end = session.log.bounds().written_end;
    let mut at = Sequence::FIRST;
    let mut found = Vec::new();
    loop {
        match session.log.read(at, end, 100_000).expect("readable") {
            Found::Records(chunk) => {
                for record in chunk.iter() {
                    found.push(record.sequence.get());
                }
                at = chunk.last.next();
            }
            Found::Damaged { damage, .. } => panic!("{damage}"),
            Found::End => return found,
        }
    }
}

// LOG-03
#[test]
fn a_tail_zeroed_from_any_byte_on_is_cut() {
    let torn = Torn::new();
    for at in torn.region() {
        let mut bytes = torn.bytes.clone();
        bytes[at..].fill(0);
        // The last bytes of a batch may be zeros themselves.
        let same = data_end(&torn.bytes[..at]);
        let whole = torn
            .whole_at(at)
            .max(if same < at { torn.whole_at(same) } else { 0 });
        torn.open_with(bytes, whole, &format!("zeros from byte {at} on"));
    }
}

// LOG-03
#[test]
fn a_tail_of_garbage_from_any_byte_on_is_cut() {
    let torn = Torn::new();
    let end = torn.region().end;
    for at in torn.region() {
        let mut bytes = torn.bytes.clone();
        let mut dice = Dice::new(at as u64);
        for byte in &mut bytes[at..end] {
            // Never the byte that was there.
            *byte ^= u8::try_from(1 + dice.below(255)).expect("fits");
        }
        torn.open_with(
            bytes,
            torn.whole_at(at),
            &format!("garbage from byte {at} on"),
        );
    }
}

// LOG-03: no crash makes a segment shorter, so this is damage wherever the file ends; what is left
// of it can be read.
#[test]
fn a_file_that_ends_at_any_byte_is_damaged_and_not_cut() {
    let torn = Torn::new();
    for at in torn.region() {
        let storage = torn.storage.copy();
        storage.plant(&torn.path, torn.bytes[..at].to_vec());
        let session = Session::open(&storage, &torn.clock, &small_options())
            .unwrap_or_else(|error| panic!("the file ends at byte {at}: {error:?}"));
        let reason = session.log.status().read_only.expect("it takes no writes");
        assert!(reason.contains("file length"), "{reason}");
        let expected: Vec<u64> = (1..=2 * (SYNCED + torn.whole_at(at))).collect();
        let found = readable(&session);
        assert!(found.starts_with(&expected), "at byte {at}: {found:?}");
        let kept = &storage.files()[&torn.path];
        assert_eq!(kept.as_slice(), &torn.bytes[..at], "nothing is changed");
    }
}

// LOG-03: an unflushed batch is missing although the one after it arrived: both are cut.
#[test]
fn a_lost_write_takes_the_later_ones_with_it() {
    let torn = Torn::new();
    for lost in 0..torn.ends.len() - 1 {
        let range = torn.ends[lost]..torn.ends[lost + 1];
        let mut bytes = torn.bytes.clone();
        bytes[range.clone()].fill(0);
        torn.open_with(bytes, lost as u64, &format!("batch {lost} never arrived"));
        for at in range.step_by(7) {
            let mut bytes = torn.bytes.clone();
            bytes[at] ^= 0x10;
            torn.open_with(
                bytes,
                lost as u64,
                &format!("byte {at} of batch {lost} is wrong"),
            );
        }
    }
}
