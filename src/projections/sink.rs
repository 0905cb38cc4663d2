//! What a sink is: where the tables of projections are kept, with the position that they stand at.
//!
//! A sink answers what it knows of some keys, and takes a batch with the position behind it, all or
//! nothing. What becomes of a record is decided between the two by [`super::fold`], the same for
//! all sinks.

use std::fmt::{self, Debug};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::projection::Projection;
use super::table::{Key, Row, Version};
use crate::log::Sequence;

/// A kind of sink.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SinkKind {
    /// In the node's data directory.
    Sled,
    /// In a PostgreSQL database.
    Postgres,
    /// In a Valkey or Redis server.
    Valkey,
}

impl SinkKind {
    /// Its name in settings, metrics and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Postgres => "postgres",
            Self::Valkey => "valkey",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        [Self::Sled, Self::Postgres, Self::Valkey]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for SinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which copy of a projection's tables.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Copy {
    /// The one that is read.
    Live,
    /// The one that a rebuild fills beside it (PRJ-07).
    Next,
}

/// One projection of one log in one sink: what has a position of its own.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    /// Name of the projection.
    pub projection: String,
    /// Whose log.
    pub tenant: String,
    /// Which of the tenant's logs.
    pub reality: String,
    /// Name of that log among those of all nodes. A sink that nodes share tells positions apart by it.
    pub log: String,
    /// Which copy of the tables.
    pub copy: Copy,
}

/// How far a place has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// The first record that it has not taken in.
    pub next: Sequence,
    /// Grows whenever somebody takes the place; who holds an older one cannot commit any more.
    pub epoch: u64,
    /// Hash over everything that was projected, in order ([`super::fold::Chain`], PRJ-18).
    pub hash: [u8; 32],
}

/// What a sink is asked before a batch.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Keys, each with the place of its table in [`Projection::tables`]. None comes twice.
    pub keys: Vec<(usize, Key)>,
}

/// What a sink knows: for each key of the question which record made its row, if there is one
/// ([`super::table::Table::version_of`]).
pub type Answer = Vec<Option<Version>>;

/// Something that is done to a table. No two of a batch have the same key, but a removal before a
/// row that is set.
#[derive(Clone, PartialEq, Debug)]
pub enum Write {
    /// A row is set, unless the one that is there has the same version or a later one (or is there
    /// at all, where the first record decides).
    Put {
        /// Place of the table in [`Projection::tables`].
        table: usize,
        /// The row.
        row: Row,
    },
    /// A row is removed, if it is there.
    Remove {
        /// Place of the table in [`Projection::tables`].
        table: usize,
        /// Its key.
        key: Key,
    },
}

/// A batch: what is written, and where the place stands afterwards.
#[derive(Clone, Debug)]
pub struct Commit {
    /// In this order, where two have the same key.
    pub writes: Vec<Write>,
    /// Moves the place from the first to the second; the epochs of both are the holder's. `None`:
    /// the place stays where it is, as it does for a backfill, and only `epoch` is checked.
    pub moves: Option<(Position, Position)>,
    /// Of the one who holds the place.
    pub epoch: u64,
}

/// Why a sink could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// It is away, busy or full. The same request can succeed later.
    #[error("{sink} cannot be used: {reason}")]
    Unavailable {
        /// Which.
        sink: SinkKind,
        /// What it said.
        reason: String,
    },
    /// The place is not as its holder left it: somebody else has taken it, or the sink has lost it
    /// or come back with an older one. Whoever takes it again learns where it stands now.
    #[error("{sink}: another node has taken over this projection, or its place was lost")]
    Fenced {
        /// Which.
        sink: SinkKind,
    },
    /// It will never take this. Which row it was is not known; the whole batch was not taken.
    #[error("{sink} refuses a row: {reason}")]
    Rejected {
        /// Which.
        sink: SinkKind,
        /// What it said.
        reason: String,
    },
    /// Its tables are not what this version of the node keeps, or what they hold cannot be read.
    /// Needs somebody who looks at it.
    #[error("{sink} cannot be used as it is: {reason}")]
    Unfit {
        /// Which.
        sink: SinkKind,
        /// What is wrong, and what to try.
        reason: String,
    },
}

/// Which rows of a table are listed.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Values that columns must have, as places of columns and texts.
    pub equal: Vec<(usize, super::table::Cell)>,
    /// Column to sort by, descending; `None`: in the order of the keys.
    pub newest_by: Option<usize>,
    /// Only rows after this key, in the order of the keys.
    pub after: Option<Key>,
    /// At most so many.
    pub limit: usize,
}

/// A place where tables are kept.
///
/// All of it can be repeated after an error: nothing is ever half done.
pub trait Sink: Send + Sync + Debug {
    /// Which kind it is.
    fn kind(&self) -> SinkKind;

    /// How far back a place has to go that stands nowhere ([`Self::position`] knows none): what is
    /// older would not be kept anyway. `None`: to the first record.
    fn horizon(&self, _: &dyn Projection) -> Option<Duration> {
        None
    }

    /// Gets the tables of a projection ready, and checks that those that are there fit.
    fn prepare<'a>(
        &'a self,
        projection: &'a dyn Projection,
    ) -> BoxFuture<'a, Result<(), SinkError>>;

    /// Takes a place from whoever had it, and says where it stands. One that was never taken stands
    /// at the first sequence; [`Self::horizon`] says from where on is enough, and its first commit
    /// may move it from there.
    fn take<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<Position, SinkError>>;

    /// Where a place stands, without taking it; `None` if nobody ever took it.
    fn position<'a>(
        &'a self,
        place: &'a Place,
    ) -> BoxFuture<'a, Result<Option<Position>, SinkError>>;

    /// What it knows of some keys.
    fn look_up<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
        question: &'a Question,
    ) -> BoxFuture<'a, Result<Answer, SinkError>>;

    /// Takes a batch, all or nothing. A sink that loses what it took, by a crash, loses the position
    /// with it.
    fn commit<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
        commit: &'a Commit,
    ) -> BoxFuture<'a, Result<(), SinkError>>;

    /// The row of a key.
    fn row<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
        table: usize,
        key: &'a Key,
    ) -> BoxFuture<'a, Result<Option<Row>, SinkError>>;

    /// Rows of the place's tenant.
    fn rows<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
        table: usize,
        query: &'a Query,
    ) -> BoxFuture<'a, Result<Vec<Row>, SinkError>>;

    /// How many rows the place's tenant has.
    fn count<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
        table: usize,
    ) -> BoxFuture<'a, Result<u64, SinkError>>;

    /// Empties the copy [`Copy::Next`] of a place, its position included.
    fn clear_next<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
    ) -> BoxFuture<'a, Result<(), SinkError>>;

    /// Makes the copy [`Copy::Next`] of a place the live one, position included, in one step:
    /// readers see the old rows or the new ones. The live epoch must be `epoch`.
    fn switch<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
        epoch: u64,
    ) -> BoxFuture<'a, Result<(), SinkError>>;
}
