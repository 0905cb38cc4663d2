//! How random a text looks, and runs of characters long enough to be asked.

use std::ops::Range;

/// Which bytes belong to a run.
pub(super) type Class = [bool; 256];

/// The class of the bytes in `ranges`, both ends included.
pub(super) const fn class(ranges: &[(u8, u8)]) -> Class {
    let mut class = [false; 256];
    let mut index = 0;
    while index < ranges.len() {
        let (mut byte, last) = ranges[index];
        loop {
            class[byte as usize] = true;
            if byte == last {
                break;
            }
            byte += 1;
        }
        index += 1;
    }
    class
}

/// Shows every longest run of at least `len_min` bytes of a class. Looks at the end of each place
/// where a run could be first, so that most of a text without runs is never looked at.
pub(super) fn runs(
    text: &[u8],
    len_min: usize,
    class: &Class,
    mut visit: impl FnMut(Range<usize>),
) {
    let mut at = 0;
    while let Some(window) = text.get(at..at + len_min) {
        match window.iter().rposition(|byte| !class[usize::from(*byte)]) {
            Some(stranger) => at += stranger + 1,
            None => {
                let rest = text.get(at + len_min..).unwrap_or_default();
                let more = rest.iter().position(|byte| !class[usize::from(*byte)]);
                let end = at + len_min + more.unwrap_or(rest.len());
                visit(at..end);
                at = end + 1;
            }
        }
    }
}

/// Shannon's entropy of the bytes as they are distributed in `text`, in hundredths of a bit a byte.
pub(super) fn centibits(text: &[u8]) -> u64 {
    let mut counts = [0_u16; 256];
    let text = text.get(..LEN_MAX).unwrap_or(text);
    for byte in text {
        counts[usize::from(*byte)] += 1;
    }
    #[expect(clippy::cast_precision_loss, reason = "at most 4096")]
    let len = text.len() as f64;
    let bits: f64 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / len;
            -share * share.log2()
        })
        .sum();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to 800"
    )]
    let centibits = (bits * 100.0).round() as u64;
    centibits
}

/// What is longer is judged by its beginning.
const LEN_MAX: usize = 4096;

/// Characters of keys and tokens.
const KEY_BYTES: Class = class(&[
    (b'A', b'Z'),
    (b'a', b'z'),
    (b'0', b'9'),
    (b'+', b'+'),
    (b'/', b'/'),
    (b'_', b'_'),
    (b'-', b'-'),
]);
/// Shorter ones do not tell random text from words; longer ones are data rather than keys.
const KEY_LEN: Range<usize> = 20..129;
/// Paths have more.
const SLASHES_MAX: usize = 2;

/// Shows every string that looks like a random key: it has digits and letters of both cases, and at
/// least `centibits_min` of entropy. Digests and UUIDs in hexadecimal are below 400.
pub(super) fn random_strings(text: &[u8], centibits_min: u64, mut visit: impl FnMut(Range<usize>)) {
    runs(text, KEY_LEN.start, &KEY_BYTES, |range| {
        let run = text.get(range.clone()).unwrap_or_default();
        if run.len() < KEY_LEN.end && is_mixed(run) && centibits(run) >= centibits_min {
            visit(range);
        }
    });
}

fn is_mixed(run: &[u8]) -> bool {
    let count = |of: fn(&u8) -> bool| run.iter().filter(|byte| of(byte)).count();
    count(u8::is_ascii_digit) >= 2
        && count(u8::is_ascii_uppercase) >= 2
        && count(u8::is_ascii_lowercase) >= 2
        && count(|byte| *byte == b'/') <= SLASHES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(text: &str) -> Vec<&str> {
        let mut found = Vec::new();
        random_strings(text.as_bytes(), 450, |range| {
            found.push(text.get(range).expect("on boundaries"))
        });
        found
    }

    // EDGE-17
    #[test]
    fn random_keys_are_told_from_words_ids_and_digests() {
        let key = "wJalrXUtnFEMIK7MDENGbPxRfiCYq8Zt2Lh0sV5u";
        assert_eq!(random(&format!("the key is {key}.")), [key]);
        for clean in [
            "internationalizationAndLocalization",
            "0191f3a2-7c44-7e8e-9a1b-2f6f3d0c1a55",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "/usr/share/Documents/Projects2/Reports2024/Final",
            "AAAAAAAAAAAAAAAAAAaaaaaaaaaaaaaa00000000000",
            "short1A",
        ] {
            assert_eq!(random(clean), Vec::<&str>::new(), "{clean}");
        }
    }

    #[test]
    fn runs_are_found_wherever_they_stand() {
        const LETTERS: Class = class(&[(b'a', b'z')]);
        for text in [
            "abc",
            "..abc",
            "abc..",
            "a.abcd.ab.abc",
            "",
            "ab",
            "ab.ab.abcabcabc",
        ] {
            let mut found = Vec::new();
            runs(text.as_bytes(), 3, &LETTERS, |range| {
                found.push(text.get(range).expect("on boundaries").to_owned())
            });
            let expected: Vec<&str> = text.split('.').filter(|run| run.len() >= 3).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn entropy_is_that_of_the_distribution() {
        assert_eq!(centibits(b"aaaa"), 0);
        assert_eq!(centibits(b"abab"), 100);
        assert_eq!(centibits(b"abcdefgh"), 300);
        assert_eq!(centibits(b""), 0);
    }
}
