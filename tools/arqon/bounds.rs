//! Places in a log as people write them, and spans of time.

use std::str::FromStr;
use std::time::Duration;

use arqonbus::client::Start;

use crate::failure::Failure;

/// `--from`: `earliest`, `latest`, a sequence, or an RFC 3339 time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct From(pub(crate) Start);

/// `--to`: a sequence or an RFC 3339 time, inclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum To {
    Sequence(u64),
    /// Microseconds since the Unix epoch.
    Time(u64),
}

impl To {
    /// For `stop_sequence` and `stop_time`.
    pub(crate) fn stops(bound: Option<Self>) -> (u64, u64) {
        match bound {
            None => (0, 0),
            Some(Self::Sequence(last)) => (last, 0),
            Some(Self::Time(last)) => (0, last),
        }
    }
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => Ok(Self(Start::Earliest)),
            "latest" => Ok(Self(Start::Latest)),
            "current" => Ok(Self(Start::Current)),
            _ => match To::from_str(text) {
                Ok(To::Sequence(sequence)) => Ok(Self(Start::Sequence(sequence))),
                Ok(To::Time(time)) => Ok(Self(Start::Time(time))),
                Err(error) => Err(format!("{error}, or `earliest`, `latest` or `current`")),
            },
        }
    }
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(sequence) = text.parse::<u64>() {
            if sequence == 0 {
                return Err("sequences begin at 1".to_owned());
            }
            return Ok(Self::Sequence(sequence));
        }
        let wrong = "needed is a sequence (a number) or a time like 2018-02-01T00:00:00Z";
        let time: jiff::Timestamp = text.parse().map_err(|error| format!("{wrong} ({error})"))?;
        u64::try_from(time.as_microsecond())
            .map(Self::Time)
            .map_err(|_negative| "times before 1970 are not in any log".to_owned())
    }
}

/// Refuses a range that can hold nothing, where that shows without a log.
pub(crate) fn check(from: From, to: Option<To>) -> Result<(), Failure> {
    let backwards = match (from.0, to) {
        (Start::Sequence(first), Some(To::Sequence(last)))
        | (Start::Time(first), Some(To::Time(last))) => first > last,
        _ => false,
    };
    if backwards {
        return Err(Failure::usage(
            "--from lies behind --to: nothing is between them",
        ));
    }
    Ok(())
}

/// A time like 2026-03-01T08:00:00Z, in milliseconds since the Unix epoch.
pub(crate) fn moment(text: &str) -> Result<u64, String> {
    let wrong = "needed is a time like 2026-03-01T08:00:00Z";
    let time: jiff::Timestamp = text.parse().map_err(|error| format!("{wrong} ({error})"))?;
    u64::try_from(time.as_millisecond())
        .map_err(|_negative| format!("{wrong}, and not before 1970"))
}

/// A span like `90s`, `15m`, `1h`, `7d`; a bare number is seconds.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no span of time; needed is one like 90s, 15m, 1h or 7d");
    let digits = text.trim_end_matches(|symbol: char| symbol.is_ascii_alphabetic());
    let unit = text.strip_prefix(digits).unwrap_or_default();
    let count: u64 = digits.parse().map_err(|_not_a_number| wrong())?;
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    count
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    // MSG-09
    #[test]
    fn places_are_read_in_all_their_forms() {
        assert_eq!("earliest".parse(), Ok(From(Start::Earliest)));
        assert_eq!("1000".parse(), Ok(From(Start::Sequence(1000))));
        let time = 1_517_443_200_000_000;
        assert_eq!("2018-02-01T00:00:00Z".parse(), Ok(From(Start::Time(time))));
        assert_eq!("2018-02-01T01:00:00+01:00".parse(), Ok(To::Time(time)));
        assert!(
            "yesterday"
                .parse::<From>()
                .unwrap_err()
                .contains("earliest")
        );
        assert!("0".parse::<To>().is_err());
        assert!("1960-01-01T00:00:00Z".parse::<To>().is_err());
    }

    // BRK-08
    #[test]
    fn moments_are_read_with_their_offset() {
        assert_eq!(moment("2018-02-01T01:00:00+01:00"), Ok(1_517_443_200_000));
        assert!(moment("tomorrow").is_err());
        assert!(moment("1969-12-31T23:59:59Z").is_err());
    }

    #[test]
    fn spans_are_read_with_their_units() {
        assert_eq!(span("90"), Ok(Duration::from_secs(90)));
        assert_eq!(span("1h"), Ok(Duration::from_secs(3_600)));
        assert!(span("1y").is_err());
        assert!(span("").is_err());
        assert!(span("99999999999999999999d").is_err());
    }
}
