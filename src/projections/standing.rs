//! How a lane stands: what it took in, how far it is behind, what went wrong last (PRJ-09).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::fold::Outcome;
use crate::log::Micros;

/// Lags that percentiles are taken of.
const LAGS_MAX: usize = 1_000;
/// Stale records are told of this often at most.
const STALE_EVERY: Duration = Duration::from_secs(10);
/// Rates are taken over this.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// What a lane is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    /// Working, or waiting for records.
    #[default]
    Running,
    /// Somebody paused it.
    Paused,
    /// The sink or the log is away; it tries again by itself.
    Stalled,
    /// It needs somebody who looks at it, and resumes it.
    Halted,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Running, Self::Paused, Self::Stalled, Self::Halted];

    /// Its name in metrics and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stalled => "stalled",
            Self::Halted => "halted",
        }
    }
}

/// How a lane stands.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// What it is doing.
    pub state: State,
    /// Records by what became of them, since the node started; in the order of [`Outcome::ALL`].
    pub outcomes: [u64; 5],
    /// Records of the log that it has not looked at, of other topics too.
    pub lag_records: u64,
    /// When the log took the oldest record that it works on; `None` if it has nothing to do.
    pub waiting_since: Option<Micros>,
    /// Errors since the node started.
    pub errors: u64,
    /// What went wrong last, and when.
    pub last_error: Option<(String, Micros)>,
    /// Records that the log has lost, and that it can never project.
    pub lost: u64,
    /// Batches that were committed, their records, and the time that they took.
    pub batches: u64,
    /// Time that commits took, in all.
    pub busy: Duration,
    /// Seconds from append to commit of the last records.
    lags: VecDeque<f64>,
    window: Option<(Instant, u64)>,
    rate: f64,
    /// Stale records that nobody was told of, and when somebody was told last.
    stale: (u64, Option<Instant>),
}

impl Standing {
    /// Seconds that the oldest waiting record has waited at `now`.
    #[must_use]
    pub fn lag_seconds(&self, now: Micros) -> f64 {
        self.waiting_since
            .map_or(0.0, |since| seconds_between(since, now))
    }

    /// The lag in seconds, from append to commit, that the given share (0 to 1) of the last batches
    /// was within; `None` before the first.
    #[must_use]
    pub fn lag_quantile(&self, share: f64) -> Option<f64> {
        let mut lags: Vec<f64> = self.lags.iter().copied().collect();
        lags.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index below a thousand"
        )]
        let at = ((lags.len() as f64) * share.clamp(0.0, 1.0)) as usize;
        lags.get(at.min(lags.len().checked_sub(1)?)).copied()
    }

    /// Records a second, over the last seconds of work.
    #[must_use]
    pub const fn rate(&self) -> f64 {
        self.rate
    }

    /// How many records became `outcome`.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u64 {
        let at = Outcome::ALL.iter().position(|one| *one == outcome);
        at.map_or(0, |at| self.outcomes[at])
    }

    /// Takes in stale records; how many are to be told of now: not every batch of a flood has a line.
    pub(super) fn stale_to_tell(&mut self, more: u64) -> u64 {
        let (untold, told_at) = &mut self.stale;
        *untold += more;
        let due = told_at.is_none_or(|at| at.elapsed() >= STALE_EVERY);
        if *untold == 0 || !due {
            return 0;
        }
        *told_at = Some(Instant::now());
        std::mem::take(untold)
    }

    pub(super) fn working_on(&mut self, oldest: Micros, behind: u64) {
        self.waiting_since = Some(oldest);
        self.lag_records = behind;
    }

    pub(super) fn took(
        &mut self,
        outcomes: &[Outcome],
        newest: Option<Micros>,
        took: Duration,
        now: Micros,
    ) {
        for outcome in outcomes {
            if let Some(at) = Outcome::ALL.iter().position(|one| one == outcome) {
                self.outcomes[at] += 1;
            }
        }
        self.batches += 1;
        self.busy += took;
        self.lag_records = self.lag_records.saturating_sub(outcomes.len() as u64);
        if let Some(oldest) = self.waiting_since.or(newest) {
            if self.lags.len() == LAGS_MAX {
                self.lags.pop_front();
            }
            self.lags.push_back(seconds_between(oldest, now));
        }
        let (since, count) = self.window.get_or_insert((Instant::now(), 0));
        *count += outcomes.len() as u64;
        let elapsed = since.elapsed();
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = *count as f64 / elapsed.as_secs_f64().max(0.001);
        if elapsed > RATE_WINDOW {
            self.window = None;
        }
        self.rate = rate;
    }

    /// It does not work, and is `behind` records behind.
    pub(super) fn waits(&mut self, behind: u64, now: Micros) {
        self.lag_records = behind;
        if behind == 0 {
            self.waiting_since = None;
        } else {
            self.waiting_since.get_or_insert(now);
        }
    }

    /// It waits for somebody; what has halted still needs a look.
    pub(super) const fn is_paused(&mut self) {
        if !matches!(self.state, State::Halted) {
            self.state = State::Paused;
        }
    }

    pub(super) const fn rests(&mut self) {
        self.waiting_since = None;
        self.lag_records = 0;
        self.window = None;
    }

    pub(super) fn works(&mut self) {
        if matches!(self.state, State::Stalled) {
            self.state = State::Running;
        }
    }

    pub(super) fn fails(&mut self, error: &str, now: Micros, passes: bool) {
        self.errors += 1;
        self.last_error = Some((error.to_owned(), now));
        self.state = if passes {
            State::Stalled
        } else {
            State::Halted
        };
    }
}

fn seconds_between(earlier: Micros, later: Micros) -> f64 {
    Duration::from_micros(later.0.saturating_sub(earlier.0)).as_secs_f64()
}
