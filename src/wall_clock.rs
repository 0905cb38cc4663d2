//! The system's wall clock, the only place that asks it what time it is.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::log::{Clock, Micros};

/// The wall clock of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct WallClock;

impl Clock for WallClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that is passed in elsewhere"
    )]
    fn now(&self) -> Micros {
        // A clock before 1970 is not set; the log evens out what comes after.
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
}
