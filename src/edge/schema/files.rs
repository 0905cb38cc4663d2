//! The schemas in the node's settings, which hold for every tenant beside its own.
//!
//! A file that is missing or broken stops the start, whether the node is strict or not: what is
//! meant to be checked is never let through unchecked.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::binding::Bound;
use super::compatibility::Mode;
use super::definition::Definition;
use super::pattern::Patterns;
use super::subject::{Subject, Version};
use crate::broker::Filter;
use crate::config::SchemaEntry;
use crate::edge::shield::Fault;
use crate::log::Micros;

/// Larger files are no schemas.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What the settings bind.
#[derive(Debug, Default)]
pub struct Files(Patterns<(Bound, Subject)>);

impl Files {
    /// Reads them all.
    ///
    /// # Errors
    /// Everything that cannot be used, by the setting.
    pub fn read(entries: &[SchemaEntry]) -> Result<Self, Vec<Fault>> {
        let (mut patterns, mut faults) = (Patterns::default(), Vec::new());
        for (index, entry) in entries.iter().enumerate() {
            match one(entry) {
                Ok((bound, subject)) => {
                    let pattern = bound.pattern.clone();
                    let known = patterns.len();
                    patterns.bind(&pattern, (bound, subject));
                    if patterns.len() == known {
                        let text = format!("{pattern:?} is there twice; leave one of them out");
                        let field = format!("schema.files[{index}].pattern");
                        faults.push(Fault::invalid(&field, text));
                    }
                }
                Err((field, text)) => {
                    let field = format!("schema.files[{index}].{field}");
                    faults.push(Fault::invalid(&field, text));
                }
            }
        }
        if faults.is_empty() {
            Ok(Self(patterns))
        } else {
            Err(faults)
        }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is bound to a topic.
    #[must_use]
    pub fn of(&self, topic: &str) -> Option<(&Bound, &Subject)> {
        self.0.of(topic).map(|(bound, subject)| (bound, subject))
    }

    /// All that is bound.
    #[must_use]
    pub fn all(&self) -> Vec<&(Bound, Subject)> {
        self.0.all()
    }
}

fn one(entry: &SchemaEntry) -> Result<(Bound, Subject), (&'static str, String)> {
    let pattern = Filter::new(&entry.pattern).map_err(|fault| ("pattern", fault.to_string()))?;
    if entry.version == 0 {
        return Err(("version", "versions begin with 1".to_owned()));
    }
    let path = entry.file.display();
    let data = contents(&entry.file)
        .map_err(|error| ("file", format!("cannot read the schema {path}: {error}")))?;
    let definition = match &entry.message {
        Some(message) => Definition::protobuf(&data, message),
        None => Definition::json(&data),
    };
    let definition = definition.map_err(|unusable| {
        let advice = match entry.message {
            Some(_) => "",
            None => "; a descriptor set needs `message`, the full name of its message",
        };
        ("file", format!("{path}: {unusable}{advice}"))
    })?;
    let subject: Arc<str> = match &entry.message {
        Some(message) => message.as_str().into(),
        None => pattern.as_str().into(),
    };
    let bound = Bound {
        pattern,
        subject,
        level: entry.level,
        unknown: entry.unknown,
        empty_allowed: entry.empty_allowed,
        by_header: false,
    };
    let version = Version {
        number: entry.version,
        definition: Arc::new(definition),
        retired: false,
        at: Micros::default(),
    };
    let subject = Subject {
        mode: Mode::None,
        versions: vec![version],
    };
    Ok((bound, subject))
}

fn contents(path: &Path) -> std::io::Result<Bytes> {
    let mut data = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut data)?;
    if data.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other("it is larger than 4 MiB"));
    }
    Ok(data.into())
}
