//! Envelopes and records as views of their encoded bytes: one pass, nothing copied.
//!
//! A view accepts only what prost accepts and then shows the same values; the tests hold the two
//! against each other. What it rejects is named by field.

mod clock;
mod envelope;
mod record;
mod wire;

#[cfg(test)]
mod agreement;

pub use clock::{ClockView, UncheckedClock};
pub use envelope::{EnvelopeView, Headers, Payload, expires_at_of_envelope};
pub use record::{ChecksumError, RecordView, clock_of, expires_at_of_record};
pub use wire::{Error, Fault};
