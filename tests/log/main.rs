//! The log under faults: power cuts, failing disks, damage, and a model that it must equal.
//!
//! Everything goes through the public interface of `arqonbus::log`; disk, clock and the order of
//! commits are simulated, so that every failure can be repeated by its seed.

mod dice;
mod sim_storage;
