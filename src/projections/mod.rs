//! Projections: consumers of the log that keep tables somewhere, with the position that they stand
//! at.
//!
//! - [`table`], [`codec`], [`json`]: tables, rows, and their one canonical encoding.
//! - [`projection`]: what a projection is. [`continuum`] is one; [`declared`] are those of the
//!   settings, [`messages`] those that go on with the history of the older system.
//! - [`letter`]: dead letters, for every projection.
//! - [`fold`]: what becomes of a record. Pure, and the same everywhere.
//! - [`sink`]: what a sink is. [`sled`], `postgres` and `valkey` are the three.
//! - [`logs`]: what a projection needs of the node's logs.
//!
//! The path fails open: a sink that is away keeps no producer waiting. Its checks fail closed: what
//! is no event of the contract never reaches a table.

pub mod codec;
pub mod continuum;
pub mod declared;
pub mod fold;
pub mod json;
pub mod letter;
pub mod logs;
pub mod messages;
pub mod projection;
pub mod sink;
pub mod table;
