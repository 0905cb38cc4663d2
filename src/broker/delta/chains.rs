//! The last record of each key on delta topics of one reality, and its base: a fold of the log.
//!
//! Read from the log when the first record for a delta topic comes, and again after it was opened
//! again, topics were declared, or records were removed; then changed by every append to a delta
//! topic at the moment it gets its sequence. Of more than [`KEYS_MAX`] keys those are forgotten that
//! nothing was said of for longest: whoever goes on with one has to send its base again.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Declared, Mark, Said};
use crate::broker::error::Error;
use crate::log::{
    Append, AppendError, AppendSink, Appended, Condition, Durability, Found, Judgement, Log,
    NewRecord, RecordRef, Sequence, Standing,
};
use crate::proto::view::RecordView;

/// Keys of one reality that are held.
pub(super) const KEYS_MAX: usize = 1 << 18;
/// How much is read at a time.
const READ_BYTES: usize = 1 << 20;

/// Keys that nobody outside knows: whoever chooses keys cannot make two fall together.
static HASHERS: LazyLock<[RandomState; 2]> = LazyLock::new(Default::default);

/// A key on its topic.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(in crate::broker) struct Key([u64; 2]);

impl Key {
    pub(in crate::broker) fn of(topic: &str, key: &str) -> Self {
        let hash = |hasher: &RandomState| hasher.hash_one((topic, key));
        Self([hash(&HASHERS[0]), hash(&HASHERS[1])])
    }
}

/// What the node holds of a key: a base, and deltas that follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Chain {
    pub(super) base: u64,
    pub(super) last: u64,
}

/// What becomes of a chain with a record at `sequence`.
pub(super) fn follow(chain: Option<Chain>, said: Said, sequence: u64) -> Option<Chain> {
    if said.ends {
        return None;
    }
    match said.mark? {
        Mark::Base => Some(Chain {
            base: sequence,
            last: sequence,
        }),
        Mark::On(on) => chain.filter(|chain| chain.last == on).map(|chain| Chain {
            last: sequence,
            ..chain
        }),
    }
}

/// What chains are of: which opening of the log, which declarations, and how often records had been
/// removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::broker) struct Stand {
    pub(in crate::broker) generation: u64,
    pub(in crate::broker) edition: u64,
    pub(in crate::broker) removals: u64,
}

/// The chains of one reality.
#[derive(Debug, Default)]
pub(in crate::broker) struct Chains {
    /// Held while they are read. Never by whoever gives sequences.
    reading: Mutex<()>,
    book: Mutex<Option<Book>>,
}

/// All chains of one stand.
#[derive(Debug)]
pub(in crate::broker) struct Book {
    stand: Stand,
    keys_max: usize,
    chains: HashMap<Key, Chain>,
    by_last: BTreeMap<u64, Key>,
}

/// A chain as it was before it was changed.
#[derive(Clone, Copy, Debug)]
pub(in crate::broker) struct Change(Key, Option<Chain>);

impl Book {
    pub(super) fn new(stand: Stand, keys_max: usize) -> Self {
        Self {
            stand,
            keys_max,
            chains: HashMap::new(),
            by_last: BTreeMap::new(),
        }
    }

    /// The last record of a key whose base is held; 0 if there is none.
    pub(in crate::broker) fn last_of(&self, key: Key) -> u64 {
        self.chains.get(&key).map_or(0, |chain| chain.last)
    }

    /// Notes a record; what that has changed is added to `changes`, in order.
    pub(in crate::broker) fn note(
        &mut self,
        key: Key,
        said: Said,
        sequence: u64,
        changes: &mut Vec<Change>,
    ) {
        let before = self.chains.get(&key).copied();
        self.put(key, follow(before, said, sequence));
        changes.push(Change(key, before));
        if self.chains.len() > self.keys_max
            && let Some((_, idle)) = self.by_last.first_key_value()
        {
            let idle = *idle;
            changes.push(Change(idle, self.chains.get(&idle).copied()));
            self.put(idle, None);
        }
    }

    /// Takes changes back that came to nothing.
    pub(in crate::broker) fn take_back(&mut self, changes: &mut Vec<Change>) {
        for Change(key, before) in changes.drain(..).rev() {
            self.put(key, before);
        }
    }

    fn put(&mut self, key: Key, chain: Option<Chain>) {
        let before = match chain {
            Some(chain) => {
                self.by_last.insert(chain.last, key);
                self.chains.insert(key, chain)
            }
            None => self.chains.remove(&key),
        };
        if let Some(before) = before
            && chain.is_none_or(|chain| chain.last != before.last)
        {
            self.by_last.remove(&before.last);
        }
    }

    fn read(&mut self, log: &Log, declared: &Arc<Declared>) -> Result<(), Error> {
        let end = log.bounds().written_end;
        let mut forgotten = Vec::new();
        each_of(log, declared, end, |record| {
            let Ok(view) = RecordView::parse(record.record) else {
                return;
            };
            if !view.envelope.key.is_empty() {
                let key = Key::of(record.topic, view.envelope.key);
                let said = Said::of(&view.envelope);
                self.note(key, said, record.sequence.get(), &mut forgotten);
                forgotten.clear();
            }
        })
    }
}

/// Shows every record below `end` on delta topics. What is damaged is passed over: what follows it
/// in its chain does not follow what came before it.
fn each_of(
    log: &Log,
    declared: &Arc<Declared>,
    end: Sequence,
    mut look: impl FnMut(RecordRef<'_>),
) -> Result<(), Error> {
    let wanted = Arc::clone(declared);
    let mut reader = log.topic_reader(Box::new(move |topic| wanted.is_delta(topic)));
    let mut next = log.bounds().first;
    while next < end {
        match reader.read(next, end, READ_BYTES)? {
            Found::Records(chunk) => {
                chunk
                    .iter()
                    .filter(|record| declared.is_delta(record.topic))
                    .for_each(&mut look);
                next = chunk.last.next();
            }
            Found::Damaged { next: after, .. } => next = after.max(next.next()),
            Found::End => break,
        }
    }
    Ok(())
}

impl Chains {
    fn lock(&self) -> MutexGuard<'_, Option<Book>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether they are of this stand, so that [`Chains::recall`] is quick.
    pub(in crate::broker) fn know(&self, stand: Stand) -> bool {
        self.lock().as_ref().is_some_and(|book| book.stand == stand)
    }

    /// Does something with the chains, if they are of this stand.
    pub(in crate::broker) fn with<R>(
        &self,
        stand: Stand,
        work: impl FnOnce(&mut Book) -> R,
    ) -> Option<R> {
        let mut book = self.lock();
        book.as_mut().filter(|book| book.stand == stand).map(work)
    }

    /// Reads the chains from `log`, if they are not of this stand. Blocks.
    ///
    /// # Errors
    /// The log cannot be read; then nothing is known.
    pub(in crate::broker) fn recall(
        &self,
        stand: Stand,
        log: &Log,
        declared: &Arc<Declared>,
    ) -> Result<(), Error> {
        if self.know(stand) {
            return Ok(());
        }
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if self.know(stand) {
            return Ok(());
        }
        // Whatever is judged from here on is refused; whatever was before is read.
        *self.lock() = None;
        // The first is answered before the rest of its group is there to be read.
        for _ in 0..2 {
            wait_for_what_is_queued(log)?;
        }
        let mut book = Book::new(stand, KEYS_MAX);
        book.read(log, declared)?;
        *self.lock() = Some(book);
        Ok(())
    }
}

/// An append that is never stored: it is answered when all before it have their sequences.
#[derive(Debug)]
struct Fence;

impl Condition for Fence {
    fn judge(&mut self, _standing: &mut Standing<'_>, _records: &mut Vec<NewRecord>) -> Judgement {
        Judgement::Refuse {
            expected: 0,
            found: 0,
        }
    }

    fn settled(&mut self, _first: Option<Sequence>) {}
}

#[derive(Debug)]
struct Passed(SyncSender<Option<AppendError>>);

impl AppendSink for Passed {
    fn appended(&self, _token: u64, outcome: Result<Appended, AppendError>) {
        // Who does not wait any more does not miss it.
        self.0.try_send(outcome.err()).unwrap_or_default();
    }
}

fn wait_for_what_is_queued(log: &Log) -> Result<(), Error> {
    let (sender, receiver) = sync_channel(1);
    let append = Append {
        records: vec![NewRecord {
            topic: Bytes::new(),
            clock_entries: Bytes::new(),
            stamp: Bytes::new(),
            envelope: Bytes::new(),
        }],
        durability: Durability::Synced,
        then: None,
        sink: Arc::new(Passed(sender)),
        token: 0,
    };
    log.queue_if(append, Box::new(Fence))
        .map_err(Error::Append)?;
    log.start();
    match receiver.recv() {
        Ok(None | Some(AppendError::ConditionNotMet { .. })) => Ok(()),
        Ok(Some(error)) => Err(Error::Append(error)),
        // The log was closed and forgot the sink.
        Err(_) => Err(Error::ShuttingDown),
    }
}
