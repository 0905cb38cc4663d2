//! Target: an index file of any bytes beside a good segment.
//!
//! The index is believed by its checksum alone, so a wrong one with a right checksum may hide
//! records. It must not bring up any that are not there, or in the wrong order, or stop a reader;
//! and one without its checksum must change nothing at all.

use std::path::Path;

use arqonbus::log::Sequence;
use arqonbus::log::offline::{Directory, IndexCheck};

use super::archive::{DIR, repair_index};
use super::disk::Disk;
use super::opened::Opened;

const SEGMENTS: [(&str, &[u8]); 3] = [
    (
        "00000000000000000001.seg",
        include_bytes!("../../tests/fixtures/log/v1/closed/00000000000000000001.seg"),
    ),
    (
        "00000000000000000055.seg",
        include_bytes!("../../tests/fixtures/log/v1/closed/00000000000000000055.seg"),
    ),
    (
        "00000000000000000109.seg",
        include_bytes!("../../tests/fixtures/log/v1/closed/00000000000000000109.seg"),
    ),
];
const RECORDS: u64 = 120;

/// See the module. The first bit of the input says whether its checksum is made right; the rest is
/// the index of the second segment.
///
/// # Panics
/// Something does not hold.
pub fn log_index(data: &[u8]) {
    let Some((&first, index)) = data.split_first() else {
        return;
    };
    let mut index = index.to_vec();
    if first & 1 != 0 {
        repair_index(&mut index);
    }
    let disk = Disk::default();
    for (name, bytes) in SEGMENTS {
        disk.place(&Path::new(DIR).join(name), bytes.to_vec());
    }
    let path = Path::new(DIR).join(SEGMENTS[1].0).with_extension("idx");
    disk.place(&path, index.clone());

    let directory = Directory::open(&disk, Path::new(DIR)).expect("a sound disk");
    let check = directory.segments[1].check_index(&disk);
    let is_right = match check.expect("a sound disk") {
        IndexCheck::Agrees(stored) => {
            assert_eq!(stored.end(), directory.segments[2].base);
            true
        }
        IndexCheck::Damaged(_) => true,
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
        assert!(sequence.get() <= RECORDS, "{record:?} was never written");
    }
    if is_right {
        let wanted = (1..=RECORDS).filter_map(Sequence::new);
        assert!(all.keys().copied().eq(wanted), "{:?}", all.keys());
        assert_eq!(all, by_topic, "by topic");
    }
}
