//! A session's subscriptions, and the Deliver frames made from them.
//!
//! Subscriptions that have something to read take turns, one frame each. A read of history runs on
//! a blocking thread, a few at a time, and comes back as news.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::frame::{self, Deliver, HEAD_BYTES};
use super::outbox::{Outbox, Outgoing};
use super::refusal::Refusal;
use super::signals::Signals;
use crate::broker::scan::{History, HistoryRead, Lost};
use crate::broker::subscription::{Filled, Then};
use crate::broker::{self, Subscription};
use crate::edge::metrics::Metrics;
use crate::log::{AppendError, Sequence};
use crate::proto::ErrorCode;
use crate::proto::v1::{Acked, Unsubscribed, server_frame::Body};

/// Records of who comes and goes that are told at a time.
const PRESENCE_BYTES_MAX: usize = 16 << 10;
/// Reads of history that a session has under way at a time.
const READS_MAX: usize = 4;

/// One subscription as the session sees it.
#[derive(Debug)]
pub(super) struct Entry {
    /// What the client calls it.
    pub(super) id: u64,
    pub(super) subscription: Subscription,
    /// Its records are told as Presence frames.
    is_presence: bool,
    /// It stands in the queue of those to be asked.
    queued: bool,
    /// It has ended, but its consumer's cursor may still be moved.
    finished: bool,
    /// Acknowledgements to be answered when the cursor is on disk.
    acks: Vec<(u64, Sequence)>,
    /// Request to end it, once these are answered.
    ending: Option<u64>,
}

/// Records for a client that is not told them as they are.
#[derive(Debug)]
pub(super) struct Given {
    /// Key of their subscription.
    pub(super) key: u64,
    /// Encoded `Deliver.records` fields.
    pub(super) records: Bytes,
    /// A range that could not be, after them.
    pub(super) lost: Option<Lost>,
    /// Why the subscription has ended.
    pub(super) failed: Option<Refusal>,
}

/// The subscriptions of a session.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// By a key that is never used again, so that late news of one that has ended reach nobody.
    entries: HashMap<u64, Entry>,
    keys: HashMap<u64, u64>,
    next_key: u64,
    queue: VecDeque<u64>,
    reads: usize,
    waiting_reads: VecDeque<(u64, HistoryRead)>,
    acks: usize,
    buffer: BytesMut,
}

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Acknowledgements that are to be answered.
    pub(super) const fn acks(&self) -> usize {
        self.acks
    }

    /// A key for a new subscription.
    pub(super) const fn new_key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    /// Whether the client may give a new subscription this id.
    pub(super) fn is_free(&self, id: u64) -> bool {
        self.by_id(id).is_none_or(|entry| entry.finished)
    }

    fn by_id(&self, id: u64) -> Option<&Entry> {
        self.entries.get(self.keys.get(&id)?)
    }

    pub(super) fn get(&mut self, id: u64) -> Option<(u64, &mut Entry)> {
        let key = *self.keys.get(&id)?;
        let entry = self.entries.get_mut(&key)?;
        entry.ending.is_none().then_some((key, entry))
    }

    pub(super) fn insert(&mut self, key: u64, id: u64, subscription: Subscription) {
        if let Some(old) = self.keys.insert(id, key) {
            self.remove(old);
        }
        self.put(key, id, subscription, false);
    }

    /// Adds a subscription to who comes and goes, which the client does not call anything.
    pub(super) fn insert_presence(&mut self, key: u64, subscription: Subscription) {
        self.put(key, 0, subscription, true);
    }

    fn put(&mut self, key: u64, id: u64, subscription: Subscription, is_presence: bool) {
        let entry = Entry {
            id,
            subscription,
            is_presence,
            queued: false,
            finished: false,
            acks: Vec::new(),
            ending: None,
        };
        self.entries.insert(key, entry);
        self.ready(key);
    }

    /// Ends a subscription at once.
    pub(super) fn remove(&mut self, key: u64) {
        if let Some(entry) = self.entries.remove(&key) {
            self.acks -= entry.acks.len();
            if self.keys.get(&entry.id) == Some(&key) {
                self.keys.remove(&entry.id);
            }
        }
    }

    /// The subscription is to be asked for a frame.
    pub(super) fn ready(&mut self, key: u64) {
        if let Some(entry) = self.entries.get_mut(&key)
            && !entry.queued
            && !entry.finished
            && entry.ending.is_none()
        {
            entry.queued = true;
            self.queue.push_back(key);
        }
    }

    /// Notes an acknowledgement to be answered.
    pub(super) fn ack_waits(&mut self, key: u64, request_id: u64, sequence: Sequence) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.acks.push((request_id, sequence));
            self.acks += 1;
        }
    }

    /// Ends a subscription, at once or when its acknowledgements are answered.
    pub(super) fn end(&mut self, key: u64, request_id: u64, outbox: &mut Outbox) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if entry.acks.is_empty() {
            let subscription = entry.id;
            self.remove(key);
            let body = Body::Unsubscribed(Unsubscribed { subscription });
            outbox.answer(request_id, body);
        } else {
            entry.ending = Some(request_id);
        }
    }

    /// Ends those that `allowed` is false for, each with an Error that names it.
    pub(super) fn keep(&mut self, allowed: impl Fn(&Subscription) -> bool) -> Vec<(u64, Refusal)> {
        let forbidden = self.entries.iter();
        let forbidden = forbidden.filter(|(_, entry)| !allowed(&entry.subscription));
        let mut forbidden: Vec<(u64, u64)> =
            forbidden.map(|(key, entry)| (*key, entry.id)).collect();
        forbidden.sort_unstable();
        let mut over = Vec::with_capacity(forbidden.len());
        for (key, id) in forbidden {
            let filter = self.entries.get(&key);
            let filter = filter.map_or("", |entry| entry.subscription.filter().as_str());
            let text = format!(
                "subscription {id} is over: the session's new token may not see all that {filter} matches"
            );
            let refusal = Refusal::new(ErrorCode::Forbidden, "filter", text);
            over.push((id, refusal));
            self.remove(key);
        }
        over
    }

    /// A consumer's cursor has been stored, or not.
    pub(super) fn moved(
        &mut self,
        key: u64,
        outcome: Result<Sequence, AppendError>,
        outbox: &mut Outbox,
    ) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        let subscription = entry.id;
        let before = entry.acks.len();
        if let Ok(stored) = &outcome {
            entry.acks.retain(|(request_id, sequence)| {
                let covered = sequence <= stored;
                if covered {
                    let sequence = sequence.get();
                    let acked = Acked {
                        subscription,
                        sequence,
                    };
                    outbox.answer(*request_id, Body::Acked(acked));
                }
                !covered
            });
        }
        if let Err(error) = outcome {
            let refusal = Refusal::from(broker::Error::from(error));
            for (request_id, _) in entry.acks.drain(..) {
                outbox.refuse(request_id, refusal.clone());
            }
        }
        self.acks -= before - entry.acks.len();
        if let Some(request_id) = entry.ending
            && entry.acks.is_empty()
        {
            self.end(key, request_id, outbox);
        }
    }

    /// A read of history has come back.
    pub(super) fn read(&mut self, key: u64, history: Option<History>, signals: &Arc<Signals>) {
        self.reads -= 1;
        if let Some((key, read)) = self.waiting_reads.pop_front() {
            self.start_read(key, read, signals);
        }
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        match history {
            Some(history) => entry.subscription.supply(history),
            None => entry.subscription.supply_nothing(),
        }
        if let Some(read) = entry.subscription.read_ahead() {
            self.start_read(key, read, signals);
        }
        self.ready(key);
    }

    fn start_read(&mut self, key: u64, read: HistoryRead, signals: &Arc<Signals>) {
        if self.reads >= READS_MAX {
            self.waiting_reads.push_back((key, read));
            return;
        }
        self.reads += 1;
        let signals = Arc::clone(signals);
        // Detached: the outcome comes as news, also that of a panic.
        drop(tokio::task::spawn_blocking(move || {
            let history = catch_unwind(AssertUnwindSafe(|| read.run())).ok();
            signals.read(key, history);
        }));
    }

    /// The next Deliver frame, of whoever's turn it is.
    pub(super) fn next_frame(
        &mut self,
        bytes_max: usize,
        outbox: &mut Outbox,
        metrics: &Metrics,
        signals: &Arc<Signals>,
    ) -> Option<Outgoing> {
        while let Some(key) = self.queue.pop_front() {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            entry.queued = false;
            if entry.finished || entry.ending.is_some() {
                continue;
            }
            if entry.is_presence {
                let filled = entry
                    .subscription
                    .fill(&mut self.buffer, PRESENCE_BYTES_MAX);
                let records = self.buffer.split().freeze();
                metrics.delivered(filled.records, records.len() as u64);
                for said in super::rooms::presence(records) {
                    outbox.answer(0, Body::Presence(said));
                }
                if let Some((_, refusal)) = self.carry_on(key, filled.then, signals) {
                    outbox.refuse(0, refusal);
                }
                if !outbox.is_empty() {
                    return outbox.pop();
                }
                continue;
            }
            frame::begin(&mut self.buffer);
            let filled = entry
                .subscription
                .fill(&mut self.buffer, HEAD_BYTES + bytes_max);
            let frame = self.frame_of(key, &filled, metrics);
            if let Some((id, refusal)) = self.carry_on(key, filled.then, signals) {
                outbox.refuse_subscription(0, id, refusal);
            }
            if let Some(frame) = frame {
                return Some(Outgoing::Binary(frame));
            }
            if !outbox.is_empty() {
                return outbox.pop();
            }
        }
        None
    }

    /// The next records, of whoever's turn it is.
    pub(super) fn next_given(
        &mut self,
        bytes_max: usize,
        metrics: &Metrics,
        signals: &Arc<Signals>,
    ) -> Option<Given> {
        while let Some(key) = self.queue.pop_front() {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            entry.queued = false;
            let filled = entry.subscription.fill(&mut self.buffer, bytes_max);
            let records = self.buffer.split().freeze();
            metrics.delivered(filled.records, records.len() as u64);
            let failed = self.carry_on(key, filled.then, signals);
            if filled.records > 0 || filled.lost.is_some() || failed.is_some() {
                return Some(Given {
                    key,
                    records,
                    lost: filled.lost,
                    failed: failed.map(|(_, refusal)| refusal),
                });
            }
        }
        None
    }

    fn frame_of(&mut self, key: u64, filled: &Filled, metrics: &Metrics) -> Option<Bytes> {
        let finished = matches!(filled.then, Then::Finished);
        let worth = filled.records > 0 || filled.lost.is_some() || filled.end_of_log || finished;
        let id = self.entries.get(&key).map(|entry| entry.id)?;
        if !worth {
            self.buffer.clear();
            return None;
        }
        let bytes = self.buffer.len() - HEAD_BYTES;
        metrics.delivered(filled.records, bytes as u64);
        let deliver = Deliver {
            request_id: 0,
            subscription: id,
            next: filled.next.get(),
            end_of_log: filled.end_of_log,
            finished,
            lost: filled.lost.as_ref(),
            deliveries: Vec::new(),
        };
        Some(frame::end(&deliver, &mut self.buffer))
    }

    /// Does what a fill asks for; if it failed, the id of the subscription, which is over, and why.
    fn carry_on(&mut self, key: u64, then: Then, signals: &Arc<Signals>) -> Option<(u64, Refusal)> {
        match then {
            Then::Again => {
                let entry = self.entries.get_mut(&key);
                let ahead = entry.and_then(|entry| entry.subscription.read_ahead());
                if let Some(read) = ahead {
                    self.start_read(key, read, signals);
                }
                self.ready(key);
            }
            Then::Wait | Then::Credit | Then::Reading => {}
            Then::Read(read) => self.start_read(key, read, signals),
            Then::Finished => {
                let entry = self.entries.get_mut(&key)?;
                entry.finished = true;
                if entry.subscription.lease().is_none() {
                    self.remove(key);
                }
            }
            Then::Failed(error) => {
                let id = self.entries.get(&key).map_or(0, |entry| entry.id);
                self.remove(key);
                return Some((id, error.into()));
            }
        }
        None
    }

    /// Gives memory back that an idle session does not need.
    pub(super) fn shrink(&mut self) {
        self.buffer = BytesMut::new();
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }
}
