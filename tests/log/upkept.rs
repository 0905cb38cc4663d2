//! A log under upkeep, and the map of records that it must equal.
//!
//! Envelopes carry their key, tombstone and expiry in a form of their own; the rules for topics
//! are fixed: those that begin with `k` are compacted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arqonbus::log::{
    Compaction, CompactionReport, Compression, CompressionReport, Durability, Ended, Error, Facts,
    Found, Holder, KeyRule, Limits, Log, Micros, Options, RecordRef, Retention, RetentionReport,
    Sequence, Unthrottled,
};

use crate::session::{DIR, Event, Session, SimClock, record, small_options};
use crate::sim_storage::SimStorage;

/// Begins every envelope.
const MAGIC: &[u8; 8] = b"UPKEEPEN";
/// Grace of tombstones.
pub(crate) const GRACE: u64 = 10_000_000;
pub(crate) const TOPICS: [&str; 5] = ["k.one", "k.two", "plain", "rare", "kk"];

/// A record to be made.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) topic: &'static str,
    pub(crate) key: Option<u8>,
    pub(crate) tombstone: bool,
    pub(crate) expires_at: Option<u64>,
    pub(crate) len: usize,
}

impl Wish {
    pub(crate) fn plain(topic: &'static str, len: usize) -> Self {
        Self {
            topic,
            key: None,
            tombstone: false,
            expires_at: None,
            len,
        }
    }

    pub(crate) fn keyed(topic: &'static str, key: u64, len: usize) -> Self {
        Self {
            key: Some(u8::try_from(key).expect("few keys")),
            ..Self::plain(topic, len)
        }
    }

    pub(crate) fn envelope(&self, number: u64) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(u8::from(self.key.is_some()));
        out.push(self.key.unwrap_or(0));
        out.push(u8::from(self.tombstone));
        out.extend_from_slice(&self.expires_at.unwrap_or(u64::MAX).to_le_bytes());
        out.extend_from_slice(&number.to_le_bytes());
        // Half of it compresses.
        let mut filler = crate::dice::Dice::new(number);
        while out.len() < self.len {
            out.extend_from_slice(&filler.roll().to_le_bytes());
            out.extend_from_slice(b"the same");
        }
        out
    }
}

/// What the envelope of `record` says.
pub(crate) fn facts<'r>(record: &RecordRef<'r>) -> Facts<'r> {
    let at = record.record.windows(8).position(|window| window == MAGIC);
    let envelope = &record.record[at.expect("every record was wished for") + 8..];
    let expires_at = u64::from_le_bytes(envelope[3..11].try_into().expect("eight bytes"));
    Facts {
        key: (envelope[0] == 1).then(|| &envelope[1..2]),
        tombstone: envelope[2] == 1,
        expires_at: (expires_at != u64::MAX).then_some(Micros(expires_at)),
    }
}

pub(crate) fn rule(topic: &str) -> Option<KeyRule> {
    topic.starts_with('k').then_some(KeyRule {
        tombstone_grace_micros: GRACE,
    })
}

/// What the map knows of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Kept {
    pub(crate) topic: String,
    pub(crate) appended_at: u64,
    pub(crate) key: Vec<u8>,
    pub(crate) tombstone: bool,
    pub(crate) expires_at: Option<u64>,
    /// As it is on disk.
    pub(crate) field: Vec<u8>,
}

impl Kept {
    fn of(record: &RecordRef<'_>) -> Self {
        let facts = facts(record);
        Self {
            topic: record.topic.to_owned(),
            appended_at: record.appended_at.0,
            key: facts.key.unwrap_or_default().to_vec(),
            tombstone: facts.tombstone,
            expires_at: facts.expires_at.map(|at| at.0),
            field: record.field.to_vec(),
        }
    }

    /// Since when it is of no use, if it is the newest of its key or has none.
    fn spent_at(&self) -> u64 {
        let compacted = rule(&self.topic).is_some();
        let grace_end = (compacted && self.tombstone).then(|| self.appended_at + GRACE);
        let ends = [grace_end, self.expires_at];
        ends.into_iter().flatten().min().unwrap_or(u64::MAX)
    }
}

pub(crate) type Model = BTreeMap<u64, Kept>;

/// Limits by topic for tests: the same for all topics but those that begin with `rare`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) limits: Limits,
    pub(crate) holders: Vec<Holder>,
    pub(crate) hold_bytes_max: u64,
    pub(crate) dead_percent: u8,
    pub(crate) overdue_micros: u64,
}

impl Rules {
    pub(crate) fn of(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    pub(crate) fn limits_of(&self, topic: &str) -> Limits {
        if topic == "rare" {
            Limits::default()
        } else {
            self.limits
        }
    }
}

/// A machine, a log, and what must be in it.
pub(crate) struct Upkept {
    pub(crate) storage: SimStorage,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) options: Options,
    pub(crate) session: Session,
    pub(crate) model: Model,
    /// Every record that ever was.
    pub(crate) written: Model,
    number: u64,
}

impl Upkept {
    pub(crate) fn new(seed: u64) -> Self {
        let (storage, clock) = (SimStorage::new(seed), SimClock::new());
        let options = small_options();
        let session = Session::open(&storage, &clock, &options).expect("a sound disk");
        Self {
            storage,
            clock,
            options,
            session,
            model: Model::new(),
            written: Model::new(),
            number: 0,
        }
    }

    pub(crate) fn log(&self) -> &Log {
        &self.session.log
    }

    pub(crate) fn now(&self) -> u64 {
        arqonbus::log::Clock::now(&*self.clock).0
    }

    /// Appends, commits, and enters what was written in the map.
    pub(crate) fn append(&mut self, wishes: &[Wish], durability: Durability) {
        let records = wishes.iter().map(|wish| {
            self.number += 1;
            record(wish.topic, &wish.envelope(self.number))
        });
        let records = records.collect();
        self.session
            .append(self.number, records, durability, None)
            .expect("queued");
        self.session.committer.run_until_idle();
        self.note();
    }

    pub(crate) fn chores(&mut self) {
        self.session.committer.run_chores();
        self.note();
    }

    /// One record at a time, with all that happens in between.
    pub(crate) fn fill(&mut self, count: u64, wish: impl Fn(u64) -> Wish) {
        for at in 0..count {
            self.append(&[wish(at)], Durability::Synced);
            self.chores();
        }
    }

    pub(crate) fn note(&mut self) {
        for event in self.session.scribe.take() {
            if let Event::Written(chunk) = event {
                for record in chunk.iter() {
                    let kept = Kept::of(&record);
                    self.written.insert(record.sequence.get(), kept.clone());
                    self.model.insert(record.sequence.get(), kept);
                }
            }
        }
    }

    pub(crate) fn close_and_open(&mut self) {
        self.session.log.close().expect("a sound disk");
        self.open();
    }

    pub(crate) fn kill_and_open(&mut self) {
        self.storage = self.storage.process_kill();
        self.open();
    }

    pub(crate) fn open(&mut self) {
        self.session =
            Session::open(&self.storage, &self.clock, &self.options).expect("a sound disk");
    }

    /// Where the segment begins that is written to, which upkeep never touches.
    pub(crate) fn active_base(&self) -> u64 {
        let files = self.storage.files();
        let names = files.keys().filter(|path| path.starts_with(DIR));
        let names = names.filter_map(|path| path.file_name()?.to_str()?.strip_suffix(".seg"));
        names
            .filter_map(|name| name.parse().ok())
            .max()
            .expect("a log has a segment")
    }

    pub(crate) fn segment_names(&self) -> Vec<String> {
        let files = self.storage.files();
        let names = files.keys().filter_map(|path| path.file_name()?.to_str());
        names.map(ToOwned::to_owned).collect()
    }

    /// What compaction removes if it leaves nothing.
    pub(crate) fn superseded_or_expired(&self) -> BTreeSet<u64> {
        let durable_end = self.log().bounds().durable_end.get();
        let mut newest: BTreeMap<(&str, &[u8]), u64> = BTreeMap::new();
        for (sequence, kept) in self.model.range(..durable_end) {
            newest.insert((&kept.topic, &kept.key), *sequence);
        }
        let goes = |sequence: &u64, kept: &Kept| {
            let superseded = rule(&kept.topic).is_some()
                && newest[&(kept.topic.as_str(), kept.key.as_slice())] != *sequence;
            superseded || kept.spent_at() <= self.now()
        };
        let sealed = self.model.range(..self.active_base().min(durable_end));
        sealed
            .filter(|(sequence, kept)| goes(sequence, kept))
            .map(|(sequence, _)| *sequence)
            .collect()
    }

    /// What retention removes if it leaves nothing and nobody holds anything.
    pub(crate) fn past_limits(&self, rules: &Rules) -> BTreeSet<u64> {
        let durable_end = self.log().bounds().durable_end.get();
        let mut so_far: BTreeMap<&str, (u64, u64, bool)> = BTreeMap::new();
        let mut gone = BTreeSet::new();
        for (sequence, kept) in self.model.range(..durable_end).rev() {
            let limits = rules.limits_of(&kept.topic);
            let (records, bytes, full) = so_far.entry(&kept.topic).or_default();
            *records += 1;
            *bytes += kept.field.len() as u64;
            *full |= limits.records.is_some_and(|max| *records > max)
                || limits.bytes.is_some_and(|max| *bytes > max);
            let old = limits
                .age_micros
                .is_some_and(|age| kept.appended_at < self.now().saturating_sub(age));
            if (*full || old) && *sequence < self.active_base() {
                gone.insert(*sequence);
            }
        }
        gone
    }

    pub(crate) fn compaction(dead_percent: u8, overdue_micros: u64) -> Compaction<'static> {
        Compaction {
            rule: &rule,
            facts: &facts,
            edition: u64::from(dead_percent) + 1,
            keys_max: 1000,
            dead_percent,
            overdue_micros,
            compression_level: 3,
        }
    }

    pub(crate) fn try_compact(&self) -> Result<CompactionReport, Error> {
        self.log().compact(&Self::compaction(0, 0), &Unthrottled)
    }

    pub(crate) fn try_retain(&self, rules: &Rules) -> Result<RetentionReport, Error> {
        let retention = Retention {
            limits: &|topic| rules.limits_of(topic),
            holders: &rules.holders,
            hold_bytes_max: rules.hold_bytes_max,
            dead_percent: rules.dead_percent,
            overdue_micros: rules.overdue_micros,
            compression_level: 3,
        };
        self.log().retain(&retention, &Unthrottled)
    }

    pub(crate) fn try_compress(&self, newest_left: usize) -> Result<CompressionReport, Error> {
        let compression = Compression {
            level: 3,
            newest_left,
            before: Micros(u64::MAX),
        };
        self.log().compress(&compression, &Unthrottled)
    }

    /// Compacts as far as can be, and checks that exactly that is gone.
    pub(crate) fn compact(&mut self) -> CompactionReport {
        let gone = self.superseded_or_expired();
        let report = self.try_compact().expect("a sound disk");
        assert_eq!(report.rewrites.ended, Ended::Complete);
        assert_eq!(report.rewrites.damaged, []);
        assert_eq!(report.rewrites.records_removed, gone.len() as u64);
        assert_eq!(report.dead_bytes_left, 0);
        self.model.retain(|sequence, _| !gone.contains(sequence));
        self.check(4096);
        report
    }

    /// Retains as far as can be, and checks that exactly that is gone.
    pub(crate) fn retain(&mut self, rules: &Rules) -> RetentionReport {
        assert!(rules.dead_percent == 0 && rules.holders.is_empty());
        let gone = self.past_limits(rules);
        let report = self.try_retain(rules).expect("a sound disk");
        assert_eq!(report.rewrites.ended, Ended::Complete);
        let removed = report.removed_records + report.rewrites.records_removed;
        assert_eq!(removed, gone.len() as u64, "{report:?}");
        assert_eq!(report.dead_bytes_left, 0);
        self.model.retain(|sequence, _| !gone.contains(sequence));
        self.check(4096);
        report
    }

    /// A pass that may leave some of `may_go` behind, but removes nothing else.
    pub(crate) fn adopt(&mut self, may_go: &BTreeSet<u64>) {
        let present: BTreeSet<u64> = self.read_all(4096).into_keys().collect();
        for sequence in self.model.keys() {
            assert!(
                present.contains(sequence) || may_go.contains(sequence),
                "{sequence} is gone and should not be"
            );
        }
        self.model.retain(|sequence, _| present.contains(sequence));
        self.check(4096);
    }

    /// All that the log gives, from its first record on.
    pub(crate) fn read_all(&self, bytes_max: usize) -> Model {
        self.try_read_all(bytes_max).expect("readable")
    }

    pub(crate) fn try_read_all(&self, bytes_max: usize) -> Result<Model, Error> {
        let bounds = self.log().bounds();
        let mut at = bounds.first;
        let mut all = Model::new();
        loop {
            match self.log().read(at, bounds.written_end, bytes_max)? {
                Found::Records(chunk) => {
                    assert!(chunk.base >= at);
                    for record in chunk.iter() {
                        assert!(record.is_intact());
                        all.insert(record.sequence.get(), Kept::of(&record));
                    }
                    at = chunk.last.next();
                }
                Found::Damaged { damage, .. } => panic!("{damage}"),
                Found::End => return Ok(all),
            }
        }
    }

    /// Every way to look at the log must show the map.
    pub(crate) fn check(&self, bytes_max: usize) {
        let found = self.read_all(bytes_max);
        let differs = |sequence: &&u64| found.get(*sequence) != self.model.get(*sequence);
        let different: Vec<_> = found
            .keys()
            .chain(self.model.keys())
            .filter(differs)
            .collect();
        assert!(different.is_empty(), "read differs at {different:?}");
        self.check_topics();
        self.check_topic_readers(bytes_max);
        self.check_times();
    }

    fn check_topics(&self) {
        let mut expected: BTreeMap<&str, (u64, u64, u64, u64)> = BTreeMap::new();
        for (sequence, kept) in &self.model {
            let entry = expected.entry(&kept.topic).or_insert((0, 0, *sequence, 0));
            entry.0 += 1;
            entry.1 += kept.field.len() as u64;
            entry.3 = *sequence;
        }
        let topics = self.log().topics().expect("readable");
        let found: BTreeMap<_, _> = topics
            .iter()
            .map(|topic| {
                let (first, last) = (topic.first.get(), topic.last.get());
                (
                    topic.topic.as_str(),
                    (topic.records, topic.bytes, first, last),
                )
            })
            .collect();
        assert_eq!(found, expected);
    }

    fn check_topic_readers(&self, bytes_max: usize) {
        let end = self.log().bounds().written_end;
        for wanted in [
            &["k.one"][..],
            &["plain", "kk"],
            &["rare", "k.two", "plain"],
        ] {
            let mut reader = self
                .log()
                .topic_reader(Box::new(move |topic| wanted.contains(&topic)));
            let mut at = self.log().bounds().first;
            let mut found = Vec::new();
            while let Found::Records(chunk) = reader.read(at, end, bytes_max).expect("readable") {
                found.extend(chunk.iter().map(|record| record.sequence.get()));
                at = chunk.last.next();
            }
            let expected = self.model.iter();
            let expected = expected.filter(|(_, kept)| wanted.contains(&kept.topic.as_str()));
            let expected: Vec<_> = expected.map(|(sequence, _)| *sequence).collect();
            assert_eq!(found, expected, "{wanted:?}");
        }
    }

    // LOG-09: a time or a sequence that was compacted away answers the next one.
    fn check_times(&self) {
        let bounds = self.log().bounds();
        let times = self.model.values().map(|kept| kept.appended_at);
        let times: BTreeSet<u64> = times.flat_map(|at| [at, at + 1]).collect();
        for time in times.into_iter().step_by(7) {
            let after = self.model.iter().find(|(_, kept)| kept.appended_at >= time);
            let expected = after.map_or(bounds.written_end.get(), |(sequence, _)| *sequence);
            let found = self.log().seek_time(Micros(time)).expect("readable");
            assert_eq!(found.get(), expected, "time {time}");
        }
        let positions = bounds.first.get()..bounds.written_end.get();
        for from in positions.step_by(11) {
            let from = Sequence::new(from).expect("a position");
            let expected = self.model.range(from.get()..).next().map(|(at, _)| *at);
            let found = self.log().read(from, bounds.written_end, 1);
            let found = match found.expect("readable") {
                Found::Records(chunk) => Some(chunk.base.get()),
                Found::End => None,
                Found::Damaged { damage, .. } => panic!("{damage}"),
            };
            assert_eq!(found, expected, "from {from}");
        }
    }
}
