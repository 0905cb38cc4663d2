//! Gets tables ready: makes those that are missing, and checks that those that are there are what a
//! projection keeps.

use std::collections::HashMap;

use deadpool_postgres::{Object, Transaction};

use super::cells::field;
use super::migrate;
use super::statements::{NAME_BYTES_MAX, create, quoted, relation, type_of};
use super::{failed, fault};
use crate::projections::sink::{Copy, SinkError};
use crate::projections::table::{Kind, Table};

const COLUMNS: &str = "SELECT attname::text, format_type(atttypid, atttypmod), attnotnull,
        atthasdef OR attidentity <> '' OR attgenerated <> ''
   FROM pg_attribute
  WHERE attrelid = to_regclass($1::text) AND attnum > 0 AND NOT attisdropped";

/// Whether an index without conditions tells rows apart by the columns `$2`, in whatever order.
const HAS_KEY: &str = "SELECT EXISTS (SELECT FROM pg_index AS i
  WHERE i.indrelid = to_regclass($1::text) AND i.indisunique AND i.indisvalid
    AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
    AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\")
           FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS k(at)
           JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.at) = $2::text[])";

const GUARD: &str = "SELECT arqonbus_guard(to_regclass($1::text), $2)";

struct There {
    kind: String,
    not_null: bool,
    filled: bool,
}

/// Checks what no table of a server can have.
pub(super) fn check_names(tables: &[Table]) -> Result<(), SinkError> {
    for table in tables {
        if table.name.len() > NAME_BYTES_MAX {
            return Err(fault::unfit(format!(
                "the name of table {} is longer than {NAME_BYTES_MAX} bytes",
                table.name
            )));
        }
        let tenant = table.columns.first();
        if tenant.is_none_or(|column| column.name != "tenant_id") || !table.key.contains(&0) {
            return Err(fault::unfit(format!(
                "the key of table {} must begin with a column tenant_id",
                table.name
            )));
        }
        let json = table
            .key
            .iter()
            .find(|&&at| table.columns[at].kind == Kind::Json);
        if let Some(&at) = json {
            return Err(fault::unfit(format!(
                "column {} of table {} is JSON, which has no order, and cannot be part of a key",
                table.columns[at].name, table.name
            )));
        }
    }
    Ok(())
}

/// Makes the tables that are missing, under the lock of migrations, and checks all of them.
pub(super) async fn prepare(client: &mut Object, tables: &[Table]) -> Result<(), SinkError> {
    let transaction = client.transaction().await.map_err(failed)?;
    if !all_there(&transaction, tables).await? {
        migrate::lock(&transaction).await?;
        for table in tables {
            transaction
                .batch_execute(&create(table))
                .await
                .map_err(failed)?;
        }
    }
    for table in tables {
        if let Some(what) = misfit(&transaction, table, Copy::Live).await? {
            return Err(fault::unfit(what));
        }
        guard(&transaction, table, Copy::Live).await?;
    }
    transaction.commit().await.map_err(failed)
}

async fn all_there(transaction: &Transaction<'_>, tables: &[Table]) -> Result<bool, SinkError> {
    let names: Vec<_> = tables.iter().map(|table| quoted(&table.name)).collect();
    let there = "SELECT bool_and(to_regclass(name) IS NOT NULL) FROM unnest($1::text[]) AS n(name)";
    let row = transaction
        .query_one(there, &[&names])
        .await
        .map_err(failed)?;
    Ok(field::<Option<bool>>(&row, 0)?.unwrap_or(true))
}

/// Lets a table show the rows of a transaction's tenants alone; readers see the live one.
pub(super) async fn guard(
    transaction: &Transaction<'_>,
    table: &Table,
    copy: Copy,
) -> Result<(), SinkError> {
    let name = relation(table, copy);
    transaction
        .execute(GUARD, &[&name, &(copy == Copy::Live)])
        .await
        .map(|_| ())
        .map_err(failed)
}

/// In what a table is not what the projection keeps; `None`: it is. A missing one is not.
pub(super) async fn misfit(
    transaction: &Transaction<'_>,
    table: &Table,
    copy: Copy,
) -> Result<Option<String>, SinkError> {
    let name = relation(table, copy);
    let mut there = HashMap::new();
    for row in transaction.query(COLUMNS, &[&name]).await.map_err(failed)? {
        let column = There {
            kind: field(&row, 1)?,
            not_null: field(&row, 2)?,
            filled: field(&row, 3)?,
        };
        there.insert(field::<String>(&row, 0)?, column);
    }
    if let Some(what) = misfit_of_columns(table, &name, &there) {
        return Ok(Some(what));
    }
    let mut key: Vec<_> = table
        .key
        .iter()
        .map(|&at| table.columns[at].name.as_str())
        .collect();
    key.sort_unstable();
    let row = transaction
        .query_one(HAS_KEY, &[&name, &key])
        .await
        .map_err(failed)?;
    Ok((!field::<bool>(&row, 0)?).then(|| {
        let key: Vec<_> = key.into_iter().map(quoted).collect();
        let key = key.join(", ");
        format!(
            "table {name} needs a unique index on ({key}): ALTER TABLE {name} ADD UNIQUE ({key})"
        )
    }))
}

fn misfit_of_columns(table: &Table, name: &str, there: &HashMap<String, There>) -> Option<String> {
    if there.is_empty() {
        return Some(format!("there is no table {name}"));
    }
    for column in &table.columns {
        let (quoted, kind) = (quoted(&column.name), type_of(column.kind));
        let Some(found) = there.get(&column.name) else {
            return Some(format!(
                "table {name} has no column {quoted}: ALTER TABLE {name} ADD COLUMN {quoted} {kind}"
            ));
        };
        let same = found.kind == kind || (found.kind == "character varying" && kind == "text");
        if !same {
            let found = &found.kind;
            return Some(format!(
                "column {quoted} of table {name} is of type {found}, and {kind} is needed"
            ));
        }
        if column.nullable && found.not_null {
            return Some(format!(
                "column {quoted} of table {name} can be empty: \
                 ALTER TABLE {name} ALTER COLUMN {quoted} DROP NOT NULL"
            ));
        }
    }
    let foreign = there
        .iter()
        .find(|(column, found)| found.not_null && !found.filled && table.column(column).is_none());
    foreign.map(|(column, _)| {
        let column = quoted(column);
        format!(
            "column {column} of table {name} is not the projection's, and needs a value: \
             ALTER TABLE {name} ALTER COLUMN {column} DROP NOT NULL, or give it a default"
        )
    })
}
