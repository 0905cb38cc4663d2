//! What changes rows and positions: each function is one transaction.

use deadpool_postgres::{Object, Transaction};
use futures_util::future::{join, join_all};
use tokio_postgres::{Error, Statement};

use super::cells::{Parameter, array, borrowed, field};
use super::growth::{self, Growth};
use super::statements::{
    HOLD, LOCK_LIVE, MOVE, REMOVE_ALL_NEXT, REMOVE_NEXT, SET_TENANT, SWITCH, TAKE, carry_over,
    clear, create_next, put, relation, remove,
};
use super::{failed, fault, migrate, open, place_of, shape, stored};
use crate::projections::sink::{Commit, Copy, Place, Position, SinkError, Write};
use crate::projections::table::{Cell, Table};

/// Most time that a statement may take that goes over all rows of a tenant: none.
const UNLIMITED: &str = "SET LOCAL statement_timeout = 0";

/// Lets the owner of the positions see those of all tenants, in a transaction that ends with
/// [`BOUND`].
const UNBOUND: &str = "ALTER TABLE arqonbus_projection_cursor NO FORCE ROW LEVEL SECURITY";
const BOUND: &str = "ALTER TABLE arqonbus_projection_cursor FORCE ROW LEVEL SECURITY";

pub(super) async fn take(client: &mut Object, place: &Place) -> Result<Position, SinkError> {
    let statement = client.prepare_cached(TAKE).await.map_err(failed)?;
    let transaction = open(client, &place.tenant).await?;
    let [projection, tenant, reality, copy] = place_of(place);
    let row = transaction
        .query_one(
            &statement,
            &[&projection, &tenant, &reality, &copy, &&[0_u8; 32][..]],
        )
        .await
        .map_err(failed)?;
    let position = super::position_of(&row)?;
    transaction.commit().await.map_err(failed)?;
    Ok(position)
}

/// A statement with its parameters.
struct Step<'a> {
    statement: Statement,
    parameters: Vec<Parameter<'a>>,
}

/// One round trip to begin, one for everything, one to commit.
pub(super) async fn commit(
    client: &mut Object,
    growth: &Growth,
    tables: &[Table],
    place: &Place,
    commit: &Commit,
) -> Result<(), SinkError> {
    let mut steps = Vec::new();
    for (table, rules) in tables.iter().enumerate() {
        // A row can be removed and set again, but not the other way round.
        steps.extend(removals(client, rules, place, keys_of(commit, table)).await?);
        steps.extend(puts(client, rules, place, rows_of(commit, table)).await?);
    }
    let fence = fence(client, place, commit).await?;
    let set = client.prepare_cached(SET_TENANT).await.map_err(failed)?;

    let transaction = client.transaction().await.map_err(failed)?;
    // Sent in this order without waiting in between. What comes after a failure fails too, so that
    // the first one is the cause.
    let first = [
        Step {
            statement: set,
            parameters: vec![Box::new(super::tenant_of(place)?)],
        },
        fence,
    ];
    let (first, rest) = join(
        join_all(first.iter().map(|step| run(&transaction, step))),
        join_all(steps.iter().map(|step| run(&transaction, step))),
    )
    .await;
    let first: Vec<u64> = first
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    if first.last() != Some(&1) {
        return Err(fault::fenced());
    }
    for done in rest {
        done.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)?;
    for (table, rules) in tables.iter().enumerate() {
        let (relation, rows) = (relation(rules, place.copy), rows_of(commit, table).len());
        if growth.count(&relation, rows as u64) {
            growth::look(client, &relation).await;
        }
    }
    Ok(())
}

async fn run(transaction: &Transaction<'_>, step: &Step<'_>) -> Result<u64, Error> {
    transaction
        .execute_raw(&step.statement, borrowed(&step.parameters))
        .await
}

async fn fence<'a>(
    client: &Object,
    place: &'a Place,
    commit: &'a Commit,
) -> Result<Step<'a>, SinkError> {
    let epoch = stored("the epoch", commit.epoch)?;
    let mut parameters: Vec<Parameter<'a>> = Vec::with_capacity(8);
    for part in place_of(place) {
        parameters.push(Box::new(part));
    }
    parameters.push(Box::new(epoch));
    let text = match &commit.moves {
        None => HOLD,
        Some((from, to)) => {
            parameters.push(Box::new(stored("the position", from.next.get())?));
            parameters.push(Box::new(stored("the position", to.next.get())?));
            parameters.push(Box::new(&to.hash[..]));
            MOVE
        }
    };
    let statement = client.prepare_cached(text).await.map_err(failed)?;
    Ok(Step {
        statement,
        parameters,
    })
}

fn rows_of(commit: &Commit, wanted: usize) -> Vec<&[Cell]> {
    let rows = commit.writes.iter().filter_map(|write| match write {
        Write::Put { table, row } if *table == wanted => Some(&row.0[..]),
        Write::Put { .. } | Write::Remove { .. } => None,
    });
    rows.collect()
}

fn keys_of(commit: &Commit, wanted: usize) -> Vec<&[Cell]> {
    let keys = commit.writes.iter().filter_map(|write| match write {
        Write::Remove { table, key } if *table == wanted => Some(&key.0[..]),
        Write::Put { .. } | Write::Remove { .. } => None,
    });
    keys.collect()
}

async fn puts<'a>(
    client: &Object,
    table: &Table,
    place: &Place,
    rows: Vec<&'a [Cell]>,
) -> Result<Option<Step<'a>>, SinkError> {
    if rows.is_empty() {
        return Ok(None);
    }
    // A role that row-level security does not bind would store it all the same.
    if rows.iter().any(|row| row[0].text() != Some(&place.tenant)) {
        return Err(fault::rejected("a row belongs to another tenant"));
    }
    let of = |at: usize| array(&table.columns[at], rows.iter().map(move |row| &row[at]));
    let parameters = (0..table.columns.len()).map(of).collect::<Result<_, _>>()?;
    let text = put(table, place.copy);
    let statement = client.prepare_cached(&text).await.map_err(failed)?;
    Ok(Some(Step {
        statement,
        parameters,
    }))
}

async fn removals<'a>(
    client: &Object,
    table: &Table,
    place: &Place,
    keys: Vec<&'a [Cell]>,
) -> Result<Option<Step<'a>>, SinkError> {
    if keys.is_empty() {
        return Ok(None);
    }
    let tenant = table.key.iter().position(|at| *at == 0);
    if keys
        .iter()
        .any(|key| tenant.and_then(|at| key[at].text()) != Some(&place.tenant))
    {
        return Err(fault::rejected("a key belongs to another tenant"));
    }
    let of = |(at, column): (usize, &usize)| {
        array(
            &table.columns[*column],
            keys.iter().map(move |key| &key[at]),
        )
    };
    let parameters = table
        .key
        .iter()
        .enumerate()
        .map(of)
        .collect::<Result<_, _>>()?;
    let text = remove(table, place.copy);
    let statement = client.prepare_cached(&text).await.map_err(failed)?;
    Ok(Some(Step {
        statement,
        parameters,
    }))
}

pub(super) async fn clear_next(
    client: &mut Object,
    growth: &Growth,
    tables: &[Table],
    place: &Place,
) -> Result<(), SinkError> {
    let transaction = open(client, &place.tenant).await?;
    transaction.batch_execute(UNLIMITED).await.map_err(failed)?;
    for table in tables {
        growth.forget(&relation(table, Copy::Next));
        if shape::misfit(&transaction, table, Copy::Next)
            .await?
            .is_some()
        {
            renew(&transaction, table, place).await?;
        }
        let text = clear(table, Copy::Next);
        transaction
            .execute(&text, &[&place.tenant])
            .await
            .map_err(failed)?;
    }
    let [projection, tenant, reality, _] = place_of(place);
    transaction
        .execute(REMOVE_NEXT, &[&projection, &tenant, &reality])
        .await
        .map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

/// Removes everything that belongs to a tenant.
pub(super) async fn forget(
    client: &mut Object,
    tables: &[Table],
    tenant: &str,
) -> Result<(), SinkError> {
    let transaction = open(client, tenant).await?;
    transaction.batch_execute(UNLIMITED).await.map_err(failed)?;
    let copies = tables.iter().flat_map(|table| {
        [Copy::Live, Copy::Next].map(|copy| (relation(table, copy), clear(table, copy)))
    });
    let positions = (
        "arqonbus_projection_cursor".to_owned(),
        "DELETE FROM arqonbus_projection_cursor WHERE tenant_id = $1".to_owned(),
    );
    for (relation, remove) in copies.chain([positions]) {
        let there = "SELECT to_regclass($1::text) IS NOT NULL";
        let row = transaction.query_one(there, &[&relation]).await;
        if field::<bool>(&row.map_err(failed)?, 0)? {
            let removed = transaction.execute(&remove, &[&tenant]).await;
            removed.map_err(failed)?;
        }
    }
    transaction.commit().await.map_err(failed)
}

/// Makes the copy of a table, anew where it is of another version. Other tenants may be filling it;
/// they lose their position in it with their rows, and start over.
async fn renew(
    transaction: &Transaction<'_>,
    table: &Table,
    place: &Place,
) -> Result<(), SinkError> {
    migrate::lock(transaction).await?;
    // Somebody else may have made it while this waited.
    let Some(_misfit) = shape::misfit(transaction, table, Copy::Next).await? else {
        return Ok(());
    };
    let drop = format!("DROP TABLE IF EXISTS {}", relation(table, Copy::Next));
    transaction.batch_execute(&drop).await.map_err(failed)?;
    transaction.batch_execute(UNBOUND).await.map_err(failed)?;
    transaction
        .execute(REMOVE_ALL_NEXT, &[&place.projection])
        .await
        .map_err(failed)?;
    transaction.batch_execute(BOUND).await.map_err(failed)?;
    transaction
        .batch_execute(&create_next(table))
        .await
        .map_err(failed)?;
    shape::guard(transaction, table, Copy::Next).await
}

/// Readers see the old rows until this commits, for none of the statements empties a table by other
/// means than removing rows.
pub(super) async fn switch(
    client: &mut Object,
    tables: &[Table],
    place: &Place,
    epoch: u64,
) -> Result<(), SinkError> {
    let transaction = open(client, &place.tenant).await?;
    let [projection, tenant, reality, _] = place_of(place);
    let live = transaction
        .query_opt(LOCK_LIVE, &[&projection, &tenant, &reality])
        .await
        .map_err(failed)?;
    let held = live.map(|row| field::<i64>(&row, 0)).transpose()?;
    if held != Some(stored("the epoch", epoch)?) {
        return Err(fault::fenced());
    }
    let moved = transaction
        .execute(SWITCH, &[&projection, &tenant, &reality])
        .await
        .map_err(failed)?;
    if moved == 0 {
        // The copy is the live one already, and the answer to that was lost.
        return Ok(());
    }
    transaction.batch_execute(UNLIMITED).await.map_err(failed)?;
    for table in tables {
        for text in [
            clear(table, Copy::Live),
            carry_over(table),
            clear(table, Copy::Next),
        ] {
            transaction
                .execute(&text, &[&place.tenant])
                .await
                .map_err(failed)?;
        }
    }
    transaction
        .execute(REMOVE_NEXT, &[&projection, &tenant, &reality])
        .await
        .map_err(failed)?;
    transaction.commit().await.map_err(failed)
}
