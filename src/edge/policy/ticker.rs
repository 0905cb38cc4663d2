//! The clock of the deadlines: one thread that counts milliseconds while policies judge.
//!
//! It stands still while none does, so that a node without traffic is not woken a thousand times a
//! second. It ends with its engine, and never holds the process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::EngineWeak;

/// From one tick to the next.
pub(super) const TICK: Duration = Duration::from_millis(1);
/// Ticks without a call, beyond the longest that a call may take, after which it stands still.
const IDLE_TICKS: u64 = 100;
/// How long it stands still before it looks whether its engine is still there.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// The right to have time counted.
#[derive(Debug, Default)]
pub(super) struct Ticker {
    wanted: AtomicBool,
    still: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Ticker {
    /// Starts the thread; a call takes `call_ticks` at most.
    pub(super) fn start(engines: Vec<EngineWeak>, call_ticks: u64) -> std::io::Result<Arc<Self>> {
        let ticker = Arc::new(Self::default());
        let ours = Arc::clone(&ticker);
        let idle_ticks = call_ticks.saturating_mul(2).saturating_add(IDLE_TICKS);
        let thread = thread::Builder::new().name("policy-ticker".into());
        let thread = thread.spawn(move || ours.run(&engines, idle_ticks))?;
        let first = ticker.thread.set(thread.thread().clone()).is_ok();
        debug_assert!(first, "a ticker is started once");
        Ok(ticker)
    }

    /// Says that a call begins. Time is counted from now on, for longer than it may take.
    pub(super) fn want(&self) {
        // Mostly somebody has wanted it since the last tick, and then nothing need be written.
        if !self.wanted.load(Ordering::Relaxed) {
            self.wanted.store(true, Ordering::SeqCst);
            if self.still.load(Ordering::SeqCst)
                && let Some(thread) = self.thread.get()
            {
                thread.unpark();
            }
        }
    }

    fn run(&self, engines: &[EngineWeak], idle_ticks: u64) {
        let mut idle = 0;
        loop {
            thread::sleep(TICK);
            for engine in engines {
                let Some(engine) = engine.upgrade() else {
                    return;
                };
                engine.increment_epoch();
            }
            if self.wanted.swap(false, Ordering::SeqCst) {
                idle = 0;
                continue;
            }
            idle += 1;
            if idle > idle_ticks {
                self.stand_still();
                idle = 0;
            }
        }
    }

    fn stand_still(&self) {
        self.still.store(true, Ordering::SeqCst);
        // Whoever wants it after this has seen that it stands still, and wakes it.
        if !self.wanted.load(Ordering::SeqCst) {
            thread::park_timeout(LOOK_AFTER);
        }
        self.still.store(false, Ordering::SeqCst);
    }
}
