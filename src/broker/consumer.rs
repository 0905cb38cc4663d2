//! Named consumers: where each has got to in a reality (BRK-03).
//!
//! A cursor is a fold of the topic `sys.consumer.<reality>.<consumer>` of the tenant's `_system`
//! reality: the last record holds. Acknowledgements are gathered: while one is on its way to the
//! disk, later ones replace each other and the last goes next. A named consumer has at most one
//! subscription; a second is refused, and stays so until the first has ended.

pub(super) mod administration;
pub(super) mod commands;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use prost::Message as _;

use super::damage::without_directories;
use super::error::Error;
use super::filter::Filter;
use super::name::{self, RealityName};
use super::reality::Reality;
use super::system;
use crate::log::{self, AppendError, AppendSink, Appended, Found, NewRecord, Sequence};
use crate::proto::v1::ConsumerCursor;
use crate::proto::view::RecordView;

/// First tokens of the topics that hold cursors.
pub(super) const TOPIC_PREFIX: &str = "sys.consumer.";
const SCHEMA: &str = "arqon.v1.ConsumerCursor";

/// Told, on a commit thread, how an acknowledgement ended: must be quick and must not block.
pub trait CursorSink: Send + Sync + Debug {
    /// The cursor of the subscription called `key` is on disk up to a sequence, or was not stored.
    fn moved(&self, key: u64, outcome: Result<Sequence, AppendError>);

    /// The consumer of the subscription called `key` was paused and is no more.
    fn resumed(&self, key: u64);
}

/// A consumer in a reality.
type Name = (RealityName, Box<str>);

#[derive(Debug, Default)]
struct State {
    /// On disk.
    stored: Option<Sequence>,
    /// The last on its way there.
    under_way: Option<Sequence>,
    /// To go next.
    wanted: Option<Sequence>,
    /// Who has it, and is told where it has got to.
    holder: Option<Holder>,
    /// What it reads: the cursor of one filter says nothing about another, and whoever may see
    /// less must not move it for whoever may see more.
    filter: Option<Box<str>>,
    /// Where it begins while nothing is done, if somebody has set that.
    from: Option<Sequence>,
    /// Nothing is delivered to it.
    paused: bool,
    /// Somebody is changing it who does not read: nothing else is stored meanwhile.
    busy: bool,
}

impl State {
    /// Everything up to and including this has been acknowledged.
    fn reached(&self) -> Option<Sequence> {
        self.stored.max(self.under_way).max(self.wanted)
    }

    /// Nothing of it is worth remembering.
    fn is_blank(&self) -> bool {
        let kept = self.reached().is_some() || self.from.is_some() || self.paused;
        self.holder.is_none() && !kept && !self.busy
    }
}

#[derive(Clone, Debug)]
struct Holder {
    key: u64,
    sink: Arc<dyn CursorSink>,
}

/// The named consumers of one tenant.
#[derive(Debug)]
pub struct Consumers {
    system: Arc<Reality>,
    states: Mutex<HashMap<Name, State>>,
    /// Held for reading while a cursor is handed to the log, so that none comes after the end of
    /// its reality. Taken before `states`.
    storing: RwLock<()>,
    /// Why the cursors found at the start are not all there are.
    damage: Option<String>,
    limit: usize,
}

/// One named consumer, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary {
    /// The reality it reads.
    pub reality: RealityName,
    /// Its name.
    pub consumer: String,
    /// Everything up to and including this is done.
    pub sequence: Option<Sequence>,
    /// Whether a subscription moves it now.
    pub active: bool,
    /// What it reads, once that is known.
    pub filter: Option<String>,
    /// Where it begins while nothing is done, if somebody has set that.
    pub from: Option<Sequence>,
    /// Nothing is delivered to it.
    pub paused: bool,
}

impl Summary {
    /// What it has not done yet begins here.
    #[must_use]
    pub fn next(&self) -> Sequence {
        let from = self.from.unwrap_or(Sequence::FIRST);
        self.sequence.map_or(from, Sequence::next)
    }
}

impl Consumers {
    /// Folds the cursors out of the system reality. Blocks on the disk.
    pub(super) fn fold(system: &Arc<Reality>, limit: usize) -> Result<Arc<Self>, Error> {
        let mut states = HashMap::new();
        let log = system.log();
        let mut damage = None;
        let topics = log.topics().or_else(|error| match error {
            log::Error::Damaged(found) => {
                damage = Some(without_directories(&found).to_string());
                Ok(Vec::new())
            }
            error => Err(error),
        });
        for topic in topics? {
            if !topic.topic.starts_with(TOPIC_PREFIX) {
                continue;
            }
            let found = log.read(topic.last, topic.last.next(), 1)?;
            let Some(cursor) = cursor_in(&found) else {
                tracing::error!(tenant = %system.tenant(), topic = topic.topic, "cursor not readable");
                damage = Some(format!("the cursor at {} cannot be read", topic.topic));
                continue;
            };
            let Ok(reality) = RealityName::new(&cursor.reality) else {
                continue;
            };
            let (stored, from) = (Sequence::new(cursor.sequence), Sequence::new(cursor.from));
            if stored.is_none() && from.is_none() && !cursor.paused {
                // It ended, by itself or with its reality.
                continue;
            }
            let state = State {
                stored,
                from,
                paused: cursor.paused,
                filter: (!cursor.filter.is_empty()).then(|| cursor.filter.into()),
                ..State::default()
            };
            states.insert((reality, cursor.consumer.into()), state);
        }
        Ok(Arc::new(Self {
            system: Arc::clone(system),
            states: Mutex::new(states),
            storing: RwLock::new(()),
            damage,
            limit,
        }))
    }

    /// Takes the named consumer for one subscription.
    ///
    /// # Errors
    /// The name breaks its rule; it is in use, or reads another filter; there are too many; the
    /// cursors are damaged.
    pub fn lease(
        self: &Arc<Self>,
        reality: &Arc<Reality>,
        consumer: &str,
        filter: &Filter,
        key: u64,
        sink: Arc<dyn CursorSink>,
    ) -> Result<Lease, Error> {
        name::check_consumer(consumer).map_err(|fault| Error::Name {
            field: "consumer",
            fault,
        })?;
        self.check_intact()?;
        let name = (reality.name().clone(), consumer.into());
        let mut states = self.lock();
        reality.check_there()?;
        let known = states.len();
        if !states.contains_key(&name) && known >= self.limit {
            return Err(Error::ConsumersFull { limit: self.limit });
        }
        let state = states.entry(name.clone()).or_default();
        if state.holder.is_some() || state.busy {
            let consumer = consumer.to_owned();
            return Err(Error::ConsumerInUse { consumer });
        }
        let asked = filter.to_string();
        match &state.filter {
            Some(bound) if **bound != *asked => {
                return Err(Error::ConsumerFilter {
                    consumer: consumer.to_owned(),
                    bound: bound.to_string(),
                    asked: filter.clone(),
                });
            }
            Some(_) => {}
            None => state.filter = Some(asked.into()),
        }
        state.holder = Some(Holder { key, sink });
        drop(states);
        Ok(Lease {
            consumers: Arc::clone(self),
            reality: Arc::clone(reality),
            name,
        })
    }

    /// A cursor that lies in the damaged part would be taken for none, or for an older one.
    fn check_intact(&self) -> Result<(), Error> {
        let lasting = self.system.read_only().filter(|state| !state.repairing);
        let reason = self.damage.clone().or(lasting.map(|state| state.reason));
        reason.map_or(Ok(()), |reason| {
            let tenant = self.system.tenant().clone();
            Err(Error::CursorsDamaged { tenant, reason })
        })
    }

    /// All of them, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Summary> {
        let states = self.lock();
        let sorted: BTreeMap<_, _> = states.iter().collect();
        let summary = |((reality, consumer), state): (&Name, &State)| Summary {
            reality: reality.clone(),
            consumer: consumer.to_string(),
            sequence: state.stored,
            active: state.holder.is_some(),
            filter: state.filter.as_deref().map(str::to_owned),
            from: state.from,
            paused: state.paused,
        };
        sorted.into_iter().map(summary).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the wanted position on its way, if there is one and none is. The lock is not held
    /// while the log is called, which calls sinks in its turn.
    fn send_wanted(self: &Arc<Self>, name: &Name) -> Result<(), AppendError> {
        let mut states = self.lock();
        let Some(state) = states.get_mut(name) else {
            return Ok(());
        };
        if state.under_way.is_some() || state.busy {
            return Ok(());
        }
        let Some(sequence) = state.wanted.take() else {
            return Ok(());
        };
        state.under_way = Some(sequence);
        drop(states);
        self.store(name, sequence)
    }

    /// Stores a position that is noted as under way; if the log refuses, it is so no more.
    fn store(self: &Arc<Self>, name: &Name, sequence: Sequence) -> Result<(), AppendError> {
        let _storing = self.storing.read().unwrap_or_else(PoisonError::into_inner);
        let cursor = match self.lock().get(name) {
            Some(state) => cursor_of(name, state, Some(sequence)),
            // Its reality has been deleted.
            None => return Ok(()),
        };
        let record = self.record(name, &cursor);
        let stored = Arc::new(Stored {
            consumers: Arc::clone(self),
            name: name.clone(),
            sequence,
        });
        let result = self.system.append_own(record, stored, 0);
        if result.is_err() {
            self.settle(name, sequence, false);
        }
        result
    }

    fn record(&self, name: &Name, cursor: &ConsumerCursor) -> NewRecord {
        let topic = format!("{TOPIC_PREFIX}{}.{}", name.0, name.1);
        let data = cursor.encode_to_vec().into();
        system::event(&self.system, topic, "consumer.cursor", SCHEMA, data)
    }

    /// Ends the cursors of a reality that is being deleted, so that another of its name begins
    /// without. On disk on `Ok`. Blocks.
    pub(super) fn forget(&self, reality: &RealityName) -> Result<(), Error> {
        let mut ended: Vec<(Name, State)> = {
            let _storing = self.storing.write().unwrap_or_else(PoisonError::into_inner);
            let mut states = self.lock();
            let of_it = states.extract_if(|(of, _), _| of == reality);
            of_it.collect()
        };
        while let Some((name, state)) = ended.pop() {
            // Nothing is done.
            let record = self.record(&name, &cursor_of(&name, &State::default(), None));
            if let Err(error) = system::append_and_wait(&self.system, record) {
                // Another attempt must find those that have not ended yet.
                ended.push((name, state));
                self.lock().extend(ended);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Notes how storing a position ended; returns who is to be told.
    fn settle(&self, name: &Name, sequence: Sequence, stored: bool) -> Option<Holder> {
        let mut states = self.lock();
        let state = states.get_mut(name)?;
        if state.under_way <= Some(sequence) {
            state.under_way = None;
        }
        if stored {
            state.stored = state.stored.max(Some(sequence));
            state.wanted = state.wanted.filter(|wanted| *wanted > sequence);
            if state.stored > Some(sequence) && state.under_way.is_none() {
                // Two were sent from two threads at once and stand in the wrong order: the last
                // record holds, so the later position has to be written again.
                state.wanted = state.wanted.max(state.stored);
            }
        } else {
            state.wanted = None;
        }
        let holder = state.holder.clone();
        if state.is_blank() {
            states.remove(name);
        }
        holder
    }
}

/// What is stored of a consumer that has done everything up to and including `sequence`.
fn cursor_of(name: &Name, state: &State, sequence: Option<Sequence>) -> ConsumerCursor {
    ConsumerCursor {
        reality: name.0.as_str().into(),
        consumer: name.1.to_string(),
        sequence: sequence.map_or(0, Sequence::get),
        filter: state.filter.as_deref().unwrap_or_default().into(),
        paused: state.paused,
        from: match sequence {
            Some(_) => 0,
            None => state.from.map_or(0, Sequence::get),
        },
    }
}

fn cursor_in(found: &Found) -> Option<ConsumerCursor> {
    let Found::Records(chunk) = found else {
        return None;
    };
    let record = chunk.iter().next()?;
    let view = RecordView::parse(record.record).ok()?;
    ConsumerCursor::decode(view.envelope.payload.data()).ok()
}

/// A position on its way to the disk.
#[derive(Debug)]
struct Stored {
    consumers: Arc<Consumers>,
    name: Name,
    sequence: Sequence,
}

impl AppendSink for Stored {
    fn appended(&self, _token: u64, outcome: Result<Appended, AppendError>) {
        let outcome = outcome.map(|_| self.sequence);
        let holder = self
            .consumers
            .settle(&self.name, self.sequence, outcome.is_ok());
        // Not left to whoever acknowledged it, who may be gone.
        let next = self.consumers.send_wanted(&self.name);
        let Some(Holder { key, sink }) = holder else {
            if let Some(error) = outcome.err().or(next.err()) {
                tracing::warn!(consumer = %self.name.1, %error, "last acknowledgement not stored");
            }
            return;
        };
        sink.moved(key, outcome);
        if let Err(error) = next {
            sink.moved(key, Err(error));
        }
    }
}

/// A named consumer in the hands of one subscription; given back when dropped.
#[derive(Debug)]
pub struct Lease {
    consumers: Arc<Consumers>,
    reality: Arc<Reality>,
    name: Name,
}

impl Lease {
    /// Its name.
    #[must_use]
    pub fn consumer(&self) -> &str {
        &self.name.1
    }

    /// Everything up to and including this is done; that is on disk, or on its way there.
    #[must_use]
    pub fn cursor(&self) -> Option<Sequence> {
        self.consumers.lock().get(&self.name)?.reached()
    }

    /// Where it begins while nothing is done, if somebody has set that.
    pub(super) fn from(&self) -> Option<Sequence> {
        self.consumers.lock().get(&self.name)?.from
    }

    /// Whether nothing is to be delivered to it.
    pub(super) fn is_paused(&self) -> bool {
        let states = self.consumers.lock();
        states.get(&self.name).is_some_and(|state| state.paused)
    }

    /// Everything up to and including `sequence` is done. `true` if that is on disk already; else
    /// the sink hears of it. An earlier position than before changes nothing.
    ///
    /// # Errors
    /// The sequence is not on disk, so cannot have been delivered for good; the log refused.
    pub fn ack(&self, sequence: Sequence) -> Result<bool, Error> {
        let durable_end = self.reality.bounds().durable_end;
        if sequence >= durable_end {
            return Err(Error::BeyondEnd {
                asked: sequence.get(),
                last: durable_end.get() - 1,
            });
        }
        let mut states = self.consumers.lock();
        // With the lock held: what is noted now is still found by whoever ends the cursors.
        self.reality.check_there()?;
        let state = states.entry(self.name.clone()).or_default();
        if state.stored >= Some(sequence) {
            return Ok(true);
        }
        if state.reached() < Some(sequence) {
            state.wanted = Some(sequence);
        }
        drop(states);
        let sent = self.consumers.send_wanted(&self.name);
        sent.map_err(|error| self.consumers.system.refusal(error))?;
        Ok(false)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut states = self.consumers.lock();
        if self.reality.is_gone() {
            // Its cursor has ended, and one of the same name is another's.
            return;
        }
        let Some(state) = states.get_mut(&self.name) else {
            return;
        };
        state.holder = None;
        if state.busy {
            // Whoever is changing it sends what is wanted afterwards.
            return;
        }
        // Behind the one under way, if there is one, so that it goes before the log is closed: the
        // log keeps the order.
        let last = state.wanted.take();
        state.under_way = state.under_way.max(last);
        if state.is_blank() {
            // Never acknowledged anything: nothing to remember.
            states.remove(&self.name);
        }
        drop(states);
        if let Some(sequence) = last
            && let Err(error) = self.consumers.store(&self.name, sequence)
        {
            tracing::warn!(consumer = %self.name.1, %error, "last acknowledgement not stored");
        }
    }
}
