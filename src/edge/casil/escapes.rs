//! What a text says once its backslashes are resolved.
//!
//! A secret in a JSON string may be written `AK\u0049A..`, and JSON in a JSON string has every quote
//! escaped. Works on any text, well-formed or not: what is no escape stays as it is.

/// How deep escaped text in escaped text is looked into.
pub(super) const DEPTH_MAX: usize = 3;

/// The text with one level of escapes resolved; `None` if there are none.
pub(super) fn resolved(text: &[u8]) -> Option<Vec<u8>> {
    let mut next = text.iter().position(|byte| *byte == b'\\')?;
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    let mut any = false;
    loop {
        let (plain, escaped) = rest.split_at(next);
        out.extend_from_slice(plain);
        let taken = one(escaped, &mut out);
        any |= taken > 1;
        rest = escaped.get(taken..).unwrap_or_default();
        match rest.iter().position(|byte| *byte == b'\\') {
            Some(position) => next = position,
            None => {
                out.extend_from_slice(rest);
                return any.then_some(out);
            }
        }
    }
}

/// Resolves the escape at the start of `text`; how many bytes it takes.
fn one(text: &[u8], out: &mut Vec<u8>) -> usize {
    let plain = match text.get(1) {
        Some(b'n') => b'\n',
        Some(b't') => b'\t',
        Some(b'r') => b'\r',
        Some(b'b') => 8,
        Some(b'f') => 12,
        Some(same @ (b'"' | b'\\' | b'/' | b'\'')) => *same,
        Some(b'u') => return unicode(text, out),
        _ => {
            out.push(b'\\');
            return 1;
        }
    };
    out.push(plain);
    2
}

fn unicode(text: &[u8], out: &mut Vec<u8>) -> usize {
    let Some(first) = unit(text) else {
        out.push(b'\\');
        return 1;
    };
    let second = text.get(6..).and_then(unit);
    let pair = second.and_then(|second| char::decode_utf16([first, second]).next()?.ok());
    let (symbol, taken) = match (char::from_u32(u32::from(first)), pair) {
        (Some(symbol), _) => (symbol, 6),
        (None, Some(symbol)) => (symbol, 12),
        (None, None) => (char::REPLACEMENT_CHARACTER, 6),
    };
    out.extend_from_slice(symbol.encode_utf8(&mut [0; 4]).as_bytes());
    taken
}

/// The `XXXX` of a `\uXXXX` at the start of `text`.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0_u16, |unit, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(unit * 16 + u16::try_from(digit).ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(escaped: &str) -> Option<String> {
        resolved(escaped.as_bytes()).map(|text| String::from_utf8(text).expect("text"))
    }

    // EDGE-17
    #[test]
    fn escapes_of_json_are_resolved_and_others_kept() {
        for (escaped, expected) in [
            (r"AK\u0049A\/x", Some("AKIA/x")),
            (r#"{\"a\":\"\n\"}"#, Some("{\"a\":\"\n\"}")),
            (r"\ud83d\ude00!", Some("\u{1f600}!")),
            (r"\ud83d!", Some("\u{fffd}!")),
            (r"C:\data \u00", None),
            (r"\", None),
            ("plain", None),
            (r"a\\nb", Some(r"a\nb")),
        ] {
            assert_eq!(text(escaped).as_deref(), expected, "{escaped}");
        }
    }
}
