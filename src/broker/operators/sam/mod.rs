//! Operators that clients are: they join a group, are given tasks, and answer them (OPS-01 to
//! OPS-04).
//!
//! - `manifest`: what an operator says of itself; `registry`: who has been there, a fold of events.
//! - `task`: tasks and results as they stand in the log; `floor`: who has which in hand, in memory.
//! - `rebuild`: the open tasks of a log; `pickup`: those that come to it otherwise; `settle`: what becomes of tasks, written down.
//! - `command`: what people and programs ask for; this file: the way in and out for sessions.
//!
//! A task is done when its result is in the log. Whoever had it in hand when a node died is not
//! known any more, and need not be: nobody is connected then, and what has no result is given out
//! again. The registry says who can do what; who is ready, the floor alone knows.
//!
//! Locks: the floor's is held for steps in memory only, never while something is written or read.

mod command;
pub mod counts;
pub mod floor;
pub mod manifest;
mod pickup;
mod rebuild;
pub mod refused;
pub mod registry;
mod settle;
pub mod task;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use self::command::COMMANDS;
pub use self::counts::Counts;
pub use self::floor::ATTEMPTS_MAX;
pub use self::manifest::Manifest;
pub use self::refused::Refused;
pub use self::task::{Mode, Selection};

use self::floor::{Floor, Next, Present, Standing};
use self::registry::{Event, Registry, State};
use super::{BuiltIn, Duty, Office};
use crate::broker::access::Identity;
use crate::broker::error::Error;
use crate::broker::operators::contracts::Contracts as _;
use crate::broker::{Broker, Filter, Tenancy};
use crate::log::Micros;
use crate::proto::ErrorCode;
use crate::proto::v1::OperatorJoin;

/// Its entry among the built-in operators.
pub const OPERATOR: BuiltIn = BuiltIn {
    name: NAME,
    doc: "Gives tasks to operators that clients are, and takes what comes of them.",
    commands: COMMANDS,
    duty: Some(DUTY),
};

/// Its name among the built-in operators.
pub const NAME: &str = "sam";
/// What it does unasked.
pub const DUTY: Duty = Duty { is_due, run };

/// A task on its way to an operator.
#[derive(Clone, Debug)]
pub struct Given {
    /// Its id.
    pub id: String,
    /// Its record, encoded.
    pub record: Bytes,
    /// Milliseconds since the Unix epoch; 0 = none.
    pub deadline_ms: u64,
    /// From 1.
    pub attempt: u32,
    /// Its group.
    pub group: String,
    /// Which of a session's operators it is for.
    pub instance: String,
    /// The token that its answer needs.
    pub lease: u64,
    /// How long it has it.
    pub lease_ms: u64,
}

/// Where the tasks of an operator go. Must not wait.
pub trait Hands: fmt::Debug + Send + Sync {
    /// Takes a task; bounded by what the operator takes at a time.
    fn give(&self, task: Given);
}

/// What a tenant's operators have to do, in memory.
#[derive(Debug)]
pub struct Sam {
    floor: Mutex<Floor>,
    hands: Mutex<HashMap<u64, Arc<dyn Hands>>>,
    /// Whether the open tasks have been read from the log.
    is_read: Mutex<bool>,
    /// How far it has been looked for tasks that nobody has dispatched.
    looked: Mutex<pickup::Looked>,
    /// What is still to be written down, because it happened where nothing may wait.
    later: Mutex<Later>,
    /// Commands that wait for a result.
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct Later {
    next: Vec<Next>,
    /// Operators whose sessions have ended: group and instance.
    gone: Vec<(String, String)>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sam {
    /// Nothing to do, and nobody to do it.
    #[must_use]
    pub fn new(now: Micros) -> Self {
        Self {
            floor: Mutex::new(Floor::new(now)),
            hands: Mutex::default(),
            is_read: Mutex::new(false),
            looked: Mutex::default(),
            later: Mutex::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    fn floor(&self) -> MutexGuard<'_, Floor> {
        lock(&self.floor)
    }
}

/// An operator that is connected, in the hands of its session; it leaves when this is dropped.
#[derive(Debug)]
pub struct Membership {
    broker: Arc<Broker>,
    tenancy: Arc<Tenancy>,
    key: u64,
    manifest: Arc<Manifest>,
    subject: String,
    /// The registry knows of it.
    is_announced: bool,
}

/// What a token must allow whoever works for a group.
fn may_work(caller: &Identity, group: &str) -> Result<(), Refused> {
    let (task, result) = (
        format!("{}{group}", task::TASK_PREFIX),
        format!("{}{group}", task::RESULT_PREFIX),
    );
    let filter =
        Filter::new(&task).map_err(|fault| Refused::invalid("group", format!("group {fault}")))?;
    if !caller.may_subscribe(&filter) {
        let text =
            format!("this token may not work for group {group}: it may not subscribe to {task}");
        return Err(Refused::new(ErrorCode::Forbidden, "group", text));
    }
    if !caller.is_granted(&result) {
        let text =
            format!("this token may not work for group {group}: it may not publish on {result}");
        return Err(Refused::new(ErrorCode::Forbidden, "group", text));
    }
    Ok(())
}

/// Lets an operator in. It gets tasks once [`Membership::begin`] is called. Blocks on the disk.
///
/// # Errors
/// Something in what it says of itself breaks a rule, or its token does not allow it; the registry
/// could not be written.
pub fn join(
    broker: &Arc<Broker>,
    tenancy: &Arc<Tenancy>,
    caller: &Identity,
    asked: OperatorJoin,
    hands: Arc<dyn Hands>,
) -> Result<Membership, Error> {
    let manifest = Arc::new(Manifest::read(asked)?);
    may_work(caller, &manifest.group)?;
    let contracts = broker.contracts();
    for (field, schema) in [
        ("input_schema", &manifest.input_schema),
        ("output_schema", &manifest.output_schema),
    ] {
        if !schema.is_empty() && !contracts.knows(tenancy.tenant(), schema) {
            let shown: String = schema.chars().take(64).collect();
            let text = format!(
                "{field} {shown:?} is not in the tenant's registry; `arqon schema list` shows what is"
            );
            return Err(Refused::invalid(field, text).into());
        }
    }
    rebuild::ensure(tenancy)?;
    let sam = tenancy.sam();
    let key = sam.floor().join(Arc::clone(&manifest))?;
    lock(&sam.hands).insert(key, hands);
    // From here on it leaves when anything fails.
    let mut membership = Membership {
        broker: Arc::clone(broker),
        tenancy: Arc::clone(tenancy),
        key,
        manifest: Arc::clone(&manifest),
        subject: caller.subject.clone(),
        is_announced: false,
    };
    let announced = Event::Announced {
        manifest: Box::new((*manifest).clone()),
        by: caller.subject.clone(),
    };
    let ready = stands(&manifest.instance, State::Ready, "it has joined");
    tenancy.ledger::<Registry>().change(|registry| {
        registry.admit(&manifest)?;
        let events = [announced, ready];
        let events = events.map(|event| event.record(&manifest.group));
        Ok(((), events.to_vec()))
    })?;
    membership.is_announced = true;
    Ok(membership)
}

fn stands(instance: &str, state: State, why: &str) -> Event {
    Event::Stands {
        instance: instance.to_owned(),
        state,
        why: why.to_owned(),
    }
}

impl Membership {
    /// What the operator says of itself.
    #[must_use]
    pub const fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// Lets it have tasks.
    pub fn begin(&self) {
        let sam = self.tenancy.sam();
        let mut floor = sam.floor();
        if floor
            .member(self.key)
            .is_some_and(|one| one.standing == Standing::Announced)
        {
            floor.stand(self.key, Standing::Ready);
        }
        drop(floor);
        self.wake();
    }

    fn wake(&self) {
        self.broker.duties().wake(self.tenancy.tenant(), NAME);
    }

    /// The lease of a task begins anew; answers with when it ends, in milliseconds since the Unix
    /// epoch.
    ///
    /// # Errors
    /// The task is not in its hands any more.
    pub fn extend(&self, id: &str, lease: u64) -> Result<u64, Error> {
        let now = self.tenancy.now();
        let until = self
            .tenancy
            .sam()
            .floor()
            .extend(self.key, id, lease, now)?;
        Ok(until.as_millis())
    }

    /// Whether a task with this token is, or was, its own.
    #[must_use]
    pub fn knows(&self, id: &str, lease: u64) -> bool {
        self.tenancy.sam().floor().knows_lease(self.key, id, lease)
    }

    /// The token of a task in its hands, for a client that does not keep it.
    #[must_use]
    pub fn lease_of(&self, id: &str) -> Option<u64> {
        self.tenancy.sam().floor().lease_of(self.key, id)
    }

    /// Whether a new token of its session allows it too.
    #[must_use]
    pub fn is_allowed(&self, caller: &Identity) -> bool {
        may_work(caller, &self.manifest.group).is_ok()
    }

    /// No more tasks for it, because its session is about to end.
    pub fn pause(&self) {
        self.tenancy
            .sam()
            .floor()
            .stand(self.key, Standing::Draining);
    }

    /// No more tasks for it; answers with how many it still has. Blocks on the disk.
    ///
    /// # Errors
    /// That could not be written down.
    pub fn drain(&self) -> Result<u32, Error> {
        let manifest = &self.manifest;
        let drained = drain(
            &self.tenancy,
            &manifest.group,
            &manifest.instance,
            &self.subject,
        )?;
        Ok(drained.map_or(0, |present| present.in_hand))
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let sam = self.tenancy.sam();
        lock(&sam.hands).remove(&self.key);
        let mut floor = sam.floor();
        let next = floor.leave(self.key, self.tenancy.now());
        drop(floor);
        let mut later = lock(&sam.later);
        later.next.extend(next);
        if self.is_announced {
            let Manifest {
                group, instance, ..
            } = &*self.manifest;
            later.gone.push((group.clone(), instance.clone()));
        }
        drop(later);
        self.wake();
    }
}

/// No more tasks for an operator that is connected; `None` if it is not.
fn drain(
    tenancy: &Tenancy,
    group: &str,
    instance: &str,
    by: &str,
) -> Result<Option<Present>, Error> {
    let sam = tenancy.sam();
    let mut floor = sam.floor();
    let Some((key, present)) = floor.present(group, instance) else {
        return Ok(None);
    };
    if matches!(present.standing, Standing::Announced | Standing::Ready) {
        floor.stand(key, Standing::Draining);
    }
    drop(floor);
    let why = format!("drained by {by}");
    settle::record(tenancy, group, &[stands(instance, State::Draining, &why)])?;
    let present = sam.floor().member(key);
    Ok(present)
}

fn is_due(tenancy: &Arc<Tenancy>) -> Result<bool, Error> {
    rebuild::ensure(tenancy)?;
    let sam = tenancy.sam();
    let is_later = {
        let later = lock(&sam.later);
        !later.next.is_empty() || !later.gone.is_empty()
    };
    let floor = sam.floor();
    Ok(is_later || floor.due(tenancy.now()).is_some() || !floor.all_present().is_empty())
}

/// Longest pause between two looks at what is due: clocks jump.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Shortest.
const LOOK_LEAST: Duration = Duration::from_millis(5);

fn run(office: Office) -> BoxFuture<'static, Result<(), Error>> {
    Box::pin(async move {
        loop {
            let broker = Arc::clone(&office.broker);
            office
                .blocking(move |tenancy| settle::round(&broker, tenancy))
                .await?;
            if office.is_closing() || !office.blocking(is_due).await? {
                return Ok(());
            }
            let due = office.tenancy.sam().floor().due(office.tenancy.now());
            let now = office.tenancy.now();
            let pause = due.map_or(LOOK_EVERY, |at| {
                Duration::from_micros(at.0.saturating_sub(now.0)).clamp(LOOK_LEAST, LOOK_EVERY)
            });
            // A ring or the time: both mean to look again.
            let _rung = tokio::time::timeout(pause, office.rung()).await;
        }
    })
}
