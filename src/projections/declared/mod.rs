//! Projections that the settings declare: a table without code (PRJ-14).
//!
//! Each record becomes at most one row: its columns are taken from the payload by their paths, or
//! from the record itself. The newest record of a key decides the row, by the column that the
//! declaration orders by, and by the log's order among equals and where it names none.
//!
//! Nothing is guessed: a value that is there and is not what its column says makes the record a
//! dead letter, whether the column needs a value or not.

#[cfg(test)]
mod tests;
mod value;

use serde_json::Value;

use super::letter;
use super::projection::{Change, DeadLetters, Poison, Projection, Source};
use super::sink::SinkKind;
use super::table::{Cell, Column, Row, Rule, Table};
use crate::config::projections::{
    ColumnEntry, ColumnType, DEAD_LETTER_TABLE, DEAD_LETTERS, ProjectionEntry, RecordField,
    TableSink,
};
use crate::proto::view::RecordView;

/// The payload as a whole, where it is at fault.
const PAYLOAD: &str = "payload";

/// A declaration that cannot be one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{projection}: {field} names the column {column:?}, which is not declared")]
pub struct Undeclared {
    /// Whose declaration.
    pub projection: String,
    /// What of it.
    pub field: &'static str,
    /// The column that is not there.
    pub column: String,
}

/// A projection as the settings declare it.
#[derive(Clone, Debug)]
pub struct Declared {
    name: String,
    reality: String,
    topics: Vec<String>,
    tables: Vec<Table>,
    dead_letters: DeadLetters,
    columns: Vec<Taken>,
    sinks: Vec<SinkKind>,
    removal: Removal,
}

/// A column, and where its value is taken from.
#[derive(Clone, Debug)]
struct Taken {
    kind: ColumnType,
    required: bool,
    from: Place,
    /// As it was declared.
    source: String,
}

#[derive(Clone, Debug)]
enum Place {
    Record(RecordField),
    Payload(Vec<String>),
}

/// What a record with a key and without a payload means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Removal {
    /// Rows are told apart by what such a record says: it marks the row as deleted.
    Tombstone,
    /// It would, but does not say when.
    Unordered,
    /// Nothing special.
    None,
}

impl Declared {
    /// The projection that `entry` declares.
    ///
    /// # Errors
    /// It names a column that it does not declare.
    pub fn new(entry: &ProjectionEntry) -> Result<Self, Undeclared> {
        let columns: Vec<Taken> = entry.columns.iter().map(Taken::of).collect();
        let place = |field: &'static str, name: &String| {
            let mut all = entry.columns.iter();
            all.position(|column| column.name == *name)
                .ok_or_else(|| Undeclared {
                    projection: entry.name.clone(),
                    field,
                    column: name.clone(),
                })
        };
        let key = entry.key.iter().map(|name| place("key", name));
        let key = key.collect::<Result<Vec<_>, _>>()?;
        let order_by = entry.order_by.as_ref().map(|name| place("order_by", name));
        let order_by = order_by.transpose()?;
        let removal = removal(&columns, &key, order_by);

        let mut described = vec![Column::new("tenant_id", super::table::Kind::Text)];
        for (at, (column, entry)) in columns.iter().zip(&entry.columns).enumerate() {
            let in_index = key.contains(&at) || order_by == Some(at);
            let nullable = !in_index && column.can_be_missing(removal);
            described.push(Column {
                name: entry.name.clone(),
                kind: value::kind(column.kind),
                nullable,
            });
        }
        let sequence = described.len() + 1;
        described.extend([
            Column::new("deleted", super::table::Kind::Boolean),
            Column::new("sequence", super::table::Kind::Integer),
            Column::new("event_id", super::table::Kind::Text),
        ]);
        let table = Table {
            name: entry.table().to_owned(),
            columns: described,
            key: [0].into_iter().chain(key.iter().map(|at| at + 1)).collect(),
            rule: Rule::Newest(
                order_by
                    .map(|at| at + 1)
                    .into_iter()
                    .chain([sequence])
                    .collect(),
            ),
            outcome: None,
        };
        let dead = letter::table(&format!("{}{DEAD_LETTER_TABLE}", table.name));
        let topic = entry.dead_letter_topic();
        let mut topics = entry.topics.clone();
        topics.push(topic.clone());
        Ok(Self {
            name: entry.name.clone(),
            reality: entry.reality.clone(),
            topics,
            tables: vec![table, dead],
            dead_letters: DeadLetters { topic, table: 1 },
            columns,
            sinks: entry.sinks.iter().map(|sink| kind_of(*sink)).collect(),
            removal,
        })
    }

    /// Where its table is kept; empty: in every sink there is.
    #[must_use]
    pub fn sinks(&self) -> &[SinkKind] {
        &self.sinks
    }

    fn row(&self, source: &Source<'_>) -> Result<Row, Poison> {
        let envelope = &source.record.envelope;
        let removes = envelope.payload.data().is_empty() && !envelope.key.is_empty();
        let deleted = match self.removal {
            Removal::Tombstone => removes,
            Removal::Unordered if removes => {
                let reason = "payload is empty, and the order of this projection is in the payload; order it by $timestamp or by nothing to delete by empty payloads";
                return Err(Poison::of(PAYLOAD, reason));
            }
            Removal::Unordered | Removal::None => false,
        };
        let payload = if deleted { None } else { self.payload(source)? };
        let mut cells = Vec::with_capacity(self.columns.len() + 4);
        cells.push(Cell::from(source.tenant));
        for column in &self.columns {
            cells.push(column.cell(source, payload.as_ref(), deleted)?);
        }
        let sequence = i64::try_from(source.sequence.get());
        let sequence =
            sequence.map_err(|_beyond| Poison::of("sequence", "sequence is beyond 63 bits"))?;
        cells.extend([
            Cell::Boolean(deleted),
            Cell::Integer(sequence),
            Cell::Text(source.record.id().into_owned()),
        ]);
        let row = Row(cells);
        row.check(&self.tables[0]).map_err(|misfit| {
            let at = self.tables[0].column(misfit.column());
            let declared = at.and_then(|at| self.columns.get(at.checked_sub(1)?));
            let field = declared.map_or(misfit.column(), |column| &column.source);
            Poison::of(field, format!("{field}: {misfit}"))
        })?;
        Ok(row)
    }

    /// The payload, if a column needs it.
    fn payload(&self, source: &Source<'_>) -> Result<Option<Value>, Poison> {
        let mut columns = self.columns.iter();
        if columns.all(|column| matches!(column.from, Place::Record(_))) {
            return Ok(None);
        }
        let payload = source.payloads.to_json(source.tenant, source.record);
        payload.map(Some).ok_or_else(|| {
            let reason = "payload is neither JSON nor of a schema that is registered for its topic; `arqon schema list` names those there are";
            Poison::of(PAYLOAD, reason)
        })
    }
}

impl Projection for Declared {
    fn name(&self) -> &str {
        &self.name
    }

    fn reality(&self) -> &str {
        &self.reality
    }

    fn topics(&self) -> &[String] {
        &self.topics
    }

    fn tables(&self) -> &[Table] {
        &self.tables
    }

    fn dead_letters(&self) -> &DeadLetters {
        &self.dead_letters
    }

    fn needs_schemas(&self) -> bool {
        true
    }

    fn read(&self, source: &Source<'_>) -> Result<Vec<Change>, Poison> {
        let topic = source.record.topic;
        if topic == self.dead_letters.topic {
            let shown = |record: &RecordView<'_>| source.payloads.to_json(source.tenant, record);
            return Ok(letter::changes(self, source, &shown));
        }
        // Two projections of everything would feed each other their dead letters for ever.
        if topic.starts_with(DEAD_LETTERS) {
            return Ok(Vec::new());
        }
        let row = self.row(source).map_err(|poison| Poison {
            event_id: source.record.id().into_owned(),
            ..poison
        })?;
        Ok(vec![Change::Put { table: 0, row }])
    }
}

const fn kind_of(sink: TableSink) -> SinkKind {
    match sink {
        TableSink::Sled => SinkKind::Sled,
        TableSink::Postgres => SinkKind::Postgres,
    }
}

fn removal(columns: &[Taken], key: &[usize], order_by: Option<usize>) -> Removal {
    let of_record = |at: &usize| matches!(columns[*at].from, Place::Record(_));
    let is_key = |at: &usize| matches!(columns[*at].from, Place::Record(RecordField::Key));
    if !key.iter().all(of_record) || !key.iter().any(is_key) {
        Removal::None
    } else if order_by.iter().all(of_record) {
        Removal::Tombstone
    } else {
        Removal::Unordered
    }
}

impl Taken {
    fn of(entry: &ColumnEntry) -> Self {
        let source = entry.source();
        let from = match RecordField::of(source) {
            Some(field) => Place::Record(field),
            None => Place::Payload(source.split('.').map(str::to_owned).collect()),
        };
        Self {
            kind: entry.kind,
            required: entry.required,
            from,
            source: source.to_owned(),
        }
    }

    fn can_be_missing(&self, removal: Removal) -> bool {
        match self.from {
            Place::Record(RecordField::Key | RecordField::Producer) => !self.required,
            Place::Record(_) => false,
            // A row that is deleted has nothing of a payload.
            Place::Payload(_) => !self.required || removal == Removal::Tombstone,
        }
    }

    fn cell(
        &self,
        source: &Source<'_>,
        payload: Option<&Value>,
        deleted: bool,
    ) -> Result<Cell, Poison> {
        let field = &self.source;
        let wrong = |wanted: &str| Poison::of(field, format!("{field} {wanted}"));
        let cell = match &self.from {
            Place::Record(of) => of_record(*of, source).map_err(wrong)?,
            Place::Payload(_) if deleted => return Ok(Cell::Null),
            Place::Payload(path) => match payload.and_then(|payload| value::find(payload, path)) {
                Some(found) => value::cell(found, self.kind).map_err(wrong)?,
                None => Cell::Null,
            },
        };
        if self.required && cell == Cell::Null {
            return Err(wrong("is missing"));
        }
        Ok(cell)
    }
}

fn of_record(field: RecordField, source: &Source<'_>) -> Result<Cell, &'static str> {
    let record = source.record;
    let text = |text: &str| {
        Some(text)
            .filter(|text| !text.is_empty())
            .map_or(Cell::Null, Cell::from)
    };
    Ok(match field {
        RecordField::Topic => text(record.topic),
        RecordField::Key => text(record.envelope.key),
        RecordField::Producer => text(record.producer()),
        RecordField::Id => text(&record.id()),
        RecordField::Sequence => i64::try_from(source.sequence.get())
            .map(Cell::Integer)
            .map_err(|_beyond| "is beyond 63 bits")?,
        RecordField::AppendedAt => Cell::Timestamp(source.appended_at),
        RecordField::Timestamp => {
            let micros = u64::try_from(record.timestamp()).ok();
            let micros = micros.and_then(|ms| ms.checked_mul(1_000));
            let time = micros.and_then(value::within);
            Cell::Timestamp(time.ok_or("must be from 1970 to the year 9999")?)
        }
    })
}
