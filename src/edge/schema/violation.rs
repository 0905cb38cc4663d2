//! What is wrong with a payload: where, by which rule, and how far off; never the value itself.

use std::fmt;

/// Most violations that are told of one payload.
pub const TOLD_MAX: usize = 20;
/// Most characters of a path that are told: its parts can come from the payload.
const PATH_CHARS_MAX: usize = 200;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// From the payload's root, with indices: `lines[2].sku`; empty for the payload itself.
    pub path: String,
    /// Stable name of the rule: `field.unknown`.
    pub rule: String,
    /// What was found and what is allowed.
    pub detail: String,
}

impl Violation {
    /// At `path`, by `rule`.
    pub fn new(path: &str, rule: impl Into<String>, detail: impl Into<String>) -> Self {
        let mut path: String = path
            .chars()
            .map(|symbol| if symbol.is_control() { '?' } else { symbol })
            .collect();
        if let Some((end, _)) = path.char_indices().nth(PATH_CHARS_MAX) {
            path.truncate(end);
            path.push('…');
        }
        Self {
            path,
            rule: rule.into(),
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self.path.as_str() {
            "" => "the payload",
            path => path,
        };
        write!(f, "{path}: {} ({})", self.detail, self.rule)
    }
}

/// Several, as one line.
#[must_use]
pub fn line(violations: &[Violation]) -> String {
    let each: Vec<String> = violations.iter().map(ToString::to_string).collect();
    let more = if violations.len() >= TOLD_MAX {
        "; and perhaps more"
    } else {
        ""
    };
    format!("{}{more}", each.join("; "))
}
