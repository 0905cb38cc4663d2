//! Dates as RFC 3339 in UTC, written without looking at calendars or locales: every record shows
//! two of them. Knows years 1970 to 9998; the caller has another way for the rest.

/// `2018-01-31T01:49:59.650001Z`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Date {
    text: [u8; Self::LEN_MAX],
    len: usize,
}

/// First second of the year 9999: the last years are left to whoever knows where time ends.
const SECONDS_END: u64 = 253_370_764_800;
const DAY_SECONDS: u64 = 86_400;

impl Date {
    const LEN_MAX: usize = 27;

    /// `seconds` since the Unix epoch and a fraction of `digits` digits, at most six; `None` from
    /// the year 9999 on.
    pub(super) fn new(seconds: u64, fraction: u32, digits: usize) -> Option<Self> {
        if seconds >= SECONDS_END {
            return None;
        }
        let (year, month, day) = civil(seconds / DAY_SECONDS);
        let second = seconds % DAY_SECONDS;
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        put(&mut text[0..4], year);
        put(&mut text[5..7], month);
        put(&mut text[8..10], day);
        put(&mut text[11..13], second / 3_600);
        put(&mut text[14..16], second / 60 % 60);
        put(&mut text[17..19], second % 60);
        put(&mut text[20..20 + digits], u64::from(fraction));
        text[20 + digits] = b'Z';
        Some(Self {
            text,
            len: 21 + digits,
        })
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.len]).unwrap_or_default()
    }
}

/// Writes `value` with leading zeros; what does not fit is cut off in front.
fn put(field: &mut [u8], mut value: u64) {
    for digit in field.iter_mut().rev() {
        *digit = b"0123456789"[usize::try_from(value % 10).unwrap_or_default()];
        value /= 10;
    }
}

/// Year, month and day of a day since the Unix epoch, by Howard Hinnant's `civil_from_days`:
/// years begin in March there, so that the leap day is the last of its year.
const fn civil(days: u64) -> (u64, u64, u64) {
    const ERA_DAYS: u64 = 146_097;
    // Days from 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let era = days / ERA_DAYS;
    let of_era = days % ERA_DAYS;
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / (ERA_DAYS - 1)) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn agrees(micros: u64) {
        let fraction = u32::try_from(micros % 1_000_000).unwrap();
        let date = Date::new(micros / 1_000_000, fraction, 6).unwrap();
        let expected = Timestamp::from_microsecond(micros.try_into().unwrap()).unwrap();
        assert_eq!(date.as_str(), format!("{expected:.6}"));
        let date = Date::new(micros / 1_000_000, fraction / 1_000, 3).unwrap();
        assert_eq!(date.as_str(), format!("{expected:.3}"));
    }

    // MSG-09
    proptest! {
        #[test]
        fn dates_are_those_of_the_calendar(micros in 0..SECONDS_END * 1_000_000) {
            agrees(micros);
        }
    }

    // MSG-09
    #[test]
    fn every_day_of_four_centuries_has_its_date() {
        for day in 0..146_097 {
            agrees(day * DAY_SECONDS * 1_000_000 + 999_999);
        }
        agrees(SECONDS_END * 1_000_000 - 1);
        assert!(Date::new(SECONDS_END, 0, 6).is_none());
    }
}
