//! Deletes a tenant from the data directory of a node that does not run (LOG-13).
//!
//! Offline, because nobody that a token can name stands above the tenants; whoever may write the
//! data directory does.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use arqonbus::broker::{self, Broker, Tenant};
use arqonbus::data_dir::DataDir;
use arqonbus::log::{Committer, Environment, RealStorage};
use arqonbus::projections::postgres::Migrating;
use arqonbus::projections::sled::Sled;
use arqonbus::wall_clock::WallClock;

use crate::arguments::TenantAction;
use crate::{load, print, projecting};

pub(crate) fn run(action: &TenantAction) -> anyhow::Result<()> {
    let TenantAction::Delete {
        name,
        confirm,
        data,
    } = action;
    ensure!(
        name == confirm,
        "tenant {name} is deleted only if --confirm names it too, and it names {confirm}"
    );
    delete(name, data)?;
    print(&format!("tenant {name} is deleted\n"))
}

/// Removes what projections keep of a tenant: in the data directory, and in the database that the
/// settings name. What Valkey holds is gone by itself after a while.
fn forget(name: &str, data: &Path) -> anyhow::Result<()> {
    let embedded = data.join(projecting::DIRECTORY);
    if embedded.is_dir() {
        let tables = Sled::open(&embedded, projecting::CACHE_BYTES);
        let forgotten = tables.and_then(|tables| tables.forget(name));
        forgotten.context("the embedded projections")?;
    }
    let config = load(None, &[])?.config;
    let Some(database) = projecting::postgres(&config.postgres, Migrating::ByHand)? else {
        return print(
            "no database is named by ARQONBUS_POSTGRES_URL or the settings: rows that projections keep in one stay there\n",
        );
    };
    let wanted = projecting::wanted(&config)?;
    let projections: Vec<_> = wanted.iter().map(|one| &*one.projection).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let forgotten = runtime.block_on(database.forget(&projections, name));
    forgotten.context("the database of the projections; the tenant is not deleted")
}

fn delete(name: &str, data: &Path) -> anyhow::Result<()> {
    let tenant = Tenant::new(name).map_err(|fault| anyhow::anyhow!("tenant {name:?} {fault}"))?;
    ensure!(
        data.is_dir(),
        "{} is no data directory; name the one that the node is started with",
        data.display()
    );
    let storage = Arc::new(RealStorage);
    let data_dir = DataDir::take(storage.as_ref(), data)?;
    // First, because the tenant can still be named then if this fails.
    forget(name, data)?;
    let environment = Environment {
        storage,
        clock: Arc::new(WallClock),
        committer: Committer::start(1),
    };
    let node = data_dir.node();
    let options = broker::Options::new(data.to_owned(), node.number(), node.name().to_owned());
    let broker = Broker::start(environment, options).context("cannot start the broker")?;
    let uid = rustix::process::getuid().as_raw();
    let by = format!("uid {uid} on the node's machine");
    let deleted = broker.delete_tenant(&tenant, &by);
    broker.close();
    deleted.with_context(|| {
        format!("deleting tenant {name}; the same command, or the next start of the node, goes on with it")
    })
}
