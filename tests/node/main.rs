//! Black box: the built node over real sockets.

mod drain;
mod handshake;
mod operations;
mod profiles;
mod raw;
mod support;
