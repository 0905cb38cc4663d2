//! A sink in a PostgreSQL database: rows, and the position that they stand at, in one transaction.
//!
//! - `connect`: connections, TLS, limits of time. `fault`: what an error means.
//! - [`migrate`]: the tables, in steps. `shape`: tables that no step makes, and checks.
//! - `statements` makes SQL from tables, `cells` their values; `write` and `read` run it;
//!   `growth` keeps the server's choice of indexes right.
//! - [`preflight`]: whether a database is fit for production.
//!
//! Every transaction names its tenant, whose rows alone it then sees: row-level security binds the
//! owner of the tables too.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Object, Transaction};
use futures_util::future::BoxFuture;
use tokio_postgres::Row as Answered;

use self::cells::field;
use self::connect::Connections;
pub use self::connect::{Migrating, Options};
use self::growth::Growth;
use self::migrate::{MigrateError, Status};
use super::projection::Projection;
use super::sink::{Answer, Commit, Place, Position, Query, Question, Sink, SinkError, SinkKind};
use super::table::{Key, Row};
use crate::log::Sequence;

mod cells;
mod connect;
mod fault;
mod growth;
pub mod migrate;
pub mod preflight;
mod read;
mod shape;
mod statements;
mod unverified;
mod write;

/// A database. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Postgres {
    connections: Connections,
    migrating: Migrating,
    growth: Arc<Growth>,
}

impl Postgres {
    /// Does not connect yet.
    ///
    /// # Errors
    /// The URL or the file of authorities cannot be read.
    pub fn new(options: &Options) -> Result<Self, SinkError> {
        Ok(Self {
            connections: Connections::new(options)?,
            migrating: options.migrating,
            growth: Arc::default(),
        })
    }

    /// Which migrations the database has. Changes nothing.
    ///
    /// # Errors
    /// It cannot be used, or another build has migrated it.
    pub async fn status(&self) -> Result<Status, MigrateError> {
        let mut lent = self.lend().await?;
        let done = migrate::status(lent.object()).await;
        lent.settle(done.as_ref().map(|_| ()).map_err(of_migration));
        done
    }

    /// Applies the migrations that the database does not have, and says which it has then. Any
    /// number of nodes can do so at once.
    ///
    /// # Errors
    /// It cannot be used, or another build has migrated it. What was applied stays, step by step.
    pub async fn migrate(&self) -> Result<Status, MigrateError> {
        let mut lent = self.lend().await?;
        let done = migrate::up(lent.object()).await;
        lent.settle(done.as_ref().map(|_| ()).map_err(of_migration));
        done
    }

    /// Removes everything that belongs to a tenant, of the tables of all `projections`.
    ///
    /// # Errors
    /// The database cannot be used; nothing is removed then.
    pub async fn forget(
        &self,
        projections: &[&dyn Projection],
        tenant: &str,
    ) -> Result<(), SinkError> {
        let tables = projections.iter().flat_map(|one| one.tables().to_vec());
        let tables: Vec<_> = tables.collect();
        let mut lent = self.lend().await?;
        let done = write::forget(lent.object(), &tables, tenant).await;
        lent.settle(done.as_ref().map(drop).map_err(of_sink));
        done
    }

    async fn lend(&self) -> Result<Lent, SinkError> {
        Ok(Lent(Some(self.connections.get().await?)))
    }

    /// Runs `work`, but not for ever: a server that is cut off does not even say so.
    async fn within<T>(
        &self,
        patience: Duration,
        work: impl Future<Output = Result<T, SinkError>>,
    ) -> Result<T, SinkError> {
        match tokio::time::timeout(patience, work).await {
            Ok(done) => done,
            Err(_elapsed) => Err(fault::unavailable(format!(
                "it has not answered for {} s",
                patience.as_secs()
            ))),
        }
    }
}

/// How long a request may take that goes over all rows of a tenant.
const LONG: Duration = Duration::from_secs(3600);

fn of_migration(error: &MigrateError) -> Trust {
    match error {
        MigrateError::Newer { .. } | MigrateError::Changed { .. } => Trust::Kept,
        MigrateError::Sink(error) => of_sink(error),
    }
}

const fn of_sink(error: &SinkError) -> Trust {
    match error {
        SinkError::Rejected { .. } | SinkError::Fenced { .. } => Trust::Kept,
        SinkError::Unavailable { .. } | SinkError::Unfit { .. } => Trust::Lost,
    }
}

/// Whether a connection is used again after an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trust {
    Kept,
    Lost,
}

/// A connection that is closed instead of being used again, unless all went well: what a cancelled
/// or failed request leaves behind, an open transaction or a plan that is out of date, ends with it.
struct Lent(Option<Object>);

impl Lent {
    fn object(&mut self) -> &mut Object {
        self.0.as_mut().expect("lent until it is settled")
    }

    fn settle(mut self, done: Result<(), Trust>) {
        if done != Err(Trust::Lost) {
            drop(self.0.take());
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it stands where errors are mapped"
)]
fn failed(error: tokio_postgres::Error) -> SinkError {
    fault::of(&error)
}

/// Begins a transaction that sees the rows of `tenant`.
async fn open<'c>(client: &'c mut Object, tenant: &str) -> Result<Transaction<'c>, SinkError> {
    checked(tenant)?;
    let transaction = client.transaction().await.map_err(failed)?;
    let statement = transaction
        .prepare_cached(statements::SET_TENANT)
        .await
        .map_err(failed)?;
    transaction
        .execute(&statement, &[&tenant])
        .await
        .map_err(failed)?;
    Ok(transaction)
}

/// Several tenants are named with commas between them; one that has a comma would be several.
fn checked(tenant: &str) -> Result<&str, SinkError> {
    if tenant.is_empty() || tenant.contains(',') {
        return Err(fault::rejected("a tenant must have a name without a comma"));
    }
    Ok(tenant)
}

fn tenant_of(place: &Place) -> Result<&str, SinkError> {
    checked(&place.tenant)
}

fn place_of(place: &Place) -> [&str; 4] {
    let copy = statements::copy_name(place.copy);
    [&place.projection, &place.tenant, &place.log, copy]
}

/// A number as the database stores it.
fn stored(what: &str, number: u64) -> Result<i64, SinkError> {
    i64::try_from(number)
        .map_err(|_beyond| fault::rejected(format!("{what} {number} is beyond what can be stored")))
}

fn position_of(row: &Answered) -> Result<Position, SinkError> {
    let damaged = || fault::unfit("a position in arqonbus_projection_cursor is damaged");
    let next = u64::try_from(field::<i64>(row, 0)?)
        .ok()
        .and_then(Sequence::new);
    Ok(Position {
        next: next.ok_or_else(damaged)?,
        epoch: u64::try_from(field::<i64>(row, 1)?).map_err(|_negative| damaged())?,
        hash: <[u8; 32]>::try_from(field::<&[u8]>(row, 2)?).map_err(|_short| damaged())?,
    })
}

/// A request: a connection, what is done with it, and what becomes of it then.
macro_rules! request {
    ($self:ident, $patience:expr, $client:ident => $work:expr) => {
        Box::pin($self.within($patience, async move {
            let mut lent = $self.lend().await?;
            let $client = lent.object();
            let done = $work.await;
            lent.settle(done.as_ref().map(|_| ()).map_err(of_sink));
            done
        }))
    };
}

impl Sink for Postgres {
    fn kind(&self) -> SinkKind {
        SinkKind::Postgres
    }

    fn prepare<'a>(
        &'a self,
        projection: &'a dyn Projection,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        request!(self, self.connections.patience(), client => async {
            shape::check_names(projection.tables())?;
            let status = match self.migrating {
                Migrating::ByHand => migrate::status(client).await?,
                Migrating::ByItself => migrate::up(client).await?,
            };
            if let Some(missing) = status.pending().next() {
                return Err(fault::unfit(format!(
                    "migration {} ({}) is not applied: run `arqonbus migrate up`",
                    missing.version, missing.name
                )));
            }
            shape::prepare(client, projection.tables()).await
        })
    }

    fn take<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<Position, SinkError>> {
        request!(self, self.connections.patience(), client => write::take(client, place))
    }

    fn position<'a>(
        &'a self,
        place: &'a Place,
    ) -> BoxFuture<'a, Result<Option<Position>, SinkError>> {
        request!(self, self.connections.patience(), client => read::position(client, place))
    }

    fn look_up<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
        question: &'a Question,
    ) -> BoxFuture<'a, Result<Answer, SinkError>> {
        request!(self, self.connections.patience(), client => {
            read::look_up(client, projection.tables(), place, question)
        })
    }

    fn commit<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
        commit: &'a Commit,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        request!(self, self.connections.patience(), client => {
            write::commit(client, &self.growth, projection.tables(), place, commit)
        })
    }

    fn row<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
        table: usize,
        key: &'a Key,
    ) -> BoxFuture<'a, Result<Option<Row>, SinkError>> {
        request!(self, self.connections.patience(), client => {
            read::row(client, &projection.tables()[table], place, key)
        })
    }

    fn rows<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
        table: usize,
        query: &'a Query,
    ) -> BoxFuture<'a, Result<Vec<Row>, SinkError>> {
        request!(self, self.connections.patience(), client => {
            read::rows(client, &projection.tables()[table], place, query)
        })
    }

    fn count<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
        table: usize,
    ) -> BoxFuture<'a, Result<u64, SinkError>> {
        request!(self, self.connections.patience(), client => {
            read::count(client, &projection.tables()[table], place)
        })
    }

    fn clear_next<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        request!(self, LONG, client => {
            write::clear_next(client, &self.growth, projection.tables(), place)
        })
    }

    fn switch<'a>(
        &'a self,
        projection: &'a dyn Projection,
        place: &'a Place,
        epoch: u64,
    ) -> BoxFuture<'a, Result<(), SinkError>> {
        request!(self, LONG, client => {
            write::switch(client, projection.tables(), place, epoch)
        })
    }
}
