//! A batch as the arguments of `commit.lua`, and what the server says of rows.

use super::cells;
use super::key::ValkeyKey;
use super::mapping::{EntryPart, HashPart, Part, Plan};
use super::server::{Batch, millis, unfit};
use crate::projections::sink::{Place, SinkError, SinkKind, Write};
use crate::projections::table::{Cell, Key, Row, Table, Version};

impl HashPart<'_> {
    /// Names of the fields that tell the version of a row, or only whether it is there.
    pub(super) fn version_fields(&self) -> Vec<&str> {
        let deciding = match self.version {
            [] => &self.columns[..1],
            version => version,
        };
        let columns = &self.table.columns;
        let names = deciding.iter().map(|&at| columns[at].name.as_str());
        names.collect()
    }

    /// The version that fields tell. What cannot be read was written by a stranger, and counts as
    /// absent, as it does for the script.
    pub(super) fn version(&self, values: Vec<Option<Vec<u8>>>) -> Option<Version> {
        if self.version.is_empty() {
            values.first()?.as_ref()?;
            return Some(Version(Vec::new()));
        }
        let columns = self.version.iter().map(|&at| &self.table.columns[at]);
        let cells = columns.zip(values);
        let cells: Option<Vec<_>> = cells
            .map(|(column, value)| cells::read(column.kind, value?))
            .collect();
        cells.map(Version)
    }
}

impl EntryPart<'_> {
    pub(super) fn key<'a>(&'a self, place: &'a Place) -> ValkeyKey<'a> {
        ValkeyKey::Stream {
            tenant: &place.tenant,
            name: self.name,
        }
    }

    /// The sequence in a key of the table, if it is part of it.
    pub(super) fn sequence_of(&self, key: &Key) -> Option<u64> {
        let at = self.table.key.iter().position(|at| *at == self.sequence)?;
        sequence(key.0.get(at)?)
    }
}

fn sequence(cell: &Cell) -> Option<u64> {
    match cell {
        Cell::Integer(number) => u64::try_from(*number).ok().filter(|number| *number > 0),
        _ => None,
    }
}

/// The streams of a batch, each with its entries in order.
pub(super) fn put_streams(
    batch: &mut Batch<'_>,
    plan: &Plan<'_>,
    place: &Place,
    writes: &[Write],
) -> Result<(), SinkError> {
    let mut streams = Vec::new();
    for (table, part) in plan.parts.iter().enumerate() {
        let Some(Part::Entry(part)) = part else {
            continue;
        };
        let mut entries = Vec::new();
        for write in writes {
            match write {
                Write::Put { table: of, row } if *of == table => {
                    of_the_tenant(place, row)?;
                    let sequence = sequence(&row.0[part.sequence])
                        .ok_or_else(|| refused("the sequence of a record is at least 1"))?;
                    entries.push((sequence, row));
                }
                // An entry stays until the stream is trimmed.
                Write::Put { .. } | Write::Remove { .. } => {}
            }
        }
        entries.sort_unstable_by_key(|(sequence, _)| *sequence);
        if !entries.is_empty() {
            streams.push((part, entries));
        }
    }
    batch.number(streams.len() as u64);
    for (part, entries) in streams {
        batch.key(&part.key(place));
        batch.number(part.ttl.map_or(0, millis));
        batch.number(part.len_max);
        batch.number(entries.len() as u64);
        for (sequence, row) in entries {
            batch.number(sequence);
            put_fields(batch, part.table, &part.columns, row);
        }
    }
    Ok(())
}

/// The hashes of a batch.
pub(super) fn put_hashes(
    batch: &mut Batch<'_>,
    plan: &Plan<'_>,
    place: &Place,
    writes: &[Write],
) -> Result<(), SinkError> {
    for write in writes {
        let (Write::Put { table, .. } | Write::Remove { table, .. }) = write;
        let Some(Part::Hash(part)) = &plan.parts[*table] else {
            continue;
        };
        match write {
            Write::Put { row, .. } => {
                of_the_tenant(place, row)?;
                batch.key(&part.key_of_row(place, row).ok_or_else(strange)?);
                batch.argument(b"put");
                batch.number(millis(part.ttl));
                batch.argument(part.orders().as_bytes());
                put_fields(batch, part.table, &part.columns, row);
            }
            Write::Remove { key, .. } => {
                batch.key(&part.key_of_key(place, &key.0).ok_or_else(strange)?);
                batch.argument(b"drop");
            }
        }
    }
    Ok(())
}

/// How many arguments follow, then names and values by turns.
fn put_fields(batch: &mut Batch<'_>, table: &Table, columns: &[usize], row: &Row) {
    let fields = columns.iter().filter_map(|&at| {
        let value = cells::kept(&row.0[at])?;
        Some((&table.columns[at].name, value))
    });
    let fields: Vec<_> = fields.collect();
    batch.number(2 * fields.len() as u64);
    for (name, value) in fields {
        batch.argument(name.as_bytes());
        batch.argument(&value);
    }
}

/// A row of another tenant must not come under this one's names.
fn of_the_tenant(place: &Place, row: &Row) -> Result<(), SinkError> {
    let tenant = row.0.first().and_then(Cell::text);
    if tenant == Some(place.tenant.as_str()) {
        return Ok(());
    }
    Err(refused("tenant_id is not the tenant whose log it is from"))
}

fn refused(reason: &str) -> SinkError {
    SinkError::Rejected {
        sink: SinkKind::Valkey,
        reason: reason.to_owned(),
    }
}

/// A row or a key that is none of its table's.
pub(super) fn strange() -> SinkError {
    unfit(
        "a row has not the values of its table, or another tenant's; remove its key in Valkey if somebody else wrote it",
    )
}
