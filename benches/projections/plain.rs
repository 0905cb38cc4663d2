//! The plain technique of each sink: what it takes in when all that a projection does beside it is
//! left out.

use std::pin::pin;
use std::time::{Duration, Instant};

use arqonbus::projections::codec::encode;
use arqonbus::projections::continuum::{EPISODES, EVENTS};
use arqonbus::projections::table::{Cell, Kind, Row, Rule, Table};
use bytes::{BufMut as _, BytesMut};
use jiff::Timestamp;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, NoTls};

use crate::events::{self, Rows};
use crate::station::Station;

type Parameter<'a> = Box<dyn ToSql + Sync + 'a>;

fn time(cell: &Cell) -> Option<Timestamp> {
    match cell {
        Cell::Timestamp(time) => {
            Some(Timestamp::from_microsecond(i64::try_from(time.0).unwrap()).unwrap())
        }
        _ => None,
    }
}

const fn integer(cell: &Cell) -> Option<i64> {
    match cell {
        Cell::Integer(number) => Some(*number),
        _ => None,
    }
}

const fn boolean(cell: &Cell) -> Option<bool> {
    match cell {
        Cell::Boolean(flag) => Some(*flag),
        _ => None,
    }
}

/// A text that is JSON already.
#[derive(Debug)]
struct Jsonb<'a>(&'a str);

impl ToSql for Jsonb<'_> {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        // The version of the binary form.
        out.put_u8(1);
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSONB
    }

    to_sql_checked!();
}

const fn type_of(kind: Kind) -> (&'static str, Type) {
    match kind {
        Kind::Text => ("text", Type::TEXT),
        Kind::Json => ("jsonb", Type::JSONB),
        Kind::Timestamp => ("timestamptz", Type::TIMESTAMPTZ),
        Kind::Integer => ("bigint", Type::INT8),
        Kind::Boolean => ("boolean", Type::BOOL),
        Kind::Float => ("double precision", Type::FLOAT8),
        Kind::Bytes => ("bytea", Type::BYTEA),
    }
}

fn names(table: &Table) -> String {
    let names: Vec<_> = table.columns.iter().map(|column| &*column.name).collect();
    names.join(", ")
}

/// A connection to a new database whose tables `plain_0` and `plain_1` are as the projection's, but
/// for row-level security; with their indexes or without.
async fn connected(station: &Station, indexes: &str) -> Client {
    let url = station.migrated().await;
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    for (number, table) in events::tables().iter().enumerate().take(2) {
        let name = &table.name;
        let create =
            format!("CREATE TABLE plain_{number} (LIKE {name} INCLUDING DEFAULTS {indexes})");
        client.batch_execute(&create).await.unwrap();
    }
    client
}

fn unnest_of(number: usize, table: &Table) -> String {
    let columns = table.columns.iter().enumerate();
    let arrays = columns.clone().map(|(at, column)| match column.kind {
        Kind::Json => format!("${}::text[]", at + 1),
        kind => format!("${}::{}[]", at + 1, type_of(kind).0),
    });
    let values = columns.clone().map(|(at, column)| match column.kind {
        Kind::Json => format!("u.c{at}::jsonb"),
        _ => format!("u.c{at}"),
    });
    let aliases = columns.clone().map(|(at, _)| format!("c{at}"));
    let joined = |parts: &mut dyn Iterator<Item = String>| parts.collect::<Vec<_>>().join(", ");
    let of = |places: &[usize], prefix: &str| {
        let names = places.iter().map(|&at| &*table.columns[at].name);
        joined(&mut names.map(|name| format!("{prefix}{name}")))
    };
    let conflict = match &table.rule {
        Rule::First => "NOTHING".to_owned(),
        Rule::Newest(version) => {
            let set = columns.filter(|(at, _)| !table.key.contains(at));
            let set =
                joined(&mut set.map(|(_, column)| format!("{0} = excluded.{0}", column.name)));
            let (there, new) = (of(version, "t."), of(version, "excluded."));
            format!("UPDATE SET {set} WHERE ({there}) < ({new})")
        }
    };
    format!(
        "INSERT INTO plain_{number} AS t ({}) SELECT {} FROM unnest({}) AS u({}) ON CONFLICT ({}) DO {conflict}",
        names(table),
        joined(&mut values.into_iter()),
        joined(&mut arrays.into_iter()),
        joined(&mut aliases.into_iter()),
        of(&table.key, ""),
    )
}

/// The columns of rows as arrays.
fn arrays<'a>(table: &Table, rows: &'a [Row]) -> Vec<Parameter<'a>> {
    let columns = table.columns.iter().enumerate();
    let arrays = columns.map(|(at, column)| {
        let cells = rows.iter().map(move |row| &row.0[at]);
        match column.kind {
            Kind::Integer => Box::new(cells.map(integer).collect::<Vec<_>>()) as Parameter<'a>,
            Kind::Boolean => Box::new(cells.map(boolean).collect::<Vec<_>>()),
            Kind::Timestamp => Box::new(cells.map(time).collect::<Vec<_>>()),
            _ => Box::new(cells.map(Cell::text).collect::<Vec<_>>()),
        }
    });
    arrays.collect()
}

/// Guarded upserts of a batch in a transaction.
pub(crate) fn unnest(station: &Station, batches: &[Rows]) -> Duration {
    let tables = events::tables();
    station.runtime.block_on(async {
        let mut client = connected(station, "INCLUDING INDEXES").await;
        let mut statements = Vec::new();
        for (number, table) in tables.iter().enumerate().take(2) {
            statements.push(client.prepare(&unnest_of(number, table)).await.unwrap());
        }
        let started = Instant::now();
        for batch in batches {
            let transaction = client.transaction().await.unwrap();
            for (number, rows) in [(EVENTS, &batch.events), (EPISODES, &batch.episodes)] {
                if !rows.is_empty() {
                    let arrays = arrays(&tables[number], rows);
                    let parameters = arrays.iter().map(|one| &**one as &(dyn ToSql + Sync));
                    let parameters: Vec<_> = parameters.collect();
                    let done = transaction.execute(&statements[number], &parameters).await;
                    assert_eq!(done.unwrap(), rows.len() as u64, "all rows are newer");
                }
            }
            transaction.commit().await.unwrap();
        }
        started.elapsed()
    })
}

/// One load of everything, into tables without indexes.
pub(crate) fn copy(station: &Station, batches: &[Rows]) -> Duration {
    let tables = events::tables();
    station.runtime.block_on(async {
        let client = connected(station, "").await;
        let started = Instant::now();
        for number in [EPISODES, EVENTS] {
            let table = &tables[number];
            let types = table.columns.iter().map(|column| type_of(column.kind).1);
            let types: Vec<_> = types.collect();
            let into = format!("COPY plain_{number} ({}) FROM STDIN BINARY", names(table));
            let sink = client.copy_in(&into).await.unwrap();
            let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
            for row in batches.iter().flat_map(|batch| batch.of(number)) {
                let cells = row.0.iter().zip(&table.columns);
                let cells = cells.map(|(cell, column)| match column.kind {
                    Kind::Json => Box::new(cell.text().map(Jsonb)) as Parameter<'_>,
                    Kind::Integer => Box::new(integer(cell)),
                    Kind::Boolean => Box::new(boolean(cell)),
                    Kind::Timestamp => Box::new(time(cell)),
                    _ => Box::new(cell.text()),
                });
                let cells: Vec<Parameter<'_>> = cells.collect();
                let cells = cells.iter().map(|one| &**one as &(dyn ToSql + Sync));
                writer
                    .as_mut()
                    .write_raw(cells.collect::<Vec<_>>())
                    .await
                    .unwrap();
            }
            writer.finish().await.unwrap();
        }
        started.elapsed()
    })
}

/// Batches of keys and rows, encoded as the sink encodes them.
pub(crate) fn sled(station: &Station, batches: &[Rows]) -> Duration {
    let dir = tempfile::tempdir_in(&station.directory).unwrap();
    let tables = events::tables();
    let db = sled::Config::new()
        .path(dir.path())
        .cache_capacity(32 << 20);
    let db = db.mode(sled::Mode::HighThroughput).open().unwrap();
    let tree = db.open_tree("plain").unwrap();
    let started = Instant::now();
    for rows in batches {
        let mut batch = sled::Batch::default();
        for (number, rows) in [(EPISODES, &rows.episodes), (EVENTS, &rows.events)] {
            for row in rows {
                let mut key = vec![u8::try_from(number).unwrap()];
                key.extend(tables[number].key_of(row).encoded());
                batch.insert(key, encode(&row.0));
            }
        }
        tree.apply_batch(batch).unwrap();
    }
    db.flush().unwrap();
    started.elapsed()
}

/// Pipelines of hashes that end.
pub(crate) fn redis(station: &Station, batches: &[Rows]) -> Duration {
    let table = &events::tables()[EPISODES];
    let mut connection = station.redis_connection();
    redis::cmd("FLUSHALL").exec(&mut connection).unwrap();
    let started = Instant::now();
    for rows in batches {
        let mut pipe = redis::pipe();
        for row in &rows.episodes {
            let key = format!("plain:{}", row.0[2].text().unwrap());
            let set = pipe.cmd("HSET").arg(&key);
            for (cell, column) in row.0.iter().zip(&table.columns) {
                if let Some(text) = cell.text() {
                    set.arg(&column.name).arg(text);
                }
            }
            set.ignore();
            pipe.cmd("EXPIRE").arg(&key).arg(86_400).ignore();
        }
        pipe.exec(&mut connection).unwrap();
    }
    started.elapsed()
}
