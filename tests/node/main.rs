//! Black box: the built node over real sockets.

mod drain;
mod events;
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
mod upkeep;
mod verbs;
