//! Projections: consumers of the log that keep tables somewhere, with the position that they stand
//! at.
//!
//! - [`table`], [`codec`], [`json`]: tables, rows, and their one canonical encoding.
//! - [`letter`]: dead letters, for every projection.
//! - [`projection`]: what a projection is. [`continuum`] is one; [`declared`] are those of the
//!   settings, [`messages`] those that go on with the history of the older system; [`presence`] who
//!   is in which room.
//! - [`fold`]: what becomes of a record. Pure, and the same everywhere.
//! - [`sink`]: what a sink is. [`sled`], [`postgres`] and [`valkey`] are the
//!   three.
//! - [`logs`]: what a projection needs of the node's logs.
//! - [`node`]: all of them, running: `lane` is one projection of one log into one sink, `schedule`
//!   says which is worked on, [`standing`] how it stands, `letters` which records are dead.
//! - [`jobs`]: long work beside the lanes: [`backfill`], [`rebuild`] and [`verify`]; `filling` and
//!   [`comparing`] are what they have in common. [`settle`] deals with dead letters.
//!
//! The path fails open: a sink that is away keeps no producer waiting. Its checks fail closed: what
//! is no event of the contract never reaches a table.

pub mod backfill;
mod batch;
pub mod codec;
pub mod comparing;
pub mod continuum;
pub mod declared;
mod filling;
pub mod fold;
pub mod jobs;
pub mod json;
mod lane;
pub mod letter;
mod letters;
pub mod logs;
pub mod messages;
pub mod node;
mod none;
mod notes;
pub mod options;
pub mod postgres;
pub mod presence;
pub mod projection;
pub mod rebuild;
mod schedule;
pub mod settle;
pub mod sink;
pub mod sled;
pub mod standing;
pub mod table;
#[cfg(test)]
mod testing;
pub mod valkey;
pub mod verify;

pub use node::{Kept, Projections};
