//! Compares two copies of a table, row by row in the order of the keys.
//!
//! Page by page, so that whoever compares with a table that is in use can hold it still for one
//! page at a time. A page of both copies ends at the same key.

use std::collections::VecDeque;

use sha2::{Digest as _, Sha256};

use super::codec::encode;
use super::projection::Projection;
use super::sink::{Place, Query, Sink, SinkError};
use super::table::{Key, Row, Table};

/// Rows of a page.
const PAGE_ROWS: usize = 500;

/// One copy.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    pub(super) sink: &'a dyn Sink,
    pub(super) place: &'a Place,
}

/// A row in which two copies differ: as it is in the first and in the second.
pub(super) type Pair = (Option<Row>, Option<Row>);

/// Where a comparison of a table stands.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    after: Option<Key>,
    done: bool,
    rows: [u64; 2],
    hashes: [Sha256; 2],
}

/// A table of two copies: the one that the log gives, and the one that is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compared {
    /// Name of the table.
    pub table: String,
    /// Rows that the log gives.
    pub rows_expected: u64,
    /// Rows that are there.
    pub rows_found: u64,
    /// SHA-256 over the rows that the log gives, in the order of their keys.
    pub hash_expected: String,
    /// Over those that are there.
    pub hash_found: String,
    /// Rows that only one of the two has, or that differ.
    pub differing: u64,
}

impl Comparison {
    pub(super) const fn is_done(&self) -> bool {
        self.done
    }

    /// Compares the next page, and tells of the rows that differ.
    pub(super) async fn page(
        &mut self,
        projection: &dyn Projection,
        number: usize,
        sides: [Side<'_>; 2],
        mut differs: impl FnMut(Pair),
    ) -> Result<(), SinkError> {
        let table = &projection.tables()[number];
        let query = Query {
            after: self.after.clone(),
            limit: PAGE_ROWS,
            ..Query::default()
        };
        let mut pages = [VecDeque::new(), VecDeque::new()];
        let mut bound: Option<(Vec<u8>, Key)> = None;
        for (page, side) in pages.iter_mut().zip(sides) {
            let rows = side
                .sink
                .rows(projection, side.place, number, &query)
                .await?;
            let is_full = rows.len() >= PAGE_ROWS;
            *page = rows.into_iter().map(|row| keyed(table, row)).collect();
            if let Some((last, row)) = page.back().filter(|_| is_full)
                && bound.as_ref().is_none_or(|(bound, _)| last < bound)
            {
                bound = Some((last.clone(), table.key_of(row)));
            }
        }
        let within = |found: Option<&(Vec<u8>, Row)>| {
            found.is_some_and(|(key, _)| bound.as_ref().is_none_or(|(bound, _)| key <= bound))
        };
        let [expected, found] = &mut pages;
        loop {
            let order = match (within(expected.front()), within(found.front())) {
                (false, false) => break,
                (true, false) => std::cmp::Ordering::Less,
                (false, true) => std::cmp::Ordering::Greater,
                (true, true) => expected
                    .front()
                    .map(|one| &one.0)
                    .cmp(&found.front().map(|one| &one.0)),
            };
            let expected = order.is_le().then(|| expected.pop_front()).flatten();
            let found = order.is_ge().then(|| found.pop_front()).flatten();
            let [expected, found] = [(0, expected), (1, found)].map(|(side, row)| {
                let (_, row) = row?;
                self.rows[side] += 1;
                let bytes = encode(&row.0);
                self.hashes[side].update((bytes.len() as u64).to_le_bytes());
                self.hashes[side].update(&bytes);
                Some((bytes, row))
            });
            if expected.as_ref().map(|one| &one.0) != found.as_ref().map(|one| &one.0) {
                differs((expected.map(|one| one.1), found.map(|one| one.1)));
            }
        }
        self.done = bound.is_none();
        self.after = bound.map(|(_, key)| key);
        Ok(())
    }

    pub(super) fn finish(self, table: &Table, differing: u64) -> Compared {
        let [expected, found] = self
            .hashes
            .map(|hash| super::notes::hex(&hash.finalize().into()));
        Compared {
            table: table.name.clone(),
            rows_expected: self.rows[0],
            rows_found: self.rows[1],
            hash_expected: expected,
            hash_found: found,
            differing,
        }
    }
}

fn keyed(table: &Table, row: Row) -> (Vec<u8>, Row) {
    (table.key_of(&row).encoded(), row)
}
