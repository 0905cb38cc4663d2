//! Sees to it that the server knows how a table looks that grows fast.
//!
//! The server chooses indexes by statistics that it takes by itself, a minute late: until then a
//! new table looks as if every row had a tenant of its own, and all rows of the tenant would be read
//! for each key. So the sink lets it take them when a table has grown to a multiple.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use deadpool_postgres::Object;

/// From so many rows on it matters.
const FIRST: u64 = 500;
/// How often afterwards.
const FACTOR: u64 = 10;

/// How many rows were written to each table.
#[derive(Debug, Default)]
pub(super) struct Growth {
    tables: Mutex<HashMap<String, Written>>,
}

#[derive(Clone, Copy, Debug)]
struct Written {
    rows: u64,
    look_at: u64,
}

impl Growth {
    /// Counts `rows` that were written to a table; whether it is time to look at it.
    pub(super) fn count(&self, relation: &str, rows: u64) -> bool {
        let mut tables = self.tables();
        let written = tables.entry(relation.to_owned()).or_insert(Written {
            rows: 0,
            look_at: FIRST,
        });
        written.rows = written.rows.saturating_add(rows);
        let is_due = written.rows >= written.look_at;
        if is_due {
            written.look_at = written.rows.saturating_mul(FACTOR);
        }
        is_due
    }

    /// The table is empty or new.
    pub(super) fn forget(&self, relation: &str) {
        self.tables().remove(relation);
    }

    /// Counts are never half done, so that a thread that panicked has left none.
    fn tables(&self) -> MutexGuard<'_, HashMap<String, Written>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the server take statistics of a table of which it knows next to nothing. Nothing depends on
/// whether it does: who may not, or cannot now, goes on without.
pub(super) async fn look(client: &Object, relation: &str) {
    let unknown = "SELECT reltuples < 500 FROM pg_class WHERE oid = to_regclass($1::text)";
    let unknown = client.query_opt(unknown, &[&relation]).await;
    let unknown = unknown.ok().flatten().and_then(|row| row.try_get(0).ok());
    if unknown == Some(true)
        && let Err(error) = client.batch_execute(&format!("ANALYZE {relation}")).await
    {
        tracing::debug!(%error, "no statistics of a table that has grown");
    }
}

#[cfg(test)]
mod tests {
    use super::Growth;

    // PRJ-08: looked at when it has become a table, and then more and more seldom.
    #[test]
    fn a_table_is_looked_at_whenever_it_has_grown_to_a_multiple() {
        let growth = Growth::default();
        let due = |times: usize| (0..times).filter(|_| growth.count("t", 100)).count();
        assert_eq!(due(4), 0);
        assert_eq!(due(1), 1);
        assert_eq!(due(44), 0);
        assert_eq!(due(1), 1);
        growth.forget("t");
        assert_eq!(due(4), 0);
        assert_eq!(due(1), 1);
    }
}
