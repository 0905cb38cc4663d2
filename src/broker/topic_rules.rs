//! Which topics keep what: limits of age, bytes and count, compaction by key, and what the log is
//! told of an envelope for that.
//!
//! Rules stand in the order in which they were given; the first whose pattern matches a topic
//! decides for it. The broker's own topics have rules of their own: cursors of consumers
//! (`sys.consumer.`), states of groups (`sys.group.`) and positions of operators (`sys.position.`)
//! are compacted, each topic being one key; the others stay whole, because state is folded from them,
//! but for statements (`sys.log`) and audits (`sys.audit`), which can be given limits by a rule that
//! names them. On the topics of operators (`op.`) only rules hold whose pattern
//! begins with that token: keys (`op.store.`) are compacted where none does, and where jobs and
//! waiting messages stand (`op.cron.`, `sys.later.`) always.

use super::consumer;
use super::control;
use super::filter::Filter;
use super::group;
use super::name::{self, NameError};
use super::operators::{cron, delayed, store, wasm};
use super::replaying;
use super::system;
use crate::config::TopicEntry;
use crate::log::{Facts, KeyRule, Limits, Micros, RecordRef};
use crate::proto::audit;
use crate::proto::topic::is_of_operators;
use crate::proto::view::{Payload, RecordView};

/// How long a tombstone stays if its rule does not say: a day.
const TOMBSTONE_GRACE_S: u64 = 24 * 60 * 60;

/// What holds for the topics that a pattern matches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicRule {
    /// Which topics.
    pub pattern: Filter,
    /// What is kept of each.
    pub limits: Limits,
    /// How each is compacted, if it is.
    pub compaction: Option<KeyRule>,
}

/// A pattern in the settings that is none.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {text:?} is no pattern: {fault}")]
pub struct BadPattern {
    /// Where it stands.
    pub setting: &'static str,
    /// What stands there.
    pub text: String,
    /// What is wrong with it.
    pub fault: NameError,
}

/// The pattern that is written as `text` in `setting`.
pub(super) fn pattern(setting: &'static str, text: &str) -> Result<Filter, BadPattern> {
    Filter::new(text).map_err(|fault| BadPattern {
        setting,
        text: text.to_owned(),
        fault,
    })
}

impl TopicRule {
    /// As it stands in the settings.
    ///
    /// # Errors
    /// The pattern is none.
    pub fn of(entry: &TopicEntry) -> Result<Self, BadPattern> {
        let micros = |seconds: u64| seconds.saturating_mul(1_000_000);
        let grace_s = entry.tombstone_grace_s.unwrap_or(TOMBSTONE_GRACE_S);
        Ok(Self {
            pattern: pattern("retention.topics", &entry.pattern)?,
            limits: Limits {
                age_micros: entry.retain_age_s.map(micros),
                bytes: entry.retain_bytes,
                records: entry.retain_records,
            },
            compaction: entry.compacted.then(|| KeyRule {
                tombstone_grace_micros: micros(grace_s),
            }),
        })
    }
}

/// How long the audit is kept at least if nothing else is said: a year.
const AUDIT_MICROS: u64 = 365 * 24 * 60 * 60 * 1_000_000;

/// All rules of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicRules {
    rules: Vec<TopicRule>,
    audit_micros: u64,
}

impl Default for TopicRules {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl TopicRules {
    /// In the order in which they are asked.
    #[must_use]
    pub const fn new(rules: Vec<TopicRule>) -> Self {
        Self {
            rules,
            audit_micros: AUDIT_MICROS,
        }
    }

    /// With entries of the audit kept for so long at least.
    #[must_use]
    pub const fn keeping_audit_for(mut self, micros: u64) -> Self {
        self.audit_micros = micros;
        self
    }

    /// Whether any topic has a limit.
    #[must_use]
    pub fn limit_something(&self) -> bool {
        let none = Limits::default();
        self.rules.iter().any(|rule| rule.limits != none)
    }

    /// The topics of operators hold what nobody would expect `>` to take away.
    fn of(&self, topic: &str) -> Option<&TopicRule> {
        let named = is_of_operators(topic);
        let mut rules = self.rules.iter().filter(|rule| rule.pattern.governs(topic));
        rules.find(|rule| !named || rule.pattern.names_operators())
    }

    /// What is kept of `topic`.
    #[must_use]
    pub fn limits(&self, topic: &str) -> Limits {
        let is_state = name::is_system_topic(topic) && !may_be_limited(topic);
        // Where an operator or a replay stands must outlast what it has made.
        let is_position = STAND.iter().any(|first| topic.starts_with(first));
        if is_state || is_position {
            return Limits::default();
        }
        let limits = self
            .of(topic)
            .map_or_else(Limits::default, |rule| rule.limits);
        if topic == audit::TOPIC {
            // Neither many entries nor large ones push the oldest out before their time.
            return Limits {
                age_micros: limits.age_micros.map(|age| age.max(self.audit_micros)),
                ..Limits::default()
            };
        }
        limits
    }

    /// How `topic` is compacted, if it is.
    #[must_use]
    pub fn compaction(&self, topic: &str) -> Option<KeyRule> {
        if is_state(topic) {
            return Some(KeyRule {
                tombstone_grace_micros: 0,
            });
        }
        if topic.starts_with(control::TOPIC_PREFIX) {
            return Some(KeyRule {
                tombstone_grace_micros: TOMBSTONE_GRACE_S * 1_000_000,
            });
        }
        let newest_counts = topic.starts_with(cron::TOPIC_PREFIX)
            || topic.starts_with(delayed::TOPIC_PREFIX)
            || topic == delayed::MARKER;
        if newest_counts {
            return Some(KeyRule {
                tombstone_grace_micros: 0,
            });
        }
        if name::is_system_topic(topic) {
            return None;
        }
        match self.of(topic) {
            Some(rule) => rule.compaction,
            None => topic.starts_with(store::TOPIC_PREFIX).then_some(KeyRule {
                tombstone_grace_micros: TOMBSTONE_GRACE_S * 1_000_000,
            }),
        }
    }
}

/// Whether the last record of `topic` is all that counts of it.
fn is_state(topic: &str) -> bool {
    topic.starts_with(consumer::TOPIC_PREFIX)
        || topic.starts_with(group::TOPIC_PREFIX)
        || topic.starts_with(POSITIONS)
}

/// Where operators keep how far they have got, each topic one key.
const POSITIONS: &str = "sys.position.";

/// Topics of operators whose last records say where something stands: never limited.
const STAND: [&str; 4] = [
    cron::TOPIC_PREFIX,
    delayed::TOPIC_PREFIX,
    replaying::TOPIC_PREFIX,
    wasm::run::TOPIC_PREFIX,
];

/// Of the broker's own topics only those that nothing is folded from can be given limits.
fn may_be_limited(topic: &str) -> bool {
    topic == system::LOG_TOPIC || topic == audit::TOPIC || topic.starts_with("sys.audit.")
}

/// What the log has to know of a record. A tombstone is an envelope with a key and without data.
/// One that cannot be read stays: it has no key, so it is the newest of its topic at most once,
/// and no expiry.
pub(super) fn facts<'r>(record: &RecordRef<'r>) -> Facts<'r> {
    let Ok(view) = RecordView::parse(record.record) else {
        return Facts::default();
    };
    let envelope = view.envelope;
    let key = (!envelope.key.is_empty()).then_some(envelope.key.as_bytes());
    let without_data = match envelope.payload {
        Payload::Empty => true,
        Payload::Command { data, .. } | Payload::Event { data, .. } => data.is_empty(),
        Payload::Signal { .. } => false,
    };
    let expires_at = u64::try_from(envelope.expires_at).ok().filter(|at| *at > 0);
    Facts {
        key,
        tombstone: key.is_some() && without_data,
        expires_at: expires_at.map(|ms| Micros(ms.saturating_mul(1_000))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(pattern: &str, records: u64, compacted: bool) -> TopicRule {
        TopicRule {
            pattern: Filter::new(pattern).unwrap(),
            limits: Limits {
                records: Some(records),
                ..Limits::default()
            },
            compaction: compacted.then_some(KeyRule {
                tombstone_grace_micros: 7,
            }),
        }
    }

    // OPS-07: a rule for everything does not take keys away.
    #[test]
    fn operators_topics_are_compacted_and_limited_by_name_alone() {
        let rules = TopicRules::new(vec![rule(">", 1, false), rule("op.store.logs.>", 9, false)]);
        assert_eq!(rules.limits("op.store.n.k"), Limits::default());
        assert!(rules.compaction("op.store.n.k").is_some());
        assert_eq!(rules.limits("op.store.logs.k").records, Some(9));
        assert_eq!(rules.compaction("op.store.logs.k"), None);
        let all = TopicRules::new(vec![rule("op.>", 1, false)]);
        for topic in ["op.cron.cron_1", "sys.later.a", "sys.later"] {
            assert!(all.compaction(topic).is_some(), "{topic}");
        }
        assert_eq!(all.limits("op.cron.cron_1"), Limits::default());
    }

    // LOG-10, LOG-11: the first rule that matches decides.
    #[test]
    fn the_first_rule_decides() {
        let rules = TopicRules::new(vec![rule("a.b", 1, true), rule("a.>", 2, false)]);
        assert_eq!(rules.limits("a.b").records, Some(1));
        assert_eq!(rules.limits("a.c").records, Some(2));
        assert_eq!(rules.limits("b").records, None);
        assert!(rules.compaction("a.b").is_some());
        assert!(rules.compaction("a.c").is_none());
        assert!(rules.limit_something());
        assert!(!TopicRules::default().limit_something());
    }

    // LOG-10: a pattern that is none is refused with the setting it stands in.
    #[test]
    fn a_bad_pattern_is_named() {
        let entry = TopicEntry {
            pattern: "a.>.b".into(),
            retain_age_s: None,
            retain_bytes: None,
            retain_records: None,
            compacted: false,
            tombstone_grace_s: None,
        };
        let error = TopicRule::of(&entry).unwrap_err().to_string();
        assert!(error.starts_with("retention.topics: \"a.>.b\""), "{error}");
    }

    // BRK-13: a rule can keep the audit longer, and not shorten it.
    #[test]
    fn no_rule_shortens_the_audit() {
        let day = 24 * 60 * 60 * 1_000_000;
        let mut named = rule("sys.audit", 3, true);
        named.limits.bytes = Some(1);
        for (age, kept) in [
            (None, None),
            (Some(1), Some(2 * day)),
            (Some(3 * day), Some(3 * day)),
        ] {
            named.limits.age_micros = age;
            let rules = TopicRules::new(vec![named.clone()]).keeping_audit_for(2 * day);
            let expected = Limits {
                age_micros: kept,
                ..Limits::default()
            };
            assert_eq!(rules.limits("sys.audit"), expected);
            assert!(rules.compaction("sys.audit").is_none());
        }
        assert_eq!(TopicRules::default().limits("sys.audit"), Limits::default());
    }

    // LOG-11, BRK-03, BRK-04: cursors are compacted whatever the settings say; statements and audits never.
    #[test]
    fn the_brokers_own_topics_have_their_own_rules() {
        let all = [">", "sys.>", "sys.consumer.>"].map(|pattern| rule(pattern, 3, true));
        for rules in [TopicRules::default(), TopicRules::new(all.into())] {
            assert!(rules.compaction("sys.consumer.main.c").is_some());
            assert_eq!(rules.limits("sys.consumer.main.c"), Limits::default());
            assert!(rules.compaction("sys.group.main.g").is_some());
            assert_eq!(rules.limits("sys.group.main.g"), Limits::default());
            assert_eq!(rules.limits("sys.reality.fork"), Limits::default());
            for topic in ["sys.log", "sys.audit", "sys.reality.fork"] {
                assert!(rules.compaction(topic).is_none(), "{topic}");
            }
        }
        let rules = TopicRules::new(vec![rule(">", 3, true)]);
        assert_eq!(rules.limits("sys.log"), Limits::default(), "must be named");
    }
}
