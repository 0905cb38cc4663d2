//! ArqonBus: an event-sourced, log-structured message broker.
//!
//! The log is the only truth; everything else is a consumer with a cursor.
//!
//! - [`proto`]: the contract, generated from `proto/`.
//! - [`log`]: segments, group commit, recovery. Synchronous; knows no tenant, clock or socket.
//! - [`broker`]: realities, topics, cursors, subscriptions.
//! - [`edge`]: sockets, tokens, frames.
//! - [`projections`]: consumers that keep tables.
//! - [`client`]: the Rust client.
//! - [`config`]: every setting once.
//! - [`data_dir`]: who holds the data directory, and the node's name.
//! - [`wall_clock`]: what time it is.

pub mod broker;
pub mod client;
pub mod config;
pub mod data_dir;
pub mod edge;
pub mod log;
pub mod projections;
pub mod proto;
pub mod wall_clock;

/// Compiles the Rust code of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
