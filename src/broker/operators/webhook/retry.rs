//! When an event that was not taken is sent again (OPS-05).
//!
//! Owns the schedule, its jitter, and what a receiver's `Retry-After` changes. Knows no clock: it is
//! told what time it is.

use std::time::Duration;

use jiff::fmt::rfc2822;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::log::Micros;

/// A wait is longer or shorter by up to this part of it, so that rules that failed together do not
/// come back together.
const JITTER_PERCENT: u64 = 20;

/// Waits before the second attempt, the third, and so on; the last holds for all later ones.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    delays: Vec<Duration>,
    /// However long a receiver asks for.
    longest: Duration,
}

impl Schedule {
    /// `delays_ms` must not be empty.
    pub(super) fn new(delays_ms: &[u64], longest: Duration) -> Self {
        let delays = delays_ms.iter().copied().map(Duration::from_millis);
        Self {
            delays: delays.collect(),
            longest,
        }
    }

    /// Attempts that it lists: the first one, and one after each wait.
    pub(super) fn attempts(&self) -> u64 {
        self.delays.len() as u64 + 1
    }

    /// The wait after the `attempt`th attempt (from 1 on) has failed. `chance` is any number;
    /// `asked` is what the receiver wants, which it is not sent before.
    pub(super) fn wait(&self, attempt: u64, asked: Option<Duration>, chance: u64) -> Duration {
        let at = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
        let base = self.delays.get(at).or(self.delays.last());
        let base = base.copied().unwrap_or_default();
        let spread = 2 * JITTER_PERCENT * 1_000;
        let permille_of_percent = 100_000 - JITTER_PERCENT * 1_000 + chance % (spread + 1);
        let base_us = u64::try_from(base.as_micros()).unwrap_or(u64::MAX);
        let jittered = u128::from(base_us) * u128::from(permille_of_percent) / 100_000;
        let jittered = Duration::from_micros(u64::try_from(jittered).unwrap_or(u64::MAX));
        let wait = asked.map_or(jittered, |asked| asked.max(jittered));
        wait.min(self.longest)
    }
}

/// A number that nobody foresees; 0 where the system has none, which costs the jitter alone.
pub(super) fn chance() -> u64 {
    let mut bytes = [0; 8];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(ring::error::Unspecified) => 0,
    }
}

/// How long a receiver asks to be left alone: seconds, or a date of HTTP.
pub(super) fn asked(retry_after: &str, now: Micros) -> Option<Duration> {
    let text = retry_after.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let then = rfc2822::parse(text).ok()?.timestamp().as_microsecond();
    let then = u64::try_from(then).ok()?;
    Some(Duration::from_micros(then.saturating_sub(now.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> Schedule {
        Schedule::new(&[0, 5_000, 300_000], Duration::from_secs(3_600))
    }

    // OPS-05
    #[test]
    fn waits_grow_and_are_spread() {
        let schedule = schedule();
        assert_eq!(schedule.attempts(), 4);
        assert_eq!(schedule.wait(1, None, 7), Duration::ZERO);
        for (attempt, base) in [(2, 5_000), (3, 300_000), (4, 300_000), (u64::MAX, 300_000)] {
            let (mut least, mut most) = (u128::MAX, 0);
            for chance in 0..100_000 {
                let wait = schedule.wait(attempt, None, chance).as_millis();
                (least, most) = (least.min(wait), most.max(wait));
            }
            assert_eq!((least, most), (base * 8 / 10, base * 12 / 10), "{attempt}");
        }
        assert_ne!(chance(), chance());
    }

    // OPS-05
    #[test]
    fn a_receiver_can_ask_for_more_and_not_for_less_or_for_ever() {
        let schedule = schedule();
        let hour = Duration::from_secs(3_600);
        let wait = |asked| schedule.wait(2, Some(asked), 20_000);
        assert_eq!(wait(Duration::from_secs(60)), Duration::from_secs(60));
        assert_eq!(wait(Duration::from_secs(1)), Duration::from_secs(5));
        assert_eq!(wait(Duration::MAX), hour);
    }

    // OPS-05
    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // 2026-02-20T00:00:00Z
        let now = Micros(1_771_545_600_000_000);
        let seconds = |text| asked(text, now).map(|wait| wait.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds(" 0 "), Some(0));
        assert_eq!(seconds("Fri, 20 Feb 2026 00:01:30 GMT"), Some(90));
        assert_eq!(seconds("Thu, 19 Feb 2026 00:00:00 GMT"), Some(0));
        for no in ["", "soon", "-1", "1.5", "Fri, 99 Feb 2026"] {
            assert_eq!(seconds(no), None, "{no}");
        }
    }
}
