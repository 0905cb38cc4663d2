//! The order that vector clocks give (MSG-06). An absent entry counts as 0.

use std::collections::BTreeMap;

use super::v1::VectorClock;

/// How two clocks stand to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
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
        }
    }
}
