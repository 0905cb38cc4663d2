//! How far each producer's own count has come, so that it cannot go back: its entry in clocks
//! (MSG-06) and the numbers that it gives its envelopes (MSG-05).
//!
//! Kept for each sender apart: any token of the tenant may name any producer, and what one claims
//! must not lock out another. Bounded: when full, the producers that have been silent longest are forgotten, and with them
//! the memory of how far they were.

use std::collections::HashMap;

use super::access::Identity;

/// A producer, as one sender calls it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Producer {
    /// Subject of the token; empty where only the log is known, which does not hold it.
    pub subject: Box<str>,
    /// The producer that its envelopes name.
    pub name: Box<str>,
}

impl Producer {
    /// The one that an envelope of `sender` names, which is itself if it names none.
    pub(super) fn of(sender: &Identity, named: &str) -> Self {
        let subject = sender.subject.as_str();
        let name = if named.is_empty() { subject } else { named };
        Self {
            subject: subject.into(),
            name: name.into(),
        }
    }

    /// A producer of which the log holds the name alone.
    fn of_unknown_sender(name: &str) -> Self {
        Self {
            subject: Box::default(),
            name: name.into(),
        }
    }
}

/// Counter of each producer that stamps its own.
#[derive(Debug)]
pub struct ProducerClocks {
    seen: HashMap<Producer, Seen>,
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
    pub fn reached(&self, producer: &Producer) -> Option<u64> {
        let restored = || self.seen.get(&Producer::of_unknown_sender(&producer.name));
        let seen = self.seen.get(producer).or_else(restored);
        seen.map(|seen| seen.counter)
    }

    /// Remembers from the log that `name` was last at `counter`. Not the highest: where senders
    /// share a name, that need not be this one's.
    pub fn restore(&mut self, name: &str, counter: u64) {
        let producer = Producer::of_unknown_sender(name);
        self.observe(&producer, counter);
        if let Some(seen) = self.seen.get_mut(&producer) {
            seen.counter = counter;
        }
    }

    /// Remembers that `producer` has reached `counter`.
    pub fn observe(&mut self, producer: &Producer, counter: u64) {
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
            .insert(producer.clone(), Seen { counter, last_use });
    }

    /// The counter of `producer` alone, whatever the log holds of its name.
    pub(super) fn own(&self, producer: &Producer) -> Option<u64> {
        self.seen.get(producer).map(|seen| seen.counter)
    }

    /// Takes back what was observed of `producer` since it was at `counter`.
    pub(super) fn put_back(&mut self, producer: &Producer, counter: Option<u64>) {
        match (counter, self.seen.get_mut(producer)) {
            (Some(counter), Some(seen)) => seen.counter = counter,
            (None, Some(_)) => drop(self.seen.remove(producer)),
            // Forgotten meanwhile.
            (_, None) => {}
        }
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

    fn producer(name: &str) -> Producer {
        Producer {
            subject: "s".into(),
            name: name.into(),
        }
    }

    // MSG-06
    #[test]
    fn the_longest_silent_producers_are_forgotten_first() {
        let mut clocks = ProducerClocks::new(16);
        for index in 0..16 {
            clocks.observe(&producer(&format!("p{index}")), index);
        }
        clocks.observe(&producer("p0"), 40);
        clocks.observe(&producer("p16"), 16);
        assert_eq!(clocks.reached(&producer("p0")), Some(40));
        assert_eq!(clocks.reached(&producer("p1")), None);
        assert_eq!(clocks.reached(&producer("p15")), Some(15));
        assert_eq!(clocks.reached(&producer("p16")), Some(16));
        assert!(clocks.seen.len() <= 16);
    }

    // MSG-06
    #[test]
    fn one_sender_does_not_hold_up_another() {
        let mut clocks = ProducerClocks::new(16);
        let other = Producer {
            subject: "other".into(),
            name: "p".into(),
        };
        clocks.observe(&other, u64::MAX);
        assert_eq!(clocks.reached(&producer("p")), None);
        clocks.observe(&producer("p"), 6);
        assert_eq!(clocks.reached(&producer("p")), Some(6));

        let mut reopened = ProducerClocks::new(16);
        reopened.restore("p", u64::MAX);
        reopened.restore("p", 6);
        assert_eq!(reopened.reached(&producer("p")), Some(6));
        reopened.observe(&other, 9);
        assert_eq!(reopened.reached(&producer("p")), Some(6));
    }

    #[test]
    fn a_counter_never_goes_back() {
        let mut clocks = ProducerClocks::new(1);
        clocks.observe(&producer("p"), 5);
        clocks.observe(&producer("p"), 3);
        assert_eq!(clocks.reached(&producer("p")), Some(5));
        clocks.observe(&producer("q"), 1);
        assert_eq!(
            (
                clocks.reached(&producer("p")),
                clocks.reached(&producer("q"))
            ),
            (None, Some(1))
        );
    }
}
