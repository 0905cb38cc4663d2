//! What a projection keeps in Valkey: the part of a row that is hot, or entries of a stream.
//!
//! A mapping names a table and columns of it; `Plan` is what becomes of it beside the tables of a
//! projection. Tables without a mapping are not kept here. Knows no connection.

use std::time::Duration;

use super::cells;
use super::key::ValkeyKey;
use crate::projections::presence;
use crate::projections::projection::Projection;
use crate::projections::sink::Place;
use crate::projections::table::{Cell, Kind, Row, Rule, Table};

/// How long something is kept in the cache, if nothing else is said.
pub const TTL: Duration = Duration::from_hours(24);
/// Least time that something can be kept.
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// Most time that something can be kept; hot state is not an archive.
pub const TTL_MAX: Duration = Duration::from_hours(30 * 24);
/// Most entries of a stream, whatever is configured.
pub const STREAM_LEN_MAX: u64 = 10_000_000;

/// What a projection keeps of one of its tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mapping {
    /// A hash for each row.
    Cache(Cache),
    /// An entry for each row.
    Stream(Stream),
}

/// Rows as hashes, one for each agent and episode, gone after a while.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cache {
    /// Name of the table. Its key is its tenant, the agent and the episode.
    pub table: String,
    /// Column that names the episode.
    pub episode: String,
    /// Column that names the agent.
    pub agent: String,
    /// Columns that are kept. JSON and bytes cannot be: no bodies.
    pub columns: Vec<String>,
    /// Tells the hashes of this projection from those of others; none two have the same.
    pub view: Option<String>,
    /// Under which names they are.
    pub family: Family,
    /// How long a row is kept after it was written.
    pub ttl: Duration,
}

/// The names of hashes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// Of an episode of an agent.
    Episodes,
    /// Of where an agent is.
    Presence,
}

/// Rows as entries of a stream for each tenant, with the sequence of the record as their id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stream {
    /// Name of the table, whose first row decides.
    pub table: String,
    /// Column with the sequence of the record: an integer.
    pub sequence: String,
    /// Columns that are fields of an entry.
    pub columns: Vec<String>,
    /// What the stream is called; none two have the same.
    pub name: String,
    /// About how many entries are kept.
    pub len_max: u64,
    /// How long the stream is kept after its last entry; `None`: for ever.
    pub ttl: Option<Duration>,
}

impl Mapping {
    /// The hot part of episodes: what points to them, and their newest event. Their text, tags and
    /// metadata stay where they are.
    #[must_use]
    pub fn episodes(table: &str, ttl: Duration) -> Self {
        let columns = [
            "event_type",
            "content_ref",
            "embedding_ref",
            "last_event_id",
            "last_event_ts",
            "deleted",
            "last_sequence",
        ];
        Self::Cache(Cache {
            table: table.to_owned(),
            episode: "episode_id".to_owned(),
            agent: "agent_id".to_owned(),
            columns: columns.map(str::to_owned).to_vec(),
            view: None,
            family: Family::Episodes,
            ttl,
        })
    }

    /// Who is where: a hash for each member of a channel, under its subject's name.
    #[must_use]
    pub fn presence(table: &str, ttl: Duration) -> Self {
        let columns = ["room", "channel", "member", "since", "sequence"];
        Self::Cache(Cache {
            table: table.to_owned(),
            episode: presence::PLACE.to_owned(),
            agent: presence::SUBJECT.to_owned(),
            columns: columns.map(str::to_owned).to_vec(),
            view: None,
            family: Family::Presence,
            ttl,
        })
    }

    /// Messages as entries of a stream: where each stands, and what it says to people.
    #[must_use]
    pub fn messages(table: &str, name: &str, len_max: u64) -> Self {
        let columns = [
            "message_id",
            "topic",
            "room",
            "channel",
            "sender",
            "stored_at",
            "envelope",
        ];
        Self::Stream(Stream {
            table: table.to_owned(),
            sequence: "sequence".to_owned(),
            columns: columns.map(str::to_owned).to_vec(),
            name: name.to_owned(),
            len_max,
            ttl: None,
        })
    }

    fn table(&self) -> &str {
        match self {
            Self::Cache(cache) => &cache.table,
            Self::Stream(stream) => &stream.table,
        }
    }

    /// How long its keys are kept.
    pub(super) const fn ttl(&self) -> Option<Duration> {
        match self {
            Self::Cache(cache) => Some(cache.ttl),
            Self::Stream(stream) => stream.ttl,
        }
    }
}

/// Why mappings cannot be followed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MappingFault {
    /// The projection has no such table.
    #[error("projection {projection} has no table {table}; name one that it keeps")]
    NoTable {
        /// Which projection.
        projection: String,
        /// Which table.
        table: String,
    },
    /// The table has no such column.
    #[error("table {table} has no column {column}; name one that it has")]
    NoColumn {
        /// Which table.
        table: String,
        /// Which column.
        column: String,
    },
    /// The column's values are not for this.
    #[error("{table}.{column} cannot be kept in Valkey as {what}: its type is {kind:?}")]
    Kind {
        /// Which table.
        table: String,
        /// Which column.
        column: String,
        /// As what.
        what: &'static str,
        /// The column's type.
        kind: Kind,
    },
    /// Two rows would have the same key.
    #[error("the key of table {table} must be its tenant, {agent} and {episode}, and no more")]
    Key {
        /// Which table.
        table: String,
        /// The column that names the agent.
        agent: String,
        /// The column that names the episode.
        episode: String,
    },
    /// A stream cannot replace what is in it.
    #[error("table {table} replaces its rows, and a stream cannot; keep it as a cache")]
    Replaces {
        /// Which table.
        table: String,
    },
    /// A table is mapped twice.
    #[error("table {table} is mapped to Valkey twice; leave one of them out")]
    Twice {
        /// Which table.
        table: String,
    },
}

/// What becomes of the rows of a table.
#[derive(Debug)]
pub(super) enum Part<'a> {
    Hash(HashPart<'a>),
    Entry(EntryPart<'a>),
}

/// A [`Cache`] beside its table.
#[derive(Debug)]
pub(super) struct HashPart<'a> {
    pub(super) table: &'a Table,
    episode: usize,
    agent: usize,
    view: Option<&'a str>,
    family: Family,
    pub(super) ttl: Duration,
    /// Columns that decide, in order; none where the first row does.
    pub(super) version: &'a [usize],
    /// Columns that are kept, those that decide first.
    pub(super) columns: Vec<usize>,
}

impl HashPart<'_> {
    /// How the script compares the fields that decide.
    pub(super) fn orders(&self) -> String {
        let kinds = self.version.iter().map(|&at| self.table.columns[at].kind);
        kinds.filter_map(cells::order).collect()
    }

    /// Name of the hash of a row, from the values of all of its columns.
    pub(super) fn key_of_row<'a>(
        &'a self,
        place: &'a Place,
        row: &'a Row,
    ) -> Option<ValkeyKey<'a>> {
        self.key(
            place,
            row.0.first()?,
            &row.0[self.agent],
            &row.0[self.episode],
        )
    }

    /// Name of the hash of a row, from the values of its key.
    pub(super) fn key_of_key<'a>(
        &'a self,
        place: &'a Place,
        cells: &'a [Cell],
    ) -> Option<ValkeyKey<'a>> {
        let at = |column| {
            let at = self.table.key.iter().position(|key| *key == column)?;
            cells.get(at)
        };
        self.key(place, at(0)?, at(self.agent)?, at(self.episode)?)
    }

    /// `None` for a row that is not the tenant's.
    fn key<'a>(
        &'a self,
        place: &'a Place,
        tenant: &Cell,
        agent: &'a Cell,
        episode: &'a Cell,
    ) -> Option<ValkeyKey<'a>> {
        if tenant.text()? != place.tenant {
            return None;
        }
        let (tenant, agent, name) = (&*place.tenant, agent.text()?, episode.text()?);
        Some(match self.family {
            Family::Episodes => ValkeyKey::Cache {
                tenant,
                episode: name,
                agent,
                view: self.view,
            },
            Family::Presence => ValkeyKey::Presence {
                tenant,
                agent,
                name,
            },
        })
    }
}

/// A [`Stream`] beside its table.
#[derive(Debug)]
pub(super) struct EntryPart<'a> {
    pub(super) table: &'a Table,
    pub(super) sequence: usize,
    pub(super) name: &'a str,
    pub(super) len_max: u64,
    pub(super) ttl: Option<Duration>,
    pub(super) columns: Vec<usize>,
}

/// For each table of a projection what becomes of its rows, if anything does.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) parts: Vec<Option<Part<'a>>>,
}

impl<'a> Plan<'a> {
    pub(super) fn of(
        projection: &'a dyn Projection,
        mappings: &'a [Mapping],
    ) -> Result<Self, MappingFault> {
        let tables = projection.tables();
        let mut parts: Vec<_> = tables.iter().map(|_| None).collect();
        for mapping in mappings {
            let name = mapping.table();
            let at = tables.iter().position(|table| table.name == name);
            let at = at.ok_or_else(|| MappingFault::NoTable {
                projection: projection.name().to_owned(),
                table: name.to_owned(),
            })?;
            let part = match mapping {
                Mapping::Cache(cache) => Part::Hash(hash_part(&tables[at], cache)?),
                Mapping::Stream(stream) => Part::Entry(entry_part(&tables[at], stream)?),
            };
            if parts[at].replace(part).is_some() {
                let table = name.to_owned();
                return Err(MappingFault::Twice { table });
            }
        }
        Ok(Self { parts })
    }
}

fn hash_part<'a>(table: &'a Table, cache: &'a Cache) -> Result<HashPart<'a>, MappingFault> {
    let named = |what, name: &str, fits: fn(Kind) -> bool| column(table, what, name, fits);
    let text = |kind| kind == Kind::Text;
    let episode = named("an episode", &cache.episode, text)?;
    let agent = named("an agent", &cache.agent, text)?;
    let mut key = table.key.clone();
    key.sort_unstable();
    let mut wanted = vec![0, agent, episode];
    wanted.sort_unstable();
    if key != wanted {
        return Err(MappingFault::Key {
            table: table.name.clone(),
            agent: cache.agent.clone(),
            episode: cache.episode.clone(),
        });
    }
    let version = match &table.rule {
        Rule::First => &[][..],
        Rule::Newest(columns) => columns,
    };
    // Where the first row decides, a column that always has a value shows that there is one.
    let mut columns = Vec::new();
    if version.is_empty() {
        columns.push(agent);
    }
    for &at in version {
        let name = &table.columns[at].name;
        columns.push(named("a version", name, |kind| {
            cells::order(kind).is_some()
        })?);
    }
    for name in &cache.columns {
        let at = named("a value of a cache", name, |kind| {
            !matches!(kind, Kind::Json | Kind::Bytes)
        })?;
        if !columns.contains(&at) {
            columns.push(at);
        }
    }
    Ok(HashPart {
        table,
        episode,
        agent,
        family: cache.family,
        view: cache.view.as_deref(),
        ttl: cache.ttl,
        version,
        columns,
    })
}

fn entry_part<'a>(table: &'a Table, stream: &'a Stream) -> Result<EntryPart<'a>, MappingFault> {
    if table.rule != Rule::First {
        let table = table.name.clone();
        return Err(MappingFault::Replaces { table });
    }
    let sequence = column(table, "a sequence", &stream.sequence, |kind| {
        kind == Kind::Integer
    })?;
    // An entry without fields cannot be, and this one always has a value.
    let mut columns = vec![sequence];
    for name in &stream.columns {
        let at = column(table, "a field", name, |_| true)?;
        if !columns.contains(&at) {
            columns.push(at);
        }
    }
    Ok(EntryPart {
        table,
        sequence,
        name: &stream.name,
        len_max: stream.len_max,
        ttl: stream.ttl,
        columns,
    })
}

fn column(
    table: &Table,
    what: &'static str,
    name: &str,
    fits: impl Fn(Kind) -> bool,
) -> Result<usize, MappingFault> {
    let at = table.column(name).ok_or_else(|| MappingFault::NoColumn {
        table: table.name.clone(),
        column: name.to_owned(),
    })?;
    let kind = table.columns[at].kind;
    if fits(kind) {
        return Ok(at);
    }
    Err(MappingFault::Kind {
        table: table.name.clone(),
        column: name.to_owned(),
        what,
        kind,
    })
}
