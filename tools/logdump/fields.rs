//! Protobuf's wire format without a descriptor: what can be told of a message nobody knows.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value as Json, json};

use crate::table::{hex, printable};

/// Messages inside messages are looked into so far.
const DEPTH_MAX: usize = 16;

/// Wire types by their numbers.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const DELIMITED: u64 = 2;
const GROUP: u64 = 3;
const GROUP_END: u64 = 4;
const FIXED32: u64 = 5;

/// The value of the varint at the start of `bytes`, and how many bytes it takes.
pub(crate) fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (at, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * u32::try_from(at).ok()?)?;
        if byte < 0x80 {
            return Some((value, at + 1));
        }
    }
    None
}

/// A little-endian number of up to eight bytes.
pub(crate) fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    if len > 8 {
        return None;
    }
    let bytes = bytes.get(at..at.checked_add(len)?)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u64::from(byte)),
    )
}

/// Key, value bytes and whole length of the field at the start of `bytes`; groups are none.
pub(crate) fn field(bytes: &[u8]) -> Option<(u64, &[u8], usize)> {
    let (key, at) = varint(bytes)?;
    let rest = &bytes[at..];
    let (skip, len) = match key & 7 {
        VARINT => (0, varint(rest)?.1),
        FIXED64 => (0, 8),
        DELIMITED => {
            let (len, prefix) = varint(rest)?;
            (prefix, usize::try_from(len).ok()?)
        }
        FIXED32 => (0, 4),
        _ => return None,
    };
    let end = skip.checked_add(len)?;
    Some((key, rest.get(skip..end)?, at.checked_add(end)?))
}

/// A field as its bytes alone tell it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Field<'a> {
    number: u64,
    wire: &'static str,
    value: Value<'a>,
}

#[derive(Clone, PartialEq, Debug)]
enum Value<'a> {
    Number(u64),
    Text(&'a str),
    Bytes(&'a [u8]),
    Fields(Vec<Field<'a>>),
}

/// The fields of a message, up to the first byte that begins none.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Tree<'a> {
    fields: Vec<Field<'a>>,
    /// Where no field begins that ends within the message.
    pub(crate) broken_at: Option<usize>,
}

impl<'a> Tree<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        let mut at = 0;
        let fields = fields(bytes, &mut at, None, 0);
        Self {
            fields,
            broken_at: (at < bytes.len()).then_some(at),
        }
    }

    /// Whether the bytes look like a message: noise hardly ever does.
    pub(crate) fn is_whole(&self) -> bool {
        self.broken_at.is_none() && !self.fields.is_empty()
    }

    /// Only the fields that `is_known` does not know.
    pub(crate) fn without(mut self, is_known: impl Fn(u32) -> bool) -> Self {
        self.fields
            .retain(|field| !u32::try_from(field.number).is_ok_and(&is_known));
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    pub(crate) fn to_json(&self) -> Json {
        self.fields.iter().map(Field::to_json).collect()
    }

    /// On one line: `1:5 2:"abc" 3:{1:7}`.
    pub(crate) fn to_line(&self) -> String {
        let mut text = String::new();
        line(&self.fields, &mut text);
        text
    }

    /// One field a line.
    pub(crate) fn to_lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        indented(&self.fields, 0, &mut lines);
        lines
    }
}

/// Reads fields from `at` on until the end of the bytes, the end of `group`, or what is no field;
/// `at` then stands there.
fn fields<'a>(bytes: &'a [u8], at: &mut usize, group: Option<u64>, depth: usize) -> Vec<Field<'a>> {
    let mut found = Vec::new();
    while let Some(rest) = bytes.get(*at..).filter(|rest| !rest.is_empty()) {
        let Some((key, key_len)) = varint(rest).filter(|(key, _)| key >> 3 != 0) else {
            break;
        };
        let number = key >> 3;
        if key & 7 == GROUP_END {
            if group == Some(number) {
                break;
            }
            return found;
        }
        let (wire, value, len) = if key & 7 == GROUP && depth < DEPTH_MAX {
            let mut end = *at + key_len;
            let inner = fields(bytes, &mut end, Some(number), depth + 1);
            let closing = varint(bytes.get(end..).unwrap_or_default());
            let Some((_, closing_len)) =
                closing.filter(|(closing, _)| *closing == number << 3 | GROUP_END)
            else {
                break;
            };
            ("group", Value::Fields(inner), end + closing_len - *at)
        } else {
            let Some((_, value, len)) = field(rest) else {
                break;
            };
            let (wire, value) = match key & 7 {
                VARINT => ("varint", varint(value).map_or(0, |(value, _)| value)),
                FIXED64 => ("fixed64", self::number(value, 0, 8).unwrap_or(0)),
                FIXED32 => ("fixed32", self::number(value, 0, 4).unwrap_or(0)),
                _ => {
                    found.push(Field {
                        number,
                        wire: "bytes",
                        value: delimited(value, depth),
                    });
                    *at += len;
                    continue;
                }
            };
            (wire, Value::Number(value), len)
        };
        found.push(Field {
            number,
            wire,
            value,
        });
        *at += len;
    }
    found
}

/// Bytes may be text, a message or bytes; the wire does not say. Text that could be a message
/// begins with a control character, which text hardly ever does.
fn delimited(bytes: &[u8], depth: usize) -> Value<'_> {
    let text = std::str::from_utf8(bytes).ok();
    if let Some(text) = text
        && !text.chars().any(char::is_control)
    {
        return Value::Text(text);
    }
    if depth < DEPTH_MAX {
        let mut at = 0;
        let inner = fields(bytes, &mut at, None, depth + 1);
        if at == bytes.len() {
            return Value::Fields(inner);
        }
    }
    text.map_or(Value::Bytes(bytes), Value::Text)
}

impl Field<'_> {
    fn to_json(&self) -> Json {
        let (number, wire) = (self.number, self.wire);
        match &self.value {
            Value::Number(value) => json!({ "number": number, "wire": wire, "value": value }),
            Value::Text(text) => json!({ "number": number, "wire": wire, "value": text }),
            Value::Bytes(bytes) => {
                json!({ "number": number, "wire": wire, "base64": BASE64.encode(bytes) })
            }
            Value::Fields(fields) => {
                let fields: Json = fields.iter().map(Self::to_json).collect();
                json!({ "number": number, "wire": wire, "fields": fields })
            }
        }
    }
}

// Writing to a string cannot fail.
fn line(fields: &[Field<'_>], text: &mut String) {
    for (at, field) in fields.iter().enumerate() {
        let space = if at == 0 { "" } else { " " };
        let number = field.number;
        let _ok = match &field.value {
            Value::Number(value) => write!(text, "{space}{number}:{value}"),
            Value::Text(value) => write!(text, "{space}{number}:\"{}\"", printable(value)),
            Value::Bytes(value) => write!(text, "{space}{number}:0x{}", hex(value)),
            Value::Fields(inner) => {
                text.push_str(space);
                let _ok = write!(text, "{number}:{{");
                line(inner, text);
                text.push('}');
                Ok(())
            }
        };
    }
}

fn indented(fields: &[Field<'_>], depth: usize, lines: &mut Vec<String>) {
    for field in fields {
        let head = format!("{}{} {}", "  ".repeat(depth), field.number, field.wire);
        match &field.value {
            Value::Number(value) => lines.push(format!("{head} {value}")),
            Value::Text(value) => lines.push(format!("{head} \"{}\"", printable(value))),
            Value::Bytes(value) => lines.push(format!("{head} 0x{}", hex(value))),
            Value::Fields(inner) => {
                lines.push(head);
                indented(inner, depth + 1, lines);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_told_by_their_bytes() {
        let bytes = b"\x08\x96\x01\x12\x03abc\x1a\x02\x08\x07\x25\x01\0\0\0\x2a\x02\xff\xfe\x33\x08\x01\x34";
        let tree = Tree::of(bytes);
        assert!(tree.is_whole(), "{tree:?}");
        assert_eq!(
            tree.to_line(),
            "1:150 2:\"abc\" 3:{1:7} 4:1 5:0xfffe 6:{1:1}"
        );
        assert_eq!(tree.to_json()[2]["fields"][0]["value"], 7);
        assert_eq!(tree.to_lines()[3], "  1 varint 7");
    }

    #[test]
    fn what_can_be_read_before_the_break_is_shown() {
        let tree = Tree::of(b"\x08\x05\x12\x09abc");
        assert_eq!((tree.to_line().as_str(), tree.broken_at), ("1:5", Some(2)));
        // A group that never ends, one that never began, field 0.
        for broken in [&b"\x0b\x08\x01"[..], b"\x0c", b"\x00\x00"] {
            assert_eq!(Tree::of(broken).broken_at, Some(0), "{broken:?}");
        }
    }

    // LOG-20: no bytes panic or take long.
    #[test]
    fn deep_nesting_ends() {
        let mut bytes = vec![0x08, 0x01];
        for _ in 0..60 {
            let mut outer = vec![0x0a, u8::try_from(bytes.len()).unwrap()];
            outer.append(&mut bytes);
            bytes = outer;
        }
        assert!(Tree::of(&bytes).is_whole());
        let groups = [0x0b; 100_000];
        assert_eq!(Tree::of(&groups).broken_at, Some(0));
    }
}
