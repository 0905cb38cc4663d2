//! Black box: the built node over real sockets.

mod admin;
mod adversarial;
mod audit;
mod backup;
mod browser;
mod casil;
mod causal;
mod conditional;
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
mod history;
#[path = "../contract/interpreter.rs"]
mod interpreter;
mod json_adapter;
mod kill;
mod limits;
mod live;
mod many;
mod mirror;
mod omega;
mod operations;
mod operators_kv;
mod permissions;
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
mod rooms;
mod runbook;
mod sam;
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
mod wasm;
mod webhook;
mod wire;
