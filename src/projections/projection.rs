//! What a projection is: which records it reads, which tables it keeps, what a record means to it.
//!
//! A projection is a pure function of records. It knows no sink, no clock and no other record, so
//! that a replay gives the same rows wherever they are kept (MSG-10).

use std::fmt::Debug;

use super::sink::SinkKind;
use super::table::{Key, Misfit, Row, Table};
use crate::log::{Micros, Sequence};
use crate::proto::view::RecordView;

/// A record on its way into a projection, and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Whose log it stands in.
    pub tenant: &'a str,
    /// Which of the tenant's logs.
    pub reality: &'a str,
    /// Where it stands.
    pub sequence: Sequence,
    /// When the log took it.
    pub appended_at: Micros,
    /// The record.
    pub record: &'a RecordView<'a>,
    /// How payloads are read that have a schema of their tenant.
    pub payloads: &'a dyn Payloads,
}

/// Reads payloads by the schemas of their tenant.
pub trait Payloads: Send + Sync + Debug {
    /// Whether the schemas of a tenant are known now. As long as they are not, nothing is read: what
    /// cannot be read for that reason alone is no poison.
    fn are_known(&self, _tenant: &str) -> bool {
        true
    }

    /// The payload of `record` as JSON: as it is where it is JSON, through its registered schema
    /// where it has one; `None` where neither is known.
    fn to_json(&self, tenant: &str, record: &RecordView<'_>) -> Option<serde_json::Value>;
}

/// What a record changes. The first change decides what became of the record; where that one is a
/// duplicate, the others are not made.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    /// A row is there, if the rule of its table lets it.
    Put {
        /// Place of its table in [`Projection::tables`].
        table: usize,
        /// The row.
        row: Row,
    },
    /// A row is not there any more, if it was.
    Remove {
        /// Place of its table in [`Projection::tables`].
        table: usize,
        /// Key of the row.
        key: Key,
    },
}

/// A record that cannot be projected, and never will be as it is (PRJ-04).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Poison {
    /// The field that is wrong; empty if it is none in particular.
    pub field: String,
    /// What is wrong with it, naming the field.
    pub reason: String,
    /// The event's own id, where it can be read; else empty.
    pub event_id: String,
    /// The sink that did not take its row; `None` if the record itself is wrong.
    pub refused_by: Option<SinkKind>,
}

impl Poison {
    /// `field` is wrong in the way that `reason` says.
    #[must_use]
    pub fn of(field: &str, reason: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            reason: reason.into(),
            event_id: String::new(),
            refused_by: None,
        }
    }

    /// `sink` did not take the row that a record comes to.
    #[must_use]
    pub fn refused(sink: SinkKind, reason: impl Into<String>) -> Self {
        Self {
            refused_by: Some(sink),
            ..Self::of("", reason)
        }
    }
}

impl From<Misfit> for Poison {
    fn from(misfit: Misfit) -> Self {
        Self::of(misfit.column(), misfit.to_string())
    }
}

/// Where records go that cannot be projected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetters {
    /// Topic that they are appended to. The node alone publishes there.
    pub topic: String,
    /// Place of the table in [`Projection::tables`] that shows them.
    pub table: usize,
}

/// A projection. Implement it for one that configuration cannot describe (PRJ-14).
pub trait Projection: Send + Sync + Debug {
    /// What it is called: lower-case letters, digits, `_` and `-`.
    fn name(&self) -> &str;

    /// The reality whose records it reads.
    fn reality(&self) -> &str;

    /// Patterns of the topics that it reads, its dead letters' among them.
    fn topics(&self) -> &[String];

    /// The tables that it keeps. The first is the one that is looked up, listed and compared.
    fn tables(&self) -> &[Table];

    /// Where poison goes.
    fn dead_letters(&self) -> &DeadLetters;

    /// Whether it reads payloads by the schemas of their tenant.
    fn needs_schemas(&self) -> bool {
        false
    }

    /// What a record means. Every row must fit its table ([`Row::check`]). No changes: nothing.
    ///
    /// # Errors
    /// It cannot be projected.
    fn read(&self, source: &Source<'_>) -> Result<Vec<Change>, Poison>;

    /// Column that says when a row's event happened, by the clock of its source; `None` where the
    /// time of the log is all that is known. A backfill selects by it (PRJ-06).
    fn time_column(&self, table: usize) -> Option<usize> {
        first_of(self.tables().get(table)?, &["source_ts", "last_event_ts"])
    }

    /// Column that says which record of the log a row is from; empty in a row that is from none.
    fn sequence_column(&self, table: usize) -> Option<usize> {
        let names = ["letter_sequence", "last_sequence", "sequence"];
        first_of(self.tables().get(table)?, &names)
    }
}

fn first_of(table: &Table, names: &[&str]) -> Option<usize> {
    names.iter().find_map(|name| table.column(name))
}
