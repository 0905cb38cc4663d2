//! Named consumers: where each has got to in a reality (BRK-03).
//!
//! A cursor is a fold of the topic `sys.consumer.<reality>.<consumer>` of the tenant's `_system`
//! reality: the last record holds. Acknowledgements are gathered: while one is on its way to the
//! disk, later ones replace each other and the last goes next. A named consumer has at most one
//! subscription; a second is refused, and stays so until the first has ended.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;

use super::error::Error;
use super::name::{self, RealityName};
use super::reality::Reality;
use super::system;
use crate::log::{AppendError, AppendSink, Appended, Found, Sequence};
use crate::proto::v1::ConsumerCursor;
use crate::proto::view::RecordView;

/// First tokens of the topics that hold cursors.
const TOPIC_PREFIX: &str = "sys.consumer.";
const SCHEMA: &str = "arqon.v1.ConsumerCursor";

/// Told, on a commit thread, how an acknowledgement ended: must be quick and must not block.
pub trait CursorSink: Send + Sync + Debug {
    /// The cursor of the subscription called `key` is on disk up to a sequence, or was not stored.
    /// Call [`Lease::stored`] afterwards, elsewhere.
    fn moved(&self, key: u64, outcome: Result<Sequence, AppendError>);
}

/// A consumer in a reality.
type Name = (RealityName, Box<str>);

#[derive(Debug, Default)]
struct State {
    /// On disk.
    stored: Option<Sequence>,
    /// On its way there.
    under_way: Option<Sequence>,
    /// To go next.
    wanted: Option<Sequence>,
    leased: bool,
}

/// The named consumers of one tenant.
#[derive(Debug)]
pub struct Consumers {
    system: Arc<Reality>,
    states: Mutex<HashMap<Name, State>>,
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
}

impl Consumers {
    /// Folds the cursors out of the system reality. Blocks on the disk.
    pub(super) fn fold(system: &Arc<Reality>, limit: usize) -> Result<Arc<Self>, Error> {
        let mut states = HashMap::new();
        let log = system.log();
        for topic in log.topics()? {
            if !topic.topic.starts_with(TOPIC_PREFIX) {
                continue;
            }
            let found = log.read(topic.last, topic.last.next(), 1)?;
            let Some(cursor) = cursor_in(&found) else {
                tracing::error!(tenant = %system.tenant(), topic = topic.topic, "cursor not readable; its consumer starts anew");
                continue;
            };
            let Ok(reality) = RealityName::new(&cursor.reality) else {
                continue;
            };
            let state = State {
                stored: Sequence::new(cursor.sequence),
                ..State::default()
            };
            states.insert((reality, cursor.consumer.into()), state);
        }
        Ok(Arc::new(Self {
            system: Arc::clone(system),
            states: Mutex::new(states),
            limit,
        }))
    }

    /// Takes the named consumer for one subscription.
    ///
    /// # Errors
    /// The name breaks its rule; it is in use; there are too many.
    pub fn lease(
        self: &Arc<Self>,
        reality: &Arc<Reality>,
        consumer: &str,
        key: u64,
        sink: Arc<dyn CursorSink>,
    ) -> Result<Lease, Error> {
        name::check_consumer(consumer).map_err(|fault| Error::Name {
            field: "consumer",
            fault,
        })?;
        let name = (reality.name().clone(), consumer.into());
        let mut states = self.lock();
        let known = states.len();
        if !states.contains_key(&name) && known >= self.limit {
            return Err(Error::ConsumersFull { limit: self.limit });
        }
        let state = states.entry(name.clone()).or_default();
        if state.leased {
            let consumer = consumer.to_owned();
            return Err(Error::ConsumerInUse { consumer });
        }
        state.leased = true;
        drop(states);
        Ok(Lease {
            consumers: Arc::clone(self),
            reality: Arc::clone(reality),
            name,
            key,
            sink,
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
            active: state.leased,
        };
        sorted.into_iter().map(summary).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the wanted position on its way. The lock is not held while the log is called, which
    /// calls sinks in its turn.
    fn store(
        self: &Arc<Self>,
        name: &Name,
        sequence: Sequence,
        notify: Option<(u64, Arc<dyn CursorSink>)>,
    ) -> Result<(), Error> {
        let cursor = ConsumerCursor {
            reality: name.0.as_str().into(),
            consumer: name.1.to_string(),
            sequence: sequence.get(),
        };
        let topic = format!("{TOPIC_PREFIX}{}.{}", name.0, name.1);
        let data = cursor.encode_to_vec().into();
        let record = system::event(&self.system, topic, "consumer.cursor", SCHEMA, data);
        let stored = Arc::new(Stored {
            consumers: Arc::clone(self),
            name: name.clone(),
            sequence,
            notify,
        });
        let appended = self.system.append_own(record, stored, 0);
        appended.map_err(|error| self.system.refusal(error))
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
    notify: Option<(u64, Arc<dyn CursorSink>)>,
}

impl AppendSink for Stored {
    fn appended(&self, _token: u64, outcome: Result<Appended, AppendError>) {
        let outcome = outcome.map(|_| self.sequence);
        let mut states = self.consumers.lock();
        let state = states.entry(self.name.clone()).or_default();
        state.under_way = None;
        match &outcome {
            Ok(stored) => state.stored = state.stored.max(Some(*stored)),
            Err(_) => state.wanted = None,
        }
        drop(states);
        if let Some((key, sink)) = &self.notify {
            sink.moved(*key, outcome);
        }
    }
}

/// A named consumer in the hands of one subscription; given back when dropped.
#[derive(Debug)]
pub struct Lease {
    consumers: Arc<Consumers>,
    reality: Arc<Reality>,
    name: Name,
    key: u64,
    sink: Arc<dyn CursorSink>,
}

impl Lease {
    /// Its name.
    #[must_use]
    pub fn consumer(&self) -> &str {
        &self.name.1
    }

    /// Everything up to and including this is done, and that is on disk.
    #[must_use]
    pub fn cursor(&self) -> Option<Sequence> {
        self.consumers.lock().get(&self.name)?.stored
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
        let state = states.entry(self.name.clone()).or_default();
        if state.stored >= Some(sequence) {
            return Ok(true);
        }
        state.wanted = state.wanted.max(Some(sequence));
        drop(states);
        self.stored()?;
        Ok(false)
    }

    /// Sends the next position on its way, if there is one and none is.
    ///
    /// # Errors
    /// The log refused; the position is forgotten.
    pub fn stored(&self) -> Result<(), Error> {
        let mut states = self.consumers.lock();
        let state = states.entry(self.name.clone()).or_default();
        if state.under_way.is_some() {
            return Ok(());
        }
        let Some(sequence) = state.wanted.take() else {
            return Ok(());
        };
        state.under_way = Some(sequence);
        drop(states);
        let notify = (self.key, Arc::clone(&self.sink));
        let result = self.consumers.store(&self.name, sequence, Some(notify));
        if result.is_err() {
            let mut states = self.consumers.lock();
            states.entry(self.name.clone()).or_default().under_way = None;
        }
        result
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut states = self.consumers.lock();
        let state = states.entry(self.name.clone()).or_default();
        state.leased = false;
        // Behind the one under way, if there is one: the log keeps the order.
        let last = state.wanted.take();
        if last.is_none() && state.stored.is_none() && state.under_way.is_none() {
            // Never acknowledged anything: nothing to remember.
            states.remove(&self.name);
        }
        drop(states);
        if let Some(sequence) = last
            && let Err(error) = self.consumers.store(&self.name, sequence, None)
        {
            tracing::warn!(consumer = %self.name.1, %error, "last acknowledgement not stored");
        }
    }
}
