//! What the node does by itself: the built-in operators (OPS-13).
//!
//! - [`OPERATORS`]: one line each; its commands, its state and its tests are in a file of its own.
//! - [`Duties`]: which tenants have something to be done, told by whoever changes that.
//! - [`supervise`]: one task for each tenant and operator with something to do.
//!
//! An operator is a consumer with a job: what it knows is a fold of the log, what it has done stands
//! there, and a task that ends anyhow begins again from that.

pub mod contracts;
pub mod cron;
pub mod delayed;
mod duty;
mod office;
pub mod omega;
pub mod sam;
pub mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod wasm;
pub mod webhook;

pub use duty::{Duties, Duty, supervise};
pub use office::Office;

use super::command::Handler;
use super::rooms;
use super::verb::Command;
use crate::config::Config;

/// A built-in operator.
#[derive(Clone, Copy, Debug)]
pub struct BuiltIn {
    /// Its name: `store`.
    pub name: &'static str,
    /// What it is for, in a sentence.
    pub doc: &'static str,
    /// What it does when it is asked.
    pub commands: &'static [Command<Handler>],
    /// What it does unasked, if anything.
    pub duty: Option<Duty>,
}

/// Bounds of what operators hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Of `op.cron`.
    pub cron: cron::Limits,
    /// Of what waits for its time.
    pub delayed: delayed::Limits,
    /// Of `op.store`.
    pub store: store::Limits,
}

impl Settings {
    /// As they stand in the settings.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            cron: cron::Limits {
                jobs_max: config.cron.jobs_max,
                missed_after_ms: config.cron.missed_after_ms,
                payload_bytes_max: config.cron.payload_bytes_max,
            },
            delayed: delayed::Limits {
                waiting_max: config.delayed.waiting_max,
                ahead_max_ms: config.delayed.ahead_max_s.saturating_mul(1_000),
            },
            store: store::Limits {
                key_bytes_max: config.store.key_bytes_max,
                value_bytes_max: config.store.value_bytes_max,
                namespace_keys_max: config.store.namespace_keys_max,
                keys_max: config.store.keys_max,
            },
        }
    }
}

/// All of them, by name.
pub const OPERATORS: &[BuiltIn] = &[
    cron::CRON,
    delayed::DELAYED,
    omega::OPERATOR,
    rooms::OPERATOR,
    sam::OPERATOR,
    store::STORE,
    wasm::OPERATOR,
    webhook::OPERATOR,
];

/// The one called `name`.
#[must_use]
pub fn called(name: &str) -> Option<&'static BuiltIn> {
    OPERATORS.iter().find(|operator| operator.name == name)
}
