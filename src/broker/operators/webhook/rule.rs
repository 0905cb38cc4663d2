//! What is sent where, and how far each rule has got: the fold of a tenant's webhooks (OPS-05,
//! OPS-14).
//!
//! An event on `sys.op.webhook.<rule>` is all of a rule, the last one holds. One on
//! `sys.position.webhook.<rule>` is all of its progress; of these topics only the last record is
//! kept. Progress counts for the generation of the rule that it names: a rule that is sent back to
//! an earlier place begins another, so that what was under way then changes nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::broker::journal::{Event, NewEvent};
use crate::broker::ledger::{State, Unfit};

const RULE_TOPIC: &str = "sys.op.webhook.";
const POSITION_TOPIC: &str = "sys.position.webhook.";
const RULE: &str = "webhook.rule";
const REMOVED: &str = "webhook.removed";
const POSITION: &str = "webhook.position";

/// What a receiver gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// `{"type", "timestamp", "data"}`, with the record as everywhere.
    Json,
    /// As the older system sent it.
    Legacy,
    /// The record's own bytes.
    Protobuf,
}

impl Format {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "json" => Some(Self::Json),
            "legacy" => Some(Self::Legacy),
            "protobuf" => Some(Self::Protobuf),
            _ => None,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Legacy => "legacy",
            Self::Protobuf => "protobuf",
        }
    }
}

/// What becomes of an event that was not taken in all its attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnExhausted {
    /// It becomes a dead letter, and the rule goes on.
    DeadLetter,
    /// The rule is disabled, and goes on with it when somebody enables it.
    Pause,
}

impl OnExhausted {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "dead_letter" => Some(Self::DeadLetter),
            "pause" => Some(Self::Pause),
            _ => None,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::DeadLetter => "dead_letter",
            Self::Pause => "pause",
        }
    }
}

/// A secret, and until when it signs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Signing {
    pub(super) secret: String,
    /// Milliseconds since the Unix epoch; `None`: for good.
    pub(super) until_ms: Option<u64>,
}

impl std::fmt::Debug for Signing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signing")
            .field("until_ms", &self.until_ms)
            .finish_non_exhaustive()
    }
}

/// All of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rule {
    pub(super) id: String,
    pub(super) name: String,
    /// Subject of whoever registered it, who might subscribe to all that it matches.
    pub(super) owner: String,
    pub(super) url: String,
    pub(super) reality: String,
    pub(super) topic: String,
    pub(super) room: Option<String>,
    pub(super) channel: Option<String>,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) timeout_ms: u64,
    pub(super) format: Format,
    pub(super) ordered_by_key: bool,
    pub(super) attempts_max: u64,
    pub(super) on_exhausted: OnExhausted,
    /// The one that signs for good first.
    pub(super) secrets: Vec<Signing>,
    pub(super) created_at_ms: u64,
    pub(super) enabled: bool,
    /// Why it is not, if the node has done it.
    pub(super) disabled_because: Option<String>,
    pub(super) generation: u64,
    /// The first sequence that this generation is about.
    pub(super) from: u64,
}

/// An event that was not taken yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trouble {
    pub(super) sequence: u64,
    pub(super) attempts: u64,
    pub(super) first_at: u64,
    pub(super) last_at: u64,
    /// When it is sent again; microseconds, as the others.
    pub(super) next_at: u64,
    /// What came of it last.
    pub(super) said: String,
}

/// How far a rule has got.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) generation: u64,
    /// Everything below is done with.
    pub(super) next: u64,
    /// And these.
    pub(super) done: Vec<u64>,
    pub(super) troubles: Vec<Trouble>,
    /// Records that are to be sent once more, out of order.
    pub(super) again: Vec<u64>,
}

/// The webhooks of a tenant.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Hooks {
    pub(super) rules: BTreeMap<String, Rule>,
    positions: BTreeMap<String, Position>,
}

impl State for Hooks {
    const NAME: &'static str = "webhooks";
    const VERSION: u32 = 1;
    const TOPICS: &'static [&'static str] = &["sys.op.webhook.>", "sys.position.webhook.>"];

    fn apply(&mut self, event: &Event<'_>) -> Result<(), Unfit> {
        match event.kind {
            RULE => {
                let rule: Rule = serde_json::from_slice(event.data).map_err(Unfit::new)?;
                self.rules.insert(rule.id.clone(), rule);
            }
            REMOVED => {
                let id = event.topic.strip_prefix(RULE_TOPIC).unwrap_or_default();
                self.rules.remove(id);
                self.positions.remove(id);
            }
            POSITION => {
                let id = event.topic.strip_prefix(POSITION_TOPIC).unwrap_or_default();
                // Compaction keeps that of a rule that is gone.
                if self.rules.contains_key(id) {
                    let position = serde_json::from_slice(event.data).map_err(Unfit::new)?;
                    self.positions.insert(id.to_owned(), position);
                }
            }
            other => return Err(Unfit::new(format!("it is a {other:?}, which is not known"))),
        }
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn load(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

impl Hooks {
    /// How far `rule` has got.
    pub(super) fn position(&self, rule: &Rule) -> Position {
        let stored = self.positions.get(&rule.id).cloned().unwrap_or_default();
        if stored.generation == rule.generation {
            return stored;
        }
        Position {
            generation: rule.generation,
            next: rule.from,
            again: stored.again,
            ..Position::default()
        }
    }
}

fn json(of: &impl Serialize) -> Bytes {
    // Nothing in it can fail to be written: keys are texts, and there is no fraction.
    serde_json::to_vec(of).unwrap_or_default().into()
}

/// That a rule is, or is otherwise.
pub(super) fn set(rule: &Rule) -> NewEvent<'static> {
    NewEvent {
        topic: format!("{RULE_TOPIC}{}", rule.id),
        kind: RULE,
        schema: "",
        data: json(rule),
    }
}

/// That it is no more.
pub(super) fn removed(id: &str) -> NewEvent<'static> {
    NewEvent {
        topic: format!("{RULE_TOPIC}{id}"),
        kind: REMOVED,
        schema: "",
        data: Bytes::from_static(b"{}"),
    }
}

/// How far it has got.
pub(super) fn reached(id: &str, position: &Position) -> NewEvent<'static> {
    NewEvent {
        topic: format!("{POSITION_TOPIC}{id}"),
        kind: POSITION,
        schema: "",
        data: json(position),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Micros, Sequence};

    fn rule(generation: u64, from: u64) -> Rule {
        Rule {
            id: "wh_1".into(),
            name: "orders".into(),
            owner: "alice".into(),
            url: "https://example.com/".into(),
            reality: "main".into(),
            topic: "orders.>".into(),
            room: None,
            channel: None,
            headers: BTreeMap::new(),
            timeout_ms: 1_000,
            format: Format::Json,
            ordered_by_key: false,
            attempts_max: 3,
            on_exhausted: OnExhausted::DeadLetter,
            secrets: vec![Signing {
                secret: "whsec_x".into(),
                until_ms: None,
            }],
            created_at_ms: 1,
            enabled: true,
            disabled_because: None,
            generation,
            from,
        }
    }

    fn apply(hooks: &mut Hooks, event: &NewEvent<'_>) {
        let event = Event {
            sequence: Sequence::FIRST,
            at: Micros(0),
            topic: &event.topic,
            kind: event.kind,
            data: &event.data,
        };
        hooks.apply(&event).unwrap();
    }

    // OPS-05, OPS-14
    #[test]
    fn progress_counts_for_the_generation_that_made_it() {
        let (first, second) = (rule(1, 10), rule(2, 5));
        let reach = |generation, next| Position {
            generation,
            next,
            again: vec![7],
            ..Position::default()
        };
        let mut hooks = Hooks::default();
        // Compaction can leave that of a rule that is gone, or not there yet.
        apply(&mut hooks, &reached("wh_1", &reach(1, 99)));
        apply(&mut hooks, &set(&first));
        assert_eq!(hooks.position(&first).next, 10);
        apply(&mut hooks, &reached("wh_1", &reach(1, 20)));
        assert_eq!(hooks.position(&first), reach(1, 20));
        apply(&mut hooks, &set(&second));
        assert_eq!(hooks.position(&second), reach(2, 5));
        // What was on its way then.
        apply(&mut hooks, &reached("wh_1", &reach(1, 30)));
        assert_eq!(hooks.position(&second).next, 5);
        assert_eq!(Hooks::load(&hooks.save()), Some(hooks.clone()));
        assert!(!format!("{hooks:?}").contains("whsec"));
        apply(&mut hooks, &removed("wh_1"));
        assert_eq!(hooks, Hooks::default());
    }

    // OPS-14
    #[test]
    fn an_event_that_is_not_known_is_no_state() {
        let mut hooks = Hooks::default();
        for (kind, data) in [("webhook.else", "{}"), (RULE, "{}"), (RULE, "x")] {
            let event = Event {
                sequence: Sequence::FIRST,
                at: Micros(0),
                topic: "sys.op.webhook.wh_1",
                kind,
                data: data.as_bytes(),
            };
            assert!(hooks.apply(&event).is_err(), "{kind} {data}");
        }
    }
}
