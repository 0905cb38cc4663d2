//! Black box: the built node over real sockets.

mod admin;
mod backup;
mod causal;
#[path = "../log/dice.rs"]
mod dice;
mod drain;
mod encryption;
mod events;
mod extracted;
mod fork;
mod full_disk;
mod handshake;
mod histories;
mod kill;
mod live;
mod many;
mod mirror;
mod operations;
mod profiles;
mod raw;
mod restart;
mod runbook;
mod shell;
mod signature;
mod support;
mod traces;
mod upkeep;
mod verbs;
