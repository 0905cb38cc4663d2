//! Keys and values of tables as texts, which is how somebody asks for them.

use crate::edge::shield::Fault;
use crate::log::Micros;
use crate::projections::json::canonical_text;
use crate::projections::table::{Cell, Column, Key, Kind, Table};
use crate::proto::json::{micros, read_micros};

/// The key of `tenant`'s row whose other key columns are `texts`.
///
/// # Errors
/// They are too few or too many, or one is none of its column.
pub(super) fn of(table: &Table, tenant: &str, texts: &[String], field: &str) -> Result<Key, Fault> {
    let columns: Vec<&Column> = table
        .key
        .iter()
        .filter(|at| **at != 0)
        .map(|at| &table.columns[*at])
        .collect();
    if columns.len() != texts.len() {
        let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
        let text = format!("the key is {}, in this order", names.join(", "));
        return Err(Fault::invalid(field, text));
    }
    let mut given = columns.iter().zip(texts);
    let cells = table.key.iter().map(|at| match at {
        0 => Ok(Cell::from(tenant)),
        _ => match given.next() {
            Some((column, text)) => cell(column, text, field),
            None => Ok(Cell::Null),
        },
    });
    Ok(Key(cells.collect::<Result<_, Fault>>()?))
}

/// The texts that [`of`] makes the same key of.
pub(super) fn texts(key: &Key) -> Vec<String> {
    let cells = key.0.iter().skip(1);
    cells
        .map(|cell| match cell {
            Cell::Null | Cell::Bytes(_) => String::new(),
            Cell::Text(text) | Cell::Json(text) => text.clone(),
            Cell::Integer(number) => number.to_string(),
            Cell::Float(number) => number.to_string(),
            Cell::Boolean(flag) => flag.to_string(),
            Cell::Timestamp(time) => micros(time.0),
        })
        .collect()
}

/// The value of a column in a text.
///
/// # Errors
/// It is none of the column's type.
pub(super) fn cell(column: &Column, text: &str, field: &str) -> Result<Cell, Fault> {
    let read = match column.kind {
        Kind::Text => (!text.contains('\0')).then(|| Cell::from(text)),
        Kind::Integer => text.parse().ok().map(Cell::Integer),
        Kind::Float => text.parse().ok().map(Cell::Float),
        Kind::Boolean => text.parse().ok().map(Cell::Boolean),
        Kind::Timestamp => read_micros(text, false)
            .and_then(|time| u64::try_from(time).ok())
            .map(|time| Cell::Timestamp(Micros(time))),
        Kind::Json => canonical_text(text).ok().map(Cell::Json),
        Kind::Bytes => None,
    };
    read.ok_or_else(|| {
        let wanted = match column.kind {
            Kind::Text => "a text without NUL",
            Kind::Integer => "a whole number",
            Kind::Float => "a number",
            Kind::Boolean => "true or false",
            Kind::Timestamp => "a time like 2026-01-31T12:00:00Z",
            Kind::Json => "JSON",
            Kind::Bytes => "looked for in another column: this one holds bytes",
        };
        Fault::invalid(field, format!("{} must be {wanted}", column.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projections::table::Rule;

    fn table() -> Table {
        Table {
            name: "t".to_owned(),
            columns: vec![
                Column::new("tenant_id", Kind::Text),
                Column::new("number", Kind::Integer),
                Column::new("time", Kind::Timestamp),
            ],
            key: vec![0, 1, 2],
            rule: Rule::First,
            outcome: None,
        }
    }

    // PRJ-03, EDGE-06: the tenant of a key is the caller's, whatever is given.
    #[test]
    fn a_key_comes_back_from_its_texts_and_is_the_callers() {
        let given = ["-5", "2026-01-31T12:00:00Z"].map(str::to_owned);
        let key = of(&table(), "acme", &given, "f").unwrap();
        assert_eq!(key.0[0], Cell::from("acme"));
        assert_eq!(of(&table(), "acme", &texts(&key), "f").unwrap(), key);
        for bad in [&["1"][..], &["x", "2026-01-31T12:00:00Z"], &["1", "noon"]] {
            let bad: Vec<String> = bad.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(of(&table(), "acme", &bad, "f").unwrap_err().field, "f");
        }
    }
}
