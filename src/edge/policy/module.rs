//! A policy's module: checked, compiled, ready to be instantiated.
//!
//! Owns the refusal of everything that is no policy, before any of it has run. Must not know
//! tenants: a module is shared by all that use the same bytes, and holds no state.

use std::fmt;

use wasmtime::InstancePre;

use super::abi::{self, Level};
use super::guest::Guest;
use super::limits::Limits;
use crate::broker::sandbox;
pub use crate::broker::sandbox::{Digest, digest, hex};

/// How the work of a policy is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metering {
    /// By time.
    Time,
    /// By time and by fuel, which is the same on every machine.
    Fuel,
}

impl Metering {
    /// As a manifest says it.
    #[must_use]
    pub const fn of(metered: bool) -> Self {
        if metered { Self::Fuel } else { Self::Time }
    }
}

/// Everything that keeps bytes from being a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the module is no policy: {}", reasons.join("; "))]
pub struct Unfit {
    /// One for each thing that is wrong.
    pub reasons: Vec<String>,
}

impl Unfit {
    pub(super) fn one(reason: impl Into<String>) -> Self {
        Self {
            reasons: vec![reason.into()],
        }
    }
}

/// A compiled module.
pub struct Module {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Which contract it follows.
    pub level: Level,
    /// How its work is limited.
    pub metering: Metering,
    /// Length of its bytes.
    pub len: usize,
    /// Whether it can forget a message, so that an instance can judge another.
    pub resets: bool,
    pub(super) asks_headers: bool,
    pub(super) asks_claims: bool,
    pub(super) ready: InstancePre<Guest>,
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module")
            .field("digest", &hex(&self.digest))
            .field("level", &self.level)
            .field("metering", &self.metering)
            .finish_non_exhaustive()
    }
}

impl Module {
    /// Checks and compiles.
    pub(super) fn compile(
        engine: &wasmtime::Engine,
        linker: &wasmtime::Linker<Guest>,
        limits: &Limits,
        metering: Metering,
        wasm: &[u8],
    ) -> Result<Self, Unfit> {
        let form = sandbox::check_form(wasm, "a policy", "arqon_init");
        let mut reasons = form.map_err(Unfit::one)?;
        let compiled = match wasmtime::Module::new(engine, wasm) {
            Ok(compiled) => compiled,
            Err(error) => {
                reasons.push(format!("does not compile: {error:#}"));
                return Err(Unfit { reasons });
            }
        };
        let (level, broken) = abi::check(&compiled, limits);
        reasons.extend(broken);
        if !reasons.is_empty() {
            return Err(Unfit { reasons });
        }
        let ready = linker.instantiate_pre(&compiled);
        let ready = ready.map_err(|error| Unfit::one(format!("cannot be linked: {error:#}")))?;
        let asks = |names: &[&str]| compiled.imports().any(|one| names.contains(&one.name()));
        Ok(Self {
            digest: digest(wasm),
            level,
            metering,
            len: wasm.len(),
            resets: compiled.get_export("arqon_reset").is_some() && level == Level::One,
            asks_headers: asks(&["header", "host_get_header"]),
            asks_claims: asks(&["claim"]),
            ready,
        })
    }
}
