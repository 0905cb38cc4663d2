//! The policies of one tenant by name: versions, which of them judges, which runs in the shadow.
//!
//! Owns the fold of the events on `sys.edge.policy.<name>`. Compiles nothing by itself: versions
//! that are neither active nor in the shadow are bytes, so that a long history costs no time.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use prost::Message as _;

use super::engine::Engine;
use super::limits::CONFIG_BYTES_MAX;
use super::module::{Digest, Metering, digest, hex};
use super::pool::{Isolation, Policy};
use crate::broker::Filter;
use crate::edge::shield::Fault;
use crate::proto::ErrorCode;
use crate::proto::v1::policy_event::Change;
use crate::proto::v1::{PolicyEvent, PolicyManifest, PolicyPushed};

/// What the topics of these events begin with.
pub const TOPIC_PREFIX: &str = "sys.edge.policy.";
/// Versions of a policy that one can go back to, besides the one in force.
pub const VERSIONS_KEPT: usize = 4;
/// Length of a policy's name.
const NAME_BYTES_MAX: usize = 64;
/// Filters of one policy.
const TOPICS_MAX: usize = 64;

/// One version of a policy.
#[derive(Debug)]
pub struct Version {
    /// Its number.
    pub number: u64,
    /// The module.
    pub module: Bytes,
    /// SHA-256 of it.
    pub digest: Digest,
    /// How it is used.
    pub manifest: PolicyManifest,
    /// `manifest.topics`.
    pub topics: Vec<Filter>,
    /// Made when it is first needed.
    ready: OnceLock<Arc<Policy>>,
}

impl Version {
    /// A version as it was pushed.
    ///
    /// # Errors
    /// What is wrong with it, short of the module itself.
    pub fn new(pushed: PolicyPushed) -> Result<Self, Fault> {
        let manifest = pushed.manifest.unwrap_or_default();
        let found = digest(&pushed.module);
        if *pushed.digest != found {
            let text = "the digest of the policy's module is another one than the event says";
            return Err(Fault::invalid("digest", text));
        }
        if manifest.config.len() > CONFIG_BYTES_MAX {
            let text = format!("config is longer than {CONFIG_BYTES_MAX} bytes");
            return Err(Fault::invalid("config", text));
        }
        Ok(Self {
            number: pushed.version,
            topics: filters(&manifest.topics)?,
            module: pushed.module,
            digest: found,
            manifest,
            ready: OnceLock::new(),
        })
    }

    /// Makes it ready to judge, unless it is.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn prepare(&self, engine: &Engine) -> Result<Arc<Policy>, Fault> {
        if let Some(ready) = self.ready.get() {
            return Ok(Arc::clone(ready));
        }
        let made = self.make(engine)?;
        Ok(Arc::clone(self.ready.get_or_init(|| made)))
    }

    /// Makes it ready to judge apart from what it judges in earnest: with instances and counts of
    /// its own.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn make(&self, engine: &Engine) -> Result<Arc<Policy>, Fault> {
        let invalid = |unfit: super::Unfit| Fault::invalid("module", unfit.to_string());
        let metering = Metering::of(self.manifest.metered);
        let module = engine.compile(&self.module, metering).map_err(invalid)?;
        let isolation = Isolation::of(self.manifest.isolated);
        let config = self.manifest.config.clone();
        Policy::new(engine, module, config, isolation).map_err(invalid)
    }

    /// Ready to judge, if it was prepared.
    #[must_use]
    pub fn policy(&self) -> Option<&Arc<Policy>> {
        self.ready.get()
    }
}

fn filters(topics: &[String]) -> Result<Vec<Filter>, Fault> {
    if topics.is_empty() || topics.len() > TOPICS_MAX {
        let text = format!("topics must hold 1 to {TOPICS_MAX} filters, such as \"payment.>\"");
        return Err(Fault::invalid("topics", text));
    }
    let filter = |topic: &String| {
        let shown: String = topic.chars().take(64).collect();
        let invalid = |what: String| Fault::invalid("topics", format!("topics: {shown:?}: {what}"));
        let filter = Filter::new(topic).map_err(|error| invalid(error.to_string()))?;
        if filter.names_system() {
            return Err(invalid(
                "what the node says itself is not judged".to_owned(),
            ));
        }
        Ok(filter)
    };
    topics.iter().map(filter).collect()
}

/// A version beside the one in force.
#[derive(Clone, Debug)]
pub struct Shadow {
    /// Which.
    pub version: Arc<Version>,
    /// Of how many of a hundred messages.
    pub percent: u32,
}

/// All versions under one name.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// Those that are kept, by number.
    pub versions: BTreeMap<u64, Arc<Version>>,
    /// The highest number so far.
    pub last: u64,
    /// The one that judges.
    pub active: Option<Arc<Version>>,
    /// The one that judged before it.
    pub previous: Option<u64>,
    /// The one that would.
    pub shadow: Option<Shadow>,
    /// The one that judged until it was disabled.
    pub disabled: Option<Arc<Version>>,
}

impl Named {
    /// Whether there is nothing to do for any message.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.active.is_none() && self.shadow.is_none() && self.disabled.is_none()
    }

    /// A version that is kept.
    ///
    /// # Errors
    /// It is not.
    pub fn version(&self, number: u64) -> Result<&Arc<Version>, Fault> {
        self.versions.get(&number).ok_or_else(|| {
            let known: Vec<_> = self.versions.keys().map(u64::to_string).collect();
            let text = format!(
                "there is no version {number}; kept are: {}",
                known.join(", ")
            );
            Fault::new(ErrorCode::NotFound, "version", text)
        })
    }

    fn apply(&mut self, change: Change) -> Result<(), Fault> {
        match change {
            Change::Pushed(pushed) => {
                if pushed.version != self.last + 1 {
                    let text = "another version was pushed at the same time; push it again";
                    return Err(Fault::new(ErrorCode::SequenceConflict, "version", text));
                }
                let activate = pushed.activate;
                let version = Arc::new(Version::new(pushed)?);
                self.last = version.number;
                self.versions.insert(version.number, Arc::clone(&version));
                if activate {
                    self.activate(version);
                }
            }
            Change::Activated(activated) => {
                let version = Arc::clone(self.version(activated.version)?);
                self.activate(version);
            }
            Change::Shadowed(shadowed) => {
                let version = Arc::clone(self.version(shadowed.version)?);
                let percent = shadowed.percent;
                if percent > 100 {
                    return Err(Fault::invalid("percent", "percent must be 0 to 100"));
                }
                self.shadow = (percent > 0).then_some(Shadow { version, percent });
            }
            Change::Disabled(_) => {
                let Some(active) = self.active.take() else {
                    let text = "no version is in force under this name";
                    return Err(Fault::new(ErrorCode::NotFound, "name", text));
                };
                self.previous = Some(active.number);
                self.disabled = Some(active);
            }
            // The whole entry goes, which is done by whoever holds it.
            Change::Removed(_) => {}
        }
        self.prune();
        Ok(())
    }

    fn activate(&mut self, version: Arc<Version>) {
        if let Some(before) = self.active.as_ref().or(self.disabled.as_ref())
            && before.number != version.number
        {
            self.previous = Some(before.number);
        }
        if self
            .shadow
            .as_ref()
            .is_some_and(|shadow| shadow.version.number == version.number)
        {
            self.shadow = None;
        }
        self.disabled = None;
        self.active = Some(version);
    }

    /// Forgets old versions that nobody can be waiting for.
    fn prune(&mut self) {
        let used: Vec<u64> = [
            self.active.as_ref().map(|version| version.number),
            self.disabled.as_ref().map(|version| version.number),
            self.shadow.as_ref().map(|shadow| shadow.version.number),
            self.previous,
        ]
        .into_iter()
        .flatten()
        .collect();
        while self.versions.len() > VERSIONS_KEPT {
            let oldest = self.versions.keys().find(|number| !used.contains(number));
            let Some(oldest) = oldest.copied() else {
                return;
            };
            self.versions.remove(&oldest);
        }
    }

    /// Bytes of the modules that are kept.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.versions
            .values()
            .map(|version| version.module.len())
            .sum()
    }
}

/// All names of a tenant.
#[derive(Clone, Debug, Default)]
pub struct Register {
    names: BTreeMap<String, Arc<Named>>,
}

impl Register {
    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Named)> {
        let names = self.names.iter();
        names.map(|(name, named)| (name.as_str(), named.as_ref()))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Named> {
        self.names.get(name).map(Arc::as_ref)
    }

    /// The same where it must be there.
    ///
    /// # Errors
    /// It is not.
    pub fn named(&self, name: &str) -> Result<&Named, Fault> {
        self.get(name).ok_or_else(|| {
            let text = "there is no policy of this name; `edge.policy.list` shows all";
            Fault::new(ErrorCode::NotFound, "name", text)
        })
    }

    /// Applies an event on `topic`.
    ///
    /// # Errors
    /// Why it cannot be put in force.
    pub fn apply(&mut self, topic: &str, data: &[u8]) -> Result<(), Fault> {
        let name = topic.strip_prefix(TOPIC_PREFIX).unwrap_or_default();
        check_name(name)?;
        let newer = || {
            let text = "the event is nothing that this version of the node knows";
            Fault::new(ErrorCode::FeatureDisabled, "", text)
        };
        let event = PolicyEvent::decode(data).or(Err(newer()))?;
        let change = event.change.ok_or_else(newer)?;
        if let Change::Removed(_) = change {
            self.named(name)?;
            self.names.remove(name);
            return Ok(());
        }
        if !matches!(change, Change::Pushed(_)) {
            self.named(name)?;
        }
        let mut named = self.get(name).cloned().unwrap_or_default();
        named.apply(change)?;
        self.names.insert(name.to_owned(), Arc::new(named));
        Ok(())
    }
}

/// Checks the name of a policy: one token of a topic.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), Fault> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(allowed) {
        let text = "name must be 1 to 64 of A-Z a-z 0-9 _ -";
        return Err(Fault::invalid("name", text));
    }
    Ok(())
}

/// An event, encoded.
#[must_use]
pub fn encoded(change: Change) -> Bytes {
    let event = PolicyEvent {
        change: Some(change),
    };
    event.encode_to_vec().into()
}

/// What a push says.
#[must_use]
pub fn pushed(
    number: u64,
    module: Bytes,
    manifest: PolicyManifest,
    activate: bool,
) -> PolicyPushed {
    PolicyPushed {
        version: number,
        digest: digest(&module).to_vec().into(),
        module,
        manifest: Some(manifest),
        activate,
    }
}

impl Version {
    /// The digest, as people write it.
    #[must_use]
    pub fn hex(&self) -> String {
        hex(&self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::{PolicyActivated, PolicyDisabled, PolicyRemoved, PolicyShadowed};

    fn manifest() -> PolicyManifest {
        PolicyManifest {
            topics: vec!["a.>".into()],
            ..PolicyManifest::default()
        }
    }

    fn push(number: u64, activate: bool) -> Change {
        let module = number.to_string().into_bytes().into();
        Change::Pushed(pushed(number, module, manifest(), activate))
    }

    fn activate(version: u64) -> Change {
        Change::Activated(PolicyActivated { version })
    }

    fn apply(register: &mut Register, change: Change) -> Result<(), Fault> {
        register.apply("sys.edge.policy.p", &encoded(change))
    }

    fn active(register: &Register) -> Option<u64> {
        let named = register.get("p")?;
        named.active.as_ref().map(|version| version.number)
    }

    // EDGE-14
    #[test]
    fn versions_are_counted_and_those_in_use_are_kept() {
        let mut register = Register::default();
        apply(&mut register, push(1, true)).unwrap();
        apply(&mut register, push(2, true)).unwrap();
        for number in 3..=9 {
            apply(&mut register, push(number, false)).unwrap();
        }
        assert_eq!(active(&register), Some(2));
        let named = register.named("p").unwrap();
        let kept: Vec<u64> = named.versions.keys().copied().collect();
        assert_eq!((kept, named.previous), (vec![1, 2, 8, 9], Some(1)));
        apply(&mut register, activate(1)).unwrap();
        assert_eq!(active(&register), Some(1));
        assert_eq!(register.get("p").unwrap().previous, Some(2));
        assert!(apply(&mut register, activate(5)).is_err(), "it is gone");
        assert_eq!(active(&register), Some(1));
        apply(&mut register, Change::Removed(PolicyRemoved {})).unwrap();
        assert!(register.is_empty());
    }

    // EDGE-15
    #[test]
    fn event_that_makes_no_sense_changes_nothing() {
        let mut register = Register::default();
        let shadow = |version, percent| Change::Shadowed(PolicyShadowed { version, percent });
        for early in [
            activate(1),
            shadow(1, 10),
            Change::Disabled(PolicyDisabled {}),
            Change::Removed(PolicyRemoved {}),
            push(2, true),
        ] {
            assert!(apply(&mut register, early).is_err());
        }
        assert!(register.is_empty());
        apply(&mut register, push(1, false)).unwrap();
        let mut forged = pushed(2, "2".into(), manifest(), true);
        forged.digest = vec![0; 32].into();
        let everything_of_the_node = PolicyManifest {
            topics: vec!["sys.>".into()],
            ..PolicyManifest::default()
        };
        let nothing = PolicyManifest::default();
        for bad in [
            push(1, true),
            push(3, true),
            Change::Pushed(forged),
            Change::Pushed(pushed(2, "2".into(), everything_of_the_node, true)),
            Change::Pushed(pushed(2, "2".into(), nothing, true)),
            shadow(1, 101),
            Change::Disabled(PolicyDisabled {}),
        ] {
            assert!(apply(&mut register, bad.clone()).is_err(), "{bad:?}");
        }
        assert_eq!(
            (active(&register), register.get("p").unwrap().last),
            (None, 1)
        );
        for (topic, data) in [
            ("sys.edge.policy.p", &b"\xff"[..]),
            ("sys.edge.policy.p", b""),
            ("sys.edge.policy.", b""),
            ("sys.edge.policy.a.b", b""),
        ] {
            assert!(register.apply(topic, data).is_err(), "{topic}");
        }
    }

    // EDGE-15
    #[test]
    fn disabled_version_is_remembered_until_one_is_put_in_force() {
        let mut register = Register::default();
        apply(&mut register, push(1, true)).unwrap();
        apply(&mut register, Change::Disabled(PolicyDisabled {})).unwrap();
        let named = register.get("p").unwrap();
        assert!(named.active.is_none() && named.disabled.is_some() && !named.is_idle());
        apply(&mut register, push(2, true)).unwrap();
        let named = register.get("p").unwrap();
        assert!(named.disabled.is_none());
        assert_eq!((active(&register), named.previous), (Some(2), Some(1)));
    }
}
