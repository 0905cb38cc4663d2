//! Answers that wait for the socket.
//!
//! Bounded from outside: a session that has [`Outbox::is_full`] reads no more requests, and what
//! is under way is bounded by its own limits.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::frame;
use super::refusal::Refusal;
use crate::edge::metrics::Metrics;
use crate::proto::v1::server_frame::Body;

/// Beyond this no more requests are read.
const BYTES_MAX: usize = 1 << 20;
/// An answer costs more than its bytes.
const OVERHEAD_BYTES: usize = 64;

/// A message for the socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// Protobuf.
    Binary(Bytes),
    /// JSON.
    Text(String),
}

impl Outgoing {
    const fn len(&self) -> usize {
        match self {
            Self::Binary(bytes) => bytes.len(),
            Self::Text(text) => text.len(),
        }
    }
}

/// Frames in the order in which they are to be sent.
#[derive(Debug)]
pub(super) struct Outbox {
    frames: VecDeque<Outgoing>,
    bytes: usize,
    buffer: BytesMut,
    metrics: Arc<Metrics>,
}

impl Outbox {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            frames: VecDeque::new(),
            bytes: 0,
            buffer: BytesMut::new(),
            metrics,
        }
    }

    /// Adds a frame of `arqon.v1`.
    pub(super) fn answer(&mut self, request_id: u64, body: Body) {
        let frame = frame::encode(request_id, body, &mut self.buffer);
        self.push(frame);
    }

    /// Adds an Error frame.
    pub(super) fn refuse(&mut self, request_id: u64, refusal: Refusal) {
        self.refuse_subscription(request_id, 0, refusal);
    }

    /// Adds an Error frame that ends a subscription.
    pub(super) fn refuse_subscription(
        &mut self,
        request_id: u64,
        subscription: u64,
        refusal: Refusal,
    ) {
        self.count(&refusal);
        let error = refusal.into_error(subscription);
        self.answer(request_id, Body::Error(error));
    }

    /// Counts an error that is told in another form.
    pub(super) fn count(&self, refusal: &Refusal) {
        self.metrics.error(refusal.code.as_str());
    }

    /// Adds an encoded message.
    pub(super) fn push(&mut self, frame: Bytes) {
        self.put(Outgoing::Binary(frame));
    }

    /// Adds a text message.
    pub(super) fn push_text(&mut self, text: String) {
        self.put(Outgoing::Text(text));
    }

    fn put(&mut self, frame: Outgoing) {
        self.bytes += frame.len() + OVERHEAD_BYTES;
        self.frames.push_back(frame);
    }

    pub(super) fn pop(&mut self) -> Option<Outgoing> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len() + OVERHEAD_BYTES;
        Some(frame)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) const fn is_full(&self) -> bool {
        self.bytes >= BYTES_MAX
    }

    /// Gives memory back that an idle session does not need.
    pub(super) fn shrink(&mut self) {
        if self.frames.is_empty() {
            self.frames = VecDeque::new();
            self.buffer = BytesMut::new();
        }
    }
}
