//! What a subscriber holds: records as they come, and the credit that lets more come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use prost::encoding::encoded_len_varint;
use tokio::sync::mpsc;

use super::driver::Request;
use super::{Client, Error};
use crate::proto::v1;
use crate::proto::v1::client_frame::Body as Ask;
use crate::proto::v1::server_frame::Body as Answer;
use crate::proto::view::RecordView;

/// Where a subscription starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Start {
    /// At the first record there is.
    Earliest,
    /// At what is appended from now on.
    #[default]
    Latest,
    /// At a sequence.
    Sequence(u64),
    /// At the first record appended at or after a time, in microseconds since the Unix epoch.
    Time(u64),
    /// With what there is to know now: the last record of each key, on delta topics its last base
    /// and the deltas since. After a lost connection it goes on like any other; a delta of a key
    /// whose base was not received is then to be passed over.
    Current,
}

/// Which records may be seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Visibility {
    /// Only what is on disk.
    #[default]
    Durable,
    /// Also what is written but not yet flushed: faster, and may be lost with the machine.
    WrittenToo,
}

/// What happens when a subscription has been near the end of the log and is now too far behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnLag {
    /// It reads on from the log and loses nothing.
    #[default]
    CatchUp,
    /// The oldest of what it has not got is dropped; [`Delivery::lost`] names the range.
    DropOldest,
    /// It ends with an error `SLOW_CONSUMER`.
    End,
}

/// What to subscribe to.
#[derive(Clone, Debug)]
pub struct SubscribeOptions {
    /// Reality.
    pub reality: String,
    /// Topic pattern: `*` one token, `>` the rest.
    pub filter: String,
    /// Where to start; a named consumer's stored cursor goes before it.
    pub start: Start,
    /// Name of a durable cursor; empty: none.
    pub consumer: String,
    /// Competing consumers; empty: none.
    pub group: String,
    /// How the group works, as far as this member says; what is 0 is as the group has it.
    pub group_options: v1::GroupOptions,
    /// Last sequence to deliver; 0: none.
    pub stop_sequence: u64,
    /// Last append time to deliver, in microseconds since the Unix epoch; 0: none.
    pub stop_time: u64,
    /// End at what is the end of the log now.
    pub stop_at_end: bool,
    /// Which records may be seen.
    pub visibility: Visibility,
    /// Only records with exactly this `twist_id`; empty: whatever it is.
    pub twist_id: String,
    /// Only records with spectral metadata within these bounds.
    pub spectral: Option<v1::SpectralRange>,
    /// What happens when it is too far behind; with a named consumer only the default is allowed.
    pub on_lag: OnLag,
    /// Records that may be under way or waiting here. For a member of a group: that it may have
    /// and has not answered for.
    pub window_records: u64,
    /// Bytes, likewise.
    pub window_bytes: u64,
}

impl SubscribeOptions {
    /// Works for `group`, which shares the records of `filter` in `main` from its earliest on among
    /// its members; this one has up to 16 at a time.
    #[must_use]
    pub fn group(filter: impl Into<String>, group: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            start: Start::Earliest,
            window_records: 16,
            ..Self::new(filter)
        }
    }

    /// Follows `filter` in `main` from now on, with a window of 4 MiB.
    #[must_use]
    pub fn new(filter: impl Into<String>) -> Self {
        Self {
            reality: "main".to_owned(),
            filter: filter.into(),
            start: Start::Latest,
            consumer: String::new(),
            group: String::new(),
            group_options: v1::GroupOptions::default(),
            stop_sequence: 0,
            stop_time: 0,
            stop_at_end: false,
            visibility: Visibility::Durable,
            twist_id: String::new(),
            spectral: None,
            on_lag: OnLag::CatchUp,
            window_records: 1 << 16,
            window_bytes: 4 << 20,
        }
    }

    pub(super) fn message(&self, subscription: u64) -> v1::Subscribe {
        use v1::subscribe::Start as Wire;
        v1::Subscribe {
            subscription,
            reality: self.reality.clone(),
            filter: self.filter.clone(),
            consumer: self.consumer.clone(),
            group: self.group.clone(),
            group_options: (self.group_options != v1::GroupOptions::default())
                .then_some(self.group_options),
            stop_sequence: self.stop_sequence,
            stop_time: self.stop_time,
            stop_at_end: self.stop_at_end,
            credit_records: self.window_records,
            credit_bytes: self.window_bytes,
            causal: false,
            twist_id: self.twist_id.clone(),
            spectral: self.spectral,
            visibility: match self.visibility {
                Visibility::Durable => v1::subscribe::Visibility::Durable,
                Visibility::WrittenToo => v1::subscribe::Visibility::WrittenToo,
            }
            .into(),
            on_lag: match self.on_lag {
                OnLag::CatchUp => v1::subscribe::OnLag::CatchUp,
                OnLag::DropOldest => v1::subscribe::OnLag::DropOldest,
                OnLag::End => v1::subscribe::OnLag::End,
            }
            .into(),
            start: Some(match self.start {
                Start::Earliest => Wire::Earliest(true),
                Start::Latest => Wire::Latest(true),
                Start::Current => Wire::Current(true),
                Start::Sequence(sequence) => Wire::Sequence(sequence),
                Start::Time(time) => Wire::Time(time),
            }),
        }
    }
}

/// Some records, in order, and where the subscription stands after them.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    /// Encoded records; [`Delivery::views`] reads them.
    pub records: Vec<Bytes>,
    /// Everything below this sequence has been delivered or does not match.
    pub next: u64,
    /// All there was when this was sent has now been delivered.
    pub end_of_log: bool,
    /// A stop condition was met: nothing follows.
    pub finished: bool,
    /// Records that are damaged on the node's disk, or were dropped because this reader was too
    /// far behind.
    pub lost: Option<v1::LostRange>,
    /// To a member of a group: for each record, in the same order, which delivery it is and when
    /// another member gets it.
    pub deliveries: Vec<v1::Delivery>,
}

impl Delivery {
    /// The records, read.
    pub fn views(&self) -> impl Iterator<Item = Result<RecordView<'_>, Error>> {
        self.records.iter().map(|record| {
            RecordView::parse(record).map_err(|error| Error::Protocol {
                reason: format!("a record's {error}"),
            })
        })
    }

    /// What the records cost of the credit: their encoded size as fields of `Deliver`.
    pub(super) fn cost(&self) -> Cost {
        let bytes = self.records.iter().map(|record| {
            let length = record.len() as u64;
            1 + encoded_len_varint(length) as u64 + length
        });
        Cost {
            records: self.records.len() as u64,
            bytes: bytes.sum(),
        }
    }
}

impl From<v1::Deliver> for Delivery {
    fn from(deliver: v1::Deliver) -> Self {
        Self {
            records: deliver.records,
            next: deliver.next,
            end_of_log: deliver.end_of_log,
            finished: deliver.finished,
            lost: deliver.lost,
            deliveries: deliver.deliveries,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Cost {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// What the application has taken so far; the driver turns it into credit.
#[derive(Debug, Default)]
pub(super) struct Consumed {
    records: AtomicU64,
    bytes: AtomicU64,
}

impl Consumed {
    pub(super) fn total(&self) -> Cost {
        Cost {
            records: self.records.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    pub(super) fn add(&self, cost: Cost) {
        self.records.fetch_add(cost.records, Ordering::Relaxed);
        self.bytes.fetch_add(cost.bytes, Ordering::Relaxed);
    }
}

/// An open subscription. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    number: u64,
    subscribed: v1::Subscribed,
    deliveries: mpsc::Receiver<Result<Delivery, Error>>,
    consumed: Arc<Consumed>,
    window: Cost,
    /// In the application's hands: it counts as consumed when the next one is asked for.
    in_hand: Cost,
    since_credit: Cost,
    ended: bool,
    of_group: bool,
}

impl Subscription {
    pub(super) fn new(
        client: Client,
        subscribed: v1::Subscribed,
        deliveries: mpsc::Receiver<Result<Delivery, Error>>,
        consumed: Arc<Consumed>,
        window: Cost,
        of_group: bool,
    ) -> Self {
        Self {
            client,
            number: subscribed.subscription,
            subscribed,
            deliveries,
            consumed,
            window,
            in_hand: Cost::default(),
            since_credit: Cost::default(),
            ended: false,
            of_group,
        }
    }

    /// How the node answered: tenant, reality, where it starts, where the log ends.
    #[must_use]
    pub const fn subscribed(&self) -> &v1::Subscribed {
        &self.subscribed
    }

    /// The next records, or `None` when a stop condition has been met. Asking for more says that
    /// what came before is done with, and lets the node send as much again. Cancel-safe.
    ///
    /// # Errors
    /// The node ended the subscription, or the connection is lost for good.
    pub async fn next(&mut self) -> Result<Option<Delivery>, Error> {
        if self.ended {
            return Ok(None);
        }
        // A group's window opens with what is answered for.
        if !self.of_group {
            self.give_credit().await;
        }
        let Some(delivery) = self.deliveries.recv().await else {
            self.ended = true;
            return Err(Error::Closed);
        };
        match delivery {
            Ok(delivery) => {
                self.in_hand = delivery.cost();
                self.ended = delivery.finished;
                Ok(Some(delivery))
            }
            Err(error) => {
                self.ended = true;
                Err(error)
            }
        }
    }

    async fn give_credit(&mut self) {
        let done = std::mem::take(&mut self.in_hand);
        self.consumed.add(done);
        self.since_credit.records += done.records;
        self.since_credit.bytes += done.bytes;
        // Half a window at a time: the other half keeps the node sending meanwhile.
        if self.since_credit.records * 2 >= self.window.records
            || self.since_credit.bytes * 2 >= self.window.bytes
        {
            self.since_credit = Cost::default();
            // If the driver has ended, the next receive says why.
            let _ended = self.client.tell(Request::Credit(self.number)).await;
        }
    }

    /// Says that everything up to and including `sequence` is done, without waiting: the named
    /// consumer resumes after it.
    ///
    /// # Errors
    /// The client is closed.
    pub async fn ack(&self, sequence: u64) -> Result<(), Error> {
        self.client
            .tell(Request::Ack {
                subscription: self.number,
                sequence,
            })
            .await
    }

    /// Says that the record at `sequence` will never be dealt with, and that everything before it is
    /// done: it becomes a dead letter of the named consumer, which resumes after it. On `Ok` both are
    /// on disk.
    ///
    /// # Errors
    /// As [`Subscription::ack_confirmed`].
    pub async fn give_up(&self, sequence: u64, reason: &str) -> Result<(), Error> {
        let nack = v1::Nack {
            subscription: self.number,
            sequence,
            reason: reason.to_owned(),
            dead_letter: true,
            ..v1::Nack::default()
        };
        match self.client.ask(Ask::Nack(nack)).await? {
            Answer::Acked(_) => Ok(()),
            _ => Err(Error::unexpected("an Acked")),
        }
    }

    /// Like [`Subscription::ack`]; on `Ok` the cursor is on disk.
    ///
    /// # Errors
    /// The subscription has no named consumer, or the connection was lost: the cursor may or may
    /// not have moved, and it does no harm to ask again.
    pub async fn ack_confirmed(&self, sequence: u64) -> Result<(), Error> {
        let ack = v1::Ack {
            subscription: self.number,
            sequence,
            attempt: 0,
        };
        match self.client.ask(Ask::Ack(ack)).await? {
            Answer::Acked(_) => Ok(()),
            _ => Err(Error::unexpected("an Acked")),
        }
    }
}

/// What a member of a group says about a record that it has.
impl Subscription {
    /// A record is done, without waiting for the answer.
    ///
    /// # Errors
    /// The client is closed.
    pub async fn done(&self, delivery: &v1::Delivery) -> Result<(), Error> {
        self.client
            .tell(Request::Tell(Box::new(Ask::Ack(self.ack_of(delivery)))))
            .await
    }

    /// A record is done; on `Ok` that is on disk.
    ///
    /// # Errors
    /// The record is not this member's any more (`STALE`): somebody else has it, or had it. Or the
    /// connection was lost: it may or may not count, and another member may get it once more.
    pub async fn done_confirmed(&self, delivery: &v1::Delivery) -> Result<(), Error> {
        match self.client.ask(Ask::Ack(self.ack_of(delivery))).await? {
            Answer::Acked(_) => Ok(()),
            _ => Err(Error::unexpected("an Acked")),
        }
    }

    fn ack_of(&self, delivery: &v1::Delivery) -> v1::Ack {
        v1::Ack {
            subscription: self.number,
            sequence: delivery.sequence,
            attempt: delivery.attempt,
        }
    }

    /// A record has failed, for `reason`: it is tried again after `delay`, or as the group backs off
    /// if that is zero. On `Ok` that is on disk.
    ///
    /// # Errors
    /// As [`Subscription::done_confirmed`].
    pub async fn failed(
        &self,
        delivery: &v1::Delivery,
        reason: &str,
        delay: Duration,
    ) -> Result<(), Error> {
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.nack(delivery, reason, delay_ms, false).await
    }

    /// A record has failed, and trying again is of no use: it becomes a dead letter. On `Ok` that is
    /// certain.
    ///
    /// # Errors
    /// As [`Subscription::done_confirmed`].
    pub async fn rejected(&self, delivery: &v1::Delivery, reason: &str) -> Result<(), Error> {
        self.nack(delivery, reason, 0, true).await
    }

    async fn nack(
        &self,
        delivery: &v1::Delivery,
        reason: &str,
        delay_ms: u64,
        dead_letter: bool,
    ) -> Result<(), Error> {
        let nack = v1::Nack {
            subscription: self.number,
            sequence: delivery.sequence,
            attempt: delivery.attempt,
            reason: reason.to_owned(),
            delay_ms,
            dead_letter,
        };
        match self.client.ask(Ask::Nack(nack)).await? {
            Answer::Acked(_) => Ok(()),
            _ => Err(Error::unexpected("an Acked")),
        }
    }

    /// A record takes longer: its deadline is `by` from now, or the group's own once more if that is
    /// zero. Answers with the deadline, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// As [`Subscription::done_confirmed`].
    pub async fn extend(&self, delivery: &v1::Delivery, by: Duration) -> Result<u64, Error> {
        let extend = v1::Extend {
            subscription: self.number,
            sequence: delivery.sequence,
            attempt: delivery.attempt,
            by_ms: u64::try_from(by.as_millis()).unwrap_or(u64::MAX),
        };
        match self.client.ask(Ask::Extend(extend)).await? {
            Answer::Extended(extended) => Ok(extended.deadline_ms),
            _ => Err(Error::unexpected("an Extended")),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.deliveries.close();
        self.client.forget(self.number);
    }
}

/// Takes out what was already delivered before a connection was lost, and says what it cost.
pub(super) fn drop_known(delivery: &mut Delivery, next: u64) -> Cost {
    let known = |record: &Bytes| RecordView::parse(record).is_ok_and(|view| view.sequence < next);
    let count = delivery
        .records
        .iter()
        .take_while(|record| known(record))
        .count();
    let rest = delivery.records.split_off(count);
    let dropped = delivery.cost();
    delivery.records = rest;
    dropped
}
