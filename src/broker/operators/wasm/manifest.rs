//! How a module is used: what it reads, where it may write.
//!
//! Owns the rules of a manifest and of what is emitted under it. Knows neither modules nor logs.

use super::host::Failure;
use crate::broker::name::{NameError, check_topic, is_reserved_topic};
use crate::broker::{Filter, RealityName};
use crate::proto::v1::{OperatorEmission, OperatorOutput, WasmOperatorManifest};

/// Filters of a manifest, of each kind.
pub const FILTERS_MAX: usize = 32;
/// Length of what an operator is configured with.
pub const CONFIG_BYTES_MAX: usize = 64 << 10;
/// Length of an operator's state.
pub const STATE_BYTES_MAX: usize = 64 << 10;
/// Records that it may make of one.
pub const EMISSIONS_MAX: usize = 64;
/// Headers of one of them.
pub const HEADERS_MAX: usize = 32;
/// Length of a key, a type, a schema, and of a header's name.
const NAME_BYTES_MAX: usize = 255;
/// Length of a header's value.
const VALUE_BYTES_MAX: usize = 4 << 10;
/// How often a record is tried.
pub const TRIES_MAX: u32 = 10;
/// The same if the manifest says nothing.
pub const TRIES: u32 = 3;

/// What is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}")]
pub struct Wrong {
    /// The part at fault.
    pub field: &'static str,
    /// What is wrong with it, and what to try.
    pub what: String,
}

/// A manifest that keeps the rules.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Reality that is read.
    pub input: RealityName,
    /// What is read there.
    pub topics: Vec<Filter>,
    /// Reality that is written to.
    pub output: RealityName,
    /// What may be written there.
    pub emits: Vec<Filter>,
    /// How often a record is tried.
    pub tries: u32,
}

impl Manifest {
    /// Holds what was given against the rules.
    ///
    /// # Errors
    /// The part that breaks one.
    pub fn new(given: &WasmOperatorManifest) -> Result<Self, Wrong> {
        if given.config.len() > CONFIG_BYTES_MAX {
            let what = format!("is longer than {CONFIG_BYTES_MAX} bytes");
            return Err(Wrong {
                field: "config",
                what,
            });
        }
        let tries = if given.tries == 0 { TRIES } else { given.tries };
        if tries > TRIES_MAX {
            let what = format!("is {tries}, over the limit of {TRIES_MAX}");
            return Err(Wrong {
                field: "tries",
                what,
            });
        }
        let manifest = Self {
            input: reality("input", &given.input)?,
            topics: filters("topics", &given.topics)?,
            output: reality("output", &given.output)?,
            emits: filters("emits", &given.emits)?,
            tries,
        };
        if manifest.output.is_lab() {
            let what = "is written by op.omega alone; name another reality".to_owned();
            return Err(Wrong {
                field: "output",
                what,
            });
        }
        if manifest.feeds(&manifest) {
            let what = "overlap with the topics that it reads in the same reality: it would feed itself for ever".to_owned();
            return Err(Wrong {
                field: "emits",
                what,
            });
        }
        Ok(manifest)
    }

    /// Whether it reads `topic`. What the node says itself is not read: it tells of positions.
    #[must_use]
    pub fn reads(&self, topic: &str) -> bool {
        !is_reserved_topic(topic) && self.topics.iter().any(|filter| filter.matches(topic))
    }

    /// Whether what it writes can be read by `other`.
    #[must_use]
    pub fn feeds(&self, other: &Self) -> bool {
        let reads = |emitted: &Filter| other.topics.iter().any(|read| read.overlaps(emitted));
        self.output == other.input && self.emits.iter().any(reads)
    }

    /// Holds an answer against the rules.
    ///
    /// # Errors
    /// What breaks one.
    pub fn check(&self, output: &OperatorOutput) -> Result<(), Failure> {
        let found = output.emissions.len();
        if found > EMISSIONS_MAX {
            return Err(answer(format!(
                "it makes {found} records of one, over the limit of {EMISSIONS_MAX}"
            )));
        }
        let state = output.state.as_ref().map_or(0, |state| state.len());
        if state > STATE_BYTES_MAX {
            return Err(answer(format!(
                "its state has {state} bytes, over the limit of {STATE_BYTES_MAX}"
            )));
        }
        let mut each = output.emissions.iter();
        each.try_for_each(|emission| self.check_one(emission))
    }

    fn check_one(&self, emission: &OperatorEmission) -> Result<(), Failure> {
        let topic = &emission.topic;
        let shown: String = topic.chars().take(64).collect();
        if let Err(fault) = check_topic(topic) {
            return Err(answer(format!("it emits to {shown:?}, which {fault}")));
        }
        if is_reserved_topic(topic) {
            return Err(answer(format!(
                "it emits to {shown:?}, which is the node's own"
            )));
        }
        if !self.emits.iter().any(|filter| filter.matches(topic)) {
            return Err(answer(format!(
                "it emits to {shown:?}, which its manifest does not name"
            )));
        }
        let names = [
            ("key", emission.key.len()),
            ("type", emission.r#type.len()),
            ("schema", emission.schema.len()),
        ];
        if let Some((field, found)) = names.into_iter().find(|(_, len)| *len > NAME_BYTES_MAX) {
            return Err(answer(format!(
                "its {field} has {found} bytes, over the limit of {NAME_BYTES_MAX}"
            )));
        }
        let headers = &emission.headers;
        let fits = |len: usize, value: usize| {
            (1..=NAME_BYTES_MAX).contains(&len) && value <= VALUE_BYTES_MAX
        };
        if headers.len() > HEADERS_MAX
            || !headers
                .iter()
                .all(|header| fits(header.name.len(), header.value.len()))
        {
            return Err(answer(format!(
                "it sets more than {HEADERS_MAX} headers, one without a name, or one that is too long"
            )));
        }
        Ok(())
    }
}

fn answer(what: String) -> Failure {
    Failure::Answer(what)
}

fn reality(field: &'static str, name: &str) -> Result<RealityName, Wrong> {
    let name = RealityName::new(name).map_err(|fault: NameError| Wrong {
        field,
        what: fault.to_string(),
    })?;
    if name.is_system() {
        let what = "is the node's own; name another reality".to_owned();
        return Err(Wrong { field, what });
    }
    Ok(name)
}

fn filters(field: &'static str, given: &[String]) -> Result<Vec<Filter>, Wrong> {
    if given.is_empty() || given.len() > FILTERS_MAX {
        let what = format!("must hold 1 to {FILTERS_MAX} filters, such as \"orders.>\"");
        return Err(Wrong { field, what });
    }
    let filter = |text: &String| {
        let shown: String = text.chars().take(64).collect();
        let wrong = |what: String| Wrong {
            field,
            what: format!("{shown:?} {what}"),
        };
        let filter = Filter::new(text).map_err(|fault| wrong(fault.to_string()))?;
        let first = text.split('.').next().unwrap_or_default();
        if is_reserved_topic(first) {
            return Err(wrong("is of the node itself".to_owned()));
        }
        Ok(filter)
    };
    given.iter().map(filter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(topics: &[&str], emits: &[&str]) -> WasmOperatorManifest {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        WasmOperatorManifest {
            topics: texts(topics),
            emits: texts(emits),
            ..WasmOperatorManifest::default()
        }
    }

    // OPS-11
    #[test]
    fn a_manifest_that_would_feed_itself_or_names_the_nodes_topics_is_refused() {
        let error = |given| Manifest::new(&given).unwrap_err().to_string();
        assert!(error(given(&["a.>"], &["*.b"])).starts_with("emits: overlap"));
        assert!(error(given(&[], &["b"])).starts_with("topics: must hold 1 to"));
        for own in ["sys.log", "op.store.x", "dlq.>", "sys.>"] {
            let said = error(given(&["a"], &[own]));
            assert!(said.ends_with("is of the node itself"), "{said}");
        }
        let system = WasmOperatorManifest {
            output: "_system".into(),
            ..given(&["a"], &["b"])
        };
        assert!(error(system).starts_with("output: is the node's own"));
        let elsewhere = WasmOperatorManifest {
            output: "copy".into(),
            ..given(&["a.>"], &["a.>"])
        };
        assert!(
            Manifest::new(&elsewhere).is_ok(),
            "another reality is no circle"
        );
    }

    // OPS-11
    #[test]
    fn only_named_topics_are_emitted_to_and_never_the_nodes() {
        let manifest = Manifest::new(&given(&["a.b"], &["out.>", "*"])).unwrap();
        let said = |topic: &str| {
            let emission = OperatorEmission {
                topic: topic.into(),
                ..OperatorEmission::default()
            };
            let output = OperatorOutput {
                emissions: vec![emission],
                state: None,
            };
            manifest
                .check(&output)
                .map_err(|failure| failure.to_string())
        };
        assert_eq!(said("out.x"), Ok(()));
        for (topic, what) in [
            ("other.x", "which its manifest does not name"),
            ("dlq", "the node's own"),
            ("op.wasm.a", "the node's own"),
            ("", "is empty"),
            ("a..b", "empty token"),
        ] {
            let said = said(topic).unwrap_err();
            assert!(said.contains(what), "{topic}: {said}");
        }
        let large = OperatorOutput {
            emissions: Vec::new(),
            state: Some(vec![0; STATE_BYTES_MAX + 1].into()),
        };
        assert!(manifest.check(&large).is_err());
        assert!(!manifest.reads("sys.log") && manifest.reads("a.b"));
    }
}
