//! Groups of competing consumers: members share the records of a filter, each of which is one
//! member's at a time (BRK-04).
//!
//! What a group has done is a fold of the topic `sys.group.<reality>.<group>` of the tenant's
//! `_system` reality: the last record holds. A group has something in memory only while it has
//! members, or something of it is on its way to the disk.
//!
//! - `work`: which record is whose, as a pure state machine. `coordinator`: a group in use.
//! - [`Member`]: what a session, or an operator of the node's own, does with it.
//! - `feeder`: the thread that reads ahead and keeps deadlines.

pub(super) mod commands;
mod coordinator;
pub(super) mod feeder;
mod member;
mod options;
mod work;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;

pub use self::member::{Answered, Leased, Member, Worker};
pub use self::options::{Bounds, Options};
pub use self::work::{Failed, Leaving, MemberSummary, Window};

use self::coordinator::Group;
use self::feeder::Feeder;
use super::Totals;
use super::damage::without_directories;
use super::error::Error;
use super::filter::Filter;
use super::name::{self, RealityName};
use super::reality::Reality;
use super::subscription::{Start, first_of};
use super::system;
use crate::log::{self, Found, Sequence};
use crate::proto::v1::{GroupOptions, GroupState};
use crate::proto::view::RecordView;

/// First tokens of the topics that hold the states of groups.
pub(super) const TOPIC_PREFIX: &str = "sys.group.";

/// A group in a reality.
type Name = (RealityName, Box<str>);

#[derive(Debug)]
enum Slot {
    /// Nobody uses it.
    Resting(Box<GroupState>),
    InUse(Arc<Group>),
}

/// The groups of one tenant.
#[derive(Debug)]
pub struct Groups {
    system: Arc<Reality>,
    feeder: Arc<Feeder>,
    bounds: Bounds,
    slots: Mutex<HashMap<Name, Slot>>,
    /// Held while a group is opened or changed, so that there is never a second of one. Taken before
    /// `slots`.
    opening: Mutex<()>,
    /// Why the states found at the start are not all there are.
    damage: Option<String>,
    limit: usize,
}

/// What somebody wants to work for.
#[derive(Debug)]
pub struct Join<'a> {
    /// The group's name.
    pub group: &'a str,
    /// What it reads: the same for all members.
    pub filter: &'a Filter,
    /// Where it begins when it is used for the first time.
    pub start: Start,
    /// How it works, as far as the member says.
    pub options: GroupOptions,
    /// How much the member may have at a time.
    pub window: Window,
    /// The member's name, for people and letters.
    pub name: &'a str,
    /// Who is told that there is work, and under which key.
    pub worker: Arc<dyn Worker>,
    /// The key.
    pub key: u64,
}

/// One group, for people.
#[derive(Clone, PartialEq, Debug)]
pub struct Summary {
    /// The reality it reads.
    pub reality: RealityName,
    /// Its name.
    pub group: String,
    /// What it reads.
    pub filter: String,
    /// Everything below is done.
    pub floor: Sequence,
    /// Records from there on that have been looked at and are not done.
    pub open: usize,
    /// Records that members have.
    pub in_flight: usize,
    /// Who works for it.
    pub members: Vec<MemberSummary>,
    /// Nothing is given out.
    pub paused: bool,
    /// Records that were damaged on disk, since it is in use.
    pub lost: u64,
    /// How it works.
    pub options: Options,
}

/// A change to a group by somebody who is no member.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Change {
    Options(GroupOptions),
    Paused(bool),
    /// Everything below is done, and nothing else is.
    Reset(Sequence),
}

impl Groups {
    /// Folds the groups out of the system reality. Blocks on the disk.
    pub(super) fn fold(
        system: &Arc<Reality>,
        feeder: &Arc<Feeder>,
        bounds: Bounds,
        limit: usize,
    ) -> Result<Arc<Self>, Error> {
        let mut slots = HashMap::new();
        let log = system.log();
        let mut damage = None;
        let topics = log.topics().or_else(|error| match error {
            log::Error::Damaged(found) => {
                damage = Some(without_directories(&found).to_string());
                Ok(Vec::new())
            }
            error => Err(error),
        });
        for topic in topics? {
            if !topic.topic.starts_with(TOPIC_PREFIX) {
                continue;
            }
            let found = log.read(topic.last, topic.last.next(), 1)?;
            let Some(state) = state_in(&found) else {
                tracing::error!(tenant = %system.tenant(), topic = topic.topic, "state of a group not readable");
                damage = Some(format!("the state at {} cannot be read", topic.topic));
                continue;
            };
            if let Ok(reality) = RealityName::new(&state.reality)
                && state.next != 0
            {
                let name = (reality, state.group.as_str().into());
                slots.insert(name, Slot::Resting(Box::new(state)));
            }
        }
        Ok(Arc::new(Self {
            system: Arc::clone(system),
            feeder: Arc::clone(feeder),
            bounds,
            slots: Mutex::new(slots),
            opening: Mutex::new(()),
            damage,
            limit,
        }))
    }

    /// Becomes a member of a group of `reality`, which begins to exist with its first. On disk on
    /// `Ok`. Blocks on the disk.
    ///
    /// # Errors
    /// The name breaks its rule; the group reads another filter, or works in another way; there are
    /// too many groups, or members; what is known of groups is damaged.
    pub fn join(self: &Arc<Self>, reality: &Arc<Reality>, join: Join<'_>) -> Result<Member, Error> {
        let field = "group";
        name::check_consumer(join.group).map_err(|fault| Error::Name { field, fault })?;
        self.check_intact()?;
        options::check(&join.options, &self.bounds)?;
        let name: Name = (reality.name().clone(), join.group.into());
        let _opening = self.opening();
        reality.check_there()?;
        let resting = {
            let slots = self.lock();
            match slots.get(&name) {
                Some(Slot::InUse(group)) => return enter(group, join),
                Some(Slot::Resting(state)) => Some(GroupState::clone(state)),
                None if slots.len() >= self.limit => {
                    return Err(Error::ConsumersFull { limit: self.limit });
                }
                None => None,
            }
        };
        let state = match resting {
            Some(state) => state,
            None => self.found(reality, &name, &join)?,
        };
        let bound = Options::within(&state.options.unwrap_or_default(), &self.bounds);
        check_same(&state.filter, &bound, &join)?;
        let filter = join.filter.clone();
        let group = Group::open(self, name.clone(), filter, Arc::clone(reality), &state)?;
        let member = enter(&group, join);
        match &member {
            Ok(_) => {
                self.lock().insert(name, Slot::InUse(group));
            }
            // It goes on resting.
            Err(_) => group.dismiss(),
        }
        member
    }

    /// A group that nobody has used yet, with the place where it begins on disk: else whoever comes
    /// after a crash would begin somewhere else.
    fn found(
        &self,
        reality: &Arc<Reality>,
        name: &Name,
        join: &Join<'_>,
    ) -> Result<GroupState, Error> {
        let next = first_of(reality, join.start)?;
        let state = GroupState {
            reality: name.0.as_str().into(),
            group: name.1.to_string(),
            filter: join.filter.as_str().into(),
            next: next.get(),
            options: Some(join.options),
            letters_from: reality.bounds().durable_end.get(),
            ..GroupState::default()
        };
        let record = coordinator::record(&self.system, name, &state);
        system::append_and_wait(&self.system, record)?;
        let slot = Slot::Resting(Box::new(state.clone()));
        self.lock().insert(name.clone(), slot);
        Ok(state)
    }

    /// A state that lies in the damaged part would be taken for none, or for an older one.
    fn check_intact(&self) -> Result<(), Error> {
        let lasting = self.system.read_only().filter(|state| !state.repairing);
        let reason = self.damage.clone().or(lasting.map(|state| state.reason));
        reason.map_or(Ok(()), |reason| {
            let tenant = self.system.tenant().clone();
            Err(Error::CursorsDamaged { tenant, reason })
        })
    }

    /// All of them, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Summary> {
        let slots = self.lock();
        let sorted: BTreeMap<_, _> = slots.iter().collect();
        let shown = sorted.into_iter();
        shown.map(|(name, slot)| self.summary(name, slot)).collect()
    }

    /// Counts what is in use.
    pub(super) fn add_to(&self, totals: &mut Totals) {
        for slot in self.lock().values() {
            if let Slot::InUse(group) = slot {
                let shown = group.shown();
                totals.group_members += shown.members.len();
                totals.group_in_flight += shown.in_flight;
                totals.group_open += shown.open;
            }
        }
    }

    /// One of them.
    #[must_use]
    pub fn show(&self, reality: &RealityName, group: &str) -> Option<Summary> {
        let name = (reality.clone(), group.into());
        let slots = self.lock();
        slots.get(&name).map(|slot| self.summary(&name, slot))
    }

    fn summary(&self, name: &Name, slot: &Slot) -> Summary {
        let (reality, group) = (name.0.clone(), name.1.to_string());
        match slot {
            Slot::Resting(state) => Summary {
                reality,
                group,
                filter: state.filter.clone(),
                floor: Sequence::at_least_first(
                    state.open.first().map_or(state.next, |open| open.sequence),
                ),
                open: state.open.len(),
                in_flight: 0,
                members: Vec::new(),
                paused: state.paused,
                lost: 0,
                options: Options::within(&state.options.unwrap_or_default(), &self.bounds),
            },
            Slot::InUse(used) => {
                let shown = used.shown();
                Summary {
                    reality,
                    group,
                    filter: used.filter().as_str().to_owned(),
                    floor: shown.floor,
                    open: shown.open,
                    in_flight: shown.in_flight,
                    members: shown.members,
                    paused: shown.paused,
                    lost: shown.lost,
                    options: shown.options,
                }
            }
        }
    }

    /// Lets groups work in another way; what `asked` leaves at 0 stays. On disk on `Ok`. Blocks.
    ///
    /// # Errors
    /// There is no such group; the node does not allow it; it cannot be stored.
    pub fn configure(
        &self,
        reality: &RealityName,
        group: &str,
        asked: &GroupOptions,
    ) -> Result<(), Error> {
        options::check(asked, &self.bounds)?;
        let _opening = self.opening();
        let known = match self.lock().get(&(reality.clone(), group.into())) {
            Some(Slot::Resting(state)) => state.options.unwrap_or_default(),
            Some(Slot::InUse(group)) => group.asked(),
            None => return Err(no_such(reality, group)),
        };
        let merged = options::merged(&known, asked);
        options::check(&merged, &self.bounds)?;
        self.alter(reality, group, &Change::Options(merged))
    }

    /// Gives nothing out any more, or again. On disk on `Ok`. Blocks.
    ///
    /// # Errors
    /// There is no such group; it cannot be stored.
    pub fn pause(&self, reality: &RealityName, group: &str, paused: bool) -> Result<(), Error> {
        let _opening = self.opening();
        self.alter(reality, group, &Change::Paused(paused))
    }

    /// Begins anew at `next`: whatever members have is not theirs any more. On disk on `Ok`. Blocks.
    ///
    /// # Errors
    /// There is no such group; it cannot be stored.
    pub fn reset(&self, reality: &Arc<Reality>, group: &str, next: Sequence) -> Result<(), Error> {
        let _opening = self.opening();
        let name = (reality.name().clone(), Box::from(group));
        let resting = match self.lock().get(&name) {
            Some(Slot::Resting(state)) => Some(GroupState::clone(state)),
            Some(Slot::InUse(_)) | None => None,
        };
        let Some(state) = resting else {
            return self.alter(reality.name(), group, &Change::Reset(next));
        };
        let state = GroupState {
            next: next.get(),
            open: Vec::new(),
            letters_from: reality.bounds().durable_end.get(),
            ..state
        };
        self.keep(&name, state)
    }

    /// `opening` must be held.
    fn alter(&self, reality: &RealityName, group: &str, change: &Change) -> Result<(), Error> {
        let name: Name = (reality.clone(), group.into());
        let state = {
            let slots = self.lock();
            match slots.get(&name) {
                Some(Slot::InUse(group)) => {
                    let group = Arc::clone(group);
                    drop(slots);
                    return group.alter(change);
                }
                Some(Slot::Resting(state)) => GroupState::clone(state),
                None => return Err(no_such(reality, group)),
            }
        };
        let state = match change {
            Change::Options(options) => GroupState {
                options: Some(*options),
                ..state
            },
            Change::Paused(paused) => GroupState {
                paused: *paused,
                ..state
            },
            Change::Reset(next) => GroupState {
                next: next.get(),
                open: Vec::new(),
                ..state
            },
        };
        self.keep(&name, state)
    }

    /// Stores what is to be known of a group that nobody uses. `opening` must be held.
    fn keep(&self, name: &Name, state: GroupState) -> Result<(), Error> {
        let record = coordinator::record(&self.system, name, &state);
        system::append_and_wait(&self.system, record)?;
        let slot = Slot::Resting(Box::new(state));
        self.lock().insert(name.clone(), slot);
        Ok(())
    }

    /// Forgets a group. On disk on `Ok`. Blocks.
    ///
    /// # Errors
    /// There is none; it has members; it cannot be stored.
    pub fn delete(&self, reality: &RealityName, group: &str) -> Result<(), Error> {
        let _opening = self.opening();
        let name = (reality.clone(), Box::from(group));
        match self.lock().get(&name) {
            Some(Slot::Resting(_)) => {}
            Some(Slot::InUse(_)) => {
                let group = group.to_owned();
                return Err(Error::GroupInUse { group });
            }
            None => return Err(no_such(reality, group)),
        }
        self.end(&name)?;
        self.lock().remove(&name);
        Ok(())
    }

    /// Stores that a group is no more.
    fn end(&self, name: &Name) -> Result<(), Error> {
        let ended = GroupState {
            reality: name.0.as_str().into(),
            group: name.1.to_string(),
            ..GroupState::default()
        };
        let record = coordinator::record(&self.system, name, &ended);
        system::append_and_wait(&self.system, record).map(drop)
    }

    /// Ends the groups of a reality that is being deleted, so that another of its name begins
    /// without. On disk on `Ok`. Blocks.
    pub(super) fn forget(&self, reality: &RealityName) -> Result<(), Error> {
        let _opening = self.opening();
        let of_it: Vec<(Name, Option<Arc<Group>>)> = {
            let slots = self.lock();
            let of_it = slots.iter().filter(|((of, _), _)| of == reality);
            let used = |slot: &Slot| match slot {
                Slot::InUse(group) => Some(Arc::clone(group)),
                Slot::Resting(_) => None,
            };
            of_it
                .map(|(name, slot)| (name.clone(), used(slot)))
                .collect()
        };
        for (name, used) in of_it {
            if let Some(group) = used {
                group.end();
            }
            self.end(&name)?;
            self.lock().remove(&name);
        }
        Ok(())
    }

    /// Lets go of a group that nobody uses any more.
    fn unload(&self, name: &Name, id: u64) {
        let mut slots = self.lock();
        let Some(slot) = slots.get_mut(name) else {
            return;
        };
        let Slot::InUse(group) = slot else {
            return;
        };
        if group.id() != id {
            return;
        }
        if let Some(state) = group.at_rest() {
            group.dismiss();
            *slot = Slot::Resting(Box::new(state));
        }
    }

    fn opening(&self) -> MutexGuard<'_, ()> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    const fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    const fn feeder(&self) -> &Arc<Feeder> {
        &self.feeder
    }

    const fn system(&self) -> &Arc<Reality> {
        &self.system
    }
}

/// Makes somebody a member of a group in use.
fn enter(group: &Arc<Group>, join: Join<'_>) -> Result<Member, Error> {
    check_same(group.filter().as_str(), &group.shown().options, &join)?;
    let id = group.join(join.name, join.window, join.key, join.worker)?;
    Ok(Member {
        group: Arc::clone(group),
        id,
        left: false,
    })
}

/// Refuses somebody who reads something else, or wants the group to work in another way.
fn check_same(filter: &str, bound: &Options, join: &Join<'_>) -> Result<(), Error> {
    if filter != join.filter.as_str() {
        return Err(Error::ConsumerFilter {
            consumer: join.group.to_owned(),
            bound: filter.to_owned(),
            asked: join.filter.clone(),
        });
    }
    let (asked, ms) = (&join.options, options::millis);
    let both = [
        (
            "ack_deadline_ms",
            ms(bound.ack_deadline),
            asked.ack_deadline_ms,
        ),
        (
            "max_deliveries",
            bound.max_deliveries.into(),
            asked.max_deliveries.into(),
        ),
        (
            "backoff_min_ms",
            ms(bound.backoff_min),
            asked.backoff_min_ms,
        ),
        (
            "backoff_max_ms",
            ms(bound.backoff_max),
            asked.backoff_max_ms,
        ),
        (
            "in_flight_max",
            bound.in_flight_max.into(),
            asked.in_flight_max.into(),
        ),
    ];
    let other = both
        .into_iter()
        .find(|(_, bound, asked)| *asked != 0 && asked != bound);
    match other {
        Some((field, bound, asked)) => Err(Error::GroupOtherwise {
            field,
            bound,
            asked,
        }),
        None => Ok(()),
    }
}

fn no_such(reality: &RealityName, group: &str) -> Error {
    Error::NoSuchGroup {
        reality: reality.clone(),
        group: group.chars().take(name::CONSUMER_BYTES_MAX).collect(),
    }
}

fn state_in(found: &Found) -> Option<GroupState> {
    let Found::Records(chunk) = found else {
        return None;
    };
    let record = chunk.iter().next()?;
    let view = RecordView::parse(record.record).ok()?;
    GroupState::decode(view.envelope.payload.data()).ok()
}
