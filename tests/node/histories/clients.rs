//! Clients that do as they like and write down what they are told.
//!
//! Each is a task that connects, works until its connection is lost, and connects again until its
//! node is dead. A connection is a process of the history. A call is written down when it has been
//! answered or can no longer be; its start was taken before anything was sent, so that the times
//! can only be too wide, and a violation is never made by the one who looks for it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arqonbus::client::{
    Client, ConnectOptions, Delivery, Error, FetchOptions, Outcome, Outgoing, ProduceOptions,
    Reconnect, Start, SubscribeOptions, Subscription, Ticket, Visibility,
};
use arqonbus::proto::ErrorCode;
use arqonbus::proto::v1::{self, value::Kind};

use super::event::{
    Append, AppendOutcome, CommitOutcome, CursorSource, Durability, Operation, Read, Sight, Tick,
    Value, What,
};
use crate::dice::Dice;

const EVERYTHING: &str = "histories.>";
const TOPICS: [&str; 3] = ["histories.a", "histories.b", "histories.b.c"];
const KEYS: [&str; 4] = ["", "k1", "k2", "k3"];
pub(super) const CONSUMERS: [&str; 2] = ["careful", "hasty"];
const UNDER_WAY_MAX: usize = 8;
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(10);

/// Writes down the history of one log.
#[derive(Debug, Default)]
pub(super) struct Scribe {
    ticks: AtomicU64,
    numbers: AtomicU64,
    processes: AtomicU32,
    operations: Mutex<Vec<Operation>>,
}

impl Scribe {
    pub(super) fn now(&self) -> Tick {
        self.ticks.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn process(&self) -> u32 {
        self.processes.fetch_add(1, Ordering::SeqCst)
    }

    fn note(&self, operation: Operation) {
        let mut operations = self.operations.lock().expect("no panic");
        operations.push(operation);
    }

    pub(super) fn take(&self) -> Vec<Operation> {
        std::mem::take(&mut self.operations.lock().expect("no panic"))
    }
}

/// One life of a node, as its clients know it.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) scribe: Arc<Scribe>,
    pub(super) number: usize,
    pub(super) token: Arc<str>,
    /// The node is dead: no more attempts.
    pub(super) over: Arc<AtomicBool>,
}

/// One connection, and where what happens on it is written down.
#[derive(Debug)]
struct Process {
    life: Life,
    number: u32,
    client: Client,
}

impl Life {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    async fn connect(&self, to: SocketAddr, reconnect: Reconnect) -> Result<Process, Error> {
        let mut options = ConnectOptions::new(format!("ws://{to}/v1/ws"), &*self.token);
        options.reconnect = reconnect;
        let client = Client::connect(options).await?;
        Ok(Process {
            life: self.clone(),
            number: self.scribe.process(),
            client,
        })
    }

    /// Until it succeeds or the node is dead.
    async fn connected(&self, to: SocketAddr) -> Option<Process> {
        while !self.is_over() {
            if let Ok(process) = self.connect(to, Reconnect::Never).await {
                return Some(process);
            }
            tokio::time::sleep(RETRY).await;
        }
        None
    }
}

/// A call that was made and whose answer is awaited.
#[derive(Debug)]
struct Sent {
    start: Tick,
    ticket: Ticket,
    append: Append,
}

impl Process {
    fn now(&self) -> Tick {
        self.life.scribe.now()
    }

    fn note(&self, start: Tick, what: What) {
        let operation = Operation {
            process: self.number,
            life: self.life.number,
            start,
            end: self.now(),
            what,
        };
        self.life.scribe.note(operation);
    }

    fn values(&self, dice: &mut Dice) -> Vec<Value> {
        let numbers = &self.life.scribe.numbers;
        let value = |dice: &mut Dice| Value {
            number: numbers.fetch_add(1, Ordering::SeqCst),
            topic: (*dice.pick(&TOPICS)).to_owned(),
            key: (*dice.pick(&KEYS)).to_owned(),
        };
        (0..1 + dice.below(6)).map(|_| value(dice)).collect()
    }

    /// Sends a batch; `None` if the connection is lost.
    async fn send(&self, dice: &mut Dice) -> Option<Sent> {
        let durability = *dice.pick(&[Durability::Written, Durability::Synced]);
        let values = self.values(dice);
        let mut batch = self.client.batch();
        let filler = "x".repeat(dice.index(400));
        for value in &values {
            batch.push(&Outgoing {
                topic: &value.topic,
                key: &value.key,
                data: format!("[{},\"{filler}\"]", value.number).as_bytes(),
                ..Outgoing::default()
            });
        }
        if dice.chance(3) {
            // Nobody may produce that, so that all of the batch must be refused.
            batch.push(&Outgoing {
                topic: "sys.forbidden",
                ..Outgoing::default()
            });
        }
        let options = ProduceOptions {
            durability: match durability {
                Durability::Written => arqonbus::client::Durability::Written,
                Durability::Synced => arqonbus::client::Durability::Synced,
            },
            ..ProduceOptions::default()
        };
        let append = Append {
            values,
            durability,
            expected: None,
            outcome: AppendOutcome::Unknown,
        };
        let start = self.now();
        match self.client.send(&batch, &options).await {
            Ok(ticket) => Some(Sent {
                start,
                ticket,
                append,
            }),
            Err(error) => {
                self.answered(start, append, &error);
                None
            }
        }
    }

    fn answered(&self, start: Tick, mut append: Append, error: &Error) {
        append.outcome = match error.outcome() {
            Outcome::Rejected | Outcome::NotApplied => AppendOutcome::Refused,
            Outcome::Unknown => AppendOutcome::Unknown,
        };
        self.note(start, What::Append(append));
    }

    /// Waits for the answer; `false` if the connection is lost.
    async fn hear(&self, sent: Sent) -> bool {
        let Sent {
            start,
            ticket,
            mut append,
        } = sent;
        match ticket.produced().await {
            Ok(produced) => {
                append.outcome = AppendOutcome::Stored {
                    first: produced.first,
                    last: produced.last,
                };
                self.note(start, What::Append(append));
                true
            }
            Err(error) => {
                self.answered(start, append, &error);
                if error.code() == Some(ErrorCode::ShuttingDown) {
                    tokio::time::sleep(RETRY).await;
                }
                matches!(error, Error::Answered { .. })
            }
        }
    }

    /// What a delivery shows, beginning with `from`.
    fn shown(&self, start: Tick, read: Read, delivery: &Delivery) {
        assert_eq!(delivery.lost, None, "nobody has damaged anything");
        let records = delivery.views().map(|view| {
            let view = view.expect("a record");
            view.verify().expect("its checksum");
            let value = Value {
                number: number_in(view.envelope.payload.data()),
                topic: view.topic.to_owned(),
                key: view.envelope.key.to_owned(),
            };
            (view.sequence, value)
        });
        let read = Read {
            records: records.collect(),
            next: delivery.next,
            is_end: delivery.end_of_log,
            ..read
        };
        self.note(start, What::Read(read));
    }

    /// Reads once; `None` if the connection is lost.
    async fn fetch(
        &self,
        from: u64,
        topic: Option<&str>,
        records: u64,
        stream: Option<u32>,
    ) -> Option<Delivery> {
        let start = self.now();
        let options = FetchOptions {
            reality: "main".to_owned(),
            filter: topic.unwrap_or(EVERYTHING).to_owned(),
            from,
            records,
            bytes: 0,
        };
        let delivery = self.client.fetch(options).await.ok()?;
        let read = Read {
            stream,
            sight: Sight::Durable,
            topic: topic.map(str::to_owned),
            from,
            records: Vec::new(),
            next: 0,
            is_end: false,
        };
        self.shown(start, read, &delivery);
        Some(delivery)
    }

    /// Looks at the ends of the log; returns the durable one, or `None` if the connection is lost.
    async fn look_at_ends(&self) -> Option<u64> {
        let start = self.now();
        let status = self.client.command("log.status", []).await.ok()?;
        let end_of = |name: &str| match status.field(name).and_then(|end| end.kind.as_ref()) {
            Some(Kind::Unsigned(end)) => *end,
            other => panic!("log.status has {other:?} as {name}"),
        };
        let durable = end_of("durable_end");
        for (sight, end) in [
            (Sight::Durable, durable),
            (Sight::Written, end_of("written_end")),
        ] {
            self.note(start, What::Tail { sight, end });
        }
        Some(durable)
    }

    /// Looks at the cursors that are on disk.
    async fn look_at_cursors(&self) -> Option<()> {
        let start = self.now();
        let listed = self.client.command("consumer.list", []).await.ok()?;
        for consumer in CONSUMERS {
            let what = What::Cursor {
                consumer: consumer.to_owned(),
                through: cursor_in(&listed, consumer),
                source: CursorSource::Stored,
            };
            self.note(start, what);
        }
        Some(())
    }
}

fn number_in(data: &[u8]) -> u64 {
    let text = std::str::from_utf8(data).expect("text");
    let number = text.trim_start_matches('[').split(',').next();
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no number in {text}"))
}

fn cursor_in(listed: &v1::Value, consumer: &str) -> u64 {
    let Some(Kind::List(list)) = &listed.kind else {
        panic!("consumer.list answers {listed:?}");
    };
    let is_it = |item: &&v1::Value| {
        let name = item.field("consumer").and_then(|name| name.kind.as_ref());
        name == Some(&Kind::Text(consumer.to_owned()))
    };
    let item = list.items.iter().find(is_it);
    match item.and_then(|item| item.field("sequence")?.kind.as_ref()) {
        Some(Kind::Unsigned(sequence)) => *sequence,
        None => 0,
        Some(other) => panic!("a cursor at {other:?}"),
    }
}

/// Appends, several batches under way.
pub(super) async fn produce(life: Life, to: SocketAddr, mut dice: Dice) {
    while let Some(process) = life.connected(to).await {
        let mut under_way: VecDeque<Sent> = VecDeque::new();
        loop {
            let Some(sent) = process.send(&mut dice).await else {
                break;
            };
            under_way.push_back(sent);
            let wait = under_way.len() >= UNDER_WAY_MAX || dice.chance(40);
            if wait
                && let Some(sent) = under_way.pop_front()
                && !process.hear(sent).await
            {
                break;
            }
        }
        for sent in under_way {
            process.hear(sent).await;
        }
    }
}

/// Looks here and there.
pub(super) async fn look(life: Life, to: SocketAddr, mut dice: Dice) {
    while let Some(process) = life.connected(to).await {
        let mut end = 1;
        loop {
            let from = 1 + dice.below(end);
            let from = if dice.chance(50) {
                from
            } else {
                end.saturating_sub(dice.below(20)).max(1)
            };
            let topic = dice.chance(40).then(|| *dice.pick(&TOPICS));
            let records = *dice.pick(&[0, 1, 7, 100]);
            let looked = match dice.below(4) {
                0 => process.look_at_ends().await,
                1 => process.look_at_cursors().await.map(|()| end),
                _ => {
                    let found = process.fetch(from, topic, records, None).await;
                    found.map(|_| end)
                }
            };
            match looked {
                Some(found) => end = found,
                None => break,
            }
        }
    }
}

fn stream_read(stream: u32, sight: Sight, from: u64) -> Read {
    Read {
        stream: Some(stream),
        sight,
        topic: None,
        from,
        records: Vec::new(),
        next: 0,
        is_end: false,
    }
}

/// Follows everything as early as it can be had, continuing where it was after each cut.
pub(super) async fn follow(life: Life, to: SocketAddr) {
    let stream = life.scribe.process();
    let mut next = 1;
    while let Some(process) = life.connected(to).await {
        let mut options = SubscribeOptions::new(EVERYTHING);
        options.start = Start::Sequence(next);
        options.visibility = Visibility::WrittenToo;
        let start = process.now();
        let Ok(mut subscription) = process.client.subscribe(options).await else {
            continue;
        };
        while let Ok(Some(delivery)) = subscription.next().await {
            let read = stream_read(stream, Sight::Written, next);
            process.shown(start, read, &delivery);
            next = delivery.next;
        }
    }
}

/// Follows what is durable over all lives, by one client that reconnects on its own, until it has
/// seen all below `end`, once that is known.
pub(super) async fn follow_for_ever(
    life: Life,
    to: SocketAddr,
    mut end: tokio::sync::watch::Receiver<Option<u64>>,
) {
    let patience = Reconnect::Within(Duration::from_secs(60));
    let process = loop {
        match life.connect(to, patience).await {
            Ok(process) => break process,
            // A first connection is tried once, and the node may be on its way down.
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    };
    let stream = life.scribe.process();
    let start = process.now();
    let mut next = 1;
    loop {
        let mut options = SubscribeOptions::new(EVERYTHING);
        options.start = Start::Sequence(next);
        let mut subscription = match process.client.subscribe(options).await {
            Ok(subscription) => subscription,
            // The node died meanwhile, or is about to; the client connects to the next one.
            Err(error) if is_passing(&error) => {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Err(error) => panic!("it cannot follow: {error}"),
        };
        loop {
            if end.borrow_and_update().is_some_and(|end| next >= end) {
                return;
            }
            tokio::select! {
                delivery = subscription.next() => match delivery {
                    Ok(delivery) => {
                        let delivery = delivery.expect("it has no end");
                        let read = stream_read(stream, Sight::Durable, next);
                        process.shown(start, read, &delivery);
                        next = delivery.next;
                    }
                    Err(error) if is_passing(&error) => break,
                    Err(error) => panic!("it cannot go on: {error}"),
                },
                changed = end.changed() => changed.expect("whoever waits for this holds the sender"),
            }
        }
    }
}

fn is_passing(error: &Error) -> bool {
    matches!(error, Error::ConnectionLost { .. }) || error.retryable()
}

/// Consumes by name, acknowledging now and then, and resuming where it was.
pub(super) async fn consume(life: Life, to: SocketAddr, name: &'static str, mut dice: Dice) {
    while let Some(process) = life.connected(to).await {
        let mut options = SubscribeOptions::new(EVERYTHING);
        options.start = Start::Earliest;
        name.clone_into(&mut options.consumer);
        let start = process.now();
        let Ok(subscription) = process.client.subscribe(options).await else {
            // The node may not have noticed yet that the connection before is lost.
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let subscribed = subscription.subscribed();
        let through = if subscribed.resumed {
            subscribed.next - 1
        } else {
            0
        };
        let what = What::Cursor {
            consumer: name.to_owned(),
            through,
            source: CursorSource::Resumed,
        };
        process.note(start, what);
        consume_on(&process, start, subscription, name, &mut dice).await;
    }
}

async fn consume_on(
    process: &Process,
    start: Tick,
    mut subscription: Subscription,
    name: &str,
    dice: &mut Dice,
) {
    let stream = process.life.scribe.process();
    let mut next = subscription.subscribed().next;
    while let Ok(Some(delivery)) = subscription.next().await {
        let read = stream_read(stream, Sight::Durable, next);
        process.shown(start, read, &delivery);
        next = delivery.next;
        let Some(last) = delivery.views().last() else {
            continue;
        };
        let mut through = last.expect("a record").sequence;
        if dice.chance(20) {
            // Out of order, or of what is not there: must move nothing.
            through = if dice.chance(50) {
                1 + dice.below(through)
            } else {
                through + 1_000_000
            };
        }
        if !acknowledge(process, &subscription, name, through, dice).await {
            return;
        }
        if dice.chance(5) {
            // Somebody else takes over.
            return;
        }
    }
}

/// `false` if the connection is lost.
async fn acknowledge(
    process: &Process,
    subscription: &Subscription,
    name: &str,
    through: u64,
    dice: &mut Dice,
) -> bool {
    let start = process.now();
    let commit = |outcome| What::Commit {
        consumer: name.to_owned(),
        through,
        outcome,
    };
    if dice.chance(50) {
        let sent = subscription.ack(through).await.is_ok();
        process.note(start, commit(CommitOutcome::Unknown));
        return sent;
    }
    match subscription.ack_confirmed(through).await {
        Ok(()) => {
            process.note(start, commit(CommitOutcome::Stored));
            true
        }
        Err(error) => {
            process.note(
                start,
                commit(match error.outcome() {
                    Outcome::Rejected | Outcome::NotApplied => CommitOutcome::Refused,
                    Outcome::Unknown => CommitOutcome::Unknown,
                }),
            );
            matches!(error, Error::Answered { .. })
        }
    }
}

/// Reads everything and all that there is to know besides, so that nothing can be missing unseen;
/// returns the end of the log.
pub(super) async fn look_at_everything(life: &Life, to: SocketAddr) -> u64 {
    let process = life.connected(to).await.expect("the node runs");
    let stream = life.scribe.process();
    let mut from = 1;
    loop {
        let delivery = process.fetch(from, None, 0, Some(stream)).await;
        let delivery = delivery.expect("an answer");
        from = delivery.next;
        if delivery.end_of_log {
            break;
        }
    }
    for topic in TOPICS {
        let found = process.fetch(1, Some(topic), 0, None).await;
        found.expect("an answer");
    }
    let end = process.look_at_ends().await.expect("an answer");
    process.look_at_cursors().await.expect("an answer");
    end
}
