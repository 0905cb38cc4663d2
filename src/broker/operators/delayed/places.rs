//! In which realities of a tenant something may wait: a fold of its events, so that a node that
//! starts knows where to look.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::broker::journal::{Event, NewEvent};
use crate::broker::ledger::{State, Unfit};

const TOPIC_PREFIX: &str = "sys.op.delayed.";
const USED: &str = "delayed.used";
const EMPTY: &str = "delayed.empty";

/// What is said of a reality.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// Something may wait there from now on.
    Used,
    /// Nothing waits there any more.
    Empty,
}

impl Change {
    pub(super) fn event(self, reality: &str) -> NewEvent<'static> {
        NewEvent {
            topic: format!("{TOPIC_PREFIX}{reality}"),
            kind: match self {
                Self::Used => USED,
                Self::Empty => EMPTY,
            },
            schema: "",
            data: Bytes::from_static(b"{}"),
        }
    }
}

/// The names of the realities in which something may wait.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Places(BTreeSet<String>);

impl Places {
    pub(super) fn holds(&self, reality: &str) -> bool {
        self.0.contains(reality)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl State for Places {
    const NAME: &'static str = "delayed";
    const VERSION: u32 = 1;
    const TOPICS: &'static [&'static str] = &["sys.op.delayed.*"];

    fn apply(&mut self, event: &Event<'_>) -> Result<(), Unfit> {
        let reality = event.topic.strip_prefix(TOPIC_PREFIX).unwrap_or_default();
        match event.kind {
            USED => drop(self.0.insert(reality.to_owned())),
            EMPTY => drop(self.0.remove(reality)),
            kind => return Err(Unfit::new(format!("there is no event {kind:?} of waiting"))),
        }
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).unwrap_or_default()
    }

    fn load(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Micros, Sequence};

    // OPS-14
    #[test]
    fn what_was_kept_is_what_the_events_come_to() {
        let mut places = Places::default();
        for (change, reality) in [
            (Change::Used, "main"),
            (Change::Used, "what-if"),
            (Change::Empty, "main"),
        ] {
            let event = change.event(reality);
            let read = Event {
                sequence: Sequence::FIRST,
                at: Micros(0),
                topic: &event.topic,
                kind: event.kind,
                data: &event.data,
            };
            places.apply(&read).unwrap();
        }
        assert_eq!(places.all().collect::<Vec<_>>(), ["what-if"]);
        assert_eq!(Places::load(&places.save()), Some(places));
    }
}
