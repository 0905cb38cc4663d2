//! The Valkey sink before a real server: keys, versions, faults, streams.

mod faults;
mod follower;
mod keys;
mod preflight;
mod rows;
mod streams;
