//! Secrets that are known by their name: `password=..`, `"api_key": ".."`.
//!
//! A name alone is no secret, nor is a plain word as its value: the value must look made rather than
//! said.

use std::ops::Range;
use std::sync::LazyLock;

use regex::bytes::Regex;

use super::entropy;
use super::redaction::TOKEN;

/// What the name of a secret ends with, without case and separators.
const NAMES: [&str; 17] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "token",
    "secret",
    "credential",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
    "encryptionkey",
    "signingkey",
    "authkey",
    "accountkey",
    "sharedkey",
    "masterkey",
];

/// How such names end in a text; each is then looked at as a whole.
const ENDS: [&str; 28] = [
    "password",
    "Password",
    "PASSWORD",
    "passwd",
    "Passwd",
    "PASSWD",
    "passphrase",
    "Passphrase",
    "PASSPHRASE",
    "pwd",
    "Pwd",
    "PWD",
    "token",
    "Token",
    "TOKEN",
    "secret",
    "Secret",
    "SECRET",
    "credential",
    "Credential",
    "CREDENTIAL",
    "_key",
    "-key",
    "Key",
    "ikey",
    "_KEY",
    "-KEY",
    "IKEY",
];

/// Longest name looked at.
const NAME_BYTES_MAX: usize = 40;
/// A value goes on for as long, at most, before it is judged.
const VALUE_BYTES_MAX: usize = 256;
const VALUE_BYTES_MIN: usize = 8;
/// Between a name and its value there is no more than this.
const REACH: usize = 24 + VALUE_BYTES_MAX;
const CENTIBITS_MIN: u64 = 250;

struct Compiled {
    ends: Regex,
    value: Regex,
}

static COMPILED: LazyLock<Result<Compiled, regex::Error>> = LazyLock::new(|| {
    Ok(Compiled {
        ends: Regex::new(&format!("(?-u){}", ENDS.join("|")))?,
        value: Regex::new(
            r#"^(?-u)["']?\s{0,4}(?:=>|:=|[:=])\s{0,4}[\[(]?\s{0,4}["']?([^\s"'<>,;&(){}\[\]\\\x00-\x1f]{8,256})"#,
        )?,
    })
});

/// Whether they can be looked for at all.
///
/// # Errors
/// A pattern of this file cannot be compiled.
pub(super) fn ready() -> Result<(), &'static regex::Error> {
    COMPILED.as_ref().map(drop)
}

/// Shows every value of a secret's name.
pub(super) fn find(text: &[u8], mut visit: impl FnMut(Range<usize>)) {
    let Ok(compiled) = COMPILED.as_ref() else {
        // `ready` has said so to whoever put the inspection in force.
        visit(0..text.len());
        return;
    };
    let mut at = 0;
    while let Some(end) = compiled.ends.find_at(text, at) {
        at = end.end();
        let window = text.get(at..text.len().min(at + REACH)).unwrap_or_default();
        let Some(value) = compiled.value.captures(window).and_then(|all| all.get(1)) else {
            continue;
        };
        let name = name_before(text, at);
        if is_name(name) && is_value(value.as_bytes()) {
            let range = at + value.start()..at + value.end();
            at = range.end;
            visit(range);
        }
    }
}

fn name_before(text: &[u8], end: usize) -> &[u8] {
    let from = end.saturating_sub(NAME_BYTES_MAX);
    let near = text.get(from..end).unwrap_or_default();
    let of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let start = near
        .iter()
        .rposition(|byte| !of_name(byte))
        .map_or(0, |before| before + 1);
    near.get(start..).unwrap_or_default()
}

/// Whether `value` under `name` is a secret.
pub(super) fn is_secret(name: &str, value: &str) -> bool {
    !name.is_empty() && is_name(name.as_bytes()) && is_value(value.trim().as_bytes())
}

fn is_name(name: &[u8]) -> bool {
    let near = name
        .get(name.len().saturating_sub(NAME_BYTES_MAX)..)
        .unwrap_or(name);
    let mut plain = [0_u8; NAME_BYTES_MAX];
    let mut len = 0;
    for byte in near.iter().filter(|byte| byte.is_ascii_alphanumeric()) {
        plain[len] = byte.to_ascii_lowercase();
        len += 1;
    }
    let plain = plain.get(..len).unwrap_or_default();
    NAMES.iter().any(|known| plain.ends_with(known.as_bytes()))
}

fn is_value(value: &[u8]) -> bool {
    let has = |of: fn(&u8) -> bool| value.iter().any(of);
    value.len() >= VALUE_BYTES_MIN
        && has(u8::is_ascii_alphabetic)
        && has(|byte| {
            byte.is_ascii_digit() || (byte.is_ascii_punctuation() && !b"_-./".contains(byte))
        })
        && !value.contains(&b' ')
        && !is_placeholder(value)
        && !is_date(value)
        && !value.starts_with(b"http://")
        && !value.starts_with(b"https://")
        && entropy::centibits(value) >= CENTIBITS_MIN
}

/// Whether a value stands for one that is elsewhere.
pub(super) fn is_placeholder(value: &[u8]) -> bool {
    let same = |of: u8| value.iter().all(|byte| *byte == of);
    value.starts_with(b"${")
        || value.starts_with(b"{{")
        || value.starts_with(b"{")
        || value.starts_with(TOKEN.as_bytes())
        || same(b'*')
        || same(b'x')
        || same(b'X')
}

fn is_date(value: &[u8]) -> bool {
    let shape = b"dddd-dd-dd";
    value.len() >= shape.len()
        && shape.iter().zip(value).all(|(wanted, found)| match wanted {
            b'd' => found.is_ascii_digit(),
            other => found == other,
        })
}
