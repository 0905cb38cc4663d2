//! What is done to a named consumer by somebody who does not read with it: setting it elsewhere,
//! pausing it, deleting it (BRK-03, BRK-15).
//!
//! Such a change waits until no acknowledgement is on its way, and keeps others back while it is on
//! its own: the last record of a cursor holds, and an older position must not come last.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Consumers, Name, State, cursor_of};
use crate::broker::error::Error;
use crate::broker::name::{self, RealityName};
use crate::broker::system;
use crate::log::{AppendError, Sequence};

/// How long a change waits for acknowledgements that are on their way.
const WAIT_MAX: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    /// The next that is delivered is this one, or what comes after it.
    Set(Sequence),
    Paused(bool),
    Deleted,
}

impl Change {
    /// Only when nobody reads: whoever does would go on where it was.
    const fn needs_rest(self) -> bool {
        match self {
            Self::Set(_) | Self::Deleted => true,
            Self::Paused(_) => false,
        }
    }

    fn make(self, state: &mut State) {
        match self {
            Self::Set(next) => {
                state.stored = next.previous();
                state.from = Some(next);
            }
            Self::Paused(paused) => state.paused = paused,
            Self::Deleted => *state = State::default(),
        }
    }
}

impl Consumers {
    /// Sets a consumer that nobody reads with to another place. On disk on `Ok`. Blocks.
    ///
    /// # Errors
    /// There is no such consumer; a subscription has it; it cannot be stored.
    pub fn reset(
        self: &Arc<Self>,
        reality: &RealityName,
        consumer: &str,
        next: Sequence,
    ) -> Result<(), Error> {
        self.change(reality, consumer, Change::Set(next))
    }

    /// Delivers nothing to a consumer any more, or again; one that reads now keeps its subscription.
    /// On disk on `Ok`. Blocks.
    ///
    /// # Errors
    /// There is no such consumer; it cannot be stored.
    pub fn pause(
        self: &Arc<Self>,
        reality: &RealityName,
        consumer: &str,
        paused: bool,
    ) -> Result<(), Error> {
        self.change(reality, consumer, Change::Paused(paused))
    }

    /// Forgets a consumer that nobody reads with. On disk on `Ok`. Blocks.
    ///
    /// # Errors
    /// There is no such consumer; a subscription has it; it cannot be stored.
    pub fn delete(self: &Arc<Self>, reality: &RealityName, consumer: &str) -> Result<(), Error> {
        self.change(reality, consumer, Change::Deleted)
    }

    fn change(
        self: &Arc<Self>,
        reality: &RealityName,
        consumer: &str,
        change: Change,
    ) -> Result<(), Error> {
        self.check_intact()?;
        let name: Name = (reality.clone(), consumer.into());
        let mut after = self.begin(&name, change)?;
        change.make(&mut after);
        let stored = {
            let storing = self.storing.read();
            let _storing = storing.unwrap_or_else(std::sync::PoisonError::into_inner);
            let record = self.record(&name, &cursor_of(&name, &after, after.stored));
            system::append_and_wait(&self.system, record)
        };
        self.finish(&name, change, stored.is_ok());
        stored.map(drop)
    }

    /// Waits for what is on its way, and keeps others back. What there is then.
    fn begin(&self, name: &Name, change: Change) -> Result<State, Error> {
        let until = Instant::now() + WAIT_MAX;
        loop {
            let mut states = self.lock();
            let Some(state) = states.get_mut(name) else {
                return Err(Error::NoSuchConsumer {
                    reality: name.0.clone(),
                    consumer: name.1.chars().take(name::CONSUMER_BYTES_MAX).collect(),
                });
            };
            if state.holder.is_some() && change.needs_rest() {
                let consumer = name.1.to_string();
                return Err(Error::ConsumerInUse { consumer });
            }
            if !state.busy && state.under_way.is_none() && state.wanted.is_none() {
                state.busy = true;
                return Ok(State {
                    stored: state.stored,
                    filter: state.filter.clone(),
                    from: state.from,
                    paused: state.paused,
                    ..State::default()
                });
            }
            drop(states);
            if Instant::now() >= until {
                return Err(Error::Append(AppendError::Busy { waiting_bytes: 0 }));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn finish(self: &Arc<Self>, name: &Name, change: Change, stored: bool) {
        let mut states = self.lock();
        let Some(state) = states.get_mut(name) else {
            return;
        };
        state.busy = false;
        if stored {
            change.make(state);
        }
        let resumed = state.holder.clone().filter(|_| !state.paused);
        if state.is_blank() {
            states.remove(name);
        }
        drop(states);
        if let Some(holder) = resumed {
            holder.sink.resumed(holder.key);
        }
        // What was acknowledged meanwhile.
        if let Err(error) = self.send_wanted(name) {
            tracing::warn!(consumer = %name.1, %error, "an acknowledgement is not stored");
        }
    }
}
