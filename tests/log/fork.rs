//! Forks share files: each must equal its own vector of records, whatever is done to the others.
//!
//! Power cuts take `ARQONBUS_SEEDS` seeds for each step (5 if unset).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arqonbus::log::removal::{self, Unfinished};
use arqonbus::log::{
    Append, Committer, Durability, Environment, Error, Found, Log, LossStatement, Observer,
    Options, RealStorage, Sequence, Storage, Unthrottled, Writer,
};
use proptest::prelude::*;

use crate::secrets::encrypted_options;
use crate::session::{Scribe, SimClock, record, small_options};
use crate::sim_storage::{Fault, SimStorage};

/// Stands before the number of every record, so that it can be found in any file.
const CANARY: &[u8; 8] = b"<canary>";

fn sequence(value: u64) -> Sequence {
    Sequence::new(value).expect("a position")
}

fn payload(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = [CANARY.as_slice(), &number.to_le_bytes()].concat();
    bytes.resize(len.max(16), 7);
    bytes
}

/// Numbers of the records that any of `files` holds bytes of.
fn canaries<'a>(files: impl Iterator<Item = &'a Vec<u8>>) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for bytes in files {
        let mut at = 0;
        while let Some(step) = bytes[at..]
            .windows(CANARY.len())
            .position(|window| window == CANARY)
        {
            at += step + CANARY.len();
            if let Some(number) = bytes[at..].first_chunk() {
                found.insert(u64::from_le_bytes(*number));
            }
        }
    }
    found
}

/// One log and what it must hold.
#[derive(Debug)]
struct Branch {
    dir: PathBuf,
    writer: Writer,
    log: Log,
    /// Number of each record by its sequence, those that were trimmed away included.
    model: BTreeMap<u64, u64>,
}

/// A machine with a family of logs.
#[derive(Debug)]
struct Family {
    storage: SimStorage,
    clock: Arc<SimClock>,
    committer: Arc<Committer>,
    options: Options,
    branches: Vec<Branch>,
    names: u64,
    numbers: u64,
}

fn writer_of(name: u64) -> Writer {
    Writer {
        node: 1,
        clock_key: format!("n1/r{name}"),
    }
}

impl Family {
    fn new(seed: u64) -> Self {
        Self::with(seed, small_options())
    }

    fn with(seed: u64, options: Options) -> Self {
        let mut family = Self {
            storage: SimStorage::new(seed),
            clock: SimClock::new(),
            committer: Committer::manual(),
            options,
            branches: Vec::new(),
            names: 0,
            numbers: 0,
        };
        let (dir, writer) = family.name();
        let (log, _) = family.open(&dir, &writer).expect("a sound disk");
        family.branches.push(Branch {
            dir,
            writer,
            log,
            model: BTreeMap::new(),
        });
        family
    }

    fn name(&mut self) -> (PathBuf, Writer) {
        self.names += 1;
        let dir = PathBuf::from(format!("/data/dev/r{}", self.names));
        (dir, writer_of(self.names))
    }

    fn open(&self, dir: &Path, writer: &Writer) -> Result<(Log, Option<LossStatement>), Error> {
        let environment = Environment {
            storage: Arc::new(self.storage.clone()),
            clock: Arc::<SimClock>::clone(&self.clock),
            committer: Arc::clone(&self.committer),
        };
        let observer: Arc<dyn Observer> = Arc::new(Scribe::default());
        Log::open(&environment, dir, writer, &self.options, observer)
    }

    fn append(&mut self, branch: usize, lens: &[usize]) {
        let branch = &mut self.branches[branch];
        let next = branch.log.bounds().written_end.get();
        let mut records = Vec::new();
        for (sequence, &len) in (next..).zip(lens) {
            self.numbers += 1;
            branch.model.insert(sequence, self.numbers);
            let topic = ["a", "b.c", "d"][len % 3];
            records.push(record(topic, &payload(self.numbers, len)));
        }
        let append = Append {
            records,
            durability: Durability::Synced,
            then: None,
            sink: Arc::new(Scribe::default()),
            token: 0,
        };
        branch.log.append(append).expect("queued");
        self.committer.run_until_idle();
    }

    fn fork(&mut self, parent: usize, at: Option<Sequence>) {
        let (dir, writer) = self.name();
        let parent = &self.branches[parent];
        let point = parent.log.fork(&dir, at, &writer).expect("a sound disk");
        let end = at.map_or(parent.log.bounds().durable_end, Sequence::next);
        assert_eq!(point.end, end);
        let model = parent.model.clone().into_iter();
        let model = model.filter(|(at, _)| *at < end.get()).collect();
        let ancestor = parent.log.clone();
        let (log, statement) = self.open(&dir, &writer).expect("a sound disk");
        assert_eq!(statement, None, "a new fork has lost nothing");
        assert_eq!(log.bounds().durable_end, end);
        assert_eq!(log.origin().map(|origin| origin.end), Some(end));
        assert_eq!(log.common_end(&ancestor), Some(end));
        assert_eq!(ancestor.common_end(&log), Some(end));
        self.branches.push(Branch {
            dir,
            writer,
            log,
            model,
        });
    }

    fn delete(&mut self, branch: usize) {
        let branch = self.branches.remove(branch);
        branch.log.close().expect("a sound disk");
        removal::remove(&self.storage, &branch.dir, "").expect("a sound disk");
        assert!(
            !self
                .storage
                .files()
                .keys()
                .any(|path| path.starts_with(&branch.dir))
        );
    }

    fn reopen(&mut self, branch: usize) {
        self.branches[branch].log.close().expect("a sound disk");
        let one = &self.branches[branch];
        let (log, statement) = self.open(&one.dir, &one.writer).expect("a sound disk");
        assert_eq!(statement, None);
        self.branches[branch].log = log;
    }

    /// The process is gone; `storage` is what is left.
    fn restart(&mut self, storage: SimStorage) {
        self.storage = storage;
        self.committer = Committer::manual();
        for at in 0..self.branches.len() {
            let one = &self.branches[at];
            let (log, _) = self.open(&one.dir, &one.writer).expect("a sound disk");
            assert_eq!(log.status().read_only, None);
            self.branches[at].log = log;
        }
    }

    fn check(&self) {
        for branch in &self.branches {
            check(&branch.log, &branch.model);
        }
        let files = self.storage.files();
        for branch in &self.branches {
            let own = files
                .iter()
                .filter(|(path, _)| path.starts_with(&branch.dir));
            let known: BTreeSet<u64> = branch.model.values().copied().collect();
            let strange: Vec<u64> = canaries(own.map(|(_, bytes)| bytes))
                .difference(&known)
                .copied()
                .collect();
            assert_eq!(strange, [0; 0], "in {}", branch.dir.display());
        }
    }
}

/// `log` holds what `model` does, from its first record on.
fn check(log: &Log, model: &BTreeMap<u64, u64>) {
    let bounds = log.bounds();
    let mut expected = model.range(bounds.first.get()..);
    let mut at = bounds.first;
    loop {
        match log.read(at, bounds.durable_end, 3000).expect("readable") {
            Found::Records(chunk) => {
                for record in chunk.iter() {
                    let (sequence, number) = expected.next().expect("no more than was written");
                    assert_eq!(record.sequence.get(), *sequence);
                    let wanted = [CANARY.as_slice(), &number.to_le_bytes()].concat();
                    let held = record.record.windows(16).any(|window| window == wanted);
                    assert!(held && record.is_intact(), "record {sequence}");
                }
                at = chunk.last.next();
            }
            Found::End => break,
            Found::Damaged { damage, .. } => panic!("{damage}"),
        }
    }
    assert_eq!(expected.next(), None, "not all was read");
    let by_topic: u64 = log
        .topics()
        .expect("readable")
        .iter()
        .map(|topic| topic.records)
        .sum();
    assert_eq!(by_topic, model.range(bounds.first.get()..).count() as u64);
}

#[derive(Clone, Debug)]
enum Operation {
    Append(prop::sample::Index, Vec<usize>),
    Fork(prop::sample::Index, Option<prop::sample::Index>),
    Trim(prop::sample::Index, prop::sample::Index),
    Delete(prop::sample::Index),
    Reopen(prop::sample::Index),
    Chores,
    Kill,
    PowerCut(u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    let index = any::<prop::sample::Index>;
    let lens = prop::collection::vec(16_usize..1500, 1..6);
    prop_oneof![
        20 => (index(), lens).prop_map(|(branch, lens)| Operation::Append(branch, lens)),
        6 => (index(), prop::option::of(index())).prop_map(|(branch, at)| Operation::Fork(branch, at)),
        3 => (index(), index()).prop_map(|(branch, at)| Operation::Trim(branch, at)),
        1 => index().prop_map(Operation::Delete),
        2 => index().prop_map(Operation::Reopen),
        3 => Just(Operation::Chores),
        1 => Just(Operation::Kill),
        1 => any::<u64>().prop_map(Operation::PowerCut),
    ]
}

fn apply(family: &mut Family, operation: &Operation) {
    let count = family.branches.len();
    match operation {
        Operation::Append(branch, lens) => {
            // In blocks, so that segments fill up.
            for _ in 0..4 {
                family.append(branch.index(count), lens);
            }
        }
        Operation::Fork(branch, at) => {
            let branch = branch.index(count);
            let bounds = family.branches[branch].log.bounds();
            let there = bounds.durable_end.since(bounds.first);
            let at = at.filter(|_| there > 0).map(|at| {
                bounds
                    .first
                    .advance(at.index(usize::try_from(there).expect("few")) as u64)
            });
            if count < 7 {
                family.fork(branch, at);
            }
        }
        Operation::Trim(branch, at) => {
            let log = &family.branches[branch.index(count)].log;
            let end = usize::try_from(log.bounds().durable_end.get()).expect("few");
            log.trim(Sequence::at_least_first(at.index(end) as u64))
                .expect("a sound disk");
        }
        Operation::Delete(branch) => {
            if count > 1 {
                family.delete(branch.index(count));
            }
        }
        Operation::Reopen(branch) => family.reopen(branch.index(count)),
        Operation::Chores => family.committer.run_chores(),
        Operation::Kill => family.restart(family.storage.process_kill()),
        Operation::PowerCut(seed) => family.restart(family.storage.power_cut(*seed)),
    }
    family.check();
}

proptest! {
    // PROPTEST_CASES=2000 is the long run.
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        max_shrink_iters: 500,
        ..ProptestConfig::default()
    })]

    // LOG-12, REL-06: parents, forks and forks of forks are each what their own history says.
    #[test]
    fn every_branch_equals_its_own_vector(
        operations in prop::collection::vec(operation(), 1..60),
        encrypted in any::<bool>(),
    ) {
        let options = if encrypted { encrypted_options(1) } else { small_options() };
        let mut family = Family::with(1, options);
        for operation in &operations {
            apply(&mut family, operation);
        }
        if encrypted {
            let files = family.storage.files();
            assert_eq!(canaries(files.values()).len(), 0);
        }
    }
}

// LOG-12, LOG-14: a fork has the keys that its segments need, and loses them with nobody else's.
#[test]
fn an_encrypted_fork_outlives_the_keys_of_its_parent() {
    for at in [None, Some(sequence(30))] {
        let mut family = Family::with(1, encrypted_options(1));
        for _ in 0..20 {
            family.append(0, &[900, 500]);
        }
        family.branches[0].log.rotate_key().expect("a further key");
        family.append(0, &[800]);
        family.fork(0, at);
        let child = family.branches.remove(1);
        assert_ne!(
            child.log.current_key(),
            family.branches[0].log.current_key()
        );
        let environment = Environment {
            storage: Arc::new(family.storage.clone()),
            clock: Arc::<SimClock>::clone(&family.clock),
            committer: Arc::clone(&family.committer),
        };
        let parent = family.branches.remove(0);
        parent.log.shred(&environment).expect("its keys are gone");
        assert!(matches!(
            family.open(&parent.dir, &parent.writer),
            Err(Error::Key { .. })
        ));
        family.branches.push(child);
        family.append(0, &[300, 400]);
        family.restart(family.storage.power_cut(1));
        family.check();
    }
}

// LOG-12, LOG-03: a repair of a fork knows which log a segment without a header belongs to, so that
// the fork stays one.
#[test]
fn a_repaired_fork_is_still_a_fork() {
    let bases = |family: &Family| -> Vec<PathBuf> {
        let names = family
            .storage
            .list(&family.branches[1].dir)
            .expect("listed");
        let segments = names
            .iter()
            .filter(|name| name.ends_with(".seg") && name.starts_with('0'));
        segments
            .map(|name| family.branches[1].dir.join(name))
            .collect()
    };
    let made = || {
        let mut family = parent(1);
        family.fork(0, Some(sequence(100)));
        for _ in 0..40 {
            family.append(1, &[900, 500]);
        }
        family.branches[1].log.close().expect("closed");
        family
    };
    let count = bases(&made()).len();
    assert!(count > 4, "{count} segments");
    for at in 0..count {
        let family = made();
        let path = &bases(&family)[at];
        let mut bytes = family.storage.files()[path].clone();
        // The header has a copy of itself behind it.
        bytes[..4096].fill(0);
        family.storage.plant(path, bytes);
        let (main, child) = (&family.branches[0], &family.branches[1]);
        let environment = Environment {
            storage: Arc::new(family.storage.clone()),
            clock: Arc::<SimClock>::clone(&family.clock),
            committer: Arc::clone(&family.committer),
        };
        Log::repair(
            &environment,
            &child.dir,
            &child.writer,
            &family.options,
            &Unthrottled,
        )
        .expect("repaired")
        .unwrap_or_else(|| panic!("nothing to repair in segment {at} of {count}"));
        let (log, _) = family
            .open(&child.dir, &child.writer)
            .expect("a sound disk");
        assert_eq!(log.status().read_only, None, "segment {at}");
        check(&log, &child.model);
        assert_eq!(
            log.common_end(&main.log),
            Some(sequence(101)),
            "segment {at}"
        );
    }
}

/// A parent of several segments, the last one about half full.
fn parent(seed: u64) -> Family {
    let mut family = Family::new(seed);
    for _ in 0..90 {
        family.append(0, &[900, 500]);
        family.committer.run_chores();
    }
    assert!(family.branches[0].log.status().segments > 3);
    family
}

/// At the end, in the last segment, in an earlier one, between two, and at the first record.
fn points(log: &Log) -> [Option<Sequence>; 5] {
    let end = log.bounds().durable_end.get();
    [None, Some(end - 3), Some(70), Some(end / 2), Some(1)].map(|at| at.map(sequence))
}

// LOG-12: after a fork neither directory grows by what the other writes, and sharing is what links
// say it is.
#[test]
fn sealed_segments_are_shared_and_at_most_one_is_copied() {
    for at in points(&parent(1).branches[0].log) {
        let mut family = parent(1);
        let (dir, writer) = family.name();
        let log = family.branches[0].log.clone();
        let (before, used) = (log.status().segments, family.storage.used());
        let point = log.fork(&dir, at, &writer).expect("a sound disk");
        let (first, last) = (log.bounds().first, point.end);
        assert!(point.shared <= before);
        if at.is_none() {
            assert_eq!(
                (point.shared, point.copied),
                (before, 0),
                "all that was sealed"
            );
            assert_eq!(
                log.status().segments,
                before + 1,
                "the parent has begun another segment"
            );
        } else {
            assert!(
                point.shared == 0 || point.copied < last.since(first),
                "{at:?}: {point:?}"
            );
        }
        let grown = family.storage.used() - used;
        let segment = small_options().segment_bytes;
        assert!(grown < 3 * segment, "{at:?}: {grown} bytes more");
    }
}

// LOG-12
#[test]
fn what_cannot_be_forked_is_named() {
    let mut family = parent(1);
    let log = family.branches[0].log.clone();
    let (dir, writer) = family.name();
    let end = log.bounds().durable_end;
    let beyond = log.fork(&dir, Some(end), &writer);
    assert!(matches!(beyond, Err(Error::BeyondEnd { last, .. }) if last + 1 == end.get()));
    let first = log.trim(sequence(100)).expect("trimmed");
    let before = log.fork(&dir, Some(sequence(1)), &writer);
    assert!(matches!(before, Err(Error::OutOfRange { first: found, .. }) if found == first));
    let own = family.branches[0].dir.clone();
    assert!(matches!(log.fork(&own, None, &writer), Err(Error::Occupied { path }) if path == own));
    family.check();
    removal::begin(&family.storage, &own, "note").expect("marked");
    assert_eq!(
        removal::unfinished(&family.storage, &own).expect("readable"),
        Some(Unfinished::Removal("note".into()))
    );
    log.close().expect("closed");
    assert!(matches!(
        family.open(&own, &writer),
        Err(Error::Unfinished { .. })
    ));
    assert!(
        log.fork(&dir, None, &writer)
            .expect_err("closed")
            .to_string()
            .contains("fork the log")
    );
}

/// What a fork that was interrupted has left behind.
fn after_interruption(
    family: &mut Family,
    dir: &Path,
    writer: &Writer,
    at: Option<Sequence>,
    acknowledged: bool,
) {
    family.check();
    let names = family.storage.list(dir).unwrap_or_default();
    let unfinished = removal::unfinished(&family.storage, dir).expect("readable");
    let complete = unfinished.is_none() && names.iter().any(|name| name.ends_with(".seg"));
    assert!(complete || !acknowledged, "{names:?}");
    let parent = &family.branches[0];
    if complete {
        removal::remove(&family.storage, dir, "").expect("removed");
    }
    let point = parent.log.fork(dir, at, writer).expect("a second attempt");
    let model: BTreeMap<u64, u64> = parent
        .model
        .range(..point.end.get())
        .map(|(a, b)| (*a, *b))
        .collect();
    let (log, statement) = family.open(dir, writer).expect("a sound disk");
    assert_eq!(statement, None);
    check(&log, &model);
    family.check();
}

fn seeds() -> u64 {
    let text = std::env::var("ARQONBUS_SEEDS").ok();
    text.map_or(5, |text| text.parse().expect("ARQONBUS_SEEDS is a number"))
}

// LOG-12, LOG-04, REL-01: power is lost at every call of a fork; it is all there or it is nothing,
// and its parent is as it was.
#[test]
fn a_fork_is_whole_or_nothing_after_a_power_cut_anywhere() {
    for at in points(&parent(1).branches[0].log) {
        let mut calls = 0;
        loop {
            let mut family = parent(calls);
            let (dir, writer) = family.name();
            family.storage.cut_after(calls);
            let forked = family.branches[0].log.fork(&dir, at, &writer);
            if !family.storage.power_is_off() {
                forked.expect("nothing has failed");
                break;
            }
            for seed in 0..seeds() {
                let mut again = Family {
                    storage: family.storage.power_cut(seed ^ calls << 8),
                    clock: Arc::clone(&family.clock),
                    committer: Committer::manual(),
                    options: family.options.clone(),
                    branches: Vec::new(),
                    names: family.names,
                    numbers: family.numbers,
                };
                let one = &family.branches[0];
                let (log, _) = again.open(&one.dir, &one.writer).expect("a sound disk");
                again.branches.push(Branch {
                    dir: one.dir.clone(),
                    writer: one.writer.clone(),
                    log,
                    model: one.model.clone(),
                });
                after_interruption(&mut again, &dir, &writer, at, forked.is_ok());
            }
            calls += 1;
        }
        assert!(calls > 10, "{calls} calls");
    }
}

// LOG-12, REL-07: every call of a fork fails in turn.
#[test]
fn a_fork_that_fails_leaves_its_parent_well() {
    for at in points(&parent(1).branches[0].log) {
        for fault in Fault::ALL {
            let mut n = 1;
            loop {
                let mut family = parent(n);
                let (dir, writer) = family.name();
                let before = family.storage.calls();
                family.storage.fail_call(n, fault);
                let forked = family.branches[0].log.fork(&dir, at, &writer);
                let reached = family.storage.calls() - before >= n;
                family.storage.heal();
                if !reached {
                    forked.expect("nothing has failed");
                    break;
                }
                // A failed write has poisoned the parent: it comes back when it is reopened.
                family.branches[0].log.close().expect("given up");
                let storage = family.storage.process_kill();
                family.restart(storage);
                after_interruption(&mut family, &dir, &writer, at, forked.is_ok());
                n += 1;
            }
        }
    }
}

// LOG-13, LOG-12: power is lost at every call of a removal; it goes on where it was, nothing is
// left, and the fork that shared the files has all of its own.
#[test]
fn a_removal_is_finished_after_a_power_cut_anywhere() {
    for calls in 0.. {
        let mut family = parent(calls);
        family.fork(0, None);
        family.append(0, &[700]);
        let doomed = family.branches[0].dir.clone();
        family.branches[0].log.close().expect("closed");
        family.storage.cut_after(calls);
        let begun = removal::begin(&family.storage, &doomed, "who").is_ok();
        let removed = removal::finish(&family.storage, &doomed);
        let done = !family.storage.power_is_off();
        family.branches.remove(0);
        family.restart(family.storage.power_cut(calls));
        let found = removal::unfinished(&family.storage, &doomed).expect("readable");
        if begun && removed.is_err() {
            let gone = family.storage.list(&doomed).unwrap_or_default().is_empty();
            assert!(
                gone || found == Some(Unfinished::Removal("who".into())),
                "{found:?}"
            );
        }
        if begun {
            removal::finish(&family.storage, &doomed).expect("finished");
            let files = family.storage.files();
            assert!(!files.keys().any(|path| path.starts_with(&doomed)));
        }
        family.check();
        if done {
            removed.expect("nothing has failed");
            assert!(calls > 10, "{calls} calls");
            return;
        }
    }
}

fn real(dir: &Path, name: &str, committer: &Arc<Committer>) -> (Log, Writer) {
    let environment = Environment {
        storage: Arc::new(RealStorage),
        clock: SimClock::new(),
        committer: Arc::clone(committer),
    };
    let writer = Writer {
        node: 1,
        clock_key: format!("n1/{name}"),
    };
    let observer: Arc<dyn Observer> = Arc::new(Scribe::default());
    let opened = Log::open(
        &environment,
        &dir.join(name),
        &writer,
        &small_options(),
        observer,
    );
    (opened.expect("opened").0, writer)
}

fn fill(log: &Log, committer: &Committer, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let append = Append {
            records: vec![record("t", &payload(number, 1500))],
            durability: Durability::Synced,
            then: None,
            sink: Arc::new(Scribe::default()),
            token: 0,
        };
        log.append(append).expect("queued");
        committer.run_until_idle();
        committer.run_chores();
    }
}

// LOG-12: what a reader of the fork still holds outlasts the fork's file, and the parent must not
// write into it.
#[test]
fn a_shared_segment_is_never_used_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let committer = Committer::manual();
    let (parent, _) = real(dir.path(), "parent", &committer);
    fill(&parent, &committer, 1..200);
    let writer = Writer {
        node: 1,
        clock_key: "n1/child".into(),
    };
    parent
        .fork(&dir.path().join("child"), None, &writer)
        .expect("forked");
    let (child, _) = real(dir.path(), "child", &committer);
    let held: Vec<_> = (1..150_u64)
        .step_by(7)
        .map(|at| match child.read(sequence(at), sequence(at + 1), 1) {
            Ok(Found::Records(chunk)) => chunk,
            other => panic!("{other:?}"),
        })
        .collect();
    let before: Vec<Vec<u8>> = held.iter().map(|chunk| chunk.records.to_vec()).collect();
    fill(&child, &committer, 1000..1100);
    child.trim(sequence(200)).expect("trimmed");
    assert!(child.bounds().first.get() > 150, "{:?}", child.bounds());
    parent.trim(sequence(190)).expect("trimmed");
    fill(&parent, &committer, 200..500);
    for (chunk, before) in held.iter().zip(&before) {
        assert!(
            chunk.records[..] == before[..],
            "records that were held have changed"
        );
    }
}

// LOG-12: a live parent is forked again and again while it is written to; each fork is a prefix
// without a hole.
#[test]
fn a_live_parent_is_forked() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let committer = Committer::start(2);
    let (parent, _) = real(dir.path(), "parent", &committer);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let mut number = 0;
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                number += 1;
                let append = Append {
                    records: vec![record("t", &payload(number, 200))],
                    durability: Durability::Synced,
                    then: None,
                    sink: Arc::new(Scribe::default()),
                    token: 0,
                };
                // Busy is an answer too; then this number is tried again.
                if parent.append(append).is_err() {
                    number -= 1;
                }
            }
        });
        let mut ends = Vec::new();
        for round in 0..20 {
            let name = format!("child{round}");
            let writer = Writer {
                node: 1,
                clock_key: format!("n1/{name}"),
            };
            let point = parent
                .fork(&dir.path().join(&name), None, &writer)
                .expect("forked");
            let (child, _) = real(dir.path(), &name, &committer);
            assert_eq!(child.bounds().durable_end, point.end);
            let model = (1..point.end.get()).map(|at| (at, at)).collect();
            check(&child, &model);
            ends.push(point.end);
            child.close().expect("closed");
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        producer.join().expect("no panic");
        assert!(ends.is_sorted() && ends[0] < ends[19], "{ends:?}");
    });
    parent.close().expect("closed");
}
