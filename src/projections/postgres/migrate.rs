//! Brings a database to the tables that this version keeps, step by step, and says how far it is
//! (PRJ-12).
//!
//! Each step is one transaction, under a lock that one migration at a time can have, so that it
//! does not matter how many nodes start at once or where one of them dies. What was applied is
//! written down with a checksum: a step that reads otherwise today is not the one that was applied.

use std::collections::BTreeMap;

use deadpool_postgres::{Object, Transaction};
use sha2::{Digest as _, Sha256};

use super::cells::field;
use super::fault;
use crate::log::Micros;
use crate::projections::sink::{SinkError, SinkKind};

/// The steps, oldest first; their versions count from 1.
const STEPS: [Step; 2] = [
    Step {
        version: 1,
        name: "tables of episodes",
        sql: include_str!("migrations/0001_tables_of_episodes.sql"),
    },
    Step {
        version: 2,
        name: "positions and tenants",
        sql: include_str!("migrations/0002_positions_and_tenants.sql"),
    },
];

/// Who changes tables holds this advisory lock: `arqonbus` in bytes.
pub(super) const LOCK: i64 = 0x6172_716f_6e62_7573;

const MADE: &str = "CREATE TABLE IF NOT EXISTS arqonbus_schema_migrations (
    version BIGINT PRIMARY KEY,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
)";

/// Another migration can take its time, as this one can; but while it waits for the lock of a table,
/// whoever wants to read that table waits behind it.
const PATIENT: &str = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '60s'";
const IMPATIENT: &str = "SET LOCAL lock_timeout = '10s'";

/// The reader role may have come after a table.
const REGUARD: &str =
    "SELECT count(arqonbus_guard(c.oid::regclass, c.relname NOT LIKE '%\\_\\_next'))
    FROM pg_policy AS p JOIN pg_class AS c ON c.oid = p.polrelid
   WHERE p.polname = 'arqonbus_tenants' AND c.relnamespace = current_schema()::regnamespace
     AND pg_has_role(c.relowner, 'USAGE')";

#[derive(Clone, Copy, Debug)]
struct Step {
    version: i64,
    name: &'static str,
    sql: &'static str,
}

impl Step {
    fn checksum(&self) -> String {
        let hash: [u8; 32] = Sha256::digest(self.sql).into();
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A step, and whether the database has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Migration {
    /// Counts from 1.
    pub version: i64,
    /// What it brings.
    pub name: String,
    /// When it was applied; `None`: not yet.
    pub applied_at: Option<Micros>,
}

/// How far a database is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// All steps, oldest first.
    pub migrations: Vec<Migration>,
    /// Whether the role `arqonbus_reader` is there.
    pub has_reader: bool,
}

impl Status {
    /// Those that the database does not have yet.
    pub fn pending(&self) -> impl Iterator<Item = &Migration> {
        self.migrations
            .iter()
            .filter(|migration| migration.applied_at.is_none())
    }
}

/// Why a database cannot be migrated, or its state not be said.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A newer version of the node has migrated it.
    #[error(
        "the database is at version {found}, and this program knows {known} at most: use the newer one"
    )]
    Newer {
        /// Where it is.
        found: i64,
        /// The newest that is known here.
        known: i64,
    },
    /// A step that was applied was another one.
    #[error(
        "migration {version} ({name}) was applied with other contents (checksum {found}, not {wanted}): this database belongs to another build; restore it or use that build"
    )]
    Changed {
        /// Which.
        version: i64,
        /// Its name.
        name: String,
        /// What is written down.
        found: String,
        /// What it has here.
        wanted: String,
    },
    /// The database cannot be used.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

impl From<MigrateError> for SinkError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Sink(error) => error,
            MigrateError::Newer { .. } | MigrateError::Changed { .. } => Self::Unfit {
                sink: SinkKind::Postgres,
                reason: error.to_string(),
            },
        }
    }
}

/// How far the database is. Changes nothing.
pub(super) async fn status(client: &mut Object) -> Result<Status, MigrateError> {
    let transaction = begin(client).await?;
    let status = read(&transaction).await?;
    Ok(status)
}

/// Applies what is missing, and says how far the database is then.
pub(super) async fn up(client: &mut Object) -> Result<Status, MigrateError> {
    loop {
        let transaction = begin(client).await?;
        let failed = |error| MigrateError::Sink(fault::of(&error));
        transaction.batch_execute(PATIENT).await.map_err(failed)?;
        lock(&transaction).await?;
        transaction.batch_execute(IMPATIENT).await.map_err(failed)?;
        transaction.batch_execute(MADE).await.map_err(failed)?;
        let status = read(&transaction).await?;
        let step = STEPS
            .iter()
            .zip(&status.migrations)
            .find(|(_, migration)| migration.applied_at.is_none());
        let Some((step, _)) = step else {
            transaction.query(REGUARD, &[]).await.map_err(failed)?;
            transaction.commit().await.map_err(failed)?;
            return Ok(status);
        };
        transaction
            .batch_execute(step.sql)
            .await
            .map_err(|error| failed_in(step, &error))?;
        let written =
            "INSERT INTO arqonbus_schema_migrations (version, name, checksum) VALUES ($1, $2, $3)";
        transaction
            .execute(written, &[&step.version, &step.name, &step.checksum()])
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
    }
}

async fn begin(client: &mut Object) -> Result<Transaction<'_>, SinkError> {
    client
        .transaction()
        .await
        .map_err(|error| fault::of(&error))
}

/// Waits until nobody else changes tables; held to the end of the transaction.
pub(super) async fn lock(transaction: &Transaction<'_>) -> Result<(), SinkError> {
    transaction
        .execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])
        .await
        .map(|_| ())
        .map_err(|error| fault::of(&error))
}

fn failed_in(step: &Step, error: &tokio_postgres::Error) -> SinkError {
    let said = |reason: String| format!("migration {} ({}): {reason}", step.version, step.name);
    match fault::of(error) {
        SinkError::Unavailable { reason, .. } => fault::unavailable(said(reason)),
        // A row that does not fit a step is a matter for a person, like a table that does not.
        SinkError::Rejected { reason, .. } | SinkError::Unfit { reason, .. } => {
            fault::unfit(said(reason))
        }
        fenced @ SinkError::Fenced { .. } => fenced,
    }
}

async fn read(transaction: &Transaction<'_>) -> Result<Status, MigrateError> {
    let failed = |error| fault::of(&error);
    let there = "SELECT to_regclass('arqonbus_schema_migrations') IS NOT NULL,
        EXISTS (SELECT FROM pg_roles WHERE rolname = 'arqonbus_reader')";
    let there = transaction.query_one(there, &[]).await.map_err(failed)?;
    let has_reader = field(&there, 1)?;
    let mut applied = BTreeMap::new();
    if field(&there, 0)? {
        let all = "SELECT version, checksum, (extract(epoch FROM applied_at) * 1000000)::bigint
              FROM arqonbus_schema_migrations";
        for row in transaction.query(all, &[]).await.map_err(failed)? {
            let at: i64 = field(&row, 2)?;
            let at = Micros(u64::try_from(at).unwrap_or_default());
            applied.insert(field(&row, 0)?, (field(&row, 1)?, at));
        }
    }
    compared(&applied, has_reader)
}

fn compared(
    applied: &BTreeMap<i64, (String, Micros)>,
    has_reader: bool,
) -> Result<Status, MigrateError> {
    let known = STEPS[STEPS.len() - 1].version;
    if let Some((&found, _)) = applied.last_key_value()
        && found > known
    {
        return Err(MigrateError::Newer { found, known });
    }
    let mut migrations = Vec::with_capacity(STEPS.len());
    for step in STEPS {
        let there = applied.get(&step.version);
        if let Some((found, _)) = there
            && *found != step.checksum()
        {
            return Err(MigrateError::Changed {
                version: step.version,
                name: step.name.to_owned(),
                found: found.clone(),
                wanted: step.checksum(),
            });
        }
        migrations.push(Migration {
            version: step.version,
            name: step.name.to_owned(),
            applied_at: there.map(|(_, at)| *at),
        });
    }
    Ok(Status {
        migrations,
        has_reader,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // PRJ-12: steps are counted without a gap, for a gap could be filled later.
    #[test]
    fn versions_count_from_one() {
        for (at, step) in (1..).zip(STEPS) {
            assert_eq!(step.version, at, "{}", step.name);
        }
    }

    // PRJ-12: what was applied is what is compiled in, and nothing after it.
    #[test]
    fn a_newer_or_a_changed_step_is_refused() {
        let of =
            |version: i64, checksum: String| BTreeMap::from([(version, (checksum, Micros(5)))]);
        let status = compared(&of(1, STEPS[0].checksum()), true).expect("a status");
        assert_eq!(status.pending().count(), STEPS.len() - 1);
        assert_eq!(status.migrations[0].applied_at, Some(Micros(5)));
        let newer = compared(&of(9, "x".to_owned()), true);
        assert!(matches!(newer, Err(MigrateError::Newer { found: 9, .. })));
        let changed = compared(&of(1, "x".to_owned()), true);
        assert!(matches!(
            changed,
            Err(MigrateError::Changed { version: 1, .. })
        ));
    }
}
