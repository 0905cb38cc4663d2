//! Data about persons: e-mail addresses, bank accounts, payment cards, telephone numbers, national
//! identity numbers.
//!
//! Numbers count only with what tells them from any other number: check digits that are right, a
//! country's length, an issuer's prefix, fixed punctuation. National numbers without any of these
//! would be found in every list of measurements, and are left out.

use std::ops::Range;

use super::entropy::{Class, class, runs};
use super::finding::Kind;

/// Characters of which bank accounts, cards and national numbers are written.
const NUMBER_BYTES: Class = class(&[(b'0', b'9'), (b'A', b'Z'), (b' ', b' '), (b'-', b'-')]);
/// Fewest of them: a US social security number.
const NUMBER_LEN_MIN: usize = 11;
/// Fewest digits: those of an Italian fiscal code.
const DIGITS_MIN: usize = 7;

/// Shows all that is found.
pub(super) fn find(text: &[u8], mut visit: impl FnMut(Kind, Range<usize>)) {
    signs(text, b'@', |at| {
        if let Some(range) = email(text, at) {
            visit(Kind::Email, range);
        }
    });
    signs(text, b'+', |at| {
        if let Some(range) = phone(text, at) {
            visit(Kind::Phone, range);
        }
    });
    runs(text, NUMBER_LEN_MIN, &NUMBER_BYTES, |run| {
        numbers(text, run, &mut visit)
    });
}

fn signs(text: &[u8], sign: u8, mut visit: impl FnMut(usize)) {
    let mut from = 0;
    // `contains` is the search that the compiler vectorizes.
    while let Some(rest) = text.get(from..).filter(|rest| rest.contains(&sign)) {
        let Some(position) = rest.iter().position(|byte| *byte == sign) else {
            return;
        };
        visit(from + position);
        from += position + 1;
    }
}

fn email(text: &[u8], at: usize) -> Option<Range<usize>> {
    let of_local = |byte: &u8| byte.is_ascii_alphanumeric() || b"._%+-".contains(byte);
    let of_domain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-".contains(byte);
    let before = text.get(at.saturating_sub(64)..at)?;
    let local = before
        .iter()
        .rev()
        .take_while(|byte| of_local(byte))
        .count();
    let after = text.get(at + 1..)?;
    let after = after.get(..after.len().min(254))?;
    let mut domain = after.iter().take_while(|byte| of_domain(byte)).count();
    while domain > 0 && b".-".contains(after.get(domain - 1)?) {
        domain -= 1;
    }
    let host = after.get(..domain)?;
    let dot = host.iter().rposition(|byte| *byte == b'.')?;
    let top = host.get(dot + 1..)?;
    let fits = local > 0 && dot > 0 && top.len() >= 2 && top.iter().all(u8::is_ascii_alphabetic);
    fits.then(|| at - local..at + 1 + domain)
}

/// `+`, 8 to 15 digits, single separators between.
fn phone(text: &[u8], at: usize) -> Option<Range<usize>> {
    let before = at.checked_sub(1).and_then(|before| text.get(before));
    if before.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte)) {
        return None;
    }
    let rest = text.get(at + 1..)?;
    let (mut digits, mut end, mut strange) = (0, 0, 0);
    for (index, byte) in rest.iter().enumerate().take(26) {
        match byte {
            b'0' if digits == 0 => return None,
            b'0'..=b'9' => {
                digits += 1;
                end = index + 1;
                strange = 0;
            }
            b' ' | b'-' | b'.' | b'(' | b')' if strange < 2 => strange += 1,
            _ => break,
        }
    }
    let after = rest.get(end);
    let fits = (8..=15).contains(&digits) && !after.is_some_and(u8::is_ascii_alphanumeric);
    fits.then(|| at..at + 1 + end)
}

fn numbers(text: &[u8], run: Range<usize>, visit: &mut impl FnMut(Kind, Range<usize>)) {
    let digit = |byte: &&u8| byte.is_ascii_digit();
    if text
        .get(run.clone())
        .unwrap_or_default()
        .iter()
        .filter(digit)
        .count()
        < DIGITS_MIN
    {
        return;
    }
    let mut at = run.start;
    while at < run.end {
        if !starts_word(text, at) || text.get(at).is_none_or(|byte| b" -".contains(byte)) {
            at += 1;
            continue;
        }
        let found = if text.get(at).is_some_and(u8::is_ascii_digit) {
            social_security(text, at)
                .map(|end| (Kind::NationalId, end))
                .or_else(|| digits(text, at, run.end))
        } else {
            iban(text, at, run.end)
                .map(|end| (Kind::Iban, end))
                .or_else(|| fiscal_code(text, at).map(|end| (Kind::NationalId, end)))
        };
        match found {
            Some((kind, end)) => {
                visit(kind, at..end);
                at = end;
            }
            None => at += 1,
        }
    }
}

fn is_word(byte: Option<&u8>) -> bool {
    byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

fn starts_word(text: &[u8], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|before| text.get(before));
    // A fraction or a sign makes it a measurement.
    !is_word(before) && before != Some(&b'.')
}

/// Lengths of the countries that have joined, by the registry of SWIFT.
const IBAN_LENGTHS: &[(&str, usize)] = &[
    ("AD", 24),
    ("AE", 23),
    ("AL", 28),
    ("AT", 20),
    ("AZ", 28),
    ("BA", 20),
    ("BE", 16),
    ("BG", 22),
    ("BH", 22),
    ("BR", 29),
    ("BY", 28),
    ("CH", 21),
    ("CR", 22),
    ("CY", 28),
    ("CZ", 24),
    ("DE", 22),
    ("DK", 18),
    ("DO", 28),
    ("EE", 20),
    ("EG", 29),
    ("ES", 24),
    ("FI", 18),
    ("FO", 18),
    ("FR", 27),
    ("GB", 22),
    ("GE", 22),
    ("GI", 23),
    ("GL", 18),
    ("GR", 27),
    ("GT", 28),
    ("HR", 21),
    ("HU", 28),
    ("IE", 22),
    ("IL", 23),
    ("IQ", 23),
    ("IS", 26),
    ("IT", 27),
    ("JO", 30),
    ("KW", 30),
    ("KZ", 20),
    ("LB", 28),
    ("LC", 32),
    ("LI", 21),
    ("LT", 20),
    ("LU", 20),
    ("LV", 21),
    ("MC", 27),
    ("MD", 24),
    ("ME", 22),
    ("MK", 19),
    ("MR", 27),
    ("MT", 31),
    ("MU", 30),
    ("NL", 18),
    ("NO", 15),
    ("PK", 24),
    ("PL", 28),
    ("PS", 29),
    ("PT", 25),
    ("QA", 29),
    ("RO", 24),
    ("RS", 22),
    ("SA", 24),
    ("SC", 31),
    ("SE", 24),
    ("SI", 19),
    ("SK", 24),
    ("SM", 27),
    ("ST", 25),
    ("SV", 28),
    ("TL", 23),
    ("TN", 24),
    ("TR", 26),
    ("UA", 29),
    ("VA", 22),
    ("VG", 24),
    ("XK", 20),
];

fn iban(text: &[u8], at: usize, run_end: usize) -> Option<usize> {
    let country = text.get(at..at + 2)?;
    let known = IBAN_LENGTHS
        .iter()
        .find(|(code, _)| code.as_bytes() == country);
    let len = known?.1;
    let mut plain = [0_u8; 34];
    let (mut taken, mut end) = (0, at);
    for (index, byte) in text.get(at..run_end)?.iter().enumerate() {
        match byte {
            b'A'..=b'Z' | b'0'..=b'9' if taken < len => {
                *plain.get_mut(taken)? = *byte;
                taken += 1;
                end = at + index + 1;
            }
            b' ' if taken < len && text.get(at + index + 1) != Some(&b' ') => {}
            _ => break,
        }
    }
    let plain = plain
        .get(..len)
        .filter(|_| taken == len && !is_word(text.get(end)))?;
    let digits = plain.get(2..4)?.iter().all(u8::is_ascii_digit);
    let moved = plain.get(4..)?.iter().chain(plain.get(..4)?);
    let rest = moved.fold(0_u64, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u64::from(byte - b'0')) % 97,
        letter => (rest * 100 + u64::from(letter - b'A' + 10)) % 97,
    });
    (digits && rest == 1).then_some(end)
}

/// United States: `AAA-GG-SSSS`, none of them zero, no area 666 or from 900 on.
fn social_security(text: &[u8], at: usize) -> Option<usize> {
    let number = text.get(at..at + 11)?;
    let fits = number.iter().enumerate().all(|(index, byte)| match index {
        3 | 6 => *byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    let before = at.checked_sub(1).and_then(|before| text.get(before));
    let after = text.get(at + 11);
    let alone = before != Some(&b'-') && !is_word(after) && after != Some(&b'-');
    let valid = !matches!(number.get(..3)?, b"000" | b"666")
        && number.first() != Some(&b'9')
        && number.get(4..6)? != b"00"
        && number.get(7..)? != b"0000";
    (fits && alone && valid).then_some(at + 11)
}

/// Italy: six letters, two digits, a letter, two digits, a letter, three digits, a check letter.
fn fiscal_code(text: &[u8], at: usize) -> Option<usize> {
    const ODD: [u32; 26] = [
        1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24,
        23,
    ];
    let code = text.get(at..at + 16)?;
    let shape = b"AAAAAA00A00A000A";
    let fits = shape.iter().zip(code).all(|(wanted, found)| match wanted {
        b'A' => found.is_ascii_uppercase(),
        _ => found.is_ascii_digit(),
    });
    if !fits || is_word(text.get(at + 16)) {
        return None;
    }
    let value = |byte: u8| {
        u32::from(if byte.is_ascii_digit() {
            byte - b'0'
        } else {
            byte - b'A'
        })
    };
    let sum: u32 = code
        .iter()
        .take(15)
        .enumerate()
        .map(|(index, byte)| {
            let value = value(*byte);
            if index % 2 == 0 {
                ODD.get(value as usize).copied().unwrap_or_default()
            } else {
                value
            }
        })
        .sum();
    (sum % 26 == value(*code.last()?)).then_some(at + 16)
}

/// A card, or a French number: digits with single separators.
fn digits(text: &[u8], at: usize, run_end: usize) -> Option<(Kind, usize)> {
    let mut digits = [0_u8; 19];
    let (mut len, mut end, mut separated) = (0, at, false);
    let mut found = None;
    for (index, byte) in text.get(at..run_end)?.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                *digits.get_mut(len)? = byte - b'0';
                len += 1;
                end = at + index + 1;
                separated = false;
            }
            b' ' | b'-' if !separated && len > 0 => separated = true,
            _ => break,
        }
        let after = text.get(end);
        let whole = !is_word(after) && (after != Some(&b'.') || !is_word(text.get(end + 1)));
        let number = digits
            .get(..len)
            .filter(|_| !separated && whole)
            .unwrap_or_default();
        if is_card(number) {
            found = Some((Kind::Card, end));
        } else if is_french(number) {
            found = Some((Kind::NationalId, end));
        }
        if len == digits.len() {
            break;
        }
    }
    found
}

fn is_card(number: &[u8]) -> bool {
    let prefix = |len: usize| {
        let digits = number.iter().take(len);
        digits.fold(0_u32, |sum, digit| sum * 10 + u32::from(*digit))
    };
    let issued = match number.len() {
        13 | 19 => prefix(1) == 4,
        14 => matches!(prefix(3), 300..=305 | 360..=369 | 380..=399),
        15 => matches!(prefix(2), 34 | 37),
        16 => {
            prefix(1) == 4
                || matches!(prefix(2), 51..=55 | 65)
                || matches!(prefix(4), 2221..=2720 | 3528..=3589 | 6011)
        }
        _ => false,
    };
    issued && luhn(number)
}

fn luhn(number: &[u8]) -> bool {
    let doubled = |digit: u8| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let digits = number.iter().rev().enumerate();
    let sum: u32 = digits
        .map(|(index, digit)| {
            u32::from(if index % 2 == 1 {
                doubled(*digit)
            } else {
                *digit
            })
        })
        .sum();
    sum.is_multiple_of(10)
}

/// France: sex, year, month, place and order, and 97 less the rest of it by 97.
fn is_french(number: &[u8]) -> bool {
    let (Some(sex), Some(month), 15) = (number.first(), number.get(3..5), number.len()) else {
        return false;
    };
    let month = month
        .iter()
        .fold(0, |sum, digit| sum * 10 + u32::from(*digit));
    let value = number
        .iter()
        .fold(0_u64, |sum, digit| sum * 10 + u64::from(*digit));
    matches!(sex, 1 | 2)
        && matches!(month, 1..=12 | 20..=42 | 50..=99)
        && 97 - (value / 100) % 97 == value % 100
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(Kind, &str)> {
        let mut found = Vec::new();
        find(text.as_bytes(), |kind, range| {
            found.push((kind, text.get(range).expect("on boundaries")))
        });
        found
    }

    // EDGE-17
    #[test]
    fn what_concerns_persons_is_found() {
        for (text, kind, expected) in [
            (
                "mail ann.lee+x@mail.example.org.",
                Kind::Email,
                "ann.lee+x@mail.example.org",
            ),
            (r#"{"to":"a@b.de"}"#, Kind::Email, "a@b.de"),
            (
                "IBAN DE89 3704 0044 0532 0130 00 please",
                Kind::Iban,
                "DE89 3704 0044 0532 0130 00",
            ),
            (
                "GB29NWBK60161331926819",
                Kind::Iban,
                "GB29NWBK60161331926819",
            ),
            ("NO9386011117947", Kind::Iban, "NO9386011117947"),
            (
                "card 4111 1111 1111 1111",
                Kind::Card,
                "4111 1111 1111 1111",
            ),
            (
                r#"{"card":4111111111111111}"#,
                Kind::Card,
                "4111111111111111",
            ),
            ("378282246310005,x", Kind::Card, "378282246310005"),
            ("5555-5555-5555-4444 12", Kind::Card, "5555-5555-5555-4444"),
            (
                "call +49 (170) 123-4567 now",
                Kind::Phone,
                "+49 (170) 123-4567",
            ),
            ("+14155552671", Kind::Phone, "+14155552671"),
            ("ssn 123-45-6789.", Kind::NationalId, "123-45-6789"),
            ("RSSMRA85T10A562S", Kind::NationalId, "RSSMRA85T10A562S"),
            ("NIR 255081416802538", Kind::NationalId, "255081416802538"),
        ] {
            assert_eq!(found(text), [(kind, expected)], "{text}");
        }
    }

    // EDGE-17
    #[test]
    fn other_numbers_and_signs_are_not() {
        for text in [
            "DE88 3704 0044 0532 0130 00",
            "4111 1111 1111 1112",
            r#"{"time":1517363399650,"lat":38.8233333,"us":1517363399650001}"#,
            "0.4111111111111111",
            "x4111111111111111",
            "+01:00 1e+10 a+12345678901",
            "000-12-3456 666-12-3456 912-12-3456 123-45-67890",
            "a@b @here x@ me@localhost",
            "2018-01-31 01:49:59 - 2018-02-01",
            "RSSMRA85T10A562T",
            "0191f3a2-7c44-7e8e-9a1b-2f6f3d0c1a55",
        ] {
            assert_eq!(found(text), [], "{text}");
        }
    }
}
