//! The log under faults: power cuts, failing disks, damage, and a model that it must equal.
//!
//! Everything goes through the public interface of `arqonbus::log`; disk, clock and the order of
//! commits are simulated, so that every failure can be repeated by its seed.

mod append_promises;
mod bounds;
mod clock_jumps;
mod compaction;
mod compression;
mod conditions;
mod damage;
mod dice;
mod disk_faults;
mod encryption;
mod fork;
mod fork_cost;
mod gated_disk;
mod golden;
mod histories;
mod history;
mod locking;
mod many;
mod memory;
mod model;
mod model_upkept;
mod power_cut;
mod power_cut_rewriting;
mod repair;
mod replay_memory;
mod retention;
mod scrub;
mod secrets;
mod session;
mod sim_storage;
mod simulated_disk;
mod torn_tail;
mod trim;
mod upkept;
