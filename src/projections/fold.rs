//! Decides what becomes of records, from what they mean and what a table knows. Pure, and the same
//! for every sink, for a dry run and for a verification.

use std::collections::{HashMap, HashSet};

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

/// What becomes of a record, and whether nothing of it is written.
struct Decision {
    outcome: Outcome,
    done: bool,
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
    let mut seen = HashSet::new();
    let mut keys = Vec::new();
    for change in entries.iter().flat_map(|entry| &entry.changes) {
        if let Change::Put { table, row } = change {
            let rules = &tables[*table];
            if seen.insert((*table, rules.encoded_key_of(row))) {
                keys.push((*table, rules.key_of(row)));
            }
        }
    }
    Question { keys }
}

/// What is known of rows: what a sink answered, and what was folded since.
#[derive(Clone, Debug, Default)]
pub struct Known {
    versions: HashMap<Slot, Option<Version>>,
}

/// Place of a table, and an encoded key of it.
type Slot = (usize, Vec<u8>);

fn slot_of(tables: &[Table], change: &Change) -> Slot {
    match change {
        Change::Put { table, row } => (*table, tables[*table].encoded_key_of(row)),
        Change::Remove { table, key } => (*table, key.encoded()),
    }
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
        let mut writes: HashMap<Slot, (usize, Write)> = HashMap::with_capacity(entries.len() * 2);
        let mut removals = HashMap::new();
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut order = 0;
        for entry in entries {
            let slots: Vec<_> = entry
                .changes
                .iter()
                .map(|change| slot_of(tables, change))
                .collect();
            let Decision { outcome, done } = self.decide(tables, &entry.changes, &slots, repeats);
            outcomes.push(outcome);
            let changes = entry.changes.into_iter().zip(slots);
            for (change, slot) in changes.filter(|_| !done) {
                order += 1;
                let write = match change {
                    Change::Put { table, row } => {
                        if !self.raise(&tables[table], &slot, &row) {
                            continue;
                        }
                        let row = marked(&tables[table], row, outcome);
                        Write::Put { table, row }
                    }
                    Change::Remove { table, key } => {
                        self.versions.insert(slot.clone(), None);
                        let write = Write::Remove { table, key };
                        removals.insert(slot.clone(), (order, write.clone()));
                        write
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
    fn decide(
        &self,
        tables: &[Table],
        changes: &[Change],
        slots: &[Slot],
        repeats: Repeats,
    ) -> Decision {
        let decided = |outcome| Decision {
            outcome,
            done: outcome == Outcome::Duplicate && repeats == Repeats::AreDone,
        };
        let mut repeated = false;
        let mut outcome = Outcome::Ignored;
        for (change, slot) in changes.iter().zip(slots) {
            let Change::Put { table, row } = change else {
                continue;
            };
            let rules = &tables[*table];
            let known = self.versions.get(slot).and_then(Option::as_ref);
            match (&rules.rule, known) {
                (Rule::First, Some(_)) if repeats == Repeats::AreDone => {
                    return decided(Outcome::Duplicate);
                }
                // Another record was the first of this key: this one never changed anything.
                (Rule::First, Some(there)) if *there != rules.version_of(row) => {
                    let (outcome, done) = (Outcome::Duplicate, true);
                    return Decision { outcome, done };
                }
                (Rule::First, Some(_)) => repeated = true,
                (Rule::First, None) => {
                    outcome = match outcome {
                        Outcome::Ignored => Outcome::Projected,
                        decided => decided,
                    }
                }
                (Rule::Newest(_), None) => return decided(Outcome::Projected),
                (Rule::Newest(_), Some(there)) => {
                    let version = rules.version_of(row);
                    return decided(if version > *there {
                        Outcome::Projected
                    } else if version == *there || repeated {
                        Outcome::Duplicate
                    } else {
                        Outcome::Stale
                    });
                }
            }
        }
        if repeated && outcome == Outcome::Ignored {
            return decided(Outcome::Duplicate);
        }
        decided(outcome)
    }

    /// Whether `row` is to be written; if so, it is what is known from now on.
    fn raise(&mut self, table: &Table, slot: &Slot, row: &Row) -> bool {
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
    pub fn take(&mut self, sequence: Sequence, changes: &[Change], outcome: Outcome) {
        if outcome == Outcome::Ignored && changes.is_empty() {
            return;
        }
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(sequence.get().to_le_bytes());
        hash.update(outcome.as_str());
        for change in changes {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::log::Micros;
    use crate::projections::table::{Column, Key, Kind};

    const EVENTS: usize = 0;
    const ROWS: usize = 1;
    const OUTCOME: usize = 3;

    /// A history of events where the first one counts, and rows where the newest does.
    fn tables() -> [Table; 2] {
        let text = |name| Column::new(name, Kind::Text);
        let events = Table {
            name: "events".into(),
            columns: vec![
                text("tenant_id"),
                text("event_id"),
                text("value"),
                Column::nullable("outcome", Kind::Text),
            ],
            key: vec![0, 1],
            rule: Rule::First,
            outcome: Some(OUTCOME),
        };
        let rows = Table {
            name: "rows".into(),
            columns: vec![
                text("tenant_id"),
                text("row_id"),
                Column::new("ts", Kind::Timestamp),
                text("event_id"),
                Column::new("deleted", Kind::Boolean),
            ],
            key: vec![0, 1],
            rule: Rule::Newest(vec![2, 3]),
            outcome: None,
        };
        [events, rows]
    }

    /// What a record says: of which row, when, by which event, and whether it is gone.
    #[derive(Clone, PartialEq, Eq, Debug)]
    struct Said {
        row: u8,
        ts: u64,
        event: u8,
        deleted: bool,
    }

    impl Said {
        fn changes(&self) -> Vec<Change> {
            let event = Cell::Text(format!("e{:03}", self.event));
            let row = Cell::Text(format!("r{}", self.row));
            let event_row = Row(vec![
                "t".into(),
                event.clone(),
                Cell::Text(format!("{self:?}")),
                Cell::Null,
            ]);
            let row = Row(vec![
                "t".into(),
                row,
                Cell::Timestamp(Micros(self.ts)),
                event,
                Cell::Boolean(self.deleted),
            ]);
            let put = |table, row| Change::Put { table, row };
            vec![put(EVENTS, event_row), put(ROWS, row)]
        }
    }

    /// Events of distinct ids, of few rows and few times, so that they meet.
    fn events() -> impl Strategy<Value = Vec<Said>> {
        vec((0..4_u8, 0..6_u64, any::<bool>()), 1..24).prop_map(|events| {
            let numbered = (0..).zip(events);
            numbered
                .map(|(event, (row, ts, deleted))| Said {
                    row,
                    ts,
                    event,
                    deleted,
                })
                .collect()
        })
    }

    /// The events in two orders, with some of them repeated, and where batches end.
    fn histories() -> impl Strategy<Value = (Vec<Said>, Vec<Said>, Vec<usize>)> {
        events().prop_flat_map(|events| {
            let repeated = proptest::sample::subsequence(events.clone(), 0..=events.len());
            let one = repeated.prop_flat_map({
                let events = events.clone();
                move |repeated| Just([events.clone(), repeated].concat()).prop_shuffle()
            });
            (one, Just(events).prop_shuffle(), vec(1..6_usize, 1..20))
        })
    }

    /// A sink that does what [`Write`] says, and checks what it is given.
    #[derive(Clone, Default, PartialEq, Debug)]
    struct Kept {
        rows: BTreeMap<(usize, Vec<u8>), Row>,
    }

    impl Kept {
        fn answer(&self, tables: &[Table], question: &Question) -> Answer {
            let keys = question.keys.iter();
            keys.map(|(table, key)| {
                let row = self.rows.get(&(*table, key.encoded()))?;
                Some(tables[*table].version_of(row))
            })
            .collect()
        }

        fn take(&mut self, tables: &[Table], writes: Vec<Write>) {
            let mut seen = HashSet::new();
            for write in writes {
                let (table, key) = match &write {
                    Write::Put { table, row } => (*table, tables[*table].key_of(row)),
                    Write::Remove { table, key } => (*table, key.clone()),
                };
                let slot = (table, key.encoded());
                assert!(seen.insert(slot.clone()), "{key} is written twice");
                match write {
                    Write::Put { row, .. } => {
                        let newer = |there: &Row| match &tables[table].rule {
                            Rule::First => false,
                            Rule::Newest(_) => {
                                tables[table].version_of(&row) > tables[table].version_of(there)
                            }
                        };
                        let newer = self.rows.get(&slot).is_none_or(newer);
                        assert!(newer, "{key} is written although it is no newer");
                        self.rows.insert(slot, row);
                    }
                    Write::Remove { .. } => {
                        self.rows.remove(&slot);
                    }
                }
            }
        }

        /// The rows without what depends on the order of arrival: the history's outcomes.
        fn settled(&self) -> BTreeMap<(usize, Vec<u8>), Row> {
            let mut rows = self.rows.clone();
            for ((table, _), row) in &mut rows {
                if *table == EVENTS {
                    row.0[OUTCOME] = Cell::Null;
                }
            }
            rows
        }
    }

    /// Whether what was folded is remembered from batch to batch, or asked for again.
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Memory {
        Kept,
        Lost,
    }

    fn run(
        kept: &mut Kept,
        events: &[Said],
        batches: &[usize],
        repeats: Repeats,
        memory: Memory,
    ) -> (Vec<Outcome>, Chain) {
        let tables = tables();
        let mut entries = (1..).zip(events).map(|(at, said)| Entry {
            sequence: Sequence::new(at).unwrap(),
            changes: said.changes(),
        });
        let (mut outcomes, mut chain, mut known) = (Vec::new(), Chain::default(), Known::default());
        for &count in batches.iter().cycle() {
            let batch: Vec<_> = entries.by_ref().take(count).collect();
            if batch.is_empty() {
                break;
            }
            if memory == Memory::Lost {
                known = Known::default();
            }
            let question = question(&tables, &batch);
            let answer = kept.answer(&tables, &question);
            known.learn(question, answer);
            let folded = known.fold(&tables, batch.clone(), repeats);
            for (entry, outcome) in batch.iter().zip(&folded.outcomes) {
                chain.take(entry.sequence, &entry.changes, *outcome);
            }
            kept.take(&tables, folded.writes);
            outcomes.extend(folded.outcomes);
        }
        (outcomes, chain)
    }

    fn count(outcomes: &[Outcome], wanted: Outcome) -> usize {
        outcomes.iter().filter(|found| **found == wanted).count()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        // PRJ-02, PRJ-03: ties are decided by the event, repeats are harmless, and what was deleted
        // stays deleted whenever that is told.
        #[test]
        fn any_order_and_any_batches_end_in_the_same_rows((one, other, batches) in histories()) {
            let (mut left, mut right) = (Kept::default(), Kept::default());
            let (outcomes, _) = run(&mut left, &one, &batches, Repeats::AreDone, Memory::Kept);
            run(&mut right, &other, &[1], Repeats::AreDone, Memory::Lost);
            prop_assert_eq!(left.settled(), right.settled());
            // The newest event of each row is the one that it shows.
            for (_, row) in left.rows.iter().filter(|((table, _), _)| *table == ROWS) {
                let of = other.iter().filter(|said| row.0[1] == Cell::Text(format!("r{}", said.row)));
                let newest = of.max_by_key(|said| (said.ts, said.event)).unwrap();
                prop_assert_eq!(&row.0[2..], [
                    Cell::Timestamp(Micros(newest.ts)),
                    Cell::Text(format!("e{:03}", newest.event)),
                    Cell::Boolean(newest.deleted),
                ]);
            }
            prop_assert_eq!(count(&outcomes, Outcome::Duplicate), one.len() - other.len());
        }

        // PRJ-01, PRJ-18: how records come in batches, and what is remembered, is seen nowhere.
        #[test]
        fn batches_leave_no_trace((events, _, batches) in histories()) {
            let (mut left, mut right) = (Kept::default(), Kept::default());
            let one = run(&mut left, &events, &batches, Repeats::AreDone, Memory::Kept);
            let other = run(&mut right, &events, &[1], Repeats::AreDone, Memory::Lost);
            prop_assert_eq!(one, other);
            prop_assert_eq!(left, right);
        }

        // PRJ-03: the history says of each event what became of it.
        #[test]
        fn the_history_has_the_outcome_of_each_event((events, _, batches) in histories()) {
            let mut kept = Kept::default();
            let (outcomes, _) = run(&mut kept, &events, &batches, Repeats::AreDone, Memory::Kept);
            let told = |wanted: Outcome| {
                let rows = kept.rows.iter().filter(|((table, _), row)| {
                    *table == EVENTS && row.0[OUTCOME] == wanted.as_str().into()
                });
                rows.count()
            };
            for outcome in [Outcome::Projected, Outcome::Stale] {
                prop_assert_eq!(told(outcome), count(&outcomes, outcome));
            }
            prop_assert_eq!(told(Outcome::Duplicate), 0);
        }

        // PRJ-06: a backfill over whole tables changes nothing, over holes it mends them.
        #[test]
        fn a_backfill_mends_what_is_missing_and_nothing_else(
            (events, _, batches) in histories(),
            lost in vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut whole = Kept::default();
            run(&mut whole, &events, &[3], Repeats::AreDone, Memory::Kept);
            let mut again = whole.clone();
            let (outcomes, _) = run(&mut again, &events, &batches, Repeats::AreLookedAt, Memory::Kept);
            prop_assert_eq!(&again, &whole);
            prop_assert_eq!(count(&outcomes, Outcome::Duplicate), events.len());

            let mut holey = whole.clone();
            for at in lost {
                let slots: Vec<_> = holey.rows.keys().cloned().collect();
                if let Some(slot) = slots.get(at.index(slots.len().max(1))) {
                    holey.rows.remove(slot);
                }
            }
            run(&mut holey, &events, &batches, Repeats::AreLookedAt, Memory::Lost);
            prop_assert_eq!(holey.settled(), whole.settled());
        }
    }

    #[test]
    fn what_removes_a_row_lets_a_later_one_in() {
        let tables = tables();
        let said = |ts| Said {
            row: 0,
            ts,
            event: 0,
            deleted: false,
        };
        let put = |ts| said(ts).changes().remove(1);
        let key = Key(vec!["t".into(), "r0".into()]);
        let remove = Change::Remove { table: ROWS, key };
        let entry = |at, change| Entry {
            sequence: Sequence::new(at).unwrap(),
            changes: vec![change],
        };
        let entries = vec![
            entry(1, put(1)),
            entry(2, remove.clone()),
            entry(3, put(2)),
            entry(4, remove),
        ];
        let mut known = Known::default();
        let folded = known.fold(&tables, entries, Repeats::AreDone);
        use Outcome::{Ignored, Projected};
        assert_eq!(folded.outcomes, [Projected, Ignored, Projected, Ignored]);
        assert!(
            matches!(
                folded.writes.as_slice(),
                [Write::Remove { table: ROWS, .. }]
            ),
            "{:?}",
            folded.writes
        );
    }

    // PRJ-18: nothing that was projected is left out of the hash.
    #[test]
    fn the_chain_tells_records_outcomes_and_changes_apart() {
        let said = Said {
            row: 0,
            ts: 1,
            event: 0,
            deleted: false,
        };
        let at = |sequence, changes| Entry {
            sequence: Sequence::new(sequence).unwrap(),
            changes,
        };
        let mut chains = HashSet::new();
        let deleted = Said {
            deleted: true,
            ..said.clone()
        };
        for (entry, outcome) in [
            (at(1, said.changes()), Outcome::Projected),
            (at(2, said.changes()), Outcome::Projected),
            (at(1, said.changes()), Outcome::Stale),
            (at(1, deleted.changes()), Outcome::Projected),
            (at(1, Vec::new()), Outcome::Dead),
        ] {
            let mut chain = Chain::default();
            chain.take(entry.sequence, &entry.changes, outcome);
            assert!(chains.insert(chain.0), "{entry:?}");
        }
        let mut chain = Chain::default();
        chain.take(at(9, Vec::new()).sequence, &[], Outcome::Ignored);
        assert_eq!(chain, Chain::default(), "of other topics nothing is told");
    }
}
