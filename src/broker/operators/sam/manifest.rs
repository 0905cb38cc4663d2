//! What an operator says of itself when it joins, held against the rules (OPS-01).
//!
//! Owns the rules for names, versions and bounds. Knows no registry: whether a schema exists and
//! an instance is free is asked where that is known.

use std::collections::BTreeMap;

use semver::Version;
use serde::{Deserialize, Serialize};

use super::refused::Refused;
use crate::broker::name::check_token;
use crate::proto::ErrorCode;
use crate::proto::v1::{EffectClass, OperatorJoin};

/// Longest name of an operator, group, instance or capability in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Most capabilities of one operator.
pub const CAPABILITIES_MAX: usize = 32;
/// Most entries in an operator's metadata.
pub const METADATA_MAX: usize = 16;
/// Longest value, or name, of an entry in it, in bytes.
pub const METADATA_BYTES_MAX: usize = 256;
/// Most tasks that one operator takes at a time.
pub const CONCURRENCY_MAX: u32 = 256;
/// A lease, unless the operator says otherwise.
pub const LEASE_MS_DEFAULT: u64 = 30_000;
/// Shortest lease.
pub const LEASE_MS_MIN: u64 = 500;
/// Longest lease.
pub const LEASE_MS_MAX: u64 = 3_600_000;

/// What may happen when a task is carried out twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effects {
    /// Nothing happens outside.
    Pure,
    /// Twice is the same as once.
    #[default]
    Idempotent,
    /// Twice is not once.
    Effectful,
}

impl Effects {
    /// As it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Idempotent => "idempotent",
            Self::Effectful => "effectful",
        }
    }
}

/// An operator that meets the rules.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Name of the program.
    pub operator: String,
    /// Whose tasks it takes.
    pub group: String,
    /// Unique in the group.
    pub instance: String,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// What tasks must look like; empty = anything.
    pub input_schema: String,
    /// What its outputs look like; empty = anything.
    pub output_schema: String,
    /// Tasks at a time.
    pub concurrency: u32,
    /// Of the program.
    pub version: Version,
    /// For people.
    pub metadata: BTreeMap<String, String>,
    /// What may happen twice.
    pub effects: Effects,
    /// How long a task is its own without a word from it.
    pub lease_ms: u64,
    /// Nobody joins with a lower version from now on.
    pub no_regress: bool,
}

fn token(field: &'static str, text: &str) -> Result<(), Refused> {
    if text.len() > NAME_BYTES_MAX {
        let found = text.len();
        let text = format!("{field} has {found} bytes, more than the limit of {NAME_BYTES_MAX}");
        return Err(Refused::invalid(field, text));
    }
    check_token(text).map_err(|fault| Refused::invalid(field, format!("{field} {fault}")))
}

/// A group's name.
///
/// # Errors
/// What is wrong with it.
pub fn check_group(field: &'static str, group: &str) -> Result<(), Refused> {
    token(field, group)
}

impl Manifest {
    /// Holds a request to join against the rules.
    ///
    /// # Errors
    /// The first part that breaks one.
    pub fn read(asked: OperatorJoin) -> Result<Self, Refused> {
        token("operator", &asked.operator)?;
        token("group", &asked.group)?;
        let instance = match asked.instance {
            empty if empty.is_empty() => asked.operator.clone(),
            given => given,
        };
        token("instance", &instance)?;
        if asked.capabilities.len() > CAPABILITIES_MAX {
            let found = asked.capabilities.len();
            let text = format!(
                "capabilities has {found} entries, more than the limit of {CAPABILITIES_MAX}"
            );
            return Err(Refused::invalid("capabilities", text));
        }
        let mut capabilities = asked.capabilities;
        for capability in &capabilities {
            token("capabilities", capability)?;
        }
        capabilities.sort();
        capabilities.dedup();
        let version = Version::parse(&asked.version).map_err(|error| {
            let text = format!("version is not a semantic version such as 1.4.0: {error}");
            Refused::invalid("version", text)
        })?;
        check_metadata(&asked.metadata)?;
        let effects = match EffectClass::try_from(asked.effects) {
            Ok(EffectClass::Unspecified | EffectClass::Idempotent) => Effects::Idempotent,
            Ok(EffectClass::Pure) => Effects::Pure,
            Ok(EffectClass::Effectful) => Effects::Effectful,
            Err(error) => return Err(Refused::invalid("effects", format!("effects: {error}"))),
        };
        Ok(Self {
            operator: asked.operator,
            group: asked.group,
            instance,
            capabilities,
            input_schema: asked.input_schema,
            output_schema: asked.output_schema,
            concurrency: concurrency(asked.concurrency)?,
            version,
            metadata: asked.metadata,
            effects,
            lease_ms: lease(asked.lease_ms)?,
            no_regress: asked.no_regress,
        })
    }

    /// Whether it does what a task asks for: anything, or one of its capabilities.
    #[must_use]
    pub fn can(&self, capability: Option<&str>) -> bool {
        capability.is_none_or(|wanted| self.capabilities.iter().any(|one| one == wanted))
    }

    /// Whether a task for `name` is for it: by the instance, or by the program.
    #[must_use]
    pub fn answers_to(&self, name: Option<&str>) -> bool {
        name.is_none_or(|name| self.instance == name || self.operator == name)
    }
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), Refused> {
    let field = "metadata";
    if metadata.len() > METADATA_MAX {
        let found = metadata.len();
        let text = format!("metadata has {found} entries, more than the limit of {METADATA_MAX}");
        return Err(Refused::invalid(field, text));
    }
    let mut texts = metadata.iter().flat_map(|(name, value)| [name, value]);
    match texts.find(|text| text.len() > METADATA_BYTES_MAX) {
        Some(text) => {
            let found = text.len();
            let text = format!(
                "metadata has a text of {found} bytes, more than the limit of {METADATA_BYTES_MAX}"
            );
            Err(Refused::new(ErrorCode::TooLarge, field, text))
        }
        None => Ok(()),
    }
}

fn concurrency(asked: u32) -> Result<u32, Refused> {
    if asked > CONCURRENCY_MAX {
        let text = format!("concurrency is {asked}, more than the limit of {CONCURRENCY_MAX}");
        return Err(Refused::invalid("concurrency", text));
    }
    Ok(asked.max(1))
}

fn lease(asked: u64) -> Result<u64, Refused> {
    match asked {
        0 => Ok(LEASE_MS_DEFAULT),
        LEASE_MS_MIN..=LEASE_MS_MAX => Ok(asked),
        _ => {
            let text = format!(
                "lease_ms is {asked}; it must be between {LEASE_MS_MIN} and {LEASE_MS_MAX}"
            );
            Err(Refused::invalid("lease_ms", text))
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::broker::operators::sam) fn join(instance: &str) -> OperatorJoin {
        OperatorJoin {
            operator: "checker".into(),
            group: "g".into(),
            version: "1.2.0".into(),
            instance: instance.into(),
            ..OperatorJoin::default()
        }
    }

    // OPS-01
    #[test]
    fn a_plain_operator_gets_the_defaults() {
        let read = Manifest::read(join("")).unwrap();
        assert_eq!(read.instance, "checker");
        assert_eq!((read.concurrency, read.lease_ms), (1, LEASE_MS_DEFAULT));
        assert_eq!(read.effects, Effects::Idempotent);
        assert!(read.can(None) && !read.can(Some("x")));
        assert!(read.answers_to(Some("checker")) && !read.answers_to(Some("other")));
    }

    // OPS-01
    #[test]
    fn what_breaks_a_rule_is_named() {
        type Change = fn(&mut OperatorJoin);
        let cases: [(&str, Change); 12] = [
            ("operator", |join| join.operator.clear()),
            ("operator", |join| join.operator = "a.b".into()),
            ("group", |join| join.group = "a>".into()),
            ("group", |join| join.group = "x".repeat(65)),
            ("instance", |join| join.instance = "ü".into()),
            ("capabilities", |join| join.capabilities = vec!["*".into()]),
            ("capabilities", |join| {
                join.capabilities = vec!["a".into(); 33];
            }),
            ("version", |join| join.version = "1.2".into()),
            ("concurrency", |join| join.concurrency = 257),
            ("lease_ms", |join| join.lease_ms = 10),
            ("effects", |join| join.effects = 9),
            ("metadata", |join| {
                join.metadata = [("k".into(), "v".repeat(257))].into();
            }),
        ];
        for (field, change) in cases {
            let mut asked = join("");
            change(&mut asked);
            let refused = Manifest::read(asked).unwrap_err();
            assert_eq!(refused.field, field);
            assert!(refused.message.starts_with(field), "{refused}");
        }
    }
}
