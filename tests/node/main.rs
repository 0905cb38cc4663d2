//! Black box: the built node over real sockets.

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
mod limits;
mod live;
mod many;
mod operations;
mod pressure;
mod profiles;
mod raw;
mod restart;
mod runbook;
mod shell;
mod support;
mod upkeep;
mod verbs;
