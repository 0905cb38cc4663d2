//! Which topics of a tenant are delta topics: a fold of its events, and what its realities look at.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use serde::{Deserialize, Serialize};

use crate::broker::error::Error;
use crate::broker::filter::Filter;
use crate::broker::journal::{Event, NewEvent, Unreadable};
use crate::broker::ledger::{State, Unfit};
use crate::broker::tenancy::Tenancy;
use crate::proto::topic::is_reserved;

const TOPIC: &str = "sys.topic.delta";
const DECLARED: &str = "topic.declared";
const UNDECLARED: &str = "topic.undeclared";

/// A declaration or its end, as it is recorded.
#[derive(Serialize, Deserialize)]
struct Recorded {
    pattern: String,
    by: String,
}

/// The declarations of a tenant, as its events come to.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Register {
    /// How often they were changed.
    edition: u64,
    /// By pattern: who declared it.
    patterns: BTreeMap<String, String>,
}

impl Register {
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.patterns.iter();
        all.map(|(pattern, by)| (pattern.as_str(), by.as_str()))
    }

    pub(super) fn holds(&self, pattern: &str) -> bool {
        self.patterns.contains_key(pattern)
    }

    pub(super) fn len(&self) -> usize {
        self.patterns.len()
    }

    fn look(&self) -> Declared {
        let patterns = self.patterns.keys();
        Declared {
            // 0 is for what is not known.
            edition: self.edition + 1,
            patterns: patterns.filter_map(|one| Filter::new(one).ok()).collect(),
        }
    }
}

/// What is recorded of a pattern.
pub(super) fn event(
    pattern: &str,
    by: &str,
    is_declared: bool,
) -> Result<NewEvent<'static>, Error> {
    let recorded = Recorded {
        pattern: pattern.to_owned(),
        by: by.to_owned(),
    };
    Ok(NewEvent {
        topic: TOPIC.to_owned(),
        kind: if is_declared { DECLARED } else { UNDECLARED },
        schema: "",
        data: serde_json::to_vec(&recorded)
            .or(Err(Error::Internal))?
            .into(),
    })
}

impl State for Register {
    const NAME: &'static str = "delta-topics";
    const VERSION: u32 = 1;
    const TOPICS: &'static [&'static str] = &[TOPIC];

    fn apply(&mut self, event: &Event<'_>) -> Result<(), Unfit> {
        let recorded: Recorded = serde_json::from_slice(event.data).map_err(Unfit::new)?;
        Filter::new(&recorded.pattern).map_err(Unfit::new)?;
        match event.kind {
            DECLARED => drop(self.patterns.insert(recorded.pattern, recorded.by)),
            UNDECLARED => drop(self.patterns.remove(&recorded.pattern)),
            kind => return Err(Unfit::new(format!("there is no event {kind:?} of topics"))),
        }
        self.edition += 1;
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn load(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// The delta topics of a tenant at one time.
#[derive(Debug, Default)]
pub(in crate::broker) struct Declared {
    /// Another for every other set of them; 0 while they are not known.
    pub(in crate::broker) edition: u64,
    patterns: Vec<Filter>,
}

impl Declared {
    /// Whether `topic` is a delta topic. Those that the node alone appends to are none.
    pub(in crate::broker) fn is_delta(&self, topic: &str) -> bool {
        !self.patterns.is_empty()
            && !is_reserved(topic)
            && self.patterns.iter().any(|pattern| pattern.governs(topic))
    }

    #[cfg(test)]
    pub(super) fn of(patterns: &[&str]) -> Arc<Self> {
        let patterns = patterns.iter().map(|one| Filter::new(one).unwrap());
        Arc::new(Self {
            edition: 1,
            patterns: patterns.collect(),
        })
    }
}

/// The declarations of one tenant, for all its realities. Whoever appends looks at them until what
/// it appends is queued, so that after a change nothing is queued that was looked at before.
#[derive(Debug, Default)]
pub(in crate::broker) struct Declarations {
    now: RwLock<Arc<Declared>>,
}

impl Declarations {
    /// They do not change while the answer is held.
    pub(in crate::broker) fn hold(&self) -> RwLockReadGuard<'_, Arc<Declared>> {
        self.now.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// As they are now.
    pub(in crate::broker) fn now(&self) -> Arc<Declared> {
        Arc::clone(&self.hold())
    }

    /// Reads them, if they have not been. Blocks then.
    ///
    /// # Errors
    /// The tenant's events cannot be read: then nobody knows where what may be appended.
    pub(in crate::broker) fn know(&self, tenancy: &Tenancy) -> Result<(), Error> {
        if self.hold().edition > 0 {
            return Ok(());
        }
        self.read(tenancy)
    }

    /// Reads them anew. Blocks.
    pub(super) fn read(&self, tenancy: &Tenancy) -> Result<(), Error> {
        let declared = match tenancy.ledger::<Register>().read(Register::look) {
            Err(Error::StateDamaged { .. }) => what_is_left(tenancy)?.look(),
            read => read?,
        };
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        // Of two who read at the same time the later reading counts.
        if declared.edition > now.edition {
            *now = Arc::new(declared);
        }
        Ok(())
    }
}

/// What the events come to that can be read, where some cannot: nothing is declared until they are
/// repaired, and what is known to be a delta topic stays one.
fn what_is_left(tenancy: &Tenancy) -> Result<Register, Error> {
    let filter = Filter::new(TOPIC).map_err(|fault| Error::Name {
        field: "topic",
        fault,
    })?;
    let mut register = Register::default();
    let first = tenancy.first_event();
    let read = tenancy.events::<Stopped>(&filter, first, |event| {
        register.apply(&event).map_err(Stopped::new)
    });
    let damaged = |Stopped(reason)| Error::StateDamaged {
        state: Register::NAME,
        reason,
    };
    let through = read.map_err(damaged)?;
    for (first, last) in through.lost {
        tracing::warn!(tenant = %tenancy.tenant(), first, last, "declarations of topics may be lost; going on with the others");
    }
    Ok(register)
}

/// Why the events could not be read to their end.
struct Stopped(String);

impl Stopped {
    #[expect(clippy::needless_pass_by_value, reason = "as `map_err` hands it over")]
    fn new(why: impl ToString) -> Self {
        Self(why.to_string())
    }
}

impl From<Unreadable> for Stopped {
    fn from(unreadable: Unreadable) -> Self {
        Self::new(unreadable)
    }
}
