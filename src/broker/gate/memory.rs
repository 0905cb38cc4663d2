//! What gates know of the past of one reality, read back from its log.
//!
//! Nothing is read, and nothing held, until the first producer gives an id or a number of its own
//! after the log was opened. What is known belongs to one opening of the log: after a failure that
//! the log was opened again for, records may be missing that were known.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ids::{Ids, Key, Reach};
use crate::broker::operators::delayed;
use crate::broker::producers::ProducerClocks;
use crate::log::{Error, Found, Log, Micros, Sequence};
use crate::proto::view::RecordView;

/// Records that are read back are at most so many times the ids that are remembered: not all
/// records have one.
const READ_FACTOR: u64 = 4;
/// Numbers are looked for in at least so many records.
const NUMBERS_READ_RECORDS: u64 = 4_096;
/// How much is read at a time.
const READ_BYTES: usize = 1 << 20;
/// No log is opened so often.
const NEVER: u64 = u64::MAX;

/// The past of one reality.
#[derive(Debug)]
pub(in crate::broker) struct Memory {
    reach: Reach,
    producers_max: usize,
    state: Mutex<Known>,
    /// Which opening of the log it is of, for whoever does not want to wait.
    generation: AtomicU64,
}

/// What is known, and of which opening of the log.
#[derive(Debug)]
pub(in crate::broker) struct Known {
    generation: u64,
    window: Option<Window>,
}

/// Ids and numbers.
#[derive(Debug)]
pub(in crate::broker) struct Window {
    pub(super) ids: Ids,
    pub(super) numbers: ProducerClocks,
}

impl Known {
    pub(super) fn window(&mut self, generation: u64) -> Option<&mut Window> {
        let of_this = self.generation == generation;
        self.window.as_mut().filter(|_| of_this)
    }
}

impl Memory {
    pub(in crate::broker) fn new(reach: Reach, producers_max: usize) -> Self {
        Self {
            reach,
            producers_max,
            state: Mutex::new(Known {
                generation: NEVER,
                window: None,
            }),
            generation: AtomicU64::new(NEVER),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the past of this opening of the log is known, so that [`Memory::recall`] is quick.
    pub(in crate::broker) fn knows(&self, generation: u64) -> bool {
        self.generation.load(Ordering::Acquire) == generation
    }

    /// Reads back what is needed of `log`, the `generation`th opening, if it has not been. Blocks.
    ///
    /// # Errors
    /// It cannot be read; then nothing is known.
    pub(in crate::broker) fn recall(&self, generation: u64, log: &Log) -> Result<(), Error> {
        if self.knows(generation) {
            return Ok(());
        }
        let mut known = self.lock();
        if known.generation == generation {
            return Ok(());
        }
        let window = self.read(log)?;
        *known = Known {
            generation,
            window: Some(window),
        };
        self.generation.store(generation, Ordering::Release);
        Ok(())
    }

    fn read(&self, log: &Log) -> Result<Window, Error> {
        let mut window = Window {
            ids: Ids::new(self.reach),
            numbers: ProducerClocks::new(self.producers_max),
        };
        let bounds = log.bounds();
        let end = bounds.written_end;
        let back = |records: u64| Sequence::at_least_first(end.get().saturating_sub(records));
        let youngest = last_appended_at(log, end)?;
        let since = Micros(youngest.0.saturating_sub(self.reach.window.0));
        let of_ids = match self.reach.ids_max {
            0 => end,
            ids_max => log
                .seek_time(since)?
                .max(back((ids_max as u64).saturating_mul(READ_FACTOR))),
        };
        let mut from = of_ids.min(back(NUMBERS_READ_RECORDS)).max(bounds.first);
        while from < end {
            match log.read(from, end, READ_BYTES)? {
                Found::Records(chunk) => {
                    for record in chunk.iter() {
                        let counts = record.sequence >= of_ids;
                        note(
                            &mut window,
                            record.topic,
                            record.appended_at,
                            record.record,
                            counts,
                        );
                    }
                    from = chunk.last.next();
                }
                // What is lost was not stored, as far as anybody can tell.
                Found::Damaged { next, .. } => from = next.max(from.next()),
                Found::End => break,
            }
        }
        Ok(window)
    }
}

fn note(window: &mut Window, topic: &str, at: Micros, record: &[u8], counts: bool) {
    let Ok(view) = RecordView::parse(record) else {
        return;
    };
    let sequence = view.sequence;
    // What waits is a record in a record; its id counts where it will go.
    let waiting = topic.strip_prefix(delayed::TOPIC_PREFIX);
    let kept = waiting.map(|_| RecordView::parse(view.envelope.payload.data()));
    let (topic, view) = match (waiting, &kept) {
        (Some(topic), Some(Ok(kept))) => (topic, kept),
        (Some(_), _) => return,
        (None, _) => (topic, &view),
    };
    let envelope = &view.envelope;
    if envelope.producer_sequence > 0 {
        window
            .numbers
            .restore(view.producer(), envelope.producer_sequence);
    }
    if counts && !envelope.id.is_empty() {
        let key = Key::of(topic, envelope.id);
        window.ids.turn(at);
        if window.ids.find(key).is_none() {
            window.ids.note(key, sequence);
        }
    }
}

/// When the last record was appended.
fn last_appended_at(log: &Log, end: Sequence) -> Result<Micros, Error> {
    let last = end.previous().unwrap_or(Sequence::FIRST);
    let mut from = last.max(log.bounds().first);
    loop {
        match log.read(from, end, 1)? {
            Found::Records(chunk) => {
                let at = chunk.iter().last().map(|record| record.appended_at);
                return Ok(at.unwrap_or(Micros(0)));
            }
            Found::Damaged { next, .. } => from = next.max(from.next()),
            Found::End => return Ok(Micros(0)),
        }
    }
}
