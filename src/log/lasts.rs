//! The last sequence of each topic in sealed segments, for conditions.
//!
//! What the growing segment has is in its index anyhow. Of what lies before it nothing is held until
//! somebody asks with a condition; then all of it is, at about 40 bytes a topic, so that also a
//! topic that is nowhere is answered from memory. Logs with more than [`TOPICS_MAX`] topics are
//! answered from the indexes of their segments instead, which may have to be read.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, PoisonError};

use super::error::Error;
use super::index::Index;
use super::position::Sequence;
use super::state::State;

/// Topics whose last sequence is held.
const TOPICS_MAX: usize = 1 << 20;
/// How often gathering begins anew because segments were removed or replaced under it.
const GATHERED_TIMES: usize = 4;

/// A topic, by two hashes whose keys nobody outside knows: one is not enough to be sure.
type Key = [u64; 2];

/// Last sequences by topic.
#[derive(Debug, Default)]
pub(super) struct Lasts {
    hashers: [RandomState; 2],
    known: Known,
    /// How often segments were removed or replaced.
    changes: u64,
}

#[derive(Debug, Default)]
enum Known {
    /// Nobody has asked, or segments were replaced since.
    #[default]
    Nothing,
    All(HashMap<Key, Sequence>),
    /// There are too many.
    TooMany,
}

impl Lasts {
    fn key(&self, topic: &str) -> Key {
        [
            self.hashers[0].hash_one(topic),
            self.hashers[1].hash_one(topic),
        ]
    }

    fn add(&mut self, index: &Index) {
        let Self { hashers, known, .. } = self;
        let Known::All(lasts) = known else { return };
        for (name, topic) in &index.topics {
            let key = [hashers[0].hash_one(&**name), hashers[1].hash_one(&**name)];
            let last = lasts.entry(key).or_insert(topic.last);
            *last = (*last).max(topic.last);
        }
        if lasts.len() > TOPICS_MAX {
            *known = Known::TooMany;
        }
    }

    /// A segment is sealed. Before another one grows.
    pub(super) fn sealed(&mut self, index: &Index) {
        self.add(index);
    }

    /// Nothing before `first` is there any more.
    pub(super) fn trimmed(&mut self, first: Sequence) {
        self.changes += 1;
        match &mut self.known {
            Known::All(lasts) => lasts.retain(|_, last| *last >= first),
            Known::TooMany => self.known = Known::Nothing,
            Known::Nothing => {}
        }
    }

    /// A segment was replaced by one with fewer records.
    pub(super) fn replaced(&mut self) {
        self.changes += 1;
        self.known = Known::Nothing;
    }
}

impl State {
    pub(super) fn removals(&self) -> u64 {
        self.lock_lasts().changes
    }

    pub(super) fn knows_lasts(&self) -> bool {
        !matches!(self.lock_lasts().known, Known::Nothing)
    }

    /// Makes sure that [`State::last_of`] is answered from memory. Reads the indexes of all
    /// segments if it has to; blocks.
    pub(super) fn know_lasts(&self) -> Result<(), Error> {
        // Where segments are replaced all the time the indexes are asked, which is as right.
        for _ in 0..GATHERED_TIMES {
            if self.gather_lasts()? {
                break;
            }
        }
        Ok(())
    }

    /// `false` if segments were removed or replaced meanwhile.
    fn gather_lasts(&self) -> Result<bool, Error> {
        let mut gathered = {
            let lasts = self.lock_lasts();
            if !matches!(lasts.known, Known::Nothing) {
                return Ok(true);
            }
            Lasts {
                hashers: lasts.hashers.clone(),
                known: Known::All(HashMap::new()),
                changes: lasts.changes,
            }
        };
        let segments = self.segments();
        for segment in &segments {
            segment.with_index(&*self.storage, |index| gathered.add(index))?;
            self.keep_index(segment);
        }
        let mut lasts = self.lock_lasts();
        if lasts.changes != gathered.changes {
            return Ok(false);
        }
        // What was sealed since is in memory; what is sealed from here on waits for the lock.
        let through = segments.last().map(|last| last.base);
        for segment in self.segments() {
            if through.is_none_or(|through| segment.base >= through) {
                segment.with_index(&*self.storage, |index| gathered.add(index))?;
            }
        }
        *lasts = gathered;
        Ok(true)
    }

    /// The last sequence on `topic`; `None` if no record of it is in the log.
    pub(super) fn last_of(&self, topic: &str) -> Result<Option<Sequence>, Error> {
        let last_in = |index: &Index| index.topics.get(topic).map(|topic| topic.last);
        let growing = {
            let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
            segments.last().map(Arc::clone)
        };
        if let Some(growing) = &growing
            && let Some(last) = growing.with_index(&*self.storage, last_in)?
        {
            return Ok(Some(last));
        }
        {
            let lasts = self.lock_lasts();
            if let Known::All(known) = &lasts.known {
                return Ok(known.get(&lasts.key(topic)).copied());
            }
        }
        for segment in self.segments().iter().rev() {
            let last = segment.with_index(&*self.storage, last_in)?;
            self.keep_index(segment);
            if last.is_some() {
                return Ok(last);
            }
        }
        Ok(None)
    }
}
