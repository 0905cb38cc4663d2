//! SQL that is made from a table. Set-based: one statement for all rows of a batch, its columns as
//! arrays.
//!
//! Texts of keys and versions are compared byte by byte (`COLLATE "C"`), as the node compares them.
//! All names are quoted; no value is ever part of a statement.

use crate::projections::sink::{Copy, Query};
use crate::projections::table::{Cell, Column, Kind, Rule, Table};

/// Most bytes of a table's name, so that the name of its copy is one too.
pub(super) const NAME_BYTES_MAX: usize = 63 - NEXT.len();

const NEXT: &str = "__next";

/// Names the tenant of a transaction, whose rows alone are there from then on.
pub(super) const SET_TENANT: &str = "SELECT set_config('app.tenants', $1, true)";

/// Moves a position that is still where it was and still the holder's.
pub(super) const MOVE: &str = "UPDATE arqonbus_projection_cursor
    SET next_sequence = $7, hash = $8, updated_at = now()
  WHERE projection = $1 AND tenant_id = $2 AND reality = $3 AND copy = $4
    AND owner_epoch = $5 AND next_sequence = $6";

/// Holds a position where it is; nobody takes it before the transaction ends.
pub(super) const HOLD: &str = "SELECT 1 FROM arqonbus_projection_cursor
  WHERE projection = $1 AND tenant_id = $2 AND reality = $3 AND copy = $4
    AND owner_epoch = $5 FOR SHARE";

pub(super) const TAKE: &str = "INSERT INTO arqonbus_projection_cursor AS c
    (projection, tenant_id, reality, copy, next_sequence, owner_epoch, hash)
  VALUES ($1, $2, $3, $4, 1, nextval('arqonbus_projection_epoch'), $5)
  ON CONFLICT (projection, tenant_id, reality, copy) DO UPDATE
    SET owner_epoch = greatest(c.owner_epoch + 1, nextval('arqonbus_projection_epoch')),
        updated_at = now()
  RETURNING next_sequence, owner_epoch, hash";

pub(super) const POSITION: &str = "SELECT next_sequence, owner_epoch, hash
   FROM arqonbus_projection_cursor
  WHERE projection = $1 AND tenant_id = $2 AND reality = $3 AND copy = $4";

pub(super) const LOCK_LIVE: &str = "SELECT owner_epoch FROM arqonbus_projection_cursor
  WHERE projection = $1 AND tenant_id = $2 AND reality = $3 AND copy = 'live' FOR UPDATE";

/// Gives the live position where the copy stands.
pub(super) const SWITCH: &str = "UPDATE arqonbus_projection_cursor AS live
    SET next_sequence = next.next_sequence, hash = next.hash, updated_at = now()
   FROM arqonbus_projection_cursor AS next
  WHERE live.projection = $1 AND live.tenant_id = $2 AND live.reality = $3 AND live.copy = 'live'
    AND next.projection = $1 AND next.tenant_id = $2 AND next.reality = $3 AND next.copy = 'next'";

pub(super) const REMOVE_NEXT: &str = "DELETE FROM arqonbus_projection_cursor
  WHERE projection = $1 AND tenant_id = $2 AND reality = $3 AND copy = 'next'";

/// Who was filling the copies of a projection starts over.
pub(super) const REMOVE_ALL_NEXT: &str =
    "DELETE FROM arqonbus_projection_cursor WHERE projection = $1 AND copy = 'next'";

/// How a copy is called in the table of positions.
pub(super) const fn copy_name(copy: Copy) -> &'static str {
    match copy {
        Copy::Live => "live",
        Copy::Next => "next",
    }
}

/// An identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The quoted name of a copy of a table.
pub(super) fn relation(table: &Table, copy: Copy) -> String {
    match copy {
        Copy::Live => quoted(&table.name),
        Copy::Next => quoted(&format!("{}{NEXT}", table.name)),
    }
}

/// The type of a column.
pub(super) const fn type_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text",
        Kind::Integer => "bigint",
        Kind::Float => "double precision",
        Kind::Boolean => "boolean",
        Kind::Timestamp => "timestamp with time zone",
        Kind::Json => "jsonb",
        Kind::Bytes => "bytea",
    }
}

/// The type that values of a column travel in.
const fn travelling(kind: Kind) -> &'static str {
    match kind {
        Kind::Json => "text",
        other => type_of(other),
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

/// `of.column`, compared as the node compares it.
fn ordered(column: &Column, of: &str) -> String {
    let name = format!("{of}.{}", quoted(&column.name));
    match column.kind {
        Kind::Text => format!("{name} COLLATE \"C\""),
        Kind::Integer
        | Kind::Float
        | Kind::Boolean
        | Kind::Timestamp
        | Kind::Json
        | Kind::Bytes => name,
    }
}

fn columns<'a>(table: &'a Table, places: &'a [usize]) -> impl Iterator<Item = &'a Column> {
    places.iter().map(|&at| &table.columns[at])
}

fn names<'a>(columns: impl Iterator<Item = &'a Column>) -> String {
    joined(columns.map(|column| quoted(&column.name)))
}

/// The arrays of some columns as rows: `unnest($1::text[], …)`.
fn unnest<'a>(columns: impl Iterator<Item = &'a Column>) -> String {
    let arrays = joined(
        columns
            .enumerate()
            .map(|(at, column)| format!("${}::{}[]", at + 1, travelling(column.kind))),
    );
    format!("unnest({arrays})")
}

fn numbered(letter: char, count: usize) -> String {
    joined((0..count).map(|at| format!("{letter}{at}")))
}

/// Makes the table.
pub(super) fn create(table: &Table) -> String {
    let of = |(at, column): (usize, &Column)| {
        let versions = match &table.rule {
            Rule::First => &[][..],
            Rule::Newest(versions) => versions,
        };
        let compared = table.key.contains(&at) || versions.contains(&at);
        let collation = match column.kind {
            Kind::Text if compared => " COLLATE \"C\"",
            _ => "",
        };
        let null = if column.nullable { "" } else { " NOT NULL" };
        let (name, kind) = (quoted(&column.name), type_of(column.kind));
        format!("{name} {kind}{collation}{null}")
    };
    format!(
        "CREATE TABLE IF NOT EXISTS {} ({}, PRIMARY KEY ({}))",
        relation(table, Copy::Live),
        joined(table.columns.iter().enumerate().map(of)),
        names(columns(table, &table.key)),
    )
}

/// Makes the copy beside a table, with its indexes.
pub(super) fn create_next(table: &Table) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS \
         INCLUDING INDEXES INCLUDING STORAGE)",
        relation(table, Copy::Next),
        relation(table, Copy::Live),
    )
}

/// Sets rows, where the rule of the table lets it. Parameters: an array for each column.
pub(super) fn put(table: &Table, copy: Copy) -> String {
    let values = joined(
        table
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| match column.kind {
                Kind::Json => format!("u.c{at}::jsonb"),
                _ => format!("u.c{at}"),
            }),
    );
    format!(
        "INSERT INTO {} AS t ({}) SELECT {values} FROM {} AS u({}) ON CONFLICT ({}) DO {}",
        relation(table, copy),
        names(table.columns.iter()),
        unnest(table.columns.iter()),
        numbered('c', table.columns.len()),
        names(columns(table, &table.key)),
        on_conflict(table),
    )
}

fn on_conflict(table: &Table) -> String {
    let Rule::Newest(versions) = &table.rule else {
        return "NOTHING".to_owned();
    };
    let set = joined(
        table
            .columns
            .iter()
            .enumerate()
            .filter(|(at, _)| !table.key.contains(at))
            .map(|(_, column)| {
                let name = quoted(&column.name);
                format!("{name} = excluded.{name}")
            }),
    );
    let version = |of| joined(columns(table, versions).map(|column| ordered(column, of)));
    // An old row without a version is older than any.
    format!(
        "UPDATE SET {set} WHERE (ROW({}) < ROW({})) IS NOT FALSE",
        version("t"),
        version("excluded"),
    )
}

/// Removes rows. Parameters: an array for each column of the key.
pub(super) fn remove(table: &Table, copy: Copy) -> String {
    format!(
        "DELETE FROM {} AS t USING {} AS u({}) WHERE {}",
        relation(table, copy),
        unnest(columns(table, &table.key)),
        numbered('k', table.key.len()),
        same_key(table),
    )
}

/// The places of keys that are there, from 1, with their versions. Parameters as of [`remove`].
pub(super) fn look_up(table: &Table, copy: Copy) -> String {
    let versions: String = columns(table, &table.made_by())
        .map(|column| format!(", {}", read(column)))
        .collect();
    format!(
        "SELECT u.place{versions} FROM {} WITH ORDINALITY AS u({}, place) JOIN {} AS t ON {}",
        unnest(columns(table, &table.key)),
        numbered('k', table.key.len()),
        relation(table, copy),
        same_key(table),
    )
}

fn same_key(table: &Table) -> String {
    let parts: Vec<_> = columns(table, &table.key)
        .enumerate()
        .map(|(at, column)| format!("t.{} = u.k{at}", quoted(&column.name)))
        .collect();
    parts.join(" AND ")
}

fn read(column: &Column) -> String {
    let name = quoted(&column.name);
    match column.kind {
        Kind::Json => format!("t.{name}::text"),
        _ => format!("t.{name}"),
    }
}

/// Rows. Parameters: the tenant, the values that are equal and not NULL, the key after which they
/// are, their number at most.
pub(super) fn select(table: &Table, copy: Copy, query: &Query) -> String {
    let mut parameter = 1;
    let mut next = |kind: Kind| {
        parameter += 1;
        format!("${parameter}::{}", travelling(kind))
    };
    let mut wanted = vec!["t.\"tenant_id\" = $1::text".to_owned()];
    for (at, cell) in &query.equal {
        let column = &table.columns[*at];
        let name = quoted(&column.name);
        wanted.push(match (cell, column.kind) {
            (Cell::Null, _) => format!("t.{name} IS NULL"),
            (_, Kind::Json) => format!("t.{name} = {}::jsonb", next(Kind::Json)),
            (_, kind) => format!("t.{name} = {}", next(kind)),
        });
    }
    let key = || joined(columns(table, &table.key).map(|column| ordered(column, "t")));
    if query.after.is_some() {
        let last = joined(columns(table, &table.key).map(|column| next(column.kind)));
        wanted.push(format!("ROW({}) > ROW({last})", key()));
    }
    let newest = query.newest_by.map_or(String::new(), |at| {
        format!("{} DESC NULLS LAST, ", ordered(&table.columns[at], "t"))
    });
    format!(
        "SELECT {} FROM {} AS t WHERE {} ORDER BY {newest}{} LIMIT {}",
        joined(table.columns.iter().map(read)),
        relation(table, copy),
        wanted.join(" AND "),
        key(),
        next(Kind::Integer),
    )
}

/// How many rows the tenant `$1` has.
pub(super) fn count(table: &Table, copy: Copy) -> String {
    format!(
        "SELECT count(*) FROM {} WHERE \"tenant_id\" = $1",
        relation(table, copy)
    )
}

/// Removes all rows of the tenant `$1`.
pub(super) fn clear(table: &Table, copy: Copy) -> String {
    format!(
        "DELETE FROM {} WHERE \"tenant_id\" = $1",
        relation(table, copy)
    )
}

/// Puts the rows that the tenant `$1` has in the copy into the live table.
pub(super) fn carry_over(table: &Table) -> String {
    let names = names(table.columns.iter());
    format!(
        "INSERT INTO {} ({names}) SELECT {names} FROM {} WHERE \"tenant_id\" = $1",
        relation(table, Copy::Live),
        relation(table, Copy::Next),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projections::table::Key;

    fn table() -> Table {
        Table {
            name: "odd\"name".to_owned(),
            columns: vec![
                Column::new("tenant_id", Kind::Text),
                Column::new("at", Kind::Timestamp),
                Column::new("id", Kind::Text),
                Column::nullable("body", Kind::Json),
            ],
            key: vec![0],
            rule: Rule::Newest(vec![1, 2]),
            outcome: None,
        }
    }

    // PRJ-03, PRJ-08: one statement for all rows, guarded by the version, byte by byte.
    #[test]
    fn rows_are_put_as_arrays_under_a_guard() {
        assert_eq!(
            put(&table(), Copy::Next),
            "INSERT INTO \"odd\"\"name__next\" AS t (\"tenant_id\", \"at\", \"id\", \"body\") \
             SELECT u.c0, u.c1, u.c2, u.c3::jsonb FROM unnest($1::text[], \
             $2::timestamp with time zone[], $3::text[], $4::text[]) AS u(c0, c1, c2, c3) \
             ON CONFLICT (\"tenant_id\") DO UPDATE SET \"at\" = excluded.\"at\", \
             \"id\" = excluded.\"id\", \"body\" = excluded.\"body\" \
             WHERE (ROW(t.\"at\", t.\"id\" COLLATE \"C\") \
             < ROW(excluded.\"at\", excluded.\"id\" COLLATE \"C\")) IS NOT FALSE"
        );
        let first = Table {
            rule: Rule::First,
            ..table()
        };
        assert!(put(&first, Copy::Live).ends_with("ON CONFLICT (\"tenant_id\") DO NOTHING"));
    }

    #[test]
    fn a_list_numbers_its_parameters_in_order() {
        let query = Query {
            equal: vec![(2, Cell::from("x")), (3, Cell::Null)],
            newest_by: Some(1),
            after: Some(Key(vec![Cell::from("t")])),
            limit: 5,
        };
        let text = select(&table(), Copy::Live, &query);
        let (_, wanted) = text.split_once(" WHERE ").expect("conditions");
        assert_eq!(
            wanted,
            "t.\"tenant_id\" = $1::text AND t.\"id\" = $2::text AND t.\"body\" IS NULL \
             AND ROW(t.\"tenant_id\" COLLATE \"C\") > ROW($3::text) \
             ORDER BY t.\"at\" DESC NULLS LAST, t.\"tenant_id\" COLLATE \"C\" LIMIT $4::bigint"
        );
    }
}
