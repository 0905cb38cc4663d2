//! Decides what becomes of records, from what they mean and what a table knows. Pure, and the same
//! for every sink, for a dry run and for a verification.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use sha2::{Digest as _, Sha256};

use super::codec::encode;
use super::projection::Change;
use super::sink::{Answer, Question, Write};
use super::table::{Cell, Row, Rule, Table, Version};
use crate::log::Sequence;

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// It is in the table.
    Projected,
    /// It was taken in before (PRJ-02).
    Duplicate,
    /// A newer one decides the row (PRJ-03).
    Stale,
    /// It is no event of the projection, and changed nothing.
    Ignored,
    /// It cannot be projected, and is a dead letter now (PRJ-04).
    Dead,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Projected,
        Self::Duplicate,
        Self::Stale,
        Self::Ignored,
        Self::Dead,
    ];

    /// Its name in tables, metrics and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Projected => "projected",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale_rejected",
            Self::Ignored => "ignored",
            Self::Dead => "dlq_queued",
        }
    }
}

/// A record with what it means.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it stands.
    pub sequence: Sequence,
    /// What it changes, in the order in which it is decided.
    pub changes: Vec<Change>,
}

/// Whether a row that is there already ends the matter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repeats {
    /// A record whose first change is there was taken in, and changes nothing more: the live way.
    AreDone,
    /// What is there may lack what came after it: a record is a duplicate only where the row shows
    /// it or a later one too. The way of a backfill, which mends.
    AreLookedAt,
}

/// What a batch comes to.
#[derive(Clone, Debug, Default)]
pub struct Folded {
    /// What is to be written, in order; no key twice, but where a row is set after it was removed.
    pub writes: Vec<Write>,
    /// What became of each entry, in their order.
    pub outcomes: Vec<Outcome>,
}

/// The keys that a sink must be asked about before [`Known::fold`].
#[must_use]
pub fn question(tables: &[Table], entries: &[Entry]) -> Question {
    let mut seen = HashMap::new();
    let mut keys = Vec::new();
    for change in entries.iter().flat_map(|entry| &entry.changes) {
        if let Change::Put { table, row } = change {
            let key = tables[*table].key_of(row);
            if let Slot::Vacant(slot) = seen.entry((*table, key.encoded())) {
                slot.insert(());
                keys.push((*table, key));
            }
        }
    }
    Question { keys }
}

/// What is known of rows: what a sink answered, and what was folded since.
#[derive(Clone, Debug, Default)]
pub struct Known {
    versions: HashMap<(usize, Vec<u8>), Option<Version>>,
}

impl Known {
    /// Whether the rows of a key are known.
    #[must_use]
    pub fn holds(&self, table: usize, key: &[u8]) -> bool {
        self.versions.contains_key(&(table, key.to_vec()))
    }

    /// Of how many keys something is known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.versions.len()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// Takes in what a sink answered. What was folded since is newer, and stays.
    pub fn learn(&mut self, question: Question, answer: Answer) {
        for ((table, key), version) in question.keys.into_iter().zip(answer) {
            self.versions
                .entry((table, key.encoded()))
                .or_insert(version);
        }
    }

    /// Decides a batch. Every key of [`question`] must have been learnt; an unknown one counts as
    /// absent.
    pub fn fold(&mut self, tables: &[Table], entries: Vec<Entry>, repeats: Repeats) -> Folded {
        let mut writes: HashMap<(usize, Vec<u8>), (usize, Write)> = HashMap::new();
        let mut removals = HashMap::new();
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut order = 0;
        for entry in entries {
            let outcome = self.decide(tables, &entry.changes, repeats);
            outcomes.push(outcome);
            let done = outcome == Outcome::Duplicate && repeats == Repeats::AreDone;
            for change in entry.changes.into_iter().filter(|_| !done) {
                order += 1;
                let (slot, write) = match change {
                    Change::Put { table, row } => {
                        let slot = (table, tables[table].key_of(&row).encoded());
                        if !self.raise(&tables[table], &slot, &row) {
                            continue;
                        }
                        let row = marked(&tables[table], row, outcome);
                        (slot, Write::Put { table, row })
                    }
                    Change::Remove { table, key } => {
                        let slot = (table, key.encoded());
                        self.versions.insert(slot.clone(), None);
                        let write = Write::Remove { table, key };
                        removals.insert(slot.clone(), (order, write.clone()));
                        (slot, write)
                    }
                };
                writes.insert(slot, (order, write));
            }
        }
        // What a sink has is in the way of what comes after the removal.
        removals.retain(|slot, _| matches!(writes.get(slot), Some((_, Write::Put { .. }))));
        let mut writes: Vec<_> = writes.into_values().chain(removals.into_values()).collect();
        writes.sort_unstable_by_key(|(order, _)| *order);
        let writes = writes.into_iter().map(|(_, write)| write).collect();
        Folded { writes, outcomes }
    }

    /// What becomes of a record, by its changes in order: the first row of a `First` table that is
    /// there already says duplicate; the version of a `Newest` table says the rest.
    fn decide(&self, tables: &[Table], changes: &[Change], repeats: Repeats) -> Outcome {
        let mut repeated = false;
        let mut outcome = Outcome::Ignored;
        for change in changes {
            let Change::Put { table, row } = change else {
                continue;
            };
            let rules = &tables[*table];
            let slot = (*table, rules.key_of(row).encoded());
            let known = self.versions.get(&slot).and_then(Option::as_ref);
            match (&rules.rule, known) {
                (Rule::First, Some(_)) if repeats == Repeats::AreDone => return Outcome::Duplicate,
                (Rule::First, Some(_)) => repeated = true,
                (Rule::First, None) => {
                    outcome = match outcome {
                        Outcome::Ignored => Outcome::Projected,
                        decided => decided,
                    }
                }
                (Rule::Newest(_), None) => return Outcome::Projected,
                (Rule::Newest(_), Some(there)) => {
                    let version = rules.version_of(row);
                    return if version > *there {
                        Outcome::Projected
                    } else if version == *there || repeated {
                        Outcome::Duplicate
                    } else {
                        Outcome::Stale
                    };
                }
            }
        }
        if repeated && outcome == Outcome::Ignored {
            return Outcome::Duplicate;
        }
        outcome
    }

    /// Whether `row` is to be written; if so, it is what is known from now on.
    fn raise(&mut self, table: &Table, slot: &(usize, Vec<u8>), row: &Row) -> bool {
        let version = table.version_of(row);
        let there = self.versions.get(slot).and_then(Option::as_ref);
        let newer = match (&table.rule, there) {
            (_, None) => true,
            (Rule::First, Some(_)) => false,
            (Rule::Newest(_), Some(there)) => version > *there,
        };
        if newer {
            self.versions.insert(slot.clone(), Some(version));
        }
        newer
    }
}

fn marked(table: &Table, mut row: Row, outcome: Outcome) -> Row {
    if let Some(at) = table.outcome {
        row.0[at] = Cell::from(outcome.as_str());
    }
    row
}

/// A hash over everything that was projected, record by record, however it came in batches: what
/// was recorded can be compared with what a replay gives (PRJ-18).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Chain(pub [u8; 32]);

impl Chain {
    /// Takes in one record with what became of it.
    pub fn take(&mut self, entry: &Entry, outcome: Outcome) {
        if outcome == Outcome::Ignored && entry.changes.is_empty() {
            return;
        }
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(entry.sequence.get().to_le_bytes());
        hash.update(outcome.as_str());
        for change in &entry.changes {
            match change {
                Change::Put { table, row } => {
                    hash.update(b"+");
                    hash.update((*table as u64).to_le_bytes());
                    hash.update(encode(&row.0));
                }
                Change::Remove { table, key } => {
                    hash.update(b"-");
                    hash.update((*table as u64).to_le_bytes());
                    hash.update(key.encoded());
                }
            }
        }
        self.0 = hash.finalize().into();
    }
}
