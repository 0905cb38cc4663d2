//! Projects records of a range of time again, beside the lane (PRJ-06).
//!
//! The log is what is read, never the tables. The time is the one that an event gives itself where
//! its row shows one, else the one at which the log took it. Only what the lane has passed is
//! selected: it projects the rest by itself. A dry run decides the same way, over what it would
//! have written, and changes nothing.

use std::time::Instant;

use super::batch::{Batch, Limits, Pending, Reading, decide};
use super::filling::bury;
use super::fold::{Known, Outcome, Repeats};
use super::jobs::{Course, Findings, Trouble, count, counted};
use super::lane::Lane;
use super::letters::Letters;
use super::logs::{Feed, LogsError};
use super::projection::{Change, Poison, Projection};
use super::sink::{Commit, SinkError};
use super::table::Cell;
use crate::log::{Log, Micros, Sequence};

/// Keys that a dry run keeps in memory.
const DRY_RUN_KEYS_MAX: usize = 1_000_000;

/// Whether a backfill changes anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// It does.
    Real,
    /// It counts only.
    DryRun,
}

/// Which records are projected again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selection {
    /// From this time on,
    pub from: Micros,
    /// to this one, included.
    pub to: Micros,
    /// Only of this agent. What is poison is nobody's, and then left out.
    pub agent_id: Option<String>,
}

/// What a backfill did, or would do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backfilled {
    /// Whether it did.
    pub effect: Effect,
    /// Records that were selected.
    pub selected: u64,
    /// What became of them, in the order of [`Outcome::ALL`].
    pub outcomes: [u64; 5],
    /// Records before this one were looked at.
    pub before: Sequence,
    /// Records that the log has lost.
    pub lost: u64,
}

impl Backfilled {
    /// How many of the selected records became `outcome`.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u64 {
        counted(&self.outcomes, outcome)
    }
}

impl Selection {
    fn holds(&self, projection: &dyn Projection, one: &Pending) -> bool {
        let when = time_of(projection, one.changes()).unwrap_or(one.appended_at);
        let is_agents = self.agent_id.as_deref().is_none_or(|agent| {
            one.changes()
                .iter()
                .any(|change| agent_of(projection, change) == Some(agent))
        });
        (self.from..=self.to).contains(&when) && is_agents
    }
}

/// When an event happened, by its own words.
fn time_of(projection: &dyn Projection, changes: &[Change]) -> Option<Micros> {
    changes.iter().find_map(|change| match change {
        Change::Put { table, row } => match row.0.get(projection.time_column(*table)?)? {
            Cell::Timestamp(time) => Some(*time),
            _ => None,
        },
        Change::Remove { .. } => None,
    })
}

fn agent_of<'a>(projection: &dyn Projection, change: &'a Change) -> Option<&'a str> {
    match change {
        Change::Put { table, row } => {
            let column = projection.tables().get(*table)?.column("agent_id")?;
            row.0.get(column)?.text()
        }
        Change::Remove { .. } => None,
    }
}

struct Backfill<'a> {
    course: &'a Course,
    feed: &'a dyn Feed,
    selection: &'a Selection,
    effect: Effect,
    /// Of all records, so that none gets a second one.
    letters: Letters,
    /// What a dry run would have written.
    known: Known,
    done: Backfilled,
}

/// Does it.
pub(super) fn work(
    course: &Course,
    selection: &Selection,
    effect: Effect,
) -> Result<Findings, Trouble> {
    let (lane, projection) = (&course.lane, &**course.lane.projection());
    let feed = course.open()?;
    course.persist(|| Ok(course.block_on(lane.sink().prepare(projection))?))?;
    let log = feed.log();
    let end = course
        .persist(|| lane_stands(course))?
        .min(log.bounds().durable_end);
    let (first, end) = range(projection, &log, selection, end)?;
    let letters = Letters::default();
    if effect == Effect::Real {
        let topic = &projection.dead_letters().topic;
        letters.recover(&*feed, topic, lane.kind(), log.bounds().first)?;
    }
    let mut backfill = Backfill {
        course,
        feed: &*feed,
        selection,
        effect,
        letters,
        known: Known::default(),
        done: Backfilled {
            effect,
            selected: 0,
            outcomes: [0; 5],
            before: end,
            lost: 0,
        },
    };
    backfill.run(&log, first, end)?;
    Ok(Findings::Backfill(backfill.done))
}

/// Where the lane stands, or will begin.
pub(super) fn lane_stands(course: &Course) -> Result<Sequence, Trouble> {
    let lane = &course.lane;
    let held = Lane::held(&lane.hold());
    if let Some((next, _)) = held {
        return Ok(next);
    }
    let stored = course.block_on(lane.sink().position(lane.place()))?;
    Ok(stored.map_or(Sequence::FIRST, |stored| stored.next))
}

/// Where records of the time can stand. Where events tell their own time, that is anywhere.
fn range(
    projection: &dyn Projection,
    log: &Log,
    selection: &Selection,
    end: Sequence,
) -> Result<(Sequence, Sequence), LogsError> {
    let tables = 0..projection.tables().len();
    if tables
        .into_iter()
        .any(|table| projection.time_column(table).is_some())
    {
        return Ok((log.bounds().first, end));
    }
    let first = log.seek_time(selection.from)?;
    let after = log.seek_time(Micros(selection.to.0.saturating_add(1)))?;
    Ok((first, after.min(end)))
}

impl Backfill<'_> {
    fn run(&mut self, log: &Log, mut next: Sequence, end: Sequence) -> Result<(), Trouble> {
        let course = self.course;
        let projection = &**course.lane.projection();
        let options = &course.shared.options;
        let limits = Limits {
            records: options.job_batch_records_max.max(1),
            bytes: options.batch_bytes_max,
        };
        let reading = Reading {
            projection,
            place: course.lane.place(),
            payloads: course.shared.logs.payloads(),
        };
        let mut by_topic = reading.by_topic(log);
        course.total(end.since(next));
        while next < end {
            course.step()?;
            let first = log.bounds().first;
            if next < first {
                self.done.lost += first.since(next);
                next = first;
                continue;
            }
            let since = Instant::now();
            let batch = reading.read(log, Some(&mut by_topic), next, end, limits)?;
            let Batch {
                mut pending,
                upto,
                lost,
            } = batch;
            let letters = &projection.dead_letters().topic;
            pending.retain(|one| {
                // A letter that was dealt with later would come back.
                one.topic().is_some_and(|topic| topic != *letters)
                    && self.selection.holds(projection, one)
            });
            let lost = lost.iter().map(|lost| lost.end.since(lost.start));
            self.done.lost += lost.sum::<u64>();
            self.done.selected += pending.len() as u64;
            let outcomes = match self.effect {
                Effect::DryRun => self.decide(&pending)?,
                Effect::Real => self.project(pending)?,
            };
            count(&mut self.done.outcomes, &outcomes);
            let read = upto.since(next);
            course.took(read, &outcomes);
            next = upto;
            course.rest(since, read);
        }
        Ok(())
    }

    fn decide(&mut self, pending: &[Pending]) -> Result<Vec<Outcome>, Trouble> {
        let lane = &self.course.lane;
        let decided = self.course.persist(|| {
            // Nothing is learnt from a sink that does not answer.
            let mut known = std::mem::take(&mut self.known);
            let decided = self.course.block_on(decide(
                &mut known,
                &**lane.sink(),
                &**lane.projection(),
                lane.place(),
                pending,
                Repeats::AreLookedAt,
            ));
            self.known = known;
            Ok(decided?)
        })?;
        if self.known.len() > DRY_RUN_KEYS_MAX {
            return Err(Trouble::refused(format!(
                "a dry run remembers at most {DRY_RUN_KEYS_MAX} keys; narrow the range of time, or name an agent"
            )));
        }
        Ok(decided.outcomes)
    }

    fn project(&self, mut pending: Vec<Pending>) -> Result<Vec<Outcome>, Trouble> {
        if pending.is_empty() {
            return Ok(Vec::new());
        }
        let removes = |one: &Pending| {
            let mut changes = one.changes().iter();
            changes.any(|change| matches!(change, Change::Remove { .. }))
        };
        if pending.iter().any(removes) {
            return Err(Trouble::refused(
                "the projection removes rows: part of the log would bring back what later records removed; rebuild it instead",
            ));
        }
        for one in &pending {
            if let Err(poison) = &one.meaning {
                self.bury(one, poison)?;
            }
        }
        match self.course.persist(|| self.commit(&pending)) {
            Err(Trouble::Sink(SinkError::Rejected { reason, .. }))
                if pending.len() == 1 && pending[0].meaning.is_ok() =>
            {
                let poison = Poison::of("", reason);
                self.bury(&pending[0], &poison)?;
                Ok(vec![Outcome::Dead])
            }
            Err(Trouble::Sink(SinkError::Rejected { .. })) if pending.len() > 1 => {
                let second = pending.split_off(pending.len() / 2);
                let mut outcomes = self.project(pending)?;
                outcomes.extend(self.project(second)?);
                Ok(outcomes)
            }
            other => other,
        }
    }

    /// While the lane is held still, so that neither undoes what the other did.
    fn commit(&self, pending: &[Pending]) -> Result<Vec<Outcome>, Trouble> {
        let (course, lane) = (self.course, &self.course.lane);
        let (sink, projection, place) = (&**lane.sink(), &**lane.projection(), lane.place());
        let mut run = lane.hold();
        let epoch = match Lane::held(&run) {
            Some((_, Some(stored))) => stored.epoch,
            Some((_, None)) | None => {
                let taken = course.block_on(sink.take(place))?;
                Lane::release(&mut run);
                taken.epoch
            }
        };
        let mut known = Known::default();
        let decided = course.block_on(decide(
            &mut known,
            sink,
            projection,
            place,
            pending,
            Repeats::AreLookedAt,
        ))?;
        if !decided.writes.is_empty() {
            let commit = Commit {
                writes: decided.writes,
                moves: None,
                epoch,
            };
            let committed = course.block_on(sink.commit(projection, place, &commit));
            if matches!(committed, Err(SinkError::Fenced { .. })) {
                Lane::release(&mut run);
            }
            committed?;
        }
        Ok(decided.outcomes)
    }

    fn bury(&self, one: &Pending, poison: &Poison) -> Result<(), Trouble> {
        let (course, place) = (self.course, self.course.lane.place());
        Ok(bury(course, self.feed, &self.letters, place, one, poison)?)
    }
}
