//! Opens a log: takes its lock, looks at what the last session left, mends what may be mended.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, RwLock};

use super::append::Observer;
use super::batch::FLAG_MARK;
use super::body::BodyCodec;
use super::commit::Core;
use super::error::{Damage, Error, hex};
use super::keyfile::KEYS_COMING;
use super::keyring::{Keyring, Loaded, OsEntropy};
use super::loss;
use super::options::{Environment, Options, Writer};
use super::pass::Upkeep;
use super::position::{ByteOffset, Micros, Sequence};
use super::prepare::{self, remove_if_there};
use super::reader::Segment;
use super::recovery::{self, Ending, Survey};
use super::removal;
use super::segment::{
    self, BadSegmentHeader, HEADER_BLOCK_BYTES, HEADER_BYTES, PREPARING, REWRITING, SegmentHeader,
    VERSION,
};
use super::state::{Queue, State};
use super::status::LossStatement;
use super::storage::{Access, Storage, StorageLock};
use super::tail::Tail;

const LOCK: &str = "LOCK";
/// Says which process had the log open last, and under which boot of the machine.
const SESSION: &str = "session";

/// Before the sequence at which it was closed.
const CLOSED_AT: &str = "closed at ";

/// How the last session can have ended, as far as the operating system tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interruption {
    /// The process died; what it had written is all there.
    Process,
    /// The machine went down, or the log was given up after a failed flush: what was not flushed
    /// may be gone.
    Machine,
}

/// A log that is being opened or repaired.
pub(super) struct Opening<'a> {
    environment: &'a Environment,
    pub(super) storage: &'a dyn Storage,
    pub(super) dir: &'a Path,
    pub(super) writer: &'a Writer,
    pub(super) options: &'a Options,
}

/// See [`super::Log::open`].
pub(super) fn open(
    environment: &Environment,
    dir: &Path,
    writer: &Writer,
    options: &Options,
    observer: Arc<dyn Observer>,
) -> Result<(Arc<State>, Option<LossStatement>), Error> {
    let opening = Opening::new(environment, dir, writer, options);
    let io = |operation| opening.io(operation);
    opening
        .storage
        .create_dir_all(dir)
        .map_err(io("create directory"))?;
    let lock = opening.lock()?;
    if removal::unfinished(opening.storage, dir)?.is_some() {
        return Err(Error::Unfinished {
            path: dir.to_owned(),
        });
    }
    let session = last_session(opening.storage, dir, &opening.instance());
    let mut damages = Vec::new();
    // A log whose keys are not at hand is refused before anything is written.
    let keys = opening.keys()?;
    let mut segments = opening.segments(&keys, &mut damages)?;
    for name in [PREPARING, REWRITING, KEYS_COMING, "loss.tmp"] {
        remove_if_there(opening.storage, &dir.join(name)).map_err(io("clean up"))?;
    }
    // A process that was killed, or refused by the disk, may have given a segment or the keys a name
    // that power would still take away, with all that is now added under it.
    opening
        .storage
        .sync_dir(dir)
        .map_err(io("flush directory"))?;
    let keyring = opening.settle(keys)?;
    if segments.is_empty() {
        if let Some(end) = session.closed_at.filter(|end| *end > Sequence::FIRST) {
            return Err(all_gone(dir, end).into());
        }
        segments.push(opening.begin_at(&keyring, Sequence::FIRST, 0)?);
    }
    let Some(active) = segments.pop() else {
        unreachable!("a segment was just created")
    };
    let recovered = opening.recover(active, session, damages)?;
    let Recovered {
        segment,
        core,
        next,
        statement,
        read_only,
    } = recovered;
    segments.push(segment);

    let first = segments
        .first()
        .map_or(Sequence::FIRST, |segment| segment.base);
    let state = State {
        dir: dir.to_owned(),
        options: options.clone(),
        writer: writer.clone(),
        storage: Arc::clone(&environment.storage),
        clock: Arc::clone(&environment.clock),
        queues: Arc::clone(environment.committer.queues()),
        _committer: Arc::clone(&environment.committer),
        observer,
        queue: Mutex::new(Queue::default()),
        idle: Condvar::new(),
        core: Mutex::new(core),
        prepared: Mutex::new(prepare::reuse(opening.storage, dir, options)),
        flush: Mutex::new(()),
        segments: RwLock::new(segments),
        tail: RwLock::new(Tail::new(options.tail_bytes)),
        unflushed: Mutex::new(VecDeque::new()),
        indexes: Mutex::new(VecDeque::new()),
        first: AtomicU64::new(first.get()),
        durable_end: AtomicU64::new(next.get()),
        written_end: AtomicU64::new(next.get()),
        flushes: AtomicU64::new(0),
        shows_written: AtomicBool::new(false),
        chores: AtomicU8::new(0),
        read_only: Mutex::new(read_only),
        unannounced: AtomicBool::new(false),
        lock: Mutex::new(Some(lock)),
        keyring: RwLock::new(Arc::new(keyring)),
        rewriting: Mutex::new(()),
        upkeep: Upkeep::default(),
        scrub: Mutex::default(),
        lasts: Mutex::default(),
    };
    let begun = if statement.is_some() && state.read_only().is_none() {
        state.begin_epoch()?
    } else {
        true
    };
    // Whoever repairs a log that takes no writes must still be told where it was closed.
    if begun && state.read_only().is_none() {
        // Not earlier: whoever finds this session believes that all its predecessors wrote is
        // there, and would give sequences that a power cut took to other records.
        opening.note_session().map_err(io("note session in"))?;
    }
    Ok((Arc::new(state), statement))
}

impl State {
    /// Puts a new epoch on disk, so that two sessions that both died are told apart, and with it
    /// the sequence to go on with. `false` if there was no room for it.
    fn begin_epoch(&self) -> Result<bool, Error> {
        let mut core = self.lock_core();
        // A clean close must still find room for its mark.
        if core.room() < 2 * super::batch::MARK_BYTES as u64 {
            return Ok(false);
        }
        self.write_mark(&mut core, FLAG_MARK)
            .map_err(|error| Error::Io {
                operation: "begin a new epoch in",
                path: self.dir.clone(),
                source: io::Error::other(error),
            })?;
        let flushed = core.segment.file.sync_data();
        flushed.map_err(|source| core.segment.io_error("flush", source))?;
        Ok(true)
    }

    /// Says in the session's file that the log was closed, and where it ended. Not flushed either:
    /// without it the segments speak for themselves.
    pub(super) fn note_close(&self, end: Sequence) {
        let session = || {
            let boot = self.storage.boot_id()?;
            let session = format!("{boot}\n{:016x}\n{CLOSED_AT}{end}\n", self.queues.instance);
            replace_session(&*self.storage, &self.dir, &session)
        };
        if let Err(error) = session() {
            tracing::warn!(dir = %self.dir.display(), %error, "cannot note where the log was closed");
        }
    }

    /// After a failed flush the page cache may show bytes that never reached the disk, so the next
    /// process must not take what it sees there for all that was written.
    pub(super) fn forget_session(&self) {
        if let Err(error) = remove_if_there(&*self.storage, &self.dir.join(SESSION)) {
            tracing::warn!(dir = %self.dir.display(), %error, "cannot forget the session");
        }
    }
}

/// What recovery leaves.
struct Recovered {
    segment: Arc<Segment>,
    core: Core,
    next: Sequence,
    statement: Option<LossStatement>,
    read_only: Option<String>,
}

impl<'a> Opening<'a> {
    pub(super) fn new(
        environment: &'a Environment,
        dir: &'a Path,
        writer: &'a Writer,
        options: &'a Options,
    ) -> Self {
        Self {
            environment,
            storage: &*environment.storage,
            dir,
            writer,
            options,
        }
    }

    pub(super) fn now(&self) -> Micros {
        self.environment.clock.now()
    }

    pub(super) fn io(&self, operation: &'static str) -> impl FnOnce(io::Error) -> Error {
        let path = self.dir.to_owned();
        move |source| Error::Io {
            operation,
            path,
            source,
        }
    }

    pub(super) fn lock(&self) -> Result<Box<dyn StorageLock>, Error> {
        lock(self.storage, self.dir, self.writer)
    }

    pub(super) fn keys(&self) -> Result<Loaded<'_>, Error> {
        let encryption = self.options.encryption.as_ref();
        let masters = encryption.map(|encryption| &*encryption.masters);
        let entropy = encryption.map(|encryption| Arc::clone(&encryption.entropy));
        let entropy = entropy.unwrap_or_else(|| Arc::new(OsEntropy));
        Loaded::load(self.storage, self.dir, masters, entropy)
    }

    pub(super) fn settle(&self, keys: Loaded<'_>) -> Result<Keyring, Error> {
        let now = self.environment.clock.now();
        keys.settle(
            self.storage,
            self.dir,
            self.options.encryption.as_ref(),
            now,
        )
    }

    fn instance(&self) -> String {
        format!("{:016x}", self.environment.committer.queues().instance)
    }

    /// Not flushed: after a power cut a missing or torn file says the right thing.
    fn note_session(&self) -> io::Result<()> {
        let boot = self.storage.boot_id()?;
        let session = format!("{boot}\n{}\n", self.instance());
        replace_session(self.storage, self.dir, &session)
    }

    pub(super) fn segments(
        &self,
        keys: &Loaded<'_>,
        damages: &mut Vec<Damage>,
    ) -> Result<Vec<Arc<Segment>>, Error> {
        let names = self.storage.list(self.dir).map_err(self.io("list"))?;
        let mut segments = Vec::new();
        for name in names {
            let Some(base) = segment::base_of(&name) else {
                continue;
            };
            let path = self.dir.join(&name);
            let io = |operation| {
                let path = path.clone();
                move |source| Error::Io {
                    operation,
                    path,
                    source,
                }
            };
            let file = self
                .storage
                .open(&path, Access::Write)
                .map_err(io("open"))?;
            let file_len = file.len().map_err(io("measure"))?;
            let len = usize::try_from(file_len.min(HEADER_BLOCK_BYTES)).unwrap_or(HEADER_BYTES);
            let bytes = file.read(0, len).map_err(io("read header of"))?;
            let header = match header(&path, base, &bytes) {
                Ok((header, damage)) => {
                    keys.check(&path, &header)?;
                    if let Some(damage) = damage {
                        tracing::warn!(%damage, "the copy of the header is good; putting it back");
                        file.write_at(0, &header.block())
                            .map_err(io("mend header of"))?;
                        file.sync_data().map_err(io("flush"))?;
                    }
                    damages.extend(shortened(&path, &header, file_len));
                    Some(header)
                }
                Err(Error::Damaged(damage)) => {
                    damages.push(damage);
                    None
                }
                Err(error) => return Err(error),
            };
            let codec = match &header {
                Some(header) => keys.keyring.codec(header),
                None => BodyCodec::default(),
            };
            segments.push(Segment::sealed(base, header, path, file, codec));
        }
        disown(&mut segments, damages);
        Ok(segments.into_iter().map(Arc::new).collect())
    }

    /// The first segment of a new log, or of one that lost all it had before `base`.
    pub(super) fn begin_at(
        &self,
        keyring: &Keyring,
        base: Sequence,
        epoch: u32,
    ) -> Result<Arc<Segment>, Error> {
        let created_at = self.environment.clock.now();
        let (key_id, salt) = keyring.for_new_segment();
        let header = SegmentHeader {
            version: VERSION,
            node: self.writer.node,
            log_id: new_log_id(self.writer, created_at),
            base,
            epoch,
            previous_root: 0,
            created_at,
            reserved_end: 0,
            key_id,
            capacity: 0,
            flags: 0,
            generation: 0,
            sealed_root: 0,
            end: 0,
            salt,
            origin: None,
        };
        let codec = keyring.codec(&header);
        let segment = prepare::first_segment(self.storage, self.dir, header, codec, self.options)?;
        Ok(Arc::new(segment))
    }

    fn recover(
        &self,
        active: Arc<Segment>,
        session: LastSession,
        mut damages: Vec<Damage>,
    ) -> Result<Recovered, Error> {
        let Some(header) = active.header.clone() else {
            return self.headless(active, damages);
        };
        let bytes = active.bytes()?;
        let survey = recovery::survey(
            &active.path,
            bytes,
            &header,
            &active.codec,
            self.options.index_interval_bytes,
        );
        damages.extend(survey.damages.iter().cloned());
        let closed_at = session.closed_at;
        damages.extend(closed_at.and_then(|end| cut_since_close(&active.path, &survey, end)));
        let names = self.storage.list(self.dir).map_err(self.io("list"))?;
        let verdict = judge(
            self.dir,
            &survey,
            session.interruption,
            damages,
            loss::last_epoch(&names),
        );
        let Verdict {
            mends,
            next,
            epoch,
            statement,
            read_only,
        } = verdict;
        if let Some(statement) = &statement {
            // Before mending, which destroys the evidence: power may fail in between.
            loss::write(self.storage, self.dir, statement)
                .map_err(self.io("write loss statement in"))?;
        }
        if mends {
            mend(&active, &survey)?;
        }
        let core = core(&active, &header, &survey, next, epoch)?;
        active.grow_from(survey.index);
        let segment = active;
        Ok(Recovered {
            segment,
            core,
            next,
            statement,
            read_only,
        })
    }

    /// The last segment has no readable header: its records can be read, but nothing says what was
    /// flushed.
    fn headless(&self, active: Arc<Segment>, damages: Vec<Damage>) -> Result<Recovered, Error> {
        let reason = damages
            .first()
            .map_or_else(|| "damaged header".to_owned(), ToString::to_string);
        let next = active.with_index(self.storage, |index| index.end)?;
        let core = Core {
            segment: Arc::clone(&active),
            at: ByteOffset(0),
            capacity: 0,
            next,
            chain: 0,
            epoch: 0,
            last_appended_at: self.environment.clock.now(),
            reserved_end: 0,
            marked_durable: 0,
            log_id: [0; 16],
            log_tag: 0,
            prepare_failed_at: None,
        };
        let statement = headless_statement(self.dir, next, damages);
        if let Err(error) = loss::write(self.storage, self.dir, &statement) {
            tracing::error!(dir = %self.dir.display(), %error, "cannot write the loss statement");
        }
        let statement = Some(statement);
        Ok(Recovered {
            segment: active,
            core,
            next,
            statement,
            read_only: Some(reason),
        })
    }
}

/// Takes the lock of the log in `dir`.
pub(super) fn lock(
    storage: &dyn Storage,
    dir: &Path,
    writer: &Writer,
) -> Result<Box<dyn StorageLock>, Error> {
    let path = dir.join(LOCK);
    let owner = format!("pid {} ({})\n", std::process::id(), writer.clock_key);
    storage.lock(&path, &owner).map_err(|source| {
        if source.kind() == io::ErrorKind::WouldBlock {
            Error::Locked {
                path: path.clone(),
                owner: source.to_string(),
            }
        } else {
            Error::Io {
                operation: "lock",
                path: path.clone(),
                source,
            }
        }
    })
}

/// Cuts off what never became part of the log, and writes again what was not known to be
/// flushed: after a failed flush the operating system may call such bytes clean although they
/// never reached the disk.
fn mend(active: &Segment, survey: &Survey) -> Result<(), Error> {
    if let Some(cut) = &survey.cut {
        let mut at = cut.start.0;
        let zeros = [0; 64 << 10];
        while at < cut.end.0 {
            let len = (cut.end.0 - at).min(zeros.len() as u64);
            let zeros = &zeros[..usize::try_from(len).unwrap_or(zeros.len())];
            let written = active.file.write_at(at, zeros);
            written.map_err(|source| active.io_error("cut the torn end of", source))?;
            at += len;
        }
    }
    let unflushed = survey
        .index
        .data_end
        .0
        .saturating_sub(survey.unflushed_at.0);
    if let Ok(len) = usize::try_from(unflushed)
        && len > 0
    {
        let read = active.file.read(survey.unflushed_at.0, len);
        // Copied first: the mapping must not be the source of a write to the same pages.
        let bytes = read
            .map_err(|source| active.io_error("read", source))?
            .to_vec();
        let written = active.file.write_at(survey.unflushed_at.0, &bytes);
        written.map_err(|source| active.io_error("write again the end of", source))?;
    }
    active
        .file
        .sync_data()
        .map_err(|source| active.io_error("flush", source))
}

fn replace_session(storage: &dyn Storage, dir: &Path, session: &str) -> io::Result<()> {
    let path = dir.join(SESSION);
    remove_if_there(storage, &path)?;
    storage.create(&path)?.write_at(0, session.as_bytes())
}

/// What is known of the session before this one.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastSession {
    pub(super) interruption: Interruption,
    /// Where the log ended, if it was closed.
    pub(super) closed_at: Option<Sequence>,
}

/// What the session's file tells the process that is called `instance`. One that cannot be read
/// is as good as none.
pub(super) fn last_session(storage: &dyn Storage, dir: &Path, instance: &str) -> LastSession {
    let session = session_text(storage, dir).unwrap_or_default();
    LastSession::parse(&session, storage.boot_id().ok().as_deref(), instance)
}

/// The session's file; empty if there is none.
pub(super) fn session_text(storage: &dyn Storage, dir: &Path) -> io::Result<String> {
    let read = storage
        .open(&dir.join(SESSION), Access::Read)
        .and_then(|file| file.read(0, usize::try_from(file.len()?).map_err(io::Error::other)?));
    match read {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

impl LastSession {
    pub(super) fn parse(session: &str, boot: Option<&str>, instance: &str) -> Self {
        let mut lines = session.lines();
        let (of_boot, of_process) = (lines.next(), lines.next());
        let closed_at = lines
            .next()
            .and_then(|line| line.strip_prefix(CLOSED_AT)?.parse().ok());
        let same_boot = boot.is_some() && of_boot == boot;
        // The same process opens a log again only after it has given it up.
        let interruption = if same_boot && of_process != Some(instance) {
            Interruption::Process
        } else {
            Interruption::Machine
        };
        Self {
            interruption,
            closed_at: closed_at.and_then(Sequence::new),
        }
    }
}

/// What is to be done about the last session, decided but not done.
pub(super) struct Verdict {
    /// The torn end is cut off, and what was not known to be flushed is written again.
    pub(super) mends: bool,
    pub(super) next: Sequence,
    /// The epoch that begins.
    pub(super) epoch: u32,
    pub(super) statement: Option<LossStatement>,
    pub(super) read_only: Option<String>,
}

/// Decides what follows from the `survey` of the last segment and from all `damages` known.
/// `stated` is the last epoch that has a loss statement, or 0.
pub(super) fn judge(
    dir: &Path,
    survey: &Survey,
    interruption: Interruption,
    damages: Vec<Damage>,
    stated: u32,
) -> Verdict {
    // A log that was only just created has ended in no way at all.
    let fresh =
        survey.unopened && survey.index.data_end.0 == HEADER_BLOCK_BYTES && survey.cut.is_none();
    let writable = damages.is_empty();
    let (next, skipped) = resume_at(survey, interruption, fresh);
    // If an opening was interrupted after it had made its loss statement, that one is kept, and the
    // epoch it was to begin is left out. A damaged log begins none, so it states itself only once.
    let last = if writable {
        survey.epoch.max(stated)
    } else {
        survey.epoch
    };
    let epoch = last.saturating_add(1);
    let read_only = damages
        .first()
        .map(|damage| format!("{damage}; every good record can be read, none can be added"));
    let statement = (!fresh && (survey.ending != Ending::Clean || !writable)).then(|| {
        let cut = survey.cut.as_ref().filter(|_| writable);
        LossStatement {
            epoch,
            durable_through: survey.next.get() - 1,
            discarded_bytes: cut.map_or(0, |cut| cut.end.0 - cut.start.0),
            discarded: cut.and_then(|cut| cut.sequences),
            possibly_acknowledged: survey.reserved_end > survey.next.get()
                && (cut.is_some() || skipped.is_some()),
            skipped,
            damages,
            quarantined: Vec::new(),
            path: loss::path(dir, epoch),
        }
    });
    let mends = writable && survey.ending != Ending::Clean && !fresh;
    Verdict {
        mends,
        next,
        epoch,
        statement,
        read_only,
    }
}

/// The statement about a log whose last segment has no readable header.
pub(super) fn headless_statement(
    dir: &Path,
    next: Sequence,
    damages: Vec<Damage>,
) -> LossStatement {
    LossStatement {
        epoch: 0,
        durable_through: next.get() - 1,
        discarded_bytes: 0,
        discarded: None,
        possibly_acknowledged: false,
        skipped: None,
        damages,
        quarantined: Vec::new(),
        path: loss::path(dir, 0),
    }
}

/// Where to go on. After the machine went down, sequences that may have been seen are not used
/// again.
fn resume_at(
    survey: &Survey,
    interruption: Interruption,
    fresh: bool,
) -> (Sequence, Option<(Sequence, Sequence)>) {
    let reserved = Sequence::at_least_first(survey.reserved_end);
    // A process that dies leaves no torn end but that of the write it died in, which costs nothing
    // to count as lost; a larger one says that the page cache has dropped what a flush had lost.
    let lost = !matches!(survey.ending, Ending::Clean | Ending::Corrupt)
        && (interruption == Interruption::Machine || survey.cut.is_some())
        && !fresh;
    match reserved.previous() {
        Some(last) if lost && reserved > survey.next => (reserved, Some((survey.next, last))),
        _ => (survey.next, None),
    }
}

fn core(
    active: &Arc<Segment>,
    header: &SegmentHeader,
    survey: &Survey,
    next: Sequence,
    epoch: u32,
) -> Result<Core, Error> {
    let len = active
        .file
        .len()
        .map_err(|source| active.io_error("measure", source))?;
    Ok(Core {
        segment: Arc::clone(active),
        at: survey.index.data_end,
        capacity: len.min(header.capacity),
        next,
        chain: survey.chain,
        epoch,
        last_appended_at: survey.last_appended_at,
        // Nothing is on disk to say that a session has begun after a clean close, until the first
        // reservation or flush of it. A reservation from before would let it show sequences that
        // a power cut makes it forget.
        reserved_end: if survey.ending == Ending::Clean {
            next.get()
        } else {
            survey.reserved_end
        },
        marked_durable: survey.durable_through,
        log_id: header.log_id,
        log_tag: header.log_tag(),
        prepare_failed_at: None,
    })
}

/// The damage of a log that was closed and has no segment any more.
pub(super) fn all_gone(dir: &Path, end: Sequence) -> Damage {
    Damage {
        path: dir.to_owned(),
        offset: ByteOffset(0),
        what: "segments",
        expected: format!("records before sequence {end}, where it was closed"),
        found: "no segment".to_owned(),
    }
}

/// Takes files of other logs out of the row: each segment is of the log of the newest one, or of
/// one that this is a fork of.
fn disown(segments: &mut [Segment], damages: &mut Vec<Damage>) {
    let mut anchors = (0..segments.len())
        .rev()
        .filter(|&at| segments[at].header.is_some());
    let (Some(newest), second) = (anchors.next(), anchors.next()) else {
        return;
    };
    let mut foreign = foreign_to(segments, newest);
    // If the newest one is the stranger, all others are strangers to it.
    let others = segments.iter().filter(|segment| segment.header.is_some());
    if let Some(second) = second
        && foreign.len() > 1
        && foreign.len() + 1 == others.count()
    {
        foreign = foreign_to(segments, second);
    }
    let own = segments
        .iter()
        .enumerate()
        .rev()
        .filter(|(at, _)| !foreign.contains(at))
        .find_map(|(_, segment)| segment.header.as_ref().map(SegmentHeader::log_tag));
    let Some(own) = own else { return };
    for at in foreign {
        let segment = &mut segments[at];
        let found = segment.header.as_ref().map(|header| header.log_id);
        damages.push(Damage {
            path: segment.path.clone(),
            offset: ByteOffset(16),
            what: "log id",
            expected: "that of this log, or of one that it is a fork of".to_owned(),
            found: hex(&found.unwrap_or_default()),
        });
        segment.disown(own);
    }
}

/// Which segments are neither of the log of the one at `anchor`, nor of one that it descends from.
fn foreign_to(segments: &[Segment], anchor: usize) -> Vec<usize> {
    let mut foreign = Vec::new();
    let Some(newest) = &segments[anchor].header else {
        return foreign;
    };
    let (mut log_id, mut origin) = (newest.log_id, newest.origin);
    for at in (0..segments.len()).rev().filter(|&at| at != anchor) {
        let Some(header) = &segments[at].header else {
            continue;
        };
        if header.log_id == log_id {
            origin = header.origin.or(origin);
            continue;
        }
        match origin {
            Some(parent) if parent.log_id == header.log_id && header.base < parent.end => {
                (log_id, origin) = (header.log_id, header.origin);
            }
            _ => foreign.push(at),
        }
    }
    foreign
}

/// A segment has its full length before it gets its name, so a shorter one has lost bytes since.
pub(super) fn shortened(path: &Path, header: &SegmentHeader, len: u64) -> Option<Damage> {
    (len < header.capacity).then(|| Damage {
        path: path.to_owned(),
        offset: ByteOffset(len),
        what: "file length",
        expected: format!("{} bytes", header.capacity),
        found: format!("{len} bytes"),
    })
}

/// After a clean close the session's file says where the log ended; less than that is a loss that
/// the segments alone would not show.
pub(super) fn cut_since_close(path: &Path, survey: &Survey, closed_at: Sequence) -> Option<Damage> {
    (survey.next < closed_at).then(|| Damage {
        path: path.to_owned(),
        offset: survey.index.data_end,
        what: "end of the log",
        expected: format!("sequence {closed_at}, where it was closed"),
        found: format!("sequence {}", survey.next),
    })
}

/// Reads the header of a segment file with the name of `base` from its header block. If it is
/// damaged and its copy is not, the copy, and what is wrong.
pub(super) fn header(
    path: &Path,
    base: Sequence,
    block: &[u8],
) -> Result<(SegmentHeader, Option<Damage>), Error> {
    match header_in(path, base, block) {
        Err(Error::Damaged(damage)) => {
            let copy = block.get(segment::HEADER_COPY_AT..).unwrap_or_default();
            match header_in(path, base, copy) {
                Ok(header) => Ok((header, Some(damage))),
                Err(_) => Err(damage.into()),
            }
        }
        header => header.map(|header| (header, None)),
    }
}

fn header_in(path: &Path, base: Sequence, bytes: &[u8]) -> Result<SegmentHeader, Error> {
    let damage = |what, expected: String, found: String| {
        Error::Damaged(Damage {
            path: path.to_owned(),
            offset: ByteOffset(0),
            what,
            expected,
            found,
        })
    };
    let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
        let found = format!("{} bytes", bytes.len());
        return Err(damage(
            "segment header",
            format!("{HEADER_BYTES} bytes"),
            found,
        ));
    };
    match SegmentHeader::decode(bytes) {
        Ok(header) if header.base == base => Ok(header),
        Ok(header) => Err(damage(
            "base sequence",
            format!("{base} (file name)"),
            header.base.to_string(),
        )),
        Err(BadSegmentHeader::Version(found)) => Err(Error::Version {
            path: path.to_owned(),
            found,
            supported: VERSION,
        }),
        Err(BadSegmentHeader::Magic) => Err(damage(
            "segment magic",
            "ARQONSEG".to_owned(),
            format!("{:02x?}", &bytes[..8]),
        )),
        Err(BadSegmentHeader::Checksum(stored, computed)) => Err(damage(
            "segment header checksum",
            format!("{stored:#010x}"),
            format!("{computed:#010x}"),
        )),
        Err(BadSegmentHeader::Base) => {
            Err(damage("base sequence", base.to_string(), "0".to_owned()))
        }
    }
}

/// Differs between any two logs: when, by whom and under which name it was created.
pub(super) fn new_log_id(writer: &Writer, created_at: Micros) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&created_at.0.to_le_bytes());
    id[8..12].copy_from_slice(&writer.node.to_le_bytes());
    id[12..].copy_from_slice(&crc32fast::hash(writer.clock_key.as_bytes()).to_le_bytes());
    id
}
