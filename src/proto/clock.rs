//! The order that vector clocks give, and the clock that a producer keeps (MSG-06). An absent
//! entry counts as 0.

use std::collections::BTreeMap;

use super::v1::VectorClock;

/// Most entries in a producer's clock; a node refuses more.
pub const ENTRIES_MAX: usize = 64;

/// How two clocks stand to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Causality {
    /// The same knowledge.
    Equal,
    /// The first happened before the second.
    Before,
    /// The first happened after the second.
    After,
    /// Neither knew of the other.
    Concurrent,
}

impl Causality {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Before => "before",
            Self::After => "after",
            Self::Concurrent => "concurrent",
        }
    }
}

impl VectorClock {
    /// How `self` stands to `other`.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Causality {
        match (
            within(&self.entries, &other.entries),
            within(&other.entries, &self.entries),
        ) {
            (true, true) => Causality::Equal,
            (true, false) => Causality::Before,
            (false, true) => Causality::After,
            (false, false) => Causality::Concurrent,
        }
    }

    /// Learns all that `other` knows: the larger counter of each entry.
    pub fn merge(&mut self, other: &Self) {
        for (name, counter) in &other.entries {
            self.observe(name, *counter);
        }
    }

    /// Learns that `name` has reached `counter`; does nothing if it is known to be further.
    pub fn observe(&mut self, name: &str, counter: u64) {
        match self.entries.get_mut(name) {
            Some(known) => *known = counter.max(*known),
            None => {
                self.entries.insert(name.to_owned(), counter);
            }
        }
    }
}

/// The clock that a producer keeps: counts its own events and learns from the records it sees, in
/// at most [`ENTRIES_MAX`] entries.
///
/// Where there is no room, the entry of another that has stood still for longest is forgotten. An
/// event after that may count as concurrent with one that it knew of; never the other way round.
#[derive(Clone, Debug)]
pub struct ProducerClock {
    name: String,
    reached: u64,
    others: BTreeMap<String, Learnt>,
    lessons: u64,
}

#[derive(Clone, Copy, Debug)]
struct Learnt {
    counter: u64,
    /// When it last went on, as a count of lessons.
    moved: u64,
}

impl ProducerClock {
    /// The clock of the producer `name`, whose last event had `reached`; 0 if there was none.
    #[must_use]
    pub fn new(name: impl Into<String>, reached: u64) -> Self {
        Self {
            name: name.into(),
            reached,
            others: BTreeMap::new(),
            lessons: 0,
        }
    }

    /// Learns all that a record knows whose clock has these entries.
    pub fn learn<'a>(&mut self, seen: impl IntoIterator<Item = (&'a str, u64)>) {
        self.lessons += 1;
        let moved = self.lessons;
        for (name, counter) in seen {
            if name == self.name {
                // Somebody else produces in this name; to go back behind that one is refused.
                self.reached = self.reached.max(counter);
                continue;
            }
            match self.others.get_mut(name) {
                Some(known) if known.counter >= counter => {}
                Some(known) => *known = Learnt { counter, moved },
                None => {
                    let learnt = Learnt { counter, moved };
                    self.others.insert(name.to_owned(), learnt);
                }
            }
        }
        // Its own entry takes one place.
        while self.others.len() >= ENTRIES_MAX {
            let idle = self.others.iter().min_by_key(|(_, learnt)| learnt.moved);
            let Some(idle) = idle.map(|(name, _)| name.clone()) else {
                break;
            };
            self.others.remove(&idle);
        }
    }

    /// Counts an event of the producer itself; the clock to send with it.
    pub fn tick(&mut self) -> VectorClock {
        self.reached += 1;
        let others = &self.others;
        let entries = others
            .iter()
            .map(|(name, learnt)| (name.clone(), learnt.counter))
            .chain([(self.name.clone(), self.reached)])
            .collect();
        VectorClock { entries }
    }
}

/// Whether everything in `inner` is known to `outer`.
fn within(inner: &BTreeMap<String, u64>, outer: &BTreeMap<String, u64>) -> bool {
    inner
        .iter()
        .all(|(name, counter)| *counter <= outer.get(name).copied().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    fn clocks() -> impl Strategy<Value = VectorClock> {
        btree_map("[a-d]", 0_u64..4, 0..4).prop_map(|entries| VectorClock { entries })
    }

    fn merged(a: &VectorClock, b: &VectorClock) -> VectorClock {
        let mut clock = a.clone();
        clock.merge(b);
        clock
    }

    // MSG-06
    proptest! {
        #[test]
        fn compare_is_a_partial_order(a in clocks(), b in clocks(), c in clocks()) {
            prop_assert_eq!(a.compare(&a), Causality::Equal);
            let mirrored = match a.compare(&b) {
                Causality::Before => Causality::After,
                Causality::After => Causality::Before,
                same @ (Causality::Equal | Causality::Concurrent) => same,
            };
            prop_assert_eq!(b.compare(&a), mirrored);
            let at_most = |x: &VectorClock, y: &VectorClock| {
                matches!(x.compare(y), Causality::Equal | Causality::Before)
            };
            if at_most(&a, &b) && at_most(&b, &c) {
                prop_assert!(at_most(&a, &c));
            }
        }

        #[test]
        fn merge_is_the_least_upper_bound(a in clocks(), b in clocks(), c in clocks()) {
            let both = merged(&a, &b);
            prop_assert_eq!(&both, &merged(&b, &a));
            prop_assert_eq!(&merged(&a, &a), &a);
            prop_assert_eq!(merged(&both, &c), merged(&a, &merged(&b, &c)));
            for part in [&a, &b] {
                prop_assert!(matches!(part.compare(&both), Causality::Equal | Causality::Before));
            }
            let bound = merged(&both, &c);
            prop_assert!(matches!(both.compare(&bound), Causality::Equal | Causality::Before));
            // Whatever else is above both is above their merge.
            let above = |x: &VectorClock| matches!(x.compare(&c), Causality::Equal | Causality::Before);
            prop_assert_eq!(above(&a) && above(&b), above(&both));
        }

        #[test]
        fn compare_agrees_with_merge(a in clocks(), b in clocks()) {
            let both = merged(&a, &b);
            let (is_a, is_b) = (
                both.compare(&a) == Causality::Equal,
                both.compare(&b) == Causality::Equal,
            );
            let expected = match (is_a, is_b) {
                (true, true) => Causality::Equal,
                (false, true) => Causality::Before,
                (true, false) => Causality::After,
                (false, false) => Causality::Concurrent,
            };
            prop_assert_eq!(a.compare(&b), expected);
            let pointwise = b.entries.keys().chain(a.entries.keys()).all(|name| {
                let of = |clock: &VectorClock| clock.entries.get(name).copied().unwrap_or(0);
                of(&both) == of(&a).max(of(&b))
            });
            prop_assert!(pointwise);
        }
    }

    fn entries(clock: &VectorClock) -> impl Iterator<Item = (&str, u64)> {
        clock
            .entries
            .iter()
            .map(|(name, counter)| (name.as_str(), *counter))
    }

    // MSG-06
    #[test]
    fn what_was_seen_is_before_what_is_produced_next() {
        let (mut a, mut b) = (ProducerClock::new("a", 0), ProducerClock::new("b", 7));
        let first = a.tick();
        let other = b.tick();
        assert_eq!(other.entries["b"], 8);
        assert_eq!(first.compare(&other), Causality::Concurrent);
        b.learn(entries(&first));
        let answer = b.tick();
        assert_eq!(first.compare(&answer), Causality::Before);
        assert_eq!(other.compare(&answer), Causality::Before);
        // Two that share a name do not go back behind each other.
        let mut twin = ProducerClock::new("b", 0);
        twin.learn(entries(&answer));
        assert_eq!(twin.tick().entries["b"], 10);
    }

    // MSG-06: at most 64 entries, the longest idle evicted.
    #[test]
    fn a_producers_clock_forgets_whoever_stands_still_longest() {
        let mut clock = ProducerClock::new("me", 0);
        let name = |index: usize| format!("p{index:03}");
        for index in 0..ENTRIES_MAX - 1 {
            clock.learn([(name(index).as_str(), 5)]);
        }
        let full = clock.tick();
        assert_eq!(full.entries.len(), ENTRIES_MAX);
        // To be seen again without having moved is to stand still.
        clock.learn([(name(0).as_str(), 6), (name(1).as_str(), 5)]);
        clock.learn([("new", 1), ("newer", 1)]);
        let next = clock.tick();
        assert_eq!(next.entries.len(), ENTRIES_MAX);
        for kept in ["new", "newer", "me", &name(0), &name(3)] {
            assert!(next.entries.contains_key(kept), "{kept}");
        }
        for forgotten in [name(1), name(2)] {
            assert!(!next.entries.contains_key(&forgotten), "{forgotten}");
        }
    }
}
