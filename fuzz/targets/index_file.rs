//! Target: an index file of any bytes beside a good segment.
//!
//! The index is believed by its checksum alone, so a wrong one with a right checksum may hide
//! records. It must not bring up any that are not there, or in the wrong order, or stop a reader;
//! and one without its checksum must change nothing at all.

use std::path::Path;
use std::sync::LazyLock;

use arqonbus::log::Sequence;
use arqonbus::log::offline::{Directory, IndexCheck};
use arqonbus::log::segment::{self, SegmentHeader};

use super::archive::{DIR, repair_index};
use super::disk::Disk;
use super::opened::Opened;

/// A closed log of at least three segments.
#[derive(Debug)]
pub struct Sample {
    /// By base sequence.
    segments: Vec<(Sequence, Vec<u8>)>,
    records: u64,
    /// The index of the second segment, as it was written.
    pub index: Vec<u8>,
}

/// Of the first version of the format.
static OLDEST: LazyLock<Sample> = LazyLock::new(|| {
    let segments: [(u64, &[u8]); 3] = [
        (
            1,
            include_bytes!("../../tests/fixtures/log/v1/closed/00000000000000000001.seg"),
        ),
        (
            55,
            include_bytes!("../../tests/fixtures/log/v1/closed/00000000000000000055.seg"),
        ),
        (
            109,
            include_bytes!("../../tests/fixtures/log/v1/closed/00000000000000000109.seg"),
        ),
    ];
    let index = include_bytes!("../../tests/fixtures/log/v1/closed/00000000000000000055.idx");
    Sample {
        segments: segments
            .map(|(base, bytes)| (at(base), bytes.to_vec()))
            .into(),
        records: 120,
        index: index.to_vec(),
    }
});

/// Of the version that is written now.
pub static LATEST: LazyLock<Sample> = LazyLock::new(|| {
    const RECORDS: u64 = 60;
    let disk = Disk::default();
    let opened = Opened::new(&disk).expect("a sound disk");
    for number in 0..RECORDS {
        let topic = ["quake.ak", "a", "order.created"][usize::try_from(number % 3).expect("small")];
        opened.append(topic, &[0x5a; 700]);
    }
    opened.close();
    let files = disk.files();
    let named = |path: &Path| segment::base_of(path.file_name()?.to_str()?);
    let segments: Vec<(Sequence, Vec<u8>)> = files
        .iter()
        .filter_map(|(path, bytes)| Some((named(path)?, bytes.clone())))
        .collect();
    let index = segment::path(Path::new(DIR), segments[1].0).with_extension("idx");
    Sample {
        records: RECORDS,
        index: files[&index].clone(),
        segments,
    }
});

fn at(sequence: u64) -> Sequence {
    Sequence::new(sequence).expect("a position")
}

/// See the module. Of the first byte of the input the first bit says whether its checksum is made
/// right, the second which version the log has; the rest is the index of the second segment.
///
/// # Panics
/// Something does not hold.
pub fn log_index(data: &[u8]) {
    let Some((&first, index)) = data.split_first() else {
        return;
    };
    let sample: &Sample = if first & 2 == 0 { &OLDEST } else { &LATEST };
    let mut index = index.to_vec();
    if first & 1 != 0 {
        let header = sample.segments[1].1.first_chunk();
        let header = header.and_then(|bytes| SegmentHeader::decode(bytes).ok());
        repair_index(&mut index, header.as_ref());
    }
    let disk = Disk::default();
    for (base, bytes) in &sample.segments {
        disk.place(&segment::path(Path::new(DIR), *base), bytes.clone());
    }
    let path = segment::path(Path::new(DIR), sample.segments[1].0).with_extension("idx");
    disk.place(&path, index.clone());

    let directory = Directory::open(&disk, Path::new(DIR)).expect("a sound disk");
    let check = directory.segments[1].check_index(&disk);
    let is_right = match check.expect("a sound disk") {
        IndexCheck::Agrees(stored) => {
            assert_eq!(stored.end(), directory.segments[2].base);
            true
        }
        IndexCheck::Damaged(_) | IndexCheck::Outdated => true,
        IndexCheck::Differs(damage) => {
            assert!(damage.offset.0 <= index.len() as u64, "{damage}");
            false
        }
        IndexCheck::Missing => panic!("the index is there"),
        IndexCheck::Locked => panic!("the segment is not encrypted"),
    };

    let opened = Opened::new(&disk).expect("good segments");
    assert_eq!(opened.statement, None, "the log was closed");
    opened.ask();
    let all = opened.read_all(2000, true);
    let by_topic = opened.read_by_topic(true);
    for (sequence, record) in all.iter().chain(&by_topic) {
        assert!(
            sequence.get() <= sample.records,
            "{record:?} was never written"
        );
    }
    if is_right {
        let wanted = (1..=sample.records).filter_map(Sequence::new);
        assert!(all.keys().copied().eq(wanted), "{:?}", all.keys());
        assert_eq!(all, by_topic, "by topic");
    }
}
