//! When a job is due: arithmetic of times alone. Knows no job, no log and no clock.
//!
//! Times are milliseconds since the Unix epoch. A cron expression is one of five fields, or six with
//! seconds in front, or seven with years behind, as croner reads them; it is asked for the wall
//! clock of its zone, from the time zone database that the node was built with, so that all nodes
//! of one version agree.
//!
//! Where a zone's clock is put forward, a job at one fixed time that does not exist that day runs
//! at the first instant after the gap, or not at all ([`Gap`]); one that runs by a pattern of hours,
//! minutes or seconds goes by the instants that there are. Where it is put back, a fixed time runs
//! once, at the earlier of its two instants, and a pattern every time.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, Zoned};
use serde::{Deserialize, Serialize};

/// Longest cron expression in bytes.
pub(super) const EXPRESSION_BYTES_MAX: usize = 256;
/// Shortest time between two firings of a job.
pub(super) const INTERVAL_MS_MIN: u64 = 100;
/// Missed firings that are made up for, at most.
pub(super) const CAUGHT_UP_MAX: u64 = 1_000;
/// Times in a row that may fall into gaps before a schedule counts as one without end.
const GAPS_MAX: usize = 1_000;

/// What a job at a fixed time does on a day that does not have that time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Gap {
    /// It runs at the first instant after the gap.
    #[default]
    Run,
    /// It does not run that day.
    Skip,
}

/// What becomes of firings that were missed, because the node was down or its clock went forward.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Misfire {
    /// Nothing.
    Skip,
    /// The last of them is made up for.
    #[default]
    Once,
    /// So many of the last are made up for, in their order.
    All {
        /// At most.
        max: u64,
    },
}

/// When a job is due, as it was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Plan {
    /// Once, or in even steps.
    Every {
        /// The first time.
        first_ms: u64,
        /// Between one and the next; `None` if there is but one.
        interval_ms: Option<u64>,
    },
    /// By a cron expression.
    Cron {
        /// The expression.
        expression: String,
        /// IANA name of the zone whose clock it goes by.
        time_zone: String,
        /// What is done about times that a day does not have.
        gap: Gap,
    },
}

/// A plan that cannot be followed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadPlan {
    /// No cron expression.
    #[error("is {found:?}, which is no cron expression: {reason}")]
    Expression {
        /// What it says.
        found: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Too long to be looked at.
    #[error("has {found} bytes, more than the limit of {EXPRESSION_BYTES_MAX}")]
    Length {
        /// Bytes found.
        found: usize,
    },
    /// No time zone.
    #[error("is {found:?}, which is no time zone; needed is an IANA name like Europe/Stockholm")]
    Zone {
        /// What it says.
        found: String,
    },
    /// A time that never comes.
    #[error("is {found:?}, which no day to come fits")]
    Never {
        /// What it says.
        found: String,
    },
}

/// A plan that can be asked.
#[derive(Clone, Debug)]
pub(super) struct Schedule(Times);

#[derive(Clone, Debug)]
enum Times {
    Every {
        first: u64,
        interval: Option<u64>,
    },
    Cron {
        cron: Box<Cron>,
        zone: TimeZone,
        gap: Gap,
    },
}

impl Schedule {
    /// # Errors
    /// The expression or the zone is none.
    pub(super) fn of(plan: &Plan) -> Result<Self, BadPlan> {
        let (expression, time_zone, gap) = match plan {
            Plan::Every {
                first_ms,
                interval_ms,
            } => {
                return Ok(Self(Times::Every {
                    first: *first_ms,
                    interval: interval_ms.map(|interval| interval.max(INTERVAL_MS_MIN)),
                }));
            }
            Plan::Cron {
                expression,
                time_zone,
                gap,
            } => (expression, time_zone, *gap),
        };
        if expression.len() > EXPRESSION_BYTES_MAX {
            let found = expression.len();
            return Err(BadPlan::Length { found });
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Optional)
            .year(Year::Optional)
            .build();
        let cron = parser.parse(expression);
        let cron = cron.map_err(|error| BadPlan::Expression {
            found: expression.clone(),
            reason: error.to_string(),
        })?;
        let zone = zone(time_zone).ok_or_else(|| BadPlan::Zone {
            found: time_zone.chars().take(64).collect(),
        })?;
        Ok(Self(Times::Cron {
            cron: Box::new(cron),
            zone,
            gap,
        }))
    }

    /// The first time after `after`; `None` if there is none.
    pub(super) fn next(&self, after: u64) -> Option<u64> {
        match &self.0 {
            Times::Every { first, .. } if after < *first => Some(*first),
            Times::Every { first, interval } => {
                let interval = (*interval)?;
                let steps = (after - first) / interval + 1;
                first.checked_add(steps.checked_mul(interval)?)
            }
            Times::Cron { cron, zone, gap } => {
                let mut at = zoned(after, zone)?;
                for _ in 0..GAPS_MAX {
                    at = cron.find_next_occurrence(&at, false).ok()?;
                    if *gap == Gap::Run || cron.is_time_matching(&at).ok()? {
                        return u64::try_from(at.timestamp().as_millisecond()).ok();
                    }
                }
                None
            }
        }
    }

    /// A time from which on no more than about `count` are left until `now`, and not before `after`.
    fn near(&self, after: u64, now: u64, count: u64) -> u64 {
        match &self.0 {
            Times::Every {
                first,
                interval: Some(interval),
            } if now > *first => {
                let passed = (now - first) / interval;
                let skipped = passed.saturating_sub(count);
                after.max(
                    first
                        .saturating_add(skipped.saturating_mul(*interval))
                        .saturating_sub(1),
                )
            }
            Times::Every { .. } => after,
            Times::Cron { cron, zone, .. } => {
                let Some(mut at) = zoned(now, zone) else {
                    return after;
                };
                for _ in 0..=count {
                    let Ok(before) = cron.find_previous_occurrence(&at, false) else {
                        return after;
                    };
                    at = before;
                    let ms = u64::try_from(at.timestamp().as_millisecond()).unwrap_or_default();
                    if ms <= after {
                        return after;
                    }
                }
                let ms = u64::try_from(at.timestamp().as_millisecond()).unwrap_or_default();
                after.max(ms.saturating_sub(1))
            }
        }
    }

    /// The firing that is to be made next, if it is due at `now`. What was due up to `after` has
    /// been seen to; what was due more than `tolerance_ms` ago counts as missed.
    ///
    /// After a firing, `after` is the time that it was planned for, and the question is put again.
    pub(super) fn due(
        &self,
        after: u64,
        now: u64,
        misfire: Misfire,
        tolerance_ms: u64,
    ) -> Option<u64> {
        let first = self.next(after).filter(|at| *at <= now)?;
        let missed_before = now.saturating_sub(tolerance_ms);
        if first >= missed_before {
            return Some(first);
        }
        let kept = match misfire {
            Misfire::Skip => 0,
            Misfire::Once => 1,
            Misfire::All { max } => max.min(CAUGHT_UP_MAX),
        };
        // Those that were missed and are made up for, the oldest first.
        let mut missed = std::collections::VecDeque::new();
        let mut at = self.near(after, missed_before, kept + 1);
        loop {
            let Some(next) = self.next(at).filter(|at| *at <= now) else {
                return missed.pop_front();
            };
            if next >= missed_before {
                return Some(missed.pop_front().unwrap_or(next));
            }
            missed.push_back(next);
            if missed.len() as u64 > kept {
                missed.pop_front();
            }
            at = next;
        }
    }
}

fn zone(name: &str) -> Option<TimeZone> {
    static ZONES: std::sync::LazyLock<TimeZoneDatabase> =
        std::sync::LazyLock::new(TimeZoneDatabase::bundled);
    if name.is_empty() {
        return Some(TimeZone::UTC);
    }
    ZONES.get(name).ok()
}

fn zoned(ms: u64, zone: &TimeZone) -> Option<Zoned> {
    let at = Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
    Some(at.to_zoned(zone.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> u64 {
        let at: Timestamp = text.parse().unwrap();
        at.as_millisecond().try_into().unwrap()
    }

    fn shown(at: u64) -> String {
        Timestamp::from_millisecond(at.try_into().unwrap())
            .unwrap()
            .to_string()
    }

    fn cron(expression: &str, time_zone: &str, gap: Gap) -> Schedule {
        let (expression, time_zone) = (expression.to_owned(), time_zone.to_owned());
        Schedule::of(&Plan::Cron {
            expression,
            time_zone,
            gap,
        })
        .unwrap()
    }

    fn times(schedule: &Schedule, after: &str, count: usize) -> Vec<String> {
        let mut at = ms(after);
        let mut found = Vec::new();
        while found.len() < count {
            let Some(next) = schedule.next(at) else { break };
            assert!(next > at, "{next} {at}");
            found.push(shown(next));
            at = next;
        }
        found
    }

    // OPS-06
    #[test]
    fn expressions_say_when() {
        for (expression, zone, after, wanted) in [
            (
                "*/15 * * * *",
                "",
                "2026-02-20T00:00:01Z",
                vec!["2026-02-20T00:15:00Z", "2026-02-20T00:30:00Z"],
            ),
            (
                "30 0 12 * * MON-FRI",
                "UTC",
                "2026-02-20T12:00:30Z",
                vec!["2026-02-23T12:00:30Z", "2026-02-24T12:00:30Z"],
            ),
            (
                "0 9 L * *",
                "Asia/Tokyo",
                "2026-02-20T00:00:00Z",
                vec!["2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z"],
            ),
            (
                "0 0 * * FRI#2",
                "",
                "2026-02-20T00:00:00Z",
                vec!["2026-03-13T00:00:00Z", "2026-04-10T00:00:00Z"],
            ),
            (
                "0 0 29 2 *",
                "",
                "2026-02-20T00:00:00Z",
                vec!["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"],
            ),
            (
                "@hourly",
                "Asia/Kolkata",
                "2026-02-20T00:00:00Z",
                vec!["2026-02-20T00:30:00Z", "2026-02-20T01:30:00Z"],
            ),
        ] {
            let schedule = cron(expression, zone, Gap::Run);
            assert_eq!(times(&schedule, after, 2), wanted, "{expression}");
        }
    }

    // OPS-06: the clock of Stockholm goes from 2 to 3 on 29 March 2026 and from 3 to 2 on 25
    // October.
    #[test]
    fn a_gap_and_an_overlap_in_the_north() {
        let zone = "Europe/Stockholm";
        let fixed = |gap| cron("30 2 * * *", zone, gap);
        let around = "2026-03-28T00:00:00Z";
        assert_eq!(
            times(&fixed(Gap::Run), around, 3),
            [
                "2026-03-28T01:30:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-30T00:30:00Z"
            ]
        );
        assert_eq!(
            times(&fixed(Gap::Skip), around, 3),
            [
                "2026-03-28T01:30:00Z",
                "2026-03-30T00:30:00Z",
                "2026-03-31T00:30:00Z"
            ]
        );
        let around = "2026-10-24T12:00:00Z";
        assert_eq!(
            times(&fixed(Gap::Run), around, 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        let halves = cron("*/30 * * * *", zone, Gap::Run);
        assert_eq!(
            times(&halves, "2026-10-25T00:10:00Z", 4),
            [
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-25T02:00:00Z"
            ]
        );
        assert_eq!(
            times(&halves, "2026-03-29T00:10:00Z", 3),
            [
                "2026-03-29T00:30:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-29T01:30:00Z"
            ]
        );
    }

    // OPS-06: the clock of Lord Howe moves by half an hour: from 2:00 to 1:30 on 5 April 2026, and
    // from 2:00 to 2:30 on 4 October.
    #[test]
    fn a_gap_and_an_overlap_in_the_south() {
        let zone = "Australia/Lord_Howe";
        let once = cron("45 1 * * *", zone, Gap::Run);
        assert_eq!(
            times(&once, "2026-04-04T00:00:00Z", 2),
            ["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"]
        );
        let fixed = |gap| cron("15 2 * * *", zone, gap);
        assert_eq!(
            times(&fixed(Gap::Run), "2026-10-03T00:00:00Z", 2),
            ["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"]
        );
        assert_eq!(
            times(&fixed(Gap::Skip), "2026-10-03T00:00:00Z", 1),
            ["2026-10-04T15:15:00Z"]
        );
    }

    // OPS-06
    #[test]
    fn what_is_no_plan_is_named() {
        let plan = |expression: &str, time_zone: &str| {
            let (expression, time_zone) = (expression.to_owned(), time_zone.to_owned());
            Schedule::of(&Plan::Cron {
                expression,
                time_zone,
                gap: Gap::Run,
            })
        };
        assert!(matches!(
            plan("61 * * * *", ""),
            Err(BadPlan::Expression { .. })
        ));
        assert!(matches!(plan("", ""), Err(BadPlan::Expression { .. })));
        let zone = plan("* * * * *", "Mars/Olympus").unwrap_err().to_string();
        assert!(zone.contains("Mars/Olympus"), "{zone}");
        let long = "1,".repeat(200);
        assert!(matches!(
            plan(&long, ""),
            Err(BadPlan::Length { found: 400 })
        ));
        // A day that never comes is no reason to search for ever.
        let began = std::time::Instant::now();
        assert_eq!(
            plan("0 0 30 2 *", "").map_or(None, |never| never.next(ms("2026-01-01T00:00:00Z"))),
            None
        );
        assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    }

    // OPS-06
    #[test]
    fn even_steps_begin_where_they_were_said_to() {
        let every = |interval_ms| {
            Schedule::of(&Plan::Every {
                first_ms: 1_000,
                interval_ms,
            })
            .unwrap()
        };
        let once = every(None);
        assert_eq!(
            (once.next(0), once.next(999), once.next(1_000)),
            (Some(1_000), Some(1_000), None)
        );
        let steps = every(Some(250));
        assert_eq!(
            (steps.next(0), steps.next(1_000), steps.next(1_249)),
            (Some(1_000), Some(1_250), Some(1_250))
        );
        assert_eq!(steps.next(u64::MAX - 1), None);
    }

    /// All firings that are made at `now`, one after the other.
    fn fired(schedule: &Schedule, mut after: u64, now: u64, misfire: Misfire) -> Vec<u64> {
        let mut fired = Vec::new();
        while let Some(at) = schedule.due(after, now, misfire, 60_000) {
            assert!(at > after && at <= now);
            fired.push(at);
            after = at;
        }
        fired
    }

    // OPS-06, REL-12: a node that was down, or a clock that went forward.
    #[test]
    fn missed_firings_are_made_up_for_as_asked() {
        let minute = 60_000;
        let steps = Schedule::of(&Plan::Every {
            first_ms: minute,
            interval_ms: Some(minute),
        })
        .unwrap();
        let hours = cron("0 * * * *", "", Gap::Run);
        let hour = 60 * minute;
        for (schedule, step) in [(&steps, minute), (&hours, hour)] {
            let now = 10 * step + 1;
            let on_time = 10 * step;
            assert_eq!(fired(schedule, 0, now, Misfire::Skip), [on_time]);
            assert_eq!(fired(schedule, 0, now, Misfire::Once), [9 * step, on_time]);
            let all = |max| fired(schedule, 0, now, Misfire::All { max });
            assert_eq!(all(3), [7 * step, 8 * step, 9 * step, on_time]);
            assert_eq!(all(100).len(), 10);
            // Nothing is due twice, and nothing early.
            assert!(fired(schedule, on_time, now, Misfire::Once).is_empty());
            assert!(fired(schedule, on_time, on_time - step, Misfire::Once).is_empty());
        }
        let late = Schedule::of(&Plan::Every {
            first_ms: 1_000,
            interval_ms: None,
        })
        .unwrap();
        assert!(fired(&late, 0, hour, Misfire::Skip).is_empty());
        assert_eq!(fired(&late, 0, hour, Misfire::Once), [1_000]);
    }

    // OPS-06: a job of every second and a node that was down for ten years.
    #[test]
    fn a_long_absence_costs_no_long_search() {
        let seconds = cron("* * * * * *", "Europe/Stockholm", Gap::Run);
        let now = ms("2026-02-20T00:00:00Z");
        let began = std::time::Instant::now();
        let first = seconds.due(
            ms("2016-02-20T00:00:00Z"),
            now,
            Misfire::All { max: 1_000 },
            60_000,
        );
        assert_eq!(first, Some(now - 60_000 - 1_000 * 1_000));
        assert!(began.elapsed().as_secs() < 2, "{:?}", began.elapsed());
    }
}
