//! How much somebody may send: messages and bytes a second, and as much at once as a moment's rate
//! (EDGE-10).
//!
//! The arithmetic is governor's (GCRA). The levels are kept here, so that a batch is taken from
//! all that it counts against, or from none: a refusal costs nobody anything, and what it says of
//! the time to wait is true. Must not know sessions, tenants or topics.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

/// A limiter's cells stand for so many bytes that there are at most this many a second: beyond it
/// the time between two of them, in whole nanoseconds, would be too coarse.
const CELLS_PER_SECOND_MAX: u64 = 1 << 24;

/// How much may come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pace {
    /// Messages; 0 = not limited.
    pub messages_per_second: u64,
    /// Bytes; 0 = not limited.
    pub bytes_per_second: u64,
    /// What may come at once: as much as the rate lets through in this time.
    pub burst_ms: u64,
}

impl Pace {
    /// Whether nothing is limited.
    #[must_use]
    pub const fn is_free(&self) -> bool {
        self.messages_per_second == 0 && self.bytes_per_second == 0
    }
}

/// What is to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Demand {
    /// Messages.
    pub messages: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// Why something may not come now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Short {
    /// "messages" or "bytes".
    pub unit: &'static str,
    /// What was to come.
    pub asked: u64,
    /// What may come in a second.
    pub per_second: u64,
    /// What may come at once.
    pub at_once: u64,
    /// After this time it may come, if nothing else does meanwhile; `None`: never.
    pub wait: Option<Duration>,
}

impl Short {
    /// Whether this takes longer to cure than `other`.
    fn is_worse_than(&self, other: &Self) -> bool {
        match (self.wait, other.wait) {
            (None, other) => other.is_some(),
            (Some(_), None) => false,
            (Some(this), Some(other)) => this > other,
        }
    }
}

/// When a limiter is at rest again, in nanoseconds since it began; 0 = it is.
#[derive(Clone, Debug, Default)]
struct Level(Arc<AtomicU64>);

impl Level {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, level: u64) {
        self.0.store(level, Ordering::Relaxed);
    }
}

// Only ever used under the lock of its allowance.
impl StateStore for Level {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let level = self.get();
        let (outcome, next) = decide((level != 0).then(|| level.into()))?;
        self.set(next.as_u64());
        Ok(outcome)
    }
}

/// One of the two things that are limited.
#[derive(Debug)]
struct Meter<C: Clock> {
    limiter: RateLimiter<NotKeyed, Level, C, NoOpMiddleware<C::Instant>>,
    level: Level,
    unit: &'static str,
    per_second: u64,
    cells_at_once: NonZeroU32,
    /// What a cell stands for.
    cell: u64,
}

impl<C: Clock> Meter<C> {
    /// `None` if there is no limit.
    fn new(unit: &'static str, per_second: u64, burst_ms: u64, clock: C) -> Option<Self> {
        if per_second == 0 {
            return None;
        }
        let cell = per_second.div_ceil(CELLS_PER_SECOND_MAX);
        let cells_per_second = (per_second / cell).max(1);
        let period = Duration::from_nanos(1_000_000_000 / cells_per_second);
        let cells_at_once = cells_per_second.saturating_mul(burst_ms) / 1_000;
        let cells_at_once = u32::try_from(cells_at_once).unwrap_or(u32::MAX);
        let cells_at_once = NonZeroU32::new(cells_at_once).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(period)?.allow_burst(cells_at_once);
        let level = Level::default();
        Some(Self {
            limiter: RateLimiter::new(quota, level.clone(), clock),
            level,
            unit,
            per_second,
            cells_at_once,
            cell,
        })
    }

    fn take(&self, asked: u64) -> Result<(), Short> {
        let short = |wait| Short {
            unit: self.unit,
            asked,
            per_second: self.per_second,
            at_once: u64::from(self.cells_at_once.get()) * self.cell,
            wait,
        };
        let Some(cells) =
            NonZeroU32::new(u32::try_from(asked.div_ceil(self.cell)).unwrap_or(u32::MAX))
        else {
            return Ok(());
        };
        match self.limiter.check_n(cells) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(early)) => {
                let wait = early.wait_time_from(self.limiter.clock().now());
                Err(short(Some(wait)))
            }
            Err(_) => Err(short(None)),
        }
    }
}

#[derive(Debug)]
struct Meters<C: Clock> {
    messages: Option<Meter<C>>,
    bytes: Option<Meter<C>>,
}

impl<C: Clock> Meters<C> {
    fn each(&self) -> impl Iterator<Item = &Meter<C>> {
        self.messages.iter().chain(&self.bytes)
    }
}

/// What somebody may send.
#[derive(Debug)]
pub struct Allowance<C: Clock = DefaultClock>(Mutex<Meters<C>>);

impl Allowance {
    /// All of it there; `None` if there is no limit.
    #[must_use]
    pub fn new(pace: Pace) -> Option<Self> {
        Self::with_clock(pace, &DefaultClock::default())
    }
}

impl<C: Clock> Allowance<C> {
    fn with_clock(pace: Pace, clock: &C) -> Option<Self>
    where
        C: Clone,
    {
        let meter = |unit, per_second| Meter::new(unit, per_second, pace.burst_ms, clock.clone());
        let meters = Meters {
            messages: meter("messages", pace.messages_per_second),
            bytes: meter("bytes", pace.bytes_per_second),
        };
        (meters.each().count() > 0).then(|| Self(Mutex::new(meters)))
    }

    fn lock(&self) -> MutexGuard<'_, Meters<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes every demand from its allowance, or none of them; says which is the last to be met. All
/// callers must name the allowances that they share in the same order.
///
/// # Errors
/// The index of that allowance, and what it lacks.
pub fn take_all<C: Clock>(demands: &[(&Allowance<C>, Demand)]) -> Result<(), (usize, Short)> {
    let mut worst: Option<(usize, Short)> = None;
    let mut held = Vec::with_capacity(demands.len());
    for (index, (allowance, demand)) in demands.iter().enumerate() {
        let meters = allowance.lock();
        let before = [&meters.messages, &meters.bytes]
            .map(|meter| meter.as_ref().map_or(0, |meter| meter.level.get()));
        for meter in meters.each() {
            let asked = match meter.unit {
                "messages" => demand.messages,
                _ => demand.bytes,
            };
            if let Err(short) = meter.take(asked)
                && worst
                    .as_ref()
                    .is_none_or(|(_, known)| short.is_worse_than(known))
            {
                worst = Some((index, short));
            }
        }
        held.push((meters, before));
    }
    let Some(worst) = worst else {
        return Ok(());
    };
    for (meters, before) in held {
        for (meter, level) in [&meters.messages, &meters.bytes].into_iter().zip(before) {
            if let Some(meter) = meter {
                meter.level.set(level);
            }
        }
    }
    Err(worst)
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn allowance(
        messages_per_second: u64,
        bytes_per_second: u64,
        clock: &FakeRelativeClock,
    ) -> Allowance<FakeRelativeClock> {
        let pace = Pace {
            messages_per_second,
            bytes_per_second,
            burst_ms: 1_000,
        };
        Allowance::with_clock(pace, clock).unwrap()
    }

    const fn demand(messages: u64, bytes: u64) -> Demand {
        Demand { messages, bytes }
    }

    // EDGE-10
    #[test]
    fn the_burst_passes_and_one_more_may_come_when_it_is_said() {
        let clock = FakeRelativeClock::default();
        let ten = allowance(10, 0, &clock);
        let take = |messages| take_all(&[(&ten, demand(messages, 1))]);
        assert_eq!(take(11).unwrap_err().1.wait, None);
        assert_eq!(take(10), Ok(()));
        let (_, short) = take(3).unwrap_err();
        assert_eq!(
            (short.unit, short.asked, short.at_once),
            ("messages", 3, 10)
        );
        assert_eq!(short.wait, Some(Duration::from_millis(300)));
        clock.advance(Duration::from_millis(299));
        assert!(take(3).is_err());
        clock.advance(Duration::from_millis(1));
        assert_eq!(take(3), Ok(()));
        assert!(take(1).is_err());
    }

    // EDGE-10
    #[test]
    fn what_is_refused_by_one_is_taken_from_none() {
        let clock = FakeRelativeClock::default();
        let (session, tenant) = (allowance(10, 0, &clock), allowance(4, 100, &clock));
        let take = |messages, bytes| {
            let demand = demand(messages, bytes);
            take_all(&[(&session, demand), (&tenant, demand)])
        };
        for _ in 0..100 {
            let (who, short) = take(4, 101).unwrap_err();
            assert_eq!((who, short.unit, short.wait), (1, "bytes", None));
        }
        assert_eq!(take(4, 100), Ok(()));
        for _ in 0..100 {
            // The bytes are back in 500 ms, the messages in 250: the longer wait is the true one.
            let (who, short) = take(1, 50).unwrap_err();
            assert_eq!((who, short.wait), (1, Some(Duration::from_millis(500))));
        }
        clock.advance(Duration::from_millis(500));
        assert_eq!(take(1, 50), Ok(()));
        assert_eq!(take_all(&[(&session, demand(9, 0))]), Ok(()));
    }

    // EDGE-10
    #[test]
    fn great_rates_keep_their_measure() {
        for per_second in [1, 3, 1_000, 30_000_000, 300_000_000, 1 << 40] {
            let clock = FakeRelativeClock::default();
            let bytes = allowance(0, per_second, &clock);
            let mut taken = 0;
            let step = per_second.div_ceil(1_000);
            for _ in 0..3_000 {
                while take_all(&[(&bytes, demand(1, step))]).is_ok() {
                    taken += step;
                }
                clock.advance(Duration::from_millis(1));
            }
            let (least, most) = (per_second * 39 / 10, per_second * 41 / 10 + 2 * step);
            assert!(
                (least.saturating_sub(2 * step)..=most).contains(&taken),
                "{taken} of {per_second} a second"
            );
        }
    }

    #[test]
    fn what_is_not_limited_costs_nothing() {
        assert!(Allowance::new(Pace::default()).is_none());
    }
}
