//! Repair of a damaged log (LOG-03): the damaged bytes are copied aside, never deleted, and the
//! segments that held them are written again with all that is good.
//!
//! Where records are lost, a batch stands for their sequences, so that every later reader is told
//! of the gap instead of not seeing it. The statement is on disk before the first segment changes;
//! whenever power fails, the repair can be done again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Damage, Error};
use super::keyring::{Keyring, Loaded};
use super::loss;
use super::open::{self, LastSession, Opening};
use super::options::{Environment, Options, Writer};
use super::position::{ByteOffset, Micros, Sequence};
use super::prepare::remove_if_there;
use super::reader::Segment;
use super::recovery::{self, Ending};
use super::rewrite::{self, Mending, Plan, Throttle};
use super::scan::{DamagedRegion, Scanned, first_log_tag};
use super::scrub::missing_before;
use super::segment::{HEADER_BLOCK_BYTES, Origin, REWRITING, SegmentHeader, VERSION};
use super::status::{LossStatement, Quarantined};
use super::storage::Storage;

/// No record is shorter: sequence, time, clock, topic, envelope and checksum, each with its tag.
const RECORD_BYTES_MIN: u64 = 32;

/// More sequences than any segment can have stood for: so many batches of lost records are not
/// written because one number is wrong.
const LOST_MAX: u64 = 1 << 36;

/// One segment, looked at.
struct Patient {
    segment: Arc<Segment>,
    /// The header that it has, or should have had.
    header: SegmentHeader,
    /// What is wrong with it.
    damages: Vec<Damage>,
    /// Where damaged bytes stand that are to be put aside.
    ranges: Vec<std::ops::Range<u64>>,
    /// Exclusive end of what was found in it, damaged ranges included.
    found_end: Sequence,
    /// What its batches say was flushed; 0: nothing.
    durable_through: u64,
    /// Exclusive end of what it should hold.
    end: Sequence,
    /// `chain` that a batch after the last one would have; `None` if that is not known.
    root: Option<u32>,
    /// Of the last segment: the sequence to go on with.
    closed_at: Option<Sequence>,
}

/// See [`super::Log::repair`].
pub(super) fn repair(
    environment: &Environment,
    dir: &Path,
    writer: &Writer,
    options: &Options,
    throttle: &dyn Throttle,
) -> Result<Option<LossStatement>, Error> {
    let opening = Opening::new(environment, dir, writer, options);
    let storage = &*environment.storage;
    let _lock = opening.lock()?;
    let mut header_damages = Vec::new();
    let keys = opening.keys()?;
    let segments = opening.segments(&keys, &mut header_damages)?;
    if segments.is_empty() {
        return begin_again(&opening, keys);
    }
    let Some(mut patients) = examine(&opening, &segments, &header_damages, throttle)? else {
        return Ok(None);
    };
    find_gaps(&mut patients);
    patients.retain(|patient| !patient.damages.is_empty());
    if patients.is_empty() {
        return Ok(None);
    }
    for patient in &patients {
        patient.check_span()?;
    }
    let keyring = opening.settle(keys)?;
    let quarantined = put_aside(storage, dir, &patients)?;
    let statement = state(&opening, &patients, quarantined)?;
    for patient in &patients {
        mend(
            &opening,
            patient,
            &keyring,
            &statement.quarantined,
            throttle,
        )?;
    }
    Ok(Some(statement))
}

/// A log all of whose segments are gone goes on where it was closed, if that is known.
fn begin_again(opening: &Opening<'_>, keys: Loaded<'_>) -> Result<Option<LossStatement>, Error> {
    let session = open::session_text(opening.storage, opening.dir);
    let session = session.map_err(opening.io("read session in"))?;
    let closed_at = LastSession::parse(&session, None, "").closed_at;
    let Some(end) = closed_at.filter(|end| *end > Sequence::FIRST) else {
        return Ok(None);
    };
    let keyring = opening.settle(keys)?;
    let names = opening
        .storage
        .list(opening.dir)
        .map_err(opening.io("list"))?;
    let epoch = loss::last_epoch(&names).saturating_add(1);
    let statement = LossStatement {
        epoch,
        durable_through: end.get() - 1,
        discarded_bytes: 0,
        discarded: None,
        possibly_acknowledged: true,
        skipped: None,
        damages: vec![open::all_gone(opening.dir, end)],
        quarantined: Vec::new(),
        path: loss::path(opening.dir, epoch),
    };
    loss::write(opening.storage, opening.dir, &statement)
        .map_err(opening.io("write loss statement in"))?;
    opening.begin_at(&keyring, end, epoch)?;
    Ok(Some(statement))
}

/// Looks at all of every segment; `None` if `throttle` has ended it.
fn examine(
    opening: &Opening<'_>,
    segments: &[Arc<Segment>],
    header_damages: &[Damage],
    throttle: &dyn Throttle,
) -> Result<Option<Vec<Patient>>, Error> {
    let mut patients: Vec<Patient> = Vec::new();
    for (at, segment) in segments.iter().enumerate() {
        let of_header = header_damages
            .iter()
            .filter(|damage| damage.path == segment.path);
        let before = patients.last();
        let (log_id, origin) = match &segment.header {
            Some(header) => (header.log_id, header.origin),
            None => identity(opening, segments, at)?,
        };
        let mut patient = Patient {
            segment: Arc::clone(segment),
            header: segment.header.clone().unwrap_or_else(|| SegmentHeader {
                version: VERSION,
                node: opening.writer.node,
                log_id,
                base: segment.base,
                epoch: before.map_or(0, |before| before.header.epoch),
                previous_root: before.and_then(|before| before.root).unwrap_or(0),
                created_at: before.map_or(Micros(0), |before| before.header.created_at),
                reserved_end: before.map_or(0, |before| before.header.reserved_end),
                key_id: [0; 16],
                capacity: 0,
                flags: 0,
                generation: 0,
                sealed_root: 0,
                end: 0,
                salt: [0; 16],
                origin,
            }),
            damages: of_header.cloned().collect(),
            ranges: Vec::new(),
            found_end: segment.base,
            durable_through: 0,
            end: Sequence::MAX,
            root: None,
            closed_at: None,
        };
        if segment.header.is_none() {
            patient.ranges.push(0..HEADER_BLOCK_BYTES);
        }
        match segments.get(at + 1) {
            Some(next) => {
                patient.end = next.base;
                if !patient.look(throttle)? {
                    return Ok(None);
                }
            }
            None => {
                if !patient.look_at_last(opening, throttle)? {
                    return Ok(None);
                }
            }
        }
        patients.push(patient);
    }
    Ok(Some(patients))
}

/// Which log the segment at `at`, whose header cannot be read, belongs to: in a fork there are
/// several. Its batches tell, if there are any.
fn identity(
    opening: &Opening<'_>,
    segments: &[Arc<Segment>],
    at: usize,
) -> Result<([u8; 16], Option<Origin>), Error> {
    let segment = &segments[at];
    let header = |segment: &Arc<Segment>| segment.header.clone();
    let before = segments[..at].iter().rev().find_map(header);
    let after = segments[at + 1..].iter().find_map(header);
    let start = usize::try_from(HEADER_BLOCK_BYTES).unwrap_or(usize::MAX);
    let bytes = segment.bytes()?;
    let of_batches = || first_log_tag(bytes.get(start..).unwrap_or_default());
    let tag = segment.wanted_tag.or_else(of_batches);
    let named = |header: &SegmentHeader| tag == Some(header.log_tag());
    let of = |header: SegmentHeader| (header.log_id, header.origin);
    if let Some(header) = segments.iter().filter_map(header).find(named) {
        return Ok(of(header));
    }
    if tag.is_none()
        && let Some(header) = before.clone().or(after)
    {
        return Ok(of(header));
    }
    // The only own segment of a fork, or of a log: its id is lost, and it gets another.
    let origin = before.map(|before| Origin {
        log_id: before.log_id,
        end: segment.base,
    });
    Ok((open::new_log_id(opening.writer, opening.now()), origin))
}

impl Patient {
    /// `false` if `throttle` has ended it.
    fn look(&mut self, throttle: &dyn Throttle) -> Result<bool, Error> {
        let mut root = self.segment.header.as_ref().map(SegmentHeader::chain);
        let mut created_at = None;
        for scanned in self.segment.scan()? {
            match scanned {
                Scanned::Batch(batch) => {
                    if !throttle.take(batch.header.file_len()) {
                        return Ok(false);
                    }
                    created_at.get_or_insert(batch.header.appended_at);
                    self.header.reserved_end = self
                        .header
                        .reserved_end
                        .max(batch.reserved_end().unwrap_or(0));
                    self.found_end = batch.header.end();
                    self.durable_through = self.durable_through.max(batch.header.durable_through);
                    root = Some(batch.next_chain);
                }
                Scanned::Damaged(region) => {
                    self.found_end = match region.salvaged().last() {
                        Some((_, record)) if region.end == Sequence::MAX => record.sequence.next(),
                        None if region.end == Sequence::MAX => self.found_end,
                        _ => region.end,
                    };
                    root = None;
                    self.ranges.push(region.range.clone());
                    self.damages.push(region.damage);
                }
                Scanned::End(_) => {}
            }
        }
        if self.segment.header.is_none()
            && let Some(created_at) = created_at
        {
            self.header.created_at = created_at;
        }
        self.root = if self.header.is_rewritten() {
            Some(self.header.sealed_root)
        } else {
            root
        };
        Ok(true)
    }

    /// The last segment may end torn, which is no damage: opening the log mends that.
    fn look_at_last(
        &mut self,
        opening: &Opening<'_>,
        throttle: &dyn Throttle,
    ) -> Result<bool, Error> {
        // Without it sequences that somebody has seen could be given out again.
        let session = open::session_text(opening.storage, opening.dir);
        let session = session.map_err(opening.io("read session in"))?;
        let session = LastSession::parse(&session, None, "");
        let Some(header) = self.segment.header.clone() else {
            if !self.look(throttle)? {
                return Ok(false);
            }
            let flushed_end = self.durable_through.saturating_add(1);
            let closed_at = session.closed_at.map_or(0, Sequence::get);
            self.go_on_after(closed_at.max(flushed_end));
            return Ok(true);
        };
        let survey = recovery::survey(
            &self.segment.path,
            self.segment.bytes()?,
            &header,
            &self.segment.codec,
            opening.options.index_interval_bytes,
        );
        let closed_at = session.closed_at;
        let cut = closed_at.and_then(|end| open::cut_since_close(&self.segment.path, &survey, end));
        let known_end = closed_at
            .map_or(0, Sequence::get)
            .max(survey.durable_through.saturating_add(1));
        if survey.ending != Ending::Corrupt && cut.is_none() && self.damages.is_empty() {
            self.found_end = survey.next;
            self.root = Some(survey.chain);
            return Ok(true);
        }
        if !self.look(throttle)? {
            return Ok(false);
        }
        let shown = |damage: &Damage| !self.damages.contains(damage);
        let more: Vec<Damage> = survey
            .damages
            .into_iter()
            .chain(cut)
            .filter(shown)
            .collect();
        self.damages.extend(more);
        self.header.reserved_end = self.header.reserved_end.max(survey.reserved_end);
        self.go_on_after(known_end.max(self.end_of_lost_bytes()?));
        Ok(true)
    }

    /// Exclusive end of the sequences that can have stood in the bytes that a file has lost.
    fn end_of_lost_bytes(&self) -> Result<u64, Error> {
        let len = self.segment.file.len();
        let len = len.map_err(|source| self.segment.io_error("measure", source))?;
        let lost = self.header.capacity.saturating_sub(len);
        Ok(if lost == 0 {
            0
        } else {
            self.found_end.advance(lost / RECORD_BYTES_MIN).get()
        })
    }

    /// Refuses to give up more sequences than can be lost.
    fn check_span(&self) -> Result<(), Error> {
        let span = self.end.since(self.segment.base);
        if span <= LOST_MAX {
            return Ok(());
        }
        Err(Error::Damaged(Damage {
            path: self.segment.path.clone(),
            offset: ByteOffset(0),
            what: "sequences of a segment to be repaired",
            expected: format!("at most {LOST_MAX}"),
            found: format!(
                "{span}, up to {}: look at the name of the segment behind it, or at \"closed at\" in the file session",
                self.end
            ),
        }))
    }

    /// No sequence below `known_end` may be used again.
    fn go_on_after(&mut self, known_end: u64) {
        self.found_end = self.found_end.max(Sequence::at_least_first(known_end));
        self.end = self.found_end;
        let next = known_end.max(self.header.reserved_end);
        self.closed_at = Some(Sequence::at_least_first(next).max(self.found_end));
    }
}

/// Names the segments behind which another one is missing.
fn find_gaps(patients: &mut [Patient]) {
    for at in 1..patients.len() {
        let (before, behind) = patients.split_at_mut(at);
        let (Some(before), Some(behind)) = (before.last_mut(), behind.first()) else {
            continue;
        };
        // One without a header is given one that names what is known of the segment before it.
        let names = behind.header.previous_root;
        match before.root {
            Some(root) if root == names => {}
            Some(root) => {
                let damage = missing_before(&behind.segment.path, root, names);
                before.damages.push(damage);
                before.root = Some(names);
            }
            None => before.root = Some(names),
        }
    }
}

/// Copies every damaged range to a file of its own. Durable on `Ok`.
fn put_aside(
    storage: &dyn Storage,
    dir: &Path,
    patients: &[Patient],
) -> Result<Vec<Quarantined>, Error> {
    let mut quarantined = Vec::new();
    for patient in patients {
        for range in &patient.ranges {
            let copy = copy_path(dir, patient.segment.base, range.start);
            let io = |operation| rewrite::segment_error(&copy, operation);
            let len = patient
                .segment
                .file
                .len()
                .map_err(|source| patient.segment.io_error("measure", source))?;
            let range = range.start.min(len)..range.end.min(len);
            let bytes = usize::try_from(range.end - range.start)
                .map_err(io::Error::other)
                .and_then(|len| patient.segment.file.read(range.start, len));
            let bytes = bytes.map_err(|source| patient.segment.io_error("read", source))?;
            let write = || {
                remove_if_there(storage, &copy)?;
                let file = storage.create(&copy)?;
                file.write_at(0, &bytes)?;
                file.sync_data()
            };
            write().map_err(io("put damaged bytes aside in"))?;
            quarantined.push(Quarantined {
                path: patient.segment.path.clone(),
                range,
                copy,
            });
        }
    }
    storage
        .sync_dir(dir)
        .map_err(rewrite::segment_error(dir, "flush directory"))?;
    Ok(quarantined)
}

fn copy_path(dir: &Path, base: Sequence, offset: u64) -> PathBuf {
    dir.join(format!("quarantine-{:020}-{offset}.bin", base.get()))
}

/// Writes the statement of what is repaired and lost. Durable on `Ok`.
fn state(
    opening: &Opening<'_>,
    patients: &[Patient],
    quarantined: Vec<Quarantined>,
) -> Result<LossStatement, Error> {
    let names = opening
        .storage
        .list(opening.dir)
        .map_err(opening.io("list"))?;
    let epochs = patients.iter().map(|patient| patient.header.epoch);
    let epoch = epochs
        .chain([loss::last_epoch(&names)])
        .max()
        .unwrap_or(0)
        .saturating_add(1);
    let statement = LossStatement {
        epoch,
        durable_through: patients.last().map_or(0, |last| last.found_end.get() - 1),
        discarded_bytes: 0,
        discarded: None,
        possibly_acknowledged: false,
        skipped: None,
        damages: patients
            .iter()
            .flat_map(|patient| patient.damages.clone())
            .collect(),
        quarantined,
        path: loss::path(opening.dir, epoch),
    };
    loss::write(opening.storage, opening.dir, &statement)
        .map_err(opening.io("write loss statement in"))?;
    Ok(statement)
}

/// Puts a good segment in the place of a damaged one.
fn mend(
    opening: &Opening<'_>,
    patient: &Patient,
    keyring: &Keyring,
    quarantined: &[Quarantined],
    throttle: &dyn Throttle,
) -> Result<(), Error> {
    let (storage, dir) = (opening.storage, opening.dir);
    let path = &patient.segment.path;
    let aside = |region: &DamagedRegion| {
        let found = quarantined.iter().find(|put_aside| {
            put_aside.path == *path && put_aside.range.start == region.range.start
        });
        let name = found.and_then(|put_aside| put_aside.copy.file_name()?.to_str());
        let damage = &region.damage;
        format!(
            "{} at byte {}: expected {}, found {}; put aside in {}",
            damage.what,
            damage.offset,
            damage.expected,
            damage.found,
            name.unwrap_or("a file of the quarantine"),
        )
    };
    let missing = patient.damages.last().map(|damage| {
        format!(
            "{}: expected {}, found {}",
            damage.what, damage.expected, damage.found
        )
    });
    let rewritten = rewrite::rewrite(
        storage,
        dir,
        &patient.segment,
        keyring,
        opening.options.index_interval_bytes,
        throttle,
        Plan {
            keep: &mut |_| true,
            end: patient.end,
            compression: None,
            quarantine: Some(Mending {
                aside: &aside,
                header: patient.header.clone(),
                root: patient.root,
                missing,
                closed_at: patient.closed_at,
            }),
        },
    )?;
    if rewritten.is_none() {
        let source = io::Error::new(io::ErrorKind::Interrupted, "given up");
        return Err(rewrite::segment_error(path, "repair")(source));
    }
    remove_if_there(storage, &path.with_extension("idx"))
        .and_then(|()| storage.rename(&dir.join(REWRITING), path))
        .and_then(|()| storage.sync_dir(dir))
        .map_err(rewrite::segment_error(path, "replace"))
}
