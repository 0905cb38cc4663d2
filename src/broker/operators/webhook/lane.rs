//! One rule at work: reads what it matches, sends it in order, and keeps where it has got to
//! (OPS-05).
//!
//! ```text
//!   log ──► window ──► breaker, permits ──► attempt ──► 2xx ──────► done ──► position
//!             ▲                                │                               │ gathered
//!             │                                ├─ 410 ─────► rule disabled     ▼
//!             └── again, after its wait ◄──────┤                            _system
//!                                              └─ the last ─► dead letter, done
//! ```
//!
//! An event counts as done when it was answered with 2xx, or when its dead letter is on disk. The
//! position is stored after that, so that a crash brings events again and loses none. A lane belongs
//! to one rule as it is: whoever changes the rule ends its lane and begins another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::NAME;
use super::body;
use super::breaker::{Admission, Breaker};
use super::desk::{Account, Attempt, Desk, lock};
use super::post::{Answer, Failed, Kept, Poster};
use super::retry;
use super::rule::{Hooks, OnExhausted, Position, Rule, Trouble, reached, set};
use super::signature::Secret;
use super::target::Target;
use super::window::{Next, Order, Window};
use crate::broker::error::Error;
use crate::broker::fanout::{Subscriber, Visibility, Wanted};
use crate::broker::letter::{self, Failure};
use crate::broker::operators::Office;
use crate::broker::{Filter, Reality, RealityName};
use crate::log::{Found, Log, Micros, Sequence};
use crate::proto::json::Origin;
use crate::proto::topic::is_of_dead_letters;
use crate::proto::view::RecordView;

/// A position is stored so long after it has changed, with all that came meanwhile.
const GATHER: Duration = Duration::from_millis(500);
/// Attempts under way may end when the lane does, within this.
const GRACE: Duration = Duration::from_secs(3);
/// How much is read at a time.
const READ_BYTES: usize = 256 << 10;
/// So near to the end the log itself is read, which is in memory, and no index.
const NEAR_RECORDS: u64 = 4_096;

/// Wakes a lane.
#[derive(Debug, Default)]
pub(super) struct Wake(Notify);

impl Wake {
    pub(super) fn ring(&self) {
        self.0.notify_one();
    }
}

impl Subscriber for Wake {
    fn ready(&self, _key: u64) {
        self.ring();
    }
}

/// What the one who began a lane tells it.
#[derive(Debug)]
pub(super) struct Orders {
    /// To end.
    pub(super) stop: watch::Receiver<bool>,
    /// Records to be sent once more.
    pub(super) again: Arc<Mutex<Vec<u64>>>,
    /// Rung when there are.
    pub(super) wake: Arc<Wake>,
}

/// What each attempt needs, whatever its event.
#[derive(Debug)]
struct Sender {
    rule: Rule,
    tenant: String,
    target: Target,
    headers: HeaderMap,
    secrets: Vec<(Secret, Option<u64>)>,
    poster: Poster,
    permits: [Arc<Semaphore>; 2],
    reality: Arc<Reality>,
    older: super::settings::OlderView,
}

/// How an attempt has ended.
#[derive(Debug)]
struct Ended {
    sequence: Sequence,
    /// It was one of those to be sent once more.
    is_extra: bool,
    at: Micros,
    id: String,
    took: Duration,
    result: Result<Answer, Failed>,
    kept: Option<Kept>,
}

/// A record that is sent once more, out of order.
#[derive(Debug)]
struct Extra {
    sequence: u64,
    event: Bytes,
    attempts: u64,
    at: Micros,
    flying: bool,
}

/// One rule at work.
#[derive(Debug)]
pub(super) struct Lane {
    office: Office,
    orders: Orders,
    sender: Arc<Sender>,
    filter: Filter,
    account: Arc<Mutex<Account>>,
    window: Window<Bytes>,
    /// Done with before the lane began, although what comes before is not.
    skip: BTreeSet<u64>,
    breaker: Breaker,
    troubles: BTreeMap<u64, Trouble>,
    extra: Option<Extra>,
    kept: Vec<Kept>,
    flying: JoinSet<Ended>,
    throttled_until: Micros,
    stored: Position,
    changed: Option<Instant>,
}

/// What was read.
#[derive(Debug)]
struct Gathered {
    events: Vec<(Sequence, String, Bytes)>,
    next: Sequence,
    more: bool,
}

/// The consumer whose dead letters those of a rule are.
pub(super) fn consumer(rule: &str) -> String {
    format!("{NAME}.{rule}")
}

/// Whether events of `topic` are sent at all: what webhooks themselves write is not, or they would
/// never come to an end.
fn is_sent(rule: &str, topic: &str) -> bool {
    let own_letters = || topic == letter::topic(&consumer(rule));
    !topic.starts_with("sys.op.webhook.") && !topic.starts_with("sys.position.") && !own_letters()
}

impl Lane {
    /// Begins where the rule has got to. Blocks.
    pub(super) fn begin(office: Office, rule: &Rule, orders: Orders) -> Result<Self, Error> {
        let tenancy = Arc::clone(&office.tenancy);
        let desk = office.broker.webhooks();
        let settings = desk.settings();
        let broken = |what: String| super::Refused::conflict("rule", what);
        let poster = desk.poster().map_err(&broken)?;
        let target = Target::parse(&rule.url, &settings.rules);
        let target = target.map_err(|unfit| broken(format!("its url: {unfit}")))?;
        let name = RealityName::new(&rule.reality);
        let name = name.map_err(|error| broken(error.to_string()))?;
        let reality = tenancy.reality(&name)?;
        let filter = Filter::new(&rule.topic).map_err(|error| broken(error.to_string()))?;
        let secrets = rule.secrets.iter().map(|signing| {
            let secret = Secret::parse(&signing.secret);
            let secret = secret.map_err(|fault| broken(format!("its secret: {fault}")))?;
            Ok::<_, Error>((secret, signing.until_ms))
        });
        let secrets = secrets.collect::<Result<_, _>>()?;
        let stored = tenancy
            .ledger::<Hooks>()
            .read(|hooks| hooks.position(rule))?;
        let next = Sequence::at_least_first(stored.next).max(reality.bounds().first);
        // A record whose letter is on disk although it does not count as done is sent once more; if
        // it is not taken, it has its letter already.
        let skip = stored.done.iter().copied().collect();
        let order = if rule.ordered_by_key {
            Order::ByKey
        } else {
            Order::Whole
        };
        let tenant = tenancy.tenant();
        let sender = Sender {
            rule: rule.clone(),
            tenant: tenant.to_string(),
            headers: headers(&rule.headers),
            permits: desk.permits(tenant, target.endpoint()),
            target,
            secrets,
            poster,
            reality,
            older: settings.older,
        };
        let troubles = stored.troubles.iter().cloned();
        let troubles = troubles
            .map(|trouble| (trouble.sequence, trouble))
            .collect();
        Ok(Self {
            account: desk.account(tenant, &rule.id),
            breaker: Breaker::new(settings.breaker_open),
            sender: Arc::new(sender),
            filter,
            window: Window::new(order, next),
            skip,
            troubles,
            extra: None,
            kept: Vec::new(),
            flying: JoinSet::new(),
            throttled_until: Micros(0),
            stored,
            changed: None,
            orders,
            office,
        })
    }

    fn desk(&self) -> &Desk {
        self.office.broker.webhooks()
    }

    fn rule(&self) -> &Rule {
        &self.sender.rule
    }

    fn now(&self) -> Micros {
        self.sender.reality.now()
    }

    /// Works until it is told to end, or the rule is disabled.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let wake = Arc::clone(&self.orders.wake) as Arc<dyn Subscriber>;
        let (wanted, visibility) = (Wanted::Matching, Visibility::Durable);
        let reality = Arc::clone(&self.sender.reality);
        let attendance = reality.listen(&self.filter, wanted, visibility, wake, 0);
        let mut stop = self.orders.stop.clone();
        while !*stop.borrow() {
            attendance.look();
            let more = self.read().await?;
            self.take_extra().await?;
            let until = self.launch();
            self.tell(until);
            if self
                .changed
                .is_some_and(|changed| changed.elapsed() >= GATHER)
            {
                self.store().await?;
            }
            let due = self.changed.map(|changed| changed + GATHER);
            let until = until.map(|until| Instant::now() + until_then(self.now(), until));
            let sleep = due.into_iter().chain(until).min();
            let sleeping = async move {
                match sleep {
                    Some(sleep) => tokio::time::sleep_until(sleep).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = told(&mut stop) => break,
                Some(ended) = self.flying.join_next(), if !self.flying.is_empty() => {
                    if self.settle(ended).await? {
                        break;
                    }
                }
                () = self.orders.wake.0.notified() => {}
                () = sleeping => {}
                () = std::future::ready(()), if more => {}
            }
        }
        let rest = async {
            while let Some(ended) = self.flying.join_next().await {
                self.settle(ended).await?;
            }
            Ok::<_, Error>(())
        };
        match tokio::time::timeout(GRACE, rest).await {
            Ok(settled) => settled?,
            // They come again.
            Err(_elapsed) => self.flying.abort_all(),
        }
        self.store().await
    }

    /// Reads on, if there is room; whether there may be more to read at once.
    async fn read(&mut self) -> Result<bool, Error> {
        let room = self.window.room();
        if room == 0 {
            return Ok(false);
        }
        let (reality, filter) = (Arc::clone(&self.sender.reality), self.filter.clone());
        let (from, rule) = (self.window.read(), self.rule().id.clone());
        let gathered = self
            .office
            .blocking(move |_| gather(&reality, &filter, &rule, from, room))
            .await?;
        for (sequence, key, event) in gathered.events {
            let trouble = self.troubles.get(&sequence.get());
            let at = Micros(trouble.map_or(0, |trouble| trouble.next_at));
            self.window.push(sequence, &key, at, (event.len(), event));
            if self.skip.remove(&sequence.get()) {
                self.window.done(sequence);
            }
        }
        if gathered.next > self.window.read() {
            self.window.passed(gathered.next);
        }
        self.note_change();
        Ok(gathered.more)
    }

    /// Takes one of the records that are to be sent once more.
    async fn take_extra(&mut self) -> Result<(), Error> {
        if self.extra.is_some() {
            return Ok(());
        }
        let Some(sequence) = lock(&self.orders.again).first().copied() else {
            return Ok(());
        };
        let reality = Arc::clone(&self.sender.reality);
        let found = self
            .office
            .blocking(move |_| one(&reality, sequence))
            .await?;
        let Some(event) = found else {
            // Retention has taken it.
            return self.finish_extra(sequence).await;
        };
        self.extra = Some(Extra {
            sequence,
            event,
            attempts: 0,
            at: Micros(0),
            flying: false,
        });
        Ok(())
    }

    async fn finish_extra(&mut self, sequence: u64) -> Result<(), Error> {
        self.extra = None;
        lock(&self.orders.again).retain(|other| *other != sequence);
        self.store_without(Some(sequence)).await
    }

    /// Begins what can be begun; when there is more to begin, if that is known.
    fn launch(&mut self) -> Option<Micros> {
        let most = if self.rule().ordered_by_key {
            self.desk().settings().endpoint_requests_max
        } else {
            1
        };
        let now = self.now();
        if now < self.throttled_until {
            return Some(self.throttled_until);
        }
        let mut soonest = None;
        if let Some(extra) = self.extra.as_ref().filter(|extra| !extra.flying) {
            if extra.at > now {
                soonest = Some(extra.at);
            } else {
                match self.breaker.admit(now) {
                    Admission::Go => self.fly_extra(),
                    Admission::At(at) => return Some(at),
                    Admission::Later => return None,
                }
            }
        }
        while self.flying.len() < most {
            match self.window.next(now) {
                Next::Send(sequence) => match self.breaker.admit(now) {
                    Admission::Go => self.fly(sequence),
                    Admission::At(at) => return Some(at),
                    Admission::Later => return None,
                },
                Next::At(at) => return Some(soonest.map_or(at, |soonest: Micros| soonest.min(at))),
                Next::Nothing => break,
            }
        }
        soonest
    }

    fn fly(&mut self, sequence: Sequence) {
        let Some(event) = self.window.sent(sequence).cloned() else {
            self.breaker.abandoned();
            return;
        };
        self.spawn(sequence, event, false);
    }

    fn fly_extra(&mut self) {
        let Some(extra) = &mut self.extra else {
            self.breaker.abandoned();
            return;
        };
        extra.flying = true;
        let (sequence, event) = (extra.sequence, extra.event.clone());
        self.spawn(Sequence::at_least_first(sequence), event, true);
    }

    fn spawn(&mut self, sequence: Sequence, event: Bytes, is_extra: bool) {
        let (sender, kept) = (Arc::clone(&self.sender), self.kept.pop());
        self.flying
            .spawn(sender.attempt(sequence, event, is_extra, kept));
    }

    /// Notes how an attempt has ended; `true` if the rule does not go on.
    async fn settle(
        &mut self,
        ended: Result<Ended, tokio::task::JoinError>,
    ) -> Result<bool, Error> {
        let Ok(mut ended) = ended else {
            // A bug; the lane begins again from what is stored.
            return Err(Error::Internal);
        };
        self.kept.extend(ended.kept.take());
        let status = ended.result.as_ref().ok().map(|answer| answer.status);
        let taken = status.is_some_and(|status| status.is_success());
        let number = self.attempts_of(&ended) + 1;
        let next_at = self.next_attempt(&ended, number);
        let is_last = number >= self.rule().attempts_max;
        let said = said(&ended.result);
        self.account_for(&ended, number, (!taken && !is_last).then_some(next_at));
        if taken {
            self.breaker.succeeded();
            if ended.is_extra {
                self.finish_extra(ended.sequence.get()).await?;
            } else {
                self.done(ended.sequence);
            }
            return Ok(false);
        }
        self.breaker.failed(self.now());
        if status == Some(StatusCode::GONE) {
            self.back(ended.sequence, ended.is_extra);
            let because = "its receiver answers 410 Gone: it wants no more";
            self.disable(because.to_owned()).await?;
            return Ok(true);
        }
        if matches!(status.map(|status| status.as_u16()), Some(429 | 502..=504)) {
            // It is overwhelmed: nothing at all is sent meanwhile.
            self.throttled_until = next_at;
        }
        if ended.is_extra {
            if is_last {
                self.finish_extra(ended.sequence.get()).await?;
            } else if let Some(extra) = &mut self.extra {
                extra.attempts = number;
                extra.at = next_at;
                extra.flying = false;
            }
            return Ok(false);
        }
        let sequence = ended.sequence.get();
        let first_at = self.troubles.get(&sequence).map(|before| before.first_at);
        let trouble = Trouble {
            sequence,
            attempts: number,
            first_at: first_at.unwrap_or(ended.at.0),
            last_at: ended.at.0,
            next_at: next_at.0,
            said,
        };
        self.troubles.insert(sequence, trouble);
        if is_last {
            return self.give_up(ended.sequence).await;
        }
        self.window.again(ended.sequence, next_at);
        self.note_change();
        Ok(false)
    }

    /// Attempts of its event before this one.
    fn attempts_of(&self, ended: &Ended) -> u64 {
        match &self.extra {
            Some(extra) if ended.is_extra => extra.attempts,
            _ => {
                let before = self.troubles.get(&ended.sequence.get());
                before.map_or(0, |trouble| trouble.attempts)
            }
        }
    }

    /// When its event would be sent again, this having been the `number`th attempt.
    fn next_attempt(&self, ended: &Ended, number: u64) -> Micros {
        let now = self.now();
        let answer = ended.result.as_ref().ok();
        let asked = answer.and_then(|answer| answer.retry_after.as_deref());
        let asked = asked.and_then(|text| retry::asked(text, now));
        let schedule = &self.desk().settings().schedule;
        let wait = schedule.wait(number, asked, retry::chance());
        let wait_us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        Micros(now.0.saturating_add(wait_us))
    }

    /// Has it known what came of an attempt.
    fn account_for(&self, ended: &Ended, number: u64, next_at: Option<Micros>) {
        let answer = ended.result.as_ref().ok();
        let taken = answer.is_some_and(|answer| answer.status.is_success());
        self.desk().count(taken);
        let mut account = lock(&self.account);
        let counter = if taken {
            &mut account.delivered
        } else {
            &mut account.failed
        };
        *counter += 1;
        account.note(Attempt {
            at: ended.at,
            sequence: ended.sequence.get(),
            id: ended.id.clone(),
            number,
            status: answer.map(|answer| answer.status.as_u16()),
            took_ms: u64::try_from(ended.took.as_millis()).unwrap_or(u64::MAX),
            error: said(&ended.result),
            excerpt: answer
                .map(|answer| answer.excerpt.clone())
                .unwrap_or_default(),
            next_at,
        });
    }

    fn done(&mut self, sequence: Sequence) {
        self.window.done(sequence);
        self.troubles.remove(&sequence.get());
        self.note_change();
    }

    fn back(&mut self, sequence: Sequence, is_extra: bool) {
        match &mut self.extra {
            Some(extra) if is_extra => extra.flying = false,
            _ => self.window.again(sequence, Micros(0)),
        }
    }

    /// The last attempt has failed; `true` if the rule does not go on.
    async fn give_up(&mut self, sequence: Sequence) -> Result<bool, Error> {
        let Some(trouble) = self.troubles.get(&sequence.get()).cloned() else {
            return Ok(false);
        };
        let said = trouble.said.clone();
        let (reality, rule) = (Arc::clone(&self.sender.reality), self.rule().clone());
        let pauses = rule.on_exhausted == OnExhausted::Pause;
        let written = if pauses {
            false
        } else {
            let write = move |_: &_| write_letter(&reality, &rule, sequence, &trouble);
            self.office.blocking(write).await?
        };
        if written {
            self.desk().count_dead_letter();
            self.done(sequence);
            return Ok(false);
        }
        // It is tried anew when somebody enables the rule.
        self.troubles.remove(&sequence.get());
        self.window.again(sequence, Micros(0));
        let because = format!("record {sequence} was not taken in all its attempts: {said}");
        self.disable(because).await?;
        Ok(true)
    }

    async fn disable(&mut self, because: String) -> Result<(), Error> {
        self.note_change();
        self.store().await?;
        let (id, generation) = (self.rule().id.clone(), self.rule().generation);
        tracing::warn!(
            tenant = self.sender.tenant,
            rule = id,
            because,
            "a webhook was disabled"
        );
        self.office
            .blocking(move |tenancy| {
                tenancy.ledger::<Hooks>().change(|hooks| {
                    let same = hooks
                        .rules
                        .get(&id)
                        .filter(|rule| rule.generation == generation);
                    let changed = same.filter(|rule| rule.enabled).map(|rule| {
                        set(&Rule {
                            enabled: false,
                            disabled_because: Some(because),
                            ..rule.clone()
                        })
                    });
                    Ok(((), changed.into_iter().collect()))
                })
            })
            .await
    }

    fn position(&self) -> Position {
        let next = self.window.position().get();
        let troubles = self
            .troubles
            .range(next..)
            .map(|(_, trouble)| trouble.clone());
        // Those that have not been read yet are done with still.
        let done = self.window.done_ahead().into_iter();
        let done = done.chain(self.skip.range(next..).copied());
        Position {
            generation: self.rule().generation,
            next,
            done: done.collect(),
            troubles: troubles.collect(),
            again: Vec::new(),
        }
    }

    fn note_change(&mut self) {
        if self.changed.is_none() {
            let now = Position {
                again: self.stored.again.clone(),
                ..self.position()
            };
            if now != self.stored {
                self.changed = Some(Instant::now());
            }
        }
    }

    async fn store(&mut self) -> Result<(), Error> {
        if self.changed.is_none() {
            return Ok(());
        }
        self.store_without(None).await
    }

    /// Stores the position, without one of those that were to be sent once more.
    async fn store_without(&mut self, extra: Option<u64>) -> Result<(), Error> {
        let (id, mut position) = (self.rule().id.clone(), self.position());
        self.stored = self
            .office
            .blocking(move |tenancy| {
                tenancy.ledger::<Hooks>().change(|hooks| {
                    let Some(rule) = hooks.rules.get(&id) else {
                        return Ok((position, Vec::new()));
                    };
                    if rule.generation != position.generation {
                        // Another has begun; but what was sent once more need not be again.
                        let mut other = hooks.position(rule);
                        other.again.retain(|other| Some(*other) != extra);
                        let event = extra.map(|_| reached(&id, &other));
                        return Ok((position, event.into_iter().collect()));
                    }
                    // Others may have been added meanwhile.
                    position.again = hooks.position(rule).again;
                    position.again.retain(|other| Some(*other) != extra);
                    let event = reached(&id, &position);
                    Ok((position, vec![event]))
                })
            })
            .await?;
        self.changed = None;
        Ok(())
    }

    fn tell(&self, next_at: Option<Micros>) {
        let mut account = lock(&self.account);
        account.breaker = self.breaker.state();
        account.next_at = next_at;
        account.next = Some(self.window.position().get());
        account.halted = None;
    }
}

impl Sender {
    async fn attempt(
        self: Arc<Self>,
        sequence: Sequence,
        event: Bytes,
        is_extra: bool,
        mut kept: Option<Kept>,
    ) -> Ended {
        let [of_endpoint, of_tenant] = &self.permits;
        // An error means that it was closed, which nobody does.
        let _permits = (of_endpoint.acquire().await, of_tenant.acquire().await);
        let (at, started) = (self.reality.now(), Instant::now());
        let (id, letter) = self.letter(&event, at);
        let timeout = Duration::from_millis(self.rule.timeout_ms);
        let result = match letter {
            Some(letter) => {
                self.poster
                    .post(&self.target, &letter, timeout, &mut kept)
                    .await
            }
            None => Err(Failed::Broken("the record cannot be decoded".to_owned())),
        };
        Ended {
            sequence,
            is_extra,
            at,
            id,
            took: started.elapsed(),
            result,
            kept,
        }
    }

    fn letter(&self, event: &[u8], at: Micros) -> (String, Option<super::post::Letter>) {
        let Ok(record) = RecordView::parse(event) else {
            return (String::new(), None);
        };
        let origin = Origin {
            tenant: &self.tenant,
            reality: self.reality.name().as_str(),
        };
        let (text, content_type) = body::body(&record, origin, self.rule.format, self.older);
        let mut own = self.headers.clone();
        body::trace(&record, retry::chance(), &mut own);
        let id = record.id().into_owned();
        let valid = |until: Option<u64>| until.is_none_or(|until| at.as_millis() < until);
        let secrets = self.secrets.iter().filter(|(_, until)| valid(*until));
        let secrets = secrets.map(|(secret, _)| secret);
        let letter = body::letter((&id, content_type, text), &own, secrets, at);
        (id, Some(letter))
    }
}

/// The headers of a rule, which were checked when it was registered.
pub(super) fn headers(of: &BTreeMap<String, String>) -> HeaderMap {
    let parsed = of.iter().filter_map(|(name, value)| {
        let name = name.parse::<HeaderName>().ok()?;
        Some((name, HeaderValue::from_str(value).ok()?))
    });
    parsed.collect()
}

/// What came of an attempt, where the event was not taken.
fn said(result: &Result<Answer, Failed>) -> String {
    match result {
        Ok(answer) if answer.status.is_success() => String::new(),
        Ok(answer) => format!("it was answered with {}", answer.status),
        Err(failed) => failed.to_string(),
    }
}

/// Waits until it is told to end, or whoever could tell is gone.
async fn told(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

fn until_then(now: Micros, then: Micros) -> Duration {
    Duration::from_micros(then.0.saturating_sub(now.0))
}

/// Reads what `filter` matches from `from` on, `most` events at most. Blocks on the disk.
fn gather(
    reality: &Reality,
    filter: &Filter,
    rule: &str,
    from: Sequence,
    most: usize,
) -> Result<Gathered, Error> {
    reality.check_there()?;
    let log = reality.log();
    let bounds = log.bounds();
    let (mut next, end) = (from.max(bounds.first), bounds.durable_end);
    let wanted = filter.clone();
    let is_near = next.advance(NEAR_RECORDS) >= end;
    let mut by_topic =
        (!is_near).then(|| log.topic_reader(Box::new(move |topic| wanted.matches(topic))));
    let mut gathered = Gathered {
        events: Vec::new(),
        next,
        more: true,
    };
    while next < end && gathered.events.is_empty() {
        let found = match &mut by_topic {
            Some(reader) => reader.read(next, end, READ_BYTES),
            None => log.read(next, end, READ_BYTES),
        };
        match found? {
            Found::Records(chunk) => {
                next = chunk.last.next();
                for record in chunk.iter() {
                    if !filter.matches(record.topic) || !is_sent(rule, record.topic) {
                        continue;
                    }
                    if gathered.events.len() == most {
                        next = record.sequence;
                        break;
                    }
                    let view = RecordView::parse(record.record).ok();
                    let key = view.map_or("", |view| view.envelope.key).to_owned();
                    let event = Bytes::copy_from_slice(record.record);
                    gathered.events.push((record.sequence, key, event));
                }
            }
            Found::Damaged {
                damage,
                next: after,
            } => {
                let after = after.max(next.next());
                reality.encounters().note(&damage, next, after);
                next = after;
            }
            Found::End => next = end,
        }
    }
    gathered.more = next < end;
    gathered.next = next;
    Ok(gathered)
}

/// The record at `sequence`, if it is there.
fn one(reality: &Reality, sequence: u64) -> Result<Option<Bytes>, Error> {
    let Some(at) = Sequence::new(sequence) else {
        return Ok(None);
    };
    let log: Log = reality.log();
    let bounds = log.bounds();
    if at < bounds.first || at >= bounds.durable_end {
        return Ok(None);
    }
    match log.read(at, at.next(), 1)? {
        Found::Records(chunk) => {
            let found = chunk.iter().find(|record| record.sequence == at);
            Ok(found.map(|record| Bytes::copy_from_slice(record.record)))
        }
        Found::Damaged { .. } | Found::End => Ok(None),
    }
}

/// Writes the dead letter of a record, on disk on `Ok`; `false` if there is to be none: of a dead
/// letter no other is made, or two rules could fill a log between them.
fn write_letter(
    reality: &Reality,
    rule: &Rule,
    sequence: Sequence,
    trouble: &Trouble,
) -> Result<bool, Error> {
    let Some(event) = one(reality, sequence.get())? else {
        // Retention has taken it meanwhile: nothing is left to be kept.
        return Ok(true);
    };
    let Ok(record) = RecordView::parse(&event) else {
        return Ok(false);
    };
    if is_of_dead_letters(record.topic) {
        return Ok(false);
    }
    let failure = Failure {
        reason: letter::MAX_DELIVERIES,
        error: &trouble.said,
        attempts: u32::try_from(trouble.attempts).unwrap_or(u32::MAX),
        first_at: Micros(trouble.first_at),
        last_at: Micros(trouble.last_at),
        by: &rule.owner,
    };
    let dead = letter::of(reality, &consumer(&rule.id), &record, &failure);
    letter::ensure(reality, &dead)?;
    Ok(true)
}
