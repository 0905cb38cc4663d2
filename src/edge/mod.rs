//! The only code that knows sockets, tokens and frames.
//!
//! - [`listener`]: a connection from its first byte to the 101.
//! - [`tls`]: its encryption, and whose certificate the client has.
//! - [`websocket`]: HTTP before the 101 and the frames behind it, for whoever may come in.
//! - [`handshake`]: which requests may become a WebSocket.
//! - `keys`: what verifies tokens; [`token`]: which are good; [`revocation`]: which no longer.
//! - [`shield`]: what stands between a message and the log: [`rate`], [`signature`], [`schema`],
//!   [`casil`] and [`policy`], in this order; [`mirror`] copies what has passed.
//! - [`session`]: what happens after the 101.
//! - [`json`]: messages of JSON clients as envelopes, and back.
//! - [`seats`]: how many sessions there may be.
//! - [`audit`]: what shows the audit of a tenant.
//! - [`reload`]: settings read again; [`topics`]: what there is to say of one topic.
//! - [`ops`]: health, status and metrics over HTTP.
//! - [`checkup`]: which logs are bad although nobody has opened them.
//! - [`metrics`]: what is counted.
//! - [`projector`]: what can be asked of projections and done to them.
//! - [`profile`]: what must be there before the node starts.
//! - [`development`]: what the development profile makes for itself.

pub mod audit;
pub mod casil;
pub mod checkup;
pub mod development;
pub mod handshake;
pub mod history;
pub mod json;
mod keys;
pub mod listener;
pub mod metrics;
pub mod mirror;
pub mod ops;
pub mod policy;
pub mod profile;
pub mod projector;
pub mod rate;
pub mod reflex;
pub mod reload;
pub mod revocation;
pub mod schema;
pub mod seats;
pub mod session;
pub mod shield;
pub mod signature;
pub mod tls;
pub mod token;
pub mod topics;
pub mod websocket;
