//! A subject: one kind of payload through all its versions.
//!
//! Versions are never taken away, since the log holds what was written by them; one that is
//! retired no longer takes new payloads.

use std::sync::Arc;

use super::compatibility::{Difference, Mode, compare};
use super::definition::Definition;
use crate::log::Micros;

/// All versions of a subject.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What a new version is held against.
    pub mode: Mode,
    /// From version 1 on.
    pub versions: Vec<Version>,
}

/// One version.
#[derive(Clone, Debug)]
pub struct Version {
    /// From 1.
    pub number: u64,
    /// What it says.
    pub definition: Arc<Definition>,
    /// Whether it takes no new payloads.
    pub retired: bool,
    /// When it was registered.
    pub at: Micros,
}

/// Why a definition cannot be the next version of a subject.
#[derive(Debug, thiserror::Error)]
pub enum Incompatible {
    /// It breaks what the mode protects.
    #[error("it breaks version {version}, and the subject's mode is {mode}: {}", told(.differences))]
    Breaks {
        /// The version that it was held against.
        version: u64,
        /// The subject's mode.
        mode: Mode,
        /// What is forbidden of it.
        differences: Vec<Difference>,
    },
    /// Nothing can be said about documents.
    #[error(
        "two JSON Schema documents cannot be proven compatible, and the subject's mode is {mode}: register another subject, or set the mode NONE"
    )]
    Unproven {
        /// The subject's mode.
        mode: Mode,
    },
    /// Another language.
    #[error("the subject is written in {was}, and this is {is}; register another subject")]
    Language {
        /// The subject's.
        was: &'static str,
        /// The new one's.
        is: &'static str,
    },
}

/// Differences told in one error.
const TOLD_MAX: usize = 10;

fn told(differences: &[Difference]) -> String {
    let told: Vec<String> = differences
        .iter()
        .take(TOLD_MAX)
        .map(ToString::to_string)
        .collect();
    let more = differences.len().saturating_sub(TOLD_MAX);
    let more = match more {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!("{}{more}", told.join("; "))
}

impl Subject {
    /// Without versions yet.
    #[must_use]
    pub const fn new(mode: Mode) -> Self {
        Self {
            mode,
            versions: Vec::new(),
        }
    }

    /// Number of the newest version; 0 = none.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.versions.last().map_or(0, |version| version.number)
    }

    /// The newest version that takes payloads.
    #[must_use]
    pub fn active(&self) -> Option<&Version> {
        self.versions.iter().rev().find(|version| !version.retired)
    }

    /// A version by its number.
    #[must_use]
    pub fn version(&self, number: u64) -> Option<&Version> {
        let by_number = |version: &Version| version.number;
        let at = self.versions.binary_search_by_key(&number, by_number);
        self.versions.get(at.ok()?)
    }

    /// The version that says exactly this.
    #[must_use]
    pub fn same(&self, definition: &Definition) -> Option<&Version> {
        let mut versions = self.versions.iter();
        versions.find(|version| version.definition.digest == definition.digest)
    }

    /// Holds a definition against the versions that the mode names; gives what may surprise.
    ///
    /// # Errors
    /// It cannot be the next version.
    pub fn admit(&self, new: &Definition) -> Result<Vec<Difference>, Incompatible> {
        let mut surprises = Vec::new();
        let Some(last) = self.versions.last() else {
            return Ok(surprises);
        };
        let (was, is) = (last.definition.language(), new.language());
        if was != is {
            return Err(Incompatible::Language { was, is });
        }
        if self.mode == Mode::None {
            return Ok(surprises);
        }
        let mode = self.mode;
        let Some(described) = new.descriptor() else {
            return Err(Incompatible::Unproven { mode });
        };
        let held = if mode.is_transitive() {
            self.versions.len()
        } else {
            1
        };
        for version in self.versions.iter().rev().take(held) {
            let Some(old) = version.definition.descriptor() else {
                return Err(Incompatible::Unproven { mode });
            };
            let (forbidden, rest): (Vec<_>, Vec<_>) = compare(&old, &described)
                .into_iter()
                .partition(|one| one.breaks.is_some_and(|breaks| mode.forbids(breaks)));
            if !forbidden.is_empty() {
                return Err(Incompatible::Breaks {
                    version: version.number,
                    mode,
                    differences: forbidden,
                });
            }
            if version.number == last.number {
                surprises = rest;
            }
        }
        Ok(surprises)
    }
}
