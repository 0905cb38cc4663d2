//! Many logs that share threads and memory: none starves the others, and together they stay within
//! their bounds.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arqonbus::log::{
    Append, AppendError, AppendSink, Appended, Chunk, Committer, Durability, Environment, Found,
    Log, Observer, Options, Sequence,
};

use crate::gated_disk::{GatedDisk, PREPARING};
use crate::session::{SimClock, record, small_options, writer};

const PATIENCE: Duration = Duration::from_secs(20);

/// Counts the groups that a log writes.
#[derive(Debug, Default)]
struct Groups(AtomicU64);

impl Observer for Groups {
    fn written(&self, _group: &Chunk) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn durable(&self, _durable_end: Sequence) {}

    fn poisoned(&self, reason: &str) {
        panic!("poisoned: {reason}");
    }
}

fn open(environment: &Environment, name: &str, groups: &Arc<Groups>, options: &Options) -> Log {
    let dir = Path::new("/data").join(name);
    let observer = Arc::<Groups>::clone(groups);
    let opened = Log::open(environment, &dir, &writer(), options, observer);
    opened.expect("a sound disk").0
}

fn append(log: &Log, bytes: usize, durability: Durability, sink: Arc<dyn AppendSink>) {
    let records = vec![record("t", &vec![1; bytes])];
    let then = (durability == Durability::Written).then_some(Durability::Synced);
    let append = Append {
        records,
        durability,
        then,
        sink,
        token: 0,
    };
    log.append(append).expect("queued");
}

/// Sends on what it hears, with the number of groups that the busy log has written by then.
#[derive(Debug)]
struct Told {
    busy: Arc<Groups>,
    to: Mutex<Sender<(Durability, u64)>>,
}

impl AppendSink for Told {
    fn appended(&self, _token: u64, outcome: Result<Appended, AppendError>) {
        let written = self.busy.0.load(Ordering::SeqCst);
        let durability = outcome.expect("a sound disk").durability;
        let to = self.to.lock().expect("no panic");
        to.send((durability, written)).expect("somebody listens");
    }
}

/// Keeps its log busy: each answer is followed by the next append, until there is no log any more.
#[derive(Debug)]
struct Flood(Mutex<Option<Log>>);

impl Flood {
    fn next(self: &Arc<Self>) {
        let log = self.0.lock().expect("no panic").clone();
        if let Some(log) = log {
            let sink = Again(Arc::clone(self));
            append(&log, 6_000, Durability::Synced, Arc::new(sink));
        }
    }
}

#[derive(Debug)]
struct Again(Arc<Flood>);

impl AppendSink for Again {
    fn appended(&self, _token: u64, outcome: Result<Appended, AppendError>) {
        outcome.expect("a sound disk");
        self.0.next();
    }
}

// LOG-18: whoever appends to a quiet log waits for one turn of the busy one, whatever it has
// queued, and for one of each other log.
#[test]
fn a_flooding_log_takes_one_turn_while_another_waits() {
    const QUIET: usize = 20;
    let options = small_options();
    let environment = Environment {
        storage: Arc::new(GatedDisk::new()),
        clock: SimClock::new(),
        committer: Committer::start(1),
    };
    let busy_groups = Arc::new(Groups::default());
    let busy = open(&environment, "busy", &busy_groups, &options);
    let flood = Arc::new(Flood(Mutex::new(Some(busy.clone()))));
    for _ in 0..30 {
        flood.next();
    }
    let quiet: Vec<Log> = (0..QUIET)
        .map(|number| {
            let groups = Arc::new(Groups::default());
            open(&environment, &format!("quiet-{number}"), &groups, &options)
        })
        .collect();
    for round in 0..5 {
        let mut waiting = Vec::new();
        for log in &quiet {
            let (to, told) = channel();
            let told_of = Told {
                busy: Arc::clone(&busy_groups),
                to: Mutex::new(to),
            };
            append(log, 100, Durability::Synced, Arc::new(told_of));
            // Read when the append is queued, so that only what it waits for is counted.
            waiting.push((busy_groups.0.load(Ordering::SeqCst), told));
        }
        for (number, (before, told)) in waiting.into_iter().enumerate() {
            let (_, after) = told.recv_timeout(PATIENCE).expect("answered");
            let turns = after.saturating_sub(before);
            assert!(
                turns <= 1,
                "log {number} of round {round} waited for {turns} turns of the busy one"
            );
        }
    }
    assert!(busy_groups.0.load(Ordering::SeqCst) > 5, "never busy");
    flood.0.lock().expect("no panic").take();
    for log in quiet.iter().chain([&busy]) {
        log.close().expect("a sound disk");
    }
}

/// Appends, and waits until it is on disk.
fn append_synced(log: &Log, bytes: usize) {
    let (to, told) = channel();
    let sink = Told {
        busy: Arc::default(),
        to: Mutex::new(to),
    };
    append(log, bytes, Durability::Synced, Arc::new(sink));
    told.recv_timeout(PATIENCE).expect("answered");
}

/// A log whose next segment is being got ready, which goes on only when the gate opens.
fn held_up(environment: &Environment, disk: &GatedDisk) -> Log {
    let log = open(environment, "held", &Arc::default(), &small_options());
    disk.gate.close();
    append_synced(&log, 7_000);
    disk.gate.wait_for_somebody();
    log
}

fn threaded(disk: &GatedDisk) -> Environment {
    Environment {
        storage: Arc::new(disk.clone()),
        clock: SimClock::new(),
        committer: Committer::start(1),
    }
}

// LOG-18: the zeros of one log's next segment hold up nobody's late flush.
#[test]
fn late_flushes_do_not_wait_for_another_logs_segment() {
    let disk = GatedDisk::new();
    let environment = threaded(&disk);
    let other = open(&environment, "other", &Arc::default(), &small_options());
    let held = held_up(&environment, &disk);
    let (to, told) = channel();
    let sink = Told {
        busy: Arc::default(),
        to: Mutex::new(to),
    };
    let sink = Arc::new(sink);
    // The first one is flushed with the reservation that it needs, not late.
    for _ in 0..2 {
        append(&other, 100, Durability::Written, Arc::<Told>::clone(&sink));
        for expected in [Durability::Written, Durability::Synced] {
            let (heard, _) = told.recv_timeout(PATIENCE).expect("told in time");
            assert_eq!(heard, expected);
        }
    }
    disk.gate.open();
    for log in [held, other] {
        log.close().expect("a sound disk");
    }
}

// LOG-18: a log that is closed and opened again at once meets no file that is still in the making,
// and its memory is not kept by what is still to be done for it.
#[test]
fn a_log_is_closed_only_when_nothing_is_done_for_it_any_more() {
    let disk = GatedDisk::new();
    let environment = threaded(&disk);
    let log = held_up(&environment, &disk);
    let gate = Arc::clone(&disk.gate);
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        gate.open();
    });
    log.close().expect("a sound disk");
    let files = disk.disk.files();
    let preparing = Path::new("/data/held").join(PREPARING);
    assert!(!files.contains_key(&preparing), "{:?}", files.keys());
    opener.join().expect("no panic");

    let again = open(&environment, "held", &Arc::default(), &small_options());
    append_synced(&again, 7_000);
    let end = again.bounds().durable_end;
    assert_eq!(end.get(), 3);
    again.close().expect("a sound disk");
}

// LOG-19: the tails of all logs together stay within their bound; those of the log used longest
// ago go first, and what has gone is read from the files.
#[test]
fn tails_share_a_bound_and_the_longest_unused_give_way() {
    const BOUND: usize = 24 << 10;
    let committer = Committer::manual();
    committer.bound_tails(BOUND);
    let environment = Environment {
        storage: Arc::new(GatedDisk::new()),
        clock: SimClock::new(),
        committer: Arc::clone(&committer),
    };
    let sink: Arc<dyn AppendSink> = Arc::new(Again(Arc::new(Flood(Mutex::default()))));
    let fill = |log: &Log| {
        for _ in 0..8 {
            append(log, 900, Durability::Synced, Arc::clone(&sink));
            committer.run_until_idle();
        }
    };
    let logs: Vec<Log> = (0..3)
        .map(|number| {
            let name = format!("log-{number}");
            open(&environment, &name, &Arc::default(), &small_options())
        })
        .collect();
    let held = |log: &Log| log.status().tail_bytes;
    let sum = || logs.iter().map(held).sum::<usize>();
    for log in &logs {
        fill(log);
        assert!(sum() <= BOUND, "{} bytes", sum());
    }
    assert!(held(&logs[0]) > 0 && sum() > BOUND / 2);
    // Reading is a use: now the second one is the longest unused.
    let end = logs[0].bounds().durable_end;
    let last = end.previous().expect("not empty");
    assert!(matches!(logs[0].read(last, end, 1), Ok(Found::Records(_))));
    let (first, second) = (held(&logs[0]), held(&logs[1]));
    fill(&logs[2]);
    assert_eq!(held(&logs[0]), first);
    assert!(held(&logs[1]) < second, "{} bytes", held(&logs[1]));
    assert!(sum() <= BOUND, "{} bytes", sum());
    for _ in 0..3 {
        fill(&logs[2]);
        fill(&logs[0]);
    }
    assert_eq!(held(&logs[1]), 0);
    let mut at = Sequence::FIRST;
    while let Ok(Found::Records(chunk)) = logs[1].read(at, Sequence::MAX, 4_000) {
        assert_eq!(chunk.base, at);
        at = chunk.last.next();
    }
    assert_eq!(at.get(), 9, "what left memory is in the files");
    // A log that is closed and let go of gives its share back.
    let mut logs = logs;
    for log in logs.drain(..2) {
        log.close().expect("a sound disk");
    }
    fill(&logs[0]);
    fill(&logs[0]);
    let status = logs[0].status();
    assert!(status.tail_bytes > small_options().tail_bytes / 2);
    assert!(status.index_bytes > 0);
    assert!(status.file_handles > status.segments, "the lock counts too");
}

// LOG-18: where many logs get a record now and then, their marks do not take more of the disk than
// the records do.
#[test]
fn marks_of_many_idle_logs_are_spread_out() {
    const LOGS: usize = 100;
    let disk = GatedDisk::new();
    let environment = threaded(&disk);
    let logs: Vec<Log> = (0..LOGS)
        .map(|number| {
            let name = format!("idle-{number}");
            open(&environment, &name, &Arc::default(), &small_options())
        })
        .collect();
    let syncs = || disk.disk.sync_calls().len();
    let (before, started) = (syncs(), Instant::now());
    for log in &logs {
        append_synced(log, 100);
    }
    // Each record takes a flush, and the mark that follows it another.
    loop {
        let marks = syncs() - before - LOGS;
        let since = started.elapsed();
        let most = since.as_millis() / 5 + 1;
        assert!(marks as u128 <= most, "{marks} marks within {since:?}");
        if marks == LOGS {
            break;
        }
        assert!(since < PATIENCE, "only {marks} marks");
        std::thread::sleep(Duration::from_millis(5));
    }
    for log in logs {
        log.close().expect("a sound disk");
    }
}
