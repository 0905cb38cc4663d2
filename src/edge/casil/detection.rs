//! Looks for secrets and personal data in a text, whatever the text is.
//!
//! Every search is linear in the text and none backtracks. Must not know what a payload is.

use std::ops::Range;

use regex::bytes::{Regex, RegexBuilder};

use super::finding::{Kind, Kinds};
use super::shapes::Edges;
use super::{entropy, escapes, keyed, personal, shapes};
use crate::edge::shield::Fault;
use crate::proto::ErrorCode;

/// Longest pattern of a tenant.
const PATTERN_BYTES_MAX: usize = 1024;
/// Memory that one compiled pattern may take, and its search.
const PATTERN_MEMORY_MAX: usize = 256 << 10;

/// What is looked for.
#[derive(Clone, Debug, Default)]
pub struct Detector {
    patterns: Vec<Regex>,
    /// 0 = random strings are not looked for.
    entropy_centibits: u64,
    personal: bool,
}

impl Detector {
    /// Looks for known secrets, for `patterns`, for strings from so much entropy on, and for
    /// personal data.
    ///
    /// # Errors
    /// A pattern cannot be compiled, is too large, or matches where nothing is.
    pub fn new(
        patterns: &[String],
        entropy_centibits: u64,
        personal: bool,
    ) -> Result<Self, Vec<Fault>> {
        for ready in [shapes::ready(), keyed::ready()] {
            ready.map_err(|error| {
                vec![Fault::new(
                    ErrorCode::Internal,
                    "",
                    format!("a built-in pattern: {error}"),
                )]
            })?;
        }
        let mut faults = Vec::new();
        let mut compiled = Vec::with_capacity(patterns.len());
        for (index, pattern) in patterns.iter().enumerate() {
            match compile(pattern) {
                Ok(regex) => compiled.push(regex),
                Err(why) => {
                    let field = format!("redaction_patterns[{index}]");
                    let text = format!("{field} {why}");
                    faults.push(Fault::invalid(&field, text));
                }
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            patterns: compiled,
            entropy_centibits,
            personal,
        })
    }

    /// Shows all that is found; what is found twice is shown twice.
    pub(super) fn find(
        &self,
        text: &[u8],
        edges: Edges,
        mut visit: impl FnMut(Kind, Range<usize>),
    ) {
        self.find_shapes(text, edges, &mut visit);
        keyed::find(text, |range| visit(Kind::Keyed, range));
        if self.entropy_centibits > 0 {
            entropy::random_strings(text, self.entropy_centibits, |range| {
                visit(Kind::Random, range);
            });
        }
    }

    /// The same without what is random or has a name: identifiers are both.
    pub(super) fn find_shapes(
        &self,
        text: &[u8],
        edges: Edges,
        mut visit: impl FnMut(Kind, Range<usize>),
    ) {
        shapes::find(text, edges, &mut visit);
        for pattern in &self.patterns {
            for one in pattern.find_iter(text) {
                visit(Kind::Pattern, one.range());
            }
        }
        if self.personal {
            personal::find(text, &mut visit);
        }
    }

    /// What is in a text, also behind escapes.
    pub(super) fn kinds(&self, text: &[u8], edges: Edges) -> Kinds {
        let mut kinds = Kinds::default();
        through_escapes(text, |text| {
            self.find(text, edges, |kind, _| kinds.insert(kind))
        });
        kinds
    }

    /// What is in the parts of an envelope around its payload.
    pub(super) fn kinds_around(&self, part: &[u8]) -> Kinds {
        let mut kinds = Kinds::default();
        self.find_shapes(part, Edges::Binary, |kind, _| kinds.insert(kind));
        kinds
    }

    /// Whether a name may be shown.
    pub(super) fn is_clean(&self, text: &str) -> bool {
        self.kinds(text.as_bytes(), Edges::Text).is_empty()
    }
}

/// Shows a text, and what it says once its escapes are resolved, as deep as they are nested.
pub(super) fn through_escapes(text: &[u8], mut visit: impl FnMut(&[u8])) {
    visit(text);
    let mut resolved = None;
    for _ in 0..escapes::DEPTH_MAX {
        let Some(deeper) = escapes::resolved(resolved.as_deref().unwrap_or(text)) else {
            return;
        };
        visit(&deeper);
        resolved = Some(deeper);
    }
}

fn compile(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!("is longer than {PATTERN_BYTES_MAX} bytes"));
    }
    let built = RegexBuilder::new(pattern)
        .size_limit(PATTERN_MEMORY_MAX)
        .dfa_size_limit(PATTERN_MEMORY_MAX)
        .nest_limit(32)
        .build();
    let regex = built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            "is too large once compiled; use fewer or smaller repetitions".to_owned()
        }
        // The library's text shows the pattern, which its author has given and nobody else sees.
        other => format!("is no regular expression: {other}"),
    })?;
    if regex.is_match(b"") {
        return Err("matches the empty text, that is, everywhere".to_owned());
    }
    Ok(regex)
}
