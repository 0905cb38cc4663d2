//! What is copied where (EDGE-19): the rules of one tenant, and which copies a message gets.
//!
//! Only what has been judged and handed to the log is copied, in the form in which it is stored; a
//! copy is made by the node and never comes past here, so that no copy is copied again, whatever
//! the rules say. Of a trace either all messages are copied by a rule or none. Must not know
//! sessions; `copier` appends the copies.

mod command;
mod copier;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

pub use self::command::COMMANDS;
pub use self::copier::Copier;
use crate::broker::journal::Event;
use crate::broker::{Filter, RealityName, name};
use crate::edge::shield::Fault;
use crate::proto::ErrorCode;
use crate::proto::v1::{MirrorRule, Verdict};
use crate::proto::view::EnvelopeView;

/// Where the rules are, in the tenant's reality `_system`.
const TOPIC_PREFIX: &str = "sys.edge.mirror.";
/// Stands for the topic of the original.
const TOPIC: &str = "{topic}";
/// Rules of a tenant, at most.
const RULES_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 64;
/// What a copy's verdict says besides that of its original.
const FLAG: &str = "mirrored";

/// A rule that has been checked.
#[derive(Debug)]
struct Rule {
    message: MirrorRule,
    topics: Filter,
    /// `None`: that of the original.
    reality: Option<RealityName>,
}

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct Mirrors {
    rules: BTreeMap<String, Arc<Rule>>,
}

/// A message that has been put into a batch.
#[derive(Debug)]
pub struct Original<'a> {
    /// Where it goes.
    pub topic: &'a str,
    /// In which reality.
    pub reality: &'a RealityName,
    /// The id that its record was given, if it has none itself.
    pub id: Option<Uuid>,
    /// What its producer sent.
    pub view: &'a EnvelopeView<'a>,
    /// What is stored of it.
    pub stored: &'a Bytes,
    /// The encoded verdict about it; empty if nothing judged.
    pub verdict: &'a [u8],
    /// What was in force.
    pub revision: u64,
}

/// A message to be stored once more.
#[derive(Clone, Debug)]
pub struct Copy {
    topic: String,
    reality: RealityName,
    id: Option<Uuid>,
    envelope: Bytes,
    verdict: Bytes,
}

impl Mirrors {
    /// Whether nothing is copied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Applies an event.
    ///
    /// # Errors
    /// Why it cannot be put in force.
    pub fn apply(&mut self, event: &Event<'_>) -> Result<(), Fault> {
        let rule = MirrorRule::decode(event.data).map_err(|error| {
            Fault::invalid("", format!("the event holds no mirroring rule: {error}"))
        })?;
        let name = check_name(&rule.name)?;
        if event.topic != format!("{TOPIC_PREFIX}{name}") {
            let text = format!("the rule {name} stands on another topic: {}", event.topic);
            return Err(Fault::invalid("arguments.name", text));
        }
        if rule.removed {
            self.rules.remove(&rule.name);
            return Ok(());
        }
        if !self.rules.contains_key(name) && self.rules.len() >= RULES_MAX {
            let text = format!("there are {RULES_MAX} mirroring rules, and may not be more");
            return Err(Fault::new(ErrorCode::TooLarge, "arguments.name", text));
        }
        let checked = Rule::check(rule)?;
        let name = checked.message.name.clone();
        self.rules.insert(name, Arc::new(checked));
        Ok(())
    }

    /// Adds the copies that a message gets.
    pub fn copy(&self, original: &Original<'_>, copies: &mut Vec<Copy>) {
        let mut verdict = None;
        let mut chance = None;
        for rule in self.rules.values() {
            if !rule.topics.matches(original.topic) {
                continue;
            }
            let chance = *chance.get_or_insert_with(|| percentile(&trace_of(original)));
            let reality = rule.reality.as_ref().unwrap_or(original.reality);
            let topic = rule.topic(original.topic);
            // Where the original stands already.
            let in_place = topic == original.topic && reality == original.reality;
            if chance >= u64::from(rule.message.percent) || in_place {
                continue;
            }
            copies.push(Copy {
                topic,
                reality: reality.clone(),
                id: original.id,
                envelope: original.stored.clone(),
                verdict: verdict.get_or_insert_with(|| mirrored(original)).clone(),
            });
        }
    }

    fn rules(&self) -> impl Iterator<Item = &MirrorRule> {
        self.rules.values().map(|rule| &rule.message)
    }
}

impl Rule {
    fn check(message: MirrorRule) -> Result<Self, Fault> {
        let topics = Filter::new(&message.topics);
        let topics =
            topics.map_err(|fault| Fault::invalid("arguments.topics", fault.to_string()))?;
        if !(1..=100).contains(&message.percent) {
            let text = format!("percent is {}, and must be 1 to 100", message.percent);
            return Err(Fault::invalid("arguments.percent", text));
        }
        let reality = match message.target_reality.as_str() {
            "" => None,
            name => {
                let name = RealityName::new(name);
                let field = "arguments.target_reality";
                let name = name.map_err(|fault| Fault::invalid(field, fault.to_string()))?;
                if name.is_system() || name.is_lab() {
                    let text = "the node's own realities take no copies";
                    return Err(Fault::new(ErrorCode::Forbidden, field, text));
                }
                Some(name)
            }
        };
        let field = "arguments.target_topic";
        if reality.is_none() && matches!(message.target_topic.as_str(), "" | TOPIC) {
            let text = "the copies would stand where their originals are: name another target_topic, such as copy.{topic}, or a target_reality";
            return Err(Fault::invalid(field, text));
        }
        let rule = Self {
            message,
            topics,
            reality,
        };
        // Any topic does to see whether what stands around it may.
        let sample = rule.topic("t");
        if let Err(fault) = name::check_topic(&sample) {
            let text = format!("{fault}; {{topic}} stands for the topic of the original");
            return Err(Fault::invalid(field, text));
        }
        if name::is_reserved_topic(&sample) {
            let text = "copies do not go to the system's own topics, nor to those of dead letters";
            return Err(Fault::new(ErrorCode::Forbidden, field, text));
        }
        Ok(rule)
    }

    fn topic(&self, original: &str) -> String {
        match self.message.target_topic.as_str() {
            "" => original.to_owned(),
            template => template.replace(TOPIC, original),
        }
    }
}

/// One token of a topic, so that the rule's own topic can be made of it.
fn check_name(name: &str) -> Result<&str, Fault> {
    let field = "arguments.name";
    if name.contains('.') || name.len() > NAME_BYTES_MAX {
        let text = format!("a rule's name has at most {NAME_BYTES_MAX} bytes and no `.`");
        return Err(Fault::invalid(field, text));
    }
    name::check_topic(name).map_err(|fault| Fault::invalid(field, fault.to_string()))?;
    Ok(name)
}

fn trace_of<'a>(original: &Original<'a>) -> Cow<'a, str> {
    original.view.trace().unwrap_or_else(|| {
        let id = original.id.unwrap_or_default();
        Cow::Owned(id.simple().to_string())
    })
}

/// Where a trace stands among a hundred: the first eight bytes of the SHA-256 of its id, as a
/// little-endian number, modulo 100. The same on every node and in every version, so that nodes
/// that pass a trace on copy the same ones; see docs/protocol.md.
fn percentile(trace_id: &str) -> u64 {
    let hash: [u8; 32] = Sha256::digest(trace_id.as_bytes()).into();
    let [a, b, c, d, e, f, g, h, ..] = hash;
    u64::from_le_bytes([a, b, c, d, e, f, g, h]) % 100
}

/// The verdict of a copy.
fn mirrored(original: &Original<'_>) -> Bytes {
    // What the judge has just encoded; where nothing judged, what was in force is known all the
    // same.
    let mut verdict = Verdict::decode(original.verdict).unwrap_or_default();
    verdict.policy_version = original.revision;
    verdict.flags.push(FLAG.to_owned());
    verdict.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Micros, Sequence};
    use crate::proto::v1::Envelope;

    fn apply(mirrors: &mut Mirrors, rule: &MirrorRule) -> Result<(), Fault> {
        mirrors.apply(&Event {
            sequence: Sequence::FIRST,
            at: Micros(0),
            topic: &format!("{TOPIC_PREFIX}{}", rule.name),
            kind: "",
            data: &rule.encode_to_vec(),
        })
    }

    fn rule(name: &str, percent: u32, topic: &str, reality: &str) -> MirrorRule {
        MirrorRule {
            name: name.into(),
            topics: "a.>".into(),
            percent,
            target_topic: topic.into(),
            target_reality: reality.into(),
            ..MirrorRule::default()
        }
    }

    fn copies(mirrors: &Mirrors, topic: &str, trace_id: &str) -> Vec<Copy> {
        let envelope = Envelope {
            trace_id: trace_id.into(),
            ..Envelope::default()
        };
        let stored = Bytes::from(envelope.encode_to_vec());
        let mut copies = Vec::new();
        let original = Original {
            topic,
            reality: &RealityName::main(),
            id: None,
            view: &EnvelopeView::parse(&stored).unwrap(),
            stored: &stored,
            verdict: &[],
            revision: 7,
        };
        mirrors.copy(&original, &mut copies);
        copies
    }

    // EDGE-19: fixed for good, as other nodes and versions decide by it too.
    #[test]
    fn the_decision_of_a_trace_never_changes() {
        for (trace, expected) in [
            ("4bf92f3577b34da6a3ce929d0e0e4736", 17),
            ("arq_1", 50),
            ("", 27),
        ] {
            assert_eq!(percentile(trace), expected, "{trace}");
        }
    }

    // EDGE-19
    #[test]
    fn a_rule_copies_its_share_of_traces_and_a_larger_share_holds_the_smaller() {
        let mut mirrors = Mirrors::default();
        apply(&mut mirrors, &rule("few", 10, "few.{topic}", "")).unwrap();
        apply(&mut mirrors, &rule("many", 60, "many.{topic}", "")).unwrap();
        let mut counts = [0, 0];
        for n in 0..2_000 {
            let topics: Vec<String> = copies(&mirrors, "a.b", &format!("trace-{n}"))
                .into_iter()
                .map(|copy| copy.topic)
                .collect();
            let few = topics.contains(&"few.a.b".to_owned());
            let many = topics.contains(&"many.a.b".to_owned());
            assert!(many || !few, "{topics:?}");
            counts[0] += usize::from(few);
            counts[1] += usize::from(many);
        }
        assert!((150..250).contains(&counts[0]), "{counts:?}");
        assert!((1_100..1_300).contains(&counts[1]), "{counts:?}");
        assert!(copies(&mirrors, "b", "trace-1").is_empty());
    }

    // EDGE-19
    #[test]
    fn a_copy_says_so_and_never_stands_in_place_of_its_original() {
        let mut mirrors = Mirrors::default();
        apply(&mut mirrors, &rule("here", 100, "", "main")).unwrap();
        assert!(
            copies(&mirrors, "a.b", "t").is_empty(),
            "it is there already"
        );
        apply(&mut mirrors, &rule("there", 100, "", "shadow")).unwrap();
        let copies = copies(&mirrors, "a.b", "t");
        assert_eq!(copies.len(), 1);
        assert_eq!(copies[0].topic, "a.b");
        let verdict = Verdict::decode(copies[0].verdict.clone()).unwrap();
        assert_eq!(verdict.flags, [FLAG]);
        assert_eq!(verdict.policy_version, 7);
    }

    // EDGE-19
    #[test]
    fn rules_that_cannot_be_kept_are_refused_by_field() {
        let mut mirrors = Mirrors::default();
        let mut field = |rule: MirrorRule| apply(&mut mirrors, &rule).unwrap_err().field;
        for (bad, named) in [
            (rule("a.b", 1, "x", ""), "arguments.name"),
            (rule("", 1, "x", ""), "arguments.name"),
            (rule("a", 0, "x", ""), "arguments.percent"),
            (rule("a", 101, "x", ""), "arguments.percent"),
            (rule("a", 1, "", ""), "arguments.target_topic"),
            (rule("a", 1, "{topic}", ""), "arguments.target_topic"),
            (rule("a", 1, "sys.{topic}", ""), "arguments.target_topic"),
            (rule("a", 1, "dlq.{topic}", ""), "arguments.target_topic"),
            (rule("a", 1, "x..{topic}", ""), "arguments.target_topic"),
            (rule("a", 1, "x.{other}", ""), "arguments.target_topic"),
            (rule("a", 1, "", "_system"), "arguments.target_reality"),
            (rule("a", 1, "", "No"), "arguments.target_reality"),
        ] {
            assert_eq!(field(bad.clone()), named, "{bad:?}");
        }
        let mut pattern = rule("a", 1, "x", "");
        pattern.topics = "a.>.b".into();
        assert_eq!(field(pattern), "arguments.topics");
        assert!(mirrors.is_empty());
    }
}
