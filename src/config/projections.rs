//! Projections of one's own, as they stand in the settings (PRJ-14, PRJ-19), and what of the
//! settings of projections cannot be.
//!
//! Knows the form of a declaration and nothing that is done with it.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::layers::{Origin, Problem};
use super::{Config, SETTINGS, Secret};

/// What the names of tables begin with that the node makes for itself.
const RESERVED: &str = "arqonbus_";
/// What the tables of PostgreSQL itself begin with, and the columns that every table has there.
const OF_POSTGRES: &str = "pg_";
const COLUMNS_OF_POSTGRES: [&str; 6] = ["tableoid", "ctid", "xmin", "cmin", "xmax", "cmax"];
/// The table of the older system, which projections of messages go on filling.
pub const MESSAGE_HISTORY: &str = "arqonbus_message_history";
/// The projection that the node always knows.
pub const CONTINUUM: &str = "continuum";
/// What the topics of dead letters begin with.
pub const DEAD_LETTERS: &str = "dlq.";
/// What the name of a table of dead letters ends with, after that of its projection's table.
pub const DEAD_LETTER_TABLE: &str = "_dlq";

/// Sinks add to the names of tables, and what they make of it must still fit 63 bytes.
const TABLE_BYTES_MAX: usize = 48;
const IDENTIFIER_BYTES_MAX: usize = 63;
const COLUMNS_MAX: usize = 100;
const KEY_MAX: usize = 8;
const TOPICS_MAX: usize = 64;
const ENTRIES_MAX: usize = 64;
const PATH_BYTES_MAX: usize = 255;
const PATH_DEPTH_MAX: usize = 32;
const TOPIC_BYTES_MAX: usize = 255;
const TOPIC_DEPTH_MAX: usize = 32;

/// Columns that every table of a declared projection has beside its own.
pub const COLUMNS_OF_THE_NODE: [&str; 4] = ["tenant_id", "deleted", "sequence", "event_id"];

/// A table that records of some topics fill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectionEntry {
    /// What the projection is called.
    pub name: String,
    /// Patterns of the topics that it reads.
    pub topics: Vec<String>,
    /// The reality whose records it reads.
    #[serde(default = "main")]
    pub reality: String,
    /// Name of the table; that of the projection if it is left out.
    #[serde(default)]
    pub table: Option<String>,
    /// The columns that tell rows apart, beside the tenant.
    pub key: Vec<String>,
    /// The columns.
    pub columns: Vec<ColumnEntry>,
    /// The column by which a later record is told from an earlier one; the order of the log if it
    /// is left out.
    #[serde(default)]
    pub order_by: Option<String>,
    /// Topic of what cannot be projected; `dlq.projection.<name>` if it is left out.
    #[serde(default)]
    pub dead_letters: Option<String>,
    /// Where the table is kept; in all sinks there are if it is left out.
    #[serde(default)]
    pub sinks: Vec<TableSink>,
}

/// A column of such a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnEntry {
    /// What it is called.
    pub name: String,
    /// Where its value is found: a path in the payload, or one of [`RecordField`]; the column's name if
    /// it is left out.
    #[serde(default)]
    pub from: Option<String>,
    /// What it holds.
    #[serde(rename = "type")]
    pub kind: ColumnType,
    /// Whether a record without it is a dead letter.
    #[serde(default)]
    pub required: bool,
}

impl ColumnEntry {
    /// Where its value is found.
    #[must_use]
    pub fn source(&self) -> &str {
        self.from.as_deref().unwrap_or(&self.name)
    }
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// A text.
    Text,
    /// A whole number of 64 bits, or its digits as a text.
    Integer,
    /// A number, or one written as a text.
    Float,
    /// True or false.
    Boolean,
    /// A time as RFC 3339 writes it.
    Timestamp,
    /// A time in milliseconds since the Unix epoch.
    TimestampMs,
    /// A time in seconds since the Unix epoch.
    TimestampS,
    /// Anything.
    Json,
    /// Bytes, in base64 in the payload.
    Bytes,
}

impl ColumnType {
    const fn is_time(self) -> bool {
        matches!(self, Self::Timestamp | Self::TimestampMs | Self::TimestampS)
    }

    /// Whether rows can be told apart by it.
    const fn is_of_key(self) -> bool {
        matches!(self, Self::Text | Self::Integer) || self.is_time()
    }

    /// Whether records can be ordered by it.
    const fn is_ordered(self) -> bool {
        self.is_of_key() || matches!(self, Self::Float)
    }
}

/// What of a record a column can hold beside its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordField {
    /// `$topic`: the topic.
    Topic,
    /// `$key`: the key of the envelope.
    Key,
    /// `$id`: the id of the event.
    Id,
    /// `$sequence`: where it stands in the log.
    Sequence,
    /// `$appended_at`: when the log took it.
    AppendedAt,
    /// `$producer`: who says so.
    Producer,
    /// `$timestamp`: when its producer says that it was.
    Timestamp,
}

impl RecordField {
    const ALL: [(&'static str, Self); 7] = [
        ("$topic", Self::Topic),
        ("$key", Self::Key),
        ("$id", Self::Id),
        ("$sequence", Self::Sequence),
        ("$appended_at", Self::AppendedAt),
        ("$producer", Self::Producer),
        ("$timestamp", Self::Timestamp),
    ];

    /// The one of that name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|(one, _)| *one == name).map(|(_, origin)| origin)
    }

    const fn kind(self) -> ColumnType {
        match self {
            Self::Topic | Self::Key | Self::Id | Self::Producer => ColumnType::Text,
            Self::Sequence => ColumnType::Integer,
            Self::AppendedAt | Self::Timestamp => ColumnType::Timestamp,
        }
    }
}

/// Where a table can be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableSink {
    /// In the node's data directory.
    Sled,
    /// In PostgreSQL.
    Postgres,
}

/// Messages of some topics, kept as the older system kept its history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageEntry {
    /// What the projection is called.
    #[serde(default = "messages")]
    pub name: String,
    /// Patterns of the topics that it reads.
    pub topics: Vec<String>,
    /// The reality whose records it reads.
    #[serde(default = "main")]
    pub reality: String,
    /// Name of the table; that of the older system if it is left out.
    #[serde(default = "message_history")]
    pub table: String,
    /// Whether the encoded envelope is kept beside its JSON.
    #[serde(default = "yes")]
    pub proto: bool,
    /// Topic of what cannot be projected; `dlq.projection.<name>` if it is left out.
    #[serde(default)]
    pub dead_letters: Option<String>,
    /// Where they are kept; in all sinks there are if it is left out.
    #[serde(default)]
    pub sinks: Vec<MessageSink>,
}

/// Where messages can be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageSink {
    /// In the node's data directory.
    Sled,
    /// In PostgreSQL.
    Postgres,
    /// As entries of streams.
    Valkey,
}

impl ProjectionEntry {
    /// Name of its table.
    #[must_use]
    pub fn table(&self) -> &str {
        self.table.as_deref().unwrap_or(&self.name)
    }

    /// Topic of its dead letters.
    #[must_use]
    pub fn dead_letter_topic(&self) -> String {
        dead_letter_topic(self.dead_letters.as_deref(), &self.name)
    }
}

impl MessageEntry {
    /// Topic of its dead letters.
    #[must_use]
    pub fn dead_letter_topic(&self) -> String {
        dead_letter_topic(self.dead_letters.as_deref(), &self.name)
    }
}

fn dead_letter_topic(given: Option<&str>, name: &str) -> String {
    let of_name = || format!("{DEAD_LETTERS}projection.{name}");
    given.map_or_else(of_name, str::to_owned)
}

fn main() -> String {
    "main".to_owned()
}

fn messages() -> String {
    "messages".to_owned()
}

fn message_history() -> String {
    MESSAGE_HISTORY.to_owned()
}

const fn yes() -> bool {
    true
}

/// Everything that is wrong with the settings of projections and their sinks; `origin` says where
/// a setting was given.
pub(super) fn problems(config: &Config, origins: &[Origin]) -> Vec<Problem> {
    let mut review = Review {
        origins,
        wrong: Vec::new(),
    };
    let schemes = ["postgres", "postgresql"];
    review.url("postgres.url", config.postgres.url.as_ref(), &schemes);
    let schemes = ["valkey", "valkeys", "redis", "rediss"];
    review.url("valkey.url", config.valkey.url.as_ref(), &schemes);
    review.projections(config);
    review.wrong
}

struct Review<'a> {
    origins: &'a [Origin],
    wrong: Vec<Problem>,
}

impl Review<'_> {
    fn wrong(&mut self, field: String, found: &str, wanted: impl Into<String>) {
        let setting = SETTINGS.iter().position(|setting| {
            let rest = field.strip_prefix(&setting.key());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.']))
        });
        let origin = setting.and_then(|at| self.origins.get(at)).cloned();
        self.wrong.push(Problem::Value {
            key: field,
            origin: origin.unwrap_or(Origin::Default),
            found: found.chars().take(80).collect(),
            wanted: wanted.into(),
        });
    }

    fn url(&mut self, setting: &str, url: Option<&Secret>, schemes: &[&str]) {
        let fits = |url: &Secret| {
            let parts = url.reveal().split_once("://");
            parts.is_some_and(|(scheme, rest)| schemes.contains(&scheme) && !rest.is_empty())
        };
        if let Some(url) = url.filter(|url| !fits(url)) {
            let all: Vec<String> = schemes.iter().map(|one| format!("{one}://")).collect();
            let wanted = format!("must be a URL that begins with {}", all.join(" or "));
            self.wrong(setting.to_owned(), &format!("{url:?}"), wanted);
        }
    }

    fn projections(&mut self, config: &Config) {
        let settings = &config.projections;
        for (setting, found) in [
            ("projections.own", settings.own.len()),
            ("projections.messages", settings.messages.len()),
        ] {
            if found > ENTRIES_MAX {
                let wanted = format!("must not be more than {ENTRIES_MAX}");
                self.wrong(setting.to_owned(), &format!("{found} entries"), wanted);
                return;
            }
        }
        let mut taken = Taken::default();
        for (at, entry) in settings.own.iter().enumerate() {
            let field = format!("projections.own[{at}]");
            self.entry(&field, entry, &mut taken);
            if entry.sinks.contains(&TableSink::Postgres) && config.postgres.url.is_none() {
                self.sink(&field, "postgres");
            }
        }
        for (at, entry) in settings.messages.iter().enumerate() {
            let field = format!("projections.messages[{at}]");
            self.name(&field, &entry.name, &mut taken);
            self.reading(&field, &entry.topics, &entry.reality);
            if entry.table == MESSAGE_HISTORY {
                self.free_table(&field, &entry.table, &mut taken);
            } else {
                self.table(&field, &entry.table, &mut taken);
            }
            self.dead_letters(&field, &entry.dead_letter_topic(), &mut taken);
            for (sink, is_there) in [
                (MessageSink::Postgres, config.postgres.url.is_some()),
                (MessageSink::Valkey, config.valkey.url.is_some()),
            ] {
                if entry.sinks.contains(&sink) && !is_there {
                    let name = match sink {
                        MessageSink::Sled => "sled",
                        MessageSink::Postgres => "postgres",
                        MessageSink::Valkey => "valkey",
                    };
                    self.sink(&field, name);
                }
            }
        }
    }

    fn sink(&mut self, field: &str, sink: &str) {
        let wanted = format!("needs {sink}.url; set it, or leave this sink out");
        self.wrong(format!("{field}.sinks"), sink, wanted);
    }

    fn name(&mut self, field: &str, name: &str, taken: &mut Taken) {
        let field = format!("{field}.name");
        if !is_name(name) {
            let wanted = "must be 1 to 48 of a-z 0-9 _ -, the first a letter";
            self.wrong(field, name, wanted);
        } else if name == CONTINUUM {
            self.wrong(field, name, "is the node's own; choose another name");
        } else if !taken.names.insert(name.to_owned()) {
            let wanted = "is there twice; every projection needs a name of its own";
            self.wrong(field, name, wanted);
        }
    }

    fn table(&mut self, field: &str, table: &str, taken: &mut Taken) {
        let named = format!("{field}.table");
        if !is_identifier(table, TABLE_BYTES_MAX) {
            let wanted = format!(
                "must be 1 to {TABLE_BYTES_MAX} of a-z 0-9 _, the first a letter; give one if the projection's name is none"
            );
            self.wrong(named, table, wanted);
        } else if table.starts_with(RESERVED) || table.starts_with(OF_POSTGRES) {
            let wanted = format!(
                "must not begin with {RESERVED}, which is for the node's own, nor with {OF_POSTGRES}, which is for PostgreSQL's"
            );
            self.wrong(named, table, wanted);
        } else {
            self.free_table(field, table, taken);
        }
    }

    /// The table of the dead letters, too, must be no other's.
    fn free_table(&mut self, field: &str, table: &str, taken: &mut Taken) {
        let dead = format!("{table}{DEAD_LETTER_TABLE}");
        if !taken.tables.insert(table.to_owned()) || !taken.tables.insert(dead) {
            let wanted = format!(
                "is there twice; every projection needs a table of its own, and one of the same name and {DEAD_LETTER_TABLE}"
            );
            self.wrong(format!("{field}.table"), table, wanted);
        }
    }

    fn dead_letters(&mut self, field: &str, topic: &str, taken: &mut Taken) {
        let field = format!("{field}.dead_letters");
        let fault = pattern_fault(topic);
        if fault.is_some() || !topic.starts_with(DEAD_LETTERS) || topic.contains(['*', '>']) {
            let wanted = format!("must be a topic that begins with {DEAD_LETTERS}");
            self.wrong(field, topic, wanted);
        } else if !taken.topics.insert(topic.to_owned()) {
            let wanted = "is there twice; every projection needs a topic of its own";
            self.wrong(field, topic, wanted);
        }
    }

    fn reading(&mut self, field: &str, topics: &[String], reality: &str) {
        if topics.is_empty() || topics.len() > TOPICS_MAX {
            let wanted = format!("must be 1 to {TOPICS_MAX} patterns, such as [\"quake.>\"]");
            let found = format!("{} patterns", topics.len());
            self.wrong(format!("{field}.topics"), &found, wanted);
        }
        for (at, topic) in topics.iter().enumerate().take(TOPICS_MAX) {
            if let Some(fault) = pattern_fault(topic) {
                self.wrong(format!("{field}.topics[{at}]"), topic, fault);
            } else if topic.starts_with(DEAD_LETTERS) {
                let wanted = "is for dead letters, which their own projection keeps in a table";
                self.wrong(format!("{field}.topics[{at}]"), topic, wanted);
            }
        }
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = reality
            .bytes()
            .enumerate()
            .all(|(at, byte)| plain(byte) || (at > 0 && matches!(byte, b'_' | b'-')));
        if reality.is_empty() || reality.len() > IDENTIFIER_BYTES_MAX || !fits {
            let wanted = "must be the name of a reality";
            self.wrong(format!("{field}.reality"), reality, wanted);
        }
    }

    fn entry(&mut self, field: &str, entry: &ProjectionEntry, taken: &mut Taken) {
        self.name(field, &entry.name, taken);
        self.reading(field, &entry.topics, &entry.reality);
        self.table(field, entry.table(), taken);
        self.dead_letters(field, &entry.dead_letter_topic(), taken);
        let found = entry.columns.len();
        if found == 0 || found > COLUMNS_MAX {
            let wanted = format!("must be 1 to {COLUMNS_MAX} columns");
            let found = format!("{found} columns");
            self.wrong(format!("{field}.columns"), &found, wanted);
        }
        let mut names = HashSet::new();
        for (at, column) in entry.columns.iter().enumerate().take(COLUMNS_MAX) {
            let field = format!("{field}.columns[{at}]");
            self.column(&field, column);
            if !names.insert(column.name.as_str()) {
                self.wrong(format!("{field}.name"), &column.name, "is there twice");
            }
        }
        self.key(field, entry);
        if let Some(name) = &entry.order_by {
            let field = format!("{field}.order_by");
            match entry.columns.iter().find(|column| column.name == *name) {
                None => self.wrong(field, name, "must be one of the columns"),
                Some(column) if !column.kind.is_ordered() => {
                    let wanted = "must be a column with a time, a number or a text";
                    self.wrong(field, name, wanted);
                }
                Some(column) if !is_there(column) => {
                    self.wrong(field, name, "must be a column with required = true");
                }
                Some(_) => {}
            }
        }
    }

    fn key(&mut self, field: &str, entry: &ProjectionEntry) {
        let field = format!("{field}.key");
        if entry.key.is_empty() || entry.key.len() > KEY_MAX {
            let found = format!("{} columns", entry.key.len());
            let wanted = format!("must name 1 to {KEY_MAX} of the columns");
            self.wrong(field, &found, wanted);
            return;
        }
        for (at, name) in entry.key.iter().enumerate() {
            let field = format!("{field}[{at}]");
            let column = entry.columns.iter().find(|column| column.name == *name);
            match column {
                _ if entry.key[..at].contains(name) => self.wrong(field, name, "is there twice"),
                None => self.wrong(field, name, "must be one of the columns"),
                Some(column) if !column.kind.is_of_key() => {
                    let wanted = "must be a column with a text, a whole number or a time";
                    self.wrong(field, name, wanted);
                }
                Some(column) if !is_there(column) => {
                    self.wrong(field, name, "must be a column with required = true");
                }
                Some(_) => {}
            }
        }
    }

    fn column(&mut self, field: &str, column: &ColumnEntry) {
        let name = &column.name;
        if COLUMNS_OF_POSTGRES.contains(&name.as_str()) {
            let wanted = "is a column that PostgreSQL has in every table; choose another name";
            self.wrong(format!("{field}.name"), name, wanted);
        } else if COLUMNS_OF_THE_NODE.contains(&name.as_str()) {
            let wanted = "is a column that the node fills itself; choose another name";
            self.wrong(format!("{field}.name"), name, wanted);
        } else if !is_identifier(name, IDENTIFIER_BYTES_MAX) {
            let wanted =
                format!("must be 1 to {IDENTIFIER_BYTES_MAX} of a-z 0-9 _, the first a letter");
            self.wrong(format!("{field}.name"), name, wanted);
        } else if name.starts_with(RESERVED) {
            let wanted = format!("must not begin with {RESERVED}, which is for the node's own");
            self.wrong(format!("{field}.name"), name, wanted);
        }
        let source = column.source();
        if !source.starts_with('$') {
            let depth = source.split('.').count();
            let fits = source.len() <= PATH_BYTES_MAX && depth <= PATH_DEPTH_MAX;
            if !fits || source.split('.').any(str::is_empty) {
                let wanted = format!(
                    "must be a path such as properties.mag or coordinates.0, of at most {PATH_BYTES_MAX} bytes and {PATH_DEPTH_MAX} parts"
                );
                self.wrong(format!("{field}.from"), source, wanted);
            }
            return;
        }
        match RecordField::of(source) {
            None => {
                let names: Vec<&str> = RecordField::ALL.iter().map(|(name, _)| *name).collect();
                let wanted = format!("must be a path, or one of {}", names.join(", "));
                self.wrong(format!("{field}.from"), source, wanted);
            }
            Some(origin) if origin.kind() != column.kind => {
                let wanted = match origin.kind() {
                    ColumnType::Integer => "must be integer, as what it is taken from",
                    ColumnType::Timestamp => "must be timestamp, as what it is taken from",
                    _ => "must be text, as what it is taken from",
                };
                self.wrong(format!("{field}.type"), source, wanted);
            }
            Some(_) => {}
        }
    }
}

/// What must be there once.
#[derive(Default)]
struct Taken {
    names: HashSet<String>,
    tables: HashSet<String>,
    topics: HashSet<String>,
}

/// Whether a column has a value in every row.
fn is_there(column: &ColumnEntry) -> bool {
    column.required
        || RecordField::of(column.source())
            .is_some_and(|origin| !matches!(origin, RecordField::Key | RecordField::Producer))
}

fn is_name(name: &str) -> bool {
    is_identifier(&name.replace('-', "_"), TABLE_BYTES_MAX)
}

fn is_identifier(name: &str, bytes_max: usize) -> bool {
    name.len() <= bytes_max
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// What is wrong with the form of a pattern of topics. Whoever listens to it checks it once more.
fn pattern_fault(text: &str) -> Option<&'static str> {
    let tokens = || text.split('.');
    if text.is_empty() || tokens().any(str::is_empty) {
        return Some("must be tokens with dots between them, none of them empty");
    }
    if text.len() > TOPIC_BYTES_MAX || tokens().count() > TOPIC_DEPTH_MAX {
        return Some("must not have more than 255 bytes and 32 tokens");
    }
    let last = tokens().count() - 1;
    let fits = |(at, token): (usize, &str)| match token {
        "*" => true,
        ">" => at == last,
        plain => plain
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_~:@+=-".contains(&byte)),
    };
    (!tokens().enumerate().all(fits)).then_some(
        "must be made of A-Z a-z 0-9 _ ~ : @ + = -, or `*` alone in a token, or `>` alone at the end",
    )
}

#[cfg(test)]
mod tests;
