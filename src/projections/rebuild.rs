//! Builds the tables of a projection anew from the log, beside those that are read, and puts them
//! in their place in one step (PRJ-07).
//!
//! The new copy is filled until it is close to where the lane stands; then the lane is held still,
//! the copy comes to exactly the same position, both are compared, and the sink switches. A node
//! that dies before that leaves the old copy as it is; the next rebuild throws the new one away.

use std::time::Instant;

use super::backfill::lane_stands;
use super::comparing::{Compared, Comparison, Side};
use super::filling::{Burial, Filling};
use super::jobs::{Course, Findings, Trouble};
use super::lane::Lane;
use super::letters::Letters;
use super::sink::{Copy, Place, Query, SinkError};
use super::standing::State;
use super::table::Cell;
use crate::log::Sequence;

/// Records that are taken in while the lane is held still.
const NEAR_RECORDS: u64 = 1_000;
/// Batches of a rebuild are so many times as large as those of its lane.
const BATCHES: usize = 4;
/// Rows that are looked at together.
const PAGE_ROWS: usize = 1_000;

/// Whether the new tables take the place of the old ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Switch {
    /// They do.
    Over,
    /// They are only compared.
    Never,
}

/// What may be lost by a rebuild.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Partial {
    /// Nothing: it is refused where the log does not give every row.
    Refused,
    /// Rows that the log does not give any more, or never did.
    Allowed,
}

/// What a rebuild did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rebuilt {
    /// Whether the new tables are those that are read now.
    pub switched: bool,
    /// Where both copies stood when they were compared: the first record that is in neither.
    pub at: Sequence,
    /// Whether the old copy stood there too. If it did not, what differs says little.
    pub same_position: bool,
    /// Every table, the new copy as what is expected and the old one as what was found.
    pub tables: Vec<Compared>,
    /// Why there is nothing to compare with, if there is not.
    pub incomparable: Option<String>,
    /// Records that the log has lost.
    pub lost: u64,
}

impl Rebuilt {
    /// Whether the tables were the same, row by row.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.incomparable.is_none() && self.tables.iter().all(|table| table.differing == 0)
    }
}

/// Does it.
pub(super) fn work(course: &Course, switch: Switch, partial: Partial) -> Result<Findings, Trouble> {
    let (lane, projection) = (&course.lane, &**course.lane.projection());
    course.persist(|| Ok(course.block_on(lane.sink().prepare(projection))?))?;
    let rebuilt = build(course, switch, partial);
    let is_there = !matches!(&rebuilt, Ok(rebuilt) if rebuilt.switched);
    if is_there {
        let cleared = lane.sink().clear_next(projection, lane.place());
        // The next rebuild clears it too.
        if let Err(error) = course.block_on(cleared) {
            tracing::warn!(%error, "the copy of a rebuild that is not needed is still there");
        }
    }
    rebuilt.map(Findings::Rebuild)
}

fn build(course: &Course, switch: Switch, partial: Partial) -> Result<Rebuilt, Trouble> {
    let (lane, projection) = (&course.lane, &**course.lane.projection());
    let sink = &**lane.sink();
    let feed = course.open()?;
    if partial == Partial::Refused {
        let first = feed.log().bounds().first;
        if first > Sequence::FIRST && sink.horizon(&**lane.projection()).is_none() {
            return Err(Trouble::refused(format!(
                "the log begins at record {first}: rows that earlier records made would be lost; allow a partial rebuild if they may be"
            )));
        }
        let (rows, table) = course.persist(|| rows_of_no_record(course))?;
        if rows > 0 {
            return Err(Trouble::refused(format!(
                "{rows} rows of {table} were made by no record of this log, and would be lost; allow a partial rebuild if they may be"
            )));
        }
    }
    course.persist(|| Ok(course.block_on(sink.clear_next(projection, lane.place()))?))?;
    let place = Place {
        copy: Copy::Next,
        ..lane.place().clone()
    };
    let burial = match switch {
        Switch::Never => Burial::Left,
        Switch::Over => {
            let letters = Letters::default();
            let topic = &projection.dead_letters().topic;
            letters.recover(&*feed, topic, lane.kind(), feed.log().bounds().first)?;
            Burial::Letters(letters)
        }
    };
    let mut filling = Filling::begin(course, &*feed, sink, place, burial)?;
    let records = course.shared.options.batch_records_max * BATCHES;
    let mut failures = 0;
    loop {
        course.step()?;
        let since = Instant::now();
        let done = (|| {
            let target = target(course, feed.log().bounds(), lane_stands(course)?);
            course.total(target.get() - 1);
            let before = filling.next();
            if target.since(before) > NEAR_RECORDS {
                filling.advance(target, records.max(1))?;
                course.rest(since, filling.next().since(before));
                return Ok(None);
            }
            finish(course, &mut filling, switch).map(Some)
        })();
        match done {
            Ok(Some(rebuilt)) => return Ok(rebuilt),
            Ok(None) => failures = 0,
            Err(trouble) if trouble.passes() => {
                failures += 1;
                course.wait_for(&trouble, failures);
                course.persist(|| filling.retake())?;
            }
            Err(trouble) => return Err(trouble),
        }
    }
}

/// Where the new copy has to come: to where the lane stands, if that is in the log at all.
fn target(course: &Course, bounds: crate::log::Bounds, stands: Sequence) -> Sequence {
    let in_log = bounds.first <= stands && stands <= bounds.durable_end;
    // One that never moved is no measure.
    let has_moved = stands > Sequence::FIRST || course.lane.standing().state == State::Running;
    if in_log && has_moved {
        stands
    } else {
        bounds.durable_end
    }
}

/// With the lane held still: comes to its position, compares, and switches.
fn finish(course: &Course, filling: &mut Filling<'_>, switch: Switch) -> Result<Rebuilt, Trouble> {
    let (lane, projection) = (&course.lane, &**course.lane.projection());
    let sink = &**lane.sink();
    let feed = course.open()?;
    let mut run = lane.hold();
    let stands = match Lane::held(&run) {
        Some((next, _)) => next,
        None => {
            let stored = course.block_on(sink.position(lane.place()))?;
            stored.map_or(Sequence::FIRST, |stored| stored.next)
        }
    };
    let target = target(course, feed.log().bounds(), stands).max(filling.next());
    while filling.next() < target {
        filling.advance(target, course.shared.options.batch_records_max.max(1))?;
    }
    filling.settle()?;
    let (tables, incomparable) = match compare(course, filling) {
        Ok(tables) => (tables, None),
        // What cannot be read is why one rebuilds.
        Err(error @ SinkError::Unfit { .. }) => (Vec::new(), Some(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    let rebuilt = Rebuilt {
        switched: switch == Switch::Over,
        at: filling.next(),
        same_position: stands == filling.next(),
        tables,
        incomparable,
        lost: filling.lost_records(),
    };
    if switch == Switch::Over {
        let epoch = match Lane::held(&run) {
            Some((_, Some(stored))) => stored.epoch,
            Some((_, None)) | None => course.block_on(sink.take(lane.place()))?.epoch,
        };
        // Whatever the sink says to it, where the lane stands is to be asked anew.
        Lane::release(&mut run);
        course.block_on(sink.switch(projection, lane.place(), epoch))?;
        drop(run);
        // What halted it was about the old copy.
        if lane.standing().state == State::Halted {
            lane.pause(false);
        }
        course.wake_lane();
    }
    Ok(rebuilt)
}

fn compare(course: &Course, filling: &Filling<'_>) -> Result<Vec<Compared>, SinkError> {
    let (lane, projection) = (&course.lane, &**course.lane.projection());
    let sink = &**lane.sink();
    let mut tables = Vec::new();
    for (number, table) in projection.tables().iter().enumerate() {
        let (mut comparison, mut differing) = (Comparison::default(), 0);
        while !comparison.is_done() {
            let places = [filling.place(), lane.place()];
            let sides = places.map(|place| Side { sink, place });
            let page = comparison.page(projection, number, sides, |_| differing += 1);
            course.block_on(page)?;
        }
        tables.push(comparison.finish(table, differing));
    }
    Ok(tables)
}

/// How many rows no record of the log made, and in which table. What cannot be read cannot be kept.
fn rows_of_no_record(course: &Course) -> Result<(u64, String), Trouble> {
    let (lane, projection) = (&course.lane, &**course.lane.projection());
    for (number, table) in projection.tables().iter().enumerate() {
        let Some(column) = projection.sequence_column(number) else {
            continue;
        };
        let (mut count, mut query) = (0, Query::default());
        query.limit = PAGE_ROWS;
        loop {
            let rows = lane.sink().rows(projection, lane.place(), number, &query);
            let rows = match course.block_on(rows) {
                Err(SinkError::Unfit { .. }) => break,
                other => other?,
            };
            count += rows
                .iter()
                .filter(|row| row.0[column] == Cell::Null)
                .count() as u64;
            let Some(last) = rows.last().filter(|_| rows.len() >= PAGE_ROWS) else {
                break;
            };
            query.after = Some(table.key_of(last));
        }
        if count > 0 {
            return Ok((count, table.name.clone()));
        }
    }
    Ok((0, String::new()))
}
