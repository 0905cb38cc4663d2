//! The sink in a Valkey or Redis server: hot state, gone after a while, and streams for tools that
//! read there.
//!
//! - [`key`]: the names of keys, the only place that makes them.
//! - [`mapping`]: what a projection keeps here; tables that no mapping names are not.
//! - `server`: the connection, and all that is asked of it; `commit.lua` and `take.lua` run there.
//! - [`preflight`]: whether a server is fit.
//!
//! A server keeps its rows and the place of the projection behind them in one step, and loses them
//! together: on a restart without its data, at a failover to an older copy, or when their time is
//! over. Whoever holds the place then finds it taken, takes it again, and goes on from where it
//! stands, or from [`Sink::horizon`] where nothing is left. So nothing is missing that the server
//! promised to keep, but what it keeps may not survive the loss of power.

pub mod key;
pub mod mapping;
pub mod preflight;

mod batch;
mod cells;
mod server;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::future::BoxFuture;

use self::batch::{put_hashes, put_streams, strange};
use self::key::ValkeyKey;
use self::mapping::{Family, Mapping, MappingFault, Part, Plan, STREAM_LEN_MAX, TTL_MAX, TTL_MIN};
pub use self::server::{Address, AddressFault};
use self::server::{Committed, Server, millis, unfit};
use super::projection::Projection;
use super::sink::{
    Answer, Commit, Copy, Place, Position, Query, Question, Sink, SinkError, SinkKind,
};
use super::table::{Cell, Key, Row, Version};
use crate::log::Sequence;

/// What a reader is told who wants more than a cache can say.
const ONLY_A_CACHE: &str = "Valkey keeps a cache, of which rows are neither listed nor counted; ask the sled or the postgres sink";
/// What somebody is told who wants a second copy.
const NO_COPY: &str = "Valkey keeps a cache, of which there is one copy; rebuild the projection in the sled or the postgres sink, and the cache follows the log by itself";

/// What the sink is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the server is.
    pub address: Address,
    /// What each projection keeps there, by its name.
    pub mappings: HashMap<String, Vec<Mapping>>,
}

/// Why a sink cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OptionsFault {
    /// The address is none.
    #[error(transparent)]
    Address(#[from] AddressFault),
    /// Something would be kept too short or too long.
    #[error("{what} is kept for {} s; it must be {} s to {} s", .ttl.as_secs_f64(), TTL_MIN.as_secs(), TTL_MAX.as_secs())]
    Ttl {
        /// What.
        what: String,
        /// How long.
        ttl: Duration,
    },
    /// A stream would hold nothing, or too much.
    #[error(
        "stream {name} keeps {len_max} entries; it must be 1 to {}",
        STREAM_LEN_MAX
    )]
    Length {
        /// Which.
        name: String,
        /// How many.
        len_max: u64,
    },
    /// Two mappings would write the same keys.
    #[error("{what} is written by two mappings; give one of them another name")]
    Shared {
        /// What.
        what: String,
    },
}

/// The sink.
#[derive(Debug)]
pub struct ValkeySink {
    server: Server,
    mappings: HashMap<String, Vec<Mapping>>,
}

impl ValkeySink {
    /// A sink, not connected yet.
    ///
    /// # Errors
    /// `options` cannot be followed.
    pub fn new(options: Options) -> Result<Self, OptionsFault> {
        let mut seen = HashSet::new();
        for mapping in options.mappings.values().flatten() {
            let what = match mapping {
                Mapping::Cache(cache) => match (cache.family, &cache.view) {
                    (Family::Presence, _) => "presence".to_owned(),
                    (Family::Episodes, None) => "the cache of episodes".to_owned(),
                    (Family::Episodes, Some(view)) => format!("view {view} of episodes"),
                },
                Mapping::Stream(stream) => {
                    let (name, len_max) = (stream.name.clone(), stream.len_max);
                    if !(1..=STREAM_LEN_MAX).contains(&len_max) {
                        return Err(OptionsFault::Length { name, len_max });
                    }
                    format!("stream {name}")
                }
            };
            if let Some(ttl) = mapping
                .ttl()
                .filter(|ttl| !(TTL_MIN..=TTL_MAX).contains(ttl))
            {
                return Err(OptionsFault::Ttl { what, ttl });
            }
            if !seen.insert(what.clone()) {
                return Err(OptionsFault::Shared { what });
            }
        }
        Ok(Self {
            server: Server::new(&options.address)?,
            mappings: options.mappings,
        })
    }

    fn mappings(&self, projection: &str) -> &[Mapping] {
        self.mappings.get(projection).map_or(&[], Vec::as_slice)
    }

    fn plan<'a>(&'a self, projection: &'a dyn Projection) -> Result<Plan<'a>, SinkError> {
        let mappings = self.mappings(projection.name());
        if mappings.is_empty() {
            let name = projection.name();
            return Err(unfit(format!(
                "nothing says what projection {name} keeps in Valkey; map one of its tables"
            )));
        }
        Plan::of(projection, mappings).map_err(|fault: MappingFault| unfit(fault.to_string()))
    }

    /// How long a place is kept: as long as anything behind it.
    fn kept(&self, projection: &str) -> Duration {
        let mappings = self.mappings(projection).iter();
        let longest = mappings.map(|mapping| mapping.ttl().unwrap_or(TTL_MAX));
        longest.max().unwrap_or(mapping::TTL)
    }

    async fn take_now(&self, place: &Place) -> Result<Position, SinkError> {
        let kept = self.kept(&place.projection);
        let (epoch, next, hash) = self.server.take(&cursor(place)?, kept).await?;
        Ok(Position {
            next: next
                .map_or(Some(Sequence::FIRST), Sequence::new)
                .ok_or_else(no_place)?,
            epoch,
            hash: hash.map_or(Ok([0; 32]), |hash| hash_of(&hash))?,
        })
    }

    async fn position_now(&self, place: &Place) -> Result<Option<Position>, SinkError> {
        let fields = vec!["epoch", "next", "hash"];
        let found = self.server.fields(&[(cursor(place)?, fields)]).await?;
        let Some([Some(epoch), Some(next), Some(hash)]) = found.first().map(Vec::as_slice) else {
            return Ok(None);
        };
        let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse().ok();
        Ok(Some(Position {
            next: number(next).and_then(Sequence::new).ok_or_else(no_place)?,
            epoch: number(epoch).ok_or_else(no_place)?,
            hash: hash_of(hash)?,
        }))
    }

    async fn look_up_now(
        &self,
        projection: &dyn Projection,
        place: &Place,
        question: &Question,
    ) -> Result<Answer, SinkError> {
        live(place)?;
        let plan = self.plan(projection)?;
        let mut hashes = Vec::new();
        let mut streams = Vec::new();
        for (at, (table, key)) in question.keys.iter().enumerate() {
            match &plan.parts[*table] {
                Some(Part::Hash(part)) => {
                    let name = part.key_of_key(place, &key.0).ok_or_else(strange)?;
                    hashes.push((at, part, (name, part.version_fields())));
                }
                Some(Part::Entry(part)) => {
                    if let Some(sequence) = part.sequence_of(key) {
                        streams.push((at, part.key(place), sequence));
                    }
                }
                None => {}
            }
        }
        let mut answer: Answer = vec![None; question.keys.len()];
        let asked: Vec<_> = hashes.iter().map(|(_, _, asked)| asked.clone()).collect();
        let found = self.server.fields(&asked).await?;
        for ((at, part, _), values) in hashes.iter().zip(found) {
            answer[*at] = part.version(values);
        }
        let mut names: Vec<_> = streams.iter().map(|(_, name, _)| *name).collect();
        names.dedup();
        let last = self.server.last_entries(&names).await?;
        let last: HashMap<_, _> = names.into_iter().zip(last).collect();
        for (at, name, sequence) in streams {
            let there = last.get(&name).copied().flatten();
            answer[at] = there
                .filter(|last| sequence <= *last)
                .map(|_| Version(Vec::new()));
        }
        Ok(answer)
    }

    async fn commit_now(
        &self,
        projection: &dyn Projection,
        place: &Place,
        commit: &Commit,
    ) -> Result<(), SinkError> {
        let plan = self.plan(projection)?;
        let mut batch = self.server.batch();
        batch.key(&cursor(place)?);
        batch.number(commit.epoch);
        match &commit.moves {
            Some((from, to)) => {
                batch.number(from.next.get());
                batch.number(to.next.get());
                batch.argument(&to.hash);
            }
            None => (0..3).for_each(|_| batch.argument(b"")),
        }
        batch.number(millis(self.kept(&place.projection)));
        put_streams(&mut batch, &plan, place, &commit.writes)?;
        put_hashes(&mut batch, &plan, place, &commit.writes)?;
        match self.server.commit(&batch).await? {
            Committed::Done => Ok(()),
            Committed::Fenced => Err(SinkError::Fenced {
                sink: SinkKind::Valkey,
            }),
        }
    }

    async fn row_now(
        &self,
        projection: &dyn Projection,
        place: &Place,
        table: usize,
        key: &Key,
    ) -> Result<Option<Row>, SinkError> {
        live(place)?;
        let plan = self.plan(projection)?;
        let Some(Part::Hash(part)) = &plan.parts[table] else {
            return Err(unfit(ONLY_A_CACHE));
        };
        let name = part.key_of_key(place, &key.0).ok_or_else(strange)?;
        let columns = &part.table.columns;
        let names = part.columns.iter().map(|&at| columns[at].name.as_str());
        let found = self.server.fields(&[(name, names.collect())]).await?;
        let values = found.into_iter().flatten();
        let mut row = Row(vec![Cell::Null; columns.len()]);
        let mut some = false;
        for (&at, value) in part.columns.iter().zip(values) {
            let Some(value) = value else { continue };
            some = true;
            row.0[at] = cells::read(columns[at].kind, value).ok_or_else(strange)?;
        }
        for (&at, cell) in part.table.key.iter().zip(&key.0) {
            row.0[at] = cell.clone();
        }
        Ok(some.then_some(row))
    }
}

/// Where a place is kept.
fn cursor(place: &Place) -> Result<ValkeyKey<'_>, SinkError> {
    live(place)?;
    Ok(ValkeyKey::Cursor {
        tenant: &place.tenant,
        reality: &place.log,
        projection: &place.projection,
    })
}

fn live(place: &Place) -> Result<(), SinkError> {
    match place.copy {
        Copy::Live => Ok(()),
        Copy::Next => Err(unfit(NO_COPY)),
    }
}

fn hash_of(bytes: &[u8]) -> Result<[u8; 32], SinkError> {
    bytes.try_into().or(Err(no_place()))
}

fn no_place() -> SinkError {
    unfit(
        "what it keeps of the place of this projection cannot be read; remove that key, and the projection begins again",
    )
}

impl Sink for ValkeySink {
    fn kind(&self) -> SinkKind {
        SinkKind::Valkey
    }

    fn horizon(&self, projection: &dyn Projection) -> Option<Duration> {
        let ttls = self.mappings(projection.name()).iter().map(Mapping::ttl);
        // One that is kept for ever goes back to the first record.
        let ttls: Option<Vec<_>> = ttls.collect();
        ttls?.into_iter().max()
    }

    fn prepare<'a>(
        &'a self,
        projection: &'a dyn Projection,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async {
            self.plan(projection)?;
            self.server.ping().await
        })
    }

    fn take<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<Position, SinkError>> {
        Box::pin(self.take_now(place))
    }

    fn position<'a>(
        &'a self,
        place: &'a Place,
    ) -> BoxFuture<'a, Result<Option<Position>, SinkError>> {
        Box::pin(self.position_now(place))
    }

    fn look_up<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
        question: &'a Question,
    ) -> BoxFuture<'a, Result<Answer, SinkError>> {
        Box::pin(self.look_up_now(projection, place, question))
    }

    fn commit<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
        commit: &'a Commit,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(self.commit_now(projection, place, commit))
    }

    fn row<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
        table: usize,
        key: &'a Key,
    ) -> BoxFuture<'a, Result<Option<Row>, SinkError>> {
        Box::pin(self.row_now(projection, place, table, key))
    }

    fn rows<'a>(
        &'a self,
        _: &'a dyn Projection,
        _: &'a Place,
        _: usize,
        _: &'a Query,
    ) -> BoxFuture<'a, Result<Vec<Row>, SinkError>> {
        Box::pin(async { Err(unfit(ONLY_A_CACHE)) })
    }

    fn count<'a>(
        &'a self,
        _: &'a dyn Projection,
        _: &'a Place,
        _: usize,
    ) -> BoxFuture<'a, Result<u64, SinkError>> {
        Box::pin(async { Err(unfit(ONLY_A_CACHE)) })
    }

    fn clear_next<'a>(
        &'a self,
        _: &'a dyn Projection,
        _: &'a Place,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async { Err(unfit(NO_COPY)) })
    }

    fn switch<'a>(
        &'a self,
        _: &'a dyn Projection,
        _: &'a Place,
        _: u64,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async { Err(unfit(NO_COPY)) })
    }
}
