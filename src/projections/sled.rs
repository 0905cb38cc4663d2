//! The embedded sink: tables in sled, in the node's data directory. Needs nothing installed.
//!
//! One tree for each projection. A key begins with the tenant and the reality; then comes either
//! the place's position, or the generation of a copy, the number of a table and the row's key:
//!
//! ```text
//! tenant 00 reality 00 'P'                                  -> position of the live copy and the next
//! tenant 00 reality 00 'R' generation:8 table:1 key         -> row
//! ```
//!
//! Rows and position go in one atomic batch. It reaches the disk within `FLUSH_EVERY_MS`; a node
//! that dies before stands at an earlier position, with the rows of that position, and the log
//! brings it forward again. What cannot be read is put aside, and filled again from the log.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use futures_util::future::{BoxFuture, ready};
use prost::Message;
use sha2::{Digest as _, Sha256};
use sled::{Batch, Db, Tree};

use super::codec::{decode, encode};
use super::projection::Projection;
use super::sink::{
    Answer, Commit, Copy, Place, Position, Query, Question, Sink, SinkError, SinkKind, Write,
};
use super::table::{Key, Row, Table};
use crate::log::{Sequence, fsync};

/// How late a batch may reach the disk.
const FLUSH_EVERY_MS: u64 = 500;
/// Rows of a copy that is not needed any more are removed so many at a time.
const REMOVE_AT_ONCE: usize = 1_000;

/// The sink.
#[derive(Debug)]
pub struct Sled {
    db: Db,
    /// Positions are read, checked and written by one at a time.
    taking: Mutex<()>,
}

/// Where a place stands, as stored.
#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(message, optional, tag = "1")]
    live: Option<StoredCopy>,
    #[prost(message, optional, tag = "2")]
    next: Option<StoredCopy>,
    /// Greater than any generation that was ever used.
    #[prost(uint64, tag = "3")]
    generations: u64,
    #[prost(uint64, tag = "4")]
    epoch: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StoredCopy {
    #[prost(uint64, tag = "1")]
    generation: u64,
    #[prost(uint64, tag = "2")]
    next: u64,
    #[prost(bytes = "vec", tag = "3")]
    hash: Vec<u8>,
}

impl Stored {
    const fn copy(&self, copy: Copy) -> Option<&StoredCopy> {
        match copy {
            Copy::Live => self.live.as_ref(),
            Copy::Next => self.next.as_ref(),
        }
    }

    const fn copy_mut(&mut self, copy: Copy) -> &mut Option<StoredCopy> {
        match copy {
            Copy::Live => &mut self.live,
            Copy::Next => &mut self.next,
        }
    }

    fn position(&self, copy: Copy) -> Option<Position> {
        let stored = self.copy(copy)?;
        Some(Position {
            next: Sequence::at_least_first(stored.next),
            epoch: self.epoch,
            hash: stored.hash.as_slice().try_into().unwrap_or_default(),
        })
    }
}

impl Sled {
    /// Opens the tables in `directory`. What is there and cannot be read is put aside.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(directory: &Path, cache_bytes: u64) -> Result<Self, SinkError> {
        let open = || {
            sled::Config::new()
                .path(directory)
                .cache_capacity(cache_bytes)
                .flush_every_ms(Some(FLUSH_EVERY_MS))
                .mode(sled::Mode::HighThroughput)
                .open()
        };
        let db = match open() {
            Err(error @ (sled::Error::Corruption { .. } | sled::Error::ReportableBug(_))) => {
                put_aside(directory, &error)?;
                open()
            }
            other => other,
        };
        let db = db.map_err(fault)?;
        let taking = Mutex::new(());
        Ok(Self { db, taking })
    }

    fn tree(&self, projection: &str) -> Result<Tree, SinkError> {
        self.db.open_tree(projection).map_err(fault)
    }

    /// Writes everything to the disk. Blocks.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn flush(&self) -> Result<(), SinkError> {
        self.db.flush().map(drop).map_err(fault)
    }

    /// Removes everything that belongs to a tenant. Blocks.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn forget(&self, tenant: &str) -> Result<(), SinkError> {
        let mut prefix = tenant.as_bytes().to_vec();
        prefix.push(0);
        for name in self.db.tree_names() {
            if name == self.db.name() {
                continue;
            }
            let tree = self.db.open_tree(name).map_err(fault)?;
            remove_all(&tree, &prefix)?;
        }
        self.flush()
    }

    fn stored(tree: &Tree, place: &Place) -> Result<Stored, SinkError> {
        let Some(bytes) = tree.get(position_key(place)).map_err(fault)? else {
            return Ok(Stored::default());
        };
        Stored::decode(&*bytes).map_err(|error| unfit(&error.to_string()))
    }

    /// Rows of another definition are thrown away: the log gives them again.
    fn prepare_now(&self, projection: &dyn Projection) -> Result<(), SinkError> {
        let name = format!("definition:{}", projection.name());
        let definition = Sha256::digest(format!("{:?}", projection.tables()));
        let known = self.db.get(&name).map_err(fault)?;
        if known
            .as_deref()
            .is_some_and(|known| known != &definition[..])
        {
            tracing::warn!(
                projection = projection.name(),
                "its definition is another now; its embedded rows are made again from the logs"
            );
            self.db.drop_tree(projection.name()).map_err(fault)?;
        }
        self.db.insert(name, &definition[..]).map_err(fault)?;
        self.tree(projection.name()).map(drop)
    }

    fn take_now(&self, place: &Place) -> Result<Position, SinkError> {
        let tree = self.tree(&place.projection)?;
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stored = Self::stored(&tree, place)?;
        // The copy that a rebuild fills is taken with the epoch of the live one.
        if place.copy == Copy::Live {
            stored.epoch += 1;
        }
        if stored.copy(place.copy).is_none() {
            stored.generations += 1;
            *stored.copy_mut(place.copy) = Some(StoredCopy {
                generation: stored.generations,
                next: 1,
                hash: vec![0; 32],
            });
        }
        tree.insert(position_key(place), stored.encode_to_vec())
            .map_err(fault)?;
        stored
            .position(place.copy)
            .ok_or_else(|| unfit("no position"))
    }

    /// The first byte strings of the keys of rows, and the tree that they are in; `None` if there is
    /// no such copy.
    fn rows_of(&self, place: &Place, table: usize) -> Result<Option<(Tree, Vec<u8>)>, SinkError> {
        let tree = self.tree(&place.projection)?;
        let stored = Self::stored(&tree, place)?;
        let prefix = stored
            .copy(place.copy)
            .map(|copy| row_prefix(place, copy.generation, table));
        Ok(prefix.map(|prefix| (tree, prefix)))
    }

    fn look_up_now(
        &self,
        tables: &[Table],
        place: &Place,
        question: &Question,
    ) -> Result<Answer, SinkError> {
        let tree = self.tree(&place.projection)?;
        let stored = Self::stored(&tree, place)?;
        let Some(copy) = stored.copy(place.copy) else {
            return Ok(vec![None; question.keys.len()]);
        };
        let versions = question.keys.iter().map(|(table, key)| {
            let mut name = row_prefix(place, copy.generation, *table);
            name.extend_from_slice(&key.encoded());
            let row = tree.get(name).map_err(fault)?;
            let version = row.map(|bytes| {
                let row = row_of(&tables[*table], &bytes)?;
                Ok(tables[*table].version_of(&row))
            });
            version.transpose()
        });
        versions.collect()
    }

    fn commit_now(
        &self,
        tables: &[Table],
        place: &Place,
        commit: &Commit,
    ) -> Result<(), SinkError> {
        let tree = self.tree(&place.projection)?;
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stored = Self::stored(&tree, place)?;
        let sink = SinkKind::Sled;
        if stored.epoch != commit.epoch {
            return Err(SinkError::Fenced { sink });
        }
        let Some(copy) = stored.copy_mut(place.copy) else {
            return Err(SinkError::Fenced { sink });
        };
        let mut batch = Batch::default();
        for write in &commit.writes {
            let (table, key) = match write {
                Write::Put { table, row } => (*table, tables[*table].key_of(row)),
                Write::Remove { table, key } => (*table, key.clone()),
            };
            let mut name = row_prefix(place, copy.generation, table);
            name.extend_from_slice(&key.encoded());
            match write {
                Write::Put { row, .. } => batch.insert(name, encode(&row.0)),
                Write::Remove { .. } => batch.remove(name),
            }
        }
        if let Some((from, to)) = &commit.moves {
            if copy.next != from.next.get() {
                return Err(SinkError::Fenced { sink });
            }
            copy.next = to.next.get();
            copy.hash = to.hash.to_vec();
            batch.insert(position_key(place), stored.encode_to_vec());
        }
        tree.apply_batch(batch).map_err(fault)
    }

    fn rows_now(
        &self,
        table: &Table,
        place: &Place,
        number: usize,
        query: &Query,
    ) -> Result<Vec<Row>, SinkError> {
        let Some((tree, prefix)) = self.rows_of(place, number)? else {
            return Ok(Vec::new());
        };
        let mut start = prefix.clone();
        if let Some(after) = &query.after {
            start.extend_from_slice(&after.encoded());
            // No key is the beginning of another, so that this is behind that one and no other.
            start.push(0xFF);
        }
        let mut found = Vec::new();
        let mut newest = BinaryHeap::new();
        for item in tree.range(start..) {
            let (name, bytes) = item.map_err(fault)?;
            if !name.starts_with(&prefix) {
                break;
            }
            let row = row_of(table, &bytes)?;
            if !query.equal.iter().all(|(at, cell)| row.0[*at] == *cell) {
                continue;
            }
            match query.newest_by {
                None if found.len() >= query.limit => break,
                None => found.push(row),
                Some(column) => {
                    let order = encode(&row.0[column..=column]);
                    newest.push(Reverse((order, Reverse(name), bytes)));
                    if newest.len() > query.limit {
                        newest.pop();
                    }
                }
            }
        }
        let mut sorted = newest.into_sorted_vec().into_iter();
        sorted.try_for_each(|Reverse((_, _, bytes))| {
            found.push(row_of(table, &bytes)?);
            Ok::<_, SinkError>(())
        })?;
        Ok(found)
    }

    fn replace(&self, place: &Place, epoch: Option<u64>, switch: bool) -> Result<(), SinkError> {
        let tree = self.tree(&place.projection)?;
        let old = {
            let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
            let mut stored = Self::stored(&tree, place)?;
            if epoch.is_some_and(|epoch| epoch != stored.epoch) {
                let sink = SinkKind::Sled;
                return Err(SinkError::Fenced { sink });
            }
            let next = stored.next.take();
            let old = if switch {
                let next = next.ok_or_else(|| unfit("there is no copy to switch to"))?;
                stored.live.replace(next)
            } else {
                next
            };
            tree.insert(position_key(place), stored.encode_to_vec())
                .map_err(fault)?;
            old
        };
        // Nothing leads to these rows any more.
        match old {
            Some(old) => remove_all(&tree, &generation_prefix(place, old.generation)),
            None => Ok(()),
        }
    }
}

/// Removes all keys that begin with `prefix`.
fn remove_all(tree: &Tree, prefix: &[u8]) -> Result<(), SinkError> {
    loop {
        let mut batch = Batch::default();
        let mut some = false;
        for item in tree.scan_prefix(prefix).keys().take(REMOVE_AT_ONCE) {
            batch.remove(item.map_err(fault)?);
            some = true;
        }
        if !some {
            return Ok(());
        }
        tree.apply_batch(batch).map_err(fault)?;
    }
}

fn put_aside(directory: &Path, error: &sled::Error) -> Result<(), SinkError> {
    let mut aside = directory.as_os_str().to_owned();
    aside.push(".damaged");
    let aside = Path::new(&aside);
    let removed = match std::fs::remove_dir_all(aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    };
    let moved = removed.and_then(|()| fsync::rename(directory, aside));
    moved.map_err(|error| unfit(&error.to_string()))?;
    tracing::error!(%error, aside = %aside.display(), "the embedded projections were damaged; they are put aside and filled again from the logs");
    Ok(())
}

fn place_prefix(place: &Place) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(64);
    for name in [&place.tenant, &place.reality] {
        prefix.extend_from_slice(name.as_bytes());
        prefix.push(0);
    }
    prefix
}

fn position_key(place: &Place) -> Vec<u8> {
    let mut key = place_prefix(place);
    key.push(b'P');
    key
}

fn generation_prefix(place: &Place, generation: u64) -> Vec<u8> {
    let mut prefix = place_prefix(place);
    prefix.push(b'R');
    prefix.extend_from_slice(&generation.to_le_bytes());
    prefix
}

fn row_prefix(place: &Place, generation: u64, table: usize) -> Vec<u8> {
    let mut prefix = generation_prefix(place, generation);
    prefix.push(u8::try_from(table).unwrap_or(u8::MAX));
    prefix
}

fn row_of(table: &Table, bytes: &[u8]) -> Result<Row, SinkError> {
    let cells = decode(bytes).map_err(|error| unfit(&error.to_string()))?;
    if cells.len() != table.columns.len() {
        return Err(unfit(&format!(
            "its rows of {} have {} columns, not {}: they were made by another definition",
            table.name,
            cells.len(),
            table.columns.len()
        )));
    }
    Ok(Row(cells))
}

fn unfit(reason: &str) -> SinkError {
    let reason = format!("{reason}; `arqon projector rebuild` fills it again from the log");
    let sink = SinkKind::Sled;
    SinkError::Unfit { sink, reason }
}

fn fault(error: sled::Error) -> SinkError {
    match error {
        sled::Error::Io(error) => SinkError::Unavailable {
            sink: SinkKind::Sled,
            reason: error.to_string(),
        },
        sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::Corruption { .. } => unfit(&error.to_string()),
    }
}

impl Sink for Sled {
    fn kind(&self) -> SinkKind {
        SinkKind::Sled
    }

    fn prepare<'a>(
        &'a self,
        projection: &'a dyn Projection,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(ready(self.prepare_now(projection)))
    }

    fn take<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<Position, SinkError>> {
        Box::pin(ready(self.take_now(place)))
    }

    fn position<'a>(
        &'a self,
        place: &'a Place,
    ) -> BoxFuture<'a, Result<Option<Position>, SinkError>> {
        let stored = self
            .tree(&place.projection)
            .and_then(|tree| Self::stored(&tree, place));
        Box::pin(ready(stored.map(|stored| stored.position(place.copy))))
    }

    fn look_up<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
        question: &'a Question,
    ) -> BoxFuture<'a, Result<Answer, SinkError>> {
        Box::pin(ready(self.look_up_now(
            projection.tables(),
            place,
            question,
        )))
    }

    fn commit<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
        commit: &'a Commit,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(ready(self.commit_now(projection.tables(), place, commit)))
    }

    fn row<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
        table: usize,
        key: &'a Key,
    ) -> BoxFuture<'a, Result<Option<Row>, SinkError>> {
        let row = self.rows_of(place, table).and_then(|found| {
            let Some((tree, mut name)) = found else {
                return Ok(None);
            };
            name.extend_from_slice(&key.encoded());
            let bytes = tree.get(name).map_err(fault)?;
            let row = bytes.map(|bytes| row_of(&projection.tables()[table], &bytes));
            row.transpose()
        });
        Box::pin(ready(row))
    }

    fn rows<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
        table: usize,
        query: &'a Query,
    ) -> BoxFuture<'a, Result<Vec<Row>, SinkError>> {
        let rows = self.rows_now(&projection.tables()[table], place, table, query);
        Box::pin(ready(rows))
    }

    fn count<'a>(
        &'a self,
        _projection: &'a dyn Projection,
        place: &'a Place,
        table: usize,
    ) -> BoxFuture<'a, Result<u64, SinkError>> {
        let count = self.rows_of(place, table).and_then(|found| {
            let Some((tree, prefix)) = found else {
                return Ok(0);
            };
            let mut keys = tree.scan_prefix(prefix).keys();
            keys.try_fold(0, |count, key| key.map(|_| count + 1).map_err(fault))
        });
        Box::pin(ready(count))
    }

    fn clear_next<'a>(
        &'a self,
        _projection: &'a dyn Projection,
        place: &'a Place,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(ready(self.replace(place, None, false)))
    }

    fn switch<'a>(
        &'a self,
        _projection: &'a dyn Projection,
        place: &'a Place,
        epoch: u64,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(ready(self.replace(place, Some(epoch), true)))
    }
}
