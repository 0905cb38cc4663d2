//! The only code that knows sockets, tokens and frames.
//!
//! - [`listener`]: a connection from its first byte to the 101.
//! - [`handshake`]: which requests may become a WebSocket.
//! - [`token`]: which tokens are good.
//! - [`session`]: what happens after the 101.
//! - [`seats`]: how many sessions there may be.
//! - [`ops`]: health, status and metrics over HTTP.
//! - [`checkup`]: which logs are bad although nobody has opened them.
//! - [`metrics`]: what is counted.
//! - [`profile`]: what must be there before the node starts.
//! - [`development`]: what the development profile makes for itself.

pub mod checkup;
pub mod development;
pub mod handshake;
pub mod listener;
pub mod metrics;
pub mod ops;
pub mod profile;
pub mod seats;
pub mod session;
pub mod token;
