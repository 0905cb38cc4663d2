//! The floor: who is ready in each group, what is to be done, and who has it in hand (OPS-02,
//! OPS-04).
//!
//! A state machine in memory, told the time with every step. It writes nothing: a step that ends a
//! task *closes* it, which keeps everybody else off, and the task is gone once that is in the log
//! ([`Floor::finish`]), or its end is told again if it could not be written ([`Floor::close_later`]).
//! After a restart
//! the tasks are read from the log again; who had which in hand is not kept, because nobody is
//! connected then.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::manifest::{Effects, Manifest};
use super::refused::Refused;
use super::task::{Answer, Cause, Failure, Mode, Order, Selection};
use crate::log::Micros;
use crate::proto::ErrorCode;

/// After so many failed attempts a task is dead.
pub const ATTEMPTS_MAX: u32 = 5;
/// After so many outputs that do not fit, an operator is given nothing more.
pub const BREACHES_MAX: u32 = 3;
/// Most operators of a tenant that are connected.
pub const MEMBERS_MAX: usize = 1_024;
/// Most open tasks of a tenant.
pub const TASKS_MAX: usize = 10_000;
/// Pause before the second attempt; it doubles from one to the next.
const BACK_OFF_FIRST_MS: u64 = 100;
const BACK_OFF_LONGEST_MS: u64 = 30_000;
/// Longest pause that an operator may ask for.
const PAUSE_MAX_MS: u64 = 3_600_000;

/// How a connected operator stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It has been let in, and has not been told yet.
    Announced,
    /// It gets tasks.
    Ready,
    /// It finishes those that it has.
    Draining,
    /// It has broken its contract too often.
    Quarantined,
}

#[derive(Debug)]
struct Member {
    manifest: Arc<Manifest>,
    standing: Standing,
    in_hand: u32,
    breaches: u32,
    /// When it was given a task last, as a count.
    last: u64,
    /// Leases of tasks that are no longer its own and that it may be at work on still, and until
    /// when they take up its room.
    spent: HashMap<u64, Micros>,
}

impl Member {
    fn has_room(&self) -> bool {
        self.standing == Standing::Ready && self.in_hand < self.manifest.concurrency
    }
}

/// A task in the hands of an operator.
#[derive(Debug)]
struct Hand {
    member: u64,
    by: Arc<Manifest>,
    lease: u64,
    until: Micros,
    attempt: u32,
    /// Its answer is being judged or written: nothing else may happen to it meanwhile.
    answering: bool,
}

#[derive(Debug)]
struct Task {
    order: Order,
    failures: u32,
    not_before: Micros,
    hands: Vec<Hand>,
    /// Of one that asks many: who is still to answer, and whether it has it. `None` until it has
    /// been given to anybody.
    audience: Option<BTreeMap<u64, bool>>,
    answers: Vec<Answer>,
    /// Who has failed at it: others go first.
    failed_by: BTreeSet<String>,
    closing: bool,
    /// How it ends, and when that is to be written at the earliest: it could not be yet.
    unwritten: Option<(Micros, End)>,
}

/// Work for an operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Who gets it.
    pub member: u64,
    /// Its instance.
    pub instance: String,
    /// Group of the task.
    pub group: String,
    /// Where the task stands.
    pub sequence: u64,
    /// Its id.
    pub id: String,
    /// The token that its answer needs.
    pub lease: u64,
    /// How long it has it.
    pub lease_ms: u64,
    /// Until when it is worth doing.
    pub deadline: Option<Micros>,
    /// From 1.
    pub attempt: u32,
}

/// A task, by its group and where it stands.
pub type Place = (String, u64);

/// What an answer is about.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The task.
    pub place: Place,
    /// What was to be done.
    pub order: Order,
    /// Who has it in hand.
    pub by: Arc<Manifest>,
    /// Which attempt it is.
    pub attempt: u32,
    /// Whether a good answer ends the task.
    pub is_last: bool,
}

/// A task that ends.
#[derive(Clone, Debug)]
pub struct Closing {
    /// The task.
    pub place: Place,
    /// What was to be done.
    pub order: Order,
    /// Failed attempts.
    pub failures: u32,
    /// How it ends.
    pub end: End,
}

/// How a task ends that no single answer has ended.
#[derive(Clone, Debug)]
pub enum End {
    /// All have answered that will; the first of these is the one that counts.
    Done(Vec<Answer>),
    /// It has failed for good.
    Dead(Failure),
    /// It is too late.
    Expired,
}

/// What becomes of a task after a failed attempt.
#[derive(Clone, Debug)]
pub enum Next {
    /// There will be another, or others are still at it.
    Again(Failed),
    /// It ends.
    Close(Closing),
}

/// An attempt that came to nothing.
#[derive(Clone, Debug)]
pub struct Failed {
    /// The task.
    pub place: Place,
    /// What was to be done.
    pub order: Order,
    /// Who had it in hand.
    pub by: Arc<Manifest>,
    /// Which attempt it was.
    pub attempt: u32,
    /// Why.
    pub why: Failure,
}

/// Who is told how a task ends.
pub type Listener = Box<dyn FnOnce(&Finished) + Send>;

/// How a task has ended, for those who wait.
#[derive(Clone, Debug)]
pub struct Finished {
    /// What is written about it.
    pub state: super::task::State,
    /// Where.
    pub sequence: u64,
    /// Answers that count, the first before the others.
    pub answers: Vec<Answer>,
}

/// Who works, and at what.
#[derive(Default)]
pub struct Floor {
    members: BTreeMap<u64, Member>,
    groups: BTreeMap<String, BTreeMap<u64, Task>>,
    places: HashMap<String, Place>,
    listeners: HashMap<String, Vec<Listener>>,
    count: u64,
    /// Tasks that are on their way into the log, and may be there already.
    arriving: usize,
    /// Where tasks stand that were added and not forgotten since.
    added: BTreeSet<u64>,
    /// Tasks that have ended in each group since that was last written down.
    ended: HashMap<String, u64>,
}

impl std::fmt::Debug for Floor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Floor")
            .field("members", &self.members.len())
            .field("tasks", &self.places.len())
            .finish_non_exhaustive()
    }
}

/// A connected operator, as it is shown.
#[derive(Clone, Debug)]
pub struct Present {
    /// What it says of itself.
    pub manifest: Arc<Manifest>,
    /// How it stands.
    pub standing: Standing,
    /// Tasks that it has.
    pub in_hand: u32,
}

impl Floor {
    /// An empty floor whose tokens are higher than those of any before it.
    #[must_use]
    pub fn new(now: Micros) -> Self {
        Self {
            count: now.0,
            ..Self::default()
        }
    }

    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    // Operators.

    /// Lets an operator in.
    ///
    /// # Errors
    /// Its instance is there already; there are too many.
    pub fn join(&mut self, manifest: Arc<Manifest>) -> Result<u64, Refused> {
        if self.present(&manifest.group, &manifest.instance).is_some() {
            let Manifest {
                group, instance, ..
            } = &*manifest;
            let text = format!(
                "instance {instance} is connected in group {group} already; end that one first, or name another"
            );
            return Err(Refused::invalid("instance", text).retry(1_000));
        }
        if self.members.len() >= MEMBERS_MAX {
            let text = format!("the tenant has {MEMBERS_MAX} operators, which is the limit");
            return Err(Refused::new(ErrorCode::TooLarge, "operator", text).retry(1_000));
        }
        let key = self.next();
        let member = Member {
            manifest,
            standing: Standing::Announced,
            in_hand: 0,
            breaches: 0,
            last: 0,
            spent: HashMap::new(),
        };
        self.members.insert(key, member);
        Ok(key)
    }

    /// An operator that is connected.
    #[must_use]
    pub fn present(&self, group: &str, instance: &str) -> Option<(u64, Present)> {
        let is_it = |member: &Member| {
            member.manifest.group == group && member.manifest.instance == instance
        };
        let (key, member) = self.members.iter().find(|(_, member)| is_it(member))?;
        Some((*key, shown(member)))
    }

    /// All operators that are connected.
    #[must_use]
    pub fn all_present(&self) -> Vec<Present> {
        self.members.values().map(shown).collect()
    }

    /// One of them.
    #[must_use]
    pub fn member(&self, key: u64) -> Option<Present> {
        self.members.get(&key).map(shown)
    }

    /// How many are ready that could do what an order asks for.
    #[must_use]
    pub fn able(&self, order: &Order) -> usize {
        let members = self.members.values();
        members.filter(|member| is_able(member, order)).count()
    }

    /// Input schemas of those that could do what an order asks for.
    #[must_use]
    pub fn input_schemas(&self, order: &Order) -> BTreeSet<String> {
        let able = self.members.values().filter(|one| is_able(one, order));
        able.map(|member| member.manifest.input_schema.clone())
            .filter(|schema| !schema.is_empty())
            .collect()
    }

    /// The group whose operators can do something, the one with most of them that are ready.
    #[must_use]
    pub fn group_for(&self, capability: &str) -> Option<String> {
        let mut able: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if member.standing == Standing::Ready && member.manifest.can(Some(capability)) {
                *able.entry(&member.manifest.group).or_default() += 1;
            }
        }
        let most = able.into_iter().max_by_key(|(_, count)| *count)?;
        Some(most.0.to_owned())
    }

    /// Changes how an operator stands.
    pub fn stand(&mut self, key: u64, standing: Standing) {
        if let Some(member) = self.members.get_mut(&key) {
            member.standing = standing;
            if standing == Standing::Ready {
                member.breaches = 0;
            }
        }
    }

    /// Notes an output that does not fit; `true` if it was one too many.
    pub fn breached(&mut self, key: u64) -> bool {
        let Some(member) = self.members.get_mut(&key) else {
            return false;
        };
        member.breaches += 1;
        let too_often = member.breaches >= BREACHES_MAX && member.standing == Standing::Ready;
        if too_often {
            member.standing = Standing::Quarantined;
        }
        too_often
    }

    /// An operator is gone: what it had is for others, at once.
    pub fn leave(&mut self, key: u64, now: Micros) -> Vec<Next> {
        if self.members.remove(&key).is_none() {
            return Vec::new();
        }
        let mut held = Vec::new();
        for (group, tasks) in &mut self.groups {
            for (sequence, task) in tasks {
                let has = |hand: &Hand| hand.member == key && !hand.answering;
                if task.hands.iter().any(has) {
                    held.push((group.clone(), *sequence));
                } else if let Some(audience) = &mut task.audience {
                    // Not given yet; what is being answered ends by itself.
                    if audience.get(&key) == Some(&false) {
                        held.push((group.clone(), *sequence));
                    }
                }
            }
        }
        let mut next = Vec::new();
        for place in held {
            let why = lost("the operator was disconnected before it answered");
            next.extend(self.fail(&place, key, why, now));
        }
        next
    }

    // Tasks.

    /// Number of open tasks, of one group or of all.
    #[must_use]
    pub fn open(&self, group: Option<&str>) -> usize {
        match group {
            Some(group) => self.groups.get(group).map_or(0, BTreeMap::len),
            None => self.places.len(),
        }
    }

    /// A task is on its way into the log, until [`Floor::arrived`].
    ///
    /// # Errors
    /// There is no room for another.
    pub fn arriving(&mut self) -> Result<(), Refused> {
        if self.places.len() + self.arriving >= TASKS_MAX {
            let text = format!(
                "{TASKS_MAX} tasks of the tenant are open, which is the limit; try again when some are done"
            );
            return Err(Refused::new(ErrorCode::RateLimited, "", text).retry(1_000));
        }
        self.arriving += 1;
        Ok(())
    }

    /// It has come there, and is [added](Floor::add), or never will.
    pub fn arrived(&mut self) {
        self.arriving = self.arriving.saturating_sub(1);
    }

    /// Whether a task is on its way into the log.
    #[must_use]
    pub const fn is_arriving(&self) -> bool {
        self.arriving > 0
    }

    /// Whether the task that stands there has been added, be it done since.
    #[must_use]
    pub fn was_added(&self, sequence: u64) -> bool {
        self.added.contains(&sequence)
    }

    /// What stands before `end` is not asked for any more.
    pub fn forget_added(&mut self, end: u64) {
        self.added = self.added.split_off(&end);
    }

    /// Groups in which so many tasks have ended since they were last told here, and up to where all
    /// have. `end` must have been the end of the log before this is called.
    pub fn settled(&mut self, every: u64, end: u64) -> Vec<(String, u64)> {
        // One that is on its way may stand below the end already.
        if self.arriving > 0 {
            return Vec::new();
        }
        let groups = &self.groups;
        let enough = self.ended.extract_if(|_, count| *count >= every);
        let first_open = |group: &str| {
            let first = groups.get(group)?.first_key_value();
            first.map(|(sequence, _)| *sequence)
        };
        enough
            .map(|(group, _)| {
                let up_to = first_open(&group).unwrap_or(end).min(end);
                (group, up_to)
            })
            .collect()
    }

    /// Adds a task that is in the log, with the attempts at it and answers to it that are too.
    pub fn add(&mut self, sequence: u64, order: Order, failures: u32, answers: Vec<Answer>) {
        let place = (order.group.clone(), sequence);
        self.added.insert(sequence);
        if self
            .places
            .insert(order.id.clone(), place.clone())
            .is_some()
        {
            return;
        }
        let task = Task {
            order,
            failures,
            not_before: Micros(0),
            hands: Vec::new(),
            audience: None,
            answers,
            failed_by: BTreeSet::new(),
            closing: false,
            unwritten: None,
        };
        self.groups
            .entry(place.0)
            .or_default()
            .insert(sequence, task);
    }

    /// Has `listener` told how a task ends; `false` if it is not open, and nobody will be told.
    pub fn listen(&mut self, id: &str, listener: Listener) -> bool {
        let is_open = self.places.contains_key(id);
        if is_open {
            let listeners = self.listeners.entry(id.to_owned()).or_default();
            listeners.push(listener);
        }
        is_open
    }

    fn task(&mut self, place: &Place) -> Option<&mut Task> {
        self.groups.get_mut(&place.0)?.get_mut(&place.1)
    }

    /// Gives out what can be given out.
    pub fn offers(&mut self, now: Micros) -> Vec<Offer> {
        let mut offers = Vec::new();
        for (group, tasks) in &mut self.groups {
            let mut room: u64 = self
                .members
                .values()
                .filter(|member| member.has_room() && member.manifest.group == *group)
                .map(|member| u64::from(member.manifest.concurrency - member.in_hand))
                .sum();
            let mut busy_keys: HashSet<String> = HashSet::new();
            for (sequence, task) in tasks.iter_mut() {
                if room == 0 {
                    break;
                }
                // The one before it with its key is to be done first, however long that takes.
                if !task.order.mode.asks_many()
                    && let Some(key) = &task.order.key
                    && !busy_keys.insert(key.clone())
                {
                    continue;
                }
                let is_due = task.not_before <= now && !task.closing;
                if !is_due || (!task.order.mode.asks_many() && !task.hands.is_empty()) {
                    continue;
                }
                for key in chosen(&self.members, task) {
                    let Some(member) = self.members.get_mut(&key) else {
                        continue;
                    };
                    self.count += 1;
                    member.in_hand += 1;
                    member.last = self.count;
                    room = room.saturating_sub(1);
                    let by = Arc::clone(&member.manifest);
                    let (lease, lease_ms) = (self.count, by.lease_ms);
                    offers.push(Offer {
                        member: key,
                        instance: by.instance.clone(),
                        group: group.clone(),
                        sequence: *sequence,
                        id: task.order.id.clone(),
                        lease,
                        lease_ms,
                        deadline: task.order.deadline,
                        attempt: task.failures + 1,
                    });
                    task.hands.push(Hand {
                        member: key,
                        by,
                        lease,
                        until: after(now, lease_ms),
                        attempt: task.failures + 1,
                        answering: false,
                    });
                    if let Some(audience) = &mut task.audience {
                        audience.insert(key, true);
                    }
                }
            }
        }
        offers
    }

    /// The task that an operator answers; nothing else happens to it until one of [`Floor::note`],
    /// [`Floor::finish`], [`Floor::undo`] and [`Floor::fail`].
    ///
    /// # Errors
    /// It is not in the hands of this operator, or no longer.
    pub fn take(&mut self, member: u64, id: &str, lease: u64) -> Result<Taken, Refused> {
        let gone = || {
            let id: String = id.chars().take(64).collect();
            Refused::stale(format!(
                "task {id} is not in the hands of this operator with this lease: it is done, or another has it"
            ))
        };
        if let Some(one) = self.members.get_mut(&member)
            && one.spent.remove(&lease).is_some()
        {
            one.in_hand = one.in_hand.saturating_sub(1);
        }
        let place = self.places.get(id).cloned().ok_or_else(gone)?;
        let task = self.task(&place).ok_or_else(gone)?;
        let is_its = |hand: &Hand| hand.member == member && hand.lease == lease;
        if task.closing && task.hands.iter().any(|one| is_its(one) && !one.answering) {
            // Another was first; this one has done with it, and has room again.
            self.release(&place, member);
            return Err(gone());
        }
        let hand = task
            .hands
            .iter_mut()
            .find(|hand| is_its(hand))
            .filter(|hand| !hand.answering)
            .ok_or_else(gone)?;
        hand.answering = true;
        let (by, attempt) = (Arc::clone(&hand.by), hand.attempt);
        let is_last = match task.order.mode {
            Mode::Direct | Mode::Balanced => true,
            Mode::Broadcast => false,
            Mode::Competing => task.order.selection == Selection::First,
        };
        Ok(Taken {
            place,
            order: task.order.clone(),
            by,
            attempt,
            is_last,
        })
    }

    /// Keeps everybody else off a task that is taken and about to end.
    ///
    /// # Errors
    /// Another was first.
    pub fn close(&mut self, place: &Place) -> Result<(), Refused> {
        match self.task(place) {
            Some(task) if !task.closing => {
                task.closing = true;
                Ok(())
            }
            _ => Err(Refused::stale("another answer to the task was first")),
        }
    }

    /// The answer could not be written: as if it had not been given. What is left of it if its
    /// operator is gone meanwhile is for others.
    pub fn undo(&mut self, place: &Place, member: u64, now: Micros) -> Option<Next> {
        let task = self.task(place)?;
        task.closing = false;
        for hand in &mut task.hands {
            if hand.member == member {
                hand.answering = false;
            }
        }
        if self.members.contains_key(&member) {
            return None;
        }
        let why = lost("the operator was disconnected before its answer was stored");
        self.fail(place, member, why, now)
    }

    /// Takes a task that another has ended first out of the hands of an operator.
    pub fn give_up(&mut self, place: &Place, member: u64) {
        self.release(place, member);
    }

    /// The end of a task could not be written: [`Floor::tick`] tells it again at `not_before`.
    pub fn close_later(&mut self, closing: &Closing, not_before: Micros) {
        if let Some(task) = self.task(&closing.place) {
            task.closing = true;
            task.unwritten = Some((not_before, closing.end.clone()));
        }
    }

    /// Notes one of several answers, which is in the log.
    pub fn note(&mut self, place: &Place, member: u64, answer: Answer) -> Option<Closing> {
        self.release(place, member);
        let task = self.task(place)?;
        // Whoever answers twice, counts once.
        if !task
            .answers
            .iter()
            .any(|one| one.instance == answer.instance)
        {
            task.answers.push(answer);
        }
        if let Some(audience) = &mut task.audience {
            audience.remove(&member);
        }
        conclude(place, task)
    }

    /// A task has ended, and that is in the log.
    pub fn finish(&mut self, place: &Place, finished: &Finished) {
        let Some(tasks) = self.groups.get_mut(&place.0) else {
            return;
        };
        let Some(task) = tasks.remove(&place.1) else {
            return;
        };
        if tasks.is_empty() {
            self.groups.remove(&place.0);
        }
        *self.ended.entry(place.0.clone()).or_default() += 1;
        for hand in &task.hands {
            if let Some(member) = self.members.get_mut(&hand.member) {
                if hand.answering {
                    member.in_hand = member.in_hand.saturating_sub(1);
                } else {
                    member.spent.insert(hand.lease, hand.until);
                }
            }
        }
        self.places.remove(&task.order.id);
        for listener in self.listeners.remove(&task.order.id).unwrap_or_default() {
            listener(finished);
        }
    }

    /// An attempt has come to nothing.
    pub fn fail(&mut self, place: &Place, member: u64, why: Failure, now: Micros) -> Option<Next> {
        let released = self.release(place, member);
        let task = self.task(place)?;
        if task.closing {
            return None;
        }
        if let Some(audience) = &mut task.audience {
            audience.remove(&member);
            if let Some(hand) = &released {
                task.failed_by.insert(hand.by.instance.clone());
            }
            if let Some(closing) = conclude(place, task) {
                return Some(Next::Close(closing));
            }
            let nobody_left = task.audience.as_ref().is_some_and(BTreeMap::is_empty);
            if nobody_left {
                // Whoever is there then is asked again.
                task.audience = None;
            }
            let hand = released?;
            return Some(if nobody_left {
                again(place, task, &hand, why, now)
            } else {
                Next::Again(failed(place, task, &hand, why))
            });
        }
        let hand = released?;
        task.failed_by.insert(hand.by.instance.clone());
        Some(again(place, task, &hand, why, now))
    }

    /// Takes a task out of the hands of an operator.
    fn release(&mut self, place: &Place, member: u64) -> Option<Hand> {
        let task = self.groups.get_mut(&place.0)?.get_mut(&place.1)?;
        let at = task.hands.iter().position(|hand| hand.member == member)?;
        if let Some(member) = self.members.get_mut(&member) {
            member.in_hand = member.in_hand.saturating_sub(1);
        }
        Some(task.hands.swap_remove(at))
    }

    /// The lease of a task begins anew; says until when it is.
    ///
    /// # Errors
    /// It is not in the hands of this operator, or no longer.
    pub fn extend(
        &mut self,
        member: u64,
        id: &str,
        lease: u64,
        now: Micros,
    ) -> Result<Micros, Refused> {
        let gone = || Refused::stale("the task is not in the hands of this operator any more");
        let place = self.places.get(id).cloned().ok_or_else(gone)?;
        let task = self.task(&place).ok_or_else(gone)?;
        let mut hands = task.hands.iter_mut();
        let hand = hands.find(|hand| hand.member == member && hand.lease == lease);
        let hand = hand.ok_or_else(gone)?;
        hand.until = after(now, hand.by.lease_ms);
        Ok(hand.until)
    }

    /// The token of a task in the hands of an operator, for one that does not keep it.
    #[must_use]
    pub fn lease_of(&self, member: u64, id: &str) -> Option<u64> {
        let (group, sequence) = self.places.get(id)?;
        let hands = &self.groups.get(group)?.get(sequence)?.hands;
        let hand = hands.iter().find(|hand| hand.member == member)?;
        Some(hand.lease)
    }

    /// Whether a token is one of this operator's, also of a task that it has lost.
    #[must_use]
    pub fn knows_lease(&self, member: u64, id: &str, lease: u64) -> bool {
        let is_spent = |one: &Member| one.spent.contains_key(&lease);
        self.members.get(&member).is_some_and(is_spent) || self.lease_of(member, id) == Some(lease)
    }

    /// Does what is due: leases and deadlines.
    pub fn tick(&mut self, now: Micros) -> Vec<Next> {
        let mut next = Vec::new();
        let mut over = Vec::new();
        for (group, tasks) in &mut self.groups {
            for (sequence, task) in tasks {
                let place = (group.clone(), *sequence);
                if let Some((_, end)) = task.unwritten.take_if(|(at, _)| *at <= now) {
                    next.push(Next::Close(closing(&place, task, end)));
                    continue;
                }
                let judged = task.hands.iter().any(|hand| hand.answering);
                let is_late = task.order.deadline.is_some_and(|deadline| deadline <= now);
                if is_late && !task.closing && !judged {
                    task.closing = true;
                    next.push(Next::Close(closing(&place, task, late(task))));
                    continue;
                }
                let hands = task.hands.iter();
                let ended = hands.filter(|hand| hand.until <= now && !hand.answering);
                over.extend(ended.map(|hand| (place.clone(), hand.member, hand.lease)));
            }
        }
        for (place, member, lease) in over {
            let why = Failure {
                code: "LEASE_OVER".to_owned(),
                ..lost("the operator has neither answered nor extended its lease")
            };
            next.extend(self.fail(&place, member, why, now));
            // It may be at it still, and has no room for another meanwhile.
            if let Some(member) = self.members.get_mut(&member) {
                member.in_hand += 1;
                let until = after(now, member.manifest.lease_ms);
                member.spent.insert(lease, until);
            }
        }
        for member in self.members.values_mut() {
            let before = member.spent.len();
            member.spent.retain(|_, until| *until > now);
            let freed = u32::try_from(before - member.spent.len()).unwrap_or(u32::MAX);
            member.in_hand = member.in_hand.saturating_sub(freed);
        }
        next
    }

    /// When [`Floor::tick`] or [`Floor::offers`] is due; `None` if nothing is to be expected.
    #[must_use]
    pub fn due(&self, now: Micros) -> Option<Micros> {
        let tasks = || self.groups.values().flat_map(BTreeMap::values);
        let unwritten = tasks().filter_map(|task| Some(task.unwritten.as_ref()?.0));
        let times = tasks().filter(|task| !task.closing).flat_map(|task| {
            let held = task.hands.iter().filter(|hand| !hand.answering);
            let leases = held.map(|hand| hand.until);
            // One whose time has come waits for room, and not for time.
            let back_off = Some(task.not_before).filter(|at| *at > now && task.hands.is_empty());
            leases.chain(task.order.deadline).chain(back_off)
        });
        let spent = self.members.values().flat_map(|one| one.spent.values());
        times.chain(spent.copied()).chain(unwritten).min()
    }
}

fn lost(message: &str) -> Failure {
    Failure {
        code: "OPERATOR_LOST".to_owned(),
        message: message.to_owned(),
        cause: Cause::Lost,
    }
}

fn shown(member: &Member) -> Present {
    Present {
        manifest: Arc::clone(&member.manifest),
        standing: member.standing,
        in_hand: member.in_hand,
    }
}

fn after(now: Micros, ms: u64) -> Micros {
    Micros(now.0.saturating_add(ms.saturating_mul(1_000)))
}

fn is_able(member: &Member, order: &Order) -> bool {
    let manifest = &member.manifest;
    let competes = order.mode == Mode::Competing && manifest.effects == Effects::Effectful;
    member.standing == Standing::Ready
        && manifest.group == order.group
        && manifest.can(order.capability.as_deref())
        && manifest.answers_to(order.operator.as_deref())
        && !competes
}

/// Who gets a task now.
fn chosen(members: &BTreeMap<u64, Member>, task: &mut Task) -> Vec<u64> {
    let order = &task.order;
    if !order.mode.asks_many() {
        let able = members
            .iter()
            .filter(|(_, member)| member.has_room() && is_able(member, order));
        // Whoever has not failed at it, has most room, and has waited longest.
        let best = able.min_by_key(|(_, member)| {
            let manifest = &member.manifest;
            let load = u64::from(member.in_hand) * 1_000 / u64::from(manifest.concurrency);
            let has_failed = task.failed_by.contains(&manifest.instance);
            (has_failed, load, member.last)
        });
        return best.map(|(key, _)| *key).into_iter().collect();
    }
    let audience = task.audience.get_or_insert_with(|| {
        let answered = |one: &Member| {
            let mut answers = task.answers.iter();
            answers.any(|answer| answer.instance == one.manifest.instance)
        };
        let able = members
            .iter()
            .filter(|(_, member)| is_able(member, order) && !answered(member));
        able.map(|(key, _)| (*key, false)).collect()
    });
    if audience.is_empty() {
        // Nobody is there: whoever comes is asked then.
        task.audience = None;
        return Vec::new();
    }
    let waiting = audience.iter().filter(|(_, given)| !**given);
    let has_room = |key: &u64| members.get(key).is_some_and(Member::has_room);
    waiting.map(|(key, _)| *key).filter(has_room).collect()
}

fn failed(place: &Place, task: &Task, hand: &Hand, why: Failure) -> Failed {
    Failed {
        place: place.clone(),
        order: task.order.clone(),
        by: Arc::clone(&hand.by),
        attempt: hand.attempt,
        why,
    }
}

fn closing(place: &Place, task: &Task, end: End) -> Closing {
    Closing {
        place: place.clone(),
        order: task.order.clone(),
        failures: task.failures,
        end,
    }
}

/// How a task ends whose time is over.
fn late(task: &Task) -> End {
    if task.answers.is_empty() {
        End::Expired
    } else {
        End::Done(ranked(task))
    }
}

/// The answers, those that count most first.
fn ranked(task: &Task) -> Vec<Answer> {
    let mut answers = task.answers.clone();
    if task.order.selection == Selection::Best {
        // Stable: of equal ones the first to answer.
        let score = |answer: &Answer| answer.score.unwrap_or(f64::NEG_INFINITY);
        answers.sort_by(|a, b| score(b).total_cmp(&score(a)));
    }
    answers
}

/// Ends a task that asks many if all have answered that will.
fn conclude(place: &Place, task: &mut Task) -> Option<Closing> {
    let all_there = task.audience.as_ref().is_some_and(BTreeMap::is_empty);
    if !all_there || task.answers.is_empty() || task.closing {
        return None;
    }
    task.closing = true;
    Some(closing(place, task, End::Done(ranked(task))))
}

/// Another attempt, unless there were enough.
fn again(place: &Place, task: &mut Task, hand: &Hand, why: Failure, now: Micros) -> Next {
    task.failures += 1;
    let effectful = hand.by.effects == Effects::Effectful;
    let hopeless = match why.cause {
        Cause::Final => true,
        // It may have had its effect, and must not have it twice.
        Cause::Lost => effectful,
        Cause::Contract | Cause::Retryable(_) => false,
    };
    if hopeless || task.failures >= ATTEMPTS_MAX {
        task.closing = true;
        return Next::Close(closing(place, task, End::Dead(why)));
    }
    let pause = match why.cause {
        // Not the task's fault, as far as is known.
        Cause::Lost => 0,
        Cause::Retryable(asked) if asked > 0 => asked.min(PAUSE_MAX_MS),
        Cause::Retryable(_) | Cause::Contract | Cause::Final => {
            (BACK_OFF_FIRST_MS << (task.failures - 1).min(16)).min(BACK_OFF_LONGEST_MS)
        }
    };
    task.not_before = after(now, pause);
    Next::Again(failed(place, task, hand, why))
}

#[cfg(test)]
#[path = "floor_tests.rs"]
mod tests;
