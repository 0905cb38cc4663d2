//! Tasks that have come into the log by another way than a dispatch: dead letters that somebody has
//! put back on the topic of their task.
//!
//! Looked for now and then, as long as anybody is there who could do them; they have the id that
//! they had before.

use super::floor::Floor;
use super::lock;
use super::task::{Order, TASK_PREFIX};
use crate::broker::error::Error;
use crate::broker::{RealityName, Tenancy};
use crate::log::{Found, Micros, Sequence};
use crate::proto::view::RecordView;

const READ_BYTES: usize = 256 << 10;
/// Between two looks.
const EVERY_US: u64 = 1_000_000;

/// How far the log has been looked through, and when.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// Everything before this is known; 0 = nothing has been read yet.
    pub(super) next: u64,
    at: Micros,
}

/// Takes up tasks that nobody has dispatched. Blocks on the disk.
pub(super) fn pick_up(tenancy: &Tenancy) -> Result<(), Error> {
    let sam = tenancy.sam();
    let Some(main) = tenancy.peek(&RealityName::main()) else {
        return Ok(());
    };
    // First the end, then whether anything is on its way: what stands below the end and is not on
    // its way is on the floor, or has been.
    let end = main.bounds().durable_end;
    let now = tenancy.now();
    let mut looked = lock(&sam.looked);
    let soon = looked.at.0..looked.at.0.saturating_add(EVERY_US);
    if soon.contains(&now.0) || sam.floor().is_arriving() {
        return Ok(());
    }
    looked.at = now;
    let log = main.log();
    let is_task = |topic: &str| topic.starts_with(TASK_PREFIX);
    let mut reader = log.topic_reader(Box::new(is_task));
    let mut next = Sequence::at_least_first(looked.next).max(log.bounds().first);
    while next < end {
        match reader.read(next, end, READ_BYTES)? {
            Found::Records(chunk) => {
                let tasks = chunk.iter().filter(|record| is_task(record.topic));
                for view in tasks.filter_map(|one| RecordView::parse(one.record).ok()) {
                    add(&mut sam.floor(), &view);
                }
                next = chunk.last.next();
            }
            Found::Damaged { next: after, .. } => next = after.max(next.next()),
            Found::End => break,
        }
    }
    sam.floor().forget_added(end.get());
    looked.next = end.get();
    Ok(())
}

fn add(floor: &mut Floor, view: &RecordView<'_>) {
    if floor.was_added(view.sequence) {
        return;
    }
    if let Some(order) = Order::read(view) {
        floor.add(view.sequence, order, 0, Vec::new());
    }
}
