//! `logdump` as people and scripts run it: on logs that the library has made, good and damaged.

mod damaged;
mod format;
mod healthy;
mod made;
mod recovery;
