//! The circuit breaker of one rule: spares a receiver that is down, and the node, attempts that
//! would fail (OPS-05).
//!
//! ```text
//!            5 failures in a row, or half of the last 20
//!   closed ───────────────────────────────────────────► open
//!     ▲                                                  │ its time is over
//!     │ success                                          ▼
//!     └───────────────────────────────────────────── half-open ──► open again, on failure
//!                                                     one attempt
//! ```
//!
//! An attempt that it holds back has not been made: it costs none of an event's attempts. Knows no
//! clock and no receiver.

use std::collections::VecDeque;
use std::time::Duration;

use crate::log::Micros;

const IN_A_ROW: u32 = 5;
const WINDOW: usize = 20;

/// Whether attempts are let through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// They are.
    Closed,
    /// None is before this time.
    Open { until: Micros },
    /// One is, to see; whether it is under way.
    HalfOpen { trying: bool },
}

impl State {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half-open",
        }
    }
}

/// What to do with an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    /// Make it, and say how it went.
    Go,
    /// Ask again at this time.
    At(Micros),
    /// Ask again when the attempt that is under way has ended.
    Later,
}

/// One breaker.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    in_a_row: u32,
    /// Whether each of the last attempts failed.
    recent: VecDeque<bool>,
    open_for: Duration,
}

impl Breaker {
    pub(super) const fn new(open_for: Duration) -> Self {
        Self {
            state: State::Closed,
            in_a_row: 0,
            recent: VecDeque::new(),
            open_for,
        }
    }

    pub(super) const fn state(&self) -> State {
        self.state
    }

    pub(super) fn admit(&mut self, now: Micros) -> Admission {
        match self.state {
            State::Closed => Admission::Go,
            State::Open { until } if now < until => Admission::At(until),
            State::Open { .. } | State::HalfOpen { trying: false } => {
                self.state = State::HalfOpen { trying: true };
                Admission::Go
            }
            State::HalfOpen { trying: true } => Admission::Later,
        }
    }

    /// An attempt that was let through went well.
    pub(super) fn succeeded(&mut self) {
        self.in_a_row = 0;
        if self.state == State::Closed {
            self.note(false);
        } else {
            // Even a straggler from before it opened: the receiver is there.
            self.recent.clear();
            self.state = State::Closed;
        }
    }

    /// An attempt that was let through failed.
    pub(super) fn failed(&mut self, now: Micros) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        match self.state {
            State::Closed => {
                self.note(true);
                let failures = self.recent.iter().filter(|failed| **failed).count();
                let half = self.recent.len() == WINDOW && failures * 2 >= WINDOW;
                if self.in_a_row >= IN_A_ROW || half {
                    self.open(now);
                }
            }
            State::HalfOpen { .. } => self.open(now),
            // A straggler.
            State::Open { .. } => {}
        }
    }

    /// An attempt that was let through was given up without an answer of either kind.
    pub(super) fn abandoned(&mut self) {
        if let State::HalfOpen { trying } = &mut self.state {
            *trying = false;
        }
    }

    fn open(&mut self, now: Micros) {
        let open_us = u64::try_from(self.open_for.as_micros()).unwrap_or(u64::MAX);
        let until = Micros(now.0.saturating_add(open_us));
        self.state = State::Open { until };
        self.recent.clear();
    }

    fn note(&mut self, failed: bool) {
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn at(seconds: u64) -> Micros {
        Micros(seconds * SECOND)
    }

    fn breaker() -> Breaker {
        Breaker::new(Duration::from_secs(30))
    }

    // OPS-05
    #[test]
    fn it_opens_after_five_failures_in_a_row_and_lets_one_attempt_try() {
        let mut breaker = breaker();
        for _ in 0..4 {
            assert_eq!(breaker.admit(at(0)), Admission::Go);
            breaker.failed(at(0));
        }
        assert_eq!(breaker.state(), State::Closed);
        breaker.failed(at(10));
        assert_eq!(breaker.admit(at(39)), Admission::At(at(40)));
        assert_eq!(breaker.admit(at(40)), Admission::Go);
        assert_eq!(breaker.state().as_str(), "half-open");
        assert_eq!(breaker.admit(at(41)), Admission::Later);
        breaker.failed(at(41));
        assert_eq!(breaker.admit(at(70)), Admission::At(at(71)));
        assert_eq!(breaker.admit(at(71)), Admission::Go);
        breaker.succeeded();
        assert_eq!(breaker.admit(at(71)), Admission::Go);
        assert_eq!(breaker.state(), State::Closed);
        // It begins anew.
        for _ in 0..4 {
            breaker.failed(at(72));
        }
        assert_eq!(breaker.state(), State::Closed);
    }

    // OPS-05
    #[test]
    fn it_opens_when_half_of_the_last_twenty_failed() {
        let mut breaker = breaker();
        for round in 0..20 {
            assert_eq!(breaker.state(), State::Closed, "{round}");
            if round % 2 == 0 {
                breaker.succeeded();
            } else {
                breaker.failed(at(0));
            }
        }
        assert_eq!(breaker.state(), State::Open { until: at(30) });
    }

    // OPS-05
    #[test]
    fn an_attempt_that_was_given_up_leaves_room_for_another() {
        let mut breaker = breaker();
        for _ in 0..5 {
            breaker.failed(at(0));
        }
        assert_eq!(breaker.admit(at(30)), Admission::Go);
        breaker.abandoned();
        assert_eq!(breaker.admit(at(30)), Admission::Go);
    }
}
