//! Black box: the built node over real sockets.

mod admin;
mod adversarial;
mod backup;
mod browser;
mod casil;
mod causal;
#[path = "../log/dice.rs"]
mod dice;
mod drain;
mod edge_loss;
mod encryption;
mod events;
mod extracted;
mod fork;
mod full_disk;
mod groups;
mod handshake;
mod histories;
#[path = "../contract/interpreter.rs"]
mod interpreter;
mod json_adapter;
mod kill;
mod limits;
mod live;
mod many;
mod mirror;
mod operations;
mod policy;
mod policy_kit;
mod preflight;
mod pressure;
mod profiles;
mod projections;
mod projector;
mod projector_jobs;
mod quakes;
mod raw;
mod restart;
mod runbook;
mod schema;
#[expect(dead_code, reason = "servers can more than these tests need")]
#[path = "../servers/mod.rs"]
mod servers;
mod shell;
mod signature;
mod support;
mod tenants;
mod tls;
mod tokens;
mod traces;
mod upkeep;
mod verbs;
mod wire;
