//! Black box: the built node over real sockets.

mod backup;
mod causal;
mod drain;
mod events;
mod extracted;
mod full_disk;
mod handshake;
mod kill;
mod live;
mod operations;
mod profiles;
mod raw;
mod restart;
mod shell;
mod support;
mod verbs;
