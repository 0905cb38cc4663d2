//! Which operators a tenant has: versions, which of them works, which stand still.
//!
//! Owns the fold of the events on `sys.op.wasm.<name>`. Compiles nothing: versions are bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::manifest::{Manifest, Wrong};
use crate::broker::journal::Event;
use crate::broker::ledger::{State, Unfit};
use crate::broker::sandbox::{Digest, digest};
use crate::proto::v1::wasm_operator_event::Change;
use crate::proto::v1::{
    WasmOperatorEvent, WasmOperatorKept, WasmOperatorManifest, WasmOperatorPushed, WasmOperators,
};

/// What the topics of these events begin with.
pub const TOPIC_PREFIX: &str = "sys.op.wasm.";
/// Versions of an operator that are kept, besides the one that works.
pub const VERSIONS_KEPT: usize = 8;

/// One version of an operator.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its number.
    pub number: u64,
    /// The module.
    pub module: Bytes,
    /// SHA-256 of it.
    pub digest: Digest,
    /// How it is used, as it was given.
    pub given: WasmOperatorManifest,
    /// The same, checked.
    pub manifest: Manifest,
}

impl Version {
    /// A version as it was pushed.
    ///
    /// # Errors
    /// What is wrong with it, short of the module itself.
    pub fn new(pushed: WasmOperatorPushed) -> Result<Self, Wrong> {
        let given = pushed.manifest.unwrap_or_default();
        let found = digest(&pushed.module);
        if *pushed.digest != found {
            let what = "is another one than that of the module".to_owned();
            return Err(Wrong {
                field: "digest",
                what,
            });
        }
        Ok(Self {
            number: pushed.version,
            module: pushed.module,
            digest: found,
            manifest: Manifest::new(&given)?,
            given,
        })
    }

    fn pushed(&self) -> WasmOperatorPushed {
        WasmOperatorPushed {
            version: self.number,
            module: self.module.clone(),
            digest: Bytes::copy_from_slice(&self.digest),
            manifest: Some(self.given.clone()),
            activate: false,
        }
    }
}

/// All versions under one name.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// Those that are kept, oldest first.
    pub versions: Vec<Arc<Version>>,
    /// The number of the last that there was.
    pub last: u64,
    /// The one that works; 0 = none.
    pub active: u64,
    /// The one that did before; 0 = none.
    pub previous: u64,
    /// It stands still.
    pub paused: bool,
}

impl Named {
    /// A version that is kept.
    #[must_use]
    pub fn version(&self, number: u64) -> Option<&Arc<Version>> {
        self.versions
            .iter()
            .find(|version| version.number == number)
    }

    /// The one that works, unless it stands still.
    #[must_use]
    pub fn working(&self) -> Option<&Arc<Version>> {
        self.version(self.active).filter(|_| !self.paused)
    }

    /// Bytes of its modules.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.versions.iter().map(|one| one.module.len()).sum()
    }

    fn activate(&mut self, number: u64) {
        if self.active != number {
            self.previous = self.active;
            self.active = number;
        }
    }

    /// Lets go of the oldest that is neither in work nor was before.
    fn forget(&mut self) {
        while self.versions.len() > VERSIONS_KEPT + 1 {
            let spare = |one: &Arc<Version>| ![self.active, self.previous].contains(&one.number);
            match self.versions.iter().position(spare) {
                Some(at) => drop(self.versions.remove(at)),
                None => break,
            }
        }
    }
}

/// The operators of a tenant by name.
#[derive(Clone, Debug, Default)]
pub struct Register(BTreeMap<String, Named>);

impl Register {
    /// The one called so.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Named> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Named)> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of all modules.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.values().map(Named::bytes).sum()
    }

    /// The operators that work, with the version of each.
    pub fn working(&self) -> impl Iterator<Item = (&String, &Arc<Version>)> {
        let named = self.0.iter();
        named.filter_map(|(name, named)| Some((name, named.working()?)))
    }

    /// The names along which what `manifest` writes, as the operator `name`, would come back to it.
    #[must_use]
    pub fn circle(&self, name: &str, manifest: &Manifest) -> Option<Vec<String>> {
        // Depth first; each operator is gone through once at most.
        let others: Vec<(&String, &Arc<Version>)> = self
            .0
            .iter()
            .filter(|(other, _)| *other != name)
            .filter_map(|(other, named)| Some((other, named.version(named.active)?)))
            .collect();
        let mut seen = vec![false; others.len()];
        let mut paths: Vec<(&Manifest, Vec<String>)> = vec![(manifest, vec![name.to_owned()])];
        while let Some((from, path)) = paths.pop() {
            if path.len() > 1 && from.feeds(manifest) {
                return Some(path);
            }
            for (at, (other, version)) in others.iter().enumerate() {
                if !seen[at] && from.feeds(&version.manifest) {
                    seen[at] = true;
                    let mut longer = path.clone();
                    longer.push((*other).clone());
                    paths.push((&version.manifest, longer));
                }
            }
        }
        None
    }
}

/// The event's payload and name.
#[must_use]
pub fn encoded(change: Change) -> (&'static str, Bytes) {
    let kind = match &change {
        Change::Pushed(_) => "op.wasm.pushed",
        Change::Activated(_) => "op.wasm.activated",
        Change::Paused(_) => "op.wasm.paused",
        Change::Resumed(_) => "op.wasm.resumed",
        Change::Removed(_) => "op.wasm.removed",
    };
    let change = Some(change);
    (kind, WasmOperatorEvent { change }.encode_to_vec().into())
}

impl State for Register {
    const NAME: &'static str = "wasm operators";
    const VERSION: u32 = 1;
    const TOPICS: &'static [&'static str] = &["sys.op.wasm.*"];

    fn apply(&mut self, event: &Event<'_>) -> Result<(), Unfit> {
        let name = event.topic.strip_prefix(TOPIC_PREFIX).unwrap_or_default();
        let decoded = WasmOperatorEvent::decode(event.data).map_err(Unfit::new)?;
        let Some(change) = decoded.change else {
            return Err(Unfit::new("a change that this version does not know"));
        };
        if matches!(change, Change::Removed(_)) {
            self.0.remove(name);
            return Ok(());
        }
        let named = self.0.entry(name.to_owned()).or_default();
        match change {
            Change::Pushed(pushed) => {
                let activate = pushed.activate;
                let version = Version::new(pushed).map_err(Unfit::new)?;
                named.last = version.number;
                if activate {
                    named.activate(version.number);
                }
                named.versions.push(Arc::new(version));
                named.forget();
            }
            Change::Activated(activated) => named.activate(activated.version),
            Change::Paused(_) => named.paused = true,
            Change::Resumed(_) => named.paused = false,
            Change::Removed(_) => {}
        }
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        let kept = self.0.iter().map(|(name, named)| WasmOperatorKept {
            name: name.clone(),
            versions: named.versions.iter().map(|one| one.pushed()).collect(),
            last: named.last,
            active: named.active,
            previous: named.previous,
            paused: named.paused,
        });
        let operators = kept.collect();
        WasmOperators { operators }.encode_to_vec()
    }

    fn load(bytes: &[u8]) -> Option<Self> {
        let kept = WasmOperators::decode(bytes).ok()?;
        let named = kept.operators.into_iter().map(|kept| {
            let versions: Result<Vec<_>, Wrong> = kept
                .versions
                .into_iter()
                .map(|pushed| Version::new(pushed).map(Arc::new))
                .collect();
            let named = Named {
                versions: versions.ok()?,
                last: kept.last,
                active: kept.active,
                previous: kept.previous,
                paused: kept.paused,
            };
            Some((kept.name, named))
        });
        let named: Option<BTreeMap<_, _>> = named.collect();
        named.map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Micros, Sequence};
    use crate::proto::v1::{WasmOperatorActivated, WasmOperatorPaused, WasmOperatorRemoved};

    fn pushed(version: u64, topics: &str, emits: &str) -> WasmOperatorPushed {
        let module = Bytes::from(format!("module {version}"));
        WasmOperatorPushed {
            version,
            digest: Bytes::copy_from_slice(&digest(&module)),
            module,
            manifest: Some(WasmOperatorManifest {
                topics: vec![topics.into()],
                emits: vec![emits.into()],
                ..WasmOperatorManifest::default()
            }),
            activate: true,
        }
    }

    fn take(register: &mut Register, name: &str, change: Change) {
        let (kind, data) = encoded(change);
        let event = Event {
            sequence: Sequence::FIRST,
            at: Micros(1),
            topic: &format!("{TOPIC_PREFIX}{name}"),
            kind,
            data: &data,
        };
        register.apply(&event).unwrap();
    }

    // OPS-11, OPS-14
    #[test]
    fn versions_come_go_and_are_kept() {
        let mut register = Register::default();
        for version in 1..=20 {
            take(
                &mut register,
                "a",
                Change::Pushed(pushed(version, "in", "out")),
            );
        }
        take(&mut register, "b", Change::Pushed(pushed(1, "in", "out.b")));
        take(&mut register, "b", Change::Paused(WasmOperatorPaused {}));
        take(&mut register, "c", Change::Pushed(pushed(1, "in", "out")));
        take(&mut register, "c", Change::Removed(WasmOperatorRemoved {}));
        let back = WasmOperatorActivated { version: 19 };
        take(&mut register, "a", Change::Activated(back));

        for register in [Register::load(&register.save()).unwrap(), register] {
            let a = register.get("a").unwrap();
            assert_eq!((a.last, a.active, a.previous), (20, 19, 20));
            let numbers: Vec<u64> = a.versions.iter().map(|one| one.number).collect();
            assert_eq!(numbers, (12..=20).collect::<Vec<_>>());
            assert_eq!(a.working().unwrap().number, 19);
            assert!(register.get("b").unwrap().working().is_none());
            assert!(register.get("c").is_none() && register.len() == 2);
            assert_eq!(register.working().count(), 1);
        }
        assert!(Register::load(b"\xff").is_none());
    }

    // OPS-11
    #[test]
    fn operators_in_a_circle_are_found() {
        let mut register = Register::default();
        take(&mut register, "ab", Change::Pushed(pushed(1, "a", "b")));
        take(&mut register, "bc", Change::Pushed(pushed(1, "b", "c")));
        let manifest = |topics, emits| Version::new(pushed(1, topics, emits)).unwrap().manifest;
        let circle = register.circle("ca", &manifest("c", "a"));
        assert_eq!(circle, Some(vec!["ca".into(), "ab".into(), "bc".into()]));
        assert_eq!(register.circle("cd", &manifest("c", "d")), None);
        assert_eq!(
            register.circle("bc", &manifest("x", "b")),
            None,
            "it replaces itself"
        );
    }
}
