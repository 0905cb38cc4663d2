//! Redacts JSON as text, so that all that stays keeps its bytes: numbers, order and spaces too.

use serde::de::IgnoredAny;

use super::redaction::{Redactor, TOKEN};

/// A value that was taken out before.
const ALREADY: &str = "\"***REDACTED***\"";

/// Deepest nesting that is walked.
const DEPTH_MAX: usize = 128;

/// The JSON with what must not be in it replaced; `None` if it is no JSON. What nests deeper than
/// 128 levels is none.
pub(super) fn redacted(json: &str, redactor: &mut Redactor<'_>) -> Option<String> {
    serde_json::from_str::<IgnoredAny>(json).ok()?;
    let mut walk = Walk {
        json,
        at: 0,
        copied: 0,
        out: String::with_capacity(json.len()),
        redactor,
        path: Vec::new(),
        depth: 0,
    };
    walk.value()?;
    walk.out.push_str(json.get(walk.copied..)?);
    Some(walk.out)
}

/// A walk over JSON that is well-formed; what is not after all ends it with `None`.
struct Walk<'a, 'r, 'd> {
    json: &'a str,
    at: usize,
    /// Up to where the JSON is in `out`.
    copied: usize,
    out: String,
    redactor: &'r mut Redactor<'d>,
    path: Vec<String>,
    depth: usize,
}

impl Walk<'_, '_, '_> {
    fn value(&mut self) -> Option<()> {
        match self.peek()? {
            opening @ (b'{' | b'[') => {
                self.depth += 1;
                if self.depth > DEPTH_MAX {
                    return None;
                }
                if opening == b'{' {
                    self.members()?;
                } else {
                    self.items()?;
                }
                self.depth -= 1;
                Some(())
            }
            b'"' => {
                let start = self.at;
                let text = self.string()?;
                let name = self.path.last().map_or("", String::as_str);
                if let Some(redacted) = self.redactor.text(name, &text) {
                    self.replace(start, &redacted)?;
                }
                Some(())
            }
            _ => {
                let start = self.at;
                self.skip_scalar();
                let scalar = self
                    .json
                    .get(start..self.at)
                    .filter(|text| !text.is_empty())?;
                let is_number =
                    scalar.starts_with(|first: char| first == '-' || first.is_ascii_digit());
                if is_number && self.redactor.text("", scalar).is_some() {
                    self.replace(start, TOKEN)?;
                }
                Some(())
            }
        }
    }

    fn members(&mut self) -> Option<()> {
        self.at += 1;
        while self.peek()? != b'}' {
            if self.peek()? == b',' {
                self.at += 1;
                continue;
            }
            let start = self.at;
            let name = self.string()?;
            if let Some(redacted) = self.redactor.text("", &name) {
                self.replace(start, &redacted)?;
            }
            if self.peek()? != b':' {
                return None;
            }
            self.at += 1;
            self.peek()?;
            self.path.push(name);
            if self.redactor.hides(&self.path) {
                let start = self.at;
                self.skip()?;
                let value = self.json.get(start..self.at)?;
                if value != "null" && value != ALREADY {
                    self.redactor.hid();
                    self.replace(start, TOKEN)?;
                }
            } else {
                self.value()?;
            }
            self.path.pop();
        }
        self.at += 1;
        Some(())
    }

    fn items(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            match self.peek()? {
                b']' => break,
                b',' => self.at += 1,
                _ => self.value()?,
            }
        }
        self.at += 1;
        Some(())
    }

    /// The next byte that is no space.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.json.as_bytes().get(self.at..)?;
        let spaces = rest.iter().position(|byte| !byte.is_ascii_whitespace())?;
        self.at += spaces;
        rest.get(spaces).copied()
    }

    /// Goes over a string, which it is at, and says what it holds.
    fn string(&mut self) -> Option<String> {
        let start = self.at;
        self.skip_string()?;
        serde_json::from_str(self.json.get(start..self.at)?).ok()
    }

    fn skip_string(&mut self) -> Option<()> {
        let bytes = self.json.as_bytes();
        if bytes.get(self.at) != Some(&b'"') {
            return None;
        }
        let mut at = self.at + 1;
        loop {
            match bytes.get(at)? {
                b'"' => break,
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        self.at = at + 1;
        Some(())
    }

    fn skip_scalar(&mut self) {
        let rest = self.json.as_bytes().get(self.at..).unwrap_or_default();
        let ends = |byte: &u8| byte.is_ascii_whitespace() || b",]}".contains(byte);
        self.at += rest.iter().position(ends).unwrap_or(rest.len());
    }

    /// Goes over a value, whatever is in it.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' => self.at += 1,
                b'"' => self.skip_string()?,
                _ => {
                    let start = self.at;
                    let rest = self.json.as_bytes().get(start..)?;
                    let ends = |byte: &u8| byte.is_ascii_whitespace() || b",]}:".contains(byte);
                    self.at += rest.iter().position(ends).unwrap_or(rest.len()).max(1);
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// Puts a string in place of what lies from `start` to here.
    fn replace(&mut self, start: usize, text: &str) -> Option<()> {
        self.out.push_str(self.json.get(self.copied..start)?);
        self.out.push_str(&serde_json::to_string(text).ok()?);
        self.copied = self.at;
        Some(())
    }
}
