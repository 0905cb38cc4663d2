//! How far each producer's own clock entry has come, so that it cannot go back (MSG-06).
//!
//! Bounded: when full, the producers that have been silent longest are forgotten, and with them
//! the memory of how far they were.

use std::collections::HashMap;

/// Counter of each producer that stamps its own.
#[derive(Debug)]
pub struct ProducerClocks {
    seen: HashMap<Box<str>, Seen>,
    limit: usize,
    uses: u64,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    counter: u64,
    last_use: u64,
}

impl ProducerClocks {
    /// Remembers up to `limit` producers.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            seen: HashMap::new(),
            limit: limit.max(1),
            uses: 0,
        }
    }

    /// The counter that `producer` has reached, as far as it is remembered.
    #[must_use]
    pub fn reached(&self, producer: &str) -> Option<u64> {
        self.seen.get(producer).map(|seen| seen.counter)
    }

    /// Remembers that `producer` has reached `counter`.
    pub fn observe(&mut self, producer: &str, counter: u64) {
        self.uses += 1;
        let last_use = self.uses;
        if let Some(seen) = self.seen.get_mut(producer) {
            seen.counter = seen.counter.max(counter);
            seen.last_use = last_use;
            return;
        }
        if self.seen.len() >= self.limit {
            self.forget_idle();
        }
        self.seen
            .insert(producer.into(), Seen { counter, last_use });
    }

    /// Forgets an eighth, so that the search for the idle ones is paid for by many insertions.
    fn forget_idle(&mut self) {
        let mut uses: Vec<_> = self.seen.values().map(|seen| seen.last_use).collect();
        let at = uses.len() / 8;
        let (_, newest_idle, _) = uses.select_nth_unstable(at);
        let newest_idle = *newest_idle;
        self.seen.retain(|_, seen| seen.last_use > newest_idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // MSG-06
    #[test]
    fn the_longest_silent_producers_are_forgotten_first() {
        let mut clocks = ProducerClocks::new(16);
        for index in 0..16 {
            clocks.observe(&format!("p{index}"), index);
        }
        clocks.observe("p0", 40);
        clocks.observe("p16", 16);
        assert_eq!(clocks.reached("p0"), Some(40));
        assert_eq!(clocks.reached("p1"), None);
        assert_eq!(clocks.reached("p15"), Some(15));
        assert_eq!(clocks.reached("p16"), Some(16));
        assert!(clocks.seen.len() <= 16);
    }

    #[test]
    fn a_counter_never_goes_back() {
        let mut clocks = ProducerClocks::new(1);
        clocks.observe("p", 5);
        clocks.observe("p", 3);
        assert_eq!(clocks.reached("p"), Some(5));
        clocks.observe("q", 1);
        assert_eq!((clocks.reached("p"), clocks.reached("q")), (None, Some(1)));
    }
}
