//! The only code that knows sockets, tokens and frames.

pub mod metrics;
