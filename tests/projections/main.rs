//! Projections into real servers, which the tests start and throw away.

#[path = "../servers/mod.rs"]
mod servers;
mod valkey;
