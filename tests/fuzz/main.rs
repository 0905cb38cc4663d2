//! Runs the fuzz targets in every test run: over their corpus, over inputs that once failed, and
//! over mutations of both for a few seconds, with a seed that is printed when something fails.
//!
//! - `ARQONBUS_FUZZ_SECONDS=600`: how long each target mutates (2 by default); the long form where
//!   cargo-fuzz is not at hand.
//! - `ARQONBUS_FUZZ_SEED=N`: other mutations than those of seed 1.
//! - `ARQONBUS_FUZZ_INPUT=FILE cargo test --test fuzz TARGET`: that one input only.
//! - `ARQONBUS_WRITE_CORPUS=1 cargo test --test fuzz corpus`: writes the inputs of `seeds` that are
//!   not there yet; those that are there stay as they are, also when the formats change.
//!
//! Knows the targets by name, not what they test. `tools/fuzz` runs them under libFuzzer.

#[path = "../log/dice.rs"]
mod dice;
mod mutation;
mod offline_tool;
mod run;
mod seeds;
#[path = "../../fuzz/targets/mod.rs"]
pub mod targets;
