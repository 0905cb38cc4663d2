//! Target: a log's directory made of any bytes, looked at as tools do, opened as a node does.
//!
//! What must hold:
//! - nothing panics, and what a scan yields lies within the file, in order;
//! - what is salvaged from damage is intact and where it belongs;
//! - recovery does what its forecast says;
//! - scrubbing ends, and remembers no more damages than it says;
//! - a log that takes writes keeps what it acknowledges, through a close and another opening;
//! - where the segments hold only what a writer makes, records are read back intact and in order,
//!   the same by position and by topic.

use std::path::Path;

use arqonbus::log::batch::BatchHeader;
use arqonbus::log::offline::{self, Directory, IndexCheck, SegmentFile};
use arqonbus::log::scan::{Batch, Scanned};
use arqonbus::log::scrub::DAMAGES_MAX;
use arqonbus::log::{Error, Log, Micros, Sequence, Unthrottled};

use super::archive::{self, DIR};
use super::disk::Disk;
use super::opened::Opened;

const TOPIC: &str = "fuzz.appended";
const ENVELOPE: &[u8] = b"kept";

/// See the module.
///
/// # Panics
/// Something does not hold.
pub fn log_directory(data: &[u8]) {
    let disk = archive::unpack(data);
    let directory = Directory::open(&disk, Path::new(DIR)).expect("a sound disk");
    let plausible = is_plausible(&directory, &disk);
    let forecast = offline::forecast(&disk, &directory);

    let opened = match Opened::new(&disk) {
        Ok(opened) => opened,
        // Bits of a header say that it is of another version, or encrypted.
        Err(Error::Version { .. } | Error::Key { .. }) => return,
        Err(error) => panic!("a sound disk, but {error:?}"),
    };
    let status = opened.log.status();
    if let Some(forecast) = forecast {
        assert_eq!(status.read_only, forecast.read_only);
        assert_eq!(status.epoch, forecast.epoch, "{forecast:?}");
        assert_eq!(status.bounds.written_end, forecast.next, "{forecast:?}");
        assert_eq!(opened.statement, forecast.statement);
    }
    opened.ask();
    let all = opened.read_all(2000, plausible);
    let by_topic = opened.read_by_topic(plausible);
    if plausible {
        assert_eq!(all, opened.read_all(1, true), "in small pieces");
        assert_eq!(all, by_topic, "by topic");
    }
    scrub(&opened.log);
    if status.read_only.is_some() {
        return;
    }
    // A mark may reserve all the sequences there are, and then none is left to append at.
    let Some(appended) = opened.try_append(TOPIC, ENVELOPE) else {
        assert_eq!(status.bounds.written_end, Sequence::MAX);
        opened.close();
        return;
    };
    opened.close();

    let again = Opened::new(&disk).expect("a log that was closed");
    assert_eq!(again.statement, None, "after a clean close");
    let record = again.read_at(appended);
    assert!(
        record.windows(ENVELOPE.len()).any(|part| part == ENVELOPE),
        "{record:?} is not what was appended"
    );
    if plausible {
        let kept = again.read_all(2000, true);
        assert!(
            all.iter().all(|(at, record)| kept.get(at) == Some(record)),
            "records are gone after a clean close"
        );
    }
    again.close();
}

/// Whether the log holds only what a writer makes, damage aside.
///
/// # Panics
/// A scan of a segment is not what it has to be.
pub(super) fn is_plausible(directory: &Directory, disk: &Disk) -> bool {
    // What is made ahead is zeros, before it gets its name.
    let prepared = disk.files().remove(&Path::new(DIR).join("prepared.seg"));
    if prepared.is_some_and(|bytes| bytes.iter().any(|&byte| byte != 0)) {
        return false;
    }
    let mut plausible = true;
    let mut end = Sequence::FIRST;
    let mut time = Micros(0);
    for segment in &directory.segments {
        plausible &= look(segment, &mut end, &mut time);
        // An index that belongs to another segment has its checksum, and is believed by it.
        let check = segment.check_index(disk).expect("a sound disk");
        plausible &= !matches!(check, IndexCheck::Differs(_));
    }
    plausible
}

/// Scrubs the log, and returns how many damages were found.
///
/// # Panics
/// It gives up, or says other than it remembers.
pub(super) fn scrub(log: &Log) -> usize {
    let found = log.scrub(&Unthrottled).expect("a sound disk");
    let found = found.expect("nothing ends it");
    assert!(found.finished_at.is_some() && found.damages.len() <= DAMAGES_MAX);
    found.damages.len()
}

/// Looks at one segment; whether its good batches are what a writer makes.
fn look(segment: &SegmentFile, end: &mut Sequence, time: &mut Micros) -> bool {
    let len = segment.bytes.len() as u64;
    let mut plausible = segment.base >= *end;
    let mut at = 0;
    let mut next = segment.base;
    let mut ended = false;
    let mut misplaced = false;
    let mut scan = segment.scan();
    for scanned in scan.by_ref() {
        assert!(!ended, "{scanned:?} behind the end");
        match scanned {
            Scanned::Batch(batch) => {
                let start = batch.offset.0;
                assert!(start >= at, "a batch at {start}, expected at {at} or later");
                at = start + batch.header.file_len();
                assert!(at <= len, "{batch:?} ends beyond the file of {len} bytes");
                assert!(batch.header.base >= next, "{batch:?} lies before {next}");
                next = batch.header.end();
                plausible &= is_written(&batch) && batch.header.appended_at >= *time;
                *time = (*time).max(batch.header.appended_at);
            }
            Scanned::Damaged(region) => {
                assert!(region.range.start >= at && region.range.end > region.range.start);
                at = region.range.end;
                misplaced |= holds_a_batch(&region.bytes);
                assert!(at <= len, "{region:?} ends beyond the file of {len} bytes");
                assert_eq!(region.bytes.len() as u64, at - region.range.start);
                let mut last = None;
                for (offset, record) in region.salvaged() {
                    assert!(record.is_intact(), "{record:?}");
                    assert!(region.range.contains(&offset.0), "{record:?}");
                    assert!((region.expected..region.end).contains(&record.sequence));
                    assert!(
                        last < Some(record.sequence),
                        "salvaged {record:?} behind {last:?}"
                    );
                    last = Some(record.sequence);
                    plausible &= record.appended_at >= *time;
                    *time = (*time).max(record.appended_at);
                    next = next.max(record.sequence.next());
                }
                let chunks = region.chunks();
                let records: usize = chunks.iter().map(|chunk| chunk.iter().count()).sum();
                assert_eq!(
                    records,
                    region.salvaged().count(),
                    "in {} chunks",
                    chunks.len()
                );
            }
            Scanned::End(_) => ended = true,
        }
    }
    assert!(ended, "a scan without an end");
    // Whether a batch is in its place is told by those before it, which a reader that begins behind
    // them does not know.
    plausible &= !misplaced;
    *end = next.max(*end);
    let index = segment.index();
    let records: u64 = index.topics().iter().map(|topic| topic.records).sum();
    assert!(records <= len, "{records} records in {len} bytes");
    assert!(index.points().len() as u64 <= len);
    if let Some((offset, byte)) = segment.stray_header_byte() {
        let at = usize::try_from(offset.0).expect("an offset in the file");
        assert_eq!(segment.bytes.get(at), Some(&byte), "at {offset}");
    }
    plausible
}

/// Whether there is a batch with good checksums among the bytes: one that is wrong only in its
/// place.
fn holds_a_batch(bytes: &[u8]) -> bool {
    (0..bytes.len()).any(|at| {
        let rest = &bytes[at..];
        let Some((Ok(header), body)) = rest
            .split_first_chunk()
            .map(|(header, body)| (BatchHeader::decode(header), body))
        else {
            return false;
        };
        let len = usize::try_from(header.body_len).unwrap_or(usize::MAX);
        body.get(..len)
            .is_some_and(|body| crc32fast::hash(body) == header.body_crc)
    })
}

/// Whether the records are those that the header announces.
fn is_written(batch: &Batch) -> bool {
    let header = &batch.header;
    if header.is_mark() || header.is_lost() || batch.locked {
        return true;
    }
    let mut next = header.base;
    let mut time = header.appended_at;
    let mut bytes = 0;
    for record in batch.records() {
        let follows = if header.has_holes() {
            record.sequence >= next
        } else {
            record.sequence == next
        };
        // Compressed batches hold the records of several groups.
        let is_timely = if header.is_compressed() {
            record.appended_at >= time
        } else {
            record.appended_at == time
        };
        if !follows || !is_timely || record.topic.is_empty() || !record.is_intact() {
            return false;
        }
        next = record.sequence.next();
        time = record.appended_at;
        bytes += record.field.len();
    }
    let ends = if header.has_holes() {
        header.base < next && next <= header.end()
    } else {
        next == header.end()
    };
    ends && bytes == batch.body.len()
}
