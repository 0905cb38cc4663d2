//! Times as they come in: RFC 3339, and nothing that merely looks like it.

use jiff::Timestamp;

/// Longest text that is looked at.
const BYTES_MAX: usize = 48;

/// A time in RFC 3339 as microseconds since the Unix epoch; further digits are cut. `naive` takes
/// one without an offset for UTC.
#[must_use]
pub fn read_micros(text: &str, naive: bool) -> Option<i64> {
    if text.len() > BYTES_MAX {
        return None;
    }
    let (clock, rest) = text.split_at_checked(19)?;
    let fits = |text: &str, pattern: &str| {
        text.len() == pattern.len()
            && text
                .bytes()
                .zip(pattern.bytes())
                .all(|(byte, wanted)| match wanted {
                    b'0' => byte.is_ascii_digit(),
                    b'T' => matches!(byte, b'T' | b't'),
                    _ => byte == wanted,
                })
    };
    let after = match rest.strip_prefix('.') {
        Some(fraction) => {
            let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
            fraction.get(digits..).filter(|_| digits > 0)?
        }
        None => rest,
    };
    let is_offset = matches!(after, "Z" | "z") || fits(after, "+00:00") || fits(after, "-00:00");
    let is_naive = naive && after.is_empty();
    if !fits(clock, "0000-00-00T00:00:00") || !(is_offset || is_naive) {
        return None;
    }
    // The calendar's parser takes no more digits than nanoseconds have.
    let fraction: String = rest
        .strip_prefix('.')
        .map(|fraction| fraction.bytes().take_while(u8::is_ascii_digit).take(9))
        .map(|digits| std::iter::once('.').chain(digits.map(char::from)).collect())
        .unwrap_or_default();
    let offset = if is_naive { "Z" } else { after };
    let time: Timestamp = format!("{clock}{fraction}{offset}").parse().ok()?;
    Some(time.as_microsecond())
}
