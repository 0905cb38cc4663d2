//! What is bound to topic patterns, found by topic.
//!
//! Of several patterns that match, the most specific decides: token by token from the left, a
//! literal goes before `*`, and `*` before `>`. Copies share what does not differ.

use std::collections::HashMap;
use std::sync::Arc;

use crate::broker::Filter;
use crate::broker::name;

/// What is bound, by pattern.
#[derive(Clone, Debug)]
pub struct Patterns<T> {
    root: Arc<Node<T>>,
    len: usize,
}

#[derive(Debug)]
struct Node<T> {
    here: Option<Arc<T>>,
    rest: Option<Arc<T>>,
    any: Option<Arc<Node<T>>>,
    literal: HashMap<Box<str>, Arc<Node<T>>>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self {
            here: None,
            rest: None,
            any: None,
            literal: HashMap::new(),
        }
    }
}

// Not derived: what is bound need not be cloned.
impl<T> Clone for Node<T> {
    fn clone(&self) -> Self {
        Self {
            here: self.here.clone(),
            rest: self.rest.clone(),
            any: self.any.clone(),
            literal: self.literal.clone(),
        }
    }
}

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self {
            root: Arc::default(),
            len: 0,
        }
    }
}

impl<T> Node<T> {
    fn is_empty(&self) -> bool {
        self.here.is_none() && self.rest.is_none() && self.any.is_none() && self.literal.is_empty()
    }

    /// Puts `bound` where `pattern` leads, and gives what was there.
    fn put(self: &mut Arc<Self>, pattern: Option<&str>, bound: Option<Arc<T>>) -> Option<Arc<T>> {
        let node = Arc::make_mut(self);
        let Some(pattern) = pattern else {
            return std::mem::replace(&mut node.here, bound);
        };
        let (token, after) = match pattern.split_once('.') {
            Some((token, after)) => (token, Some(after)),
            None => (pattern, None),
        };
        match token {
            ">" => std::mem::replace(&mut node.rest, bound),
            "*" => {
                let mut next = node.any.take().unwrap_or_default();
                let was = next.put(after, bound);
                node.any = Some(next).filter(|next| !next.is_empty());
                was
            }
            literal => {
                let mut next = node.literal.remove(literal).unwrap_or_default();
                let was = next.put(after, bound);
                if !next.is_empty() {
                    node.literal.insert(literal.into(), next);
                }
                was
            }
        }
    }

    fn find(&self, topic: Option<&str>, hidden: bool) -> Option<&T> {
        let Some(topic) = topic else {
            return self.here.as_deref();
        };
        let (token, after) = match topic.split_once('.') {
            Some((token, after)) => (token, Some(after)),
            None => (topic, None),
        };
        if let Some(found) = self
            .literal
            .get(token)
            .and_then(|next| next.find(after, false))
        {
            return Some(found);
        }
        if hidden {
            return None;
        }
        let any = self.any.as_ref().and_then(|next| next.find(after, false));
        any.or(self.rest.as_deref())
    }

    fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a T)) {
        for bound in self.here.iter().chain(&self.rest) {
            visit(bound);
        }
        for next in self.any.iter().chain(self.literal.values()) {
            next.each(visit);
        }
    }
}

impl<T> Patterns<T> {
    /// Binds `bound` to a pattern, instead of what was bound to it.
    pub fn bind(&mut self, pattern: &Filter, bound: T) {
        let was = self.root.put(Some(pattern.as_str()), Some(Arc::new(bound)));
        self.len += usize::from(was.is_none());
    }

    /// Lets go of what is bound to a pattern.
    pub fn unbind(&mut self, pattern: &Filter) {
        let was = self.root.put(Some(pattern.as_str()), None);
        self.len -= usize::from(was.is_some());
    }

    /// What is bound to the most specific pattern that matches `topic`.
    #[must_use]
    pub fn of(&self, topic: &str) -> Option<&T> {
        if self.len == 0 {
            return None;
        }
        self.root.find(Some(topic), name::is_system_topic(topic))
    }

    /// All that is bound, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<&T> {
        let mut all = Vec::with_capacity(self.len);
        self.root.each(&mut |bound| all.push(bound));
        all
    }

    /// How many patterns are bound.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bound(patterns: &[&str]) -> Patterns<String> {
        let mut all = Patterns::default();
        for pattern in patterns {
            let filter = Filter::new(pattern).expect("a pattern");
            all.bind(&filter, (*pattern).to_owned());
        }
        all
    }

    // EDGE-13
    #[test]
    fn the_most_specific_pattern_decides() {
        let all = bound(&[">", "a.>", "a.*.c", "a.b.*", "a.b.c", "*.b.c"]);
        for (topic, expected) in [
            ("a.b.c", "a.b.c"),
            ("a.b.d", "a.b.*"),
            ("a.x.c", "a.*.c"),
            ("a.x.d", "a.>"),
            ("a.b", "a.>"),
            ("a", ">"),
            ("z.b.c", "*.b.c"),
            ("z.b.d", ">"),
        ] {
            assert_eq!(all.of(topic).map(String::as_str), Some(expected), "{topic}");
        }
        assert_eq!(all.of("sys.audit"), None);
    }

    fn pattern() -> impl Strategy<Value = String> {
        let tokens = prop::collection::vec(prop_oneof!["a", "b", "\\*"], 0..4);
        (tokens, any::<bool>()).prop_map(|(mut tokens, rest)| {
            if rest || tokens.is_empty() {
                tokens.push(">".to_owned());
            }
            tokens.join(".")
        })
    }

    proptest! {
        // EDGE-13
        #[test]
        fn what_is_found_is_what_matches(
            patterns in prop::collection::vec(pattern(), 0..12),
            gone in prop::collection::vec(any::<bool>(), 12),
            topic in prop::collection::vec(prop_oneof!["a", "b", "c"], 1..5),
        ) {
            let topic = topic.join(".");
            let mut all = Patterns::default();
            let mut left = std::collections::BTreeMap::new();
            for pattern in &patterns {
                let filter = Filter::new(pattern).expect("a pattern");
                all.bind(&filter, filter.clone());
                left.insert(pattern.clone(), filter);
            }
            for (pattern, gone) in patterns.iter().zip(gone) {
                if gone {
                    all.unbind(&Filter::new(pattern).expect("a pattern"));
                    left.remove(pattern);
                }
            }
            prop_assert_eq!(all.len(), left.len());
            prop_assert_eq!(all.all().len(), left.len());
            let found = all.of(&topic);
            let matching: Vec<&Filter> = left.values().filter(|one| one.matches(&topic)).collect();
            prop_assert_eq!(found.is_some(), !matching.is_empty());
            if let Some(found) = found {
                prop_assert!(found.matches(&topic));
                // Nothing that matches is narrower.
                prop_assert!(!matching.iter().any(|one| *one != found && found.covers(one)));
            }
            if left.is_empty() {
                prop_assert!(all.root.is_empty());
            }
        }
    }
}
