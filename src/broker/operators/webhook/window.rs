//! The events of one rule that are read and not done with: which is sent next, and how far the rule
//! has got (OPS-05).
//!
//! Ordered, an event waits for all before it; ordered by key, for those before it with the same
//! key, and those without a key are of one. The position is behind the longest run of events that
//! are done: what follows an undone one is not counted, and may come again after a crash. Bounded:
//! an event that fails for long holds up the rule when the window is full. Knows no clock but what
//! it is told.

use std::collections::VecDeque;

use crate::log::{Micros, Sequence};

/// Events that are held at a time.
const EVENTS_MAX: usize = 256;
/// Bytes of events from which on no further one is taken.
const BYTES_MAX: usize = 4 << 20;

/// What waits for what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// Each for all before it.
    Whole,
    /// Each for those before it with its key.
    ByKey,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// To be sent, no sooner than this.
    Waiting(Micros),
    InFlight,
    Done,
}

/// One event.
#[derive(Debug)]
struct Item<T> {
    sequence: Sequence,
    key: Box<str>,
    standing: Standing,
    bytes: usize,
    event: T,
}

/// What can be done now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Send this one.
    Send(Sequence),
    /// Nothing before this time.
    At(Micros),
    /// Nothing before an attempt has ended or another event has come.
    Nothing,
}

/// The events, in the order of their sequences.
#[derive(Debug)]
pub(super) struct Window<T> {
    order: Order,
    items: VecDeque<Item<T>>,
    bytes: usize,
    /// Everything before this has been read.
    read: Sequence,
}

impl<T> Window<T> {
    /// Nothing has been read from `next` on.
    pub(super) const fn new(order: Order, next: Sequence) -> Self {
        Self {
            order,
            items: VecDeque::new(),
            bytes: 0,
            read: next,
        }
    }

    /// Whether another event can be taken.
    fn has_room(&self) -> bool {
        self.items.len() < EVENTS_MAX && self.bytes < BYTES_MAX
    }

    /// Adds the next event, of so many bytes, to be sent no sooner than `at`.
    pub(super) fn push(
        &mut self,
        sequence: Sequence,
        key: &str,
        at: Micros,
        (bytes, event): (usize, T),
    ) {
        assert!(
            sequence >= self.read,
            "{sequence:?} comes after {:?}",
            self.read
        );
        self.items.push_back(Item {
            sequence,
            key: key.into(),
            standing: Standing::Waiting(at),
            bytes,
            event,
        });
        self.bytes += bytes;
        self.read = sequence.next();
    }

    /// Everything before `next` has been read, wanted or not.
    pub(super) fn passed(&mut self, next: Sequence) {
        self.read = self.read.max(next);
    }

    /// Where reading goes on.
    pub(super) const fn read(&self) -> Sequence {
        self.read
    }

    /// Everything before this is done.
    pub(super) fn position(&self) -> Sequence {
        self.items.front().map_or(self.read, |first| first.sequence)
    }

    /// Those behind the position that are done all the same.
    pub(super) fn done_ahead(&self) -> Vec<u64> {
        let done = self
            .items
            .iter()
            .filter(|item| item.standing == Standing::Done);
        done.map(|item| item.sequence.get()).collect()
    }

    /// Events that can still be taken.
    pub(super) fn room(&self) -> usize {
        if self.has_room() {
            EVENTS_MAX - self.items.len()
        } else {
            0
        }
    }

    /// What can be done at `now`.
    pub(super) fn next(&self, now: Micros) -> Next {
        let mut soonest: Option<Micros> = None;
        for (at, item) in self.items.iter().enumerate() {
            if let Standing::Waiting(from) = item.standing
                && !self.held_up(at)
            {
                if from <= now {
                    return Next::Send(item.sequence);
                }
                soonest = Some(soonest.map_or(from, |soonest| soonest.min(from)));
            }
            if self.order == Order::Whole && item.standing != Standing::Done {
                break;
            }
        }
        soonest.map_or(Next::Nothing, Next::At)
    }

    fn held_up(&self, at: usize) -> bool {
        let key = &self.items[at].key;
        self.items.range(..at).any(|before| {
            before.standing != Standing::Done && (self.order == Order::Whole || before.key == *key)
        })
    }

    fn item(&mut self, sequence: Sequence) -> Option<&mut Item<T>> {
        let found = self
            .items
            .binary_search_by_key(&sequence, |item| item.sequence);
        self.items.get_mut(found.ok()?)
    }

    /// It is on its way.
    pub(super) fn sent(&mut self, sequence: Sequence) -> Option<&T> {
        let item = self.item(sequence)?;
        item.standing = Standing::InFlight;
        Some(&item.event)
    }

    /// It is to be sent again, no sooner than `at`.
    pub(super) fn again(&mut self, sequence: Sequence, at: Micros) {
        if let Some(item) = self.item(sequence) {
            item.standing = Standing::Waiting(at);
        }
    }

    /// It need not be sent any more.
    pub(super) fn done(&mut self, sequence: Sequence) {
        if let Some(item) = self.item(sequence) {
            item.standing = Standing::Done;
        }
        while let Some(first) = self
            .items
            .pop_front_if(|item| item.standing == Standing::Done)
        {
            self.bytes -= first.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn at(sequence: u64) -> Sequence {
        Sequence::new(sequence).unwrap()
    }

    fn window(order: Order, keys: &[&str]) -> Window<()> {
        let mut window = Window::new(order, at(1));
        for (place, key) in keys.iter().enumerate() {
            window.push(at(place as u64 + 1), key, Micros(0), (1, ()));
        }
        window
    }

    // OPS-05
    #[test]
    fn ordered_events_go_one_at_a_time() {
        let mut window = window(Order::Whole, &["a", "b", "c"]);
        assert_eq!(window.next(Micros(0)), Next::Send(at(1)));
        window.sent(at(1));
        assert_eq!(window.next(Micros(0)), Next::Nothing);
        window.again(at(1), Micros(9));
        assert_eq!(window.next(Micros(8)), Next::At(Micros(9)));
        assert_eq!(window.next(Micros(9)), Next::Send(at(1)));
        window.done(at(1));
        assert_eq!((window.position(), window.read()), (at(2), at(4)));
        assert_eq!(window.next(Micros(0)), Next::Send(at(2)));
    }

    // OPS-05
    #[test]
    fn a_key_waits_for_itself_alone() {
        let mut window = window(Order::ByKey, &["a", "b", "a", "", ""]);
        window.sent(at(1));
        assert_eq!(window.next(Micros(0)), Next::Send(at(2)));
        window.sent(at(2));
        assert_eq!(window.next(Micros(0)), Next::Send(at(4)));
        window.sent(at(4));
        assert_eq!(window.next(Micros(0)), Next::Nothing);
        window.done(at(2));
        window.done(at(4));
        assert_eq!(window.position(), at(1));
        assert_eq!(window.next(Micros(0)), Next::Send(at(5)));
        window.sent(at(5));
        window.again(at(1), Micros(5));
        assert_eq!(window.next(Micros(0)), Next::At(Micros(5)));
        window.done(at(1));
        assert_eq!(window.position(), at(3));
        window.passed(at(70));
        assert_eq!(window.next(Micros(0)), Next::Send(at(3)));
        window.done(at(3));
        window.done(at(5));
        assert_eq!(window.position(), at(70));
        assert!(window.has_room() && window.bytes == 0);
    }

    // BRK-18
    #[test]
    fn it_is_bounded_by_events_and_by_bytes() {
        let mut many = window(Order::ByKey, &[""; EVENTS_MAX - 1]);
        assert!(many.has_room());
        many.push(at(EVENTS_MAX as u64), "", Micros(0), (1, ()));
        assert!(!many.has_room());
        let mut large = window(Order::Whole, &[]);
        large.push(at(1), "", Micros(0), (BYTES_MAX, ()));
        assert!(!large.has_room());
        large.done(at(1));
        assert!(large.has_room());
    }

    proptest! {
        // OPS-05: whatever fails, no event overtakes another of its key, and none is left out.
        #[test]
        fn no_event_overtakes_another_of_its_key(
            keys in prop::collection::vec("[abc]?", 1..40),
            fails in prop::collection::vec(0_usize..3, 40),
            whole in any::<bool>(),
        ) {
            let order = if whole { Order::Whole } else { Order::ByKey };
            let keys: Vec<_> = keys.iter().map(String::as_str).collect();
            let mut window = window(order, &keys);
            let mut left: Vec<_> = fails;
            let mut done: BTreeMap<&str, Vec<Sequence>> = BTreeMap::new();
            let mut flying = Vec::new();
            loop {
                while let Next::Send(sequence) = window.next(Micros(0)) {
                    window.sent(sequence);
                    flying.push(sequence);
                }
                // The last that was sent ends first.
                let Some(sequence) = flying.pop() else { break };
                let place = usize::try_from(sequence.get() - 1).unwrap();
                if left[place] > 0 {
                    left[place] -= 1;
                    window.again(sequence, Micros(0));
                } else {
                    let key = if whole { "" } else { keys[place] };
                    done.entry(key).or_default().push(sequence);
                    window.done(sequence);
                }
            }
            prop_assert_eq!(window.position(), window.read());
            prop_assert_eq!(done.values().map(Vec::len).sum::<usize>(), keys.len());
            for sequences in done.values() {
                prop_assert!(sequences.is_sorted());
            }
        }
    }
}
