//! Turns one log into topics, cursors and subscriptions.
//!
//! Owns what a topic, a reality and a consumer are. Knows no socket, token or frame.

pub mod access;
pub mod filter;
pub mod name;
pub mod trie;

pub use access::{Identity, Role, Topics};
pub use filter::Filter;
pub use name::{NameError, RealityName, Tenant};
