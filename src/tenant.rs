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
use arqonbus::wall_clock::WallClock;

use crate::arguments::TenantAction;
use crate::print;

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

fn delete(name: &str, data: &Path) -> anyhow::Result<()> {
    let tenant = Tenant::new(name).map_err(|fault| anyhow::anyhow!("tenant {name:?} {fault}"))?;
    ensure!(
        data.is_dir(),
        "{} is no data directory; name the one that the node is started with",
        data.display()
    );
    let storage = Arc::new(RealStorage);
    let data_dir = DataDir::take(storage.as_ref(), data)?;
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
