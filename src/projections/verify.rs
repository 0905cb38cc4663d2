//! Computes the rows of a projection from the log and compares them with those that are there, and
//! the rolling hash of what was projected with what the log was told of it (PRJ-18).
//!
//! The rows are computed into tables of their own on disk, which go when the verification ends. The
//! lane is held still for one page of rows at a time: each page is compared at the position that
//! the lane has then.

use std::path::PathBuf;
use std::time::Instant;

use super::backfill::lane_stands;
use super::comparing::{Compared, Comparison, Pair, Side};
use super::filling::{Burial, Filling};
use super::jobs::{Course, Findings, Trouble};
use super::lane::Lane;
use super::letters::Letters;
use super::logs::Feed;
use super::notes;
use super::projection::Projection;
use super::sink::{Commit, Position, Query, Sink, SinkKind, Write};
use super::sled::Sled;
use super::table::{Cell, Row, Table};
use crate::log::Sequence;

/// Differences that are listed. All are counted.
pub const LISTED_MAX: usize = 1_000;
/// Records that are taken in while the lane is held still.
const NEAR_RECORDS: u64 = 1_000;
/// Rows that are looked at together.
const PAGE_ROWS: usize = 1_000;
/// Memory for the rows that are computed.
const CACHE_BYTES: u64 = 16 << 20;

/// In what a row differs from what the log gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Difference {
    /// The log gives it, and it is not there.
    Missing,
    /// It is there, and the log does not give it.
    Extra,
    /// It is there, and the log gives another.
    Different,
}

impl Difference {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Different => "different",
        }
    }
}

/// A row that is not what the log gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Differing {
    /// Name of its table.
    pub table: String,
    /// Its key, for people.
    pub key: String,
    /// In what.
    pub difference: Difference,
    /// Names of the columns that differ.
    pub columns: Vec<String>,
}

/// Whether the rolling hash is what the log gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChainState {
    /// It is.
    Same,
    /// It is another.
    Another,
    /// Records that it is over are not in the log any more.
    CannotBeComputed,
}

impl ChainState {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Another => "another",
            Self::CannotBeComputed => "cannot_be_computed",
        }
    }
}

/// What a verification found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    /// Where the lane stood at the end of it: records before this one are compared.
    pub at: Sequence,
    /// Every table; `differing` counts differences that the log can prove.
    pub tables: Vec<Compared>,
    /// The first of them.
    pub differing: Vec<Differing>,
    /// Rows that no record of this log made, or one that it has no more: nothing is known of them.
    pub not_from_this_log: u64,
    /// The rolling hash that the sink has stored.
    pub chain: ChainState,
    /// Positions with their hash that the log was told of, and that are right.
    pub checkpoints_right: usize,
    /// Those that are not: where they stand.
    pub checkpoints_wrong: Vec<Sequence>,
    /// Records that the log has lost.
    pub lost: u64,
}

impl Verified {
    /// Whether everything is as the log gives it, as far as that can be known.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.tables.iter().all(|table| table.differing == 0)
            && self.chain != ChainState::Another
            && self.checkpoints_wrong.is_empty()
    }
}

/// Tables of its own, as long as it lives.
struct Scratch {
    sink: Option<Sled>,
    directory: PathBuf,
}

impl Scratch {
    fn open(course: &Course) -> Result<Self, Trouble> {
        let directory = course.shared.options.scratch.join(course.id());
        let made = std::fs::create_dir_all(&directory);
        made.map_err(|error| {
            Trouble::refused(format!("the rows cannot be computed on disk: {error}"))
        })?;
        let sink = Some(Sled::open(&directory, CACHE_BYTES)?);
        Ok(Self { sink, directory })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Before its files go.
        self.sink = None;
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            tracing::warn!(%error, "the tables of a verification are still there");
        }
    }
}

/// Does it.
pub(super) fn work(course: &Course) -> Result<Findings, Trouble> {
    let (lane, projection) = (&course.lane, &**course.lane.projection());
    course.persist(|| Ok(course.block_on(lane.sink().prepare(projection))?))?;
    let scratch = Scratch::open(course)?;
    let Some(sink) = &scratch.sink else {
        return Err(Trouble::refused("the rows cannot be computed on disk"));
    };
    let feed = course.open()?;
    course.block_on(sink.prepare(projection))?;
    let place = lane.place().clone();
    let begins = course.block_on(sink.take(&place))?;
    seed(course, sink, begins.epoch)?;
    let bounds = feed.log().bounds();
    let mut filling = Filling::begin(course, &*feed, sink, place, burial(course, &*feed)?)?;
    let is_whole =
        bounds.first == Sequence::FIRST && lane.sink().horizon(&**lane.projection()).is_none();
    if is_whole {
        let marks = notes::checkpoints(&*feed, projection.name(), lane.kind())?;
        filling.expect(marks);
    }
    let records = course.shared.options.batch_records_max.max(1);
    course.persist(|| {
        loop {
            course.step()?;
            let since = Instant::now();
            let target = lane_stands(course)?;
            course.total(target.get() - 1);
            let before = filling.next();
            if target.since(before) <= NEAR_RECORDS {
                return Ok(());
            }
            filling.advance(target, records)?;
            course.rest(since, filling.next().since(before));
        }
    })?;
    let verifying = Verifying {
        course,
        sink,
        first: bounds.first,
        is_whole,
        filling,
        differing: Vec::new(),
        not_from_this_log: 0,
    };
    verifying.compare().map(Findings::Verify)
}

/// Records that can be read, and that the sink refused all the same: only one with rules of its own
/// does that.
fn burial(course: &Course, feed: &dyn Feed) -> Result<Burial, Trouble> {
    if course.lane.kind() == SinkKind::Sled {
        return Ok(Burial::Left);
    }
    let letters = Letters::default();
    let topic = &course.lane.projection().dead_letters().topic;
    letters.recover(feed, topic, feed.log().bounds().first)?;
    Ok(Burial::Known(letters))
}

/// Rows of no record stand before everything that the log gives.
fn seed(course: &Course, sink: &Sled, epoch: u64) -> Result<(), Trouble> {
    let (lane, projection) = (&course.lane, &**course.lane.projection());
    for (number, table) in projection.tables().iter().enumerate() {
        let Some(column) = projection.sequence_column(number) else {
            continue;
        };
        let mut query = Query {
            limit: PAGE_ROWS,
            ..Query::default()
        };
        loop {
            let rows = course.persist(|| {
                let rows = lane.sink().rows(projection, lane.place(), number, &query);
                Ok(course.block_on(rows)?)
            })?;
            let full = rows.len() >= PAGE_ROWS;
            query.after = rows.last().map(|row| table.key_of(row));
            let table = number;
            let older = rows.into_iter().filter(|row| row.0[column] == Cell::Null);
            let commit = Commit {
                writes: older.map(|row| Write::Put { table, row }).collect(),
                moves: None,
                epoch,
            };
            course.block_on(sink.commit(projection, lane.place(), &commit))?;
            if !full {
                break;
            }
        }
    }
    Ok(())
}

struct Verifying<'a> {
    course: &'a Course,
    sink: &'a Sled,
    first: Sequence,
    is_whole: bool,
    filling: Filling<'a>,
    differing: Vec<Differing>,
    not_from_this_log: u64,
}

impl Verifying<'_> {
    fn compare(mut self) -> Result<Verified, Trouble> {
        let course = self.course;
        let projection = &**course.lane.projection();
        let chain = course.persist(|| self.compare_chains())?;
        let mut tables = Vec::new();
        for (number, table) in projection.tables().iter().enumerate() {
            let (mut comparison, mut differing) = (Comparison::default(), 0);
            while !comparison.is_done() {
                let since = Instant::now();
                let pairs = course.persist(|| self.page(&mut comparison, number))?;
                for pair in pairs {
                    differing += u64::from(self.judge(projection, number, table, pair));
                }
                course.rest(since, 0);
            }
            tables.push(comparison.finish(table, differing));
        }
        Ok(Verified {
            at: self.filling.next(),
            tables,
            differing: self.differing,
            not_from_this_log: self.not_from_this_log,
            chain,
            checkpoints_right: self.filling.marks_met(),
            checkpoints_wrong: self.filling.marks_missed().to_vec(),
            lost: self.filling.lost_records(),
        })
    }

    /// With the lane held still: comes to where it stands, and says what the sink has stored.
    fn catch_up(&mut self, run: &super::lane::Run) -> Result<Option<Position>, Trouble> {
        let (course, lane) = (self.course, &self.course.lane);
        let stored = || course.block_on(lane.sink().position(lane.place()));
        let (stands, stored) = match Lane::held(run) {
            Some(held) => held,
            None => {
                let stored = stored()?;
                (stored.map_or(Sequence::FIRST, |stored| stored.next), stored)
            }
        };
        while self.filling.next() < stands {
            let records = course.shared.options.batch_records_max.max(1);
            self.filling.advance(stands, records)?;
        }
        Ok(stored)
    }

    fn compare_chains(&mut self) -> Result<ChainState, Trouble> {
        let lane = &self.course.lane;
        let run = lane.hold();
        let stored = self.catch_up(&run)?;
        if !self.is_whole {
            return Ok(ChainState::CannotBeComputed);
        }
        let found = stored.map_or([0; 32], |stored| stored.hash);
        Ok(if found == self.filling.chain().0 {
            ChainState::Same
        } else {
            ChainState::Another
        })
    }

    fn page(&mut self, comparison: &mut Comparison, number: usize) -> Result<Vec<Pair>, Trouble> {
        let (course, lane) = (self.course, &self.course.lane);
        let run = lane.hold();
        self.catch_up(&run)?;
        let place = lane.place();
        let expected = Side {
            sink: self.sink,
            place,
        };
        let found = Side {
            sink: &**lane.sink(),
            place,
        };
        let mut pairs = Vec::new();
        let projection = &**lane.projection();
        let page = comparison.page(projection, number, [expected, found], |pair| {
            pairs.push(pair);
        });
        course.block_on(page)?;
        Ok(pairs)
    }

    /// Whether a difference is one, as far as the log can prove it.
    fn judge(
        &mut self,
        projection: &dyn Projection,
        number: usize,
        table: &Table,
        (expected, found): Pair,
    ) -> bool {
        let column = projection.sequence_column(number);
        if let Some(found) = &found
            && !self.is_from_this_log(column, found)
        {
            self.not_from_this_log += 1;
            return false;
        }
        let (difference, row) = match (&expected, &found) {
            (Some(row), None) => (Difference::Missing, row),
            (None, Some(row)) => (Difference::Extra, row),
            (Some(_), Some(row)) => (Difference::Different, row),
            (None, None) => return false,
        };
        let mut columns = Vec::new();
        if let (Some(expected), Some(found)) = (&expected, &found) {
            let cells = expected.0.iter().zip(&found.0).enumerate();
            columns.extend(cells.filter(|(_, (a, b))| a != b).map(|(at, _)| at));
            // What came before a record decides what became of it.
            if !self.is_whole && columns.iter().all(|at| table.outcome == Some(*at)) {
                return false;
            }
        }
        if self.differing.len() < LISTED_MAX {
            let columns = columns.into_iter().map(|at| table.columns[at].name.clone());
            self.differing.push(Differing {
                table: table.name.clone(),
                key: table.key_of(row).to_string(),
                difference,
                columns: columns.collect(),
            });
        }
        true
    }

    fn is_from_this_log(&self, column: Option<usize>, row: &Row) -> bool {
        match column.map(|column| &row.0[column]) {
            Some(Cell::Integer(sequence)) => {
                let sequence = u64::try_from(*sequence).ok().and_then(Sequence::new);
                sequence.is_some_and(|sequence| {
                    sequence >= self.first && !self.filling.is_lost(sequence)
                })
            }
            Some(_) => false,
            // Nothing says so.
            None => true,
        }
    }
}
