//! Ids that producers have given lately, and where their envelopes stand.
//!
//! Kept in [`PARTS`] parts and one that grows; the oldest part goes when all of it has left the
//! window, by time or by number. So at least the window is known, and at most a fifth more, at the
//! price of one map that is dropped whole instead of an entry that is dropped for each that comes.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::LazyLock;

use crate::log::Micros;

/// How finely the window is divided.
const PARTS: usize = 5;

/// Keys that nobody outside knows: whoever chooses ids cannot make two fall together.
static HASHERS: LazyLock<[RandomState; 2]> = LazyLock::new(Default::default);

/// An id on its topic. Two hashes, so that two ids are never taken for one: with one of 64 bits and
/// a million ids known, one message in 20 trillion would be lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key([u64; 2]);

impl Key {
    /// The topic belongs to it: who may not publish there cannot use up an id there.
    pub(super) fn of(topic: &str, id: &str) -> Self {
        let hash = |hasher: &RandomState| hasher.hash_one((topic, id));
        Self([hash(&HASHERS[0]), hash(&HASHERS[1])])
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

/// A key is a hash already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

type Sequences = HashMap<Key, u64, BuildHasherDefault<AsItIs>>;

/// How long and how many ids are remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::broker) struct Reach {
    pub(in crate::broker) window: Micros,
    /// 0: none are.
    pub(in crate::broker) ids_max: usize,
}

/// The ids of one reality.
#[derive(Debug)]
pub(super) struct Ids {
    reach: Reach,
    /// The oldest first; the last one grows.
    parts: VecDeque<Part>,
    now: Micros,
}

#[derive(Debug)]
struct Part {
    since: Micros,
    sequences: Sequences,
}

impl Ids {
    pub(super) const fn new(reach: Reach) -> Self {
        Self {
            reach,
            parts: VecDeque::new(),
            now: Micros(0),
        }
    }

    pub(super) const fn is_on(&self) -> bool {
        self.reach.ids_max > 0
    }

    /// It is `now`: forgets what has left the window.
    pub(super) fn turn(&mut self, now: Micros) {
        self.now = self.now.max(now);
        let window = self.reach.window.0;
        while !self.parts.is_empty() {
            // All of a part is older than what follows it.
            let younger = self
                .parts
                .get(1)
                .map_or(self.end_of_last(), |next| next.since.0);
            if younger.saturating_add(window) > self.now.0 && self.parts.len() <= PARTS + 1 {
                break;
            }
            self.parts.pop_front();
        }
    }

    /// After this nothing was noted.
    fn end_of_last(&self) -> u64 {
        let last = self.parts.back().map_or(0, |part| part.since.0);
        last.saturating_add(self.reach.window.0 / PARTS as u64)
    }

    pub(super) fn find(&self, id: Key) -> Option<u64> {
        let mut parts = self.parts.iter().rev();
        parts.find_map(|part| part.sequences.get(&id).copied())
    }

    pub(super) fn note(&mut self, id: Key, sequence: u64) {
        let full = self.reach.ids_max.div_ceil(PARTS);
        let ended = self.end_of_last();
        let now = self.now;
        let last = self.parts.back();
        if last.is_none_or(|last| last.sequences.len() >= full || now.0 >= ended) {
            // As large as the one before, so that it does not grow while somebody waits.
            let capacity = last.map_or(0, |last| last.sequences.len());
            let hasher = BuildHasherDefault::default();
            self.parts.push_back(Part {
                since: now,
                sequences: HashMap::with_capacity_and_hasher(capacity, hasher),
            });
            self.turn(now);
        }
        if let Some(part) = self.parts.back_mut() {
            part.sequences.insert(id, sequence);
        }
    }

    pub(super) fn forget(&mut self, id: Key) {
        for part in self.parts.iter_mut().rev() {
            if part.sequences.remove(&id).is_some() {
                return;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.sequences.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Micros = Micros(1_000);

    fn ids(ids_max: usize) -> Ids {
        Ids::new(Reach {
            window: WINDOW,
            ids_max,
        })
    }

    fn key(number: usize) -> Key {
        Key::of("t", &number.to_string())
    }

    // MSG-04: at least the window is known, and not much more.
    #[test]
    fn an_id_is_known_for_the_window_and_forgotten_soon_after() {
        let mut ids = ids(1_000_000);
        for at in 0..5_000_usize {
            ids.turn(Micros(at as u64));
            ids.note(key(at), at as u64 + 1);
            if at >= 999 {
                assert_eq!(ids.find(key(at - 999)), Some(at as u64 - 998), "at {at}");
            }
            if at > 1_200 {
                assert_eq!(ids.find(key(at - 1_201)), None, "at {at}");
            }
        }
        // Nothing comes any more.
        ids.turn(Micros(6_300));
        assert_eq!(ids.len(), 0);
    }

    // MSG-04, BRK-18
    #[test]
    fn no_more_ids_are_held_than_there_may_be_and_a_fifth() {
        let mut ids = ids(100);
        for number in 0..1_000 {
            ids.note(key(number), number as u64 + 1);
            assert!(ids.len() <= 120, "{}", ids.len());
            if number >= 99 {
                assert!(ids.find(key(number - 99)).is_some(), "{number}");
            }
        }
        assert_eq!(ids.find(key(0)), None);
        ids.forget(key(999));
        assert_eq!(ids.find(key(999)), None);
    }

    // MSG-04: an id counts where it was used.
    #[test]
    fn an_id_belongs_to_its_topic() {
        assert_ne!(Key::of("a", "1"), Key::of("b", "1"));
        assert_ne!(Key::of("a", "b1"), Key::of("ab", "1"));
        assert_eq!(Key::of("a", "1"), Key::of("a", "1"));
    }
}
