//! Takes out of texts and fields what must not be in them.

use std::borrow::Cow;
use std::ops::Range;

use regex::bytes::Regex;

use super::detection::{Detector, through_escapes};
use super::finding::{Kind, Kinds};
use super::keyed;
use super::shapes::Edges;
use crate::edge::shield::Fault;

/// What stands where something was taken out.
pub const TOKEN: &str = "***REDACTED***";

/// Most paths, and bytes of a path.
const PATHS_MAX: usize = 64;
const PATH_BYTES_MAX: usize = 255;

/// Fields whose values are always taken out.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    paths: Vec<Vec<String>>,
    /// Any of their last names; `None` if there are no paths.
    names: Option<Regex>,
    /// Any of them as the name of a member of a JSON object.
    members: Option<Regex>,
}

impl Paths {
    /// `name` is the field of that name at any depth; `a.b` is the field `b` of the field `a` of the
    /// payload. Lists on the way do not count.
    ///
    /// # Errors
    /// Every path that is none.
    pub fn new(paths: &[String]) -> Result<Self, Vec<Fault>> {
        let field = "redaction_paths";
        if paths.len() > PATHS_MAX {
            let text = format!("{field} has {} paths, more than {PATHS_MAX}", paths.len());
            return Err(vec![Fault::invalid(field, text)]);
        }
        let mut faults = Vec::new();
        for (index, path) in paths.iter().enumerate() {
            if path.len() > PATH_BYTES_MAX || path.split('.').any(str::is_empty) {
                let field = format!("{field}[{index}]");
                let text = format!(
                    "{field} must be names with dots between, at most {PATH_BYTES_MAX} bytes"
                );
                faults.push(Fault::invalid(&field, text));
            }
        }
        let split = |path: &String| path.split('.').map(str::to_owned).collect::<Vec<_>>();
        let split: Vec<Vec<String>> = paths.iter().map(split).collect();
        let names: Vec<String> = split
            .iter()
            .filter_map(|path| path.last())
            .map(|name| regex::escape(name))
            .collect();
        let names = names.join("|");
        let mut compiled = |pattern: &str| {
            let regex = Regex::new(pattern);
            regex
                .map_err(|error| faults.push(Fault::invalid(field, format!("{field}: {error}"))))
                .ok()
                .filter(|_| !split.is_empty())
        };
        let made = (compiled(&names), compiled(&format!(r#""(?:{names})"\s*:"#)));
        if faults.is_empty() {
            Ok(Self {
                names: made.0,
                members: made.1,
                paths: split,
            })
        } else {
            Err(faults)
        }
    }

    /// Whether the field with this path, from the payload down, is one of them.
    pub(super) fn has(&self, path: &[impl AsRef<str>]) -> bool {
        self.paths.iter().any(|wanted| match wanted.as_slice() {
            [name] => path.last().is_some_and(|last| last.as_ref() == name),
            names => {
                names.len() == path.len()
                    && names
                        .iter()
                        .zip(path)
                        .all(|(wanted, found)| wanted == found.as_ref())
            }
        })
    }

    /// Whether a text may have such a field, by the names in it.
    pub(super) fn may_be_in(&self, text: &[u8]) -> bool {
        through(self.names.as_ref(), text)
    }

    /// Whether a text, which need not be well-formed JSON, has such a member.
    pub(super) fn may_be_members_of(&self, text: &[u8]) -> bool {
        through(self.members.as_ref(), text)
    }
}

fn through(regex: Option<&Regex>, text: &[u8]) -> bool {
    let mut found = false;
    if let Some(regex) = regex {
        through_escapes(text, |text| found = found || regex.is_match(text));
    }
    found
}

/// Whether what concerns persons is taken out too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Personal {
    /// It stays.
    Keep,
    /// It goes.
    Redact,
}

/// Goes through the texts of one message.
#[derive(Debug)]
pub(super) struct Redactor<'a> {
    detector: &'a Detector,
    paths: &'a Paths,
    personal: Personal,
    /// What was found in texts.
    pub(super) kinds: Kinds,
    /// Something was, or has to be, taken out.
    pub(super) changed: bool,
}

impl<'a> Redactor<'a> {
    pub(super) fn new(detector: &'a Detector, paths: &'a Paths, personal: Personal) -> Self {
        Self {
            detector,
            paths,
            personal,
            kinds: Kinds::default(),
            changed: false,
        }
    }

    pub(super) const fn paths(&self) -> &'a Paths {
        self.paths
    }

    /// Whether the field with this path goes as a whole.
    pub(super) fn hides(&self, path: &[impl AsRef<str>]) -> bool {
        self.paths.has(path)
    }

    /// A field went as a whole.
    pub(super) const fn hid(&mut self) {
        self.changed = true;
    }

    /// What stands for the text of a field; `None` if it stays.
    pub(super) fn text(&mut self, name: &str, text: &str) -> Option<String> {
        if keyed::is_secret(name, text) {
            self.note(Kind::Keyed);
            return Some(TOKEN.to_owned());
        }
        let mut spans: Vec<Range<usize>> = Vec::new();
        let mut kinds = Kinds::default();
        self.detector
            .find(text.as_bytes(), Edges::Text, |kind, range| {
                kinds.insert(kind);
                if !kind.is_personal() || self.personal == Personal::Redact {
                    spans.push(range);
                }
            });
        self.kinds.extend(kinds);
        let redacted = (!spans.is_empty()).then(|| replaced(text, spans));
        let rest = redacted.as_deref().unwrap_or(text);
        let hidden = self.hidden(rest);
        let outcome = if hidden {
            Some(TOKEN.to_owned())
        } else {
            redacted
        };
        self.changed |= outcome.is_some();
        outcome
    }

    /// What a header says afterwards.
    pub(super) fn header(&mut self, name: &str, value: &str) -> String {
        if self.hides(&[name]) && value != TOKEN {
            self.hid();
            return TOKEN.to_owned();
        }
        self.text(name, value).unwrap_or_else(|| value.to_owned())
    }

    /// Whether a text still has, behind escapes, what must go: it cannot be cut out there.
    fn hidden(&mut self, text: &str) -> bool {
        if !text.contains('\\') {
            return false;
        }
        let kinds = self.detector.kinds(text.as_bytes(), Edges::Text);
        self.kinds.extend(kinds);
        self.must_go(kinds)
    }

    /// Whether any of these may not stay.
    pub(super) fn must_go(&self, kinds: Kinds) -> bool {
        kinds.has_secret() || (self.personal == Personal::Redact && kinds.has_personal())
    }

    fn note(&mut self, kind: Kind) {
        self.kinds.insert(kind);
        self.changed = true;
    }
}

/// The text with the token in place of each span, spans that touch becoming one.
fn replaced(text: &str, mut spans: Vec<Range<usize>>) -> String {
    spans.sort_by_key(|span| span.start);
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    for span in spans {
        if span.end <= at {
            continue;
        }
        if span.start > at || at == 0 {
            out.extend_from_slice(text.as_bytes().get(at..span.start).unwrap_or_default());
            out.extend_from_slice(TOKEN.as_bytes());
        }
        at = span.end;
    }
    out.extend_from_slice(text.as_bytes().get(at..).unwrap_or_default());
    // A pattern that works on bytes may have cut a letter in two; then nothing of the text stays.
    match String::from_utf8_lossy(&out) {
        Cow::Borrowed(whole) => whole.to_owned(),
        Cow::Owned(_) => TOKEN.to_owned(),
    }
}
