//! Which subscribers want a topic, found without looking at the other subscriptions (BRK-01).
//!
//! A tree over the tokens of the filters: at each level a topic can go on in at most two ways, its
//! own token and `*`. Knows nothing of what a subscriber is.

use std::collections::HashMap;

use super::filter::{Filter, Token};
use super::name::{SYSTEM_TOKEN, is_hidden_token};

/// An index from filters to subscribers.
#[derive(Debug)]
pub struct Trie<T> {
    root: Node<T>,
    len: usize,
}

#[derive(Debug)]
struct Node<T> {
    literals: HashMap<Box<str>, Node<T>>,
    any: Option<Box<Node<T>>>,
    /// Subscribers whose filter ends here.
    here: Vec<T>,
    /// Subscribers whose filter goes on with `>`.
    rest: Vec<T>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self {
            literals: HashMap::new(),
            any: None,
            here: Vec::new(),
            rest: Vec::new(),
        }
    }
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self {
            root: Node::default(),
            len: 0,
        }
    }
}

impl<T: PartialEq> Trie<T> {
    /// Number of subscriptions.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds `subscriber` under `filter`.
    pub fn insert(&mut self, filter: &Filter, subscriber: T) {
        let mut node = &mut self.root;
        self.len += 1;
        for token in filter.tokens() {
            node = match token {
                Token::Literal(literal) => node.literals.entry(literal.into()).or_default(),
                Token::Any => node.any.get_or_insert_default(),
                Token::Rest => {
                    node.rest.push(subscriber);
                    return;
                }
            };
        }
        node.here.push(subscriber);
    }

    /// Removes `subscriber` from under `filter`; `false` if it is not there.
    pub fn remove(&mut self, filter: &Filter, subscriber: &T) -> bool {
        let removed = self.root.remove(filter.tokens(), subscriber);
        self.len -= usize::from(removed);
        removed
    }

    /// Calls `found` for each subscriber.
    pub fn each<'a>(&'a self, found: &mut impl FnMut(&'a T)) {
        self.root.each(found);
    }

    /// Calls `found` for each subscriber that wants `topic`, and returns how many nodes that took.
    pub fn matches<'a>(&'a self, topic: &str, found: impl FnMut(&'a T)) -> usize {
        self.visit(topic, is_hidden_token, found)
    }

    /// The same for rules, from which private messages are not hidden ([`Filter::governs`]).
    pub fn governing<'a>(&'a self, topic: &str, found: impl FnMut(&'a T)) -> usize {
        self.visit(topic, |token| token == SYSTEM_TOKEN, found)
    }

    fn visit<'a>(
        &'a self,
        topic: &str,
        hides: fn(&str) -> bool,
        mut found: impl FnMut(&'a T),
    ) -> usize {
        let mut visited = 0;
        self.root
            .matches(topic.split('.'), hides, &mut visited, &mut found);
        visited
    }
}

impl<T: PartialEq> Node<T> {
    fn is_empty(&self) -> bool {
        self.literals.is_empty()
            && self.any.is_none()
            && self.here.is_empty()
            && self.rest.is_empty()
    }

    fn remove<'f>(&mut self, mut tokens: impl Iterator<Item = Token<'f>>, subscriber: &T) -> bool {
        fn take<T: PartialEq>(from: &mut Vec<T>, subscriber: &T) -> bool {
            let at = from.iter().position(|one| one == subscriber);
            at.map(|at| from.swap_remove(at)).is_some()
        }
        match tokens.next() {
            None => take(&mut self.here, subscriber),
            Some(Token::Rest) => take(&mut self.rest, subscriber),
            Some(Token::Any) => {
                let Some(node) = &mut self.any else {
                    return false;
                };
                let removed = node.remove(&mut tokens as &mut dyn Iterator<Item = _>, subscriber);
                if node.is_empty() {
                    self.any = None;
                }
                removed
            }
            Some(Token::Literal(literal)) => {
                let Some(node) = self.literals.get_mut(literal) else {
                    return false;
                };
                let removed = node.remove(&mut tokens as &mut dyn Iterator<Item = _>, subscriber);
                if node.is_empty() {
                    self.literals.remove(literal);
                }
                removed
            }
        }
    }

    fn each<'a>(&'a self, found: &mut impl FnMut(&'a T)) {
        self.here.iter().for_each(&mut *found);
        self.rest.iter().for_each(&mut *found);
        if let Some(node) = &self.any {
            node.each(found);
        }
        for node in self.literals.values() {
            node.each(found);
        }
    }

    fn matches<'a>(
        &'a self,
        mut tokens: std::str::Split<'_, char>,
        hides: fn(&str) -> bool,
        visited: &mut usize,
        found: &mut impl FnMut(&'a T),
    ) {
        *visited += 1;
        let Some(token) = tokens.next() else {
            self.here.iter().for_each(found);
            return;
        };
        let hidden = hides(token);
        if !hidden {
            self.rest.iter().for_each(&mut *found);
            if let Some(node) = &self.any {
                node.matches(tokens.clone(), nothing, visited, found);
            }
        }
        if let Some(node) = self.literals.get(token) {
            node.matches(tokens, nothing, visited, found);
        }
    }
}

/// Only a first token can be hidden.
fn nothing(_token: &str) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::filter::tests::{filters, topics};
    use super::*;

    fn matching(trie: &Trie<usize>, topic: &str) -> Vec<usize> {
        let mut found = Vec::new();
        trie.matches(topic, |one| found.push(*one));
        found.sort_unstable();
        found
    }

    proptest! {
        // BRK-01, REL-06
        #[test]
        fn the_index_finds_what_the_filters_match(
            filters in prop::collection::vec(filters(), 0..40),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
            topic in topics(),
        ) {
            let filters: Vec<_> = filters.iter().map(|one| Filter::new(one).unwrap()).collect();
            let mut trie = Trie::default();
            for (index, filter) in filters.iter().enumerate() {
                trie.insert(filter, index);
            }
            let mut present = vec![true; filters.len()];
            if !filters.is_empty() {
                for index in removed {
                    let index = index.index(filters.len());
                    prop_assert_eq!(trie.remove(&filters[index], &index), present[index]);
                    present[index] = false;
                }
            }
            let expected: Vec<_> = (0..filters.len())
                .filter(|index| present[*index] && filters[*index].matches(&topic))
                .collect();
            prop_assert_eq!(matching(&trie, &topic), expected);
            prop_assert_eq!(trie.len(), present.iter().filter(|one| **one).count());
            for (index, filter) in filters.iter().enumerate() {
                trie.remove(filter, &index);
            }
            prop_assert!(trie.root.is_empty(), "removal leaves nothing behind");
        }
    }

    // BRK-01: the cost of a match does not grow with the number of other subscriptions.
    #[test]
    fn a_hundred_thousand_subscriptions_cost_a_match_nothing() {
        let visits = |subscriptions: usize| {
            let mut trie = Trie::default();
            for index in 0..subscriptions {
                let filter = match index % 4 {
                    0 => format!("site-{index}.sensor.temperature"),
                    1 => format!("site-{index}.*.temperature"),
                    2 => format!("site-{index}.>"),
                    _ => format!("site-{index}.sensor.>"),
                };
                trie.insert(&Filter::new(&filter).unwrap(), index);
            }
            trie.insert(&Filter::new("site-1.sensor.*").unwrap(), usize::MAX);
            trie.insert(&Filter::new("*.sensor.temperature").unwrap(), usize::MAX);
            let mut found = 0;
            let visited = trie.matches("site-1.sensor.temperature", |_| found += 1);
            assert_eq!(found, 3);
            visited
        };
        assert_eq!(visits(8), visits(100_000));
    }
}
