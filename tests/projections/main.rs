//! Sinks of projections against real servers and real faults: whatever happens between, what a
//! table holds in the end is a fold of the log.

#[expect(dead_code, reason = "servers can more than these tests need")]
#[path = "../servers/mod.rs"]
mod servers;

mod episodes;
mod postgres;
mod valkey;
