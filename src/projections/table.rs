//! Tables as projections see them: columns, rows, keys, versions. Every sink keeps the same ones.
//!
//! A row has one canonical encoding, so that two sinks, or a table and a fold of the log, can be
//! compared by a hash (PRJ-07, PRJ-18). Knows no sink and no log.

use std::cmp::Ordering;
use std::fmt;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::codec::{encode, encode_each};
use crate::log::Micros;

/// Type of a column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// UTF-8 without NUL, which Postgres cannot store.
    Text,
    /// 64 bits, signed.
    Integer,
    /// Double precision.
    Float,
    /// True or false.
    Boolean,
    /// Microseconds since the Unix epoch, in UTC.
    Timestamp,
    /// A JSON text. Its canonical form has sorted keys and no spaces.
    Json,
    /// Bytes.
    Bytes,
}

/// A column of a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    /// Its name: lower-case letters, digits and `_`.
    pub name: String,
    /// Its type.
    pub kind: Kind,
    /// Whether a row can be without a value in it.
    pub nullable: bool,
}

impl Column {
    /// One that always has a value.
    #[must_use]
    pub fn new(name: &str, kind: Kind) -> Self {
        let (name, nullable) = (name.to_owned(), false);
        Self {
            name,
            kind,
            nullable,
        }
    }

    /// One that can be empty.
    #[must_use]
    pub fn nullable(name: &str, kind: Kind) -> Self {
        Self {
            nullable: true,
            ..Self::new(name, kind)
        }
    }
}

/// Which of two records for one key decides a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rule {
    /// The first one; later ones are duplicates.
    First,
    /// The one with the greatest version: the values of these columns, compared in order. One with
    /// the same version is a duplicate, one with a lesser version is stale (PRJ-03).
    Newest(Vec<usize>),
}

/// A table: what a projection keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// Its name: lower-case letters, digits and `_`.
    pub name: String,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// The columns that tell rows apart. The first of all columns is `tenant_id`, a text, and
    /// always part of the key (PRJ-10).
    pub key: Vec<usize>,
    /// Which record decides a row.
    pub rule: Rule,
    /// A column that the fold fills with what became of the record ([`super::fold::Outcome`]), if
    /// there is one; a text.
    pub outcome: Option<usize>,
}

impl Table {
    /// The key of a row of this table.
    ///
    /// # Panics
    /// If the row is not of this table.
    #[must_use]
    pub fn key_of(&self, row: &Row) -> Key {
        Key(self.pick(&self.key, row))
    }

    /// The canonical encoding of the key of a row of this table, as [`Key::encoded`] gives it.
    ///
    /// # Panics
    /// If the row is not of this table.
    #[must_use]
    pub fn encoded_key_of(&self, row: &Row) -> Vec<u8> {
        assert_eq!(row.0.len(), self.columns.len(), "a row of {}", self.name);
        encode_each(self.key.iter().map(|&at| &row.0[at]))
    }

    /// The columns that say which record made a row: those of its version, or, where the first record
    /// decides, one called `sequence`, if there is one.
    #[must_use]
    pub fn made_by(&self) -> Vec<usize> {
        match &self.rule {
            Rule::First => self.column("sequence").into_iter().collect(),
            Rule::Newest(columns) => columns.clone(),
        }
    }

    /// Which record made a row of this table: the values of [`Table::made_by`].
    #[must_use]
    pub fn version_of(&self, row: &Row) -> Version {
        Version(self.pick(&self.made_by(), row))
    }

    fn pick(&self, columns: &[usize], row: &Row) -> Vec<Cell> {
        assert_eq!(row.0.len(), self.columns.len(), "a row of {}", self.name);
        columns.iter().map(|&at| row.0[at].clone()).collect()
    }

    /// Place of the column called `name`.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}

/// A value, or none.
#[derive(Clone, PartialEq, Debug)]
pub enum Cell {
    /// None.
    Null,
    /// See [`Kind::Text`].
    Text(String),
    /// See [`Kind::Integer`].
    Integer(i64),
    /// See [`Kind::Float`]; never NaN.
    Float(f64),
    /// See [`Kind::Boolean`].
    Boolean(bool),
    /// See [`Kind::Timestamp`].
    Timestamp(Micros),
    /// See [`Kind::Json`]; always in its canonical form.
    Json(String),
    /// See [`Kind::Bytes`].
    Bytes(Bytes),
}

impl Cell {
    /// Its type, if it is not empty.
    #[must_use]
    pub const fn kind(&self) -> Option<Kind> {
        Some(match self {
            Self::Null => return None,
            Self::Text(_) => Kind::Text,
            Self::Integer(_) => Kind::Integer,
            Self::Float(_) => Kind::Float,
            Self::Boolean(_) => Kind::Boolean,
            Self::Timestamp(_) => Kind::Timestamp,
            Self::Json(_) => Kind::Json,
            Self::Bytes(_) => Kind::Bytes,
        })
    }

    /// The text in it, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Json(text) => Some(text),
            _ => None,
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// Why a row does not fit its table.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Misfit {
    /// A column that needs a value has none.
    #[error("{column} is missing")]
    Missing {
        /// Which.
        column: String,
    },
    /// A value is of another type than its column.
    #[error("{column} must be of type {wanted:?}")]
    Kind {
        /// Which.
        column: String,
        /// Type of the column.
        wanted: Kind,
    },
    /// A text holds a NUL, which not every sink can store.
    #[error("{column} holds a NUL character")]
    Nul {
        /// Which.
        column: String,
    },
    /// Part of a key or version is longer than indexes take.
    #[error("{column} is longer than {} bytes", KEY_BYTES_MAX)]
    KeyTooLong {
        /// Which.
        column: String,
    },
    /// A number is not one.
    #[error("{column} is not a number")]
    NotANumber {
        /// Which.
        column: String,
    },
}

impl Misfit {
    /// The column that is wrong.
    #[must_use]
    pub fn column(&self) -> &str {
        match self {
            Self::Missing { column }
            | Self::Kind { column, .. }
            | Self::Nul { column }
            | Self::KeyTooLong { column }
            | Self::NotANumber { column } => column,
        }
    }
}

/// Most bytes of a text in a key or version: what fits an index of any sink, with the others
/// beside it.
pub const KEY_BYTES_MAX: usize = 512;

/// A row: a value for each column of its table.
#[derive(Clone, PartialEq, Debug)]
pub struct Row(pub Vec<Cell>);

impl Row {
    /// Checks that every sink can store it, so that what one of them takes all of them take.
    ///
    /// # Errors
    /// It cannot be a row of `table`.
    ///
    /// # Panics
    /// If it has not as many values as `table` has columns.
    pub fn check(&self, table: &Table) -> Result<(), Misfit> {
        assert_eq!(self.0.len(), table.columns.len(), "a row of {}", table.name);
        let versions = match &table.rule {
            Rule::First => &[][..],
            Rule::Newest(columns) => columns,
        };
        for (at, (cell, column)) in self.0.iter().zip(&table.columns).enumerate() {
            let named = || column.name.clone();
            let in_index = table.key.contains(&at) || versions.contains(&at);
            match cell.kind() {
                None if column.nullable && !in_index => {}
                None => return Err(Misfit::Missing { column: named() }),
                Some(kind) if kind == column.kind => {}
                Some(_) => {
                    let wanted = column.kind;
                    return Err(Misfit::Kind {
                        column: named(),
                        wanted,
                    });
                }
            }
            match cell {
                Cell::Text(text) if text.contains('\0') => {
                    return Err(Misfit::Nul { column: named() });
                }
                Cell::Json(text) if text.contains("\\u0000") && holds_nul(text) => {
                    return Err(Misfit::Nul { column: named() });
                }
                Cell::Text(text) if in_index && text.len() > KEY_BYTES_MAX => {
                    return Err(Misfit::KeyTooLong { column: named() });
                }
                Cell::Float(number) if number.is_nan() => {
                    return Err(Misfit::NotANumber { column: named() });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// SHA-256 of its canonical encoding: the same row has the same hash in every sink.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(encode(&self.0)).into()
    }
}

/// Whether a string in a canonical JSON text holds a NUL; `\\u0000` alone may be an escaped
/// backslash before digits.
fn holds_nul(json: &str) -> bool {
    let mut escaped = false;
    for (at, byte) in json.bytes().enumerate() {
        match byte {
            b'\\' if !escaped => escaped = true,
            b'u' if escaped && json.as_bytes()[at..].starts_with(b"u0000") => return true,
            _ => escaped = false,
        }
    }
    false
}

/// Values of a table's key columns.
#[derive(Clone, PartialEq, Debug)]
pub struct Key(pub Vec<Cell>);

/// Values of a table's version columns.
#[derive(Clone, PartialEq, Debug)]
pub struct Version(pub Vec<Cell>);

impl Key {
    /// Its canonical encoding; keys are ordered as their encodings are.
    #[must_use]
    pub fn encoded(&self) -> Vec<u8> {
        encode(&self.0)
    }
}

impl PartialOrd for Version {
    /// As the encodings are ordered: times and numbers by size, texts byte by byte.
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(encode(&self.0).cmp(&encode(&other.0)))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, cell) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("/")?;
            }
            match cell {
                Cell::Null => f.write_str("-"),
                Cell::Text(text) | Cell::Json(text) => f.write_str(text),
                Cell::Integer(number) => write!(f, "{number}"),
                Cell::Float(number) => write!(f, "{number}"),
                Cell::Boolean(flag) => write!(f, "{flag}"),
                Cell::Timestamp(time) => f.write_str(&crate::proto::json::micros(time.0)),
                Cell::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            }?;
        }
        Ok(())
    }
}
