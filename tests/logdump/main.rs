//! `logdump` as people and scripts run it: on logs that the library has made, good and damaged.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod audit;
mod causal;
mod damaged;
mod decode;
mod diff;
mod extract;
mod forked;
mod format;
mod healthy;
mod made;
mod recovery;
mod rewritten;
mod speed;
