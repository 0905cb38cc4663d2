//! The rules of one tenant, as they are now.
//!
//! A change is an event: it is tried on a copy of what is in force, stored, and put in force by
//! reading it back, so that what is in force is always what the log says. A message is judged by
//! exactly one state of the rules: whoever judges loads them once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::decisions::Decisions;
use super::roll::Roll;
use super::rules::{self, Fault, Rules, Workshop};
use crate::broker::journal::{self, NewEvent, Unreadable};
use crate::broker::{Filter, Tenancy, Tenant};
use crate::edge::metrics::Metrics;
use crate::edge::mirror::Copier;
use crate::edge::rate::allowance::{Allowance, Pace};
use crate::log::Sequence;
use crate::proto::ErrorCode;

/// What the edge has in force for one tenant, and the sessions it holds for.
#[derive(Debug)]
pub struct Guard {
    tenant: Tenant,
    rules: ArcSwap<Rules>,
    baseline: Rules,
    workshop: Arc<Workshop>,
    /// Up to where the tenant's events are in force.
    folded: Mutex<Sequence>,
    roll: Roll,
    decisions: Decisions,
    copier: Arc<Copier>,
    /// What all sessions of the tenant together may send; `None` if that is not limited.
    allowance: Option<Allowance>,
}

/// The right to change what is in force; one has it at a time.
pub(super) type Turn<'a> = MutexGuard<'a, Sequence>;

impl Guard {
    pub(super) fn new(
        tenant: Tenant,
        baseline: Rules,
        workshop: Arc<Workshop>,
        metrics: Arc<Metrics>,
        pace: Pace,
    ) -> Self {
        let mut none_yet = baseline.clone();
        none_yet.lose("the tenant's events have not been read yet");
        Self {
            rules: ArcSwap::from_pointee(none_yet),
            tenant,
            baseline,
            workshop,
            folded: Mutex::new(Sequence::FIRST),
            roll: Roll::default(),
            copier: Arc::new(Copier::new(Arc::clone(&metrics))),
            decisions: Decisions::new(metrics),
            allowance: Allowance::new(pace),
        }
    }

    /// Whose it is.
    #[must_use]
    pub const fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// What is in force now.
    #[must_use]
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Whether all of the tenant's events could be read.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.rules.load().is_lost()
    }

    /// The sessions that are live.
    #[must_use]
    pub const fn roll(&self) -> &Roll {
        &self.roll
    }

    /// What has been decided.
    #[must_use]
    pub const fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Who appends what is mirrored.
    #[must_use]
    pub const fn copier(&self) -> &Arc<Copier> {
        &self.copier
    }

    /// What all sessions of the tenant together may send; `None` if that is not limited.
    #[must_use]
    pub const fn allowance(&self) -> Option<&Allowance> {
        self.allowance.as_ref()
    }

    pub(super) fn turn(&self) -> Turn<'_> {
        self.folded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an event in force: it is tried, stored, and read back. Returns where it stands. Blocks
    /// on the disk.
    ///
    /// # Errors
    /// The event cannot be put in force, and is not stored; or it could not be stored.
    pub fn change(&self, tenancy: &Tenancy, event: NewEvent<'_>) -> Result<Sequence, Fault> {
        self.change_from(tenancy, |_| Ok(event))
    }

    /// The same for an event that depends on what is in force: nobody changes that in between.
    ///
    /// # Errors
    /// As [`Self::change`]; or the event cannot be made.
    pub fn change_from<'a>(
        &self,
        tenancy: &Tenancy,
        make: impl FnOnce(&Rules) -> Result<NewEvent<'a>, Fault>,
    ) -> Result<Sequence, Fault> {
        let turn = self.turn();
        let mut trial = self.rules().as_ref().clone();
        let event = make(&trial)?;
        if trial.is_lost() && !event.topic.starts_with(rules::LOSS_PREFIX) {
            let why = trial.unfit().unwrap_or_default();
            let text =
                format!("nothing can be changed while it is not known what is in force: {why}");
            return Err(Fault::new(ErrorCode::StorageFailure, "", text));
        }
        trial.apply(&journal::Event {
            sequence: *turn,
            at: tenancy.now(),
            topic: &event.topic,
            kind: event.kind,
            data: &event.data,
        })?;
        let unready = trial.prepare(&self.workshop).into_iter();
        // What else is not ready has been so before.
        let mut of_this = unready.filter(|(topic, _)| *topic == event.topic);
        if let Some((_, fault)) = of_this.next() {
            return Err(fault);
        }
        let sequence = tenancy.record(event).map_err(Fault::from)?;
        self.catch_up(tenancy, turn);
        Ok(sequence)
    }

    /// Puts everything in force that the tenant's events say up to now. Blocks on the disk.
    pub(super) fn catch_up(&self, tenancy: &Tenancy, mut folded: Turn<'_>) {
        let from = *folded;
        let mut rules = if from == Sequence::FIRST {
            self.baseline.clone()
        } else {
            self.rules().as_ref().clone()
        };
        let filter = match Filter::new(rules::TOPICS) {
            Ok(filter) => filter,
            Err(error) => {
                tracing::error!(%error, "the filter of the edge's own topics is broken");
                return;
            }
        };
        let read = tenancy.events(&filter, from, |event| {
            rules.fold(&event);
            Ok::<(), Unreadable>(())
        });
        match read {
            Ok(mut through) => {
                // Whatever stood before the first record that is there is gone, too.
                let first = tenancy.first_event();
                if from == Sequence::FIRST && first > Sequence::FIRST {
                    through.lost.push((1, first.get() - 1));
                }
                rules.miss(through.lost);
                *folded = through.next;
            }
            Err(error) => {
                // What was folded of it is folded again when it can be read.
                rules = self.rules().as_ref().clone();
                rules.lose(&error.to_string());
            }
        }
        // Where the end of the log is damaged nobody knows what stood there.
        if !rules.is_lost()
            && let Some(reason) = tenancy.damage_of_events()
        {
            rules.lose(&format!(
                "the tenant's system log is damaged: {reason}; repair it by `arqon log repair --reality _system`"
            ));
        }
        if rules.is_lost() {
            let reason = rules.unfit().unwrap_or_default();
            tracing::error!(tenant = %self.tenant, reason, "it is not known what the edge has in force; everything is refused");
        }
        rules.prepare_all(&self.workshop);
        let rules = Arc::new(rules);
        self.rules.store(Arc::clone(&rules));
        self.roll.enforce(&rules.revocations);
    }
}

impl From<Unreadable> for Fault {
    fn from(error: Unreadable) -> Self {
        Self::new(ErrorCode::StorageFailure, "", error.to_string())
    }
}
