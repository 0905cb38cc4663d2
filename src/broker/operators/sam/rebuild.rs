//! The open tasks of a log: those without a result that ends them.
//!
//! Read once for each opening of a tenant, from where all tasks before are known to have ended. The
//! same reading finds operators that the registry takes to be connected and that cannot be, because
//! the node was stopped before it could write that they had gone.

use std::collections::BTreeMap;

use super::floor::ATTEMPTS_MAX;
use super::registry::{Registry, State};
use super::task::{Answer, Order, Outcome, RESULT_PREFIX, State as Became, TASK_PREFIX};
use super::{lock, settle, stands};
use crate::broker::error::Error;
use crate::broker::{Reality, RealityName, Tenancy};
use crate::log::{Found, Sequence};
use crate::proto::view::RecordView;

const READ_BYTES: usize = 256 << 10;

/// Reads the open tasks if that has not been done. Blocks on the disk.
///
/// # Errors
/// The logs cannot be read.
pub(super) fn ensure(tenancy: &Tenancy) -> Result<(), Error> {
    let sam = tenancy.sam();
    let mut is_read = lock(&sam.is_read);
    if *is_read {
        return Ok(());
    }
    let (from, left) = tenancy.ledger::<Registry>().read(|registry| {
        let mut from = BTreeMap::new();
        let mut left = Vec::new();
        for (name, group) in &registry.groups {
            from.insert(name.clone(), group.first_open);
            for (instance, known) in &group.operators {
                if !matches!(known.state, State::Gone | State::Quarantined) {
                    left.push((name.clone(), instance.clone()));
                }
            }
        }
        (from, left)
    })?;
    if tenancy.birth(&RealityName::main()).is_some() || tenancy.is_open(&RealityName::main()) {
        let main = tenancy.reality(&RealityName::main())?;
        read(tenancy, &main, &from)?;
    }
    for (group, instance) in left {
        let gone = stands(&instance, State::Gone, "the node was stopped");
        settle::record(tenancy, &group, &[gone])?;
    }
    *is_read = true;
    Ok(())
}

#[derive(Debug, Default)]
struct Open {
    order: Order,
    sequence: u64,
    failures: u32,
    answers: Vec<Answer>,
}

fn read(tenancy: &Tenancy, main: &Reality, from: &BTreeMap<String, u64>) -> Result<(), Error> {
    let log = main.log();
    let topics = log.topics()?;
    let groups: Vec<&str> = topics
        .iter()
        .filter_map(|topic| topic.topic.strip_prefix(TASK_PREFIX))
        .collect();
    // Where nothing is known of a group, all of it is read.
    let starts = groups
        .iter()
        .map(|group| from.get(*group).copied().unwrap_or(0));
    let Some(start) = starts.min() else {
        return Ok(());
    };
    let wanted = |topic: &str| topic.starts_with(TASK_PREFIX) || topic.starts_with(RESULT_PREFIX);
    let mut reader = log.topic_reader(Box::new(wanted));
    let bounds = log.bounds();
    let (mut next, end) = (
        Sequence::at_least_first(start).max(bounds.first),
        bounds.durable_end,
    );
    let mut open: BTreeMap<String, Open> = BTreeMap::new();
    while next < end {
        match reader.read(next, end, READ_BYTES)? {
            Found::Records(chunk) => {
                for record in chunk.iter().filter(|record| wanted(record.topic)) {
                    if let Ok(view) = RecordView::parse(record.record) {
                        take(&mut open, &view, from);
                    }
                }
                next = chunk.last.next();
            }
            // A task that cannot be read cannot be done either.
            Found::Damaged { next: after, .. } => next = after.max(next.next()),
            Found::End => break,
        }
    }
    let sam = tenancy.sam();
    lock(&sam.looked).next = end.get();
    let mut floor = sam.floor();
    for one in open.into_values() {
        // The last attempt may have been written, and the end not.
        let failures = one.failures.min(ATTEMPTS_MAX - 1);
        floor.add(one.sequence, one.order, failures, one.answers);
    }
    Ok(())
}

fn take(open: &mut BTreeMap<String, Open>, view: &RecordView<'_>, from: &BTreeMap<String, u64>) {
    if let Some(order) = Order::read(view) {
        if view.sequence >= from.get(&order.group).copied().unwrap_or(0) {
            let (id, sequence) = (order.id.clone(), view.sequence);
            let task = Open {
                order,
                sequence,
                ..Open::default()
            };
            open.insert(id, task);
        }
        return;
    }
    let Some(outcome) = Outcome::read(view) else {
        return;
    };
    match outcome.state {
        Became::Done | Became::Dead | Became::Expired => {
            open.remove(&outcome.task);
        }
        Became::Answered => {
            if let Some(task) = open.get_mut(&outcome.task) {
                task.answers.push(outcome.answer);
            }
        }
        Became::Failed => {
            if let Some(task) = open.get_mut(&outcome.task)
                && !task.order.mode.asks_many()
            {
                task.failures += 1;
            }
        }
    }
}
