//! Compiles modules, each once, and says how they run.
//!
//! Owns the cache
//! of compiled modules, the bound on instances, and the check that this machine can run any.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use wasmtime::{Linker, Store};

use super::guest::Guest;
use super::host;
use super::limits::Limits;
use super::module::{Digest, Metering, Module, Unfit, digest};
use super::pool::Policy;
use super::tally::Tallies;
use super::ticker::{TICK, Ticker};
use crate::broker::sandbox;

/// `(module (func (export "answer") (result i32) i32.const 42))`
const TINY: &[u8] = b"\0asm\x01\0\0\0\x01\x05\x01\x60\0\x01\x7f\x03\x02\x01\0\x07\x0a\x01\x06answer\0\0\x0a\x06\x01\x04\0\x41\x2a\x0b";

/// Why no policy can run on this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unable {
    /// Memory cannot be made executable.
    #[error(
        "compiled policies cannot be run: this process may not make memory executable ({cause}). Allow it: MemoryDenyWriteExecute=no in the systemd unit, no PR_SET_MDWE, the SELinux boolean execmem, no PaX MPROTECT"
    )]
    NotExecutable {
        /// What the system says.
        cause: String,
    },
    /// The runtime or its thread cannot be started.
    #[error("the runtime of policies cannot be started: {cause}")]
    NotStarted {
        /// What it says.
        cause: String,
    },
}

/// Compiles and runs policies. Clones share everything.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Shared>);

struct Shared {
    limits: Limits,
    by_time: Runtime,
    by_fuel: Runtime,
    ticker: Arc<Ticker>,
    modules: Mutex<HashMap<(Digest, Metering), Arc<Module>>>,
    /// One is compiled at a time: two would only take the cores from the messages.
    compiling: Mutex<()>,
    instances: Arc<AtomicUsize>,
    policies: Mutex<Vec<Weak<Policy>>>,
    tallies: Tallies,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("limits", &self.limits)
            .field("instances", &self.instances)
            .finish_non_exhaustive()
    }
}

struct Runtime {
    engine: wasmtime::Engine,
    linker: Linker<Guest>,
}

impl Runtime {
    fn new(metering: Metering) -> wasmtime::Result<Self> {
        let engine = wasmtime::Engine::new(&settings(metering))?;
        let linker = host::linker(&engine)?;
        Ok(Self { engine, linker })
    }
}

fn settings(metering: Metering) -> wasmtime::Config {
    let mut config = sandbox::settings();
    config
        .epoch_interruption(true)
        .consume_fuel(metering == Metering::Fuel);
    config
}

impl Engine {
    /// Makes ready what compiles and runs policies, and tries it.
    ///
    /// # Errors
    /// No policy can run on this machine.
    pub fn open(limits: Limits, tallies: Tallies) -> Result<Self, Unable> {
        let not_started = |cause: String| Unable::NotStarted { cause };
        let runtime =
            |metering| Runtime::new(metering).map_err(|error| not_started(format!("{error:#}")));
        let (by_time, by_fuel) = (runtime(Metering::Time)?, runtime(Metering::Fuel)?);
        try_out(&by_time.engine).map_err(|error| unable(&format!("{error:#}")))?;
        let call_ticks = u64::try_from(limits.deadline.as_millis()).unwrap_or(u64::MAX);
        let engines = vec![by_time.engine.weak(), by_fuel.engine.weak()];
        let ticker = Ticker::start(engines, call_ticks);
        let ticker = ticker.map_err(|error| not_started(error.to_string()))?;
        Ok(Self(Arc::new(Shared {
            limits,
            by_time,
            by_fuel,
            ticker,
            modules: Mutex::default(),
            compiling: Mutex::default(),
            instances: Arc::default(),
            policies: Mutex::default(),
            tallies,
        })))
    }

    /// What calls may use up.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(super) fn tallies(&self) -> &Tallies {
        &self.0.tallies
    }

    pub(super) fn ticker(&self) -> &Ticker {
        &self.0.ticker
    }

    /// Checks and compiles a module, unless that was done before. Takes its time.
    ///
    /// # Errors
    /// Everything that keeps it from being a policy.
    pub fn compile(&self, wasm: &[u8], metering: Metering) -> Result<Arc<Module>, Unfit> {
        let key = (digest(wasm), metering);
        if let Some(module) = self.modules().get(&key) {
            return Ok(Arc::clone(module));
        }
        let _turn = self.0.compiling.lock();
        // Whoever had the turn before may have compiled the same.
        if let Some(module) = self.modules().get(&key) {
            return Ok(Arc::clone(module));
        }
        let Runtime { engine, linker } = match metering {
            Metering::Time => &self.0.by_time,
            Metering::Fuel => &self.0.by_fuel,
        };
        let module = Module::compile(engine, linker, &self.0.limits, metering, wasm)?;
        let module = Arc::new(module);
        let mut modules = self.modules();
        if modules.len() >= self.0.limits.modules_kept {
            // Those in use are kept by their users anyway.
            modules.retain(|_, module| Arc::strong_count(module) > 1);
        }
        modules.insert(key, Arc::clone(&module));
        Ok(module)
    }

    fn modules(&self) -> MutexGuard<'_, HashMap<(Digest, Metering), Arc<Module>>> {
        let modules = self.0.modules.lock();
        modules.unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more instance, if there is any; one that idles in another policy goes for it.
    pub(super) fn seat(&self) -> Option<Seat> {
        let seat = Seat::take(&self.0.instances, self.0.limits.instances_max);
        if seat.is_some() || !self.evict() {
            return seat;
        }
        Seat::take(&self.0.instances, self.0.limits.instances_max)
    }

    /// Ends an idle instance of the policy that has not been asked for longest.
    fn evict(&self) -> bool {
        let policies: Vec<Arc<Policy>> = {
            let mut known = self.policies();
            known.retain(|policy| policy.strong_count() > 0);
            known.iter().filter_map(Weak::upgrade).collect()
        };
        let idle = policies
            .iter()
            .filter_map(|policy| Some((policy.idle_since()?, policy)));
        let longest = idle.min_by_key(|(since, _)| *since);
        longest.is_some_and(|(_, policy)| policy.let_one_go())
    }

    /// Remembers whom instances can be taken from.
    pub(super) fn remember(&self, policy: &Arc<Policy>) {
        let mut known = self.policies();
        if known.len() == known.capacity() {
            known.retain(|policy| policy.strong_count() > 0);
        }
        known.push(Arc::downgrade(policy));
    }

    fn policies(&self) -> MutexGuard<'_, Vec<Weak<Policy>>> {
        let policies = self.0.policies.lock();
        policies.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to have one more of something; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Seat(Arc<AtomicUsize>);

impl Seat {
    /// Takes one of `max`.
    pub(super) fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let one_more = |now: usize| (now < max).then_some(now + 1);
        let took = taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        took.ok().map(|_| Self(Arc::clone(taken)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn try_out(engine: &wasmtime::Engine) -> wasmtime::Result<()> {
    let module = wasmtime::Module::new(engine, TINY)?;
    let mut store = Store::new(engine, ());
    store.set_epoch_deadline(1_000);
    let instance = wasmtime::Instance::new(&mut store, &module, &[])?;
    let answer = instance.get_typed_func::<(), i32>(&mut store, "answer")?;
    let answer = answer.call(&mut store, ())?;
    if answer != 42 {
        return Err(wasmtime::Error::msg(format!(
            "a trial answers {answer}, not 42"
        )));
    }
    Ok(())
}

fn unable(cause: &str) -> Unable {
    let cause = cause.to_owned();
    if cause.contains("executable") {
        Unable::NotExecutable { cause }
    } else {
        Unable::NotStarted { cause }
    }
}

/// Ticks from the beginning of a call to the first look at what it has computed.
pub(super) fn first_look(limits: &Limits) -> u64 {
    let half = limits.deadline / 2;
    let ticks = half.as_micros() / TICK.as_micros();
    // The first tick may come at once.
    u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(1)
}
