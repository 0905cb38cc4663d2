//! The contract: messages generated from `proto/`, and cheap views of the two that travel in bulk.
//!
//! Knows no socket, no file and no rule of the broker; both the node and the client use it.

pub mod audit;
pub mod causal;
pub mod claims;
pub mod clock;
pub mod code;
pub mod determinism;
pub mod json;
pub mod topic;
pub mod twist;
pub mod value;
pub mod view;

pub use code::ErrorCode;

/// Package `arqon.v1`: envelopes, records and session frames.
pub mod v1 {
    #![expect(missing_docs, reason = "generated; documented in proto/arqon/v1")]
    include!(concat!(env!("OUT_DIR"), "/arqon.v1.rs"));
}

/// Package `arqon.pybus.v1`: the JSON-shaped payload of older clients.
pub mod pybus {
    #![expect(missing_docs, reason = "generated; documented in proto/arqon/pybus/v1")]
    include!(concat!(env!("OUT_DIR"), "/arqon.pybus.v1.rs"));
}

/// Package `arqon.continuum.v1`: episode events and their dead letters.
pub mod continuum {
    #![expect(
        missing_docs,
        reason = "generated; documented in proto/arqon/continuum/v1"
    )]
    include!(concat!(env!("OUT_DIR"), "/arqon.continuum.v1.rs"));
}

/// The encoded `FileDescriptorSet` of everything under `proto/`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/arqonbus.fds"));
