//! Whether a database is fit for production (PRJ-15): one finding for each thing that is looked at.

use deadpool_postgres::{Object, Transaction};

use super::cells::field;
use super::statements::quoted;
use super::{Postgres, failed, migrate, shape};
use crate::projections::projection::Projection;
use crate::projections::sink::{Copy, SinkError};
use crate::projections::table::Table;

/// The oldest server that is supported, as the server counts.
const VERSION_MIN: i32 = 130_000;

const SERVER: &str = "SELECT current_setting('server_version_num')::int4,
    current_setting('server_version'), pg_is_in_recovery(),
    current_setting('transaction_read_only') = 'on', current_setting('fsync') = 'on',
    (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user),
    coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)";

const PRIVILEGES: &str = "SELECT p.name FROM unnest($2::text[]) AS p(name)
  WHERE NOT has_table_privilege(to_regclass($1::text), p.name)";

/// How grave something is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It works, but somebody should know.
    Warning,
    /// It does not work.
    Failed,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What was looked at: `reachable`, `version`, `writable`, `durable`, `migrated`, `reader`,
    /// `row security` or `table NAME`.
    pub name: String,
    /// How grave it is.
    pub verdict: Verdict,
    /// What it is, and where it is not good what to do.
    pub detail: String,
}

impl Finding {
    fn new(name: &str, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            verdict,
            detail: detail.into(),
        }
    }

    /// Good if `good`, else `otherwise`.
    fn of(name: &str, good: bool, otherwise: Verdict, detail: impl Into<String>) -> Self {
        Self::new(name, if good { Verdict::Good } else { otherwise }, detail)
    }
}

impl Postgres {
    /// Looks at everything that `projections` need here. Changes nothing.
    pub async fn preflight(&self, projections: &[&dyn Projection]) -> Vec<Finding> {
        let mut findings = Vec::new();
        let looked = self.within(self.connections.patience(), async {
            let mut lent = self.lend().await?;
            look(lent.object(), projections, &mut findings).await
        });
        if let Err(error) = looked.await {
            let (SinkError::Unavailable { reason, .. }
            | SinkError::Rejected { reason, .. }
            | SinkError::Unfit { reason, .. }) = error
            else {
                return findings;
            };
            findings.push(Finding::new("reachable", Verdict::Failed, reason));
        }
        findings
    }
}

async fn look(
    client: &mut Object,
    projections: &[&dyn Projection],
    findings: &mut Vec<Finding>,
) -> Result<(), SinkError> {
    let row = client.query_one(SERVER, &[]).await.map_err(failed)?;
    let version: String = field(&row, 1)?;
    let (standby, read_only): (bool, bool) = (field(&row, 2)?, field(&row, 3)?);
    let may_create: bool = field(&row, 6)?;
    findings.extend([
        Finding::new("reachable", Verdict::Good, "connected"),
        Finding::of(
            "version",
            field::<i32>(&row, 0)? >= VERSION_MIN,
            Verdict::Failed,
            format!("PostgreSQL {version}; 13 or newer is needed"),
        ),
        Finding::of(
            "writable",
            !standby && !read_only,
            Verdict::Failed,
            match (standby, read_only) {
                (true, _) => "a standby, which takes no writes: name the primary in the URL",
                (false, true) => "transactions are read-only by default: set default_transaction_read_only off for this role or database",
                (false, false) => "takes writes",
            },
        ),
        Finding::of(
            "durable",
            field(&row, 4)?,
            Verdict::Warning,
            "fsync decides whether what is committed survives the loss of power: it should be on",
        ),
        Finding::of(
            "row security",
            !field::<bool>(&row, 5)?,
            Verdict::Warning,
            "binds a role that is neither superuser nor BYPASSRLS: use one that owns the tables alone",
        ),
    ]);
    migrated(client, findings).await;
    let transaction = client.transaction().await.map_err(failed)?;
    privileges(&transaction, "arqonbus_projection_cursor", findings).await?;
    for table in projections
        .iter()
        .flat_map(|projection| projection.tables())
    {
        look_at(&transaction, table, may_create, findings).await?;
    }
    Ok(())
}

async fn migrated(client: &mut Object, findings: &mut Vec<Finding>) {
    let name = "migrated";
    let status = match migrate::status(client).await {
        Ok(status) => status,
        Err(error) => {
            findings.push(Finding::new(name, Verdict::Failed, error.to_string()));
            return;
        }
    };
    let pending = status.pending().count();
    let detail = if pending == 0 {
        format!("all {} migrations are applied", status.migrations.len())
    } else {
        format!("{pending} migrations are not applied: run `arqonbus migrate up`")
    };
    findings.push(Finding::of(name, pending == 0, Verdict::Failed, detail));
    let detail = if status.has_reader {
        "the role arqonbus_reader is there"
    } else {
        "there is no role arqonbus_reader for those who read: CREATE ROLE arqonbus_reader NOLOGIN, then `arqonbus migrate up`"
    };
    findings.push(Finding::of(
        "reader",
        status.has_reader,
        Verdict::Warning,
        detail,
    ));
}

async fn look_at(
    transaction: &Transaction<'_>,
    table: &Table,
    may_create: bool,
    findings: &mut Vec<Finding>,
) -> Result<(), SinkError> {
    let name = format!("table {}", table.name);
    let there = "SELECT to_regclass($1::text) IS NOT NULL";
    let row = transaction
        .query_one(there, &[&quoted(&table.name)])
        .await
        .map_err(failed)?;
    if !field::<bool>(&row, 0)? {
        let detail = if may_create {
            "it will be made"
        } else {
            "it is not there, and this role may not make it: GRANT CREATE ON SCHEMA"
        };
        findings.push(Finding::of(&name, may_create, Verdict::Failed, detail));
        return Ok(());
    }
    if let Some(what) = shape::misfit(transaction, table, Copy::Live).await? {
        findings.push(Finding::new(&name, Verdict::Failed, what));
        return Ok(());
    }
    privileges(transaction, &table.name, findings).await
}

/// A table that is not there has none; that is another finding's matter.
async fn privileges(
    transaction: &Transaction<'_>,
    table: &str,
    findings: &mut Vec<Finding>,
) -> Result<(), SinkError> {
    let wanted = ["SELECT", "INSERT", "UPDATE", "DELETE"];
    let rows = transaction
        .query(PRIVILEGES, &[&quoted(table), &&wanted[..]])
        .await
        .map_err(failed)?;
    let missing: Vec<String> = rows
        .iter()
        .map(|row| field(row, 0))
        .collect::<Result<_, _>>()?;
    let detail = if missing.is_empty() {
        "can be read and written".to_owned()
    } else {
        format!("this role may not {} there", missing.join(", "))
    };
    findings.push(Finding::of(
        &format!("table {table}"),
        missing.is_empty(),
        Verdict::Failed,
        detail,
    ));
    Ok(())
}
