//! Holds the contract in `proto/` against others: Python's protobuf package, the envelope of an
//! older system, and a corpus of messages encoded by earlier versions.
//!
//! Knows the generated types and the views, no socket and no log.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its files has failed"
)]

mod codes;
mod corpus;
mod interpreter;
mod numbers;
mod older;
mod python;
mod samples;
