//! The only code that knows sockets, tokens and frames.

pub mod development;
pub mod handshake;
pub mod metrics;
pub mod seats;
pub mod token;
