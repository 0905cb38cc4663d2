//! How a group works, and what a node allows of it.

use std::time::Duration;

use crate::broker::error::Error;
use crate::proto::v1::GroupOptions;

/// What a node allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Most records that all members of a group together have leased.
    pub in_flight_max: u32,
    /// Records that a group holds in memory besides: those that wait for others of their key, or for
    /// their time.
    pub ahead_max: usize,
    /// Bytes of records that a group holds in memory.
    pub bytes_max: usize,
    /// Most members of a group.
    pub members_max: usize,
    /// Longest time that a member may have for a record, and longest that a failed one waits.
    pub wait_max: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            in_flight_max: 1_000,
            ahead_max: 1_000,
            bytes_max: 16 << 20,
            members_max: 1_000,
            wait_max: Duration::from_secs(12 * 60 * 60),
        }
    }
}

/// Shortest deadline: below it, whoever answers at once may already be too late.
const DEADLINE_MIN: Duration = Duration::from_millis(10);
/// Most failures of a record.
const DELIVERIES_MAX: u32 = 1_000;

const DEADLINE_DEFAULT: Duration = Duration::from_secs(30);
const DELIVERIES_DEFAULT: u32 = 5;
const BACKOFF_MIN_DEFAULT: Duration = Duration::from_millis(500);
const BACKOFF_MAX_DEFAULT: Duration = Duration::from_secs(60);

/// How a group works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// A member has so long for a record.
    pub ack_deadline: Duration,
    /// A record that has failed so often becomes a dead letter.
    pub max_deliveries: u32,
    /// How long a failed record waits the first time.
    pub backoff_min: Duration,
    /// How long at most.
    pub backoff_max: Duration,
    /// Most records that all members together have leased.
    pub in_flight_max: u32,
}

impl Options {
    /// What `asked` comes to on a node with these bounds. What was stored under wider bounds is cut
    /// to them: the settings of a node may change.
    pub(super) fn within(asked: &GroupOptions, bounds: &Bounds) -> Self {
        let or = |asked: u64, default: Duration| match asked {
            0 => default,
            asked => Duration::from_millis(asked),
        };
        let longest = bounds.wait_max;
        let backoff_min = or(asked.backoff_min_ms, BACKOFF_MIN_DEFAULT).min(longest);
        let backoff_max = or(asked.backoff_max_ms, BACKOFF_MAX_DEFAULT.max(backoff_min));
        Self {
            ack_deadline: or(asked.ack_deadline_ms, DEADLINE_DEFAULT).clamp(DEADLINE_MIN, longest),
            max_deliveries: match asked.max_deliveries {
                0 => DELIVERIES_DEFAULT,
                asked => asked.min(DELIVERIES_MAX),
            },
            backoff_min,
            backoff_max: backoff_max.clamp(backoff_min, longest),
            in_flight_max: match asked.in_flight_max {
                0 => bounds.in_flight_max,
                asked => asked.min(bounds.in_flight_max),
            },
        }
    }

    /// How long a record waits that has failed for the `failures`th time.
    pub(super) fn backoff(&self, failures: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        self.backoff_min
            .saturating_mul(doubled)
            .min(self.backoff_max)
    }
}

/// In whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Refuses what the node does not allow, by its name.
pub(super) fn check(asked: &GroupOptions, bounds: &Bounds) -> Result<(), Error> {
    let (shortest, longest) = (millis(DEADLINE_MIN), millis(bounds.wait_max));
    let limits = [
        ("ack_deadline_ms", asked.ack_deadline_ms, shortest, longest),
        (
            "max_deliveries",
            asked.max_deliveries.into(),
            1,
            DELIVERIES_MAX.into(),
        ),
        ("backoff_min_ms", asked.backoff_min_ms, 1, longest),
        (
            "backoff_max_ms",
            asked.backoff_max_ms,
            asked.backoff_min_ms.max(1),
            longest,
        ),
        (
            "in_flight_max",
            asked.in_flight_max.into(),
            1,
            bounds.in_flight_max.into(),
        ),
    ];
    for (field, found, min, max) in limits {
        if found != 0 && !(min..=max).contains(&found) {
            return Err(Error::GroupOption {
                field,
                found,
                min,
                max,
            });
        }
    }
    Ok(())
}

/// `known` with what `asked` says.
pub(super) fn merged(known: &GroupOptions, asked: &GroupOptions) -> GroupOptions {
    let or = |asked: u64, known: u64| if asked == 0 { known } else { asked };
    let or_small = |asked: u32, known: u32| if asked == 0 { known } else { asked };
    GroupOptions {
        ack_deadline_ms: or(asked.ack_deadline_ms, known.ack_deadline_ms),
        max_deliveries: or_small(asked.max_deliveries, known.max_deliveries),
        backoff_min_ms: or(asked.backoff_min_ms, known.backoff_min_ms),
        backoff_max_ms: or(asked.backoff_max_ms, known.backoff_max_ms),
        in_flight_max: or_small(asked.in_flight_max, known.in_flight_max),
    }
}
