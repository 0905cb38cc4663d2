//! The groups that a session works for: what it is given, and what it answers.
//!
//! Beside `delivery`, which has the subscriptions that read for themselves. Keys are of the same
//! kind, so that news find the right one.

use std::collections::{HashMap, VecDeque};

use bytes::BytesMut;

use super::frame::{self, Deliver, HEAD_BYTES};
use super::outbox::{Outbox, Outgoing};
use super::refusal::Refusal;
use crate::broker;
use crate::broker::group::{Answered, Leased, Member};
use crate::edge::metrics::Metrics;
use crate::log::AppendError;
use crate::proto::ErrorCode;
use crate::proto::v1::{self, Acked, Unsubscribed, server_frame::Body};

/// An answer that is to be confirmed when it is on disk.
#[derive(Debug)]
struct Waiting {
    request_id: u64,
    sequence: u64,
    version: u64,
}

/// One group as the session sees it.
#[derive(Debug)]
pub(super) struct Entry {
    /// What the client calls its subscription.
    id: u64,
    pub(super) member: Member,
    /// It stands in the queue of those to be asked for work.
    queued: bool,
    waiting: Vec<Waiting>,
    /// Request to end it, once these are answered.
    ending: Option<u64>,
}

/// The groups of a session.
#[derive(Debug, Default)]
pub(super) struct Memberships {
    entries: HashMap<u64, Entry>,
    keys: HashMap<u64, u64>,
    queue: VecDeque<u64>,
    waiting: usize,
    buffer: BytesMut,
}

impl Memberships {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Answers that are to be confirmed.
    pub(super) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether the client may give a new subscription this id.
    pub(super) fn is_free(&self, id: u64) -> bool {
        !self.keys.contains_key(&id)
    }

    pub(super) fn get(&mut self, id: u64) -> Option<(u64, &mut Entry)> {
        let key = *self.keys.get(&id)?;
        let entry = self.entries.get_mut(&key)?;
        entry.ending.is_none().then_some((key, entry))
    }

    pub(super) fn insert(&mut self, key: u64, id: u64, member: Member) {
        let entry = Entry {
            id,
            member,
            queued: false,
            waiting: Vec::new(),
            ending: None,
        };
        self.keys.insert(id, key);
        self.entries.insert(key, entry);
        self.ready(key);
    }

    fn remove(&mut self, key: u64) -> Option<Entry> {
        let entry = self.entries.remove(&key)?;
        self.keys.remove(&entry.id);
        self.waiting -= entry.waiting.len();
        Some(entry)
    }

    /// The group is to be asked for work.
    pub(super) fn ready(&mut self, key: u64) {
        if let Some(entry) = self.entries.get_mut(&key)
            && !entry.queued
            && entry.ending.is_none()
        {
            entry.queued = true;
            self.queue.push_back(key);
        }
    }

    /// Notes how far an answer has got, and confirms it if that is all.
    pub(super) fn answered(
        &mut self,
        key: u64,
        request_id: u64,
        sequence: u64,
        answered: Answered,
        outbox: &mut Outbox,
    ) {
        let Some(entry) = self.entries.get_mut(&key).filter(|_| request_id != 0) else {
            return;
        };
        match answered {
            Answered::Stored => outbox.answer(request_id, acked(entry.id, sequence)),
            Answered::InVersion(version) => {
                let waiting = Waiting {
                    request_id,
                    sequence,
                    version,
                };
                entry.waiting.push(waiting);
                self.waiting += 1;
            }
        }
    }

    /// What was answered is on disk, or not.
    pub(super) fn stored(
        &mut self,
        key: u64,
        outcome: Result<u64, AppendError>,
        outbox: &mut Outbox,
    ) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        let before = entry.waiting.len();
        match outcome {
            Ok(stored) => entry.waiting.retain(|one| {
                let covered = one.version <= stored;
                if covered {
                    outbox.answer(one.request_id, acked(entry.id, one.sequence));
                }
                !covered
            }),
            Err(error) => {
                let refusal = Refusal::from(broker::Error::from(error));
                for one in entry.waiting.drain(..) {
                    outbox.refuse(one.request_id, refusal.clone());
                }
            }
        }
        self.waiting -= before - entry.waiting.len();
        if let Some(request_id) = entry.ending
            && entry.waiting.is_empty()
        {
            self.end(key, request_id, outbox);
        }
    }

    /// Leaves a group, at once or when all it has answered is confirmed.
    pub(super) fn end(&mut self, key: u64, request_id: u64, outbox: &mut Outbox) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if !entry.waiting.is_empty() {
            entry.ending = Some(request_id);
            return;
        }
        if let Some(entry) = self.remove(key) {
            let subscription = entry.id;
            entry.member.leave();
            outbox.answer(
                request_id,
                Body::Unsubscribed(Unsubscribed { subscription }),
            );
        }
    }

    /// A group has been ended.
    pub(super) fn dismissed(&mut self, key: u64, outbox: &mut Outbox) {
        if let Some(entry) = self.remove(key) {
            let group = entry.member.group().to_owned();
            let refusal = Refusal::from(broker::Error::GroupEnded { group });
            for one in &entry.waiting {
                outbox.refuse(one.request_id, refusal.clone());
            }
            outbox.refuse_subscription(0, entry.id, refusal);
        }
    }

    /// Leaves those that `allowed` is false for; why, by the ids of their subscriptions.
    pub(super) fn keep(&mut self, allowed: impl Fn(&Member) -> bool) -> Vec<(u64, Refusal)> {
        let forbidden = self.entries.iter();
        let forbidden = forbidden.filter(|(_, entry)| !allowed(&entry.member));
        let mut keys: Vec<u64> = forbidden.map(|(key, _)| *key).collect();
        keys.sort_unstable();
        let over = keys.into_iter().filter_map(|key| {
            let entry = self.remove(key)?;
            let (id, filter) = (entry.id, entry.member.filter());
            let text = format!(
                "subscription {id} is over: the session's new token may not see all that {filter} matches"
            );
            let refusal = Refusal::new(ErrorCode::Forbidden, "filter", text);
            entry.member.leave();
            Some((id, refusal))
        });
        over.collect()
    }

    /// Leaves all of them in order: the node is going down, which is not the records' fault.
    pub(super) fn leave_all(&mut self) {
        for (_, entry) in self.entries.drain() {
            entry.member.leave();
        }
    }

    /// The next Deliver frame, of whichever group's turn it is.
    pub(super) fn next_frame(
        &mut self,
        bytes_max: usize,
        outbox: &mut Outbox,
        metrics: &Metrics,
    ) -> Option<Outgoing> {
        while let Some(key) = self.queue.pop_front() {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            entry.queued = false;
            if entry.ending.is_some() {
                continue;
            }
            match entry.member.lease(bytes_max) {
                Ok(leased) if leased.is_empty() => {}
                Ok(leased) => return Some(Outgoing::Binary(self.frame_of(key, &leased, metrics)?)),
                Err(error) => {
                    let id = entry.id;
                    self.remove(key);
                    outbox.refuse_subscription(0, id, error.into());
                    return outbox.pop();
                }
            }
        }
        None
    }

    fn frame_of(&mut self, key: u64, leased: &[Leased], metrics: &Metrics) -> Option<bytes::Bytes> {
        let entry = self.entries.get(&key)?;
        frame::begin(&mut self.buffer);
        for one in leased {
            self.buffer.extend_from_slice(one.field());
        }
        let bytes = self.buffer.len() - HEAD_BYTES;
        metrics.delivered(leased.len() as u64, bytes as u64);
        let deliveries = leased.iter().map(|one| v1::Delivery {
            sequence: one.sequence.get(),
            attempt: one.attempt,
            deadline_ms: one.deadline.as_millis(),
        });
        let deliver = Deliver {
            subscription: entry.id,
            next: entry.member.floor().get(),
            deliveries: deliveries.collect(),
            ..Deliver::default()
        };
        Some(frame::end(&deliver, &mut self.buffer))
    }

    /// Gives memory back that an idle session does not need.
    pub(super) fn shrink(&mut self) {
        self.buffer = BytesMut::new();
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }
}

fn acked(subscription: u64, sequence: u64) -> Body {
    Body::Acked(Acked {
        subscription,
        sequence,
    })
}
