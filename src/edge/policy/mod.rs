//! Wasm modules that judge payloads (EDGE-14 to EDGE-16).
//!
//! A module is checked and compiled once, and judges in instances that no two tenants share. What
//! is in force for a tenant is a fold of its events on the topics `sys.edge.policy.<name>`, over
//! the policies that the node's settings name. What cannot decide refuses.
//!
//! The engine stands alone: it needs no node, no log and no runtime of tasks. Whoever wants to try
//! a module on payloads, or to judge history again, does what the edge does:
//!
//! ```
//! use arqonbus::edge::policy::{Engine, Isolation, Limits, Metering, Policy, Question, Tallies};
//!
//! let engine = Engine::open(Limits::default(), Tallies::default())?;
//! # let wasm = wat::parse_str(
//! #     r#"(module (memory (export "memory") 1)
//! #          (func (export "policy_check") (param i32 i32) (result i32) i32.const 0))"#)?;
//! // `Unfit` holds every reason at once. The same bytes are compiled once.
//! let module = engine.compile(&wasm, Metering::Time)?;
//! // One instance is made here, so that a bad configuration shows.
//! let policy = Policy::new(&engine, module, "config".into(), Isolation::Reused);
//! # assert!(policy.is_ok());
//! let policy = policy?;
//! // Synchronous, from any number of threads. See `Judged` for what comes of it: the outcome, the
//! // labels, the lines that it has logged (with `Limits { log: LogLines::Kept, .. }`), the time
//! // and the fuel that it took.
//! let question = Question { topic: "payment.card", kind: "card.used", ..Question::default() };
//! let judged = policy.judge(&question, b"{}");
//! println!("{:?} in {:?}", judged.outcome, judged.took);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`limits`]: what a call may use up.
//! - `abi`, `host`: the contract of docs/policy-abi.md, as it is checked and as it is served.
//! - [`module`], [`engine`], `ticker`: compiling, the cache, the clock of the deadlines.
//! - `instance`, `guest`, [`pool`]: judging.
//! - [`question`], [`verdict`]: what a policy is asked, and what it answers.
//! - [`vectors`]: examples that a policy must get right.
//! - [`tally`]: what is counted.
//! - [`register`], [`node_policy`], [`chain`]: what is in force, of the tenant and of the node, and
//!   how it judges; `command`: how it is changed.

mod abi;
pub mod chain;
mod command;
pub mod engine;
mod guest;
mod host;
mod instance;
pub mod limits;
pub mod module;
pub mod node_policy;
pub mod pool;
pub mod question;
pub mod register;
pub mod rehearsal;
mod rehearse;
pub mod tally;
mod ticker;
pub mod vectors;
pub mod verdict;

pub use self::abi::Level;
pub use self::chain::Policies;
pub use self::command::COMMANDS;
pub use self::engine::{Engine, Unable};
pub use self::limits::{Limits, LogLines};
pub use self::module::{Metering, Module, Unfit};
pub use self::pool::{Isolation, Policy};
pub use self::question::Question;
pub use self::tally::Tallies;
pub use self::verdict::{Denial, Failure, Judged, Ruling};

#[cfg(test)]
mod matrix;
