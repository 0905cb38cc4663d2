//! Power is lost, or the process killed, at every sync of small scripts and anywhere in large ones;
//! what was acknowledged must be there afterwards, and nothing that was not submitted.
//!
//! The short run takes `ARQONBUS_SEEDS` seeds (500 if unset). The long one:
//!
//! ```text
//! ARQONBUS_SEEDS=10000 cargo test --release --test log power_cut
//! ```
//!
//! A seed that fails is printed with the command that repeats it alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arqonbus::log::{Durability, Options, Sequence};

use crate::dice::Dice;
use crate::history::{Ending, History};
use crate::secrets;
use crate::session::{Session, SimClock, small_options};
use crate::sim_storage::SimStorage;

const SEEDS: u64 = 500;
const TOPICS: [&str; 5] = ["quake.ak", "quake.ci", "order.created", "a", "room.42.talk"];

#[derive(Clone, Debug)]
enum Step {
    Append {
        shapes: Vec<(String, usize)>,
        durability: Durability,
        then: Option<Durability>,
    },
    Commit,
    /// The clock moves by this much; the wall clock of a machine may also go back.
    Tick(i64),
    ReadDurable,
    ReadWritten,
    Reopen,
    Kill,
    /// Only in logs that are encrypted.
    RotateKey,
}

fn shapes(dice: &mut Dice) -> Vec<(String, usize)> {
    let count = *dice.pick(&[1, 1, 1, 2, 3, 8]);
    let len_max = *dice.pick(&[16, 100, 700, 2500]);
    (0..count)
        .map(|_| ((*dice.pick(&TOPICS)).to_owned(), 8 + dice.index(len_max)))
        .collect()
}

fn script(dice: &mut Dice, steps: usize) -> Vec<Step> {
    use Durability::{Synced, Written};
    (0..steps)
        .map(|_| match dice.below(100) {
            0..55 => {
                let (durability, then) = *dice.pick(&[
                    (Synced, None),
                    (Written, None),
                    (Written, None),
                    (Written, Some(Synced)),
                ]);
                Step::Append {
                    shapes: shapes(dice),
                    durability,
                    then,
                }
            }
            55..78 => Step::Commit,
            78..86 => Step::Tick(*dice.pick(&[0, 1, 30_000, 30_000, 5_000_000, -2_000_000])),
            86..90 => Step::ReadDurable,
            90..94 => Step::ReadWritten,
            94..97 => Step::Reopen,
            _ => Step::Kill,
        })
        .collect()
}

/// A machine, the log on it, and all that was promised.
#[derive(Debug)]
struct Run {
    dice: Dice,
    storage: SimStorage,
    clock: Arc<SimClock>,
    options: Options,
    history: History,
    session: Option<Session>,
    recoveries: usize,
}

/// The process is dead, whether or not the machine is; this is how the log ended.
#[derive(Debug)]
struct Died(Ending);

impl Run {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut options = small_options();
        options.group_bytes_max = *dice.pick(&[1, 2 << 10, 8 << 10]);
        options.tail_bytes = *dice.pick(&[1 << 10, 12 << 10]);
        options.segment_bytes = *dice.pick(&[32 << 10, 64 << 10]);
        Self {
            storage: SimStorage::new(dice.roll()),
            dice,
            clock: SimClock::new(),
            options,
            history: History::default(),
            session: None,
            recoveries: 0,
        }
    }

    /// The same with a log that is encrypted, and everything written to its disk noted.
    fn encrypted(seed: u64) -> Self {
        let mut run = Self::new(seed);
        run.options.encryption = Some(secrets::encryption(seed));
        run.storage.note_writes();
        run
    }

    fn script(&mut self, steps: usize) -> Vec<Step> {
        let mut script = script(&mut self.dice, steps);
        if self.options.encryption.is_some() {
            for at in (4..steps).step_by(15) {
                script.insert(at, Step::RotateKey);
            }
        }
        script
    }

    fn alive(&self, ending: Ending) -> Result<(), Died> {
        if self.storage.power_is_off() {
            Err(Died(ending))
        } else {
            Ok(())
        }
    }

    /// Opens the log and checks it.
    fn open(&mut self, ending: Ending) -> Result<(), Died> {
        let interrupted = match ending {
            Ending::Clean => Ending::Interrupted,
            other => other,
        };
        let opened = Session::open(&self.storage, &self.clock, &self.options);
        if self.storage.power_is_off() {
            self.history.opening_was_interrupted();
        }
        self.alive(interrupted)?;
        let session = opened.unwrap_or_else(|error| panic!("cannot be opened: {error:?}"));
        let checked = self
            .history
            .check_opened(&session.log, session.statement.as_ref(), ending);
        self.session = Some(session);
        self.alive(interrupted)?;
        checked.unwrap_or_else(|error| panic!("cannot be read: {error:?}"));
        Ok(())
    }

    fn session(&self) -> &Session {
        self.session
            .as_ref()
            .expect("a session is open between steps")
    }

    fn commit(&mut self) -> Result<(), Died> {
        let session = self
            .session
            .as_ref()
            .expect("a session is open between steps");
        session.commit(&mut self.history);
        self.alive(Ending::Killed)
    }

    fn do_chores(&mut self) -> Result<(), Died> {
        let session = self
            .session
            .as_ref()
            .expect("a session is open between steps");
        session.do_chores(&mut self.history);
        self.alive(Ending::Killed)
    }

    fn step(&mut self, step: &Step) -> Result<(), Died> {
        match step {
            Step::Append {
                shapes,
                durability,
                then,
            } => {
                let session = self
                    .session
                    .as_ref()
                    .expect("a session is open between steps");
                let submitted = session.submit(&mut self.history, shapes, *durability, *then);
                self.alive(Ending::Killed)?;
                assert!(submitted.is_ok(), "refused on a sound disk: {submitted:?}");
            }
            Step::Commit => self.commit()?,
            Step::Tick(micros) => {
                self.clock.shift(*micros);
                self.commit()?;
                self.do_chores()?;
            }
            Step::ReadDurable => self.read(self.session().log.bounds().durable_end)?,
            Step::ReadWritten => self.read(self.session().log.bounds().written_end)?,
            Step::Reopen => self.reopen()?,
            Step::RotateKey => {
                let rotated = self.session().log.rotate_key();
                self.alive(Ending::Killed)?;
                rotated.unwrap_or_else(|error| panic!("refused on a sound disk: {error:?}"));
            }
            Step::Kill => {
                self.storage = self.storage.process_kill();
                self.end_session();
                self.open(Ending::Killed)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, end: Sequence) -> Result<(), Died> {
        let log = self.session().log.clone();
        let from = Sequence::FIRST.advance(self.dice.below(end.get()));
        let found = self
            .history
            .read(&log, from, end, *self.dice.pick(&[1, 900, 20_000]));
        self.alive(Ending::Killed)?;
        found.unwrap_or_else(|error| panic!("cannot be read: {error:?}"));
        Ok(())
    }

    /// Lets all deferred flushes happen.
    fn settle(&mut self) -> Result<(), Died> {
        self.clock.shift(60_000_000);
        self.commit()?;
        self.do_chores()?;
        self.history.check_answers();
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), Died> {
        let closed = self.session().log.close();
        let ending = match closed {
            Ok(()) => Ending::Clean,
            Err(error) => {
                assert!(self.storage.power_is_off(), "cannot be closed: {error:?}");
                Ending::Interrupted
            }
        };
        self.end_session();
        self.alive(ending)?;
        self.history.check_answers();
        self.open(ending)
    }

    /// Hears what the session still had to say and drops it; it can do no more harm then.
    fn end_session(&mut self) {
        if let Some(session) = self.session.take() {
            session.note(&mut self.history);
        }
    }

    /// Starts the process again, after a power cut or not, until a recovery gets through.
    fn recover(&mut self, mut ending: Ending) {
        self.end_session();
        loop {
            self.recoveries += 1;
            if self.dice.chance(70) {
                self.storage = self.storage.power_cut(self.dice.roll());
                if ending == Ending::Killed {
                    ending = Ending::PowerCut;
                }
            } else {
                self.storage = self.storage.process_kill();
                self.storage.heal();
            }
            if self.dice.chance(30) {
                self.storage.cut_after(self.dice.below(60));
            }
            match self.open(ending) {
                Ok(()) => break,
                Err(Died(next)) => ending = next,
            }
            self.end_session();
        }
        self.storage.heal();
    }

    fn steps(&mut self, script: &[Step]) -> Result<(), Died> {
        script.iter().try_for_each(|step| self.step(step))
    }

    /// Ends the run in order and checks once more.
    fn finish(&mut self) {
        self.storage.heal();
        let finished = self.settle().and_then(|()| self.reopen());
        finished.unwrap_or_else(|died| panic!("{died:?} although nothing was to fail"));
    }
}

/// A long script, cut wherever the dice say, several times.
fn random_cuts(mut run: Run) -> Run {
    let script = run.script(60);
    run.storage.cut_after(run.dice.below(600));
    if let Err(Died(ending)) = run.open(Ending::Clean) {
        run.recover(ending);
    }
    for part in script.chunks(20) {
        if run.dice.chance(40) {
            run.storage.cut_after(run.dice.below(150));
        }
        if let Err(Died(ending)) = run.steps(part) {
            run.recover(ending);
        }
    }
    run.finish();
    run
}

/// A short script, cut before, in and after each of its syncs; returns how many cuts that were.
fn cuts_at_every_sync(seed: u64, new: fn(u64) -> Run) -> usize {
    let mut whole = new(seed);
    let script = whole.script(8);
    let dice = whole.dice.clone();
    whole
        .open(Ending::Clean)
        .and_then(|()| whole.steps(&script))
        .expect("nothing was to fail");
    let syncs = whole.storage.sync_calls();
    let cuts = syncs.iter().flat_map(|&call| [call - 1, call]);
    cuts.inspect(|&calls| {
        let mut run = new(seed);
        run.dice = dice.clone();
        run.storage.cut_after(calls);
        let cut = run.open(Ending::Clean).and_then(|()| run.steps(&script));
        if let Err(Died(ending)) = cut {
            run.recover(ending);
        }
        run.finish();
        if run.options.encryption.is_some() {
            secrets::assert_no_nonce_repeats(&run.storage);
        }
    })
    .count()
}

/// Runs every seed; the first that fails is named with the command that repeats it.
fn for_each_seed(test: &str, share: u64, run: impl Fn(u64)) {
    let number = |name| {
        let text = std::env::var(name).ok()?;
        Some(
            text.parse::<u64>()
                .unwrap_or_else(|_| panic!("{name}={text} is no number")),
        )
    };
    let seeds = match number("ARQONBUS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..(number("ARQONBUS_SEEDS").unwrap_or(SEEDS) / share).max(1),
    };
    for seed in seeds {
        let outcome = catch_unwind(AssertUnwindSafe(|| run(seed)));
        assert!(
            outcome.is_ok(),
            "seed {seed} failed, see above; to repeat it: \
             ARQONBUS_SEED={seed} cargo test --test log power_cut::{test}"
        );
    }
}

// LOG-04, REL-01, LOG-03 (loss statement)
#[test]
fn no_promise_is_broken_by_a_power_cut_anywhere() {
    for_each_seed("no_promise_is_broken_by_a_power_cut_anywhere", 1, |seed| {
        random_cuts(Run::new(seed));
    });
}

// LOG-14, LOG-04: the same of an encrypted log whose key is rotated under way, and no nonce was
// used twice, whatever was torn, cut off, written again or recycled.
#[test]
fn no_promise_of_an_encrypted_log_is_broken_by_a_power_cut() {
    for_each_seed(
        "no_promise_of_an_encrypted_log_is_broken_by_a_power_cut",
        2,
        |seed| {
            let run = random_cuts(Run::encrypted(seed));
            secrets::assert_no_nonce_repeats(&run.storage);
        },
    );
}

// LOG-14: also between the writing of a key and its first use.
#[test]
fn no_promise_of_an_encrypted_log_is_broken_at_any_sync() {
    for_each_seed(
        "no_promise_of_an_encrypted_log_is_broken_at_any_sync",
        25,
        |seed| {
            assert!(cuts_at_every_sync(seed, Run::encrypted) > 0);
        },
    );
}

// LOG-04, REL-01
#[test]
fn no_promise_is_broken_by_a_power_cut_at_any_sync() {
    for_each_seed(
        "no_promise_is_broken_by_a_power_cut_at_any_sync",
        10,
        |seed| {
            assert!(cuts_at_every_sync(seed, Run::new) > 0);
        },
    );
}

// The runs above prove something only if they do lose power, lose records and keep others.
#[test]
fn runs_meet_what_they_are_for() {
    let runs: Vec<Run> = (0..60).map(|seed| random_cuts(Run::new(seed))).collect();
    let total = |count: fn(&Run) -> usize| runs.iter().map(count).sum::<usize>();
    let counts = [
        total(|run| run.recoveries),
        total(|run| run.history.durable_count()),
        total(|run| run.history.lost_count()),
    ];
    assert!(
        counts[0] > 60 && counts[1] > 600 && counts[2] > 10,
        "recoveries, flushed and lost records: {counts:?}"
    );
}

// The same seed twice is the same run, call by call: a failure can be repeated.
#[test]
fn a_seed_determines_the_run() {
    let traces = |seed, new: fn(u64) -> Run| {
        let run = random_cuts(new(seed));
        let files = run.storage.files().into_iter();
        let segments = files.filter(|(path, _)| path.extension().is_some_and(|ext| ext == "seg"));
        (run.storage.trace(), segments.collect::<Vec<_>>())
    };
    for seed in 0..10 {
        let new = if seed % 2 == 0 {
            Run::new
        } else {
            Run::encrypted
        };
        let (first, second) = (traces(seed, new), traces(seed, new));
        assert_eq!(first.0, second.0, "calls of seed {seed}");
        assert!(first.1 == second.1, "bytes of seed {seed}");
    }
    assert!(traces(0, Run::new) != traces(1, Run::new));
}
