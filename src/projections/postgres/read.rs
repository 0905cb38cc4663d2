//! What is asked of tables and positions. Changes nothing.

use deadpool_postgres::Object;
use tokio_postgres::Row as Answered;

use super::cells::{Parameter, array, borrowed, cell, field, scalar};
use super::statements::{POSITION, count as count_of, look_up as look_up_of, select};
use super::{failed, fault, open, place_of, position_of};
use crate::projections::sink::{Answer, Place, Position, Query, Question, SinkError};
use crate::projections::table::{Cell, Key, Row, Table, Version};

pub(super) async fn position(
    client: &mut Object,
    place: &Place,
) -> Result<Option<Position>, SinkError> {
    let transaction = open(client, &place.tenant).await?;
    let statement = transaction.prepare_cached(POSITION).await.map_err(failed)?;
    let [projection, tenant, reality, copy] = place_of(place);
    let row = transaction
        .query_opt(&statement, &[&projection, &tenant, &reality, &copy])
        .await
        .map_err(failed)?;
    row.map(|row| position_of(&row)).transpose()
}

pub(super) async fn look_up(
    client: &mut Object,
    tables: &[Table],
    place: &Place,
    question: &Question,
) -> Result<Answer, SinkError> {
    let transaction = open(client, &place.tenant).await?;
    let mut answer = vec![None; question.keys.len()];
    for (table, rules) in tables.iter().enumerate() {
        let asked = question.keys.iter().enumerate();
        let asked: Vec<(usize, &Key)> = asked
            .filter(|(_, (of, _))| *of == table)
            .map(|(at, (_, key))| (at, key))
            .collect();
        if asked.is_empty() {
            continue;
        }
        let of = |(at, column): (usize, &usize)| {
            array(
                &rules.columns[*column],
                asked.iter().map(move |(_, key)| &key.0[at]),
            )
        };
        let parameters: Vec<Parameter<'_>> = rules
            .key
            .iter()
            .enumerate()
            .map(of)
            .collect::<Result<_, _>>()?;
        let text = look_up_of(rules, place.copy);
        let statement = transaction.prepare_cached(&text).await.map_err(failed)?;
        let parameters: Vec<_> = borrowed(&parameters).collect();
        for row in transaction
            .query(&statement, &parameters)
            .await
            .map_err(failed)?
        {
            let at = usize::try_from(field::<i64>(&row, 0)?).unwrap_or_default();
            let (at, _) = asked
                .get(at.wrapping_sub(1))
                .ok_or_else(|| fault::unfit("it answers what was not asked"))?;
            answer[*at] = Some(version(rules, &row)?);
        }
    }
    Ok(answer)
}

/// The version in a row, after the place that it answers.
fn version(table: &Table, row: &Answered) -> Result<Version, SinkError> {
    let cells = (1..)
        .zip(table.made_by())
        .map(|(at, column)| cell(row, at, &table.columns[column]));
    Ok(Version(cells.collect::<Result<_, _>>()?))
}

pub(super) async fn rows(
    client: &mut Object,
    table: &Table,
    place: &Place,
    query: &Query,
) -> Result<Vec<Row>, SinkError> {
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
    let mut parameters: Vec<Parameter<'_>> = vec![Box::new(place.tenant.as_str())];
    for (at, cell) in &query.equal {
        if *cell != Cell::Null {
            parameters.push(scalar(&table.columns[*at], cell)?);
        }
    }
    if let Some(after) = &query.after {
        for (at, cell) in table.key.iter().zip(&after.0) {
            parameters.push(scalar(&table.columns[*at], cell)?);
        }
    }
    parameters.push(Box::new(limit));
    let transaction = open(client, &place.tenant).await?;
    let text = select(table, place.copy, query);
    let statement = transaction.prepare_cached(&text).await.map_err(failed)?;
    let parameters: Vec<_> = borrowed(&parameters).collect();
    let rows = transaction
        .query(&statement, &parameters)
        .await
        .map_err(failed)?;
    let read = |row: &Answered| {
        let cells = table.columns.iter().enumerate();
        let cells = cells.map(|(at, column)| cell(row, at, column));
        Ok(Row(cells.collect::<Result<_, _>>()?))
    };
    rows.iter().map(read).collect()
}

/// The row of `key`, which is of the place's tenant.
pub(super) async fn row(
    client: &mut Object,
    table: &Table,
    place: &Place,
    key: &Key,
) -> Result<Option<Row>, SinkError> {
    let query = Query {
        equal: table
            .key
            .iter()
            .copied()
            .zip(key.0.iter().cloned())
            .collect(),
        limit: 1,
        ..Query::default()
    };
    Ok(rows(client, table, place, &query).await?.pop())
}

pub(super) async fn count(
    client: &mut Object,
    table: &Table,
    place: &Place,
) -> Result<u64, SinkError> {
    let transaction = open(client, &place.tenant).await?;
    let text = count_of(table, place.copy);
    let row = transaction
        .query_one(&text, &[&place.tenant])
        .await
        .map_err(failed)?;
    Ok(u64::try_from(field::<i64>(&row, 0)?).unwrap_or_default())
}
