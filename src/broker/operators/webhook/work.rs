//! Keeps one lane for each enabled rule of a tenant.
//!
//! Woken by every change of a rule; ends when no rule is enabled. A lane that fails begins again
//! after a pause, and says meanwhile why nothing is sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::NAME;
use super::desk::lock;
use super::lane::{Lane, Orders, Wake};
use super::rule::{Hooks, Rule, set};
use crate::broker::error::Error;
use crate::broker::operators::Office;
use crate::broker::{Broker, RealityName, Tenancy};

const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// A lane at work.
#[derive(Debug)]
struct Running {
    rule: Rule,
    stop: watch::Sender<bool>,
    again: Arc<Mutex<Vec<u64>>>,
    wake: Arc<Wake>,
}

/// Whether any rule is enabled.
pub(super) fn is_due(tenancy: &Arc<Tenancy>) -> Result<bool, Error> {
    let ledger = tenancy.ledger::<Hooks>();
    ledger.read(|hooks| hooks.rules.values().any(|rule| rule.enabled))
}

/// A reality has been deleted: its rules send nothing, and know of no place in another of its name.
pub(in crate::broker) fn reality_deleted(
    broker: &Broker,
    tenancy: &Arc<Tenancy>,
    name: &RealityName,
) -> Result<(), Error> {
    let changed = tenancy.ledger::<Hooks>().change(|hooks| {
        let of_it = hooks
            .rules
            .values()
            .filter(|rule| rule.reality == name.as_str());
        let events: Vec<_> = of_it
            .map(|rule| {
                set(&Rule {
                    enabled: false,
                    disabled_because: Some("its reality was deleted".to_owned()),
                    generation: rule.generation + 1,
                    from: 1,
                    ..rule.clone()
                })
            })
            .collect();
        Ok((!events.is_empty(), events))
    })?;
    if changed {
        broker.duties().wake(tenancy.tenant(), NAME);
    }
    Ok(())
}

/// Works for one tenant.
pub(super) fn run(office: Office) -> BoxFuture<'static, Result<(), Error>> {
    Box::pin(work(office))
}

async fn work(office: Office) -> Result<(), Error> {
    let mut running: HashMap<String, Running> = HashMap::new();
    let mut tasks: JoinSet<String> = JoinSet::new();
    loop {
        if office.is_closing() {
            break;
        }
        let read = |tenancy: &Arc<Tenancy>| tenancy.ledger::<Hooks>().read(Clone::clone);
        let hooks: Hooks = office.blocking(read).await?;
        for (id, lane) in &running {
            if hooks.rules.get(id) == Some(&lane.rule) {
                *lock(&lane.again) = hooks.position(&lane.rule).again;
                lane.wake.ring();
            } else {
                lane.stop.send_replace(true);
            }
        }
        // A rule that has changed begins anew when its lane has ended.
        let enabled = hooks.rules.values().filter(|rule| rule.enabled);
        for rule in enabled {
            if running.contains_key(&rule.id) {
                continue;
            }
            let (stop, stopped) = watch::channel(false);
            let again = Arc::new(Mutex::new(hooks.position(rule).again));
            let wake = Arc::new(Wake::default());
            let orders = Orders {
                stop: stopped,
                again: Arc::clone(&again),
                wake: Arc::clone(&wake),
            };
            tasks.spawn(keep(office.clone(), rule.clone(), orders));
            let rule = rule.clone();
            let lane = Running {
                rule: rule.clone(),
                stop,
                again,
                wake,
            };
            running.insert(rule.id, lane);
        }
        if running.is_empty() {
            return Ok(());
        }
        tokio::select! {
            () = office.rung() => {}
            Some(ended) = tasks.join_next() => {
                // A lane that panicked takes the duty with it, which is begun again.
                let id = ended.map_err(|_panicked| Error::Internal)?;
                running.remove(&id);
            }
        }
    }
    for lane in running.values() {
        lane.stop.send_replace(true);
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// Runs the lane of `rule`, until it is told to end or fails.
async fn keep(office: Office, rule: Rule, orders: Orders) -> String {
    let mut stop = orders.stop.clone();
    let desk_of = office.clone();
    let beginning = {
        let (office, rule) = (office.clone(), rule.clone());
        office
            .clone()
            .blocking(move |_| Lane::begin(office, &rule, orders))
            .await
    };
    let ended = match beginning {
        Ok(lane) => Box::pin(lane.run()).await,
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        tracing::warn!(tenant = %office.tenancy.tenant(), rule = rule.id, %error, "a webhook is not sent; trying again");
        let desk = desk_of.broker.webhooks();
        let account = desk.account(office.tenancy.tenant(), &rule.id);
        lock(&account).halted = Some(error.to_string());
        tokio::select! {
            () = tokio::time::sleep(AGAIN_AFTER) => {}
            // An error means that whoever began it is gone.
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
    rule.id
}
