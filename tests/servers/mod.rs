//! Real servers for tests: each started by the test that needs it, on a free port of the loopback
//! address, in a directory of its own, and gone with it.

pub(crate) mod postgres;
pub(crate) mod redis;
