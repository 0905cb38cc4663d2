//! One at a time for each name: whoever opens or closes something has its name to itself, and
//! holds up nobody who is after another.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The names that somebody has to himself now.
#[derive(Debug)]
pub(super) struct Turns<K> {
    taken: Mutex<Taken<K>>,
    given_back: Condvar,
}

#[derive(Debug)]
struct Taken<K> {
    names: HashSet<K>,
    shut: bool,
}

/// A name that its holder has to himself until this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'t, K: Eq + Hash> {
    turns: &'t Turns<K>,
    name: K,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self {
            taken: Mutex::new(Taken {
                names: HashSet::new(),
                shut: false,
            }),
            given_back: Condvar::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Turns<K> {
    fn lock(&self) -> MutexGuard<'_, Taken<K>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `name`; `None` once shut.
    pub(super) fn take(&self, name: &K) -> Option<Turn<'_, K>> {
        let mut taken = self.lock();
        loop {
            if taken.shut {
                return None;
            }
            if taken.names.insert(name.clone()) {
                let name = name.clone();
                return Some(Turn { turns: self, name });
            }
            let given_back = self.given_back.wait(taken);
            taken = given_back.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes `name` unless somebody else has it, or all is shut.
    pub(super) fn try_take(&self, name: &K) -> Option<Turn<'_, K>> {
        let mut taken = self.lock();
        let free = !taken.shut && taken.names.insert(name.clone());
        drop(taken);
        free.then(|| Turn {
            turns: self,
            name: name.clone(),
        })
    }

    /// Gives out no more names, and waits until all are given back.
    pub(super) fn shut(&self) {
        let mut taken = self.lock();
        taken.shut = true;
        self.given_back.notify_all();
        while !taken.names.is_empty() {
            let given_back = self.given_back.wait(taken);
            taken = given_back.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<K: Eq + Hash> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        let taken = &self.turns.taken;
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.names.remove(&self.name);
        self.turns.given_back.notify_all();
    }
}
