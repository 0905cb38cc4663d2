//! Looks after the machines of one tenant: starts those that were asked for, notices those that end,
//! stops those that are to go, and clears up after a node that crashed.
//!
//! What is asked for stands in the log before anything is started, and the process as soon as there
//! is one; so that whatever crashes, nothing is left that nobody knows of.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::desk::{Live, Order};
use super::firecracker::{Failed, Home, Machine, Spec};
use super::lane::{Change, Ended, Lane, Vm};
use super::{NAME, orphan};
use crate::broker::Tenancy;
use crate::broker::error::Error;
use crate::broker::operators::Office;

/// For each step of going down, while the node does.
const CLOSING: Duration = Duration::from_millis(500);

/// Whether there is any machine.
pub(super) fn is_due(tenancy: &Arc<Tenancy>) -> Result<bool, Error> {
    tenancy.ledger::<Lane>().read(|lane| !lane.vms.is_empty())
}

/// Works for one tenant.
pub(super) fn run(office: Office) -> BoxFuture<'static, Result<(), Error>> {
    Box::pin(work(office))
}

async fn work(office: Office) -> Result<(), Error> {
    let mut known: HashSet<String> = HashSet::new();
    let mut tasks: JoinSet<(String, Result<(), Error>)> = JoinSet::new();
    while !office.is_closing() {
        let lane = office
            .blocking(|tenancy| tenancy.ledger::<Lane>().read(Clone::clone))
            .await?;
        for vm in lane.vms.values() {
            if !known.insert(vm.id.clone()) {
                continue;
            }
            let live = office.broker.omega().live(office.tenancy.tenant(), &vm.id);
            let ordered = live.and_then(|live| live.take().map(|order| (live, order)));
            let there = lane.substrates.contains_key(&vm.substrate);
            tasks.spawn(look_after(office.clone(), vm.clone(), ordered, there));
        }
        if tasks.is_empty() {
            return Ok(());
        }
        tokio::select! {
            () = office.rung() => {}
            Some(ended) = tasks.join_next() => {
                // One that panicked takes the duty with it, which is begun again; the process of its
                // machine is ended, and the log still has it.
                let (id, recorded) = ended.map_err(|_panicked| Error::Internal)?;
                known.remove(&id);
                recorded?;
            }
        }
    }
    while let Some(ended) = tasks.join_next().await {
        if let Ok((_, Err(error))) = ended {
            tracing::warn!(%error, "the end of a machine was not recorded; the next start does it");
        }
    }
    Ok(())
}

/// One machine, from where it stands to its end.
async fn look_after(
    office: Office,
    vm: Vm,
    ordered: Option<(Arc<Live>, Order)>,
    there: bool,
) -> (String, Result<(), Error>) {
    let id = vm.id.clone();
    let outcome = match ordered {
        Some((live, order)) if there => serve(&office, &vm, &live, order).await,
        Some((_, order)) => {
            let how = "its substrate was unregistered".to_owned();
            answer(&order, Err(Failed::Stopped(how.clone())));
            Ok((how, Some(order)))
        }
        None => clear_up(&office, &vm).await.map(|how| (how, None)),
    };
    let recorded = match outcome {
        // The permit is given back when the end is on disk.
        Ok((how, _order)) => record_end(&office, &vm, how).await,
        Err(error) => Err(error),
    };
    office.broker.omega().forget(office.tenancy.tenant(), &id);
    (id, recorded)
}

async fn record_end(office: &Office, vm: &Vm, how: String) -> Result<(), Error> {
    let ended = Ended {
        id: vm.id.clone(),
        substrate: vm.substrate.clone(),
        how,
        at_ms: office.tenancy.now().as_millis(),
    };
    record(office, Change::Ended(ended)).await
}

async fn record(office: &Office, change: Change) -> Result<(), Error> {
    let change = move |tenancy: &Arc<Tenancy>| {
        let ledger = tenancy.ledger::<Lane>();
        ledger.change(|_| Ok(((), vec![change.event()])))
    };
    office.blocking(change).await
}

async fn clear_up(office: &Office, vm: &Vm) -> Result<String, Error> {
    let settings = office.broker.omega().settings();
    let (setup, time, vm) = (settings.setup.clone(), settings.stop_timeout, vm.clone());
    let swept = office.blocking(move |_| Ok(orphan::sweep(&setup, &vm, time)));
    swept.await.map(str::to_owned)
}

fn answer(order: &Order, outcome: Result<(), Failed>) {
    // Nobody may wait any more.
    let _nobody = order.answer.try_send(outcome);
}

/// Starts the machine and stays with it; how it ended.
async fn serve(
    office: &Office,
    vm: &Vm,
    live: &Live,
    order: Order,
) -> Result<(String, Option<Order>), Error> {
    let settings = office.broker.omega().settings();
    let home = Home::of(&settings.setup, &vm.id, vm.jailed);
    let (how, outcome) = match start(office, vm, live, &home).await? {
        Ok(machine) => {
            let running = Change::Running { id: vm.id.clone() };
            record(office, running).await?;
            answer(&order, Ok(()));
            (stay(office, vm, live, machine).await, None)
        }
        Err(failed) => (failed.to_string(), Some(failed)),
    };
    let removing = home.clone();
    office
        .blocking(move |_| {
            removing.remove();
            Ok(())
        })
        .await?;
    if let Some(failed) = outcome {
        tracing::warn!(vm = vm.id, error = %failed, "a machine did not start");
        answer(&order, Err(failed));
    }
    Ok((how, Some(order)))
}

/// Launches and boots it. The outer error is the log's.
async fn start(
    office: &Office,
    vm: &Vm,
    live: &Live,
    home: &Home,
) -> Result<Result<Machine, Failed>, Error> {
    let settings = office.broker.omega().settings();
    let spec = Spec {
        id: vm.id.clone(),
        vcpus: vm.vcpus,
        memory_mib: vm.memory_mib,
    };
    let (setup, making, home) = (settings.setup.clone(), spec.clone(), home.clone());
    let launched = office.blocking(move |_| {
        let machine = Machine::launch(&setup, &making, home);
        Ok(machine.map(|machine| {
            let process = orphan::process(machine.pid());
            (machine, process)
        }))
    });
    let (mut machine, process) = match launched.await? {
        Ok(launched) => launched,
        Err(failed) => return Ok(Err(failed)),
    };
    if let Some(process) = process {
        let id = vm.id.clone();
        record(office, Change::Launched { id, process }).await?;
    }
    let mut stop = live.stop.subscribe();
    let booted = tokio::select! {
        booted = tokio::time::timeout(settings.boot_timeout, machine.boot(&settings.setup, &spec)) => {
            booted.unwrap_or_else(|_elapsed| {
                let after_ms = settings.boot_timeout.as_millis();
                Err(Failed::Late { after_ms })
            })
        }
        by = stopped(&mut stop) => {
            Err(Failed::Stopped(format!("it was stopped by {by} while it started")))
        }
        () = closing(office) => Err(Failed::Stopped("the node went down".into())),
    };
    if let Err(failed) = booted {
        machine.stop(CLOSING, false).await;
        return Ok(Err(failed));
    }
    Ok(Ok(machine))
}

/// Waits with a machine that runs for its end.
async fn stay(office: &Office, vm: &Vm, live: &Live, mut machine: Machine) -> String {
    let mut stop = live.stop.subscribe();
    let time = office.broker.omega().settings().stop_timeout;
    let lifetime = Duration::from_secs(vm.lifetime_s);
    let why = tokio::select! {
        how = machine.gone() => return format!("ended by itself ({how})"),
        () = tokio::time::sleep(lifetime) => "its time was over".to_owned(),
        by = stopped(&mut stop) => format!("stopped by {by}"),
        () = closing(office) => {
            let how = machine.stop(CLOSING, false).await;
            return format!("the node went down: {how}");
        }
    };
    let how = machine.stop(time, true).await;
    format!("{why}: {how}")
}

/// Returns when somebody stops the machine; who.
async fn stopped(stop: &mut watch::Receiver<Option<String>>) -> String {
    let by = stop.wait_for(Option::is_some).await;
    // An error means that whoever stops machines is gone.
    by.ok().and_then(|by| by.clone()).unwrap_or_default()
}

/// Returns when the node goes down.
async fn closing(office: &Office) {
    let mut closing = office.closing.clone();
    // An error means that the sender is gone, which ends the node too.
    let _closing = closing.wait_for(|closing| *closing).await;
}

/// Has the duty look.
pub(super) fn wake(broker: &crate::broker::Broker, tenancy: &Tenancy) {
    broker.duties().wake(tenancy.tenant(), NAME);
}
